/* SPDX-License-Identifier: MIT */

/* Pages at a memory server in another process, which is stopped, or killed. */

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "tests/server/server.h"
#include "tests/stress/real.h"

#define BUDGET (8 * MIB)
#define PAGES  ((size_t)8192)

static char key_path[64];

static struct server start_server(void)
{
    struct server server;

    snprintf(key_path, sizeof(key_path), "/var/tmp/weir-key-%d", (int)getpid());
    unlink(key_path); /* of a process that was killed */
    cr_assert_eq(server_start(key_path, 256 * MIB, &server), 0);
    return server;
}

static void end_server(const struct server *server)
{
    server_end(server);
    unlink(key_path);
}

static struct weir_runtime *open_at(const struct server *server, const char *options,
                                    const char *others)
{
    char spec[256];

    snprintf(spec, sizeof(spec), "tcp://127.0.0.1:%u?size=128M&key=%s&%s%s", server->port, key_path,
             options, others);
    return real_open(BUDGET, spec);
}

static double now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

Test(remote, pages_are_lent_and_come_back, .timeout = 120)
{
    struct server server = start_server();
    struct weir_runtime *rt = open_at(&server, "timeout=2", "");
    void *memory = real_map(rt, PAGES * PAGE);
    char report[16384];

    weir_report(rt, report, sizeof(report));
    cr_expect_not_null(strstr(report, "TCP, sealed with "), "as remote ones are: %s", report);
    for (uint64_t salt = 1; salt < 4; salt++) {
        real_fill(memory, PAGES, salt);
        real_check(memory, PAGES, salt);
    }
    cr_expect_gt(real_stats(rt).pages_written, PAGES / 2);
    cr_expect_eq(real_stats(rt).checksum_errors, 0);
    weir_close(rt);
    end_server(&server);
}

static void *stop_and_go(void *context)
{
    const struct server *server = context;

    for (int i = 0; i < 3; i++) {
        usleep(300000);
        kill(server->process, SIGSTOP);
        usleep(i == 1 ? 2500000 : 200000); /* also longer than the client believes in it */
        kill(server->process, SIGCONT);
    }
    return NULL;
}

Test(remote, a_server_that_stands_still_is_waited_for, .timeout = 120)
{
    struct server server = start_server();
    struct weir_runtime *rt = open_at(&server, "timeout=1&patience=60", "");
    void *memory = real_map(rt, PAGES * PAGE);
    double end = now_s() + 6;
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, stop_and_go, &server), 0);
    for (uint64_t salt = 1; salt < 3 || now_s() < end; salt++) {
        real_fill(memory, PAGES, salt);
        real_check(memory, PAGES, salt);
    }
    pthread_join(thread, NULL);
    cr_expect_eq(real_events.count[WEIR_FAILURE], 0, "%s", real_events.text[WEIR_FAILURE]);
    weir_close(rt);
    end_server(&server);
}

/* --- Killed ---------------------------------------------------------------------------------- */

static sigjmp_buf refused;

static void on_bus(int number)
{
    (void)number;
    siglongjmp(refused, 1);
}

static uint64_t value_of(size_t page)
{
    return page * 0x9e3779b97f4a7c15u + 1;
}

/* Loads of the first pages: those that are refused are counted, no other may be wrong. */
static size_t count_lost(const volatile uint64_t *words, size_t pages)
{
    volatile size_t i = 0, lost = 0;

    if (sigsetjmp(refused, 1) != 0) {
        lost++;
        i++;
    }
    for (; i < pages; i++)
        cr_assert_eq(words[i * 512], value_of(i), "page %zu", (size_t)i);
    return lost;
}

/* What was at the server is lost, and says so in bounded time; the rest of the program lives on, at
 * its other back end. */
Test(remote, a_server_that_is_killed_costs_its_pages_and_nothing_else, .timeout = 120)
{
    struct sigaction action = {.sa_flags = SA_NODEFER};
    struct server server = start_server();
    struct weir_runtime *rt;
    volatile uint64_t *words;
    double begun;
    size_t lost;
    void *more;

    action.sa_handler = on_bus;
    sigaction(SIGBUS, &action, NULL);
    rt = open_at(&server, "timeout=1&patience=2&priority=9", " mem:?size=128M");
    words = real_map(rt, PAGES * PAGE);
    weir_advise((void *)(uintptr_t)words, PAGES * PAGE, WEIR_RANDOM);
    for (size_t i = 0; i < PAGES; i++)
        words[i * 512] = value_of(i);
    (void)real_at_rest(rt);
    kill(server.process, SIGKILL);
    begun = now_s();
    if (sigsetjmp(refused, 1) == 0) {
        for (size_t i = 0; i < PAGES; i++)
            cr_assert_eq(words[i * 512], value_of(i));
        cr_assert_fail("everything was still there");
    }
    cr_expect_lt(now_s() - begun, 20, "the first that is lost is told of in bounded time");
    begun = now_s();
    lost = count_lost(words, 256);
    cr_expect_lt(now_s() - begun, 20, "who comes later need not wait as long, each for himself");
    cr_expect_gt(lost, 10);
    more = real_map(rt, PAGES * PAGE);
    real_fill(more, PAGES, 7);
    real_check(more, PAGES, 7);
    weir_unmap(more);
    weir_advise((void *)(uintptr_t)words, 64 * PAGE, WEIR_DISCARD);
    for (size_t i = 0; i < 64; i++)
        words[i * 512] = value_of(i);
    cr_expect_eq(count_lost(words, 64), 0, "what is stored anew is as good as ever");
    cr_expect_gt(real_events.count[WEIR_WARNING] + real_events.count[WEIR_FAILURE], 0);
    weir_close(rt);
    end_server(&server);
}
