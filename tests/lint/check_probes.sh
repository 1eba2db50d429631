#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check_probes.sh SOURCE LIBRARY: the probes that usdt.h names are those that the library has.
set -euo pipefail
source=$1 library=$2

said=$(sed -nE 's/^ \*   weir:([a-z_]+) +(.*)/\1/p' "$source/runtime/base/usdt.h" | sort)
found=$(readelf -n "$library" | awk '/Provider: weir/ {p = 1} /Name:/ && p {print $2; p = 0}' | sort -u)
if [ -z "$found" ]; then
    echo "check_probes: the library was built without <sys/sdt.h> (systemtap-sdt-dev)"
    exit 77
fi
diff <(echo "$said") <(echo "$found") ||
    { echo "check_probes: usdt.h (<) and the library (>) have other probes"; exit 1; }
echo "check_probes: $(echo "$found" | wc -l) probes"
