/* SPDX-License-Identifier: MIT */

/* Runs: neighbours that can go the same way, and not one that would have to be waited for. */

#include "runtime/paging/run.h"

#include <criterion/criterion.h>

#include "tests/unit/room_kit.h"

static struct wr_region *region;
static struct wr_run run;

static void open_run(uint32_t pages)
{
    room_open();
    room_map(WR_CHUNK_PAGES); /* a neighbour, so that numbers do not begin at 0 */
    region = room_map(pages);
    room_map(WR_CHUNK_PAGES);
}

/* Touch this page of the region. */
static uint32_t gather(uint32_t page, uint32_t around, int direction)
{
    const struct wr_plan plan = {.around = around, .direction = direction};
    struct wr_hold first;

    wr_page_take(&room_space.pages, region->first + page, &first);
    wr_run_gather(&run, region, &first, &plan);
    for (uint32_t i = 0; i < run.count; i++)
        cr_expect_eq((int)run.hold[i].number, (int)(region->first + page) + direction * (int)i);
    return run.count;
}

static bool is_locked(uint32_t page)
{
    struct wr_hold hold;

    if (!wr_page_take_try(&room_space.pages, region->first + page, &hold))
        return true;
    wr_page_put(&room_space.pages, &hold);
    return false;
}

static void put_all(void)
{
    wr_run_put_neighbours(&run);
    wr_page_put(&room_space.pages, &run.hold[0]);
    for (uint32_t i = 0; i < region->pages; i++)
        cr_expect_not(is_locked(i), "page %u", i);
}

static void bring(uint32_t page, enum wr_page_state state, uint32_t frame)
{
    room_bring_with(region->first + page, state, WR_SLOT_NONE, frame);
}

Test(run, as_many_as_planned)
{
    open_run(100);
    cr_expect_eq(gather(10, 1, 1), 1);
    put_all();
    cr_expect_eq(gather(10, 5, 1), 5);
    for (uint32_t i = 0; i < 30; i++)
        cr_expect_eq(is_locked(i), i >= 10 && i < 15, "page %u", i);
    put_all();
    cr_expect_eq(gather(10, 1000, 1), WR_RUN_MAX);
    put_all();
}

Test(run, upward_and_downward)
{
    open_run(100);
    gather(50, 8, 1);
    cr_expect_eq(wr_run_addr(&run), region->addr + 50ull * WEIR_PAGE_BYTES);
    put_all();
    gather(50, 8, -1);
    cr_expect_eq(run.count, 8);
    cr_expect_eq(wr_run_addr(&run), region->addr + 43ull * WEIR_PAGE_BYTES);
    put_all();
}

Test(run, it_ends_with_the_region)
{
    open_run(20);
    cr_expect_eq(gather(15, 32, 1), 5);
    put_all();
    cr_expect_eq(gather(4, 32, -1), 5);
    cr_expect_eq(wr_run_addr(&run), region->addr);
    put_all();
}

Test(run, it_ends_at_a_page_that_is_held)
{
    struct wr_hold held;

    open_run(100);
    wr_page_take(&room_space.pages, region->first + 13, &held);
    cr_expect_eq(gather(10, 32, 1), 3);
    cr_expect_not(is_locked(14));
    wr_run_put_neighbours(&run);
    cr_expect_eq(run.count, 1);
    cr_expect(is_locked(10), "the first stays held");
    cr_expect_not(is_locked(11));
    wr_page_put(&room_space.pages, &run.hold[0]);
    wr_page_put(&room_space.pages, &held);
}

Test(run, neighbours_are_in_the_same_state)
{
    open_run(100);
    for (uint32_t state = 1; state < WR_PAGE_STATE_COUNT; state++) {
        bring(2 * state + 1, (enum wr_page_state)state, WR_FRAME_NONE);
        cr_expect_eq(gather(2 * state, 32, 1), 1, "an empty page before state %u", state);
        put_all();
    }
    cr_expect_eq(gather(40, 32, 1), 32, "empty pages");
    put_all();
}

/* Each of the others needs a system call of its own, or a look at its bytes. */
Test(run, only_three_states_go_together)
{
    open_run(3 * WR_PAGE_STATE_COUNT);
    for (uint32_t state = 0; state < WR_PAGE_STATE_COUNT; state++) {
        bool together = state == WR_PAGE_EMPTY || state == WR_PAGE_RESIDENT_CLEAN ||
                        state == WR_PAGE_CACHED_CLEAN;

        for (uint32_t i = 0; i < 3; i++)
            bring(3 * state + i, (enum wr_page_state)state, 10 + i);
        cr_expect_eq(gather(3 * state, 3, 1), together ? 3 : 1, "state %u", state);
        put_all();
    }
}

Test(run, cached_pages_lie_in_neighbouring_frames)
{
    open_run(100);
    for (uint32_t i = 0; i < 8; i++)
        bring(i, WR_PAGE_CACHED_CLEAN, i < 5 ? 100 + i : 200 + i);
    cr_expect_eq(gather(0, 32, 1), 5);
    put_all();
    cr_expect_eq(gather(7, 32, -1), 3);
    put_all();
    for (uint32_t i = 0; i < 4; i++)
        bring(20 + i, WR_PAGE_CACHED_CLEAN, 300 - i); /* the wrong way round */
    cr_expect_eq(gather(20, 32, 1), 1);
    put_all();
}

Test(run, a_page_with_a_free_hint_is_not_taken_along)
{
    open_run(100);
    for (uint32_t i = 0; i < 8; i++)
        bring(i, WR_PAGE_RESIDENT_CLEAN, WR_FRAME_NONE);
    room_set_flag(region->first + 4, WR_PAGE_FREED, true);
    cr_expect_eq(gather(0, 32, 1), 4);
    put_all();
    cr_expect_eq(gather(4, 32, 1), 4, "but it may be the first");
    put_all();
}

Test(run, only_as_many_as_there_are_spare_frames)
{
    int64_t free;

    open_run(100);
    gather(0, 32, 1);
    free = wr_frames_free(&room_space.frames);
    wr_run_take_frames(&run);
    cr_expect_eq(run.count, 32);
    cr_expect_eq(wr_frames_free(&room_space.frames), free - 31, "the first has one already");
    put_all();
    wr_frames_overdraw(&room_space.frames, (uint32_t)(free - 31 - ROOM_MIN - 6));
    gather(0, 32, 1);
    wr_run_take_frames(&run);
    cr_expect_eq(run.count, 7);
    cr_expect_eq(wr_frames_free(&room_space.frames), ROOM_MIN);
    cr_expect(is_locked(6));
    cr_expect_not(is_locked(7));
    put_all();
    gather(0, 32, 1);
    wr_run_take_frames(&run);
    cr_expect_eq(run.count, 1, "none is spare");
    put_all();
}
