/* SPDX-License-Identifier: MIT */

/* Api: every weir_*() of weir.h that needs a runtime: judge the arguments, then one call inward. */

#include <string.h>

#include "runtime/base/signals.h"
#include "runtime/host/peer.h"
#include "runtime/memory/gate.h"
#include "runtime/paging/range.h"
#include "runtime/runtime.h"

#define PIN_PAGES 64u /* that weir_pin() pins between two looks at the gate */

/* For calls about ranges: signals held off, and inside the gate. */
struct shelter {
    struct wr_pass pass;
    sigset_t before;
};

static void shelter_enter(struct shelter *shelter)
{
    wr_signals_hold(&shelter->before);
    shelter->pass = wr_gate_enter();
}

static void shelter_leave(const struct shelter *shelter)
{
    wr_gate_leave(shelter->pass);
    wr_signals_let(&shelter->before);
}

int weir_open(const struct weir_options *options, struct weir_runtime **runtime_p)
{
    if (!runtime_p)
        return WEIR_EINVAL;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    return wr_runtime_open(options, NULL, runtime_p);
}

int weir_close(struct weir_runtime *rt)
{
    sigset_t before;

    if (!rt)
        return WEIR_OK;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    wr_signals_hold(&before);
    wr_runtime_close(rt);
    wr_signals_let(&before);
    return WEIR_OK;
}

int weir_budget_set(struct weir_runtime *rt, uint64_t bytes, uint32_t timeout_ms)
{
    if (!rt)
        return WEIR_EINVAL;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    return wr_runtime_resize(rt, bytes, timeout_ms);
}

int weir_map(struct weir_runtime *rt, uint64_t bytes, const struct weir_region_options *options,
             void **address_p)
{
    struct weir_region_options all = {.size = 0};
    struct wr_region *region;
    sigset_t before;
    int error;

    /* A caller of the first version has no reserve_bytes. */
    if (!rt || bytes == 0 || !address_p ||
        (options && (options->size < offsetof(struct weir_region_options, reserve_bytes) ||
                     options->size > sizeof(all))))
        return WEIR_EINVAL;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    if (options)
        memcpy(&all, options, options->size);
    wr_signals_hold(&before);
    error = all.reattach ? wr_runtime_reattach(rt, bytes, all.reserve_bytes, all.name, &region)
                         : wr_runtime_map(rt, bytes, all.reserve_bytes, all.name, &region);
    wr_signals_let(&before);
    if (error == WEIR_OK)
        *address_p = (void *)(uintptr_t)region->addr;
    return error;
}

/* No address of a program's: one of another process's, as we know it (peer.h), is not found. */
static struct wr_region *find_own(uint64_t addr)
{
    return wr_is_away(addr) ? NULL : wr_region_find(addr);
}

/* The runtime of the region or view that begins there, or NULL. */
static struct weir_runtime *runtime_at(uint64_t addr, bool *is_view_p)
{
    struct wr_pass pass = wr_gate_enter();
    struct wr_region *region = find_own(addr);
    struct weir_runtime *rt = NULL;

    if (region && region->addr == addr) {
        rt = wr_runtime_of(region->space);
        *is_view_p = region->object != NULL;
    }
    wr_gate_leave(pass);
    return rt;
}

int weir_resize(void *address, uint64_t bytes)
{
    struct weir_runtime *rt;
    bool is_view = false;
    sigset_t before;
    int error;

    if (bytes == 0)
        return WEIR_EINVAL;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    rt = runtime_at((uintptr_t)address, &is_view);
    if (!rt || is_view)
        return WEIR_ENOENT;
    wr_signals_hold(&before);
    error = wr_runtime_resize_region(rt, (uintptr_t)address, bytes);
    wr_signals_let(&before);
    return error;
}

int weir_move(void *address, uint64_t reserve_bytes, void **new_address_p)
{
    struct weir_runtime *rt;
    bool is_view = false;
    uint64_t addr = 0;
    sigset_t before;
    int error;

    if (!new_address_p)
        return WEIR_EINVAL;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    rt = runtime_at((uintptr_t)address, &is_view);
    if (!rt)
        return WEIR_ENOENT;
    if (is_view)
        return WEIR_ENOSUPPORT;
    wr_signals_hold(&before);
    error = wr_runtime_move_region(rt, (uintptr_t)address, reserve_bytes, &addr);
    wr_signals_let(&before);
    if (error == WEIR_OK)
        *new_address_p = (void *)(uintptr_t)addr;
    return error;
}

