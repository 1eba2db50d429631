/* SPDX-License-Identifier: MIT */

/* Streams: what counts as a walk, how its window grows and shrinks, how far it asks. */

#include "runtime/paging/stream.h"

#include <criterion/criterion.h>
#include <pthread.h>

#define MOST 64

static struct wr_stream *touch(uint32_t page)
{
    return wr_stream_note(1, page, false, false, MOST);
}

static struct wr_stream *hit(uint32_t page)
{
    return wr_stream_note(1, page, true, false, MOST);
}

/* Two touches upward from this page: a walk. */
static struct wr_stream *walk_up(uint32_t page)
{
    touch(page);
    return touch(page + 1);
}

/* --- What is a walk -------------------------------------------------------------------------- */

Test(stream, two_neighbours_make_a_walk)
{
    struct wr_stream *walk;

    cr_expect_null(touch(10));
    walk = touch(11);
    cr_assert_not_null(walk);
    cr_expect_eq(walk->direction, 1);
    cr_expect_eq(walk->edge, 12);
    cr_expect_eq(touch(12), walk);
    cr_expect_eq(walk->edge, 13);
}

Test(stream, downward_too)
{
    struct wr_stream *walk;

    cr_expect_null(touch(10));
    walk = touch(9);
    cr_assert_not_null(walk);
    cr_expect_eq(walk->direction, -1);
    cr_expect_eq(walk->edge, 8);
    cr_expect_eq(touch(8), walk);
    cr_expect_null(touch(13), "that is the other way");
}

Test(stream, what_lies_apart_is_no_walk)
{
    cr_expect_null(touch(10));
    cr_expect_null(touch(12));
    cr_expect_null(touch(10), "nor the same again");
    cr_expect_null(touch(1000));
    cr_expect_not_null(touch(1001));
    cr_expect_null(wr_stream_note(2, 11, false, false, MOST), "another region");
}

Test(stream, an_eager_touch_is_a_walk_of_its_own)
{
    struct wr_stream *walk = wr_stream_note(1, 500, false, true, MOST);

    cr_assert_not_null(walk);
    cr_expect_eq(walk->direction, 1);
    cr_expect_eq(walk->window, MOST, "the largest at once");
    cr_expect_eq(walk->edge, 501);
    cr_expect_eq(touch(501), walk);
}

/* One that ended here once, and is remembered as one that stores, does not take over the walk that
 * passes by. */
Test(stream, the_walk_that_moved_last_goes_on)
{
    struct wr_stream *old = walk_up(20), *walk;

    wr_stream_believe(old);
    walk = walk_up(10);
    cr_assert_neq(walk, old);
    for (uint32_t page = 12; page < 40; page++) {
        cr_expect_eq(touch(page), walk, "page %u", page);
        cr_expect_eq(walk->belief, 0);
    }
}

Test(stream, the_walk_that_rests_longest_is_forgotten)
{
    struct wr_stream *walk = walk_up(1000);

    for (uint32_t i = 0; i < 40; i++) {
        walk_up(10000 + 100 * i);
        cr_expect_eq(touch(1002 + i), walk);
    }
}

Test(stream, a_walk_may_leave_out_a_few)
{
    struct wr_stream *walk = walk_up(10); /* edge 12 */

    cr_expect_eq(touch(12 + 8), walk);
    cr_expect_eq(walk->edge, 21);
    cr_expect_null(touch(21 + 9));
    cr_expect_eq(walk->edge, 21);
}

Test(stream, a_page_that_was_taken_away_again_belongs_to_it)
{
    struct wr_stream *walk = walk_up(10);

    wr_stream_mapped(walk, 12, 32); /* edge 44 */
    cr_expect_eq(walk->edge, 44);
    cr_expect_eq(touch(30), walk);
    cr_expect_eq(walk->edge, 44, "which does not move the edge back");
    cr_expect_null(touch(11), "but not what lies behind");
}

Test(stream, random_touches_do_not_make_it_forgotten)
{
    struct wr_stream *walk = walk_up(100000);

    for (uint32_t i = 0; i < 1000; i++)
        cr_expect_null(touch(i * 10));
    cr_expect_eq(touch(100002), walk);
}

Test(stream, sixteen_walks_at_a_time)
{
    struct wr_stream *walks[16];

    for (uint32_t i = 0; i < 16; i++)
        walks[i] = walk_up(i * 1000);
    for (uint32_t round = 2; round < 10; round++)
        for (uint32_t i = 0; i < 16; i++)
            cr_expect_eq(touch(i * 1000 + round), walks[i], "walk %u, step %u", i, round);
    cr_expect_eq(walk_up(77777), walks[0], "the oldest makes room");
    cr_expect_null(touch(10));
    cr_expect_eq(touch(1010), walks[1]);
}

