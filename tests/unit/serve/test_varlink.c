/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Tables and random models of the Varlink message layer. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "serve/varlink.h"
#include "util/bits.h"

#ifdef NDEBUG
#error "tests rely on assertions"
#endif

static uint64_t random_state = 0x9e3779b97f4a7c15;

static uint32_t random_below(uint32_t n)
{
        random_state ^= random_state << 13;
        random_state ^= random_state >> 7;
        random_state ^= random_state << 17;
        return (uint32_t)(random_state >> 32) % n;
}

/* A buffer against an array that never moves. */
static void test_buffer_model(void **state)
{
        enum { LIMIT = 5000, TOTAL = 2000000 };
        struct varlink_buffer buffer = VARLINK_BUFFER_INIT(LIMIT);
        size_t pushed = 0, popped = 0, n, length;
        unsigned char *model;
        int r;

        model = malloc(TOTAL);
        for (size_t i = 0; i < TOTAL; i++)
                model[i] = (unsigned char)random_below(256);
        while (popped < TOTAL - LIMIT - 1) {
                n = random_below(random_below(8) ? 300 : LIMIT + 2);
                length = pushed - popped;
                if (random_below(2)) {
                        n = MIN(n, TOTAL - pushed);
                        r = varlink_buffer_push(&buffer, model + pushed, n);
                        assert_int_equal(r, length + n > LIMIT ? -ENOBUFS : 0);
                        pushed += r ? 0 : n;
                } else {
                        n = MIN(n, length);
                        varlink_buffer_pop(&buffer, n);
                        popped += n;
                }
                assert_int_equal(varlink_buffer_length(&buffer), pushed - popped);
                assert_int_equal(varlink_buffer_room(&buffer), LIMIT - (pushed - popped));
                assert_memory_equal(varlink_buffer_peek(&buffer), model + popped, pushed - popped);
                assert_true(buffer.capacity <= LIMIT);
                if (pushed == popped)
                        assert_null(buffer.data);
        }
        varlink_buffer_deinit(&buffer);
        free(model);
}

static const struct split_case {
        const char *bytes;
        size_t length;
        const char *messages[5];
        int last; /* what follows the messages: 0, or -EMSGSIZE */
} split_cases[] = {
#define BYTES(_s) (_s), sizeof(_s) - 1
        {BYTES(""), {}, 0},
        {BYTES("a"), {}, 0},
        {BYTES("\0"), {""}, 0},
        {BYTES("a\0"), {"a"}, 0},
        {BYTES("a\0b"), {"a"}, 0},
        {BYTES("\0\0a\0"), {"", "", "a"}, 0},
        {BYTES("ab\0cdef\0\0gh\0"), {"ab", "cdef", "", "gh"}, 0},
        {BYTES("12345678\0"), {"12345678"}, 0},
        {BYTES("12345678\0abcdefgh\0x"), {"12345678", "abcdefgh"}, 0},
        {BYTES("123456789"), {}, -EMSGSIZE},
        {BYTES("123456789\0"), {}, -EMSGSIZE},
        {BYTES("ok\0"
               "123456789\0no\0"),
         {"ok"},
         -EMSGSIZE},
};

/* Pushes as much as there is room for, `step` bytes at most at a time, and takes all that is complete. */
static void split(const struct split_case *c, size_t step)
{
        struct varlink_splitter splitter = VARLINK_SPLITTER_INIT(8);
        size_t at = 0, n_messages = 0, n, length;
        const char *message;
        int r = 0;

        while (at < c->length && r >= 0) {
                n = MIN(MIN(step, c->length - at), varlink_splitter_room(&splitter));
                assert_true(n > 0);
                assert_int_equal(varlink_splitter_push(&splitter, c->bytes + at, n), 0);
                at += n;
                while ((r = varlink_splitter_next(&splitter, &message, &length)) > 0) {
                        assert_true(n_messages < ARRAY_SIZE(c->messages));
                        assert_non_null(c->messages[n_messages]);
                        assert_int_equal(length, strlen(message));
                        assert_string_equal(message, c->messages[n_messages++]);
                }
        }
        assert_int_equal(r, c->last);
        assert_null(c->messages[n_messages]);
        varlink_splitter_deinit(&splitter);
}

