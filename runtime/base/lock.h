/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Lock: a mutex that knows its place.
 *
 *   rank    the order in which locks may be taken: only upward, never two of one rank
 *
 * Always: a thread holds locks of strictly rising rank. Taking one out of order aborts, so that a
 * deadlock is found by the first test that could have deadlocked and not by the user who does.
 * Ranked locks are for runtime threads and for API calls; a fault takes none (it has page locks,
 * see page.h), because it may have interrupted their holder.
 */

#include <pthread.h>

enum wr_lock_rank {
    WR_RANK_BACKENDS, /* add and drain back ends                            */
    WR_RANK_RUNTIME,  /* map and unmap regions, budget                      */
    WR_RANK_SWEEP,    /* ranges that are to leave first                     */
    WR_RANK_STAGING,  /* extents of pages on their way out                  */
    WR_RANK_CACHE     /* the order of the slab's chunks                     */
};

struct wr_lock {
    pthread_mutex_t mutex;
    enum wr_lock_rank rank;
};

void wr_lock_init(struct wr_lock *lock, enum wr_lock_rank rank);
void wr_lock_fini(struct wr_lock *lock);
void wr_lock_take(struct wr_lock *lock);
void wr_lock_drop(struct wr_lock *lock);

/* Tell the processor that this is a loop which waits. */
static inline void wr_lock_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Call before anything that can wait for a disk or a peer. */
void wr_lock_assert_none(void);

/*
 * A point at which another thread may run. Nothing in the library; the simulator, which lets one
 * thread run at a time, switches here. Set once before threads exist.
 */
#ifdef WR_TESTING
extern void (*wr_lock_point_fn)(void);
static inline void wr_lock_point(void)
{
    if (wr_lock_point_fn)
        wr_lock_point_fn();
}
#else
static inline void wr_lock_point(void)
{
}
#endif
