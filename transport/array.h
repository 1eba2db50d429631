/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Array: one back end made of several. Where pieces lie and what is whole is the map's
 * (array_map.h); this is how bytes move.
 *
 *   life     one opening of a member. A server that comes back empty begins another; two can be
 *            open at a time, an old one until nobody uses it
 *   leg      a channel of a member, within a channel of the array
 *   legs     one leg for each member, for one thread
 *   gate     who reads is inside. Who has changed the map waits until everybody who may have seen
 *            it as it was is outside, before he writes there or closes what lies behind
 *   keeper   a thread (weir-karray) that asks members whether they answer, opens them again, and
 *            tells of it
 *   builder  a thread (weir-kbuild) that makes pieces whole again, and closes old lives
 *   patcher  of a code: a thread (weir-kpatch) that writes parts of clusters, with the parity that
 *            they change, and reads for channels what is to be worked out from other pieces
 *   task   a request to a leg that is waited for
 *
 * Locks: the legs' before the array's, the list of legs before both. read() takes none.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <weir/weir_backend.h>

#include "transport/array_map.h"
#include "transport/code.h"
#include "transport/spec.h"

#define WR_ARRAY_NAME_ROOM 80u

struct wr_array;

struct wr_array_leg {
    struct weir_channel *channel; /* NULL: none */
    int fd;                       /* its wait_fd()  */
    uint32_t life;                /* of the member it is to */
    uint32_t flying;              /* requests that it has, or that wait for it */
    struct wr_array_sub *outbox, **outbox_end;
};

struct wr_array_legs {
    pthread_mutex_t lock; /* of the thread that uses them; the keeper replaces what is idle */
    struct wr_array_leg leg[WR_MAP_MEMBERS];
    struct wr_array *array;
    uint32_t depth;
    int poll_fd; /* an epoll of all of them */
    int bell;    /* and of an eventfd: there is something to look at */
    struct wr_array_legs *next, **self;
    bool is_waiting; /* kept by the array's lock: for a cluster that somebody holds */
};

/* The member's life is one that was the present one when its owner looked. */
struct wr_array_task {
    struct weir_io io; /* first; done() and owner are not the owner's */
    uint32_t member, life;
};

/* A part of a request of a channel, for the patcher. */
struct wr_array_patch {
    const struct weir_io *io;
    uint32_t skip; /* pages of the request before the part */
    uint64_t cluster;
    uint32_t first, pages; /* within the cluster   */
    int error;             /* when it is done      */
    struct wr_array_patch *next;
    struct wr_array_patch *
        *home; /* a list where it comes to when it is done, by the array's lock, */
    int bell;  /* and an eventfd that is rung then */
};

struct wr_array_member {
    /* Constant. */
    struct wr_array *array;
    char *spec;
    char name[WR_ARRAY_NAME_ROOM]; /* for people: without options */
    struct weir_backend_env env;

    _Atomic(struct weir_backend *) lives[2]; /* by the lowest bit of the life's number */
    _Atomic(uint64_t) latency_ns;            /* of reads, smoothed: a hint                */
    _Atomic(uint32_t) readers;               /* in read(): a hint                         */
    _Atomic(bool) is_slow;                   /* it has not answered for a while           */
    _Atomic(bool) is_muted;                  /* what it tells is no news                  */

    /* Kept by the array's lock. */
    uint64_t rest_ns; /* nothing is rebuilt there before                         */
    uint32_t closing; /* an old life that nobody reads any more once its legs go */

    /* The keeper's. */
    struct weir_io probe;
    struct iovec probe_iov;
    void *probe_page;
    bool is_probing, has_failed, is_told, is_settled;
    uint64_t probe_ns, next_ns, down_ns, failed_ns; /* begun; due; down since; failed last */
    struct weir_backend *fresh;                     /* opened, and not yet used            */
    uint64_t fresh_ns, reopen_ns, reopen_wait_ns;
};

struct wr_array_options {
    uint64_t rebuild_bytes_per_s, copies, replace_s;
};

struct wr_array {
    struct weir_backend base; /* first */
    /* Constant while open. */
    const struct weir_backend_env *env;
    const struct wr_spec_kind *kind;
    struct wr_array_options options;
    struct wr_array_member member[WR_MAP_MEMBERS];
    uint32_t members;
    uint32_t pieces, need; /* as the map has them */
    uint32_t flags;
    struct wr_code code;  /* need > 1 */
    unsigned char *zeros; /* a page of them; nobody writes there */
    struct wr_array_patcher *patcher;
    struct wr_array_scratch *scratch;

    pthread_mutex_t lock; /* of the map, and of who waits for clusters */
    pthread_cond_t work;  /* for the builder: a cluster that it wants is idle; or the end */
    struct wr_map map;

    pthread_mutex_t legs_lock; /* of the list */
    struct wr_array_legs *legs;

    /* The gate. Each on a line of its own: every read writes to it. */
    _Alignas(64) _Atomic(uint64_t) epoch;
    _Alignas(64) _Atomic(uint64_t) inside[2];

