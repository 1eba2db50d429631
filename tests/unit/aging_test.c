/* SPDX-License-Identifier: MIT */

/* Aging: two hands that go round the addresses, and the colour of a moment. */

#include "runtime/paging/aging.h"

#include <criterion/criterion.h>

#include "tests/unit/room_kit.h"

#define CHUNKS (ROOM_PAGES / WR_CHUNK_PAGES)
#define RATIO  4

static struct wr_aging aging;
static uint32_t victims[ROOM_PAGES];

/* So many pages of a state at the begin of a chunk; they occupy frames. */
static void settle(uint32_t chunk, uint32_t count, enum wr_page_state state)
{
    for (uint32_t i = 0; i < count; i++)
        room_bring(chunk * WR_CHUNK_PAGES + i, state);
    if (wr_state_is_charged(state))
        wr_frames_overdraw(&room_space.frames, count);
}

static void open_aging(void)
{
    room_open();
    room_map(ROOM_PAGES);
    wr_aging_init(&aging, &room_space, RATIO);
}

static uint32_t collect(enum wr_victims kind, uint32_t want)
{
    return wr_aging_collect(&aging, kind, want, victims);
}

/* --- The write hand -------------------------------------------------------------------------- */

Test(aging, nothing_is_found_where_nothing_is)
{
    room_open();
    wr_aging_init(&aging, &room_space, RATIO);
    cr_expect_eq(collect(WR_VICTIMS_ANY, 10), 0, "no region");
    cr_expect_eq(collect(WR_VICTIMS_CLEAN, 10), 0);
    room_map(ROOM_PAGES);
    cr_expect_eq(collect(WR_VICTIMS_ANY, 10), 0, "no page");
    cr_expect_eq(collect(WR_VICTIMS_CLEAN, 10), 0);
    cr_expect_eq(collect(WR_VICTIMS_SWEEP, 10), 0);
}

Test(aging, victims_come_by_address)
{
    open_aging();
    settle(2, 100, WR_PAGE_RESIDENT_DIRTY);
    settle(9, 100, WR_PAGE_RESIDENT_CLEAN);
    cr_expect_eq(collect(WR_VICTIMS_ANY, 150), 150);
    for (uint32_t i = 0; i < 150; i++)
        cr_expect_eq(victims[i], (i < 100 ? 2 * WR_CHUNK_PAGES : 9 * WR_CHUNK_PAGES - 100) + i,
                     "%u", i);
    cr_expect_eq(aging.write_hand, 9, "it stays where it was not done");
    cr_expect_eq(collect(WR_VICTIMS_ANY, 200), 200, "all, in one round");
    cr_expect_eq(victims[0], 9 * WR_CHUNK_PAGES);
    cr_expect_eq(victims[100], 2 * WR_CHUNK_PAGES, "and round the end");
}

Test(aging, what_cannot_be_evicted_is_not_a_victim)
{
    struct wr_hold hold;

    open_aging();
    for (uint32_t state = 0; state < WR_PAGE_STATE_COUNT; state++)
        settle(state, 1, (enum wr_page_state)state);
    settle(13, 3, WR_PAGE_RESIDENT_DIRTY);
    wr_page_take(&room_space.pages, 13 * WR_CHUNK_PAGES, &hold);
    wr_hold_set_pins(&hold, 1);
    wr_page_put(&room_space.pages, &hold);
    wr_page_take(&room_space.pages, 13 * WR_CHUNK_PAGES + 1, &hold); /* and stays locked */
    cr_expect_eq(collect(WR_VICTIMS_ANY, 100), 3);
    cr_expect_eq(victims[0], WR_PAGE_RESIDENT_DIRTY * WR_CHUNK_PAGES);
    cr_expect_eq(victims[1], WR_PAGE_RESIDENT_CLEAN * WR_CHUNK_PAGES);
    cr_expect_eq(victims[2], 13 * WR_CHUNK_PAGES + 2);
    wr_page_put(&room_space.pages, &hold);
}

Test(aging, a_chunk_of_pages_that_stay_can_be_skipped)
{
    open_aging();
    settle(0, 10, WR_PAGE_RESIDENT_DIRTY);
    settle(1, 10, WR_PAGE_RESIDENT_DIRTY);
    cr_expect_eq(collect(WR_VICTIMS_ANY, 5), 5);
    cr_expect_eq(collect(WR_VICTIMS_ANY, 5), 5);
    cr_expect_eq(victims[0], 0, "the same again: nobody took them");
    wr_aging_skip(&aging);
    cr_expect_eq(collect(WR_VICTIMS_ANY, 5), 5);
    cr_expect_eq(victims[0], WR_CHUNK_PAGES);
    for (uint32_t i = 0; i < 2 * CHUNKS; i++)
        wr_aging_skip(&aging); /* any number of times */
    cr_expect_eq(collect(WR_VICTIMS_ANY, 1), 1);
}

