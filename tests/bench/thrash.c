/* SPDX-License-Identifier: MIT */

/*
 * Thrash and software: uniformly random touches over four times the budget.
 *
 * Thrash has its pages on a file, beside the kernel's swap file on the same file system, and
 * beside what the device would allow: as many raw reads as it does for as many threads, divided by
 * the share of touches that need one. Software has them in memory, where the device costs nothing
 * and what is left is the price of the software.
 */

#include "runs.h"

struct plan {
    uint64_t budget, pages;
    double seconds;
    unsigned rounds;
};

enum { WEIR, KERNEL, RAW, SIDES };

static const struct {
    unsigned threads, writes;
    const char *name;
} points[] = {
    {1, 0, "read/1 thread"},          {2, 0, "read/2 threads"},
    {4, 0, "read/4 threads"},         {8, 0, "read/8 threads"},
    {1, 50, "half writes/1 thread"},  {2, 50, "half writes/2 threads"},
    {4, 50, "half writes/4 threads"}, {8, 50, "half writes/8 threads"},
};
#define POINTS (sizeof(points) / sizeof(points[0]))

/* --- The run --------------------------------------------------------------------------------- */

static void tell_causes(const struct bench_load *load)
{
    const struct weir_stats *a = &load->before, *b = &load->after;
    const double touches = (double)load->touches;

    bench_tell("reads", (double)(b->reads_demand - a->reads_demand));
    bench_tell("miss_ratio",
               (double)(b->reads_demand - a->reads_demand + b->reads_joined - a->reads_joined) /
                   touches);
    bench_tell("soft_ratio", (double)(b->cache_found - a->cache_found) / touches);
    bench_tell("ahead_ratio", (double)(b->reads_ahead - a->reads_ahead) / touches);
    bench_tell("write_ratio", (double)(b->pages_written - a->pages_written) / touches);
    bench_tell("frame_waits", (double)(b->frame_waits - a->frame_waits));
    bench_tell("frame_wait_us", b->time_frame.count > a->time_frame.count
                                    ? (double)(b->time_frame.sum_ns - a->time_frame.sum_ns) / 1e3 /
                                          (double)(b->time_frame.count - a->time_frame.count)
                                    : 0);
    bench_tell("read_us", b->time_read.count > a->time_read.count
                              ? (double)(b->time_read.sum_ns - a->time_read.sum_ns) / 1e3 /
                                    (double)(b->time_read.count - a->time_read.count)
                              : 0);
}

/* load: memory= pages= threads= writes= seconds= warm= -> rate fault_p50 fault_p99 ... */
void bench_run_load(void)
{
    static struct bench_load load;
    struct bench_memory memory;

    bench_memory_open(&memory);
    bench_fill_all(&memory);
    load.memory = &memory;
    load.threads = (unsigned)bench_argument("threads", 1);
    load.writes_percent = (unsigned)bench_argument("writes", 0);
    load.warm_touches = bench_argument("warm", 0);
    load.warm_ns_max = 20000000000ull;
    load.seconds = bench_argument_real("seconds", 1);
    bench_load_run(&load);
    bench_tell("rate", load.rate);
    bench_tell("touches", (double)load.touches);
    bench_tell("fault_p50", bench_histogram_us(&load.faults, 0.5));
    bench_tell("fault_p99", bench_histogram_us(&load.faults, 0.99));
    bench_tell("major_ratio",
               (double)(load.major_after - load.major_before) / (double)load.touches);
    if (memory.rt)
        tell_causes(&load);
    bench_memory_close(&memory);
}

/* --- The bench ------------------------------------------------------------------------------- */

static struct plan plan_of(const struct bench *bench)
{
    struct plan plan = {128 * BENCH_MIB, 0, 3, 3};

    if (bench->is_quick)
        plan = (struct plan){48 * BENCH_MIB, 0, 0.7, 1};
    plan.pages = 4 * plan.budget / BENCH_PAGE;
    return plan;
}

static void set_sides(const struct plan *plan, const char *spec, size_t point,
                      const struct bench_side *kernel, struct bench_side sides[SIDES])
{
    const unsigned long long budget = plan->budget, pages = plan->pages;

    bench_side_init(&sides[WEIR], "weir", "load", "memory=weir budget=%llu pages=%llu spec=%s",
                    budget, pages, spec);
    bench_kernel_side(&sides[KERNEL], kernel->name, "load", kernel->missing, budget, pages);
    sides[KERNEL].limit_bytes = budget + bench_allowance(pages, points[point].threads);
    /* Warm: until what was resident after filling has been replaced, so that it is steady. */
    for (int i = WEIR; i <= KERNEL; i++)
        bench_side_more(&sides[i], " threads=%u writes=%u seconds=%g warm=%llu",
                        points[point].threads, points[point].writes, plan->seconds, pages * 3 / 8);
}

