/* SPDX-License-Identifier: MIT */
#include "tests/policy/replay.h"

#include <stdlib.h>

#define FRAMES_MIN 1024u
#define NOBODY     UINT32_MAX

struct replay {
    const struct replay_ops *ops;
    void *state;
    uint8_t *is_known; /* touched before */
    struct replay_result result;
};

static const struct {
    const char *name;
    const struct replay_ops *ops;
} rules[] = {
    [REPLAY_WEIR] = {"weir", &replay_weir},
    [REPLAY_LRU] = {"lru", &replay_lru},
    [REPLAY_FIFO] = {"fifo", &replay_fifo},
    [REPLAY_RANDOM] = {"random", &replay_random},
};

const char *replay_rule_name(enum replay_rule rule)
{
    return rules[rule].name;
}

struct replay *replay_open(enum replay_rule rule, uint32_t pages, uint32_t frames)
{
    struct replay *replay = frames >= FRAMES_MIN ? calloc(1, sizeof(*replay)) : NULL;

    if (!replay)
        return NULL;
    replay->ops = rules[rule].ops;
    replay->state = replay->ops->open(pages, frames);
    replay->is_known = calloc(pages, 1);
    if (!replay->state || !replay->is_known) {
        (void)replay_close(replay);
        return NULL;
    }
    return replay;
}

bool replay_touch(struct replay *replay, uint32_t page)
{
    int how = replay->ops->touch(replay->state, page);
    bool is_miss = how == 2 && replay->is_known[page];

    replay->result.touches++;
    replay->result.soft += how == 1;
    replay->result.misses += is_miss;
    replay->result.first += !replay->is_known[page];
    replay->is_known[page] = 1;
    return is_miss;
}

struct replay_result replay_close(struct replay *replay)
{
    struct replay_result result = replay->result;

    replay->ops->close(replay->state);
    free(replay->is_known);
    free(replay);
    return result;
}

/* --- What it is compared with: one order of pages, and who goes ------------------------------- */

struct order {
    uint32_t frames, used;
    uint32_t *next, *before; /* of each page; the last entry is the anchor */
    uint32_t anchor;
    uint32_t *frame_of, *page_of; /* for random */
    uint64_t random;
};

static void order_close(void *opaque)
{
    struct order *o = opaque;

    if (!o)
        return;
    free(o->next);
    free(o->before);
    free(o->frame_of);
    free(o->page_of);
    free(o);
}

static void *order_open(uint32_t pages, uint32_t frames)
{
    struct order *o = calloc(1, sizeof(*o));

    if (!o)
        return NULL;
    o->frames = frames;
    o->anchor = pages;
    o->random = 88172645463325252ull;
    o->next = malloc((pages + 1ull) * sizeof(*o->next));
    o->before = malloc((pages + 1ull) * sizeof(*o->before));
    o->frame_of = malloc(pages * sizeof(*o->frame_of));
    o->page_of = malloc(frames * sizeof(*o->page_of));
    if (!o->next || !o->before || !o->frame_of || !o->page_of) {
        order_close(o);
        return NULL;
    }
    for (uint32_t i = 0; i < pages; i++)
        o->next[i] = o->before[i] = o->frame_of[i] = NOBODY;
    o->next[pages] = o->before[pages] = pages;
    return o;
}

static void order_take(struct order *o, uint32_t page)
{
    o->next[o->before[page]] = o->next[page];
    o->before[o->next[page]] = o->before[page];
    o->next[page] = NOBODY;
    o->used--;
}

static void order_put(struct order *o, uint32_t page)
{
    if (o->used == o->frames)
        order_take(o, o->next[o->anchor]);
    o->before[page] = o->before[o->anchor];
    o->next[page] = o->anchor;
    o->next[o->before[page]] = page;
    o->before[o->anchor] = page;
    o->used++;
}

static int touch_lru(void *opaque, uint32_t page)
{
    struct order *o = opaque;
    bool is_here = o->next[page] != NOBODY;

    if (is_here)
        order_take(o, page);
    order_put(o, page);
    return is_here ? 0 : 2;
}

static int touch_fifo(void *opaque, uint32_t page)
{
    struct order *o = opaque;

    if (o->next[page] != NOBODY)
        return 0;
    order_put(o, page);
    return 2;
}

static int touch_random(void *opaque, uint32_t page)
{
    struct order *o = opaque;
    uint32_t frame = o->used;

    if (o->frame_of[page] != NOBODY)
        return 0;
    if (o->used == o->frames) {
        o->random ^= o->random << 13;
        o->random ^= o->random >> 7;
        o->random ^= o->random << 17;
        frame = (uint32_t)(o->random % o->frames);
        o->frame_of[o->page_of[frame]] = NOBODY;
    } else {
        o->used++;
    }
    o->frame_of[page] = frame;
    o->page_of[frame] = page;
    return 2;
}

const struct replay_ops replay_lru = {order_open, touch_lru, order_close};
const struct replay_ops replay_fifo = {order_open, touch_fifo, order_close};
const struct replay_ops replay_random = {order_open, touch_random, order_close};
