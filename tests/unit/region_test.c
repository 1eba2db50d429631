/* SPDX-License-Identifier: MIT */

/* Regions: found by any address inside and by none outside, while the table changes. */

#include "runtime/memory/region.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>

#include "runtime/memory/gate.h"
#include "tests/unit/room_kit.h"

#define PAGE WEIR_PAGE_BYTES

static struct wr_region *find(uint64_t addr)
{
    struct wr_pass pass = wr_gate_enter();
    struct wr_region *region = wr_region_find(addr);

    wr_gate_leave(pass);
    return region;
}

static void set_region(struct wr_region *region, uint64_t addr, uint32_t pages)
{
    *region = (struct wr_region){.space = &room_space,
                                 .addr = addr,
                                 .bytes = (uint64_t)pages * PAGE,
                                 .reserve_bytes = (uint64_t)pages * PAGE,
                                 .reserve_pages = pages,
                                 .pages = pages,
                                 .first = WR_CHUNK_PAGES,
                                 .serial = wr_region_next_serial()};
}

static void expect_bounds(struct wr_region *region)
{
    cr_expect_eq(find(region->addr), region);
    cr_expect_eq(find(region->addr + region->bytes - 1), region);
    cr_expect_eq(find(region->addr + region->bytes / 2), region);
    cr_expect_neq(find(region->addr - 1), region);
    cr_expect_neq(find(region->addr + region->bytes), region);
}

Test(region, addresses_and_pages_are_each_others_inverse)
{
    struct wr_region region;

    set_region(&region, 7ull << 30, 10);
    for (uint32_t i = 0; i < 10; i++) {
        cr_expect_eq(wr_region_page(&region, region.addr + i * PAGE), WR_CHUNK_PAGES + i);
        cr_expect_eq(wr_region_page(&region, region.addr + i * PAGE + PAGE - 1),
                     WR_CHUNK_PAGES + i);
        cr_expect_eq(wr_region_addr(&region, WR_CHUNK_PAGES + i), region.addr + i * PAGE);
    }
    cr_expect_eq(wr_region_end(&region), WR_CHUNK_PAGES + 10);
}

Test(region, it_is_found_by_what_is_inside)
{
    /* Neighbours without a gap, and one far away; published out of order. */
    static const uint64_t at[] = {0x40000000, 0x10000000, 0x10005000, 0x7000000000, 0x1000f000};
    static const uint32_t pages[] = {3, 5, 10, 1000000, 1};
    struct wr_region regions[5];

    room_open();
    for (int i = 0; i < 5; i++) {
        set_region(&regions[i], at[i], pages[i]);
        cr_expect_null(find(at[i]));
        cr_expect_eq(wr_region_publish(&regions[i]), WEIR_OK);
        for (int k = 0; k <= i; k++)
            expect_bounds(&regions[k]);
    }
    cr_expect_null(find(0));
    cr_expect_null(find(0x10000000 - 1));
    cr_expect_null(find(0x10010000));
    cr_expect_null(find(UINT64_MAX));
    cr_expect_eq(find(0x10005000 - 1), &regions[1]);
    cr_expect_eq(find(0x10005000), &regions[2]);
    cr_expect(wr_region_was_ours(0x10005000));
    for (int i = 0; i < 5; i++) {
        wr_region_retract(&regions[i]);
        cr_expect_null(find(at[i]));
        cr_expect_not(wr_region_was_ours(at[i] + 1));
        for (int k = i + 1; k < 5; k++)
            expect_bounds(&regions[k]);
    }
}

static _Atomic(bool) is_retracted;

static void *retract(void *argument)
{
    wr_region_retract(argument);
    is_retracted = true;
    return NULL;
}

