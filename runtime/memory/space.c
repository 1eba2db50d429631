/* SPDX-License-Identifier: MIT */
#include "runtime/memory/space.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/memory/gate.h"

static uint32_t whole_chunks(uint32_t pages)
{
    return (pages + WR_CHUNK_PAGES - 1) / WR_CHUNK_PAGES * WR_CHUNK_PAGES;
}

/* Position in by_page where the gap before it holds so many pages; the gap's first page. */
static bool find_gap(const struct wr_space *space, uint32_t pages, uint32_t *position_p,
                     uint32_t *first_p)
{
    uint32_t first = 0;

    for (uint32_t i = 0; i <= space->region_count; i++) {
        const struct wr_region *next = i < space->region_count ? space->by_page[i] : NULL;
        uint32_t end = next ? next->first : space->pages.count;

        if (end - first >= pages) {
            *position_p = i;
            *first_p = first;
            return true;
        }
        if (next)
            first = next->first + whole_chunks(next->reserve_pages);
    }
    return false;
}

static uint16_t free_number(const struct wr_space *space)
{
    for (uint16_t i = 1; i <= WR_REGIONS_MAX; i++)
        if (!atomic_load(&space->by_number[i]))
            return i;
    return 0;
}

static void name_range(struct wr_space *space, uint32_t first, uint32_t end, uint16_t number)
{
    for (uint32_t i = first / WR_CHUNK_PAGES; i < end / WR_CHUNK_PAGES; i++) {
        atomic_store(&space->pages.chunks[i].region, number);
        for (uint32_t k = 0; k < WR_CHUNK_HEATS; k++)
            atomic_store_explicit(&space->pages.chunks[i].heat[k], 0, memory_order_relaxed);
    }
}

static void name_chunks(struct wr_space *space, const struct wr_region *region, uint16_t number)
{
    name_range(space, region->first, region->first + whole_chunks(region->reserve_pages), number);
}

static void find_end(struct wr_space *space)
{
    const struct wr_region *last = space->region_count ? space->by_page[space->region_count - 1]
                                                       : NULL;

    atomic_store(&space->chunk_end,
                 last ? (last->first + whole_chunks(last->reserve_pages)) / WR_CHUNK_PAGES : 0);
}

/* An object has no addresses of its own. */
void wr_space_set_place(struct wr_space *space, const struct wr_region *region, bool is_there)
{
    struct wr_place *place = &space->places[region->number];
    uint64_t addr = is_there && !region->object ? region->addr : 0;

    atomic_store_explicit(&place->first, region->first, memory_order_relaxed);
    atomic_store_explicit(&place->pages, region->reserve_pages, memory_order_relaxed);
    atomic_store_explicit(&place->addr, addr, memory_order_relaxed);
}

static void insert(struct wr_space *space, struct wr_region *region, uint32_t position)
{
    memmove(space->by_page + position + 1, space->by_page + position,
            (space->region_count - position) * sizeof(space->by_page[0]));
    space->by_page[position] = region;
    space->region_count++;
    find_end(space);
    atomic_fetch_add(&space->mapped_bytes, region->bytes);
    wr_space_set_place(space, region, true);
    atomic_store_explicit(&space->pages.present[region->number].pages, 0, memory_order_relaxed);
    name_chunks(space, region, region->number);
    /* The chunks name it before it can be found by its number. */
    atomic_store(&space->by_number[region->number], region);
    if (region->number > atomic_load(&space->number_end))
        atomic_store(&space->number_end, region->number);
}

static void remove_region(struct wr_space *space, const struct wr_region *region)
{
    uint32_t i = 0;

    while (space->by_page[i] != region)
        i++;
    space->region_count--;
    memmove(space->by_page + i, space->by_page + i + 1,
            (space->region_count - i) * sizeof(space->by_page[0]));
    find_end(space);
    if (atomic_load(&region->keep) == WR_KEEP_NOT) {
        atomic_fetch_sub(&space->mapped_bytes, region->bytes);
    } else {
        atomic_fetch_sub(&space->kept_bytes, region->bytes);
        atomic_fetch_sub(&space->kept_count, 1);
    }
}

