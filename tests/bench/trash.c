/* SPDX-License-Identifier: MIT */

/*
 * Trash: what Ingo Molnar asked for in 2001, new methods to create swap trashing, and what he
 * complained of: systems that lock up under it. How much is done, how evenly, how long any thread
 * stands still, and how late a program is that only wants a little of its own memory.
 */

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runs.h"
#include "trasher.h"

#define BEAT_NS     10000000ull
#define BEAT_PAGES  64u
#define SAMPLES_MAX 1000u
#define SIGN_NS     60000000000ull /* a sign of life, so that nobody takes us for hung */
#define SIGN_PAGES  (BENCH_GIB / BENCH_PAGE)

enum phase { PHASE_WARM, PHASE_MEASURE, PHASE_STOP };
static _Atomic(int) phase;

/* One per thread, each on cache lines of its own. */
struct worker {
    _Alignas(128) pthread_t thread;
    struct trasher *trasher;
    _Atomic(uint64_t) steps;
    uint64_t longest_ns;
};

struct heart {
    pthread_t thread;
    struct bench_memory memory;
    struct bench_histogram late;
    uint64_t latest_ns;
};

struct samples {
    double steps[SAMPLES_MAX], moved[SAMPLES_MAX]; /* a second */
    unsigned count;
};

/* --- Threads --------------------------------------------------------------------------------- */

static void *work(void *context)
{
    struct worker *w = context;
    uint64_t last = bench_now_ns();
    int now_phase;

    do {
        uint64_t now;

        trasher_step(w->trasher);
        now = bench_now_ns();
        now_phase = atomic_load_explicit(&phase, memory_order_relaxed);
        if (now_phase != PHASE_WARM && now - last > w->longest_ns)
            w->longest_ns = now - last;
        last = now;
        /* One writer: no need for an atomic addition. */
        atomic_store_explicit(&w->steps, atomic_load_explicit(&w->steps, memory_order_relaxed) + 1,
                              memory_order_relaxed);
    } while (now_phase != PHASE_STOP);
    return NULL;
}

static void sleep_until(uint64_t ns)
{
    struct timespec t = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0)
        ;
}

/* Beats that were missed are not skipped: each of them is late by as much as it is. */
static void *beat(void *context)
{
    struct heart *h = context;
    uint64_t due = bench_now_ns();
    int now_phase;

    while ((now_phase = atomic_load_explicit(&phase, memory_order_relaxed)) != PHASE_STOP) {
        uint64_t late;

        due += BEAT_NS;
        sleep_until(due);
        for (uint64_t page = 0; page < BEAT_PAGES; page++)
            if (page % 4 == 0)
                bench_touch_write(&h->memory, 0, page);
            else
                bench_touch_read(&h->memory, 0, page);
        late = bench_now_ns() - due;
        if (now_phase == PHASE_WARM)
            continue;
        bench_histogram_add(&h->late, late);
        if (late > h->latest_ns)
            h->latest_ns = late;
    }
    return NULL;
}

/* --- What is measured ------------------------------------------------------------------------ */

/* Pages in and out so far. */
static uint64_t moved_by(const struct bench_memory *memory)
{
    struct weir_stats stats;

    if (!memory->rt)
        return bench_vmstat("pswpin") + bench_vmstat("pswpout");
    bench_stats(memory, &stats);
    return stats.reads_demand + stats.reads_ahead + stats.pages_written;
}

static uint64_t steps_of(const struct worker *workers, unsigned count)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < count; i++)
        sum += atomic_load_explicit(&workers[i].steps, memory_order_relaxed);
    return sum;
}

