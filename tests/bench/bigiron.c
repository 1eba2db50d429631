/* SPDX-License-Identifier: MIT */

/*
 * Big iron: "half a million of pages mapped some hundred times", on a machine that has to swap
 * them. 2.4.23 had to unmap 1 196 672 of them before the first 4 kB were on their way to the disk
 * (Andrea Arcangeli). An object of twice the budget shows in 200 views.
 *
 *   fill     every page is written once, each through some view: memory becomes short for the first
 *            time
 *   sample   a few pages are mapped in several views
 *   step     an eighth of the budget is allocated beside the object
 *   random   loads and stores through views at random, by some threads
 */

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <weir/weir_object.h>

#include "runs.h"
#include "watch.h"

#define VIEWS        200u
#define THREADS      4u
#define STEP_SHARE   8u /* of the budget */
#define SAMPLE_PAGES 64u
#define SAMPLE_VIEWS 8u
#define VIEW_BYTES   32768u /* of the kernel's, beside the entries of page tables */
#define SEED_PAGES   1196672.0
#define DEFER_SHARE  10 /* of memory: the most that is held back from writing (policy.c) */

struct iron {
    struct bench_memory memory; /* the first view */
    struct bench_memory views[VIEWS];
    unsigned view_count;
    struct weir_stats at_first_write;
};

struct worker {
    pthread_t thread;
    struct iron *iron;
    const _Atomic(bool) *is_over;
    unsigned index;
    _Atomic(uint64_t) touches;
};

/* --- Memory ---------------------------------------------------------------------------------- */

/* By the thread that submits it. */
static void on_first_write(void *context)
{
    struct iron *iron = context;

    bench_stats(&iron->memory, &iron->at_first_write);
}

static void map_weir(struct iron *iron, void **bases, uint64_t bytes)
{
    struct weir_object *object;
    int error;

    bench_watch_first_write(on_first_write, iron);
    iron->memory.rt = bench_runtime_open();
    error = weir_object_create(iron->memory.rt, bytes, NULL, &object);
    for (unsigned i = 0; i < iron->view_count && error == WEIR_OK; i++)
        error = weir_view_map(object, 0, bytes, &bases[i]);
    if (error == WEIR_OK)
        error = weir_object_close(object);
    if (error != WEIR_OK)
        bench_fail("an object and its views: %s", weir_error_text(error));
}

static void map_kernel(const struct iron *iron, void **bases, uint64_t bytes)
{
    int fd = memfd_create("weir-bench", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0)
        bench_fail("memfd_create is refused");
    for (unsigned i = 0; i < iron->view_count; i++) {
        bases[i] = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
        if (bases[i] == MAP_FAILED || madvise(bases[i], bytes, MADV_NOHUGEPAGE) != 0)
            bench_fail("mmap of %llu bytes is refused", (unsigned long long)bytes);
    }
    close(fd);
}

static void open_iron(struct iron *iron)
{
    const uint64_t pages = bench_argument("pages", 0);
    void *bases[VIEWS];

    iron->view_count = (unsigned)bench_argument("views", 1);
    if (strcmp(bench_argument_text("memory", "weir"), "weir") == 0)
        map_weir(iron, bases, pages * BENCH_PAGE);
    else
        map_kernel(iron, bases, pages * BENCH_PAGE);
    bench_memory_adopt(&iron->memory, bases[0], pages, THREADS);
    for (unsigned i = 0; i < iron->view_count; i++)
        iron->views[i] = bench_memory_at(&iron->memory, bases[i]);
}

static uint64_t pages_out(const struct iron *iron)
{
    struct weir_stats stats;

    if (!iron->memory.rt)
        return bench_vmstat("pswpout");
    bench_stats(&iron->memory, &stats);
    return stats.pages_written;
}

/* Until nothing has been written for half a second. */
static void settle(const struct iron *iron)
{
    uint64_t before, after = pages_out(iron);

    do {
        before = after;
        usleep(500000);
        after = pages_out(iron);
    } while (after != before);
}

/* --- The phases ------------------------------------------------------------------------------ */

