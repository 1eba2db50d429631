/* SPDX-License-Identifier: MIT */

/* A memory server and those who mean ill, or are broken. */

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/memd_kit.h"

#define LONG_MS 60000u

static void pause_ms(unsigned ms)
{
    const struct timespec moment = {.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000};

    nanosleep(&moment, NULL);
}

static struct memd *serve(void)
{
    return kit_memd(64 * KIT_MIB, 0, LONG_MS);
}

/* Whatever was done to it, it serves those who mean well. */
static void expect_alive(struct memd *memd)
{
    static unsigned char bytes[4096];
    struct kit_client client = kit_client(memd, "good");

    cr_assert_eq(kit_lease(&client, 512), WEIR_OK);
    kit_stamp(bytes, 1, 1, 1);
    cr_assert_eq(kit_write(&client, 1, 1, bytes), WEIR_OK);
    cr_assert_eq(kit_read(&client, 1, 1, bytes), WEIR_OK);
    cr_expect(kit_is_stamped(bytes, 1, 1, 1));
    cr_assert_eq(kit_return(&client), WEIR_OK);
    kit_hang_up(&client);
}

/* As many connections as he is given, for whoever comes. */
static struct memd *serve_few(uint32_t connections)
{
    const char *const listen[] = {"tcp://127.0.0.1:0"};
    struct memd_options options = {.listen = listen,
                                   .listen_count = 1,
                                   .limits = {64 * KIT_MIB, 0, LONG_MS, 0},
                                   .room = {.connections = connections},
                                   .threads = 2};
    struct memd *memd = NULL;

    cr_assert_eq(kit_memd_with(&options, &memd), WEIR_OK, "%s", kit_log.text);
    return memd;
}

/* --- At the door ----------------------------------------------------------------------------- */

Test(memd_hostile, another_key_gets_nobody_in)
{
    struct memd *memd = serve();
    struct kit_client client;
    struct wr_key wrong = kit_key;
    uint8_t hello[WR_MESSAGE_BYTES + WR_HELLO_BYTES], proof[WR_MESSAGE_BYTES + WR_PROOF_BYTES];
    uint8_t challenge[WR_MESSAGE_BYTES + WR_CHALLENGE_BYTES];
    struct wr_handshake shake;
    struct wr_session session;
    uint64_t epoch;
    int fd;

    wrong.bytes[0] ^= 1;
    cr_expect_not(kit_shake(&client, kit_dial(memd), &wrong, "wrong"), "he notices himself");
    kit_hang_up(&client);
    cr_expect(kit_was_told("left without a proof of the key"));
    /* One that does not look. */
    fd = kit_dial(memd);
    wr_hello_say(&shake, &wrong, (const uint8_t *)"sixteen letters", "liar", hello);
    kit_send(fd, hello, sizeof(hello));
    cr_assert_eq(recv(fd, challenge, sizeof(challenge), MSG_WAITALL), (ssize_t)sizeof(challenge));
    cr_expect_eq(wr_challenge_hear(&shake, challenge, &epoch), WEIR_EDENIED);
    wr_proof_say(&shake, proof, &session);
    kit_send(fd, proof, sizeof(proof));
    cr_expect(kit_is_closed(fd));
    cr_expect(kit_was_told("liar at 127.0.0.1"));
    cr_expect(kit_was_told("it has another key"));
    cr_expect_eq(kit_gauges(memd).connections, 0);
    expect_alive(memd);
    memd_close(memd);
}

Test(memd_hostile, nothing_is_answered_before_the_proof)
{
    struct memd *memd = serve();
    uint8_t header[WR_MESSAGE_BYTES];
    static const uint8_t early[] = {WR_MESSAGE_LEASE, WR_MESSAGE_READ, WR_MESSAGE_RENEW,
                                    WR_MESSAGE_PROOF, WR_MESSAGE_ATTACH};

    for (size_t i = 0; i < sizeof(early); i++) {
        struct wr_message message = {.type = early[i], .pages = 1, .count = 512};
        char payload[64] = {0};
        int fd = kit_dial(memd);

        message.length = early[i] == WR_MESSAGE_PROOF ? 32 : early[i] == WR_MESSAGE_ATTACH ? 16 : 0;
        wr_message_put(&message, header);
        kit_send(fd, header, sizeof(header));
        kit_send(fd, payload, message.length);
        cr_expect(kit_is_closed(fd), "%s", wr_message_name(early[i]));
        close(fd);
    }
    cr_expect_eq(kit_gauges(memd).lent, 0);
    expect_alive(memd);
    memd_close(memd);
}

