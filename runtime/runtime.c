/* SPDX-License-Identifier: MIT */
#include "runtime/share.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/bug.h"
#include "runtime/base/config.h"
#include "runtime/host/trap.h"
#include "runtime/memory/gate.h"
#include "runtime/paging/fault.h"
#include "runtime/paging/range.h"
#include "runtime/paging/readahead.h"
#include "runtime/publish.h"

#ifndef BUDGET_MIN_PAGES       /* the simulator is content with less */
#define BUDGET_MIN_PAGES 1024u /* 4 MiB: below it the fixed parts would leave no room */
#endif
#define CHUNKS_MIN      4u
#define FRAMES_MOST     ((1u << 28) - 1) /* of slab and staging: a page names one in 28 bits */
#define NS_MILLISECOND  1000000ull
#define PERCENT_OF_FREE 80

static pthread_mutex_t list_mutex = PTHREAD_MUTEX_INITIALIZER; /* keeps changes of the list */
static _Atomic(struct weir_runtime *) open_runtimes[WR_RUNTIMES_MAX];
static _Atomic(bool) is_forked;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

struct weir_runtime *wr_runtime_at(uint32_t i)
{
    return i < WR_RUNTIMES_MAX ? atomic_load(&open_runtimes[i]) : NULL;
}

bool wr_runtime_is_forked(void)
{
    return atomic_load_explicit(&is_forked, memory_order_relaxed);
}

/* --- Fork ------------------------------------------------------------------------------------ */

static void in_child(void)
{
    for (uint32_t i = 0; i < WR_RUNTIMES_MAX; i++)
        if (wr_runtime_at(i)) {
            atomic_store(&is_forked, true);
            wr_trap_mourn(wr_region_was_ours);
            return;
        }
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, in_child);
}

/* --- The budget ------------------------------------------------------------------------------ */

/* The number in a file, or in the line of it that begins with key. 0: there is none. */
static uint64_t number_in(const char *path, const char *key)
{
    FILE *file = fopen(path, "re");
    uint64_t number = 0;
    char line[256];

    if (!file)
        return 0;
    while (fgets(line, sizeof(line), file)) {
        if (strncmp(line, key, strlen(key)) != 0)
            continue;
        number = strtoull(line + strlen(key), NULL, 10);
        break;
    }
    fclose(file);
    return number;
}

/* Our group's path below the hierarchy of a controller ("memory", or "" for version 2). */
static bool own_group(const char *controller, char *path, size_t room)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    char line[512];
    bool found = false;

    if (!file)
        return false;
    while (!found && fgets(line, sizeof(line), file)) {
        char *name = strchr(line, ':');
        char *group = name ? strchr(name + 1, ':') : NULL;

        if (!group)
            continue;
        *group++ = '\0';
        group[strcspn(group, "\n")] = '\0';
        found = strcmp(name + 1, controller) == 0;
        if (found)
            snprintf(path, room, "%s", group);
    }
    fclose(file);
    return found;
}

static uint64_t cgroup_limit(void)
{
    char group[512], path[640];
    uint64_t limit = 0;

    if (own_group("", group, sizeof(group))) {
        snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.max", group);
        limit = number_in(path, "");
    }
    if (!limit && own_group("memory", group, sizeof(group))) {
        snprintf(path, sizeof(path), "/sys/fs/cgroup/memory%s/memory.limit_in_bytes", group);
        limit = number_in(path, "");
    }
    return limit;
}

static uint64_t default_budget(void)
{
    uint64_t available = number_in("/proc/meminfo", "MemAvailable:") * 1024;
    uint64_t limit = cgroup_limit();

    if (!available)
        available = (uint64_t)sysconf(_SC_AVPHYS_PAGES) * WEIR_PAGE_BYTES;
    if (limit && limit < available)
        available = limit;
    return available / 100 * PERCENT_OF_FREE;
}

static struct wr_frame_marks marks_of(const struct weir_runtime *rt)
{
    return (struct wr_frame_marks){
        .min = rt->settings.watermark_min_bytes / WEIR_PAGE_BYTES,
        .low = rt->settings.watermark_low_bytes / WEIR_PAGE_BYTES,
        .high = rt->settings.watermark_high_bytes / WEIR_PAGE_BYTES,
    };
}

