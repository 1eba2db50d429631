/* SPDX-License-Identifier: MIT */
#include "runtime/paging/kheat.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/memory/heat.h"

#define NS_STEP     250000000ull
#define GROUPS_MOST 65536u /* that one step warms, or looks at: 16 GiB of addresses */

struct place {
    uint64_t addr;
    uint32_t first, pages;
    uint16_t number;
};

struct wr_kheat {
    struct wr_space *space;
    struct wr_heat_source *source; /* NULL: none */
    struct wr_bell bell;
    void *thread;
    _Atomic(bool) stop;
    _Atomic(uint64_t) warmed; /* relaxed */
    char how[700];

    /* Kept by the thread. */
    uint32_t hand;   /* page number                                       */
    uint32_t offset; /* which page of a group is the sample in this round */
    uint32_t left;   /* groups that this step may still warm              */
    uint32_t place_count;
    struct place places[WR_REGIONS_MAX]; /* by address */
    uint64_t sample[WR_HEAT_SAMPLE];
};

/* --- From addresses to pages and back -------------------------------------------------------- */

static int by_address(const void *a, const void *b)
{
    const struct place *left = a, *right = b;

    return (left->addr > right->addr) - (left->addr < right->addr);
}

/* Of this moment. A place that is being changed may be half of each: then its chunks disagree. */
static void look_at_places(struct wr_kheat *k)
{
    k->place_count = 0;
    for (uint32_t i = 1; i <= atomic_load(&k->space->number_end); i++) {
        const struct wr_place *from = &k->space->places[i];
        struct place place = {
            .addr = atomic_load_explicit(&from->addr, memory_order_relaxed),
            .first = atomic_load_explicit(&from->first, memory_order_relaxed),
            .pages = atomic_load_explicit(&from->pages, memory_order_relaxed),
            .number = (uint16_t)i,
        };

        if (place.addr != 0)
            k->places[k->place_count++] = place;
    }
    qsort(k->places, k->place_count, sizeof(k->places[0]), by_address);
}

static const struct wr_chunk *chunk_of(const struct wr_kheat *k, uint32_t page)
{
    return &k->space->pages.chunks[page / WR_CHUNK_PAGES];
}

static bool owns(const struct wr_kheat *k, const struct place *place, uint32_t page)
{
    return page < k->space->pages.count &&
           atomic_load_explicit(&chunk_of(k, page)->region, memory_order_relaxed) == place->number;
}

