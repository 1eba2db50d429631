/* SPDX-License-Identifier: MIT */

/* Zero, cycle and align: how much is written to a back end, and in which shape. */

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runs.h"
#include "watch.h"

#define PASSES 4u

/* Bytes that went to a back end, or out of the kernel, so far. */
static double written(const struct bench_memory *memory)
{
    struct bench_watch watch;
    unsigned long long pages = 0;
    char line[100];
    FILE *file;

    if (memory->rt) {
        bench_watch_get(&watch);
        return (double)watch.bytes_written;
    }
    file = fopen("/proc/vmstat", "re");
    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "pswpout %llu", &pages) == 1)
            break;
    if (file)
        fclose(file);
    return (double)(pages * BENCH_PAGE);
}

static void watched_spec(const struct bench *bench, uint64_t bytes, char spec[400])
{
    snprintf(spec, 400, "watch(file:%s?size=%lluM)", bench->dir,
             (unsigned long long)(bytes / BENCH_MIB));
}

/* Three sides: Weir as it is, Weir with one setting other than usual, the kernel. */
static void set_sides(const struct bench *bench, struct bench_side sides[3], const char *run,
                      uint64_t budget, uint64_t pages)
{
    char spec[400];

    watched_spec(bench, 4 * pages * BENCH_PAGE, spec);
    for (int i = 0; i < 2; i++)
        bench_side_init(&sides[i], "weir", run, "budget=%llu pages=%llu spec=%s",
                        (unsigned long long)budget, (unsigned long long)pages, spec);
}

static void print_bytes(const struct bench *bench, const struct bench_side *weir,
                        const struct bench_side *other, const char *point, const char *metric,
                        const char *result)
{
    struct bench_line line = {
        .point = point,
        .metric = metric,
        .unit = "bytes",
        .better = BENCH_LOWER,
        .weir = bench_series(weir, result),
        .baseline = bench_series(other, result),
        .baseline_name = other->name,
        .baseline_missing = other->missing,
        .least = BENCH_PAGE,
    };

    bench_print(bench, &line);
}

/* --- Zero ------------------------------------------------------------------------------------ */

static bool is_to_be_zero(uint64_t page, uint64_t percent)
{
    return (page * 0x9e3779b97f4a7c15ull >> 33) % 100 < percent;
}

static void check_zero(const struct bench_memory *memory, uint64_t page)
{
    const uint64_t *words = (const uint64_t *)(const void *)(memory->base + page * BENCH_PAGE);

    for (unsigned i = 0; i < BENCH_WORDS; i++)
        if (words[i])
            bench_wrong(memory, page, words[i], 0);
}

/* zero: memory= budget= pages= spec= percent= elision= -> written */
void bench_run_zero(void)
{
    const uint64_t percent = bench_argument("percent", 100);
    struct bench_memory memory;
    double before;

    bench_memory_open(&memory);
    before = written(&memory);
    for (uint64_t page = 0; page < memory.pages; page++)
        if (is_to_be_zero(page, percent))
            memset(memory.base + page * BENCH_PAGE, 0, BENCH_PAGE);
        else
            bench_page_fill(&memory, page, 0);
    for (uint64_t page = 0; page < memory.pages; page++)
        if (is_to_be_zero(page, percent))
            check_zero(&memory, page);
        else
            bench_page_check(&memory, page, 0);
    bench_tell("written", written(&memory) - before);
    bench_memory_close(&memory);
}

bool bench_drive_zero(struct bench *bench)
{
    static struct bench_side sides[3];
    const uint64_t budget = (bench->is_quick ? 32 : 128) * BENCH_MIB;
    const uint64_t pages = 4 * budget / BENCH_PAGE;
    static const unsigned percents[] = {100, 20, 0};
    char swap[300], point[40], no_swap[200] = "";

    bench_swap_file(bench, pages * BENCH_PAGE, swap, no_swap);
    for (int i = 0; i < 3; i++) {
        set_sides(bench, sides, "zero", budget, pages);
        sides[1].name = "weir without zero elision";
        bench_side_more(&sides[1], " elision=0");
        bench_kernel_side(&sides[2], "kernel swap file", "zero", no_swap, budget, pages);
        for (int k = 0; k < 3; k++)
            bench_side_more(&sides[k], " percent=%u", percents[i]);
        if (!bench_rounds(bench, sides, 3, bench->is_quick ? 1 : 3))
            return false;
        snprintf(point, sizeof(point), "%u %% of the pages are zero", percents[i]);
        print_bytes(bench, &sides[0], &sides[1], point, "written", "written");
        print_bytes(bench, &sides[0], &sides[2], point, "written", "written");
    }
    return true;
}

