/* SPDX-License-Identifier: MIT */

/*
 * A program whose pages are at two memory servers, which are killed and started again in turns, or
 * stand still: nothing may be lost, nobody be told of an error, and nobody wait for long.
 */

#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "tests/server/server.h"
#include "tests/stress/real.h"

#define BUDGET       (4 * MIB)
#define PAGES        ((size_t)3072)
#define SERVER_BYTES (160 * MIB)

static char key_path[64];

static struct nurse start_nurse(void)
{
    struct nurse nurse;

    snprintf(key_path, sizeof(key_path), "/var/tmp/weir-key-%d", (int)getpid());
    unlink(key_path);
    cr_assert_eq(nurse_start(key_path, SERVER_BYTES, &nurse), 0);
    return nurse;
}

static struct weir_runtime *open_mirror(const struct nurse *nurse, const char *options)
{
    char spec[512];

    snprintf(spec, sizeof(spec),
             "mirror(tcp://127.0.0.1:%u?size=64M&key=%s&%s, "
             "tcp://127.0.0.1:%u?size=64M&key=%s&%s)?rebuild_bytes_per_s=1G",
             nurse->port[0], key_path, options, nurse->port[1], key_path, options);
    return real_open(BUDGET, spec);
}

struct busy {
    pthread_t thread;
    void *memory;
    size_t pages;
    _Atomic(bool) stop;
    uint64_t salt;
};

static void *keep_busy(void *context)
{
    struct busy *busy = context;

    for (busy->salt = 1; !busy->stop; busy->salt++) {
        real_fill(busy->memory, busy->pages, busy->salt);
        real_check(busy->memory, busy->pages, busy->salt);
    }
    return NULL;
}

Test(mirror, servers_are_killed_in_turns_and_nothing_is_lost, .timeout = 200)
{
    struct nurse nurse = start_nurse();
    struct weir_runtime *rt = open_mirror(&nurse, "timeout=1&patience=1");
    struct busy busy = {.memory = real_map(rt, PAGES * PAGE), .pages = PAGES};
    struct weir_stats stats;

    cr_assert_eq(pthread_create(&busy.thread, NULL, keep_busy, &busy), 0);
    for (unsigned i = 0; i < 2; i++) {
        usleep(300000);
        real_events.text[WEIR_NOTE][0] = 0;
        cr_assert(nurse_kill(&nurse, i));
        usleep(300000);
        cr_assert(nurse_again(&nurse, i));
        cr_assert(real_is_whole_again(), "%s", real_events.text[WEIR_WARNING]);
    }
    busy.stop = true;
    pthread_join(busy.thread, NULL);
    real_check(busy.memory, PAGES, busy.salt - 1);
    stats = real_stats(rt);
    cr_expect_gt(busy.salt, 2);
    cr_expect_eq(stats.checksum_errors, 0);
    cr_expect_eq(real_events.count[WEIR_FAILURE], 0, "%s", real_events.text[WEIR_FAILURE]);
    weir_close(rt);
    nurse_end(&nurse);
    unlink(key_path);
}

/* --- Nobody waits for long -------------------------------------------------------------------- */

#define TIMEOUT_S 1
#define STALL_S   (3 * (TIMEOUT_S + 1)) /* on a machine that does much else */
#define STILL_US  3000000
#define LOOKERS   3

struct looker {
    pthread_t thread;
    const volatile uint64_t *words; /* pages that stay as they are */
    _Atomic(bool) *stop;
    uint64_t random, looks, wrong;
    double longest;
};

static double now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void *look(void *context)
{
    struct looker *looker = context;

    while (!*looker->stop) {
        const double begun = now_s();
        uint64_t page;
        double took;

        looker->random = looker->random * 6364136223846793005u + 1442695040888963407u;
        page = (looker->random >> 33) % PAGES;
        looker->wrong += looker->words[page * 512] != (page * 0x9e3779b97f4a7c15u ^ 99);
        took = now_s() - begun;
        looker->longest = took > looker->longest ? took : looker->longest;
        looker->looks++;
    }
    return NULL;
}

/* Two regions: one is only looked at, the other filled and checked over and over. */
static struct load {
    struct busy busy;
    struct looker lookers[LOOKERS];
    void *kept;
} load;

static void begin_load(struct weir_runtime *rt)
{
    load.kept = real_map(rt, PAGES * PAGE);
    real_fill(load.kept, PAGES, 99);
    load.busy.memory = real_map(rt, PAGES * PAGE / 2);
    load.busy.pages = PAGES / 2;
    cr_assert_eq(pthread_create(&load.busy.thread, NULL, keep_busy, &load.busy), 0);
    for (unsigned i = 0; i < LOOKERS; i++) {
        struct looker *looker = &load.lookers[i];

        looker->words = load.kept;
        looker->stop = &load.busy.stop;
        looker->random = i + 1;
        cr_assert_eq(pthread_create(&looker->thread, NULL, look, looker), 0);
    }
}

static void end_load(void)
{
    load.busy.stop = true;
    pthread_join(load.busy.thread, NULL);
    for (unsigned i = 0; i < LOOKERS; i++) {
        pthread_join(load.lookers[i].thread, NULL);
        cr_expect_eq(load.lookers[i].wrong, 0);
    }
    real_check(load.busy.memory, PAGES / 2, load.busy.salt - 1);
    real_check(load.kept, PAGES, 99);
}

static void expect_short_stalls(const char *what)
{
    double longest = 0;

    for (unsigned i = 0; i < LOOKERS; i++) {
        longest = load.lookers[i].longest > longest ? load.lookers[i].longest : longest;
        load.lookers[i].longest = 0; /* he may store an older one: it is printed once more */
    }
    printf("mirror: the longest touch while a server was %s: %.2f s\n", what, longest);
    cr_expect_lt(longest, STALL_S, "%s", what);
}

Test(mirror, nobody_waits_for_long_for_a_server_that_stands_still_or_dies, .timeout = 200)
{
    struct nurse nurse = start_nurse();
    struct weir_runtime *rt = open_mirror(&nurse, "timeout=1&patience=60");

    begin_load(rt);
    usleep(300000);
    expect_short_stalls("well");
    cr_assert(nurse_stop(&nurse, 0));
    usleep(STILL_US);
    real_events.text[WEIR_NOTE][0] = 0;
    cr_assert(nurse_go(&nurse, 0));
    cr_expect(real_is_whole_again(), "%s", real_events.text[WEIR_WARNING]);
    expect_short_stalls("standing still");
    real_events.text[WEIR_NOTE][0] = 0;
    cr_assert(nurse_kill(&nurse, 1));
    usleep(STILL_US / 2);
    cr_assert(nurse_again(&nurse, 1));
    cr_expect(real_is_whole_again(), "%s", real_events.text[WEIR_WARNING]);
    expect_short_stalls("dead, and back empty");
    end_load();
    cr_expect_eq(real_stats(rt).checksum_errors, 0);
    cr_expect_eq(real_events.count[WEIR_FAILURE], 0, "%s", real_events.text[WEIR_FAILURE]);
    weir_close(rt);
    nurse_end(&nurse);
    unlink(key_path);
}
