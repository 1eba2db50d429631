/* SPDX-License-Identifier: MIT */
#pragma once

/* Real: the system's own calls, by which the simulator gets what it needs itself. The linker gives
 * everybody else those of calls.c (--wrap). */

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/types.h>
#include <time.h>

#define real_mmap   __real_mmap
#define real_munmap __real_munmap

void *__real_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset);
int __real_munmap(void *addr, size_t length);
int __real_madvise(void *addr, size_t length, int advice);
int __real_close(int fd);
ssize_t __real_read(int fd, void *bytes, size_t count);
ssize_t __real_write(int fd, const void *bytes, size_t count);
int __real_clock_gettime(clockid_t clock, struct timespec *now);
long __real_syscall(long number, long a, long b, long c, long d, long e, long f);
int __real_pthread_mutex_lock(pthread_mutex_t *mutex);
int __real_pthread_mutex_unlock(pthread_mutex_t *mutex);
FILE *__real_fopen(const char *path, const char *mode);
