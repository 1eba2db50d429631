/* SPDX-License-Identifier: MIT */

/*
 * Launder: staged pages become clean by being written, or by needing no write.
 *
 * A cluster is built page by page, each under its own lock for a moment, into slots that were
 * taken together; only when it is whole is it submitted, as one write (seed D3, D7, E9). A page
 * that is taken back by a fault meanwhile just is not in it.
 */

#include <stdlib.h>
#include <string.h>

#include "runtime/base/usdt.h"
#include "runtime/memory/gate.h"
#include "runtime/memory/heat.h"
#include "runtime/swap/swap.h"

/* A back end that failed is left alone for a while, twice as long every time; after so many
 * failures in a row those who wait for memory are told. About a quarter of a second: a hiccup
 * passes, a full disk is noticed. */
#define SICK_NS_FIRST 1000000ull
#define SICK_NS_MOST  1000000000ull
#define PATIENCE      WR_SICK_PATIENCE
/* One that puts writes off is asked so often whether it is so still. */
#define PUT_OFF_NS    50000000ull

static void count(const struct wr_swap *swap, enum wr_counter counter, uint64_t amount)
{
    wr_stats_add(swap->space->stats, counter, amount);
}

/* --- Which pages need a write? --------------------------------------------------------------- */

static bool is_zero(const uint8_t *bytes)
{
    /* Most pages that are not zero differ early or at the very end. */
    return bytes[0] == 0 && bytes[WEIR_PAGE_BYTES - 1] == 0 &&
           memcmp(bytes, bytes + 1, WEIR_PAGE_BYTES - 1) == 0;
}

/* Lock the page of a staged frame, if the frame is still where its bytes are. Inside the gate. */
static bool take_staged(struct wr_space *space, const struct wr_extent *extent, uint32_t index,
                        struct wr_hold *hold)
{
    uint32_t page = extent->pages[index];

    if (!wr_extent_holds(extent, index) || !wr_page_is_owned(&space->pages, page))
        return false;
    wr_page_take(&space->pages, page, hold);
    if (wr_hold_state(hold) == WR_PAGE_CACHED_DIRTY &&
        wr_hold_frame(hold) == extent->first_frame + index)
        return true;
    wr_page_put(&space->pages, hold);
    return false;
}

uint32_t wr_launder_inspect(struct wr_pager *pager, struct wr_extent *extent)
{
    struct wr_swap *swap = (struct wr_swap *)(void *)pager;
    struct wr_space *space = swap->space;
    const uint8_t *looked = NULL;
    uint32_t live = 0, zeros = 0;

    for (uint32_t i = 0; i < extent->fill; i++) {
        uint32_t at = i % WR_LOOK_PAGES, rest = extent->fill - i;
        const uint8_t *bytes;
        struct wr_hold hold;

        /* Before the pages are locked: if one still is here afterwards, its bytes were all along.
         */
        if (at == 0)
            looked = space->host->ops->look(space->host, extent->first_frame + i,
                                            rest < WR_LOOK_PAGES ? rest : WR_LOOK_PAGES,
                                            swap->look);
        if (!take_staged(space, extent, i, &hold))
            continue;
        bytes = looked + at * WEIR_PAGE_BYTES;
        if (swap->wish.zero_elision && is_zero(bytes)) {
            wr_page_move(&hold, WR_PAGE_CACHED_DIRTY, WR_PAGE_EMPTY);
            wr_hold_set_frame(&hold, WR_FRAME_NONE);
            zeros++;
        } else {
            /* Nobody can change the bytes any more, so that the sum holds until the write. */
            wr_hold_set_sum(&hold, wr_swap_sum(swap, hold.number, bytes));
            live++;
        }
        wr_page_put(&space->pages, &hold);
    }
    count(swap, WR_COUNT_pages_elided_zero, zeros);
    count(swap, WR_COUNT_cache_deleted, zeros);
    return live;
}

/* --- The write is over ----------------------------------------------------------------------- */

/* What became of one page of a write. */
enum settled {
    SETTLED_OUT,      /* it is at the back end alone                                */
    SETTLED_STAYS,    /* its bytes are still only in the staging frame              */
    SETTLED_ELSEWHERE /* it was taken back meanwhile, or is nobody's any more     */
};

static enum settled settle(struct wr_writeout *w, uint32_t index, bool is_written)
{
    struct wr_space *space = w->lane->swap->space;
    uint32_t place = (uint32_t)w->io.slot + index;
    uint64_t slot = wr_slot_make(w->backend->number, place);
    enum wr_page_state state;
    enum settled settled = SETTLED_ELSEWHERE;
    struct wr_hold hold;
    bool is_ours;

