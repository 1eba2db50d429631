/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What the tests of rdma share: a memory server in this process, back ends there, and guests:
 * clients without a keeper, who say and do what no client of the library would.
 *
 * Where a device is needed it has the address in WEIR_RDMA, and may be a made-up one
 * (tests/verbs/made_up.h); elsewhere the test is skipped.
 */

#include "tests/unit/backend_kit.h"
#include "transport/memd/memd.h"
#include "transport/rdma.h"

#define RDMA_SLOTS   1024u /* of a lease */
#define RDMA_BYTES   (RDMA_SLOTS * (uint64_t)WEIR_SLOT_BYTES)
#define RDMA_OPTIONS "size=4m&patience=60&timeout=2"

extern struct memd *rdma_memd;
extern struct wr_key rdma_key;
extern const char *rdma_key_file;
extern char rdma_log[16384]; /* the server's */

/* The device's, or the test is skipped. */
const char *rdma_address(void);
/* The test is skipped where the device is made up, and has this process only. */
void rdma_want_real(void);
/* And where it is not. From now on nobody who knocks at the device has an answer, or has one. */
void rdma_deafen(bool is_deaf);
void rdma_make_key(void);
/* memd_open() there, with so much memory and leases of that length. */
int rdma_start(const char *place, uint64_t bytes, uint32_t lease_ms);
/* The same at a port of the device, with a key. */
void rdma_serve(uint64_t bytes, uint32_t lease_ms);
const char *rdma_spec(uint16_t port, const char *options);
/* A server, and a back end there. */
struct weir_backend *rdma_open_both(void);

/* Someone on a line of his own, and the queue pair beside it. */
struct guest {
    struct wr_tcp tcp; /* what of it a queue asks for */
    struct wr_line line;
    uint8_t lease[WR_NAME_BYTES];
};

/* Welcomed by a server at this port. To be left. */
struct guest *guest_come(uint16_t port);
void guest_leave(struct guest *guest);
/* Ask without a payload; the answer. */
struct wr_message guest_ask(struct guest *guest, enum wr_message_type type, uint64_t count);
/* Borrow RDMA_SLOTS, as the line of this number; or be another line of his lease. */
void guest_borrow(struct guest *guest, uint64_t number);
struct guest *guest_again(const struct guest *guest, uint16_t port, uint64_t number);
/* Have a queue pair. */
void guest_join(struct guest *guest, uint32_t depth);

/* One work of a page, from or into the queue's first place. Has it come to pass? */
bool rdma_comes_to_pass(struct wr_rdma_queue *queue, uint64_t slot, bool is_write);
/* What is in the queue's first place. */
bool rdma_has_filled(const struct wr_rdma_queue *queue, int fill);
void rdma_fill(struct wr_rdma_queue *queue, uint32_t place, int fill);
/* The bytes that devices hold of this process's memory. */
uint64_t rdma_pinned_bytes(void);
/* Within a minute. */
bool rdma_is_soon(bool (*is_so)(void *context), void *context);
