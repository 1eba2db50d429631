/* SPDX-License-Identifier: MIT */

/*
 * Drain: take a back end out of use while the program runs (seed B5, B6). Move: take some pages off
 * it, to another (seed B1).
 *
 * The reverse table leads from each live slot to its page, so that the time depends on the pages
 * that lie there and not on the addresses that are mapped. Pages are read into staging and stay in
 * the swap cache, unmapped: their next touch is a soft fault, and reclaim writes them elsewhere
 * when it needs the memory. The application's page tables are not touched.
 */

#include <stdlib.h>

#include "runtime/memory/gate.h"
#include "runtime/swap/carry.h"

#define REST_NS       1000000ull
/* Passes over the table that moved nothing, ever farther apart: some seconds; and fewer, where it
 * is known why. */
#define FRUITLESS_MAX 200
#define LOST_MAX      40
#define STEP_SHARE    48  /* of all frames, for one read                                     */
#define STEP_LEAST    64u /* frames: fewer are not worth a read, unless no more are needed   */
#ifndef HELP_LEAST        /* the simulator's back ends are small */
#define HELP_LEAST (4 * WEIR_CLUSTER_SLOTS) /* pages: fewer are not worth a second thread */
#endif

/* One of the threads that empty it: a page that comes back is given memory, read and summed, and on
 * a fast device one processor does not keep up with that. */
struct drainer {
    struct drain *drain;
    struct wr_lane *lane; /* NULL: there is none                                            */
    struct wr_bell bell;  /* nobody rings it: to sleep on the lane's descriptors            */
    uint64_t begun;       /* pages that were claimed                                        */
    int error;            /* why it cannot go on, or WEIR_OK                                */
    struct wr_carrier *carrier;
};

struct drain {
    struct wr_swap *swap;
    struct wr_swap_backend *backend;
    wr_wanted_fn is_wanted;     /* NULL: it is                                       */
    uint64_t most;              /* pages that are to leave                           */
    uint64_t moved;             /* that left                                         */
    _Atomic(uint32_t) next;     /* cluster, of this pass                             */
    struct drainer drainers[2]; /* the caller, and one who helps when it is worth it */
};

static struct wr_space *space_of(const struct drain *d)
{
    return d->swap->space;
}

/* Until something is read, or a little. */
static void rest(struct drainer *w, uint64_t ns)
{
    struct wr_host *host = space_of(w->drain)->host;
    int fds[WR_LANE_FDS];
    uint32_t fd_count = w->lane ? w->lane->pager->ops->wait_fds(w->lane, fds) : 0;

    host->ops->bell_wait(host, &w->bell, fds, fd_count, host->ops->now_ns(host) + ns);
}

/* Take what has arrived; settle one read, or, when there is none, sleep. */
static void go_on(struct drainer *w)
{
    bool has_reaped = w->lane->pager->ops->reap(w->lane);
    struct wr_pass pass = wr_gate_enter();
    bool has_settled = wr_carrier_settle(w->carrier);

    wr_gate_leave(pass);
    if (!has_reaped && !has_settled)
        rest(w, REST_NS);
}

static void finish_carries(struct drainer *w)
{
    while (!wr_carrier_is_idle(w->carrier))
        go_on(w);
}

/* Until the next read is to begin: at once when none is in flight, since the device is to have work
 * while sums are compared; else when what has arrived is settled. */
static void await_turn(struct drainer *w)
{
    const struct wr_carrier *c = w->carrier;

    w->lane->pager->ops->reap(w->lane);
    while (!wr_carrier_is_free(c) || (c->flying > 0 && c->arrived))
        go_on(w);
}

/* Nothing of ours is on its way, and memory is short: wait for it like any allocation. What was
 * drained so far is not held back, or nobody could write it to make room. */
static uint32_t wait_for_frames(struct drainer *w, uint32_t count)
{
    struct wr_frames *frames = &space_of(w->drain)->frames;

    wr_carrier_flush(w->carrier);
    for (uint32_t i = 0; i < count; i++) {
        w->error = wr_frames_take(frames, WR_FRAME_FOR_NEW);
        if (w->error != WEIR_OK) {
            wr_frames_put(frames, i);
            return 0;
        }
    }
    return count;
}

/* Frames for at most so many pages; 0: there is an error. While reads are on their way they are not
 * waited for: those who wait for our reads would wait for frames too. But reclaim is told, so that
 * it writes while we read. */
