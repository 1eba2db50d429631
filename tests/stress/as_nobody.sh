#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# as_nobody.sh PROGRAM [ARGUMENT...]: run a test with no privilege whatsoever. Its copy is in a
# directory that everybody may enter; wherever the build tree is, perhaps only root may.
set -euo pipefail
program=$1
shift
dir=$(mktemp -d /var/tmp/weir-nobody-XXXXXX)
trap 'rm -rf "$dir"' EXIT
cp "$program" "$dir/program"
chmod 755 "$dir" "$dir/program"
cd "$dir"
if [ "$(id -u)" -eq 0 ]; then
    setpriv --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all --inh-caps=-all \
        --no-new-privs ./program "$@"
else
    ./program "$@"
fi
