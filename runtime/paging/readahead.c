/* SPDX-License-Identifier: MIT */
#include "runtime/paging/readahead.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/usdt.h"
#include "runtime/memory/gate.h"
#include "runtime/memory/object.h"
#include "runtime/paging/aging.h"
#include "runtime/paging/stream.h"

#define QUEUE_ROOM 256u
#define FETCHES    32u
#define VIEW_SHIFT 18 /* serials of regions count from 1 */

struct request {
    uint32_t page;
    uint32_t count;
    uint32_t serial; /* of the region, which may be gone when the request is read */
    bool map;        /* map the pages as far as frames are spare                  */
};

/* A cell of a bounded queue for many writers and one reader, after D. Vyukov: `turn` says whose
 * turn it is, the writer's of lap n (turn == position) or the reader's (turn == position + 1). */
struct cell {
    _Atomic(uint32_t) turn;
    struct request request;
};

struct fetch_slot {
    struct wr_fetch fetch;
    struct wr_ahead *ahead;
    uint32_t first_frame;
    uint32_t arrived;
    bool is_busy;
    bool map;
};

struct wr_ahead {
    struct wr_space *space;
    struct wr_lane *lane;
    struct wr_bell bell;
    void *thread;
    _Atomic(bool) stop;
    _Atomic(bool) asleep;

    struct cell queue[QUEUE_ROOM];
    _Atomic(uint32_t) tail;
    uint32_t head; /* kept by the reading thread, as are the slots */

    struct fetch_slot slots[FETCHES];
    struct wr_extent *extent; /* that takes pages which gave up their slots, or NULL; likewise */
};

/* --- The faulting thread's side -------------------------------------------------------------- */

static bool queue_put(struct wr_ahead *ahead, const struct request *request)
{
    uint32_t position = atomic_load_explicit(&ahead->tail, memory_order_relaxed);
    struct cell *cell;

    for (;;) {
        int32_t lead;

        cell = &ahead->queue[position % QUEUE_ROOM];
        /* Acquire: pairs with the release in queue_take(): the cell was read. */
        lead = (int32_t)(atomic_load_explicit(&cell->turn, memory_order_acquire) - position);
        if (lead < 0)
            return false; /* full */
        if (lead > 0)
            position = atomic_load_explicit(&ahead->tail, memory_order_relaxed);
        else if (atomic_compare_exchange_weak_explicit(&ahead->tail, &position, position + 1,
                                                       memory_order_relaxed, memory_order_relaxed))
            break;
    }
    cell->request = *request;
    /* Release: pairs with the acquire in queue_take(): the request is whole. */
    atomic_store_explicit(&cell->turn, position + 1, memory_order_release);
    return true;
}

static bool queue_take(struct wr_ahead *ahead, struct request *request_p)
{
    struct cell *cell = &ahead->queue[ahead->head % QUEUE_ROOM];

    if (atomic_load_explicit(&cell->turn, memory_order_acquire) != ahead->head + 1)
        return false;
    *request_p = cell->request;
    atomic_store_explicit(&cell->turn, ahead->head + QUEUE_ROOM, memory_order_release);
    ahead->head++;
    return true;
}

static bool ask(struct wr_ahead *ahead, const struct request *request)
{
    if (!queue_put(ahead, request))
        return false;
    /* Sequentially consistent: pairs with the store before the last look in reader_sleep(). */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load(&ahead->asleep) && atomic_exchange(&ahead->asleep, false))
        ahead->space->host->ops->bell_ring(ahead->space->host, &ahead->bell);
    return true;
}

bool wr_ahead_want(struct wr_ahead *ahead, const struct wr_region *region, uint32_t page,
                   uint32_t count)
{
    struct request request = {page, count, region->serial, true};

    WR_CHECK(count >= 1 && count <= WR_FETCH_PAGES);
    return ask(ahead, &request);
}

/* Ask for what lies ahead of the stream, in whole windows, as far as it may. */
static void ask_ahead(struct wr_ahead *ahead, const struct wr_region *region,
                      struct wr_stream *stream)
{
    struct wr_space *space = ahead->space;
    uint32_t most = space->cache.chunk_count / 4 * WR_CACHE_CHUNK;
    uint32_t wish = (uint32_t)stream->window * stream->depth;
    uint32_t depth = wish < most ? wish : most;
    struct wr_reach reach;

    while (wr_stream_reach(stream, region->first, wr_region_end(region), depth, &reach)) {
        struct request request = {reach.page, reach.count, region->serial, false};

        if (wr_frames_is_low(&space->frames)) {
            wr_stats_add(space->stats, WR_COUNT_reads_ahead_refused, reach.count);
            return;
        }
        if (!ask(ahead, &request))
            return;
        wr_stream_asked(stream, &reach);
    }
}

