/* SPDX-License-Identifier: MIT */

/*
 * A memory server's connections, without sockets: three of them, of two clients, over one book.
 *
 * The bytes choose what is said, how much of it arrives at a time and how much of the answers is
 * listened to. What is said is sealed as a client that has the key seals it, so that all that lies
 * behind the seal is reached; and now and then it is damaged, or said by nobody.
 *
 * Queue pairs are there by name alone (queues.h).
 *
 * Whatever they choose: bytes only go to where the talk or a lease has room, and come only from
 * there; each sound question has one answer, in its turn, properly sealed; slots that nobody wrote
 * stay zero; and in the end nothing is lent, and nobody holds on to anything.
 */

#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/queues.h"
#include "transport/memd/clock.h"
#include "transport/memd/talk.h"

#define LINES      3u
#define SLOT_BYTES ((size_t)WEIR_SLOT_BYTES)
#define TO_BYTES   ((size_t)128 << 10)
#define ASKED_MOST 256u
#define STEPS_MOST 400u
#define EPOCH      77u
#define MEMORY     ((uint64_t)8 << 20)
#define SLOTS_MOST 2048u /* of a lease, and of the memory */

/* Both ends of a connection: the server's is a talk, the client's are bytes. */
struct line {
    struct memd_talk talk;
    bool is_up, is_proven; /* is_proven: the client's end, too, has a session */
    uint8_t client;
    struct wr_session session;
    uint8_t lease[WR_NAME_BYTES]; /* that it is a line of, as far as the client knows */
    uint64_t number, turn;        /* turn: among all that were welcomed */
    bool is_leased, is_over;      /* is_over: a later line has its number, or it was severed */
    uint8_t to[TO_BYTES];         /* said, and not arrived yet */
    size_t to_from, to_to;
    uint64_t ear; /* bytes that the client still listens to */
    /* The answer that is coming. */
    uint8_t head[WR_MESSAGE_BYTES + WR_CHALLENGE_BYTES];
    size_t head_bytes;
    uint64_t pages_left; /* bytes of them */
    /* What was asked and has no answer. */
    struct {
        uint64_t id;
        uint8_t type;
        uint64_t number, turn; /* turn: of the last that had been welcomed */
        uint8_t lease[WR_NAME_BYTES];
        bool is_strange; /* to attach to a lease that was never told to this client */
    } asked[ASKED_MOST];
    uint32_t asked_from, asked_to;
    uint64_t id;
};

static struct {
    struct memd_log log;
    struct memd_book book;
    struct memd_counts counts;
    struct line lines[LINES];
    struct {
        uint8_t name[WR_NAME_BYTES], client;
    } leases[4]; /* that were told, and to whom */
    uint32_t lease_count;
    bool is_written[SLOTS_MOST]; /* in some lease, perhaps */
    uint64_t later_ms;           /* how far our clock is ahead */
    uint64_t turn;               /* lines that were welcomed   */
} world;

static struct memd_identity identity = {.key = {{42}}, .epoch = EPOCH};

/* --- The server's end ------------------------------------------------------------------------ */

/* Text for people: no end of a line, and nothing that moves a cursor. */
static void check_log(void *context, const char *line)
{
    (void)context;
    for (const char *c = line; *c; c++)
        FUZZ_ASSERT(*c >= ' ' && *c <= '~');
}

static bool is_within(const void *base, size_t bytes, const void *start, size_t room)
{
    const uintptr_t at = (uintptr_t)base, from = (uintptr_t)start;

    return at >= from && bytes <= room && at - from <= room - bytes;
}

static bool is_in_lease(const struct memd_talk *talk, const struct iovec *piece)
{
    return talk->lease && talk->state != MEMD_TALK_RETURNING && talk->lease->memory &&
           is_within(piece->iov_base, piece->iov_len, talk->lease->memory,
                     talk->lease->slots * SLOT_BYTES);
}

static void hang_up(struct line *line)
{
    if (line->is_up)
        memd_talk_end(&line->talk);
    line->is_up = line->is_proven = line->is_leased = line->is_over = false;
    line->to_from = line->to_to = line->head_bytes = 0;
    line->pages_left = 0;
    line->asked_from = line->asked_to = 0;
}

