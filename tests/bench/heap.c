/* SPDX-License-Identifier: MIT */

/*
 * Heap: blocks of the heap on far memory beside blocks of mimalloc, which is loaded with dlopen(),
 * so that the bench's own malloc stays what it is.
 *
 *   place   holds a block, or none yet
 *   turn    a random place gives its block back and gets a new one, whose ends are written; what
 * the old one held is compared
 */

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <weir/weir_heap.h>

#include "runs.h"

#define SLICES      200u
#define SLICE_TURNS 20000u
#define MIMALLOC    "libmimalloc.so.2"

/* Who gives blocks. */
struct giver {
    void *(*give)(struct weir_heap *heap, size_t bytes);
    void (*take)(struct weir_heap *heap, void *block);
    struct weir_heap *heap;
};

struct block {
    uint64_t place, bytes;
};

struct places {
    struct giver giver;
    struct block **block;
    uint64_t count, random;
    uint32_t logs; /* sizes are below 16 << logs, all magnitudes alike */
};

static void *(*mimalloc_give)(size_t bytes);
static void (*mimalloc_take)(void *block);

static void *give_mimalloc(struct weir_heap *heap, size_t bytes)
{
    (void)heap;
    return mimalloc_give(bytes);
}

static void take_mimalloc(struct weir_heap *heap, void *block)
{
    (void)heap;
    mimalloc_take(block);
}

/* False: there is none on this machine. */
static bool load_mimalloc(void)
{
    void *library = dlopen(MIMALLOC, RTLD_NOW | RTLD_LOCAL);

    if (!library)
        return false;
    *(void **)&mimalloc_give = dlsym(library, "mi_malloc");
    *(void **)&mimalloc_take = dlsym(library, "mi_free");
    return mimalloc_give && mimalloc_take;
}

static struct giver open_giver(bool is_weir, struct weir_runtime *rt, uint64_t bytes)
{
    struct giver giver = {give_mimalloc, take_mimalloc, NULL};

    if (is_weir) {
        giver.give = weir_heap_malloc;
        giver.take = weir_heap_free;
        if (weir_heap_create(rt, bytes, NULL, &giver.heap) != WEIR_OK)
            bench_fail("no heap of %llu bytes", (unsigned long long)bytes);
    } else if (!load_mimalloc()) {
        bench_fail("there is no " MIMALLOC);
    }
    return giver;
}

/* --- Turns ----------------------------------------------------------------------------------- */

static uint64_t *end_of(struct block *block)
{
    return (uint64_t *)(void *)((char *)block + block->bytes) - 1;
}

static void put(struct places *places, uint64_t place, uint64_t random)
{
    uint64_t log = random % places->logs, bytes = 32 + (random >> 8) % (16ull << log);
    struct block *block;

    bytes &= ~7ull;
    block = places->giver.give(places->giver.heap, bytes);
    if (!block)
        bench_fail("no block of %llu bytes", (unsigned long long)bytes);
    *block = (struct block){place, bytes};
    *end_of(block) = ~place;
    places->block[place] = block;
}

static void turn(struct places *places)
{
    uint64_t random = bench_draw(&places->random) >> 8, place = random % places->count;
    struct block *block = places->block[place];

    if (block) {
        if (block->place != place || *end_of(block) != ~place) {
            fprintf(stderr, "bench: block %llu is not as it was left\n", (unsigned long long)place);
            exit(BENCH_EXIT_WRONG);
        }
        places->giver.take(places->giver.heap, block);
    }
    put(places, place, bench_draw(&places->random) >> 8);
}

static double turns_for(struct places *places, uint64_t turns)
{
    uint64_t begun = bench_now_ns();

    for (uint64_t i = 0; i < turns; i++)
        turn(places);
    return (double)turns * 1e9 / (double)(bench_now_ns() - begun);
}

static void places_open(struct places *places, struct giver giver)
{
    *places = (struct places){.giver = giver, .count = bench_argument("places", 1), .random = 7};
    places->logs = (uint32_t)bench_argument("logs", 1);
    places->block = calloc(places->count, sizeof(struct block *));
    if (!places->block)
        bench_fail("no memory for the places");
    for (uint64_t place = 0; place < places->count; place++)
        put(places, place, bench_draw(&places->random) >> 8);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double middle(double *values)
{
    qsort(values, SLICES, sizeof(*values), by_value);
    return values[SLICES / 2];
}

/* heap: budget= spec= places= logs= -> weir mimalloc, in turns a second. In slices, one after the
 * other, as in hit. */
void bench_run_heap(void)
{
    static double rates[2][SLICES];
    struct weir_stats before = {.size = sizeof(before)}, after = before;
    struct places places[2];
    struct weir_runtime *rt;

    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); /* both have pages of 4 KiB */
    rt = bench_runtime_open();
    places_open(&places[0], open_giver(true, rt, 4 * bench_argument("budget", 0)));
    places_open(&places[1], open_giver(false, NULL, 0));
    for (unsigned k = 0; k < 2; k++)
        turns_for(&places[k], 2 * places[k].count);
    weir_stats(rt, &before);
    for (unsigned i = 0; i < SLICES; i++)
        for (unsigned k = 0; k < 2; k++)
            rates[(i + k) & 1][i] = turns_for(&places[(i + k) & 1], SLICE_TURNS);
    weir_stats(rt, &after);
    bench_tell("weir", middle(rates[0]));
    bench_tell("mimalloc", middle(rates[1]));
    bench_tell("faults", (double)(after.faults - before.faults));
    weir_heap_destroy(places[0].giver.heap);
    weir_close(rt);
}

