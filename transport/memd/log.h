/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Log: what the server tells people. One line an event, the time first.
 *
 * Always: what strangers can cause as often as they like is written a few times in ten seconds and
 * then counted; the next line that is written says how many were left out.
 */

#include <pthread.h>
#include <stdint.h>

enum memd_log_kind {
    MEMD_LOG_EVENT,   /* always written: strangers cannot cause it          */
    MEMD_LOG_DOOR,    /* who did not get in, and why                        */
    MEMD_LOG_UNSOUND, /* a connection that was ended for what it said       */
    MEMD_LOG_REFUSED, /* a lease that was not given                         */
    MEMD_LOG_KINDS
};

struct memd_log {
    void (*write)(void *context, const char *line); /* NULL: nobody listens */
    void *context;
    pthread_mutex_t lock; /* keeps the rest */
    struct {
        uint64_t since_ms;
        uint32_t written, left_out;
    } kinds[MEMD_LOG_KINDS];
};

#define MEMD_SIZE_TEXT 24u

void memd_log_open(struct memd_log *log, void (*write)(void *context, const char *line),
                   void *context);
void memd_log_close(struct memd_log *log);
void memd_log(struct memd_log *log, enum memd_log_kind kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* "3.5 GiB". Returns text. */
const char *memd_size_text(uint64_t bytes, char text[MEMD_SIZE_TEXT]);
