/* SPDX-License-Identifier: MIT */

/* What is around a memory server: settings, addresses, what it tells, its log. */

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/memd_kit.h"
#include "transport/memd/log.h"
#include "transport/memd/options.h"

/* --- Settings -------------------------------------------------------------------------------- */

static char why[MEMD_WHY_BYTES];
static char path[] = "/tmp/weir-memd-XXXXXX";

/* A file of that text. */
static const char *file_of(const char *text)
{
    static bool is_made;
    int fd = is_made ? open(path, O_WRONLY | O_TRUNC) : mkstemp(path);

    is_made = true;
    cr_assert(fd >= 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    return path;
}

static const struct memd_word enough[] = {
    {"memory", "64G"}, {"listen", "tcp://0.0.0.0:7070"}, {"key-file", "/etc/key"}};

Test(memd_settings, defaults_and_words)
{
    const struct memd_word words[] = {
        {"memory", "1.5G"}, {"listen", "a"},    {"listen", "b"},     {"key-file", "k"},
        {"quota", "2m"},    {"lease", "7"},     {"threads", "3"},    {"spin-us", "0"},
        {"grace", "0"},     {"keep-free", "9"}, {"metrics", "h:90"}, {"status-socket", "/run/s"}};
    struct memd_settings settings;
    struct memd_limits limits;

    cr_assert_eq(memd_settings_read(NULL, enough, 3, &settings, why), WEIR_OK, "%s", why);
    limits = memd_settings_limits(&settings);
    cr_expect_eq(limits.memory, 64ull << 30);
    cr_expect_eq(limits.quota, 0);
    cr_expect_eq(limits.lease_ms, 30000);
    cr_expect_eq(limits.keep_free_percent, 5);
    cr_expect_eq(settings.grace, 10);
    cr_expect_eq(settings.spin_us, 20);
    cr_expect_null(settings.metrics);
    memd_settings_free(&settings);
    cr_assert_eq(memd_settings_read(NULL, words, 12, &settings, why), WEIR_OK, "%s", why);
    limits = memd_settings_limits(&settings);
    cr_expect_eq(limits.memory, 3ull << 29);
    cr_expect_eq(limits.quota, 2 << 20);
    cr_expect_eq(limits.lease_ms, 7000);
    cr_expect_eq(limits.keep_free_percent, 9);
    cr_expect_eq(settings.threads, 3);
    cr_expect_eq(settings.spin_us, 0);
    cr_expect_eq(settings.grace, 0);
    cr_expect_eq(settings.listen_count, 2);
    cr_expect_str_eq(settings.listen[1], "b");
    cr_expect_str_eq(settings.metrics, "h:90");
    cr_expect_str_eq(settings.status_path, "/run/s");
    memd_settings_free(&settings);
}

Test(memd_settings, what_is_refused_names_what_to_do)
{
    static const struct {
        struct memd_word word;
        const char *words;
    } bad[] = {
        {{"memory", "much"}, "from 2097152"}, {{"memory", "1m"}, "from 2097152"},
        {{"memory", ""}, "memory="},          {{"lease", "0"}, "from 1 to 86400"},
        {{"lease", "30s"}, "a whole number"}, {{"keep-free", "100"}, "0 to 99"},
        {{"threads", "65"}, "0 to 64"},       {{"spin-us", "1001"}, "0 to 1000"},
        {{"quota", "-1"}, "bytes"},           {{"mem", "1G"}, "there are memory, listen"},
    };
    struct memd_settings settings;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct memd_word words[4];

        memcpy(words, enough, sizeof(enough));
        words[3] = bad[i].word;
        cr_expect_neq(memd_settings_read(NULL, words, 4, &settings, why), WEIR_OK, "%s=%s",
                      bad[i].word.key, bad[i].word.value);
        cr_expect(strstr(why, bad[i].words), "%s", why);
    }
    for (size_t i = 0; i < 3; i++) {
        struct memd_word words[3];

        memcpy(words, enough, sizeof(enough));
        words[i] = (struct memd_word){"lease", "30"};
        cr_expect_eq(memd_settings_read(NULL, words, 3, &settings, why), WEIR_EINVAL);
        cr_expect(strstr(why, enough[i].key), "%s", why);
    }
}

