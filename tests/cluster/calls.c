/* SPDX-License-Identifier: MIT */

/*
 * Calls: what the client and the server ask of the system, when a simulated process asks. The
 * linker leads their calls here (--wrap; CMakeLists.txt has the list); outside of a task, and for
 * descriptors that are not ours, they go on to the system.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <netdb.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "tests/cluster/calls.h"
#include "tests/cluster/net.h"
#include "tests/cluster/real.h"

static bool is_ours(int fd)
{
    return loop_self() && fd >= NET_FD;
}

static long result(long value)
{
    if (value >= 0)
        return value;
    errno = (int)-value;
    return -1;
}

static uint64_t ns_of(const struct timespec *time)
{
    return (uint64_t)time->tv_sec * LOOP_SECOND + (uint64_t)time->tv_nsec;
}

static uint64_t deadline_in(uint64_t ns)
{
    return ns > LOOP_NEVER - loop_now() ? LOOP_NEVER : loop_now() + ns;
}

/* --- Time ------------------------------------------------------------------------------------ */

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
    if (!loop_self())
        return __real_clock_gettime(clock, now);
    loop_point();
    *now = (struct timespec){(time_t)(loop_now() / LOOP_SECOND), (long)(loop_now() % LOOP_SECOND)};
    return 0;
}

int __wrap_sched_yield(void)
{
    if (!loop_self())
        return 0;
    /* It takes its time: else who yields until somebody is done, who sleeps, stops the clock. */
    loop_point();
    loop_yield();
    return 0;
}

/* --- Waiting --------------------------------------------------------------------------------- */

struct poll_wait {
    const struct pollfd *fds;
    nfds_t count;
};

static uint32_t wanted_of(const struct pollfd *fd)
{
    return (uint32_t)fd->events & (EPOLLIN | EPOLLOUT);
}

static uint64_t poll_when(const void *what)
{
    const struct poll_wait *wait = what;
    uint64_t ns = LOOP_NEVER;

    for (nfds_t i = 0; i < wait->count; i++) {
        uint64_t at_ns;

        if (wait->fds[i].fd < NET_FD)
            continue;
        at_ns = net_when(wait->fds[i].fd, wanted_of(&wait->fds[i]));
        ns = at_ns < ns ? at_ns : ns;
    }
    return ns;
}

static int poll_until(struct pollfd *fds, nfds_t count, uint64_t deadline_ns)
{
    const struct poll_wait wait = {fds, count};
    int ready = 0;

    loop_point();
    if (poll_when(&wait) > loop_now() && deadline_ns > loop_now())
        (void)loop_wait(poll_when, &wait, deadline_ns);
    for (nfds_t i = 0; i < count; i++) {
        fds[i].revents = fds[i].fd < NET_FD ? 0 : (short)net_events(fds[i].fd, wanted_of(&fds[i]));
        ready += fds[i].revents != 0;
    }
    return ready;
}

int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    if (!loop_self())
        return (int)__real_syscall(SYS_poll, (long)fds, (long)count, timeout_ms, 0, 0, 0);
    return poll_until(fds, count,
                      timeout_ms < 0 ? LOOP_NEVER : deadline_in((uint64_t)timeout_ms * LOOP_MS));
}

static uint64_t epoll_when(const void *what)
{
    return net_when(*(const int *)what, EPOLLIN);
}

int __wrap_epoll_wait(int fd, struct epoll_event *events, int most, int timeout_ms)
{
    if (!is_ours(fd))
        return (int)__real_syscall(SYS_epoll_wait, fd, (long)events, most, timeout_ms, 0, 0);
    loop_point();
    if (net_when(fd, EPOLLIN) > loop_now() && timeout_ms != 0)
        (void)loop_wait(epoll_when, &fd,
                        timeout_ms < 0 ? LOOP_NEVER : deadline_in((uint64_t)timeout_ms * LOOP_MS));
    return net_epoll_ready(fd, events, most);
}

/* --- Descriptors ----------------------------------------------------------------------------- */

int __wrap_epoll_create1(int flags)
{
    if (!loop_self())
        return (int)__real_syscall(SYS_epoll_create1, flags, 0, 0, 0, 0, 0);
    return net_epoll();
}

int __wrap_epoll_ctl(int fd, int how, int watched, struct epoll_event *event)
{
    if (!is_ours(fd))
        return (int)__real_syscall(SYS_epoll_ctl, fd, how, watched, (long)event, 0, 0);
    loop_point();
    return (int)result(net_epoll_ctl(fd, how, watched, event));
}

int __wrap_eventfd(unsigned value, int flags)
{
    if (!loop_self())
        return (int)__real_syscall(SYS_eventfd2, (long)value, flags, 0, 0, 0, 0);
    return net_event(value);
}

