/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A made-up device, for machines that have none: libibverbs.so.1 and librdmacm.so.1, as far as
 * transport/verbs.h asks for them, within one process. Whoever has their directory in
 * LD_LIBRARY_PATH finds them instead of the real ones. A test has them if it finds made_up_deafen
 * in what is loaded.
 *
 *   card      a thread that does works some time after they were handed over: in order, some at a
 *             time, and now and then none
 *   pair      a queue pair; what it may reach is looked up at each work, as a device does
 *   identity  a struct rdma_cm_id; an address is any, and has one device
 *
 * Always: it is stricter than devices are. A work is over for its queue when a completion of it, or
 * of a later one, was taken; who hands over more than he has asked room for is refused; who lets a
 * completion queue overflow, or has not acknowledged what he got when he destroys it, is ended.
 * There are no receives, and nothing is inline.
 */

#include <infiniband/verbs.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <stdbool.h>

#define MADE_UP_WORKS   256u /* of a queue pair, and of a completion queue */
#define MADE_UP_READS   16
#define MADE_UP_PRIVATE 56u

#define MADE_UP_API __attribute__((visibility("default")))

/* Keeps all that there is. */
extern pthread_mutex_t made_up_lock;
extern struct ibv_context made_up_context;

struct made_up_pair;

/* device.c: of connection.c, under the lock. NULL: no memory. */
struct made_up_pair *made_up_pair_new(struct ibv_pd *pd, const struct ibv_qp_init_attr *how);
void made_up_pair_end(struct made_up_pair *pair);
struct ibv_qp *made_up_pair_qp(struct made_up_pair *pair);
void made_up_pair_join(struct made_up_pair *one, struct made_up_pair *other);

/* For tests. Nobody who knocks from now on has an answer. And the bytes of memory that the device
 * has. */
MADE_UP_API void made_up_deafen(bool is_deaf);
MADE_UP_API uint64_t made_up_registered_bytes(void);
