/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Share kit: other processes for tests of shared objects. They are forked before the test opens a
 * runtime, wait until it says begin, and answer by how they end: never by an assertion.
 */

#include <stdbool.h>
#include <sys/types.h>

#include <weir/weir_share.h>

#include "tests/stress/real.h"

/* Which of the processes that share_fork() made this is, 0 first. */
extern uint64_t share_number;

/* A name that no other test running now has. */
const char *share_name(const char *word);

/* A process that runs this when the test begins; what it returns is its end. */
pid_t share_fork(int (*run)(const char *name), const char *name);
void share_begin(void);
void share_wait_for_begin(void);
/* Tell them that it is enough; and, in any of them, was it told? */
void share_stop(void);
bool share_is_over(void);
/* How it ended: its exit status, or a signal, negative. */
int share_end(pid_t other);

/* An object of the owner's, shared by this name if there is one. */
struct weir_object *share_object(struct weir_runtime *rt, size_t pages, const char *name);

/* In any process: attach and map, or end it with a message. */
struct weir_attached *share_attach(const char *word);
void *share_view(struct weir_attached *attached, size_t page, size_t pages);

/* As real_fill() and real_check(), for other processes: what is wrong ends them. */
void share_fill(void *memory, size_t pages, uint64_t salt);
void share_check(const void *memory, size_t pages, uint64_t salt);

/* Within ten seconds it is so. */
#define SHARE_AWAIT(condition)                                      \
    do {                                                            \
        for (int tries = 0; !(condition) && tries < 10000; tries++) \
            usleep(1000);                                           \
        cr_assert(condition);                                       \
    } while (0)
