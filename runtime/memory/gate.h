/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Gate: who is inside, so that what they may be looking at is not taken away.
 *
 *   inside   between wr_gate_enter() and wr_gate_leave(): every fault, every runtime thread at work
 *   wait     until everybody who was inside when it began has left
 *
 * Always: wr_gate_wait() returns only when nobody can still see what was unpublished before it.
 * Entering never waits. (Sleepable read-copy-update with two phases, after McKenney's SRCU.)
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "runtime/host/host.h"

#define WR_GATE_SHARDS 32u

struct wr_gate_shard {
    _Alignas(64) _Atomic(uint64_t) inside[2];
};

struct wr_gate {
    _Atomic(uint32_t) phase;
    pthread_mutex_t waiting; /* one wr_gate_wait() at a time */
    struct wr_gate_shard shard[WR_GATE_SHARDS];
};

/* The gate of the process: regions of all runtimes are behind it. */
extern struct wr_gate wr_gate;

/* What wr_gate_leave() must be given. Signal. */
struct wr_pass {
    _Atomic(uint64_t) *inside;
};

struct wr_pass wr_gate_enter(void);
void wr_gate_leave(struct wr_pass pass);

/* Not from inside, and not in a fault. */
void wr_gate_wait(struct wr_host *host);
