/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Server: the threads, sockets and connections around book and talk.
 *
 *   spare    connections that nobody has
 *   inbox    connections that another worker gave to this one
 *
 * Always: a connection is one worker's alone, from the moment when it took it out of its inbox
 * until it gave it away or put it back among the spare ones; nobody else touches it.
 */

#include "transport/memd/book.h"
#include "transport/memd/talk.h"

#define MEMD_UNPROVEN_MOST     64u
#define MEMD_UNPROVEN_MS       3000u
/* Younger than this, one who has not proven himself is not put out for another. */
#define MEMD_UNPROVEN_LEAST_MS 250u

/* What an event of epoll is about: each begins with this. */
enum memd_watched { MEMD_WATCHED_BELL, MEMD_WATCHED_DOOR, MEMD_WATCHED_CONNECTION };

struct memd_connection {
    enum memd_watched watched;
    int fd;                           /* -1: it has ended                                       */
    uint32_t events;                  /* that epoll waits for                                   */
    bool is_settled;                  /* has proven the key and is with the worker that keeps it */
    struct memd_connection *previous; /* among those of its worker                              */
    struct memd_connection *next;     /* likewise; or in the inbox, ended, or spare             */
    uint64_t since_ms;                /* when it came; once it is settled: when it was          */
    uint64_t progress_ms;             /* when bytes moved last                                  */
    struct memd_talk talk;
};

struct memd_door {
    enum memd_watched watched;
    int fd;
    uint16_t port;
    uint16_t rdma_port; /* where queue pairs come, of who came by this door; 0: none do */
};

struct memd_worker {
    enum memd_watched watched; /* the bell */
    struct memd *memd;
    uint32_t index;
    pthread_t thread;
    int epoll_fd, bell_fd;
    /* Any thread. */
    _Atomic(uint32_t) load; /* connections, those in the inbox included */
    pthread_mutex_t lock;
    struct memd_connection *inbox; /* kept by lock */
    struct memd_counts counts;     /* the worker writes, others read */
    /* The worker's own. */
    struct memd_connection *connections, *oldest; /* newest first */
    struct memd_connection *ended;                /* in this round of events */
    uint64_t now_ms, look_until_ns;               /* look_until_ns: 0: sleep at once       */
    /* Of the first worker. */
    uint32_t unproven;
    bool is_door_shut;
};

struct memd {
    /* Constant while open. */
    struct memd_identity identity;
    struct memd_log log;
    struct memd_door doors[MEMD_LISTEN_MOST];
    uint32_t door_count;
    struct memd_worker workers[MEMD_THREADS_MOST];
    uint32_t worker_count;
    uint32_t looking_most; /* workers that may look at a time, and for how long */
    uint64_t look_ns;
    uint64_t begun_ms;
    int teller_bell, status_fd, metrics_fd;
    uint16_t metrics_port;
    char *status_path;
    pthread_t keeper, teller;
    bool has_keeper, has_teller;

    _Atomic(bool) is_stopping;
    _Atomic(uint32_t) looking; /* workers that look for the next message before they sleep */
    struct memd_book book;
    pthread_mutex_t pool_lock;
    struct memd_connection *spare; /* kept by pool_lock */
    struct memd_connection *pool;
};

/* --- Doors: door.c --------------------------------------------------------------------------- */

/* Listen at "HOST:PORT", for which `text` is what the user wrote. Errors are told. */
int memd_listen(struct memd_log *log, const char *text, const char *place, int *fd_p,
                uint16_t *port_p);
int memd_doors_open(struct memd *memd, const struct memd_options *options);
void memd_doors_close(struct memd *memd);
/* The next who knocks; -1: nobody, or errno says why not. Writes where he is. */
int memd_door_accept(const struct memd_door *door, char where[MEMD_WHO_BYTES]);

/* --- Connections: pool.c --------------------------------------------------------------------- */

bool memd_pool_open(struct memd *memd);
void memd_pool_close(struct memd *memd);
struct memd_connection *memd_pool_take(struct memd *memd);
void memd_pool_put(struct memd *memd, struct memd_connection *connection);

/* --- Workers: worker.c ----------------------------------------------------------------------- */

int memd_workers_start(struct memd *memd, uint32_t count);
void memd_workers_stop(struct memd *memd);
/* Connections have to be looked through. Any thread. */
void memd_workers_ring(void *memd);

/* --- Keeper and teller: keeper.c, teller.c --------------------------------------------------- */

/* A thread in which all signals are blocked. 0 or an errno. */
int memd_thread_start(pthread_t *thread_p, const char *name, void *(*work)(void *argument),
                      void *argument);
int memd_keeper_start(struct memd *memd);
void memd_keeper_stop(struct memd *memd);
/* Its sockets, before anybody is let in; and its thread, which looks at everything: last. */
int memd_teller_open(struct memd *memd, const struct memd_options *options);
int memd_teller_start(struct memd *memd);
void memd_teller_stop(struct memd *memd);
