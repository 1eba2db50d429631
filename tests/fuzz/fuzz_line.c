/* SPDX-License-Identifier: MIT */

/*
 * What waits for one answer on a line: seats, of threads that fault; questions, of the keeper; what
 * it takes to have a queue pair; and the handshake, with a server that need not have the key. All
 * that is answered has been said before it is asked, for who asks waits: a server knows what it
 * will be asked.
 *
 * Whatever is answered: memory beside what was asked for is not written; success comes only by an
 * answer that is right, and with what it brought; a session stands only if the server changed not
 * one bit of what one with the key would have said; and errno is as it was.
 */

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fuzz/device.h"
#include "tests/fuzz/server.h"
#include "transport/rdma.h"

#define SLOTS      1000u
#define PAGES_MOST 4u
#define PAGE       ((size_t)WEIR_SLOT_BYTES)
#define ASKS_MOST  12u
#define GUARD      0xd1

static struct {
    struct wr_tcp tcp;
    struct server server;
    struct fuzz_bytes bytes;
    unsigned lines_left;      /* that the keeper brings */
    bool is_mute;             /* nothing arrives any more of what the server says on this line */
    struct wr_message wanted; /* the right answer to what is asked now, but for its id */
    const void *payload;
    enum server_truth truth; /* of what was said last */
    struct wr_message said;
    uint8_t pages[(PAGES_MOST + 2) * WEIR_SLOT_BYTES];
} world;

/* --- What will be asked, and is answered already --------------------------------------------- */

static void prepare(struct wr_line *line)
{
    const uint8_t how = fuzz_byte(&world.bytes);
    size_t cut = 0;

    if (how == 255)
        server_say_raw(&world.server, &world.bytes);
    world.wanted.id = line->id + 1;
    world.truth = server_answer(&world.server, &world.bytes, world.wanted, world.payload,
                                world.wanted.id, &world.said);
    if (how == 254)
        cut = fuzz_amount(&world.bytes) % world.server.out_to;
    world.server.out_to -= cut;
    if (how == 253)
        server_hang_up(&world.server);
    else
        server_send(&world.server, SERVER_OUT);
    if (how >= 240 && how < 253) {
        shutdown(world.server.fd, SHUT_WR);
        world.is_mute = true;
    }
    if (cut || how == 253) /* what is missing never comes */
        world.truth = SERVER_WRONG;
    world.server.is_wrong |= cut > 0 || world.is_mute;
}

static const struct wr_tcp_kind kind = {.ask = wr_tcp_ask};

/* The keeper: another line for one that has broken, and the end after some of them. */
void wr_tcp_ring(const struct wr_tcp *constant)
{
    struct wr_seat *seat = &world.tcp.seats[0];

    FUZZ_ASSERT(constant == &world.tcp);
    if (atomic_load(&seat->state) != WR_SEAT_BROKEN)
        return;
    wr_line_close(&seat->line);
    if (world.lines_left == 0) {
        atomic_store(&world.tcp.is_lost, true);
        return;
    }
    world.lines_left--;
    server_connect(&world.server, &seat->line);
    world.is_mute = false;
    wr_tcp_note_sure(&world.tcp, WR_TCP_LINE_SEATS);
    prepare(&seat->line);
    atomic_store(&seat->state, WR_SEAT_FREE);
}

static void take_what_was_asked(void)
{
    uint8_t header[WR_MESSAGE_BYTES];
    struct wr_message asked;

    if (world.server.fd < 0 || recv(world.server.fd, header, sizeof(header), MSG_DONTWAIT) <= 0)
        return;
    FUZZ_ASSERT(wr_session_check(&world.server.session, header, NULL, 0));
    FUZZ_ASSERT(wr_message_parse(header, &asked));
    FUZZ_ASSERT(asked.id == world.wanted.id && asked.epoch == SERVER_EPOCH);
}

static bool is_filled(const uint8_t *bytes, size_t count, uint8_t fill)
{
    return count == 0 || (bytes[0] == fill && memcmp(bytes, bytes + 1, count - 1) == 0);
}

/* --- Seats ----------------------------------------------------------------------------------- */

