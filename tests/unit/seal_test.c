/* SPDX-License-Identifier: MIT */
#include "transport/seal.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <weir/weir.h>

#include "tests/unit/backend_kit.h"
#include "tests/unit/spy.h"

#define C WEIR_CLUSTER_SLOTS

static struct weir_backend *sealed;
static struct weir_channel *channel;
static struct spy *spy;

static void begin(const char *spec, uint32_t depth)
{
    spy_register();
    sealed = kit_open(spec, WEIR_OK);
    spy = spying.last;
    channel = kit_channel(sealed, depth);
}

static void end(void)
{
    sealed->ops->channel_close(channel);
    kit_close(sealed);
    cr_expect_eq(spying.open, 0);
}

static void put(uint64_t slot, uint32_t pages, int fill)
{
    cr_assert_eq(kit_write(channel, slot, pages, fill, NULL), WEIR_OK);
}

/* One page by read(). */
static int get(uint64_t slot)
{
    unsigned char *bytes = kit_pages(1, 0x55);
    int error = sealed->ops->read(sealed, slot, 1, bytes);

    free(bytes);
    return error;
}

/* Pages by the channel, into bytes. */
static int fetch(uint64_t slot, uint32_t pages, void *bytes, int *os_error_p)
{
    struct iovec iov;
    struct weir_io io;
    int error;

    kit_io_init(&io, &iov, false, slot, pages, bytes);
    error = kit_do(channel, &io);
    *os_error_p = io.os_error;
    return error;
}

static bool is_fetched(uint64_t slot, uint32_t pages, int fill)
{
    unsigned char *bytes = kit_pages(pages, ~fill);
    int os_error;
    bool is_it = fetch(slot, pages, bytes, &os_error) == WEIR_OK &&
                 kit_is_filled(bytes, (uint64_t)pages * WEIR_SLOT_BYTES, fill);

    free(bytes);
    return is_it;
}

/* --- What the other side sees ---------------------------------------------------------------- */

static void come_back(const char *spec, const char *name)
{
    begin(spec, 8);
    put(0, C, 1);
    put(C + 3, 5, 2);
    put(7, 1, 3);
    for (int round = 0; round < 2; round++) { /* reading takes nothing away */
        cr_expect(kit_holds(sealed, 0, 7, 1));
        cr_expect(kit_holds(sealed, 7, 1, 3));
        cr_expect(is_fetched(8, C - 8, 1));
        cr_expect(is_fetched(C + 3, 5, 2));
    }
    cr_expect_not_null(strstr(kit_describe(sealed).how, name), "%s", kit_describe(sealed).how);
    end();
}

Test(seal, pages_come_back)
{
    come_back("spy:near?seal=on", "a spy, sealed with ");
}

Test(seal, pages_come_back_by_the_other_cipher)
{
    come_back("spy:near?seal=chacha20", "sealed with ChaCha20-Poly1305");
}

static bool has_run_of(const unsigned char *bytes, size_t count, int byte, unsigned length)
{
    unsigned run = 0;

    for (size_t i = 0; i < count; i++) {
        run = bytes[i] == byte ? run + 1 : 0;
        if (run == length)
            return true;
    }
    return false;
}

/* Of a page of words, no word is anywhere; of one of zeros, no eight zeros. */
static void hide(const char *spec)
{
    static const char word[] = "not for others. ";
    unsigned char *bytes = kit_pages(2, 0);
    struct iovec iov;
    struct weir_io io;

    begin(spec, 1);
    for (size_t i = 0; i < WEIR_SLOT_BYTES; i += 16)
        memcpy(bytes + i, word, 16);
    kit_io_init(&io, &iov, true, 4, 2, bytes);
    cr_assert_eq(kit_do(channel, &io), WEIR_OK);
    for (size_t i = 0; i + 5 < 16; i++)
        cr_expect_null(memmem(spy->store, (size_t)16 * WEIR_SLOT_BYTES, word + i, 5));
    cr_expect_not(has_run_of(spy_slot(spy, 4), (size_t)2 * WEIR_SLOT_BYTES, 0, 8));
    cr_expect_neq(memcmp(spy_slot(spy, 4), spy_slot(spy, 5), WEIR_SLOT_BYTES), 0);
    free(bytes);
    end();
}

