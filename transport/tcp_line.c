/* SPDX-License-Identifier: MIT */

/* A line: a connection to a memory server, from the name of the host to the proof of the key. */

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "transport/tcp.h"

#define NS_SECOND      1000000000ull
#define NS_MILLISECOND 1000000ull

/* Bytes that were sent and not acknowledged for so long end the connection. */
#define UNACKNOWLEDGED_MS 5000
#define KEEPALIVE_S       2
#define RECEIVE_MS        250
#define MEANWHILE_NS      (100 * NS_MILLISECOND) /* how often others are seen to in a wait */
#define PIECES_MOST       64                     /* of one sendmsg() */

uint64_t wr_line_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_SECOND + (uint64_t)now.tv_nsec;
}

/* --- Bytes ----------------------------------------------------------------------------------- */

/* Raw, for the C library's own is a cancellation point. False: the deadline has come, or the line
 * is given up. opener: NULL for a line that has been opened. */
static bool await(int fd, short events, uint64_t deadline_ns, const struct wr_line_target *opener)
{
    const bool is_shared = opener && opener->meanwhile;

    for (;;) {
        struct pollfd wait = {.fd = fd, .events = events};
        uint64_t now = wr_line_now_ns(), time;
        struct timespec left;
        long ready;

        if (now >= deadline_ns)
            return false;
        time = deadline_ns - now;
        if (is_shared && time > MEANWHILE_NS)
            time = MEANWHILE_NS;
        left = (struct timespec){(time_t)(time / NS_SECOND), (long)(time % NS_SECOND)};
        ready = syscall(SYS_ppoll, &wait, 1, &left, NULL, (size_t)8);
        if (ready > 0)
            return true;
        if (ready < 0 && errno != EINTR && errno != EAGAIN)
            return false;
        if (is_shared && !opener->meanwhile(opener->context))
            return false;
    }
}

bool wr_line_await(const struct wr_line *line, int fd, uint64_t deadline_ns)
{
    return await(fd, POLLIN, deadline_ns, line->opener);
}

