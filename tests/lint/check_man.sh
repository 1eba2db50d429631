#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check_man.sh MAN LIBRARY MEMD WEIR: the man pages are well formed; every call has one; that of a
# command names every option of it, and no other.
set -uo pipefail
man=$1 library=$2 memd=$3 weir=$4
bad=0
complain() { echo "check_man: $*"; bad=1; }

cd "$man" || exit 2
[ -e man3/weir_open.3 ] || { complain "no pages in $man: this test has gone blind"; exit 1; }
# A page that only names another (.so) is one for man, which knows where the other is.
mapfile -t pages < <(grep -L '^\.so ' man?/*)
mandoc -T lint -W warning "${pages[@]}" || bad=1
groff -man -ww -z -Tutf8 "${pages[@]}" 2>&1 | grep . && bad=1
for call in $(nm -D --defined-only "$library" | awk '$2 == "T" {print $3}' | sed 's/@.*//'); do
    [ -e "man3/$call.3" ] || complain "no page for $call()"
done
sed -n 's/^\.so //p' man3/* | while read -r other; do
    [ -e "$other" ] || echo "check_man: a page names $other, which is not there"
done | grep . && bad=1

options() { grep -oE -- '--[a-z][a-z-]+' | sort -u; }
# check_options PAGE COMMAND
check_options() {
    local promised known difference
    promised=$(grep -A1 '^\.TP' "$1" | sed 's/\\-/-/g' | options)
    known=$("$2" --help | options)
    if ! difference=$(diff <(echo "$promised") <(echo "$known")); then
        complain "options in docs/man/$(basename "$1") (<) and in --help (>) differ:"
        echo "$difference"
    fi
}
check_options man8/weir-memd.8 "$memd"
check_options man1/weir.1 "$weir"
[ "$bad" -eq 0 ] && echo "check_man: $(find . -name '*.[1378]' | wc -l) pages"
exit "$bad"