Test(memd_hostile, another_version_is_told_so)
{
    struct memd *memd = serve();
    uint8_t hello[WR_MESSAGE_BYTES + WR_HELLO_BYTES], header[WR_MESSAGE_BYTES];
    struct wr_handshake shake;
    struct wr_message answer;
    int fd = kit_dial(memd);

    wr_hello_say(&shake, &kit_key, (const uint8_t *)"sixteen letters", "later", hello);
    hello[WR_MESSAGE_BYTES] = 9, hello[WR_MESSAGE_BYTES + 2] = 9;
    kit_send(fd, hello, sizeof(hello));
    cr_assert_eq(recv(fd, header, sizeof(header), MSG_WAITALL), (ssize_t)sizeof(header));
    cr_assert(wr_message_parse(header, &answer));
    cr_expect_eq(answer.type, WR_MESSAGE_REFUSED);
    cr_expect_eq(-(int)answer.error, WEIR_ENOSUPPORT);
    cr_expect(kit_is_closed(fd));
    memd_close(memd);
}

Test(memd_hostile, garbage)
{
    struct memd *memd = serve();
    unsigned seed = 1;

    for (unsigned round = 0; round < 60; round++) {
        uint8_t bytes[512];
        int fd = kit_dial(memd);

        for (size_t i = 0; i < sizeof(bytes); i++)
            bytes[i] = (uint8_t)rand_r(&seed);
        /* Half of it begins well. */
        if (round % 2)
            memcpy(bytes, "WEIR\x01", 5);
        kit_send(fd, bytes, 1 + (size_t)rand_r(&seed) % sizeof(bytes));
        if (round % 3 == 0)
            shutdown(fd, SHUT_WR);
        if (round % 3 == 1)
            kit_send(fd, bytes, sizeof(bytes));
        cr_expect(round % 3 == 2 || kit_is_closed(fd), "round %u", round);
        close(fd);
    }
    cr_expect_lt(kit_lines(), 20, "strangers do not fill the log");
    expect_alive(memd);
    memd_close(memd);
}

#define SILENT 64

Test(memd_hostile, who_says_nothing_keeps_nobody_out)
{
    struct memd *memd = serve();
    int fds[SILENT];

    for (unsigned i = 0; i < SILENT; i++)
        fds[i] = kit_dial(memd);
    for (unsigned i = 0; i < 3; i++)
        expect_alive(memd);
    pause_ms(3600);
    for (unsigned i = 0; i < SILENT; i++) {
        cr_expect(kit_is_closed(fds[i]), "connection %u", i);
        close(fds[i]);
    }
    cr_expect_geq(kit_gauges(memd).unproven, SILENT);
    expect_alive(memd);
    memd_close(memd);
}

/* The server has no descriptor left for one who knocks: he waits until there is one. */
Test(memd_hostile, descriptors_run_out)
{
    struct memd *memd = serve();
    struct rlimit before, few;
    struct kit_client client;
    int fd = dup(STDIN_FILENO);

    cr_assert(fd >= 0);
    close(fd);
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = before;
    few.rlim_cur = (rlim_t)fd + 1;
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
    fd = kit_dial(memd);
    cr_expect(kit_was_told("raise ulimit -n"));
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    cr_expect(kit_shake(&client, fd, &kit_key, "patient"));
    expect_alive(memd);
    memd_close(memd);
}

/* --- Inside ---------------------------------------------------------------------------------- */

Test(memd_hostile, another_life_of_the_server)
{
    struct memd *memd = serve();
    struct kit_client client = kit_client(memd, "one");
    struct wr_message answer;

    cr_assert_eq(client.epoch, memd_epoch(memd));
    cr_assert_eq(kit_lease(&client, 512), WEIR_OK);
    client.epoch++;
    kit_say(&client, (struct wr_message){.type = WR_MESSAGE_READ, .id = 5, .pages = 1}, NULL);
    client.epoch--; /* the answer bears the server's */
    cr_assert(kit_hear(&client, &answer, NULL));
    cr_expect_eq(answer.type, WR_MESSAGE_REFUSED);
    cr_expect_eq(answer.id, 5);
    cr_expect_eq(-(int)answer.error, WEIR_ENOENT);
    cr_expect(kit_is_closed(client.fd));
    expect_alive(memd);
    memd_close(memd);
}

