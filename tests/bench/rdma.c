/* SPDX-License-Identifier: MIT */

/*
 * Rdma: pages in the memory of a weir-memd by one-sided reads, beside bare reads of the same
 * device: a queue pair of our own to registered memory, with nothing above it. For a device whose
 * address is in WEIR_RDMA; in the emulator (./dev vm) times mean nothing, and their ratios
 * something.
 *
 *   miss   read() of one page as a thread that faults does it, and a bare read of 4 KiB that is
 *          looked for until it is there, in turns
 *   pages  reads of one page on a channel, as many at a time as the back end has places, beside as
 *          many bare ones, in turns of a fifth of a second
 */

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include <weir/weir_backend.h>

#include "runs.h"
#include "tests/server/server.h"
#include "transport/verbs.h"

#define DEPTH    64u
#define EVERY    16u
#define PAGES    4096u
#define TURN_NS  200000000ull
#define READS_AT 16

/* --- Bare ------------------------------------------------------------------------------------ */

struct bare {
    const struct wr_verbs *verbs;
    struct rdma_cm_id *id;
    struct ibv_cq *cq;
    struct ibv_mr *here, *there;
    char *memory; /* DEPTH pages to read into, and PAGES to read */
};

static struct rdma_cm_event *await(const struct wr_verbs *verbs, struct rdma_event_channel *events,
                                   enum rdma_cm_event_type wanted)
{
    struct rdma_cm_event *event;

    if (verbs->get_cm_event(events, &event) != 0 || event->event != wanted)
        bench_fail("bare queue pair: no %s", verbs->event_str(wanted));
    return event;
}

static void make_pair(const struct bare *bare, struct rdma_cm_id *id, struct ibv_pd *pd,
                      struct ibv_cq *cq)
{
    struct ibv_qp_init_attr how = {
        .send_cq = cq,
        .recv_cq = cq,
        .cap = {.max_send_wr = DEPTH, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1},
        .qp_type = IBV_QPT_RC};

    if (!pd || !cq || bare->verbs->create_qp(id, pd, &how) != 0)
        bench_fail("bare queue pair: %s", strerror(errno));
}

/* Both ends in this process, which ends with them. */
static void connect_bare(struct bare *bare, const char *address)
{
    const struct wr_verbs *verbs = bare->verbs;
    struct rdma_event_channel *here = verbs->create_event_channel();
    struct rdma_event_channel *there = verbs->create_event_channel();
    struct sockaddr_in to = {.sin_family = AF_INET};
    struct rdma_conn_param how = {
        .initiator_depth = READS_AT, .responder_resources = READS_AT, .retry_count = 7};
    struct rdma_cm_event *event;
    struct rdma_cm_id *door;
    struct ibv_pd *pd;

    if (inet_pton(AF_INET, address, &to.sin_addr) != 1 || !here || !there ||
        verbs->create_id(there, &door, NULL, RDMA_PS_TCP) != 0 ||
        verbs->bind_addr(door, (struct sockaddr *)&to) != 0 || verbs->listen(door, 1) != 0 ||
        verbs->create_id(here, &bare->id, NULL, RDMA_PS_TCP) != 0)
        bench_fail("bare queue pair at %s: %s", address, strerror(errno));
    to.sin_port = verbs->get_src_port(door);
    verbs->resolve_addr(bare->id, NULL, (struct sockaddr *)&to, 2000);
    verbs->ack_cm_event(await(verbs, here, RDMA_CM_EVENT_ADDR_RESOLVED));
    verbs->resolve_route(bare->id, 2000);
    verbs->ack_cm_event(await(verbs, here, RDMA_CM_EVENT_ROUTE_RESOLVED));
    pd = verbs->alloc_pd(bare->id->verbs);
    bare->cq = verbs->create_cq(bare->id->verbs, DEPTH, NULL, NULL, 0);
    make_pair(bare, bare->id, pd, bare->cq);
    verbs->connect(bare->id, &how);
    event = await(verbs, there, RDMA_CM_EVENT_CONNECT_REQUEST);
    make_pair(bare, event->id, pd, verbs->create_cq(bare->id->verbs, 2, NULL, NULL, 0));
    verbs->accept(event->id, &how);
    verbs->ack_cm_event(event);
    verbs->ack_cm_event(await(verbs, here, RDMA_CM_EVENT_ESTABLISHED));
    bare->here = verbs->reg_mr(pd, bare->memory, DEPTH * BENCH_PAGE, IBV_ACCESS_LOCAL_WRITE);
    bare->there = verbs->reg_mr(pd, bare->memory + DEPTH * BENCH_PAGE, PAGES * BENCH_PAGE,
                                IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ);
    if (!bare->here || !bare->there)
        bench_fail("bare memory: %s", strerror(errno));
}