static int refuse_budget(const struct weir_runtime *rt)
{
    wr_event(&rt->space.events, WEIR_FAILURE, WEIR_EINVAL, 0, 0,
             "the budget (WEIR_BUDGET) is too small: at least 4 MiB, and at least four times the "
             "high watermark");
    return WEIR_EINVAL;
}

/* --- Building -------------------------------------------------------------------------------- */

static int copy_strings(struct weir_runtime *rt)
{
    const char **fields[] = {&rt->settings.backends, &rt->settings.engine, &rt->settings.trap,
                             &rt->settings.trace,    &rt->settings.heat,   &rt->settings.publish};

    _Static_assert(sizeof(fields) / sizeof(fields[0]) ==
                       sizeof(rt->strings) / sizeof(rt->strings[0]),
                   "every text of the settings has its copy");
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        rt->strings[i] = strdup(*fields[i]);
        if (!rt->strings[i])
            return WEIR_ENOMEM;
        *fields[i] = rt->strings[i];
    }
    return WEIR_OK;
}

/* Descriptors for the whole address space that was asked for, or for as much of it as the process
 * may reserve (ulimit -v). */
static int build_pages(struct weir_runtime *rt)
{
    uint64_t wanted = rt->settings.address_space_bytes / WEIR_PAGE_BYTES;
    uint64_t count = wanted < UINT32_MAX - WR_CHUNK_PAGES ? wanted : UINT32_MAX - WR_CHUNK_PAGES;
    int error;

    count = count / WR_CHUNK_PAGES * WR_CHUNK_PAGES;
    do {
        error = wr_pages_init(&rt->space.pages, (uint32_t)count, rt->host, rt->stats);
        if (error == WEIR_OK)
            break;
        count = count / 2 / WR_CHUNK_PAGES * WR_CHUNK_PAGES;
    } while (count >= BUDGET_MIN_PAGES);
    if (error == WEIR_OK && count < wanted / 2)
        wr_event(&rt->space.events, WEIR_NOTE, WEIR_OK, 0, 0,
                 "address_space_bytes was reduced: the process may not reserve so many addresses "
                 "(ulimit -v)");
    return error;
}

static int build_memory(struct weir_runtime *rt)
{
    struct wr_space *space = &rt->space;
    uint64_t budget = rt->settings.budget_bytes ? rt->settings.budget_bytes : default_budget();
    uint64_t total = budget / WEIR_PAGE_BYTES;
    uint64_t chunks = total * rt->settings.second_chance_permille / 1000 / WR_CACHE_CHUNK;
    uint32_t readers = (uint32_t)rt->settings.fault_readers;
    uint64_t extents = total / WR_EXTENT_FRAMES + 2 * rt->settings.writes_in_flight + 8;
    struct wr_frame_marks marks = marks_of(rt);
    uint32_t slab;
    int error;

    if (total < BUDGET_MIN_PAGES || total > UINT32_MAX / 8)
        return refuse_budget(rt);
    if (chunks < CHUNKS_MIN)
        chunks = CHUNKS_MIN;
    if (chunks > FRAMES_MOST / 2 / WR_CACHE_CHUNK)
        chunks = FRAMES_MOST / 2 / WR_CACHE_CHUNK;
    if (readers > total / 128)
        readers = (uint32_t)(total / 128);
    slab = wr_cache_frames(readers, (uint32_t)chunks);
    if (extents > (FRAMES_MOST - slab) / WR_EXTENT_FRAMES)
        extents = (FRAMES_MOST - slab) / WR_EXTENT_FRAMES;
    rt->reserved_pages = slab + rt->host->transient_frames;
    if (marks.high * 4 > total)
        return refuse_budget(rt);
    error = rt->host->ops->frames_map(rt->host, slab, (uint32_t)extents * WR_EXTENT_FRAMES);
    if (error == WEIR_OK)
        error = build_pages(rt);
    if (error == WEIR_OK)
        error = wr_cache_init(&space->cache, &space->pages, readers, (uint32_t)chunks);
    if (error == WEIR_OK)
        error = wr_staging_init(&space->staging, rt->host, &space->frames, (uint32_t)extents);
    if (error != WEIR_OK) {
        wr_event(&space->events, WEIR_FAILURE, error, 0, 0,
                 "memory for the runtime itself cannot be had: look at ulimit -v and "
                 "vm.overcommit_memory");
        return error;
    }
    atomic_store(&rt->budget_pages, total);
    wr_frames_resize(&space->frames, total - rt->reserved_pages, &marks);
    return WEIR_OK;
}

