/* SPDX-License-Identifier: MIT */
#include "transport/memd/talk.h"

#include <stdio.h>
#include <string.h>

#include "transport/request.h"

/* The longest that has to be in `in` as a whole. */
_Static_assert(WR_MESSAGE_BYTES + WR_HELLO_BYTES < MEMD_IN_BYTES, "a hello has room");

void memd_talk_begin(struct memd_talk *talk, const struct memd_identity *identity,
                     struct memd_book *book, struct memd_counts *counts, const char *where)
{
    memset(talk, 0, offsetof(struct memd_talk, iov));
    talk->identity = identity;
    talk->book = book;
    talk->counts = counts;
    snprintf(talk->client.who, sizeof(talk->client.who), "%s", where);
}

static void drop_queue(struct memd_talk *talk)
{
    if (talk->queue)
        memd_queue_leave(talk->identity->rdma, talk->queue);
    talk->queue = NULL;
}

void memd_talk_end(struct memd_talk *talk)
{
    memd_talk_leave(talk);
    drop_queue(talk);
    if (talk->lease && talk->state == MEMD_TALK_RETURNING) {
        memd_book_unwatch(talk->book, talk->lease);
    } else if (talk->lease) {
        (void)memd_book_put_place(talk->book, talk->lease, talk->line, talk->turn);
        memd_book_leave(talk->book, talk->lease);
    }
    talk->lease = NULL;
    memd_book_dismiss(talk->book, talk->admission);
    talk->admission = MEMD_TURNED_AWAY;
    explicit_bzero(&talk->session, sizeof(talk->session));
}

static void fail(struct memd_talk *talk, const char *why)
{
    talk->is_failed = true;
    talk->why = why;
}

/* --- Out ------------------------------------------------------------------------------------- */

static void put_piece(struct memd_talk *talk, void *bytes, size_t count)
{
    talk->iov[talk->iov_to++] = (struct iovec){bytes, count};
}

/* There is room: memd_talk_go() understands nothing more while there is none. */
static uint8_t *put_out(struct memd_talk *talk, size_t bytes)
{
    uint8_t *out = talk->out[talk->out_count++];

    put_piece(talk, out, bytes);
    return out;
}

static void say(struct memd_talk *talk, struct wr_message message, const void *payload)
{
    uint8_t *out = put_out(talk, WR_MESSAGE_BYTES + (payload ? message.length : 0));

    message.epoch = talk->identity->epoch;
    wr_message_put(&message, out);
    if (payload)
        memcpy(out + WR_MESSAGE_BYTES, payload, message.length);
    wr_session_seal(&talk->session, out, payload, payload ? message.length : 0);
}

static void refuse(struct memd_talk *talk, const struct wr_message *asked, int error)
{
    say(talk,
        (struct wr_message){.type = WR_MESSAGE_REFUSED, .error = (uint16_t)-error, .id = asked->id},
        NULL);
}

struct iovec *memd_talk_unsent(struct memd_talk *talk, uint32_t *count_p)
{
    *count_p = talk->iov_to - talk->iov_from;
    return talk->iov + talk->iov_from;
}

void memd_talk_sent(struct memd_talk *talk, size_t bytes)
{
    memd_count(&talk->counts->bytes_out, bytes);
    while (bytes) {
        struct iovec *piece = &talk->iov[talk->iov_from];

        if (bytes < piece->iov_len) {
            piece->iov_base = (char *)piece->iov_base + bytes;
            piece->iov_len -= bytes;
            return;
        }
        bytes -= piece->iov_len;
        talk->iov_from++;
    }
    if (talk->iov_from == talk->iov_to)
        talk->out_count = talk->iov_from = talk->iov_to = 0;
}

/* --- In -------------------------------------------------------------------------------------- */

static uint32_t in_count(const struct memd_talk *talk)
{
    return talk->in_to - talk->in_from;
}

uint32_t memd_talk_room(struct memd_talk *talk, struct iovec iov[2])
{
    uint32_t count = 0;

    memmove(talk->in, talk->in + talk->in_from, in_count(talk));
    talk->in_to = in_count(talk);
    talk->in_from = 0;
    if (talk->is_writing && talk->body)
        iov[count++] = (struct iovec){talk->body, talk->body_left};
    iov[count++] = (struct iovec){talk->in + talk->in_to, MEMD_IN_BYTES - talk->in_to};
    return count;
}