static void fill(struct iron *iron)
{
    uint64_t random = 11, out = pages_out(iron);
    double seconds = bench_runtime_seconds();

    for (uint64_t page = 0; page < iron->memory.pages; page++)
        bench_page_fill(&iron->views[(bench_draw(&random) >> 16) % iron->view_count], page, 0);
    settle(iron);
    seconds = bench_runtime_seconds() - seconds;
    out = pages_out(iron) - out;
    bench_tell("out_mb", (double)(out * BENCH_PAGE) / 1e6);
    if (iron->memory.rt && out > 0)
        bench_tell("cpu_per_gb", seconds * 1e9 / (double)(out * BENCH_PAGE));
}

static uint64_t sample_page(const struct iron *iron, unsigned i)
{
    return iron->memory.pages / SAMPLE_PAGES * i;
}

static unsigned sample_views(const struct iron *iron)
{
    return iron->view_count < SAMPLE_VIEWS ? iron->view_count : SAMPLE_VIEWS;
}

static void touch_sample(struct iron *iron)
{
    for (unsigned i = 0; i < SAMPLE_PAGES; i++)
        for (unsigned view = 0; view < sample_views(iron); view++)
            bench_touch_read(&iron->views[view], 0, sample_page(iron, i));
}

static bool is_mapped(int pagemap, const void *address)
{
    uint64_t entry = 0;
    const off_t at = (off_t)((uintptr_t)address / BENCH_PAGE * sizeof(entry));

    if (pread(pagemap, &entry, sizeof(entry), at) != (ssize_t)sizeof(entry))
        bench_fail("pagemap cannot be read");
    return entry >> 63;
}

/* Places of the sample that are unmapped, though their page has not left memory: the next touch of
 * each is a fault for nothing. While nothing is being reclaimed: a victim is unmapped first and
 * then freed. */
static uint64_t lost_of_sample(const struct iron *iron)
{
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    uint64_t lost = 0;

    for (unsigned i = 0; i < SAMPLE_PAGES; i++) {
        const uint64_t at = sample_page(iron, i) * BENCH_PAGE;
        unsigned char is_in = 0;

        if (mincore(iron->memory.base + at, BENCH_PAGE, &is_in) != 0)
            bench_fail("mincore is refused");
        for (unsigned view = 0; view < sample_views(iron) && (is_in & 1); view++)
            lost += !is_mapped(pagemap, iron->views[view].base + at);
    }
    close(pagemap);
    return lost;
}

static void step(struct iron *iron)
{
    static struct bench_histogram waits;
    struct bench_memory more = {.rt = iron->memory.rt};
    uint64_t out, longest = 0;

    bench_memory_map(&more, bench_argument("budget", 0) / BENCH_PAGE / STEP_SHARE, 1);
    out = pages_out(iron);
    for (uint64_t page = 0; page < more.pages; page++) {
        const uint64_t begun = bench_now_ns();
        uint64_t took;

        bench_page_fill(&more, page, 0);
        took = bench_now_ns() - begun;
        bench_histogram_add(&waits, took);
        longest = took > longest ? took : longest;
    }
    settle(iron);
    if (iron->memory.rt)
        bench_tell("soft_unchosen", (double)lost_of_sample(iron));
    bench_tell("step_swapout", (double)(pages_out(iron) - out) / (double)more.pages);
    bench_tell("wait_p99", bench_histogram_us(&waits, 0.99) / 1e3);
    bench_tell("wait_max", (double)longest / 1e6);
    for (uint64_t page = 0; page < more.pages; page++)
        bench_page_check(&more, page, 0);
}

static void *work(void *context)
{
    struct worker *w = context;
    struct iron *iron = w->iron;
    uint64_t random = (w->index + 1) * 0x2545f4914f6cdd1dull, touches = 0;

    while (!atomic_load_explicit(w->is_over, memory_order_relaxed)) {
        const uint64_t draw = bench_draw(&random), page = (draw >> 32) % iron->memory.pages;
        struct bench_memory *view = &iron->views[(draw >> 8) % iron->view_count];

        if (draw & 1)
            bench_touch_write(view, w->index, page);
        else
            bench_touch_read(view, w->index, page);
        atomic_store_explicit(&w->touches, ++touches, memory_order_relaxed);
    }
    return NULL;
}

