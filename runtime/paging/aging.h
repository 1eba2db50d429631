/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Aging: which pages are to leave.
 *
 *   small    the queue of pages that were needed once, oldest first
 *   passing  the same for pages that came with a stream: they are expected to be of no use again,
 *            so that they have a twentieth of memory to themselves and leave before all others do
 *   main     pages with WR_PAGE_MAIN: in no list; four hands go round the addresses, one for each
 *            generation of heat (policy.h), and take what they meet
 *   list     the victims of one region, oldest first: kpaged puts, kswapd takes (seed C12)
 *   write    kswapd's place in a list: whatever comes next, also what must be written
 *   clean    another, which runs ahead of it and takes only what costs nothing to drop
 *   window   how far ahead: 1 / cache_scan_ratio of the list (seed E19)
 *
 * Always: kpaged only looks and decides. It takes no page lock, no mutex and not the gate, because
 * it runs when nobody else wants the processor and may be stopped anywhere, for long: what it does
 * must never be waited for. So all it says are hints, judged again by kswapd under the page's lock.
 * The clean place never moves the write place past a page that must be written (seed E20).
 *
 * When the lists are empty kpaged did not cope. Then kswapd chooses for itself, by the same rules;
 * and where that finds nothing, it takes from the region with the largest resident set, round its
 * addresses (seed C17).
 */

#include <stdint.h>

#include "runtime/memory/heat.h"
#include "runtime/memory/space.h"
#include "runtime/paging/arrivals.h"
#include "runtime/paging/policy.h"

enum wr_victims {
    WR_VICTIMS_KEPT,    /* of regions that are kept, though nobody has them: kept.h     */
    WR_VICTIMS_CLEAN,   /* of the lists: what can be dropped, within the window       */
    WR_VICTIMS_LISTED,  /* of the lists: clean or dirty                               */
    WR_VICTIMS_CHOSEN,  /* chosen now, as kpaged would                                */
    WR_VICTIMS_LARGEST, /* of the region with the largest resident set                */
    WR_VICTIMS_SWEEP    /* clean ones of all memory: the last resort                  */
};

#define WR_LIST_ROOM 4096u

/* One thread puts, another takes. */
struct wr_list {
    _Atomic(uint32_t *) pages; /* WR_LIST_ROOM of them; NULL until the first is put */
    _Atomic(uint32_t) put;     /* kpaged's; release: what is there is there         */
    _Atomic(uint32_t) taken;   /* kswapd's write place                              */
    uint32_t clean;            /* kswapd's clean place                              */
    uint32_t hand;             /* kswapd's, for WR_VICTIMS_LARGEST: pages into the region */
};

/* The places from which one thread chooses. */
struct wr_chooser {
    uint32_t picks;                 /* victims of the main queue so far                       */
    uint32_t hands[WR_GENERATIONS]; /* page numbers                                           */
    uint64_t left[WR_GENERATIONS];  /* pages that a hand may still pass: one round a choosing */
    uint32_t rests[WR_GENERATIONS]; /* choosings before one that had nobody is asked again    */
};

struct wr_aging {
    /* Constant after wr_aging_open(). */
    struct wr_space *space;
    uint32_t scan_ratio;

    struct wr_arrivals small, passing;
    _Atomic(uint32_t) lost; /* pages that found no room, and are in no queue therefore */

    /* What asking pages is worth (policy.h); any thread, relaxed: counts and a hint. */
    _Atomic(uint32_t) wanted;   /* pages that were touched while kswapd had them cached */
    _Atomic(uint32_t) returned; /* that came back, while asking is vain                 */
    _Atomic(bool) is_vain;      /* set by kswapd                                        */

    struct wr_list lists[WR_REGIONS_MAX + 1]; /* by number of the region */
    _Atomic(uint32_t) target;                 /* how many victims the lists are to hold together */

    /* Kept by kpaged. */
    struct wr_chooser kpaged;
    uint32_t lost_seen;

    /* Kept by kswapd. */
    struct wr_chooser kswapd;
    uint32_t turn;        /* of the regions: which list is next                    */
    uint32_t sweep_hand;  /* page number                                           */
    uint32_t unmapped;    /* pages that were asked since the last look at `wanted` */
    uint32_t wanted_seen; /* what it was then                                      */
};

int wr_aging_open(struct wr_space *space, uint32_t scan_ratio, struct wr_aging **aging_p);
void wr_aging_close(struct wr_aging *aging);

/* Pages were mapped that have not proven themselves: count of them, from this one on in this
 * direction; by a stream or not. Any thread. Signal. */
void wr_aging_arrived(struct wr_aging *aging, uint32_t page, uint32_t count, int direction,
                      bool is_passing);
/* A page that was mapped is in no queue: have kpaged look for it. Any thread. Signal. */
void wr_aging_lost(struct wr_aging *aging);

/* A page was wanted that kswapd had unmapped and cached. Any thread. Signal. */
void wr_aging_wanted(struct wr_aging *aging);
/* kswapd has unmapped so many pages that stay cached. (victims.c) */
void wr_aging_unmapped(struct wr_aging *aging, uint32_t count);
/* Does a page rise that is back after so many evictions? Any thread. Signal. */
bool wr_aging_rises(struct wr_aging *aging, uint32_t distance);

/* kpaged: put victims in the lists until they hold so many together. How many were put. */
uint32_t wr_aging_pass(struct wr_aging *aging, uint32_t target);

/* Victims in all lists (seed S), and in the list of one region. Any thread. */
uint32_t wr_aging_listed(const struct wr_aging *aging);
uint32_t wr_aging_listed_of(const struct wr_aging *aging, uint32_t region);

/* kswapd: collect up to want page numbers. Inside the gate. They are candidates: each must be
 * judged again under its lock. (victims.c) */
uint32_t wr_aging_collect(struct wr_aging *aging, enum wr_victims kind, uint32_t want,
                          uint32_t *pages);

/* Begin to choose: each hand goes round once from here on. Then the next victim by the rules of
 * policy.h, again and again. False: there is none. */
void wr_aging_begin(const struct wr_aging *aging, struct wr_chooser *chooser);
bool wr_aging_choose(struct wr_aging *aging, struct wr_chooser *chooser, uint32_t *page_p);

/* A page that could not be taken: back into its queue. kswapd. (victims.c) */
void wr_aging_return(struct wr_aging *aging, uint32_t page);

enum wr_aging_mode { WR_AGING_GREEN, WR_AGING_YELLOW, WR_AGING_ORANGE, WR_AGING_RED };

/* The colour of this moment (seed C29). Arithmetic: no clock, no lock. */
enum wr_aging_mode wr_aging_mode(int64_t free, int64_t min, int64_t low, int64_t high,
                                 bool is_wanted);
enum wr_aging_mode wr_aging_mode_now(const struct wr_frames *frames);

uint64_t wr_aging_metadata(const struct wr_aging *aging);