Test(memd_settings, a_file_and_the_command_line)
{
    const struct memd_word over[] = {{"lease", "99"}};
    struct memd_settings settings;
    const char *file = file_of("# comment\n\n memory = 64G \r\nlease=7\nlisten = tcp://[::]:7070\n"
                               "  key-file=/etc/a key\t\n");

    cr_assert_eq(memd_settings_read(file, over, 1, &settings, why), WEIR_OK, "%s", why);
    cr_expect_eq(settings.memory, 64ull << 30);
    cr_expect_eq(settings.lease, 99, "the command line rules");
    cr_expect_str_eq(settings.key_file, "/etc/a key");
    cr_expect_str_eq(settings.listen[0], "tcp://[::]:7070");
    memd_settings_free(&settings);
    file = file_of("memory = 64G\nlease: 7\n");
    cr_expect_eq(memd_settings_read(file, enough, 3, &settings, why), WEIR_EINVAL);
    cr_expect(strstr(why, ":2: expected `key = value`"), "%s", why);
    file = file_of("memory = 64G\n\nlease =\n");
    cr_expect_eq(memd_settings_read(file, enough, 3, &settings, why), WEIR_EINVAL);
    cr_expect(strstr(why, ":3: "), "%s", why);
    unlink(path);
    cr_expect_eq(memd_settings_read(file, enough, 3, &settings, why), WEIR_ENOENT);
}

Test(memd_settings, what_needs_a_restart)
{
    static const struct {
        struct memd_word word;
        const char *fixed;
    } more[] = {
        {{"lease", "9"}, NULL},        {{"memory", "1G"}, NULL},
        {{"quota", "1G"}, NULL},       {{"key-file", "/etc/key"}, NULL},
        {{"threads", "9"}, "threads"}, {{"key-file", "/etc/other"}, "key-file"},
        {{"metrics", "x"}, "metrics"}, {{"status-socket", "x"}, "status-socket"},
        {{"listen", "x"}, "listen"},   {{"spin-us", "9"}, "spin-us"},
        {{"leases", "9"}, "leases"},   {{"connections", "9"}, "connections"},
    };
    struct memd_settings first, second;

    cr_assert_eq(memd_settings_read(NULL, enough, 3, &first, why), WEIR_OK);
    for (size_t i = 0; i < sizeof(more) / sizeof(more[0]); i++) {
        struct memd_word words[4];
        const char *fixed;

        memcpy(words, enough, sizeof(enough));
        words[3] = more[i].word;
        cr_assert_eq(memd_settings_read(NULL, words, 4, &second, why), WEIR_OK, "%s", why);
        fixed = memd_settings_fixed(&first, &second);
        if (more[i].fixed)
            cr_expect(fixed && strcmp(fixed, more[i].fixed) == 0, "%s", more[i].word.key);
        else
            cr_expect_null(fixed);
        memd_settings_free(&second);
    }
    memd_settings_free(&first);
}

/* --- Addresses ------------------------------------------------------------------------------- */

static int try_address(const char *address, struct memd **memd_p)
{
    struct memd_options options = {
        .listen = &address, .listen_count = 1, .limits = {64 * KIT_MIB, 0, 30000, 0}, .threads = 1};

    return kit_memd_with(&options, memd_p);
}

