/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Frames: the budget of local memory, counted in pages.
 *
 *   total     frames that may be in use at one time, beside the slab
 *   free      frames that nobody uses; may be taken
 *   min       kept from new pages, for those that only come back
 *   low       reclaim begins when free falls below it, readahead is refused
 *   high      reclaim ends when free reaches it
 *   boost     how much earlier it begins, and twice as much further it goes, because threads had
 *             to wait: memory is asked for faster than a write takes
 *   waiter    a thread that found nothing to take; served in the order of arrival
 *
 * Always: free + (resident pages) + (frames held by staging) == total, exactly, as soon as nobody
 * is between taking and using. A frame is taken before the kernel allocates it and put back after
 * the kernel freed it, so that the kernel never counts more of them than we do. A budget that
 * shrinks makes free negative until reclaim has caught up.
 *
 * Taking never fails because reclaim is slow (seed C19): it waits. It fails when reclaim says that
 * nothing can be freed any more, and when the runtime closes.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/stats.h"
#include "runtime/host/host.h"

/* What a frame is for decides how far down it may be taken. A page that is still cached must be
 * served even when nothing can be written any more; one that is read frees its slot when swap is
 * nearly full, so that it makes the room for another; a new page only adds to the need. */
enum wr_frame_use {
    WR_FRAME_FOR_RESTORE, /* down to 0            */
    WR_FRAME_FOR_READ,    /* down to half of min  */
    WR_FRAME_FOR_NEW      /* down to min          */
};

struct wr_frame_waiter;

struct wr_frames {
    /* Constant after wr_frames_init(). */
    struct wr_host *host;
    struct wr_stats *stats;
    void (*pressure)(
        void *context); /* free fell below low, or somebody waits; any thread, signal */
    void *pressure_context;

    /* Changed by wr_frames_resize() only; a stale value is as good as an earlier resize. */
    _Atomic(int64_t) total, min, low, high;

    /* Set by reclaim. */
    _Atomic(int64_t) boost;

    /* Any thread. */
    _Atomic(int64_t) free;
    _Atomic(uint32_t) waits;   /* how often anybody began to wait */
    _Atomic(uint32_t) waiting; /* waiters in the queue, and those about to join it */

    /* Kept by `door`, a spin lock taken with all signals blocked: a fault may hold it. */
    _Atomic(uint32_t) door;
    struct wr_frame_waiter *first;
    struct wr_frame_waiter **end;
};

struct wr_frame_marks {
    uint64_t min, low, high; /* pages; 0: computed from total (seed C5) */
};

void wr_frames_init(struct wr_frames *frames, struct wr_host *host, struct wr_stats *stats,
                    void (*pressure)(void *), void *context);

/* Set total and the marks. Any thread but a fault. */
void wr_frames_resize(struct wr_frames *frames, uint64_t total, const struct wr_frame_marks *marks);

/* Take one; waits as long as reclaim has hope. WEIR_EFULL, WEIR_EIO, WEIR_ENOMEM: what reclaim
 * failed with. WEIR_ESTOPPED: closing. Signal. */
int wr_frames_take(struct wr_frames *frames, enum wr_frame_use use);

/* Take up to count more for one who would soon come for them one by one: down to min, and none
 * while others wait. Never waits. How many. Signal. */
uint32_t wr_frames_take_spare(struct wr_frames *frames, uint32_t count);

/* The same down to a quarter of min, though others wait: for one whose work makes room for them. */
uint32_t wr_frames_take_reserve(struct wr_frames *frames, uint32_t count);

/* Say that there were too few to spare, by one who has something else to do meanwhile: reclaim goes
 * to work, and further the next time, as if he waited. */
void wr_frames_want(struct wr_frames *frames);

/* Take count whether there are so many or not: for a frame that the kernel has given already. */
void wr_frames_overdraw(struct wr_frames *frames, uint32_t count);

/* Give back; serves waiters first. Signal. */
void wr_frames_put(struct wr_frames *frames, uint32_t count);

/* Fail everybody who waits now. */
void wr_frames_refuse(struct wr_frames *frames, int error);

/* The most that the boost may be: 1/32 of total where all pages that leave must be written first,
 * 1/128 where all are only dropped, which takes no time: what is kept free is paid for in misses.
 * staged, dropped: how many left of late, and how. */
int64_t wr_frames_boost_most(int64_t total, uint64_t staged, uint64_t dropped);

/* The boost after a round of reclaim: grows at once when somebody had to wait in it, and goes
 * within some rounds. Arithmetic. (After the boost of Linux's watermarks.) */
int64_t wr_frames_next_boost(int64_t boost, bool has_waited, int64_t most);

/* Is somebody waiting? */
bool wr_frames_is_wanted(const struct wr_frames *frames);

static inline uint64_t wr_frames_total(const struct wr_frames *frames)
{
    /* Relaxed: a stale value is as good as an earlier resize. Never negative: see resize. */
    return (uint64_t)atomic_load_explicit(&frames->total, memory_order_relaxed);
}

static inline int64_t wr_frames_free(const struct wr_frames *frames)
{
    /* Relaxed: a watermark, never a promise. */
    return atomic_load_explicit(&frames->free, memory_order_relaxed);
}

/* Where reclaim ends: high, and what it is boosted by. */
static inline int64_t wr_frames_goal(const struct wr_frames *frames)
{
    return atomic_load_explicit(&frames->high, memory_order_relaxed) +
           2 * atomic_load_explicit(&frames->boost, memory_order_relaxed);
}

static inline bool wr_frames_is_low(const struct wr_frames *frames)
{
    return wr_frames_free(frames) < atomic_load_explicit(&frames->low, memory_order_relaxed);
}