static void *touch_elsewhere(void *argument)
{
    *(struct wr_stream **)argument = touch(12);
    return NULL;
}

Test(stream, a_walk_belongs_to_a_thread)
{
    struct wr_stream *walk = walk_up(10), *other = walk;
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, touch_elsewhere, &other), 0);
    pthread_join(thread, NULL);
    cr_expect_null(other);
    cr_expect_eq(touch(12), walk);
    wr_stream_reset();
    cr_expect_null(touch(13));
}

/* --- The window ------------------------------------------------------------------------------ */

Test(stream, the_window_doubles_with_every_hit)
{
    struct wr_stream *walk = walk_up(10);

    cr_expect_eq(walk->window, 8);
    hit(12);
    cr_expect_eq(walk->window, 16);
    hit(13);
    cr_expect_eq(walk->window, 32);
    hit(14);
    cr_expect_eq(walk->window, 64);
    hit(15);
    cr_expect_eq(walk->window, MOST, "and no further");
}

Test(stream, the_window_is_never_larger_than_allowed)
{
    struct wr_stream *walk;

    wr_stream_note(1, 10, false, false, 5);
    walk = wr_stream_note(1, 11, false, false, 5);
    cr_expect_eq(walk->window, 5);
    wr_stream_note(1, 12, true, false, 5);
    cr_expect_eq(walk->window, 5);
    wr_stream_reset();
    wr_stream_note(1, 10, false, false, 0);
    walk = wr_stream_note(1, 11, false, false, 0);
    cr_expect_eq(walk->window, 0, "none: no readahead");
}

/* A walk with a window of 32 that has asked for pages far ahead. */
static struct wr_stream *far_ahead(void)
{
    struct wr_stream *walk = walk_up(10);
    struct wr_reach reach = {14, 1000};

    hit(12);
    hit(13);
    cr_assert_eq(walk->window, 32);
    wr_stream_asked(walk, &reach);
    return walk;
}

Test(stream, the_window_halves_when_what_was_asked_for_is_not_there)
{
    struct wr_stream *walk = far_ahead();

    touch(14);
    cr_expect_eq(walk->window, 32, "once is no proof");
    touch(15);
    cr_expect_eq(walk->window, 16);
    touch(16);
    touch(17);
    cr_expect_eq(walk->window, 8);
    touch(18);
    touch(19);
    cr_expect_eq(walk->window, 8, "never less than it began with");
}

Test(stream, a_hit_between_two_misses_forgives)
{
    struct wr_stream *walk = far_ahead();

    touch(14);
    hit(15); /* 64 */
    touch(16);
    cr_expect_eq(walk->window, 64);
    touch(17);
    cr_expect_eq(walk->window, 32);
}

Test(stream, what_was_never_asked_for_is_no_miss)
{
    struct wr_stream *walk = walk_up(10);

    hit(12);
    for (uint32_t page = 13; page < 40; page++)
        touch(page);
    cr_expect_eq(walk->window, 16);
}

/* --- How deep -------------------------------------------------------------------------------- */

Test(stream, who_had_to_wait_looks_further_ahead)
{
    struct wr_stream *walk = walk_up(10);

    cr_expect_eq(walk->depth, 4);
    for (uint32_t depth = 8; depth <= 32; depth *= 2) {
        wr_stream_late(walk);
        cr_expect_eq(walk->depth, depth);
    }
    wr_stream_late(walk);
    cr_expect_eq(walk->depth, 32, "and no further");
}

Test(stream, who_found_it_gone_looks_less_far)
{
    struct wr_stream *walk = far_ahead();

    for (uint32_t depth = 4, page = 14; page < 24; page++) {
        touch(page);
        depth = page % 2 && depth > 1 ? depth / 2 : depth;
        cr_expect_eq(walk->depth, depth, "page %u", page);
    }
    cr_expect_eq(walk->depth, 1);
}

/* --- How far --------------------------------------------------------------------------------- */

static void expect_reach(struct wr_stream *walk, uint32_t depth, uint32_t page, uint32_t count)
{
    struct wr_reach reach = {0};

    cr_assert(wr_stream_reach(walk, 0, 1000000, depth, &reach));
    cr_expect_eq(reach.page, page);
    cr_expect_eq(reach.count, count);
    wr_stream_asked(walk, &reach);
}

