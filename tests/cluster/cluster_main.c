/* SPDX-License-Identifier: MIT */

/* The cluster's seeds, by tests/sim/seeds.h; and its table of scale. */

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/cluster/real.h"
#include "tests/cluster/scale.h"
#include "tests/cluster/world.h"
#include "tests/sim/seeds.h"

#define SECONDS_MAX 120 /* of real time, for one seed: more is a hang of the simulator */

struct outcome {
    bool is_finished;
    uint64_t hash, switches;
    struct met met;
};

struct totals {
    struct seeds_totals of; /* first */
    uint64_t switches, hash;
    struct met met;
};

static const char *const naive_names[] = {
#define X(name, word) word,
    NAIVE_MAP(X)
#undef X
};

static struct world_options options; /* but for the seed */
static char key_path[] = "/tmp/weir-cluster-key-XXXXXX";

static void *shared_memory(size_t bytes)
{
    void *memory = real_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                             0);

    return memory == MAP_FAILED ? NULL : memory;
}

static void make_key(void)
{
    static const uint8_t key[WR_KEY_BYTES] = {42};
    int fd = mkstemp(key_path);

    if (fd < 0 || __real_write(fd, key, sizeof(key)) != sizeof(key)) {
        perror("weir_cluster: a key file in /tmp");
        exit(2);
    }
    (void)__real_close(fd);
}

static void live(uint64_t seed, void *outcome_p)
{
    struct outcome *outcome = outcome_p;

    options.seed = seed;
    outcome->hash = world_run(&options, key_path);
    outcome->switches = loop_switches();
    outcome->met = met;
    outcome->is_finished = true;
}

static const char *naive_words(void)
{
    static char words[32];

    snprintf(words, sizeof(words), " --naive %s", naive_names[naive]);
    return naive == NAIVE_NONE ? "" : words;
}

static bool judge(uint64_t seed, const void *outcome, int status)
{
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0 &&
        ((const struct outcome *)outcome)->is_finished)
        return true;
    if (WIFSIGNALED(status))
        fprintf(stderr, "WRONG: died of signal %d (%s)\n", WTERMSIG(status),
                strsignal(WTERMSIG(status)));
    fprintf(stderr, "cluster FAILED: seed %llu; replay: weir_cluster --seed %llu%s --verbose\n",
            (unsigned long long)seed, (unsigned long long)seed, naive_words());
    return false;
}

static uint64_t hash_of(const void *outcome)
{
    return ((const struct outcome *)outcome)->hash;
}

static void add(void *totals, const void *outcome_p)
{
    const struct outcome *outcome = outcome_p;
    struct totals *t = totals;

    t->switches += outcome->switches;
    t->hash += outcome->hash;
#define X(name) t->met.name += outcome->met.name;
    MET_MAP(X)
#undef X
}

static bool is_blind(const struct met *sum)
{
    bool is_blind = false;

#define X(name)                                                                 \
    if (sum->name == 0) {                                                       \
        printf("cluster FAILED: in all those seeds there were no %s\n", #name); \
        is_blind = true;                                                        \
    }
    MET_MAP(X)
#undef X
    return is_blind;
}

static _Noreturn void usage(void)
{
    fprintf(stderr,
            "usage: weir_cluster " SEEDS_USAGE "\n"
            "                    [--verbose] [--coverage] [--naive MISTAKE] | --scale[=MOST]\n"
            "  --twice     run each seed twice and compare the traces\n"
            "  --coverage  fail if something that should be met never was\n"
            "  --go-on     do not stop at a seed that fails\n"
            "  --naive     plant a mistake, which is to be found:");
    for (int i = 1; i < NAIVE_KINDS; i++)
        fprintf(stderr, " %s", naive_names[i]);
    fprintf(stderr,
            "\n  --scale     what clients and servers need, one JSON line a row, for at most MOST\n"
            "              servers times clients\n");
    exit(2);
}

static enum naive naive_of(const char *name)
{
    for (int i = 0; i < NAIVE_KINDS; i++)
        if (strcmp(name, naive_names[i]) == 0)
            return (enum naive)i;
    usage();
}

static void parse(int argc, char **argv, struct seeds *seeds, bool *wants_coverage_p)
{
    static const struct option longs[] = {
        SEEDS_OPTIONS,           {"verbose", 0, NULL, 'v'}, {"coverage", 0, NULL, 'c'},
        {"naive", 1, NULL, 'n'}, {"cluster", 0, NULL, 'C'}, {"scale", 2, NULL, 'S'},
        {NULL, 0, NULL, 0}};

    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (c) {
        case 'v': options.is_verbose = true; break;
        case 'c': *wants_coverage_p = true; break;
        case 'n': naive = naive_of(optarg); break;
        case 'C': break;
        case 'S': exit(scale(optarg ? (uint32_t)strtoul(optarg, NULL, 10) : 0));
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
    struct seeds seeds = {.name = "cluster",
                          .seconds_most = SECONDS_MAX,
                          .outcome_bytes = sizeof(struct outcome),
                          .totals_bytes = sizeof(struct totals),
                          .map = shared_memory,
                          .live = live,
                          .judge = judge,
                          .hash = hash_of,
                          .add = add,
                          .first = 1,
                          .last = 200,
                          .jobs = 1};
    bool wants_coverage = false, is_bad;
    struct totals sum;

    parse(argc, argv, &seeds, &wants_coverage);
    make_key();
    seeds_run(&seeds, &sum);
    (void)unlink(key_path);
    is_bad = sum.of.failed || sum.of.seeds == 0 || (wants_coverage && is_blind(&sum.met));
    printf("cluster %s: seeds %llu-%llu (%llu run, %llu failed)", is_bad ? "FAILED" : "ok",
           (unsigned long long)seeds.first, (unsigned long long)seeds.last,
           (unsigned long long)sum.of.seeds, (unsigned long long)sum.of.failed);
#define X(name) printf(", %s %llu", #name, (unsigned long long)sum.met.name);
    MET_MAP(X)
#undef X
    printf(", switches %llu, hash %016llx\n", (unsigned long long)sum.switches,
           (unsigned long long)sum.hash);
    return is_bad;
}
