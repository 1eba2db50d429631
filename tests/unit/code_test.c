/* SPDX-License-Identifier: MIT */

/* The erasure code: whatever pieces are lost, up to as many as there is parity, come back. */

#include "transport/code.h"

#include <criterion/criterion.h>
#include <string.h>

#define BYTES 4096u

static unsigned char pieces[WR_CODE_PIECES][BYTES], made[BYTES];
static struct wr_code code;

static void encode(uint32_t data, uint32_t parity)
{
    unsigned char *in[WR_CODE_PIECES], *out[WR_CODE_PIECES];
    const char *why = "";

    cr_assert_eq(wr_code_open(&code, data, parity, &why), WEIR_OK, "%s", why);
    for (uint32_t i = 0; i < data + parity; i++) {
        *(i < data ? &in[i] : &out[i - data]) = pieces[i];
        for (uint32_t at = 0; at < BYTES; at++)
            pieces[i][at] = i < data ? (unsigned char)((at * 31 + i * 77) * 2654435761u >> 24) : 0;
    }
    /* In two parts: it goes byte by byte. */
    wr_code_encode(&code, BYTES / 2, in, out);
    for (uint32_t i = 0; i < data + parity; i++)
        *(i < data ? &in[i] : &out[i - data]) += BYTES / 2;
    wr_code_encode(&code, BYTES / 2, in, out);
}

static bool comes_back(uint32_t wanted, uint32_t from)
{
    struct wr_code_recipe recipe;

    wr_code_solve(&code, wanted, from, &recipe);
    memset(made, 0, sizeof(made));
    for (uint32_t i = 0; i < recipe.count; i++)
        wr_code_add(&recipe, i, BYTES, pieces[recipe.piece[i]], made);
    return recipe.count == code.data && memcmp(made, pieces[wanted], BYTES) == 0;
}

/* From each choice of `data` pieces, each of the others. */
static void try_all(uint32_t data, uint32_t parity)
{
    uint32_t tried = 0;

    encode(data, parity);
    for (uint32_t from = 0; from < 1u << (data + parity); from++)
        for (uint32_t i = 0; i < data + parity; i++) {
            if ((uint32_t)__builtin_popcount(from) != data || from >> i & 1)
                continue;
            cr_assert(comes_back(i, from), "%u+%u: %u from %x", data, parity, i, from);
            tried++;
        }
    cr_expect_geq(tried, parity);
}

Test(code, every_choice_of_enough_pieces_gives_all_others)
{
    try_all(4, 2);
    try_all(2, 1);
    try_all(10, 4);
    try_all(1, 1);
    try_all(1, 15);
    try_all(15, 1);
    try_all(3, 3);
}

Test(code, pieces_that_do_not_fit_together_give_something_else)
{
    encode(4, 2);
    pieces[4][100] ^= 1;
    cr_expect_not(comes_back(0, 0x1e));
    cr_expect(comes_back(0, 0x2e));
}
