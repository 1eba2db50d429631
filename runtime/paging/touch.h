/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Touch: one touch on its way, between fault.c and touch.c: who it is, and how pages that are not
 * mapped are brought.
 */

#include "runtime/host/peer.h"
#include "runtime/memory/object.h"
#include "runtime/memory/trace.h"
#include "runtime/paging/aging.h"
#include "runtime/paging/fault.h"
#include "runtime/paging/run.h"

/* The kernel has no memory for a page: beside the errors of the list, and not for outside. */
#define WR_KERNEL_FULL 1

struct fault {
    struct wr_space *space;
    struct wr_region *region;
    uint32_t page;
    enum wr_access access;
    enum wr_presence presence;
    bool is_pin;
    bool is_try;     /* a pin that gives up rather than wait for anything            */
    bool has_joined; /* waited for a read of somebody else's                  */
    bool has_frame;  /* taken from the budget and not yet given to the page */
    uint8_t kind;    /* what it was, for the trace (enum weir_trace_kind); 0: nothing yet */
};

static inline uint64_t wr_touch_now(const struct fault *f)
{
    return f->space->host->ops->now_ns(f->space->host);
}

static inline uint64_t wr_touch_addr(const struct fault *f)
{
    return wr_region_addr(f->region, f->page);
}

static inline void wr_touch_count(const struct fault *f, enum wr_counter counter)
{
    wr_stats_count(f->space->stats, counter);
}

/* For the region that was touched, and no other: its share of a counter above. */
static inline void wr_touch_count_here(const struct fault *f, enum wr_region_counter counter)
{
    wr_region_add(f->region, counter, 1);
}

/* The host's place(), for pages that we have locked. */
static inline enum wr_hosted wr_touch_place(const struct fault *f, uint32_t page, const void *bytes,
                                            uint32_t pages, bool protect, uint32_t *done_p)
{
    wr_object_mapped(f->region, page, pages);
    return f->space->host->ops->place(f->space->host, wr_region_addr(f->region, page), bytes, pages,
                                      protect, done_p);
}

/* What a touch was, for the trace; the first that is said counts. */
static inline void wr_touch_was(struct fault *f, enum weir_trace_kind kind)
{
    if (f->kind == 0)
        f->kind = (uint8_t)kind;
}

static inline void wr_touch_put(const struct fault *f, struct wr_hold *hold)
{
    wr_page_put(&f->space->pages, hold);
}

/* The kernel's answer to mapping a page, as an error of ours. */
int wr_touch_judge(const struct fault *f, enum wr_hosted hosted);
/* The page is as the touch wants it: put it, pinned if that was the wish. */
int wr_touch_done(const struct fault *f, struct wr_hold *hold);

/* Each serves a touch that found its page in such a state; the page is put, whatever comes of it.
 */
int wr_touch_empty(struct fault *f, struct wr_hold *hold, const struct wr_plan *plan);
int wr_touch_cached(struct fault *f, struct wr_hold *hold, const struct wr_plan *plan);
int wr_touch_out(struct fault *f, struct wr_hold *hold);
/* A store to RESIDENT_ZERO. */
int wr_touch_zero(struct fault *f, struct wr_hold *hold);