static void sample(struct samples *s, const struct bench_memory *memory,
                   const struct worker *workers, double seconds, double sample_s)
{
    uint64_t begun = bench_now_ns(), due = begun, said = begun;
    uint64_t steps = steps_of(workers, memory->threads), moved = moved_by(memory);

    while ((double)(due - begun) / 1e9 + sample_s <= seconds + 1e-6 && s->count < SAMPLES_MAX) {
        uint64_t last = bench_now_ns(), now, now_steps, now_moved;

        due += (uint64_t)(sample_s * 1e9);
        sleep_until(due);
        now_steps = steps_of(workers, memory->threads);
        now_moved = moved_by(memory);
        now = bench_now_ns();
        s->steps[s->count] = (double)(now_steps - steps) * 1e9 / (double)(now - last);
        s->moved[s->count] = (double)(now_moved - moved) * 1e9 / (double)(now - last);
        s->count++;
        steps = now_steps;
        moved = now_moved;
        if (now - said < SIGN_NS)
            continue;
        bench_tell("seconds", (double)(now - begun) / 1e9);
        said = now;
    }
}

static double mean_of(const double *value, unsigned count)
{
    double sum = 0;

    for (unsigned i = 0; i < count; i++)
        sum += value[i];
    return count ? sum / count : 0;
}

/* Standard deviation, as a share of the mean. */
static double variation_of(const double *value, unsigned count)
{
    const double mean = mean_of(value, count);
    double sum = 0;

    for (unsigned i = 0; i < count; i++)
        sum += (value[i] - mean) * (value[i] - mean);
    return mean > 0 && count > 1 ? sqrt(sum / (count - 1)) / mean : 0;
}

static void tell_all(const struct samples *s, const struct worker *workers, unsigned threads,
                     const struct heart *heart)
{
    uint64_t longest = 0;

    for (unsigned i = 0; i < threads; i++)
        if (workers[i].longest_ns > longest)
            longest = workers[i].longest_ns;
    bench_tell("mean", mean_of(s->steps, s->count));
    bench_tell("cov", variation_of(s->steps, s->count));
    bench_tell("moved", mean_of(s->moved, s->count));
    bench_tell("moved_cov", variation_of(s->moved, s->count));
    bench_tell("max_gap", (double)longest / 1e6);
    bench_tell("late_p50", bench_histogram_us(&heart->late, 0.5) / 1e3);
    bench_tell("late_p99", bench_histogram_us(&heart->late, 0.99) / 1e3);
    bench_tell("late_p99_9", bench_histogram_us(&heart->late, 0.999) / 1e3);
    bench_tell("late_max", (double)heart->latest_ns / 1e6);
}

/* The longest wait of one kind while it was measured, in ms, to the next power of two. */
static void tell_worst(const char *result, const struct weir_histogram *before,
                       const struct weir_histogram *after)
{
    struct weir_histogram between = *after;

    between.count -= before->count;
    for (unsigned i = 0; i < WEIR_HISTOGRAM_BUCKETS; i++)
        between.bucket[i] -= before->bucket[i];
    bench_tell(result, (double)weir_histogram_quantile(&between, 1) / 1e6);
}

