/* SPDX-License-Identifier: MIT */

/*
 * The keeper: opens lines, renews the lease, notices that a server is gone, and that it is another
 * that has come back.
 */

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "transport/ring.h"
#include "transport/tcp.h"
#include "transport/tell.h"

#define NS_SECOND      1000000000ull
#define NS_MILLISECOND 1000000ull

#define RENEW_NS       NS_SECOND             /* also how soon it is noticed that nobody answers */
#define RETRY_LEAST_NS (10 * NS_MILLISECOND) /* backing off                                     */
#define RETRY_MOST_NS  NS_SECOND
#define TEND_NS        (100 * NS_MILLISECOND) /* channels look at the clock while nobody answers */
#define SEATS_FIRST    2u

/* Numbers of lines: the server ends an older one of the same number. */
enum { NUMBER_CONTROL = 0, NUMBER_SEATS = 1, NUMBER_CHANNELS = NUMBER_SEATS + WR_TCP_SEATS };

void wr_tcp_ring(const struct wr_tcp *tcp)
{
    wr_ring(tcp->bell);
}

static const char *name_of(const struct wr_tcp *tcp)
{
    return tcp->base.ops->name;
}

/* --- Lines ----------------------------------------------------------------------------------- */

uint64_t wr_tcp_soon(const struct wr_tcp *tcp)
{
    return wr_line_now_ns() + tcp->options.timeout * NS_SECOND;
}

/* Everything that was stored has gone, for ever. */
static void lose(struct wr_tcp *tcp, const char *why)
{
    if (atomic_exchange(&tcp->is_lost, true))
        return;
    wr_tell(tcp->env, WEIR_FAILURE, WEIR_EIO, 0,
            "%s: the pages at %s:%s are lost: %s. Whoever touches one of them has an error",
            name_of(tcp), tcp->target.host, tcp->target.port, why);
}

int wr_tcp_attach(struct wr_tcp *tcp, struct wr_line *line, uint64_t number, char why[WR_WHY_ROOM])
{
    struct wr_message message = {
        .type = WR_MESSAGE_ATTACH, .length = WR_NAME_BYTES, .slot = number};
    struct wr_message answer;
    int error = wr_line_open(line, &tcp->target, wr_tcp_soon(tcp), why);

    if (error)
        return error;
    if (line->epoch != tcp->epoch) {
        lose(tcp, "the server has been started again");
        error = WEIR_ENOENT;
    } else {
        error = wr_line_ask(line, &message, tcp->lease, &answer, NULL, 0, wr_tcp_soon(tcp));
        if (!error && answer.type != WR_MESSAGE_ATTACHED) {
            if (answer.error == -WEIR_ENOENT)
                lose(tcp, "the server has heard nothing of us for longer than it lends memory");
            error = WEIR_EIO;
        }
    }
    if (error)
        wr_line_close(line);
    return error;
}

void wr_tcp_close_line(const struct wr_tcp *tcp, struct wr_line *line)
{
    if (tcp->kind->part)
        tcp->kind->part(line);
    wr_line_close(line);
}

int wr_tcp_open_line(struct wr_tcp *tcp, struct wr_line *line, uint64_t number, uint32_t depth,
                     char why[WR_WHY_ROOM])
{
    int error = wr_tcp_attach(tcp, line, number, why);

    if (!error && tcp->kind->join) {
        error = tcp->kind->join(tcp, line, depth, why);
        if (error)
            wr_line_close(line);
    }
    return error;
}

/* Whoever waits on it, in another thread, sees its end. */
static void break_line(const struct wr_tcp *tcp, const struct wr_line *line)
{
    if (tcp->kind->interrupt)
        tcp->kind->interrupt(line);
    wr_line_break(line);
}

