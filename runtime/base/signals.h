/* SPDX-License-Identifier: MIT */
#pragma once

/* Signals are held off while pages may be locked by a call of the application's: a handler of its
 * own that ran in between could touch one of them, and would wait for itself. */

#include <pthread.h>
#include <signal.h>

static inline void wr_signals_hold(sigset_t *before)
{
    sigset_t all;

    sigfillset(&all);
    /* Faults of our own must show as what they are. */
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGABRT);
    pthread_sigmask(SIG_SETMASK, &all, before);
}

static inline void wr_signals_let(const sigset_t *before)
{
    pthread_sigmask(SIG_SETMASK, before, NULL);
}
