/* SPDX-License-Identifier: MIT */

/*
 * The keeper: asks each member now and then for a page, to know whether it answers; opens those
 * again that do not (array_life.c); tells of it.
 */

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include <weir/weir.h>

#include "transport/array.h"
#include "transport/array_keep.h"
#include "transport/tell.h"

#define NS_MILLISECOND 1000000ull
#define NS_SECOND      1000000000ull
#define TICK_MS        100
#define ASK_NS         NS_SECOND              /* one that answers is asked so often      */
#define ASK_AGAIN_NS   (200 * NS_MILLISECOND) /* one that does not                       */
#define SLOW_NS        (500 * NS_MILLISECOND) /* an answer that takes as long is no good */
#define LEGS_NS        NS_SECOND              /* between tries to have a channel         */
#define FADE           32u /* of a latency that nobody measures, each tick: try it again */

static bool is_up(struct wr_array *array, uint32_t i)
{
    return atomic_load(&array->map.member[i].is_up);
}

/* --- Asking ------------------------------------------------------------------------------------
 */

static void probe_done(struct weir_io *io)
{
    io->owner = NULL;
}

/* The last page of a member holds nothing: nobody writes it. */
static void ask(struct wr_array *array, uint32_t i, uint64_t now)
{
    struct wr_array_member *member = &array->member[i];
    struct wr_array_leg *leg = &array->keeper_legs.leg[i];
    struct weir_backend_info info;
    struct weir_io *io = &member->probe;

    if (!leg->channel)
        return;
    leg->channel->backend->ops->describe(leg->channel->backend, &info);
    member->probe_iov = (struct iovec){member->probe_page, WEIR_SLOT_BYTES};
    *io = (struct weir_io){.slot = info.slots - 1,
                           .pages = 1,
                           .iov = &member->probe_iov,
                           .iov_count = 1,
                           .done = probe_done,
                           .owner = io};
    if (leg->channel->backend->ops->submit(leg->channel, &io, 1) == 0)
        return;
    leg->flying++;
    member->is_probing = true;
    member->probe_ns = now;
}

static void note_answer(struct wr_array *array, uint32_t i, uint64_t now)
{
    struct wr_array_member *member = &array->member[i];

    member->is_probing = false;
    array->keeper_legs.leg[i].flying--;
    if (member->probe.error) {
        atomic_store(&array->map.member[i].is_up, false);
        atomic_store(&member->has_failed, true);
        member->is_hopeless = member->probe.error != WEIR_EAGAIN;
        member->failed_ns = member->probe_ns;
        member->next_ns = now + ASK_AGAIN_NS;
        return;
    }
    atomic_store(&member->is_slow, false);
    atomic_store(&member->has_failed, false);
    member->is_hopeless = false;
    member->down_ns = 0;
    member->next_ns = now + ASK_NS;
    if (member->is_settled && !is_up(array, i)) {
        if (array->map.member[i].is_gone)
            atomic_store(&array->wants_moves, true); /* what was its own is elsewhere */
        wr_array_set_gone(array, i, false);
        atomic_store(&array->map.member[i].is_up, true);
    }
}

static void tend_probe(struct wr_array *array, uint32_t i, uint64_t now)
{
    struct wr_array_member *member = &array->member[i];
    struct wr_array_leg *leg = &array->keeper_legs.leg[i];

    if (member->is_probing) {
        (void)leg->channel->backend->ops->poll(leg->channel, 1);
        if (!member->probe.owner)
            note_answer(array, i, now);
        else if (now - member->probe_ns > SLOW_NS)
            atomic_store(&member->is_slow, true);
    } else if (leg->channel && !wr_array_is_closed(array, i) &&
               (now >= member->next_ns ||
                (!is_up(array, i) && !atomic_load(&member->has_failed)))) {
        ask(array, i, now);
    }
    if (!is_up(array, i) && member->down_ns == 0)
        member->down_ns = now;
}

/* --- Telling -----------------------------------------------------------------------------------
 */

static void tell_member(struct wr_array *array, uint32_t i)
{
    struct wr_array_member *member = &array->member[i];

    if (!is_up(array, i) && (atomic_load(&member->has_failed) || array->map.member[i].life == 0) &&
        !member->is_told && !wr_array_is_closed(array, i)) {
        member->is_told = true;
        wr_tell(array->env, WEIR_WARNING, WEIR_EIO, 0, "%s: %s does not answer; %s",
                array->kind->name, member->name,
                array->map.pieces > 1 ? "what lies there is read from the others"
                                      : "what lies there cannot be read meanwhile");
    } else if (is_up(array, i) && member->is_told) {
        member->is_told = false;
        wr_tell(array->env, WEIR_NOTE, WEIR_OK, 0, "%s: %s answers again", array->kind->name,
                member->name);
    }
}