/* A part of what was said arrives. False: all of it has. */
static bool arrive(struct line *line, size_t *left_p)
{
    struct iovec iov[2];
    uint32_t count = memd_talk_room(&line->talk, iov);
    size_t took = 0;

    for (uint32_t i = 0; i < count; i++) {
        size_t part = line->to_to - line->to_from;

        FUZZ_ASSERT(is_within(iov[i].iov_base, iov[i].iov_len, line->talk.in, MEMD_IN_BYTES) ||
                    is_in_lease(&line->talk, &iov[i]));
        part = part < *left_p ? part : *left_p;
        part = part < iov[i].iov_len ? part : iov[i].iov_len;
        memcpy(iov[i].iov_base, line->to + line->to_from, part);
        line->to_from += part;
        *left_p -= part;
        took += part;
    }
    if (took)
        memd_talk_took(&line->talk, took);
    return took > 0;
}

/* --- The client's end ------------------------------------------------------------------------ */

static void say_bytes(struct line *line, const void *bytes, size_t count)
{
    if (line->to_from) {
        memmove(line->to, line->to + line->to_from, line->to_to - line->to_from);
        line->to_to -= line->to_from;
        line->to_from = 0;
    }
    if (count > TO_BYTES - line->to_to)
        count = TO_BYTES - line->to_to; /* it breaks off */
    memcpy(line->to + line->to_to, bytes, count);
    line->to_to += count;
}

static void note_lease(const struct line *line)
{
    const uint32_t at = world.lease_count++ % 4;

    memcpy(world.leases[at].name, line->head + WR_MESSAGE_BYTES, WR_NAME_BYTES);
    world.leases[at].client = line->client;
}

/* From now on nothing is heard any more of who had that number before that turn. */
static void note_over(const struct line *line, const uint8_t *lease, uint64_t number, uint64_t turn)
{
    for (uint32_t i = 0; i < LINES; i++) {
        struct line *other = &world.lines[i];

        if (other != line && other->is_leased && other->number == number && other->turn <= turn &&
            memcmp(other->lease, lease, WR_NAME_BYTES) == 0)
            other->is_over = true;
    }
}

static void note_line(struct line *line, const uint8_t *lease, uint64_t number)
{
    note_over(line, lease, number, UINT64_MAX);
    memcpy(line->lease, lease, WR_NAME_BYTES);
    line->number = number;
    line->turn = ++world.turn;
    line->is_leased = true;
}

/* Where its memory is, and how to reach it, is told to whose queue pair has come, and to nobody
 * else. */
static void check_told(const struct line *line, const struct wr_message *answer)
{
    if (answer->type == WR_MESSAGE_JOINED)
        FUZZ_ASSERT(line->is_leased && line->talk.rdma_port && answer->count == QUEUES_PORT);
    if (answer->type == WR_MESSAGE_LOCATED)
        FUZZ_ASSERT(queues_are_at(line->talk.queue, answer->slot, answer->pages) &&
                    answer->count == line->talk.lease->slots);
    if (answer->type == WR_MESSAGE_REFUSED)
        FUZZ_ASSERT(!answer->slot && !answer->pages && !answer->count);
}

static void check_answer(struct line *line, const struct wr_message *answer)
{
    const uint32_t at = line->asked_from % ASKED_MOST;
    const bool has_pages = wr_message_has_pages(answer);

    FUZZ_ASSERT(wr_session_check(&line->session, line->head, line->head + WR_MESSAGE_BYTES,
                                 has_pages ? 0 : answer->length));
    FUZZ_ASSERT(line->asked_from < line->asked_to);
    line->asked_from++;
    FUZZ_ASSERT(answer->id == line->asked[at].id && answer->epoch == EPOCH);
    FUZZ_ASSERT(answer->type == line->asked[at].type + 1 || answer->type == WR_MESSAGE_REFUSED);
    FUZZ_ASSERT((answer->type == WR_MESSAGE_REFUSED) == (answer->error != 0));
    FUZZ_ASSERT(answer->type != WR_MESSAGE_ATTACHED || !line->asked[at].is_strange);
    FUZZ_ASSERT(!line->is_over);
    if (answer->type == WR_MESSAGE_LEASED) {
        note_lease(line);
        note_line(line, line->head + WR_MESSAGE_BYTES, line->asked[at].number);
    } else if (answer->type == WR_MESSAGE_ATTACHED) {
        note_line(line, line->asked[at].lease, line->asked[at].number);
    } else if (answer->type == WR_MESSAGE_SEVERED) {
        note_over(line, line->lease, line->asked[at].number, line->asked[at].turn);
    } else if (answer->type == WR_MESSAGE_RETURNED) {
        line->is_leased = false;
    }
    check_told(line, answer);
    if (has_pages)
        line->pages_left = answer->length;
}

