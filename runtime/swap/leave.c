/* SPDX-License-Identifier: MIT */

/*
 * Leave: a back end has said that its memory is wanted back. A thread takes its pages to the
 * others, if they have room, and closes it; the program need not do anything about it.
 *
 *   wish      that of one back end, from when it is said until it is withdrawn or fulfilled
 *
 * Always: a back end is closed by this thread only when it is empty. Whatever cannot be done now is
 * tried again later, for as long as the wish lasts; the program is told once, by an event.
 */

#include <stdlib.h>

#include "runtime/base/text.h"
#include "runtime/swap/swap.h"

#define RETRY_NS_FIRST 1000000000ull
#define RETRY_NS_MOST  (64 * RETRY_NS_FIRST)
#define LINE_ROOM      600

enum { IDLE, STARTING, RUNNING, STOPPED }; /* the thread */

struct wish {
    int32_t serial; /* of the back end; what is below is another's if that differs */
    bool is_told;
    uint64_t retry_ns, pause_ns;
};

struct wr_leave {
    struct wr_swap *swap;
    struct wr_bell bell;
    void *thread;
    _Atomic(uint32_t) state;
    _Atomic(bool) stop;
    struct wish wishes[WR_BACKENDS_MAX]; /* the thread's own */
};

static struct wr_host *host_of(const struct wr_leave *leave)
{
    return leave->swap->space->host;
}

static void tell(const struct wr_leave *leave, enum weir_severity severity, int error,
                 const char *spec, const char *words, uint64_t pages, const char *more)
{
    char line[LINE_ROOM];
    struct wr_text text;

    wr_text_init(&text, line, sizeof(line));
    wr_text_add(&text, "back end ");
    wr_text_add(&text, spec);
    wr_text_add(&text, ": ");
    wr_text_add(&text, words);
    if (pages)
        wr_text_bytes(&text, pages * WEIR_PAGE_BYTES);
    wr_text_add(&text, more);
    wr_event(&leave->swap->space->events, severity, error, 0, 0, line);
}

/* Slots that are free at back ends which take pages. */
static uint64_t room_elsewhere(const struct wr_swap *swap)
{
    uint64_t room = 0;

    for (uint32_t i = 0; i < WR_BACKENDS_MAX; i++) {
        const struct wr_swap_backend *other = wr_swap_backend(swap, i);

        if (other && !atomic_load(&other->leaving) && !atomic_load(&other->draining) &&
            atomic_load(&other->failures) < WR_SICK_PATIENCE)
            room += other->slots.count - wr_slots_used(&other->slots);
    }
    return room;
}

static bool is_wanted(const struct wr_swap_backend *backend)
{
    return atomic_load(&backend->leaving) && !atomic_load(&backend->swap->leave->stop);
}

static void try_later(struct wr_leave *leave, struct wish *wish)
{
    wish->retry_ns = host_of(leave)->ops->now_ns(host_of(leave)) + wish->pause_ns;
    if (wish->pause_ns < RETRY_NS_MOST)
        wish->pause_ns *= 2;
}

/* Under WR_RANK_BACKENDS. The back end is no more after WEIR_OK. */
static int take_away(struct wr_leave *leave, struct wr_swap_backend *backend, char spec[LINE_ROOM])
{
    uint64_t used = wr_slots_used(&backend->slots);
    struct wr_text text;
    int error;

    wr_text_init(&text, spec, LINE_ROOM);
    wr_text_add(&text, backend->spec);
    if (used > room_elsewhere(leave->swap))
        return WEIR_EFULL;
    if (used > 0)
        tell(leave, WEIR_NOTE, WEIR_OK, spec, "its memory is wanted back; ", used,
             " move to other back ends");
    error = wr_swap_drain_while(leave->swap, backend->number, is_wanted);
    if (error == WEIR_OK)
        tell(leave, WEIR_NOTE, WEIR_OK, spec,
             "its memory was wanted back: it is empty, and closed; weir_backend_add() adds it "
             "again",
             0, "");
    return error;
}

