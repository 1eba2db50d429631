/* SPDX-License-Identifier: MIT */

/*
 * What each word of each page must hold.
 *
 *   word    8 of a page are used, at both ends; each store gives one of them a number that was
 *           never used before, so that a stale, lost, torn or foreign word shows
 *   maybe   a hint or a foreign madvise() may have zeroed the page: each word holds what was
 *           expected, or zero; the next store, or the next zero that is seen, settles it
 *   hints   calls in progress that may zero the page at any moment
 *
 * A touch is what the processor does: look at the page table; if the page is there and may be
 * used so, the access and the oracle's judgement are one step; if not, the trap.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <weir/weir_object.h>

#include "runtime/paging/fault.h"
#include "tests/sim/sim_common.h"

#define REGIONS_MAX 1024u
#define RANGE_MAX   1024u
#define TRAPS_MAX   20000u

struct expected {
    uint64_t word[SIM_WORDS];
    uint32_t stores;
    uint16_t hints;   /* in progress */
    uint16_t pins;    /* from before weir_pin() until after weir_unpin() */
    uint16_t devices; /* that hold it without a pin */
    bool is_maybe;
};

struct sim_region {
    uint64_t addr, serial;
    uint32_t pages, open; /* open: what may be touched; less while it is being changed */
    bool is_going, is_view;
    struct expected *page; /* of a view: those of the object */
};

static struct sim_region regions[REGIONS_MAX];
static uint32_t region_count;
static uint64_t last_value;
static struct {
    struct weir_object *handle;
    struct expected *page;
} object;

/* By thread and name; what only that thread looks at while the load runs. */
static struct kept {
    char name[16];
    uint32_t pages; /* 0: nothing */
    struct expected *page;
} kept[SIM_THREADS_MAX][SIM_NAMES];

/* --- Regions --------------------------------------------------------------------------------- */

static struct expected *expect_zeros(uint32_t pages)
{
    struct expected *page = calloc(pages, sizeof(*page));

    if (!page)
        sim_fail("no real memory for the oracle");
    return page;
}

static struct sim_region *add_region(const void *address, uint32_t pages, struct expected *page)
{
    struct sim_region *region;

    sim_machine_take();
    if (region_count == REGIONS_MAX)
        sim_fail("too many regions");
    region = &regions[region_count++];
    region->addr = (uintptr_t)address;
    region->serial = sim_area_find(region->addr)->serial;
    region->pages = region->open = pages;
    region->page = page;
    sim_machine_drop();
    return region;
}

struct sim_region *sim_region_map(uint32_t pages)
{
    void *address;
    int error = weir_map(sim.rt, pages * SIM_PAGE, NULL, &address);

    if (error != WEIR_OK)
        sim_fail("map gave %s", weir_error_name(error));
    return add_region(address, pages, expect_zeros(pages));
}

void sim_object_create(uint32_t pages)
{
    int error = weir_object_create(sim.rt, pages * SIM_PAGE, NULL, &object.handle);

    if (error != WEIR_OK)
        sim_fail("object create gave %s", weir_error_name(error));
    object.page = expect_zeros(pages);
}

void sim_object_close(void)
{
    int error = weir_object_close(object.handle);

    if (error != WEIR_OK)
        sim_fail("object close gave %s", weir_error_name(error));
}

struct sim_region *sim_view_map(uint32_t first, uint32_t pages)
{
    struct sim_region *view;
    void *address;
    int error = weir_view_map(object.handle, first * SIM_PAGE, pages * SIM_PAGE, &address);

    if (error != WEIR_OK)
        sim_fail("view map gave %s", weir_error_name(error));
    view = add_region(address, pages, object.page + first);
    view->is_view = true;
    return view;
}

bool sim_view_is_new(const struct sim_region *view, uint32_t page)
{
    const struct wr_region *region = wr_region_find(view->addr);

    return view->is_view && region &&
           wr_page_peek(&region->space->pages, region->first + page) == WR_PAGE_EMPTY;
}

void sim_region_unmap(struct sim_region *region)
{
    int error;

    sim_machine_take();
    region->is_going = true;
    sim_machine_drop();
    error = weir_unmap((void *)(uintptr_t)region->addr);
    if (error != WEIR_OK)
        sim_fail("unmap gave %s", weir_error_name(error));
}

