/* SPDX-License-Identifier: MIT */

/*
 * rdma: what needs no device; and, where there is one, a client of a memory server, lines that are
 * cut, a server that stands still, or is deaf, or begins anew.
 */

#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/server/server.h"
#include "tests/unit/rdma_kit.h"

#define FIRST_CHANNEL (1 + WR_TCP_SEATS) /* its line's number */

/* --- Without a device ------------------------------------------------------------------------ */

Test(backend_rdma, sizes_are_what_a_device_has)
{
    struct ibv_device_attr device = {
        .max_qp_wr = 16384, .max_cqe = 32768, .max_qp_init_rd_atom = 128, .max_sge = 32};
    struct wr_rdma_sizes sizes;

    cr_assert(wr_rdma_size(&device, 1000, &sizes));
    cr_expect_eq(sizes.places, WR_RDMA_PLACES);
    cr_expect_eq(sizes.signal_every, WR_RDMA_PLACES / 4);
    cr_expect_leq(sizes.reads, 128);
    cr_assert(wr_rdma_size(&device, 1, &sizes));
    cr_expect_eq(sizes.places, 1);
    cr_expect_eq(sizes.signal_every, 1);
    device.max_cqe = 10;
    device.max_qp_init_rd_atom = 4;
    cr_assert(wr_rdma_size(&device, 1000, &sizes));
    cr_expect_eq(sizes.places, 10);
    cr_expect_leq(sizes.signal_every, 10);
    cr_expect_eq(sizes.reads, 4);
    device.max_qp_init_rd_atom = 0;
    cr_expect_not(wr_rdma_size(&device, 1000, &sizes), "it cannot read");
}

Test(backend_rdma, a_machine_without_it_is_told)
{
    char why[WR_VERBS_WHY];

    if (wr_verbs_load(why))
        cr_skip_test("this machine has a device");
    rdma_make_key();
    kit_open(kit_text("rdma://127.0.0.1:9?key=%s", rdma_key_file), WEIR_ENOSUPPORT);
    cr_expect(strstr(kit_told.text, "rdma: ") && strstr(kit_told.text, why), "%s", kit_told.text);
    cr_expect_eq(rdma_start("rdma://127.0.0.1:0", 64 << 20, 60000), WEIR_ENOSUPPORT);
    cr_expect(strstr(rdma_log, why), "%s", rdma_log);
}

Test(backend_rdma, a_specification_that_is_none_is_refused)
{
    rdma_make_key();
    kit_open(kit_text("rdma:somewhere?key=%s", rdma_key_file), WEIR_EINVAL);
    cr_expect(strstr(kit_told.text, "write rdma://host:7070"), "%s", kit_told.text);
    kit_open(kit_text("rdma://127.0.0.1:9?key=%s&depth=7", rdma_key_file), WEIR_EINVAL);
}

/* What a client asks of a server that has no RDMA, on a line as any other. */
Test(backend_rdma, a_server_without_it_refuses, .timeout = 60)
{
    struct wr_message join = {.type = WR_MESSAGE_JOIN}, locate = {.type = WR_MESSAGE_LOCATE};
    struct wr_message lease = {.type = WR_MESSAGE_LEASE, .count = 1}, answer;
    struct wr_line_target target = {.host = "127.0.0.1", .key = &rdma_key};
    char why[WR_WHY_ROOM] = "", name[WR_NAME_BYTES];
    const uint64_t deadline = wr_line_now_ns() + 30000000000ull;
    struct wr_line line;

    rdma_make_key();
    cr_assert_eq(rdma_start("tcp://127.0.0.1:0", 64 << 20, 60000), WEIR_OK);
    target.port = kit_text("%u", memd_port(rdma_memd, 0));
    cr_assert_eq(wr_line_open(&line, &target, 30000000000ull, why), WEIR_OK, "%s", why);
    cr_assert_eq(wr_line_ask(&line, &lease, NULL, &answer, name, sizeof(name), deadline), WEIR_OK);
    cr_assert_eq(wr_line_ask(&line, &join, NULL, &answer, NULL, 0, deadline), WEIR_OK);
    cr_expect_eq(answer.type, WR_MESSAGE_REFUSED);
    cr_expect_eq(wr_message_error(&answer), WEIR_ENOSUPPORT);
    cr_assert_eq(wr_line_ask(&line, &locate, NULL, &answer, NULL, 0, deadline), WEIR_OK);
    cr_expect_eq(answer.type, WR_MESSAGE_REFUSED);
    wr_line_close(&line);
    wr_line_forget(&target);
    memd_close(rdma_memd);
}

