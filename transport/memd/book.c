/* SPDX-License-Identifier: MIT */
#include "transport/memd/book.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "transport/memd/clock.h"

#define LOOK_MS 1000u /* the longest that the keeper sleeps */

static uint32_t or_usual(uint32_t wanted, uint32_t usual, uint32_t most)
{
    return wanted == 0 ? usual : wanted < most ? wanted : most;
}

bool memd_book_open(struct memd_book *book, const struct memd_limits *limits,
                    const struct memd_room *room, struct memd_log *log)
{
    static const struct memd_room usual;
    pthread_condattr_t attributes;

    memset(book, 0, sizeof(*book));
    if (!room)
        room = &usual;
    book->room.connections = or_usual(room->connections, MEMD_CONNECTIONS, MEMD_CONNECTIONS_MOST);
    book->room.leases = or_usual(room->leases, MEMD_LEASES, MEMD_LEASES_MOST);
    book->leases = calloc(book->room.leases, sizeof(*book->leases));
    if (!book->leases)
        return false;
    book->log = log;
    book->limits = *limits;
    pthread_mutex_init(&book->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&book->more, &attributes);
    pthread_condattr_destroy(&attributes);
    return true;
}

void memd_book_tune(struct memd_book *book, const struct memd_limits *limits)
{
    pthread_mutex_lock(&book->lock);
    book->limits = *limits;
    pthread_mutex_unlock(&book->lock);
}

void memd_book_settle(struct memd_book *book)
{
    pthread_mutex_lock(&book->lock);
    book->guests--;
    atomic_fetch_add(&book->connections, 1);
    pthread_mutex_unlock(&book->lock);
}

void memd_book_dismiss(struct memd_book *book, enum memd_admission admission)
{
    pthread_mutex_lock(&book->lock);
    book->guests -= admission == MEMD_GUEST;
    if (admission == MEMD_ADMITTED)
        atomic_fetch_sub(&book->connections, 1);
    pthread_mutex_unlock(&book->lock);
}

bool memd_book_asks_back(struct memd_book *book)
{
    bool is_over_limit;

    if (atomic_load(&book->is_draining) || atomic_load(&book->is_short))
        return true;
    pthread_mutex_lock(&book->lock);
    is_over_limit = book->lent_slots > book->limits.memory / WEIR_SLOT_BYTES;
    pthread_mutex_unlock(&book->lock);
    return is_over_limit;
}

uint32_t memd_book_lease_ms(struct memd_book *book)
{
    uint32_t lease_ms;

    pthread_mutex_lock(&book->lock);
    lease_ms = book->limits.lease_ms;
    pthread_mutex_unlock(&book->lock);
    return lease_ms;
}

void memd_book_discard(const struct memd_lease *lease, uint64_t slot, uint64_t count)
{
    if (!atomic_load(&lease->is_pinned))
        memd_memory_empty(lease->memory + slot * WEIR_SLOT_BYTES, count * WEIR_SLOT_BYTES,
                          lease->is_reserved);
}

/* --- Leases ---------------------------------------------------------------------------------- */

static enum memd_lease_state state_of(const struct memd_lease *lease)
{
    return atomic_load_explicit(&lease->state, memory_order_relaxed);
}

static void set_state_locked(struct memd_lease *lease, enum memd_lease_state state)
{
    atomic_store_explicit(&lease->state, state, memory_order_release);
}

static struct memd_lease *free_entry_locked(struct memd_book *book)
{
    for (uint32_t i = 0; i < book->room.leases; i++)
        if (state_of(&book->leases[i]) == MEMD_LEASE_FREE)
            return &book->leases[i];
    return NULL;
}

static bool is_of(const struct memd_lease *lease, const struct memd_client *client)
{
    return memcmp(lease->client.name, client->name, WR_NAME_BYTES) == 0;
}

