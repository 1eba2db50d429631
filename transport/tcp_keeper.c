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
#include "transport/tcp_away.h"
#include "transport/tell.h"

#define NS_SECOND      1000000000ull
#define NS_MILLISECOND 1000000ull

#define RENEW_MOST_NS  NS_SECOND             /* also how soon it is noticed that nobody answers */
#define RENEW_SHARE    4u                    /* of a lease, that it is renewed after at most    */
#define RETRY_LEAST_NS (10 * NS_MILLISECOND) /* backing off                                     */
#define RETRY_MOST_NS  NS_SECOND
#define TEND_NS        (100 * NS_MILLISECOND) /* channels look at the clock while nobody answers */
#define LINES_TOLD_NS  (2 * NS_SECOND)        /* before it is said that none can be opened      */
#define SEATS_FIRST    2u

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

/* A line to the server becomes one of the lease. */
static int join_lease(struct wr_tcp *tcp, struct wr_line *line, uint64_t number,
                      char why[WR_WHY_ROOM])
{
    struct wr_message message = {
        .type = WR_MESSAGE_ATTACH, .length = WR_NAME_BYTES, .slot = number};
    struct wr_message answer;

    if (line->epoch != tcp->epoch) {
        lose(tcp, "the server has been started again");
        return WEIR_ENOENT;
    }
    if (wr_line_ask(line, &message, tcp->lease, &answer, NULL, 0, wr_tcp_soon(tcp)) != WEIR_OK) {
        snprintf(why, WR_WHY_ROOM, "it hung up when asked for our pages");
        return WEIR_EIO;
    }
    if (answer.type == WR_MESSAGE_ATTACHED)
        return WEIR_OK;
    if (answer.error == -WEIR_ENOENT)
        lose(tcp, "the server has heard nothing of us for longer than it lends memory");
    if (answer.error == -WEIR_EFULL)
        snprintf(why, WR_WHY_ROOM, "%s", WR_LINE_FULL);
    else
        snprintf(why, WR_WHY_ROOM, "it refuses: %s", weir_error_text(-(int)answer.error));
    return WEIR_EIO;
}

/* Twice: soon, and when patience is over. */
static void tell_of_lines(struct wr_tcp *tcp, int error, const char *why)
{
    const uint64_t patience = tcp->options.patience;

    if (atomic_load(&tcp->is_away) || atomic_load(&tcp->is_lost) || atomic_load(&tcp->stop))
        return;
    if (tcp->lines_told == 0 && wr_tcp_is_barred_for(tcp, LINES_TOLD_NS)) {
        tcp->lines_told = 1;
        wr_tell(tcp->env, WEIR_WARNING, error, 0,
                "%s: %s:%s answers, but connections to it cannot be opened (%s); what needs one "
                "waits, %llu s at most",
                name_of(tcp), tcp->target.host, tcp->target.port, why,
                (unsigned long long)patience);
    }
    if (tcp->lines_told < 2 && wr_tcp_is_barred(tcp)) {
        tcp->lines_told = 2;
        wr_tell(tcp->env, WEIR_WARNING, error, 0,
                "%s: no connection to %s:%s could be opened for %llu s (%s); what needs one, and "
                "has none, fails until one can",
                name_of(tcp), tcp->target.host, tcp->target.port, (unsigned long long)patience,
                why);
    }
}

/* Nothing that is needed is without a line, or it can have one. */
static void note_unbarred(struct wr_tcp *tcp)
{
    tcp->open_ns = 0;
    tcp->open_wait_ns = RETRY_LEAST_NS;
    tcp->lines_told = 0;
    atomic_store(&tcp->barred_ns, 0);
}

static void back_off(uint64_t *next_ns, uint64_t *wait_ns)
{
    *next_ns = wr_line_now_ns() + *wait_ns;
    if (*wait_ns < RETRY_MOST_NS)
        *wait_ns *= 2;
}

/* Where one line cannot be opened no other is tried for a while: each try may take long. But nobody
 * needs seats that were never had; that a full server has no room for them says nothing of others.
 */
static void note_opened(struct wr_tcp *tcp, int error, const char *why)
{
    if (!error) {
        note_unbarred(tcp);
        tcp->more_ns = 0;
        tcp->more_wait_ns = RETRY_LEAST_NS;
        return;
    }
    if (tcp->is_more) {
        tcp->is_more_due = true;
        back_off(&tcp->more_ns, &tcp->more_wait_ns);
        return;
    }
    tcp->is_open_due = true;
    if (atomic_load(&tcp->barred_ns) == 0)
        atomic_store(&tcp->barred_ns, wr_line_now_ns());
    back_off(&tcp->open_ns, &tcp->open_wait_ns);
    tell_of_lines(tcp, error, why);
}

