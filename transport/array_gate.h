/* SPDX-License-Identifier: MIT */
#pragma once

/* Gate: who reads is inside, and whoever has changed something waits for those who may have seen it
 * as it was. See array.h. */

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

/* Each on a line of its own: every read writes to it. Zeroed, and with a lock, it is open. */
struct wr_array_gate {
    _Alignas(64) _Atomic(uint64_t) epoch;
    _Alignas(64) _Atomic(uint64_t) inside[2];
    pthread_mutex_t lock; /* one at a time waits for those inside */
};

/* Signal. The side is for who leaves. */
uint32_t wr_array_gate_enter(struct wr_array_gate *gate);
void wr_array_gate_leave(struct wr_array_gate *gate, uint32_t side);
/* Wait until everybody is outside who was inside. Not inside, nor in a signal handler. */
void wr_array_gate_wait(struct wr_array_gate *gate);
