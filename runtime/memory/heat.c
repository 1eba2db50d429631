/* SPDX-License-Identifier: MIT */
#include "runtime/memory/heat.h"

#include "runtime/memory/trace.h"

/* A rise takes 15 % of what is missing, a fall 15 % of what is there. */
#define HEAT_MOST 255u
#define HEAT_RISE 39u  /* of 256 */
#define HEAT_FALL 218u /* of 256 */

/* Relaxed everywhere: an update of heat that is lost is no harm, and evictions are a clock on which
 * two pages may read the same time. */

static _Atomic(uint8_t) *heat_of(const struct wr_pages *pages, uint32_t number)
{
    return &pages->chunks[number / WR_CHUNK_PAGES].heat[number % WR_CHUNK_PAGES / WR_HEAT_PAGES];
}

uint8_t wr_page_heat(const struct wr_pages *pages, uint32_t number)
{
    return atomic_load_explicit(heat_of(pages, number), memory_order_relaxed);
}

void wr_page_warm(const struct wr_pages *pages, uint32_t number)
{
    uint32_t was = wr_page_heat(pages, number);
    uint32_t is = was + ((HEAT_MOST - was) * HEAT_RISE + 255u) / 256u;

    atomic_store_explicit(heat_of(pages, number), (uint8_t)is, memory_order_relaxed);
}

static void cool(const struct wr_pages *pages, uint32_t number)
{
    uint32_t is = wr_page_heat(pages, number) * HEAT_FALL / 256u;

    atomic_store_explicit(heat_of(pages, number), (uint8_t)is, memory_order_relaxed);
}

/* The clock goes round once in a terabyte of evictions: a distance beyond that is taken for a short
 * one, and a cold page is kept a little longer. */
static uint32_t shadow_at(uint32_t now)
{
    uint32_t shadow = now & WR_SHADOW_MAX;

    return shadow == WR_SHADOW_NONE ? WR_SHADOW_MAX : shadow;
}

void wr_page_evict(struct wr_pages *pages, struct wr_hold *hold, enum wr_page_state from)
{
    uint32_t now = 1 + atomic_fetch_add_explicit(&pages->evictions, 1, memory_order_relaxed);
    bool was_used = !wr_hold_has(hold, WR_PAGE_AHEAD) || wr_state_is_charged(from);
    bool is_shadowed = was_used && !wr_hold_has(hold, WR_PAGE_MAIN);

    wr_page_move(hold, from, WR_PAGE_OUT);
    wr_hold_set_shadow(hold, is_shadowed ? shadow_at(now) : WR_SHADOW_NONE);
    wr_hold_set(hold, WR_PAGE_MAIN, false);
    wr_hold_set(hold, WR_PAGE_AHEAD, false);
    cool(pages, hold->number);
    if (pages->trace)
        wr_trace_put(pages->trace, pages->host->ops->now_ns(pages->host), WEIR_TRACE_EVICTED,
                     atomic_load_explicit(&pages->chunks[hold->number / WR_CHUNK_PAGES].region,
                                          memory_order_relaxed),
                     hold->number);
}

uint32_t wr_page_distance(const struct wr_pages *pages, const struct wr_hold *hold)
{
    uint32_t now = atomic_load_explicit(&pages->evictions, memory_order_relaxed);
    uint32_t shadow = wr_hold_shadow(hold);

    return shadow == WR_SHADOW_NONE ? WR_DISTANCE_NONE : (now - shadow) & WR_SHADOW_MAX;
}
