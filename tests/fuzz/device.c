/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/device.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* What there is one of. */
enum part { EVENTS, ID, PD, BELL, CQ, PAIR, MEMORY, PARTS };

static struct {
    bool has[PARTS];
    bool has_refused;
    unsigned calls_left; /* until the one that fails */
    int os_error;
    bool is_poor; /* it cannot read */
    enum rdma_cm_event_type next;
    bool has_next;
    struct rdma_event_channel events;
    struct ibv_context context;
    struct rdma_cm_id id;
    struct ibv_pd pd;
    struct ibv_comp_channel bell;
    struct ibv_cq cq;
    struct ibv_qp pair;
    struct ibv_mr memory;
    struct rdma_cm_event event;
} device;

void device_begin(struct fuzz_bytes *bytes)
{
    memset(&device, 0, sizeof(device));
    device.calls_left = fuzz_byte(bytes);
    device.os_error = fuzz_byte(bytes) % 2 ? ENOMEM : ENODEV;
    device.is_poor = fuzz_byte(bytes) == 255;
}

bool device_has_refused(void)
{
    return device.has_refused;
}

bool device_is_idle(void)
{
    for (unsigned i = 0; i < PARTS; i++)
        if (device.has[i])
            return false;
    return true;
}

static bool refuses(void)
{
    if (device.calls_left-- > 0)
        return false;
    device.has_refused = true;
    errno = device.os_error;
    return true;
}

/* A part, or NULL. */
static void *give(enum part part, void *what)
{
    FUZZ_ASSERT(!device.has[part]);
    if (refuses())
        return NULL;
    device.has[part] = true;
    return what;
}

static int take_back(enum part part, const void *what, const void *given)
{
    FUZZ_ASSERT(device.has[part] && what == given);
    device.has[part] = false;
    return 0;
}

/* --- Of librdmacm ---------------------------------------------------------------------------- */

static struct rdma_event_channel *create_event_channel(void)
{
    if (!give(EVENTS, &device.events))
        return NULL;
    device.events.fd = eventfd(1, EFD_CLOEXEC); /* always readable */
    return &device.events;
}

static void destroy_event_channel(struct rdma_event_channel *events)
{
    FUZZ_ASSERT(!device.has[ID]);
    close(events->fd);
    take_back(EVENTS, events, &device.events);
}

static int create_id(struct rdma_event_channel *events, struct rdma_cm_id **id_p, void *context,
                     enum rdma_port_space space)
{
    FUZZ_ASSERT(events == &device.events && !context && space == RDMA_PS_TCP);
    if (!give(ID, &device.id))
        return -1;
    *id_p = &device.id;
    return 0;
}

static int destroy_id(struct rdma_cm_id *id)
{
    FUZZ_ASSERT(!device.has[PAIR]);
    return take_back(ID, id, &device.id);
}

static int set_option(struct rdma_cm_id *id, int level, int name, void *value, size_t bytes)
{
    FUZZ_ASSERT(id == &device.id && level == RDMA_OPTION_ID && name == RDMA_OPTION_ID_ACK_TIMEOUT &&
                value && bytes == 1);
    return 0;
}

/* The event that was waited for, or another one. */
static int answer(enum rdma_cm_event_type event, enum rdma_cm_event_type other)
{
    if (refuses())
        return -1;
    device.has_next = true;
    device.next = refuses() ? other : event;
    return 0;
}

static int resolve_addr(struct rdma_cm_id *id, struct sockaddr *from, struct sockaddr *to, int ms)
{
    FUZZ_ASSERT(id == &device.id && !from && to && ms > 0);
    id->verbs = &device.context;
    return answer(RDMA_CM_EVENT_ADDR_RESOLVED, RDMA_CM_EVENT_ADDR_ERROR);
}

static int resolve_route(struct rdma_cm_id *id, int ms)
{
    FUZZ_ASSERT(id == &device.id && ms > 0);
    return answer(RDMA_CM_EVENT_ROUTE_RESOLVED, RDMA_CM_EVENT_ROUTE_ERROR);
}

static int connect_id(struct rdma_cm_id *id, struct rdma_conn_param *how)
{
    FUZZ_ASSERT(id == &device.id && device.has[PAIR] && how->private_data);
    return answer(RDMA_CM_EVENT_ESTABLISHED, RDMA_CM_EVENT_REJECTED);
}

static int get_cm_event(struct rdma_event_channel *events, struct rdma_cm_event **event_p)
{
    FUZZ_ASSERT(events == &device.events && device.has_next);
    device.has_next = false;
    device.event.event = device.next;
    *event_p = &device.event;
    return 0;
}

static int ack_cm_event(struct rdma_cm_event *event)
{
    FUZZ_ASSERT(event == &device.event);
    return 0;
}