static uint32_t take_frames(struct drainer *w, uint32_t count)
{
    const uint32_t least = count < STEP_LEAST ? count : STEP_LEAST;
    struct wr_frames *frames = &space_of(w->drain)->frames;
    uint32_t taken = wr_frames_take_spare(frames, count);

    if (taken < count)
        wr_frames_want(frames);
    while (taken < least && !wr_carrier_is_idle(w->carrier)) {
        wr_frames_put(frames, taken);
        go_on(w);
        taken = wr_frames_take_spare(frames, count);
    }
    if (taken >= least)
        return taken;
    wr_frames_put(frames, taken);
    return wait_for_frames(w, least);
}

static bool is_still_wanted(const struct drain *d)
{
    return !d->is_wanted || d->is_wanted(d->backend);
}

static bool is_enough(const struct drainer *w)
{
    return w->error != WEIR_OK || w->begun >= w->drain->most || !is_still_wanted(w->drain);
}

/* Frames for the next read of a cluster with so many live pages. */
static uint32_t step_of(const struct drainer *w, uint32_t live)
{
    uint64_t left = w->drain->most - w->begun;
    uint64_t step = (uint64_t)atomic_load(&space_of(w->drain)->frames.total) / STEP_SHARE;

    step = step < left ? step : left;
    return step == 0 ? 1 : live < step ? live : (uint32_t)step;
}

static void drain_cluster(struct drainer *w, uint32_t cluster)
{
    struct wr_swap_backend *backend = w->drain->backend;
    uint32_t place = cluster * WEIR_CLUSTER_SLOTS;
    uint32_t end = wr_slots_end(&backend->slots, cluster), live;

    while (place < end && !is_enough(w) && (live = wr_slots_live(&backend->slots, cluster)) > 0) {
        uint32_t step = step_of(w, live), used;
        struct wr_pass pass;

        await_turn(w);
        step = take_frames(w, step);
        if (step == 0)
            return;
        pass = wr_gate_enter();
        used = wr_carry(w->carrier, backend, &place, end, step);
        wr_gate_leave(pass);
        w->begun += used;
        wr_frames_put(&space_of(w->drain)->frames, step - used);
        if (used == 0 && place < end)
            return; /* no extent to fill: the next pass comes by again */
    }
}

/* All clusters that are in use and nobody else has come to. */
static void drain_clusters(void *context)
{
    struct drainer *w = context;
    const struct wr_slots *slots = &w->drain->backend->slots;

    w->carrier->lost = 0;
    while (!is_enough(w)) {
        uint32_t i = atomic_fetch_add(&w->drain->next, 1);

        if (i >= slots->cluster_count)
            break;
        if (wr_slots_live(slots, i) > 0)
            drain_cluster(w, i);
    }
    finish_carries(w);
    wr_carrier_flush(w->carrier);
}

/* Once over all clusters. True: something moved. */
static bool drain_pass(struct drain *d)
{
    struct drainer *helper = &d->drainers[1];
    struct wr_host *host = space_of(d)->host;
    uint64_t before = d->moved;
    void *thread = NULL;

    atomic_store(&d->next, 0);
    if (helper->lane && wr_slots_used(&d->backend->slots) >= HELP_LEAST &&
        host->ops->thread_start(host, "weir-drain", drain_clusters, helper, &thread) != WEIR_OK)
        thread = NULL;
    drain_clusters(&d->drainers[0]);
    if (thread)
        host->ops->thread_stop(host, thread);
    d->moved = d->drainers[0].carrier->moved;
    if (helper->lane)
        d->moved += helper->carrier->moved;
    return d->moved > before;
}

static int error_of(const struct drain *d)
{
    return d->drainers[0].error != WEIR_OK ? d->drainers[0].error : d->drainers[1].error;
}

/* Could pages not be read in the last pass? */
static bool has_lost(const struct drain *d)
{
    return d->drainers[0].carrier->lost > 0 ||
           (d->drainers[1].lane && d->drainers[1].carrier->lost > 0);
}

static int drain_all(struct drain *d)
{
    int fruitless = 0;

    while (wr_slots_used(&d->backend->slots) > 0) {
        bool has_moved = drain_pass(d);

        if (error_of(d) != WEIR_OK)
            return error_of(d);
        if (!is_still_wanted(d))
            return WEIR_ESTOPPED;
        fruitless = has_moved ? 0 : fruitless + 1;
        /* What moves nothing for long: unreadable pages, poisoned pages. Writes in flight to this
         * back end pass; but a device may hang for longer than we are patient. */
        if (has_lost(d) && fruitless >= LOST_MAX)
            return WEIR_EIO;
        if (fruitless >= FRUITLESS_MAX)
            return WEIR_EAGAIN;
        if (!has_moved)
            rest(&d->drainers[0], REST_NS * (1 + (uint64_t)fruitless / 8));
    }
    return WEIR_OK;
}

