/* SPDX-License-Identifier: MIT */

/*
 * Run: this program, started again as a child that measures one thing and writes its results,
 * one "name value" a line, to descriptor 3.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define RESULT_FD   3
#define PATIENCE_MS 300000 /* a run that says nothing for so long hangs */
#define TELL_TRIES  100
#define TELL_US     20000

/* --- In the child ---------------------------------------------------------------------------- */

static char **arguments;
static int argument_count;

const char *bench_argument_text(const char *name, const char *fallback)
{
    size_t length = strlen(name);

    for (int i = 0; i < argument_count; i++)
        if (strncmp(arguments[i], name, length) == 0 && arguments[i][length] == '=')
            return arguments[i] + length + 1;
    return fallback;
}

uint64_t bench_argument(const char *name, uint64_t fallback)
{
    const char *text = bench_argument_text(name, NULL);

    return text ? strtoull(text, NULL, 10) : fallback;
}

double bench_argument_real(const char *name, double fallback)
{
    const char *text = bench_argument_text(name, NULL);

    return text ? strtod(text, NULL) : fallback;
}

void bench_tell(const char *result, double value)
{
    /* A pipe takes memory, and that of the cgroup may be used up just now. */
    for (int i = 0; i < TELL_TRIES; i++) {
        if (dprintf(RESULT_FD, "%s %.17g\n", result, value) > 0)
            return;
        usleep(TELL_US);
    }
    bench_fail("cannot tell %s: %s", result, strerror(errno));
}

void bench_fail(const char *format, ...)
{
    va_list list;

    fprintf(stderr, "bench: ");
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fprintf(stderr, "\n");
    exit(1);
}

void bench_run_main(int argc, char **argv)
{
    bench_run_fn run = argc > 0 ? bench_find_run(argv[0]) : NULL;

    if (!run || fcntl(RESULT_FD, F_GETFD) < 0)
        bench_fail("--run is for the program itself");
    fcntl(RESULT_FD, F_SETFD, FD_CLOEXEC);
    arguments = argv + 1;
    argument_count = argc - 1;
    run();
    exit(0);
}

/* --- In the parent --------------------------------------------------------------------------- */

static bool join_group(const char *group)
{
    char path[500], number[20];
    int fd, length = snprintf(number, sizeof(number), "%d", (int)getpid());
    bool has_joined;

    snprintf(path, sizeof(path), "%s/cgroup.procs", group);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    has_joined = write(fd, number, (size_t)length) == length;
    close(fd);
    return has_joined;
}

/* The same program, linked to the library that has the bugs, lies beside this one. */
static _Noreturn void become_bugged(const char *bug, char **argv)
{
    char path[500];
    ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - sizeof("_bugs"));

    path[length > 0 ? length : 0] = '\0';
    if (length > 5 && strcmp(path + length - 5, "_bugs") != 0)
        strcat(path, "_bugs");
    setenv("WEIR_BUG", bug, 1);
    execv(path, argv);
    fprintf(stderr, "bench: %s: %s\n", path, strerror(errno));
    _exit(127);
}

/* bug: that Weir is to have, or NULL. */
static _Noreturn void become_run(struct bench_side *side, const char *bug, int fd)
{
    char *argv[64] = {(char[]){"bench"}, (char[]){"--run"}};
    char name[40];
    int argc = 2;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGINT, SIG_IGN); /* the parent hears of it too, and kills us */
    if (side->limit_bytes && !join_group(side->group)) {
        fprintf(stderr, "bench: cannot join %s: %s\n", side->group, strerror(errno));
        _exit(1);
    }
    snprintf(name, sizeof(name), "%s", side->run);
    argv[argc++] = name;
    for (char *word = strtok(side->arguments, " "); word && argc < 63; word = strtok(NULL, " "))
        argv[argc++] = word;
    if (fd != RESULT_FD)
        dup2(fd, RESULT_FD);
    else
        fcntl(fd, F_SETFD, 0);
    dup2(STDERR_FILENO, STDOUT_FILENO); /* standard output is for lines */
    if (bug)
        become_bugged(bug, argv);
    execv("/proc/self/exe", argv);
    _exit(127);
}