void memd_talk_took(struct memd_talk *talk, size_t bytes)
{
    memd_count(&talk->counts->bytes_in, bytes);
    if (talk->is_writing && talk->body) {
        size_t part = bytes < talk->body_left ? bytes : talk->body_left;

        talk->body += part;
        talk->body_left -= part;
        bytes -= part;
    }
    talk->in_to += (uint32_t)bytes;
}

bool memd_talk_is_midway(const struct memd_talk *talk)
{
    return talk->is_writing || talk->out_count || in_count(talk);
}

/* --- The handshake --------------------------------------------------------------------------- */

static void hear_hello(struct memd_talk *talk, const uint8_t *message)
{
    const char *where = talk->client.who;
    char who[MEMD_WHO_BYTES];
    uint8_t *out;
    int error = wr_hello_hear(&talk->shake, &talk->identity->key, message);

    if (error == WEIR_ENOSUPPORT) {
        /* Nobody has proven anything: it goes out without a seal, to be shown and not believed. */
        const struct wr_message refusal = {.type = WR_MESSAGE_REFUSED,
                                           .error = (uint16_t)-WEIR_ENOSUPPORT};

        wr_message_put(&refusal, put_out(talk, WR_MESSAGE_BYTES));
        talk->why = "it speaks another version, or has pages of another size";
        talk->state = MEMD_TALK_ENDING;
        return;
    }
    if (error) {
        fail(talk, "it said no hello");
        return;
    }
    snprintf(who, sizeof(who), "%s at %.*s", talk->shake.hello.label,
             (int)(sizeof(who) - WR_LABEL_BYTES - 8), where);
    memcpy(talk->client.who, who, sizeof(who));
    memcpy(talk->client.name, talk->shake.hello.client, WR_NAME_BYTES);
    out = put_out(talk, WR_MESSAGE_BYTES + WR_CHALLENGE_BYTES);
    wr_challenge_say(&talk->shake, talk->identity->epoch, out);
    talk->state = MEMD_TALK_PROOF;
}

static void turn_away(struct memd_talk *talk, const struct wr_message *asked)
{
    refuse(talk, asked, WEIR_EFULL);
    talk->why = "all connections are in use (see the setting `connections`)";
    talk->state = MEMD_TALK_ENDING;
}

static void hear_proof(struct memd_talk *talk, const uint8_t *message)
{
    const struct wr_message none = {.id = 0};
    int error = wr_proof_hear(&talk->shake, message, &talk->session);

    explicit_bzero(&talk->shake, sizeof(talk->shake));
    if (error) {
        fail(talk, error == WEIR_EDENIED ? "it has another key" : "it gave no proof of the key");
        return;
    }
    talk->admission = memd_book_admit(talk->book, &talk->client);
    if (talk->admission == MEMD_TURNED_AWAY) {
        turn_away(talk, &none);
        return;
    }
    say(talk, (struct wr_message){.type = WR_MESSAGE_WELCOME}, NULL);
    talk->state = MEMD_TALK_OPEN;
}

/* --- Leases ---------------------------------------------------------------------------------- */

static void take_line(struct memd_talk *talk, const struct wr_message *message)
{
    talk->line = (uint32_t)message->slot;
    talk->turn = memd_line_take(talk->lease, talk->line);
    talk->is_heard = true;
    memd_book_take_place(talk->book, talk->lease, talk->line, talk->turn);
    if (talk->admission == MEMD_GUEST) {
        memd_book_settle(talk->book);
        talk->admission = MEMD_ADMITTED;
        memd_book_ring(talk->book); /* whose number it was ends now */
    }
    if (talk->identity->rdma)
        memd_rdma_cut(talk->identity->rdma, talk->lease, talk->line);
}

