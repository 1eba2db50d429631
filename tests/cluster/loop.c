/* SPDX-License-Identifier: MIT */
#include "tests/cluster/loop.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "tests/cluster/real.h"

#define TASKS_MOST  16384u
#define STACK_BYTES ((size_t)256 << 10)
#define START_NS    (1000 * LOOP_SECOND)

struct task {
    struct process *process;
    char name[16];
    void *(*run)(void *context);
    void *context;
    loop_when *when; /* NULL: it can go on */
    const void *what;
    uint64_t deadline_ns;
    bool has_ended;
    int saved_errno;
    ucontext_t machine; /* to begin with; from then on: */
    bool has_begun;
    jmp_buf here;
};

static struct {
    struct task *tasks[TASKS_MOST];
    uint32_t count;
    struct task *self;
    ucontext_t outside_machine;
    jmp_buf outside;
    uint64_t now_ns, random, hash, switches;
    bool is_verbose;
} loop;

/* --- Chance and trace ------------------------------------------------------------------------ */

uint64_t loop_draw(uint64_t below)
{
    uint64_t x = (loop.random += 0x9e3779b97f4a7c15u);

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    return below ? x % below : 0;
}

bool loop_chance(uint32_t one_in)
{
    return loop_draw(one_in) == 0;
}

void loop_note(const char *what, uint64_t a, uint64_t b)
{
    const struct task *self = loop.self;

    loop.hash = (loop.hash ^ loop.now_ns ^ a << 20 ^ b << 40) * 0x100000001b3u;
    if (loop.is_verbose)
        printf("%14.6f %-8s %-8s %-24s %llx %llx\n",
               (double)(loop.now_ns - START_NS) / (double)LOOP_SECOND,
               self ? self->process->name : "", self ? self->name : "", what, (unsigned long long)a,
               (unsigned long long)b);
}

void loop_fail(const char *format, ...)
{
    va_list arguments;

    fflush(stdout);
    fprintf(stderr,
            "WRONG at %.6f s (%s %s): ", (double)(loop.now_ns - START_NS) / (double)LOOP_SECOND,
            loop.self ? loop.self->process->name : "", loop.self ? loop.self->name : "");
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    _Exit(1);
}

uint64_t loop_hash(void)
{
    return loop.hash;
}

uint64_t loop_switches(void)
{
    return loop.switches;
}

/* --- Tasks ----------------------------------------------------------------------------------- */

void loop_begin(uint64_t seed, bool is_verbose)
{
    loop.random = seed * 0x2545f4914f6cdd1du + 1;
    loop.now_ns = START_NS;
    loop.is_verbose = is_verbose;
}

struct task *loop_self(void)
{
    return loop.self;
}

struct process *loop_process(void)
{
    return loop.self ? loop.self->process : NULL;
}

uint64_t loop_now(void)
{
    return loop.now_ns;
}

/* By jumps, for a switch of contexts asks the system for the signal mask each time. The address
 * sanitizer knows the stacks of contexts only. */
#ifdef __SANITIZE_ADDRESS__
static void go_inside(struct task *task)
{
    swapcontext(&loop.outside_machine, &task->machine);
}

static void go_outside(struct task *task)
{
    task->saved_errno = errno;
    swapcontext(&task->machine, &loop.outside_machine);
    errno = task->saved_errno;
}
#else
static void go_inside(struct task *task)
{
    if (_setjmp(loop.outside))
        return;
    if (task->has_begun)
        _longjmp(task->here, 1);
    task->has_begun = true;
    setcontext(&task->machine);
}

static void go_outside(struct task *task)
{
    task->saved_errno = errno;
    if (!_setjmp(task->here))
        _longjmp(loop.outside, 1);
    errno = task->saved_errno;
}
#endif

static void begin_task(void)
{
    struct task *task = loop.self;

    (void)task->run(task->context);
    task->has_ended = true;
    go_outside(task);
}

