/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Seal: a back end around another, which gets no page that it could read, change, or give back in
 * place of another.
 *
 *   inner    the back end that is wrapped; slot for slot it holds what we sealed
 *   version  see cipher.h; drawn from one counter for each page that is written, each time
 *   record   version and tag of what lies in a slot, in our own memory. Version 0: nothing does
 *   bounce   a channel's memory, in which sealed pages are while they are written
 *   damage   a page that came back and is not what its record says
 *
 * Always: a slot's record is of the last write to it that succeeded. One that failed leaves it
 * without: whatever lies there then is nothing. Slots without a record read as zeros, whatever the
 * inner back end says of them; nothing else is handed out that did not pass its tag. A record is
 * read and written by whoever reads and writes the slot: the contract keeps those apart.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <weir/weir_backend.h>

#include "transport/cipher.h"

/* --- What is wished for ---------------------------------------------------------------------- */

/* The words of `seal=`, in this order. */
enum wr_seal_wish { WR_SEAL_AUTO, WR_SEAL_ON, WR_SEAL_OFF, WR_SEAL_AES, WR_SEAL_CHACHA };

/*
 * Take `seal=` out of the outermost options. *rest_p is the specification without it, for the
 * caller to free, or NULL: it was not there.
 */
int wr_seal_cut(const char *spec, const struct weir_backend_env *env, char **rest_p,
                enum wr_seal_wish *wish_p);

/* Is it to be sealed? is_outer: by who puts pages there, and not as a part of another back end. */
bool wr_seal_is_due(enum wr_seal_wish wish, bool is_outer, struct weir_backend *backend);

/* Wrap an open back end, which is closed with it. Failure: that is still the caller's. */
int wr_seal_open(struct weir_backend *inner, enum wr_seal_wish wish,
                 const struct weir_backend_env *env, struct weir_backend **backend_p);

/* --- Between the files of the seal ----------------------------------------------------------- */

struct wr_record {
    uint64_t version;
    uint8_t tag[WR_TAG_BYTES];
};

/* Tells of damage, by a thread of its own, because nobody who finds it may. */
struct wr_seal_teller {
    const struct weir_backend_env *env;
    pthread_t thread;
    int bell; /* eventfd; whoever found damage rings, also in a signal handler */
    _Atomic(bool) is_stopping;
    _Atomic(uint64_t) found; /* since it was told of last */
    _Atomic(uint64_t) slot;  /* of the last of them       */
};

struct wr_seal {
    struct weir_backend base; /* first */
    /* Constant while open. */
    struct weir_backend *inner;
    struct wr_cipher *cipher;
    struct weir_backend_info info;
    struct wr_record *records;

    _Atomic(uint64_t) versions; /* drawn so far */
    struct wr_seal_teller teller;
};

/* Make pages plain where they lie. WEIR_EIO: one of them is not what was written; it is zeros now.
 * Signal. */
int wr_seal_unseal(struct wr_seal *seal, uint64_t slot, uint32_t pages, void *bytes);

/* seal_channel.c */
int wr_seal_channel_open(struct weir_backend *backend, uint32_t depth,
                         struct weir_channel **channel_p);
void wr_seal_channel_close(struct weir_channel *channel);
uint32_t wr_seal_submit(struct weir_channel *channel, struct weir_io *const *ios, uint32_t count);
uint32_t wr_seal_poll(struct weir_channel *channel, uint32_t max);
int wr_seal_wait_fd(struct weir_channel *channel);

/* seal_tell.c. WEIR_ENOMEM: no thread, or no descriptor. */
int wr_seal_teller_open(struct wr_seal_teller *teller, const struct weir_backend_env *env);
/* Says what it has not said yet. */
void wr_seal_teller_close(struct wr_seal_teller *teller);
/* Signal. */
void wr_seal_found(struct wr_seal_teller *teller, uint64_t slot);
