/* SPDX-License-Identifier: MIT */

/* Readahead: what is asked for, what becomes of it, and when it is refused. */

#include "runtime/paging/readahead.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/memory/gate.h"
#include "runtime/paging/stream.h"
#include "tests/unit/room_kit.h"

/* --- A pager that remembers ------------------------------------------------------------------ */

#define FETCHED_MAX 64

static struct {
    struct wr_pager pager;
    struct wr_lane lane;
    pthread_mutex_t lock;
    struct wr_fetch fetched[FETCHED_MAX]; /* as they came */
    _Atomic(uint32_t) count;              /* finished     */
    uint64_t forgotten;                   /* last slot    */
    int error;                            /* what every page arrives with */
    enum wr_page_flag mark;               /* set on every page before it arrives; 0: none */
} pager;

static int lane_open(struct wr_pager *given, struct wr_lane **lane_p)
{
    pager.lane.pager = given;
    *lane_p = &pager.lane;
    return WEIR_OK;
}

static void lane_close(struct wr_lane *lane)
{
    (void)lane;
}

static void fetch_at_once(struct wr_lane *lane, struct wr_fetch *fetch)
{
    (void)lane;
    pthread_mutex_lock(&pager.lock);
    pager.fetched[pager.count] = *fetch;
    pthread_mutex_unlock(&pager.lock);
    for (uint32_t i = 0; i < fetch->count; i++) {
        if (fetch->slot[i] == WR_SLOT_NONE)
            continue;
        if (pager.mark)
            room_set_flag(fetch->page[i], pager.mark, true);
        fetch->arrived(fetch, i, pager.error);
    }
    fetch->finished(fetch);
    pager.count++;
}

static bool reap(struct wr_lane *lane)
{
    (void)lane;
    return false;
}

static uint32_t wait_fds(struct wr_lane *lane, int fds[WR_LANE_FDS])
{
    (void)lane;
    (void)fds;
    return 0;
}

static bool is_idle(const struct wr_lane *lane)
{
    (void)lane;
    return true;
}

static void forget(struct wr_pager *given, uint64_t slot)
{
    (void)given;
    pager.forgotten = slot;
}

static bool has_brief_slots; /* a page gives its slot up as soon as it was read */

static bool frees_at_read(struct wr_pager *pager_, uint64_t slot)
{
    (void)pager_;
    (void)slot;
    return has_brief_slots;
}

static const struct wr_pager_ops ops = {
    .lane_open = lane_open,
    .lane_close = lane_close,
    .fetch = fetch_at_once,
    .reap = reap,
    .wait_fds = wait_fds,
    .is_idle = is_idle,
    .forget = forget,
    .frees_at_read = frees_at_read,
};

/* --- The stage ------------------------------------------------------------------------------- */

#define PAGES 2000u

static struct wr_ahead *ahead;
static struct wr_region *region;

static void close_ahead(void)
{
    wr_ahead_close(ahead);
}

/* A region of pages that are all away. */
static void open_ahead(void)
{
    room_open();
    pthread_mutex_init(&pager.lock, NULL);
    pager.pager.ops = &ops;
    room_space.pager = &pager.pager;
    region = room_map(PAGES);
    for (uint32_t i = 0; i < PAGES; i++)
        room_bring_with(region->first + i, WR_PAGE_OUT, 5000 + i, WR_FRAME_NONE);
    cr_assert_eq(wr_ahead_open(&room_space, &ahead), WEIR_OK);
    room_space.ahead = ahead;
    atexit(close_ahead);
}

static struct wr_plan note(uint32_t page, enum wr_step step)
{
    struct wr_pass pass = wr_gate_enter();
    struct wr_plan plan = wr_ahead_note(ahead, region, region->first + page, step, false);

    wr_gate_leave(pass);
    return plan;
}

static void await_fetches(uint32_t count)
{
    ROOM_AWAIT(pager.count >= count);
    room_sleep_us(ROOM_NOT_YET_US / 4);
    cr_assert_eq(pager.count, count);
}

