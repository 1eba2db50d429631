/* SPDX-License-Identifier: MIT */

/* The runtime's policy, with nothing around it. */

#include <stdlib.h>

#include "runtime/paging/kpaged.h"
#include "tests/policy/replay.h"

#define BATCH          128u /* as many as kswapd drops at once by default */
#define SCAN_RATIO     6u
#define CHANCE_PERCENT 5u /* of memory: the slab, by default */

struct state {
    struct wr_host host; /* nothing is asked of it: nobody ever waits */
    struct wr_host_ops ops;
    struct wr_stats stats;
    struct wr_space space;
    struct wr_region region;
    struct wr_aging *aging;
    /* Cached pages in the order in which they were unmapped; a page that was wanted meanwhile has
     * another number by then. */
    uint32_t *cached;
    uint64_t *unmapped_at;
    uint64_t cached_begin, cached_end;
    uint32_t room, cached_most, cached_count;
};

static void no_pressure(void *context)
{
    (void)context;
}

static uint32_t power_of_two(uint32_t least)
{
    uint32_t power = 1;

    while (power < least)
        power *= 2;
    return power;
}

static void close_state(void *opaque)
{
    struct state *s = opaque;

    if (!s)
        return;
    wr_aging_close(s->aging);
    if (s->space.pages.table)
        wr_pages_fini(&s->space.pages);
    free(s->cached);
    free(s->unmapped_at);
    free(s);
}

static void *open_state(uint32_t pages, uint32_t frames)
{
    const struct wr_frame_marks computed = {0, 0, 0};
    uint32_t chunks = (pages + WR_CHUNK_PAGES - 1) / WR_CHUNK_PAGES;
    struct state *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->host.ops = &s->ops;
    s->space.host = &s->host;
    s->space.stats = &s->stats;
    s->cached_most = frames * CHANCE_PERCENT / 100;
    s->room = power_of_two(2 * pages);
    s->cached = calloc(s->room, sizeof(*s->cached));
    s->unmapped_at = calloc(pages, sizeof(*s->unmapped_at));
    if (!s->cached || !s->unmapped_at ||
        wr_pages_init(&s->space.pages, chunks * WR_CHUNK_PAGES, &s->host, &s->stats) != WEIR_OK) {
        close_state(s);
        return NULL;
    }
    wr_frames_init(&s->space.frames, &s->host, &s->stats, no_pressure, NULL);
    wr_frames_resize(&s->space.frames, frames - s->cached_most, &computed);
    s->region = (struct wr_region){.space = &s->space, .pages = pages, .number = 1};
    for (uint32_t i = 0; i < chunks; i++)
        atomic_store(&s->space.pages.chunks[i].region, 1);
    atomic_store(&s->space.by_number[1], &s->region);
    atomic_store(&s->space.number_end, 1);
    atomic_store(&s->space.chunk_end, chunks);
    if (wr_aging_open(&s->space, SCAN_RATIO, &s->aging) != WEIR_OK) {
        close_state(s);
        return NULL;
    }
    s->space.aging = s->aging;
    return s;
}

/* --- Leaving --------------------------------------------------------------------------------- */

static void evict_oldest(struct state *s)
{
    uint64_t at = s->cached_begin++;
    uint32_t page = s->cached[at & (s->room - 1)];
    struct wr_hold hold;

    wr_page_take(&s->space.pages, page, &hold);
    if (wr_state_is_cached(wr_hold_state(&hold)) && s->unmapped_at[page] == at) {
        if (wr_hold_state(&hold) == WR_PAGE_CACHED_DIRTY)
            wr_page_move(&hold, WR_PAGE_CACHED_DIRTY, WR_PAGE_CACHED_WRITING);
        wr_page_evict(&s->space.pages, &hold, wr_hold_state(&hold));
        s->cached_count--;
    }
    wr_page_put(&s->space.pages, &hold);
}

static void unmap(struct state *s, uint32_t page)
{
    struct wr_hold hold;
    enum wr_page_state state;

    wr_page_take(&s->space.pages, page, &hold);
    state = wr_hold_state(&hold);
    wr_page_move(&hold, state,
                 state == WR_PAGE_RESIDENT_CLEAN ? WR_PAGE_CACHED_CLEAN : WR_PAGE_CACHED_DIRTY);
    wr_page_put(&s->space.pages, &hold);
    wr_frames_put(&s->space.frames, 1);
    wr_aging_unmapped(s->aging, 1);
    s->cached[s->cached_end & (s->room - 1)] = page;
    s->unmapped_at[page] = s->cached_end++;
    if (++s->cached_count > s->cached_most)
        while (s->cached_count > s->cached_most)
            evict_oldest(s);
}

