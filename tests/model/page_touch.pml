/* SPDX-License-Identifier: MIT */
/* The program of page.pml: what it does by itself, its faults (fault.c), its pins (range.c). */

#define IS_STORE (access == ACCESS_WRITE)
/* A mapped page that traps was stored to, if nobody says otherwise. */
#define IS_STORE_MAPPED (access != ACCESS_READ)

#define NEEDS_FRAME(pin) \
    (state == EMPTY || state == RESIDENT_ZERO -> \
         (pin || IS_STORE || (state == RESIDENT_ZERO && access == ACCESS_UNKNOWN)) : \
         (state == OUT || IS_CACHED))

#ifdef BUG_CANCELLED
#define IS_CANCELLED 0
#else
#define IS_CANCELLED cancelled
#endif

/* A touch asks under the page's lock whether the region goes: from then on a frame of staging that
 * the page names may be released at any moment. */
#ifdef BUG_GOING
#define TURNED_AWAY 0
#define MAY_TOUCH   IS_IN
#define GATE        COME_IN
#else
#define TURNED_AWAY GOING
#define MAY_TOUCH   (!GOING)
#ifdef UNMAP
#define GATE :: atomic { going && inside[_pid] -> in_hand = in_hand - has_frame; \
                         credits = credits + has_frame; has_frame = 0; LEAVE }
#else
#define GATE
#endif
#endif

inline use_frame()
{
    assert(has_frame);
    has_frame = 0; in_hand--
}

/* The page is as the touch wants it. */
inline done(pin)
{
    pins = pins + pin;
    is_served = 1;
    put();
    goto resolved
}

/* --- By where the page is: after the first system call, which serve() makes ------------------ */

inline first_load(pin)
{
    atomic { protect() } /* a store in between got a frame of its own */
    atomic {
        if
#ifndef BUG_ZERO_UNSEEN
        :: pte == READ_ONLY -> credits--; move(RESIDENT_DIRTY)
        :: pte == ZERO_PAGE -> move(RESIDENT_ZERO)
        :: pte == ZERO_PAGE -> credits--; move(RESIDENT_DIRTY) /* a neighbour was stored to */
#else
        :: move(RESIDENT_ZERO)
#endif
        fi;
        done(pin)
    }
}

/* A page under write is mapped beside the frame that is being written; a store forgets the slot. */
inline restore_staged(pin)
{
    atomic {
        if
        :: state == CACHED_DIRTY -> /* memory is low: the frame is released by itself */
           assert(held[frame] && target[frame] == NONE); held[frame] = 0; credits++
        :: skip
        fi;
#ifdef BUG_RELEASE_EARLY
        if
        :: state == CACHED_WRITING -> staged[frame] = ELSE
        :: else
        fi;
#endif
        if
        :: !IS_STORE && state == CACHED_WRITING -> move(RESIDENT_WRITING); frame = NONE
        :: else -> move(RESIDENT_DIRTY); clear_slot(); leave_staging()
        fi;
        done(pin)
    }
}

inline restore_clean(pin)
{
    atomic {
        leave_slab();
        if
        :: IS_STORE -> move(RESIDENT_DIRTY); free_slot(slot); clear_slot()
        :: else -> move(RESIDENT_CLEAN)
        fi;
        done(pin)
    }
}

inline demand_read(pin)
{
    read_slot(reading);
    atomic {
        !locked -> lock();
        if
        :: IS_CANCELLED ->
           move(EMPTY); cancelled = 0; has_failed = 0; reading = ELSE;
           free_slot(slot); clear_slot(); put(); goto again
        :: !IS_CANCELLED && has_failed ->
           move(POISONED); has_failed = 0; reading = ELSE; put(); goto resolved
#ifdef NOMEM
        :: !IS_CANCELLED && !has_failed -> move(OUT); reading = ELSE; put(); goto again
#endif
        :: !IS_CANCELLED && !has_failed && !IS_STORE && !(draining && slot == 0) ->
           keeps = 1; place(reading, READ_ONLY)
        :: !IS_CANCELLED && !has_failed -> place(reading, WRITABLE)
        fi;
        use_frame(); reading = ELSE
    }
    atomic {
        if
        :: keeps -> move(RESIDENT_CLEAN); keeps = 0
        :: else -> move(RESIDENT_DIRTY); free_slot(slot); clear_slot()
        fi;
        done(pin)
    }
}

inline store_zero(pin)
{
#ifdef NOMEM
    if
    :: atomic { move(EMPTY); put(); goto again }
    :: skip
    fi;
#endif
    atomic { place(ZERO, WRITABLE); use_frame() }
    atomic { move(RESIDENT_DIRTY); done(pin) }
}