/* So many bytes of answers. */
static void listen(struct line *line, const uint8_t *bytes, size_t count)
{
    while (count) {
        struct wr_message answer;
        size_t all = WR_MESSAGE_BYTES, part;

        if (line->pages_left) {
            part = count < line->pages_left ? count : (size_t)line->pages_left;
            line->pages_left -= part;
        } else {
            if (line->head_bytes >= WR_MESSAGE_BYTES) {
                FUZZ_ASSERT(wr_message_parse(line->head, &answer));
                all += wr_message_has_pages(&answer) ? 0 : answer.length;
                FUZZ_ASSERT(all <= sizeof(line->head));
            }
            part = count < all - line->head_bytes ? count : all - line->head_bytes;
            memcpy(line->head + line->head_bytes, bytes, part);
            line->head_bytes += part;
            if (line->head_bytes >= WR_MESSAGE_BYTES) {
                FUZZ_ASSERT(wr_message_parse(line->head, &answer));
                if (wr_message_has_pages(&answer) ||
                    line->head_bytes == WR_MESSAGE_BYTES + answer.length) {
                    if (line->is_proven)
                        check_answer(line, &answer);
                    line->head_bytes = 0;
                }
            }
        }
        bytes += part;
        count -= part;
    }
}

static bool hear(struct line *line)
{
    uint32_t count;
    const struct iovec *iov = memd_talk_unsent(&line->talk, &count);
    size_t sent = 0;

    FUZZ_ASSERT(count > 0);
    for (uint32_t i = 0; i < count && line->ear; i++) {
        size_t part = iov[i].iov_len < line->ear ? iov[i].iov_len : (size_t)line->ear;

        FUZZ_ASSERT(
            is_within(iov[i].iov_base, iov[i].iov_len, line->talk.out, sizeof(line->talk.out)) ||
            is_in_lease(&line->talk, &iov[i]));
        listen(line, iov[i].iov_base, part);
        line->ear -= part;
        sent += part;
    }
    if (sent)
        memd_talk_sent(&line->talk, sent);
    return sent > 0;
}

/* --- What a worker does ---------------------------------------------------------------------- */

static void run(struct line *line, size_t bytes)
{
    enum memd_wish wish;
    bool goes_on = true;

    if (!line->is_up)
        return;
    if (!memd_talk_enter(&line->talk)) {
        hang_up(line);
        return;
    }
    line->talk.now_ms = memd_now_ms() + world.later_ms;
    while (goes_on) {
        wish = memd_talk_go(&line->talk);
        if (wish == MEMD_WISH_END) {
            hang_up(line);
            return;
        }
        goes_on = wish == MEMD_WISH_SEND    ? hear(line)
                  : wish == MEMD_WISH_INPUT ? arrive(line, &bytes)
                                            : false;
    }
    memd_talk_leave(&line->talk);
}

static void look_at_leases(void)
{
    for (uint32_t i = 0; i < LINES; i++) {
        struct memd_talk *talk = &world.lines[i].talk;

        if (!world.lines[i].is_up || !talk->lease)
            continue;
        if (talk->state == MEMD_TALK_RETURNING && memd_lease_is_gone(talk->lease)) {
            memd_talk_returned(talk);
            run(&world.lines[i], 0);
        } else if (talk->state != MEMD_TALK_RETURNING && !memd_lease_is_lent(talk->lease)) {
            hang_up(&world.lines[i]);
        }
    }
}

