/* SPDX-License-Identifier: MIT */

/* Who listens, who knocks, and what they are told. */

#include "made_up.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define PORT_FIRST 20000u

struct identity {
    struct rdma_cm_id id; /* first */
    struct identity *next;
    struct identity *peer; /* at the other end: once it has knocked, and until it has gone */
    struct made_up_pair *pair;
    in_port_t port; /* of who listens; or where to: as in a packet */
    uint32_t unacknowledged;
    bool listens, knocks;
};

struct event {
    struct rdma_cm_event event; /* first */
    struct identity *owner;     /* who cannot go before it is acknowledged */
    struct event *next;
    uint8_t said[MADE_UP_PRIVATE];
};

struct events {
    struct rdma_event_channel channel; /* first; its descriptor counts what is queued */
    struct event *first;
};

static struct identity *identities;
static pthread_cond_t acknowledged = PTHREAD_COND_INITIALIZER;
static uint16_t ports = PORT_FIRST;
static bool is_deaf;
static struct ibv_pd whole_device = {.context = &made_up_context};

void made_up_deafen(bool to_be)
{
    pthread_mutex_lock(&made_up_lock);
    is_deaf = to_be;
    pthread_mutex_unlock(&made_up_lock);
}

static int refuse(int error)
{
    errno = error;
    return -1;
}

static struct identity *identity_of(struct rdma_cm_id *id)
{
    return (struct identity *)id;
}

static in_port_t *port_of(struct sockaddr *address)
{
    return address->sa_family == AF_INET6 ? &((struct sockaddr_in6 *)address)->sin6_port
                                          : &((struct sockaddr_in *)address)->sin_port;
}

/* --- Events ---------------------------------------------------------------------------------- */

MADE_UP_API struct rdma_event_channel *rdma_create_event_channel(void)
{
    struct events *events = calloc(1, sizeof(*events));

    if (events)
        events->channel.fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    return &events->channel;
}

MADE_UP_API void rdma_destroy_event_channel(struct rdma_event_channel *channel)
{
    if (((struct events *)channel)->first)
        abort();
    close(channel->fd);
    free(channel);
}

/* Somebody is told. owner: himself, but for who is new. */
static void tell(struct identity *whom, struct identity *owner, enum rdma_cm_event_type type,
                 const struct rdma_conn_param *param)
{
    struct events *events = (struct events *)owner->id.channel;
    struct event **at = &events->first, *event = calloc(1, sizeof(*event));

    if (!event)
        abort();
    event->event = (struct rdma_cm_event){
        .id = &whom->id, .listen_id = owner == whom ? NULL : &owner->id, .event = type};
    if (param) {
        event->event.param.conn = *param;
        if (param->private_data_len > 0)
            memcpy(event->said, param->private_data, param->private_data_len);
        event->event.param.conn.private_data = event->said;
    }
    event->owner = owner;
    while (*at)
        at = &(*at)->next;
    *at = event;
    eventfd_write(events->channel.fd, 1);
}

MADE_UP_API int rdma_get_cm_event(struct rdma_event_channel *channel,
                                  struct rdma_cm_event **event_p)
{
    struct events *events = (struct events *)channel;
    struct event *event = NULL;
    eventfd_t one;

    while (!event) {
        if (eventfd_read(channel->fd, &one) != 0)
            return -1;
        pthread_mutex_lock(&made_up_lock);
        event = events->first;
        if (event) {
            events->first = event->next;
            event->owner->unacknowledged++;
        }
        pthread_mutex_unlock(&made_up_lock);
    }
    *event_p = &event->event;
    return 0;
}

MADE_UP_API int rdma_ack_cm_event(struct rdma_cm_event *event)
{
    pthread_mutex_lock(&made_up_lock);
    ((struct event *)event)->owner->unacknowledged--;
    pthread_cond_broadcast(&acknowledged);
    pthread_mutex_unlock(&made_up_lock);
    free(event);
    return 0;
}

MADE_UP_API const char *rdma_event_str(enum rdma_cm_event_type event)
{
    static const char *const names[] = {
        [RDMA_CM_EVENT_ADDR_RESOLVED] = "ADDR_RESOLVED",
        [RDMA_CM_EVENT_ROUTE_RESOLVED] = "ROUTE_RESOLVED",
        [RDMA_CM_EVENT_CONNECT_REQUEST] = "CONNECT_REQUEST",
        [RDMA_CM_EVENT_REJECTED] = "REJECTED",
        [RDMA_CM_EVENT_ESTABLISHED] = "ESTABLISHED",
        [RDMA_CM_EVENT_DISCONNECTED] = "DISCONNECTED",
    };

    return event < sizeof(names) / sizeof(names[0]) && names[event] ? names[event] : "?";
}

