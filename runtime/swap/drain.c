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
#define FRUITLESS_MAX 200 /* passes over the table, a millisecond apart, that moved nothing */
#define STEP_SHARE    16  /* of all frames, to be waited for at one time                    */

struct drain {
    struct wr_swap *swap;
    struct wr_swap_backend *backend;
    struct wr_lane *lane; /* NULL before and after */
    struct wr_bell bell;  /* nobody rings it: to sleep on the lane's descriptors            */
    uint64_t most;        /* pages that are to leave                                        */
    uint64_t begun;       /* that were claimed                                              */
    uint64_t moved;       /* that left                                                      */
    int error;            /* why it cannot go on, or WEIR_OK                                */
    struct wr_carrier *carrier;
};

static struct wr_space *space_of(const struct drain *d)
{
    return d->swap->space;
}

/* Until something is read, or a little. */
static void rest(struct drain *d)
{
    struct wr_host *host = space_of(d)->host;
    int fds[WR_LANE_FDS];
    uint32_t fd_count = d->lane ? d->lane->pager->ops->wait_fds(d->lane, fds) : 0;

    host->ops->bell_wait(host, &d->bell, fds, fd_count, host->ops->now_ns(host) + REST_NS);
}

static void reap_or_rest(struct drain *d)
{
    if (!d->lane->pager->ops->reap(d->lane))
        rest(d);
}

static void finish_carries(struct drain *d)
{
    while (!d->lane->pager->ops->is_idle(d->lane))
        reap_or_rest(d);
}

/* Frames for as many pages as may be read at once. They are waited for, like any allocation; what
 * was drained so far is not held back meanwhile, or nobody could write it to make room, and those
 * who wait for our reads would wait for frames too. */
static bool take_frames(struct drain *d, uint32_t count)
{
    const struct wr_frames *frames = &space_of(d)->frames;

    if (wr_frames_free(frames) < atomic_load(&frames->low) + count) {
        finish_carries(d);
        wr_carrier_flush(d->carrier);
    }
    for (uint32_t i = 0; i < count; i++) {
        d->error = wr_frames_take(&space_of(d)->frames, WR_FRAME_FOR_NEW);
        if (d->error != WEIR_OK) {
            wr_frames_put(&space_of(d)->frames, i);
            return false;
        }
    }
    return true;
}

static bool is_enough(const struct drain *d)
{
    return d->error != WEIR_OK || d->begun >= d->most;
}

/* Frames for the next read of a cluster with so many live pages. */
static uint32_t step_of(const struct drain *d, uint32_t live)
{
    uint64_t left = d->most - d->begun;
    uint64_t step = (uint64_t)atomic_load(&space_of(d)->frames.total) / STEP_SHARE;

    step = step < left ? step : left;
    return step == 0 ? 1 : live < step ? live : (uint32_t)step;
}

static void drain_cluster(struct drain *d, uint32_t cluster)
{
    uint32_t place = cluster * WEIR_CLUSTER_SLOTS;
    uint32_t end = wr_slots_end(&d->backend->slots, cluster), live;

    while (place < end && !is_enough(d) &&
           (live = wr_slots_live(&d->backend->slots, cluster)) > 0) {
        uint32_t step = step_of(d, live), used;
        struct wr_pass pass;

        while (!wr_carrier_is_free(d->carrier))
            reap_or_rest(d);
        if (!take_frames(d, step))
            return;
        pass = wr_gate_enter();
        used = wr_carry(d->carrier, d->backend, &place, end, step);
        wr_gate_leave(pass);
        d->begun += used;
        wr_frames_put(&space_of(d)->frames, step - used);
        if (used == 0 && place < end)
            return; /* no extent to fill: the next pass comes by again */
    }
}

/* Once over all clusters that are in use. True: something moved. */
static bool drain_pass(struct drain *d)
{
    uint64_t before = d->carrier->moved;

    d->carrier->lost = 0;
    for (uint32_t i = 0; i < d->backend->slots.cluster_count && !is_enough(d); i++)
        if (wr_slots_live(&d->backend->slots, i) > 0)
            drain_cluster(d, i);
    finish_carries(d);
    wr_carrier_flush(d->carrier);
    return d->carrier->moved > before;
}