/* --- Lines that are cut ---------------------------------------------------------------------- */

struct cutter {
    struct wr_tcp *tcp;
    _Atomic(bool) stop;
    uint32_t cuts;
};

/* Take the number of a line, as its client would who has lost it: the server ends the queue pair.
 */
static void cut(struct cutter *cutter, uint64_t number)
{
    const struct wr_line_target *theirs = &cutter->tcp->target;
    /* The rest is the keeper's. */
    struct wr_line_target target = {.host = theirs->host, .port = theirs->port, .key = theirs->key};
    struct wr_message attach = {.type = WR_MESSAGE_ATTACH, .length = WR_NAME_BYTES, .slot = number};
    const uint64_t deadline = wr_line_now_ns() + 30000000000ull;
    struct wr_message answer;
    char why[WR_WHY_ROOM];
    struct wr_line line;

    memcpy(target.client, theirs->client, sizeof(target.client));
    if (wr_line_open(&line, &target, 30000000000ull, why) == WEIR_OK) {
        cutter->cuts += wr_line_ask(&line, &attach, cutter->tcp->lease, &answer, NULL, 0,
                                    deadline) == WEIR_OK &&
                        answer.type == WR_MESSAGE_ATTACHED;
        wr_line_close(&line);
    }
    wr_line_forget(&target);
}

static void *cut_now_and_then(void *context)
{
    struct cutter *cutter = context;

    for (uint32_t i = 0; !atomic_load(&cutter->stop); i++) {
        cut(cutter, i % 2 ? 1 : FIRST_CHANNEL);
        usleep(300000);
    }
    return NULL;
}

Test(backend_rdma, what_is_asked_outlives_the_queue_pair, .timeout = 240)
{
    struct weir_backend *backend = rdma_open_both();
    struct weir_channel *channel = kit_channel(backend, 16);
    struct cutter cutter = {.tcp = (struct wr_tcp *)backend};
    uint32_t rounds = 0;
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, cut_now_and_then, &cutter), 0);
    for (const uint64_t end = wr_line_now_ns() + 3000000000ull;
         wr_line_now_ns() < end || rounds < 5; rounds++) {
        const int fill = 1 + (int)(rounds % 200);
        const uint64_t slot = rounds * 37 % (RDMA_SLOTS - 48);
        int os_error = 0;

        cr_assert_eq(kit_write(channel, slot, 48, fill, &os_error), WEIR_OK);
        cr_assert(kit_holds(backend, slot, 1, fill), "round %u", rounds);
        cr_assert(kit_holds(backend, slot + 47, 1, fill), "round %u", rounds);
    }
    atomic_store(&cutter.stop, true);
    pthread_join(thread, NULL);
    cr_expect_gt(cutter.cuts, 2);
    cr_expect_eq(kit_told.error == WEIR_EIO && strstr(kit_told.text, "lost"), 0);
    channel->backend->ops->channel_close(channel);
    kit_close(backend);
    memd_close(rdma_memd);
}

/* --- A server that begins anew --------------------------------------------------------------- */

Test(backend_rdma, what_was_lost_is_never_read_again, .timeout = 240)
{
    struct weir_backend *backend = rdma_open_both();
    struct weir_channel *channel = kit_channel(backend, 4);
    const uint16_t port = memd_port(rdma_memd, 0);
    unsigned char *bytes = kit_pages(1, 7);
    int os_error;

    cr_assert_eq(kit_write(channel, 0, 512, 7, NULL), WEIR_OK);
    cr_assert(kit_holds(backend, 3, 1, 7));
    memd_close(rdma_memd);
    cr_assert_eq(rdma_start(kit_text("rdma://%s:%u", rdma_address(), port), 64 << 20, 60000),
                 WEIR_OK, "%s", rdma_log);
    cr_expect_eq(backend->ops->read(backend, 3, 1, bytes), WEIR_EIO);
    cr_expect(kit_has_heard("started again"), "%s", kit_told.text);
    cr_expect_eq(kit_write(channel, 3, 1, 8, &os_error), WEIR_EIO);
    cr_expect_eq(backend->ops->read(backend, 3, 1, bytes), WEIR_EIO);
    free(bytes);
    channel->backend->ops->channel_close(channel);
    kit_close(backend);
    memd_close(rdma_memd);
}

/* --- A device that is deaf -------------------------------------------------------------------- */

