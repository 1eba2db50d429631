/* SPDX-License-Identifier: MIT */
#include "runtime/paging/stream.h"

#include <stddef.h>
#include <string.h>

#define WALKS        16
#define SINGLES      8
#define WINDOW_FIRST 8u
#define DEPTH_FIRST  4
#define DEPTH_MOST   32
#define SLACK        8 /* pages that a walk may leave out and still be one             */
#define BELIEF       4
#define NEAR         128 /* pages between a walk of stores and the walk that mapped them */

/* Some of the walks a thread is in, and the touches that may begin another, apart: a thread that
 * also touches at random must not make us forget its walks. */
struct table {
    struct wr_stream walk[WALKS];
    struct wr_stream single[SINGLES];
    uint8_t next_single; /* is replaced next          */
    uint32_t traps;      /* so far; it wraps around   */
};

static _Thread_local struct table touches, stores;

void wr_stream_reset(void)
{
    memset(&touches, 0, sizeof(touches));
    memset(&stores, 0, sizeof(stores));
}

/* How far, in the stream's direction, is this page beyond that one? */
static int64_t beyond(const struct wr_stream *stream, uint32_t page, uint32_t from)
{
    return ((int64_t)page - (int64_t)from) * stream->direction;
}

static uint32_t ahead_of(const struct wr_stream *stream, uint32_t page, uint32_t count)
{
    int64_t at = (int64_t)page + (int64_t)count * stream->direction;

    return at < 0 ? 0 : (uint32_t)at;
}

/* Does a trap at this page continue the walk? At its edge or a little beyond; or inside, where a
 * page was taken away again. */
static bool continues(const struct wr_stream *walk, uint32_t serial, uint32_t page)
{
    return walk->serial == serial && beyond(walk, page, walk->last) > 0 &&
           beyond(walk, page, walk->edge) <= SLACK;
}

static bool is_neighbour(const struct wr_stream *single, uint32_t serial, uint32_t page)
{
    return single->serial == serial && (page == single->last + 1 || page + 1 == single->last);
}

/* How many traps ago did it move? */
static uint32_t age(const struct table *table, const struct wr_stream *walk)
{
    return walk->serial ? table->traps - walk->moved : UINT32_MAX;
}

static struct wr_stream *oldest(struct table *table)
{
    struct wr_stream *found = &table->walk[0];

    for (int i = 1; i < WALKS; i++)
        if (age(table, &table->walk[i]) > age(table, found))
            found = &table->walk[i];
    return found;
}

static struct wr_stream *begin_walk(struct table *table, uint32_t serial, uint32_t page,
                                    int8_t direction)
{
    struct wr_stream *walk = oldest(table);

    *walk = (struct wr_stream){.serial = serial,
                               .last = page,
                               .edge = page,
                               .asked = page,
                               .direction = direction,
                               .depth = DEPTH_FIRST};
    return walk;
}

/* Of several that it would continue, the one that moved last: another ended hereabouts, and what
 * was learned of it, that it stores, say, is not true of this one. */
static struct wr_stream *find_walk(struct table *table, uint32_t serial, uint32_t page)
{
    struct wr_stream *found = NULL;

    for (int i = 0; i < WALKS; i++)
        if (continues(&table->walk[i], serial, page) &&
            (!found || age(table, &table->walk[i]) < age(table, found)))
            found = &table->walk[i];
    return found;
}

/* The walk that a trap belongs to; NULL: it is a single touch, and was remembered as one. */
static struct wr_stream *find(struct table *table, uint32_t serial, uint32_t page)
{
    struct wr_stream *walk = find_walk(table, serial, page);

    table->traps++;
    if (walk)
        return walk;
    for (int i = 0; i < SINGLES; i++)
        if (is_neighbour(&table->single[i], serial, page)) {
            table->single[i].serial = 0;
            return begin_walk(table, serial, page, page > table->single[i].last ? 1 : -1);
        }
    table->single[table->next_single++ % SINGLES] = (struct wr_stream){.serial = serial,
                                                                       .last = page};
    return NULL;
}

