#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The formatting is the formatter's.
set -u
cd "$1" || exit 2
find include runtime transport examples tests -name '*.[ch]' -print0 |
    xargs -0 clang-format --dry-run -Werror && echo "check_format: clean"
