/* SPDX-License-Identifier: MIT */
#include "runtime/paging/reclaim.h"

#include <stdlib.h>

#include "runtime/base/bug.h"
#include "runtime/memory/gate.h"
#include "runtime/memory/object.h"
#include "runtime/paging/kept.h"

#define BATCH          WR_EXTENT_FRAMES
#define GROUP_APART    8u   /* dirty pages that are locked together when they are no neighbours  */
#define GROUP_TOGETHER 128u /* and when they are: one system call takes them */
#define COLD_ROOM      64u
#define STUCK_TRIES    20 /* fruitless rounds, a millisecond apart, before waiters are refused */
#define NS_MILLISECOND 1000000ull
#define GRACE_NS       (100 * NS_MILLISECOND) /* a cluster that does not fill up waits so long */
#define DEFER_LESSON   4096u /* pages revoked between two looks at what deferring them was worth */
#define KPAGED_TRIES   2     /* milliseconds that kpaged has to fill empty lists, if nobody waits */

struct victim {
    struct wr_hold hold;
    uint64_t addr;
    uint32_t frame; /* that keeps its bytes, or WR_FRAME_NONE */
    bool is_kept;   /* of a region that nobody has mapped     */
};

struct range {
    uint32_t page, count;
};

struct wr_reclaim {
    struct wr_space *space;
    struct wr_lane *lane;
    struct wr_bell bell;
    void *thread;
    _Atomic(bool) stop;
    _Atomic(bool) pressed;
    uint32_t drop_batch;
    struct wr_kpaged *kpaged; /* NULL: there is none */

    /* Kept by `cold_lock` (WR_RANK_SWEEP): a ring. */
    struct wr_lock cold_lock;
    struct range cold[COLD_ROOM];
    uint32_t cold_first, cold_count;

    /* Kept by kswapd. */
    struct wr_extent *extent; /* being filled, or NULL                             */
    uint32_t waits_seen;      /* of the threads that waited for frames             */
    uint64_t staged_ns;       /* when a page was staged last                       */
    uint64_t defer;           /* staged pages that are held back from writing      */
    uint64_t revoked;         /* dirty pages staged since the last lesson          */
    uint64_t found_seen;      /* of the counter of those that were wanted again    */
    int patience;             /* tries left for kpaged in this activation          */
    uint32_t chance_frame;    /* first of the chunk that takes victims; or none    */
    uint32_t chance_used;     /* frames of it that are taken                       */
    int launder_error;        /* why nothing can be written, or WEIR_OK            */
    uint32_t pages[BATCH];
    uint32_t dirty[BATCH];
    struct victim victims[GROUP_TOGETHER];
    struct wr_revoke revokes[GROUP_TOGETHER];
    struct wr_span spans[GROUP_TOGETHER];
    struct wr_copy copies[GROUP_TOGETHER];
};

enum round {
    ROUND_PROGRESS, /* frames were freed or a write begun                           */
    ROUND_WAIT,     /* nothing can be written at this moment, but soon                */
    ROUND_STUCK     /* nothing can be dropped, nothing can be written               */
};

static void count(const struct wr_reclaim *r, enum wr_counter counter, uint64_t amount)
{
    if (amount)
        wr_stats_add(r->space->stats, counter, amount);
}

static int64_t mark_of(const _Atomic(int64_t) *mark)
{
    return atomic_load_explicit(mark, memory_order_relaxed);
}

static enum wr_aging_mode mode_now(const struct wr_reclaim *r)
{
    return wr_aging_mode_now(&r->space->frames);
}

/* --- Dropping what costs nothing ------------------------------------------------------------- */