static void check_read(int error, uint64_t slot, uint32_t pages)
{
    FUZZ_ASSERT(error <= WEIR_OK && error >= WEIR_EFORKED);
    FUZZ_ASSERT(is_filled(world.pages, PAGE, GUARD));
    FUZZ_ASSERT(
        is_filled(world.pages + (1 + pages) * PAGE, (PAGES_MOST + 1 - pages) * PAGE, GUARD));
    if (slot >= SLOTS || pages > SLOTS - slot) {
        FUZZ_ASSERT(error == WEIR_EINVAL);
        return;
    }
    if (error == WEIR_OK) {
        FUZZ_ASSERT(world.truth == SERVER_RIGHT);
        for (uint32_t i = 0; i < pages; i++)
            FUZZ_ASSERT(is_filled(world.pages + (1 + i) * PAGE, PAGE,
                                  server_stamp(slot + i, world.wanted.id)));
    } else if (error != WEIR_EIO) {
        FUZZ_ASSERT(world.truth == SERVER_REFUSES && error == wr_message_error(&world.said));
    }
}

static void read_some(void)
{
    const uint64_t slot = fuzz_byte(&world.bytes) * 4u;
    const uint32_t pages = 1 + fuzz_byte(&world.bytes) % PAGES_MOST;

    world.wanted = (struct wr_message){.type = WR_MESSAGE_CONTENT,
                                       .length = pages * WEIR_SLOT_BYTES,
                                       .pages = pages,
                                       .epoch = SERVER_EPOCH,
                                       .slot = slot};
    if (slot < SLOTS && pages <= SLOTS - slot)
        prepare(&world.tcp.seats[0].line);
    memset(world.pages, GUARD, sizeof(world.pages));
    errno = 4711;
    check_read(wr_tcp_read(&world.tcp.base, slot, pages, world.pages + PAGE), slot, pages);
    FUZZ_ASSERT(errno == 4711);
    take_what_was_asked();
}

/* Where it has no answer, the seat is unsure until it has another line. */
static void discard_some(void)
{
    bool is_unsure;

    world.wanted = (struct wr_message){.type = WR_MESSAGE_DISCARDED, .epoch = SERVER_EPOCH};
    world.lines_left = 0;
    prepare(&world.tcp.seats[0].line);
    wr_tcp_discard(&world.tcp, 5, 7);
    is_unsure = atomic_load(&world.tcp.is_unsure[WR_TCP_LINE_SEATS]);
    FUZZ_ASSERT(is_unsure == (world.tcp.unsure == 1));
    FUZZ_ASSERT(is_unsure == atomic_load(&world.tcp.is_lost));
    if (world.truth != SERVER_WRONG && !wr_message_has_pages(&world.said))
        FUZZ_ASSERT(!is_unsure);
    /* Any sealed answer will do: it says that the server is past the question. */
    if (!is_unsure && !world.is_mute)
        world.server.is_wrong = false;
    take_what_was_asked();
}

static void sit(void)
{
    struct wr_seat *seat = &world.tcp.seats[0];

    memset(&world.tcp, 0, sizeof(world.tcp));
    world.tcp.kind = &kind;
    world.tcp.slots = SLOTS;
    world.tcp.options.patience = 3600;
    for (uint32_t i = 0; i < WR_TCP_SEATS; i++)
        world.tcp.seats[i].line.fd = -1;
    world.lines_left = fuzz_byte(&world.bytes) % 4;
    world.payload = NULL;
    server_connect(&world.server, &seat->line);
    world.is_mute = false;
    atomic_store(&seat->state, WR_SEAT_FREE);
    for (uint32_t i = 0; i < ASKS_MOST && world.bytes.left && !world.tcp.is_lost; i++)
        if (fuzz_byte(&world.bytes) < 224)
            read_some();
        else
            discard_some();
    wr_line_close(&seat->line);
}

/* --- Questions ------------------------------------------------------------------------------- */