static long read_event(int fd, void *bytes)
{
    uint64_t value = 0;
    const int error = net_event_take(fd, &value);

    if (error)
        return result(error);
    memcpy(bytes, &value, sizeof(value));
    return sizeof(value);
}

int __wrap_eventfd_read(int fd, eventfd_t *value)
{
    loop_point();
    return read_event(fd, value) < 0 ? -1 : 0;
}

int __wrap_eventfd_write(int fd, eventfd_t value)
{
    loop_point();
    return net_event_add(fd, value);
}

ssize_t __wrap_read(int fd, void *bytes, size_t count)
{
    if (!is_ours(fd))
        return __real_read(fd, bytes, count);
    loop_point();
    return read_event(fd, bytes);
}

ssize_t __wrap_write(int fd, const void *bytes, size_t count)
{
    uint64_t value;

    if (!is_ours(fd))
        return __real_write(fd, bytes, count);
    loop_point();
    memcpy(&value, bytes, sizeof(value));
    (void)net_event_add(fd, value);
    return sizeof(value);
}

int __wrap_close(int fd)
{
    if (!is_ours(fd))
        return __real_close(fd);
    loop_point();
    return net_close(fd);
}

/* --- Streams --------------------------------------------------------------------------------- */

/* A host's address is its number, its name "h" and that. */
static struct addrinfo *make_address(uint32_t host, uint16_t port)
{
    struct {
        struct addrinfo info;
        struct sockaddr_in address;
    } *made = calloc(1, sizeof(*made));

    if (!made)
        return NULL;
    made->address = (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(host)};
    made->info = (struct addrinfo){.ai_family = AF_INET,
                                   .ai_socktype = SOCK_STREAM,
                                   .ai_addrlen = sizeof(made->address),
                                   .ai_addr = (struct sockaddr *)&made->address};
    return &made->info;
}

int __wrap_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                       struct addrinfo **found_p)
{
    const uint32_t host = hints && (hints->ai_flags & AI_PASSIVE)
                              ? 0
                              : (uint32_t)strtoul(node + 1, NULL, 10);

    loop_point();
    *found_p = make_address(host, (uint16_t)strtoul(service, NULL, 10));
    return *found_p ? 0 : EAI_MEMORY;
}

void __wrap_freeaddrinfo(struct addrinfo *found)
{
    free(found);
}

int __wrap_getnameinfo(const struct sockaddr *address, socklen_t bytes, char *host,
                       socklen_t host_bytes, char *port, socklen_t port_bytes, int flags)
{
    struct sockaddr_in in;

    (void)bytes, (void)flags;
    memcpy(&in, address, sizeof(in));
    snprintf(host, host_bytes, "h%u", (unsigned)ntohl(in.sin_addr.s_addr));
    snprintf(port, port_bytes, "%u", (unsigned)ntohs(in.sin_port));
    return 0;
}

int __wrap_socket(int family, int type, int protocol)
{
    (void)family, (void)type, (void)protocol;
    loop_point();
    return net_socket();
}

int __wrap_bind(int fd, const struct sockaddr *address, socklen_t bytes)
{
    struct sockaddr_in in;

    (void)bytes;
    memcpy(&in, address, sizeof(in));
    return (int)result(net_listen(fd, ntohs(in.sin_port)));
}

int __wrap_listen(int fd, int backlog)
{
    (void)fd, (void)backlog;
    return 0;
}

int __wrap_getsockname(int fd, struct sockaddr *address, socklen_t *bytes)
{
    const struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(net_port_of(fd))};

    memcpy(address, &in, sizeof(in));
    *bytes = sizeof(in);
    return 0;
}

int __wrap_accept4(int fd, struct sockaddr *address, socklen_t *bytes, int flags)
{
    struct sockaddr_in in = {.sin_family = AF_INET};
    uint32_t host = 0;
    uint16_t port = 0;
    int accepted;

    (void)flags;
    loop_point();
    accepted = net_accept(fd, &host, &port);
    in.sin_addr.s_addr = htonl(host);
    in.sin_port = htons(port);
    memcpy(address, &in, sizeof(in));
    *bytes = sizeof(in);
    return (int)result(accepted);
}

int __wrap_connect(int fd, const struct sockaddr *address, socklen_t bytes)
{
    struct sockaddr_in in;

    (void)bytes;
    loop_point();
    memcpy(&in, address, sizeof(in));
    return (int)result(net_connect(fd, ntohl(in.sin_addr.s_addr), ntohs(in.sin_port)));
}

