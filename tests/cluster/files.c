/* SPDX-License-Identifier: MIT */
#include "tests/cluster/files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FILES_MOST 65536u
#define HOSTS_MOST 4096u

static struct {
    struct net_file *files; /* by descriptor */
    uint32_t top, lowest_free;
    bool is_down[HOSTS_MOST];
    /* Where the walk over all ends is. */
    uint32_t walk;
    struct net_end *walk_waiting;
} all;

void files_begin(void)
{
    all.files = calloc(FILES_MOST, sizeof(*all.files));
    if (!all.files)
        loop_fail("the simulator is out of memory");
}

struct net_file *files_new(enum net_kind kind, int *fd_p)
{
    uint32_t i = all.lowest_free;

    while (i < FILES_MOST && all.files[i].kind != NET_NONE)
        i++;
    if (i == FILES_MOST)
        loop_fail("the simulator has too few descriptors");
    all.lowest_free = i + 1;
    all.top = i + 1 > all.top ? i + 1 : all.top;
    all.files[i] = (struct net_file){.kind = kind, .process = loop_process()};
    *fd_p = NET_FD + (int)i;
    return &all.files[i];
}

struct net_file *files_get(int fd)
{
    const uint32_t i = (uint32_t)(fd - NET_FD);

    if (i >= all.top || all.files[i].kind == NET_NONE)
        loop_fail("descriptor %d is used, and is not open", fd);
    if (loop_process() && all.files[i].process != loop_process())
        loop_fail("descriptor %d is of another process", fd);
    return &all.files[i];
}

struct net_file *files_listener(uint32_t host, uint16_t port)
{
    for (uint32_t i = 0; i < all.top; i++)
        if (all.files[i].kind == NET_LISTENER && all.files[i].port == port &&
            all.files[i].process->host == host)
            return &all.files[i];
    return NULL;
}

bool files_is_up(uint32_t host)
{
    return !all.is_down[host % HOSTS_MOST];
}

void files_set_up(uint32_t host, bool is_up)
{
    all.is_down[host % HOSTS_MOST] = !is_up;
}

struct net_end *files_next_end(void)
{
    struct net_end *end;

    if (all.walk_waiting) {
        end = all.walk_waiting;
        all.walk_waiting = end->next;
        return end;
    }
    while (all.walk < all.top) {
        struct net_file *file = &all.files[all.walk++];

        if (file->kind == NET_END)
            return file->end;
        if (file->kind == NET_LISTENER && file->waiting) {
            end = file->waiting;
            all.walk_waiting = end->next;
            return end;
        }
    }
    return NULL;
}

struct net_end *files_first_end(void)
{
    all.walk = 0;
    all.walk_waiting = NULL;
    return files_next_end();
}

/* --- Closing --------------------------------------------------------------------------------- */

static void forget_watches(struct net_file *file)
{
    struct net_watch *next;

    for (struct net_watch *each = file->watches; each; each = next) {
        next = each->next;
        free(each);
    }
    file->watches = NULL;
}

static void unwatch(struct net_file *epoll, int fd)
{
    struct net_watch **at = &epoll->watches;

    while (*at && (*at)->fd != fd)
        at = &(*at)->next;
    if (*at) {
        struct net_watch *watch = *at;

        *at = watch->next;
        free(watch);
    }
}

static void close_file(uint32_t i, bool is_silent)
{
    struct net_file *file = &all.files[i];
    void (*end_it)(struct net_end * end) = is_silent ? net_end_vanish : net_end_close;

    if (file->kind == NET_LISTENER)
        for (struct net_end *each = file->waiting, *next; each; each = next) {
            next = each->next;
            end_it(each);
        }
    if (file->kind == NET_END)
        end_it(file->end);
    forget_watches(file);
    file->kind = NET_NONE;
    all.lowest_free = i < all.lowest_free ? i : all.lowest_free;
}

/* A closed descriptor is watched by nobody. */
int net_close(int fd)
{
    struct net_file *file = files_get(fd);

    if (file->watchers)
        for (uint32_t i = 0; i < all.top; i++)
            if (all.files[i].kind == NET_EPOLL && all.files[i].process == file->process)
                unwatch(&all.files[i], fd);
    close_file((uint32_t)(fd - NET_FD), false);
    return 0;
}

