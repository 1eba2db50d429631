/* SPDX-License-Identifier: MIT */

/*
 * Wbfault: a fault on a page that is being written does not wait for the write.
 *
 * The budget is made smaller until writes are on their way to a back end that takes its time
 * (chaos around mem), and larger again, so that nothing else has to be waited for. Then all pages
 * are touched in random order; the counters tell which touch met a page under write and which a
 * page at rest at the back end. Those at rest are the baseline: same run, same code, no write.
 */

#include <stdlib.h>
#include <unistd.h>

#include "runs.h"

#define CYCLES_MAX 2000u
#define DELAYS     5u

static const unsigned delays_ms[DELAYS] = {0, 1, 10, 100, 1000};

struct probe {
    struct bench_memory memory;
    uint64_t budget, random;
    uint32_t *order;
    struct bench_histogram writing[2], resting[2]; /* by load, by store */
    uint64_t frame_waits;
};

static void shuffle(struct probe *p)
{
    for (uint64_t i = p->memory.pages - 1; i > 0; i--) {
        uint64_t k = (bench_draw(&p->random) >> 16) % (i + 1);
        uint32_t kept = p->order[i];

        p->order[i] = p->order[k];
        p->order[k] = kept;
    }
}

static void set_budget(const struct probe *p, uint64_t bytes)
{
    int error = weir_budget_set(p->memory.rt, bytes, 0);

    if (error != WEIR_OK && error != WEIR_EAGAIN)
        bench_fail("weir_budget_set: %s", weir_error_text(error));
}

/* Some writes on their way: eight clusters, or as many as there are before the first is over. */
static void begin_writes(const struct probe *p)
{
    const uint64_t end = bench_now_ns() + 20000000;
    static struct weir_stats before, now;

    bench_stats(&p->memory, &before);
    set_budget(p, p->budget / 2);
    do
        bench_stats(&p->memory, &now);
    while (now.writes - before.writes < 8 &&
           (now.writes == before.writes || now.time_write.count == before.time_write.count) &&
           bench_now_ns() < end);
    set_budget(p, p->budget);
}

static void await_writes(const struct probe *p)
{
    struct weir_stats now;

    do {
        usleep(1000);
        bench_stats(&p->memory, &now);
    } while (now.time_write.count < now.writes);
}

/* Touch some pages in the order; with until_written, no more once nothing is being written. */
static uint64_t touch(struct probe *p, uint64_t from, uint64_t to, bool until_written)
{
    static struct weir_stats stats[2];

    bench_stats(&p->memory, &stats[from & 1]);
    for (uint64_t i = from; i < to; i++) {
        const struct weir_stats *before = &stats[i & 1], *after = &stats[~i & 1];
        const uint64_t page = p->order[i];
        const unsigned is_store = page & 1;
        uint64_t took = is_store ? bench_touch_write(&p->memory, 0, page)
                                 : bench_touch_read(&p->memory, 0, page);

        bench_stats(&p->memory, &stats[~i & 1]);
        if (after->pages_rescued_writing > before->pages_rescued_writing)
            bench_histogram_add(&p->writing[is_store], took);
        else if (after->reads_demand > before->reads_demand)
            bench_histogram_add(&p->resting[is_store], took);
        if (until_written && after->time_write.count == after->writes)
            return i + 1;
    }
    return to;
}

/* Make everything dirty, have some of it written, touch pages meanwhile, and others afterwards. */
static void cycle(struct probe *p)
{
    const uint64_t pages = p->memory.pages;
    static struct weir_stats before, after;
    uint64_t next;

    for (uint64_t page = 0; page < pages; page++)
        bench_touch_write(&p->memory, 0, page);
    shuffle(p);
    begin_writes(p);
    bench_stats(&p->memory, &before);
    next = touch(p, 0, pages / 2, true);
    await_writes(p);
    touch(p, next, next + pages / 16, false);
    bench_stats(&p->memory, &after);
    p->frame_waits += after.frame_waits - before.frame_waits;
}