Test(seal, nothing_of_a_page_is_seen)
{
    hide("spy:near?seal=on");
}

Test(seal, nothing_of_a_page_is_seen_by_the_other_cipher)
{
    hide("spy:near?seal=chacha20");
}

static int by_start(const void *a, const void *b)
{
    return memcmp(a, b, 16);
}

/* Of zeros the other side sees the key stream: were a nonce used twice, it would be seen twice.
 * Also of writes that fail, and are tried again. */
static void no_nonce_twice(const char *spec)
{
    struct weir_channel *other;

    begin(spec, 4);
    other = kit_channel(sealed, 4);
    for (uint32_t i = 0; i < 4000; i++) {
        spying.fails = i % 3 == 0;
        kit_write(i % 2 ? channel : other, i % 5, 1, 0, NULL);
    }
    for (uint32_t i = 0; i < 25; i++) {
        spying.fails = i % 2;
        kit_write(channel, 0, C, 0, NULL);
    }
    cr_assert_eq(spying.seen, 4000 + 25 * C);
    qsort(spying.starts, spying.seen, sizeof(spying.starts[0]), by_start);
    for (uint32_t i = 1; i < spying.seen; i++)
        cr_assert_neq(by_start(spying.starts[i - 1], spying.starts[i]), 0, "%u", i);
    sealed->ops->channel_close(other);
    end();
}

Test(seal, no_nonce_is_used_twice)
{
    no_nonce_twice("spy:near?seal=on");
}

Test(seal, no_nonce_is_used_twice_by_the_other_cipher)
{
    no_nonce_twice("spy:near?seal=chacha20");
}

/* --- What the other side may not do ---------------------------------------------------------- */

static void flip_bytes(const char *spec, unsigned step)
{
    unsigned char *page, *bytes = kit_pages(3, 0);
    int os_error;

    begin(spec, 1);
    put(0, 3, 0x5a);
    page = spy_slot(spy, 1);
    for (unsigned i = 0; i < WEIR_SLOT_BYTES; i += step) {
        page[i] ^= (unsigned char)(1u << i % 8);
        cr_assert_eq(get(1), WEIR_EIO, "byte %u", i);
        if (i % 64 < step) {
            memset(bytes, 0x77, (size_t)3 * WEIR_SLOT_BYTES);
            cr_assert_eq(fetch(0, 3, bytes, &os_error), WEIR_EIO);
            cr_assert_eq(os_error, EBADMSG);
            cr_assert(kit_is_filled(bytes + WEIR_SLOT_BYTES, WEIR_SLOT_BYTES, 0), "not a bit");
        }
        page[i] ^= (unsigned char)(1u << i % 8);
    }
    cr_expect_eq(get(1), WEIR_OK, "it was as before in the end");
    cr_expect(is_fetched(0, 3, 0x5a));
    free(bytes);
    end();
}

Test(seal, a_flipped_bit_is_an_error)
{
    flip_bytes("spy:near?seal=on", 1);
}

Test(seal, a_flipped_bit_is_an_error_by_the_other_cipher)
{
    flip_bytes("spy:near?seal=chacha20", 13);
}

/* Also when the plain text is the same again. */
Test(seal, an_older_page_is_refused)
{
    unsigned char *old = kit_pages(1, 0);

    begin("spy:near?seal=on", 1);
    put(9, 1, 1);
    memcpy(old, spy_slot(spy, 9), WEIR_SLOT_BYTES);
    for (int fill = 2; fill > 0; fill--) {
        put(9, 1, fill);
        cr_expect_eq(get(9), WEIR_OK);
        memcpy(spy_slot(spy, 9), old, WEIR_SLOT_BYTES);
        cr_expect_eq(get(9), WEIR_EIO);
    }
    memset(spy_slot(spy, 9), 0, WEIR_SLOT_BYTES); /* a server that has lost everything */
    cr_expect_eq(get(9), WEIR_EIO);
    free(old);
    end();
}

