#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Every header stands alone in C; the public ones in C11, C++11 and C++17 too.
set -u
cd "$1" || exit 2
bad=0
for header in include/weir/*.h; do
    for compiler in "gcc -std=c11 -x c" "g++ -std=c++11 -x c++" "g++ -std=c++17 -x c++"; do
        echo "#include <weir/$(basename "$header")>" |
            $compiler -Wall -Wextra -Wpedantic -Werror -Iinclude -fsyntax-only - ||
            { echo "$header does not stand alone: $compiler"; bad=1; }
    done
done
for header in runtime/*.h runtime/*/*.h transport/*.h transport/*/*.h; do
    echo "#include \"$header\"" |
        gcc -std=c17 -D_GNU_SOURCE -Wall -Wextra -Werror -Wno-unused-function -I. -Iinclude \
            -fsyntax-only -x c - ||
        { echo "$header does not stand alone"; bad=1; }
done
[ $bad -eq 0 ] && echo "check_headers: all stand alone"
exit $bad