static void tell(const char *name, const struct bench_histogram *times, unsigned is_store)
{
    static const char *const kinds[] = {"read", "write"};
    char result[40];

    snprintf(result, sizeof(result), "%s_%s_p50", kinds[is_store], name);
    bench_tell(result, bench_histogram_us(times, 0.5));
    snprintf(result, sizeof(result), "%s_%s_p99", kinds[is_store], name);
    bench_tell(result, bench_histogram_us(times, 0.99));
    snprintf(result, sizeof(result), "%s_%s_samples", kinds[is_store], name);
    bench_tell(result, (double)times->count);
}

/* wbfault: budget= pages= spec= samples= seconds= -> read_writing_p50 ... write_resting_p99 */
void bench_run_wbfault(void)
{
    static struct probe p = {.random = 3};
    const uint64_t wanted = bench_argument("samples", 0);
    const uint64_t end = bench_now_ns() + bench_argument("seconds", 10) * 1000000000u;

    bench_memory_open(&p.memory);
    bench_fill_all(&p.memory);
    p.budget = bench_argument("budget", 0);
    p.order = malloc(p.memory.pages * sizeof(*p.order));
    if (!p.order)
        bench_fail("out of memory");
    for (uint64_t i = 0; i < p.memory.pages; i++)
        p.order[i] = (uint32_t)i;
    for (unsigned i = 0; i < CYCLES_MAX && bench_now_ns() < end; i++) {
        if (p.writing[0].count >= wanted && p.writing[1].count >= wanted &&
            p.resting[0].count >= wanted && p.resting[1].count >= wanted)
            break;
        cycle(&p);
    }
    for (unsigned is_store = 0; is_store < 2; is_store++) {
        tell("writing", &p.writing[is_store], is_store);
        tell("resting", &p.resting[is_store], is_store);
    }
    bench_tell("frame_waits", (double)p.frame_waits);
    free(p.order);
    bench_memory_close(&p.memory);
}

/* --- The bench ------------------------------------------------------------------------------- */

static void print(const struct bench *bench, const struct bench_side *side, unsigned delay_ms,
                  const char *kind, const char *quantile)
{
    char point[80], weir[40], baseline[40], samples[40];
    struct bench_line line = {
        .point = point,
        .metric = quantile,
        .unit = "us",
        .better = BENCH_LOWER,
        .baseline_name = "the same touch of a page at rest at the same back end",
        .goal = quantile[2] == '9' ? "at most 60 us beyond the trap, whatever the delay"
                                   : "the same at every delay",
    };

    snprintf(point, sizeof(point), "%s under a write of %u ms", kind, delay_ms);
    snprintf(weir, sizeof(weir), "%s_writing_%s", kind, quantile);
    snprintf(baseline, sizeof(baseline), "%s_resting_%s", kind, quantile);
    snprintf(samples, sizeof(samples), "%s_writing_samples", kind);
    line.weir = bench_series(side, weir);
    line.baseline = bench_series(side, baseline);
    line.also[0].name = "samples";
    line.also[0].value = bench_result(side, samples);
    if (line.also[0].value == 0) {
        line.weir.count = 0;
        line.baseline_missing = "no page was still under its write when it was touched";
    }
    line.also[1].name = "frame_waits";
    line.also[1].value = bench_result(side, "frame_waits");
    bench_print(bench, &line);
}

bool bench_drive_wbfault(struct bench *bench)
{
    static struct bench_side sides[DELAYS];
    const uint64_t budget = 96 * BENCH_MIB, pages = 64 * BENCH_MIB / BENCH_PAGE;

    for (unsigned i = 0; i < DELAYS; i++)
        bench_side_init(&sides[i], "weir", "wbfault",
                        "budget=%llu pages=%llu samples=%u seconds=%u "
                        "spec=chaos(mem:?size=1G)?write_delay_us=%u",
                        (unsigned long long)budget, (unsigned long long)pages,
                        bench->is_quick ? 1000 : 10000, bench->is_quick ? 4 : 20,
                        delays_ms[i] * 1000);
    if (!bench_rounds(bench, sides, DELAYS, bench->is_quick ? 1 : 3))
        return false;
    for (unsigned i = 0; i < DELAYS; i++)
        for (int k = 0; k < 2; k++) {
            print(bench, &sides[i], delays_ms[i], k ? "write" : "read", "p50");
            print(bench, &sides[i], delays_ms[i], k ? "write" : "read", "p99");
        }
    return true;
}
