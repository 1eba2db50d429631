/* SPDX-License-Identifier: MIT */
#include "transport/session.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint8_t name[WR_NAME_BYTES] = "a client's name";

/* Two ends, and what goes between them. */
struct pair {
    struct wr_key client_key, server_key;
    struct wr_handshake client, server;
    struct wr_session client_session, server_session;
    uint8_t hello[WR_MESSAGE_BYTES + WR_HELLO_BYTES];
    uint8_t challenge[WR_MESSAGE_BYTES + WR_CHALLENGE_BYTES];
    uint8_t proof[WR_MESSAGE_BYTES + WR_PROOF_BYTES];
    uint64_t epoch;
};

static void begin(struct pair *pair)
{
    cr_assert(wr_session_begin());
    memset(pair, 0, sizeof(*pair));
    wr_key_make(&pair->client_key);
    pair->server_key = pair->client_key;
}

static void hello(struct pair *pair)
{
    wr_hello_say(&pair->client, &pair->client_key, name, "one", pair->hello);
}

/* Up to where the first end says no. */
static int shake(struct pair *pair)
{
    int error;

    hello(pair);
    error = wr_hello_hear(&pair->server, &pair->server_key, pair->hello);
    if (error)
        return error;
    wr_challenge_say(&pair->server, 0x1122334455667788, pair->challenge);
    error = wr_challenge_hear(&pair->client, pair->challenge, &pair->epoch);
    if (error)
        return error;
    wr_proof_say(&pair->client, pair->proof, &pair->client_session);
    return wr_proof_hear(&pair->server, pair->proof, &pair->server_session);
}

Test(session, who_has_the_key_gets_in)
{
    struct pair pair;

    begin(&pair);
    cr_assert_eq(shake(&pair), WEIR_OK);
    cr_expect_eq(pair.epoch, 0x1122334455667788);
    cr_expect_arr_eq(pair.server.hello.client, name, WR_NAME_BYTES);
    cr_expect_str_eq(pair.server.hello.label, "one");
    cr_expect_arr_eq(pair.client_session.key_out, pair.server_session.key_in, WR_KEY_BYTES);
    cr_expect_arr_eq(pair.client_session.key_in, pair.server_session.key_out, WR_KEY_BYTES);
    cr_expect_arr_neq(pair.client_session.key_in, pair.client_session.key_out, WR_KEY_BYTES);
}

Test(session, another_key_is_noticed_at_both_ends)
{
    struct pair pair;

    begin(&pair);
    pair.server_key.bytes[31] ^= 1;
    cr_expect_eq(shake(&pair), WEIR_EDENIED, "the client notices first");
    /* A client that does not care. */
    wr_proof_say(&pair.client, pair.proof, &pair.client_session);
    cr_expect_eq(wr_proof_hear(&pair.server, pair.proof, &pair.server_session), WEIR_EDENIED);
}

Test(session, every_byte_of_the_handshake_counts)
{
    struct pair good, pair;

    begin(&good);
    hello(&good);
    for (size_t i = 0; i < sizeof(good.hello); i++) {
        pair = good;
        pair.hello[i] ^= 1;
        if (wr_hello_hear(&pair.server, &pair.server_key, pair.hello) != WEIR_OK)
            continue;
        wr_challenge_say(&pair.server, 7, pair.challenge);
        cr_expect_eq(wr_challenge_hear(&pair.client, pair.challenge, &pair.epoch), WEIR_EDENIED,
                     "byte %zu of the hello", i);
    }
    good.server.key = &good.server_key;
    cr_assert_eq(wr_hello_hear(&good.server, &good.server_key, good.hello), WEIR_OK);
    wr_challenge_say(&good.server, 7, good.challenge);
    for (size_t i = 0; i < sizeof(good.challenge); i++) {
        pair = good;
        pair.challenge[i] ^= 1;
        cr_expect_neq(wr_challenge_hear(&pair.client, pair.challenge, &pair.epoch), WEIR_OK,
                      "byte %zu of the challenge", i);
    }
    cr_assert_eq(wr_challenge_hear(&good.client, good.challenge, &good.epoch), WEIR_OK);
    wr_proof_say(&good.client, good.proof, &good.client_session);
    for (size_t i = 0; i < sizeof(good.proof); i++) {
        pair = good;
        pair.proof[i] ^= 1;
        cr_expect_neq(wr_proof_hear(&pair.server, pair.proof, &pair.server_session), WEIR_OK,
                      "byte %zu of the proof", i);
    }
    cr_expect_eq(wr_proof_hear(&good.server, good.proof, &good.server_session), WEIR_OK);
}