int weir_unmap(void *address)
{
    uint64_t addr = (uintptr_t)address;
    struct weir_runtime *rt;
    bool is_view = false;
    sigset_t before;
    int error;

    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    rt = runtime_at(addr, &is_view);
    if (!rt)
        return WEIR_ENOENT;
    wr_signals_hold(&before);
    error = is_view ? wr_runtime_unmap_view(rt, addr) : wr_runtime_unmap(rt, addr);
    wr_signals_let(&before);
    return error;
}

int weir_unmap_keep(void *address)
{
    struct weir_runtime *rt;
    bool is_view = false;
    sigset_t before;
    int error;

    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    rt = runtime_at((uintptr_t)address, &is_view);
    if (!rt)
        return WEIR_ENOENT;
    if (is_view)
        return WEIR_ENOSUPPORT;
    wr_signals_hold(&before);
    error = wr_runtime_keep(rt, (uintptr_t)address);
    wr_signals_let(&before);
    return error;
}

/* The whole pages inside, or, to pin, the pages touched by [address, address + bytes). */
static int find_range(const void *address, uint64_t bytes, bool inside, struct wr_region **region_p,
                      uint32_t *page_p, uint32_t *count_p)
{
    uint64_t addr = (uintptr_t)address;
    struct wr_region *region = find_own(addr);
    uint64_t end = region ? atomic_load(&region->bytes) : 0;
    uint64_t from, to;

    if (!region || atomic_load(&region->is_going) || atomic_load(&region->is_moving) ||
        bytes == 0 || addr - region->addr >= end || bytes > end - (addr - region->addr))
        return WEIR_EINVAL;
    from = addr - region->addr;
    to = from + bytes;
    if (inside) {
        from = (from + WEIR_PAGE_BYTES - 1) / WEIR_PAGE_BYTES;
        to = to / WEIR_PAGE_BYTES;
    } else {
        from = from / WEIR_PAGE_BYTES;
        to = (to + WEIR_PAGE_BYTES - 1) / WEIR_PAGE_BYTES;
    }
    *region_p = region;
    *page_p = region->first + (uint32_t)from;
    *count_p = to > from ? (uint32_t)(to - from) : 0;
    return WEIR_OK;
}

static int advise(struct wr_region *given, uint32_t page, uint32_t count, enum weir_hint hint)
{
    struct wr_region *region = wr_object_home(given); /* contents are an object's, not a view's */

    switch (hint) {
    case WEIR_NORMAL: atomic_store(&given->pattern, WR_PATTERN_NORMAL); return WEIR_OK;
    case WEIR_RANDOM: atomic_store(&given->pattern, WR_PATTERN_RANDOM); return WEIR_OK;
    case WEIR_SEQUENTIAL: atomic_store(&given->pattern, WR_PATTERN_SEQUENTIAL); return WEIR_OK;
    case WEIR_WILLNEED: wr_range_willneed(region, page, count); return WEIR_OK;
    case WEIR_COLD:
        if (count)
            wr_reclaim_cold(wr_runtime_of(region->space)->reclaim, page, count);
        return WEIR_OK;
    case WEIR_FREE:
    case WEIR_DISCARD: break;
    }
    return WEIR_EINVAL;
}

/* The hints that may take long: step by step, and signals and those who wait for the gate have
 * their turn in between. The region is still the one that it was, unless somebody unmaps it, who
 * must not; then there is nothing left to do. */
static int advise_in_steps(const void *address, uint64_t bytes, enum weir_hint hint)
{
    uint32_t done = 0, count = 1, serial = 0;
    int result = WEIR_OK;

    while (done < count) {
        struct shelter shelter;
        struct wr_region *region;
        uint32_t page;
        int error;

        shelter_enter(&shelter);
        error = find_range(address, bytes, true, &region, &page, &count);
        if (error == WEIR_OK && serial == 0)
            serial = region->serial;
        if (error != WEIR_OK || serial != region->serial)
            result = WEIR_EINVAL;
        else if (done < count)
            done += hint == WEIR_FREE
                        ? wr_range_free(wr_object_home(region), page + done, count - done)
                        : wr_range_discard(wr_object_home(region), page + done, count - done,
                                           &result);
        shelter_leave(&shelter);
        if (result == WEIR_EINVAL)
            break;
    }
    return result;
}

int weir_advise(void *address, uint64_t bytes, enum weir_hint hint)
{
    struct shelter shelter;
    struct wr_region *region;
    uint32_t page, count;
    int error;

    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    if (hint == WEIR_FREE || hint == WEIR_DISCARD)
        return advise_in_steps(address, bytes, hint);
    shelter_enter(&shelter);
    error = find_range(address, bytes, true, &region, &page, &count);
    if (error == WEIR_OK)
        error = advise(region, page, count, hint);
    shelter_leave(&shelter);
    return error;
}

