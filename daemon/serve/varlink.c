/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Varlink messages: see the header. JSON itself is jansson's; its nesting limit bounds the recursion. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "serve/varlink.h"
#include "util/bits.h"

#define BUFFER_MIN ((size_t)1024)

void varlink_buffer_deinit(struct varlink_buffer *buffer)
{
        free(buffer->data);
        *buffer = (struct varlink_buffer)VARLINK_BUFFER_INIT(buffer->limit);
}

size_t varlink_buffer_length(const struct varlink_buffer *buffer)
{
        return buffer->end - buffer->begin;
}

size_t varlink_buffer_room(const struct varlink_buffer *buffer)
{
        return buffer->limit - varlink_buffer_length(buffer);
}

/* Makes room for n bytes behind the end, by moving what is there to the front or by a larger block. */
static int buffer_reserve(struct varlink_buffer *buffer, size_t n)
{
        size_t length = varlink_buffer_length(buffer), capacity = MAX(buffer->capacity, BUFFER_MIN);
        char *data;

        if (n <= buffer->capacity - buffer->end)
                return 0;
        if (n <= buffer->capacity - length) {
                memmove(buffer->data, buffer->data + buffer->begin, length);
                buffer->begin = 0;
                buffer->end = length;
                return 0;
        }
        while (capacity < length + n)
                capacity = capacity <= buffer->limit / 2 ? capacity * 2 : buffer->limit;
        data = malloc(capacity);
        if (!data)
                return -ENOMEM;
        if (length)
                memcpy(data, buffer->data + buffer->begin, length);
        free(buffer->data);
        buffer->data = data;
        buffer->begin = 0;
        buffer->end = length;
        buffer->capacity = capacity;
        return 0;
}

int varlink_buffer_push(struct varlink_buffer *buffer, const void *bytes, size_t n)
{
        int r;

        if (n > varlink_buffer_room(buffer))
                return -ENOBUFS;
        if (!n)
                return 0;
        r = buffer_reserve(buffer, n);
        if (r < 0)
                return r;
        memcpy(buffer->data + buffer->end, bytes, n);
        buffer->end += n;
        return 0;
}

const char *varlink_buffer_peek(const struct varlink_buffer *buffer)
{
        return buffer->data ? buffer->data + buffer->begin : "";
}

void varlink_buffer_pop(struct varlink_buffer *buffer, size_t n)
{
        buffer->begin += n;
        if (buffer->begin == buffer->end)
                varlink_buffer_deinit(buffer);
}

/* Lets go of the message that was handed out last. */
static void splitter_settle(struct varlink_splitter *splitter)
{
        if (!splitter->taken)
                return;
        varlink_buffer_pop(&splitter->buffer, splitter->taken);
        splitter->taken = 0;
        splitter->searched = 0;
}

void varlink_splitter_deinit(struct varlink_splitter *splitter)
{
        varlink_buffer_deinit(&splitter->buffer);
        splitter->taken = 0;
        splitter->searched = 0;
}

size_t varlink_splitter_room(const struct varlink_splitter *splitter)
{
        return varlink_buffer_room(&splitter->buffer) + splitter->taken;
}

int varlink_splitter_push(struct varlink_splitter *splitter, const void *bytes, size_t n)
{
        splitter_settle(splitter);
        return varlink_buffer_push(&splitter->buffer, bytes, n);
}

bool varlink_splitter_complete(struct varlink_splitter *splitter)
{
        const char *data, *nul;
        size_t length;

        splitter_settle(splitter);
        data = varlink_buffer_peek(&splitter->buffer);
        length = varlink_buffer_length(&splitter->buffer);
        nul = memchr(data + splitter->searched, '\0', length - splitter->searched);
        splitter->searched = nul ? (size_t)(nul - data) : length;
        return nul;
}

int varlink_splitter_next(struct varlink_splitter *splitter, const char **ret_message, size_t *ret_length)
{
        if (!varlink_splitter_complete(splitter))
                return varlink_splitter_room(splitter) ? 0 : -EMSGSIZE;
        splitter->taken = splitter->searched + 1;
        *ret_message = varlink_buffer_peek(&splitter->buffer);
        *ret_length = splitter->searched;
        return 1;
}

static int message_load(const char *text, size_t length, json_t **ret_message)
{
        json_error_t error;
        json_t *message;

        message = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
        if (!message)
                return json_error_code(&error) == json_error_out_of_memory ? -ENOMEM : -EBADMSG;
        if (!json_is_object(message)) {
                json_decref(message);
                return -EBADMSG;
        }
        *ret_message = message;
        return 0;
}

