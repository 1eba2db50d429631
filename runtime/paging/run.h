/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Run: the page that was touched and neighbours that can go the same way, all locked, so that one
 * system call serves them together.
 *
 * Always: only the first was waited for; a neighbour is taken when it is free to take and in the
 * same state, or the run ends there.
 */

#include "runtime/memory/space.h"
#include "runtime/paging/readahead.h"

#define WR_RUN_MAX 32u

struct wr_run {
    struct wr_space *space;
    struct wr_region *region;
    struct wr_hold hold[WR_RUN_MAX]; /* [0] is the page that was touched */
    uint32_t count;
    int direction; /* 1: the others are above it, -1: below */
};

/* Begin with the page that the caller holds (his hold is spent) and gather as the plan says. */
void wr_run_gather(struct wr_run *run, struct wr_region *region, const struct wr_hold *first,
                   const struct wr_plan *plan);
/* Keep only as many neighbours as there are spare frames for; those frames are taken. */
void wr_run_take_frames(struct wr_run *run);
/* Put back the neighbours; the first stays held. */
void wr_run_put_neighbours(struct wr_run *run);

/* The lowest address of the run. */
uint64_t wr_run_addr(const struct wr_run *run);
