/* SPDX-License-Identifier: MIT */

/* Chunks: held whole or not at all, and given back without a lock or a waiter being lost. */

#include "runtime/memory/chunk.h"

#include <criterion/criterion.h>
#include <pthread.h>

#include "runtime/paging/sweep.h"
#include "tests/unit/room_kit.h"

#define FIRST WR_CHUNK_PAGES /* of chunk 1 */

static void open_room(void)
{
    room_open();
    room_host.host.returns_tables = true;
    (void)room_map(4 * WR_CHUNK_PAGES);
}

static void bring_frame(uint32_t page, enum wr_page_state state)
{
    room_bring_with(page, state, WR_SLOT_NONE, wr_state_is_cached(state) ? 1 : WR_FRAME_NONE);
}

Test(chunk, it_is_held_only_if_every_page_is_as_wanted)
{
    for (int i = 0; i < WR_PAGE_STATE_COUNT; i++) {
        enum wr_page_state state = (enum wr_page_state)i;
        bool is_unmapped = !wr_state_is_charged(state) && state != WR_PAGE_READING;
        bool took;

        if (i == 0)
            open_room();
        else
            bring_frame(FIRST + WR_CHUNK_PAGES - 1, state);
        took = wr_chunk_take(&room_space.pages, 1, WR_CHUNK_UNMAPPED);
        cr_expect_eq(took, is_unmapped, "state %d", i);
        if (took)
            wr_chunk_put(&room_space.pages, 1, false);
        took = wr_chunk_take(&room_space.pages, 1, WR_CHUNK_EMPTY);
        cr_expect_eq(took, state == WR_PAGE_EMPTY, "state %d", i);
        if (took)
            wr_chunk_put(&room_space.pages, 1, false);
        /* Whatever was tried, every page is free and as it was. */
        for (uint32_t page = FIRST; page < FIRST + WR_CHUNK_PAGES - 1; page++)
            cr_assert(wr_page_peek_untouched(&room_space.pages, page));
        cr_expect_eq((int)wr_page_peek(&room_space.pages, FIRST + WR_CHUNK_PAGES - 1), i);
        if (state != WR_PAGE_EMPTY && state != WR_PAGE_READING) {
            struct wr_hold hold;

            wr_page_take(&room_space.pages, FIRST + WR_CHUNK_PAGES - 1, &hold);
            wr_page_move(&hold, state, WR_PAGE_EMPTY);
            wr_hold_set_frame(&hold, WR_FRAME_NONE);
            wr_page_put(&room_space.pages, &hold);
        } else if (state == WR_PAGE_READING) {
            struct wr_hold hold;

            wr_page_take(&room_space.pages, FIRST + WR_CHUNK_PAGES - 1, &hold);
            wr_page_move(&hold, WR_PAGE_READING, WR_PAGE_EMPTY);
            wr_page_put(&room_space.pages, &hold);
        }
    }
}

Test(chunk, a_page_of_it_that_is_locked_is_not_waited_for)
{
    struct wr_hold hold;

    open_room();
    wr_page_take(&room_space.pages, FIRST + 300, &hold);
    cr_expect_not(wr_chunk_take(&room_space.pages, 1, WR_CHUNK_EMPTY));
    cr_expect(wr_page_peek_untouched(&room_space.pages, FIRST));
    wr_page_put(&room_space.pages, &hold);
    cr_expect(wr_chunk_take(&room_space.pages, 1, WR_CHUNK_EMPTY));
    cr_expect_not(wr_page_take_try(&room_space.pages, FIRST + 300, &hold));
    cr_expect_not(wr_chunk_take(&room_space.pages, 1, WR_CHUNK_EMPTY));
    wr_chunk_put(&room_space.pages, 1, false);
    cr_expect(wr_page_take_try(&room_space.pages, FIRST + 300, &hold));
    wr_page_put(&room_space.pages, &hold);
}

Test(chunk, the_dropped_zeros_are_empty_and_the_table_is_gone)
{
    struct wr_chunk *chunk;

    open_room();
    chunk = &room_space.pages.chunks[1];
    cr_expect(wr_chunk_is_untouched(&room_space.pages, 1));
    bring_frame(FIRST + 7, WR_PAGE_RESIDENT_ZERO);
    bring_frame(FIRST + 8, WR_PAGE_OUT);
    cr_expect_not(wr_chunk_is_untouched(&room_space.pages, 1));
    cr_expect_eq(room_stats.tables, 1);
    cr_assert(wr_chunk_take(&room_space.pages, 1, WR_CHUNK_UNMAPPED));
    wr_chunk_put(&room_space.pages, 1, true);
    cr_expect_eq(wr_page_peek(&room_space.pages, FIRST + 7), WR_PAGE_EMPTY);
    cr_expect_eq(wr_page_peek(&room_space.pages, FIRST + 8), WR_PAGE_OUT);
    cr_expect_eq(chunk->table, WR_TABLE_NONE);
    cr_expect_eq(chunk->zeros, 0);
    cr_expect_eq(chunk->touched, 1);
    cr_expect_eq(room_stats.tables, 0);
    cr_expect_eq(wr_stats_sum(&room_stats, WR_COUNT_tables_returned), 1);
}