Test(memd_around, addresses)
{
    static const char *const bad[] = {"",
                                      "7070",
                                      "127.0.0.1:0",
                                      "udp://127.0.0.1:0",
                                      "tcp://",
                                      "tcp://:7070",
                                      "tcp://127.0.0.1",
                                      "tcp://127.0.0.1:",
                                      "tcp://127.0.0.1:x",
                                      "tcp://127.0.0.1:-1",
                                      "tcp://::1:0",
                                      "tcp://[::1:0",
                                      "tcp://[]:0"};
    struct memd *memd;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect_eq(try_address(bad[i], &memd), WEIR_EINVAL, "%s", bad[i]);
    cr_expect(kit_was_told("expected tcp://HOST:PORT"));
    cr_expect(kit_was_told("expected HOST:PORT"));
    cr_expect_eq(try_address("tcp://192.0.2.1:0", &memd), WEIR_ENOENT, "not this machine's");
    cr_assert_eq(try_address("tcp://[::1]:0", &memd), WEIR_OK);
    cr_expect_neq(memd_port(memd, 0), 0);
    cr_expect_eq(memd_port(memd, 1), 0);
    memd_close(memd);
}

Test(memd_around, a_port_is_taken_once)
{
    struct memd *memd = kit_memd(64 * KIT_MIB, 0, 30000), *other;
    char address[64];

    snprintf(address, sizeof(address), "tcp://127.0.0.1:%u", memd_port(memd, 0));
    cr_expect_eq(try_address(address, &other), WEIR_EBUSY);
    cr_expect(kit_was_told("another program has that port"));
    memd_close(memd);
    cr_assert_eq(try_address(address, &other), WEIR_OK, "and is free again");
    memd_close(other);
}

Test(memd_around, each_life_has_an_epoch)
{
    struct memd *one = kit_memd(64 * KIT_MIB, 0, 30000), *other = kit_memd(64 * KIT_MIB, 0, 30000);

    cr_expect_neq(memd_epoch(one), 0);
    cr_expect_neq(memd_epoch(one), memd_epoch(other));
    memd_close(one);
    memd_close(other);
}

/* --- What it tells --------------------------------------------------------------------------- */

/* All that comes until the other end closes. */
static char *read_all(int fd)
{
    static char text[16384];
    size_t bytes = 0;
    ssize_t got;

    while ((got = read(fd, text + bytes, sizeof(text) - 1 - bytes)) > 0)
        bytes += (size_t)got;
    text[bytes] = '\0';
    close(fd);
    return text;
}

