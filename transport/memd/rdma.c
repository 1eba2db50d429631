/* SPDX-License-Identifier: MIT */
#include "transport/memd/rdma.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/memd/clock.h"
#include "transport/memd/server.h"
#include "transport/verbs.h"

#define BACKLOG   64
#define PINS_EACH 2u /* more than two devices for every lease: not at once */

enum queue_state { QUEUE_FREE, QUEUE_INVITED, QUEUE_COMING, QUEUE_JOINED, QUEUE_CUT };

struct memd_queue {
    enum queue_state state;
    struct memd_lease *lease;
    uint32_t line;
    uint8_t token[WR_TOKEN_BYTES];
    struct rdma_cm_id *id; /* has a queue pair; NULL: not yet, or no longer */
    struct ibv_cq *cq;
    uint32_t key;
};

struct pin {
    const struct memd_lease *lease; /* NULL: it is none */
    struct ibv_context *device;
    struct ibv_pd *pd;
    struct ibv_mr *mr;
};

struct memd_rdma {
    /* Constant while the thread runs. */
    const struct wr_verbs *verbs;
    struct memd_book *book;
    struct memd_log *log;
    struct rdma_event_channel *events;
    struct rdma_cm_id *doors[MEMD_LISTEN_MOST];
    uint32_t door_count;
    int bell;
    pthread_t thread;
    bool has_thread;
    /* Kept by lock. Pins are made by the thread alone. */
    pthread_mutex_t lock;
    struct memd_queue *queues; /* as many as there may be connections */
    struct pin *pins;
    uint32_t queue_count, pin_count; /* constant */
};

/* --- Pins ------------------------------------------------------------------------------------ */

static void drop_pin(const struct memd_rdma *rdma, struct pin *pin)
{
    if (pin->mr)
        rdma->verbs->dereg_mr(pin->mr);
    if (pin->pd)
        rdma->verbs->dealloc_pd(pin->pd);
    *pin = (struct pin){.lease = NULL};
}

/* The book's: it has no user. */
static void unpin(void *context, const struct memd_lease *lease)
{
    struct memd_rdma *rdma = context;

    pthread_mutex_lock(&rdma->lock);
    for (uint32_t i = 0; i < rdma->pin_count; i++)
        if (rdma->pins[i].lease == lease)
            drop_pin(rdma, &rdma->pins[i]);
    pthread_mutex_unlock(&rdma->lock);
}

static bool fill_pin(struct memd_rdma *rdma, struct pin *pin)
{
    struct memd_lease *lease = (struct memd_lease *)(uintptr_t)pin->lease;
    char why[WR_VERBS_WHY];
    int os_error;

    pin->pd = rdma->verbs->alloc_pd(pin->device);
    /* Brings all of it into memory, which takes its time. Its client waits for it, and says
     * nothing. */
    atomic_store(&lease->is_busy, true);
    if (pin->pd)
        pin->mr = rdma->verbs->reg_mr(pin->pd, lease->memory, lease->slots * WEIR_SLOT_BYTES,
                                      IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ |
                                          IBV_ACCESS_REMOTE_WRITE);
    os_error = errno;
    memd_lease_heard(lease, memd_now_ms());
    atomic_store(&lease->is_busy, false);
    if (pin->mr)
        return true;
    wr_verbs_explain(os_error, "its memory cannot be registered for RDMA", why);
    memd_log(rdma->log, MEMD_LOG_REFUSED, "%s: %s", lease->client.who, why);
    return false;
}

/* Of a lease that is held. NULL: it cannot be. */
static const struct pin *pin_of(struct memd_rdma *rdma, struct memd_lease *lease,
                                struct ibv_context *device)
{
    struct pin *free_one = NULL, *found = NULL, made = {.lease = lease, .device = device};

    pthread_mutex_lock(&rdma->lock);
    for (uint32_t i = 0; i < rdma->pin_count && !found; i++) {
        struct pin *pin = &rdma->pins[i];

        if (pin->lease == lease && pin->device == device)
            found = pin;
        else if (!pin->lease)
            free_one = pin;
    }
    pthread_mutex_unlock(&rdma->lock);
    if (found || !free_one)
        return found;
    /* Discarded memory would be other memory than the device's. */
    atomic_store(&lease->is_pinned, true);
    if (!fill_pin(rdma, &made)) {
        drop_pin(rdma, &made);
        return NULL;
    }
    pthread_mutex_lock(&rdma->lock);
    *free_one = made;
    pthread_mutex_unlock(&rdma->lock);
    return free_one;
}

