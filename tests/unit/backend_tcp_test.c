/* SPDX-License-Identifier: MIT */

/* tcp: a client of a memory server that runs in this process, through good networks and bad. */

#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/backend_kit.h"
#include "tests/unit/proxy.h"
#include "transport/memd/memd.h"

#define SLOTS   1024u
#define OPTIONS "size=4m&patience=20&timeout=1"

static struct memd *memd;
static struct proxy *proxy;
static struct wr_key key;
static const char *key_file;

/* A file of so many bytes, for its owner alone. */
static const char *make_key(const char *name, int fill)
{
    const char *path = kit_text("%s/%s", kit_directory(), name);
    char bytes[WR_KEY_BYTES];
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);

    memset(bytes, fill, sizeof(bytes));
    cr_assert_eq(write(fd, bytes, sizeof(bytes)), (ssize_t)sizeof(bytes));
    close(fd);
    return path;
}

static const char *spec_to(uint16_t port, const char *options)
{
    return kit_text("tcp://127.0.0.1:%d?key=%s&%s", port, key_file, options);
}

static struct memd *start(uint32_t lease_ms)
{
    const char *const listen[] = {"tcp://127.0.0.1:0"};
    const struct memd_options options = {.listen = listen,
                                         .listen_count = 1,
                                         .key = &key,
                                         .limits = {.memory = 64 << 20, .lease_ms = lease_ms},
                                         .threads = 2};
    struct memd *server;

    cr_assert_eq(memd_open(&options, &server), WEIR_OK);
    return server;
}

static uint32_t leases(void)
{
    struct memd_gauges gauges;

    memd_measure(memd, &gauges);
    return gauges.leases;
}

/* A server whose key is that of the file, and a proxy before it. */
static void open_server(uint32_t lease_ms)
{
    const char *why;

    cr_assert(wr_session_begin());
    key_file = make_key("key", 'k');
    cr_assert_eq(wr_key_read(key_file, &key, &why), WEIR_OK);
    memd = start(lease_ms);
    proxy = proxy_open(memd_port(memd, 0));
}

static void close_server(void)
{
    proxy_close(proxy);
    memd_close(memd);
}

static void write_version(struct weir_channel *channel, uint64_t slot, uint32_t pages, int version)
{
    cr_assert_eq(kit_write(channel, slot, pages, version, NULL), WEIR_OK, "slot %lu", slot);
}

/* The same with less patience than a busy machine may need to open a line. */
static void write_at_last(struct weir_channel *channel, uint64_t slot, int version)
{
    int error = WEIR_EIO;

    for (int i = 0; i < 60 && error == WEIR_EIO; i++)
        error = kit_write(channel, slot, 1, version, NULL);
    cr_assert_eq(error, WEIR_OK);
}

/* --- A good network -------------------------------------------------------------------------- */

Test(backend_tcp, pages_come_back, .timeout = 60)
{
    struct weir_backend *backend;
    struct weir_channel *channel;

    open_server(10000);
    backend = kit_open(spec_to(memd_port(memd, 0), OPTIONS), WEIR_OK);
    cr_expect_eq(kit_describe(backend).slots, SLOTS);
    channel = kit_channel(backend, 8);
    write_version(channel, 0, 512, 1);
    write_version(channel, 512, 512, 2);
    write_version(channel, 7, 1, 3);
    cr_expect(kit_holds(backend, 0, 7, 1));
    cr_expect(kit_holds(backend, 7, 1, 3));
    cr_expect(kit_holds(backend, 8, 504, 1));
    cr_expect(kit_holds(backend, 512, 512, 2));
    cr_expect_eq(backend->ops->discard(backend, 0, 512), WEIR_OK);
    cr_expect(kit_holds(backend, 512, 512, 2));
    cr_expect(kit_holds(backend, 0, 512, 0), "discarded memory is zero");
    channel->backend->ops->channel_close(channel);
    kit_close(backend);
    cr_expect_eq(leases(), 0, "the lease was returned");
    close_server();
}

