/* SPDX-License-Identifier: MIT */

/*
 * Failures: what a program sees of a back end that has a bad day, in figures. Every page is
 * written, then touched at random, then read; what is refused (SIGBUS) is counted and tried again,
 * and where nothing else would help, a healthy back end is added, as an operator would. A page
 * that holds anything but what was stored there ends the bench.
 */

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runs.h"

#define THREADS      2u
#define PATIENCE     10u /* refusals of one touch until something is done about it */
#define RANDOM_STATE 0x2545f4914f6cdd1dull

struct world {
    struct weir_runtime *rt;
    volatile uint64_t *words;
    uint64_t pages, touches;
    uint8_t *version;        /* of each page; 0: never written                       */
    bool *is_torn;           /* its last store was refused: it may have happened     */
    _Atomic(bool) is_helped; /* the spare back end was added                      */
    _Atomic(uint64_t) refused, lost, failures;
};
static struct world world;

/* One per thread, each on cache lines of its own. */
struct worker {
    _Alignas(128) pthread_t thread;
    unsigned index;
    uint64_t random, slowest_ns, slowest_refusal_ns;
    struct bench_histogram times;
};

/* --- Refusals -------------------------------------------------------------------------------- */

static _Thread_local sigjmp_buf refused;

static void on_bus(int number)
{
    (void)number;
    siglongjmp(refused, 1);
}

static void on_event(void *context, const struct weir_event *event)
{
    (void)context;
    if (event->severity >= WEIR_FAILURE)
        atomic_fetch_add_explicit(&world.failures, 1, memory_order_relaxed);
}

static uint64_t value_of(uint64_t page, uint8_t version)
{
    return version ? ((page + 1) << 8 | version) * 0x9e3779b97f4a7c15ull : 0;
}

static void expect(uint64_t page, uint64_t found)
{
    const uint8_t version = world.version[page];
    const bool is_next = world.is_torn[page] && found == value_of(page, (uint8_t)(version + 1));

    if (found == value_of(page, version) || is_next)
        return;
    fprintf(stderr, "WRONG: page %llu holds %#llx, expected %#llx\n", (unsigned long long)page,
            (unsigned long long)found, (unsigned long long)value_of(page, version));
    weir_report_fd(world.rt, STDERR_FILENO);
    _exit(BENCH_EXIT_WRONG);
}

/* One access to the first and the last word of a page. False: it was refused. */
static bool access_page(uint64_t page, bool is_write)
{
    volatile uint64_t *words = world.words + page * BENCH_WORDS;
    uint64_t first, last;

    if (sigsetjmp(refused, 1) != 0)
        return false;
    first = words[0];
    last = words[BENCH_WORDS - 1];
    expect(page, first);
    expect(page, last);
    if (!is_write)
        return true;
    world.is_torn[page] = true;
    first = value_of(page, (uint8_t)(world.version[page] + 1));
    words[0] = first;
    words[BENCH_WORDS - 1] = first;
    world.version[page]++;
    world.is_torn[page] = false;
    return true;
}

/* --- Workers --------------------------------------------------------------------------------- */

/* Nothing else helps: another back end, and if that does not, the page is given up. */
static void help(uint64_t page, unsigned tries)
{
    const char *spare = bench_argument_text("spare", "");

    if (*spare && tries == PATIENCE) {
        int error = atomic_exchange(&world.is_helped, true)
                        ? WEIR_OK
                        : weir_backend_add(world.rt, spare, NULL);

        if (error != WEIR_OK)
            bench_fail("weir_backend_add: %s", weir_error_text(error));
        return;
    }
    weir_advise((void *)(uintptr_t)(world.words + page * BENCH_WORDS), BENCH_PAGE, WEIR_DISCARD);
    world.version[page] = 0;
    world.is_torn[page] = false;
    atomic_fetch_add(&world.lost, 1);
}

