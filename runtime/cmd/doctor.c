/* SPDX-License-Identifier: MIT */

/*
 * weir doctor: what this machine and container allow, and what to change. What Weir can do here it
 * is asked itself, by opening a small runtime in each way; the rest is looked up where the kernel
 * tells it.
 */

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "runtime/cmd/cmd.h"

#define SMALL_BUDGET   (16ull << 20)
#define LEAST_LOCKED   (64ull << 20)
#define LEAST_FILES    1024u
#define LEAST_MAPS     65530u
#define LEAST_ADDRESS  (64ull << 30)
#define TMPFS          0x01021994l
#define LEAST_DISK     (4ull << 30)
#define SECCOMP_FILTER 2u

/* fine; worth to know; Weir does not work, or not well, until it is changed. */
enum verdict { FINE, NOTE, BAD };

static unsigned bad_count;

static void say(enum verdict verdict, const char *what, const char *found, const char *change)
{
    static const char *const marks[] = {"ok  ", "note", "BAD "};

    bad_count += verdict == BAD;
    printf("%s  %-14s %s\n", marks[verdict], what, found);
    if (change)
        printf("      %-14s -> %s\n", "", change);
}

/* --- Where the kernel tells ------------------------------------------------------------------ */

static bool first_line(const char *path, char *text, size_t room)
{
    FILE *file = fopen(path, "re");
    bool is_read = file && fgets(text, (int)room, file);

    if (file)
        fclose(file);
    if (is_read)
        text[strcspn(text, "\n")] = '\0';
    return is_read;
}

/* The number in the line that begins with key; -1: there is none. */
static int64_t number_in(const char *path, const char *key)
{
    FILE *file = fopen(path, "re");
    int64_t number = -1;
    char line[256];

    while (file && number < 0 && fgets(line, sizeof(line), file))
        if (strncmp(line, key, strlen(key)) == 0)
            number = strtoll(line + strlen(key), NULL, 10);
    if (file)
        fclose(file);
    return number;
}

static void look_at_kernel(void)
{
    struct utsname name;
    char text[300];
    unsigned major = 0, minor = 0;
    bool is_old, is_best;

    uname(&name);
    sscanf(name.release, "%u.%u", &major, &minor);
    is_old = major < 5 || (major == 5 && minor < 11);
    is_best = major > 6 || (major == 6 && minor >= 8);
    snprintf(text, sizeof(text), "Linux %.100s, %.60s", name.release, name.machine);
    say(is_old    ? BAD
        : is_best ? FINE
                  : NOTE,
        "kernel", text,
        is_old ? "Weir needs 5.11 or newer"
        : is_best
            ? NULL
            : "works; from 6.8 on pages leave more cheaply (engine move), shared objects need "
              "6.4");
}

static void look_at_seccomp(void)
{
    int64_t mode = number_in("/proc/self/status", "Seccomp:");

    if (mode == SECCOMP_FILTER)
        say(NOTE, "seccomp", "system calls are filtered, as in most containers",
            "should a line below be BAD: allow userfaultfd, process_madvise, io_uring_setup, "
            "io_uring_enter and io_uring_register in the filter");
    else
        say(FINE, "seccomp", "no filter", NULL);
}

/* --- Weir itself ----------------------------------------------------------------------------- */

/* What it said of a failure. */
static char said[512];

static void listen(void *context, const struct weir_event *event)
{
    (void)context;
    if (event->severity >= WEIR_FAILURE && event->text)
        snprintf(said, sizeof(said), "%s", event->text);
}

/* NULL: it does not open, and `said` has why. */
static struct weir_runtime *open_small(const char *engine, const char *backends, uint64_t budget)
{
    struct weir_runtime *rt = NULL;
    struct weir_options options;
    int error;

    weir_options_init(&options);
    options.engine = engine;
    options.backends = backends;
    options.budget_bytes = budget;
    options.publish = "0";
    options.trace = "";
    options.report_signal = 0;
    options.on_event = listen;
    said[0] = '\0';
    error = weir_open(&options, &rt);
    if (error != WEIR_OK && !said[0])
        snprintf(said, sizeof(said), "%s", weir_error_text(error));
    return error == WEIR_OK ? rt : NULL;
}

/* The part of the report between two texts; false: it is not there. */
static bool report_part(struct weir_runtime *rt, const char *from, const char *to, char *text,
                        size_t room)
{
    static char report[16384];
    const char *begin, *end;

    weir_report(rt, report, sizeof(report));
    begin = strstr(report, from);
    end = begin ? strstr(begin + strlen(from), to) : NULL;
    if (!end)
        return false;
    begin += strlen(from);
    snprintf(text, room, "%.*s", (int)(end - begin), begin);
    return true;
}

