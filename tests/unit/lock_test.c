/* SPDX-License-Identifier: MIT */

/* Locks: only upward, never two of one rank, and none while waiting for a disk. */

#include "runtime/base/lock.h"

#include <criterion/criterion.h>

#include "tests/unit/room_kit.h"

#define RANKS (WR_RANK_CACHE + 1)

static struct wr_lock locks[RANKS][2];

static void open_locks(void)
{
    for (int rank = 0; rank < RANKS; rank++)
        for (int i = 0; i < 2; i++)
            wr_lock_init(&locks[rank][i], (enum wr_lock_rank)rank);
}

struct pair {
    struct wr_lock *first, *second;
};

static void take_both(void *context)
{
    struct pair *pair = context;

    wr_lock_take(pair->first);
    wr_lock_take(pair->second);
    wr_lock_drop(pair->second);
    wr_lock_drop(pair->first);
    wr_lock_assert_none();
}

Test(lock, every_pair_out_of_order_dies)
{
    open_locks();
    for (int first = 0; first < RANKS; first++)
        for (int second = 0; second < RANKS; second++) {
            struct pair pair = {&locks[first][0], &locks[second][1]};

            cr_expect_eq(room_dies(take_both, &pair), second <= first, "%d, %d", first, second);
        }
}

static void take_all_but_the_lowest(void *context)
{
    (void)context;
    for (int rank = 1; rank < RANKS; rank++)
        wr_lock_take(&locks[rank][0]);
    /* Though the highest was dropped, another that is held is above it. */
    wr_lock_drop(&locks[RANKS - 1][0]);
    wr_lock_take(&locks[0][0]);
}

Test(lock, all_upward_is_right)
{
    open_locks();
    for (int rank = 0; rank < RANKS; rank++)
        wr_lock_take(&locks[rank][0]);
    for (int rank = 0; rank < RANKS; rank++) /* in any order */
        wr_lock_drop(&locks[rank][0]);
    wr_lock_assert_none();
    wr_lock_take(&locks[0][0]);
    wr_lock_drop(&locks[0][0]);
    cr_expect(room_dies(take_all_but_the_lowest, NULL));
    for (int rank = 0; rank < RANKS; rank++)
        for (int i = 0; i < 2; i++)
            wr_lock_fini(&locks[rank][i]);
}

static void wait_for_a_disk(void *context)
{
    if (context)
        wr_lock_take(context);
    wr_lock_assert_none();
}

Test(lock, none_is_held_while_waiting)
{
    open_locks();
    cr_expect_not(room_dies(wait_for_a_disk, NULL));
    for (int rank = 0; rank < RANKS; rank++)
        cr_expect(room_dies(wait_for_a_disk, &locks[rank][0]), "%d", rank);
}

static void *take_lowest(void *argument)
{
    wr_lock_take(argument);
    wr_lock_drop(argument);
    return NULL;
}

Test(lock, ranks_belong_to_a_thread)
{
    pthread_t thread;

    open_locks();
    wr_lock_take(&locks[RANKS - 1][0]);
    cr_assert_eq(pthread_create(&thread, NULL, take_lowest, &locks[0][0]), 0);
    pthread_join(thread, NULL); /* which holds nothing, so that it may */
    wr_lock_drop(&locks[RANKS - 1][0]);
}