/* Each word of the setting is a back end; spaces inside parentheses do not end a word. */
static int add_backends(struct weir_runtime *rt)
{
    const char *rest = *rt->settings.backends ? rt->settings.backends : "file:/var/tmp";
    int error = WEIR_OK;

    while (error == WEIR_OK && *(rest += strspn(rest, " \t\n"))) {
        char spec[WR_SPEC_ROOM];
        size_t length = 0;
        uint32_t number;

        for (int depth = 0; rest[length] && (depth > 0 || !strchr(" \t\n", rest[length])); length++)
            depth += rest[length] == '(' ? 1 : rest[length] == ')' ? -1 : 0;
        if (length >= sizeof(spec)) {
            wr_event(&rt->space.events, WEIR_FAILURE, WEIR_EINVAL, 0, 0,
                     "a back end's specification (WEIR_BACKENDS) is longer than 2047 characters");
            return WEIR_EINVAL;
        }
        memcpy(spec, rest, length);
        spec[length] = '\0';
        rest += length;
        error = wr_swap_add(rt->swap, spec, &number);
    }
    return error;
}

static void rouse(void *context)
{
    struct weir_runtime *rt = context;

    wr_reclaim_press(rt->reclaim);
    wr_ahead_rouse(rt->space.ahead);
}

static int build_paging(struct weir_runtime *rt)
{
    const struct weir_options *s = &rt->settings;
    const struct wr_swap_wish swap_wish = {
        .zero_elision = s->zero_elision,
        .checksums = s->checksums,
        .keep_percent = (uint32_t)s->slot_keep_percent,
        .clean_percent = (uint32_t)s->clean_percent,
        .writes_max = (uint32_t)s->writes_in_flight,
        .rouse = rouse,
        .rouse_context = rt,
        .backends_lock = &rt->backends_lock,
    };
    int error = wr_reclaim_open(&rt->space, (uint32_t)s->drop_batch_pages, &rt->reclaim);

    if (error != WEIR_OK)
        return error;
    wr_frames_init(&rt->space.frames, rt->host, rt->stats, wr_reclaim_press, rt->reclaim);
    error = build_memory(rt);
    if (error == WEIR_OK)
        error = wr_aging_open(&rt->space, (uint32_t)s->cache_scan_ratio, &rt->space.aging);
    if (error == WEIR_OK)
        error = wr_swap_open(&rt->space, &swap_wish, &rt->swap);
    if (error != WEIR_OK)
        return error;
    rt->space.pager = &rt->swap->pager;
    error = add_backends(rt);
    if (error == WEIR_OK)
        error = wr_ahead_open(&rt->space, &rt->space.ahead);
    if (error == WEIR_OK)
        error = wr_kpaged_open(&rt->space, &rt->kpaged);
    if (error == WEIR_OK)
        error = wr_kpaged_start(rt->kpaged);
    if (error == WEIR_OK)
        error = wr_reclaim_start(rt->reclaim, rt->kpaged);
    if (error == WEIR_OK)
        error = wr_sweep_open(&rt->space, &rt->sweep);
    if (error == WEIR_OK)
        error = wr_kheat_open(&rt->space, s->heat, "", &rt->kheat);
    if (error == WEIR_OK && *s->trace)
        error = wr_ktrace_open(&rt->space, s->trace, &rt->ktrace);
    return error;
}

static uint32_t pages_of(uint64_t bytes)
{
    return (uint32_t)(bytes / WEIR_PAGE_BYTES);
}

static int build(struct weir_runtime *rt)
{
    const struct wr_host_wish wish = {rt->settings.engine, rt->settings.trap};
    int error = copy_strings(rt);

    if (error == WEIR_OK && !rt->host)
        error = wr_host_linux_open(&wish, &rt->space.events, &rt->host);
    if (error != WEIR_OK)
        return error;
    rt->stats = calloc(1, sizeof(*rt->stats));
    if (!rt->stats)
        return WEIR_ENOMEM;
    rt->space.host = rt->host;
    rt->space.stats = rt->stats;
    rt->space.readahead_pages = pages_of(rt->settings.readahead_bytes);
    rt->space.fault_around_pages = pages_of(rt->settings.fault_around_bytes);
    if (rt->space.fault_around_pages == 0)
        rt->space.fault_around_pages = 1;
    return build_paging(rt);
}

