/* SPDX-License-Identifier: MIT */

/* A queue, from the line that it is to be beside to its end. The keeper's. */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "transport/rdma.h"

#define NS_SECOND  1000000000ull
#define RESOLVE_MS 2000
#define READS_MOST 32u
#define GIB_SLOTS  (1ull << 18)
#define REGISTER_S 30

/* How soon a server that does not answer is noticed by the device: 4.096 us * 2^14 = 67 ms, and
 * again six times. Seven would mean for ever, where RDMA is software (rdma_rxe). */
#define ACK_TIMEOUT 14
#define RETRIES     6

static uint32_t least(uint32_t one, uint32_t other)
{
    return one < other ? one : other;
}

bool wr_rdma_size(const struct ibv_device_attr *device, uint32_t places_wanted,
                  struct wr_rdma_sizes *sizes_p)
{
    const int most = device->max_qp_wr < device->max_cqe ? device->max_qp_wr : device->max_cqe;
    const int reads = device->max_qp_init_rd_atom;

    if (most < 1 || reads < 1 || device->max_sge < 1)
        return false;
    sizes_p->places = least(least(places_wanted, WR_RDMA_PLACES), (uint32_t)most);
    /* Places are free again at a completion: there are four rounds of them. */
    sizes_p->signal_every = sizes_p->places < 8 ? 1 : sizes_p->places / 4;
    sizes_p->reads = (uint8_t)least((uint32_t)reads, READS_MOST);
    return true;
}

/* --- Events of a connection ------------------------------------------------------------------ */

static const char *advice(enum rdma_cm_event_type type)
{
    if (type == RDMA_CM_EVENT_ADDR_ERROR)
        return ": no RDMA device of this machine is on the way there";
    return type == RDMA_CM_EVENT_REJECTED ? ": the server's log says why" : "";
}

/* WEIR_OK: it was this one. */
static int await_event(const struct wr_rdma_queue *queue, const struct wr_line *line,
                       enum rdma_cm_event_type wanted, uint64_t deadline_ns, char why[WR_WHY_ROOM])
{
    struct rdma_cm_event *event;
    enum rdma_cm_event_type type;

    do {
        if (!wr_line_await(line, queue->events->fd, deadline_ns)) {
            snprintf(why, WR_WHY_ROOM, "RDMA: no answer within the time; is UDP port 4791 open?");
            return WEIR_EIO;
        }
    } while (queue->verbs->get_cm_event(queue->events, &event) != 0);
    type = event->event;
    queue->verbs->ack_cm_event(event);
    if (type == wanted)
        return WEIR_OK;
    snprintf(why, WR_WHY_ROOM, "RDMA: %s instead of %s%s", queue->verbs->event_str(type),
             queue->verbs->event_str(wanted), advice(type));
    return WEIR_EIO;
}

static int fail(const char *what, char why[WR_WHY_ROOM])
{
    int os_error = errno;

    wr_verbs_explain(os_error, what, why);
    return os_error == ENOMEM ? WEIR_ENOMEM : WEIR_EIO;
}

/* --- Its parts ------------------------------------------------------------------------------- */

static int resolve(struct wr_rdma_queue *queue, const struct wr_line *line,
                   struct sockaddr *address, uint64_t deadline_ns, char why[WR_WHY_ROOM])
{
    const struct wr_verbs *verbs = queue->verbs;
    uint8_t timeout = ACK_TIMEOUT;
    int error;

    queue->events = verbs->create_event_channel();
    if (!queue->events)
        return fail("/dev/infiniband/rdma_cm", why);
    if (fcntl(queue->events->fd, F_SETFL, O_NONBLOCK) != 0 ||
        verbs->create_id(queue->events, &queue->id, NULL, RDMA_PS_TCP) != 0)
        return fail("RDMA: a connection cannot be made", why);
    /* Without it a dead server is noticed later: a wish. */
    (void)verbs->set_option(queue->id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout,
                            sizeof(timeout));
    if (verbs->resolve_addr(queue->id, NULL, address, RESOLVE_MS) != 0)
        return fail("RDMA: the address is not one that a device here can reach", why);
    error = await_event(queue, line, RDMA_CM_EVENT_ADDR_RESOLVED, deadline_ns, why);
    if (error)
        return error;
    if (verbs->resolve_route(queue->id, RESOLVE_MS) != 0)
        return fail("RDMA: there is no way to the server", why);
    return await_event(queue, line, RDMA_CM_EVENT_ROUTE_RESOLVED, deadline_ns, why);
}

