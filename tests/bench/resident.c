/* SPDX-License-Identifier: MIT */

/*
 * Hit, meta and budget: what it costs when everything fits, what a page costs in bookkeeping, and
 * whether the budget is ever exceeded.
 */

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runs.h"

/* A number in kB from a file of /proc/self, in bytes. */
static uint64_t proc_bytes(const char *path, const char *key)
{
    char line[200];
    uint64_t bytes = 0;
    FILE *file = fopen(path, "re");

    while (file && fgets(line, sizeof(line), file))
        if (strncmp(line, key, strlen(key)) == 0) {
            bytes = strtoull(line + strlen(key), NULL, 10) * 1024;
            break;
        }
    if (file)
        fclose(file);
    return bytes;
}

/* --- Hit ------------------------------------------------------------------------------------- */

#define SLICES        300u
#define SLICE_TOUCHES 20000u
#define PIECE_PAGES   64u

static double slice(struct bench_memory *memory, uint64_t *random, bool is_sequential)
{
    uint64_t begun = bench_now_ns();

    for (unsigned i = 0; i < SLICE_TOUCHES; i++)
        bench_glance(memory, is_sequential ? (*random)++ % memory->pages
                                           : (bench_draw(random) >> 16) % memory->pages);
    return SLICE_TOUCHES * 1e9 / (double)(bench_now_ns() - begun);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double middle(double *values)
{
    qsort(values, SLICES, sizeof(*values), by_value);
    return values[SLICES / 2];
}

/* In turn, a piece at a time, so that both lie alike in the machine's memory: which frames a
 * mapping has makes more of a difference than what is to be measured. */
static void fill_alike(struct bench_memory *a, struct bench_memory *b)
{
    for (uint64_t page = 0; page < a->pages; page += PIECE_PAGES)
        for (unsigned turn = 0; turn < 2; turn++) {
            struct bench_memory *memory = (page / PIECE_PAGES + turn) & 1 ? a : b;

            for (uint64_t i = page; i < page + PIECE_PAGES && i < memory->pages; i++)
                bench_page_fill(memory, i, 0);
        }
}

/* hit: budget= pages= spec= sequential= -> weir plain, in touches a second. In turn within one
 * process, in slices of milliseconds: a difference of one percent is less than what two processes
 * differ by. */
void bench_run_hit(void)
{
    static double rates[2][SLICES];
    const bool is_sequential = bench_argument("sequential", 0) != 0;
    static struct weir_stats before, after;
    struct bench_memory weir, plain = {0};
    uint64_t random[2] = {11, 11};

    bench_memory_open(&weir);
    bench_memory_map(&plain, weir.pages, 1);
    fill_alike(&weir, &plain);
    slice(&weir, &random[0], is_sequential);
    slice(&plain, &random[1], is_sequential);
    bench_stats(&weir, &before);
    for (unsigned i = 0; i < SLICES; i++)
        for (unsigned turn = 0; turn < 2; turn++) {
            unsigned k = (i + turn) & 1;

            rates[k][i] = slice(k ? &plain : &weir, &random[k], is_sequential);
        }
    bench_stats(&weir, &after);
    bench_tell("weir", middle(rates[0]));
    bench_tell("plain", middle(rates[1]));
    bench_tell("faults", (double)(after.faults - before.faults));
    bench_memory_close(&weir);
    bench_memory_close(&plain);
}

bool bench_drive_hit(struct bench *bench)
{
    static struct bench_side side;
    const uint64_t budget = 256 * BENCH_MIB;
    char spec[300];

    bench_file_spec(bench, budget / BENCH_PAGE, spec);
    for (unsigned is_sequential = 0; is_sequential < 2; is_sequential++) {
        struct bench_line line = {
            .point = is_sequential ? "sequential loads" : "random loads",
            .metric = "rate",
            .unit = "loads/s",
            .better = BENCH_HIGHER,
            .baseline_name = "plain mmap with pages of 4 KiB",
            .goal = "ratio >= 0.99",
        };

        bench_side_init(&side, "weir", "hit", "budget=%llu pages=%llu sequential=%u spec=%s",
                        (unsigned long long)budget, (unsigned long long)budget / BENCH_PAGE * 3 / 4,
                        is_sequential, spec);
        if (!bench_rounds(bench, &side, 1, bench->is_quick ? 5 : 15))
            return false;
        line.weir = bench_series(&side, "weir");
        line.baseline = bench_series(&side, "plain");
        line.also[0].name = "faults";
        line.also[0].value = bench_result(&side, "faults");
        bench_print(bench, &line);
    }
    return true;
}

/* --- Meta ------------------------------------------------------------------------------------ */

static uint64_t anonymous(void)
{
    return proc_bytes("/proc/self/smaps_rollup", "Anonymous:");
}

/* meta: budget= pages= spec= -> used gauge tables, in bytes */
void bench_run_meta(void)
{
    struct bench_memory memory;
    struct weir_stats stats;
    uint64_t before = anonymous(), all, in_budget;

    bench_memory_open(&memory);
    bench_fill_all(&memory);
    /* The slab is in use, too, when pages have been read ahead. */
    for (uint64_t page = 0; page < memory.pages; page++)
        bench_page_check(&memory, page, 0);
    bench_stats(&memory, &stats);
    all = anonymous();
    in_budget = stats.resident_bytes + stats.staged_bytes + stats.slab_bytes;
    bench_tell("used", (double)all - (double)before - (double)in_budget);
    bench_tell("anonymous", (double)all);
    bench_tell("gauge", (double)stats.metadata_bytes);
    bench_tell("tables", (double)proc_bytes("/proc/self/status", "VmPTE:"));
    bench_memory_close(&memory);
}

static void print_meta(const struct bench *bench, const struct bench_side sides[2],
                       const char *point, const char *result, uint64_t pages)
{
    struct bench_line line = {
        .point = point,
        .metric = "bookkeeping",
        .unit = "bytes/page",
        .better = BENCH_LOWER,
        .weir = bench_series(&sides[1], result),
        .baseline = bench_constant(24),
        .baseline_name = "24 bytes, the most it may be",
        .goal = "at most 24",
        .also = {{"pages", (double)pages},
                 {"page_tables", bench_result(&sides[1], "tables") / (double)pages}},
    };

    for (unsigned i = 0; i < line.weir.count; i++)
        line.weir.value[i] /= (double)pages;
    bench_print(bench, &line);
}

bool bench_drive_meta(struct bench *bench)
{
    static struct bench_side sides[2];
    const uint64_t budget = 64 * BENCH_MIB;
    const uint64_t pages = (bench->is_quick ? 256 : 4096) * BENCH_MIB / BENCH_PAGE;
    struct bench_line line;
    char spec[300];

    bench_file_spec(bench, pages, spec);
    for (int i = 0; i < 2; i++)
        bench_side_init(&sides[i], "weir", "meta", "budget=%llu pages=%llu spec=%s",
                        (unsigned long long)budget, (unsigned long long)(i ? pages : pages / 2),
                        spec);
    if (!bench_rounds(bench, sides, 2, bench->is_quick ? 1 : 3))
        return false;
    print_meta(bench, sides, "all memory beside the budget, per page", "used", pages);
    print_meta(bench, sides, "what the library says of itself, per page", "gauge", pages);
    line = (struct bench_line){
        .point = "all memory, for one page more",
        .metric = "bookkeeping",
        .unit = "bytes/page",
        .better = BENCH_LOWER,
        .weir = bench_constant(
            (bench_result(&sides[1], "anonymous") - bench_result(&sides[0], "anonymous")) /
            ((double)pages / 2)),
        .baseline = bench_constant(24),
        .baseline_name = "24 bytes, the most it may be",
        .goal = "at most 24",
    };
    bench_print(bench, &line);
    return true;
}

/* --- Budget ---------------------------------------------------------------------------------- */

#define LOAD_THREADS 4u

struct sampler {
    pthread_t thread;
    struct bench_memory *memory;
    uint64_t before;         /* anonymous memory of the process before there was a runtime  */
    _Atomic(uint64_t) worst; /* most that the runtime had beyond its bookkeeping            */
    _Atomic(uint64_t) count;
    _Atomic(bool) stop;
};

static uint64_t of_runtime(const struct sampler *s)
{
    return proc_bytes("/proc/self/status", "RssAnon:") - s->before;
}

static uint64_t beyond_bookkeeping(const struct sampler *s)
{
    uint64_t now = of_runtime(s);
    struct weir_stats stats;

    bench_stats(s->memory, &stats);
    return now > stats.metadata_bytes ? now - stats.metadata_bytes : 0;
}

static void *sample(void *context)
{
    struct sampler *s = context;

    while (!atomic_load(&s->stop)) {
        uint64_t now = beyond_bookkeeping(s);

        if (now > atomic_load(&s->worst))
            atomic_store(&s->worst, now);
        atomic_fetch_add(&s->count, 1);
        usleep(500);
    }
    return NULL;
}

static void tell_worst(struct sampler *s, const char *name)
{
    bench_tell(name, (double)atomic_exchange(&s->worst, 0));
}

static void load_for(struct bench_memory *memory, unsigned writes, double seconds)
{
    static struct bench_load load;

    memset(&load, 0, sizeof(load));
    load.memory = memory;
    load.threads = LOAD_THREADS;
    load.writes_percent = writes;
    load.seconds = seconds;
    bench_load_run(&load);
}

/* What the bench itself needs, its threads included, is there before anything is measured. */
static void warm_up(struct bench_memory *plain)
{
    *plain = (struct bench_memory){0};
    bench_memory_map(plain, 1024, LOAD_THREADS);
    bench_fill_all(plain);
    load_for(plain, 50, 0.05);
}

/* budget: budget= pages= spec= seconds= -> start write read rewrite thrash thrash_writes samples */
void bench_run_budget(void)
{
    static struct sampler s;
    const double seconds = bench_argument_real("seconds", 1);
    struct bench_memory plain, memory = {0};

    warm_up(&plain);
    s.memory = &memory;
    s.before = proc_bytes("/proc/self/status", "RssAnon:");
    bench_memory_open(&memory);
    bench_tell("start", (double)of_runtime(&s));
    memset(memory.version, 1, memory.pages * memory.threads);
    memset(memory.version, 0, memory.pages * memory.threads);
    s.before += memory.pages * memory.threads; /* those notes are the bench's */
    if (pthread_create(&s.thread, NULL, sample, &s) != 0)
        bench_fail("cannot start a thread");
    bench_fill_all(&memory);
    tell_worst(&s, "write");
    for (uint64_t page = 0; page < memory.pages; page++)
        bench_page_check(&memory, page, 0);
    tell_worst(&s, "read");
    load_for(&memory, 0, seconds);
    tell_worst(&s, "thrash");
    load_for(&memory, 50, seconds);
    tell_worst(&s, "thrash_writes");
    atomic_store(&s.stop, true);
    pthread_join(s.thread, NULL);
    bench_tell("samples", (double)atomic_load(&s.count));
    bench_memory_close(&memory);
    bench_memory_close(&plain);
}

bool bench_drive_budget(struct bench *bench)
{
    static struct bench_side side;
    static const struct {
        const char *result, *name;
    } points[] = {{"write", "sequential write"},
                  {"read", "sequential read"},
                  {"thrash", "random reads/4 threads"},
                  {"thrash_writes", "random half writes/4 threads"}};
    const uint64_t budget = (bench->is_quick ? 64 : 256) * BENCH_MIB;
    const uint64_t pages = 4 * budget / BENCH_PAGE;
    char spec[300];

    bench_file_spec(bench, pages, spec);
    bench_side_init(&side, "weir", "budget", "budget=%llu pages=%llu threads=%u seconds=%g spec=%s",
                    (unsigned long long)budget, (unsigned long long)pages, LOAD_THREADS,
                    bench->is_quick ? 2.0 : 8.0, spec);
    if (!bench_rounds(bench, &side, 1, bench->is_quick ? 2 : 3))
        return false;
    for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
        struct bench_line line = {
            .point = points[i].name,
            .metric = "most resident memory beyond the bookkeeping",
            .unit = "bytes",
            .better = BENCH_LOWER,
            .weir = bench_series(&side, points[i].result),
            .baseline = bench_series(&side, "start"),
            .baseline_name = "the budget and what the runtime had when it was opened",
            .goal = "ratio >= 1",
            .also = {{"budget", (double)budget},
                     {"at_start", bench_result(&side, "start")},
                     {"samples", bench_result(&side, "samples")}},
        };

        for (unsigned k = 0; k < line.baseline.count; k++)
            line.baseline.value[k] += (double)budget;
        bench_print(bench, &line);
    }
    return true;
}
