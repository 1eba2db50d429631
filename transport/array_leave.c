/* SPDX-License-Identifier: MIT */

/*
 * Leaving: a member whose server wants its memory back, or that is taken off, is emptied by the
 * builder and closed by the keeper. One that was wanted back is opened anew as soon as that is
 * possible, and begins a life as if it had come back empty; one that was taken off is vacant: what
 * it was in this array may become another member.
 */

#include <stdlib.h>
#include <string.h>

#include <weir/weir.h>

#include "transport/array.h"
#include "transport/array_keep.h"
#include "transport/ring.h"
#include "transport/tell.h"

static uint32_t life_of(const struct wr_array *array, uint32_t i)
{
    return array->map.member[i].life; /* the keeper's alone to change */
}

bool wr_array_is_closed(const struct wr_array *array, uint32_t i)
{
    return array->map.member[i].is_closed;
}

bool wr_array_is_retiring(const struct wr_array *array, uint32_t i)
{
    return atomic_load(&array->retiring) >> i & 1;
}

bool wr_array_is_vacant(const struct wr_array *array, uint32_t i)
{
    return atomic_load(&array->vacant) >> i & 1;
}

static bool is_wanted(const struct wr_array *array, uint32_t i)
{
    return wr_array_is_retiring(array, i) ||
           atomic_load(&array->member[i].voices[life_of(array, i) & 1].is_wanted_back);
}

static void tell(const struct wr_array *array, uint32_t i, int severity, int error,
                 const char *what, uint64_t pieces, const char *rest)
{
    wr_tell(array->env, severity, error, 0, "%s: %s %s: %llu MiB%s", array->kind->name,
            array->member[i].name, what, (unsigned long long)wr_array_pieces_mib(array, pieces),
            rest);
}

/* Told once, when it was tried for a while. */
static void note_stuck(struct wr_array *array, uint32_t i, uint64_t pieces)
{
    struct wr_array_member *member = &array->member[i];

    member->is_stuck = atomic_load(&array->is_stuck) && pieces > 0;
    if (member->is_stuck_told || !member->is_stuck)
        return;
    member->is_stuck_told = true;
    tell(array, i, WEIR_WARNING, WEIR_EFULL, "is to be emptied, but cannot be yet", pieces,
         " find no place at other members; weir_backend_extend() adds one");
}

/* What there is cannot stay in this array: perhaps those who use it have room. */
static void ask_to_leave(struct wr_array *array)
{
    bool is_asking = false;

    if (!array->env || !array->env->leave)
        return;
    for (uint32_t i = 0; i < array->members; i++)
        is_asking |= !wr_array_is_vacant(array, i) && array->member[i].is_stuck &&
                     (array->pieces == array->need || wr_map_others(&array->map, i) < array->need);
    if (is_asking != array->asks_to_leave)
        array->env->leave(array->env->context, is_asking);
    array->asks_to_leave = is_asking;
}

/* It is empty: nothing comes there any more, and when no leg leads there it is closed. */
static void shut(struct wr_array *array, uint32_t i)
{
    struct wr_array_member *member = &array->member[i];

    member->is_settled = false;
    atomic_store(&member->has_failed, false);
    member->is_hopeless = member->is_told = false;
    member->reopen_wait_ns = 0;
    member->is_leaving_told = member->is_stuck_told = member->is_stuck = false;
}

static void note_wish(struct wr_array *array, uint32_t i)
{
    struct wr_array_member *member = &array->member[i];
    struct wr_map_member *state = &array->map.member[i];
    const bool is_leaving = is_wanted(array, i);
    uint64_t pieces;
    bool is_shut;

    pthread_mutex_lock(&array->lock);
    state->is_leaving = is_leaving;
    pieces = state->used - state->free_count;
    is_shut = wr_map_member_close(&array->map, i);
    if (is_leaving && !is_shut && !member->is_leaving_told)
        pthread_cond_broadcast(&array->work);
    pthread_mutex_unlock(&array->lock);
    if (is_shut) {
        shut(array, i);
    } else if (is_leaving && !member->is_leaving_told) {
        member->is_leaving_told = true;
        atomic_store(&array->is_stuck, false); /* that was of others */
        tell(array, i, WEIR_NOTE, WEIR_OK, "is to be emptied", pieces, " move to other members");
    } else if (!is_leaving && member->is_leaving_told) {
        member->is_leaving_told = member->is_stuck_told = member->is_stuck = false;
        tell(array, i, WEIR_NOTE, WEIR_OK, "stays after all", pieces, " are there");
        atomic_store(&array->wants_moves, true); /* what has left belongs there */
    } else if (is_leaving) {
        note_stuck(array, i, pieces);
    }
}

