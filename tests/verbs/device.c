/* SPDX-License-Identifier: MIT */

/* The device: its memory, its queues, and the card that does the works. */

#include "made_up.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define REST_US_MOST 300u

pthread_mutex_t made_up_lock = PTHREAD_MUTEX_INITIALIZER;

struct region {
    struct ibv_mr mr; /* first */
    int access;
    struct region *next;
};

struct work {
    uint64_t id, there;
    char *here;
    uint32_t bytes, local_key, remote_key;
    bool is_write, is_signalled;
};

struct made_up_pair {
    struct ibv_qp qp; /* first */
    struct made_up_pair *peer, *next;
    /* done <= posted <= over + room; works that were handed over, done, and known to be over */
    uint64_t posted, done, over;
    uint32_t room;
    struct work works[MADE_UP_WORKS];
};

struct entry {
    struct ibv_wc wc;
    struct made_up_pair *pair;
    uint64_t over;
};

struct completions {
    struct ibv_cq cq; /* first */
    bool is_armed;
    uint64_t taken, acknowledged; /* rings */
    uint32_t first, count;
    struct entry entries[MADE_UP_WORKS];
};

struct bell {
    struct ibv_comp_channel channel; /* first */
    struct completions *of;
};

static struct region *regions;
static struct made_up_pair *pairs;
static uint32_t keys;
static pthread_cond_t has_works = PTHREAD_COND_INITIALIZER;

static void end_program(const char *why)
{
    fprintf(stderr, "made-up device: %s\n", why);
    abort();
}

static uint32_t draw(uint32_t most)
{
    static uint64_t state = 88172645463325252ull;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state % most);
}

/* --- Memory ---------------------------------------------------------------------------------- */

MADE_UP_API struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
    struct ibv_pd *pd = calloc(1, sizeof(*pd));

    if (pd)
        pd->context = context;
    return pd;
}

MADE_UP_API int ibv_dealloc_pd(struct ibv_pd *pd)
{
    free(pd);
    return 0;
}

#undef ibv_reg_mr
MADE_UP_API struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access)
{
    struct region *region = calloc(1, sizeof(*region));

    if (!region)
        return NULL;
    region->mr = (struct ibv_mr){.context = pd->context, .pd = pd, .addr = addr, .length = length};
    region->access = access;
    pthread_mutex_lock(&made_up_lock);
    region->mr.lkey = region->mr.rkey = (++keys << 8) + draw(256);
    region->next = regions;
    regions = region;
    pthread_mutex_unlock(&made_up_lock);
    return &region->mr;
}

MADE_UP_API int ibv_dereg_mr(struct ibv_mr *mr)
{
    struct region **at = &regions;

    pthread_mutex_lock(&made_up_lock);
    while (*at && &(*at)->mr != mr)
        at = &(*at)->next;
    if (!*at)
        end_program("memory is given up that it does not have");
    *at = (*at)->next;
    pthread_mutex_unlock(&made_up_lock);
    free((struct region *)mr);
    return 0;
}

uint64_t made_up_registered_bytes(void)
{
    uint64_t bytes = 0;

    pthread_mutex_lock(&made_up_lock);
    for (const struct region *r = regions; r; r = r->next)
        bytes += r->mr.length;
    pthread_mutex_unlock(&made_up_lock);
    return bytes;
}

static bool may_reach(const struct ibv_pd *pd, uint32_t key, uintptr_t at, uint32_t bytes,
                      int access)
{
    for (const struct region *r = regions; r; r = r->next) {
        const uintptr_t begin = (uintptr_t)r->mr.addr;

        if (r->mr.pd == pd && r->mr.lkey == key && (r->access & access) == access && at >= begin &&
            at - begin <= r->mr.length && r->mr.length - (at - begin) >= bytes)
            return true;
    }
    return false;
}

/* --- Completions ----------------------------------------------------------------------------- */

MADE_UP_API struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *context)
{
    struct bell *bell = calloc(1, sizeof(*bell));

    if (!bell)
        return NULL;
    bell->channel.context = context;
    bell->channel.fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    return &bell->channel;
}

MADE_UP_API int ibv_destroy_comp_channel(struct ibv_comp_channel *channel)
{
    if (((struct bell *)channel)->of)
        end_program("a completion channel is destroyed before its queue");
    close(channel->fd);
    free(channel);
    return 0;
}

MADE_UP_API struct ibv_cq *ibv_create_cq(struct ibv_context *context, int cqe, void *cq_context,
                                         struct ibv_comp_channel *channel, int comp_vector)
{
    struct completions *all = calloc(1, sizeof(*all));

    (void)comp_vector;
    if (!all || cqe < 1 || cqe > (int)MADE_UP_WORKS) {
        free(all);
        errno = EINVAL;
        return NULL;
    }
    all->cq = (struct ibv_cq){
        .context = context, .channel = channel, .cq_context = cq_context, .cqe = cqe};
    if (channel)
        ((struct bell *)channel)->of = all;
    return &all->cq;
}

