/* SPDX-License-Identifier: MIT */
#include "transport/array_map.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* A word: place, member, state, life. */
#define MEMBER_SHIFT 32
#define STATE_SHIFT  40
#define LIFE_SHIFT   42

struct wr_map_cluster {
    uint16_t writes; /* that hold it */
    _Atomic(uint8_t) flags;
    uint32_t number; /* grows each time it is placed or given up */
};

enum { PLACED = 1, HELD = 2, WANTED = 4, WAITED = 8, HOLED = 16 };

/* --- Life --------------------------------------------------------------------------------------
 */

/* Memory that costs nothing before it is touched. */
static void *reserve(uint64_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

static void release(void *memory, uint64_t bytes)
{
    if (memory)
        munmap(memory, bytes);
}

static uint64_t words_bytes(const struct wr_map *map)
{
    return map->clusters * map->pieces * sizeof(map->words[0]);
}

static uint64_t written_bytes(const struct wr_map *map)
{
    return map->clusters * WR_MAP_WORDS * sizeof(map->written[0]);
}

int wr_map_open(struct wr_map *map, uint32_t pieces, uint64_t clusters)
{
    *map = (struct wr_map){.pieces = pieces, .clusters = clusters};
    map->words = reserve(words_bytes(map));
    map->written = reserve(written_bytes(map));
    map->control = reserve(clusters * sizeof(*map->control));
    if (map->words && map->written && map->control)
        return WEIR_OK;
    wr_map_close(map);
    return WEIR_ENOMEM;
}

void wr_map_close(struct wr_map *map)
{
    for (uint32_t i = 0; i < map->members; i++)
        release(map->member[i].free, map->member[i].places * sizeof(uint32_t));
    release(map->words, words_bytes(map));
    release(map->written, written_bytes(map));
    release(map->control, map->clusters * sizeof(*map->control));
    *map = (struct wr_map){0};
}

/* --- Words -------------------------------------------------------------------------------------
 */

static _Atomic(uint64_t) *word_at(const struct wr_map *map, uint64_t cluster, uint32_t piece)
{
    return &map->words[cluster * map->pieces + piece];
}

struct wr_map_piece wr_map_piece(const struct wr_map *map, uint64_t cluster, uint32_t piece)
{
    /* With the reader's place in the gate: whoever changed it waits for us before he goes on. */
    uint64_t word = atomic_load(word_at(map, cluster, piece));

    return (struct wr_map_piece){.state = (enum wr_piece_state)(word >> STATE_SHIFT & 3),
                                 .member = (uint32_t)(word >> MEMBER_SHIFT & 0xff),
                                 .place = (uint32_t)word,
                                 .life = (uint32_t)(word >> LIFE_SHIFT & 1)};
}

static void set_piece(struct wr_map *map, uint64_t cluster, uint32_t number,
                      struct wr_map_piece piece)
{
    const struct wr_map_piece before = wr_map_piece(map, cluster, number);

    if (map->control[cluster].flags & PLACED) {
        map->missing += before.state == WR_PIECE_WHOLE;
        map->missing -= piece.state == WR_PIECE_WHOLE;
    }
    atomic_store(word_at(map, cluster, number), (uint64_t)piece.place |
                                                    (uint64_t)piece.member << MEMBER_SHIFT |
                                                    (uint64_t)piece.state << STATE_SHIFT |
                                                    (uint64_t)(piece.life & 1) << LIFE_SHIFT);
}

static void set_state(struct wr_map *map, uint64_t cluster, uint32_t number,
                      enum wr_piece_state state)
{
    struct wr_map_piece piece = wr_map_piece(map, cluster, number);

    piece.state = state;
    set_piece(map, cluster, number, piece);
}

/* Those of this state or a better one: bits. */
static uint32_t pieces_from(const struct wr_map *map, uint64_t cluster, enum wr_piece_state least)
{
    uint32_t bits = 0;

    for (uint32_t i = 0; i < map->pieces; i++)
        if (wr_map_piece(map, cluster, i).state >= least)
            bits |= 1u << i;
    return bits;
}

static uint32_t pieces_up(const struct wr_map *map, uint64_t cluster)
{
    uint32_t bits = 0;

    for (uint32_t i = 0; i < map->pieces; i++)
        if (atomic_load(&map->member[wr_map_piece(map, cluster, i).member].is_up))
            bits |= 1u << i;
    return bits;
}

/* Has the cluster a piece there? */
static bool is_on(const struct wr_map *map, uint64_t cluster, uint32_t member)
{
    for (uint32_t i = 0; i < map->pieces; i++) {
        struct wr_map_piece piece = wr_map_piece(map, cluster, i);

        if (piece.state != WR_PIECE_NONE && piece.member == member)
            return true;
    }
    return false;
}

/* --- Pages -------------------------------------------------------------------------------------
 */

/* The bits of the pages [first, first + pages) in this word of them. */
static uint64_t page_bits(uint32_t word, uint32_t first, uint32_t pages)
{
    const uint32_t from = word * 64, end = first + pages;
    uint64_t bits = UINT64_MAX;

    if (first >= from + 64 || end <= from)
        return 0;
    if (first > from)
        bits &= UINT64_MAX << (first - from);
    if (end < from + 64)
        bits &= UINT64_MAX >> (from + 64 - end);
    return bits;
}

int wr_map_readable(const struct wr_map *map, uint64_t cluster, uint32_t first, uint32_t pages)
{
    bool is_all = true;

    for (uint32_t i = first / 64; i <= (first + pages - 1) / 64; i++) {
        const uint64_t bits = page_bits(i, first, pages);

        is_all &= (atomic_load(&map->written[cluster * WR_MAP_WORDS + i]) & bits) == bits;
    }
    if (is_all)
        return WEIR_OK;
    return map->control[cluster].flags & HOLED ? WEIR_EIO : WEIR_ENOENT;
}

static void set_written(struct wr_map *map, uint64_t cluster, uint32_t first, uint32_t pages)
{
    for (uint32_t i = 0; i < WR_MAP_WORDS; i++)
        atomic_fetch_or(&map->written[cluster * WR_MAP_WORDS + i], page_bits(i, first, pages));
}

static void forget_written(struct wr_map *map, uint64_t cluster)
{
    for (uint32_t i = 0; i < WR_MAP_WORDS; i++)
        atomic_store(&map->written[cluster * WR_MAP_WORDS + i], 0);
}

/* --- Places ------------------------------------------------------------------------------------
 */

static uint32_t free_places(const struct wr_map_member *member)
{
    return member->places - member->used + member->free_count;
}

static uint32_t take_place(struct wr_map_member *member)
{
    if (member->free_count > 0)
        return member->free[--member->free_count];
    return member->used++;
}

static void give_place(struct wr_map *map, struct wr_map_piece piece)
{
    struct wr_map_member *member = &map->member[piece.member];

    member->free[member->free_count++] = piece.place;
}

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

uint32_t wr_map_member_add(struct wr_map *map, const char *name, uint32_t places)
{
    struct wr_map_member *member = &map->member[map->members];
    uint64_t seed = 0xcbf29ce484222325u;

    for (; *name; name++)
        seed = (seed ^ (unsigned char)*name) * 0x100000001b3u;
    *member = (struct wr_map_member){.weight = places};
    /* Of the same name: another one all the same. */
    for (uint32_t i = 0; i < map->members; i++)
        if (map->member[i].seed == mix(seed))
            seed++, i = UINT32_MAX;
    member->seed = mix(seed);
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

static bool can_go(const struct wr_map *map, uint64_t cluster, uint32_t member)
{
    return atomic_load(&map->member[member].is_up) && !map->member[member].is_resting &&
           free_places(&map->member[member]) > 0 && !is_on(map, cluster, member);
}

/* Can so many clusters be placed, after one piece has come to each member of `taken` and one has
 * left each of `left`? */
static bool is_feasible(const struct wr_map *map, uint32_t taken, uint32_t left, uint64_t clusters)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < map->members; i++) {
        uint64_t room = free_places(&map->member[i]) - (taken >> i & 1) + (left >> i & 1);

        sum += room < clusters ? room : clusters;
    }
    return sum >= clusters * map->pieces;
}

