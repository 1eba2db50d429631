/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz.h"

#include <sodium.h>

#include "transport/session.h"

static uint64_t state;

static uint32_t draw(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

static void draw_bytes(void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        ((uint8_t *)bytes)[i] = (uint8_t)draw();
}

static const char *name(void)
{
    return "the same ones each time";
}

static randombytes_implementation same_ones = {
    .implementation_name = name, .random = draw, .buf = draw_bytes};

void fuzz_begin(void)
{
    static bool is_begun;

    state = 1;
    if (is_begun)
        return;
    randombytes_set_implementation(&same_ones);
    FUZZ_ASSERT(wr_session_begin());
    is_begun = true;
}
