/* SPDX-License-Identifier: MIT */
#include "runtime/memory/staging.h"

#include <stdlib.h>
#include <string.h>

/* A segment is split only when a write takes a part of it, and neighbours are joined when they
 * come back: this many of one extent cannot be reached. */
#define SEGMENTS_PER_EXTENT 32

int wr_staging_init(struct wr_staging *staging, struct wr_host *host, struct wr_frames *frames,
                    uint32_t extent_count)
{
    *staging = (struct wr_staging){
        .host = host,
        .frames = frames,
        .extent_count = extent_count,
        .segment_room = extent_count * SEGMENTS_PER_EXTENT,
        .first_frame = host->slab_pages,
    };
    staging->extents = calloc(extent_count, sizeof(*staging->extents));
    staging->queue = calloc(staging->segment_room, sizeof(*staging->queue));
    if (!staging->extents || !staging->queue) {
        free(staging->extents);
        free(staging->queue);
        staging->extents = NULL;
        return WEIR_ENOMEM;
    }
    wr_lock_init(&staging->lock, WR_RANK_STAGING);
    return WEIR_OK;
}

void wr_staging_fini(struct wr_staging *staging)
{
    if (!staging->extents)
        return;
    wr_lock_fini(&staging->lock);
    free(staging->extents);
    free(staging->queue);
    staging->extents = NULL;
}

struct wr_extent *wr_staging_take(struct wr_staging *staging)
{
    struct wr_extent *found = NULL;

    wr_lock_take(&staging->lock);
    /* The lowest, so that no more are touched than are needed at one time. */
    for (uint32_t i = 0; i < staging->extent_count && !found; i++)
        if (!staging->extents[i].is_taken) {
            found = &staging->extents[i];
            found->first_frame = staging->first_frame + i * WR_EXTENT_FRAMES;
            if (i >= atomic_load_explicit(&staging->extents_seen, memory_order_relaxed))
                atomic_store_explicit(&staging->extents_seen, i + 1, memory_order_relaxed);
        }
    if (found) {
        found->is_taken = true;
        found->fill = 0;
        found->released = 0;
        found->target = 0;
    }
    wr_lock_drop(&staging->lock);
    return found;
}

