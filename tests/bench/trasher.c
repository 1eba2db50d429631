/* SPDX-License-Identifier: MIT */
#include "trasher.h"

#include <stdlib.h>
#include <string.h>

#define SEED 11

/* Flags of the sieve: a page begins with a stamp, then a byte for every odd number. */
#define SIEVE_STAMP 16u
#define SIEVE_FLAGS (BENCH_PAGE - SIEVE_STAMP)

struct trasher {
    enum trasher_kind kind;
    struct bench_memory *memory;
    unsigned thread;
    uint64_t memory_pages;
    uint64_t random;
    struct workload workload;
    uint64_t cursor;

    /* Of the sieve: the share of this thread, and where it is. Numbers are 2 * index + 3. */
    uint64_t first_page, flags;
    uint64_t prime, strike; /* indexes */
    uint64_t round;
};

/* --- Touches of stamped pages ---------------------------------------------------------------- */

static void touch(struct trasher *t, uint64_t page, unsigned writes_percent)
{
    if (bench_draw(&t->random) % 100 < writes_percent)
        bench_touch_write(t->memory, t->thread, page);
    else
        bench_touch_read(t->memory, t->thread, page);
}

/*
 * Written once going forward, and again about where reclaim is at work by now: most of what it
 * meets has been taken away, is marked, or is being written.
 */
static void step_writeback(struct trasher *t)
{
    const uint64_t pages = t->memory->pages;
    uint64_t behind = t->memory_pages * (800 + (bench_draw(&t->random) >> 16) % 200) / 1000;

    t->cursor++;
    bench_touch_write(t->memory, t->thread, t->cursor % pages);
    bench_touch_write(t->memory, t->thread, (t->cursor + pages - behind % pages) % pages);
}

/* --- Zero and back --------------------------------------------------------------------------- */

/* A page belongs to one thread. Even versions are zeros all over, odd ones have content. */
static void step_flapping(struct trasher *t)
{
    struct bench_memory *memory = t->memory;
    const unsigned threads = memory->threads;
    const uint64_t share = memory->pages / threads;
    const uint64_t page = (bench_draw(&t->random) >> 16) % share * threads + t->thread;
    uint64_t *words = (uint64_t *)(void *)(memory->base + page * BENCH_PAGE);
    uint8_t *version = &memory->version[page];

    if (*version & 1) {
        bench_page_check(memory, page, *version);
        memset(words, 0, BENCH_PAGE);
    } else {
        for (unsigned i = 0; i < BENCH_WORDS; i++)
            if (words[i] != 0)
                bench_wrong(memory, page, words[i], 0);
        bench_page_fill(memory, page, *version + 1u);
    }
    (*version)++;
}

/* --- Sieve ----------------------------------------------------------------------------------- */

/*
 * After sieve.c by Cesar Eduardo Barros, which Ingo Molnar trashed swap with in 2001: Eratosthenes'
 * sieve over all of memory. The first primes walk through it in order, the later ones with ever
 * longer strides.
 */

static uint64_t sieve_page(const struct trasher *t, uint64_t index)
{
    return t->first_page + index / SIEVE_FLAGS;
}

static uint8_t *flag_of(const struct trasher *t, uint64_t index)
{
    return (uint8_t *)t->memory->base + sieve_page(t, index) * BENCH_PAGE + SIEVE_STAMP +
           index % SIEVE_FLAGS;
}

/* The stamp: which page, and which round of the sieve its flags are of. */
static void expect_stamp(const struct trasher *t, uint64_t page)
{
    const uint64_t *words = (const uint64_t *)(const void *)(t->memory->base + page * BENCH_PAGE);

    if (words[0] != page + 1)
        bench_wrong(t->memory, page, words[0], page + 1);
    if (words[1] != t->round)
        bench_wrong(t->memory, page, words[1], t->round);
}

static void expect_flag(const struct trasher *t, uint64_t index, bool may_be_clear)
{
    const uint8_t flag = *flag_of(t, index);

    if (flag != 1 && !(flag == 0 && may_be_clear))
        bench_wrong(t->memory, sieve_page(t, index), flag, 1);
}

