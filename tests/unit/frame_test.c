/* SPDX-License-Identifier: MIT */

/* Frames: floors, the queue, watermarks, and the equation. */

#include "runtime/memory/frame.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>

#include "tests/unit/room_kit.h"

#define MIN  20
#define LOW  30
#define HIGH 40

static struct wr_frames frames;

static void press(void *context)
{
    (void)context;
    room_pressure++;
}

static void open_frames(uint64_t total)
{
    const struct wr_frame_marks marks = {MIN, LOW, HIGH};

    room_host_open(1, 1);
    wr_frames_init(&frames, &room_host.host, &room_stats, press, NULL);
    wr_frames_resize(&frames, total, &marks);
    room_pressure = 0;
}

/* Take as long as that needs no waiting. */
static void take_down_to(int64_t free)
{
    while (wr_frames_free(&frames) > free)
        cr_assert_eq(wr_frames_take(&frames, WR_FRAME_FOR_RESTORE), WEIR_OK);
}

/* --- Watermarks ------------------------------------------------------------------------------ */

static void resize_by_default(uint64_t total)
{
    wr_frames_resize(&frames, total, &(struct wr_frame_marks){0});
}

Test(frame, marks_are_shares_of_the_total)
{
    open_frames(100);
    resize_by_default(1000000);
    cr_expect_eq(frames.min, 5000);
    cr_expect_eq(frames.low, 10000);
    cr_expect_eq(frames.high, 15000);
    resize_by_default(1000);
    cr_expect_eq(frames.min, 64, "never below what would be a matter of luck");
    cr_expect_eq(frames.low, 128);
    cr_expect_eq(frames.high, 192);
    wr_frames_resize(&frames, 1000000, &(struct wr_frame_marks){7, 0, 9});
    cr_expect_eq(frames.min, 7);
    cr_expect_eq(frames.low, 10000);
    cr_expect_eq(frames.high, 9);
}

Test(frame, reclaim_is_asked_for_below_low_and_not_above)
{
    open_frames(100);
    take_down_to(LOW);
    cr_expect_eq(room_pressure, 0);
    cr_expect_eq(wr_frames_take(&frames, WR_FRAME_FOR_NEW), WEIR_OK);
    cr_expect_eq(room_pressure, 1);
    wr_frames_put(&frames, 20);
    cr_expect_eq(room_pressure, 1);
}

/* --- Floors ---------------------------------------------------------------------------------- */

struct taker {
    pthread_t thread;
    enum wr_frame_use use;
    int error;
    _Atomic(bool) is_done;
};

static void *take_one(void *argument)
{
    struct taker *taker = argument;

    taker->error = wr_frames_take(&frames, taker->use);
    taker->is_done = true;
    return NULL;
}

/* Begin a take in another thread; it waits in the queue. */
static void begin_waiting(struct taker *taker, enum wr_frame_use use)
{
    uint32_t parks = room_host.parks;

    *taker = (struct taker){.use = use};
    cr_assert_eq(pthread_create(&taker->thread, NULL, take_one, taker), 0);
    ROOM_AWAIT(room_host.parks > parks);
    room_sleep_us(ROOM_NOT_YET_US);
    cr_assert_not(taker->is_done);
}

static void end_waiting(struct taker *taker, int error)
{
    pthread_join(taker->thread, NULL);
    cr_expect_eq(taker->error, error);
}

static void expect_floor(enum wr_frame_use use, int64_t floor)
{
    struct taker taker;

    open_frames(100);
    take_down_to(floor + 1);
    cr_assert_eq(wr_frames_take(&frames, use), WEIR_OK);
    cr_expect_eq(wr_frames_free(&frames), floor);
    cr_expect_not(wr_frames_is_wanted(&frames));
    begin_waiting(&taker, use);
    cr_expect(wr_frames_is_wanted(&frames));
    cr_expect_eq(wr_frames_free(&frames), floor);
    wr_frames_put(&frames, 1);
    end_waiting(&taker, WEIR_OK);
    cr_expect_eq(wr_frames_free(&frames), floor);
    cr_expect_not(wr_frames_is_wanted(&frames));
}

Test(frame, a_new_page_leaves_min)
{
    expect_floor(WR_FRAME_FOR_NEW, MIN);
}

