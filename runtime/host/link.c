/* SPDX-License-Identifier: MIT */
#include "runtime/host/link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define BACKLOG 1024 /* as many as may be attached */

static bool is_path(const char *name)
{
    return name[0] == '/';
}

bool wr_link_is_name(const char *name)
{
    size_t length = strnlen(name, WR_LINK_PATH_MAX);

    if (is_path(name))
        return length > 1 && length < WR_LINK_PATH_MAX;
    return length > 0 && length < WR_LINK_NAME_MAX &&
           name[strspn(
               name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")] == '\0';
}

/* A word is the user's own: another's of the same name is another. */
static socklen_t address_of(const char *name, struct sockaddr_un *address)
{
    int length;

    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    if (is_path(name)) {
        memcpy(address->sun_path, name, strlen(name));
        return sizeof(*address);
    }
    length = snprintf(address->sun_path + 1, sizeof(address->sun_path) - 1, "weir-%u-%s", geteuid(),
                      name);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

static int error_of(int number)
{
    switch (number) {
    case EADDRINUSE: return WEIR_EBUSY;
    case EACCES:
    case EPERM:
    case EROFS: return WEIR_EDENIED;
    case ENOENT:
    case ENOTDIR:
    case ECONNREFUSED: return WEIR_ENOENT;
    case EAGAIN: return WEIR_EAGAIN;
    default: return WEIR_ENOMEM;
    }
}

static int open_socket(void)
{
    return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* Was the file left behind by a process that ended? Then it is removed. */
static bool remove_stale(const char *path)
{
    struct stat status;
    int link, error = wr_link_connect(path, &link);

    if (error == WEIR_OK)
        close(link);
    return error == WEIR_ENOENT && lstat(path, &status) == 0 && S_ISSOCK(status.st_mode) &&
           unlink(path) == 0;
}

static int bind_to(int listener, const char *name)
{
    struct sockaddr_un address;
    socklen_t length = address_of(name, &address);
    const struct sockaddr *at = (const struct sockaddr *)(const void *)&address;

    if (bind(listener, at, length) == 0)
        return 0;
    if (errno != EADDRINUSE)
        return -1;
    if (is_path(name) && remove_stale(name))
        return bind(listener, at, length);
    errno = EADDRINUSE;
    return -1;
}

int wr_link_listen(const char *name, int *listener_p)
{
    int listener = open_socket(), error;

    if (listener < 0)
        return WEIR_ENOMEM;
    /* A file of mode 0600; who it belongs to is asked of the kernel at every meeting besides. */
    if (bind_to(listener, name) != 0) {
        error = error_of(errno);
        close(listener);
        return error;
    }
    if ((is_path(name) && chmod(name, 0600) != 0) || listen(listener, BACKLOG) != 0) {
        wr_link_unlisten(listener, name);
        return WEIR_EDENIED;
    }
    *listener_p = listener;
    return WEIR_OK;
}

void wr_link_unlisten(int listener, const char *name)
{
    if (is_path(name))
        unlink(name);
    wr_link_close(listener);
}

void wr_link_close(int link)
{
    (void)shutdown(link, SHUT_RDWR);
    close(link);
}

int wr_link_accept(int listener, int *link_p)
{
    int link = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (link < 0)
        return errno == ECONNABORTED || errno == EINTR ? WEIR_EAGAIN : error_of(errno);
    *link_p = link;
    return WEIR_OK;
}

int wr_link_connect(const char *name, int *link_p)
{
    struct sockaddr_un address;
    socklen_t length = address_of(name, &address);
    int link = open_socket(), error;

    if (link < 0)
        return WEIR_ENOMEM;
    if (connect(link, (const struct sockaddr *)(const void *)&address, length) != 0) {
        error = error_of(errno);
        close(link);
        return error;
    }
    *link_p = link;
    return WEIR_OK;
}

int wr_link_meet(int link, int *life_p, int *pid_p)
{
    struct ucred who;
    socklen_t length = sizeof(who);

    *life_p = -1;
    if (getsockopt(link, SOL_SOCKET, SO_PEERCRED, &who, &length) != 0 || who.uid != geteuid())
        return WEIR_EDENIED;
    *pid_p = who.pid;
    if (who.pid > 0) /* 0: of a container whose processes have no number here */
        *life_p = (int)syscall(SYS_pidfd_open, who.pid, 0);
    return WEIR_OK;
}

struct wr_hello wr_link_hello_of(uint64_t bytes, int error)
{
    return (struct wr_hello){
        .magic = WR_LINK_MAGIC,
        .version = WR_LINK_VERSION,
        .page_bytes = WEIR_PAGE_BYTES,
        .hello_bytes = sizeof(struct wr_hello),
        .bytes = bytes,
        .error = error,
    };
}

int wr_link_judge(const struct wr_hello *hello, const char **why_p)
{
    if (hello->magic == __builtin_bswap32(WR_LINK_MAGIC))
        *why_p = "the other process orders bytes differently";
    else if (hello->magic != WR_LINK_MAGIC)
        *why_p = "the other process does not speak like this library";
    else if (hello->version != WR_LINK_VERSION || hello->hello_bytes != sizeof(*hello))
        *why_p = "the other process uses another version of this library; use the same in both";
    else if (hello->page_bytes != WEIR_PAGE_BYTES)
        *why_p = "the other process has pages of another size";
    else
        *why_p = NULL;
    return *why_p ? WEIR_ENOSUPPORT : hello->error;
}

union control {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int))];
};

bool wr_link_send(int link, const void *message, uint32_t bytes, int fd)
{
    union control control = {.header.cmsg_level = 0};
    struct iovec vector = {.iov_base = (void *)(uintptr_t)message, .iov_len = bytes};
    struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1};
    ssize_t sent;

    if (fd >= 0) {
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(fd));
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
        header.msg_control = &control;
        header.msg_controllen = sizeof(control);
    }
    do
        sent = sendmsg(link, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    return sent == (ssize_t)bytes;
}

