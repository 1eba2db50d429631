/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Errors: the closed list.
 *
 * Every function that can fail returns one of these; 0 is success and every error is negative.
 * Whoever first knows which error it is names it and raises an event that tells what to do about
 * it (struct weir_event in weir.h); everybody else only passes it on.
 */

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define WEIR_ERROR_MAP(X)                                                \
    X(WEIR_ENOMEM, -1, "no frame or bookkeeping memory is left")         \
    X(WEIR_EINVAL, -2, "an argument breaks the documented contract")     \
    X(WEIR_EFULL, -3, "no swap slot is left on any back end")            \
    X(WEIR_EIO, -4, "a back end failed, or lost or damaged a page")      \
    X(WEIR_EAGAIN, -5, "nothing was done yet; try again")                \
    X(WEIR_ESTOPPED, -6, "the runtime or the back end is closing")       \
    X(WEIR_ENOSUPPORT, -7, "this kernel or container does not offer it") \
    X(WEIR_EDENIED, -8, "the system refused permission")                 \
    X(WEIR_EBUSY, -9, "it is in use by somebody else")                   \
    X(WEIR_ENOENT, -10, "there is no such region, back end or setting")  \
    X(WEIR_EFORKED, -11, "this process is a fork child; its parent owns it")

enum weir_error {
    WEIR_OK = 0,
#define WEIR_ERROR_ENUM(name, value, text) name = (value),
    WEIR_ERROR_MAP(WEIR_ERROR_ENUM)
#undef WEIR_ERROR_ENUM
};

/*
 * The list's own words for an error; "success" for WEIR_OK, "unknown error" for a number that is
 * not on the list. The text is constant and lives as long as the program. Any thread, any signal
 * handler.
 */
const char *weir_error_text(int error);

/* The name of an error as it is written in C, for example "WEIR_EFULL". Any thread, any signal. */
const char *weir_error_name(int error);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
