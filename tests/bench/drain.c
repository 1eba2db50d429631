/* SPDX-License-Identifier: MIT */

/*
 * Drain: taking a back end out of use costs time for the pages on it, not for the addresses mapped.
 *
 * The same number of pages lies in runs of 64, spread over 1 GiB, 64 GiB and 1 TiB of mapped
 * addresses. Weir's drain stands beside a raw read of as many bytes, by one reader or by four,
 * whichever is faster, and beside the kernel's swapoff of the same pages.
 *
 * All three leave the file where it is: to remove it is the file system's work, and takes a fifth
 * of the time of reading it where that discards what it frees.
 */

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/swap.h>

#include "runs.h"

#define RUN_PAGES 64u
#define SPANS     3u
#define RAWS      2u

static const struct {
    uint64_t bytes;
    const char *name;
} spans[SPANS] = {
    {BENCH_GIB, "1 GiB mapped"},
    {64 * BENCH_GIB, "64 GiB mapped"},
    {1024 * BENCH_GIB, "1 TiB mapped"},
};

/* The i-th of the pages in use. */
static uint64_t page_of(const struct bench_memory *memory, uint64_t live, uint64_t i)
{
    uint64_t stride = memory->pages / (live / RUN_PAGES);

    return i / RUN_PAGES * stride + i % RUN_PAGES;
}

static void fill(struct bench_memory *memory, uint64_t live)
{
    for (uint64_t i = 0; i < live; i++)
        bench_page_fill(memory, page_of(memory, live, i), 0);
}

static void check(struct bench_memory *memory, uint64_t live)
{
    for (uint64_t i = 0; i < live; i++)
        bench_page_check(memory, page_of(memory, live, i), 0);
}

static void tell(uint64_t bytes, uint64_t begun)
{
    double ns = (double)(bench_now_ns() - begun);

    bench_tell("ms", ns / 1e6);
    bench_tell("mb", (double)bytes * 1e3 / ns);
    bench_tell("bytes", (double)bytes);
}

/* Use so much memory, and give it back: what a virtual machine has not used for a while its host
 * has to find again, page by page, which can take longer than to read them. */
static void warm(uint64_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    if (memory == MAP_FAILED)
        bench_fail("mmap: %s", strerror(errno));
    munmap(memory, bytes);
}

static void set_budget(const struct bench_memory *memory, uint64_t bytes)
{
    int error = weir_budget_set(memory->rt, bytes, 10000);

    if (error != WEIR_OK)
        bench_fail("weir_budget_set: %s", weir_error_text(error));
}

/* drain: budget= small= pages= live= spec= to=memory|SPEC -> ms mb bytes reads_after */
void bench_run_drain(void)
{
    const uint64_t live = bench_argument("live", 0);
    const char *to = bench_argument_text("to", "memory");
    static struct weir_stats before, after;
    struct bench_memory memory;
    uint64_t begun, bytes;
    int error;

    /* The budget is largest when it is opened: drained pages find room in what staging was built
     * for then. */
    bench_memory_open(&memory);
    set_budget(&memory, bench_argument("small", 0));
    fill(&memory, live);
    if (strcmp(to, "memory") == 0)
        set_budget(&memory, bench_argument("budget", 0));
    else if (weir_backend_add(memory.rt, to, NULL) != WEIR_OK)
        bench_fail("there is no back end to drain to");
    bench_stats(&memory, &before);
    bytes = before.slots_used * BENCH_PAGE;
    warm(bytes);
    begun = bench_now_ns();
    error = weir_backend_drain(memory.rt, 0);
    if (error != WEIR_OK)
        bench_fail("weir_backend_drain: %s", weir_error_text(error));
    tell(bytes, begun);
    bench_stats(&memory, &before);
    check(&memory, live);
    bench_stats(&memory, &after);
    bench_tell("reads_after", (double)(after.reads_demand - before.reads_demand));
    bench_memory_close(&memory);
}