static void demolish(struct weir_runtime *rt)
{
    if (rt->swap)
        wr_leave_stop(rt->swap->leave);
    wr_kheat_close(rt->kheat);
    wr_sweep_close(rt->sweep);
    wr_ahead_close(rt->space.ahead);
    wr_reclaim_stop(rt->reclaim);
    wr_kpaged_stop(rt->kpaged);
    wr_kpaged_close(rt->kpaged);
    wr_swap_close(rt->swap);
    wr_ktrace_close(rt->ktrace); /* after whoever evicts */
    wr_staging_fini(&rt->space.staging);
    wr_cache_fini(&rt->space.cache);
    wr_pages_fini(&rt->space.pages);
    wr_reclaim_close(rt->reclaim);
    wr_aging_close(rt->space.aging);
    if (rt->host) {
        rt->host->ops->frames_unmap(rt->host);
        rt->host->ops->close(rt->host);
    }
    free(rt->stats);
    for (size_t i = 0; i < sizeof(rt->strings) / sizeof(rt->strings[0]); i++)
        free(rt->strings[i]);
    wr_lock_fini(&rt->lock);
    wr_lock_fini(&rt->backends_lock);
    free(rt);
}

static int enlist(struct weir_runtime *rt)
{
    int error = WEIR_ENOMEM;

    pthread_mutex_lock(&list_mutex);
    for (uint32_t i = 0; i < WR_RUNTIMES_MAX && error != WEIR_OK; i++)
        if (!wr_runtime_at(i)) {
            atomic_store(&open_runtimes[i], rt);
            error = WEIR_OK;
        }
    pthread_mutex_unlock(&list_mutex);
    return error;
}

static void strike_off(struct weir_runtime *rt)
{
    pthread_mutex_lock(&list_mutex);
    for (uint32_t i = 0; i < WR_RUNTIMES_MAX; i++)
        if (wr_runtime_at(i) == rt)
            atomic_store(&open_runtimes[i], NULL);
    pthread_mutex_unlock(&list_mutex);
}

int wr_runtime_open(const struct weir_options *options, struct wr_host *host,
                    struct weir_runtime **runtime_p)
{
    struct weir_runtime *rt = calloc(1, sizeof(*rt));
    int error;

    if (!rt)
        return WEIR_ENOMEM;
    rt->host = host;
    wr_lock_init(&rt->lock, WR_RANK_RUNTIME);
    wr_lock_init(&rt->backends_lock, WR_RANK_BACKENDS);
    if (options && options->size >= sizeof(*options))
        wr_events_init(&rt->space.events, options->on_event, options->event_context);
    error = wr_config_check(options, &rt->settings, &rt->space.events);
    if (error == WEIR_OK)
        error = wr_bug_read(&rt->space.events);
    if (error == WEIR_OK)
        error = build(rt);
    if (error == WEIR_OK)
        error = enlist(rt);
    if (error != WEIR_OK) {
        demolish(rt);
        return error;
    }
    if (rt->settings.report_signal)
        (void)wr_report_arm((int)rt->settings.report_signal);
    pthread_once(&fork_once, watch_forks);
    wr_trap_arm(wr_fault_on_touch);
    (void)wr_publish_open(rt, rt->settings.publish, &rt->publish); /* it runs without, too */
    *runtime_p = rt;
    return WEIR_OK;
}

void wr_runtime_close(struct weir_runtime *rt)
{
    strike_off(rt);
    wr_publish_close(rt->publish);
    wr_share_close(rt);
    wr_runtime_end_objects(rt);
    while (rt->space.region_count > 0) {
        struct wr_region *region = rt->space.by_page[0];

        WR_CHECK(!atomic_load(&region->is_changing));
        WR_CHECK(!atomic_exchange(&region->is_going, true));
        wr_runtime_end_region(rt, region);
    }
    wr_gate_wait(rt->host); /* a signal may be printing our report */
    wr_trap_disarm();
    demolish(rt);
}

