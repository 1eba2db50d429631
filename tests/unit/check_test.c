/* SPDX-License-Identifier: MIT */

/* Checks and events: one line, then the end; and who is told what. */

#include "runtime/base/check.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/room_kit.h"

static char printed[2000];

/* Run it in a child; what it prints on standard error is kept. How it ended. */
static int print_of(void (*call)(void))
{
    size_t used = 0;
    int ends[2], status = -1;
    ssize_t count;
    pid_t child;

    cr_assert_eq(pipe(ends), 0);
    child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        dup2(ends[1], STDERR_FILENO);
        call();
        _exit(0);
    }
    close(ends[1]);
    while ((count = read(ends[0], printed + used, sizeof(printed) - 1 - used)) > 0)
        used += (size_t)count;
    printed[used] = '\0';
    close(ends[0]);
    waitpid(child, &status, 0);
    return status;
}

static void fail_a_check(void)
{
    int answer = 41;

    WR_CHECK(answer + 1 == 42);
    WR_CHECK(answer == 42);
}

Test(check, a_failed_check_names_its_place_and_aborts)
{
    int status = print_of(fail_a_check);

    cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    cr_expect_eq(strncmp(printed, "weir: check failed: ", 20), 0, "%s", printed);
    cr_expect_not_null(strstr(printed, "check_test.c:"), "%s", printed);
    cr_expect_not_null(strstr(printed, ": answer == 42\n"), "%s", printed);
    cr_expect_eq(strchr(printed, '\n'), printed + strlen(printed) - 1, "one line");
}

static void fail_at_length(void)
{
    static char text[1500];

    memset(text, 'x', sizeof(text) - 1);
    wr_check_failed(text);
}

Test(check, a_long_text_is_whole)
{
    print_of(fail_at_length);
    cr_expect_eq(strlen(printed), 20 + 1499 + 1);
}

/* --- Events ---------------------------------------------------------------------------------- */

static void tell_nobody(void)
{
    struct wr_events events;

    wr_events_init(&events, NULL, NULL);
    wr_event(&events, WEIR_NOTE, WEIR_OK, 0, 0, "a note");
    wr_event(&events, WEIR_WARNING, WEIR_OK, 0, 0, "a warning");
    wr_event(&events, WEIR_FAILURE, WEIR_EIO, 5, 0, "a failure");
    wr_event(&events, WEIR_FATAL, WEIR_EIO, 5, 0, "the end");
}

Test(check, without_a_listener_only_the_end_is_printed)
{
    cr_expect_eq(print_of(tell_nobody), 0);
    cr_expect_str_eq(printed, "weir: the end\n");
}

static struct weir_event heard;
static char heard_text[64];

static void hear(void *context, const struct weir_event *event)
{
    heard = *event;
    snprintf(heard_text, sizeof(heard_text), "%s", event->text);
    ++*(int *)context;
}

static void tell_a_listener(void)
{
    struct wr_events events;
    int count = 0;

    wr_events_init(&events, hear, &count);
    wr_event(&events, WEIR_FATAL, WEIR_EIO, 5, 0x123000, "the end");
    _exit(count);
}

Test(check, a_listener_hears_everything_and_nothing_is_printed)
{
    struct wr_events events;
    int count = 0;

    wr_events_init(&events, hear, &count);
    wr_event(&events, WEIR_FAILURE, WEIR_EFULL, 28, 0x123000, "no room");
    cr_expect_eq(count, 1);
    cr_expect_eq(heard.size, sizeof(heard));
    cr_expect_eq(heard.severity, WEIR_FAILURE);
    cr_expect_eq(heard.error, WEIR_EFULL);
    cr_expect_eq(heard.os_error, 28);
    cr_expect_eq((uintptr_t)heard.address, 0x123000);
    cr_expect_str_eq(heard_text, "no room");
    cr_expect_eq(WEXITSTATUS(print_of(tell_a_listener)), 1);
    cr_expect_str_eq(printed, "");
}
