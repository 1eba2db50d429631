/* SPDX-License-Identifier: MIT */

/* The audit: which facts of the kernel agree with which state. */

#include "runtime/memory/audit.h"

#include <criterion/criterion.h>

#include "tests/unit/room_kit.h"

#define ABSENT   0
#define READONLY WR_FACT_PRESENT
#define WRITABLE (WR_FACT_PRESENT | WR_FACT_WRITABLE)
#define ZERO     (WR_FACT_PRESENT | WR_FACT_ZERO_PAGE)

static const uint8_t facts[] = {ABSENT, READONLY, WRITABLE, ZERO};
#define FACTS 4

/* What page.h says is mapped, and how. */
static bool may_be(enum wr_page_state state, uint8_t fact)
{
    if (state == WR_PAGE_RESIDENT_ZERO)
        return fact == ZERO;
    if (state == WR_PAGE_RESIDENT_DIRTY)
        return fact != ABSENT;
    if (state == WR_PAGE_RESIDENT_CLEAN || state == WR_PAGE_RESIDENT_WRITING)
        return fact == READONLY || fact == ZERO;
    return fact == ABSENT;
}

Test(audit, every_state_and_every_fact)
{
    struct wr_region *region;
    struct wr_audit audit;

    room_open();
    room_map(WR_CHUNK_PAGES);
    region = room_map(WR_PAGE_STATE_COUNT);
    for (uint32_t i = 0; i < WR_PAGE_STATE_COUNT; i++)
        room_bring(region->first + i, (enum wr_page_state)i);
    for (uint32_t state = 0; state < WR_PAGE_STATE_COUNT; state++)
        for (uint32_t fact = 0; fact < FACTS; fact++) {
            uint64_t wrong = !may_be((enum wr_page_state)state, facts[fact]);

            for (uint32_t i = 0; i < WR_PAGE_STATE_COUNT; i++) /* the others are as they should */
                room_host.facts[i] = i == WR_PAGE_RESIDENT_ZERO              ? ZERO
                                     : may_be((enum wr_page_state)i, ABSENT) ? ABSENT
                                                                             : READONLY;
            room_host.facts[state] = facts[fact];
            cr_expect_eq(wr_audit_region(region, &audit), WEIR_OK);
            cr_expect_eq(audit.pages, WR_PAGE_STATE_COUNT);
            cr_expect_eq(audit.differences, wrong, "state %u, fact %u", state, fact);
            if (wrong) {
                cr_expect_eq(audit.page, state, "counted from the region's first");
                cr_expect_eq(audit.state, (enum wr_page_state)state);
                cr_expect_eq(audit.facts, facts[fact]);
            }
        }
}

Test(audit, the_first_difference_is_told_and_all_are_counted)
{
    struct wr_region *region;
    struct wr_audit audit;
    struct wr_hold hold;

    room_open();
    region = room_map(200); /* lots of 64 see the same facts: 64, 64, 64, 8 */
    room_host.facts[5] = READONLY;
    room_host.facts[9] = WRITABLE;
    cr_expect_eq(wr_audit_region(region, &audit), WEIR_OK);
    cr_expect_eq(audit.pages, 200);
    cr_expect_eq(audit.differences, 3 * 2 + 1);
    cr_expect_eq(audit.page, 5);
    cr_expect_eq(audit.facts, READONLY);
    for (uint32_t i = 0; i < 200; i++) {
        cr_expect(wr_page_take_try(&room_space.pages, region->first + i, &hold), "page %u", i);
        wr_page_put(&room_space.pages, &hold);
    }
}

Test(audit, a_kernel_that_cannot_tell)
{
    struct wr_audit audit = {.pages = 77};

    room_open();
    room_host.facts_error = WEIR_ENOSUPPORT;
    cr_expect_eq(wr_audit_region(room_map(10), &audit), WEIR_ENOSUPPORT);
    cr_expect_eq(audit.pages, 77);
}
