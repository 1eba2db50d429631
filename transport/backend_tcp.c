/* SPDX-License-Identifier: MIT */

/* tcp: opening and closing, and what it says of itself. */

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "transport/spec.h"
#include "transport/tcp.h"
#include "transport/tell.h"

#define KEY_VARIABLE "WEIR_KEY_FILE"

static const struct wr_spec_row rows[] = {
    {"size", WR_SPEC_BYTES, offsetof(struct wr_tcp_options, size), WEIR_SLOT_BYTES, 1ull << 46,
     NULL},
    {"key", WR_SPEC_TEXT, offsetof(struct wr_tcp_options, key), 0, 0, NULL},
    {"patience", WR_SPEC_COUNT, offsetof(struct wr_tcp_options, patience), 1, 86400, NULL},
    {"timeout", WR_SPEC_COUNT, offsetof(struct wr_tcp_options, timeout), 1, 60, NULL},
    {"spin_us", WR_SPEC_COUNT, offsetof(struct wr_tcp_options, spin_us), 0, 1000, NULL},
    {"asked_back", WR_SPEC_WORD, offsetof(struct wr_tcp_options, asked_back), 0, 0,
     "drain\0tell\0"},
};
static const struct wr_spec_kind kind = {"tcp", rows, sizeof(rows) / sizeof(rows[0])};

/* "//host:port", "//[address]:port" -> host and port, in one piece of memory that is free()d by the
 * host. */
static int split_place(const char *place, struct wr_tcp *tcp)
{
    char *host = strncmp(place, "//", 2) == 0 ? strdup(place + 2) : NULL;
    char *colon = host ? strrchr(host, ':') : NULL, *bracket;
    size_t length;

    if (!colon || colon == host || colon[1] == 0)
        goto wrong;
    *colon = 0;
    length = strlen(host);
    bracket = strchr(host, ']');
    if (host[0] == '[') {
        if (bracket != host + length - 1)
            goto wrong;
        *bracket = 0;
        memmove(host, host + 1, length - 1);
    } else if (bracket || strchr(host, ':')) {
        goto wrong;
    }
    tcp->host = host;
    tcp->target.host = host;
    tcp->target.port = colon + 1;
    return WEIR_OK;

wrong:
    free(host);
    wr_tell(tcp->env, WEIR_FAILURE, WEIR_EINVAL, 0,
            "tcp: \"%s\" is no place; write tcp://host:7070?size=8G, an IPv6 address in brackets",
            place);
    return WEIR_EINVAL;
}

static int read_key(struct wr_tcp *tcp)
{
    const char *path = tcp->options.key ? tcp->options.key : secure_getenv(KEY_VARIABLE);
    const char *why;
    int error;

    if (!path) {
        wr_tell(tcp->env, WEIR_FAILURE, WEIR_EINVAL, 0,
                "tcp: give the key file that the server has: key=FILE, or " KEY_VARIABLE);
        return WEIR_EINVAL;
    }
    error = wr_key_read(path, &tcp->key, &why);
    if (error)
        wr_tell(tcp->env, WEIR_FAILURE, error, 0, "tcp: key file %s: %s", path, why);
    return error;
}

static int parse(struct wr_tcp *tcp, const char *spec)
{
    char *place;
    const char *rest;
    int error = wr_spec_location(&kind, spec, tcp->env, &place, &rest);

    if (error)
        return error;
    error = split_place(place, tcp);
    free(place);
    if (!error)
        error = wr_spec_options(&kind, rest, tcp->env, &tcp->options);
    if (!error)
        error = read_key(tcp);
    return error;
}

static void name_ourselves(struct wr_tcp *tcp)
{
    char machine[24] = "";

    (void)gethostname(machine, sizeof(machine) - 1);
    snprintf(tcp->target.label, sizeof(tcp->target.label), "%s/%d", machine, (int)getpid());
    wr_random(tcp->target.client, sizeof(tcp->target.client));
    tcp->target.key = &tcp->key;
}

/* On which this process may run. */
static uint32_t processors(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 2;
}

static void free_tcp(struct wr_tcp *tcp)
{
    wr_key_forget(&tcp->key);
    wr_line_forget(&tcp->target);
    pthread_mutex_destroy(&tcp->lock);
    free(tcp->options.key);
    free(tcp->host);
    free(tcp);
}

static int tcp_open(const char *spec, const struct weir_backend_env *env,
                    struct weir_backend **backend_p)
{
    struct wr_tcp *tcp = wr_session_begin() ? calloc(1, sizeof(*tcp)) : NULL;
    int error;

    if (!tcp) {
        wr_tell(env, WEIR_FAILURE, WEIR_ENOMEM, 0, "tcp: out of memory, or no random numbers");
        return WEIR_ENOMEM;
    }
    tcp->base.ops = &weir_backend_tcp;
    tcp->env = env;
    tcp->options = (struct wr_tcp_options){
        .size = 1ull << 30, .patience = 30, .timeout = 3, .spin_us = 20};
    tcp->looking_most = processors() / 2;
    pthread_mutex_init(&tcp->lock, NULL);
    error = parse(tcp, spec);
    if (!error) {
        tcp->slots = tcp->options.size / WEIR_SLOT_BYTES;
        name_ourselves(tcp);
        error = wr_tcp_keeper_open(tcp);
    }
    if (error) {
        free_tcp(tcp);
        return error;
    }
    *backend_p = &tcp->base;
    return WEIR_OK;
}

static void tcp_close(struct weir_backend *backend)
{
    struct wr_tcp *tcp = (struct wr_tcp *)backend;

    wr_tcp_keeper_close(tcp);
    free_tcp(tcp);
}

static void tcp_describe(struct weir_backend *backend, struct weir_backend_info *info_p)
{
    const struct wr_tcp *tcp = (const struct wr_tcp *)backend;

    *info_p = (struct weir_backend_info){
        .slots = tcp->slots,
        .cluster_slots = WEIR_CLUSTER_SLOTS,
        .flags = WEIR_BACKEND_REMOTE,
    };
    snprintf(info_p->how, sizeof(info_p->how), "weir-memd at %.60s:%.8s, TCP", tcp->target.host,
             tcp->target.port);
}

static int tcp_discard(struct weir_backend *backend, uint64_t slot, uint64_t count)
{
    struct wr_tcp *tcp = (struct wr_tcp *)backend;

    if (slot > tcp->slots || count > tcp->slots - slot)
        return WEIR_EINVAL;
    if (count > 0 && !atomic_load(&tcp->is_away) && !atomic_load(&tcp->is_lost))
        wr_tcp_discard(tcp, slot, count);
    return WEIR_OK;
}

const struct weir_backend_ops weir_backend_tcp = {
    .abi = WEIR_BACKEND_ABI,
    .name = "tcp",
    .open = tcp_open,
    .close = tcp_close,
    .describe = tcp_describe,
    .read = wr_tcp_read,
    .channel_open = wr_tcp_channel_open,
    .channel_close = wr_tcp_channel_close,
    .submit = wr_tcp_submit,
    .poll = wr_tcp_poll,
    .wait_fd = wr_tcp_wait_fd,
    .discard = tcp_discard,
};
