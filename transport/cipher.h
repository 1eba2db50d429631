/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Cipher: one page, encrypted and authenticated (AEAD) by libsodium under a key that is drawn here.
 *
 *   key      random, drawn at open; in memory that is locked, not dumped and not inherited by a
 *            child, as far as the system allows that; never stored, wiped at close
 *   version  the number of a sealing. It is the nonce: whoever seals twice with one version gives
 *            both pages away
 *   tag      what a sealed page is recognised by: only that page, of that slot and version, has it
 *
 * Always: sealed bytes are as many as plain ones; the tag is kept elsewhere.
 */

#include <stdbool.h>
#include <stdint.h>

#define WR_TAG_BYTES 16u

enum wr_cipher_kind {
    WR_CIPHER_AES256_GCM,       /* processors that have instructions for it                     */
    WR_CIPHER_CHACHA20_POLY1305 /* all. A counter needs no longer nonce, as XChaCha's is        */
};

struct wr_cipher;

/* Does this processor have what it takes? */
bool wr_cipher_is_here(enum wr_cipher_kind kind);

/* WEIR_ENOSUPPORT: not on this processor. WEIR_ENOMEM: no memory, or no random numbers. */
int wr_cipher_open(enum wr_cipher_kind kind, struct wr_cipher **cipher_p);
void wr_cipher_close(struct wr_cipher *cipher);

/* "AES-256-GCM". */
const char *wr_cipher_name(const struct wr_cipher *cipher);
/* Is the key kept out of swap? The system limits how much may be (RLIMIT_MEMLOCK). */
bool wr_cipher_is_locked(const struct wr_cipher *cipher);

/* Seal the page at plain into sealed, elsewhere. Any thread, signal. */
void wr_cipher_seal(const struct wr_cipher *cipher, uint64_t slot, uint64_t version,
                    const void *plain, void *sealed, uint8_t tag_p[WR_TAG_BYTES]);

/* Make it plain where it lies. False: it is not what was sealed under these, and the page is zeros
 * now. Any thread, signal. */
bool wr_cipher_unseal(const struct wr_cipher *cipher, uint64_t slot, uint64_t version, void *bytes,
                      const uint8_t tag[WR_TAG_BYTES]);