/* --- Cycle ----------------------------------------------------------------------------------- */

/* A prime to any power of two: its multiples visit every page in no order that could be guessed. */
#define ODD 0x9e3779b1u

/* cycle: memory= budget= pages= spec= keep= random= -> pass1 pass2 pass3 pass4 written again */
void bench_run_cycle(void)
{
    const uint64_t step = bench_argument("random", 0) ? ODD : 1;
    double begun, before, once, all, of_pass[PASSES + 1];
    struct bench_memory memory;
    char result[20];

    bench_memory_open(&memory);
    begun = written(&memory);
    bench_fill_all(&memory);
    for (unsigned pass = 1; pass <= PASSES; pass++) {
        before = written(&memory);
        for (uint64_t i = 0; i < memory.pages; i++)
            bench_page_check(&memory, i * step % memory.pages, 0);
        of_pass[pass] = written(&memory) - before;
        snprintf(result, sizeof(result), "pass%u", pass);
        bench_tell(result, of_pass[pass]);
    }
    /* What is dirty when reading begins is written when it leaves, be it in a later pass; no page
     * need be written twice. */
    once = (double)(memory.pages * BENCH_PAGE);
    all = written(&memory) - begun;
    bench_tell("again", all > once ? all - once : 0);
    bench_tell("written", of_pass[2] + of_pass[3] + of_pass[4]);
    bench_memory_close(&memory);
}

static void print_cycle(const struct bench *bench, const struct bench_side sides[3],
                        const char *point)
{
    for (int i = 1; i < 3; i++) {
        print_bytes(bench, &sides[0], &sides[i], point, "written in passes 2 to 4", "written");
        print_bytes(bench, &sides[0], &sides[i], point, "written again", "again");
    }
}

bool bench_drive_cycle(struct bench *bench)
{
    static struct bench_side sides[3];
    const uint64_t budget = (bench->is_quick ? 24 : 128) * BENCH_MIB;
    const uint64_t pages = 2 * budget / BENCH_PAGE;
    char swap[300], no_swap[200] = "";

    bench_swap_file(bench, pages * BENCH_PAGE, swap, no_swap);
    for (unsigned is_random = 0; is_random < 2; is_random++) {
        set_sides(bench, sides, "cycle", budget, pages);
        sides[1].name = "weir that does not keep slots";
        bench_side_more(&sides[1], " keep=0");
        bench_kernel_side(&sides[2], "kernel swap file", "cycle", no_swap, budget, pages);
        for (int i = 0; i < 3; i++)
            bench_side_more(&sides[i], " random=%u", is_random);
        if (!bench_rounds(bench, sides, 3, bench->is_quick ? 1 : 3))
            return false;
        print_cycle(bench, sides,
                    is_random ? "2x the budget, only read, in random order"
                              : "2x the budget, only read, in order");
    }
    return true;
}

/* --- Align ----------------------------------------------------------------------------------- */

static void tell_shape(const char *phase, const struct bench_watch *from, double seconds)
{
    struct bench_watch now;
    char result[40];
    double bytes;

    bench_watch_get(&now);
    bytes = (double)(now.bytes_written - from->bytes_written);
    snprintf(result, sizeof(result), "%s_whole", phase);
    bench_tell(result,
               bytes > 0
                   ? 100.0 * (double)(now.bytes_written_whole - from->bytes_written_whole) / bytes
                   : 0);
    snprintf(result, sizeof(result), "%s_mb", phase);
    bench_tell(result, bytes / 1e6 / seconds);
    snprintf(result, sizeof(result), "%s_mean_kib", phase);
    bench_tell(result,
               now.writes > from->writes ? bytes / 1024 / (double)(now.writes - from->writes) : 0);
}

