/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Readahead: what a thread will touch next, by what it touched last.
 *
 *   stream    a thread's walk through neighbouring pages of a region, up or down
 *   edge      the first page of the walk that is not mapped yet: where its next touch traps
 *   window    pages asked for by one request; doubles with every hit, halves with every miss
 *   around    pages that one touch of a stream maps at once
 *
 * Pages are read into the cache and not mapped: a thread that changes its mind has cost nothing
 * but the read, and the trap at the edge is the proof that the stream goes on, which no accessed
 * bit could give. Windows after Linux's readahead of swapped areas; the thread that reads is one
 * of the runtime, so that the one that faults waits for nothing but its own page.
 *
 * Always: readahead takes no frame of the budget (the cache is of the slab), is refused while free
 * memory is below low (seed C23), and is dropped before it delays anybody.
 */

#include "runtime/memory/space.h"

struct wr_ahead;

enum wr_step {
    WR_STEP_FIRST,  /* the page was never written                        */
    WR_STEP_MISS,   /* it must be read                                   */
    WR_STEP_HIT,    /* it is in the cache because readahead brought it   */
    WR_STEP_LATE,   /* the same, but the thread had to wait for it       */
    WR_STEP_CACHED, /* it is in the cache for another reason             */
    WR_STEP_VIEW,   /* it is in memory, but this view lacks it           */
    WR_STEP_STORE   /* it is mapped, and written for the first time      */
};

struct wr_plan {
    uint32_t around; /* pages to map, this one included; at least 1   */
    int direction;   /* 1 or -1: where the others lie                 */
    bool stores;     /* the stream writes what it walks over          */
    void *stream;    /* NULL: none                                    */
};

int wr_ahead_open(struct wr_space *space, struct wr_ahead **ahead_p);
/* Stops the thread; what it reads is finished first. */
void wr_ahead_close(struct wr_ahead *ahead);

/* Have the thread look at what has changed among the back ends. */
void wr_ahead_rouse(struct wr_ahead *ahead);

/* The calling thread is about to resolve a touch. May ask for pages to be read. Signal. */
struct wr_plan wr_ahead_note(struct wr_ahead *ahead, const struct wr_region *region, uint32_t page,
                             enum wr_step step, bool is_store);
/* It has mapped so many pages of the plan. Signal. */
void wr_ahead_mapped(struct wr_ahead *ahead, const struct wr_plan *plan, uint32_t page,
                     uint32_t count);

/* Ask for a range to be read and, as far as frames are spare, mapped. False: too many requests
 * wait already. Any thread, inside the gate. */
bool wr_ahead_want(struct wr_ahead *ahead, const struct wr_region *region, uint32_t page,
                   uint32_t count);
