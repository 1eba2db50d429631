/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * kpaged: the thread that ages pages ("Ludo", 2000: two jobs, two threads).
 *
 *   pass      fill the lists of victims; how far depends on the colour of the moment
 *
 * Always: it runs only when a processor has nothing else to do (SCHED_IDLE), is in nobody's way
 * while it is stopped, and neither frees nor writes. kswapd works without it, less well.
 */

#include "runtime/paging/aging.h"

struct wr_kpaged;

int wr_kpaged_open(struct wr_space *space, struct wr_kpaged **kpaged_p);
int wr_kpaged_start(struct wr_kpaged *kpaged);
void wr_kpaged_stop(struct wr_kpaged *kpaged);
void wr_kpaged_close(struct wr_kpaged *kpaged);

/* The lists want filling. Any thread; kswapd does. */
void wr_kpaged_rouse(struct wr_kpaged *kpaged);

/* How many victims the lists should hold together in this mode. Arithmetic. */
uint32_t wr_kpaged_target(enum wr_aging_mode mode, uint64_t frames);