/* It was pinned up to there a moment ago: either somebody is about to shrink or move it, and will
 * see that he cannot, or it is gone. */
static int await_range(const void *address, uint32_t serial)
{
    static const uint32_t nothing;
    struct wr_region *region = find_own((uintptr_t)address);
    struct wr_host *host;

    if (!region || region->serial != serial || atomic_load(&region->is_going))
        return WEIR_EINVAL;
    host = region->space->host;
    host->ops->park(host, &nothing, 0, host->ops->now_ns(host) + 1000000);
    return WEIR_OK;
}

typedef int pin_range(struct wr_region *region, uint32_t page, uint32_t count,
                      enum wr_access access);

struct pinning {
    pin_range *pin;
    uint32_t done, count; /* pages, from the first on */
    uint32_t serial;      /* of the region            */
    enum wr_access access;
};

/* Some more; or, with an error, none of it any more. Each page may have to be read: signals and
 * those who wait for the gate have their turn in between. */
static int pin_step(const void *address, uint64_t bytes, struct pinning *p)
{
    struct wr_region *region;
    uint32_t page, part;
    int error = find_range(address, bytes, false, &region, &page, &p->count);

    if (error != WEIR_OK)
        return p->done > 0 ? await_range(address, p->serial) : error;
    if (p->done == 0)
        p->serial = region->serial;
    if (p->serial != region->serial)
        return WEIR_EINVAL;
    part = p->count - p->done < PIN_PAGES ? p->count - p->done : PIN_PAGES;
    error = p->pin(region, page + p->done, part, p->access);
    if (error == WEIR_OK)
        p->done += part;
    else
        (void)wr_range_unpin(region, page, p->done);
    return error;
}

static int pin_by(pin_range *pin, void *address, uint64_t bytes, enum weir_access access)
{
    struct pinning p = {.pin = pin, .count = 1};
    int error = WEIR_OK;

    if (access != WEIR_READ && access != WEIR_WRITE)
        return WEIR_EINVAL;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    p.access = access == WEIR_WRITE ? WR_ACCESS_WRITE : WR_ACCESS_READ;
    while (error == WEIR_OK && p.done < p.count) {
        struct shelter shelter;

        shelter_enter(&shelter);
        error = pin_step(address, bytes, &p);
        shelter_leave(&shelter);
    }
    return error;
}

int weir_pin(void *address, uint64_t bytes, enum weir_access access)
{
    return pin_by(wr_range_pin, address, bytes, access);
}

int weir_pin_try(void *address, uint64_t bytes, enum weir_access access)
{
    return pin_by(wr_range_pin_try, address, bytes, access);
}

int weir_unpin(void *address, uint64_t bytes)
{
    struct shelter shelter;
    struct wr_region *region;
    uint32_t page, count;
    int error;

    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    shelter_enter(&shelter);
    error = find_range(address, bytes, false, &region, &page, &count);
    if (error == WEIR_OK)
        error = wr_range_unpin(region, page, count);
    shelter_leave(&shelter);
    return error;
}

int weir_backend_add(struct weir_runtime *rt, const char *spec, uint32_t *number_p)
{
    uint32_t number;
    int error;

    if (!rt || !spec || strlen(spec) >= WR_SPEC_ROOM)
        return WEIR_EINVAL;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    wr_lock_take(&rt->backends_lock);
    error = wr_swap_add(rt->swap, spec, &number);
    wr_lock_drop(&rt->backends_lock);
    if (error == WEIR_OK && number_p)
        *number_p = number;
    return error;
}

int weir_backend_extend(struct weir_runtime *rt, uint32_t number, const char *spec)
{
    sigset_t before;
    int error;

    if (!rt || !spec || strlen(spec) >= WR_SPEC_ROOM)
        return WEIR_EINVAL;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    wr_signals_hold(&before);
    wr_lock_take(&rt->backends_lock);
    error = wr_swap_extend(rt->swap, number, spec);
    wr_lock_drop(&rt->backends_lock);
    wr_signals_let(&before);
    return error;
}

int weir_backend_retire(struct weir_runtime *rt, uint32_t number, const char *member)
{
    sigset_t before;
    int error;

    if (!rt || !member)
        return WEIR_EINVAL;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    wr_signals_hold(&before);
    wr_lock_take(&rt->backends_lock);
    error = wr_swap_retire(rt->swap, number, member);
    wr_lock_drop(&rt->backends_lock);
    wr_signals_let(&before);
    return error;
}

