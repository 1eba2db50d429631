#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The library exports what the public headers promise, and nothing else.
set -u
root=$1 library=$2
promised=$(ctags -x --language-force=C --kinds-C=px $(ls "$root"/include/weir/*.h | grep -v weir_calls) |
    awk '{print $1}' | sort -u)
exported=$(nm -D --defined-only "$library" | awk '{print $3}' | sed 's/@.*//' | grep -v '^_' | sort -u)
if ! difference=$(diff <(echo "$promised") <(echo "$exported")); then
    echo "promised (<) and exported (>) differ:"
    echo "$difference"
    exit 1
fi
echo "check_symbols: $(echo "$exported" | wc -l) symbols, all promised"
