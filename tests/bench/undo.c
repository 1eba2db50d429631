/* SPDX-License-Identifier: MIT */

/*
 * Undo: swap, cgroups, zram devices and files never outlive the bench.
 *
 *   janitor   a process in a session of its own that listens on a pipe
 *   deed      a verb and an object, written into the pipe before the thing itself is done
 *
 * Always: when the pipe closes, for whatever reason, kill -9 included, the janitor undoes the
 * deeds, the last one first. A deed that was announced and then not done does no harm.
 */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define DEEDS_MAX 64
#define TRIES_MAX 100 /* a tenth of a second apart: a dying process holds what it used */

volatile int bench_interrupted;

static int pipe_end = -1;
static pid_t janitor;

struct deed {
    char verb[16];
    char object[400];
};

static bool write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool is_written = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    if (fd >= 0)
        close(fd);
    return is_written;
}

static bool remove_zram(const char *number)
{
    char path[100];

    snprintf(path, sizeof(path), "/sys/block/zram%s/reset", number);
    if (access(path, F_OK) != 0)
        return true;
    (void)write_file(path, "1");
    return write_file("/sys/class/zram-control/hot_remove", number);
}

/* True: it is as if it had never been. */
static bool undo(const struct deed *deed)
{
    if (strcmp(deed->verb, "swapoff") == 0)
        return swapoff(deed->object) == 0 || errno == EINVAL || errno == ENOENT;
    if (strcmp(deed->verb, "unlink") == 0)
        return unlink(deed->object) == 0 || errno == ENOENT;
    if (strcmp(deed->verb, "rmdir") == 0)
        return rmdir(deed->object) == 0 || errno == ENOENT;
    if (strcmp(deed->verb, "disable") == 0) /* memory, for the children of a cgroup */
        return write_file(deed->object, "-memory");
    if (strcmp(deed->verb, "page-cluster") == 0)
        return write_file("/proc/sys/vm/page-cluster", deed->object);
    if (strcmp(deed->verb, "zram") == 0)
        return remove_zram(deed->object);
    return true;
}

static void undo_patiently(const struct deed *deed)
{
    for (int i = 0; i < TRIES_MAX; i++) {
        if (undo(deed))
            return;
        usleep(100000);
    }
    fprintf(stderr, "bench: %s %s: %s; please undo it by hand\n", deed->verb, deed->object,
            strerror(errno));
}

static bool is_known(const struct deed *deeds, int count, const struct deed *deed)
{
    for (int i = 0; i < count; i++)
        if (memcmp(&deeds[i], deed, sizeof(*deed)) == 0)
            return true;
    return false;
}

static _Noreturn void janitor_main(int fd)
{
    static struct deed deeds[DEEDS_MAX];
    struct deed deed;
    int count = 0;

    setsid();
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    while (read(fd, &deed, sizeof(deed)) == (ssize_t)sizeof(deed))
        if (count < DEEDS_MAX && !is_known(deeds, count, &deed))
            deeds[count++] = deed;
    while (count > 0)
        undo_patiently(&deeds[--count]);
    _exit(0);
}

static void on_signal(int number)
{
    bench_interrupted = number;
}

bool bench_undo_open(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) != 0)
        return false;
    janitor = fork();
    if (janitor < 0)
        return false;
    if (janitor == 0) {
        close(ends[1]);
        janitor_main(ends[0]);
    }
    close(ends[0]);
    pipe_end = ends[1];
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    return true;
}

void bench_undo_close(void)
{
    if (pipe_end < 0)
        return;
    close(pipe_end);
    pipe_end = -1;
    while (waitpid(janitor, NULL, 0) < 0 && errno == EINTR)
        ;
}

void bench_undo(const char *verb, const char *object)
{
    struct deed deed;

    memset(&deed, 0, sizeof(deed));
    snprintf(deed.verb, sizeof(deed.verb), "%s", verb);
    snprintf(deed.object, sizeof(deed.object), "%s", object);
    /* Less than PIPE_BUF: it goes in one piece. */
    if (write(pipe_end, &deed, sizeof(deed)) != (ssize_t)sizeof(deed)) {
        fprintf(stderr, "bench: the janitor is gone; nothing is begun that could not be undone\n");
        exit(1);
    }
}
