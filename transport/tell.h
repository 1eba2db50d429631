/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Tell: how a back end says in words what happened, through its weir_backend_env.
 *
 * Always: one line without newline, that names the option or path concerned and says what to do.
 * Not from read(), submit() or poll(): they may run where formatting is not allowed.
 */

#include <weir/weir.h>
#include <weir/weir_backend.h>

void wr_tell(const struct weir_backend_env *env, enum weir_severity severity, int error,
             int os_error, const char *format, ...) __attribute__((format(printf, 5, 6)));

/*
 * Tell of a system call that failed: the text, then the system's own words. Returns the error of
 * the closed list that stands for os_error, for the caller to pass on.
 */
int wr_tell_errno(const struct weir_backend_env *env, int os_error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
