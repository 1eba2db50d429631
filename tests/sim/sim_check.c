/* SPDX-License-Identifier: MIT */

/* What must hold when everything has come to rest, and when everything is gone. */

#include "runtime/memory/audit.h"
#include "runtime/memory/gate.h"
#include "tests/sim/sim_common.h"

#define REST_NS 1000000u
#define FREE_REST_NS \
    250000000u /* longer than kswapd waits before it writes what fills no cluster */
#define RESTS_MAX 4000

struct census {
    uint32_t pages[WR_PAGE_STATE_COUNT];
    uint32_t resident, slotted, staged;
    struct wr_classes classes;
};

static int64_t load64(const _Atomic(int64_t) *at)
{
    return atomic_load(at);
}

/* --- Contents -------------------------------------------------------------------------------- */

/* Out of memory passes: devices work again. Only a lost page is refused for ever, and a new one of
 * an object, while memory and all back ends are full. */
static bool may_be_refused(const struct sim_region *region, uint32_t page)
{
    return sim.profile.may_lose || (sim.profile.may_refuse && sim_view_is_new(region, page));
}

static void read_all(struct sim_region *region)
{
    for (uint32_t i = 0; i < sim_region_pages(region); i++) {
        enum sim_touched touched = sim_load(region, i);

        for (uint32_t tries = 1; touched == SIM_REFUSED && !may_be_refused(region, i); tries++) {
            if (tries == 100)
                sim_fail("page %u is refused for ever, though nothing was lost", i);
            sim_sleep(20 * REST_NS);
            touched = sim_load(region, i);
        }
        sim.result->lost += touched == SIM_REFUSED;
    }
}

/* --- Counts ---------------------------------------------------------------------------------- */

static void check_slot(const struct wr_hold *hold, uint32_t page)
{
    uint64_t slot = wr_hold_slot(hold);
    const struct wr_swap_backend *b = wr_swap_backend(sim.rt->swap, wr_slot_backend(slot));
    uint32_t owner;

    if (!b || !wr_slots_owner(&b->slots, wr_slot_place(slot), &owner) || owner != page)
        sim_fail("page %u names slot %llx, which is not its own", page, (unsigned long long)slot);
}

/* Once more from the words of tally.h. */
static void count_class(struct wr_classes *c, const struct wr_region *region,
                        const struct wr_hold *hold)
{
    enum wr_page_state state = wr_hold_state(hold);

    if (state == WR_PAGE_CACHED_DIRTY || state == WR_PAGE_CACHED_WRITING)
        c->pending++;
    else if (!wr_state_is_charged(state) && !wr_state_is_cached(state))
        return;
    else if (wr_hold_has(hold, WR_PAGE_AHEAD))
        c->ahead++;
    else if (region->object)
        c->shared++;
    else if (atomic_load(&region->keep) == WR_KEEP_NOT)
        c->private_pages++;
    else
        c->reusable++;
}

static void count_page(struct census *c, const struct wr_region *region, uint32_t page)
{
    struct wr_pages *pages = &sim.rt->space.pages;
    enum wr_page_state state;
    struct wr_hold hold;

    wr_page_take(pages, page, &hold);
    state = wr_hold_state(&hold);
    c->pages[state]++;
    count_class(&c->classes, region, &hold);
    c->resident += wr_state_is_charged(state);
    c->staged += state == WR_PAGE_CACHED_DIRTY;
    if (wr_hold_slot(&hold) != WR_SLOT_NONE) {
        c->slotted++;
        check_slot(&hold, page);
    }
    if (wr_hold_pins(&hold))
        sim_fail("page %u is still pinned", page);
    if (wr_hold_has(&hold, WR_PAGE_CANCELLED))
        sim_fail("page %u is still marked cancelled", page);
    if ((wr_hold_frame(&hold) != WR_FRAME_NONE) != wr_state_is_cached(state))
        sim_fail("page %u in state %d and its frame do not agree", page, (int)state);
    wr_page_put(pages, &hold);
}

static struct census take_census(void)
{
    struct wr_space *space = &sim.rt->space;
    struct census c = {0};

    for (uint32_t i = 0; i < space->region_count; i++)
        for (uint32_t page = space->by_page[i]->first; page < wr_region_end(space->by_page[i]);
             page++)
            count_page(&c, space->by_page[i], page);
    return c;
}

