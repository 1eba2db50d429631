/* SPDX-License-Identifier: MIT */
#include "transport/dice.h"

#include <errno.h>
#include <time.h>

#include "transport/spec.h"

#define NS_PER_S  1000000000ull
#define NS_PER_MS 1000000ull
#define NS_PER_US 1000ull

/* Odd, so that multiplying by them loses nothing; the second is 2^64 over the golden ratio. */
#define ODD_KIND   0xd1342543de82ef95u
#define ODD_NUMBER 0x9e3779b97f4a7c15u

/* What a draw is for: each purpose has its own, so that no dial disturbs another. */
enum purpose { FOR_FAIL = 1, FOR_FULL, FOR_LIE, FOR_SHORT, FOR_WHERE, FOR_JITTER };

void wr_dice_init(struct wr_dice *dice, uint64_t seed, const uint64_t dials[WR_CHAOS_DIALS])
{
    dice->seed = seed;
    atomic_init(&dice->idle_at_ns, 0);
    atomic_init(&dice->hung_to_ns, 0);
    for (int i = 0; i < WR_CHAOS_DIALS; i++)
        atomic_init(&dice->dials[i], dials[i]);
    for (int i = 0; i < WR_CHAOS_DIDS; i++)
        atomic_init(&dice->did[i], 0);
}

uint64_t wr_dice_dial(const struct wr_dice *dice, enum wr_chaos_dial dial)
{
    return atomic_load_explicit(&dice->dials[dial], memory_order_relaxed);
}

uint64_t wr_dice_count(struct wr_dice *dice, enum wr_chaos_did did)
{
    return atomic_fetch_add_explicit(&dice->did[did], 1, memory_order_relaxed);
}

uint64_t wr_dice_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* --- Draws ----------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t draw(uint64_t request, enum purpose purpose)
{
    return mix(request + (uint64_t)purpose * ODD_NUMBER);
}

uint64_t wr_dice_draw_spare(const struct wr_dice *dice, uint64_t number)
{
    return mix(dice->seed + number * ODD_NUMBER);
}

uint64_t wr_dice_below(uint64_t drawn, uint64_t limit)
{
    return (drawn >> 32) * limit >> 32;
}

static bool chance(uint64_t drawn, uint64_t millionths)
{
    return wr_dice_below(drawn, WR_SPEC_SHARE_ONE) < millionths;
}

/* --- Fate ------------------------------------------------------------------------------------ */

/* When the bytes have passed a line of that bandwidth which all requests share. */
static uint64_t pass_line(struct wr_dice *dice, uint64_t now, uint64_t bytes)
{
    const uint64_t rate = wr_dice_dial(dice, WR_CHAOS_BYTES_PER_S);
    uint64_t idle = atomic_load_explicit(&dice->idle_at_ns, memory_order_relaxed);
    uint64_t end;

    if (rate == 0)
        return now;
    do
        end = (idle > now ? idle : now) + bytes * NS_PER_S / rate;
    while (!atomic_compare_exchange_weak_explicit(&dice->idle_at_ns, &idle, end,
                                                  memory_order_relaxed, memory_order_relaxed));
    return end;
}

static void hang_perhaps(struct wr_dice *dice, uint64_t now)
{
    uint64_t after = wr_dice_dial(dice, WR_CHAOS_HANG_AFTER);
    uint64_t seen = 0;

    if (after == WR_CHAOS_NEVER)
        return;
    for (int i = WR_CHAOS_DID_READ; i <= WR_CHAOS_DID_WRITE; i++)
        seen += atomic_load_explicit(&dice->did[i], memory_order_relaxed);
    /* The present one is counted. Who turns the dial back to never is the one that hangs all. */
    if (seen <= after ||
        !atomic_compare_exchange_strong(&dice->dials[WR_CHAOS_HANG_AFTER], &after, WR_CHAOS_NEVER))
        return;
    atomic_store(&dice->hung_to_ns, now + wr_dice_dial(dice, WR_CHAOS_HANG_MS) * NS_PER_MS);
    wr_dice_count(dice, WR_CHAOS_DID_HANG);
}

