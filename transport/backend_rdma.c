/* SPDX-License-Identifier: MIT */

/* rdma: opening, and what it is made of. */

#include "transport/rdma.h"
#include "transport/tell.h"

static int prepare(char why[WR_WHY_ROOM])
{
    return wr_verbs_load(why) ? WEIR_OK : WEIR_ENOSUPPORT;
}

static const struct wr_tcp_kind by_queue_pairs = {
    .prepare = prepare,
    .join = wr_rdma_join,
    .part = wr_rdma_part,
    .is_ended = wr_rdma_is_ended,
    .interrupt = wr_rdma_interrupt,
    .ask = wr_rdma_ask,
    .tend = wr_rdma_tend,
};

static int rdma_open(const char *spec, const struct weir_backend_env *env,
                     struct weir_backend **backend_p)
{
    return wr_tcp_open(&weir_backend_rdma, &by_queue_pairs, spec, env, backend_p);
}

/* No discard: what the server has registered stays with it until the lease is over. */
const struct weir_backend_ops weir_backend_rdma = {
    .abi = WEIR_BACKEND_ABI,
    .name = "rdma",
    .open = rdma_open,
    .close = wr_tcp_close,
    .describe = wr_tcp_describe,
    .read = wr_tcp_read,
    .channel_open = wr_rdma_channel_open,
    .channel_close = wr_rdma_channel_close,
    .submit = wr_rdma_submit,
    .poll = wr_rdma_poll,
    .wait_fd = wr_rdma_wait_fd,
};
