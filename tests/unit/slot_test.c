/* SPDX-License-Identifier: MIT */

/* Slots: whole clusters while there are some, the lowest first, and the reverse table. */

#include "runtime/swap/slot.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>

#include "tests/unit/room_kit.h"

#define C WEIR_CLUSTER_SLOTS

static struct wr_slots slots;

static void close_slots(void)
{
    wr_slots_fini(&slots);
}

static void open_slots(uint64_t count)
{
    cr_assert_eq(wr_slots_init(&slots, count), WEIR_OK);
    room_inherit(slots.live, slots.cluster_count * sizeof(*slots.live));
    room_inherit(slots.owner, slots.count * sizeof(*slots.owner));
    atexit(close_slots);
}

static struct wr_slot_run take(void)
{
    struct wr_slot_run run = {0};

    cr_assert(wr_slots_take(&slots, &run));
    return run;
}

static void expect_run(struct wr_slot_run run, uint32_t place, uint32_t count)
{
    cr_expect_eq(run.place, place);
    cr_expect_eq(run.count, count);
}

static void own_all(struct wr_slot_run run)
{
    for (uint32_t i = 0; i < run.count; i++)
        wr_slots_own(&slots, run.place + i, 7000 + run.place + i);
}

/* The law: the live count of a cluster is the number of its slots that are taken. Here all taken
 * slots have owners. */
static void expect_law(void)
{
    uint64_t used = 0;

    for (uint32_t cluster = 0; cluster < slots.cluster_count; cluster++) {
        uint32_t live = 0, page;

        for (uint32_t place = cluster * C; place < (cluster + 1) * C && place < slots.count;
             place++)
            live += wr_slots_owner(&slots, place, &page);
        cr_expect_eq(wr_slots_live(&slots, cluster), live, "cluster %u", cluster);
        used += live;
    }
    cr_expect_eq(wr_slots_used(&slots), used);
}

Test(slot, a_number_is_back_end_and_place)
{
    for (uint32_t backend = 0; backend < WR_BACKENDS_MAX; backend++) {
        uint64_t slot = wr_slot_make(backend, UINT32_MAX - 1);

        cr_expect_eq(wr_slot_backend(slot), backend);
        cr_expect_eq(wr_slot_place(slot), UINT32_MAX - 1);
        cr_expect_lt(slot, ((uint64_t)1 << 36) - 1, "it fits into a descriptor");
    }
}

Test(slot, the_lowest_free_cluster_is_taken_first)
{
    open_slots(5 * C);
    for (uint32_t i = 0; i < 5; i++) {
        struct wr_slot_run run = take();

        expect_run(run, i * C, C);
        own_all(run);
    }
    for (uint32_t place = 0; place < C; place++) {
        wr_slots_free(&slots, 3 * C + place);
        wr_slots_free(&slots, C + place);
    }
    expect_run(take(), C, C);
    expect_run(take(), 3 * C, C);
}

Test(slot, the_last_cluster_may_be_short)
{
    struct wr_slot_run run;

    open_slots(C + 3);
    cr_expect_eq(slots.cluster_count, 2);
    expect_run(take(), 0, C);
    expect_run(take(), C, 3);
    cr_expect_eq(wr_slots_used(&slots), C + 3);
    cr_expect_not(wr_slots_take(&slots, &run));
}

Test(slot, one_slot_is_enough)
{
    struct wr_slot_run run;

    open_slots(1);
    run = take();
    expect_run(run, 0, 1);
    own_all(run);
    cr_expect_not(wr_slots_take(&slots, &run));
    wr_slots_free(&slots, 0);
    expect_run(take(), 0, 1);
}

Test(slot, who_lies_there)
{
    uint32_t page = 0;
    struct wr_slot_run run;

    open_slots(2 * C);
    cr_expect_not(wr_slots_owner(&slots, 5, &page));
    run = take();
    wr_slots_own(&slots, run.place, 0); /* page 0 is a page */
    wr_slots_own(&slots, run.place + 1, UINT32_MAX - 1);
    cr_expect(wr_slots_owner(&slots, 0, &page));
    cr_expect_eq(page, 0);
    cr_expect(wr_slots_owner(&slots, 1, &page));
    cr_expect_eq(page, UINT32_MAX - 1);
    cr_expect_not(wr_slots_owner(&slots, 2, &page), "taken, but by nobody yet");
    wr_slots_free(&slots, 0);
    cr_expect_not(wr_slots_owner(&slots, 0, &page));
    cr_expect_eq(wr_slots_live(&slots, 0), C - 1);
}