Test(region, nobody_is_left_who_had_found_it)
{
    struct wr_region region, other;
    struct wr_pass pass;
    pthread_t thread;

    room_open();
    set_region(&region, 1 << 30, 1);
    set_region(&other, 1 << 29, 1);
    cr_assert_eq(wr_region_publish(&region), WEIR_OK);
    cr_assert_eq(wr_region_publish(&other), WEIR_OK);
    wr_region_retract(&other); /* waits for all readers, so that the next need not at its begin */
    pass = wr_gate_enter();
    cr_assert_eq(wr_region_find(region.addr), &region);
    cr_assert_eq(pthread_create(&thread, NULL, retract, &region), 0);
    ROOM_AWAIT(!wr_region_was_ours(region.addr));
    room_sleep_us(ROOM_NOT_YET_US);
    cr_expect_not(is_retracted);
    wr_gate_leave(pass);
    pthread_join(thread, NULL);
    cr_expect(is_retracted);
}

Test(region, there_are_so_many_and_no_more)
{
    struct wr_region *regions = calloc(WR_PUBLISHED_MAX + 1, sizeof(*regions));

    room_open();
    cr_assert_not_null(regions);
    for (uint32_t i = 0; i <= WR_PUBLISHED_MAX; i++) {
        /* From both ends to the middle. */
        uint64_t place = i % 2 ? 100000 - i : i;

        set_region(&regions[i], (1 + place) << 20, 1);
        cr_expect_eq(wr_region_publish(&regions[i]), i < WR_PUBLISHED_MAX ? WEIR_OK : WEIR_ENOMEM);
    }
    for (uint32_t i = 0; i < WR_PUBLISHED_MAX; i++)
        expect_bounds(&regions[i]);
    cr_expect_null(find(regions[WR_PUBLISHED_MAX].addr));
    wr_region_retract(&regions[100]);
    cr_expect_eq(wr_region_publish(&regions[WR_PUBLISHED_MAX]), WEIR_OK);
    expect_bounds(&regions[WR_PUBLISHED_MAX]);
    cr_expect_null(find(regions[100].addr));
    free(regions);
}

/* --- While the table changes ----------------------------------------------------------------- */

#define STAYING  8
#define CHURNING 8
#define ROUNDS   150

static struct wr_region staying[STAYING], churning[CHURNING];
static _Atomic(bool) is_over;
static _Atomic(uint32_t) wrong, looks;

static void *look(void *argument)
{
    unsigned seed = (unsigned)(uintptr_t)argument;

    while (!is_over) {
        uint32_t i = (uint32_t)rand_r(&seed) % STAYING;
        struct wr_pass pass = wr_gate_enter();
        struct wr_region *found = wr_region_find(churning[i].addr + PAGE);

        wrong += wr_region_find(staying[i].addr + PAGE) != &staying[i];
        wrong += wr_region_find(staying[i].addr - 1) == &staying[i];
        /* There or not; but if so it is whole. */
        wrong += found && (found != &churning[i] || found->pages != 2);
        wr_gate_leave(pass);
        looks++;
    }
    return NULL;
}

Test(region, a_lookup_never_meets_half_a_table)
{
    pthread_t threads[2];

    room_open();
    for (uint32_t i = 0; i < STAYING; i++) {
        set_region(&staying[i], (uint64_t)(2 * i + 2) << 20, 2);
        set_region(&churning[i], (uint64_t)(2 * i + 1) << 20, 2);
        cr_assert_eq(wr_region_publish(&staying[i]), WEIR_OK);
    }
    for (uintptr_t i = 0; i < 2; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, look, (void *)(i + 1)), 0);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        struct wr_region *region = &churning[round * 5 % CHURNING];

        cr_expect_eq(wr_region_publish(region), WEIR_OK);
        if (round % 3 == 0) {
            /* What was retracted may be changed: nobody looks at it. */
            wr_region_retract(region);
            region->pages = 0;
            region->pages = 2;
        } else {
            wr_region_retract(region);
        }
    }
    ROOM_AWAIT(looks > 0);
    is_over = true;
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    cr_expect_eq(wrong, 0);
}
