#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Varlink messages: cutting them out of a stream of bytes, reading and writing calls and replies
 *
 * A message is one JSON object followed by one NUL byte. A call is {method, parameters, more, oneway,
 * upgrade}, a reply is {parameters, continues} or {error, parameters}. This module has no descriptors: bytes
 * go in, messages come out. Both ends use it, the daemon and wpctl, and neither trusts the other: everything
 * is bounded by the owner of the buffer.
 */

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "util/error.h"

#define VARLINK_SERVICE                  "org.varlink.service"
#define VARLINK_E_INTERFACE_NOT_FOUND    VARLINK_SERVICE ".InterfaceNotFound"
#define VARLINK_E_METHOD_NOT_FOUND       VARLINK_SERVICE ".MethodNotFound"
#define VARLINK_E_METHOD_NOT_IMPLEMENTED VARLINK_SERVICE ".MethodNotImplemented"
#define VARLINK_E_INVALID_PARAMETER      VARLINK_SERVICE ".InvalidParameter"

/* A first-in, first-out queue of bytes that never holds more than `limit` of them; no memory while it is
 * empty. */
struct varlink_buffer {
        char *data;
        size_t begin;
        size_t end;
        size_t capacity;
        size_t limit;
};

#define VARLINK_BUFFER_INIT(_limit)                                                                          \
        {                                                                                                    \
                .limit = (_limit)                                                                            \
        }

/* Cuts a stream into messages of at most `limit` bytes, their NUL not counted; messages not yet taken count
 * too. */
struct varlink_splitter {
        struct varlink_buffer buffer;
        size_t taken; /* length of the message handed out last, with its NUL; it leaves the buffer at the next
                         call */
        size_t searched; /* bytes, counted from the buffer's first, that are known to hold no NUL */
};

#define VARLINK_SPLITTER_INIT(_limit)                                                                        \
        {                                                                                                    \
                .buffer = VARLINK_BUFFER_INIT((_limit) + 1)                                                  \
        }

struct varlink_call {
        json_t *message;    /* owns the rest */
        const char *method; /* full name */
        json_t *parameters; /* always an object */
        bool more;
        bool oneway;
        bool upgrade;
};

#define VARLINK_CALL_INIT                                                                                    \
        {                                                                                                    \
                .message = NULL                                                                              \
        }

struct varlink_reply {
        json_t *message;    /* owns the rest */
        const char *error;  /* full name, NULL when the call succeeded */
        json_t *parameters; /* always an object */
        bool continues;
};

#define VARLINK_REPLY_INIT                                                                                   \
        {                                                                                                    \
                .message = NULL                                                                              \
        }

/* buffers */

void varlink_buffer_deinit(struct varlink_buffer *buffer);
size_t varlink_buffer_length(const struct varlink_buffer *buffer);
size_t varlink_buffer_room(const struct varlink_buffer *buffer);
/* All or nothing: -ENOBUFS when that is more than there is room for. */
int varlink_buffer_push(struct varlink_buffer *buffer, const void *bytes, size_t n) wp_check;
/* The oldest bytes; valid until the next push or pop. */
const char *varlink_buffer_peek(const struct varlink_buffer *buffer);
void varlink_buffer_pop(struct varlink_buffer *buffer, size_t n);

/* splitting */

void varlink_splitter_deinit(struct varlink_splitter *splitter);
/* How much may be pushed now; 0 means that messages must be taken first. */
size_t varlink_splitter_room(const struct varlink_splitter *splitter);
int varlink_splitter_push(struct varlink_splitter *splitter, const void *bytes, size_t n) wp_check;
bool varlink_splitter_complete(struct varlink_splitter *splitter);
/*
 * 1: the next message, NUL-terminated, valid until the next call on this splitter. 0: none is complete yet.
 * -EMSGSIZE: none ever will be, for there is no room for the rest of it.
 */
int varlink_splitter_next(struct varlink_splitter *splitter, const char **ret_message,
                          size_t *ret_length) wp_check;

/* messages; -EBADMSG for what is no such message, -ENOMEM */

int varlink_call_parse(const char *text, size_t length, struct varlink_call *ret_call) wp_check;
void varlink_call_deinit(struct varlink_call *call);
int varlink_reply_parse(const char *text, size_t length, struct varlink_reply *ret_reply) wp_check;
void varlink_reply_deinit(struct varlink_reply *reply);

/* The last part of a method's or an error's full name, and how long the interface before the dot is (0: there
 * is none). */
const char *varlink_member(const char *name, size_t *ret_interface_length);

/*
 * Writing. `parameters` is an object that stays the caller's, or NULL for an empty one. The bytes are the
 * message with its NUL, which the length counts; the caller frees them. Names are UTF-8.
 */
int varlink_call_format(const char *method, json_t *parameters, bool more, bool oneway, char **ret_bytes,
                        size_t *ret_length) wp_check;
int varlink_reply_format(json_t *parameters, bool continues, char **ret_bytes, size_t *ret_length) wp_check;
int varlink_error_format(const char *error, json_t *parameters, char **ret_bytes,
                         size_t *ret_length) wp_check;
