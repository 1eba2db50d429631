/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Bench: figures of the library, each beside the figure that it is to beat.
 *
 *   bench     one question, for example "thrash"; it has points
 *   point     what is varied within it, for example "read/4 threads"
 *   run       one child process, started afresh, that measures one side of one point
 *   side      Weir, or a baseline; Weir with a bug is run with every side of Weir
 *   round     one run of each side of a point, in turn; figures are medians over rounds
 *   line      one JSON object on standard output: one metric of one point
 *   undo      what has to be undone however the bench ends; kept by a process of its own
 *
 * Always: a wrong byte, a hang or a crash of the library ends the bench with an error and no line
 * for that point; a baseline that cannot run leaves a line that says so and has no ratio.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define BENCH_PAGE       4096u
#define BENCH_MIB        (1024ull * 1024)
#define BENCH_GIB        (1024ull * BENCH_MIB)
#define BENCH_ROUNDS_MAX 15u

/* What a run ends with when a page did not hold what was stored there. */
#define BENCH_EXIT_WRONG 3

/* Touches that take longer have faulted: a load from memory takes far less, a signal far more. */
#define BENCH_FAULT_NS 2000u

struct bench {
    const char *name;
    bool is_quick;
    bool is_verbose;  /* say on standard error what every run said */
    unsigned rounds;  /* 0: as many as the bench thinks right      */
    char dir[200];    /* for its files; made and removed           */
    const char *bug;  /* a side more: Weir with this mistake of runtime/base/bug.h; NULL: none */
    const char *only; /* of a bench with many points, those with this in their name; NULL: all */
};

/* Whether a point of this name is asked for. Of policy, trash and remote-thrash. */
bool bench_is_asked(const struct bench *bench, const char *point);

/* --- Figures: figure.c ----------------------------------------------------------------------- */

uint64_t bench_now_ns(void);
uint64_t bench_draw(uint64_t *state);

/* Times in buckets of less than half a percent. */
#define BENCH_HISTOGRAM_STEPS   256u
#define BENCH_HISTOGRAM_BUCKETS (40u * BENCH_HISTOGRAM_STEPS)
struct bench_histogram {
    uint64_t count;
    uint32_t bucket[BENCH_HISTOGRAM_BUCKETS];
};
void bench_histogram_add(struct bench_histogram *histogram, uint64_t ns);
void bench_histogram_merge(struct bench_histogram *into, const struct bench_histogram *from);
double bench_histogram_us(const struct bench_histogram *histogram, double share);

struct bench_series {
    double value[BENCH_ROUNDS_MAX];
    unsigned count;
    /* Of the same side with the bug, if there is one. */
    double bugged[BENCH_ROUNDS_MAX];
    unsigned bugged_count;
    const struct bench_side *side; /* whose they are; NULL: nobody's */
};
double bench_median(const struct bench_series *series);
/* One figure that is no measurement: a bound, for example. */
struct bench_series bench_constant(double value);

enum bench_better { BENCH_HIGHER, BENCH_LOWER };

struct bench_line {
    const char *point, *metric, *unit;
    enum bench_better better;
    struct bench_series weir, baseline;
    const char *baseline_name;
    const char *baseline_missing; /* why there is none; NULL or "": there is one                  */
    const char *goal;             /* what is hoped for, in words; NULL: nothing                   */
    double least;                 /* smaller figures count as this in the ratio; 0: no such thing */
    struct {
        const char *name;
        double value;
    } also[8]; /* further figures that explain the line */
};
void bench_print(const struct bench *bench, const struct bench_line *line);

/* --- Runs: run.c ----------------------------------------------------------------------------- */

struct bench_results {
    struct {
        char name[40];
        double value;
    } item[64];
    unsigned count;
};

struct bench_side {
    const char *name;
    const char *run;      /* which: see bench_find_run()                       */
    char arguments[600];  /* key=value, separated by spaces                    */
    uint64_t limit_bytes; /* of the memory cgroup that it runs in; 0: no limit */
    bool may_fail;        /* a baseline: what it dies of is why it is missing  */
    char missing[200];    /* why it cannot run; empty: it can                  */
    char death[200];      /* what its last run died of                         */
    unsigned deaths;      /* rounds that ended so                              */
    bool is_held;         /* the kernel waits for us before it kills           */
    unsigned held;        /* how often that was, in all rounds: see hold.c     */
    char group[400];      /* its cgroup, made by the first run                 */
    struct bench_results round[BENCH_ROUNDS_MAX];
    unsigned rounds;
    struct bench_results bugged[BENCH_ROUNDS_MAX]; /* of Weir with the bug */
    unsigned bugged_rounds;
};

