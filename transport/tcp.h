/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * tcp: the memory of another machine, lent by a weir-memd over a stream.
 *
 *   line     one connection: see tcp_line.h
 *   lease    what the server lends us, under a name that only it and we know
 *   control  the keeper's own line: the lease is renewed on it
 *   seat     a line for a thread that faults: it sits down, asks, waits, gets up again
 *   channel  a line with many requests in flight, for a thread of the runtime
 *   keeper   a thread that opens lines, so that nobody else has to wait for that
 *   patience how long a request outlives broken lines before it fails
 *
 * Always: a request is repeated on a new line only within one epoch and one lease, and the server
 * ends a line before it serves the one that takes its number: so that nothing that was sent on a
 * line that broke can overwrite what was written after. Where the epoch or the lease has gone
 * everything is lost, and every request fails from then on; nothing is ever read from memory that
 * was lent anew.
 *
 * rdma (rdma.h) is the same with a queue pair beside each line, by which its pages go: it shares
 * the keeper, the seats and the lease, and has a struct wr_tcp_kind of its own.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <weir/weir_backend.h>

#include "transport/tcp_kind.h"
#include "transport/tcp_line.h"

#define WR_TCP_SEATS    64u /* as many faults may wait for back ends at a time */
#define WR_TCP_CHANNELS 64u
#define WR_TCP_DEPTH    1024u

/* Numbers of lines: the server ends an older one of the same number. */
enum {
    WR_TCP_LINE_CONTROL = 0,
    WR_TCP_LINE_SEATS = 1,
    WR_TCP_LINE_CHANNELS = WR_TCP_LINE_SEATS + WR_TCP_SEATS,
    WR_TCP_LINES = WR_TCP_LINE_CHANNELS + WR_TCP_CHANNELS
};

enum wr_seat_state {
    WR_SEAT_CLOSED, /* the keeper's: no line                   */
    WR_SEAT_FREE,   /* anybody's                               */
    WR_SEAT_TAKEN,  /* of one who asks                         */
    WR_SEAT_BROKEN  /* the keeper's: to be closed              */
};

struct wr_seat {
    _Atomic(uint32_t) state;
    struct wr_line line; /* his whose turn it is by the state */
};

enum wr_link_state {
    WR_LINK_OPEN,   /* the line is the channel's                           */
    WR_LINK_BROKEN, /* the line is the keeper's: to be replaced            */
    WR_LINK_NEW     /* the channel's again, which has not looked at it yet */
};

enum wr_tcp_asked_back { WR_TCP_DRAIN, WR_TCP_TELL };

struct wr_tcp_options {
    uint64_t size, patience, spin_us, timeout;
    uint64_t asked_back; /* enum wr_tcp_asked_back */
    char *key;
};

struct wr_tcp {
    struct weir_backend base; /* first */
    /* Constant while open. */
    const struct wr_tcp_kind *kind;
    const struct weir_backend_env *env;
    struct wr_tcp_options options;
    struct wr_line_target target;
    struct wr_key key;
    char *host; /* the target's, and its port behind it */
    uint64_t slots, epoch;
    uint8_t lease[WR_NAME_BYTES];

    /* Lines that broke with something on its way that changes memory, by number, and how many they
     * are. Until the server has ended them it may still come to pass; nothing is written meanwhile.
     * The keeper has them severed; or another line of that number is welcomed. */
    _Atomic(bool) is_unsure[WR_TCP_LINES];
    _Atomic(uint32_t) unsure;

    _Atomic(bool) is_lost;     /* the pages are gone, for ever                          */
    _Atomic(bool) is_away;     /* nobody answers; requests wait for as long as patience */
    _Atomic(uint64_t) away_ns; /* since when */
    /* Since when no line that is needed can be opened, though the server may answer on those that
     * there are; 0: they can. Who has none waits for as long as patience. */
    _Atomic(uint64_t) barred_ns;
    _Atomic(uint64_t) unseated_ns; /* if no seat has a line: since when */

    struct wr_seat seats[WR_TCP_SEATS];
    _Atomic(uint32_t) seats_wanted; /* that many are to be open            */
    _Atomic(uint32_t) seats_freed;  /* grows: a futex for those who wait   */
    _Atomic(uint32_t) standing;     /* threads that wait for a seat        */
    _Atomic(uint32_t) looking;      /* threads that spin for an answer     */
    _Atomic(uint32_t) vain;         /* how often that was of no use lately */
    uint32_t looking_most;          /* constant: half of the processors    */

    /* Kept by `lock`: which channels there are. The keeper walks them. */
    pthread_mutex_t lock;
    struct weir_channel *channels[WR_TCP_CHANNELS];

