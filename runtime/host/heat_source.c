/* SPDX-License-Identifier: MIT */
#include "runtime/host/heat_source.h"

#include <errno.h>
#include <string.h>

const char *wr_heat_path(char *buffer, const char *root, const char *path)
{
    struct wr_text text;

    wr_text_init(&text, buffer, WR_HEAT_PATH);
    wr_text_add(&text, root);
    wr_text_add(&text, path);
    return buffer;
}

int wr_heat_refuse(struct wr_text *why, const char *what)
{
    const char *reason = errno ? strerrordesc_np(errno) : NULL;

    wr_text_add(why, what);
    if (reason) {
        wr_text_add(why, " (");
        wr_text_add(why, reason);
        wr_text_add(why, ")");
    }
    return WEIR_ENOSUPPORT;
}