/* Places that are kept for others than this client. */
static uint64_t kept_locked(const struct memd_book *book, const struct memd_client *client)
{
    uint64_t kept = 0;

    for (uint32_t i = 0; i < book->room.leases; i++) {
        const struct memd_lease *lease = &book->leases[i];

        if (state_of(lease) == MEMD_LEASE_LENT && !is_of(lease, client))
            kept += lease->places_most - lease->places;
    }
    return kept;
}

static bool has_lines_locked(const struct memd_book *book, const struct memd_client *client)
{
    for (uint32_t i = 0; i < book->room.leases; i++)
        if (state_of(&book->leases[i]) == MEMD_LEASE_LENT && is_of(&book->leases[i], client) &&
            book->leases[i].places > 0)
            return true;
    return false;
}

static bool has_room_locked(const struct memd_book *book, const struct memd_client *client)
{
    return atomic_load(&book->connections) + kept_locked(book, client) < book->room.connections;
}

enum memd_admission memd_book_admit(struct memd_book *book, const struct memd_client *client)
{
    enum memd_admission admission = MEMD_TURNED_AWAY;

    pthread_mutex_lock(&book->lock);
    if (has_room_locked(book, client))
        admission = MEMD_ADMITTED;
    else if (book->guests < MEMD_GUESTS && has_lines_locked(book, client))
        admission = MEMD_GUEST;
    book->guests += admission == MEMD_GUEST;
    if (admission == MEMD_ADMITTED)
        atomic_fetch_add(&book->connections, 1);
    pthread_mutex_unlock(&book->lock);
    return admission;
}

bool memd_book_readmit(struct memd_book *book, const struct memd_client *client)
{
    bool has_room;

    pthread_mutex_lock(&book->lock);
    has_room = has_room_locked(book, client);
    if (has_room) {
        book->guests--;
        atomic_fetch_add(&book->connections, 1);
    }
    pthread_mutex_unlock(&book->lock);
    return has_room;
}

/* What a client has, in slots: all whose memory is still there. */
static uint64_t slots_of_locked(const struct memd_book *book, const struct memd_client *client)
{
    uint64_t slots = 0;

    for (uint32_t i = 0; i < book->room.leases; i++) {
        const struct memd_lease *lease = &book->leases[i];
        const enum memd_lease_state state = state_of(lease);

        if (state != MEMD_LEASE_FREE && state != MEMD_LEASE_GONE && is_of(lease, client))
            slots += lease->slots;
    }
    return slots;
}

/* WEIR_OK and the number of whole clusters' slots, or why not. */
static int may_lend_locked(const struct memd_book *book, const struct memd_client *client,
                           uint64_t wanted, uint64_t *slots_p)
{
    const uint64_t memory = book->limits.memory / WEIR_SLOT_BYTES;
    const uint64_t quota = book->limits.quota / WEIR_SLOT_BYTES;
    uint64_t slots;

    if (wanted == 0)
        return WEIR_EINVAL;
    if (atomic_load(&book->is_draining))
        return WEIR_ESTOPPED;
    if (wanted > memory || book->lent_slots > memory)
        return WEIR_EFULL;
    slots = (wanted + WEIR_CLUSTER_SLOTS - 1) / WEIR_CLUSTER_SLOTS * WEIR_CLUSTER_SLOTS;
    *slots_p = slots;
    if (quota && slots + slots_of_locked(book, client) > quota)
        return WEIR_EDENIED;
    return slots > memory - book->lent_slots || atomic_load(&book->is_short) ? WEIR_EFULL : WEIR_OK;
}

static int lend_locked(struct memd_book *book, const struct memd_client *client, uint64_t wanted,
                       struct memd_lease **lease_p)
{
    uint64_t slots;
    int error = may_lend_locked(book, client, wanted, &slots);
    struct memd_lease *lease;
    char *memory;

