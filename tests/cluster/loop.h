/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Loop: threads, processes and time that are made up, in one real thread and from one seed.
 *
 *   task      a thread of a simulated process: a stack of its own, and what it waits for
 *   process   tasks that live, stand still and die together, on a host
 *   point     a place where another task may go on: every call to the system is one
 *   now       the clock; it moves a little at each point, and jumps when nobody can go on
 *
 * Always: a seed decides at each point who goes on; who waits says when he could go on at the
 * earliest, and when that is so for nobody the clock is set to it. So a run is repeated by its
 * number, down to the last byte.
 */

#include <stdbool.h>
#include <stdint.h>

#define LOOP_NEVER  UINT64_MAX
#define LOOP_SECOND 1000000000ull
#define LOOP_MS     1000000ull

struct process {
    char name[16];
    uint32_t host;
    bool is_dead, is_stopped;
    uint64_t stood_ns; /* how long it stood still, in all */
    uint64_t stopped_ns;
};

/* When what is waited for could be so; the past: now. */
typedef uint64_t loop_when(const void *what);

struct task;

/* A world without tasks. */
void loop_begin(uint64_t seed, bool is_verbose);
/* Until the task has ended. */
void loop_run(const struct task *task);
uint64_t loop_hash(void); /* of all that happened */
uint64_t loop_switches(void);

struct task *loop_start(struct process *process, const char *name, void *(*run)(void *context),
                        void *context);
bool loop_has_ended(const struct task *task);
/* For the processes' end: no task of it goes on ever again. */
void loop_kill(struct process *process);
void loop_stop(struct process *process, bool is_stopped);
/* How long it stood still, up to now. */
uint64_t loop_stood_ns(const struct process *process);

/* Of the task that runs; NULL: none does, and the system is the real one. */
struct task *loop_self(void);
struct process *loop_process(void);

uint64_t loop_now(void);
uint64_t loop_draw(uint64_t below); /* a random number */
bool loop_chance(uint32_t one_in);
void loop_point(void);
void loop_yield(void);
void loop_sleep(uint64_t ns);
/* False: the deadline has come. */
bool loop_wait(loop_when *when, const void *what, uint64_t deadline_ns);
/* Into the trace: part of the hash, and shown by --verbose. */
void loop_note(const char *what, uint64_t a, uint64_t b);

/* What must not be: the run is over. */
_Noreturn void loop_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
