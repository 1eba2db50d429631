/* SPDX-License-Identifier: MIT */

/* tcp's keeper, where lines cannot be opened as they break: nobody waits for ever, no lease is
 * over, nothing that was sent before comes to pass after. */

#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/backend_kit.h"
#include "tests/unit/proxy.h"
#include "transport/memd/memd.h"
#include "transport/tcp.h"

#define SLOTS 1024u

static struct memd *memd;
static struct proxy *proxy;
static struct wr_key key;
static const char *key_file;

/* --- The stage ------------------------------------------------------------------------------- */

static void open_server(uint32_t lease_ms, uint32_t connections)
{
    const char *const listen[] = {"tcp://127.0.0.1:0"};
    const struct memd_options options = {.listen = listen,
                                         .listen_count = 1,
                                         .key = &key,
                                         .limits = {.memory = 64 << 20, .lease_ms = lease_ms},
                                         .room = {.connections = connections},
                                         .threads = 2};
    char bytes[WR_KEY_BYTES];
    const char *why;
    int fd;

    cr_assert(wr_session_begin());
    key_file = kit_text("%s/key", kit_directory());
    memset(bytes, 'k', sizeof(bytes));
    fd = open(key_file, O_CREAT | O_WRONLY | O_TRUNC, 0600);
    cr_assert_eq(write(fd, bytes, sizeof(bytes)), (ssize_t)sizeof(bytes));
    close(fd);
    cr_assert_eq(wr_key_read(key_file, &key, &why), WEIR_OK);
    cr_assert_eq(memd_open(&options, &memd), WEIR_OK);
    proxy = proxy_open(memd_port(memd, 0));
}

static void close_server(void)
{
    proxy_close(proxy);
    memd_close(memd);
}

static struct weir_backend *open_by(uint16_t port, const char *options, int expected)
{
    return kit_open(kit_text("tcp://127.0.0.1:%d?size=4m&key=%s&%s", port, key_file, options),
                    expected);
}

static struct wr_tcp *tcp_of(struct weir_backend *backend)
{
    return (struct wr_tcp *)backend;
}

static struct memd_gauges gauges(void)
{
    struct memd_gauges now;

    memd_measure(memd, &now);
    return now;
}

/* Within a minute. */
static bool comes(bool (*is_so)(struct weir_backend *), struct weir_backend *backend)
{
    for (int i = 0; i < 6000 && !is_so(backend); i++)
        usleep(10000);
    return is_so(backend);
}

static void write_version(struct weir_channel *channel, uint64_t slot, int version)
{
    int error = WEIR_EIO;

    for (int i = 0; i < 60 && error == WEIR_EIO; i++)
        error = kit_write(channel, slot, 1, version, NULL);
    cr_assert_eq(error, WEIR_OK, "slot %lu", slot);
}

static bool has_seats(struct weir_backend *backend)
{
    for (uint32_t i = 0; i < 8; i++)
        if (atomic_load(&tcp_of(backend)->seats[i].state) != WR_SEAT_FREE)
            return false;
    return true;
}

static bool is_unsure(struct weir_backend *backend)
{
    return atomic_load(&tcp_of(backend)->unsure) > 0;
}

static bool is_sure(struct weir_backend *backend)
{
    return !is_unsure(backend);
}

/* --- Lines that cannot be opened ------------------------------------------------------------- */

/*
 * A channel breaks with a write on its way, and no connection can be opened in its place. The
 * keeper's own line is well: it is used to end the broken one, and others write on. Before, they
 * would have waited for a connection, for ever.
 */
