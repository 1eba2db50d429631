/* SPDX-License-Identifier: MIT */

/* Staging: every frame of an extent is in one segment until it is released, and counts once. */

#include "runtime/memory/staging.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#include "tests/unit/room_kit.h"

static struct wr_staging *staging = &room_space.staging;

/* free + held == total: here nothing is resident. */
static void expect_equation(uint32_t held)
{
    cr_expect_eq(staging->held_count, held);
    cr_expect_eq(wr_frames_free(&room_space.frames) + held, ROOM_TOTAL);
}

/* Take an extent and move so many pages into it; their frames come from the budget. */
static struct wr_extent *fill(uint32_t count, uint32_t page)
{
    struct wr_extent *extent = wr_staging_take(staging);

    cr_assert_not_null(extent);
    wr_frames_overdraw(&room_space.frames, count);
    for (uint32_t i = 0; i < count; i++)
        wr_staging_hold(staging, extent, i, page + i);
    extent->fill = count;
    return extent;
}

static struct wr_segment next(uint32_t want)
{
    struct wr_segment segment = {0};

    cr_assert(wr_staging_next(staging, want, &segment));
    return segment;
}

static void expect_segment(const struct wr_segment *segment, const struct wr_extent *extent,
                           uint32_t from, uint32_t to, uint32_t live)
{
    cr_expect_eq(segment->extent, extent);
    cr_expect_eq(segment->from, from);
    cr_expect_eq(segment->to, to);
    cr_expect_eq(segment->live, live);
}

/* --- Extents --------------------------------------------------------------------------------- */

Test(staging, extents_are_neighbouring_frames_behind_the_slab)
{
    room_open();
    for (uint32_t i = 0; i < ROOM_EXTENTS; i++) {
        struct wr_extent *extent = wr_staging_take(staging);

        cr_assert_not_null(extent);
        cr_expect_eq(extent->first_frame, ROOM_FRAMES + i * WR_EXTENT_FRAMES);
        cr_expect_eq(extent->fill, 0);
    }
    cr_expect_null(wr_staging_take(staging));
}

Test(staging, a_frame_is_held_once)
{
    struct wr_extent *extent;

    room_open();
    extent = fill(70, 1000);
    for (uint32_t i = 0; i < WR_EXTENT_FRAMES; i++)
        cr_expect_eq(wr_extent_holds(extent, i), i < 70, "%u", i);
    cr_expect_eq(extent->pages[69], 1069);
    expect_equation(70);
}

static void hold_twice(void *context)
{
    wr_staging_hold(staging, context, 5, 1);
}

static void hold_beyond(void *context)
{
    wr_staging_hold(staging, context, WR_EXTENT_FRAMES, 1);
}

Test(staging, holding_wrongly_dies)
{
    struct wr_extent *extent;

    room_open();
    extent = fill(6, 1000);
    cr_expect(room_dies(hold_twice, extent));
    cr_expect(room_dies(hold_beyond, extent));
}

Test(staging, what_needs_no_write_is_released_at_once)
{
    struct wr_extent *extent;
    struct wr_segment segment;

    room_open();
    extent = fill(100, 1000);
    wr_staging_queue(staging, extent, 0);
    expect_equation(0);
    cr_expect_eq(room_host.release.calls, 1);
    cr_expect_eq(room_host.release.pages, 100);
    cr_expect_eq(room_host.release.frame, extent->first_frame);
    cr_expect_not(wr_staging_next(staging, 1, &segment));
    cr_expect_eq(wr_staging_take(staging), extent, "it is free again, and the lowest");
}

Test(staging, an_extent_that_was_not_filled_goes_back)
{
    struct wr_extent *extent;

    room_open();
    extent = fill(0, 0);
    wr_staging_queue(staging, extent, 0);
    cr_expect_eq(room_host.release.calls, 0, "nothing to free");
    cr_expect_eq(wr_staging_take(staging), extent);
}

/* --- The queue ------------------------------------------------------------------------------- */

