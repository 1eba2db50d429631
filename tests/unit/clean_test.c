/* SPDX-License-Identifier: MIT */

/* Clean, discard, move: what happens to clusters and slots while nobody touches their pages. */

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/swap/carry.h"
#include "tests/unit/swap_kit.h"

#define CLUSTERS 10u

static struct wr_slots *slots_of(uint32_t number)
{
    return &swap->backends[number]->slots;
}

static struct wr_swap_lane *swap_lane(void)
{
    return (struct wr_swap_lane *)(void *)lane;
}

static uint64_t tidy(bool is_idle)
{
    return swap->pager.ops->tidy(lane, is_idle);
}

static void write_cluster(uint32_t i)
{
    put_in_queue(stage(i * C, C));
    cr_assert_eq(launder(), WR_LAUNDERED);
    finish();
}

/* A page that is away is discarded. */
static void forget_page(uint32_t page)
{
    struct wr_hold hold;

    wr_page_take(&room_space.pages, region->first + page, &hold);
    wr_page_move(&hold, WR_PAGE_OUT, WR_PAGE_EMPTY);
    swap->pager.ops->forget(&swap->pager, wr_hold_slot(&hold));
    wr_hold_set_slot(&hold, WR_SLOT_NONE);
    wr_page_put(&room_space.pages, &hold);
}

/* Ten clusters in use, each with 100 dead slots, and one with 400. */
static void open_churned(const char *spec)
{
    open_swap(spec);
    region = room_map(CLUSTERS * C);
    for (uint32_t i = 0; i < CLUSTERS; i++)
        write_cluster(i);
    for (uint32_t i = 0; i < CLUSTERS; i++)
        for (uint32_t k = 0; k < (i == 3 ? 400 : 100); k++)
            forget_page(i * C + k * 5 % C);
}

static void expect_away(uint32_t page)
{
    uint8_t bytes[WEIR_PAGE_BYTES];

    cr_expect_eq(read_page(page, bytes), WEIR_OK);
    cr_expect(is_stamped(bytes, region->first + page), "page %u", page);
}

/* --- Clean ----------------------------------------------------------------------------------- */

Test(clean, the_emptiest_cluster_comes_free)
{
    open_churned("mem:?size=20m");
    cr_assert_eq(wr_slots_free_clusters(slots_of(0)), 0);
    tidy(false);
    finish();
    tidy(false);
    cr_expect_eq(count_of(WR_COUNT_clusters_cleaned), 1);
    cr_expect_eq(count_of(WR_COUNT_pages_cleaned), 112);
    cr_expect_eq(wr_slots_live(slots_of(0), 3), 0);
    cr_expect_eq(wr_slots_free_clusters(slots_of(0)), 1);
    cr_expect_eq(wr_frames_free(&room_space.frames), ROOM_TOTAL - 112);
    cr_expect_eq(room_space.staging.live_count, 112, "to be written with what comes next");
    for (uint32_t page = 3 * C; page < 4 * C; page++) {
        struct wr_hold hold = room_look(region->first + page);

        if (wr_hold_state(&hold) == WR_PAGE_EMPTY)
            continue;
        cr_expect_eq(wr_hold_state(&hold), WR_PAGE_CACHED_DIRTY);
        cr_expect_eq(wr_hold_slot(&hold), WR_SLOT_NONE);
        cr_expect(is_stamped(wr_host_frame(room_space.host, wr_hold_frame(&hold)), hold.number));
    }
    tidy(false);
    cr_expect_eq(count_of(WR_COUNT_clusters_cleaned), 1, "one is enough for so small a back end");
    cr_expect_eq(launder(), WR_LAUNDERED);
    finish();
    expect_all_returned();
    cr_expect_eq(wr_slots_live(slots_of(0), 3), 112);
    for (uint32_t page = 3 * C; page < 4 * C; page++)
        if (state_of(page) == WR_PAGE_OUT)
            expect_away(page);
}

/* Emptied and filled again, over and over, it would never be what is missing. */
Test(clean, a_part_of_a_cluster_is_no_victim)
{
    open_swap("mem:?size=20880k");
    region = room_map((CLUSTERS + 1) * C);
    for (uint32_t i = 0; i < CLUSTERS; i++)
        write_cluster(i);
    put_in_queue(stage(CLUSTERS * C, 100));
    cr_assert_eq(launder(), WR_LAUNDERED);
    finish();
    cr_assert_eq(wr_slots_live(slots_of(0), CLUSTERS), 100);
    for (uint32_t i = 0; i < CLUSTERS; i++)
        for (uint32_t k = 0; k < 100; k++)
            forget_page(i * C + k * 5);
    for (int i = 0; i < 4; i++) {
        tidy(false);
        finish();
    }
    cr_expect_eq(wr_slots_live(slots_of(0), CLUSTERS), 100);
    cr_expect_eq(count_of(WR_COUNT_pages_cleaned), C - 100);
    cr_expect_eq(wr_slots_free_clusters(slots_of(0)), 1);
}

