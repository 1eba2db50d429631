/* SPDX-License-Identifier: MIT */
#pragma once

/* Ring: have a thread that sleeps on an eventfd look around. */

#include <errno.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Signal. Raw, for the C library's eventfd_write() is a cancellation point. */
static inline void wr_ring(int bell)
{
    const int saved_errno = errno;

    (void)syscall(SYS_write, bell, &(const uint64_t){1}, sizeof(uint64_t));
    errno = saved_errno;
}
