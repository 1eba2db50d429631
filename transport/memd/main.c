/* SPDX-License-Identifier: MIT */

/* weir-memd: a memory server, by command line and signals. */

#include <argp.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "transport/memd/clock.h"
#include "transport/memd/log.h"
#include "transport/memd/options.h"

#define WORDS_MOST       64u
#define LOOK_MS          100u /* while leases are waited for */
/* Those that have not proven the key, doors, threads, the teller's, the standard ones. */
#define DESCRIPTORS_MORE 256u

/* argp's own would be taken for it, were it hidden. */
__attribute__((visibility("default"))) const char *argp_program_version = "weir-memd " WEIR_VERSION;

enum { KEY_CONFIG = 1000, KEY_STATUS, KEY_QUIET, KEY_WORD };
#define KEY_WORDS 15

/* The first ones are settings of memd_settings_read(), under the same names. */
static const struct argp_option arguments[] = {
    {"memory", KEY_WORD + 0, "SIZE", 0, "how much may be lent in all (64G)", 0},
    {"listen", KEY_WORD + 1, "ADDRESS", 0,
     "tcp://HOST:PORT or rdma://HOST:PORT; IPv6 in brackets; port 0: any. May be given several "
     "times",
     0},
    {"key-file", KEY_WORD + 2, "FILE", 0, "what clients have to know: 32 to 2048 bytes, mode 600",
     0},
    {"quota", KEY_WORD + 3, "SIZE", 0, "how much one client may have (all)", 0},
    {"lease", KEY_WORD + 4, "SECONDS", 0, "silence after which a client's memory is freed (30)", 0},
    {"threads", KEY_WORD + 5, "N", 0, "that serve (one a processor, at most 4)", 0},
    {"grace", KEY_WORD + 6, "SECONDS", 0,
     "how long clients may move away after SIGTERM or SIGINT (10)", 0},
    {"keep-free", KEY_WORD + 7, "PERCENT", 0,
     "of this machine's memory; below it, clients are asked for theirs back (5)", 0},
    {"status-socket", KEY_WORD + 8, "PATH", 0, "of a socket that --status asks", 0},
    {"metrics", KEY_WORD + 9, "HOST:PORT", 0, "text for Prometheus, at /metrics", 0},
    {"huge-pages", KEY_WORD + 10, "WHICH", 0,
     "auto: reserved ones (vm.nr_hugepages) if there are enough, else transparent; transparent; "
     "off",
     0},
    {"numa", KEY_WORD + 11, "WHERE", 0,
     "spread: over all nodes; local: where it is written first (spread)", 0},
    {"spin-us", KEY_WORD + 12, "N", 0,
     "microseconds for which a thread looks for the next message before it sleeps (20)", 0},
    {"connections", KEY_WORD + 13, "N", 0, "for how many there is room (1024)", 0},
    {"leases", KEY_WORD + 14, "N", 0, "likewise (256)", 0},
    {"config", KEY_CONFIG, "FILE", 0,
     "settings, one a line: `memory = 64G`. SIGHUP reads memory, quota, lease, keep-free and grace "
     "again",
     0},
    {"status", KEY_STATUS, "PATH", 0, "ask the server with that status socket, and print", 0},
    {"quiet", KEY_QUIET, NULL, 0, "no log once it runs", 0},
    {0},
};

struct program {
    struct memd_word words[WORDS_MOST];
    uint32_t word_count;
    const char *config, *status;
    bool is_quiet;
    _Atomic(bool) is_silent; /* the server's threads ask, too */
    struct memd_settings settings;
    struct memd_log log;
    struct memd *memd;
};

static error_t parse(int key, char *value, struct argp_state *state)
{
    struct program *program = state->input;

    switch (key) {
    case KEY_CONFIG: program->config = value; return 0;
    case KEY_STATUS: program->status = value; return 0;
    case KEY_QUIET: program->is_quiet = true; return 0;
    case ARGP_KEY_ARG: argp_error(state, "\"%s\" is not understood", value); return EINVAL;
    default: break;
    }
    if (key < KEY_WORD || key >= KEY_WORD + KEY_WORDS)
        return ARGP_ERR_UNKNOWN;
    if (program->word_count == WORDS_MOST)
        argp_error(state, "at most %u settings; a file has room for more: --config", WORDS_MOST);
    else
        program->words[program->word_count++] = (struct memd_word){arguments[key - KEY_WORD].name,
                                                                   value};
    return 0;
}

