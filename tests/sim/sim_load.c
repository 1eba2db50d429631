/* SPDX-License-Identifier: MIT */

/*
 * What the application's threads do, by chance. All of them use the shared region, where every byte
 * is sacred, and the hinted one, where bytes may be given away; regions of a thread's own come and
 * go, and others blunder into them.
 */

#include <stdio.h>

#include "tests/sim/sim_common.h"

#define APPS_MAX    6u
#define BRIEF_MAX   8u
#define REFUSED_MAX 100u

static struct {
    struct sim_region *shared, *hinted;
    struct sim_region *const *views;
    struct sim_region *brief[BRIEF_MAX]; /* the last that were mapped; some are gone again */
    uint32_t brief_next;
    _Atomic(uint32_t) is_draining; /* one drain at a time: each takes frames of its own */
} load;

static struct sim_region *some_view(void)
{
    return load.views[sim_below(sim.profile.view_count)];
}

/* Where bytes may be given away. */
static struct sim_region *some_hinted(void)
{
    return sim.profile.view_count && sim_one_in(2) ? some_view() : load.hinted;
}

static struct sim_region *some_region(void)
{
    if (sim.profile.view_count && sim_one_in(3))
        return some_view();
    return sim_one_in(3) ? load.hinted : load.shared;
}

/* Often one of a few pages that everybody likes. */
static uint32_t some_page(const struct sim_region *region)
{
    uint32_t pages = sim_region_pages(region);

    if (sim_one_in(2) && sim.profile.hot_pages < pages)
        return (uint32_t)sim_below(sim.profile.hot_pages);
    return (uint32_t)sim_below(pages);
}

static uint32_t some_range(const struct sim_region *region, uint32_t most, uint32_t *count_p)
{
    uint32_t page = some_page(region);
    uint32_t count = 1 + (uint32_t)sim_below(sim_one_in(2) ? most : 4);
    uint32_t rest = sim_region_pages(region) - page;

    *count_p = count < rest ? count : rest;
    return page;
}

static void touch_some(void)
{
    struct sim_region *region = some_region();
    uint32_t page = some_page(region);

    if (sim_one_in(2))
        sim_load(region, page);
    else
        sim_store(region, page, sim_one_in(12));
}

static void walk(void)
{
    struct sim_region *region = some_region();
    uint32_t pages = sim_region_pages(region);
    uint32_t page = (uint32_t)sim_below(pages), length = (uint32_t)sim_below(pages);
    uint32_t kind = (uint32_t)sim_below(3); /* loads, stores, both */
    bool up = sim_one_in(2);

    for (uint32_t i = 0; i < length && page < pages; i++, page += up ? 1u : UINT32_MAX) {
        if (kind != 1 && sim_load(region, page) != SIM_TOUCHED)
            return;
        if (kind != 0 && sim_store(region, page, false) != SIM_TOUCHED)
            return;
    }
}

static void hint_some(void)
{
    static const enum weir_hint patterns[] = {WEIR_NORMAL, WEIR_RANDOM, WEIR_SEQUENTIAL};
    struct sim_region *region = some_region();
    uint32_t count, page = some_range(region, 128, &count);
    uint32_t kind = (uint32_t)sim_below(8);

    if (kind == 0)
        sim_advise(region, page, count, patterns[sim_below(3)]);
    else if (kind == 1)
        sim_advise(region, page, count, WEIR_COLD);
    else if (kind <= 3)
        sim_advise(region, page, count, WEIR_WILLNEED);
    else if (sim.profile.has_foreign && kind == 4)
        sim_foreign_drop(load.hinted, some_page(load.hinted), 1);
    else if (sim.profile.has_hints) {
        region = some_hinted();
        page = some_range(region, 128, &count);
        if (sim_one_in(6)) { /* whole chunks, which are given back whole */
            page = 0;
            count = sim_region_pages(region);
        }
        sim_advise(region, page, count, kind <= 5 ? WEIR_FREE : WEIR_DISCARD);
    }
}

static void pin_some(void)
{
    struct sim_region *region = some_region();
    uint32_t count, page = some_range(region, 8, &count);

    if (sim.profile.has_devices && sim_one_in(2))
        sim_device(load.shared, some_page(load.shared));
    else if (sim.profile.has_pins)
        sim_pin(region, page, count, sim_one_in(2) ? WEIR_WRITE : WEIR_READ);
}

/* Somebody who still uses a region that another thread unmaps. */
static void blunder(void)
{
    struct sim_region *region = load.brief[sim_below(BRIEF_MAX)];

    for (uint32_t i = 1 + (uint32_t)sim_below(8); region && i > 0; i--)
        if (sim_load(region, (uint32_t)sim_below(sim_region_pages(region))) != SIM_TOUCHED)
            return;
}

