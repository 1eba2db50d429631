/* SPDX-License-Identifier: MIT */

/* Places: how many clusters fit, and which members a cluster goes to. */

#include "transport/array_map_in.h"

/* --- Taking ------------------------------------------------------------------------------------
 */

uint32_t wr_map_free_places(const struct wr_map_member *member)
{
    return member->places - member->used + member->free_count;
}

uint32_t wr_map_take_place(struct wr_map_member *member)
{
    if (member->free_count > 0)
        return member->free[--member->free_count];
    return member->used++;
}

void wr_map_give_place(struct wr_map *map, struct wr_map_piece piece)
{
    struct wr_map_member *member = &map->member[piece.member];

    member->free[member->free_count++] = piece.place;
}

/* Of those, how many are not kept for patches. */
static uint32_t spare_places(const struct wr_map *map, uint32_t member)
{
    const uint32_t free = wr_map_free_places(&map->member[member]);
    const uint32_t kept = map->lent >> member & 1 ? 0 : map->reserve;

    return free > kept && !map->member[member].is_closed ? free - kept : 0;
}

/* --- Order -------------------------------------------------------------------------------------
 */

uint64_t wr_map_capacity(uint32_t pieces, const uint32_t *places, uint32_t members)
{
    uint64_t low = 0, high = 0;

    for (uint32_t i = 0; i < members; i++)
        high += places[i];
    high /= pieces;
    /* The most for which no member's excess over one piece of each cluster is counted. */
    while (low < high) {
        const uint64_t middle = low + (high - low + 1) / 2;
        uint64_t sum = 0;

        for (uint32_t i = 0; i < members; i++)
            sum += places[i] < middle ? places[i] : middle;
        if (sum >= middle * pieces)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

void wr_map_member_replace(struct wr_map *map, uint32_t number, const char *name, uint32_t places)
{
    uint64_t seed = 0xcbf29ce484222325u;

    for (; *name; name++)
        seed = (seed ^ (unsigned char)*name) * 0x100000001b3u;
    /* Of the same name: another one all the same. */
    for (uint32_t i = 0; i < map->members; i++)
        if (i != number && map->member[i].seed == mix(seed))
            seed++, i = UINT32_MAX;
    map->member[number].seed = mix(seed);
    map->member[number].weight = places;
}

uint32_t wr_map_member_add(struct wr_map *map, const char *name, uint32_t places)
{
    map->member[map->members] = (struct wr_map_member){.life = 0};
    wr_map_member_replace(map, map->members, name, places);
    return map->members++;
}

/* -log2(x / 2^64) in units of 2^-32: x is not 0. By squaring: the same on every machine. */
static uint64_t minus_log2(uint64_t x)
{
    const uint32_t zeros = (uint32_t)__builtin_clzll(x);
    uint64_t fraction = 0;

    x <<= zeros;
    for (uint32_t i = 0; i < 32; i++) {
        __extension__ unsigned __int128 square = (unsigned __int128)x * x;

        fraction <<= 1;
        if (square >> 127) {
            fraction |= 1;
            x = (uint64_t)(square >> 64);
        } else {
            x = (uint64_t)(square >> 63);
        }
    }
    return ((uint64_t)zeros + 1) * (1ull << 32) - fraction;
}

/*
 * Rendezvous: each member draws a number for the cluster, exponentially distributed with its weight
 * as the rate; the lowest wins. A member that comes or goes changes only what it wins itself.
 */
void wr_map_order(const struct wr_map *map, uint64_t cluster, uint32_t order[WR_MAP_MEMBERS])
{
    uint64_t draw[WR_MAP_MEMBERS];

    for (uint32_t i = 0; i < map->members; i++) {
        const struct wr_map_member *member = &map->member[i];
        uint64_t value = minus_log2(mix(member->seed + cluster * 0x9e3779b97f4a7c15u) | 1);
        uint32_t at = i;

        value = member->weight ? (value << 16) / member->weight : UINT64_MAX;
        for (; at > 0 && draw[order[at - 1]] > value; at--)
            order[at] = order[at - 1];
        order[at] = i;
        draw[i] = value;
    }
}

/* --- Choosing ----------------------------------------------------------------------------------
 */

bool wr_map_is_on(const struct wr_map *map, uint64_t cluster, uint32_t member)
{
    for (uint32_t i = 0; i < map->pieces; i++) {
        struct wr_map_piece piece = wr_map_piece(map, cluster, i);

        if (piece.state != WR_PIECE_NONE && piece.member == member)
            return true;
    }
    return false;
}

/* As far as room goes. */
static bool has_room(const struct wr_map *map, uint64_t cluster, uint32_t member)
{
    return spare_places(map, member) > 0 && !wr_map_is_on(map, cluster, member);
}

bool wr_map_can_go(const struct wr_map *map, uint64_t cluster, uint32_t member)
{
    return atomic_load(&map->member[member].is_up) && !map->member[member].is_resting &&
           has_room(map, cluster, member);
}

bool wr_map_should_go(const struct wr_map *map, uint64_t cluster, uint32_t member)
{
    return !map->member[member].is_leaving && wr_map_can_go(map, cluster, member);
}

bool wr_map_is_feasible(const struct wr_map *map, uint32_t taken, uint32_t left, uint64_t clusters)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < map->members; i++) {
        uint64_t room = spare_places(map, i) - (taken >> i & 1) + (left >> i & 1);

        if (map->member[i].is_leaving)
            continue;
        sum += room < clusters ? room : clusters;
    }
    return sum >= clusters * map->pieces;
}

