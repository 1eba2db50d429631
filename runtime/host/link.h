/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Link: how two processes of one machine meet and talk.
 *
 *   name     where to meet: a path, or a word, which is a name of the user's own that goes with the
 *            process (an abstract socket)
 *   hello    the first message each way: who we are, and a descriptor
 *   ask      every later one
 *   watch    descriptors that one or more threads wait for
 *
 * Always: the two have the same user, as the kernel says; a message is whole or not at all; nothing
 * here waits but wr_watch_next(), and wr_link_hello() for as long as it says. Bounds and values of
 * what the other says are checked by who receives it (requirements E40, E41).
 */

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/check.h"

#define WR_LINK_MAGIC    0x72696577u /* "weir" as this machine orders bytes */
#define WR_LINK_VERSION  1u
#define WR_LINK_NAME_MAX 64u  /* of a word, with its end */
#define WR_LINK_PATH_MAX 108u /* of a path, likewise     */

struct wr_hello {
    uint32_t magic, version, page_bytes, hello_bytes;
    uint64_t bytes; /* of the object; 0 from who attaches */
    int32_t error;  /* why not, from the owner            */
    uint32_t zero;
};

enum wr_ask_kind {
    WR_ASK_MAP = 1, /* to the owner: serve a view of mine                        */
    WR_ASK_UNMAP,   /* and no longer: nothing of it is mapped                    */
    WR_ASK_MAPPED,  /* from the owner: error says whether                        */
    WR_ASK_UNMAPPED,
    WR_ASK_REFUSED, /* from the owner: the page at addr cannot be had, see error */
    WR_ASK_PIN, /* to the owner: offset is a number of the asker's own, doubled, and 1 to store */
    WR_ASK_UNPIN,
    WR_ASK_PINNED, /* from the owner, to both: the same number */
    WR_ASK_UNPINNED
};

#define WR_ASK_PIN_PAGES 512u /* at most by one of them, so that others are served in between */

struct wr_ask {
    uint32_t kind;
    int32_t error;
    uint64_t addr, offset, bytes;
};

/* Is it a path or word that can be a name? */
bool wr_link_is_name(const char *name);

/* WEIR_EBUSY: somebody listens there. WEIR_EDENIED, WEIR_ENOMEM. A file of that name that was left
 * by a process that ended is replaced. */
int wr_link_listen(const char *name, int *listener_p);
/* Close it, and remove the file if there is one. */
void wr_link_unlisten(int listener, const char *name);
/* WEIR_EAGAIN: nobody is there. */
int wr_link_accept(int listener, int *link_p);
/* WEIR_ENOENT: nobody listens. WEIR_EAGAIN: too many at once. */
int wr_link_connect(const char *name, int *link_p);

/* The other hears of it at once, though a fork child of ours may have the link, too. */
void wr_link_close(int link);

/* Who is at the other end? life_p: a descriptor that is readable when that process has ended, or -1
 * where it cannot be seen from here. WEIR_EDENIED: another user. */
int wr_link_meet(int link, int *life_p, int *pid_p);

/* What this library says of itself. */
struct wr_hello wr_link_hello_of(uint64_t bytes, int error);
/* WEIR_OK: he fits; else his own error, or WEIR_ENOSUPPORT, and why_p says what differs. */
int wr_link_judge(const struct wr_hello *hello, const char **why_p);

/* fd -1: none goes with it. False: it was not sent. */
bool wr_link_send(int link, const void *message, uint32_t bytes, int fd);

enum wr_received { WR_RECEIVED, WR_RECEIVED_NOTHING, WR_RECEIVED_END };

/* A message of exactly so many bytes, and the descriptor that came with it, or -1; fd_p NULL: what
 * comes is closed. Anything else is an end. */
enum wr_received wr_link_receive(int link, void *message, uint32_t bytes, int *fd_p);

/* Wait at most so long until something has come, or the other has gone. */
void wr_link_await(int link, int life, uint32_t timeout_ms);

/* A set of descriptors, each with a tag; -1 and errno. */
int wr_watch_open(void);
/* once: told once, to one thread, until wr_watch_again(). */
bool wr_watch_add(int watch, int fd, uint64_t tag, bool once);
void wr_watch_again(int watch, int fd, uint64_t tag);
void wr_watch_remove(int watch, int fd);
/* False: nothing came. */
bool wr_watch_next(int watch, uint64_t *tag_p, uint32_t timeout_ms);