static uint64_t swap_used_kib(const char *path)
{
    char line[600], name[400];
    unsigned long long size, used = 0;
    FILE *file = fopen("/proc/swaps", "re");

    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "%399s %*s %llu %llu", name, &size, &used) == 3 && strcmp(name, path) == 0)
            break;
    if (file)
        fclose(file);
    return used;
}

static void set_limit(uint64_t bytes)
{
    char missing[200];

    if (!bench_group_limit(bench_argument_text("group", ""), bytes, missing))
        bench_fail("%s", missing);
}

/* swapoff: memory=kernel pages= live= swap= group= small= limit= -> ms mb bytes */
void bench_run_swapoff(void)
{
    const uint64_t live = bench_argument("live", 0);
    const char *swap = bench_argument_text("swap", "");
    struct bench_memory memory;
    uint64_t begun, bytes;

    set_limit(bench_argument("small", 0));
    bench_memory_open(&memory);
    fill(&memory, live);
    set_limit(bench_argument("limit", 0)); /* as much memory as Weir has then */
    bytes = swap_used_kib(swap) * 1024;
    warm(bytes);
    begun = bench_now_ns();
    if (swapoff(swap) != 0)
        bench_fail("swapoff: %s", strerror(errno));
    tell(bytes, begun);
    check(&memory, live);
    bench_memory_close(&memory);
    if (swapon(swap, SWAP_FLAG_PREFER | 32000) != 0)
        bench_fail("swapon: %s", strerror(errno));
}

/* --- The bench ------------------------------------------------------------------------------- */

struct sides {
    struct bench_side weir[SPANS], kernel[SPANS], elsewhere, raw[RAWS];
};
#define SIDES (sizeof(struct sides) / sizeof(struct bench_side))

static void print(const struct bench *bench, const struct bench_line *how,
                  const struct bench_side *weir, const struct bench_side *other, const char *result)
{
    struct bench_line line = *how;

    line.metric = result[1] == 's' ? "drain time" : "drain rate";
    line.unit = result[1] == 's' ? "ms" : "MB/s";
    line.better = result[1] == 's' ? BENCH_LOWER : BENCH_HIGHER;
    line.weir = bench_series(weir, result);
    line.baseline = bench_series(other, result);
    line.baseline_missing = other->missing;
    line.also[0].name = "bytes";
    line.also[0].value = bench_result(weir, "bytes");
    line.also[1].name = "reads_after";
    line.also[1].value = bench_result(weir, "reads_after");
    bench_print(bench, &line);
}

static void set_kernel(struct bench_side *side, const char *missing, const char *swap,
                       uint64_t live, uint64_t budget, uint64_t span)
{
    const uint64_t small = budget + bench_allowance(4 * live, 1);

    bench_side_init(side, "kernel swapoff", "swapoff",
                    "memory=kernel pages=%llu live=%llu swap=%s small=%llu limit=%llu",
                    (unsigned long long)(span / BENCH_PAGE), (unsigned long long)live, swap,
                    (unsigned long long)small, (unsigned long long)(small + 2 * live * BENCH_PAGE));
    side->limit_bytes = small;
    side->may_fail = true;
    snprintf(side->missing, sizeof(side->missing), "%s", missing);
    if (!*missing && bench_group_make("swapoff", side->limit_bytes, side->group, side->missing))
        bench_side_more(side, " group=%s", side->group);
}

/* How much longer it takes with the pages spread over a thousand times as many addresses: turn by
 * turn, since the device varies from one to the next. */