/* --- The clean hand -------------------------------------------------------------------------- */

Test(aging, the_clean_hand_takes_only_what_costs_nothing)
{
    open_aging();
    settle(0, 100, WR_PAGE_RESIDENT_DIRTY);
    settle(1, 50, WR_PAGE_RESIDENT_CLEAN);
    settle(2, 50, WR_PAGE_RESIDENT_DIRTY);
    room_set_flag(7, WR_PAGE_FREED, true); /* its bytes are not needed */
    cr_expect_eq(collect(WR_VICTIMS_SWEEP, 51), 51);
    cr_expect_eq(victims[0], 7);
    for (uint32_t i = 0; i < 50; i++)
        cr_expect_eq(victims[1 + i], WR_CHUNK_PAGES + i);
}

Test(aging, the_clean_hand_stays_within_the_window)
{
    open_aging();
    for (uint32_t chunk = 0; chunk < CHUNKS; chunk++)
        settle(chunk, 100, chunk < 8 ? WR_PAGE_RESIDENT_DIRTY : WR_PAGE_RESIDENT_CLEAN);
    /* A quarter of 1600 pages is 4 chunks: all dirty. */
    cr_expect_eq(collect(WR_VICTIMS_CLEAN, 1000), 0);
    cr_expect_eq(aging.clean_hand, 4);
    cr_expect_eq(aging.write_hand, 0, "which it never moves");
    cr_expect_eq(collect(WR_VICTIMS_CLEAN, 1000), 0);
    cr_expect_eq(aging.clean_hand, 4, "it is as far ahead as it may be");
    /* All of memory, when there is overload. */
    cr_expect_eq(collect(WR_VICTIMS_SWEEP, 1000), 800);
    cr_expect_eq(aging.write_hand, 0);
}

Test(aging, as_the_write_hand_goes_on_the_clean_hand_may)
{
    open_aging();
    for (uint32_t chunk = 0; chunk < CHUNKS; chunk++)
        settle(chunk, 100, chunk % 2 ? WR_PAGE_RESIDENT_CLEAN : WR_PAGE_RESIDENT_DIRTY);
    cr_expect_eq(collect(WR_VICTIMS_CLEAN, 1000), 200, "chunks 1 and 3 of 0 to 3");
    cr_expect_eq(collect(WR_VICTIMS_ANY, 250), 250); /* into chunk 2 */
    cr_expect_eq(aging.write_hand, 2);
    cr_expect_eq(collect(WR_VICTIMS_CLEAN, 1000), 100, "chunk 5 of 4 and 5");
    cr_expect_eq(victims[0], 5 * WR_CHUNK_PAGES);
    cr_expect_eq(aging.clean_hand, 6);
}

Test(aging, the_write_hand_pushes_the_clean_hand_before_it)
{
    open_aging();
    settle(0, 10, WR_PAGE_RESIDENT_DIRTY);
    settle(5, 10, WR_PAGE_RESIDENT_DIRTY);
    cr_expect_eq(aging.clean_hand, aging.write_hand);
    cr_expect_eq(collect(WR_VICTIMS_ANY, 15), 15);
    cr_expect_eq(aging.write_hand, 5);
    cr_expect_eq(aging.clean_hand, 5, "behind it would seem a whole round ahead");
    wr_aging_skip(&aging);
    cr_expect_eq(aging.clean_hand, 6);
}

Test(aging, hands_beyond_the_last_region_begin_again)
{
    open_aging();
    settle(0, 3, WR_PAGE_RESIDENT_CLEAN);
    aging.write_hand = aging.clean_hand = 1000;
    cr_expect_eq(collect(WR_VICTIMS_CLEAN, 10), 0, "a window of nothing: 3 / 4 pages");
    cr_expect_eq(collect(WR_VICTIMS_ANY, 3), 3);
    cr_expect_lt(aging.write_hand, CHUNKS);
    cr_expect_lt(aging.clean_hand, CHUNKS);
}

/* --- Colours --------------------------------------------------------------------------------- */

Test(aging, the_colour_of_a_moment)
{
    static const struct {
        int64_t free;
        enum wr_aging_mode mode;
    } moments[] = {
        {-100, WR_AGING_RED},  {0, WR_AGING_RED},     {9, WR_AGING_RED},
        {10, WR_AGING_ORANGE}, {19, WR_AGING_ORANGE}, {20, WR_AGING_YELLOW},
        {29, WR_AGING_YELLOW}, {30, WR_AGING_GREEN},  {1000, WR_AGING_GREEN},
    };

    for (size_t i = 0; i < sizeof(moments) / sizeof(moments[0]); i++) {
        cr_expect_eq(wr_aging_mode(moments[i].free, 10, 20, 30, false), moments[i].mode, "%zu", i);
        cr_expect_eq(wr_aging_mode(moments[i].free, 10, 20, 30, true), WR_AGING_RED,
                     "somebody waits");
    }
}