Test(memd_hostile, a_changed_message_ends_the_connection)
{
    struct memd *memd = serve();
    const struct wr_message renew = {.type = WR_MESSAGE_RENEW};

    for (unsigned way = 0; way < 3; way++) {
        struct kit_client client = kit_client(memd, "one");
        struct wr_session before;
        struct wr_message answer;

        cr_assert_eq(kit_lease(&client, 512), WEIR_OK);
        before = client.session;
        kit_say(&client, renew, NULL);
        cr_assert(kit_hear(&client, &answer, NULL));
        before.count_in = client.session.count_in;
        if (way == 0)
            client.session = before; /* the same once more */
        else if (way == 1)
            client.session.count_out++; /* one was left out */
        else
            client.session.key_out[0] ^= 1; /* somebody else */
        kit_say(&client, renew, NULL);
        cr_expect(kit_is_closed(client.fd), "way %u", way);
        kit_hang_up(&client);
    }
    cr_expect_eq(kit_gauges(memd).unsound, 3);
    expect_alive(memd);
    memd_close(memd);
}

/* A WRITE whose header is not of the client: not one byte of it may reach the lease. */
Test(memd_hostile, bytes_of_an_unsound_write_are_not_kept)
{
    static unsigned char bytes[64 * 4096];
    struct memd *memd = serve();
    struct kit_client client = kit_client(memd, "one"), again;

    cr_assert_eq(kit_lease(&client, 512), WEIR_OK);
    memset(bytes, 0x66, sizeof(bytes));
    client.session.key_out[5] ^= 1;
    kit_say(&client,
            (struct wr_message){.type = WR_MESSAGE_WRITE, .pages = 64, .length = sizeof(bytes)},
            bytes);
    cr_expect(kit_is_closed(client.fd));
    again = kit_client(memd, "one");
    cr_assert_eq(kit_attach(&again, &client), WEIR_OK);
    cr_assert_eq(kit_read(&again, 0, 64, bytes), WEIR_OK);
    cr_expect(kit_is_zero(bytes, sizeof(bytes)));
    memd_close(memd);
}

Test(memd_hostile, what_only_a_server_says)
{
    static const uint8_t types[] = {WR_MESSAGE_WELCOME,  WR_MESSAGE_LEASED, WR_MESSAGE_RETURNED,
                                    WR_MESSAGE_CONTENT,  WR_MESSAGE_HELLO,  WR_MESSAGE_WRITTEN,
                                    WR_MESSAGE_DISCARDED};
    static unsigned char payload[4096];
    struct memd *memd = serve();

    for (size_t i = 0; i < sizeof(types); i++) {
        struct kit_client client = kit_client(memd, "one");
        struct wr_message message = {.type = types[i], .pages = 1};

        message.length = types[i] == WR_MESSAGE_LEASED    ? 16
                         : types[i] == WR_MESSAGE_CONTENT ? 4096
                         : types[i] == WR_MESSAGE_HELLO   ? 96
                                                          : 0;
        kit_say(&client, message, payload);
        cr_expect(kit_is_closed(client.fd), "%s", wr_message_name(types[i]));
        kit_hang_up(&client);
    }
    expect_alive(memd);
    memd_close(memd);
}

Test(memd_hostile, half_a_message_and_then_silence)
{
    static unsigned char bytes[100 * 4096];
    struct memd *memd = kit_memd(64 * KIT_MIB, 0, 1500);
    struct kit_client header = kit_client(memd, "one"), body = kit_client(memd, "one");
    struct kit_client owner = kit_client(memd, "one"), idle = kit_client(memd, "two");
    uint8_t half[WR_MESSAGE_BYTES];
    const struct wr_message write = {
        .type = WR_MESSAGE_WRITE, .pages = 100, .length = sizeof(bytes), .epoch = body.epoch};

    cr_assert_eq(kit_lease(&owner, 512), WEIR_OK);
    cr_assert_eq(kit_attach(&header, &owner), WEIR_OK);
    cr_assert_eq(kit_attach(&body, &owner), WEIR_OK);
    wr_message_put(&write, half);
    kit_send(header.fd, half, 40);
    wr_session_seal(&body.session, half, NULL, 0);
    kit_send(body.fd, half, sizeof(half));
    kit_send(body.fd, bytes, sizeof(bytes) / 2);
    for (unsigned i = 0; i < 40; i++) {
        pause_ms(50);
        cr_assert_eq(kit_renew(&owner, NULL), WEIR_OK, "the lease is none the worse for it");
    }
    cr_expect(kit_is_closed(header.fd));
    cr_expect(kit_is_closed(body.fd));
    cr_expect(kit_is_closed(idle.fd), "who has no lease and says nothing");
    cr_expect(kit_was_told("in the midst of a message"));
    cr_expect_eq(kit_renew(&owner, NULL), WEIR_OK);
    memd_close(memd);
}

