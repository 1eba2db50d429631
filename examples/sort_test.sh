#!/bin/bash
# SPDX-License-Identifier: MIT
#
# sort_test.sh SORT DIRECTORY edges|text [MIB]
#
# edges: the texts that a sort gets wrong first; text: 24 MiB of real text. Each against the
# system's sort, byte for byte, with so little memory that all but the tiniest need several runs.
# With MIB, the process may never have been larger than that.

set -eu
export LC_ALL=C
sort=$1
dir=$2/sort_$3
most_mib=${4:-}
failed=0

rm -rf "$dir"
mkdir -p "$dir"
trap 'rm -rf "$dir"' EXIT

numbers() { # FROM STEP TO
    seq -f '%09.0f a line of the ordinary kind' "$@"
}

# From a seed: the same bytes every time.
noise() { # BYTES
    perl -e 'srand 7; print pack("L", int rand 2**32) for 1 .. $ARGV[0] / 4' "$1"
}

is_small() {
    [ -z "$most_mib" ] || sed -n 's/^peak resident \([0-9]*\).*/\1/p' "$dir/log" |
        awk -v most="$most_mib" '{ ok = $1 <= most } END { exit !ok }'
}

check() { # NAME MEMORY; the text is on standard input
    cat >"$dir/in"
    if "$sort" --memory "$2" --swap "file:$dir?size=256m" --check "$dir/in" "$dir/out" \
        >"$dir/log" 2>&1 && is_small; then
        echo "ok      $1"
    else
        echo "FAILED  $1 ($(stat -c %s "$dir/in") bytes)"
        cat "$dir/log"
        failed=1
    fi
}

edges() {
    printf '' | check 'nothing at all' 4m
    printf '\n' | check 'one empty line' 4m
    printf 'x' | check 'one letter, no newline' 4m
    printf 'b\na\nc' | check 'no newline at the end' 4m
    printf 'b\n\n\na\0\na\na\0b\na\tb\na b\n\377\n\0\n\n' | check 'NUL, tab and 0xff' 4m
    printf '%s\n' abcdefg abcdef abcdefgh abcdef abcdefgg | check 'ends about the seventh byte' 4m
    numbers 1 1 120000 | check 'in order already' 4m
    numbers 120000 -1 1 | check 'in falling order' 4m
    { numbers 1 2 120000; numbers 120000 -2 2; } | check 'rising, then falling' 4m
    yes 'the same line, again and again' | head -n 150000 | check 'all lines equal' 4m
    yes '' | head -n 1000000 | check 'nothing but empty lines' 4m
    noise 5000000 | tr '\0-\277' '0-9\n0-9\n0-9\n0-9\n' | check 'very short lines' 4m
    noise 5000000 | check 'noise of all bytes' 4m
    noise 5000000 | tr '\1-\11\13-\177' '\0' | check 'noise, half of it NUL' 4m
    noise 5000000 | tr '\n' ' ' | fold -b -w 70001 | check 'lines of seventeen pages' 4m
    { noise 900000 | tr '\n' ' '; echo; numbers 1 1 90000; noise 900000 | tr '\n' ' '; } |
        check 'two long lines, the last without a newline' 4m
    numbers 1 1 60000 | sed 'p;p;s/^/                /' | check 'long common beginnings' 4m
}

text() {
    "$(dirname "$0")/make_text.sh" "$dir/text" 24M
    check 'real text' 6m <"$dir/text"
}

"$3"
exit $failed