Test(tcp_keeper, a_line_is_ended_though_none_can_be_opened, .timeout = 120)
{
    struct weir_backend *backend;
    struct weir_channel *channel, *other;
    uint32_t pairs;

    open_server(60000, 0);
    backend = open_by(proxy_port(proxy), "patience=1&timeout=1", WEIR_OK);
    other = kit_channel(backend, 8);
    write_version(other, 6, 1);
    cr_assert(kit_holds(backend, 6, 1, 1));
    pairs = proxy_pairs(proxy);
    cr_assert_eq(pairs, 4, "control, two seats, a channel: %u", pairs);
    channel = kit_channel(backend, 8);
    write_version(channel, 5, 1);
    proxy_spare(proxy, pairs);
    proxy_stall(proxy);
    proxy_shut(proxy, 1);
    cr_expect_eq(kit_write(channel, 5, 1, 2, NULL), WEIR_EIO, "its patience is over");
    write_version(other, 5, 3);
    cr_expect(is_sure(backend));
    proxy_release(proxy); /* the write that failed arrives */
    usleep(200000);
    cr_expect(kit_holds(backend, 5, 1, 3));
    cr_expect_not(atomic_load(&tcp_of(backend)->is_away));
    backend->ops->channel_close(channel);
    backend->ops->channel_close(other);
    kit_close(backend);
    close_server();
}

/* An idle line that ends does not wake its thread for ever, though what is to be sent on it has to
 * wait: another line is opened. */
Test(tcp_keeper, the_end_of_an_idle_line_is_seen, .timeout = 60)
{
    unsigned char *page = kit_pages(1, 2);
    struct weir_backend *backend;
    struct weir_channel *channel;
    struct weir_io io, *ios[] = {&io};
    struct iovec iov;
    uint64_t accepted;
    uint32_t polls = 0;

    open_server(60000, 0);
    backend = open_by(proxy_port(proxy), "patience=100", WEIR_OK);
    channel = kit_channel(backend, 8);
    write_version(channel, 5, 1);
    cr_assert_eq(proxy_pairs(proxy), 4);
    accepted = gauges().accepted;
    atomic_fetch_add(&tcp_of(backend)->unsure, 1); /* of nobody: it lasts */
    kit_io_init(&io, &iov, true, 5, 1, page);
    cr_assert_eq(backend->ops->submit(channel, ios, 1), 1);
    proxy_spare(proxy, 3);
    proxy_cut(proxy);
    for (; polls < 1000 && gauges().accepted == accepted; polls++) {
        struct pollfd wait = {.fd = backend->ops->wait_fd(channel), .events = POLLIN};

        poll(&wait, 1, 1000);
        (void)backend->ops->poll(channel, 1);
        usleep(1000);
    }
    cr_expect_lt(polls, 1000);
    atomic_fetch_sub(&tcp_of(backend)->unsure, 1);
    while (io.owner) {
        (void)backend->ops->poll(channel, 1);
        usleep(1000);
    }
    cr_expect_eq(io.error, WEIR_OK);
    cr_expect(kit_holds(backend, 5, 1, 2));
    backend->ops->channel_close(channel);
    kit_close(backend);
    close_server();
    free(page);
}

static struct weir_channel *waiting;

static void *write_waiting(void *context)
{
    write_version(waiting, 7, 9);
    return context;
}

/* Who waits until a line is ended is told, whatever its number is. */
Test(tcp_keeper, all_channels_that_wait_are_told, .timeout = 120)
{
    struct weir_backend *backend;
    struct weir_channel *first, *second;
    struct wr_tcp *tcp;
    pthread_t thread;

    open_server(60000, 0);
    backend = open_by(memd_port(memd, 0), "patience=100", WEIR_OK);
    tcp = tcp_of(backend);
    first = kit_channel(backend, 8);
    second = kit_channel(backend, 8);
    write_version(first, 7, 1);
    write_version(second, 8, 1);
    for (int round = 0; round < 20; round++) {
        /* As if the second had broken with a write on its way. */
        wr_tcp_note_unsure(tcp, WR_TCP_LINE_CHANNELS + 2);
        waiting = round % 2 ? second : first;
        cr_assert_eq(pthread_create(&thread, NULL, write_waiting, NULL), 0);
        usleep(round * 100);
        wr_tcp_ring(tcp);
        pthread_join(thread, NULL);
        cr_expect(is_sure(backend));
    }
    backend->ops->channel_close(first);
    backend->ops->channel_close(second);
    kit_close(backend);
    close_server();
}

