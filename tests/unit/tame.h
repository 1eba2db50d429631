/* SPDX-License-Identifier: MIT */
#pragma once

/* Members of arrays that do as they are told: "tame:N?size=..." is memory. */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <weir/weir_backend.h>

#define TAMED 8u

/* What is told to "tame:N", whoever has it open. */
extern struct tame_told {
    _Atomic(bool) fails;                     /* every request      */
    _Atomic(bool) is_away;                   /* every request, with WEIR_EAGAIN */
    _Atomic(uint32_t) pause_us;              /* each takes so much longer */
    uint32_t flags;                          /* that describe() gives */
    _Atomic(bool) is_full;                   /* every write, with WEIR_EFULL    */
    _Atomic(bool) refuses;                   /* to be opened       */
    _Atomic(bool) declines;                  /* to open a channel  */
    _Atomic(bool) stalls_open, stalls_close; /* and stays in there: in channel_close() */
    _Atomic(uint32_t) writes_to_fail; /* so many of the next, one or more done all the same */
    _Atomic(uint32_t) age;            /* of those who live: each change is a death */
} tame[TAMED];

/* How often a slot was read while it was written, of all of them together: never. */
extern _Atomic(uint32_t) tame_clashes;

/* "tame" is a kind from now on. */
void tame_register(void);
/* As kit_open(). */
struct weir_backend *tame_open_array(const char *spec);
/* Come back empty, once. */
void tame_kill(uint32_t number);
/* Its memory is wanted back, or no longer: of the opening that is the last. */
void tame_ask_back(uint32_t number, bool is_wanted);
/* How many openings there are that are not closed. */
uint32_t tame_open_count(uint32_t number);
/* Pieces that an array lacks. */
uint64_t tame_missing(struct weir_backend *array);
/* Is everybody up, the member in at least this life, and everything whole, within a minute? */
bool tame_is_whole(struct weir_backend *array, uint32_t member, uint32_t life);