Test(session, an_old_handshake_cannot_be_played_back)
{
    struct pair old, pair;

    begin(&old);
    cr_assert_eq(shake(&old), WEIR_OK);
    pair = old;
    /* To the server: his hello and proof of then. */
    cr_assert_eq(wr_hello_hear(&pair.server, &pair.server_key, old.hello), WEIR_OK);
    wr_challenge_say(&pair.server, 7, pair.challenge);
    cr_expect_eq(wr_proof_hear(&pair.server, old.proof, &pair.server_session), WEIR_EDENIED);
    /* To the client: the challenge of then. */
    hello(&pair);
    cr_expect_eq(wr_challenge_hear(&pair.client, old.challenge, &pair.epoch), WEIR_EDENIED);
    /* The server's own proof is none of a client. */
    cr_assert_eq(wr_hello_hear(&pair.server, &pair.server_key, pair.hello), WEIR_OK);
    wr_challenge_say(&pair.server, 7, pair.challenge);
    memcpy(pair.proof + WR_MESSAGE_BYTES, pair.challenge + WR_MESSAGE_BYTES + WR_NONCE_BYTES,
           WR_PROOF_BYTES);
    cr_expect_eq(wr_proof_hear(&pair.server, pair.proof, &pair.server_session), WEIR_EDENIED);
}

Test(session, another_version_or_page_is_told)
{
    struct pair pair;
    uint8_t *payload = pair.hello + WR_MESSAGE_BYTES;

    begin(&pair);
    hello(&pair);
    payload[0] = 3, payload[2] = 4; /* from 3 to 4 */
    cr_expect_eq(wr_hello_hear(&pair.server, &pair.server_key, pair.hello), WEIR_ENOSUPPORT);
    payload[0] = payload[2] = 1; /* only 1 */
    cr_expect_eq(wr_hello_hear(&pair.server, &pair.server_key, pair.hello), WEIR_ENOSUPPORT);
    payload[2] = 3; /* from 1 to 3: we have that */
    cr_expect_eq(wr_hello_hear(&pair.server, &pair.server_key, pair.hello), WEIR_OK);
    payload[5] = 0x40; /* pages of 16 KiB */
    cr_expect_eq(wr_hello_hear(&pair.server, &pair.server_key, pair.hello), WEIR_ENOSUPPORT);
}

Test(session, a_label_is_text_for_a_log)
{
    struct pair pair;

    begin(&pair);
    wr_hello_say(&pair.client, &pair.client_key, name, "a\nb\x1b[31m\xff", pair.hello);
    cr_assert_eq(wr_hello_hear(&pair.server, &pair.server_key, pair.hello), WEIR_OK);
    cr_expect_str_eq(pair.server.hello.label, "a?b?[31m?");
    memset(pair.hello + WR_MESSAGE_BYTES + WR_HELLO_BYTES - WR_LABEL_BYTES, 'x', WR_LABEL_BYTES);
    cr_assert_eq(wr_hello_hear(&pair.server, &pair.server_key, pair.hello), WEIR_OK);
    cr_expect_eq(strlen(pair.server.hello.label), WR_LABEL_BYTES - 1, "it ends");
    wr_hello_say(&pair.client, &pair.client_key, name,
                 "a label that has very many more characters than there is room", pair.hello);
    cr_assert_eq(wr_hello_hear(&pair.server, &pair.server_key, pair.hello), WEIR_OK);
    cr_expect_eq(strlen(pair.server.hello.label), WR_LABEL_BYTES - 1);
}

/* --- Seals ----------------------------------------------------------------------------------- */

static void put(struct pair *pair, uint64_t id, uint8_t header[WR_MESSAGE_BYTES])
{
    const struct wr_message message = {.type = WR_MESSAGE_RENEW, .id = id};

    wr_message_put(&message, header);
    wr_session_seal(&pair->client_session, header, NULL, 0);
}

Test(session, messages_in_order_are_sound)
{
    struct pair pair;
    uint8_t header[WR_MESSAGE_BYTES];

    begin(&pair);
    cr_assert_eq(shake(&pair), WEIR_OK);
    for (uint64_t id = 0; id < 100; id++) {
        put(&pair, id, header);
        cr_assert(wr_session_check(&pair.server_session, header, NULL, 0), "%u", (unsigned)id);
    }
}

