/* SPDX-License-Identifier: MIT */

/* Relocate: whatever fails, and at whichever page, each page is where its lock says it is. */

#include "runtime/paging/relocate.h"

#include <criterion/criterion.h>

#include "tests/unit/room_kit.h"

#define PAGES 200u /* more than three pieces */
#define PAGE  ((uint64_t)WEIR_PAGE_BYTES)

/* What is mapped, at the old addresses and at the new. */
static bool there[2][PAGES];
static uint64_t base[2];
static struct wr_region *region;

static enum wr_revoked answer; /* to the n-th page that is to go, and once only */
static uint32_t answer_at, asked;
static uint32_t refuse_protection_at, protections, forgotten;

static bool *place_of(uint64_t addr)
{
    int side = addr >= base[1] && addr < base[1] + PAGES * PAGE;

    cr_assert(addr >= base[side] && addr < base[side] + PAGES * PAGE);
    return &there[side][(addr - base[side]) / PAGE];
}

static enum wr_revoked relocate(struct wr_host *host, uint64_t from, uint64_t to, uint32_t pages,
                                uint32_t *done_p)
{
    (void)host;
    for (*done_p = 0; *done_p < pages; (*done_p)++) {
        bool *source = place_of(from + *done_p * PAGE), *target = place_of(to + *done_p * PAGE);

        if (++asked == answer_at) {
            *source = *source && answer != WR_REVOKE_MISSING;
            return answer;
        }
        cr_assert(*source && !*target);
        *source = false;
        *target = true;
    }
    return WR_REVOKED;
}

static enum wr_hosted protect(struct wr_host *host, uint64_t addr, uint32_t pages, bool on)
{
    (void)host;
    for (uint32_t i = 0; i < pages; i++)
        cr_assert(on && *place_of(addr + i * PAGE));
    return ++protections == refuse_protection_at ? WR_HOST_NOMEM : WR_HOST_OK;
}

static void drop(struct wr_host *host, const struct wr_span *spans, uint32_t count)
{
    (void)host;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t k = 0; k < spans[i].pages; k++)
            *place_of(spans[i].addr + k * PAGE) = false;
}

static void forget(struct wr_pager *pager, uint64_t slot)
{
    (void)pager;
    (void)slot;
    forgotten++;
}

static const enum wr_page_state mixture[] = {WR_PAGE_RESIDENT_DIRTY,
                                             WR_PAGE_RESIDENT_DIRTY,
                                             WR_PAGE_RESIDENT_CLEAN,
                                             WR_PAGE_RESIDENT_CLEAN,
                                             WR_PAGE_OUT,
                                             WR_PAGE_RESIDENT_DIRTY,
                                             WR_PAGE_EMPTY,
                                             WR_PAGE_RESIDENT_ZERO,
                                             WR_PAGE_RESIDENT_ZERO,
                                             WR_PAGE_CACHED_DIRTY,
                                             WR_PAGE_RESIDENT_WRITING};

static void open_mixed(bool by_copy)
{
    static struct wr_host_ops ops;
    static const struct wr_pager_ops pager_ops = {.forget = forget};
    static struct wr_pager pager = {&pager_ops};

    room_open();
    ops = *room_host.host.ops;
    ops.relocate = relocate;
    ops.protect = protect;
    ops.drop = drop;
    room_host.host.ops = &ops;
    room_host.host.relocates_by_copy = by_copy;
    room_space.pager = &pager;
    (void)room_map(10); /* so that the first page is not number 0 */
    region = room_map(PAGES);
    base[0] = region->addr;
    base[1] = region->moves_to = base[0] + 1000 * PAGE;
    for (uint32_t i = 0; i < PAGES; i++) {
        enum wr_page_state state = mixture[i % (sizeof(mixture) / sizeof(mixture[0]))];

        room_bring_with(region->first + i, state,
                        state == WR_PAGE_RESIDENT_CLEAN ? i : WR_SLOT_NONE, WR_FRAME_NONE);
        there[0][i] = state == WR_PAGE_RESIDENT_ZERO || wr_state_is_charged(state);
    }
    region->moved = region->first;
}