static void tell_state(struct wr_array *array)
{
    uint64_t missing, lost;
    bool is_whole;

    pthread_mutex_lock(&array->lock);
    missing = array->map.missing;
    lost = array->map.lost;
    pthread_mutex_unlock(&array->lock);
    if (lost > array->lost_told) {
        wr_tell(array->env, WEIR_FAILURE, WEIR_EIO, 0,
                "%s: what lay in %llu MiB is lost, for no other member has it. Whoever touches one "
                "of these pages has an error",
                array->kind->name, (unsigned long long)wr_array_mib(lost - array->lost_told));
        array->lost_told = lost;
    }
    is_whole = missing == 0;
    for (uint32_t i = 0; i < array->members; i++)
        is_whole &= is_up(array, i) || wr_array_is_closed(array, i) || wr_array_is_vacant(array, i);
    if (missing > 0 && !array->is_degraded) {
        array->is_degraded = true;
        wr_tell(array->env, WEIR_WARNING, WEIR_OK, 0,
                "%s: %llu MiB have lost a copy, which is made anew in the background",
                array->kind->name, (unsigned long long)wr_array_pieces_mib(array, missing));
    } else if (is_whole && array->is_degraded) {
        array->is_degraded = false;
        wr_tell(array->env, WEIR_NOTE, WEIR_OK, 0, "%s: everything has all its copies again",
                array->kind->name);
    }
}

/* Who waits for a member looks again; and at the clock, where one is silent. */
static void ring_those_who_wait(struct wr_array *array)
{
    bool is_silent = false;

    for (uint32_t i = 0; i < array->members; i++)
        is_silent |= !wr_array_is_closed(array, i) && !wr_array_is_vacant(array, i) &&
                     (!is_up(array, i) || atomic_load(&array->member[i].is_slow));
    pthread_mutex_lock(&array->lock);
    if (is_silent)
        wr_array_ring_all(array);
    else
        wr_array_ring_waiting(array);
    pthread_mutex_unlock(&array->lock);
}

/* Channels that could not be had. */
static void retry_legs(struct wr_array *array)
{
    const uint64_t now = wr_array_now_ns();

    if (!atomic_load(&array->wants_legs) || now < array->legs_ns)
        return;
    array->legs_ns = now + LEGS_NS;
    atomic_store(&array->wants_legs, false); /* whoever fails again sets it */
    for (uint32_t i = 0; i < array->members; i++)
        if (!wr_array_is_vacant(array, i) && array->member[i].is_settled)
            (void)wr_array_legs_renew(array, i);
}

/* --- The thread --------------------------------------------------------------------------------
 */

static void *keep(void *context)
{
    struct wr_array *array = context;
    struct pollfd wait = {.fd = array->bell, .events = POLLIN};
    eventfd_t rung;

    while (!atomic_load(&array->stop)) {
        for (uint32_t i = 0; i < array->members; i++) {
            struct wr_array_member *member = &array->member[i];
            uint64_t latency;

            if (wr_array_is_vacant(array, i))
                continue;
            latency = atomic_load(&member->latency_ns);
            atomic_store(&member->latency_ns, latency - latency / FADE);
            tend_probe(array, i, wr_array_now_ns());
            wr_array_tend_lives(array, i, wr_array_now_ns());
            tell_member(array, i);
        }
        wr_array_tend_leaving(array);
        tell_state(array);
        retry_legs(array);
        ring_those_who_wait(array);
        (void)poll(&wait, 1, TICK_MS);
        (void)eventfd_read(array->bell, &rung);
    }
    return NULL;
}

int wr_array_start_thread(struct wr_array *array, const char *name, void *(*run)(void *),
                          pthread_t *thread_p)
{
    sigset_t all, before;
    int os_error;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    os_error = pthread_create(thread_p, NULL, run, array);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (os_error)
        return wr_tell_errno(array->env, os_error, "%s: cannot start a thread", array->kind->name);
    pthread_setname_np(*thread_p, name);
    return WEIR_OK;
}

static void stop(struct wr_array *array)
{
    pthread_mutex_lock(&array->lock);
    atomic_store(&array->stop, true);
    pthread_cond_broadcast(&array->work);
    pthread_mutex_unlock(&array->lock);
    eventfd_write(array->bell, 1);
}

int wr_array_keeper_start(struct wr_array *array)
{
    int error = wr_array_legs_open(array, 4, &array->keeper_legs);

    if (error)
        return error;
    error = wr_array_legs_open(array, 4, &array->builder_legs);
    if (error)
        goto err_keeper_legs;
    error = wr_array_start_thread(array, "weir-kbuild", wr_array_build, &array->builder);
    if (error)
        goto err_builder_legs;
    error = wr_array_start_thread(array, "weir-karray", keep, &array->keeper);
    if (!error)
        return WEIR_OK;
    stop(array);
    pthread_join(array->builder, NULL);
err_builder_legs:
    wr_array_legs_close(&array->builder_legs);
err_keeper_legs:
    wr_array_legs_close(&array->keeper_legs);
    return error;
}

void wr_array_keeper_stop(struct wr_array *array)
{
    stop(array);
    pthread_join(array->keeper, NULL);
    pthread_join(array->builder, NULL);
    wr_array_end_errands(array);
    /* A question that is still out there is answered or given up, as its member's patience has it.
     */
    for (uint32_t i = 0; i < array->members; i++)
        while (array->member[i].is_probing) {
            struct wr_array_leg *leg = &array->keeper_legs.leg[i];
            struct pollfd wait = {.fd = leg->fd, .events = POLLIN};

            (void)leg->channel->backend->ops->poll(leg->channel, 1);
            array->member[i].is_probing = array->member[i].probe.owner != NULL;
            if (array->member[i].is_probing)
                (void)poll(&wait, 1, TICK_MS);
        }
    wr_array_legs_close(&array->builder_legs);
    wr_array_legs_close(&array->keeper_legs);
}
