/* SPDX-License-Identifier: MIT */

/*
 * What is said on a connection, without one: the same conversation cut into pieces of any size,
 * both ways, means the same.
 */

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/memd_kit.h"
#include "transport/memd/talk.h"

#define SLOTS      512u
#define MESSAGES   150u
#define LINE_BYTES ((size_t)2 << 20)

/* Both ends: the server's is a talk, the client's are bytes. */
struct wire {
    struct memd_log log;
    struct memd_book book;
    struct memd_identity identity;
    struct memd_counts counts;
    struct memd_talk talk;
    struct wr_session session;
    unsigned char *to, *from; /* the server */
    size_t to_bytes, to_done, from_bytes, from_done;
    unsigned seed;
};

static struct wire wire;

static uint32_t draw(uint32_t most)
{
    return 1 + (uint32_t)rand_r(&wire.seed) % most;
}

/* A few bytes at once, or many; as a network would have it. */
static size_t piece(size_t bytes)
{
    static const uint32_t most[] = {1, 60, 70, 5000, 100000};
    size_t part = draw(most[draw(5) - 1]);

    return part < bytes ? part : bytes;
}

static void receive_some(void)
{
    struct iovec iov[2];
    uint32_t count = memd_talk_room(&wire.talk, iov);
    size_t left = piece(wire.to_bytes - wire.to_done), took = 0;

    for (uint32_t i = 0; i < count && left; i++) {
        size_t part = left < iov[i].iov_len ? left : iov[i].iov_len;

        memcpy(iov[i].iov_base, wire.to + wire.to_done + took, part);
        took += part;
        left -= part;
    }
    cr_assert(took);
    wire.to_done += took;
    memd_talk_took(&wire.talk, took);
}

static void send_some(void)
{
    uint32_t count;
    const struct iovec *iov = memd_talk_unsent(&wire.talk, &count);
    size_t all = 0, left, sent = 0;

    cr_assert(count);
    for (uint32_t i = 0; i < count; i++)
        all += iov[i].iov_len;
    left = piece(all);
    cr_assert_leq(wire.from_bytes + left, LINE_BYTES);
    for (uint32_t i = 0; sent < left; i++) {
        size_t part = left - sent < iov[i].iov_len ? left - sent : iov[i].iov_len;

        memcpy(wire.from + wire.from_bytes + sent, iov[i].iov_base, part);
        sent += part;
    }
    wire.from_bytes += sent;
    memd_talk_sent(&wire.talk, sent);
}

/* Until the server has heard all and said all. What it wishes in the end. */
static enum memd_wish carry(void)
{
    for (;;) {
        const enum memd_wish wish = memd_talk_go(&wire.talk);

        if (wish == MEMD_WISH_SEND)
            send_some();
        else if (wish == MEMD_WISH_INPUT && wire.to_done < wire.to_bytes)
            receive_some();
        else
            return wish;
    }
}

static void put(const void *bytes, size_t count)
{
    cr_assert_leq(wire.to_bytes + count, LINE_BYTES);
    if (count) /* or bytes may be NULL */
        memcpy(wire.to + wire.to_bytes, bytes, count);
    wire.to_bytes += count;
}

static const unsigned char *take(size_t count)
{
    cr_assert_leq(wire.from_done + count, wire.from_bytes, "the answer is too short");
    wire.from_done += count;
    return wire.from + wire.from_done - count;
}

static void say(struct wr_message message, const void *payload)
{
    uint8_t header[WR_MESSAGE_BYTES];

    message.epoch = wire.identity.epoch;
    wr_message_put(&message, header);
    wr_session_seal(&wire.session, header, payload,
                    wr_message_has_pages(&message) ? 0 : message.length);
    put(header, sizeof(header));
    put(payload, message.length);
}

static struct wr_message hear(const unsigned char **payload_p)
{
    const unsigned char *header = take(WR_MESSAGE_BYTES);
    struct wr_message message;

    cr_assert(wr_message_parse(header, &message));
    *payload_p = take(message.length);
    cr_assert(wr_session_check(&wire.session, header, *payload_p,
                               wr_message_has_pages(&message) ? 0 : message.length));
    return message;
}