Test(clean, what_is_mapped_needs_no_read_and_what_is_lost_stays)
{
    struct wr_hold hold;

    open_churned("mem:?size=20m");
    wr_page_take(&room_space.pages, region->first + 3 * C + 507, &hold);
    wr_page_move(&hold, WR_PAGE_OUT, WR_PAGE_READING);
    wr_page_move(&hold, WR_PAGE_READING, WR_PAGE_RESIDENT_CLEAN);
    wr_page_put(&room_space.pages, &hold);
    wr_page_take(&room_space.pages, region->first + 3 * C + 502, &hold);
    wr_page_move(&hold, WR_PAGE_OUT, WR_PAGE_READING);
    wr_page_move(&hold, WR_PAGE_READING, WR_PAGE_POISONED);
    wr_page_put(&room_space.pages, &hold);
    for (int i = 0; i < 4; i++) {
        tidy(false);
        finish();
    }
    cr_expect_eq(state_of(3 * C + 507), WR_PAGE_RESIDENT_DIRTY);
    cr_expect_eq(state_of(3 * C + 502), WR_PAGE_POISONED);
    cr_expect_eq(wr_slots_live(slots_of(0), 3), 1);
    cr_expect(slots_of(0)->marks[3] & WR_CLUSTER_TRIED, "not tried over and over");
    cr_expect_gt(count_of(WR_COUNT_clusters_cleaned), 0, "but others are");
}

/* A page in every cluster that cannot be read: none comes free, and what is taken out of one is
 * written to another, but not for ever (seed 141 of the simulator). */
Test(clean, what_is_vain_is_done_ever_more_seldom)
{
    open_churned("mem:?size=20m");
    for (uint32_t i = 0; i < CLUSTERS; i++) {
        struct wr_hold hold;

        wr_page_take(&room_space.pages, region->first + i * C + 502, &hold);
        wr_page_move(&hold, WR_PAGE_OUT, WR_PAGE_READING);
        wr_page_move(&hold, WR_PAGE_READING, WR_PAGE_POISONED);
        wr_page_put(&room_space.pages, &hold);
    }
    for (int i = 0; i < 120; i++) {
        tidy(false);
        finish();
        while (launder() == WR_LAUNDERED)
            finish();
        room_sleep_us(10000);
    }
    cr_expect_eq(count_of(WR_COUNT_clusters_cleaned), 0);
    cr_expect_gt(count_of(WR_COUNT_pages_cleaned), 0);
    /* About 3800 for each time that all are tried; that was ten times a second. */
    cr_expect_lt(count_of(WR_COUNT_pages_cleaned), 15000);
}

Test(clean, nothing_is_written_where_it_reads)
{
    open_churned("mem:?size=20m");
    put_in_queue(stage(3 * C, 1));
    tidy(false);
    cr_assert(slots_of(0)->marks[3] & WR_CLUSTER_CLEANED);
    cr_expect_eq(launder(), WR_LAUNDER_BUSY, "a cluster is about to come free");
    atomic_fetch_add(&room_space.frames.waiting, 1);
    cr_expect_eq(launder(), WR_LAUNDERED, "but nobody is kept waiting for it");
    atomic_fetch_sub(&room_space.frames.waiting, 1);
    finish();
    cr_expect_eq(state_of(3 * C), WR_PAGE_OUT);
    cr_expect_eq(wr_slots_live(slots_of(0), 3), 0);
}

Test(clean, no_more_is_read_than_memory_allows)
{
    open_churned("mem:?size=20m");
    wr_frames_overdraw(&room_space.frames, ROOM_TOTAL - ROOM_MIN / 4 - 10);
    tidy(false);
    cr_expect_eq(wr_frames_free(&room_space.frames), ROOM_MIN / 4);
    finish();
    tidy(false);
    cr_expect_eq(count_of(WR_COUNT_pages_cleaned), 10);
    cr_expect_eq(count_of(WR_COUNT_clusters_cleaned), 0);
    wr_frames_put(&room_space.frames, 200);
    for (int i = 0; i < 3; i++) {
        tidy(false);
        finish();
    }
    cr_expect_eq(count_of(WR_COUNT_pages_cleaned), 112);
    tidy(false);
    cr_expect_eq(count_of(WR_COUNT_clusters_cleaned), 1);
}

