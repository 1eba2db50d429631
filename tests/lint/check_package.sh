#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check_package.sh SOURCE: the Debian packages build from what git has, and have in them what they
# are for. Takes half a minute: a part of the long form.
set -euo pipefail
cd "$1"
./dev package
cd build/package
holds() {
    local files
    files=$(dpkg-deb -c "$1"_*.deb)
    shift
    for file in "$@"; do
        grep -q "$file" <<<"$files" || { echo "check_package: $file is in none of them"; exit 1; }
    done
}
holds libweir0 'libweir\.so\.0$\|libweir\.so\.0 '
holds libweir-calls0 'libweir_calls\.so\.0 '
holds libweir-dev weir/weir.h pkgconfig/weir.pc weirConfig.cmake man3/weir_open.3 man7/weir.7
holds weir-tools bin/weir-memd man8/weir-memd.8 system/weir-memd.service
echo "check_package: clean"
