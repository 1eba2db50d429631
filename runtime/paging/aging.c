/* SPDX-License-Identifier: MIT */
#include "runtime/paging/aging.h"

#include <stdlib.h>

#define PASSING_ROOM_SHARE 8u  /* of memory */
#define REST               64u /* choosings: see struct wr_chooser */

/* --- The queues of arrivals ------------------------------------------------------------------ */

int wr_aging_open(struct wr_space *space, uint32_t scan_ratio, struct wr_aging **aging_p)
{
    struct wr_aging *aging = calloc(1, sizeof(*aging));
    int error;

    if (!aging)
        return WEIR_ENOMEM;
    aging->space = space;
    aging->scan_ratio = scan_ratio;
    error = wr_arrivals_open(&aging->small, wr_frames_total(&aging->space->frames));
    if (error == WEIR_OK)
        error = wr_arrivals_open(&aging->passing,
                                 wr_frames_total(&aging->space->frames) / PASSING_ROOM_SHARE);
    if (error != WEIR_OK) {
        wr_aging_close(aging);
        return error;
    }
    *aging_p = aging;
    return WEIR_OK;
}

void wr_aging_close(struct wr_aging *aging)
{
    if (!aging)
        return;
    for (uint32_t i = 0; i <= WR_REGIONS_MAX; i++)
        free(atomic_load(&aging->lists[i].pages));
    wr_arrivals_close(&aging->small);
    wr_arrivals_close(&aging->passing);
    free(aging);
}

void wr_aging_lost(struct wr_aging *aging)
{
    atomic_fetch_add_explicit(&aging->lost, 1, memory_order_relaxed);
}

void wr_aging_arrived(struct wr_aging *aging, uint32_t page, uint32_t count, int direction,
                      bool is_passing)
{
    /* Streams that fill memory for the first time overflow into the small queue. */
    if (!(is_passing && wr_arrivals_put(&aging->passing, page, count, direction)) &&
        !wr_arrivals_put(&aging->small, page, count, direction))
        wr_aging_lost(aging);
}

void wr_aging_wanted(struct wr_aging *aging)
{
    atomic_fetch_add_explicit(&aging->wanted, 1, memory_order_relaxed);
}

bool wr_aging_rises(struct wr_aging *aging, uint32_t distance)
{
    if (!atomic_load_explicit(&aging->is_vain, memory_order_relaxed))
        return wr_policy_is_soon(distance, wr_frames_total(&aging->space->frames));
    return distance != WR_DISTANCE_NONE &&
           atomic_fetch_add_explicit(&aging->returned, 1, memory_order_relaxed) % WR_VAIN_RISE == 0;
}

/* The oldest of a queue that can leave. False: there is none now. */
static bool take_arrived(struct wr_aging *aging, struct wr_arrivals *arrivals, uint32_t *page_p)
{
    const struct wr_pages *pages = &aging->space->pages;
    uint64_t most = wr_arrivals_count(arrivals);
    uint32_t page;

    for (uint64_t i = 0; i < most && wr_arrivals_take(arrivals, &page); i++) {
        bool is_dirty;

        if (page >= pages->count || wr_page_peek_flag(pages, page, WR_PAGE_MAIN))
            continue;
        if (wr_page_peek_evictable(pages, page, &is_dirty)) {
            *page_p = page;
            return true;
        }
        if (wr_page_peek_locked(pages, page))
            wr_aging_arrived(aging, page, 1, 1, arrivals == &aging->passing); /* later */
    }
    return false;
}

/* --- The main queue -------------------------------------------------------------------------- */

/* The first page from this one on that may have what is looked for; beyond what is empty. */
static uint64_t skip_empty(const struct wr_pages *pages, uint32_t page)
{
    uint32_t chunk = page / WR_CHUNK_PAGES;

    /* Relaxed: counts that are stale by one page cost one look too many or too few. */
    if (atomic_load_explicit(&pages->areas[chunk / WR_AREA_CHUNKS], memory_order_relaxed) == 0)
        return (chunk / WR_AREA_CHUNKS + 1ull) * WR_AREA_CHUNKS * WR_CHUNK_PAGES;
    if (atomic_load_explicit(&pages->chunks[chunk].resident, memory_order_relaxed) == 0)
        return (chunk + 1ull) * WR_CHUNK_PAGES;
    return page;
}

