/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Map: which piece of which cluster of an array lies where, and whether it is what it should be.
 * Arithmetic: no thread, no clock, no device. Its caller has a lock around every call; only the
 * words, the written pages, the versions and is_up are read without it, by threads that fault.
 *
 *   member   a back end of which the array is made; its room is cut into places
 *   place    room for one piece, at one member: `rows` pages
 *   piece    a part of a cluster (there are `pieces` of each, on different members). Of copies,
 *            each is all of it, and need is 1. Of a code, any `need` of them give all the others:
 *            the first `need` are data, each `rows` neighbouring pages, of which the last may have
 *            fewer; the rest are parity. A piece is
 *     NONE     nowhere
 *     STALE    at a place that has not all that was written
 *     WHOLE    at a place that has everything
 *   placed   a cluster that has a whole piece; others have no piece anywhere
 *   written  a page that was written since its cluster was placed; others read as zeros, and count
 *            as zeros in the parity, whatever their place holds
 *   void     a data piece of which no page is written: it is known, wherever it is
 *   sound    a piece that is WHOLE or void
 *   holed    a cluster of which pages were lost, since too few pieces were sound: what is not
 *            written again is refused, never zero; of nothing, every piece has everything
 *   up       a member that answers; its places are written and read first
 *   gone     a member that is away for so long that its pieces are made anew at others
 *   leaving  a member that is to be empty: its pieces move to others, as far as those have room,
 *            and new ones come to it only where nobody else has any
 *   closed   a member that was leaving, and is empty: nothing comes there until its next life
 *   held     a cluster is held by any number of writes, or by one who rebuilds or patches it
 *   patch    a write of some pages to a cluster of a code, and of the parity that they change
 *   version  of a cluster: odd while its pages and its parity do not fit together. Who works a page
 *            out from others has done so in vain if it is not even, and the same, before and after
 *   missing  pieces of placed clusters that are not WHOLE
 *   reserve  places at each member that only patches take
 *
 * Always: `need` pieces of a placed cluster are sound. A write that fails everywhere leaves every
 * piece as it was, since only the pages that it was to write are undefined then; one that succeeds
 * makes all pieces STALE that do not have it. What is to be rebuilt is seen from the words alone,
 * there is no queue of it that could forget a piece.
 *
 * A patch has no hole through which pages that it does not write are lost. All pieces WHOLE, and
 * all members up: pages and parity are written where they are. If too many fail, the data is as
 * good as before (but for the pages that were to be written), and the parity is STALE. Else there
 * would be pieces to work pages out from that fit together no more: everything is written to other
 * places, and nothing points there before `need` of them have all of it.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <weir/weir_backend.h>

#define WR_MAP_MEMBERS 16u
#define WR_MAP_WORDS   (WEIR_CLUSTER_SLOTS / 64)
#define WR_MAP_NOBODY  UINT32_MAX

enum wr_piece_state { WR_PIECE_NONE, WR_PIECE_STALE, WR_PIECE_WHOLE };

struct wr_map_piece {
    enum wr_piece_state state;
    uint32_t member, place;
    uint32_t life; /* of the member; without the lock only its lowest bit */
};

struct wr_map_member {
    _Atomic(bool) is_up;
    bool is_gone, is_leaving, is_closed;
    bool is_resting; /* something failed there a moment ago: nothing is rebuilt on it for now */
    uint32_t life;   /* grows when its contents are lost, or it comes for the first time */
    uint32_t places, used, free_count; /* how many there are, were ever taken, were given back */
    uint32_t *free;                    /* those that were given back */
    uint64_t seed;   /* of its draws: from its name, so that its neighbours do not matter */
    uint64_t weight; /* its size */
};

struct wr_map {
    uint32_t pieces, need, rows, reserve, members;
    uint32_t lent; /* members (bits) of which a patch has the reserve, and will give it back */
    uint64_t clusters, placed;
    struct wr_map_member member[WR_MAP_MEMBERS];
    _Atomic(uint64_t) *words;   /* clusters * pieces */
    _Atomic(uint64_t) *written; /* clusters * WR_MAP_WORDS, a bit for each page */
    struct wr_map_cluster *control;
    uint64_t missing, lost; /* lost: clusters that became holed, ever */
};

/* What a write has to do, from begin to end. */
struct wr_map_write {
    uint64_t cluster;
    uint32_t first, pages; /* within the cluster                     */
    uint32_t targets;      /* pieces that are to be written: bits    */
    uint32_t number;       /* the cluster's when it began            */
    struct wr_map_piece piece[WR_MAP_MEMBERS];
};

/* One piece that is to be made whole, or to be moved. */
struct wr_map_job {
    uint64_t cluster;
    uint32_t piece, number, version;
    struct wr_map_piece from[WR_MAP_MEMBERS]; /* whole ones that answer */
    uint32_t from_count;
    struct wr_map_piece target, before; /* where it was, when it moves; or state NONE */
};

/* A patch. Of pieces that are of no state in target nothing is written. */
struct wr_map_patch {
    uint64_t cluster;
    uint32_t first, pages; /* within the cluster */
    uint32_t number, version;
    bool is_in_place; /* the pages and their parity alone; else everything that is written */
    bool has_sent;    /* the caller's: something was written in place, or may have been    */
    struct wr_map_piece target[WR_MAP_MEMBERS];
    struct wr_map_piece before[WR_MAP_MEMBERS]; /* not in place: what is left behind */
};