static void keep(void)
{
    look_at_leases();
    while (memd_book_reap(&world.book)) {
    }
    look_at_leases();
}

/* --- What is said ---------------------------------------------------------------------------- */

static void call(struct line *line)
{
    hang_up(line);
    memd_talk_begin(&line->talk, &identity, &world.book, &world.counts, "nowhere");
    line->talk.rdma_port = line == &world.lines[LINES - 1] ? 0 : QUEUES_PORT;
    line->is_up = true;
    line->ear = UINT64_MAX;
}

static void expect(struct line *line, const struct wr_message *asked, const uint8_t *lease,
                   bool is_strange)
{
    const uint32_t at = line->asked_to++ % ASKED_MOST;

    line->asked[at].id = asked->id;
    line->asked[at].type = asked->type;
    line->asked[at].number = asked->slot;
    line->asked[at].turn = world.turn;
    if (asked->type == WR_MESSAGE_ATTACH)
        memcpy(line->asked[at].lease, lease, WR_NAME_BYTES);
    line->asked[at].is_strange = is_strange;
}

/* As a client that has the key; how: which client, and what is wrong with it. */
static void shake(struct line *line, uint8_t how)
{
    const struct wr_key wrong = {{43}};
    uint8_t hello[WR_MESSAGE_BYTES + WR_HELLO_BYTES], proof[WR_MESSAGE_BYTES + WR_PROOF_BYTES];
    const char *client = how & 1 ? "one is sixteen." : "two is sixteen.";
    struct wr_handshake shake;
    uint64_t epoch;
    uint32_t count;

    call(line);
    line->ear = 0;
    wr_hello_say(&shake, how & 2 && how & 4 ? &wrong : &identity.key, (const uint8_t *)client,
                 how & 8 ? "a\nb" : "label", hello);
    if (how & 2 && !(how & 4))
        hello[WR_MESSAGE_BYTES + how / 16] ^= 1; /* the versions, the page, the nonce */
    say_bytes(line, hello, sizeof(hello));
    run(line, sizeof(hello));
    line->ear = UINT64_MAX;
    if (!line->is_up || line->talk.state != MEMD_TALK_PROOF)
        return;
    if (wr_challenge_hear(&shake, memd_talk_unsent(&line->talk, &count)->iov_base, &epoch) ==
        WEIR_OK) {
        wr_proof_say(&shake, proof, &line->session);
        proof[WR_MESSAGE_BYTES] ^= how & 128;
        run(line, 0);
        line->is_proven = true;
        line->client = how & 1;
        expect(line, &(const struct wr_message){.type = WR_MESSAGE_WELCOME - 1}, NULL, false);
        say_bytes(line, proof, sizeof(proof));
        run(line, sizeof(proof));
    }
}

static uint64_t choose_slot(struct fuzz_bytes *bytes)
{
    static const uint64_t odd[] = {512,        513,        1023,           1024,
                                   UINT32_MAX, 1ull << 52, UINT64_MAX - 1, UINT64_MAX};
    uint8_t byte = fuzz_byte(bytes);

    if (byte < 128)
        return byte % 16;
    return byte < 224 ? 496u + byte % 16 : odd[byte % 8];
}

static uint32_t choose_pages(struct fuzz_bytes *bytes)
{
    static const uint32_t odd[] = {0, 16, 17, 511, 512, 513, 1u << 20, UINT32_MAX};
    uint8_t byte = fuzz_byte(bytes);

    return byte < 224 ? 1u + byte % 4 : odd[byte % 8];
}

static uint64_t choose_count(struct fuzz_bytes *bytes)
{
    static const uint64_t odd[] = {0, 1, 3, 512, 1024, 2048, UINT32_MAX, UINT64_MAX};

    return odd[fuzz_byte(bytes) % 8];
}

/* Whom the memory will have been written by, if it is. */
static void note_written(const struct wr_message *message)
{
    for (uint64_t i = 0;
         message->type == WR_MESSAGE_WRITE && i < message->pages && message->slot + i < SLOTS_MOST;
         i++)
        world.is_written[message->slot + i] = true;
}