static void explain_uffd(void)
{
    int64_t allowed = number_in("/proc/sys/vm/unprivileged_userfaultfd", "");
    bool has_device = access("/dev/userfaultfd", R_OK | W_OK) == 0;
    char text[200];

    if (allowed < 0)
        snprintf(text, sizeof(text), "this kernel has no userfaultfd (CONFIG_USERFAULTFD)");
    else
        snprintf(text, sizeof(text),
                 "touches of user mode %s; vm.unprivileged_userfaultfd = %" PRId64
                 ", which Weir does not need; /dev/userfaultfd %s",
                 "need no privilege", allowed,
                 has_device ? "may be opened, which Weir does not need either"
                            : "may not be opened");
    say(allowed < 0 ? BAD : FINE, "userfaultfd", text,
        allowed < 0 ? "boot a kernel with CONFIG_USERFAULTFD=y" : NULL);
}

static void look_at_engine(const char *engine)
{
    struct weir_runtime *rt = open_small(engine, "mem:?size=64M", SMALL_BUDGET);
    char what[32];

    snprintf(what, sizeof(what), "engine %s", engine);
    if (rt)
        say(FINE, what, "works", NULL);
    else
        say(NOTE, what, "does not work here", said);
    weir_close(rt);
}

/* True: Weir works. */
static bool look_at_weir(void)
{
    struct weir_runtime *rt = open_small("auto", "mem:?size=64M", SMALL_BUDGET);
    char text[600];

    explain_uffd();
    if (!rt) {
        say(BAD, "weir", "does not open", said);
        return false;
    }
    say(FINE, "weir", report_part(rt, ": ", "\n", text, sizeof(text)) ? text : "opens", NULL);
    weir_close(rt);
    look_at_engine("move");
    look_at_engine("wp");
    return true;
}

static void look_at_budget(void)
{
    struct weir_runtime *rt = open_small("auto", "mem:?size=64M", 0);
    struct weir_stats stats = {.size = sizeof(stats)};
    char bytes[CMD_TEXT], text[128];

    if (!rt) {
        say(BAD, "budget", "a runtime with the budget of its own choice does not open", said);
        return;
    }
    weir_stats(rt, &stats);
    weir_close(rt);
    snprintf(text, sizeof(text),
             "%s unless WEIR_BUDGET says another: 80 %% of what machine and cgroup have free",
             cmd_bytes(bytes, (double)stats.budget_bytes));
    say(FINE, "budget", text, NULL);
}

static void look_at_file(void)
{
    struct weir_runtime *rt = open_small("auto", "file:/var/tmp?size=64M", SMALL_BUDGET);
    char text[300];
    bool is_plain;

    if (!rt) {
        say(BAD, "file:/var/tmp", "cannot be a back end; it is the one used if none is named",
            said);
        return;
    }
    if (!report_part(rt, "back end 0: file:/var/tmp?size=64M (", "), used", text, sizeof(text)))
        snprintf(text, sizeof(text), "works");
    weir_close(rt);
    is_plain = strstr(text, "io_uring") == NULL || strstr(text, "O_DIRECT") == NULL;
    say(is_plain ? NOTE : FINE, "file:/var/tmp", text,
        is_plain
            ? "io_uring (kernel.io_uring_disabled, seccomp) and O_DIRECT (not on tmpfs) make a "
              "file faster"
            : NULL);
}

/* --- Room and limits ------------------------------------------------------------------------- */

static void look_at_disk(void)
{
    struct statvfs space;
    struct statfs kind;
    char bytes[CMD_TEXT], text[128];
    bool is_memory, is_small;

    if (statvfs("/var/tmp", &space) != 0 || statfs("/var/tmp", &kind) != 0) {
        say(BAD, "/var/tmp", strerrordesc_np(errno), "make it, or name a file: WEIR_BACKENDS");
        return;
    }
    is_memory = kind.f_type == TMPFS;
    is_small = (uint64_t)space.f_bavail * space.f_frsize < LEAST_DISK;
    snprintf(text, sizeof(text), "%s free%s",
             cmd_bytes(bytes, (double)space.f_bavail * (double)space.f_frsize),
             is_memory ? ", but it is memory (tmpfs)" : "");
    say(is_memory || is_small ? NOTE : FINE, "/var/tmp", text,
        is_memory  ? "name a file on a disk: WEIR_BACKENDS=file:/mnt/disk?size=64G"
        : is_small ? "name a place with more room: WEIR_BACKENDS=file:/mnt/disk?size=64G"
                   : NULL);
}

static void look_at_limit(int resource, const char *what, uint64_t least, bool is_bytes,
                          const char *change)
{
    struct rlimit limit;
    char bytes[CMD_TEXT], text[64];
    bool is_low;

    if (getrlimit((__rlimit_resource_t)resource, &limit) != 0)
        return;
    is_low = limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < least;
    if (limit.rlim_cur == RLIM_INFINITY)
        snprintf(text, sizeof(text), "unlimited");
    else if (is_bytes)
        snprintf(text, sizeof(text), "%s", cmd_bytes(bytes, (double)limit.rlim_cur));
    else
        snprintf(text, sizeof(text), "%" PRIu64, (uint64_t)limit.rlim_cur);
    say(is_low ? NOTE : FINE, what, text, is_low ? change : NULL);
}