/* --- Queues ---------------------------------------------------------------------------------- */

struct memd_queue *memd_rdma_invite(struct memd_rdma *rdma, struct memd_lease *lease, uint32_t line,
                                    const struct wr_session *session)
{
    struct memd_queue *queue = NULL;

    pthread_mutex_lock(&rdma->lock);
    for (uint32_t i = 0; i < rdma->queue_count && !queue; i++)
        if (rdma->queues[i].state == QUEUE_FREE)
            queue = &rdma->queues[i];
    if (queue) {
        *queue = (struct memd_queue){.state = QUEUE_INVITED, .lease = lease, .line = line};
        wr_session_token(session, false, queue->token);
    }
    pthread_mutex_unlock(&rdma->lock);
    return queue;
}

/* Its queue pair is no more; what is left of it, which is not to be ended under the lock: that
 * waits for who looks at an event of it. */
static struct rdma_cm_id *end_pair_locked(const struct memd_rdma *rdma, struct memd_queue *queue,
                                          enum queue_state state)
{
    struct rdma_cm_id *id = queue->id;

    if (id)
        rdma->verbs->destroy_qp(id);
    if (queue->cq)
        rdma->verbs->destroy_cq(queue->cq);
    queue->id = NULL;
    queue->cq = NULL;
    queue->state = state;
    return id;
}

static void end_id(const struct memd_rdma *rdma, struct rdma_cm_id *id)
{
    if (id)
        rdma->verbs->destroy_id(id);
}

bool memd_queue_locate(struct memd_rdma *rdma, const struct memd_queue *queue, uint64_t *address_p,
                       uint32_t *key_p)
{
    bool is_joined;

    pthread_mutex_lock(&rdma->lock);
    is_joined = queue->state == QUEUE_JOINED;
    if (is_joined) {
        *address_p = (uintptr_t)queue->lease->memory;
        *key_p = queue->key;
    }
    pthread_mutex_unlock(&rdma->lock);
    return is_joined;
}

void memd_queue_leave(struct memd_rdma *rdma, struct memd_queue *queue)
{
    struct rdma_cm_id *id;

    pthread_mutex_lock(&rdma->lock);
    id = end_pair_locked(rdma, queue, QUEUE_FREE);
    pthread_mutex_unlock(&rdma->lock);
    end_id(rdma, id);
}

void memd_rdma_cut(struct memd_rdma *rdma, const struct memd_lease *lease, uint32_t line)
{
    struct rdma_cm_id *ids[4];
    uint32_t count = 0;

    /* There is one at most, but for those who say what they should not. */
    do {
        count = 0;
        pthread_mutex_lock(&rdma->lock);
        for (uint32_t i = 0; i < rdma->queue_count && count < 4; i++) {
            struct memd_queue *queue = &rdma->queues[i];

            if (queue->state == QUEUE_FREE || queue->state == QUEUE_CUT || queue->lease != lease ||
                queue->line != line)
                continue;
            ids[count++] = end_pair_locked(rdma, queue, QUEUE_CUT);
        }
        pthread_mutex_unlock(&rdma->lock);
        for (uint32_t i = 0; i < count; i++)
            end_id(rdma, ids[i]);
    } while (count == 4);
}

/* --- Who comes ------------------------------------------------------------------------------- */

static struct memd_queue *find_locked(struct memd_rdma *rdma, enum queue_state state,
                                      const uint8_t token[WR_TOKEN_BYTES])
{
    for (uint32_t i = 0; i < rdma->queue_count; i++)
        if (rdma->queues[i].state == state &&
            sodium_memcmp(rdma->queues[i].token, token, WR_TOKEN_BYTES) == 0)
            return &rdma->queues[i];
    return NULL;
}

/* Whose token it is, he may come: his lease is held until memd_book_leave(). */
static struct memd_lease *admit(struct memd_rdma *rdma, const uint8_t token[WR_TOKEN_BYTES])
{
    struct memd_lease *lease = NULL;
    struct memd_queue *queue;

    pthread_mutex_lock(&rdma->lock);
    queue = find_locked(rdma, QUEUE_INVITED, token);
    if (queue) {
        queue->state = QUEUE_COMING;
        lease = queue->lease;
        memd_book_hold(rdma->book, lease);
    }
    pthread_mutex_unlock(&rdma->lock);
    return lease;
}

