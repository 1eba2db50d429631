/* SPDX-License-Identifier: MIT */
#include "tests/unit/memd_kit.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_S 10

struct wr_key kit_key;
struct kit_log kit_log;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* --- The server ------------------------------------------------------------------------------ */

static void note(void *context, const char *line)
{
    struct kit_log *log = context;
    size_t length;

    pthread_mutex_lock(&lock);
    length = strlen(log->text);
    snprintf(log->text + length, sizeof(log->text) - length, "%s\n", line);
    log->lines++;
    pthread_mutex_unlock(&lock);
}

static void pause_ms(unsigned ms)
{
    const struct timespec moment = {.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000};

    nanosleep(&moment, NULL);
}

bool kit_was_told(const char *words)
{
    bool was_told = false;

    for (unsigned tries = 0; tries < 500 && !was_told; tries++) {
        if (tries)
            pause_ms(10);
        pthread_mutex_lock(&lock);
        was_told = strstr(kit_log.text, words);
        pthread_mutex_unlock(&lock);
    }
    return was_told;
}

uint32_t kit_lines(void)
{
    uint32_t lines;

    pthread_mutex_lock(&lock);
    lines = kit_log.lines;
    pthread_mutex_unlock(&lock);
    return lines;
}

int kit_memd_with(struct memd_options *options, struct memd **memd_p)
{
    cr_assert(wr_session_begin());
    if (!options->key) {
        wr_key_make(&kit_key);
        options->key = &kit_key;
    }
    options->log = note;
    options->log_context = &kit_log;
    return memd_open(options, memd_p);
}

struct memd *kit_memd(uint64_t memory, uint64_t quota, uint32_t lease_ms)
{
    const char *const listen[] = {"tcp://127.0.0.1:0"};
    struct memd_options options = {.listen = listen,
                                   .listen_count = 1,
                                   .limits = {memory, quota, lease_ms, 0},
                                   .threads = 2,
                                   .spin_us = 20};
    struct memd *memd = NULL;

    cr_assert_eq(kit_memd_with(&options, &memd), WEIR_OK, "%s", kit_log.text);
    return memd;
}

struct memd_gauges kit_gauges(struct memd *memd)
{
    struct memd_gauges gauges;

    memd_measure(memd, &gauges);
    return gauges;
}

/* --- The client ------------------------------------------------------------------------------ */

int kit_dial(struct memd *memd)
{
    return kit_dial_port(memd_port(memd, 0));
}