Test(stream, it_asks_in_whole_windows_as_deep_as_allowed)
{
    struct wr_stream *walk = walk_up(10);
    struct wr_reach reach;

    for (uint32_t i = 0; i < 4; i++)
        expect_reach(walk, 32, 12 + 8 * i, 8);
    cr_expect_not(wr_stream_reach(walk, 0, 1000000, 32, &reach));
    wr_stream_mapped(walk, 12, 7); /* the edge moves, but not by a window */
    cr_expect_not(wr_stream_reach(walk, 0, 1000000, 32, &reach));
    wr_stream_mapped(walk, 19, 1);
    expect_reach(walk, 32, 44, 8);
}

Test(stream, one_window_is_asked_for_even_if_that_is_deeper)
{
    struct wr_stream *walk = walk_up(10);
    struct wr_reach reach;

    expect_reach(walk, 3, 12, 8);
    cr_expect_not(wr_stream_reach(walk, 0, 1000000, 3, &reach));
}

Test(stream, downward_it_asks_for_what_lies_below)
{
    struct wr_stream *walk;

    touch(1000);
    walk = touch(999);
    expect_reach(walk, 32, 991, 8);
    expect_reach(walk, 32, 983, 8);
    cr_expect_eq(walk->asked, 982);
}

Test(stream, it_asks_for_nothing_outside_the_region)
{
    struct wr_stream *up = walk_up(100), *down;
    struct wr_reach reach;

    cr_assert(wr_stream_reach(up, 90, 106, 32, &reach));
    cr_expect_eq(reach.page, 102);
    cr_expect_eq(reach.count, 4);
    wr_stream_asked(up, &reach);
    cr_expect_not(wr_stream_reach(up, 90, 106, 32, &reach));
    wr_stream_reset();
    touch(7);
    down = touch(6);
    cr_assert(wr_stream_reach(down, 2, 106, 32, &reach));
    cr_expect_eq(reach.page, 2);
    cr_expect_eq(reach.count, 4);
    wr_stream_asked(down, &reach);
    cr_expect_not(wr_stream_reach(down, 2, 106, 32, &reach));
}

/* Page 0 is the end of the world for a walk downward. */
Test(stream, it_does_not_go_below_zero)
{
    struct wr_stream *walk;
    struct wr_reach reach;

    touch(3);
    walk = touch(2);
    cr_assert(wr_stream_reach(walk, 0, 106, 32, &reach));
    cr_expect_eq(reach.page, 0);
    cr_expect_eq(reach.count, 2);
    wr_stream_asked(walk, &reach);
    touch(1);
    touch(0);
    cr_expect_eq(walk->edge, 0);
    wr_stream_mapped(walk, 0, 5);
    cr_expect_eq(walk->edge, 0);
}

Test(stream, what_is_mapped_is_not_asked_for)
{
    struct wr_stream *walk = walk_up(10);

    wr_stream_mapped(walk, 12, 32);
    expect_reach(walk, 32, 44, 8);
}

/* --- Walks that write ------------------------------------------------------------------------ */

Test(stream, who_stores_is_believed_for_four_runs)
{
    struct wr_stream *walk = walk_up(10);

    cr_expect_eq(walk->belief, 0);
    wr_stream_believe(walk);
    for (uint32_t i = 0; i < 4; i++) {
        cr_expect_gt(walk->belief, 0, "run %u", i);
        wr_stream_mapped(walk, 12 + i * 32, 32);
    }
    cr_expect_eq(walk->belief, 0);
    wr_stream_mapped(walk, 200, 32);
    cr_expect_eq(walk->belief, 0);
}

Test(stream, stores_behind_a_walk_make_it_one_that_writes)
{
    struct wr_stream *walk = walk_up(10), *stores;

    wr_stream_mapped(walk, 12, 32); /* edge 44 */
    cr_expect_null(wr_stream_note_store(1, 20), "one store is an accident");
    cr_expect_eq(walk->belief, 0);
    stores = wr_stream_note_store(1, 21);
    cr_assert_not_null(stores);
    cr_expect_neq(stores, walk);
    cr_expect_gt(walk->belief, 0);
}

Test(stream, stores_elsewhere_say_nothing)
{
    struct wr_stream *walk = walk_up(1000);

    wr_stream_mapped(walk, 1002, 32); /* edge 1034 */
    for (uint32_t page = 1034 - 140; page < 1034 - 130; page++)
        wr_stream_note_store(1, page); /* too far behind */
    for (uint32_t page = 1040; page < 1050; page++)
        wr_stream_note_store(1, page); /* before it */
    for (uint32_t page = 1010; page < 1020; page++)
        wr_stream_note_store(2, page); /* another region */
    cr_expect_eq(walk->belief, 0);
    for (uint32_t page = 1030; page > 1020; page--)
        wr_stream_note_store(1, page); /* the other way */
    cr_expect_eq(walk->belief, 0);
}
