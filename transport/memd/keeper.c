/* SPDX-License-Identifier: MIT */

/* Keeper: the thread that ends leases, gives memory back, and looks at the machine's memory. */

#include <signal.h>
#include <stdio.h>

#include "transport/memd/clock.h"
#include "transport/memd/server.h"

#define LOOK_MS 1000u

int memd_thread_start(pthread_t *thread_p, const char *name, void *(*work)(void *argument),
                      void *argument)
{
    sigset_t all, before;
    int error;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(thread_p, NULL, work, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!error)
        pthread_setname_np(*thread_p, name);
    return error;
}

/* The machine's memory in KiB: all, and what programs could still have. */
static bool read_machine(uint64_t *total_p, uint64_t *available_p)
{
    FILE *file = fopen("/proc/meminfo", "re");
    char line[128];
    unsigned found = 0;

    if (!file)
        return false;
    while (found < 2 && fgets(line, sizeof(line), file)) {
        unsigned long long number;

        if (sscanf(line, "MemTotal: %llu", &number) == 1)
            *total_p = number, found++;
        else if (sscanf(line, "MemAvailable: %llu", &number) == 1)
            *available_p = number, found++;
    }
    fclose(file);
    return found == 2;
}

static void look_at_machine(struct memd *memd)
{
    uint64_t total = 0, available = 0;
    uint32_t percent;
    bool is_short, was_short = atomic_load(&memd->book.is_short);
    char left[MEMD_SIZE_TEXT];

    if (!read_machine(&total, &available))
        return;
    pthread_mutex_lock(&memd->book.lock);
    percent = memd->book.limits.keep_free_percent;
    pthread_mutex_unlock(&memd->book.lock);
    is_short = available < total / 100 * percent;
    if (is_short == was_short)
        return;
    atomic_store(&memd->book.is_short, is_short);
    memd_size_text(available * 1024, left);
    if (is_short)
        memd_log(&memd->log, MEMD_LOG_EVENT,
                 "this machine has only %s of memory left, less than %u %%: clients are asked for "
                 "theirs back, and nothing more is lent",
                 left, percent);
    else
        memd_log(&memd->log, MEMD_LOG_EVENT, "this machine has %s of memory left: lends again",
                 left);
}

static void *keep(void *argument)
{
    struct memd *memd = argument;
    uint64_t look_ms = 0;

    while (!atomic_load(&memd->is_stopping)) {
        const uint64_t now_ms = memd_now_ms();
        uint64_t next_ms;

        if (now_ms >= look_ms) {
            look_at_machine(memd);
            look_ms = now_ms + LOOK_MS;
        }
        next_ms = memd_book_expire(&memd->book, now_ms);
        if (!memd_book_reap(&memd->book))
            memd_book_wait(&memd->book, next_ms < look_ms ? next_ms : look_ms);
    }
    return NULL;
}

int memd_keeper_start(struct memd *memd)
{
    int error;

    /* Before anybody is let in: what is short is not lent. */
    look_at_machine(memd);
    error = memd_thread_start(&memd->keeper, "memd-keeper", keep, memd);
    memd->has_keeper = !error;
    return error;
}

void memd_keeper_stop(struct memd *memd)
{
    if (!memd->has_keeper)
        return;
    atomic_store(&memd->is_stopping, true);
    memd_book_wake(&memd->book);
    pthread_join(memd->keeper, NULL);
    memd->has_keeper = false;
}
