/* SPDX-License-Identifier: MIT */

/* Swap: sums, slots that are kept, fetches, and writes that go right or wrong; over real back ends
 * in memory, without a kernel. */

#include "tests/unit/swap_kit.h"

#include <criterion/criterion.h>
#include <string.h>

/* --- Sums ------------------------------------------------------------------------------------ */

Test(swap, a_sum_knows_its_page_and_every_byte)
{
    uint8_t bytes[WEIR_PAGE_BYTES] = {0};
    uint32_t sum;

    open_swap(NULL);
    sum = wr_swap_sum(swap, 7, bytes);
    cr_expect_eq(wr_swap_sum(swap, 7, bytes), sum);
    cr_expect_neq(wr_swap_sum(swap, 8, bytes), sum, "the same bytes of another page");
    for (uint32_t i = 0; i < WEIR_PAGE_BYTES; i += 41) {
        bytes[i] ^= 1;
        cr_expect_neq(wr_swap_sum(swap, 7, bytes), sum, "byte %u", i);
        bytes[i] ^= 1;
    }
    swap->wish.checksums = false;
    cr_expect_eq(wr_swap_sum(swap, 7, bytes), 0);
}

/* --- Writing --------------------------------------------------------------------------------- */

Test(swap, pages_go_out_and_come_back)
{
    uint8_t bytes[WEIR_PAGE_BYTES];

    open_swap("mem:?size=8m");
    cr_expect_eq(put_in_queue(stage(0, C)), C);
    cr_expect_eq(launder(), WR_LAUNDERED);
    cr_expect_eq(state_of(0), WR_PAGE_CACHED_WRITING);
    cr_expect_eq(swap->pager.ops->coming(lane), C);
    finish();
    expect_all_returned();
    for (uint32_t i = 0; i < C; i++) {
        struct wr_hold hold = room_look(region->first + i);
        uint32_t owner = UINT32_MAX;

        cr_expect_eq(wr_hold_state(&hold), WR_PAGE_OUT);
        cr_expect_eq(wr_hold_slot(&hold), i, "neighbours in neighbouring slots");
        cr_expect_eq(wr_hold_frame(&hold), WR_FRAME_NONE);
        cr_expect(wr_slots_owner(&swap->backends[0]->slots, i, &owner));
        cr_expect_eq(owner, region->first + i);
        cr_expect_eq(read_page(i, bytes), WEIR_OK);
        cr_expect(is_stamped(bytes, region->first + i), "page %u", i);
    }
    cr_expect_eq(count_of(WR_COUNT_writes), 1, "one write");
    cr_expect_eq(count_of(WR_COUNT_writes_full), 1);
    cr_expect_eq(count_of(WR_COUNT_pages_written), C);
}

Test(swap, nothing_to_write_leaves_no_slot_taken)
{
    open_swap("mem:?size=8m");
    cr_expect_eq(launder(), WR_LAUNDER_NOTHING);
    cr_expect_eq(wr_slots_used(&swap->backends[0]->slots), 0);
    expect_all_returned();
}

Test(swap, zeros_are_forgotten)
{
    struct wr_extent *extent;

    open_swap("mem:?size=8m");
    extent = stage(0, 10);
    memset(wr_host_frame(room_space.host, extent->first_frame + 3), 0, WEIR_PAGE_BYTES);
    memset(wr_host_frame(room_space.host, extent->first_frame + 5), 0, WEIR_PAGE_BYTES - 1);
    memset(wr_host_frame(room_space.host, extent->first_frame + 6) + 1, 0, WEIR_PAGE_BYTES - 1);
    memset(wr_host_frame(room_space.host, extent->first_frame + 7), 0, WEIR_PAGE_BYTES);
    wr_host_frame(room_space.host, extent->first_frame + 7)[2000] = 1;
    cr_expect_eq(put_in_queue(extent), 9);
    cr_expect_eq(state_of(3), WR_PAGE_EMPTY);
    cr_expect_eq(count_of(WR_COUNT_pages_elided_zero), 1);
    cr_expect_eq(launder(), WR_LAUNDERED);
    finish();
    cr_expect_eq(state_of(3), WR_PAGE_EMPTY);
    for (uint32_t i = 5; i < 8; i++)
        cr_expect_eq(state_of(i), WR_PAGE_OUT, "almost zero: page %u", i);
    cr_expect_eq(wr_slots_used(&swap->backends[0]->slots), 9);
    expect_all_returned();
}

