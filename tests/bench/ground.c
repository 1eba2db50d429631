/* SPDX-License-Identifier: MIT */

/*
 * Ground: what a baseline stands on. A memory cgroup of version 1 or 2, swap in a file or on
 * zram, a file of written pages. All of it is announced to the janitor before it is made.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <unistd.h>

#include "bench.h"

#define PIECE     (2 * BENCH_MIB)
#define SWAP_RANK 32000 /* before any swap that the machine has */

static bool refuse(char missing[200], const char *what, int error)
{
    snprintf(missing, 200, "%s%s%s", what, error ? ": " : "", error ? strerror(error) : "");
    return false;
}

bool bench_write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool is_written;
    int error;

    if (fd < 0)
        return false;
    is_written = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    error = errno;
    close(fd);
    errno = error;
    return is_written;
}

bool bench_read_text(const char *path, char *text, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, room - 1);

    if (fd >= 0)
        close(fd);
    if (got < 0)
        return false;
    text[got] = '\0';
    return true;
}

/* --- Memory cgroups -------------------------------------------------------------------------- */

/* Where hierarchies of this version are mounted that have memory. */
static bool find_hierarchy(int version, char *path, size_t room)
{
    FILE *mounts = fopen("/proc/self/mounts", "re");
    char line[1000], place[400], type[40], options[400], controllers[400];
    bool is_found = false;

    while (mounts && !is_found && fgets(line, sizeof(line), mounts)) {
        if (sscanf(line, "%*s %399s %39s %399s", place, type, options) != 3)
            continue;
        if (version == 1 && strcmp(type, "cgroup") == 0) {
            is_found = strstr(options, ",memory") != NULL;
        } else if (version == 2 && strcmp(type, "cgroup2") == 0) {
            snprintf(line, sizeof(line), "%s/cgroup.controllers", place);
            is_found = bench_read_text(line, controllers, sizeof(controllers)) &&
                       strstr(controllers, "memory");
        }
    }
    if (mounts)
        fclose(mounts);
    if (is_found)
        snprintf(path, room, "%s", place);
    return is_found;
}

/* Our own group in the hierarchy, below its mount; "" if it is not visible there. */
static void own_group(int version, const char *mount, char *path, size_t room)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    char line[600], whole[1000];

    *path = '\0';
    while (file && fgets(line, sizeof(line), file)) {
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;

        if (!group)
            continue;
        *group++ = '\0';
        group[strcspn(group, "\n")] = '\0';
        if (strcmp(controllers + 1, version == 1 ? "memory" : "") != 0)
            continue;
        snprintf(whole, sizeof(whole), "%s%s", mount, group);
        if (access(whole, F_OK) == 0 && strcmp(group, "/") != 0)
            snprintf(path, room, "%s", group);
    }
    if (file)
        fclose(file);
}

static bool make_in(const char *parent, const char *name, char group[400])
{
    int length = snprintf(group, 400, "%s/weir-bench-%d-%s", parent, (int)getpid(), name);

    if (length < 0 || length >= 400)
        return false;
    bench_undo("rmdir", group);
    return mkdir(group, 0755) == 0 || errno == EEXIST;
}

/* Version 2: a group may give memory to its children only if it holds no process itself, so the
 * nearest such group above us is looked for. */
static bool make_unified(const char *mount, const char *name, char group[400])
{
    char own[500], parent[1000], path[1100], text[400];

    own_group(2, mount, own, sizeof(own));
    for (;;) {
        snprintf(parent, sizeof(parent), "%s%s", mount, own);
        snprintf(path, sizeof(path), "%s/cgroup.subtree_control", parent);
        if (bench_read_text(path, text, sizeof(text)) && strstr(text, "memory"))
            return make_in(parent, name, group);
        if (bench_write_text(path, "+memory")) {
            bench_undo("disable", path);
            return make_in(parent, name, group);
        }
        if (!*own)
            return false;
        *strrchr(own, '/') = '\0';
    }
}

bool bench_group_limit(const char *group, uint64_t limit_bytes, char missing[200])
{
    static const char *const files[] = {"memory.max", "memory.limit_in_bytes"};
    char path[500], text[40];

    snprintf(text, sizeof(text), "%llu", (unsigned long long)limit_bytes);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "%s/%s", group, files[i]);
        if (access(path, F_OK) == 0)
            return bench_write_text(path, text) ||
                   refuse(missing, "cannot limit a memory cgroup", errno);
    }
    return refuse(missing, "the cgroup has no memory limit", 0);
}

bool bench_group_make(const char *name, uint64_t limit_bytes, char group[400], char missing[200])
{
    char mount[400], own[500], parent[1000];

    if (geteuid() != 0)
        return refuse(missing, "needs root: a memory cgroup and swap", 0);
    if (find_hierarchy(2, mount, sizeof(mount))) {
        if (!make_unified(mount, name, group))
            return refuse(missing, "cannot make a memory cgroup (version 2)", errno);
    } else if (find_hierarchy(1, mount, sizeof(mount))) {
        own_group(1, mount, own, sizeof(own));
        snprintf(parent, sizeof(parent), "%s%s", mount, own);
        if (!make_in(parent, name, group))
            return refuse(missing, "cannot make a memory cgroup (version 1)", errno);
    } else {
        return refuse(missing, "no memory cgroup is mounted", 0);
    }
    return bench_group_limit(group, limit_bytes, missing);
}

