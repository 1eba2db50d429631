/* SPDX-License-Identifier: MIT */

/*
 * Rebuild: pages at a mirror of two memory servers, and at six with a code of 4+2; one is killed,
 * and started again a while later, empty. What do faults pay before, while it is lost, and while it
 * is filled, beside those of a single server; and how long is it until everything is whole again?
 *
 * One thread reads random pages all the time. No write is needed, for then nothing but what was
 * lost is to be made anew.
 */

#include <string.h>
#include <unistd.h>

#include <weir/weir.h>

#include "runs.h"
#include "tests/server/server.h"

#define STEADY_NS   3000000000ull
#define PATIENCE_NS 90000000000ull

/* Everybody is there; one has died; that was noticed; it is alive again; and known to be empty. */
enum phase { STEADY, DYING, LOST, AWAY, FILLED, WHOLE, PHASES };

static const struct layout {
    const char *name, *wrap, *end;
    unsigned members, share; /* each has a share'th of what is stored */
} layouts[] = {
    {"one", "", "", 1, 1},
    {"mirror", "mirror(", ")", 2, 1},
    {"ec", "ec(4+2, ", ")", 6, 4},
};

#define LAYOUTS (sizeof(layouts) / sizeof(layouts[0]))

static struct bench_histogram faults[PHASES];
static _Atomic(int) phase;
static _Atomic(uint64_t) began[PHASES];

static void begin(int next)
{
    began[next] = bench_now_ns();
    phase = next;
}

/* What is told is all that a program has to go by, too. */
static void listen_for_phases(void *context, const struct weir_event *event)
{
    (void)context;
    if (phase == DYING && strstr(event->text, "does not answer"))
        begin(LOST);
    else if (phase == AWAY && strstr(event->text, "is there, and empty"))
        begin(FILLED);
    else if (phase == FILLED && strstr(event->text, "all its copies again"))
        begin(WHOLE);
}

static const struct layout *layout_asked(void)
{
    const char *name = bench_argument_text("layout", "");

    for (size_t i = 0; i < LAYOUTS; i++)
        if (strcmp(layouts[i].name, name) == 0)
            return &layouts[i];
    bench_fail("no such layout");
}

static struct weir_runtime *open_runtime(const struct nurse *nurse, const struct layout *layout)
{
    const uint64_t room = bench_argument("room", 0) / layout->share;
    struct weir_options options;
    struct weir_runtime *rt;
    char spec[2000];
    int length = snprintf(spec, sizeof(spec), "%s", layout->wrap);