static uint64_t count_of(enum wr_counter counter)
{
    return wr_stats_sum(&room_stats, counter);
}

/* --- Asking ---------------------------------------------------------------------------------- */

/* Chunks of the slab that nobody has taken. */
static uint32_t chunks_at_rest(void)
{
    uint32_t count = 0;

    for (uint32_t use = 0; use < WR_CACHE_USES; use++)
        count += room_space.cache.queues[use].count;
    return count;
}

Test(readahead, a_walk_is_read_ahead_of)
{
    struct wr_plan plan;

    open_ahead();
    plan = note(10, WR_STEP_MISS);
    cr_expect_eq(plan.around, 1);
    cr_expect_null(plan.stream);
    plan = note(11, WR_STEP_MISS);
    cr_expect_eq(plan.around, 32);
    cr_expect_eq(plan.direction, 1);
    cr_expect_not(plan.stores);
    cr_expect_not_null(plan.stream);
    await_fetches(4);
    for (uint32_t i = 0; i < 4; i++) {
        cr_expect_eq(pager.fetched[i].count, 8, "fetch %u", i);
        cr_expect_eq(pager.fetched[i].page[0], region->first + 12 + 8 * i, "fetch %u", i);
        cr_expect_eq(pager.fetched[i].slot[0], 5012 + 8 * i);
    }
    cr_expect_eq(count_of(WR_COUNT_reads_ahead), 32);
    cr_expect_eq(count_of(WR_COUNT_cache_added_ahead), 32);
}

/* Who goes through an object by many views wants one page in each. */
Test(readahead, a_walk_is_one_views)
{
    struct wr_region views[2];
    uint32_t first;

    open_ahead();
    first = region->first;
    for (uint32_t i = 0; i < 2; i++) {
        views[i] = *region;
        views[i].view = i;
    }
    for (uint32_t i = 0; i < 40; i++)
        cr_expect_eq(
            wr_ahead_note(ahead, &views[i % 2], first + 10 + i, WR_STEP_VIEW, false).around, 1,
            "page %u", 10 + i);
    cr_expect_eq(wr_ahead_note(ahead, &views[1], first + 50, WR_STEP_VIEW, false).around, 32,
                 "two neighbours in one view");
    await_fetches(0);
}

/* They are in the cache, in frames of the slab, and not mapped. */
Test(readahead, what_was_read_costs_no_frame_of_the_budget)
{
    open_ahead();
    note(10, WR_STEP_MISS);
    note(11, WR_STEP_MISS);
    await_fetches(4);
    cr_expect_eq(wr_frames_free(&room_space.frames), ROOM_TOTAL);
    cr_expect_eq(room_host.place.calls, 0);
    for (uint32_t i = 0; i < 40; i++) {
        struct wr_hold hold = room_look(region->first + 10 + i);

        if (i < 2 || i >= 34) {
            cr_expect_eq(wr_hold_state(&hold), WR_PAGE_OUT, "page %u", i);
            continue;
        }
        cr_expect_eq(wr_hold_state(&hold), WR_PAGE_CACHED_CLEAN, "page %u", i);
        cr_expect(wr_hold_has(&hold, WR_PAGE_AHEAD));
        cr_expect_lt(wr_hold_frame(&hold), ROOM_FRAMES);
        cr_expect_eq(wr_hold_slot(&hold), 5010 + i, "it keeps its slot");
    }
}

/* Though nobody touched them: they are dirty now, in frames of the budget. */
Test(readahead, slots_are_given_up_at_the_read_where_that_is_the_rule)
{
    has_brief_slots = true;
    open_ahead();
    note(10, WR_STEP_MISS);
    note(11, WR_STEP_MISS);
    await_fetches(4);
    cr_expect_eq(count_of(WR_COUNT_slots_doomed), 32);
    cr_expect_eq(pager.forgotten, 5000 + 43);
    cr_expect_eq(wr_frames_free(&room_space.frames), ROOM_TOTAL - 32);
    cr_expect_eq(room_space.staging.held_count, 32);
    for (uint32_t i = 2; i < 34; i++) {
        struct wr_hold hold = room_look(region->first + 10 + i);

        cr_expect_eq(wr_hold_state(&hold), WR_PAGE_CACHED_DIRTY, "page %u", i);
        cr_expect_eq(wr_hold_slot(&hold), WR_SLOT_NONE);
        cr_expect_geq(wr_hold_frame(&hold), ROOM_FRAMES);
    }
    ROOM_AWAIT(room_space.staging.live_count == 32); /* may be written when memory is short */
}

