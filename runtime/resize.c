/* SPDX-License-Identifier: MIT */

/*
 * Resize: a region ends elsewhere, within its reserve.
 *
 * To shrink, the new end is published first; when everybody has left the gate, nobody comes to what
 * lies beyond it by its address any more, and touches of it wait until the kernel says that nothing
 * is there. Runtime threads may still come by its page number: to them the pages are a region's,
 * and are discarded like any.
 */

#include "runtime/memory/gate.h"
#include "runtime/paging/range.h"
#include "runtime/runtime.h"

static void discard(struct wr_region *region, uint32_t page, uint32_t count)
{
    int error = WEIR_OK;

    for (uint32_t done = 0; done < count;) {
        struct wr_pass pass = wr_gate_enter();

        done += wr_range_discard(region, page + done, count - done, &error);
        wr_gate_leave(pass);
    }
    WR_CHECK(error == WEIR_OK); /* no pin is left, and none can have come */
}

/* To deny touches splits a mapping of the kernel's. */
static int guard(struct wr_space *space, uint64_t addr, uint64_t bytes, bool on)
{
    int error = space->host->ops->region_guard(space->host, addr, bytes, on);

    if (error != WEIR_OK)
        wr_event(&space->events, WEIR_FAILURE, error, 0, addr,
                 "the region cannot change its size: look at vm.max_map_count");
    return error;
}

static int shrink(struct wr_region *region, uint64_t bytes)
{
    struct wr_space *space = region->space;
    uint64_t before = region->bytes, addr = region->addr + bytes;
    uint32_t page = region->first + (uint32_t)(bytes / WEIR_PAGE_BYTES);
    uint32_t count = (uint32_t)((before - bytes) / WEIR_PAGE_BYTES);
    int error = WEIR_OK;

    if (wr_range_is_pinned(region, page, count))
        return WEIR_EBUSY;
    wr_space_set_end(space, region, bytes);
    wr_gate_wait(space->host);
    /* Again: who was inside may have pinned. Now nobody can. */
    if (wr_range_is_pinned(region, page, count))
        error = WEIR_EBUSY;
    if (error == WEIR_OK)
        error = guard(space, addr, before - bytes, true);
    if (error != WEIR_OK) {
        wr_space_set_end(space, region, before);
        return error;
    }
    discard(region, page, count);
    wr_range_await_empty(region, page, count);
    discard(region, page, count); /* whole chunks of which a page was being read until now */
    return WEIR_OK;
}

static int grow(struct wr_region *region, uint64_t bytes)
{
    struct wr_space *space = region->space;
    uint64_t before = region->bytes;
    int error;

    if (bytes > region->reserve_bytes) {
        wr_event(&space->events, WEIR_FAILURE, WEIR_ENOMEM, 0, 0,
                 "a region can grow no further than the reserve_bytes that it was mapped with; "
                 "weir_move() gives it more");
        return WEIR_ENOMEM;
    }
    error = guard(space, region->addr + before, bytes - before, false);
    if (error == WEIR_OK)
        wr_space_set_end(space, region, bytes);
    return error;
}

int wr_runtime_resize_region(struct weir_runtime *rt, uint64_t addr, uint64_t bytes)
{
    uint64_t whole = (bytes + WEIR_PAGE_BYTES - 1) / WEIR_PAGE_BYTES * WEIR_PAGE_BYTES;
    struct wr_region *region;
    int error;

    if (whole < bytes)
        return WEIR_ENOMEM;
    error = wr_runtime_change(rt, addr, &region);
    if (error != WEIR_OK)
        return error;
    if (whole > region->bytes)
        error = grow(region, whole);
    else if (whole < region->bytes)
        error = shrink(region, whole);
    atomic_store(&region->is_changing, false);
    return error;
}
