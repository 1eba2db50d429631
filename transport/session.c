/* SPDX-License-Identifier: MIT */
#include "transport/session.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VERSION    2u /* of the protocol above the header */
#define SEAL_BYTES (WR_MESSAGE_BYTES - WR_MESSAGE_SEAL)

/* Where the fields of a hello are. */
enum { AT_LOW = 0, AT_HIGH = 2, AT_PAGE = 4, AT_NONCE = 8, AT_CLIENT = 40, AT_LABEL = 56 };

_Static_assert(AT_LABEL + WR_LABEL_BYTES == WR_HELLO_BYTES, "a hello is full");
_Static_assert(sizeof(((struct wr_handshake *)0)->said) >=
                   3 * WR_MESSAGE_BYTES + WR_HELLO_BYTES + WR_CHALLENGE_BYTES,
               "what is proven is what was said before it");

/* What a hash stands for, so that none can be used for another. */
static const char SERVER[] = "weir server proves", CLIENT[] = "weir client proves",
                  KEYS[] = "weir session keys", FILE_KEY[] = "weir key in a file",
                  TOKEN[] = "weir queue pair";

bool wr_session_begin(void)
{
    return sodium_init() >= 0;
}

/* --- Keys ------------------------------------------------------------------------------------ */

static int read_all(int fd, uint8_t *bytes, size_t room, size_t *count_p)
{
    ssize_t got;

    *count_p = 0;
    while (*count_p < room && (got = read(fd, bytes + *count_p, room - *count_p)) != 0) {
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        *count_p += (size_t)got;
    }
    return 0;
}

static int read_open(int fd, struct wr_key *key_p, const char **why_p)
{
    uint8_t bytes[WR_KEY_FILE_MOST + 1];
    struct stat stat;
    size_t count;
    int error = WEIR_OK;

    if (fstat(fd, &stat) != 0 || !S_ISREG(stat.st_mode)) {
        *why_p = "it is not a file";
        return WEIR_EINVAL;
    }
    if (stat.st_mode & (S_IRWXG | S_IRWXO)) {
        *why_p = "others may read it: chmod 600";
        return WEIR_EDENIED;
    }
    if (read_all(fd, bytes, sizeof(bytes), &count) != 0) {
        *why_p = "it cannot be read";
        error = WEIR_EIO;
    } else if (count < WR_KEY_BYTES || count > WR_KEY_FILE_MOST) {
        *why_p = "a key has 32 to 2048 bytes: head -c 32 /dev/urandom > FILE makes one";
        error = WEIR_EINVAL;
    } else {
        crypto_generichash(key_p->bytes, sizeof(key_p->bytes), bytes, count,
                           (const uint8_t *)FILE_KEY, sizeof(FILE_KEY));
    }
    sodium_memzero(bytes, sizeof(bytes));
    return error;
}

int wr_key_read(const char *path, struct wr_key *key_p, const char **why_p)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY), error;

    if (fd < 0) {
        *why_p = errno == ENOENT ? "there is no such file" : "it cannot be opened";
        return errno == ENOENT ? WEIR_ENOENT : WEIR_EDENIED;
    }
    error = read_open(fd, key_p, why_p);
    close(fd);
    return error;
}

void wr_key_forget(struct wr_key *key)
{
    sodium_memzero(key, sizeof(*key));
}

void wr_key_make(struct wr_key *key_p)
{
    randombytes_buf(key_p->bytes, sizeof(key_p->bytes));
}

void wr_random(void *bytes, size_t count)
{
    randombytes_buf(bytes, count);
}

/* --- The handshake --------------------------------------------------------------------------- */