static void look_at_limits(void)
{
    look_at_limit(RLIMIT_AS, "ulimit -v", LEAST_ADDRESS, true,
                  "regions are addresses: raise it to what they span, or to unlimited");
    look_at_limit(RLIMIT_MEMLOCK, "ulimit -l", LEAST_LOCKED, true,
                  "RDMA needs its buffers locked: raise it to 64 MiB or more where rdma: is used");
    look_at_limit(RLIMIT_NOFILE, "ulimit -n", LEAST_FILES, false,
                  "each back end and server takes some: 1024 or more");
    look_at_limit(RLIMIT_FSIZE, "ulimit -f", LEAST_DISK, true,
                  "a back end's file is as large as what is stored there: raise it");
}

/* The group's own limit, as version 2 or 1 of cgroups has it. */
static void look_at_cgroup(void)
{
    static const char *const limits[] = {"/sys/fs/cgroup/memory.max",
                                         "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
    char group[512], path[640], bytes[CMD_TEXT], text[128];
    int64_t limit = -1;

    if (first_line("/proc/self/cgroup", group, sizeof(group)) && strncmp(group, "0::", 3) == 0) {
        snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.max", group + 3);
        limit = number_in(path, "");
    }
    for (size_t i = 0; i < 2 && limit <= 0; i++)
        limit = number_in(limits[i], "");
    if (limit <= 0 || limit >= INT64_MAX / 2) {
        say(FINE, "cgroup", "no limit of memory", NULL);
        return;
    }
    snprintf(text, sizeof(text), "memory is limited to %s", cmd_bytes(bytes, (double)limit));
    say(NOTE, "cgroup", text,
        "keep WEIR_BUDGET and what the program has besides below that; written pages of files "
        "count");
}

static void look_at_overcommit(void)
{
    int64_t mode = number_in("/proc/sys/vm/overcommit_memory", "");
    int64_t maps = number_in("/proc/sys/vm/max_map_count", "");
    char text[64];

    snprintf(text, sizeof(text), "vm.overcommit_memory = %" PRId64, mode);
    say(mode == 2 ? NOTE : FINE, "overcommit", text,
        mode == 2 ? "descriptors of 4 TiB of addresses are reserved at once: set it to 0 or 1, or "
                    "lower WEIR_ADDRESS_SPACE"
                  : NULL);
    snprintf(text, sizeof(text), "vm.max_map_count = %" PRId64, maps);
    say(maps >= 0 && maps < LEAST_MAPS ? NOTE : FINE, "mappings", text,
        maps >= 0 && maps < LEAST_MAPS ? "sysctl vm.max_map_count=65530" : NULL);
}

static void look_at_huge_pages(void)
{
    int64_t pages = number_in("/proc/meminfo", "HugePages_Total:");
    char text[200], mode[100] = "not there";

    (void)first_line("/sys/kernel/mm/transparent_hugepage/enabled", mode, sizeof(mode));
    snprintf(text, sizeof(text),
             "%" PRId64 " reserved, transparent: %s; only a memory server (weir-memd) uses them",
             pages > 0 ? pages : 0, mode);
    say(FINE, "huge pages", text, NULL);
}

static void look_at_rdma(void)
{
    DIR *devices = opendir("/sys/class/infiniband");
    char text[200] = "";
    size_t used = 0;
    const struct dirent *entry;

    while (devices && (entry = readdir(devices)))
        if (entry->d_name[0] != '.' && used < sizeof(text) - 40)
            used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%.30s", used ? ", " : "",
                                     entry->d_name);
    if (devices)
        closedir(devices);
    say(FINE, "RDMA", used ? text : "no device; tcp: does the same, slower", NULL);
}

static void look_at_sheet(const struct cmd *cmd)
{
    char path[256];
    size_t count;
    int error = weir_watch_list(cmd->directory, NULL, 0, &count);

    weir_watch_directory(path, sizeof(path));
    if (error == WEIR_OK && access("/dev/shm", W_OK | X_OK) == 0)
        say(FINE, "watching", cmd->directory ? cmd->directory : path, NULL);
    else
        say(NOTE, "watching", "programs cannot publish what they do: `weir report` sees none",
            error == WEIR_EDENIED ? "/dev/shm/weir.UID is not yours alone (mode 700): remove it"
                                  : "/dev/shm is to be there, a tmpfs of mode 1777");
}

int cmd_doctor(const struct cmd *cmd)
{
    bool works;

    bad_count = 0;
    look_at_kernel();
    look_at_seccomp();
    works = look_at_weir();
    if (works) {
        look_at_budget();
        look_at_file();
    }
    look_at_disk();
    look_at_limits();
    look_at_cgroup();
    look_at_overcommit();
    look_at_huge_pages();
    look_at_rdma();
    look_at_sheet(cmd);
    printf("%s\n", bad_count == 0 ? "Weir works here." : "Weir does not work here as it should.");
    return bad_count == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
