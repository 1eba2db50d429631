/* SPDX-License-Identifier: MIT */

/* Text: numbers as people read them. */

#include <stdint.h>
#include <time.h>

#include "runtime/cmd/cmd.h"

#define NS_PER_SECOND 1e9

static const char *scaled(char text[CMD_TEXT], double number, double step, const char *const *units,
                          unsigned count)
{
    unsigned unit = 0;

    /* What would be printed as 1000.0 is the next unit's 1.0. */
    while (unit + 1 < count && number >= step * 0.9999) {
        number /= step;
        unit++;
    }
    snprintf(text, CMD_TEXT, unit == 0 || number >= 99.95 ? "%.0f%s%s" : "%.1f%s%s", number,
             units[unit][0] ? " " : "", units[unit]);
    return text;
}

const char *cmd_bytes(char text[CMD_TEXT], double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};

    return scaled(text, bytes, 1024, units, 7);
}

const char *cmd_time(char text[CMD_TEXT], double ns)
{
    static const char *const units[] = {"ns", "us", "ms", "s"};

    return scaled(text, ns, 1000, units, 4);
}

const char *cmd_count(char text[CMD_TEXT], double count)
{
    static const char *const units[] = {"", "k", "M", "G", "T", "P"};

    return scaled(text, count, 1000, units, 6);
}

double cmd_age(uint64_t ns)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / NS_PER_SECOND - (double)ns / NS_PER_SECOND;
}