static char *ask_http(struct memd *memd, const char *request)
{
    const struct sockaddr_in address = {.sin_family = AF_INET,
                                        .sin_port = htons(memd_metrics_port(memd)),
                                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert_eq(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    kit_send(fd, request, strlen(request));
    return read_all(fd);
}

static char *ask_status(const char *place)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strcpy(address.sun_path, place);
    cr_assert_eq(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    return read_all(fd);
}

static int open_telling(const char *place, struct memd **memd_p)
{
    const char *const listen[] = {"tcp://127.0.0.1:0"};
    struct memd_options options = {.listen = listen,
                                   .listen_count = 1,
                                   .limits = {64 * KIT_MIB, 0, 30000, 0},
                                   .threads = 2,
                                   .status_path = place,
                                   .metrics = "127.0.0.1:0"};

    return kit_memd_with(&options, memd_p);
}

Test(memd_around, status_and_metrics)
{
    static unsigned char bytes[3 * 4096];
    char directory[] = "/tmp/weir-memd-XXXXXX", place[64];
    struct memd *memd, *other;
    struct kit_client client;
    struct stat stat_of;
    const char *text;

    cr_assert(mkdtemp(directory));
    snprintf(place, sizeof(place), "%s/status", directory);
    cr_assert_eq(open_telling(place, &memd), WEIR_OK, "%s", kit_log.text);
    cr_assert_eq(stat(place, &stat_of), 0);
    cr_expect_eq(stat_of.st_mode & 0777, 0600);
    client = kit_client(memd, "reader");
    cr_assert_eq(kit_lease(&client, 1024), WEIR_OK);
    cr_assert_eq(kit_write(&client, 0, 3, bytes), WEIR_OK);
    cr_assert_eq(kit_read(&client, 0, 2, bytes), WEIR_OK);
    text = ask_status(place);
    cr_expect(strstr(text, "4 MiB lent of 64 MiB"), "%s", text);
    cr_expect(strstr(text, "2 read, 3 written, 0 discarded"), "%s", text);
    cr_expect(strstr(text, "of it in huge pages"), "%s", text);
    cr_expect(strstr(text, "reader at 127.0.0.1"), "%s", text);
    text = ask_http(memd, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    cr_expect(strncmp(text, "HTTP/1.0 200 OK\r\n", 17) == 0, "%s", text);
    cr_expect(strstr(text, "\nweir_memd_lent_bytes 4194304\n"), "%s", text);
    cr_expect(strstr(text, "\nweir_memd_pages_written_total 3\n"), "%s", text);
    cr_expect(strstr(text, "\n# TYPE weir_memd_pages_written_total counter\n"), "%s", text);
    cr_expect(strstr(text, "\n# TYPE weir_memd_huge_bytes gauge\n"), "%s", text);
    cr_expect(strncmp(ask_http(memd, "GET / HTTP/1.0\r\n\r\n"), "HTTP/1.0 404", 12) == 0);
    cr_expect(strncmp(ask_http(memd, "nonsense\r\n\r\n"), "HTTP/1.0 404", 12) == 0);
    cr_expect_eq(open_telling(place, &other), WEIR_EBUSY, "the socket is in use");
    memd_close(memd);
    cr_expect_neq(access(place, F_OK), 0, "it leaves nothing behind");
    rmdir(directory);
}

Test(memd_around, a_socket_that_was_left_behind_is_replaced)
{
    char directory[] = "/tmp/weir-memd-XXXXXX", place[64];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct memd *memd;

    cr_assert(mkdtemp(directory));
    snprintf(place, sizeof(place), "%s/status", directory);
    strcpy(address.sun_path, place);
    cr_assert_eq(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    close(fd);
    cr_assert_eq(open_telling(place, &memd), WEIR_OK, "%s", kit_log.text);
    memd_close(memd);
    fd = open(place, O_CREAT | O_WRONLY, 0600);
    cr_assert(fd >= 0);
    close(fd);
    cr_expect_eq(open_telling(place, &memd), WEIR_EBUSY, "a file is somebody's");
    cr_expect_eq(access(place, F_OK), 0);
    unlink(place);
    rmdir(directory);
}

/* --- The log --------------------------------------------------------------------------------- */

static char lines[8192];

static void note(void *context, const char *line)
{
    const size_t length = strlen(lines);

    (void)context;
    snprintf(lines + length, sizeof(lines) - length, "%s\n", line);
}

static unsigned count_of(const char *words)
{
    unsigned count = 0;

    for (const char *at = lines; (at = strstr(at, words)); at++)
        count++;
    return count;
}

Test(memd_around, strangers_do_not_fill_the_log)
{
    struct memd_log log;

    memd_log_open(&log, note, NULL);
    for (unsigned i = 0; i < 1000; i++)
        memd_log(&log, MEMD_LOG_DOOR, "stranger %u", i);
    for (unsigned i = 0; i < 20; i++)
        memd_log(&log, MEMD_LOG_EVENT, "event %u", i);
    memd_log(&log, MEMD_LOG_UNSOUND, "another kind");
    cr_expect_eq(count_of("stranger"), 5);
    cr_expect_eq(count_of("event"), 20);
    cr_expect_eq(count_of("another kind"), 1);
    log.kinds[MEMD_LOG_DOOR].since_ms -= 10000;
    memd_log(&log, MEMD_LOG_DOOR, "later");
    cr_expect_eq(count_of("(995 lines like this were left out) later"), 1, "%s", lines);
    memd_log_close(&log);
}

Test(memd_around, sizes_for_people)
{
    char text[MEMD_SIZE_TEXT];

    cr_expect_str_eq(memd_size_text(0, text), "0 B");
    cr_expect_str_eq(memd_size_text(1023, text), "1023 B");
    cr_expect_str_eq(memd_size_text(1024, text), "1 KiB");
    cr_expect_str_eq(memd_size_text(3ull << 29, text), "1.5 GiB");
    cr_expect_str_eq(memd_size_text(UINT64_MAX, text), "15.9 EiB");
}