    for (unsigned i = 0; i < layout->members; i++)
        length += snprintf(spec + length, sizeof(spec) - (size_t)length,
                           "%stcp://127.0.0.1:%u?size=%lluM&key=%s&patience=1&timeout=1",
                           i ? ", " : "", nurse->port[i], (unsigned long long)room,
                           bench_argument_text("key", ""));
    length += snprintf(spec + length, sizeof(spec) - (size_t)length, "%s", layout->end);
    if (layout->members > 1)
        snprintf(spec + length, sizeof(spec) - (size_t)length, "?rebuild_bytes_per_s=%llu",
                 (unsigned long long)bench_argument("rate", 0));
    weir_options_init(&options);
    options.budget_bytes = bench_argument("budget", 0);
    options.backends = spec;
    options.on_event = listen_for_phases;
    if (weir_open(&options, &rt) != WEIR_OK)
        bench_fail("%s cannot be opened", layout->name);
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

static void touch_for(struct bench_memory *memory, uint64_t *random, uint64_t ns)
{
    for (const uint64_t until = bench_now_ns() + ns; bench_now_ns() < until;)
        touch_some(memory, random);
}

static void touch_until(struct bench_memory *memory, uint64_t *random, int wanted)
{
    const uint64_t until = bench_now_ns() + PATIENCE_NS;

    while (phase != wanted && bench_now_ns() < until)
        touch_some(memory, random);
    if (phase != wanted)
        bench_fail("still in phase %d after %llu s, and not in %d", phase,
                   PATIENCE_NS / 1000000000ull, wanted);
}

static void lose_one(struct bench_memory *memory, uint64_t *random, const struct nurse *nurse)
{
    begin(DYING);
    if (!nurse_kill(nurse, 0))
        bench_fail("the server cannot be killed");
    touch_until(memory, random, LOST);
    touch_for(memory, random, STEADY_NS);
    begin(AWAY);
    if (!nurse_again(nurse, 0))
        bench_fail("the server cannot be started again");
    touch_until(memory, random, WHOLE);
}

static void tell_phase(const char *p99, const char *rate, int which, int next)
{
    bench_tell(p99, bench_histogram_us(&faults[which], 0.99));
    bench_tell(rate, (double)faults[which].count * 1e9 / (double)(began[next] - began[which]));
}

/* rebuild: layout= budget= pages= room= rate= key= -> steady lost filled (p99, us) steady_rate
 * lost_rate filled_rate (faults a second) slowest noticed lasted samples */
void bench_run_rebuild(void)
{
    const struct layout *layout = layout_asked();
    struct bench_memory memory = {0};
    uint64_t random = 7;
    struct nurse nurse;

    if (nurse_start(bench_argument_text("key", ""), (bench_argument("room", 0) + 8) * BENCH_MIB,
                    &nurse) != 0)
        bench_fail("no memory servers");
    memory.rt = open_runtime(&nurse, layout);
    bench_memory_map(&memory, bench_argument("pages", 0), 1);
    bench_fill_all(&memory);
    touch_for(&memory, &random, STEADY_NS); /* dirty pages leave meanwhile */
    memset(faults, 0, sizeof(faults));
    begin(STEADY);
    touch_for(&memory, &random, STEADY_NS);
    began[DYING] = bench_now_ns();
    tell_phase("steady", "steady_rate", STEADY, DYING);
    if (layout->members > 1) {
        lose_one(&memory, &random, &nurse);
        tell_phase("lost", "lost_rate", LOST, AWAY);
        tell_phase("filled", "filled_rate", FILLED, WHOLE);
        bench_tell("slowest", bench_histogram_us(&faults[DYING], 1.0) / 1e3);
        bench_tell("noticed", (double)(began[FILLED] - began[AWAY]) / 1e9);
        bench_tell("lasted", (double)(began[WHOLE] - began[FILLED]) / 1e9);
        bench_tell("samples", (double)faults[FILLED].count);
    }
    bench_memory_close(&memory);
    nurse_end(&nurse);
}

/* The p99 of a fault at this side, in the phase of this name; beside another's. */
static void print_faults(const struct bench *bench, const struct bench_side *side,
                         const char *layout, const char *when, const char *name,
                         const struct bench_line *beside)
{
    struct bench_line line = *beside;
    char point[80], rate[40];

    snprintf(point, sizeof(point), "%s, %s", layout, when);
    snprintf(rate, sizeof(rate), "%s_rate", name);
    line.point = point;
    line.metric = "p99 of a fault";
    line.unit = "us";
    line.better = BENCH_LOWER;
    line.weir = bench_series(side, name);
    line.also[0].name = "faults_per_s";
    line.also[0].value = bench_result(side, rate);
    bench_print(bench, &line);
}

static void print_lines(const struct bench *bench, const struct bench_side *one,
                        const struct bench_side *side, const char *layout, double at_rate)
{
    const struct bench_line beside_one = {.baseline = bench_series(one, "steady"),
                                          .baseline_name = "a single server"};
    struct bench_line itself = {.baseline = bench_series(side, "steady"),
                                .baseline_name = "the same before the server died"};
    struct bench_line line = {
        .metric = "time to full redundancy",
        .unit = "s",
        .better = BENCH_LOWER,
        .weir = bench_series(side, "lasted"),
        .baseline = bench_constant(at_rate),
        .baseline_name = "what was lost, at the rate set",
        .goal = "limited by the rate set",
    };
    char point[80];

    print_faults(bench, side, layout, "undisturbed", "steady", &beside_one);
    print_faults(bench, side, layout, "a server lost", "lost", &itself);
    itself.goal = "ratio >= 0.5";
    print_faults(bench, side, layout, "while it is filled", "filled", &itself);
    snprintf(point, sizeof(point), "%s, a server lost and back, empty", layout);
    line.point = point;
    line.also[0].name = "noticed_s";
    line.also[0].value = bench_result(side, "noticed");
    line.also[1].name = "slowest_until_noticed_ms";
    line.also[1].value = bench_result(side, "slowest");
    line.also[2].name = "samples";
    line.also[2].value = bench_result(side, "samples");
    bench_print(bench, &line);
}

bool bench_drive_rebuild(struct bench *bench)
{
    static const char *const side_names[] = {"weir, one server", "weir, mirror", "weir, ec"};
    static struct bench_side sides[LAYOUTS];
    const uint64_t budget = (bench->is_quick ? 8 : 32) * BENCH_MIB, bytes = 8 * budget;
    const uint64_t rate = 32 * BENCH_MIB;

    for (size_t i = 0; i < LAYOUTS; i++) {
        char key_path[300];

        snprintf(key_path, sizeof(key_path), "%s/key-%s", bench->dir, layouts[i].name);
        bench_undo("unlink", key_path);
        bench_side_init(
            &sides[i], side_names[i], "rebuild",
            "layout=%s budget=%llu pages=%llu room=%llu rate=%llu key=%s", layouts[i].name,
            (unsigned long long)budget, (unsigned long long)(bytes / BENCH_PAGE),
            (unsigned long long)(bytes / BENCH_MIB * 3 / 2), (unsigned long long)rate, key_path);
    }
    /* One round: the keys are made by the runs. */
    if (!bench_rounds(bench, sides, LAYOUTS, 1))
        return false;
    for (size_t i = 1; i < LAYOUTS; i++)
        print_lines(bench, &sides[0], &sides[i], layouts[i].name,
                    (double)(bytes - budget) / (double)(rate * layouts[i].share));
    return true;
}
