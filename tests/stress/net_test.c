/* SPDX-License-Identifier: MIT */

/*
 * Pages at a memory server at the other end of a net: two network namespaces with a cable between
 * them, which is pulled out, or narrow. (What is slow, or breaks at every moment, is a proxy's:
 * this way it can be had where namespaces are not permitted.)
 */

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "tests/server/net.h"
#include "tests/server/server.h"
#include "tests/stress/real.h"
#include "tests/unit/proxy.h"

#define BUDGET (8 * MIB)
#define PAGES  ((size_t)8192)

static char key_path[64];
static struct server server;

static double now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void name_key(void)
{
    snprintf(key_path, sizeof(key_path), "/var/tmp/weir-net-key-%d", (int)getpid());
    unlink(key_path); /* of a process that was killed */
}

/* False: not here; CTest shows the test as skipped by these words. */
static bool has_net(void)
{
    if (!net_make()) {
        printf("net: NOT TESTED: network namespaces are not permitted here, or ip (iproute2) is "
               "missing: run it as root\n");
        return false;
    }
    name_key();
    cr_assert_eq(server_start_beyond(key_path, 256 * MIB, &server), 0);
    return true;
}

static struct weir_runtime *open_at(const char *host, uint16_t port, const char *options,
                                    const char *others)
{
    char spec[256];

    snprintf(spec, sizeof(spec), "tcp://%s:%u?size=128M&key=%s&%s%s", host, port, key_path, options,
             others);
    return real_open(BUDGET, spec);
}

static void end_server(void)
{
    server_end(&server);
    unlink(key_path);
}

/* Stamp each page, or see that it is stamped: the longest that one of them took, in seconds. */
static double longest(void *memory, size_t pages, uint64_t salt, bool is_store)
{
    double most = 0, last = now_s();

    for (size_t i = 0; i < pages; i++) {
        volatile uint64_t *words = (volatile uint64_t *)memory + i * 512;
        double now;

        if (is_store)
            *words = i * 0x9e3779b97f4a7c15u ^ salt;
        cr_assert_eq(*words, (i * 0x9e3779b97f4a7c15u ^ salt), "page %zu", i);
        now = now_s();
        most = now - last > most ? now - last : most;
        last = now;
    }
    return most;
}

/* Seconds until there is an event of that severity. */
static double time_to(enum weir_severity severity, const char *words)
{
    double begun = now_s();

    while (now_s() < begun + 60 && !strstr(real_events.text[severity], words))
        usleep(10000);
    cr_expect(strstr(real_events.text[severity], words), "%s", words);
    return now_s() - begun;
}

/* --- A cable that is pulled out --------------------------------------------------------------- */

static double noticed_s;

static void *pull_and_put_back(void *context)
{
    (void)context;
    usleep(200000);
    cr_expect(net_cut(true));
    noticed_s = time_to(WEIR_WARNING, "does not answer");
    usleep(500000);
    cr_expect(net_cut(false));
    usleep(300000);
    cr_expect(net_cut(true)); /* shorter than anybody notices */
    usleep(300000);
    cr_expect(net_cut(false));
    return NULL;
}

/* Within patience nothing is lost; what cannot be had is waited for. */
Test(net, a_short_partition_costs_time_alone, .timeout = 120)
{
    struct weir_runtime *rt;
    double store = 0, load = 0;
    pthread_t thread;
    void *memory;

    if (!has_net())
        return;
    rt = open_at(NET_BEYOND, server.port, "timeout=1&patience=100", "");
    memory = real_map(rt, PAGES * PAGE);
    longest(memory, PAGES, 0, true);
    cr_assert_eq(pthread_create(&thread, NULL, pull_and_put_back, NULL), 0);
    for (uint64_t salt = 0; salt < 3 || pthread_tryjoin_np(thread, NULL) != 0; salt++) {
        double took = longest(memory, PAGES, salt, false);

        load = took > load ? took : load;
        took = longest(memory, PAGES, salt + 1, true);
        store = took > store ? took : store;
    }
    printf("net: noticed after %.1f s; the longest load %.1f s, the longest store %.1f s\n",
           noticed_s, load, store);
    cr_expect_lt(load, 90);
    cr_expect_lt(store, 90);
    cr_expect_eq(real_events.count[WEIR_FAILURE], 0, "%s", real_events.text[WEIR_FAILURE]);
    weir_close(rt);
    end_server();
}

static sigjmp_buf refused;

static void on_bus(int number)
{
    (void)number;
    siglongjmp(refused, 1);
}

/* Pages that are refused; no other may be wrong. */
static size_t count_refused(const volatile uint64_t *words, size_t pages, uint64_t salt)
{
    volatile size_t i = 0, count = 0;

    if (sigsetjmp(refused, 1) != 0) {
        count++;
        i++;
    }
    for (; i < pages; i++)
        cr_assert_eq(words[i * 512], (i * 0x9e3779b97f4a7c15u ^ salt), "page %zu", (size_t)i);
    return count;
}