/* What is in memory already is mapped ahead only for a walk within one view: who goes through an
 * object by many views wants one page in each. */
static struct wr_stream *note_view(const struct wr_region *view, uint32_t page)
{
    return wr_stream_note(view->serial + ((view->view + 1) << VIEW_SHIFT), page, false, false, 0);
}

struct wr_plan wr_ahead_note(struct wr_ahead *ahead, const struct wr_region *region, uint32_t page,
                             enum wr_step step, bool is_store)
{
    struct wr_plan plan = {.around = 1, .direction = 1};
    uint32_t pattern = atomic_load_explicit(&region->pattern, memory_order_relaxed);
    bool is_hit = step == WR_STEP_HIT || step == WR_STEP_LATE;
    struct wr_stream *stream;

    if (pattern == WR_PATTERN_RANDOM)
        return plan;
    if (step == WR_STEP_STORE)
        stream = wr_stream_note_store(region->serial, page);
    else if (step == WR_STEP_VIEW)
        stream = note_view(region, page);
    else
        stream = wr_stream_note(region->serial, page, is_hit, pattern == WR_PATTERN_SEQUENTIAL,
                                ahead->space->readahead_pages);
    if (!stream)
        return plan;
    if (step == WR_STEP_LATE)
        wr_stream_late(stream);
    if (is_store && step != WR_STEP_STORE)
        wr_stream_believe(stream);
    plan.around = ahead->space->fault_around_pages;
    plan.direction = stream->direction;
    plan.stores = stream->belief > 0;
    plan.stream = stream;
    if (ahead->space->readahead_pages > 0 && (step == WR_STEP_MISS || is_hit))
        ask_ahead(ahead, region, stream);
    return plan;
}

void wr_ahead_mapped(struct wr_ahead *ahead, const struct wr_plan *plan, uint32_t page,
                     uint32_t count)
{
    (void)ahead;
    if (plan->stream)
        wr_stream_mapped(plan->stream, page, count);
}

/* --- The reading thread's side --------------------------------------------------------------- */

static struct wr_stats *stats_of(const struct fetch_slot *slot)
{
    return slot->ahead->space->stats;
}

static void queue_extent(struct wr_ahead *ahead)
{
    if (ahead->extent)
        wr_staging_queue(&ahead->space->staging, ahead->extent, ahead->extent->fill);
    ahead->extent = NULL;
}

/* A page that gives up its slot, though nobody touched it (seed B7), is dirty from now on, and
 * takes a frame of the budget. False: there is none to spare; it keeps the slot until it is
 * touched. */
static bool give_up_slot(struct wr_ahead *ahead, struct wr_hold *hold, const void *bytes)
{
    struct wr_space *space = ahead->space;
    uint32_t frame;

    if (!space->pager->ops->frees_at_read(space->pager, wr_hold_slot(hold)) ||
        wr_frames_is_low(&space->frames))
        return false;
    if (ahead->extent && ahead->extent->fill == WR_EXTENT_FRAMES)
        queue_extent(ahead);
    if (!ahead->extent)
        ahead->extent = wr_staging_take(&space->staging);
    if (!ahead->extent || wr_frames_take_spare(&space->frames, 1) == 0)
        return false;
    frame = ahead->extent->first_frame + ahead->extent->fill;
    if (space->host->ops->stage(space->host, frame, bytes) != WR_HOST_OK) {
        wr_frames_put(&space->frames, 1);
        return false;
    }
    wr_staging_hold(&space->staging, ahead->extent, ahead->extent->fill++, hold->number);
    wr_hold_set_frame(hold, frame);
    wr_page_move(hold, WR_PAGE_READING, WR_PAGE_CACHED_DIRTY);
    wr_hold_set(hold, WR_PAGE_AHEAD, false);
    space->pager->ops->forget(space->pager, wr_hold_slot(hold));
    wr_hold_set_slot(hold, WR_SLOT_NONE);
    wr_stats_count(space->stats, WR_COUNT_slots_doomed);
    return true;
}