/* The members for a new cluster, in order of its draws; when that would leave room at too few of
 * them for the last clusters, those with most room. Bits; none: there is no room. */
static uint32_t choose_members(const struct wr_map *map, uint64_t cluster)
{
    uint32_t order[WR_MAP_MEMBERS], taken = 0, count = 0;

    wr_map_order(map, cluster, order);
    for (uint32_t i = 0; i < map->members && count < map->pieces; i++)
        if (can_go(map, cluster, order[i])) {
            taken |= 1u << order[i];
            count++;
        }
    if (map->pieces == 1 || count < map->pieces ||
        is_feasible(map, taken, 0, map->clusters - map->placed - 1))
        return taken;
    for (taken = count = 0; count < map->pieces; count++) {
        uint32_t best = WR_MAP_NOBODY;

        for (uint32_t i = 0; i < map->members; i++)
            if (!(taken >> i & 1) && can_go(map, cluster, i) &&
                (best == WR_MAP_NOBODY ||
                 free_places(&map->member[i]) > free_places(&map->member[best])))
                best = i;
        if (best != WR_MAP_NOBODY)
            taken |= 1u << best;
    }
    return taken;
}

/* A place at the first in order that has one; state NONE: nobody has. */
static struct wr_map_piece take_any(struct wr_map *map, uint64_t cluster)
{
    uint32_t order[WR_MAP_MEMBERS];