/* --- Identities ------------------------------------------------------------------------------ */

static struct identity *new_identity(struct rdma_event_channel *channel, void *context)
{
    struct identity *identity = calloc(1, sizeof(*identity));

    if (!identity)
        return NULL;
    identity->id.channel = channel;
    identity->id.context = context;
    identity->id.ps = RDMA_PS_TCP;
    identity->next = identities;
    identities = identity;
    return identity;
}

MADE_UP_API int rdma_create_id(struct rdma_event_channel *channel, struct rdma_cm_id **id_p,
                               void *context, enum rdma_port_space ps)
{
    struct identity *identity;

    (void)ps;
    pthread_mutex_lock(&made_up_lock);
    identity = new_identity(channel, context);
    pthread_mutex_unlock(&made_up_lock);
    *id_p = &identity->id;
    return identity ? 0 : refuse(ENOMEM);
}

static void free_identity(struct identity *identity)
{
    struct identity **at = &identities;

    while (*at != identity)
        at = &(*at)->next;
    *at = identity->next;
    free(identity);
}

/* The other end learns that it is alone. */
static void part(struct identity *identity)
{
    struct identity *peer = identity->peer;

    if (!peer)
        return;
    peer->peer = identity->peer = NULL;
    if (!peer->knocks && !identity->knocks)
        tell(peer, peer, RDMA_CM_EVENT_DISCONNECTED, NULL);
    else if (peer->knocks)
        tell(peer, peer, RDMA_CM_EVENT_REJECTED, NULL);
}

/* What nobody has looked at yet is never said; who knocks there is turned away. */
static void forget_events(const struct identity *identity)
{
    struct events *events = (struct events *)identity->id.channel;
    eventfd_t one;

    for (struct event **at = &events->first; *at;) {
        struct event *event = *at;
        struct identity *who = identity_of(event->event.id);

        if (event->owner != identity) {
            at = &event->next;
            continue;
        }
        *at = event->next;
        eventfd_read(events->channel.fd, &one);
        if (who != identity) {
            part(who);
            free_identity(who);
        }
        free(event);
    }
}

MADE_UP_API int rdma_destroy_id(struct rdma_cm_id *id)
{
    struct identity *identity = identity_of(id);

    pthread_mutex_lock(&made_up_lock);
    part(identity);
    forget_events(identity);
    while (identity->unacknowledged > 0)
        pthread_cond_wait(&acknowledged, &made_up_lock);
    free_identity(identity);
    pthread_mutex_unlock(&made_up_lock);
    return 0;
}

MADE_UP_API int rdma_set_option(struct rdma_cm_id *id, int level, int name, void *value,
                                size_t bytes)
{
    (void)id;
    (void)level;
    (void)name;
    (void)value;
    (void)bytes;
    return 0;
}

/* --- Who listens ----------------------------------------------------------------------------- */

static struct identity *who_listens(in_port_t port)
{
    for (struct identity *i = identities; i; i = i->next)
        if (i->listens && i->port == port)
            return i;
    return NULL;
}

MADE_UP_API int rdma_bind_addr(struct rdma_cm_id *id, struct sockaddr *address)
{
    struct identity *identity = identity_of(id);
    bool is_taken;

    pthread_mutex_lock(&made_up_lock);
    identity->port = *port_of(address) ? *port_of(address) : htons(ports++);
    is_taken = who_listens(identity->port) != NULL;
    pthread_mutex_unlock(&made_up_lock);
    return is_taken ? refuse(EADDRINUSE) : 0;
}

MADE_UP_API int rdma_listen(struct rdma_cm_id *id, int backlog)
{
    (void)backlog;
    pthread_mutex_lock(&made_up_lock);
    identity_of(id)->listens = true;
    pthread_mutex_unlock(&made_up_lock);
    return 0;
}

MADE_UP_API __be16 rdma_get_src_port(struct rdma_cm_id *id)
{
    return identity_of(id)->port;
}

/* --- Who knocks ------------------------------------------------------------------------------ */