inline store_protected(pin)
{
    atomic {
        if
        :: state == RESIDENT_CLEAN -> move(RESIDENT_DIRTY); free_slot(slot); clear_slot()
        :: state == RESIDENT_WRITING -> move(RESIDENT_DIRTY); clear_slot()
        :: state == RESIDENT_DIRTY
        fi;
        freed = 0;
        done(pin)
    }
}

/* --- One touch ------------------------------------------------------------------------------- */

/* A frame first, by what the state seems to be, so that nobody waits for one with a page locked;
 * then the lock; and again, if it turns out that a frame is needed after all. */
inline arrive(pin)
{
    atomic {
        if
        :: !has_frame && NEEDS_FRAME(pin) -> take_credit(); has_frame = 1
        :: else
        fi
    }
    atomic {
        !locked -> lock();
        if
        :: TURNED_AWAY -> put(); goto resolved
        :: !TURNED_AWAY && !has_frame && NEEDS_FRAME(pin) -> put(); goto again
        :: else
        fi
    }
}

/* The same without its stages: whether there is a frame that is not needed depends on what the
 * state was a while ago, so it is as one likes. */
inline arrive_anyhow(pin)
{
    lock();
    if
    :: has_frame
    :: !has_frame && (NEEDS_FRAME(pin) || state == EMPTY) -> take_credit(); has_frame = 1
    :: !has_frame && !NEEDS_FRAME(pin)
    fi
}

inline forget_touch()
{
    is_absent = 0; is_served = 0; access = ACCESS_READ
}

/* The rest of a touch, from the lock on. */
inline serve(pin)
{
    atomic {
        if
        :: state == EMPTY && has_frame ->
           place(ZERO, WRITABLE); use_frame(); goto at_first_store
        :: state == EMPTY && !has_frame -> place(ELSE, ZERO_OPEN); goto at_first_load
        :: state == OUT ->
           move(READING);
#ifdef BUG_FREE_AT_READ
           used[slot] = 0; stored[slot] = ELSE;
#endif
           put(); goto at_out
#ifdef BUG_WAIT_WRITE
        :: state == CACHED_WRITING -> put(); goto at_writing
        :: state == CACHED_DIRTY ->
#else
        :: state == CACHED_DIRTY || state == CACHED_WRITING ->
#endif
           place(staged[frame], (!IS_STORE && state == CACHED_WRITING -> READ_ONLY : WRITABLE));
           use_frame(); goto at_staged
        :: state == CACHED_CLEAN ->
           place(slab[frame], (IS_STORE -> WRITABLE : READ_ONLY)); use_frame(); goto at_clean
#ifdef BUG_LOCKED_WAIT
        :: state == READING -> goto at_reading
#else
        :: state == READING -> put(); goto at_reading
#endif
#ifdef BUG_SPIN
        :: state == POISONED -> put(); goto again
#else
        :: state == POISONED -> put(); goto resolved
#endif
        :: state == RESIDENT_ZERO && !is_absent && (pin || IS_STORE_MAPPED) ->
           unmap_page(); goto at_zero
        :: IS_CHARGED && !is_absent && IS_STORE_MAPPED -> unprotect(); goto at_protected
        :: IS_MAPPED &&
           (is_absent || (access == ACCESS_READ && !(pin && state == RESIDENT_ZERO))) ->
           done(pin) /* somebody else was faster, or it is as a pin wants it */
#ifdef NOMEM
        :: (state == EMPTY && has_frame) || IS_CACHED -> put(); goto again
#endif
        fi
    }
at_first_store:
#ifdef BUG_TAKE_BACK
    if /* a neighbour in the run got no memory, so that all of it is taken back */
    :: atomic { unmap_page(); has_frame = 1; in_hand++; put(); goto again }
    :: skip
    fi;
#endif
    atomic { move(RESIDENT_DIRTY); done(pin) }
at_first_load:
    first_load(pin);
at_out:
    demand_read(pin);
at_staged:
    restore_staged(pin);
at_clean:
    restore_clean(pin);
at_zero:
    store_zero(pin);
at_protected:
    store_protected(pin);
#ifdef BUG_WAIT_WRITE
at_writing:
    atomic { state != CACHED_WRITING -> goto again }
#endif
at_reading:
    atomic { state != READING -> goto again }
    atomic {
        false; /* only by goto, which stays atomic so */
resolved:
        if
        :: has_frame -> has_frame = 0; put_credit()
        :: else
        fi;
        LEAVE;
#ifndef BOUNDED
        if
        :: pin == 0 -> forget_touch()
        :: else
        fi
#endif
    }
}

