/* SPDX-License-Identifier: MIT */

/*
 * Clean: take the live pages out of mostly dead clusters, so that whole clusters are free and
 * writes stay large and aligned (seeds B8, B10). What is taken out leaves again with whatever is
 * written next.
 *
 * What it costs: with a share u of a back end in use and slots dying at random, the cluster with
 * fewest live pages has a share v of them, where u = (v - 1) / ln v: v = 0.63 at 80 %, 0.72 at 85
 * %. Each page written then costs v / (1 - v) that are read and written again: 1.7 at 80 %, 2.6 at
 * 85 %, and over all bounds beyond. So it stops at 85 % (a setting), and leaves alone what is more
 * than three quarters live, as long as there is any free cluster. Without one, by the pigeonhole,
 * some cluster is at most 85 % live.
 *
 * Done by the thread that launders, between its rounds, without waiting: that one takes slots, so
 * that none is taken in a cluster that is being read.
 */

#include <stdlib.h>

#include "runtime/memory/gate.h"
#include "runtime/swap/carry.h"

#ifndef CLUSTERS_LEAST    /* the simulator's back ends are small */
#define CLUSTERS_LEAST 8u /* smaller back ends are not worth it */
#endif
#define LIVE_MOST      (C * 3 / 4)  /* of a victim                                */
#define LIVE_MOST_NONE (C * 7 / 8)  /* and when no cluster is free                */
#define BACKLOG_MOST   (2 * C)      /* pages staged: more are not brought to them */
#define STEP_LEAST     8u           /* pages in a row: fewer are not worth a read */
#define RESERVE_SHARE  8            /* of all free slots, in free clusters        */
#define STEP_SHARE     16           /* of all frames, for one read                */
#define WINDOW         16384u       /* clusters that are looked at for one victim */
#define FORGET_NS      100000000ull /* what could not be emptied is tried again   */
#define FRUITLESS_NS   10000000ull  /* no victim: not looked for again before     */
#define FAILURES_FEW   8u           /* in a row; more, and it looks ever more seldom  */
#define PAUSE_DOUBLES  12u          /* FRUITLESS_NS, up to 40 s                     */
#define C              WEIR_CLUSTER_SLOTS

struct wr_cleaner {
    struct wr_carrier *carrier;
    struct wr_swap_backend *backend; /* whose cluster is being cleaned; NULL: none is */
    uint32_t number, cluster, place;
    int32_t serial; /* of the back end, which may be gone when it is looked at again */
    struct {
        bool is_short;
        uint32_t hand, fruitless_most;
        uint64_t forgot_ns, fruitless_ns;
        uint32_t failures; /* clusters that were not emptied, in a row */
    } of[WR_BACKENDS_MAX];
};

static struct wr_space *space_of(const struct wr_swap_lane *lane)
{
    return lane->swap->space;
}

static uint64_t now_ns(const struct wr_swap_lane *lane)
{
    struct wr_host *host = space_of(lane)->host;

    return host->ops->now_ns(host);
}

static uint32_t least(uint64_t a, uint64_t b)
{
    return (uint32_t)(a < b ? a : b);
}

/* --- Whether --------------------------------------------------------------------------------- */

/* Few clusters are free: one for each write that may be in flight, and one. Then there are to be
 * twice as many; but never more than a part of what is free at all, because what is kept free makes
 * the rest fuller, and each cluster dearer. */
static bool is_short(const struct wr_swap_lane *lane, const struct wr_swap_backend *backend,
                     bool was_short)
{
    const struct wr_slots *slots = &backend->slots;
    uint64_t used = wr_slots_used(slots);
    uint64_t room = used < slots->count ? (slots->count - used) / C / RESERVE_SHARE : 0;
    uint32_t few = least(lane->swap->wish.writes_max + 1, room > 0 ? room : 1);
    uint32_t enough = least(2ull * few, room > 0 ? room : 1);
    uint32_t have = wr_slots_free_clusters(slots);

    if (slots->cluster_count < CLUSTERS_LEAST || !wr_swap_is_roomy(lane->swap, backend) ||
        atomic_load(&backend->draining) || atomic_load(&backend->sick_until_ns) != 0)
        return false;
    return have < (was_short ? enough : few);
}

/* --- Which ----------------------------------------------------------------------------------- */

