/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/text.h"
#include "runtime/host/linux.h"

#define WAIT_FDS_MAX  64
#define THREAD_STACK  (256u << 10)
#define VIEWS_MANY    16u /* a look at a view costs a quarter of a microsecond or more */
#define NS_PER_SECOND 1000000000ull

static uint64_t linux_now_ns(struct wr_host *host)
{
    struct timespec now;

    (void)host;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

static struct timespec timespec_of(uint64_t ns)
{
    return (struct timespec){(time_t)(ns / NS_PER_SECOND), (long)(ns % NS_PER_SECOND)};
}

/* syscall() and not the library's wrappers: those may be cancellation points. */
static void linux_park(struct wr_host *host, const void *word, uint32_t expect,
                       uint64_t deadline_ns)
{
    struct timespec deadline = timespec_of(deadline_ns);

    (void)host;
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, expect,
            deadline_ns == WR_FOREVER ? NULL : &deadline, NULL, FUTEX_BITSET_MATCH_ANY);
}

static void linux_unpark(struct wr_host *host, const void *word, uint32_t count)
{
    (void)host;
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count > INT_MAX ? INT_MAX : (int)count);
}

static void linux_yield(struct wr_host *host)
{
    (void)host;
    syscall(SYS_sched_yield);
}

static int linux_bell_init(struct wr_host *host, struct wr_bell *bell)
{
    (void)host;
    bell->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return bell->fd < 0 ? WEIR_ENOMEM : WEIR_OK;
}

static void linux_bell_fini(struct wr_host *host, struct wr_bell *bell)
{
    (void)host;
    if (bell->fd >= 0)
        close(bell->fd);
    bell->fd = -1;
}

static void linux_bell_ring(struct wr_host *host, struct wr_bell *bell)
{
    uint64_t one = 1;

    (void)host;
    syscall(SYS_write, bell->fd, &one, sizeof(one));
}

static void linux_bell_wait(struct wr_host *host, struct wr_bell *bell, const int *fds,
                            uint32_t fd_count, uint64_t deadline_ns)
{
    struct pollfd polled[WAIT_FDS_MAX + 1];
    struct timespec wait;
    uint64_t rung;
    nfds_t count = 0;

    polled[count++] = (struct pollfd){.fd = bell->fd, .events = POLLIN};
    for (uint32_t i = 0; i < fd_count && count <= WAIT_FDS_MAX; i++)
        if (fds[i] >= 0)
            polled[count++] = (struct pollfd){.fd = fds[i], .events = POLLIN};
    if (deadline_ns != WR_FOREVER) {
        uint64_t now = linux_now_ns(host);

        wait = timespec_of(deadline_ns > now ? deadline_ns - now : 0);
    }
    if (ppoll(polled, count, deadline_ns == WR_FOREVER ? NULL : &wait, NULL) > 0 &&
        (polled[0].revents & POLLIN))
        while (read(bell->fd, &rung, sizeof(rung)) == (ssize_t)sizeof(rung))
            ;
}

struct linux_thread {
    pthread_t thread;
    void (*run)(void *);
    void *context;
};

static void *thread_main(void *context)
{
    struct linux_thread *t = context;

    t->run(t->context);
    return NULL;
}

