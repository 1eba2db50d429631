/* SPDX-License-Identifier: MIT */
#include "runtime/host/peer.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "runtime/host/linux.h"
#include "runtime/host/uapi.h"

static struct wr_linux_host *linux_host(struct wr_host *host)
{
    return (struct wr_linux_host *)(void *)host;
}

bool wr_peer_is_possible(const struct wr_host *host)
{
    return host->has_peers;
}

int wr_peer_open(struct wr_host *host, uint32_t peer, int trap)
{
    int flags = fcntl(trap, F_GETFL);

    if (flags < 0 || !(flags & O_NONBLOCK))
        return WEIR_EINVAL;
    atomic_store(&linux_host(host)->peers[peer], trap + 1);
    return WEIR_OK;
}

void wr_peer_close(struct wr_host *host, uint32_t peer)
{
    int trap = atomic_exchange(&linux_host(host)->peers[peer], 0) - 1;

    if (trap >= 0)
        close(trap);
}

bool wr_peer_next(struct wr_host *host, uint32_t peer, struct wr_touch *touch)
{
    int trap = atomic_load(&linux_host(host)->peers[peer]) - 1;
    struct uffd_msg message;
    uint64_t flags;

    if (trap < 0 || read(trap, &message, sizeof(message)) != (ssize_t)sizeof(message) ||
        message.event != UFFD_EVENT_PAGEFAULT)
        return false;
    flags = message.arg.pagefault.flags;
    *touch = (struct wr_touch){
        .addr = wr_peer_addr(peer, message.arg.pagefault.address),
        .access = flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP) ? WR_ACCESS_WRITE
                                                                               : WR_ACCESS_READ,
        .presence = flags & UFFD_PAGEFAULT_FLAG_WP ? WR_PAGE_PRESENT : WR_PAGE_ABSENT,
    };
    return true;
}

void wr_peer_wake(struct wr_host *host, uint64_t addr)
{
    int trap = wr_linux_trap(linux_host(host), &addr);
    struct uffdio_range range = {addr & ~(uint64_t)(WEIR_PAGE_BYTES - 1), WEIR_PAGE_BYTES};

    /* It fails when nobody is left to be woken. */
    (void)ioctl(trap, UFFDIO_WAKE, &range);
}