/* True: it names a lease that this client was never told of. */
static bool choose_payload(struct fuzz_bytes *bytes, const struct line *line,
                           const struct wr_message *message, uint8_t *payload, size_t room)
{
    uint32_t lease;

    memset(payload, 0xa5, message->length < room ? message->length : room);
    if (message->type != WR_MESSAGE_ATTACH)
        return false;
    lease = fuzz_byte(bytes) % 4;
    memcpy(payload, world.leases[lease].name, WR_NAME_BYTES);
    return world.leases[lease].client != line->client || world.lease_count <= lease;
}

static uint8_t choose_type(uint8_t kind, uint8_t odd)
{
    static const uint8_t usual[] = {WR_MESSAGE_LEASE,  WR_MESSAGE_ATTACH, WR_MESSAGE_RENEW,
                                    WR_MESSAGE_RETURN, WR_MESSAGE_READ,   WR_MESSAGE_READ,
                                    WR_MESSAGE_WRITE,  WR_MESSAGE_WRITE,  WR_MESSAGE_DISCARD};
    static const uint8_t rare[] = {WR_MESSAGE_JOIN, WR_MESSAGE_LOCATE};

    if (kind < 224)
        return usual[kind % sizeof(usual)];
    if (kind < 240)
        return rare[kind % sizeof(rare)];
    return kind < 252 ? (kind + odd) % 24 : WR_MESSAGE_SEVER;
}

static struct wr_message choose_message(struct fuzz_bytes *bytes, struct line *line)
{
    const uint8_t kind = fuzz_byte(bytes), odd = fuzz_byte(bytes);
    struct wr_message message = {.type = choose_type(kind, odd), .id = ++line->id, .epoch = EPOCH};

    message.slot = choose_slot(bytes);
    message.pages = choose_pages(bytes);
    message.count = choose_count(bytes);
    if (message.type == WR_MESSAGE_WRITE)
        message.length = message.pages * WEIR_SLOT_BYTES;
    else if (message.type == WR_MESSAGE_ATTACH)
        message.length = WR_NAME_BYTES;
    switch (odd) {
    case 250: message.epoch++; break;
    case 251: message.length++; break;
    case 252: message.length = (uint32_t)fuzz_number(bytes, 4); break;
    case 253: message.error = fuzz_byte(bytes); break;
    case 254: message.id = fuzz_number(bytes, 8); break;
    case 255: message.count = fuzz_number(bytes, 8); break;
    default: break;
    }
    return message;
}

static void say(struct fuzz_bytes *bytes, struct line *line)
{
    static uint8_t payload[TO_BYTES];
    const struct wr_message message = choose_message(bytes, line);
    uint8_t header[WR_MESSAGE_BYTES];
    const size_t length = message.length < TO_BYTES ? message.length : TO_BYTES;
    struct wr_message parsed;
    bool is_strange;

    if (line->asked_to - line->asked_from == ASKED_MOST)
        return;
    is_strange = choose_payload(bytes, line, &message, payload, TO_BYTES);
    note_written(&message);
    wr_message_put(&message, header);
    wr_session_seal(&line->session, header, payload, wr_message_has_pages(&message) ? 0 : length);
    say_bytes(line, header, sizeof(header));
    say_bytes(line, payload, length);
    if (wr_message_parse(header, &parsed))
        expect(line, &message, payload, is_strange);
}

/* --- All of it ------------------------------------------------------------------------------- */

static void say_raw(struct fuzz_bytes *bytes, struct line *line)
{
    uint8_t raw[256];
    const size_t count = fuzz_byte(bytes);

    for (size_t i = 0; i < count; i++)
        raw[i] = fuzz_byte(bytes);
    say_bytes(line, raw, count);
}

/* A queue pair, which shows the token of this line, or nearly so. */
static void come(const struct line *line, uint8_t how)
{
    uint8_t token[WR_TOKEN_BYTES];

    if (!line->is_proven)
        return;
    wr_session_token(&line->session, true, token);
    token[how % WR_TOKEN_BYTES] ^= how & 128;
    queues_come(token);
}

/* Headers alone: pages have sums of their own, and whose bits are turned are not noticed here. */
static void damage(struct fuzz_bytes *bytes, struct line *line)
{
    const size_t left = line->to_to - line->to_from, at = (size_t)fuzz_number(bytes, 2);

    if (left)
        line->to[line->to_from + at % left] ^= (uint8_t)(1u << fuzz_byte(bytes) % 8);
}

