/* SPDX-License-Identifier: MIT */
#include "runtime/paging/range.h"

#include "runtime/memory/chunk.h"
#include "runtime/memory/object.h"
#include "runtime/paging/aging.h"
#include "runtime/paging/fault.h"
#include "runtime/paging/readahead.h"
#include "runtime/paging/sweep.h"

#define RUN_MAX 64u /* mapped neighbours that one system call serves */

/* Mapped pages of a range that are locked together, in rising order. */
enum lot_purpose {
    LOT_FREE,    /* free hint: leave pinned pages alone        */
    LOT_DISCARD, /* discard: leave pinned pages alone          */
    LOT_UNMAP    /* the region goes: forget pins               */
};

struct lot {
    struct wr_space *space;
    struct wr_region *region;
    enum lot_purpose purpose;
    struct wr_hold hold[RUN_MAX];
    uint32_t count;
};

/* --- Letting go of where a page is ----------------------------------------------------------- */

/* Forget the bytes of a page that is not mapped and not being read. */
static void empty_unmapped(struct wr_space *space, struct wr_hold *hold)
{
    enum wr_page_state state = wr_hold_state(hold);

    if (wr_state_is_cached(state))
        wr_stats_count(space->stats, WR_COUNT_cache_deleted);
    /* A slot under write is only forgotten: its completion frees it. */
    if (state == WR_PAGE_OUT || state == WR_PAGE_CACHED_CLEAN || state == WR_PAGE_POISONED)
        space->pager->ops->forget(space->pager, wr_hold_slot(hold));
    wr_page_move(hold, state, WR_PAGE_EMPTY);
    wr_hold_set_slot(hold, WR_SLOT_NONE);
    wr_hold_set_frame(hold, WR_FRAME_NONE);
    wr_hold_set(hold, WR_PAGE_AHEAD, false);
}

bool wr_range_empty_mapped(struct wr_space *space, struct wr_hold *hold)
{
    enum wr_page_state state = wr_hold_state(hold);

    if (state == WR_PAGE_RESIDENT_CLEAN)
        space->pager->ops->forget(space->pager, wr_hold_slot(hold));
    wr_page_move(hold, state, WR_PAGE_EMPTY);
    wr_hold_set_slot(hold, WR_SLOT_NONE);
    wr_hold_set(hold, WR_PAGE_AHEAD, false);
    wr_hold_set(hold, WR_PAGE_FREED, false);
    return wr_state_is_charged(state);
}

static bool is_mapped(enum wr_page_state state)
{
    return state == WR_PAGE_RESIDENT_ZERO || wr_state_is_charged(state);
}

/* --- Discard and free ------------------------------------------------------------------------ */

static void lot_begin(struct lot *lot, struct wr_region *region, enum lot_purpose purpose)
{
    lot->space = region->space;
    lot->region = region;
    lot->purpose = purpose;
    lot->count = 0;
}

/* Does this page continue the lot? Only neighbours do. */
static bool lot_takes(const struct lot *lot, uint32_t page)
{
    return lot->count < RUN_MAX &&
           (lot->count == 0 || page == lot->hold[lot->count - 1].number + 1);
}

static void lot_discard(struct lot *lot)
{
    struct wr_span span;
    uint32_t freed = 0;

    if (lot->count == 0)
        return;
    span = (struct wr_span){wr_region_addr(lot->region, lot->hold[0].number), lot->count};
    wr_rmap_drop(lot->space, &span, 1);
    for (uint32_t i = 0; i < lot->count; i++) {
        freed += wr_range_empty_mapped(lot->space, &lot->hold[i]);
        wr_page_put(&lot->space->pages, &lot->hold[i]);
    }
    wr_frames_put(&lot->space->frames, freed);
    lot->count = 0;
}

