/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The queue pairs of a memory server for fuzzing it, in place of transport/memd/rdma.c: without a
 * device, they are entries of a table.
 *
 * Checked at every call: the law of rdma.h. A queue is of a lease that has a user; a line has one
 * at most; and none is left of a lease whose memory is given back.
 */

#include "transport/memd/rdma.h"

#define QUEUES_PORT 4791u

/* An empty table; this book tells when a lease's memory is given back. */
struct memd_rdma *queues_begin(struct memd_book *book);
/* A queue pair comes, and shows this. */
void queues_come(const uint8_t token[WR_TOKEN_BYTES]);
/* May its client have been told this? */
bool queues_are_at(const struct memd_queue *queue, uint64_t address, uint32_t key);
/* Is there none? */
bool queues_are_gone(void);
