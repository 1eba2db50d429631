/* SPDX-License-Identifier: MIT */
#pragma once

/* Files: what descriptors name. For net.c and files.c. */

#include "tests/cluster/net.h"

enum net_kind { NET_NONE, NET_END, NET_LISTENER, NET_EVENT, NET_EPOLL };

struct net_segment {
    struct net_segment *next;
    uint64_t due_ns; /* LOOP_NEVER: held */
    size_t from, to;
    char bytes[];
};

struct net_end {
    struct net_end *peer; /* NULL: it has closed, or is lost             */
    struct net_end *next; /* of those who wait for a listener            */
    uint32_t host, peer_host;
    uint16_t port; /* the client's */
    bool is_connected, is_shut;
    bool is_cut; /* something that was sent here has been lost: nothing comes any more */
    uint64_t connected_ns, over_ns, error_ns; /* when it is so */
    uint64_t stalled_ns;                      /* nothing arrives before */
    int error;
    size_t room;   /* so much may be on its way to the peer     */
    size_t coming; /* on its way here, and not taken            */
    struct net_segment *first, *last;
};

struct net_watch {
    struct net_watch *next;
    int fd;
    struct epoll_event event;
};

struct net_file {
    enum net_kind kind;
    struct process *process;
    struct net_end *end;
    struct net_end *waiting; /* of a listener */
    uint16_t port;
    uint64_t value;            /* of an eventfd */
    struct net_watch *watches; /* of an epoll   */
    uint32_t watchers;         /* of an end: epolls that may watch it */
    bool is_blocking;
    uint64_t receive_ns; /* so long a receive may sleep; 0: for ever */
};

void files_begin(void);
struct net_file *files_new(enum net_kind kind, int *fd_p);
struct net_file *files_get(int fd);
/* NULL: nobody listens there. */
struct net_file *files_listener(uint32_t host, uint16_t port);
/* Is there a process on it? (Every host has one.) */
bool files_is_up(uint32_t host);
void files_set_up(uint32_t host, bool is_up);
/* All ends that there are, those that wait for a listener too. */
struct net_end *files_first_end(void);
struct net_end *files_next_end(void);

uint64_t net_end_when(const struct net_end *end, uint32_t wanted);
uint32_t net_end_events(struct net_end *end, uint32_t wanted);
void net_end_close(struct net_end *end);
void net_end_vanish(struct net_end *end);
