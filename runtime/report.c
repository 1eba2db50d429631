/* SPDX-License-Identifier: MIT */

/* Report: what the runtime says of itself, in a form that a signal handler may print. */

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/text.h"
#include "runtime/memory/gate.h"
#include "runtime/runtime.h"

/* More would bury the rest of the report. */
#define REGIONS_SHOWN 32u

static uint64_t bytes_of(uint64_t pages)
{
    return pages * WEIR_PAGE_BYTES;
}

void wr_report_gauges(struct weir_runtime *rt, struct weir_stats *stats)
{
    struct wr_space *space = &rt->space;
    uint64_t budget = atomic_load(&rt->budget_pages);
    int64_t free_frames = wr_frames_free(&space->frames);
    uint64_t total = budget - rt->reserved_pages;
    uint64_t held = atomic_load(&space->staging.held_count);
    /* Summed one after the other while threads go on: the second may be ahead of the first. */
    uint64_t cached = stats->cache_added > stats->cache_deleted
                          ? stats->cache_added - stats->cache_deleted
                          : 0;
    int64_t tables = atomic_load_explicit(&rt->stats->tables, memory_order_relaxed);
    uint64_t busy = (uint64_t)((int64_t)total - free_frames);
    struct wr_pass pass = wr_gate_enter(); /* a back end may be on its way out */
    struct wr_classes classes;

    stats->lru_pages = wr_aging_listed(space->aging);
    stats->cached_pages = cached;
    stats->budget_bytes = bytes_of(budget);
    stats->free_bytes = free_frames > 0 ? bytes_of((uint64_t)free_frames) : 0;
    stats->staged_bytes = bytes_of(held);
    stats->unsubmitted_most_bytes = bytes_of(atomic_load(&space->staging.unsubmitted_most));
    stats->resident_bytes = bytes_of(busy > held ? busy - held : 0);
    stats->slab_bytes = bytes_of(rt->reserved_pages);
    stats->mapped_bytes = atomic_load(&space->mapped_bytes);
    stats->kept_bytes = atomic_load(&space->kept_bytes);
    classes = wr_space_classes(space);
    stats->private_pages = classes.private_pages;
    stats->shared_pages = classes.shared;
    stats->ahead_pages = classes.ahead;
    stats->reusable_pages = classes.reusable;
    stats->dirty_pages = classes.pending;
    wr_swap_usage(rt->swap, &stats->slots_used, &stats->slots_total);
    stats->page_table_bytes = tables > 0 ? bytes_of((uint64_t)tables) : 0;
    stats->metadata_bytes = wr_space_metadata(space) + wr_swap_metadata(rt->swap) +
                            wr_aging_metadata(space->aging) + wr_ktrace_metadata(rt->ktrace);
    wr_gate_leave(pass);
}

/* Inside the gate. */
void wr_report_region(const struct wr_region *region, struct weir_region_stats *stats)
{
    struct wr_census census = wr_space_census(region->space, region);

    *stats = (struct weir_region_stats){
        .size = sizeof(*stats),
        .address = (void *)(uintptr_t)region->addr,
        .bytes = region->bytes,
        .reserve_bytes = region->reserve_bytes,
        .resident_bytes = bytes_of(census.resident),
        .zero_bytes = bytes_of(census.zeros),
        .cached_bytes = bytes_of(census.cached),
        .out_bytes = bytes_of(census.out),
        .reattached = atomic_load_explicit(&region->reattached, memory_order_relaxed),
    };
    memcpy(stats->name, region->name, sizeof(stats->name));
#define REPORT_SUM(counter, text) stats->counter = wr_region_sum(region, WR_REGION_##counter);
    WEIR_REGION_COUNTER_MAP(REPORT_SUM)
#undef REPORT_SUM
}

struct wr_region *wr_report_region_of(const struct weir_runtime *rt, uint32_t number)
{
    struct wr_region *region = atomic_load(&rt->space.by_number[number]);

    return region && atomic_load(&region->keep) == WR_KEEP_NOT ? region : NULL;
}

struct wr_region *wr_report_region_at(struct weir_runtime *rt, uint32_t position)
{
    for (uint32_t i = 1; i <= WR_REGIONS_MAX; i++) {
        struct wr_region *region = wr_report_region_of(rt, i);

        if (region && position-- == 0)
            return region;
    }
    return NULL;
}

