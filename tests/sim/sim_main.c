/* SPDX-License-Identifier: MIT */

/*
 * One process for each seed, so that nothing of one world is left in the next, and a seed that ends
 * in an abort ends alone. The parent adds up, and shows what a failed one left behind.
 */

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/sim.h"

#define SECONDS_MAX  240 /* of real time, for one seed: more is a hang outside the baton */
#define EVENTS_SHOWN 100u

static const char *const state_names[WR_PAGE_STATE_COUNT] = {
    "EMPTY",        "OUT",           "READING",        "CACHED_DIRTY",   "CACHED_WRITING",
    "CACHED_CLEAN", "RESIDENT_ZERO", "RESIDENT_DIRTY", "RESIDENT_CLEAN", "RESIDENT_WRITING",
    "POISONED",
};

static const char *const engine_names[] = {"move", "wp", "naive"};

struct run {
    struct sim_options options;
    uint64_t first, last;
    uint32_t jobs, seconds;
    bool wants_coverage, is_twice, goes_on, shows_edges;
};

struct totals {
    uint64_t seeds, failed, operations, switches, points, faults, refused, lost, hash;
    uint64_t cleaned, discarded, migrated, reattached, forgotten;
    uint64_t edges[WR_PAGE_STATE_COUNT][WR_PAGE_STATE_COUNT];
};

static struct sim_result *result; /* shared with the process of the seed */

static void *shared_memory(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED) {
        perror("weir_sim: mmap");
        exit(2);
    }
    return memory;
}

static void show_events(const struct sim_result *r)
{
    uint64_t count = r->ring_count;
    uint64_t from = count > EVENTS_SHOWN ? count - EVENTS_SHOWN : 0;

    for (uint64_t i = from; i < count; i++) {
        const struct sim_event *e = &r->ring[i % SIM_RING];

        fprintf(stderr, "  %12llu %2u %-10s %-16s %llx %llx\n", (unsigned long long)e->now_ns,
                e->thread, r->names[e->thread % SIM_THREADS_MAX], e->what ? e->what : "?",
                (unsigned long long)e->a, (unsigned long long)e->b);
    }
}

static void show_failure(const struct run *run, const struct sim_result *r, int status)
{
    const struct sim_options *o = &run->options;

    fprintf(stderr, "the last events (ns, thread, what):\n");
    show_events(r);
    fprintf(stderr, "sim FAILED: seed %llu, engine %s: ", (unsigned long long)o->seed,
            engine_names[o->engine]);
    if (r->has_failed)
        fprintf(stderr, "%s\n", r->why);
    else if (WIFSIGNALED(status))
        fprintf(stderr, "died of signal %d (%s)\n", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        fprintf(stderr, "ended with %d\n", WEXITSTATUS(status));
    fprintf(stderr, "replay: weir_sim --seed %llu --engine %s%s", (unsigned long long)o->seed,
            engine_names[o->engine], o->is_free ? " --free" : "");
    if (o->steps)
        fprintf(stderr, " --steps %u", o->steps);
    fprintf(stderr, " --verbose\n");
}

/* True: the seed went well. */
static bool run_seed(const struct run *run)
{
    int status = 0;
    pid_t pid;

    memset(result, 0, sizeof(*result));
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        alarm(SECONDS_MAX);
        sim_world_run(&run->options, result);
        exit(0);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        perror("weir_sim: fork");
        exit(2);
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && result->is_finished)
        return true;
    show_failure(run, result, status);
    return false;
}

static void add(struct totals *t)
{
    t->seeds++;
    t->operations += result->operations;
    t->switches += result->switches;
    t->points += result->points;
    t->faults += result->faults;
    t->refused += result->refused;
    t->lost += result->lost;
    t->cleaned += result->cleaned;
    t->discarded += result->discarded;
    t->migrated += result->migrated;
    t->reattached += result->reattached;
    t->forgotten += result->forgotten;
    t->hash += result->hash;
    for (int i = 0; i < WR_PAGE_STATE_COUNT; i++)
        for (int k = 0; k < WR_PAGE_STATE_COUNT; k++)
            t->edges[i][k] += result->edges[i][k];
}

/* How many edges of the diagram were never taken. */
static uint32_t show_edges(const struct totals *t, bool all, bool tells)
{
    uint32_t missing = 0;

    for (int i = 0; i < WR_PAGE_STATE_COUNT; i++)
        for (int k = 0; k < WR_PAGE_STATE_COUNT; k++) {
            if (!wr_page_may_move((enum wr_page_state)i, (enum wr_page_state)k))
                continue;
            if (all)
                printf("edge %-16s -> %-16s %llu\n", state_names[i], state_names[k],
                       (unsigned long long)t->edges[i][k]);
            if (t->edges[i][k])
                continue;
            if (tells)
                printf("edge never taken: %s -> %s\n", state_names[i], state_names[k]);
            missing++;
        }
    return missing;
}

/* What no edge of the diagram tells, but must have been met. */
static bool is_blind(const struct totals *t)
{
    if (t->cleaned && t->discarded && t->migrated && t->reattached && t->forgotten)
        return false;
    printf("sim FAILED: pages cleaned %llu, migrated %llu, clusters discarded %llu, regions "
           "reattached %llu, forgotten %llu: one was never met\n",
           (unsigned long long)t->cleaned, (unsigned long long)t->migrated,
           (unsigned long long)t->discarded, (unsigned long long)t->reattached,
           (unsigned long long)t->forgotten);
    return true;
}