static void forget_tries(struct wr_slots *slots)
{
    for (uint32_t i = 0; i < slots->cluster_count; i++)
        slots->marks[i] &= (uint8_t)~WR_CLUSTER_TRIED;
}

/* The last cluster may be a part of one: a write of a whole one never finds room there. */
static bool is_whole(const struct wr_slots *slots, uint32_t cluster)
{
    return wr_slots_end(slots, cluster) - cluster * C == C;
}

/* The cluster with fewest live pages, of those in the window. */
static bool find_victim(const struct wr_slots *slots, uint32_t from, uint32_t count, uint32_t most,
                        uint32_t *cluster_p)
{
    bool found = false;

    for (uint32_t i = 0; i < count; i++) {
        uint32_t cluster = (from + i) % slots->cluster_count;
        uint32_t live = wr_slots_live(slots, cluster);

        if (live == 0 || live > most || (slots->marks[cluster] & WR_CLUSTER_TRIED) ||
            !is_whole(slots, cluster))
            continue;
        most = live - 1;
        *cluster_p = cluster;
        found = true;
    }
    return found;
}

static bool choose_victim(struct wr_swap_lane *lane, struct wr_swap_backend *backend)
{
    struct wr_cleaner *cleaner = lane->cleaner;
    struct wr_slots *slots = &backend->slots;
    uint32_t window = least(slots->cluster_count, WINDOW);
    uint32_t i = backend->number, from = cleaner->of[i].hand;
    uint32_t most = wr_slots_free_clusters(slots) > 0 ? LIVE_MOST : LIVE_MOST_NONE;
    uint64_t now = now_ns(lane);

    if (now < cleaner->of[i].fruitless_ns && most <= cleaner->of[i].fruitless_most)
        return false;
    cleaner->of[i].hand = (from + window) % slots->cluster_count;
    if (cleaner->of[i].hand <= from && now >= cleaner->of[i].forgot_ns + FORGET_NS) {
        forget_tries(slots);
        cleaner->of[i].forgot_ns = now;
    }
    if (!find_victim(slots, from, window, most, &cleaner->cluster)) {
        cleaner->of[i].fruitless_ns = now + FRUITLESS_NS;
        cleaner->of[i].fruitless_most = most;
        return false;
    }
    slots->marks[cleaner->cluster] |= WR_CLUSTER_CLEANED;
    cleaner->backend = backend;
    cleaner->serial = backend->serial;
    cleaner->number = i;
    cleaner->place = cleaner->cluster * C;
    return true;
}

/* --- How ------------------------------------------------------------------------------------- */

/* Frames for the next read. None while threads wait for them: but when there is no free cluster, so
 * that every write goes into gaps, some of those that are kept for pages which come back. A cluster
 * that comes free brings more of them than that. */
static uint32_t take_frames(const struct wr_swap_lane *lane, const struct wr_slots *slots,
                            uint32_t live)
{
    struct wr_frames *frames = &space_of(lane)->frames;
    uint32_t most = least(live, wr_frames_total(frames) / STEP_SHARE);
    uint32_t taken = 0;

    /* A cluster that comes free takes more of those that wait to be written than it held. */
    if (wr_slots_free_clusters(slots) == 0)
        taken = wr_frames_take_reserve(frames, most);
    else if (wr_staging_waiting(&space_of(lane)->staging) < BACKLOG_MOST)
        taken = wr_frames_take_spare(frames, most);
    if (taken >= least(live, STEP_LEAST))
        return taken;
    wr_frames_put(frames, taken);
    return 0;
}

/* What of a cluster cannot be read stays there, and what could be is written somewhere else for
 * nothing. Where that is so of all clusters, it would go on for ever. */
static void note_failure(struct wr_swap_lane *lane, uint32_t backend)
{
    struct wr_cleaner *cleaner = lane->cleaner;
    uint32_t beyond = ++cleaner->of[backend].failures;

    if (beyond <= FAILURES_FEW)
        return;
    beyond -= FAILURES_FEW;
    cleaner->of[backend].fruitless_most = C;
    cleaner->of[backend].fruitless_ns = now_ns(lane) +
                                        (FRUITLESS_NS << least(beyond, PAUSE_DOUBLES));
}

