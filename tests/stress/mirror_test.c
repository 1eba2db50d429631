/* SPDX-License-Identifier: MIT */

/*
 * A program whose pages are at two memory servers, which are killed and started again in turns:
 * nothing may be lost, and nobody be told of an error.
 */

#include <pthread.h>
#include <unistd.h>

#include "tests/server/server.h"
#include "tests/stress/real.h"

#define BUDGET       (8 * MIB)
#define PAGES        ((size_t)6144)
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

static struct weir_runtime *open_mirror(const struct nurse *nurse)
{
    char spec[512];

    snprintf(spec, sizeof(spec),
             "mirror(tcp://127.0.0.1:%u?size=64M&key=%s&timeout=1&patience=1, "
             "tcp://127.0.0.1:%u?size=64M&key=%s&timeout=1&patience=1)?rebuild_bytes_per_s=1G",
             nurse->port[0], key_path, nurse->port[1], key_path);
    return real_open(BUDGET, spec);
}

struct busy {
    pthread_t thread;
    void *memory;
    _Atomic(bool) stop;
    uint64_t salt;
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

/* Until it was told that everything is whole, within a minute. */
static bool is_whole_again(void)
{
    for (int i = 0; i < 600; i++) {
        if (strstr(real_events.text[WEIR_NOTE], "all its copies again"))
            return true;
        usleep(100000);
    }
    return false;
}

Test(mirror, servers_are_killed_in_turns_and_nothing_is_lost, .timeout = 200)
{
    struct nurse nurse = start_nurse();
    struct weir_runtime *rt = open_mirror(&nurse);
    struct busy busy = {.memory = real_map(rt, PAGES * PAGE)};
    struct weir_stats stats;

    cr_assert_eq(pthread_create(&busy.thread, NULL, keep_busy, &busy), 0);
    for (unsigned i = 0; i < 2; i++) {
        usleep(300000);
        real_events.text[WEIR_NOTE][0] = 0;
        cr_assert(nurse_kill(&nurse, i));
        usleep(300000);
        cr_assert(nurse_again(&nurse, i));
        cr_assert(is_whole_again(), "%s", real_events.text[WEIR_WARNING]);
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
