/* SPDX-License-Identifier: MIT */

/* Carry and drain: pages leave a back end in large reads, while memory is short, too. */

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>

#include "runtime/memory/gate.h"
#include "runtime/swap/carry.h"
#include "tests/unit/swap_kit.h"

static struct wr_carrier *carrier;

static struct wr_swap_backend *backend_0(void)
{
    return swap->backends[0];
}

static void write_cluster(uint32_t i)
{
    put_in_queue(stage(i * C, C));
    cr_assert_eq(launder(), WR_LAUNDERED);
    finish();
}

static void forget_pages(uint32_t page, uint32_t count)
{
    for (; count > 0; page++, count--) {
        struct wr_hold hold;

        wr_page_take(&room_space.pages, region->first + page, &hold);
        wr_page_move(&hold, WR_PAGE_OUT, WR_PAGE_EMPTY);
        swap->pager.ops->forget(&swap->pager, wr_hold_slot(&hold));
        wr_hold_set_slot(&hold, WR_SLOT_NONE);
        wr_page_put(&room_space.pages, &hold);
    }
}

static void expect_staged(uint32_t page, uint32_t count)
{
    for (; count > 0; page++, count--) {
        struct wr_hold hold = room_look(region->first + page);

        cr_assert_eq(wr_hold_state(&hold), WR_PAGE_CACHED_DIRTY, "page %u", page);
        cr_expect_eq(wr_hold_slot(&hold), WR_SLOT_NONE);
        cr_expect(is_stamped(wr_host_frame(room_space.host, wr_hold_frame(&hold)), hold.number));
    }
}

static void open_carrier(void)
{
    backend_0()->draining = true;
    carrier = wr_carrier_new((struct wr_swap_lane *)(void *)lane, WR_COUNT_pages_drained, 0);
    cr_assert_not_null(carrier);
}

static void close_carrier(void)
{
    cr_expect(wr_carrier_is_idle(carrier));
    wr_carrier_flush(carrier);
    free(carrier);
}

/* Begin to read a whole cluster; how many pages. */
static uint32_t carry(uint32_t cluster)
{
    uint32_t place = cluster * C, used;
    struct wr_pass pass = wr_gate_enter();

    wr_frames_overdraw(&room_space.frames, C);
    used = wr_carry(carrier, backend_0(), &place, wr_slots_end(&backend_0()->slots, cluster), C);
    wr_frames_put(&room_space.frames, C - used);
    wr_gate_leave(pass);
    return used;
}

static bool settle(void)
{
    struct wr_pass pass = wr_gate_enter();
    bool has_settled = wr_carrier_settle(carrier);

    wr_gate_leave(pass);
    return has_settled;
}

Test(carry, a_read_goes_on_in_the_next_extent)
{
    open_swap("mem:?size=8m");
    for (uint32_t i = 0; i < 3; i++)
        write_cluster(i);
    forget_pages(100, 20);
    open_carrier();
    cr_expect_eq(carry(0), C - 20);
    cr_expect_eq(carry(1), C, "twenty pages to the first extent, the others to the second");
    cr_expect_eq(carry(2), C);
    finish();
    cr_expect_eq(carrier->moved, 3 * C - 20);
    cr_expect_eq(room_space.staging.live_count, 2 * C, "two extents are full");
    expect_staged(0, 100);
    expect_staged(120, 3 * C - 120);
    close_carrier();
    cr_expect_eq(room_space.staging.live_count, 3 * C - 20);
    cr_expect_eq(wr_slots_used(&backend_0()->slots), 0);
    backend_0()->draining = false;
    while (launder() == WR_LAUNDERED)
        finish();
    expect_all_returned();
}

/* The dead ones in between, which are all read to one place, would not be what was written. */
Test(carry, of_a_sealed_back_end_only_live_pages_are_read)
{
    uint32_t place = 0, used = 0;

    open_swap("mem:?size=8m&seal=on");
    write_cluster(0);
    forget_pages(100, 2);
    forget_pages(103, 1);
    forget_pages(300, 20);
    open_carrier();
    while (place < C) {
        struct wr_pass pass = wr_gate_enter();

        wr_frames_overdraw(&room_space.frames, C);
        used = wr_carry(carrier, backend_0(), &place, C, C);
        wr_frames_put(&room_space.frames, C - used);
        wr_gate_leave(pass);
        finish();
    }
    cr_expect_eq(used, C - 320);
    cr_expect_eq(carrier->moved, C - 23);
    cr_expect_eq(carrier->lost, 0);
    expect_staged(0, 100);
    expect_staged(102, 1);
    expect_staged(104, 196);
    expect_staged(320, C - 320);
    close_carrier();
}

Test(carry, a_full_extent_is_followed_by_one_that_is_empty)
{
    open_swap("mem:?size=8m");
    write_cluster(0);
    open_carrier();
    cr_expect_eq(carry(0), C);
    cr_expect_null(carrier->carries[0].into[1]);
    finish();
    expect_staged(0, C);
    close_carrier();
    cr_expect_eq(room_space.staging.live_count, C);
}

