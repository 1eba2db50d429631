/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Arrivals: a queue of pages in the order in which they were mapped. Any thread appends, in a fault
 * too; kpaged takes, and kswapd.
 *
 * Always: no lock and no waiting on either side. What is in it is a hint: a page may have left
 * since, or be in it twice, and one that found no room is in no queue until somebody looks for it.
 * Either side may be stopped anywhere, for as long as the others need to go round the ring: that
 * costs a page its place, and never the queue.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct wr_arrivals {
    uint32_t room; /* power of two */
    /* The ring: page + 1, or 0 while it is being put. */
    _Atomic(uint32_t) *pages;
    _Atomic(uint64_t) end;
    _Atomic(uint64_t) begin;
};

/* Room for about so many. WEIR_ENOMEM. */
int wr_arrivals_open(struct wr_arrivals *arrivals, uint64_t room);
void wr_arrivals_close(struct wr_arrivals *arrivals);

/* Append count pages, from this one on in this direction. False: there is no room, or they came too
 * late to be found. Signal. */
bool wr_arrivals_put(struct wr_arrivals *arrivals, uint32_t page, uint32_t count, int direction);

/* The oldest. False: there is none, or whoever appends it has not come to it yet. */
bool wr_arrivals_take(struct wr_arrivals *arrivals, uint32_t *page_p);

static inline uint64_t wr_arrivals_count(const struct wr_arrivals *arrivals)
{
    /* Acquire: the end is read after the begin, so that it is not before it. */
    uint64_t begin = atomic_load_explicit(&arrivals->begin, memory_order_acquire);

    return atomic_load_explicit(&arrivals->end, memory_order_relaxed) - begin;
}
