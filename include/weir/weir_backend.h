/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Back end: the socket in the wall through which pages leave. For authors of back ends.
 *
 *   slot      a place for one page, named by a number from 0 to slots - 1
 *   cluster   a run of slots that a back end likes to see written at once, aligned
 *   request   one struct weir_io: a run of neighbouring slots, read or written
 *   channel   a queue of requests that one thread uses; threads never meet in a channel
 *
 * Always: a back end holds bytes and nothing else. Which page lies in which slot, whether it is
 * the newest copy, what its checksum is: the runtime knows, so that back ends stay simple. The
 * bytes of a slot are whatever the last successful write to it put there; before the first write
 * they may be anything. The runtime never has two requests for one slot in flight when one of
 * them is a write.
 *
 * The runtime holds no lock during any of these calls. A back end must not call weir_*() and gets
 * no pointer to the runtime, so that it cannot. What it has to say it says through
 * weir_backend_env.
 */

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <weir/weir_backend_env.h>
#include <weir/weir_error.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define WEIR_BACKEND_ABI   2u /* 1 is understood, too: see the end of the operations */
#define WEIR_SLOT_BYTES    4096u
#define WEIR_CLUSTER_SLOTS 512u /* 2 MiB: the most that one request moves */

struct weir_backend_ops;

/* A back end's own structure begins with this; so does a channel's. open() sets the fields. */
struct weir_backend {
    const struct weir_backend_ops *ops;
};

struct weir_channel {
    struct weir_backend *backend;
};

/*
 * One request. The submitter fills the first part and keeps it and the bytes unchanged from
 * submit() until done(); the back end owns the last part meanwhile.
 */
struct weir_io {
    uint64_t slot;                    /* first of the run                                      */
    uint32_t pages;                   /* 1 to WEIR_CLUSTER_SLOTS                               */
    uint32_t is_write;                /* 0: slots to memory, 1: memory to slots                */
    const struct iovec *iov;          /* memory, in order of slots; addresses and lengths are
                                         multiples of 4096; sums up to pages                   */
    uint32_t iov_count;               /* 1 to pages                                            */
    int error;                        /* set before done(): WEIR_OK, WEIR_EIO, WEIR_EFULL ...  */
    int os_error;                     /* errno behind it, or 0                                 */
    void (*done)(struct weir_io *io); /* runs exactly once for an accepted request, in poll()  */
    void *owner;                      /* the submitter's                                       */
    uint64_t backend_words[6];        /* the back end's                                        */
};

enum weir_backend_flags {
    WEIR_BACKEND_FREE_ON_READ = 1u << 0, /* a slot is to be freed as soon as it was read          */
    WEIR_BACKEND_VOLATILE = 1u << 1,     /* fast memory: reads take no longer than a copy         */
    /* Of a wrapper, each of these: of one of those in it. */
    WEIR_BACKEND_REMOTE = 1u << 2, /* pages leave this machine as they are given to it          */
    WEIR_BACKEND_SEALED = 1u << 3  /* what was read is looked at: each page of a request needs
                                      memory of its own                                         */
};

struct weir_backend_info {
    uint64_t slots;         /* how many there are                                               */
    uint32_t cluster_slots; /* write unit: power of two, at most WEIR_CLUSTER_SLOTS             */
    uint32_t flags;         /* enum weir_backend_flags                                          */
    uint32_t slot_cost;     /* bytes of bookkeeping, in this process, for each slot in use      */
    char how[96];           /* for the report, for example "O_DIRECT, io_uring"                 */
};

struct weir_backend_ops {
    uint32_t abi;     /* WEIR_BACKEND_ABI                       */
    const char *name; /* the word before ':' in a specification */

    /* Once, before all else. Thread: any, not in a signal handler. May block.
     * spec is what follows the name and its ':' ("/var/tmp?size=4G"); copied if kept.
     * Failure: leaves nothing behind, has said why by env->tell; close() is not called. */
    int (*open)(const char *spec, const struct weir_backend_env *env,
                struct weir_backend **backend_p);

    /* Once, after the last channel was closed and the last read() returned. May block. */
    void (*close)(struct weir_backend *backend);

    /* After open(), any thread. Must not block. Never changes while open, but for how. */
    void (*describe)(struct weir_backend *backend, struct weir_backend_info *info_p);

    /* Read pages slots into bytes (aligned to 4096) and return when they are there.
     * Thread: any, many at a time, inside the signal handler of a faulting thread: must be
     * async-signal-safe, must not allocate, must not be a cancellation point, and must take no
     * lock that can be held by code outside such a handler. May block for the device only.
     * Failure: an error of the list; bytes are undefined. */
    int (*read)(struct weir_backend *backend, uint64_t slot, uint32_t pages, void *bytes);