/* Lock a victim if it is one still. */
static bool seize(struct wr_reclaim *r, uint32_t page, bool dirty, struct victim *victim)
{
    struct wr_region *region = wr_space_region(r->space, page);
    enum wr_page_state state;
    bool is_freed, is_victim;

    if (!region)
        return false;
    if (!wr_page_take_try(&r->space->pages, page, &victim->hold)) {
        wr_aging_return(r->space->aging, page);
        return false;
    }
    state = wr_hold_state(&victim->hold);
    is_freed = wr_hold_has(&victim->hold, WR_PAGE_FREED);
    if (dirty)
        is_victim = state == WR_PAGE_RESIDENT_DIRTY && !is_freed;
    else
        is_victim = state == WR_PAGE_RESIDENT_CLEAN ||
                    (state == WR_PAGE_RESIDENT_DIRTY && is_freed);
    if (!is_victim || wr_hold_pins(&victim->hold) > 0) {
        wr_page_put(&r->space->pages, &victim->hold);
        wr_aging_return(r->space->aging, page);
        return false;
    }
    victim->addr = wr_region_addr(region, page);
    victim->frame = WR_FRAME_NONE;
    victim->is_kept = atomic_load(&region->keep) != WR_KEEP_NOT;
    return true;
}

/* A frame of the cache for a victim; the chunk that fills up becomes the youngest of the queue. */
static uint32_t chance_take(struct wr_reclaim *r)
{
    struct wr_cache *cache = &r->space->cache;

    if (r->chance_frame != WR_FRAME_NONE && r->chance_used == WR_CACHE_CHUNK) {
        wr_cache_put(cache, r->chance_frame, true);
        r->chance_frame = WR_FRAME_NONE;
    }
    if (r->chance_frame == WR_FRAME_NONE) {
        r->chance_frame = wr_cache_take(cache, WR_CACHE_CHANCE);
        r->chance_used = 0;
    }
    return r->chance_frame == WR_FRAME_NONE ? WR_FRAME_NONE : r->chance_frame + r->chance_used++;
}

/* A stream's pages do not: it has gone by. */
static bool deserves_chance(const struct victim *victim)
{
    return !victim->is_kept && !wr_hold_has(&victim->hold, WR_PAGE_AHEAD) &&
           !wr_hold_has(&victim->hold, WR_PAGE_FREED);
}

/* Copy the bytes of those victims that deserve it into the cache. Chunks are taken before any
 * victim is locked, by reserve_chances(). */
static void give_chances(struct wr_reclaim *r, uint32_t victims, uint32_t chances)
{
    uint32_t wanted = 0, copied;

    for (uint32_t i = 0; i < victims && wanted < chances; i++) {
        if (deserves_chance(&r->victims[i]))
            r->copies[wanted++] = (struct wr_copy){r->victims[i].addr, i};
    }
    for (uint32_t i = 0; i < wanted; i++) {
        struct victim *victim = &r->victims[r->copies[i].frame];

        victim->frame = r->chance_frame + r->chance_used + i;
        r->copies[i].frame = victim->frame;
    }
    copied = wanted ? wr_rmap_copy(r->space, r->copies, wanted) : 0;
    r->chance_used += copied;
    for (uint32_t i = 0, seen = 0; i < victims && seen < wanted; i++)
        if (r->victims[i].frame != WR_FRAME_NONE && seen++ >= copied)
            r->victims[i].frame = WR_FRAME_NONE;
}

static uint32_t spans_of(struct wr_reclaim *r, uint32_t victims)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < victims; i++) {
        struct wr_span *last = n ? &r->spans[n - 1] : NULL;

        if (last && r->victims[i].addr == last->addr + (uint64_t)last->pages * WEIR_PAGE_BYTES)
            last->pages++;
        else
            r->spans[n++] = (struct wr_span){r->victims[i].addr, 1};
    }
    return n;
}

