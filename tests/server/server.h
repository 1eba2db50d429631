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
/* At a place of its own, as weir-memd's --listen has it. */
int server_start_at(const char *listen, const char *key_path, uint64_t bytes,
                    struct server *server_p);
/* The same at the other end of a net: see net.h. */
int server_start_beyond(const char *key_path, uint64_t bytes, struct server *server_p);
/* By SIGKILL. The key file stays. */
void server_end(const struct server *server);
/* What it does at other signals: SIGUSR1: asks for its memory back; SIGUSR2: no longer; SIGTERM:
 * asks, and ends when it has it. True: it has ended by itself, within so many seconds. */
bool server_has_ended(const struct server *server, unsigned seconds);
/* Another one with the key in that file, at this port (0: any). */
int server_again(const char *key_path, uint64_t bytes, uint16_t port, struct server *server_p);

/*
 * A process with one thread that has servers, and kills them and starts them again while whoever
 * started it has many threads. It ends with him.
 */
#define NURSE_SERVERS 4
struct nurse {
    pid_t process;
    int ask, answer; /* pipes */
    uint16_t port[NURSE_SERVERS];
};

/* As server_start(), for all of them. */
int nurse_start(const char *key_path, uint64_t bytes, struct nurse *nurse_p);
/* Dead when it returns; alive, and empty. False: that could not be done. */
bool nurse_kill(const struct nurse *nurse, unsigned number);
bool nurse_again(const struct nurse *nurse, unsigned number);
/* It stands still (SIGSTOP), and goes on. */
bool nurse_stop(const struct nurse *nurse, unsigned number);
bool nurse_go(const struct nurse *nurse, unsigned number);
void nurse_end(const struct nurse *nurse);