/* What the child says until it closes its end. False: it went on for too long. */
static bool listen(int fd, struct bench_hold *hold, char *text, size_t room)
{
    const uint64_t patience_ns = PATIENCE_MS * 1000000ull;
    uint64_t heard_ns = bench_now_ns();
    size_t length = 0;

    for (;;) {
        struct pollfd ends[] = {{.fd = fd, .events = POLLIN},
                                {.fd = hold->event_fd, .events = POLLIN}};
        int ready = poll(ends, 2, hold->tick_ms ? hold->tick_ms : PATIENCE_MS);
        ssize_t got;

        text[length] = '\0';
        if (bench_interrupted || bench_now_ns() - heard_ns >= patience_ns)
            return false;
        bench_hold_serve(hold);
        if (ready <= 0 || !ends[0].revents)
            continue;
        got = read(fd, text + length, room - 1 - length);
        if (got <= 0)
            return true;
        length += (size_t)got;
        heard_ns = bench_now_ns();
    }
}

static void parse(char *text, struct bench_results *results)
{
    results->count = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        unsigned i = results->count;

        if (i < 64 && sscanf(line, "%39s %lf", results->item[i].name, &results->item[i].value) == 2)
            results->count++;
    }
}

/* True: the run ended well. Else why not, for people, in `why`. */
static bool run_once(struct bench_side *side, const char *bug, struct bench_results *results,
                     char why[200], int *status_p)
{
    static char text[16384];
    struct bench_hold hold;
    bool has_ended;
    int ends[2];
    pid_t child;

    bench_hold_open(&hold, side->group);
    if (pipe2(ends, O_CLOEXEC) != 0 || (child = fork()) < 0) {
        snprintf(why, 200, "cannot start a process: %s", strerror(errno));
        bench_hold_close(&hold);
        return false;
    }
    if (child == 0)
        become_run(side, bug, ends[1]);
    close(ends[1]);
    has_ended = listen(ends[0], &hold, text, sizeof(text));
    if (!has_ended)
        kill(child, SIGKILL);
    close(ends[0]);
    while (waitpid(child, status_p, 0) < 0 && errno == EINTR)
        ;
    parse(text, results);
    side->is_held = hold.is_able;
    side->held += hold.count;
    bench_hold_close(&hold);
    if (!has_ended)
        snprintf(why, 200, "%s", bench_interrupted ? "interrupted" : "the run hangs");
    else if (WIFSIGNALED(*status_p) && !bench_hold_explain(&hold, why))
        snprintf(why, 200, "the run was killed by signal %d (%s)", WTERMSIG(*status_p),
                 strsignal(WTERMSIG(*status_p)));
    else if (WIFEXITED(*status_p))
        snprintf(why, 200, "the run ended with %d", WEXITSTATUS(*status_p));
    return has_ended && WIFEXITED(*status_p) && WEXITSTATUS(*status_p) == 0;
}

static void say_results(const struct bench_side *side, const char *bug,
                        const struct bench_results *results)
{
    fprintf(stderr, "  %s%s%s: %s %s:", side->name, bug ? " with the bug " : "", bug ? bug : "",
            side->run, side->arguments);
    for (unsigned i = 0; i < results->count; i++)
        fprintf(stderr, " %s=%.6g", results->item[i].name, results->item[i].value);
    fprintf(stderr, "\n");
}

/* Weir once more, with the bug; it may die of it, but not give wrong bytes. */
static bool run_bugged(const struct bench *bench, struct bench_side *side)
{
    struct bench_results *results = &side->bugged[side->bugged_rounds];
    char why[200] = "";
    int status = 0;
    bool is_good = run_once(side, bench->bug, results, why, &status);

    side->bugged_rounds += is_good;
    if (is_good && bench->is_verbose)
        say_results(side, bench->bug, results);
    if (!is_good)
        fprintf(stderr, "bench %s: %s with the bug %s: %s\n", bench->name, side->name, bench->bug,
                why);
    return !bench_interrupted && !(WIFEXITED(status) && WEXITSTATUS(status) == BENCH_EXIT_WRONG);
}

