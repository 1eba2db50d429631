/* SPDX-License-Identifier: MIT */
#include "tests/stress/real.h"

#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct real_events real_events;

/* Async-signal-safe, like every listener. */
static void listen(void *context, const struct weir_event *event)
{
    (void)context;
    real_events.count[event->severity]++;
    real_events.error[event->severity] = event->error;
    strncpy(real_events.text[event->severity], event->text,
            sizeof(real_events.text[event->severity]) - 1);
}

void real_options(struct weir_options *options, uint64_t budget, const char *backends)
{
    weir_options_init(options);
    options->budget_bytes = budget;
    options->backends = backends;
    options->on_event = listen;
}

struct weir_runtime *real_open_with(const struct weir_options *options)
{
    struct weir_runtime *rt = NULL;
    int error = weir_open(options, &rt);

    cr_assert_eq(error, WEIR_OK, "weir_open gave %s: %s", weir_error_name(error),
                 real_events.text[WEIR_FAILURE]);
    return rt;
}

struct weir_runtime *real_open(uint64_t budget, const char *backends)
{
    struct weir_options options;

    real_options(&options, budget, backends);
    return real_open_with(&options);
}

void *real_map(struct weir_runtime *rt, uint64_t bytes)
{
    void *memory = NULL;
    int error = weir_map(rt, bytes, NULL, &memory);

    cr_assert_eq(error, WEIR_OK, "weir_map gave %s", weir_error_name(error));
    return memory;
}

char *real_map_reserve(struct weir_runtime *rt, uint64_t bytes, uint64_t reserve)
{
    const struct weir_region_options options = {.size = sizeof(options), .reserve_bytes = reserve};
    void *memory = NULL;

    cr_assert_eq(weir_map(rt, bytes, &options, &memory), WEIR_OK);
    return memory;
}

struct weir_stats real_stats(struct weir_runtime *rt)
{
    struct weir_stats stats = {.size = sizeof(stats)};

    cr_assert_eq(weir_stats(rt, &stats), WEIR_OK);
    return stats;
}

void real_fill(void *memory, size_t pages, uint64_t salt)
{
    volatile uint64_t *words = memory;

    for (size_t i = 0; i < pages; i++) {
        words[i * 512] = i * 0x9e3779b97f4a7c15u ^ salt;
        words[i * 512 + 511] = i + salt;
    }
}

void real_check(const void *memory, size_t pages, uint64_t salt)
{
    const volatile uint64_t *words = memory;

    for (size_t i = 0; i < pages; i++) {
        uint64_t first = words[i * 512], last = words[i * 512 + 511];

        cr_assert(first == (i * 0x9e3779b97f4a7c15u ^ salt) && last == i + salt,
                  "page %zu holds %#llx %#llx", i, (unsigned long long)first,
                  (unsigned long long)last);
    }
}

size_t real_resident(const void *memory, size_t pages)
{
    unsigned char *there = calloc(pages, 1);
    size_t count = 0;

    cr_assert_eq(mincore((void *)(uintptr_t)memory, pages * PAGE, there), 0);
    for (size_t i = 0; i < pages; i++)
        count += there[i] & 1;
    free(there);
    return count;
}

void *real_keep(void *context)
{
    struct real_keeper *keeper = context;
    volatile uint64_t *words = (void *)keeper->memory;

    for (uint64_t round = 1; !keeper->stop; round++)
        for (size_t i = 0; i < REAL_KEPT; i++) {
            keeper->wrong += words[i * 512] != (round - 1) * (i + 1);
            words[i * 512] = round * (i + 1);
        }
    return NULL;
}

bool real_is_whole_again(void)
{
    for (int i = 0; i < 600; i++) {
        if (strstr(real_events.text[WEIR_NOTE], "all its copies again"))
            return true;
        usleep(100000);
    }
    return false;
}

int64_t real_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

long real_status_kib(const char *key)
{
    FILE *file = fopen("/proc/self/status", "re");
    char line[256];
    long kib = -1;

    cr_assert_not_null(file);
    while (kib < 0 && fgets(line, sizeof(line), file))
        if (strncmp(line, key, strlen(key)) == 0)
            kib = strtol(line + strlen(key), NULL, 10);
    fclose(file);
    return kib;
}

static sigjmp_buf refused;

static void on_refusal(int number)
{
    siglongjmp(refused, number);
}

int real_load_gives(const volatile void *address)
{
    struct sigaction action = {.sa_handler = on_refusal}, before;
    int number;

    sigaction(SIGSEGV, &action, &before);
    number = sigsetjmp(refused, 1);
    if (number == 0)
        (void)*(const volatile char *)address;
    sigaction(SIGSEGV, &before, NULL);
    return number;
}

struct weir_stats real_at_rest(struct weir_runtime *rt)
{
    struct weir_stats before = real_stats(rt), now = before;

    for (int i = 0; i < 100; i++) {
        usleep(300000); /* longer than what fills no cluster waits for company */
        now = real_stats(rt);
        if (memcmp(&before, &now, sizeof(now)) == 0)
            break;
        before = now;
    }
    return now;
}
