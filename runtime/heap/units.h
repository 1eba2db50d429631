/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Units: a heap's region in pieces of 64 KiB.
 *
 *   unit     64 KiB of the region; taken or free
 *   run      neighbouring units that were taken together, or are free together
 *   kind     what a unit is: free, cut into blocks of a class, or of a large block
 *   fresh    never taken since the region was mapped: reads as zero
 *   untold   free, and Weir does not know yet
 *
 * Always: two free runs are never neighbours. An untold unit is free. At most untold_max units are
 * untold when nobody is inside wr_units_put() or wr_units_tell().
 *
 * All of it is local memory: nothing here touches the region.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WR_UNIT_SHIFT 16u
#define WR_UNIT_BYTES ((size_t)1 << WR_UNIT_SHIFT)
#define WR_UNIT_NONE  UINT32_MAX
#define WR_UNIT_BINS  32u

/* Kinds; what lies between is a class of blocks (slabs.h). */
#define WR_UNIT_FREE  0u
#define WR_UNIT_LARGE 254u /* the first of a large block */
#define WR_UNIT_BODY  255u /* the others                 */

struct wr_unit {
    uint32_t length;     /* of the run: kept in the first and the last of a free run, and in the
                            first of a taken one */
    uint32_t next, prev; /* of the first of a free run: others in its bin */
};

struct wr_units {
    /* Set by wr_units_init(), constant afterwards. */
    char *base;
    uint32_t total, untold_max;
    size_t metadata_bytes;

    /* Read freely by who owns a block in the unit; written with the lock. */
    uint8_t *kind;

    pthread_mutex_t lock; /* of all below; nothing is taken inside but the runtime's own */
    struct wr_unit *unit;
    uint64_t *untold;           /* a bit each                                      */
    uint32_t bin[WR_UNIT_BINS]; /* free runs by the logarithm of their length      */
    uint32_t used;
    _Atomic(uint32_t) untold_count; /* others may look, to see whether to tell */
    uint32_t fresh;                 /* from here on all are fresh                      */
    uint32_t hand;                  /* where to look next for what is untold           */
    uint64_t told;                  /* units that Weir has been told of: a counter     */
};

/* base: a region of total units, aligned to one. False: no memory. */
bool wr_units_init(struct wr_units *units, char *base, uint32_t total, uint32_t untold_max);
void wr_units_fini(struct wr_units *units);

/* Take a run, the address of its first a multiple of so many units (a power of two). kind: of the
 * first; the others become BODY. WR_UNIT_NONE: there is no such run. */
uint32_t wr_units_take(struct wr_units *units, uint64_t count, uint64_t align, uint8_t kind,
                       bool *is_fresh_p);
/* Let the taken run that begins there have so many units. False: what follows is not free. */
bool wr_units_resize(struct wr_units *units, uint32_t first, uint32_t count);
void wr_units_put(struct wr_units *units, uint32_t first);
uint32_t wr_units_length(struct wr_units *units, uint32_t first);
/* Tell Weir of free units, if too many are untold; or of all. Slow: hold no lock. */
void wr_units_tell(struct wr_units *units, bool all);

/* Local memory of zeros that costs nothing until it is touched; NULL: there is none. */
void *wr_units_reserve(size_t bytes);
void wr_units_unreserve(void *memory, size_t bytes);