static void ask(void)
{
    static const uint8_t name[WR_NAME_BYTES] = "a lease's name.";
    struct wr_message question = {.type = WR_MESSAGE_LEASE, .count = 5}, answer;
    uint8_t room[WR_NAME_BYTES + 256];
    struct wr_line line;
    int error;

    server_connect(&world.server, &line);
    world.is_mute = false;
    world.payload = name;
    world.wanted = (struct wr_message){.type = WR_MESSAGE_LEASED,
                                       .length = WR_NAME_BYTES,
                                       .epoch = SERVER_EPOCH,
                                       .slot = 512,
                                       .count = 30000};
    prepare(&line);
    memset(room, GUARD, sizeof(room));
    error = wr_line_ask(&line, &question, NULL, &answer, room, WR_NAME_BYTES, 0);
    FUZZ_ASSERT(error == WEIR_OK || error == WEIR_EIO);
    FUZZ_ASSERT(is_filled(room + WR_NAME_BYTES, sizeof(room) - WR_NAME_BYTES, GUARD));
    if (error == WEIR_OK) {
        FUZZ_ASSERT(answer.id == world.wanted.id && answer.epoch == SERVER_EPOCH);
        FUZZ_ASSERT(answer.type == world.said.type && answer.slot == world.said.slot);
        FUZZ_ASSERT(memcmp(room, name, answer.length) == 0);
    } else {
        FUZZ_ASSERT(world.truth != SERVER_RIGHT);
    }
    wr_line_close(&line);
}

/* --- A queue pair ----------------------------------------------------------------------------- */

uint64_t wr_tcp_soon(const struct wr_tcp *tcp)
{
    (void)tcp;
    return wr_line_now_ns() + 3600000000000ull;
}

/* What is answered when it is asked where the queue pair goes, and where the lease is: is it to be
 * believed? */
static bool prepare_join(struct wr_line *line)
{
    struct wr_message *wanted = &world.wanted;
    uint64_t count;

    world.payload = NULL;
    *wanted = (struct wr_message){.type = WR_MESSAGE_JOINED, .epoch = SERVER_EPOCH, .count = 4791};
    prepare(line);
    count = world.said.count;
    if (world.truth == SERVER_WRONG || world.said.type != WR_MESSAGE_JOINED || count == 0 ||
        count > UINT16_MAX || world.server.fd < 0)
        return false;
    line->id++; /* the next one answers the next question */
    *wanted = (struct wr_message){.type = WR_MESSAGE_LOCATED, .epoch = SERVER_EPOCH};
    wanted->pages = (uint32_t)fuzz_number(&world.bytes, 4);
    wanted->count = fuzz_byte(&world.bytes) * 8u;
    wanted->slot = fuzz_number(&world.bytes, 8);
    prepare(line);
    line->id--;
    count = world.said.count;
    return world.truth != SERVER_WRONG && world.said.type == WR_MESSAGE_LOCATED && count >= SLOTS &&
           world.said.slot <= UINT64_MAX - SLOTS * (uint64_t)WEIR_SLOT_BYTES;
}

/* It is believed if it is right, and the device is well; and else nothing is left of it. */
static void join(void)
{
    char why[WR_WHY_ROOM] = "";
    struct wr_line line;
    bool is_right;
    int error;

    memset(&world.tcp, 0, sizeof(world.tcp));
    world.tcp.slots = SLOTS;
    server_connect(&world.server, &line);
    world.is_mute = false;
    device_begin(&world.bytes);
    is_right = prepare_join(&line);
    if (!is_right)
        server_hang_up(&world.server); /* who waits for more waits long */
    error = wr_rdma_join(&world.tcp, &line, 1 + fuzz_byte(&world.bytes) % 8, why);
    FUZZ_ASSERT((error == WEIR_OK) == (is_right && !device_has_refused()));
    FUZZ_ASSERT((error == WEIR_OK) == (line.queue != NULL));
    FUZZ_ASSERT(strnlen(why, sizeof(why)) < sizeof(why) && (error == WEIR_OK || why[0]));
    if (!error)
        FUZZ_ASSERT(line.queue->base == world.said.slot && line.queue->key == world.said.pages);
    wr_rdma_part(&line);
    FUZZ_ASSERT(device_is_idle() && !line.queue);
    wr_line_close(&line);
}

/* --- The handshake --------------------------------------------------------------------------- */

#define SPEECH_BYTES (2 * WR_MESSAGE_BYTES + WR_CHALLENGE_BYTES) /* challenge and welcome */

static const struct wr_key key = {{42}};
static struct wr_line_target target = {
    .host = "127.0.0.1", .port = "1", .key = &key, .client = "sixteen letters", .label = "one"};
