/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Page: what the application sees 4096 bytes of, and where those bytes are just now.
 *
 *   page      a number: index into the table of all pages of a runtime. It never changes while the
 *             region lives, and it says nothing of frames, slots or back ends (seed B1)
 *   slot      the place of a page at a back end
 *   frame     local memory of the runtime (slab or staging) that holds a cached page
 *   resident  mapped in the application
 *   cached    unmapped, but its bytes are in a frame: the swap cache (seed A, B)
 *   sum       checksum of the bytes in the slot
 *   main      a page that has proven itself: wanted while it was cached, or back soon (aging.h)
 *   shadow    what an OUT page remembers of when it left (heat.h)
 *
 * One descriptor of 16 bytes answers state, frame and slot; one acquire load of its first word is
 * the whole lookup (seed A2, D10).
 *
 *   state             mapped    bytes are in            slot
 *   EMPTY             -         nowhere: all zero       -
 *   OUT               -         slot                    yes
 *   READING           -         slot, on their way      yes
 *   CACHED_DIRTY      -         staging frame           -
 *   CACHED_WRITING    -         staging frame           pending
 *   CACHED_CLEAN      -         slab frame, and slot    yes
 *   RESIDENT_ZERO     read-only the shared zero page    -
 *   RESIDENT_DIRTY    yes       application's frame     -
 *   RESIDENT_CLEAN    read-only application's, and slot yes
 *   RESIDENT_WRITING  read-only application's           pending
 *   POISONED          -         lost                    yes
 *
 * "Pending": a write to that slot from a frame of staging is in flight. Who writes to a page under
 * write detaches it: the page forgets the slot, and the completion, finding that the page no
 * longer names the slot, frees it. So nobody ever waits for a write (seed A1), and a page may be
 * cleaned again while an older copy is still on its way out.
 *
 *                            touch: from [fault.c]
 *   EMPTY ------------------> RESIDENT_ZERO (load), RESIDENT_DIRTY (store)       [first touch]
 *   OUT --------------------> READING --> RESIDENT_CLEAN, RESIDENT_DIRTY         [demand read]
 *   CACHED_DIRTY -----------> RESIDENT_DIRTY                                     [restore]
 *   CACHED_WRITING ---------> RESIDENT_WRITING (load), RESIDENT_DIRTY (store)    [restore]
 *   CACHED_CLEAN -----------> RESIDENT_CLEAN (load), RESIDENT_DIRTY (store)      [restore]
 *   RESIDENT_ZERO, _CLEAN, _WRITING --> RESIDENT_DIRTY                           [first store]
 *                            readahead: OUT --> READING --> CACHED_CLEAN, OUT    [readahead.c]
 *                            reclaim: from [reclaim.c, launder.c, cache.c]
 *   RESIDENT_CLEAN ---------> CACHED_CLEAN --> OUT, or OUT at once               [drop]
 *   RESIDENT_DIRTY ---------> CACHED_DIRTY --> CACHED_WRITING --> OUT            [write out]
 *                             CACHED_DIRTY --> EMPTY                             [zeros, free hint]
 *                             CACHED_WRITING --> CACHED_DIRTY                    [write failed]
 *   RESIDENT_WRITING -------> RESIDENT_CLEAN, RESIDENT_DIRTY                     [done, failed]
 *                            any but READING --> EMPTY                           [discard]
 *                            READING --> EMPTY, POISONED                [cancelled, unreadable]
 *   off a back end: OUT --> READING --> CACHED_DIRTY [carry.c, readahead.c];
 *                   RESIDENT_CLEAN --> RESIDENT_DIRTY [carry.c]
 *
 * Always:
 *   - RESIDENT_CLEAN and RESIDENT_WRITING have been write-protected since the moment they were
 *     mapped ("clean from birth"): no other way leads to them, because a device that pinned a
 *     page while it was writable writes through a later protection;
 *   - a slot is freed only by the holder of its page's lock in a state without I/O, or by the
 *     completion of a write whose page has left it;
 *   - READING belongs to whoever began the read, though its lock is free: others may only wait,
 *     or mark it CANCELLED.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/stats.h"
#include "runtime/host/host.h"
#include "runtime/memory/tally.h"

enum wr_page_state {
    WR_PAGE_EMPTY, /* 0: a table of zeros is a table of empty pages */
    WR_PAGE_OUT,
    WR_PAGE_READING,
    WR_PAGE_CACHED_DIRTY,
    WR_PAGE_CACHED_WRITING,
    WR_PAGE_CACHED_CLEAN,
    WR_PAGE_RESIDENT_ZERO,
    WR_PAGE_RESIDENT_DIRTY,
    WR_PAGE_RESIDENT_CLEAN,
    WR_PAGE_RESIDENT_WRITING,
    WR_PAGE_POISONED,
    WR_PAGE_STATE_COUNT
};

enum wr_page_flag {
    WR_PAGE_AHEAD = 1,     /* brought by readahead, not known to have been used       */
    WR_PAGE_FREED = 2,     /* free hint: bytes not needed until the next store        */
    WR_PAGE_CANCELLED = 4, /* discarded while READING: the reader makes it EMPTY      */
    WR_PAGE_MAIN = 8       /* has proven itself: of the main queue, not of the small  */
};

#define WR_PIN_MAX     65535u
#define WR_SLOT_NONE   UINT64_MAX
#define WR_FRAME_NONE  UINT32_MAX
#define WR_SHADOW_NONE 0u
#define WR_SHADOW_MAX  ((1u << 28) - 1)