MADE_UP_API int ibv_destroy_cq(struct ibv_cq *cq)
{
    const struct completions *all = (struct completions *)cq;

    if (all->taken != all->acknowledged)
        end_program("a completion queue would wait for ever for who has not acknowledged");
    if (cq->channel)
        ((struct bell *)cq->channel)->of = NULL;
    free(cq);
    return 0;
}

MADE_UP_API int ibv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq_p,
                                 void **context_p)
{
    struct completions *all = ((struct bell *)channel)->of;
    eventfd_t one;

    if (eventfd_read(channel->fd, &one) != 0)
        return -1;
    all->taken++;
    *cq_p = &all->cq;
    *context_p = all->cq.cq_context;
    return 0;
}

MADE_UP_API void ibv_ack_cq_events(struct ibv_cq *cq, unsigned int count)
{
    ((struct completions *)cq)->acknowledged += count;
}

static void complete(struct made_up_pair *pair, const struct work *work, enum ibv_wc_status status)
{
    struct completions *all = (struct completions *)pair->qp.send_cq;

    pair->done++;
    if (!work->is_signalled && status == IBV_WC_SUCCESS)
        return;
    if (all->count == (uint32_t)all->cq.cqe)
        end_program("a completion queue overflows");
    all->entries[(all->first + all->count++) % MADE_UP_WORKS] = (struct entry){
        .wc = {.wr_id = work->id, .status = status, .qp_num = pair->qp.qp_num},
        .pair = pair,
        .over = pair->done};
    if (all->is_armed) {
        all->is_armed = false;
        eventfd_write(all->cq.channel->fd, 1);
    }
}

static int poll_queue(struct ibv_cq *cq, int most, struct ibv_wc *wc)
{
    struct completions *all = (struct completions *)cq;
    int taken = 0;

    pthread_mutex_lock(&made_up_lock);
    for (; taken < most && all->count > 0; taken++) {
        const struct entry *entry = &all->entries[all->first];

        wc[taken] = entry->wc;
        entry->pair->over = entry->over;
        all->first = (all->first + 1) % MADE_UP_WORKS;
        all->count--;
    }
    pthread_mutex_unlock(&made_up_lock);
    return taken;
}

static int arm(struct ibv_cq *cq, int solicited_only)
{
    (void)solicited_only;
    if (!cq->channel)
        end_program("a completion queue without a channel is armed");
    pthread_mutex_lock(&made_up_lock);
    ((struct completions *)cq)->is_armed = true;
    pthread_mutex_unlock(&made_up_lock);
    return 0;
}

/* --- The card -------------------------------------------------------------------------------- */

static enum ibv_wc_status carry_out(struct made_up_pair *pair, const struct work *work)
{
    struct made_up_pair *peer = pair->peer;
    char *there;

    if (pair->qp.state == IBV_QPS_ERR)
        return IBV_WC_WR_FLUSH_ERR;
    if (!peer || peer->qp.state == IBV_QPS_ERR)
        return IBV_WC_RETRY_EXC_ERR;
    if (!may_reach(pair->qp.pd, work->local_key, (uintptr_t)work->here, work->bytes,
                   work->is_write ? 0 : IBV_ACCESS_LOCAL_WRITE))
        return IBV_WC_LOC_PROT_ERR;
    if (!may_reach(peer->qp.pd, work->remote_key, work->there, work->bytes,
                   work->is_write ? IBV_ACCESS_REMOTE_WRITE : IBV_ACCESS_REMOTE_READ)) {
        peer->qp.state = IBV_QPS_ERR;
        return IBV_WC_REM_ACCESS_ERR;
    }
    there = (char *)(uintptr_t)work->there;
    memcpy(work->is_write ? there : work->here, work->is_write ? work->here : there, work->bytes);
    return IBV_WC_SUCCESS;
}

static void serve(struct made_up_pair *pair, uint32_t most)
{
    for (; most > 0 && pair->done < pair->posted; most--) {
        const struct work *work = &pair->works[pair->done % MADE_UP_WORKS];
        const enum ibv_wc_status status = carry_out(pair, work);

        if (status != IBV_WC_SUCCESS)
            pair->qp.state = IBV_QPS_ERR;
        complete(pair, work, status);
    }
}

static bool serve_all(void)
{
    bool is_idle = true;

    for (struct made_up_pair *p = pairs; p; p = p->next) {
        if (p->done == p->posted)
            continue;
        is_idle = false;
        serve(p, draw(4) ? draw((uint32_t)(p->posted - p->done) + 1) : 0);
    }
    return is_idle;
}

static void *card(void *context)
{
    for (;;) {
        uint32_t rest;

        pthread_mutex_lock(&made_up_lock);
        while (serve_all())
            pthread_cond_wait(&has_works, &made_up_lock);
        rest = draw(3) ? 0 : draw(REST_US_MOST);
        pthread_mutex_unlock(&made_up_lock);
        if (rest)
            usleep(rest);
    }
    return context;
}