int kit_dial_port(uint16_t port)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    const int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert(fd >= 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    cr_assert_eq(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    return fd;
}

/* What the other end does not want to hear is lost: it may have closed. */
void kit_send(int fd, const void *bytes, size_t count)
{
    const char *from = bytes;

    while (count) {
        ssize_t sent = send(fd, from, count, MSG_NOSIGNAL);

        if (sent <= 0)
            return;
        from += sent;
        count -= (size_t)sent;
    }
}

static bool receive(int fd, void *bytes, size_t count)
{
    char *to = bytes;

    while (count) {
        ssize_t got = recv(fd, to, count, 0);

        if (got <= 0)
            return false;
        to += got;
        count -= (size_t)got;
    }
    return true;
}

bool kit_shake(struct kit_client *client, int fd, const struct wr_key *key, const char *name)
{
    uint8_t hello[WR_MESSAGE_BYTES + WR_HELLO_BYTES], proof[WR_MESSAGE_BYTES + WR_PROOF_BYTES];
    uint8_t challenge[WR_MESSAGE_BYTES + WR_CHALLENGE_BYTES], client_name[WR_NAME_BYTES] = {0};
    struct wr_handshake shake;
    struct wr_message message;

    *client = (struct kit_client){.fd = fd};
    memcpy(client_name, name, strnlen(name, sizeof(client_name)));
    wr_hello_say(&shake, key, client_name, name, hello);
    kit_send(fd, hello, sizeof(hello));
    if (!receive(fd, challenge, sizeof(challenge)) ||
        wr_challenge_hear(&shake, challenge, &client->epoch) != WEIR_OK)
        return false;
    wr_proof_say(&shake, proof, &client->session);
    kit_send(fd, proof, sizeof(proof));
    return kit_hear(client, &message, NULL) && message.type == WR_MESSAGE_WELCOME;
}

struct kit_client kit_client(struct memd *memd, const char *name)
{
    struct kit_client client;

    cr_assert(kit_shake(&client, kit_dial(memd), &kit_key, name), "%s", kit_log.text);
    return client;
}

void kit_hang_up(struct kit_client *client)
{
    close(client->fd);
    client->fd = -1;
}

void kit_say(struct kit_client *client, struct wr_message message, const void *payload)
{
    const bool has_pages = wr_message_has_pages(&message);
    uint8_t header[WR_MESSAGE_BYTES];

    message.epoch = client->epoch;
    wr_message_put(&message, header);
    wr_session_seal(&client->session, header, payload, has_pages ? 0 : message.length);
    kit_send(client->fd, header, sizeof(header));
    kit_send(client->fd, payload, message.length);
}

bool kit_hear(struct kit_client *client, struct wr_message *message_p, void *payload)
{
    uint8_t header[WR_MESSAGE_BYTES];

    if (!receive(client->fd, header, sizeof(header)))
        return false;
    cr_assert(wr_message_parse(header, message_p));
    cr_assert(message_p->length == 0 || payload);
    if (!receive(client->fd, payload, message_p->length))
        return false;
    cr_assert(wr_session_check(&client->session, header, payload,
                               wr_message_has_pages(message_p) ? 0 : message_p->length));
    cr_assert_eq(message_p->epoch, client->epoch);
    return true;
}

uint8_t kit_ask(struct kit_client *client, struct wr_message message, const void *payload,
                uint16_t *error_p)
{
    struct wr_message answer;
    static __thread char bytes[WR_MESSAGE_PAYLOAD];

    message.id = 0xabcd0000u + message.type;
    kit_say(client, message, payload);
    if (!kit_hear(client, &answer, bytes))
        return 0;
    cr_assert_eq(answer.id, message.id);
    *error_p = answer.error;
    return answer.type;
}

/* The error of an answer that should be of this type. */
static int judge(bool was_heard, const struct wr_message *answer, uint64_t id, uint8_t type)
{
    if (!was_heard)
        return WEIR_ESTOPPED;
    cr_assert_eq(answer->id, id);
    if (answer->type == WR_MESSAGE_REFUSED) {
        cr_assert_neq(answer->error, 0);
        return -(int)answer->error;
    }
    cr_assert_eq(answer->type, type, "%s", wr_message_name(answer->type));
    return -(int)answer->error;
}

static int ask(struct kit_client *client, struct wr_message message, const void *payload,
               uint8_t type, struct wr_message *answer_p, void *answer_payload)
{
    static _Atomic(uint64_t) ids;
    bool was_heard;

    message.id = ++ids;
    kit_say(client, message, payload);
    was_heard = kit_hear(client, answer_p, answer_payload);
    return judge(was_heard, answer_p, message.id, type);
}

int kit_lease(struct kit_client *client, uint64_t slots)
{
    struct wr_message answer;
    int error = ask(client, (struct wr_message){.type = WR_MESSAGE_LEASE, .count = slots}, NULL,
                    WR_MESSAGE_LEASED, &answer, client->lease);

    client->slots = error ? 0 : answer.slot;
    client->lease_ms = error ? 0 : answer.count;
    return error;
}

static _Atomic(uint32_t) lines; /* numbers that were given */

int kit_attach(struct kit_client *client, const struct kit_client *owner)
{
    struct wr_message answer;
    int error = ask(client,
                    (struct wr_message){.type = WR_MESSAGE_ATTACH,
                                        .length = sizeof(owner->lease),
                                        .slot = 1 + atomic_fetch_add(&lines, 1) % 255},
                    owner->lease, WR_MESSAGE_ATTACHED, &answer, NULL);

    client->slots = error ? 0 : answer.count;
    return error;
}

int kit_return(struct kit_client *client)
{
    struct wr_message answer;

    return ask(client, (struct wr_message){.type = WR_MESSAGE_RETURN}, NULL, WR_MESSAGE_RETURNED,
               &answer, NULL);
}

int kit_renew(struct kit_client *client, uint32_t *flags_p)
{
    struct wr_message answer;
    int error = ask(client, (struct wr_message){.type = WR_MESSAGE_RENEW}, NULL, WR_MESSAGE_RENEWED,
                    &answer, NULL);

    if (!error)
        client->lease_ms = answer.count;
    if (!error && flags_p)
        *flags_p = answer.pages;
    return error;
}

int kit_read(struct kit_client *client, uint64_t slot, uint32_t pages, void *bytes)
{
    struct wr_message answer;
    int error = ask(client,
                    (struct wr_message){.type = WR_MESSAGE_READ, .slot = slot, .pages = pages},
                    NULL, WR_MESSAGE_CONTENT, &answer, bytes);

    if (!error) {
        cr_assert_eq(answer.slot, slot);
        cr_assert_eq(answer.pages, pages);
        cr_assert_eq(answer.length, pages * WEIR_SLOT_BYTES);
    }
    return error;
}

int kit_write(struct kit_client *client, uint64_t slot, uint32_t pages, const void *bytes)
{
    struct wr_message answer;

    return ask(client,
               (struct wr_message){.type = WR_MESSAGE_WRITE,
                                   .slot = slot,
                                   .pages = pages,
                                   .length = pages * WEIR_SLOT_BYTES},
               bytes, WR_MESSAGE_WRITTEN, &answer, NULL);
}

int kit_discard(struct kit_client *client, uint64_t slot, uint64_t count)
{
    struct wr_message answer;

    return ask(client,
               (struct wr_message){.type = WR_MESSAGE_DISCARD, .slot = slot, .count = count}, NULL,
               WR_MESSAGE_DISCARDED, &answer, NULL);
}

bool kit_is_closed(int fd)
{
    const struct timeval patience = {.tv_sec = 5};
    char byte;
    ssize_t got;

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    got = recv(fd, &byte, 1, 0);
    return got == 0 || (got < 0 && errno == ECONNRESET);
}

/* --- Pages ----------------------------------------------------------------------------------- */

void kit_stamp(unsigned char *bytes, uint64_t slot, uint32_t pages, uint32_t story)
{
    for (uint64_t i = 0; i < (uint64_t)pages * WEIR_SLOT_BYTES / 8; i++) {
        const uint64_t word = (slot * 512 + i) * 0x9e3779b97f4a7c15u + story;

        memcpy(bytes + 8 * i, &word, 8);
    }
}

bool kit_is_stamped(const unsigned char *bytes, uint64_t slot, uint32_t pages, uint32_t story)
{
    static __thread unsigned char wanted[WR_MESSAGE_PAYLOAD];

    kit_stamp(wanted, slot, pages, story);
    return memcmp(bytes, wanted, (size_t)pages * WEIR_SLOT_BYTES) == 0;
}

bool kit_is_zero(const unsigned char *bytes, size_t count)
{
    return count == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0);
}
