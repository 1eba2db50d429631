/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A memory server for fuzzing its clients: the other end of a line, with a session of its own, and
 * no intention to be of use.
 *
 *   line     a socket pair; who has the client's end has proven himself already
 *   answer   the right one, or one with something wrong in it, properly sealed in any case
 *
 * Always: it knows what of all that it said a client may believe: the right answers, up to the
 * first that was wrong. Pages are stamped in those, and poison in all others.
 */

#include <stdbool.h>

#include "tests/fuzz/fuzz.h"
#include "transport/tcp.h"

#define SERVER_EPOCH  99u
#define SERVER_POISON 0xeeu
#define SERVER_OUT    ((size_t)1 << 20)

enum server_truth {
    SERVER_RIGHT,   /* what was asked for                    */
    SERVER_REFUSES, /* a sound refusal                       */
    SERVER_WRONG    /* who believes this is to be found here */
};

struct server {
    int fd; /* -1: it has hung up */
    struct wr_session session;
    bool is_wrong; /* since it said something that is */
    bool is_cut;   /* it has broken off, and says nothing more on this line */
    uint8_t out[SERVER_OUT];
    size_t out_from, out_to;
};

void server_forget(struct server *server);

/* A line between the two; what it was before is gone. */
void server_connect(struct server *server, struct wr_line *line);
void server_hang_up(struct server *server);

/* What page `slot` has, after `story`. */
uint8_t server_stamp(uint64_t slot, uint64_t story);

/* Say `right`, or what becomes of it by the bytes; what is said in *said_p. `payload` (of right
 * length, not for pages) may be NULL. */
enum server_truth server_answer(struct server *server, struct fuzz_bytes *bytes,
                                struct wr_message right, const void *payload, uint64_t story,
                                struct wr_message *said_p);
void server_say_raw(struct server *server, struct fuzz_bytes *bytes);
/* Send at most so much of what was said. */
void server_send(struct server *server, size_t most);