static void test_split_table(void **state)
{
        for (size_t i = 0; i < ARRAY_SIZE(split_cases); i++)
                for (size_t step = 1; step <= 20; step++)
                        split(&split_cases[i], step);
}

/* More than there is room for is refused as a whole. */
static void test_split_bound(void **state)
{
        struct varlink_splitter splitter = VARLINK_SPLITTER_INIT(8);
        const char *message;
        size_t length;

        assert_int_equal(varlink_splitter_room(&splitter), 9);
        assert_int_equal(varlink_splitter_push(&splitter, "0123456789", 10), -ENOBUFS);
        assert_int_equal(varlink_splitter_push(&splitter, "ab\0cd\0ef", 9), 0);
        assert_int_equal(varlink_splitter_room(&splitter), 0);
        assert_true(varlink_splitter_complete(&splitter));
        assert_int_equal(varlink_splitter_next(&splitter, &message, &length), 1);
        assert_string_equal(message, "ab");
        assert_int_equal(varlink_splitter_room(&splitter), 3);
        assert_int_equal(varlink_splitter_push(&splitter, "gh", 2), 0);
        assert_int_equal(varlink_splitter_next(&splitter, &message, &length), 1);
        assert_string_equal(message, "cd");
        assert_int_equal(varlink_splitter_next(&splitter, &message, &length), 1);
        assert_string_equal(message, "ef");
        assert_false(varlink_splitter_complete(&splitter));
        assert_int_equal(varlink_splitter_next(&splitter, &message, &length), 0);
        varlink_splitter_deinit(&splitter);
}

/* A random stream, cut at random, taken at random; the model is the stream itself. */
static void test_split_model(void **state)
{
        enum { LIMIT = 3000, TOTAL = 1000000 };
        struct varlink_splitter splitter = VARLINK_SPLITTER_INIT(LIMIT);
        size_t pushed = 0, taken = 0, n, length;
        const char *message;
        char *stream;
        int r;

        stream = malloc(TOTAL);
        memset(stream, 0, TOTAL);
        for (size_t i = 0; i < TOTAL; i += n + 1) {
                n = random_below(random_below(4) ? 60 : LIMIT + 1);
                for (size_t j = i; j < MIN(i + n, TOTAL - 1); j++)
                        stream[j] = (char)(1 + random_below(255));
        }
        while (taken < TOTAL) {
                n = random_below(2000);
                n = MIN(MIN(n, varlink_splitter_room(&splitter)), TOTAL - pushed);
                assert_int_equal(varlink_splitter_push(&splitter, stream + pushed, n), 0);
                pushed += n;
                assert_true(splitter.buffer.capacity <= LIMIT + 1);
                for (unsigned i = random_below(5); i; i--) {
                        n = strlen(stream + taken);
                        assert_int_equal(varlink_splitter_complete(&splitter), taken + n < pushed);
                        r = varlink_splitter_next(&splitter, &message, &length);
                        assert_int_equal(r, taken + n < pushed);
                        if (!r)
                                break;
                        assert_int_equal(length, n);
                        assert_string_equal(message, stream + taken);
                        taken += n + 1;
                        if (taken == TOTAL)
                                break;
                }
        }
        varlink_splitter_deinit(&splitter);
        free(stream);
}