    if (!wr_page_is_owned(&space->pages, w->pages[index])) {
        wr_swap_free_slot(w->lane->swap, w->backend, place);
        return SETTLED_ELSEWHERE;
    }
    wr_page_take(&space->pages, w->pages[index], &hold);
    state = wr_hold_state(&hold);
    is_ours = (state == WR_PAGE_CACHED_WRITING || state == WR_PAGE_RESIDENT_WRITING) &&
              wr_hold_slot(&hold) == slot;
    if (is_ours && is_written && state == WR_PAGE_CACHED_WRITING) {
        wr_page_evict(&space->pages, &hold, state);
        settled = SETTLED_OUT;
    } else if (is_ours && is_written) {
        wr_page_move(&hold, state, WR_PAGE_RESIDENT_CLEAN);
    } else {
        /* Failed, or the page was written again or discarded while it was on its way. */
        if (is_ours) {
            if (state == WR_PAGE_CACHED_WRITING)
                settled = SETTLED_STAYS;
            wr_page_move(&hold, state,
                         settled == SETTLED_STAYS ? WR_PAGE_CACHED_DIRTY : WR_PAGE_RESIDENT_DIRTY);
            wr_hold_set_slot(&hold, WR_SLOT_NONE);
        }
        wr_swap_free_slot(w->lane->swap, w->backend, place);
    }
    wr_page_put(&space->pages, &hold);
    return settled;
}

/* In which segment is this frame? */
static struct wr_segment *segment_of(struct wr_writeout *w, uint32_t frame)
{
    for (uint32_t i = 0; i < w->segment_count; i++) {
        struct wr_segment *segment = &w->segments[i];

        if (frame >= wr_segment_frame(segment, segment->from) &&
            frame < wr_segment_frame(segment, segment->to))
            return segment;
    }
    wr_check_failed("a written frame is in no segment of its write");
}

/* Of all pages of a write: how many are left in each segment. */
static void settle_all(struct wr_writeout *w, bool is_written)
{
    uint32_t out = 0;

    for (uint32_t i = 0; i < w->segment_count; i++)
        w->segments[i].live = 0;
    for (uint32_t i = 0; i < w->count; i++) {
        enum settled settled = settle(w, i, is_written);

        out += settled == SETTLED_OUT;
        if (settled == SETTLED_STAYS)
            segment_of(w, w->frames[i])->live++;
    }
    count(w->lane->swap, WR_COUNT_cache_deleted, out);
}

static uint32_t held_in(const struct wr_segment *segment)
{
    uint32_t held = 0;

    for (uint32_t i = segment->from; i < segment->to; i++)
        held += wr_extent_holds(segment->extent, i);
    return held;
}

/* Segments of a failed write in which pages are left go back to wait for another. */
static void return_segments(struct wr_writeout *w)
{
    struct wr_staging *staging = &w->lane->swap->space->staging;

    for (uint32_t i = w->segment_count; i > 0; i--) {
        struct wr_segment *segment = &w->segments[i - 1];

        if (segment->live > 0)
            wr_staging_retry(staging, segment);
        else
            wr_staging_release(staging, segment);
    }
}

static void mark_sick(struct wr_swap_backend *backend, const struct wr_space *space, int error,
                      int os_error)
{
    uint64_t now = space->host->ops->now_ns(space->host);
    uint32_t failures = atomic_fetch_add(&backend->failures, 1);
    uint64_t pause = SICK_NS_FIRST << (failures < PATIENCE ? failures : PATIENCE);

    atomic_fetch_add_explicit(&backend->errors, 1, memory_order_relaxed);
    if (failures >= PATIENCE)
        pause = SICK_NS_MOST;
    atomic_store(&backend->last_error, error);
    atomic_store(&backend->sick_until_ns, now + pause);
    if (failures + 1 == PATIENCE)
        backend->env.tell(backend->env.context, WEIR_FAILURE, error, os_error,
                          error == WEIR_EFULL
                              ? "the device is full; pages go elsewhere or stay in memory, and it "
                                "is tried again every second"
                              : "writes fail; pages go elsewhere or stay in memory, and it is "
                                "tried again every second");
}

/* What became of a write decides whether its back end is used for the next. */
static void judge(struct wr_swap_backend *backend, const struct wr_space *space,
                  const struct weir_io *io)
{
    switch (io->error) {
    case WEIR_OK:
        atomic_store(&backend->sick_until_ns, 0);
        atomic_store(&backend->failures, 0);
        break;
    case WEIR_EAGAIN: /* nothing has failed, and there is hope */
        atomic_store(&backend->failures, 0);
        atomic_store(&backend->sick_until_ns, space->host->ops->now_ns(space->host) + PUT_OFF_NS);
        break;
    default:
        wr_stats_add(space->stats, WR_COUNT_write_errors, 1);
        mark_sick(backend, space, io->error, io->os_error);
    }
}

