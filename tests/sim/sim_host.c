/* SPDX-License-Identifier: MIT */

/*
 * The kernel: page tables, frames, bells. What runtime/host/host.h promises, with an interleaving
 * point between any two things that a kernel does apart, and with its rare answers.
 */

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/sim/sim_object.h"

#define AREAS_MAX  72u
#define AREA_FIRST ((uint64_t)1 << 40)
#define AREA_ALIGN ((uint64_t)2 << 20)
#define WP_GROUP   32u /* pages that are in two places at once while the wp engine copies them */

static struct wr_host host;
static struct sim_area areas[AREAS_MAX]; /* addr 0: free */
static uint64_t area_serial;
static uint8_t *staged; /* of each staging frame: does it hold a page? */
static uint32_t staging_pages;
static uint64_t frames_bytes;
static uint32_t mapped_count, staged_count, slip_count;

/* --- Areas ----------------------------------------------------------------------------------- */

static uint64_t area_span(const struct sim_area *area)
{
    return (area->pages * SIM_PAGE + AREA_ALIGN - 1) & ~(AREA_ALIGN - 1);
}

struct sim_area *sim_area_find(uint64_t addr)
{
    for (uint32_t i = 0; i < AREAS_MAX; i++)
        if (areas[i].addr && addr >= areas[i].addr &&
            addr - areas[i].addr < areas[i].pages * SIM_PAGE)
            return &areas[i];
    return NULL;
}

/* The lowest addresses that are free: the next region comes where the last one was. */
static uint64_t free_addresses(uint64_t span)
{
    uint64_t addr = AREA_FIRST;

    for (uint32_t i = 0; i < AREAS_MAX; i++)
        if (areas[i].addr && areas[i].addr < addr + span &&
            addr < areas[i].addr + area_span(&areas[i])) {
            addr = areas[i].addr + area_span(&areas[i]);
            i = UINT32_MAX; /* begin again */
        }
    return addr;
}

uint64_t sim_area_add(struct sim_area made)
{
    uint32_t i = 0;

    made.entries = calloc(made.pages, sizeof(*made.entries));
    if (made.bytes == MAP_FAILED || !made.entries)
        sim_fail("no real memory for a region");
    sim_machine_take();
    while (i < AREAS_MAX && areas[i].addr)
        i++;
    if (i == AREAS_MAX)
        sim_fail("too many regions");
    made.addr = free_addresses(area_span(&made));
    made.serial = ++area_serial;
    areas[i] = made;
    sim_machine_drop();
    sim_event("region map", made.addr, made.pages);
    return made.addr;
}

struct sim_area *sim_area_at(uint32_t i)
{
    return i < AREAS_MAX ? &areas[i] : NULL;
}

static int fake_region_map(struct wr_host *h, uint64_t bytes, uint64_t *addr_p)
{
    (void)h;
    sim_point();
    *addr_p = sim_area_add((struct sim_area){
        .pages = (uint32_t)(bytes / SIM_PAGE),
        .bytes = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
    });
    return WEIR_OK;
}

/* A view's frames are its object's. */
static void unmap_entry(const struct sim_area *area, struct sim_entry *entry)
{
    if (entry->is_present && !entry->is_zero && !area->object)
        mapped_count--;
    entry->is_present = entry->is_protected = entry->is_zero = false;
    entry->frame++;
}

static struct sim_area *area_that_begins(uint64_t addr, uint64_t bytes)
{
    struct sim_area *area = sim_area_find(addr);

    if (!area || area->addr != addr || area->pages * SIM_PAGE != bytes)
        sim_fail("no region begins at %llx", (unsigned long long)addr);
    return area;
}

static int fake_region_guard(struct wr_host *h, uint64_t addr, uint64_t bytes, bool on)
{
    struct sim_area *area;
    uint32_t pages = (uint32_t)(bytes / SIM_PAGE);

    (void)h;
    sim_point();
    sim_event(on ? "guard" : "unguard", addr, pages);
    if (sim_inject(sim.profile.no_memory))
        return WEIR_ENOMEM;
    sim_machine_take();
    area = sim_area_find(addr);
    if (!area || area->is_sealed)
        sim_fail("a guard where no region is");
    area->guarded = (uint32_t)(area->pages - (addr - area->addr) / SIM_PAGE) - (on ? 0 : pages);
    sim_machine_drop();
    return WEIR_OK;
}