Test(backend_tcp, what_is_outside_is_refused, .timeout = 60)
{
    unsigned char *page = kit_pages(1, 0);
    struct weir_backend *backend;
    struct weir_channel *channel;

    open_server(10000);
    backend = kit_open(spec_to(memd_port(memd, 0), OPTIONS), WEIR_OK);
    channel = kit_channel(backend, 1);
    cr_expect_eq(backend->ops->read(backend, SLOTS, 1, page), WEIR_EINVAL);
    cr_expect_eq(kit_write(channel, SLOTS, 1, 1, NULL), WEIR_EINVAL);
    cr_expect_eq(backend->ops->discard(backend, SLOTS, 1), WEIR_EINVAL);
    write_version(channel, SLOTS - 1, 1, 4);
    cr_expect(kit_holds(backend, SLOTS - 1, 1, 4));
    backend->ops->channel_close(channel);
    kit_close(backend);
    close_server();
    free(page);
}

static void *fault_often(void *context)
{
    struct weir_backend *backend = context;
    uint64_t random = (uintptr_t)&random;

    for (int i = 0; i < 300; i++) {
        uint64_t slot;

        random = random * 6364136223846793005u + 1442695040888963407u;
        slot = (random >> 33) % SLOTS;
        if (!kit_holds(backend, slot, 1, (int)(slot % 251)))
            return context;
    }
    return NULL;
}

static void write_all(struct weir_channel *channel)
{
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        write_version(channel, slot, 1, (int)(slot % 251));
}

/* More than there are seats in the beginning. */
static void fault_in_threads(struct weir_backend *backend, void (*meanwhile)(void))
{
    pthread_t threads[8];
    void *result;

    for (int i = 0; i < 8; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, fault_often, backend), 0);
    if (meanwhile)
        meanwhile();
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], &result);
        cr_expect_null(result);
    }
}

Test(backend_tcp, many_threads_fault_at_once, .timeout = 60)
{
    struct weir_backend *backend;
    struct weir_channel *channel;

    open_server(10000);
    backend = kit_open(spec_to(memd_port(memd, 0), OPTIONS), WEIR_OK);
    channel = kit_channel(backend, 8);
    write_all(channel);
    fault_in_threads(backend, NULL);
    backend->ops->channel_close(channel);
    kit_close(backend);
    close_server();
}

/* --- Who is refused -------------------------------------------------------------------------- */

Test(backend_tcp, says_what_is_wrong, .timeout = 60)
{
    open_server(10000);
    kit_open("tcp:here?size=1m", WEIR_EINVAL);
    cr_expect(kit_has_heard("is no place"));
    kit_open("tcp://::1:70?size=1m", WEIR_EINVAL);
    cr_expect(kit_has_heard("brackets"));
    kit_open("tcp://127.0.0.1:7?size=1m", WEIR_EINVAL);
    cr_expect(kit_has_heard("give the key file"));
    kit_open(kit_text("tcp://127.0.0.1:7?key=%s/none", kit_directory()), WEIR_ENOENT);
    cr_expect(kit_has_heard("there is no such file"));
    kit_open(spec_to(1, "size=1m&timeout=1"), WEIR_EIO);
    cr_expect(kit_has_heard("does weir-memd run there?"));
    kit_open(spec_to(memd_port(memd, 0), "size=1g"), WEIR_EFULL);
    cr_expect(kit_has_heard("does not lend 1024 MiB"));
    key_file = make_key("other", 'o');
    kit_open(spec_to(memd_port(memd, 0), "size=1m"), WEIR_EDENIED);
    cr_expect(kit_has_heard("another key"));
    chmod(key_file, 0644);
    kit_open(spec_to(memd_port(memd, 0), "size=1m"), WEIR_EDENIED);
    cr_expect(kit_has_heard("others may read it"));
    close_server();
}

/* --- A bad network --------------------------------------------------------------------------- */

