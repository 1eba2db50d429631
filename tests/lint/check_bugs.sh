#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The library that users get has none of the mistakes of runtime/base/bug.h: neither their code nor
# their names. The testing library, by the same look, has them.
set -u
root=$1 library=$2 testing=$3

# Functions that only a bug calls, and what the environment is asked for.
mistakes() {
    nm "$1" 2>/dev/null | grep -E ' [tT] (wr_bug|wr_bug_read|unmap_all|await_write|be_oldest)($|\.)'
    strings -d "$1" | grep -E "WEIR_BUG|$(grep -oP '^    X\(\K\w+' "$root/runtime/base/bug.h" |
        paste -sd'|')"
}

if ! grep -q 'X(lookup_blocks' "$root/runtime/base/bug.h"; then
    echo "the list of bugs is not found: this test has gone blind"
    exit 1
fi
if [ "$(mistakes "$testing" | wc -l)" -lt 6 ]; then
    echo "the bugs are not found in $testing: this test has gone blind"
    exit 1
fi
if found=$(mistakes "$library") && [ -n "$found" ]; then
    echo "$library has bugs:"
    echo "$found"
    exit 1
fi
echo "check_bugs: none in the library"
