/* SPDX-License-Identifier: MIT */
#include "runtime/heap/units.h"

#include <string.h>
#include <sys/mman.h>

#include <weir/weir.h>

#define TELL_MAX  16u /* units that Weir is told of while others wait for the lock */
#define LOOKS_MAX 16u /* runs of the bin that may be just too short                */

void *wr_units_reserve(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

void wr_units_unreserve(void *memory, size_t bytes)
{
    if (memory)
        munmap(memory, bytes);
}

/* --- Free runs ------------------------------------------------------------------------------- */

static uint32_t bin_of(uint64_t length)
{
    uint32_t bin = 63u - (uint32_t)__builtin_clzll(length);

    return bin < WR_UNIT_BINS ? bin : WR_UNIT_BINS - 1;
}

static void run_add(struct wr_units *units, uint32_t first, uint32_t length)
{
    uint32_t *head = &units->bin[bin_of(length)];

    units->unit[first + length - 1].length = length;
    units->unit[first] = (struct wr_unit){.length = length, .next = *head, .prev = WR_UNIT_NONE};
    if (*head != WR_UNIT_NONE)
        units->unit[*head].prev = first;
    *head = first;
}

static void run_remove(struct wr_units *units, uint32_t first)
{
    const struct wr_unit *run = &units->unit[first];

    if (run->next != WR_UNIT_NONE)
        units->unit[run->next].prev = run->prev;
    if (run->prev != WR_UNIT_NONE)
        units->unit[run->prev].next = run->next;
    else
        units->bin[bin_of(run->length)] = run->next;
}

/* What is free anew, together with free neighbours. */
static void run_join(struct wr_units *units, uint32_t first, uint32_t length)
{
    const uint32_t end = first + length;

    if (end < units->total && units->kind[end] == WR_UNIT_FREE) {
        run_remove(units, end);
        length += units->unit[end].length;
    }
    if (first > 0 && units->kind[first - 1] == WR_UNIT_FREE) {
        uint32_t before = units->unit[first - 1].length;

        first -= before;
        run_remove(units, first);
        length += before;
    }
    run_add(units, first, length);
}

/* A free run of that length or more. Those of a lower bin are smaller, and were in use before. */
static uint32_t run_find(const struct wr_units *units, uint64_t length)
{
    for (uint32_t pass = 0; pass < 2; pass++)
        for (uint32_t bin = bin_of(length); bin < WR_UNIT_BINS; bin++) {
            uint32_t looks = 0;

            for (uint32_t run = units->bin[bin]; run != WR_UNIT_NONE; run = units->unit[run].next)
                if (units->unit[run].length >= length)
                    return run;
                else if (pass == 0 && ++looks == LOOKS_MAX)
                    break;
        }
    return WR_UNIT_NONE;
}

/* --- What is untold -------------------------------------------------------------------------- */

static void mark_untold(struct wr_units *units, uint32_t first, uint32_t count, bool is_untold)
{
    const uint32_t end = first + count;

    while (first < end) {
        uint32_t bit = first % 64, length = 64 - bit < end - first ? 64 - bit : end - first;
        uint64_t mask = (length == 64 ? ~0ull : (1ull << length) - 1) << bit;
        uint64_t *word = &units->untold[first / 64];

        units->untold_count -= (uint32_t)__builtin_popcountll(*word & mask);
        *word = is_untold ? *word | mask : *word & ~mask;
        units->untold_count += (uint32_t)__builtin_popcountll(*word & mask);
        first += length;
    }
}

static bool is_untold(const struct wr_units *units, uint32_t unit)
{
    return units->untold[unit / 64] >> (unit % 64) & 1;
}

/* The next few untold neighbours. There are some. */
static uint32_t next_untold(struct wr_units *units, uint32_t *first_p)
{
    uint32_t first = units->hand, count = 0;

    while (first < units->total && !is_untold(units, first))
        first += units->untold[first / 64] == 0 ? 64 - first % 64 : 1;
    if (first >= units->total) {
        units->hand = 0;
        return 0;
    }
    while (count < TELL_MAX && first + count < units->total && is_untold(units, first + count))
        count++;
    units->hand = first + count;
    *first_p = first;
    return count;
}

/* The lock is held while Weir is told, so that nobody takes these units meanwhile; a few at a time.
 * Pages that somebody has left pinned stay as they are. */
void wr_units_tell(struct wr_units *units, bool all)
{
    uint32_t most = all ? 0 : units->untold_max, count, first = 0;

    pthread_mutex_lock(&units->lock);
    while (units->untold_count > most) {
        most = all ? 0 : units->untold_max / 2;
        count = next_untold(units, &first);
        if (count == 0)
            continue;
        (void)weir_advise(units->base + first * WR_UNIT_BYTES, count * WR_UNIT_BYTES, WEIR_FREE);
        mark_untold(units, first, count, false);
        units->told += count;
        pthread_mutex_unlock(&units->lock);
        pthread_mutex_lock(&units->lock);
    }
    pthread_mutex_unlock(&units->lock);
}

/* --- Take and put ---------------------------------------------------------------------------- */

static void occupy(struct wr_units *units, uint32_t first, uint32_t count, uint8_t kind)
{
    memset(units->kind + first, WR_UNIT_BODY, count);
    units->kind[first] = kind;
    units->unit[first].length = count;
    mark_untold(units, first, count, false);
    units->used += count;
    if (units->fresh < first + count)
        units->fresh = first + count;
}

uint32_t wr_units_take(struct wr_units *units, uint64_t count, uint64_t align, uint8_t kind,
                       bool *is_fresh_p)
{
    uint32_t run, first, length;

    pthread_mutex_lock(&units->lock);
    run = count > units->total || align > units->total ? WR_UNIT_NONE
                                                       : run_find(units, count + align - 1);
    if (run == WR_UNIT_NONE) {
        pthread_mutex_unlock(&units->lock);
        return WR_UNIT_NONE;
    }
    length = units->unit[run].length;
    first = run + (uint32_t)(-(((uintptr_t)units->base >> WR_UNIT_SHIFT) + run) & (align - 1));
    run_remove(units, run);
    if (first > run)
        run_add(units, run, first - run);
    if (run + length > first + count)
        run_add(units, first + (uint32_t)count, run + length - first - (uint32_t)count);
    *is_fresh_p = first >= units->fresh;
    occupy(units, first, (uint32_t)count, kind);
    pthread_mutex_unlock(&units->lock);
    return first;
}

static void vacate(struct wr_units *units, uint32_t first, uint32_t count)
{
    memset(units->kind + first, WR_UNIT_FREE, count);
    mark_untold(units, first, count, true);
    units->used -= count;
    run_join(units, first, count);
}

void wr_units_put(struct wr_units *units, uint32_t first)
{
    pthread_mutex_lock(&units->lock);
    vacate(units, first, units->unit[first].length);
    pthread_mutex_unlock(&units->lock);
}

uint32_t wr_units_length(struct wr_units *units, uint32_t first)
{
    return units->unit[first].length;
}

/* The free run that follows gives its first units, and the rest is a free run again. */
static bool grow(struct wr_units *units, uint32_t first, uint32_t more)
{
    const uint32_t length = units->unit[first].length, end = first + length;
    uint32_t room;

    if (end >= units->total || units->kind[end] != WR_UNIT_FREE)
        return false;
    room = units->unit[end].length;
    if (room < more)
        return false;
    run_remove(units, end);
    if (room > more)
        run_add(units, end + more, room - more);
    occupy(units, end, more, WR_UNIT_BODY);
    units->unit[first].length = length + more;
    return true;
}

bool wr_units_resize(struct wr_units *units, uint32_t first, uint32_t count)
{
    bool is_done = true;
    uint32_t length;

    pthread_mutex_lock(&units->lock);
    length = units->unit[first].length;
    if (count > length) {
        is_done = grow(units, first, count - length);
    } else if (count < length) {
        units->unit[first].length = count;
        vacate(units, first + count, length - count);
    }
    pthread_mutex_unlock(&units->lock);
    return is_done;
}

/* --- Life ------------------------------------------------------------------------------------ */

static size_t round_up(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

bool wr_units_init(struct wr_units *units, char *base, uint32_t total, uint32_t untold_max)
{
    const size_t of_units = round_up(total * sizeof(struct wr_unit));
    const size_t of_bits = round_up(((size_t)total + 63) / 64 * sizeof(uint64_t));
    char *memory;

    memset(units, 0, sizeof(*units));
    units->metadata_bytes = of_units + of_bits + round_up(total);
    memory = wr_units_reserve(units->metadata_bytes);
    if (!memory)
        return false;
    units->base = base;
    units->total = total;
    units->untold_max = untold_max;
    units->unit = (void *)memory;
    units->untold = (void *)(memory + of_units);
    units->kind = (void *)(memory + of_units + of_bits);
    for (uint32_t bin = 0; bin < WR_UNIT_BINS; bin++)
        units->bin[bin] = WR_UNIT_NONE;
    pthread_mutex_init(&units->lock, NULL);
    run_add(units, 0, total);
    return true;
}

void wr_units_fini(struct wr_units *units)
{
    if (!units->unit)
        return;
    wr_units_unreserve(units->unit, units->metadata_bytes);
    pthread_mutex_destroy(&units->lock);
    units->unit = NULL;
}