/* heap_over: memory=weir|kernel budget= spec= places= logs= turns= -> rate, in turns a second;
 * written, in bytes a turn (of weir). */
void bench_run_heap_over(void)
{
    const bool is_weir = strcmp(bench_argument_text("memory", "weir"), "weir") == 0;
    const uint64_t turns = bench_argument("turns", 1);
    struct weir_stats before = {.size = sizeof(before)}, after = before;
    struct weir_runtime *rt = is_weir ? bench_runtime_open() : NULL;
    struct places places;

    places_open(&places, open_giver(is_weir, rt, 16 * bench_argument("budget", 0)));
    turns_for(&places, turns / 4);
    if (rt)
        weir_stats(rt, &before);
    bench_tell("rate", turns_for(&places, turns));
    if (rt)
        weir_stats(rt, &after);
    bench_tell("written",
               (double)(after.pages_written - before.pages_written) * BENCH_PAGE / (double)turns);
    weir_heap_destroy(places.giver.heap);
    weir_close(rt);
}

/* --- The bench ------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    unsigned logs;
} mixes[] = {{"blocks of 32 bytes to 1 KiB", 6}, {"blocks of 32 bytes to 64 KiB", 12}};

/* The mean of a block is (16 << logs) / logs, as nearly as matters. */
static uint64_t places_in(uint64_t bytes, unsigned logs)
{
    return bytes / ((16ull << logs) / logs + 32);
}

static bool drive_within(const struct bench *bench, const char *spec, unsigned mix)
{
    static struct bench_side side;
    const uint64_t budget = 256 * BENCH_MIB;
    struct bench_line line = {
        .point = mixes[mix].name,
        .metric = "rate",
        .unit = "turns/s",
        .better = BENCH_HIGHER,
        .baseline_name = "mimalloc with pages of 4 KiB",
        .goal = "ratio >= 0.97",
    };

    bench_side_init(&side, "weir", "heap", "budget=%llu places=%llu logs=%u spec=%s",
                    (unsigned long long)budget,
                    (unsigned long long)places_in(budget / 4, mixes[mix].logs), mixes[mix].logs,
                    spec);
    if (!bench_rounds(bench, &side, 1, bench->is_quick ? 1 : 7))
        return false;
    line.weir = bench_series(&side, "weir");
    line.baseline = bench_series(&side, "mimalloc");
    line.also[0].name = "faults";
    line.also[0].value = bench_result(&side, "faults");
    bench_print(bench, &line);
    return true;
}

bool bench_drive_heap(struct bench *bench)
{
    static struct bench_side sides[2];
    const uint64_t budget = (bench->is_quick ? 32 : 128) * BENCH_MIB;
    const uint64_t pages = 4 * budget / BENCH_PAGE;
    char spec[300], swap[300], missing[200] = "";
    struct bench_line line = {
        .point = "4x the budget, blocks of 32 bytes to 1 KiB",
        .metric = "rate",
        .unit = "turns/s",
        .better = BENCH_HIGHER,
        .baseline_name = "mimalloc, kernel swap file",
    };

    bench_file_spec(bench, 2 * pages, spec);
    if (!load_mimalloc()) {
        fprintf(stderr, "bench: heap is measured beside mimalloc, and there is no " MIMALLOC
                        ": install libmimalloc2.0\n");
        return false;
    }
    for (unsigned mix = 0; mix < sizeof(mixes) / sizeof(mixes[0]); mix++)
        if (!drive_within(bench, spec, mix))
            return false;
    bench_swap_file(bench, 2 * pages * BENCH_PAGE, swap, missing);
    bench_side_init(&sides[0], "weir", "heap_over", "budget=%llu spec=%s",
                    (unsigned long long)budget, spec);
    bench_kernel_side(&sides[1], "kernel swap file", "heap_over", missing, budget, pages);
    for (unsigned i = 0; i < 2; i++)
        bench_side_more(&sides[i], " places=%llu logs=6 turns=%u",
                        (unsigned long long)places_in(4 * budget, 6),
                        bench->is_quick ? 5000u : 24000u);
    if (!bench_rounds(bench, sides, 2, bench->is_quick ? 1 : 3))
        return false;
    line.weir = bench_series(&sides[0], "rate");
    line.baseline = bench_series(&sides[1], "rate");
    line.baseline_missing = sides[1].missing;
    line.also[0].name = "written_bytes_a_turn";
    line.also[0].value = bench_result(&sides[0], "written");
    bench_print(bench, &line);
    return true;
}