Test(seal, pages_that_were_swapped_are_refused)
{
    unsigned char *page = kit_pages(1, 0);

    begin("spy:near?seal=on", 1);
    put(2, 1, 6);
    put(3, 1, 6);
    memcpy(page, spy_slot(spy, 2), WEIR_SLOT_BYTES);
    memcpy(spy_slot(spy, 2), spy_slot(spy, 3), WEIR_SLOT_BYTES);
    memcpy(spy_slot(spy, 3), page, WEIR_SLOT_BYTES);
    cr_expect_eq(get(2), WEIR_EIO);
    cr_expect_eq(get(3), WEIR_EIO);
    free(page);
    end();
}

/* The tag binds the slot by itself, and not only because its record is another. */
Test(seal, a_tag_is_of_one_slot_and_one_version)
{
    unsigned char *plain = kit_pages(1, 1), *bytes = kit_pages(1, 0);
    uint8_t tag[WR_TAG_BYTES];

    for (int kind = WR_CIPHER_AES256_GCM; kind <= WR_CIPHER_CHACHA20_POLY1305; kind++) {
        struct wr_cipher *cipher, *other;

        if (wr_cipher_open((enum wr_cipher_kind)kind, &cipher) == WEIR_ENOSUPPORT)
            continue;
        cr_assert_eq(wr_cipher_open((enum wr_cipher_kind)kind, &other), WEIR_OK);
        for (int wrong = 0; wrong < 4; wrong++) {
            wr_cipher_seal(cipher, 5, 1ull << 40, plain, bytes, tag);
            cr_expect_eq(wr_cipher_unseal(wrong == 3 ? other : cipher, wrong == 1 ? 6 : 5,
                                          wrong == 2 ? 1ull << 41 : 1ull << 40, bytes, tag),
                         wrong == 0, "%d", wrong);
            cr_expect(kit_is_filled(bytes, WEIR_SLOT_BYTES, wrong == 0));
        }
        wr_cipher_close(cipher);
        wr_cipher_close(other);
    }
    free(plain);
    free(bytes);
}

/* Another instance's page, of the same slot and the same version. */
Test(seal, a_page_of_another_is_refused)
{
    struct weir_backend *first;
    struct weir_channel *first_channel;

    begin("spy:near?seal=on", 1);
    put(4, 1, 7);
    first = sealed;
    first_channel = channel;
    sealed = kit_open("spy:near?seal=on", WEIR_OK);
    channel = kit_channel(sealed, 1);
    put(4, 1, 7);
    memcpy(spy_slot(spying.last, 4), spy_slot(spy, 4), WEIR_SLOT_BYTES);
    cr_expect_eq(get(4), WEIR_EIO);
    first->ops->channel_close(first_channel);
    first->ops->close(first);
    end();
}

/* Found in read(), told of by another thread. */
Test(seal, damage_is_told_of)
{
    begin("spy:near?seal=on", 1);
    put(0, 20, 1);
    memset(spy_slot(spy, 11), 0, WEIR_SLOT_BYTES);
    errno = EXDEV;
    cr_expect_eq(get(11), WEIR_EIO);
    cr_expect_eq(errno, EXDEV, "the interrupted code's");
    cr_expect(kit_has_heard("1 page came back changed, or older than what was written (slot 11"));
    cr_expect_eq(kit_told.severity, WEIR_FAILURE);
    memset(spy_slot(spy, 12), 0, WEIR_SLOT_BYTES);
    for (int i = 0; i < 1000; i++)
        cr_expect_eq(get(12), WEIR_EIO);
    end();
    cr_expect(kit_has_heard("1000 pages came back changed"));
    cr_expect_eq(kit_told.count, 2, "once in a while: %s", kit_told.text);
}

/* --- What lies in a slot --------------------------------------------------------------------- */

Test(seal, what_was_never_written_is_zero)
{
    begin("spy:near?seal=on", 1);
    memset(spy->store, 0x99, (size_t)SPY_SLOTS * WEIR_SLOT_BYTES);
    cr_expect(kit_holds(sealed, 0, 3, 0));
    put(1, 1, 5);
    cr_expect(is_fetched(0, 1, 0));
    cr_expect(is_fetched(1, 1, 5));
    cr_expect(is_fetched(2, C, 0));
    end();
}

