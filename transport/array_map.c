/* SPDX-License-Identifier: MIT */
#include "transport/array_map_in.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* A word: place, member, state, life. */
#define MEMBER_SHIFT 32
#define STATE_SHIFT  40
#define LIFE_SHIFT   42

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

uint32_t wr_map_rows(uint32_t need)
{
    return (WEIR_CLUSTER_SLOTS + need - 1) / need;
}

/* One patch at a time: what it leaves behind is free again before the next. */
uint32_t wr_map_reserve(uint32_t need)
{
    return need > 1 ? 1 : 0;
}

int wr_map_open(struct wr_map *map, uint32_t pieces, uint32_t need, uint64_t clusters)
{
    *map = (struct wr_map){.pieces = pieces,
                           .need = need,
                           .rows = wr_map_rows(need),
                           .reserve = wr_map_reserve(need),
                           .clusters = clusters};
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

struct wr_map_piece wr_map_piece_full(const struct wr_map *map, uint64_t cluster, uint32_t number)
{
    struct wr_map_piece piece = wr_map_piece(map, cluster, number);

    piece.life = map->member[piece.member].life;
    return piece;
}

void wr_map_set_piece(struct wr_map *map, uint64_t cluster, uint32_t number,
                      struct wr_map_piece piece)
{
    const struct wr_map_piece before = wr_map_piece(map, cluster, number);

    if (map->control[cluster].flags & WR_PLACED) {
        map->missing += before.state == WR_PIECE_WHOLE;
        map->missing -= piece.state == WR_PIECE_WHOLE;
    }
    atomic_store(word_at(map, cluster, number), (uint64_t)piece.place |
                                                    (uint64_t)piece.member << MEMBER_SHIFT |
                                                    (uint64_t)piece.state << STATE_SHIFT |
                                                    (uint64_t)(piece.life & 1) << LIFE_SHIFT);
}

void wr_map_set_state(struct wr_map *map, uint64_t cluster, uint32_t number,
                      enum wr_piece_state state)
{
    struct wr_map_piece piece = wr_map_piece(map, cluster, number);

    piece.state = state;
    wr_map_set_piece(map, cluster, number, piece);
}

uint32_t wr_map_pieces_from(const struct wr_map *map, uint64_t cluster, enum wr_piece_state least)
{
    uint32_t bits = 0;

    for (uint32_t i = 0; i < map->pieces; i++)
        if (wr_map_piece(map, cluster, i).state >= least)
            bits |= 1u << i;
    return bits;
}

uint32_t wr_map_pieces_up(const struct wr_map *map, uint64_t cluster)
{
    uint32_t bits = 0;

    for (uint32_t i = 0; i < map->pieces; i++)
        if (atomic_load(&map->member[wr_map_piece(map, cluster, i).member].is_up))
            bits |= 1u << i;
    return bits;
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
    return map->control[cluster].flags & WR_HOLED ? WEIR_EIO : WEIR_ENOENT;
}

static bool is_written(const struct wr_map *map, uint64_t cluster, uint32_t page)
{
    return atomic_load(&map->written[cluster * WR_MAP_WORDS + page / 64]) >> page % 64 & 1;
}

uint32_t wr_map_row(const struct wr_map *map, uint64_t cluster, uint32_t row)
{
    uint32_t bits = 0;

    for (uint32_t i = 0; i < map->need && i * map->rows + row < WEIR_CLUSTER_SLOTS; i++)
        if (is_written(map, cluster, i * map->rows + row))
            bits |= 1u << i;
    return bits;
}

uint32_t wr_map_piece_pages(const struct wr_map *map, uint32_t piece)
{
    const uint32_t left = WEIR_CLUSTER_SLOTS - piece % map->need * map->rows;

    return piece >= map->need || left > map->rows ? map->rows : left;
}

static bool has_written(const struct wr_map *map, uint64_t cluster, uint32_t first, uint32_t pages)
{
    for (uint32_t i = 0; i < WR_MAP_WORDS; i++)
        if (atomic_load(&map->written[cluster * WR_MAP_WORDS + i]) & page_bits(i, first, pages))
            return true;
    return false;
}

uint32_t wr_map_sound(const struct wr_map *map, uint64_t cluster)
{
    uint32_t bits = wr_map_pieces_from(map, cluster, WR_PIECE_WHOLE);

    for (uint32_t i = 0; i < map->need; i++)
        if (!has_written(map, cluster, i * map->rows, wr_map_piece_pages(map, i)))
            bits |= 1u << i;
    return bits;
}

void wr_map_set_written(struct wr_map *map, uint64_t cluster, uint32_t first, uint32_t pages)
{
    for (uint32_t i = 0; i < WR_MAP_WORDS; i++)
        atomic_fetch_or(&map->written[cluster * WR_MAP_WORDS + i], page_bits(i, first, pages));
}

void wr_map_forget_written(struct wr_map *map, uint64_t cluster, uint32_t first, uint32_t pages)
{
    for (uint32_t i = 0; i < WR_MAP_WORDS; i++)
        atomic_fetch_and(&map->written[cluster * WR_MAP_WORDS + i], ~page_bits(i, first, pages));
}

/* --- Changes -----------------------------------------------------------------------------------
 */

uint32_t wr_map_version(const struct wr_map *map, uint64_t cluster)
{
    return atomic_load(&map->control[cluster].version);
}

static void grow(struct wr_map *map, uint64_t cluster, uint32_t by)
{
    atomic_fetch_add(&map->control[cluster].version, by);
}

void wr_map_begin_change(struct wr_map *map, uint64_t cluster)
{
    grow(map, cluster, 1);
}

void wr_map_end_change(struct wr_map *map, uint64_t cluster)
{
    grow(map, cluster, 1);
}

/* Of nothing, every piece that has a place has everything. */
static void count_as_whole(struct wr_map *map, uint64_t cluster)
{
    for (uint32_t i = 0; i < map->pieces; i++)
        if (wr_map_piece(map, cluster, i).state == WR_PIECE_STALE)
            wr_map_set_state(map, cluster, i, WR_PIECE_WHOLE);
}

bool wr_map_place(struct wr_map *map, uint64_t cluster)
{
    const uint32_t chosen = wr_map_choose_members(map, cluster);
    uint32_t order[WR_MAP_MEMBERS], number = 0;

    if (!chosen)
        return false;
    map->control[cluster].flags |= WR_PLACED;
    map->control[cluster].number++;
    map->placed++;
    map->missing += map->pieces;
    wr_map_order(map, cluster, order);
    /* Nothing was written: all of them have all of it. */
    for (uint32_t i = 0; i < map->members; i++) {
        struct wr_map_member *member = &map->member[order[i]];

        if (chosen >> order[i] & 1)
            wr_map_set_piece(map, cluster, number++,
                             (struct wr_map_piece){.state = WR_PIECE_WHOLE,
                                                   .member = order[i],
                                                   .place = wr_map_take_place(member),
                                                   .life = member->life});
    }
    return true;
}

static void give_up(struct wr_map *map, uint64_t cluster)
{
    for (uint32_t i = 0; i < map->pieces; i++) {
        struct wr_map_piece piece = wr_map_piece(map, cluster, i);

        if (piece.state != WR_PIECE_NONE)
            wr_map_give_place(map, piece);
        wr_map_set_piece(map, cluster, i, (struct wr_map_piece){.state = WR_PIECE_NONE});
    }
    map->missing -= map->pieces;
    map->placed--;
    map->control[cluster].flags &= (uint8_t)~WR_PLACED;
    map->control[cluster].number++;
    wr_map_forget_written(map, cluster, 0, WEIR_CLUSTER_SLOTS);
}

/* Pages of pieces that are neither whole nor can be had from the others, and parity that was made
 * with them. */
static void make_hole(struct wr_map *map, uint64_t cluster)
{
    const bool is_changing = wr_map_version(map, cluster) & 1;

    grow(map, cluster, is_changing ? 2 : 1);
    /* Before its pages are forgotten: who reads them must not take them for zeros. */
    map->control[cluster].flags |= WR_HOLED;
    map->lost++;
    for (uint32_t i = 0; i < map->pieces; i++) {
        const bool is_whole = wr_map_piece(map, cluster, i).state == WR_PIECE_WHOLE;

        if (i < map->need && !is_whole)
            wr_map_forget_written(map, cluster, i * map->rows, wr_map_piece_pages(map, i));
        else if (i >= map->need && is_whole)
            wr_map_set_state(map, cluster, i, WR_PIECE_STALE);
    }
    grow(map, cluster, is_changing ? 0 : 1);
}

void wr_map_settle(struct wr_map *map, uint64_t cluster)
{
    if ((uint32_t)__builtin_popcount(wr_map_sound(map, cluster)) < map->need)
        make_hole(map, cluster);
    if (wr_map_pieces_from(map, cluster, WR_PIECE_WHOLE))
        return;
    /* Nothing is written. Those that are left keep their places, where writes may be in flight. */
    if (wr_map_pieces_from(map, cluster, WR_PIECE_STALE))
        count_as_whole(map, cluster);
    else
        give_up(map, cluster);
}

static void lose_from(struct wr_map *map, uint64_t cluster, uint32_t member)
{
    for (uint32_t i = 0; i < map->pieces; i++) {
        struct wr_map_piece piece = wr_map_piece(map, cluster, i);

        if (piece.state != WR_PIECE_NONE && piece.member == member)
            wr_map_set_piece(map, cluster, i, (struct wr_map_piece){.state = WR_PIECE_NONE});
    }
    if (map->control[cluster].flags & WR_PLACED)
        wr_map_settle(map, cluster);
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
    member->is_gone = member->is_resting = member->is_leaving = member->is_closed = false;
    map->lent &= ~(1u << number);
    member->life++;
    return WEIR_OK;
}

/* --- Writes ------------------------------------------------------------------------------------
 */

/* A place for each piece that has none. */
static void take_missing(struct wr_map *map, uint64_t cluster)
{
    for (uint32_t i = 0; i < map->pieces; i++)
        if (wr_map_piece(map, cluster, i).state == WR_PIECE_NONE)
            wr_map_set_piece(map, cluster, i, wr_map_take_any(map, cluster, 0));
}

/* What the cluster has is written anew, elsewhere, if enough members have room. */
static bool place_again(struct wr_map *map, uint64_t cluster)
{
    uint32_t room = 0;

    for (uint32_t i = 0; i < map->members; i++)
        room += wr_map_can_go(map, cluster, i);
    if (map->control[cluster].writes > 0 || room < map->need)
        return false;
    give_up(map, cluster);
    return wr_map_place(map, cluster);
}

/* Of copies. */
static uint32_t choose_targets(struct wr_map *map, uint64_t cluster, bool is_all)
{
    uint32_t whole = wr_map_pieces_from(map, cluster, WR_PIECE_WHOLE);
    uint32_t targets = whole & wr_map_pieces_up(map, cluster);

    if (!targets && (is_all || !has_written(map, cluster, 0, WEIR_CLUSTER_SLOTS)) &&
        place_again(map, cluster))
        whole = targets = wr_map_pieces_from(map, cluster, WR_PIECE_WHOLE);
    if (!targets)
        return whole; /* perhaps they answer after all */
    /* Those that are not there are as good as ever until the write has succeeded elsewhere. */
    if (!is_all)
        return targets;
    /* Those that have nothing, or not all, get it. */
    take_missing(map, cluster);
    return targets |
           (wr_map_pieces_from(map, cluster, WR_PIECE_STALE) & wr_map_pieces_up(map, cluster) &
            ~wr_map_pieces_from(map, cluster, WR_PIECE_WHOLE));
}

/* Of a code, for a write of everything: what the pieces have does not matter any more. */
static uint32_t choose_all(struct wr_map *map, uint64_t cluster)
{
    uint32_t there, targets;

    take_missing(map, cluster);
    there = wr_map_pieces_from(map, cluster, WR_PIECE_STALE);
    targets = there & wr_map_pieces_up(map, cluster);
    if ((uint32_t)__builtin_popcount(targets) >= map->need)
        return targets;
    if (place_again(map, cluster))
        there = wr_map_pieces_from(map, cluster, WR_PIECE_STALE);
    return there; /* perhaps they answer after all */
}

int wr_map_write_begin(struct wr_map *map, uint64_t cluster, uint32_t first, uint32_t pages,
                       struct wr_map_write *write_p)
{
    struct wr_map_cluster *control = &map->control[cluster];

    if (control->flags & (WR_HELD | WR_WANTED)) {
        control->flags |= WR_WAITED;
        return WEIR_EAGAIN;
    }
    if (!(control->flags & WR_PLACED) && !wr_map_place(map, cluster))
        return WEIR_EFULL;
    *write_p = (struct wr_map_write){.cluster = cluster, .first = first, .pages = pages};
    write_p->targets = map->need > 1 ? choose_all(map, cluster)
                                     : choose_targets(map, cluster, pages == WEIR_CLUSTER_SLOTS);
    write_p->number = control->number;
    for (uint32_t i = 0; i < map->pieces; i++)
        write_p->piece[i] = wr_map_piece_full(map, cluster, i);
    control->writes++;
    return WEIR_OK;
}

bool wr_map_is_same(const struct wr_map *map, uint64_t cluster, uint32_t number,
                    const struct wr_map_piece *then)
{
    const struct wr_map_piece now = wr_map_piece(map, cluster, number);

    return now.state != WR_PIECE_NONE && now.member == then->member && now.place == then->place &&
           map->member[now.member].life == then->life;
}

/* Of a code: everything was to be written. Too few that have it: nobody knows what is there. */
static int end_all(struct wr_map *map, const struct wr_map_write *write, uint32_t ok)
{
    const uint64_t cluster = write->cluster;

    for (uint32_t i = 0; i < map->pieces; i++)
        if (!wr_map_is_same(map, cluster, i, &write->piece[i]))
            ok &= ~(1u << i);
    if ((uint32_t)__builtin_popcount(ok) < map->need) {
        map->control[cluster].flags |= WR_HOLED;
        wr_map_forget_written(map, cluster, 0, WEIR_CLUSTER_SLOTS);
        count_as_whole(map, cluster);
        return WEIR_EIO;
    }
    for (uint32_t i = 0; i < map->pieces; i++)
        if (wr_map_piece(map, cluster, i).state != WR_PIECE_NONE)
            wr_map_set_state(map, cluster, i, ok >> i & 1 ? WR_PIECE_WHOLE : WR_PIECE_STALE);
    map->control[cluster].flags &= (uint8_t)~WR_HOLED;
    wr_map_set_written(map, cluster, 0, WEIR_CLUSTER_SLOTS);
    return WEIR_OK;
}

int wr_map_write_end(struct wr_map *map, const struct wr_map_write *write, uint32_t ok,
                     bool *idle_p)
{
    const uint64_t cluster = write->cluster;
    struct wr_map_cluster *control = &map->control[cluster];
    uint32_t whole;

    control->writes--;
    *idle_p = control->writes == 0 && (control->flags & WR_WANTED);
    if (control->number != write->number)
        return WEIR_EIO;
    if (map->need > 1)
        return end_all(map, write, ok);
    for (uint32_t i = 0; i < map->pieces && write->pages == WEIR_CLUSTER_SLOTS; i++)
        if (ok >> i & 1 && wr_map_is_same(map, cluster, i, &write->piece[i]))
            wr_map_set_state(map, cluster, i, WR_PIECE_WHOLE);
    whole = wr_map_pieces_from(map, cluster, WR_PIECE_WHOLE);
    if (!(whole & ok))
        return WEIR_EIO;
    for (uint32_t i = 0; i < map->pieces; i++)
        if ((whole & ~ok) >> i & 1)
            wr_map_set_state(map, cluster, i, WR_PIECE_STALE);
    if (write->pages == WEIR_CLUSTER_SLOTS)
        control->flags &= (uint8_t)~WR_HOLED;
    wr_map_set_written(map, cluster, write->first, write->pages);
    return WEIR_OK;
}

bool wr_map_let_go(struct wr_map *map, uint64_t cluster)
{
    struct wr_map_cluster *control = &map->control[cluster];
    bool is_waited = control->flags & WR_WAITED;

    control->flags &= (uint8_t) ~(WR_HELD | WR_WANTED | WR_WAITED);
    return is_waited;
}

bool wr_map_discard_begin(struct wr_map *map, uint64_t cluster, struct wr_map_piece *piece_p)
{
    struct wr_map_cluster *control = &map->control[cluster];

    if (control->writes > 0 || control->flags & (WR_HELD | WR_WANTED))
        return false;
    control->flags &= (uint8_t)~WR_HOLED;
    if (!(control->flags & WR_PLACED))
        return false;
    for (uint32_t i = 0; i < map->pieces; i++)
        piece_p[i] = wr_map_piece_full(map, cluster, i);
    control->flags |= WR_HELD;
    return true;
}

bool wr_map_discard_end(struct wr_map *map, uint64_t cluster)
{
    if (map->control[cluster].flags & WR_PLACED)
        give_up(map, cluster);
    map->control[cluster].flags &= (uint8_t)~WR_HOLED;
    return wr_map_let_go(map, cluster);
}

/* --- The law -----------------------------------------------------------------------------------
 */

static const char *cluster_wrong(const struct wr_map *map, uint64_t cluster, uint64_t *used,
                                 uint64_t *missing)
{
    const bool is_placed = map->control[cluster].flags & WR_PLACED;
    const uint32_t whole = wr_map_pieces_from(map, cluster, WR_PIECE_WHOLE);
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
    if ((uint32_t)__builtin_popcount(wr_map_sound(map, cluster)) < map->need)
        return "a cluster has pages that cannot be had from what is whole";
    if (wr_map_version(map, cluster) & 1)
        return "a cluster is in the middle of a change";
    return !is_placed && members ? "a cluster that is not placed has a piece" : NULL;
}

const char *wr_map_wrong(const struct wr_map *map)
{
    uint64_t used[WR_MAP_MEMBERS] = {0}, missing = 0, placed = 0;

    for (uint64_t i = 0; i < map->clusters; i++) {
        const char *wrong = cluster_wrong(map, i, used, &missing);

        if (wrong)
            return wrong;
        placed += map->control[i].flags & WR_PLACED ? 1 : 0;
    }
    for (uint32_t i = 0; i < map->members; i++)
        if (used[i] != map->member[i].used - map->member[i].free_count)
            return "places are lost, or used twice";
        else if (map->member[i].is_closed && used[i] > 0)
            return "a piece lies at a member that is closed";
    if (missing != map->missing || placed != map->placed)
        return "pieces are counted wrongly";
    return NULL;
}
