/* SPDX-License-Identifier: MIT */
/* The world of page.pml: bytes, the kernel, the nouns of the runtime, and what always holds. */

/* Bytes. */
#define ZERO 0
#define LAST 1 /* what the program stored last */
#define ELSE 2

/* What the kernel's page table says. */
#define ABSENT    0
#define READ_ONLY 1 /* write-protected, a frame of its own           */
#define WRITABLE  2
#define ZERO_OPEN 3 /* the shared zero page; a store copies, no trap */
#define ZERO_PAGE 4 /* the shared zero page, write-protected         */

#define ACCESS_READ    0
#define ACCESS_WRITE   1
#define ACCESS_UNKNOWN 2

/* What becomes of a staging frame. */
#define FREE_FRAME 0
#define OPEN       1 /* in the extent that kswapd fills                      */
#define OPEN_DRAIN 2 /* in the one that the drainer fills                    */
#define QUEUED     3
#define FLYING     4 /* a write reads it                                     */
#define LANDED     5 /* the write is over; its segment is still kswapd's     */

#define NONE    3
#define STAGES  2
#define SLABS   2
#ifndef SLOTS
#define SLOTS   2
#endif
#define CREDITS 12 /* never all in use */

/* The descriptor, as of the last put. */
byte state = EMPTY;
bit locked, freed, cancelled;
byte pins;
byte slot = NONE, frame = NONE;
byte sum = ELSE; /* the bytes that the checksum is of */

/* The program's side. */
byte pte = ABSENT;
byte app = ELSE;  /* bytes of the application's frame           */
bit was_writable; /* since this frame was mapped                */
bit device;       /* somebody holds this frame, to write to it  */
byte last = ZERO; /* what a load is to give                     */
bit hinted;       /* zero will do as well                       */

/* Staging. target: the slot that the frame is being written to. */
byte stage[STAGES] = FREE_FRAME;
bit held[STAGES];
byte staged[STAGES] = ELSE;
byte target[STAGES] = NONE;

/* Slots. picked: one that kswapd has taken for the write that it builds. */
bit used[SLOTS];
byte stored[SLOTS] = ELSE;
byte picked = NONE;
bit draining; /* the back end of slot 0 takes no more pages */

/* Slab. */
bit chunk_taken[SLABS];
byte slab[SLABS] = ELSE;
byte reading = ELSE; /* the frame of the fault, or of the drain, that reads the page */

/* The budget. in_hand: frames that were taken and are not given to the page yet. */
byte credits = CREDITS;
byte in_hand;

#ifdef UNMAP
bit going, gone, owned = 1;
bit inside[10]; /* the gate, by process */
#define ENTER inside[_pid] = 1
#define LEAVE inside[_pid] = 0
#define OWNED owned
#define GOING going
/* A call or a touch: it comes in while the region is not going, and locks the page later. */
#define COME_IN :: atomic { MORE && !going && !inside[_pid] -> ENTER }
#define IS_IN   inside[_pid]
#else
#define ENTER skip
#define LEAVE skip
#define OWNED 1
#define GOING 0
#define COME_IN
#define IS_IN   1
#endif

#ifdef BOUNDED
#define MORE  (left > 0)
#define SPEND left--
#else
#define MORE  1
#define SPEND skip
#endif

#define IS_CHARGED (state == RESIDENT_DIRTY || state == RESIDENT_CLEAN || state == RESIDENT_WRITING)
#define IS_MAPPED  (state == RESIDENT_ZERO || IS_CHARGED)
#define IS_CACHED  (state == CACHED_DIRTY || state == CACHED_WRITING || state == CACHED_CLEAN)
#define IS_WRITING (state == CACHED_WRITING || state == RESIDENT_WRITING)
#define HAS_SLOT   (state == OUT || state == READING || state == CACHED_CLEAN || \
                    state == RESIDENT_CLEAN || state == POISONED || IS_WRITING)

/* Moves that were taken, so that all runs together can be compared with page.c; no part of a
 * state. */
c_code {
    static unsigned char taken[11][11];
    static int from_state;

    static void print_taken(void)
    {
        for (int from = 0; from < 11; from++)
            for (int to = 0; to < 11; to++)
                if (taken[from][to])
                    printf("taken %d %d\n", from, to);
    }

    __attribute__((constructor)) static void print_at_exit(void)
    {
        atexit(print_taken);
    }
};

/* --- Bytes ----------------------------------------------------------------------------------- */

#define GOOD(bytes) (bytes == last || (hinted && bytes == ZERO))
/* What a load finds in the mapped page. */
#define IS_ZERO_PAGE (pte == ZERO_OPEN || pte == ZERO_PAGE)
#define MAPPED       (IS_ZERO_PAGE -> ZERO : app)
#define AGE(place)  place = (place == LAST -> ELSE : place)

/* What was last is so no more. */
inline age()
{
    AGE(app); AGE(sum); AGE(reading); AGE(staged[0]); AGE(staged[1]); AGE(slab[0]); AGE(slab[1]);
#if SLOTS > 2
    AGE(stored[2]);
#endif
    AGE(stored[0]); AGE(stored[1])
}

inline store()
{
    age(); app = LAST; last = LAST; hinted = 0
}

inline load(bytes)
{
    assert(GOOD(bytes) || GOING);
    if
    :: hinted && bytes == ZERO && last == LAST -> age(); last = ZERO; hinted = 0
    :: else
    fi
}

/* From here on the page reads as zero. */
inline discarded()
{
    age(); last = ZERO; hinted = 0
}

/* --- The kernel ------------------------------------------------------------------------------ */

