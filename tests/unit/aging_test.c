/* SPDX-License-Identifier: MIT */

/* Aging: the small queue, the hands of the main queue, the lists of victims and who takes them. */

#include "runtime/paging/aging.h"

#include <criterion/criterion.h>

#include "runtime/paging/kpaged.h"
#include "tests/unit/room_kit.h"

#define CHUNK WR_CHUNK_PAGES

static struct wr_aging *aging;
static struct wr_region *region;
static uint32_t victims[ROOM_PAGES];

static void open_aging(void)
{
    room_open();
    region = room_map(ROOM_PAGES);
    aging = room_space.aging;
}

/* A page is mapped, as one that was needed once (small queue) or as one that has proven itself. */
static void bring(uint32_t page, enum wr_page_state state, bool is_main)
{
    room_bring(page, state);
    room_set_flag(page, WR_PAGE_MAIN, is_main);
    if (!is_main)
        wr_aging_arrived(aging, page, 1, 1, false);
}

static void bring_many(uint32_t from, uint32_t count, enum wr_page_state state, bool is_main)
{
    for (uint32_t i = 0; i < count; i++)
        bring(from + i, state, is_main);
}

static void leave(uint32_t page)
{
    struct wr_hold hold;

    wr_page_take(&room_space.pages, page, &hold);
    wr_page_move(&hold, wr_hold_state(&hold), WR_PAGE_EMPTY);
    wr_page_put(&room_space.pages, &hold);
}

static uint32_t collect(enum wr_victims kind, uint32_t want)
{
    return wr_aging_collect(aging, kind, want, victims);
}

static void expect_victims(uint32_t found, uint32_t from, uint32_t count)
{
    cr_expect_eq(found, count);
    for (uint32_t i = 0; i < count && i < found; i++)
        cr_expect_eq(victims[i], from + i, "%u: %u", i, victims[i]);
}

static void warm(uint32_t page, int times)
{
    while (times-- > 0)
        wr_page_warm(&room_space.pages, page);
}

/* --- Arrivals -------------------------------------------------------------------------------- */

static uint32_t take_all(struct wr_arrivals *arrivals)
{
    uint32_t count = 0, page;

    while (wr_arrivals_take(arrivals, &page))
        count++;
    return count;
}

/* Both sides may be stopped at any instruction, for as long as others need to go round the ring. */
Test(aging, who_takes_and_is_stopped_does_not_end_the_queue)
{
    struct wr_arrivals arrivals;
    uint32_t page;

    cr_assert_eq(wr_arrivals_open(&arrivals, 1), WEIR_OK);
    for (uint32_t i = 0; i < 100; i++)
        cr_assert(wr_arrivals_put(&arrivals, i, 1, 1));
    atomic_fetch_add(&arrivals.begin, 1); /* it has page 0, and is stopped before it reads it */
    cr_assert_eq(take_all(&arrivals), 99);
    for (uint32_t i = 100; i <= arrivals.room; i++) {
        cr_assert(wr_arrivals_put(&arrivals, i, 1, 1));
        cr_assert(i == arrivals.room || wr_arrivals_take(&arrivals, &page));
    }
    atomic_store(&arrivals.pages[0], 0); /* it goes on, and takes what is there by now */
    cr_expect_not(wr_arrivals_take(&arrivals, &page), "it may come yet");
    for (uint32_t i = 0; i < 2 * arrivals.room; i++) {
        cr_assert(wr_arrivals_put(&arrivals, i, 1, 1), "%u", i);
        (void)wr_arrivals_take(&arrivals, &page);
    }
    cr_expect_lt(wr_arrivals_count(&arrivals), arrivals.room / 4);
    wr_arrivals_close(&arrivals);
}