static void write_done(struct weir_io *io)
{
    struct wr_writeout *w = io->owner;
    struct wr_swap_lane *lane = w->lane;
    struct wr_space *space = lane->swap->space;
    const uint64_t took = space->host->ops->now_ns(space->host) - w->begun_ns;

    WR_PROBE5(write_done, w->backend->number, io->slot, io->pages, io->error, took);
    lane->in_flight[w->backend->number]--;
    lane->writing[w->backend->number]--;
    lane->holding[w->backend->number] -= w->held;
    wr_stats_time(space->stats, WR_TIME_write, took);
    lane->coming -= w->held;
    settle_all(w, io->error == WEIR_OK);
    judge(w->backend, space, io);
    return_segments(w);
    wr_staging_submitted(&space->staging, 0, w->held);
    w->is_busy = false;
}

/* --- Building and submitting ----------------------------------------------------------------- */

static struct wr_writeout *free_writeout(struct wr_swap_lane *lane, uint32_t number)
{
    uint32_t most = lane->swap->wish.writes_max;
    struct wr_writeout *all = lane->writeouts[number];

    if (!all)
        all = lane->writeouts[number] = calloc(most, sizeof(*all));
    for (uint32_t i = 0; all && i < most; i++)
        if (!all[i].is_busy)
            return &all[i];
    return NULL;
}

static void count_written(struct wr_region *region, uint32_t pages)
{
    if (region)
        wr_region_add(region, WR_REGION_pages_written, pages);
}

/* Take pages of a segment into the write, as far as there are slots. */
static void gather_segment(struct wr_writeout *w, const struct wr_segment *segment,
                           const struct wr_slot_run *run)
{
    struct wr_space *space = w->lane->swap->space;
    struct wr_region *last = NULL; /* a cluster is mostly one region's */
    uint32_t of_last = 0;

    for (uint32_t i = segment->from; i < segment->to; i++) {
        uint32_t place = run->place + w->count;
        struct wr_region *region;
        struct wr_hold hold;

        if (!take_staged(space, segment->extent, i, &hold))
            continue;
        region = wr_space_region(space, hold.number);
        if (region != last) {
            count_written(last, of_last);
            of_last = 0;
            last = region;
        }
        of_last++;
        WR_CHECK(w->count < run->count);
        wr_page_move(&hold, WR_PAGE_CACHED_DIRTY, WR_PAGE_CACHED_WRITING);
        wr_hold_set_slot(&hold, wr_slot_make(w->backend->number, place));
        wr_slots_own(&w->backend->slots, place, hold.number);
        w->pages[w->count] = hold.number;
        w->frames[w->count] = wr_segment_frame(segment, i);
        w->count++;
        wr_page_put(&space->pages, &hold);
    }
    count_written(last, of_last);
}

static void gather(struct wr_writeout *w, const struct wr_slot_run *run, uint32_t target)
{
    struct wr_staging *staging = &w->lane->swap->space->staging;
    uint32_t next_target;

    w->count = 0;
    w->segment_count = 0;
    while (w->count < run->count && w->segment_count < WR_WRITEOUT_SEGMENTS) {
        struct wr_segment *last = w->segment_count ? &w->segments[w->segment_count - 1] : NULL;
        struct wr_segment next;

        /* Only this thread takes segments: what was seen is what is taken. */
        if (!wr_staging_peek(staging, &next_target) || next_target != target ||
            !wr_staging_next(staging, run->count - w->count, &next))
            break;
        if (last && last->extent == next.extent && last->to == next.from)
            last->to = next.to;
        else
            w->segments[w->segment_count++] = next;
        gather_segment(w, &next, run);
    }
}

/* Memory for the write: neighbouring frames are one piece. */
static uint32_t fill_iov(struct wr_writeout *w)
{
    struct wr_host *host = w->lane->swap->space->host;
    uint32_t n = 0;

    for (uint32_t i = 0; i < w->count; i++) {
        if (i > 0 && w->frames[i] == w->frames[i - 1] + 1)
            w->iov[n - 1].iov_len += WEIR_PAGE_BYTES;
        else
            w->iov[n++] = (struct iovec){wr_host_frame(host, w->frames[i]), WEIR_PAGE_BYTES};
    }
    return n;
}

