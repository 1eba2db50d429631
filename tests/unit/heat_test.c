/* SPDX-License-Identifier: MIT */

/* Heat: what rises and falls, and the shadows of pages that left. */

#include "runtime/memory/heat.h"

#include <criterion/criterion.h>

#include "tests/unit/room_kit.h"

/* A cached page that nobody wanted. */
static void evict(uint32_t page)
{
    struct wr_hold hold;

    wr_page_take(&room_space.pages, page, &hold);
    wr_page_evict(&room_space.pages, &hold, WR_PAGE_CACHED_CLEAN);
    wr_page_put(&room_space.pages, &hold);
}

static uint32_t distance(uint32_t page)
{
    struct wr_hold hold = room_look(page);

    return wr_page_distance(&room_space.pages, &hold);
}

Test(heat, a_shadow_tells_how_many_left_since)
{
    room_open();
    for (uint32_t i = 0; i < 5; i++)
        room_bring_with(i, WR_PAGE_CACHED_CLEAN, i, i);
    for (uint32_t i = 0; i < 5; i++)
        evict(i);
    for (uint32_t i = 0; i < 5; i++)
        cr_expect_eq(distance(i), 4 - i);
    cr_expect_eq(distance(9), UINT32_MAX, "it never left");
}

Test(heat, a_shadow_survives_reading_and_ends_there)
{
    struct wr_hold hold;

    room_open();
    room_bring_with(0, WR_PAGE_CACHED_CLEAN, 1, 2);
    evict(0);
    wr_page_take(&room_space.pages, 0, &hold);
    wr_page_move(&hold, WR_PAGE_OUT, WR_PAGE_READING);
    cr_expect_eq(wr_page_distance(&room_space.pages, &hold), 0);
    cr_expect_eq(wr_hold_slot(&hold), 1);
    wr_page_move(&hold, WR_PAGE_READING, WR_PAGE_RESIDENT_CLEAN);
    cr_expect_eq(wr_page_distance(&room_space.pages, &hold), UINT32_MAX);
    cr_expect_eq(wr_hold_frame(&hold), WR_FRAME_NONE);
    wr_page_put(&room_space.pages, &hold);
}

Test(heat, pages_read_ahead_and_proven_ones_leave_no_shadow)
{
    room_open();
    for (uint32_t i = 0; i < 2; i++)
        room_bring_with(i, WR_PAGE_CACHED_CLEAN, i, i);
    room_set_flag(0, WR_PAGE_AHEAD, true);
    room_set_flag(1, WR_PAGE_MAIN, true);
    for (uint32_t i = 0; i < 2; i++) {
        struct wr_hold hold;

        evict(i);
        hold = room_look(i);
        cr_expect_eq(distance(i), UINT32_MAX);
        cr_expect(!wr_hold_has(&hold, WR_PAGE_AHEAD) && !wr_hold_has(&hold, WR_PAGE_MAIN));
    }
}

Test(heat, the_clock_of_shadows_goes_round)
{
    room_open();
    for (uint32_t i = 0; i < 3; i++)
        room_bring_with(i, WR_PAGE_CACHED_CLEAN, i, i);
    atomic_store(&room_space.pages.evictions, WR_SHADOW_MAX - 2);
    for (uint32_t i = 0; i < 3; i++)
        evict(i);
    /* The second of them would be time 0, which stands for no shadow: it is taken for the one
     * before. */
    cr_expect_leq(distance(0), 2);
    cr_expect_geq(distance(0), 1);
    cr_expect_leq(distance(2), 1);
}

Test(heat, heat_rises_and_falls_within_its_bounds)
{
    uint8_t heat = 0;

    room_open();
    for (int i = 0; i < 100; i++) {
        cr_expect_geq(wr_page_heat(&room_space.pages, 70), heat);
        heat = wr_page_heat(&room_space.pages, 70);
        wr_page_warm(&room_space.pages, 70);
    }
    cr_expect_eq(heat, 255);
    cr_expect_eq(wr_page_heat(&room_space.pages, 64), 255, "one heat for 64 pages");
    cr_expect_eq(wr_page_heat(&room_space.pages, 63), 0);
    cr_expect_eq(wr_page_heat(&room_space.pages, 128), 0);
    for (uint32_t i = 0; i < 60; i++) {
        room_bring_with(64 + i, WR_PAGE_CACHED_CLEAN, i, i);
        evict(64 + i);
    }
    cr_expect_eq(wr_page_heat(&room_space.pages, 70), 0);
}

Test(heat, areas_count_what_their_chunks_do)
{
    room_open();
    room_bring(0, WR_PAGE_RESIDENT_DIRTY);
    room_bring(1000, WR_PAGE_RESIDENT_CLEAN);
    room_bring(2000, WR_PAGE_RESIDENT_ZERO);
    cr_expect_eq(room_space.pages.areas[0], 2u);
    room_bring_with(3000, WR_PAGE_CACHED_CLEAN, 0, 0);
    evict(3000);
    cr_expect_eq(room_space.pages.areas[0], 2u);
}