    wr_map_order(map, cluster, order);
    for (uint32_t i = 0; i < map->members; i++)
        if (can_go(map, cluster, order[i]))
            return (struct wr_map_piece){.state = WR_PIECE_STALE,
                                         .member = order[i],
                                         .place = take_place(&map->member[order[i]]),
                                         .life = map->member[order[i]].life};
    return (struct wr_map_piece){.state = WR_PIECE_NONE};
}

static bool place(struct wr_map *map, uint64_t cluster)
{
    const uint32_t chosen = choose_members(map, cluster);
    uint32_t number = 0;

    if (!chosen)
        return false;
    map->control[cluster].flags |= PLACED;
    map->control[cluster].number++;
    map->placed++;
    map->missing += map->pieces;
    /* Nothing was written: all of them have all of it. */
    for (uint32_t i = 0; i < map->members; i++)
        if (chosen >> i & 1)
            set_piece(map, cluster, number++,
                      (struct wr_map_piece){.state = WR_PIECE_WHOLE,
                                            .member = i,
                                            .place = take_place(&map->member[i]),
                                            .life = map->member[i].life});
    return true;
}

static void give_up(struct wr_map *map, uint64_t cluster)
{
    for (uint32_t i = 0; i < map->pieces; i++) {
        struct wr_map_piece piece = wr_map_piece(map, cluster, i);

        if (piece.state != WR_PIECE_NONE)
            give_place(map, piece);
        set_piece(map, cluster, i, (struct wr_map_piece){.state = WR_PIECE_NONE});
    }
    map->missing -= map->pieces;
    map->placed--;
    map->control[cluster].flags &= (uint8_t)~PLACED;
    map->control[cluster].number++;
    forget_written(map, cluster);
}

static bool has_written(const struct wr_map *map, uint64_t cluster)
{
    for (uint32_t i = 0; i < WR_MAP_WORDS; i++)
        if (atomic_load(&map->written[cluster * WR_MAP_WORDS + i]))
            return true;
    return false;
}

static void lose_from(struct wr_map *map, uint64_t cluster, uint32_t member)
{
    for (uint32_t i = 0; i < map->pieces; i++) {
        struct wr_map_piece piece = wr_map_piece(map, cluster, i);

        if (piece.state != WR_PIECE_NONE && piece.member == member)
            set_piece(map, cluster, i, (struct wr_map_piece){.state = WR_PIECE_NONE});
    }
    if (!(map->control[cluster].flags & PLACED) || pieces_from(map, cluster, WR_PIECE_WHOLE))
        return;
    if (has_written(map, cluster)) {
        /* Before its pages are forgotten: who reads them must not take them for zeros. */
        map->control[cluster].flags |= HOLED;
        map->lost++;
        forget_written(map, cluster);
    }
    if (!pieces_from(map, cluster, WR_PIECE_STALE)) {
        give_up(map, cluster);
        return;
    }
    /* Of nothing, those that are left have everything. They keep their places, where writes may be
     * in flight. */
    for (uint32_t i = 0; i < map->pieces; i++)
        if (wr_map_piece(map, cluster, i).state == WR_PIECE_STALE)
            set_state(map, cluster, i, WR_PIECE_WHOLE);
}

int wr_map_member_renew(struct wr_map *map, uint32_t number, uint32_t places)
{
    struct wr_map_member *member = &map->member[number];
    uint32_t *stack = reserve((uint64_t)places * sizeof(*stack));

    if (!stack)
        return WEIR_ENOMEM;
    for (uint64_t i = 0; i < map->clusters && member->life > 0; i++)
        lose_from(map, i, number);
    release(member->free, member->places * sizeof(*stack));
    member->free = stack;
    member->places = places;
    member->used = member->free_count = 0;
    member->weight = places;
    member->is_gone = member->is_resting = false;
    member->life++;
    return WEIR_OK;
}