/* Protect the pages: the store that ends the hint must trap. */
static void lot_free(struct lot *lot)
{
    bool is_protected;

    if (lot->count == 0)
        return;
    is_protected = wr_rmap_protect(lot->space, wr_region_addr(lot->region, lot->hold[0].number),
                                   lot->count) == WR_HOST_OK;
    for (uint32_t i = 0; i < lot->count; i++) {
        wr_hold_set(&lot->hold[i], WR_PAGE_FREED, is_protected);
        wr_page_put(&lot->space->pages, &lot->hold[i]);
    }
    lot->count = 0;
}

static void lot_flush(struct lot *lot)
{
    if (lot->purpose == LOT_FREE)
        lot_free(lot);
    else
        lot_discard(lot);
}

/* One more page. False: it is pinned and was left alone. */
static bool lot_add(struct lot *lot, uint32_t page)
{
    struct wr_pages *pages = &lot->space->pages;
    struct wr_hold hold;
    enum wr_page_state state;

    if (!lot_takes(lot, page))
        lot_flush(lot);
    wr_page_take(pages, page, &hold);
    state = wr_hold_state(&hold);
    if (lot->purpose == LOT_UNMAP)
        wr_hold_set_pins(&hold, 0);
    if (wr_hold_pins(&hold) > 0) {
        wr_page_put(pages, &hold);
        return false;
    }
    if (is_mapped(state) && !(lot->purpose == LOT_FREE && state == WR_PAGE_RESIDENT_ZERO)) {
        lot->hold[lot->count++] = hold;
        return true;
    }
    if (state == WR_PAGE_READING)
        wr_hold_set(&hold, WR_PAGE_CANCELLED, true); /* whoever reads it makes it EMPTY */
    else if (state != WR_PAGE_EMPTY && !is_mapped(state))
        empty_unmapped(lot->space, &hold);
    wr_page_put(pages, &hold);
    return true;
}

/* Pages of one chunk. False: some are pinned. */
static bool for_chunk(struct wr_region *region, uint32_t page, uint32_t count,
                      enum lot_purpose purpose)
{
    bool all = true;
    struct lot lot;

    lot_begin(&lot, region, purpose);
    for (uint32_t i = 0; i < count; i++) {
        /* A stale answer is as good as a call that came a moment earlier. */
        if (wr_page_peek_untouched(&region->space->pages, page + i))
            continue;
        all &= lot_add(&lot, page + i);
    }
    lot_flush(&lot);
    /* Where it cannot be held just now, the table is left to the sweep. */
    if (purpose == LOT_DISCARD && all && count == WR_CHUNK_PAGES)
        (void)wr_sweep_chunk(region, page / WR_CHUNK_PAGES, true);
    return all;
}

/* Many chunks that were never touched cost as much as one that was. */
#define UNTOUCHED_MAX 16384u

/* One step. How many pages are done. */
static uint32_t for_range(struct wr_region *region, uint32_t page, uint32_t count,
                          enum lot_purpose purpose, bool *all_p)
{
    uint32_t done = 0, touched = 0, untouched = 0;

    while (done < count && touched < WR_RANGE_CHUNKS && untouched < UNTOUCHED_MAX) {
        uint32_t chunk = (page + done) / WR_CHUNK_PAGES;
        uint32_t part = (chunk + 1) * WR_CHUNK_PAGES - (page + done);

        if (part > count - done)
            part = count - done;
        if (wr_chunk_is_untouched(&region->space->pages, chunk)) {
            untouched++;
        } else {
            *all_p &= for_chunk(region, page + done, part, purpose);
            touched++;
        }
        done += part;
    }
    return done;
}

uint32_t wr_range_discard(struct wr_region *region, uint32_t page, uint32_t count, int *error_p)
{
    bool all = true;
    uint32_t done = for_range(region, page, count, LOT_DISCARD, &all);

    if (!all)
        *error_p = WEIR_EBUSY;
    return done;
}

uint32_t wr_range_free(struct wr_region *region, uint32_t page, uint32_t count)
{
    bool all = true;

    return for_range(region, page, count, LOT_FREE, &all);
}

/* --- Will need ------------------------------------------------------------------------------- */

