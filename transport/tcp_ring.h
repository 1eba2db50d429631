/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Ring: the requests of a channel in the order in which they are served, and how long they wait.
 * What the channels of tcp and rdma have in common, whose lines are their own.
 *
 *   first     the oldest that is not done
 *   next      the one that is being asked for, or is to be asked for next
 *   end       where the next request goes
 *   ended     requests whose done() is still to run
 *
 * Always: first <= next <= end <= first + depth. When the line breaks, next falls back to first:
 * everything that is not done is asked for again on the next line.
 *
 * All but init and fini: the channel's thread.
 */

#include "transport/queue.h"
#include "transport/tcp.h"

struct wr_ring {
    struct weir_io **ios;
    uint32_t depth; /* constant */
    uint64_t first, next, end;
    uint64_t broken_ns; /* since when nothing moves; 0: it does  */
    uint64_t answer_ns; /* since when an answer is waited for    */
    struct wr_queue ended;
};

/* False: out of memory. It has no line yet. */
bool wr_ring_init(struct wr_ring *ring, uint32_t depth);
void wr_ring_fini(struct wr_ring *ring);

static inline struct weir_io *wr_ring_at(const struct wr_ring *ring, uint64_t number)
{
    return ring->ios[number % ring->depth];
}

/* As many requests as there is room for; how many. Those that are not sound have ended. */
uint32_t wr_ring_take(struct wr_ring *ring, struct weir_io *const *ios, uint32_t count,
                      uint64_t slots);
/* One is to be asked for. */
void wr_ring_asks(struct wr_ring *ring);
/* Something was answered. */
void wr_ring_hears(struct wr_ring *ring);
void wr_ring_end(struct wr_ring *ring, struct weir_io *io, int error, int os_error);
/* Call done() of at most max; how many. */
uint32_t wr_ring_finish(struct wr_ring *ring, uint32_t max);

/* The line has broken. is_midway: of next, a part was asked for. True: so was a write. */
bool wr_ring_falls_back(struct wr_ring *ring, bool is_midway);
/* Has the server been silent for too long? Of a ring that waits for an answer. */
bool wr_ring_is_silent(const struct wr_ring *ring, const struct wr_tcp *tcp);
/* Is what waits to be given up? */
bool wr_ring_is_hopeless(const struct wr_ring *ring, const struct wr_tcp *tcp);
/* All of them fail. After wr_ring_falls_back(). */
void wr_ring_fail(struct wr_ring *ring);
/* Writes are for whoever else can take them; reads wait. Likewise after that. Whatever of them was
 * asked for is done, or ended with its line, before anything later is: see wr_tcp.unsure. */
void wr_ring_put_off(struct wr_ring *ring);
