/* SPDX-License-Identifier: MIT */

/* The bench program: bench NAME [--quick] [--rounds=N] [--dir=PATH] [--bug=WORD] [--only=TEXT]
 * [--verbose]; bench list. */

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "runtime/base/bug.h"

#include "runs.h"

struct entry {
    char name[24];
    const char *help;
    bool (*drive)(struct bench *bench);
};

static struct entry benches[] = {
#define BENCH_ENTRY(name, help) {#name, help, bench_drive_##name},
    BENCH_MAP(BENCH_ENTRY)
#undef BENCH_ENTRY
};
#define BENCH_COUNT (sizeof(benches) / sizeof(benches[0]))

static const struct {
    const char *word, *help;
} bugs[] = {
#define BENCH_ENTRY(word, help) {#word, help},
    WR_BUG_MAP(BENCH_ENTRY)
#undef BENCH_ENTRY
};

static void name_benches(void)
{
    for (size_t i = 0; i < BENCH_COUNT; i++)
        for (char *at = benches[i].name; (at = strchr(at, '_')) != NULL;)
            *at = '-';
}

bench_run_fn bench_find_run(const char *name)
{
    static const struct {
        const char *name;
        bench_run_fn run;
    } runs[] = {
#define BENCH_ENTRY(name) {#name, bench_run_##name},
        BENCH_RUN_MAP(BENCH_ENTRY)
#undef BENCH_ENTRY
    };

    for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++)
        if (strcmp(runs[i].name, name) == 0)
            return runs[i].run;
    return NULL;
}

bool bench_is_asked(const struct bench *bench, const char *point)
{
    return !bench->only || strstr(point, bench->only);
}

void bench_kernel_side(struct bench_side *side, const char *name, const char *run,
                       const char *missing, uint64_t budget, uint64_t pages)
{
    bench_side_init(side, name, run, "memory=kernel budget=%llu pages=%llu",
                    (unsigned long long)budget, (unsigned long long)pages);
    side->limit_bytes = budget + bench_allowance(pages, 1);
    side->may_fail = true;
    snprintf(side->missing, sizeof(side->missing), "%s", missing);
}

void bench_raw_side(struct bench_side *side, const char *name, const char *run, const char *missing,
                    const char *file, uint64_t bytes)
{
    bench_side_init(side, name, run, "file=%s bytes=%llu", file, (unsigned long long)bytes);
    side->may_fail = true;
    snprintf(side->missing, sizeof(side->missing), "%s", missing);
}

void bench_side_more(struct bench_side *side, const char *format, ...)
{
    size_t used = strlen(side->arguments);
    va_list list;

    va_start(list, format);
    vsnprintf(side->arguments + used, sizeof(side->arguments) - used, format, list);
    va_end(list);
}

void bench_file_spec(const struct bench *bench, uint64_t pages, char spec[300])
{
    snprintf(spec, 300, "file:%s?size=%lluM", bench->dir,
             (unsigned long long)(pages * BENCH_PAGE * 4 / BENCH_MIB));
}

/* --- The program ----------------------------------------------------------------------------- */

static void usage(FILE *to)
{
    fprintf(
        to,
        "bench NAME [--quick] [--rounds=N] [--dir=PATH] [--bug=WORD] [--only=TEXT] [--verbose]\n\n"
        "One JSON object a line; docs/BENCHMARKS.md says what the fields mean.\n"
        "  --quick      less than a minute; for seeing that it works, not for quoting\n"
        "  --rounds=N   so many runs of each side; figures are medians (at most 15)\n"
        "  --dir=PATH   where the files of a bench are made (/var/tmp)\n"
        "  --bug=WORD   a side more: Weir with a historic bug (below)\n"
        "  --only=TEXT  of policy and trash: only the points with this in their name\n"
        "  --verbose    what every run said, on standard error\n\n"
        "  all          every one of these, in turn\n");
    for (size_t i = 0; i < BENCH_COUNT; i++)
        fprintf(to, "  %-13s %s\n", benches[i].name, benches[i].help);
    fprintf(to, "\nbugs:\n");
    for (size_t i = 0; i < WR_BUG_COUNT; i++)
        fprintf(to, "  %-15s %s\n", bugs[i].word, bugs[i].help);
}