/* align: budget= pages= spec= seconds= -> fill_whole fill_mb load_whole load_mb ... */
void bench_run_align(void)
{
    static struct bench_load load;
    struct bench_memory memory;
    struct bench_watch watch;
    uint64_t begun;

    bench_memory_open(&memory);
    bench_watch_get(&watch);
    begun = bench_now_ns();
    for (uint64_t i = 0; i < memory.pages; i++)
        bench_page_fill(&memory, i * ODD % memory.pages, 0);
    tell_shape("fill", &watch, (double)(bench_now_ns() - begun) / 1e9);
    bench_watch_get(&watch);
    begun = bench_now_ns();
    load.memory = &memory;
    load.threads = 2;
    load.writes_percent = 100;
    load.warm_touches = memory.pages / 2;
    load.warm_ns_max = 20000000000ull;
    load.seconds = bench_argument_real("seconds", 1);
    bench_load_run(&load);
    tell_shape("load", &watch, (double)(bench_now_ns() - begun) / 1e9);
    bench_tell("used_percent",
               100.0 * (double)load.after.slots_used / (double)load.after.slots_total);
    bench_tell("rate", load.rate);
    bench_memory_close(&memory);
}

static void print_whole(const struct bench *bench, const struct bench_side *weir, const char *point,
                        const char *result, const char *mean)
{
    struct bench_line line = {
        .point = point,
        .metric = "bytes in whole aligned clusters of 2 MiB",
        .unit = "%",
        .better = BENCH_HIGHER,
        .weir = bench_series(weir, result),
        .baseline = bench_constant(100),
        .baseline_name = "every byte",
        .goal = "at least 95",
        .also = {{"mean_write_kib", bench_result(weir, mean)},
                 {"back_end_used_percent", bench_result(weir, "used_percent")}},
    };

    bench_print(bench, &line);
}

static void print_bandwidth(const struct bench *bench, const struct bench_side *weir,
                            const struct bench_side *raw, const char *goal)
{
    struct bench_line line = {
        .point = "pages written once, in random order",
        .metric = "write bandwidth",
        .unit = "MB/s",
        .better = BENCH_HIGHER,
        .weir = bench_series(weir, "fill_mb"),
        .baseline = bench_series(raw, "mb"),
        .baseline_name = raw->name,
        .baseline_missing = raw->missing,
        .goal = goal,
    };

    bench_print(bench, &line);
}

bool bench_drive_align(struct bench *bench)
{
    static struct bench_side sides[4];
    const uint64_t budget = (bench->is_quick ? 64 : 256) * BENCH_MIB;
    const uint64_t pages = 4 * budget / BENCH_PAGE, bytes = pages * BENCH_PAGE;
    char spec[400], path[300], no_raw[200] = "";

    snprintf(path, sizeof(path), "%s/raw", bench->dir);
    bench_written_file(path, bytes, no_raw);
    for (int i = 0; i < 2; i++) {
        /* About three quarters of the pages are away: of room for all of them and a quarter, that
         * is little; of room for 94 % of them, it is 80 %. */
        watched_spec(bench, i == 0 ? 4 * bytes : bytes * 15 / 16, spec);
        bench_side_init(&sides[i], "weir", "align",
                        "budget=%llu pages=%llu threads=2 seconds=%g spec=%s",
                        (unsigned long long)budget, (unsigned long long)pages,
                        bench->is_quick ? 2.0 : 8.0, spec);
    }
    bench_raw_side(&sides[2], "raw O_DIRECT random writes of 4 KiB", "raw", no_raw, path, bytes);
    bench_side_more(&sides[2], " write=1 threads=2 seconds=%g", bench->is_quick ? 1.0 : 3.0);
    bench_raw_side(&sides[3], "raw O_DIRECT writes of 2 MiB", "raw_scan", no_raw, path, bytes);
    bench_side_more(&sides[3], " write=1");
    if (!bench_rounds(bench, sides, 4, bench->is_quick ? 1 : 3))
        return false;
    print_whole(bench, &sides[0], "pages written once, in random order", "fill_whole",
                "fill_mean_kib");
    print_whole(bench, &sides[0], "random rewrites, much room", "load_whole", "load_mean_kib");
    print_whole(bench, &sides[1], "random rewrites, 80 % full", "load_whole", "load_mean_kib");
    print_bandwidth(bench, &sides[0], &sides[2], NULL);
    print_bandwidth(bench, &sides[0], &sides[3], "ratio >= 0.8");
    return true;
}