Test(seal, what_was_discarded_is_zero)
{
    const uint64_t first = 3,
                   count = 2 * C + 7; /* whole pages of records, and parts at both ends */

    begin("spy:near?seal=on", 2);
    for (uint64_t slot = 0; slot < 4 * C; slot += C)
        put(slot, C, 8);
    cr_expect_eq(sealed->ops->discard(sealed, 0, 0), WEIR_OK);
    cr_expect_eq(sealed->ops->discard(sealed, first, count), WEIR_OK);
    cr_expect_eq(sealed->ops->discard(sealed, 3 * C, 2), WEIR_OK);
    cr_expect_eq(sealed->ops->discard(sealed, SPY_SLOTS - 1, 2), WEIR_EINVAL);
    cr_expect_eq(sealed->ops->discard(sealed, 1, UINT64_MAX), WEIR_EINVAL);
    cr_expect(kit_holds(sealed, 0, (uint32_t)first, 8));
    for (uint64_t slot = first; slot < first + count; slot++)
        cr_assert(kit_holds(sealed, slot, 1, 0), "%lu", slot);
    cr_expect(kit_holds(sealed, first + count, C - 10, 8));
    cr_expect(kit_holds(sealed, 3 * C, 2, 0));
    cr_expect(kit_holds(sealed, 3 * C + 2, C - 2, 8));
    put(first, 1, 9);
    cr_expect(kit_holds(sealed, first, 1, 9));
    end();
}

/* Half of it was written: nothing of that is a page, and nothing fails that reads across it. */
Test(seal, a_write_that_failed_leaves_nothing)
{
    begin("spy:near?seal=on", 1);
    put(0, 16, 1);
    spying.fails = 1;
    cr_expect_eq(kit_write(channel, 4, 8, 2, NULL), WEIR_EIO);
    cr_expect(is_fetched(0, 4, 1));
    cr_expect(is_fetched(4, 8, 0));
    cr_expect(is_fetched(12, 4, 1));
    put(4, 8, 3);
    cr_expect(kit_holds(sealed, 4, 8, 3));
    end();
}

Test(seal, a_write_that_is_not_taken_changes_nothing)
{
    unsigned char *bytes = kit_pages(1, 2);
    struct iovec iov;
    struct weir_io io, *ios[] = {&io};

    begin("spy:near?seal=on", 1);
    put(0, 1, 1);
    kit_io_init(&io, &iov, true, 0, 1, bytes);
    spying.refuses = true;
    cr_expect_eq(sealed->ops->submit(channel, ios, 1), 0);
    spying.refuses = false;
    cr_expect(kit_holds(sealed, 0, 1, 1));
    cr_expect_eq(kit_do(channel, &io), WEIR_OK);
    cr_expect(kit_holds(sealed, 0, 1, 2));
    free(bytes);
    end();
}

/* The inner back end never sees a byte of it. */
Test(seal, what_is_unsound_is_refused)
{
    unsigned char *bytes = kit_pages(4, 0x42);
    struct iovec iov;
    struct weir_io io;

    begin("spy:near?seal=on", 1);
    for (int i = 0; i < 5; i++) {
        kit_io_init(&io, &iov, i != 4, i == 0 ? SPY_SLOTS - 1 : 0, i == 1 ? 0 : 2, bytes);
        if (i == 2)
            iov.iov_len = WEIR_SLOT_BYTES;
        if (i == 3)
            io.pages = C + 1;
        if (i == 4)
            io.slot = SPY_SLOTS;
        cr_expect_eq(kit_do(channel, &io), WEIR_EINVAL, "%d", i);
        cr_expect_eq(io.os_error, EINVAL);
    }
    cr_expect_eq(spying.seen, 0);
    cr_expect_eq(sealed->ops->read(sealed, SPY_SLOTS - 1, 2, bytes), WEIR_EINVAL);
    cr_expect(kit_is_filled(bytes, (size_t)4 * WEIR_SLOT_BYTES, 0x42));
    free(bytes);
    end();
}

/* --- More than there is bounce for ----------------------------------------------------------- */

static uint32_t done_count;