static void add_bytes(struct wr_text *text, const char *before, uint64_t bytes)
{
    wr_text_add(text, before);
    wr_text_bytes(text, bytes);
}

static void add_number(struct wr_text *text, const char *before, uint64_t number)
{
    wr_text_add(text, before);
    wr_text_number(text, number);
}

static void add_head(struct wr_text *text, const struct weir_runtime *rt,
                     const struct weir_stats *s)
{
    wr_text_add(text, "weir ");
    wr_text_add(text, weir_version());
    wr_text_add(text, ": ");
    wr_text_add(text, rt->host->how);
    add_bytes(text, "\nbudget ", s->budget_bytes);
    add_bytes(text, ": resident ", s->resident_bytes);
    add_bytes(text, ", staged ", s->staged_bytes);
    add_bytes(text, ", slab ", s->slab_bytes);
    add_bytes(text, ", free ", s->free_bytes);
    add_bytes(text, "; mapped ", s->mapped_bytes);
    add_bytes(text, ", page tables ", s->page_table_bytes);
    wr_text_add(text, "\n");
}

/* Inside the gate, in which add_report() is. */
static void add_backends(struct wr_text *text, const struct weir_runtime *rt)
{
    for (uint32_t i = 0; i < WR_BACKENDS_MAX; i++) {
        const struct wr_swap_backend *b = wr_swap_backend(rt->swap, i);

        if (!b)
            continue;
        add_number(text, "back end ", i);
        wr_text_add(text, ": ");
        wr_text_add(text, b->spec);
        wr_text_add(text, " (");
        wr_text_add(text, b->info.how);
        add_bytes(text, "), used ", bytes_of(wr_slots_used(&b->slots)));
        add_bytes(text, " of ", bytes_of(b->slots.count));
        add_number(text, ", errors ", atomic_load(&b->errors));
        wr_text_add(text, atomic_load(&b->draining) ? ", draining" : "");
        wr_text_add(text, atomic_load(&b->sick_until_ns) ? ", sick" : "");
        wr_text_add(text, "\n");
    }
}

static uint64_t percent(uint64_t part, uint64_t whole)
{
    return whole ? part * 100 / whole : 0;
}

static void add_region(struct wr_text *text, uint32_t number, const struct weir_region_stats *s)
{
    add_number(text, "region ", number);
    wr_text_add(text, *s->name ? " \"" : "");
    wr_text_add(text, s->name);
    wr_text_add(text, *s->name ? "\"" : "");
    add_bytes(text, ": ", s->bytes);
    add_bytes(text, ", resident ", s->resident_bytes);
    add_bytes(text, ", cached ", s->cached_bytes);
    add_bytes(text, ", out ", s->out_bytes);
    add_number(text, "; faults ", s->faults);
    add_number(text, ", found ", s->cache_found);
    add_number(text, "/", s->swap_faults);
    add_number(text, " ", percent(s->cache_found, s->swap_faults));
    add_number(text, "%, waits ", s->waits);
    wr_text_add(text, "\n");
}

/* The first of them, and how many more there are: the report is as long for 4096 as for 32. */
static void add_regions(struct wr_text *text, const struct weir_runtime *rt)
{
    uint32_t count = 0;

    for (uint32_t i = 1; i <= WR_REGIONS_MAX; i++) {
        const struct wr_region *region = wr_report_region_of(rt, i);
        struct weir_region_stats stats;

        if (!region || count++ >= REGIONS_SHOWN)
            continue;
        wr_report_region(region, &stats);
        add_region(text, i, &stats);
    }
    if (count > REGIONS_SHOWN) {
        add_number(text, "regions not shown: ", count - REGIONS_SHOWN);
        add_number(text, " of ", count);
        wr_text_add(text, "\n");
    }
}

/* Inside the gate, likewise. */
static void add_objects(struct wr_text *text, const struct weir_runtime *rt,
                        const struct weir_stats *s)
{
    uint64_t objects = 0, views = 0;

    for (uint32_t i = 0; i < WR_OBJECTS_MAX; i++) {
        const struct weir_object *object = atomic_load(&rt->space.objects[i]);

        objects += object != NULL;
        views += object ? atomic_load_explicit(&object->view_count, memory_order_relaxed) : 0;
    }
    if (objects == 0)
        return;
    add_number(text, "objects: ", objects);
    add_number(text, ", views ", views);
    add_number(text, "; resident pages mapped in one more view ", s->views_mapped);
    add_number(text, ", taken out of a view ", s->views_unmapped);
    wr_text_add(text, "\n");
}

