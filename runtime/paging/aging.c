/* SPDX-License-Identifier: MIT */
#include "runtime/paging/aging.h"

void wr_aging_init(struct wr_aging *aging, struct wr_space *space, uint32_t scan_ratio)
{
    *aging = (struct wr_aging){.space = space, .scan_ratio = scan_ratio};
}

static uint32_t resident_of(const struct wr_aging *aging, uint32_t chunk)
{
    /* Relaxed: a count that is stale by one page costs one look too many or too few. */
    return atomic_load_explicit(&aging->space->pages.chunks[chunk].resident, memory_order_relaxed);
}

static uint32_t resident_total(const struct wr_aging *aging)
{
    const struct wr_frames *frames = &aging->space->frames;
    int64_t total = atomic_load_explicit(&frames->total, memory_order_relaxed);
    int64_t used = total - wr_frames_free(frames);

    return used > 0 ? (uint32_t)used : 0;
}

/* Candidates of one chunk, at most want. */
static uint32_t collect_chunk(const struct wr_aging *aging, uint32_t chunk, bool dirty_too,
                              uint32_t want, uint32_t *pages)
{
    uint32_t first = chunk * WR_CHUNK_PAGES;
    uint32_t found = 0;
    bool is_dirty;

    for (uint32_t i = 0; i < WR_CHUNK_PAGES && found < want; i++)
        if (wr_page_peek_evictable(&aging->space->pages, first + i, &is_dirty) &&
            (dirty_too || !is_dirty))
            pages[found++] = first + i;
    return found;
}

static uint32_t next_chunk(uint32_t chunk, uint32_t end)
{
    return chunk + 1 < end ? chunk + 1 : 0;
}

/* Everything from the write hand on, one chunk after the other. */
static uint32_t collect_any(struct wr_aging *aging, uint32_t end, uint32_t want, uint32_t *pages)
{
    uint32_t found = 0;

    for (uint32_t steps = 0; steps < end && found < want; steps++) {
        if (resident_of(aging, aging->write_hand) > 0)
            found += collect_chunk(aging, aging->write_hand, true, want - found, pages + found);
        if (found == want)
            break; /* perhaps in the middle: look at this chunk again */
        if (aging->clean_hand == aging->write_hand)
            aging->clean_hand = next_chunk(aging->clean_hand, end);
        aging->write_hand = next_chunk(aging->write_hand, end);
    }
    return found;
}

/* Resident pages from the write hand to the clean hand: how far ahead it is already. */
static uint32_t pages_ahead(const struct wr_aging *aging, uint32_t end, uint32_t limit)
{
    uint32_t sum = 0;

    for (uint32_t at = aging->write_hand; at != aging->clean_hand && sum < limit;
         at = next_chunk(at, end))
        sum += resident_of(aging, at);
    return sum;
}

static uint32_t collect_clean(struct wr_aging *aging, uint32_t end, uint32_t window, uint32_t want,
                              uint32_t *pages)
{
    uint32_t passed = window == UINT32_MAX ? 0 : pages_ahead(aging, end, window);
    uint32_t found = 0;

    for (uint32_t steps = 0; steps < end && passed < window; steps++) {
        uint32_t here = resident_of(aging, aging->clean_hand);

        if (here > 0)
            found += collect_chunk(aging, aging->clean_hand, false, want - found, pages + found);
        if (found == want)
            break;
        passed += here;
        aging->clean_hand = next_chunk(aging->clean_hand, end);
    }
    return found;
}

uint32_t wr_aging_collect(struct wr_aging *aging, enum wr_victims kind, uint32_t want,
                          uint32_t *pages)
{
    uint32_t end = atomic_load_explicit(&aging->space->chunk_end, memory_order_relaxed);

    if (end == 0)
        return 0;
    if (aging->write_hand >= end)
        aging->write_hand = 0;
    if (aging->clean_hand >= end)
        aging->clean_hand = 0;
    switch (kind) {
    case WR_VICTIMS_CLEAN:
        return collect_clean(aging, end, resident_total(aging) / aging->scan_ratio, want, pages);
    case WR_VICTIMS_SWEEP: return collect_clean(aging, end, UINT32_MAX, want, pages);
    case WR_VICTIMS_ANY: return collect_any(aging, end, want, pages);
    }
    return 0;
}

void wr_aging_skip(struct wr_aging *aging)
{
    /* Both are wrapped by the next collect. The clean hand must not fall behind: it would seem to
     * be a whole round ahead. */
    if (aging->clean_hand == aging->write_hand)
        aging->clean_hand++;
    aging->write_hand++;
}

enum wr_aging_mode wr_aging_mode(int64_t free, int64_t min, int64_t low, int64_t high,
                                 bool is_wanted)
{
    if (free < min || is_wanted)
        return WR_AGING_RED;
    if (free < low)
        return WR_AGING_ORANGE;
    return free < high ? WR_AGING_YELLOW : WR_AGING_GREEN;
}
