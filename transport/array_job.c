/* SPDX-License-Identifier: MIT */

/* Who holds a cluster alone: jobs, that make a piece whole or move it, and patches. */

#include "transport/array_map_in.h"

/* --- Jobs --------------------------------------------------------------------------------------
 */

static uint32_t rank_in(const uint32_t order[WR_MAP_MEMBERS], uint32_t member)
{
    uint32_t rank = 0;

    while (order[rank] != member)
        rank++;
    return rank;
}

/* After such a move, do those clusters find places that are not placed yet? Where they would not
 * anyhow, it is to be from who has less room. */
static bool leaves_room(const struct wr_map *map, uint32_t from, uint32_t to)
{
    return map->pieces == 1 ||
           wr_map_is_feasible(map, 1u << to, 1u << from, map->clusters - map->placed) ||
           wr_map_free_places(&map->member[to]) > wr_map_free_places(&map->member[from]);
}

/* A piece that would lie better elsewhere, and where; NOBODY: none would. Each move lowers the sum
 * of ranks, so that they come to an end. */
static uint32_t find_move(const struct wr_map *map, uint64_t cluster, uint32_t *member_p)
{
    uint32_t order[WR_MAP_MEMBERS], better = 0, worst = WR_MAP_NOBODY, worst_rank = 0;

    wr_map_order(map, cluster, order);
    while (better < map->members && !wr_map_should_go(map, cluster, order[better]))
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
    return leaves_room(map, wr_map_piece(map, cluster, worst).member, *member_p) ? worst
                                                                                 : WR_MAP_NOBODY;
}

/* Is there another member for a piece of it, that does not leave? */
static bool has_better(const struct wr_map *map, uint64_t cluster)
{
    for (uint32_t i = 0; i < map->members; i++)
        if (wr_map_should_go(map, cluster, i))
            return true;
    return false;
}

/* May this piece be made whole, in its place or at another one? Not where its member leaves, which
 * may be for the very reason that nothing can be written there. */
static bool is_wanting(const struct wr_map *map, uint64_t cluster, uint32_t number, bool *moves_p)
{
    const struct wr_map_piece piece = wr_map_piece(map, cluster, number);
    const struct wr_map_member *member = &map->member[piece.member];

    *moves_p = piece.state == WR_PIECE_NONE || (!atomic_load(&member->is_up) && member->is_gone) ||
               (piece.state == WR_PIECE_STALE && member->is_leaving && has_better(map, cluster));
    if (*moves_p) {
        for (uint32_t i = 0; i < map->members; i++)
            if (wr_map_can_go(map, cluster, i))
                return true;
        return false;
    }
    return piece.state == WR_PIECE_STALE && atomic_load(&member->is_up) && !member->is_resting;
}

/* A piece whose member leaves, though it is whole there, and one that would take it. */
static uint32_t find_leaving(const struct wr_map *map, uint64_t cluster)
{
    for (uint32_t i = 0; i < map->pieces; i++) {
        const struct wr_map_piece piece = wr_map_piece(map, cluster, i);

        if (piece.state == WR_PIECE_WHOLE && map->member[piece.member].is_leaving)
            return has_better(map, cluster) ? i : WR_MAP_NOBODY;
    }
    return WR_MAP_NOBODY;
}

static uint32_t choose_piece(const struct wr_map *map, uint64_t cluster, bool may_move,
                             bool *moves_p, uint32_t *member_p)
{
    uint32_t leaving;

    *member_p = WR_MAP_NOBODY;
    for (uint32_t i = 0; i < map->pieces; i++)
        if (is_wanting(map, cluster, i, moves_p))
            return i;
    *moves_p = true;
    leaving = find_leaving(map, cluster);
    if (leaving != WR_MAP_NOBODY)
        return leaving;
    if (!may_move || wr_map_pieces_from(map, cluster, WR_PIECE_WHOLE) + 1 != 1u << map->pieces ||
        wr_map_pieces_up(map, cluster) + 1 != 1u << map->pieces)
        return WR_MAP_NOBODY;
    return find_move(map, cluster, member_p);
}

static void fill_job(struct wr_map *map, struct wr_map_job *job, bool moves, uint32_t member)
{
    const struct wr_map_piece now = wr_map_piece(map, job->cluster, job->piece);

    job->before = (struct wr_map_piece){.state = WR_PIECE_NONE};
    if (!moves) {
        job->target = wr_map_piece_full(map, job->cluster, job->piece);
        return;
    }
    if (member == WR_MAP_NOBODY)
        job->target = wr_map_take_any(map, job->cluster, 0);
    else
        job->target = wr_map_take_at(map, member);
    if (now.state == WR_PIECE_NONE) {
        wr_map_set_piece(map, job->cluster, job->piece, job->target);
    } else {
        job->before = wr_map_piece_full(map, job->cluster, job->piece);
    }
}

