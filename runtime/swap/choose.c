/* SPDX-License-Identifier: MIT */

/*
 * Choose: which back end takes the next write, and where on it.
 *
 * The highest priority with room; of equal ones a whole cluster before scattered slots, then the
 * one that has least in flight, in turns. One that has as much in flight as it may (congested) or
 * that failed lately (sick) is passed over, so that each has a queue of its own (seed E26). A lower
 * priority must wait for one that is only congested, as long as no thread waits for memory.
 */

#include "runtime/swap/swap.h"

/* Sick for so many failures in a row: those who wait for memory are told. */
#define PATIENCE WR_SICK_PATIENCE

/* Below any priority: no cluster is free, and too much is in use for the cleaner to make one. What
 * is left there is in pieces, for when nobody else has room. */
#define LEAVINGS (-(1 << 24))
/* Below that: its memory is wanted back. */
#define LEAVING  (4 * LEAVINGS)

struct choice {
    struct wr_swap_backend *backend; /* NULL: none yet */
    int32_t priority;
    bool is_whole;
    uint32_t holding, turn;
};

static bool is_usable(const struct wr_swap_backend *backend)
{
    return backend && !atomic_load(&backend->draining);
}

/* Writes in flight hold memory that is of no use to anybody: no more than an eighth of it. */
static int64_t eighth(const struct wr_swap_lane *lane)
{
    return atomic_load_explicit(&lane->swap->space->frames.total, memory_order_relaxed) / 8;
}

bool wr_choose_may_write(const struct wr_swap_lane *lane)
{
    return lane->coming == 0 || lane->coming + WEIR_CLUSTER_SLOTS <= eighth(lane);
}

/* As many writes as allowed, or its share of that memory: what a slow one holds for long must not
 * be all of it. */
static bool is_congested(const struct wr_swap_lane *lane, uint32_t number, int64_t share)
{
    return lane->writing[number] >= lane->swap->wish.writes_max ||
           (lane->writing[number] > 0 && lane->holding[number] + WEIR_CLUSTER_SLOTS > share);
}

static bool is_better(const struct choice *a, const struct choice *b)
{
    if (!b->backend || a->priority != b->priority)
        return !b->backend || a->priority > b->priority;
    if (a->is_whole != b->is_whole)
        return a->is_whole;
    return a->holding != b->holding ? a->holding < b->holding : a->turn < b->turn;
}

bool wr_swap_is_roomy(const struct wr_swap *swap, const struct wr_swap_backend *backend)
{
    return wr_slots_used(&backend->slots) * 100 <= backend->slots.count * swap->wish.clean_percent;
}

static struct choice look_at(const struct wr_swap_lane *lane, struct wr_swap_backend *backend)
{
    struct choice choice = {
        .backend = backend,
        .priority = backend->priority,
        .is_whole = wr_slots_free_clusters(&backend->slots) > 0,
        .holding = lane->holding[backend->number],
        .turn = (backend->number - lane->turn - 1) % WR_BACKENDS_MAX,
    };

    if (!choice.is_whole && !wr_swap_is_roomy(lane->swap, backend))
        choice.priority += LEAVINGS;
    if (atomic_load(&backend->leaving))
        choice.priority += LEAVING;
    return choice;
}

/* Why nothing can be written, given that this back end is sick too. Hope counts most. */
static enum wr_laundered worse(enum wr_laundered why, const struct wr_swap_backend *backend)
{
    if (why == WR_LAUNDER_BUSY || atomic_load(&backend->failures) < PATIENCE)
        return WR_LAUNDER_BUSY;
    return atomic_load(&backend->last_error) == WEIR_EFULL ? why : WR_LAUNDER_BROKEN;
}

static bool is_sick(struct wr_swap_lane *lane, struct wr_swap_backend *backend)
{
    struct wr_host *host = lane->swap->space->host;

    return atomic_load(&backend->sick_until_ns) > host->ops->now_ns(host) ||
           !wr_lane_channel(lane, backend);
}

static int64_t share_of_each(const struct wr_swap_lane *lane)
{
    int64_t usable = 0;

    for (uint32_t i = 0; i < WR_BACKENDS_MAX; i++)
        usable += is_usable(wr_swap_backend(lane->swap, i));
    return usable ? eighth(lane) / usable : 0;
}

/* Where pages that are being moved are to go; NULL: that cannot be, or it cannot wait. */
static struct wr_swap_backend *wished(struct wr_swap_lane *lane, uint32_t target)
{
    struct wr_swap_backend *backend = target ? wr_swap_backend(lane->swap, target - 1) : NULL;

    if (!is_usable(backend) || atomic_load(&backend->leaving) || is_sick(lane, backend) ||
        wr_slots_used(&backend->slots) >= backend->slots.count ||
        wr_frames_is_wanted(&lane->swap->space->frames))
        return NULL;
    return backend;
}

static enum wr_laundered take(struct wr_swap_lane *lane, struct wr_swap_backend *backend,
                              struct wr_swap_backend **backend_p, struct wr_slot_run *run_p)
{
    /* Rather wait for one read than write to the gaps between what is being read. */
    if (wr_slots_free_clusters(&backend->slots) == 0 && wr_swap_is_roomy(lane->swap, backend)) {
        wr_clean(lane);
        if (wr_clean_is_busy(lane, backend) && !wr_frames_is_wanted(&lane->swap->space->frames))
            return WR_LAUNDER_BUSY;
    }
    if (!wr_slots_take(&backend->slots, run_p))
        return wr_clean_is_busy(lane, backend) ? WR_LAUNDER_BUSY : WR_LAUNDER_FULL;
    lane->turn = backend->number;
    *backend_p = backend;
    return WR_LAUNDERED;
}

enum wr_laundered wr_choose(struct wr_swap_lane *lane, uint32_t target,
                            struct wr_swap_backend **backend_p, struct wr_slot_run *run_p)
{
    struct wr_swap_backend *wish = wished(lane, target);
    enum wr_laundered why = WR_LAUNDER_FULL;
    struct choice best = {0}, busy = {0};
    int64_t share = share_of_each(lane);

    if (wish)
        return is_congested(lane, wish->number, share) ? WR_LAUNDER_BUSY
                                                       : take(lane, wish, backend_p, run_p);
    for (uint32_t i = 0; i < WR_BACKENDS_MAX; i++) {
        struct wr_swap_backend *backend = wr_swap_backend(lane->swap, i);
        struct choice choice;

        if (!is_usable(backend))
            continue;
        if (is_sick(lane, backend)) {
            why = worse(why, backend);
            continue;
        }
        if (wr_slots_used(&backend->slots) >= backend->slots.count)
            continue;
        choice = look_at(lane, backend);
        if (is_congested(lane, i, share)) {
            if (is_better(&choice, &busy))
                busy = choice;
        } else if (is_better(&choice, &best)) {
            best = choice;
        }
    }
    if (!best.backend)
        return busy.backend ? WR_LAUNDER_BUSY : why;
    if (busy.backend && busy.priority > best.priority &&
        !wr_frames_is_wanted(&lane->swap->space->frames))
        return WR_LAUNDER_BUSY;
    return take(lane, best.backend, backend_p, run_p);
}
