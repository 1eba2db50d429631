#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# A lookup is one load: no store, no lock, no call (requirement A2), and one file alone knows how a
# page's state is kept (A5).
set -u
root=$1 library=$2
others=$(grep -rlE '(->|\.)w[01]\b' "$root/runtime" | grep -v '/memory/page\.[ch]$')
if [ -n "$others" ]; then
    echo "page.c alone reads and writes a descriptor's words; here they are, too: $others"
    exit 1
fi
code=$(objdump -d --no-show-raw-insn "$library" | awk '/<wr_page_peek>:/ {on = 1; next} on && /^$/ {exit} on')
if [ -z "$code" ]; then
    echo "wr_page_peek is not found in $library: this test has gone blind"
    exit 1
fi
case $(uname -m) in
x86_64)
    bad=$(echo "$code" | grep -E 'lock |xchg|call|fence|mov[a-z]* +[^,]+, *[-0-9a-fx]*\(%') ;;
*) bad=$(echo "$code" | grep -E '\b(bl|blr|st[a-z]*|cas[a-z]*|dmb)\b') ;;
esac
if [ -n "$bad" ]; then
    echo "wr_page_peek does more than load:"
    echo "$bad"
    exit 1
fi
echo "check_lookup: $(echo "$code" | grep -c .) instructions, none of them a store, a lock or a call"
