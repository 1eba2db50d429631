/* SPDX-License-Identifier: MIT */

/*
 * weir metrics: text for Prometheus, made from the tables of statistics in weir_stats.h and
 * weir_region.h, so that what is counted is shown. Names: weir_ and the field's, `_total` behind
 * what only grows; a histogram is in seconds.
 */

#include <inttypes.h>
#include <stdlib.h>

#include "runtime/cmd/cmd.h"

#define NS_PER_SECOND 1e9

/* In a label, these three are written in two characters. */
static void print_label(const char *name, const char *value, bool is_first)
{
    printf("%s%s=\"", is_first ? "" : ",", name);
    for (; *value; value++) {
        if (*value == '\\' || *value == '"')
            putchar('\\');
        if (*value == '\n')
            fputs("\\n", stdout);
        else
            putchar(*value);
    }
    putchar('"');
}

/* Which runtime; a process may have several. */
static void print_labels(const struct weir_watch *watch)
{
    char number[24];

    snprintf(number, sizeof(number), "%d", watch->pid);
    print_label("pid", number, true);
    snprintf(number, sizeof(number), "%" PRIu64, watch->number);
    print_label("runtime", number, false);
    print_label("program", watch->program, false);
}

static void print_head(const char *name, const char *suffix, const char *type, const char *help)
{
    printf("# HELP weir_%s%s %s\n# TYPE weir_%s%s %s\n", name, suffix, help, name, suffix, type);
}

/* --- Of a runtime ---------------------------------------------------------------------------- */

static void print_values(const struct cmd_watches *watches, const char *name, bool is_counter,
                         const char *help, size_t offset)
{
    const char *suffix = is_counter ? "_total" : "";

    print_head(name, suffix, is_counter ? "counter" : "gauge", help);
    for (size_t i = 0; i < watches->count; i++) {
        const char *stats = (const char *)watches->watch[i]->stats;

        printf("weir_%s%s{", name, suffix);
        print_labels(watches->watch[i]);
        printf("} %" PRIu64 "\n", *(const uint64_t *)(const void *)(stats + offset));
    }
}

static void print_histogram(const struct weir_watch *watch, const char *name,
                            const struct weir_histogram *h)
{
    uint64_t sum = 0;

    for (uint32_t b = 0; b < WEIR_HISTOGRAM_BUCKETS; b++) {
        sum += h->bucket[b];
        printf("weir_%s_seconds_bucket{", name);
        print_labels(watch);
        if (b + 1 < WEIR_HISTOGRAM_BUCKETS)
            printf(",le=\"%.9g\"} %" PRIu64 "\n", (double)(256ull << b) / NS_PER_SECOND, sum);
        else
            printf(",le=\"+Inf\"} %" PRIu64 "\n", sum);
    }
    printf("weir_%s_seconds_sum{", name);
    print_labels(watch);
    printf("} %.9f\nweir_%s_seconds_count{", (double)h->sum_ns / NS_PER_SECOND, name);
    print_labels(watch);
    printf("} %" PRIu64 "\n", sum);
}

static void print_histograms(const struct cmd_watches *watches, const char *name, const char *help,
                             size_t offset)
{
    print_head(name, "_seconds", "histogram", help);
    for (size_t i = 0; i < watches->count; i++)
        print_histogram(
            watches->watch[i], name,
            (const struct weir_histogram *)(const void *)((const char *)watches->watch[i]->stats +
                                                          offset));
}

/* --- Of back ends and regions ---------------------------------------------------------------- */

static void print_backends(const struct cmd_watches *watches, const char *name, const char *type,
                           const char *help,
                           uint64_t (*value_of)(const struct weir_backend_state *backend))
{
    print_head(name, "", type, help);
    for (size_t i = 0; i < watches->count; i++)
        for (uint32_t k = 0; k < watches->watch[i]->backends_shown; k++) {
            const struct weir_backend_state *b = &watches->watch[i]->backends[k];
            char number[24];

            printf("weir_%s{", name);
            print_labels(watches->watch[i]);
            snprintf(number, sizeof(number), "%u", b->number);
            print_label("number", number, false);
            print_label("backend", b->spec, false);
            printf("} %" PRIu64 "\n", value_of(b));
        }
}

