/* SPDX-License-Identifier: MIT */
#include "workload.h"

#include <math.h>

/* --- Chance ---------------------------------------------------------------------------------- */

/* Steele, Lea and Flood's SplitMix64: every state is a good one. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static uint64_t draw(struct workload *w)
{
    w->random += 0x9e3779b97f4a7c15ull;
    return mix(w->random);
}

/* 0 to count - 1; the bias is below count / 2^32 and does not matter here. */
static uint32_t draw_below(struct workload *w, uint32_t count)
{
    return (uint32_t)((draw(w) >> 32) * count >> 32);
}

static double draw_real(struct workload *w)
{
    return (double)(draw(w) >> 11) * 0x1p-53;
}

/* --- Permutations ---------------------------------------------------------------------------- */

static void shuffle_open(struct workload_shuffle *s, uint32_t count, uint64_t key)
{
    s->count = count;
    s->key = key;
    s->bits = 2;
    while (1ull << s->bits < count)
        s->bits += 2;
}

/* A Feistel network over the next power of four, walked until it lands inside. */
static uint32_t shuffled(const struct workload_shuffle *s, uint32_t index)
{
    const uint32_t half = s->bits / 2, mask = (1u << half) - 1;
    uint64_t x = index;

    do {
        uint32_t left = (uint32_t)(x >> half), right = (uint32_t)x & mask;

        for (uint64_t round = 0; round < 4; round++) {
            uint32_t mixed = (uint32_t)mix(s->key + (round << 32) + right) & mask;
            uint32_t next = left ^ mixed;

            left = right;
            right = next;
        }
        x = (uint64_t)left << half | right;
    } while (x >= s->count);
    return (uint32_t)x;
}

/* --- Zipf ------------------------------------------------------------------------------------ */

/*
 * W. Hormann and G. Derflinger, "Rejection-inversion to generate variates from monotone discrete
 * distributions", ACM TOMACS 6(3), 1996. The integral of 1 / x^exponent, and its inverse.
 */
static double integral(const struct workload_zipf *z, double x)
{
    const double e = 1 - z->exponent;

    return e == 0 ? log(x) : (pow(x, e) - 1) / e;
}

static double inverse(const struct workload_zipf *z, double y)
{
    const double e = 1 - z->exponent;

    return e == 0 ? exp(y) : pow(1 + y * e, 1 / e);
}

static void zipf_open(struct workload_zipf *z, double exponent, uint32_t count)
{
    z->exponent = exponent;
    z->count = count;
    z->low = integral(z, 1.5) - 1;
    z->high = integral(z, count + 0.5);
    z->shortcut = 2 - inverse(z, integral(z, 2.5) - pow(2, -exponent));
}

/* A rank, 0 being the first. */
static uint32_t zipf_next(struct workload *w)
{
    const struct workload_zipf *z = &w->zipf;

    for (;;) {
        double y = z->low + draw_real(w) * (z->high - z->low);
        double x = inverse(z, y);
        double k = floor(x + 0.5);

        k = k < 1 ? 1 : k > z->count ? z->count : k;
        if (k - x <= z->shortcut || y >= integral(z, k + 0.5) - pow(k, -z->exponent))
            return (uint32_t)k - 1;
    }
}

/* --- Kinds ----------------------------------------------------------------------------------- */

static double exponent_of(enum workload_kind kind)
{
    return kind == WORKLOAD_zipf_08 ? 0.8 : kind == WORKLOAD_zipf_12 ? 1.2 : 1.0;
}

bool workload_open(struct workload *w, enum workload_kind kind, uint32_t pages,
                   uint32_t memory_pages, uint64_t seed, uint32_t stream)
{
    const bool is_clustered = kind == WORKLOAD_clustered;
    const uint32_t units = is_clustered ? pages / WORKLOAD_CLUSTER_PAGES : pages;

    if (pages < 2 * WORKLOAD_CLUSTER_PAGES || memory_pages < 8 || memory_pages > pages)
        return false;
    *w = (struct workload){.kind = kind, .pages = pages, .memory_pages = memory_pages};
    w->random = mix(seed ^ mix(stream + 1));
    zipf_open(&w->zipf, exponent_of(kind), units);
    shuffle_open(&w->shuffle, units, mix(seed));
    /* Streams do not walk in step. */
    if (stream != 0 && (kind == WORKLOAD_loop || kind == WORKLOAD_scans))
        w->step = draw_below(w, pages);
    return true;
}

static uint32_t next_of_scans(struct workload *w)
{
    const uint64_t every = WORKLOAD_WALK_EVERY(w->memory_pages);
    const uint64_t walk = WORKLOAD_WALK(w->memory_pages);
    const uint64_t turn = w->step / every, at = w->step % every;

    w->step++;
    if (at >= every - walk)
        return (uint32_t)((turn * walk + at - (every - walk)) % w->pages);
    return shuffled(&w->shuffle, zipf_next(w));
}

static uint32_t next_of_loop(struct workload *w)
{
    const uint64_t wanted = (uint64_t)w->memory_pages * 6 / 5;

    return (uint32_t)(w->step++ % (wanted < w->pages ? wanted : w->pages));
}

/* The hot set is replaced as a whole. */
static uint32_t next_of_shifting(struct workload *w)
{
    const uint32_t hot = (uint32_t)WORKLOAD_HOT(w->memory_pages);
    const uint64_t first = w->step++ / WORKLOAD_SHIFT(w->memory_pages) * hot;

    if (draw_below(w, 10) == 0)
        return draw_below(w, w->pages);
    return shuffled(&w->shuffle, (uint32_t)((first + draw_below(w, hot)) % w->pages));
}

uint32_t workload_next(struct workload *w)
{
    switch (w->kind) {
    case WORKLOAD_scans: return next_of_scans(w);
    case WORKLOAD_loop: return next_of_loop(w);
    case WORKLOAD_shifting: return next_of_shifting(w);
    case WORKLOAD_uniform: return draw_below(w, w->pages);
    case WORKLOAD_clustered:
        return shuffled(&w->shuffle, zipf_next(w)) * WORKLOAD_CLUSTER_PAGES +
               draw_below(w, WORKLOAD_CLUSTER_PAGES);
    case WORKLOAD_zipf_08:
    case WORKLOAD_zipf_10:
    case WORKLOAD_zipf_12:
    case WORKLOAD_COUNT: break;
    }
    return shuffled(&w->shuffle, zipf_next(w));
}

const char *workload_name(enum workload_kind kind)
{
    static const char *const names[] = {
#define WORKLOAD_NAME(kind, name, help) [WORKLOAD_##kind] = name,
        WORKLOAD_MAP(WORKLOAD_NAME)
#undef WORKLOAD_NAME
    };

    return kind < WORKLOAD_COUNT ? names[kind] : "unknown";
}