/* Pages of the first fetch that lie in the slab with their slots. */
static uint32_t clean_in_first(void)
{
    uint32_t clean = 0;

    for (uint32_t i = 12; i < 20; i++)
        clean += wr_page_peek(&room_space.pages, region->first + i) == WR_PAGE_CACHED_CLEAN;
    return clean;
}

Test(readahead, without_a_spare_frame_the_slot_is_kept)
{
    has_brief_slots = true;
    open_ahead();
    note(10, WR_STEP_MISS);
    cr_assert_eq(wr_frames_take_spare(&room_space.frames, ROOM_TOTAL - ROOM_LOW - 4),
                 ROOM_TOTAL - ROOM_LOW - 4);
    note(11, WR_STEP_MISS);
    /* Further fetches are refused or not, as memory is low by then or not yet. */
    ROOM_AWAIT(clean_in_first() + count_of(WR_COUNT_slots_doomed) >= 8);
    cr_expect_leq(count_of(WR_COUNT_slots_doomed), 5);
    cr_expect_geq(count_of(WR_COUNT_slots_doomed), 4);
    cr_expect_geq(clean_in_first(), 3);
}

Test(readahead, a_hit_makes_the_window_larger)
{
    struct wr_plan plan;

    open_ahead();
    note(10, WR_STEP_MISS);
    note(11, WR_STEP_MISS);
    await_fetches(4); /* 12 to 44 */
    plan = note(12, WR_STEP_HIT);
    await_fetches(6); /* as many as fit into four windows of 16 from page 13 on */
    for (uint32_t i = 4; i < 6; i++) {
        cr_expect_eq(pager.fetched[i].page[0], region->first + 44 + 16 * (i - 4));
        cr_expect_eq(pager.fetched[i].count, 16);
    }
    wr_ahead_mapped(ahead, &plan, region->first + 12, 32);
    note(44, WR_STEP_HIT);
    ROOM_AWAIT(pager.count > 6);
    cr_expect_eq(pager.fetched[6].page[0], region->first + 76);
    cr_expect_eq(pager.fetched[6].count, 32);
}

/* Who had to wait for a page on its way asks further ahead. */
Test(readahead, a_page_that_came_late_makes_it_deeper)
{
    struct wr_plan plan;

    open_ahead();
    note(10, WR_STEP_MISS);
    note(11, WR_STEP_MISS);
    plan = note(12, WR_STEP_LATE);
    cr_expect_eq(((const struct wr_stream *)plan.stream)->window, 16, "a late hit is a hit");
    cr_expect_eq(((const struct wr_stream *)plan.stream)->depth, 8);
}

Test(readahead, no_more_than_a_quarter_of_the_cache_is_asked_for)
{
    const uint32_t most = ROOM_CHUNKS / 4 * WR_CACHE_CHUNK;
    uint32_t asked = 0;

    open_ahead();
    region->pattern = WR_PATTERN_SEQUENTIAL;
    for (uint32_t i = 0; i < 6; i++)
        wr_stream_late(note(i, WR_STEP_MISS).stream);
    ROOM_AWAIT(pager.count >= most / 64);
    room_sleep_us(ROOM_NOT_YET_US);
    for (uint32_t i = 0; i < pager.count; i++)
        asked += pager.fetched[i].count;
    cr_expect_leq(asked, most + 64);
    cr_expect_geq(asked, most);
}