    _Alignas(64) _Atomic(bool) stop;
    _Atomic(bool) wants_moves; /* a member has come: something may lie better there */
    int bell;                  /* the keeper's */
    pthread_t keeper, builder;
    struct wr_array_legs keeper_legs, builder_legs;
    void *buffer; /* the builder's */
    uint64_t lost_told;
    bool is_degraded;           /* and it was told */
    pthread_mutex_t grace_lock; /* one at a time waits for those inside the gate */
};

/* An erasure code, and no copies. */
static inline bool wr_array_is_coded(const struct wr_array *array)
{
    return array->need > 1;
}

/* The member's slot of this page of a piece. */
static inline uint64_t wr_array_slot(const struct wr_array *array, const struct wr_map_piece *piece,
                                     uint32_t row)
{
    return (uint64_t)piece->place * array->map.rows + row;
}

/* array_member.c */
/* Cut "A, B, C" into members. */
int wr_array_split(struct wr_array *array, const char *inner);
void wr_array_free_members(struct wr_array *array);
/* Every member is opened here. */
int wr_array_member_open(struct wr_array_member *member, bool is_quiet,
                         struct weir_backend **backend_p);
/* How many places a member has: all but its last page, which is the keeper's to ask for. 0: it is
 * too small. */
uint32_t wr_array_places(const struct wr_array *array, struct weir_backend *backend);
uint64_t wr_array_now_ns(void);
/* Signal: it has failed to do something; the keeper looks into it. */
void wr_array_suspect(struct wr_array *array, uint32_t member);
/* Signal: a whole piece to read of those that were not tried; NOBODY. Inside the gate. */
uint32_t wr_array_choose(const struct wr_array *array, uint64_t cluster, uint32_t tried,
                         struct wr_map_piece *piece_p);
/* Signal. */
uint32_t wr_array_enter(struct wr_array *array);
void wr_array_leave(struct wr_array *array, uint32_t side);
/* Wait until everybody is outside who was inside. */
void wr_array_grace(struct wr_array *array);
int wr_array_read(struct weir_backend *backend, uint64_t slot, uint32_t pages, void *bytes);

/* array_legs.c */
int wr_array_legs_open(struct wr_array *array, uint32_t depth, struct wr_array_legs *legs);
void wr_array_legs_close(struct wr_array_legs *legs);
/* Bring all legs to this member that are idle to its present life. True: all are. The keeper. */
bool wr_array_legs_renew(struct wr_array *array, uint32_t member);
/* Under the array's lock: ring all who wait for a cluster. */
void wr_array_ring_waiting(struct wr_array *array);
/* Do these, at most one for each member, and wait for all. Each has its error then; os_error is
 * ENOTCONN if there was no leg to that life. The legs are those of the thread. */
void wr_array_run(struct wr_array_legs *legs, struct wr_array_task *tasks, uint32_t count);

/* array_channel.c */
int wr_array_channel_open(struct weir_backend *backend, uint32_t depth,
                          struct weir_channel **channel_p);
void wr_array_channel_close(struct weir_channel *channel);
uint32_t wr_array_submit(struct weir_channel *channel, struct weir_io *const *ios, uint32_t count);
uint32_t wr_array_poll(struct weir_channel *channel, uint32_t max);
int wr_array_wait_fd(struct weir_channel *channel);

/* array_keeper.c */
int wr_array_start_thread(struct wr_array *array, const char *name, void *(*run)(void *),
                          pthread_t *thread_p);
int wr_array_keeper_start(struct wr_array *array);
void wr_array_keeper_stop(struct wr_array *array);

/* array_builder.c: the thread's function. */
void *wr_array_build(void *array);

/* array_decode.c: of a code. */
#define WR_ARRAY_SCRATCH_PAGES 16u
int wr_array_scratch_open(struct wr_array *array);
void wr_array_scratch_close(struct wr_array *array);
/* Pages of one cluster, by whatever way there is. Signal; inside the gate. */
int wr_array_read_coded(struct wr_array *array, uint64_t cluster, uint32_t first, uint32_t pages,
                        void *bytes);
/* Rows of one piece, also of one that is nowhere; scratch has as much room as bytes. Inside the
 * gate. Who calls it sees to it that the version is what it should be. */
int wr_array_recover(struct wr_array *array, uint64_t cluster, uint32_t piece, uint32_t row,
                     uint32_t rows, void *bytes, void *scratch);

/* array_patch.c: of a code. */
/* Before the other threads. */
int wr_array_patcher_start(struct wr_array *array);
/* After them, when no patch is under way. Nothing, if it was not started. */
void wr_array_patcher_stop(struct wr_array *array);
void wr_array_patch_put(struct wr_array *array, struct wr_array_patch *patch);
/* Under the array's lock: somebody has let go of a cluster. */
void wr_array_patch_wake(struct wr_array *array);
/* The addresses of so many pages of a vector, behind so many others. */
void wr_array_pages(const struct weir_io *io, uint32_t skip, uint32_t pages, unsigned char **page);
