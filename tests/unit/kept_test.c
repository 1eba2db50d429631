/* SPDX-License-Identifier: MIT */

/* Kept regions: whose pages go first, which region is condemned, and what pages are counted as. */

#include "runtime/paging/kept.h"

#include <criterion/criterion.h>

#include "runtime/memory/object.h"
#include "runtime/paging/aging.h"
#include "runtime/paging/range.h"
#include "tests/unit/room_kit.h"

#define CHUNK WR_CHUNK_PAGES
#define AWAY  ((uint64_t)1 << 45)

static bool is_crowded;
static uint32_t forgotten;
static uint32_t victims[ROOM_PAGES];

static void forget(struct wr_pager *pager, uint64_t slot)
{
    (void)pager;
    (void)slot;
    forgotten++;
}

static bool crowded(struct wr_pager *pager)
{
    (void)pager;
    return is_crowded;
}

static void open_room(void)
{
    static const struct wr_pager_ops ops = {.forget = forget, .is_crowded = crowded};
    static struct wr_pager pager = {&ops};

    room_open();
    room_space.pager = &pager;
}

static void keep(struct wr_region *region)
{
    atomic_store(&region->keep, WR_KEEP_MOVING);
    wr_region_hide(region, region->addr + AWAY, region->reserve_bytes);
    wr_space_set_kept(&room_space, region, true);
}

static uint64_t count_of(enum wr_counter counter)
{
    return wr_stats_sum(&room_stats, counter);
}

/* --- What pages are counted as --------------------------------------------------------------- */

static void expect_classes(uint64_t own, uint64_t shared, uint64_t ahead, uint64_t reusable,
                           uint64_t pending)
{
    struct wr_classes c = wr_space_classes(&room_space);

    cr_expect_eq(c.private_pages, own, "private: %lu", (unsigned long)c.private_pages);
    cr_expect_eq(c.shared, shared, "shared: %lu", (unsigned long)c.shared);
    cr_expect_eq(c.ahead, ahead, "ahead: %lu", (unsigned long)c.ahead);
    cr_expect_eq(c.reusable, reusable, "reusable: %lu", (unsigned long)c.reusable);
    cr_expect_eq(c.pending, pending, "pending: %lu", (unsigned long)c.pending);
}

static void bring_all_states(const struct wr_region *region)
{
    for (uint32_t state = 0; state < WR_PAGE_STATE_COUNT; state++)
        room_bring(region->first + state, (enum wr_page_state)state);
}

/* In each region: three resident ones with a frame and CACHED_CLEAN; two are pending. */
Test(kept, a_page_in_memory_is_of_one_class)
{
    struct wr_region *one, *two;
    struct weir_object *object;

    open_room();
    one = room_map(CHUNK);
    two = room_map(CHUNK);
    cr_assert_eq(wr_object_open(&room_space, CHUNK * WEIR_PAGE_BYTES, "object", &object), WEIR_OK);
    expect_classes(0, 0, 0, 0, 0);
    bring_all_states(one);
    expect_classes(4, 0, 0, 0, 2);
    bring_all_states(two);
    bring_all_states(object->region);
    expect_classes(8, 4, 0, 0, 6);
    room_set_flag(one->first + WR_PAGE_CACHED_CLEAN, WR_PAGE_AHEAD, true);
    room_set_flag(one->first + WR_PAGE_RESIDENT_CLEAN, WR_PAGE_AHEAD, true);
    room_set_flag(one->first + WR_PAGE_READING, WR_PAGE_AHEAD, true);
    room_set_flag(one->first + WR_PAGE_CACHED_DIRTY, WR_PAGE_AHEAD, true);
    expect_classes(6, 4, 2, 0, 6);
    keep(two);
    expect_classes(2, 4, 2, 4, 6);
    cr_expect_eq(room_space.kept_bytes, CHUNK * WEIR_PAGE_BYTES);
    room_set_flag(one->first + WR_PAGE_RESIDENT_CLEAN, WR_PAGE_AHEAD, false);
    expect_classes(3, 4, 1, 4, 6);
    cr_assert_eq(wr_region_publish(two), WEIR_OK);
    wr_space_set_kept(&room_space, two, false);
    expect_classes(7, 4, 1, 0, 6);
    cr_expect_eq(room_space.kept_bytes, 0);
}

