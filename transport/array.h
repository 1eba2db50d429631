/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Array: one back end made of several. Where pieces lie and what is whole is the map's
 * (array_map.h); this is how bytes move.
 *
 *   life     one opening of a member. A server that comes back empty begins another; two can be
 *            open at a time, an old one until nobody uses it
 *   gate     who reads is inside. Who has changed the map waits until everybody who may have seen
 *            it as it was is outside, before he writes there or closes what lies behind
 *   keeper   a thread (weir-karray) that asks members whether they answer, opens them again, and
 *            tells of it
 *   builder  a thread (weir-kbuild) that makes pieces whole again, and closes old lives
 *
 * Locks: the legs' before the array's, the list of legs before both. read() takes none.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <weir/weir_backend.h>

#include "transport/array_gate.h"
#include "transport/array_legs.h"
#include "transport/array_map.h"
#include "transport/code.h"
#include "transport/spec.h"

#define WR_ARRAY_NAME_ROOM 80u
#define WR_ARRAY_REOPEN_NS 5000000000ull /* between tries to open a member, at most */

struct wr_array;
struct wr_array_patcher;
struct wr_array_scratch;

/* What a life of a member has to say goes by this. */
struct wr_array_voice {
    struct wr_array_member *member;
    struct weir_backend_env env;
    _Atomic(bool) is_muted;       /* it is no news */
    _Atomic(bool) is_wanted_back; /* the memory of that life */
};

/* What may take long is done by a thread of its own, while the keeper asks the other members. */
struct wr_array_errand {
    pthread_t thread;
    _Atomic(uint32_t) state;      /* enum wr_errand_state: whose the rest is */
    struct weir_backend *backend; /* to be closed, or NULL: opens one; what came of it */
    bool is_opening, has_thread;
};

enum wr_errand_state { WR_ERRAND_NONE, WR_ERRAND_RUNS, WR_ERRAND_DONE };

struct wr_array_member {
    /* Constant. */
    struct wr_array *array;
    char *spec;
    char name[WR_ARRAY_NAME_ROOM];   /* for people: without options */
    struct wr_array_voice voices[2]; /* as the lives */

    _Atomic(struct weir_backend *) lives[2]; /* by the lowest bit of the life's number */
    _Atomic(uint64_t) latency_ns;            /* of reads, smoothed: a hint                */
    _Atomic(uint64_t) moved_ns;              /* the last read() began with nobody in, or ended */
    _Atomic(uint32_t) readers;               /* in read(): a hint                         */
    _Atomic(bool) is_slow;                   /* it has not answered for a while           */
    _Atomic(bool) has_failed;                /* the keeper's question, since it was up    */

    /* Kept by the array's lock. */
    uint64_t rest_ns; /* nothing is rebuilt there before                         */
    uint32_t closing; /* an old life that nobody reads any more once its legs go */

    /* The keeper's. */
    struct weir_io probe;
    struct iovec probe_iov;
    void *probe_page;
    bool is_probing, is_told, is_settled;
    bool is_hopeless; /* it has failed, and does not say that it may come back */
    bool is_stuck;    /* it leaves, and what is left there cannot be moved */
    bool is_leaving_told, is_stuck_told, is_closed_told;
    uint64_t probe_ns, next_ns, down_ns, failed_ns; /* begun; due; down since; failed last */
    struct weir_backend *fresh;                     /* opened, and not yet used            */
    uint64_t fresh_ns, reopen_ns, reopen_wait_ns;
    struct wr_array_errand errand;
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
    _Atomic(uint32_t) members;  /* but for this, which grows; each is whole before it is counted */
    _Atomic(uint32_t) retiring; /* bits of members that are to be empty, and no members any more */
    _Atomic(uint32_t) vacant;   /* of those that are not: the keeper has forgotten them */
    uint32_t pieces, need;      /* as the map has them */
    uint32_t flags;
    uint32_t env_flags;   /* of env: what whoever is around us can do */
    struct wr_code code;  /* need > 1 */
    unsigned char *zeros; /* a page of them; nobody writes there */
    struct wr_array_patcher *patcher;
    struct wr_array_scratch *scratch;