static void fake_region_seal(struct wr_host *h, uint64_t addr, uint64_t bytes)
{
    struct sim_area *area;

    (void)h;
    sim_point();
    sim_machine_take();
    area = area_that_begins(addr, bytes);
    for (uint32_t i = 0; i < area->pages; i++)
        unmap_entry(area, &area->entries[i]);
    area->is_sealed = true;
    sim_machine_drop();
    sim_event("region seal", addr, 0);
}

static void fake_region_unmap(struct wr_host *h, uint64_t addr, uint64_t bytes)
{
    struct sim_area *area, gone;

    (void)h;
    sim_point();
    sim_machine_take();
    area = area_that_begins(addr, bytes);
    for (uint32_t i = 0; i < area->pages; i++)
        unmap_entry(area, &area->entries[i]);
    gone = *area;
    area->addr = 0;
    sim_machine_drop();
    if (!gone.object)
        munmap(gone.bytes, bytes);
    free(gone.entries);
    sim_event("region unmap", addr, 0);
}

/* --- Frames ---------------------------------------------------------------------------------- */

uint32_t sim_frames_mapped(void)
{
    return mapped_count;
}

uint32_t sim_frames_staged(void)
{
    return staged_count;
}

/* The law of the budget: the kernel has never given out more than the runtime has counted. */
void sim_check_budget(void)
{
    const struct wr_frames *frames;
    int64_t counted, given;

    if (!sim.rt || sim.options.is_free || atomic_load(&sim.resizes))
        return;
    frames = &sim.rt->space.frames;
    counted = atomic_load_explicit(&frames->total, memory_order_relaxed) - wr_frames_free(frames);
    given = (int64_t)mapped_count + staged_count;
    if (given > counted + slip_count +
                    (sim.options.engine == SIM_MOVE ? sim_object_copies() : host.transient_frames))
        sim_fail("the kernel gave %lld frames, the runtime counts %lld", (long long)given,
                 (long long)counted);
}

