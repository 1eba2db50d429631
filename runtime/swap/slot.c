/* SPDX-License-Identifier: MIT */
#include "runtime/swap/slot.h"

#include "runtime/base/reserve.h"

#define TABLE_ALIGN 4096u

static uint64_t live_bytes(const struct wr_slots *slots)
{
    return slots->cluster_count * sizeof(*slots->live);
}

static uint64_t owner_bytes(const struct wr_slots *slots)
{
    return slots->count * sizeof(*slots->owner);
}

int wr_slots_init(struct wr_slots *slots, uint64_t count)
{
    void *live, *owner, *marks;

    *slots = (struct wr_slots){
        .count = count,
        .cluster_count = (uint32_t)((count + WEIR_CLUSTER_SLOTS - 1) / WEIR_CLUSTER_SLOTS),
    };
    if (wr_reserve(live_bytes(slots), TABLE_ALIGN, &live) != 0)
        return WEIR_ENOMEM;
    slots->live = live;
    if (wr_reserve(owner_bytes(slots), TABLE_ALIGN, &owner) != 0) {
        wr_slots_fini(slots);
        return WEIR_ENOMEM;
    }
    slots->owner = owner;
    if (wr_reserve(slots->cluster_count, TABLE_ALIGN, &marks) != 0) {
        wr_slots_fini(slots);
        return WEIR_ENOMEM;
    }
    slots->marks = marks;
    slots->free_clusters = (int32_t)(count / WEIR_CLUSTER_SLOTS);
    return WEIR_OK;
}

void wr_slots_fini(struct wr_slots *slots)
{
    wr_unreserve(slots->live, live_bytes(slots));
    wr_unreserve(slots->owner, owner_bytes(slots));
    wr_unreserve(slots->marks, slots->cluster_count);
    slots->live = NULL;
    slots->marks = NULL;
    slots->owner = NULL;
}

/* The last cluster may be a part of one. */
static uint32_t cluster_size(const struct wr_slots *slots, uint32_t cluster)
{
    uint64_t first = (uint64_t)cluster * WEIR_CLUSTER_SLOTS;
    uint64_t rest = slots->count - first;

    return rest < WEIR_CLUSTER_SLOTS ? (uint32_t)rest : WEIR_CLUSTER_SLOTS;
}

uint32_t wr_slots_end(const struct wr_slots *slots, uint32_t cluster)
{
    return cluster * WEIR_CLUSTER_SLOTS + cluster_size(slots, cluster);
}

static bool is_whole(const struct wr_slots *slots, uint32_t cluster)
{
    return cluster_size(slots, cluster) == WEIR_CLUSTER_SLOTS;
}

static void add_live(struct wr_slots *slots, uint32_t cluster, uint32_t taken)
{
    atomic_fetch_add_explicit(&slots->live[cluster], (uint16_t)taken, memory_order_relaxed);
    atomic_fetch_add_explicit(&slots->used, taken, memory_order_relaxed);
}