    if (error)
        return error;
    lease = free_entry_locked(book);
    if (!lease)
        return WEIR_EBUSY;
    memory = memd_memory_map(&book->ground, slots * WEIR_SLOT_BYTES, &lease->is_reserved);
    if (!memory)
        return WEIR_ENOMEM;
    lease->memory = memory;
    lease->slots = slots;
    lease->client = *client;
    wr_random(lease->name, sizeof(lease->name));
    atomic_store_explicit(&lease->heard_ms, memd_now_ms(), memory_order_relaxed);
    lease->users = 1;
    memset(lease->had, 0, sizeof(lease->had));
    lease->places = lease->places_most = 0;
    lease->watchers = 0;
    set_state_locked(lease, MEMD_LEASE_LENT);
    book->lent_slots += slots;
    book->lent++;
    *lease_p = lease;
    return WEIR_OK;
}

static const char *why_not(int error)
{
    switch (error) {
    case WEIR_EDENIED: return "over the quota of one client";
    case WEIR_ESTOPPED: return "this server is closing";
    case WEIR_EINVAL: return "nothing was asked for";
    case WEIR_ENOMEM: return "the system has no addresses left (ulimit -v)";
    case WEIR_EBUSY: return "all leases are in use (see the setting `leases`)";
    default: return "more than is free";
    }
}

int memd_book_lend(struct memd_book *book, const struct memd_client *client, uint64_t slots,
                   struct memd_lease **lease_p)
{
    char size[MEMD_SIZE_TEXT], left[MEMD_SIZE_TEXT], all[MEMD_SIZE_TEXT];
    uint64_t memory, lent;
    int error;

    pthread_mutex_lock(&book->lock);
    error = lend_locked(book, client, slots, lease_p);
    book->refused += error != WEIR_OK;
    memory = book->limits.memory;
    lent = book->lent_slots * WEIR_SLOT_BYTES;
    pthread_mutex_unlock(&book->lock);

    memd_size_text(lent < memory ? memory - lent : 0, left);
    memd_size_text(memory, all);
    if (!error)
        memd_log(book->log, MEMD_LOG_EVENT, "%s: lent %s; %s of %s are free", client->who,
                 memd_size_text((*lease_p)->slots * WEIR_SLOT_BYTES, size), left, all);
    else
        memd_log(book->log, MEMD_LOG_REFUSED,
                 "%s: asked for %llu pages and got none: %s; %s of %s are free", client->who,
                 (unsigned long long)slots, why_not(error), left, all);
    return error;
}

struct memd_lease *memd_book_attach(struct memd_book *book, const struct memd_client *client,
                                    const uint8_t name[WR_NAME_BYTES])
{
    struct memd_lease *found = NULL;

    pthread_mutex_lock(&book->lock);
    for (uint32_t i = 0; i < book->room.leases && !found; i++) {
        struct memd_lease *lease = &book->leases[i];

        if (state_of(lease) == MEMD_LEASE_LENT && memcmp(lease->name, name, WR_NAME_BYTES) == 0 &&
            is_of(lease, client))
            found = lease;
    }
    if (found)
        found->users++;
    pthread_mutex_unlock(&book->lock);
    return found;
}

uint32_t memd_line_take(struct memd_lease *lease, uint32_t number)
{
    _Atomic(uint32_t) *line = &lease->lines[number];
    uint32_t seen = atomic_load_explicit(line, memory_order_relaxed), turn;

    /* Acquire: what the one before did to the lease's memory comes before what we do to it. It does
     * not wait for anything while it is heard. */
    do {
        while (seen & 1) {
            sched_yield();
            seen = atomic_load_explicit(line, memory_order_relaxed);
        }
        turn = seen / 2 + 1;
    } while (!atomic_compare_exchange_weak_explicit(line, &seen, 2 * turn + 1, memory_order_acquire,
                                                    memory_order_relaxed));
    return turn;
}

bool memd_line_enter(struct memd_lease *lease, uint32_t number, uint32_t turn)
{
    uint32_t wanted = 2 * turn;

    return atomic_compare_exchange_strong_explicit(&lease->lines[number], &wanted, wanted + 1,
                                                   memory_order_acquire, memory_order_relaxed);
}

bool memd_line_is_over(const struct memd_lease *lease, uint32_t number, uint32_t turn)
{
    return atomic_load_explicit(&lease->lines[number], memory_order_relaxed) / 2 != turn;
}