/* What kpaged and kswapd do, one after the other. */
static void reclaim(struct state *s)
{
    const struct wr_frames *frames = &s->space.frames;
    uint32_t victims[BATCH];

    while (wr_frames_free(frames) < atomic_load(&frames->high)) {
        uint32_t target = wr_kpaged_target(wr_aging_mode_now(frames),
                                           (uint64_t)atomic_load(&frames->total));
        uint32_t found;

        if (wr_aging_listed(s->aging) < target / 2 + 1)
            (void)wr_aging_pass(s->aging, target);
        found = wr_aging_collect(s->aging, WR_VICTIMS_CLEAN, BATCH, victims);
        if (found < BATCH)
            found += wr_aging_collect(s->aging, WR_VICTIMS_LISTED, BATCH - found, victims + found);
        if (found == 0)
            found = wr_aging_collect(s->aging, WR_VICTIMS_LARGEST, BATCH, victims);
        for (uint32_t i = 0; i < found; i++) {
            enum wr_page_state state = wr_page_peek(&s->space.pages, victims[i]);

            if (wr_state_is_charged(state)) /* it may be listed twice */
                unmap(s, victims[i]);
        }
    }
}

/* --- Touching -------------------------------------------------------------------------------- */

static void prove(struct state *s, struct wr_hold *hold)
{
    wr_hold_set(hold, WR_PAGE_MAIN, true);
    wr_page_warm(&s->space.pages, hold->number);
}

/* As fault.c does it. */
static int serve(struct state *s, struct wr_hold *hold)
{
    switch (wr_hold_state(hold)) {
    case WR_PAGE_EMPTY: wr_page_move(hold, WR_PAGE_EMPTY, WR_PAGE_RESIDENT_DIRTY); return 2;
    case WR_PAGE_CACHED_DIRTY:
        wr_aging_wanted(s->aging);
        prove(s, hold);
        wr_page_move(hold, WR_PAGE_CACHED_DIRTY, WR_PAGE_RESIDENT_DIRTY);
        return 1;
    case WR_PAGE_CACHED_CLEAN:
        wr_aging_wanted(s->aging);
        prove(s, hold);
        wr_page_move(hold, WR_PAGE_CACHED_CLEAN, WR_PAGE_RESIDENT_CLEAN);
        return 1;
    case WR_PAGE_OUT:
        wr_page_move(hold, WR_PAGE_OUT, WR_PAGE_READING);
        if (wr_aging_rises(s->aging, wr_page_distance(&s->space.pages, hold)))
            prove(s, hold);
        wr_page_move(hold, WR_PAGE_READING, WR_PAGE_RESIDENT_CLEAN);
        return 2;
    case WR_PAGE_READING:
    case WR_PAGE_CACHED_WRITING:
    case WR_PAGE_RESIDENT_ZERO:
    case WR_PAGE_RESIDENT_DIRTY:
    case WR_PAGE_RESIDENT_CLEAN:
    case WR_PAGE_RESIDENT_WRITING:
    case WR_PAGE_POISONED:
    case WR_PAGE_STATE_COUNT: break;
    }
    return 0;
}

static int touch(void *opaque, uint32_t page)
{
    struct state *s = opaque;
    struct wr_hold hold;
    bool is_main;
    int how;

    if (wr_state_is_charged(wr_page_peek(&s->space.pages, page)))
        return 0;
    wr_frames_overdraw(&s->space.frames, 1);
    wr_page_take(&s->space.pages, page, &hold);
    how = serve(s, &hold);
    is_main = wr_hold_has(&hold, WR_PAGE_MAIN);
    wr_page_put(&s->space.pages, &hold);
    s->cached_count -= how == 1;
    if (!is_main)
        wr_aging_arrived(s->aging, page, 1, 1, false);
    if (wr_frames_free(&s->space.frames) < atomic_load(&s->space.frames.low))
        reclaim(s);
    return how;
}

const struct replay_ops replay_weir = {open_state, touch, close_state};