/* Absent and null are the same; any other member must have the type that the protocol gives it. */
static int member_bool(json_t *message, const char *key, bool *ret_value)
{
        json_t *value = json_object_get(message, key);

        if (value && !json_is_null(value) && !json_is_boolean(value))
                return -EBADMSG;
        *ret_value = json_is_true(value);
        return 0;
}

static int member_string(json_t *message, const char *key, const char **ret_value)
{
        json_t *value = json_object_get(message, key);

        if (value && !json_is_null(value) && !json_is_string(value))
                return -EBADMSG;
        *ret_value = json_string_value(value);
        return 0;
}

static int member_parameters(json_t *message, json_t **ret_parameters)
{
        json_t *value = json_object_get(message, "parameters");

        if (!value || json_is_null(value)) {
                value = json_object();
                if (json_object_set_new(message, "parameters", value) < 0)
                        return -ENOMEM;
        }
        if (!json_is_object(value))
                return -EBADMSG;
        *ret_parameters = value;
        return 0;
}

int varlink_call_parse(const char *text, size_t length, struct varlink_call *ret_call)
{
        struct varlink_call call = VARLINK_CALL_INIT;
        int r;

        r = message_load(text, length, &call.message);
        if (r < 0)
                return r;
        if ((r = member_string(call.message, "method", &call.method)) < 0 ||
            (r = member_parameters(call.message, &call.parameters)) < 0 ||
            (r = member_bool(call.message, "more", &call.more)) < 0 ||
            (r = member_bool(call.message, "oneway", &call.oneway)) < 0 ||
            (r = member_bool(call.message, "upgrade", &call.upgrade)) < 0)
                goto fail;
        r = -EBADMSG;
        if (!call.method || (call.oneway && (call.more || call.upgrade)))
                goto fail;
        *ret_call = call;
        return 0;
fail:
        varlink_call_deinit(&call);
        return r;
}

void varlink_call_deinit(struct varlink_call *call)
{
        json_decref(call->message);
        *call = (struct varlink_call)VARLINK_CALL_INIT;
}

int varlink_reply_parse(const char *text, size_t length, struct varlink_reply *ret_reply)
{
        struct varlink_reply reply = VARLINK_REPLY_INIT;
        int r;

        r = message_load(text, length, &reply.message);
        if (r < 0)
                return r;
        if ((r = member_string(reply.message, "error", &reply.error)) < 0 ||
            (r = member_parameters(reply.message, &reply.parameters)) < 0 ||
            (r = member_bool(reply.message, "continues", &reply.continues)) < 0)
                goto fail;
        r = -EBADMSG;
        if (reply.error && reply.continues)
                goto fail;
        *ret_reply = reply;
        return 0;
fail:
        varlink_reply_deinit(&reply);
        return r;
}

void varlink_reply_deinit(struct varlink_reply *reply)
{
        json_decref(reply->message);
        *reply = (struct varlink_reply)VARLINK_REPLY_INIT;
}

const char *varlink_member(const char *name, size_t *ret_interface_length)
{
        const char *dot = strrchr(name, '.');

        *ret_interface_length = dot ? (size_t)(dot - name) : 0;
        return dot ? dot + 1 : name;
}

/* Completes {…} with the parameters and writes it down. Takes the message, which is NULL when memory for it
 * failed. */
static int message_format(json_t *message, json_t *parameters, char **ret_bytes, size_t *ret_length)
{
        json_auto_t *owned = message;
        char *bytes;

        if (!owned)
                return -ENOMEM;
        if ((parameters ? json_object_set(owned, "parameters", parameters)
                        : json_object_set_new(owned, "parameters", json_object())) < 0)
                return -ENOMEM;
        bytes = json_dumps(owned, JSON_COMPACT);
        if (!bytes)
                return -ENOMEM;
        *ret_length = strlen(bytes) + 1;
        *ret_bytes = bytes;
        return 0;
}

/* Flags travel only when they are set. */
static json_t *flag(bool value)
{
        return value ? json_true() : NULL;
}

int varlink_call_format(const char *method, json_t *parameters, bool more, bool oneway, char **ret_bytes,
                        size_t *ret_length)
{
        return message_format(
                json_pack("{s:s,s:o*,s:o*}", "method", method, "more", flag(more), "oneway", flag(oneway)),
                parameters, ret_bytes, ret_length);
}

int varlink_reply_format(json_t *parameters, bool continues, char **ret_bytes, size_t *ret_length)
{
        return message_format(json_pack("{s:o*}", "continues", flag(continues)), parameters, ret_bytes,
                              ret_length);
}

int varlink_error_format(const char *error, json_t *parameters, char **ret_bytes, size_t *ret_length)
{
        return message_format(json_pack("{s:s}", "error", error), parameters, ret_bytes, ret_length);
}