static uint64_t whole_pages(uint64_t bytes)
{
    return bytes / WEIR_PAGE_BYTES + (bytes % WEIR_PAGE_BYTES != 0);
}

int wr_space_map_addresses(struct wr_space *space, uint64_t bytes, uint64_t reserve_bytes,
                           uint64_t *addr_p)
{
    struct wr_host *host = space->host;
    int error = host->ops->region_map(host, reserve_bytes, addr_p);

    if (error != WEIR_OK || bytes == reserve_bytes)
        return error;
    error = host->ops->region_guard(host, *addr_p + bytes, reserve_bytes - bytes, true);
    if (error != WEIR_OK)
        host->ops->region_unmap(host, *addr_p, reserve_bytes);
    return error;
}

/* And let faults find the region. */
static int map_addresses(struct wr_space *space, struct wr_region *region)
{
    struct wr_host *host = space->host;
    uint64_t bytes = region->bytes;
    uint64_t addr;
    int error = wr_space_map_addresses(space, bytes, region->reserve_bytes, &addr);

    if (error != WEIR_OK)
        return error;
    region->addr = addr;
    error = wr_region_publish(region);
    if (error != WEIR_OK)
        host->ops->region_unmap(host, addr, region->reserve_bytes);
    return error;
}

void wr_space_set_end(struct wr_space *space, struct wr_region *region, uint64_t bytes)
{
    atomic_fetch_add(&space->mapped_bytes, bytes - region->bytes);
    atomic_store(&region->bytes, bytes);
    atomic_store(&region->pages, (uint32_t)(bytes / WEIR_PAGE_BYTES));
}

int wr_space_set_reserve(struct wr_space *space, struct wr_region *region, uint32_t pages)
{
    uint32_t end = region->first + whole_chunks(region->reserve_pages), limit, position = 0;

    while (space->by_page[position] != region)
        position++;
    limit = position + 1 < space->region_count ? space->by_page[position + 1]->first
                                               : space->pages.count;
    if (pages > limit - region->first || whole_chunks(pages) > limit - region->first)
        return WEIR_ENOMEM;
    if (region->first + whole_chunks(pages) >= end)
        name_range(space, end, region->first + whole_chunks(pages), region->number);
    else
        name_range(space, region->first + whole_chunks(pages), end, 0);
    region->reserve_pages = pages;
    wr_space_set_place(space, region, true);
    find_end(space);
    return WEIR_OK;
}

bool wr_space_has_room(const struct wr_space *space, uint64_t bytes, uint64_t reserve)
{
    uint64_t pages = whole_pages(bytes > reserve ? bytes : reserve);
    uint32_t position, first;

    return pages > space->pages.count ||
           (free_number(space) != 0 &&
            find_gap(space, whole_chunks((uint32_t)pages), &position, &first));
}

static int map(struct wr_space *space, uint64_t bytes, uint64_t reserve, const char *name,
               struct weir_object *object, uint64_t addr, struct wr_region **region_p)
{
    uint64_t pages = whole_pages(bytes > reserve ? bytes : reserve);
    struct wr_region *region;
    uint32_t position, first;
    int error;