static void cut_often(void)
{
    for (int i = 0; i < 20; i++) {
        usleep(20000);
        proxy_cut(proxy);
    }
}

Test(backend_tcp, nothing_is_lost_when_connections_break, .timeout = 120)
{
    struct weir_backend *backend;
    struct weir_channel *channel;

    open_server(20000);
    backend = kit_open(spec_to(proxy_port(proxy), OPTIONS), WEIR_OK);
    channel = kit_channel(backend, 8);
    write_all(channel);
    fault_in_threads(backend, cut_often);
    for (int round = 0; round < 20; round++) {
        if (round % 3 == 0)
            proxy_cut(proxy);
        write_version(channel, (uint64_t)round * 16, 16, 100 + round);
    }
    for (int round = 0; round < 20; round++)
        cr_expect(kit_holds(backend, (uint64_t)round * 16, 16, 100 + round), "round %d", round);
    backend->ops->channel_close(channel);
    kit_close(backend);
    close_server();
}

/* What was sent on a line that was given up must not come to pass after what was sent later. */
Test(backend_tcp, an_old_write_that_arrives_late_changes_nothing, .timeout = 120)
{
    struct weir_backend *backend;
    struct weir_channel *channel;

    open_server(60000);
    backend = kit_open(spec_to(proxy_port(proxy), OPTIONS), WEIR_OK);
    channel = kit_channel(backend, 8);
    write_version(channel, 5, 1, 1);
    proxy_stall(proxy);
    write_version(channel, 5, 1, 2); /* stuck on the first line, repeated on the next */
    write_version(channel, 5, 1, 3);
    cr_expect(kit_holds(backend, 5, 1, 3));
    proxy_release(proxy); /* now the first arrives */
    usleep(200000);
    cr_expect(kit_holds(backend, 5, 1, 3));
    backend->ops->channel_close(channel);
    kit_close(backend);
    close_server();
}

/* The same where it failed in the end, and another channel wrote the slot after that. */
static void fail_and_write_elsewhere(bool closes)
{
    struct weir_backend *backend;
    struct weir_channel *channel, *other;

    open_server(60000);
    backend = kit_open(spec_to(proxy_port(proxy), "size=4m&patience=1&timeout=1"), WEIR_OK);
    other = kit_channel(backend, 8);
    channel = kit_channel(backend, 8);
    write_at_last(other, 6, 1);
    write_at_last(channel, 5, 1);
    proxy_shut(proxy, 1);
    proxy_stall(proxy);
    cr_assert_eq(kit_write(channel, 5, 1, 2, NULL), WEIR_EIO, "nobody answered");
    if (closes)
        backend->ops->channel_close(channel);
    proxy_shut(proxy, 0);
    cr_assert(kit_has_heard("answers again"));
    write_at_last(other, 5, 3);
    proxy_release(proxy);
    usleep(200000);
    cr_expect(kit_holds(backend, 5, 1, 3));
    backend->ops->channel_close(other);
    if (!closes)
        backend->ops->channel_close(channel);
    kit_close(backend);
    close_server();
}

Test(backend_tcp, a_write_that_failed_and_arrives_late_changes_nothing, .timeout = 120)
{
    fail_and_write_elsewhere(false);
}

Test(backend_tcp, nor_when_its_channel_has_closed, .timeout = 120)
{
    fail_and_write_elsewhere(true);
}

/* The same of a discard. */
Test(backend_tcp, an_old_discard_that_arrives_late_changes_nothing, .timeout = 120)
{
    struct weir_backend *backend;
    struct weir_channel *channel;

    open_server(60000);
    backend = kit_open(spec_to(proxy_port(proxy), OPTIONS), WEIR_OK);
    channel = kit_channel(backend, 8);
    write_version(channel, 0, 512, 1);
    cr_expect(kit_holds(backend, 0, 1, 1)); /* seats are open */
    proxy_stall(proxy);
    cr_expect_eq(backend->ops->discard(backend, 0, 512), WEIR_OK, "a hint");
    write_version(channel, 0, 512, 2);
    proxy_release(proxy);
    usleep(200000);
    cr_expect(kit_holds(backend, 0, 512, 2));
    backend->ops->channel_close(channel);
    kit_close(backend);
    close_server();
}

