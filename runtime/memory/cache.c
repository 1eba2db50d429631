/* SPDX-License-Identifier: MIT */
#include "runtime/memory/cache.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/memory/heat.h"

uint32_t wr_cache_frames(uint32_t reader_count, uint32_t chunk_count)
{
    return reader_count + chunk_count * WR_CACHE_CHUNK;
}

int wr_cache_init(struct wr_cache *cache, struct wr_pages *pages, uint32_t reader_count,
                  uint32_t chunk_count)
{
    uint32_t frames = chunk_count * WR_CACHE_CHUNK;

    WR_CHECK(reader_count >= 1 && reader_count <= WR_READERS_MAX);
    *cache = (struct wr_cache){
        .pages = pages,
        .reader_count = reader_count,
        .chunk_count = chunk_count,
        .first_frame = reader_count,
        .queue_count = chunk_count,
    };
    cache->owners = malloc(frames * sizeof(*cache->owners));
    cache->queue = malloc(chunk_count * sizeof(*cache->queue));
    if (!cache->owners || !cache->queue) {
        free(cache->owners);
        free(cache->queue);
        return WEIR_ENOMEM;
    }
    memset(cache->owners, 0xff, frames * sizeof(*cache->owners));
    for (uint32_t i = 0; i < chunk_count; i++)
        cache->queue[i] = i;
    wr_lock_init(&cache->lock, WR_RANK_CACHE);
    atomic_store(&cache->readers_free,
                 reader_count == 64 ? UINT64_MAX : (1ull << reader_count) - 1);
    return WEIR_OK;
}

void wr_cache_fini(struct wr_cache *cache)
{
    if (!cache->owners)
        return;
    wr_lock_fini(&cache->lock);
    free(cache->owners);
    free(cache->queue);
    cache->owners = NULL;
    cache->queue = NULL;
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

uint32_t wr_cache_take(struct wr_cache *cache)
{
    uint32_t chunk = WR_CHUNK_OF_NONE;
    uint32_t *owners;
    uint32_t first_frame;

    wr_lock_take(&cache->lock);
    if (cache->queue_count > 0) {
        chunk = cache->queue[cache->queue_first];
        cache->queue_first = (cache->queue_first + 1) % cache->chunk_count;
        cache->queue_count--;
    }
    wr_lock_drop(&cache->lock);
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

    WR_CHECK((first_frame - cache->first_frame) % WR_CACHE_CHUNK == 0);
    wr_lock_take(&cache->lock);
    WR_CHECK(cache->queue_count < cache->chunk_count);
    if (is_useful) {
        cache->queue[(cache->queue_first + cache->queue_count) % cache->chunk_count] = chunk;
    } else {
        cache->queue_first = (cache->queue_first + cache->chunk_count - 1) % cache->chunk_count;
        cache->queue[cache->queue_first] = chunk;
    }
    cache->queue_count++;
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
    return cache->chunk_count * (WR_CACHE_CHUNK * sizeof(*cache->owners) + sizeof(*cache->queue));
}