    if (pages > space->pages.count ||
        !find_gap(space, whole_chunks((uint32_t)pages), &position, &first)) {
        wr_event(&space->events, WEIR_FAILURE, WEIR_ENOMEM, 0, 0,
                 "no room for the region: all regions together may span address_space_bytes "
                 "(WEIR_ADDRESS_SPACE)");
        return WEIR_ENOMEM;
    }
    region = aligned_alloc(64, (sizeof(*region) + 63) / 64 * 64);
    if (!region)
        return WEIR_ENOMEM;
    memset(region, 0, sizeof(*region));
    region->space = space;
    region->reserve_bytes = pages * WEIR_PAGE_BYTES;
    region->reserve_pages = (uint32_t)pages;
    region->bytes = whole_pages(bytes) * WEIR_PAGE_BYTES;
    region->pages = (uint32_t)whole_pages(bytes);
    region->first = first;
    region->serial = wr_region_next_serial();
    region->number = free_number(space);
    strncpy(region->name, name ? name : "", sizeof(region->name) - 1);
    region->is_name_cut = name && strlen(name) >= sizeof(region->name);
    region->object = object;
    region->addr = addr;
    error = region->number ? WEIR_OK : WEIR_ENOMEM;
    if (error == WEIR_OK && !object)
        error = map_addresses(space, region);
    if (error != WEIR_OK) {
        wr_event(&space->events, WEIR_FAILURE, error, 0, 0,
                 "the region could not be mapped: look at ulimit -v, vm.overcommit_memory and "
                 "vm.max_map_count; a process has at most 4096 regions");
        free(region);
        return error;
    }
    insert(space, region, position);
    *region_p = region;
    return WEIR_OK;
}

int wr_space_map(struct wr_space *space, uint64_t bytes, uint64_t reserve, const char *name,
                 struct wr_region **region_p)
{
    return map(space, bytes, reserve, name, NULL, 0, region_p);
}

int wr_space_map_object(struct wr_space *space, uint64_t bytes, const char *name,
                        struct weir_object *object, uint64_t addr, struct wr_region **region_p)
{
    return map(space, bytes, bytes, name, object, addr, region_p);
}

void wr_space_readdress(struct wr_space *space, struct wr_region *region, uint64_t addr,
                        uint64_t reserve_bytes)
{
    /* Nowhere meanwhile: the old addresses may be another's. */
    wr_space_set_place(space, region, false);
    wr_region_readdress(region, addr, reserve_bytes);
    wr_space_set_place(space, region, true);
}

void wr_space_abandon(struct wr_space *space, struct wr_region *region)
{
    WR_CHECK(atomic_load(&region->is_going));
    /* Sequentially consistent and before the wait for the gate: whoever enters later sees that the
     * pages have no owner and leaves their descriptors alone. */
    wr_space_set_place(space, region, false);
    name_chunks(space, region, 0);
    atomic_store(&space->by_number[region->number], NULL);
    wr_gate_wait(space->host);
}

void wr_space_unmap(struct wr_space *space, struct wr_region *region)
{
    if (!region->object) {
        /* A thread that still uses it must find what it would find without us, and not a region
         * that is no longer published; and nobody may be given the addresses while it is. */
        space->host->ops->region_seal(space->host, region->addr, region->reserve_bytes);
        if (atomic_load(&region->keep) == WR_KEEP_NOT)
            wr_region_retract(region);
        space->host->ops->region_unmap(space->host, region->addr, region->reserve_bytes);
    }
    wr_pages_forget(&space->pages, region->first, whole_chunks(region->reserve_pages));
}

void wr_space_remove(struct wr_space *space, struct wr_region *region)
{
    remove_region(space, region);
    free(region);
}

/* --- Kept regions ---------------------------------------------------------------------------- */

void wr_space_set_kept(struct wr_space *space, struct wr_region *region, bool is_kept)
{
    wr_space_set_place(space, region, !is_kept);
    if (is_kept) {
        region->kept_at = space->keeps++;
        region->kept_hand = region->first;
        atomic_fetch_add(&space->kept_count, 1);
        atomic_fetch_add(&space->kept_bytes, region->bytes);
        atomic_fetch_sub(&space->mapped_bytes, region->bytes);
    } else {
        atomic_fetch_sub(&space->kept_count, 1);
        atomic_fetch_sub(&space->kept_bytes, region->bytes);
        atomic_fetch_add(&space->mapped_bytes, region->bytes);
    }
    /* Release, like the exchanges of this word: kswapd sees what was set before. */
    atomic_store(&region->keep, is_kept ? WR_KEEP_KEPT : WR_KEEP_NOT);
}