static void submit(struct wr_swap_lane *lane, struct wr_writeout *w, const struct wr_slot_run *run)
{
    struct wr_host *host = lane->swap->space->host;
    struct weir_channel *channel = wr_lane_channel(lane, w->backend);
    struct weir_io *io = &w->io;

    w->io = (struct weir_io){
        .slot = run->place,
        .pages = w->count,
        .is_write = 1,
        .iov = w->iov,
        .iov_count = fill_iov(w),
        .done = write_done,
        .owner = w,
    };
    w->begun_ns = host->ops->now_ns(host);
    w->is_busy = true;
    w->held = 0;
    for (uint32_t i = 0; i < w->segment_count; i++)
        w->held += held_in(&w->segments[i]);
    lane->coming += w->held;
    wr_staging_submitted(&lane->swap->space->staging, w->held, 0);
    lane->holding[w->backend->number] += w->held;
    lane->writing[w->backend->number]++;
    count(lane->swap, WR_COUNT_pages_written, w->count);
    count(lane->swap, WR_COUNT_writes, 1);
    if (w->count == WEIR_CLUSTER_SLOTS && run->place % WEIR_CLUSTER_SLOTS == 0)
        count(lane->swap, WR_COUNT_writes_full, 1);
    lane->in_flight[w->backend->number]++;
    WR_PROBE3(write_begin, w->backend->number, run->place, w->count);
    if (!channel || channel->backend->ops->submit(channel, &io, 1) != 1) {
        /* There is room in the channel for all our writes: the back end is broken. */
        io->error = WEIR_EIO;
        write_done(io);
    }
}

/* Frames of a segment that no page needs any more, because a fault took its page back. They are
 * left to be released with their segment; but a segment that cannot be written would keep them. */
static uint32_t shed_segment(struct wr_space *space, struct wr_segment *segment)
{
    uint32_t shed = 0;

    segment->live = 0;
    for (uint32_t i = segment->from; i < segment->to; i++) {
        struct wr_hold hold;

        if (take_staged(space, segment->extent, i, &hold)) {
            segment->live++;
            wr_page_put(&space->pages, &hold);
        } else if (wr_extent_holds(segment->extent, i)) {
            wr_staging_release_one(&space->staging, wr_segment_frame(segment, i));
            shed++;
        }
    }
    return shed;
}

/* Is it worth a look at every page that is staged? While nothing can be written, a drain's pages
 * gather there, and memory has room for them. */
static bool is_short(const struct wr_frames *frames)
{
    return wr_frames_is_wanted(frames) || wr_frames_free(frames) < wr_frames_goal(frames);
}

/* No slot is free: what of staging is of no use? How many frames came free. */
static uint32_t shed_stale(struct wr_space *space)
{
    struct wr_staging *staging = &space->staging;
    uint32_t rest = wr_staging_queued(staging), shed = 0;
    struct wr_segment segment;

    while (rest-- > 0 && wr_staging_next(staging, WR_EXTENT_FRAMES, &segment)) {
        shed += shed_segment(space, &segment);
        if (segment.live > 0)
            wr_staging_requeue(staging, &segment);
        else
            wr_staging_release(staging, &segment);
    }
    return shed;
}

enum wr_laundered wr_launder(struct wr_lane *given)
{
    struct wr_swap_lane *lane = (struct wr_swap_lane *)(void *)given;
    struct wr_swap_backend *backend;
    enum wr_laundered chosen;
    struct wr_slot_run run;
    struct wr_writeout *w;
    uint32_t target = 0;

    if (!wr_choose_may_write(lane))
        return WR_LAUNDER_BUSY;
    (void)wr_staging_peek(&lane->swap->space->staging, &target);
    chosen = wr_choose(lane, target, &backend, &run);
    if (chosen == WR_LAUNDER_FULL && is_short(&lane->swap->space->frames) &&
        shed_stale(lane->swap->space) > 0)
        return WR_LAUNDER_NOTHING;
    if (chosen != WR_LAUNDERED)
        return chosen;
    w = free_writeout(lane, backend->number);
    if (!w) { /* no memory for the first write to it */
        wr_slots_return(&backend->slots, &run, 0);
        return WR_LAUNDER_BUSY;
    }
    w->lane = lane;
    w->backend = backend;
    gather(w, &run, target);
    wr_slots_return(&w->backend->slots, &run, w->count);
    if (w->count == 0) {
        for (uint32_t i = 0; i < w->segment_count; i++)
            wr_staging_release(&lane->swap->space->staging, &w->segments[i]);
        return WR_LAUNDER_NOTHING;
    }
    submit(lane, w, &run);
    return WR_LAUNDERED;
}

uint32_t wr_launder_coming(const struct wr_lane *given)
{
    return ((const struct wr_swap_lane *)(const void *)given)->coming;
}
