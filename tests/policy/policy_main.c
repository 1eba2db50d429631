/* SPDX-License-Identifier: MIT */

/* weir_policy: replay workloads, or a trace of a real run, by the policy and by others. */

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/policy/replay.h"
#include "tests/policy/trace_file.h"
#include "tests/workload/workload.h"

#define SEED 7 /* as the bench `policy` has it */

static void usage(void)
{
    fputs(
        "usage: weir_policy [--pages=N] [--frames=N] [--touches=N] [--kind=0-7] [--rule=NAME]\n"
        "       weir_policy --trace=FILE [--frames=N] [--rule=NAME]\n"
        "Replays the eight workloads, or one, by the rules weir, lru, fifo and random, or one;\n"
        "or the touches in a trace of a real run (WEIR_TRACE), by default with as much memory as\n"
        "that had. Prints a line each: workload, rule, misses and soft faults in percent of the\n"
        "touches; of a trace also how many misses there were.\n",
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

static void print_trace(const char *path, const struct trace_file *trace)
{
    printf(
        "# %s: %llu faults and evictions, %llu of them touches of %u pages at most; %llu lost%s\n",
        path, (unsigned long long)trace->records, (unsigned long long)trace->touch_count,
        trace->pages, (unsigned long long)trace->lost,
        trace->is_closed ? "" : "; the run was not closed");
    for (uint32_t i = 0; i < trace->region_count; i++)
        printf("# region %u \"%s\", %u pages\n", trace->regions[i].number, trace->regions[i].name,
               trace->regions[i].pages);
}

static void replay_trace(const struct trace_file *trace, enum replay_rule rule, uint32_t frames)
{
    struct replay *replay = replay_open(rule, trace->pages, frames);
    struct replay_result result;

    if (!replay) {
        fputs("weir_policy: at least 1024 frames, and memory\n", stderr);
        exit(1);
    }
    for (uint64_t i = 0; i < trace->touch_count; i++)
        replay_touch(replay, trace->touches[i]);
    result = replay_close(replay);
    printf("%-18s %-7s %7.3f %7.3f %llu\n", "trace", replay_rule_name(rule),
           100.0 * (double)result.misses / (double)result.touches,
           100.0 * (double)result.soft / (double)result.touches, (unsigned long long)result.misses);
    fflush(stdout);
}

/* frames 0: what the run had. */
static int replay_file(const char *path, uint32_t only_rule, uint32_t frames)
{
    char why[TRACE_WHY_ROOM];
    struct trace_file trace;

    if (!trace_file_read(path, &trace, why)) {
        fprintf(stderr, "weir_policy: %s: %s\n", path, why);
        return 1;
    }
    print_trace(path, &trace);
    if (frames == 0)
        frames = trace.budget_pages < 1u << 28 ? (uint32_t)trace.budget_pages : 1u << 28;
    if (trace.touch_count == 0) {
        fprintf(stderr, "weir_policy: %s: nothing was touched\n", path);
        trace_file_free(&trace);
        return 1;
    }
    for (uint32_t rule = 0; rule < REPLAY_RULES; rule++)
        if (only_rule == REPLAY_RULES || only_rule == rule)
            replay_trace(&trace, (enum replay_rule)rule, frames);
    trace_file_free(&trace);
    return 0;
}

static uint32_t rule_of(const char *name)
{
    for (uint32_t rule = 0; rule < REPLAY_RULES; rule++)
        if (strcmp(replay_rule_name((enum replay_rule)rule), name) == 0)
            return rule;
    usage();
    return 0;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"pages", required_argument, NULL, 'p'},
        {"frames", required_argument, NULL, 'f'},
        {"touches", required_argument, NULL, 't'},
        {"kind", required_argument, NULL, 'k'},
        {"rule", required_argument, NULL, 'r'},
        {"trace", required_argument, NULL, 'T'},
        {NULL, 0, NULL, 0},
    };
    uint32_t pages = WORKLOAD_PAGES, frames = WORKLOAD_MEMORY, touches = WORKLOAD_ACCESSES;
    uint32_t only_kind = WORKLOAD_COUNT, only_rule = REPLAY_RULES;
    const char *trace = NULL;
    bool has_frames = false;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'p': pages = number_of(optarg, 1u << 28); break;
        case 'f':
            frames = number_of(optarg, 1u << 28);
            has_frames = true;
            break;
        case 't': touches = number_of(optarg, UINT32_MAX); break;
        case 'k': only_kind = number_of(optarg, WORKLOAD_COUNT - 1); break;
        case 'r': only_rule = rule_of(optarg); break;
        case 'T': trace = optarg; break;
        default: usage();
        }
    }
    if (optind != argc)
        usage();
    if (trace)
        return replay_file(trace, only_rule, has_frames ? frames : 0);
    for (uint32_t kind = 0; kind < WORKLOAD_COUNT; kind++)
        for (uint32_t rule = 0; rule < REPLAY_RULES; rule++)
            if ((only_kind == WORKLOAD_COUNT || only_kind == kind) &&
                (only_rule == REPLAY_RULES || only_rule == rule))
                replay_one((enum workload_kind)kind, (enum replay_rule)rule, pages, frames,
                           touches);
    return 0;
}