static int fake_frames_map(struct wr_host *h, uint32_t slab_pages, uint32_t staging)
{
    frames_bytes = ((uint64_t)slab_pages + staging) * SIM_PAGE;
    h->frames = mmap(NULL, frames_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    staged = calloc(staging, 1);
    if (h->frames == MAP_FAILED || !staged)
        sim_fail("no real memory for frames");
    h->slab_pages = slab_pages;
    staging_pages = staging;
    return WEIR_OK;
}

static void fake_frames_unmap(struct wr_host *h)
{
    if (h->frames)
        munmap(h->frames, frames_bytes);
    free(staged);
    staged = NULL;
    h->frames = NULL;
}

/* Its number among the staging frames, or UINT32_MAX. */
static uint32_t staging_index(const void *bytes)
{
    uintptr_t first = (uintptr_t)wr_host_frame(&host, host.slab_pages);
    uintptr_t at = (uintptr_t)bytes;

    if (at < first || at >= first + staging_pages * SIM_PAGE)
        return UINT32_MAX;
    return (uint32_t)((at - first) / SIM_PAGE);
}

bool sim_frame_is_empty(const void *bytes)
{
    uint32_t index = staging_index(bytes);

    return index != UINT32_MAX && !staged[index];
}

static const _Alignas(4096) uint8_t zero_page[SIM_PAGE];

void sim_frames_count(int change)
{
    mapped_count += (uint32_t)change;
    sim_check_budget();
}

void sim_staging_fill(uint32_t frame, const void *bytes)
{
    uint32_t index = frame - host.slab_pages;

    if (frame < host.slab_pages || index >= staging_pages)
        sim_fail("frame %u is not of staging", frame);
    if (staged[index])
        sim_fail("staging frame %u is given a page, but holds one", frame);
    staged[index] = 1;
    staged_count++;
    sim_copy_page(wr_host_frame(&host, frame), bytes);
}

/* Each page at a time of its own: what is released or filled between them, shows. */
static const uint8_t *fake_look(struct wr_host *h, uint32_t frame, uint32_t pages, uint8_t *room)
{
    sim_event("look", frame, pages);
    if (frame < h->slab_pages || frame + pages > h->slab_pages + staging_pages)
        sim_fail("a look at frame %u, which is not of staging", frame);
    for (uint32_t i = 0; i < pages; i++) {
        sim_point();
        sim_machine_take();
        sim_copy_page(room + i * SIM_PAGE, wr_host_frame(h, frame + i));
        sim_machine_drop();
    }
    return room;
}

static void fake_release(struct wr_host *h, uint32_t frame, uint32_t pages)
{
    sim_event("release", frame, pages);
    for (uint32_t i = 0; i < pages; i++) {
        uint32_t index = frame + i - h->slab_pages;

        sim_point();
        sim_machine_take();
        if (frame < h->slab_pages || index >= staging_pages)
            sim_fail("release of frame %u, which is not of staging", frame + i);
        staged_count -= staged[index];
        staged[index] = 0;
        sim_fill_page(wr_host_frame(h, frame + i), 0);
        sim_machine_drop();
    }
}

static enum wr_hosted fake_stage(struct wr_host *h, uint32_t frame, const void *bytes)
{
    (void)h;
    sim_event("stage", frame, 0);
    sim_point();
    if (sim_inject(sim.profile.no_memory))
        return WR_HOST_NOMEM;
    sim_machine_take();
    sim_staging_fill(frame, bytes);
    sim_check_budget();
    sim_machine_drop();
    return WR_HOST_OK;
}

/* As far as the kernel had memory: what it gave stays until it is released. */
static enum wr_hosted fake_populate(struct wr_host *h, uint32_t frame, uint32_t pages)
{
    sim_event("populate", frame, pages);
    for (uint32_t i = 0; i < pages; i++) {
        sim_point();
        if (sim_inject(sim.profile.no_memory))
            return WR_HOST_NOMEM;
        sim_machine_take();
        sim_staging_fill(frame + i, zero_page);
        sim_check_budget();
        sim_machine_drop();
    }
    (void)h;
    return WR_HOST_OK;
}

/* --- Mapping --------------------------------------------------------------------------------- */

/* The entry of an address; NULL: the kernel would say that nothing of ours is there. */
static struct sim_entry *entry_of(uint64_t addr, struct sim_area **area_p)
{
    struct sim_area *area = sim_area_find(addr);

    *area_p = area;
    return area && !area->is_sealed ? &area->entries[(addr - area->addr) / SIM_PAGE] : NULL;
}

static uint8_t *bytes_of(const struct sim_area *area, uint64_t addr)
{
    return area->bytes + ((addr - area->addr) & ~(SIM_PAGE - 1));
}

static void map_entry(const struct sim_area *area, struct sim_entry *entry, bool is_zero,
                      bool is_protected)
{
    entry->is_present = true;
    entry->is_zero = is_zero;
    entry->is_protected = is_protected;
    entry->frame++;
    mapped_count += !is_zero && !area->object;
}

/* Whoever unmaps has waited for those who serve touches. */
static void check_not_sealed(const struct sim_area *area)
{
    if (area && area->is_sealed)
        sim_fail("a touch is served where everything is unmapped");
}

static enum wr_hosted place_one(uint64_t addr, const uint8_t *bytes, bool protect)
{
    enum wr_hosted result = WR_HOST_OK;
    struct sim_area *area;
    struct sim_entry *entry;

    sim_machine_take();
    entry = entry_of(addr, &area);
    check_not_sealed(area);
    if (!entry) {
        result = WR_HOST_GONE;
    } else if (entry->is_present ||
               (area->object && !sim_object_add(area->object, bytes_of(area, addr)))) {
        result = WR_HOST_EXISTS;
    } else {
        if (sim_frame_is_empty(bytes))
            sim_fail("a page is filled from an empty staging frame");
        sim_copy_page(bytes_of(area, addr), bytes);
        map_entry(area, entry, false, protect);
        sim_check_budget();
    }
    sim_machine_drop();
    return result;
}

static enum wr_hosted fake_place(struct wr_host *h, uint64_t addr, const void *bytes,
                                 uint32_t pages, bool protect, uint32_t *done_p)
{
    enum wr_hosted result = WR_HOST_OK;

    (void)h;
    sim_event(protect ? "place protected" : "place", addr, pages);
    for (*done_p = 0; *done_p < pages && result == WR_HOST_OK;) {
        sim_point();
        if (sim_inject(sim.profile.no_memory))
            result = WR_HOST_NOMEM;
        else
            result = place_one(addr + *done_p * SIM_PAGE,
                               (const uint8_t *)bytes + *done_p * SIM_PAGE, protect);
        *done_p += result == WR_HOST_OK;
    }
    return result;
}

static void fake_drop(struct wr_host *h, const struct wr_span *spans, uint32_t count)
{
    (void)h;
    for (uint32_t i = 0; i < count; i++) {
        sim_event("drop", spans[i].addr, spans[i].pages);
        for (uint32_t k = 0; k < spans[i].pages; k++) {
            struct sim_area *area;
            struct sim_entry *entry;

            sim_point();
            sim_machine_take();
            entry = entry_of(spans[i].addr + k * SIM_PAGE, &area);
            if (!area)
                sim_fail("a drop of addresses that are nobody's, and soon another's");
            if (entry)
                unmap_entry(area, entry);
            sim_machine_drop();
        }
    }
}

static enum wr_hosted fake_protect(struct wr_host *h, uint64_t addr, uint32_t pages, bool on)
{
    enum wr_hosted result = WR_HOST_OK;

    (void)h;
    sim_event(on ? "protect" : "unprotect", addr, pages);
    if (sim_inject(sim.profile.no_memory))
        return WR_HOST_NOMEM;
    for (uint32_t i = 0; i < pages && result == WR_HOST_OK; i++) {
        struct sim_area *area;
        struct sim_entry *entry;

        sim_point();
        sim_machine_take();
        entry = entry_of(addr + i * SIM_PAGE, &area);
        if (area && area->object && !host.protects_views)
            sim_fail("a view is protected or not, where it cannot be");
        if (!entry)
            result = WR_HOST_GONE;
        else if (entry->is_present)
            entry->is_protected = on;
        sim_machine_drop();
    }
    return result;
}

/* Protect what was mapped, as far as the kernel will. Which pages are not protected zeros now? */
static uint64_t protect_zeros(uint64_t addr, uint32_t pages)
{
    uint64_t owned = 0;

    if (sim_inject(sim.profile.no_memory))
        return UINT64_MAX;
    for (uint32_t i = 0; i < pages; i++) {
        struct sim_area *area;
        struct sim_entry *entry;

        sim_point();
        sim_machine_take();
        entry = entry_of(addr + i * SIM_PAGE, &area);
        if (entry && entry->is_present) {
            entry->is_protected = true;
            if (!entry->is_zero)
                owned |= 1ull << i;
        }
        sim_machine_drop();
    }
    return owned;
}

static enum wr_hosted fake_place_zero(struct wr_host *h, uint64_t addr, uint32_t pages,
                                      uint32_t *done_p, uint64_t *owned_p)
{
    enum wr_hosted result = WR_HOST_OK;
    uint32_t done = 0;

    sim_event("place zero", addr, pages);
    while (done < pages && result == WR_HOST_OK) {
        struct sim_area *area;
        struct sim_entry *entry;

        sim_point();
        if (sim_inject(sim.profile.no_memory)) {
            result = WR_HOST_NOMEM;
            break;
        }
        sim_machine_take();
        entry = entry_of(addr + done * SIM_PAGE, &area);
        if (entry && !entry->is_present) {
            map_entry(area, entry, true, false);
            sim_fill_page(bytes_of(area, addr + done * SIM_PAGE), 0);
            done++;
        } else {
            result = entry ? WR_HOST_EXISTS : WR_HOST_GONE;
        }
        sim_machine_drop();
    }
    /* Here a store may slip in. */
    *owned_p = done > 0 ? protect_zeros(addr, done) : 0;
    *done_p = done;
    (void)h;
    return result;
}

void sim_area_own(struct sim_area *area, uint32_t page)
{
    struct sim_entry *entry = &area->entries[page];

    if (!entry->is_zero)
        return;
    entry->is_zero = false;
    entry->frame++;
    mapped_count++;
    slip_count++;
    sim_event("own frame", area->addr, page);
}

void sim_area_drop(struct sim_area *area, uint32_t page)
{
    unmap_entry(area, &area->entries[page]);
}

enum wr_hosted sim_area_reveal(uint64_t addr, bool protect)
{
    struct sim_area *area;
    struct sim_entry *entry = entry_of(addr, &area);

    check_not_sealed(area);
    if (!entry || !area->object)
        return WR_HOST_GONE;
    if (!sim_object_has(area->object, bytes_of(area, addr)))
        return WR_HOST_HOLE;
    if (entry->is_present)
        return WR_HOST_EXISTS;
    map_entry(area, entry, false, protect);
    return WR_HOST_OK;
}

/* --- Taking away ----------------------------------------------------------------------------- */

static enum wr_revoked move_one(const struct wr_revoke *one)
{
    enum wr_revoked result = WR_REVOKED;
    struct sim_area *area;
    struct sim_entry *entry;

    sim_point();
    if (sim_inject(sim.profile.revoke_fails))
        return WR_REVOKE_FAILED;
    sim_machine_take();
    entry = entry_of(one->addr, &area);
    if (!entry || !entry->is_present) {
        result = WR_REVOKE_MISSING;
    } else if (entry->devices) {
        result = WR_REVOKE_PINNED;
    } else {
        sim_staging_fill(one->frame, bytes_of(area, one->addr));
        unmap_entry(area, entry);
        sim_check_budget();
    }
    sim_machine_drop();
    return result;
}

static enum wr_revoked copy_out(const struct wr_revoke *one)
{
    enum wr_revoked result = WR_REVOKED;
    struct sim_area *area;
    struct sim_entry *entry;

    sim_point();
    if (sim_inject(sim.profile.revoke_fails))
        return WR_REVOKE_FAILED;
    sim_machine_take();
    entry = entry_of(one->addr, &area);
    if (entry && entry->is_present) {
        sim_staging_fill(one->frame, bytes_of(area, one->addr));
        sim_check_budget();
    } else {
        result = WR_REVOKE_MISSING;
    }
    sim_machine_drop();
    return result;
}

static void copy_and_drop(struct wr_host *h, struct wr_revoke *list, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (list[i].result == WR_REVOKED)
            list[i].result = copy_out(&list[i]);
    for (uint32_t i = 0; i < count; i++) {
        const struct wr_span span = {list[i].addr, 1};

        if (list[i].result == WR_REVOKED)
            fake_drop(h, &span, 1);
    }
}

/* One page: by the move engine in one step; else copied under protection, and in two places. */
static enum wr_revoked relocate_one(struct wr_host *h, uint64_t from, uint64_t to)
{
    const struct wr_span span = {from, 1};
    struct sim_area *area, *target;
    struct sim_entry *entry, *next;
    enum wr_revoked result = WR_REVOKED;

    sim_point();
    if (sim_inject(sim.profile.revoke_fails))
        return WR_REVOKE_FAILED;
    if (h->relocates_by_copy && fake_protect(h, from, 1, true) != WR_HOST_OK)
        return WR_REVOKE_FAILED;
    sim_machine_take();
    entry = entry_of(from, &area);
    next = entry_of(to, &target);
    if (!area || !next || next->is_present)
        sim_fail("a page goes where it cannot");
    if (!entry || !entry->is_present) {
        result = WR_REVOKE_MISSING;
    } else if (!h->relocates_by_copy && entry->devices) {
        result = WR_REVOKE_PINNED;
    } else {
        sim_copy_page(bytes_of(target, to), bytes_of(area, from));
        if (!h->relocates_by_copy)
            unmap_entry(area, entry);
        map_entry(target, next, false, false);
        sim_check_budget();
    }
    sim_machine_drop();
    if (result == WR_REVOKED && h->relocates_by_copy)
        fake_drop(h, &span, 1);
    return result;
}

static enum wr_revoked fake_relocate(struct wr_host *h, uint64_t from, uint64_t to, uint32_t pages,
                                     uint32_t *done_p)
{
    enum wr_revoked result = WR_REVOKED;

    sim_event("relocate", from, pages);
    for (*done_p = 0; *done_p < pages && result == WR_REVOKED; *done_p += result == WR_REVOKED)
        result = relocate_one(h, from + *done_p * SIM_PAGE, to + *done_p * SIM_PAGE);
    return result;
}

static void fake_revoke(struct wr_host *h, struct wr_revoke *list, uint32_t count)
{
    sim_event("revoke", list[0].addr, count);
    for (uint32_t done = 0; done < count;) {
        uint32_t part = count - done < WP_GROUP ? count - done : WP_GROUP;

        if (sim.options.engine == SIM_MOVE) {
            list[done].result = move_one(&list[done]);
            done++;
            continue;
        }
        for (uint32_t i = 0; i < part; i++)
            list[done + i].result = sim.options.engine == SIM_NAIVE ||
                                            fake_protect(h, list[done + i].addr, 1, true) ==
                                                WR_HOST_OK
                                        ? WR_REVOKED
                                        : WR_REVOKE_FAILED;
        copy_and_drop(h, list + done, part);
        done += part;
    }
}

static uint32_t fake_copy(struct wr_host *h, const struct wr_copy *list, uint32_t count)
{
    sim_event("copy", list[0].addr, count);
    for (uint32_t i = 0; i < count; i++) {
        struct sim_area *area;
        struct sim_entry *entry;
        bool is_there;

        sim_point();
        if (sim_inject(sim.profile.copy_stops))
            return i;
        sim_machine_take();
        entry = entry_of(list[i].addr, &area);
        is_there = entry && entry->is_present;
        if (list[i].frame >= h->slab_pages)
            sim_fail("frame %u is not of the slab", list[i].frame);
        if (is_there)
            sim_copy_page(wr_host_frame(h, list[i].frame), bytes_of(area, list[i].addr));
        sim_machine_drop();
        if (!is_there)
            return i;
    }
    return count;
}

static bool fake_is_mapped(struct wr_host *h, uint64_t addr)
{
    struct sim_area *area;
    struct sim_entry *entry;
    bool is_mapped;

    (void)h;
    sim_point();
    sim_machine_take();
    entry = entry_of(addr, &area);
    is_mapped = entry && entry->is_present;
    sim_machine_drop();
    return is_mapped;
}

static int fake_facts(struct wr_host *h, uint64_t addr, uint32_t pages, uint8_t *facts)
{
    (void)h;
    for (uint32_t i = 0; i < pages; i++) {
        struct sim_area *area;
        struct sim_entry *entry;

        sim_point();
        sim_machine_take();
        entry = entry_of(addr + i * SIM_PAGE, &area);
        facts[i] = 0;
        if (entry && entry->is_present)
            facts[i] = (uint8_t)(WR_FACT_PRESENT | (entry->is_protected ? 0 : WR_FACT_WRITABLE) |
                                 (entry->is_zero ? WR_FACT_ZERO_PAGE : 0));
        sim_machine_drop();
    }
    return WEIR_OK;
}

static void fake_close(struct wr_host *h)
{
    (void)h;
}

static struct wr_host_ops fake_ops = {
    .frames_map = fake_frames_map,
    .frames_unmap = fake_frames_unmap,
    .region_map = fake_region_map,
    .region_guard = fake_region_guard,
    .region_seal = fake_region_seal,
    .region_unmap = fake_region_unmap,
    .place = fake_place,
    .place_zero = fake_place_zero,
    .protect = fake_protect,
    .revoke = fake_revoke,
    .copy = fake_copy,
    .relocate = fake_relocate,
    .drop = fake_drop,
    .stage = fake_stage,
    .populate = fake_populate,
    .look = fake_look,
    .release = fake_release,
    .is_mapped = fake_is_mapped,
    .facts = fake_facts,
    .close = fake_close,
};

struct wr_host *sim_host_open(void)
{
    sim_object_ops(&fake_ops);
    sim_time_ops(&fake_ops);
    host = (struct wr_host){.ops = &fake_ops,
                            .returns_tables = true,
                            .transient_frames = WP_GROUP,
                            .relocates_by_copy = sim.options.engine != SIM_MOVE,
                            .has_objects = sim.profile.view_count > 0,
                            .protects_views = sim.profile.protects_views,
                            .views_many = sim.profile.views_many,
                            .how = "simulated"};
    return &host;
}

void sim_host_check_closed(void)
{
    for (uint32_t i = 0; i < AREAS_MAX; i++)
        if (areas[i].addr)
            sim_fail("a region is left after close");
    if (sim_bell_count())
        sim_fail("a bell is left after close");
    if (sim_object_count())
        sim_fail("an object is left after close");
    if (host.frames)
        sim_fail("frames are left after close");
    if (sim_threads_alive() != 1)
        sim_fail("%u threads are left after close", sim_threads_alive() - 1);
}