/* The whole ones that answer. False: with those that are void they are too few. */
static bool find_sources(const struct wr_map *map, struct wr_map_job *job)
{
    const uint32_t whole = wr_map_pieces_from(map, job->cluster, WR_PIECE_WHOLE);
    const uint32_t from = whole & wr_map_pieces_up(map, job->cluster);
    const uint32_t sound = wr_map_sound(map, job->cluster) & (from | ~whole);

    for (uint32_t i = 0; i < map->pieces; i++)
        if (from >> i & 1)
            job->from[job->from_count++] = wr_map_piece_full(map, job->cluster, i);
    return from && (uint32_t)__builtin_popcount(sound) >= map->need;
}

int wr_map_job_begin(struct wr_map *map, uint64_t cluster, bool may_move, struct wr_map_job *job_p)
{
    struct wr_map_cluster *control = &map->control[cluster];
    struct wr_map_job job = {.cluster = cluster};
    uint32_t member;
    bool moves;

    if (!(control->flags & WR_PLACED) || control->flags & WR_HELD)
        return WEIR_ENOENT;
    if (!find_sources(map, &job))
        return WEIR_ENOENT;
    job.piece = choose_piece(map, cluster, may_move, &moves, &member);
    if (job.piece == WR_MAP_NOBODY)
        return WEIR_ENOENT;
    if (control->writes > 0) {
        control->flags |= WR_WANTED;
        return WEIR_EAGAIN;
    }
    control->flags = (uint8_t)((control->flags & ~WR_WANTED) | WR_HELD);
    fill_job(map, &job, moves, member);
    job.number = control->number;
    job.version = control->version;
    *job_p = job;
    return WEIR_OK;
}

bool wr_map_job_cancel(struct wr_map *map, uint64_t cluster)
{
    struct wr_map_cluster *control = &map->control[cluster];

    control->flags &= (uint8_t)~WR_WANTED;
    return control->flags & WR_HELD ? false : wr_map_let_go(map, cluster);
}

bool wr_map_job_end(struct wr_map *map, const struct wr_map_job *job, bool is_done, bool *waited_p)
{
    const bool moves = job->before.state != WR_PIECE_NONE;
    const bool lives = map->member[job->target.member].life == job->target.life;
    const struct wr_map_cluster *control = &map->control[job->cluster];
    struct wr_map_piece target = job->target;

    *waited_p = wr_map_let_go(map, job->cluster);
    if (is_done && lives && control->number == job->number && control->version == job->version &&
        wr_map_is_same(map, job->cluster, job->piece, moves ? &job->before : &job->target)) {
        target.state = WR_PIECE_WHOLE;
        wr_map_set_piece(map, job->cluster, job->piece, target);
        return moves;
    }
    if (moves && lives)
        wr_map_give_place(map, target); /* nothing has ever pointed there */
    return false;
}

void wr_map_job_free(struct wr_map *map, const struct wr_map_job *job)
{
    if (map->member[job->before.member].life == job->before.life)
        wr_map_give_place(map, job->before);
}

/* --- Patches -----------------------------------------------------------------------------------
 */

static bool is_patched_in_place(const struct wr_map *map, uint64_t cluster)
{
    const uint32_t all = (1u << map->pieces) - 1;

    return wr_map_pieces_from(map, cluster, WR_PIECE_WHOLE) == all &&
           wr_map_pieces_up(map, cluster) == all;
}

/* At its own member, if that is up and has room, else at another one. */
static struct wr_map_piece take_target(struct wr_map *map, const struct wr_map_patch *patch,
                                       uint32_t number, uint32_t taken)
{
    const struct wr_map_piece now = patch->before[number];
    const struct wr_map_member *member = &map->member[now.member];

    if (now.state != WR_PIECE_NONE && atomic_load(&member->is_up) && wr_map_free_places(member) > 0)
        return wr_map_take_at(map, now.member);
    return wr_map_take_any(map, patch->cluster, taken);
}

/* A new place for each piece; at members that do not answer only if the others are too few: perhaps
 * they do after all. False: there are too few places, and none is taken. */
static bool take_targets(struct wr_map *map, struct wr_map_patch *patch)
{
    uint32_t taken = 0, count = 0;

    for (uint32_t i = 0; i < map->pieces; i++)
        patch->before[i] = wr_map_piece_full(map, patch->cluster, i);
    for (uint32_t round = 0; round < 2 && count < map->need; round++)
        for (uint32_t i = 0; i < map->pieces; i++) {
            if (patch->target[i].state != WR_PIECE_NONE)
                continue;
            patch->target[i] = round == 0 ? take_target(map, patch, i, taken)
                                          : wr_map_take_instead(map, patch->cluster, taken);
            if (patch->target[i].state == WR_PIECE_NONE)
                continue;
            taken |= 1u << patch->target[i].member;
            count++;
        }
    if (count >= map->need) {
        for (uint32_t i = 0; i < map->members; i++)
            map->lent |= (taken >> i & 1 && wr_map_is_on(map, patch->cluster, i)) ? 1u << i : 0;
        return true;
    }
    for (uint32_t i = 0; i < map->pieces; i++)
        if (patch->target[i].state != WR_PIECE_NONE)
            wr_map_give_place(map, patch->target[i]);
    return false;
}

