/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Pager: how the verbs that decide (paging) meet the ones that carry (swap, in time share).
 *
 *   read     bring one page for a thread that waits
 *   fetch    bring a run of pages for nobody yet: readahead, drain
 *   inspect  look at dirty pages that were just staged: which need a write at all?
 *   launder  write staged pages
 *   lane     a runtime thread's own way to all back ends
 *
 * Always: the pager moves bytes and slots; it makes the moves that I/O itself makes (writing,
 * written, failed), and leaves to paging which page and when. No lock is held while calling it.
 */

#include <stdbool.h>
#include <stdint.h>

#include "runtime/memory/page.h"
#include "runtime/memory/staging.h"

struct wr_pager;
struct wr_lane;

#define WR_FETCH_PAGES 64u
#define WR_LANE_FDS    16u

/*
 * Pages to be fetched into neighbouring frames; neighbouring slots in a row are read together. The
 * pages are READING and belong to the fetch; a slot of WR_SLOT_NONE leaves a gap. Kept by the
 * requester until finished().
 */
struct wr_fetch {
    uint8_t *bytes; /* where the first page goes; the others follow, gaps too */
    uint32_t count;
    uint32_t page[WR_FETCH_PAGES];
    uint64_t slot[WR_FETCH_PAGES];
    uint32_t sum[WR_FETCH_PAGES];
    /* A page has arrived whole (WEIR_OK), or not. In reap(), once for every page with a slot. */
    void (*arrived)(struct wr_fetch *fetch, uint32_t index, int error);
    /* Nothing of it is in flight any more. In reap(), or in fetch() when nothing was begun. */
    void (*finished)(struct wr_fetch *fetch);
    void *owner;
    uint32_t pending; /* the pager's */
};

enum wr_laundered {
    WR_LAUNDERED,       /* a write is on its way                                        */
    WR_LAUNDER_NOTHING, /* no staged page needed one; frames were released              */
    WR_LAUNDER_BUSY,    /* as many writes as allowed are in flight; try after a reap()  */
    WR_LAUNDER_FULL,    /* no back end has a free slot                                  */
    WR_LAUNDER_BROKEN   /* every back end with room has failed lately                   */
};

#define WR_READ_OTHER 1

struct wr_pager_ops {
    /* Read a page and check its sum; waits. Signal. WEIR_EIO: an event has said why.
     * WR_READ_OTHER: it is as it was, but only another copy was; its slot is not to be kept. */
    int (*read)(struct wr_pager *pager, uint64_t slot, uint32_t page, uint32_t sum, void *bytes);
    /* May a page that was just read keep this slot while it is clean? Signal. */
    bool (*keeps)(struct wr_pager *pager, uint64_t slot);
    /* Is a page of this slot to give it up as soon as it was read, though nobody touched it? */
    bool (*frees_at_read)(struct wr_pager *pager, uint64_t slot);
    /* Is so little room left at the back ends that what nobody has mapped is to go? */
    bool (*is_crowded)(struct wr_pager *pager);
    /* The page no longer needs the slot. Signal. */
    void (*forget)(struct wr_pager *pager, uint64_t slot);

    int (*lane_open)(struct wr_pager *pager, struct wr_lane **lane_p);
    void (*lane_close)(struct wr_lane *lane);
    void (*fetch)(struct wr_lane *lane, struct wr_fetch *fetch);
    /* Finish what has arrived or was written. True: something was. */
    bool (*reap)(struct wr_lane *lane);
    /* Descriptors to sleep on; how many. Anything in flight that needs no descriptor is finished
     * by the next reap(). */
    uint32_t (*wait_fds)(struct wr_lane *lane, int fds[WR_LANE_FDS]);
    bool (*is_idle)(const struct wr_lane *lane);

    /* Forget staged pages of zeros or with a free hint; sum the rest. How many remain. */
    uint32_t (*inspect)(struct wr_pager *pager, struct wr_extent *extent);
    /* Write up to one cluster of what is staged. */
    enum wr_laundered (*launder)(struct wr_lane *lane);
    /* Frames that writes in flight will free when they are done. */
    uint32_t (*coming)(const struct wr_lane *lane);
    /* Housekeeping of the thread that launders, as it goes along: begin what can be begun without
     * waiting; when it is idle, also what may take a moment. When to call again, at the latest. */
    uint64_t (*tidy)(struct wr_lane *lane, bool is_idle);
};

/* A pager's own structure begins with this; so does a lane's. */
struct wr_pager {
    const struct wr_pager_ops *ops;
};

struct wr_lane {
    struct wr_pager *pager;
};
