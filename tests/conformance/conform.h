/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Conformance: one examination for every back end.
 *
 *   subject   a specification under examination
 *   case      one promise of weir_backend.h; a function that returns when it was kept
 *   stamp     what a page is filled with: a function of its slot and of a version, so that a page
 *             in the wrong place, an old one, and a torn one are all told apart
 *
 * Always: each case runs in a process of its own on a back end of its own. A promise that was
 * broken ends that process by CONFORM_CHECK; what this machine cannot do, by conform_skip().
 */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <weir/weir_backend.h>

#define CONFORM_FAILED  1
#define CONFORM_SKIPPED 77

/* _Exit: a broken promise may have left memory in a state that no destructor should see. */
#define CONFORM_CHECK(condition)                                             \
    do {                                                                     \
        if (!(condition)) {                                                  \
            printf("# %s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            fflush(stdout);                                                  \
            _Exit(CONFORM_FAILED);                                           \
        }                                                                    \
    } while (0)

struct conform_told {
    uint32_t count;
    int severity, error;
    char text[512]; /* of the last event */
};

/* What a case is given. */
struct conform {
    const char *spec;
    struct weir_backend *backend;
    const struct weir_backend_ops *ops;
    struct weir_backend_info info;
    struct weir_backend_env env;
    struct conform_told told;
};

struct conform_case {
    const char *name;
    void (*run)(struct conform *conform);
};

extern const struct conform_case conform_cases[];
extern const size_t conform_case_count;

/* Open the subject and fill in the rest. Skips where this machine does not offer it. */
void conform_open(struct conform *conform, const char *spec);
void conform_close(struct conform *conform);

_Noreturn void conform_skip(const char *why);

/* --- Pages ----------------------------------------------------------------------------------- */

/* Memory for this many pages, aligned as the contract asks; free() ends it. */
char *conform_pages(uint64_t pages);

void conform_stamp(void *page, uint64_t slot, uint64_t version);
bool conform_is_stamped(const void *page, uint64_t slot, uint64_t version);

/* --- Requests -------------------------------------------------------------------------------- */

/* A request that counts its done(). */
struct conform_io {
    struct weir_io io;
    struct iovec iov[WEIR_CLUSTER_SLOTS];
    uint32_t done_count;
};

/* One run of pages of memory, as a single element. */
void conform_io_init(struct conform_io *request, bool is_write, uint64_t slot, uint32_t pages,
                     void *bytes);

/* Submit all, poll and wait until all are done, and check that each was once. */
void conform_do(struct weir_channel *channel, struct conform_io *requests, uint32_t count);

/* Wait, by the descriptor of the channel, until poll() has finished something; return how many. */
uint32_t conform_wait(struct weir_channel *channel);

/* conform_do() on a channel of its own, and success expected. */
void conform_move(struct conform *conform, bool is_write, uint64_t slot, uint32_t pages,
                  void *bytes);

/* Write every slot, or read every slot and check it, at this version, in clusters. */
void conform_write_all(struct conform *conform, uint64_t version);
void conform_check_all(struct conform *conform, uint64_t version);

/* Descriptors that this process has open. */
uint32_t conform_fd_count(void);
