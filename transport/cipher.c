/* SPDX-License-Identifier: MIT */
#include "transport/cipher.h"

#include <sodium.h>
#include <string.h>
#include <sys/mman.h>

#include <weir/weir_backend.h>

#define PAGE_BYTES 4096u /* of memory, not of slots */

struct wr_cipher {
    crypto_aead_aes256gcm_state aes;
    uint8_t key[32]; /* of the other kind; zeros else */
    enum wr_cipher_kind kind;
    bool is_locked;
};

_Static_assert(sizeof(struct wr_cipher) % 16 == 0, "sodium_malloc() aligns the end, AES the start");
_Static_assert(crypto_aead_aes256gcm_KEYBYTES == 32 &&
                   crypto_aead_chacha20poly1305_ietf_KEYBYTES == 32,
               "one length of key");
_Static_assert(crypto_aead_aes256gcm_ABYTES == WR_TAG_BYTES &&
                   crypto_aead_chacha20poly1305_ietf_ABYTES == WR_TAG_BYTES,
               "one length of tag");

/* Both kinds take a nonce of 12 bytes: the version, and zeros. */
struct nonce {
    uint8_t bytes[12];
};
_Static_assert(sizeof(struct nonce) == crypto_aead_aes256gcm_NPUBBYTES &&
                   sizeof(struct nonce) == crypto_aead_chacha20poly1305_ietf_NPUBBYTES,
               "one length of nonce");

static struct nonce nonce_of(uint64_t version)
{
    struct nonce nonce = {{0}};

    memcpy(nonce.bytes, &version, sizeof(version));
    return nonce;
}

bool wr_cipher_is_here(enum wr_cipher_kind kind)
{
    return sodium_init() >= 0 &&
           (kind != WR_CIPHER_AES256_GCM || crypto_aead_aes256gcm_is_available());
}

static void draw_key(struct wr_cipher *cipher)
{
    randombytes_buf(cipher->key, sizeof(cipher->key));
    if (cipher->kind != WR_CIPHER_AES256_GCM)
        return;
    crypto_aead_aes256gcm_beforenm(&cipher->aes, cipher->key);
    sodium_memzero(cipher->key, sizeof(cipher->key));
}

int wr_cipher_open(enum wr_cipher_kind kind, struct wr_cipher **cipher_p)
{
    struct wr_cipher *cipher;

    if (sodium_init() < 0)
        return WEIR_ENOMEM;
    if (!wr_cipher_is_here(kind))
        return WEIR_ENOSUPPORT;
    cipher = sodium_malloc(sizeof(*cipher));
    if (!cipher)
        return WEIR_ENOMEM;
    memset(cipher, 0, sizeof(*cipher));
    cipher->kind = kind;
    /* It has tried that already, but does not say whether it could. */
    cipher->is_locked = sodium_mlock(cipher, sizeof(*cipher)) == 0;
    /* A child would go on with the same versions. */
    madvise((void *)((uintptr_t)cipher & ~(uintptr_t)(PAGE_BYTES - 1)), PAGE_BYTES, MADV_DONTFORK);
    draw_key(cipher);
    *cipher_p = cipher;
    return WEIR_OK;
}

void wr_cipher_close(struct wr_cipher *cipher)
{
    sodium_free(cipher); /* which wipes it */
}

const char *wr_cipher_name(const struct wr_cipher *cipher)
{
    return cipher->kind == WR_CIPHER_AES256_GCM ? "AES-256-GCM" : "ChaCha20-Poly1305";
}

bool wr_cipher_is_locked(const struct wr_cipher *cipher)
{
    return cipher->is_locked;
}

void wr_cipher_seal(const struct wr_cipher *cipher, uint64_t slot, uint64_t version,
                    const void *plain, void *sealed, uint8_t tag_p[WR_TAG_BYTES])
{
    const struct nonce nonce = nonce_of(version);
    const uint8_t *bound = (const uint8_t *)&slot;

    if (cipher->kind == WR_CIPHER_AES256_GCM)
        crypto_aead_aes256gcm_encrypt_detached_afternm(sealed, tag_p, NULL, plain, WEIR_SLOT_BYTES,
                                                       bound, sizeof(slot), NULL, nonce.bytes,
                                                       &cipher->aes);
    else
        crypto_aead_chacha20poly1305_ietf_encrypt_detached(sealed, tag_p, NULL, plain,
                                                           WEIR_SLOT_BYTES, bound, sizeof(slot),
                                                           NULL, nonce.bytes, cipher->key);
}

bool wr_cipher_unseal(const struct wr_cipher *cipher, uint64_t slot, uint64_t version, void *bytes,
                      const uint8_t tag[WR_TAG_BYTES])
{
    const struct nonce nonce = nonce_of(version);
    const uint8_t *bound = (const uint8_t *)&slot;
    int error;

    if (cipher->kind == WR_CIPHER_AES256_GCM)
        error = crypto_aead_aes256gcm_decrypt_detached_afternm(bytes, NULL, bytes, WEIR_SLOT_BYTES,
                                                               tag, bound, sizeof(slot),
                                                               nonce.bytes, &cipher->aes);
    else
        error = crypto_aead_chacha20poly1305_ietf_decrypt_detached(
            bytes, NULL, bytes, WEIR_SLOT_BYTES, tag, bound, sizeof(slot), nonce.bytes,
            cipher->key);
    return error == 0;
}