/* Another round: all flags are clear. A step is a page of it. */
static void sieve_clear(struct trasher *t)
{
    const uint64_t page = t->first_page + t->cursor;
    uint64_t *words = (uint64_t *)(void *)(t->memory->base + page * BENCH_PAGE);

    if (t->round > 1)
        if (words[0] != page + 1 || words[1] != t->round - 1)
            bench_wrong(t->memory, page, words[1], t->round - 1);
    words[0] = page + 1;
    words[1] = t->round;
    memset((char *)words + SIEVE_STAMP, 0, SIEVE_FLAGS);
    if (++t->cursor < t->flags / SIEVE_FLAGS)
        return;
    t->cursor = 0;
    t->prime = 0;
    t->strike = 3; /* 9, the square of 3 */
}

/* A number that a smaller prime divides has been struck before. */
static bool must_be_struck(uint64_t number, uint64_t prime)
{
    return (prime > 3 && number % 3 == 0) || (prime > 5 && number % 5 == 0) ||
           (prime > 7 && number % 7 == 0);
}

static void next_prime(struct trasher *t)
{
    uint64_t number;

    do {
        t->prime++;
        expect_stamp(t, sieve_page(t, t->prime));
        number = 2 * t->prime + 3;
        expect_flag(t, t->prime, !must_be_struck(number, number));
    } while (*flag_of(t, t->prime) && number * number / 2 < t->flags);
    t->strike = (number * number - 3) / 2;
    if (t->strike >= t->flags) {
        t->round++;
        t->prime = UINT64_MAX;
    }
}

/* All strikes of one prime on one page. */
static void step_sieve(struct trasher *t)
{
    const uint64_t number = 2 * t->prime + 3;
    uint64_t page, end;

    if (t->prime == UINT64_MAX) {
        sieve_clear(t);
        return;
    }
    page = sieve_page(t, t->strike);
    end = (page - t->first_page + 1) * SIEVE_FLAGS;
    expect_stamp(t, page);
    for (; t->strike < end; t->strike += number) {
        if (must_be_struck(2 * t->strike + 3, number))
            expect_flag(t, t->strike, false);
        *flag_of(t, t->strike) = 1;
    }
    if (t->strike >= t->flags)
        next_prime(t);
}

/* --- All of them ----------------------------------------------------------------------------- */

static const struct {
    const char *name;
    bool is_filled;
} kinds[] = {
#define TRASHER_ROW(kind, name, is_filled) [TRASHER_##kind] = {name, is_filled},
    TRASHER_MAP(TRASHER_ROW)
#undef TRASHER_ROW
};

const char *trasher_name(enum trasher_kind kind)
{
    return kinds[kind].name;
}

bool trasher_is_filled(enum trasher_kind kind)
{
    return kinds[kind].is_filled;
}

static enum workload_kind workload_of(enum trasher_kind kind)
{
    return kind == TRASHER_zipf       ? WORKLOAD_zipf_10
           : kind == TRASHER_shifting ? WORKLOAD_shifting
           : kind == TRASHER_loop     ? WORKLOAD_loop
           : kind == TRASHER_scan_hot ? WORKLOAD_scans
                                      : WORKLOAD_uniform;
}

struct trasher *trasher_open(enum trasher_kind kind, struct bench_memory *memory, unsigned thread,
                             uint64_t memory_pages)
{
    struct trasher *t = calloc(1, sizeof(*t));
    const uint64_t share = memory->pages / memory->threads;

    if (!t)
        return NULL;
    t->kind = kind;
    t->memory = memory;
    t->thread = thread;
    t->memory_pages = memory_pages;
    t->random = (thread + 1) * 0x2545f4914f6cdd1dull;
    t->cursor = kind == TRASHER_writeback ? thread * share : 0;
    t->first_page = thread * share;
    t->flags = share * SIEVE_FLAGS;
    t->prime = UINT64_MAX;
    t->round = 1;
    if (!workload_open(&t->workload, workload_of(kind), (uint32_t)memory->pages,
                       (uint32_t)memory_pages, SEED, thread)) {
        free(t);
        return NULL;
    }
    return t;
}

void trasher_step(struct trasher *t)
{
    switch (t->kind) {
    case TRASHER_sieve: step_sieve(t); return;
    case TRASHER_writeback: step_writeback(t); return;
    case TRASHER_flapping: step_flapping(t); return;
    case TRASHER_uniform: touch(t, workload_next(&t->workload), 100); return;
    case TRASHER_zipf:
    case TRASHER_shifting:
    case TRASHER_loop:
    case TRASHER_scan_hot:
    case TRASHER_random:
    case TRASHER_COUNT: break;
    }
    touch(t, workload_next(&t->workload), 50);
}