static bool make_pair(const struct memd_rdma *rdma, struct memd_queue *queue, struct rdma_cm_id *id,
                      const struct pin *pin, uint8_t reads)
{
    struct ibv_qp_init_attr how = {
        .cap = {.max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1},
        .qp_type = IBV_QPT_RC};
    struct rdma_conn_param accept = {.responder_resources = reads, .rnr_retry_count = 7};

    queue->cq = rdma->verbs->create_cq(id->verbs, 2, NULL, NULL, 0);
    how.send_cq = how.recv_cq = queue->cq;
    if (queue->cq && rdma->verbs->create_qp(id, pin->pd, &how) == 0) {
        if (rdma->verbs->accept(id, &accept) == 0) {
            queue->id = id;
            queue->key = pin->mr->rkey;
            queue->state = QUEUE_JOINED;
            return true;
        }
        rdma->verbs->destroy_qp(id);
    }
    if (queue->cq)
        rdma->verbs->destroy_cq(queue->cq);
    queue->cq = NULL;
    queue->state = QUEUE_CUT;
    return false;
}

/* No more reads at a time than the device that serves them can have under way. */
static uint8_t reads_of(const struct memd_rdma *rdma, struct ibv_context *device, uint8_t wanted)
{
    struct ibv_device_attr limits;

    if (rdma->verbs->query_device(device, &limits) != 0 || limits.max_qp_rd_atom < 1)
        return 1;
    return limits.max_qp_rd_atom < wanted ? (uint8_t)limits.max_qp_rd_atom : wanted;
}

/* Why it does not come in; NULL: it does. */
static const char *let_in(struct memd_rdma *rdma, struct rdma_cm_id *id,
                          const struct rdma_conn_param *asked)
{
    const uint8_t reads = reads_of(rdma, id->verbs, asked->responder_resources);
    const uint8_t *token = asked->private_data;
    const char *why = "its connection has ended meanwhile";
    struct memd_queue *queue;
    struct memd_lease *lease;
    const struct pin *pin;

    if (asked->private_data_len < WR_TOKEN_BYTES)
        return "it shows no token";
    lease = admit(rdma, token);
    if (!lease)
        return "its token is of no connection that has proven the key";
    pin = pin_of(rdma, lease, id->verbs);
    pthread_mutex_lock(&rdma->lock);
    queue = find_locked(rdma, QUEUE_COMING, token);
    if (queue && pin)
        why = make_pair(rdma, queue, id, pin, reads) ? NULL : "the device has no room for it";
    else if (queue)
        why = "its lease cannot be registered";
    pthread_mutex_unlock(&rdma->lock);
    memd_book_leave(rdma->book, lease);
    return why;
}

/* The device is being taken away: its queue pairs must not hold it. */
static struct rdma_cm_id *cut_id(struct memd_rdma *rdma, const struct rdma_cm_id *id)
{
    struct rdma_cm_id *found = NULL;

    pthread_mutex_lock(&rdma->lock);
    for (uint32_t i = 0; i < rdma->queue_count && !found; i++)
        if (rdma->queues[i].id == id)
            found = end_pair_locked(rdma, &rdma->queues[i], QUEUE_CUT);
    pthread_mutex_unlock(&rdma->lock);
    return found;
}

/* Who is cut off notices by his line, or by his works that fail: all other events are old news. */
static void heed_event(struct memd_rdma *rdma, struct rdma_cm_event *event)
{
    struct rdma_cm_id *id = event->id, *ended = NULL;
    const char *why;

    if (event->event == RDMA_CM_EVENT_CONNECT_REQUEST) {
        why = let_in(rdma, id, &event->param.conn);
        if (why) {
            memd_log(rdma->log, MEMD_LOG_DOOR, "a queue pair was not let in: %s", why);
            (void)rdma->verbs->reject(id, NULL, 0);
            ended = id;
        }
    } else if (event->event == RDMA_CM_EVENT_DEVICE_REMOVAL) {
        ended = cut_id(rdma, id);
    }
    rdma->verbs->ack_cm_event(event);
    end_id(rdma, ended);
}

static void *work(void *argument)
{
    struct memd_rdma *rdma = argument;

    for (;;) {
        struct pollfd wait[2] = {{.fd = rdma->events->fd, .events = POLLIN},
                                 {.fd = rdma->bell, .events = POLLIN}};
        struct rdma_cm_event *event;

        if (poll(wait, 2, -1) < 0 && errno != EINTR)
            return NULL;
        if (wait[1].revents)
            return NULL;
        if (wait[0].revents && rdma->verbs->get_cm_event(rdma->events, &event) == 0)
            heed_event(rdma, event);
    }
}

/* --- Life ------------------------------------------------------------------------------------ */

