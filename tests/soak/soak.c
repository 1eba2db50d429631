/* SPDX-License-Identifier: MIT */

/* The driver: which legs there are, how long each has, and what became of them. */

#include "soak.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LEG_MAX_S  240u
#define LEG_MIN_S  1u
#define LEG_FULL_S 5u   /* shorter ones have fewer pages: before it ends, each looks at all */
#define PATIENCE_S 300u /* beyond twice its time, before a leg is taken for hung */
#define SPEC_ROOM  1024u
#define SLOW       "delay_us=300&jitter_us=2000&reorder=1&short=0.1"
#define BAD        SLOW "&fail_write=0.02&fail_read=0.001&hang_after=3000&hang_ms=400"

/* In specifications: @ is the directory, # the seed. */
struct leg {
    const char *name, *engine, *backends;
    const char *spare; /* of trashers; NULL: weir_stress */
    const char *views; /* of weir_stress                 */
    bool may_fail, has_drains;
};

static const struct leg legs[] = {
    {"trash move, memory before file", "move",
     "mem:?size=64M&priority=2 file:@?size=1G&priority=1 file:@?size=1G&priority=1",
     "file:@?size=1G&priority=1", NULL, false, true},
    {"trash wp, file", "wp", "file:@?size=1G", "file:@?size=1G", NULL, false, true},
    {"trash move, bad memory", "move", "chaos(mem:?size=512M)?seed=#&" BAD,
     "chaos(mem:?size=512M)?seed=#&" BAD, NULL, true, true},
    {"trash wp, bad file before memory", "wp",
     "chaos(file:@?size=1G)?seed=#&" BAD "&priority=2 mem:?size=512M&priority=1",
     "chaos(file:@?size=1G)?seed=#&priority=2&" SLOW, NULL, true, true},
    {"stress move, memory", "move", "mem:?size=2G", NULL, "0", false, true},
    {"stress wp, file", "wp", "file:@?size=2G", NULL, "0", false, true},
    {"stress move, bad file", "move", "chaos(file:@?size=2G)?seed=#&" BAD, NULL, "0", true, false},
    {"stress wp, bad memory", "wp", "chaos(mem:?size=2G)?seed=#&" BAD, NULL, "0", true, false},
    {"stress move, 200 views", "move", "mem:?size=2G", NULL, "200", false, true},
    {"stress wp, 60 views, file", "wp", "file:@?size=2G", NULL, "60", false, true},
    {"stress move, 8 views, bad memory", "move", "chaos(mem:?size=2G)?seed=#&" BAD, NULL, "8", true,
     false},
};
#define LEGS (sizeof(legs) / sizeof(legs[0]))

struct soak {
    unsigned seconds, seed;
    const char *directory;
    char stress[PATH_MAX];
    double begun, told;
    unsigned done, failed, skipped;
    struct soak_gauges most;
};

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void expand(const struct soak *soak, const char *pattern, uint64_t seed, char *spec)
{
    size_t length = 0;

    for (; pattern && *pattern && length + 64 < SPEC_ROOM; pattern++) {
        int n = 1;

        if (*pattern == '@')
            n = snprintf(spec + length, SPEC_ROOM - length, "%s", soak->directory);
        else if (*pattern == '#')
            n = snprintf(spec + length, SPEC_ROOM - length, "%llu", (unsigned long long)seed);
        else
            spec[length] = *pattern;
        length += (size_t)n;
    }
    if (length + 64 >= SPEC_ROOM) {
        fprintf(stderr, "soak: the name of the directory is too long\n");
        exit(2);
    }
    spec[length] = 0;
}

/* In the child. */
static _Noreturn void run(const struct soak *soak, const struct leg *leg, unsigned seconds,
                          uint64_t seed)
{
    char backends[SPEC_ROOM], spare[SPEC_ROOM], time[16], number[24];

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    expand(soak, leg->backends, seed, backends);
    expand(soak, leg->spare, seed + 1, spare);
    if (leg->spare)
        soak_trash(&(struct soak_trash){.engine = leg->engine,
                                        .backends = backends,
                                        .spare = spare,
                                        .may_fail = leg->may_fail,
                                        .seconds = seconds,
                                        .seed = seed});
    snprintf(time, sizeof(time), "%u", seconds);
    snprintf(number, sizeof(number), "%llu", (unsigned long long)seed);
    execl(soak->stress, "weir_stress", "--engine", leg->engine, "--backends", backends, "--views",
          leg->views, "--seconds", time, "--seed", number, "--pages",
          seconds < LEG_FULL_S ? "6144" : "16384", leg->has_drains ? "--drain" : NULL,
          (char *)NULL);
    fprintf(stderr, "soak: %s: %s\n", soak->stress, strerror(errno));
    _exit(2);
}

static void tell(struct soak *soak, const char *name, const struct soak_gauges *g)
{
    if (now_s() - soak->told < 60)
        return;
    soak->told = now_s();
    printf("soak: %.0f of %.0f minutes; %s: RssAnon %ld MiB, VmPTE %ld KiB, %d descriptors, %d "
           "threads; %u legs done, %u failed\n",
           (soak->told - soak->begun) / 60, soak->seconds / 60.0, name, g->resident_kib / 1024,
           g->tables_kib, g->descriptors, g->threads, soak->done, soak->failed);
    fflush(stdout);
}