static bool is_bug(const char *word)
{
    for (size_t i = 0; i < WR_BUG_COUNT; i++)
        if (strcmp(bugs[i].word, word) == 0)
            return true;
    fprintf(stderr, "bench: there is no bug \"%s\"\n", word);
    return false;
}

/* Two benches at a time would measure each other. The name is gone when the process is. */
static bool be_alone(void)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "\0weir-bench"};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    return fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof(name)) == 0;
}

static int drive(struct bench *bench, const struct entry *entry, const char *parent)
{
    bool is_good;

    bench->name = entry->name;
    snprintf(bench->dir, sizeof(bench->dir), "%.150s/weir-bench-%d", parent, (int)getpid());
    if (!bench_undo_open()) {
        fprintf(stderr, "bench: cannot start a process: %s\n", strerror(errno));
        return 1;
    }
    bench_undo("rmdir", bench->dir);
    is_good = mkdir(bench->dir, 0700) == 0;
    if (is_good)
        is_good = entry->drive(bench);
    else
        fprintf(stderr, "bench: %s: %s\n", bench->dir, strerror(errno));
    bench_undo_close();
    if (bench_interrupted)
        return 128 + bench_interrupted;
    return is_good ? 0 : 1;
}

static int drive_named(struct bench *bench, const char *name, const char *parent)
{
    const bool is_all = strcmp(name, "all") == 0;
    bool is_known = false;
    int status = 0;

    for (size_t i = 0; i < BENCH_COUNT && !bench_interrupted; i++)
        if (is_all || strcmp(benches[i].name, name) == 0) {
            int one = drive(bench, &benches[i], parent);

            is_known = true;
            status = status ? status : one;
        }
    if (is_known)
        return status;
    fprintf(stderr, "bench: there is no bench \"%s\"\n", name);
    usage(stderr);
    return 2;
}

static bool parse(struct bench *bench, const char **dir_p, int argc, char **argv)
{
    static const struct option options[] = {
        {"quick", no_argument, NULL, 'q'},     {"rounds", required_argument, NULL, 'r'},
        {"dir", required_argument, NULL, 'd'}, {"verbose", no_argument, NULL, 'v'},
        {"bug", required_argument, NULL, 'b'}, {"only", required_argument, NULL, 'o'},
        {"help", no_argument, NULL, 'h'},      {NULL, 0, NULL, 0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'q': bench->is_quick = true; break;
        case 'r': bench->rounds = (unsigned)strtoul(optarg, NULL, 10); break;
        case 'd': *dir_p = optarg; break;
        case 'b': bench->bug = optarg; break;
        case 'o': bench->only = optarg; break;
        case 'v': bench->is_verbose = true; break;
        case 'h': usage(stdout); exit(0);
        default: return false;
        }
    }
    return optind == argc - 1 && bench->rounds <= BENCH_ROUNDS_MAX &&
           (!bench->bug || is_bug(bench->bug));
}

int main(int argc, char **argv)
{
    const char *dir = "/var/tmp";
    struct bench bench = {0};

    if (argc > 1 && strcmp(argv[1], "--run") == 0)
        bench_run_main(argc - 2, argv + 2);
    name_benches();
    if (!parse(&bench, &dir, argc, argv)) {
        usage(stderr);
        return 2;
    }
    if (strcmp(argv[optind], "list") == 0) {
        usage(stdout);
        return 0;
    }
    if (!be_alone()) {
        fprintf(stderr, "bench: another bench is running on this machine\n");
        return 1;
    }
    return drive_named(&bench, argv[optind], dir);
}
