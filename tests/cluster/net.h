/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Net: hosts, the links between them, and the descriptors of simulated processes.
 *
 *   file     what a descriptor names: an end of a stream, a listener, an eventfd, an epoll
 *   end      one of the two of a stream; bytes that are on their way to it lie with it, in
 * segments, each with the time at which it arrives way      from one host to another: how long
 * bytes take, and whether they are held held     bytes that a way does not let through; they arrive
 * when it does again
 *
 * Always: bytes of one stream arrive in the order in which they were sent, and once; streams do not
 * wait for each other. What was sent before an end was closed still arrives, however late: as with
 * TCP, only a lost host or a broken connection takes bytes away.
 */

#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/uio.h>

#include "tests/cluster/loop.h"

#define NET_FD         (1 << 20) /* the first descriptor that is ours */
#define NET_HOSTS_MOST 64u

struct net_way {
    uint64_t delay_ns, jitter_ns;
    bool is_held;
};

struct net_counts {
    uint64_t connections, bytes, sends;
};

void net_begin(void);
struct net_way *net_way(uint32_t from, uint32_t to);
/* Let nothing more through, or all that was held: after a while, as a sender tries again. */
void net_hold(uint32_t from, uint32_t to, bool is_held);
/* Some of the streams between the two stand still for so long at most, each one way; the others go
 * on. */
void net_stall(uint32_t a, uint32_t b, uint64_t ns);
/* Every stream between the two breaks; what is on its way is lost. */
void net_cut(uint32_t a, uint32_t b);
/* A process is gone: by a kill, or with its host, which says nothing any more and loses what is on
 * its way. */
void net_gone(const struct process *process, bool is_silent);
/* Descriptors that the process has. */
uint32_t net_open_files(const struct process *process);
const struct net_counts *net_counts(void);
/* Streams between the two hosts, both ends of which are open. */
uint32_t net_streams(uint32_t a, uint32_t b);

/* --- For calls.c: as the calls of the system, but an error is the result's negative ---------- */

int net_socket(void);
int net_listen(int fd, uint16_t port);
int net_connect(int fd, uint32_t host, uint16_t port);
int net_accept(int fd, uint32_t *host_p, uint16_t *port_p);
int net_error_of(int fd); /* SO_ERROR */
void net_set_blocking(int fd, bool is_blocking);
void net_set_receive(int fd, uint64_t ns); /* SO_RCVTIMEO */
/* Until when a receive on it may sleep; now: it may not. */
uint64_t net_sleeps_until(int fd);
uint16_t net_port_of(int fd);
int net_shutdown(int fd);
int net_close(int fd);
long net_send(int fd, const struct iovec *iov, size_t count);
long net_receive(int fd, const struct iovec *iov, size_t count);

int net_event(uint64_t value);
int net_event_add(int fd, uint64_t value);
int net_event_take(int fd, uint64_t *value_p);

int net_epoll(void);
int net_epoll_ctl(int fd, int how, int watched, const struct epoll_event *event);
int net_epoll_ready(int fd, struct epoll_event *events, int most);

/* Which of those events it has now; error and hang-up always. */
uint32_t net_events(int fd, uint32_t wanted);
/* When it could have one. */
uint64_t net_when(int fd, uint32_t wanted);
