/* SPDX-License-Identifier: MIT */
#include "runtime/host/attach.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "runtime/host/link.h"
#include "runtime/host/linux.h"
#include "runtime/host/uapi.h"

#define PATIENCE_MS 10000
#define WATCH_STACK (128u << 10)
#define FEATURES                                                                              \
    (UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_PAGEFAULT_FLAG_WP | \
     UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

enum view_state { VIEW_ASKED, VIEW_MAPPED, VIEW_REFUSED, VIEW_LEAVING };

struct view {
    struct view *next;
    uint64_t addr, bytes;
    enum view_state state;
    int error; /* why it was refused */
};

/* What kwatch waits for. */
enum tag { TAG_LINK, TAG_LIFE, TAG_STOP };

struct weir_attached {
    /* Constant while it is attached. */
    pid_t pid;
    struct wr_events events;
    int link, life, trap, memory;
    int empty; /* an object without any bytes: touches of it end in SIGBUS */
    int stop, watch;
    uint64_t bytes;
    pthread_t watcher;

    pthread_mutex_t lock; /* keeps the rest */
    pthread_cond_t changed;
    struct view *views;
    struct pinning *pinnings;
    uint64_t pin_number;
    bool is_over; /* the owner has ended */
};

/* One that waits for the owner's answer. */
struct pinning {
    struct pinning *next;
    uint64_t number;
    bool is_answered;
    int error;
};

static void *pointer_of(uint64_t addr)
{
    return (void *)(uintptr_t)addr;
}

static int refuse(const struct wr_events *events, int error, const char *what)
{
    wr_event(events, WEIR_FAILURE, error, 0, 0, what);
    return error;
}

/* --- Views, under the lock ------------------------------------------------------------------- */

static void wake(const struct weir_attached *attached, uint64_t addr, uint64_t bytes)
{
    struct uffdio_range range = {addr, bytes};

    (void)ioctl(attached->trap, UFFDIO_WAKE, &range);
}

/* From now on touches end in SIGBUS; who sleeps in one wakes up to that. */
static void end_pages(const struct weir_attached *attached, uint64_t addr, uint64_t bytes)
{
    if (mmap(pointer_of(addr), bytes, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_FIXED | MAP_NORESERVE, attached->empty, 0) == MAP_FAILED)
        mprotect(pointer_of(addr), bytes, PROT_NONE); /* no memory: SIGSEGV, at least */
    wake(attached, addr, bytes);
}

/* Nothing is mapped there any more, and the addresses stay taken. */
static void seal(const struct weir_attached *attached, const struct view *view)
{
    if (mmap(pointer_of(view->addr), view->bytes, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
        mprotect(pointer_of(view->addr), view->bytes, PROT_NONE);
    wake(attached, view->addr, view->bytes);
}

static struct view **find(struct weir_attached *attached, uint64_t addr)
{
    struct view **at = &attached->views;

    while (*at && !(addr >= (*at)->addr && addr - (*at)->addr < (*at)->bytes))
        at = &(*at)->next;
    return at;
}

/* The addresses are anybody's. */
static void forget(struct view **at)
{
    struct view *view = *at;

    *at = view->next;
    munmap(pointer_of(view->addr), view->bytes);
    free(view);
}

/* The owner is told; when he has forgotten it, too, kwatch does. */
static void leave(struct weir_attached *attached, struct view **at)
{
    const struct wr_ask ask = {.kind = WR_ASK_UNMAP, .addr = (*at)->addr};

    seal(attached, *at);
    (*at)->state = VIEW_LEAVING;
    if (attached->is_over ||
        (!wr_link_send(attached->link, &ask, sizeof(ask), -1) && errno == EPIPE))
        forget(at);
}

/* --- What the owner says: kwatch ------------------------------------------------------------- */

static void hear_of_pin(struct weir_attached *attached, const struct wr_ask *ask)
{
    for (struct pinning *p = attached->pinnings; p; p = p->next)
        if (p->number == ask->offset >> 1) {
            p->error = ask->error;
            p->is_answered = true;
        }
}

static void hear(struct weir_attached *attached, const struct wr_ask *ask)
{
    struct view **at = find(attached, ask->addr);
    struct view *view = *at;

    if (ask->kind == WR_ASK_PINNED || ask->kind == WR_ASK_UNPINNED)
        hear_of_pin(attached, ask);
    if (!view)
        return;
    if (ask->kind == WR_ASK_MAPPED && view->state == VIEW_ASKED) {
        view->error = ask->error;
        view->state = ask->error == WEIR_OK ? VIEW_MAPPED : VIEW_REFUSED;
    } else if (ask->kind == WR_ASK_UNMAPPED && view->state == VIEW_LEAVING) {
        forget(at);
    } else if (ask->kind == WR_ASK_REFUSED && view->state == VIEW_MAPPED) {
        end_pages(attached, ask->addr & ~(uint64_t)(WEIR_PAGE_BYTES - 1), WEIR_PAGE_BYTES);
        wr_event(&attached->events, WEIR_FAILURE, ask->error, 0, ask->addr,
                 "the owner of an attached object cannot bring a page, and has had an event that "
                 "says why: touches of it end in SIGBUS");
    }
}

/* The owner is out of our page tables: his process has ended, or he has closed the trap. */
static void end_views(struct weir_attached *attached)
{
    attached->is_over = true;
    for (struct view **at = &attached->views; *at;) {
        if ((*at)->state == VIEW_LEAVING) {
            forget(at);
            continue;
        }
        end_pages(attached, (*at)->addr, (*at)->bytes);
        at = &(*at)->next;
    }
    wr_event(&attached->events, WEIR_FAILURE, WEIR_ESTOPPED, 0, 0,
             "the owner of an attached object has ended or closed it: touches of its views end in "
             "SIGBUS from now on; detach it");
}

static void listen_once(struct weir_attached *attached, uint64_t tag)
{
    enum wr_received received = tag == TAG_LIFE ? WR_RECEIVED_END : WR_RECEIVED_NOTHING;
    struct wr_ask ask;

    pthread_mutex_lock(&attached->lock);
    if (tag == TAG_LINK)
        received = wr_link_receive(attached->link, &ask, sizeof(ask), NULL);
    if (received == WR_RECEIVED)
        hear(attached, &ask);
    else if (received == WR_RECEIVED_END)
        end_views(attached);
    pthread_cond_broadcast(&attached->changed);
    pthread_mutex_unlock(&attached->lock);
}

static void *kwatch(void *context)
{
    struct weir_attached *attached = context;
    uint64_t tag = TAG_LINK;

    while (tag != TAG_STOP && !attached->is_over) /* which only this thread sets */
        if (wr_watch_next(attached->watch, &tag, UINT32_MAX) && tag != TAG_STOP)
            listen_once(attached, tag);
    return NULL;
}

/* Until it is so, or for as long as patience lasts. Under the lock. */
static bool await(struct weir_attached *attached, bool (*is_so)(struct weir_attached *, uint64_t),
                  uint64_t addr)
{
    struct timespec deadline;

    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += PATIENCE_MS / 1000;
    while (!is_so(attached, addr))
        if (pthread_cond_timedwait(&attached->changed, &attached->lock, &deadline) == ETIMEDOUT)
            return is_so(attached, addr);
    return true;
}

static bool is_answered(struct weir_attached *attached, uint64_t addr)
{
    return attached->is_over || (*find(attached, addr))->state != VIEW_ASKED;
}

static bool has_left(struct weir_attached *attached, uint64_t addr)
{
    const struct view *view = *find(attached, addr); /* perhaps another, that came after it */

    return !view || view->state != VIEW_LEAVING;
}

/* --- Attaching ------------------------------------------------------------------------------- */

static int open_trap(struct weir_attached *attached)
{
    struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};

    attached->trap = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    if (attached->trap < 0)
        return refuse(&attached->events, errno == EINVAL ? WEIR_ENOSUPPORT : WEIR_EDENIED,
                      "userfaultfd cannot be had: look at the container's seccomp profile; to "
                      "attach an object needs Linux 6.4 or later");
    if (ioctl(attached->trap, UFFDIO_API, &api) != 0)
        return refuse(&attached->events, WEIR_ENOSUPPORT,
                      "this kernel cannot trap stores to shared memory: to attach an object needs "
                      "Linux 6.4 or later");
    return WEIR_OK;
}

/* Each says hello; our trap goes there, the object comes here. */
static int shake_hands(struct weir_attached *attached)
{
    struct wr_hello hello = wr_link_hello_of(0, WEIR_OK);
    enum wr_received received;
    const char *why = NULL;
    struct stat status;
    int error;

    if (!wr_link_send(attached->link, &hello, sizeof(hello), attached->trap) && errno != EPIPE)
        return WEIR_EAGAIN;
    wr_link_await(attached->link, attached->life, PATIENCE_MS);
    received = wr_link_receive(attached->link, &hello, sizeof(hello), &attached->memory);
    if (received == WR_RECEIVED_NOTHING)
        return refuse(&attached->events, WEIR_EAGAIN, "the object's owner does not answer");
    if (received == WR_RECEIVED_END)
        return refuse(&attached->events, WEIR_ESTOPPED, "the object's owner ended just now");
    error = wr_link_judge(&hello, &why);
    if (error != WEIR_OK)
        return refuse(&attached->events, error,
                      why ? why
                          : "the object's owner refuses: another user, another library, or "
                            "1024 processes are attached");
    if (attached->memory < 0 || hello.bytes == 0 || hello.bytes % WEIR_PAGE_BYTES != 0 ||
        fstat(attached->memory, &status) != 0 || (uint64_t)status.st_size != hello.bytes)
        return refuse(&attached->events, WEIR_EINVAL, "what the owner gave is no object");
    attached->bytes = hello.bytes;
    return WEIR_OK;
}

static int start_watching(struct weir_attached *attached)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    int error;

    attached->empty = wr_object_memory("weir-ended", 0);
    attached->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    attached->watch = wr_watch_open();
    if (attached->empty < 0 || attached->stop < 0 || attached->watch < 0 ||
        !wr_watch_add(attached->watch, attached->link, TAG_LINK, false) ||
        !wr_watch_add(attached->watch, attached->stop, TAG_STOP, false) ||
        (attached->life >= 0 && !wr_watch_add(attached->watch, attached->life, TAG_LIFE, false)))
        return WEIR_ENOMEM;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, WATCH_STACK);
    error = pthread_create(&attached->watcher, &attributes, kwatch, attached);
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        return WEIR_ENOMEM;
    pthread_setname_np(attached->watcher, "weir-kwatch");
    return WEIR_OK;
}