/* The page is unmapped: say where it is now. */
static void settle(struct wr_reclaim *r, struct victim *victim)
{
    struct wr_hold *hold = &victim->hold;
    enum wr_page_state state = wr_hold_state(hold);

    if (wr_hold_has(hold, WR_PAGE_FREED)) {
        wr_hold_set(hold, WR_PAGE_AHEAD, false);
        wr_hold_set(hold, WR_PAGE_FREED, false);
        wr_page_move(hold, state, WR_PAGE_EMPTY);
        if (state == WR_PAGE_RESIDENT_CLEAN)
            r->space->pager->ops->forget(r->space->pager, wr_hold_slot(hold));
        wr_hold_set_slot(hold, WR_SLOT_NONE);
        count(r, WR_COUNT_pages_elided_free, 1);
    } else if (victim->frame != WR_FRAME_NONE) {
        wr_hold_set(hold, WR_PAGE_AHEAD, false);
        wr_cache_own(&r->space->cache, victim->frame, hold->number);
        wr_hold_set_frame(hold, victim->frame);
        wr_page_move(hold, WR_PAGE_RESIDENT_CLEAN, WR_PAGE_CACHED_CLEAN);
        count(r, WR_COUNT_cache_added, 1);
        count(r, WR_COUNT_cache_added_reclaim, 1);
    } else {
        wr_page_evict(&r->space->pages, hold, WR_PAGE_RESIDENT_CLEAN);
        count(r, WR_COUNT_pages_dropped_clean, 1);
    }
    wr_page_put(&r->space->pages, hold);
}

/* Frames of the cache that victims may have now: of one chunk, so that taking the next never
 * happens with victims locked (it waits for locks). */
static uint32_t reserve_chances(struct wr_reclaim *r)
{
    uint32_t frame;

    if (mode_now(r) == WR_AGING_RED)
        return 0; /* somebody waits: no second chance */
    frame = chance_take(r);
    if (frame == WR_FRAME_NONE)
        return 0;
    r->chance_used--;
    return WR_CACHE_CHUNK - r->chance_used;
}

/* At most drop_batch candidates, and no more of those that deserve a chance than there are. How
 * many were looked at; how many frames came free. */
static uint32_t drop_batch(struct wr_reclaim *r, const uint32_t *pages, uint32_t candidates,
                           uint32_t *freed_p)
{
    uint32_t most = candidates < r->drop_batch ? candidates : r->drop_batch;
    uint32_t chances = reserve_chances(r);
    uint32_t victims = 0, looked = 0, deserving = 0;

    while (looked < most && (chances == 0 || deserving < chances)) {
        if (!seize(r, pages[looked++], false, &r->victims[victims]))
            continue;
        deserving += deserves_chance(&r->victims[victims++]);
    }
    *freed_p = victims;
    if (victims == 0)
        return looked;
    give_chances(r, victims, chances);
    wr_rmap_drop(r->space, r->spans, spans_of(r, victims));
    for (uint32_t i = 0; i < victims; i++)
        settle(r, &r->victims[i]);
    wr_frames_put(&r->space->frames, victims);
    return looked;
}

static uint32_t drop_pages(struct wr_reclaim *r, const uint32_t *pages, uint32_t candidates)
{
    uint32_t dropped = 0;

    for (uint32_t i = 0; i < candidates;) {
        uint32_t freed;

        i += drop_batch(r, pages + i, candidates - i, &freed);
        dropped += freed;
    }
    count(r, WR_COUNT_reclaim_marked, dropped);
    return dropped;
}

/* --- Staging what must be written ------------------------------------------------------------ */

static void revoked(struct wr_reclaim *r, struct victim *victim, const struct wr_revoke *revoke)
{
    struct wr_hold *hold = &victim->hold;

    switch (revoke->result) {
    case WR_REVOKED:
        wr_hold_set(hold, WR_PAGE_AHEAD, false);
        wr_hold_set_frame(hold, revoke->frame);
        wr_page_move(hold, WR_PAGE_RESIDENT_DIRTY, WR_PAGE_CACHED_DIRTY);
        wr_staging_hold(&r->space->staging, r->extent, revoke->frame - r->extent->first_frame,
                        hold->number);
        count(r, WR_COUNT_cache_added, 1);
        count(r, WR_COUNT_cache_added_reclaim, 1);
        count(r, WR_COUNT_reclaim_marked, 1);
        break;
    case WR_REVOKE_MISSING: /* dropped by the program's own madvise: it reads as zero */
        wr_hold_set(hold, WR_PAGE_AHEAD, false);
        wr_page_move(hold, WR_PAGE_RESIDENT_DIRTY, WR_PAGE_EMPTY);
        wr_frames_put(&r->space->frames, 1);
        count(r, WR_COUNT_foreign_discards, 1);
        break;
    case WR_REVOKE_PINNED:
        count(r, WR_COUNT_pages_moved_busy, 1);
        /* fall through */
    case WR_REVOKE_FAILED: wr_hold_set(hold, WR_PAGE_MAIN, true); break; /* in use, surely */
    }
    wr_page_put(&r->space->pages, hold);
}

