/* SPDX-License-Identifier: MIT */

/*
 * Discard: tell a back end of whole clusters that have stayed free for a while, so that a file
 * gives back its room, a device its flash, a back end of memory its memory.
 *
 * By the thread that launders, when it has nothing else to do: it alone takes clusters, so that
 * none is written while it is discarded. A cluster must have been seen free twice, an interval
 * apart. When all have been told of, nothing wakes up for it any more until another comes free.
 */

#include "runtime/memory/gate.h"
#include "runtime/swap/swap.h"

#ifndef DISCARD_NS /* the simulator's time is short */
#define DISCARD_NS 1000000000ull
#endif
#define RUN_MOST 16u /* clusters of one call: somebody may need this thread */

/* How many from this one on have rested. */
static uint32_t rested_run(const struct wr_slots *slots, uint32_t cluster)
{
    const uint8_t wanted = WR_CLUSTER_USED | WR_CLUSTER_RESTED;
    uint32_t n = 0;

    while (n < RUN_MOST && cluster + n < slots->cluster_count &&
           (slots->marks[cluster + n] & wanted) == wanted &&
           !(slots->marks[cluster + n] & WR_CLUSTER_CLEANED) &&
           wr_slots_live(slots, cluster + n) == 0)
        n++;
    return n;
}

static void discard_run(struct wr_swap_lane *lane, struct wr_swap_backend *backend,
                        uint32_t cluster, uint32_t count)
{
    struct wr_slots *slots = &backend->slots;
    uint32_t first = cluster * WEIR_CLUSTER_SLOTS;

    for (uint32_t i = 0; i < count; i++)
        slots->marks[cluster + i] = 0;
    (void)backend->backend->ops->discard(backend->backend, first,
                                         wr_slots_end(slots, cluster + count - 1) - first);
    wr_stats_add(lane->swap->space->stats, WR_COUNT_clusters_discarded, count);
}

/* Discard one run that has rested, mark what rests from now on. True: a run was discarded, and the
 * next call goes on behind it. */
static bool sweep(struct wr_swap_lane *lane, struct wr_swap_backend *backend, bool *again_p)
{
    struct wr_slots *slots = &backend->slots;
    uint32_t *hand = &lane->discard_hand[backend->number];

    for (; *hand < slots->cluster_count; ++*hand) {
        uint32_t run = rested_run(slots, *hand);

        if (run > 0) {
            discard_run(lane, backend, *hand, run);
            *hand += run;
            return true;
        }
    }
    *hand = 0;
    for (uint32_t i = 0; i < slots->cluster_count; i++)
        if ((slots->marks[i] & WR_CLUSTER_USED) && wr_slots_live(slots, i) == 0) {
            slots->marks[i] |= WR_CLUSTER_RESTED;
            *again_p = true;
        }
    return false;
}

uint64_t wr_discard(struct wr_swap_lane *lane)
{
    struct wr_host *host = lane->swap->space->host;
    uint64_t now = host->ops->now_ns(host);
    bool again = false;

    if (atomic_load_explicit(&lane->swap->has_emptied, memory_order_relaxed) &&
        lane->discard_ns == 0)
        lane->discard_ns = now + DISCARD_NS;
    if (lane->discard_ns == 0 || now < lane->discard_ns)
        return lane->discard_ns ? lane->discard_ns : WR_FOREVER;
    atomic_store_explicit(&lane->swap->has_emptied, false, memory_order_relaxed);
    for (uint32_t i = 0; i < WR_BACKENDS_MAX; i++) {
        /* An open channel keeps the back end from being closed, outside the gate, too. */
        struct wr_swap_backend *backend = lane->channels[i] ? lane->channel_of[i] : NULL;

        if (!backend || !backend->backend->ops->discard)
            continue;
        /* It is being read from end to end, which a discard would hold up; and most are closed
         * then. */
        if (atomic_load_explicit(&backend->draining, memory_order_relaxed)) {
            again = true;
        } else if (sweep(lane, backend, &again)) {
            atomic_store_explicit(&lane->swap->has_emptied, true, memory_order_relaxed);
            return now; /* more at once, if nobody needs us meanwhile */
        }
    }
    lane->discard_ns = again ? now + DISCARD_NS : 0;
    return again ? lane->discard_ns : WR_FOREVER;
}
