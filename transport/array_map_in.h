/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The inside of the map: what its files share (array_map.c: states and pages; array_place.c: where
 * pieces go; array_job.c: who holds a cluster alone). Nobody else includes this.
 */

#include "transport/array_map.h"

struct wr_map_cluster {
    uint16_t writes; /* that hold it */
    _Atomic(uint8_t) flags;
    uint32_t number; /* grows each time it is placed or given up */
    _Atomic(uint32_t) version;
};

enum { WR_PLACED = 1, WR_HELD = 2, WR_WANTED = 4, WR_WAITED = 8, WR_HOLED = 16 };

/* array_map.c */
void wr_map_set_piece(struct wr_map *map, uint64_t cluster, uint32_t number,
                      struct wr_map_piece piece);
void wr_map_set_state(struct wr_map *map, uint64_t cluster, uint32_t number,
                      enum wr_piece_state state);
/* Bits of pieces: those of this state or a better one; at members that are up; WHOLE or void. */
uint32_t wr_map_pieces_from(const struct wr_map *map, uint64_t cluster, enum wr_piece_state least);
uint32_t wr_map_pieces_up(const struct wr_map *map, uint64_t cluster);
uint32_t wr_map_sound(const struct wr_map *map, uint64_t cluster);
/* The same with the member's life in full. */
struct wr_map_piece wr_map_piece_full(const struct wr_map *map, uint64_t cluster, uint32_t number);
/* Is the piece still where it was? */
bool wr_map_is_same(const struct wr_map *map, uint64_t cluster, uint32_t number,
                    const struct wr_map_piece *then);
void wr_map_set_written(struct wr_map *map, uint64_t cluster, uint32_t first, uint32_t pages);
void wr_map_forget_written(struct wr_map *map, uint64_t cluster, uint32_t first, uint32_t pages);
/* The version becomes odd, and even again. */
void wr_map_begin_change(struct wr_map *map, uint64_t cluster);
void wr_map_end_change(struct wr_map *map, uint64_t cluster);
/* After a piece was lost: what can no more be read is a hole. */
void wr_map_settle(struct wr_map *map, uint64_t cluster);
/* False: there is no room. */
bool wr_map_place(struct wr_map *map, uint64_t cluster);
/* Whoever held or wanted it does so no longer. True: somebody waits for it. */
bool wr_map_let_go(struct wr_map *map, uint64_t cluster);

/* array_place.c */
uint32_t wr_map_free_places(const struct wr_map_member *member);
uint32_t wr_map_take_place(struct wr_map_member *member);
void wr_map_give_place(struct wr_map *map, struct wr_map_piece piece);
/* Has the cluster a piece there? */
bool wr_map_is_on(const struct wr_map *map, uint64_t cluster, uint32_t member);
/* May a piece of the cluster, which has none there, come to this member? And is it to, while there
 * are others? */
bool wr_map_can_go(const struct wr_map *map, uint64_t cluster, uint32_t member);
bool wr_map_should_go(const struct wr_map *map, uint64_t cluster, uint32_t member);
/* Can so many clusters be placed, after one piece has come to each member of `taken` and one has
 * left each of `left`? */
bool wr_map_is_feasible(const struct wr_map *map, uint32_t taken, uint32_t left, uint64_t clusters);
/* The members for a new cluster: bits; such as do not answer only if others are too few. None:
 * there is no room. */
uint32_t wr_map_choose_members(const struct wr_map *map, uint64_t cluster);
/* A place at this member, which has one. */
struct wr_map_piece wr_map_take_at(struct wr_map *map, uint32_t member);
/* At the first in order that has one and is none of `but`, better at one that does not leave; state
 * NONE: nobody has. */
struct wr_map_piece wr_map_take_any(struct wr_map *map, uint64_t cluster, uint32_t but);
/* The same, also where the cluster has a piece, which will leave its place, and where nobody
 * answers. */
struct wr_map_piece wr_map_take_instead(struct wr_map *map, uint64_t cluster, uint32_t but);
