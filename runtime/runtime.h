/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Runtime: the roof. Builds the house in order and tears it down in reverse; the only room that
 * knows paging and swap at the same time.
 *
 *   budget    total memory; slab + frames + what the engine needs in passing == budget
 *
 * Always: after wr_runtime_open() everything runs; after wr_runtime_close() nothing is left, no
 * thread, descriptor, mapping or handler.
 */

#include "runtime/memory/object.h"
#include "runtime/paging/kheat.h"
#include "runtime/paging/ktrace.h"
#include "runtime/paging/reclaim.h"
#include "runtime/paging/sweep.h"
#include "runtime/swap/swap.h"

#define WR_RUNTIMES_MAX 16u /* of one process */

struct weir_runtime {
    struct wr_space space; /* first */
    struct wr_host *host;
    struct wr_stats *stats;
    struct wr_reclaim *reclaim;
    struct wr_kpaged *kpaged;
    struct wr_sweep *sweep;
    struct wr_kheat *kheat;     /* NULL: no source of heat was asked for */
    struct wr_ktrace *ktrace;   /* NULL: no trace was asked for */
    struct wr_publish *publish; /* NULL: nobody is to watch */
    struct wr_share *share;     /* NULL: no object was ever shared; set under WR_RANK_RUNTIME */
    struct wr_swap *swap;
    struct weir_options settings; /* strings are copies */
    char *strings[6];             /* those copies       */

    struct wr_lock backends_lock; /* WR_RANK_BACKENDS */
    struct wr_lock lock;          /* WR_RANK_RUNTIME: regions and the budget */
    _Atomic(uint64_t) budget_pages;
    uint32_t reserved_pages; /* of the budget: slab and transient frames */
};

/* host NULL: the real one is opened; else it is taken over, also on failure. */
int wr_runtime_open(const struct weir_options *options, struct wr_host *host,
                    struct weir_runtime **runtime_p);
void wr_runtime_close(struct weir_runtime *rt);

/* Makes room by kept regions if there is none: all signals blocked, as below. */
int wr_runtime_map(struct weir_runtime *rt, uint64_t bytes, uint64_t reserve, const char *name,
                   struct wr_region **region_p);
/* WEIR_ENOENT: no region of this runtime begins there. */
int wr_runtime_unmap(struct weir_runtime *rt, uint64_t addr);
/* Take the region that begins there for oneself, by is_changing, to resize or move it. */
int wr_runtime_change(struct weir_runtime *rt, uint64_t addr, struct wr_region **region_p);
/* move.c. The errors of weir_move(). */
int wr_runtime_move_region(struct weir_runtime *rt, uint64_t addr, uint64_t reserve,
                           uint64_t *addr_p);
/* The region goes to addresses that nobody knows. By whoever changes it; if it cannot, it is where
 * it was. */
int wr_runtime_hide_region(struct weir_runtime *rt, struct wr_region *region);
/* keep.c. The errors of weir_unmap_keep(); of weir_map() with reattach. */
int wr_runtime_keep(struct weir_runtime *rt, uint64_t addr);
int wr_runtime_reattach(struct weir_runtime *rt, uint64_t bytes, uint64_t reserve, const char *name,
                        struct wr_region **region_p);
/* Discard kept regions, the oldest first, until there are page numbers for a region or none is left
 * to be discarded. Under WR_RANK_RUNTIME, which is let go of meanwhile. */
void wr_runtime_make_room(struct weir_runtime *rt, uint64_t bytes, uint64_t reserve);
/* The same with the one whose page numbers follow; false: it is none that is kept. */
bool wr_runtime_forget_next(struct weir_runtime *rt, const struct wr_region *region);
/* resize.c. The errors of weir_resize(). */
int wr_runtime_resize_region(struct weir_runtime *rt, uint64_t addr, uint64_t bytes);
/* The end of a region that is going. */
void wr_runtime_end_region(struct weir_runtime *rt, struct wr_region *region);
/* Bring a region that is going to where every page of it is EMPTY and nobody comes to it. */
void wr_runtime_empty(struct weir_runtime *rt, struct wr_region *region);
int wr_runtime_resize(struct weir_runtime *rt, uint64_t bytes, uint32_t timeout_ms);

/* runtime_object.c */
int wr_runtime_create(struct weir_runtime *rt, uint64_t bytes, const char *name,
                      struct weir_object **object_p);
int wr_runtime_map_view(struct weir_object *object, uint64_t offset, uint64_t bytes,
                        struct wr_region **view_p);
/* A view that another process has mapped; an attached process has left. */
int wr_runtime_adopt_view(struct weir_object *object, uint64_t offset, uint64_t bytes,
                          uint64_t addr);
void wr_runtime_leave_object(struct weir_object *object);
/* WEIR_ENOENT: no view of this runtime begins there. */
int wr_runtime_unmap_view(struct weir_runtime *rt, uint64_t addr);
void wr_runtime_close_object(struct weir_object *object);
/* All of them, with their views, whoever still has one. */
void wr_runtime_end_objects(struct weir_runtime *rt);

/* True in a fork child of a process that had a runtime open. */
bool wr_runtime_is_forked(void);
/* The i-th open runtime of the process, or NULL. Signal. */
struct weir_runtime *wr_runtime_at(uint32_t i);

/* The runtime of a space: it is its first member. */
static inline struct weir_runtime *wr_runtime_of(struct wr_space *space)
{
    return (struct weir_runtime *)(void *)space;
}

/* report.c */
/* Print the report of every open runtime on standard error when this signal comes. */
int wr_report_arm(int number);
void wr_report_gauges(struct weir_runtime *rt, struct weir_stats *stats);
/* What one region says of itself. Inside the gate. Signal. */
void wr_report_region(const struct wr_region *region, struct weir_region_stats *stats);
/* The region of that number that the program has, or NULL. Inside the gate. Signal. */
struct wr_region *wr_report_region_of(const struct weir_runtime *rt, uint32_t number);
/* The region at this position, 0 first, or NULL. Inside the gate. Signal. */
struct wr_region *wr_report_region_at(struct weir_runtime *rt, uint32_t position);