/* What pages in memory are there for (seed C2). */
static void add_classes(struct wr_text *text, const struct weir_stats *s)
{
    add_number(text, "pages in memory: private ", s->private_pages);
    add_number(text, ", shared ", s->shared_pages);
    add_number(text, ", read ahead ", s->ahead_pages);
    add_number(text, ", reusable ", s->reusable_pages);
    add_number(text, ", pending ", s->dirty_pages);
    add_bytes(text, "; kept regions ", s->kept_bytes);
    add_number(text, ": kept ", s->regions_kept);
    add_number(text, ", reattached ", s->regions_reattached);
    add_number(text, ", forgotten ", s->regions_forgotten);
    wr_text_add(text, "\n");
}

/* Who else tells which pages are used, and why he, or nobody. */
static void add_heat(struct wr_text *text, const struct weir_runtime *rt)
{
    wr_text_add(text, "heat: ");
    wr_text_add(text, rt->kheat ? wr_kheat_how(rt->kheat) : "none (not asked for)");
    if (rt->kheat)
        add_number(text, ", groups warmed ", wr_kheat_warmed(rt->kheat));
    wr_text_add(text, "\n");
}

static void add_trace(struct wr_text *text, const struct weir_runtime *rt)
{
    struct wr_ktrace_told told;

    if (!rt->ktrace)
        return;
    told = wr_ktrace_told(rt->ktrace);
    wr_text_add(text, "trace: ");
    wr_text_add(text, told.path);
    add_number(text, ", records ", told.records);
    add_number(text, ", lost ", told.lost);
    wr_text_add(text, told.is_failed ? "; it ended early, the file could not be written" : "");
    wr_text_add(text, "\n");
}

/* The four lines of the seed: "I modified the Alt-SysReq-M key to have a better understanding of
 * what's going on in the system". To the letter, so that what parses them parses these. */
static void add_seed_lines(struct wr_text *text, const struct weir_stats *s)
{
    add_number(text, "Swap cache: add ", s->cache_added);
    add_number(text, " [", s->cache_added_ahead);
    add_number(text, "-", s->cache_added_reclaim);
    add_number(text, "], del ", s->cache_deleted);
    add_number(text, ", find ", s->cache_found);
    add_number(text, "/", s->swap_faults);
    add_number(text, " [", s->cache_found_marked);
    add_number(text, "] ", percent(s->cache_found, s->swap_faults));
    add_number(text, "%\nkswapd: total ", s->reclaim_marked);
    add_number(text, " overload ", s->reclaim_overload);
    add_number(text, " out of sync ", s->frame_waits);
    add_number(text, "\nkswapd: wakeup ", s->reclaim_wakeups);
    add_number(text, " [g ", s->aging_green);
    add_number(text, " y ", s->aging_yellow);
    add_number(text, " o ", s->aging_orange);
    add_number(text, " r ", s->aging_red);
    add_number(text, "] free ", s->reclaim_free_tries);
    add_number(text, " io ", s->reclaim_write_tries);
    add_number(text, "\nkswapd: aged pages ", s->lru_pages);
    add_number(text, " dirty pages ", s->dirty_pages);
    wr_text_add(text, "\n");
}

static void add_time(struct wr_text *text, uint64_t ns)
{
    bool is_short = ns < 2000;

    add_number(text, "", is_short ? ns : ns / 1000);
    wr_text_add(text, is_short ? " ns" : " us");
}

/* What the swap cache was good for: whoever found his page there had no read to wait for, which
 * takes so long on average; all else of his fault was the same. */
static void add_saved(struct wr_text *text, const struct weir_stats *s)
{
    uint64_t mean = s->time_read.count ? s->time_read.sum_ns / s->time_read.count : 0;

    add_number(text, "found in memory: ", s->cache_found);
    add_number(text, " pages, instead of reads of ", mean / 1000);
    add_number(text, " us: ", s->cache_found * (mean / 1000) / 1000);
    wr_text_add(text, " ms saved\n");
}

