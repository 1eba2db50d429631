/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Seeds: one process for each, so that nothing of one world is left in the next, and a seed that
 * ends in an abort ends alone. The parent adds up, and has said what a failed one left behind.
 *
 *   outcome  what a seed leaves: in memory that its process shares with its parent
 *   totals   sums over all seeds: words of 64 bits only, of which the first are struct seeds_totals
 *   job      a process that runs every jobs-th seed
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct seeds_totals {
    uint64_t seeds, failed;
};

struct seeds {
    const char *name;      /* before "FAILED"                                                   */
    unsigned seconds_most; /* of real time, for one seed: more is a hang outside of the world   */
    size_t outcome_bytes, totals_bytes;
    void *(*map)(size_t bytes); /* shared with children, all 0; NULL: there is none */
    /* Live through it, in a process of its own, which ends after that. */
    void (*live)(uint64_t seed, void *outcome);
    /* status: as of waitpid(). False: say why. */
    bool (*judge)(uint64_t seed, const void *outcome, int status);
    uint64_t (*hash)(const void *outcome); /* of its trace */
    void (*add)(void *totals, const void *outcome);
    /* As the command line says. */
    uint64_t first, last;
    uint32_t jobs, seconds; /* seconds: begin no seed after that; 0: no such limit */
    bool is_twice;          /* run each twice, and compare                         */
    bool goes_on;           /* after a seed that failed                            */
};

#define SEEDS_USAGE "[--seeds A-B | --seed N] [--jobs N] [--seconds N] [--twice] [--go-on]"

/* Of struct option: what seeds_option() understands. */
#define SEEDS_OPTIONS                                                        \
    {"seeds", 1, NULL, 's'}, {"seed", 1, NULL, 's'}, {"jobs", 1, NULL, 'j'}, \
        {"seconds", 1, NULL, 't'}, {"twice", 0, NULL, '2'},                  \
    {                                                                        \
        "go-on", 0, NULL, 'g'                                                \
    }

/* False: it is none of ours, or its argument is not understood. */
bool seeds_option(struct seeds *seeds, int option, const char *argument);

/* All of them; the totals are written. Ends the program if the system refuses a process. */
void seeds_run(const struct seeds *seeds, void *totals_p);
