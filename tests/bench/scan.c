/* SPDX-License-Identifier: MIT */

/*
 * Scan: from one end to the other of four times the budget, every word of it.
 *
 * Written first when nothing is there yet, then read, then written again, then read once more:
 * what a program does that streams through more than its machine holds.
 */

#include "runs.h"

static double mb_per_s(const struct bench_memory *memory, uint64_t begun)
{
    return (double)(memory->pages * BENCH_PAGE) * 1e3 / (double)(bench_now_ns() - begun);
}

static double write_pass(struct bench_memory *memory, uint64_t generation)
{
    uint64_t begun = bench_now_ns();

    for (uint64_t page = 0; page < memory->pages; page++)
        bench_page_fill(memory, page, generation);
    return mb_per_s(memory, begun);
}

static double read_pass(struct bench_memory *memory, uint64_t generation)
{
    uint64_t begun = bench_now_ns();

    for (uint64_t page = 0; page < memory->pages; page++)
        bench_page_check(memory, page, generation);
    return mb_per_s(memory, begun);
}

/* What the library's threads cost while fresh pages fill memory and then push others out. */
static void first_pass(struct bench_memory *memory)
{
    struct weir_stats stats;
    double seconds;

    bench_tell("write", write_pass(memory, 1));
    seconds = bench_runtime_seconds();
    bench_stats(memory, &stats);
    if (memory->rt && stats.pages_written > 0)
        bench_tell("cpu_per_gb", seconds * 1e9 / (double)(stats.pages_written * BENCH_PAGE));
}

/* scan: memory= budget= pages= spec= -> write read rewrite reread, in MB/s; cpu_per_gb */
void bench_run_scan(void)
{
    struct bench_memory memory;
    struct weir_stats stats;

    bench_memory_open(&memory);
    first_pass(&memory);
    bench_tell("read", read_pass(&memory, 1));
    bench_tell("rewrite", write_pass(&memory, 2));
    bench_tell("reread", read_pass(&memory, 2));
    bench_stats(&memory, &stats);
    bench_tell("faults", (double)stats.faults);
    bench_tell("reads_demand", (double)stats.reads_demand);
    bench_tell("reads_ahead", (double)stats.reads_ahead);
    bench_tell("reads_ahead_wasted", (double)stats.reads_ahead_wasted);
    bench_tell("frame_waits", (double)stats.frame_waits);
    bench_tell("frame_wait_ms", (double)stats.time_frame.sum_ns / 1e6);
    bench_memory_close(&memory);
}

static void print(const struct bench *bench, const struct bench_side *weir,
                  const struct bench_side *other, const char *metric, const char *result)
{
    struct bench_line line = {
        .point = other->name[0] == 'r' ? "4x the budget, raw device" : "4x the budget",
        .metric = metric,
        .unit = "MB/s",
        .better = BENCH_HIGHER,
        .weir = bench_series(weir, metric),
        .baseline = bench_series(other, result),
        .baseline_name = other->name,
        .baseline_missing = other->missing,
    };

    if (other->name[0] == 'k')
        line.goal = metric[2] == 'a' || metric[4] == 'a' ? "ratio >= 4" : "ratio >= 2";
    bench_print(bench, &line);
}

static void print_cpu(const struct bench *bench, const struct bench_side *weir)
{
    bench_print(bench, &(struct bench_line){
                           .point = "4x the budget, writing",
                           .metric = "cpu_per_gb",
                           .unit = "s/GB",
                           .better = BENCH_LOWER,
                           .weir = bench_series(weir, "cpu_per_gb"),
                           .baseline = bench_constant(BENCH_CPU_PER_GB),
                           .baseline_name = "a fifth of a processor at 1 GB/s",
                           .goal = "at most 0.2",
                       });
}

bool bench_drive_scan(struct bench *bench)
{
    static struct bench_side sides[4];
    const uint64_t budget = (bench->is_quick ? 48 : 256) * BENCH_MIB;
    const uint64_t pages = 4 * budget / BENCH_PAGE, bytes = pages * BENCH_PAGE;
    char spec[300], swap[300], path[300], no_swap[200] = "", no_raw[200] = "";

    bench_file_spec(bench, pages, spec);
    snprintf(path, sizeof(path), "%s/raw", bench->dir);
    bench_written_file(path, bytes, no_raw);
    bench_swap_file(bench, bytes, swap, no_swap);
    bench_side_init(&sides[0], "weir", "scan", "budget=%llu pages=%llu spec=%s",
                    (unsigned long long)budget, (unsigned long long)pages, spec);
    bench_kernel_side(&sides[1], "kernel swap file", "scan", no_swap, budget, pages);
    bench_raw_side(&sides[2], "raw O_DIRECT reads of 2 MiB", "raw_scan", no_raw, path, bytes);
    bench_raw_side(&sides[3], "raw O_DIRECT writes of 2 MiB", "raw_scan", no_raw, path, bytes);
    bench_side_more(&sides[3], " write=1");
    if (!bench_rounds(bench, sides, 4, bench->is_quick ? 2 : 5))
        return false;
    print(bench, &sides[0], &sides[1], "read", "read");
    print(bench, &sides[0], &sides[1], "write", "write");
    print(bench, &sides[0], &sides[1], "reread", "reread");
    print(bench, &sides[0], &sides[1], "rewrite", "rewrite");
    print(bench, &sides[0], &sides[2], "read", "mb");
    print(bench, &sides[0], &sides[3], "write", "mb");
    print_cpu(bench, &sides[0]);
    return true;
}
