/* SPDX-License-Identifier: MIT */

/*
 * Works: what is handed to the device and taken back; and a seat's read, which is one of them.
 * Everything here may run in a signal handler: the libraries of devices take spin locks of the
 * queue, which nobody else uses meanwhile, and call write() and read() on its descriptors. Those
 * are cancellation points of the C library: it is told to wait.
 *
 * Ringing: a queue that is armed rings once, at its next completion. When that is taken before the
 * ring has come, the ring is due: it still makes the descriptor readable, for nothing.
 */

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "transport/rdma.h"

#define NS_SECOND      1000000000ull
#define NS_MICROSECOND 1000ull

static void describe(const struct wr_rdma_queue *queue, const struct wr_rdma_work *work,
                     struct ibv_send_wr *wr, struct ibv_sge *sge)
{
    *sge = (struct ibv_sge){.addr = (uintptr_t)wr_rdma_place(queue, work->place),
                            .length = work->pages * WEIR_SLOT_BYTES,
                            .lkey = queue->mr->lkey};
    memset(wr, 0, sizeof(*wr));
    wr->wr_id = work->number;
    wr->sg_list = sge;
    wr->num_sge = 1;
    wr->opcode = work->is_write ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_READ;
    wr->send_flags = work->is_signalled ? IBV_SEND_SIGNALED : 0;
    wr->wr.rdma.remote_addr = queue->base + work->slot * WEIR_SLOT_BYTES;
    wr->wr.rdma.rkey = queue->key;
}

bool wr_rdma_post(struct wr_rdma_queue *queue, const struct wr_rdma_work *works, uint32_t count)
{
    struct ibv_send_wr wrs[WR_RDMA_BATCH], *bad;
    struct ibv_sge sges[WR_RDMA_BATCH];

    for (uint32_t i = 0; i < count; i++) {
        describe(queue, &works[i], &wrs[i], &sges[i]);
        wrs[i].next = i + 1 < count ? &wrs[i + 1] : NULL;
    }
    return count == 0 || ibv_post_send(queue->id->qp, wrs, &bad) == 0;
}

int wr_rdma_take(struct wr_rdma_queue *queue, uint64_t *number_p)
{
    struct ibv_wc done[WR_RDMA_BATCH];
    int count = ibv_poll_cq(queue->cq, WR_RDMA_BATCH, done);

    for (int i = 0; i < count; i++) {
        if (done[i].status != IBV_WC_SUCCESS)
            return -1;
        *number_p = done[i].wr_id;
    }
    if (count > 0 && queue->is_armed)
        queue->is_due = true;
    return count < 0 ? -1 : count;
}

bool wr_rdma_arm(struct wr_rdma_queue *queue)
{
    if (queue->is_armed)
        return true;
    queue->is_armed = ibv_req_notify_cq(queue->cq, 0) == 0;
    return queue->is_armed;
}

void wr_rdma_quiet(struct wr_rdma_queue *queue)
{
    struct ibv_cq *cq;
    void *context;

    if (!queue->is_armed || queue->verbs->get_cq_event(queue->bell, &cq, &context) != 0)
        return;
    queue->unacknowledged++;
    queue->is_armed = queue->is_due = false;
}

/* --- A seat ---------------------------------------------------------------------------------- */

/* Until the bell rings. False: it is late. */
static bool sleep_until(const struct wr_rdma_queue *queue, uint64_t deadline_ns)
{
    struct pollfd wait = {.fd = queue->bell->fd, .events = POLLIN};
    const uint64_t now = wr_line_now_ns();
    struct timespec left;

    if (now >= deadline_ns)
        return false;
    left = (struct timespec){(time_t)((deadline_ns - now) / NS_SECOND),
                             (long)((deadline_ns - now) % NS_SECOND)};
    /* Raw, for the C library's own is a cancellation point. Whatever it returns, who called looks
     * again. */
    syscall(SYS_ppoll, &wait, 1, &left, NULL, (size_t)8);
    return true;
}

/* The one completion: looked for first, if he may who asks; then slept for. */
static bool await_work(struct wr_tcp *tcp, struct wr_rdma_queue *queue, uint64_t deadline_ns)
{
    const bool looks = wr_tcp_may_look(tcp, ++queue->asked);
    const uint64_t until = looks ? wr_line_now_ns() + tcp->options.spin_us * NS_MICROSECOND : 0;
    uint64_t number;
    int count;

    do {
        count = wr_rdma_take(queue, &number);
    } while (count == 0 && looks && wr_line_now_ns() < until);
    if (looks)
        wr_tcp_have_looked(tcp, count != 0);
    while (count == 0) {
        if (!wr_rdma_arm(queue))
            return false;
        /* It may have come between the look and the arming. */
        count = wr_rdma_take(queue, &number);
        if (count == 0 && !sleep_until(queue, deadline_ns))
            return false;
        wr_rdma_quiet(queue);
    }
    return count == 1;
}

static bool read_some(struct wr_tcp *tcp, struct wr_rdma_queue *queue, uint64_t slot,
                      uint32_t pages, void *bytes, uint64_t deadline_ns)
{
    const struct wr_rdma_work work = {.slot = slot, .pages = pages, .is_signalled = true};

    if (!wr_rdma_post(queue, &work, 1) || !await_work(tcp, queue, deadline_ns))
        return false;
    memcpy(bytes, wr_rdma_place(queue, 0), (size_t)pages * WEIR_SLOT_BYTES);
    return true;
}

enum wr_asked wr_rdma_ask(struct wr_tcp *tcp, struct wr_line *line, uint64_t slot, uint32_t pages,
                          void *bytes, int *error_p)
{
    const uint64_t deadline = wr_line_now_ns() + tcp->options.timeout * NS_SECOND;
    bool is_well = true;
    int before;

    (void)error_p; /* a server that is not asked refuses nothing */
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    for (uint32_t at = 0; is_well && at < pages; at += WR_RDMA_PLACE_PAGES)
        is_well = read_some(tcp, line->queue, slot + at,
                            pages - at < WR_RDMA_PLACE_PAGES ? pages - at : WR_RDMA_PLACE_PAGES,
                            (char *)bytes + (size_t)at * WEIR_SLOT_BYTES, deadline);
    pthread_setcancelstate(before, &before);
    return is_well ? WR_ASKED_OK : WR_ASKED_BROKEN;
}