/* Once more: the same trace, to the last event? */
static bool is_replayed(const struct run *run)
{
    uint64_t hash = result->hash;

    if (!run_seed(run))
        return false;
    if (result->hash == hash)
        return true;
    fprintf(stderr, "sim FAILED: seed %llu gives %016llx, and %016llx the second time\n",
            (unsigned long long)run->options.seed, (unsigned long long)hash,
            (unsigned long long)result->hash);
    return false;
}

/* The seeds of one job: every jobs-th. */
static void run_job(struct run run, uint32_t job, struct totals *t)
{
    time_t end = time(NULL) + run.seconds;

    result = shared_memory(sizeof(*result));
    for (uint64_t seed = run.first + job; seed <= run.last; seed += run.jobs) {
        if (run.seconds && time(NULL) >= end)
            break;
        run.options.seed = seed;
        if (!run_seed(&run) || (run.is_twice && !is_replayed(&run))) {
            t->failed++;
            if (!run.goes_on)
                break;
            continue;
        }
        add(t);
    }
}

static void run_jobs(const struct run *run, struct totals *sum)
{
    struct totals *of_job = shared_memory(run->jobs * sizeof(*of_job));
    uint64_t *into = (uint64_t *)sum;

    for (uint32_t i = 0; i < run->jobs; i++) {
        pid_t pid;

        fflush(NULL);
        pid = fork();
        if (pid < 0) {
            perror("weir_sim: fork");
            exit(2);
        }
        if (pid == 0) {
            run_job(*run, i, &of_job[i]);
            fflush(NULL);
            _exit(0);
        }
    }
    while (wait(NULL) > 0)
        ;
    for (uint32_t i = 0; i < run->jobs; i++)
        for (size_t k = 0; k < sizeof(*sum) / sizeof(*into); k++)
            into[k] += ((const uint64_t *)&of_job[i])[k];
}

static _Noreturn void usage(void)
{
    fprintf(stderr,
            "usage: weir_sim [--seeds A-B | --seed N] [--steps N] [--engine move|wp|naive]\n"
            "                [--free] [--verbose] [--jobs N] [--seconds N] [--twice]\n"
            "                [--coverage] [--edges] [--go-on]\n"
            "  --steps     operations of each application thread, instead of as the seed says\n"
            "  --free      threads run at the same time; nothing can be replayed\n"
            "  --twice     run each seed twice and compare the traces\n"
            "  --coverage  fail if an edge between page states was never taken\n"
            "  --edges     show how often each was\n"
            "  --go-on     do not stop at a seed that fails\n");
    exit(2);
}

static enum sim_engine engine_of(const char *name)
{
    for (int i = 0; i < 3; i++)
        if (strcmp(name, engine_names[i]) == 0)
            return (enum sim_engine)i;
    usage();
}

static void parse(int argc, char **argv, struct run *run)
{
    static const struct option longs[] = {
        {"seeds", 1, NULL, 's'},    {"seed", 1, NULL, 's'},    {"steps", 1, NULL, 'n'},
        {"engine", 1, NULL, 'e'},   {"free", 0, NULL, 'f'},    {"verbose", 0, NULL, 'v'},
        {"jobs", 1, NULL, 'j'},     {"seconds", 1, NULL, 't'}, {"twice", 0, NULL, '2'},
        {"coverage", 0, NULL, 'c'}, {"edges", 0, NULL, 'E'},   {"go-on", 0, NULL, 'g'},
        {NULL, 0, NULL, 0}};
    char *rest;

    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (c) {
        case 's':
            run->first = run->last = strtoull(optarg, &rest, 10);
            if (*rest == '-')
                run->last = strtoull(rest + 1, &rest, 10);
            if (*rest || run->last < run->first)
                usage();
            break;
        case 'n': run->options.steps = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'e': run->options.engine = engine_of(optarg); break;
        case 'f': run->options.is_free = true; break;
        case 'v': run->options.is_verbose = true; break;
        case 'j': run->jobs = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 't': run->seconds = (uint32_t)strtoul(optarg, NULL, 10); break;
        case '2': run->is_twice = true; break;
        case 'c': run->wants_coverage = true; break;
        case 'E': run->shows_edges = true; break;
        case 'g': run->goes_on = true; break;
        default: usage();
        }
    }
    if (optind < argc || run->jobs < 1)
        usage();
}

int main(int argc, char **argv)
{
    struct run run = {.first = 1, .last = 200, .jobs = 1};
    struct totals sum = {0};
    uint32_t missing;

    parse(argc, argv, &run);
    run_jobs(&run, &sum);
    missing = show_edges(&sum, run.shows_edges, run.wants_coverage);
    missing += run.wants_coverage && is_blind(&sum);
    if (run.wants_coverage && missing)
        printf("sim FAILED: %u edges of the diagram in page.h were never taken\n", missing);
    printf(
        "sim %s: seeds %llu-%llu (%llu run, %llu failed), engine %s, %llu operations, %llu faults, "
        "%llu switches, %llu points, %llu refused, %llu lost, %u edges never taken, hash %016llx\n",
        sum.failed || (run.wants_coverage && missing) ? "FAILED" : "ok",
        (unsigned long long)run.first, (unsigned long long)run.last, (unsigned long long)sum.seeds,
        (unsigned long long)sum.failed, engine_names[run.options.engine],
        (unsigned long long)sum.operations, (unsigned long long)sum.faults,
        (unsigned long long)sum.switches, (unsigned long long)sum.points,
        (unsigned long long)sum.refused, (unsigned long long)sum.lost, missing,
        (unsigned long long)sum.hash);
    return sum.failed || sum.seeds == 0 || (run.wants_coverage && missing);
}