static void advance(const struct table *table, struct wr_stream *walk, uint32_t page)
{
    walk->moved = table->traps;
    walk->last = page;
    if (beyond(walk, page, walk->edge) >= 0)
        walk->edge = ahead_of(walk, page, 1);
    if (beyond(walk, page, walk->asked) >= 0)
        walk->asked = ahead_of(walk, page, 1);
}

static void resize_window(struct wr_stream *walk, uint32_t page, bool is_hit, uint32_t most)
{
    if (walk->window == 0) {
        walk->window = (uint16_t)(WINDOW_FIRST < most ? WINDOW_FIRST : most);
    } else if (is_hit) {
        walk->window = (uint16_t)(2u * walk->window < most ? 2u * walk->window : most);
        walk->misses = 0;
    } else if (beyond(walk, page, walk->asked) < 0 && ++walk->misses >= 2) {
        /* Asked for and twice not there when it was needed: dropped unused, or never begun. */
        walk->window = (uint16_t)(walk->window > WINDOW_FIRST ? walk->window / 2 : walk->window);
        walk->depth = walk->depth > 1 ? walk->depth / 2 : 1;
        walk->misses = 0;
    }
}

struct wr_stream *wr_stream_note(uint32_t serial, uint32_t page, bool is_hit, bool is_eager,
                                 uint32_t window_max)
{
    struct wr_stream *walk = find(&touches, serial, page);

    if (walk) {
        resize_window(walk, page, is_hit, window_max);
    } else if (is_eager) {
        walk = begin_walk(&touches, serial, page, 1);
        walk->window = (uint16_t)window_max;
    }
    if (walk)
        advance(&touches, walk, page);
    return walk;
}

/* Is the page among those that the walk mapped lately? */
static bool mapped_lately(const struct wr_stream *walk, uint32_t serial, uint32_t page)
{
    int64_t behind = beyond(walk, walk->edge, page);

    return walk->serial == serial && behind >= 0 && behind <= NEAR;
}

struct wr_stream *wr_stream_note_store(uint32_t serial, uint32_t page)
{
    struct wr_stream *walk = find(&stores, serial, page);

    if (walk)
        advance(&stores, walk, page);
    for (int i = 0; i < WALKS; i++)
        if (mapped_lately(&touches.walk[i], serial, page) &&
            (touches.walk[i].belief > 0 || (walk && walk->direction == touches.walk[i].direction)))
            wr_stream_believe(&touches.walk[i]);
    return walk;
}

void wr_stream_late(struct wr_stream *stream)
{
    stream->depth = stream->depth < DEPTH_MOST / 2 ? 2 * stream->depth : DEPTH_MOST;
}

void wr_stream_believe(struct wr_stream *stream)
{
    stream->belief = BELIEF;
}

void wr_stream_mapped(struct wr_stream *stream, uint32_t page, uint32_t count)
{
    uint32_t edge = ahead_of(stream, page, count);

    if (beyond(stream, edge, stream->edge) > 0)
        stream->edge = edge;
    if (beyond(stream, stream->edge, stream->asked) > 0)
        stream->asked = stream->edge;
    if (stream->belief > 0)
        stream->belief--;
}

bool wr_stream_reach(const struct wr_stream *stream, uint32_t first, uint32_t end, uint32_t depth,
                     struct wr_reach *reach_p)
{
    int64_t low, high;

    if (stream->window == 0 || beyond(stream, stream->asked, stream->edge) + stream->window >
                                   (int64_t)(depth > stream->window ? depth : stream->window))
        return false;
    if (stream->direction > 0) {
        low = stream->asked;
        high = low + stream->window;
    } else {
        high = (int64_t)stream->asked + 1;
        low = high - stream->window;
    }
    if (low < first)
        low = first;
    if (high > end)
        high = end;
    if (low >= high)
        return false;
    reach_p->page = (uint32_t)low;
    reach_p->count = (uint32_t)(high - low);
    return true;
}

void wr_stream_asked(struct wr_stream *stream, const struct wr_reach *reach)
{
    stream->asked = stream->direction > 0 ? reach->page + reach->count
                    : reach->page > 0     ? reach->page - 1
                                          : 0;
}
