/* SPDX-License-Identifier: MIT */
#include "transport/code.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

#include <isa-l/erasure_code.h>

#define LIBRARY "libisal.so.2"

#define FUNCTIONS(X)                      \
    X(init_tables, ec_init_tables)        \
    X(encode, ec_encode_data)             \
    X(add, ec_encode_data_update)         \
    X(mul, gf_mul)                        \
    X(make_matrix, gf_gen_cauchy1_matrix) \
    X(invert, gf_invert_matrix)

static struct {
#define X(member, function) __typeof__(function) *member;
    FUNCTIONS(X)
#undef X
} isal;

static const char *missing; /* what is to be said of it; NULL: nothing */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void load(void)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    void *symbol;

    if (!library) {
        missing = LIBRARY " is not installed: apt-get install libisal2";
        return;
    }
#define X(member, function)                             \
    symbol = dlsym(library, #function);                 \
    memcpy(&isal.member, &symbol, sizeof(isal.member)); \
    if (!symbol)                                        \
        missing = LIBRARY " is another one: it has no " #function "()";
    FUNCTIONS(X)
#undef X
}

int wr_code_open(struct wr_code *code, uint32_t data, uint32_t parity, const char **why_p)
{
    pthread_once(&once, load);
    if (missing) {
        *why_p = missing;
        return WEIR_ENOSUPPORT;
    }
    *code = (struct wr_code){.data = data, .parity = parity};
    isal.make_matrix(code->matrix, (int)(data + parity), (int)data);
    isal.init_tables((int)data, (int)parity, code->matrix + (size_t)data * data, code->tables);
    return WEIR_OK;
}

void wr_code_encode(struct wr_code *code, uint32_t bytes, unsigned char **data,
                    unsigned char **parity)
{
    isal.encode((int)bytes, (int)code->data, (int)code->parity, code->tables, data, parity);
}

void wr_code_solve(const struct wr_code *code, uint32_t wanted, uint32_t from,
                   struct wr_code_recipe *recipe_p)
{
    unsigned char rows[WR_CODE_PIECES * WR_CODE_PIECES], inverse[WR_CODE_PIECES * WR_CODE_PIECES];
    unsigned char factors[WR_CODE_PIECES] = {0};
    const unsigned char *row = code->matrix + (size_t)wanted * code->data;

    recipe_p->count = 0;
    for (uint32_t i = 0; i < code->data + code->parity; i++) {
        if (!(from >> i & 1))
            continue;
        memcpy(rows + (size_t)recipe_p->count * code->data, code->matrix + (size_t)i * code->data,
               code->data);
        recipe_p->piece[recipe_p->count++] = (unsigned char)i;
    }
    /* Any so many rows of this matrix can be inverted. */
    (void)isal.invert(rows, inverse, (int)code->data);
    for (uint32_t i = 0; i < code->data; i++)
        for (uint32_t j = 0; j < code->data; j++)
            factors[i] ^= isal.mul(row[j], inverse[(size_t)j * code->data + i]);
    isal.init_tables((int)recipe_p->count, 1, factors, recipe_p->tables);
}

void wr_code_add(struct wr_code_recipe *recipe, uint32_t position, uint32_t bytes, void *source,
                 void *to)
{
    unsigned char *coding[1] = {to};

    isal.add((int)bytes, (int)recipe->count, 1, (int)position, recipe->tables, source, coding);
}
