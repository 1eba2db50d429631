/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Cmd: what the parts of the command `weir` share. Each of them is a function that gets what was
 * asked for and returns the exit status:
 *
 *   0   done
 *   1   it could not be done: no such program, another user's, nobody may watch; standard error
 *       says why. Of `weir doctor`: Weir does not work here
 *   2   the command line is not understood
 */

#include <stdbool.h>
#include <stdio.h>

#include <weir/weir_watch.h>

#define CMD_WATCHED_MAX 1024u

struct cmd {
    const char *directory; /* NULL: the usual one */
    int pid;               /* 0: all              */
    bool is_once;          /* top: one screen, as text */
    unsigned interval_ms;  /* top */
};

int cmd_report(const struct cmd *cmd);
int cmd_metrics(const struct cmd *cmd);
int cmd_top(const struct cmd *cmd);
int cmd_doctor(const struct cmd *cmd);

/* All runtimes that were asked for, of one moment. */
struct cmd_watches {
    struct weir_watch *watch[CMD_WATCHED_MAX];
    size_t count;
};

/* Read them. False: nothing can be shown; standard error says why. is_quiet: nobody runs is no
 * reason to complain. */
bool cmd_read(const struct cmd *cmd, bool is_quiet, struct cmd_watches *watches);
void cmd_forget(struct cmd_watches *watches);

/* --- Text ------------------------------------------------------------------------------------ */

#define CMD_TEXT 24

/* "3.5 GiB", "12.3 us", "1234" or "12.3 k", at most so long. They return what they fill. */
const char *cmd_bytes(char text[CMD_TEXT], double bytes);
const char *cmd_time(char text[CMD_TEXT], double ns);
const char *cmd_count(char text[CMD_TEXT], double count);

/* Seconds since a time of CLOCK_MONOTONIC in nanoseconds. */
double cmd_age(uint64_t ns);