MADE_UP_API int rdma_resolve_addr(struct rdma_cm_id *id, struct sockaddr *from, struct sockaddr *to,
                                  int timeout_ms)
{
    struct identity *identity = identity_of(id);

    (void)from;
    (void)timeout_ms;
    id->verbs = &made_up_context;
    pthread_mutex_lock(&made_up_lock);
    identity->port = *port_of(to);
    tell(identity, identity, RDMA_CM_EVENT_ADDR_RESOLVED, NULL);
    pthread_mutex_unlock(&made_up_lock);
    return 0;
}

MADE_UP_API int rdma_resolve_route(struct rdma_cm_id *id, int timeout_ms)
{
    (void)timeout_ms;
    pthread_mutex_lock(&made_up_lock);
    tell(identity_of(id), identity_of(id), RDMA_CM_EVENT_ROUTE_RESOLVED, NULL);
    pthread_mutex_unlock(&made_up_lock);
    return 0;
}

MADE_UP_API int rdma_create_qp(struct rdma_cm_id *id, struct ibv_pd *pd,
                               struct ibv_qp_init_attr *how)
{
    struct identity *identity = identity_of(id);

    if (!id->verbs)
        return refuse(EINVAL);
    pthread_mutex_lock(&made_up_lock);
    identity->pair = made_up_pair_new(pd ? pd : &whole_device, how);
    pthread_mutex_unlock(&made_up_lock);
    if (!identity->pair)
        return -1;
    id->qp = made_up_pair_qp(identity->pair);
    return 0;
}

MADE_UP_API void rdma_destroy_qp(struct rdma_cm_id *id)
{
    struct identity *identity = identity_of(id);

    pthread_mutex_lock(&made_up_lock);
    made_up_pair_end(identity->pair);
    identity->pair = NULL;
    pthread_mutex_unlock(&made_up_lock);
    id->qp = NULL;
}

static bool is_within_limits(const struct rdma_conn_param *how)
{
    return how->private_data_len <= MADE_UP_PRIVATE && how->initiator_depth <= MADE_UP_READS &&
           how->responder_resources <= MADE_UP_READS && how->retry_count <= 7 &&
           how->rnr_retry_count <= 7;
}

/* Its reads under way are, for the other end, those that it has to answer; and the reverse. */
MADE_UP_API int rdma_connect(struct rdma_cm_id *id, struct rdma_conn_param *how)
{
    struct identity *identity = identity_of(id), *host, *guest;
    struct rdma_conn_param heard = *how;

    if (!id->qp || !is_within_limits(how))
        return refuse(EINVAL);
    heard.responder_resources = how->initiator_depth;
    heard.initiator_depth = how->responder_resources;
    pthread_mutex_lock(&made_up_lock);
    host = who_listens(identity->port);
    identity->knocks = true;
    if (!host) {
        tell(identity, identity, RDMA_CM_EVENT_REJECTED, NULL);
    } else if (!is_deaf) {
        guest = new_identity(host->id.channel, host->id.context);
        if (!guest)
            abort();
        guest->id.verbs = &made_up_context;
        guest->peer = identity;
        identity->peer = guest;
        tell(guest, host, RDMA_CM_EVENT_CONNECT_REQUEST, &heard);
    }
    pthread_mutex_unlock(&made_up_lock);
    return 0;
}

MADE_UP_API int rdma_accept(struct rdma_cm_id *id, struct rdma_conn_param *how)
{
    struct identity *identity = identity_of(id), *peer;

    if (!id->qp || !is_within_limits(how))
        return refuse(EINVAL);
    pthread_mutex_lock(&made_up_lock);
    peer = identity->peer;
    if (peer && peer->pair) {
        peer->knocks = false;
        made_up_pair_join(identity->pair, peer->pair);
        tell(peer, peer, RDMA_CM_EVENT_ESTABLISHED, NULL);
        tell(identity, identity, RDMA_CM_EVENT_ESTABLISHED, NULL);
    }
    pthread_mutex_unlock(&made_up_lock);
    return peer ? 0 : refuse(EINVAL);
}

MADE_UP_API int rdma_reject(struct rdma_cm_id *id, const void *said, uint8_t bytes)
{
    (void)said;
    (void)bytes;
    pthread_mutex_lock(&made_up_lock);
    part(identity_of(id));
    pthread_mutex_unlock(&made_up_lock);
    return 0;
}