static void count_done(struct weir_io *io)
{
    io->owner = NULL;
    done_count++;
}

/* Writes of clusters, as many as the channel takes. */
struct flood {
    struct weir_io io[SPY_CLUSTERS], *ios[SPY_CLUSTERS];
    struct iovec iov[SPY_CLUSTERS];
    unsigned char *bytes[SPY_CLUSTERS];
};

static void flood_init(struct flood *flood)
{
    for (uint32_t i = 0; i < SPY_CLUSTERS; i++) {
        flood->bytes[i] = kit_pages(C, 1 + (int)i);
        kit_io_init(&flood->io[i], &flood->iov[i], true, i * C, C, flood->bytes[i]);
        flood->io[i].done = count_done;
        flood->ios[i] = &flood->io[i];
    }
}

static void flood_fini(struct flood *flood)
{
    for (uint32_t i = 0; i < SPY_CLUSTERS; i++)
        free(flood->bytes[i]);
}

Test(seal, writes_wait_for_bounce)
{
    struct flood flood;
    unsigned char *page = kit_pages(1, 0);
    struct iovec iov;
    struct weir_io read, *reads[] = {&read};

    begin("spy:near?seal=on", SPY_CLUSTERS + 1);
    flood_init(&flood);
    spying.holds = true;
    cr_expect_eq(sealed->ops->submit(channel, flood.ios, SPY_CLUSTERS), SPY_CLUSTERS);
    cr_expect_eq(sealed->ops->poll(channel, UINT32_MAX), 0);
    cr_expect_eq(spying.flying_most, 4);
    kit_io_init(&read, &iov, false, SPY_SLOTS - 1, 1, page);
    cr_expect_eq(sealed->ops->submit(channel, reads, 1), 1);
    cr_expect_eq(spying.flying_most, 5, "what reads needs none");
    cr_expect_eq(sealed->ops->submit(channel, reads, 1), 0, "it is full");
    spying.holds = false;
    cr_expect_eq(sealed->ops->poll(channel, 3), 3);
    /* All that is accepted is finished by the next poll(). */
    cr_expect_eq(sealed->ops->poll(channel, UINT32_MAX), SPY_CLUSTERS + 1 - 3);
    cr_expect_eq(sealed->ops->poll(channel, UINT32_MAX), 0);
    cr_expect_eq(done_count, SPY_CLUSTERS);
    for (uint32_t i = 0; i < SPY_CLUSTERS; i++) {
        cr_expect_eq(flood.io[i].error, WEIR_OK);
        cr_expect(kit_holds(sealed, i * C, C, 1 + (int)i));
    }
    flood_fini(&flood);
    free(page);
    end();
}

/* One that takes no more, though it has room: nothing hangs, and nothing is finished twice. */
Test(seal, what_waits_fails_when_it_is_not_taken)
{
    struct flood flood;
    uint32_t failed = 0;

    begin("spy:near?seal=on", SPY_CLUSTERS);
    flood_init(&flood);
    spying.holds = true;
    cr_expect_eq(sealed->ops->submit(channel, flood.ios, SPY_CLUSTERS), SPY_CLUSTERS);
    spying.holds = false;
    spying.refuses = true;
    for (uint32_t i = 0; i < SPY_CLUSTERS; i++)
        cr_expect_eq(sealed->ops->poll(channel, 1), 1);
    cr_expect_eq(sealed->ops->poll(channel, 1), 0);
    cr_expect_eq(done_count, SPY_CLUSTERS);
    for (uint32_t i = 0; i < SPY_CLUSTERS; i++)
        failed += flood.io[i].error == WEIR_EIO;
    cr_expect_eq(failed, SPY_CLUSTERS - 4);
    flood_fini(&flood);
    end();
}

/* --- Who is sealed --------------------------------------------------------------------------- */

static bool is_sealed(struct weir_backend *backend)
{
    return strstr(kit_describe(backend).how, "sealed with") != NULL;
}

