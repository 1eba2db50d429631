/* SPDX-License-Identifier: MIT */
#include "runtime/base/lock.h"

#include <stdint.h>

#include "runtime/base/check.h"

#ifdef WR_TESTING
void (*wr_lock_point_fn)(void);
#endif

static _Thread_local uint32_t ranks_held;

void wr_lock_init(struct wr_lock *lock, enum wr_lock_rank rank)
{
    WR_CHECK(pthread_mutex_init(&lock->mutex, NULL) == 0);
    lock->rank = rank;
}

void wr_lock_fini(struct wr_lock *lock)
{
    WR_CHECK(pthread_mutex_destroy(&lock->mutex) == 0);
}

void wr_lock_take(struct wr_lock *lock)
{
    WR_CHECK((ranks_held >> lock->rank) == 0);
    wr_lock_point();
    pthread_mutex_lock(&lock->mutex);
    ranks_held |= 1u << lock->rank;
}

void wr_lock_drop(struct wr_lock *lock)
{
    ranks_held &= ~(1u << lock->rank);
    pthread_mutex_unlock(&lock->mutex);
}

void wr_lock_assert_none(void)
{
    WR_CHECK(ranks_held == 0);
}