/* --- Asking another -------------------------------------------------------------------------- */

static int complain(const char *path)
{
    fprintf(stderr, "weir-memd: %s: %s; is there a server with --status-socket %s?\n", path,
            strerrordesc_np(errno), path);
    return EXIT_FAILURE;
}

static int ask_status(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char text[4096];
    ssize_t got;
    int fd;

    errno = ENAMETOOLONG;
    if (strlen(path) >= sizeof(address.sun_path))
        return complain(path);
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
        return complain(path);
    while ((got = read(fd, text, sizeof(text))) > 0)
        if (fwrite(text, 1, (size_t)got, stdout) != (size_t)got)
            break;
    close(fd);
    return got == 0 && fflush(stdout) == 0 ? EXIT_SUCCESS : complain(path);
}

/* --- Serving --------------------------------------------------------------------------------- */

static void write_line(void *context, const char *line)
{
    struct program *program = context;

    if (!program->is_silent)
        fprintf(stderr, "%s\n", line);
}

/* Descriptors for as many connections as there can be. */
static void raise_limits(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static void tell_of_descriptors(struct program *program)
{
    const uint64_t wanted = program->settings.connections + DESCRIPTORS_MORE;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < wanted)
        memd_log(&program->log, MEMD_LOG_EVENT,
                 "%llu descriptors are too few for %llu connections: raise ulimit -n (LimitNOFILE= "
                 "under systemd) to %llu",
                 (unsigned long long)limit.rlim_cur,
                 (unsigned long long)program->settings.connections, (unsigned long long)wanted);
}

static void tell_what_is_lent(struct program *program)
{
    const struct memd_settings *settings = &program->settings;
    char memory[MEMD_SIZE_TEXT], quota[MEMD_SIZE_TEXT], machine[MEMD_SIZE_TEXT];
    struct sysinfo info;

    memd_log(&program->log, MEMD_LOG_EVENT,
             "lends %s, to one client at most %s; a client that is silent for %llu s has left",
             memd_size_text(settings->memory, memory),
             memd_size_text(settings->quota ? settings->quota : settings->memory, quota),
             (unsigned long long)settings->lease);
    if (sysinfo(&info) == 0 && settings->memory > (uint64_t)info.totalram * info.mem_unit)
        memd_log(&program->log, MEMD_LOG_EVENT,
                 "that is more than this machine has (%s): it will ask for memory back before "
                 "everything is used",
                 memd_size_text((uint64_t)info.totalram * info.mem_unit, machine));
}

static int refuse(const char *why)
{
    fprintf(stderr, "weir-memd: %s\n", why);
    return EXIT_FAILURE;
}

static int open_server(struct program *program)
{
    const struct memd_settings *settings = &program->settings;
    struct memd_options options = {
        .listen = settings->listen,
        .listen_count = settings->listen_count,
        .limits = memd_settings_limits(settings),
        .room = {(uint32_t)settings->connections, (uint32_t)settings->leases},
        .threads = (uint32_t)settings->threads,
        .huge_pages = (enum memd_huge_pages)settings->huge_pages,
        .numa = (enum memd_numa)settings->numa,
        .spin_us = (uint32_t)settings->spin_us,
        .status_path = settings->status_path,
        .metrics = settings->metrics,
        .log = write_line,
        .log_context = program};
    struct wr_key key;
    const char *why;
    int error;

    if (!wr_session_begin())
        return refuse("this system has no random numbers: /dev/urandom cannot be read");
    if (wr_key_read(settings->key_file, &key, &why) != WEIR_OK) {
        fprintf(stderr, "weir-memd: key file %s: %s\n", settings->key_file, why);
        return EXIT_FAILURE;
    }
    options.key = &key;
    error = memd_open(&options, &program->memd);
    wr_key_forget(&key);
    return error ? refuse("it does not start; see above") : EXIT_SUCCESS;
}

