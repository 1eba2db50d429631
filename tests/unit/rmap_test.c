/* SPDX-License-Identifier: MIT */

/* Objects and their reverse map: from a page to the views that map it, and to no others. */

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/host/peer.h"
#include "runtime/memory/gate.h"
#include "runtime/memory/object.h"
#include "tests/unit/room_kit.h"

#define PAGE  ((uint64_t)WEIR_PAGE_BYTES)
#define PAGES 600u

static struct weir_object *object;

static void open_object(void)
{
    room_open();
    cr_assert_eq(wr_object_open(&room_space, PAGES * PAGE - 1, "object", &object), WEIR_OK);
}

static struct wr_region *view_of(uint32_t first, uint32_t pages)
{
    struct wr_region *view = NULL;

    cr_assert_eq(wr_object_map_view(object, first * PAGE, pages * PAGE, &view), WEIR_OK);
    return view;
}

static void unmap(struct wr_region *view)
{
    view->is_going = true;
    wr_object_unmap_view(view);
    free(view);
}

/* The page with this number in the object is mapped in a view. */
static void map(const struct wr_region *view, uint32_t index)
{
    wr_object_mapped(view, object->region->first + index, 1);
}

static uint64_t addr_of(uint32_t index)
{
    return wr_region_addr(object->region, object->region->first + index);
}

static void revoke(const uint32_t *indices, struct wr_revoke *list, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        list[i] = (struct wr_revoke){addr_of(indices[i]), ROOM_FRAMES + i, WR_REVOKE_FAILED};
    wr_rmap_revoke(&room_space, list, count);
}

static uint64_t unmapped(void)
{
    return wr_stats_sum(&room_stats, WR_COUNT_views_unmapped);
}

/* --- Objects and views ----------------------------------------------------------------------- */

Test(rmap, a_view_has_the_pages_of_its_object)
{
    struct wr_region *view, *again;
    uint64_t addr;

    open_object();
    view = view_of(100, 20);
    cr_expect_eq(object->region->pages, PAGES);
    cr_expect_eq(wr_space_region(&room_space, object->region->first), object->region);
    cr_expect_eq(wr_region_page(view, view->addr), object->region->first + 100);
    cr_expect_eq(wr_region_find(view->addr + 20 * PAGE - 1), view);
    cr_expect_null(wr_region_find(object->region->addr), "nobody can touch the object itself");
    cr_expect_eq(wr_object_home(view), object->region);
    cr_expect_eq(view->serial, object->region->serial);
    cr_expect_eq(room_space.mapped_bytes, PAGES * PAGE, "views have no descriptors");
    addr = view->addr;
    unmap(view);
    cr_expect_null(wr_region_find(addr));
    again = view_of(0, 1);
    cr_expect_eq(again->view, 0, "its number serves again");
    unmap(again);
}

Test(rmap, what_cannot_be_had_is_refused)
{
    struct weir_object *none = NULL;
    struct wr_region *view = NULL;

    open_object();
    room_host.map_error = WEIR_ENOMEM;
    cr_expect_eq(wr_object_map_view(object, 0, PAGE, &view), WEIR_ENOMEM);
    cr_expect(strstr(room_events.text, "vm.max_map_count"), "%s", room_events.text);
    cr_expect_eq(object->view_count, 0);
    cr_expect_eq(wr_object_open(&room_space, PAGE, NULL, &none), WEIR_ENOMEM);
    cr_expect(strstr(room_events.text, "memfd_create"), "%s", room_events.text);
    room_host.map_error = WEIR_OK;
    room_host.host.has_objects = false;
    cr_expect_eq(wr_object_open(&room_space, PAGE, NULL, &none), WEIR_ENOSUPPORT);
    cr_expect(strstr(room_events.text, "5.14"), "%s", room_events.text);
    cr_expect_eq(wr_object_open(&room_space, UINT64_MAX, NULL, &none), WEIR_ENOSUPPORT);
    room_host.host.has_objects = true;
    cr_expect_eq(wr_object_open(&room_space, UINT64_MAX, NULL, &none), WEIR_EINVAL);
    cr_expect_null(none);
}

Test(rmap, an_object_leaves_nothing)
{
    struct wr_region *region;

    open_object();
    cr_expect_eq(room_space.objects_bytes, sizeof(*object) + PAGES * sizeof(uint64_t));
    region = object->region;
    region->is_going = true;
    wr_space_abandon(&room_space, region);
    wr_space_unmap(&room_space, region);
    wr_object_close(object);
    wr_space_remove(&room_space, region);
    cr_expect_eq(room_host.objects, 0);
    cr_expect_eq(room_space.region_count, 0);
    cr_expect_eq(room_space.mapped_bytes, 0);
    cr_expect_null(room_space.objects[0]);
    cr_expect_eq(room_space.objects_bytes, 0);
}

