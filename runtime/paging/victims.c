/* SPDX-License-Identifier: MIT */

/* Aging, kswapd's side: taking victims from where kpaged put them, or without it. */

#include "runtime/base/bug.h"
#include "runtime/paging/aging.h"
#include "runtime/paging/kept.h"

#define QUANTUM      64u /* victims of one region before the next region's turn */
#define LESSON_SHARE 2u  /* of memory: unmapped between two looks at what it was worth */

static bool is_evictable(const struct wr_aging *aging, uint32_t page, bool clean_only)
{
    bool is_dirty;

    return wr_page_peek_evictable(&aging->space->pages, page, &is_dirty) &&
           !(clean_only && is_dirty != wr_bug(WR_BUG_no_clean_first));
}

/* --- The lists ------------------------------------------------------------------------------- */

/* What can be dropped within the window before the write place. As long as everything from the
 * write place on was taken, it follows: a load that writes nothing never comes to it otherwise. */
static uint32_t collect_clean(struct wr_aging *aging, struct wr_list *list, uint32_t want,
                              uint32_t *pages)
{
    uint32_t put = atomic_load_explicit(&list->put, memory_order_acquire);
    uint32_t taken = atomic_load_explicit(&list->taken, memory_order_relaxed);
    const uint32_t *victims = atomic_load_explicit(&list->pages, memory_order_relaxed);
    uint32_t window = (put - taken + aging->scan_ratio - 1) / aging->scan_ratio;
    uint32_t found = 0;

    if ((int32_t)(list->clean - taken) < 0)
        list->clean = taken;
    while (list->clean - taken < window && list->clean != put && found < want) {
        uint32_t page = victims[list->clean % WR_LIST_ROOM];
        bool is_clean = is_evictable(aging, page, true);
        bool stays = !is_clean && is_evictable(aging, page, false);

        if (is_clean)
            pages[found++] = page;
        if (list->clean == taken && !stays) {
            taken++;
            if (!is_clean)
                wr_aging_return(aging, page); /* locked, perhaps: it is in no other list */
        }
        list->clean++;
    }
    atomic_store_explicit(&list->taken, taken, memory_order_release);
    return found;
}

static uint32_t collect_next(struct wr_aging *aging, struct wr_list *list, uint32_t want,
                             uint32_t *pages)
{
    uint32_t put = atomic_load_explicit(&list->put, memory_order_acquire);
    uint32_t taken = atomic_load_explicit(&list->taken, memory_order_relaxed);
    const uint32_t *victims = atomic_load_explicit(&list->pages, memory_order_relaxed);
    uint32_t found = 0;

    while (taken != put && found < want) {
        uint32_t page = victims[taken++ % WR_LIST_ROOM];

        if (is_evictable(aging, page, false))
            pages[found++] = page;
        else
            wr_aging_return(aging, page);
    }
    /* Release: kpaged may use the places again. */
    atomic_store_explicit(&list->taken, taken, memory_order_release);
    return found;
}

/* Region by region, a quantum each, going on where the last call ended. */
static uint32_t collect_lists(struct wr_aging *aging, bool clean_only, uint32_t want,
                              uint32_t *pages)
{
    uint32_t end = atomic_load(&aging->space->number_end);
    uint32_t found = 0, fruitless = 0;

    while (found < want && fruitless < end) {
        uint32_t part = want - found < QUANTUM ? want - found : QUANTUM;
        struct wr_list *list;
        uint32_t got;

        aging->turn = aging->turn < end ? aging->turn + 1 : 1;
        list = &aging->lists[aging->turn];
        got = clean_only ? collect_clean(aging, list, part, pages + found)
                         : collect_next(aging, list, part, pages + found);
        found += got;
        fruitless = got ? 0 : fruitless + 1;
    }
    return found;
}

/* --- Without kpaged -------------------------------------------------------------------------- */

static uint32_t collect_chosen(struct wr_aging *aging, uint32_t want, uint32_t *pages)
{
    uint32_t found = 0;

    wr_aging_begin(aging, &aging->kswapd);
    while (found < want && wr_aging_choose(aging, &aging->kswapd, &pages[found]))
        found++;
    return found;
}

/* Mapped pages of a region; whole areas of 1 GiB at a time where it has them. */
static uint64_t resident_of(const struct wr_pages *pages, const struct wr_region *region)
{
    uint32_t chunk = region->first / WR_CHUNK_PAGES;
    uint32_t end = (wr_region_end(region) + WR_CHUNK_PAGES - 1) / WR_CHUNK_PAGES;
    uint64_t sum = 0;

    while (chunk < end) {
        if (chunk % WR_AREA_CHUNKS == 0 && end - chunk >= WR_AREA_CHUNKS) {
            sum += atomic_load_explicit(&pages->areas[chunk / WR_AREA_CHUNKS],
                                        memory_order_relaxed);
            chunk += WR_AREA_CHUNKS;
        } else {
            sum += atomic_load_explicit(&pages->chunks[chunk++].resident, memory_order_relaxed);
        }
    }
    return sum;
}

static struct wr_region *largest_region(const struct wr_aging *aging)
{
    uint32_t end = atomic_load(&aging->space->number_end);
    struct wr_region *largest = NULL;
    uint64_t most = 0;

