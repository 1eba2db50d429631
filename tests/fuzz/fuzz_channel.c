/* SPDX-License-Identifier: MIT */

/*
 * tcp's channel against a server that has the key and means no good. The keeper is played here: it
 * brings a line when one has broken, or does not; so all is one thread, and the same each time.
 *
 * Whatever is answered: each request ends once; with success only by an answer that is right; what
 * was read is what the right answer brought; nothing beside a request's memory is written, and
 * nothing of it after its end; what is asked is asked in order, whole and sealed; and when the
 * server is right again, or all is lost, everything ends.
 */

#include <string.h>
#include <sys/socket.h>

#include "tests/fuzz/server.h"

#define SLOTS         1000u
#define DEPTH         6u
#define ASKS          8u
#define PAGES_MOST    70u /* more pieces than one system call moves */
#define PAGE          ((size_t)WEIR_SLOT_BYTES)
#define STEPS_MOST    300u
#define ROUNDS_MOST   400u
#define ROUNDS_SILENT 30u

enum { FILL_GUARD = 0xd1, FILL_BEFORE = 0xd2, FILL_AFTER = 0xd3 };

/* A request. */
struct ask {
    struct weir_io io;
    struct iovec iov[PAGES_MOST];
    bool is_flying, is_sound, is_believable;
    int refusal; /* that was said */
    uint64_t number;
    uint32_t pages;
    /* A page before it, and one behind. */
    uint8_t memory[(PAGES_MOST + 2) * WEIR_SLOT_BYTES] __attribute__((aligned(4096)));
};

static struct {
    struct wr_tcp tcp;
    struct weir_channel *channel;
    struct server server;
    bool is_refusing; /* brings no line */
    bool is_seat_unsure;
    bool has_failed; /* some request: what was sent of it may be heard later */
    struct ask asks[ASKS];
    uint64_t numbers; /* of sound requests, in the order of submit() */
    /* What the server understands. */
    uint8_t header[WR_MESSAGE_BYTES];
    size_t header_bytes;
    struct wr_message heard[64]; /* headers, in order */
    uint64_t heard_count, answered;
    uint64_t body_left;
} world;

/* As if a discard were on its way on a seat that broke. */
static void set_seat_unsure(bool is_unsure)
{
    atomic_fetch_add(&world.tcp.unsure, (uint32_t)is_unsure - (uint32_t)world.is_seat_unsure);
    world.is_seat_unsure = is_unsure;
}

/* --- The keeper ------------------------------------------------------------------------------ */

void wr_tcp_ring(const struct wr_tcp *tcp)
{
    (void)tcp;
}

int wr_tcp_attach(struct wr_tcp *tcp, struct wr_line *line, uint64_t number, char why[WR_WHY_ROOM])
{
    (void)why;
    if (world.is_refusing)
        return WEIR_EIO;
    wr_tcp_note_sure(tcp, number);
    server_connect(&world.server, line);
    world.header_bytes = 0;
    world.heard_count = world.answered = world.body_left = 0;
    return WEIR_OK;
}

/* --- Requests -------------------------------------------------------------------------------- */

static uint8_t *page_of(struct ask *ask, uint32_t page)
{
    const struct iovec *iov = &ask->iov[ask->io.iov_count == 1 ? 0 : page];

    return (uint8_t *)iov->iov_base + (ask->io.iov_count == 1 ? page * PAGE : 0);
}

static bool is_filled(const uint8_t *bytes, size_t count, uint8_t fill)
{
    return count == 0 || (bytes[0] == fill && memcmp(bytes, bytes + 1, count - 1) == 0);
}

static void check_guards(const struct ask *ask)
{
    FUZZ_ASSERT(is_filled(ask->memory, PAGE, FILL_GUARD));
    FUZZ_ASSERT(is_filled(ask->memory + (1 + ask->pages) * PAGE, PAGE, FILL_GUARD));
}