static void open_seats(struct wr_tcp *tcp)
{
    uint32_t wanted = atomic_load_explicit(&tcp->seats_wanted, memory_order_relaxed), open = 0;
    char why[WR_WHY_ROOM];

    for (uint32_t i = 0; i < WR_TCP_SEATS; i++) {
        struct wr_seat *seat = &tcp->seats[i];
        uint32_t state = atomic_load_explicit(&seat->state, memory_order_acquire);

        if (state == WR_SEAT_BROKEN) {
            wr_tcp_close_line(tcp, &seat->line);
            state = WR_SEAT_CLOSED;
            atomic_store_explicit(&seat->state, state, memory_order_relaxed);
        }
        if (state == WR_SEAT_CLOSED && (open < wanted || seat->is_unsure) &&
            !atomic_load(&tcp->is_away) && !atomic_load(&tcp->is_lost) &&
            wr_tcp_open_line(tcp, &seat->line, NUMBER_SEATS + i, 1, why) == WEIR_OK) {
            tcp->is_sure_again |= seat->is_unsure;
            atomic_fetch_sub(&tcp->unsure, seat->is_unsure);
            seat->is_unsure = false;
            /* Release: whoever takes it finds the line whole. */
            atomic_store_explicit(&seat->state, WR_SEAT_FREE, memory_order_release);
            state = WR_SEAT_FREE;
        }
        open += state != WR_SEAT_CLOSED;
    }
    wr_tcp_wake_seats(tcp);
}

/* Who sits there notices by himself what went wrong with a stream; not with everything. */
static void look_at_seats(struct wr_tcp *tcp)
{
    for (uint32_t i = 0; i < WR_TCP_SEATS && tcp->kind->is_ended; i++) {
        uint32_t state = atomic_load_explicit(&tcp->seats[i].state, memory_order_acquire);

        if ((state == WR_SEAT_TAKEN || state == WR_SEAT_FREE) &&
            tcp->kind->is_ended(&tcp->seats[i].line))
            break_line(tcp, &tcp->seats[i].line);
    }
}

/* A channel has closed whose line was unsure: another line of its number ends that. */
static void lay_ghost(struct wr_tcp *tcp, uint32_t i)
{
    struct wr_line line;
    char why[WR_WHY_ROOM];

    if (atomic_load(&tcp->is_away) || atomic_load(&tcp->is_lost) ||
        wr_tcp_attach(tcp, &line, NUMBER_CHANNELS + i, why) != WEIR_OK)
        return;
    wr_line_close(&line);
    tcp->has_ghost[i] = false;
    tcp->is_sure_again = true;
    atomic_fetch_sub(&tcp->unsure, 1);
}

static void tend_channels(struct wr_tcp *tcp)
{
    pthread_mutex_lock(&tcp->lock);
    for (uint32_t i = 0; i < WR_TCP_CHANNELS; i++)
        if (tcp->has_ghost[i])
            lay_ghost(tcp, i);
    for (uint32_t i = 0; i < WR_TCP_CHANNELS; i++)
        if (tcp->channels[i])
            tcp->kind->tend(tcp->channels[i], NUMBER_CHANNELS + i);
    tcp->is_sure_again = false;
    pthread_mutex_unlock(&tcp->lock);
}

/* --- The lease ------------------------------------------------------------------------------- */

/* Nobody answers: who waits on a line must not go on waiting for that one. */
static void go_away(struct wr_tcp *tcp, const char *why)
{
    wr_line_close(&tcp->control);
    tcp->retry_wait_ns = RETRY_LEAST_NS;
    tcp->retry_ns = wr_line_now_ns();
    if (atomic_load(&tcp->is_away))
        return;
    atomic_store(&tcp->away_ns, wr_line_now_ns());
    atomic_store(&tcp->is_away, true);
    wr_tell(tcp->env, WEIR_WARNING, WEIR_EIO, 0,
            "%s: %s:%s does not answer (%s); what needs it waits, %llu s at most", name_of(tcp),
            tcp->target.host, tcp->target.port, why, (unsigned long long)tcp->options.patience);
    for (uint32_t i = 0; i < WR_TCP_SEATS; i++) {
        uint32_t state = atomic_load_explicit(&tcp->seats[i].state, memory_order_acquire);

        /* Who sits there sees the end of the line, and gets up. */
        if (state == WR_SEAT_TAKEN || state == WR_SEAT_FREE)
            break_line(tcp, &tcp->seats[i].line);
    }
}

