/* SPDX-License-Identifier: MIT */

/* Runs the tests of a program one after the other. Arguments are Criterion's and mean nothing. */

#include <criterion/criterion.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define SKIPPED         77
#define TIMEOUT_SECONDS 120u

static struct plain_test *first, **end = &first;
static _Atomic(bool) has_failed; /* of the test that this process runs */

void plain_add(struct plain_test *test)
{
    *end = test;
    end = &test->next;
}

void plain_judge(bool holds, bool is_fatal, const char *place, const char *text)
{
    if (holds)
        return;
    has_failed = true;
    fprintf(stderr, "%s: not so: %s\n", place, text);
    if (is_fatal)
        exit(1);
}

_Noreturn void plain_skip(void)
{
    exit(SKIPPED);
}

static _Noreturn void run_here(const struct plain_test *test)
{
    alarm(test->timeout > 0 ? (unsigned)test->timeout : TIMEOUT_SECONDS);
    if (test->init)
        test->init();
    test->run();
    if (test->fini)
        test->fini();
    exit(has_failed); /* and what was to be done at exit is done, the sanitizer's verdict too */
}

static bool passes(const struct plain_test *test, bool *is_skipped_p)
{
    int status = -1;
    pid_t child;

    fflush(NULL);
    child = fork();
    if (child == 0)
        run_here(test);
    if (child < 0 || waitpid(child, &status, 0) != child)
        return false;
    *is_skipped_p = WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED;
    if (test->signal)
        return WIFSIGNALED(status) && WTERMSIG(status) == test->signal;
    return *is_skipped_p || (WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
    unsigned tested = 0, failed = 0, skipped = 0;

    for (const struct plain_test *test = first; test; test = test->next) {
        bool is_skipped = false;
        bool is_ok = passes(test, &is_skipped);

        tested++;
        failed += !is_ok;
        skipped += is_skipped;
        if (!is_ok || is_skipped)
            printf("%s %s.%s\n", is_ok ? "skipped" : "FAILED", test->suite, test->name);
    }
    printf("%u tested, %u failed, %u skipped\n", tested, failed, skipped);
    return failed > 0 || tested == 0;
}
