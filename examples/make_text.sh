#!/bin/bash
# SPDX-License-Identifier: MIT
#
# make_text.sh [FILE [BYTES]]: a real text of at least BYTES (with a suffix if you like: 24M, 2G)
#
# The machine's own documentation, licences, manual pages, scripts and headers, line after line,
# again and again; each line ends in the number of its round, so that a line comes back but is
# never quite the same. The same machine makes the same text. A text that is there already is
# kept if its size and checksum are those in FILE.note.

set -eu
export LC_ALL=C

file=${1:-/var/tmp/weir-demo/text}
bytes=$(numfmt --from=iec "${2:-2G}")
note=$file.note
most=$((bytes / 4 < 96 << 20 ? bytes / 4 : 96 << 20)) # of one round, so that there are several

sources=(/usr/share/common-licenses /usr/share/doc /usr/share/man /usr/share/perl /usr/share/perl5
    /usr/lib/python3* /usr/lib/*/perl-base /usr/include)

# Every name below the sources that is a plain file which everybody may read, in a fixed order.
names() {
    find "${sources[@]}" -type f -perm -o=r "$@" -print0 2>/dev/null | sort -z
}

# grep leaves out what is not text, and ends every line.
lines() {
    names ! -name '*.gz' | xargs -0 -r grep -Ih '' 2>/dev/null || true
    names -name '*.gz' | xargs -0 -r gzip -dcq 2>/dev/null | grep -Iah '' || true
}

describe() {
    printf '%s %s\n' "$(stat -c %s "$1")" "$(cksum <"$1")"
}

if [ -e "$file" ] && [ -e "$note" ] && [ "$(head -n 1 "$note")" = "$bytes" ] &&
    [ "$(tail -n 1 "$note")" = "$(describe "$file")" ]; then
    echo "$file is there already"
    exit 0
fi

mkdir -p "$(dirname "$file")"
trap 'rm -f "$file.round" "$file.new"' EXIT
lines | head -c "$most" | grep -a '' >"$file.round"
if [ ! -s "$file.round" ]; then
    echo "make_text.sh: no text was found on this machine" >&2
    exit 1
fi
: >"$file.new"
for ((round = 1; $(stat -c %s "$file.new") < bytes; round++)); do
    sed "s/\$/ $round/" "$file.round" >>"$file.new"
done
mv "$file.new" "$file"
{ echo "$bytes"; describe "$file"; } >"$note"
echo "$file: $(stat -c %s "$file") bytes, $((round - 1)) rounds"
