/* SPDX-License-Identifier: MIT */
/*
 * Page: everything that can happen to one page, in every order.
 *
 * What is modelled: the states of runtime/memory/page.h, moved as fault.c, range.c, reclaim.c,
 * cache.c, readahead.c, launder.c and drain.c move them, one system call at a time. The page's lock
 * is a bit; what is done under it is done in the order of the code, and loads and stores of the
 * program, devices and the completion of writes come in between wherever the lock does not hold
 * them off. The state that others peek at is that of the last put.
 *
 *   App        loads and stores that do not trap                    page_touch.pml
 *   Faulter    a touch that traps, to its return      -DFAULTERS=n  page_touch.pml
 *   Pinner     weir_pin(), a device, weir_unpin()     -DPINNERS=n   page_touch.pml
 *   Device     holds the page without weir_pin()      -DFOREIGN     page_touch.pml
 *   Kswapd     drop, revoke, inspect, write, complete -DKSWAPD      page_leave.pml
 *              and second chances in the cache        -DCHANCE
 *   Reader     readahead and WEIR_WILLNEED            -DAHEAD       page_aside.pml
 *   Drainer    empties a back end, again and again    -DDRAIN       page_aside.pml
 *   Adviser    WEIR_DISCARD, WEIR_FREE                -DDISCARD, -DFREE_HINT
 *   Unmapper   weir_unmap(), once                     -DUNMAP       page_aside.pml
 *   Auditor    looks at everything whenever the page is not locked  page_world.pml
 *
 * More switches: -DWP takes dirty pages by protect, copy, drop instead of by UFFDIO_MOVE; -DUNKNOWN
 * is a processor that does not say what a touch was; -DERRORS lets reads and writes fail; -DNOMEM
 * lets the kernel be short of memory; -DSLOTS=n; -DBOUNDED=n gives every process n operations
 * instead of any number (see P4).
 *
 * What is abstracted: bytes. A place that can hold a page (the application's frame, frames of
 * staging and slab, slots, the frame of a reader) holds zeros, what the program stored last, or
 * something else; a store turns every other copy of the last into something else. The runtime
 * compares bytes with nothing but zero and their own checksum, so this stands for any number of
 * stores. What is given back, or no longer needed by the page, holds something else from that
 * instant, as if others had used it at once.
 *   Other pages are there only in that. A staging frame is an extent and a segment of its own, a
 * slab frame a chunk of its own. Neighbours in a run take the same steps as faults. The budget has
 * always another frame. Which victim, how many and when: anything goes. What a touch found when it
 * trapped may be as old as one likes, so it is chosen when the page is locked; but for P4, where
 * the touch is followed step by step.
 *   Left out: a program that drops pages by a madvise() of its own, fork, the sleep of those who
 * wait for the lock or for a frame, system calls that fail though memory is there, and orders of
 * memory accesses weaker than one after the other.
 *
 * Properties:
 *   P1  a load gives what was stored last; zero after a discard; after a free hint either, but
 *       once it was zero, zero. So no store is lost and nothing that was discarded comes back
 *   P2  clean pages have been protected since they were mapped; bytes under write stay as they
 *       are; a slot is freed or written only when nobody else reads or writes it; the place that
 *       the state names holds the page; a page that may be dirty is unmapped without a copy only
 *       when it was discarded or freed; a pinned page stays mapped; every move is drawn in page.c
 *   P3  no slot, no staging frame and no frame of the budget is lost or given back twice
 *   P4  when all others do a bounded number of things, every access of the program comes to its
 *       end: no deadlock, no endless loop (no cycle of states at all)       -DBOUNDED=n
 *   P5  the same when no write ever completes: no fault waits for a write  -DSTUCK_WRITES
 *
 * The BUG_ switches plant mistakes that must be found; CMakeLists.txt lists them, and what is
 * searched. run_model.sh is how; moves.c sees to it that the moves below are those of page.c, and
 * that each of them is taken in some search.
 */

#define EMPTY            0
#define OUT              1
#define READING          2
#define CACHED_DIRTY     3
#define CACHED_WRITING   4
#define CACHED_CLEAN     5
#define RESIDENT_ZERO    6
#define RESIDENT_DIRTY   7
#define RESIDENT_CLEAN   8
#define RESIDENT_WRITING 9
#define POISONED         10

#define TO(state) (1 << state)

/* moves.c compares this with wr_page_may_move(). */
#define FROM_EMPTY            (TO(RESIDENT_ZERO) | TO(RESIDENT_DIRTY))
#define FROM_OUT              (TO(READING) | TO(EMPTY))
#define FROM_READING          (TO(RESIDENT_CLEAN) | TO(RESIDENT_DIRTY) | TO(CACHED_CLEAN) | \
                               TO(CACHED_DIRTY) | TO(OUT) | TO(EMPTY) | TO(POISONED))
#define FROM_CACHED_DIRTY     (TO(RESIDENT_DIRTY) | TO(CACHED_WRITING) | TO(EMPTY))
#define FROM_CACHED_WRITING   (TO(RESIDENT_WRITING) | TO(RESIDENT_DIRTY) | TO(OUT) | \
                               TO(CACHED_DIRTY) | TO(EMPTY))
#define FROM_CACHED_CLEAN     (TO(RESIDENT_CLEAN) | TO(RESIDENT_DIRTY) | TO(OUT) | TO(EMPTY))
#define FROM_RESIDENT_ZERO    (TO(RESIDENT_DIRTY) | TO(EMPTY))
#define FROM_RESIDENT_DIRTY   (TO(CACHED_DIRTY) | TO(EMPTY))
#define FROM_RESIDENT_CLEAN   (TO(RESIDENT_DIRTY) | TO(CACHED_CLEAN) | TO(OUT) | TO(EMPTY))
#define FROM_RESIDENT_WRITING (TO(RESIDENT_CLEAN) | TO(RESIDENT_DIRTY) | TO(EMPTY))
#define FROM_POISONED         (TO(EMPTY))

#include "page_world.pml"
#include "page_touch.pml"
#include "page_leave.pml"
#include "page_aside.pml"

#ifndef BOUNDED
active proctype Auditor()
{
end:
    do
    :: d_step { !locked -> audit() }
    od
}
#endif
