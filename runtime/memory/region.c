/* SPDX-License-Identifier: MIT */
#include "runtime/memory/region.h"

#include <pthread.h>
#include <string.h>

#include "runtime/base/check.h"
#include "runtime/memory/gate.h"
#include "runtime/memory/space.h"

/* Two tables that take turns: one is published, nobody reads the other. So publishing and, more
 * important, retracting need no memory and cannot fail for want of it. */
struct table {
    uint32_t count;
    struct wr_region *regions[WR_PUBLISHED_MAX]; /* by address */
};

static struct table tables[2];
static pthread_mutex_t replace_mutex = PTHREAD_MUTEX_INITIALIZER; /* one replacement at a time */
static bool other_is_read; /* somebody may still look at the unpublished one; kept by the mutex */
static _Atomic(const struct table *) published = &tables[0];
static _Atomic(uint32_t) serials;

uint32_t wr_region_next_serial(void)
{
    return 1 + atomic_fetch_add(&serials, 1);
}

uint64_t wr_region_sum(const struct wr_region *region, enum wr_region_counter counter)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < WR_REGION_SHARDS; i++)
        sum += atomic_load_explicit(&region->counter[i][counter], memory_order_relaxed);
    return sum;
}

/* The position of the first region that begins above the address. */
static uint32_t position_above(const struct table *table, uint64_t addr)
{
    uint32_t low = 0, high = table->count;

    while (low < high) {
        uint32_t middle = (low + high) / 2;

        if (table->regions[middle]->addr <= addr)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct wr_region *find_in(const struct table *table, uint64_t addr)
{
    uint32_t above = position_above(table, addr);
    struct wr_region *region = above ? table->regions[above - 1] : NULL;

    return region && addr - region->addr < region->reserve_bytes ? region : NULL;
}

struct wr_region *wr_region_find(uint64_t addr)
{
    /* Sequentially consistent: see wr_gate_enter(). */
    return find_in(atomic_load(&published), addr);
}

bool wr_region_was_ours(uint64_t addr)
{
    return find_in(atomic_load(&published), addr) != NULL;
}

/* The table to fill next. Waits for those who may still read it: not as long as one publishes and
 * then does not for a while. */
static struct table *begin_replacing(struct wr_host *host)
{
    if (other_is_read)
        wr_gate_wait(host);
    other_is_read = false;
    return atomic_load(&published) == &tables[0] ? &tables[1] : &tables[0];
}

static void publish(const struct table *next)
{
    atomic_store(&published, next);
    other_is_read = true;
}

/* There is room; the caller has the mutex, as below. */
static void put_in(struct wr_region *region)
{
    struct table *next = begin_replacing(region->space->host);
    const struct table *now = atomic_load(&published);
    uint32_t at = position_above(now, region->addr);

    memcpy(next->regions, now->regions, at * sizeof(next->regions[0]));
    next->regions[at] = region;
    memcpy(next->regions + at + 1, now->regions + at, (now->count - at) * sizeof(next->regions[0]));
    next->count = now->count + 1;
    publish(next);
}

/* And wait until nobody is left inside who found it. */
static void take_out(const struct wr_region *region)
{
    struct table *next = begin_replacing(region->space->host);
    const struct table *now = atomic_load(&published);
    uint32_t at = position_above(now, region->addr) - 1;

    WR_CHECK(now->regions[at] == region);
    memcpy(next->regions, now->regions, at * sizeof(next->regions[0]));
    memcpy(next->regions + at, now->regions + at + 1,
           (now->count - at - 1) * sizeof(next->regions[0]));
    next->count = now->count - 1;
    publish(next);
    wr_gate_wait(region->space->host);
    other_is_read = false;
}

int wr_region_publish(struct wr_region *region)
{
    int error = WEIR_ENOMEM;

    pthread_mutex_lock(&replace_mutex);
    if (atomic_load(&published)->count < WR_PUBLISHED_MAX) {
        put_in(region);
        error = WEIR_OK;
    }
    pthread_mutex_unlock(&replace_mutex);
    return error;
}

void wr_region_retract(struct wr_region *region)
{
    pthread_mutex_lock(&replace_mutex);
    take_out(region);
    pthread_mutex_unlock(&replace_mutex);
}

/* Searches go by the address, so that it may change only when nobody finds the region. */
static void change_address(struct wr_region *region, uint64_t addr, uint64_t reserve_bytes)
{
    take_out(region);
    atomic_store(&region->addr, addr);
    atomic_store(&region->reserve_bytes, reserve_bytes);
    /* Release: who sees no page as moved any more sees the address. */
    atomic_store_explicit(&region->moved, 0, memory_order_release);
}

void wr_region_readdress(struct wr_region *region, uint64_t addr, uint64_t reserve_bytes)
{
    pthread_mutex_lock(&replace_mutex);
    change_address(region, addr, reserve_bytes);
    put_in(region); /* in the room that it left */
    pthread_mutex_unlock(&replace_mutex);
}

void wr_region_hide(struct wr_region *region, uint64_t addr, uint64_t reserve_bytes)
{
    pthread_mutex_lock(&replace_mutex);
    change_address(region, addr, reserve_bytes);
    pthread_mutex_unlock(&replace_mutex);
}