static uint8_t speech[SPEECH_BYTES + 256];
static size_t speech_bytes;

/* In place of connect(): the server is in this process. */
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t length);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t length)
{
    int ends[2];

    (void)address, (void)length;
    FUZZ_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
    FUZZ_ASSERT(send(ends[1], speech, speech_bytes, MSG_NOSIGNAL) == (ssize_t)speech_bytes);
    FUZZ_ASSERT(dup2(ends[0], fd) == fd);
    close(ends[0]);
    server_hang_up(&world.server);
    world.server.fd = ends[1];
    return 0;
}

/* Random numbers are the same each time: so is the client's hello, and all that answers it. */
static void write_speech(struct wr_session *server_session)
{
    uint8_t hello[WR_MESSAGE_BYTES + WR_HELLO_BYTES], proof[WR_MESSAGE_BYTES + WR_PROOF_BYTES];
    const struct wr_message welcome = {.type = WR_MESSAGE_WELCOME, .epoch = SERVER_EPOCH};
    struct wr_handshake client, server;
    struct wr_session client_session;
    uint64_t epoch;

    fuzz_begin();
    wr_hello_say(&client, &key, target.client, target.label, hello);
    FUZZ_ASSERT(wr_hello_hear(&server, &key, hello) == WEIR_OK);
    wr_challenge_say(&server, SERVER_EPOCH, speech);
    FUZZ_ASSERT(wr_challenge_hear(&client, speech, &epoch) == WEIR_OK);
    wr_proof_say(&client, proof, &client_session);
    FUZZ_ASSERT(wr_proof_hear(&server, proof, server_session) == WEIR_OK);
    wr_message_put(&welcome, speech + SPEECH_BYTES - WR_MESSAGE_BYTES);
    wr_session_seal(server_session, speech + SPEECH_BYTES - WR_MESSAGE_BYTES, NULL, 0);
    speech_bytes = SPEECH_BYTES;
    fuzz_begin();
}

/* False: it is as it was. */
static bool spoil_speech(void)
{
    const uint8_t how = fuzz_byte(&world.bytes);
    uint8_t before[SPEECH_BYTES];

    memcpy(before, speech, SPEECH_BYTES);
    if (how & 1)
        speech_bytes = fuzz_byte(&world.bytes) % SPEECH_BYTES;
    for (uint32_t i = how / 2 % 8; i > 0; i--) {
        const size_t at = fuzz_number(&world.bytes, 2) % SPEECH_BYTES;

        speech[at] ^= fuzz_byte(&world.bytes);
    }
    if (how & 16) {
        const struct wr_message refusal = {.type = WR_MESSAGE_REFUSED, .error = how};

        wr_message_put(&refusal, speech + (how & 32 ? SPEECH_BYTES - WR_MESSAGE_BYTES : 0));
    }
    return speech_bytes != SPEECH_BYTES || memcmp(before, speech, SPEECH_BYTES) != 0;
}

static void shake_hands(void)
{
    struct wr_session session;
    char why[WR_WHY_ROOM] = "";
    struct wr_line line;
    bool is_spoilt;
    int error;

    write_speech(&session);
    is_spoilt = spoil_speech();
    error = wr_line_open(&line, &target, 0, why);
    FUZZ_ASSERT((error == WEIR_OK) == !is_spoilt);
    FUZZ_ASSERT((line.fd < 0) == is_spoilt);
    FUZZ_ASSERT(strnlen(why, sizeof(why)) < sizeof(why) && (why[0] != 0) == is_spoilt);
    if (!error)
        FUZZ_ASSERT(line.epoch == SERVER_EPOCH &&
                    memcmp(line.session.key_in, session.key_out, WR_KEY_BYTES) == 0 &&
                    memcmp(line.session.key_out, session.key_in, WR_KEY_BYTES) == 0);
    wr_line_close(&line);
    wr_line_forget(&target);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    uint8_t what;

    world.bytes = (struct fuzz_bytes){bytes, count};
    server_forget(&world.server);
    fuzz_begin();
    what = fuzz_byte(&world.bytes);
    switch (what < 224 ? what % 4 : 4) {
    case 0: ask(); break;
    case 1: shake_hands(); break;
    case 4: join(); break;
    default: sit(); break;
    }
    server_hang_up(&world.server);
    return 0;
}
