/* SPDX-License-Identifier: MIT */

/*
 * Copy stream: a file is copied on a machine that has much swapped out and a busy database. In
 * 2.4.23 that was "some 10 or 100 times slower", and pushed the database into swap "precisely as
 * much as the size of the file" (Andrea Arcangeli).
 *
 *   cold     twice the budget, written and left alone: it is swapped out
 *   stream   four times the budget, written before everything else; read from end to end, each
 *            page once, so that all of it is clean and none of it worth keeping
 *   hot      half of the budget, under random touches, half of them writes
 */

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runs.h"

/* The load on the hot set: one thread. */
struct hot {
    pthread_t thread;
    struct bench_memory memory;
    uint64_t random;
    _Atomic(bool) is_over;
    _Atomic(uint64_t) touches;
    _Atomic(uint64_t) longest_ns; /* between two touches */
};

struct state {
    struct bench_memory cold, stream;
    struct hot hot;
};

static void *work(void *context)
{
    struct hot *h = context;
    uint64_t last = bench_now_ns();

    while (!atomic_load_explicit(&h->is_over, memory_order_relaxed)) {
        const uint64_t draw = bench_draw(&h->random);
        const uint64_t page = (draw >> 16) % h->memory.pages;
        uint64_t now;

        if (draw & 1)
            bench_touch_write(&h->memory, 0, page);
        else
            bench_touch_read(&h->memory, 0, page);
        atomic_store_explicit(&h->touches,
                              atomic_load_explicit(&h->touches, memory_order_relaxed) + 1,
                              memory_order_relaxed);
        now = bench_now_ns();
        if (now - last > atomic_load_explicit(&h->longest_ns, memory_order_relaxed))
            atomic_store_explicit(&h->longest_ns, now - last, memory_order_relaxed);
        last = now;
    }
    return NULL;
}

static void begin(struct hot *h)
{
    atomic_store(&h->is_over, false);
    if (pthread_create(&h->thread, NULL, work, h) != 0)
        bench_fail("cannot start a thread");
}

static void end(struct hot *h)
{
    atomic_store(&h->is_over, true);
    pthread_join(h->thread, NULL);
}

/* Pages of the hot set that the program can use without a fault. */
static uint64_t resident_of(const struct bench_memory *memory)
{
    unsigned char *is_in = malloc(memory->pages);
    uint64_t sum = 0;

    if (!is_in || mincore(memory->base, memory->pages * BENCH_PAGE, is_in) != 0)
        bench_fail("mincore is refused");
    for (uint64_t page = 0; page < memory->pages; page++)
        sum += is_in[page] & 1;
    free(is_in);
    return sum;
}

static uint64_t pages_out(const struct bench_memory *memory)
{
    struct weir_stats stats;

    if (!memory->rt)
        return bench_vmstat("pswpout");
    bench_stats(memory, &stats);
    return stats.pages_written;
}

/* Nanoseconds. */
static uint64_t read_stream(struct bench_memory *stream)
{
    const uint64_t begun = bench_now_ns();

    for (uint64_t page = 0; page < stream->pages; page++)
        bench_page_check(stream, page, 0);
    return bench_now_ns() - begun;
}

static double mb_per_s(const struct bench_memory *stream, uint64_t ns)
{
    return (double)(stream->pages * BENCH_PAGE) * 1e3 / (double)ns;
}

/* The hot set by itself until it is settled; touches a second at the end of that. */
static double settle(struct hot *h, double seconds)
{
    uint64_t touches, begun;

    usleep((useconds_t)(seconds * 1e6));
    touches = atomic_load(&h->touches);
    begun = bench_now_ns();
    usleep((useconds_t)(seconds / 2 * 1e6));
    return (double)(atomic_load(&h->touches) - touches) * 1e9 / (double)(bench_now_ns() - begun);
}

/* What the runtime did meanwhile: for those who ask why (--verbose). */
static void tell_causes(const struct weir_stats *a, const struct weir_stats *b)
{
    bench_tell("found", (double)(b->cache_found - a->cache_found));
    bench_tell("reads_demand", (double)(b->reads_demand - a->reads_demand));
    bench_tell("reads_ahead", (double)(b->reads_ahead - a->reads_ahead));
    bench_tell("reads_ahead_wasted", (double)(b->reads_ahead_wasted - a->reads_ahead_wasted));
    bench_tell("dropped_clean", (double)(b->pages_dropped_clean - a->pages_dropped_clean));
    bench_tell("frame_waits", (double)(b->frame_waits - a->frame_waits));
}