static void touch(struct worker *w, uint64_t page, bool is_write)
{
    const uint64_t begun = bench_now_ns();
    uint64_t took, last = begun;

    for (unsigned tries = 1; !access_page(page, is_write); tries++) {
        took = bench_now_ns() - last;
        last += took;
        if (took > w->slowest_refusal_ns)
            w->slowest_refusal_ns = took;
        atomic_fetch_add_explicit(&world.refused, 1, memory_order_relaxed);
        if (tries % PATIENCE == 0)
            help(page, tries);
    }
    took = bench_now_ns() - begun;
    if (took > w->slowest_ns)
        w->slowest_ns = took;
    bench_histogram_add(&w->times, took);
}

/* A page belongs to one thread. */
static void *work(void *context)
{
    struct worker *w = context;
    const uint64_t share = world.pages / THREADS;

    for (uint64_t i = 0; i < share; i++)
        touch(w, i * THREADS + w->index, true);
    for (uint64_t i = 0; i < world.touches / THREADS; i++) {
        const uint64_t draw = bench_draw(&w->random);
        const uint64_t page = (draw >> 16) % share * THREADS + w->index;

        touch(w, page, (draw & 1) && world.version[page] < UINT8_MAX);
    }
    for (uint64_t i = 0; i < share; i++)
        touch(w, i * THREADS + w->index, false);
    return NULL;
}

static void open_world(void)
{
    struct sigaction action = {.sa_handler = on_bus};
    struct weir_options options;
    void *base;

    sigaction(SIGBUS, &action, NULL);
    weir_options_init(&options);
    options.budget_bytes = bench_argument("budget", options.budget_bytes);
    options.backends = bench_argument_text("spec", options.backends);
    options.on_event = on_event;
    world.pages = bench_argument("pages", 0);
    world.touches = bench_argument("touches", 0);
    world.version = calloc(world.pages, sizeof(*world.version));
    world.is_torn = calloc(world.pages, sizeof(*world.is_torn));
    if (!world.version || !world.is_torn || weir_open(&options, &world.rt) != WEIR_OK ||
        weir_map(world.rt, world.pages * BENCH_PAGE, NULL, &base) != WEIR_OK)
        bench_fail("no runtime with %s", options.backends);
    world.words = base;
}

static void tell_all(const struct worker *workers)
{
    static struct bench_histogram times;
    struct weir_stats stats = {.size = sizeof(stats)};
    uint64_t slowest = 0, slowest_refusal = 0;

    weir_stats(world.rt, &stats);
    for (unsigned i = 0; i < THREADS; i++) {
        const struct worker *w = &workers[i];

        bench_histogram_merge(&times, &w->times);
        slowest = w->slowest_ns > slowest ? w->slowest_ns : slowest;
        slowest_refusal = w->slowest_refusal_ns > slowest_refusal ? w->slowest_refusal_ns
                                                                  : slowest_refusal;
    }
    bench_tell("slowest", (double)slowest / 1e6);
    bench_tell("slowest_refusal", (double)slowest_refusal / 1e6);
    bench_tell("p99_9", bench_histogram_us(&times, 0.999) / 1e3);
    bench_tell("refused", (double)atomic_load(&world.refused));
    bench_tell("lost", (double)atomic_load(&world.lost));
    bench_tell("events", (double)atomic_load(&world.failures));
    bench_tell("read_errors", (double)stats.read_errors);
    bench_tell("write_errors", (double)stats.write_errors);
    bench_tell("frame_waits", (double)stats.frame_waits);
}

/* failures: budget= pages= touches= spec= spare= -> seconds slowest refused lost ... */
void bench_run_failures(void)
{
    static struct worker workers[THREADS];
    uint64_t begun;

    open_world();
    begun = bench_now_ns();
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i].index = i;
        workers[i].random = (i + 1) * RANDOM_STATE;
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
            bench_fail("cannot start a thread");
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(workers[i].thread, NULL);
    bench_tell("seconds", (double)(bench_now_ns() - begun) / 1e9);
    tell_all(workers);
    weir_close(world.rt);
}

/* --- The bench ------------------------------------------------------------------------------- */

#define HEALTHY "mem:?size=256M"