static void put_low(uint8_t *to, uint32_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

static uint32_t get_low(const uint8_t *from, unsigned bytes)
{
    uint32_t value = 0;

    for (unsigned i = 0; i < bytes; i++)
        value |= (uint32_t)from[i] << (8 * i);
    return value;
}

static void note_said(struct wr_handshake *shake, const uint8_t *bytes, size_t count)
{
    memcpy(shake->said + shake->said_bytes, bytes, count);
    shake->said_bytes += (uint32_t)count;
}

/* A keyed hash of all that was said, for one purpose. */
static void hash_said(const struct wr_handshake *shake, const char *purpose, uint8_t *hash,
                      size_t bytes)
{
    crypto_generichash_state state;

    crypto_generichash_init(&state, shake->key->bytes, WR_KEY_BYTES, bytes);
    crypto_generichash_update(&state, (const uint8_t *)purpose, strlen(purpose) + 1);
    crypto_generichash_update(&state, shake->said, shake->said_bytes);
    crypto_generichash_final(&state, hash, bytes);
    sodium_memzero(&state, sizeof(state));
}

static void make_session(const struct wr_handshake *shake, bool is_client,
                         struct wr_session *session_p)
{
    uint8_t keys[2 * WR_KEY_BYTES];

    hash_said(shake, KEYS, keys, sizeof(keys));
    *session_p = (struct wr_session){.count_out = 0};
    memcpy(session_p->key_out, keys + (is_client ? 0 : WR_KEY_BYTES), WR_KEY_BYTES);
    memcpy(session_p->key_in, keys + (is_client ? WR_KEY_BYTES : 0), WR_KEY_BYTES);
    sodium_memzero(keys, sizeof(keys));
}

static void put_header(uint8_t *to, enum wr_message_type type, uint32_t length, uint64_t epoch)
{
    const struct wr_message message = {.type = (uint8_t)type, .length = length, .epoch = epoch};

    wr_message_put(&message, to);
}

static bool is_of_type(const uint8_t *message, enum wr_message_type type, uint64_t *epoch_p)
{
    struct wr_message parsed;

    if (!wr_message_parse(message, &parsed) || parsed.type != type)
        return false;
    if (epoch_p)
        *epoch_p = parsed.epoch;
    return true;
}

void wr_hello_say(struct wr_handshake *shake, const struct wr_key *key,
                  const uint8_t client[WR_NAME_BYTES], const char *label,
                  uint8_t message[WR_MESSAGE_BYTES + WR_HELLO_BYTES])
{
    uint8_t *payload = message + WR_MESSAGE_BYTES;
    size_t length = strnlen(label, WR_LABEL_BYTES - 1);

    *shake = (struct wr_handshake){.key = key};
    put_header(message, WR_MESSAGE_HELLO, WR_HELLO_BYTES, 0);
    put_low(payload + AT_LOW, VERSION, 2);
    put_low(payload + AT_HIGH, VERSION, 2);
    put_low(payload + AT_PAGE, WEIR_SLOT_BYTES, 4);
    randombytes_buf(payload + AT_NONCE, WR_NONCE_BYTES);
    memcpy(payload + AT_CLIENT, client, WR_NAME_BYTES);
    memset(payload + AT_LABEL, 0, WR_LABEL_BYTES);
    memcpy(payload + AT_LABEL, label, length);
    note_said(shake, message, WR_MESSAGE_BYTES + WR_HELLO_BYTES);
}

static void parse_hello(const uint8_t *payload, struct wr_hello *hello_p)
{
    hello_p->version_low = (uint16_t)get_low(payload + AT_LOW, 2);
    hello_p->version_high = (uint16_t)get_low(payload + AT_HIGH, 2);
    hello_p->page_bytes = get_low(payload + AT_PAGE, 4);
    memcpy(hello_p->nonce, payload + AT_NONCE, WR_NONCE_BYTES);
    memcpy(hello_p->client, payload + AT_CLIENT, WR_NAME_BYTES);
    memcpy(hello_p->label, payload + AT_LABEL, WR_LABEL_BYTES);
    hello_p->label[WR_LABEL_BYTES - 1] = 0;
    /* It goes into a log: what is not text must not be taken for the log's own lines. */
    for (char *c = hello_p->label; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
}

int wr_hello_hear(struct wr_handshake *shake, const struct wr_key *key,
                  const uint8_t message[WR_MESSAGE_BYTES + WR_HELLO_BYTES])
{
    *shake = (struct wr_handshake){.key = key};
    if (!is_of_type(message, WR_MESSAGE_HELLO, NULL))
        return WEIR_EINVAL;
    parse_hello(message + WR_MESSAGE_BYTES, &shake->hello);
    if (shake->hello.version_low > VERSION || shake->hello.version_high < VERSION ||
        shake->hello.page_bytes != WEIR_SLOT_BYTES)
        return WEIR_ENOSUPPORT;
    note_said(shake, message, WR_MESSAGE_BYTES + WR_HELLO_BYTES);
    return WEIR_OK;
}

void wr_challenge_say(struct wr_handshake *shake, uint64_t epoch,
                      uint8_t message[WR_MESSAGE_BYTES + WR_CHALLENGE_BYTES])
{
    uint8_t *nonce = message + WR_MESSAGE_BYTES, *proof = nonce + WR_NONCE_BYTES;

    put_header(message, WR_MESSAGE_CHALLENGE, WR_CHALLENGE_BYTES, epoch);
    randombytes_buf(nonce, WR_NONCE_BYTES);
    note_said(shake, message, WR_MESSAGE_BYTES + WR_NONCE_BYTES);
    hash_said(shake, SERVER, proof, WR_PROOF_BYTES);
    note_said(shake, proof, WR_PROOF_BYTES);
}

int wr_challenge_hear(struct wr_handshake *shake,
                      const uint8_t message[WR_MESSAGE_BYTES + WR_CHALLENGE_BYTES],
                      uint64_t *epoch_p)
{
    const uint8_t *proof = message + WR_MESSAGE_BYTES + WR_NONCE_BYTES;
    uint8_t wanted[WR_PROOF_BYTES];

    if (!is_of_type(message, WR_MESSAGE_CHALLENGE, epoch_p))
        return WEIR_EINVAL;
    note_said(shake, message, WR_MESSAGE_BYTES + WR_NONCE_BYTES);
    hash_said(shake, SERVER, wanted, sizeof(wanted));
    if (sodium_memcmp(wanted, proof, sizeof(wanted)) != 0)
        return WEIR_EDENIED;
    note_said(shake, proof, WR_PROOF_BYTES);
    return WEIR_OK;
}

void wr_proof_say(struct wr_handshake *shake, uint8_t message[WR_MESSAGE_BYTES + WR_PROOF_BYTES],
                  struct wr_session *session_p)
{
    put_header(message, WR_MESSAGE_PROOF, WR_PROOF_BYTES, 0);
    note_said(shake, message, WR_MESSAGE_BYTES);
    hash_said(shake, CLIENT, message + WR_MESSAGE_BYTES, WR_PROOF_BYTES);
    make_session(shake, true, session_p);
}

int wr_proof_hear(struct wr_handshake *shake,
                  const uint8_t message[WR_MESSAGE_BYTES + WR_PROOF_BYTES],
                  struct wr_session *session_p)
{
    uint8_t wanted[WR_PROOF_BYTES];

    if (!is_of_type(message, WR_MESSAGE_PROOF, NULL))
        return WEIR_EINVAL;
    note_said(shake, message, WR_MESSAGE_BYTES);
    hash_said(shake, CLIENT, wanted, sizeof(wanted));
    if (sodium_memcmp(wanted, message + WR_MESSAGE_BYTES, sizeof(wanted)) != 0)
        return WEIR_EDENIED;
    make_session(shake, false, session_p);
    return WEIR_OK;
}

void wr_session_token(const struct wr_session *session, bool is_client,
                      uint8_t token[WR_TOKEN_BYTES])
{
    crypto_generichash(token, WR_TOKEN_BYTES, (const uint8_t *)TOKEN, sizeof(TOKEN),
                       is_client ? session->key_out : session->key_in, WR_KEY_BYTES);
}

/* --- Seals ----------------------------------------------------------------------------------- */

/* The key comes first, and all of it but a payload fits into one block of the hash: half the time
 * of the hash's own way to take a key, which is a block of its own. BLAKE2 allows that: from the
 * hash of something no hash of something longer can be made. */
static void hash_message(const uint8_t *key, uint64_t count, const uint8_t *header,
                         const void *payload, size_t bytes, uint8_t seal[SEAL_BYTES])
{
    crypto_generichash_state state;
    uint8_t block[WR_KEY_BYTES + 8 + WR_MESSAGE_SEAL];

    memcpy(block, key, WR_KEY_BYTES);
    put_low(block + WR_KEY_BYTES, (uint32_t)count, 4);
    put_low(block + WR_KEY_BYTES + 4, (uint32_t)(count >> 32), 4);
    memcpy(block + WR_KEY_BYTES + 8, header, WR_MESSAGE_SEAL);
    crypto_generichash_init(&state, NULL, 0, SEAL_BYTES);
    crypto_generichash_update(&state, block, sizeof(block));
    if (bytes)
        crypto_generichash_update(&state, payload, bytes);
    crypto_generichash_final(&state, seal, SEAL_BYTES);
    sodium_memzero(block, WR_KEY_BYTES);
}

void wr_session_seal(struct wr_session *session, uint8_t header[WR_MESSAGE_BYTES],
                     const void *payload, size_t bytes)
{
    hash_message(session->key_out, session->count_out++, header, payload, bytes,
                 header + WR_MESSAGE_SEAL);
}

bool wr_session_check(struct wr_session *session, const uint8_t header[WR_MESSAGE_BYTES],
                      const void *payload, size_t bytes)
{
    uint8_t wanted[SEAL_BYTES];

    hash_message(session->key_in, session->count_in++, header, payload, bytes, wanted);
    return sodium_memcmp(wanted, header + WR_MESSAGE_SEAL, SEAL_BYTES) == 0;
}