Test(staging, the_oldest_is_written_first)
{
    struct wr_extent *extents[3];
    struct wr_segment segment;

    room_open();
    for (uint32_t i = 0; i < 3; i++)
        extents[i] = fill(10 + i, i * 1000);
    wr_staging_queue(staging, extents[1], 11);
    wr_staging_queue(staging, extents[0], 9);
    wr_staging_queue(staging, extents[2], 1);
    cr_expect_eq(staging->live_count, 21);
    segment = next(WR_EXTENT_FRAMES);
    expect_segment(&segment, extents[1], 0, 11, 11);
    segment = next(WR_EXTENT_FRAMES);
    expect_segment(&segment, extents[0], 0, 10, 9);
    cr_expect_eq(staging->live_count, 1);
    segment = next(WR_EXTENT_FRAMES);
    expect_segment(&segment, extents[2], 0, 12, 1);
    cr_expect_eq(wr_segment_frame(&segment, 3), extents[2]->first_frame + 3);
    cr_expect_eq(staging->live_count, 0);
    cr_expect_not(wr_staging_next(staging, 1, &segment));
    expect_equation(33); /* taken from the queue, not released */
}

Test(staging, a_part_is_taken_from_the_front)
{
    struct wr_extent *extent;
    struct wr_segment first, second, third;

    room_open();
    extent = fill(100, 0);
    wr_staging_queue(staging, extent, 60);
    first = next(30);
    expect_segment(&first, extent, 0, 30, 0); /* they may all be in the rest */
    second = next(70);                        /* exactly what is left */
    expect_segment(&second, extent, 30, 100, 60);
    cr_expect_not(wr_staging_next(staging, 1, &third));
}

Test(staging, no_fewer_pages_are_live_than_there_may_be)
{
    struct wr_extent *extent;
    struct wr_segment part;

    room_open();
    extent = fill(100, 0);
    wr_staging_queue(staging, extent, 80);
    part = next(30);
    expect_segment(&part, extent, 0, 30, 10);
    cr_expect_eq(staging->live_count, 70);
    part = next(WR_EXTENT_FRAMES);
    expect_segment(&part, extent, 30, 100, 70);
    cr_expect_eq(staging->live_count, 0);
}

static void want_nothing(void *context)
{
    wr_staging_next(staging, 0, context);
}

Test(staging, to_want_nothing_dies)
{
    struct wr_segment segment;

    room_open();
    cr_expect(room_dies(want_nothing, &segment));
}

Test(staging, a_failed_part_is_the_oldest_again)
{
    struct wr_extent *one, *two;
    struct wr_segment first, second, again;

    room_open();
    one = fill(100, 0);
    two = fill(50, 1000);
    wr_staging_queue(staging, one, 100);
    wr_staging_queue(staging, two, 50);
    first = next(40);
    second = next(40);
    wr_staging_retry(staging, &second); /* joins what it was cut from */
    cr_expect_eq(staging->queue_count, 2);
    wr_staging_retry(staging, &first);
    cr_expect_eq(staging->queue_count, 2);
    cr_expect_eq(staging->live_count, 150);
    again = next(WR_EXTENT_FRAMES);
    expect_segment(&again, one, 0, 100, 100);
    again = next(WR_EXTENT_FRAMES);
    expect_segment(&again, two, 0, 50, 50);
}

Test(staging, parts_that_are_no_neighbours_stay_apart)
{
    struct wr_extent *one, *two;
    struct wr_segment first, second, again;

    room_open();
    one = fill(100, 0);
    two = fill(100, 1000);
    wr_staging_queue(staging, one, 100);
    first = next(40);
    second = next(20);
    first.live = 7;                    /* the others were taken back meanwhile */
    wr_staging_retry(staging, &first); /* 40 to 60 are between */
    cr_expect_eq(staging->queue_count, 2);
    cr_expect_eq(staging->live_count, 47);
    again = next(WR_EXTENT_FRAMES);
    expect_segment(&again, one, 0, 40, 7);
    wr_staging_retry(staging, &again);
    wr_staging_release(staging, &second);
    again = next(WR_EXTENT_FRAMES);
    again = next(WR_EXTENT_FRAMES);
    expect_segment(&again, one, 60, 100, 40);
    /* The same numbers in another extent are no neighbours either. */
    wr_staging_queue(staging, two, 100);
    again.to = 60;
    again.from = 60;
    first = next(30); /* 0 to 30 of two; 30 is where the rest begins */
    expect_segment(&first, two, 0, 30, 30);
    again = (struct wr_segment){one, 60, 100, 40};
    wr_staging_retry(staging, &again);
    cr_expect_eq(staging->queue_count, 2);
}

