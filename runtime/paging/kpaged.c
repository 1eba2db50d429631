/* SPDX-License-Identifier: MIT */
#include "runtime/paging/kpaged.h"

#include <stdlib.h>

#include "runtime/base/bug.h"

/* Of memory. A few rounds of kswapd; more would be chosen long before it leaves, by what is no
 * longer true: a loop over 1.2 times the memory missed 42 % at 1/16 and 37 % at 1/256, before it
 * had a rule of its own (weir_policy). */
#define TARGET_SHARE 256u
#define TARGET_LEAST 128u
#define TARGET_CAP   16u /* of memory: where memory is small */

struct wr_kpaged {
    struct wr_space *space;
    struct wr_bell bell;
    void *thread;
    _Atomic(bool) stop;
    _Atomic(bool) roused;
};

uint32_t wr_kpaged_target(enum wr_aging_mode mode, uint64_t frames)
{
    uint64_t target = frames / TARGET_SHARE > TARGET_LEAST ? frames / TARGET_SHARE : TARGET_LEAST;

    if (target > WR_LIST_ROOM)
        target = WR_LIST_ROOM;
    if (mode == WR_AGING_GREEN)
        target /= 2;
    else if (mode != WR_AGING_YELLOW)
        target *= 2;
    if (target > frames / TARGET_CAP)
        target = frames / TARGET_CAP;
    return (uint32_t)target;
}

static void pass(struct wr_kpaged *kpaged)
{
    static const enum wr_counter counters[] = {
        [WR_AGING_GREEN] = WR_COUNT_aging_green,
        [WR_AGING_YELLOW] = WR_COUNT_aging_yellow,
        [WR_AGING_ORANGE] = WR_COUNT_aging_orange,
        [WR_AGING_RED] = WR_COUNT_aging_red,
    };
    const struct wr_frames *frames = &kpaged->space->frames;
    enum wr_aging_mode mode = wr_aging_mode_now(frames);

    if (wr_bug(WR_BUG_no_kpaged))
        return;
    wr_stats_count(kpaged->space->stats, counters[mode]);
    (void)wr_aging_pass(kpaged->space->aging, wr_kpaged_target(mode, wr_frames_total(frames)));
}

static void kpaged_main(void *context)
{
    struct wr_kpaged *kpaged = context;
    struct wr_host *host = kpaged->space->host;

    host->ops->thread_idle(host);
    while (!atomic_load(&kpaged->stop)) {
        if (atomic_exchange(&kpaged->roused, false))
            pass(kpaged);
        else
            host->ops->bell_wait(host, &kpaged->bell, NULL, 0, WR_FOREVER);
    }
}

void wr_kpaged_rouse(struct wr_kpaged *kpaged)
{
    if (atomic_load_explicit(&kpaged->roused, memory_order_relaxed) ||
        atomic_exchange(&kpaged->roused, true))
        return;
    kpaged->space->host->ops->bell_ring(kpaged->space->host, &kpaged->bell);
}

int wr_kpaged_open(struct wr_space *space, struct wr_kpaged **kpaged_p)
{
    struct wr_kpaged *kpaged = calloc(1, sizeof(*kpaged));

    if (!kpaged)
        return WEIR_ENOMEM;
    kpaged->space = space;
    if (space->host->ops->bell_init(space->host, &kpaged->bell) != WEIR_OK) {
        free(kpaged);
        return WEIR_ENOMEM;
    }
    *kpaged_p = kpaged;
    return WEIR_OK;
}

int wr_kpaged_start(struct wr_kpaged *kpaged)
{
    struct wr_host *host = kpaged->space->host;

    return host->ops->thread_start(host, "weir-kpaged", kpaged_main, kpaged, &kpaged->thread);
}

void wr_kpaged_stop(struct wr_kpaged *kpaged)
{
    struct wr_host *host;

    if (!kpaged || !kpaged->thread)
        return;
    host = kpaged->space->host;
    atomic_store(&kpaged->stop, true);
    host->ops->bell_ring(host, &kpaged->bell);
    host->ops->thread_stop(host, kpaged->thread);
    kpaged->thread = NULL;
}

void wr_kpaged_close(struct wr_kpaged *kpaged)
{
    if (!kpaged)
        return;
    kpaged->space->host->ops->bell_fini(kpaged->space->host, &kpaged->bell);
    free(kpaged);
}