/* Beside each other. */
static void measure(struct state *s, double seconds, double alone_rate)
{
    const double before_rate = settle(&s->hot, seconds);
    const uint64_t before = resident_of(&s->hot.memory), touches = atomic_load(&s->hot.touches);
    const uint64_t out = pages_out(&s->stream);
    struct weir_stats causes, causes_after;
    uint64_t took, after;
    double rate;

    bench_stats(&s->stream, &causes);
    atomic_store(&s->hot.longest_ns, 0);
    took = read_stream(&s->stream);
    rate = mb_per_s(&s->stream, took);
    bench_tell("hot_rate", (double)(atomic_load(&s->hot.touches) - touches) * 1e9 / (double)took);
    bench_tell("swapout", (double)(pages_out(&s->stream) - out) / (double)s->stream.pages);
    bench_tell("swapout_hot", (double)(pages_out(&s->stream) - out) /
                                  (double)(atomic_load(&s->hot.touches) - touches + 1));
    bench_tell("hot_gap", (double)atomic_load(&s->hot.longest_ns) / 1e6);
    after = resident_of(&s->hot.memory);
    bench_stats(&s->stream, &causes_after);
    if (s->stream.rt)
        tell_causes(&causes, &causes_after);
    bench_tell("beside", rate);
    bench_tell("stream", rate / alone_rate);
    bench_tell("resident_before", (double)before);
    bench_tell("resident_after", (double)after);
    bench_tell("hot_loss", before > after ? (double)(before - after) * BENCH_PAGE /
                                                (double)bench_argument("budget", 1)
                                          : 0);
    bench_tell("hot_before", before_rate);
}

/* copystream: memory= budget= spec= seconds= -> alone beside stream swapout hot_loss hot_rate */
void bench_run_copystream(void)
{
    static struct state s;
    const uint64_t pages = bench_argument("budget", 0) / BENCH_PAGE;
    const double seconds = bench_argument_real("seconds", 1);
    double alone_rate;

    if (strcmp(bench_argument_text("memory", "weir"), "weir") == 0)
        s.stream.rt = bench_runtime_open();
    s.cold.rt = s.hot.memory.rt = s.stream.rt;
    s.hot.random = 0x2545f4914f6cdd1dull;
    bench_memory_map(&s.stream, 4 * pages, 1);
    bench_memory_map(&s.cold, 2 * pages, 1);
    bench_memory_map(&s.hot.memory, pages / 2, 1);
    bench_fill_all(&s.stream);
    bench_fill_all(&s.cold);
    bench_fill_all(&s.hot.memory);
    /* Once unmeasured: what is dirty yet of the cold leaves. */
    begin(&s.hot);
    settle(&s.hot, seconds);
    read_stream(&s.stream);
    end(&s.hot);
    alone_rate = mb_per_s(&s.stream, read_stream(&s.stream));
    bench_tell("alone", alone_rate);
    begin(&s.hot);
    measure(&s, seconds, alone_rate);
    end(&s.hot);
    for (uint64_t page = 0; page < s.cold.pages; page += 61)
        bench_page_check(&s.cold, page, 0);
    bench_memory_close(&s.stream);
}

/* --- The bench ------------------------------------------------------------------------------- */

static const struct {
    const char *metric, *unit;
    enum bench_better better;
    const char *goal;
    const char *also[4]; /* each of Weir, then of the baseline */
} lines[] = {
    {"stream", "of the rate alone", BENCH_HIGHER, "at least 0.95", {NULL}},
    {"beside", "MB/s", BENCH_HIGHER, NULL, {"alone"}},
    {"swapout", "of what is read", BENCH_LOWER, "at most 0.05", {NULL}},
    {"hot_loss",
     "of the budget",
     BENCH_LOWER,
     "at most 0.1",
     {"resident_before", "resident_after"}},
    {"hot_rate", "touches/s", BENCH_HIGHER, NULL, {"hot_before", "hot_gap"}},
};

static void print(const struct bench *bench, const struct bench_side sides[2], unsigned i)
{
    static char names[4][60];
    struct bench_line line = {
        .point = "4x the budget",
        .metric = lines[i].metric,
        .unit = lines[i].unit,
        .better = lines[i].better,
        .goal = lines[i].goal,
        .weir = bench_series(&sides[0], lines[i].metric),
        .baseline = bench_series(&sides[1], lines[i].metric),
        .baseline_name = sides[1].name,
        .baseline_missing = sides[1].missing,
    };

    for (unsigned k = 0; k < 2 && lines[i].also[k]; k++)
        for (unsigned side = 0; side < 2; side++) {
            char *name = names[2 * k + side];

            snprintf(name, sizeof(names[0]), "%s_%s", side ? "baseline" : "weir", lines[i].also[k]);
            line.also[2 * k + side].name = name;
            line.also[2 * k + side].value = bench_result(&sides[side], lines[i].also[k]);
        }
    bench_print(bench, &line);
}

bool bench_drive_copystream(struct bench *bench)
{
    static struct bench_side sides[2];
    const uint64_t budget = (bench->is_quick ? 32 : 256) * BENCH_MIB;
    const uint64_t pages = budget / BENCH_PAGE * 13 / 2;
    char spec[300], swap[300], missing[200] = "";

    bench_file_spec(bench, pages, spec);
    bench_swap_file(bench, pages * BENCH_PAGE, swap, missing);
    bench_side_init(&sides[0], "weir", "copystream", "budget=%llu spec=%s",
                    (unsigned long long)budget, spec);
    bench_kernel_side(&sides[1], "kernel swap file", "copystream", missing, budget, pages);
    for (unsigned i = 0; i < 2; i++)
        bench_side_more(&sides[i], " seconds=%g", bench->is_quick ? 0.5 : 4.0);
    if (!bench_rounds(bench, sides, 2, bench->is_quick ? 2 : 5))
        return false;
    for (unsigned i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        print(bench, sides, i);
    return true;
}