/* --- Taking pages ---------------------------------------------------------------------------- */

Test(rmap, only_views_that_map_a_page_are_visited)
{
    struct wr_region *views[10];
    struct wr_revoke list[1];

    open_object();
    for (uint32_t i = 0; i < 10; i++)
        views[i] = view_of(i, 50);
    map(views[3], 20);
    map(views[7], 20);
    map(views[5], 21);
    revoke((const uint32_t[]){20}, list, 1);
    cr_expect_eq(list[0].result, WR_REVOKED);
    cr_expect_eq(room_host.drop.calls, 2);
    cr_expect_eq(room_host.drop.pages, 2);
    cr_expect_eq(room_host.drop.addr, views[7]->addr + 13 * PAGE);
    cr_expect_eq(room_host.read.addr, 20 * PAGE);
    cr_expect_eq(room_host.read.frame, ROOM_FRAMES);
    cr_expect_eq(room_host.punch.addr, 20 * PAGE);
    cr_expect_eq(room_host.punch.pages, 1);
    cr_expect_eq(unmapped(), 2);
    cr_expect_eq(object->mappers[20], 0);
    cr_expect_neq(object->mappers[21], 0);
    for (uint32_t i = 0; i < 10; i++)
        unmap(views[i]);
}

/* A number that was another view's when the page was mapped leads to no page outside the view. */
Test(rmap, a_view_is_visited_where_it_is)
{
    struct wr_region *view;
    struct wr_revoke list[4];

    open_object();
    view = view_of(0, PAGES);
    for (uint32_t i = 10; i < 14; i++)
        map(view, i);
    unmap(view);
    view = view_of(12, 1);
    revoke((const uint32_t[]){10, 11, 12, 13}, list, 4);
    cr_expect_eq(room_host.drop.calls, 1);
    cr_expect_eq(room_host.drop.pages, 1);
    cr_expect_eq(room_host.drop.addr, view->addr);
    cr_expect_eq(room_host.read.calls, 1);
    cr_expect_eq(room_host.punch.calls, 1);
    cr_expect_eq(room_host.punch.pages, 4);
    unmap(view);
}

/* Pages that are near go by one call, over holes that nobody can fill meanwhile; a page that is
 * there, and one in somebody's hands, are left alone. */
Test(rmap, near_pages_are_freed_together)
{
    struct wr_revoke list[4];
    struct wr_hold hold;
    uint32_t first;

    open_object();
    first = object->region->first;
    revoke((const uint32_t[]){10, 15, 20}, list, 3);
    cr_expect_eq(room_host.punch.calls, 1);
    cr_expect_eq(room_host.punch.pages, 11);
    cr_expect_eq(room_host.read.pages, 3);
    room_bring(first + 33, WR_PAGE_RESIDENT_DIRTY);
    revoke((const uint32_t[]){30, 36}, list, 2);
    cr_expect_eq(room_host.punch.calls, 3, "one is resident in between");
    cr_expect_eq(room_host.punch.pages, 13);
    wr_page_take(&room_space.pages, first + 43, &hold);
    revoke((const uint32_t[]){40, 46}, list, 2);
    cr_expect_eq(room_host.punch.calls, 5, "one is locked in between");
    wr_page_put(&room_space.pages, &hold);
    revoke((const uint32_t[]){60, 400}, list, 2);
    cr_expect_eq(room_host.punch.calls, 7, "they are far apart");
    for (uint32_t i = 0; i < PAGES; i++) {
        cr_expect(wr_page_take_try(&room_space.pages, first + i, &hold), "%u stays locked", i);
        wr_page_put(&room_space.pages, &hold);
    }
}

/* To free neighbours costs what it costs to free one. */
Test(rmap, what_is_dropped_goes_along)
{
    struct wr_region *view;
    struct wr_revoke list[5];

    open_object();
    view = view_of(0, PAGES);
    for (uint32_t i = 10; i < 15; i++)
        map(view, i);
    for (uint32_t i = 0; i < 5; i++)
        list[i] = (struct wr_revoke){addr_of(10 + i), i % 2 ? WR_FRAME_NONE : ROOM_FRAMES + i,
                                     WR_REVOKE_FAILED};
    wr_rmap_revoke(&room_space, list, 5);
    cr_expect_eq(room_host.read.pages, 3);
    cr_expect_eq(room_host.punch.calls, 1);
    cr_expect_eq(room_host.punch.pages, 5);
    cr_expect_eq(unmapped(), 5);
    for (uint32_t i = 0; i < 5; i++) {
        cr_expect_eq(list[i].result, WR_REVOKED, "page %u", 10 + i);
        cr_expect_eq(object->mappers[10 + i], 0);
    }
    unmap(view);
}

