#!/bin/bash
# SPDX-License-Identifier: MIT
#
# demo.sh DIRECTORY-OF-EXAMPLES: sort a real text of 2 GiB with 256 MiB of memory, and let the
# system's sort check the result byte for byte. WEIR_DEMO_DIR says where the files go.

set -eu
examples=$1
dir=${WEIR_DEMO_DIR:-/var/tmp/weir-demo}
text=2G
memory=256m
need_gib=13 # the text, its swap file, the result, and what the system's sort puts beside them

say() { printf '\n== %s\n' "$*"; }

mkdir -p "$dir"
have_gib=$(($(df --output=avail -B1 "$dir" | tail -n 1) >> 30))
[ -e "$dir/text" ] && need_gib=$((need_gib - 2))
if [ "$have_gib" -lt "$need_gib" ]; then
    echo "demo: $dir has $have_gib GiB free, and $need_gib are needed:" \
        "name another directory in WEIR_DEMO_DIR" >&2
    exit 1
fi
trap 'rm -f "$dir/sorted"' EXIT

say "a text of $text in $dir, of the documentation on this machine"
bash "$(dirname "$0")/make_text.sh" "$dir/text" "$text"

say "sorting it in a region, with $memory of memory; the rest lies in a file in $dir"
"$examples/sort" --memory "$memory" --swap "file:$dir?size=8G" --check "$dir/text" "$dir/sorted"

say "done; $dir/text was kept for the next time"
