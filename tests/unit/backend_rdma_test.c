/* SPDX-License-Identifier: MIT */

/*
 * rdma: what needs no device; and, where a device has the address in WEIR_RDMA (./dev vm), a client
 * of a memory server in this process, lines that are cut, a server that begins anew, and clients
 * that want what is not theirs.
 */

#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/backend_kit.h"
#include "transport/memd/memd.h"
#include "transport/rdma.h"

#define SLOTS         1024u
#define OPTIONS       "size=4m&patience=60&timeout=2"
#define FIRST_CHANNEL (1 + WR_TCP_SEATS) /* its line's number */

static struct memd *memd;
static struct wr_key key;
static const char *key_file;
static char log_text[16384];

static const char *address(void)
{
    return getenv("WEIR_RDMA");
}

static void write_log(void *context, const char *line)
{
    const size_t used = strlen(log_text);

    (void)context;
    snprintf(log_text + used, sizeof(log_text) - used, "%s\n", line);
}

static void make_key(void)
{
    char bytes[WR_KEY_BYTES];
    const char *why;
    int fd;

    cr_assert(wr_session_begin());
    memset(bytes, 'k', sizeof(bytes));
    key_file = kit_text("%s/key", kit_directory());
    fd = open(key_file, O_CREAT | O_WRONLY, 0600);
    cr_assert_eq(write(fd, bytes, sizeof(bytes)), (ssize_t)sizeof(bytes));
    close(fd);
    cr_assert_eq(wr_key_read(key_file, &key, &why), WEIR_OK);
}

static int start(const char *place)
{
    const struct memd_options options = {.listen = &place,
                                         .listen_count = 1,
                                         .key = &key,
                                         .limits = {.memory = 64 << 20, .lease_ms = 60000},
                                         .threads = 2,
                                         .log = write_log};

    return memd_open(&options, &memd);
}

static const char *spec_of(uint16_t port, const char *options)
{
    return kit_text("rdma://%s:%u?key=%s&%s", address(), port, key_file, options);
}

/* A server, and a back end there. */
static struct weir_backend *open_both(void)
{
    if (!address())
        cr_skip_test("WEIR_RDMA has the address of no RDMA device");
    make_key();
    cr_assert_eq(start(kit_text("rdma://%s:0", address())), WEIR_OK, "%s", log_text);
    return kit_open(spec_of(memd_port(memd, 0), OPTIONS), WEIR_OK);
}

static struct wr_rdma_queue *queue_of(struct weir_backend *backend)
{
    return ((struct wr_tcp *)backend)->seats[0].line.queue;
}

static bool reads_as(struct weir_backend *backend, uint64_t slot, int fill)
{
    unsigned char *bytes = kit_pages(1, 0);
    bool is_well = backend->ops->read(backend, slot, 1, bytes) == WEIR_OK &&
                   kit_is_filled(bytes, WEIR_SLOT_BYTES, fill);

    free(bytes);
    return is_well;
}

/* One work of a page, done by hand. Has it come to pass? */
static bool comes_to_pass(struct wr_rdma_queue *queue, uint64_t slot, bool is_write)
{
    const struct wr_rdma_work work = {
        .slot = slot, .pages = 1, .is_write = is_write, .is_signalled = true};
    uint64_t number;
    int count = 0;

    memset(wr_rdma_place(queue, 0), '!', WEIR_SLOT_BYTES);
    cr_assert(wr_rdma_post(queue, &work, 1));
    while (count == 0)
        count = wr_rdma_take(queue, &number);
    return count > 0;
}

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
    make_key();
    kit_open(kit_text("rdma://127.0.0.1:9?key=%s", key_file), WEIR_ENOSUPPORT);
    cr_expect(strstr(kit_told.text, "rdma: ") && strstr(kit_told.text, why), "%s", kit_told.text);
    cr_expect_eq(start("rdma://127.0.0.1:0"), WEIR_ENOSUPPORT);
    cr_expect(strstr(log_text, why), "%s", log_text);
}

Test(backend_rdma, a_specification_that_is_none_is_refused)
{
    make_key();
    kit_open(kit_text("rdma:somewhere?key=%s", key_file), WEIR_EINVAL);
    cr_expect(strstr(kit_told.text, "write rdma://host:7070"), "%s", kit_told.text);
    kit_open(kit_text("rdma://127.0.0.1:9?key=%s&depth=7", key_file), WEIR_EINVAL);
}

