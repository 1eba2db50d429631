/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What fuzz targets share. A target is a function of bytes that must survive all of them; libFuzzer
 * calls it with bytes that it makes up, and run_corpus.c with those that were worth keeping.
 *
 * Always: the same bytes do the same: random numbers are drawn from a seed that is the same for
 * every run.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

/* What must hold, whatever the bytes were. */
#define FUZZ_ASSERT(condition)                                                             \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                       \
        }                                                                                  \
    } while (0)

/* Before each run: libsodium is there, and its random numbers begin anew. */
void fuzz_begin(void);

/* The bytes that are left to decide with; zeros when there are none. */
struct fuzz_bytes {
    const uint8_t *at;
    size_t left;
};

static inline uint8_t fuzz_byte(struct fuzz_bytes *bytes)
{
    if (bytes->left == 0)
        return 0;
    bytes->left--;
    return *bytes->at++;
}

static inline uint64_t fuzz_number(struct fuzz_bytes *bytes, unsigned count)
{
    uint64_t number = 0;

    for (unsigned i = 0; i < count; i++)
        number |= (uint64_t)fuzz_byte(bytes) << 8 * i;
    return number;
}

/* How many: mostly few, sometimes many. */
static inline size_t fuzz_amount(struct fuzz_bytes *bytes)
{
    uint8_t byte = fuzz_byte(bytes);

    return byte < 128 ? byte : byte < 224 ? (size_t)(byte - 127) * 64 : (size_t)(byte - 223) << 13;
}