Test(clean, only_where_it_pays)
{
    open_churned("mem:?size=20m");
    swap->wish.clean_percent = 0;
    tidy(false);
    swap->wish.clean_percent = 70; /* it is fuller */
    tidy(false);
    swap->wish.clean_percent = 85;
    swap->backends[0]->draining = true;
    tidy(false);
    cr_expect(swap->pager.ops->is_idle(lane));
    swap->backends[0]->draining = false;
    tidy(false);
    cr_expect_not(swap->pager.ops->is_idle(lane));
    finish();
}

Test(clean, a_read_that_fails_changes_nothing)
{
    open_churned("chaos(mem:?size=20m)?fail_read=1");
    for (int i = 0; i < 4; i++) {
        tidy(false);
        finish();
    }
    cr_expect_eq(count_of(WR_COUNT_pages_cleaned), 0);
    cr_expect_gt(count_of(WR_COUNT_read_errors), 0);
    cr_expect_eq(wr_slots_live(slots_of(0), 3), 112);
    expect_all_returned();
}

static void reap_lane(void *context)
{
    (void)context;
    swap->pager.ops->reap(lane);
}

/* The next one has its number and, with this C library at least, its memory. */
Test(clean, a_back_end_that_went_is_not_taken_for_the_next)
{
    void *spare[7]; /* so many the library would keep for other kinds of allocation */
    uint32_t number;

    open_churned("mem:?size=20m");
    tidy(false);
    finish();
    for (uint32_t page = 0; page < CLUSTERS * C; page++)
        if (state_of(page) == WR_PAGE_OUT)
            forget_page(page);
    swap->wish.rouse = reap_lane;
    for (uint32_t i = 0; i < 7; i++)
        spare[i] = malloc(sizeof(struct wr_swap_backend));
    for (uint32_t i = 0; i < 7; i++)
        free(spare[i]);
    cr_assert_eq(wr_swap_drain(swap, 0), WEIR_OK);
    cr_assert_eq(wr_swap_add(swap, "mem:?size=2m", &number), WEIR_OK);
    cr_assert_eq(number, 0);
    tidy(false);
    cr_expect_eq(count_of(WR_COUNT_clusters_cleaned), 0);
}

/* --- Discard --------------------------------------------------------------------------------- */

/* As if the interval were over. */
static uint64_t tidy_later(void)
{
    swap_lane()->discard_ns = 1;
    return tidy(true);
}

static void forget_cluster(uint32_t i)
{
    for (uint32_t k = 0; k < C; k++)
        forget_page(i * C + k);
}

Test(discard, a_cluster_that_stays_free_is_given_back)
{
    static const uint8_t zeros[WEIR_PAGE_BYTES];
    uint8_t bytes[WEIR_PAGE_BYTES];
    uint32_t pressure;

    open_swap("mem:?size=8m");
    write_cluster(0);
    write_cluster(1);
    cr_expect_eq(tidy(true), WR_FOREVER, "nothing to look for");
    pressure = room_pressure;
    forget_cluster(0);
    cr_expect_eq(room_pressure, pressure + 1, "somebody is to look");
    cr_expect_neq(tidy(true), WR_FOREVER);
    cr_expect_neq(tidy_later(), WR_FOREVER);
    cr_expect_eq(count_of(WR_COUNT_clusters_discarded), 0, "it may be wanted at once");
    tidy_later();
    cr_expect_eq(count_of(WR_COUNT_clusters_discarded), 1);
    tidy_later();
    cr_expect_eq(tidy(true), WR_FOREVER);
    cr_expect_eq(count_of(WR_COUNT_clusters_discarded), 1, "once");
    cr_expect_eq(swap->backends[0]->backend->ops->read(swap->backends[0]->backend, 5, 1, bytes),
                 WEIR_OK);
    cr_expect_eq(memcmp(bytes, zeros, sizeof(bytes)), 0, "its memory is gone");
    expect_away(C);
}

Test(discard, one_that_is_used_again_is_not)
{
    open_swap("mem:?size=8m");
    write_cluster(0);
    forget_cluster(0);
    tidy(true);
    tidy_later();
    write_cluster(1); /* into the same cluster */
    cr_assert_eq(wr_slots_live(slots_of(0), 0), C);
    tidy_later();
    forget_cluster(1);
    tidy_later();
    cr_expect_eq(count_of(WR_COUNT_clusters_discarded), 0, "it rests anew");
    tidy_later();
    cr_expect_eq(count_of(WR_COUNT_clusters_discarded), 1);
}