Test(aging, who_puts_late_is_not_waited_for)
{
    struct wr_arrivals arrivals;
    uint32_t page;

    cr_assert_eq(wr_arrivals_open(&arrivals, 1), WEIR_OK);
    atomic_fetch_add(&arrivals.end, 1); /* it has a place, and is stopped before it puts page 7 */
    cr_assert(wr_arrivals_put(&arrivals, 8, 1, 1));
    cr_expect_not(wr_arrivals_take(&arrivals, &page), "it may come yet");
    for (uint32_t i = 0; i < arrivals.room / 4; i++)
        cr_assert(wr_arrivals_put(&arrivals, 8, 1, 1));
    cr_expect_eq(take_all(&arrivals), arrivals.room / 4 + 1);
    atomic_store(&arrivals.pages[0], 8);
    for (uint32_t i = 0; i < 2 * arrivals.room; i++) {
        cr_assert(wr_arrivals_put(&arrivals, 9, 1, 1));
        cr_assert(wr_arrivals_take(&arrivals, &page));
    }
    wr_arrivals_close(&arrivals);
}

/* --- Choosing -------------------------------------------------------------------------------- */

Test(aging, nothing_is_found_where_nothing_is)
{
    room_open();
    aging = room_space.aging;
    cr_expect_eq(wr_aging_pass(aging, 100), 0, "no region");
    room_map(ROOM_PAGES);
    cr_expect_eq(wr_aging_pass(aging, 100), 0, "no page");
    for (int kind = WR_VICTIMS_CLEAN; kind <= WR_VICTIMS_SWEEP; kind++)
        cr_expect_eq(collect((enum wr_victims)kind, 10), 0);
    wr_aging_close(NULL);
}

Test(aging, the_small_queue_gives_its_oldest_while_it_is_more_than_a_twentieth)
{
    open_aging();
    bring_many(700, ROOM_TOTAL / 20 + 50, WR_PAGE_RESIDENT_DIRTY, false);
    bring_many(0, 100, WR_PAGE_RESIDENT_DIRTY, true);
    cr_expect_eq(wr_aging_pass(aging, 60), 60);
    cr_expect_eq(wr_aging_listed(aging), 60);
    cr_expect_eq(wr_aging_listed_of(aging, region->number), 60);
    expect_victims(collect(WR_VICTIMS_LISTED, 50), 700, 50);
    expect_victims(collect(WR_VICTIMS_LISTED, 10), 0, 10); /* the share is not exceeded any more */
    cr_expect_eq(wr_aging_listed(aging), 0);
}

Test(aging, what_a_stream_brought_goes_before_all_others)
{
    open_aging();
    bring_many(1000, 500, WR_PAGE_RESIDENT_DIRTY, false);
    for (uint32_t i = 0; i < 300; i++)
        room_bring(2000 + i, WR_PAGE_RESIDENT_CLEAN);
    wr_aging_arrived(aging, 2000, 300, 1, true);
    cr_expect_eq(wr_aging_pass(aging, 150), 150);
    expect_victims(collect(WR_VICTIMS_LISTED, 100), 2000, 100); /* a twentieth is left to them */
    expect_victims(collect(WR_VICTIMS_LISTED, 50), 1000, 50);
}

Test(aging, a_stream_that_fills_memory_overflows_into_the_small_queue)
{
    open_aging();
    for (uint32_t i = 0; i < 2 * aging->passing.room / 32; i++)
        wr_aging_arrived(aging, 32 * (i % 64), 32, 1, true);
    cr_expect_leq(wr_arrivals_count(&aging->passing), aging->passing.room);
    cr_expect_gt(wr_arrivals_count(&aging->small), 0u);
}

Test(aging, runs_arrive_in_the_direction_of_the_walk)
{
    open_aging();
    for (uint32_t i = 0; i < 500; i++)
        room_bring(1000 + i, WR_PAGE_RESIDENT_DIRTY);
    wr_aging_arrived(aging, 1499, 500, -1, false);
    cr_expect_eq(wr_aging_pass(aging, 3), 3);
    cr_expect_eq(collect(WR_VICTIMS_LISTED, 10), 3);
    cr_expect_eq(victims[0], 1499);
    cr_expect_eq(victims[2], 1497);
}

