/* SPDX-License-Identifier: MIT */

/* Time, sleep, threads: the part of the host that is the scheduler's. */

#include "tests/sim/sim_object.h"

#define BELLS_MAX 8u

static _Atomic(uint32_t) bells[BELLS_MAX];
static bool bell_used[BELLS_MAX];

uint32_t sim_bell_count(void)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < BELLS_MAX; i++)
        count += bell_used[i];
    return count;
}

static uint64_t fake_now_ns(struct wr_host *h)
{
    (void)h;
    sim_point();
    return sim_now_ns();
}

static void fake_park(struct wr_host *h, const void *word, uint32_t expect, uint64_t deadline_ns)
{
    (void)h;
    sim_point();
    sim_block(word, expect, deadline_ns);
}

static void fake_unpark(struct wr_host *h, const void *word, uint32_t count)
{
    (void)h;
    sim_point();
    sim_wake(word, count);
}

static void fake_yield(struct wr_host *h)
{
    (void)h;
    sim_yield();
}

static int fake_bell_init(struct wr_host *h, struct wr_bell *bell)
{
    uint32_t i = 0;

    (void)h;
    while (i < BELLS_MAX && bell_used[i])
        i++;
    if (i == BELLS_MAX)
        sim_fail("too many bells");
    bell_used[i] = true;
    bell->fd = (int)i;
    return WEIR_OK;
}

static void fake_bell_fini(struct wr_host *h, struct wr_bell *bell)
{
    (void)h;
    bell_used[bell->fd] = false;
}

static void fake_bell_ring(struct wr_host *h, struct wr_bell *bell)
{
    (void)h;
    sim_point();
    sim_event("ring", (uint64_t)bell->fd, 0);
    atomic_store(&bells[bell->fd], 1);
    sim_wake(&bells[bell->fd], 1);
}

static void fake_bell_wait(struct wr_host *h, struct wr_bell *bell, const int *fds,
                           uint32_t fd_count, uint64_t deadline_ns)
{
    (void)h;
    sim_event("bell wait", (uint64_t)bell->fd, fd_count);
    sim_point();
    for (uint32_t i = 0; i < fd_count; i++) {
        uint64_t due = sim_fd_due_ns(fds[i]);

        if (due < deadline_ns)
            deadline_ns = due;
    }
    if (!atomic_load(&bells[bell->fd]))
        sim_block(&bells[bell->fd], 0, deadline_ns);
    atomic_store(&bells[bell->fd], 0);
}

static int fake_thread_start(struct wr_host *h, const char *name, void (*run)(void *),
                             void *context, void **thread_p)
{
    (void)h;
    *thread_p = sim_thread_start(name + 5, run, context); /* without "weir-" */
    return WEIR_OK;
}

static void fake_thread_idle(struct wr_host *h)
{
    (void)h; /* every order of threads is tried anyway */
}

static void fake_thread_stop(struct wr_host *h, void *thread)
{
    (void)h;
    sim_thread_join(thread);
}

void sim_time_ops(struct wr_host_ops *ops)
{
    ops->now_ns = fake_now_ns;
    ops->park = fake_park;
    ops->unpark = fake_unpark;
    ops->yield = fake_yield;
    ops->bell_init = fake_bell_init;
    ops->bell_fini = fake_bell_fini;
    ops->bell_ring = fake_bell_ring;
    ops->bell_wait = fake_bell_wait;
    ops->thread_start = fake_thread_start;
    ops->thread_stop = fake_thread_stop;
    ops->thread_idle = fake_thread_idle;
}
