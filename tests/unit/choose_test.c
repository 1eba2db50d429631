/* SPDX-License-Identifier: MIT */

/* Choose: priorities, turns, and that one back end's troubles are its own. */

#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/swap_kit.h"

/* Much memory, so that many writes may be in flight. */
static void open_rich(const char *spec)
{
    const struct wr_frame_marks marks = {ROOM_MIN, ROOM_LOW, ROOM_HIGH};

    open_swap(spec);
    wr_frames_resize(&room_space.frames, 100 * ROOM_TOTAL, &marks);
}

static uint64_t used(uint32_t number)
{
    return wr_slots_used(&swap->backends[number]->slots);
}

/* Stage 64 pages of cluster i of the region and launder them. */
static enum wr_laundered write_some(uint32_t i)
{
    put_in_queue(stage(i * 64, 64));
    return launder();
}

static const struct wr_swap_lane *swap_lane(void)
{
    return (const struct wr_swap_lane *)(const void *)lane;
}

Test(choose, the_highest_priority_comes_first)
{
    open_rich("mem:?size=2m");
    add("mem:?size=2m&priority=5");
    add("mem:?priority=7&size=2m");
    for (uint32_t i = 0; i < 3; i++) {
        put_in_queue(stage(i * C, C));
        cr_expect_eq(launder(), WR_LAUNDERED);
        finish();
        cr_expect_eq(used(2), C);
        cr_expect_eq(used(1), i > 0 ? C : 0);
        cr_expect_eq(used(0), i > 1 ? C : 0, "one without a priority comes last");
    }
}

Test(choose, a_later_one_without_a_priority_comes_after_the_earlier)
{
    open_rich("mem:?size=4m");
    add("mem:?size=4m");
    cr_expect_gt(swap->backends[0]->priority, swap->backends[1]->priority);
    cr_expect_eq(write_some(0), WR_LAUNDERED);
    finish();
    cr_expect_eq(used(0), 64);
    cr_expect_eq(used(1), 0);
}

Test(choose, equal_ones_take_turns)
{
    open_rich("mem:?size=8m&priority=1");
    add("mem:?size=8m&priority=1");
    add("mem:?size=8m&priority=1");
    for (uint32_t i = 0; i < 6; i++) {
        cr_expect_eq(write_some(i), WR_LAUNDERED);
        finish(); /* nothing is in flight when the next is chosen */
    }
    for (uint32_t i = 0; i < 3; i++)
        cr_expect_eq(used(i), 2 * 64, "back end %u", i);
}

Test(choose, the_one_with_least_in_flight)
{
    open_rich("chaos(mem:?size=8m)?write_delay_us=300000&priority=1");
    add("mem:?size=8m&priority=1");
    put_in_queue(stage(0, C));
    cr_expect_eq(launder(), WR_LAUNDERED);
    cr_expect_eq(swap_lane()->holding[1], C, "turns begin behind the first");
    for (uint32_t i = 0; i < 2; i++) {
        put_in_queue(stage(C + i * 100, 100));
        cr_expect_eq(launder(), WR_LAUNDERED);
    }
    cr_expect_eq(swap_lane()->holding[0], 200);
    cr_expect_eq(swap_lane()->holding[1], C);
    finish();
    expect_all_returned();
}

/* Writes go on at the other one, as many as one likes, while the slow one's hang. */
Test(choose, a_slow_one_holds_up_nobody_of_its_priority)
{
    open_rich("chaos(mem:?size=8m)?write_delay_us=2000000&priority=3");
    add("mem:?size=8m&priority=3");
    for (uint32_t i = 0; i < 12; i++) {
        uint8_t bytes[WEIR_PAGE_BYTES];

        cr_expect_eq(write_some(i), WR_LAUNDERED, "write %u", i);
        while (swap_lane()->writing[1] > 0)
            swap->pager.ops->reap(lane);
        if (state_of(i * 64) == WR_PAGE_OUT) {
            cr_expect_eq(read_page(i * 64, bytes), WEIR_OK);
            cr_expect(is_stamped(bytes, region->first + i * 64));
        }
    }
    cr_expect_eq(swap_lane()->writing[0], 2, "as many as it may have, and no more");
    cr_expect_eq(used(1), 10 * 64);
    finish();
    expect_all_returned();
}

Test(choose, a_lower_priority_waits_for_a_congested_one)
{
    open_rich("chaos(mem:?size=8m)?write_delay_us=300000&priority=3");
    add("mem:?size=8m&priority=2");
    cr_expect_eq(write_some(0), WR_LAUNDERED);
    cr_expect_eq(write_some(1), WR_LAUNDERED);
    cr_expect_eq(write_some(2), WR_LAUNDER_BUSY);
    atomic_fetch_add(&room_space.frames.waiting, 1); /* a thread waits for a frame */
    cr_expect_eq(launder(), WR_LAUNDERED);
    atomic_fetch_sub(&room_space.frames.waiting, 1);
    cr_expect_eq(used(1), 64);
    finish();
    cr_expect_eq(write_some(3), WR_LAUNDERED);
    cr_expect_eq(swap_lane()->writing[0], 1, "free again");
    finish();
    expect_all_returned();
}