/* To other addresses, while what is away, or on its way, stays so. */
static void move_region(struct sim_region *region, uint32_t pages)
{
    if (sim_one_in(2))
        sim_advise(region, 0, 1 + (uint32_t)sim_below(pages), WEIR_WILLNEED);
    sim_region_move(region, sim_one_in(2) ? pages + (uint32_t)sim_below(600) : 0);
    for (uint32_t i = 0; i < pages; i += 1 + (uint32_t)sim_below(6))
        if (sim_one_in(2))
            sim_load(region, i);
        else
            sim_store(region, i, false);
}

static void brief_region(void)
{
    uint32_t pages = 1 + (uint32_t)sim_below(sim_one_in(3) ? 900 : 60);
    struct sim_region *region = sim_region_map(pages);

    load.brief[load.brief_next++ % BRIEF_MAX] = region;
    for (uint32_t i = 0; i < pages; i += 1 + (uint32_t)sim_below(3))
        if (sim_store(region, i, false) != SIM_TOUCHED)
            break;
    for (uint32_t i = 0; i < 20; i++)
        sim_load(region, (uint32_t)sim_below(pages));
    for (uint32_t i = (uint32_t)sim_below(3); i > 0; i--)
        move_region(region, pages);
    if (sim_one_in(3)) {
        sim_region_resize(region, 1 + (uint32_t)sim_below(pages));
        for (uint32_t i = 0; i < 10; i++) /* what is left, and what is gone */
            sim_load(region, (uint32_t)sim_below(pages));
        pages = sim_region_resize(region, pages);
        for (uint32_t i = 0; i < 20; i++)
            sim_store(region, (uint32_t)sim_below(pages), false);
    }
    if (sim_one_in(3))
        sim_advise(region, 0, 1 + (uint32_t)sim_below(pages), WEIR_WILLNEED);
    sim_region_unmap(region);
}

/* As long as there is room for it. */
static void use_some(struct sim_region *region, uint32_t pages)
{
    enum sim_touched touched = SIM_TOUCHED;

    for (uint32_t i = (uint32_t)sim_below(pages + 20); i > 0 && touched == SIM_TOUCHED; i--)
        if (sim_one_in(3))
            touched = sim_load(region, (uint32_t)sim_below(pages));
        else
            touched = sim_store(region, (uint32_t)sim_below(pages), sim_one_in(12));
}

/* Unmapped, and had back, as often as not with time in between in which its room may be needed. */
static void kept_region(void)
{
    for (uint32_t rounds = 1 + (uint32_t)sim_below(4); rounds > 0; rounds--) {
        uint32_t name = (uint32_t)sim_below(SIM_NAMES);
        uint32_t pages = 1 + (uint32_t)sim_below(sim_one_in(3) ? 900 : 60);
        struct sim_region *region = sim_region_reattach(name, pages);

        load.brief[load.brief_next++ % BRIEF_MAX] = region;
        pages = sim_region_pages(region);
        use_some(region, pages);
        if (sim_one_in(6))
            sim_region_move(region, 0);
        if (sim_one_in(6))
            pages = sim_region_resize(region, 1 + (uint32_t)sim_below(pages));
        if (sim_one_in(3))
            sim_advise(region, 0, 1 + (uint32_t)sim_below(pages), WEIR_WILLNEED);
        if (sim_one_in(5) || !sim_region_keep(region, name))
            sim_region_unmap(region);
        if (sim_one_in(2))
            touch_some();
    }
}

/* A view that comes and goes, while others use the same pages. */
static void brief_view(void)
{
    uint32_t first = (uint32_t)sim_below(sim.profile.object_pages);
    uint32_t pages = 1 + (uint32_t)sim_below(sim.profile.object_pages - first);
    struct sim_region *view = sim_view_map(first, pages);

    load.brief[load.brief_next++ % BRIEF_MAX] = view;
    for (uint32_t i = 0; i < 30; i++) {
        uint32_t page = (uint32_t)sim_below(pages);

        if (sim_one_in(2))
            sim_load(view, page);
        else
            sim_store(view, page, false);
    }
    sim_foreign_drop(view, (uint32_t)sim_below(pages), 1);
    sim_region_unmap(view);
}

static void resize(void)
{
    uint64_t pages = sim.profile.budget_min_pages + sim_below(sim.profile.budget_pages / 2);
    int error;

    atomic_fetch_add(&sim.resizes, 1);
    error = weir_budget_set(sim.rt, pages * SIM_PAGE, (uint32_t)sim_below(3));
    atomic_fetch_sub(&sim.resizes, 1);
    sim_event("resize", pages, (uint64_t)-error);
    if (error != WEIR_OK && error != WEIR_EAGAIN && error != WEIR_EINVAL)
        sim_fail("budget set gave %s", weir_error_name(error));
}