static void tell_causes(const struct weir_stats *before, const struct weir_stats *after)
{
    bench_tell("rescued_writing",
               (double)(after->pages_rescued_writing - before->pages_rescued_writing));
    bench_tell("elided_zero", (double)(after->pages_elided_zero - before->pages_elided_zero));
    bench_tell("frame_waits", (double)(after->frame_waits - before->frame_waits));
    bench_tell("frame_wait_ms",
               (double)(after->time_frame.sum_ns - before->time_frame.sum_ns) / 1e6);
#define TRASH_WORST(name, text) \
    tell_worst("worst_" #name, &before->time_##name, &after->time_##name);
    WEIR_TIME_MAP(TRASH_WORST)
#undef TRASH_WORST
}

static void fill(struct bench_memory *memory)
{
    for (uint64_t page = 0; page < memory->pages; page++) {
        bench_page_fill(memory, page, 0);
        if (page % SIGN_PAGES == 0)
            bench_tell("filled", (double)page);
    }
}

/* trash: memory= budget= pages= spec= threads= trasher= seconds= sample= warm= */
void bench_run_trash(void)
{
    static struct worker workers[BENCH_THREADS_MAX];
    static struct heart heart;
    static struct samples samples;
    const enum trasher_kind kind = (enum trasher_kind)bench_argument("trasher", 0);
    struct bench_memory memory;
    struct weir_stats before, after;

    bench_memory_open(&memory);
    heart.memory.rt = memory.rt;
    bench_memory_map(&heart.memory, BEAT_PAGES, 1);
    if (trasher_is_filled(kind))
        fill(&memory);
    bench_fill_all(&heart.memory);
    for (unsigned i = 0; i < memory.threads; i++) {
        workers[i].trasher = trasher_open(kind, &memory, i,
                                          bench_argument("budget", 0) / BENCH_PAGE);
        if (!workers[i].trasher || pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
            bench_fail("cannot start a thread");
    }
    if (pthread_create(&heart.thread, NULL, beat, &heart) != 0)
        bench_fail("cannot start a thread");
    usleep((useconds_t)(bench_argument_real("warm", 0) * 1e6));
    bench_stats(&memory, &before);
    atomic_store(&phase, PHASE_MEASURE);
    sample(&samples, &memory, workers, bench_argument_real("seconds", 1),
           bench_argument_real("sample", 1));
    atomic_store(&phase, PHASE_STOP);
    for (unsigned i = 0; i < memory.threads; i++) {
        pthread_join(workers[i].thread, NULL);
        free(workers[i].trasher);
    }
    pthread_join(heart.thread, NULL);
    tell_all(&samples, workers, memory.threads, &heart);
    bench_stats(&memory, &after);
    if (memory.rt)
        tell_causes(&before, &after);
    bench_memory_close(&memory);
}

/* --- The bench ------------------------------------------------------------------------------- */

void trash_sides(struct bench_side sides[TRASH_SIDES], const struct trash_plan *plan,
                 const char *spec, const char *missing)
{
    bench_side_init(&sides[TRASH_WEIR], "weir", "trash",
                    "memory=weir budget=%llu pages=%llu spec=%s", (unsigned long long)plan->budget,
                    (unsigned long long)plan->pages, spec);
    bench_kernel_side(&sides[TRASH_KERNEL], "kernel swap file", "trash", missing, plan->budget,
                      plan->pages);
    sides[TRASH_KERNEL].limit_bytes = plan->budget +
                                      bench_allowance(plan->pages + BEAT_PAGES, plan->threads);
    for (unsigned i = 0; i < TRASH_SIDES; i++)
        bench_side_more(&sides[i], " threads=%u trasher=%u seconds=%g sample=%g warm=%g",
                        plan->threads, (unsigned)plan->kind, plan->seconds, plan->sample_s,
                        plan->seconds / 5 < 5 ? plan->seconds / 5 : 5);
}

static struct bench_line line_of(const struct bench_side sides[TRASH_SIDES], const char *point,
                                 const char *metric, const char *result)
{
    return (struct bench_line){
        .point = point,
        .metric = metric,
        .unit = "ms",
        .better = BENCH_LOWER,
        .weir = bench_series(&sides[TRASH_WEIR], result),
        .baseline = bench_series(&sides[TRASH_KERNEL], result),
        .baseline_name = sides[TRASH_KERNEL].name,
        .baseline_missing = sides[TRASH_KERNEL].missing,
    };
}

void trash_print(const struct bench *bench, const struct bench_side sides[TRASH_SIDES],
                 const char *point)
{
    static const char *const causes[] = {"frame_waits", "rescued_writing", "worst_read",
                                         "worst_frame", "worst_page_lock", "worst_write"};
    const struct bench_side *weir = &sides[TRASH_WEIR], *kernel = &sides[TRASH_KERNEL];
    struct bench_line line = line_of(sides, point, "mean", "mean");

    line.unit = "steps/s";
    line.better = BENCH_HIGHER;
    line.goal = "ratio >= 1";
    line.also[0].name = "moved"; /* pages in and out a second */
    line.also[0].value = bench_result(weir, "moved");
    line.also[1].name = "baseline_moved";
    line.also[1].value = bench_result(kernel, "moved");
    bench_print(bench, &line);

    line = line_of(sides, point, "cov", "cov");
    line.unit = "of the mean";
    line.goal = "at most 0.15";
    line.also[0].name = "moved_cov";
    line.also[0].value = bench_result(weir, "moved_cov");
    line.also[1].name = "baseline_moved_cov";
    line.also[1].value = bench_result(kernel, "moved_cov");
    bench_print(bench, &line);

    line = line_of(sides, point, "max_gap", "max_gap");
    line.goal = "at most twice a read's p99.9 and 10 ms";
    for (unsigned i = 0; i < 6; i++) {
        line.also[i].name = causes[i];
        line.also[i].value = bench_result(weir, causes[i]);
    }
    bench_print(bench, &line);

    line = line_of(sides, point, "heartbeat_p99_9", "late_p99_9");
    line.goal = "at most 50 ms";
    line.also[0].name = "weir_p50";
    line.also[0].value = bench_result(weir, "late_p50");
    line.also[1].name = "weir_p99";
    line.also[1].value = bench_result(weir, "late_p99");
    line.also[2].name = "weir_max";
    line.also[2].value = bench_result(weir, "late_max");
    line.also[3].name = "baseline_p50";
    line.also[3].value = bench_result(kernel, "late_p50");
    line.also[4].name = "baseline_p99";
    line.also[4].value = bench_result(kernel, "late_p99");
    line.also[5].name = "baseline_max";
    line.also[5].value = bench_result(kernel, "late_max");
    bench_print(bench, &line);
}

static bool measure(const struct bench *bench, const struct trash_plan *plan, const char *spec,
                    const char *missing, const char *point)
{
    static struct bench_side sides[TRASH_SIDES];

    if (!bench_is_asked(bench, point))
        return true;
    trash_sides(sides, plan, spec, missing);
    if (!bench_rounds(bench, sides, TRASH_SIDES, 1))
        return false;
    trash_print(bench, sides, point);
    return true;
}

/* Quick: twice the budget only, but for one. */
static bool is_point(const struct bench *bench, enum trasher_kind kind, unsigned tenths)
{
    return kind != TRASHER_random && (!bench->is_quick || tenths == 20 || kind == TRASHER_uniform);
}

/* One trasher more closely: by other numbers of threads, and for five minutes. */
static bool measure_more(const struct bench *bench, struct trash_plan plan, const char *spec,
                         const char *missing)
{
    static const unsigned threads[] = {1, 2, 8};
    char point[100];

    plan.kind = TRASHER_uniform;
    plan.pages = 2 * plan.budget / BENCH_PAGE;
    for (unsigned i = 0; i < 3; i++) {
        struct trash_plan other = plan;

        other.threads = threads[i];
        snprintf(point, sizeof(point), "%s/2x/%u thread%s", trasher_name(plan.kind), threads[i],
                 threads[i] == 1 ? "" : "s");
        if (!measure(bench, &other, spec, missing, point))
            return false;
    }
    plan.seconds = 300;
    snprintf(point, sizeof(point), "%s/2x/5 minutes", trasher_name(plan.kind));
    return measure(bench, &plan, spec, missing, point);
}

bool bench_drive_trash(struct bench *bench)
{
    static const unsigned overcommit[] = {15, 20, 40}; /* tenths of the budget */
    const uint64_t budget = (bench->is_quick ? 24 : 128) * BENCH_MIB;
    struct trash_plan plan = {.budget = budget, .threads = 4, .seconds = 30, .sample_s = 1};
    char spec[300], swap[300], missing[200] = "", point[100];

    if (bench->is_quick) {
        plan.seconds = 1.2;
        plan.sample_s = 0.2;
    }
    bench_file_spec(bench, 4 * budget / BENCH_PAGE, spec);
    bench_swap_file(bench, 4 * budget, swap, missing);
    for (enum trasher_kind kind = 0; kind < TRASHER_COUNT; kind++)
        for (unsigned i = 0; i < 3; i++) {
            if (!is_point(bench, kind, overcommit[i]))
                continue;
            plan.kind = kind;
            plan.pages = budget / BENCH_PAGE * overcommit[i] / 10;
            snprintf(point, sizeof(point), "%s/%gx", trasher_name(kind), overcommit[i] / 10.0);
            if (!measure(bench, &plan, spec, missing, point))
                return false;
        }
    return bench->is_quick || measure_more(bench, plan, spec, missing);
}
