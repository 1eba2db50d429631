/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/lock.h"
#include "tests/sim/sim_common.h"

struct sim_world sim;

/* --- Chance ---------------------------------------------------------------------------------- */

uint64_t sim_draw(void)
{
    uint64_t *state = sim_thread_random();
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t sim_below(uint64_t limit)
{
    return limit ? sim_draw() % limit : 0;
}

bool sim_one_in(uint32_t n)
{
    return n > 0 && sim_draw() % n == 0;
}

bool sim_inject(uint32_t n)
{
    return !sim.is_over && sim_one_in(n);
}

static uint32_t between(uint32_t least, uint32_t most)
{
    return least + (uint32_t)sim_below(most - least + 1);
}

static void draw_faults(struct sim_profile *p)
{
    uint32_t kind = between(0, 11); /* from 6 on: none */
    bool all = kind == 5;

    if (kind == 0 || all)
        p->fail_write = between(2, 12);
    if (kind == 1 || all)
        p->fail_read = between(2, 12);
    if (kind == 2 || all)
        p->damage = between(10, 200);
    if (kind == 3 || all) {
        p->no_memory = between(4, 100);
        p->revoke_fails = between(2, 20);
        p->copy_stops = between(2, 20);
    }
    if (kind == 4 || all)
        p->refuse_submit = between(2, 10);
    p->wakes_early = sim_one_in(2) ? between(2, 10) : 0;
    p->may_lose = p->fail_read || p->damage;
    p->may_refuse = p->may_lose || p->fail_write || p->no_memory || p->refuse_submit;
}

static void draw_sizes(struct sim_profile *p)
{
    uint32_t kind = between(0, 15), all;

    p->is_large = kind == 0 && !sim.options.is_free;
    if (p->is_large)
        p->budget_pages = between(8700, 9200);
    else if (kind < 6)
        p->budget_pages = between(1024, 1700);
    else
        p->budget_pages = between(540, 700);
    p->budget_min_pages = p->budget_pages - between(0, 20);
    p->shared_pages = p->budget_pages * between(30, 160) / 100;
    p->hint_pages = p->budget_pages * between(10, 80) / 100;
    p->view_count = sim_one_in(3) ? 0 : between(1, SIM_VIEWS_MAX);
    p->object_pages = p->view_count ? p->budget_pages * between(10, 80) / 100 : 0;
    p->protects_views = !sim_one_in(6);
    p->views_many = between(1, 2 * SIM_VIEWS_MAX);
    all = p->shared_pages + p->hint_pages + p->object_pages;
    p->slots = 4 * all + 4096;
    if (sim_one_in(4)) { /* too few for all, or so few that clusters must be cleaned */
        p->slots = all * between(10, 200) / 100;
        p->may_refuse = true;
    }
}

void sim_draw_profile(void)
{
    struct sim_profile *p = &sim.profile;

    *p = (struct sim_profile){0};
    draw_faults(p);
    draw_sizes(p);
    p->threads = between(2, 6);
    p->operations = sim_one_in(12) ? between(2000, 5000) : between(200, 900);
    if (sim.options.steps)
        p->operations = sim.options.steps;
    p->hot_pages = between(1, 64);
    p->switch_every = 1u << between(2, 9);
    p->stall_every = 1u << between(8, 16);
    p->io_ns_least = between(500, 20000);
    p->io_ns_most = p->io_ns_least + (sim_one_in(2) ? between(1, 50000) : between(1, 2000000));
    if (sim.options.is_free) /* real time is dear */
        p->io_ns_most = p->io_ns_least + between(1, 100000);
    p->is_shy = sim_one_in(5);
    p->has_hints = !sim_one_in(4);
    p->has_foreign = sim_one_in(4);
    p->has_drains = sim_one_in(2);
    p->has_resizes = sim_one_in(2);
    p->has_regions = !sim_one_in(3);
    p->has_pins = !sim_one_in(3);
    p->has_devices = sim.options.engine == SIM_MOVE && sim_one_in(2);
    p->has_walks = !sim_one_in(4);
    p->has_keeps = p->has_regions && !sim_one_in(3);
    p->is_tight = p->has_keeps && sim_one_in(3);
    p->is_quiet_fd = sim_one_in(6);
    p->is_hasty = sim_one_in(8);
    if (p->has_drains && p->budget_pages < 1500)
        p->may_refuse = true; /* a drain needs 512 frames for itself */
}

/* --- Trace and verdict ----------------------------------------------------------------------- */

static void mix(uint64_t value)
{
    sim.result->hash = (sim.result->hash ^ value) * 0x100000001b3u;
    sim.result->hash ^= sim.result->hash >> 29;
}

void sim_event(const char *what, uint64_t a, uint64_t b)
{
    struct sim_result *r = sim.result;
    uint64_t at = atomic_fetch_add_explicit(&r->ring_count, 1, memory_order_relaxed);

    r->ring[at % SIM_RING] = (struct sim_event){sim_now_ns(), sim_thread_index(), what, a, b};
    if (sim.options.is_free)
        return;
    mix(sim_now_ns() << 8 ^ sim_thread_index());
    for (const char *c = what; *c; c++)
        mix((uint64_t)*c);
    mix(a);
    mix(b);
    if (sim.options.is_verbose)
        fprintf(stderr, "%12llu %-12s %-16s %llx %llx\n", (unsigned long long)sim_now_ns(),
                r->names[sim_thread_index()], what, (unsigned long long)a, (unsigned long long)b);
}

static void dump_backend(uint32_t number)
{
    const struct wr_swap_backend *b = wr_swap_backend(sim.rt->swap, number);

    if (b)
        fprintf(stderr, "  back end %u: slots %llu, used %llu, draining %d, failures %u\n", number,
                (unsigned long long)b->slots.count, (unsigned long long)wr_slots_used(&b->slots),
                atomic_load(&b->draining), atomic_load(&b->failures));
}

/* What one wants to know first. */
static void dump(void)
{
    const struct sim_profile *p = &sim.profile;
    const struct wr_frames *f = sim.rt ? &sim.rt->space.frames : NULL;
    const struct wr_staging *s = sim.rt ? &sim.rt->space.staging : NULL;

    fprintf(stderr,
            "  profile: budget %u, pages %u + %u + %u in %u views, slots %u, threads %u, "
            "operations %u\n"
            "  injected, one in: fail_write %u fail_read %u damage %u refuse_submit %u "
            "no_memory %u revoke_fails %u copy_stops %u\n"
            "  engine %d shy %d quiet %d hints %d foreign %d drains %d resizes %d regions %d pins "
            "%d devices %d keeps %d tight %d\n",
            p->budget_pages, p->shared_pages, p->hint_pages, p->object_pages, p->view_count,
            p->slots, p->threads, p->operations, p->fail_write, p->fail_read, p->damage,
            p->refuse_submit, p->no_memory, p->revoke_fails, p->copy_stops, (int)sim.options.engine,
            p->is_shy, p->is_quiet_fd, p->has_hints, p->has_foreign, p->has_drains, p->has_resizes,
            p->has_regions, p->has_pins, p->has_devices, p->has_keeps, p->is_tight);
    if (!f)
        return;
    fprintf(stderr,
            "  frames: total %lld free %lld min %lld low %lld high %lld waiting %u\n"
            "  staging: held %u live %u queued %u; the kernel: mapped %u staged %u\n",
            (long long)atomic_load(&f->total), (long long)wr_frames_free(f),
            (long long)atomic_load(&f->min), (long long)atomic_load(&f->low),
            (long long)atomic_load(&f->high), atomic_load(&f->waiting), atomic_load(&s->held_count),
            atomic_load(&s->live_count), s->queue_count, sim_frames_mapped(), sim_frames_staged());
    for (uint32_t i = 0; i < WR_BACKENDS_MAX; i++)
        dump_backend(i);
}

void sim_fail(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(sim.result->why, sizeof(sim.result->why), format, arguments);
    va_end(arguments);
    sim.result->has_failed = true;
    sim_sched_dump();
    dump();
    _exit(3);
}

/* --- Bytes ----------------------------------------------------------------------------------- */

/* The barriers keep the compiler from making a call of memcpy() or memset() of these, which a
 * sanitizer would watch as if it were the runtime's own. */
void sim_copy_page(void *to, const void *from)
{
    uint64_t *t = to;
    const uint64_t *f = from;

    for (uint32_t i = 0; i < SIM_PAGE / 8; i += 8) {
        for (uint32_t k = 0; k < 8; k++)
            t[i + k] = f[i + k];
        __asm__ volatile("" ::: "memory");
    }
}

void sim_fill_page(void *to, uint64_t word)
{
    uint64_t *t = to;

    for (uint32_t i = 0; i < SIM_PAGE / 8; i += 8) {
        for (uint32_t k = 0; k < 8; k++)
            t[i + k] = word;
        __asm__ volatile("" ::: "memory");
    }
}

/* --- One seed -------------------------------------------------------------------------------- */

/* Every move of a page comes by here (linked with --wrap): the coverage of the diagram. */
void __real_wr_page_move(struct wr_hold *hold, enum wr_page_state from, enum wr_page_state to);
void __wrap_wr_page_move(struct wr_hold *hold, enum wr_page_state from, enum wr_page_state to);

void __wrap_wr_page_move(struct wr_hold *hold, enum wr_page_state from, enum wr_page_state to)
{
    __atomic_fetch_add(&sim.result->edges[from][to], 1, __ATOMIC_RELAXED);
    sim_event("move", hold->number, (uint64_t)from << 8 | to);
    __real_wr_page_move(hold, from, to);
}

static void on_event(void *context, const struct weir_event *event)
{
    (void)context;
    sim_event("event", (uint64_t)event->severity, (uint64_t)-event->error);
    if (sim.options.is_verbose)
        fprintf(stderr, "event %s: %s\n", weir_error_name(event->error), event->text);
}

/* For everything that is mapped at one time, scattered as badly as it may be. */
static uint64_t least_chunks(const struct sim_profile *p)
{
    uint64_t pages[] = {p->shared_pages, p->hint_pages, p->object_pages};
    uint64_t chunks = 2 + 7 * p->threads;

    for (uint32_t i = 0; i < 3; i++)
        chunks += (pages[i] + WR_CHUNK_PAGES - 1) / WR_CHUNK_PAGES;
    return chunks;
}

static void fill_options(struct weir_options *o)
{
    static char spec[64];
    const struct sim_profile *p = &sim.profile;
    bool is_small = p->budget_pages < 1024;

    weir_options_init(o);
    o->publish = "0"; /* that is of the real machine */
    snprintf(spec, sizeof(spec), "sim:%u", p->slots);
    o->budget_bytes = p->budget_pages * SIM_PAGE;
    o->backends = spec;
    o->address_space_bytes = 64ull << 20 << (p->is_large ? 3 : 1);
    if (p->is_tight)
        o->address_space_bytes = least_chunks(p) * WR_CHUNK_PAGES * SIM_PAGE;
    if (is_small) {
        o->watermark_min_bytes = (uint64_t)between(2, 8) * SIM_PAGE;
        o->watermark_low_bytes = o->watermark_min_bytes + between(2, 16) * SIM_PAGE;
        o->watermark_high_bytes = o->watermark_low_bytes + between(2, 24) * SIM_PAGE;
    }
    o->writes_in_flight = between(1, 4);
    o->drop_batch_pages = 1u << between(0, 7);
    o->cache_scan_ratio = between(1, 8);
    o->second_chance_permille = 10;
    o->slot_keep_percent = sim_one_in(4) ? 0 : between(20, 100);
    o->clean_percent = sim_one_in(4) ? 0 : between(50, 95);
    o->readahead_bytes = sim_one_in(4) ? 0 : between(1, 64) * SIM_PAGE;
    o->fault_around_bytes = sim_one_in(4) ? 0 : between(1, 32) * SIM_PAGE;
    o->fault_readers = between(1, 4);
    o->zero_elision = !sim_one_in(6);
    o->checksums = p->damage || !sim_one_in(8);
    o->on_event = on_event;
}

static void map_common(struct sim_common *c)
{
    uint32_t pages = sim.profile.object_pages;

    c->shared = sim_region_map(sim.profile.shared_pages);
    c->hinted = sim_region_map(sim.profile.hint_pages);
    if (sim.profile.view_count)
        sim_object_create(pages);
    for (uint32_t i = 0; i < sim.profile.view_count; i++) {
        uint32_t first = i ? between(0, pages / 2) : 0;

        c->views[i] = sim_view_map(first, i ? between(1, pages - first) : pages);
    }
}

/* The object is given up before its views, or between them. */
static void unmap_common(const struct sim_common *c)
{
    uint32_t count = sim.profile.view_count, at = between(0, count ? count - 1 : 0);

    sim_region_unmap(c->shared);
    sim_region_unmap(c->hinted);
    for (uint32_t i = 0; i < count; i++) {
        if (i == at)
            sim_object_close();
        sim_region_unmap(c->views[i]);
    }
}

void sim_world_run(const struct sim_options *options, struct sim_result *result)
{
    struct weir_options settings;
    struct sim_common common;
    int error;

    sim = (struct sim_world){.options = *options, .result = result};
    result->hash = options->seed;
    sim_sched_open();
    sim_draw_profile();
    if (weir_backend_register(&sim_backend_ops) != WEIR_OK)
        sim_fail("the back end could not be registered");
    fill_options(&settings);
    sim.host = sim_host_open();
    error = wr_runtime_open(&settings, sim.host, &sim.rt);
    if (error != WEIR_OK)
        sim_fail("open gave %s", weir_error_name(error));
    map_common(&common);
    sim_load_run(&common);
    sim.is_over = true;
    if (!sim.profile.is_hasty) {
        sim_check_rest(&common);
        sim_check_kept();
        unmap_common(&common);
        sim_check_unmapped();
    }
    result->faults = wr_stats_sum(sim.rt->stats, WR_COUNT_faults);
    result->cleaned = wr_stats_sum(sim.rt->stats, WR_COUNT_pages_cleaned);
    result->discarded = wr_stats_sum(sim.rt->stats, WR_COUNT_clusters_discarded);
    result->reattached = wr_stats_sum(sim.rt->stats, WR_COUNT_regions_reattached);
    result->forgotten = wr_stats_sum(sim.rt->stats, WR_COUNT_regions_forgotten);
    result->migrated = wr_stats_sum(sim.rt->stats, WR_COUNT_pages_migrated);
    if (weir_close(sim.rt) != WEIR_OK)
        sim_fail("close failed");
    sim.rt = NULL;
    sim_host_check_closed();
    sim_backend_check_closed();
    sim_event("end", 0, 0);
    result->is_finished = true;
}