void memd_line_leave(struct memd_lease *lease, uint32_t number)
{
    atomic_fetch_and_explicit(&lease->lines[number], ~1u, memory_order_release);
}

static uint64_t bit_of(uint32_t number)
{
    return 1ull << (number % 64);
}

bool memd_book_has_line(struct memd_book *book, const struct memd_lease *lease, uint32_t number)
{
    bool has_line;

    pthread_mutex_lock(&book->lock);
    has_line = lease->had[number / 64] & bit_of(number);
    pthread_mutex_unlock(&book->lock);
    return has_line;
}

void memd_book_take_place(struct memd_book *book, struct memd_lease *lease, uint32_t number,
                          uint32_t turn)
{
    pthread_mutex_lock(&book->lock);
    if (!memd_line_is_over(lease, number, turn) && !(lease->had[number / 64] & bit_of(number))) {
        lease->had[number / 64] |= bit_of(number);
        lease->places++;
    }
    if (lease->places > lease->places_most)
        lease->places_most = lease->places;
    pthread_mutex_unlock(&book->lock);
}

bool memd_book_put_place(struct memd_book *book, struct memd_lease *lease, uint32_t number,
                         uint32_t turn)
{
    bool was_had;

    pthread_mutex_lock(&book->lock);
    was_had = lease->had[number / 64] & bit_of(number);
    /* Who takes the number next does so before it takes the place: one of us sees the other. */
    if (!memd_line_is_over(lease, number, turn) && was_had) {
        lease->had[number / 64] &= ~bit_of(number);
        lease->places--;
    }
    pthread_mutex_unlock(&book->lock);
    return was_had;
}

static void call_keeper_locked(struct memd_book *book)
{
    book->has_more = true;
    pthread_cond_signal(&book->more);
}

static void leave_locked(struct memd_book *book, struct memd_lease *lease)
{
    lease->users--;
    if (lease->users == 0 && state_of(lease) == MEMD_LEASE_OVER)
        call_keeper_locked(book);
}

void memd_book_hold(struct memd_book *book, struct memd_lease *lease)
{
    pthread_mutex_lock(&book->lock);
    lease->users++;
    pthread_mutex_unlock(&book->lock);
}

void memd_book_leave(struct memd_book *book, struct memd_lease *lease)
{
    pthread_mutex_lock(&book->lock);
    leave_locked(book, lease);
    pthread_mutex_unlock(&book->lock);
}

void memd_book_ring(struct memd_book *book)
{
    if (book->bell)
        book->bell(book->bell_context);
}

void memd_book_return(struct memd_book *book, struct memd_lease *lease)
{
    char size[MEMD_SIZE_TEXT];

    pthread_mutex_lock(&book->lock);
    if (state_of(lease) == MEMD_LEASE_LENT) {
        set_state_locked(lease, MEMD_LEASE_OVER);
        book->returned++;
    }
    lease->watchers++;
    leave_locked(book, lease);
    pthread_mutex_unlock(&book->lock);
    memd_log(book->log, MEMD_LOG_EVENT, "%s: returned %s", lease->client.who,
             memd_size_text(lease->slots * WEIR_SLOT_BYTES, size));
    memd_book_ring(book);
}

void memd_book_unwatch(struct memd_book *book, struct memd_lease *lease)
{
    pthread_mutex_lock(&book->lock);
    lease->watchers--;
    if (lease->watchers == 0 && state_of(lease) == MEMD_LEASE_GONE)
        set_state_locked(lease, MEMD_LEASE_FREE);
    pthread_mutex_unlock(&book->lock);
}

/* --- For the keeper -------------------------------------------------------------------------- */

/* The server itself was stopped or starved: what clients said meanwhile waits in its sockets, and
 * is no silence of theirs. */
static void forgive_locked(struct memd_book *book, uint64_t now_ms)
{
    for (uint32_t i = 0; i < book->room.leases; i++)
        memd_lease_heard(&book->leases[i], now_ms);
}