static int make_slab(struct wr_rdma_queue *queue, char why[WR_WHY_ROOM])
{
    const size_t bytes = (size_t)queue->sizes.places * WR_RDMA_PLACE_BYTES;
    void *slab = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (slab == MAP_FAILED)
        return fail("RDMA: out of memory", why);
    queue->slab = slab;
    /* The device may store into it, and nobody may by the device. */
    queue->mr = queue->verbs->reg_mr(queue->pd, slab, bytes, IBV_ACCESS_LOCAL_WRITE);
    return queue->mr ? WEIR_OK : fail("RDMA: memory cannot be registered", why);
}

static int make_parts(struct wr_rdma_queue *queue, uint32_t depth, char why[WR_WHY_ROOM])
{
    const struct wr_verbs *verbs = queue->verbs;
    struct ibv_qp_init_attr how = {.cap = {.max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1},
                                   .qp_type = IBV_QPT_RC};
    struct ibv_device_attr device;

    if (verbs->query_device(queue->id->verbs, &device) != 0 ||
        !wr_rdma_size(&device, depth, &queue->sizes)) {
        snprintf(why, WR_WHY_ROOM, "RDMA: the device does not do reads by queue pairs");
        return WEIR_ENOSUPPORT;
    }
    queue->pd = verbs->alloc_pd(queue->id->verbs);
    queue->bell = verbs->create_comp_channel(queue->id->verbs);
    if (!queue->pd || !queue->bell || fcntl(queue->bell->fd, F_SETFL, O_NONBLOCK) != 0)
        return fail("RDMA: the device has no room", why);
    queue->cq = verbs->create_cq(queue->id->verbs, (int)queue->sizes.places, NULL, queue->bell, 0);
    if (!queue->cq)
        return fail("RDMA: no completion queue", why);
    how.send_cq = how.recv_cq = queue->cq;
    how.cap.max_send_wr = queue->sizes.places;
    if (verbs->create_qp(queue->id, queue->pd, &how) != 0)
        return fail("RDMA: no queue pair", why);
    return make_slab(queue, why);
}

static int connect_it(struct wr_rdma_queue *queue, const struct wr_line *line, uint64_t deadline_ns,
                      char why[WR_WHY_ROOM])
{
    uint8_t token[WR_TOKEN_BYTES];
    struct rdma_conn_param how = {.private_data = token,
                                  .private_data_len = sizeof(token),
                                  .initiator_depth = queue->sizes.reads,
                                  .retry_count = RETRIES,
                                  .rnr_retry_count = RETRIES};

    wr_session_token(&line->session, true, token);
    if (queue->verbs->connect(queue->id, &how) != 0)
        return fail("RDMA: it cannot be connected", why);
    return await_event(queue, line, RDMA_CM_EVENT_ESTABLISHED, deadline_ns, why);
}

/* --- What is said about it ------------------------------------------------------------------- */

static int ask_port(struct wr_line *line, uint64_t deadline_ns, in_port_t *port_p,
                    char why[WR_WHY_ROOM])
{
    struct wr_message message = {.type = WR_MESSAGE_JOIN}, answer;
    int error = wr_line_ask(line, &message, NULL, &answer, NULL, 0, deadline_ns);

    if (error) {
        snprintf(why, WR_WHY_ROOM, "it hung up when asked for RDMA");
        return error;
    }
    if (answer.type != WR_MESSAGE_JOINED || answer.count == 0 || answer.count > UINT16_MAX) {
        snprintf(why, WR_WHY_ROOM, "no RDMA there: start weir-memd with --listen rdma://HOST:PORT");
        return WEIR_ENOSUPPORT;
    }
    *port_p = htons((uint16_t)answer.count);
    return WEIR_OK;
}

static int ask_where(struct wr_rdma_queue *queue, struct wr_line *line, uint64_t slots,
                     uint64_t deadline_ns, char why[WR_WHY_ROOM])
{
    struct wr_message message = {.type = WR_MESSAGE_LOCATE}, answer;
    int error = wr_line_ask(line, &message, NULL, &answer, NULL, 0, deadline_ns);

    if (error || answer.type != WR_MESSAGE_LOCATED || answer.count < slots ||
        answer.slot > UINT64_MAX - slots * WEIR_SLOT_BYTES) {
        snprintf(why, WR_WHY_ROOM, "it does not say where its memory is");
        return WEIR_EIO;
    }
    queue->base = answer.slot;
    queue->key = answer.pages;
    return WEIR_OK;
}