/* One that cannot be read stays; those that are dropped do not need to be. */
Test(rmap, what_is_dropped_need_not_be_read)
{
    struct wr_revoke list[2];

    open_object();
    list[0] = (struct wr_revoke){addr_of(5), ROOM_FRAMES, WR_REVOKE_FAILED};
    list[1] = (struct wr_revoke){addr_of(6), WR_FRAME_NONE, WR_REVOKE_FAILED};
    room_host.reads_fail = 1;
    wr_rmap_revoke(&room_space, list, 2);
    cr_expect_eq(list[0].result, WR_REVOKE_FAILED);
    cr_expect_eq(list[1].result, WR_REVOKED);
    cr_expect_eq(room_host.punch.pages, 1);
    cr_expect_eq(room_host.punch.addr, 6 * PAGE);
}

Test(rmap, what_cannot_be_read_stays)
{
    struct wr_region *view;
    struct wr_revoke list[2];

    open_object();
    view = view_of(0, PAGES);
    map(view, 5);
    map(view, 9);
    room_host.reads_fail = 2;
    revoke((const uint32_t[]){5, 9}, list, 2);
    cr_expect_eq(list[0].result, WR_REVOKED);
    cr_expect_eq(list[1].result, WR_REVOKE_FAILED);
    cr_expect_eq(room_host.punch.pages, 1);
    cr_expect_eq(room_host.punch.addr, 5 * PAGE);
    cr_expect_eq(room_host.release.frame, ROOM_FRAMES + 1, "its frame may have memory");
    cr_expect_eq(object->mappers[5], 0);
    cr_expect(wr_mappers_has(object->mappers[9], view->view), "a view that is away may map it");
    unmap(view);
}

/* --- Views of other processes ---------------------------------------------------------------- */

static struct wr_region *view_away(uint32_t first, uint32_t pages)
{
    struct wr_region *view = NULL;

    cr_assert_eq(wr_object_adopt_view(object, first * PAGE, pages * PAGE,
                                      wr_peer_addr(3, 0x7f0000200000), &view),
                 WEIR_OK);
    return view;
}

Test(rmap, what_is_away_is_protected_and_not_unmapped)
{
    struct wr_region *near, *away;
    struct wr_revoke list[2];

    open_object();
    near = view_of(0, PAGES);
    away = view_away(4, 100);
    cr_expect_eq(wr_region_find(away->addr + 7 * PAGE), away);
    map(near, 5);
    map(near, 9);
    map(away, 9);
    revoke((const uint32_t[]){5, 9}, list, 2);
    cr_expect_eq(room_host.protect.calls, 1);
    cr_expect_eq(room_host.protect.addr, wr_region_addr(away, object->region->first + 9));
    cr_expect_eq(room_host.drop.pages, 2);
    cr_expect_eq(room_host.punch.pages, 5, "and freed, which unmaps them everywhere");
    cr_expect_eq(list[0].result | list[1].result, WR_REVOKED);
    cr_expect_eq(object->mappers[9], 0);
    cr_expect_eq(unmapped(), 3);
    unmap(away);
    unmap(near);
}

/* A page that may still be stored to over there is not read, and stays whose it is. */
Test(rmap, what_cannot_be_protected_stays)
{
    struct wr_region *away;
    struct wr_revoke list[2];

    open_object();
    away = view_away(0, PAGES);
    map(away, 5);
    map(away, 6);
    room_host.protect_result = WR_HOST_NOMEM;
    revoke((const uint32_t[]){5, 6}, list, 2);
    cr_expect_eq(list[0].result, WR_REVOKE_FAILED);
    cr_expect_eq(list[1].result, WR_REVOKE_FAILED);
    cr_expect_eq(room_host.read.calls + room_host.punch.calls + room_host.drop.calls, 0);
    cr_expect(wr_mappers_has(object->mappers[5], away->view));
    unmap(away);
}

/* What nobody waits for is not mapped into another process. */
Test(rmap, no_page_comes_back_through_a_view_that_is_away)
{
    struct wr_region *away;

    open_object();
    away = view_away(0, PAGES);
    cr_expect_neq(wr_rmap_place(&room_space, addr_of(8), wr_host_frame(&room_host.host, 3)),
                  WR_HOST_OK);
    cr_expect_eq(room_host.place.calls, 0);
    unmap(away);
}