static bool is_main_victim(const struct wr_pages *pages, uint32_t page)
{
    bool is_dirty;

    return wr_page_peek_flag(pages, page, WR_PAGE_MAIN) &&
           wr_page_peek_evictable(pages, page, &is_dirty);
}

static uint64_t page_end(const struct wr_aging *aging)
{
    return (uint64_t)atomic_load_explicit(&aging->space->chunk_end, memory_order_relaxed) *
           WR_CHUNK_PAGES;
}

/* The next page of this generation, if its hand finds one before it is round. */
static bool take_main(const struct wr_aging *aging, struct wr_chooser *chooser, uint32_t generation,
                      uint32_t *page_p)
{
    const struct wr_pages *pages = &aging->space->pages;
    uint64_t end = page_end(aging), at = chooser->hands[generation];
    uint64_t left = end > 0 ? chooser->left[generation] : 0;

    while (left > 0) {
        uint32_t page = at < end ? (uint32_t)at : 0;
        uint64_t next = skip_empty(pages, page);
        bool is_found = false;

        if (next == page && wr_policy_generation(wr_page_heat(pages, page)) != generation) {
            next = (page / WR_HEAT_PAGES + 1ull) * WR_HEAT_PAGES;
        } else if (next == page) {
            next = page + 1ull;
            is_found = is_main_victim(pages, page);
        }
        left -= next - page < left ? next - page : left;
        at = next;
        if (is_found) {
            *page_p = page;
            chooser->left[generation] = left;
            chooser->hands[generation] = (uint32_t)(at < end ? at : 0);
            return true;
        }
    }
    chooser->left[generation] = 0;
    chooser->rests[generation] = REST;
    return false;
}

void wr_aging_begin(const struct wr_aging *aging, struct wr_chooser *chooser)
{
    for (uint32_t i = 0; i < WR_GENERATIONS; i++) {
        chooser->left[i] = page_end(aging);
        chooser->rests[i] -= chooser->rests[i] > 0;
    }
}

static bool take_coldest(const struct wr_aging *aging, struct wr_chooser *chooser, uint32_t *page_p)
{
    uint32_t probe = wr_policy_probe(chooser->picks++);

    if (chooser->rests[probe] == 0 && take_main(aging, chooser, probe, page_p))
        return true;
    for (uint32_t i = 0; i < WR_GENERATIONS; i++)
        if (chooser->rests[i] == 0 && take_main(aging, chooser, i, page_p))
            return true;
    for (uint32_t i = 0; i < WR_GENERATIONS; i++)
        if (take_main(aging, chooser, i, page_p))
            return true;
    return false;
}

bool wr_aging_choose(struct wr_aging *aging, struct wr_chooser *chooser, uint32_t *page_p)
{
    uint64_t frames = wr_frames_total(&aging->space->frames);
    bool is_passing_due = wr_policy_is_passing_due(wr_arrivals_count(&aging->passing), frames);
    bool is_small_due = wr_policy_is_small_due(wr_arrivals_count(&aging->small), frames);

    return (is_passing_due && take_arrived(aging, &aging->passing, page_p)) ||
           (is_small_due && take_arrived(aging, &aging->small, page_p)) ||
           take_coldest(aging, chooser, page_p) || take_arrived(aging, &aging->passing, page_p) ||
           take_arrived(aging, &aging->small, page_p);
}

/* --- kpaged's pass --------------------------------------------------------------------------- */

/* Pages that found no room in the small queue: look for them everywhere. */
static void find_lost(struct wr_aging *aging)
{
    const struct wr_pages *pages = &aging->space->pages;
    uint32_t lost = atomic_load_explicit(&aging->lost, memory_order_relaxed);
    uint64_t small = wr_arrivals_count(&aging->small);
    uint64_t end = page_end(aging);

    /* Not before there is room for them; of a budget that grew, its share may be more than that. */
    if (lost == aging->lost_seen || small > aging->small.room / 4 ||
        wr_policy_is_small_due(small, wr_frames_total(&aging->space->frames)))
        return;
    aging->lost_seen = lost;
    for (uint64_t page = 0; page < end;) {
        uint64_t next = skip_empty(pages, (uint32_t)page);
        bool is_dirty;

        if (next == page) {
            if (!wr_page_peek_flag(pages, (uint32_t)page, WR_PAGE_MAIN) &&
                wr_page_peek_evictable(pages, (uint32_t)page, &is_dirty))
                wr_aging_arrived(aging, (uint32_t)page, 1, 1, false);
            next++;
        }
        page = next;
    }
}

