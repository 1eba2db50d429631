/* SPDX-License-Identifier: MIT */

/*
 * A program whose pages are at four memory servers, with parity for two: two of them are killed at
 * a time under load, and started again. Nothing may be lost, nobody be told of an error.
 */

#include <pthread.h>
#include <unistd.h>

#include "tests/server/server.h"
#include "tests/stress/real.h"

#define BUDGET       (4 * MIB)
#define PAGES        ((size_t)3072)
#define SERVER_BYTES (80 * MIB)
#define OPTIONS      "?size=32M&timeout=1&patience=1&key="

static char key_path[64];

static struct weir_runtime *open_ec(const struct nurse *nurse)
{
    char spec[1024];
    int used = snprintf(spec, sizeof(spec), "ec(2+2");

    for (int i = 0; i < NURSE_SERVERS; i++)
        used += snprintf(spec + used, sizeof(spec) - (size_t)used, ", tcp://127.0.0.1:%u%s%s",
                         nurse->port[i], OPTIONS, key_path);
    snprintf(spec + used, sizeof(spec) - (size_t)used, ")?rebuild_bytes_per_s=1G");
    return real_open(BUDGET, spec);
}

struct busy {
    pthread_t thread;
    void *memory;
    _Atomic(bool) stop;
    _Atomic(uint64_t) salt;
};

static void *keep_busy(void *context)
{
    struct busy *busy = context;

    for (busy->salt = 1; !busy->stop; busy->salt++) {
        real_fill(busy->memory, PAGES, busy->salt);
        real_check(busy->memory, PAGES, busy->salt);
    }
    return NULL;
}

/* Until everything was written and read once more, with those that are there. */
static void go_round(const struct busy *busy)
{
    const uint64_t until = busy->salt + 2;

    while (busy->salt < until)
        usleep(10000);
}

Test(ec, two_servers_of_four_are_killed_and_nothing_is_lost, .timeout = 200)
{
    struct nurse nurse;
    struct weir_runtime *rt;
    struct busy busy = {.stop = false};

    snprintf(key_path, sizeof(key_path), "/var/tmp/weir-key-%d", (int)getpid());
    unlink(key_path);
    cr_assert_eq(nurse_start(key_path, SERVER_BYTES, &nurse), 0);
    rt = open_ec(&nurse);
    busy.memory = real_map(rt, PAGES * PAGE);
    cr_assert_eq(pthread_create(&busy.thread, NULL, keep_busy, &busy), 0);
    go_round(&busy);
    cr_assert(nurse_kill(&nurse, 0) && nurse_kill(&nurse, 2));
    go_round(&busy);
    real_events.text[WEIR_NOTE][0] = 0;
    cr_assert(nurse_again(&nurse, 0) && nurse_again(&nurse, 2));
    cr_assert(real_is_whole_again(), "%s", real_events.text[WEIR_WARNING]);
    go_round(&busy);
    busy.stop = true;
    pthread_join(busy.thread, NULL);
    real_check(busy.memory, PAGES, busy.salt - 1);
    cr_expect_eq(real_stats(rt).checksum_errors, 0);
    cr_expect_eq(real_events.count[WEIR_FAILURE], 0, "%s", real_events.text[WEIR_FAILURE]);
    weir_close(rt);
    nurse_end(&nurse);
    unlink(key_path);
}