static void start_card(void)
{
    sigset_t all, before;
    pthread_t thread;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&thread, NULL, card, NULL) != 0 || pthread_detach(thread) != 0)
        end_program("no thread");
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* --- Queue pairs ----------------------------------------------------------------------------- */

struct made_up_pair *made_up_pair_new(struct ibv_pd *pd, const struct ibv_qp_init_attr *how)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static uint32_t numbers;
    struct made_up_pair *pair;

    if (how->cap.max_send_wr > MADE_UP_WORKS || how->qp_type != IBV_QPT_RC) {
        errno = EINVAL;
        return NULL;
    }
    pair = calloc(1, sizeof(*pair));
    if (!pair)
        return NULL;
    pthread_once(&once, start_card);
    pair->qp = (struct ibv_qp){.context = &made_up_context,
                               .pd = pd,
                               .send_cq = how->send_cq,
                               .recv_cq = how->recv_cq,
                               .qp_num = ++numbers,
                               .state = IBV_QPS_INIT,
                               .qp_type = IBV_QPT_RC};
    pair->room = how->cap.max_send_wr;
    pair->next = pairs;
    pairs = pair;
    return pair;
}

/* What of it lies in its queue goes with it. */
void made_up_pair_end(struct made_up_pair *pair)
{
    struct completions *all = (struct completions *)pair->qp.send_cq;
    struct made_up_pair **at = &pairs;
    uint32_t kept = 0;

    while (*at != pair)
        at = &(*at)->next;
    *at = pair->next;
    for (uint32_t i = 0; all && i < all->count; i++) {
        const struct entry entry = all->entries[(all->first + i) % MADE_UP_WORKS];

        if (entry.pair != pair)
            all->entries[(all->first + kept++) % MADE_UP_WORKS] = entry;
    }
    if (all)
        all->count = kept;
    if (pair->peer)
        pair->peer->peer = NULL;
    free(pair);
}

struct ibv_qp *made_up_pair_qp(struct made_up_pair *pair)
{
    return &pair->qp;
}

void made_up_pair_join(struct made_up_pair *one, struct made_up_pair *other)
{
    one->peer = other;
    other->peer = one;
    one->qp.state = other->qp.state = IBV_QPS_RTS;
}

MADE_UP_API int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
    if (mask != IBV_QP_STATE || attr->qp_state != IBV_QPS_ERR)
        return EINVAL;
    pthread_mutex_lock(&made_up_lock);
    qp->state = IBV_QPS_ERR;
    pthread_mutex_unlock(&made_up_lock);
    return 0;
}

static int post(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad_p)
{
    struct made_up_pair *pair = (struct made_up_pair *)qp;
    int error = 0;

    pthread_mutex_lock(&made_up_lock);
    for (; wr && !error; wr = wr->next) {
        const struct ibv_sge *sge = wr->sg_list;

        if (qp->state != IBV_QPS_RTS && qp->state != IBV_QPS_ERR)
            error = EINVAL;
        else if (pair->posted - pair->over == pair->room)
            error = ENOMEM;
        else
            pair->works[pair->posted++ % MADE_UP_WORKS] = (struct work){
                .id = wr->wr_id,
                .there = wr->wr.rdma.remote_addr,
                .here = (char *)(uintptr_t)sge->addr,
                .bytes = sge->length,
                .local_key = sge->lkey,
                .remote_key = wr->wr.rdma.rkey,
                .is_write = wr->opcode == IBV_WR_RDMA_WRITE,
                .is_signalled = wr->send_flags & IBV_SEND_SIGNALED};
        if (error)
            *bad_p = wr;
    }
    pthread_cond_signal(&has_works);
    pthread_mutex_unlock(&made_up_lock);
    return error;
}

/* --- The one device -------------------------------------------------------------------------- */

static struct ibv_device device = {.name = "made_up0", .dev_name = "made_up0"};

struct ibv_context made_up_context = {
    .device = &device, .ops = {.poll_cq = poll_queue, .req_notify_cq = arm, .post_send = post}};

MADE_UP_API struct ibv_device **ibv_get_device_list(int *count_p)
{
    struct ibv_device **list = calloc(2, sizeof(*list));

    if (list)
        list[0] = &device;
    if (count_p)
        *count_p = list ? 1 : 0;
    return list;
}

MADE_UP_API void ibv_free_device_list(struct ibv_device **list)
{
    free(list);
}

MADE_UP_API int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
    (void)context;
    memset(attr, 0, sizeof(*attr));
    attr->max_qp_wr = attr->max_cqe = (int)MADE_UP_WORKS;
    attr->max_qp_rd_atom = attr->max_qp_init_rd_atom = MADE_UP_READS;
    attr->max_sge = 1;
    return 0;
}
