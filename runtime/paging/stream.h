/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Stream: a thread's walk through neighbouring pages, recognised by its traps.
 *
 *   walk        touches of neighbours, all upward or all downward; two make one
 *   edge        the first page beyond what is mapped: where the walk traps next
 *   asked       the first page beyond what readahead was asked for
 *   depth       windows that are asked for beyond the edge: more for a walk that had to wait for
 *               what was asked for, fewer for one that found it gone
 *   belief      for how many more runs a walk counts as one that writes
 *
 * Always: all of this is arithmetic on a thread's own memory: no lock, no clock, no other thread.
 * A walk that was wrongly seen costs a read that nobody needed, never a wrong byte.
 */

#include <stdbool.h>
#include <stdint.h>

struct wr_stream {
    uint32_t serial; /* of the region; 0: unused                  */
    uint32_t last;   /* the page of its last trap                 */
    uint32_t edge;
    uint32_t asked;
    uint32_t moved;   /* when it trapped last, by its thread's count of traps */
    uint16_t window;  /* pages of one request; 0: none made yet   */
    int8_t direction; /* 1, -1; 0: one touch, not yet a walk      */
    uint8_t belief;
    uint8_t depth;
    uint8_t misses; /* pages asked for and not there, in a row  */
};

/* Pages that readahead should ask for next: the lowest, and how many. */
struct wr_reach {
    uint32_t page;
    uint32_t count;
};

/* A trap of the calling thread: the walk it belongs to, perhaps a new one. is_hit: readahead had
 * brought the page. is_eager: take one touch for a walk. window_max: 0 when there is no readahead.
 * NULL: no walk, so far. */
struct wr_stream *wr_stream_note(uint32_t serial, uint32_t page, bool is_hit, bool is_eager,
                                 uint32_t window_max);
/* A first store to a mapped page. The walk of stores it belongs to, or NULL; also makes the walk
 * that mapped the page one that is believed to write. */
struct wr_stream *wr_stream_note_store(uint32_t serial, uint32_t page);
void wr_stream_believe(struct wr_stream *stream);

/* The page had been asked for, but too late: the walk had to wait for it. */
void wr_stream_late(struct wr_stream *stream);
/* So many pages from this one on, in the stream's direction, are mapped now. */
void wr_stream_mapped(struct wr_stream *stream, uint32_t page, uint32_t count);
/* The next window within depth pages of the edge and within [first, end). False: asked enough. */
bool wr_stream_reach(const struct wr_stream *stream, uint32_t first, uint32_t end, uint32_t depth,
                     struct wr_reach *reach_p);
void wr_stream_asked(struct wr_stream *stream, const struct wr_reach *reach);

/* Forget all streams of the calling thread: for tests and the simulator. */
void wr_stream_reset(void);
