/* SPDX-License-Identifier: MIT */
#include "tests/stress/share_kit.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

uint64_t share_number;

static int gate[2]; /* a byte for each process that may begin */
static pid_t tester;
static uint64_t forked;
static struct {
    _Atomic(bool) is_over;
} * shared; /* by all processes */

static void prepare(void)
{
    if (tester)
        return;
    tester = getpid();
    cr_assert_eq(pipe(gate), 0);
    shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(shared, MAP_FAILED);
}

const char *share_name(const char *word)
{
    static char name[64];

    prepare();
    snprintf(name, sizeof(name), "test-%d-%s", tester, word);
    return name;
}

pid_t share_fork(int (*run)(const char *name), const char *name)
{
    pid_t other;

    prepare();
    other = fork();
    cr_assert_geq(other, 0);
    if (other == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nobody behind */
        share_number = forked;
        _exit(run(name));
    }
    forked++;
    return other;
}

void share_begin(void)
{
    cr_assert_eq(write(gate[1], "one byte for each of them", 16), 16);
}

void share_wait_for_begin(void)
{
    char byte;

    if (getpid() != tester && read(gate[0], &byte, 1) != 1)
        _exit(100);
}

void share_stop(void)
{
    atomic_store(&shared->is_over, true);
}

bool share_is_over(void)
{
    return atomic_load(&shared->is_over);
}

int share_end(pid_t other)
{
    int status;

    if (waitpid(other, &status, 0) != other)
        return 1000;
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

struct weir_object *share_object(struct weir_runtime *rt, size_t pages, const char *name)
{
    struct weir_object *object = NULL;
    int error = weir_object_create(rt, pages * PAGE, NULL, &object);

    cr_assert_eq(error, WEIR_OK, "weir_object_create gave %s", weir_error_name(error));
    error = name ? weir_object_share(object, name) : WEIR_OK;
    cr_assert_eq(error, WEIR_OK, "weir_object_share gave %s: %s", weir_error_name(error),
                 real_events.text[WEIR_FAILURE]);
    return object;
}

static _Noreturn void give_up(const char *what, int error)
{
    fprintf(stderr, "process %d: %s: %s\n", getpid(), what, weir_error_name(error));
    _exit(99);
}

static void print(void *context, const struct weir_event *event)
{
    (void)context;
    if (write(STDERR_FILENO, event->text, strlen(event->text)) < 0 ||
        write(STDERR_FILENO, "\n", 1) < 0)
        return;
}

struct weir_attached *share_attach(const char *word)
{
    struct weir_attach_options options = {.size = sizeof(options), .on_event = print};
    struct weir_attached *attached = NULL;
    static bool has_begun;
    int error;

    if (!has_begun)
        share_wait_for_begin();
    has_begun = true;
    error = weir_attach(share_name(word), &options, &attached);
    if (error != WEIR_OK)
        give_up("weir_attach", error);
    return attached;
}

void *share_view(struct weir_attached *attached, size_t page, size_t pages)
{
    void *memory = NULL;
    int error = weir_attached_map(attached, page * PAGE, pages * PAGE, &memory);

    if (error != WEIR_OK)
        give_up("weir_attached_map", error);
    return memory;
}

void share_fill(void *memory, size_t pages, uint64_t salt)
{
    real_fill(memory, pages, salt);
}

void share_check(const void *memory, size_t pages, uint64_t salt)
{
    const volatile uint64_t *words = memory;

    for (size_t i = 0; i < pages; i++)
        if (words[i * 512] != (i * 0x9e3779b97f4a7c15u ^ salt) || words[i * 512 + 511] != i + salt)
            give_up("a page is wrong", (int)i);
}