int weir_backend_drain(struct weir_runtime *rt, uint32_t number)
{
    sigset_t before;
    int error;

    if (!rt)
        return WEIR_EINVAL;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    wr_signals_hold(&before);
    wr_lock_take(&rt->backends_lock);
    error = wr_swap_drain(rt->swap, number);
    wr_lock_drop(&rt->backends_lock);
    wr_signals_let(&before);
    return error;
}

int weir_backend_move(struct weir_runtime *rt, uint32_t from, uint32_t to, uint64_t bytes,
                      uint64_t *moved_p)
{
    uint64_t moved = 0;
    sigset_t before;
    int error;

    if (moved_p)
        *moved_p = 0;
    if (!rt)
        return WEIR_EINVAL;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    wr_signals_hold(&before);
    wr_lock_take(&rt->backends_lock);
    error = wr_swap_move(rt->swap, from, to, bytes / WEIR_PAGE_BYTES, &moved);
    wr_lock_drop(&rt->backends_lock);
    wr_signals_let(&before);
    if (moved_p)
        *moved_p = moved * WEIR_PAGE_BYTES;
    return error;
}

int weir_backend_get(struct weir_runtime *rt, uint32_t position, struct weir_backend_state *state_p)
{
    struct wr_pass pass;
    int error = WEIR_ENOENT;

    if (!rt || !state_p)
        return WEIR_EINVAL;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    pass = wr_gate_enter();
    for (uint32_t i = 0; i < WR_BACKENDS_MAX && error != WEIR_OK; i++) {
        const struct wr_swap_backend *b = wr_swap_backend(rt->swap, i);

        if (!b || position-- > 0)
            continue;
        *state_p = (struct weir_backend_state){
            .number = i,
            .bytes_total = b->slots.count * WEIR_SLOT_BYTES,
            .bytes_used = wr_slots_used(&b->slots) * WEIR_SLOT_BYTES,
            .errors = atomic_load(&b->errors),
            .draining = atomic_load(&b->draining),
            .sick = atomic_load(&b->sick_until_ns) != 0,
        };
        memcpy(state_p->spec, b->spec, sizeof(state_p->spec));
        error = WEIR_OK;
    }
    wr_gate_leave(pass);
    return error;
}

int weir_stats(struct weir_runtime *rt, struct weir_stats *stats)
{
    struct weir_stats full = {.size = sizeof(full)};
    size_t size;

    if (!rt || !stats || stats->size < sizeof(size_t))
        return WEIR_EINVAL;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    size = stats->size < sizeof(full) ? stats->size : sizeof(full);
    wr_stats_collect(rt->stats, &full);
    wr_report_gauges(rt, &full);
    full.size = stats->size;
    memcpy(stats, &full, size);
    return WEIR_OK;
}

/* Inside the gate. */
static int tell_region(const struct wr_region *region, struct weir_region_stats *stats)
{
    struct weir_region_stats full;
    size_t size = stats->size < sizeof(full) ? stats->size : sizeof(full);

    if (!region)
        return WEIR_ENOENT;
    wr_report_region(region, &full);
    full.size = stats->size;
    memcpy(stats, &full, size);
    return WEIR_OK;
}

int weir_region_stats(const void *address, struct weir_region_stats *stats)
{
    const struct wr_region *region;
    struct wr_pass pass;
    int error;

    if (!stats || stats->size < sizeof(size_t))
        return WEIR_EINVAL;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    pass = wr_gate_enter();
    region = find_own((uintptr_t)address);
    if (region && (atomic_load(&region->is_going) ||
                   (uintptr_t)address - region->addr >= atomic_load(&region->bytes)))
        region = NULL;
    error = tell_region(region, stats);
    wr_gate_leave(pass);
    return error;
}

uint64_t weir_region_rest(void *address)
{
    const struct wr_region *region;
    struct wr_pass pass;
    uint64_t rest = 0;

    if (wr_runtime_is_forked())
        return 0;
    pass = wr_gate_enter();
    region = find_own((uintptr_t)address);
    if (region && !atomic_load(&region->is_going)) {
        const uint64_t at = (uintptr_t)address - region->addr, bytes = atomic_load(&region->bytes);

        rest = at < bytes ? bytes - at : 0;
    }
    wr_gate_leave(pass);
    return rest;
}

int weir_region_get(struct weir_runtime *rt, uint32_t position, struct weir_region_stats *stats)
{
    struct wr_pass pass;
    int error;

    if (!rt || !stats || stats->size < sizeof(size_t))
        return WEIR_EINVAL;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    pass = wr_gate_enter();
    error = tell_region(wr_report_region_at(rt, position), stats);
    wr_gate_leave(pass);
    return error;
}