/* Its life, and one before it that was not closed yet. 0: none is open. */
static uint32_t open_life(const struct wr_array *array, uint32_t i)
{
    const struct wr_array_member *member = &array->member[i];
    const uint32_t life = life_of(array, i);

    if (life > 1 && atomic_load(&member->lives[(life - 1) & 1]))
        return life - 1;
    return atomic_load(&member->lives[life & 1]) ? life : 0;
}

/* When no leg leads there any more, the builder closes it as soon as nobody reads there. */
static void close_lives(struct wr_array *array, uint32_t i)
{
    struct wr_array_member *member = &array->member[i];

    if (open_life(array, i) > 0) {
        if (member->is_probing || !wr_array_legs_renew(array, i))
            return;
        pthread_mutex_lock(&array->lock);
        if (member->closing == 0)
            member->closing = open_life(array, i);
        pthread_cond_broadcast(&array->work);
        pthread_mutex_unlock(&array->lock);
        return;
    }
    if (member->is_closed_told)
        return;
    member->is_closed_told = true;
    member->reopen_ns = wr_array_now_ns() + WR_ARRAY_REOPEN_NS;
    wr_tell(array->env, WEIR_NOTE, WEIR_OK, 0, "%s: %s is empty, and closed%s", array->kind->name,
            member->name,
            wr_array_is_retiring(array, i) ? ""
                                           : "; it is a member again as soon as it can be opened");
}

/* Nothing of it is left, or has ever been there. */
static void vacate(struct wr_array *array, uint32_t i)
{
    const struct wr_array_member *member = &array->member[i];

    if (!wr_array_is_retiring(array, i) || member->fresh ||
        atomic_load(&member->errand.state) != WR_ERRAND_NONE ||
        !(life_of(array, i) == 0 || (wr_array_is_closed(array, i) && member->is_closed_told)))
        return;
    wr_tell(array->env, WEIR_NOTE, WEIR_OK, 0, "%s: %s is no member any more", array->kind->name,
            member->name);
    /* Whoever makes another member of it finds it as we left it. */
    atomic_fetch_or(&array->vacant, 1u << i);
}

void wr_array_tend_leaving(struct wr_array *array)
{
    for (uint32_t i = 0; i < array->members; i++) {
        if (wr_array_is_vacant(array, i))
            continue;
        if (wr_array_is_closed(array, i))
            close_lives(array, i);
        else if (life_of(array, i) > 0)
            note_wish(array, i);
        vacate(array, i);
    }
    ask_to_leave(array);
}

/* --- On wish -----------------------------------------------------------------------------------
 */

/* By its whole specification, or by what people call it. */
static uint32_t find(const struct wr_array *array, const char *spec)
{
    for (uint32_t i = 0; i < array->members; i++)
        if (!wr_array_is_retiring(array, i) && strcmp(array->member[i].spec, spec) == 0)
            return i;
    for (uint32_t i = 0; i < array->members; i++)
        if (!wr_array_is_retiring(array, i) && strcmp(array->member[i].name, spec) == 0)
            return i;
    return WR_MAP_NOBODY;
}

static int refuse(const struct wr_array *array, const char *name, int error, const char *why)
{
    wr_tell(array->env, WEIR_FAILURE, error, 0, "%s: \"%s\" cannot be taken off: %s",
            array->kind->name, name, why);
    return error;
}

int wr_array_retire(struct weir_backend *base, const char *spec)
{
    struct wr_array *array = (struct wr_array *)base;
    const uint32_t number = find(array, spec);
    uint32_t others = 0;

    if (number == WR_MAP_NOBODY)
        return refuse(array, spec, WEIR_ENOENT, "there is no such member");
    for (uint32_t i = 0; i < array->members; i++)
        others += i != number && !wr_array_is_retiring(array, i);
    if (others < array->pieces)
        return refuse(array, spec, WEIR_EFULL,
                      "the others are too few; weir_backend_extend() adds one");
    atomic_fetch_or(&array->retiring, 1u << number);
    wr_ring(array->bell);
    return WEIR_OK;
}