Test(readahead, advice_is_followed)
{
    struct wr_plan plan;

    open_ahead();
    region->pattern = WR_PATTERN_RANDOM;
    for (uint32_t page = 0; page < 100; page++) {
        plan = note(page, WR_STEP_MISS);
        cr_expect_eq(plan.around, 1);
        cr_expect_null(plan.stream);
    }
    room_sleep_us(ROOM_NOT_YET_US);
    cr_expect_eq(pager.count, 0);
    region->pattern = WR_PATTERN_SEQUENTIAL;
    plan = note(500, WR_STEP_MISS);
    cr_expect_not_null(plan.stream);
    await_fetches(4);
    cr_expect_eq(pager.fetched[0].page[0], region->first + 501);
    cr_expect_eq(pager.fetched[0].count, 64, "the largest at once");
}

Test(readahead, none_when_switched_off)
{
    struct wr_plan plan;

    open_ahead();
    room_space.readahead_pages = 0;
    note(10, WR_STEP_MISS);
    plan = note(11, WR_STEP_MISS);
    cr_expect_eq(plan.around, 32, "but it is a walk");
    for (uint32_t page = 12; page < 60; page++)
        note(page, WR_STEP_MISS);
    room_sleep_us(ROOM_NOT_YET_US);
    cr_expect_eq(pager.count, 0);
}

Test(readahead, first_touches_are_not_read_ahead_of)
{
    open_ahead();
    for (uint32_t page = 0; page < 50; page++)
        note(page, WR_STEP_FIRST);
    for (uint32_t page = 500; page < 550; page++)
        note(page, WR_STEP_CACHED);
    room_sleep_us(ROOM_NOT_YET_US);
    cr_expect_eq(pager.count, 0);
}

Test(readahead, refused_while_memory_is_low)
{
    open_ahead();
    wr_frames_overdraw(&room_space.frames, ROOM_TOTAL - ROOM_LOW + 1);
    note(10, WR_STEP_MISS);
    note(11, WR_STEP_MISS);
    room_sleep_us(ROOM_NOT_YET_US);
    cr_expect_eq(pager.count, 0);
    cr_expect_eq(count_of(WR_COUNT_reads_ahead_refused), 8);
    wr_frames_put(&room_space.frames, 1);
    note(12, WR_STEP_MISS);
    ROOM_AWAIT(pager.count > 0);
}

Test(readahead, a_walk_that_stores_is_known)
{
    struct wr_pass pass;
    struct wr_plan plan;

    open_ahead();
    note(10, WR_STEP_MISS);
    pass = wr_gate_enter();
    plan = wr_ahead_note(ahead, region, region->first + 11, WR_STEP_MISS, true);
    wr_gate_leave(pass);
    cr_expect(plan.stores);
}

/* --- What becomes of it ---------------------------------------------------------------------- */

static void ask_for(uint32_t page, uint32_t count)
{
    struct wr_pass pass = wr_gate_enter();

    cr_assert(wr_ahead_want(ahead, region, region->first + page, count));
    wr_gate_leave(pass);
}

Test(readahead, only_what_is_away_is_read)
{
    struct wr_hold hold, held;

    open_ahead();
    wr_page_take(&room_space.pages, region->first + 101, &hold);
    wr_page_move(&hold, WR_PAGE_OUT, WR_PAGE_EMPTY);
    wr_page_put(&room_space.pages, &hold);
    wr_page_take(&room_space.pages, region->first + 103, &held); /* somebody is at work on it */
    ask_for(100, 5);
    await_fetches(1);
    wr_page_put(&room_space.pages, &held);
    cr_expect_eq(pager.fetched[0].count, 5);
    for (uint32_t i = 0; i < 5; i++)
        cr_expect_eq(pager.fetched[0].slot[i], i % 2 ? WR_SLOT_NONE : 5100 + i, "page %u", i);
    cr_expect_eq(count_of(WR_COUNT_reads_ahead), 3);
    cr_expect_eq(wr_page_peek(&room_space.pages, region->first + 103), WR_PAGE_OUT);
}

