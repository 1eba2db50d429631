#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The library exports what the public headers promise, each with its version, and nothing else.
set -u
root=$1 library=$2
promised=$(ctags -x --language-force=C --kinds-C=px $(ls "$root"/include/weir/*.h | grep -v weir_calls) |
    awk '{print $1}' | sort -u)
# Symbols of type A are the names of the versions.
symbols=$(nm -D --defined-only "$library" | awk '$2 != "A" {print $3}' | grep -v '^_' | sort -u)
exported=$(echo "$symbols" | sed 's/@.*//')
if ! difference=$(diff <(echo "$promised") <(echo "$exported")); then
    echo "promised (<) and exported (>) differ:"
    echo "$difference"
    exit 1
fi
if plain=$(echo "$symbols" | grep -vE '@@WEIR_[0-9.]+$'); then
    echo "no version (runtime/install/weir.map): $plain"
    exit 1
fi
echo "check_symbols: $(echo "$exported" | wc -l) symbols, all promised"