static void write_and_part(struct weir_backend *backend)
{
    struct weir_channel *channel = kit_channel(backend, 4);

    cr_assert_eq(kit_write(channel, 0, 16, 'r', NULL), WEIR_OK);
    backend->ops->channel_close(channel);
}

/* Queue pairs have no answer, and each waits for it for much longer than the lease is. It is
 * renewed all the same, and what has a queue pair goes on. */
Test(backend_rdma, the_lease_is_renewed_while_queue_pairs_wait, .timeout = 240)
{
    struct weir_backend *backend;
    struct cutter cutter = {.cuts = 0};
    struct memd_gauges gauges;

    rdma_deafen(false);
    rdma_serve(64 << 20, 3000);
    backend = kit_open(rdma_spec(memd_port(rdma_memd, 0), "size=4m&patience=100&timeout=60"),
                       WEIR_OK);
    write_and_part(backend);
    cutter.tcp = (struct wr_tcp *)backend;
    rdma_deafen(true);
    cut(&cutter, 1);
    cr_expect_eq(cutter.cuts, 1);
    for (const uint64_t end = wr_line_now_ns() + 5000000000ull; wr_line_now_ns() < end;
         usleep(100000))
        cr_assert(kit_holds(backend, 3, 8, 'r'), "%s", kit_told.text);
    memd_measure(rdma_memd, &gauges);
    cr_expect_eq(gauges.leases, 1);
    rdma_deafen(false);
    kit_close(backend);
    memd_close(rdma_memd);
}

/* --- A server that stands still --------------------------------------------------------------- */

/* A write of it, as often as it is put off: until it ends otherwise, or for a minute. Is it as
 * wanted then? */
static bool ends_with(struct weir_channel *channel, uint64_t slot, int fill, int wanted)
{
    const uint64_t end = wr_line_now_ns() + 60000000000ull;
    int error;

    do {
        error = kit_write(channel, slot, 1, fill, NULL);
        usleep(50000);
    } while (error != wanted && (error == WEIR_OK || error == WEIR_EAGAIN) &&
             wr_line_now_ns() < end);
    return error == wanted;
}

struct late {
    struct weir_backend *backend;
    _Atomic(bool) is_well, is_done;
};

static void *read_late(void *context)
{
    struct late *late = context;

    atomic_store(&late->is_well, kit_holds(late->backend, 500, 8, 'r'));
    atomic_store(&late->is_done, true);
    return NULL;
}

/* Its card would go on; but who does not renew the lease cannot know for how long. Who can write
 * elsewhere is told soon that he should, who reads waits, and in the end all is as it was written.
 */
Test(backend_rdma, writes_are_put_off_while_the_server_stands_still, .timeout = 240)
{
    struct weir_backend_env env = kit_env;
    struct late late = {.is_done = false};
    struct weir_channel *channel;
    struct server server;
    pthread_t reader;

    rdma_want_real();
    rdma_key_file = kit_text("%s/key", kit_directory());
    cr_assert_eq(
        server_start_at(kit_text("rdma://%s:0", rdma_address()), rdma_key_file, 64 << 20, &server),
        0);
    env.flags = WEIR_ENV_PUTS_OFF;
    cr_assert_eq(weir_backend_open(rdma_spec(server.port, "size=4m&patience=200&timeout=1"), &env,
                                   &late.backend),
                 WEIR_OK, "%s", kit_told.text);
    channel = kit_channel(late.backend, 8);
    cr_assert_eq(kit_write(channel, 500, 8, 'r', NULL), WEIR_OK);
    cr_assert_eq(kill(server.process, SIGSTOP), 0);
    cr_expect(ends_with(channel, 3, 'o', WEIR_EAGAIN));
    cr_expect_eq(kit_write(channel, 4, 1, 'o', NULL), WEIR_EAGAIN, "at once");
    cr_expect(kit_has_heard("does not answer"));
    cr_assert_eq(pthread_create(&reader, NULL, read_late, &late), 0);
    usleep(200000);
    cr_expect_not(atomic_load(&late.is_done), "there is nobody who could be asked");
    cr_assert_eq(kill(server.process, SIGCONT), 0);
    pthread_join(reader, NULL);
    cr_expect(atomic_load(&late.is_well));
    cr_expect(kit_has_heard("answers again"));
    cr_expect(ends_with(channel, 3, 'n', WEIR_OK));
    usleep(200000);
    cr_expect(kit_holds(late.backend, 3, 1, 'n'));
    channel->backend->ops->channel_close(channel);
    kit_close(late.backend);
    server_end(&server);
}