static void expect(uint8_t type, uint64_t id)
{
    const unsigned char *payload;
    const struct wr_message message = hear(&payload);

    cr_assert_eq(message.type, type, "%s", wr_message_name(message.type));
    cr_assert_eq(message.id, id);
}

static void begin(unsigned seed)
{
    const struct memd_limits limits = {64 * KIT_MIB, 0, 30000, 0};

    cr_assert(wr_session_begin());
    memset(&wire, 0, sizeof(wire));
    wire.seed = seed;
    wire.to = malloc(LINE_BYTES);
    wire.from = malloc(LINE_BYTES);
    wr_key_make(&wire.identity.key);
    wire.identity.epoch = 77;
    memd_log_open(&wire.log, NULL, NULL);
    cr_assert(memd_book_open(&wire.book, &limits, NULL, &wire.log));
    memd_talk_begin(&wire.talk, &wire.identity, &wire.book, &wire.counts, "nowhere");
}

static void end(void)
{
    memd_talk_end(&wire.talk);
    cr_expect_eq(atomic_load(&wire.book.connections), 0);
    memd_book_close(&wire.book);
    memd_log_close(&wire.log);
    free(wire.to);
    free(wire.from);
}

static void shake(void)
{
    uint8_t hello[WR_MESSAGE_BYTES + WR_HELLO_BYTES], proof[WR_MESSAGE_BYTES + WR_PROOF_BYTES];
    struct wr_handshake handshake;
    uint64_t epoch;

    wr_hello_say(&handshake, &wire.identity.key, (const uint8_t *)"sixteen letters", "one", hello);
    put(hello, sizeof(hello));
    cr_assert_eq(carry(), MEMD_WISH_INPUT);
    cr_assert_eq(wr_challenge_hear(&handshake, take(WR_MESSAGE_BYTES + WR_CHALLENGE_BYTES), &epoch),
                 WEIR_OK);
    wr_proof_say(&handshake, proof, &wire.session);
    put(proof, sizeof(proof));
    cr_assert_eq(carry(), MEMD_WISH_INPUT);
    expect(WR_MESSAGE_WELCOME, 0);
}

static void lease(void)
{
    say((struct wr_message){.type = WR_MESSAGE_LEASE, .id = 1, .count = SLOTS}, NULL);
    cr_assert_eq(carry(), MEMD_WISH_INPUT);
    expect(WR_MESSAGE_LEASED, 1);
    cr_assert(wire.talk.lease);
}

/* --- A conversation -------------------------------------------------------------------------- */

/* What was said, in order, and what has to be answered. */
struct said {
    uint8_t type;
    uint64_t slot;
    uint32_t pages;
};

/* Nothing is read that is written in the same breath: that is what clients promise. */
static struct said say_one(uint64_t id, uint64_t *written)
{
    static unsigned char bytes[4 * 4096];
    struct said said = {WR_MESSAGE_RENEW, 0, 0};

    switch (draw(5)) {
    case 1:
        said = (struct said){WR_MESSAGE_WRITE, *written, draw(3)};
        *written += said.pages;
        kit_stamp(bytes, said.slot, said.pages, 1);
        break;
    case 2: said = (struct said){WR_MESSAGE_READ, SLOTS - 4, draw(4)}; break;
    case 3: said = (struct said){WR_MESSAGE_WRITE, SLOTS, draw(4)}; break; /* outside */
    case 4: said = (struct said){WR_MESSAGE_READ, SLOTS - 3, 4}; break;    /* likewise */
    default: break;
    }
    say((struct wr_message){.type = said.type,
                            .id = id,
                            .slot = said.slot,
                            .pages = said.pages,
                            .length = said.type == WR_MESSAGE_WRITE ? said.pages * 4096 : 0},
        bytes);
    return said;
}