/* --- Regions that are kept ------------------------------------------------------------------- */

static int map_by_name(const struct kept *k, uint32_t pages, void **address_p, bool *is_old_p)
{
    const struct weir_region_options options = {
        .size = sizeof(options), .name = k->name, .reattach = 1};
    struct weir_region_stats stats = {.size = sizeof(stats)};
    int error = weir_map(sim.rt, pages * SIM_PAGE, &options, address_p);

    if (error != WEIR_OK)
        return error;
    if (weir_region_stats(*address_p, &stats) != WEIR_OK || strcmp(stats.name, k->name) != 0)
        sim_fail("a region of the name %s was mapped, and has another", k->name);
    *is_old_p = stats.reattached > 0;
    return WEIR_OK;
}

/* Of another size: it is refused, or no longer there. */
static void reattach_wrong(struct kept *k)
{
    bool is_old;
    void *address;
    int error = map_by_name(k, k->pages + 1, &address, &is_old);

    if (error == WEIR_EINVAL)
        return;
    if (error != WEIR_OK || is_old)
        sim_fail("a kept region, by another size: %s", weir_error_name(error));
    k->pages = 0;
    if (weir_unmap(address) != WEIR_OK)
        sim_fail("unmap failed");
}

static struct sim_region *reattach(struct kept *k, uint32_t pages)
{
    bool is_old = false;
    void *address;
    int error;

    if (k->pages && sim_one_in(8))
        reattach_wrong(k);
    if (k->pages)
        pages = k->pages;
    error = map_by_name(k, pages, &address, &is_old);
    sim_event("reattach", is_old, pages);
    if (error != WEIR_OK)
        sim_fail("map by name gave %s", weir_error_name(error));
    if (is_old && !k->pages)
        sim_fail("region %s was reattached, and never kept", k->name);
    k->pages = 0;
    return add_region(address, pages, is_old ? k->page : expect_zeros(pages));
}

struct sim_region *sim_region_reattach(uint32_t name, uint32_t pages)
{
    struct kept *k = &kept[sim_thread_index()][name];

    snprintf(k->name, sizeof(k->name), "%u-%u", sim_thread_index(), name);
    return reattach(k, pages);
}

struct sim_region *sim_region_reattach_any(void)
{
    for (uint32_t i = 0; i < SIM_THREADS_MAX * SIM_NAMES; i++)
        if (kept[i / SIM_NAMES][i % SIM_NAMES].pages)
            return reattach(&kept[i / SIM_NAMES][i % SIM_NAMES], 1);
    return NULL;
}

bool sim_region_keep(struct sim_region *region, uint32_t name)
{
    struct kept *k = &kept[sim_thread_index()][name];
    uint32_t pages = region->open;
    int error;

    sim_machine_take();
    region->open = 0; /* whoever blunders in now waits, and then finds nothing */
    sim_machine_drop();
    sim_event("keep region", region->serial, pages);
    error = weir_unmap_keep((void *)(uintptr_t)region->addr);
    sim_event("kept region", region->serial, (uint64_t)-error);
    if (error != WEIR_OK && error != WEIR_ENOMEM && !sim.profile.may_refuse)
        sim_fail("unmap keep gave %s", weir_error_name(error));
    if (error == WEIR_OK) {
        k->pages = pages;
        k->page = region->page;
        return true;
    }
    sim_machine_take();
    region->open = pages;
    sim_machine_drop();
    return false;
}

void sim_region_audit(const struct sim_region *region)
{
    sim_audit(region->addr);
}

uint32_t sim_region_pages(const struct sim_region *region)
{
    return region->pages;
}

static uint64_t addr_of(const struct sim_region *region, uint32_t page)
{
    return region->addr + page * SIM_PAGE;
}

/* The area that the region still is; another may have its addresses now. */
static struct sim_area *area_of(const struct sim_region *region)
{
    struct sim_area *area = sim_area_find(region->addr);

    return area && area->serial == region->serial && !area->is_sealed ? area : NULL;
}

/* --- What a page holds ----------------------------------------------------------------------- */

static uint64_t *word_of(const struct sim_area *area, uint32_t page, uint32_t word)
{
    uint32_t at = word < SIM_WORDS / 2 ? word : (uint32_t)(SIM_PAGE / 8) - SIM_WORDS + word;

    return (uint64_t *)(void *)(area->bytes + page * SIM_PAGE) + at;
}

