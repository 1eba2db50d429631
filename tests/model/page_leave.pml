/* SPDX-License-Identifier: MIT */
/* How the page of page.pml leaves: kswapd, one thread, which drops and stages (reclaim.c), keeps
 * the cache (cache.c), writes, and finishes what was written (launder.c, staging.c). */

/* A frame of the cache to fill: the page that waited in it becomes OUT. */
#ifdef BUG_RECYCLE
#define RECYCLE skip
#else
#define RECYCLE move(OUT); frame = NONE
#endif

inline take_chunk(which)
{
    which = (chunk_taken[0] -> 1 : 0);
    chunk_taken[which] = 1;
    if
    :: OWNED && state == CACHED_CLEAN && frame == which -> RECYCLE
    :: else
    fi;
    slab[which] = ELSE
}

#define CAN_TAKE_CHUNK (!(chunk_taken[0] && chunk_taken[1]))

#ifdef KSWAPD

/* Whether the page has a region is asked inside the gate, a while before it is locked. */
#ifdef UNMAP
#define BEGIN_ROUND \
    :: atomic { MORE && owned && !inside[_pid] -> SPEND; ENTER; was_owned = 1 } \
    :: atomic { inside[_pid] -> END_ROUND }
#define WAS_OWNED   (owned || was_owned)
#define JOIN_ROUND  was_owned = WAS_OWNED; ENTER
#define END_ROUND   was_owned = 0; LEAVE
#else
#define BEGIN_ROUND
#define WAS_OWNED  1
#define JOIN_ROUND skip
#define END_ROUND  skip
#endif

#define ANY_STAGE(what) (stage[0] == what || stage[1] == what)
#define FREE_STAGE      (stage[0] == FREE_FRAME -> 0 : 1)
#define CAN_USE(s)      (!used[s] && !(draining && s == 0))
#define CAN_WRITE       (CAN_USE(0) || CAN_USE(1) || CAN_USE(SLOTS - 1))

/* Is the frame where the page's bytes are? */
#ifdef BUG_STALE_FRAME
#define IS_STAGED (held[i] && WAS_OWNED && state == CACHED_DIRTY)
#else
#define IS_STAGED (held[i] && WAS_OWNED && state == CACHED_DIRTY && frame == i)
#endif

/* Is the page still waiting for this write? */
#ifdef BUG_COMPLETION
#define IS_OURS (WAS_OWNED && IS_WRITING)
#else
#define IS_OURS (WAS_OWNED && IS_WRITING && slot == picked)
#endif

#ifdef BUG_PINS
#define MAY_GO (WAS_OWNED && !locked)
#else
#define MAY_GO (WAS_OWNED && !locked && pins == 0)
#endif
#define IS_CLEAN_VICTIM (state == RESIDENT_CLEAN || (state == RESIDENT_DIRTY && freed))
#define IS_DIRTY_VICTIM (state == RESIDENT_DIRTY && !freed)

inline pick_stage(what)
{
    if
    :: stage[0] == what -> i = 0
    :: stage[1] == what -> i = 1
    fi
}

/* Take away a page whose bytes are in its slot, or not wanted; perhaps into the cache. */
inline drop_clean()
{
    if
    :: atomic { chance != NONE && !freed -> slab[chance] = MAPPED; has_chance = 1 }
    :: skip
    fi;
    atomic { unmap_page() }
    atomic {
        if
        :: freed && state == RESIDENT_CLEAN -> move(EMPTY); free_slot(slot); clear_slot()
        :: freed && state == RESIDENT_DIRTY -> move(EMPTY)
        :: !freed && has_chance ->
           move(CACHED_CLEAN); frame = chance;
           chunk_taken[chance] = 0; chance = NONE; has_chance = 0
        :: !freed && !has_chance -> move(OUT)
        fi;
        freed = 0; put(); credits++; END_ROUND
    }
}

#ifdef BUG_DROP_UNLOCKED
inline drop_unlocked()
{
    atomic { unmap_page() }
    atomic {
        !locked ->
        if
        :: state == RESIDENT_CLEAN -> move(OUT); credits++
        :: else
        fi
    }
}
#endif

#ifdef BUG_CLEAN_IN_PLACE
/* Protect a page that was writable, write it out, and call it clean. */
inline clean_in_place()
{
    atomic { protect() }
    atomic {
        used[0] = 1; slot = 0; stored[0] = MAPPED; sum = MAPPED; was_writable = 0;
        state = RESIDENT_CLEAN; put()
    }
}
#endif