/* To free one page of an object or some that are near costs the same: a look at every view. */
static uint32_t group_apart(const struct wr_reclaim *r, uint32_t victims)
{
    return victims > 0 && (r->victims[0].addr & WR_OBJECT_ADDR) ? WR_RMAP_GROUP : GROUP_APART;
}

/* Lock a group, from `pages` on: neighbours, or a few that are none. How many were looked at. */
static uint32_t seize_group(struct wr_reclaim *r, const uint32_t *pages, uint32_t candidates,
                            uint32_t room, uint32_t *victims_p)
{
    uint32_t most = room < GROUP_TOGETHER ? room : GROUP_TOGETHER;
    uint32_t victims = 0, looked = 0;

    while (looked < candidates && victims < most) {
        bool is_next = victims > 0 && pages[looked] == r->victims[victims - 1].hold.number + 1;

        if (victims >= group_apart(r, victims) && !is_next)
            break;
        victims += seize(r, pages[looked++], true, &r->victims[victims]);
    }
    *victims_p = victims;
    return looked;
}

/* Revoke dirty pages into the extent that is being filled. How many frames it has now more. */
static uint32_t stage_pages(struct wr_reclaim *r, const uint32_t *pages, uint32_t candidates)
{
    uint32_t looked = 0, staged = 0;

    if (!r->extent)
        r->extent = wr_staging_take(&r->space->staging);
    while (r->extent && looked < candidates && r->extent->fill < WR_EXTENT_FRAMES) {
        uint32_t victims, frame = r->extent->first_frame + r->extent->fill;

        looked += seize_group(r, pages + looked, candidates - looked,
                              WR_EXTENT_FRAMES - r->extent->fill, &victims);
        for (uint32_t i = 0; i < victims; i++)
            r->revokes[i] = (struct wr_revoke){r->victims[i].addr, frame + i, WR_REVOKE_FAILED};
        if (victims)
            wr_rmap_revoke(r->space, r->revokes, victims);
        r->extent->fill += victims;
        for (uint32_t i = 0; i < victims; i++) {
            staged += r->revokes[i].result == WR_REVOKED;
            revoked(r, &r->victims[i], &r->revokes[i]);
        }
    }
    if (staged)
        r->staged_ns = r->space->host->ops->now_ns(r->space->host);
    r->revoked += staged;
    return staged;
}

static void close_extent(struct wr_reclaim *r)
{
    struct wr_extent *extent = r->extent;

    if (!extent)
        return;
    r->extent = NULL;
    wr_staging_queue(&r->space->staging, extent,
                     r->space->pager->ops->inspect(r->space->pager, extent));
}

static uint32_t waiting_to_be_written(const struct wr_reclaim *r)
{
    return atomic_load_explicit(&r->space->staging.live_count, memory_order_relaxed);
}

/* When what is staged should go even though it fills no cluster; never, when nothing is. */
static uint64_t grace_end(const struct wr_reclaim *r)
{
    return r->extent || waiting_to_be_written(r) > 0 ? r->staged_ns + GRACE_NS : WR_FOREVER;
}