Test(swap, zeros_are_written_when_asked_for)
{
    struct wr_extent *extent;

    open_swap("mem:?size=8m");
    swap->wish.zero_elision = false;
    extent = stage(0, 1);
    memset(wr_host_frame(room_space.host, extent->first_frame), 0, WEIR_PAGE_BYTES);
    cr_expect_eq(put_in_queue(extent), 1);
    cr_expect_eq(count_of(WR_COUNT_pages_elided_zero), 0);
}

Test(swap, what_was_taken_back_is_not_written)
{
    open_swap("mem:?size=8m");
    cr_expect_eq(put_in_queue(stage(0, 10)), 10);
    touch(4, WR_PAGE_CACHED_DIRTY);
    cr_expect_eq(launder(), WR_LAUNDERED);
    finish();
    cr_expect_eq(state_of(4), WR_PAGE_RESIDENT_DIRTY);
    cr_expect_eq(wr_slots_used(&swap->backends[0]->slots), 9);
    expect_all_returned();
}

/* It is detached: the completion finds that the page no longer names the slot, and frees it. */
Test(swap, what_is_stored_to_during_its_write_forgets_its_slot)
{
    struct wr_hold hold;

    open_swap("mem:?size=8m");
    put_in_queue(stage(0, 10));
    cr_expect_eq(launder(), WR_LAUNDERED);
    touch(4, WR_PAGE_CACHED_WRITING);
    wr_page_take(&room_space.pages, region->first + 5, &hold); /* and one that was only read */
    wr_page_move(&hold, WR_PAGE_CACHED_WRITING, WR_PAGE_RESIDENT_WRITING);
    wr_page_put(&room_space.pages, &hold);
    finish();
    cr_expect_eq(state_of(4), WR_PAGE_RESIDENT_DIRTY);
    hold = room_look(region->first + 5);
    cr_expect_eq(wr_hold_state(&hold), WR_PAGE_RESIDENT_CLEAN);
    cr_expect_eq(wr_hold_slot(&hold), 5);
    cr_expect_eq(wr_slots_used(&swap->backends[0]->slots), 9);
    expect_all_returned();
}

/* Two copies of one page are on their way: the older write must not be taken for the younger. */
Test(swap, an_older_write_of_a_page_only_frees_its_slot)
{
    const struct wr_frame_marks marks = {ROOM_MIN, ROOM_LOW, ROOM_HIGH};
    uint8_t bytes[WEIR_PAGE_BYTES];
    struct wr_hold hold;
    uint32_t owner;

    open_swap("mem:?size=8m");
    wr_frames_resize(&room_space.frames, 2 * ROOM_TOTAL, &marks); /* room for two writes */
    put_in_queue(stage(0, 10));
    cr_expect_eq(launder(), WR_LAUNDERED);
    wr_page_take(&room_space.pages, region->first + 4, &hold);
    wr_page_move(&hold, WR_PAGE_CACHED_WRITING, WR_PAGE_EMPTY); /* discarded */
    wr_page_put(&room_space.pages, &hold);
    put_in_queue(stage(4, 1)); /* and written anew */
    cr_expect_eq(launder(), WR_LAUNDERED);
    finish();
    hold = room_look(region->first + 4);
    cr_expect_eq(wr_hold_state(&hold), WR_PAGE_OUT);
    cr_expect(
        wr_slots_owner(&swap->backends[0]->slots, wr_slot_place(wr_hold_slot(&hold)), &owner));
    cr_expect_eq(owner, region->first + 4);
    cr_expect_eq(wr_slots_used(&swap->backends[0]->slots), 10);
    cr_expect_eq(read_page(4, bytes), WEIR_OK);
    cr_expect(is_stamped(bytes, region->first + 4));
}

Test(swap, as_many_writes_as_allowed)
{
    open_swap("mem:?size=8m");
    for (uint32_t i = 0; i < 3; i++)
        put_in_queue(stage(i * 100, 100));
    cr_expect_eq(launder(), WR_LAUNDERED); /* all three: a cluster holds 512 */
    finish();
    cr_expect_eq(count_of(WR_COUNT_writes), 1);
    for (uint32_t i = 1; i < 4; i++)
        put_in_queue(stage(i * C, C));
    /* An eighth of 4000 frames is no cluster: only one may be in flight. */
    cr_expect_eq(launder(), WR_LAUNDERED);
    cr_expect_eq(launder(), WR_LAUNDER_BUSY);
    finish();
    cr_expect_eq(launder(), WR_LAUNDERED);
    finish();
}