static const struct {
    const char *name, *spec, *quick_spec; /* NULL: the same */
    const char *spare;
    uint64_t mib, touches; /* beyond the budget; in quick a quarter of the touches */
    const char *goal;
} points[] = {
    {"EIO now and then", "chaos(mem:?size=256M)?seed=2&fail_read=0.01&fail_write=0.2", NULL, "", 24,
     40000, "nothing refused, nothing lost"},
    {"EIO of all writes, then another back end", "chaos(mem:?size=256M)?fail_after=4", NULL,
     HEALTHY, 24, 40000, "nothing lost"},
    {"ENOSPC, then another back end", "mem:?size=8M", NULL, HEALTHY, 24, 40000, "nothing lost"},
    {"ENOSPC now and then", "chaos(mem:?size=256M)?seed=2&full=0.2", NULL, "", 24, 40000,
     "nothing lost"},
    {"slow, 1 MB/s", "chaos(mem:?size=256M)?bytes_per_s=1000000", NULL, "", 3, 800,
     "nothing refused, nothing lost"},
    {"hang, 10 s", "chaos(mem:?size=256M)?hang_after=3&hang_ms=10000",
     "chaos(mem:?size=256M)?hang_after=3&hang_ms=3000", "", 24, 40000,
     "nothing refused, nothing lost, no touch longer than the hang"},
    {"reordered", "chaos(mem:?size=256M)?seed=2&reorder=1&jitter_us=300&short=0.1", NULL, "", 24,
     40000, "nothing refused, nothing lost"},
};

enum { SICK, WELL, SIDES };

static void print(const struct bench *bench, const struct bench_side sides[SIDES], size_t point)
{
    struct bench_line line = {
        .point = points[point].name,
        .metric = "time to serve",
        .unit = "s",
        .better = BENCH_LOWER,
        .weir = bench_series(&sides[SICK], "seconds"),
        .baseline = bench_series(&sides[WELL], "seconds"),
        .baseline_name = sides[WELL].name,
        .goal = points[point].goal,
        .also = {{"refused", bench_result(&sides[SICK], "refused")},
                 {"lost", bench_result(&sides[SICK], "lost")},
                 {"events", bench_result(&sides[SICK], "events")},
                 {"read_errors", bench_result(&sides[SICK], "read_errors")},
                 {"write_errors", bench_result(&sides[SICK], "write_errors")},
                 {"frame_waits", bench_result(&sides[SICK], "frame_waits")}},
    };

    bench_print(bench, &line);
    line.metric = "slowest touch";
    line.unit = "ms";
    line.weir = bench_series(&sides[SICK], "slowest");
    line.baseline = bench_series(&sides[WELL], "slowest");
    line.goal = NULL;
    memset(line.also, 0, sizeof(line.also));
    line.also[0].name = "weir_p99_9";
    line.also[0].value = bench_result(&sides[SICK], "p99_9");
    line.also[1].name = "baseline_p99_9";
    line.also[1].value = bench_result(&sides[WELL], "p99_9");
    line.also[2].name = "slowest_refusal";
    line.also[2].value = bench_result(&sides[SICK], "slowest_refusal");
    bench_print(bench, &line);
}

bool bench_drive_failures(struct bench *bench)
{
    static struct bench_side sides[SIDES];
    const uint64_t budget = 8 * BENCH_MIB;

    for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
        const bool is_quick = bench->is_quick;

        bench_side_init(&sides[SICK], "weir", "failures", "spec=%s spare=%s",
                        is_quick && points[i].quick_spec ? points[i].quick_spec : points[i].spec,
                        points[i].spare);
        bench_side_init(&sides[WELL], "weir on a healthy back end", "failures", "spec=%s", HEALTHY);
        for (unsigned side = 0; side < SIDES; side++)
            bench_side_more(&sides[side], " budget=%llu pages=%llu touches=%llu",
                            (unsigned long long)budget,
                            (unsigned long long)((budget + points[i].mib * BENCH_MIB) / BENCH_PAGE),
                            (unsigned long long)(points[i].touches / (is_quick ? 4 : 1)));
        if (!bench_rounds(bench, sides, SIDES, is_quick ? 1 : 3))
            return false;
        print(bench, sides, i);
    }
    return true;
}