static void *fault(void *context)
{
    struct weir_backend *backend = context;

    for (int i = 0; i < 50; i++)
        if (!kit_holds(backend, 3, 1, 1))
            return context;
    return NULL;
}

/* Eight at a time, on as many seats. */
static void begin_faults(struct weir_backend *backend, pthread_t threads[8])
{
    for (int i = 0; i < 8; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, fault, backend), 0);
}

static void end_faults(const pthread_t threads[8])
{
    void *result;

    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], &result);
        cr_expect_null(result);
    }
}

/*
 * The server answers on the keeper's line, and no new connection gets an answer: each try lasts as
 * long as the timeout, which is longer than the lease. That is renewed meanwhile. Before, even
 * eight tries came one after the other with nothing between them.
 */
Test(tcp_keeper, a_lease_is_renewed_while_lines_are_opened, .timeout = 120)
{
    struct weir_backend *backend;
    struct weir_channel *channel;
    pthread_t threads[8];

    open_server(2500, 0);
    backend = open_by(proxy_port(proxy), "patience=100&timeout=3", WEIR_OK);
    channel = kit_channel(backend, 8);
    write_version(channel, 3, 1);
    atomic_store(&tcp_of(backend)->seats_wanted, 8);
    wr_tcp_ring(tcp_of(backend));
    cr_assert(comes(has_seats, backend));
    proxy_spare(proxy, 1);
    proxy_hold(proxy, 1);
    proxy_cut(proxy);
    begin_faults(backend, threads);
    for (int i = 0; i < 50 && gauges().expired == 0; i++)
        usleep(100000);
    cr_expect_eq(gauges().expired, 0, "its lease is over");
    proxy_hold(proxy, 0);
    end_faults(threads);
    write_version(channel, 4, 2);
    cr_expect(comes(has_seats, backend));
    cr_expect(kit_has_heard("connections to it cannot be opened"));
    backend->ops->channel_close(channel);
    kit_close(backend);
    close_server();
}

/* A server whose every answer comes, but late: each has the whole of the timeout. Before, all those
 * of a handshake together had. */
Test(tcp_keeper, a_slow_server_is_not_a_silent_one, .timeout = 120)
{
    struct weir_backend *backend;
    struct weir_channel *channel;

    open_server(60000, 0);
    backend = open_by(proxy_port(proxy), "patience=100&timeout=1", WEIR_OK);
    channel = kit_channel(backend, 8);
    write_version(channel, 3, 1);
    proxy_delay(proxy, 300000); /* more than half a second there and back */
    proxy_spare(proxy, 1);
    proxy_cut(proxy);
    cr_expect(kit_holds(backend, 3, 1, 1));
    proxy_delay(proxy, 0);
    write_version(channel, 4, 2);
    backend->ops->channel_close(channel);
    kit_close(backend);
    close_server();
}

/* --- A server that is full ------------------------------------------------------------------- */

/* What broke comes back, though others take every connection that is free. */
Test(tcp_keeper, a_full_server_takes_back_whose_lines_broke, .timeout = 120)
{
    struct weir_backend *backend, *others[16];
    struct weir_channel *channel;
    int count = 0;

    open_server(60000, 12);
    backend = open_by(proxy_port(proxy), "patience=100&timeout=1", WEIR_OK);
    channel = kit_channel(backend, 8);
    write_version(channel, 3, 1);
    do {
        others[count] = open_by(memd_port(memd, 0), "timeout=1",
                                gauges().connections < 12 ? WEIR_OK : WEIR_EFULL);
    } while (others[count] && ++count < 16);
    cr_expect(kit_has_heard("all its connections are in use: raise `connections` there"));
    for (int round = 0; round < 3; round++) {
        proxy_cut(proxy);
        cr_expect(kit_holds(backend, 3, 1, 1));
        write_version(channel, 4, 2 + round);
    }
    backend->ops->channel_close(channel);
    kit_close(backend);
    while (count-- > 0)
        kit_close(others[count]);
    close_server();
}

