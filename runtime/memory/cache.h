/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Cache: the slab's part of the swap cache, where clean pages wait for a second chance.
 *
 *   slab      frames that are always there: never given back, so they may be registered with a
 *             device; counted against the budget once, at open
 *   chunk     64 neighbouring frames: what one readahead fills and reclaim fills with clean victims
 *   reader    a frame of its own into which one fault reads
 *
 *   use       what a chunk was taken for; each use has a queue of its own
 *   spare     chunks in which nothing is of use
 *
 * Always: a chunk is either taken, by one thread that fills it, or in a queue. The oldest of a
 * queue is the next to be taken; its pages that nobody wanted meanwhile become OUT then, which
 * costs nothing, because their slots still hold them. A frame's owner is a hint, its page's
 * descriptor is the truth: a page that left the cache does not tell its frame.
 *
 * Half of the chunks are each use's own as soon as it asks for them. Otherwise a stream, which
 * turns the slab over in milliseconds, would take the second chance from everybody (seed E21). What
 * the other use has left alone for long may be taken, too.
 */

#include "runtime/base/lock.h"
#include "runtime/memory/page.h"

#define WR_CACHE_CHUNK   64u
#define WR_READERS_MAX   64u
#define WR_CHUNK_OF_NONE UINT32_MAX

enum wr_cache_use { WR_CACHE_AHEAD, WR_CACHE_CHANCE, WR_CACHE_SPARE, WR_CACHE_USES };

struct wr_cache_queue {
    uint32_t *chunks; /* a ring with room for all */
    uint32_t first, count;
};

struct wr_cache {
    /* Constant after wr_cache_init(). */
    struct wr_pages *pages;
    uint32_t reader_count;
    uint32_t chunk_count;
    uint32_t first_frame; /* of the first chunk; readers come before */

    /* Each entry is kept by whoever has taken its chunk. Page number, or WR_FRAME_NONE. */
    uint32_t *owners;

    /* Kept by `lock` (WR_RANK_CACHE). */
    struct wr_lock lock;
    struct wr_cache_queue queues[WR_CACHE_USES];
    uint32_t owned[WR_CACHE_USES]; /* chunks of a use, those that are taken included    */
    uint32_t takes;                /* a clock                                           */
    uint32_t *put_at;              /* of each chunk: by that clock                      */
    uint8_t *uses;                 /* of each chunk                                     */

    _Atomic(uint64_t) readers_free;   /* one bit each                                        */
    _Atomic(uint32_t) readers_turn;   /* counts readers that were put: faults sleep on it    */
    _Atomic(uint32_t) readers_wanted; /* faults that sleep on it                             */
};

/* How many frames the slab will have. */
uint32_t wr_cache_frames(uint32_t reader_count, uint32_t chunk_count);

int wr_cache_init(struct wr_cache *cache, struct wr_pages *pages, uint32_t reader_count,
                  uint32_t chunk_count);
void wr_cache_fini(struct wr_cache *cache);

/* Take a chunk for this use, emptied. Its first frame, or WR_FRAME_NONE when all are taken. Runtime
 * threads, inside the gate: waits for page locks. */
uint32_t wr_cache_take(struct wr_cache *cache, enum wr_cache_use use);
/* Give it back as the youngest of its use, or, when nothing in it is of use, as a spare one. */
void wr_cache_put(struct wr_cache *cache, uint32_t first_frame, bool is_useful);

/* Say whose bytes are in a frame of a chunk that the caller has taken. */
void wr_cache_own(struct wr_cache *cache, uint32_t frame, uint32_t page);

/* The first frame beyond the chunk that holds this one. */
uint32_t wr_cache_chunk_end(const struct wr_cache *cache, uint32_t frame);

/* A frame to read into; waits for one. Signal. */
uint32_t wr_cache_reader_take(struct wr_cache *cache);
void wr_cache_reader_put(struct wr_cache *cache, uint32_t frame);

/* Bytes of bookkeeping. */
uint64_t wr_cache_metadata(const struct wr_cache *cache);
