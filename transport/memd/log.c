/* SPDX-License-Identifier: MIT */
#include "transport/memd/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

#include "transport/memd/clock.h"

#define LINE_BYTES  512
#define WINDOW_MS   10000u
#define WINDOW_MOST 5u /* lines of one kind in it */

void memd_log_open(struct memd_log *log, void (*write)(void *context, const char *line),
                   void *context)
{
    *log = (struct memd_log){.write = write, .context = context};
    pthread_mutex_init(&log->lock, NULL);
}

void memd_log_close(struct memd_log *log)
{
    pthread_mutex_destroy(&log->lock);
}

/* May a line of this kind be written now? *left_out_p: how many were not, before it. */
static bool pass_locked(struct memd_log *log, enum memd_log_kind kind, uint32_t *left_out_p)
{
    const uint64_t now_ms = memd_now_ms();

    *left_out_p = 0;
    if (kind == MEMD_LOG_EVENT)
        return true;
    if (log->kinds[kind].written == 0 || now_ms - log->kinds[kind].since_ms >= WINDOW_MS) {
        *left_out_p = log->kinds[kind].left_out;
        log->kinds[kind].since_ms = now_ms;
        log->kinds[kind].written = log->kinds[kind].left_out = 0;
    }
    if (log->kinds[kind].written == WINDOW_MOST) {
        log->kinds[kind].left_out++;
        return false;
    }
    log->kinds[kind].written++;
    return true;
}

static size_t put_time(char *line, size_t room)
{
    const time_t now = time(NULL);
    struct tm parts;

    return localtime_r(&now, &parts) ? strftime(line, room, "%Y-%m-%d %H:%M:%S ", &parts) : 0;
}

void memd_log(struct memd_log *log, enum memd_log_kind kind, const char *format, ...)
{
    char line[LINE_BYTES];
    uint32_t left_out;
    va_list arguments;
    size_t length;

    if (!log->write)
        return;
    pthread_mutex_lock(&log->lock);
    if (pass_locked(log, kind, &left_out)) {
        length = put_time(line, sizeof(line));
        if (left_out)
            length += (size_t)snprintf(line + length, sizeof(line) - length,
                                       "(%u lines like this were left out) ", left_out);
        va_start(arguments, format);
        vsnprintf(line + length, sizeof(line) - length, format, arguments);
        va_end(arguments);
        log->write(log->context, line);
    }
    pthread_mutex_unlock(&log->lock);
}

const char *memd_size_text(uint64_t bytes, char text[MEMD_SIZE_TEXT])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned unit = 0;
    uint64_t rest = 0;

    while (bytes >= 1024 && unit < 6) {
        rest = bytes % 1024;
        bytes /= 1024;
        unit++;
    }
    if (rest * 10 / 1024)
        snprintf(text, MEMD_SIZE_TEXT, "%llu.%llu %s", (unsigned long long)bytes,
                 (unsigned long long)(rest * 10 / 1024), units[unit]);
    else
        snprintf(text, MEMD_SIZE_TEXT, "%llu %s", (unsigned long long)bytes, units[unit]);
    return text;
}
