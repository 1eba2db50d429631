/* SPDX-License-Identifier: MIT */
#include "runtime/host/sheet.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#define READ_TRIES    50u
#define READ_PAUSE_NS 1000000l
#define LEFT_SECONDS  60 /* what cannot be read and has been left for so long may go */
#define SLACK_NS      20000000ul
#define STARTED_FIELD 22 /* of /proc/PID/stat: proc(5) */
#define SUMMED_FROM   (offsetof(struct wr_sheet_head, sum) + sizeof(uint64_t))

static uint64_t sum_of(const struct wr_sheet_head *head)
{
    return XXH3_64bits((const char *)head + SUMMED_FROM, head->all_bytes - SUMMED_FROM);
}

/* --- Who is alive ---------------------------------------------------------------------------- */

static uint64_t own_pid_space(void)
{
    struct stat status;

    return stat("/proc/self/ns/pid", &status) == 0 ? (uint64_t)status.st_ino : 0;
}

/* When a thread began. False: there is none; it is not known: 0. */
static bool started(int32_t pid, int32_t thread, uint64_t *ticks_p)
{
    char path[64], text[512];
    const char *at;
    ssize_t count;
    int file;

    *ticks_p = 0;
    snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, thread);
    file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return errno != ENOENT && errno != ESRCH;
    count = read(file, text, sizeof(text) - 1);
    close(file);
    if (count <= 0)
        return false;
    text[count] = '\0';
    at = strrchr(text, ')'); /* a name may hold anything, spaces and parentheses too */
    for (int field = 2; at && field < STARTED_FIELD; field++)
        at = strchr(at + 1, ' ');
    *ticks_p = at ? strtoull(at, NULL, 10) : 0;
    return true;
}

static bool is_alive(const struct wr_sheet_head *head)
{
    uint64_t ticks;

    if (!started(head->pid, head->thread, &ticks))
        return access("/proc/self/stat", R_OK) != 0; /* nobody can tell */
    return ticks == 0 || ticks == head->started;
}

void wr_sheet_sign(struct wr_sheet_head *head)
{
    int name = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
    ssize_t count = name >= 0 ? read(name, head->program, sizeof(head->program) - 1) : 0;

    if (name >= 0)
        close(name);
    head->program[count > 0 ? count : 0] = '\0';
    head->program[strcspn(head->program, "\n")] = '\0';
    head->pid_space = own_pid_space();
    head->pid = getpid();
    head->thread = (int32_t)syscall(SYS_gettid);
    (void)started(head->pid, head->thread, &head->started);
}

/* --- The directory --------------------------------------------------------------------------- */

void wr_sheet_directory(char *path, size_t room)
{
    snprintf(path, room, "/dev/shm/weir.%u", (unsigned)geteuid());
}

int wr_sheet_directory_open(const char *path, bool is_made, int *directory_p)
{
    struct stat status;
    int directory, kept;

    if (is_made && mkdir(path, 0700) != 0 && errno != EEXIST)
        return WEIR_EDENIED;
    directory = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (directory < 0)
        return errno == ENOENT ? WEIR_ENOENT : WEIR_EDENIED;
    if (fstat(directory, &status) == 0 && status.st_uid == geteuid() &&
        (status.st_mode & (S_IRWXG | S_IRWXO)) == 0) {
        *directory_p = directory;
        return WEIR_OK;
    }
    kept = EPERM;
    close(directory);
    errno = kept;
    return WEIR_EDENIED;
}

/* Is it a sheet's name, "PID.NUMBER"? */
static bool parse(const char *name, struct weir_watched *which)
{
    char again[48];
    char *end;

    which->pid = (int32_t)strtol(name, &end, 10);
    if (*end != '.')
        return false;
    which->number = strtoull(end + 1, NULL, 10);
    snprintf(again, sizeof(again), "%d.%llu", which->pid, (unsigned long long)which->number);
    return which->pid > 0 && strcmp(name, again) == 0;
}

/* --- Reading --------------------------------------------------------------------------------- */

static int judge(const struct wr_sheet_head *head, size_t bytes, const struct weir_watched *which)
{
    if (bytes < offsetof(struct wr_sheet_head, sum) ||
        memcmp(head->magic, WR_SHEET_MAGIC, sizeof(head->magic)) != 0)
        return WEIR_EIO;
    if (head->byte_order != WR_SHEET_BYTE_ORDER || head->version != WR_SHEET_VERSION)
        return WEIR_ENOSUPPORT;
    if (bytes < sizeof(*head) || head->head_bytes != sizeof(*head) ||
        head->all_bytes < sizeof(*head) || head->all_bytes > bytes || head->sum != sum_of(head) ||
        head->pid != which->pid)
        return WEIR_EIO;
    return WEIR_OK;
}

/* One try. A later one may find it whole. */
static int read_once(int file, const struct weir_watched *which, struct wr_sheet_head *head)
{
    ssize_t got = pread(file, head, WR_SHEET_BYTES_MAX, 0);

    return got < 0 ? WEIR_EIO : judge(head, (size_t)got, which);
}

static int open_sheet(int directory, const struct weir_watched *which, struct stat *status)
{
    char name[48];
    int file;

    snprintf(name, sizeof(name), "%d.%llu", which->pid, (unsigned long long)which->number);
    file = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (file < 0)
        return -1;
    if (fstat(file, status) == 0 && S_ISREG(status->st_mode) && status->st_uid == geteuid())
        return file;
    close(file);
    errno = EPERM;
    return -1;
}