/* Pages that are not written yet, because they may be wanted again. Nobody waits for that. */
static uint64_t deferred_now(const struct wr_reclaim *r)
{
    if (wr_bug(WR_BUG_late_io))
        return (uint64_t)mark_of(&r->space->frames.total) / 4;
    return mode_now(r) == WR_AGING_RED ? 0 : r->defer;
}

/* Submit what is staged, all but so many, in whole clusters; or everything when it must be. False:
 * nothing more can be begun now. */
static enum round write_staged(struct wr_reclaim *r, uint64_t but, bool everything)
{
    enum round result = ROUND_STUCK;

    r->launder_error = WEIR_OK;
    while (waiting_to_be_written(r) >= (everything ? 1 : but + BATCH)) {
        switch (r->space->pager->ops->launder(r->lane)) {
        case WR_LAUNDERED:
        case WR_LAUNDER_NOTHING: result = ROUND_PROGRESS; break;
        case WR_LAUNDER_BUSY: return result == ROUND_STUCK ? ROUND_WAIT : result;
        case WR_LAUNDER_FULL: r->launder_error = WEIR_EFULL; return result;
        case WR_LAUNDER_BROKEN: r->launder_error = WEIR_EIO; return result;
        }
    }
    return result;
}

/* The rest of a storm: too few pages for a cluster, and no more have come. */
static void write_leftovers(struct wr_reclaim *r)
{
    uint64_t now = r->space->host->ops->now_ns(r->space->host);
    struct wr_pass pass;

    if (grace_end(r) > now)
        return;
    r->staged_ns = now;
    pass = wr_gate_enter();
    close_extent(r);
    (void)write_staged(r, 0, true); /* what cannot be written now waits for another grace */
    wr_gate_leave(pass);
}

/* --- One round ------------------------------------------------------------------------------- */

/* Victims of one lot leave by address: neighbours by one system call and into neighbouring slots.
 * Shell's sort, with Ciura's gaps: it needs no memory, and a lot is small. */
static void sort_pages(uint32_t *pages, uint32_t count)
{
    static const uint32_t gaps[] = {301, 132, 57, 23, 10, 4, 1};

    for (uint32_t g = 0; g < sizeof(gaps) / sizeof(gaps[0]); g++)
        for (uint32_t i = gaps[g]; i < count; i++) {
            uint32_t page = pages[i], at = i;

            for (; at >= gaps[g] && pages[at - gaps[g]] > page; at -= gaps[g])
                pages[at] = pages[at - gaps[g]];
            pages[at] = page;
        }
}

/* Drop the clean ones and stage the dirty ones of a mixed lot. How many went either way. */
static uint32_t evict_mixed(struct wr_reclaim *r, uint32_t candidates)
{
    uint32_t clean = 0, dirty = 0, evicted;

    for (uint32_t i = 0; i < candidates; i++) {
        bool is_dirty;

        if (!wr_page_peek_evictable(&r->space->pages, r->pages[i], &is_dirty))
            continue;
        if (is_dirty)
            r->dirty[dirty++] = r->pages[i];
        else
            r->pages[clean++] = r->pages[i];
    }
    evicted = drop_pages(r, r->pages, clean);
    return evicted + stage_pages(r, r->dirty, dirty);
}

/* The next pages of the cold ranges, at most want. */
static uint32_t collect_cold(struct wr_reclaim *r, uint32_t want)
{
    uint32_t found = 0;

    wr_lock_take(&r->cold_lock);
    while (found < want && r->cold_count > 0) {
        struct range *first = &r->cold[r->cold_first];

        r->pages[found++] = first->page++;
        if (--first->count == 0) {
            r->cold_first = (r->cold_first + 1) % COLD_ROOM;
            r->cold_count--;
        }
    }
    wr_lock_drop(&r->cold_lock);
    return found;
}

void wr_reclaim_cold(struct wr_reclaim *r, uint32_t page, uint32_t pages)
{
    wr_lock_take(&r->cold_lock);
    if (r->cold_count == COLD_ROOM) {
        r->cold_first = (r->cold_first + 1) % COLD_ROOM;
        r->cold_count--;
    }
    r->cold[(r->cold_first + r->cold_count++) % COLD_ROOM] = (struct range){page, pages};
    wr_lock_drop(&r->cold_lock);
}