static void open_bare(struct bare *bare, const char *address)
{
    char why[WR_VERBS_WHY];
    void *memory;

    bare->verbs = wr_verbs_load(why);
    if (!bare->verbs)
        bench_fail("%s", why);
    if (posix_memalign(&memory, BENCH_PAGE, (DEPTH + PAGES) * BENCH_PAGE) != 0)
        bench_fail("out of memory");
    memset(memory, 1, (DEPTH + PAGES) * BENCH_PAGE);
    bare->memory = memory;
    connect_bare(bare, address);
}

static void post_bare(const struct bare *bare, uint64_t number, uint64_t page, bool is_signalled)
{
    char *place = bare->memory + number % DEPTH * BENCH_PAGE;
    struct ibv_sge sge = {.addr = (uintptr_t)place, .length = BENCH_PAGE, .lkey = bare->here->lkey};
    struct ibv_send_wr wr = {.wr_id = number,
                             .sg_list = &sge,
                             .num_sge = 1,
                             .opcode = IBV_WR_RDMA_READ,
                             .send_flags = is_signalled ? IBV_SEND_SIGNALED : 0},
                       *bad;

    wr.wr.rdma.remote_addr = (uintptr_t)bare->there->addr + page * BENCH_PAGE;
    wr.wr.rdma.rkey = bare->there->rkey;
    if (ibv_post_send(bare->id->qp, &wr, &bad) != 0)
        bench_fail("bare read: %s", strerror(errno));
}

/* How many were taken; the number of the last. */
static int take_bare(const struct bare *bare, uint64_t *number_p)
{
    struct ibv_wc done[EVERY];
    int count = ibv_poll_cq(bare->cq, EVERY, done);

    for (int i = 0; i < count; i++) {
        if (done[i].status != IBV_WC_SUCCESS)
            bench_fail("bare read: status %d", (int)done[i].status);
        *number_p = done[i].wr_id;
    }
    return count;
}

static uint64_t read_bare(const struct bare *bare, uint64_t page)
{
    const uint64_t begun = bench_now_ns();
    uint64_t number;

    post_bare(bare, 0, page, true);
    while (take_bare(bare, &number) == 0)
        ;
    return bench_now_ns() - begun;
}

/* Pages, for a turn. */
static uint64_t stream_bare(const struct bare *bare, uint64_t *random, uint64_t *ns_p)
{
    const uint64_t begun = bench_now_ns();
    uint64_t posted = 0, done = 0, number;
    bool is_over = false;

    while (!is_over || done < posted) {
        while (!is_over && posted < done + DEPTH) {
            post_bare(bare, posted, bench_draw(random) % PAGES, posted % EVERY == EVERY - 1);
            posted++;
        }
        if (take_bare(bare, &number) > 0)
            done = number + 1;
        is_over = is_over || (bench_now_ns() - begun > TURN_NS && posted % EVERY == 0);
    }
    *ns_p += bench_now_ns() - begun;
    return done;
}

/* --- Weir ------------------------------------------------------------------------------------ */

struct weir_side {
    struct weir_backend *backend;
    struct weir_channel *channel;
    struct weir_io ios[DEPTH];
    struct iovec iov[DEPTH];
    struct weir_io *idle[DEPTH];
    uint32_t idle_count;
    char *memory;
};

static void tell(void *context, int severity, int error, int os_error, const char *text)
{
    (void)context;
    (void)error;
    (void)os_error;
    fprintf(stderr, "%d: %s\n", severity, text);
}

static const struct weir_backend_env env = {.tell = tell};

static void is_done(struct weir_io *io)
{
    struct weir_side *side = io->owner;

    if (io->error)
        bench_fail("read on a channel: error %d", io->error);
    side->idle[side->idle_count++] = io;
}

static void poll_side(struct weir_side *side)
{
    struct pollfd wait = {.fd = side->backend->ops->wait_fd(side->channel), .events = POLLIN};

    if (side->backend->ops->poll(side->channel, DEPTH) == 0)
        poll(&wait, 1, 1000);
}

static uint64_t stream_weir(struct weir_side *side, uint64_t *random, uint64_t *ns_p)
{
    const uint64_t begun = bench_now_ns();
    uint64_t count = 0;

    while (bench_now_ns() - begun < TURN_NS || side->idle_count < DEPTH) {
        const uint32_t wanted = bench_now_ns() - begun < TURN_NS ? side->idle_count : 0;
        uint32_t taken;

        for (uint32_t i = 0; i < wanted; i++)
            side->idle[i]->slot = bench_draw(random) % PAGES;
        taken = wanted ? side->backend->ops->submit(side->channel, side->idle, wanted) : 0;
        count += taken;
        side->idle_count -= taken;
        memmove(side->idle, side->idle + taken, side->idle_count * sizeof(side->idle[0]));
        poll_side(side);
    }
    *ns_p += bench_now_ns() - begun;
    return count;
}

static void fill_weir(struct weir_side *side)
{
    for (uint32_t i = 0; i < PAGES; i++) {
        struct weir_io *io = side->idle[--side->idle_count];

        io->is_write = 1;
        io->slot = i;
        if (side->backend->ops->submit(side->channel, &io, 1) != 1)
            bench_fail("the channel takes nothing");
        while (side->idle_count < DEPTH)
            poll_side(side);
        side->ios[io - side->ios].is_write = 0;
    }
}