    /* A queue for at most depth requests at a time. Thread: a runtime thread. May block. */
    int (*channel_open)(struct weir_backend *backend, uint32_t depth,
                        struct weir_channel **channel_p);

    /* When nothing is in flight on it. */
    void (*channel_close)(struct weir_channel *channel);

    /* Begin count requests, in any order. The channel's thread. Must not block for the device.
     * Returns how many were accepted, from the front: those belong to the back end until their
     * done(), success or not. Fewer than count: the queue is full, poll and try again. */
    uint32_t (*submit)(struct weir_channel *channel, struct weir_io *const *ios, uint32_t count);

    /* Call done() of at most max finished requests; return how many. The channel's thread.
     * Must not block. */
    uint32_t (*poll)(struct weir_channel *channel, uint32_t max);

    /* A file descriptor that polls readable when poll() has something to finish, or -1 when
     * everything accepted is finished by the next poll(). It may be readable for nothing, if poll()
     * ends that. The channel's thread; constant. */
    int (*wait_fd)(struct weir_channel *channel);

    /* Optional. These slots will not be read again before they are written. Runtime thread;
     * may block. */
    int (*discard)(struct weir_backend *backend, uint64_t slot, uint64_t count);

    /* --- Operations of ABI 1 end here --- */

    /* Optional. One page of which read() or a request has failed, or has brought what was never
     * written there: from another copy, where there are several. attempt: 0, 1, 2 ... ask for one
     * copy each, some perhaps once more; the caller looks at what he gets, and asks on.
     * WEIR_ENOENT: there are no more; WEIR_EIO: this one cannot be had. In all else as read(). */
    int (*reread)(struct weir_backend *backend, uint64_t slot, uint32_t attempt, void *bytes);

    /* Optional. Of one that is made of several: take in another, which gets its share of what is
     * there. There are no more slots than before. Any thread, one at a time, not in a signal
     * handler; may block. may: flags that it may have though none had them that are there. Failure:
     * nothing has changed, env->tell was told why. */
    int (*extend)(struct weir_backend *backend, const char *spec, uint32_t may);

    /* Optional. Of one that is made of several: empty the member of that specification, or name,
     * into the others, and close it. Returns at once; env->tell is told when it is done. Any
     * thread, one at a time (of extend, too), not in a signal handler. */
    int (*retire)(struct weir_backend *backend, const char *spec);
};

/*
 * The back ends of the library, by the name in a specification:
 *   mem     memory of this process: the reference and the baseline; not counted in the budget
 *   file    a file or block device: io_uring, O_DIRECT, large aligned writes
 *   chaos   wraps another: delays, reorders, fails, shortens, damages, from one seed
 *   tcp     the memory of another machine, lent by weir-memd over a connection
 *   rdma    the same, read and written by the network card without that machine's processors
 *   mirror  several others, of which each page is on two or more
 *   spread  several others, of which each page is on one
 *   ec      several others, to which pages go with parity: some of them can be lost
 */
extern const struct weir_backend_ops weir_backend_mem;
extern const struct weir_backend_ops weir_backend_file;
extern const struct weir_backend_ops weir_backend_chaos;
extern const struct weir_backend_ops weir_backend_tcp;
extern const struct weir_backend_ops weir_backend_rdma;
extern const struct weir_backend_ops weir_backend_mirror;
extern const struct weir_backend_ops weir_backend_spread;
extern const struct weir_backend_ops weir_backend_ec;

/*
 * Make a kind of back end known by its name, for specifications. The ops must live on. Before the
 * first weir_open() that uses it; any thread. WEIR_EINVAL: a mandatory op or the ABI is missing.
 * WEIR_EBUSY: the name is taken, or 16 kinds are registered.
 */
int weir_backend_register(const struct weir_backend_ops *ops);

/*
 * Open a back end by a whole specification ("file:/var/tmp?size=4G"). For back ends that wrap
 * others, and for tests; the caller then uses (*backend_p)->ops and ends it by ops->close(). With
 * the option seal=on, which every kind has, pages are encrypted and authenticated before it gets
 * them. WEIR_ENOENT: no such kind. WEIR_EINVAL: the specification is not understood.
 */
int weir_backend_open(const char *spec, const struct weir_backend_env *env,
                      struct weir_backend **backend_p);

/*
 * The same, for who has pages of its own to put there, and no other back end around it, as the
 * runtime: one that is WEIR_BACKEND_REMOTE is sealed unless the specification says seal=off.
 */
int weir_backend_open_outer(const char *spec, const struct weir_backend_env *env,
                            struct weir_backend **backend_p);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