static void lower_hint(struct wr_slots *slots, uint32_t cluster)
{
    uint32_t lowest = atomic_load_explicit(&slots->lowest, memory_order_relaxed);

    while (cluster < lowest &&
           !atomic_compare_exchange_weak_explicit(&slots->lowest, &lowest, cluster,
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

/* True: the cluster is free now. */
static bool sub_live(struct wr_slots *slots, uint32_t cluster, uint32_t freed)
{
    /* Release: the owners are gone before the cluster looks free. Pairs with the acquire in
     * wr_slots_live(). */
    uint32_t before = atomic_fetch_sub_explicit(&slots->live[cluster], (uint16_t)freed,
                                                memory_order_release);

    WR_CHECK(before >= freed);
    if (before == freed && is_whole(slots, cluster))
        atomic_fetch_add_explicit(&slots->free_clusters, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&slots->used, freed, memory_order_relaxed);
    if (before == freed)
        lower_hint(slots, cluster);
    return before == freed;
}

uint32_t wr_slots_live(const struct wr_slots *slots, uint32_t cluster)
{
    return atomic_load_explicit(&slots->live[cluster], memory_order_acquire);
}

static bool is_being_cleaned(const struct wr_slots *slots, uint32_t cluster)
{
    return slots->marks[cluster] & WR_CLUSTER_CLEANED;
}

static bool take_free_cluster(struct wr_slots *slots, struct wr_slot_run *run_p)
{
    uint32_t from = atomic_load_explicit(&slots->lowest, memory_order_relaxed);

    for (uint32_t cluster = from; cluster < slots->cluster_count; cluster++)
        if (wr_slots_live(slots, cluster) == 0 && !is_being_cleaned(slots, cluster)) {
            run_p->place = cluster * WEIR_CLUSTER_SLOTS;
            run_p->count = cluster_size(slots, cluster);
            add_live(slots, cluster, run_p->count);
            slots->marks[cluster] = WR_CLUSTER_USED;
            if (is_whole(slots, cluster))
                atomic_fetch_sub_explicit(&slots->free_clusters, 1, memory_order_relaxed);
            /* Unless a lower one came free meanwhile. */
            atomic_compare_exchange_strong_explicit(&slots->lowest, &from, cluster + 1,
                                                    memory_order_relaxed, memory_order_relaxed);
            return true;
        }
    return false;
}

/* The cluster with the most room; none is free. */
static bool find_roomiest(const struct wr_slots *slots, uint32_t *cluster_p)
{
    uint32_t most = 0;

    for (uint32_t cluster = 0; cluster < slots->cluster_count; cluster++) {
        uint32_t room = cluster_size(slots, cluster) - wr_slots_live(slots, cluster);

        if (room > most && !is_being_cleaned(slots, cluster)) {
            most = room;
            *cluster_p = cluster;
        }
    }
    return most > 0;
}

/* The longest run of free slots of a cluster that is partly in use. */
static bool take_part(struct wr_slots *slots, uint32_t cluster, struct wr_slot_run *run_p)
{
    uint32_t first = cluster * WEIR_CLUSTER_SLOTS;
    uint32_t end = first + cluster_size(slots, cluster);
    uint32_t length = 0, unused;

    run_p->count = 0;
    for (uint32_t place = first; place < end; place++) {
        length = wr_slots_owner(slots, place, &unused) ? 0 : length + 1;
        if (length > run_p->count) {
            run_p->count = length;
            run_p->place = place + 1 - length;
        }
    }
    if (run_p->count)
        add_live(slots, cluster, run_p->count);
    slots->marks[cluster] = WR_CLUSTER_USED;
    return run_p->count > 0;
}

bool wr_slots_take(struct wr_slots *slots, struct wr_slot_run *run_p)
{
    uint32_t cluster;

    if (wr_slots_used(slots) >= slots->count)
        return false;
    return take_free_cluster(slots, run_p) ||
           (find_roomiest(slots, &cluster) && take_part(slots, cluster, run_p));
}

void wr_slots_return(struct wr_slots *slots, const struct wr_slot_run *run, uint32_t used)
{
    WR_CHECK(used <= run->count);
    if (used < run->count)
        sub_live(slots, run->place / WEIR_CLUSTER_SLOTS, run->count - used);
}

void wr_slots_own(struct wr_slots *slots, uint32_t place, uint32_t page)
{
    WR_CHECK(place < slots->count);
    atomic_store_explicit(&slots->owner[place], page + 1, memory_order_relaxed);
}

bool wr_slots_free(struct wr_slots *slots, uint32_t place)
{
    WR_CHECK(place < slots->count);
    WR_CHECK(atomic_exchange_explicit(&slots->owner[place], 0, memory_order_relaxed) != 0);
    return sub_live(slots, place / WEIR_CLUSTER_SLOTS, 1);
}

bool wr_slots_cleaned(struct wr_slots *slots, uint32_t cluster)
{
    bool is_free = wr_slots_live(slots, cluster) == 0;

    slots->marks[cluster] &= (uint8_t)~WR_CLUSTER_CLEANED;
    if (is_free)
        lower_hint(slots, cluster); /* it may have been passed over while it was read */
    else
        slots->marks[cluster] |= WR_CLUSTER_TRIED;
    return is_free;
}

bool wr_slots_owner(const struct wr_slots *slots, uint32_t place, uint32_t *page_p)
{
    uint32_t owner = atomic_load_explicit(&slots->owner[place], memory_order_relaxed);

    *page_p = owner - 1;
    return owner != 0;
}