/* The ring goes round its end in both directions. */
Test(staging, the_ring_is_round)
{
    struct wr_segment segment;
    struct wr_extent *extent;
    uint32_t rounds;

    room_open();
    rounds = 3 * staging->segment_room;
    for (uint32_t i = 0; i < rounds; i++) {
        extent = fill(2, i);
        wr_staging_queue(staging, extent, 2);
        segment = next(2);
        if (i % 3 == 0) {
            wr_staging_retry(staging, &segment);
            segment = next(2);
        }
        expect_segment(&segment, extent, 0, 2, 2);
        wr_staging_release(staging, &segment);
    }
    for (uint32_t i = 0; i < rounds; i++) { /* backwards: more is put in front than taken there */
        extent = fill(2, i);
        segment = (struct wr_segment){extent, 0, 2, 2};
        wr_staging_retry(staging, &segment);
        segment = next(2);
        expect_segment(&segment, extent, 0, 2, 2);
        wr_staging_retry(staging, &segment);
        segment = next(1);
        wr_staging_release(staging, &segment);
        segment = next(1);
        wr_staging_release(staging, &segment);
    }
    expect_equation(0);
    cr_expect_eq(staging->live_count, 0);
}

/* --- Releasing ------------------------------------------------------------------------------- */

Test(staging, an_extent_is_free_when_all_parts_are_released)
{
    struct wr_segment parts[3];
    struct wr_extent *extent;

    room_open();
    extent = fill(300, 0);
    wr_staging_queue(staging, extent, 300);
    for (int i = 0; i < 3; i++)
        parts[i] = next(100);
    wr_staging_release(staging, &parts[1]);
    expect_equation(200);
    cr_expect_eq(room_host.release.frame, extent->first_frame + 100);
    cr_expect_eq(room_host.release.pages, 100);
    wr_staging_release(staging, &parts[2]);
    cr_expect_neq(wr_staging_take(staging), extent);
    wr_staging_release(staging, &parts[0]);
    expect_equation(0);
    cr_expect_eq(wr_staging_take(staging), extent);
    for (uint32_t i = 0; i < 300; i++)
        cr_expect_not(wr_extent_holds(extent, i));
}

Test(staging, a_frame_that_was_taken_back_is_not_counted_twice)
{
    struct wr_segment segment;
    struct wr_extent *extent;

    room_open();
    extent = fill(100, 0);
    wr_staging_queue(staging, extent, 100);
    wr_staging_release_one(staging, extent->first_frame + 64);
    expect_equation(99);
    cr_expect_eq(room_host.release.pages, 1);
    cr_expect_eq(room_host.release.frame, extent->first_frame + 64);
    cr_expect_not(wr_extent_holds(extent, 64));
    cr_expect(wr_extent_holds(extent, 63));
    cr_expect(wr_extent_holds(extent, 65));
    segment = next(WR_EXTENT_FRAMES);
    wr_staging_release_one(staging, extent->first_frame); /* also while it is being written */
    wr_staging_release(staging, &segment);
    expect_equation(0);
    cr_expect_eq(wr_staging_take(staging), extent);
}

static void release_one(void *context)
{
    wr_staging_release_one(staging, *(uint32_t *)context);
}

static void release_segment(void *context)
{
    wr_staging_release(staging, context);
}