int memd_rdma_open(struct memd_rdma **rdma_p, struct memd_book *book, struct memd_log *log,
                   const char *text)
{
    struct memd_rdma *rdma;
    char why[WR_VERBS_WHY];
    const struct wr_verbs *verbs = wr_verbs_load(why);

    if (!verbs) {
        memd_log(log, MEMD_LOG_EVENT, "%s: %s", text, why);
        return WEIR_ENOSUPPORT;
    }
    rdma = calloc(1, sizeof(*rdma));
    if (!rdma)
        return WEIR_ENOMEM;
    rdma->verbs = verbs;
    rdma->book = book;
    rdma->log = log;
    pthread_mutex_init(&rdma->lock, NULL);
    rdma->queue_count = book->room.connections;
    rdma->pin_count = PINS_EACH * book->room.leases;
    rdma->queues = calloc(rdma->queue_count, sizeof(*rdma->queues));
    rdma->pins = calloc(rdma->pin_count, sizeof(*rdma->pins));
    rdma->events = verbs->create_event_channel();
    rdma->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    /* An event that is told of is gone if its queue pair ends before it is looked at. */
    if (!rdma->queues || !rdma->pins || !rdma->events || rdma->bell < 0 ||
        fcntl(rdma->events->fd, F_SETFL, O_NONBLOCK) != 0) {
        memd_log(log, MEMD_LOG_EVENT, "%s: %s", text, strerrordesc_np(errno));
        memd_rdma_close(rdma);
        return WEIR_ENOMEM;
    }
    book->unpin = unpin;
    book->unpin_context = rdma;
    *rdma_p = rdma;
    return WEIR_OK;
}

static int bind_door(const struct memd_rdma *rdma, struct rdma_cm_id *id, int fd, bool is_any_port)
{
    struct sockaddr_storage address;
    socklen_t bytes = sizeof(address);
    int one = 1;

    if (getsockname(fd, (struct sockaddr *)&address, &bytes) != 0)
        return -1;
    if (address.ss_family == AF_INET6)
        (void)rdma->verbs->set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_AFONLY, &one, sizeof(one));
    if (is_any_port && address.ss_family == AF_INET6)
        ((struct sockaddr_in6 *)&address)->sin6_port = 0;
    else if (is_any_port)
        ((struct sockaddr_in *)&address)->sin_port = 0;
    return rdma->verbs->bind_addr(id, (struct sockaddr *)&address);
}

int memd_rdma_listen(struct memd_rdma *rdma, const char *text, int fd, uint16_t *port_p)
{
    struct rdma_cm_id *id;

    if (rdma->verbs->create_id(rdma->events, &id, NULL, RDMA_PS_TCP) != 0)
        goto failed;
    /* Ports of RDMA are others than those of TCP, but for some devices. Clients are told. */
    if ((bind_door(rdma, id, fd, false) != 0 && bind_door(rdma, id, fd, true) != 0) ||
        rdma->verbs->listen(id, BACKLOG) != 0) {
        int os_error = errno;

        rdma->verbs->destroy_id(id);
        errno = os_error;
        goto failed;
    }
    rdma->doors[rdma->door_count++] = id;
    *port_p = ntohs(rdma->verbs->get_src_port(id));
    return WEIR_OK;

failed:
    memd_log(rdma->log, MEMD_LOG_EVENT, "%s: RDMA: %s%s", text, strerrordesc_np(errno),
             errno == ENODEV || errno == EADDRNOTAVAIL ? ": no RDMA device has that address" : "");
    return WEIR_EIO;
}

int memd_rdma_start(struct memd_rdma *rdma)
{
    int error = memd_thread_start(&rdma->thread, "memd-rdma", work, rdma);

    rdma->has_thread = !error;
    return error;
}

void memd_rdma_stop(struct memd_rdma *rdma)
{
    if (!rdma || !rdma->has_thread)
        return;
    eventfd_write(rdma->bell, 1);
    pthread_join(rdma->thread, NULL);
    rdma->has_thread = false;
}

void memd_rdma_close(struct memd_rdma *rdma)
{
    if (!rdma)
        return;
    for (uint32_t i = 0; i < rdma->door_count; i++)
        rdma->verbs->destroy_id(rdma->doors[i]);
    if (rdma->events)
        rdma->verbs->destroy_event_channel(rdma->events);
    if (rdma->bell >= 0)
        close(rdma->bell);
    pthread_mutex_destroy(&rdma->lock);
    free(rdma->queues);
    free(rdma->pins);
    free(rdma);
}