/* The server needs its memory itself, or no longer. */
static void heed(struct wr_tcp *tcp, bool is_asked_back)
{
    bool acts = tcp->env && tcp->env->leave && tcp->options.asked_back == WR_TCP_DRAIN;

    if (is_asked_back == tcp->is_asked_back)
        return;
    tcp->is_asked_back = is_asked_back;
    if (is_asked_back)
        wr_tell(tcp->env, WEIR_WARNING, WEIR_OK, 0,
                "%s: %s:%s asks for its memory back, or is about to end: %s", name_of(tcp),
                tcp->target.host, tcp->target.port,
                acts ? "its pages move to other back ends, if those have room"
                     : "weir_backend_drain() moves the pages elsewhere");
    else
        wr_tell(tcp->env, WEIR_NOTE, WEIR_OK, 0, "%s: %s:%s wants its memory back no longer",
                name_of(tcp), tcp->target.host, tcp->target.port);
    if (acts)
        tcp->env->leave(tcp->env->context, is_asked_back);
}

static void renew(struct wr_tcp *tcp)
{
    struct wr_message message = {.type = WR_MESSAGE_RENEW}, answer;

    tcp->renew_ns = wr_line_now_ns() + RENEW_NS;
    if (wr_line_ask(&tcp->control, &message, NULL, &answer, NULL, 0, wr_tcp_soon(tcp)) != WEIR_OK)
        go_away(tcp, "the connection has ended, or is silent");
    else if (answer.type != WR_MESSAGE_RENEWED)
        lose(tcp, "the server does not know our lease any more");
    else
        heed(tcp, answer.pages & WR_MESSAGE_ASKED_BACK);
}

static void come_back(struct wr_tcp *tcp)
{
    char why[WR_WHY_ROOM];

    if (wr_tcp_attach(tcp, &tcp->control, NUMBER_CONTROL, why) == WEIR_OK) {
        atomic_store(&tcp->is_away, false);
        wr_tell(tcp->env, WEIR_NOTE, WEIR_OK, 0, "%s: %s:%s answers again", name_of(tcp),
                tcp->target.host, tcp->target.port);
        tcp->renew_ns = wr_line_now_ns() + RENEW_NS;
        return;
    }
    tcp->retry_ns = wr_line_now_ns() + tcp->retry_wait_ns;
    if (tcp->retry_wait_ns < RETRY_MOST_NS)
        tcp->retry_wait_ns *= 2;
}

static int borrow(struct wr_tcp *tcp, char why[WR_WHY_ROOM])
{
    struct wr_message message = {.type = WR_MESSAGE_LEASE, .count = tcp->slots}, answer;
    int error = wr_line_open(&tcp->control, &tcp->target, wr_tcp_soon(tcp), why);

    if (error)
        return error;
    tcp->epoch = tcp->control.epoch;
    error = wr_line_ask(&tcp->control, &message, NULL, &answer, tcp->lease, sizeof(tcp->lease),
                        wr_tcp_soon(tcp));
    if (!error && answer.type == WR_MESSAGE_LEASED && answer.slot >= tcp->slots)
        return WEIR_OK;
    if (error)
        snprintf(why, WR_WHY_ROOM, "it hung up when asked for memory");
    else
        snprintf(why, WR_WHY_ROOM, "it does not lend %llu MiB: %s",
                 (unsigned long long)tcp->slots * WEIR_SLOT_BYTES >> 20,
                 weir_error_text(-(int)answer.error));
    wr_line_close(&tcp->control);
    return error ? error : answer.error == -WEIR_EDENIED ? WEIR_EDENIED : WEIR_EFULL;
}

/* --- The thread ------------------------------------------------------------------------------ */