Test(discard, neighbours_go_together)
{
    open_swap("mem:?size=8m");
    for (uint32_t i = 0; i < 4; i++)
        write_cluster(i);
    for (uint32_t i = 0; i < 4; i++)
        if (i != 2)
            forget_cluster(i);
    tidy(true);
    tidy_later();
    tidy_later();
    cr_expect_eq(count_of(WR_COUNT_clusters_discarded), 2);
    tidy_later();
    cr_expect_eq(count_of(WR_COUNT_clusters_discarded), 3);
    expect_away(2 * C);
}

Test(discard, one_that_drains_is_left_alone)
{
    open_swap("mem:?size=8m");
    write_cluster(0);
    forget_cluster(0);
    tidy(true);
    swap->backends[0]->draining = true;
    for (int i = 0; i < 3; i++)
        cr_expect_neq(tidy_later(), WR_FOREVER, "it may have to be, later");
    cr_expect_eq(count_of(WR_COUNT_clusters_discarded), 0);
    swap->backends[0]->draining = false;
    tidy_later();
    tidy_later();
    cr_expect_eq(count_of(WR_COUNT_clusters_discarded), 1);
}

/* --- Move ------------------------------------------------------------------------------------ */

Test(move, pages_change_their_back_end_and_nothing_else)
{
    struct wr_hold before, hold;
    uint64_t moved = 0;
    uint32_t drops, places;

    open_swap("mem:?size=8m&priority=9");
    add("mem:?size=8m");
    write_cluster(0);
    room_bring(region->first + 3 * C, WR_PAGE_RESIDENT_DIRTY);
    wr_page_take(&room_space.pages, region->first + 7, &hold);
    wr_page_move(&hold, WR_PAGE_OUT, WR_PAGE_READING);
    wr_page_move(&hold, WR_PAGE_READING, WR_PAGE_RESIDENT_CLEAN);
    wr_page_put(&room_space.pages, &hold);
    before = room_look(region->first + 7);
    drops = room_host.drop.calls;
    places = room_host.place.calls;
    cr_expect_eq(wr_swap_move(swap, 0, 1, 300, &moved), WEIR_OK);
    cr_expect_eq(moved, 300);
    cr_expect_eq(wr_slots_used(slots_of(0)), C - 300);
    cr_expect_eq(count_of(WR_COUNT_pages_migrated), 300);
    hold = room_look(region->first + 7);
    cr_expect(hold.was == before.was && hold.w1 == before.w1, "a mapped page is not touched");
    cr_expect_eq(state_of(3 * C), WR_PAGE_RESIDENT_DIRTY);
    cr_expect_eq(room_host.drop.calls, drops, "no page table is");
    cr_expect_eq(room_host.place.calls, places);
    cr_expect_not(swap->backends[0]->draining);
    cr_expect_eq(launder(), WR_LAUNDERED);
    finish();
    cr_expect_eq(wr_slots_used(slots_of(1)), 300, "though the other has the higher priority");
    for (uint32_t page = 0; page < C; page++) {
        if (page == 7)
            continue;
        hold = room_look(region->first + page);
        cr_expect_eq(wr_slot_backend(wr_hold_slot(&hold)), page < 301);
        expect_away(page);
    }
}

Test(move, no_more_than_is_there_and_only_between_two)
{
    uint64_t moved = 77;

    open_swap("mem:?size=8m");
    cr_expect_eq(wr_swap_move(swap, 0, 1, 300, &moved), WEIR_ENOENT);
    add("mem:?size=8m");
    cr_expect_eq(wr_swap_move(swap, 0, 0, 300, &moved), WEIR_EINVAL);
    write_cluster(0);
    cr_expect_eq(wr_swap_move(swap, 0, 1, UINT64_MAX, &moved), WEIR_OK);
    cr_expect_eq(moved, C);
    cr_expect_eq(wr_slots_used(slots_of(0)), 0);
    cr_expect_eq(wr_swap_move(swap, 0, 1, 300, &moved), WEIR_OK);
    cr_expect_eq(moved, 0);
}

Test(move, where_they_cannot_go_they_go_elsewhere)
{
    uint64_t moved;

    open_swap("mem:?size=8m");
    add("mem:?size=8m");
    write_cluster(0);
    cr_expect_eq(wr_swap_move(swap, 0, 1, C, &moved), WEIR_OK);
    swap->backends[1]->sick_until_ns = WR_FOREVER;
    cr_expect_eq(launder(), WR_LAUNDERED);
    finish();
    cr_expect_eq(wr_slots_used(slots_of(0)), C);
    expect_away(0);
}
