/* SPDX-License-Identifier: MIT */
#include "runtime/paging/reclaim.h"

#include <stdlib.h>

#include "runtime/base/bug.h"
#include "runtime/memory/gate.h"
#include "runtime/paging/evict.h"
#include "runtime/paging/kept.h"

#define BATCH          WR_EVICT_LOT
#define COLD_ROOM      64u
#define STUCK_TRIES    20 /* fruitless rounds, a millisecond apart, before waiters are refused */
#define NS_MILLISECOND 1000000ull
#define GRACE_NS       (100 * NS_MILLISECOND) /* a cluster that does not fill up waits so long */
#define FADE           8u /* of what is remembered, one part is forgotten each time */
#define KPAGED_TRIES   2  /* milliseconds that kpaged has to fill empty lists, if nobody waits */

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
    struct wr_kpaged *kpaged; /* NULL: there is none */

    /* Kept by `cold_lock` (WR_RANK_SWEEP): a ring. */
    struct wr_lock cold_lock;
    struct range cold[COLD_ROOM];
    uint32_t cold_first, cold_count;

    /* Kept by kswapd. */
    struct wr_evict evict;
    uint32_t waits_seen; /* of the threads that waited for frames           */
    int patience;        /* tries left for kpaged in this activation        */
    int launder_error;   /* why nothing can be written, or WEIR_OK          */
    uint32_t pages[BATCH], victims[BATCH];
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

/* When what is staged should go even though it fills no cluster; never, when nothing is. */
static uint64_t grace_end(const struct wr_reclaim *r)
{
    return r->evict.extent || wr_staging_waiting(&r->space->staging) > 0
               ? r->evict.staged_ns + GRACE_NS
               : WR_FOREVER;
}

/* --- Writing ---------------------------------------------------------------------------------- */

/* Submit what is staged, all but so many, in whole clusters; or everything when it must be. */
static enum round write_staged(struct wr_reclaim *r, uint64_t but, bool everything)
{
    enum round result = ROUND_STUCK;

