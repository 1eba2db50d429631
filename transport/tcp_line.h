/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Line: one connection to a memory server: a socket, the session on it, and what of it is known.
 *
 * Always: one thread uses a line at a time; another one may only break it.
 */

#include <stdbool.h>
#include <sys/uio.h>

#include "transport/session.h"
#include "transport/tcp_kind.h"

struct wr_line_target;

struct wr_line {
    int fd;                      /* -1: none */
    struct wr_rdma_queue *queue; /* of rdma, by which pages go; NULL: none */
    uint64_t epoch;
    uint64_t id; /* of the last request */
    /* Until wr_line_opened(): whoever waits on it does what else there is to do meanwhile. */
    const struct wr_line_target *opener;
    struct wr_session session;
};

/* Who a line is to be opened to, and as whom. */
struct wr_line_target {
    const char *host, *port;
    const struct wr_key *key;
    uint8_t client[WR_NAME_BYTES];
    char label[WR_LABEL_BYTES];
    /* Where the host was found last; looked up again when nobody answers there, unless it is known
     * to be right. Of who opens lines. */
    struct addrinfo *found;
    bool is_right;
    /* Called several times a second while a line is being opened; false: give it up. NULL: nobody
     * has anything else to do. */
    bool (*meanwhile)(void *context);
    void *context;
};

#define WR_LINE_FULL \
    "all its connections are in use: raise `connections` there, or take another server"

/* Connect and prove ourselves; the system has so long to connect, the server for each answer.
 * WEIR_OK, or an error that why says in words. Never in a signal handler. */
int wr_line_open(struct wr_line *line, struct wr_line_target *target, uint64_t timeout_ns,
                 char why[WR_WHY_ROOM]);
/* From now on whoever waits on it only waits. */
void wr_line_opened(struct wr_line *line);
void wr_line_forget(struct wr_line_target *target);
/* Signal. */
void wr_line_close(struct wr_line *line);
/* Whoever waits on it, in another thread, sees its end. */
void wr_line_break(const struct wr_line *line);

/* Send a message, with a payload that is not pages or none; wait for the answer, of at most room
 * bytes of payload. WEIR_EIO: the line has broken. For control messages. Or first the one and later
 * the other, with nothing else between them. */
int wr_line_say(struct wr_line *line, struct wr_message *message, const void *payload,
                uint64_t deadline_ns);
int wr_line_hear(struct wr_line *line, const struct wr_message *message,
                 struct wr_message *answer_p, void *answer, size_t room, uint64_t deadline_ns);
int wr_line_ask(struct wr_line *line, struct wr_message *message, const void *payload,
                struct wr_message *answer_p, void *answer, size_t room, uint64_t deadline_ns);

/* Send all, receive all, until the deadline. False: the line has broken, or it is late. Signal. */
bool wr_line_send(struct wr_line *line, const struct iovec *iov, int count, uint64_t deadline_ns);
bool wr_line_receive(struct wr_line *line, void *bytes, size_t count, uint64_t deadline_ns);

struct wr_wait {
    uint64_t spin_ns; /* look for so long before sleeping */
    uint64_t deadline_ns;
};

/* Until another descriptor has something, which belongs to the line. False: it is late, or the line
 * is given up. */
bool wr_line_await(const struct wr_line *line, int fd, uint64_t deadline_ns);

/* Receive a header, and of what comes with it at most room bytes: *came_p says how many came, of
 * which nothing is known yet. Only where nothing else can follow the message. Likewise. Signal. */
bool wr_line_receive_answer(struct wr_line *line, uint8_t header[WR_MESSAGE_BYTES], void *payload,
                            size_t room, const struct wr_wait *wait, size_t *came_p);

uint64_t wr_line_now_ns(void);