Test(aging, the_small_queue_passes_over_who_left_or_rose)
{
    open_aging();
    bring_many(0, 500, WR_PAGE_RESIDENT_DIRTY, false);
    room_set_flag(0, WR_PAGE_MAIN, true);
    leave(1);
    cr_expect_eq(wr_aging_pass(aging, 1), 1);
    expect_victims(collect(WR_VICTIMS_LISTED, 1), 2, 1);
}

Test(aging, a_locked_page_of_the_small_queue_comes_later)
{
    struct wr_hold hold;

    open_aging();
    bring_many(0, 500, WR_PAGE_RESIDENT_DIRTY, false);
    wr_page_take(&room_space.pages, 0, &hold);
    cr_expect_eq(wr_aging_pass(aging, 1), 1);
    expect_victims(collect(WR_VICTIMS_LISTED, 1), 1, 1);
    wr_page_put(&room_space.pages, &hold);
    cr_expect_eq(wr_aging_pass(aging, 499), 499);
    cr_expect_eq(collect(WR_VICTIMS_LISTED, 500), 499);
    cr_expect_eq(victims[498], 0, "%u", victims[498]);
}

Test(aging, the_coldest_generation_goes_first)
{
    open_aging();
    bring_many(0, 64, WR_PAGE_RESIDENT_DIRTY, true);
    bring_many(CHUNK, 64, WR_PAGE_RESIDENT_DIRTY, true);
    warm(0, 30);
    cr_expect_eq(wr_aging_pass(aging, 20), 20);
    cr_expect_eq(collect(WR_VICTIMS_LISTED, 20), 20);
    for (uint32_t i = 0; i < 20; i++)
        cr_expect(victims[i] >= CHUNK || i % 8 == 0 || i % 4 == 0, "%u: %u", i, victims[i]);
}

Test(aging, warm_pages_are_probed_now_and_then)
{
    uint32_t probed = 0;

    open_aging();
    bring_many(0, 64, WR_PAGE_RESIDENT_DIRTY, true);
    bring_many(CHUNK, 512, WR_PAGE_RESIDENT_DIRTY, true);
    warm(0, 30);
    cr_expect_eq(wr_aging_pass(aging, 320), 320);
    cr_expect_eq(collect(WR_VICTIMS_LISTED, 320), 320);
    for (uint32_t i = 0; i < 320; i++)
        probed += victims[i] < 64;
    cr_expect_eq(probed, 10, "one in 32 of the hottest: %u", probed);
}

Test(aging, when_all_are_hot_the_hot_ones_go)
{
    open_aging();
    bring_many(0, 64, WR_PAGE_RESIDENT_DIRTY, true);
    warm(0, 30);
    cr_expect_eq(wr_aging_pass(aging, 64), 64);
}

Test(aging, pages_that_found_no_room_are_looked_for)
{
    open_aging();
    for (uint32_t i = 0; i < 50; i++)
        room_bring(i, WR_PAGE_RESIDENT_DIRTY);
    cr_expect_eq(wr_aging_pass(aging, 50), 0, "they are in no queue");
    wr_aging_lost(aging);
    cr_expect_eq(wr_aging_pass(aging, 50), 50);
}

/* The share of a budget that was made much larger is more than the queue has room for. */
Test(aging, nobody_looks_for_pages_while_there_is_no_room_for_them)
{
    const struct wr_frame_marks marks = {ROOM_MIN, ROOM_LOW, ROOM_HIGH};
    uint32_t lost;

    open_aging();
    wr_frames_resize(&room_space.frames, 100 * ROOM_TOTAL, &marks);
    bring_many(0, ROOM_PAGES, WR_PAGE_RESIDENT_DIRTY, false);
    lost = atomic_load(&aging->lost);
    cr_assert_gt(lost, 0);
    cr_expect_eq(wr_aging_pass(aging, 1), 1);
    cr_expect_eq(atomic_load(&aging->lost), lost);
}