Test(kept, counts_of_a_region_that_went_are_nobodys)
{
    struct wr_region *region;

    open_room();
    region = room_map(CHUNK);
    bring_all_states(region);
    atomic_store(&region->is_going, true);
    wr_space_abandon(&room_space, region);
    expect_classes(0, 0, 0, 0, 2);
    for (uint32_t state = 1; state < WR_PAGE_STATE_COUNT; state++) {
        struct wr_hold hold;

        wr_page_take(&room_space.pages, region->first + state, &hold);
        wr_page_move(&hold, (enum wr_page_state)state, WR_PAGE_EMPTY);
        wr_page_put(&room_space.pages, &hold);
    }
    wr_space_unmap(&room_space, region);
    region = room_map(CHUNK); /* of the same number */
    expect_classes(0, 0, 0, 0, 0);
    bring_all_states(region);
    expect_classes(4, 0, 0, 0, 2);
}

/* --- Who goes first -------------------------------------------------------------------------- */

Test(kept, it_is_found_by_nobody_but_its_name)
{
    struct wr_region *region;
    uint64_t addr;

    open_room();
    region = room_map(10);
    addr = region->addr;
    cr_expect(wr_region_was_ours(addr));
    keep(region);
    cr_expect_not(wr_region_was_ours(addr));
    cr_expect_not(wr_region_was_ours(region->addr));
    cr_expect_eq(region->addr, addr + AWAY);
    cr_expect_eq(wr_space_region(&room_space, region->first), region);
    cr_expect_eq(wr_space_find_kept(&room_space, "room", WR_KEEP_KEPT), region);
    cr_expect_null(wr_space_find_kept(&room_space, "room", WR_KEEP_SPENT));
    cr_expect_null(wr_space_find_kept(&room_space, "roo", WR_KEEP_KEPT));
    cr_expect_eq(room_space.mapped_bytes, 0);
    cr_expect_eq(room_space.places[region->number].addr, 0, "no source of heat looks there");
}

Test(kept, pages_of_the_oldest_are_the_first_victims_and_each_is_one_once)
{
    struct wr_region *mapped, *young, *old;

    open_room();
    mapped = room_map(CHUNK);
    young = room_map(2 * CHUNK);
    old = room_map(CHUNK);
    for (uint32_t i = 0; i < 30; i++) {
        room_bring(mapped->first + i, WR_PAGE_RESIDENT_CLEAN);
        room_bring(young->first + CHUNK + i, WR_PAGE_RESIDENT_DIRTY);
        room_bring(old->first + 2 * i, WR_PAGE_RESIDENT_CLEAN);
    }
    cr_expect_null(wr_kept_to_take(&room_space));
    keep(old);
    keep(young);
    cr_expect_eq(wr_aging_collect(room_space.aging, WR_VICTIMS_KEPT, 20, victims), 20);
    for (uint32_t i = 0; i < 20; i++)
        cr_expect_eq(victims[i], old->first + 2 * i);
    cr_expect_eq(wr_aging_collect(room_space.aging, WR_VICTIMS_KEPT, 20, victims), 20);
    for (uint32_t i = 0; i < 20; i++)
        cr_expect_eq(victims[i], i < 10 ? old->first + 40 + 2 * i : young->first + CHUNK + i - 10);
    cr_expect_eq(wr_aging_collect(room_space.aging, WR_VICTIMS_KEPT, 100, victims), 20);
    cr_expect_eq(wr_aging_collect(room_space.aging, WR_VICTIMS_KEPT, 100, victims), 0);
}

static uint32_t pages_of(const struct wr_region *region)
{
    uint32_t pages = 0;

    for (uint32_t i = 0; i < region->pages; i++)
        pages += wr_page_peek(&room_space.pages, region->first + i) != WR_PAGE_EMPTY;
    return pages;
}

