/* SPDX-License-Identifier: MIT */

/*
 * Lives of members: one that has lost what it had begins another.
 *
 * A member that does not answer keeps its pieces for as long as nothing better is known: it may
 * come back with them. It has lost them when it says of itself that there is no hope, its
 * specification can be opened anew, and the old opening still fails a while after that.
 *
 *   fresh    an opening that may become the next life
 *   errand   opening or closing one, by a thread of its own: a server may be silent for as long as
 *            it likes, and the keeper has others to ask meanwhile
 */

#include <pthread.h>
#include <signal.h>

#include <weir/weir.h>

#include "transport/array.h"
#include "transport/array_keep.h"
#include "transport/ring.h"
#include "transport/tell.h"

#define NS_SECOND       1000000000ull
#define DOWN_NS         NS_SECOND       /* before it is opened anew         */
#define DOUBT_NS        (2 * NS_SECOND) /* for the old opening to come back */
#define REOPEN_LEAST_NS (NS_SECOND / 2)

void wr_array_set_gone(struct wr_array *array, uint32_t i, bool is_gone)
{
    pthread_mutex_lock(&array->lock);
    array->map.member[i].is_gone = is_gone;
    pthread_mutex_unlock(&array->lock);
}

/* --- Errands -----------------------------------------------------------------------------------
 */

static void run_errand(struct wr_array_member *member)
{
    struct wr_array_errand *errand = &member->errand;
    struct weir_backend *backend = errand->backend;

    if (errand->is_opening) {
        /* The life is the keeper's to change, and it does not before we are done. */
        const uint32_t life = member->array->map.member[member - member->array->member].life + 1;

        if (wr_array_member_open(member, life, true, &backend) != WEIR_OK)
            backend = NULL;
        if (backend && wr_array_places(member->array, backend) == 0) {
            backend->ops->close(backend);
            backend = NULL;
        }
        errand->backend = backend;
    } else {
        backend->ops->close(backend);
        errand->backend = NULL;
    }
    atomic_store(&errand->state, WR_ERRAND_DONE);
    wr_ring(member->array->bell);
}

static void *errand_thread(void *member)
{
    run_errand(member);
    return NULL;
}

/* backend: to be closed; NULL: the next life is to be opened. */
static void send_on_errand(struct wr_array_member *member, struct weir_backend *backend)
{
    struct wr_array_errand *errand = &member->errand;
    sigset_t all, before;

    errand->backend = backend;
    errand->is_opening = !backend;
    atomic_store(&errand->state, WR_ERRAND_RUNS);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    errand->has_thread = pthread_create(&errand->thread, NULL, errand_thread, member) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (errand->has_thread)
        pthread_setname_np(errand->thread, "weir-kopen");
    else
        run_errand(member);
}

/* It is done, or nobody is on one. */
static void have_back(struct wr_array_member *member)
{
    struct wr_array_errand *errand = &member->errand;

    if (errand->has_thread)
        pthread_join(errand->thread, NULL);
    errand->has_thread = false;
    atomic_store(&errand->state, WR_ERRAND_NONE);
}

static void note_opened(struct wr_array_member *member)
{
    have_back(member);
    if (!member->errand.is_opening)
        return;
    member->fresh = member->errand.backend;
    member->fresh_ns = wr_array_now_ns();
    if (member->fresh) {
        member->reopen_wait_ns = 0;
        return;
    }
    member->reopen_wait_ns = member->reopen_wait_ns ? 2 * member->reopen_wait_ns : REOPEN_LEAST_NS;
    if (member->reopen_wait_ns > WR_ARRAY_REOPEN_NS)
        member->reopen_wait_ns = WR_ARRAY_REOPEN_NS;
    member->reopen_ns = wr_array_now_ns() + member->reopen_wait_ns;
}

void wr_array_end_errands(struct wr_array *array)
{
    for (uint32_t i = 0; i < array->members; i++)
        if (atomic_load(&array->member[i].errand.state) != WR_ERRAND_NONE)
            note_opened(&array->member[i]);
}

/* --- Lives --------------------------------------------------------------------------------------
 */

