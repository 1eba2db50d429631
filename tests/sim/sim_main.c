/* SPDX-License-Identifier: MIT */

/* The simulator's seeds, by seeds.h, and which edges of the diagram they took. */

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "tests/sim/seeds.h"
#include "tests/sim/sim.h"

#define SECONDS_MAX  240 /* of real time, for one seed: more is a hang outside the baton */
#define EVENTS_SHOWN 100u

static const char *const state_names[WR_PAGE_STATE_COUNT] = {
    "EMPTY",        "OUT",           "READING",        "CACHED_DIRTY",   "CACHED_WRITING",
    "CACHED_CLEAN", "RESIDENT_ZERO", "RESIDENT_DIRTY", "RESIDENT_CLEAN", "RESIDENT_WRITING",
    "POISONED",
};

static const char *const engine_names[] = {"move", "wp", "naive"};

struct totals {
    struct seeds_totals of; /* first */
    uint64_t operations, switches, points, faults, refused, lost, hash;
    uint64_t cleaned, discarded, migrated, reattached, forgotten;
    uint64_t edges[WR_PAGE_STATE_COUNT][WR_PAGE_STATE_COUNT];
};

static struct sim_options options; /* but for the seed */

static void *shared_memory(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
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

static void show_failure(uint64_t seed, const struct sim_result *r, int status)
{
    const char *engine = engine_names[options.engine];

    fprintf(stderr, "the last events (ns, thread, what):\n");
    show_events(r);
    fprintf(stderr, "sim FAILED: seed %llu, engine %s: ", (unsigned long long)seed, engine);
    if (r->has_failed)
        fprintf(stderr, "%s\n", r->why);
    else if (WIFSIGNALED(status))
        fprintf(stderr, "died of signal %d (%s)\n", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        fprintf(stderr, "ended with %d\n", WEXITSTATUS(status));
    fprintf(stderr, "replay: weir_sim --seed %llu --engine %s%s", (unsigned long long)seed, engine,
            options.is_free ? " --free" : "");
    if (options.steps)
        fprintf(stderr, " --steps %u", options.steps);
    fprintf(stderr, " --verbose\n");
}

/* Its threads end with it, and are not waited for. */
static void live(uint64_t seed, void *result)
{
    options.seed = seed;
    sim_world_run(&options, result);
    exit(0);
}

static bool judge(uint64_t seed, const void *result, int status)
{
    const struct sim_result *r = result;

    if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && r->is_finished)
        return true;
    show_failure(seed, r, status);
    return false;
}

static uint64_t hash_of(const void *result)
{
    return ((const struct sim_result *)result)->hash;
}

static void add(void *totals, const void *result_p)
{
    const struct sim_result *result = result_p;
    struct totals *t = totals;

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

static _Noreturn void usage(void)
{
    fprintf(
        stderr,
        "usage: weir_sim " SEEDS_USAGE "\n"
        "                [--steps N] [--engine move|wp|naive] [--free] [--verbose] [--coverage]\n"
        "                [--edges]\n"
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

struct wishes {
    bool wants_coverage, shows_edges;
};

static void parse(int argc, char **argv, struct seeds *seeds, struct wishes *wishes)
{
    static const struct option longs[] = {
        SEEDS_OPTIONS,           {"steps", 1, NULL, 'n'},   {"engine", 1, NULL, 'e'},
        {"free", 0, NULL, 'f'},  {"verbose", 0, NULL, 'v'}, {"coverage", 0, NULL, 'c'},
        {"edges", 0, NULL, 'E'}, {NULL, 0, NULL, 0}};

    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (c) {
        case 'n': options.steps = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'e': options.engine = engine_of(optarg); break;
        case 'f': options.is_free = true; break;
        case 'v': options.is_verbose = true; break;
        case 'c': wishes->wants_coverage = true; break;
        case 'E': wishes->shows_edges = true; break;
        default:
            if (!seeds_option(seeds, c, optarg))
                usage();
        }
    }
    if (optind < argc)
        usage();
}

int main(int argc, char **argv)
{
    struct seeds seeds = {.name = "sim",
                          .seconds_most = SECONDS_MAX,
                          .outcome_bytes = sizeof(struct sim_result),
                          .totals_bytes = sizeof(struct totals),
                          .map = shared_memory,
                          .live = live,
                          .judge = judge,
                          .hash = hash_of,
                          .add = add,
                          .first = 1,
                          .last = 200,
                          .jobs = 1};
    struct wishes wishes = {false, false};
    struct totals sum;
    uint32_t missing;

    parse(argc, argv, &seeds, &wishes);
    seeds_run(&seeds, &sum);
    missing = show_edges(&sum, wishes.shows_edges, wishes.wants_coverage);
    missing += wishes.wants_coverage && is_blind(&sum);
    if (wishes.wants_coverage && missing)
        printf("sim FAILED: %u edges of the diagram in page.h were never taken\n", missing);
    printf(
        "sim %s: seeds %llu-%llu (%llu run, %llu failed), engine %s, %llu operations, %llu faults, "
        "%llu switches, %llu points, %llu refused, %llu lost, %u edges never taken, hash %016llx\n",
        sum.of.failed || (wishes.wants_coverage && missing) ? "FAILED" : "ok",
        (unsigned long long)seeds.first, (unsigned long long)seeds.last,
        (unsigned long long)sum.of.seeds, (unsigned long long)sum.of.failed,
        engine_names[options.engine], (unsigned long long)sum.operations,
        (unsigned long long)sum.faults, (unsigned long long)sum.switches,
        (unsigned long long)sum.points, (unsigned long long)sum.refused,
        (unsigned long long)sum.lost, missing, (unsigned long long)sum.hash);
    return sum.of.failed || sum.of.seeds == 0 || (wishes.wants_coverage && missing);
}