static uint64_t touches_of(const struct worker workers[THREADS])
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < THREADS; i++)
        sum += atomic_load_explicit(&workers[i].touches, memory_order_relaxed);
    return sum;
}

static void load(struct iron *iron, double seconds)
{
    static struct worker workers[THREADS];
    static _Atomic(bool) is_over;
    uint64_t touches, begun;
    double cpu;

    for (unsigned i = 0; i < THREADS; i++) {
        workers[i].iron = iron;
        workers[i].is_over = &is_over;
        workers[i].index = i;
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
            bench_fail("cannot start a thread");
    }
    usleep((useconds_t)(seconds / 3 * 1e6));
    touches = touches_of(workers);
    begun = bench_now_ns();
    cpu = bench_runtime_seconds();
    usleep((useconds_t)(seconds * 1e6));
    seconds = (double)(bench_now_ns() - begun) / 1e9;
    bench_tell("rate", (double)(touches_of(workers) - touches) / seconds);
    bench_tell("cpu_share", (bench_runtime_seconds() - cpu) / seconds);
    atomic_store(&is_over, true);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(workers[i].thread, NULL);
}

/* bigiron: memory= budget= pages= views= spec= seconds= -> first_free unsubmitted rate cpu_per_gb
 * soft_unchosen step_swapout wait_p99 wait_max */
void bench_run_bigiron(void)
{
    static struct iron iron;
    static struct weir_stats stats;

    open_iron(&iron);
    fill(&iron);
    touch_sample(&iron);
    step(&iron);
    load(&iron, bench_argument_real("seconds", 1));
    bench_stats(&iron.memory, &stats);
    bench_tell("first_free", (double)iron.at_first_write.reclaim_marked);
    bench_tell("unsubmitted", (double)stats.unsubmitted_most_bytes);
    bench_tell("views_mapped", (double)stats.views_mapped);
    bench_tell("views_unmapped", (double)stats.views_unmapped);
    if (iron.memory.rt)
        weir_close(iron.memory.rt);
}

/* --- The bench ------------------------------------------------------------------------------- */

enum { WEIR, WEIR_ONE, KERNEL, KERNEL_ONE, SIDES };

static const struct {
    const char *metric, *unit;
    enum bench_better better;
    double bound; /* 0: the kernel stands beside it */
    const char *beside, *goal;
} lines[] = {
    {"first_free", "pages", BENCH_LOWER, SEED_PAGES, "2.4.23aa1 in the seed's trace",
     "at most 512"},
    {"soft_unchosen", "faults", BENCH_LOWER, 1, "one", "0"},
    {"cpu_per_gb", "s/GB", BENCH_LOWER, BENCH_CPU_PER_GB, "a fifth of a processor at 1 GB/s",
     "at most 0.2"},
    {"rate", "touches/s", BENCH_HIGHER, 0, NULL, NULL},
    {"wait_p99", "ms", BENCH_LOWER, 0, NULL, "at most 5"},
    {"wait_max", "ms", BENCH_LOWER, 0, NULL, "at most 100"},
    {"step_swapout", "bytes out a byte", BENCH_LOWER, 0, NULL, "at most 1.1"},
};

static void print(const struct bench *bench, const struct bench_side sides[SIDES], unsigned i)
{
    struct bench_line line = {
        .point = "200 views",
        .metric = lines[i].metric,
        .unit = lines[i].unit,
        .better = lines[i].better,
        .weir = bench_series(&sides[WEIR], lines[i].metric),
        .baseline = bench_series(&sides[KERNEL], lines[i].metric),
        .baseline_name = sides[KERNEL].name,
        .baseline_missing = sides[KERNEL].missing,
        .goal = lines[i].goal,
        .also = {{"cpu_share", bench_result(&sides[WEIR], "cpu_share")},
                 {"views_mapped", bench_result(&sides[WEIR], "views_mapped")},
                 {"views_unmapped", bench_result(&sides[WEIR], "views_unmapped")}},
    };

    if (lines[i].bound > 0) {
        line.baseline = bench_constant(lines[i].bound);
        line.baseline_name = lines[i].beside;
        line.baseline_missing = NULL;
    }
    if (lines[i].bound == 1)
        line.least = 1;
    bench_print(bench, &line);
}