/* --- Writes ------------------------------------------------------------------------------------
 */

/* Pieces that have nothing, or not all: a write of the whole cluster gives it to them. */
static uint32_t targets_of_all(struct wr_map *map, uint64_t cluster, uint32_t targets)
{
    for (uint32_t i = 0; i < map->pieces; i++)
        if (wr_map_piece(map, cluster, i).state == WR_PIECE_NONE)
            set_piece(map, cluster, i, take_any(map, cluster));
    return targets | (pieces_from(map, cluster, WR_PIECE_STALE) &
                      ~pieces_from(map, cluster, WR_PIECE_WHOLE) & pieces_up(map, cluster));
}

static uint32_t choose_targets(struct wr_map *map, uint64_t cluster, bool is_all)
{
    uint32_t whole = pieces_from(map, cluster, WR_PIECE_WHOLE);
    uint32_t targets = whole & pieces_up(map, cluster);

    if (!targets && is_all && map->control[cluster].writes == 0 &&
        choose_members(map, cluster) != 0) {
        give_up(map, cluster); /* what it has is written anew, elsewhere */
        place(map, cluster);
        whole = targets = pieces_from(map, cluster, WR_PIECE_WHOLE);
    }
    if (!targets)
        return whole; /* perhaps they answer after all */
    /* Those that are not there are as good as ever until the write has succeeded elsewhere. */
    return is_all ? targets_of_all(map, cluster, targets) : targets;
}

int wr_map_write_begin(struct wr_map *map, uint64_t cluster, uint32_t first, uint32_t pages,
                       struct wr_map_write *write_p)
{
    struct wr_map_cluster *control = &map->control[cluster];

    if (control->flags & (HELD | WANTED)) {
        control->flags |= WAITED;
        return WEIR_EAGAIN;
    }
    if (!(control->flags & PLACED) && !place(map, cluster))
        return WEIR_EFULL;
    *write_p = (struct wr_map_write){.cluster = cluster, .first = first, .pages = pages};
    write_p->targets = choose_targets(map, cluster, pages == WEIR_CLUSTER_SLOTS);
    write_p->number = control->number;
    for (uint32_t i = 0; i < map->pieces; i++) {
        write_p->piece[i] = wr_map_piece(map, cluster, i);
        write_p->piece[i].life = map->member[write_p->piece[i].member].life;
    }
    control->writes++;
    return WEIR_OK;
}

static bool is_same(const struct wr_map *map, uint64_t cluster, uint32_t number,
                    const struct wr_map_piece *then)
{
    const struct wr_map_piece now = wr_map_piece(map, cluster, number);

    return now.state != WR_PIECE_NONE && now.member == then->member && now.place == then->place &&
           map->member[now.member].life == then->life;
}

int wr_map_write_end(struct wr_map *map, const struct wr_map_write *write, uint32_t ok,
                     bool *idle_p)
{
    const uint64_t cluster = write->cluster;
    struct wr_map_cluster *control = &map->control[cluster];
    uint32_t whole;

    control->writes--;
    *idle_p = control->writes == 0 && (control->flags & WANTED);
    if (control->number != write->number)
        return WEIR_EIO;
    for (uint32_t i = 0; i < map->pieces && write->pages == WEIR_CLUSTER_SLOTS; i++)
        if (ok >> i & 1 && is_same(map, cluster, i, &write->piece[i]))
            set_state(map, cluster, i, WR_PIECE_WHOLE);
    whole = pieces_from(map, cluster, WR_PIECE_WHOLE);
    if (!(whole & ok))
        return WEIR_EIO;
    for (uint32_t i = 0; i < map->pieces; i++)
        if ((whole & ~ok) >> i & 1)
            set_state(map, cluster, i, WR_PIECE_STALE);
    if (write->pages == WEIR_CLUSTER_SLOTS)
        control->flags &= (uint8_t)~HOLED;
    set_written(map, cluster, write->first, write->pages);
    return WEIR_OK;
}

