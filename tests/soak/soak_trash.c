/* SPDX-License-Identifier: MIT */

/*
 * A leg of trashers: each in turn has a region of its own, twice the budget, and some threads,
 * which check every page they touch. Meanwhile back ends are added, drained and moved, and the
 * budget changes; half way the region moves to other addresses. In the end nothing may have grown.
 */

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "soak.h"
#include "tests/bench/trasher.h"

#define THREADS      4u
#define BUDGET       (24 * BENCH_MIB)
#define PAGES        (2 * BUDGET / BENCH_PAGE)
#define SETTLE_S     10 /* for slots under write and clusters that are discarded after a second */
#define MORE_KIB     (16 * 1024)
#define MORE_TABLES  (2 * 1024)
/* Descriptors and threads: queues are opened when they are first needed; and a back end that could
 * not be drained has so many. A leak would be one for each of hundreds of changes. */
#define MORE_ANY     8
#define MORE_BACKEND 8

struct worker {
    pthread_t thread;
    struct trasher *trasher;
    uint64_t steps;
};

struct world {
    const struct soak_trash *leg;
    struct weir_runtime *rt;
    struct bench_memory memory;
    struct worker workers[THREADS];
    uint64_t random, deadline_ns, steps, slices, moves, drains, turns;
};

static _Atomic(bool) stop;

/* --- What the trashers want of a bench ------------------------------------------------------- */

uint64_t bench_argument(const char *name, uint64_t fallback)
{
    (void)name;
    return fallback;
}

const char *bench_argument_text(const char *name, const char *fallback)
{
    (void)name;
    return fallback;
}

void bench_fail(const char *format, ...)
{
    va_list list;

    fprintf(stderr, "WRONG: ");
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fprintf(stderr, "\n");
    _exit(1);
}

/* --- Disturbances ---------------------------------------------------------------------------- */

static uint32_t count_backends(struct weir_runtime *rt)
{
    struct weir_backend_state state;
    uint32_t count = 0;

    while (weir_backend_get(rt, count, &state) == WEIR_OK)
        count++;
    return count;
}

static void need(const struct world *w, int error, const char *what)
{
    if (error != WEIR_OK &&
        !(w->leg->may_fail && (error == WEIR_EIO || error == WEIR_EFULL || error == WEIR_EAGAIN)))
        bench_fail("%s gave %s", what, weir_error_name(error));
}

/* A new back end for another, whose pages go there first or anywhere. */
static void change_backends(struct world *w)
{
    uint32_t count = count_backends(w->rt), added = UINT32_MAX, number = UINT32_MAX;
    struct weir_backend_state state;

    if (count < 6)
        need(w, weir_backend_add(w->rt, w->leg->spare, &added), "backend add");
    while (number == UINT32_MAX || number == added)
        if (weir_backend_get(w->rt, (uint32_t)(bench_draw(&w->random) % (count + 1)), &state) ==
            WEIR_OK)
            number = state.number;
    if (added != UINT32_MAX && bench_draw(&w->random) % 2)
        need(w, weir_backend_move(w->rt, number, added, 4 * BENCH_MIB, NULL), "move");
    need(w, weir_backend_drain(w->rt, number), "drain");
    w->drains++;
}

static void change_budget(struct world *w)
{
    int error = weir_budget_set(w->rt, BUDGET / 2 + bench_draw(&w->random) % BUDGET, 0);

    if (error != WEIR_EAGAIN)
        need(w, error, "budget");
}

static void disturb(struct world *w, uint64_t until_ns)
{
    for (; bench_now_ns() < until_ns; w->turns++) {
        usleep(40000);
        if (w->turns % 3 == 0)
            change_budget(w);
        if (w->turns % 12 == 8)
            change_backends(w);
    }
}

/* --- One trasher ----------------------------------------------------------------------------- */

static void *work(void *context)
{
    struct worker *worker = context;

    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        trasher_step(worker->trasher);
        worker->steps++;
    }
    return NULL;
}

static void trash_until(struct world *w, uint64_t until_ns)
{
    atomic_store(&stop, false);
    for (unsigned i = 0; i < THREADS; i++)
        if (pthread_create(&w->workers[i].thread, NULL, work, &w->workers[i]) != 0)
            bench_fail("cannot start a thread");
    disturb(w, until_ns);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(w->workers[i].thread, NULL);
}

static void move_memory(struct world *w)
{
    void *moved;

    need(w, weir_move(w->memory.base, 0, &moved), "region move");
    w->memory.base = moved;
    w->moves++;
}

