/* SPDX-License-Identifier: MIT */

/*
 * Slots: every word of a page says whose it is, where it belongs, and which version it is of: of
 * all that a read brings it is known whether it may be there.
 */

#include <string.h>

#include "tests/cluster/world.h"

#define WORDS (WEIR_SLOT_BYTES / sizeof(uint64_t))

enum { BITS_VERSION = 27, BITS_WORD = 9, BITS_SLOT = 12 };

static uint64_t word_of(uint32_t borrower, uint64_t slot, uint64_t at, uint32_t version)
{
    return (uint64_t)borrower << (BITS_SLOT + BITS_WORD + BITS_VERSION) |
           slot << (BITS_WORD + BITS_VERSION) | at << BITS_VERSION | version;
}

void slots_begin(struct slots *slots, uint64_t count, uint32_t borrower)
{
    memset(slots, 0, sizeof(*slots));
    slots->count = count;
    slots->borrower = borrower;
}

/* The same few slots, so that requests meet: at the ends, and around the first cluster's. */
static uint64_t draw_slot(const struct slots *slots)
{
    switch (loop_draw(4)) {
    case 0: return slots->count - 1 - loop_draw(8);
    case 1: return (WEIR_CLUSTER_SLOTS - 10 + loop_draw(20)) % slots->count;
    default: return loop_draw(24);
    }
}

uint32_t slots_take_at(struct slots *slots, bool is_write, uint64_t slot, uint64_t wanted)
{
    uint32_t pages = 0;

    while (pages < wanted && slot + pages < slots->count) {
        struct slot *each = &slots->at[slot + pages];

        if (each->is_written || (is_write && each->readers))
            break;
        if (is_write)
            each->is_written = true;
        else
            each->readers++;
        pages++;
    }
    return pages;
}

uint32_t slots_take(struct slots *slots, bool is_write, uint32_t most, uint64_t *slot_p)
{
    const uint64_t wanted = 1 + loop_draw(loop_chance(16) ? most : most < 6 ? most : 6);

    *slot_p = draw_slot(slots);
    return slots_take_at(slots, is_write, *slot_p, wanted);
}

void slots_give(struct slots *slots, uint64_t slot, uint32_t pages, bool is_write)
{
    for (uint32_t i = 0; i < pages; i++) {
        if (is_write)
            slots->at[slot + i].is_written = false;
        else
            slots->at[slot + i].readers--;
    }
}

void slots_fill(struct slots *slots, uint64_t slot, uint32_t pages, void *bytes)
{
    uint64_t *words = bytes;

    for (uint32_t i = 0; i < pages; i++) {
        const uint32_t version = ++slots->at[slot + i].last;

        for (uint64_t k = 0; k < WORDS; k++)
            *words++ = word_of(slots->borrower, slot + i, k, version);
    }
}

void slots_wrote(struct slots *slots, uint64_t slot, uint32_t pages, bool is_sure)
{
    for (uint32_t i = 0; i < pages && is_sure; i++) {
        slots->at[slot + i].sure = slots->at[slot + i].last;
        slots->at[slot + i].may_be_zero = false;
    }
}

void slots_discarded(struct slots *slots, uint64_t slot, uint32_t pages)
{
    for (uint32_t i = 0; i < pages; i++)
        slots->at[slot + i].may_be_zero = true;
}

static _Noreturn void complain(const struct slots *slots, uint64_t slot, uint64_t at, uint64_t word)
{
    const uint32_t version = word & ((1u << BITS_VERSION) - 1);
    const uint64_t where = word >> (BITS_WORD + BITS_VERSION) & ((1u << BITS_SLOT) - 1);
    const uint64_t whose = word >> (BITS_SLOT + BITS_WORD + BITS_VERSION);
    const struct slot *s = &slots->at[slot];

    if (word == 0)
        loop_fail("borrower %u, slot %llu: zero is there, where version %u was written",
                  slots->borrower, (unsigned long long)slot, s->sure);
    if (whose != slots->borrower)
        loop_fail("borrower %u, slot %llu: bytes of borrower %llu are there", slots->borrower,
                  (unsigned long long)slot, (unsigned long long)whose);
    if (where != slot || (word >> BITS_VERSION & (WORDS - 1)) != at)
        loop_fail("borrower %u, slot %llu: bytes of slot %llu are there", slots->borrower,
                  (unsigned long long)slot, (unsigned long long)where);
    loop_fail("borrower %u, slot %llu: version %u is there, of versions %u to %u", slots->borrower,
              (unsigned long long)slot, version, s->sure, s->last);
}

void slots_check(const struct slots *slots, uint64_t slot, uint32_t pages, const void *bytes)
{
    const uint64_t *words = bytes;

    for (uint32_t i = 0; i < pages; i++) {
        const struct slot *s = &slots->at[slot + i];
        const uint64_t least = word_of(slots->borrower, slot + i, 0, s->sure ? s->sure : 1);
        const uint64_t most = word_of(slots->borrower, slot + i, 0, s->last);
        const bool may_be_zero = s->sure == 0 || s->may_be_zero;

        for (uint64_t k = 0; k < WORDS; k++, words++) {
            const uint64_t word = *words - (k << BITS_VERSION);

            if (*words == 0 ? !may_be_zero : word < least || word > most)
                complain(slots, slot + i, k, *words);
        }
    }
}