/* The first in order, of those that leave or of those that do not, until there are enough. */
static uint32_t choose_more(const struct wr_map *map, uint64_t cluster,
                            const uint32_t order[WR_MAP_MEMBERS], bool is_leaving, uint32_t taken)
{
    for (uint32_t i = 0; i < map->members; i++)
        if ((uint32_t)__builtin_popcount(taken) < map->pieces &&
            map->member[order[i]].is_leaving == is_leaving && wr_map_can_go(map, cluster, order[i]))
            taken |= 1u << order[i];
    return taken;
}

/* Too few answer: others that have room, too. Perhaps they answer after all; if not, it is their
 * error that tells whether to wait for them. */
static uint32_t choose_silent(const struct wr_map *map, uint64_t cluster, uint32_t taken)
{
    uint32_t order[WR_MAP_MEMBERS], count = (uint32_t)__builtin_popcount(taken);

    wr_map_order(map, cluster, order);
    for (uint32_t i = 0; i < map->members && count < map->pieces; i++)
        if (!(taken >> order[i] & 1) && has_room(map, cluster, order[i])) {
            taken |= 1u << order[i];
            count++;
        }
    return count < map->need ? 0 : taken;
}

/* In order of its draws; when that would leave room at too few of them for the last clusters, those
 * with most room. */
uint32_t wr_map_choose_members(const struct wr_map *map, uint64_t cluster)
{
    uint32_t order[WR_MAP_MEMBERS], taken, all, count;

    wr_map_order(map, cluster, order);
    taken = choose_more(map, cluster, order, false, 0);
    all = choose_more(map, cluster, order, true, taken);
    if ((uint32_t)__builtin_popcount(all) < map->need)
        return choose_silent(map, cluster, all);
    if (map->pieces == 1 || (uint32_t)__builtin_popcount(taken) < map->pieces ||
        wr_map_is_feasible(map, taken, 0, map->clusters - map->placed - 1))
        return all;
    for (taken = count = 0; count < map->pieces; count++) {
        uint32_t best = WR_MAP_NOBODY;

        for (uint32_t i = 0; i < map->members; i++)
            if (!(taken >> i & 1) && wr_map_should_go(map, cluster, i) &&
                (best == WR_MAP_NOBODY ||
                 wr_map_free_places(&map->member[i]) > wr_map_free_places(&map->member[best])))
                best = i;
        if (best != WR_MAP_NOBODY)
            taken |= 1u << best;
    }
    return taken;
}

struct wr_map_piece wr_map_take_at(struct wr_map *map, uint32_t member)
{
    return (struct wr_map_piece){.state = WR_PIECE_STALE,
                                 .member = member,
                                 .place = wr_map_take_place(&map->member[member]),
                                 .life = map->member[member].life};
}

struct wr_map_piece wr_map_take_any(struct wr_map *map, uint64_t cluster, uint32_t but)
{
    uint32_t order[WR_MAP_MEMBERS], chosen = WR_MAP_NOBODY;

    wr_map_order(map, cluster, order);
    for (uint32_t i = 0; i < map->members; i++) {
        const uint32_t member = order[i];

        if (but >> member & 1 || !wr_map_can_go(map, cluster, member) ||
            (chosen != WR_MAP_NOBODY &&
             (map->member[member].is_leaving || !map->member[chosen].is_leaving)))
            continue;
        chosen = member;
    }
    if (chosen == WR_MAP_NOBODY)
        return (struct wr_map_piece){.state = WR_PIECE_NONE};
    return wr_map_take_at(map, chosen);
}

struct wr_map_piece wr_map_take_instead(struct wr_map *map, uint64_t cluster, uint32_t but)
{
    uint32_t order[WR_MAP_MEMBERS];

    wr_map_order(map, cluster, order);
    for (uint32_t i = 0; i < map->members; i++)
        if (!(but >> order[i] & 1) &&
            (wr_map_is_on(map, cluster, order[i]) ? wr_map_free_places(&map->member[order[i]])
                                                  : spare_places(map, order[i])) > 0)
            return wr_map_take_at(map, order[i]);
    return (struct wr_map_piece){.state = WR_PIECE_NONE};
}

/* --- Leaving -----------------------------------------------------------------------------------
 */

bool wr_map_member_close(struct wr_map *map, uint32_t number)
{
    struct wr_map_member *member = &map->member[number];

    if (!member->is_leaving || member->used != member->free_count)
        return false;
    atomic_store(&member->is_up, false);
    member->is_gone = member->is_resting = false;
    member->is_closed = true;
    return true;
}

uint32_t wr_map_others(const struct wr_map *map, uint32_t member)
{
    uint32_t others = 0;

    for (uint32_t i = 0; i < map->members; i++)
        others += i != member && !map->member[i].is_leaving;
    return others;
}