static const struct call_case {
        const char *text;
        int result;
        const char *method;
        const char *parameters;
        bool more, oneway, upgrade;
} call_cases[] = {
        {"{\"method\":\"a.b\"}", 0, "a.b", "{}", false, false, false},
        {" {\"method\" : \"a.b\" , \"parameters\":{\"x\":1}} ", 0, "a.b", "{\"x\":1}", false, false, false},
        {"{\"method\":\"a.b\",\"parameters\":null}", 0, "a.b", "{}", false, false, false},
        {"{\"method\":\"a.b\",\"more\":true}", 0, "a.b", "{}", true, false, false},
        {"{\"method\":\"a.b\",\"oneway\":true,\"more\":false}", 0, "a.b", "{}", false, true, false},
        {"{\"method\":\"a.b\",\"upgrade\":true,\"more\":null}", 0, "a.b", "{}", false, false, true},
        {"{\"method\":\"\"}", 0, "", "{}", false, false, false},
        {"{\"method\":\"a.b\",\"later\":[]}", 0, "a.b", "{}", false, false, false},
        {"", -EBADMSG, NULL, NULL, false, false, false},
        {"{", -EBADMSG, NULL, NULL, false, false, false},
        {"{}", -EBADMSG, NULL, NULL, false, false, false},
        {"[]", -EBADMSG, NULL, NULL, false, false, false},
        {"null", -EBADMSG, NULL, NULL, false, false, false},
        {"\"a.b\"", -EBADMSG, NULL, NULL, false, false, false},
        {"{\"method\":1}", -EBADMSG, NULL, NULL, false, false, false},
        {"{\"method\":null}", -EBADMSG, NULL, NULL, false, false, false},
        {"{\"method\":\"a.b\"} x", -EBADMSG, NULL, NULL, false, false, false},
        {"{\"method\":\"a.b\",\"method\":\"a.c\"}", -EBADMSG, NULL, NULL, false, false, false},
        {"{\"method\":\"a\\u0000b\"}", -EBADMSG, NULL, NULL, false, false, false},
        {"{\"method\":\"a\xff\"}", -EBADMSG, NULL, NULL, false, false, false},
        {"{\"method\":\"a.b\",\"parameters\":[]}", -EBADMSG, NULL, NULL, false, false, false},
        {"{\"method\":\"a.b\",\"parameters\":\"x\"}", -EBADMSG, NULL, NULL, false, false, false},
        {"{\"method\":\"a.b\",\"more\":1}", -EBADMSG, NULL, NULL, false, false, false},
        {"{\"method\":\"a.b\",\"oneway\":\"true\"}", -EBADMSG, NULL, NULL, false, false, false},
        {"{\"method\":\"a.b\",\"oneway\":true,\"more\":true}", -EBADMSG, NULL, NULL, false, false, false},
        {"{\"method\":\"a.b\",\"oneway\":true,\"upgrade\":true}", -EBADMSG, NULL, NULL, false, false, false},
};

static void test_call_table(void **state)
{
        struct varlink_call call;
        char *text;

        for (size_t i = 0; i < ARRAY_SIZE(call_cases); i++) {
                const struct call_case *c = &call_cases[i];

                call = (struct varlink_call){.message = (json_t *)&call};
                assert_int_equal(varlink_call_parse(c->text, strlen(c->text), &call), c->result);
                if (c->result < 0) {
                        assert_ptr_equal(call.message, &call);
                        continue;
                }
                assert_string_equal(call.method, c->method);
                text = json_dumps(call.parameters, JSON_COMPACT);
                assert_string_equal(text, c->parameters);
                free(text);
                assert_int_equal(call.more, c->more);
                assert_int_equal(call.oneway, c->oneway);
                assert_int_equal(call.upgrade, c->upgrade);
                varlink_call_deinit(&call);
                assert_null(call.message);
        }
}

static const struct reply_case {
        const char *text;
        int result;
        const char *error;
        bool continues;
} reply_cases[] = {
        {"{}", 0, NULL, false},
        {"{\"parameters\":{}}", 0, NULL, false},
        {"{\"continues\":true,\"parameters\":{\"a\":[]}}", 0, NULL, true},
        {"{\"error\":\"a.E\",\"parameters\":{}}", 0, "a.E", false},
        {"{\"error\":\"a.E\",\"continues\":true}", -EBADMSG, NULL, false},
        {"{\"error\":1}", -EBADMSG, NULL, false},
        {"{\"parameters\":1}", -EBADMSG, NULL, false},
        {"{\"continues\":0}", -EBADMSG, NULL, false},
        {"[]", -EBADMSG, NULL, false},
        {"", -EBADMSG, NULL, false},
};