Test(frame, a_read_leaves_half_of_min)
{
    expect_floor(WR_FRAME_FOR_READ, MIN / 2);
}

Test(frame, a_restore_takes_the_last)
{
    expect_floor(WR_FRAME_FOR_RESTORE, 0);
}

/* --- The queue ------------------------------------------------------------------------------- */

Test(frame, waiters_are_served_in_order)
{
    struct taker takers[4];

    open_frames(100);
    take_down_to(MIN);
    for (int i = 0; i < 4; i++)
        begin_waiting(&takers[i], WR_FRAME_FOR_NEW);
    for (int i = 0; i < 4; i++) {
        wr_frames_put(&frames, 1);
        ROOM_AWAIT(takers[i].is_done);
        room_sleep_us(ROOM_NOT_YET_US / 4);
        for (int k = i + 1; k < 4; k++)
            cr_expect_not(takers[k].is_done, "%d before %d", k, i);
        end_waiting(&takers[i], WEIR_OK);
    }
    cr_expect_eq(wr_frames_free(&frames), MIN);
    cr_expect_eq(wr_stats_sum(&room_stats, WR_COUNT_frame_waits), 4);
}

Test(frame, one_put_serves_as_many_as_it_suffices_for)
{
    struct taker takers[4];

    open_frames(100);
    take_down_to(MIN);
    for (int i = 0; i < 4; i++)
        begin_waiting(&takers[i], WR_FRAME_FOR_NEW);
    wr_frames_put(&frames, 3);
    for (int i = 0; i < 3; i++)
        end_waiting(&takers[i], WEIR_OK);
    room_sleep_us(ROOM_NOT_YET_US);
    cr_expect_not(takers[3].is_done);
    wr_frames_put(&frames, 2);
    end_waiting(&takers[3], WEIR_OK);
    cr_expect_eq(wr_frames_free(&frames), MIN + 1);
}

/* A restore goes on while new pages wait; it passes them, but takes nothing they could have. */
Test(frame, who_may_go_lower_is_served_while_others_wait)
{
    struct taker waits;

    open_frames(100);
    take_down_to(MIN);
    begin_waiting(&waits, WR_FRAME_FOR_NEW);
    cr_expect_eq(wr_frames_take(&frames, WR_FRAME_FOR_RESTORE), WEIR_OK);
    cr_expect_eq(wr_frames_take(&frames, WR_FRAME_FOR_READ), WEIR_OK);
    cr_expect_eq(wr_frames_free(&frames), MIN - 2);
    wr_frames_put(&frames, 2);
    room_sleep_us(ROOM_NOT_YET_US);
    cr_expect_not(waits.is_done);
    wr_frames_put(&frames, 1);
    end_waiting(&waits, WEIR_OK);
}

Test(frame, nobody_overtakes_the_queue)
{
    struct taker first, second, third;

    open_frames(100);
    take_down_to(MIN);
    begin_waiting(&first, WR_FRAME_FOR_NEW);
    begin_waiting(&second, WR_FRAME_FOR_NEW);
    wr_frames_put(&frames, 1);
    end_waiting(&first, WEIR_OK);
    /* A frame comes, and before anybody is told, another thread wants one. */
    atomic_fetch_add(&frames.free, 1);
    begin_waiting(&third, WR_FRAME_FOR_NEW);
    end_waiting(&second, WEIR_OK);
    wr_frames_put(&frames, 1);
    end_waiting(&third, WEIR_OK);
    cr_expect_eq(wr_frames_free(&frames), MIN);
}

Test(frame, a_wait_asks_for_reclaim)
{
    struct taker waits;

    open_frames(100);
    take_down_to(MIN);
    room_pressure = 0;
    begin_waiting(&waits, WR_FRAME_FOR_NEW);
    cr_expect_geq(room_pressure, 1);
    wr_frames_put(&frames, 1);
    end_waiting(&waits, WEIR_OK);
}