static uint64_t slots_used(void)
{
    uint64_t used, total;

    wr_swap_usage(sim.rt->swap, &used, &total);
    return used;
}

/* Nothing is in flight, and nobody holds a frame between taking and using it. */
static bool is_at_rest(const struct census *c)
{
    struct wr_space *space = &sim.rt->space;
    int64_t missing = load64(&space->frames.total) - wr_frames_free(&space->frames) - c->resident -
                      (int64_t)atomic_load(&space->staging.held_count);

    return missing == 0 && c->pages[WR_PAGE_READING] == 0 &&
           c->pages[WR_PAGE_CACHED_WRITING] == 0 && c->pages[WR_PAGE_RESIDENT_WRITING] == 0 &&
           c->slotted == slots_used();
}

/* Wait for it. Frozen when this returns. */
static struct census rest(void)
{
    struct wr_space *space = &sim.rt->space;
    struct census c = {0};

    for (int tries = 0; tries < RESTS_MAX; tries++) {
        sim_sleep(sim.options.is_free ? FREE_REST_NS : REST_NS);
        if (!sim_freeze())
            continue;
        c = take_census();
        if (is_at_rest(&c))
            return c;
        sim_thaw();
    }
    sim_fail("no rest: total %lld free %lld resident %u held %u; slots used %llu, named %u; "
             "reading %u writing %u + %u",
             (long long)load64(&space->frames.total), (long long)wr_frames_free(&space->frames),
             c.resident, atomic_load(&space->staging.held_count), (unsigned long long)slots_used(),
             c.slotted, c.pages[WR_PAGE_READING], c.pages[WR_PAGE_CACHED_WRITING],
             c.pages[WR_PAGE_RESIDENT_WRITING]);
}

static void must(bool holds, const char *what)
{
    if (!holds)
        sim_fail("at rest this does not hold: %s", what);
}

#define MUST(condition) must(condition, #condition)

static void check_statistics(const struct census *c)
{
    struct weir_stats s = {.size = sizeof(s)};
    uint32_t cached = c->pages[WR_PAGE_CACHED_DIRTY] + c->pages[WR_PAGE_CACHED_CLEAN];

    must(weir_stats(sim.rt, &s) == WEIR_OK, "weir_stats() == WEIR_OK");
    MUST(s.cache_added == s.cache_added_ahead + s.cache_added_reclaim + s.pages_drained +
                              s.pages_cleaned + s.pages_migrated);
    if (s.cache_added - s.cache_deleted != cached)
        sim_fail("cached pages: %llu added, %llu deleted, %u are there",
                 (unsigned long long)s.cache_added, (unsigned long long)s.cache_deleted, cached);
    MUST(s.cached_pages == cached);
    MUST(s.dirty_pages == c->pages[WR_PAGE_CACHED_DIRTY]);
    MUST(s.dirty_pages == c->classes.pending && s.ahead_pages == c->classes.ahead);
    MUST(s.private_pages == c->classes.private_pages && s.shared_pages == c->classes.shared);
    MUST(s.reusable_pages == c->classes.reusable);
    MUST(s.private_pages + s.shared_pages + s.ahead_pages + s.reusable_pages + s.dirty_pages ==
         c->resident + cached);
    MUST(s.regions_kept >= s.regions_reattached + s.regions_forgotten);
    MUST(s.frame_waits == s.time_frame.count);
    MUST(s.frame_waits == 0 || s.reclaim_wakeups > 0);
    MUST(s.swap_faults == s.cache_found + s.reads_demand + s.reads_joined);
    MUST(s.cache_found_marked <= s.cache_found);
    MUST(s.reclaim_free_tries >= s.reclaim_write_tries);
    MUST(s.writes_full <= s.writes);
    MUST(s.resident_bytes + s.staged_bytes + s.slab_bytes + s.free_bytes <= s.budget_bytes);
    MUST(s.time_fault.count == s.faults);
    MUST(s.time_write.count == s.writes);
    MUST(s.slots_used == c->slotted);
    MUST(s.pages_rescued_writing <= s.cache_found_marked);
    MUST(s.reads_ahead_hit + s.reads_ahead_wasted <= s.reads_ahead);
    if (!sim.profile.fail_write && !sim.profile.refuse_submit && !s.pages_drained &&
        !s.pages_cleaned && !s.pages_migrated)
        MUST(s.reclaim_marked >= s.pages_written + s.pages_elided_zero + s.pages_elided_free +
                                     s.cache_found_marked - s.pages_rescued_writing);
    if (!sim.profile.fail_write && !sim.profile.refuse_submit)
        MUST(s.write_errors == 0);
    if (!sim.profile.fail_read)
        MUST(s.read_errors == 0);
    if (!sim.profile.damage)
        MUST(s.checksum_errors == 0);
    if (!sim.profile.has_foreign)
        MUST(s.foreign_discards == 0);
    if (!sim.profile.may_refuse)
        MUST(s.frame_failures == 0);
}