int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t bytes)
{
    struct timeval time;

    (void)bytes;
    if (level == SOL_SOCKET && name == SO_RCVTIMEO) {
        memcpy(&time, value, sizeof(time));
        net_set_receive(fd, (uint64_t)time.tv_sec * LOOP_SECOND + (uint64_t)time.tv_usec * 1000);
    }
    return 0;
}

int __wrap_fcntl(int fd, int how, ...)
{
    va_list list;
    long argument;

    va_start(list, how);
    argument = va_arg(list, long);
    va_end(list);
    if (!is_ours(fd))
        return (int)__real_syscall(SYS_fcntl, fd, how, argument, 0, 0, 0);
    if (how == F_SETFL)
        net_set_blocking(fd, !(argument & O_NONBLOCK));
    else if (how != F_GETFL)
        loop_fail("fcntl %d is not simulated", how);
    return O_RDWR | O_NONBLOCK;
}

int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *bytes)
{
    const int error = net_error_of(fd);

    (void)level, (void)name, (void)bytes;
    memcpy(value, &error, sizeof(error));
    return 0;
}

int __wrap_shutdown(int fd, int how)
{
    (void)how;
    loop_point();
    return fd < NET_FD ? (int)result(-EBADF) : (int)result(net_shutdown(fd));
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
    (void)flags;
    loop_point();
    return result(net_send(fd, message->msg_iov, message->msg_iovlen));
}

static uint64_t input_when(const void *fd)
{
    return net_when(*(const int *)fd, EPOLLIN);
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags)
{
    loop_point();
    if (!(flags & MSG_DONTWAIT) && net_sleeps_until(fd) > loop_now())
        (void)loop_wait(input_when, &fd, net_sleeps_until(fd));
    return result(net_receive(fd, message->msg_iov, message->msg_iovlen));
}

/* --- Threads --------------------------------------------------------------------------------- */

int __wrap_pthread_create(pthread_t *thread_p, const pthread_attr_t *attributes,
                          void *(*run)(void *context), void *context)
{
    struct task *task;

    (void)attributes;
    loop_point();
    task = loop_start(loop_process(), "thread", run, context);
    memcpy(thread_p, &task, sizeof(task));
    return 0;
}

static uint64_t ended_when(const void *task)
{
    return loop_has_ended(task) ? 0 : LOOP_NEVER;
}

int __wrap_pthread_join(pthread_t thread, void **result_p)
{
    const struct task *task;

    (void)result_p;
    memcpy(&task, &thread, sizeof(task));
    (void)loop_wait(ended_when, task, LOOP_NEVER);
    return 0;
}

int __wrap_pthread_setname_np(pthread_t thread, const char *name)
{
    (void)thread, (void)name;
    return 0;
}

/* Two processors. */
int __wrap_get_nprocs(void)
{
    return 2;
}

int __wrap_sched_getaffinity(pid_t pid, size_t bytes, cpu_set_t *set)
{
    (void)pid;
    CPU_ZERO_S(bytes, set);
    CPU_SET_S(0, bytes, set);
    CPU_SET_S(1, bytes, set);
    return 0;
}

/* Locks and conditions by their addresses. */
#define HELD_MOST 4096u

static struct {
    const void *lock;
    const struct process *process;
} held[HELD_MOST];
static uint32_t held_top; /* none is held from here on */

static struct sleeper {
    const void *what; /* a condition or a futex; NULL: no sleeper */
    const struct process *process;
    bool is_woken;
} sleepers[1024];

static uint64_t lock_when(const void *lock)
{
    for (uint32_t i = 0; i < held_top; i++)
        if (held[i].lock == lock)
            return LOOP_NEVER;
    return 0;
}

static void take_lock(const void *lock)
{
    uint32_t i = 0;

    while (lock_when(lock) != 0)
        (void)loop_wait(lock_when, lock, LOOP_NEVER);
    while (i < HELD_MOST && held[i].lock)
        i++;
    if (i == HELD_MOST)
        loop_fail("the simulator has too few locks");
    held_top = i < held_top ? held_top : i + 1;
    held[i].lock = lock;
    held[i].process = loop_process();
}

static void give_lock(const void *lock)
{
    for (uint32_t i = 0; i < held_top; i++)
        if (held[i].lock == lock) {
            held[i].lock = NULL;
            return;
        }
    loop_fail("a lock is given back that nobody has");
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
    if (!loop_self())
        return __real_pthread_mutex_lock(mutex);
    loop_point();
    take_lock(mutex);
    return 0;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    if (!loop_self())
        return __real_pthread_mutex_unlock(mutex);
    give_lock(mutex);
    loop_point();
    return 0;
}

static uint64_t woken_when(const void *what)
{
    const struct sleeper *sleeper = what;

    return sleeper->is_woken ? 0 : LOOP_NEVER;
}

