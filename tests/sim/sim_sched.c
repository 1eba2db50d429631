/* SPDX-License-Identifier: MIT */

/*
 * Threads and time. With the baton exactly one thread runs; time passes a little at every point,
 * and leaps when nobody can run. Threads are real ones, so that what belongs to a thread does.
 */

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/lock.h"
#include "tests/sim/sim.h"

#define POINTS_MAX 1000000000ull /* of a seed: more is a loop without end */
#define TICK_NS    20u
#define YIELD_NS   500u
#define WEIGHT_MAX 64u

enum state { THREAD_READY, THREAD_BLOCKED, THREAD_DONE };

struct sim_thread {
    pthread_t thread;
    uint32_t index;
    enum state state;
    void (*run)(void *);
    void *context;
    uint64_t random;

    _Atomic(uint32_t) has_baton; /* a futex */
    _Atomic(uint32_t) is_done;   /* joiners sleep on it */
    const void *word;            /* blocked on */
    uint64_t wake_at_ns;
    uint32_t weight; /* how often it is chosen, compared with the others */
    bool is_joined;  /* another may have its place */
};

static struct sim_thread threads[SIM_THREADS_MAX];
static uint32_t thread_count; /* places that were ever taken */
static uint32_t started;
static uint64_t now_ns;
static uint64_t chooser; /* the scheduler's own chance */
static uint32_t until_switch;
static _Atomic(uint32_t) machine;
static bool is_frozen; /* no other thread may run: the world is looked at */
static _Thread_local struct sim_thread *self;

static uint64_t real_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static long futex(const void *word, int operation, uint32_t value, const struct timespec *until)
{
    return syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, until, NULL,
                   FUTEX_BITSET_MATCH_ANY);
}

static uint64_t choose(uint64_t limit)
{
    chooser ^= chooser << 13;
    chooser ^= chooser >> 7;
    chooser ^= chooser << 17;
    return (chooser >> 11) % limit;
}

/* --- The baton ------------------------------------------------------------------------------- */

static void baton_pass(struct sim_thread *to)
{
    atomic_store(&to->has_baton, 1);
    futex(&to->has_baton, FUTEX_WAKE, 1, NULL);
}

static void baton_await(struct sim_thread *t)
{
    while (!atomic_load(&t->has_baton))
        futex(&t->has_baton, FUTEX_WAIT_BITSET, 0, NULL);
    atomic_store(&t->has_baton, 0);
}

static bool can_run(const struct sim_thread *t)
{
    return t->state == THREAD_READY || (t->state == THREAD_BLOCKED && t->wake_at_ns <= now_ns);
}

static void leap(void)
{
    uint64_t first = WR_FOREVER;

    for (uint32_t i = 0; i < thread_count; i++)
        if (threads[i].state == THREAD_BLOCKED && threads[i].wake_at_ns < first)
            first = threads[i].wake_at_ns;
    if (first == WR_FOREVER)
        sim_fail("deadlock: nobody can run, and nothing is to come");
    now_ns = first;
}

static struct sim_thread *next_thread(void)
{
    uint64_t sum = 0, at;

    for (;;) {
        for (uint32_t i = 0; i < thread_count; i++)
            sum += can_run(&threads[i]) ? threads[i].weight : 0;
        if (sum)
            break;
        leap();
    }
    at = choose(sum);
    for (uint32_t i = 0;; i++) {
        uint32_t weight = can_run(&threads[i]) ? threads[i].weight : 0;

        if (at < weight)
            return &threads[i];
        at -= weight;
    }
}

static void draw_until_switch(void)
{
    until_switch = 1 + (uint32_t)choose(2ull * sim.profile.switch_every + 1);
}

/* Let whoever is chosen run; returns when this thread is chosen again. */
static void reschedule(struct sim_thread *t)
{
    struct sim_thread *next = next_thread();

    draw_until_switch();
    if (choose(16) == 0)
        threads[choose(thread_count)].weight = choose(2) ? 1 : 1 + (uint32_t)choose(WEIGHT_MAX);
    next->state = THREAD_READY;
    next->word = NULL;
    if (next == t)
        return;
    sim.result->switches++;
    sim_event("switch", next->index, 0);
    baton_pass(next);
    if (t->state != THREAD_DONE)
        baton_await(t);
}