static struct bench_line line_of(const struct bench_side *weir, const struct bench_side *kernel,
                                 size_t point)
{
    return (struct bench_line){
        .point = points[point].name,
        .weir = bench_series(weir, "rate"),
        .metric = "rate",
        .unit = "touches/s",
        .better = BENCH_HIGHER,
        .baseline = bench_series(kernel, "rate"),
        .baseline_name = kernel->name,
        .baseline_missing = kernel->missing,
        .also = {{"miss_ratio", bench_result(weir, "miss_ratio")},
                 {"soft_ratio", bench_result(weir, "soft_ratio")},
                 {"kernel_miss_ratio", bench_result(kernel, "major_ratio")}},
    };
}

static void print_p99(const struct bench *bench, const struct bench_side *weir,
                      const struct bench_side *kernel, size_t point, const char *goal)
{
    struct bench_line line = line_of(weir, kernel, point);

    line.metric = "p99 of touches that fault";
    line.unit = "us";
    line.better = BENCH_LOWER;
    line.weir = bench_series(weir, "fault_p99");
    line.baseline = bench_series(kernel, "fault_p99");
    line.goal = goal;
    line.also[0].name = "weir_p50";
    line.also[0].value = bench_result(weir, "fault_p50");
    line.also[1].name = "baseline_p50";
    line.also[1].value = bench_result(kernel, "fault_p50");
    line.also[2].name = "frame_waits";
    line.also[2].value = bench_result(weir, "frame_waits");
    bench_print(bench, &line);
}

/* The raw reads that the device does, as touches: not every touch needs one. */
static void print_raw(const struct bench *bench, const struct bench_side *sides, size_t point)
{
    struct bench_line line = line_of(&sides[WEIR], &sides[KERNEL], point);
    double miss_ratio = bench_result(&sides[WEIR], "miss_ratio");

    line.baseline = bench_series(&sides[RAW], "rate");
    line.baseline_name = "raw O_DIRECT reads by as many threads / miss ratio";
    line.baseline_missing = sides[RAW].missing;
    line.goal = points[point].writes == 0 ? "ratio >= 0.92" : NULL;
    for (unsigned i = 0; i < line.baseline.count; i++)
        line.baseline.value[i] = miss_ratio > 0 ? line.baseline.value[i] / miss_ratio : 0;
    bench_print(bench, &line);
}

static void print_rate(const struct bench *bench, const struct bench_side *sides, size_t point,
                       const char *goal)
{
    struct bench_line line = line_of(&sides[WEIR], &sides[KERNEL], point);

    line.goal = goal;
    bench_print(bench, &line);
}

bool bench_drive_thrash(struct bench *bench)
{
    static struct bench_side sides[SIDES], kernel = {.name = "kernel swap file"};
    const struct plan plan = plan_of(bench);
    const uint64_t bytes = plan.pages * BENCH_PAGE;
    char spec[300], path[300], swap[300], no_raw[200] = "";

    bench_file_spec(bench, plan.pages, spec);
    snprintf(path, sizeof(path), "%s/raw", bench->dir);
    bench_written_file(path, bytes, no_raw);
    bench_swap_file(bench, bytes, swap, kernel.missing);
    for (size_t i = 0; i < POINTS; i++) {
        set_sides(&plan, spec, i, &kernel, sides);
        bench_raw_side(&sides[RAW], "raw", "raw", no_raw, path, bytes);
        bench_side_more(&sides[RAW], " threads=%u seconds=%g", points[i].threads,
                        plan.seconds * 0.7);
        if (!bench_rounds(bench, sides, SIDES, plan.rounds))
            return false;
        print_rate(bench, sides, i, "ratio >= 1");
        print_raw(bench, sides, i);
        print_p99(bench, &sides[WEIR], &sides[KERNEL], i, NULL);
    }
    return true;
}

bool bench_drive_software(struct bench *bench)
{
    static struct bench_side sides[SIDES], kernel;
    const struct plan plan = plan_of(bench);
    const uint64_t bytes = plan.pages * BENCH_PAGE;
    char spec[100], name[80] = "kernel swap on zram";

    snprintf(spec, sizeof(spec), "mem:?size=%lluM", (unsigned long long)(bytes * 4 / BENCH_MIB));
    bench_swap_zram(bytes, name, kernel.missing);
    kernel.name = name;
    for (size_t i = 0; i < POINTS; i++) {
        set_sides(&plan, spec, i, &kernel, sides);
        if (!bench_rounds(bench, sides, RAW, plan.rounds))
            return false;
        print_rate(bench, sides, i, "ratio >= 1.5");
        print_p99(bench, &sides[WEIR], &sides[KERNEL], i, "at most 20 us");
    }
    return true;
}