static void print_spread(const struct bench *bench, const struct sides *s)
{
    const struct bench_side *wide = &s->weir[SPANS - 1], *narrow = &s->weir[0];
    struct bench_line line = {
        .point = "1 TiB mapped, beside 1 GiB",
        .metric = "spread",
        .unit = "ratio",
        .better = BENCH_LOWER,
        .weir = bench_series_over(wide, narrow, "ms"),
        .baseline = bench_series_over(&s->kernel[SPANS - 1], &s->kernel[0], "ms"),
        .baseline_name = "kernel swapoff",
        .baseline_missing = *s->kernel[0].missing ? s->kernel[0].missing
                                                  : s->kernel[SPANS - 1].missing,
        .goal = "from 0.95 to 1.05",
    };

    bench_print(bench, &line);
}

/* What the device can do: the better of the two. */
static const struct bench_side *best_raw(const struct sides *s)
{
    return bench_result(&s->raw[1], "mb") > bench_result(&s->raw[0], "mb") ? &s->raw[1]
                                                                           : &s->raw[0];
}

static void print_all(const struct bench *bench, const struct sides *s)
{
    const struct bench_side *raw = best_raw(s);

    for (unsigned i = 0; i < SPANS; i++) {
        struct bench_line line = {
            .point = spans[i].name, .baseline_name = raw->name, .goal = "ratio >= 0.8"};

        print(bench, &line, &s->weir[i], raw, "mb");
        line.baseline_name = "kernel swapoff";
        line.goal = NULL;
        print(bench, &line, &s->weir[i], &s->kernel[i], "ms");
        line.baseline_name = "weir, 1 GiB mapped";
        line.goal = "ratio from 0.95 to 1.05";
        if (i > 0)
            print(bench, &line, &s->weir[i], &s->weir[0], "ms");
    }
    const struct bench_line line = {.point = "64 GiB mapped, to mem, budget as it was",
                                    .baseline_name = raw->name,
                                    .goal = "ratio >= 0.8"};
    print(bench, &line, &s->elsewhere, raw, "mb");
    print_spread(bench, s);
}

bool bench_drive_drain(struct bench *bench)
{
    static struct sides sides;
    const uint64_t budget = (bench->is_quick ? 32 : 128) * BENCH_MIB;
    const uint64_t live = 4 * budget / BENCH_PAGE, bytes = live * BENCH_PAGE;
    char spec[400], path[300], swap[300], no_swap[200] = "", no_raw[200] = "";

    snprintf(path, sizeof(path), "%s/drained", bench->dir);
    bench_undo("unlink", path);
    snprintf(spec, sizeof(spec), "file:%s?keep=yes&size=%lluM", path,
             (unsigned long long)(4 * bytes / BENCH_MIB));
    snprintf(path, sizeof(path), "%s/raw", bench->dir);
    bench_written_file(path, bytes, no_raw);
    bench_swap_file(bench, bytes, swap, no_swap);
    for (unsigned i = 0; i <= SPANS; i++) {
        bench_side_init(i < SPANS ? &sides.weir[i] : &sides.elsewhere, "weir", "drain",
                        "budget=%llu small=%llu pages=%llu live=%llu spec=%s",
                        (unsigned long long)(budget + 2 * bytes), (unsigned long long)budget,
                        (unsigned long long)(spans[i < SPANS ? i : 1].bytes / BENCH_PAGE),
                        (unsigned long long)live, spec);
        if (i < SPANS)
            set_kernel(&sides.kernel[i], no_swap, swap, live, budget, spans[i].bytes);
    }
    bench_side_more(&sides.elsewhere, " to=mem:?size=%lluM",
                    (unsigned long long)(4 * bytes / BENCH_MIB));
    bench_raw_side(&sides.raw[0], "raw O_DIRECT reads of 2 MiB", "raw_scan", no_raw, path, bytes);
    bench_raw_side(&sides.raw[1], "raw O_DIRECT reads of 2 MiB, four at a time", "raw_scan", no_raw,
                   path, bytes);
    bench_side_more(&sides.raw[1], " depth=4");
    if (!bench_rounds(bench, (struct bench_side *)&sides, SIDES, bench->is_quick ? 2 : 5))
        return false;
    print_all(bench, &sides);
    return true;
}
