/* SPDX-License-Identifier: MIT */
#include "runtime/memory/frame.h"

#include "runtime/base/lock.h"

#define MIN_FLOOR    64 /* pages: below this a mark would be a matter of luck */
#define DOOR_LOOK_NS 50000
#define SPINS_MAX    64
#define PER_MILLE    1000

#define BOOST_FIRST 256 /* pages: half a cluster */
#define BOOST_LEAST 128 /* of total: the most that it may be where nothing is written, ... */
#define BOOST_MOST  32  /* and where all is                                                */
#define BOOST_DECAY 8

enum { STATE_WAITING, STATE_GRANTED, STATE_REFUSED };

/* On the stack of the thread that waits. */
struct wr_frame_waiter {
    _Atomic(uint32_t) state; /* the word it sleeps on */
    int error;
    enum wr_frame_use use;
    struct wr_frame_waiter *next;
};

void wr_frames_init(struct wr_frames *frames, struct wr_host *host, struct wr_stats *stats,
                    void (*pressure)(void *), void *context)
{
    *frames = (struct wr_frames){
        .host = host,
        .stats = stats,
        .pressure = pressure,
        .pressure_context = context,
    };
    frames->end = &frames->first;
}

static int64_t mark(uint64_t asked, uint64_t total, uint64_t half_percents)
{
    uint64_t computed = total * 5 * half_percents / PER_MILLE;
    uint64_t floor = MIN_FLOOR * half_percents;

    if (asked)
        return (int64_t)asked;
    return (int64_t)(computed > floor ? computed : floor);
}

void wr_frames_resize(struct wr_frames *frames, uint64_t total, const struct wr_frame_marks *marks)
{
    int64_t before = atomic_load(&frames->total);

    atomic_store(&frames->min, mark(marks->min, total, 1));
    atomic_store(&frames->low, mark(marks->low, total, 2));
    atomic_store(&frames->high, mark(marks->high, total, 3));
    atomic_store(&frames->total, (int64_t)total);
    atomic_fetch_add(&frames->free, (int64_t)total - before);
    wr_frames_put(frames, 0);
    if (wr_frames_free(frames) < atomic_load(&frames->low))
        frames->pressure(frames->pressure_context);
}

static int64_t floor_of(const struct wr_frames *frames, enum wr_frame_use use)
{
    int64_t min = atomic_load_explicit(&frames->min, memory_order_relaxed);

    switch (use) {
    case WR_FRAME_FOR_RESTORE: return 0;
    case WR_FRAME_FOR_READ: return min / 2;
    case WR_FRAME_FOR_NEW: return min;
    }
    return min;
}

/* Take count if that leaves at least floor; what is left, or -1. */
static int64_t take_above(struct wr_frames *frames, int64_t floor, int64_t count)
{
    int64_t seen = atomic_load_explicit(&frames->free, memory_order_relaxed);

    while (seen - count >= floor)
        if (atomic_compare_exchange_weak(&frames->free, &seen, seen - count))
            return seen - count;
    return -1;
}

static void warn(struct wr_frames *frames, int64_t left)
{
    if (left < atomic_load_explicit(&frames->low, memory_order_relaxed) +
                   atomic_load_explicit(&frames->boost, memory_order_relaxed))
        frames->pressure(frames->pressure_context);
}

/* Acquire: pairs with the release of door_drop(). */
static bool door_try(struct wr_frames *frames)
{
    return atomic_exchange_explicit(&frames->door, 1, memory_order_acquire) == 0;
}

/* It is held for a few instructions, but its holder may have been stopped in them; and a thread of
 * real-time priority would yield to him for ever. */
static void door_wait(struct wr_frames *frames)
{
    static const uint32_t nothing;
    struct wr_host *host = frames->host;
    uint64_t begun = host->ops->now_ns(host);

    host->ops->yield(host);
    while (!door_try(frames)) {
        host->ops->park(host, &nothing, 0, host->ops->now_ns(host) + DOOR_LOOK_NS);
        wr_lock_point();
    }
    wr_stats_time(frames->stats, WR_TIME_page_lock, host->ops->now_ns(host) - begun);
}

static void door_take(struct wr_frames *frames)
{
    for (int spins = 0; spins < SPINS_MAX; spins++) {
        if (door_try(frames))
            return;
        wr_lock_relax();
        wr_lock_point();
    }
    door_wait(frames);
}

static void door_drop(struct wr_frames *frames)
{
    atomic_store_explicit(&frames->door, 0, memory_order_release);
}

static void answer(struct wr_frames *frames, struct wr_frame_waiter *waiter, uint32_t state)
{
    atomic_fetch_sub(&frames->waiting, 1);
    /* Release: the error is in place. After this the waiter may be gone: only its address is
     * used, and a wake-up of nobody is harmless. */
    atomic_store_explicit(&waiter->state, state, memory_order_release);
    frames->host->ops->unpark(frames->host, &waiter->state, 1);
}