Test(rmap, pages_of_regions_and_objects_are_told_apart)
{
    struct wr_region *region;
    struct wr_span spans[4];
    struct wr_copy copies[3];

    open_object();
    region = room_map(100);
    spans[0] = (struct wr_span){region->addr, 2};
    spans[1] = (struct wr_span){addr_of(4), 3};
    spans[2] = (struct wr_span){addr_of(10), 1};
    spans[3] = (struct wr_span){region->addr + 50 * PAGE, 1};
    wr_rmap_drop(&room_space, spans, 4);
    cr_expect_eq(room_host.drop.calls, 2);
    cr_expect_eq(room_host.drop.pages, 3);
    cr_expect_eq(room_host.punch.calls, 1);
    cr_expect_eq(room_host.punch.addr, 4 * PAGE);
    cr_expect_eq(room_host.punch.pages, 7);
    copies[0] = (struct wr_copy){addr_of(1), 10};
    copies[1] = (struct wr_copy){addr_of(2), 11};
    copies[2] = (struct wr_copy){addr_of(3), 12};
    room_host.reads_fail = 3;
    cr_expect_eq(wr_rmap_copy(&room_space, copies, 3), 2, "up to the first that fails");
    cr_expect_eq(wr_rmap_place(&room_space, region->addr, wr_host_frame(&room_host.host, 4)),
                 WR_HOST_OK);
    cr_expect_eq(room_host.place.addr, region->addr);
}

Test(rmap, a_page_comes_back_through_a_view_that_shows_it)
{
    const void *bytes;
    struct wr_region *one, *other;

    open_object();
    bytes = wr_host_frame(&room_host.host, 3);
    cr_expect_neq(wr_rmap_place(&room_space, addr_of(8), bytes), WR_HOST_OK, "none does");
    one = view_of(0, 8);
    other = view_of(5, 10);
    cr_expect_eq(wr_rmap_place(&room_space, addr_of(8), bytes), WR_HOST_OK);
    cr_expect_eq(room_host.place.addr, other->addr + 3 * PAGE);
    cr_expect(wr_mappers_has(object->mappers[8], other->view));
    cr_expect_not(wr_mappers_has(object->mappers[8], one->view));
    room_host.host.protects_views = false;
    cr_expect_neq(wr_rmap_place(&room_space, addr_of(7), bytes), WR_HOST_OK,
                  "it would be writable");
    room_host.host.protects_views = true;
    other->is_going = true;
    cr_expect_neq(wr_rmap_place(&room_space, addr_of(9), bytes), WR_HOST_OK);
    unmap(one);
    unmap(other);
}

Test(rmap, protection_reaches_every_view_that_maps)
{
    struct wr_region *views[8];

    open_object();
    for (uint32_t i = 0; i < 8; i++) {
        views[i] = view_of(0, PAGES);
        map(views[i], 7);
        map(views[i], 8);
    }
    map(views[0], 9);
    cr_expect_eq(wr_rmap_protect(&room_space, addr_of(7), 3), WR_HOST_OK);
    cr_expect_eq(room_host.protect.calls, 9);
    cr_expect_eq(room_host.protect.pages, 17);
    room_host.host.protects_views = false;
    cr_expect_neq(wr_rmap_protect(&room_space, addr_of(7), 3), WR_HOST_OK);
    for (uint32_t i = 0; i < 8; i++)
        unmap(views[i]);
}

/* Whoever has seen a view is waited for before its addresses can be another's (seed E4). */
static struct wr_region *going;
static _Atomic(bool) is_gone;
static uint32_t forgotten;

static void expect_forgotten(uint64_t addr)
{
    forgotten += !atomic_load(&object->views[going->view]) && !wr_region_find(addr);
}

static void go(void *context)
{
    (void)context;
    going->is_going = true;
    wr_object_unmap_view(going);
    atomic_store(&is_gone, true);
}

Test(rmap, a_view_goes_when_nobody_looks)
{
    struct wr_pass pass;
    void *thread;

    open_object();
    going = view_of(0, PAGES);
    room_host.on_unmap = expect_forgotten;
    pass = wr_gate_enter();
    cr_assert_eq(room_host.host.ops->thread_start(&room_host.host, "goes", go, NULL, &thread),
                 WEIR_OK);
    room_sleep_us(ROOM_NOT_YET_US);
    cr_expect_not(atomic_load(&is_gone));
    cr_expect_eq(atomic_load(&object->views[0]), going);
    wr_gate_leave(pass);
    ROOM_AWAIT(atomic_load(&is_gone));
    room_host.host.ops->thread_stop(&room_host.host, thread);
    cr_expect_eq(forgotten, 1, "before its addresses were anybody's");
    free(going);
}