Test(chunk, a_kernel_that_keeps_tables_is_believed)
{
    open_room();
    room_host.host.returns_tables = false;
    bring_frame(FIRST, WR_PAGE_RESIDENT_ZERO);
    cr_assert(wr_chunk_take(&room_space.pages, 1, WR_CHUNK_UNMAPPED));
    wr_chunk_put(&room_space.pages, 1, true);
    cr_expect_eq(room_stats.tables, 1);
    cr_expect_eq(wr_stats_sum(&room_stats, WR_COUNT_tables_returned), 0);
    cr_expect_not(wr_chunk_is_untouched(&room_space.pages, 1));
}

Test(chunk, what_is_marked_is_not_untouched)
{
    open_room();
    wr_chunk_mark(&room_space.pages, FIRST + 5);
    cr_expect_not(wr_chunk_is_untouched(&room_space.pages, 1));
    cr_expect(wr_chunk_is_untouched(&room_space.pages, 2));
}

/* --- Forgotten while others want pages of it ------------------------------------------------- */

#define ROUNDS 2000
#define ENOUGH 20u

static _Atomic(bool) is_over;

static void *want_pages(void *argument)
{
    uint32_t page = FIRST + (uint32_t)(uintptr_t)argument;
    uint64_t done = 0;

    while (!is_over) {
        struct wr_hold hold;

        wr_page_take(&room_space.pages, page, &hold);
        if (wr_hold_state(&hold) != WR_PAGE_EMPTY || wr_hold_frame(&hold) != WR_FRAME_NONE)
            return (void *)(uintptr_t)UINT64_MAX;
        wr_page_put(&room_space.pages, &hold);
        if (++done % 64 == 0)
            room_sleep_us(1); /* or the page would hardly ever be free */
    }
    return (void *)(uintptr_t)done;
}

/* A region that is to move to a larger reserve has the page numbers for it first. What follows its
 * old addresses is somebody else's memory all the while (the simulator's seed 340). */
Test(chunk, what_follows_the_addresses_of_a_region_is_not_dropped)
{
    struct wr_region *region;

    room_open();
    room_host.host.returns_tables = true;
    region = room_map(WR_CHUNK_PAGES - 50);
    cr_expect_not(wr_sweep_chunk(region, 0, false), "its own end");
    cr_assert_eq(wr_space_set_reserve(&room_space, region, 2 * WR_CHUNK_PAGES), WEIR_OK);
    cr_expect_not(wr_sweep_chunk(region, 0, false), "it has not moved");
    cr_expect_eq(room_host.drop.pages, 0u);
    wr_region_readdress(region, region->addr + (1ull << 30),
                        2ull * WR_CHUNK_PAGES * WEIR_PAGE_BYTES);
    cr_expect(wr_sweep_chunk(region, 0, false));
    cr_expect_eq(room_host.drop.pages, WR_CHUNK_PAGES);
    cr_expect_eq(room_host.drop.addr, region->addr);
}

Test(chunk, nobody_waits_for_ever_on_a_page_that_is_forgotten)
{
    pthread_t threads[3];
    uint32_t forgotten = 0;

    open_room();
    for (uintptr_t i = 0; i < 3; i++) /* two of them want the same page */
        cr_assert_eq(pthread_create(&threads[i], NULL, want_pages, (void *)(i / 2 * 400)), 0);
    for (uint32_t i = 0; i < ROUNDS || forgotten < ENOUGH; i++)
        if (wr_chunk_take(&room_space.pages, 1, WR_CHUNK_EMPTY)) {
            wr_chunk_forget(&room_space.pages, 1);
            forgotten++;
        }
    is_over = true;
    for (int i = 0; i < 3; i++) {
        void *done;

        cr_assert_eq(pthread_join(threads[i], &done), 0);
        cr_expect_neq((uintptr_t)done, UINT64_MAX);
    }
}

/* A region that is about to move has more numbers than addresses: what follows its addresses is not
 * its own, and is not dropped with its page tables (seed 72 of the simulator). */
Test(chunk, a_table_beyond_the_addresses_is_nobodys)
{
    struct wr_region *region;

    room_open();
    room_host.host.returns_tables = true;
    region = room_map(WR_CHUNK_PAGES + WR_CHUNK_PAGES / 2);
    atomic_store(&region->reserve_pages, 2 * WR_CHUNK_PAGES);
    cr_expect(wr_sweep_chunk(region, region->first / WR_CHUNK_PAGES, false));
    cr_expect_eq(room_host.drop.calls, 1);
    cr_expect_not(wr_sweep_chunk(region, region->first / WR_CHUNK_PAGES + 1, false));
    cr_expect_eq(room_host.drop.calls, 1);
    atomic_store(&region->reserve_bytes, 2ull * WR_CHUNK_PAGES * WEIR_PAGE_BYTES);
    cr_expect(wr_sweep_chunk(region, region->first / WR_CHUNK_PAGES + 1, false));
    cr_expect_eq(room_host.drop.calls, 2);
}