static void judge(const struct sim_region *region, const struct sim_area *area, uint32_t page)
{
    struct expected *e = &region->page[page];

    for (uint32_t i = 0; i < SIM_WORDS; i++) {
        uint64_t found = *word_of(area, page, i);

        if (found == e->word[i])
            continue;
        /* While it is unmapped by one thread, another that should not may meet zeros; but an
         * object outlives its views. */
        if (found != 0 || !(e->is_maybe || (region->is_going && !region->is_view)))
            sim_fail("WRONG: region %llu page %u word %u holds %llx, expected %llx%s",
                     (unsigned long long)region->serial, page, i, (unsigned long long)found,
                     (unsigned long long)e->word[i], e->is_maybe ? " or zero" : "");
        e->word[i] = 0;
    }
}

/* A store has reached the page, which was judged: what it holds is what it holds. */
static void settle(struct expected *e)
{
    e->stores++;
    if (e->hints == 0)
        e->is_maybe = false;
}

static void change(const struct sim_region *region, const struct sim_area *area, uint32_t page,
                   bool zero)
{
    struct expected *e = &region->page[page];
    uint32_t one = (uint32_t)sim_below(SIM_WORDS);

    for (uint32_t i = 0; i < SIM_WORDS; i++) {
        if (!zero && i != one)
            continue;
        e->word[i] = zero ? 0 : ++last_value << 16 | region->serial;
        *word_of(area, page, i) = e->word[i];
    }
    settle(e);
}

/* --- The touch ------------------------------------------------------------------------------- */

/* With the machine taken. True: it went through. */
static bool try_access(const struct sim_region *region, struct sim_area *area, uint32_t page,
                       bool store, bool zero)
{
    const struct sim_entry *entry = &area->entries[page];

    if (!entry->is_present || (store && entry->is_protected))
        return false;
    judge(region, area, page);
    if (store) {
        sim_area_own(area, page);
        change(region, area, page, zero);
    }
    return true;
}

static enum sim_touched touch(struct sim_region *region, uint32_t page, bool store, bool zero)
{
    for (uint32_t traps = 0; traps < TRAPS_MAX; traps++) {
        struct wr_touch one = {0, store ? WR_ACCESS_WRITE : WR_ACCESS_READ, WR_PAGE_ABSENT};
        struct sim_area *area;
        bool is_done = false;

        sim_point();
        sim_machine_take();
        one.addr = addr_of(region, page); /* it may have moved */
        area = area_of(region);
        if (area && page >= area->pages - area->guarded)
            area = NULL; /* SIGSEGV */
        if (area) {
            is_done = try_access(region, area, page, store, zero);
            if (area->entries[page].is_present)
                one.presence = WR_PAGE_PRESENT;
        }
        sim_machine_drop();
        if (is_done)
            return SIM_TOUCHED;
        if (!area)
            return SIM_NOT_THERE;
        if (sim.profile.is_shy) {
            one.access = WR_ACCESS_UNKNOWN;
            one.presence = WR_PRESENCE_UNKNOWN;
        }
        sim_event(store ? "trap store" : "trap load", region->serial, page);
        if (wr_fault_on_touch(&one) == WR_TRAP_REFUSED)
            return SIM_REFUSED;
    }
    sim_fail("a touch of page %u traps without end", page);
}

static enum sim_touched told(struct sim_region *region, uint32_t page, enum sim_touched touched)
{
    __atomic_fetch_add(&sim.result->operations, 1, __ATOMIC_RELAXED);
    if (touched == SIM_TOUCHED)
        return touched;
    sim_event(touched == SIM_REFUSED ? "refused" : "not there", region->serial, page);
    if (touched == SIM_REFUSED) {
        __atomic_fetch_add(&sim.result->refused, 1, __ATOMIC_RELAXED);
        if (!sim.profile.may_refuse)
            sim_fail("a touch of page %u was refused, and nothing was injected", page);
    } else if (!region->is_going && page < region->open) {
        sim_fail("page %u is not there, and nobody unmapped it", page);
    }
    return touched;
}

enum sim_touched sim_load(struct sim_region *region, uint32_t page)
{
    return told(region, page, touch(region, page, false, false));
}

enum sim_touched sim_store(struct sim_region *region, uint32_t page, bool zero)
{
    return told(region, page, touch(region, page, true, zero));
}

