/* SPDX-License-Identifier: MIT */

/* Seats: reads by threads that fault. Everything here may run in a signal handler. */

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "transport/request.h"
#include "transport/tcp.h"
#include "transport/tcp_away.h"

#define NS_SECOND      1000000000ull
#define NS_MICROSECOND 1000ull
#define LOOK_NS        50000000ull /* who waits for a seat looks again after so long */
#define VAIN_ALWAYS    1024u       /* looking for an answer was never of use           */
#define VAIN_MOST      896u        /* beyond it, looking costs more than it brings     */
#define VAIN_SHARE     16u         /* of it that one answer counts for                 */
#define PROBE          32u

/* Sequentially consistent, as in wait_for_seat(): either we see who stands there, or he sees that
 * there was news. */
void wr_tcp_wake_seats(struct wr_tcp *tcp)
{
    atomic_fetch_add(&tcp->seats_freed, 1);
    if (atomic_load(&tcp->standing) > 0)
        syscall(SYS_futex, &tcp->seats_freed, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void wait_for_seat(struct wr_tcp *tcp, uint32_t seen)
{
    const struct timespec moment = {0, (long)LOOK_NS};

    atomic_fetch_add(&tcp->standing, 1);
    syscall(SYS_futex, &tcp->seats_freed, FUTEX_WAIT_PRIVATE, seen, &moment, NULL, 0);
    atomic_fetch_sub(&tcp->standing, 1);
}

/* The first ones first: their lines are warm. */
static struct wr_seat *take_seat(struct wr_tcp *tcp)
{
    for (uint32_t i = 0; i < WR_TCP_SEATS; i++) {
        uint32_t wanted = WR_SEAT_FREE;

        /* Acquire: pairs with the release of whoever freed it; the line is as he left it. */
        if (atomic_load_explicit(&tcp->seats[i].state, memory_order_relaxed) == WR_SEAT_FREE &&
            atomic_compare_exchange_strong_explicit(&tcp->seats[i].state, &wanted, WR_SEAT_TAKEN,
                                                    memory_order_acquire, memory_order_relaxed))
            return &tcp->seats[i];
    }
    return NULL;
}

static void put_seat(struct wr_tcp *tcp, struct wr_seat *seat, bool is_broken)
{
    /* Before: who finds no seat with a line finds since when. */
    if (is_broken)
        atomic_store_explicit(&tcp->unseated_ns, wr_line_now_ns(), memory_order_relaxed);
    atomic_store_explicit(&seat->state, is_broken ? WR_SEAT_BROKEN : WR_SEAT_FREE,
                          memory_order_release);
    if (is_broken)
        wr_tcp_ring(tcp);
    else
        wr_tcp_wake_seats(tcp);
}

/* What broke comes back, and is none meanwhile. */
static uint32_t seats_open(const struct wr_tcp *tcp)
{
    uint32_t open = 0;

    for (uint32_t i = 0; i < WR_TCP_SEATS; i++) {
        /* Acquire: pairs with the release in put_seat(), for unseated_ns. */
        uint32_t state = atomic_load_explicit(&tcp->seats[i].state, memory_order_acquire);

        open += state == WR_SEAT_FREE || state == WR_SEAT_TAKEN;
    }
    return open;
}

/* More of us than seats: the keeper opens another. */
static void want_more(struct wr_tcp *tcp)
{
    uint32_t wanted = atomic_load_explicit(&tcp->seats_wanted, memory_order_relaxed);

    if (seats_open(tcp) >= wanted && wanted < WR_TCP_SEATS)
        atomic_compare_exchange_strong_explicit(&tcp->seats_wanted, &wanted, wanted + 1,
                                                memory_order_relaxed, memory_order_relaxed);
    wr_tcp_ring(tcp);
}

/* --- Asking ---------------------------------------------------------------------------------- */

/*
 * How long to look for the answer before sleeping. Not at all while others look already that could
 * keep the answer from its processor; and where looking has hardly ever been of use lately (the
 * network takes longer), one in PROBE tries whether that has changed.
 */
bool wr_tcp_may_look(struct wr_tcp *tcp, uint64_t id)
{
    if (tcp->options.spin_us == 0 ||
        (atomic_load_explicit(&tcp->vain, memory_order_relaxed) > VAIN_MOST && id % PROBE != 0))
        return false;
    if (atomic_fetch_add_explicit(&tcp->looking, 1, memory_order_relaxed) < tcp->looking_most)
        return true;
    atomic_fetch_sub_explicit(&tcp->looking, 1, memory_order_relaxed);
    return false;
}

void wr_tcp_have_looked(struct wr_tcp *tcp, bool was_seen)
{
    uint32_t vain = atomic_load_explicit(&tcp->vain, memory_order_relaxed);

    vain = was_seen ? vain - vain / VAIN_SHARE : vain + (VAIN_ALWAYS - vain) / VAIN_SHARE;
    atomic_store_explicit(&tcp->vain, vain, memory_order_relaxed); /* two may count as one */
    atomic_fetch_sub_explicit(&tcp->looking, 1, memory_order_relaxed);
}

/* The answer, and what has come of the pages behind it. */
static bool await_answer(struct wr_tcp *tcp, struct wr_line *line, uint64_t deadline,
                         uint8_t header[WR_MESSAGE_BYTES], struct iovec *body)
{
    struct wr_wait wait = {0, deadline};
    bool looks = wr_tcp_may_look(tcp, line->id), has_come;
    uint64_t until = 0;
    size_t came = 0;

    if (looks) {
        wait.spin_ns = tcp->options.spin_us * NS_MICROSECOND;
        until = wr_line_now_ns() + wait.spin_ns;
    }
    has_come = wr_line_receive_answer(line, header, body->iov_base, body->iov_len, &wait, &came);
    if (looks)
        wr_tcp_have_looked(tcp, has_come && wr_line_now_ns() <= until);
    body->iov_base = (char *)body->iov_base + came;
    body->iov_len -= came;
    return has_come;
}

enum wr_asked wr_tcp_ask(struct wr_tcp *tcp, struct wr_line *line, uint64_t slot, uint32_t pages,
                         void *bytes, int *error_p)
{
    const struct wr_message message = {.type = WR_MESSAGE_READ,
                                       .pages = pages,
                                       .id = ++line->id,
                                       .epoch = line->epoch,
                                       .slot = slot};
    const size_t all = (size_t)pages * WEIR_SLOT_BYTES;
    uint8_t header[WR_MESSAGE_BYTES];
    const struct iovec iov = {header, sizeof(header)};
    struct iovec body = {bytes, all};
    uint64_t deadline = wr_line_now_ns() + tcp->options.timeout * NS_SECOND;
    struct wr_message answer;

    wr_message_put(&message, header);
    wr_session_seal(&line->session, header, NULL, 0);
    if (!wr_line_send(line, &iov, 1, deadline) ||
        !await_answer(tcp, line, deadline, header, &body) ||
        !wr_session_check(&line->session, header, NULL, 0) || !wr_message_parse(header, &answer) ||
        answer.id != message.id || answer.epoch != line->epoch)
        return WR_ASKED_BROKEN;
    if (answer.error && answer.length == 0 && body.iov_len == all) {
        *error_p = wr_message_error(&answer);
        return WR_ASKED_REFUSED;
    }
    if (answer.type != WR_MESSAGE_CONTENT || answer.slot != slot || answer.pages != pages ||
        answer.length != all || !wr_line_receive(line, body.iov_base, body.iov_len, deadline))
        return WR_ASKED_BROKEN;
    return WR_ASKED_OK;
}

static int read_pages(struct wr_tcp *tcp, uint64_t slot, uint32_t pages, void *bytes)
{
    const bool has_copies = wr_tcp_has_copies(tcp);
    uint64_t until = wr_line_now_ns() +
                     (has_copies ? tcp->options.timeout : tcp->options.patience) * NS_SECOND;
    int error = WEIR_EIO;

    do {
        if (has_copies && atomic_load(&tcp->is_away))
            break;
        uint32_t seen = atomic_load(&tcp->seats_freed);
        struct wr_seat *seat = take_seat(tcp);
        enum wr_asked asked;

        if (!seat) {
            if (seats_open(tcp) == 0 && wr_tcp_is_barred_from(tcp, atomic_load(&tcp->unseated_ns)))
                return WEIR_EIO;
            want_more(tcp);
            wait_for_seat(tcp, seen);
            continue;
        }
        asked = tcp->kind->ask(tcp, &seat->line, slot, pages, bytes, &error);
        put_seat(tcp, seat, asked == WR_ASKED_BROKEN);
        if (asked != WR_ASKED_BROKEN)
            return asked == WR_ASKED_OK ? WEIR_OK : error;
        if (has_copies)
            break;
    } while (!wr_tcp_is_given_up(tcp) && wr_line_now_ns() < until);
    return has_copies && !wr_tcp_is_given_up(tcp) ? WEIR_EAGAIN : WEIR_EIO;
}

int wr_tcp_read(struct weir_backend *backend, uint64_t slot, uint32_t pages, void *bytes)
{
    struct wr_tcp *tcp = (struct wr_tcp *)backend;
    int saved_errno = errno, error;

    if (!wr_request_is_inside(tcp->slots, slot, pages))
        return WEIR_EINVAL;
    error = read_pages(tcp, slot, pages, bytes);
    errno = saved_errno;
    return error;
}

void wr_tcp_discard(struct wr_tcp *tcp, uint64_t slot, uint64_t count)
{
    struct wr_message message = {.type = WR_MESSAGE_DISCARD, .slot = slot, .count = count}, answer;
    struct wr_seat *seat = take_seat(tcp);
    bool is_answered;

    if (!seat)
        return; /* a hint: it costs the server memory for a while */
    is_answered = wr_line_ask(&seat->line, &message, NULL, &answer, NULL, 0,
                              wr_line_now_ns() + tcp->options.timeout * NS_SECOND) == WEIR_OK;
    if (!is_answered)
        wr_tcp_note_unsure(tcp, WR_TCP_LINE_SEATS + (uint32_t)(seat - tcp->seats));
    put_seat(tcp, seat, !is_answered);
}
