/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Talk: what is said on one connection, from bytes to bytes. Knows messages, seals and leases, and
 * no sockets: who drives it asks where the next bytes go and which are to be sent.
 *
 *   in      what was received and is not understood yet; headers, small payloads, and the beginning
 *           of pages that came with them
 *   body    the pages of a WRITE: the rest of them goes straight into the lease's memory
 *   out     answers that are not sent yet. Pages in them are those of the lease: nothing is copied
 *   wish    what the talk needs to go on
 *
 * Always: a byte of a payload goes into a lease only after the seal of its header was found sound
 * and its slots inside; and while an answer is unsent nothing more is asked for, so that a client
 * that does not listen cannot make the server keep much.
 */

#include <sys/uio.h>

#include "transport/memd/book.h"
#include "transport/memd/memd.h"
#include "transport/memd/rdma.h"

#define MEMD_IN_BYTES  2048u
#define MEMD_OUT_MOST  16u
#define MEMD_OUT_BYTES (WR_MESSAGE_BYTES + WR_CHALLENGE_BYTES)

/* Who the server is. Constant. */
struct memd_identity {
    struct wr_key key;
    uint64_t epoch;
    struct memd_rdma *rdma; /* NULL: it has none */
};

/* X(name): what one worker counts. Others read it: stale by a message or so. */
#define MEMD_COUNT_MAP(X) \
    X(messages)           \
    X(pages_read)         \
    X(pages_written)      \
    X(pages_discarded)    \
    X(bytes_in)           \
    X(bytes_out)          \
    X(accepted)           \
    X(unproven)           \
    X(unsound)

struct memd_counts {
#define X(name) _Atomic(uint64_t) name;
    MEMD_COUNT_MAP(X)
#undef X
};

/* Only the counts' own worker adds: so it needs no locked instruction. */
static inline void memd_count(_Atomic(uint64_t) *count, uint64_t more)
{
    atomic_store_explicit(count, atomic_load_explicit(count, memory_order_relaxed) + more,
                          memory_order_relaxed);
}

enum memd_talk_state {
    MEMD_TALK_HELLO,     /* nothing was said                              */
    MEMD_TALK_PROOF,     /* challenged                                    */
    MEMD_TALK_OPEN,      /* has proven the key                            */
    MEMD_TALK_RETURNING, /* waits for its lease's memory to be given back */
    MEMD_TALK_ENDING     /* what is unsent goes out, and that was all     */
};

enum memd_wish {
    MEMD_WISH_INPUT, /* more bytes: memd_talk_room()                   */
    MEMD_WISH_SEND,  /* send: memd_talk_unsent()                       */
    MEMD_WISH_REST,  /* nothing, until the lease is gone               */
    MEMD_WISH_END    /* close the connection; `why` says why, or NULL  */
};

struct memd_talk {
    const struct memd_identity *identity;
    struct memd_book *book;
    struct memd_counts *counts; /* of the worker that has it now */
    uint64_t now_ms;            /* kept up to date by who drives it */
    const char *why;            /* constant text */
    struct memd_client client;
    struct wr_handshake shake;
    struct wr_session session;
    enum memd_talk_state state;
    bool is_failed;
    enum memd_admission admission;
    bool is_writing;          /* a WRITE's pages are coming                           */
    struct memd_lease *lease; /* used; when RETURNING, watched; or NULL               */
    uint32_t line, turn;      /* of a lease that is used                              */
    uint16_t rdma_port;       /* of the door it came by; 0: that is for pages by message */
    struct memd_queue *queue; /* of the lease that is used, or NULL                   */
    bool is_heard;            /* between memd_talk_enter() and memd_talk_leave()      */
    struct wr_message write;  /* of which they are                                    */
    char *body;               /* where its next byte goes; NULL: it is thrown away    */
    uint64_t body_left;
    uint32_t in_from, in_to;
    uint32_t out_count;
    uint32_t iov_from, iov_to;
    struct iovec iov[2 * MEMD_OUT_MOST];
    uint8_t out[MEMD_OUT_MOST][MEMD_OUT_BYTES];
    uint8_t in[MEMD_IN_BYTES];
};

/* where: the other end's address, for the log. */
void memd_talk_begin(struct memd_talk *talk, const struct memd_identity *identity,
                     struct memd_book *book, struct memd_counts *counts, const char *where);
/* Leaves its lease. */
void memd_talk_end(struct memd_talk *talk);

/* Before and after each run of the calls below. False: another connection has its line; nothing
 * that is still to come may be heard. */
bool memd_talk_enter(struct memd_talk *talk);
void memd_talk_leave(struct memd_talk *talk);

/* Understand what was received. */
enum memd_wish memd_talk_go(struct memd_talk *talk);

/* Where received bytes are to be put: one or two places. */
uint32_t memd_talk_room(struct memd_talk *talk, struct iovec iov[2]);
void memd_talk_took(struct memd_talk *talk, size_t bytes);

/* What is to be sent; at least one piece after MEMD_WISH_SEND. */
struct iovec *memd_talk_unsent(struct memd_talk *talk, uint32_t *count_p);
void memd_talk_sent(struct memd_talk *talk, size_t bytes);

/* The lease that it returned is gone: say so. */
void memd_talk_returned(struct memd_talk *talk);

/* Is it in the midst of a message or of an answer? */
bool memd_talk_is_midway(const struct memd_talk *talk);
