/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Session: who is on the other end of a connection, and that nobody else speaks in his name.
 *
 *   key      the secret that both have: a file of 32 to 2048 bytes; the same for one cluster
 *   hello    client: a nonce, its name, the versions that it speaks
 *   proof    keyed hash over all that was said so far: first the server's, then the client's; so
 *            neither learns anything but that the other has the key
 *   seal     16 bytes in each header after that: keyed hash over a counter, the header, and the
 *            payload unless that is pages. What is left out, repeated or changed is noticed
 *
 * Always: nothing is lent, no address and no memory key is told before the client's proof was
 * checked; a proof is compared in constant time; a session's keys are of its two nonces, so that no
 * session can be played back. The content of pages is not hidden by this: that is what sealing
 * pages is for (docs/BACKENDS.md).
 *
 * Arithmetic only: no socket, no clock, no allocation. Sealing and checking may be done in a signal
 * handler.
 */

#include "transport/message.h"

#define WR_KEY_BYTES     32u
#define WR_KEY_FILE_MOST 2048u
#define WR_NONCE_BYTES   32u
#define WR_NAME_BYTES    16u /* of a client, of a lease: random */
#define WR_PROOF_BYTES   32u
#define WR_LABEL_BYTES   40u /* of a client, for the log: text ended by 0 */

struct wr_key {
    uint8_t bytes[WR_KEY_BYTES];
};

struct wr_session {
    uint8_t key_out[WR_KEY_BYTES], key_in[WR_KEY_BYTES];
    uint64_t count_out, count_in; /* messages so far */
};

struct wr_hello {
    uint16_t version_low, version_high; /* of the protocol */
    uint32_t page_bytes;
    uint8_t nonce[WR_NONCE_BYTES];
    uint8_t client[WR_NAME_BYTES];
    char label[WR_LABEL_BYTES];
};

/* A handshake in the making. */
struct wr_handshake {
    const struct wr_key *key;
    struct wr_hello hello;
    /* All that was said, in the order in which it was. */
    uint8_t said[3 * WR_MESSAGE_BYTES + 96 + 64];
    uint32_t said_bytes;
};

#define WR_HELLO_BYTES     96u
#define WR_CHALLENGE_BYTES (WR_NONCE_BYTES + WR_PROOF_BYTES)

/* Once before all else; any thread. False: the system has no random numbers for us. */
bool wr_session_begin(void);

/* Read a key from a file that only its owner can read. WEIR_OK, or an error that *why_p says in
 * words (constant text). Never in a signal handler. */
int wr_key_read(const char *path, struct wr_key *key_p, const char **why_p);
void wr_key_forget(struct wr_key *key);
/* A key of random bytes, for who makes one. */
void wr_key_make(struct wr_key *key_p);
void wr_random(void *bytes, size_t count);

/* Client: say hello. Writes header and payload. */
void wr_hello_say(struct wr_handshake *shake, const struct wr_key *key,
                  const uint8_t client[WR_NAME_BYTES], const char *label,
                  uint8_t message[WR_MESSAGE_BYTES + WR_HELLO_BYTES]);
/* Server: hear it. WEIR_OK; WEIR_EINVAL: it is none; WEIR_ENOSUPPORT: another version or page. */
int wr_hello_hear(struct wr_handshake *shake, const struct wr_key *key,
                  const uint8_t message[WR_MESSAGE_BYTES + WR_HELLO_BYTES]);
/* Server: prove itself. */
void wr_challenge_say(struct wr_handshake *shake, uint64_t epoch,
                      uint8_t message[WR_MESSAGE_BYTES + WR_CHALLENGE_BYTES]);
/* Client: is it who has the key? WEIR_EDENIED: no. */
int wr_challenge_hear(struct wr_handshake *shake,
                      const uint8_t message[WR_MESSAGE_BYTES + WR_CHALLENGE_BYTES],
                      uint64_t *epoch_p);
/* Client: prove itself; the session stands on its side. */
void wr_proof_say(struct wr_handshake *shake, uint8_t message[WR_MESSAGE_BYTES + WR_PROOF_BYTES],
                  struct wr_session *session_p);
/* Server: likewise. WEIR_EDENIED: it has not the key. */
int wr_proof_hear(struct wr_handshake *shake,
                  const uint8_t message[WR_MESSAGE_BYTES + WR_PROOF_BYTES],
                  struct wr_session *session_p);

/* What only the two ends of this session know, and can show once where it is not sealed: whose a
 * queue pair is. The same on both sides. */
#define WR_TOKEN_BYTES 16u
void wr_session_token(const struct wr_session *session, bool is_client,
                      uint8_t token[WR_TOKEN_BYTES]);

/* The next message that goes out; payload: of messages that have one and are not pages. Signal. */
void wr_session_seal(struct wr_session *session, uint8_t header[WR_MESSAGE_BYTES],
                     const void *payload, size_t bytes);
/* The next that came in: is it from the other end, unchanged, and the next? Signal. */
bool wr_session_check(struct wr_session *session, const uint8_t header[WR_MESSAGE_BYTES],
                      const void *payload, size_t bytes);
