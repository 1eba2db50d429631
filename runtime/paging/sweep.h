/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Sweep: page tables that map nothing are given back to the kernel (seed E30).
 *
 * Pages leave one by one or by the batch, and the kernel frees a page table only when all 2 MiB of
 * it are dropped by one call (Linux 6.14, CONFIG_PT_RECLAIM). So a thread of its own, which sleeps
 * as long as there is nothing to do, drops each chunk of which nothing has been mapped for a
 * second, while it holds all its pages. A chunk that maps only the system's page of zeros has a
 * page table too: it is dropped when page tables take more than a 64th of the budget.
 */

#include "runtime/memory/space.h"

struct wr_sweep;

/* Before any region is mapped. */
int wr_sweep_open(struct wr_space *space, struct wr_sweep **sweep_p);
/* After the last is unmapped. NULL is allowed. */
void wr_sweep_close(struct wr_sweep *sweep);

/* Drop the chunk if nothing of it is mapped, but perhaps zeros, and nobody has a page of it. With a
 * forgettable chunk, all of whose pages are EMPTY, its descriptors go too. Inside the gate. */
bool wr_sweep_chunk(struct wr_region *region, uint32_t chunk, bool forget);
