/* SPDX-License-Identifier: MIT */

/*
 * Drain: take a back end out of use while the program runs (seed B5, B6).
 *
 * The reverse table leads from each live slot to its page, so that the time depends on the pages
 * that lie there and not on the addresses that are mapped. Pages are read into staging and stay in
 * the swap cache, unmapped: their next touch is a soft fault, and reclaim writes them elsewhere
 * when it needs the memory. The application's page tables are not touched.
 */

#include <stdlib.h>
#include <sys/mman.h>

#include "runtime/memory/gate.h"
#include "runtime/swap/swap.h"

#define FETCHES       8u
#define REST_NS       1000000ull
#define FRUITLESS_MAX 200 /* passes over the table, a millisecond apart, that moved nothing */

struct drain;

struct drain_fetch {
    struct wr_fetch fetch;
    struct drain *drain;
    bool is_busy;
};

struct drain {
    struct wr_swap *swap;
    struct wr_swap_backend *backend;
    struct wr_lane *lane; /* NULL before and after */
    struct wr_bell bell;  /* nobody rings it: to sleep on the lane's descriptors */
    uint8_t *buffer;      /* FETCHES times WR_FETCH_PAGES pages; counted against the budget */
    uint64_t moved;       /* pages that left in this pass                                   */
    uint64_t lost;        /* pages that could not be read in this pass                      */
    int error;            /* why it cannot go on, or WEIR_OK                                */
    struct wr_extent *extent;
    struct drain_fetch fetches[FETCHES];
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

static void queue_extent(struct drain *d)
{
    if (d->extent)
        wr_staging_queue(&space_of(d)->staging, d->extent, d->extent->fill);
    d->extent = NULL;
}

/* An empty staging frame, or WR_FRAME_NONE when all extents are on their way. */
static uint32_t next_frame(struct drain *d)
{
    if (d->extent && d->extent->fill == WR_EXTENT_FRAMES)
        queue_extent(d);
    if (!d->extent)
        d->extent = wr_staging_take(&space_of(d)->staging);
    return d->extent ? d->extent->first_frame + d->extent->fill : WR_FRAME_NONE;
}

/* The bytes are here: into staging with them. The page's frame was taken before the fetch. */
static bool stage(struct drain *d, struct wr_hold *hold, const void *bytes)
{
    struct wr_space *space = space_of(d);
    uint32_t frame = next_frame(d);

    if (frame == WR_FRAME_NONE || space->host->ops->stage(space->host, frame, bytes) != WR_HOST_OK)
        return false;
    wr_staging_hold(&space->staging, d->extent, d->extent->fill++, hold->number);
    wr_hold_set_frame(hold, frame);
    wr_page_move(hold, WR_PAGE_READING, WR_PAGE_CACHED_DIRTY);
    wr_stats_count(space->stats, WR_COUNT_cache_added);
    wr_stats_count(space->stats, WR_COUNT_pages_drained);
    return true;
}

static void arrived(struct wr_fetch *fetch, uint32_t index, int error)
{
    struct drain_fetch *own = fetch->owner;
    struct drain *d = own->drain;
    struct wr_space *space = space_of(d);
    const uint8_t *bytes = fetch->bytes + (uint64_t)index * WEIR_PAGE_BYTES;
    bool is_gone = false, is_staged = false;
    struct wr_hold hold;

    wr_page_take(&space->pages, fetch->page[index], &hold);
    if (wr_hold_has(&hold, WR_PAGE_CANCELLED)) {
        wr_hold_set(&hold, WR_PAGE_CANCELLED, false);
        wr_page_move(&hold, WR_PAGE_READING, WR_PAGE_EMPTY);
        is_gone = true;
    } else {
        is_staged = error == WEIR_OK && stage(d, &hold, bytes);
        if (!is_staged)
            wr_page_move(&hold, WR_PAGE_READING, WR_PAGE_OUT);
    }
    if (is_gone || is_staged) {
        wr_slots_free(&d->backend->slots, wr_slot_place(fetch->slot[index]));
        wr_hold_set_slot(&hold, WR_SLOT_NONE);
        d->moved++;
    } else if (error == WEIR_EIO) {
        d->lost++;
    }
    wr_page_put(&space->pages, &hold);
    if (!is_staged)
        wr_frames_put(&space->frames, 1);
}

static void finished(struct wr_fetch *fetch)
{
    ((struct drain_fetch *)fetch->owner)->is_busy = false;
}

/* Wait until a fetch is free again. */
static struct drain_fetch *free_fetch(struct drain *d)
{
    for (;;) {
        for (uint32_t i = 0; i < FETCHES; i++)
            if (!d->fetches[i].is_busy)
                return &d->fetches[i];
        if (!d->lane->pager->ops->reap(d->lane))
            rest(d);
    }
}

static void finish_fetches(struct drain *d)
{
    while (d->lane && !d->lane->pager->ops->is_idle(d->lane))
        if (!d->lane->pager->ops->reap(d->lane))
            rest(d);
}

/* A page with this slot: what needs no read is done with at once. True: it must be read, and is
 * READING. Inside the gate. */
static bool claim(struct drain *d, uint32_t place, uint32_t page, uint32_t *sum_p)
{
    struct wr_space *space = space_of(d);
    uint64_t slot = wr_slot_make(d->backend->number, place);
    struct wr_hold hold;
    bool must_read = false;

    if (!wr_page_is_owned(&space->pages, page))
        return false;
    wr_page_take(&space->pages, page, &hold);
    if (wr_hold_slot(&hold) == slot) {
        if (wr_hold_state(&hold) == WR_PAGE_CACHED_CLEAN) {
            wr_page_move(&hold, WR_PAGE_CACHED_CLEAN, WR_PAGE_OUT);
            wr_hold_set_frame(&hold, WR_FRAME_NONE);
            wr_hold_set(&hold, WR_PAGE_AHEAD, false);
            wr_stats_count(space->stats, WR_COUNT_cache_deleted);
        }
        if (wr_hold_state(&hold) == WR_PAGE_OUT) {
            wr_page_move(&hold, WR_PAGE_OUT, WR_PAGE_READING);
            *sum_p = wr_hold_sum(&hold);
            must_read = true;
        } else if (wr_hold_state(&hold) == WR_PAGE_RESIDENT_CLEAN) {
            wr_page_move(&hold, WR_PAGE_RESIDENT_CLEAN, WR_PAGE_RESIDENT_DIRTY);
            wr_hold_set_slot(&hold, WR_SLOT_NONE);
            wr_slots_free(&d->backend->slots, place);
            d->moved++;
        }
    }
    wr_page_put(&space->pages, &hold);
    return must_read;
}

/* Frames for as many pages as may be read at once. They are waited for, like any allocation; what
 * was drained so far is not held back meanwhile, or nobody could write it to make room, and those
 * who wait for our reads would wait for frames too. */
static bool take_frames(struct drain *d, uint32_t count)
{
    const struct wr_frames *frames = &space_of(d)->frames;

    if (wr_frames_free(frames) < atomic_load(&frames->low) + count) {
        finish_fetches(d);
        queue_extent(d);
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

/* The slots [place, place + count), all of them with an owner or not. */
static void drain_run(struct drain *d, uint32_t place, uint32_t count)
{
    struct drain_fetch *own = free_fetch(d);
    struct wr_fetch *fetch = &own->fetch;
    uint32_t claimed = 0;
    struct wr_pass pass;

    if (!take_frames(d, count))
        return;
    pass = wr_gate_enter();
    fetch->count = count;
    for (uint32_t i = 0; i < count; i++) {
        fetch->slot[i] = WR_SLOT_NONE;
        if (wr_slots_owner(&d->backend->slots, place + i, &fetch->page[i]) &&
            claim(d, place + i, fetch->page[i], &fetch->sum[i])) {
            fetch->slot[i] = wr_slot_make(d->backend->number, place + i);
            claimed++;
        }
    }
    wr_frames_put(&space_of(d)->frames, count - claimed);
    if (claimed) {
        own->is_busy = true;
        d->lane->pager->ops->fetch(d->lane, fetch);
    }
    wr_gate_leave(pass);
}

static void drain_cluster(struct drain *d, uint32_t cluster)
{
    uint64_t first = (uint64_t)cluster * WEIR_CLUSTER_SLOTS;
    uint64_t end = first + WEIR_CLUSTER_SLOTS;

    if (end > d->backend->slots.count)
        end = d->backend->slots.count;
    for (uint64_t place = first; place < end && d->error == WEIR_OK; place += WR_FETCH_PAGES) {
        uint64_t rest_of_it = end - place;

        drain_run(d, (uint32_t)place,
                  rest_of_it < WR_FETCH_PAGES ? (uint32_t)rest_of_it : WR_FETCH_PAGES);
    }
}

/* Once over all clusters that are in use. */
static void drain_pass(struct drain *d)
{
    d->moved = 0;
    d->lost = 0;
    for (uint32_t i = 0; i < d->backend->slots.cluster_count && d->error == WEIR_OK; i++)
        if (wr_slots_live(&d->backend->slots, i) > 0)
            drain_cluster(d, i);
    finish_fetches(d);
    queue_extent(d);
}

static int drain_all(struct drain *d)
{
    int fruitless = 0;

    while (wr_slots_used(&d->backend->slots) > 0) {
        drain_pass(d);
        if (d->error != WEIR_OK)
            return d->error;
        fruitless = d->moved ? 0 : fruitless + 1;
        /* What moves nothing for long: unreadable pages, poisoned pages. Writes in flight to this
         * back end pass; but a device may hang for longer than we are patient. */
        if (fruitless >= FRUITLESS_MAX)
            return d->lost ? WEIR_EIO : WEIR_EAGAIN;
        if (!d->moved)
            rest(d);
    }
    return WEIR_OK;
}

static int drain_open(struct drain *d)
{
    const size_t bytes = (size_t)FETCHES * WR_FETCH_PAGES * WEIR_PAGE_BYTES;
    struct wr_pager *pager = &d->swap->pager;
    int error;

    if (!take_frames(d, FETCHES * WR_FETCH_PAGES))
        return d->error;
    d->buffer = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    error = d->buffer == MAP_FAILED ? WEIR_ENOMEM : pager->ops->lane_open(pager, &d->lane);
    if (error != WEIR_OK) {
        if (d->buffer != MAP_FAILED)
            munmap(d->buffer, bytes);
        wr_frames_put(&space_of(d)->frames, FETCHES * WR_FETCH_PAGES);
        return error;
    }
    for (uint32_t i = 0; i < FETCHES; i++) {
        d->fetches[i].drain = d;
        d->fetches[i].fetch = (struct wr_fetch){
            .bytes = d->buffer + (size_t)i * WR_FETCH_PAGES * WEIR_PAGE_BYTES,
            .arrived = arrived,
            .finished = finished,
            .owner = &d->fetches[i],
        };
    }
    return WEIR_OK;
}

static void drain_close(struct drain *d)
{
    d->lane->pager->ops->lane_close(d->lane);
    d->lane = NULL;
    munmap(d->buffer, (size_t)FETCHES * WR_FETCH_PAGES * WEIR_PAGE_BYTES);
    wr_frames_put(&space_of(d)->frames, FETCHES * WR_FETCH_PAGES);
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

int wr_swap_drain(struct wr_swap *swap, uint32_t number)
{
    struct wr_swap_backend *backend = number < WR_BACKENDS_MAX ? wr_swap_backend(swap, number)
                                                               : NULL;
    struct drain *d;
    int error;

    if (!backend)
        return WEIR_ENOENT;
    d = calloc(1, sizeof(*d));
    if (!d)
        return WEIR_ENOMEM;
    error = swap->space->host->ops->bell_init(swap->space->host, &d->bell);
    if (error != WEIR_OK) {
        free(d);
        return error;
    }
    d->swap = swap;
    d->backend = backend;
    atomic_store(&backend->draining, true);
    wr_gate_wait(swap->space->host); /* now nobody takes another slot there */
    error = drain_open(d);
    if (error == WEIR_OK) {
        error = drain_all(d);
        drain_close(d);
    }
    if (error == WEIR_OK)
        retire(d);
    else
        atomic_store(&backend->draining, false);
    swap->space->host->ops->bell_fini(swap->space->host, &d->bell);
    free(d);
    return error;
}
