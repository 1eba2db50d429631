/* SPDX-License-Identifier: MIT */
#include "runtime/paging/evict.h"

#include "runtime/base/bug.h"
#include "runtime/base/usdt.h"
#include "runtime/memory/object.h"
#include "runtime/paging/aging.h"

#define DEFER_LESSON 4096u /* pages revoked between two looks at what deferring them was worth */

/* What of the candidates is wanted. */
enum kinds { CLEAN = 1, DIRTY = 2 };

static void count(const struct wr_evict *e, enum wr_counter counter, uint64_t amount)
{
    if (amount)
        wr_stats_add(e->space->stats, counter, amount);
}

static enum wr_aging_mode mode_now(const struct wr_evict *e)
{
    return wr_aging_mode_now(&e->space->frames);
}

/* --- Dropping what costs nothing ------------------------------------------------------------- */

/* Lock a victim if it is one still. */
static bool seize(struct wr_evict *e, uint32_t page, unsigned kinds, struct wr_victim *victim)
{
    struct wr_region *region = wr_space_region(e->space, page);
    enum wr_page_state state;
    bool is_freed, is_clean, is_victim;

    if (!region)
        return false;
    if (!wr_page_take_try(&e->space->pages, page, &victim->hold)) {
        wr_aging_return(e->space->aging, page);
        return false;
    }
    state = wr_hold_state(&victim->hold);
    is_freed = wr_hold_has(&victim->hold, WR_PAGE_FREED);
    is_clean = state == WR_PAGE_RESIDENT_CLEAN || (state == WR_PAGE_RESIDENT_DIRTY && is_freed);
    victim->is_dirty = state == WR_PAGE_RESIDENT_DIRTY && !is_freed;
    is_victim = (is_clean && kinds & CLEAN) || (victim->is_dirty && kinds & DIRTY);
    if (!is_victim || wr_hold_pins(&victim->hold) > 0) {
        wr_page_put(&e->space->pages, &victim->hold);
        wr_aging_return(e->space->aging, page);
        return false;
    }
    victim->addr = wr_region_addr(region, page);
    victim->frame = WR_FRAME_NONE;
    victim->is_kept = atomic_load(&region->keep) != WR_KEEP_NOT;
    return true;
}

/* A frame of the cache for a victim; the chunk that fills up becomes the youngest of the queue. */
static uint32_t chance_take(struct wr_evict *e)
{
    struct wr_cache *cache = &e->space->cache;

    if (e->chance_frame != WR_FRAME_NONE && e->chance_used == WR_CACHE_CHUNK) {
        wr_cache_put(cache, e->chance_frame, true);
        e->chance_frame = WR_FRAME_NONE;
    }
    if (e->chance_frame == WR_FRAME_NONE) {
        e->chance_frame = wr_cache_take(cache, WR_CACHE_CHANCE);
        e->chance_used = 0;
    }
    return e->chance_frame == WR_FRAME_NONE ? WR_FRAME_NONE : e->chance_frame + e->chance_used++;
}

/* A stream's pages do not: it has gone by. */
static bool deserves_chance(const struct wr_victim *victim)
{
    return !victim->is_dirty && !victim->is_kept && !wr_hold_has(&victim->hold, WR_PAGE_AHEAD) &&
           !wr_hold_has(&victim->hold, WR_PAGE_FREED);
}

/* Copy the bytes of those victims that deserve it into the cache. Chunks are taken before any
 * victim is locked, by reserve_chances(). */
static void give_chances(struct wr_evict *e, uint32_t victims, uint32_t chances)
{
    uint32_t wanted = 0, copied;

    for (uint32_t i = 0; i < victims && wanted < chances; i++) {
        if (deserves_chance(&e->victims[i]))
            e->copies[wanted++] = (struct wr_copy){e->victims[i].addr, i};
    }
    for (uint32_t i = 0; i < wanted; i++) {
        struct wr_victim *victim = &e->victims[e->copies[i].frame];

        victim->frame = e->chance_frame + e->chance_used + i;
        e->copies[i].frame = victim->frame;
    }
    copied = wanted ? wr_rmap_copy(e->space, e->copies, wanted) : 0;
    e->chance_used += copied;
    for (uint32_t i = 0, seen = 0; i < victims && seen < wanted; i++)
        if (e->victims[i].frame != WR_FRAME_NONE && seen++ >= copied)
            e->victims[i].frame = WR_FRAME_NONE;
}