void wr_range_willneed(struct wr_region *region, uint32_t page, uint32_t count)
{
    struct wr_space *space = region->space;

    for (uint32_t i = 0; i < count;) {
        uint32_t part = count - i < WR_FETCH_PAGES ? count - i : WR_FETCH_PAGES;
        bool any = false;

        for (uint32_t k = 0; k < part && !any; k++)
            any = wr_page_peek(&space->pages, page + i + k) == WR_PAGE_OUT;
        /* Beyond what is free, pages that were just brought would be taken away again. */
        if (any && (wr_frames_free(&space->frames) < atomic_load(&space->frames.high) ||
                    !wr_ahead_want(space->ahead, region, page + i, part)))
            return;
        i += part;
    }
}

/* --- Pins ------------------------------------------------------------------------------------ */

static uint32_t change_pins(struct wr_region *region, uint32_t page, uint32_t count, int change)
{
    struct wr_pages *pages = &region->space->pages;

    for (uint32_t i = 0; i < count; i++) {
        struct wr_hold hold;
        uint32_t pins;

        wr_page_take(pages, page + i, &hold);
        pins = wr_hold_pins(&hold);
        if (change < 0 ? pins == 0 : pins == WR_PIN_MAX) {
            wr_page_put(pages, &hold);
            return i;
        }
        wr_hold_set_pins(&hold, change < 0 ? pins - 1 : pins + 1);
        wr_page_put(pages, &hold);
        if (change < 0 && pins == 1)
            wr_aging_return(region->space->aging, page + i); /* pinned pages are in no queue */
    }
    return count;
}

static int pin_all(struct wr_region *region, uint32_t page, uint32_t count, enum wr_access access,
                   bool is_try)
{
    for (uint32_t i = 0; i < count; i++) {
        int error = wr_fault_pin(region, page + i, access, is_try);

        if (error != WEIR_OK) {
            change_pins(region, page, i, -1);
            return error;
        }
    }
    return WEIR_OK;
}

int wr_range_pin(struct wr_region *region, uint32_t page, uint32_t count, enum wr_access access)
{
    return pin_all(region, page, count, access, false);
}

int wr_range_pin_try(struct wr_region *region, uint32_t page, uint32_t count, enum wr_access access)
{
    return pin_all(region, page, count, access, true);
}

int wr_range_unpin(struct wr_region *region, uint32_t page, uint32_t count)
{
    uint32_t unpinned = change_pins(region, page, count, -1);

    if (unpinned == count)
        return WEIR_OK;
    change_pins(region, page, unpinned, 1);
    return WEIR_EINVAL;
}

/* --- The end of a region --------------------------------------------------------------------- */

uint32_t wr_range_release(struct wr_region *region, uint32_t page, uint32_t count)
{
    bool all = true;

    return for_range(region, page, count, LOT_UNMAP, &all);
}

void wr_range_await_empty(struct wr_region *region, uint32_t first, uint32_t count)
{
    struct wr_pages *pages = &region->space->pages;

    for (uint32_t page = first; page < first + count; page++) {
        if (wr_chunk_is_untouched(pages, page / WR_CHUNK_PAGES)) {
            page |= WR_CHUNK_PAGES - 1; /* the next is that of another */
            continue;
        }
        while (wr_page_peek(pages, page) == WR_PAGE_READING)
            wr_page_wait(pages, page);
        WR_CHECK(wr_page_peek(pages, page) == WR_PAGE_EMPTY);
    }
}

bool wr_range_is_pinned(const struct wr_region *region, uint32_t first, uint32_t count)
{
    const struct wr_pages *pages = &region->space->pages;

    for (uint32_t page = first; page < first + count; page++) {
        /* Only what is resident can be pinned. */
        if (atomic_load(&pages->chunks[page / WR_CHUNK_PAGES].resident) == 0)
            page |= WR_CHUNK_PAGES - 1;
        else if (wr_page_peek_pinned(pages, page))
            return true;
    }
    return false;
}