Test(backend_tcp, a_server_that_is_away_for_a_while_is_waited_for, .timeout = 120)
{
    struct weir_backend *backend;
    struct weir_channel *channel;

    open_server(60000);
    backend = kit_open(spec_to(proxy_port(proxy), OPTIONS), WEIR_OK);
    channel = kit_channel(backend, 8);
    write_all(channel);
    proxy_shut(proxy, 1);
    proxy_cut(proxy);
    usleep(1500000);
    proxy_shut(proxy, 0);
    fault_in_threads(backend, NULL);
    write_version(channel, 1, 1, 9);
    cr_expect(kit_holds(backend, 1, 1, 9));
    cr_expect(kit_has_heard("answers again"));
    backend->ops->channel_close(channel);
    kit_close(backend);
    close_server();
}

/* Who can write elsewhere is told soon that he should; who reads waits, and finds everything. */
Test(backend_tcp, writes_are_put_off_while_the_server_is_away, .timeout = 120)
{
    struct weir_backend_env env = kit_env;
    struct weir_backend *backend;
    struct weir_channel *channel;

    open_server(60000);
    env.flags = WEIR_ENV_PUTS_OFF;
    cr_assert_eq(weir_backend_open(spec_to(proxy_port(proxy), "size=4m&patience=100&timeout=1"),
                                   &env, &backend),
                 WEIR_OK);
    channel = kit_channel(backend, 8);
    write_all(channel);
    proxy_shut(proxy, 1);
    proxy_stall(proxy);
    cr_expect_eq(kit_write(channel, 3, 1, 77, NULL), WEIR_EAGAIN);
    cr_expect_eq(kit_write(channel, 4, 1, 77, NULL), WEIR_EAGAIN, "at once");
    cr_expect(kit_has_heard("does not answer"));
    proxy_shut(proxy, 0);
    fault_in_threads(backend, NULL);
    cr_expect(kit_has_heard("answers again"));
    write_version(channel, 3, 1, 9);
    proxy_release(proxy); /* now the one that was put off arrives */
    usleep(200000);
    cr_expect(kit_holds(backend, 3, 1, 9));
    backend->ops->channel_close(channel);
    kit_close(backend);
    close_server();
}

/* Who has another copy is told soon to read that; and once the server answers, what is here. */
Test(backend_tcp, reads_of_what_has_copies_do_not_wait_for_a_server_that_is_silent, .timeout = 120)
{
    struct weir_backend_env env = kit_env;
    unsigned char *page = kit_pages(1, 0);
    struct weir_backend *backend;
    struct weir_channel *channel;
    struct weir_io io;
    struct iovec iov;

    open_server(60000);
    env.flags = WEIR_ENV_PUTS_OFF | WEIR_ENV_HAS_COPIES;
    cr_assert_eq(weir_backend_open(spec_to(proxy_port(proxy), "size=4m&patience=110&timeout=1"),
                                   &env, &backend),
                 WEIR_OK);
    channel = kit_channel(backend, 8);
    cr_assert_eq(kit_write(channel, 3, 1, 77, NULL), WEIR_OK);
    proxy_shut(proxy, 1);
    proxy_stall(proxy);
    cr_expect_eq(backend->ops->read(backend, 3, 1, page), WEIR_EAGAIN, "silent");
    kit_io_init(&io, &iov, false, 3, 1, page);
    cr_expect_eq(kit_do(channel, &io), WEIR_EAGAIN, "silent");
    cr_expect(kit_has_heard("does not answer"));
    cr_expect_eq(backend->ops->read(backend, 3, 1, page), WEIR_EAGAIN, "away");
    proxy_shut(proxy, 0);
    cr_expect(kit_has_heard("answers again"));
    while (backend->ops->read(backend, 3, 1, page) == WEIR_EAGAIN)
        usleep(10000);
    cr_expect(kit_is_filled(page, WEIR_SLOT_BYTES, 77));
    backend->ops->channel_close(channel);
    kit_close(backend);
    close_server();
    free(page);
}

