/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Weir, a trace: the faults of a run, one by one, as WEIR_TRACE=FILE has them written.
 *
 *   head      one struct weir_trace_head
 *   record    struct weir_trace_record; what follows a record of some kinds is said below
 *   page      the number of a page of 4096 bytes. A region has a run of such numbers that begins at
 *             a multiple of 512, so that neighbours by number are neighbours by address. A page of
 *             an object has one number, through whichever view it was touched
 *
 * The file is a head and then records, all of them in the byte order of the machine that wrote
 * them: weir_trace_head.byte_order tells. Records are in the order in which the faults were done,
 * which is not quite that of their times: those are of many threads.
 *
 * A trace has what a pager can see: a page that is mapped is touched unseen. See docs/TESTING.md
 * for what that means to who replays one.
 */

#include <stdint.h>

#define WEIR_TRACE_MAGIC      "WEIRTRC"   /* and the final 0: 8 bytes */
#define WEIR_TRACE_BYTE_ORDER 0x01020304u /* as the writer has it     */
#define WEIR_TRACE_VERSION    1u

struct weir_trace_head {
    char magic[8];
    uint32_t byte_order;
    uint32_t version;
    uint32_t head_bytes;   /* records begin there                     */
    uint32_t record_bytes; /* sizeof(struct weir_trace_record)        */
    uint32_t page_bytes;   /* 4096                                    */
    uint32_t region_bytes; /* sizeof(struct weir_trace_region)        */
    uint64_t budget_pages; /* of the runtime when it was opened       */
    uint64_t reserved[2];  /* 0                                       */
};

/* In one byte: a kind, and for a fault whether the touch was known to be a store. */
#define WEIR_TRACE_STORE 0x80u

enum weir_trace_kind {
    WEIR_TRACE_ZERO = 1,    /* a page's first touch, a load: it shows zeros and has no memory     */
    WEIR_TRACE_FIRST = 2,   /* its first touch for which it was given memory                      */
    WEIR_TRACE_FOUND = 3,   /* it was unmapped, and its bytes were still in memory                */
    WEIR_TRACE_READ = 4,    /* it was read from a back end, and the thread waited for that        */
    WEIR_TRACE_JOINED = 5,  /* it was being read already, for another thread or ahead             */
    WEIR_TRACE_WRITTEN = 6, /* the first store to a page that was mapped clean, or showed zeros   */
    WEIR_TRACE_VIEW = 7,    /* it was resident, and was mapped in one more view                   */
    WEIR_TRACE_EVICTED = 8, /* no fault: nobody wanted the page, and its memory was taken         */

    WEIR_TRACE_REGION = 32, /* page: its first; region: its number from here on. Then a
                               struct weir_trace_region                                           */
    WEIR_TRACE_LOST = 33,   /* page: so many records were lost before this one                    */
    WEIR_TRACE_END = 34     /* the last, of a trace that was closed. Then a struct
                               weir_trace_end                                                     */
};

struct weir_trace_record {
    uint64_t ns;     /* since the runtime was opened                                     */
    uint32_t page;   /*                                                                  */
    uint16_t region; /* number of its region, or of the object whose view it is; 0: not known */
    uint8_t kind;    /* enum weir_trace_kind, perhaps with WEIR_TRACE_STORE              */
    uint8_t thread;  /* a small number that differs between threads running at one time  */
};

struct weir_trace_region {
    uint64_t address; /* 0: of an object, which has no place of its own */
    uint32_t pages;
    uint32_t serial; /* never used twice in a process */
    char name[32];   /* ended by 0                    */
};

struct weir_trace_end {
    uint64_t records; /* faults and evictions in the file */
    uint64_t lost;    /* those that found no room         */
};
