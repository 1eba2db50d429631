/* SPDX-License-Identifier: MIT */

/* Ranges: a discard comes in bounded steps, and what was never touched is not looked at. */

#include "runtime/paging/range.h"

#include <criterion/criterion.h>

#include "runtime/memory/chunk.h"
#include "tests/unit/room_kit.h"

#define CHUNKS 12u

static uint32_t discard_all(struct wr_region *region, uint32_t *most_p)
{
    uint32_t steps = 0, done = 0;
    int error = WEIR_OK;

    *most_p = 0;
    while (done < region->pages) {
        uint32_t before = room_host.drop.pages;
        uint32_t step = wr_range_discard(region, region->first + done, region->pages - done,
                                         &error);

        cr_assert_gt(step, 0);
        done += step;
        steps++;
        if (room_host.drop.pages - before > *most_p)
            *most_p = room_host.drop.pages - before;
    }
    cr_expect_eq(done, region->pages);
    cr_expect_eq(error, WEIR_OK);
    return steps;
}

Test(range, a_discard_comes_in_steps)
{
    struct wr_region *region;
    uint32_t most;

    room_open();
    region = room_map(CHUNKS * WR_CHUNK_PAGES);
    for (uint32_t i = 0; i < CHUNKS * WR_CHUNK_PAGES; i += 3)
        room_bring(region->first + i, WR_PAGE_RESIDENT_ZERO);
    cr_expect_eq(discard_all(region, &most), CHUNKS / WR_RANGE_CHUNKS);
    /* Each page once, and each chunk once for its table. */
    cr_expect_leq(most, WR_RANGE_CHUNKS * 2 * WR_CHUNK_PAGES);
    for (uint32_t i = 0; i < CHUNKS * WR_CHUNK_PAGES; i++)
        cr_assert_eq(wr_page_peek(&room_space.pages, region->first + i), WR_PAGE_EMPTY);
}

Test(range, what_was_never_touched_costs_no_step_and_no_call)
{
    struct wr_region *region;
    uint32_t most;

    room_open();
    region = room_map(CHUNKS * WR_CHUNK_PAGES);
    cr_expect_eq(discard_all(region, &most), 1);
    cr_expect_eq(room_host.drop.calls, 0);
    room_host.host.returns_tables = true;
    room_bring(region->first + 5 * WR_CHUNK_PAGES + 17, WR_PAGE_RESIDENT_ZERO);
    cr_expect_eq(discard_all(region, &most), 1);
    cr_expect_eq(room_host.drop.calls, 2); /* the page; then all that its page table reaches */
    cr_expect_eq(room_host.drop.pages, 1 + WR_CHUNK_PAGES);
    cr_expect_eq(room_host.drop.addr, region->addr + 5ull * WR_CHUNK_PAGES * WEIR_PAGE_BYTES);
    cr_expect(wr_chunk_is_untouched(&room_space.pages, region->first / WR_CHUNK_PAGES + 5));
    cr_expect_eq(discard_all(region, &most), 1);
    cr_expect_eq(room_host.drop.calls, 2);
}

Test(range, the_table_of_a_chunk_that_is_not_all_ours_is_left_alone)
{
    struct wr_region *region;
    uint32_t most;

    room_open();
    room_host.host.returns_tables = true;
    region = room_map(100);
    room_bring(region->first + 99, WR_PAGE_RESIDENT_ZERO);
    cr_expect_eq(discard_all(region, &most), 1);
    cr_expect_eq(room_host.drop.pages, 1);
    cr_expect_eq(room_host.drop.addr, region->addr + 99ull * WEIR_PAGE_BYTES);
}

Test(range, a_pinned_page_keeps_its_chunk)
{
    struct wr_region *region;
    int error = WEIR_OK;
    struct wr_hold hold;

    room_open();
    region = room_map(2 * WR_CHUNK_PAGES);
    room_bring(region->first + 3, WR_PAGE_RESIDENT_DIRTY);
    room_bring(region->first + 4, WR_PAGE_RESIDENT_DIRTY);
    wr_page_take(&room_space.pages, region->first + 3, &hold);
    wr_hold_set_pins(&hold, 1);
    wr_page_put(&room_space.pages, &hold);
    cr_expect_eq(wr_range_discard(region, region->first, region->pages, &error), region->pages);
    cr_expect_eq(error, WEIR_EBUSY);
    cr_expect_eq(wr_page_peek(&room_space.pages, region->first + 3), WR_PAGE_RESIDENT_DIRTY);
    cr_expect_eq(wr_page_peek(&room_space.pages, region->first + 4), WR_PAGE_EMPTY);
    cr_expect_eq(room_host.drop.pages, 1);
}
