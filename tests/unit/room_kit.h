/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What the tests of the rooms share: a room without a kernel.
 *
 *   host     the clock, sleeping and threads are real; memory is an array, addresses are numbers,
 *            and what would be done to page tables is only remembered
 *   space    all nouns of a runtime over such a host, small
 *   bring    a page to a state, by drawn edges
 *
 * Always: one world to a process; Criterion gives each test a process of its own.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/memory/space.h"

/* What was done to page tables: how often, and to how many pages. */
struct room_calls {
    _Atomic(uint32_t) calls, pages;
    _Atomic(uint64_t) addr;  /* of the last, where it has one       */
    _Atomic(uint32_t) frame; /* likewise, the first of its frames   */
};

struct room_host {
    struct wr_host host; /* first */
    _Atomic(uint32_t) parks, unparks, rings;
    uint64_t next_addr; /* where the next region goes */
    struct room_calls place, drop, release, guard;
    struct room_calls protect, read, punch; /* of objects: addr is the offset */
    int objects;                            /* open                           */
    uint32_t reads_fail;                    /* from the n-th page on; 0: none */
    uint8_t facts[WR_CHUNK_PAGES];          /* what the kernel would say of any range's pages */
    int facts_error;
    void (*on_unmap)(uint64_t addr); /* addresses are about to be anybody's; NULL: nobody asks */
    enum wr_hosted protect_result;
    int map_error; /* what region_map() returns; WEIR_OK: it succeeds */
};

struct room_events {
    uint32_t count;
    int error;
    enum weir_severity severity;
    char text[512]; /* of the last */
};

#define ROOM_PAGES      (16u * WR_CHUNK_PAGES)
#define ROOM_READERS    4u
#define ROOM_CHUNKS     16u
#define ROOM_EXTENTS    4u
#define ROOM_TOTAL      4000
#define ROOM_MIN        64
#define ROOM_LOW        128
#define ROOM_HIGH       192
#define ROOM_SCAN_RATIO 4
#define ROOM_FRAMES     (ROOM_READERS + ROOM_CHUNKS * WR_CACHE_CHUNK)
#define ROOM_NOT_YET_US 20000 /* after so long it is believed that a thread waits */

extern struct room_host room_host;
extern struct wr_stats room_stats;
extern struct wr_space room_space;
extern struct room_events room_events;
extern _Atomic(uint32_t) room_pressure; /* how often frames asked for reclaim */

/* A host with so many frames of memory. */
void room_host_open(uint32_t slab_pages, uint32_t staging_pages);

/* The host and the space, of the sizes above. */
void room_open(void);
/* A region of it. */
struct wr_region *room_map(uint32_t pages);

/* Bring an EMPTY page to a state; slot and frame stay unset. */
void room_bring(uint32_t page, enum wr_page_state state);
/* The same with a slot and a frame (WR_SLOT_NONE, WR_FRAME_NONE: none). */
void room_bring_with(uint32_t page, enum wr_page_state state, uint64_t slot, uint32_t frame);
/* What a page's descriptor says; nothing is held afterwards. */
struct wr_hold room_look(uint32_t page);
void room_set_flag(uint32_t page, enum wr_page_flag flag, bool on);

/* Does the call end in a failed check? In a forked child, so that nothing is changed here. */
bool room_dies(void (*call)(void *), void *context);
/* Let that child see a table of wr_reserve(), which forgoes forking. room_open() does its own. */
void room_inherit(void *area, uint64_t bytes);

void room_sleep_us(uint32_t us);

/* Wait until it is so; the test's time limit ends it otherwise. */
#define ROOM_AWAIT(condition) \
    while (!(condition))      \
    room_sleep_us(200)