static void check_pages(struct ask *ask)
{
    for (uint32_t i = 0; i < ask->pages; i++)
        FUZZ_ASSERT(is_filled(page_of(ask, i), PAGE, server_stamp(ask->io.slot + i, ask->number)));
}

static bool is_listed(int error)
{
    switch (error) {
    case WEIR_OK:
#define LISTED(name, value, text) case name:
        WEIR_ERROR_MAP(LISTED)
#undef LISTED
        return true;
    default: return false;
    }
}

static void done(struct weir_io *io)
{
    struct ask *ask = io->owner;

    FUZZ_ASSERT(ask->is_flying);
    ask->is_flying = false;
    check_guards(ask);
    FUZZ_ASSERT(is_listed(io->error));
    world.has_failed |= ask->is_sound && io->error != WEIR_OK;
    if (!ask->is_sound)
        FUZZ_ASSERT(io->error == WEIR_EINVAL);
    else if (io->error == WEIR_OK)
        FUZZ_ASSERT(ask->is_believable);
    else if (io->error != WEIR_EIO)
        FUZZ_ASSERT(ask->refusal == io->error);
    if (io->is_write || io->error == WEIR_OK)
        check_pages(ask);
    memset(ask->memory, FILL_AFTER, (2 + ask->pages) * PAGE);
}

/* Nothing of it was touched since it has ended. */
static void check_rest(const struct ask *ask)
{
    if (ask->pages && !ask->is_flying)
        FUZZ_ASSERT(is_filled(ask->memory, (2 + ask->pages) * PAGE, FILL_AFTER));
}

/* In one piece, page by page, or page by page in the other direction. */
static void lay_out(struct ask *ask, uint8_t how)
{
    uint8_t *first = ask->memory + PAGE;

    ask->io.iov = ask->iov;
    ask->io.iov_count = how % 3 ? ask->pages : 1;
    ask->iov[0] = (struct iovec){first, ask->pages * PAGE};
    for (uint32_t i = 0; how % 3 && i < ask->pages; i++)
        ask->iov[i] = (struct iovec){first + (how % 3 == 1 ? i : ask->pages - 1 - i) * PAGE, PAGE};
}

static void make_ask(struct ask *ask, struct fuzz_bytes *bytes)
{
    const uint8_t how = fuzz_byte(bytes), pages = fuzz_byte(bytes);

    check_rest(ask);
    ask->pages = pages < 224 ? 1u + pages % 3 : PAGES_MOST - pages % 8;
    ask->io = (struct weir_io){.slot = fuzz_byte(bytes) * 4u,
                               .pages = ask->pages,
                               .is_write = how & 1,
                               .done = done,
                               .owner = ask};
    lay_out(ask, how / 2 % 4);
    ask->is_sound = ask->io.slot < SLOTS && ask->pages <= SLOTS - ask->io.slot;
    ask->is_believable = false;
    ask->refusal = WEIR_OK;
    memset(ask->memory, FILL_GUARD, (2 + ask->pages) * PAGE);
    ask->number = ask->is_sound ? world.numbers : 0;
    for (uint32_t i = 0; i < ask->pages; i++)
        memset(page_of(ask, i),
               ask->io.is_write ? server_stamp(ask->io.slot + i, ask->number) : FILL_BEFORE, PAGE);
}

static void submit(struct fuzz_bytes *bytes)
{
    for (uint32_t i = 0; i < ASKS; i++) {
        struct ask *ask = &world.asks[i];
        struct weir_io *io = &ask->io;

        if (ask->is_flying)
            continue;
        make_ask(ask, bytes);
        ask->is_flying = true;
        if (wr_tcp_submit(world.channel, &io, 1) == 1) {
            world.numbers += ask->is_sound;
        } else {
            ask->is_flying = false;
            memset(ask->memory, FILL_AFTER, (2 + ask->pages) * PAGE);
        }
        return;
    }
}