int wr_map_patch_begin(struct wr_map *map, uint64_t cluster, uint32_t first, uint32_t pages,
                       struct wr_map_patch *patch_p)
{
    struct wr_map_cluster *control = &map->control[cluster];

    if (control->writes > 0 || control->flags & WR_HELD) {
        control->flags |= WR_WAITED;
        return WEIR_EAGAIN;
    }
    if (!(control->flags & WR_PLACED) && !wr_map_place(map, cluster))
        return WEIR_EFULL;
    *patch_p = (struct wr_map_patch){.cluster = cluster, .first = first, .pages = pages};
    patch_p->is_in_place = is_patched_in_place(map, cluster);
    if (patch_p->is_in_place) {
        for (uint32_t i = 0; i < map->pieces; i++)
            patch_p->target[i] = wr_map_piece_full(map, cluster, i);
        wr_map_begin_change(map, cluster);
    } else if (!take_targets(map, patch_p)) {
        return WEIR_EFULL;
    }
    control->flags |= WR_HELD;
    patch_p->number = control->number;
    patch_p->version = control->version;
    return WEIR_OK;
}

/* Pages were written where they are. The data that others have, and the parity, fit together again
 * in `ok`; if these are too few, parity is of no use any more. */
static int end_in_place(struct wr_map *map, const struct wr_map_patch *patch, uint32_t ok)
{
    const uint64_t cluster = patch->cluster;
    int error = WEIR_OK;

    if (!patch->has_sent)
        return WEIR_EIO;
    for (uint32_t i = 0; i < map->pieces; i++)
        if (!wr_map_is_same(map, cluster, i, &patch->target[i]))
            ok &= ~(1u << i);
    if ((uint32_t)__builtin_popcount(ok) < map->need) {
        error = WEIR_EIO;
        ok = (1u << map->need) - 1;
    }
    for (uint32_t i = 0; i < map->pieces; i++)
        if (!(ok >> i & 1) && wr_map_piece(map, cluster, i).state == WR_PIECE_WHOLE)
            wr_map_set_state(map, cluster, i, WR_PIECE_STALE);
    if (error) {
        /* What failed may still come to pass, and change under a parity that was made with it: it
         * counts as zero until it is written again. */
        wr_map_forget_written(map, cluster, patch->first, patch->pages);
        wr_map_settle(map, cluster);
    } else {
        wr_map_set_written(map, cluster, patch->first, patch->pages);
    }
    return error;
}

/* Everything was written anew, elsewhere. */
static int end_elsewhere(struct wr_map *map, const struct wr_map_patch *patch, uint32_t ok)
{
    int error = WEIR_OK;

    for (uint32_t i = 0; i < map->pieces; i++)
        if (patch->target[i].state == WR_PIECE_NONE ||
            map->member[patch->target[i].member].life != patch->target[i].life)
            ok &= ~(1u << i);
    if ((uint32_t)__builtin_popcount(ok) < map->need) {
        error = WEIR_EIO;
        ok = 0;
    }
    for (uint32_t i = 0; i < map->pieces; i++) {
        struct wr_map_piece piece = patch->target[i];

        if (!(ok >> i & 1) && piece.state != WR_PIECE_NONE &&
            map->member[piece.member].life == piece.life)
            wr_map_give_place(map, piece);
        piece.state = ok >> i & 1 ? WR_PIECE_WHOLE : WR_PIECE_NONE;
        if (!error)
            wr_map_set_piece(map, patch->cluster, i, piece);
    }
    if (!error)
        wr_map_set_written(map, patch->cluster, patch->first, patch->pages);
    else
        map->lent = 0;
    return error;
}

int wr_map_patch_end(struct wr_map *map, const struct wr_map_patch *patch, uint32_t ok,
                     bool *waited_p)
{
    const struct wr_map_cluster *control = &map->control[patch->cluster];
    const bool is_as_it_was = control->number == patch->number &&
                              control->version == patch->version;
    int error = WEIR_EIO;

    *waited_p = wr_map_let_go(map, patch->cluster);
    if (!patch->is_in_place)
        wr_map_begin_change(map, patch->cluster);
    if (!patch->is_in_place)
        error = end_elsewhere(map, patch, is_as_it_was ? ok : 0);
    else if (is_as_it_was)
        error = end_in_place(map, patch, ok);
    else if (patch->has_sent)
        wr_map_forget_written(map, patch->cluster, patch->first, patch->pages);
    wr_map_end_change(map, patch->cluster);
    return error;
}

void wr_map_patch_free(struct wr_map *map, const struct wr_map_patch *patch)
{
    for (uint32_t i = 0; i < map->pieces; i++)
        if (patch->before[i].state != WR_PIECE_NONE &&
            map->member[patch->before[i].member].life == patch->before[i].life)
            wr_map_give_place(map, patch->before[i]);
    map->lent = 0;
}
