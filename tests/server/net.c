/* SPDX-License-Identifier: MIT */
#include "tests/server/net.h"

#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int here = -1, beyond = -1; /* namespaces */

static bool run(const char *format, ...)
{
    char command[256];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(command, sizeof(command), format, arguments);
    va_end(arguments);
    return system(command) == 0;
}

static int own_namespace(void)
{
    return open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
}

/* Do it in the other one. */
static bool run_beyond(const char *command)
{
    bool is_done = setns(beyond, CLONE_NEWNET) == 0 && run("%s", command);

    return setns(here, CLONE_NEWNET) == 0 && is_done;
}

bool net_make(void)
{
    if (unshare(CLONE_NEWNET) != 0)
        return false;
    beyond = own_namespace();
    if (beyond < 0 || unshare(CLONE_NEWNET) != 0)
        return false;
    here = own_namespace();
    return here >= 0 &&
           run("ip link add weir0 type veth peer name weir1 netns /proc/%d/fd/%d", (int)getpid(),
               beyond) &&
           run("ip addr add 10.231.0.1/24 dev weir0 && ip link set weir0 up && ip link set lo "
               "up") &&
           run_beyond("ip addr add " NET_BEYOND "/24 dev weir1 && ip link set weir1 up");
}

bool net_enter(void)
{
    return setns(beyond, CLONE_NEWNET) == 0;
}

bool net_cut(bool is_cut)
{
    return run_beyond(is_cut ? "ip link set weir1 down" : "ip link set weir1 up");
}

bool net_limit(unsigned mbit_per_s)
{
    char command[128];

    snprintf(command, sizeof(command),
             "tc qdisc add dev weir1 root tbf rate %umbit burst 256k latency 50ms", mbit_per_s);
    return run("tc qdisc add dev weir0 root tbf rate %umbit burst 256k latency 50ms", mbit_per_s) &&
           run_beyond(command);
}
