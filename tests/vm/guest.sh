#!/bin/bash
# SPDX-License-Identifier: MIT
# In a machine of the emulator, as its first process: makes it one in which tests run, then does
# what comes over the port, a line at a time: a command of bash (as base64); "stop", which is
# SIGTERM for it; or "kill", which is SIGKILL for all that it started. When a command has ended, its
# exit status is told, and nothing of it goes on.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
number=$(sed -n 's/.*machine=\([0-9]*\).*/\1/p' /proc/cmdline)

mount -t sysfs none /sys
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none /run
mkdir /dev/shm /dev/pts
mount -t tmpfs -o mode=1777 none /dev/shm
mount -t devpts none /dev/pts
ln -s /proc/self/fd /dev/fd
# A disk for what is written, as tests want O_DIRECT.
mount -t ext4 -o nobarrier /dev/vda /mnt
chmod 1777 /mnt
[[ $0 == /var/tmp/* ]] || mount --bind /mnt /var/tmp

hostname "machine$number"
ip link set lo up
ip link set eth0 up
export HERE=10.77.0.$number
ip addr add "$HERE/24" dev eth0
rdma link add rxe0 type rxe netdev eth0
ulimit -l unlimited -n 65536 -c 0

echo "what machines in an emulator tell nobody" >/run/key
chmod 600 /run/key

# All that a command starts is in one group.
group=/sys/fs/cgroup/command
mkdir $group

run() {
    (echo $BASHPID >$group/cgroup.procs && exec setsid bash /run/command) </dev/null >&3 2>&1 3>&- &
    echo $! >/run/leader
    wait $!
    status=$?
    echo 1 >$group/cgroup.kill
    printf '\n\036%d\n' $status >&3
}

exec 3<>/dev/vport0p1
echo ready >&3
while read -r line <&3; do
    case $line in
    stop) kill -TERM "$(cat /run/leader)" ;;
    kill) echo 1 >$group/cgroup.kill ;;
    *) base64 -d <<<"$line" >/run/command && run & ;;
    esac
done
