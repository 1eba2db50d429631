/* SPDX-License-Identifier: MIT */

/*
 * Low end: the same load with a budget of 32 MiB, of 256 MiB and of 8 GiB. What helps a large
 * machine must not cost a small one.
 */

#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "runs.h"
#include "trasher.h"

static const struct {
    uint64_t budget;
    const char *name;
} budgets[] = {{32 * BENCH_MIB, "32 MiB"}, {256 * BENCH_MIB, "256 MiB"}, {8 * BENCH_GIB, "8 GiB"}};

static const struct {
    enum trasher_kind kind;
    const char *name;
} loads[] = {{TRASHER_random, "random read/write"}, {TRASHER_zipf, "zipf 1.0, half writes"}};

static uint64_t memory_available(void)
{
    FILE *file = fopen("/proc/meminfo", "re");
    char line[200];
    unsigned long long kib = 0;

    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            break;
    if (file)
        fclose(file);
    return kib * 1024;
}

/* Why it is not done with this budget; "": it is. */
static void find_reason(const struct bench *bench, uint64_t budget, char reason[200])
{
    const uint64_t memory = budget + budget / 4, disk = 5 * budget;
    struct statvfs state;

    *reason = '\0';
    if (bench->is_quick && budget > 64 * BENCH_MIB)
        snprintf(reason, 200, "skipped: takes longer than --quick allows");
    else if (memory_available() < memory)
        snprintf(reason, 200, "skipped: needs %llu MiB of free memory",
                 (unsigned long long)(memory / BENCH_MIB));
    else if (statvfs(bench->dir, &state) != 0 || state.f_bavail * state.f_frsize < disk)
        snprintf(reason, 200, "skipped: needs %llu MiB of free disk",
                 (unsigned long long)(disk / BENCH_MIB));
}

static void print_skipped(const struct bench *bench, const char *point, const char *reason)
{
    bench_print(bench, &(struct bench_line){
                           .point = point,
                           .metric = "mean",
                           .unit = "steps/s",
                           .better = BENCH_HIGHER,
                           .baseline_name = "kernel swap file",
                           .baseline_missing = reason,
                       });
}

bool bench_drive_lowend(struct bench *bench)
{
    static struct bench_side sides[TRASH_SIDES];
    char spec[300], swap[300], no_swap[200] = "", reason[3][200], point[100];
    uint64_t largest = 0;

    for (unsigned i = 0; i < 3; i++) {
        find_reason(bench, budgets[i].budget, reason[i]);
        largest = *reason[i] ? largest : budgets[i].budget;
    }
    bench_swap_file(bench, 2 * largest, swap, no_swap);
    for (unsigned i = 0; i < 3; i++) {
        struct trash_plan plan = {.budget = budgets[i].budget, .threads = 2, .sample_s = 0.5};

        plan.pages = 2 * plan.budget / BENCH_PAGE;
        plan.seconds = bench->is_quick ? 2 : 15;
        bench_file_spec(bench, plan.pages, spec);
        for (unsigned k = 0; k < 2; k++) {
            plan.kind = loads[k].kind;
            snprintf(point, sizeof(point), "%s/%s/2x", budgets[i].name, loads[k].name);
            if (*reason[i]) {
                print_skipped(bench, point, reason[i]);
                continue;
            }
            trash_sides(sides, &plan, spec, no_swap);
            if (!bench_rounds(bench, sides, TRASH_SIDES, budgets[i].budget > BENCH_GIB ? 1 : 3))
                return false;
            trash_print(bench, sides, point);
        }
    }
    return true;
}
