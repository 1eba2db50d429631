/* SPDX-License-Identifier: MIT */

/*
 * Hold: a baseline is not killed because a counter of the kernel's is old.
 *
 * What the kernel takes away from a cgroup comes from the inactive list; active pages move there
 * when it is short. How short it is, reclaim looks up in counters of the group that are summed up
 * every two seconds. A program that swaps fast empties the list in less, and the counter still says
 * that it is long: so nothing moves, reclaim finds nothing 18 times within a third of a
 * millisecond, and the program is killed, with swap free and every page of it fit to leave. (Pages
 * of files would help: reclaim then has a last resort, which looks at active pages whatever the
 * counter says. The program's own file is charged to whoever read it first, so a run has none.)
 *
 * Who reads memory.stat has the counters summed up. Version 1 can be told to let a thread wait
 * instead of killing it, and to say so: the file is read, and the thread tries again. Until then
 * nothing is changed. Version 2 cannot: there the file is read all the time.
 *
 * Always: where no page leaves between one such wait and the next, VAIN_MAX times in a row, the
 * kernel is right, and does what it would have done.
 */

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bench.h"

#define VAIN_MAX   20
#define TICK_MS    100 /* a thread that began to wait while another was woken is not told of */
#define REFRESH_MS 10  /* version 2 */

/* A number of a file of the group: of the line that begins with this word. */
static bool read_number(const char *group, const char *name, const char *word, uint64_t *number)
{
    const size_t length = strlen(word);
    char path[500], text[8192];

    snprintf(path, sizeof(path), "%s/%s", group, name);
    if (!bench_read_text(path, text, sizeof(text)))
        return false;
    for (char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, word, length) == 0 && line[length] == ' ') {
            *number = strtoull(line + length, NULL, 10);
            return true;
        }
    }
    return false;
}

static bool set_killing(const struct bench_hold *hold, bool is_allowed)
{
    char path[500];

    snprintf(path, sizeof(path), "%s/memory.oom_control", hold->group);
    return bench_write_text(path, is_allowed ? "0" : "1");
}

static uint64_t kills_of(const struct bench_hold *hold)
{
    uint64_t kills = 0;

    if (!read_number(hold->group, "memory.oom_control", "oom_kill", &kills))
        read_number(hold->group, "memory.events", "oom_kill", &kills);
    return kills;
}

/* Version 1: be told of every thread that waits. */
static bool listen_to(struct bench_hold *hold)
{
    char path[500], text[40];
    int fd;
    bool is_good;

    snprintf(path, sizeof(path), "%s/memory.oom_control", hold->group);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    hold->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    snprintf(text, sizeof(text), "%d %d", hold->event_fd, fd);
    snprintf(path, sizeof(path), "%s/cgroup.event_control", hold->group);
    is_good = hold->event_fd >= 0 && bench_write_text(path, text) && set_killing(hold, false);
    close(fd);
    if (!is_good)
        bench_hold_close(hold);
    return is_good;
}

void bench_hold_open(struct bench_hold *hold, const char *group)
{
    memset(hold, 0, sizeof(*hold));
    hold->event_fd = -1;
    snprintf(hold->group, sizeof(hold->group), "%s", group);
    if (!*group)
        return;
    hold->kills = kills_of(hold);
    hold->is_able = listen_to(hold);
    hold->tick_ms = hold->is_able ? TICK_MS : REFRESH_MS;
}

void bench_hold_close(struct bench_hold *hold)
{
    if (hold->event_fd >= 0)
        close(hold->event_fd);
    hold->event_fd = -1;
}

/* The counters are summed up. Nothing has left since the last time: once more in vain. */
static void refresh(struct bench_hold *hold)
{
    uint64_t gone = 0;

    read_number(hold->group, "memory.stat", "pgpgout", &gone);
    hold->vain = gone == hold->gone ? hold->vain + 1 : 0;
    hold->gone = gone;
}

void bench_hold_serve(struct bench_hold *hold)
{
    uint64_t told = 0, is_waiting = 0;

    if (!*hold->group || hold->is_over)
        return;
    if (!hold->is_able) {
        refresh(hold);
        return;
    }
    if (read(hold->event_fd, &told, sizeof(told)) != (ssize_t)sizeof(told))
        read_number(hold->group, "memory.oom_control", "under_oom", &is_waiting);
    if (told == 0 && is_waiting == 0)
        return;
    refresh(hold);
    hold->count++;
    hold->is_over = hold->vain >= VAIN_MAX;
    /* Who waits is woken by nothing but this. Who runs out of memory in between is killed, and
     * said to have been. */
    set_killing(hold, true);
    if (!hold->is_over)
        set_killing(hold, false);
}

bool bench_hold_explain(const struct bench_hold *hold, char why[200])
{
    if (!*hold->group || kills_of(hold) == hold->kills)
        return false;
    snprintf(why, 200, "killed by the kernel: no memory in its cgroup%s",
             hold->is_over ? ", and none to be had in 20 tries" : "");
    return true;
}