    r->launder_error = WEIR_OK;
    while (wr_staging_waiting(&r->space->staging) >= (everything ? 1 : BATCH) &&
           (everything || wr_evict_staged(&r->evict) >= but + BATCH)) {
        r->evict.tries_writing = true;
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
    r->evict.staged_ns = now;
    pass = wr_gate_enter();
    wr_evict_close_extent(&r->evict);
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

/* The next pages of the cold ranges, at most want; and no more than may be staged: nobody names
 * them a second time. */
static uint32_t collect_cold(struct wr_reclaim *r, uint32_t want)
{
    uint32_t found = 0, room;

    if (wr_evict_room(&r->evict) == 0)
        wr_evict_close_extent(&r->evict);
    room = wr_evict_missing(&r->evict) > 0 ? wr_evict_room(&r->evict) : 0;
    if (want > room)
        want = room;
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

/* A victim's neighbours that go along, in place of the victim: all that are not proven, and those
 * that are if it is. How many there are now, of at most WR_HEAT_PAGES. */
static uint32_t widen(const struct wr_reclaim *r, uint32_t *pages)
{
    const struct wr_pages *table = &r->space->pages;
    uint32_t victim = pages[0], first = victim / WR_HEAT_PAGES * WR_HEAT_PAGES, found = 0;
    bool is_main = wr_page_peek_flag(table, victim, WR_PAGE_MAIN), is_dirty;

    if (!wr_page_peek_evictable(table, victim, &is_dirty))
        wr_aging_return(r->space->aging, victim); /* locked just now, perhaps */
    for (uint32_t page = first; page < first + WR_HEAT_PAGES; page++)
        if (wr_page_peek_evictable(table, page, &is_dirty) &&
            (is_main || !wr_page_peek_flag(table, page, WR_PAGE_MAIN)))
            pages[found++] = page;
    return found;
}

/* Victims and what goes along with them, as far as there is room; the rest goes back, if it was
 * taken from anywhere. */
static uint32_t add_wide(struct wr_reclaim *r, enum wr_victims kind, uint32_t count, uint32_t found)
{
    bool is_taken = kind != WR_VICTIMS_LARGEST && kind != WR_VICTIMS_SWEEP;
    const uint32_t *victims = r->victims;

    for (uint32_t i = 0; i < count; i++) {
        if (found + WR_HEAT_PAGES > BATCH) {
            if (is_taken)
                wr_aging_return(r->space->aging, victims[i]);
            continue;
        }
        r->pages[found] = victims[i];
        found += wr_evict_is_crowded(r->space, victims[i]) ? widen(r, &r->pages[found]) : 1;
    }
    return found;
}

/* Where there are objects. Lists are taken a few at a time, for each may bring its neighbours, and
 * what is taken from them has lost its turn; to choose has a price for each call. */
static uint32_t collect_wide(struct wr_reclaim *r, enum wr_victims kind, uint32_t want)
{
    struct wr_aging *aging = r->space->aging;
    uint32_t found = 0, got;

    if (kind != WR_VICTIMS_CLEAN && kind != WR_VICTIMS_LISTED)
        return add_wide(r, kind, wr_aging_collect(aging, kind, want, r->victims), 0);
    do {
        uint32_t part = (BATCH - found) / WR_HEAT_PAGES;

        got = wr_aging_collect(aging, kind, part < want - found ? part : want - found, r->victims);
        found = add_wide(r, kind, got, found);
    } while (got > 0 && found < want && found + WR_HEAT_PAGES <= BATCH);
    return found;
}

static uint32_t without_doubles(uint32_t *sorted, uint32_t count)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < count; i++)
        if (n == 0 || sorted[i] != sorted[n - 1])
            sorted[n++] = sorted[i];
    return n;
}

/* Victims of the lists, or, when kpaged did not cope, of the largest region. */
static uint32_t collect(struct wr_reclaim *r, enum wr_victims kind, uint32_t want)
{
    struct wr_aging *aging = r->space->aging;
    uint32_t found;

    if (want > BATCH)
        want = BATCH;
    if (atomic_load_explicit(&r->space->objects_bytes, memory_order_relaxed) > 0)
        found = collect_wide(r, kind, want);
    else
        found = wr_aging_collect(aging, kind, want, r->pages);
    sort_pages(r->pages, found);
    found = without_doubles(r->pages, found);
    if (r->kpaged &&
        wr_aging_listed(aging) < atomic_load_explicit(&aging->target, memory_order_relaxed) / 2 + 1)
        wr_kpaged_rouse(r->kpaged);
    return found;
}

/* Whose choice were they? (Seed C16: "the LRU pages computed by kpaged".) */
static uint32_t count_victims(const struct wr_reclaim *r, enum wr_victims kind, uint32_t victims)
{
    bool is_listed = kind == WR_VICTIMS_CLEAN || kind == WR_VICTIMS_LISTED;

    count(r, is_listed ? WR_COUNT_victims_listed : WR_COUNT_victims_chosen, victims);
    return victims;
}

static uint32_t drop_clean(struct wr_reclaim *r, enum wr_victims kind, uint32_t want)
{
    uint32_t found = collect(r, kind, want);

    return count_victims(r, kind, wr_evict_lot(&r->evict, r->pages, found, true));
}

/* Drop or stage victims of the lists; what is staged fills the open extent. */
static uint32_t evict_listed(struct wr_reclaim *r, enum wr_victims kind, uint64_t most)
{
    uint32_t room = wr_evict_room(&r->evict);
    uint32_t found = collect(r, kind, most < room ? (uint32_t)most : room);
    uint32_t evicted = count_victims(r, kind, wr_evict_lot(&r->evict, r->pages, found, false));

    if (wr_evict_room(&r->evict) == 0)
        wr_evict_close_extent(&r->evict);
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

/* Fill the queue of what is to be written, by so many. */
static uint32_t stage_dirty(struct wr_reclaim *r, uint64_t most)
{
    uint32_t evicted = 0;

    if (wr_bug(WR_BUG_no_clean_first))
        evicted = evict_listed(r, WR_VICTIMS_SWEEP, most); /* of the dirty: see is_evictable() */
    if (evicted == 0)
        evicted = evict_listed(r, WR_VICTIMS_LISTED, most);
    if (evicted > 0)
        return evicted;
    count(r, WR_COUNT_reclaim_overload, 1);
    evicted = evict_listed(r, WR_VICTIMS_CHOSEN, most);
    return evicted > 0 ? evicted : evict_listed(r, WR_VICTIMS_LARGEST, most);
}

/* Pages of regions that nobody has mapped; those that must be written, as far as others are not
 * waiting for that already. */
static uint32_t evict_kept(struct wr_reclaim *r)
{
    uint64_t missing;

    if (!wr_kept_to_take(r->space))
        return 0;
    if (wr_evict_missing(&r->evict) == 0)
        (void)write_staged(r, wr_evict_deferred(&r->evict), false);
    missing = wr_evict_missing(&r->evict);
    return missing > 0 ? evict_listed(r, WR_VICTIMS_KEPT, missing) : 0;
}

/* Pages that the program has called cold. */
static uint32_t evict_cold(struct wr_reclaim *r, uint32_t want)
{
    uint32_t found = collect_cold(r, want);
    uint32_t evicted = found ? wr_evict_lot(&r->evict, r->pages, found, false) : 0;

    count(r, WR_COUNT_victims_cold, evicted);
    return evicted;
}

static enum round try_round(struct wr_reclaim *r, uint32_t want)
{
    uint32_t freed = evict_kept(r) + evict_cold(r, want);
    enum round written;
    uint64_t missing;

    if (freed < want && !wr_bug(WR_BUG_no_clean_first))
        freed += drop_clean(r, WR_VICTIMS_CLEAN, want - freed);
    if (freed >= want && wr_evict_missing(&r->evict) > 0)
        return ROUND_PROGRESS;
    if (freed == 0 && await_kpaged(r))
        return ROUND_WAIT;

    wr_evict_learn(&r->evict);
    missing = wr_evict_missing(&r->evict);
    if (missing > 0)
        freed += stage_dirty(r, missing);
    written = write_staged(r, wr_evict_deferred(&r->evict), false);
    if (freed > 0 || written == ROUND_PROGRESS ||
        (written == ROUND_WAIT && mode_now(r) != WR_AGING_RED))
        return written == ROUND_STUCK ? ROUND_PROGRESS : written;

    /* Nothing went by the ordinary way, or all writes are on their way and somebody waits: write
     * even a partial cluster, look for clean pages in all of memory. */
    if (written == ROUND_STUCK) {
        wr_evict_close_extent(&r->evict);
        written = write_staged(r, 0, true);
    }
    return drop_clean(r, WR_VICTIMS_SWEEP, want) > 0 ? ROUND_PROGRESS : written;
}

/* Inside the gate. A round in which everything cost nothing has not tried to write (seed C15). */
static enum round one_round(struct wr_reclaim *r, uint32_t want)
{
    enum round result;

    r->evict.tries_writing = false;
    result = try_round(r, want);
    count(r, WR_COUNT_reclaim_free_tries, 1);
    count(r, WR_COUNT_reclaim_write_tries, r->evict.tries_writing);
    return result;
}

/* Frames missing to high and what it is boosted by. */
static int64_t shortage(const struct wr_reclaim *r)
{
    const struct wr_frames *frames = &r->space->frames;

    return wr_frames_goal(frames) - wr_frames_free(frames) -
           (int64_t)r->space->pager->ops->coming(r->lane);
}

/* Once for every time that kswapd was woken. */
static void adapt_boost(struct wr_reclaim *r)
{
    struct wr_frames *frames = &r->space->frames;
    uint32_t waits = atomic_load_explicit(&frames->waits, memory_order_relaxed);
    int64_t most = wr_frames_boost_most(mark_of(&frames->total), r->evict.staged_lately,
                                        r->evict.dropped_lately);

    atomic_store_explicit(
        &frames->boost, wr_frames_next_boost(mark_of(&frames->boost), waits != r->waits_seen, most),
        memory_order_relaxed);
    r->waits_seen = waits;
    r->evict.staged_lately -= r->evict.staged_lately / FADE;
    r->evict.dropped_lately -= r->evict.dropped_lately / FADE;
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
        if (want < r->evict.drop_batch)
            want = r->evict.drop_batch;
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
    wr_evict_init(&r->evict, space, drop_batch);
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