/* The end of the highest bucket that is not empty. */
static uint64_t longest(const struct weir_histogram *times)
{
    uint32_t b = WEIR_HISTOGRAM_BUCKETS;

    while (b > 0 && times->bucket[b - 1] == 0)
        b--;
    return b > 0 ? (uint64_t)256 << (b - 1) : 0;
}

static void add_duration(struct wr_text *text, const char *name, const struct weir_histogram *times)
{
    wr_text_add(text, name);
    add_number(text, ": ", times->count);
    wr_text_add(text, " times");
    if (times->count > 0) {
        wr_text_add(text, ", mean ");
        add_time(text, times->sum_ns / times->count);
        wr_text_add(text, ", p50 under ");
        add_time(text, weir_histogram_quantile(times, 0.5));
        wr_text_add(text, ", p99 under ");
        add_time(text, weir_histogram_quantile(times, 0.99));
        wr_text_add(text, ", all under ");
        add_time(text, longest(times));
    }
    wr_text_add(text, "\n");
}

/* Every reason to wait has its line, also when nobody did; and all of them together. */
static void add_times(struct wr_text *text, const struct weir_stats *s)
{
    struct weir_histogram all = {0};
    static const char *const names[] = {
#define REPORT_NAME(name, meaning) #name,
        WEIR_TIME_MAP(REPORT_NAME)
#undef REPORT_NAME
    };
    const struct weir_histogram *const times[] = {
#define REPORT_TIME(name, meaning) &s->time_##name,
        WEIR_TIME_MAP(REPORT_TIME)
#undef REPORT_TIME
    };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        bool is_wait = i != WR_TIME_fault && i != WR_TIME_write;

        add_duration(text, names[i], times[i]);
        all.count += is_wait ? times[i]->count : 0;
        all.sum_ns += is_wait ? times[i]->sum_ns : 0;
        for (uint32_t b = 0; b < WEIR_HISTOGRAM_BUCKETS; b++)
            all.bucket[b] += is_wait ? times[i]->bucket[b] : 0;
    }
    add_duration(text, "all waits", &all);
}

static void add_report(struct wr_text *text, struct weir_runtime *rt)
{
    struct weir_stats stats = {.size = sizeof(stats)};
    struct wr_pass pass = wr_gate_enter();

    wr_stats_collect(rt->stats, &stats);
    wr_report_gauges(rt, &stats);
    add_head(text, rt, &stats);
    add_backends(text, rt);
    add_regions(text, rt);
    add_objects(text, rt, &stats);
    add_classes(text, &stats);
    add_heat(text, rt);
    add_trace(text, rt);
    add_seed_lines(text, &stats);
    add_saved(text, &stats);
    add_times(text, &stats);
    wr_gate_leave(pass);
}

size_t weir_report(struct weir_runtime *rt, char *buffer, size_t bytes)
{
    struct wr_text text;

    wr_text_init(&text, buffer, bytes);
    if (rt && !wr_runtime_is_forked())
        add_report(&text, rt);
    return text.length;
}

int weir_report_fd(struct weir_runtime *rt, int fd)
{
    char piece[512];
    struct wr_text text;

    if (!rt || fd < 0)
        return WEIR_EINVAL;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    wr_text_init_fd(&text, piece, sizeof(piece), fd);
    add_report(&text, rt);
    return wr_text_flush(&text) ? WEIR_OK : WEIR_EIO;
}

/* --- On a signal ----------------------------------------------------------------------------- */

static void on_report_signal(int number)
{
    int kept_errno = errno;

    (void)number;
    for (uint32_t i = 0; i < WR_RUNTIMES_MAX; i++) {
        struct wr_pass pass = wr_gate_enter(); /* it is not closed while we are inside */
        struct weir_runtime *rt = wr_runtime_at(i);

        if (rt)
            weir_report_fd(rt, STDERR_FILENO);
        wr_gate_leave(pass);
    }
    errno = kept_errno;
}

int wr_report_arm(int number)
{
    struct sigaction action;

    memset(&action, 0, sizeof(action));
    action.sa_handler = on_report_signal;
    action.sa_flags = SA_RESTART;
    return sigaction(number, &action, NULL) == 0 ? WEIR_OK : WEIR_EINVAL;
}