uint64_t bench_allowance(uint64_t pages, unsigned threads)
{
    const uint64_t table_entry = 8, note = 1;

    return 3 * BENCH_MIB / 2 + pages * (table_entry + note * threads);
}

/* --- Files and swap -------------------------------------------------------------------------- */

static bool write_random(int fd, uint64_t bytes)
{
    uint64_t *piece, random = 88172645463325252ull;
    bool is_good = true;

    if (posix_memalign((void **)&piece, BENCH_PAGE, PIECE) != 0)
        return false;
    for (uint64_t at = 0; at < bytes && is_good && !bench_interrupted; at += PIECE) {
        for (size_t i = 0; i < PIECE / sizeof(*piece); i++)
            piece[i] = bench_draw(&random);
        is_good = pwrite(fd, piece, PIECE, (off_t)at) == (ssize_t)PIECE;
    }
    free(piece);
    return is_good && !bench_interrupted && fsync(fd) == 0;
}

bool bench_written_file(const char *path, uint64_t bytes, char missing[200])
{
    int fd;
    bool is_good;

    bench_undo("unlink", path);
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0)
        return refuse(missing, "cannot make a file for O_DIRECT", errno);
    is_good = write_random(fd, bytes) || refuse(missing, "cannot write the file", errno);
    close(fd);
    return is_good;
}

bool bench_swap_ahead(unsigned order, char missing[200])
{
    static const char path[] = "/proc/sys/vm/page-cluster";
    char text[20];

    if (!bench_read_text(path, text, sizeof(text)))
        return refuse(missing, "the kernel has no vm.page-cluster", errno);
    text[strcspn(text, "\n")] = '\0';
    bench_undo("page-cluster", text);
    snprintf(text, sizeof(text), "%u", order);
    return bench_write_text(path, text) || refuse(missing, "cannot set vm.page-cluster", errno);
}

uint64_t bench_vmstat(const char *name)
{
    FILE *file = fopen("/proc/vmstat", "re");
    char found[80];
    unsigned long long value;
    uint64_t result = 0;

    while (file && fscanf(file, "%79s %llu", found, &value) == 2)
        if (strcmp(found, name) == 0)
            result = value;
    if (file)
        fclose(file);
    return result;
}

/* What mkswap writes: the first page of a swap area, version 1. */
static bool write_header(const char *path, uint64_t bytes)
{
    static union {
        struct {
            char boot[1024];
            uint32_t version, last_page, bad_pages;
            unsigned char uuid[16], label[16];
        } info;
        char page[BENCH_PAGE];
    } header;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    bool is_good;

    if (fd < 0)
        return false;
    memset(&header, 0, sizeof(header));
    header.info.version = 1;
    header.info.last_page = (uint32_t)(bytes / BENCH_PAGE - 1);
    memcpy(header.info.label, "weir-bench", 10);
    memcpy(header.page + BENCH_PAGE - 10, "SWAPSPACE2", 10);
    is_good = pwrite(fd, &header, sizeof(header), 0) == (ssize_t)sizeof(header) && fsync(fd) == 0;
    close(fd);
    return is_good;
}

static bool swap_on(const char *path, uint64_t bytes, char missing[200])
{
    if (!write_header(path, bytes))
        return refuse(missing, "cannot write a swap header", errno);
    bench_undo("swapoff", path);
    if (swapon(path, SWAP_FLAG_PREFER | SWAP_RANK) != 0)
        return refuse(missing, "swapon is refused", errno);
    return true;
}

static uint64_t swap_bytes(uint64_t set_bytes)
{
    return set_bytes / 4 * 9 / PIECE * PIECE + PIECE;
}

bool bench_swap_file(const struct bench *bench, uint64_t set_bytes, char where[300],
                     char missing[200])
{
    const uint64_t bytes = swap_bytes(set_bytes);

    if (geteuid() != 0)
        return refuse(missing, "needs root: a memory cgroup and swap", 0);
    snprintf(where, 300, "%s/swap", bench->dir);
    return bench_written_file(where, bytes, missing) && swap_on(where, bytes, missing);
}

bool bench_swap_zram(uint64_t set_bytes, char name[80], char missing[200])
{
    const uint64_t bytes = swap_bytes(set_bytes);
    char number[20], path[100], text[100], *word;

    if (geteuid() != 0)
        return refuse(missing, "needs root: a memory cgroup and swap", 0);
    if (!bench_read_text("/sys/class/zram-control/hot_add", number, sizeof(number)))
        return refuse(missing, "the kernel has no zram (modprobe zram)", errno);
    number[strcspn(number, "\n")] = '\0';
    bench_undo("zram", number);
    snprintf(path, sizeof(path), "/sys/block/zram%s/comp_algorithm", number);
    if (!bench_read_text(path, text, sizeof(text)))
        snprintf(text, sizeof(text), "[unknown]");
    word = strchr(text, '[') ? strchr(text, '[') + 1 : text;
    word[strcspn(word, "]")] = '\0';
    snprintf(name, 80, "kernel swap on zram (%.40s)", word);
    snprintf(path, sizeof(path), "/sys/block/zram%s/disksize", number);
    snprintf(text, sizeof(text), "%llu", (unsigned long long)bytes);
    if (!bench_write_text(path, text))
        return refuse(missing, "cannot size a zram device", errno);
    snprintf(path, sizeof(path), "/dev/zram%s", number);
    return swap_on(path, bytes, missing);
}
