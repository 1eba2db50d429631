/* SPDX-License-Identifier: MIT */
#include "transport/verbs.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#define VERBS_LIBRARY "libibverbs.so.1"
#define CM_LIBRARY    "librdmacm.so.1"

static struct wr_verbs verbs;
static const char *missing; /* what of them there is not; NULL: nothing */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void find(void *library, const char *name, void *function_p)
{
    void *symbol = library ? dlsym(library, name) : NULL;

    if (!symbol && !missing)
        missing = name;
    memcpy(function_p, &symbol, sizeof(symbol));
}

static void load(void)
{
    void *ib = dlopen(VERBS_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    void *cm = ib ? dlopen(CM_LIBRARY, RTLD_NOW | RTLD_LOCAL) : NULL;

    if (!ib || !cm)
        missing = ib ? CM_LIBRARY : VERBS_LIBRARY;
#define X(member, function) find(ib, #function, &verbs.member);
#define Y(member, function) find(cm, #function, &verbs.member);
    WR_VERBS_MAP(X, Y)
#undef X
#undef Y
}

static bool has_device(void)
{
    int count = 0;
    struct ibv_device **devices = verbs.get_device_list(&count);

    if (devices)
        verbs.free_device_list(devices);
    return devices && count > 0;
}

const struct wr_verbs *wr_verbs_load(char why[WR_VERBS_WHY])
{
    struct rdma_event_channel *channel;

    pthread_once(&once, load);
    if (missing) {
        snprintf(why, WR_VERBS_WHY,
                 "%s is not installed: apt-get install libibverbs1 librdmacm1 ibverbs-providers",
                 missing);
        return NULL;
    }
    if (!has_device()) {
        snprintf(
            why, WR_VERBS_WHY,
            "this machine has no RDMA device (ibv_devices lists none); in a container, give it "
            "/dev/infiniband; without one, use tcp");
        return NULL;
    }
    channel = verbs.create_event_channel();
    if (!channel) {
        snprintf(why, WR_VERBS_WHY,
                 "/dev/infiniband/rdma_cm cannot be opened: %s: modprobe rdma_ucm",
                 strerrordesc_np(errno));
        return NULL;
    }
    verbs.destroy_event_channel(channel);
    return &verbs;
}

void wr_verbs_explain(int os_error, const char *what, char why[WR_VERBS_WHY])
{
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};

    (void)getrlimit(RLIMIT_MEMLOCK, &limit);
    if (os_error == ENOMEM && limit.rlim_cur != RLIM_INFINITY)
        snprintf(why, WR_VERBS_WHY,
                 "%s: more memory would be locked than the %llu KiB that are allowed: ulimit -l "
                 "unlimited, or LimitMEMLOCK=infinity of its unit",
                 what, (unsigned long long)limit.rlim_cur >> 10);
    else
        snprintf(why, WR_VERBS_WHY, "%s: %s", what, strerrordesc_np(os_error));
}