/* --- Hints ----------------------------------------------------------------------------------- */

static void hint_begins(struct sim_region *region, uint32_t page, uint32_t count, uint32_t *stores)
{
    sim_machine_take();
    for (uint32_t i = 0; i < count; i++) {
        struct expected *e = &region->page[page + i];

        e->hints++;
        e->is_maybe = true;
        stores[i] = e->stores;
    }
    sim_machine_drop();
}

static void hint_ends(struct sim_region *region, uint32_t page, uint32_t count,
                      const uint32_t *stores, bool is_zero)
{
    sim_machine_take();
    for (uint32_t i = 0; i < count; i++) {
        struct expected *e = &region->page[page + i];

        e->hints--;
        if (!is_zero || stores[i] != e->stores)
            continue;
        memset(e->word, 0, sizeof(e->word));
        if (e->hints == 0)
            e->is_maybe = false;
    }
    sim_machine_drop();
}

uint32_t sim_region_resize(struct sim_region *region, uint32_t pages)
{
    uint32_t before = region->open, from = before < pages ? before : pages;
    uint32_t count = before - from;
    uint32_t *stores = calloc(count + 1, sizeof(*stores));
    int error;

    if (!stores)
        sim_fail("no real memory for the oracle");
    hint_begins(region, from, count, stores);
    sim_machine_take();
    region->open = from;
    sim_machine_drop();
    sim_event("resize region", region->serial, pages);
    error = weir_resize((void *)(uintptr_t)region->addr, pages * SIM_PAGE);
    sim_event("resized", region->serial, (uint64_t)-error);
    if (error != WEIR_OK && !(error == WEIR_ENOMEM && sim.profile.no_memory))
        sim_fail("resize gave %s", weir_error_name(error));
    sim_machine_take();
    region->open = error == WEIR_OK ? pages : before;
    sim_machine_drop();
    hint_ends(region, from, count, stores, error == WEIR_OK);
    free(stores);
    return region->open;
}

void sim_region_move(struct sim_region *region, uint32_t reserve)
{
    struct sim_area *area;
    void *moved = NULL;
    int error;

    sim_machine_take();
    region->open = 0; /* whoever blunders in now waits, and then finds nothing */
    sim_machine_drop();
    sim_event("move region", region->serial, reserve);
    error = weir_move((void *)(uintptr_t)region->addr, reserve * SIM_PAGE, &moved);
    sim_event("moved region", region->serial, (uint64_t)-error);
    if (error != WEIR_OK && error != WEIR_ENOMEM && !sim.profile.may_refuse)
        sim_fail("move gave %s", weir_error_name(error));
    sim_machine_take();
    if (error == WEIR_OK) {
        region->addr = (uintptr_t)moved;
        area = sim_area_find(region->addr);
        region->serial = area->serial;
    }
    region->open = region->pages;
    sim_machine_drop();
}

/* Neither a page that a device holds without a pin: what it writes might go nowhere. */
static bool is_held(struct sim_region *region, uint32_t page, uint32_t count)
{
    bool is_held = false;

    sim_machine_take();
    for (uint32_t i = 0; i < count; i++)
        is_held |= region->page[page + i].devices > 0;
    sim_machine_drop();
    return is_held;
}

void sim_advise(struct sim_region *region, uint32_t page, uint32_t count, enum weir_hint hint)
{
    bool takes = hint == WEIR_DISCARD || hint == WEIR_FREE;
    uint32_t stores[RANGE_MAX];
    int error;

    if (count > RANGE_MAX)
        count = RANGE_MAX;
    if (takes && is_held(region, page, count))
        return;
    if (takes)
        hint_begins(region, page, count, stores);
    sim_event("advise", (uint64_t)hint, (uint64_t)page << 32 | count);
    error = weir_advise((void *)(uintptr_t)addr_of(region, page), count * SIM_PAGE, hint);
    if (takes)
        hint_ends(region, page, count, stores, hint == WEIR_DISCARD && error == WEIR_OK);
    sim_event("advised", (uint64_t)-error, page);
    if (error != WEIR_OK && !(error == WEIR_EBUSY && hint == WEIR_DISCARD) &&
        !(error == WEIR_EINVAL && region->is_going))
        sim_fail("advise gave %s", weir_error_name(error));
}