/* Some pages off the oldest back end, to the newest. */
static void move_some(uint32_t from, uint32_t to)
{
    uint64_t bytes = sim_below(sim.profile.budget_pages) * SIM_PAGE, moved = 0;
    int error = weir_backend_move(sim.rt, from, to, bytes, &moved);

    sim_event("moved", moved / SIM_PAGE, (uint64_t)-error);
    if (error != WEIR_OK && !sim.profile.may_refuse)
        sim_fail("move gave %s, and nothing was injected", weir_error_name(error));
    if (moved > bytes)
        sim_fail("%llu bytes were moved of %llu", (unsigned long long)moved,
                 (unsigned long long)bytes);
}

/* A new back end, and all pages off the oldest. */
static void drain(void)
{
    struct weir_backend_state state;
    uint32_t added = 0;
    char spec[48];
    int error;

    if (atomic_exchange(&load.is_draining, 1))
        return;
    snprintf(spec, sizeof(spec), "sim:%u?priority=%u", sim.profile.slots, (uint32_t)sim_below(2));
    error = weir_backend_get(sim.rt, 0, &state);
    if (error == WEIR_OK)
        error = weir_backend_add(sim.rt, spec, &added);
    if (error == WEIR_OK && sim_one_in(2))
        move_some(state.number, added);
    /* After many drains that failed there may be as many as there can be. */
    if (error != WEIR_OK && !(error == WEIR_EBUSY && sim.profile.may_refuse))
        sim_fail("adding a back end gave %s", weir_error_name(error));
    sim_event("drain", state.number, state.bytes_used / SIM_PAGE);
    error = weir_backend_drain(sim.rt, state.number);
    sim_event("drained", state.number, (uint64_t)-error);
    if (error != WEIR_OK && !sim.profile.may_refuse && error != WEIR_EAGAIN)
        sim_fail("drain gave %s, and nothing was injected", weir_error_name(error));
    atomic_store(&load.is_draining, 0);
}

/* Somebody looks on: at no moment may that be wrong, or hurt. */
static void look_on(void)
{
    static _Thread_local char report[4096];
    struct weir_stats stats = {.size = sizeof(stats)};
    struct weir_region_stats region = {.size = sizeof(region)};
    struct weir_backend_state state;

    for (uint32_t rounds = 1 + (uint32_t)sim_below(20); rounds > 0; rounds--) {
        if (weir_stats(sim.rt, &stats) != WEIR_OK)
            sim_fail("no statistics");
        (void)weir_report(sim.rt, report, sizeof(report));
        (void)weir_backend_get(sim.rt, 0, &state);
        (void)weir_region_get(sim.rt, (uint32_t)sim_below(4), &region);
    }
    if (!sim.profile.has_foreign)
        sim_region_audit(some_region());
}

static void rare(void)
{
    uint32_t kind = (uint32_t)sim_below(9);

    if (kind < 2 && sim.profile.has_resizes)
        resize();
    else if (kind == 2 && sim.profile.has_drains)
        drain();
    else if (kind < 6 && sim.profile.has_keeps && sim_one_in(2))
        kept_region();
    else if (kind < 6 && sim.profile.has_regions && sim.profile.view_count && sim_one_in(2))
        brief_view();
    else if (kind < 6 && sim.profile.has_regions)
        brief_region();
    else if (kind == 6)
        look_on();
    else
        sim_sleep(1 + sim_below(3000000));
}

static void app_main(void *context)
{
    (void)context;
    /* Where everything is refused, nothing more is to be learnt. */
    for (uint32_t i = 0; i < sim.profile.operations && sim.result->refused < REFUSED_MAX; i++) {
        uint32_t what = (uint32_t)sim_below(1000);

        if (what < 40)
            hint_some();
        else if (what < 70)
            pin_some();
        else if (what < 80 && sim.profile.has_walks)
            walk();
        else if (what < 90)
            rare();
        else if (what < 100 && sim.profile.has_regions)
            blunder();
        else
            touch_some();
    }
}

void sim_load_run(const struct sim_common *common)
{
    struct sim_thread *apps[APPS_MAX];

    load.shared = common->shared;
    load.hinted = common->hinted;
    load.views = common->views;
    for (uint32_t i = 0; i < sim.profile.threads; i++)
        apps[i] = sim_thread_start("app", app_main, NULL);
    for (uint32_t i = 0; i < sim.profile.threads; i++)
        sim_thread_join(apps[i]);
    sim_event("load is over", 0, 0);
}