static uint32_t spans_of(struct wr_evict *e, uint32_t victims)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < victims; i++) {
        struct wr_span *last = n ? &e->spans[n - 1] : NULL;

        if (last && e->victims[i].addr == last->addr + (uint64_t)last->pages * WEIR_PAGE_BYTES)
            last->pages++;
        else
            e->spans[n++] = (struct wr_span){e->victims[i].addr, 1};
    }
    return n;
}

/* The page is unmapped: say where it is now. */
static void settle(struct wr_evict *e, struct wr_victim *victim)
{
    struct wr_hold *hold = &victim->hold;
    enum wr_page_state state = wr_hold_state(hold);

    if (wr_hold_has(hold, WR_PAGE_FREED)) {
        wr_hold_set(hold, WR_PAGE_AHEAD, false);
        wr_hold_set(hold, WR_PAGE_FREED, false);
        wr_page_move(hold, state, WR_PAGE_EMPTY);
        if (state == WR_PAGE_RESIDENT_CLEAN)
            e->space->pager->ops->forget(e->space->pager, wr_hold_slot(hold));
        wr_hold_set_slot(hold, WR_SLOT_NONE);
        count(e, WR_COUNT_pages_elided_free, 1);
    } else if (victim->frame != WR_FRAME_NONE) {
        wr_hold_set(hold, WR_PAGE_AHEAD, false);
        wr_cache_own(&e->space->cache, victim->frame, hold->number);
        wr_hold_set_frame(hold, victim->frame);
        wr_page_move(hold, WR_PAGE_RESIDENT_CLEAN, WR_PAGE_CACHED_CLEAN);
        count(e, WR_COUNT_cache_added, 1);
        count(e, WR_COUNT_cache_added_reclaim, 1);
        wr_aging_unmapped(e->space->aging, 1);
    } else {
        wr_page_evict(&e->space->pages, hold, WR_PAGE_RESIDENT_CLEAN);
        count(e, WR_COUNT_pages_dropped_clean, 1);
    }
    wr_page_put(&e->space->pages, hold);
}

/* Frames of the cache that victims may have now: of one chunk, so that taking the next never
 * happens with victims locked (it waits for locks). */
static uint32_t reserve_chances(struct wr_evict *e)
{
    uint32_t frame;

    if (mode_now(e) == WR_AGING_RED)
        return 0; /* somebody waits: no second chance */
    frame = chance_take(e);
    if (frame == WR_FRAME_NONE)
        return 0;
    e->chance_used--;
    return WR_CACHE_CHUNK - e->chance_used;
}

/* At most drop_batch candidates, and no more of those that deserve a chance than there are. How
 * many were looked at; how many frames came free. */
static uint32_t drop_batch(struct wr_evict *e, const uint32_t *pages, uint32_t candidates,
                           uint32_t *freed_p)
{
    uint32_t most = candidates < e->drop_batch ? candidates : e->drop_batch;
    uint32_t chances = reserve_chances(e);
    uint32_t victims = 0, looked = 0, deserving = 0;

    while (looked < most && (chances == 0 || deserving < chances)) {
        if (!seize(e, pages[looked++], CLEAN, &e->victims[victims]))
            continue;
        deserving += deserves_chance(&e->victims[victims++]);
    }
    *freed_p = victims;
    if (victims == 0)
        return looked;
    give_chances(e, victims, chances);
    wr_rmap_drop(e->space, e->spans, spans_of(e, victims));
    for (uint32_t i = 0; i < victims; i++)
        settle(e, &e->victims[i]);
    wr_frames_put(&e->space->frames, victims);
    return looked;
}