Test(aging, a_full_small_queue_takes_no_more_and_says_so)
{
    uint32_t room;

    open_aging();
    room = aging->small.room;
    for (uint32_t i = 0; i < 2 * room / 32; i++)
        wr_aging_arrived(aging, 32 * (i % 64), 32, 1, false);
    cr_expect_leq(wr_arrivals_count(&aging->small), room);
    cr_expect_gt(aging->lost, 0u);
}

Test(aging, a_list_takes_no_more_than_it_has_room_for)
{
    open_aging();
    bring_many(0, ROOM_PAGES, WR_PAGE_RESIDENT_DIRTY, true);
    cr_expect_eq(wr_aging_pass(aging, 2 * WR_LIST_ROOM), WR_LIST_ROOM);
    cr_expect_eq(wr_aging_listed(aging), WR_LIST_ROOM);
    cr_expect_eq(collect(WR_VICTIMS_LISTED, ROOM_PAGES), WR_LIST_ROOM);
}

/* --- Taking ---------------------------------------------------------------------------------- */

/* A list of count victims of the main queue, every n-th of them clean. */
static void list_mixed(uint32_t count, uint32_t n)
{
    for (uint32_t i = 0; i < count; i++)
        bring(i, i % n == n - 1 ? WR_PAGE_RESIDENT_CLEAN : WR_PAGE_RESIDENT_DIRTY, true);
    cr_assert_eq(wr_aging_pass(aging, count), count);
}

Test(aging, the_clean_place_stays_within_its_window)
{
    uint32_t found;

    open_aging();
    list_mixed(400, 2);
    found = collect(WR_VICTIMS_CLEAN, 400);
    cr_expect_eq(found, 400 / ROOM_SCAN_RATIO / 2, "%u", found);
    for (uint32_t i = 0; i < found; i++)
        cr_expect_eq(victims[i], 2 * i + 1);
    cr_expect_eq(collect(WR_VICTIMS_CLEAN, 400), 0, "until the write place goes on");
}

Test(aging, the_clean_place_does_not_change_what_is_written)
{
    static uint32_t plain[400];
    uint32_t found, dirty = 0;

    open_aging();
    list_mixed(400, 3);
    found = collect(WR_VICTIMS_CLEAN, 400);
    for (uint32_t i = 0; i < found; i++)
        leave(victims[i]);
    found = collect(WR_VICTIMS_LISTED, 400);
    for (uint32_t i = 0; i < found; i++)
        if (victims[i] % 3 != 2)
            plain[dirty++] = victims[i];
    for (uint32_t i = 0, page = 0; i < dirty; i++, page++) {
        page += page % 3 == 2;
        cr_expect_eq(plain[i], page);
    }
    cr_expect_eq(dirty, 267);
}

/* A page that is locked just now is in somebody's hands, not gone. */
Test(aging, a_locked_page_at_the_write_place_comes_later)
{
    struct wr_hold hold;

    open_aging();
    bring_many(0, 40, WR_PAGE_RESIDENT_CLEAN, false);
    cr_assert_eq(wr_aging_pass(aging, 40), 40);
    cr_assert_eq(wr_arrivals_count(&aging->small), 0);
    wr_page_take(&room_space.pages, 0, &hold);
    expect_victims(collect(WR_VICTIMS_CLEAN, 5), 1, 5);
    cr_expect_eq(wr_arrivals_count(&aging->small), 1);
    wr_page_put(&room_space.pages, &hold);
}

/* What was collected leaves. How many of it were dirty. */
static uint32_t leave_all(uint32_t count)
{
    uint32_t dirty = 0;

    for (uint32_t i = 0; i < count; i++) {
        dirty += wr_page_peek(&room_space.pages, victims[i]) == WR_PAGE_RESIDENT_DIRTY;
        leave(victims[i]);
    }
    return dirty;
}

/* kswapd's rounds over a list of 1600 victims, half of them dirty, each wanting 64: how many dirty
 * ones have left when half of the list has. run: how many of a kind lie in a row. */