static uint64_t draw_due(struct wr_dice *dice, enum wr_chaos_did which, uint64_t request,
                         uint32_t pages)
{
    const uint64_t now = wr_dice_now_ns();
    const enum wr_chaos_dial more = which == WR_CHAOS_DID_WRITE ? WR_CHAOS_WRITE_DELAY_US
                                                                : WR_CHAOS_READ_DELAY_US;
    const uint64_t jitter_us = wr_dice_dial(dice, WR_CHAOS_JITTER_US);
    uint64_t due = pass_line(dice, now, (uint64_t)pages * WEIR_SLOT_BYTES);

    hang_perhaps(dice, now);
    due += (wr_dice_dial(dice, WR_CHAOS_DELAY_US) + wr_dice_dial(dice, more)) * NS_PER_US;
    return due + wr_dice_below(draw(request, FOR_JITTER), jitter_us + 1) * NS_PER_US;
}

static void draw_write_error(struct wr_dice *dice, uint64_t request, uint64_t number,
                             struct wr_fate *fate)
{
    if (number >= wr_dice_dial(dice, WR_CHAOS_FAIL_AFTER) ||
        chance(draw(request, FOR_FAIL), wr_dice_dial(dice, WR_CHAOS_FAIL_WRITE))) {
        fate->error = WEIR_EIO;
        fate->os_error = EIO;
        wr_dice_count(dice, WR_CHAOS_DID_FAIL_WRITE);
    } else if (number >= wr_dice_dial(dice, WR_CHAOS_FULL_AFTER) ||
               chance(draw(request, FOR_FULL), wr_dice_dial(dice, WR_CHAOS_FULL))) {
        fate->error = WEIR_EFULL;
        fate->os_error = ENOSPC;
        wr_dice_count(dice, WR_CHAOS_DID_FULL);
    }
}

static void draw_read_error(struct wr_dice *dice, uint64_t request, struct wr_fate *fate)
{
    if (!chance(draw(request, FOR_FAIL), wr_dice_dial(dice, WR_CHAOS_FAIL_READ)))
        return;
    fate->error = WEIR_EIO;
    fate->os_error = EIO;
    wr_dice_count(dice, WR_CHAOS_DID_FAIL_READ);
}

struct wr_fate wr_dice_draw_fate(struct wr_dice *dice, enum wr_chaos_did which, uint32_t pages)
{
    const uint64_t number = wr_dice_count(dice, which);
    const uint64_t request = mix(dice->seed + (uint64_t)which * ODD_KIND + number * ODD_NUMBER);
    const bool is_write = which == WR_CHAOS_DID_WRITE;
    struct wr_fate fate = {.due_ns = draw_due(dice, which, request, pages),
                           .where = draw(request, FOR_WHERE)};

    if (is_write)
        draw_write_error(dice, request, number, &fate);
    else
        draw_read_error(dice, request, &fate);
    if (fate.error)
        return fate;
    fate.is_lie = chance(draw(request, FOR_LIE), wr_dice_dial(dice, WR_CHAOS_LIE));
    if (fate.is_lie)
        wr_dice_count(dice, is_write ? WR_CHAOS_DID_DROP_WRITE : WR_CHAOS_DID_DAMAGE_READ);
    fate.is_short = pages > 1 && !(fate.is_lie && is_write) &&
                    chance(draw(request, FOR_SHORT), wr_dice_dial(dice, WR_CHAOS_SHORT));
    if (fate.is_short)
        wr_dice_count(dice, WR_CHAOS_DID_SHORT);
    return fate;
}

uint64_t wr_dice_due_ns(const struct wr_dice *dice, uint64_t drawn)
{
    uint64_t hung = atomic_load_explicit(&dice->hung_to_ns, memory_order_relaxed);

    return hung > drawn ? hung : drawn;
}