static bool is_passing(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

/* Step over so many bytes of a vector; what is left of it. */
static int advance(struct iovec *iov, int count, size_t bytes)
{
    int at = 0;

    while (at < count && bytes >= iov[at].iov_len)
        bytes -= iov[at++].iov_len;
    if (at < count) {
        iov[at].iov_base = (char *)iov[at].iov_base + bytes;
        iov[at].iov_len -= bytes;
    }
    memmove(iov, iov + at, (size_t)(count - at) * sizeof(*iov));
    return count - at;
}

bool wr_line_send(struct wr_line *line, const struct iovec *iov, int count, uint64_t deadline_ns)
{
    struct iovec left[PIECES_MOST];

    if (count > PIECES_MOST)
        return false;
    memcpy(left, iov, (size_t)count * sizeof(*iov));
    while (count > 0) {
        struct msghdr message = {.msg_iov = left, .msg_iovlen = (size_t)count};
        long sent = syscall(SYS_sendmsg, line->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (sent >= 0)
            count = advance(left, count, (size_t)sent);
        else if (!is_passing(errno) || !await(line->fd, POLLOUT, deadline_ns, line->opener))
            return false;
    }
    return true;
}

/* Some of a vector. Who may sleep does so in here, for RECEIVE_MS at most. */
static long receive_some(const struct wr_line *line, struct iovec *iov, int count, bool may_sleep)
{
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = (size_t)count};

    return syscall(SYS_recvmsg, line->fd, &message, may_sleep ? 0 : MSG_DONTWAIT);
}

/* At least so many bytes of a vector, which is used up. */
static bool receive_least(const struct wr_line *line, struct iovec *left, int count, size_t least,
                          const struct wr_wait *wait, size_t *got_p)
{
    uint64_t now = wr_line_now_ns(), spin_until = wait->spin_ns ? now + wait->spin_ns : 0;

    *got_p = 0;
    while (*got_p < least) {
        bool is_spinning = now < spin_until;
        long part = receive_some(line, left, count, !is_spinning && now < wait->deadline_ns);

        if (part > 0) {
            *got_p += (size_t)part;
            count = advance(left, count, (size_t)part);
        } else if (part == 0 || !is_passing(errno)) {
            return false;
        } else if (is_spinning) {
            syscall(SYS_sched_yield); /* who could run here may be the one we wait for */
            now = wr_line_now_ns();
        } else if (!await(line->fd, POLLIN, wait->deadline_ns, line->opener)) {
            return false;
        }
    }
    return true;
}

bool wr_line_receive(struct wr_line *line, void *bytes, size_t count, uint64_t deadline_ns)
{
    const struct wr_wait wait = {.deadline_ns = deadline_ns};
    struct iovec iov = {bytes, count};
    size_t got;

    return receive_least(line, &iov, 1, count, &wait, &got);
}

bool wr_line_receive_answer(struct wr_line *line, uint8_t header[WR_MESSAGE_BYTES], void *payload,
                            size_t room, const struct wr_wait *wait, size_t *came_p)
{
    struct iovec iov[2] = {{header, WR_MESSAGE_BYTES}, {payload, room}};
    size_t got;

    if (!receive_least(line, iov, 2, WR_MESSAGE_BYTES, wait, &got))
        return false;
    *came_p = got - WR_MESSAGE_BYTES;
    return true;
}

/* --- Questions ------------------------------------------------------------------------------- */

int wr_line_say(struct wr_line *line, struct wr_message *message, const void *payload,
                uint64_t deadline_ns)
{
    uint8_t header[WR_MESSAGE_BYTES];
    struct iovec iov[2] = {{header, sizeof(header)}, {NULL, message->length}};

    message->id = ++line->id;
    message->epoch = line->epoch;
    wr_message_put(message, header);
    wr_session_seal(&line->session, header, payload, message->length);
    memcpy(&iov[1].iov_base, &payload, sizeof(payload));
    return wr_line_send(line, iov, message->length ? 2 : 1, deadline_ns) ? WEIR_OK : WEIR_EIO;
}

int wr_line_hear(struct wr_line *line, const struct wr_message *message,
                 struct wr_message *answer_p, void *answer, size_t room, uint64_t deadline_ns)
{
    uint8_t bytes[WR_MESSAGE_BYTES];

    if (!wr_line_receive(line, bytes, sizeof(bytes), deadline_ns) ||
        !wr_message_parse(bytes, answer_p) || answer_p->length > room ||
        wr_message_has_pages(answer_p) ||
        !wr_line_receive(line, answer, answer_p->length, deadline_ns) ||
        !wr_session_check(&line->session, bytes, answer, answer_p->length) ||
        answer_p->epoch != line->epoch || answer_p->id != message->id)
        return WEIR_EIO;
    return WEIR_OK;
}

int wr_line_ask(struct wr_line *line, struct wr_message *message, const void *payload,
                struct wr_message *answer_p, void *answer, size_t room, uint64_t deadline_ns)
{
    int error = wr_line_say(line, message, payload, deadline_ns);

    return error ? error : wr_line_hear(line, message, answer_p, answer, room, deadline_ns);
}

/* --- Life ------------------------------------------------------------------------------------ */

static void set_number(int fd, int level, int name, int value)
{
    /* A hint that is not taken costs speed or time, not correctness. */
    (void)setsockopt(fd, level, name, &value, sizeof(value));
}

static void tune(int fd)
{
    set_number(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_number(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_number(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_S);
    set_number(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_S);
    set_number(fd, IPPROTO_TCP, TCP_KEEPCNT, 2);
    set_number(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS);
}

/* Who receives may sleep in that, which is one system call less than to poll first. */
static void let_sleep(int fd)
{
    const struct timeval while_asleep = {.tv_usec = RECEIVE_MS * 1000};
    const int flags = fcntl(fd, F_GETFL);

    if (flags >= 0 &&
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &while_asleep, sizeof(while_asleep)) == 0)
        (void)fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
}

/* 0, or an errno. */
static int connect_to(const struct addrinfo *address, uint64_t deadline_ns,
                      const struct wr_line_target *target, int *fd_p)
{
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    socklen_t length = sizeof(int);
    int error = 0;

    if (fd < 0)
        return errno;
    tune(fd);
    if (connect(fd, address->ai_addr, address->ai_addrlen) != 0) {
        error = errno;
        if (error == EINPROGRESS)
            error = await(fd, POLLOUT, deadline_ns, target)
                        ? getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 ? error : errno
                        : ETIMEDOUT;
    }
    if (error) {
        close(fd);
        return error;
    }
    *fd_p = fd;
    return 0;
}

/* 0, or the errno of the last that was tried. */
static int connect_found(const struct wr_line_target *target, uint64_t deadline_ns, int *fd_p)
{
    int error = EADDRNOTAVAIL;

    for (const struct addrinfo *a = target->found; a && error; a = a->ai_next)
        error = connect_to(a, deadline_ns, target, fd_p);
    return error;
}

void wr_line_forget(struct wr_line_target *target)
{
    if (target->found)
        freeaddrinfo(target->found);
    target->found = NULL;
}

static int look_up(struct wr_line_target *target, char why[WR_WHY_ROOM])
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    int error;

    wr_line_forget(target);
    error = getaddrinfo(target->host, target->port, &hints, &target->found);
    if (!error)
        return WEIR_OK;
    target->found = NULL;
    snprintf(why, WR_WHY_ROOM, "the name is not known: %s", gai_strerror(error));
    return WEIR_ENOENT;
}

static int connect_any(struct wr_line_target *target, uint64_t deadline_ns, int *fd_p,
                       char why[WR_WHY_ROOM])
{
    int os_error = connect_found(target, deadline_ns, fd_p), error;

    if (os_error && !(target->found && target->is_right)) {
        error = look_up(target, why);
        if (error)
            return error;
        os_error = connect_found(target, deadline_ns, fd_p);
    }
    if (!os_error)
        return WEIR_OK;
    snprintf(why, WR_WHY_ROOM, "%s%s", strerrordesc_np(os_error),
             os_error == ECONNREFUSED ? ": does weir-memd run there?" : "");
    return os_error == EACCES || os_error == EPERM ? WEIR_EDENIED : WEIR_EIO;
}

static bool exchange(struct wr_line *line, void *out, size_t out_bytes, void *in, size_t in_bytes,
                     uint64_t timeout_ns)
{
    const struct iovec iov = {out, out_bytes};
    const uint64_t deadline = wr_line_now_ns() + timeout_ns;

    return wr_line_send(line, &iov, 1, deadline) && wr_line_receive(line, in, in_bytes, deadline);
}

static int refuse(char why[WR_WHY_ROOM], int error, const char *text)
{
    snprintf(why, WR_WHY_ROOM, "%s", text);
    return error;
}

/* Is it the answer to our proof, in words that only who has the key can say? */
static int hear_welcome(struct wr_line *line, const uint8_t *welcome, char why[WR_WHY_ROOM])
{
    struct wr_message answer;

    if (!wr_message_parse(welcome, &answer) || !wr_session_check(&line->session, welcome, NULL, 0))
        return refuse(why, WEIR_EIO, "its welcome is not sound");
    if (answer.type == WR_MESSAGE_REFUSED && answer.error == -WEIR_EFULL)
        return refuse(why, WEIR_EFULL, WR_LINE_FULL);
    if (answer.type != WR_MESSAGE_WELCOME)
        return refuse(why, WEIR_EIO, "its welcome is not sound");
    return WEIR_OK;
}

static int shake_hands(struct wr_line *line, const struct wr_line_target *target,
                       uint64_t timeout_ns, char why[WR_WHY_ROOM])
{
    uint8_t hello[WR_MESSAGE_BYTES + WR_HELLO_BYTES], proof[WR_MESSAGE_BYTES + WR_PROOF_BYTES];
    uint8_t challenge[WR_MESSAGE_BYTES + WR_CHALLENGE_BYTES], welcome[WR_MESSAGE_BYTES];
    struct wr_handshake shake;
    struct wr_message answer;
    int error;

    wr_hello_say(&shake, target->key, target->client, target->label, hello);
    if (!exchange(line, hello, sizeof(hello), challenge, WR_MESSAGE_BYTES, timeout_ns))
        return refuse(why, WEIR_EIO, "no answer: is it weir-memd that listens there, and idle?");
    if (wr_message_parse(challenge, &answer) && answer.type == WR_MESSAGE_REFUSED)
        return refuse(why, WEIR_ENOSUPPORT, "it speaks another version, or has other pages");
    if (!wr_line_receive(line, challenge + WR_MESSAGE_BYTES, WR_CHALLENGE_BYTES,
                         wr_line_now_ns() + timeout_ns))
        return refuse(why, WEIR_EIO, "it hung up");
    error = wr_challenge_hear(&shake, challenge, &line->epoch);
    if (error == WEIR_EDENIED)
        return refuse(why, error, "it has another key: give both the same key file");
    if (error)
        return refuse(why, error, "what listens there is no weir-memd");
    wr_proof_say(&shake, proof, &line->session);
    if (!exchange(line, proof, sizeof(proof), welcome, sizeof(welcome), timeout_ns))
        return refuse(why, WEIR_EDENIED,
                      "it hung up on our proof: give both the same key file; if they have it, the "
                      "network broke");
    return hear_welcome(line, welcome, why);
}

int wr_line_open(struct wr_line *line, struct wr_line_target *target, uint64_t timeout_ns,
                 char why[WR_WHY_ROOM])
{
    int error;

    *line = (struct wr_line){.fd = -1, .opener = target};
    error = connect_any(target, wr_line_now_ns() + timeout_ns, &line->fd, why);
    if (!error)
        error = shake_hands(line, target, timeout_ns, why);
    if (error)
        wr_line_close(line);
    return error;
}

void wr_line_opened(struct wr_line *line)
{
    line->opener = NULL;
    let_sleep(line->fd);
}

void wr_line_close(struct wr_line *line)
{
    if (line->fd >= 0)
        syscall(SYS_close, line->fd);
    line->fd = -1;
}

void wr_line_break(const struct wr_line *line)
{
    shutdown(line->fd, SHUT_RDWR);
}
