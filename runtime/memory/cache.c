/* SPDX-License-Identifier: MIT */
#include "runtime/memory/cache.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/memory/heat.h"

#define STALE 4u /* times as many takes as there are chunks */

uint32_t wr_cache_frames(uint32_t reader_count, uint32_t chunk_count)
{
    return reader_count + chunk_count * WR_CACHE_CHUNK;
}

static void push(struct wr_cache *cache, enum wr_cache_use use, uint32_t chunk)
{
    struct wr_cache_queue *queue = &cache->queues[use];

    WR_CHECK(queue->count < cache->chunk_count);
    queue->chunks[(queue->first + queue->count++) % cache->chunk_count] = chunk;
}

/* The youngest becomes the oldest. */
static void rotate(struct wr_cache_queue *queue, uint32_t room)
{
    uint32_t youngest = queue->chunks[(queue->first + queue->count - 1) % room];

    queue->first = (queue->first + room - 1) % room;
    queue->chunks[queue->first] = youngest;
}

static uint32_t pop(struct wr_cache *cache, enum wr_cache_use use)
{
    struct wr_cache_queue *queue = &cache->queues[use];
    uint32_t chunk = queue->chunks[queue->first];

    queue->first = (queue->first + 1) % cache->chunk_count;
    queue->count--;
    return chunk;
}

int wr_cache_init(struct wr_cache *cache, struct wr_pages *pages, uint32_t reader_count,
                  uint32_t chunk_count)
{
    uint32_t frames = chunk_count * WR_CACHE_CHUNK;
    bool has_all;

    WR_CHECK(reader_count >= 1 && reader_count <= WR_READERS_MAX);
    *cache = (struct wr_cache){
        .pages = pages,
        .reader_count = reader_count,
        .chunk_count = chunk_count,
        .first_frame = reader_count,
    };
    wr_lock_init(&cache->lock, WR_RANK_CACHE);
    cache->owners = malloc(frames * sizeof(*cache->owners));
    cache->put_at = calloc(chunk_count, sizeof(*cache->put_at));
    cache->uses = malloc(chunk_count * sizeof(*cache->uses));
    has_all = cache->owners && cache->put_at && cache->uses;
    for (uint32_t use = 0; use < WR_CACHE_USES; use++) {
        cache->queues[use].chunks = malloc(chunk_count * sizeof(*cache->queues[use].chunks));
        has_all &= cache->queues[use].chunks != NULL;
    }
    if (!has_all) {
        wr_cache_fini(cache);
        return WEIR_ENOMEM;
    }
    memset(cache->owners, 0xff, frames * sizeof(*cache->owners));
    memset(cache->uses, WR_CACHE_SPARE, chunk_count * sizeof(*cache->uses));
    for (uint32_t i = 0; i < chunk_count; i++)
        push(cache, WR_CACHE_SPARE, i);
    atomic_store(&cache->readers_free,
                 reader_count == 64 ? UINT64_MAX : (1ull << reader_count) - 1);
    return WEIR_OK;
}

void wr_cache_fini(struct wr_cache *cache)
{
    if (!cache->pages)
        return;
    wr_lock_fini(&cache->lock);
    free(cache->owners);
    free(cache->put_at);
    free(cache->uses);
    for (uint32_t use = 0; use < WR_CACHE_USES; use++)
        free(cache->queues[use].chunks);
    *cache = (struct wr_cache){0};
}

/* A page that nobody wanted meanwhile goes; its slot has it. */
static void evict_frame(struct wr_cache *cache, uint32_t frame, uint32_t page)
{
    struct wr_stats *stats = cache->pages->stats;
    struct wr_hold hold;

    if (!wr_page_is_owned(cache->pages, page))
        return;
    wr_page_take(cache->pages, page, &hold);
    if (wr_hold_state(&hold) == WR_PAGE_CACHED_CLEAN && wr_hold_frame(&hold) == frame) {
        if (wr_hold_has(&hold, WR_PAGE_AHEAD))
            wr_stats_count(stats, WR_COUNT_reads_ahead_wasted);
        wr_page_evict(cache->pages, &hold, WR_PAGE_CACHED_CLEAN);
        wr_stats_count(stats, WR_COUNT_cache_deleted);
    }
    wr_page_put(cache->pages, &hold);
}

/* Has the oldest chunk of this queue been left alone for long? */
static bool is_stale(const struct wr_cache *cache, enum wr_cache_use use)
{
    const struct wr_cache_queue *queue = &cache->queues[use];

    return queue->count > 0 &&
           cache->takes - cache->put_at[queue->chunks[queue->first]] > STALE * cache->chunk_count;
}

/* From whose queue? WR_CACHE_USES: all chunks are taken. */
static enum wr_cache_use choose_queue(const struct wr_cache *cache, enum wr_cache_use use)
{
    enum wr_cache_use other = use == WR_CACHE_AHEAD ? WR_CACHE_CHANCE : WR_CACHE_AHEAD;
    bool is_owed = cache->owned[use] < cache->chunk_count / 2;

    if (cache->queues[WR_CACHE_SPARE].count > 0)
        return WR_CACHE_SPARE;
    if (cache->queues[other].count > 0 && (is_owed || is_stale(cache, other)))
        return other;
    if (cache->queues[use].count > 0)
        return use;
    return cache->queues[other].count > 0 ? other : WR_CACHE_USES;
}

