/* SPDX-License-Identifier: MIT */
#include "tests/sim/seeds.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static _Noreturn void give_up(const struct seeds *seeds, const char *what)
{
    fprintf(stderr, "%s: ", seeds->name);
    perror(what);
    exit(2);
}

static bool parse_range(struct seeds *seeds, const char *text)
{
    char *rest;

    seeds->first = seeds->last = strtoull(text, &rest, 10);
    if (*rest == '-')
        seeds->last = strtoull(rest + 1, &rest, 10);
    return *rest == 0 && seeds->last >= seeds->first;
}

bool seeds_option(struct seeds *seeds, int option, const char *argument)
{
    switch (option) {
    case 's': return parse_range(seeds, argument);
    case 'j': seeds->jobs = (uint32_t)strtoul(argument, NULL, 10); return seeds->jobs > 0;
    case 't': seeds->seconds = (uint32_t)strtoul(argument, NULL, 10); return true;
    case '2': seeds->is_twice = true; return true;
    case 'g': seeds->goes_on = true; return true;
    default: return false;
    }
}

static void *map(const struct seeds *seeds, size_t bytes)
{
    void *memory = seeds->map(bytes);

    if (!memory)
        give_up(seeds, "mmap");
    return memory;
}

/* It ends, or is killed when its time is over: an alarm of its own would be lost where its threads
 * block all signals. */
static int await(const struct seeds *seeds, pid_t pid)
{
    const struct timespec time = {.tv_sec = seeds->seconds_most};
    int status = 0;
    sigset_t child;

    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    if (sigtimedwait(&child, NULL, &time) < 0 && errno == EAGAIN) {
        fprintf(stderr, "%s: hangs for %u s\n", seeds->name, seeds->seconds_most);
        kill(pid, SIGKILL);
    }
    if (waitpid(pid, &status, 0) != pid)
        give_up(seeds, "waitpid");
    return status;
}

/* True: the seed went well. */
static bool run_seed(const struct seeds *seeds, uint64_t seed, void *outcome)
{
    sigset_t child, before;
    int status;
    pid_t pid;

    memset(outcome, 0, seeds->outcome_bytes);
    fflush(NULL);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, &before);
    pid = fork();
    if (pid < 0)
        give_up(seeds, "fork");
    if (pid == 0) {
        sigprocmask(SIG_SETMASK, &before, NULL);
        seeds->live(seed, outcome);
        fflush(NULL);
        _exit(0);
    }
    status = await(seeds, pid);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return seeds->judge(seed, outcome, status);
}

/* Once more: the same trace, to the last event? */
static bool is_replayed(const struct seeds *seeds, uint64_t seed, void *outcome)
{
    const uint64_t hash = seeds->hash(outcome);

    if (!run_seed(seeds, seed, outcome))
        return false;
    if (seeds->hash(outcome) == hash)
        return true;
    fprintf(stderr, "%s FAILED: seed %llu gives %016llx, and %016llx the second time\n",
            seeds->name, (unsigned long long)seed, (unsigned long long)hash,
            (unsigned long long)seeds->hash(outcome));
    return false;
}

static void run_job(const struct seeds *seeds, uint32_t job, struct seeds_totals *totals)
{
    const time_t end = time(NULL) + seeds->seconds;
    void *outcome = map(seeds, seeds->outcome_bytes);

    for (uint64_t seed = seeds->first + job; seed <= seeds->last; seed += seeds->jobs) {
        if (seeds->seconds && time(NULL) >= end)
            break;
        if (run_seed(seeds, seed, outcome) &&
            (!seeds->is_twice || is_replayed(seeds, seed, outcome))) {
            totals->seeds++;
            seeds->add(totals, outcome);
            continue;
        }
        totals->failed++;
        if (!seeds->goes_on)
            break;
    }
}

void seeds_run(const struct seeds *seeds, void *totals_p)
{
    char *of_jobs = map(seeds, seeds->jobs * seeds->totals_bytes);
    uint64_t *into = totals_p;

    for (uint32_t i = 0; i < seeds->jobs; i++) {
        pid_t pid;

        fflush(NULL);
        pid = fork();
        if (pid < 0)
            give_up(seeds, "fork");
        if (pid == 0) {
            run_job(seeds, i, (struct seeds_totals *)(void *)(of_jobs + i * seeds->totals_bytes));
            fflush(NULL);
            _exit(0);
        }
    }
    while (wait(NULL) > 0)
        ;
    memset(totals_p, 0, seeds->totals_bytes);
    for (uint32_t i = 0; i < seeds->jobs; i++)
        for (size_t k = 0; k < seeds->totals_bytes / sizeof(*into); k++)
            into[k] += ((const uint64_t *)(const void *)(of_jobs + i * seeds->totals_bytes))[k];
}
