/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Weir across processes: objects (weir_object.h) that show in several processes of one machine.
 *
 *   owner      the process whose runtime has the object: its budget, back ends and threads
 *   attached   any other process that has it too; it needs no runtime of its own
 *
 * Always: what any process stores through any view, all of them load, as from memory that threads
 * share. A page is in memory once, and when it leaves, no process can store to it any more before
 * its bytes are read, whether that process runs or is stopped. (Andrea Arcangeli's "big iron":
 * shared memory that is "mapped some hundred times", by hundreds of processes.)
 *
 *     weir_object_share(object, "prices");                     // in the owner
 *
 *     weir_attach("prices", NULL, &attached);                  // in another process
 *     weir_attached_map(attached, 0, 2ull << 30, &memory);
 *
 * Both processes are the same user's, on one machine, with the same version of this library. When
 * the owner ends or closes its runtime, views in attached processes end in SIGBUS, and an event has
 * said so; when an attached process ends, in whatever way, nobody else is disturbed. Objects need
 * Linux 6.4 for this. docs/LIMITS.md says more.
 *
 * Threads and signals: as in weir.h.
 */

#include <weir/weir_object.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct weir_attached;

/*
 * Let other processes of the same user attach the object by this name until weir_object_unshare()
 * or weir_object_close(). name is a word of at most 63 letters, digits, '.', '_' and '-', which is
 * the user's own and goes with the process (within one network namespace), or an absolute path of
 * at most 107 bytes, at which a socket is made. The object lives until its last view is unmapped
 * and the last process has detached. WEIR_EINVAL: not such a name. WEIR_EBUSY: the name is in use,
 * the object has one, or 64 objects of the runtime are shared. WEIR_EDENIED, WEIR_ENOENT: the
 * directory. WEIR_ENOSUPPORT: before Linux 6.4. WEIR_ENOMEM. An event has said why and what to do.
 */
int weir_object_share(struct weir_object *object, const char *name);

/* Let no more processes attach it; those that are attached stay. WEIR_ENOENT: it is not shared. */
int weir_object_unshare(struct weir_object *object);

struct weir_attach_options {
    size_t size;            /* sizeof(struct weir_attach_options) of the caller */
    weir_event_fn on_event; /* NULL: nobody listens; as in struct weir_options  */
    void *event_context;
};

/*
 * Attach the object of that name. options may be NULL. The caller ends it by weir_detach(); it is
 * not inherited by fork children. Waits at most ten seconds for the owner. WEIR_ENOENT: nobody
 * shares an object by this name. WEIR_EDENIED: another user does, or the container forbids
 * userfaultfd. WEIR_ENOSUPPORT: the other process's library is of another version, or the kernel is
 * older than Linux 6.4. WEIR_EAGAIN: the owner does not answer. WEIR_ESTOPPED: it has just ended.
 * WEIR_EBUSY: 1024 processes are attached. WEIR_EINVAL, WEIR_ENOMEM.
 */
int weir_attach(const char *name, const struct weir_attach_options *options,
                struct weir_attached **attached_p);

/*
 * Unmap all its views and detach. The pointer is void. Waits until the owner has forgotten the
 * views; if it does not within ten seconds (it is stopped), their addresses stay taken. A thread
 * that uses a view afterwards gets SIGSEGV. NULL is allowed. In a fork child: does nothing,
 * WEIR_EFORKED.
 */
int weir_detach(struct weir_attached *attached);

/* How long the object is. Any thread, any signal handler. */
uint64_t weir_attached_bytes(const struct weir_attached *attached);

/*
 * Map a view of [offset, offset + bytes), as weir_view_map() does in the owner, against whose limit
 * of WEIR_OBJECT_VIEWS_MAX it counts. Unmap it by weir_attached_unmap(). weir_advise() and
 * weir_pin() do not know such views: advise in the owner, and pin by weir_attached_pin().
 * WEIR_EINVAL, WEIR_EBUSY, WEIR_ENOMEM: as there. WEIR_ESTOPPED: the owner has ended. WEIR_EAGAIN:
 * it does not answer within ten seconds. WEIR_EFORKED.
 */
int weir_attached_map(struct weir_attached *attached, uint64_t offset, uint64_t bytes,
                      void **address_p);

/* Unmap the view that begins there. Waits as weir_detach() does. WEIR_ENOENT: there is none. */
int weir_attached_unmap(struct weir_attached *attached, void *address);

/*
 * As weir_pin() and weir_unpin(), for a range of one view: its pages stay in memory, for all
 * processes, and mapped here, so that system calls find them. The same range is to be unpinned as
 * often; what is left is undone when the view is unmapped, or the process ends. The owner is asked
 * for 512 pages at a time.
 * WEIR_EIO, WEIR_EFULL, WEIR_ENOMEM: as there. WEIR_EINVAL: not inside one view, or not pinned.
 * WEIR_EBUSY: too many pins of a page, or 65536 such ranges of the process. WEIR_ESTOPPED,
 * WEIR_EAGAIN, WEIR_EFORKED: as above.
 */
int weir_attached_pin(struct weir_attached *attached, void *address, uint64_t bytes,
                      enum weir_access access);
int weir_attached_unpin(struct weir_attached *attached, void *address, uint64_t bytes);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