/* The last place that begins at or before the address, or the first. */
static uint32_t find_place(const struct wr_kheat *k, uint64_t addr)
{
    uint32_t low = 0, high = k->place_count;

    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;

        if (k->places[middle].addr <= addr)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static void warm_pages(struct wr_kheat *k, const struct place *place, uint32_t from, uint32_t end)
{
    for (uint32_t page = from; page < end && k->left > 0;
         page = (page / WR_HEAT_PAGES + 1) * WR_HEAT_PAGES) {
        k->left--;
        if (!owns(k, place, page) ||
            atomic_load_explicit(&chunk_of(k, page)->resident, memory_order_relaxed) == 0)
            continue;
        wr_page_warm(&k->space->pages, page);
        atomic_fetch_add_explicit(&k->warmed, 1, memory_order_relaxed);
    }
}

static void on_used(void *context, uint64_t addr, uint32_t pages)
{
    struct wr_kheat *k = context;
    uint64_t end = addr + (uint64_t)pages * WEIR_PAGE_BYTES;

    for (uint32_t i = find_place(k, addr); i < k->place_count && k->places[i].addr < end; i++) {
        const struct place *place = &k->places[i];
        uint64_t last = place->addr + (uint64_t)place->pages * WEIR_PAGE_BYTES;
        uint64_t from = addr > place->addr ? addr : place->addr;
        uint64_t to = end < last ? end : last;

        if (from < to)
            warm_pages(k, place, place->first + (uint32_t)((from - place->addr) / WEIR_PAGE_BYTES),
                       place->first + (uint32_t)((to - place->addr - 1) / WEIR_PAGE_BYTES) + 1);
    }
}

/* --- The sample ------------------------------------------------------------------------------ */

/* 0: it is no page of a region that has addresses. */
static uint64_t address_of(const struct wr_kheat *k, uint32_t page)
{
    uint16_t number = atomic_load_explicit(&chunk_of(k, page)->region, memory_order_relaxed);
    const struct wr_place *place = &k->space->places[number];
    uint64_t addr = atomic_load_explicit(&place->addr, memory_order_relaxed);
    uint32_t first = atomic_load_explicit(&place->first, memory_order_relaxed);

    if (addr == 0 || page < first ||
        page - first >= atomic_load_explicit(&place->pages, memory_order_relaxed))
        return 0;
    return addr + (uint64_t)(page - first) * WEIR_PAGE_BYTES;
}

/* Where the hand goes next: past the group, or past a chunk of which nothing is resident. */
static uint32_t advance(struct wr_kheat *k, bool is_empty, uint32_t end)
{
    uint32_t stride = is_empty ? WR_CHUNK_PAGES : WR_HEAT_PAGES;
    uint64_t next = (k->hand / stride + 1ull) * stride;

    if (next < end)
        return (uint32_t)next;
    k->offset = (k->offset + 1) % WR_HEAT_PAGES;
    return 0;
}

static uint32_t choose_sample(struct wr_kheat *k)
{
    const struct wr_pages *pages = &k->space->pages;
    uint32_t end = atomic_load(&k->space->chunk_end) * WR_CHUNK_PAGES;
    uint32_t count = 0;

    if (end == 0)
        return 0;
    for (uint32_t looks = 0; looks < GROUPS_MOST && count < WR_HEAT_SAMPLE; looks++) {
        uint32_t page = (k->hand < end ? k->hand : 0) / WR_HEAT_PAGES * WR_HEAT_PAGES + k->offset;
        bool is_empty = atomic_load_explicit(&chunk_of(k, page)->resident, memory_order_relaxed) ==
                        0;
        uint64_t addr;
        bool is_dirty;

        k->hand = page - k->offset;
        if (!is_empty && wr_page_peek_evictable(pages, page, &is_dirty) &&
            (addr = address_of(k, page)) != 0)
            k->sample[count++] = addr;
        k->hand = advance(k, is_empty, end);
        if (k->hand == 0)
            break; /* round */
    }
    return count;
}

void wr_kheat_step(struct wr_kheat *k)
{
    const struct wr_heat_ask ask = {
        .sample = k->sample,
        .sample_count = choose_sample(k),
        .used = on_used,
        .context = k,
    };

    look_at_places(k);
    k->left = GROUPS_MOST;
    k->source->ops->step(k->source, &ask);
}

/* --- The thread ------------------------------------------------------------------------------ */

static void kheat_main(void *context)
{
    struct wr_kheat *k = context;
    struct wr_host *host = k->space->host;

    host->ops->thread_idle(host);
    while (!atomic_load(&k->stop)) {
        wr_kheat_step(k);
        host->ops->bell_wait(host, &k->bell, NULL, 0, host->ops->now_ns(host) + NS_STEP);
    }
}

/* The first that opens, and into how why the others did not. */
static int choose_source(struct wr_kheat *k, const char *name, const char *root)
{
    static const struct wr_heat_source_ops *const all[] = {&wr_heat_perf, &wr_heat_idle,
                                                           &wr_heat_damon};
    bool is_auto = strcmp(name, "auto") == 0;
    char reasons[600], reason[200];
    struct wr_text why, one, how;
    int error = WEIR_ENOSUPPORT;

    wr_text_init(&why, reasons, sizeof(reasons));
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]) && error == WEIR_ENOSUPPORT; i++) {
        if (!is_auto && strcmp(name, all[i]->name) != 0)
            continue;
        wr_text_init(&one, reason, sizeof(reason));
        error = all[i]->open(root, &k->source, &one);
        if (one.length == 0)
            continue;
        wr_text_add(&why, why.length > 0 ? "; " : "");
        wr_text_add(&why, reason);
    }
    wr_text_init(&how, k->how, sizeof(k->how));
    wr_text_add(&how, k->source ? k->source->ops->name : "none");
    wr_text_add(&how, is_auto ? " (chosen by itself" : " (asked for");
    if (why.length > 0) {
        wr_text_add(&how, "; ");
        wr_text_add(&how, reasons);
    }
    wr_text_add(&how, ")");
    if (error == WEIR_ENOSUPPORT && !is_auto)
        wr_event(&k->space->events, WEIR_NOTE, WEIR_OK, 0, 0, reasons);
    return error == WEIR_ENOSUPPORT ? WEIR_OK : error;
}

int wr_kheat_open(struct wr_space *space, const char *name, const char *root,
                  struct wr_kheat **kheat_p)
{
    struct wr_host *host = space->host;
    struct wr_kheat *k;
    int error;

    if (strcmp(name, "none") == 0)
        return WEIR_OK;
    k = calloc(1, sizeof(*k));
    if (!k)
        return WEIR_ENOMEM;
    k->space = space;
    k->bell.fd = -1;
    error = choose_source(k, name, root);
    if (error == WEIR_OK && k->source)
        error = host->ops->bell_init(host, &k->bell);
    if (error == WEIR_OK && k->source)
        error = host->ops->thread_start(host, "weir-kheat", kheat_main, k, &k->thread);
    if (error != WEIR_OK) {
        wr_kheat_close(k);
        return error;
    }
    *kheat_p = k;
    return WEIR_OK;
}

void wr_kheat_close(struct wr_kheat *k)
{
    struct wr_host *host;

    if (!k)
        return;
    host = k->space->host;
    if (k->thread) {
        atomic_store(&k->stop, true);
        host->ops->bell_ring(host, &k->bell);
        host->ops->thread_stop(host, k->thread);
    }
    if (k->source) {
        k->source->ops->close(k->source);
        host->ops->bell_fini(host, &k->bell);
    }
    free(k);
}

const char *wr_kheat_how(const struct wr_kheat *k)
{
    return k->how;
}

uint64_t wr_kheat_warmed(const struct wr_kheat *k)
{
    return atomic_load_explicit(&k->warmed, memory_order_relaxed);
}
