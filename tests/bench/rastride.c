/* SPDX-License-Identifier: MIT */

/*
 * Stride: what readahead is good for, and what it costs where it is good for nothing. Every page
 * of four times the budget is read once, in five orders, with readahead and without; so is what
 * the kernel's swap does with its own.
 */

#include <stdlib.h>
#include <string.h>

#include "runs.h"

#define ORDER_MAP(X)            \
    X(sequential, "sequential") \
    X(reverse, "reverse")       \
    X(stride, "stride 3")       \
    X(random, "random")         \
    X(two, "two interleaved streams")

enum order {
#define ORDER(order, name) ORDER_##order,
    ORDER_MAP(ORDER)
#undef ORDER
        ORDER_COUNT
};

static const char *const names[] = {
#define ORDER(order, name) name,
    ORDER_MAP(ORDER)
#undef ORDER
};

enum { AHEAD, PLAIN, KERNEL, SIDES };

/* Which page is the i-th. */
static uint64_t page_at(enum order order, uint64_t i, uint64_t pages)
{
    const uint64_t third = pages / 3;

    switch (order) {
    case ORDER_reverse: return pages - 1 - i;
    case ORDER_stride: return i < 3 * third ? i % third * 3 + i / third : i;
    case ORDER_random: /* the same page may come twice, as with any random load */
        i = (i + 1) * 0x9e3779b97f4a7c15ull;
        i = (i ^ i >> 32) * 0xd6e8feb86659fd93ull;
        return (i >> 32) % pages;
    case ORDER_two: return i / 2 + i % 2 * (pages / 2);
    case ORDER_sequential:
    case ORDER_COUNT: break;
    }
    return i;
}

/* Pages read from swap so far, and those of them that were read ahead and not used. */
struct reads {
    double all, wasted;
};

static struct reads reads_of(const struct bench_memory *memory)
{
    struct weir_stats stats;

    if (!memory->rt)
        return (struct reads){(double)bench_vmstat("pswpin"),
                              (double)bench_vmstat("swap_ra") -
                                  (double)bench_vmstat("swap_ra_hit")};
    bench_stats(memory, &stats);
    return (struct reads){(double)(stats.reads_demand + stats.reads_ahead),
                          (double)stats.reads_ahead_wasted};
}

/* rastride: memory= budget= pages= spec= order= readahead= -> rate wasted ahead */
void bench_run_rastride(void)
{
    const enum order order = (enum order)bench_argument("order", 0);
    struct bench_memory memory;
    struct reads before, after;
    uint64_t begun, took, pages;

    bench_memory_open(&memory);
    pages = memory.pages & ~1ull;
    bench_fill_all(&memory);
    /* What is still in memory is clean afterwards, and lies in the middle of nothing. */
    for (uint64_t i = 0; i < pages; i += 2)
        bench_glance(&memory, page_at(ORDER_random, i, pages));
    before = reads_of(&memory);
    begun = bench_now_ns();
    for (uint64_t i = 0; i < pages; i++)
        bench_glance(&memory, page_at(order, i, pages));
    took = bench_now_ns() - begun;
    after = reads_of(&memory);
    bench_tell("rate", (double)(pages * BENCH_PAGE) * 1e3 / (double)took);
    bench_tell("reads", after.all - before.all);
    bench_tell("wasted", after.all > before.all
                             ? (after.wasted - before.wasted) / (after.all - before.all)
                             : 0);
    bench_memory_close(&memory);
}

static struct bench_line line_of(const struct bench_side *weir, const struct bench_side *other,
                                 enum order order, const char *result)
{
    return (struct bench_line){
        .point = names[order],
        .metric = result,
        .weir = bench_series(weir, result),
        .baseline = bench_series(other, result),
        .baseline_name = other->name,
        .baseline_missing = other->missing,
    };
}

static void print(const struct bench *bench, const struct bench_side sides[SIDES], enum order order)
{
    struct bench_line line;

    for (unsigned i = PLAIN; i < SIDES; i++) {
        line = line_of(&sides[AHEAD], &sides[i], order, "rate");
        line.unit = "MB/s";
        line.better = BENCH_HIGHER;
        line.goal = order == ORDER_sequential && i == PLAIN ? "ratio >= 5" : NULL;
        bench_print(bench, &line);
    }
    /* Who does not read ahead wastes nothing: only the kernel stands beside this. */
    line = line_of(&sides[AHEAD], &sides[KERNEL], order, "wasted");
    line.unit = "of all pages read";
    line.better = BENCH_LOWER;
    line.goal = "at most 0.05";
    line.also[0].name = "weir_reads";
    line.also[0].value = bench_result(&sides[AHEAD], "reads");
    line.also[1].name = "baseline_reads";
    line.also[1].value = bench_result(&sides[KERNEL], "reads");
    bench_print(bench, &line);
}

bool bench_drive_rastride(struct bench *bench)
{
    static struct bench_side sides[SIDES];
    const uint64_t budget = (bench->is_quick ? 24 : 128) * BENCH_MIB;
    const uint64_t pages = 4 * budget / BENCH_PAGE;
    char spec[300], swap[300], missing[200] = "";

    bench_file_spec(bench, pages, spec);
    bench_swap_file(bench, 4 * budget, swap, missing);
    for (enum order order = 0; order < ORDER_COUNT; order++) {
        bench_side_init(&sides[AHEAD], "weir", "rastride", "budget=%llu pages=%llu spec=%s",
                        (unsigned long long)budget, (unsigned long long)pages, spec);
        bench_side_init(&sides[PLAIN], "weir without readahead", "rastride",
                        "budget=%llu pages=%llu spec=%s readahead=0", (unsigned long long)budget,
                        (unsigned long long)pages, spec);
        bench_kernel_side(&sides[KERNEL], "kernel swap file", "rastride", missing, budget, pages);
        for (unsigned i = 0; i < SIDES; i++)
            bench_side_more(&sides[i], " order=%u", (unsigned)order);
        if (!bench_rounds(bench, sides, SIDES, bench->is_quick ? 1 : 3))
            return false;
        print(bench, sides, order);
    }
    return true;
}