static void block_until(const void *word, uint64_t deadline_ns)
{
    self->state = THREAD_BLOCKED;
    self->word = word;
    self->wake_at_ns = deadline_ns;
    reschedule(self);
}

/* Somebody is kept from running: a moment, a time slice, or by a machine that swaps. */
static uint64_t stall_most_ns(void)
{
    uint64_t kind = choose(64);

    return kind > 8 ? 20000 : kind > 1 ? 1000000 : 30000000;
}

void sim_point(void)
{
    if (!self || sim.options.is_free || is_frozen)
        return;
    now_ns += TICK_NS;
    if (++sim.result->points > POINTS_MAX)
        sim_fail("no end: more than %llu points", POINTS_MAX);
    if (--until_switch > 0)
        return;
    if (choose(sim.profile.stall_every) < sim.profile.switch_every)
        block_until(NULL, now_ns + 1 + choose(stall_most_ns()));
    else
        reschedule(self);
}

/* --- Sleeping and waking --------------------------------------------------------------------- */

uint64_t sim_now_ns(void)
{
    return sim.options.is_free ? real_ns() : now_ns;
}

static uint32_t value_of(const void *word)
{
    return __atomic_load_n((const uint32_t *)word, __ATOMIC_SEQ_CST);
}

void sim_block(const void *word, uint32_t expect, uint64_t deadline_ns)
{
    if (sim.options.is_free) {
        struct timespec until = {(time_t)(deadline_ns / 1000000000u),
                                 (long)(deadline_ns % 1000000000u)};

        futex(word, FUTEX_WAIT_BITSET, expect, deadline_ns == WR_FOREVER ? NULL : &until);
        return;
    }
    if (value_of(word) != expect || deadline_ns <= now_ns) {
        now_ns += YIELD_NS;
        sim_point();
        return;
    }
    if (sim_one_in(sim.profile.wakes_early) && deadline_ns > now_ns + 1000)
        deadline_ns = now_ns + 1 + sim_below(1000);
    block_until(word, deadline_ns);
}

void sim_wake(const void *word, uint32_t count)
{
    if (sim.options.is_free) {
        futex(word, FUTEX_WAKE, count > INT_MAX ? INT_MAX : count, NULL);
        return;
    }
    for (uint32_t from = (uint32_t)choose(thread_count), i = 0; i < thread_count && count > 0;
         i++) {
        struct sim_thread *t = &threads[(from + i) % thread_count];

        if (t->state != THREAD_BLOCKED || t->word != word)
            continue;
        t->state = THREAD_READY;
        t->word = NULL;
        count--;
    }
    sim_point();
}

void sim_sleep(uint64_t ns)
{
    static const uint32_t nothing;

    if (sim.options.is_free)
        sim_block(&nothing, 0, real_ns() + ns);
    else
        block_until(NULL, now_ns + ns);
}

void sim_yield(void)
{
    if (sim.options.is_free) {
        sched_yield();
        return;
    }
    now_ns += YIELD_NS;
    reschedule(self);
}

/* --- Threads --------------------------------------------------------------------------------- */

static void *thread_main(void *context)
{
    struct sim_thread *t = context;

    self = t;
    if (!sim.options.is_free)
        baton_await(t);
    t->run(t->context);
    atomic_store(&t->is_done, 1);
    sim_wake(&t->is_done, UINT32_MAX);
    t->state = THREAD_DONE;
    if (!sim.options.is_free)
        reschedule(t);
    return NULL;
}

static struct sim_thread *enter_thread(const char *name)
{
    struct sim_thread *t;
    uint32_t index = 0;

