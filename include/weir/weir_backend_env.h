/* SPDX-License-Identifier: MIT */
#pragma once

/* Env: what a back end is told of whoever opens it, and how it says what it has to say. Part of
 * weir_backend.h. */

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

enum weir_env_flags {
    WEIR_ENV_PUTS_OFF = 1u << 0,  /* a write may end with WEIR_EAGAIN: nothing was written, and will
                                     not be for a while, though nothing is lost. It is then written
                                     elsewhere, or again a little later, as often as need be */
    WEIR_ENV_HAS_COPIES = 1u << 1 /* what lies here lies elsewhere, too: a read may end with
                                     WEIR_EAGAIN, and is to, once nobody has answered for a while,
                                     though nothing is lost. It is then read elsewhere, or again a
                                     little later, as often as need be */
};

/* What the runtime tells a back end at open(). Valid until close() has returned. A back end that
 * opens another gives it an env of its own, or the one that it was given. */
struct weir_backend_env {
    void *context;
    /* Raise an event: severity as in weir.h, closed-list error, errno or 0, one line of text.
     * Any thread; the text is copied. Not from read(), submit() or poll(). */
    void (*tell)(void *context, int severity, int error, int os_error, const char *text);
    uint32_t flags; /* enum weir_env_flags */
    /* NULL: there is nobody who could do it. 1: this back end's memory is wanted back. Nothing more
     * is written to it while others have room; its pages are moved there, and then it is closed.
     * 0: no longer; if it is still open, it is used as before. Returns at once. Any thread, but not
     * from read(), submit() or poll(). */
    void (*leave)(void *context, int is_wanted);
};

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