static void print_unsubmitted(const struct bench *bench, const struct bench_side *side,
                              uint64_t budget)
{
    bench_print(bench,
                &(struct bench_line){
                    .point = "200 views",
                    .metric = "unsubmitted",
                    .unit = "bytes",
                    .better = BENCH_LOWER,
                    .weir = bench_series(side, "unsubmitted"),
                    .baseline = bench_constant((double)(4 * BENCH_MIB + budget / DEFER_SHARE)),
                    .baseline_name = "4 MiB and the most that is deferred",
                    .goal = "ratio >= 1",
                });
}

/* Without the price of the views. */
static void print_one_view(const struct bench *bench, const struct bench_side *side)
{
    bench_print(bench, &(struct bench_line){
                           .point = "one view",
                           .metric = "cpu_per_gb",
                           .unit = "s/GB",
                           .better = BENCH_LOWER,
                           .weir = bench_series(side, "cpu_per_gb"),
                           .baseline = bench_constant(BENCH_CPU_PER_GB),
                           .baseline_name = "a fifth of a processor at 1 GB/s",
                           .goal = "at most 0.2",
                       });
}

static void print_views(const struct bench *bench, const struct bench_side sides[SIDES])
{
    bench_print(bench,
                &(struct bench_line){
                    .point = "200 views, of the rate with one",
                    .metric = "views",
                    .unit = "ratio",
                    .better = BENCH_HIGHER,
                    .weir = bench_series_over(&sides[WEIR], &sides[WEIR_ONE], "rate"),
                    .baseline = bench_series_over(&sides[KERNEL], &sides[KERNEL_ONE], "rate"),
                    .baseline_name = sides[KERNEL].name,
                    .baseline_missing = *sides[KERNEL].missing ? sides[KERNEL].missing
                                                               : sides[KERNEL_ONE].missing,
                    .goal = "at least 0.8",
                });
}

bool bench_drive_bigiron(struct bench *bench)
{
    static struct bench_side sides[SIDES];
    const uint64_t budget = (bench->is_quick ? 64 : 1024) * BENCH_MIB;
    const uint64_t pages = 2 * budget / BENCH_PAGE, step_pages = budget / BENCH_PAGE / STEP_SHARE;
    char spec[300], swap[300], missing[200] = "";

    bench_file_spec(bench, pages, spec);
    bench_swap_file(bench, (pages + step_pages) * BENCH_PAGE, swap, missing);
    for (unsigned i = 0; i < SIDES; i++) {
        const unsigned views = i == WEIR || i == KERNEL ? VIEWS : 1;

        if (i < KERNEL)
            bench_side_init(&sides[i], i == WEIR ? "weir" : "weir, one view", "bigiron",
                            "budget=%llu pages=%llu spec=watch(%s)", (unsigned long long)budget,
                            (unsigned long long)pages, spec);
        else
            bench_kernel_side(&sides[i], "kernel swap file", "bigiron", missing, budget, pages);
        /* Each view has page tables of its own, which its group has to pay for. */
        if (i >= KERNEL)
            sides[i].limit_bytes = budget + bench_allowance(pages + step_pages, THREADS) +
                                   (views - 1) * (pages * sizeof(uint64_t) + VIEW_BYTES);
        bench_side_more(&sides[i], " views=%u seconds=%g", views, bench->is_quick ? 1.5 : 20.0);
    }
    if (!bench_rounds(bench, sides, SIDES, bench->is_quick ? 1 : 3))
        return false;
    for (unsigned i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        print(bench, sides, i);
    print_unsubmitted(bench, &sides[WEIR], budget);
    print_one_view(bench, &sides[WEIR_ONE]);
    print_views(bench, sides);
    return true;
}
