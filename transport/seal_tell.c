/* SPDX-License-Identifier: MIT */

/* The teller: damage is found where nothing may be told, in read() and poll(), by a signal handler
 * perhaps; and an operator wants to know of it at once, but not a thousand times. */

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "transport/ring.h"
#include "transport/seal.h"
#include "transport/tell.h"

#define PAUSE_MS 10000 /* between two events */

void wr_seal_found(struct wr_seal_teller *teller, uint64_t slot)
{
    atomic_store_explicit(&teller->slot, slot, memory_order_relaxed);
    atomic_fetch_add_explicit(&teller->found, 1, memory_order_release);
    wr_ring(teller->bell);
}

/* True: there was something. */
static bool tell(struct wr_seal_teller *teller)
{
    uint64_t found = atomic_exchange_explicit(&teller->found, 0, memory_order_acquire);

    if (found > 0)
        wr_tell(teller->env, WEIR_FAILURE, WEIR_EIO, EBADMSG,
                "seal: %llu %s came back changed, or older than what was written (slot %llu "
                "last); whoever keeps them cannot be trusted, or is broken",
                (unsigned long long)found, found == 1 ? "page" : "pages",
                (unsigned long long)atomic_load_explicit(&teller->slot, memory_order_relaxed));
    return found > 0;
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void *work(void *argument)
{
    struct wr_seal_teller *teller = argument;
    int64_t next = 0;

    while (!atomic_load(&teller->is_stopping)) {
        struct pollfd wait = {.fd = teller->bell, .events = POLLIN};
        int64_t now = now_ms();
        eventfd_t rung;

        if (now >= next && tell(teller))
            next = now + PAUSE_MS;
        if (poll(&wait, 1, now < next ? (int)(next - now) : -1) == 1)
            (void)eventfd_read(teller->bell, &rung);
    }
    tell(teller);
    return NULL;
}

int wr_seal_teller_open(struct wr_seal_teller *teller, const struct weir_backend_env *env)
{
    sigset_t all, before;
    int error;

    teller->env = env;
    teller->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (teller->bell < 0)
        return wr_tell_errno(env, errno, "seal: cannot make an eventfd");
    /* The application's signals are none of its business. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&teller->thread, NULL, work, teller);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        close(teller->bell);
        return wr_tell_errno(env, error, "seal: cannot start a thread");
    }
    pthread_setname_np(teller->thread, "weir-kseal");
    return WEIR_OK;
}

void wr_seal_teller_close(struct wr_seal_teller *teller)
{
    atomic_store(&teller->is_stopping, true);
    wr_ring(teller->bell);
    pthread_join(teller->thread, NULL);
    close(teller->bell);
}
