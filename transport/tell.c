/* SPDX-License-Identifier: MIT */
#include "transport/tell.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define LINE_BYTES 512

static void tell_line(const struct weir_backend_env *env, enum weir_severity severity, int error,
                      int os_error, const char *line)
{
    if (env && env->tell)
        env->tell(env->context, (int)severity, error, os_error, line);
}

void wr_tell(const struct weir_backend_env *env, enum weir_severity severity, int error,
             int os_error, const char *format, ...)
{
    char line[LINE_BYTES];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    tell_line(env, severity, error, os_error, line);
}

static int error_of(int os_error)
{
    switch (os_error) {
    case ENOENT:
    case ENXIO:
    case ENODEV: return WEIR_ENOENT;
    case EACCES:
    case EPERM:
    case EROFS: return WEIR_EDENIED;
    case EBUSY:
    case ETXTBSY:
    case EWOULDBLOCK: return WEIR_EBUSY;
    case ENOSPC:
    case EDQUOT:
    case EFBIG: return WEIR_EFULL;
    case ENOMEM:
    case EMFILE:
    case ENFILE: return WEIR_ENOMEM;
    case ENOSYS:
    case EOPNOTSUPP: return WEIR_ENOSUPPORT;
    case EINVAL:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
    case ENOTDIR: return WEIR_EINVAL;
    default: return WEIR_EIO;
    }
}

int wr_tell_errno(const struct weir_backend_env *env, int os_error, const char *format, ...)
{
    char line[LINE_BYTES];
    const char *words = strerrordesc_np(os_error);
    va_list arguments;
    size_t length;

    va_start(arguments, format);
    vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    length = strlen(line);
    snprintf(line + length, sizeof(line) - length, ": %s", words ? words : "unknown error");
    tell_line(env, WEIR_FAILURE, error_of(os_error), os_error, line);
    return error_of(os_error);
}