/* Longer than patience: what is beyond is refused, with the page and the server named; the program
 * lives on, with a file; and when the cable is back, so is everything that was not asked for. */
Test(net, a_long_partition_costs_what_is_beyond_until_it_ends, .timeout = 120)
{
    struct sigaction action = {.sa_flags = SA_NODEFER};
    struct weir_runtime *rt;
    double begun, first, store;
    void *memory, *more;
    size_t count;

    if (!has_net())
        return;
    action.sa_handler = on_bus;
    sigaction(SIGBUS, &action, NULL);
    rt = open_at(NET_BEYOND, server.port, "timeout=1&patience=2&priority=9",
                 " file:/var/tmp?size=128M");
    memory = real_map(rt, PAGES * PAGE);
    more = real_map(rt, PAGES * PAGE);
    weir_advise(memory, PAGES * PAGE, WEIR_RANDOM);
    longest(memory, PAGES, 1, true);
    (void)real_at_rest(rt);
    cr_expect(net_cut(true));
    begun = now_s();
    count = count_refused(memory, 256, 1);
    first = now_s() - begun;
    cr_expect_gt(count, 10);
    cr_expect_lt(first, 60, "who comes later need not wait as long, each for himself");
    for (int i = 0; i < 20 && !strstr(real_events.text[WEIR_FAILURE], " of a region"); i++)
        count = count_refused(memory, 256, 1); /* other events may come between */
    cr_expect(strstr(real_events.text[WEIR_FAILURE], " of a region"), "%s",
              real_events.text[WEIR_FAILURE]);
    store = longest(more, PAGES, 2, true);
    longest(more, PAGES, 2, false);
    printf("net: 256 pages were looked for in %.1f s, %zu refused; the longest store %.1f s\n",
           first, count, store);
    cr_expect(net_cut(false));
    time_to(WEIR_NOTE, "answers again");
    cr_expect_eq(count_refused(memory, PAGES, 1), count, "the others are there again");
    weir_advise(memory, 256 * PAGE, WEIR_DISCARD);
    longest(memory, 256, 1, true);
    cr_expect_eq(count_refused(memory, PAGES, 1), 0);
    longest(more, PAGES, 2, false);
    weir_close(rt);
    end_server();
}

/* --- A narrow one ----------------------------------------------------------------------------- */

Test(net, a_narrow_cable_is_slow_and_nothing_else, .timeout = 120)
{
    struct weir_runtime *rt;
    void *memory;
    double begun;

    if (!has_net())
        return;
    if (!net_limit(200)) {
        printf("net: this kernel has no tbf, or tc (iproute2) is missing: not tested\n");
        end_server();
        return;
    }
    rt = open_at(NET_BEYOND, server.port, "timeout=10&patience=100", "");
    memory = real_map(rt, PAGES * PAGE);
    begun = now_s();
    longest(memory, PAGES, 1, true);
    longest(memory, PAGES, 1, false);
    printf("net: %zu MiB out and in, over 200 Mbit/s, in %.1f s\n", PAGES * PAGE >> 20,
           now_s() - begun);
    cr_expect_eq(real_events.count[WEIR_FAILURE], 0, "%s", real_events.text[WEIR_FAILURE]);
    weir_close(rt);
    end_server();
}

/* --- A bad one -------------------------------------------------------------------------------- */

static void *spoil(void *context)
{
    struct proxy *proxy = context;

    for (int i = 0; i < 12; i++) {
        usleep(150000);
        if (i % 4 == 3) /* what was sent arrives after what is sent later */
            proxy_stall(proxy);
        else
            proxy_cut(proxy);
        if (i % 4 == 1)
            proxy_release(proxy);
    }
    proxy_release(proxy);
    return NULL;
}

/* Delay, loss of all that is on its way, and bytes that come late and out of order. */
Test(net, a_bad_net_delivers_no_wrong_byte, .timeout = 120)
{
    struct weir_runtime *rt;
    struct proxy *proxy;
    pthread_t thread;
    void *memory;

    name_key();
    cr_assert_eq(server_start(key_path, 256 * MIB, &server), 0);
    proxy = proxy_open(server.port);
    proxy_delay(proxy, 300);
    rt = open_at("127.0.0.1", proxy_port(proxy), "timeout=1&patience=100&priority=9",
                 " mem:?size=128M");
    memory = real_map(rt, PAGES * PAGE);
    longest(memory, PAGES, 0, true);
    cr_assert_eq(pthread_create(&thread, NULL, spoil, proxy), 0);
    for (uint64_t salt = 0; salt < 2 || pthread_tryjoin_np(thread, NULL) != 0; salt++) {
        longest(memory, PAGES, salt, false);
        longest(memory, PAGES, salt + 1, true);
    }
    cr_expect_eq(real_stats(rt).checksum_errors, 0);
    cr_expect_eq(real_events.count[WEIR_FAILURE], 0, "%s", real_events.text[WEIR_FAILURE]);
    weir_close(rt);
    proxy_close(proxy);
    end_server();
}