/* The server knows nothing of it that they are dead: they are stalled, not ended. */
Test(tcp_keeper, a_full_server_lets_dead_lines_be_replaced, .timeout = 60)
{
    struct weir_backend *backend, *other;
    struct weir_channel *channel;

    open_server(60000, 7);
    backend = open_by(proxy_port(proxy), "patience=20&timeout=1", WEIR_OK);
    channel = kit_channel(backend, 8);
    write_version(channel, 3, 1);
    other = open_by(memd_port(memd, 0), "timeout=1", WEIR_OK);
    cr_assert_eq(gauges().connections, 7);
    proxy_stall(proxy);
    cr_expect(kit_holds(backend, 3, 1, 1));
    write_version(channel, 3, 2);
    cr_expect(kit_holds(backend, 3, 1, 2));
    backend->ops->channel_close(channel);
    kit_close(backend);
    kit_close(other);
    close_server();
}

static struct weir_backend *open_with_copies(const char *spec)
{
    static struct weir_backend_env env;
    struct weir_backend *backend;

    env = kit_env;
    env.flags = WEIR_ENV_PUTS_OFF | WEIR_ENV_HAS_COPIES;
    cr_assert_eq(weir_backend_open(spec, &env, &backend), WEIR_OK);
    return backend;
}

/* As who has copies does, while he is told that it may yet be. */
static int read_again(struct weir_backend *backend, uint64_t slot, unsigned char *page)
{
    int error = WEIR_EAGAIN;

    for (int i = 0; i < 1000 && error == WEIR_EAGAIN; i++) {
        error = backend->ops->read(backend, slot, 1, page);
        usleep(10000);
    }
    return error;
}

/* Likewise, with a request. */
static int do_again(struct weir_channel *channel, bool is_write, uint64_t slot, unsigned char *page)
{
    struct iovec iov;
    struct weir_io io;

    io.error = WEIR_EAGAIN;
    for (int i = 0; i < 1000 && io.error == WEIR_EAGAIN; i++) {
        kit_io_init(&io, &iov, is_write, slot, 1, page);
        (void)kit_do(channel, &io);
        usleep(10000);
    }
    return io.error;
}

/* The lease is held by the keeper's line, and there is no room for another: who needs one waits for
 * as long as patience, and not each time. Before, who had copies was told for ever to try again. */
Test(tcp_keeper, who_has_no_line_does_not_wait_for_ever, .timeout = 120)
{
    unsigned char *page = kit_pages(1, 7);
    struct weir_backend *backend, *others[2];
    struct weir_channel *channel;

    open_server(60000, 7);
    for (int i = 0; i < 2; i++)
        others[i] = open_by(memd_port(memd, 0), "timeout=1", WEIR_OK);
    backend = open_with_copies(kit_text("tcp://127.0.0.1:%d?size=4m&key=%s&patience=2&timeout=1",
                                        memd_port(memd, 0), key_file));
    cr_assert_eq(gauges().connections, 7);
    channel = kit_channel(backend, 8);
    cr_expect_eq(read_again(backend, 3, page), WEIR_EIO);
    cr_expect_eq(do_again(channel, false, 3, page), WEIR_EIO);
    cr_expect_eq(do_again(channel, true, 3, page), WEIR_EIO);
    cr_expect(kit_has_heard("connections to it cannot be opened (all its connections are in use"));
    cr_expect(kit_has_heard("could be opened for 2 s"));
    cr_expect_not(atomic_load(&tcp_of(backend)->is_away));
    kit_close(others[0]);
    for (int i = 0; i < 1000 && backend->ops->read(backend, 3, 1, page) != WEIR_OK; i++)
        usleep(10000);
    cr_expect(kit_is_filled(page, WEIR_SLOT_BYTES, 0), "there is room again");
    backend->ops->channel_close(channel);
    kit_close(backend);
    kit_close(others[1]);
    close_server();
    free(page);
}