/* One run of a side that can run. False: the bench is over. */
static bool run_side(const struct bench *bench, struct bench_side *side)
{
    bool may_fail = side->may_fail;
    struct bench_results *results = &side->round[side->rounds];
    char why[200] = "";
    int status = 0;

    if (side->limit_bytes && !*side->group &&
        !bench_group_make(side->run, side->limit_bytes, side->group, side->missing))
        return may_fail;
    if (run_once(side, NULL, results, why, &status)) {
        side->rounds++;
        if (bench->is_verbose)
            say_results(side, NULL, results);
        return !bench->bug || strncmp(side->name, "weir", 4) != 0 || run_bugged(bench, side);
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == BENCH_EXIT_WRONG)
        may_fail = false;
    if (!may_fail || bench_interrupted) {
        fprintf(stderr, "bench %s: %s: %s\n  in: --run %s %s\n", bench->name, side->name, why,
                side->run, side->arguments);
        return false;
    }
    snprintf(side->death, sizeof(side->death), "%s", why);
    side->deaths++;
    fprintf(stderr, "bench %s: %s: %s\n", bench->name, side->name, why);
    return true;
}

void bench_side_init(struct bench_side *side, const char *name, const char *run, const char *format,
                     ...)
{
    va_list list;

    memset(side, 0, sizeof(*side));
    side->name = name;
    side->run = run;
    va_start(list, format);
    vsnprintf(side->arguments, sizeof(side->arguments), format, list);
    va_end(list);
}

bool bench_rounds(const struct bench *bench, struct bench_side *sides, unsigned count,
                  unsigned rounds)
{
    if (bench->rounds)
        rounds = bench->rounds;
    for (unsigned round = 0; round < rounds; round++)
        for (unsigned i = 0; i < count; i++)
            if (!*sides[i].missing && !run_side(bench, &sides[i]))
                return false;
    for (unsigned i = 0; i < count; i++)
        if (sides[i].rounds == 0 && !*sides[i].missing)
            snprintf(sides[i].missing, sizeof(sides[i].missing), "%s", sides[i].death);
    return true;
}

static unsigned collect(const struct bench_results *rounds, unsigned count, const char *result,
                        double values[BENCH_ROUNDS_MAX])
{
    unsigned found = 0;

    for (unsigned round = 0; round < count; round++)
        for (unsigned i = 0; i < rounds[round].count; i++)
            if (strcmp(rounds[round].item[i].name, result) == 0)
                values[found++] = rounds[round].item[i].value;
    return found;
}

struct bench_series bench_series(const struct bench_side *side, const char *result)
{
    struct bench_series series = {.side = side};

    series.count = collect(side->round, side->rounds, result, series.value);
    series.bugged_count = collect(side->bugged, side->bugged_rounds, result, series.bugged);
    return series;
}

/* How many rounds both have. */
static unsigned divide(double *values, unsigned count, const double *by, unsigned by_count)
{
    count = count < by_count ? count : by_count;
    for (unsigned i = 0; i < count; i++)
        values[i] /= by[i];
    return count;
}

struct bench_series bench_series_over(const struct bench_side *side, const struct bench_side *other,
                                      const char *result)
{
    struct bench_series over = bench_series(side, result), under = bench_series(other, result);

    over.count = divide(over.value, over.count, under.value, under.count);
    over.bugged_count = divide(over.bugged, over.bugged_count, under.bugged, under.bugged_count);
    return over;
}

double bench_result(const struct bench_side *side, const char *result)
{
    struct bench_series series = bench_series(side, result);

    return bench_median(&series);
}
