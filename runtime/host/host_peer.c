/* SPDX-License-Identifier: MIT */
#include "runtime/host/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
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

/* Its flags are the peer's as well, so that they say nothing: never wait for it. A kernel before
 * 6.10 knows only the flags. */
static ssize_t read_now(int trap, struct uffd_msg *message)
{
    const struct iovec to = {message, sizeof(*message)};
    ssize_t length = preadv2(trap, &to, 1, -1, RWF_NOWAIT);

    return length < 0 && errno == EOPNOTSUPP ? read(trap, message, sizeof(*message)) : length;
}

/* Nothing was there. One that may wait is always ready. */
static enum wr_next look_again(int trap)
{
    int flags = fcntl(trap, F_GETFL);

    if (flags < 0 || (!(flags & O_NONBLOCK) && fcntl(trap, F_SETFL, flags | O_NONBLOCK) != 0))
        return WR_NEXT_END;
    return WR_NEXT_NOTHING;
}

enum wr_next wr_peer_next(struct wr_host *host, uint32_t peer, struct wr_touch *touch)
{
    int trap = atomic_load(&linux_host(host)->peers[peer]) - 1;
    struct uffd_msg message;
    uint64_t flags;
    ssize_t length;

    if (trap < 0)
        return WR_NEXT_END;
    length = read_now(trap, &message);
    if (length < 0 && (errno == EAGAIN || errno == EINTR))
        return look_again(trap);
    if (length != (ssize_t)sizeof(message) || message.event != UFFD_EVENT_PAGEFAULT)
        return WR_NEXT_END;
    flags = message.arg.pagefault.flags;
    *touch = (struct wr_touch){
        .addr = wr_peer_addr(peer, wr_peer_home(WR_PEER_AWAY | message.arg.pagefault.address)),
        .access = flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP) ? WR_ACCESS_WRITE
                                                                               : WR_ACCESS_READ,
        .presence = flags & UFFD_PAGEFAULT_FLAG_WP ? WR_PAGE_PRESENT : WR_PAGE_ABSENT,
    };
    return WR_NEXT_TOUCH;
}

void wr_peer_wake(struct wr_host *host, uint64_t addr)
{
    int trap = wr_linux_trap(linux_host(host), &addr);
    struct uffdio_range range = {addr & ~(uint64_t)(WEIR_PAGE_BYTES - 1), WEIR_PAGE_BYTES};

    /* It fails when nobody is left to be woken. */
    (void)ioctl(trap, UFFDIO_WAKE, &range);
}