static uint32_t length_of(const struct wr_list *list)
{
    /* Acquire: pairs with the release of whoever took: the places are no longer looked at. */
    uint32_t taken = atomic_load_explicit(&list->taken, memory_order_acquire);

    return atomic_load_explicit(&list->put, memory_order_relaxed) - taken;
}

/* False: the region has gone, or its list is full. */
static bool put_victim(struct wr_aging *aging, uint32_t page)
{
    uint16_t number = atomic_load(&aging->space->pages.chunks[page / WR_CHUNK_PAGES].region);
    struct wr_list *list = &aging->lists[number];
    uint32_t *pages = atomic_load_explicit(&list->pages, memory_order_relaxed);
    uint32_t put = atomic_load_explicit(&list->put, memory_order_relaxed);

    if (number == 0 || length_of(list) >= WR_LIST_ROOM)
        return false;
    if (!pages) {
        pages = malloc(WR_LIST_ROOM * sizeof(*pages));
        if (!pages)
            return false;
        atomic_store_explicit(&list->pages, pages, memory_order_relaxed);
    }
    pages[put % WR_LIST_ROOM] = page;
    /* Release: pairs with the acquire in victims.c; the entry, and the list itself, are there. */
    atomic_store_explicit(&list->put, put + 1, memory_order_release);
    return true;
}

uint32_t wr_aging_pass(struct wr_aging *aging, uint32_t target)
{
    uint32_t listed = wr_aging_listed(aging);
    uint32_t count = 0;

    atomic_store_explicit(&aging->target, target, memory_order_relaxed);
    find_lost(aging);
    wr_aging_begin(aging, &aging->kpaged);
    /* Twice the target: pages whose list is full are passed over, but not for ever. */
    for (uint32_t tries = 0; listed + count < target && tries < 2 * target; tries++) {
        uint32_t page;

        if (!wr_aging_choose(aging, &aging->kpaged, &page))
            break;
        if (put_victim(aging, page))
            count++;
        else
            wr_aging_return(aging, page);
    }
    return count;
}

uint32_t wr_aging_listed(const struct wr_aging *aging)
{
    uint32_t sum = 0;

    for (uint32_t i = 1; i <= atomic_load(&aging->space->number_end); i++)
        sum += length_of(&aging->lists[i]);
    return sum;
}

uint32_t wr_aging_listed_of(const struct wr_aging *aging, uint32_t region)
{
    return length_of(&aging->lists[region]);
}

/* --- The colour ------------------------------------------------------------------------------ */

enum wr_aging_mode wr_aging_mode(int64_t free, int64_t min, int64_t low, int64_t high,
                                 bool is_wanted)
{
    if (free < min || is_wanted)
        return WR_AGING_RED;
    if (free < low)
        return WR_AGING_ORANGE;
    return free < high ? WR_AGING_YELLOW : WR_AGING_GREEN;
}

enum wr_aging_mode wr_aging_mode_now(const struct wr_frames *frames)
{
    return wr_aging_mode(
        wr_frames_free(frames), atomic_load_explicit(&frames->min, memory_order_relaxed),
        atomic_load_explicit(&frames->low, memory_order_relaxed),
        atomic_load_explicit(&frames->high, memory_order_relaxed), wr_frames_is_wanted(frames));
}

uint64_t wr_aging_metadata(const struct wr_aging *aging)
{
    uint64_t bytes = sizeof(*aging) +
                     ((uint64_t)aging->small.room + aging->passing.room) * sizeof(uint32_t);

    for (uint32_t i = 1; i <= WR_REGIONS_MAX; i++)
        if (atomic_load_explicit(&aging->lists[i].pages, memory_order_relaxed))
            bytes += WR_LIST_ROOM * sizeof(uint32_t);
    return bytes;
}