/* --- The program ----------------------------------------------------------------------------- */

#define LOADS  (pte != ABSENT)
#define STORES (pte == WRITABLE || pte == ZERO_OPEN)

inline cpu_load()
{
    load(MAPPED)
}

inline cpu_store()
{
    pte = WRITABLE; was_writable = 1; /* the kernel copies an open zero page */
    store()
}

#ifdef UNKNOWN
/* The page is asked for: it is mapped if its state says so. */
#define WHAT_IS_KNOWN is_absent = 0; access = ACCESS_UNKNOWN
#else
#define WHAT_IS_KNOWN skip
#endif

#ifndef BOUNDED
active proctype App()
{
end:
    do
    :: d_step { LOADS -> cpu_load() }
    :: d_step { STORES -> cpu_store() }
    od
}
#endif

#ifdef FAULTERS
active [FAULTERS] proctype Faulter()
{
    byte access;
    bit is_absent, has_frame, is_served, has_failed, keeps;
#ifdef BOUNDED
    bit is_done = 1, wants_store;
    byte left = BOUNDED;
end:
    do
    :: atomic {
           is_done && left > 0 -> left--; is_done = 0;
           if
           :: wants_store = 0
           :: wants_store = 1
           fi
       }
    :: atomic { !is_done && !wants_store && LOADS -> cpu_load(); is_done = 1 }
    :: atomic { !is_done && wants_store && STORES -> cpu_store(); is_done = 1 }
    :: atomic {
           !is_done && (wants_store -> !STORES : !LOADS) && !GOING ->
           ENTER; is_absent = (pte == ABSENT); access = wants_store; WHAT_IS_KNOWN
       }
again:
       arrive(0);
       serve(0);
       atomic { LEAVE; is_done = !is_served; forget_touch() } /* unreadable: the program is told */
    :: atomic { GOING && !is_done -> is_done = 1 }
    od
#else
end:
again:
    do
    GATE
    :: atomic {
           !locked && state != READING && MAY_TOUCH ->
           ENTER;
           if
           :: access = ACCESS_READ; is_absent = 1
           :: access = ACCESS_WRITE; is_absent = 1
           :: access = ACCESS_WRITE; is_absent = 0
           fi;
           WHAT_IS_KNOWN;
           arrive_anyhow(0)
       }
       serve(0)
    od
#endif
}
#endif

/* A region that goes forgets its pins. */
inline unpin()
{
    if
    :: atomic { !locked && !GOING -> assert(pins > 0 && LOADS); pins--; forget_touch() }
    :: atomic { GOING -> forget_touch() }
    fi
}

#ifdef PINNERS
/* weir_pin(), then a device or a system call that uses the page, then weir_unpin(). A page that is
 * pinned for loads may still be the shared zero page: see first_load(), of a neighbour. */
active [PINNERS] proctype Pinner()
{
    byte access;
    bit is_absent, has_frame, is_served, has_failed, keeps;
#ifdef BOUNDED
    byte left = BOUNDED;
#else
again:
#endif
end:
    do
    GATE
    :: atomic {
#ifdef BOUNDED
           left > 0 && !GOING -> left--; ENTER; access = ACCESS_WRITE
#else
           !locked && state != READING && MAY_TOUCH ->
           ENTER;
           if
           :: access = ACCESS_READ
           :: access = ACCESS_WRITE
           fi;
           arrive_anyhow(1)
#endif
       };
#ifdef BOUNDED
again:
       arrive(1);
#endif
       serve(1);
       if
       :: atomic { !is_served -> forget_touch() }
       :: atomic { is_served && (access == ACCESS_READ || GOING) -> assert(LOADS || GOING) };
          unpin()
       :: atomic {
              is_served && access == ACCESS_WRITE && !GOING && !device ->
              assert(STORES); app = MAPPED; pte = WRITABLE; device = 1
          };
          atomic { assert(device && STORES); store() };
          atomic { assert(device && STORES); device = 0 };
          unpin()
       fi
    od
}
#endif

#ifdef FOREIGN
#if defined(WP) || defined(DISCARD) || defined(FREE_HINT) || defined(UNMAP) || defined(PINNERS)
#error "only UFFDIO_MOVE notices such a device, and who gives up a page must not use one on it"
#endif
/* A device that found the page writable and holds it, though nobody called weir_pin(). */
active proctype Device()
{
end:
    do
    :: atomic { !device && pte == WRITABLE -> device = 1 }
    :: d_step { device -> store() }
    :: atomic { device -> device = 0 }
    od
}
#endif