Test(carry, what_has_arrived_may_wait_to_be_settled)
{
    open_swap("mem:?size=8m");
    write_cluster(0);
    write_cluster(1);
    open_carrier();
    carrier->settles_later = true;
    carry(0);
    carry(1);
    cr_expect_not(settle(), "they fly");
    finish();
    cr_expect_eq(carrier->flying, 0);
    cr_expect_not(wr_carrier_is_idle(carrier));
    cr_expect_eq(state_of(0), WR_PAGE_READING);
    cr_expect_eq(wr_slots_used(&backend_0()->slots), 2 * C);
    cr_expect(settle());
    expect_staged(0, C);
    cr_expect_eq(state_of(C), WR_PAGE_READING, "one at a time");
    cr_expect(settle());
    cr_expect_not(settle());
    expect_staged(C, C);
    close_carrier();
}

Test(carry, no_more_are_begun_than_may_wait)
{
    uint32_t begun = 0;

    open_swap("mem:?size=20m");
    region = room_map(8 * C);
    for (uint32_t i = 0; i < 8; i++)
        write_cluster(i);
    forget_pages(0, 8 * C - 8);
    open_carrier();
    carrier->settles_later = true;
    for (uint32_t page = 0; page < 8; page++) {
        uint32_t place = 8 * C - 8 + page;
        struct wr_pass pass = wr_gate_enter();

        wr_frames_overdraw(&room_space.frames, 1);
        if (wr_carry(carrier, backend_0(), &place, 8 * C, 1) == 0)
            wr_frames_put(&room_space.frames, 1);
        else
            begun++;
        wr_gate_leave(pass);
        if (page == WR_CARRIES_FLYING)
            finish();
    }
    cr_expect_eq(begun, WR_CARRIES);
    finish();
    while (settle())
        ;
    cr_expect_eq(carrier->moved, WR_CARRIES);
    close_carrier();
}

/* --- Drain ----------------------------------------------------------------------------------- */

static _Atomic(bool) is_over;

static void nobody(void *context)
{
    (void)context;
}

/* As kswapd: it alone uses the lane. */
static void *launder_always(void *context)
{
    (void)context;
    while (!is_over) {
        (void)launder();
        finish();
        swap->pager.ops->reap(lane); /* lets go of what left the table */
        room_sleep_us(100);
    }
    return NULL;
}

static int drain_0(void)
{
    pthread_t thread;
    int error;

    swap->wish.rouse = nobody;
    cr_assert_eq(pthread_create(&thread, NULL, launder_always, NULL), 0);
    error = wr_swap_drain(swap, 0);
    is_over = true;
    pthread_join(thread, NULL);
    return error;
}

Test(drain, everything_leaves_and_nothing_is_mapped)
{
    open_swap("mem:?size=8m");
    for (uint32_t i = 0; i < 3; i++)
        write_cluster(i);
    forget_pages(C + 7, 60);
    cr_expect_eq(drain_0(), WEIR_OK);
    cr_expect_null(swap->backends[0]);
    cr_expect_eq(count_of(WR_COUNT_pages_drained), 3 * C - 60);
    cr_expect_eq(room_host.place.calls, 0);
    cr_expect_eq(room_host.drop.calls, 0);
    expect_staged(0, C + 7);
    expect_staged(C + 67, 2 * C - 67);
}

/* 64 frames are free at first, and others only when what was drained has been written. */
Test(drain, little_memory_is_enough)
{
    uint8_t bytes[WEIR_PAGE_BYTES];

    open_swap("mem:?size=8m");
    for (uint32_t i = 0; i < 3; i++)
        write_cluster(i);
    add("mem:?size=8m");
    wr_frames_overdraw(&room_space.frames, ROOM_TOTAL - ROOM_MIN - 64);
    cr_expect_eq(drain_0(), WEIR_OK);
    cr_expect_eq(count_of(WR_COUNT_pages_drained), 3 * C);
    while (launder() == WR_LAUNDERED)
        finish();
    cr_expect_eq(wr_slots_used(&swap->backends[1]->slots), 3 * C);
    for (uint32_t page = 0; page < 3 * C; page++) {
        cr_assert_eq(state_of(page), WR_PAGE_OUT);
        cr_expect_eq(read_page(page, bytes), WEIR_OK);
        cr_expect(is_stamped(bytes, region->first + page));
    }
    wr_frames_put(&room_space.frames, ROOM_TOTAL - ROOM_MIN - 64);
    expect_all_returned();
}

Test(drain, what_cannot_be_read_stays)
{
    open_swap("chaos(mem:?size=8m)?fail_read=1");
    write_cluster(0);
    cr_expect_eq(drain_0(), WEIR_EIO);
    cr_expect_not(backend_0()->draining);
    cr_expect_eq(wr_slots_used(&backend_0()->slots), C);
    cr_expect_eq(state_of(0), WR_PAGE_OUT);
    expect_all_returned();
}
