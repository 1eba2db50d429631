/* SPDX-License-Identifier: MIT */

/* Pages at a memory server in another process, which is stopped, or killed. */

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "tests/server/server.h"
#include "tests/stress/real.h"

#define BUDGET (4 * MIB)
#define PAGES  ((size_t)4096)

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
    double end = now_s() + 4.5;
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

/* A touch that is refused says which page it was; other events may come between. */
static bool says_which(const volatile uint64_t *words)
{
    bool says = false;

    for (int i = 0; i < 20 && !says && count_lost(words, 256) > 0; i++)
        says = strstr(real_events.text[WEIR_FAILURE], " of a region without a name; weir_advise");
    return says;
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
    cr_expect(says_which(words), "%s", real_events.text[WEIR_FAILURE]);
    more = real_map(rt, PAGES * PAGE);
    real_fill(more, PAGES, 7);
    real_check(more, PAGES, 7);
    weir_unmap(more);
    weir_advise((void *)(uintptr_t)words, 64 * PAGE, WEIR_DISCARD);
    for (size_t i = 0; i < 64; i++)
        words[i * 512] = value_of(i);
    cr_expect_eq(count_lost(words, 64), 0, "what is stored anew is as good as ever");
    cr_expect_gt(real_events.count[WEIR_WARNING], 0);
    weir_close(rt);
    end_server(&server);
}

static void *kill_soon(void *context)
{
    const struct server *server = context;

    usleep(100000);
    kill(server->process, SIGKILL);
    return NULL;
}

/* In the midst of stores that drive pages out: each of them is whole, or refused. */
Test(remote, a_server_that_is_killed_under_load_leaves_no_wrong_page, .timeout = 120)
{
    struct sigaction action = {.sa_flags = SA_NODEFER};
    struct server server = start_server();
    struct weir_runtime *rt;
    volatile uint64_t *words;
    pthread_t thread;

    action.sa_handler = on_bus;
    sigaction(SIGBUS, &action, NULL);
    rt = open_at(&server, "timeout=1&patience=2&priority=9", " file:/var/tmp?size=128M");
    words = real_map(rt, PAGES * PAGE);
    cr_assert_eq(pthread_create(&thread, NULL, kill_soon, &server), 0);
    for (size_t i = 0; i < PAGES; i++) /* each for the first time: none has to be read */
        words[i * 512] = value_of(i);
    pthread_join(thread, NULL);
    printf("remote: %zu of %zu pages were lost with a server that was killed under load\n",
           count_lost(words, PAGES), PAGES);
    weir_advise((void *)(uintptr_t)words, PAGES * PAGE, WEIR_DISCARD);
    real_fill((void *)(uintptr_t)words, PAGES, 3);
    real_check((void *)(uintptr_t)words, PAGES, 3);
    weir_close(rt);
    end_server(&server);
}

/* --- Writers do not wait for who is away ------------------------------------------------------ */

/* Store to each page; the longest that one store took, in seconds. */
static double longest_store(void *memory, size_t pages, uint64_t salt)
{
    volatile uint64_t *words = memory;
    double longest = 0, last = now_s();

    for (size_t i = 0; i < pages; i++) {
        double now;

        words[i * 512] = i * 0x9e3779b97f4a7c15u ^ salt;
        words[i * 512 + 511] = i + salt;
        now = now_s();
        longest = now - last > longest ? now - last : longest;
        last = now;
    }
    return longest;
}

/* Pages go to the other back end at once, with patience for a minute and more; nothing is lost. */
static void stand_still(const char *others)
{
    struct server server = start_server();
    struct weir_runtime *rt = open_at(&server, "timeout=1&patience=110&priority=9", others);
    void *memory = real_map(rt, PAGES * PAGE), *more = real_map(rt, PAGES * PAGE);
    double longest;

    real_fill(memory, PAGES, 1);
    (void)real_at_rest(rt);
    kill(server.process, SIGSTOP);
    longest = longest_store(more, PAGES, 2);
    printf("remote: the longest store while the server stood still: %.1f s\n", longest);
    cr_expect_lt(longest, 60, "it waited for who did not answer");
    real_check(more, PAGES, 2);
    kill(server.process, SIGCONT);
    real_check(memory, PAGES, 1);
    cr_expect_eq(real_events.count[WEIR_FAILURE], 0, "%s", real_events.text[WEIR_FAILURE]);
    weir_close(rt);
    end_server(&server);
}

Test(remote, writers_do_not_wait_for_a_server_that_stands_still, .timeout = 120)
{
    stand_still(" file:/var/tmp?size=128M");
}

