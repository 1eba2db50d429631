/* SPDX-License-Identifier: MIT */

/* The gate: who waits, waits for everybody who was inside, and for nobody else. */

#include "runtime/memory/gate.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/room_kit.h"

static _Atomic(bool) has_waited;

static void *wait_once(void *argument)
{
    (void)argument;
    wr_gate_wait(&room_host.host);
    has_waited = true;
    return NULL;
}

static uint64_t inside_now(void)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < WR_GATE_SHARDS; i++)
        sum += wr_gate.shard[i].inside[0] + wr_gate.shard[i].inside[1];
    return sum;
}

Test(gate, nobody_inside_is_not_waited_for)
{
    room_host_open(1, 1);
    wr_gate_wait(&room_host.host);
    wr_gate_leave(wr_gate_enter());
    wr_gate_wait(&room_host.host);
    cr_expect_eq(room_host.parks, 0);
    cr_expect_eq(inside_now(), 0);
}

Test(gate, who_is_inside_is_waited_for)
{
    pthread_t thread;
    struct wr_pass first, second;

    room_host_open(1, 1);
    first = wr_gate_enter();
    second = wr_gate_enter(); /* a fault inside of something else that is inside */
    cr_assert_eq(pthread_create(&thread, NULL, wait_once, NULL), 0);
    ROOM_AWAIT(room_host.parks > 0);
    wr_gate_leave(first);
    room_sleep_us(ROOM_NOT_YET_US);
    cr_expect_not(has_waited);
    wr_gate_leave(second);
    pthread_join(thread, NULL);
    cr_expect(has_waited);
    cr_expect_eq(inside_now(), 0);
}

/* Both phases, one after the other: the stragglers of each are seen. */
Test(gate, every_phase_is_waited_for)
{
    room_host_open(1, 1);
    for (int round = 0; round < 5; round++) {
        struct wr_pass pass = wr_gate_enter();
        uint32_t parks = room_host.parks;
        pthread_t thread;

        has_waited = false;
        cr_assert_eq(pthread_create(&thread, NULL, wait_once, NULL), 0);
        ROOM_AWAIT(room_host.parks > parks);
        room_sleep_us(ROOM_NOT_YET_US / 4);
        cr_expect_not(has_waited, "round %d", round);
        wr_gate_leave(pass);
        pthread_join(thread, NULL);
    }
}

/* Who read the phase, was interrupted for long, and only then counted himself, in the wrong one. */
Test(gate, a_straggler_is_waited_for)
{
    _Atomic(uint64_t) *inside = &wr_gate.shard[WR_GATE_SHARDS - 1].inside[1 - wr_gate.phase];
    pthread_t thread;

    room_host_open(1, 1);
    atomic_fetch_add(inside, 1);
    cr_assert_eq(pthread_create(&thread, NULL, wait_once, NULL), 0);
    room_sleep_us(ROOM_NOT_YET_US);
    cr_expect_not(has_waited);
    wr_gate_leave((struct wr_pass){inside});
    pthread_join(thread, NULL);
}

Test(gate, who_comes_later_is_not_waited_for)
{
    uint32_t phase = wr_gate.phase;
    struct wr_pass old, young;
    pthread_t thread;

    room_host_open(1, 1);
    old = wr_gate_enter();
    cr_assert_eq(pthread_create(&thread, NULL, wait_once, NULL), 0);
    ROOM_AWAIT(wr_gate.phase != phase);
    young = wr_gate_enter();
    wr_gate_leave(old);
    pthread_join(thread, NULL); /* though the young one is still inside */
    cr_expect(has_waited);
    wr_gate_leave(young);
}

/* --- What it is for -------------------------------------------------------------------------- */

#define READERS 3
#define SWAPS   300
#define WORDS   16

static _Atomic(uint64_t *) published;
static _Atomic(bool) is_over;
static _Atomic(uint32_t) wrong, reads;

static void *read_often(void *argument)
{
    (void)argument;
    while (!is_over) {
        struct wr_pass pass = wr_gate_enter();
        const uint64_t *words = atomic_load(&published);

        for (int i = 0; i < WORDS; i++)
            wrong += words[i] != 1;
        wr_gate_leave(pass);
        reads++;
    }
    return NULL;
}

Test(gate, what_was_unpublished_is_no_longer_seen)
{
    static uint64_t words[2][WORDS];
    pthread_t threads[READERS];

    room_host_open(1, 1);
    for (int i = 0; i < WORDS; i++)
        words[0][i] = words[1][i] = 1;
    atomic_store(&published, words[0]);
    for (int i = 0; i < READERS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, read_often, NULL), 0);
    ROOM_AWAIT(reads > 0);
    for (int i = 0; i < SWAPS; i++) {
        uint64_t *old = words[i % 2];

        atomic_store(&published, words[1 - i % 2]);
        wr_gate_wait(&room_host.host);
        /* Nobody may look at it now: spoil it, and make it good before it is published again. */
        memset(old, 0, sizeof(words[0]));
        for (int k = 0; k < WORDS; k++)
            old[k] = 1;
    }
    is_over = true;
    for (int i = 0; i < READERS; i++)
        pthread_join(threads[i], NULL);
    cr_expect_eq(wrong, 0);
    cr_expect_eq(inside_now(), 0);
}
