/* SPDX-License-Identifier: MIT */

/*
 * Move: a region goes to other addresses, perhaps with a larger reserve.
 *
 * Its page numbers stay, and with them all that leads to its pages: what is away, staged or in the
 * slab is not looked at. Touches of the region are made to wait; then what is mapped goes over,
 * piece by piece, while everybody who comes to a page by its number finds it where it is (see
 * wr_region_addr()). If it cannot go on, it goes back the same way.
 */

#include "runtime/memory/gate.h"
#include "runtime/paging/range.h"
#include "runtime/paging/relocate.h"
#include "runtime/runtime.h"

#define TRIES_MAX 200 /* of a millisecond each, for one piece */

static void wait_a_little(struct wr_host *host)
{
    static const uint32_t nothing;

    host->ops->park(host, &nothing, 0, host->ops->now_ns(host) + 1000000);
}

static int go_over(struct wr_region *region)
{
    struct wr_host *host = region->space->host;
    int tries = 0, error = WEIR_OK;

    while (region->moved < wr_region_end(region)) {
        uint32_t before = region->moved;
        struct wr_pass pass = wr_gate_enter();

        error = wr_relocate(region);
        wr_gate_leave(pass);
        if (error != WEIR_OK && error != WEIR_EAGAIN)
            return error;
        tries = error == WEIR_OK || region->moved > before ? 0 : tries + 1;
        if (tries == TRIES_MAX)
            return WEIR_ENOMEM;
        if (error != WEIR_OK)
            wait_a_little(host);
    }
    return WEIR_OK;
}

/* What went one way can go the other: the old page tables may be there still, nobody can pin a page
 * where it is now, and the kernel's want of memory passes. */
static void go_back(struct wr_region *region)
{
    struct wr_host *host = region->space->host;

    while (region->moved > region->first) {
        struct wr_pass pass = wr_gate_enter();
        bool is_back = wr_relocate_back(region);

        wr_gate_leave(pass);
        if (!is_back)
            wait_a_little(host);
    }
}

static int move_to(struct wr_region *region, uint64_t addr, uint64_t reserve, bool hide)
{
    struct wr_space *space = region->space;
    struct wr_host *host = space->host;
    uint64_t old = region->addr, old_reserve = region->reserve_bytes;
    int error = WEIR_EBUSY;

    atomic_store(&region->is_moving, true);
    wr_gate_wait(host);
    /* Again: who was inside may have pinned. Now nobody can. */
    if (!wr_range_is_pinned(region, region->first, region->pages)) {
        region->moves_to = addr;
        atomic_store_explicit(&region->moved, region->first, memory_order_release);
        error = go_over(region);
        if (error != WEIR_OK)
            go_back(region);
    }
    if (error == WEIR_OK) {
        /* Who waited must find what would be there without us; and nobody else may be given the
         * addresses while the region is found by them. */
        host->ops->region_seal(host, old, old_reserve);
        if (hide) {
            wr_space_set_place(space, region, false);
            atomic_store(&region->keep, WR_KEEP_MOVING);
            wr_region_hide(region, addr, reserve);
        } else {
            wr_space_readdress(space, region, addr, reserve);
        }
        host->ops->region_unmap(host, old, old_reserve);
    }
    atomic_store_explicit(&region->moved, 0, memory_order_release);
    atomic_store(&region->is_moving, false);
    return error;
}

static int refuse(struct wr_space *space, int error)
{
    wr_event(&space->events, WEIR_FAILURE, error, 0, 0,
             error == WEIR_EBUSY
                 ? "the region cannot move, nor be kept: some of its pages are pinned, by "
                   "weir_pin() or a device"
                 : "the region cannot move, nor be kept: look at ulimit -v, vm.overcommit_memory "
                   "and vm.max_map_count, and at the memory cgroup");
    return error;
}

/* Of page numbers. Those of kept regions that follow are had for the asking. */
static int set_reserve(struct weir_runtime *rt, struct wr_region *region, uint64_t bytes)
{
    int error = WEIR_ENOMEM;

    do {
        wr_lock_take(&rt->lock);
        if (bytes / WEIR_PAGE_BYTES <= rt->space.pages.count)
            error = wr_space_set_reserve(&rt->space, region, (uint32_t)(bytes / WEIR_PAGE_BYTES));
        wr_lock_drop(&rt->lock);
    } while (error == WEIR_ENOMEM && bytes / WEIR_PAGE_BYTES <= rt->space.pages.count &&
             wr_runtime_forget_next(rt, region));
    if (error != WEIR_OK)
        wr_event(&rt->space.events, WEIR_FAILURE, error, 0, 0,
                 "the reserve cannot grow: the page numbers that follow are another region's, or "
                 "address_space_bytes (WEIR_ADDRESS_SPACE) ends; map a new region and copy");
    return error;
}

static int move_region(struct weir_runtime *rt, struct wr_region *region, uint64_t reserve,
                       bool hide)
{
    struct wr_space *space = &rt->space;
    uint64_t addr;
    int error;

    if (wr_range_is_pinned(region, region->first, region->pages))
        return refuse(space, WEIR_EBUSY);
    error = wr_space_map_addresses(space, region->bytes, reserve, &addr);
    if (error != WEIR_OK)
        return refuse(space, error);
    error = move_to(region, addr, reserve, hide);
    if (error != WEIR_OK) {
        space->host->ops->region_unmap(space->host, addr, reserve);
        return refuse(space, error);
    }
    return WEIR_OK;
}

int wr_runtime_hide_region(struct weir_runtime *rt, struct wr_region *region)
{
    return move_region(rt, region, region->reserve_bytes, true);
}

int wr_runtime_move_region(struct weir_runtime *rt, uint64_t addr, uint64_t reserve,
                           uint64_t *addr_p)
{
    uint64_t whole = (reserve + WEIR_PAGE_BYTES - 1) / WEIR_PAGE_BYTES * WEIR_PAGE_BYTES, before;
    struct wr_region *region;
    int error;

    if (whole < reserve)
        return WEIR_ENOMEM;
    error = wr_runtime_change(rt, addr, &region);
    if (error != WEIR_OK)
        return error;
    before = region->reserve_bytes;
    if (whole < before)
        whole = before;
    if (whole > before)
        error = set_reserve(rt, region, whole);
    if (error == WEIR_OK) {
        error = move_region(rt, region, whole, false);
        if (error != WEIR_OK && whole > before)
            (void)set_reserve(rt, region, before); /* to less: cannot fail */
    }
    if (error == WEIR_OK)
        *addr_p = region->addr;
    atomic_store(&region->is_changing, false);
    return error;
}
