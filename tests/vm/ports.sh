#!/bin/bash
# SPDX-License-Identifier: MIT
# In a machine of the emulator, with the build tree as its argument: a memory server at two ports of
# RDMA devices, and a client that spreads its pages over both.
set -e
tree=$1
options='key=/run/key&size=32M'

for port in 1 2; do
    ip link add "cable$port" type dummy
    ip addr add "10.77.1$port.1/24" dev "cable$port"
    ip link set "cable$port" up
    rdma link add "port$port" type rxe netdev "cable$port"
done
"$tree/transport/memd/weir-memd" --memory 256M --lease 300 --grace 1 --key-file /run/key \
    --listen rdma://10.77.11.1:7072 --listen rdma://10.77.12.1:7072 >/run/memd.log 2>&1 &
trap 'cat /run/memd.log' EXIT
for ((i = 0; i < 600; i++)); do
    grep -q 'listens at rdma://10.77.12.1' /run/memd.log && break
    sleep 0.1
done
"$tree/tests/stress/weir_stress" --seconds 2 --seed 5 \
    --backends "spread(rdma://10.77.11.1:7072?$options, rdma://10.77.12.1:7072?$options)" |
    grep '^stress ok'
[ "$(grep -c ': lent ' /run/memd.log)" -eq 2 ]