/* SIGHUP: the file again. What it says wrong changes nothing. */
static void read_again(struct program *program)
{
    struct memd_settings settings;
    struct memd_limits limits;
    char why[MEMD_WHY_BYTES];
    const char *fixed;

    if (!program->config) {
        memd_log(&program->log, MEMD_LOG_EVENT, "SIGHUP: there is no file to read: --config");
        return;
    }
    if (memd_settings_read(program->config, program->words, program->word_count, &settings, why) !=
        WEIR_OK) {
        memd_log(&program->log, MEMD_LOG_EVENT, "SIGHUP: nothing is changed: %s", why);
        return;
    }
    fixed = memd_settings_fixed(&program->settings, &settings);
    if (fixed)
        memd_log(&program->log, MEMD_LOG_EVENT, "SIGHUP: %s is another: that needs a restart",
                 fixed);
    limits = memd_settings_limits(&settings);
    memd_tune(program->memd, &limits);
    program->settings.memory = settings.memory;
    program->settings.quota = settings.quota;
    program->settings.lease = settings.lease;
    program->settings.grace = settings.grace;
    program->settings.keep_free = settings.keep_free;
    memd_settings_free(&settings);
    tell_what_is_lent(program);
}

static uint32_t lease_count(const struct program *program)
{
    return memd_lease_count(program->memd);
}

/* Wait until clients have moved away, or the grace is over, or somebody insists. */
static void let_clients_leave(struct program *program, const sigset_t *ending)
{
    const struct timespec moment = {.tv_nsec = LOOK_MS * 1000000};
    const uint64_t until_ms = memd_now_ms() + program->settings.grace * 1000;

    memd_drain(program->memd);
    if (lease_count(program))
        memd_log(&program->log, MEMD_LOG_EVENT,
                 "closing: %u leases are asked back, for %llu s; another signal ends it at once",
                 lease_count(program), (unsigned long long)program->settings.grace);
    while (lease_count(program) && memd_now_ms() < until_ms)
        if (sigtimedwait(ending, NULL, &moment) > 0)
            break;
    if (lease_count(program))
        memd_log(&program->log, MEMD_LOG_EVENT, "closed with %u leases: their pages are lost",
                 lease_count(program));
    else
        memd_log(&program->log, MEMD_LOG_EVENT, "closed; nothing was lent any more");
}

static int serve(struct program *program)
{
    sigset_t all, ending;
    int which, error;

    sigemptyset(&ending);
    sigaddset(&ending, SIGTERM);
    sigaddset(&ending, SIGINT);
    all = ending;
    sigaddset(&all, SIGHUP);
    sigprocmask(SIG_BLOCK, &all, NULL);
    raise_limits();
    error = open_server(program);
    if (error)
        return error;
    memd_log_open(&program->log, write_line, program);
    tell_what_is_lent(program);
    tell_of_descriptors(program);
    program->is_silent = program->is_quiet;
    do {
        which = sigwaitinfo(&all, NULL);
        if (which == SIGHUP)
            read_again(program);
    } while (which != SIGTERM && which != SIGINT);
    let_clients_leave(program, &ending);
    memd_close(program->memd);
    memd_log_close(&program->log);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    static const struct argp argp = {
        .options = arguments,
        .parser = parse,
        .doc = "Lend this machine's memory to programs on others, that use it as a back end: "
               "tcp://HOST:PORT?size=8G.\vSIZE: 64G, 512m, 1.5T. The key must be the same "
               "file here and at the clients. It keeps strangers out; it does not hide pages on "
               "the network: clients seal theirs.\n"};
    static struct program program;
    char why[MEMD_WHY_BYTES];
    int result;

    argp_parse(&argp, argc, argv, 0, NULL, &program);
    if (program.status)
        return ask_status(program.status);
    if (memd_settings_read(program.config, program.words, program.word_count, &program.settings,
                           why) != WEIR_OK)
        return refuse(why);
    result = serve(&program);
    memd_settings_free(&program.settings);
    return result;
}