Test(seal, what_is_remote_is_sealed_by_who_owns_the_pages)
{
    static const struct {
        const char *spec;
        bool by_part, by_outer;
    } rules[] = {
        {"spy:near", false, false},
        {"spy:far", false, true},
        {"spy:near?seal=auto", false, false},
        {"spy:far?seal=auto", false, true},
        {"spy:near?seal=off", false, false},
        {"spy:far?seal=off", false, false},
        {"spy:near?seal=on", true, true},
        {"spy:far?seal=on", true, true},
        {"spy:far?seal=chacha20", true, true},
        {"chaos(spy:near)", false, false},
        {"chaos(spy:far)", false, true},
        {"chaos(chaos(spy:far))?seed=1", false, true},
        {"chaos(spy:far)?seal=off", false, false},
        {"chaos(spy:near)?seed=1&seal=on&delay_us=0", true, true},
        {"mem:?size=1m", false, false},
        {"mem:?seal=on&size=1m", true, true},
        {"mem:?size=1m&seal=on", true, true},
    };

    spy_register();
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        struct weir_backend *part = kit_open(rules[i].spec, WEIR_OK), *outer;

        cr_assert_eq(weir_backend_open_outer(rules[i].spec, &kit_env, &outer), WEIR_OK);
        cr_expect_eq(is_sealed(part), rules[i].by_part, "%s", rules[i].spec);
        cr_expect_eq(is_sealed(outer), rules[i].by_outer, "%s", rules[i].spec);
        cr_expect_not(is_sealed(outer) &&
                      (kit_describe(outer).flags & (WEIR_BACKEND_REMOTE | WEIR_BACKEND_VOLATILE)));
        cr_expect_eq(kit_describe(outer).slot_cost, is_sealed(outer) ? 24 : 0);
        kit_close(part);
        kit_close(outer);
    }
    cr_expect_eq(spying.open, 0);
}

/* A member that is sealed by itself is remote no more: no page is sealed twice for nothing. */
Test(seal, a_member_may_be_sealed_by_itself)
{
    struct weir_backend *outer;

    spy_register();
    cr_assert_eq(weir_backend_open_outer("chaos(spy:far?seal=on)?seed=1", &kit_env, &outer),
                 WEIR_OK);
    cr_expect_str_eq(kit_describe(outer).how + strlen("chaos seed 1 over a spy, sealed "),
                     strstr(kit_describe(outer).how, "with "));
    cr_expect_not(kit_describe(outer).flags & WEIR_BACKEND_REMOTE);
    kit_close(outer);
}

Test(seal, what_is_not_understood_is_refused)
{
    static const struct {
        const char *spec, *words;
    } wrong[] = {
        {"mem:?seal=maybe", "mem: seal=maybe is not understood; expected auto or on or off"},
        {"mem:?seal=", "mem: seal= is not understood"},
        {"mem:?seal=on&size=1m&seal=on", "mem: seal is given twice"},
        {"mem:?seal=on&size=0", "mem: size=0 is not understood"},
        {"mem:?seals=on", "mem: there is no option \"seals\""},
        {"chaos(mem:?seal=no)?seed=1", "mem: seal=no is not understood"},
        {"chaos:(mem:?size=1m)?seal=2", "chaos: seal=2 is not understood"},
    };

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct weir_backend *backend = NULL;
        int error;

        memset(&kit_told, 0, sizeof(kit_told));
        error = weir_backend_open(wrong[i].spec, &kit_env, &backend);
        cr_expect_eq(error, WEIR_EINVAL, "%s", wrong[i].spec);
        cr_expect_not_null(strstr(kit_told.text, wrong[i].words), "%s", kit_told.text);
        if (!error)
            kit_close(backend);
    }
}

Test(seal, the_cipher_that_is_asked_for_is_had_or_refused)
{
    struct weir_backend *backend = NULL;

    if (wr_cipher_is_here(WR_CIPHER_AES256_GCM)) {
        backend = kit_open("mem:?size=1m&seal=aes256gcm", WEIR_OK);
        cr_expect_str_eq(kit_describe(backend).how,
                         "memory of this process, sealed with AES-256-GCM");
        kit_close(backend);
    } else {
        kit_open("mem:?size=1m&seal=aes256gcm", WEIR_ENOSUPPORT);
        backend = kit_open("mem:?size=1m&seal=on", WEIR_OK);
        kit_close(backend);
    }
}