static void tune(struct fuzz_bytes *bytes)
{
    const uint8_t how = fuzz_byte(bytes);
    const struct memd_limits limits = {.memory = how & 1 ? MEMORY : MEMORY / 4,
                                       .quota = how & 2 ? 2u << 20 : 0,
                                       .lease_ms = 30000};

    memd_book_tune(&world.book, &limits);
    atomic_store(&world.book.is_short, (how & 4) != 0);
    atomic_store(&world.book.is_draining, (how & 8) != 0);
}

static void expire(struct fuzz_bytes *bytes)
{
    world.later_ms += fuzz_byte(bytes) * 1000ull;
    memd_book_expire(&world.book, memd_now_ms() + world.later_ms);
    keep();
}

static void step(struct fuzz_bytes *bytes)
{
    const uint8_t choice = fuzz_byte(bytes);
    struct line *line = &world.lines[choice / 16 % LINES];

    if (choice >= 240) {
        const uint8_t how = fuzz_byte(bytes);

        come(&world.lines[how % LINES], how);
        return;
    }
    switch (choice % 16) {
    case 0: shake(line, fuzz_byte(bytes)); break;
    case 1: call(line); break;
    case 2: say_raw(bytes, line); break;
    case 3: damage(bytes, line); break;
    case 4: line->ear = fuzz_amount(bytes); break;
    case 5: line->ear = UINT64_MAX; break;
    case 6: keep(); break;
    case 7: expire(bytes); break;
    case 8: tune(bytes); break;
    case 9: hang_up(line); break;
    case 10: run(line, fuzz_amount(bytes)); break;
    case 11:
    case 12: run(line, TO_BYTES); break;
    default: say(bytes, line); break;
    }
}

static void begin(void)
{
    const struct memd_limits limits = {.memory = MEMORY, .lease_ms = 30000};
    const struct memd_room room = {.connections = 64, .leases = 16};

    fuzz_begin();
    memd_log_open(&world.log, check_log, NULL);
    FUZZ_ASSERT(memd_book_open(&world.book, &limits, &room, &world.log));
    identity.rdma = queues_begin(&world.book);
    for (uint32_t i = 0; i < LINES; i++) {
        world.lines[i].is_up = false;
        world.lines[i].id = 1000 * i;
        hang_up(&world.lines[i]);
    }
    memset(world.leases, 0, sizeof(world.leases));
    memset(world.is_written, 0, sizeof(world.is_written));
    world.lease_count = 0;
    world.later_ms = 0;
}

/* Around the beginnings and the ends: to look at all of it would take too long. */
static void check_unwritten(const struct memd_lease *lease)
{
    static const char zeros[WEIR_SLOT_BYTES];

    for (uint64_t slot = 0; slot < lease->slots && slot < SLOTS_MOST; slot++)
        if ((slot < 20 || (slot >= 496 && slot < 516)) && !world.is_written[slot])
            FUZZ_ASSERT(memcmp(lease->memory + slot * SLOT_BYTES, zeros, SLOT_BYTES) == 0);
}

static void end(void)
{
    for (uint32_t i = 0; i < world.book.room.leases; i++)
        if (memd_lease_is_lent(&world.book.leases[i]))
            check_unwritten(&world.book.leases[i]);
    for (uint32_t i = 0; i < LINES; i++)
        hang_up(&world.lines[i]);
    FUZZ_ASSERT(atomic_load(&world.book.connections) == 0);
    FUZZ_ASSERT(queues_are_gone());
    for (uint32_t i = 0; i < world.book.room.leases; i++)
        FUZZ_ASSERT(world.book.leases[i].users == 0 && world.book.leases[i].watchers == 0);
    memd_book_close(&world.book);
    FUZZ_ASSERT(world.book.lent_slots == 0);
    memd_log_close(&world.log);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    struct fuzz_bytes left = {bytes, count};

    begin();
    for (uint32_t i = 0; i < STEPS_MOST && left.left; i++)
        step(&left);
    end();
    return 0;
}
