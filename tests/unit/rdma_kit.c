/* SPDX-License-Identifier: MIT */
#include "tests/unit/rdma_kit.h"

#include <criterion/criterion.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SOON_S 60u

struct memd *rdma_memd;
struct wr_key rdma_key;
const char *rdma_key_file;
char rdma_log[16384];

const char *rdma_address(void)
{
    const char *address = getenv("WEIR_RDMA");

    if (!address)
        cr_skip_test("WEIR_RDMA has the address of no RDMA device");
    return address;
}

/* A function that only a made-up device has. NULL: it is another. */
static void *made_up(const char *name)
{
    void *verbs = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);

    return verbs ? dlsym(verbs, name) : NULL;
}

void rdma_want_real(void)
{
    (void)rdma_address();
    if (made_up("made_up_deafen"))
        cr_skip_test("the device is made up");
}

void rdma_deafen(bool is_deaf)
{
    void *found = made_up("made_up_deafen");
    void (*deafen)(bool is_deaf);

    (void)rdma_address();
    if (!found)
        cr_skip_test("the device is not made up");
    memcpy(&deafen, &found, sizeof(found));
    deafen(is_deaf);
}

static void write_log(void *context, const char *line)
{
    const size_t used = strlen(rdma_log);

    (void)context;
    snprintf(rdma_log + used, sizeof(rdma_log) - used, "%s\n", line);
}

void rdma_make_key(void)
{
    char bytes[WR_KEY_BYTES];
    const char *why;
    int fd;

    cr_assert(wr_session_begin());
    memset(bytes, 'k', sizeof(bytes));
    rdma_key_file = kit_text("%s/key", kit_directory());
    fd = open(rdma_key_file, O_CREAT | O_WRONLY, 0600);
    cr_assert_eq(write(fd, bytes, sizeof(bytes)), (ssize_t)sizeof(bytes));
    close(fd);
    cr_assert_eq(wr_key_read(rdma_key_file, &rdma_key, &why), WEIR_OK);
}

int rdma_start(const char *place, uint64_t bytes, uint32_t lease_ms)
{
    const struct memd_options options = {.listen = &place,
                                         .listen_count = 1,
                                         .key = &rdma_key,
                                         .limits = {.memory = bytes, .lease_ms = lease_ms},
                                         .threads = 2,
                                         .log = write_log};

    return memd_open(&options, &rdma_memd);
}

void rdma_serve(uint64_t bytes, uint32_t lease_ms)
{
    const char *place = kit_text("rdma://%s:0", rdma_address());

    rdma_make_key();
    cr_assert_eq(rdma_start(place, bytes, lease_ms), WEIR_OK, "%s", rdma_log);
}

const char *rdma_spec(uint16_t port, const char *options)
{
    return kit_text("rdma://%s:%u?key=%s&%s", rdma_address(), port, rdma_key_file, options);
}

struct weir_backend *rdma_open_both(void)
{
    rdma_serve(64 << 20, 60000);
    return kit_open(rdma_spec(memd_port(rdma_memd, 0), RDMA_OPTIONS), WEIR_OK);
}

/* --- Guests ---------------------------------------------------------------------------------- */

static uint64_t soon(void)
{
    return wr_line_now_ns() + SOON_S * 1000000000ull;
}

struct guest *guest_come(uint16_t port)
{
    struct wr_line_target target = {.host = rdma_address(), .key = &rdma_key, .label = "guest"};
    struct guest *guest = calloc(1, sizeof(*guest));
    char why[WR_WHY_ROOM] = "";

    cr_assert(guest);
    target.port = kit_text("%u", port);
    guest->tcp.slots = RDMA_SLOTS;
    guest->tcp.options.timeout = SOON_S;
    atomic_store(&guest->tcp.seats_wanted, 1);
    cr_assert_eq(wr_line_open(&guest->line, &target, SOON_S * 1000000000ull, why), WEIR_OK, "%s",
                 why);
    wr_line_opened(&guest->line); /* nothing of the target is wanted any more */
    wr_line_forget(&target);
    return guest;
}

void guest_leave(struct guest *guest)
{
    wr_rdma_part(&guest->line);
    wr_line_close(&guest->line);
    free(guest);
}

struct wr_message guest_ask(struct guest *guest, enum wr_message_type type, uint64_t count)
{
    struct wr_message question = {.type = (uint8_t)type, .count = count}, answer;

    cr_assert_eq(wr_line_ask(&guest->line, &question, NULL, &answer, NULL, 0, soon()), WEIR_OK);
    return answer;
}

void guest_borrow(struct guest *guest, uint64_t number)
{
    struct wr_message question = {.type = WR_MESSAGE_LEASE, .count = RDMA_SLOTS, .slot = number};
    struct wr_message answer;

    cr_assert_eq(wr_line_ask(&guest->line, &question, NULL, &answer, guest->lease,
                             sizeof(guest->lease), soon()),
                 WEIR_OK);
    cr_assert_eq(answer.type, WR_MESSAGE_LEASED, "%s", rdma_log);
}

struct guest *guest_again(const struct guest *guest, uint16_t port, uint64_t number)
{
    struct wr_message question = {
        .type = WR_MESSAGE_ATTACH, .length = WR_NAME_BYTES, .slot = number};
    struct guest *again = guest_come(port);
    struct wr_message answer;

    memcpy(again->lease, guest->lease, WR_NAME_BYTES);
    cr_assert_eq(wr_line_ask(&again->line, &question, again->lease, &answer, NULL, 0, soon()),
                 WEIR_OK);
    cr_assert_eq(answer.type, WR_MESSAGE_ATTACHED);
    return again;
}

void guest_join(struct guest *guest, uint32_t depth)
{
    char why[WR_WHY_ROOM] = "";

    cr_assert_eq(wr_rdma_join(&guest->tcp, &guest->line, depth, why), WEIR_OK, "%s", why);
}

/* --- Works by hand --------------------------------------------------------------------------- */

bool rdma_comes_to_pass(struct wr_rdma_queue *queue, uint64_t slot, bool is_write)
{
    const struct wr_rdma_work work = {
        .slot = slot, .pages = 1, .is_write = is_write, .is_signalled = true};
    uint64_t number;
    int count = 0;

    cr_assert(wr_rdma_post(queue, &work, 1));
    while (count == 0)
        count = wr_rdma_take(queue, &number);
    return count > 0;
}

bool rdma_has_filled(const struct wr_rdma_queue *queue, int fill)
{
    return kit_is_filled((unsigned char *)wr_rdma_place(queue, 0), WEIR_SLOT_BYTES, fill);
}

void rdma_fill(struct wr_rdma_queue *queue, uint32_t place, int fill)
{
    memset(wr_rdma_place(queue, place), fill, WR_RDMA_PLACE_BYTES);
}

uint64_t rdma_pinned_bytes(void)
{
    FILE *status = fopen("/proc/self/status", "r");
    void *found = made_up("made_up_registered_bytes");
    unsigned long long kib = 0;
    uint64_t (*registered)(void);
    char line[256];

    cr_assert(status);
    while (fgets(line, sizeof(line), status))
        (void)sscanf(line, "VmPin: %llu kB", &kib);
    fclose(status);
    if (!found)
        return kib * 1024;
    memcpy(&registered, &found, sizeof(found));
    return registered();
}

bool rdma_is_soon(bool (*is_so)(void *context), void *context)
{
    for (const uint64_t end = soon(); wr_line_now_ns() < end; usleep(20000))
        if (is_so(context))
            return true;
    return false;
}
