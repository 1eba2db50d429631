/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/server.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void server_forget(struct server *server)
{
    server->fd = -1;
    server->is_wrong = server->is_cut = false;
    server->out_from = server->out_to = 0;
}

void server_hang_up(struct server *server)
{
    if (server->fd >= 0)
        close(server->fd);
    server_forget(server);
}

void server_connect(struct server *server, struct wr_line *line)
{
    int ends[2];

    server_hang_up(server);
    FUZZ_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
    *line = (struct wr_line){.fd = ends[0], .epoch = SERVER_EPOCH};
    server->fd = ends[1];
    server->session = (struct wr_session){.count_out = 0};
    memset(line->session.key_out, 1, WR_KEY_BYTES);
    memset(server->session.key_in, 1, WR_KEY_BYTES);
    memset(line->session.key_in, 2, WR_KEY_BYTES);
    memset(server->session.key_out, 2, WR_KEY_BYTES);
}

uint8_t server_stamp(uint64_t slot, uint64_t story)
{
    return (uint8_t)((slot * 31 + story * 7) % 200);
}

/* --- What is said ---------------------------------------------------------------------------- */

static void put(struct server *server, const void *bytes, size_t count)
{
    if (server->is_cut)
        return;
    server->is_cut = count > SERVER_OUT - server->out_to;
    if (server->is_cut)
        count = SERVER_OUT - server->out_to;
    memcpy(server->out + server->out_to, bytes, count);
    server->out_to += count;
}

static void put_pages(struct server *server, const struct wr_message *message, bool is_right,
                      uint64_t story)
{
    static uint8_t page[WEIR_SLOT_BYTES];

    for (uint32_t i = 0; i < message->length / WEIR_SLOT_BYTES; i++) {
        memset(page, is_right ? server_stamp(message->slot + i, story) : SERVER_POISON,
               sizeof(page));
        put(server, page, sizeof(page));
    }
}

/* One thing is wrong with it, or with how it is sent: that is the result's bit in its header. */
static unsigned spoil(struct fuzz_bytes *bytes, struct wr_message *message)
{
    switch (fuzz_byte(bytes) % 16) {
    case 0: message->id += (uint64_t)fuzz_byte(bytes) - 1; break;
    case 1: message->id = fuzz_number(bytes, 8); break;
    case 2: message->slot += (uint64_t)fuzz_byte(bytes) - 1; break;
    case 3: message->slot = fuzz_number(bytes, 8); break;
    case 4: message->pages += fuzz_byte(bytes) - 1u; break;
    case 5:
        message->pages += fuzz_byte(bytes) % 8u;
        message->length = message->pages * WEIR_SLOT_BYTES;
        break;
    case 6: message->type = fuzz_byte(bytes) % 26; break;
    case 7: message->error = (uint16_t)fuzz_number(bytes, 2); break;
    case 8:
        message->error = fuzz_byte(bytes) % 16;
        message->length = 0;
        break;
    case 9:
        message->type = WR_MESSAGE_REFUSED;
        message->error = (uint16_t)fuzz_number(bytes, 1 + fuzz_byte(bytes) % 2);
        message->length = 0;
        break;
    case 10: message->length = (uint32_t)fuzz_number(bytes, 4); break;
    case 11: message->length = fuzz_byte(bytes); break;
    case 12: message->epoch += (uint64_t)fuzz_byte(bytes) - 1; break;
    case 13: message->count = fuzz_number(bytes, 8); break;
    default: return 1 + (unsigned)fuzz_number(bytes, 2) % (8 * WR_MESSAGE_BYTES);
    }
    return 0;
}

static bool is_same(const struct wr_message *a, const struct wr_message *b)
{
    return a->type == b->type && a->error == b->error && a->length == b->length &&
           a->pages == b->pages && a->id == b->id && a->epoch == b->epoch && a->slot == b->slot;
}

static enum server_truth judge(const struct wr_message *right, const struct wr_message *said,
                               const uint8_t *header)
{
    struct wr_message parsed;

    if (!wr_message_parse(header, &parsed))
        return SERVER_WRONG;
    if (is_same(right, said))
        return SERVER_RIGHT;
    return said->error && said->length == 0 && said->id == right->id && said->epoch == right->epoch
               ? SERVER_REFUSES
               : SERVER_WRONG;
}

enum server_truth server_answer(struct server *server, struct fuzz_bytes *bytes,
                                struct wr_message right, const void *payload, uint64_t story,
                                struct wr_message *said_p)
{
    static const uint8_t more[1024];
    struct wr_message said = right;
    const uint8_t how = fuzz_byte(bytes);
    uint8_t header[WR_MESSAGE_BYTES], small[256] = {0};
    enum server_truth truth;
    unsigned turned = 0;

    if (how >= 96)
        turned = spoil(bytes, &said);
    if (how >= 224 && !turned)
        turned = spoil(bytes, &said);
    wr_message_put(&said, header);
    truth = judge(&right, &said, header);
    if (payload)
        memcpy(small, payload, right.length);
    wr_session_seal(&server->session, header, small,
                    wr_message_has_pages(&said) || said.length > sizeof(small) ? 0 : said.length);
    if (turned) {
        header[(turned - 1) / 8] ^= (uint8_t)(1u << (turned - 1) % 8);
        truth = SERVER_WRONG;
    }
    if (server->is_wrong)
        truth = SERVER_WRONG;
    server->is_wrong = truth == SERVER_WRONG;
    put(server, header, sizeof(header));
    if (wr_message_has_pages(&said) && said.length <= WR_MESSAGE_PAYLOAD)
        put_pages(server, &said, truth == SERVER_RIGHT, story);
    else
        put(server, said.length <= sizeof(small) ? small : more,
            said.length < sizeof(more) ? said.length : sizeof(more));
    *said_p = said;
    return truth;
}

void server_say_raw(struct server *server, struct fuzz_bytes *bytes)
{
    uint8_t raw[256];
    const size_t count = 1u + fuzz_byte(bytes);

    for (size_t i = 0; i < count; i++)
        raw[i] = fuzz_byte(bytes);
    put(server, raw, count);
    server->is_wrong = true;
}

void server_send(struct server *server, size_t most)
{
    const size_t left = server->out_to - server->out_from;
    ssize_t sent = send(server->fd, server->out + server->out_from, left < most ? left : most,
                        MSG_NOSIGNAL | MSG_DONTWAIT);

    if (sent > 0)
        server->out_from += (size_t)sent;
    if (server->out_from == server->out_to)
        server->out_from = server->out_to = 0;
}