/* Relaxed: a gauge. While a write ends it is too small for a moment, never too large. */
static void note_unsubmitted(struct wr_staging *staging, uint32_t held)
{
    uint32_t submitted = atomic_load_explicit(&staging->submitted_count, memory_order_relaxed);
    uint32_t now = held > submitted ? held - submitted : 0;
    uint32_t most = atomic_load_explicit(&staging->unsubmitted_most, memory_order_relaxed);

    while (now > most &&
           !atomic_compare_exchange_weak_explicit(&staging->unsubmitted_most, &most, now,
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

void wr_staging_hold(struct wr_staging *staging, struct wr_extent *extent, uint32_t index,
                     uint32_t page)
{
    WR_CHECK(index < WR_EXTENT_FRAMES && !wr_extent_holds(extent, index));
    atomic_fetch_or_explicit(&extent->held[index / 64], 1ull << (index % 64), memory_order_relaxed);
    extent->pages[index] = page;
    note_unsubmitted(staging,
                     1 + atomic_fetch_add_explicit(&staging->held_count, 1, memory_order_relaxed));
}

void wr_staging_submitted(struct wr_staging *staging, uint32_t more, uint32_t less)
{
    atomic_fetch_add_explicit(&staging->submitted_count, more - less, memory_order_relaxed);
}

static void push_locked(struct wr_staging *staging, const struct wr_segment *segment, bool oldest)
{
    uint32_t at;

    WR_CHECK(staging->queue_count < staging->segment_room);
    if (oldest) {
        staging->queue_first = (staging->queue_first + staging->segment_room - 1) %
                               staging->segment_room;
        at = staging->queue_first;
    } else {
        at = (staging->queue_first + staging->queue_count) % staging->segment_room;
    }
    staging->queue[at] = *segment;
    staging->queue_count++;
    atomic_fetch_add_explicit(&staging->live_count, segment->live, memory_order_relaxed);
}

void wr_staging_queue(struct wr_staging *staging, struct wr_extent *extent, uint32_t live)
{
    struct wr_segment segment = {extent, 0, extent->fill, live};

    if (live == 0) {
        wr_staging_release(staging, &segment);
        return;
    }
    wr_lock_take(&staging->lock);
    push_locked(staging, &segment, false);
    wr_lock_drop(&staging->lock);
}

void wr_staging_requeue(struct wr_staging *staging, const struct wr_segment *segment)
{
    wr_lock_take(&staging->lock);
    push_locked(staging, segment, false);
    wr_lock_drop(&staging->lock);
}

uint32_t wr_staging_queued(struct wr_staging *staging)
{
    uint32_t count;

    wr_lock_take(&staging->lock);
    count = staging->queue_count;
    wr_lock_drop(&staging->lock);
    return count;
}

bool wr_staging_peek(struct wr_staging *staging, uint32_t *target_p)
{
    bool found;

    wr_lock_take(&staging->lock);
    found = staging->queue_count > 0;
    if (found)
        *target_p = staging->queue[staging->queue_first].extent->target;
    wr_lock_drop(&staging->lock);
    return found;
}

bool wr_staging_next(struct wr_staging *staging, uint32_t want, struct wr_segment *segment_p)
{
    struct wr_segment *first;
    uint32_t rest;
    bool found;

    WR_CHECK(want > 0);
    wr_lock_take(&staging->lock);
    found = staging->queue_count > 0;
    if (found) {
        first = &staging->queue[staging->queue_first];
        *segment_p = *first;
        if (first->to - first->from > want) {
            segment_p->to = first->from + want;
            first->from += want;
            /* Where the live ones are is not known. Those that stay must not be taken for fewer
             * than they are: nobody writes a queue in which nothing is live. */
            rest = first->to - first->from;
            segment_p->live = first->live > rest ? first->live - rest : 0;
            first->live -= segment_p->live;
        } else {
            staging->queue_first = (staging->queue_first + 1) % staging->segment_room;
            staging->queue_count--;
        }
        atomic_fetch_sub_explicit(&staging->live_count, segment_p->live, memory_order_relaxed);
    }
    wr_lock_drop(&staging->lock);
    return found;
}

void wr_staging_retry(struct wr_staging *staging, const struct wr_segment *segment)
{
    struct wr_segment *first;

    wr_lock_take(&staging->lock);
    first = &staging->queue[staging->queue_first];
    if (staging->queue_count > 0 && first->extent == segment->extent &&
        first->from == segment->to) {
        first->from = segment->from;
        first->live += segment->live;
        atomic_fetch_add_explicit(&staging->live_count, segment->live, memory_order_relaxed);
    } else {
        push_locked(staging, segment, true);
    }
    wr_lock_drop(&staging->lock);
}

/* How many of these frames, of one word of bits, were held until now. */
static uint32_t unhold(struct wr_extent *extent, uint32_t from, uint32_t to)
{
    uint64_t bits = (UINT64_MAX >> (64 - (to - from))) << (from % 64);

    return (uint32_t)__builtin_popcountll(
        atomic_fetch_and_explicit(&extent->held[from / 64], ~bits, memory_order_relaxed) & bits);
}

void wr_staging_release_one(struct wr_staging *staging, uint32_t frame)
{
    uint32_t index = (frame - staging->first_frame) % WR_EXTENT_FRAMES;
    struct wr_extent *extent = &staging->extents[(frame - staging->first_frame) / WR_EXTENT_FRAMES];

    staging->host->ops->release(staging->host, frame, 1);
    WR_CHECK(unhold(extent, index, index + 1) == 1);
    atomic_fetch_sub_explicit(&staging->held_count, 1, memory_order_relaxed);
    wr_frames_put(staging->frames, 1);
}

void wr_staging_release(struct wr_staging *staging, const struct wr_segment *segment)
{
    struct wr_extent *extent = segment->extent;
    uint32_t freed = 0;

    if (segment->from < segment->to)
        staging->host->ops->release(staging->host, wr_segment_frame(segment, segment->from),
                                    segment->to - segment->from);
    for (uint32_t i = segment->from, end; i < segment->to; i = end) {
        end = i - i % 64 + 64;
        end = end < segment->to ? end : segment->to;
        freed += unhold(extent, i, end);
    }
    wr_lock_take(&staging->lock);
    extent->released += segment->to - segment->from;
    WR_CHECK(extent->released <= extent->fill);
    if (extent->released == extent->fill)
        extent->is_taken = false;
    wr_lock_drop(&staging->lock);
    atomic_fetch_sub_explicit(&staging->held_count, freed, memory_order_relaxed);
    wr_frames_put(staging->frames, freed);
}

uint64_t wr_staging_metadata(const struct wr_staging *staging)
{
    return atomic_load_explicit(&staging->extents_seen, memory_order_relaxed) *
           (sizeof(*staging->extents) + SEGMENTS_PER_EXTENT * sizeof(*staging->queue));
}