Test(frame, all_who_wait_are_refused)
{
    struct taker takers[3], later;

    open_frames(100);
    take_down_to(MIN);
    for (int i = 0; i < 3; i++)
        begin_waiting(&takers[i], WR_FRAME_FOR_NEW);
    wr_frames_refuse(&frames, WEIR_EFULL);
    for (int i = 0; i < 3; i++)
        end_waiting(&takers[i], WEIR_EFULL);
    cr_expect_not(wr_frames_is_wanted(&frames));
    cr_expect_eq(wr_stats_sum(&room_stats, WR_COUNT_frame_failures), 3);
    cr_expect_eq(wr_frames_free(&frames), MIN);
    /* Only those: the next one has hope again. */
    begin_waiting(&later, WR_FRAME_FOR_NEW);
    wr_frames_put(&frames, 1);
    end_waiting(&later, WEIR_OK);
    wr_frames_refuse(&frames, WEIR_EIO); /* nobody: harmless */
    begin_waiting(&later, WR_FRAME_FOR_NEW);
    wr_frames_refuse(&frames, WEIR_EIO);
    end_waiting(&later, WEIR_EIO);
}

/* --- Beside the queue ------------------------------------------------------------------------ */

Test(frame, spare_frames_are_those_above_min)
{
    open_frames(100);
    cr_expect_eq(wr_frames_take_spare(&frames, 32), 32);
    cr_expect_eq(wr_frames_free(&frames), 68);
    cr_expect_eq(wr_frames_take_spare(&frames, 0), 0);
    cr_expect_eq(room_pressure, 0);
    cr_expect_eq(wr_frames_take_spare(&frames, 60), 48, "as many as there are");
    cr_expect_eq(wr_frames_free(&frames), MIN);
    cr_expect_eq(room_pressure, 1, "as for any taking below low");
    cr_expect_eq(wr_frames_take_spare(&frames, 1), 0);
    take_down_to(MIN - 5);
    cr_expect_eq(wr_frames_take_spare(&frames, 1), 0);
    cr_expect_eq(wr_frames_free(&frames), MIN - 5);
}

Test(frame, nothing_is_spare_while_others_wait)
{
    struct taker waits;

    open_frames(100);
    take_down_to(MIN);
    begin_waiting(&waits, WR_FRAME_FOR_NEW);
    /* Frames come, but nobody has been told of them yet. */
    atomic_fetch_add(&frames.free, 50);
    cr_expect_eq(wr_frames_take_spare(&frames, 10), 0);
    wr_frames_put(&frames, 0);
    end_waiting(&waits, WEIR_OK);
    cr_expect_eq(wr_frames_take_spare(&frames, 10), 10);
}

Test(frame, who_wants_some_is_as_one_who_waits)
{
    open_frames(100);
    wr_frames_want(&frames);
    cr_expect_eq(room_pressure, 1);
    cr_expect_eq(frames.waits, 1, "so that there are more next time");
    cr_expect_not(wr_frames_is_wanted(&frames), "nobody sleeps");
    cr_expect_eq(wr_frames_free(&frames), 100);
}

Test(frame, an_overdraft_is_counted)
{
    open_frames(100);
    wr_frames_overdraw(&frames, 70);
    cr_expect_eq(wr_frames_free(&frames), 30);
    cr_expect_eq(room_pressure, 0);
    wr_frames_overdraw(&frames, 35);
    cr_expect_eq(wr_frames_free(&frames), -5);
    cr_expect_eq(room_pressure, 1);
    wr_frames_put(&frames, 105);
    cr_expect_eq(wr_frames_free(&frames), 100);
}

Test(frame, a_budget_that_grows_serves_who_waits)
{
    const struct wr_frame_marks marks = {MIN, LOW, HIGH};
    struct taker waits;

    open_frames(100);
    take_down_to(MIN);
    begin_waiting(&waits, WR_FRAME_FOR_NEW);
    wr_frames_resize(&frames, 200, &marks);
    end_waiting(&waits, WEIR_OK);
    cr_expect_eq(frames.total, 200);
    cr_expect_eq(wr_frames_free(&frames), MIN + 99);
}

Test(frame, a_budget_that_shrinks_is_owed)
{
    const struct wr_frame_marks marks = {MIN, LOW, HIGH};

    open_frames(100);
    take_down_to(60); /* 40 in use */
    room_pressure = 0;
    wr_frames_resize(&frames, 90, &marks);
    cr_expect_eq(wr_frames_free(&frames), 50);
    cr_expect_eq(room_pressure, 0);
    wr_frames_resize(&frames, 30, &marks);
    cr_expect_eq(wr_frames_free(&frames), -10);
    cr_expect_eq(room_pressure, 1);
}

