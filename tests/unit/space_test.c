/* SPDX-License-Identifier: MIT */

/* Spaces: regions own disjoint runs of whole chunks, and a chunk names its region. */

#include "runtime/memory/space.h"

#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/room_kit.h"

#define PAGE WEIR_PAGE_BYTES

static void expect_owner(const struct wr_region *region, uint32_t chunk)
{
    cr_expect_eq(wr_space_region(&room_space, chunk * WR_CHUNK_PAGES), region, "%u", chunk);
    cr_expect_eq(wr_space_region(&room_space, (chunk + 1) * WR_CHUNK_PAGES - 1), region);
    cr_expect_eq(wr_page_is_owned(&room_space.pages, chunk * WR_CHUNK_PAGES), region != NULL);
}

static void take_away(struct wr_region *region)
{
    region->is_going = true;
    wr_space_abandon(&room_space, region);
    wr_space_unmap(&room_space, region);
    wr_space_remove(&room_space, region);
}

static struct wr_region *map(uint64_t bytes, int error)
{
    struct wr_region *region = NULL;

    cr_expect_eq(wr_space_map(&room_space, bytes, 0, "a name", &region), error);
    cr_expect_eq(region == NULL, error != WEIR_OK);
    return region;
}

Test(space, regions_have_whole_chunks)
{
    struct wr_region *one, *two;

    room_open();
    one = map(1, WEIR_OK);
    two = map((WR_CHUNK_PAGES + 1) * PAGE, WEIR_OK);
    cr_expect_eq(one->pages, 1);
    cr_expect_eq(one->bytes, PAGE);
    cr_expect_eq(two->pages, WR_CHUNK_PAGES + 1);
    cr_expect_eq(one->first % WR_CHUNK_PAGES, 0);
    cr_expect_eq(two->first % WR_CHUNK_PAGES, 0);
    cr_expect_neq(one->serial, two->serial);
    cr_expect_str_eq(one->name, "a name");
    expect_owner(one, one->first / WR_CHUNK_PAGES);
    expect_owner(two, two->first / WR_CHUNK_PAGES);
    expect_owner(two, two->first / WR_CHUNK_PAGES + 1);
    expect_owner(NULL, 3);
    cr_expect_eq(room_space.chunk_end, 3);
    cr_expect_eq(room_space.mapped_bytes, (WR_CHUNK_PAGES + 2) * PAGE);
    take_away(one);
    take_away(two);
    cr_expect_eq(room_space.chunk_end, 0);
    cr_expect_eq(room_space.mapped_bytes, 0);
}

Test(space, a_gap_serves_again)
{
    struct wr_region *regions[4], *again;
    uint32_t first, serial;

    room_open();
    for (uint32_t i = 0; i < 4; i++)
        regions[i] = map((i + 1) * WR_CHUNK_PAGES * PAGE, WEIR_OK); /* 1, 2, 3, 4 chunks: 10 */
    first = regions[1]->first;
    serial = regions[1]->serial;
    room_bring(first + 7, WR_PAGE_RESIDENT_ZERO);
    take_away(regions[1]);
    expect_owner(NULL, first / WR_CHUNK_PAGES);
    expect_owner(regions[2], regions[2]->first / WR_CHUNK_PAGES);
    cr_expect_eq(room_space.chunk_end, 10);
    again = map(3 * WR_CHUNK_PAGES * PAGE, WEIR_OK); /* too long for the gap */
    cr_expect_eq(again->first, 10 * WR_CHUNK_PAGES);
    take_away(again);
    again = map(2 * WR_CHUNK_PAGES * PAGE, WEIR_OK);
    cr_expect_eq(again->first, first);
    cr_expect_neq(again->serial, serial, "and yet it is another region");
    cr_expect_eq(wr_page_peek(&room_space.pages, first + 7), WR_PAGE_EMPTY);
    expect_owner(again, first / WR_CHUNK_PAGES);
    take_away(again);
    for (uint32_t i = 0; i < 4; i++)
        if (i != 1)
            take_away(regions[i]);
}

Test(space, who_is_going_is_no_longer_found)
{
    struct wr_region *region;

    room_open();
    region = map(PAGE, WEIR_OK);
    region->is_going = true;
    wr_space_abandon(&room_space, region);
    expect_owner(NULL, 0);
    cr_expect(wr_region_was_ours(region->addr), "faults still know that it is ours");
    wr_space_unmap(&room_space, region);
    cr_expect_not(wr_region_was_ours(region->addr));
    wr_space_remove(&room_space, region);
}

Test(space, what_does_not_fit_is_refused)
{
    struct wr_region *all;

    room_open();
    map(((uint64_t)ROOM_PAGES + 1) * PAGE, WEIR_ENOMEM);
    cr_expect_eq(room_events.count, 1);
    cr_expect(strstr(room_events.text, "WEIR_ADDRESS_SPACE"), "%s", room_events.text);
    map(UINT64_MAX - PAGE, WEIR_ENOMEM);
    all = map((uint64_t)ROOM_PAGES * PAGE, WEIR_OK);
    map(1, WEIR_ENOMEM);
    take_away(all);
    room_host.map_error = WEIR_ENOMEM;
    map(PAGE, WEIR_ENOMEM);
    cr_expect_eq(room_events.count, 4);
    cr_expect(strstr(room_events.text, "ulimit -v"), "%s", room_events.text);
    cr_expect_eq(room_space.mapped_bytes, 0);
    cr_expect_eq(room_space.region_count, 0);
}

Test(space, descriptors_are_counted_as_far_as_they_are_in_use)
{
    struct wr_region *region;
    uint64_t before;

    room_open();
    before = wr_space_metadata(&room_space);
    region = map(4 * WR_CHUNK_PAGES * PAGE, WEIR_OK);
    cr_expect_eq(wr_space_metadata(&room_space) - before,
                 4 * (WR_CHUNK_PAGES * sizeof(struct wr_page) + sizeof(struct wr_chunk)));
    take_away(region);
    cr_expect_eq(wr_space_metadata(&room_space), before);
}
