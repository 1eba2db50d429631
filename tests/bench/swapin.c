/* SPDX-License-Identifier: MIT */

/*
 * Swapin: what a miss of one page costs beyond the device's own time.
 *
 * One thread touches random pages of a region so much larger than the budget that nearly all are
 * away, and between two touches reads one page of the very same file by O_DIRECT, as random and as
 * really written as those of the region. Only touches that caused exactly one read are counted.
 */

#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "runs.h"

#define DATA_OFFSET (2 * BENCH_MIB) /* of a named file: its header has a cluster of its own */

/* Reads so far that this thread had to wait for. */
static uint64_t misses(const struct bench_memory *memory)
{
    struct weir_stats stats;
    struct rusage usage;

    if (memory->rt) {
        bench_stats(memory, &stats);
        return stats.reads_demand;
    }
    getrusage(RUSAGE_THREAD, &usage);
    return (uint64_t)usage.ru_majflt;
}

/* A raw read of a random slot that holds, or held, a page of ours. */
static uint64_t read_raw(int fd, uint64_t slots, uint64_t *random)
{
    static _Alignas(4096) uint64_t bytes[BENCH_WORDS];
    off_t at = (off_t)(DATA_OFFSET + (bench_draw(random) >> 16) % slots * BENCH_PAGE);
    uint64_t begun = bench_now_ns();
    ssize_t moved = pread(fd, bytes, BENCH_PAGE, at);
    uint64_t took = bench_now_ns() - begun;

    if (moved != (ssize_t)BENCH_PAGE)
        bench_fail("a raw read failed");
    /* A hole would be read without the device, and no page of ours begins with zero. */
    return bytes[0] == 0 ? 0 : took;
}

static void tell(const struct bench_histogram *touches, const struct bench_histogram *raw)
{
    bench_tell("p50", bench_histogram_us(touches, 0.5));
    bench_tell("p99", bench_histogram_us(touches, 0.99));
    bench_tell("samples", (double)touches->count);
    bench_tell("raw_p50", bench_histogram_us(raw, 0.5));
    bench_tell("raw_p99", bench_histogram_us(raw, 0.99));
    bench_tell("raw_samples", (double)raw->count);
}

static void tell_read(const struct bench_memory *memory)
{
    static struct weir_stats stats;

    bench_stats(memory, &stats);
    if (stats.time_read.count)
        bench_tell("read_mean",
                   (double)stats.time_read.sum_ns / 1e3 / (double)stats.time_read.count);
}

static uint64_t used_slots(const struct bench_memory *memory)
{
    static struct weir_stats stats;

    bench_stats(memory, &stats);
    return stats.slots_used;
}

/* swapin: memory= budget= pages= spec= file= samples= -> p50 p99 raw_p50 raw_p99 ... */
void bench_run_swapin(void)
{
    static struct bench_histogram touches, raw;
    const char *path = bench_argument_text("file", NULL);
    const uint64_t wanted = bench_argument("samples", 0);
    const uint64_t end = bench_now_ns() + 60000000000ull;
    uint64_t random = 7, slots = 0, raw_ns = 0;
    struct bench_memory memory;
    int fd = -1;

    bench_memory_open(&memory);
    bench_fill_all(&memory);
    if (path) {
        fd = bench_raw_open(path, O_RDONLY);
        slots = used_slots(&memory);
    }
    for (uint64_t i = 0; touches.count < wanted && bench_now_ns() < end; i++) {
        bool is_steady = i >= memory.pages / 12; /* the dirty pages of the filling are gone */
        uint64_t page = (bench_draw(&random) >> 16) % memory.pages;
        uint64_t before = misses(&memory);
        uint64_t took = bench_touch_read(&memory, 0, page);

        if (is_steady && misses(&memory) == before + 1)
            bench_histogram_add(&touches, took);
        if (is_steady && fd >= 0 && (took = read_raw(fd, slots, &random)) > 0) {
            bench_histogram_add(&raw, took);
            raw_ns += took;
        }
    }
    if (fd >= 0 && raw.count * 100 < touches.count * 95)
        bench_fail("the file has holes where pages should lie");
    tell(&touches, &raw);
    if (raw.count)
        bench_tell("raw_mean", (double)raw_ns / 1e3 / (double)raw.count);
    tell_read(&memory);
    bench_memory_close(&memory);
}

static void print(const struct bench *bench, const struct bench_side *weir,
                  const struct bench_side *other, const char *point, const char *result)
{
    struct bench_line line = {
        .point = point,
        .metric = result + (strncmp(result, "raw_", 4) == 0 ? 4 : 0),
        .unit = "us",
        .better = BENCH_LOWER,
        .baseline = bench_series(other, result),
        .baseline_name = other == weir ? "raw O_DIRECT read of 4 KiB from the same file"
                                       : other->name,
        .baseline_missing = other->missing,
    };

    line.weir = bench_series(weir, line.metric);
    line.goal = other == weir && strcmp(line.metric, "p50") == 0 ? "overhead_us <= 8" : NULL;
    line.also[0].name = "overhead_us";
    line.also[0].value = bench_median(&line.weir) - bench_median(&line.baseline);
    if (other == weir) {
        line.also[1].name = "read_inside_mean";
        line.also[1].value = bench_result(weir, "read_mean");
        line.also[2].name = "raw_mean";
        line.also[2].value = bench_result(weir, "raw_mean");
    }
    bench_print(bench, &line);
}

bool bench_drive_swapin(struct bench *bench)
{
    static struct bench_side sides[2];
    const uint64_t budget = (bench->is_quick ? 16 : 64) * BENCH_MIB;
    const uint64_t pages = 16 * budget / BENCH_PAGE;
    const unsigned samples = bench->is_quick ? 8000 : 40000;
    char path[300], swap[300], no_swap[200] = "";

    snprintf(path, sizeof(path), "%s/slots", bench->dir);
    bench_undo("unlink", path);
    bench_side_init(&sides[0], "weir", "swapin",
                    "budget=%llu pages=%llu file=%s spec=file:%s?size=%lluM",
                    (unsigned long long)budget, (unsigned long long)pages, path, path,
                    (unsigned long long)(pages * BENCH_PAGE * 4 / BENCH_MIB));
    bench_swap_file(bench, pages * BENCH_PAGE, swap, no_swap);
    bench_kernel_side(&sides[1], "kernel swap file", "swapin", no_swap, budget, pages);
    for (int i = 0; i < 2; i++)
        bench_side_more(&sides[i], " samples=%u", samples);
    if (!bench_rounds(bench, sides, 2, bench->is_quick ? 2 : 5))
        return false;
    print(bench, &sides[0], &sides[0], "random miss of 4 KiB", "raw_p50");
    print(bench, &sides[0], &sides[0], "random miss of 4 KiB", "raw_p99");
    print(bench, &sides[0], &sides[1], "random miss of 4 KiB, kernel", "p50");
    print(bench, &sides[0], &sides[1], "random miss of 4 KiB, kernel", "p99");
    return true;
}