/* Victims of the lists, or, when kpaged did not cope, of the largest region. */
static uint32_t collect(struct wr_reclaim *r, enum wr_victims kind, uint32_t want)
{
    struct wr_aging *aging = r->space->aging;
    uint32_t found = wr_aging_collect(aging, kind, want < BATCH ? want : BATCH, r->pages);

    sort_pages(r->pages, found);
    if (r->kpaged &&
        wr_aging_listed(aging) < atomic_load_explicit(&aging->target, memory_order_relaxed) / 2 + 1)
        wr_kpaged_rouse(r->kpaged);
    return found;
}

static uint32_t drop_clean(struct wr_reclaim *r, enum wr_victims kind, uint32_t want)
{
    return drop_pages(r, r->pages, collect(r, kind, want));
}

/* Drop or stage victims of the lists; what is staged fills the open extent. */
static uint32_t evict_listed(struct wr_reclaim *r, enum wr_victims kind)
{
    uint32_t fill = r->extent ? r->extent->fill : 0;
    uint32_t evicted = evict_mixed(r, collect(r, kind, BATCH - fill));

    if (r->extent && r->extent->fill == WR_EXTENT_FRAMES)
        close_extent(r);
    return evicted;
}

/* Is kpaged given a moment more? Not when somebody waits. */
static bool await_kpaged(struct wr_reclaim *r)
{
    if (!r->kpaged || mode_now(r) == WR_AGING_RED || wr_aging_listed(r->space->aging) > 0 ||
        r->patience == 0)
        return false;
    r->patience--;
    wr_kpaged_rouse(r->kpaged);
    return true;
}

/* Fill the queue of what is to be written. */
static uint32_t stage_dirty(struct wr_reclaim *r)
{
    uint32_t evicted = 0;

    if (wr_bug(WR_BUG_no_clean_first))
        evicted = evict_listed(r, WR_VICTIMS_SWEEP); /* of the dirty: see is_evictable() */
    if (evicted == 0)
        evicted = evict_listed(r, WR_VICTIMS_LISTED);
    if (evicted > 0)
        return evicted;
    count(r, WR_COUNT_reclaim_overload, 1);
    evicted = evict_listed(r, WR_VICTIMS_CHOSEN);
    return evicted > 0 ? evicted : evict_listed(r, WR_VICTIMS_LARGEST);
}

/* Pages of regions that nobody has mapped; those that must be written, as far as others are not
 * waiting for that already. */
static uint32_t evict_kept(struct wr_reclaim *r)
{
    uint64_t most = deferred_now(r) + BATCH;

    if (!wr_kept_to_take(r->space))
        return 0;
    if (waiting_to_be_written(r) >= most)
        (void)write_staged(r, deferred_now(r), false);
    return waiting_to_be_written(r) < most ? evict_listed(r, WR_VICTIMS_KEPT) : 0;
}

/* What has deferring been worth? */
static void learn_defer(struct wr_reclaim *r)
{
    uint64_t found, frames = (uint64_t)mark_of(&r->space->frames.total);

    if (r->revoked < DEFER_LESSON && r->revoked < frames / 16)
        return;
    found = wr_stats_sum(r->space->stats, WR_COUNT_cache_found_marked);
    r->defer = wr_policy_defer(r->defer, found - r->found_seen, r->revoked, frames);
    r->found_seen = found;
    r->revoked = 0;
}

/* Inside the gate. */
static enum round one_round(struct wr_reclaim *r, uint32_t want)
{
    uint32_t freed = evict_kept(r);
    uint32_t cold = collect_cold(r, want < BATCH ? want : BATCH);
    enum round written;