static void count_dropped(struct wr_evict *e, uint32_t dropped)
{
    count(e, WR_COUNT_reclaim_marked, dropped);
    e->dropped_lately += dropped;
}

static uint32_t drop_pages(struct wr_evict *e, const uint32_t *pages, uint32_t candidates)
{
    uint32_t dropped = 0;

    for (uint32_t i = 0; i < candidates;) {
        uint32_t freed;

        i += drop_batch(e, pages + i, candidates - i, &freed);
        dropped += freed;
    }
    count_dropped(e, dropped);
    return dropped;
}

/* --- Staging what must be written ------------------------------------------------------------ */

/* Pages that are not written yet, because they may be wanted again. Nobody waits for that. */
uint64_t wr_evict_deferred(const struct wr_evict *e)
{
    if (wr_bug(WR_BUG_late_io))
        return wr_frames_total(&e->space->frames) / 4;
    return mode_now(e) == WR_AGING_RED ? 0 : e->defer;
}

uint64_t wr_evict_staged(const struct wr_evict *e)
{
    return wr_staging_waiting(&e->space->staging) + (e->extent ? e->extent->fill : 0);
}

/* An extent is queued when it is full, or it would be written in part. */
uint64_t wr_evict_missing(const struct wr_evict *e)
{
    uint64_t target = wr_evict_deferred(e) + WR_EVICT_LOT, staged = wr_evict_staged(e);

    if (staged < target)
        return target - staged;
    return wr_staging_waiting(&e->space->staging) < WR_EVICT_LOT ? WR_EVICT_LOT : 0;
}

static void revoked(struct wr_evict *e, struct wr_victim *victim, const struct wr_revoke *revoke)
{
    struct wr_hold *hold = &victim->hold;

    switch (revoke->result) {
    case WR_REVOKED:
        wr_hold_set(hold, WR_PAGE_AHEAD, false);
        wr_hold_set_frame(hold, revoke->frame);
        wr_page_move(hold, WR_PAGE_RESIDENT_DIRTY, WR_PAGE_CACHED_DIRTY);
        wr_staging_hold(&e->space->staging, e->extent, revoke->frame - e->extent->first_frame,
                        hold->number);
        break;
    case WR_REVOKE_MISSING: /* dropped by the program's own madvise: it reads as zero */
        wr_hold_set(hold, WR_PAGE_AHEAD, false);
        wr_page_move(hold, WR_PAGE_RESIDENT_DIRTY, WR_PAGE_EMPTY);
        wr_frames_put(&e->space->frames, 1);
        count(e, WR_COUNT_foreign_discards, 1);
        break;
    case WR_REVOKE_PINNED:
        count(e, WR_COUNT_pages_moved_busy, 1);
        /* fall through */
    case WR_REVOKE_FAILED: wr_hold_set(hold, WR_PAGE_MAIN, true); break; /* in use, surely */
    }
    wr_page_put(&e->space->pages, hold);
}

/* To free one page of an object or some that are near costs the same: a look at every view. */
static uint32_t group_apart(const struct wr_evict *e, uint32_t victims)
{
    return victims > 0 && (e->victims[0].addr & WR_OBJECT_ADDR) ? WR_RMAP_GROUP : WR_EVICT_APART;
}

/* Lock a group, from `pages` on: neighbours, or a few that are none. How many were looked at. */
static uint32_t seize_group(struct wr_evict *e, const uint32_t *pages, uint32_t candidates,
                            uint32_t room, uint32_t *victims_p)
{
    uint32_t most = room < WR_EVICT_TOGETHER ? room : WR_EVICT_TOGETHER;
    uint32_t victims = 0, looked = 0;

    while (looked < candidates && victims < most) {
        bool is_next = victims > 0 && pages[looked] == e->victims[victims - 1].hold.number + 1;

        if (victims >= group_apart(e, victims) && !is_next)
            break;
        victims += seize(e, pages[looked++], DIRTY, &e->victims[victims]);
    }
    *victims_p = victims;
    return looked;
}