static void let_go(struct weir_attached *attached)
{
    const int fds[6] = {attached->life,  attached->trap, attached->memory,
                        attached->empty, attached->stop, attached->watch};

    if (attached->link >= 0)
        wr_link_close(attached->link);
    for (int i = 0; i < 6; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    pthread_cond_destroy(&attached->changed);
    pthread_mutex_destroy(&attached->lock);
    free(attached);
}

static int find_owner(struct weir_attached *attached, const char *name)
{
    int error = wr_link_connect(name, &attached->link), pid;

    if (error == WEIR_ENOENT)
        return refuse(&attached->events, error,
                      "nobody shares an object by this name: is the owner running, as the same "
                      "user, and in the same network namespace?");
    if (error != WEIR_OK)
        return refuse(&attached->events, error, "the object's owner cannot be reached");
    error = wr_link_meet(attached->link, &attached->life, &pid);
    if (error != WEIR_OK)
        refuse(&attached->events, error, "the object's owner is another user");
    return error;
}

int wr_attach(const char *name, const struct weir_attach_options *options,
              struct weir_attached **attached_p)
{
    struct weir_attached *attached = calloc(1, sizeof(*attached));
    pthread_condattr_t attributes;
    int error;

    if (!attached)
        return WEIR_ENOMEM;
    attached->pid = getpid();
    attached->link = attached->life = attached->trap = attached->memory = -1;
    attached->empty = attached->stop = attached->watch = -1;
    if (options)
        wr_events_init(&attached->events, options->on_event, options->event_context);
    pthread_mutex_init(&attached->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&attached->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    error = find_owner(attached, name);
    if (error == WEIR_OK)
        error = open_trap(attached);
    if (error == WEIR_OK)
        error = shake_hands(attached);
    if (error == WEIR_OK)
        error = start_watching(attached);
    if (error != WEIR_OK) {
        let_go(attached);
        return error;
    }
    *attached_p = attached;
    return WEIR_OK;
}

void wr_detach(struct weir_attached *attached)
{
    const uint64_t one = 1;
    bool is_patient = true;

    pthread_mutex_lock(&attached->lock);
    for (struct view **at = &attached->views, *view; (view = *at);) {
        if (view->state != VIEW_LEAVING)
            leave(attached, at);
        if (*at == view)
            at = &view->next;
    }
    for (struct view *view; (view = attached->views);) {
        is_patient = is_patient && await(attached, has_left, view->addr);
        if (is_patient)
            continue;
        attached->views = view->next; /* he is stopped: the addresses stay taken */
        free(view);
    }
    pthread_mutex_unlock(&attached->lock);
    WR_CHECK(write(attached->stop, &one, sizeof(one)) == (ssize_t)sizeof(one));
    pthread_join(attached->watcher, NULL);
    let_go(attached);
}

bool wr_attached_is_forked(const struct weir_attached *attached)
{
    return attached->pid != getpid();
}

uint64_t wr_attached_bytes(const struct weir_attached *attached)
{
    return attached->bytes;
}

/* Ask the owner to serve a view that is there, and hear what he says. Under the lock. */
static int ask_for(struct weir_attached *attached, struct view *view, uint64_t offset)
{
    const struct wr_ask ask = {
        .kind = WR_ASK_MAP, .addr = view->addr, .offset = offset, .bytes = view->bytes};

    if (attached->is_over)
        return WEIR_ESTOPPED;
    if (!wr_link_send(attached->link, &ask, sizeof(ask), -1))
        return WEIR_EAGAIN;
    if (!await(attached, is_answered, view->addr))
        return WEIR_EAGAIN;
    if (attached->is_over)
        return WEIR_ESTOPPED;
    return view->state == VIEW_REFUSED ? view->error : WEIR_OK;
}

static int map_area(struct weir_attached *attached, uint64_t offset, struct view *view)
{
    struct uffdio_register request = {
        .range.len = view->bytes,
        .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR | UFFDIO_REGISTER_MODE_WP,
    };
    void *area;
    int error = wr_object_map_quiet(attached->memory, offset, view->bytes, &area);

    if (error)
        return error == EPERM || error == EACCES ? WEIR_EDENIED : WEIR_ENOMEM;
    request.range.start = view->addr = (uintptr_t)area;
    if (ioctl(attached->trap, UFFDIO_REGISTER, &request) != 0) {
        munmap(area, view->bytes);
        return WEIR_ENOMEM;
    }
    return WEIR_OK;
}

int wr_attached_map(struct weir_attached *attached, uint64_t offset, uint64_t bytes,
                    uint64_t *addr_p)
{
    struct view *view = calloc(1, sizeof(*view));
    int error;

    if (!view)
        return WEIR_ENOMEM;
    view->bytes = bytes;
    error = map_area(attached, offset, view);
    if (error != WEIR_OK) {
        free(view);
        return refuse(&attached->events, error,
                      "the view could not be mapped: look at ulimit -v and vm.max_map_count");
    }
    pthread_mutex_lock(&attached->lock);
    view->next = attached->views;
    attached->views = view;
    error = ask_for(attached, view, offset);
    if (error == WEIR_OK && mprotect(pointer_of(view->addr), bytes, PROT_READ | PROT_WRITE) != 0)
        error = WEIR_ENOMEM;
    *addr_p = view->addr;
    if (error != WEIR_OK && view->state == VIEW_REFUSED)
        forget(find(attached, view->addr));
    else if (error != WEIR_OK)
        leave(attached, find(attached, view->addr));
    pthread_mutex_unlock(&attached->lock);
    return error == WEIR_OK
               ? error
               : refuse(&attached->events, error,
                        "the object's owner does not serve the view: it has ended, does "
                        "not answer, or the object has 4096 views");
}

int wr_attached_unmap(struct weir_attached *attached, uint64_t addr)
{
    struct view **at;
    int error = WEIR_ENOENT;

    pthread_mutex_lock(&attached->lock);
    at = find(attached, addr);
    if (*at && (*at)->addr == addr && (*at)->state == VIEW_MAPPED) {
        leave(attached, at);
        (void)await(attached, has_left, addr);
        error = WEIR_OK;
    }
    pthread_mutex_unlock(&attached->lock);
    return error;
}

/* --- Pins ------------------------------------------------------------------------------------ */

static bool is_pin_answered(struct weir_attached *attached, uint64_t number)
{
    const struct pinning *p = attached->pinnings;

    while (p && p->number != number)
        p = p->next;
    return attached->is_over || !p || p->is_answered;
}

/* Under the lock, which others have while the owner is waited for. */
static int ask_to_pin(struct weir_attached *attached, struct wr_ask *ask)
{
    struct pinning own = {.next = attached->pinnings, .number = ++attached->pin_number};
    struct pinning **at = &attached->pinnings;

    ask->offset |= own.number << 1;
    if (attached->is_over)
        return WEIR_ESTOPPED;
    if (!wr_link_send(attached->link, ask, sizeof(*ask), -1))
        return WEIR_EAGAIN;
    attached->pinnings = &own;
    (void)await(attached, is_pin_answered, own.number);
    while (*at != &own)
        at = &(*at)->next;
    *at = own.next;
    if (own.is_answered)
        return own.error;
    return attached->is_over ? WEIR_ESTOPPED : WEIR_EAGAIN;
}

/* Piece by piece; how far it came. */
static int ask_by_pieces(struct weir_attached *attached, enum wr_ask_kind kind, int access,
                         uint64_t addr, uint64_t bytes, uint64_t *done_p)
{
    uint64_t most = (uint64_t)WR_ASK_PIN_PAGES * WEIR_PAGE_BYTES;
    int error = WEIR_OK;

    *done_p = 0;
    while (*done_p < bytes && error == WEIR_OK) {
        struct wr_ask ask = {.kind = kind, .addr = addr + *done_p, .offset = (uint64_t)access};

        ask.bytes = bytes - *done_p < most ? bytes - *done_p : most;
        error = ask_to_pin(attached, &ask);
        /* Who does not answer may yet do it. */
        if (error == WEIR_OK || (error == WEIR_EAGAIN && kind == WR_ASK_PIN))
            *done_p += ask.bytes;
    }
    return error;
}

/* The whole pages around the range, if they are of one view. */
static bool widen(struct weir_attached *attached, uint64_t *addr, uint64_t *bytes)
{
    uint64_t page = WEIR_PAGE_BYTES, first = *addr / page * page, end;
    const struct view *view = *find(attached, *addr);

    if (!view || view->state != VIEW_MAPPED || *bytes == 0 ||
        *bytes > view->bytes - (*addr - view->addr))
        return false;
    end = (*addr + *bytes + page - 1) / page * page;
    *addr = first;
    *bytes = end - first;
    return true;
}

int wr_attached_pin(struct weir_attached *attached, uint64_t addr, uint64_t bytes, int access)
{
    int error = WEIR_EINVAL;
    uint64_t done, undone;

    pthread_mutex_lock(&attached->lock);
    if (widen(attached, &addr, &bytes)) {
        error = ask_by_pieces(attached, WR_ASK_PIN, access, addr, bytes, &done);
        if (error != WEIR_OK)
            (void)ask_by_pieces(attached, WR_ASK_UNPIN, 0, addr, done, &undone);
    }
    pthread_mutex_unlock(&attached->lock);
    return error;
}

int wr_attached_unpin(struct weir_attached *attached, uint64_t addr, uint64_t bytes)
{
    int error = WEIR_EINVAL;
    uint64_t done;

    pthread_mutex_lock(&attached->lock);
    if (widen(attached, &addr, &bytes))
        error = ask_by_pieces(attached, WR_ASK_UNPIN, 0, addr, bytes, &done);
    pthread_mutex_unlock(&attached->lock);
    return error;
}
