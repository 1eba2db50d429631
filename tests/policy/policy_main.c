/* SPDX-License-Identifier: MIT */

/* weir_policy: replay workloads, or a trace of a real run, by the policy and by others. */

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/policy/replay.h"
#include "tests/workload/workload.h"

#define SEED 7 /* as the bench `policy` has it */

static void usage(void)
{
    fputs("usage: weir_policy [--pages=N] [--frames=N] [--touches=N] [--kind=0-7] [--rule=NAME]\n"
          "Replays the eight workloads, or one, by the rules weir, lru, fifo and random, or one.\n"
          "Prints a line each: workload, rule, misses and soft faults in percent of the touches.\n",
          stderr);
    exit(2);
}

static uint32_t number_of(const char *text, uint32_t most)
{
    char *end;
    unsigned long number = strtoul(text, &end, 10);

    if (end == text || *end || number > most)
        usage();
    return (uint32_t)number;
}

static void replay_one(enum workload_kind kind, enum replay_rule rule, uint32_t pages,
                       uint32_t frames, uint32_t touches)
{
    struct replay *replay = replay_open(rule, pages, frames);
    struct replay_result result;
    struct workload workload;

    if (!replay || !workload_open(&workload, kind, pages, frames, SEED, 0)) {
        fputs("weir_policy: at least 1024 frames, no more frames than pages, and memory\n", stderr);
        exit(1);
    }
    for (uint32_t i = 0; i < touches; i++)
        replay_touch(replay, workload_next(&workload));
    result = replay_close(replay);
    printf("%-18s %-7s %7.3f %7.3f\n", workload_name(kind), replay_rule_name(rule),
           100.0 * (double)result.misses / (double)result.touches,
           100.0 * (double)result.soft / (double)result.touches);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"pages", required_argument, NULL, 'p'},   {"frames", required_argument, NULL, 'f'},
        {"touches", required_argument, NULL, 't'}, {"kind", required_argument, NULL, 'k'},
        {"rule", required_argument, NULL, 'r'},    {NULL, 0, NULL, 0},
    };
    uint32_t pages = WORKLOAD_PAGES, frames = WORKLOAD_MEMORY, touches = WORKLOAD_ACCESSES;
    uint32_t only_kind = WORKLOAD_COUNT, only_rule = REPLAY_RULES;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'p': pages = number_of(optarg, 1u << 28); break;
        case 'f': frames = number_of(optarg, 1u << 28); break;
        case 't': touches = number_of(optarg, UINT32_MAX); break;
        case 'k': only_kind = number_of(optarg, WORKLOAD_COUNT - 1); break;
        case 'r':
            for (only_rule = 0; only_rule < REPLAY_RULES; only_rule++)
                if (strcmp(replay_rule_name((enum replay_rule)only_rule), optarg) == 0)
                    break;
            if (only_rule == REPLAY_RULES)
                usage();
            break;
        default: usage();
        }
    }
    if (optind != argc)
        usage();
    for (uint32_t kind = 0; kind < WORKLOAD_COUNT; kind++)
        for (uint32_t rule = 0; rule < REPLAY_RULES; rule++)
            if ((only_kind == WORKLOAD_COUNT || only_kind == kind) &&
                (only_rule == REPLAY_RULES || only_rule == rule))
                replay_one((enum workload_kind)kind, (enum replay_rule)rule, pages, frames,
                           touches);
    return 0;
}
