#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The client protocol spoken by hand, so that it can be spoken wrongly. For clients; whatever fails fails the test. */

#include <stddef.h>
#include <stdint.h>

#include "libwp/wire.h"

enum raw_state {
        RAW_CONNECTED,
        RAW_WELCOME, /* HELLO was said and answered */
        RAW_READY,   /* CONTEXTS, too */
        RAW_N_STATES,
};

#define RAW_N_CONTEXTS 8

struct raw {
        int socket;
        int given[WIRE_MAX_FDS]; /* with WELCOME: device, pool */
        int contexts[RAW_N_CONTEXTS];
        uint64_t inbox[WIRE_MAX_MESSAGE / sizeof(uint64_t)];
};

/* Connects and goes on until this state is reached. */
void raw_open(struct raw *raw, const char *path, enum raw_state state);
void raw_close(struct raw *raw);

void raw_say_hello(struct raw *raw);
void raw_take_welcome(struct raw *raw);
void raw_make_contexts(struct raw *raw);
void raw_say_contexts(struct raw *raw, uint32_t flags);
void raw_say_register(struct raw *raw, const void *memory, size_t length, uint64_t serial);

/* Any bytes with any number of descriptors. */
void raw_send(struct raw *raw, const void *bytes, size_t length, const int *fds, unsigned n_fds);

/* The next message of this type; others are thrown away. */
void *raw_await(struct raw *raw, enum wire_type type);

/* The error of the next reply. */
int raw_reply(struct raw *raw);

/* The daemon ends the connection. */
void raw_await_end(struct raw *raw);