static int linux_thread_start(struct wr_host *host, const char *name, void (*run)(void *),
                              void *context, void **thread_p)
{
    struct linux_thread *t = calloc(1, sizeof(*t));
    sigset_t all, before;
    pthread_attr_t attributes;
    int error;

    (void)host;
    if (!t)
        return WEIR_ENOMEM;
    t->run = run;
    t->context = context;
    /* The application's signals are not for our threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, THREAD_STACK);
    error = pthread_create(&t->thread, &attributes, thread_main, t);
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        free(t);
        return WEIR_ENOMEM;
    }
    pthread_setname_np(t->thread, name);
    *thread_p = t;
    return WEIR_OK;
}

/* Some sandboxes forbid the one and allow the other. */
static void linux_thread_idle(struct wr_host *host)
{
    const struct sched_param none = {0};

    (void)host;
    if (sched_setscheduler(0, SCHED_IDLE, &none) != 0)
        (void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19);
}

static void linux_thread_stop(struct wr_host *host, void *thread)
{
    struct linux_thread *t = thread;

    (void)host;
    pthread_join(t->thread, NULL);
    free(t);
}

static void linux_close(struct wr_host *host)
{
    struct wr_linux_host *linux = (struct wr_linux_host *)(void *)host;
    int fds[3] = {linux->uffd, linux->pidfd, linux->pagemap_fd};

    for (int i = 0; i < 3; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(linux);
}

static struct wr_host_ops linux_ops;

static const struct wr_host_ops *complete_ops(void)
{
    struct wr_host_ops ops = wr_linux_memory_ops;

    ops.now_ns = linux_now_ns;
    ops.park = linux_park;
    ops.unpark = linux_unpark;
    ops.yield = linux_yield;
    ops.bell_init = linux_bell_init;
    ops.bell_fini = linux_bell_fini;
    ops.bell_ring = linux_bell_ring;
    ops.bell_wait = linux_bell_wait;
    ops.thread_start = linux_thread_start;
    ops.thread_stop = linux_thread_stop;
    ops.thread_idle = linux_thread_idle;
    ops.close = linux_close;
    wr_linux_add_objects(&ops);
    linux_ops = ops; /* the same bytes every time */
    return &linux_ops;
}

static int choose_engine(struct wr_linux_host *linux, const struct wr_host_wish *wish,
                         const struct wr_events *events)
{
    const char *why = "chosen by itself";
    struct wr_text text;

    if (strcmp(wish->engine, "move") == 0 && !linux->probe.has_move) {
        wr_event(events, WEIR_FAILURE, WEIR_ENOSUPPORT, 0, 0,
                 "engine=move needs UFFDIO_MOVE (Linux 6.8); use engine=auto");
        return WEIR_ENOSUPPORT;
    }
    linux->engine = linux->probe.has_move ? WR_ENGINE_MOVE : WR_ENGINE_WP;
    if (strcmp(wish->engine, "auto") != 0) {
        linux->engine = strcmp(wish->engine, "wp") == 0 ? WR_ENGINE_WP : WR_ENGINE_MOVE;
        why = "asked for";
    }
#ifdef WR_TESTING
    if (getenv("WR_TEST_NAIVE_ENGINE"))
        linux->engine = WR_ENGINE_NAIVE;
    if (getenv("WR_TEST_LOOK"))
        linux->probe.looks_by_copy = strcmp(getenv("WR_TEST_LOOK"), "copy") == 0;
#endif
    linux->host.returns_tables = linux->probe.returns_tables;
    linux->host.has_objects = linux->probe.has_objects;
    linux->host.protects_views = linux->probe.protects_views;
    linux->host.relocates_by_copy = linux->engine != WR_ENGINE_MOVE;
    linux->host.has_peers = linux->probe.protects_views;
    linux->host.views_many = VIEWS_MANY;
    linux->host.transient_frames = linux->engine == WR_ENGINE_MOVE && !linux->host.has_objects
                                       ? 0
                                       : WR_TRANSIENT;
    wr_text_init(&text, linux->host.how, sizeof(linux->host.how));
    wr_text_add(&text, "trap sigbus, engine ");
    wr_text_add(&text, linux->engine == WR_ENGINE_MOVE ? "move" : "wp");
    wr_text_add(&text, " (");
    wr_text_add(&text, why);
    wr_text_add(&text, "; found: ");
    wr_text_add(&text, linux->probe.found);
    wr_text_add(&text, ")");
    return WEIR_OK;
}

int wr_host_linux_open(const struct wr_host_wish *wish, const struct wr_events *events,
                       struct wr_host **host_p)
{
    struct wr_linux_host *linux = calloc(1, sizeof(*linux));
    int error;

    if (!linux)
        return WEIR_ENOMEM;
    linux->uffd = linux->pidfd = linux->pagemap_fd = -1;
    linux->host.ops = complete_ops();
    error = wr_probe_kernel(&linux->probe, events);
    if (error == WEIR_OK)
        error = choose_engine(linux, wish, events);
    if (error == WEIR_OK) {
        linux->uffd = wr_probe_uffd_open(&linux->probe);
        linux->pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0); /* only for the vectored drop */
        if (linux->probe.has_pagemap_scan || linux->probe.tells_zero_pages)
            linux->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        if (linux->uffd < 0)
            error = WEIR_ENOMEM;
    }
    if (error != WEIR_OK) {
        linux_close(&linux->host);
        return error;
    }
    *host_p = &linux->host;
    return WEIR_OK;
}