/* What a client asks of a server that has no RDMA, on a line as any other. */
Test(backend_rdma, a_server_without_it_refuses, .timeout = 60)
{
    struct wr_message join = {.type = WR_MESSAGE_JOIN}, locate = {.type = WR_MESSAGE_LOCATE};
    struct wr_message lease = {.type = WR_MESSAGE_LEASE, .count = 1}, answer;
    struct wr_line_target target = {.host = "127.0.0.1", .key = &key};
    char why[WR_WHY_ROOM] = "", name[WR_NAME_BYTES];
    const uint64_t deadline = wr_line_now_ns() + 30000000000ull;
    struct wr_line line;

    make_key();
    cr_assert_eq(start("tcp://127.0.0.1:0"), WEIR_OK);
    target.port = kit_text("%u", memd_port(memd, 0));
    cr_assert_eq(wr_line_open(&line, &target, 30000000000ull, why), WEIR_OK, "%s", why);
    cr_assert_eq(wr_line_ask(&line, &lease, NULL, &answer, name, sizeof(name), deadline), WEIR_OK);
    cr_assert_eq(wr_line_ask(&line, &join, NULL, &answer, NULL, 0, deadline), WEIR_OK);
    cr_expect_eq(answer.type, WR_MESSAGE_REFUSED);
    cr_expect_eq(wr_message_error(&answer), WEIR_ENOSUPPORT);
    cr_assert_eq(wr_line_ask(&line, &locate, NULL, &answer, NULL, 0, deadline), WEIR_OK);
    cr_expect_eq(answer.type, WR_MESSAGE_REFUSED);
    wr_line_close(&line);
    wr_line_forget(&target);
    memd_close(memd);
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
    struct wr_line_target target = cutter->tcp->target;
    struct wr_message attach = {.type = WR_MESSAGE_ATTACH, .length = WR_NAME_BYTES, .slot = number};
    const uint64_t deadline = wr_line_now_ns() + 30000000000ull;
    struct wr_message answer;
    char why[WR_WHY_ROOM];
    struct wr_line line;

    target.found = NULL;
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
    struct weir_backend *backend = open_both();
    struct weir_channel *channel = kit_channel(backend, 16);
    struct cutter cutter = {.tcp = (struct wr_tcp *)backend};
    uint32_t rounds = 0;
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, cut_now_and_then, &cutter), 0);
    for (const uint64_t end = wr_line_now_ns() + 6000000000ull;
         wr_line_now_ns() < end || rounds < 5; rounds++) {
        const int fill = 1 + (int)(rounds % 200);
        const uint64_t slot = rounds * 37 % (SLOTS - 48);
        int os_error = 0;

        cr_assert_eq(kit_write(channel, slot, 48, fill, &os_error), WEIR_OK);
        cr_assert(reads_as(backend, slot, fill), "round %u", rounds);
        cr_assert(reads_as(backend, slot + 47, fill), "round %u", rounds);
    }
    atomic_store(&cutter.stop, true);
    pthread_join(thread, NULL);
    cr_expect_gt(cutter.cuts, 2);
    cr_expect_eq(kit_told.error == WEIR_EIO && strstr(kit_told.text, "lost"), 0);
    channel->backend->ops->channel_close(channel);
    kit_close(backend);
    memd_close(memd);
}

/* --- A server that begins anew --------------------------------------------------------------- */

Test(backend_rdma, what_was_lost_is_never_read_again, .timeout = 240)
{
    struct weir_backend *backend = open_both();
    struct weir_channel *channel = kit_channel(backend, 4);
    const uint16_t port = memd_port(memd, 0);
    unsigned char *bytes = kit_pages(1, 7);
    int os_error;

    cr_assert_eq(kit_write(channel, 0, 512, 7, NULL), WEIR_OK);
    cr_assert(reads_as(backend, 3, 7));
    memd_close(memd);
    cr_assert_eq(start(kit_text("rdma://%s:%u", address(), port)), WEIR_OK, "%s", log_text);
    cr_expect_eq(backend->ops->read(backend, 3, 1, bytes), WEIR_EIO);
    cr_expect(kit_has_heard("started again"), "%s", kit_told.text);
    cr_expect_eq(kit_write(channel, 3, 1, 8, &os_error), WEIR_EIO);
    cr_expect_eq(backend->ops->read(backend, 3, 1, bytes), WEIR_EIO);
    free(bytes);
    channel->backend->ops->channel_close(channel);
    kit_close(backend);
    memd_close(memd);
}

/* --- Strangers and liars --------------------------------------------------------------------- */

/* Who has the key and a lease asks for the memory of another, by its own address and key, and for
 * what lies behind its own; first by reading, then by writing. */
Test(backend_rdma, nobody_reaches_the_memory_of_another, .timeout = 240)
{
    struct weir_backend *victim = open_both();
    struct weir_backend *liar = kit_open(spec_of(memd_port(memd, 0), OPTIONS), WEIR_OK);
    struct weir_channel *channel = kit_channel(victim, 4), *other = kit_channel(liar, 4);
    const struct wr_rdma_queue theirs = *queue_of(victim);
    struct wr_seat *seat = &((struct wr_tcp *)liar)->seats[0];

    cr_assert_eq(kit_write(channel, 0, 16, 'v', NULL), WEIR_OK);
    cr_assert_eq(kit_write(other, 0, 16, 'l', NULL), WEIR_OK);
    for (int way = 0; way < 6; way++) {
        struct wr_rdma_queue *queue = queue_of(liar);
        const uint64_t slot = way % 3 == 2 ? SLOTS : 0;

        if (way % 3 < 2)
            queue->base = theirs.base;
        if (way % 3 < 1)
            queue->key = theirs.key;
        cr_expect_not(comes_to_pass(queue, slot, way >= 3), "way %d", way);
        cr_expect(kit_is_filled((unsigned char *)wr_rdma_place(queue, 0), WEIR_SLOT_BYTES, '!'));
        /* Whoever sits there next finds it broken, and the keeper brings another. */
        cr_expect(reads_as(liar, 3, 'l'), "way %d", way);
        for (int i = 0; i < 3000 && atomic_load(&seat->state) != WR_SEAT_FREE; i++)
            usleep(10000);
    }
    cr_expect(reads_as(victim, 0, 'v'));
    cr_expect(reads_as(victim, 15, 'v'));
    channel->backend->ops->channel_close(channel);
    other->backend->ops->channel_close(other);
    kit_close(liar);
    kit_close(victim);
    memd_close(memd);
}
