/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Swap: the pager for private memory, over the back ends.
 *
 *   back end  one weir_backend with the tables of its slots
 *   priority  the highest is used first, equal ones in turns; one that was given none comes after
 *             those that were, in the order they were added
 *   congested a back end that has as many writes in flight as it may; others go on meanwhile
 *   sick      a back end whose last write failed: left alone for a while, then tried again
 *   draining  a back end that takes no new pages, because it is to go
 *   leaving   a back end whose memory is wanted back: it takes new pages when nobody else does, and
 *             a thread takes off what lies there
 *   lane      a runtime thread's channels, one to each back end
 *   writeout  one write on its way: up to a cluster of pages in neighbouring slots
 *
 * Always: a slot is freed by whoever takes it from its page, under the page's lock; a slot whose
 * write is in flight is freed by the completion. Adding and removing back ends is under
 * WR_RANK_BACKENDS; an entry is published before its first slot is used and outlives its last.
 */

#include "runtime/memory/space.h"
#include "runtime/swap/slot.h"

#define WR_SPEC_ROOM     2048u /* an array of sixteen members with long paths */
#define WR_PRIORITY_MAX  32767
#define WR_SICK_PATIENCE 8u

struct wr_swap_wish {
    bool zero_elision;
    bool checksums;
    uint32_t keep_percent;
    uint32_t clean_percent;
    uint32_t writes_max;
    void (*rouse)(void *context); /* have all lanes reap, so that they see a back end go */
    void *rouse_context;
    struct wr_lock *backends_lock; /* WR_RANK_BACKENDS, for the thread that empties back ends; NULL:
                                      there is none */
};

struct wr_swap_backend {
    _Atomic(uint32_t) references; /* the table's, and one of each open channel */

    /* Constant while published. */
    struct weir_backend *backend;
    struct weir_backend_info info;
    struct wr_slots slots;
    struct weir_backend_env env;
    struct wr_swap *swap;
    uint32_t number;
    int32_t serial;   /* unlike the number and the address, no other's later */
    int32_t priority; /* below 0: none was given */
    char spec[WR_SPEC_ROOM];
    _Atomic(bool) draining;
    _Atomic(bool) leaving;
    _Atomic(uint64_t) sick_until_ns; /* 0: healthy                */
    _Atomic(uint32_t) failures;      /* writes failed in a row    */
    _Atomic(int) last_error;         /* of the last that failed   */
    _Atomic(uint64_t) errors;
};

struct wr_swap {
    struct wr_pager pager; /* first */
    struct wr_space *space;
    struct wr_swap_wish wish;

    /* By number, which is also the upper part of a slot. Entries appear and vanish under
     * WR_RANK_BACKENDS; everybody reads. */
    _Atomic(struct wr_swap_backend *) backends[WR_BACKENDS_MAX];
    /* Grows with every change to the table: lanes open and close channels when they see it. */
    _Atomic(uint32_t) changes;
    _Atomic(bool) has_emptied; /* a cluster came free since somebody looked for such */
    int32_t added;             /* how many ever; kept by WR_RANK_BACKENDS */
    _Alignas(16) uint8_t look[WR_LOOK_BYTES]; /* of who inspects: one thread */
    struct wr_leave *leave;
};

/* A pager without back ends. Close: all lanes are closed; closes the back ends. */
int wr_swap_open(struct wr_space *space, const struct wr_swap_wish *wish, struct wr_swap **swap_p);
void wr_swap_close(struct wr_swap *swap);

/* Under WR_RANK_BACKENDS; extend: one more member for that one; retire: one less. */
int wr_swap_add(struct wr_swap *swap, const char *spec, uint32_t *number_p);
int wr_swap_extend(struct wr_swap *swap, uint32_t number, const char *spec);
int wr_swap_retire(struct wr_swap *swap, uint32_t number, const char *member);
/* Take all pages off a back end and close it. Waits. Likewise. */
int wr_swap_drain(struct wr_swap *swap, uint32_t number);
/* The same for as long as it is wanted; WEIR_ESTOPPED: it is no more. */
typedef bool (*wr_wanted_fn)(const struct wr_swap_backend *backend);
int wr_swap_drain_while(struct wr_swap *swap, uint32_t number, wr_wanted_fn is_wanted);

/* Take at most so many pages off one back end, to be written to another. How many left is written
 * to *moved_p, whatever is returned. Waits. Under WR_RANK_BACKENDS. */
int wr_swap_move(struct wr_swap *swap, uint32_t from, uint32_t to, uint64_t pages,
                 uint64_t *moved_p);

static inline struct wr_swap_backend *wr_swap_backend(const struct wr_swap *swap, uint32_t number)
{
    return atomic_load_explicit(&swap->backends[number], memory_order_acquire);
}

/* Sum of slots and of slots in use. */
void wr_swap_usage(const struct wr_swap *swap, uint64_t *used_p, uint64_t *total_p);
/* Bytes of tables that are in use. */
uint64_t wr_swap_metadata(const struct wr_swap *swap);

/* --- Between the files of this room ---------------------------------------------------------- */

#define WR_WRITEOUT_SEGMENTS 16u