static const char *event_str(enum rdma_cm_event_type event)
{
    (void)event;
    return "an event";
}

static int create_qp(struct rdma_cm_id *id, struct ibv_pd *pd, struct ibv_qp_init_attr *how)
{
    FUZZ_ASSERT(id == &device.id && pd == &device.pd && how->send_cq == &device.cq);
    if (!give(PAIR, &device.pair))
        return -1;
    id->qp = &device.pair;
    return 0;
}

static void destroy_qp(struct rdma_cm_id *id)
{
    FUZZ_ASSERT(id == &device.id);
    take_back(PAIR, id->qp, &device.pair);
    id->qp = NULL;
}

/* --- Of libibverbs --------------------------------------------------------------------------- */

static int query_device(struct ibv_context *context, struct ibv_device_attr *device_p)
{
    FUZZ_ASSERT(context == &device.context);
    *device_p = (struct ibv_device_attr){.max_qp_wr = 16,
                                         .max_cqe = 16,
                                         .max_sge = 1,
                                         .max_qp_init_rd_atom = device.is_poor ? 0 : 16};
    device.has_refused |= device.is_poor;
    return refuses() ? device.os_error : 0;
}

static struct ibv_pd *alloc_pd(struct ibv_context *context)
{
    FUZZ_ASSERT(context == &device.context);
    return give(PD, &device.pd);
}

static int dealloc_pd(struct ibv_pd *pd)
{
    FUZZ_ASSERT(!device.has[MEMORY] && !device.has[PAIR]);
    return take_back(PD, pd, &device.pd);
}

static struct ibv_mr *reg_mr(struct ibv_pd *pd, void *memory, size_t bytes, int access)
{
    FUZZ_ASSERT(pd == &device.pd && memory && bytes);
    FUZZ_ASSERT(access == IBV_ACCESS_LOCAL_WRITE); /* nobody reaches us */
    return give(MEMORY, &device.memory);
}

static int dereg_mr(struct ibv_mr *memory)
{
    FUZZ_ASSERT(!device.has[PAIR]);
    return take_back(MEMORY, memory, &device.memory);
}

static struct ibv_comp_channel *create_comp_channel(struct ibv_context *context)
{
    FUZZ_ASSERT(context == &device.context);
    if (!give(BELL, &device.bell))
        return NULL;
    device.bell.fd = eventfd(0, EFD_CLOEXEC);
    return &device.bell;
}

static int destroy_comp_channel(struct ibv_comp_channel *bell)
{
    FUZZ_ASSERT(!device.has[CQ]);
    close(bell->fd);
    return take_back(BELL, bell, &device.bell);
}

static struct ibv_cq *create_cq(struct ibv_context *context, int most, void *of,
                                struct ibv_comp_channel *bell, int vector)
{
    FUZZ_ASSERT(context == &device.context && most > 0 && !of && bell == &device.bell && !vector);
    return give(CQ, &device.cq);
}

static int destroy_cq(struct ibv_cq *cq)
{
    FUZZ_ASSERT(!device.has[PAIR]);
    return take_back(CQ, cq, &device.cq);
}

static void ack_cq_events(struct ibv_cq *cq, unsigned count)
{
    FUZZ_ASSERT(cq == &device.cq && count == 0);
}

/* What is not here is not called by who makes a queue. */
const struct wr_verbs *wr_verbs_load(char why[WR_VERBS_WHY])
{
    static const struct wr_verbs verbs = {.query_device = query_device,
                                          .alloc_pd = alloc_pd,
                                          .dealloc_pd = dealloc_pd,
                                          .reg_mr = reg_mr,
                                          .dereg_mr = dereg_mr,
                                          .create_comp_channel = create_comp_channel,
                                          .destroy_comp_channel = destroy_comp_channel,
                                          .create_cq = create_cq,
                                          .destroy_cq = destroy_cq,
                                          .ack_cq_events = ack_cq_events,
                                          .create_event_channel = create_event_channel,
                                          .destroy_event_channel = destroy_event_channel,
                                          .get_cm_event = get_cm_event,
                                          .ack_cm_event = ack_cm_event,
                                          .event_str = event_str,
                                          .create_id = create_id,
                                          .destroy_id = destroy_id,
                                          .set_option = set_option,
                                          .resolve_addr = resolve_addr,
                                          .resolve_route = resolve_route,
                                          .create_qp = create_qp,
                                          .destroy_qp = destroy_qp,
                                          .connect = connect_id};

    snprintf(why, WR_VERBS_WHY, "nothing");
    return &verbs;
}

void wr_verbs_explain(int os_error, const char *what, char why[WR_VERBS_WHY])
{
    (void)os_error;
    snprintf(why, WR_VERBS_WHY, "%s", what);
}