static void note_staged(struct wr_evict *e, uint32_t staged)
{
    if (staged)
        e->staged_ns = e->space->host->ops->now_ns(e->space->host);
    count(e, WR_COUNT_cache_added, staged);
    count(e, WR_COUNT_cache_added_reclaim, staged);
    count(e, WR_COUNT_reclaim_marked, staged);
    e->revoked += staged;
    e->staged_lately += staged;
    wr_aging_unmapped(e->space->aging, staged);
}

/* An extent to fill, if there is one and its pages may wait. */
static struct wr_extent *open_extent(struct wr_evict *e)
{
    if (!e->extent && wr_evict_missing(e) > 0)
        e->extent = wr_staging_take(&e->space->staging);
    return e->extent;
}

/* Revoke dirty pages into the extent that is being filled. How many frames it has now more. */
static uint32_t stage_pages(struct wr_evict *e, const uint32_t *pages, uint32_t candidates)
{
    uint32_t looked = 0, staged = 0;

    e->tries_writing |= candidates > 0;
    while (looked < candidates && open_extent(e) && e->extent->fill < WR_EXTENT_FRAMES) {
        uint32_t victims, frame = e->extent->first_frame + e->extent->fill;

        looked += seize_group(e, pages + looked, candidates - looked,
                              WR_EXTENT_FRAMES - e->extent->fill, &victims);
        for (uint32_t i = 0; i < victims; i++)
            e->revokes[i] = (struct wr_revoke){e->victims[i].addr, frame + i, WR_REVOKE_FAILED};
        if (victims)
            wr_rmap_revoke(e->space, e->revokes, victims);
        e->extent->fill += victims;
        for (uint32_t i = 0; i < victims; i++) {
            staged += e->revokes[i].result == WR_REVOKED;
            revoked(e, &e->victims[i], &e->revokes[i]);
        }
    }
    while (looked < candidates)
        wr_aging_return(e->space->aging, pages[looked++]);
    note_staged(e, staged);
    return staged;
}

void wr_evict_close_extent(struct wr_evict *e)
{
    struct wr_extent *extent = e->extent;

    if (!extent)
        return;
    e->extent = NULL;
    wr_staging_queue(&e->space->staging, extent,
                     e->space->pager->ops->inspect(e->space->pager, extent));
}

uint32_t wr_evict_room(const struct wr_evict *e)
{
    return e->extent ? WR_EXTENT_FRAMES - e->extent->fill : WR_EXTENT_FRAMES;
}

/* --- Objects that show in many views ---------------------------------------------------------- */

static const struct weir_object *crowd_of(struct wr_space *space, uint32_t page)
{
    const struct wr_region *region = wr_space_region(space, page);

    return region && region->object &&
                   atomic_load_explicit(&region->object->view_count, memory_order_relaxed) >=
                       space->host->views_many
               ? region->object
               : NULL;
}

bool wr_evict_is_crowded(struct wr_space *space, uint32_t page)
{
    return crowd_of(space, page) != NULL;
}

/* Lock pages of one object: clean ones as far as there are chances, dirty ones as far as there is
 * room. How many were looked at. */
static uint32_t seize_crowd(struct wr_evict *e, const uint32_t *pages, uint32_t candidates,
                            uint32_t room, uint32_t *victims_p)
{
    const struct weir_object *object = crowd_of(e->space, pages[0]);
    uint32_t chances = reserve_chances(e);
    uint32_t victims = 0, looked = 0, dirty = 0, deserving = 0;

    while (looked < candidates && victims < WR_EVICT_TOGETHER &&
           (chances == 0 || deserving < chances) && crowd_of(e->space, pages[looked]) == object) {
        struct wr_victim *victim = &e->victims[victims];

        if (!seize(e, pages[looked++], dirty < room ? CLEAN | DIRTY : CLEAN, victim))
            continue;
        victims++;
        dirty += victim->is_dirty;
        deserving += deserves_chance(victim);
    }
    if (victims > 0)
        give_chances(e, victims, chances);
    *victims_p = victims;
    if (looked == 0) /* the object has just lost a view */
        wr_aging_return(e->space->aging, pages[looked++]);
    return looked;
}