static struct wr_region *map_out(uint32_t pages)
{
    struct wr_region *region = room_map(pages);

    for (uint32_t i = 0; i < pages; i++)
        room_bring_with(region->first + i, WR_PAGE_OUT, i, WR_FRAME_NONE);
    return region;
}

#define LONG (2 * WR_RANGE_CHUNKS * CHUNK)

Test(kept, the_oldest_is_condemned_whole_and_emptied_in_steps)
{
    struct wr_region *old, *young;

    open_room();
    young = map_out(CHUNK);
    old = map_out(LONG);
    cr_expect_not(wr_kept_relieve(&room_space, true), "nothing is kept");
    keep(old);
    keep(young);
    cr_expect_not(wr_kept_relieve(&room_space, false), "nothing is needed");
    cr_expect_not(wr_kept_relieve_idle(&room_space));
    cr_expect_eq(pages_of(old), LONG);
    is_crowded = true;
    cr_expect(wr_kept_relieve(&room_space, false));
    cr_expect_eq(atomic_load(&old->keep), WR_KEEP_SPENT);
    cr_expect_null(wr_space_find_kept(&room_space, "none", WR_KEEP_KEPT));
    cr_expect_eq(pages_of(old), LONG / 2, "a step");
    cr_expect_eq(forgotten, LONG / 2);
    cr_expect(wr_kept_relieve(&room_space, true));
    cr_expect_eq(pages_of(old), 0);
    cr_expect_eq(atomic_load(&young->keep), WR_KEEP_KEPT, "one may be enough");
    cr_expect_eq(count_of(WR_COUNT_regions_forgotten), 1);
    cr_expect(wr_kept_relieve(&room_space, false), "it was not");
    cr_expect_eq(pages_of(young), 0);
    cr_expect_eq(count_of(WR_COUNT_regions_forgotten), 2);
    cr_expect_not(wr_kept_relieve(&room_space, true), "nothing is left");
}

Test(kept, what_is_condemned_is_emptied_though_nobody_needs_it_any_more)
{
    struct wr_region *region;

    open_room();
    region = map_out(LONG);
    keep(region);
    cr_expect(wr_kept_relieve(&room_space, true));
    cr_expect_gt(pages_of(region), 0);
    cr_expect(wr_kept_relieve_idle(&room_space));
    cr_expect_eq(pages_of(region), 0);
    cr_expect_not(wr_kept_relieve_idle(&room_space));
    cr_expect_eq(room_space.kept_count, 1, "its page numbers are left");
}

Test(kept, who_is_had_back_or_going_is_left_alone)
{
    struct wr_region *back, *going;

    open_room();
    back = map_out(CHUNK);
    going = map_out(CHUNK);
    keep(back);
    keep(going);
    cr_assert_eq(wr_region_publish(back), WEIR_OK);
    wr_space_set_kept(&room_space, back, false);
    atomic_store(&going->is_going, true);
    cr_expect_null(wr_kept_to_take(&room_space));
    cr_expect_not(wr_kept_relieve(&room_space, true));
    cr_expect_eq(pages_of(back) + pages_of(going), 2 * CHUNK);
}

Test(kept, room_for_regions_is_told_before_it_is_taken)
{
    open_room();
    cr_expect(wr_space_has_room(&room_space, (uint64_t)ROOM_PAGES * WEIR_PAGE_BYTES, 0));
    (void)room_map(CHUNK + 1);
    cr_expect(wr_space_has_room(&room_space, ((uint64_t)ROOM_PAGES - 2 * CHUNK) * WEIR_PAGE_BYTES,
                                WEIR_PAGE_BYTES));
    cr_expect_not(wr_space_has_room(&room_space, WEIR_PAGE_BYTES,
                                    ((uint64_t)ROOM_PAGES - 2 * CHUNK + 1) * WEIR_PAGE_BYTES));
    cr_expect(wr_space_has_room(&room_space, ((uint64_t)ROOM_PAGES + 1) * WEIR_PAGE_BYTES, 0),
              "nobody can make so much");
}