static bool let_go(struct wr_map *map, uint64_t cluster)
{
    struct wr_map_cluster *control = &map->control[cluster];
    bool is_waited = control->flags & WAITED;

    control->flags &= (uint8_t) ~(HELD | WANTED | WAITED);
    return is_waited;
}

bool wr_map_discard_begin(struct wr_map *map, uint64_t cluster, struct wr_map_piece *piece_p)
{
    struct wr_map_cluster *control = &map->control[cluster];

    if (control->writes > 0 || control->flags & (HELD | WANTED))
        return false;
    control->flags &= (uint8_t)~HOLED;
    if (!(control->flags & PLACED))
        return false;
    for (uint32_t i = 0; i < map->pieces; i++) {
        piece_p[i] = wr_map_piece(map, cluster, i);
        piece_p[i].life = map->member[piece_p[i].member].life;
    }
    control->flags |= HELD;
    return true;
}

bool wr_map_discard_end(struct wr_map *map, uint64_t cluster)
{
    if (map->control[cluster].flags & PLACED)
        give_up(map, cluster);
    map->control[cluster].flags &= (uint8_t)~HOLED;
    return let_go(map, cluster);
}

/* --- Jobs --------------------------------------------------------------------------------------
 */

static uint32_t rank_in(const uint32_t order[WR_MAP_MEMBERS], uint32_t member)
{
    uint32_t rank = 0;

    while (order[rank] != member)
        rank++;
    return rank;
}

/* A piece that would lie better elsewhere, and where; NOBODY: none would. Each move lowers the sum
 * of ranks, so that they come to an end. */
static uint32_t find_move(const struct wr_map *map, uint64_t cluster, uint32_t *member_p)
{
    uint32_t order[WR_MAP_MEMBERS], better = 0, worst = WR_MAP_NOBODY, worst_rank = 0;

    wr_map_order(map, cluster, order);
    while (better < map->members && !can_go(map, cluster, order[better]))
        better++;
    for (uint32_t i = 0; i < map->pieces; i++) {
        const uint32_t rank = rank_in(order, wr_map_piece(map, cluster, i).member);

        if (rank >= worst_rank) {
            worst = i;
            worst_rank = rank;
        }
    }
    if (better == map->members || worst_rank < better)
        return WR_MAP_NOBODY;
    *member_p = order[better];
    if (map->pieces > 1 &&
        !is_feasible(map, 1u << *member_p, 1u << wr_map_piece(map, cluster, worst).member,
                     map->clusters - map->placed))
        return WR_MAP_NOBODY;
    return worst;
}

/* May this piece be made whole, in its place or at another one? */
static bool is_wanting(const struct wr_map *map, uint64_t cluster, uint32_t number, bool *moves_p)
{
    const struct wr_map_piece piece = wr_map_piece(map, cluster, number);
    const struct wr_map_member *member = &map->member[piece.member];

    *moves_p = piece.state == WR_PIECE_NONE || (!atomic_load(&member->is_up) && member->is_gone);
    if (*moves_p) {
        for (uint32_t i = 0; i < map->members; i++)
            if (can_go(map, cluster, i))
                return true;
        return false;
    }
    return piece.state == WR_PIECE_STALE && atomic_load(&member->is_up) && !member->is_resting;
}

static uint32_t choose_piece(const struct wr_map *map, uint64_t cluster, bool may_move,
                             bool *moves_p, uint32_t *member_p)
{
    *member_p = WR_MAP_NOBODY;
    for (uint32_t i = 0; i < map->pieces; i++)
        if (is_wanting(map, cluster, i, moves_p))
            return i;
    *moves_p = true;
    if (!may_move || pieces_from(map, cluster, WR_PIECE_WHOLE) + 1 != 1u << map->pieces ||
        pieces_up(map, cluster) + 1 != 1u << map->pieces)
        return WR_MAP_NOBODY;
    return find_move(map, cluster, member_p);
}

static void fill_job(struct wr_map *map, struct wr_map_job *job, bool moves, uint32_t member)
{
    const struct wr_map_piece now = wr_map_piece(map, job->cluster, job->piece);

    job->before = (struct wr_map_piece){.state = WR_PIECE_NONE};
    if (!moves) {
        job->target = now;
        job->target.life = map->member[now.member].life;
        return;
    }
    if (member == WR_MAP_NOBODY)
        job->target = take_any(map, job->cluster);
    else
        job->target = (struct wr_map_piece){.state = WR_PIECE_STALE,
                                            .member = member,
                                            .place = take_place(&map->member[member]),
                                            .life = map->member[member].life};
    if (now.state == WR_PIECE_NONE) {
        set_piece(map, job->cluster, job->piece, job->target);
    } else {
        job->before = now;
        job->before.life = map->member[now.member].life;
    }
}