Test(readahead, what_was_wanted_is_mapped_as_far_as_frames_are_spare)
{
    open_ahead();
    ask_for(100, 64);
    await_fetches(1);
    cr_expect_eq(room_host.place.pages, 64);
    cr_expect_eq(wr_frames_free(&room_space.frames), ROOM_TOTAL - 64);
    for (uint32_t i = 0; i < 64; i++) {
        struct wr_hold hold = room_look(region->first + 100 + i);

        cr_expect_eq(wr_hold_state(&hold), WR_PAGE_RESIDENT_CLEAN);
        cr_expect_eq(wr_hold_frame(&hold), WR_FRAME_NONE);
        cr_expect_not(wr_hold_has(&hold, WR_PAGE_AHEAD));
    }
    wr_frames_overdraw(&room_space.frames, ROOM_TOTAL - 64 - ROOM_LOW + 1); /* below low */
    ask_for(300, 10);
    await_fetches(2);
    cr_expect_eq(room_host.place.pages, 64);
    cr_expect_eq(wr_page_peek(&room_space.pages, region->first + 300), WR_PAGE_CACHED_CLEAN);
}

Test(readahead, what_could_not_be_read_is_away_as_before)
{
    open_ahead();
    pager.error = WEIR_EIO;
    ask_for(100, 4);
    await_fetches(1);
    for (uint32_t i = 0; i < 4; i++) {
        struct wr_hold hold = room_look(region->first + 100 + i);

        cr_expect_eq(wr_hold_state(&hold), WR_PAGE_OUT);
        cr_expect_eq(wr_hold_slot(&hold), 5100 + i);
        cr_expect_not(wr_hold_has(&hold, WR_PAGE_AHEAD));
    }
    cr_expect_eq(count_of(WR_COUNT_cache_added), 0);
    cr_expect_eq(chunks_at_rest(), ROOM_CHUNKS, "its chunk is back");
}

Test(readahead, what_was_discarded_meanwhile_is_empty)
{
    struct wr_hold hold;

    open_ahead();
    pager.mark = WR_PAGE_CANCELLED;
    ask_for(100, 1);
    await_fetches(1);
    hold = room_look(region->first + 100);
    cr_expect_eq(wr_hold_state(&hold), WR_PAGE_EMPTY);
    cr_expect_eq(wr_hold_slot(&hold), WR_SLOT_NONE);
    cr_expect_not(wr_hold_has(&hold, WR_PAGE_CANCELLED));
    cr_expect_not(wr_hold_has(&hold, WR_PAGE_AHEAD));
    cr_expect_eq(pager.forgotten, 5100);
}

Test(readahead, a_region_that_went_is_not_read)
{
    struct wr_region gone;

    open_ahead();
    gone = *region; /* it had these pages before, and asked for them */
    gone.serial = wr_region_next_serial();
    cr_assert(wr_ahead_want(ahead, &gone, gone.first + 100, 4));
    room_sleep_us(ROOM_NOT_YET_US);
    cr_expect_eq(pager.count, 0);
    atomic_store(&room_space.by_number[region->number], NULL);
    ask_for(200, 4);
    room_sleep_us(ROOM_NOT_YET_US);
    cr_expect_eq(pager.count, 0);
    cr_expect_eq(wr_page_peek(&room_space.pages, region->first + 100), WR_PAGE_OUT);
    atomic_store(&room_space.by_number[region->number], region);
    ask_for(300, 4);
    await_fetches(1);
    cr_expect_eq(pager.fetched[0].page[0], region->first + 300);
}

Test(readahead, a_request_for_nothing_leaves_the_cache_as_it_was)
{
    open_ahead();
    ask_for(100, 4);
    await_fetches(1);
    ask_for(100, 4); /* they are there already */
    ask_for(200, 4);
    await_fetches(2);
    cr_expect_eq(chunks_at_rest(), ROOM_CHUNKS);
    cr_expect_eq(count_of(WR_COUNT_reads_ahead), 8);
}