static bool is_silent_locked(const struct memd_book *book, const struct memd_lease *lease,
                             uint64_t now_ms, uint64_t *next_ms)
{
    const uint64_t heard_ms = atomic_load_explicit(&lease->heard_ms, memory_order_relaxed);
    const uint64_t end_ms = heard_ms + book->limits.lease_ms;

    if (state_of(lease) != MEMD_LEASE_LENT || atomic_load(&lease->is_busy))
        return false;
    if (now_ms > end_ms)
        return true;
    if (end_ms + 1 < *next_ms)
        *next_ms = end_ms + 1;
    return false;
}

uint64_t memd_book_expire(struct memd_book *book, uint64_t now_ms)
{
    uint64_t next_ms = now_ms + LOOK_MS;
    uint32_t count = 0;

    pthread_mutex_lock(&book->lock);
    if (book->planned_ms && now_ms > book->planned_ms + book->limits.lease_ms / 4)
        forgive_locked(book, now_ms);
    for (uint32_t i = 0; i < book->room.leases; i++) {
        struct memd_lease *lease = &book->leases[i];

        if (!is_silent_locked(book, lease, now_ms, &next_ms))
            continue;
        set_state_locked(lease, MEMD_LEASE_OVER);
        book->expired++;
        count++;
        memd_log(book->log, MEMD_LOG_EVENT,
                 "%s: its lease is over: nothing was heard of it for %u ms", lease->client.who,
                 book->limits.lease_ms);
    }
    book->planned_ms = next_ms;
    pthread_mutex_unlock(&book->lock);
    if (count)
        memd_book_ring(book);
    return next_ms;
}

static struct memd_lease *left_locked(struct memd_book *book)
{
    for (uint32_t i = 0; i < book->room.leases; i++)
        if (state_of(&book->leases[i]) == MEMD_LEASE_OVER && book->leases[i].users == 0)
            return &book->leases[i];
    return NULL;
}

bool memd_book_reap(struct memd_book *book)
{
    struct memd_lease *lease;

    pthread_mutex_lock(&book->lock);
    lease = left_locked(book);
    if (lease)
        set_state_locked(lease, MEMD_LEASE_LEAVING);
    pthread_mutex_unlock(&book->lock);
    if (!lease)
        return false;

    if (book->unpin)
        book->unpin(book->unpin_context, lease);
    atomic_store(&lease->is_pinned, false);
    if (!lease->is_reserved)
        memd_memory_empty(lease->memory, lease->slots * WEIR_SLOT_BYTES, false);
    memd_memory_unmap(lease->memory, lease->slots * WEIR_SLOT_BYTES);

    pthread_mutex_lock(&book->lock);
    book->lent_slots -= lease->slots;
    lease->memory = NULL;
    set_state_locked(lease, lease->watchers ? MEMD_LEASE_GONE : MEMD_LEASE_FREE);
    pthread_mutex_unlock(&book->lock);
    memd_book_ring(book);
    return true;
}

void memd_book_wait(struct memd_book *book, uint64_t until_ms)
{
    const struct timespec until = {.tv_sec = (time_t)(until_ms / 1000),
                                   .tv_nsec = (long)(until_ms % 1000) * 1000000};

    pthread_mutex_lock(&book->lock);
    while (!book->has_more && pthread_cond_timedwait(&book->more, &book->lock, &until) == 0) {
    }
    book->has_more = false;
    pthread_mutex_unlock(&book->lock);
}

void memd_book_wake(struct memd_book *book)
{
    pthread_mutex_lock(&book->lock);
    call_keeper_locked(book);
    pthread_mutex_unlock(&book->lock);
}

void memd_book_close(struct memd_book *book)
{
    book->bell = NULL;
    for (uint32_t i = 0; i < book->room.leases; i++)
        if (state_of(&book->leases[i]) == MEMD_LEASE_LENT)
            set_state_locked(&book->leases[i], MEMD_LEASE_OVER);
    while (memd_book_reap(book)) {
    }
    pthread_cond_destroy(&book->more);
    pthread_mutex_destroy(&book->lock);
    free(book->leases);
    book->leases = NULL;
}
