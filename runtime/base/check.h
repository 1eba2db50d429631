/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Checks: three levels of "this cannot be", and the one event by which the library speaks.
 *
 *   WR_CHECK        constant time, in every build; a failure prints one line and aborts
 *   WR_CHECK_DEBUG  constant time but on the hot path; only with WR_DEBUG_CHECKS
 *   event           a thing worth telling: goes to the listener of the runtime, never to a stream
 *
 * A check is about our own mistakes. A wrong argument of the application is WEIR_EINVAL and a bad
 * disk is WEIR_EIO; neither ends in a check.
 */

#include <stdbool.h>
#include <stdint.h>

#include <weir/weir.h>

#define WR_STRING_OF(x) #x
#define WR_STRING(x)    WR_STRING_OF(x)

#define WR_CHECK(condition)                                                    \
    do {                                                                       \
        if (__builtin_expect(!(condition), 0))                                 \
            wr_check_failed(__FILE__ ":" WR_STRING(__LINE__) ": " #condition); \
    } while (0)

#ifdef WR_DEBUG_CHECKS
#define WR_CHECK_DEBUG(condition) WR_CHECK(condition)
#else
#define WR_CHECK_DEBUG(condition) ((void)sizeof(condition))
#endif

/* Print "weir: check failed: <text>" on standard error and abort. Any thread, any signal. */
_Noreturn void wr_check_failed(const char *text);

/* Where a runtime's events go. Constant after wr_events_init(). */
struct wr_events {
    weir_event_fn listener; /* NULL: nobody */
    void *context;
};

void wr_events_init(struct wr_events *events, weir_event_fn listener, void *context);

/* Any thread, any signal. address 0: none. WEIR_FATAL without a listener goes to stderr. */
void wr_event(const struct wr_events *events, enum weir_severity severity, int error, int os_error,
              uint64_t address, const char *text);