/* Into a staging frame. All who take one for this page hold its lock. */
inline revoke()
{
#ifdef WP
    atomic { protect() }
    if
    :: atomic { put(); i = NONE; END_ROUND; goto idle } /* the copy failed: it stays protected */
    :: skip
    fi;
#endif
#if defined(WP) || defined(BUG_NAIVE)
    atomic { staged[i] = MAPPED }
    atomic { unmap_page() }
#else
    atomic {
        if
        :: device -> put(); i = NONE; END_ROUND; goto idle
        :: else -> staged[i] = MAPPED; unmap_page()
        fi
    }
#endif
    atomic {
        move(CACHED_DIRTY); frame = i; stage[i] = OPEN; held[i] = 1;
        i = NONE; put(); END_ROUND
    }
}

/* The extent is full: does the page need a write at all? If so it waits as a segment. */
inline inspect()
{
    atomic {
        !locked ->
        if
        :: IS_STAGED && staged[i] == ZERO -> move(EMPTY); leave_staging()
        :: IS_STAGED -> sum = staged[i]; is_live = 1
        :: else
        fi
    }
    atomic {
        if
        :: is_live -> stage[i] = QUEUED; is_live = 0
        :: else -> release(i)
        fi;
        i = NONE; END_ROUND
    }
}

/* A slot was picked; the page goes into the write if its frame still counts. */
inline launder()
{
    atomic {
        !locked ->
        if
        :: IS_STAGED ->
           move(CACHED_WRITING); slot = picked; stage[i] = FLYING; target[i] = picked
        :: else -> used[picked] = 0; stage[i] = LANDED
        fi;
        picked = NONE
    }
    atomic {
        if
        :: stage[i] == LANDED -> release(i)
        :: else
        fi;
        i = NONE; END_ROUND
    }
}

/* The device is done with the bytes. What became of the page meanwhile, and whose is the slot? */
inline complete()
{
    atomic {
        assert(used[target[i]]);
        is_written = 1;
#ifdef ERRORS
        if
        :: is_written = 0
        :: skip
        fi;
#endif
        stored[target[i]] = (is_written -> staged[i] : ELSE)
    }
    atomic {
        !locked || !WAS_OWNED ->
        picked = target[i]; target[i] = NONE; stage[i] = LANDED;
        if
        :: IS_OURS && is_written && state == CACHED_WRITING -> move(OUT); leave_staging()
        :: IS_OURS && is_written && state == RESIDENT_WRITING -> move(RESIDENT_CLEAN)
        :: IS_OURS && !is_written && state == CACHED_WRITING ->
           move(CACHED_DIRTY); slot = NONE; free_slot(picked); is_live = 1
        :: IS_OURS && !is_written && state == RESIDENT_WRITING ->
           move(RESIDENT_DIRTY); clear_slot(); free_slot(picked)
        :: else -> free_slot(picked) /* written again, discarded, or the region went */
        fi;
        picked = NONE
    }
    atomic {
        if
        :: is_live -> stage[i] = QUEUED /* for another write */
        :: else -> release(i)
        fi;
        i = NONE; is_live = 0; is_written = 0; END_ROUND
    }
}

active proctype Kswapd()
{
    byte i = NONE, chance = NONE;
    bit is_live, has_chance, is_written;
#ifdef UNMAP
    bit was_owned;
#endif
#ifdef BOUNDED
    byte left = 1 + BOUNDED; /* to leave is two: stage, write */
#endif
idle:
end:
    do
    BEGIN_ROUND
#ifdef CHANCE
    :: atomic { MORE && chance == NONE && !locked && CAN_TAKE_CHUNK -> SPEND; take_chunk(chance) }
#endif
    :: atomic { MORE && MAY_GO && IS_CLEAN_VICTIM -> SPEND; JOIN_ROUND; lock() };
       drop_clean()
    :: atomic {
           MORE && MAY_GO && IS_DIRTY_VICTIM && ANY_STAGE(FREE_FRAME) ->
           SPEND; JOIN_ROUND; lock(); i = FREE_STAGE
       };
       revoke()
    :: atomic { ANY_STAGE(OPEN) -> JOIN_ROUND; pick_stage(OPEN) };
       inspect()
    :: atomic {
           MORE && ANY_STAGE(QUEUED) && CAN_WRITE ->
           SPEND; JOIN_ROUND; pick_stage(QUEUED);
           picked = (CAN_USE(0) -> 0 : (CAN_USE(1) -> 1 : SLOTS - 1));
           used[picked] = 1
       };
       launder()
#ifndef STUCK_WRITES
    :: atomic { ANY_STAGE(FLYING) -> JOIN_ROUND; pick_stage(FLYING) };
       complete()
#endif
#ifdef BUG_DROP_UNLOCKED
    :: atomic { state == RESIDENT_CLEAN && pte != ABSENT };
       drop_unlocked()
#endif
#ifdef BUG_CLEAN_IN_PLACE
    :: atomic { MAY_GO && state == RESIDENT_DIRTY && CAN_USE(0) -> lock() };
       clean_in_place()
#endif
    od
}
#endif
