/* SPDX-License-Identifier: MIT */

/*
 * Mistakes that are planted, to see that they are found. The linker leads calls between the sources
 * of the client and of the server here (--wrap), so that neither has to know of it.
 */

#include <string.h>

#include "tests/cluster/world.h"
#include "transport/memd/book.h"
#include "transport/tcp.h"

enum naive naive;

int __real_wr_line_open(struct wr_line *line, struct wr_line_target *target, uint64_t timeout_ns,
                        char why[WR_WHY_ROOM]);
int __real_wr_line_ask(struct wr_line *line, struct wr_message *message, const void *payload,
                       struct wr_message *answer_p, void *answer, size_t room,
                       uint64_t deadline_ns);
void __real_wr_tcp_channel_tend(struct weir_channel *channel);
uint32_t __real_memd_line_take(struct memd_lease *lease, uint32_t number);
bool __real_memd_line_enter(struct memd_lease *lease, uint32_t number, uint32_t turn);
bool __real_memd_line_is_over(const struct memd_lease *lease, uint32_t number, uint32_t turn);
void __real_memd_line_leave(struct memd_lease *lease, uint32_t number);
uint64_t __real_memd_book_expire(struct memd_book *book, uint64_t now_ms);
int __real_memd_book_lend(struct memd_book *book, const struct memd_client *client, uint64_t slots,
                          struct memd_lease **lease_p);

/* --- The client's ---------------------------------------------------------------------------- */

/* Whose line it is: every target lies in a back end. */
static struct wr_tcp *tcp_of(struct wr_line_target *target)
{
    return (struct wr_tcp *)((char *)target - offsetof(struct wr_tcp, target));
}

int __wrap_wr_line_open(struct wr_line *line, struct wr_line_target *target, uint64_t timeout_ns,
                        char why[WR_WHY_ROOM])
{
    const int error = __real_wr_line_open(line, target, timeout_ns, why);

    if (!error && naive == NAIVE_EPOCH && tcp_of(target)->epoch)
        tcp_of(target)->epoch = line->epoch;
    return error;
}

/* The lease is over: it borrows another, and goes on as if it were that one. */
static int borrow_anew(struct wr_line *line, const struct wr_message *attach, const void *payload,
                       struct wr_message *answer_p, uint64_t deadline_ns)
{
    struct wr_tcp *tcp = (struct wr_tcp *)((uintptr_t)payload - offsetof(struct wr_tcp, lease));
    struct wr_message message = {
        .type = WR_MESSAGE_LEASE, .slot = attach->slot, .count = tcp->slots};
    int error = __real_wr_line_ask(line, &message, NULL, answer_p, tcp->lease, WR_NAME_BYTES,
                                   deadline_ns);

    if (!error && answer_p->type == WR_MESSAGE_LEASED)
        answer_p->type = WR_MESSAGE_ATTACHED;
    return error;
}

int __wrap_wr_line_ask(struct wr_line *line, struct wr_message *message, const void *payload,
                       struct wr_message *answer_p, void *answer, size_t room, uint64_t deadline_ns)
{
    const int error = __real_wr_line_ask(line, message, payload, answer_p, answer, room,
                                         deadline_ns);

    if (!error && (naive == NAIVE_EPOCH || naive == NAIVE_LEASE) &&
        message->type == WR_MESSAGE_ATTACH && answer_p->error == -WEIR_ENOENT)
        return borrow_anew(line, message, payload, answer_p, deadline_ns);
    return error;
}

void __wrap_wr_tcp_channel_tend(struct weir_channel *channel)
{
    if (naive != NAIVE_STUCK)
        __real_wr_tcp_channel_tend(channel);
}

/* --- The server's ---------------------------------------------------------------------------- */

uint32_t __wrap_memd_line_take(struct memd_lease *lease, uint32_t number)
{
    if (naive == NAIVE_LINE)
        return 1;
    return __real_memd_line_take(lease, number);
}

bool __wrap_memd_line_enter(struct memd_lease *lease, uint32_t number, uint32_t turn)
{
    bool is_heard = naive == NAIVE_LINE || __real_memd_line_enter(lease, number, turn);

    met.taken_over += !is_heard;
    return is_heard;
}

bool __wrap_memd_line_is_over(const struct memd_lease *lease, uint32_t number, uint32_t turn)
{
    return naive != NAIVE_LINE && __real_memd_line_is_over(lease, number, turn);
}

void __wrap_memd_line_leave(struct memd_lease *lease, uint32_t number)
{
    if (naive != NAIVE_LINE)
        __real_memd_line_leave(lease, number);
}

uint64_t __wrap_memd_book_expire(struct memd_book *book, uint64_t now_ms)
{
    return naive == NAIVE_EXPIRE ? now_ms + 1000 : __real_memd_book_expire(book, now_ms);
}

int __wrap_memd_book_lend(struct memd_book *book, const struct memd_client *client, uint64_t slots,
                          struct memd_lease **lease_p)
{
    const uint64_t quota = book->limits.quota;
    int error;

    if (naive == NAIVE_QUOTA)
        book->limits.quota = 0;
    error = __real_memd_book_lend(book, client, slots, lease_p);
    book->limits.quota = quota;
    return error;
}