static void hear_lease(struct memd_talk *talk, const struct wr_message *message)
{
    int error = WEIR_EINVAL;

    if (talk->admission == MEMD_GUEST) {
        turn_away(talk, message);
        return;
    }
    if (!talk->lease && message->slot < MEMD_LINES_MOST)
        error = memd_book_lend(talk->book, &talk->client, message->count, &talk->lease);
    if (error) {
        refuse(talk, message, error);
        return;
    }
    take_line(talk, message);
    say(talk,
        (struct wr_message){.type = WR_MESSAGE_LEASED,
                            .length = WR_NAME_BYTES,
                            .id = message->id,
                            .slot = talk->lease->slots,
                            .count = memd_book_lease_ms(talk->book)},
        talk->lease->name);
}

/* May it have the line of this number? A guest may have one that somebody has; or any, if there is
 * room by now. */
static bool may_take_line(struct memd_talk *talk, uint32_t number)
{
    if (talk->admission != MEMD_GUEST || memd_book_has_line(talk->book, talk->lease, number))
        return true;
    if (!memd_book_readmit(talk->book, &talk->client))
        return false;
    talk->admission = MEMD_ADMITTED;
    return true;
}

static void hear_attach(struct memd_talk *talk, const struct wr_message *message,
                        const uint8_t *name)
{
    if (talk->lease || message->slot >= MEMD_LINES_MOST) {
        refuse(talk, message, WEIR_EINVAL);
        return;
    }
    talk->lease = memd_book_attach(talk->book, &talk->client, name);
    if (!talk->lease) {
        refuse(talk, message, WEIR_ENOENT);
        return;
    }
    if (!may_take_line(talk, (uint32_t)message->slot)) {
        memd_book_leave(talk->book, talk->lease);
        talk->lease = NULL;
        turn_away(talk, message);
        return;
    }
    take_line(talk, message);
    memd_lease_heard(talk->lease, talk->now_ms);
    say(talk,
        (struct wr_message){
            .type = WR_MESSAGE_ATTACHED, .id = message->id, .count = talk->lease->slots},
        NULL);
}

static void hear_sever(struct memd_talk *talk, const struct wr_message *message)
{
    const uint32_t line = (uint32_t)message->slot;
    uint32_t turn;

    if (!talk->lease || message->slot >= MEMD_LINES_MOST || line == talk->line) {
        refuse(talk, message, WEIR_EINVAL);
        return;
    }
    /* Not heard ourselves meanwhile: two that sever each other would wait for each other. */
    memd_talk_leave(talk);
    turn = memd_line_take(talk->lease, line);
    memd_line_leave(talk->lease, line);
    /* Every worker looks through all its connections for that: not where there is none. */
    if (memd_book_put_place(talk->book, talk->lease, line, turn))
        memd_book_ring(talk->book);
    if (talk->identity->rdma)
        memd_rdma_cut(talk->identity->rdma, talk->lease, line);
    if (!memd_talk_enter(talk)) {
        talk->state = MEMD_TALK_ENDING; /* its own line is another's by now */
        return;
    }
    say(talk,
        (struct wr_message){.type = WR_MESSAGE_SEVERED, .id = message->id, .slot = message->slot},
        NULL);
}

static void hear_renew(struct memd_talk *talk, const struct wr_message *message)
{
    if (!talk->lease) {
        refuse(talk, message, WEIR_EINVAL);
        return;
    }
    say(talk,
        (struct wr_message){.type = WR_MESSAGE_RENEWED,
                            .id = message->id,
                            .pages = memd_book_asks_back(talk->book) ? WR_MESSAGE_ASKED_BACK : 0,
                            .count = memd_book_lease_ms(talk->book)},
        NULL);
}

static void hear_return(struct memd_talk *talk, const struct wr_message *message)
{
    if (!talk->lease) {
        refuse(talk, message, WEIR_EINVAL);
        return;
    }
    talk->write.id = message->id; /* answered when the memory is given back */
    talk->state = MEMD_TALK_RETURNING;
    memd_talk_leave(talk);
    drop_queue(talk);
    (void)memd_book_put_place(talk->book, talk->lease, talk->line, talk->turn);
    memd_book_return(talk->book, talk->lease);
}

/* --- Queue pairs ----------------------------------------------------------------------------- */

