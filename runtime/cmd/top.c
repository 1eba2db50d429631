/* SPDX-License-Identifier: MIT */
#include "runtime/cmd/cmd.h"
int cmd_top(const struct cmd *cmd)
{
    (void)cmd;
    return 1;
}
