/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The Varlink splitter and parsers on any stream: the messages are those of a naive split, whatever pieces
 * the stream comes in, memory is bounded, and what parses can be written and parsed again to the same.
 *
 * Input: byte 0 the form of the rest, byte 1 the size of the pieces, byte 2 the bound; then the stream, as it
 * is or, because random bytes are hardly ever JSON, one token a byte.
 */

#include <errno.h>
#include <string.h>

#include "serve/varlink.h"
#include "tests/fuzz/fuzz.h"
#include "util/bits.h"

#define STREAM_MAX 65536

static const struct {
        const char *bytes;
        size_t length;
} tokens[] = {
#define TOKEN(_s)                                                                                            \
        {                                                                                                    \
                _s, sizeof(_s) - 1                                                                           \
        }
        TOKEN("\0"),
        TOKEN("}\0"),
        TOKEN("{\"method\":\"a.B\""),
        TOKEN("{\"method\":\"io.wpd.Control.Status\"}\0"),
        TOKEN("{\"parameters\":{}"),
        TOKEN("{\"error\":\"a.E\""),
        TOKEN(",\"parameters\":{\"pid\":1}"),
        TOKEN(",\"parameters\":{"),
        TOKEN(",\"parameters\":null"),
        TOKEN(",\"more\":true"),
        TOKEN(",\"oneway\":true"),
        TOKEN(",\"upgrade\":true"),
        TOKEN(",\"continues\":true"),
        TOKEN(",\"more\":false"),
        TOKEN(",\"x\":[[[{\"y\":1e3}]]]"),
        TOKEN("\"k\":\"\\u00e9\\ud83d\\ude00\""),
        TOKEN("\"k\":\"\\u0000\""),
        TOKEN("{"),
        TOKEN("}"),
        TOKEN("["),
        TOKEN("]"),
        TOKEN(","),
        TOKEN(":"),
        TOKEN("\""),
        TOKEN("\\"),
        TOKEN("-1"),
        TOKEN("99999999999999999999"),
        TOKEN("1.5e308"),
        TOKEN("1e999"),
        TOKEN("null"),
        TOKEN(" "),
        TOKEN("\xff"),
        TOKEN("\xc3\xa9"),
};

static void check_call(const char *text, size_t length)
{
        struct varlink_call call = VARLINK_CALL_INIT, again = VARLINK_CALL_INIT;
        char *bytes;
        int r;

        r = varlink_call_parse(text, length, &call);
        fuzz_assert(r == 0 || r == -EBADMSG);
        fuzz_assert((r == 0) == (call.message != NULL));
        if (r < 0)
                return;
        fuzz_assert(call.method && json_is_object(call.parameters));
        fuzz_assert(!call.oneway || (!call.more && !call.upgrade));
        fuzz_assert(varlink_call_format(call.method, call.parameters, call.more, call.oneway, &bytes,
                                        &length) == 0);
        fuzz_assert(strlen(bytes) + 1 == length);
        fuzz_assert(varlink_call_parse(bytes, length - 1, &again) == 0);
        fuzz_assert(!strcmp(call.method, again.method) && json_equal(call.parameters, again.parameters));
        fuzz_assert(call.more == again.more && call.oneway == again.oneway);
        free(bytes);
        varlink_call_deinit(&again);
        varlink_call_deinit(&call);
}

static void check_reply(const char *text, size_t length)
{
        struct varlink_reply reply = VARLINK_REPLY_INIT, again = VARLINK_REPLY_INIT;
        char *bytes;
        int r;

        r = varlink_reply_parse(text, length, &reply);
        fuzz_assert(r == 0 || r == -EBADMSG);
        fuzz_assert((r == 0) == (reply.message != NULL));
        if (r < 0)
                return;
        fuzz_assert(json_is_object(reply.parameters) && !(reply.error && reply.continues));
        r = reply.error ? varlink_error_format(reply.error, reply.parameters, &bytes, &length)
                        : varlink_reply_format(reply.parameters, reply.continues, &bytes, &length);
        fuzz_assert(r == 0 && strlen(bytes) + 1 == length);
        fuzz_assert(varlink_reply_parse(bytes, length - 1, &again) == 0);
        fuzz_assert(!reply.error == !again.error && (!reply.error || !strcmp(reply.error, again.error)));
        fuzz_assert(reply.continues == again.continues && json_equal(reply.parameters, again.parameters));
        free(bytes);
        varlink_reply_deinit(&again);
        varlink_reply_deinit(&reply);
}

/* Takes what is complete; `at` is where in the stream the next message begins. -EMSGSIZE ends the stream. */
static int take(struct varlink_splitter *splitter, const char *stream, size_t pushed, size_t limit,
                size_t *at)
{
        const char *message, *nul;
        size_t length;
        int r;

        while ((r = varlink_splitter_next(splitter, &message, &length)) > 0) {
                nul = memchr(stream + *at, '\0', pushed - *at);
                fuzz_assert(nul && length == (size_t)(nul - stream) - *at && length <= limit);
                fuzz_assert(!memcmp(message, stream + *at, length + 1));
                check_call(message, length);
                check_reply(message, length);
                *at += length + 1;
        }
        fuzz_assert(r == 0 || (r == -EMSGSIZE && pushed - *at == limit + 1));
        fuzz_assert(!memchr(stream + *at, '\0', pushed - *at));
        return r;
}

static void run(const char *stream, size_t size, size_t piece, size_t limit)
{
        struct varlink_splitter splitter = VARLINK_SPLITTER_INIT(limit);
        size_t pushed = 0, at = 0, n;

        while (pushed < size) {
                n = MIN(MIN(piece, size - pushed), varlink_splitter_room(&splitter));
                fuzz_assert(n > 0);
                fuzz_assert(varlink_splitter_push(&splitter, stream + pushed, n) == 0);
                pushed += n;
                if (take(&splitter, stream, pushed, limit, &at) < 0)
                        break;
        }
        varlink_splitter_deinit(&splitter);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static char stream[STREAM_MAX];
        size_t length = 0, piece, limit;

        if (size < 3)
                return 0;
        piece = 1 + data[1];
        limit = data[2] & 1 ? STREAM_MAX : 1 + data[2];
        for (size_t i = 3; i < size; i++) {
                size_t token = data[i] % ARRAY_SIZE(tokens);
                size_t n = data[0] & 1 ? tokens[token].length : 1;

                if (length + n > sizeof(stream))
                        break;
                memcpy(stream + length, data[0] & 1 ? tokens[token].bytes : (const char *)data + i, n);
                length += n;
        }
        run(stream, length, piece, limit);
        return 0;
}