static uint32_t dirty_of_first_half(uint32_t first, uint32_t run)
{
    uint32_t gone = 0, dirty = 0;

    for (uint32_t i = 0; i < 1600; i++)
        bring(first + i, i / run % 2 ? WR_PAGE_RESIDENT_CLEAN : WR_PAGE_RESIDENT_DIRTY, true);
    cr_assert_eq(wr_aging_pass(aging, 1600), 1600);
    while (gone < 800) {
        uint32_t clean = collect(WR_VICTIMS_CLEAN, 64), listed;

        cr_assert_eq(leave_all(clean), 0u);
        listed = collect(WR_VICTIMS_LISTED, 64 - clean);
        dirty += leave_all(listed);
        gone += clean + listed;
    }
    while (leave_all(collect(WR_VICTIMS_LISTED, 64)) > 0 || wr_aging_listed(aging) > 0)
        ;
    return dirty;
}

/* E25: "half million pages of shm queued in a row in the lru". */
Test(aging, long_runs_of_dirty_pages_cost_no_more_than_a_mixture)
{
    static const uint32_t runs[] = {4, 20, 40};
    uint32_t mixed;

    open_aging();
    mixed = dirty_of_first_half(0, 1);
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t dirty = dirty_of_first_half(1600 * (i + 1), runs[i]);

        cr_expect_leq(dirty * 10, mixed * 11, "runs of %u: %u, mixed %u", runs[i], dirty, mixed);
        cr_expect_geq(dirty * 10, mixed * 9, "runs of %u: %u, mixed %u", runs[i], dirty, mixed);
    }
}

Test(aging, a_load_that_only_reads_never_comes_to_the_write_place)
{
    uint32_t found = 0, rounds = 0;

    open_aging();
    list_mixed(400, 1);
    while (found < 400 && rounds++ < 100) {
        uint32_t some = collect(WR_VICTIMS_CLEAN, 50);

        for (uint32_t i = 0; i < some; i++)
            leave(victims[i]);
        found += some;
    }
    cr_expect_geq(found, 390, "%u", found);
    cr_expect_leq(wr_aging_listed(aging), 10);
}

Test(aging, regions_give_in_turns)
{
    struct wr_region *second;

    room_open();
    region = room_map(ROOM_PAGES / 2);
    second = room_map(ROOM_PAGES / 2);
    aging = room_space.aging;
    bring_many(region->first, 300, WR_PAGE_RESIDENT_DIRTY, true);
    bring_many(second->first, 300, WR_PAGE_RESIDENT_DIRTY, true);
    cr_assert_eq(wr_aging_pass(aging, 600), 600);
    cr_expect_eq(collect(WR_VICTIMS_LISTED, 128), 128);
    cr_expect_eq(wr_aging_listed_of(aging, region->number), 236);
    cr_expect_eq(wr_aging_listed_of(aging, second->number), 236);
}

Test(aging, a_page_that_could_not_be_taken_returns)
{
    struct wr_hold hold;

    open_aging();
    bring_many(0, 450, WR_PAGE_RESIDENT_DIRTY, false);
    cr_expect_eq(wr_aging_pass(aging, 40), 40);
    wr_page_take(&room_space.pages, 0, &hold);
    expect_victims(collect(WR_VICTIMS_LISTED, 39), 1, 39);
    wr_page_put(&room_space.pages, &hold);
    cr_expect_eq(wr_aging_pass(aging, 411), 411);
    cr_expect_eq(collect(WR_VICTIMS_LISTED, 411), 411);
    cr_expect_eq(victims[410], 0, "%u", victims[410]);
}

/* --- Without kpaged -------------------------------------------------------------------------- */

Test(aging, the_largest_region_gives_when_the_lists_are_empty)
{
    struct wr_region *large;

    room_open();
    region = room_map(ROOM_PAGES / 4);
    large = room_map(ROOM_PAGES / 2);
    aging = room_space.aging;
    bring_many(region->first, 10, WR_PAGE_RESIDENT_DIRTY, true);
    bring_many(large->first + 600, 20, WR_PAGE_RESIDENT_CLEAN, false);
    expect_victims(collect(WR_VICTIMS_LARGEST, 5), large->first + 600, 5);
    expect_victims(collect(WR_VICTIMS_LARGEST, 15), large->first + 605, 15); /* goes on */
    for (uint32_t i = 0; i < 15; i++)
        leave(large->first + 600 + i);
    expect_victims(collect(WR_VICTIMS_LARGEST, 50), region->first, 10);
}