/* --- While it runs --------------------------------------------------------------------------- */

int wr_runtime_map(struct weir_runtime *rt, uint64_t bytes, uint64_t reserve, const char *name,
                   struct wr_region **region_p)
{
    int error;

    wr_lock_take(&rt->lock);
    wr_runtime_make_room(rt, bytes, reserve);
    error = wr_space_map(&rt->space, bytes, reserve, name, region_p);
    wr_lock_drop(&rt->lock);
    return error;
}

/* The region that begins there and is neither going nor kept. Under WR_RANK_RUNTIME. */
static struct wr_region *region_at(const struct weir_runtime *rt, uint64_t addr)
{
    for (uint32_t i = 0; i < rt->space.region_count; i++) {
        struct wr_region *region = rt->space.by_page[i];

        if (region->addr == addr && !atomic_load(&region->is_going) &&
            atomic_load(&region->keep) == WR_KEEP_NOT)
            return region;
    }
    return NULL;
}

int wr_runtime_change(struct weir_runtime *rt, uint64_t addr, struct wr_region **region_p)
{
    struct wr_region *region;
    int error = WEIR_ENOENT;

    wr_lock_take(&rt->lock);
    region = region_at(rt, addr);
    if (region)
        error = atomic_exchange(&region->is_changing, true) ? WEIR_EBUSY : WEIR_OK;
    wr_lock_drop(&rt->lock);
    *region_p = region;
    return error;
}

/* While touches are still served, and others want the gate. */
static void release(struct wr_region *region)
{
    uint32_t page = region->first;

    while (page < wr_region_end(region)) {
        struct wr_pass pass = wr_gate_enter();

        page += wr_range_release(region, page, wr_region_end(region) - page);
        wr_gate_leave(pass);
    }
}

void wr_runtime_empty(struct weir_runtime *rt, struct wr_region *region)
{
    release(region);
    wr_space_abandon(&rt->space, region);
    release(region); /* again, for what a mistaken thread touched meanwhile */
    wr_range_await_empty(region, region->first, region->reserve_pages);
}

void wr_runtime_end_region(struct weir_runtime *rt, struct wr_region *region)
{
    wr_runtime_empty(rt, region);
    wr_space_unmap(&rt->space, region);
    wr_lock_take(&rt->lock);
    wr_space_remove(&rt->space, region);
    wr_lock_drop(&rt->lock);
}

int wr_runtime_unmap(struct weir_runtime *rt, uint64_t addr)
{
    struct wr_region *region;
    int error = WEIR_ENOENT;

    wr_lock_take(&rt->lock);
    region = region_at(rt, addr);
    if (region)
        error = WEIR_OK;
    if (region && atomic_load(&region->is_changing))
        error = WEIR_EBUSY;
    else if (region)
        atomic_store(&region->is_going, true);
    wr_lock_drop(&rt->lock);
    if (!region || error != WEIR_OK)
        return error;
    wr_runtime_end_region(rt, region);
    return WEIR_OK;
}

int wr_runtime_resize(struct weir_runtime *rt, uint64_t bytes, uint32_t timeout_ms)
{
    static const uint32_t nothing;
    struct wr_host *host = rt->host;
    uint64_t deadline = host->ops->now_ns(host) + timeout_ms * NS_MILLISECOND;
    uint64_t total = bytes / WEIR_PAGE_BYTES;
    struct wr_frame_marks marks = marks_of(rt);

    if (total < BUDGET_MIN_PAGES || total < 2ull * rt->reserved_pages || marks.high * 4 > total ||
        total > UINT32_MAX / 8)
        return refuse_budget(rt);
    wr_lock_take(&rt->lock);
    atomic_store(&rt->budget_pages, total);
    wr_frames_resize(&rt->space.frames, total - rt->reserved_pages, &marks);
    wr_lock_drop(&rt->lock);
    while (wr_frames_free(&rt->space.frames) < 0) {
        if (host->ops->now_ns(host) >= deadline)
            return WEIR_EAGAIN;
        host->ops->park(host, &nothing, 0, host->ops->now_ns(host) + NS_MILLISECOND);
    }
    return WEIR_OK;
}
