/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Code: an erasure code of `data` + `parity` pieces, byte by byte. Any `data` of the pieces give
 * all the others (Reed-Solomon with a Cauchy matrix; ISA-L does the arithmetic).
 *
 * ISA-L is loaded when a code is first made, and by nobody else: programs without `ec` do not need
 * it, and what is called in a signal handler was bound before.
 */

#include <stdint.h>

#include <weir/weir_backend.h>

#define WR_CODE_PIECES 16u
#define WR_CODE_TABLE  32u /* bytes, for one factor */

struct wr_code {
    uint32_t data, parity;
    unsigned char matrix[WR_CODE_PIECES * WR_CODE_PIECES]; /* a row of `data` factors a piece */
    unsigned char
        tables[WR_CODE_PIECES * WR_CODE_PIECES * WR_CODE_TABLE]; /* of the parity's rows */
};

/* How one piece is made of `data` others: factors for them, in the order of their numbers. */
struct wr_code_recipe {
    uint32_t count;
    unsigned char piece[WR_CODE_PIECES];
    unsigned char tables[WR_CODE_PIECES * WR_CODE_TABLE];
};

/* data, parity: at least 1, together at most WR_CODE_PIECES. WEIR_ENOSUPPORT: ISA-L is not there;
 * *why_p says what to install. */
int wr_code_open(struct wr_code *code, uint32_t data, uint32_t parity, const char **why_p);

/* The parity of so many bytes of each data piece. Any thread; also in a signal handler, as are all
 * of these. What is only read is without const as it is in ISA-L. */
void wr_code_encode(struct wr_code *code, uint32_t bytes, unsigned char **data,
                    unsigned char **parity);

/* How to make this piece of those `data` (bits). */
void wr_code_solve(const struct wr_code *code, uint32_t wanted, uint32_t from,
                   struct wr_code_recipe *recipe_p);
/* Add what the source at this position of the recipe contributes; *to begins as zeros. */
void wr_code_add(struct wr_code_recipe *recipe, uint32_t position, uint32_t bytes, void *source,
                 void *to);