    sim_machine_take();
    while (index < thread_count && !threads[index].is_joined)
        index++;
    if (index == SIM_THREADS_MAX)
        sim_fail("too many threads");
    t = &threads[index];
    *t = (struct sim_thread){
        .index = index,
        .random = sim.options.seed * 0x2545f4914f6cdd1du + started * 0x9e3779b9u,
        .weight = 1 + started % 7,
    };
    snprintf(sim.result->names[index], sizeof(sim.result->names[0]), "%s", name);
    thread_count += index == thread_count;
    started++;
    sim_machine_drop();
    return t;
}

struct sim_thread *sim_thread_start(const char *name, void (*run)(void *), void *context)
{
    struct sim_thread *t = enter_thread(name);

    t->run = run;
    t->context = context;
    if (pthread_create(&t->thread, NULL, thread_main, t) != 0)
        sim_fail("no thread");
    sim_point();
    return t;
}

void sim_thread_join(struct sim_thread *t)
{
    while (!atomic_load(&t->is_done))
        sim_block(&t->is_done, 0, WR_FOREVER);
    while (!sim.options.is_free && t->state != THREAD_DONE)
        sim_yield();
    pthread_join(t->thread, NULL);
    sim_machine_take();
    t->is_joined = true;
    sim_machine_drop();
}

uint32_t sim_threads_alive(void)
{
    uint32_t alive = 0;

    for (uint32_t i = 0; i < thread_count; i++)
        alive += !atomic_load(&threads[i].is_done);
    return alive;
}

static bool others_rest(void)
{
    for (uint32_t i = 0; i < thread_count && !sim.options.is_free; i++) {
        const struct sim_thread *t = &threads[i];
        bool sleeps = t->state == THREAD_BLOCKED && t->word; /* and is not just held up */

        if (t != self && t->state != THREAD_DONE && !sleeps)
            return false;
    }
    return true;
}

bool sim_freeze(void)
{
    is_frozen = others_rest();
    return is_frozen;
}

void sim_thaw(void)
{
    is_frozen = false;
}

uint32_t sim_thread_index(void)
{
    return self ? self->index : 0;
}

uint64_t *sim_thread_random(void)
{
    return &self->random;
}

void sim_sched_open(void)
{

    chooser = sim.options.seed * 0x9e3779b97f4a7c15u + 0x1234567u;
    now_ns = 1000000;
    until_switch = 100;
    self = enter_thread("main");
    if (!sim.options.is_free) {
        cpu_set_t one;

        /* One after the other anyway: on one processor the baton need not travel. */
        CPU_ZERO(&one);
        CPU_SET(sched_getcpu(), &one);
        sched_setaffinity(0, sizeof(one), &one);
        wr_lock_point_fn = sim_point;
    }
}

void sim_sched_dump(void)
{
    static const char *const states[] = {"ready", "blocked", "done"};

    for (uint32_t i = 0; i < thread_count && !sim.options.is_free; i++) {
        const struct sim_thread *t = &threads[i];

        fprintf(stderr, "  thread %-2u %-12s %-8s", i, sim.result->names[i], states[t->state]);
        if (t->state == THREAD_BLOCKED && t->wake_at_ns != WR_FOREVER)
            fprintf(stderr, " until %llu", (unsigned long long)t->wake_at_ns);
        fprintf(stderr, "%s\n", t == self ? " (this one)" : "");
    }
}

/* --- Mutexes --------------------------------------------------------------------------------- */

/* The runtime's mutexes come by here (linked with --wrap): whoever sleeps in one would keep the
 * baton. */
int __real_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex);
int __real_pthread_mutex_unlock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex);

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
    if (!self || sim.options.is_free)
        return __real_pthread_mutex_lock(mutex);
    sim_point();
    while (pthread_mutex_trylock(mutex) != 0)
        sim_yield();
    return 0;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    int error = __real_pthread_mutex_unlock(mutex);

    sim_point();
    return error;
}

void sim_machine_take(void)
{
    if (!sim.options.is_free)
        return;
    while (atomic_exchange_explicit(&machine, 1, memory_order_acquire))
        sched_yield();
}

void sim_machine_drop(void)
{
    if (sim.options.is_free)
        atomic_store_explicit(&machine, 0, memory_order_release);
}