/* What can be moved in one pass. */
static int move_some(struct drain *d)
{
    bool has_moved = drain_pass(d);

    if (error_of(d) != WEIR_OK)
        return error_of(d);
    return !has_moved && has_lost(d) ? WEIR_EIO : WEIR_OK;
}

static int drainer_open(struct drain *d, struct drainer *w, enum wr_counter counter,
                        uint32_t target)
{
    struct wr_pager *pager = &d->swap->pager;
    struct wr_host *host = space_of(d)->host;
    int error = host->ops->bell_init(host, &w->bell);

    w->drain = d;
    if (error != WEIR_OK)
        return error;
    error = pager->ops->lane_open(pager, &w->lane);
    if (error != WEIR_OK)
        goto err_bell;
    w->carrier = wr_carrier_new((struct wr_swap_lane *)(void *)w->lane, counter, target);
    if (w->carrier) {
        w->carrier->settles_later = true;
        return WEIR_OK;
    }
    error = WEIR_ENOMEM;
    pager->ops->lane_close(w->lane);
    w->lane = NULL;
err_bell:
    host->ops->bell_fini(host, &w->bell);
    return error;
}

static void drainer_close(struct drainer *w)
{
    struct wr_host *host;

    if (!w->lane)
        return;
    host = space_of(w->drain)->host;
    w->lane->pager->ops->lane_close(w->lane);
    w->lane = NULL;
    free(w->carrier);
    host->ops->bell_fini(host, &w->bell);
}

/* Nothing lies there any more: out of the table, and closed when the lanes have let go. */
static void retire(struct drain *d)
{
    struct wr_swap *swap = d->swap;

    struct wr_host *host = swap->space->host;
    static const uint32_t nothing;

    atomic_store(&swap->backends[d->backend->number], NULL);
    atomic_fetch_add(&swap->changes, 1);
    wr_gate_wait(host); /* a fault may still be inside wr_slots_free() */
    while (atomic_load(&d->backend->references) > 1) {
        swap->wish.rouse(swap->wish.rouse_context);
        host->ops->park(host, &nothing, 0, host->ops->now_ns(host) + REST_NS);
    }
    wr_swap_unref(d->backend);
}

/* Take at most so many pages off a back end. It is left as one that takes no new pages, unless that
 * failed. */
static int take_off(struct drain *d, enum wr_counter counter, uint32_t target)
{
    int error;

    atomic_store(&d->backend->draining, true);
    wr_gate_wait(d->swap->space->host); /* now nobody takes another slot there */
    error = drainer_open(d, &d->drainers[0], counter, target);
    if (error == WEIR_OK) {
        if (!target)
            (void)drainer_open(d, &d->drainers[1], counter, target); /* else it goes on alone */
        error = target ? move_some(d) : drain_all(d);
        drainer_close(&d->drainers[1]);
        drainer_close(&d->drainers[0]);
    }
    if (error != WEIR_OK)
        atomic_store(&d->backend->draining, false);
    return error;
}

static struct wr_swap_backend *backend_at(const struct wr_swap *swap, uint32_t number)
{
    return number < WR_BACKENDS_MAX ? wr_swap_backend(swap, number) : NULL;
}

int wr_swap_drain_while(struct wr_swap *swap, uint32_t number, wr_wanted_fn is_wanted)
{
    struct drain d = {.swap = swap,
                      .backend = backend_at(swap, number),
                      .is_wanted = is_wanted,
                      .most = UINT64_MAX};
    int error;

    if (!d.backend)
        return WEIR_ENOENT;
    error = take_off(&d, WR_COUNT_pages_drained, 0);
    if (error == WEIR_OK)
        retire(&d);
    return error;
}

int wr_swap_drain(struct wr_swap *swap, uint32_t number)
{
    return wr_swap_drain_while(swap, number, NULL);
}

int wr_swap_move(struct wr_swap *swap, uint32_t from, uint32_t to, uint64_t pages,
                 uint64_t *moved_p)
{
    struct drain d = {.swap = swap, .backend = backend_at(swap, from), .most = pages};
    int error;

    *moved_p = 0;
    if (!d.backend || !backend_at(swap, to))
        return WEIR_ENOENT;
    if (from == to)
        return WEIR_EINVAL;
    error = take_off(&d, WR_COUNT_pages_migrated, to + 1);
    *moved_p = d.moved;
    atomic_store(&d.backend->draining, false);
    wr_swap_press(swap); /* there is something to write */
    return error;
}
