/* SPDX-License-Identifier: MIT */
/* Who else has to do with the page of page.pml: readahead (readahead.c), a back end that is emptied
 * (drain.c), advice and the end of the region (range.c). */

/* --- Readahead ------------------------------------------------------------------------------- */

#ifdef AHEAD
/* The bytes have come, or not. */
inline ahead_arrived()
{
    atomic {
        !locked -> ENTER;
        if
        :: IS_CANCELLED -> move(EMPTY); cancelled = 0; free_slot(slot); clear_slot()
        :: !IS_CANCELLED && has_failed -> move(OUT)
        :: !IS_CANCELLED && !has_failed -> move(CACHED_CLEAN); frame = b
        fi;
        has_failed = 0; LEAVE
    }
}

/* Map what has come, if a frame is spare and nobody was faster. */
inline ahead_map()
{
    atomic { OWNED -> ENTER; take_credit() }
    atomic {
        !locked ->
        if
        :: state == CACHED_CLEAN && frame == b -> lock()
        :: else -> put_credit(); LEAVE; goto finished
        fi
    }
    atomic { place(slab[b], READ_ONLY); in_hand-- }
    atomic { move(RESIDENT_CLEAN); leave_slab(); put(); LEAVE }
}

active proctype Reader()
{
    byte b = NONE;
    bit has_failed;
#ifdef BOUNDED
    byte left = BOUNDED;
#endif
end:
    do
    :: atomic { MORE && OWNED && !locked && CAN_TAKE_CHUNK -> SPEND; ENTER; take_chunk(b) };
       if
       :: atomic { !locked && state == OUT -> move(READING); LEAVE };
          read_slot(slab[b]);
          ahead_arrived();
          if
          :: skip
          :: ahead_map()
          fi
       :: LEAVE
       fi;
finished:
       atomic { chunk_taken[b] = 0; b = NONE }
    od
}
#endif

/* --- Drain ----------------------------------------------------------------------------------- */

#ifdef DRAIN
/* The bytes have come, or not. Into staging with them, if there is room. */
inline drain_arrived()
{
    atomic {
        !locked -> lock();
        if
        :: IS_CANCELLED ->
           move(EMPTY); cancelled = 0; reading = ELSE; has_failed = 0;
           free_slot(slot); clear_slot(); put(); put_credit(); goto arrived
        :: !IS_CANCELLED && (has_failed || !(stage[0] == FREE_FRAME || stage[1] == FREE_FRAME)) ->
           move(OUT); reading = ELSE; has_failed = 0; put(); put_credit(); goto arrived
        :: else
        fi
    }
    atomic { i = (stage[0] == FREE_FRAME -> 0 : 1); staged[i] = reading; reading = ELSE }
    atomic {
        stage[i] = OPEN_DRAIN; held[i] = 1; in_hand--;
        move(CACHED_DIRTY); frame = i; free_slot(slot); slot = NONE; put()
    }
arrived:
    skip
}

#define IS_THERE (used[0] && OWNED && !locked && slot == 0)

active proctype Drainer()
{
    byte i = NONE;
    bit has_failed;
#ifdef BOUNDED
    byte left = 2 * BOUNDED; /* to begin is one */
#endif
end:
    do
    :: atomic { MORE && !draining -> SPEND; draining = 1 };
       picked == NONE; /* the gate: who had picked a slot there has given it to a page */
end_there:
       do
       :: atomic {
              MORE && IS_THERE && (state == CACHED_CLEAN || state == OUT) ->
              SPEND; take_credit();
              if
              :: state == CACHED_CLEAN -> move(OUT); leave_slab()
              :: else
              fi;
              move(READING)
          };
          read_slot(reading);
          drain_arrived();
          atomic {
              if
              :: i != NONE -> stage[i] = QUEUED; i = NONE
              :: else
              fi
          }
       :: atomic {
              MORE && IS_THERE && state == RESIDENT_CLEAN ->
              SPEND; move(RESIDENT_DIRTY); free_slot(slot); clear_slot()
          }
       :: atomic { !used[0] -> assert(!NAMES(0) && picked != 0); draining = 0; break }
       :: atomic { draining = 0; break } /* given up */
       od
    od
}
#endif

/* --- Advice ---------------------------------------------------------------------------------- */

#ifdef BUG_PENDING
#define OWNS_SLOT HAS_SLOT
#else
#define OWNS_SLOT (HAS_SLOT && !IS_WRITING)
#endif

/* The lock is held, and the page is not mapped. */
inline let_go_unmapped()
{
    if
    :: state == READING -> cancelled = 1
    :: state == EMPTY
    :: else ->
       if
       :: OWNS_SLOT -> free_slot(slot)
       :: else
       fi;
       if
       :: state == CACHED_CLEAN -> move(EMPTY); leave_slab()
       :: state == CACHED_DIRTY || state == CACHED_WRITING -> move(EMPTY); leave_staging()
       :: else -> move(EMPTY)
       fi;
       clear_slot()
    fi;
    discarded();
    put()
}

inline let_go_mapped()
{
    atomic { unmap_page(); discarded() }
    atomic {
        credits = credits + IS_CHARGED;
        if
        :: state == RESIDENT_CLEAN -> move(EMPTY); free_slot(slot)
        :: else -> move(EMPTY)
        fi;
        clear_slot(); freed = 0; put()
    }
}

#if defined(DISCARD) || defined(FREE_HINT)
active proctype Adviser()
{
    bit is_discard;
#ifdef BOUNDED
    byte left = BOUNDED;
#endif
end:
    do
    COME_IN
    :: atomic {
           MORE && !locked && IS_IN -> SPEND; lock();
           if
#ifdef DISCARD
           :: is_discard = 1
#endif
#ifdef FREE_HINT
           :: is_discard = 0
#endif
           fi
       };
       if
       :: atomic { pins > 0 -> put() } /* refused, or left out */
       :: atomic { pins == 0 && !IS_MAPPED -> let_go_unmapped() }
       :: pins == 0 && IS_MAPPED && is_discard -> let_go_mapped()
       :: pins == 0 && IS_MAPPED && !is_discard ->
          if
          :: atomic { state == RESIDENT_ZERO -> put() }
          :: atomic { state != RESIDENT_ZERO -> protect(); hinted = (last == LAST) }
             atomic { freed = 1; put() }
          fi
       fi;
       atomic { is_discard = 0; LEAVE }
#ifdef BUG_PEEK
    :: d_step { state == EMPTY -> discarded() } /* though it may be locked, and mapped by now */
#endif
    od
}
#endif

/* --- The end of the region ------------------------------------------------------------------- */

#ifdef UNMAP
inline release_all()
{
    atomic { !locked -> lock(); pins = 0 }
    if
    :: atomic { !IS_MAPPED -> let_go_unmapped() }
    :: IS_MAPPED -> let_go_mapped()
    fi
}

active proctype Unmapper()
{
    atomic { !device -> going = 1 }; /* nobody may rely on it any more */
    release_all();
    owned = 0;
    /* The gate: each of those who were inside has left. */
    inside[0] == 0; inside[1] == 0; inside[2] == 0; inside[3] == 0;
    inside[4] == 0; inside[5] == 0; inside[6] == 0; inside[7] == 0; inside[8] == 0; inside[9] == 0;
    release_all();
    state != READING;
    atomic { assert(state == EMPTY && pte == ABSENT && slot == NONE && frame == NONE); gone = 1 }
}
#endif