Test(aging, the_sweep_finds_clean_pages_everywhere)
{
    open_aging();
    bring_many(3 * CHUNK, 10, WR_PAGE_RESIDENT_CLEAN, true);
    bring_many(5 * CHUNK, 10, WR_PAGE_RESIDENT_DIRTY, true);
    expect_victims(collect(WR_VICTIMS_SWEEP, 7), 3 * CHUNK, 7);
    cr_expect_eq(collect(WR_VICTIMS_SWEEP, 100), 10, "and goes round");
    cr_expect_eq(victims[0], 3 * CHUNK + 7);
}

/* --- Numbers --------------------------------------------------------------------------------- */

Test(aging, the_colour_follows_free_memory)
{
    cr_expect_eq(wr_aging_mode(300, 100, 200, 300, false), WR_AGING_GREEN);
    cr_expect_eq(wr_aging_mode(299, 100, 200, 300, false), WR_AGING_YELLOW);
    cr_expect_eq(wr_aging_mode(199, 100, 200, 300, false), WR_AGING_ORANGE);
    cr_expect_eq(wr_aging_mode(99, 100, 200, 300, false), WR_AGING_RED);
    cr_expect_eq(wr_aging_mode(1000, 100, 200, 300, true), WR_AGING_RED);
}

Test(aging, the_lists_hold_more_when_memory_is_short)
{
    const uint64_t frames = 65536;

    cr_expect_lt(wr_kpaged_target(WR_AGING_GREEN, frames),
                 wr_kpaged_target(WR_AGING_YELLOW, frames));
    cr_expect_lt(wr_kpaged_target(WR_AGING_YELLOW, frames),
                 wr_kpaged_target(WR_AGING_ORANGE, frames));
    cr_expect_leq(wr_kpaged_target(WR_AGING_RED, 1024), 128u, "small memory");
    cr_expect_leq(wr_kpaged_target(WR_AGING_RED, 1u << 24), 2 * WR_LIST_ROOM);
}

/* --- What asking is worth -------------------------------------------------------------------- */

/* So many unmapped that kswapd looks at what it was worth. */
static void ask_pages(uint32_t wanted)
{
    while (wanted-- > 0)
        wr_aging_wanted(aging);
    for (uint32_t i = 0; i < ROOM_TOTAL / 2; i++)
        wr_aging_unmapped(aging, 1);
}

static uint32_t rising(uint32_t count, uint32_t distance)
{
    uint32_t rise = 0;

    for (uint32_t i = 0; i < count; i++)
        rise += wr_aging_rises(aging, distance);
    return rise;
}

Test(aging, who_is_back_soon_rises_while_asking_is_worth_it)
{
    open_aging();
    cr_expect_eq(rising(160, ROOM_TOTAL / 4 - 1), 160u);
    cr_expect_eq(rising(160, ROOM_TOTAL / 4), 0u, "not soon");
    ask_pages(ROOM_TOTAL / 20);
    cr_expect_eq(rising(160, 0), 160u);
}

Test(aging, in_a_loop_one_of_sixteen_rises)
{
    open_aging();
    ask_pages(0);
    cr_expect_eq(rising(160, 0), 160u / WR_VAIN_RISE);
    cr_expect_eq(rising(160, 2 * ROOM_TOTAL), 160u / WR_VAIN_RISE, "however long it was away");
    cr_expect_eq(rising(160, WR_DISTANCE_NONE), 0u, "no shadow");
    ask_pages(ROOM_TOTAL / 120);
    cr_expect_eq(rising(160, 0), 160u / WR_VAIN_RISE, "a sixtieth: not yet");
    ask_pages(ROOM_TOTAL / 20);
    cr_expect_eq(rising(160, 0), 160u, "a tenth");
}
