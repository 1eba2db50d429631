/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Reclaim: when pages leave, and how many. The thread is kswapd.
 *
 *   pressure   free frames fell below low, or somebody waits for one: kswapd is woken
 *   shortage   frames that are missing to high, those that writes in flight will free deducted
 *   round      drop what can be dropped; only if that was not enough, stage and write
 *
 * Always: kswapd alone frees, so that a fault never does (seed C18). One round drops or stages no
 * more than the shortage and one cluster; how is in evict.h. It waits for writes only when nothing
 * else is left to do (C10).
 */

#include "runtime/paging/kpaged.h"

struct wr_reclaim;

/* Prepare; no thread yet, so that the pressure callback has something to ring. */
int wr_reclaim_open(struct wr_space *space, uint32_t drop_batch, struct wr_reclaim **reclaim_p);
/* The pager and the aging are there: run. kpaged NULL: without one. */
int wr_reclaim_start(struct wr_reclaim *reclaim, struct wr_kpaged *kpaged);
/* Stop when what is being written is written. */
void wr_reclaim_stop(struct wr_reclaim *reclaim);
void wr_reclaim_close(struct wr_reclaim *reclaim);

/* The pressure callback of the frames. context is the reclaim. Signal. */
void wr_reclaim_press(void *context);

/* Let these pages leave before others. A hint: when too many wait, the oldest is forgotten. */
void wr_reclaim_cold(struct wr_reclaim *reclaim, uint32_t page, uint32_t count);