    freed += cold ? evict_mixed(r, cold) : 0;
    count(r, WR_COUNT_reclaim_free_tries, 1);
    if (freed < want && !wr_bug(WR_BUG_no_clean_first))
        freed += drop_clean(r, WR_VICTIMS_CLEAN, want - freed);
    if (freed >= want)
        return ROUND_PROGRESS;
    if (freed == 0 && await_kpaged(r))
        return ROUND_WAIT;

    count(r, WR_COUNT_reclaim_write_tries, 1);
    learn_defer(r);
    if (waiting_to_be_written(r) < deferred_now(r) + BATCH)
        freed += stage_dirty(r);
    written = write_staged(r, deferred_now(r), false);
    if (freed > 0 || written == ROUND_PROGRESS ||
        (written == ROUND_WAIT && mode_now(r) != WR_AGING_RED))
        return written == ROUND_STUCK ? ROUND_PROGRESS : written;

    /* Nothing went by the ordinary way, or all writes are on their way and somebody waits: write
     * even a partial cluster, look for clean pages in all of memory. */
    if (written == ROUND_STUCK) {
        close_extent(r);
        written = write_staged(r, 0, true);
    }
    return drop_clean(r, WR_VICTIMS_SWEEP, want) > 0 ? ROUND_PROGRESS : written;
}

/* Frames missing to high and what it is boosted by. */
static int64_t shortage(const struct wr_reclaim *r)
{
    const struct wr_frames *frames = &r->space->frames;

    return mark_of(&frames->high) + 2 * mark_of(&frames->boost) - wr_frames_free(frames) -
           (int64_t)r->space->pager->ops->coming(r->lane);
}

/* Once for every time that kswapd was woken. */
static void adapt_boost(struct wr_reclaim *r)
{
    struct wr_frames *frames = &r->space->frames;
    uint32_t waits = atomic_load_explicit(&frames->waits, memory_order_relaxed);

    atomic_store_explicit(&frames->boost,
                          wr_frames_next_boost(mark_of(&frames->boost), waits != r->waits_seen,
                                               mark_of(&frames->total)),
                          memory_order_relaxed);
    r->waits_seen = waits;
}

static void sleep_until(struct wr_reclaim *r, uint64_t deadline_ns)
{
    struct wr_host *host = r->space->host;
    int fds[WR_LANE_FDS];
    uint32_t fd_count = r->space->pager->ops->wait_fds(r->lane, fds);

    host->ops->bell_wait(host, &r->bell, fds, fd_count, deadline_ns);
}

static void rest(struct wr_reclaim *r)
{
    sleep_until(r, r->space->host->ops->now_ns(r->space->host) + NS_MILLISECOND);
}

/* Nothing can be freed: those who wait must know. Why is as good an answer as there is. */
static void give_up(struct wr_reclaim *r)
{
    wr_frames_refuse(&r->space->frames,
                     r->launder_error != WEIR_OK ? r->launder_error : WEIR_ENOMEM);
}

static void balance(struct wr_reclaim *r)
{
    int stuck = 0;

    while (!atomic_load(&r->stop) && stuck < STUCK_TRIES) {
        struct wr_pass pass;
        enum round round = ROUND_WAIT;
        int64_t want;

        r->space->pager->ops->reap(r->lane);
        write_leftovers(r);
        (void)r->space->pager->ops->tidy(r->lane, false);
        want = shortage(r);
        if (want <= 0)
            return;
        /* Not less than a batch: demand takes frames while we work, and to free them one by one
         * would cost a system call each. */
        if (want < r->drop_batch)
            want = r->drop_batch;
        pass = wr_gate_enter();
        r->launder_error = WEIR_OK;
        round = one_round(r, want < INT32_MAX ? (uint32_t)want : INT32_MAX);
        if (wr_kept_relieve(r->space, round == ROUND_STUCK || r->launder_error == WEIR_EFULL))
            round = ROUND_PROGRESS;
        wr_gate_leave(pass);
        if (round == ROUND_PROGRESS) {
            stuck = 0;
        } else if (r->space->pager->ops->coming(r->lane) > 0) {
            /* What needs no descriptor is finished by a look, and nobody would ring for it. */
            if (!r->space->pager->ops->reap(r->lane))
                sleep_until(r, WR_FOREVER);
        } else {
            stuck += round == ROUND_STUCK;
            rest(r);
        }
    }
    if (stuck == STUCK_TRIES)
        give_up(r);
}

