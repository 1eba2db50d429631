/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Verbs: libibverbs and librdmacm, loaded when RDMA is first asked for.
 *
 * A program that uses no RDMA neither loads them nor needs them installed: only their headers, when
 * this is built.
 *
 * Always: each function is called through this table and never by its own name. What the headers
 * define inline (ibv_post_send, ibv_poll_cq, ibv_req_notify_cq) goes through the device's own table
 * and needs none of it.
 */

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

/* X(member, function of libibverbs), Y(member, function of librdmacm) */
#define WR_VERBS_MAP(X, Y)                               \
    X(get_device_list, ibv_get_device_list)              \
    X(free_device_list, ibv_free_device_list)            \
    X(query_device, ibv_query_device)                    \
    X(alloc_pd, ibv_alloc_pd)                            \
    X(dealloc_pd, ibv_dealloc_pd)                        \
    X(reg_mr, ibv_reg_mr)                                \
    X(dereg_mr, ibv_dereg_mr)                            \
    X(create_comp_channel, ibv_create_comp_channel)      \
    X(destroy_comp_channel, ibv_destroy_comp_channel)    \
    X(create_cq, ibv_create_cq)                          \
    X(destroy_cq, ibv_destroy_cq)                        \
    X(get_cq_event, ibv_get_cq_event)                    \
    X(ack_cq_events, ibv_ack_cq_events)                  \
    X(modify_qp, ibv_modify_qp)                          \
    Y(create_event_channel, rdma_create_event_channel)   \
    Y(destroy_event_channel, rdma_destroy_event_channel) \
    Y(get_cm_event, rdma_get_cm_event)                   \
    Y(ack_cm_event, rdma_ack_cm_event)                   \
    Y(event_str, rdma_event_str)                         \
    Y(create_id, rdma_create_id)                         \
    Y(destroy_id, rdma_destroy_id)                       \
    Y(set_option, rdma_set_option)                       \
    Y(bind_addr, rdma_bind_addr)                         \
    Y(listen, rdma_listen)                               \
    Y(get_src_port, rdma_get_src_port)                   \
    Y(resolve_addr, rdma_resolve_addr)                   \
    Y(resolve_route, rdma_resolve_route)                 \
    Y(create_qp, rdma_create_qp)                         \
    Y(destroy_qp, rdma_destroy_qp)                       \
    Y(connect, rdma_connect)                             \
    Y(accept, rdma_accept)                               \
    Y(reject, rdma_reject)

struct wr_verbs {
#define X(member, function) __typeof__(function) *member;
    WR_VERBS_MAP(X, X)
#undef X
};

/* The table; NULL: this machine cannot do RDMA, and why says what is missing. Any thread, not in a
 * signal handler. What was loaded stays. */
#define WR_VERBS_WHY 160u
const struct wr_verbs *wr_verbs_load(char why[WR_VERBS_WHY]);

/* What to say of a call that failed with this errno for want of memory that may be locked. Any
 * other error: the system's own words. */
void wr_verbs_explain(int os_error, const char *what, char why[WR_VERBS_WHY]);