int wr_map_job_begin(struct wr_map *map, uint64_t cluster, bool may_move, struct wr_map_job *job_p)
{
    struct wr_map_cluster *control = &map->control[cluster];
    struct wr_map_job job = {.cluster = cluster};
    uint32_t member;
    bool moves;

    if (!(control->flags & PLACED) || control->flags & HELD)
        return WEIR_ENOENT;
    for (uint32_t i = 0; i < map->pieces; i++) {
        struct wr_map_piece piece = wr_map_piece(map, cluster, i);

        piece.life = map->member[piece.member].life;
        if (piece.state == WR_PIECE_WHOLE && atomic_load(&map->member[piece.member].is_up))
            job.from[job.from_count++] = piece;
    }
    job.piece = choose_piece(map, cluster, may_move, &moves, &member);
    if (job.from_count == 0 || job.piece == WR_MAP_NOBODY)
        return WEIR_ENOENT;
    if (control->writes > 0) {
        control->flags |= WANTED;
        return WEIR_EAGAIN;
    }
    control->flags = (uint8_t)((control->flags & ~WANTED) | HELD);
    fill_job(map, &job, moves, member);
    job.number = control->number;
    *job_p = job;
    return WEIR_OK;
}

bool wr_map_job_cancel(struct wr_map *map, uint64_t cluster)
{
    return let_go(map, cluster);
}

bool wr_map_job_end(struct wr_map *map, const struct wr_map_job *job, bool is_done, bool *waited_p)
{
    const bool moves = job->before.state != WR_PIECE_NONE;
    const bool lives = map->member[job->target.member].life == job->target.life;
    struct wr_map_piece target = job->target;

    *waited_p = let_go(map, job->cluster);
    if (is_done && lives && map->control[job->cluster].number == job->number &&
        is_same(map, job->cluster, job->piece, moves ? &job->before : &job->target)) {
        target.state = WR_PIECE_WHOLE;
        set_piece(map, job->cluster, job->piece, target);
        return moves;
    }
    if (moves && lives)
        give_place(map, target); /* nothing has ever pointed there */
    return false;
}

void wr_map_job_free(struct wr_map *map, const struct wr_map_job *job)
{
    if (map->member[job->before.member].life == job->before.life)
        give_place(map, job->before);
}

/* --- The law -----------------------------------------------------------------------------------
 */

static const char *cluster_wrong(const struct wr_map *map, uint64_t cluster, uint64_t *used,
                                 uint64_t *missing)
{
    const bool is_placed = map->control[cluster].flags & PLACED;
    const uint32_t whole = pieces_from(map, cluster, WR_PIECE_WHOLE);
    uint32_t members = 0;

    for (uint32_t i = 0; i < map->pieces; i++) {
        struct wr_map_piece piece = wr_map_piece(map, cluster, i);

        *missing += is_placed && piece.state != WR_PIECE_WHOLE;
        if (piece.state == WR_PIECE_NONE)
            continue;
        if (members >> piece.member & 1)
            return "two pieces lie at one member";
        if (piece.place >= map->member[piece.member].used)
            return "a piece lies where no place was taken";
        if (piece.life != (map->member[piece.member].life & 1))
            return "a piece is of a former life";
        members |= 1u << piece.member;
        used[piece.member]++;
    }
    if (is_placed != (whole != 0))
        return "a cluster is placed and not whole, or the reverse";
    return !is_placed && members ? "a cluster that is not placed has a piece" : NULL;
}

const char *wr_map_wrong(const struct wr_map *map)
{
    uint64_t used[WR_MAP_MEMBERS] = {0}, missing = 0, placed = 0;

    for (uint64_t i = 0; i < map->clusters; i++) {
        const char *wrong = cluster_wrong(map, i, used, &missing);

        if (wrong)
            return wrong;
        placed += map->control[i].flags & PLACED ? 1 : 0;
    }
    for (uint32_t i = 0; i < map->members; i++)
        if (used[i] != map->member[i].used - map->member[i].free_count)
            return "places are lost, or used twice";
    if (missing != map->missing || placed != map->placed)
        return "pieces are counted wrongly";
    return NULL;
}