/* A side with neither limit nor result; the format makes the arguments. */
void bench_side_init(struct bench_side *side, const char *name, const char *run, const char *format,
                     ...) __attribute__((format(printf, 4, 5)));
/*
 * So many runs of each side, in turn. False: the bench is over, and why has been printed. A side
 * that has something in missing[] is not run; one that dies in every round, as the kernel kills
 * programs in a small cgroup, has that in missing[] afterwards.
 */
bool bench_rounds(const struct bench *bench, struct bench_side *sides, unsigned count,
                  unsigned rounds);
struct bench_series bench_series(const struct bench_side *side, const char *result);
/* A result of one side as a multiple of the other's in the same round. */
struct bench_series bench_series_over(const struct bench_side *side, const struct bench_side *other,
                                      const char *result);
double bench_result(const struct bench_side *side, const char *result); /* their median */

/* In a run: its arguments, and its results. */
uint64_t bench_argument(const char *name, uint64_t fallback);
double bench_argument_real(const char *name, double fallback);
const char *bench_argument_text(const char *name, const char *fallback);
void bench_tell(const char *result, double value);
_Noreturn void bench_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void bench_run_main(int argc, char **argv);

/* The function of a run; NULL: there is no such run. bench.c */
typedef void (*bench_run_fn)(void);
bench_run_fn bench_find_run(const char *name);

/* --- What must be undone: undo.c ------------------------------------------------------------- */

bool bench_undo_open(void);
void bench_undo_close(void); /* undo everything now, and wait for it */
void bench_undo(const char *verb, const char *object);
extern volatile int bench_interrupted; /* by which signal; 0: it was not */

/* --- What baselines need: ground.c ----------------------------------------------------------- */

/* Each: false, and why in missing[200], if this machine does not let us. */
bool bench_write_text(const char *path, const char *text);
bool bench_read_text(const char *path, char *text, size_t room);
bool bench_group_make(const char *name, uint64_t limit_bytes, char group[400], char missing[200]);
bool bench_group_limit(const char *group, uint64_t limit_bytes, char missing[200]);
/* Swap in a file of the bench's directory, or on zram, for a program with pages of so many bytes:
 * more than twice that, because the kernel forgets which pages are clean, and looks long for free
 * slots, when its swap is more than half full. The name is for the reader. Where: the path. */
bool bench_swap_file(const struct bench *bench, uint64_t set_bytes, char where[300],
                     char missing[200]);
bool bench_swap_zram(uint64_t set_bytes, char name[80], char missing[200]);
/* How much the kernel reads ahead from swap: 2^order pages at a time. Put back at the end. */
bool bench_swap_ahead(unsigned order, char missing[200]);
/* A counter of /proc/vmstat, of the whole machine; 0: it has none. For runs. */
uint64_t bench_vmstat(const char *name);
/* A file of really written, incompressible pages. */
bool bench_written_file(const char *path, uint64_t bytes, char missing[200]);

/* --- What keeps a baseline alive: hold.c ----------------------------------------------------- */

/* Of one run in one cgroup. */
struct bench_hold {
    char group[400]; /* "": none, and nothing is done        */
    int event_fd;    /* readable: serve it; -1: there is none */
    int tick_ms;     /* serve it so often anyway; 0: never   */
    bool is_able;    /* the kernel waits before it kills     */
    bool is_over;    /* it was given up                      */
    unsigned count;  /* how often somebody waited            */
    unsigned vain;   /* of them, in a row, with no page gone */
    uint64_t gone, kills;
};

void bench_hold_open(struct bench_hold *hold, const char *group);
void bench_hold_serve(struct bench_hold *hold);
void bench_hold_close(struct bench_hold *hold);
/* True: the kernel killed the run for want of memory; how, for people, in `why`. */
bool bench_hold_explain(const struct bench_hold *hold, char why[200]);

/* What a program of so many pages needs beside the budget: its page tables, its threads, their
 * notes. */
uint64_t bench_allowance(uint64_t pages, unsigned threads);
