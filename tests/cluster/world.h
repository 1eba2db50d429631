/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * World: memory servers and their clients, what befalls them, and who checks.
 *
 *   server    a process that runs the whole weir-memd; each of its lives is another process
 *   client    a process that uses the back end "tcp:" as the runtime does: a thread with a channel,
 *             threads that fault, and one that opens and closes it
 *   borrower  a client's back end from open() to close(), by a number that no other ever has; every
 *             word that it writes bears it
 *   director  crashes, stops, cuts, holds; then heals everything, and wants to see it whole
 *
 * Always: for every slot it is known what a read may bring. See slots.c for the contents, checks.c
 * for leases and time.
 */

#include <weir/weir_backend.h>

#include "tests/cluster/calls.h"
#include "tests/cluster/loop.h"
#include "transport/memd/memd.h"

#define SERVERS_MOST  4u
#define CLIENTS_MOST  6u
#define READERS       2u
#define SLOTS_MOST    1536u
#define BATCH_MOST    8u
#define RUN_MOST      64u
#define REQUESTS_MOST (READERS + 3u) /* each task of a client waits for one thing at a time */
#define HOST_SERVERS  1u
#define HOST_CLIENTS  (HOST_SERVERS + SERVERS_MOST)
#define PORT          7070u

/* Mistakes that are planted: each must be found. naive.c says how it is done. */
#define NAIVE_MAP(X)                                                                           \
    X(NONE, "none")     /* no mistake */                                                       \
    X(EPOCH, "epoch")   /* the client takes a server that was started again for the old one */ \
    X(LEASE, "lease")   /* the client borrows anew where its lease is over */                  \
    X(LINE, "line")     /* the server welcomes a line before the older one is dead */          \
    X(ZERO, "zero")     /* the server lends memory with what was in it */                      \
    X(EXPIRE, "expire") /* the server forgets that time goes by */                             \
    X(QUOTA, "quota")   /* the server lends more than the quota */                             \
    X(STUCK, "stuck")   /* the client's keeper forgets its channels */

enum naive {
#define X(name, word) NAIVE_##name,
    NAIVE_MAP(X)
#undef X
        NAIVE_KINDS
};

extern enum naive naive;

/* What was met, in all seeds: where one is zero, the simulator has lost reach. Losses are by
 * another life of the server, or by silence; returns are of back ends, after an absence; lines are
 * taken over by later ones; borrowers are seen whole, in the end. */
#define MET_MAP(X)   \
    X(reads)         \
    X(writes)        \
    X(discards)      \
    X(failed_reads)  \
    X(failed_writes) \
    X(put_off)       \
    X(refused_opens) \
    X(other_lives)   \
    X(silences)      \
    X(returns)       \
    X(asked_back)    \
    X(crashes)       \
    X(expired)       \
    X(taken_over)    \
    X(seen_whole)

struct met {
#define X(name) uint64_t name;
    MET_MAP(X)
#undef X
};
extern struct met met;

/* --- Slots: what a read may bring ------------------------------------------------------------ */

struct slot {
    uint32_t sure; /* the last version that was written for certain; 0: none, zeros */
    uint32_t last; /* the last that was tried                                        */
    uint16_t readers;
    bool is_written; /* now */
    bool may_be_zero;
};

struct slots {
    struct slot at[SLOTS_MOST];
    uint64_t count;
    uint32_t borrower;
};

void slots_begin(struct slots *slots, uint64_t count, uint32_t borrower);
/* Some run that nobody uses in a way that excludes it; 0: none was found. It is then in use. */
uint32_t slots_take(struct slots *slots, bool is_write, uint32_t most, uint64_t *slot_p);
/* From that slot on. */
uint32_t slots_take_at(struct slots *slots, bool is_write, uint64_t slot, uint64_t wanted);
void slots_give(struct slots *slots, uint64_t slot, uint32_t pages, bool is_write);
/* Fill pages with the next versions of what lies there. */
void slots_fill(struct slots *slots, uint64_t slot, uint32_t pages, void *bytes);
void slots_wrote(struct slots *slots, uint64_t slot, uint32_t pages, bool is_sure);
void slots_discarded(struct slots *slots, uint64_t slot, uint32_t pages);
/* Fails where there is anything else than may be. */
void slots_check(const struct slots *slots, uint64_t slot, uint32_t pages, const void *bytes);

/* --- Servers --------------------------------------------------------------------------------- */

struct server {
    uint32_t index, host, lives;
    struct process *process;
    struct task *main;
    struct memd *memd; /* NULL: it is down, or not up yet */
    struct memd_limits limits;
    uint64_t memory_most;  /* of this life */
    uint64_t continued_ns; /* when it last went on after standing still */
    bool is_short, wants_end, is_draining;
    bool is_looked_at; /* the checker measures it: it must not be closed meanwhile */
};

void server_start(struct server *server);
void server_crash(struct server *server, bool with_host);
void server_stop(struct server *server, bool is_stopped);

/* --- Clients --------------------------------------------------------------------------------- */

struct request {
    const char *what; /* NULL: none */
    uint64_t since_ns, stood_ns, most_ns;
};

struct client {
    uint32_t index, host;
    struct server *server;
    struct process *process;
    struct task *main, *workers[1 + READERS];
    uint32_t patience, timeout;   /* seconds */
    struct weir_backend *backend; /* NULL: none */
    struct weir_backend_env env;
    bool puts_off; /* what cannot be written soon is to fail, to be written elsewhere */
    bool is_lost, was_away, wants_end, is_resting, is_ending;
    struct slots slots;
    uint64_t discarded_slot; /* the last run, until it is written */
    uint32_t discarded;
    struct request requests[REQUESTS_MOST];
    char *bytes;         /* BATCH_MOST runs */
    int loan;            /* in checks.c */
    uint64_t stalled_ns; /* until when some of its streams may stand still */
};

void client_start(struct client *client);
void client_crash(struct client *client, bool with_host);
void client_stop(struct client *client, bool is_stopped);
void request_begin(struct client *client, uint32_t which, const char *what, uint64_t most_ns);
void request_end(struct client *client, uint32_t which);
/* Pages that it has written, from the first to the last. */
void client_look_through(struct client *client);
/* The thread with the channel. */
void *client_use_channel(void *context);

/* --- Checks: leases and time ----------------------------------------------------------------- */

/* A borrower begins to ask that server for so many bytes. */
int checks_ask(struct client *client, uint64_t bytes);
/* It has ended: returned, failed, crashed. */
void checks_ended(int loan);
/* It says that its pages are lost: was there a reason? */
void checks_lost(const struct client *client);
/* Something stands between them, or no longer. */
void checks_disturb(uint32_t client, bool is_disturbed);
void checks_look(void);

/* --- All of it ------------------------------------------------------------------------------- */

struct world_options {
    uint64_t seed;
    bool is_verbose;
};

struct world {
    struct server servers[SERVERS_MOST];
    struct client clients[CLIENTS_MOST];
    uint32_t server_count, client_count;
    char key_path[64];
    struct wr_key key;
    bool is_healing, is_healed;
};
extern struct world world;

/* Returns the trace's hash. Fails by leaving the process. */
uint64_t world_run(const struct world_options *options, const char *key_path);
