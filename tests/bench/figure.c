/* SPDX-License-Identifier: MIT */

/* Figure: clocks, histograms, medians, and the line that a reader gets. */

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <weir/weir.h>

#include "bench.h"

uint64_t bench_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t bench_draw(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state * 0x2545f4914f6cdd1dull;
}

/* --- Histograms ------------------------------------------------------------------------------ */

/* Values below two rows of STEPS have a bucket each; beyond, every power of two has STEPS. */
static unsigned bucket_of(uint64_t ns)
{
    unsigned shift = 0;

    while (ns >> shift >= 2 * BENCH_HISTOGRAM_STEPS)
        shift++;
    shift = shift * BENCH_HISTOGRAM_STEPS + (unsigned)(ns >> shift);
    return shift < BENCH_HISTOGRAM_BUCKETS ? shift : BENCH_HISTOGRAM_BUCKETS - 1;
}

static double middle_of(unsigned bucket)
{
    unsigned row = bucket / BENCH_HISTOGRAM_STEPS;
    unsigned shift = row > 1 ? row - 1 : 0;

    return ldexp(bucket - shift * BENCH_HISTOGRAM_STEPS + 0.5, (int)shift);
}

void bench_histogram_add(struct bench_histogram *histogram, uint64_t ns)
{
    histogram->bucket[bucket_of(ns)]++;
    histogram->count++;
}

void bench_histogram_merge(struct bench_histogram *into, const struct bench_histogram *from)
{
    for (unsigned i = 0; i < BENCH_HISTOGRAM_BUCKETS; i++)
        into->bucket[i] += from->bucket[i];
    into->count += from->count;
}

double bench_histogram_us(const struct bench_histogram *histogram, double share)
{
    uint64_t wanted = (uint64_t)ceil((double)histogram->count * share);
    uint64_t seen = 0;

    if (histogram->count == 0)
        return 0;
    for (unsigned i = 0; i < BENCH_HISTOGRAM_BUCKETS; i++) {
        seen += histogram->bucket[i];
        if (seen >= wanted)
            return middle_of(i) / 1000;
    }
    return middle_of(BENCH_HISTOGRAM_BUCKETS - 1) / 1000;
}

/* --- Series ---------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double bench_median(const struct bench_series *series)
{
    struct bench_series sorted = *series;
    unsigned half = series->count / 2;

    if (series->count == 0)
        return 0;
    qsort(sorted.value, sorted.count, sizeof(sorted.value[0]), by_value);
    return series->count % 2 ? sorted.value[half]
                             : (sorted.value[half - 1] + sorted.value[half]) / 2;
}

struct bench_series bench_constant(double value)
{
    return (struct bench_series){.value = {value}, .count = 1};
}

/* --- The line -------------------------------------------------------------------------------- */

static void put_text(const char *name, const char *text)
{
    printf("%s\"%s\":\"", *name == '{' ? "{" : ",", *name == '{' ? name + 1 : name);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;

        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c < 0x20)
            printf("\\u%04x", c);
        else
            putchar(c);
    }
    putchar('"');
}

static void put_number(const char *name, double value)
{
    if (isfinite(value))
        printf(",\"%s\":%.6g", name, value);
    else
        printf(",\"%s\":null", name);
}

static void put_series(const char *name, const struct bench_series *series)
{
    printf(",\"%s\":[", name);
    for (unsigned i = 0; i < series->count; i++)
        printf("%s%.6g", i ? "," : "", series->value[i]);
    putchar(']');
}

static double at_least(double value, double least)
{
    return value < least ? least : value;
}

static void put_ratio(const struct bench_line *line)
{
    double weir = at_least(bench_median(&line->weir), line->least);
    double baseline = at_least(bench_median(&line->baseline), line->least);
    double over = line->better == BENCH_HIGHER ? weir : baseline;
    double under = line->better == BENCH_HIGHER ? baseline : weir;

    if (under > 0)
        put_number("ratio", over / under);
    else
        put_text("baseline_missing", "one of the two figures is 0: there is no ratio");
}

/* On what terms the baseline ran, if it ran in a cgroup. */
static void put_terms(const struct bench_side *side)
{
    if (!side)
        return;
    if (side->limit_bytes)
        put_number("baseline_limit_mib", (double)side->limit_bytes / (double)BENCH_MIB);
    if (side->is_held)
        put_number("baseline_held", side->held);
    if (side->deaths) {
        put_number("baseline_deaths", side->deaths);
        put_text("baseline_death", side->death);
    }
}

static void put_machine(const struct bench *bench)
{
    struct utsname system;

    uname(&system);
    printf(",\"quick\":%s", bench->is_quick ? "true" : "false");
    put_text("version", weir_version());
    put_text("kernel", system.release);
    put_number("cpus", (double)sysconf(_SC_NPROCESSORS_ONLN));
}

/* The same figure of Weir with the bug: how much better Weir is without it. */
static void print_bugged(const struct bench *bench, const struct bench_line *line)
{
    struct bench with_none = *bench;
    struct bench_line other = *line;
    char name[80];

    snprintf(name, sizeof(name), "weir with the bug %s", bench->bug);
    with_none.bug = NULL;
    memset(&other.baseline, 0, sizeof(other.baseline));
    other.baseline.count = line->weir.bugged_count;
    memcpy(other.baseline.value, line->weir.bugged, sizeof(line->weir.bugged));
    other.baseline_name = name;
    other.baseline_missing = other.baseline.count ? NULL : "it did not come to an end";
    other.goal = NULL;
    memset(other.also, 0, sizeof(other.also));
    bench_print(&with_none, &other);
}

void bench_print(const struct bench *bench, const struct bench_line *line)
{
    bool has_baseline = !line->baseline_missing || !*line->baseline_missing;

    put_text("{bench", bench->name);
    put_text("case", line->point);
    put_text("metric", line->metric);
    put_text("unit", line->unit);
    put_text("better", line->better == BENCH_HIGHER ? "higher" : "lower");
    put_number("weir", line->weir.count ? bench_median(&line->weir) : NAN);
    if (has_baseline)
        put_number("baseline", bench_median(&line->baseline));
    else
        printf(",\"baseline\":null");
    put_text("baseline_name", line->baseline_name);
    if (has_baseline)
        put_ratio(line);
    else
        put_text("baseline_missing", line->baseline_missing);
    if (line->goal)
        put_text("goal", line->goal);
    put_series("weir_rounds", &line->weir);
    if (has_baseline)
        put_series("baseline_rounds", &line->baseline);
    put_terms(line->baseline.side);
    for (unsigned i = 0; i < sizeof(line->also) / sizeof(line->also[0]) && line->also[i].name; i++)
        put_number(line->also[i].name, line->also[i].value);
    put_machine(bench);
    printf("}\n");
    fflush(stdout);
    if (bench->bug)
        print_bugged(bench, line);
}
