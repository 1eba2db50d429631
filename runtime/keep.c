/* SPDX-License-Identifier: MIT */

/*
 * Keep: a region that was unmapped stays, until it is mapped again or its room is needed (seed C2:
 * what is potentially re-usable, of a process that has ended).
 *
 *   keep       the region moves to addresses that nobody knows, so that the program's are gone, and
 *              is not published there; to all who come by page number it is a region like any
 *   reattach   it is published where it is: nothing moves, nothing is read
 *   spent      kswapd has decided that its content goes (kept.c); then only addresses and page
 *              numbers are left of it, which go when somebody needs them or keeps anything
 *   forget     it ends, as any region does
 *
 * Always: of kept regions that are not spent no two have the same name.
 */

#include <string.h>

#include "runtime/runtime.h"

static int refuse(struct wr_space *space, const char *what)
{
    wr_event(&space->events, WEIR_FAILURE, WEIR_EINVAL, 0, 0, what);
    return WEIR_EINVAL;
}

/* Nobody else finds it from here on. Under WR_RANK_RUNTIME. */
static struct wr_region *claim(struct wr_region *region)
{
    if (region)
        atomic_store(&region->is_going, true);
    return region;
}

/* False: there was none. */
static bool forget(struct weir_runtime *rt, struct wr_region *claimed)
{
    if (!claimed)
        return false;
    /* What kswapd has spent he has counted. */
    if (atomic_exchange(&claimed->keep, WR_KEEP_SPENT) == WR_KEEP_KEPT)
        wr_stats_count(rt->stats, WR_COUNT_regions_forgotten);
    wr_runtime_end_region(rt, claimed);
    return true;
}

static bool forget_oldest(struct weir_runtime *rt, enum wr_keep keep)
{
    struct wr_region *region;

    wr_lock_take(&rt->lock);
    region = claim(wr_space_oldest_kept(&rt->space, keep, true));
    wr_lock_drop(&rt->lock);
    return forget(rt, region);
}

void wr_runtime_make_room(struct weir_runtime *rt, uint64_t bytes, uint64_t reserve)
{
    static const uint32_t nothing;
    struct wr_host *host = rt->host;

    while (atomic_load(&rt->space.kept_count) > 0 &&
           !wr_space_has_room(&rt->space, bytes, reserve)) {
        wr_lock_drop(&rt->lock);
        /* None is left, but some are on their way out: by another thread. */
        if (!forget_oldest(rt, WR_KEEP_SPENT) && !forget_oldest(rt, WR_KEEP_KEPT))
            host->ops->park(host, &nothing, 0, host->ops->now_ns(host) + 1000000);
        wr_lock_take(&rt->lock);
    }
}

bool wr_runtime_forget_next(struct weir_runtime *rt, const struct wr_region *region)
{
    struct wr_region *next = NULL;

    wr_lock_take(&rt->lock);
    for (uint32_t i = 0; i + 1 < rt->space.region_count; i++)
        if (rt->space.by_page[i] == region)
            next = rt->space.by_page[i + 1];
    if (next && (atomic_load(&next->keep) < WR_KEEP_KEPT || atomic_load(&next->is_going)))
        next = NULL;
    claim(next);
    wr_lock_drop(&rt->lock);
    return forget(rt, next);
}

int wr_runtime_keep(struct weir_runtime *rt, uint64_t addr)
{
    struct wr_region *region, *older = NULL;
    int error = wr_runtime_change(rt, addr, &region);

    if (error != WEIR_OK)
        return error;
    if (!*region->name || region->is_name_cut)
        error = refuse(&rt->space, "a region that is to be kept needs a name, of at most 31 "
                                   "characters: weir_map() with options.name");
    if (error == WEIR_OK)
        error = wr_runtime_hide_region(rt, region);
    if (error == WEIR_OK) {
        atomic_store(&region->pattern, WR_PATTERN_NORMAL);
        wr_stats_count(rt->stats, WR_COUNT_regions_kept);
        wr_lock_take(&rt->lock);
        older = claim(wr_space_find_kept(&rt->space, region->name, WR_KEEP_KEPT));
        wr_space_set_kept(&rt->space, region, true);
        atomic_store(&region->is_changing, false);
        wr_lock_drop(&rt->lock);
        (void)forget(rt, older);
        (void)forget_oldest(rt, WR_KEEP_SPENT); /* so that they do not become many */
        return WEIR_OK;
    }
    atomic_store(&region->is_changing, false);
    return error;
}

/* It is as it was kept, or WEIR_ENOENT: kswapd was faster. Under WR_RANK_RUNTIME. */
static int show(struct wr_space *space, struct wr_region *region)
{
    uint8_t expected = WR_KEEP_KEPT;
    int error;

    if (!atomic_compare_exchange_strong(&region->keep, &expected, WR_KEEP_MOVING))
        return WEIR_ENOENT;
    error = wr_region_publish(region);
    if (error != WEIR_OK) {
        atomic_store(&region->keep, WR_KEEP_KEPT);
        wr_event(&space->events, WEIR_FAILURE, error, 0, 0,
                 "the kept region cannot be mapped: a process has at most 16384 regions and views");
        return error;
    }
    atomic_fetch_add(&region->reattached, 1);
    wr_space_set_kept(space, region, false);
    return WEIR_OK;
}

static int find_and_show(struct wr_space *space, uint64_t bytes, uint64_t reserve, const char *name,
                         struct wr_region **region_p)
{
    struct wr_region *region = wr_space_find_kept(space, name, WR_KEEP_KEPT);

    if (!region)
        return WEIR_ENOENT;
    if (bytes > region->bytes || region->bytes - bytes >= WEIR_PAGE_BYTES ||
        reserve > region->reserve_bytes)
        return refuse(space, "a region of that name is kept, but of another size or with less "
                             "reserve: reattach it as it was, then resize, move or unmap it");
    *region_p = region;
    return show(space, region);
}

int wr_runtime_reattach(struct weir_runtime *rt, uint64_t bytes, uint64_t reserve, const char *name,
                        struct wr_region **region_p)
{
    struct wr_region *spent = NULL;
    int error;

    if (!name || !*name || strlen(name) >= sizeof((*region_p)->name))
        return refuse(&rt->space, "to reattach a region takes its name, of 1 to 31 characters");
    do {
        wr_lock_take(&rt->lock);
        error = find_and_show(&rt->space, bytes, reserve, name, region_p);
        if (error == WEIR_ENOENT)
            spent = claim(wr_space_find_kept(&rt->space, name, WR_KEEP_SPENT));
        wr_lock_drop(&rt->lock);
    } while (error == WEIR_ENOENT && forget(rt, spent));
    if (error == WEIR_OK)
        wr_stats_count(rt->stats, WR_COUNT_regions_reattached);
    return error == WEIR_ENOENT ? wr_runtime_map(rt, bytes, reserve, name, region_p) : error;
}
