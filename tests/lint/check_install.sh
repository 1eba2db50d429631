#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check_install.sh SOURCE BUILD: what is installed is enough to compile, link and run hello,
# as somebody would who knows only pkg-config.
set -euo pipefail
source=$1 build=$2
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT

cmake -S "$source" -B "$prefix/build" -DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_BUILD_TYPE=Release \
    -DWEIR_TESTS=OFF -DWEIR_EXAMPLES=OFF >/dev/null
mkdir -p "$prefix/lib"
cmake --install "$build" --prefix "$prefix" >/dev/null
pc=$(find "$prefix/build" -name weir.pc)
libdir=$(dirname "$(find "$prefix" -name 'libweir.so' | head -n 1)")
flags=$(PKG_CONFIG_PATH=$(dirname "$pc") pkg-config --cflags --libs weir)
# shellcheck disable=SC2086
cc -x c "$source/examples/hello.c" -o "$prefix/hello" $flags
LD_LIBRARY_PATH=$libdir WEIR_BUDGET=64m "$prefix/hello" | grep '= 2016'

flags=$(PKG_CONFIG_PATH=$(dirname "$pc") pkg-config --cflags --libs weir_heap)
cat >"$prefix/heap.cc" <<'TEXT'
#include <weir/weir_heap.h>
int main()
{
    weir_runtime *rt;
    weir_heap *heap;
    if (weir_open(nullptr, &rt) != WEIR_OK || weir_heap_create(rt, 1 << 20, nullptr, &heap) != WEIR_OK)
        return 1;
    int *numbers = static_cast<int *>(weir_heap_calloc(heap, 100, sizeof(int)));
    int sum = numbers ? numbers[99] : 1;
    weir_heap_free(heap, numbers);
    return weir_heap_destroy(heap) || weir_close(rt) || sum;
}
TEXT
# shellcheck disable=SC2086
c++ "$prefix/heap.cc" -o "$prefix/heap" $flags
LD_LIBRARY_PATH=$libdir WEIR_BUDGET=64m "$prefix/heap"
echo "check_install: clean"
