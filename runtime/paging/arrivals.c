/* SPDX-License-Identifier: MIT */
#include "runtime/paging/arrivals.h"

#include "runtime/base/reserve.h"
#include "runtime/memory/page.h"

#define SLACK       4096u /* for appenders that have looked and not yet put: 32 pages each */
#define LATE        1024u /* entries behind one that is missing: it is not waited for any more */
#define TABLE_ALIGN 4096u

static uint64_t bytes_of(const struct wr_arrivals *arrivals)
{
    return (uint64_t)arrivals->room * sizeof(*arrivals->pages);
}

int wr_arrivals_open(struct wr_arrivals *arrivals, uint64_t room)
{
    void *pages;

    *arrivals = (struct wr_arrivals){.room = 2 * SLACK};
    while (arrivals->room < room + SLACK && arrivals->room < 1u << 31)
        arrivals->room *= 2;
    if (wr_reserve(bytes_of(arrivals), TABLE_ALIGN, &pages) != 0)
        return WEIR_ENOMEM;
    arrivals->pages = pages;
    return WEIR_OK;
}

void wr_arrivals_close(struct wr_arrivals *arrivals)
{
    if (arrivals->pages)
        wr_unreserve(arrivals->pages, bytes_of(arrivals));
    arrivals->pages = NULL;
}

bool wr_arrivals_put(struct wr_arrivals *arrivals, uint32_t page, uint32_t count, int direction)
{
    bool is_late;
    uint64_t at;

    if (wr_arrivals_count(arrivals) + count + SLACK > arrivals->room)
        return false;
    /* Relaxed: the place is ours alone by the addition, and what is put there is a hint. */
    at = atomic_fetch_add_explicit(&arrivals->end, count, memory_order_relaxed);
    /* Passed over already: nobody comes by before the place is another's. */
    is_late = atomic_load_explicit(&arrivals->begin, memory_order_relaxed) > at;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t one = (uint32_t)((int64_t)page + (int64_t)i * direction);

        atomic_store_explicit(&arrivals->pages[(at + i) & (arrivals->room - 1)], one + 1,
                              memory_order_relaxed);
    }
    return !is_late;
}

bool wr_arrivals_take(struct wr_arrivals *arrivals, uint32_t *page_p)
{
    uint64_t begin = atomic_load_explicit(&arrivals->begin, memory_order_relaxed);

    while (begin < atomic_load_explicit(&arrivals->end, memory_order_relaxed)) {
        _Atomic(uint32_t) *entry = &arrivals->pages[begin & (arrivals->room - 1)];
        bool is_missing;
        uint32_t put;

        /* Whoever appends it may be about to; or one who had taken its predecessor in this place,
         * a round ago, was stopped before he read that and has read this: then nothing comes. */
        is_missing = atomic_load_explicit(entry, memory_order_relaxed) == 0;
        if (is_missing &&
            atomic_load_explicit(&arrivals->end, memory_order_relaxed) - begin <= LATE)
            return false;
        /* Relaxed: two may take, and the one who moves the begin has the entry. An appender who
         * comes round meanwhile has his entry taken in its place: one page is found later. */
        if (!atomic_compare_exchange_strong_explicit(&arrivals->begin, &begin, begin + 1,
                                                     memory_order_relaxed, memory_order_relaxed))
            continue;
        put = is_missing ? 0 : atomic_exchange_explicit(entry, 0, memory_order_relaxed);
        begin++;
        if (put == 0)
            continue;
        *page_p = put - 1;
        return true;
    }
    return false;
}
