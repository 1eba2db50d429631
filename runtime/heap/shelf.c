/* SPDX-License-Identifier: MIT */
#include "runtime/heap/shelf.h"

#include <string.h>

#define STACK_BYTES ((size_t)64 << 10) /* about so much of each class */
#define STACK_MIN   8u
#define STACK_MAX   128u
#define ENTRIES_MIN 64u

struct wr_book_entry {
    uint64_t number;
    struct wr_shelf *shelf;
};

_Thread_local struct wr_book wr_book;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool is_ready;

/* Taken before any lock of a heap. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct weir_heap *living;
static uint64_t last_number;

/* --- Shelves --------------------------------------------------------------------------------- */

static uint32_t limit_of(uint32_t class)
{
    size_t limit = STACK_BYTES / wr_class_bytes(class);

    return limit < STACK_MIN ? STACK_MIN : limit > STACK_MAX ? STACK_MAX : (uint32_t)limit;
}

static size_t shelf_bytes(void)
{
    size_t bytes = sizeof(struct wr_shelf);

    for (uint32_t class = 1; class < WR_CLASS_COUNT; class ++)
        bytes += limit_of(class) * sizeof(void *);
    return bytes;
}

static struct wr_shelf *make_shelf(void)
{
    struct wr_shelf *shelf = wr_units_reserve(shelf_bytes());
    void **block;

    if (!shelf)
        return NULL;
    block = shelf->block;
    for (uint32_t class = 1; class < WR_CLASS_COUNT; class ++) {
        shelf->stack[class] = (struct wr_stack){.limit = limit_of(class), .block = block};
        block += limit_of(class);
    }
    return shelf;
}

static void link_shelf(struct weir_heap *heap, struct wr_shelf *shelf)
{
    pthread_mutex_lock(&lock);
    shelf->next = heap->shelves;
    if (shelf->next)
        shelf->next->prev = shelf;
    heap->shelves = shelf;
    pthread_mutex_unlock(&lock);
}

static void unlink_shelf_locked(struct weir_heap *heap, struct wr_shelf *shelf)
{
    if (shelf->next)
        shelf->next->prev = shelf->prev;
    if (shelf->prev)
        shelf->prev->next = shelf->next;
    else
        heap->shelves = shelf->next;
}

void wr_shelf_put(struct weir_heap *heap, struct wr_shelf *shelf, uint32_t class, uint32_t left)
{
    struct wr_stack *stack = &shelf->stack[class];
    const uint32_t gone = stack->count - left;

    if (stack->count <= left)
        return;
    wr_slabs_put(&heap->slabs, class, gone, stack->block);
    memmove(stack->block, stack->block + gone, left * sizeof(void *));
    stack->count = left;
}

void wr_shelf_empty(struct weir_heap *heap, struct wr_shelf *shelf)
{
    for (uint32_t class = 1; class < WR_CLASS_COUNT; class ++)
        wr_shelf_put(heap, shelf, class, 0);
}

/* --- Books ----------------------------------------------------------------------------------- */

static struct weir_heap *living_heap_locked(uint64_t number)
{
    for (struct weir_heap *heap = living; heap; heap = heap->next)
        if (heap->number == number)
            return heap;
    return NULL;
}

/* Entries of heaps that are gone make room; if there are none, the book grows. */
static bool make_room(void)
{
    struct wr_book_entry *entry;
    uint32_t kept = 0, room = wr_book.room ? wr_book.room * 2 : ENTRIES_MIN;

    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < wr_book.count; i++)
        if (living_heap_locked(wr_book.entry[i].number))
            wr_book.entry[kept++] = wr_book.entry[i];
    pthread_mutex_unlock(&lock);
    wr_book.count = kept;
    if (kept < wr_book.room)
        return true;
    entry = wr_units_reserve(room * sizeof(*entry));
    if (!entry)
        return false;
    if (kept > 0)
        memcpy(entry, wr_book.entry, kept * sizeof(*entry));
    wr_units_unreserve(wr_book.entry, wr_book.room * sizeof(*entry));
    wr_book.entry = entry;
    wr_book.room = room;
    return true;
}