struct wr_page {
    /* lock 1, waiters 1, state 4, flags 10, pins 16, sum 32. Changed by wr_page_put() of the lock's
     * holder; others only set the lock or the waiters bit. */
    _Atomic(uint64_t) w0;
    /* slot + 1: 36 bits; frame + 1 (cached) or shadow (OUT, READING): 28. Kept by the lock. */
    uint64_t w1;
};
_Static_assert(sizeof(struct wr_page) == 16, "the budget of metadata is 16 bytes a descriptor");

struct wr_pages {
    /* Constant after wr_pages_init(). The tables are reserved whole and filled by first use. */
    struct wr_page *table;
    struct wr_chunk *chunks;
    _Atomic(uint32_t) *areas; /* resident pages of 512 chunks */
    struct wr_present *present;
    uint32_t count;
    struct wr_host *host;
    struct wr_stats *stats;
    _Atomic(uint32_t) evictions; /* the clock of shadows; relaxed */
    /* Page tables may be of no use any more; any thread, signal. NULL: nobody asks. */
    void (*idle_table)(void *context);
    void *idle_table_context;
    struct wr_trace *trace; /* trace.h; NULL: nobody asks. Constant while pages are touched */
};

/* A page held by its lock, with the descriptor it is to have. */
struct wr_hold {
    struct wr_page *page;
    uint32_t number;
    uint64_t was; /* w0 as it was taken */
    uint64_t w0;
    uint64_t w1;
};

/* Reserve so many descriptors. WEIR_ENOMEM: not so many addresses. */
int wr_pages_init(struct wr_pages *pages, uint32_t count, struct wr_host *host,
                  struct wr_stats *stats);
void wr_pages_fini(struct wr_pages *pages);

/* Give a range of descriptors back; every page of it is EMPTY. */
void wr_pages_forget(struct wr_pages *pages, uint32_t first, uint32_t count);

/* What the page's state is at this moment; another thread may change it in the next. */
enum wr_page_state wr_page_peek(const struct wr_pages *pages, uint32_t number);
/* Hints, all of them. Is the page EMPTY and in nobody's hands? While it is locked it may be mapped,
 * and stored to, though its state is still EMPTY. */
bool wr_page_peek_untouched(const struct wr_pages *pages, uint32_t number);
bool wr_page_peek_evictable(const struct wr_pages *pages, uint32_t number, bool *dirty_p);
bool wr_page_peek_flag(const struct wr_pages *pages, uint32_t number, enum wr_page_flag flag);
bool wr_page_peek_locked(const struct wr_pages *pages, uint32_t number);
bool wr_page_peek_pinned(const struct wr_pages *pages, uint32_t number);

/* Does the page belong to a region now? A page number that is only a hint (what a frame or a slot
 * remembers) must be asked about inside the gate before the page is locked: descriptors of a
 * region that went are given back, and a lock taken meanwhile would be lost. */
bool wr_page_is_owned(const struct wr_pages *pages, uint32_t number);

/* Lock a page. Short: its holder does at most one system call. Signal. */
void wr_page_take(const struct wr_pages *pages, uint32_t number, struct wr_hold *hold);
bool wr_page_take_try(const struct wr_pages *pages, uint32_t number, struct wr_hold *hold);
/* Publish what the hold says, unlock, wake who waits. Signal. */
void wr_page_put(const struct wr_pages *pages, struct wr_hold *hold);
/* Sleep until it is no longer READING, or somebody put it. Signal. */
void wr_page_wait(const struct wr_pages *pages, uint32_t number);

/* The one function that moves a page; a frame or shadow that the state has no use for goes. */
void wr_page_move(struct wr_hold *hold, enum wr_page_state from, enum wr_page_state to);
/* Is the edge drawn above? For the test that tries them all. */
bool wr_page_may_move(enum wr_page_state from, enum wr_page_state to);

enum wr_page_state wr_hold_state(const struct wr_hold *hold);
bool wr_hold_has(const struct wr_hold *hold, enum wr_page_flag flag);
void wr_hold_set(struct wr_hold *hold, enum wr_page_flag flag, bool on);
uint32_t wr_hold_pins(const struct wr_hold *hold);
void wr_hold_set_pins(struct wr_hold *hold, uint32_t pins);
uint32_t wr_hold_sum(const struct wr_hold *hold);
void wr_hold_set_sum(struct wr_hold *hold, uint32_t sum);
uint64_t wr_hold_slot(const struct wr_hold *hold);
void wr_hold_set_slot(struct wr_hold *hold, uint64_t slot);
uint32_t wr_hold_frame(const struct wr_hold *hold);
void wr_hold_set_frame(struct wr_hold *hold, uint32_t frame);
/* What an OUT or READING page remembers of its leaving (heat.h), or WR_SHADOW_NONE. */
uint32_t wr_hold_shadow(const struct wr_hold *hold);
void wr_hold_set_shadow(struct wr_hold *hold, uint32_t shadow);

/* Does a resident page of this state occupy a frame of the budget? */
static inline bool wr_state_is_charged(enum wr_page_state state)
{
    return state == WR_PAGE_RESIDENT_DIRTY || state == WR_PAGE_RESIDENT_CLEAN ||
           state == WR_PAGE_RESIDENT_WRITING;
}

static inline bool wr_state_is_cached(enum wr_page_state state)
{
    return state == WR_PAGE_CACHED_DIRTY || state == WR_PAGE_CACHED_WRITING ||
           state == WR_PAGE_CACHED_CLEAN;
}