/* Is it too early to try another line? Then it is due. */
static bool is_early(struct wr_tcp *tcp)
{
    const uint64_t now = wr_line_now_ns();

    if (now < tcp->open_ns) {
        tcp->is_open_due |= !tcp->is_more;
        return true;
    }
    if (tcp->is_more && now < tcp->more_ns) {
        tcp->is_more_due = true;
        return true;
    }
    return false;
}

int wr_tcp_attach(struct wr_tcp *tcp, struct wr_line *line, uint64_t number, char why[WR_WHY_ROOM])
{
    const bool is_control = number == WR_TCP_LINE_CONTROL;
    const bool is_whole = is_control || !tcp->kind->join; /* else it is still to join */
    int error;

    if (!is_control && is_early(tcp))
        return WEIR_EAGAIN;
    tcp->gave_up = false;
    tcp->target.is_right = !is_control; /* for somebody answers there */
    error = wr_line_open(line, &tcp->target, tcp->options.timeout * NS_SECOND, why);
    if (!error) {
        error = join_lease(tcp, line, number, why);
        if (error)
            wr_line_close(line);
    }
    if (!error) {
        wr_tcp_note_sure(tcp, number);
        if (is_whole)
            wr_line_opened(line);
    }
    if (is_control ? !error : error || is_whole)
        note_opened(tcp, error, why);
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
        else
            wr_line_opened(line);
        note_opened(tcp, error, why);
    }
    return error && tcp->gave_up ? WEIR_EAGAIN : error;
}

/* Whoever waits on it, in another thread, sees its end. */
static void break_line(const struct wr_tcp *tcp, const struct wr_line *line)
{
    if (tcp->kind->interrupt)
        tcp->kind->interrupt(line);
    wr_line_break(line);
}