    /* The keeper's. */
    pthread_t keeper;
    int bell; /* eventfd; anybody rings, also in a signal handler */
    _Atomic(bool) stop;
    struct wr_line control;
    uint32_t seats_had;               /* the most that were open at a time                 */
    struct wr_message renewal;        /* the last that was sent                            */
    uint64_t asked_ns;                /* when, if it has no answer yet; 0: it has          */
    uint64_t renew_ns, renew_wait_ns; /* when next; how long after that                    */
    uint64_t retry_ns, retry_wait_ns; /* likewise: the lease, when nobody answers          */
    uint64_t open_ns, open_wait_ns;   /* likewise: other lines, when one cannot be opened  */
    uint64_t more_ns, more_wait_ns;   /* likewise: seats that nobody had until now         */
    bool is_open_due, is_more_due;    /* some line is to be opened then                    */
    bool is_more;                     /* what is being opened is such a seat               */
    uint32_t lines_told;              /* how often it was said that they cannot            */
    bool gave_up;                     /* the one that was to be, for something better      */
    bool is_asked_back;               /* and whoever is to know was told                   */
    bool became_sure;                 /* since channels that wait for that were told       */
    bool is_sure_again;               /* they are being told                               */
};

/* A line of this number is given up with something on its way that changes memory. Its owner. */
static inline void wr_tcp_note_unsure(struct wr_tcp *tcp, uint32_t number)
{
    atomic_fetch_add(&tcp->unsure, 1);
    if (atomic_exchange(&tcp->is_unsure[number], true))
        atomic_fetch_sub(&tcp->unsure, 1);
}

/* The server has ended it. The keeper. */
static inline void wr_tcp_note_sure(struct wr_tcp *tcp, uint64_t number)
{
    if (!atomic_exchange(&tcp->is_unsure[number], false))
        return;
    atomic_fetch_sub(&tcp->unsure, 1);
    tcp->became_sure = true;
}

/* backend_tcp.c. As the operations of a back end have it. */
extern const struct wr_tcp_kind wr_tcp_by_stream;
int wr_tcp_open(const struct weir_backend_ops *ops, const struct wr_tcp_kind *kind,
                const char *spec, const struct weir_backend_env *env,
                struct weir_backend **backend_p);
void wr_tcp_close(struct weir_backend *backend);
void wr_tcp_describe(struct weir_backend *backend, struct weir_backend_info *info_p);

/* tcp_seat.c */
enum wr_asked wr_tcp_ask(struct wr_tcp *tcp, struct wr_line *line, uint64_t slot, uint32_t pages,
                         void *bytes, int *error_p);
/* May who asks look for his answer before he sleeps? Then how that went is told. id: of the
 * request, on its line. Signal. */
bool wr_tcp_may_look(struct wr_tcp *tcp, uint64_t id);
void wr_tcp_have_looked(struct wr_tcp *tcp, bool was_seen);
int wr_tcp_read(struct weir_backend *backend, uint64_t slot, uint32_t pages, void *bytes);
/* Discard slots, as far as there is a seat at the moment. Not in a signal handler. */
void wr_tcp_discard(struct wr_tcp *tcp, uint64_t slot, uint64_t count);

/* More may be had; or there is news for those who wait. */
void wr_tcp_wake_seats(struct wr_tcp *tcp);

/* tcp_keeper.c. Open the lease, and lines for the first who fault. */
int wr_tcp_keeper_open(struct wr_tcp *tcp);
void wr_tcp_keeper_close(struct wr_tcp *tcp);
/* A line that is one of the lease, under this number; and one that is ready for pages. The
 * keeper's, or before it runs. WEIR_EAGAIN: not now, for others could not be opened just before, or
 * something else is more urgent. */
int wr_tcp_attach(struct wr_tcp *tcp, struct wr_line *line, uint64_t number, char why[WR_WHY_ROOM]);
int wr_tcp_open_line(struct wr_tcp *tcp, struct wr_line *line, uint64_t number, uint32_t depth,
                     char why[WR_WHY_ROOM]);
void wr_tcp_close_line(const struct wr_tcp *tcp, struct wr_line *line);
/* When an answer is late. */
uint64_t wr_tcp_soon(const struct wr_tcp *tcp);
/* Signal. */
void wr_tcp_ring(const struct wr_tcp *tcp);

/* tcp_channel.c */
int wr_tcp_channel_open(struct weir_backend *backend, uint32_t depth,
                        struct weir_channel **channel_p);
void wr_tcp_channel_close(struct weir_channel *channel);
uint32_t wr_tcp_submit(struct weir_channel *channel, struct weir_io *const *ios, uint32_t count);
uint32_t wr_tcp_poll(struct weir_channel *channel, uint32_t max);
int wr_tcp_wait_fd(struct weir_channel *channel);
void wr_tcp_channel_tend(struct weir_channel *channel);
/* A channel that the keeper tends from now on, and the number of its lines. And no longer. */
int wr_tcp_enlist(struct wr_tcp *tcp, struct weir_channel *channel, uint32_t *number_p);
void wr_tcp_delist(struct wr_tcp *tcp, const struct weir_channel *channel);