struct task *loop_start(struct process *process, const char *name, void *(*run)(void *context),
                        void *context)
{
    struct task *task = calloc(1, sizeof(*task));
    void *stack = real_mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (!task || stack == MAP_FAILED || loop.count == TASKS_MOST)
        loop_fail("the simulator has no room for a task");
    task->process = process;
    task->run = run;
    task->context = context;
    snprintf(task->name, sizeof(task->name), "%s", name);
    getcontext(&task->machine);
    task->machine.uc_stack.ss_sp = stack;
    task->machine.uc_stack.ss_size = STACK_BYTES;
    makecontext(&task->machine, begin_task, 0);
    loop.tasks[loop.count++] = task;
    return task;
}

bool loop_has_ended(const struct task *task)
{
    return task->has_ended;
}

void loop_kill(struct process *process)
{
    process->is_dead = true;
}

void loop_stop(struct process *process, bool is_stopped)
{
    if (is_stopped == process->is_stopped)
        return;
    process->is_stopped = is_stopped;
    if (is_stopped)
        process->stopped_ns = loop.now_ns;
    else
        process->stood_ns += loop.now_ns - process->stopped_ns;
}

uint64_t loop_stood_ns(const struct process *process)
{
    return process->stood_ns + (process->is_stopped ? loop.now_ns - process->stopped_ns : 0);
}

/* --- Who goes on ----------------------------------------------------------------------------- */

static uint64_t when(const struct task *task)
{
    uint64_t at_ns;

    if (task->process->is_stopped)
        return LOOP_NEVER;
    if (!task->when)
        return 0;
    if (task->deadline_ns <= loop.now_ns)
        return 0;
    at_ns = task->when(task->what);
    return at_ns < task->deadline_ns ? at_ns : task->deadline_ns;
}

static void forget_ended(void)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < loop.count; i++)
        if (!loop.tasks[i]->has_ended && !loop.tasks[i]->process->is_dead)
            loop.tasks[kept++] = loop.tasks[i];
    loop.count = kept;
}

/* One of those who can, any; the clock moves if nobody can. */
static struct task *choose(void)
{
    for (;;) {
        uint64_t next_ns = LOOP_NEVER;
        struct task *chosen = NULL;
        uint32_t able = 0;

        forget_ended();
        for (uint32_t i = 0; i < loop.count; i++) {
            uint64_t at_ns = when(loop.tasks[i]);

            if (at_ns <= loop.now_ns) {
                if (loop_draw(++able) == 0)
                    chosen = loop.tasks[i];
            } else if (at_ns < next_ns) {
                next_ns = at_ns;
            }
        }
        if (chosen)
            return chosen;
        if (next_ns == LOOP_NEVER)
            loop_fail("nobody can go on, ever");
        loop.now_ns = next_ns;
    }
}

void loop_run(const struct task *task)
{
    while (!task->has_ended) {
        struct task *next = choose();

        loop.self = next;
        loop.switches++;
        go_inside(next);
        loop.self = NULL;
    }
}

bool loop_wait(loop_when *when_ready, const void *what, uint64_t deadline_ns)
{
    struct task *self = loop.self;

    self->when = when_ready;
    self->what = what;
    self->deadline_ns = deadline_ns;
    go_outside(self);
    self->when = NULL;
    return when_ready(what) <= loop.now_ns;
}

static uint64_t never(const void *what)
{
    (void)what;
    return LOOP_NEVER;
}

void loop_sleep(uint64_t ns)
{
    (void)loop_wait(never, NULL, loop.now_ns + ns);
}

void loop_yield(void)
{
    go_outside(loop.self);
}

/* A call takes its time; and now and then somebody else has the processor, for a while. */
void loop_point(void)
{
    loop.now_ns += 100 + loop_draw(400);
    if (loop_chance(8))
        loop_yield();
    else if (loop_chance(400))
        loop_sleep(loop_draw(loop_chance(8) ? 100 * LOOP_MS : LOOP_MS));
}
