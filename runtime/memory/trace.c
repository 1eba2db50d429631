/* SPDX-License-Identifier: MIT */
#include "runtime/memory/trace.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/stats.h"

#define THREAD_MOST 255u

int wr_trace_init(struct wr_trace *trace, uint64_t begun_ns)
{
    memset(trace, 0, sizeof(*trace));
    trace->begun_ns = begun_ns;
    trace->ring = calloc(WR_TRACE_ROOM, sizeof(*trace->ring));
    if (!trace->ring)
        return WEIR_ENOMEM;
    /* Stores to all of it: no fault of ours is the first to touch it. */
    for (uint64_t i = 0; i < WR_TRACE_ROOM; i++)
        atomic_store_explicit(&trace->ring[i].turn, i, memory_order_relaxed);
    return WEIR_OK;
}

void wr_trace_fini(struct wr_trace *trace)
{
    free(trace->ring);
    trace->ring = NULL;
}

/* A place for one more record, or NULL: there is none, and the record is counted as lost. */
static struct wr_trace_place *claim(struct wr_trace *trace, uint64_t *turn_p)
{
    uint64_t put = atomic_load_explicit(&trace->put, memory_order_relaxed);

    for (;;) {
        struct wr_trace_place *place = &trace->ring[put % WR_TRACE_ROOM];
        /* Acquire: pairs with the release of ktrace, who has read what was here before. */
        uint64_t turn = atomic_load_explicit(&place->turn, memory_order_acquire);

        if (turn == put) {
            /* Relaxed: the turn orders what is in the place, this only says who has it. */
            if (atomic_compare_exchange_weak_explicit(&trace->put, &put, put + 1,
                                                      memory_order_relaxed, memory_order_relaxed)) {
                *turn_p = put;
                return place;
            }
        } else if (turn < put) { /* a round behind: ktrace has not come to it */
            atomic_fetch_add_explicit(&trace->lost, 1, memory_order_relaxed);
            return NULL;
        } else {
            put = atomic_load_explicit(&trace->put, memory_order_relaxed);
        }
    }
}

void wr_trace_put(struct wr_trace *trace, uint64_t now_ns, uint8_t kind, uint16_t region,
                  uint32_t page)
{
    uint32_t thread = wr_stats_thread_index();
    struct wr_trace_place *place;
    uint64_t turn;

    place = claim(trace, &turn);
    if (!place)
        return;
    place->record = (struct weir_trace_record){
        .ns = now_ns - trace->begun_ns,
        .page = page,
        .region = region,
        .kind = kind,
        .thread = (uint8_t)(thread < THREAD_MOST ? thread : THREAD_MOST),
    };
    /* Release: who sees the turn sees the record. */
    atomic_store_explicit(&place->turn, turn + 1, memory_order_release);
}

bool wr_trace_take(struct wr_trace *trace, struct weir_trace_record *record_p)
{
    struct wr_trace_place *place = &trace->ring[trace->taken % WR_TRACE_ROOM];

    if (atomic_load_explicit(&place->turn, memory_order_acquire) != trace->taken + 1)
        return false;
    *record_p = place->record;
    /* Release: the record was read before the place is another's, a round later. */
    atomic_store_explicit(&place->turn, trace->taken + WR_TRACE_ROOM, memory_order_release);
    trace->taken++;
    return true;
}