    for (uint32_t i = 1; i <= end; i++) {
        struct wr_region *region = atomic_load(&aging->space->by_number[i]);
        uint64_t resident = region ? resident_of(&aging->space->pages, region) : 0;

        if (resident > most) {
            most = resident;
            largest = region;
        }
    }
    return largest;
}

/* Evictable pages from `from` to `end`. *at_p: where to go on. */
static uint32_t collect_span(const struct wr_aging *aging, uint32_t from, uint32_t end,
                             bool clean_only, uint32_t want, uint32_t *pages, uint32_t *at_p)
{
    const struct wr_pages *table = &aging->space->pages;
    uint64_t page = from;
    uint32_t found = 0;

    while (page < end && found < want) {
        uint32_t chunk = (uint32_t)(page / WR_CHUNK_PAGES);

        if (atomic_load_explicit(&table->areas[chunk / WR_AREA_CHUNKS], memory_order_relaxed) ==
            0) {
            page = (chunk / WR_AREA_CHUNKS + 1ull) * WR_AREA_CHUNKS * WR_CHUNK_PAGES;
        } else if (atomic_load_explicit(&table->chunks[chunk].resident, memory_order_relaxed) ==
                   0) {
            page = (chunk + 1ull) * WR_CHUNK_PAGES;
        } else {
            if (is_evictable(aging, (uint32_t)page, clean_only))
                pages[found++] = (uint32_t)page;
            page++;
        }
    }
    *at_p = page < end ? (uint32_t)page : end;
    return found;
}

static uint32_t collect_largest(struct wr_aging *aging, uint32_t want, uint32_t *pages)
{
    struct wr_region *region = largest_region(aging);
    uint32_t at, found, start;
    struct wr_list *list;

    if (!region)
        return 0;
    list = &aging->lists[region->number];
    start = list->hand < region->pages ? region->first + list->hand : region->first;
    found = collect_span(aging, start, wr_region_end(region), false, want, pages, &at);
    if (found < want && start > region->first)
        found += collect_span(aging, region->first, start, false, want - found, pages + found, &at);
    list->hand = at < wr_region_end(region) ? at - region->first : 0;
    return found;
}

static uint32_t collect_kept(const struct wr_aging *aging, uint32_t want, uint32_t *pages)
{
    struct wr_region *region;
    uint32_t found = 0;

    while (found < want && (region = wr_kept_to_take(aging->space)) != NULL)
        found += collect_span(aging, region->kept_hand, wr_region_end(region), false, want - found,
                              pages + found, &region->kept_hand);
    return found;
}

static uint32_t collect_sweep(struct wr_aging *aging, uint32_t want, uint32_t *pages)
{
    uint32_t end = atomic_load_explicit(&aging->space->chunk_end, memory_order_relaxed) *
                   WR_CHUNK_PAGES;
    uint32_t start = aging->sweep_hand < end ? aging->sweep_hand : 0;
    uint32_t at;
    uint32_t found = collect_span(aging, start, end, true, want, pages, &at);

    if (found < want && start > 0)
        found += collect_span(aging, 0, start, true, want - found, pages + found, &at);
    aging->sweep_hand = at < end ? at : 0;
    return found;
}

uint32_t wr_aging_collect(struct wr_aging *aging, enum wr_victims kind, uint32_t want,
                          uint32_t *pages)
{
    switch (kind) {
    case WR_VICTIMS_KEPT: return collect_kept(aging, want, pages);
    case WR_VICTIMS_CLEAN: return collect_lists(aging, true, want, pages);
    case WR_VICTIMS_LISTED: return collect_lists(aging, false, want, pages);
    case WR_VICTIMS_CHOSEN: return collect_chosen(aging, want, pages);
    case WR_VICTIMS_LARGEST: return collect_largest(aging, want, pages);
    case WR_VICTIMS_SWEEP: return collect_sweep(aging, want, pages);
    }
    return 0;
}

void wr_aging_return(struct wr_aging *aging, uint32_t page)
{
    const struct wr_pages *pages = &aging->space->pages;

    /* Pages of the main queue are found by their hands again; those that left need nothing. */
    if (wr_page_peek_flag(pages, page, WR_PAGE_MAIN) ||
        (!is_evictable(aging, page, false) && !wr_page_peek_locked(pages, page)))
        return;
    wr_aging_arrived(aging, page, 1, 1, false);
}

void wr_aging_unmapped(struct wr_aging *aging, uint32_t count)
{
    int64_t total = atomic_load_explicit(&aging->space->frames.total, memory_order_relaxed);
    uint32_t wanted;

    aging->unmapped += count;
    if ((int64_t)aging->unmapped * LESSON_SHARE < total)
        return;
    wanted = atomic_load_explicit(&aging->wanted, memory_order_relaxed);
    atomic_store_explicit(
        &aging->is_vain,
        wr_policy_is_vain(atomic_load_explicit(&aging->is_vain, memory_order_relaxed),
                          wanted - aging->wanted_seen, aging->unmapped),
        memory_order_relaxed);
    aging->wanted_seen = wanted;
    aging->unmapped = 0;
}