    pthread_mutex_t lock; /* of the map, and of who waits for clusters */
    pthread_cond_t work;  /* for the builder: a cluster that it wants is idle; or the end */
    struct wr_map map;

    pthread_mutex_t legs_lock; /* of the list */
    struct wr_array_legs *legs;

    struct wr_array_gate gate;
    struct wr_array_gate sums; /* for those inside who work pages out: see array_decode.c */

    _Alignas(64) _Atomic(bool) stop;
    _Atomic(bool) wants_moves; /* a member has come: something may lie better there */
    _Atomic(bool) wants_legs;  /* one could not be had: try again */
    _Atomic(bool) is_stuck;    /* nothing can be moved off members that leave */
    int bell;                  /* the keeper's */
    pthread_t keeper, builder;
    struct wr_array_legs keeper_legs, builder_legs;
    void *buffer;                /* the builder's */
    uint64_t lost_told, legs_ns; /* the keeper's; legs_ns: the next try */
    bool is_degraded;            /* and it was told */
    bool asks_to_leave;          /* the keeper's: its users are to move everything elsewhere */
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
/* Another one, from a specification of this length. */
int wr_array_member_init(struct wr_array *array, struct wr_array_member *member, const char *spec,
                         size_t length);
/* How slots go by one more member like this: fast only if all are; remote, or in need of care, if
 * one is. */
uint32_t wr_array_flags_with(uint32_t flags, uint32_t member);
void wr_array_free_members(struct wr_array *array);
/* Every member is opened here; life: which one it is to be. */
int wr_array_member_open(struct wr_array_member *member, uint32_t life, bool is_quiet,
                         struct weir_backend **backend_p);
/* How many places a member has: all but its last page, which is the keeper's to ask for. 0: it is
 * too small. */
uint32_t wr_array_places(const struct wr_array *array, struct weir_backend *backend);
uint64_t wr_array_now_ns(void);
uint64_t wr_array_mib(uint64_t clusters);
uint64_t wr_array_pieces_mib(const struct wr_array *array, uint64_t pieces);
/* Signal: it has failed to do something; the keeper looks into it. */
void wr_array_suspect(struct wr_array *array, uint32_t member);
/* Under the array's lock: a write has failed. Is it worth another try, as so many members answer,
 * as far as is known, that it could be done? *tries_p: how often it was asked. */
bool wr_array_is_worth_a_try(const struct wr_array *array, uint32_t *tries_p);
/* Signal: a whole piece to read of those that were not tried; NOBODY. Inside the gate. */
uint32_t wr_array_choose(const struct wr_array *array, uint64_t cluster, uint32_t tried,
                         struct wr_map_piece *piece_p);
/* Of the array's gate: see array_gate.h. Signal, but for grace. */
uint32_t wr_array_enter(struct wr_array *array);
void wr_array_leave(struct wr_array *array, uint32_t side);
void wr_array_grace(struct wr_array *array);
/* Signal: does it answer, and in time? */
bool wr_array_is_good(const struct wr_array *array, uint32_t member);
/* Signal: rows of a piece, from where it is. Inside the gate. */
int wr_array_read_piece(struct wr_array *array, const struct wr_map_piece *piece, uint32_t row,
                        uint32_t rows, void *bytes);
int wr_array_read(struct weir_backend *backend, uint64_t slot, uint32_t pages, void *bytes);
int wr_array_reread(struct weir_backend *backend, uint64_t slot, uint32_t attempt, void *bytes);

/* array_channel.c */
int wr_array_channel_open(struct weir_backend *backend, uint32_t depth,
                          struct weir_channel **channel_p);
void wr_array_channel_close(struct weir_channel *channel);
uint32_t wr_array_submit(struct weir_channel *channel, struct weir_io *const *ios, uint32_t count);
uint32_t wr_array_poll(struct weir_channel *channel, uint32_t max);
int wr_array_wait_fd(struct weir_channel *channel);