static void hear_join(struct memd_talk *talk, const struct wr_message *message)
{
    if (!talk->rdma_port) {
        refuse(talk, message, WEIR_ENOSUPPORT);
        return;
    }
    if (!talk->lease || talk->queue) {
        refuse(talk, message, WEIR_EINVAL);
        return;
    }
    talk->queue = memd_rdma_invite(talk->identity->rdma, talk->lease, talk->line, &talk->session);
    if (!talk->queue) {
        refuse(talk, message, WEIR_EFULL);
        return;
    }
    say(talk,
        (struct wr_message){.type = WR_MESSAGE_JOINED, .id = message->id, .count = talk->rdma_port},
        NULL);
}

static void hear_locate(struct memd_talk *talk, const struct wr_message *message)
{
    struct wr_message answer = {.type = WR_MESSAGE_LOCATED, .id = message->id};

    if (!talk->queue ||
        !memd_queue_locate(talk->identity->rdma, talk->queue, &answer.slot, &answer.pages)) {
        refuse(talk, message, WEIR_EINVAL);
        return;
    }
    answer.count = talk->lease->slots;
    say(talk, answer, NULL);
}

void memd_talk_returned(struct memd_talk *talk)
{
    memd_book_unwatch(talk->book, talk->lease);
    talk->lease = NULL;
    talk->state = MEMD_TALK_OPEN;
    say(talk, (struct wr_message){.type = WR_MESSAGE_RETURNED, .id = talk->write.id}, NULL);
}

/* --- Pages ----------------------------------------------------------------------------------- */

static bool is_inside(const struct memd_talk *talk, uint64_t slot, uint64_t count)
{
    return talk->lease && count > 0 && slot < talk->lease->slots &&
           count <= talk->lease->slots - slot;
}

static char *at_slot(const struct memd_talk *talk, uint64_t slot)
{
    return talk->lease->memory + slot * WEIR_SLOT_BYTES;
}

static void hear_read(struct memd_talk *talk, const struct wr_message *message)
{
    const uint32_t bytes = message->pages * WEIR_SLOT_BYTES;

    if (!is_inside(talk, message->slot, message->pages)) {
        refuse(talk, message, WEIR_EINVAL);
        return;
    }
    say(talk,
        (struct wr_message){.type = WR_MESSAGE_CONTENT,
                            .length = bytes,
                            .pages = message->pages,
                            .id = message->id,
                            .slot = message->slot},
        NULL);
    put_piece(talk, at_slot(talk, message->slot), bytes);
    memd_count(&talk->counts->pages_read, message->pages);
}

static void hear_write(struct memd_talk *talk, const struct wr_message *message)
{
    talk->is_writing = true;
    talk->write = *message;
    talk->body_left = message->length;
    talk->body = is_inside(talk, message->slot, message->pages) ? at_slot(talk, message->slot)
                                                                : NULL;
}

/* What of the body came with its header. True: the body is complete, and answered. */
static bool take_body(struct memd_talk *talk)
{
    const struct wr_message *message = &talk->write;
    const uint64_t here = in_count(talk);
    const size_t part = here < talk->body_left ? here : talk->body_left;

    if (talk->body) {
        memcpy(talk->body, talk->in + talk->in_from, part);
        talk->body += part;
    }
    talk->in_from += (uint32_t)part;
    talk->body_left -= part;
    if (talk->body_left)
        return false;
    talk->is_writing = false;
    if (!talk->body) {
        refuse(talk, message, WEIR_EINVAL);
        return true;
    }
    memd_count(&talk->counts->pages_written, message->pages);
    say(talk,
        (struct wr_message){.type = WR_MESSAGE_WRITTEN,
                            .pages = message->pages,
                            .id = message->id,
                            .slot = message->slot},
        NULL);
    return true;
}

static void hear_discard(struct memd_talk *talk, const struct wr_message *message)
{
    if (!is_inside(talk, message->slot, message->count)) {
        refuse(talk, message, WEIR_EINVAL);
        return;
    }
    memd_book_discard(talk->lease, message->slot, message->count);
    memd_count(&talk->counts->pages_discarded, message->count);
    say(talk,
        (struct wr_message){.type = WR_MESSAGE_DISCARDED,
                            .id = message->id,
                            .slot = message->slot,
                            .count = message->count},
        NULL);
}

