/* SPDX-License-Identifier: MIT */
#include "transport/seal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "transport/request.h"
#include "transport/tell.h"

#define MEMORY_PAGE 4096u

static struct wr_seal *seal_of(struct weir_backend *backend)
{
    return (struct wr_seal *)backend;
}

/* --- Reading --------------------------------------------------------------------------------- */

int wr_seal_unseal(struct wr_seal *seal, uint64_t slot, uint32_t pages, void *bytes)
{
    const struct wr_record *records = &seal->records[slot];
    char *page = bytes;
    int error = WEIR_OK;

    for (uint32_t i = 0; i < pages; i++, page += WEIR_SLOT_BYTES) {
        if (records[i].version == 0) {
            memset(page, 0, WEIR_SLOT_BYTES);
        } else if (!wr_cipher_unseal(seal->cipher, slot + i, records[i].version, page,
                                     records[i].tag)) {
            wr_seal_found(&seal->teller, slot + i);
            error = WEIR_EIO;
        }
    }
    return error;
}

static int seal_read(struct weir_backend *backend, uint64_t slot, uint32_t pages, void *bytes)
{
    struct wr_seal *seal = seal_of(backend);
    int error;

    if (!wr_request_is_inside(seal->info.slots, slot, pages))
        return WEIR_EINVAL;
    error = seal->inner->ops->read(seal->inner, slot, pages, bytes);
    return error ? error : wr_seal_unseal(seal, slot, pages, bytes);
}

static int seal_reread(struct weir_backend *backend, uint64_t slot, uint32_t attempt, void *bytes)
{
    struct wr_seal *seal = seal_of(backend);
    const struct weir_backend_ops *ops = seal->inner->ops;
    int error = WEIR_ENOENT;

    if (ops->abi >= 2 && ops->reread)
        error = ops->reread(seal->inner, slot, attempt, bytes);
    return error ? error : wr_seal_unseal(seal, slot, 1, bytes);
}

/* --- Discarding ------------------------------------------------------------------------------ */

/* Whole pages of records go back to the system; those at the edges are cleared one by one. */
static void forget(struct wr_seal *seal, uint64_t slot, uint64_t count)
{
    char *start = (char *)&seal->records[slot], *end = (char *)&seal->records[slot + count];
    char *first = (char *)(((uintptr_t)start + MEMORY_PAGE - 1) & ~(uintptr_t)(MEMORY_PAGE - 1));
    char *last = (char *)((uintptr_t)end & ~(uintptr_t)(MEMORY_PAGE - 1));

    if (first >= last) {
        memset(start, 0, (size_t)(end - start));
        return;
    }
    memset(start, 0, (size_t)(first - start));
    memset(last, 0, (size_t)(end - last));
    if (madvise(first, (size_t)(last - first), MADV_DONTNEED) != 0)
        memset(first, 0, (size_t)(last - first));
}

static int seal_discard(struct weir_backend *backend, uint64_t slot, uint64_t count)
{
    struct wr_seal *seal = seal_of(backend);

    if (slot > seal->info.slots || count > seal->info.slots - slot)
        return WEIR_EINVAL;
    if (count > 0)
        forget(seal, slot, count);
    return seal->inner->ops->discard ? seal->inner->ops->discard(seal->inner, slot, count)
                                     : WEIR_OK;
}

static int seal_extend(struct weir_backend *backend, const char *spec, uint32_t may)
{
    struct weir_backend *inner = seal_of(backend)->inner;

    /* Nothing leaves plain. And whoever uses us has known all along that he is looked at. */
    may |= WEIR_BACKEND_REMOTE | WEIR_BACKEND_SEALED;
    return inner->ops->abi >= 2 && inner->ops->extend ? inner->ops->extend(inner, spec, may)
                                                      : WEIR_ENOSUPPORT;
}

static int seal_retire(struct weir_backend *backend, const char *spec)
{
    struct weir_backend *inner = seal_of(backend)->inner;

    return inner->ops->abi >= 2 && inner->ops->retire ? inner->ops->retire(inner, spec)
                                                      : WEIR_ENOSUPPORT;
}

/* --- Life ------------------------------------------------------------------------------------ */

static void seal_describe(struct weir_backend *backend, struct weir_backend_info *info_p)
{
    *info_p = seal_of(backend)->info;
}

