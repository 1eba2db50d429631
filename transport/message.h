/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Message: what a client and a memory server say to each other over a stream.
 *
 *   header   64 bytes, little-endian, in front of every message: one cache line
 *   payload  what follows it: as many bytes as the type allows and no others
 *   epoch    one life of a server. It is drawn at random at its start, so that one that started
 *            again, empty, is never taken for one that has the pages
 *   id       the client's number of a request; the answer bears the same
 *   line     a connection of a lease, by a number below 256 that the client chooses (LEASE,
 *            ATTACH); before the server welcomes a later one of the same number, or says that it
 *            severed it, it has done the last that it will do of what was said on the earlier
 *   seal     the last 16 bytes of the header: see session.h
 *
 * Always: nothing is believed of a message before wr_message_parse() has found it sound: the
 * version and the type known, and the length and the run of slots within what the type allows.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <weir/weir_backend.h>

#define WR_MESSAGE_BYTES   64u
#define WR_MESSAGE_SEAL    48u /* where the seal begins */
#define WR_MESSAGE_VERSION 1u

/* X(name, value, least and most bytes of payload, whether a run of slots is named) */
#define WR_MESSAGE_MAP(X)                                                                 \
    X(HELLO, 1, 96, 96, false)     /* client: who I am, what I speak, a nonce        */   \
    X(CHALLENGE, 2, 64, 64, false) /* server: a nonce, and proof that it has the key */   \
    X(PROOF, 3, 32, 32, false)     /* client: likewise. From here on, seals          */   \
    X(WELCOME, 4, 0, 0, false)     /* server: you are in                             */   \
    X(LEASE, 5, 0, 0, false)       /* client: lend me `count` slots                  */   \
    X(LEASED, 6, 16, 16, false)    /* server: lent, for `count` ms; the lease's name */   \
    X(ATTACH, 7, 16, 16, false)    /* client: a line of that lease, its `slot`-th   */    \
    X(ATTACHED, 8, 0, 0, false)    /* server: `count` slots                          */   \
    X(RENEW, 9, 0, 0, false)       /* client: I live                                 */   \
    X(RENEWED, 10, 0, 0, false)    /* server: so do I, for `count` ms; see `pages`   */   \
    X(RETURN, 11, 0, 0, false)     /* client: I need it no longer                    */   \
    X(RETURNED, 12, 0, 0, false)   /* server: it is zeroed                           */   \
    X(READ, 13, 0, 0, true)        /* client: bring me these slots                   */   \
    X(CONTENT, 14, 0, WR_MESSAGE_PAYLOAD, true) /* server: here they are               */ \
    X(WRITE, 15, WEIR_SLOT_BYTES, WR_MESSAGE_PAYLOAD, true) /* client: keep these    */   \
    X(WRITTEN, 16, 0, 0, true)    /* server: kept                                   */    \
    X(DISCARD, 17, 0, 0, false)   /* client: `count` slots from `slot` on are free  */    \
    X(DISCARDED, 18, 0, 0, false) /* server: so be it                               */    \
    X(REFUSED, 19, 0, 0, false)   /* either: no, and `error` says why               */    \
    X(JOIN, 20, 0, 0, false)      /* client: a queue pair shall be of this line     */    \
    X(JOINED, 21, 0, 0, false)    /* server: connect it to port `count`             */    \
    X(LOCATE, 22, 0, 0, false)    /* client: it is connected; where is the lease?   */    \
    X(LOCATED, 23, 0, 0, false)   /* server: `count` slots at `slot`, key `pages`   */    \
    X(SEVER, 24, 0, 0, false)     /* client: end my lease's `slot`-th line          */    \
    X(SEVERED, 25, 0, 0, false)   /* server: nothing said on it is done any more    */

#define WR_MESSAGE_PAYLOAD (WEIR_CLUSTER_SLOTS * WEIR_SLOT_BYTES)

enum wr_message_type {
#define X(name, value, least, most, has_run) WR_MESSAGE_##name = (value),
    WR_MESSAGE_MAP(X)
#undef X
};

/* What RENEWED may add, in `pages`: the server needs memory itself. */
#define WR_MESSAGE_ASKED_BACK 1u

struct wr_message {
    uint8_t type;    /* enum wr_message_type                                   */
    uint16_t error;  /* enum weir_error's value without its sign; 0: none      */
    uint32_t length; /* of the payload                                         */
    uint32_t pages;  /* of a run; flags of RENEWED; remote key of LOCATED      */
    uint64_t id;
    uint64_t epoch;
    uint64_t slot; /* of LOCATED: an address of the server's                   */
    uint64_t count;
};

void wr_message_put(const struct wr_message *message, uint8_t header[WR_MESSAGE_BYTES]);

/* False: this is no message that we may read on behind. *message_p is written all the same. */
bool wr_message_parse(const uint8_t header[WR_MESSAGE_BYTES], struct wr_message *message_p);

/* Does its payload travel as it is, so that the seal covers the header alone? (Pages do: they have
 * sums, or are sealed themselves.) */
bool wr_message_has_pages(const struct wr_message *message);

/* WEIR_OK or an error of the closed list: what the other end says that is on no list of ours is
 * WEIR_EIO. */
int wr_message_error(const struct wr_message *message);

/* "READ", for a log; "?" of what is none. */
const char *wr_message_name(uint8_t type);
