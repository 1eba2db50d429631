/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A memory server in a process of its own, on this machine, for tests and benchmarks. It ends with
 * whoever started it, at the latest.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct server {
    pid_t process;
    uint16_t port;
};

/* Make a key in a new file of that name, and start a server that has it and lends so many bytes.
 * The caller has one thread. 0, or an errno; nothing runs then. */
int server_start(const char *key_path, uint64_t bytes, struct server *server_p);
/* By SIGKILL. The key file stays. */
void server_end(const struct server *server);
/* What it does at other signals: SIGUSR1: asks for its memory back; SIGUSR2: no longer; SIGTERM:
 * asks, and ends when it has it. True: it has ended by itself, within so many seconds. */
bool server_has_ended(const struct server *server, unsigned seconds);