/* How many pages the place of a piece has; how many places of each member only patches take. */
uint32_t wr_map_rows(uint32_t need);
uint32_t wr_map_reserve(uint32_t need);
/* Room for so many clusters of so many pieces, of which so many give the others. Members: none is
 * known yet. WEIR_ENOMEM. */
int wr_map_open(struct wr_map *map, uint32_t pieces, uint32_t need, uint64_t clusters);
void wr_map_close(struct wr_map *map);

/* The most clusters that so many members of these places can hold, each on `pieces` of them. */
uint64_t wr_map_capacity(uint32_t pieces, const uint32_t *places, uint32_t members);

/* Another member, by its name; it is not up. Its number. */
uint32_t wr_map_member_add(struct wr_map *map, const char *name, uint32_t places);
/* One that is closed, or was never there, is another one from now on. */
void wr_map_member_replace(struct wr_map *map, uint32_t member, const char *name, uint32_t places);
/* What was there is gone, if anything was; it has so many places now, all empty. WEIR_ENOMEM:
 * nothing has changed. */
int wr_map_member_renew(struct wr_map *map, uint32_t member, uint32_t places);

/* If it is leaving, and empty, it is closed from now on, and not up: true. */
bool wr_map_member_close(struct wr_map *map, uint32_t member);
/* How many others there are that do not leave, and did not. */
uint32_t wr_map_others(const struct wr_map *map, uint32_t member);

/* Members in the order in which this cluster would be placed. */
void wr_map_order(const struct wr_map *map, uint64_t cluster, uint32_t order[WR_MAP_MEMBERS]);

/* --- Reading: also without the lock, in a signal handler -------------------------------------- */

struct wr_map_piece wr_map_piece(const struct wr_map *map, uint64_t cluster, uint32_t piece);
/* WEIR_OK: all of these pages were written; WEIR_ENOENT: some were not, and are anything;
 * WEIR_EIO: some are lost. */
int wr_map_readable(const struct wr_map *map, uint64_t cluster, uint32_t first, uint32_t pages);
/* Of a code: the data pieces whose page in this row is written (bits), how many pages a piece has,
 * and the version. */
uint32_t wr_map_row(const struct wr_map *map, uint64_t cluster, uint32_t row);
uint32_t wr_map_piece_pages(const struct wr_map *map, uint32_t piece);
uint32_t wr_map_version(const struct wr_map *map, uint64_t cluster);

/* --- Under the lock --------------------------------------------------------------------------- */

/* Of a code, whole clusters only: else it is a patch.
 * WEIR_OK; WEIR_EAGAIN: who rebuilds holds it, or wants to; try again when he has let go.
 * WEIR_EFULL: too few members have room, whether they are up or not. */
int wr_map_write_begin(struct wr_map *map, uint64_t cluster, uint32_t first, uint32_t pages,
                       struct wr_map_write *write_p);
/* ok: the targets that have it. WEIR_EIO: no whole piece has; of a code: fewer than `need` have it,
 * and no page of the cluster can be read until it is written again. *idle_p: somebody who wants to
 * rebuild it can do so now. */
int wr_map_write_end(struct wr_map *map, const struct wr_map_write *write, uint32_t ok,
                     bool *idle_p);

/* The cluster will not be read before it is written. Its pieces come to *piece_p, WR_MAP_MEMBERS
 * of them, for their members to be told; it is held until the end, when their places are free.
 * False: it is held, or was not placed; nothing happened. end: true, somebody waits for it. */
bool wr_map_discard_begin(struct wr_map *map, uint64_t cluster, struct wr_map_piece *piece_p);
bool wr_map_discard_end(struct wr_map *map, uint64_t cluster);

/* Something to make whole in this cluster: WEIR_OK and a job, the cluster is held; WEIR_EAGAIN:
 * writes hold it, no more begin, ask again when they have ended; WEIR_ENOENT: nothing, or nothing
 * that could be done now. may_move: also what would lie better elsewhere. */
int wr_map_job_begin(struct wr_map *map, uint64_t cluster, bool may_move, struct wr_map_job *job_p);
/* Let go. is_done: the target has all the bytes. *waited_p: somebody waits for the cluster. True:
 * the piece is whole there now, and what it left is still to be freed by wr_map_job_free(). */
bool wr_map_job_end(struct wr_map *map, const struct wr_map_job *job, bool is_done, bool *waited_p);
/* When nobody reads there any more. */
void wr_map_job_free(struct wr_map *map, const struct wr_map_job *job);
/* The one who rebuilds does not want this cluster any more. True: somebody waits for it. */
bool wr_map_job_cancel(struct wr_map *map, uint64_t cluster);

/* The cluster is held, and its pieces have targets: WEIR_OK. WEIR_EAGAIN: somebody holds it; try
 * again when he has let go. WEIR_EFULL: too few members have room, whether they are up or not. */
int wr_map_patch_begin(struct wr_map *map, uint64_t cluster, uint32_t first, uint32_t pages,
                       struct wr_map_patch *patch_p);
/* Let go. ok: the targets that have all they should, also those that had nothing to get. WEIR_EIO:
 * too few have. *waited_p: somebody waits for the cluster. If it was not in place, and WEIR_OK,
 * what is left behind is to be freed by wr_map_patch_free(), when nobody reads there any more. */
int wr_map_patch_end(struct wr_map *map, const struct wr_map_patch *patch, uint32_t ok,
                     bool *waited_p);
void wr_map_patch_free(struct wr_map *map, const struct wr_map_patch *patch);

/* Everything that is always so, of every cluster. For tests. NULL, or what is not. */
const char *wr_map_wrong(const struct wr_map *map);