static void test_reply_table(void **state)
{
        struct varlink_reply reply;

        for (size_t i = 0; i < ARRAY_SIZE(reply_cases); i++) {
                const struct reply_case *c = &reply_cases[i];

                assert_int_equal(varlink_reply_parse(c->text, strlen(c->text), &reply), c->result);
                if (c->result < 0)
                        continue;
                if (c->error)
                        assert_string_equal(reply.error, c->error);
                else
                        assert_null(reply.error);
                assert_int_equal(reply.continues, c->continues);
                assert_true(json_is_object(reply.parameters));
                varlink_reply_deinit(&reply);
        }
}

/* Every truncation of a good message is no message, and none makes trouble. */
static void test_truncated(void **state)
{
        static const char text[] =
                "{\"method\":\"a.b\",\"parameters\":{\"pid\":[1,{\"x\":\"\\u00e9\"}]},\"more\":true}";
        struct varlink_call call;

        for (size_t n = 0; n < sizeof(text) - 1; n++)
                assert_int_equal(varlink_call_parse(text, n, &call), -EBADMSG);
        assert_int_equal(varlink_call_parse(text, sizeof(text) - 1, &call), 0);
        varlink_call_deinit(&call);
}

/* Nesting as deep as a message is long is refused, not followed. */
static void test_deep(void **state)
{
        enum { DEPTH = 60000 };
        struct varlink_call call;
        char *text = malloc(DEPTH);

        memset(text, '[', DEPTH);
        memcpy(text, "{\"parameters\":", 14);
        assert_int_equal(varlink_call_parse(text, DEPTH, &call), -EBADMSG);
        free(text);
}

static void test_member(void **state)
{
        static const struct {
                const char *name, *member;
                size_t interface_length;
        } cases[] = {
                {"org.varlink.service.GetInfo", "GetInfo", 19},
                {"a.b", "b", 1},
                {"a", "a", 0},
                {"", "", 0},
                {".b", "b", 0},
                {"a.", "", 1},
                {"..", "", 1},
        };
        size_t length;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                assert_string_equal(varlink_member(cases[i].name, &length), cases[i].member);
                assert_int_equal(length, cases[i].interface_length);
        }
}

static void test_format(void **state)
{
        json_t *parameters = json_pack("{s:i}", "pid", 7);
        size_t length;
        char *bytes;

#define CHECK(_call, _text)                                                                                  \
        do {                                                                                                 \
                assert_int_equal((_call), 0);                                                                \
                assert_string_equal(bytes, (_text));                                                         \
                assert_int_equal(length, strlen(_text) + 1);                                                 \
                free(bytes);                                                                                 \
        } while (0)
        CHECK(varlink_call_format("a.b", NULL, false, false, &bytes, &length),
              "{\"method\":\"a.b\",\"parameters\":{}}");
        CHECK(varlink_call_format("a.b", parameters, true, false, &bytes, &length),
              "{\"method\":\"a.b\",\"more\":true,\"parameters\":{\"pid\":7}}");
        CHECK(varlink_call_format("a.b", parameters, false, true, &bytes, &length),
              "{\"method\":\"a.b\",\"oneway\":true,\"parameters\":{\"pid\":7}}");
        CHECK(varlink_reply_format(NULL, false, &bytes, &length), "{\"parameters\":{}}");
        CHECK(varlink_reply_format(parameters, true, &bytes, &length),
              "{\"continues\":true,\"parameters\":{\"pid\":7}}");
        CHECK(varlink_error_format("a.E", parameters, &bytes, &length),
              "{\"error\":\"a.E\",\"parameters\":{\"pid\":7}}");
#undef CHECK
        assert_int_equal(parameters->refcount, 1);
        json_decref(parameters);
}

int main(void)
{
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_buffer_model), cmocka_unit_test(test_split_table),
                cmocka_unit_test(test_split_bound),  cmocka_unit_test(test_split_model),
                cmocka_unit_test(test_call_table),   cmocka_unit_test(test_reply_table),
                cmocka_unit_test(test_truncated),    cmocka_unit_test(test_deep),
                cmocka_unit_test(test_member),       cmocka_unit_test(test_format),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