static void kswapd_main(void *context)
{
    struct wr_reclaim *r = context;

    while (!atomic_load(&r->stop)) {
        bool is_pressed = atomic_exchange(&r->pressed, false);
        /* A write that failed frees nothing: who counted on it must not be forgotten. */
        bool is_changed = r->space->pager->ops->reap(r->lane);

        if ((is_pressed || is_changed || wr_frames_is_wanted(&r->space->frames)) &&
            shortage(r) > 0) {
            count(r, WR_COUNT_reclaim_wakeups, is_pressed);
            adapt_boost(r);
            r->patience = KPAGED_TRIES;
            balance(r);
        } else if (!is_changed && !atomic_load(&r->pressed) && !wr_kept_relieve_idle(r->space)) {
            uint64_t tidy_ns = r->space->pager->ops->tidy(r->lane, true);
            uint64_t grace_ns = grace_end(r);

            sleep_until(r, tidy_ns < grace_ns ? tidy_ns : grace_ns);
            write_leftovers(r);
        }
    }
    while (!r->space->pager->ops->is_idle(r->lane))
        if (!r->space->pager->ops->reap(r->lane))
            rest(r);
}

void wr_reclaim_press(void *context)
{
    struct wr_reclaim *r = context;

    /* Relaxed first look: it is pressed most of the time while memory is short, and the line
     * need not travel for that. */
    if (atomic_load_explicit(&r->pressed, memory_order_relaxed) ||
        atomic_exchange(&r->pressed, true))
        return;
    r->space->host->ops->bell_ring(r->space->host, &r->bell);
}

int wr_reclaim_open(struct wr_space *space, uint32_t drop_batch, struct wr_reclaim **reclaim_p)
{
    struct wr_reclaim *r = calloc(1, sizeof(*r));

    if (!r)
        return WEIR_ENOMEM;
    r->space = space;
    r->chance_frame = WR_FRAME_NONE;
    r->drop_batch = drop_batch < GROUP_TOGETHER ? drop_batch : GROUP_TOGETHER;
    if (space->host->ops->bell_init(space->host, &r->bell) != WEIR_OK) {
        free(r);
        return WEIR_ENOMEM;
    }
    wr_lock_init(&r->cold_lock, WR_RANK_SWEEP);
    *reclaim_p = r;
    return WEIR_OK;
}

int wr_reclaim_start(struct wr_reclaim *r, struct wr_kpaged *kpaged)
{
    struct wr_host *host = r->space->host;
    int error = r->space->pager->ops->lane_open(r->space->pager, &r->lane);

    if (error != WEIR_OK)
        return error;
    r->kpaged = kpaged;
    error = host->ops->thread_start(host, "weir-kswapd", kswapd_main, r, &r->thread);
    if (error != WEIR_OK) {
        r->space->pager->ops->lane_close(r->lane);
        r->lane = NULL;
    }
    return error;
}

void wr_reclaim_stop(struct wr_reclaim *r)
{
    struct wr_host *host;

    if (!r || !r->thread)
        return;
    host = r->space->host;
    atomic_store(&r->stop, true);
    host->ops->bell_ring(host, &r->bell);
    host->ops->thread_stop(host, r->thread);
    r->thread = NULL;
    r->space->pager->ops->lane_close(r->lane);
    r->lane = NULL;
}

void wr_reclaim_close(struct wr_reclaim *r)
{
    if (!r)
        return;
    wr_lock_fini(&r->cold_lock);
    r->space->host->ops->bell_fini(r->space->host, &r->bell);
    free(r);
}
