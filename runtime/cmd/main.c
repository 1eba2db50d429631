/* SPDX-License-Identifier: MIT */

/* weir: look at running programs, and at what this machine allows. */

#include <argp.h>
#include <errno.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/cmd/cmd.h"

#define INTERVAL_MS 1000u
#define LEAST_MS    100u
#define MOST_MS     60000u
#define EXIT_USAGE  2

enum { KEY_ONCE = 1000, KEY_VERSION };

static const struct argp_option arguments[] = {
    {"directory", 'd', "PATH", 0, "where programs publish (WEIR_PUBLISH); /dev/shm/weir.UID", 0},
    {"interval", 'i', "SECONDS", 0, "top: between two looks, 0.1 to 60 (1)", 0},
    {"once", KEY_ONCE, NULL, 0, "top: print one screen as text and end", 0},
    {"version", 'V', NULL, 0, "print the version", 0},
    {0},
};

static const struct verb {
    const char *name;
    int (*run)(const struct cmd *cmd);
    bool has_pid;
} verbs[] = {
    {"report", cmd_report, true},
    {"metrics", cmd_metrics, true},
    {"top", cmd_top, true},
    {"doctor", cmd_doctor, false},
};

static const char *const documentation =
    "Looks at programs that use Weir, and at what this machine allows.\v"
    "  report [PID]   what running programs do, for people\n"
    "  metrics [PID]  the same for Prometheus\n"
    "  top [PID]      the same all the time; q ends, p pauses, arrows choose a program\n"
    "  doctor         what this machine and container allow, and what to change\n\n"
    "Programs of the same user are seen, unless they have WEIR_PUBLISH=0. They do not notice. "
    "Exit status: 0 done; 1 not, and why is said; 2 the command line is not understood.";

struct line {
    struct cmd cmd;
    const struct verb *verb;
};

static void take_interval(struct line *line, const char *value, struct argp_state *state)
{
    char *end;
    double seconds = strtod(value, &end);

    if (end == value || *end || !(seconds * 1000 >= LEAST_MS) || !(seconds * 1000 <= MOST_MS))
        argp_error(state, "--interval=%s: seconds from 0.1 to 60 are understood", value);
    line->cmd.interval_ms = (unsigned)(seconds * 1000);
}

static void take_pid(struct line *line, const char *value, struct argp_state *state)
{
    char *end;
    long pid = strtol(value, &end, 10);

    if (line->cmd.pid || !line->verb->has_pid)
        argp_error(state, "\"%s\" is one word too many", value);
    if (end == value || *end || pid < 1 || pid > INT32_MAX)
        argp_error(state, "\"%s\" is no number of a process", value);
    line->cmd.pid = (int)pid;
}

static void take_verb(struct line *line, const char *value, struct argp_state *state)
{
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
        if (strcmp(value, verbs[i].name) == 0)
            line->verb = &verbs[i];
    if (!line->verb)
        argp_error(state, "\"%s\" is not understood: report, metrics, top or doctor", value);
}

static error_t parse(int key, char *value, struct argp_state *state)
{
    struct line *line = state->input;

    switch (key) {
    case 'd': line->cmd.directory = value; return 0;
    case 'i': take_interval(line, value, state); return 0;
    case KEY_ONCE: line->cmd.is_once = true; return 0;
    case 'V': printf("weir %s\n", weir_version()); exit(EXIT_SUCCESS);
    case ARGP_KEY_ARG:
        if (line->verb)
            take_pid(line, value, state);
        else
            take_verb(line, value, state);
        return 0;
    case ARGP_KEY_END:
        if (!line->verb)
            argp_error(state, "what to do? report, metrics, top or doctor");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* --- Who is there ---------------------------------------------------------------------------- */

static const char *directory_of(const struct cmd *cmd)
{
    static char usual[256];

    weir_watch_directory(usual, sizeof(usual));
    return cmd->directory ? cmd->directory : usual;
}

static void explain_pid(const struct cmd *cmd)
{
    const struct passwd *user;
    struct stat status;
    char path[32];

    snprintf(path, sizeof(path), "/proc/%d", cmd->pid);
    if (stat(path, &status) != 0) {
        fprintf(stderr, "weir: there is no process %d\n", cmd->pid);
    } else if (status.st_uid != geteuid()) {
        user = getpwuid(status.st_uid);
        fprintf(stderr, "weir: process %d is another user's (%s); that user can watch it\n",
                cmd->pid, user ? user->pw_name : "unknown");
    } else {
        fprintf(stderr,
                "weir: process %d has nothing in %s: it does not use Weir, has no runtime open, or "
                "has WEIR_PUBLISH=0\n",
                cmd->pid, directory_of(cmd));
    }
}

static void complain_list(const struct cmd *cmd, int error)
{
    if (error == WEIR_EDENIED)
        fprintf(stderr,
                "weir: %s is not a directory of yours alone (mode 700); nothing in it is believed, "
                "remove it\n",
                directory_of(cmd));
    else
        fprintf(stderr, "weir: %s: %s\n", directory_of(cmd), weir_error_text(error));
}

static void add_watch(const struct cmd *cmd, const struct weir_watched *which,
                      struct cmd_watches *watches)
{
    int error = weir_watch_read(cmd->directory, which, &watches->watch[watches->count]);

    if (error == WEIR_OK)
        watches->count++;
    else if (error == WEIR_ENOSUPPORT)
        fprintf(stderr, "weir: process %d has another version of Weir; use that one's command\n",
                which->pid);
    else if (error != WEIR_ENOENT) /* it has just ended */
        fprintf(stderr, "weir: %s/%d.%llu: %s\n", directory_of(cmd), which->pid,
                (unsigned long long)which->number, weir_error_text(error));
}

bool cmd_read(const struct cmd *cmd, bool is_quiet, struct cmd_watches *watches)
{
    static struct weir_watched list[CMD_WATCHED_MAX];
    size_t count;
    int error = weir_watch_list(cmd->directory, list, CMD_WATCHED_MAX, &count);

    watches->count = 0;
    if (error != WEIR_OK) {
        complain_list(cmd, error);
        return false;
    }
    for (size_t i = 0; i < count && i < CMD_WATCHED_MAX; i++)
        if (!cmd->pid || list[i].pid == cmd->pid)
            add_watch(cmd, &list[i], watches);
    if (watches->count > 0 || is_quiet)
        return true;
    if (cmd->pid)
        explain_pid(cmd);
    else
        fprintf(stderr, "weir: no program of yours that uses Weir is running (looked in %s)\n",
                directory_of(cmd));
    return false;
}

void cmd_forget(struct cmd_watches *watches)
{
    for (size_t i = 0; i < watches->count; i++)
        weir_watch_free(watches->watch[i]);
    watches->count = 0;
}

int main(int argc, char **argv)
{
    static const struct argp argp = {
        arguments, parse, "report|metrics|top|doctor [PID]", documentation, NULL, NULL, NULL};
    struct line line = {.cmd = {.interval_ms = INTERVAL_MS}};
    int status;

    argp_err_exit_status = EXIT_USAGE;
    argp_parse(&argp, argc, argv, 0, NULL, &line);
    status = line.verb->run(&line.cmd);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "weir: standard output cannot be written: %s\n", strerrordesc_np(errno));
        return EXIT_FAILURE;
    }
    return status;
}
