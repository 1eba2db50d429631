/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Book: who was lent what. Knows memory and clocks, and no sockets.
 *
 *   user      a connection that may touch a lease's memory
 *   watcher   a connection that returned its lease and waits for the memory to be given back
 *   line      a user by the number that its client gave it. A later one of the same number takes
 *             its turn: what the earlier one has still to say is not heard any more
 *   place     room for the line of one number. However many connections had it before, and have not
 *             ended yet, it is one
 *   kept      places that a lease had at a time and has no longer: for its client, whose
 *             connections broke, and for nobody else
 *   guest     a connection for which there is no room, of a client who has lines. It may take the
 *             number of one of those, which its client knows to be dead; and nothing else. It is
 *             none of the connections that are counted
 *   over      a lease that was returned or whose time is up; its users are asked to leave
 *   gone      its memory is unmapped; the entry waits for its watchers
 *
 * A lease moves FREE -> LENT -> OVER -> LEAVING -> GONE -> FREE.
 *
 * Always: a lease's memory is mapped anew for it, so that it is zero, and unmapped only when it is
 * over and has no user; until then it counts as lent. The sum of what is lent is at most
 * limits.memory, unless that was lowered afterwards.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "transport/memd/log.h"
#include "transport/memd/memd.h"
#include "transport/memd/memory.h"

#define MEMD_LINES_MOST 256u
#define MEMD_WHO_BYTES  112u /* "label at address", for the log */
#define MEMD_GUESTS     8u   /* at a time */

enum memd_admission { MEMD_TURNED_AWAY, MEMD_ADMITTED, MEMD_GUEST };

enum memd_lease_state {
    MEMD_LEASE_FREE,
    MEMD_LEASE_LENT,
    MEMD_LEASE_OVER,
    MEMD_LEASE_LEAVING, /* the keeper unmaps it */
    MEMD_LEASE_GONE
};

struct memd_client {
    uint8_t name[WR_NAME_BYTES];
    char who[MEMD_WHO_BYTES];
};

struct memd_lease {
    /* Constant from LENT until GONE. */
    char *memory;
    bool is_reserved; /* in huge pages of that kind */
    uint64_t slots;
    uint8_t name[WR_NAME_BYTES];
    struct memd_client client;
    /* When one of its connections was heard last. A store that is lost is of the same moment. */
    _Atomic(uint64_t) heard_ms;
    /* Written under the book's lock; read without it by who has a hold on the lease: a stale LENT
     * is corrected by the bell that follows. */
    _Atomic(enum memd_lease_state) state;
    _Atomic(bool) is_busy;   /* something is done with it that takes long: it is not silent then */
    _Atomic(bool) is_pinned; /* a device has it: discarding would part what both see */
    _Atomic(uint32_t) lines[MEMD_LINES_MOST]; /* twice the turn, and 1 while it is heard */
    /* Kept by the book's lock. */
    uint32_t users, watchers;
    uint64_t had[MEMD_LINES_MOST / 64]; /* a bit for the number of each line that somebody has */
    uint32_t places, places_most;       /* bits in it; at a time, until now                    */
};

struct memd_book {
    struct memd_log *log;
    /* Rung when leases became over or gone: connections have to be looked through. Any thread. */
    void (*bell)(void *context);
    void *bell_context;
    struct memd_room room;     /* constant */
    struct memd_ground ground; /* constant; all 0: whatever huge pages and nodes there are */
    /* A lease's memory is about to be unmapped: no device may have it any more. NULL: none does. */
    void (*unpin)(void *context, const struct memd_lease *lease);
    void *unpin_context;

    _Atomic(uint32_t) connections; /* that have proven the key; admitted under the lock */
    _Atomic(bool) is_short;        /* the machine is short of memory   */
    _Atomic(bool) is_draining;

    /* Kept by lock. */
    pthread_mutex_t lock;
    pthread_cond_t more; /* something for the keeper */
    bool has_more;
    struct memd_limits limits;
    uint64_t lent_slots;
    uint32_t guests;
    uint64_t planned_ms;       /* when the keeper meant to look next */
    struct memd_lease *leases; /* room.leases of them */
    uint64_t lent, returned, expired, refused;
};

/* room: NULL: as much as is usual. False: out of memory. */
bool memd_book_open(struct memd_book *book, const struct memd_limits *limits,
                    const struct memd_room *room, struct memd_log *log);
