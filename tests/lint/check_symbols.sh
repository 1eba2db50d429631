#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check_symbols.sh SOURCE LIBRARY HEAP_LIBRARY: each library exports what its public headers promise,
# that of the runtime each with its version, and nothing else. (weir_calls exports the C library's.)
set -u
root=$1 library=$2 heap=$3

# Symbols of type A are the names of the versions.
symbols_of() {
    nm -D --defined-only "$1" | awk '$2 != "A" {print $3}' | grep -v '^_' | sort -u
}

# check LIBRARY HEADER...
check() {
    local library=$1 promised exported difference
    shift
    promised=$(ctags -x --language-force=C --kinds-C=px "$@" | awk '{print $1}' | sort -u)
    exported=$(symbols_of "$library" | sed 's/@.*//')
    if ! difference=$(diff <(echo "$promised") <(echo "$exported")); then
        echo "$library: promised (<) and exported (>) differ:"
        echo "$difference"
        exit 1
    fi
    echo "check_symbols: $(echo "$exported" | wc -l) symbols of $(basename "$library"), all promised"
}

# shellcheck disable=SC2046
check "$library" $(ls "$root"/include/weir/*.h | grep -v '/weir_heap.h\|/weir_calls.h')
check "$heap" "$root"/include/weir/weir_heap.h
if plain=$(symbols_of "$library" | grep -vE '@@WEIR_[0-9.]+$'); then
    echo "no version (runtime/install/weir.map): $plain"
    exit 1
fi
