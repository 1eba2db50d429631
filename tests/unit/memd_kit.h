/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What tests of the memory server share: a server in this process, and a client that says one thing
 * at a time and waits.
 */

#include <stdbool.h>
#include <stdint.h>

#include "transport/memd/memd.h"

#define KIT_MIB ((uint64_t)1 << 20)

/* What the server said, line by line. */
struct kit_log {
    uint32_t lines;
    char text[16384];
};

extern struct wr_key kit_key;
extern struct kit_log kit_log;

/* A server of two workers on a port of its own, with these limits; and with more of options. */
struct memd *kit_memd(uint64_t memory, uint64_t quota, uint32_t lease_ms);
int kit_memd_with(struct memd_options *options, struct memd **memd_p);
struct memd_gauges kit_gauges(struct memd *memd);
/* Was that said? Looks again for five seconds. */
bool kit_was_told(const char *words);
uint32_t kit_lines(void);

struct kit_client {
    int fd;
    uint64_t epoch; /* of the server */
    struct wr_session session;
    uint8_t lease[WR_NAME_BYTES];
    uint64_t slots, lease_ms;
};

/* A connection on which nothing was said. Nothing waits for longer than ten seconds. */
int kit_dial(struct memd *memd);
int kit_dial_port(uint16_t port);
/* The whole handshake. False: the server does not let him in, or is none. */
bool kit_shake(struct kit_client *client, int fd, const struct wr_key *key, const char *name);
/* A client of that name, inside. */
struct kit_client kit_client(struct memd *memd, const char *name);
void kit_hang_up(struct kit_client *client);

void kit_send(int fd, const void *bytes, size_t count);
/* Say it, with seal and epoch; the payload of one that has pages is sent as it is. */
void kit_say(struct kit_client *client, struct wr_message message, const void *payload);
/* The next message, with its payload; false: the connection was closed. */
bool kit_hear(struct kit_client *client, struct wr_message *message_p, void *payload);
/* Say and hear. The type that was answered; 0: the connection was closed. *error_p: its error. */
uint8_t kit_ask(struct kit_client *client, struct wr_message message, const void *payload,
                uint16_t *error_p);

/* 0 or an error of the closed list; WEIR_ESTOPPED also when the connection was closed. */
int kit_lease(struct kit_client *client, uint64_t slots);
int kit_attach(struct kit_client *client, const struct kit_client *owner);
int kit_return(struct kit_client *client);
/* *flags_p: what RENEWED adds; may be NULL. */
int kit_renew(struct kit_client *client, uint32_t *flags_p);
int kit_read(struct kit_client *client, uint64_t slot, uint32_t pages, void *bytes);
int kit_write(struct kit_client *client, uint64_t slot, uint32_t pages, const void *bytes);
int kit_discard(struct kit_client *client, uint64_t slot, uint64_t count);
/* Within five seconds the other end closes, having said nothing more. */
bool kit_is_closed(int fd);

/* Each page says which it is. */
void kit_stamp(unsigned char *bytes, uint64_t slot, uint32_t pages, uint32_t story);
bool kit_is_stamped(const unsigned char *bytes, uint64_t slot, uint32_t pages, uint32_t story);
bool kit_is_zero(const unsigned char *bytes, size_t count);
