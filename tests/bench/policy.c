/* SPDX-License-Identifier: MIT */

/*
 * Policy: the eight workloads that the policy was designed with, replayed by one thread.
 *
 * Nothing but the choice of victims is compared: no readahead on either side, and a back end in
 * memory, beside the kernel's swap on zram. A page's first touch stores its content, all others
 * load and compare; so misses are pages read back, and first touches are none.
 *
 * Beside what is measured stands what weir_policy makes of the same touches with the same memory,
 * the runtime's own share of it left out.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "runs.h"

#define SEED 7

struct tally {
    uint64_t misses, soft;
    uint64_t unmapped; /* pages that were asked whether anybody wants them      */
    uint64_t spared;   /* dirty pages that were wanted again before their write */
};

/* The kernel: a major fault is a page read back. Nothing else of this process is away. */
static struct tally tally_of(const struct bench_memory *memory)
{
    struct weir_stats stats;
    struct rusage usage;

    if (!memory->rt) {
        getrusage(RUSAGE_SELF, &usage);
        return (struct tally){.misses = (uint64_t)usage.ru_majflt};
    }
    bench_stats(memory, &stats);
    return (struct tally){
        .misses = stats.reads_demand + stats.reads_joined,
        .soft = stats.cache_found,
        .unmapped = stats.cache_added_reclaim,
        .spared = stats.cache_found_marked - stats.pages_rescued_writing,
    };
}

/* How many pages were touched for the first time. */
static uint64_t replay(struct bench_memory *memory, struct workload *w, uint64_t accesses)
{
    uint64_t *is_known = calloc(memory->pages / 64 + 1, sizeof(*is_known));
    uint64_t first_touches = 0;

    if (!is_known)
        bench_fail("out of memory");
    for (uint64_t i = 0; i < accesses; i++) {
        const uint32_t page = workload_next(w);

        if (is_known[page / 64] >> page % 64 & 1) {
            bench_touch_read(memory, 0, page);
        } else {
            is_known[page / 64] |= 1ull << page % 64;
            bench_page_fill(memory, page, 0);
            first_touches++;
        }
    }
    free(is_known);
    return first_touches;
}

/* policy: memory= budget= pages= spec= kind= accesses= -> miss_ratio soft_ratio first_ratio
 * reused spared ns */
void bench_run_policy(void)
{
    const enum workload_kind kind = (enum workload_kind)bench_argument("kind", 0);
    const uint64_t accesses = bench_argument("accesses", 1);
    struct bench_memory memory;
    struct workload workload;
    struct tally before, after;
    uint64_t begun, first_touches;

    bench_memory_open(&memory);
    if (!workload_open(&workload, kind, (uint32_t)memory.pages,
                       (uint32_t)(bench_argument("budget", 0) / BENCH_PAGE), SEED, 0))
        bench_fail("no workload for so few pages");
    before = tally_of(&memory);
    begun = bench_now_ns();
    first_touches = replay(&memory, &workload, accesses);
    bench_tell("ns", (double)(bench_now_ns() - begun) / (double)accesses);
    after = tally_of(&memory);
    bench_tell("miss_ratio", (double)(after.misses - before.misses) / (double)accesses);
    bench_tell("soft_ratio", (double)(after.soft - before.soft) / (double)accesses);
    bench_tell("first_ratio", (double)first_touches / (double)accesses);
    if (after.unmapped > before.unmapped)
        bench_tell("reused",
                   (double)(after.soft - before.soft) / (double)(after.unmapped - before.unmapped));
    bench_tell("spared", (double)(after.spared - before.spared));
    bench_memory_close(&memory);
}

/* The misses of the same touches by the runtime's rules with nothing around them; -1: weir_policy
 * did not run. */
static double simulate(enum workload_kind kind, uint64_t pages, uint64_t budget, uint64_t accesses)
{
    char command[800], line[200];
    double misses = -1;
    FILE *output;

    snprintf(command, sizeof(command),
             "'%s' --rule=weir --kind=%u --pages=%llu --frames=%llu --touches=%llu", WEIR_POLICY,
             (unsigned)kind, (unsigned long long)pages, (unsigned long long)(budget / BENCH_PAGE),
             (unsigned long long)accesses);
    output = popen(command, "re");
    if (!output)
        return -1;
    if (fgets(line, sizeof(line), output)) {
        const char *rule = strstr(line, " weir ");

        misses = rule ? strtod(rule + strlen(" weir "), NULL) / 100 : -1;
    }
    return pclose(output) == 0 ? misses : -1;
}

static void print(const struct bench *bench, const struct bench_side sides[2],
                  enum workload_kind kind, double simulated)
{
    const struct bench_series measured = bench_series(&sides[0], "miss_ratio");
    /* Of a load without misses there is nothing to compare. */
    const double of_simulated = simulated > 0 ? bench_result(&sides[0], "miss_ratio") / simulated
                                              : -1;

    bench_print(bench, &(struct bench_line){
                           .point = workload_name(kind),
                           .metric = "miss_ratio",
                           .unit = "misses a touch",
                           .better = BENCH_LOWER,
                           .weir = measured,
                           .baseline = bench_series(&sides[1], "miss_ratio"),
                           .baseline_name = sides[1].name,
                           .baseline_missing = sides[1].missing,
                           .also = {{"first_ratio", bench_result(&sides[0], "first_ratio")},
                                    {"soft_ratio", bench_result(&sides[0], "soft_ratio")},
                                    {"reused", bench_result(&sides[0], "reused")},
                                    {"spared", bench_result(&sides[0], "spared")},
                                    {"weir_ns", bench_result(&sides[0], "ns")},
                                    {"baseline_ns", bench_result(&sides[1], "ns")},
                                    {"simulated", simulated},
                                    {"of_simulated", of_simulated}},
                       });
}

bool bench_drive_policy(struct bench *bench)
{
    static struct bench_side sides[2];
    const uint64_t pages = bench->is_quick ? WORKLOAD_PAGES / 5 : WORKLOAD_PAGES;
    const uint64_t accesses = bench->is_quick ? WORKLOAD_ACCESSES / 20 : WORKLOAD_ACCESSES;
    const uint64_t budget = pages * BENCH_PAGE / 100 * 40;
    char name[80] = "kernel swap on zram", missing[200] = "";

    if (bench_swap_zram(pages * BENCH_PAGE, name, missing))
        bench_swap_ahead(0, missing);
    for (enum workload_kind kind = 0; kind < WORKLOAD_COUNT; kind++) {
        if (!bench_is_asked(bench, workload_name(kind)))
            continue;
        bench_side_init(&sides[0], "weir", "policy",
                        "budget=%llu pages=%llu spec=mem:?size=%lluM readahead=0 around=0",
                        (unsigned long long)budget, (unsigned long long)pages,
                        (unsigned long long)(pages * BENCH_PAGE * 4 / BENCH_MIB));
        bench_kernel_side(&sides[1], name, "policy", missing, budget, pages);
        for (unsigned i = 0; i < 2; i++)
            bench_side_more(&sides[i], " kind=%u accesses=%llu", (unsigned)kind,
                            (unsigned long long)accesses);
        if (!bench_rounds(bench, sides, 2, bench->is_quick ? 1 : 3))
            return false;
        print(bench, sides, kind, simulate(kind, pages, budget, accesses));
    }
    return true;
}