/* Where there is no other, they do; and nothing is refused meanwhile. */
Test(remote, without_another_back_end_they_wait, .timeout = 120)
{
    struct server server = start_server();
    struct weir_runtime *rt = open_at(&server, "timeout=1&patience=110", "");
    void *memory = real_map(rt, PAGES * PAGE);
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, stop_and_go, &server), 0);
    for (uint64_t salt = 1; salt < 3; salt++)
        (void)longest_store(memory, PAGES, salt);
    pthread_join(thread, NULL);
    real_check(memory, PAGES, 2);
    cr_expect_eq(real_events.count[WEIR_FAILURE], 0, "%s", real_events.text[WEIR_FAILURE]);
    weir_close(rt);
    end_server(&server);
}

/* --- Asked back ------------------------------------------------------------------------------- */

static uint32_t count_backends(struct weir_runtime *rt, uint64_t *used_by_first_p)
{
    struct weir_backend_state state;
    uint32_t count = 0;

    while (weir_backend_get(rt, count, &state) == WEIR_OK)
        if (count++ == 0)
            *used_by_first_p = state.bytes_used;
    return count;
}

static bool has_left(struct weir_runtime *rt, unsigned seconds)
{
    uint64_t used;

    for (unsigned i = 0; i < 100 * seconds && count_backends(rt, &used) > 1; i++)
        usleep(10000);
    return count_backends(rt, &used) == 1;
}

/* A server that is told to end has its memory back without the program's doing, and ends. */
Test(remote, what_is_asked_back_moves_away_by_itself, .timeout = 120)
{
    struct server server = start_server();
    struct weir_runtime *rt = open_at(&server, "timeout=2&priority=9", " file:/var/tmp?size=128M");
    void *memory = real_map(rt, PAGES * PAGE);

    real_fill(memory, PAGES, 1);
    (void)real_at_rest(rt);
    kill(server.process, SIGTERM);
    real_check(memory, PAGES, 1);
    cr_expect(has_left(rt, 60), "%s", real_events.text[WEIR_NOTE]);
    cr_expect(server_has_ended(&server, 30));
    for (uint64_t salt = 2; salt < 4; salt++) {
        real_check(memory, PAGES, salt - 1);
        real_fill(memory, PAGES, salt);
    }
    cr_expect_eq(real_events.count[WEIR_FAILURE], 0, "%s", real_events.text[WEIR_FAILURE]);
    weir_close(rt);
    unlink(key_path);
}

/* Nowhere to go: it goes on as it was, says so, and leaves when there is room; unless it was told
 * to leave that to the program. */
Test(remote, what_is_asked_back_stays_while_there_is_no_room, .timeout = 120)
{
    struct server server = start_server();
    struct weir_runtime *rt = open_at(&server, "timeout=2", " mem:?size=1M");
    void *memory = real_map(rt, PAGES * PAGE);
    uint64_t used = 0;

    real_fill(memory, PAGES, 1);
    kill(server.process, SIGUSR1);
    for (int i = 0; i < 1000 && !strstr(real_events.text[WEIR_WARNING], "no room elsewhere"); i++)
        usleep(10000);
    cr_expect(strstr(real_events.text[WEIR_WARNING], "no room elsewhere"), "%s",
              real_events.text[WEIR_WARNING]);
    real_fill(memory, PAGES, 2);
    real_check(memory, PAGES, 2);
    cr_expect_eq(count_backends(rt, &used), 2);
    cr_expect_gt(used, 0);
    kill(server.process, SIGUSR2);
    real_fill(memory, PAGES, 3);
    cr_assert_eq(weir_backend_add(rt, "mem:?size=128M", NULL), WEIR_OK);
    usleep(1500000); /* longer than a look at it would take: the wish was withdrawn */
    cr_expect_eq(count_backends(rt, &used), 3);
    kill(server.process, SIGUSR1);
    for (int i = 0; i < 6000 && count_backends(rt, &used) > 2; i++)
        usleep(10000);
    cr_expect_eq(count_backends(rt, &used), 2);
    real_check(memory, PAGES, 3);
    cr_expect_eq(real_events.count[WEIR_FAILURE], 0, "%s", real_events.text[WEIR_FAILURE]);
    weir_close(rt);
    end_server(&server);
}

Test(remote, what_is_asked_back_may_be_left_to_the_program, .timeout = 120)
{
    struct server server = start_server();
    struct weir_runtime *rt = open_at(&server, "timeout=2&asked_back=tell", " mem:?size=128M");
    void *memory = real_map(rt, PAGES * PAGE);
    uint64_t used = 0;

    real_fill(memory, PAGES, 1);
    kill(server.process, SIGTERM);
    for (int i = 0; i < 1000 && !strstr(real_events.text[WEIR_WARNING], "weir_backend_drain"); i++)
        usleep(10000);
    cr_expect(strstr(real_events.text[WEIR_WARNING], "weir_backend_drain"), "%s",
              real_events.text[WEIR_WARNING]);
    usleep(1500000);
    cr_expect_eq(count_backends(rt, &used), 2);
    cr_expect_eq(weir_backend_drain(rt, 0), WEIR_OK);
    cr_expect(server_has_ended(&server, 30));
    real_check(memory, PAGES, 1);
    weir_close(rt);
    unlink(key_path);
}
