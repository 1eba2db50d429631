/* SPDX-License-Identifier: MIT */
#pragma once

/* Clock: milliseconds and nanoseconds that only grow. */

#include <stdint.h>
#include <time.h>

static inline uint64_t memd_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static inline uint64_t memd_now_ms(void)
{
    return memd_now_ns() / 1000000;
}
