/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Spy: a back end for tests that keeps what it is given where they can look at it and change it, as
 * a curious or a hostile one would. "spy:near" and "spy:far", which says that it is remote.
 */

#include <stdbool.h>
#include <stdint.h>

#include <weir/weir_backend.h>

#define SPY_CLUSTERS 10u
#define SPY_SLOTS    (SPY_CLUSTERS * WEIR_CLUSTER_SLOTS)
#define SPY_SEEN     20000u

struct spy {
    struct weir_backend base;
    unsigned char *store; /* SPY_SLOTS pages */
    uint32_t flags;
};

/* Of all spies: how they behave, and what they have seen. */
struct spying {
    struct spy *last;     /* that was opened                                       */
    uint32_t open;        /* spies that are                                        */
    bool holds;           /* finishes nothing                                      */
    uint32_t fails;       /* so many writes fail, having written half their pages  */
    bool refuses;         /* takes nothing                                         */
    uint32_t flying_most; /* on one channel                                        */
    uint32_t seen;        /* pages that were to be written, and how each began:    */
    uint64_t starts[SPY_SEEN][2];
};
extern struct spying spying;

/* Once, before the first is opened. */
void spy_register(void);
unsigned char *spy_slot(const struct spy *spy, uint64_t slot);
