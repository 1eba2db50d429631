/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Mappers: which views of an object may map a page, in one word (seed B4, E4).
 *
 *   exact    up to five views, by number
 *   groups   a sixth saturates the word: from then on it names groups of views, number modulo 60,
 *            until the page is unmapped everywhere
 *
 * Always: a view that maps the page is named; one that is named need not map it, for views come and
 * go, and groups are shared. So the word is never counted down: to unmap from one view too many
 * costs time and nothing else, and whoever unmaps a page does it in all of them. Arithmetic; the
 * word is kept by the page's lock.
 */

#include <stdbool.h>
#include <stdint.h>

#define WR_VIEWS_MAX      4096u /* 12 bits of a number */
#define WR_MAPPERS_EXACT  5u
#define WR_MAPPERS_GROUPS 60u

/* Low four bits: how many numbers of 12 bits follow, or this: 60 bits of groups follow. */
#define WR_MAPPERS_SATURATED 15u

static inline uint32_t wr_mappers_number(uint64_t word, uint32_t i)
{
    return (uint32_t)(word >> (4 + 12 * i)) & (WR_VIEWS_MAX - 1);
}

static inline bool wr_mappers_has(uint64_t word, uint32_t view)
{
    uint32_t count = word & 15;

    if (count == WR_MAPPERS_SATURATED)
        return word >> (4 + view % WR_MAPPERS_GROUPS) & 1;
    for (uint32_t i = 0; i < count; i++)
        if (wr_mappers_number(word, i) == view)
            return true;
    return false;
}

static inline uint64_t wr_mappers_add(uint64_t word, uint32_t view)
{
    uint32_t count = word & 15;
    uint64_t groups = WR_MAPPERS_SATURATED;

    if (wr_mappers_has(word, view))
        return word;
    if (count == WR_MAPPERS_SATURATED)
        return word | 1ull << (4 + view % WR_MAPPERS_GROUPS);
    if (count < WR_MAPPERS_EXACT)
        return (word + 1) | (uint64_t)view << (4 + 12 * count);
    for (uint32_t i = 0; i < count; i++)
        groups |= 1ull << (4 + wr_mappers_number(word, i) % WR_MAPPERS_GROUPS);
    return groups | 1ull << (4 + view % WR_MAPPERS_GROUPS);
}

/* The lowest view from this number on, below end, that is named; or end. */
static inline uint32_t wr_mappers_next(uint64_t word, uint32_t from, uint32_t end)
{
    uint32_t count = word & 15, lowest = end;

    if (count == WR_MAPPERS_SATURATED) {
        while (from < end && !(word >> (4 + from % WR_MAPPERS_GROUPS) & 1))
            from++;
        return from < end ? from : end;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t number = wr_mappers_number(word, i);

        if (number >= from && number < lowest)
            lowest = number;
    }
    return lowest;
}
