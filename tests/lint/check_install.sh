#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check_install.sh SOURCE BUILD: what is installed is enough for somebody else's program, in C and in
# C++, found by pkg-config and by find_package(weir); and it still is when it was moved elsewhere.
set -euo pipefail
source=$1 build=$2
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
say() { echo "check_install: $*"; }
die() { say "$*"; exit 1; }

cmake --install "$build" --prefix "$home/first" >/dev/null
mv "$home/first" "$home/moved"
prefix=$home/moved
cp -r "$source/tests/lint/outside" "$home/outside"
cp "$source/examples/hello.c" "$home/outside"
cd "$home/outside"

libdir=$(dirname "$(find "$prefix" -name libweir.so)")
export LD_LIBRARY_PATH=$libdir PKG_CONFIG_PATH=$libdir/pkgconfig
named=$(grep -rlIF "$home/first" "$prefix" | grep -v '\.service$' || true)
[ -z "$named" ] || die "these name the place they were installed to: $named"

strict=(-Wall -Wextra -Wpedantic -Werror)
read -ra flags <<<"$(pkg-config --cflags --libs weir)"
cc -std=c11 "${strict[@]}" outside.c -o by_pc_c "${flags[@]}"
c++ -std=c++17 "${strict[@]}" outside.cpp -o by_pc_cpp "${flags[@]}"
cc hello.c -o hello "${flags[@]}"
read -ra flags <<<"$(pkg-config --cflags --libs weir_calls)"
cc -std=c11 "${strict[@]}" outside_calls.c -o by_pc_calls "${flags[@]}"
cmake -S . -B by_cmake -DCMAKE_PREFIX_PATH="$prefix" >log 2>&1 || { cat log; die "find_package(weir) failed"; }
cmake --build by_cmake >log 2>&1 || { cat log; die "the project that uses find_package(weir) does not build"; }
grep -q "^weir_DIR:PATH=$prefix/" by_cmake/CMakeCache.txt || die "another Weir than this one was found"

# The sum of i % 251 for 16384 pages.
wanted="sum $((65 * (250 * 251 / 2) + 68 * 69 / 2))"
for program in by_pc_c by_pc_cpp by_cmake/outside_c by_cmake/outside_cpp; do
    got=$("./$program") || die "$program failed"
    [ "$got" = "$wanted" ] || die "$program: \"$got\" instead of \"$wanted\""
done
for program in by_pc_calls by_cmake/outside_calls; do
    "./$program" || die "$program: read() is not that of weir_calls"
done
read -ra flags <<<"$(pkg-config --cflags --libs weir_heap)"
c++ -std=c++17 "${strict[@]}" outside_heap.cpp -o by_pc_heap "${flags[@]}"
WEIR_BUDGET=64m ./by_pc_heap || die "by_pc_heap failed"
got=$(WEIR_BUDGET=64m ./hello) || die "hello failed"
[[ $got == *"= 2016"* ]] || die "hello: $got"
for page in man3/weir_open.3 man7/weir.7 man8/weir-memd.8; do
    [ -s "$prefix/share/man/$page" ] || die "$page is not installed"
done
[ "$(pkg-config --modversion weir)" = "$("$prefix/bin/weir-memd" --version | awk '{print $NF}')" ] ||
    die "weir.pc and weir-memd have different versions"
say "clean"