static void finish(struct wr_swap_lane *lane, struct wr_swap_backend *backend)
{
    uint32_t cluster = lane->cleaner->cluster;

    lane->cleaner->backend = NULL;
    if (wr_slots_cleaned(&backend->slots, cluster)) {
        lane->cleaner->of[backend->number].failures = 0;
        wr_stats_count(space_of(lane)->stats, WR_COUNT_clusters_cleaned);
    } else {
        note_failure(lane, backend->number);
    }
}

/* Go on with the cluster that is being cleaned. */
static void go_on(struct wr_swap_lane *lane)
{
    struct wr_cleaner *cleaner = lane->cleaner;
    struct wr_carrier *carrier = cleaner->carrier;
    struct wr_swap_backend *backend = wr_swap_backend(lane->swap, cleaner->number);
    uint32_t end;

    if (!backend || backend->serial != cleaner->serial) { /* drained meanwhile, and gone */
        cleaner->backend = NULL;
        return;
    }
    end = wr_slots_end(&backend->slots, cleaner->cluster);
    if (atomic_load(&backend->draining))
        cleaner->place = end;
    while (cleaner->place < end && wr_carrier_is_free(carrier)) {
        uint32_t live = wr_slots_live(&backend->slots, cleaner->cluster);
        uint32_t frames = live ? take_frames(lane, &backend->slots, live) : 0, used;

        if (live == 0)
            cleaner->place = end;
        if (frames == 0 && live > 0 && carrier->flying == 0) {
            /* Short of memory: its free slots are not to be kept from those who write. */
            backend->slots.marks[cleaner->cluster] &= (uint8_t)~WR_CLUSTER_CLEANED;
            cleaner->backend = NULL;
            return;
        }
        if (frames == 0)
            break;
        used = wr_carry(carrier, backend, &cleaner->place, end, frames);
        wr_frames_put(&space_of(lane)->frames, frames - used);
        if (used == 0)
            break;
    }
    if (cleaner->place >= end && carrier->flying == 0)
        finish(lane, backend);
}

static bool open_cleaner(struct wr_swap_lane *lane)
{
    struct wr_cleaner *cleaner;

    if (lane->cleaner)
        return true;
    cleaner = calloc(1, sizeof(*cleaner));
    if (!cleaner)
        return false;
    cleaner->carrier = wr_carrier_new(lane, WR_COUNT_pages_cleaned, 0);
    if (!cleaner->carrier) {
        free(cleaner);
        return false;
    }
    lane->cleaner = cleaner;
    return true;
}

static void begin_next(struct wr_swap_lane *lane)
{
    for (uint32_t i = 0; i < WR_BACKENDS_MAX; i++) {
        struct wr_swap_backend *backend = wr_swap_backend(lane->swap, i);
        bool was_short = lane->cleaner && lane->cleaner->of[i].is_short;

        if (!backend || !is_short(lane, backend, was_short)) {
            if (was_short)
                lane->cleaner->of[i].is_short = false;
            continue;
        }
        if (!open_cleaner(lane))
            return;
        lane->cleaner->of[i].is_short = true;
        if (choose_victim(lane, backend)) {
            go_on(lane);
            return;
        }
    }
}

void wr_clean(struct wr_swap_lane *lane)
{
    struct wr_pass pass = wr_gate_enter();

    if (lane->cleaner && lane->cleaner->backend)
        go_on(lane);
    if (!lane->cleaner || !lane->cleaner->backend)
        begin_next(lane);
    /* What waits for more of its kind must not keep memory from those who wait for that. */
    if (lane->cleaner && (!lane->cleaner->backend || wr_frames_is_wanted(&space_of(lane)->frames)))
        wr_carrier_flush(lane->cleaner->carrier);
    wr_gate_leave(pass);
}

bool wr_clean_is_busy(const struct wr_swap_lane *lane, const struct wr_swap_backend *backend)
{
    return lane->cleaner && lane->cleaner->backend == backend && lane->cleaner->carrier->flying > 0;
}

void wr_clean_close(struct wr_swap_lane *lane)
{
    if (!lane->cleaner)
        return;
    wr_carrier_flush(lane->cleaner->carrier);
    free(lane->cleaner->carrier);
    free(lane->cleaner);
    lane->cleaner = NULL;
}