static void rest(struct wr_tcp *tcp)
{
    struct pollfd wait[2] = {{.fd = tcp->bell, .events = POLLIN},
                             {.fd = tcp->control.fd, .events = POLLIN}};
    const bool is_lost = atomic_load(&tcp->is_lost);
    uint64_t now = wr_line_now_ns(), until = tcp->renew_ns;
    eventfd_t rung;

    if (is_lost)
        until = now + NS_SECOND;
    else if (atomic_load(&tcp->is_away))
        until = tcp->retry_ns < now + TEND_NS ? tcp->retry_ns : now + TEND_NS;
    /* Once all is lost that line's end is no news, and would wake us for ever. */
    if (until > now)
        poll(wait, is_lost ? 1 : 2, (int)((until - now) / NS_MILLISECOND) + 1);
    if (wait[0].revents)
        (void)eventfd_read(tcp->bell, &rung);
    /* Nothing comes unasked on that line: it has ended. */
    if (wait[1].revents && !is_lost)
        go_away(tcp, "the connection has ended");
}

static void *keep(void *context)
{
    struct wr_tcp *tcp = context;

    while (!atomic_load(&tcp->stop)) {
        uint64_t now = wr_line_now_ns();

        if (!atomic_load(&tcp->is_lost)) {
            if (atomic_load(&tcp->is_away) && now >= tcp->retry_ns)
                come_back(tcp);
            else if (!atomic_load(&tcp->is_away) && now >= tcp->renew_ns)
                renew(tcp);
        }
        look_at_seats(tcp);
        open_seats(tcp);
        tend_channels(tcp);
        rest(tcp);
    }
    return NULL;
}

static int start(struct wr_tcp *tcp)
{
    sigset_t all, before;
    int os_error;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    os_error = pthread_create(&tcp->keeper, NULL, keep, tcp);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (os_error)
        return wr_tell_errno(tcp->env, os_error, "%s: cannot start a thread", name_of(tcp));
    pthread_setname_np(tcp->keeper, "weir-ktcp");
    return WEIR_OK;
}

static void give_back(struct wr_tcp *tcp)
{
    struct wr_message message = {.type = WR_MESSAGE_RETURN}, answer;

    if (tcp->control.fd >= 0)
        (void)wr_line_ask(&tcp->control, &message, NULL, &answer, NULL, 0, wr_tcp_soon(tcp));
    wr_line_close(&tcp->control);
}

static void close_seats(struct wr_tcp *tcp)
{
    for (uint32_t i = 0; i < WR_TCP_SEATS; i++)
        wr_tcp_close_line(tcp, &tcp->seats[i].line);
}

/* Where pages do not go by the line itself it is tried at once, so that whoever opens learns why
 * they cannot. */
static int open_first(struct wr_tcp *tcp, char why[WR_WHY_ROOM])
{
    struct wr_seat *seat = &tcp->seats[0];
    int error;

    if (!tcp->kind->join)
        return WEIR_OK;
    error = wr_tcp_open_line(tcp, &seat->line, NUMBER_SEATS, 1, why);
    if (!error)
        atomic_store_explicit(&seat->state, WR_SEAT_FREE, memory_order_release);
    return error;
}

int wr_tcp_keeper_open(struct wr_tcp *tcp)
{
    char why[WR_WHY_ROOM] = "";
    int error;

    for (uint32_t i = 0; i < WR_TCP_SEATS; i++)
        tcp->seats[i].line.fd = -1;
    tcp->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (tcp->bell < 0)
        return wr_tell_errno(tcp->env, errno, "%s: cannot make an eventfd", name_of(tcp));
    error = borrow(tcp, why);
    if (!error) {
        error = open_first(tcp, why);
        if (error)
            give_back(tcp);
    }
    if (error) {
        wr_tell(tcp->env, WEIR_FAILURE, error, 0, "%s: %s:%s: %s", name_of(tcp), tcp->target.host,
                tcp->target.port, why);
        goto err_bell;
    }
    tcp->renew_ns = wr_line_now_ns() + RENEW_NS;
    atomic_store(&tcp->seats_wanted, SEATS_FIRST);
    open_seats(tcp);
    error = start(tcp);
    if (!error)
        return WEIR_OK;
    close_seats(tcp);
    give_back(tcp);
err_bell:
    close(tcp->bell);
    return error;
}

void wr_tcp_keeper_close(struct wr_tcp *tcp)
{
    atomic_store(&tcp->stop, true);
    wr_tcp_ring(tcp);
    pthread_join(tcp->keeper, NULL);
    close_seats(tcp);
    give_back(tcp);
    close(tcp->bell);
}
