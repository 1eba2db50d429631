/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Evict: pages are taken from the program.
 *
 *   lot      candidates, in rising order; each is judged again under its lock
 *   drop     take away pages that cost nothing: clean ones, freed ones
 *   chance   a dropped page's bytes stay in the swap cache for a while
 *   stage    revoke dirty pages into an extent, where they wait to be written
 *   defer    staged pages that are held back from writing, since some are wanted again; not while
 *            anybody waits (seed C25)
 *   crowd    pages of an object that shows in many views. To free one costs a look at each view, to
 *            free neighbours no more; so clean and dirty ones of a lot go together
 *
 * Always: it only tries locks: a page that is busy is not a victim (seed D9), and goes back to its
 * queue. All of this is kswapd's.
 */

#include "runtime/memory/space.h"

#define WR_EVICT_APART 8u /* dirty pages that are locked together when they are no neighbours */
#define WR_EVICT_TOGETHER \
    128u /* and when they are: one system call takes them                    */
#define WR_EVICT_LOT WR_EXTENT_FRAMES

struct wr_victim {
    struct wr_hold hold;
    uint64_t addr;
    uint32_t frame; /* that keeps its bytes, or WR_FRAME_NONE */
    bool is_dirty;
    bool is_kept; /* of a region that nobody has mapped */
};

struct wr_evict {
    /* Constant after wr_evict_init(). */
    struct wr_space *space;
    uint32_t drop_batch; /* clean pages that are taken together */

    struct wr_extent *extent; /* being filled, or NULL                         */
    uint64_t staged_ns;       /* when a page was staged last                   */
    uint64_t defer;           /* staged pages that are held back from writing  */
    uint64_t revoked;         /* dirty pages staged since the last lesson      */
    uint64_t found_seen;      /* of the counter of those that were wanted again */
    uint64_t staged_lately;   /* pages; counts that fade: by an eighth each time */
    uint64_t dropped_lately;  /* that kswapd is woken                         */
    bool tries_writing;       /* dirty victims, or staged pages to write: of this round */
    uint32_t chance_frame;    /* first of the chunk that takes victims; or none */
    uint32_t chance_used;     /* frames of it that are taken                   */

    uint32_t clean[WR_EVICT_LOT], dirty[WR_EVICT_LOT], crowd[WR_EVICT_LOT];
    struct wr_victim victims[WR_EVICT_TOGETHER];
    struct wr_revoke revokes[WR_EVICT_TOGETHER];
    struct wr_span spans[WR_EVICT_TOGETHER];
    struct wr_copy copies[WR_EVICT_TOGETHER];
};

void wr_evict_init(struct wr_evict *evict, struct wr_space *space, uint32_t drop_batch);

/* Evict what of a lot is evictable: all, or only what can be dropped, with what goes along in a
 * crowd. Dirty pages beyond the room of the open extent go back to their queue. How many went.
 * Inside the gate. */
uint32_t wr_evict_lot(struct wr_evict *evict, const uint32_t *pages, uint32_t count,
                      bool clean_only);

/* The pages that the open extent has room for. */
uint32_t wr_evict_room(const struct wr_evict *evict);
/* It waits to be written from now on, though it is not full. */
void wr_evict_close_extent(struct wr_evict *evict);

/* Staged pages that are not to be written yet; and all that are staged and wait. */
uint64_t wr_evict_deferred(const struct wr_evict *evict);
uint64_t wr_evict_staged(const struct wr_evict *evict);
/* Pages to stage before a cluster can be written beside what is deferred. No more are revoked than
 * that (seed C6). */
uint64_t wr_evict_missing(const struct wr_evict *evict);
/* What has deferring been worth? */
void wr_evict_learn(struct wr_evict *evict);

/* Is the page one of a crowd? */
bool wr_evict_is_crowded(struct wr_space *space, uint32_t page);
