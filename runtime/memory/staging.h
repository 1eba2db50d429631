/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Staging: where dirty pages are between the application and a back end.
 *
 *   extent    512 neighbouring staging frames: pages that were revoked together
 *   segment   a part of an extent that waits to be written, or is being written
 *   target    the back end that an extent's pages are to go to, if it can be had
 *   held      a frame that has memory; what it holds may be stale, because a page that a fault
 *             takes back leaves its old frame as it is until the segment is released
 *
 * Always: an extent is filled by one thread, which then puts it in the queue as one segment; every
 * frame of it is in exactly one segment until that is released; an extent whose frames are all
 * released is free again. Frames of the budget that staging holds == number of held frames.
 */

#include "runtime/base/lock.h"
#include "runtime/memory/frame.h"
#include "runtime/memory/page.h"

#define WR_EXTENT_FRAMES 512u

struct wr_extent {
    uint32_t first_frame; /* set when it is taken */
    uint32_t fill;        /* frames given to pages; kept by the filler, constant once queued      */
    uint32_t released;    /* kept by the staging's lock                                           */
    bool is_taken;        /* kept by the staging's lock                                           */
    uint32_t target;      /* back end + 1 that its pages go to, 0: any; as `fill`                 */
    _Atomic(uint64_t) held[WR_EXTENT_FRAMES / 64]; /* one bit a frame                          */
    uint32_t pages[WR_EXTENT_FRAMES]; /* kept by the filler, constant once queued          */
};

struct wr_segment {
    struct wr_extent *extent;
    uint32_t from, to; /* frames of the extent */
    uint32_t live;     /* pages of it that may still have to be written: no fewer than there are */
};

struct wr_staging {
    /* Constant after wr_staging_init(). */
    struct wr_host *host;
    struct wr_frames *frames;
    uint32_t extent_count;
    uint32_t segment_room;
    uint32_t first_frame;

    /* Kept by `lock` (WR_RANK_STAGING). */
    struct wr_lock lock;
    struct wr_extent *extents; /* memory is touched only as far as extents were ever taken */
    struct wr_segment *queue;  /* ring: oldest first                                       */
    uint32_t queue_first, queue_count;

    /* Gauges; relaxed. */
    _Atomic(uint32_t) extents_seen; /* beyond the highest extent that was ever taken */
    _Atomic(uint32_t) held_count;
    _Atomic(uint32_t) live_count;       /* pages that wait in the queue; a hint */
    _Atomic(uint32_t) submitted_count;  /* of the held, those of writes in flight       */
    _Atomic(uint32_t) unsubmitted_most; /* the others: the most there ever were (E11)   */
};

int wr_staging_init(struct wr_staging *staging, struct wr_host *host, struct wr_frames *frames,
                    uint32_t extent_count);
void wr_staging_fini(struct wr_staging *staging);

/* An empty extent to fill, or NULL when all are on their way. */
struct wr_extent *wr_staging_take(struct wr_staging *staging);
/* The caller has moved a page into the next frame of an extent that he fills. */
void wr_staging_hold(struct wr_staging *staging, struct wr_extent *extent, uint32_t index,
                     uint32_t page);
/* A write of so many held frames has begun, or (less) is over and has released them. */
void wr_staging_submitted(struct wr_staging *staging, uint32_t more, uint32_t less);
/* Put what was filled in the queue as one segment; with nothing live in it, release it at once. */
void wr_staging_queue(struct wr_staging *staging, struct wr_extent *extent, uint32_t live);

/* The target of the oldest segment. False: none waits. */
bool wr_staging_peek(struct wr_staging *staging, uint32_t *target_p);
/* Take the oldest segment, at most want frames of it. False: none. */
bool wr_staging_next(struct wr_staging *staging, uint32_t want, struct wr_segment *segment_p);
/* Put a segment back as the oldest: its write failed. */
void wr_staging_retry(struct wr_staging *staging, const struct wr_segment *segment);
/* Put a segment back as the youngest, whatever is live in it. */
void wr_staging_requeue(struct wr_staging *staging, const struct wr_segment *segment);
uint32_t wr_staging_queued(struct wr_staging *staging);
/* No page needs these frames any more: free their memory and give the frames back. */
void wr_staging_release(struct wr_staging *staging, const struct wr_segment *segment);
/* The same for the one frame of a CACHED_DIRTY page that is being taken back, by the holder of its
 * lock: whoever has the segment comes to the lock before he can be done with it. Signal. */
void wr_staging_release_one(struct wr_staging *staging, uint32_t frame);

static inline uint32_t wr_segment_frame(const struct wr_segment *segment, uint32_t index)
{
    return segment->extent->first_frame + index;
}

static inline bool wr_extent_holds(const struct wr_extent *extent, uint32_t index)
{
    /* Relaxed: it is set before the extent is queued, and cleared under the lock of the page that
     * every look at the frame's bytes is under. */
    return (atomic_load_explicit(&extent->held[index / 64], memory_order_relaxed) >> (index % 64)) &
           1;
}

/* Pages that wait to be written: a hint. */
static inline uint32_t wr_staging_waiting(const struct wr_staging *staging)
{
    return atomic_load_explicit(&staging->live_count, memory_order_relaxed);
}

uint64_t wr_staging_metadata(const struct wr_staging *staging);
