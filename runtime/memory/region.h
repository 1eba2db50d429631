/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Region: from an address to a page.
 *
 *   region    a range of addresses and the equally long run of page numbers that stands for it
 *   reserve   what a region may grow to: addresses and page numbers that are kept for it. Beyond
 *             its end they are its own all the same, but nothing is there
 *   published the regions that faults can find: one sorted table for the whole process, replaced
 *             whole, so that a fault reads it without a lock
 *   view      a region whose pages are those of an object (object.h)
 *   moved     pages of a region below this number are at its new addresses already (move.c)
 *   kept      a region that the program has unmapped, and may want back: not published, at
 *             addresses that nobody else knows; its pages are like any, but nobody touches them
 *
 * Always: inside the gate, a region that was found stays valid. Page numbers of a region begin at a
 * whole chunk and belong to nobody else until it is retracted and everybody has left the gate; but
 * a view has those of its object.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/memory/page.h"

struct wr_space;

/* What is counted for each region; as in weir_region.h. */
enum wr_region_counter {
#define REGION_ENUM(name, text) WR_REGION_##name,
    WEIR_REGION_COUNTER_MAP(REGION_ENUM)
#undef REGION_ENUM
        WR_REGION_COUNTER_COUNT
};

/* Threads share so many sets of counters: each is one line of the processor's cache. */
#define WR_REGION_SHARDS 8u

#define WR_REGIONS_MAX   4096u  /* of one runtime, views not counted                  */
#define WR_PUBLISHED_MAX 16384u /* of all runtimes of the process together, with views */

/* Changed under WR_RANK_RUNTIME, but for KEPT to SPENT, which kswapd does; by exchange, so that one
 * of them has a kept region's content. */
enum wr_keep {
    WR_KEEP_NOT,
    WR_KEEP_MOVING, /* to where it is kept, or from there; its address is nobody's business */
    WR_KEEP_KEPT,
    WR_KEEP_SPENT /* its content is being discarded, or was; addresses and numbers are left */
};

enum wr_pattern { WR_PATTERN_NORMAL, WR_PATTERN_RANDOM, WR_PATTERN_SEQUENTIAL };

struct wr_region {
    /* First, so that shards begin where cache lines do. Any thread; relaxed: they order nothing. */
    _Atomic(uint64_t) counter[WR_REGION_SHARDS][WR_REGION_COUNTER_COUNT];

    /* Constant while published. */
    struct wr_space *space;
    _Atomic(uint64_t) addr; /* runtime threads may look while it is not, see wr_region_addr()   */
    _Atomic(uint64_t) reserve_bytes;
    uint32_t first; /* page number of the first page                    */
    _Atomic(uint32_t) reserve_pages;
    uint32_t serial; /* never used twice in a process: tells regions apart       */
    uint16_t number; /* position in the space's table                            */
    char name[32];
    _Atomic(uint16_t) reattached; /* how often it was kept and mapped again; relaxed */

    /* Changed by whoever has set is_changing (under WR_RANK_RUNTIME). Who acts on them does so
     * inside the gate: after a wait for it nobody acts on the old ones. */
    _Atomic(uint64_t) bytes;
    _Atomic(uint32_t) pages;
    _Atomic(bool) is_changing;
    /* By the same, when it moves: touches and calls keep away meanwhile. */
    _Atomic(bool) is_moving;
    _Atomic(uint8_t) keep;      /* enum wr_keep */
    bool is_name_cut;           /* it was longer than there is room for; constant           */
    _Atomic(uint32_t) moved;    /* page number; 0: it does not move                        */
    uint32_t kept_at;           /* among kept regions, the lower the older; set before keep */
    uint64_t moves_to;          /* the new address of its first page, while it does */
    struct weir_object *object; /* of a view, and of an object's own region; else NULL */
    uint32_t view;              /* number among the object's views                      */
    uint32_t kept_hand; /* of a kept region, where kswapd goes on: it is then his; page number */

    /* Somebody is unmapping it: a touch is to wait for the kernel to say that nothing is there.
     * Set under WR_RANK_RUNTIME, read by faults. */
    _Atomic(bool) is_going;

    /* Advice; relaxed: a fault that sees it late does what it did before. */
    _Atomic(uint32_t) pattern;
};
_Static_assert(sizeof(struct wr_region) <= 640, "80 longs a region: seed D13");

/* Signal. */
static inline void wr_region_add(struct wr_region *region, enum wr_region_counter counter,
                                 uint64_t amount)
{
    atomic_fetch_add_explicit(&region->counter[wr_stats_thread_index() % WR_REGION_SHARDS][counter],
                              amount, memory_order_relaxed);
}

uint64_t wr_region_sum(const struct wr_region *region, enum wr_region_counter counter);

/* Where the page is. While the region moves: of a page that the caller has locked, because `moved`
 * passes a page only with that lock. Acquire: pairs with the releases of who moves it: moves_to is
 * set before `moved`, and when that is 0 again the new address is the address. */
static inline uint64_t wr_region_addr(const struct wr_region *region, uint32_t page)
{
    uint64_t base = page < atomic_load_explicit(&region->moved, memory_order_acquire)
                        ? region->moves_to
                        : atomic_load_explicit(&region->addr, memory_order_relaxed);

    return base + (uint64_t)(page - region->first) * WEIR_PAGE_BYTES;
}

static inline uint32_t wr_region_page(const struct wr_region *region, uint64_t addr)
{
    return region->first + (uint32_t)((addr - region->addr) / WEIR_PAGE_BYTES);
}

static inline uint32_t wr_region_end(const struct wr_region *region)
{
    return region->first + region->pages;
}

/* Let faults find it. WEIR_ENOMEM: WR_PUBLISHED_MAX are published. Not in a fault. */
int wr_region_publish(struct wr_region *region);
/* Let nobody find it any more; when this returns, nobody is left inside who had. Cannot fail. */
void wr_region_retract(struct wr_region *region);

/* Let faults find it at another address and with another reserve, and no longer where it was, where
 * touches are sealed off. When this returns, nobody is left inside who found it there. */
void wr_region_readdress(struct wr_region *region, uint64_t addr, uint64_t reserve_bytes);
/* The same, but nobody finds it there either: until it is published again. */
void wr_region_hide(struct wr_region *region, uint64_t addr, uint64_t reserve_bytes);

/* The region that has the address, if only as reserve, or NULL. Inside the gate. Signal. */
struct wr_region *wr_region_find(uint64_t addr);

/* In a fork child, where nothing can be inside: was this address in a region of the parent? */
bool wr_region_was_ours(uint64_t addr);

uint32_t wr_region_next_serial(void);