static bool is_not_barred(struct weir_backend *backend)
{
    return atomic_load(&tcp_of(backend)->barred_ns) == 0;
}

/*
 * A full server has no room for a seat more, and says so for longer than patience. That is nothing
 * to those who have lines: what breaks is opened again, and what was on its way waits for that.
 * Before, it failed at once.
 */
Test(tcp_keeper, that_no_more_can_be_had_is_nothing_to_what_breaks, .timeout = 120)
{
    struct weir_backend *backend;
    struct weir_channel *channel;

    open_server(60000, 4);
    backend = open_by(proxy_port(proxy), "patience=2&timeout=1", WEIR_OK);
    cr_assert_eq(proxy_pairs(proxy), 3);
    channel = kit_channel(backend, 8);
    write_version(channel, 3, 1);
    atomic_store(&tcp_of(backend)->seats_wanted, 3);
    wr_tcp_ring(tcp_of(backend));
    sleep(4);
    atomic_store(&tcp_of(backend)->seats_wanted, 2); /* it would have the room of what breaks */
    usleep(200000);
    for (int round = 0; round < 3; round++) {
        proxy_spare(proxy, 3); /* all but the channel's */
        proxy_cut(proxy);
        cr_expect_eq(kit_write(channel, 3, 1, 2 + round, NULL), WEIR_OK);
        proxy_spare(proxy, 1);
        proxy_cut(proxy);
        cr_expect(kit_holds(backend, 3, 1, 2 + round));
    }
    cr_expect_eq(atomic_load(&tcp_of(backend)->seats_had), 2);
    backend->ops->channel_close(channel);
    kit_close(backend);
    close_server();
}

/* Nor is it that another could have none, who is no longer there. */
Test(tcp_keeper, nor_is_it_that_another_had_no_line, .timeout = 120)
{
    struct weir_backend *backend;
    struct weir_channel *channel, *other;
    uint32_t pairs;

    open_server(60000, 4);
    backend = open_by(proxy_port(proxy), "patience=2&timeout=1", WEIR_OK);
    channel = kit_channel(backend, 8);
    write_version(channel, 3, 1);
    pairs = proxy_pairs(proxy);
    cr_assert_eq(pairs, 4);
    other = kit_channel(backend, 8);
    cr_expect_eq(kit_write(other, 4, 1, 1, NULL), WEIR_EIO);
    cr_expect_not(is_not_barred(backend));
    backend->ops->channel_close(other);
    cr_expect(comes(is_not_barred, backend));
    proxy_spare(proxy, pairs - 1);
    proxy_cut(proxy);
    cr_expect_eq(kit_write(channel, 3, 1, 2, NULL), WEIR_OK);
    backend->ops->channel_close(channel);
    kit_close(backend);
    close_server();
}

/* A firewall comes up before one copy, but for the line that is there; then the other is lost. */
Test(tcp_keeper, nor_who_has_lost_the_other_copy, .timeout = 120)
{
    const char *const listen[] = {"tcp://127.0.0.1:0"};
    const struct memd_limits limits = {.memory = 64 << 20, .lease_ms = 60000};
    unsigned char *page = kit_pages(1, 7);
    struct weir_backend *mirror;
    struct weir_channel *channel;
    struct memd_options options;
    struct memd *second;

    open_server(60000, 0);
    options = (struct memd_options){
        .listen = listen, .listen_count = 1, .key = &key, .limits = limits, .threads = 1};
    cr_assert_eq(memd_open(&options, &second), WEIR_OK);
    mirror = kit_open(kit_text("mirror(tcp://127.0.0.1:%d?size=16m&key=%s&patience=2&timeout=1,"
                               "tcp://127.0.0.1:%d?size=16m&key=%s&patience=2&timeout=1)",
                               proxy_port(proxy), key_file, memd_port(second, 0), key_file),
                      WEIR_OK);
    channel = kit_channel(mirror, 8);
    write_version(channel, 3, 1);
    cr_expect(kit_holds(mirror, 3, 1, 1));
    proxy_spare(proxy, 1);
    proxy_shut(proxy, 1);
    proxy_cut(proxy);
    memd_close(second);
    cr_expect_eq(mirror->ops->read(mirror, 3, 1, page), WEIR_EIO);
    mirror->ops->channel_close(channel);
    kit_close(mirror);
    close_server();
    free(page);
}