static void check_answer(const struct said *said, uint64_t id)
{
    const unsigned char *payload;
    const struct wr_message answer = hear(&payload);
    const bool is_inside = said->slot + said->pages <= SLOTS;

    cr_assert_eq(answer.id, id);
    if (!is_inside) {
        cr_assert_eq(answer.type, WR_MESSAGE_REFUSED);
        cr_assert_eq(-(int)answer.error, WEIR_EINVAL);
    } else if (said->type == WR_MESSAGE_READ) {
        cr_assert_eq(answer.type, WR_MESSAGE_CONTENT);
        cr_assert(kit_is_stamped(payload, said->slot, said->pages, 9));
    } else {
        cr_assert_eq(answer.type, said->type + 1, "%s", wr_message_name(answer.type));
    }
}

static void converse(unsigned seed)
{
    struct said said[MESSAGES];
    uint64_t written = 0;

    begin(seed);
    shake();
    lease();
    kit_stamp((unsigned char *)wire.talk.lease->memory + (SLOTS - 4) * 4096, SLOTS - 4, 4, 9);
    for (uint32_t i = 0; i < MESSAGES; i++)
        said[i] = say_one(100 + i, &written);
    cr_assert_eq(carry(), MEMD_WISH_INPUT);
    for (uint32_t i = 0; i < MESSAGES; i++)
        check_answer(&said[i], 100 + i);
    cr_expect_eq(wire.from_done, wire.from_bytes, "and nothing else");
    cr_assert(kit_is_zero((unsigned char *)wire.talk.lease->memory + written * 4096,
                          (SLOTS - 4 - written) * 4096),
              "what was not written");
    for (uint32_t i = 0; i < MESSAGES; i++)
        if (said[i].type == WR_MESSAGE_WRITE && said[i].slot < SLOTS)
            cr_assert(kit_is_stamped((unsigned char *)wire.talk.lease->memory + said[i].slot * 4096,
                                     said[i].slot, said[i].pages, 1));
    end();
}

Test(memd_talk, pieces_of_any_size)
{
    for (unsigned seed = 1; seed <= 40; seed++)
        converse(seed);
}

Test(memd_talk, a_return_waits_for_what_was_asked_before)
{
    begin(5);
    shake();
    lease();
    for (uint64_t i = 0; i < 5; i++)
        say((struct wr_message){.type = WR_MESSAGE_READ, .id = i, .pages = 1}, NULL);
    say((struct wr_message){.type = WR_MESSAGE_RETURN, .id = 6}, NULL);
    say((struct wr_message){.type = WR_MESSAGE_READ, .id = 7, .pages = 1}, NULL);
    cr_assert_eq(carry(), MEMD_WISH_REST, "until the memory is given back");
    for (uint64_t i = 0; i < 5; i++)
        expect(WR_MESSAGE_CONTENT, i);
    cr_assert(memd_book_reap(&wire.book));
    cr_assert(memd_lease_is_gone(wire.talk.lease));
    memd_talk_returned(&wire.talk);
    cr_assert_eq(carry(), MEMD_WISH_INPUT);
    expect(WR_MESSAGE_RETURNED, 6);
    expect(WR_MESSAGE_REFUSED, 7);
    end();
}

/* Every bit of a conversation, turned: never more than an end, and no byte in the wrong place. */
Test(memd_talk, a_turned_bit_is_noticed)
{
    static unsigned char bytes[4096];

    for (unsigned bit = 0; bit < 8 * WR_MESSAGE_BYTES; bit++) {
        begin(bit + 1);
        shake();
        lease();
        memset(bytes, 0x55, sizeof(bytes));
        say(
            (struct wr_message){
                .type = WR_MESSAGE_WRITE, .id = 9, .slot = 5, .pages = 1, .length = 4096},
            bytes);
        wire.to[wire.to_done + bit / 8] ^= (unsigned char)(1u << bit % 8);
        /* Some turn it into a message that is longer: then there is more to wait for. */
        put(bytes, sizeof(bytes));
        cr_expect_eq(carry(), MEMD_WISH_END, "bit %u", bit);
        cr_expect(kit_is_zero((unsigned char *)wire.talk.lease->memory, 64 * 4096), "bit %u", bit);
        cr_expect_eq(wire.counts.pages_written, 0, "bit %u", bit);
        end();
    }
}