/* Where the line leads, at this port. */
static int find_address(const struct wr_line *line, in_port_t port, struct sockaddr_storage *to_p,
                        char why[WR_WHY_ROOM])
{
    socklen_t length = sizeof(*to_p);

    if (getpeername(line->fd, (struct sockaddr *)to_p, &length) != 0)
        return fail("the connection has ended", why);
    if (to_p->ss_family == AF_INET6)
        ((struct sockaddr_in6 *)to_p)->sin6_port = port;
    else
        ((struct sockaddr_in *)to_p)->sin_port = port;
    return WEIR_OK;
}

/* --- Life ------------------------------------------------------------------------------------ */

static void close_queue(struct wr_rdma_queue *queue)
{
    const struct wr_verbs *verbs = queue->verbs;

    if (queue->id && queue->id->qp)
        verbs->destroy_qp(queue->id);
    if (queue->cq) {
        verbs->ack_cq_events(queue->cq, queue->unacknowledged);
        verbs->destroy_cq(queue->cq);
    }
    if (queue->bell)
        verbs->destroy_comp_channel(queue->bell);
    if (queue->mr)
        verbs->dereg_mr(queue->mr);
    if (queue->slab)
        munmap(queue->slab, (size_t)queue->sizes.places * WR_RDMA_PLACE_BYTES);
    if (queue->pd)
        verbs->dealloc_pd(queue->pd);
    if (queue->id)
        verbs->destroy_id(queue->id);
    if (queue->events)
        verbs->destroy_event_channel(queue->events);
    free(queue);
}

static int open_queue(struct wr_rdma_queue *queue, struct wr_tcp *tcp, struct wr_line *line,
                      uint32_t depth, char why[WR_WHY_ROOM])
{
    /* The first one of a lease waits until the server has registered that: a second a GiB, and many
     * times that where processors are scarce. The keeper does not run yet, which is to renew the
     * lease. */
    const bool is_first = atomic_load(&tcp->seats_wanted) == 0;
    const uint64_t deadline = wr_tcp_soon(tcp) +
                              (is_first ? (REGISTER_S + 4 * tcp->slots / GIB_SLOTS) * NS_SECOND
                                        : 0);
    struct sockaddr_storage address;
    in_port_t port;
    int error = ask_port(line, deadline, &port, why);

    if (!error)
        error = find_address(line, port, &address, why);
    if (!error)
        error = resolve(queue, line, (struct sockaddr *)&address, deadline, why);
    if (!error)
        error = make_parts(queue, depth, why);
    if (!error)
        error = connect_it(queue, line, deadline, why);
    return error ? error : ask_where(queue, line, tcp->slots, deadline, why);
}

int wr_rdma_join(struct wr_tcp *tcp, struct wr_line *line, uint32_t depth, char why[WR_WHY_ROOM])
{
    struct wr_rdma_queue *queue = calloc(1, sizeof(*queue));
    int error = WEIR_ENOMEM;

    if (!queue) {
        snprintf(why, WR_WHY_ROOM, "out of memory");
        return error;
    }
    queue->verbs = wr_verbs_load(why);
    if (!queue->verbs) {
        free(queue);
        return WEIR_ENOSUPPORT;
    }
    error = open_queue(queue, tcp, line, depth, why);
    if (error)
        close_queue(queue);
    else
        line->queue = queue;
    return error;
}

void wr_rdma_part(struct wr_line *line)
{
    if (line->queue)
        close_queue(line->queue);
    line->queue = NULL;
}

/* Nothing comes unasked on either. */
bool wr_rdma_is_ended(const struct wr_line *line)
{
    struct pollfd look[2] = {{.fd = line->fd, .events = POLLIN},
                             {.fd = line->queue->events->fd, .events = POLLIN}};

    return poll(look, 2, 0) > 0;
}

/* What is on its way comes back at once, as failed. */
void wr_rdma_interrupt(const struct wr_line *line)
{
    struct ibv_qp_attr broken = {.qp_state = IBV_QPS_ERR};

    (void)line->queue->verbs->modify_qp(line->queue->id->qp, &broken, IBV_QP_STATE);
}
