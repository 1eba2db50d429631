/* SPDX-License-Identifier: MIT */
#include "runtime/paging/sweep.h"

#include <stdlib.h>

#include "runtime/memory/chunk.h"
#include "runtime/memory/gate.h"

#ifndef SWEEP_QUIET_NS /* the simulator has not so much time */
#define SWEEP_QUIET_NS 1000000000ull
#endif
#define GATE_CHUNKS  1024u /* so many are looked at between two gates */
#define TABLES_SHARE 64    /* of the budget: more page tables than that are too many */

struct wr_sweep {
    struct wr_space *space;
    struct wr_bell bell;
    void *thread;
    _Atomic(bool) stop;
    _Atomic(bool) wanted;
};

static void want(void *context)
{
    struct wr_sweep *sweep = context;

    /* Relaxed first look: it is wanted most of the time while pages leave. */
    if (atomic_load_explicit(&sweep->wanted, memory_order_relaxed) ||
        atomic_exchange(&sweep->wanted, true))
        return;
    sweep->space->host->ops->bell_ring(sweep->space->host, &sweep->bell);
}

static bool are_too_many(const struct wr_space *space)
{
    return atomic_load_explicit(&space->stats->tables, memory_order_relaxed) >
           atomic_load_explicit(&space->frames.total, memory_order_relaxed) / TABLES_SHARE;
}

/* What follows the region's last page may be somebody else's memory; and an object has no addresses
 * of its own, but its views have. */
static bool is_ours(const struct wr_region *region, uint32_t chunk)
{
    /* By its addresses: a region that is about to move may have page numbers for more already. */
    uint64_t pages = atomic_load(&region->reserve_bytes) / WEIR_PAGE_BYTES;

    return !region->object && (chunk + 1ull) * WR_CHUNK_PAGES <= region->first + pages;
}

bool wr_sweep_chunk(struct wr_region *region, uint32_t chunk, bool forget)
{
    struct wr_space *space = region->space;
    uint32_t first = chunk * WR_CHUNK_PAGES;
    struct wr_span span;

    if (!is_ours(region, chunk) ||
        !wr_chunk_take(&space->pages, chunk, forget ? WR_CHUNK_EMPTY : WR_CHUNK_UNMAPPED))
        return false;
    span = (struct wr_span){wr_region_addr(region, first), WR_CHUNK_PAGES};
    space->host->ops->drop(space->host, &span, 1);
    if (forget)
        wr_chunk_forget(&space->pages, chunk);
    else
        wr_chunk_put(&space->pages, chunk, true);
    return true;
}

/* Was it quiet since the last look? If not, begin to watch it. */
static bool is_quiet(struct wr_chunk *chunk)
{
    uint16_t seen = atomic_load_explicit(&chunk->table, memory_order_relaxed);

    if (seen == WR_TABLE_USED)
        atomic_compare_exchange_strong_explicit(&chunk->table, &seen, WR_TABLE_QUIET,
                                                memory_order_relaxed, memory_order_relaxed);
    return seen == WR_TABLE_QUIET;
}

/* One chunk. True: look again in a second. Inside the gate. */
static bool look_at(struct wr_space *space, uint32_t number, bool zeros_too)
{
    struct wr_chunk *chunk = &space->pages.chunks[number];
    struct wr_region *region;

    /* Relaxed, all of these: whether it is so is judged with the chunk held. */
    if (atomic_load_explicit(&chunk->table, memory_order_relaxed) == WR_TABLE_NONE ||
        atomic_load_explicit(&chunk->resident, memory_order_relaxed) > 0 ||
        (!zeros_too && atomic_load_explicit(&chunk->zeros, memory_order_relaxed) > 0))
        return false;
    region = wr_space_region(space, number * WR_CHUNK_PAGES);
    if (!region || atomic_load(&region->is_going) || !is_ours(region, number))
        return false;
    if (atomic_load(&region->is_moving))
        return true; /* a chunk may lie in two places */
    return !is_quiet(chunk) || !wr_sweep_chunk(region, number, false);
}

/* Over all chunks once. True: some may be ready in a second. */
static bool look_at_all(struct wr_sweep *sweep)
{
    struct wr_space *space = sweep->space;
    bool zeros_too = are_too_many(space), again = false;
    uint32_t end = atomic_load(&space->chunk_end);

    for (uint32_t from = 0; from < end && !atomic_load(&sweep->stop); from += GATE_CHUNKS) {
        struct wr_pass pass = wr_gate_enter();

        for (uint32_t i = from; i < end && i < from + GATE_CHUNKS; i++)
            again |= look_at(space, i, zeros_too);
        wr_gate_leave(pass);
    }
    return again;
}

static void sleep_until(struct wr_sweep *sweep, uint64_t deadline_ns)
{
    struct wr_host *host = sweep->space->host;

    do
        host->ops->bell_wait(host, &sweep->bell, NULL, 0, deadline_ns);
    while (!atomic_load(&sweep->stop) && deadline_ns != WR_FOREVER &&
           host->ops->now_ns(host) < deadline_ns);
}

static void sweep_main(void *context)
{
    struct wr_sweep *sweep = context;
    struct wr_host *host = sweep->space->host;
    bool again = false;

    while (!atomic_load(&sweep->stop)) {
        if (!again && !atomic_load(&sweep->wanted)) {
            sleep_until(sweep, WR_FOREVER);
            continue;
        }
        sleep_until(sweep, host->ops->now_ns(host) + SWEEP_QUIET_NS);
        atomic_store(&sweep->wanted, false);
        again = !atomic_load(&sweep->stop) && look_at_all(sweep);
    }
}

int wr_sweep_open(struct wr_space *space, struct wr_sweep **sweep_p)
{
    struct wr_host *host = space->host;
    struct wr_sweep *sweep;
    int error;

    *sweep_p = NULL;
    if (!host->returns_tables)
        return WEIR_OK; /* the report says so */
    sweep = calloc(1, sizeof(*sweep));
    if (!sweep)
        return WEIR_ENOMEM;
    sweep->space = space;
    error = host->ops->bell_init(host, &sweep->bell);
    if (error == WEIR_OK) {
        error = host->ops->thread_start(host, "weir-ksweep", sweep_main, sweep, &sweep->thread);
        if (error != WEIR_OK)
            host->ops->bell_fini(host, &sweep->bell);
    }
    if (error != WEIR_OK) {
        free(sweep);
        return error;
    }
    space->pages.idle_table_context = sweep;
    space->pages.idle_table = want;
    *sweep_p = sweep;
    return WEIR_OK;
}

void wr_sweep_close(struct wr_sweep *sweep)
{
    struct wr_host *host;

    if (!sweep)
        return;
    host = sweep->space->host;
    sweep->space->pages.idle_table = NULL;
    atomic_store(&sweep->stop, true);
    host->ops->bell_ring(host, &sweep->bell);
    host->ops->thread_stop(host, sweep->thread);
    host->ops->bell_fini(host, &sweep->bell);
    free(sweep);
}