/* Every page that its descriptor calls mapped is where wr_region_addr() says, and nowhere else. */
static void check_places(void)
{
    for (uint32_t i = 0; i < PAGES; i++) {
        enum wr_page_state state = wr_page_peek(&room_space.pages, region->first + i);
        bool is_mapped = state == WR_PAGE_RESIDENT_ZERO || wr_state_is_charged(state);
        int side = region->first + i < region->moved;

        cr_assert_eq(wr_region_addr(region, region->first + i), base[side] + i * PAGE);
        cr_assert_eq(there[side][i], is_mapped, "page %u", i);
        cr_assert(!there[1 - side][i]);
        cr_assert(!wr_page_peek_locked(&room_space.pages, region->first + i));
    }
}

static int go_over(void)
{
    int error = WEIR_OK;

    while (error == WEIR_OK && region->moved < wr_region_end(region))
        error = wr_relocate(region);
    return error;
}

static uint32_t count_state(enum wr_page_state state)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < PAGES; i++)
        count += wr_page_peek(&room_space.pages, region->first + i) == state;
    return count;
}

static void fail_everywhere(bool by_copy, enum wr_revoked how, int expected)
{
    int64_t frames;
    uint32_t dirty;

    open_mixed(by_copy);
    frames = wr_frames_free(&room_space.frames);
    dirty = count_state(WR_PAGE_RESIDENT_DIRTY);
    answer = how;
    for (uint32_t k = 1; k <= dirty; k++) {
        asked = 0;
        answer_at = k;
        cr_assert_eq(go_over(), expected);
        check_places();
        while (region->moved > region->first)
            cr_assert(wr_relocate_back(region));
        check_places();
        cr_assert_eq(count_state(WR_PAGE_RESIDENT_DIRTY), dirty);
        cr_assert_eq(wr_frames_free(&room_space.frames), frames);
    }
    answer_at = 0;
    cr_assert_eq(go_over(), WEIR_OK);
    check_places();
}

Test(relocate, goes_back_from_any_page_that_a_device_holds)
{
    fail_everywhere(false, WR_REVOKE_PINNED, WEIR_EBUSY);
}

Test(relocate, goes_back_from_any_page_that_there_is_no_memory_for)
{
    fail_everywhere(false, WR_REVOKE_FAILED, WEIR_EAGAIN);
}

Test(relocate, goes_back_from_any_copy_that_fails)
{
    fail_everywhere(true, WR_REVOKE_FAILED, WEIR_EAGAIN);
}

Test(relocate, tries_again_where_it_failed)
{
    open_mixed(false);
    answer = WR_REVOKE_FAILED;
    for (uint32_t k = 1; region->moved < wr_region_end(region); k++) {
        asked = 0;
        answer_at = 1 + k % 5;
        (void)wr_relocate(region);
        check_places();
    }
    cr_expect_eq(count_state(WR_PAGE_RESIDENT_ZERO), 0);
    cr_expect_gt(count_state(WR_PAGE_RESIDENT_CLEAN), 0);
    cr_expect_eq(forgotten, 0);
}

Test(relocate, finds_what_the_program_dropped_by_itself)
{
    int64_t frames;

    open_mixed(false);
    frames = wr_frames_free(&room_space.frames);
    answer = WR_REVOKE_MISSING;
    answer_at = 9;
    cr_assert_eq(go_over(), WEIR_OK);
    check_places();
    cr_expect_eq(wr_frames_free(&room_space.frames), frames + 1);
}

Test(relocate, a_page_that_cannot_be_protected_is_dirty)
{
    uint32_t clean;

    open_mixed(false);
    clean = count_state(WR_PAGE_RESIDENT_CLEAN);
    refuse_protection_at = 1;
    cr_assert_eq(go_over(), WEIR_OK);
    check_places();
    cr_expect_eq(count_state(WR_PAGE_RESIDENT_CLEAN), clean - forgotten);
    cr_expect_gt(forgotten, 0);
}

Test(relocate, copies_with_as_few_frames_as_there_are)
{
    open_mixed(true);
    while (wr_frames_take_spare(&room_space.frames, 1))
        continue;
    cr_assert_eq(go_over(), WEIR_OK);
    check_places();
}

Test(relocate, stops_at_a_pin)
{
    struct wr_hold hold;

    open_mixed(false);
    wr_page_take(&room_space.pages, region->first + 99, &hold);
    wr_hold_set_pins(&hold, 1);
    wr_page_put(&room_space.pages, &hold);
    cr_expect_eq(go_over(), WEIR_EBUSY);
    cr_expect_eq(region->moved, region->first + 99);
    check_places();
}
