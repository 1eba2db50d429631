/* SPDX-License-Identifier: MIT */

/* Evict: no page is forgotten where it cannot leave, and no more leave than may wait. */

#include "runtime/paging/evict.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/memory/gate.h"
#include "runtime/memory/object.h"
#include "runtime/paging/aging.h"
#include "tests/unit/swap_kit.h"

#define PAGES 1200u
#define VIEWS 16u /* a crowd: see views_many */

static struct wr_evict evict;
static struct weir_object *object;
static struct wr_region *views[VIEWS];

static void open_evict(void)
{
    open_swap("mem:?size=8m");
    wr_evict_init(&evict, &room_space, 64);
    /* No page of zeros: it would need no write. */
    memset(wr_host_frame(room_space.host, room_space.staging.first_frame), 1,
           ROOM_EXTENTS * WR_EXTENT_FRAMES * (uint64_t)WEIR_PAGE_BYTES);
}

static void open_crowd(void)
{
    open_evict();
    cr_assert_eq(wr_object_open(&room_space, PAGES * (uint64_t)WEIR_PAGE_BYTES, "crowd", &object),
                 WEIR_OK);
    for (uint32_t i = 0; i < VIEWS; i++)
        cr_assert_eq(wr_object_map_view(object, 0, PAGES * (uint64_t)WEIR_PAGE_BYTES, &views[i]),
                     WEIR_OK);
    cr_assert(wr_evict_is_crowded(&room_space, object->region->first));
}

static void close_views(void)
{
    for (uint32_t i = 0; i < VIEWS; i++) {
        views[i]->is_going = true;
        wr_object_unmap_view(views[i]);
        free(views[i]);
    }
}

/* Neighbours of a region, all of one state; how many left. */
static uint32_t evict_lot(uint32_t first, uint32_t count, enum wr_page_state state)
{
    uint32_t pages[WR_EVICT_LOT], evicted;
    struct wr_pass pass;

    for (uint32_t i = 0; i < count; i++) {
        pages[i] = first + i;
        room_bring(pages[i], state);
    }
    pass = wr_gate_enter();
    evicted = wr_evict_lot(&evict, pages, count, false);
    wr_gate_leave(pass);
    return evicted;
}

static uint64_t returned(void)
{
    return wr_arrivals_count(&room_space.aging->small);
}

Test(evict, what_finds_no_extent_returns)
{
    open_evict();
    for (uint32_t i = 0; i < ROOM_EXTENTS; i++)
        cr_assert_not_null(wr_staging_take(&room_space.staging));
    cr_expect_eq(evict_lot(region->first, 20, WR_PAGE_RESIDENT_DIRTY), 0);
    cr_expect_eq(returned(), 20);
}

Test(evict, what_may_not_wait_returns)
{
    open_evict();
    cr_assert_eq(put_in_queue(stage(C, C)), C);
    cr_expect_eq(evict_lot(region->first, 20, WR_PAGE_RESIDENT_DIRTY), 0);
    cr_expect_eq(returned(), 20);
    cr_expect_eq(room_space.staging.extents_seen, 1);
}

Test(evict, dirty_pages_of_a_crowd_return_where_clean_ones_leave)
{
    open_crowd();
    for (uint32_t i = 0; i < ROOM_EXTENTS; i++)
        cr_assert_not_null(wr_staging_take(&room_space.staging));
    cr_expect_eq(evict_lot(object->region->first, 20, WR_PAGE_RESIDENT_DIRTY), 0);
    cr_expect_eq(returned(), 20);
    cr_expect_eq(evict_lot(object->region->first + 100, 200, WR_PAGE_RESIDENT_CLEAN), 200);
    cr_expect_eq(returned(), 20);
    cr_expect_eq(room_host.punch.pages, 200);
    close_views();
}

/* Four megabytes wait at most, beside what is deferred; here that is nothing. */
Test(evict, a_crowd_waits_no_longer_than_others)
{
    uint32_t first;

    open_crowd();
    first = object->region->first;
    cr_assert_eq(put_in_queue(stage(C, C - 1)), C - 1);
    cr_expect_eq(evict_lot(first, C, WR_PAGE_RESIDENT_DIRTY), C);
    cr_expect_eq(evict_lot(first + C, 150, WR_PAGE_RESIDENT_DIRTY), 0);
    cr_expect_eq(returned(), 150);
    cr_expect_leq(room_space.staging.unsubmitted_most, 2 * WR_EXTENT_FRAMES);
    while (room_space.staging.live_count > 0) {
        launder();
        finish();
    }
    cr_expect_eq(evict_lot(first + C + 150, 150, WR_PAGE_RESIDENT_DIRTY), 150);
    close_views();
}