static void slice(struct world *w, enum trasher_kind kind, double seconds)
{
    const uint64_t half = (uint64_t)(seconds * 5e8);

    w->memory = (struct bench_memory){.rt = w->rt};
    bench_memory_map(&w->memory, PAGES, THREADS);
    if (trasher_is_filled(kind))
        for (uint64_t page = 0; page < PAGES; page++)
            bench_page_fill(&w->memory, page, 0);
    for (unsigned i = 0; i < THREADS; i++) {
        w->workers[i].steps = 0;
        w->workers[i].trasher = trasher_open(kind, &w->memory, i, BUDGET / BENCH_PAGE);
        if (!w->workers[i].trasher)
            bench_fail("no memory for a trasher");
    }
    trash_until(w, bench_now_ns() + half);
    move_memory(w);
    trash_until(w, bench_now_ns() + half);
    for (unsigned i = 0; i < THREADS; i++) {
        w->steps += w->workers[i].steps;
        free(w->workers[i].trasher);
    }
    need(w, weir_unmap(w->memory.base), "unmap");
    free(w->memory.version);
    w->slices++;
}

/* --- Leaks ----------------------------------------------------------------------------------- */

/* At rest, without a region: until no more than so much is left. */
static void settle(const struct world *w, struct soak_gauges *gauges,
                   const struct soak_gauges *goal)
{
    struct weir_stats stats = {.size = sizeof(stats)};

    for (int i = 0; i < SETTLE_S * 10; i++) {
        usleep(100000);
        weir_stats(w->rt, &stats);
        soak_gauges_read(0, gauges);
        if (stats.slots_used == 0 && (goal ? gauges->resident_kib <= goal->resident_kib : i >= 15))
            return;
    }
    if (stats.slots_used)
        bench_fail("%llu slots are in use, and nothing is mapped",
                   (unsigned long long)stats.slots_used);
}

static void compare(const struct soak_gauges *first, const struct soak_gauges *last, uint32_t more)
{
    if (last->resident_kib > first->resident_kib + MORE_KIB)
        bench_fail("RssAnon grew from %ld to %ld KiB", first->resident_kib, last->resident_kib);
    if (last->tables_kib > first->tables_kib + MORE_TABLES)
        bench_fail("VmPTE grew from %ld to %ld KiB", first->tables_kib, last->tables_kib);
    if (last->descriptors > first->descriptors + MORE_ANY + (int)more * MORE_BACKEND)
        bench_fail("descriptors grew from %d to %d", first->descriptors, last->descriptors);
    if (last->threads > first->threads + MORE_ANY + (int)more * MORE_BACKEND)
        bench_fail("threads grew from %d to %d", first->threads, last->threads);
}

static void open_runtime(struct world *w)
{
    struct weir_options options;
    int error;

    weir_options_init(&options);
    options.budget_bytes = BUDGET;
    options.backends = w->leg->backends;
    options.engine = w->leg->engine;
    error = weir_open(&options, &w->rt);
    if (error == WEIR_ENOSUPPORT)
        _exit(SOAK_SKIPPED);
    need(w, error, "open");
}

void soak_trash(const struct soak_trash *leg)
{
    static struct world w;
    struct soak_gauges closed, first, last;
    uint32_t backends, more;
    double seconds = leg->seconds / (double)TRASHER_COUNT;

    w = (struct world){.leg = leg, .random = leg->seed * 2 + 1};
    soak_gauges_read(0, &closed);
    open_runtime(&w);
    w.deadline_ns = bench_now_ns() + leg->seconds * 1000000000ull;
    seconds = seconds < 0.5 ? 0.5 : seconds > 20 ? 20 : seconds;
    slice(&w, (enum trasher_kind)(leg->seed % TRASHER_COUNT), seconds);
    settle(&w, &first, NULL);
    backends = count_backends(w.rt);
    while (bench_now_ns() < w.deadline_ns)
        slice(&w, (enum trasher_kind)((leg->seed + w.slices) % TRASHER_COUNT), seconds);
    settle(&w, &last, &first);
    more = count_backends(w.rt) > backends ? count_backends(w.rt) - backends : 0;
    compare(&first, &last, more);
    need(&w, weir_close(w.rt), "close");
    soak_gauges_read(0, &last);
    if (last.descriptors > closed.descriptors || last.threads > closed.threads)
        bench_fail("%d descriptors and %d threads are left after close",
                   last.descriptors - closed.descriptors, last.threads - closed.threads);
    printf("trash ok: %llu steps of %llu trashers, %llu drains, %llu moves\n",
           (unsigned long long)w.steps, (unsigned long long)w.slices, (unsigned long long)w.drains,
           (unsigned long long)w.moves);
    fflush(stdout);
    _exit(0);
}