static void note(struct soak *soak, const struct soak_gauges *g)
{
#define SOAK_MOST(field)             \
    if (g->field > soak->most.field) \
    soak->most.field = g->field
    SOAK_MOST(resident_kib);
    SOAK_MOST(tables_kib);
    SOAK_MOST(descriptors);
    SOAK_MOST(threads);
#undef SOAK_MOST
}

/* Its exit status as by waitpid(). One that hangs is killed. */
static int watch(struct soak *soak, const char *name, pid_t pid, unsigned seconds)
{
    const double patience = now_s() + 2.0 * seconds + PATIENCE_S;
    struct soak_gauges gauges;
    int status;

    while (waitpid(pid, &status, WNOHANG) == 0) {
        usleep(200000);
        if (soak_gauges_read(pid, &gauges)) {
            note(soak, &gauges);
            tell(soak, name, &gauges);
        }
        if (now_s() < patience)
            continue;
        fprintf(stderr, "soak: this leg does not end; it is killed\n");
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        return status;
    }
    return status;
}

static void leg(struct soak *soak, const struct leg *leg, unsigned seconds)
{
    const uint64_t seed = soak->seed + soak->done;
    pid_t pid;
    int status;

    printf("soak: %s, seed %llu, %u s\n", leg->name, (unsigned long long)seed, seconds);
    fflush(stdout);
    pid = fork();
    if (pid == 0)
        run(soak, leg, seconds, seed);
    if (pid < 0) {
        perror("soak: fork");
        exit(2);
    }
    status = watch(soak, leg->name, pid, seconds);
    soak->done++;
    if (WIFEXITED(status) && WEXITSTATUS(status) == SOAK_SKIPPED) {
        soak->skipped++;
    } else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        soak->failed++;
        fprintf(stderr, "soak FAILED: %s, seed %llu: %s %d\n", leg->name, (unsigned long long)seed,
                WIFEXITED(status) ? "exit code" : "signal",
                WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    }
}

static unsigned number_of(const char *text, double unit)
{
    char *end;
    double value = strtod(text, &end);

    if (*end || value <= 0 || value * unit > 1e8) {
        fprintf(stderr, "soak: '%s' is no length of time\n", text);
        exit(2);
    }
    return (unsigned)(value * unit);
}

static void parse(struct soak *soak, int argc, char **argv)
{
    static const struct option longs[] = {{"hours", 1, NULL, 'h'},     {"minutes", 1, NULL, 'm'},
                                          {"seconds", 1, NULL, 's'},   {"seed", 1, NULL, 'r'},
                                          {"directory", 1, NULL, 'd'}, {NULL, 0, NULL, 0}};
    int c;

    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
        case 'h': soak->seconds = number_of(optarg, 3600); break;
        case 'm': soak->seconds = number_of(optarg, 60); break;
        case 's': soak->seconds = number_of(optarg, 1); break;
        case 'r': soak->seed = (unsigned)strtoul(optarg, NULL, 0); break;
        case 'd': soak->directory = optarg; break;
        default:
            fprintf(stderr, "usage: weir_soak [--hours N | --minutes N | --seconds N] [--seed N] "
                            "[--directory PATH]\n");
            exit(2);
        }
    }
}

/* weir_stress lies in a directory beside this program's. */
static void find_stress(struct soak *soak)
{
    static const char name[] = "/../stress/weir_stress";
    ssize_t length = readlink("/proc/self/exe", soak->stress, sizeof(soak->stress) - sizeof(name));
    char *slash;

    soak->stress[length > 0 ? length : 0] = 0;
    slash = strrchr(soak->stress, '/');
    if (!slash) {
        perror("soak: /proc/self/exe");
        exit(2);
    }
    strcpy(slash, name);
}

int main(int argc, char **argv)
{
    struct soak soak = {.seconds = 3600, .seed = 1, .directory = "/var/tmp"};
    unsigned seconds;

    parse(&soak, argc, argv);
    find_stress(&soak);
    soak.begun = soak.told = now_s();
    seconds = soak.seconds / (unsigned)LEGS;
    seconds = seconds < LEG_MIN_S ? LEG_MIN_S : seconds > LEG_MAX_S ? LEG_MAX_S : seconds;
    /* At least one round, and whole legs. */
    while (soak.done < LEGS || now_s() - soak.begun + seconds / 2.0 < soak.seconds)
        leg(&soak, &legs[soak.done % LEGS], seconds);
    printf("soak %s: %.1f minutes, %u legs, %u skipped, %u failed; at most RssAnon %ld MiB, VmPTE "
           "%ld KiB, %d descriptors, %d threads\n",
           soak.failed ? "FAILED" : "ok", (now_s() - soak.begun) / 60, soak.done, soak.skipped,
           soak.failed, soak.most.resident_kib / 1024, soak.most.tables_kib, soak.most.descriptors,
           soak.most.threads);
    return soak.failed ? 1 : 0;
}