/* Clean and dirty ones together: see evict.h. How many went either way. */
static uint32_t evict_group(struct wr_evict *e, uint32_t victims)
{
    uint32_t dropped = 0, staged = 0;

    for (uint32_t i = 0; i < victims; i++)
        e->revokes[i] = (struct wr_revoke){
            e->victims[i].addr,
            e->victims[i].is_dirty ? e->extent->first_frame + e->extent->fill++ : WR_FRAME_NONE,
            WR_REVOKE_FAILED};
    wr_rmap_revoke(e->space, e->revokes, victims);
    for (uint32_t i = 0; i < victims; i++) {
        if (e->victims[i].is_dirty) {
            staged += e->revokes[i].result == WR_REVOKED;
            revoked(e, &e->victims[i], &e->revokes[i]);
        } else {
            settle(e, &e->victims[i]);
            dropped++;
        }
    }
    wr_frames_put(&e->space->frames, dropped);
    count_dropped(e, dropped);
    note_staged(e, staged);
    e->tries_writing |= dropped < victims;
    return dropped + staged;
}

static uint32_t evict_crowd(struct wr_evict *e, const uint32_t *pages, uint32_t candidates)
{
    uint32_t evicted = 0;

    for (uint32_t i = 0; i < candidates;) {
        uint32_t victims, room;

        if (wr_evict_room(e) == 0)
            wr_evict_close_extent(e);
        room = open_extent(e) ? wr_evict_room(e) : 0;
        i += seize_crowd(e, pages + i, candidates - i, room, &victims);
        if (victims > 0)
            evicted += evict_group(e, victims);
    }
    return evicted;
}

/* What has deferring been worth? */
void wr_evict_learn(struct wr_evict *e)
{
    uint64_t found, frames = wr_frames_total(&e->space->frames);

    if (e->revoked < DEFER_LESSON && e->revoked < frames / 16)
        return;
    found = wr_stats_sum(e->space->stats, WR_COUNT_cache_found_marked);
    e->defer = wr_policy_defer(e->defer, found - e->found_seen, e->revoked, frames);
    e->found_seen = found;
    e->revoked = 0;
}

/* --- The whole ------------------------------------------------------------------------------- */

void wr_evict_init(struct wr_evict *e, struct wr_space *space, uint32_t drop_batch)
{
    *e = (struct wr_evict){
        .space = space,
        .drop_batch = drop_batch < WR_EVICT_TOGETHER ? drop_batch : WR_EVICT_TOGETHER,
        .chance_frame = WR_FRAME_NONE,
    };
}

uint32_t wr_evict_lot(struct wr_evict *e, const uint32_t *pages, uint32_t candidates,
                      bool clean_only)
{
    uint32_t clean = 0, dirty = 0, crowd = 0, evicted;

    WR_CHECK(candidates <= WR_EVICT_LOT);
    for (uint32_t i = 0; i < candidates; i++) {
        bool is_dirty;

        if (!wr_page_peek_evictable(&e->space->pages, pages[i], &is_dirty))
            wr_aging_return(e->space->aging, pages[i]);
        else if (wr_evict_is_crowded(e->space, pages[i]))
            e->crowd[crowd++] = pages[i];
        else if (!is_dirty)
            e->clean[clean++] = pages[i];
        else if (!clean_only)
            e->dirty[dirty++] = pages[i];
        else
            wr_aging_return(e->space->aging, pages[i]); /* it was clean when it was collected */
    }
    evicted = drop_pages(e, e->clean, clean) + stage_pages(e, e->dirty, dirty);
    evicted += evict_crowd(e, e->crowd, crowd);
    WR_PROBE2(evict, candidates, evicted);
    return evicted;
}