Test(staging, releasing_twice_dies)
{
    struct wr_segment segment;
    struct wr_extent *extent, *other;
    uint32_t frame;

    room_open();
    other = fill(1, 0);
    extent = fill(10, 0);
    frame = extent->first_frame + 9;
    cr_expect_eq(frame, other->first_frame + WR_EXTENT_FRAMES + 9);
    wr_staging_queue(staging, extent, 10);
    wr_staging_release_one(staging, frame);
    cr_expect(room_dies(release_one, &frame));
    frame = other->first_frame + 1; /* never held */
    cr_expect(room_dies(release_one, &frame));
    segment = next(5);
    wr_staging_release(staging, &segment);
    segment = next(5);
    wr_staging_release(staging, &segment);
    cr_expect(room_dies(release_segment, &segment));
}

/* --- By chance ------------------------------------------------------------------------------- */

#define IN_FLIGHT 12

/* Fill, cut, fail, release and take back at random: the equation holds and nothing is left. */
Test(staging, nothing_is_lost_by_any_order)
{
    struct wr_segment flying[IN_FLIGHT];
    uint32_t count = 0;
    unsigned seed = 1;

    room_open();
    for (int step = 0; step < 20000 || count > 0; step++) {
        uint32_t dice = (uint32_t)rand_r(&seed) % 8, i = (uint32_t)rand_r(&seed) % IN_FLIGHT;
        struct wr_extent *extent;

        if (step < 20000 && dice == 0 && staging->queue_count < 3 &&
            wr_frames_free(&room_space.frames) > 2048) {
            extent = wr_staging_take(staging);
            if (extent) {
                extent->fill = 1 + (uint32_t)rand_r(&seed) % WR_EXTENT_FRAMES;
                wr_frames_overdraw(&room_space.frames, extent->fill);
                for (uint32_t k = 0; k < extent->fill; k++)
                    wr_staging_hold(staging, extent, k, k);
                wr_staging_queue(staging, extent, extent->fill);
            }
        } else if (dice <= 3 && count < IN_FLIGHT) {
            count += wr_staging_next(staging, 1 + (uint32_t)rand_r(&seed) % 200, &flying[count]);
        } else if (i < count) {
            uint32_t at = flying[i].from +
                          (uint32_t)rand_r(&seed) % (flying[i].to - flying[i].from);

            if (wr_extent_holds(flying[i].extent, at))
                wr_staging_release_one(staging, wr_segment_frame(&flying[i], at));
            if (dice == 4)
                wr_staging_retry(staging, &flying[i]);
            else
                wr_staging_release(staging, &flying[i]);
            flying[i] = flying[--count];
        } else if (step >= 20000 && count < IN_FLIGHT) {
            count += wr_staging_next(staging, WR_EXTENT_FRAMES, &flying[count]);
        }
        cr_assert_eq(wr_frames_free(&room_space.frames) + staging->held_count, ROOM_TOTAL);
    }
    while (wr_staging_next(staging, WR_EXTENT_FRAMES, &flying[0]))
        wr_staging_release(staging, &flying[0]);
    expect_equation(0);
    cr_expect_eq(staging->live_count, 0);
    for (uint32_t i = 0; i < ROOM_EXTENTS; i++)
        cr_expect_not_null(wr_staging_take(staging));
}

/* --- What is not submitted yet (seed E11) ---------------------------------------------------- */

Test(staging, the_most_that_was_not_submitted_is_remembered)
{
    struct wr_extent *first, *second;
    struct wr_segment segment;

    room_open();
    first = fill(100, 1);
    cr_expect_eq(staging->unsubmitted_most, 100);
    wr_staging_queue(staging, first, 100);
    segment = next(100);
    wr_staging_submitted(staging, 100, 0);
    second = fill(60, 200);
    cr_expect_eq(staging->unsubmitted_most, 100, "those under write do not count");
    wr_staging_release(staging, &segment);
    wr_staging_submitted(staging, 0, 100);
    wr_staging_queue(staging, second, 60);
    fill(60, 300);
    cr_expect_eq(staging->unsubmitted_most, 120);
    expect_equation(120);
}