static void open_weir(struct weir_side *side, const char *spec)
{
    void *memory;

    if (weir_backend_open(spec, &env, &side->backend) != WEIR_OK ||
        side->backend->ops->channel_open(side->backend, DEPTH, &side->channel) != WEIR_OK ||
        posix_memalign(&memory, BENCH_PAGE, DEPTH * BENCH_PAGE) != 0)
        bench_fail("%s cannot be opened", spec);
    side->memory = memory;
    memset(memory, 1, DEPTH * BENCH_PAGE);
    for (uint32_t i = 0; i < DEPTH; i++) {
        side->iov[i] = (struct iovec){side->memory + i * BENCH_PAGE, BENCH_PAGE};
        side->ios[i] = (struct weir_io){
            .pages = 1, .iov = &side->iov[i], .iov_count = 1, .done = is_done, .owner = side};
        side->idle[side->idle_count++] = &side->ios[i];
    }
    fill_weir(side);
}

/* rdma: spec= address= samples= turns= -> p50 p99 bare_p50 bare_p99 rate bare_rate */
void bench_run_rdma(void)
{
    static struct bench_histogram weir, plain;
    static struct weir_side side;
    const uint64_t samples = bench_argument("samples", 0), turns = bench_argument("turns", 0);
    uint64_t random = 7, pages = 0, bare_pages = 0, ns = 0, bare_ns = 0;
    struct bare bare;

    open_bare(&bare, bench_argument_text("address", ""));
    open_weir(&side, bench_argument_text("spec", ""));
    for (uint64_t i = 0; i < samples; i++) {
        const uint64_t begun = bench_now_ns();

        if (side.backend->ops->read(side.backend, bench_draw(&random) % PAGES, 1, side.memory))
            bench_fail("a page cannot be read");
        bench_histogram_add(&weir, bench_now_ns() - begun);
        bench_histogram_add(&plain, read_bare(&bare, bench_draw(&random) % PAGES));
    }
    for (uint64_t i = 0; i < turns; i++) {
        pages += stream_weir(&side, &random, &ns);
        bare_pages += stream_bare(&bare, &random, &bare_ns);
    }
    bench_tell("p50", bench_histogram_us(&weir, 0.5));
    bench_tell("p99", bench_histogram_us(&weir, 0.99));
    bench_tell("bare_p50", bench_histogram_us(&plain, 0.5));
    bench_tell("bare_p99", bench_histogram_us(&plain, 0.99));
    bench_tell("rate", (double)pages * 1e9 / (double)ns);
    bench_tell("bare_rate", (double)bare_pages * 1e9 / (double)bare_ns);
    side.backend->ops->channel_close(side.channel);
    side.backend->ops->close(side.backend);
}

/* --- The bench ------------------------------------------------------------------------------- */

bool bench_drive_rdma(struct bench *bench)
{
    static const char *const metrics[] = {"p50", "p99", "rate"};
    static const char *const bares[] = {"bare_p50", "bare_p99", "bare_rate"};
    static const char *const goals[] = {"ratio >= 0.77", NULL, "ratio >= 0.8"};
    static struct bench_side side;
    const char *address = getenv("WEIR_RDMA");
    char place[100], key_path[300];
    struct server server;
    bool is_well;

    if (!address) {
        fprintf(stderr, "bench rdma: set WEIR_RDMA to the address of an RDMA device; in ./dev vm "
                        "it is 10.77.0.1. Nothing was measured\n");
        return true;
    }
    snprintf(place, sizeof(place), "rdma://%s:0", address);
    snprintf(key_path, sizeof(key_path), "%s/key", bench->dir);
    bench_undo("unlink", key_path);
    if (server_start_at(place, key_path, 64 * BENCH_MIB, &server) != 0)
        bench_fail("no memory server at %s", place);
    bench_side_init(&side, "weir", "rdma",
                    "address=%s samples=%u turns=%u spec=rdma://%s:%u?size=16M&key=%s", address,
                    bench->is_quick ? 500 : 5000, bench->is_quick ? 3 : 15, address, server.port,
                    key_path);
    is_well = bench_rounds(bench, &side, 1, bench->is_quick ? 1 : 3);
    for (int i = 0; i < 3 && is_well; i++)
        bench_print(bench, &(struct bench_line){
                               .point = i < 2 ? "read() of a page" : "reads of a page on a channel",
                               .metric = metrics[i],
                               .unit = i < 2 ? "us" : "pages/s",
                               .better = i < 2 ? BENCH_LOWER : BENCH_HIGHER,
                               .weir = bench_series(&side, metrics[i]),
                               .baseline = bench_series(&side, bares[i]),
                               .baseline_name = "bare RDMA READ of 4 KiB on the same device",
                               .goal = goals[i],
                           });
    server_end(&server);
    return is_well;
}