/* --- All of them ----------------------------------------------------------------------------- */

static void hear_open(struct memd_talk *talk, const struct wr_message *message,
                      const uint8_t *header)
{
    const uint8_t *payload = header + WR_MESSAGE_BYTES;

    if (!wr_session_check(&talk->session, header, payload,
                          wr_message_has_pages(message) ? 0 : message->length)) {
        fail(talk, "a message was changed, left out, repeated, or is of somebody else");
        return;
    }
    if (message->epoch != talk->identity->epoch) {
        refuse(talk, message, WEIR_ENOENT);
        talk->why = "it means another life of this server";
        talk->state = MEMD_TALK_ENDING;
        return;
    }
    if (talk->lease)
        memd_lease_heard(talk->lease, talk->now_ms);
    switch (message->type) {
    case WR_MESSAGE_LEASE: hear_lease(talk, message); break;
    case WR_MESSAGE_ATTACH: hear_attach(talk, message, payload); break;
    case WR_MESSAGE_RENEW: hear_renew(talk, message); break;
    case WR_MESSAGE_RETURN: hear_return(talk, message); break;
    case WR_MESSAGE_READ: hear_read(talk, message); break;
    case WR_MESSAGE_WRITE: hear_write(talk, message); break;
    case WR_MESSAGE_DISCARD: hear_discard(talk, message); break;
    case WR_MESSAGE_JOIN: hear_join(talk, message); break;
    case WR_MESSAGE_LOCATE: hear_locate(talk, message); break;
    case WR_MESSAGE_SEVER: hear_sever(talk, message); break;
    default: fail(talk, "it said what only a server may say"); break;
    }
}

static void hear(struct memd_talk *talk, const struct wr_message *message, const uint8_t *header)
{
    memd_count(&talk->counts->messages, 1);
    switch (talk->state) {
    case MEMD_TALK_HELLO: hear_hello(talk, header); break;
    case MEMD_TALK_PROOF: hear_proof(talk, header); break;
    case MEMD_TALK_OPEN: hear_open(talk, message, header); break;
    case MEMD_TALK_RETURNING:
    case MEMD_TALK_ENDING: break;
    }
}

/* False: it has to be waited for, or for what is unsent before it. */
static bool next_message(struct memd_talk *talk)
{
    const uint8_t *header = talk->in + talk->in_from;
    struct wr_message message;
    uint32_t bytes = WR_MESSAGE_BYTES;

    if (in_count(talk) < bytes)
        return false;
    if (!wr_message_parse(header, &message)) {
        fail(talk, "what it said is no message");
        return false;
    }
    if (!wr_message_has_pages(&message))
        bytes += message.length;
    if (in_count(talk) < bytes)
        return false;
    /* Answers that are unsent have pages of the lease in them. */
    if (message.type == WR_MESSAGE_RETURN && talk->out_count)
        return false;
    talk->in_from += bytes;
    hear(talk, &message, header);
    return true;
}

bool memd_talk_enter(struct memd_talk *talk)
{
    if (!talk->lease || talk->state == MEMD_TALK_RETURNING)
        return true;
    talk->is_heard = memd_line_enter(talk->lease, talk->line, talk->turn);
    return talk->is_heard;
}

void memd_talk_leave(struct memd_talk *talk)
{
    if (talk->is_heard)
        memd_line_leave(talk->lease, talk->line);
    talk->is_heard = false;
}

enum memd_wish memd_talk_go(struct memd_talk *talk)
{
    bool goes_on = true;

    while (goes_on && !talk->is_failed && talk->out_count < MEMD_OUT_MOST &&
           talk->state != MEMD_TALK_ENDING && talk->state != MEMD_TALK_RETURNING)
        goes_on = talk->is_writing ? take_body(talk) : next_message(talk);
    if (talk->is_failed)
        return MEMD_WISH_END;
    if (talk->out_count)
        return MEMD_WISH_SEND;
    if (talk->state == MEMD_TALK_ENDING)
        return MEMD_WISH_END;
    return talk->state == MEMD_TALK_RETURNING ? MEMD_WISH_REST : MEMD_WISH_INPUT;
}
