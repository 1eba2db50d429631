#!/bin/bash
# SPDX-License-Identifier: MIT
# with_memd.sh WEIR-MEMD PROGRAM ARGUMENT...: run it beside a memory server of its own; TCP in an argument stands for
# the back end there.
set -eu

memd=$1
shift
dir=$(mktemp -d)
trap 'kill "$server" 2>/dev/null; rm -rf "$dir"' EXIT
head -c 32 /dev/urandom >"$dir/key"
chmod 600 "$dir/key"
"$memd" --memory 9G --listen tcp://127.0.0.1:0 --key-file "$dir/key" 2>"$dir/log" &
server=$!
for _ in $(seq 100); do
    place=$(sed -n 's/.*listens at \(tcp:[^ ]*\).*/\1/p' "$dir/log")
    [ -n "$place" ] && break
    sleep 0.1
done
[ -n "$place" ] || { cat "$dir/log" >&2; exit 1; }
arguments=()
for argument; do
    arguments+=("${argument//TCP/"$place?size=2G&key=$dir/key"}")
done
"${arguments[@]}"
