/* SPDX-License-Identifier: MIT */
#include "tests/unit/swap_kit.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/memory/gate.h"

struct wr_swap *swap;
struct wr_lane *lane;
struct wr_region *region;

static void close_swap(void)
{
    swap->pager.ops->lane_close(lane);
    wr_swap_close(swap);
}

uint32_t add(const char *spec)
{
    uint32_t number = UINT32_MAX;

    cr_assert_eq(wr_swap_add(swap, spec, &number), WEIR_OK, "%s: %s", spec, room_events.text);
    return number;
}

void open_swap(const char *spec)
{
    const struct wr_swap_wish wish = {.zero_elision = true,
                                      .checksums = true,
                                      .keep_percent = 50,
                                      .writes_max = 2,
                                      .clean_percent = 85};

    room_open();
    cr_assert_eq(wr_swap_open(&room_space, &wish, &swap), WEIR_OK);
    room_space.pager = &swap->pager;
    cr_assert_eq(swap->pager.ops->lane_open(&swap->pager, &lane), WEIR_OK);
    if (spec)
        add(spec);
    region = room_map(4 * C);
    atexit(close_swap);
}

uint64_t count_of(enum wr_counter counter)
{
    return wr_stats_sum(&room_stats, counter);
}

/* --- Staging pages --------------------------------------------------------------------------- */

void stamp(uint8_t *bytes, uint32_t page)
{
    memset(bytes, (int)(1 + page % 255), WEIR_PAGE_BYTES);
    memcpy(bytes + 100, &page, sizeof(page));
}

bool is_stamped(const uint8_t *bytes, uint32_t page)
{
    uint8_t expected[WEIR_PAGE_BYTES];

    stamp(expected, page);
    return memcmp(bytes, expected, sizeof(expected)) == 0;
}

/* Revoke so many pages from this one on into a new extent; it is the caller's. */
struct wr_extent *stage(uint32_t first, uint32_t count)
{
    struct wr_extent *extent = wr_staging_take(&room_space.staging);

    cr_assert_not_null(extent);
    wr_frames_overdraw(&room_space.frames, count);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t page = region->first + first + i, frame = extent->first_frame + i;

        room_bring_with(page, WR_PAGE_CACHED_DIRTY, WR_SLOT_NONE, frame);
        wr_staging_hold(&room_space.staging, extent, i, page);
        stamp(wr_host_frame(room_space.host, frame), page);
    }
    extent->fill = count;
    return extent;
}

/* Inspect and put in the queue: how many need a write. */
uint32_t put_in_queue(struct wr_extent *extent)
{
    struct wr_pass pass = wr_gate_enter();
    uint32_t live = swap->pager.ops->inspect(&swap->pager, extent);

    wr_staging_queue(&room_space.staging, extent, live);
    wr_gate_leave(pass);
    return live;
}

enum wr_laundered launder(void)
{
    struct wr_pass pass = wr_gate_enter();
    enum wr_laundered laundered = swap->pager.ops->launder(lane);

    wr_gate_leave(pass);
    return laundered;
}

void finish(void)
{
    while (!swap->pager.ops->is_idle(lane))
        swap->pager.ops->reap(lane);
}

enum wr_page_state state_of(uint32_t page)
{
    return wr_page_peek(&room_space.pages, region->first + page);
}

int read_page(uint32_t page, uint8_t *bytes)
{
    struct wr_hold hold = room_look(region->first + page);

    return swap->pager.ops->read(&swap->pager, wr_hold_slot(&hold), region->first + page,
                                 wr_hold_sum(&hold), bytes);
}

void expect_all_returned(void)
{
    cr_expect_eq(wr_frames_free(&room_space.frames), room_space.frames.total);
    cr_expect_eq(room_space.staging.held_count, 0);
    cr_expect_eq(swap->pager.ops->coming(lane), 0);
}

void touch(uint32_t page, enum wr_page_state from)
{
    struct wr_hold hold;

    wr_page_take(&room_space.pages, region->first + page, &hold);
    wr_page_move(&hold, from, WR_PAGE_RESIDENT_DIRTY);
    wr_hold_set_frame(&hold, WR_FRAME_NONE);
    wr_hold_set_slot(&hold, WR_SLOT_NONE);
    wr_page_put(&room_space.pages, &hold);
}