static struct ask *ask_of(uint64_t id)
{
    for (uint32_t i = 0; i < ASKS; i++)
        if (world.asks[i].is_flying && world.asks[i].is_sound && world.asks[i].number + 1 == id)
            return &world.asks[i];
    return NULL;
}

/* --- The server ------------------------------------------------------------------------------ */

static void hear_header(void)
{
    struct wr_message message;
    struct ask *ask;

    FUZZ_ASSERT(wr_message_parse(world.header, &message));
    FUZZ_ASSERT(wr_session_check(&world.server.session, world.header, NULL, 0));
    FUZZ_ASSERT(message.epoch == SERVER_EPOCH);
    if (world.heard_count)
        FUZZ_ASSERT(message.id == world.heard[(world.heard_count - 1) % 64].id + 1);
    ask = ask_of(message.id);
    FUZZ_ASSERT(ask || world.has_failed);
    if (ask) {
        FUZZ_ASSERT(message.slot == ask->io.slot && message.pages == ask->io.pages);
        FUZZ_ASSERT(message.type == (ask->io.is_write ? WR_MESSAGE_WRITE : WR_MESSAGE_READ));
        /* What was answered on an earlier line was not understood. */
        ask->is_believable = false;
        ask->refusal = WEIR_OK;
    }
    FUZZ_ASSERT(world.heard_count - world.answered < DEPTH);
    world.heard[world.heard_count++ % 64] = message;
    world.header_bytes = 0;
    world.body_left = message.length;
}

/* Pages come as they were given, in their order. */
static void hear_body(const uint8_t *bytes, size_t count)
{
    const struct wr_message *write = &world.heard[(world.heard_count - 1) % 64];

    for (size_t i = 0; i < count;) {
        const size_t at = write->length - world.body_left;
        const size_t part = count - i < PAGE - at % PAGE ? count - i : PAGE - at % PAGE;

        FUZZ_ASSERT(
            is_filled(bytes + i, part, server_stamp(write->slot + at / PAGE, write->id - 1)));
        i += part;
        world.body_left -= part;
    }
}

/* False: there is nothing. */
static bool hear(size_t most)
{
    static uint8_t bytes[65536];
    ssize_t got = recv(world.server.fd, bytes, most < sizeof(bytes) ? most : sizeof(bytes),
                       MSG_DONTWAIT);

    for (ssize_t i = 0; i < got;) {
        size_t left = (size_t)(got - i), part;

        if (world.body_left) {
            part = left < world.body_left ? left : world.body_left;
            hear_body(bytes + i, part);
        } else {
            part = WR_MESSAGE_BYTES - world.header_bytes;
            part = part < left ? part : left;
            memcpy(world.header + world.header_bytes, bytes + i, part);
            world.header_bytes += part;
            if (world.header_bytes == WR_MESSAGE_BYTES)
                hear_header();
        }
        i += (ssize_t)part;
    }
    return got > 0;
}

static void answer(struct fuzz_bytes *bytes)
{
    const struct wr_message *asked = &world.heard[world.answered % 64];
    const bool is_read = asked->type == WR_MESSAGE_READ;
    struct wr_message said;
    enum server_truth truth;
    struct ask *ask;

    if (world.server.fd < 0 || world.answered == world.heard_count)
        return;
    world.answered++;
    ask = ask_of(asked->id);
    truth = server_answer(
        &world.server, bytes,
        (struct wr_message){.type = is_read ? WR_MESSAGE_CONTENT : WR_MESSAGE_WRITTEN,
                            .length = is_read ? asked->pages * WEIR_SLOT_BYTES : 0,
                            .pages = asked->pages,
                            .id = asked->id,
                            .epoch = SERVER_EPOCH,
                            .slot = asked->slot},
        NULL, asked->id - 1, &said);
    if (ask && truth == SERVER_RIGHT)
        ask->is_believable = true;
    if (ask && truth == SERVER_REFUSES)
        ask->refusal = wr_message_error(&said);
}