static struct wr_shelf *look_up(uint64_t number)
{
    for (uint32_t i = 0; i < wr_book.count; i++)
        if (wr_book.entry[i].number == number)
            return wr_book.entry[i].shelf;
    return NULL;
}

static struct wr_shelf *add_shelf(struct weir_heap *heap)
{
    struct wr_shelf *shelf;

    /* The value says only that this thread has a book, which is where the thread's end finds it. */
    if ((wr_book.count == wr_book.room && !make_room()) || pthread_setspecific(key, &wr_book) != 0)
        return NULL;
    shelf = make_shelf();
    if (!shelf)
        return NULL;
    link_shelf(heap, shelf);
    wr_book.entry[wr_book.count++] = (struct wr_book_entry){heap->number, shelf};
    return shelf;
}

struct wr_shelf *wr_shelf_find(struct weir_heap *heap)
{
    struct wr_shelf *shelf;

    if (heap->number == WR_HEAP_FORKED)
        return NULL;
    shelf = look_up(heap->number);
    if (!shelf)
        shelf = add_shelf(heap);
    if (shelf) {
        wr_book.last_number = heap->number;
        wr_book.last = shelf;
    }
    return shelf;
}

/* The thread ends. The lock keeps its heaps from being destroyed meanwhile. Should it use a heap
 * afterwards, in the end of something else, it gets a new book, and ends once more. */
static void end_of_thread(void *value)
{
    (void)value;
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < wr_book.count; i++) {
        struct weir_heap *heap = living_heap_locked(wr_book.entry[i].number);
        struct wr_shelf *shelf = wr_book.entry[i].shelf;

        if (!heap)
            continue;
        wr_shelf_empty(heap, shelf);
        unlink_shelf_locked(heap, shelf);
        wr_units_unreserve(shelf, shelf_bytes());
    }
    pthread_mutex_unlock(&lock);
    wr_units_unreserve(wr_book.entry, wr_book.room * sizeof(struct wr_book_entry));
    memset(&wr_book, 0, sizeof(wr_book));
}

/* --- Heaps that live ------------------------------------------------------------------------- */

static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void in_parent(void)
{
    pthread_mutex_unlock(&lock);
}

/* Their regions are not here, and their locks may be held by threads that are not, either. */
static void in_child(void)
{
    for (struct weir_heap *heap = living; heap; heap = heap->next)
        heap->number = WR_HEAP_FORKED;
    living = NULL;
    wr_book.last_number = 0;
    wr_book.count = 0;
    pthread_mutex_unlock(&lock);
}

static void get_ready(void)
{
    is_ready = pthread_key_create(&key, end_of_thread) == 0 &&
               pthread_atfork(before_fork, in_parent, in_child) == 0;
}

bool wr_shelf_ready(void)
{
    pthread_once(&once, get_ready);
    return is_ready;
}

void wr_heap_enter(struct weir_heap *heap)
{
    pthread_mutex_lock(&lock);
    heap->number = ++last_number;
    heap->prev = NULL;
    heap->next = living;
    if (living)
        living->prev = heap;
    living = heap;
    pthread_mutex_unlock(&lock);
}

void wr_heap_leave(struct weir_heap *heap)
{
    struct wr_shelf *shelf, *next;

    pthread_mutex_lock(&lock);
    if (heap->next)
        heap->next->prev = heap->prev;
    if (heap->prev)
        heap->prev->next = heap->next;
    else
        living = heap->next;
    for (shelf = heap->shelves; shelf; shelf = next) {
        next = shelf->next;
        wr_units_unreserve(shelf, shelf_bytes());
    }
    heap->shelves = NULL;
    pthread_mutex_unlock(&lock);
}