static int drain_all(struct drain *d)
{
    int fruitless = 0;

    while (wr_slots_used(&d->backend->slots) > 0 && !is_enough(d)) {
        bool has_moved = drain_pass(d);

        if (d->error != WEIR_OK)
            return d->error;
        fruitless = has_moved ? 0 : fruitless + 1;
        /* What moves nothing for long: unreadable pages, poisoned pages. Writes in flight to this
         * back end pass; but a device may hang for longer than we are patient. */
        if (fruitless >= FRUITLESS_MAX)
            return d->carrier->lost ? WEIR_EIO : WEIR_EAGAIN;
        if (!has_moved)
            rest(d);
    }
    return WEIR_OK;
}

/* What can be moved in one pass. */
static int move_some(struct drain *d)
{
    bool has_moved = drain_pass(d);

    if (d->error != WEIR_OK)
        return d->error;
    return !has_moved && d->carrier->lost ? WEIR_EIO : WEIR_OK;
}

static int drain_open(struct drain *d, enum wr_counter counter, uint32_t target)
{
    struct wr_pager *pager = &d->swap->pager;
    int error = pager->ops->lane_open(pager, &d->lane);

    if (error != WEIR_OK)
        return error;
    d->carrier = wr_carrier_new((struct wr_swap_lane *)(void *)d->lane, counter, target);
    if (d->carrier)
        return WEIR_OK;
    pager->ops->lane_close(d->lane);
    d->lane = NULL;
    return WEIR_ENOMEM;
}

static void drain_close(struct drain *d)
{
    d->lane->pager->ops->lane_close(d->lane);
    d->lane = NULL;
    free(d->carrier);
}

/* Nothing lies there any more: out of the table, and closed when the lanes have let go. */
static void retire(struct drain *d)
{
    struct wr_swap *swap = d->swap;

    atomic_store(&swap->backends[d->backend->number], NULL);
    atomic_fetch_add(&swap->changes, 1);
    wr_gate_wait(swap->space->host); /* a fault may still be inside wr_slots_free() */
    while (atomic_load(&d->backend->references) > 1) {
        swap->wish.rouse(swap->wish.rouse_context);
        rest(d);
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
    error = drain_open(d, counter, target);
    if (error == WEIR_OK) {
        error = target ? move_some(d) : drain_all(d);
        d->moved = d->carrier->moved;
        drain_close(d);
    }
    if (error != WEIR_OK)
        atomic_store(&d->backend->draining, false);
    return error;
}

static struct wr_swap_backend *backend_at(const struct wr_swap *swap, uint32_t number)
{
    return number < WR_BACKENDS_MAX ? wr_swap_backend(swap, number) : NULL;
}

int wr_swap_drain(struct wr_swap *swap, uint32_t number)
{
    struct drain d = {.swap = swap, .backend = backend_at(swap, number), .most = UINT64_MAX};
    struct wr_host *host = swap->space->host;
    int error;

    if (!d.backend)
        return WEIR_ENOENT;
    error = host->ops->bell_init(host, &d.bell);
    if (error != WEIR_OK)
        return error;
    error = take_off(&d, WR_COUNT_pages_drained, 0);
    if (error == WEIR_OK)
        retire(&d);
    host->ops->bell_fini(host, &d.bell);
    return error;
}

int wr_swap_move(struct wr_swap *swap, uint32_t from, uint32_t to, uint64_t pages,
                 uint64_t *moved_p)
{
    struct drain d = {.swap = swap, .backend = backend_at(swap, from), .most = pages};
    struct wr_host *host = swap->space->host;
    int error;

    *moved_p = 0;
    if (!d.backend || !backend_at(swap, to))
        return WEIR_ENOENT;
    if (from == to)
        return WEIR_EINVAL;
    error = host->ops->bell_init(host, &d.bell);
    if (error != WEIR_OK)
        return error;
    error = take_off(&d, WR_COUNT_pages_migrated, to + 1);
    *moved_p = d.moved;
    atomic_store(&d.backend->draining, false);
    wr_swap_press(swap); /* there is something to write */
    host->ops->bell_fini(host, &d.bell);
    return error;
}
