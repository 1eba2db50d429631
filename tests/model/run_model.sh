#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# run_model.sh [OPTION...] WORKDIR MODEL [-DSWITCH...]: try every order of steps of a model.
#
#   --live       also look for endless loops (P4, P5): every cycle of states is one
#   --find       the model holds a planted mistake: success is to find it
#   --memory=N   MiB that a search may take (2000)
#   --depth=N    steps that an order may have (2000000)
#   --large      12000 MiB, 20000000 steps, optimised C: for what takes minutes
#
# Succeeds only when every state that can be reached was visited and stored whole: a search that was
# cut off at its depth, ran out of memory, or kept hashes instead of states proves nothing and is a
# failure. So is, with --find, a mistake that was not found. Works in WORKDIR/, which it makes, and
# leaves there the generated C, the search's report, WORKDIR/taken (moves of the page that were
# taken) and, when something was found, a trail: cd WORKDIR && ./pan -r prints it.
#
# The last line printed is the verdict. Not run by CTest, because they take minutes and gigabytes:
#
#   run_model.sh --large WORKDIR page.pml -DFAULTERS=2 -DKSWAPD -DDRAIN -DDISCARD -DFREE_HINT \
#       -DERRORS -DCHANCE
#   run_model.sh --large WORKDIR page.pml -DFAULTERS=2 -DKSWAPD -DDRAIN -DDISCARD -DSLOTS=3 -DWP
#   run_model.sh --large WORKDIR page.pml -DFAULTERS=1 -DPINNERS=1 -DKSWAPD -DFREE_HINT -DUNMAP
#   run_model.sh --large --live WORKDIR page.pml -DBOUNDED=1 -DFAULTERS=2 -DKSWAPD -DDRAIN \
#       -DDISCARD -DAHEAD -DUNMAP
set -euo pipefail

live=0 find=0 memory=2000 depth=2000000 optimise=-Og # compiles fast
while [[ ${1:-} == --* ]]; do
    case $1 in
    --live) live=1 ;;
    --find) find=1 optimise=-O0 ;; # soon found
    --large) memory=12000 depth=20000000 optimise=-O2 ;;
    --memory=*) memory=${1#*=} ;;
    --depth=*) depth=${1#*=} ;;
    *) echo "run_model.sh: what is $1?" >&2; exit 2 ;;
    esac
    shift
done
work=$1 model=$(realpath "$2")
shift 2
name="$(basename "$model") $*"

die() { printf 'NOT CHECKED: %s: %s\n' "$name" "$1" >&2; exit 1; }

[[ ! -e $work || -e $work/spin.log ]] || die "$work exists, and is none of mine"
rm -rf "$work"
mkdir -p "$work"
cp "$(dirname "$model")"/*.pml "$work"
cd "$work"
spin -a "$@" "$(basename "$model")" >spin.log 2>&1 || { cat spin.log; die "spin -a failed"; }
grep -qiE 'warning|error' spin.log && { cat spin.log; die "spin complains"; }

# search NAME COMPILER-FLAGS PAN-FLAGS: prints the errors found, or dies.
# COLLAPSE keeps whole states; NOREDUCE leaves out none because it seems to make no difference.
search() {
    local report=$1.report status=0
    # shellcheck disable=SC2086
    "${CC:-cc}" "$optimise" -w -DCOLLAPSE -DNOREDUCE "-DMEMLIM=$memory" $2 -o pan pan.c ||
        die "the generated C does not compile"
    # shellcheck disable=SC2086
    ./pan "-m$depth" $3 >"$report" 2>&1 || status=$?
    grep -E '^taken ' "$report" >>taken || true
    grep -qE '^Full statespace search' "$report" || { tail -5 "$report" >&2; die "no search"; }
    grep -qE 'Hash-Compact' "$report" && die "states were not stored whole"
    if ! grep -qE 'errors: [1-9]' "$report"; then
        local cut
        cut=$(grep -m1 -iE 'too small|out of memory|-DMEMLIM|not completed' "$report") &&
            die "the search was cut off: $cut"
    fi
    grep -qE 'errors: [0-9]+' "$report" ||
        { tail -5 "$report" >&2; die "the search ended by $status"; }
    sed -nE 's/.*errors: ([0-9]+).*/\1/p' "$report"
}

: >taken
errors=$(search safety -DSAFETY "")
reports=(safety.report)
if [[ $live == 1 && $errors == 0 ]]; then
    errors=$(search live -DNP -l)
    reports+=(live.report)
fi
sort -u -o taken taken
last=${reports[-1]}
states=$(sed -nE 's/^ *([0-9]+) states, stored.*/\1/p' "${reports[@]}" | paste -sd+)
what="$states states, depth $(sed -nE 's/.*depth reached ([0-9]+).*/\1/p' "$last")"
found=$(grep -m1 -E '^pan.*(violated|invalid|non-progress)' "$last" | cut -c1-300 || true)

if [[ $errors == 0 ]]; then
    if [[ $find == 1 ]]; then
        printf 'NOT FOUND: %s: the planted mistake goes unnoticed: %s\n' "$name" "$what"
        exit 1
    fi
    printf 'HOLDS: %s: %s\n' "$name" "$what"
    exit 0
fi
[[ -n $found ]] || die "errors, but of what kind?"
if [[ $find == 1 ]]; then
    printf 'FOUND: %s: %s: %s\n' "$name" "$what" "$found"
    exit 0
fi
printf 'WRONG: %s: %s: %s (cd %s && ./pan -r)\n' "$name" "$what" "$found" "$work"
exit 1
