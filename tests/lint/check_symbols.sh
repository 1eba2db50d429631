#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check_symbols.sh SOURCE LIBRARY HEAP_LIBRARY: each library exports what its public headers promise,
# and nothing else.
set -u
root=$1 library=$2 heap=$3

# check LIBRARY HEADER...
check() {
    local library=$1 promised exported difference
    shift
    promised=$(ctags -x --language-force=C --kinds-C=px "$@" | awk '{print $1}' | sort -u)
    exported=$(nm -D --defined-only "$library" | awk '{print $3}' | sed 's/@.*//' | grep -v '^_' |
        sort -u)
    if ! difference=$(diff <(echo "$promised") <(echo "$exported")); then
        echo "$library: promised (<) and exported (>) differ:"
        echo "$difference"
        exit 1
    fi
    echo "check_symbols: $(echo "$exported" | wc -l) symbols of $(basename "$library"), all promised"
}

# shellcheck disable=SC2046
check "$library" $(ls "$root"/include/weir/*.h | grep -v /weir_heap.h)
check "$heap" "$root"/include/weir/weir_heap.h