struct wr_writeout {
    struct weir_io io;
    struct wr_swap_lane *lane;
    struct wr_swap_backend *backend;
    uint64_t begun_ns;
    uint32_t count;
    uint32_t held; /* frames that come free when it is done */
    bool is_busy;
    struct wr_segment segments[WR_WRITEOUT_SEGMENTS];
    uint32_t segment_count;
    uint32_t pages[WEIR_CLUSTER_SLOTS];
    uint32_t frames[WEIR_CLUSTER_SLOTS];
    struct iovec iov[WEIR_CLUSTER_SLOTS];
};

#define WR_FETCH_REQUESTS 16u /* requests that one fetch is split into, at most */
#define WR_LANE_REQUESTS  512u

struct wr_fetch_request {
    struct weir_io io;
    struct iovec iov;
    struct wr_fetch *fetch;
    struct wr_swap_lane *lane;
    uint32_t index; /* of the first page in the fetch */
    uint32_t backend;
    bool is_busy;
};

struct wr_swap_lane {
    struct wr_lane lane; /* first */
    struct wr_swap *swap;
    uint32_t changes_seen;
    struct weir_channel *channels[WR_BACKENDS_MAX];
    struct wr_swap_backend *channel_of[WR_BACKENDS_MAX]; /* whose, by reference */
    uint32_t in_flight[WR_BACKENDS_MAX];
    uint32_t writing[WR_BACKENDS_MAX];      /* writes in flight                                  */
    uint32_t holding[WR_BACKENDS_MAX];      /* frames that they hold                             */
    uint32_t coming;                        /* their sum                                         */
    uint32_t turn;                          /* the back end that was written to last             */
    struct wr_cleaner *cleaner;             /* allocated by the first that is needed             */
    uint64_t discard_ns;                    /* when free clusters are to be looked for           */
    uint32_t discard_hand[WR_BACKENDS_MAX]; /* clusters before it were discarded, or do not rest */
    struct wr_fetch_request *requests;      /* WR_LANE_REQUESTS, allocated by the first fetch()  */
    /* writes_max to a back end, allocated by the first write to one of that number. */
    struct wr_writeout *writeouts[WR_BACKENDS_MAX];
    uint32_t request_hand;
};

/* The channel to a back end, opened by its first use; NULL when it cannot be had. */
struct weir_channel *wr_lane_channel(struct wr_swap_lane *lane, struct wr_swap_backend *backend);
/* Let go of a back end: the last closes it. */
void wr_swap_unref(struct wr_swap_backend *backend);
/* generic.c: cut the options that the runtime minds out of a specification. *priority_p is left
 * alone when there is none. WEIR_EINVAL: an event has said why. */
int wr_swap_cut_generic(const struct wr_events *events, const char *spec, char rest[WR_SPEC_ROOM],
                        int32_t *priority_p);
/* choose.c: a back end for the next write and a run of its slots, or why there is none. target: the
 * one that is wished for + 1, or 0. */
enum wr_laundered wr_choose(struct wr_swap_lane *lane, uint32_t target,
                            struct wr_swap_backend **backend_p, struct wr_slot_run *run_p);
/* Is so little of it in use that it pays to gather what lies between dead slots? */
bool wr_swap_is_roomy(const struct wr_swap *swap, const struct wr_swap_backend *backend);
/* Do writes in flight leave memory for one more? */
bool wr_choose_may_write(const struct wr_swap_lane *lane);
/* Have the thread that launders look around. Any thread, signal. */
void wr_swap_press(const struct wr_swap *swap);
/* A slot whose page was taken from it, under the page's lock or after its write. Signal. */
void wr_swap_free_slot(struct wr_swap *swap, struct wr_swap_backend *backend, uint32_t place);
/* clean.c and discard.c: housekeeping by the thread that launders; neither waits for a page. */
void wr_clean(struct wr_swap_lane *lane);
void wr_clean_close(struct wr_swap_lane *lane);
/* Is a cluster of this back end about to come free? */
bool wr_clean_is_busy(const struct wr_swap_lane *lane, const struct wr_swap_backend *backend);
uint64_t wr_discard(struct wr_swap_lane *lane);
/* leave.c: the thread that empties back ends whose memory is wanted back. It runs once one is. */
int wr_leave_open(struct wr_swap *swap);
/* No back end is leaving any more, whatever it says later. */
void wr_leave_stop(struct wr_leave *leave);
void wr_leave_close(struct wr_leave *leave);
/* One of them has said something, or is known since. */
void wr_leave_rouse(struct wr_leave *leave);
/* launder.c */
uint32_t wr_launder_inspect(struct wr_pager *pager, struct wr_extent *extent);
enum wr_laundered wr_launder(struct wr_lane *lane);
uint32_t wr_launder_coming(const struct wr_lane *lane);
/* A page that came back damaged, or not at all, from another copy; or WEIR_EIO. Signal. */
int wr_swap_reread(const struct wr_swap *swap, uint64_t slot, uint32_t page, uint32_t sum, void *);
/* The checksum of a page; its number goes in, so that a page in the wrong slot is found out. */
uint32_t wr_swap_sum(const struct wr_swap *swap, uint32_t page, const void *bytes);