/* A page has come, or not: into the cache, or back to where it was. */
static void arrived(struct wr_fetch *fetch, uint32_t index, int error)
{
    struct fetch_slot *slot = fetch->owner;
    struct wr_space *space = slot->ahead->space;
    uint32_t frame = slot->first_frame + index;
    struct wr_hold hold;

    wr_page_take(&space->pages, fetch->page[index], &hold);
    if (wr_hold_has(&hold, WR_PAGE_CANCELLED)) {
        wr_page_move(&hold, WR_PAGE_READING, WR_PAGE_EMPTY);
        wr_hold_set(&hold, WR_PAGE_CANCELLED, false);
        wr_hold_set(&hold, WR_PAGE_AHEAD, false);
        space->pager->ops->forget(space->pager, wr_hold_slot(&hold));
        wr_hold_set_slot(&hold, WR_SLOT_NONE);
    } else if (error != WEIR_OK) {
        /* Nobody asked for it: whoever does will read it again and learn what is wrong. */
        wr_page_move(&hold, WR_PAGE_READING, WR_PAGE_OUT);
        wr_hold_set(&hold, WR_PAGE_AHEAD, false);
    } else if (give_up_slot(slot->ahead, &hold, wr_host_frame(space->host, frame))) {
        wr_stats_count(stats_of(slot), WR_COUNT_cache_added);
        wr_stats_count(stats_of(slot), WR_COUNT_cache_added_ahead);
    } else {
        wr_cache_own(&space->cache, frame, fetch->page[index]);
        if (wr_aging_rises(space->aging, wr_page_distance(&space->pages, &hold)))
            wr_hold_set(&hold, WR_PAGE_MAIN, true); /* a walk that comes round again */
        wr_hold_set_frame(&hold, frame);
        wr_page_move(&hold, WR_PAGE_READING, WR_PAGE_CACHED_CLEAN);
        slot->arrived++;
        wr_stats_count(stats_of(slot), WR_COUNT_cache_added);
        wr_stats_count(stats_of(slot), WR_COUNT_cache_added_ahead);
    }
    wr_page_put(&space->pages, &hold);
}

/* Map one page of a fetch, if a frame is spare and nobody was faster. */
static void map_page(struct wr_space *space, struct wr_region *region, uint32_t page,
                     uint32_t frame)
{
    bool is_mapped = false;
    struct wr_hold hold;

    if (wr_frames_is_low(&space->frames) || wr_frames_take_spare(&space->frames, 1) == 0)
        return;
    wr_page_take(&space->pages, page, &hold);
    if (wr_hold_state(&hold) == WR_PAGE_CACHED_CLEAN && wr_hold_frame(&hold) == frame &&
        wr_rmap_place(space, wr_region_addr(region, page), wr_host_frame(space->host, frame)) ==
            WR_HOST_OK) {
        wr_page_move(&hold, WR_PAGE_CACHED_CLEAN, WR_PAGE_RESIDENT_CLEAN);
        wr_hold_set_frame(&hold, WR_FRAME_NONE);
        wr_hold_set(&hold, WR_PAGE_AHEAD, false);
        wr_stats_count(space->stats, WR_COUNT_cache_deleted);
        wr_stats_count(space->stats, WR_COUNT_reads_ahead_hit);
        is_mapped = true;
    } else {
        wr_frames_put(&space->frames, 1);
    }
    wr_page_put(&space->pages, &hold);
    if (is_mapped)
        wr_aging_arrived(space->aging, page, 1, 1, true);
}

static void finished(struct wr_fetch *fetch)
{
    struct fetch_slot *slot = fetch->owner;
    struct wr_space *space = slot->ahead->space;
    struct wr_pass pass = wr_gate_enter();
    struct wr_region *region = wr_space_region(space, fetch->page[0]);

    for (uint32_t i = 0; i < fetch->count && slot->map && region; i++)
        if (fetch->slot[i] != WR_SLOT_NONE)
            map_page(space, region, fetch->page[i], slot->first_frame + i);
    wr_cache_put(&space->cache, slot->first_frame, slot->arrived > 0);
    slot->is_busy = false;
    wr_gate_leave(pass);
}

/* Take those pages of the request that are away. How many. */
static uint32_t claim(struct wr_space *space, const struct request *request, struct wr_fetch *fetch)
{
    uint32_t claimed = 0;

    for (uint32_t i = 0; i < request->count; i++) {
        struct wr_hold hold;

        fetch->page[i] = request->page + i;
        fetch->slot[i] = WR_SLOT_NONE;
        if (wr_page_peek(&space->pages, request->page + i) != WR_PAGE_OUT ||
            !wr_page_take_try(&space->pages, request->page + i, &hold))
            continue;
        if (wr_hold_state(&hold) == WR_PAGE_OUT) {
            wr_page_move(&hold, WR_PAGE_OUT, WR_PAGE_READING);
            wr_hold_set(&hold, WR_PAGE_AHEAD, true);
            fetch->slot[i] = wr_hold_slot(&hold);
            fetch->sum[i] = wr_hold_sum(&hold);
            claimed++;
        }
        wr_page_put(&space->pages, &hold);
    }
    return claimed;
}

static struct fetch_slot *free_slot(struct wr_ahead *ahead)
{
    for (uint32_t i = 0; i < FETCHES; i++)
        if (!ahead->slots[i].is_busy)
            return &ahead->slots[i];
    return NULL;
}

