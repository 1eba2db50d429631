/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What an array does that is an erasure code, and not copies.
 *
 *   patcher  a thread (weir-kpatch) that writes parts of clusters, with the parity that they
 *            change, and reads for channels what is to be worked out from other pieces
 *   patch    what it is asked to do
 */

#include "transport/array.h"

/* A part of a request of a channel, for the patcher. */
struct wr_array_patch {
    const struct weir_io *io;
    uint32_t skip; /* pages of the request before the part */
    uint64_t cluster;
    uint32_t first, pages; /* within the cluster   */
    int error, os_error;   /* when it is done      */
    uint32_t tries;        /* the patcher's: of a write that failed */
    struct wr_array_patch *next;
    struct wr_array_patch *
        *home; /* a list where it comes to when it is done, by the array's lock, */
    int bell;  /* and an eventfd that is rung then */
};

/* array_decode.c: of a code. */
#define WR_ARRAY_SCRATCH_PAGES 16u
int wr_array_scratch_open(struct wr_array *array);
void wr_array_scratch_close(struct wr_array *array);
/* Pages of one cluster, by whatever way there is. Signal; inside the gate. */
int wr_array_read_coded(struct wr_array *array, uint64_t cluster, uint32_t first, uint32_t pages,
                        void *bytes);
/* The page by another way for each attempt: 0 is the piece that has it. Signal; inside the gate. */
int wr_array_reread_coded(struct wr_array *array, uint64_t cluster, uint32_t page, uint32_t attempt,
                          void *bytes);
/* Rows of one piece, also of one that is nowhere; scratch has as much room as bytes. Inside the
 * gate. Who calls it sees to it that the version is what it should be. */
int wr_array_recover(struct wr_array *array, uint64_t cluster, uint32_t piece, uint32_t row,
                     uint32_t rows, void *bytes, void *scratch);

/* array_patch.c: of a code. */
/* Before the other threads. */
int wr_array_patcher_start(struct wr_array *array);
/* After them, when no patch is under way. Nothing, if it was not started. */
void wr_array_patcher_stop(struct wr_array *array);
void wr_array_patch_put(struct wr_array *array, struct wr_array_patch *patch);
/* Under the array's lock: somebody has let go of a cluster. */
void wr_array_patch_wake(struct wr_array *array);
/* The addresses of so many pages of a vector, behind so many others. */
void wr_array_pages(const struct weir_io *io, uint32_t skip, uint32_t pages, unsigned char **page);
