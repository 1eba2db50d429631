/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Memd: a server that lends memory to the runtimes of other machines, as a library. weir-memd is
 * this with a command line; tests run it inside their own process.
 *
 *   lease       a run of slots, lent to one client until it returns it or is silent for too long
 *   client      who says the same random name in his hello; may have many connections, and is the
 *               only one who can attach them to his leases
 *   worker      a thread with its own connections. The first one also opens the door: who has not
 *               proven that he has the key is with it, and nowhere else
 *   keeper      a thread that ends leases, gives memory back and looks at the machine's
 *   teller      a thread that answers what the server does, for people and for Prometheus
 *
 * Always: nothing is lent before the key was proven; the sum of what is lent never exceeds
 * `memory`; what is lent is zero; the server's memory outside of a lease cannot be named by any
 * message. No message of pages allocates anything or takes a lock.
 */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "transport/memd/memory.h"
#include "transport/session.h"

#define MEMD_LISTEN_MOST      16u
#define MEMD_THREADS_MOST     64u
/* Connections that have proven the key, and leases, unless room is said. */
#define MEMD_CONNECTIONS      1024u
#define MEMD_CONNECTIONS_MOST 65536u
#define MEMD_LEASES           256u
#define MEMD_LEASES_MOST      16384u

struct memd;

/* What may change while the server runs. */
struct memd_limits {
    uint64_t memory;            /* bytes that may be lent in all                            */
    uint64_t quota;             /* bytes that one client may have; 0: no less than all      */
    uint32_t lease_ms;          /* silence after which a lease is over                      */
    uint32_t keep_free_percent; /* of the machine's memory: below it, asks for memory back  */
};

/* For how many there is room. 0: as many as is usual. */
struct memd_room {
    uint32_t connections; /* that have proven the key, at most MEMD_CONNECTIONS_MOST */
    uint32_t leases;      /* at most MEMD_LEASES_MOST                                */
};

struct memd_options {
    const char *const *listen; /* "tcp://HOST:PORT", "rdma://..."; IPv6 in brackets; port 0: any */
    uint32_t listen_count;
    const struct wr_key *key; /* is copied                                                     */
    struct memd_limits limits;
    struct memd_room room;
    uint32_t threads; /* workers; 0: as many as processors, at most 4                    */
    uint32_t spin_us; /* look for the next message so long before sleeping; 0: not       */
    enum memd_huge_pages huge_pages;
    enum memd_numa numa;
    const char *status_path; /* of a socket that tells `status` to who connects; NULL: none     */
    const char *metrics;     /* "HOST:PORT" for Prometheus; NULL: none                          */
    /* One event a line, the time first, no newline. Any thread, one at a time; it may not call the
     * server, and keeps clients waiting if it takes long. NULL: nobody. */
    void (*log)(void *context, const char *line);
    void *log_context;
};

/* What the server has at this moment, and what it did since it began. report.c has a line for each.
 */
struct memd_gauges {
    uint64_t uptime_s;
    uint64_t memory_bytes, lent_bytes;
    uint64_t resident_bytes, huge_bytes; /* of the process; 0 where the kernel does not tell    */
    uint64_t is_asking_back;             /* 1: it is                                            */
    uint64_t leases, connections;        /* connections: of those who have proven the key       */
    uint64_t lent, returned, expired, refused; /* leases                                        */
    uint64_t accepted, unproven, unsound;      /* connections: all; never in; ended for nonsense */
    uint64_t messages, pages_read, pages_written, pages_discarded, bytes_in, bytes_out;
};

/*
 * Start a server. WEIR_OK; or an error whose reason the log was told, and nothing is left behind.
 * The caller has called wr_session_begin(). All signals are blocked in the server's threads;
 * SIGPIPE is never raised.
 */
int memd_open(const struct memd_options *options, struct memd **memd_p);

/* End it: connections are closed, all that was lent is gone. */
void memd_close(struct memd *memd);

/* The port that the listener of that index has. */
uint16_t memd_port(const struct memd *memd, uint32_t index);

/* The port of `metrics`. */
uint16_t memd_metrics_port(const struct memd *memd);

/* Drawn when it was opened; tells this life of the server from all others. */
uint64_t memd_epoch(const struct memd *memd);

/* Other limits from now on. Less memory than is lent: none is lent any more and some asked back. */
void memd_tune(struct memd *memd, const struct memd_limits *limits);

/* Lend nothing more and ask for everything back: the server is going to be closed. */
void memd_drain(struct memd *memd);

/* All of these: any thread. Measuring and printing costs time for all pages that were written. */
uint32_t memd_lease_count(struct memd *memd);
void memd_measure(struct memd *memd, struct memd_gauges *gauges_p);
void memd_print_status(struct memd *memd, FILE *file);
void memd_print_metrics(struct memd *memd, FILE *file);