static void tell_why_not(const struct wr_leave *leave, const struct wr_swap_backend *backend,
                         int error)
{
    const char *more = error == WEIR_EFULL
                           ? " of pages have no room elsewhere; weir_backend_add() makes some"
                           : " of pages could not be taken away yet; it is tried again";

    tell(leave, WEIR_WARNING, error, backend->spec, "its memory is wanted back, but ",
         wr_slots_used(&backend->slots), more);
}

/* Returns when to look again. */
static uint64_t look_at(struct wr_leave *leave, uint32_t number)
{
    struct wish *wish = &leave->wishes[number];
    struct wr_swap_backend *backend;
    uint64_t next = WR_FOREVER;
    char spec[LINE_ROOM];
    int error;

    wr_lock_take(leave->swap->wish.backends_lock);
    backend = wr_swap_backend(leave->swap, number);
    if (backend && is_wanted(backend)) {
        if (wish->serial != backend->serial)
            *wish = (struct wish){.serial = backend->serial, .pause_ns = RETRY_NS_FIRST};
        if (host_of(leave)->ops->now_ns(host_of(leave)) >= wish->retry_ns) {
            error = take_away(leave, backend, spec);
            if (error != WEIR_OK && is_wanted(backend) && !wish->is_told)
                tell_why_not(leave, backend, error);
            wish->is_told = error != WEIR_OK;
            try_later(leave, wish);
        }
        next = wish->retry_ns;
    } else {
        wish->serial = -1;
    }
    wr_lock_drop(leave->swap->wish.backends_lock);
    return next;
}

static void leave_main(void *context)
{
    struct wr_leave *leave = context;

    while (!atomic_load(&leave->stop)) {
        uint64_t next = WR_FOREVER;

        for (uint32_t i = 0; i < WR_BACKENDS_MAX && !atomic_load(&leave->stop); i++) {
            uint64_t then = wr_swap_backend(leave->swap, i) ? look_at(leave, i) : WR_FOREVER;

            next = then < next ? then : next;
        }
        host_of(leave)->ops->bell_wait(host_of(leave), &leave->bell, NULL, 0, next);
    }
}

void wr_leave_rouse(struct wr_leave *leave)
{
    struct wr_host *host = host_of(leave);
    uint32_t idle = IDLE;

    if (atomic_compare_exchange_strong(&leave->state, &idle, STARTING)) {
        int error = host->ops->thread_start(host, "weir-kleave", leave_main, leave, &leave->thread);

        if (error != WEIR_OK)
            wr_event(&leave->swap->space->events, WEIR_WARNING, error, 0, 0,
                     "a back end's memory is wanted back, but no thread can be started to empty "
                     "it (ulimit -u): weir_backend_drain() does it");
        atomic_store(&leave->state, error == WEIR_OK ? RUNNING : IDLE);
    } else if (idle == RUNNING) {
        host->ops->bell_ring(host, &leave->bell);
    }
}

void wr_leave_stop(struct wr_leave *leave)
{
    uint32_t state = IDLE;

    if (!leave)
        return;
    atomic_store(&leave->stop, true);
    while (!atomic_compare_exchange_strong(&leave->state, &state, STOPPED) && state != STOPPED) {
        if (state == RUNNING) {
            host_of(leave)->ops->bell_ring(host_of(leave), &leave->bell);
            host_of(leave)->ops->thread_stop(host_of(leave), leave->thread);
            atomic_store(&leave->state, STOPPED);
            return;
        }
        state = IDLE; /* being started: that does not take long */
        host_of(leave)->ops->yield(host_of(leave));
    }
}

int wr_leave_open(struct wr_swap *swap)
{
    struct wr_leave *leave = calloc(1, sizeof(*leave));
    int error;

    if (!leave)
        return WEIR_ENOMEM;
    leave->swap = swap;
    for (uint32_t i = 0; i < WR_BACKENDS_MAX; i++)
        leave->wishes[i].serial = -1;
    error = swap->space->host->ops->bell_init(swap->space->host, &leave->bell);
    if (error != WEIR_OK) {
        free(leave);
        return error;
    }
    swap->leave = leave;
    return WEIR_OK;
}

void wr_leave_close(struct wr_leave *leave)
{
    if (!leave)
        return;
    host_of(leave)->ops->bell_fini(host_of(leave), &leave->bell);
    free(leave);
}