/* Asks for much and does not listen: the server keeps none of it, and serves the others. */
Test(memd_hostile, who_does_not_listen)
{
    struct memd *memd = serve();
    struct kit_client deaf = kit_client(memd, "deaf");

    cr_assert_eq(kit_lease(&deaf, 512), WEIR_OK);
    for (unsigned i = 0; i < 1000; i++)
        kit_say(&deaf, (struct wr_message){.type = WR_MESSAGE_READ, .id = i, .pages = 512}, NULL);
    for (unsigned i = 0; i < 20; i++)
        expect_alive(memd);
    kit_hang_up(&deaf);
    expect_alive(memd);
    memd_close(memd);
}

Test(memd_hostile, one_byte_at_a_time)
{
    static unsigned char bytes[4096];
    struct memd *memd = serve();
    struct kit_client client = kit_client(memd, "slow");
    struct wr_message message = {.type = WR_MESSAGE_WRITE,
                                 .id = 77,
                                 .slot = 9,
                                 .pages = 1,
                                 .length = 4096,
                                 .epoch = client.epoch};
    uint8_t header[WR_MESSAGE_BYTES];

    cr_assert_eq(kit_lease(&client, 512), WEIR_OK);
    kit_stamp(bytes, 9, 1, 1);
    wr_message_put(&message, header);
    wr_session_seal(&client.session, header, NULL, 0);
    for (size_t i = 0; i < sizeof(header); i++)
        kit_send(client.fd, header + i, 1);
    for (size_t i = 0; i < sizeof(bytes); i += 512)
        kit_send(client.fd, bytes + i, 512);
    cr_assert(kit_hear(&client, &message, NULL));
    cr_expect_eq(message.type, WR_MESSAGE_WRITTEN);
    cr_expect_eq(message.id, 77);
    cr_assert_eq(kit_read(&client, 9, 1, bytes), WEIR_OK);
    cr_expect(kit_is_stamped(bytes, 9, 1, 1));
    memd_close(memd);
}

/* --- Guests ---------------------------------------------------------------------------------- */

/* He was let in to take the place of a line that is dead. He has three seconds for that, whatever
 * else he says. */
Test(memd_hostile, a_guest_does_not_stay_by_talking)
{
    struct memd *memd = serve_few(2);
    struct kit_client owner = kit_client(memd, "one"), line = kit_client(memd, "one"), guest;
    unsigned passed_ms = 0;

    cr_assert_eq(kit_lease(&owner, 512), WEIR_OK);
    cr_assert_eq(kit_attach(&line, &owner), WEIR_OK);
    guest = kit_client(memd, "one");
    cr_expect_eq(kit_gauges(memd).connections, 2, "he is none of them");
    for (; passed_ms < 10000 && kit_renew(&guest, NULL) == WEIR_EINVAL; passed_ms += 500)
        pause_ms(500);
    cr_expect(passed_ms >= 2500 && passed_ms < 7000, "%u ms", passed_ms);
    cr_expect(kit_was_told("to take the place of another, and has not"));
    cr_expect_eq(kit_renew(&owner, NULL), WEIR_OK);
    cr_expect_eq(kit_renew(&line, NULL), WEIR_OK);
    cr_expect_eq(kit_gauges(memd).connections, 2);
    kit_hang_up(&guest);
    kit_hang_up(&line);
    kit_hang_up(&owner);
    memd_close(memd);
}

/* The line whose place he was to take ended before he could say so: it is room for him. */
Test(memd_hostile, a_guest_stays_where_there_is_room_by_now)
{
    struct memd *memd = serve_few(2);
    struct kit_client owner = kit_client(memd, "one"), line = kit_client(memd, "one"), guest;

    cr_assert_eq(kit_lease(&owner, 512), WEIR_OK);
    cr_assert_eq(kit_attach(&line, &owner), WEIR_OK);
    guest = kit_client(memd, "one");
    kit_hang_up(&line);
    for (int i = 0; i < 200 && kit_gauges(memd).connections > 1; i++)
        pause_ms(10);
    cr_expect_eq(kit_attach(&guest, &owner), WEIR_OK);
    cr_expect_eq(kit_gauges(memd).connections, 2);
    pause_ms(4000); /* longer than a guest may */
    cr_expect_eq(kit_renew(&guest, NULL), WEIR_OK);
    kit_hang_up(&guest);
    kit_hang_up(&owner);
    for (int i = 0; i < 200 && kit_gauges(memd).connections > 0; i++)
        pause_ms(10);
    cr_expect_eq(kit_gauges(memd).connections, 0);
    memd_close(memd);
}