static uint32_t take_chunk(struct wr_cache *cache, enum wr_cache_use use)
{
    uint32_t chunk = WR_CHUNK_OF_NONE;
    enum wr_cache_use from;

    wr_lock_take(&cache->lock);
    from = choose_queue(cache, use);
    if (from != WR_CACHE_USES) {
        chunk = pop(cache, from);
        if (from != WR_CACHE_SPARE)
            cache->owned[from]--;
        cache->owned[use]++;
        cache->uses[chunk] = (uint8_t)use;
        cache->takes++;
    }
    wr_lock_drop(&cache->lock);
    return chunk;
}

uint32_t wr_cache_take(struct wr_cache *cache, enum wr_cache_use use)
{
    uint32_t chunk = take_chunk(cache, use);
    uint32_t first_frame;
    uint32_t *owners;

    if (chunk == WR_CHUNK_OF_NONE)
        return WR_FRAME_NONE;
    owners = cache->owners + chunk * WR_CACHE_CHUNK;
    first_frame = cache->first_frame + chunk * WR_CACHE_CHUNK;
    for (uint32_t i = 0; i < WR_CACHE_CHUNK; i++) {
        if (owners[i] != WR_FRAME_NONE)
            evict_frame(cache, first_frame + i, owners[i]);
        owners[i] = WR_FRAME_NONE;
    }
    return first_frame;
}

void wr_cache_put(struct wr_cache *cache, uint32_t first_frame, bool is_useful)
{
    uint32_t chunk = (first_frame - cache->first_frame) / WR_CACHE_CHUNK;
    enum wr_cache_use use;

    WR_CHECK((first_frame - cache->first_frame) % WR_CACHE_CHUNK == 0);
    wr_lock_take(&cache->lock);
    use = (enum wr_cache_use)cache->uses[chunk];
    WR_CHECK(use != WR_CACHE_SPARE);
    if (!is_useful) {
        cache->owned[use]--;
        cache->uses[chunk] = WR_CACHE_SPARE;
        use = WR_CACHE_SPARE;
    }
    cache->put_at[chunk] = cache->takes;
    push(cache, use, chunk);
    /* A spare one is the next to be taken: its memory may be in the processor's cache. */
    if (use == WR_CACHE_SPARE)
        rotate(&cache->queues[use], cache->chunk_count);
    wr_lock_drop(&cache->lock);
}

void wr_cache_own(struct wr_cache *cache, uint32_t frame, uint32_t page)
{
    cache->owners[frame - cache->first_frame] = page;
}

uint32_t wr_cache_chunk_end(const struct wr_cache *cache, uint32_t frame)
{
    uint32_t chunk = (frame - cache->first_frame) / WR_CACHE_CHUNK;

    return cache->first_frame + (chunk + 1) * WR_CACHE_CHUNK;
}

static uint32_t reader_take_try(struct wr_cache *cache)
{
    uint64_t seen = atomic_load_explicit(&cache->readers_free, memory_order_relaxed);

    /* Acquire: pairs with the release in wr_cache_reader_put(): the one before us is done with
     * the frame's bytes. */
    while (seen) {
        uint64_t bit = seen & -seen;

        if (atomic_compare_exchange_weak_explicit(&cache->readers_free, &seen, seen & ~bit,
                                                  memory_order_acquire, memory_order_relaxed))
            return (uint32_t)__builtin_ctzll(bit);
    }
    return WR_FRAME_NONE;
}

uint32_t wr_cache_reader_take(struct wr_cache *cache)
{
    struct wr_host *host = cache->pages->host;
    uint32_t frame = reader_take_try(cache);
    uint64_t begun;

    if (frame != WR_FRAME_NONE)
        return frame;
    begun = host->ops->now_ns(host);
    atomic_fetch_add(&cache->readers_wanted, 1);
    for (;;) {
        uint32_t turn = atomic_load(&cache->readers_turn);

        frame = reader_take_try(cache);
        if (frame != WR_FRAME_NONE)
            break;
        host->ops->park(host, &cache->readers_turn, turn, WR_FOREVER);
    }
    atomic_fetch_sub(&cache->readers_wanted, 1);
    wr_stats_time(cache->pages->stats, WR_TIME_reader, host->ops->now_ns(host) - begun);
    return frame;
}

void wr_cache_reader_put(struct wr_cache *cache, uint32_t frame)
{
    WR_CHECK(frame < cache->reader_count);
    atomic_fetch_or_explicit(&cache->readers_free, 1ull << frame, memory_order_seq_cst);
    /* Sequentially consistent with the add in wr_cache_reader_take(): he sees our bit or we see
     * that he waits. */
    if (atomic_load(&cache->readers_wanted) == 0)
        return;
    atomic_fetch_add(&cache->readers_turn, 1);
    cache->pages->host->ops->unpark(cache->pages->host, &cache->readers_turn, 1);
}

uint64_t wr_cache_metadata(const struct wr_cache *cache)
{
    return cache->chunk_count *
           (WR_CACHE_CHUNK * sizeof(*cache->owners) + (WR_CACHE_USES + 1) * sizeof(uint32_t) + 1);
}