void sim_foreign_drop(struct sim_region *region, uint32_t page, uint32_t count)
{
    for (uint32_t i = page; i < page + count; i++) {
        struct expected *e = &region->page[i];
        struct sim_area *area;

        sim_point();
        sim_machine_take();
        area = area_of(region);
        if (area && e->pins == 0 && e->devices == 0 && area->entries[i].is_present) {
            sim_event("foreign drop", region->serial, i);
            sim_area_drop(area, i);
            e->is_maybe |= !region->is_view; /* there it unmaps from one view, and loses nothing */
        }
        sim_machine_drop();
    }
}

/* --- Pins and devices ------------------------------------------------------------------------ */

static void count_pins(struct sim_region *region, uint32_t page, uint32_t count, int change_by)
{
    sim_machine_take();
    for (uint32_t i = 0; i < count; i++)
        region->page[page + i].pins = (uint16_t)(region->page[page + i].pins + change_by);
    sim_machine_drop();
}

/* A device reads or writes a page that it may rely on. */
static void device_access(struct sim_region *region, uint32_t page, uint32_t frame, bool is_write)
{
    struct sim_area *area;

    sim_point();
    sim_machine_take();
    area = area_of(region);
    if (!area || !area->entries[page].is_present || area->entries[page].frame != frame)
        sim_fail("page %u was taken away from under a pin", page);
    judge(region, area, page);
    if (is_write)
        change(region, area, page, false);
    sim_machine_drop();
}

static uint32_t device_attach(struct sim_region *region, uint32_t page, bool is_write)
{
    struct sim_area *area;
    uint32_t frame;

    sim_machine_take();
    area = area_of(region);
    if (!area || !area->entries[page].is_present)
        sim_fail("page %u is pinned but not there", page);
    if (is_write && area->entries[page].is_protected)
        sim_fail("page %u is pinned for a device's stores but protected", page);
    /* To read, too: who keeps a page for long gets one of the program's own (FOLL_LONGTERM). */
    sim_area_own(area, page);
    frame = area->entries[page].frame;
    sim_machine_drop();
    return frame;
}

static void use_pinned(struct sim_region *region, uint32_t page, uint32_t count, bool is_write)
{
    uint32_t frames[RANGE_MAX];

    for (uint32_t i = 0; i < count; i++)
        frames[i] = device_attach(region, page + i, is_write);
    for (uint32_t rounds = 1 + (uint32_t)sim_below(3); rounds > 0; rounds--) {
        sim_sleep(1 + sim_below(50000));
        for (uint32_t i = 0; i < count; i++)
            device_access(region, page + i, frames[i], is_write);
    }
}

void sim_pin(struct sim_region *region, uint32_t page, uint32_t count, enum weir_access access)
{
    void *address = (void *)(uintptr_t)addr_of(region, page);
    int error;

    sim_event("pin", region->serial, (uint64_t)page << 32 | count);
    count_pins(region, page, count, 1);
    error = weir_pin(address, count * SIM_PAGE, access);
    sim_event("pinned", (uint64_t)-error, page);
    if (error == WEIR_OK) {
        use_pinned(region, page, count, access == WEIR_WRITE);
        error = weir_unpin(address, count * SIM_PAGE);
        if (error != WEIR_OK)
            sim_fail("unpin gave %s", weir_error_name(error));
    } else if (!sim.profile.may_refuse) {
        sim_fail("pin gave %s, and nothing was injected", weir_error_name(error));
    }
    count_pins(region, page, count, -1);
}

void sim_device(struct sim_region *region, uint32_t page)
{
    struct expected *e = &region->page[page];
    struct sim_area *area;
    struct sim_entry *entry;
    bool is_held;

    sim_machine_take();
    area = area_of(region);
    entry = area ? &area->entries[page] : NULL;
    is_held = entry && entry->is_present && !entry->is_protected && !entry->is_zero &&
              e->hints == 0 && !e->is_maybe;
    if (is_held) {
        entry->devices++;
        e->devices++;
    }
    sim_machine_drop();
    if (!is_held)
        return;
    sim_event("device", region->serial, page);
    sim_sleep(1 + sim_below(200000));
    sim_machine_take();
    judge(region, area, page);
    change(region, area, page, false);
    entry->devices--;
    e->devices--;
    sim_machine_drop();
}