/* --- Which back end -------------------------------------------------------------------------- */

Test(swap, without_a_back_end_it_is_full)
{
    uint64_t used, total;

    open_swap(NULL);
    put_in_queue(stage(0, 10));
    cr_expect_eq(launder(), WR_LAUNDER_FULL);
    wr_swap_usage(swap, &used, &total);
    cr_expect_eq(used + total, 0);
}

Test(swap, while_it_is_full_what_was_taken_back_costs_no_memory)
{
    uint32_t held;

    open_swap(NULL);
    cr_assert_eq(put_in_queue(stage(0, C)), C);
    for (uint32_t i = 0; i < C / 2; i++)
        touch(i, WR_PAGE_CACHED_DIRTY);
    held = atomic_load(&room_space.staging.held_count);
    cr_expect_eq(launder(), WR_LAUNDER_FULL, "there is memory enough: nobody looks");
    cr_expect_eq(atomic_load(&room_space.staging.held_count), held);
    wr_frames_overdraw(&room_space.frames, ROOM_TOTAL - C - ROOM_LOW);
    cr_expect_eq(launder(), WR_LAUNDER_NOTHING, "frames came free");
    cr_expect_eq(atomic_load(&room_space.staging.held_count), held - C / 2);
    cr_expect_eq(launder(), WR_LAUNDER_FULL, "and now nothing does");
    for (uint32_t i = C / 2; i < C; i++)
        touch(i, WR_PAGE_CACHED_DIRTY);
    wr_frames_overdraw(&room_space.frames, C / 2);
    cr_expect_eq(launder(), WR_LAUNDER_NOTHING);
    cr_expect_eq(atomic_load(&room_space.staging.held_count), 0u);
    wr_frames_put(&room_space.frames, ROOM_TOTAL - C / 2 - ROOM_LOW);
    cr_expect_eq(wr_staging_queued(&room_space.staging), 0u);
    expect_all_returned();
}

Test(swap, back_ends_are_filled_in_order)
{
    uint64_t used, total;

    open_swap("mem:?size=2m");
    cr_expect_eq(add("mem:?size=4m"), 1);
    for (uint32_t i = 0; i < 4; i++) {
        put_in_queue(stage(i * C, C));
        cr_expect_eq(launder(), i < 3 ? WR_LAUNDERED : WR_LAUNDER_FULL, "cluster %u", i);
        finish();
    }
    for (uint32_t i = 0; i < 3; i++) {
        struct wr_hold hold = room_look(region->first + i * C);

        cr_expect_eq(wr_slot_backend(wr_hold_slot(&hold)), i > 0);
    }
    wr_swap_usage(swap, &used, &total);
    cr_expect_eq(used, 3 * C);
    cr_expect_eq(total, 3 * C);
}

/* The last unit may be a part of one: what is over is never written, the last whole slot is used.
 */
static void fill_odd(const char *spec, uint64_t slots)
{
    static _Alignas(WEIR_PAGE_BYTES) uint8_t bytes[WEIR_PAGE_BYTES];
    enum wr_laundered laundered = WR_LAUNDERED;

    add(spec);
    cr_assert_eq(swap->backends[0]->slots.count, slots, "%s", spec);
    for (uint32_t i = 0; i < 4 && laundered == WR_LAUNDERED; i++) {
        put_in_queue(stage(i * C, C));
        while (room_space.staging.live_count > 0 && laundered == WR_LAUNDERED) {
            laundered = launder();
            finish();
        }
    }
    cr_expect_eq(laundered, WR_LAUNDER_FULL);
    cr_expect_eq(wr_slots_used(&swap->backends[0]->slots), slots);
    for (uint32_t page = 0; page < slots; page++) {
        cr_assert_eq(state_of(page), WR_PAGE_OUT);
        cr_expect_eq(read_page(page, bytes), WEIR_OK);
        cr_expect(is_stamped(bytes, region->first + page), "%s: page %u", spec, page);
    }
    cr_expect_eq(state_of((uint32_t)slots), WR_PAGE_CACHED_DIRTY);
}