/* --- All of it ------------------------------------------------------------------------------- */

static void tend(void)
{
    wr_tcp_channel_tend(world.tcp.channels[0]);
}

static void step(struct fuzz_bytes *bytes)
{
    const uint8_t choice = fuzz_byte(bytes);

    switch (choice % 16) {
    case 0:
    case 1:
    case 2: submit(bytes); break;
    case 3: wr_tcp_poll(world.channel, 1 + choice / 64); break;
    case 4: wr_tcp_poll(world.channel, 64); break;
    case 5: hear(fuzz_amount(bytes)); break;
    case 6: hear(SIZE_MAX); break;
    case 7:
    case 8:
    case 9: answer(bytes); break;
    case 10: server_send(&world.server, fuzz_amount(bytes)); break;
    case 11: server_send(&world.server, SERVER_OUT); break;
    case 12:
        world.is_refusing = choice & 16;
        tend();
        break;
    case 13: server_say_raw(&world.server, bytes); break;
    case 14:
        if (choice & 16)
            shutdown(world.server.fd, choice & 32 ? SHUT_WR : SHUT_RD);
        else
            server_hang_up(&world.server);
        break;
    default:
        atomic_store(&world.tcp.is_away, (choice & 16) != 0);
        set_seat_unsure((choice & 32) != 0);
        world.tcp.is_sure_again = choice & 64;
        break;
    }
}

static bool is_flying(void)
{
    for (uint32_t i = 0; i < ASKS; i++)
        if (world.asks[i].is_flying)
            return true;
    return false;
}

/* The server does what it ought to, or is gone for good: everything comes to its end. */
static void finish(bool is_lost)
{
    struct fuzz_bytes none = {NULL, 0};

    world.is_refusing = false;
    atomic_store(&world.tcp.is_away, false);
    set_seat_unsure(false);
    atomic_store(&world.tcp.is_lost, is_lost);
    for (uint32_t round = 0; is_flying(); round++) {
        FUZZ_ASSERT(round < ROUNDS_MOST);
        if (round % ROUNDS_SILENT == ROUNDS_SILENT - 1)
            server_hang_up(&world.server); /* an answer is not whole, and nothing more will come */
        tend();
        while (hear(SIZE_MAX))
            wr_tcp_poll(world.channel, 64);
        while (world.server.fd >= 0 && world.answered < world.heard_count)
            answer(&none);
        server_send(&world.server, SERVER_OUT);
        wr_tcp_poll(world.channel, 64);
    }
}

static void begin(uint8_t how)
{
    fuzz_begin();
    memset(&world.tcp, 0, sizeof(world.tcp));
    world.tcp.slots = SLOTS;
    world.tcp.options.patience = how & 1 ? 0 : 3600;
    world.tcp.options.timeout = 3600;
    pthread_mutex_init(&world.tcp.lock, NULL);
    server_forget(&world.server);
    world.is_refusing = world.has_failed = false;
    world.numbers = 0;
    for (uint32_t i = 0; i < ASKS; i++) {
        world.asks[i].is_flying = false;
        world.asks[i].pages = 0;
    }
    FUZZ_ASSERT(wr_tcp_channel_open(&world.tcp.base, DEPTH, &world.channel) == WEIR_OK);
    tend();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    struct fuzz_bytes left = {bytes, count};
    const uint8_t how = fuzz_byte(&left);

    begin(how);
    for (uint32_t i = 0; i < STEPS_MOST && left.left; i++)
        step(&left);
    finish(how & 2);
    for (uint32_t i = 0; i < ASKS; i++)
        check_rest(&world.asks[i]);
    wr_tcp_channel_close(world.channel);
    server_hang_up(&world.server);
    pthread_mutex_destroy(&world.tcp.lock);
    return 0;
}