struct wr_region *wr_space_find_kept(const struct wr_space *space, const char *name,
                                     enum wr_keep keep)
{
    for (uint32_t i = 0; i < space->region_count; i++) {
        struct wr_region *region = space->by_page[i];

        if (atomic_load(&region->keep) == keep && !atomic_load(&region->is_going) &&
            strcmp(region->name, name) == 0)
            return region;
    }
    return NULL;
}

struct wr_region *wr_space_oldest_kept(const struct wr_space *space, enum wr_keep keep, bool all)
{
    uint32_t end = atomic_load(&space->kept_count) ? atomic_load(&space->number_end) : 0;
    struct wr_region *oldest = NULL;

    for (uint32_t i = 1; i <= end; i++) {
        struct wr_region *region = atomic_load(&space->by_number[i]);

        if (!region || atomic_load(&region->keep) != keep || atomic_load(&region->is_going) ||
            (!all && region->kept_hand >= wr_region_end(region)))
            continue;
        if (!oldest || (int32_t)(region->kept_at - oldest->kept_at) < 0)
            oldest = region;
    }
    return oldest;
}

/* --- What is where --------------------------------------------------------------------------- */

static uint64_t not_negative(int64_t count)
{
    return count > 0 ? (uint64_t)count : 0;
}

struct wr_classes wr_space_classes(const struct wr_space *space)
{
    uint32_t end = atomic_load(&space->number_end);
    int64_t private_pages = 0, shared = 0, reusable = 0;

    for (uint32_t i = 1; i <= end; i++) {
        const struct wr_region *region = atomic_load(&space->by_number[i]);
        /* Relaxed, like those below: a page that moves meanwhile is counted twice, or not. */
        int64_t pages = (int32_t)atomic_load_explicit(&space->pages.present[i].pages,
                                                      memory_order_relaxed);

        if (region && region->object)
            shared += pages;
        else if (region && atomic_load(&region->keep) != WR_KEEP_NOT)
            reusable += pages;
        else if (region)
            private_pages += pages;
    }
    return (struct wr_classes){
        .private_pages = not_negative(private_pages),
        .shared = not_negative(shared),
        .ahead = not_negative(atomic_load_explicit(&space->stats->ahead, memory_order_relaxed)),
        .reusable = not_negative(reusable),
        .pending = not_negative(
            atomic_load_explicit(&space->stats->cached_dirty, memory_order_relaxed)),
    };
}

struct wr_census wr_space_census(const struct wr_space *space, const struct wr_region *region)
{
    const struct wr_chunk *chunk = &space->pages.chunks[region->first / WR_CHUNK_PAGES];
    uint64_t touched = 0, elsewhere;
    struct wr_census census = {0};

    for (uint32_t i = 0; i < whole_chunks(region->reserve_pages) / WR_CHUNK_PAGES; i++, chunk++) {
        touched += atomic_load_explicit(&chunk->touched, memory_order_relaxed);
        census.resident += atomic_load_explicit(&chunk->resident, memory_order_relaxed);
        census.cached += atomic_load_explicit(&chunk->cached, memory_order_relaxed);
        census.zeros += atomic_load_explicit(&chunk->zeros, memory_order_relaxed);
    }
    /* A page that moves between two loads may be counted twice. */
    elsewhere = census.resident + census.cached + census.zeros;
    census.out = touched > elsewhere ? touched - elsewhere : 0;
    return census;
}

struct wr_region *wr_space_region(struct wr_space *space, uint32_t page)
{
    uint16_t number = atomic_load(&space->pages.chunks[page / WR_CHUNK_PAGES].region);

    return atomic_load(&space->by_number[number]);
}

uint64_t wr_space_metadata(const struct wr_space *space)
{
    uint64_t pages = (atomic_load(&space->mapped_bytes) + atomic_load(&space->kept_bytes)) /
                     WEIR_PAGE_BYTES;

    return sizeof(*space) + sizeof(*space->stats) + wr_cache_metadata(&space->cache) +
           wr_staging_metadata(&space->staging) + pages * sizeof(struct wr_page) +
           pages / WR_CHUNK_PAGES * sizeof(struct wr_chunk) + atomic_load(&space->objects_bytes);
}