inline place(bytes, mode)
{
    assert(pte == ABSENT);
    app = bytes; pte = mode; was_writable = (pte == WRITABLE)
}

inline unprotect()
{
    assert(pte != ABSENT);
    pte = (IS_ZERO_PAGE -> ZERO_OPEN : WRITABLE); was_writable = 1
}

inline protect()
{
    assert(pte != ABSENT);
    pte = (IS_ZERO_PAGE -> ZERO_PAGE : READ_ONLY)
}

inline unmap_page()
{
    assert(!device);
    pte = ABSENT; app = ELSE; was_writable = 0
}

/* --- The runtime ----------------------------------------------------------------------------- */

inline lock()
{
#ifdef UNMAP
    assert(!gone); /* the descriptor */
#endif
    locked = 1
}

inline put()
{
    locked = 0
}

inline move(to)
{
    c_code { from_state = now.state; };
    assert(((state == EMPTY -> FROM_EMPTY :
             (state == OUT -> FROM_OUT :
             (state == READING -> FROM_READING :
             (state == CACHED_DIRTY -> FROM_CACHED_DIRTY :
             (state == CACHED_WRITING -> FROM_CACHED_WRITING :
             (state == CACHED_CLEAN -> FROM_CACHED_CLEAN :
             (state == RESIDENT_ZERO -> FROM_RESIDENT_ZERO :
             (state == RESIDENT_DIRTY -> FROM_RESIDENT_DIRTY :
             (state == RESIDENT_CLEAN -> FROM_RESIDENT_CLEAN :
             (state == RESIDENT_WRITING -> FROM_RESIDENT_WRITING :
              FROM_POISONED)))))))))) & TO(to)) != 0);
    state = to;
    c_code { taken[from_state][now.state] = 1; }
}

inline free_slot(which)
{
    assert(used[which]);
    assert(target[0] != which && target[1] != which);
    used[which] = 0;
    stored[which] = ELSE
}

/* The page has the slot no more, or has it only to forget it: a write in flight will free it. */
inline clear_slot()
{
    slot = NONE; sum = ELSE
}

/* The page's bytes are no longer in a frame of ours. */
inline leave_staging()
{
    staged[frame] = ELSE; frame = NONE
}

inline leave_slab()
{
    slab[frame] = ELSE; frame = NONE
}

inline take_credit()
{
    assert(credits > 0);
    credits--; in_hand++
}

inline put_credit()
{
    credits++; in_hand--
}

/* A segment, here of one frame, that no page needs any more. */
inline release(which)
{
    assert(GOING || !((state == CACHED_DIRTY || state == CACHED_WRITING) && frame == which));
    assert(target[which] == NONE);
    credits = credits + held[which];
    held[which] = 0;
    staged[which] = ELSE;
    stage[which] = FREE_FRAME
}

/* A read of the page by whoever made it READING. */
inline read_slot(bytes)
{
    atomic {
        assert(used[slot] && target[0] != slot && target[1] != slot);
        bytes = stored[slot];
        assert(bytes == sum)
#ifdef ERRORS
        ;
        if
        :: has_failed = 1; bytes = ELSE
        :: skip
        fi
#endif
    }
}

/* --- What always holds while the page is not locked ------------------------------------------ */

#define IF(a, b) assert(!(a) || (b))
#define NAMES(s) (HAS_SLOT && !IS_WRITING && slot == s)
#define USERS(s) (NAMES(s) + (target[0] == s) + (target[1] == s) + (picked == s))

inline audit_mapping()
{
    IF(state == RESIDENT_ZERO, pte == ZERO_PAGE);
    IF(state == RESIDENT_DIRTY, pte != ABSENT);
    IF(state == RESIDENT_CLEAN || state == RESIDENT_WRITING, pte == READ_ONLY && !was_writable);
    IF(!IS_MAPPED, pte == ABSENT);
    IF(freed, IS_CHARGED && (pte == READ_ONLY || pte == ZERO_PAGE));
    IF(cancelled, state == READING);
    IF(pins > 0, IS_CHARGED);
    IF(device, state == RESIDENT_DIRTY && (pte == WRITABLE || pte == READ_ONLY))
}

inline audit_places()
{
    assert(used[0] == USERS(0));
    assert(used[1] == USERS(1));
#if SLOTS > 2
    assert(used[2] == USERS(2));
#endif
    assert((slot != NONE) == HAS_SLOT);
    assert((frame != NONE) == IS_CACHED);
    assert(credits + in_hand + IS_CHARGED + held[0] + held[1] == CREDITS)
}

inline audit_bytes()
{
    IF(state == EMPTY || state == RESIDENT_ZERO || cancelled, GOOD(ZERO));
    IF(IS_CHARGED, GOOD(MAPPED));
    IF(NAMES(slot) && !cancelled, GOOD(stored[slot]) && stored[slot] == sum);
    IF(state == CACHED_CLEAN, GOOD(slab[frame]));
    IF(state == CACHED_DIRTY || state == CACHED_WRITING, GOOD(staged[frame]) && held[frame]);
    IF(state == CACHED_DIRTY, stage[frame] != FREE_FRAME && target[frame] == NONE);
    IF(IS_WRITING, used[slot]);
    IF(state == CACHED_WRITING, target[frame] == slot);
    IF(state == CACHED_WRITING, sum == staged[frame]);
    IF(state == RESIDENT_WRITING, sum == app)
}

inline audit()
{
    audit_mapping();
    audit_places();
    if
    :: GOING
    :: else -> audit_bytes()
    fi
}