static uint64_t total_of(const struct weir_backend_state *b)
{
    return b->bytes_total;
}
static uint64_t used_of(const struct weir_backend_state *b)
{
    return b->bytes_used;
}
static uint64_t errors_of(const struct weir_backend_state *b)
{
    return b->errors;
}
static uint64_t draining_of(const struct weir_backend_state *b)
{
    return b->draining != 0;
}
static uint64_t sick_of(const struct weir_backend_state *b)
{
    return b->sick != 0;
}

static void print_regions(const struct cmd_watches *watches, const char *name, bool is_counter,
                          const char *help, size_t offset)
{
    const char *suffix = is_counter ? "_total" : "";

    printf("# HELP weir_region_%s%s %s\n# TYPE weir_region_%s%s %s\n", name, suffix, help, name,
           suffix, is_counter ? "counter" : "gauge");
    for (size_t i = 0; i < watches->count; i++)
        for (uint32_t k = 0; k < watches->watch[i]->regions_shown; k++) {
            const struct weir_region_stats *r = &watches->watch[i]->regions[k];
            char address[24];

            printf("weir_region_%s%s{", name, suffix);
            print_labels(watches->watch[i]);
            print_label("region", r->name, false);
            snprintf(address, sizeof(address), "%p", r->address);
            print_label("address", address, false);
            printf("} %" PRIu64 "\n", *(const uint64_t *)(const void *)((const char *)r + offset));
        }
}

static void print_age(const struct cmd_watches *watches)
{
    print_head("published_age_seconds", "", "gauge", "how old these numbers are");
    for (size_t i = 0; i < watches->count; i++) {
        printf("weir_published_age_seconds{");
        print_labels(watches->watch[i]);
        printf("} %.3f\n", cmd_age(watches->watch[i]->published_ns));
    }
}

int cmd_metrics(const struct cmd *cmd)
{
    static struct cmd_watches watches;

    /* That nobody runs is no error to a scraper; that one is not there that was named is. */
    if (!cmd_read(cmd, cmd->pid == 0, &watches))
        return EXIT_FAILURE;
#define METRIC(name, letter, help) \
    print_values(&watches, #name, true, help, offsetof(struct weir_stats, name));
    WEIR_COUNTER_MAP(METRIC)
#undef METRIC
#define METRIC(name, letter, help) \
    print_values(&watches, #name, false, help, offsetof(struct weir_stats, name));
    WEIR_GAUGE_MAP(METRIC)
#undef METRIC
#define METRIC(name, help) \
    print_histograms(&watches, "time_" #name, help, offsetof(struct weir_stats, time_##name));
    WEIR_TIME_MAP(METRIC)
#undef METRIC
    print_backends(&watches, "backend_bytes", "gauge", "room at a back end", total_of);
    print_backends(&watches, "backend_used_bytes", "gauge", "slots that hold a page", used_of);
    print_backends(&watches, "backend_errors_total", "counter", "requests that failed", errors_of);
    print_backends(&watches, "backend_draining", "gauge", "1: takes no new pages", draining_of);
    print_backends(&watches, "backend_sick", "gauge", "1: recent writes failed", sick_of);
    print_regions(&watches, "bytes", false, "how long it is",
                  offsetof(struct weir_region_stats, bytes));
#define METRIC(name, help) \
    print_regions(&watches, #name, false, help, offsetof(struct weir_region_stats, name));
    WEIR_REGION_GAUGE_MAP(METRIC)
#undef METRIC
#define METRIC(name, help) \
    print_regions(&watches, #name, true, help, offsetof(struct weir_region_stats, name));
    WEIR_REGION_COUNTER_MAP(METRIC)
#undef METRIC
    print_age(&watches);
    cmd_forget(&watches);
    return EXIT_SUCCESS;
}