/* --- What is lost ---------------------------------------------------------------------------- */

static void expect_lost(struct weir_backend *backend, struct weir_channel *channel,
                        const char *words)
{
    unsigned char *page = kit_pages(1, 0);

    cr_expect_eq(backend->ops->read(backend, 0, 1, page), WEIR_EIO);
    cr_expect_eq(kit_write(channel, 1, 1, 1, NULL), WEIR_EIO);
    cr_expect(kit_has_heard(words), "%s", words);
    free(page);
}

Test(backend_tcp, a_server_that_starts_again_is_not_taken_for_the_one_that_had_the_pages,
     .timeout = 120)
{
    struct weir_backend *backend;
    struct weir_channel *channel;

    open_server(60000);
    backend = kit_open(spec_to(proxy_port(proxy), OPTIONS), WEIR_OK);
    channel = kit_channel(backend, 8);
    write_version(channel, 0, 1, 1);
    /* The same place, another life. */
    proxy_shut(proxy, 1);
    proxy_cut(proxy);
    memd_close(memd);
    memd = start(60000);
    proxy_retarget(proxy, memd_port(memd, 0));
    proxy_shut(proxy, 0);
    expect_lost(backend, channel, "has been started again");
    backend->ops->channel_close(channel);
    kit_close(backend);
    cr_expect_eq(leases(), 0);
    close_server();
}

Test(backend_tcp, a_lease_that_is_over_is_noticed, .timeout = 120)
{
    struct weir_backend *backend;
    struct weir_channel *channel;

    open_server(3500);
    backend = kit_open(spec_to(proxy_port(proxy), OPTIONS), WEIR_OK);
    channel = kit_channel(backend, 8);
    write_version(channel, 0, 1, 1);
    usleep(4500000);
    cr_expect(kit_holds(backend, 0, 1, 1), "it is renewed");
    proxy_shut(proxy, 1);
    proxy_cut(proxy);
    for (int i = 0; i < 100 && leases() > 0; i++)
        usleep(100000);
    proxy_shut(proxy, 0);
    expect_lost(backend, channel, "heard nothing of us");
    backend->ops->channel_close(channel);
    kit_close(backend);
    close_server();
}

Test(backend_tcp, a_server_that_wants_its_memory_back_is_heard, .timeout = 60)
{
    struct weir_backend *backend;

    open_server(60000);
    backend = kit_open(spec_to(memd_port(memd, 0), OPTIONS), WEIR_OK);
    memd_drain(memd);
    cr_expect(kit_has_heard("asks for its memory back"));
    kit_close(backend);
    close_server();
}

Test(backend_tcp, patience_ends, .timeout = 120)
{
    unsigned char *page = kit_pages(1, 0);
    struct weir_backend *backend;
    struct weir_channel *channel;

    open_server(60000);
    backend = kit_open(spec_to(proxy_port(proxy), "size=4m&patience=2&timeout=1"), WEIR_OK);
    channel = kit_channel(backend, 8);
    write_at_last(channel, 0, 1);
    proxy_shut(proxy, 1);
    proxy_cut(proxy);
    expect_lost(backend, channel, "does not answer");
    proxy_shut(proxy, 0);
    for (int i = 0; i < 50 && backend->ops->read(backend, 0, 1, page) != WEIR_OK; i++)
        usleep(100000);
    free(page);
    cr_expect(kit_holds(backend, 0, 1, 1), "it is as good as before");
    backend->ops->channel_close(channel);
    kit_close(backend);
    close_server();
}