/* Serve whom the free frames suffice for, in order of arrival. Under the door. */
static void serve(struct wr_frames *frames)
{
    struct wr_frame_waiter **link = &frames->first;

    while (*link) {
        struct wr_frame_waiter *waiter = *link;

        if (take_above(frames, floor_of(frames, waiter->use), 1) < 0) {
            link = &waiter->next;
            continue;
        }
        *link = waiter->next;
        if (!*link)
            frames->end = link;
        answer(frames, waiter, STATE_GRANTED);
    }
}

static int wait_for_frame(struct wr_frames *frames, enum wr_frame_use use)
{
    struct wr_frame_waiter waiter = {.use = use};
    uint64_t begun = frames->host->ops->now_ns(frames->host);

    wr_stats_count(frames->stats, WR_COUNT_frame_waits);
    atomic_fetch_add_explicit(&frames->waits, 1, memory_order_relaxed);
    /* Sequentially consistent, before the look at `free` in serve(): whoever puts a frame either
     * sees us waiting, or we see his frame. */
    atomic_fetch_add(&frames->waiting, 1);
    door_take(frames);
    *frames->end = &waiter;
    frames->end = &waiter.next;
    serve(frames);
    door_drop(frames);
    frames->pressure(frames->pressure_context);
    while (atomic_load_explicit(&waiter.state, memory_order_acquire) == STATE_WAITING)
        frames->host->ops->park(frames->host, &waiter.state, STATE_WAITING, WR_FOREVER);
    wr_stats_time(frames->stats, WR_TIME_frame, frames->host->ops->now_ns(frames->host) - begun);
    return atomic_load(&waiter.state) == STATE_GRANTED ? WEIR_OK : waiter.error;
}

int wr_frames_take(struct wr_frames *frames, enum wr_frame_use use)
{
    int64_t left = -1;

    /* Nobody overtakes the queue, or it would starve. */
    if (atomic_load_explicit(&frames->waiting, memory_order_relaxed) == 0)
        left = take_above(frames, floor_of(frames, use), 1);
    if (left < 0)
        return wait_for_frame(frames, use);
    warn(frames, left);
    return WEIR_OK;
}

static uint32_t take_up_to(struct wr_frames *frames, int64_t floor, uint32_t count)
{
    int64_t spare = wr_frames_free(frames) - floor;
    int64_t left;

    if (spare < (int64_t)count)
        count = spare > 0 ? (uint32_t)spare : 0;
    left = count > 0 ? take_above(frames, floor, count) : -1;
    if (left < 0)
        return 0;
    warn(frames, left);
    return count;
}

uint32_t wr_frames_take_spare(struct wr_frames *frames, uint32_t count)
{
    if (atomic_load_explicit(&frames->waiting, memory_order_relaxed) > 0)
        return 0;
    return take_up_to(frames, floor_of(frames, WR_FRAME_FOR_NEW), count);
}

uint32_t wr_frames_take_reserve(struct wr_frames *frames, uint32_t count)
{
    return take_up_to(frames, floor_of(frames, WR_FRAME_FOR_NEW) / 4, count);
}

void wr_frames_want(struct wr_frames *frames)
{
    atomic_fetch_add_explicit(&frames->waits, 1, memory_order_relaxed);
    frames->pressure(frames->pressure_context);
}

void wr_frames_overdraw(struct wr_frames *frames, uint32_t count)
{
    warn(frames, atomic_fetch_sub(&frames->free, count) - count);
}

void wr_frames_put(struct wr_frames *frames, uint32_t count)
{
    /* Sequentially consistent: pairs with the add to `waiting` in wait_for_frame(). */
    atomic_fetch_add(&frames->free, count);
    if (atomic_load(&frames->waiting) == 0)
        return;
    door_take(frames);
    serve(frames);
    door_drop(frames);
}

void wr_frames_refuse(struct wr_frames *frames, int error)
{
    door_take(frames);
    while (frames->first) {
        struct wr_frame_waiter *waiter = frames->first;

        frames->first = waiter->next;
        if (!frames->first)
            frames->end = &frames->first;
        waiter->error = error;
        wr_stats_count(frames->stats, WR_COUNT_frame_failures);
        answer(frames, waiter, STATE_REFUSED);
    }
    door_drop(frames);
}

int64_t wr_frames_boost_most(int64_t total, uint64_t staged, uint64_t dropped)
{
    int64_t least = total / BOOST_LEAST, more = total / BOOST_MOST - least;

    if (dropped == 0)
        return least + more;
    return least + (int64_t)((double)more * (double)staged / (double)(staged + dropped));
}

int64_t wr_frames_next_boost(int64_t boost, bool has_waited, int64_t most)
{
    if (has_waited)
        boost = boost > BOOST_FIRST ? 2 * boost : 2 * BOOST_FIRST;
    else
        boost -= (boost + BOOST_DECAY - 1) / BOOST_DECAY;
    return boost < most ? boost : most > 0 ? most : 0;
}

bool wr_frames_is_wanted(const struct wr_frames *frames)
{
    return atomic_load_explicit(&frames->waiting, memory_order_relaxed) > 0;
}
