/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Rdma: the part of the server that has devices read and write the memory of leases.
 *
 *   pin      a lease's memory, registered with a device, in a protection domain of its own
 *   queue    a queue pair of one connection, which may name its lease's pin and nothing else
 *   token    what the two ends of a connection have made of its keys: a queue pair that comes shows
 *            it, once
 *
 * A queue moves INVITED -> COMING -> JOINED; from each of these to CUT, which is final.
 *
 * Always: a queue pair is let in only by the token of a connection that has proven the key and uses
 * a lease; it ends before that connection leaves the lease, and before another connection takes its
 * line's number. So a pin whose lease has no user has no queue pair, and is given up before the
 * memory is unmapped.
 */

#include "transport/memd/book.h"
#include "transport/session.h"

struct memd_rdma;
struct memd_queue;

/* Get hold of devices; or an error that was logged, in the words of who asked for it. */
int memd_rdma_open(struct memd_rdma **rdma_p, struct memd_book *book, struct memd_log *log,
                   const char *text);
/* Queue pairs may come where this socket listens: at its port, or at *port_p. */
int memd_rdma_listen(struct memd_rdma *rdma, const char *text, int fd, uint16_t *port_p);
/* The thread that lets them in. 0 or an errno. */
int memd_rdma_start(struct memd_rdma *rdma);
/* Nobody comes any more. Then, when there is no lease any more, the end. NULL is fine. */
void memd_rdma_stop(struct memd_rdma *rdma);
void memd_rdma_close(struct memd_rdma *rdma);

/* --- For one connection; any thread --------------------------------------------------------- */

/* A queue pair may come for the user of this lease, as this line. NULL: there are too many. */
struct memd_queue *memd_rdma_invite(struct memd_rdma *rdma, struct memd_lease *lease, uint32_t line,
                                    const struct wr_session *session);
/* Where the lease's memory is for it; false: it has not come. */
bool memd_queue_locate(struct memd_rdma *rdma, const struct memd_queue *queue, uint64_t *address_p,
                       uint32_t *key_p);
/* Its connection leaves. When it returns nothing is read or written by it any more. */
void memd_queue_leave(struct memd_rdma *rdma, struct memd_queue *queue);
/* Another connection has this line: likewise. */
void memd_rdma_cut(struct memd_rdma *rdma, const struct memd_lease *lease, uint32_t line);
