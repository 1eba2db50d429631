/* SPDX-License-Identifier: MIT */
#include "runtime/memory/gate.h"

#include "runtime/base/lock.h"
#include "runtime/base/stats.h"

#define LOOK_EVERY_NS 50000

struct wr_gate wr_gate = {.waiting = PTHREAD_MUTEX_INITIALIZER};

struct wr_pass wr_gate_enter(void)
{
    struct wr_gate_shard *shard = &wr_gate.shard[wr_stats_thread_index() % WR_GATE_SHARDS];
    uint32_t phase = atomic_load_explicit(&wr_gate.phase, memory_order_relaxed);

    /* Sequentially consistent, like the loads in drain_phase(): either the waiter sees us, or we
     * entered after it unpublished and see nothing old. That holds for a stale phase too. */
    atomic_fetch_add(&shard->inside[phase], 1);
    return (struct wr_pass){&shard->inside[phase]};
}

void wr_gate_leave(struct wr_pass pass)
{
    atomic_fetch_sub(pass.inside, 1);
}

static void look_later(struct wr_host *host)
{
    static const uint32_t nothing;

    host->ops->park(host, &nothing, 0, host->ops->now_ns(host) + LOOK_EVERY_NS);
}

static void drain_phase(struct wr_host *host, uint32_t phase)
{
    for (uint32_t i = 0; i < WR_GATE_SHARDS; i++)
        while (atomic_load(&wr_gate.shard[i].inside[phase]) != 0) {
            look_later(host);
            wr_lock_point();
        }
}

void wr_gate_wait(struct wr_host *host)
{
    uint32_t phase;

    /* Parked, not yielding: a real-time thread yields to none of those below it. */
    while (pthread_mutex_trylock(&wr_gate.waiting) != 0)
        look_later(host);
    phase = atomic_load(&wr_gate.phase);
    drain_phase(host, 1 - phase); /* stragglers of the wait before */
    atomic_store(&wr_gate.phase, 1 - phase);
    drain_phase(host, phase);
    pthread_mutex_unlock(&wr_gate.waiting);
}