Test(choose, a_lower_priority_takes_the_place_of_a_sick_one)
{
    open_rich("mem:?size=8m&priority=3");
    add("mem:?size=8m&priority=2");
    swap->backends[0]->sick_until_ns = WR_FOREVER;
    cr_expect_eq(write_some(0), WR_LAUNDERED);
    finish();
    cr_expect_eq(used(1), 64);
}

Test(choose, writes_share_an_eighth_of_memory)
{
    const struct wr_frame_marks marks = {ROOM_MIN, ROOM_LOW, ROOM_HIGH};

    open_swap("chaos(mem:?size=8m)?write_delay_us=2000000&priority=3");
    add("mem:?size=8m&priority=3");
    wr_frames_resize(&room_space.frames, 8 * 2 * C, &marks); /* two clusters */
    put_in_queue(stage(0, C));
    swap_lane(); /* the slow one first */
    ((struct wr_swap_lane *)(void *)lane)->turn = 1;
    cr_expect_eq(launder(), WR_LAUNDERED);
    put_in_queue(stage(C, C));
    cr_expect_eq(launder(), WR_LAUNDERED, "the slow one has its share and no more");
    cr_expect_eq(swap_lane()->writing[1], 1);
    put_in_queue(stage(2 * C, C));
    cr_expect_eq(launder(), WR_LAUNDER_BUSY);
    while (swap_lane()->writing[1] > 0)
        swap->pager.ops->reap(lane);
    cr_expect_eq(launder(), WR_LAUNDERED);
    cr_expect_eq(swap_lane()->writing[1], 1);
    finish();
    expect_all_returned();
}

/* What is left between the pages of an almost full one is for when nobody else has room. */
Test(choose, leavings_come_last)
{
    open_rich("mem:?size=4m&priority=3");
    add("mem:?size=2m&priority=2");
    for (uint32_t i = 0; i < 2; i++) {
        put_in_queue(stage(i * C, C));
        cr_expect_eq(launder(), WR_LAUNDERED);
        finish();
    }
    for (uint32_t slot = 0; slot < 2 * C; slot += 64)
        wr_slots_free(&swap->backends[0]->slots, slot);
    put_in_queue(stage(2 * C, C));
    cr_expect_eq(launder(), WR_LAUNDERED);
    finish();
    cr_expect_eq(used(1), C);
    put_in_queue(stage(3 * C, 1));
    cr_expect_eq(launder(), WR_LAUNDERED);
    finish();
    cr_expect_eq(used(0), 2 * C - 16 + 1);
}

Test(choose, what_is_no_priority_is_refused)
{
    static const char *const wrong[] = {
        "mem:?priority=32768&size=2m",   "mem:?priority=&size=2m", "mem:?size=2m&priority=-1",
        "mem:?priority=1&priority=1",    "mem:?priority=1x",       "mem:?priority",
        "chaos(mem:?priority=1)?seed=1",
    };
    uint32_t number = 77;

    open_swap(NULL);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        cr_expect_eq(wr_swap_add(swap, wrong[i], &number), WEIR_EINVAL, "%s", wrong[i]);
        cr_expect_eq(room_events.error, WEIR_EINVAL);
        cr_expect_not_null(strstr(room_events.text, "priority"), "%s", room_events.text);
    }
    cr_expect_eq(number, 77);
}

Test(choose, a_priority_stands_anywhere_among_the_options)
{
    open_swap(NULL);
    add("mem:?priority=32767");
    add("mem:?size=2m&priority=0");
    add("chaos(mem:?size=2m)?priority=12&seed=4");
    add("chaos(chaos(mem:?size=2m)?seed=2)?seed=4&priority=13&delay_us=0");
    cr_expect_eq(swap->backends[0]->priority, 32767);
    cr_expect_eq(swap->backends[1]->priority, 0);
    cr_expect_eq(swap->backends[1]->slots.count, C);
    cr_expect_eq(swap->backends[2]->priority, 12);
    cr_expect_eq(swap->backends[3]->priority, 13);
    cr_expect_eq(strcmp(swap->backends[2]->spec, "chaos(mem:?size=2m)?priority=12&seed=4"), 0);
}

/* Its memory is wanted back: it is for when nobody else has room. */
Test(choose, one_that_is_leaving_comes_last)
{
    open_rich("mem:?size=8m&priority=9");
    add("mem:?size=2m&priority=1");
    swap->backends[0]->leaving = true;
    put_in_queue(stage(0, C));
    cr_expect_eq(launder(), WR_LAUNDERED);
    finish();
    cr_expect_eq(used(1), C);
    cr_expect_eq(used(0), 0);
    put_in_queue(stage(C, C));
    cr_expect_eq(launder(), WR_LAUNDERED);
    finish();
    cr_expect_eq(used(0), C, "rather there than nowhere");
    expect_all_returned();
}
