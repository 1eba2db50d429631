/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Real: what the tests on the real kernel share. Each test opens a runtime of its own in the
 * process that Criterion gives it.
 */

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <weir/weir.h>

#define PAGE ((size_t)WEIR_PAGE_BYTES)
#define MIB  ((uint64_t)1 << 20)

/* The last event of each severity, and how many there were. */
struct real_events {
    int count[WEIR_FATAL + 1];
    int error[WEIR_FATAL + 1];
    char text[WEIR_FATAL + 1][512];
};

extern struct real_events real_events;

/* Open with a budget and back ends; fails the test if that fails. */
struct weir_runtime *real_open(uint64_t budget, const char *backends);
/* The same with options that the caller has filled by real_options(). */
void real_options(struct weir_options *options, uint64_t budget, const char *backends);
struct weir_runtime *real_open_with(const struct weir_options *options);

void *real_map(struct weir_runtime *rt, uint64_t bytes);
char *real_map_reserve(struct weir_runtime *rt, uint64_t bytes, uint64_t reserve);
struct weir_stats real_stats(struct weir_runtime *rt);
/* The same, when nothing moves any more. */
struct weir_stats real_at_rest(struct weir_runtime *rt);

/* Write a recognisable number into every page / check it. */
void real_fill(void *memory, size_t pages, uint64_t salt);
void real_check(const void *memory, size_t pages, uint64_t salt);
/* How many of these pages does the kernel have in memory? */
size_t real_resident(const void *memory, size_t pages);

/* A thread that uses the first REAL_KEPT pages of a region all the time, and counts what it did not
 * find as it was left. Zeros at first. */
#define REAL_KEPT 1500u
struct real_keeper {
    char *memory;
    _Atomic(bool) stop;
    unsigned wrong;
};
void *real_keep(void *keeper);

/* Until a note has said that an array has all its copies again, within a minute. */
bool real_is_whole_again(void);
/* Milliseconds since some moment. */
int64_t real_now_ms(void);
/* A line of /proc/self/status, in KiB. */
long real_status_kib(const char *key);
/* SIGSEGV, SIGBUS or 0: what becomes of a load. By one thread at a time. */
int real_load_gives(const volatile void *address);