void net_gone(const struct process *process, bool is_silent)
{
    if (is_silent)
        files_set_up(process->host, false);
    for (uint32_t i = 0; i < all.top; i++)
        if (all.files[i].kind != NET_NONE && all.files[i].process == process)
            close_file(i, is_silent);
}

uint32_t net_open_files(const struct process *process)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < all.top; i++)
        count += all.files[i].kind != NET_NONE && all.files[i].process == process;
    return count;
}

void net_set_blocking(int fd, bool is_blocking)
{
    files_get(fd)->is_blocking = is_blocking;
}

void net_set_receive(int fd, uint64_t ns)
{
    files_get(fd)->receive_ns = ns;
}

uint64_t net_sleeps_until(int fd)
{
    const struct net_file *file = files_get(fd);

    if (!file->is_blocking)
        return loop_now();
    return file->receive_ns ? loop_now() + file->receive_ns : LOOP_NEVER;
}

/* --- Events ---------------------------------------------------------------------------------- */

int net_event(uint64_t value)
{
    int fd;

    files_new(NET_EVENT, &fd)->value = value;
    return fd;
}

int net_event_add(int fd, uint64_t value)
{
    files_get(fd)->value += value;
    return 0;
}

int net_event_take(int fd, uint64_t *value_p)
{
    struct net_file *file = files_get(fd);

    if (file->value == 0)
        return -EAGAIN;
    *value_p = file->value;
    file->value = 0;
    return 0;
}

static uint64_t listener_when(const struct net_file *file)
{
    uint64_t ns = LOOP_NEVER;

    for (const struct net_end *each = file->waiting; each; each = each->next)
        ns = each->connected_ns < ns ? each->connected_ns : ns;
    return ns;
}

static uint64_t file_when(const struct net_file *file, uint32_t wanted)
{
    uint64_t ns = LOOP_NEVER;

    switch (file->kind) {
    case NET_END: return net_end_when(file->end, wanted);
    case NET_LISTENER: return wanted & EPOLLIN ? listener_when(file) : LOOP_NEVER;
    case NET_EVENT: return (wanted & EPOLLOUT) || file->value ? 0 : LOOP_NEVER;
    case NET_EPOLL:
        for (const struct net_watch *each = file->watches; each && ns > loop_now();
             each = each->next) {
            uint64_t at_ns = file_when(&all.files[each->fd - NET_FD], each->event.events);

            ns = at_ns < ns ? at_ns : ns;
        }
        return ns;
    case NET_NONE: break;
    }
    return LOOP_NEVER;
}

uint64_t net_when(int fd, uint32_t wanted)
{
    return file_when(&all.files[fd - NET_FD], wanted);
}

uint32_t net_events(int fd, uint32_t wanted)
{
    const struct net_file *file = files_get(fd);

    if (file->kind == NET_END)
        return net_end_events(file->end, wanted);
    return net_when(fd, wanted) <= loop_now() ? wanted & (EPOLLIN | EPOLLOUT) : 0;
}

/* --- epoll ----------------------------------------------------------------------------------- */

int net_epoll(void)
{
    int fd;

    (void)files_new(NET_EPOLL, &fd);
    return fd;
}

int net_epoll_ctl(int fd, int how, int watched, const struct epoll_event *event)
{
    struct net_file *file = files_get(fd);
    struct net_watch *watch = file->watches;

    while (watch && watch->fd != watched)
        watch = watch->next;
    if (how == EPOLL_CTL_ADD ? watch != NULL : watch == NULL)
        return how == EPOLL_CTL_ADD ? -EEXIST : -ENOENT;
    if (how == EPOLL_CTL_DEL) {
        unwatch(file, watched);
        return 0;
    }
    if (how == EPOLL_CTL_ADD) {
        files_get(watched)->watchers++;
        watch = calloc(1, sizeof(*watch));
        if (!watch)
            return -ENOMEM;
        watch->fd = watched;
        watch->next = file->watches;
        file->watches = watch;
    }
    watch->event = *event;
    return 0;
}

/* In any order. */
int net_epoll_ready(int fd, struct epoll_event *events, int most)
{
    struct net_file *file = files_get(fd);
    int count = 0;

    for (struct net_watch *each = file->watches; each && count < most; each = each->next) {
        const uint32_t has = net_events(each->fd, each->event.events);
        const uint64_t at = loop_draw((uint64_t)count + 1);

        if (!has)
            continue;
        events[count] = events[at];
        events[at] = each->event;
        events[at].events = has;
        count++;
    }
    return count;
}