/* Inside the gate. */
static void begin_fetch(struct wr_ahead *ahead, struct fetch_slot *slot,
                        const struct request *request)
{
    struct wr_space *space = ahead->space;
    struct wr_region *region = wr_space_region(space, request->page);
    uint32_t claimed;

    if (!region || region->serial != request->serial || atomic_load(&region->keep) != WR_KEEP_NOT)
        return; /* nobody waits for it any more */
    slot->first_frame = wr_cache_take(&space->cache, WR_CACHE_AHEAD);
    if (slot->first_frame == WR_FRAME_NONE)
        return;
    slot->fetch.count = request->count;
    slot->fetch.bytes = wr_host_frame(space->host, slot->first_frame);
    slot->arrived = 0;
    slot->map = request->map;
    claimed = claim(space, request, &slot->fetch);
    if (claimed == 0) {
        wr_cache_put(&space->cache, slot->first_frame, false);
        return;
    }
    slot->is_busy = true;
    WR_PROBE3(read_begin, request->page, claimed, 1);
    wr_stats_add(space->stats, WR_COUNT_reads_ahead, claimed);
    wr_region_add(region, WR_REGION_reads_ahead, claimed);
    space->pager->ops->fetch(ahead->lane, &slot->fetch);
}

/* True: something was begun. */
static bool serve_requests(struct wr_ahead *ahead)
{
    struct fetch_slot *slot;
    struct request request;
    bool any = false;

    while ((slot = free_slot(ahead)) != NULL && queue_take(ahead, &request)) {
        struct wr_pass pass = wr_gate_enter();

        begin_fetch(ahead, slot, &request);
        wr_gate_leave(pass);
        any = true;
    }
    return any;
}

static bool has_requests(struct wr_ahead *ahead)
{
    const struct cell *cell = &ahead->queue[ahead->head % QUEUE_ROOM];

    return atomic_load(&cell->turn) == ahead->head + 1;
}

static void reader_sleep(struct wr_ahead *ahead)
{
    struct wr_host *host = ahead->space->host;
    int fds[WR_LANE_FDS];
    uint32_t count = ahead->space->pager->ops->wait_fds(ahead->lane, fds);

    atomic_store(&ahead->asleep, true);
    if ((!has_requests(ahead) || !free_slot(ahead)) && !atomic_load(&ahead->stop))
        host->ops->bell_wait(host, &ahead->bell, fds, count, WR_FOREVER);
    atomic_store(&ahead->asleep, false);
}

static void read_main(void *context)
{
    struct wr_ahead *ahead = context;
    const struct wr_pager_ops *ops = ahead->space->pager->ops;

    while (!atomic_load(&ahead->stop) || !ops->is_idle(ahead->lane)) {
        bool any = !atomic_load(&ahead->stop) && serve_requests(ahead);

        if (!ops->reap(ahead->lane) && !any) {
            if (ops->is_idle(ahead->lane))
                queue_extent(ahead); /* no more will come soon: let it be written */
            reader_sleep(ahead);
        }
    }
    queue_extent(ahead);
}

int wr_ahead_open(struct wr_space *space, struct wr_ahead **ahead_p)
{
    struct wr_ahead *ahead = calloc(1, sizeof(*ahead));
    int error;

    if (!ahead)
        return WEIR_ENOMEM;
    ahead->space = space;
    for (uint32_t i = 0; i < QUEUE_ROOM; i++)
        atomic_store(&ahead->queue[i].turn, i);
    for (uint32_t i = 0; i < FETCHES; i++) {
        struct fetch_slot *slot = &ahead->slots[i];

        slot->ahead = ahead;
        slot->fetch = (struct wr_fetch){.arrived = arrived, .finished = finished, .owner = slot};
    }
    error = space->host->ops->bell_init(space->host, &ahead->bell);
    if (error != WEIR_OK)
        goto err_ahead;
    error = space->pager->ops->lane_open(space->pager, &ahead->lane);
    if (error != WEIR_OK)
        goto err_bell;
    error = space->host->ops->thread_start(space->host, "weir-kread", read_main, ahead,
                                           &ahead->thread);
    if (error != WEIR_OK)
        goto err_lane;
    *ahead_p = ahead;
    return WEIR_OK;

err_lane:
    space->pager->ops->lane_close(ahead->lane);
err_bell:
    space->host->ops->bell_fini(space->host, &ahead->bell);
err_ahead:
    free(ahead);
    return error;
}

void wr_ahead_rouse(struct wr_ahead *ahead)
{
    ahead->space->host->ops->bell_ring(ahead->space->host, &ahead->bell);
}

void wr_ahead_close(struct wr_ahead *ahead)
{
    struct wr_host *host;

    if (!ahead)
        return;
    host = ahead->space->host;
    atomic_store(&ahead->stop, true);
    host->ops->bell_ring(host, &ahead->bell);
    host->ops->thread_stop(host, ahead->thread);
    ahead->space->pager->ops->lane_close(ahead->lane);
    host->ops->bell_fini(host, &ahead->bell);
    free(ahead);
}