enum wr_received wr_link_receive(int link, void *message, uint32_t bytes, int *fd_p)
{
    union control control;
    struct iovec vector = {.iov_base = message, .iov_len = bytes};
    struct msghdr header = {.msg_iov = &vector,
                            .msg_iovlen = 1,
                            .msg_control = &control,
                            .msg_controllen = CMSG_LEN(sizeof(int))}; /* one, and no second */
    const struct cmsghdr *part;
    ssize_t length = recvmsg(link, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    int fd = -1;

    if (length < 0)
        return errno == EAGAIN || errno == EINTR ? WR_RECEIVED_NOTHING : WR_RECEIVED_END;
    part = CMSG_FIRSTHDR(&header);
    if (part && part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS)
        memcpy(&fd, CMSG_DATA(part), sizeof(fd)); /* the kernel has closed any more */
    if (fd >= 0 && (!fd_p || length != (ssize_t)bytes)) {
        close(fd);
        fd = -1;
    }
    if (fd_p)
        *fd_p = fd;
    return length == (ssize_t)bytes && !(header.msg_flags & MSG_TRUNC) ? WR_RECEIVED
                                                                       : WR_RECEIVED_END;
}

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void wr_link_await(int link, int life, uint32_t timeout_ms)
{
    struct pollfd polled[2] = {{.fd = link, .events = POLLIN}, {.fd = life, .events = POLLIN}};
    uint64_t deadline = now_ms() + timeout_ms, left = timeout_ms;

    while (poll(polled, 2, (int)left) < 0 && errno == EINTR)
        left = now_ms() < deadline ? deadline - now_ms() : 0;
}

int wr_watch_open(void)
{
    return epoll_create1(EPOLL_CLOEXEC);
}

static struct epoll_event event_of(uint64_t tag, bool once)
{
    return (struct epoll_event){.events = EPOLLIN | (once ? (uint32_t)EPOLLONESHOT : 0),
                                .data.u64 = tag};
}

bool wr_watch_add(int watch, int fd, uint64_t tag, bool once)
{
    struct epoll_event event = event_of(tag, once);

    return epoll_ctl(watch, EPOLL_CTL_ADD, fd, &event) == 0;
}

void wr_watch_again(int watch, int fd, uint64_t tag)
{
    struct epoll_event event = event_of(tag, true);

    (void)epoll_ctl(watch, EPOLL_CTL_MOD, fd, &event);
}

void wr_watch_remove(int watch, int fd)
{
    (void)epoll_ctl(watch, EPOLL_CTL_DEL, fd, NULL);
}

bool wr_watch_next(int watch, uint64_t *tag_p, uint32_t timeout_ms)
{
    struct epoll_event event;

    if (epoll_wait(watch, &event, 1, timeout_ms == UINT32_MAX ? -1 : (int)timeout_ms) != 1)
        return false;
    *tag_p = event.data.u64;
    return true;
}