/* --- A server that says no ------------------------------------------------------------------- */

/* Reads of one page each, which are sent together. */
static void read_all(struct weir_channel *channel, struct weir_io *ios, uint32_t count)
{
    const struct weir_backend_ops *ops = channel->backend->ops;
    struct weir_io *all[8];

    for (uint32_t i = 0; i < count; i++)
        all[i] = &ios[i];
    cr_assert_eq(ops->submit(channel, all, count), count);
    for (uint32_t i = 0; i < count; i++)
        while (ios[i].owner) {
            struct pollfd wait = {.fd = ops->wait_fd(channel), .events = POLLIN};

            if (ops->poll(channel, count) == 0)
                cr_assert_neq(poll(&wait, 1, 60000), 0, "the channel is stuck");
        }
}

/* What comes behind a refusal is not where it was to be: it is asked for again. The others are
 * stamped, and each has its own. */
static void refuse_among_others(struct weir_backend *backend, struct weir_channel *channel)
{
    unsigned char *pages = kit_pages(8, 0);
    struct iovec iov[8];
    struct weir_io ios[8];

    for (uint64_t slot = 0; slot < 8; slot++)
        write_version(channel, slot, 100 + (int)slot);
    for (uint64_t round = 0; round < 3; round++) {
        tcp_of(backend)->slots = 1ull << 40;
        for (uint64_t i = 0; i < 8; i++)
            kit_io_init(&ios[i], &iov[i], false, i == 4 - round ? 1ull << 30 : i, 1,
                        pages + i * WEIR_SLOT_BYTES);
        read_all(channel, ios, 8);
        tcp_of(backend)->slots = SLOTS;
        for (uint64_t i = 0; i < 8; i++)
            if (i == 4 - round)
                cr_expect_eq(ios[i].error, WEIR_EINVAL);
            else
                cr_expect(!ios[i].error && kit_is_filled(pages + i * WEIR_SLOT_BYTES,
                                                         WEIR_SLOT_BYTES, 100 + (int)i),
                          "round %lu, slot %lu: %d", round, i, ios[i].error);
    }
    free(pages);
}

/* The server refuses to read what lies outside of the lease, and that is what the reader is told;
 * the line is as good as before. The client's own look at the slots is led astray for that. */
Test(tcp_keeper, a_refusal_reaches_who_reads, .timeout = 60)
{
    unsigned char *page = kit_pages(1, 0);
    struct weir_backend *backend;
    struct weir_channel *channel;
    uint64_t accepted;

    open_server(60000, 0);
    backend = open_by(memd_port(memd, 0), "patience=100", WEIR_OK);
    channel = kit_channel(backend, 8);
    write_version(channel, 3, 1);
    cr_expect(kit_holds(backend, 3, 1, 1));
    accepted = gauges().accepted;
    tcp_of(backend)->slots = 1ull << 40;
    cr_expect_eq(backend->ops->read(backend, 1ull << 30, 1, page), WEIR_EINVAL);
    cr_expect_eq(kit_write(channel, 1ull << 30, 1, 1, NULL), WEIR_EINVAL);
    tcp_of(backend)->slots = SLOTS;
    cr_expect(kit_holds(backend, 3, 1, 1));
    write_version(channel, 3, 2);
    cr_expect_eq(gauges().accepted, accepted, "no line was opened anew");
    refuse_among_others(backend, channel);
    cr_expect_eq(gauges().unsound, 0);
    backend->ops->channel_close(channel);
    kit_close(backend);
    close_server();
    free(page);
}
