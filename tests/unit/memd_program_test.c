/* SPDX-License-Identifier: MIT */

/* The program weir-memd in a process of its own: what signals and words do. */

#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/memd_kit.h"

#define PATIENCE_MS 60000
#define ARGUMENTS   24

/* A directory with a key and a file of settings, and what the program says. */
struct program {
    char directory[32], key_file[64], config[64], status[64];
    struct wr_key key;
    pid_t pid;
    int said; /* what it says comes out here */
    char text[16384];
};

static void put_file(const char *path, const char *text)
{
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);

    cr_assert(fd >= 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static void prepare(struct program *program)
{
    const char *reason;

    memset(program, 0, sizeof(*program));
    strcpy(program->directory, "/tmp/weir-memd-XXXXXX");
    cr_assert(mkdtemp(program->directory));
    snprintf(program->key_file, sizeof(program->key_file), "%s/key", program->directory);
    snprintf(program->config, sizeof(program->config), "%s/config", program->directory);
    snprintf(program->status, sizeof(program->status), "%s/status", program->directory);
    put_file(program->key_file, "a key that everybody knows, of more than 32 bytes");
    put_file(program->config, "memory = 64m\nlisten = tcp://127.0.0.1:0\nkeep-free = 0\n");
    cr_assert(wr_session_begin());
    cr_assert_eq(wr_key_read(program->key_file, &program->key, &reason), WEIR_OK);
}

static void clean(struct program *program)
{
    unlink(program->key_file);
    unlink(program->config);
    rmdir(program->directory);
}

/* Run it with these words, the last of which is NULL. */
static void run(struct program *program, ...)
{
    const char *words[ARGUMENTS] = {MEMD_PROGRAM};
    int ends[2], count = 1;
    va_list more;

    va_start(more, program);
    while (count < ARGUMENTS - 1 && (words[count] = va_arg(more, const char *)))
        count++;
    va_end(more);
    cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
    program->pid = fork();
    cr_assert(program->pid >= 0);
    if (program->pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        execv(MEMD_PROGRAM, (char *const *)(uintptr_t)words);
        _exit(127);
    }
    close(ends[1]);
    program->said = ends[0];
}

/* Read on until it says that; NULL: until it says no more. False: it never did. */
static bool says(struct program *program, const char *words)
{
    struct pollfd waits = {program->said, POLLIN, 0};

    while (!words || !strstr(program->text, words)) {
        size_t length = strlen(program->text);
        ssize_t got;

        if (poll(&waits, 1, PATIENCE_MS) <= 0)
            return false;
        got = read(program->said, program->text + length, sizeof(program->text) - 1 - length);
        if (got <= 0)
            return !words;
        program->text[length + (size_t)got] = '\0';
    }
    return true;
}

/* How it ended, once it has. */
static int exit_status(struct program *program)
{
    int status = -1;

    cr_expect(says(program, NULL), "it does not end: %s", program->text);
    cr_assert_eq(waitpid(program->pid, &status, 0), program->pid);
    close(program->said);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static uint16_t port_of(struct program *program)
{
    static const char LISTENS[] = "listens at tcp://127.0.0.1:";
    const char *at;

    cr_assert(says(program, "has left\n"), "%s", program->text);
    at = strstr(program->text, LISTENS);
    cr_assert(at, "%s", program->text);
    return (uint16_t)strtoul(at + sizeof(LISTENS) - 1, NULL, 10);
}

static struct kit_client enter(struct program *program)
{
    struct kit_client client;
    uint16_t port = port_of(program);
    bool is_in = false;

    /* Who is slower than 3 s is put out: on a busy machine that can be us. */
    for (int tries = 0; tries < 5 && !is_in; tries++)
        is_in = kit_shake(&client, kit_dial_port(port), &program->key, "one");
    cr_assert(is_in, "%s", program->text);
    return client;
}

static void serve(struct program *program, const char *grace)
{
    prepare(program);
    run(program, "--config", program->config, "--key-file", program->key_file, "--grace", grace,
        "--status-socket", program->status, NULL);
}

Test(memd_program, it_serves_and_ends_when_it_is_told)
{
    struct program program, asker;
    struct kit_client client;

    serve(&program, "10");
    client = enter(&program);
    cr_assert_eq(kit_lease(&client, 512), WEIR_OK);
    cr_expect(says(&program, "one at 127.0.0.1"));
    memset(&asker, 0, sizeof(asker));
    run(&asker, "--status", program.status, NULL);
    cr_expect_eq(exit_status(&asker), 0);
    cr_expect(strstr(asker.text, "2 MiB lent of 64 MiB"), "%s", asker.text);
    cr_assert_eq(kit_return(&client), WEIR_OK);
    kill(program.pid, SIGTERM);
    cr_expect_eq(exit_status(&program), 0);
    cr_expect(strstr(program.text, "closed; nothing was lent any more"), "%s", program.text);
    clean(&program);
}

Test(memd_program, clients_may_move_away)
{
    struct program program;
    struct kit_client client;
    uint32_t flags = 0;

    serve(&program, "3600");
    client = enter(&program);
    cr_assert_eq(kit_lease(&client, 512), WEIR_OK);
    kill(program.pid, SIGINT);
    cr_expect(says(&program, "1 leases are asked back, for 3600 s"));
    cr_assert_eq(kit_renew(&client, &flags), WEIR_OK);
    cr_expect_eq(flags, WR_MESSAGE_ASKED_BACK);
    cr_assert_eq(kit_return(&client), WEIR_OK);
    cr_expect_eq(exit_status(&program), 0);
    clean(&program);
}

Test(memd_program, the_grace_and_a_second_signal_end_it)
{
    struct program program;
    struct kit_client client;

    serve(&program, "3600");
    client = enter(&program);
    cr_assert_eq(kit_lease(&client, 512), WEIR_OK);
    kill(program.pid, SIGTERM);
    cr_assert(says(&program, "asked back"));
    kill(program.pid, SIGTERM);
    cr_expect_eq(exit_status(&program), 0);
    cr_expect(strstr(program.text, "closed with 1 leases: their pages are lost"));
    clean(&program);
    serve(&program, "1");
    client = enter(&program);
    cr_assert_eq(kit_lease(&client, 512), WEIR_OK);
    kill(program.pid, SIGTERM);
    cr_expect_eq(exit_status(&program), 0);
    cr_expect(strstr(program.text, "closed with 1 leases: their pages are lost"));
    clean(&program);
}

Test(memd_program, sighup_reads_the_file_again)
{
    struct program program;
    struct kit_client client;
    uint32_t flags = 0;

    serve(&program, "0");
    client = enter(&program);
    cr_assert_eq(kit_lease(&client, 4096), WEIR_OK);
    put_file(program.config, "memory = 8m\nlease = 77\nkeep-free = 0\nlisten = tcp://127.0.0.1:0\n"
                             "threads = 7\n");
    kill(program.pid, SIGHUP);
    cr_expect(says(&program, "threads is another: that needs a restart"));
    cr_expect(says(&program, "lends 8 MiB, to one client at most 8 MiB"));
    cr_assert_eq(kit_renew(&client, &flags), WEIR_OK);
    cr_expect_eq(flags, WR_MESSAGE_ASKED_BACK);
    cr_expect_eq(client.lease_ms, 77000);
    put_file(program.config, "memory = a lot\n");
    kill(program.pid, SIGHUP);
    cr_expect(says(&program, "nothing is changed"));
    cr_assert_eq(kit_renew(&client, NULL), WEIR_OK);
    cr_expect_eq(client.lease_ms, 77000);
    kill(program.pid, SIGTERM);
    cr_expect_eq(exit_status(&program), 0);
    clean(&program);
}

Test(memd_program, what_is_wrong_is_said)
{
    struct program program;

    prepare(&program);
    run(&program, NULL);
    cr_expect_neq(exit_status(&program), 0);
    cr_expect(strstr(program.text, "--memory 64G"), "%s", program.text);
    run(&program, "--config", program.config, "--key-file", "/nowhere", NULL);
    cr_expect_neq(exit_status(&program), 0);
    cr_expect(strstr(program.text, "key file /nowhere: there is no such file"));
    chmod(program.key_file, 0644);
    run(&program, "--config", program.config, "--key-file", program.key_file, NULL);
    cr_expect_neq(exit_status(&program), 0);
    cr_expect(strstr(program.text, "chmod 600"), "%s", program.text);
    run(&program, "--status", program.status, NULL);
    cr_expect_neq(exit_status(&program), 0);
    cr_expect(strstr(program.text, "is there a server"), "%s", program.text);
    run(&program, "--version", NULL);
    cr_expect_eq(exit_status(&program), 0);
    clean(&program);
}