static void open_seats(struct wr_tcp *tcp, uint32_t wanted)
{
    char why[WR_WHY_ROOM];
    const uint32_t needed = tcp->seats_had ? tcp->seats_had : 1;
    uint32_t open = 0;

    for (uint32_t i = 0; i < WR_TCP_SEATS; i++) {
        struct wr_seat *seat = &tcp->seats[i];
        uint32_t state = atomic_load_explicit(&seat->state, memory_order_acquire);

        if (state == WR_SEAT_BROKEN) {
            wr_tcp_close_line(tcp, &seat->line);
            state = WR_SEAT_CLOSED;
            atomic_store_explicit(&seat->state, state, memory_order_relaxed);
        }
        tcp->is_more = open >= needed;
        /* A number that was never had takes the place of one that was, at a full server. */
        if (state == WR_SEAT_CLOSED && open < wanted && (i < needed || open >= needed) &&
            !atomic_load(&tcp->is_away) && !atomic_load(&tcp->is_lost) &&
            wr_tcp_open_line(tcp, &seat->line, WR_TCP_LINE_SEATS + i, 1, why) == WEIR_OK) {
            /* Release: whoever takes it finds the line whole. */
            atomic_store_explicit(&seat->state, WR_SEAT_FREE, memory_order_release);
            state = WR_SEAT_FREE;
        }
        open += state != WR_SEAT_CLOSED;
    }
    tcp->is_more = false;
    if (open > tcp->seats_had)
        tcp->seats_had = open;
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

/* Which channels wait for sureness is known to none but them. */
static void tend_channels(struct wr_tcp *tcp)
{
    tcp->is_sure_again = tcp->became_sure;
    tcp->became_sure = false;
    pthread_mutex_lock(&tcp->lock);
    for (uint32_t i = 0; i < WR_TCP_CHANNELS; i++)
        if (tcp->channels[i])
            tcp->kind->tend(tcp->channels[i]);
    pthread_mutex_unlock(&tcp->lock);
}

/* --- The lease ------------------------------------------------------------------------------- */

/* Nobody answers: who waits on a line must not go on waiting for that one. */
static void go_away(struct wr_tcp *tcp, const char *why)
{
    wr_line_close(&tcp->control);
    tcp->asked_ns = 0;
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

static void heed_lease(struct wr_tcp *tcp, uint64_t lease_ms)
{
    const uint64_t share = lease_ms * NS_MILLISECOND / RENEW_SHARE;

    tcp->renew_wait_ns = share > 0 && share < RENEW_MOST_NS ? share : RENEW_MOST_NS;
}

static void ask_renewal(struct wr_tcp *tcp)
{
    const uint64_t now = wr_line_now_ns();

    tcp->renewal = (struct wr_message){.type = WR_MESSAGE_RENEW};
    tcp->renew_ns = now + tcp->renew_wait_ns;
    if (wr_line_say(&tcp->control, &tcp->renewal, NULL, wr_tcp_soon(tcp)) == WEIR_OK)
        tcp->asked_ns = now;
    else
        go_away(tcp, "the connection has ended");
}

/* Wait for the answer that is still to come, if any. False: there is no control line any more. */
static bool hear_renewal(struct wr_tcp *tcp)
{
    const uint64_t deadline = tcp->asked_ns + tcp->options.timeout * NS_SECOND;
    struct wr_message answer;

    if (tcp->asked_ns == 0)
        return tcp->control.fd >= 0;
    tcp->asked_ns = 0;
    if (wr_line_hear(&tcp->control, &tcp->renewal, &answer, NULL, 0, deadline) != WEIR_OK) {
        go_away(tcp, "the connection has ended, or is silent");
        return false;
    }
    if (answer.type == WR_MESSAGE_RENEWED) {
        heed_lease(tcp, answer.count);
        heed(tcp, answer.pages & WR_MESSAGE_ASKED_BACK);
    } else {
        lose(tcp, "the server does not know our lease any more");
    }
    return true;
}

static bool has_news(const struct wr_tcp *tcp)
{
    struct pollfd look = {.fd = tcp->control.fd, .events = POLLIN};

    return poll(&look, 1, 0) > 0;
}

/* What is due on the control line: whoever waits for another line calls this, too. */
static void keep_lease(struct wr_tcp *tcp)
{
    const uint64_t now = wr_line_now_ns();

    if (tcp->asked_ns) {
        if (has_news(tcp) || now - tcp->asked_ns > tcp->options.timeout * NS_SECOND)
            (void)hear_renewal(tcp);
    } else if (now >= tcp->renew_ns) {
        ask_renewal(tcp);
    } else if (has_news(tcp)) {
        go_away(tcp, "the connection has ended"); /* nothing comes unasked on that line */
    }
}

/* While a line is being opened. False: there is something better to do than to wait for it. */
static bool meanwhile(void *context)
{
    struct wr_tcp *tcp = context;

    if (!atomic_load(&tcp->is_away) && !atomic_load(&tcp->is_lost)) {
        keep_lease(tcp);
        tcp->gave_up = atomic_load(&tcp->is_away) || atomic_load(&tcp->unsure) > 0;
    }
    tcp->gave_up |= atomic_load(&tcp->stop);
    return !tcp->gave_up;
}

/* Have lines ended that broke with something on their way. It is said on the control line: so that
 * nobody waits for that until another connection can be opened. */
static void make_sure(struct wr_tcp *tcp)
{
    for (uint32_t i = 0; i < WR_TCP_LINES && atomic_load(&tcp->unsure) > 0; i++) {
        struct wr_message message = {.type = WR_MESSAGE_SEVER, .slot = i}, answer;

        if (!atomic_load(&tcp->is_unsure[i]))
            continue;
        if (atomic_load(&tcp->is_away) || atomic_load(&tcp->is_lost) || !hear_renewal(tcp))
            return;
        if (wr_line_ask(&tcp->control, &message, NULL, &answer, NULL, 0, wr_tcp_soon(tcp)) !=
                WEIR_OK ||
            answer.type != WR_MESSAGE_SEVERED) {
            go_away(tcp, "the connection has ended, or is silent");
            return;
        }
        wr_tcp_note_sure(tcp, i);
    }
}

static void come_back(struct wr_tcp *tcp)
{
    char why[WR_WHY_ROOM];

    if (wr_tcp_attach(tcp, &tcp->control, WR_TCP_LINE_CONTROL, why) == WEIR_OK) {
        tcp->renew_ns = wr_line_now_ns() + tcp->renew_wait_ns;
        atomic_store(&tcp->is_away, false);
        wr_tell(tcp->env, WEIR_NOTE, WEIR_OK, 0, "%s: %s:%s answers again", name_of(tcp),
                tcp->target.host, tcp->target.port);
        return;
    }
    tcp->retry_ns = wr_line_now_ns() + tcp->retry_wait_ns;
    if (tcp->retry_wait_ns < RETRY_MOST_NS)
        tcp->retry_wait_ns *= 2;
}

static int borrow(struct wr_tcp *tcp, char why[WR_WHY_ROOM])
{
    struct wr_message message = {.type = WR_MESSAGE_LEASE, .count = tcp->slots}, answer;
    int error = wr_line_open(&tcp->control, &tcp->target, tcp->options.timeout * NS_SECOND, why);

    if (error)
        return error;
    wr_line_opened(&tcp->control);
    tcp->epoch = tcp->control.epoch;
    error = wr_line_ask(&tcp->control, &message, NULL, &answer, tcp->lease, sizeof(tcp->lease),
                        wr_tcp_soon(tcp));
    if (!error && answer.type == WR_MESSAGE_LEASED && answer.slot >= tcp->slots) {
        heed_lease(tcp, answer.count);
        return WEIR_OK;
    }
    if (error)
        snprintf(why, WR_WHY_ROOM, "it hung up when asked for memory");
    else
        snprintf(why, WR_WHY_ROOM, "it does not lend %llu MiB: %s",
                 (unsigned long long)tcp->slots * WEIR_SLOT_BYTES >> 20,
                 answer.error == -WEIR_EBUSY ? "all its leases are in use: raise `leases` there"
                                             : weir_error_text(-(int)answer.error));
    wr_line_close(&tcp->control);
    return error ? error : answer.error == -WEIR_EDENIED ? WEIR_EDENIED : WEIR_EFULL;
}

/* --- The thread ------------------------------------------------------------------------------ */

static uint64_t next_ns(const struct wr_tcp *tcp, uint64_t now)
{
    uint64_t until = tcp->renew_ns;

    if (atomic_load(&tcp->is_lost))
        return now + NS_SECOND;
    if (tcp->became_sure)
        return now; /* and not all that wait for it know */
    if (atomic_load(&tcp->is_away))
        return tcp->retry_ns < now + TEND_NS ? tcp->retry_ns : now + TEND_NS;
    if (tcp->asked_ns)
        until = tcp->asked_ns + tcp->options.timeout * NS_SECOND;
    if (tcp->is_open_due && tcp->open_ns < until)
        until = tcp->open_ns;
    return tcp->is_more_due && tcp->more_ns < until ? tcp->more_ns : until;
}

static void rest(struct wr_tcp *tcp)
{
    struct pollfd wait[2] = {{.fd = tcp->bell, .events = POLLIN},
                             {.fd = tcp->control.fd, .events = POLLIN}};
    /* Once all is lost that line's end is no news, and would wake us for ever. */
    const nfds_t count = atomic_load(&tcp->is_lost) ? 1 : 2;
    uint64_t now = wr_line_now_ns(), until = next_ns(tcp, now);
    eventfd_t rung;

    if (until > now)
        poll(wait, count, (int)((until - now) / NS_MILLISECOND) + 1);
    if (wait[0].revents)
        (void)eventfd_read(tcp->bell, &rung);
}

static void open_lines(struct wr_tcp *tcp)
{
    tcp->is_open_due = tcp->is_more_due = false;
    /* More seats than before come last, for whom a full server may have no room; one is needed. */
    open_seats(tcp, tcp->seats_had);
    tend_channels(tcp);
    if (tcp->seats_had == 0)
        open_seats(tcp, 1);
    if (!tcp->is_open_due && !atomic_load(&tcp->is_away) && !atomic_load(&tcp->is_lost))
        note_unbarred(tcp); /* who could have no line has one by now, or is gone */
    if (!tcp->is_open_due)  /* nor do they take a place that somebody needs */
        open_seats(tcp, atomic_load_explicit(&tcp->seats_wanted, memory_order_relaxed));
}

static void *keep(void *context)
{
    struct wr_tcp *tcp = context;

    tcp->target.context = tcp;
    tcp->target.meanwhile = meanwhile;
    while (!atomic_load(&tcp->stop)) {
        if (!atomic_load(&tcp->is_lost)) {
            if (!atomic_load(&tcp->is_away))
                keep_lease(tcp);
            else if (wr_line_now_ns() >= tcp->retry_ns)
                come_back(tcp);
        }
        look_at_seats(tcp);
        make_sure(tcp);
        open_lines(tcp);
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

    if (tcp->control.fd >= 0 && hear_renewal(tcp))
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
    error = wr_tcp_open_line(tcp, &seat->line, WR_TCP_LINE_SEATS, 1, why);
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
    tcp->open_wait_ns = tcp->more_wait_ns = RETRY_LEAST_NS;
    atomic_store(&tcp->unseated_ns, wr_line_now_ns());
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
    tcp->renew_ns = wr_line_now_ns() + tcp->renew_wait_ns;
    atomic_store(&tcp->seats_wanted, SEATS_FIRST);
    open_seats(tcp, SEATS_FIRST);
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
