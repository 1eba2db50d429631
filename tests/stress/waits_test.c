/* SPDX-License-Identifier: MIT */

/*
 * How often faults wait, and for what, beside a stored baseline (requirement A13).
 *
 *   load      a small, fixed sequence of touches by a number of threads
 *   reason    a histogram of weir.h that is a wait
 *   rate      waits for each thousand faults of that load
 *   budget    the most that a rate may be: twice what is stored, and BUDGET_MORE
 *
 * Counts, never times: a machine that is slow or busy waits longer, not more often for another
 * reason. A wait that is new, or a lock that is suddenly held during I/O, shows as a rate of
 * hundreds. One class of machine is told from the others: where first touches are dear (decision
 * 7), to unmap a page takes ten times as long, and its lock is met more often. To store what was
 * measured after a change that is meant: WR_WAITS_SHOW=1 prints the lines of waits.baseline.
 */

#include <pthread.h>
#include <stdlib.h>

#include "runtime/host/linux.h"
#include "runtime/runtime.h"
#include "tests/stress/real.h"

#define BUDGET      (8 * MIB)
#define FRAMES      (BUDGET / PAGE)
#define THREADS_MAX 8
#define BUDGET_MORE 25
#define SLOW        "chaos(mem:?size=256M)?seed=3&delay_us=200&jitter_us=400&reorder=1"
#define FAST        "mem:?size=256M"

struct load {
    const char *name, *backends;
    size_t pages;
    int threads;
    uint32_t touches; /* of each thread, beside the filling     */
    bool is_walk;     /* in order; else at random               */
    int stores;       /* of four touches                        */
};

static const struct load loads[] = {
    {"fits", FAST, FRAMES / 2, 4, 20000, false, 2},
    {"walk", FAST, 4 * FRAMES, 1, 4 * 4 * (uint32_t)FRAMES, true, 0},
    {"random", FAST, 4 * FRAMES, 1, 12000, false, 2},
    {"crowd", FAST, 4 * FRAMES, 8, 6000, false, 2},
    {"crowd-slow", SLOW, 4 * FRAMES, 8, 3500, false, 2},
};

struct toucher {
    const struct load *load;
    char *memory;
    uint64_t random;
};

static void *touch_main(void *context)
{
    struct toucher *t = context;

    for (uint32_t i = 0; i < t->load->touches; i++) {
        volatile uint64_t *word;

        t->random = t->random * 6364136223846793005u + 1442695040888963407u;
        word = (void *)(t->memory +
                        (t->load->is_walk ? i : t->random >> 20) % t->load->pages * PAGE);
        if ((int)(t->random >> 62) < t->load->stores)
            *word = t->random;
        else
            (void)*word;
    }
    return NULL;
}

/* is_dear_p: of this machine, as the runtime found it. */
static struct weir_stats measure(const struct load *load, bool *is_dear_p)
{
    struct weir_runtime *rt = real_open(BUDGET, load->backends);
    struct toucher touchers[THREADS_MAX];
    pthread_t threads[THREADS_MAX];
    char *memory = real_map(rt, load->pages * PAGE);
    struct weir_stats s;

    real_fill(memory, load->pages, 1);
    for (int i = 0; i < load->threads; i++) {
        touchers[i] = (struct toucher){load, memory, 77 * (uint64_t)i + 1};
        cr_assert_eq(pthread_create(&threads[i], NULL, touch_main, &touchers[i]), 0);
    }
    for (int i = 0; i < load->threads; i++)
        pthread_join(threads[i], NULL);
    s = real_stats(rt);
    *is_dear_p = ((const struct wr_linux_host *)rt->space.host)->probe.looks_by_copy;
    weir_close(rt);
    return s;
}

/* What is stored for a load and a reason, or -1. */
static double stored(const char *load, const char *reason)
{
    FILE *file = fopen(WR_WAITS_BASELINE, "re");
    char line[200], one[40], other[40];
    double rate = -1, number;

    cr_assert_not_null(file, "%s cannot be read", WR_WAITS_BASELINE);
    while (rate < 0 && fgets(line, sizeof(line), file))
        if (*line != '#' && sscanf(line, "%39s %39s %lf", one, other, &number) == 3 &&
            strcmp(one, load) == 0 && strcmp(other, reason) == 0)
            rate = number;
    fclose(file);
    return rate;
}

static void judge(const struct load *load, bool is_dear, const char *reason, uint64_t waits,
                  uint64_t faults)
{
    double rate = (double)waits * 1000 / (double)faults, most = -1;
    char name[40];

    snprintf(name, sizeof(name), "%s-dear", load->name);
    if (is_dear)
        most = stored(name, reason);
    if (most < 0)
        most = stored(load->name, reason);
    if (getenv("WR_WAITS_SHOW"))
        printf("%s%s %s %.1f\n", load->name, is_dear ? "-dear" : "", reason, rate);
    cr_expect_geq(most, 0, "no line for %s %s in waits.baseline", load->name, reason);
    cr_expect_leq(rate, 2 * most + BUDGET_MORE,
                  "%s waits for %s %.1f times in 1000 faults, not %.1f", load->name, reason, rate,
                  most);
}

static void judge_all(const struct load *load)
{
    bool is_dear;
    struct weir_stats s = measure(load, &is_dear);

    cr_assert_gt(s.faults, load->pages / 32);
#define JUDGE(reason, meaning)                                          \
    if (strcmp(#reason, "fault") != 0 && strcmp(#reason, "write") != 0) \
        judge(load, is_dear, #reason, s.time_##reason.count, s.faults);
    WEIR_TIME_MAP(JUDGE)
#undef JUDGE
}

Test(waits, none_where_everything_fits)
{
    bool is_dear;
    struct weir_stats s = measure(&loads[0], &is_dear);

    cr_expect_eq(s.time_read.count + s.time_join.count + s.time_frame.count + s.time_reader.count,
                 0);
    judge_all(&loads[0]);
}

Test(waits, a_walk_keeps_to_its_budget)
{
    judge_all(&loads[1]);
}

Test(waits, random_touches_keep_to_their_budget)
{
    judge_all(&loads[2]);
}

Test(waits, a_crowd_keeps_to_its_budget)
{
    judge_all(&loads[3]);
}

Test(waits, a_crowd_at_a_slow_back_end_keeps_to_its_budget)
{
    judge_all(&loads[4]);
}