/* What chunks count is what descriptors say. */
static void check_chunks(const struct census *c)
{
    const struct wr_space *space = &sim.rt->space;
    struct wr_census sum = {0};

    for (uint32_t i = 0; i < space->region_count; i++) {
        struct wr_census one = wr_space_census(space, space->by_page[i]);

        sum.resident += one.resident;
        sum.zeros += one.zeros;
        sum.cached += one.cached;
        sum.out += one.out;
    }
    MUST(sum.resident == c->resident);
    MUST(sum.zeros == c->pages[WR_PAGE_RESIDENT_ZERO]);
    MUST(sum.cached == c->pages[WR_PAGE_CACHED_DIRTY] + c->pages[WR_PAGE_CACHED_CLEAN]);
    MUST(sum.out == c->pages[WR_PAGE_OUT] + c->pages[WR_PAGE_POISONED]);
}

static void check_kernel(const struct census *c)
{
    const struct wr_staging *staging = &sim.rt->space.staging;

    MUST(sim_frames_staged() == atomic_load(&staging->held_count));
    MUST(c->staged <= sim_frames_staged());
    /* Fewer where a zero page is counted as a page of the application's own. */
    MUST(sim_frames_mapped() <= c->resident);
}

/* Inside the gate. */
static void audit(struct wr_region *region)
{
    struct wr_audit found = {0};

    if (wr_audit_region(region, &found) != WEIR_OK || found.differences)
        sim_fail("audit: %llu differences, first at page %u: state %d, facts %u",
                 (unsigned long long)found.differences, found.page, (int)found.state, found.facts);
}

void sim_audit(uint64_t addr)
{
    struct wr_pass pass = wr_gate_enter();
    struct wr_region *region = wr_region_find(addr);

    if (!region)
        sim_fail("a region is not published");
    audit(region);
    wr_gate_leave(pass);
}

static void audit_kept(struct wr_region *region)
{
    struct wr_pass pass = wr_gate_enter();

    if (wr_region_find(region->addr))
        sim_fail("a kept region is published");
    audit(region);
    wr_gate_leave(pass);
}

static void audit_views(const struct weir_object *object)
{
    for (uint32_t i = 0; object && i < WR_VIEWS_MAX; i++) {
        const struct wr_region *view = atomic_load(&object->views[i]);

        if (view)
            sim_audit(view->addr);
    }
}

void sim_check_rest(const struct sim_common *common)
{
    struct census c;

    /* Whatever the last budget and however small the back ends: now there is room for all. */
    if (weir_budget_set(sim.rt, 2 * sim.profile.budget_pages * SIM_PAGE, 0) != WEIR_OK)
        sim_fail("the budget cannot grow");
    read_all(common->shared);
    read_all(common->hinted);
    for (uint32_t i = 0; i < sim.profile.view_count; i++)
        read_all(common->views[i]);
    c = rest();
    check_statistics(&c);
    check_chunks(&c);
    check_kernel(&c);
    for (uint32_t i = 0; i < sim.rt->space.region_count; i++) {
        struct wr_region *region = sim.rt->space.by_page[i];

        if (region->object)
            audit_views(region->object);
        else if (atomic_load(&region->keep) == WR_KEEP_NOT)
            sim_audit(region->addr);
        else
            audit_kept(region);
    }
    sim_thaw();
}

void sim_check_kept(void)
{
    struct sim_region *region;

    while ((region = sim_region_reattach_any()) != NULL) {
        read_all(region);
        sim_region_unmap(region);
    }
}

void sim_check_unmapped(void)
{
    struct wr_space *space = &sim.rt->space;
    struct census c = rest();

    check_kernel(&c);
    MUST(space->region_count == 0 && sim_frames_mapped() == 0);
    MUST(slots_used() == 0);
    sim_thaw();
}