Test(session, every_bit_of_a_header_is_sealed)
{
    struct pair pair;
    uint8_t header[WR_MESSAGE_BYTES];

    begin(&pair);
    cr_assert_eq(shake(&pair), WEIR_OK);
    put(&pair, 1, header);
    for (unsigned bit = 0; bit < 8 * WR_MESSAGE_BYTES; bit++) {
        struct wr_session session = pair.server_session;

        header[bit / 8] ^= (uint8_t)(1u << bit % 8);
        cr_expect_not(wr_session_check(&session, header, NULL, 0), "bit %u", bit);
        header[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    cr_expect(wr_session_check(&pair.server_session, header, NULL, 0));
}

Test(session, a_payload_is_sealed)
{
    const struct wr_message message = {.type = WR_MESSAGE_ATTACH, .length = WR_NAME_BYTES};
    struct pair pair;
    struct wr_session session;
    uint8_t header[WR_MESSAGE_BYTES], payload[WR_NAME_BYTES] = "the lease's name";

    begin(&pair);
    cr_assert_eq(shake(&pair), WEIR_OK);
    wr_message_put(&message, header);
    wr_session_seal(&pair.client_session, header, payload, sizeof(payload));
    for (size_t i = 0; i < sizeof(payload); i++) {
        session = pair.server_session;
        payload[i] ^= 0x80;
        cr_expect_not(wr_session_check(&session, header, payload, sizeof(payload)), "byte %zu", i);
        payload[i] ^= 0x80;
    }
    session = pair.server_session;
    cr_expect_not(wr_session_check(&session, header, NULL, 0), "without it");
    cr_expect(wr_session_check(&pair.server_session, header, payload, sizeof(payload)));
}

Test(session, left_out_repeated_or_exchanged_is_noticed)
{
    struct pair pair;
    struct wr_session session;
    uint8_t first[WR_MESSAGE_BYTES], second[WR_MESSAGE_BYTES];

    begin(&pair);
    cr_assert_eq(shake(&pair), WEIR_OK);
    put(&pair, 1, first);
    put(&pair, 2, second);
    session = pair.server_session;
    cr_expect_not(wr_session_check(&session, second, NULL, 0), "the first was left out");
    cr_assert(wr_session_check(&pair.server_session, first, NULL, 0));
    session = pair.server_session;
    cr_expect_not(wr_session_check(&session, first, NULL, 0), "the first once more");
    session = pair.client_session;
    cr_expect_not(wr_session_check(&session, second, NULL, 0), "back to who said it");
    cr_expect(wr_session_check(&pair.server_session, second, NULL, 0));
}

Test(session, a_message_of_another_session_is_noticed)
{
    struct pair one, other;
    uint8_t header[WR_MESSAGE_BYTES];

    begin(&one);
    cr_assert_eq(shake(&one), WEIR_OK);
    other = one;
    cr_assert_eq(shake(&other), WEIR_OK);
    put(&one, 1, header);
    cr_expect_not(wr_session_check(&other.server_session, header, NULL, 0));
}

/* --- Keys ------------------------------------------------------------------------------------ */

/* Read a key from a file of so many bytes with this mode. */
static int read_file(size_t bytes, mode_t mode, struct wr_key *key_p, const char **why_p)
{
    char path[] = "/tmp/weir-key-XXXXXX", content[WR_KEY_FILE_MOST + 2];
    int fd = mkstemp(path), error;

    cr_assert(fd >= 0);
    memset(content, 'k', sizeof(content));
    cr_assert_eq(write(fd, content, bytes), (ssize_t)bytes);
    cr_assert_eq(fchmod(fd, mode), 0);
    close(fd);
    error = wr_key_read(path, key_p, why_p);
    unlink(path);
    return error;
}

Test(session, key_files)
{
    struct wr_key one, other;
    const char *why = NULL;

    cr_assert(wr_session_begin());
    cr_expect_eq(read_file(31, 0600, &one, &why), WEIR_EINVAL);
    cr_expect(strstr(why, "32 to 2048"), "%s", why);
    cr_expect_eq(read_file(2049, 0600, &one, &why), WEIR_EINVAL);
    cr_expect_eq(read_file(32, 0640, &one, &why), WEIR_EDENIED);
    cr_expect(strstr(why, "chmod 600"), "%s", why);
    cr_expect_eq(read_file(32, 0604, &one, &why), WEIR_EDENIED);
    cr_expect_eq(wr_key_read("/nowhere/key", &one, &why), WEIR_ENOENT);
    cr_expect_eq(wr_key_read("/dev/zero", &one, &why), WEIR_EINVAL);
    cr_expect_eq(wr_key_read("/tmp", &one, &why), WEIR_EINVAL);
    cr_assert_eq(read_file(32, 0600, &one, &why), WEIR_OK);
    cr_assert_eq(read_file(32, 0400, &other, &why), WEIR_OK);
    cr_expect_arr_eq(one.bytes, other.bytes, WR_KEY_BYTES, "the same bytes are the same key");
    cr_assert_eq(read_file(33, 0600, &other, &why), WEIR_OK);
    cr_expect_arr_neq(one.bytes, other.bytes, WR_KEY_BYTES);
    cr_assert_eq(read_file(2048, 0600, &other, &why), WEIR_OK);
}

Test(session, a_key_that_is_forgotten_is_gone)
{
    const struct wr_key none = {{0}};
    struct wr_key key;

    cr_assert(wr_session_begin());
    wr_key_make(&key);
    cr_expect_arr_neq(key.bytes, none.bytes, WR_KEY_BYTES);
    wr_key_forget(&key);
    cr_expect_arr_eq(key.bytes, none.bytes, WR_KEY_BYTES);
}
