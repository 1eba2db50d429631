/* SPDX-License-Identifier: MIT */

/* One process for each seed, as in tests/sim; the parent adds up what was met. */

#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/cluster/real.h"
#include "tests/cluster/scale.h"
#include "tests/cluster/world.h"

#define SECONDS_MAX 120 /* of real time, for one seed: more is a hang of the simulator */

struct outcome {
    bool is_finished;
    uint64_t hash, switches;
    struct met met;
};

struct run {
    struct world_options options;
    uint64_t first, last;
    uint32_t jobs, seconds;
    bool wants_coverage, is_twice, goes_on;
};

struct totals {
    uint64_t seeds, failed, switches, hash;
    struct met met;
};

static const char *const naive_names[] = {
#define X(name, word) word,
    NAIVE_MAP(X)
#undef X
};

static struct outcome *outcome; /* shared with the process of the seed */
static char key_path[] = "/tmp/weir-cluster-key-XXXXXX";

static void *shared_memory(size_t bytes)
{
    void *memory = real_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                             0);

    if (memory == MAP_FAILED) {
        perror("weir_cluster: mmap");
        exit(2);
    }
    return memory;
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

static _Noreturn void live(const struct run *run)
{
    alarm(SECONDS_MAX);
    outcome->hash = world_run(&run->options, key_path);
    outcome->switches = loop_switches();
    outcome->met = met;
    outcome->is_finished = true;
    fflush(stdout);
    _exit(0);
}

static const char *naive_words(void)
{
    static char words[32];

    snprintf(words, sizeof(words), " --naive %s", naive_names[naive]);
    return naive == NAIVE_NONE ? "" : words;
}

/* True: the seed went well. */
static bool run_seed(const struct run *run)
{
    int status = 0;
    pid_t pid;

    memset(outcome, 0, sizeof(*outcome));
    fflush(NULL);
    pid = fork();
    if (pid == 0)
        live(run);
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        perror("weir_cluster: fork");
        exit(2);
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && outcome->is_finished)
        return true;
    if (WIFSIGNALED(status))
        fprintf(stderr, "WRONG: died of signal %d (%s)\n", WTERMSIG(status),
                strsignal(WTERMSIG(status)));
    fprintf(stderr, "cluster FAILED: seed %llu; replay: weir_cluster --seed %llu%s --verbose\n",
            (unsigned long long)run->options.seed, (unsigned long long)run->options.seed,
            naive_words());
    return false;
}

static bool is_replayed(const struct run *run)
{
    const uint64_t hash = outcome->hash;

    if (!run_seed(run))
        return false;
    if (outcome->hash == hash)
        return true;
    fprintf(stderr, "cluster FAILED: seed %llu gives %016llx, and %016llx the second time\n",
            (unsigned long long)run->options.seed, (unsigned long long)hash,
            (unsigned long long)outcome->hash);
    return false;
}

static void add(struct totals *t)
{
    t->seeds++;
    t->switches += outcome->switches;
    t->hash += outcome->hash;
#define X(name) t->met.name += outcome->met.name;
    MET_MAP(X)
#undef X
}

/* The seeds of one job: every jobs-th. */
static void run_job(struct run run, uint32_t job, struct totals *t)
{
    const time_t end = time(NULL) + run.seconds;

    outcome = shared_memory(sizeof(*outcome));
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
            perror("weir_cluster: fork");
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
    fprintf(
        stderr,
        "usage: weir_cluster [--seeds A-B | --seed N] [--verbose] [--jobs N] [--seconds N]\n"
        "                    [--twice] [--coverage] [--go-on] [--naive MISTAKE] | --scale[=MOST]\n"
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

static void parse_seeds(struct run *run, const char *text)
{
    char *rest;

    run->first = run->last = strtoull(text, &rest, 10);
    if (*rest == '-')
        run->last = strtoull(rest + 1, &rest, 10);
    if (*rest || run->last < run->first)
        usage();
}

static void parse(int argc, char **argv, struct run *run)
{
    static const struct option longs[] = {
        {"seeds", 1, NULL, 's'},    {"seed", 1, NULL, 's'},    {"verbose", 0, NULL, 'v'},
        {"jobs", 1, NULL, 'j'},     {"seconds", 1, NULL, 't'}, {"twice", 0, NULL, '2'},
        {"coverage", 0, NULL, 'c'}, {"go-on", 0, NULL, 'g'},   {"naive", 1, NULL, 'n'},
        {"cluster", 0, NULL, 'C'},  {"scale", 2, NULL, 'S'},   {NULL, 0, NULL, 0}};

    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (c) {
        case 's': parse_seeds(run, optarg); break;
        case 'v': run->options.is_verbose = true; break;
        case 'j': run->jobs = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 't': run->seconds = (uint32_t)strtoul(optarg, NULL, 10); break;
        case '2': run->is_twice = true; break;
        case 'c': run->wants_coverage = true; break;
        case 'g': run->goes_on = true; break;
        case 'n': naive = naive_of(optarg); break;
        case 'C': break;
        case 'S': exit(scale(optarg ? (uint32_t)strtoul(optarg, NULL, 10) : 0));
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
    bool is_bad;

    parse(argc, argv, &run);
    make_key();
    run_jobs(&run, &sum);
    (void)unlink(key_path);
    is_bad = sum.failed || sum.seeds == 0 || (run.wants_coverage && is_blind(&sum.met));
    printf("cluster %s: seeds %llu-%llu (%llu run, %llu failed)", is_bad ? "FAILED" : "ok",
           (unsigned long long)run.first, (unsigned long long)run.last,
           (unsigned long long)sum.seeds, (unsigned long long)sum.failed);
#define X(name) printf(", %s %llu", #name, (unsigned long long)sum.met.name);
    MET_MAP(X)
#undef X
    printf(", switches %llu, hash %016llx\n", (unsigned long long)sum.switches,
           (unsigned long long)sum.hash);
    return is_bad;
}