static int map_records(struct wr_seal *seal, const struct weir_backend_env *env)
{
    const uint64_t bytes = seal->info.slots * sizeof(struct wr_record);
    void *records = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (records == MAP_FAILED)
        return wr_tell_errno(env, errno,
                             "seal: cannot reserve %llu bytes of addresses for tags; ask for a "
                             "smaller size",
                             (unsigned long long)bytes);
    madvise(records, bytes, MADV_DONTFORK);
    madvise(records, bytes, MADV_DONTDUMP);
    madvise(records, bytes, MADV_NOHUGEPAGE);
    seal->records = records;
    return WEIR_OK;
}

static int open_cipher(struct wr_seal *seal, enum wr_seal_wish wish,
                       const struct weir_backend_env *env)
{
    enum wr_cipher_kind kind = wish == WR_SEAL_CHACHA ? WR_CIPHER_CHACHA20_POLY1305
                                                      : WR_CIPHER_AES256_GCM;
    int error = wr_cipher_open(kind, &seal->cipher);

    if (error == WEIR_ENOSUPPORT && wish != WR_SEAL_AES)
        error = wr_cipher_open(WR_CIPHER_CHACHA20_POLY1305, &seal->cipher);
    if (error == WEIR_ENOSUPPORT)
        wr_tell(env, WEIR_FAILURE, error, 0,
                "seal: this processor has no instructions for AES; seal=on takes another cipher");
    else if (error)
        wr_tell(env, WEIR_FAILURE, error, 0, "seal: out of memory, or no random numbers");
    else if (!wr_cipher_is_locked(seal->cipher))
        wr_tell(env, WEIR_NOTE, WEIR_EDENIED, 0,
                "seal: the key could not be locked in memory and may get into this machine's "
                "swap; raise `ulimit -l`");
    return error;
}

static void describe_inner(struct wr_seal *seal)
{
    char how[sizeof(seal->info.how)];

    seal->inner->ops->describe(seal->inner, &seal->info);
    memcpy(how, seal->info.how, sizeof(how));
    snprintf(seal->info.how, sizeof(seal->info.how), "%.60s, sealed with %s", how,
             wr_cipher_name(seal->cipher));
    seal->info.flags &= ~(uint32_t)(WEIR_BACKEND_REMOTE | WEIR_BACKEND_VOLATILE);
    seal->info.flags |= WEIR_BACKEND_SEALED;
    seal->info.slot_cost += sizeof(struct wr_record);
}

static void seal_close(struct weir_backend *backend)
{
    struct wr_seal *seal = seal_of(backend);

    seal->inner->ops->close(seal->inner);
    wr_seal_teller_close(&seal->teller);
    munmap(seal->records, seal->info.slots * sizeof(struct wr_record));
    wr_cipher_close(seal->cipher);
    free(seal);
}

/* Not a kind by which anybody opens one: an option of all. */
static const struct weir_backend_ops seal_ops = {
    .abi = WEIR_BACKEND_ABI,
    .name = "seal",
    .close = seal_close,
    .describe = seal_describe,
    .read = seal_read,
    .channel_open = wr_seal_channel_open,
    .channel_close = wr_seal_channel_close,
    .submit = wr_seal_submit,
    .poll = wr_seal_poll,
    .wait_fd = wr_seal_wait_fd,
    .discard = seal_discard,
    .reread = seal_reread,
    .extend = seal_extend,
    .retire = seal_retire,
};

int wr_seal_open(struct weir_backend *inner, enum wr_seal_wish wish,
                 const struct weir_backend_env *env, struct weir_backend **backend_p)
{
    struct wr_seal *seal = calloc(1, sizeof(*seal));
    int error;

    if (!seal) {
        wr_tell(env, WEIR_FAILURE, WEIR_ENOMEM, 0, "seal: out of memory");
        return WEIR_ENOMEM;
    }
    seal->base.ops = &seal_ops;
    seal->inner = inner;
    error = open_cipher(seal, wish, env);
    if (error)
        goto err_seal;
    describe_inner(seal);
    error = map_records(seal, env);
    if (error)
        goto err_cipher;
    error = wr_seal_teller_open(&seal->teller, env);
    if (error)
        goto err_records;
    *backend_p = &seal->base;
    return WEIR_OK;

err_records:
    munmap(seal->records, seal->info.slots * sizeof(struct wr_record));
err_cipher:
    wr_cipher_close(seal->cipher);
err_seal:
    free(seal);
    return error;
}