/* --- The equation ---------------------------------------------------------------------------- */

#define THREADS 4
#define ROUNDS  3000

struct worker {
    pthread_t thread;
    unsigned seed;
    _Atomic(int64_t) *lowest;
};

static void note_lowest(struct worker *worker)
{
    int64_t seen = *worker->lowest, now = wr_frames_free(&frames);

    while (now < seen && !atomic_compare_exchange_weak(worker->lowest, &seen, now))
        ;
}

/* Never holds more than 8, so that nobody waits for ever. */
static void *take_and_put(void *argument)
{
    struct worker *worker = argument;

    for (int i = 0; i < ROUNDS; i++) {
        uint32_t held = 0, want = 1 + (uint32_t)rand_r(&worker->seed) % 8;

        if (rand_r(&worker->seed) % 4 == 0)
            held = wr_frames_take_spare(&frames, want);
        while (held < want && wr_frames_take(&frames, WR_FRAME_FOR_RESTORE) == WEIR_OK)
            held++;
        note_lowest(worker);
        while (held > 0) {
            uint32_t some = 1 + (uint32_t)rand_r(&worker->seed) % held;

            wr_frames_put(&frames, some);
            held -= some;
        }
    }
    return NULL;
}

Test(frame, nothing_is_lost_and_nothing_made)
{
    struct worker workers[THREADS];
    const struct wr_frame_marks marks = {1, 4, 6};
    _Atomic(int64_t) lowest = 1000;

    /* Three may hold seven each and wait for one more, and still the fourth gets on. */
    open_frames(THREADS * 7 + 1);
    wr_frames_resize(&frames, THREADS * 7 + 1, &marks);
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.seed = i + 1, .lowest = &lowest};
        cr_assert_eq(pthread_create(&workers[i].thread, NULL, take_and_put, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(workers[i].thread, NULL);
    cr_expect_eq(wr_frames_free(&frames), THREADS * 7 + 1);
    cr_expect_geq(lowest, 0);
    cr_expect_not(wr_frames_is_wanted(&frames));
    cr_expect_null(frames.first);
}

/* What a writer that is faster than a write meets: it waits once or twice, and then no more. */
Test(frame, the_boost_grows_with_waits_is_bounded_and_goes)
{
    const int64_t most = 1 << 11;
    int64_t boost = 0;

    cr_assert_eq(wr_frames_next_boost(0, false, most), 0);
    for (int round = 0; round < 20; round++) {
        int64_t next = wr_frames_next_boost(boost, true, most);

        cr_assert(next > boost || next == most);
        cr_assert_leq(next, most);
        boost = next;
    }
    cr_assert_eq(boost, most);
    cr_assert_lt(wr_frames_next_boost(boost, false, most), boost);
    cr_assert_gt(wr_frames_next_boost(boost, false, most), boost / 2);
    cr_assert_eq(wr_frames_next_boost(boost, false, 100), 100,
                 "what leaves is not written any more");
    cr_assert_eq(wr_frames_next_boost(most, false, 0), 0);
}

/* A single wait must not keep memory free for thousands of misses. */
Test(frame, the_boost_of_one_wait_is_gone_after_some_rounds)
{
    int64_t boost = wr_frames_next_boost(0, true, 1 << 11);

    cr_assert_gt(boost, 0);
    for (int round = 0; round < 50; round++)
        boost = wr_frames_next_boost(boost, false, 1 << 11);
    cr_assert_eq(boost, 0);
}

Test(frame, the_boost_is_for_what_must_be_written)
{
    const int64_t total = 1 << 16;

    cr_assert_eq(wr_frames_boost_most(total, 0, 0), total / 32, "nothing has left yet");
    cr_assert_eq(wr_frames_boost_most(total, 1000, 0), total / 32);
    cr_assert_eq(wr_frames_boost_most(total, 0, 1000), total / 128);
    for (uint64_t staged = 100; staged <= 1000; staged += 100) {
        int64_t most = wr_frames_boost_most(total, staged, 1000 - staged);

        cr_assert_gt(most, wr_frames_boost_most(total, staged - 100, 1100 - staged));
        cr_assert_leq(most, total / 32);
    }
}