/* What was there is lost; the array goes on with the fresh opening. */
static void renew(struct wr_array *array, uint32_t i)
{
    struct wr_array_member *member = &array->member[i];
    struct wr_map_member *state = &array->map.member[i];
    const uint32_t places = wr_array_places(array, member->fresh);
    uint64_t missing;

    pthread_mutex_lock(&array->lock);
    atomic_store(&state->is_up, false); /* until there are legs to it */
    if (wr_map_member_renew(&array->map, i, places) != WEIR_OK) {
        pthread_mutex_unlock(&array->lock);
        return; /* out of memory: at the next tick */
    }
    atomic_store(&member->lives[state->life & 1], member->fresh);
    missing = array->map.missing;
    pthread_mutex_unlock(&array->lock);
    member->fresh = NULL;
    member->is_settled = false;
    atomic_store(&member->has_failed, false);
    member->is_hopeless = false;
    atomic_store(&member->latency_ns, 0);
    member->is_closed_told = false;
    member->down_ns = 0;
    wr_tell(array->env, WEIR_WARNING, WEIR_OK, 0,
            "%s: %s is there, and empty: %llu MiB are to be written to it or to others",
            array->kind->name, member->name,
            (unsigned long long)wr_array_pieces_mib(array, missing));
    member->is_told = false;
}

/* All legs of the former life have gone: it can be closed, and the new one used. */
static void settle(struct wr_array *array, uint32_t i)
{
    struct wr_array_member *member = &array->member[i];

    if (member->is_probing || !wr_array_legs_renew(array, i))
        return;
    pthread_mutex_lock(&array->lock);
    if (array->map.member[i].life > 1 &&
        atomic_load(&member->lives[(array->map.member[i].life - 1) & 1]))
        member->closing = array->map.member[i].life - 1;
    array->map.member[i].is_gone = false;
    pthread_mutex_unlock(&array->lock);
    member->is_settled = true;
    member->down_ns = 0;
    atomic_store(&array->wants_moves, true);
    atomic_store(&array->map.member[i].is_up, true);
}

/* The opening that is now used has failed, and does not say that it may come back. */
static bool has_failed_since(const struct wr_array_member *member, uint64_t ns)
{
    return atomic_load(&member->has_failed) && member->is_hopeless && member->failed_ns > ns;
}

/* It has no life: it was never there, or was emptied and closed. */
static bool is_absent(const struct wr_array *array, uint32_t i)
{
    const struct wr_map_member *state = &array->map.member[i];

    return state->life == 0 || (state->is_closed && !atomic_load(&array->member[i].lives[0]) &&
                                !atomic_load(&array->member[i].lives[1]));
}

static void tend_fresh(struct wr_array *array, uint32_t i, uint64_t now)
{
    struct wr_array_member *member = &array->member[i];
    const uint32_t life = array->map.member[i].life; /* ours alone to change */
    const bool is_free = !atomic_load(&member->lives[(life + 1) & 1]);
    const bool may_come = is_absent(array, i), is_retiring = wr_array_is_retiring(array, i);

    if ((life > 0 && atomic_load(&array->map.member[i].is_up)) || (is_retiring && may_come)) {
        if (member->fresh) /* the old one is there after all; or nobody is wanted any more */
            send_on_errand(member, member->fresh);
        member->fresh = NULL;
    } else if (!member->fresh) {
        if (now >= member->reopen_ns &&
            (may_come || (has_failed_since(member, 0) && now - member->down_ns > DOWN_NS)))
            send_on_errand(member, NULL);
    } else if (is_free && (may_come || (now - member->fresh_ns > DOUBT_NS &&
                                        has_failed_since(member, member->fresh_ns)))) {
        renew(array, i);
    }
}

void wr_array_tend_lives(struct wr_array *array, uint32_t i, uint64_t now)
{
    struct wr_array_member *member = &array->member[i];

    if (atomic_load(&member->errand.state) == WR_ERRAND_DONE)
        note_opened(member);
    if (array->map.member[i].life > 0 && !member->is_settled && !wr_array_is_closed(array, i))
        settle(array, i);
    else if (atomic_load(&member->errand.state) == WR_ERRAND_NONE)
        tend_fresh(array, i, now);
    if (!atomic_load(&array->map.member[i].is_up) && member->down_ns &&
        !wr_array_is_closed(array, i) &&
        now - member->down_ns > array->options.replace_s * NS_SECOND)
        wr_array_set_gone(array, i, true);
}