/* Every lease is over, its memory given back. There are no users. */
void memd_book_close(struct memd_book *book);
void memd_book_tune(struct memd_book *book, const struct memd_limits *limits);

/* A connection of this client, that has proven the key. Where there are too many, or what is left
 * is kept for others, it is a guest at most. */
enum memd_admission memd_book_admit(struct memd_book *book, const struct memd_client *client);
void memd_book_dismiss(struct memd_book *book, enum memd_admission admission);
/* A guest has taken the number of another, which is about to end: it is one no longer. Nor is it if
 * there is room by now; false: there is none. */
void memd_book_settle(struct memd_book *book);
bool memd_book_readmit(struct memd_book *book, const struct memd_client *client);

/*
 * Lend so many slots, rounded up to whole clusters; the caller is its first user. WEIR_EINVAL: none
 * were wanted; WEIR_EFULL; WEIR_EDENIED: over the quota; WEIR_ESTOPPED: it drains; WEIR_ENOMEM.
 */
int memd_book_lend(struct memd_book *book, const struct memd_client *client, uint64_t slots,
                   struct memd_lease **lease_p);
/* One more user of the client's own lease of that name; NULL: there is none. */
struct memd_lease *memd_book_attach(struct memd_book *book, const struct memd_client *client,
                                    const uint8_t name[WR_NAME_BYTES]);
/* From now on the line of this number is the caller's, and heard. When it returns, whoever had it
 * before is not in the midst of anything, and will not be heard again. Returns its turn. */
uint32_t memd_line_take(struct memd_lease *lease, uint32_t number);
/* Hear it; false: another has its number. */
bool memd_line_enter(struct memd_lease *lease, uint32_t number, uint32_t turn);
/* Will it never be heard again? */
bool memd_line_is_over(const struct memd_lease *lease, uint32_t number, uint32_t turn);
void memd_line_leave(struct memd_lease *lease, uint32_t number);
/* Has anybody the line of this number? And: a user has taken it, in this turn; he has it no longer.
 * Neither changes anything if another has taken it since. */
bool memd_book_has_line(struct memd_book *book, const struct memd_lease *lease, uint32_t number);
void memd_book_take_place(struct memd_book *book, struct memd_lease *lease, uint32_t number,
                          uint32_t turn);
/* Returns whether anybody had it. */
bool memd_book_put_place(struct memd_book *book, struct memd_lease *lease, uint32_t number,
                         uint32_t turn);
/* Connections have to be looked through. */
void memd_book_ring(struct memd_book *book);
/* One more user, of a lease that has one. */
void memd_book_hold(struct memd_book *book, struct memd_lease *lease);
void memd_book_leave(struct memd_book *book, struct memd_lease *lease);
/* The lease is over, and its user becomes a watcher. */
void memd_book_return(struct memd_book *book, struct memd_lease *lease);
void memd_book_unwatch(struct memd_book *book, struct memd_lease *lease);
/* These slots are zero again, and occupy nothing; or, while a device has them, are as they were. By
 * a user; they lie inside. */
void memd_book_discard(const struct memd_lease *lease, uint64_t slot, uint64_t count);

static inline bool memd_lease_is_lent(const struct memd_lease *lease)
{
    return atomic_load_explicit(&lease->state, memory_order_acquire) == MEMD_LEASE_LENT;
}

static inline bool memd_lease_is_gone(const struct memd_lease *lease)
{
    return atomic_load_explicit(&lease->state, memory_order_acquire) == MEMD_LEASE_GONE;
}

static inline void memd_lease_heard(struct memd_lease *lease, uint64_t now_ms)
{
    if (atomic_load_explicit(&lease->heard_ms, memory_order_relaxed) != now_ms)
        atomic_store_explicit(&lease->heard_ms, now_ms, memory_order_relaxed);
}

/* Does the server want memory back? */
bool memd_book_asks_back(struct memd_book *book);
uint32_t memd_book_lease_ms(struct memd_book *book);

/* --- For the keeper -------------------------------------------------------------------------- */

/* End leases that were silent for too long. Returns when to look again. */
uint64_t memd_book_expire(struct memd_book *book, uint64_t now_ms);
/* Unmap one lease that is over and has no user; false: there is none. */
bool memd_book_reap(struct memd_book *book);
/* Wait until something is to be done, or until then. */
void memd_book_wait(struct memd_book *book, uint64_t until_ms);
/* Wake the keeper. */
void memd_book_wake(struct memd_book *book);