Test(slot, what_was_not_needed_goes_back)
{
    struct wr_slot_run run;

    open_slots(2 * C);
    run = take();
    for (uint32_t i = 0; i < 100; i++)
        wr_slots_own(&slots, run.place + i, i);
    wr_slots_return(&slots, &run, 100);
    expect_law();
    cr_expect_eq(wr_slots_used(&slots), 100);
    expect_run(take(), C, C); /* a free one is better than the rest of that */
    expect_run(take(), 100, C - 100);
    cr_expect_not(wr_slots_take(&slots, &run));
}

Test(slot, a_run_that_came_to_nothing_leaves_a_free_cluster)
{
    struct wr_slot_run run;

    open_slots(3 * C);
    run = take();
    wr_slots_return(&slots, &run, 0);
    cr_expect_eq(wr_slots_used(&slots), 0);
    run = take();
    expect_run(run, 0, C);
    wr_slots_return(&slots, &run, C); /* all were needed */
    cr_expect_eq(wr_slots_used(&slots), C);
}

Test(slot, the_longest_run_of_the_roomiest_cluster)
{
    struct wr_slot_run run;

    open_slots(3 * C);
    for (uint32_t i = 0; i < 3; i++)
        own_all(take());
    for (uint32_t i = 0; i < 30; i++)
        wr_slots_free(&slots, i); /* the longest run of all, but cluster 1 has more room */
    for (uint32_t i = 0; i < 40; i += 2)
        wr_slots_free(&slots, C + i);
    for (uint32_t i = 100; i < 112; i++)
        wr_slots_free(&slots, C + i);
    wr_slots_free(&slots, 3 * C - 1);
    expect_law();
    run = take();
    expect_run(run, C + 100, 12);
    own_all(run);
    expect_run(take(), 0, 30);
    for (uint32_t i = 0; i < 40; i += 2) {
        run = take();
        expect_run(run, C + i, 1);
        own_all(run);
    }
    run = take();
    expect_run(run, 3 * C - 1, 1); /* at the very end */
    cr_expect_not(wr_slots_take(&slots, &run));
    cr_expect_eq(wr_slots_used(&slots), 3 * C);
}

/* --- What dies ------------------------------------------------------------------------------- */

static void free_slot(void *context)
{
    wr_slots_free(&slots, *(uint32_t *)context);
}

static void own_slot(void *context)
{
    wr_slots_own(&slots, *(uint32_t *)context, 1);
}

static void return_too_many(void *context)
{
    struct wr_slot_run *run = context;

    wr_slots_return(&slots, run, run->count + 1);
}

Test(slot, freeing_twice_dies)
{
    struct wr_slot_run run;
    uint32_t place = 4;

    open_slots(C + 1);
    cr_expect(room_dies(free_slot, &place), "never taken");
    run = take();
    own_all(run);
    wr_slots_free(&slots, place);
    cr_expect(room_dies(free_slot, &place));
    place = C + 1;
    cr_expect(room_dies(free_slot, &place), "there is no such slot");
    cr_expect(room_dies(own_slot, &place));
    cr_expect(room_dies(return_too_many, &run));
}

/* --- One takes, many free -------------------------------------------------------------------- */

#define THREADS 3
#define ROUNDS  400

struct freer {
    pthread_t thread;
    _Atomic(struct wr_slot_run *) work;
};

static _Atomic(bool) is_over;

static void *free_runs(void *argument)
{
    struct freer *freer = argument;

    while (!is_over || freer->work) {
        struct wr_slot_run *run = freer->work;

        for (uint32_t i = 0; run && i < run->count; i++)
            wr_slots_free(&slots, run->place + i);
        if (run)
            freer->work = NULL;
        else
            room_sleep_us(20);
    }
    return NULL;
}

Test(slot, nothing_is_lost_while_others_free)
{
    static struct wr_slot_run runs[THREADS];
    struct freer freers[THREADS] = {0};
    struct wr_slot_run run;

    open_slots(4 * C + 10);
    for (int i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_create(&freers[i].thread, NULL, free_runs, &freers[i]), 0);
    for (int round = 0; round < ROUNDS; round++) {
        int to = round % THREADS;

        ROOM_AWAIT(!freers[to].work);
        if (!wr_slots_take(&slots, &run))
            continue;
        own_all(run);
        if (round % 4 == 0 && run.count > 1) { /* a run that was needed in part */
            for (uint32_t i = run.count / 2; i < run.count; i++)
                atomic_store(&slots.owner[run.place + i], 0);
            wr_slots_return(&slots, &run, run.count / 2);
            run.count /= 2;
        }
        runs[to] = run;
        freers[to].work = &runs[to];
    }
    is_over = true;
    for (int i = 0; i < THREADS; i++)
        pthread_join(freers[i].thread, NULL);
    expect_law();
    cr_expect_eq(wr_slots_used(&slots), 0);
    expect_run(take(), 0, C); /* and the hint knows that the lowest is free */
}
