/* SPDX-License-Identifier: MIT */
#include "runtime/paging/run.h"

/* May this neighbour go the same way as the first page? */
static bool is_alike(const struct wr_run *run, const struct wr_hold *next)
{
    const struct wr_hold *first = &run->hold[0];
    int64_t offset = (int64_t)run->count * run->direction;

    if (wr_hold_state(next) != wr_hold_state(first))
        return false;
    switch (wr_hold_state(first)) {
    case WR_PAGE_EMPTY:
    case WR_PAGE_RESIDENT_CLEAN: return !wr_hold_has(next, WR_PAGE_FREED);
    case WR_PAGE_RESIDENT_DIRTY: /* may be mapped in one more view */
        return run->region->object && !wr_hold_has(next, WR_PAGE_FREED);
    case WR_PAGE_CACHED_CLEAN:
        return (int64_t)wr_hold_frame(next) == (int64_t)wr_hold_frame(first) + offset;
    case WR_PAGE_OUT:
    case WR_PAGE_READING:
    case WR_PAGE_CACHED_DIRTY:
    case WR_PAGE_CACHED_WRITING:
    case WR_PAGE_RESIDENT_ZERO:
    case WR_PAGE_RESIDENT_WRITING:
    case WR_PAGE_POISONED:
    case WR_PAGE_STATE_COUNT: return false;
    }
    return false;
}

void wr_run_gather(struct wr_run *run, struct wr_region *region, const struct wr_hold *first,
                   const struct wr_plan *plan)
{
    struct wr_pages *pages = &region->space->pages;
    uint32_t most = plan->around < WR_RUN_MAX ? plan->around : WR_RUN_MAX;

    run->space = region->space;
    run->region = region;
    run->hold[0] = *first;
    run->count = 1;
    run->direction = plan->direction;
    while (run->count < most) {
        int64_t page = (int64_t)first->number + (int64_t)run->count * run->direction;
        struct wr_hold *next = &run->hold[run->count];

        if (page < region->first || page >= wr_region_end(region) ||
            !wr_page_take_try(pages, (uint32_t)page, next))
            return;
        if (!is_alike(run, next)) {
            wr_page_put(pages, next);
            return;
        }
        run->count++;
    }
}

void wr_run_take_frames(struct wr_run *run)
{
    uint32_t spare = 0;

    if (run->count > 1)
        spare = wr_frames_take_spare(&run->space->frames, run->count - 1);
    while (run->count > 1 + spare)
        wr_page_put(&run->space->pages, &run->hold[--run->count]);
}

void wr_run_put_neighbours(struct wr_run *run)
{
    for (uint32_t i = 1; i < run->count; i++)
        wr_page_put(&run->space->pages, &run->hold[i]);
    run->count = 1;
}

uint64_t wr_run_addr(const struct wr_run *run)
{
    uint32_t last = run->direction > 0 ? 0 : run->count - 1;

    return wr_region_addr(run->region, run->hold[last].number);
}