int wr_sheet_read(int directory, const struct weir_watched *which, struct wr_sheet_head **sheet_p)
{
    const struct timespec pause = {0, READ_PAUSE_NS};
    struct wr_sheet_head *head;
    struct stat status;
    int error = WEIR_EIO, file = open_sheet(directory, which, &status);

    if (file < 0)
        return errno == ENOENT ? WEIR_ENOENT : WEIR_EIO;
    head = malloc(WR_SHEET_BYTES_MAX);
    if (!head) {
        close(file);
        return WEIR_ENOMEM;
    }
    for (unsigned i = 0; i < READ_TRIES && error == WEIR_EIO; i++) {
        if (i > 0)
            nanosleep(&pause, NULL);
        error = read_once(file, which, head);
    }
    close(file);
    if (error == WEIR_OK && head->pid_space == own_pid_space() && !is_alive(head))
        error = WEIR_ENOENT;
    if (error == WEIR_OK)
        *sheet_p = head;
    else
        free(head);
    return error;
}

/* What is not whole may be about to become so; what nobody has finished for a minute, of a process
 * that is gone, is left over. */
static bool is_left(const struct stat *status, const struct weir_watched *which)
{
    uint64_t ticks;

    return time(NULL) - status->st_mtime > LEFT_SECONDS && !started(which->pid, which->pid, &ticks);
}

/* Its writer was killed in the middle of it: who that was stands in its first page. */
static bool is_broken_off(const struct wr_sheet_head *head, const struct weir_watched *which)
{
    return memcmp(head->magic, WR_SHEET_MAGIC, sizeof(head->magic)) == 0 &&
           head->byte_order == WR_SHEET_BYTE_ORDER && head->version == WR_SHEET_VERSION &&
           head->head_bytes == sizeof(*head) && head->pid == which->pid && head->thread > 0 &&
           head->pid_space == own_pid_space() && !is_alive(head);
}

/* True: there it is. Else it may have been removed. */
static bool look_at(int directory, const char *name, const struct weir_watched *which,
                    struct wr_sheet_head *room)
{
    struct stat status;
    int error, file = open_sheet(directory, which, &status);
    bool is_dead;

    if (file < 0)
        return false;
    memset(room, 0, sizeof(*room));
    error = read_once(file, which, room);
    close(file);
    if (error == WEIR_OK && room->pid_space != own_pid_space())
        return false; /* of a container that shares the directory: its pids are not ours */
    is_dead = error == WEIR_OK ? !is_alive(room)
                               : is_left(&status, which) || is_broken_off(room, which);
    /* Nobody ever makes another of this name. */
    if (is_dead)
        (void)unlinkat(directory, name, 0);
    return !is_dead;
}

int wr_sheet_visit(int directory, wr_sheet_fn found, void *context)
{
    struct wr_sheet_head *room = malloc(WR_SHEET_BYTES_MAX);
    int again = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = again >= 0 ? fdopendir(again) : NULL;
    const struct dirent *entry;

    if (!room || !entries) {
        free(room);
        if (entries)
            closedir(entries);
        else if (again >= 0)
            close(again);
        return WEIR_ENOMEM;
    }
    while ((entry = readdir(entries))) {
        struct weir_watched which;

        if (parse(entry->d_name, &which) && look_at(directory, entry->d_name, &which, room) &&
            found)
            found(context, &which);
    }
    closedir(entries);
    free(room);
    return WEIR_OK;
}

/* --- The writer ------------------------------------------------------------------------------ */

int wr_sheet_create(const char *path, uint64_t number, struct wr_sheet *sheet)
{
    int error = wr_sheet_directory_open(path, true, &sheet->directory);

    sheet->file = -1;
    if (error != WEIR_OK) {
        sheet->directory = -1;
        return WEIR_EDENIED;
    }
    (void)wr_sheet_visit(sheet->directory, NULL, NULL);
    snprintf(sheet->name, sizeof(sheet->name), "%d.%llu", getpid(), (unsigned long long)number);
    sheet->file = openat(sheet->directory, sheet->name,
                         O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (sheet->file >= 0)
        return WEIR_OK;
    wr_sheet_remove(sheet);
    return WEIR_EDENIED;
}

bool wr_sheet_write(const struct wr_sheet *sheet, struct wr_sheet_head *head)
{
    ssize_t written;

    head->sum = sum_of(head);
    written = pwrite(sheet->file, head, head->all_bytes, 0);
    if (written == (ssize_t)head->all_bytes)
        return true;
    if (written >= 0)
        errno = ENOSPC;
    return false;
}

void wr_sheet_remove(struct wr_sheet *sheet)
{
    int kept = errno;

    if (sheet->file >= 0) {
        (void)unlinkat(sheet->directory, sheet->name, 0);
        close(sheet->file);
    }
    if (sheet->directory >= 0)
        close(sheet->directory);
    sheet->file = sheet->directory = -1;
    errno = kept;
}

void wr_sheet_be_lazy(void)
{
    (void)prctl(PR_SET_TIMERSLACK, SLACK_NS, 0, 0, 0);
}