static bool fall_asleep(const void *what, uint64_t deadline_ns)
{
    struct sleeper *sleeper = sleepers;
    bool is_woken;

    while (sleeper < sleepers + 1024 && sleeper->what)
        sleeper++;
    if (sleeper == sleepers + 1024)
        loop_fail("the simulator has too few places to sleep");
    *sleeper = (struct sleeper){what, loop_process(), false};
    is_woken = loop_wait(woken_when, sleeper, deadline_ns);
    sleeper->what = NULL;
    return is_woken;
}

static long wake(const void *what, long most)
{
    long count = 0;

    for (struct sleeper *each = sleepers; each < sleepers + 1024 && count < most; each++)
        if (each->what == what && !each->is_woken) {
            each->is_woken = true;
            count++;
        }
    return count;
}

int __wrap_pthread_cond_signal(pthread_cond_t *condition)
{
    (void)wake(condition, 1);
    return 0;
}

int __wrap_pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex,
                                  const struct timespec *until)
{
    bool is_woken;

    give_lock(mutex);
    is_woken = fall_asleep(condition, ns_of(until));
    take_lock(mutex);
    return is_woken ? 0 : ETIMEDOUT;
}

void calls_gone(const struct process *process)
{
    for (uint32_t i = 0; i < HELD_MOST; i++)
        if (held[i].process == process)
            held[i].lock = NULL;
    for (struct sleeper *each = sleepers; each < sleepers + 1024; each++)
        if (each->process == process)
            each->what = NULL;
}

/* --- By number ------------------------------------------------------------------------------- */

static long futex(uint32_t *word, int how, uint32_t value, const struct timespec *time)
{
    loop_point();
    if ((how & FUTEX_CMD_MASK) == FUTEX_WAKE)
        return wake(word, value);
    if (__atomic_load_n(word, __ATOMIC_SEQ_CST) != value)
        return result(-EAGAIN);
    return fall_asleep(word, time ? deadline_in(ns_of(time)) : LOOP_NEVER) ? 0 : result(-ETIMEDOUT);
}

static long numbered(long number, long a, long b, long c, long d, long e)
{
    switch (number) {
    case SYS_sendmsg: return __wrap_sendmsg((int)a, (const struct msghdr *)b, (int)c);
    case SYS_recvmsg: return __wrap_recvmsg((int)a, (struct msghdr *)b, (int)c);
    case SYS_sched_yield: return __wrap_sched_yield();
    case SYS_sched_setattr: return 0; /* turns are drawn here */
    case SYS_recvfrom: {
        const struct iovec iov = {(void *)b, (size_t)c};
        struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)&iov, .msg_iovlen = 1};

        return __wrap_recvmsg((int)a, &message, (int)d);
    }
    case SYS_ppoll: {
        const struct timespec *time = (const struct timespec *)c;

        return poll_until((struct pollfd *)a, (nfds_t)b,
                          time ? deadline_in(ns_of(time)) : LOOP_NEVER);
    }
    case SYS_futex: return futex((uint32_t *)a, (int)b, (uint32_t)c, (const struct timespec *)d);
    case SYS_close: return __wrap_close((int)a);
    case SYS_write: return a < NET_FD ? LONG_MIN : __wrap_write((int)a, (const void *)b, (size_t)c);
    default: break;
    }
    (void)e;
    if (a >= NET_FD && a < NET_FD + 65536)
        loop_fail("system call %ld is not simulated", number);
    return LONG_MIN;
}

long __wrap_syscall(long number, ...)
{
    long arguments[6], done;
    va_list list;

    va_start(list, number);
    for (int i = 0; i < 6; i++)
        arguments[i] = va_arg(list, long);
    va_end(list);
    if (loop_self()) {
        done = numbered(number, arguments[0], arguments[1], arguments[2], arguments[3],
                        arguments[4]);
        if (done != LONG_MIN)
            return done;
    }
    return __real_syscall(number, arguments[0], arguments[1], arguments[2], arguments[3],
                          arguments[4], arguments[5]);
}

/* --- The machine's memory -------------------------------------------------------------------- */

/* What /proc/meminfo says; nothing else is there. */
FILE *__wrap_fopen(const char *path, const char *mode)
{
    static char plenty[] = "MemTotal: 1000000 kB\nMemAvailable: 900000 kB\n",
                little[] = "MemTotal: 1000000 kB\nMemAvailable: 10000 kB\n";
    char *text = calls_is_short(loop_process()) ? little : plenty;

    if (!loop_self())
        return __real_fopen(path, mode);
    if (strcmp(path, "/proc/meminfo") != 0)
        return NULL;
    return fmemopen(text, strlen(text), "r");
}
