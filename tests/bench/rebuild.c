/* SPDX-License-Identifier: MIT */

/*
 * Rebuild: pages at a mirror of two memory servers; one is killed and started again, empty. How
 * long is it until everything has two copies again, and what do faults pay meanwhile?
 *
 * One thread reads random pages all the time. Its faults are counted before the server dies, while
 * nobody answers there, and while it is filled. No write is needed, for then nothing but what
 * was lost is to be copied.
 */

#include <string.h>
#include <unistd.h>

#include <weir/weir.h>

#include "runs.h"
#include "tests/server/server.h"

#define STEADY_NS   3000000000ull
#define PATIENCE_NS 90000000000ull

enum phase { STEADY, AWAY, FILLED, WHOLE, PHASES };

static struct bench_histogram faults[PHASES];
static _Atomic(int) phase;
static _Atomic(uint64_t) began[PHASES];

/* What is told is all that a program has to go by, too. */
static void listen_for_phases(void *context, const struct weir_event *event)
{
    int next = 0;

    (void)context;
    if (phase == AWAY && strstr(event->text, "is there, and empty"))
        next = FILLED;
    else if (phase == FILLED && strstr(event->text, "all its copies again"))
        next = WHOLE;
    else
        return;
    began[next] = bench_now_ns();
    phase = next;
}

static struct weir_runtime *open_runtime(const struct nurse *nurse, const char *key)
{
    struct weir_options options;
    struct weir_runtime *rt;
    char spec[900];

    snprintf(spec, sizeof(spec),
             "mirror(tcp://127.0.0.1:%u?size=%lluM&key=%s&patience=1&timeout=1, "
             "tcp://127.0.0.1:%u?size=%lluM&key=%s&patience=1&timeout=1)?rebuild_bytes_per_s=%llu",
             nurse->port[0], (unsigned long long)bench_argument("room", 0), key, nurse->port[1],
             (unsigned long long)bench_argument("room", 0), key,
             (unsigned long long)bench_argument("rate", 0));
    weir_options_init(&options);
    options.budget_bytes = bench_argument("budget", 0);
    options.backends = spec;
    options.on_event = listen_for_phases;
    if (weir_open(&options, &rt) != WEIR_OK)
        bench_fail("the mirror cannot be opened");
    return rt;
}

static void touch_some(struct bench_memory *memory, uint64_t *random)
{
    for (unsigned i = 0; i < 64; i++) {
        const uint64_t page = (bench_draw(random) >> 16) % memory->pages;
        const int before = phase;
        const uint64_t took = bench_touch_read(memory, 0, page);

        if (took > BENCH_FAULT_NS && phase == before)
            bench_histogram_add(&faults[before], took);
    }
}

/* rebuild: budget= pages= room= rate= key= -> steady away filled (p99, us) slowest lasted bytes */
void bench_run_rebuild(void)
{
    const char *key = bench_argument_text("key", "");
    const uint64_t pages = bench_argument("pages", 0);
    struct bench_memory memory = {0};
    uint64_t random = 7, until;
    struct nurse nurse;

    if (nurse_start(key, (bench_argument("room", 0) + 8) * BENCH_MIB, &nurse) != 0)
        bench_fail("no memory servers");
    memory.rt = open_runtime(&nurse, key);
    bench_memory_map(&memory, pages, 1);
    bench_fill_all(&memory);
    for (until = bench_now_ns() + STEADY_NS; bench_now_ns() < until;)
        touch_some(&memory, &random); /* dirty pages leave meanwhile */
    memset(faults, 0, sizeof(faults));
    for (until = bench_now_ns() + STEADY_NS; bench_now_ns() < until;)
        touch_some(&memory, &random);
    began[AWAY] = bench_now_ns();
    phase = AWAY;
    if (!nurse_kill(&nurse, 0) || !nurse_again(&nurse, 0))
        bench_fail("the server cannot be started again");
    for (until = bench_now_ns() + PATIENCE_NS; phase != WHOLE && bench_now_ns() < until;)
        touch_some(&memory, &random);
    if (phase != WHOLE)
        bench_fail("it is not whole after %llu s", PATIENCE_NS / 1000000000ull);
    bench_tell("steady", bench_histogram_us(&faults[STEADY], 0.99));
    bench_tell("away", bench_histogram_us(&faults[AWAY], 0.99));
    bench_tell("filled", bench_histogram_us(&faults[FILLED], 0.99));
    bench_tell("slowest", bench_histogram_us(&faults[AWAY], 1.0) / 1e3);
    bench_tell("noticed", (double)(began[FILLED] - began[AWAY]) / 1e9);
    bench_tell("lasted", (double)(began[WHOLE] - began[FILLED]) / 1e9);
    bench_tell("samples", (double)faults[FILLED].count);
    bench_memory_close(&memory);
    nurse_end(&nurse);
}

static void print_lines(const struct bench *bench, const struct bench_side *side, double at_rate)
{
    struct bench_line line = {
        .point = "a server lost and back, empty",
        .metric = "time to full redundancy",
        .unit = "s",
        .better = BENCH_LOWER,
        .weir = bench_series(side, "lasted"),
        .baseline = bench_constant(at_rate),
        .baseline_name = "what was stored, at the rate set",
        .goal = "limited by the rate set",
    };

    line.also[0].name = "noticed_s";
    line.also[0].value = bench_result(side, "noticed");
    bench_print(bench, &line);
    line = (struct bench_line){
        .point = "a fault while it is filled",
        .metric = "p99",
        .unit = "us",
        .better = BENCH_LOWER,
        .weir = bench_series(side, "filled"),
        .baseline = bench_series(side, "steady"),
        .baseline_name = "the same before the server died",
        .goal = "ratio >= 0.5",
    };
    line.also[0].name = "samples";
    line.also[0].value = bench_result(side, "samples");
    line.also[1].name = "p99_until_noticed_us";
    line.also[1].value = bench_result(side, "away");
    line.also[2].name = "slowest_until_noticed_ms";
    line.also[2].value = bench_result(side, "slowest");
    bench_print(bench, &line);
}

bool bench_drive_rebuild(struct bench *bench)
{
    static struct bench_side side;
    const uint64_t budget = (bench->is_quick ? 8 : 32) * BENCH_MIB, bytes = 8 * budget;
    const uint64_t rate = 32 * BENCH_MIB;
    char key_path[300];

    snprintf(key_path, sizeof(key_path), "%s/key", bench->dir);
    bench_undo("unlink", key_path);
    bench_side_init(&side, "weir", "rebuild", "budget=%llu pages=%llu room=%llu rate=%llu key=%s",
                    (unsigned long long)budget, (unsigned long long)(bytes / BENCH_PAGE),
                    (unsigned long long)(bytes / BENCH_MIB * 3 / 2), (unsigned long long)rate,
                    key_path);
    /* One round: the key is made by the run. */
    if (!bench_rounds(bench, &side, 1, 1))
        return false;
    print_lines(bench, &side, (double)(bytes - budget) / (double)rate);
    return true;
}