#define ODD(name, size, slots)                \
    Test(swap, name##_of_memory)              \
    {                                         \
        open_swap(NULL);                      \
        fill_odd("mem:?size=" size, slots);   \
    }                                         \
    Test(swap, name##_of_a_file)              \
    {                                         \
        open_swap(NULL);                      \
        fill_odd("file:.?size=" size, slots); \
    }

ODD(a_slot_more, "4198400", 2 * C + 1) /* 4 MiB + 4 KiB */
ODD(a_slot_less, "4190208", 2 * C - 1) /* 4 MiB - 4 KiB */
ODD(a_sector_more, "4194816", 2 * C)   /* 4 MiB + 512   */
ODD(a_sector_less, "2096640", C - 1)   /* 2 MiB - 512   */

Test(swap, one_that_drains_takes_no_new_pages)
{
    open_swap("mem:?size=2m");
    add("mem:?size=2m");
    swap->backends[0]->draining = true;
    put_in_queue(stage(0, 10));
    cr_expect_eq(launder(), WR_LAUNDERED);
    finish();
    cr_expect_eq(wr_slots_used(&swap->backends[0]->slots), 0);
    cr_expect_eq(wr_slots_used(&swap->backends[1]->slots), 10);
}

Test(swap, at_most_sixteen)
{
    uint32_t number = 77;

    open_swap(NULL);
    for (uint32_t i = 0; i < WR_BACKENDS_MAX; i++)
        cr_expect_eq(add("mem:?size=1m"), i);
    cr_expect_eq(wr_swap_add(swap, "mem:?size=1m", &number), WEIR_EBUSY);
    cr_expect_eq(number, 77);
    cr_expect_eq(room_events.error, WEIR_EBUSY);
}

Test(swap, a_bad_specification_leaves_nothing_behind)
{
    uint32_t number = 77;

    open_swap(NULL);
    cr_expect_eq(wr_swap_add(swap, "nonsense:", &number), WEIR_ENOENT);
    cr_expect_eq(wr_swap_add(swap, "mem:?size=no", &number), WEIR_EINVAL);
    cr_expect_gt(room_events.count, 0);
    cr_expect_not_null(strstr(room_events.text, "mem:?size=no"), "%s", room_events.text);
    cr_expect_eq(number, 77);
    cr_expect_eq(add("mem:?size=1m"), 0);
}

Test(swap, a_slot_is_kept_while_half_is_free)
{
    open_swap("mem:?size=4m");
    put_in_queue(stage(0, C));
    cr_expect_eq(launder(), WR_LAUNDERED);
    finish();
    cr_expect(swap->pager.ops->keeps(&swap->pager, 0), "exactly half is used");
    put_in_queue(stage(C, 1));
    cr_expect_eq(launder(), WR_LAUNDERED);
    finish();
    cr_expect_not(swap->pager.ops->keeps(&swap->pager, 0));
    swap->pager.ops->forget(&swap->pager, C);
    cr_expect(swap->pager.ops->keeps(&swap->pager, 0));
    swap->backends[0]->draining = true;
    cr_expect_not(swap->pager.ops->keeps(&swap->pager, 0));
}

/* --- In trouble ------------------------------------------------------------------------------ */

/* Launder until it says something else than that it is to be tried again. */
static enum wr_laundered launder_to_the_end(void)
{
    enum wr_laundered laundered = launder();

    while (laundered == WR_LAUNDERED || laundered == WR_LAUNDER_BUSY) {
        finish();
        room_sleep_us(1000);
        laundered = launder();
    }
    return laundered;
}

static void expect_nothing_lost(uint32_t pages)
{
    cr_expect_eq(wr_slots_used(&swap->backends[0]->slots), 0);
    cr_expect_eq(wr_frames_free(&room_space.frames), ROOM_TOTAL - (int64_t)pages);
    for (uint32_t i = 0; i < pages; i++) {
        struct wr_hold hold = room_look(region->first + i);

        cr_expect_eq(wr_hold_state(&hold), WR_PAGE_CACHED_DIRTY);
        cr_expect_eq(wr_hold_slot(&hold), WR_SLOT_NONE);
        cr_expect(
            is_stamped(wr_host_frame(room_space.host, wr_hold_frame(&hold)), region->first + i));
    }
}

Test(swap, a_failed_write_loses_nothing)
{
    uint64_t before;

    open_swap("chaos(mem:?size=8m)?fail_write=1");
    before = room_host.host.ops->now_ns(&room_host.host);
    put_in_queue(stage(0, 100));
    cr_expect_eq(launder(), WR_LAUNDERED);
    finish();
    expect_nothing_lost(100);
    cr_expect_eq(room_space.staging.live_count, 100, "it waits for another try");
    cr_expect_eq(count_of(WR_COUNT_write_errors), 1);
    cr_expect_gt(swap->backends[0]->sick_until_ns, before, "left alone for a while");
    swap->backends[0]->sick_until_ns = WR_FOREVER; /* a long one */
    cr_expect_eq(launder(), WR_LAUNDER_BUSY);
    add("mem:?size=8m");
    cr_expect_eq(launder(), WR_LAUNDERED, "but another takes its pages");
    finish();
    expect_all_returned();
}

Test(swap, one_that_fails_for_long_is_broken)
{
    open_swap("chaos(mem:?size=8m)?fail_write=1");
    put_in_queue(stage(0, 10));
    cr_expect_eq(launder_to_the_end(), WR_LAUNDER_BROKEN);
    cr_expect_eq(count_of(WR_COUNT_write_errors), 8);
    cr_expect_eq(room_events.error, WEIR_EIO);
    cr_expect_not_null(strstr(room_events.text, "writes fail"), "%s", room_events.text);
    expect_nothing_lost(10);
}

Test(swap, one_that_is_full_for_long_is_full)
{
    open_swap("chaos(mem:?size=8m)?full=1");
    put_in_queue(stage(0, 10));
    cr_expect_eq(launder_to_the_end(), WR_LAUNDER_FULL);
    cr_expect_eq(room_events.error, WEIR_EFULL);
    expect_nothing_lost(10);
}

Test(swap, a_failed_write_frees_what_was_taken_back_meanwhile)
{
    open_swap("chaos(mem:?size=8m)?fail_write=1");
    put_in_queue(stage(0, 3));
    cr_expect_eq(launder(), WR_LAUNDERED);
    for (uint32_t i = 0; i < 3; i++)
        touch(i, WR_PAGE_CACHED_WRITING);
    finish();
    cr_expect_eq(wr_slots_used(&swap->backends[0]->slots), 0);
    expect_all_returned();
}

Test(swap, damage_is_found_out)
{
    uint8_t bytes[WEIR_PAGE_BYTES];
    struct wr_hold hold;

    open_swap("mem:?size=8m");
    put_in_queue(stage(0, 2));
    cr_expect_eq(launder(), WR_LAUNDERED);
    finish();
    hold = room_look(region->first);
    /* The bytes of page 1, where page 0 is believed to be. */
    cr_expect_eq(swap->pager.ops->read(&swap->pager, 1, region->first, wr_hold_sum(&hold), bytes),
                 WEIR_EIO);
    cr_expect_eq(count_of(WR_COUNT_checksum_errors), 3, "tried three times");
    cr_expect_eq(count_of(WR_COUNT_read_errors), 0);
    cr_expect_eq(room_events.severity, WEIR_FAILURE);
    cr_expect_not_null(strstr(room_events.text, "damaged"), "%s", room_events.text);
    cr_expect_eq(read_page(0, bytes), WEIR_OK);
}

Test(swap, what_cannot_be_read_is_told_of)
{
    uint8_t bytes[WEIR_PAGE_BYTES];

    open_swap("chaos(mem:?size=8m)?fail_read=1");
    put_in_queue(stage(0, 1));
    cr_expect_eq(launder(), WR_LAUNDERED);
    finish();
    cr_expect_eq(read_page(0, bytes), WEIR_EIO);
    cr_expect_eq(count_of(WR_COUNT_read_errors), 3);
    cr_expect_not_null(strstr(room_events.text, "cannot be read"), "%s", room_events.text);
    cr_expect_eq(swap->backends[0]->errors, 3);
}

/* --- Fetching -------------------------------------------------------------------------------- */

static struct wr_fetch fetch;
static int arrived[WR_FETCH_PAGES]; /* 1: not yet */
static uint32_t finished;

static void note_arrival(struct wr_fetch *given, uint32_t index, int error)
{
    cr_expect_eq(given, &fetch);
    cr_expect_eq(arrived[index], 1, "page %u arrived twice", index);
    arrived[index] = error;
}

static void note_end(struct wr_fetch *given)
{
    cr_expect_eq(given, &fetch);
    finished++;
}

/* Fetch the slots of these pages, leaving out every `gap`th (0: none). */
static void fetch_pages(uint32_t count, uint32_t step, uint32_t gap)
{
    fetch = (struct wr_fetch){.bytes = wr_host_frame(room_space.host, ROOM_READERS),
                              .count = count,
                              .arrived = note_arrival,
                              .finished = note_end};
    finished = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct wr_hold hold = room_look(region->first + i * step);

        arrived[i] = 1;
        fetch.page[i] = region->first + i * step;
        fetch.slot[i] = gap && i % gap == gap - 1 ? WR_SLOT_NONE : wr_hold_slot(&hold);
        fetch.sum[i] = wr_hold_sum(&hold);
    }
    memset(fetch.bytes, 0, (size_t)count * WEIR_PAGE_BYTES);
    swap->pager.ops->fetch(lane, &fetch);
    finish();
    cr_expect_eq(finished, 1);
}

static void open_with_pages_out(const char *spec)
{
    open_swap(spec);
    put_in_queue(stage(0, C));
    cr_expect_eq(launder(), WR_LAUNDERED);
    finish();
}

Test(swap, neighbours_are_fetched_together)
{
    open_with_pages_out("mem:?size=8m");
    fetch_pages(WR_FETCH_PAGES, 1, 0);
    for (uint32_t i = 0; i < WR_FETCH_PAGES; i++) {
        cr_expect_eq(arrived[i], WEIR_OK);
        cr_expect(is_stamped(fetch.bytes + (size_t)i * WEIR_PAGE_BYTES, region->first + i));
    }
}

Test(swap, gaps_stay_gaps)
{
    open_with_pages_out("mem:?size=8m");
    fetch_pages(30, 1, 3);
    for (uint32_t i = 0; i < 30; i++) {
        cr_expect_eq(arrived[i], i % 3 == 2 ? 1 : WEIR_OK, "page %u", i);
        cr_expect_eq(is_stamped(fetch.bytes + (size_t)i * WEIR_PAGE_BYTES, region->first + i),
                     i % 3 != 2);
    }
    fetch_pages(1, 1, 1); /* nothing at all */
    cr_expect_eq(arrived[0], 1);
}

Test(swap, scattered_slots_are_fetched_in_part)
{
    uint32_t came = 0;

    open_with_pages_out("mem:?size=8m");
    fetch_pages(40, 3, 0);
    for (uint32_t i = 0; i < 40; i++) {
        cr_expect(arrived[i] == WEIR_OK || arrived[i] == WEIR_EAGAIN);
        came += arrived[i] == WEIR_OK;
    }
    cr_expect_eq(came, WR_FETCH_REQUESTS);
}

Test(swap, each_page_of_a_fetch_is_judged_by_itself)
{
    open_with_pages_out("mem:?size=8m");
    fetch_pages(8, 1, 0);
    fetch.sum[5]++;
    for (uint32_t i = 0; i < 8; i++)
        arrived[i] = 1;
    swap->pager.ops->fetch(lane, &fetch);
    finish();
    for (uint32_t i = 0; i < 8; i++)
        cr_expect_eq(arrived[i], i == 5 ? WEIR_EIO : WEIR_OK, "page %u", i);
}

Test(swap, a_failed_fetch_is_told_to_each)
{
    open_with_pages_out("chaos(mem:?size=8m)?fail_read=1");
    fetch_pages(8, 1, 0);
    for (uint32_t i = 0; i < 8; i++)
        cr_expect_eq(arrived[i], WEIR_EIO);
    cr_expect_eq(count_of(WR_COUNT_read_errors), 1);
}

/* --- Pages that lie at the end of an extent -------------------------------------------------- */

static void forget_out(uint32_t page)
{
    struct wr_hold hold;

    wr_page_take(&room_space.pages, region->first + page, &hold);
    wr_page_move(&hold, WR_PAGE_OUT, WR_PAGE_EMPTY);
    swap->pager.ops->forget(&swap->pager, wr_hold_slot(&hold));
    wr_hold_set_slot(&hold, WR_SLOT_NONE);
    wr_page_put(&room_space.pages, &hold);
}

/* The first half of an extent was taken back, and what is free is in runs of a hundred. */
Test(swap, what_lies_behind_what_was_taken_back_is_written)
{
    struct wr_extent *extent;

    open_swap("mem:?size=2m");
    put_in_queue(stage(0, C));
    cr_assert_eq(launder(), WR_LAUNDERED);
    finish();
    for (uint32_t page = 0; page < C; page++)
        if (page % 101 != 100)
            forget_out(page);
    extent = stage(C, C);
    for (uint32_t page = C; page < C + C / 2; page++)
        touch(page, WR_PAGE_CACHED_DIRTY);
    cr_assert_eq(put_in_queue(extent), C / 2);
    while (room_space.staging.live_count > 0) {
        launder();
        finish();
    }
    for (uint32_t page = C + C / 2; page < 2 * C; page++)
        cr_expect_eq(state_of(page), WR_PAGE_OUT, "page %u", page);
    expect_all_returned();
}
