/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The control socket end to end: real sockets, a daemon that is none. Client and server share one thread: the
 * test sends, turns the loop until nothing moves, and receives, so that nothing depends on time.
 */

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "fake.h"
#include "serve/varlink.h"
#include "util/bits.h"

#ifdef NDEBUG
#error "tests rely on assertions"
#endif

#define HANG_S         60
#define TURNS          64
#define CALL(_m)       "{\"method\":\"io.wpd.Control." _m "\"}"
#define CALL_P(_m, _p) "{\"method\":\"io.wpd.Control." _m "\",\"parameters\":" _p "}"

static const struct control_limits limits = FAKE_LIMITS;

static unsigned count_fds(void)
{
        DIR *dir = opendir("/proc/self/fd");
        unsigned n = 0;

        assert_non_null(dir);
        while (readdir(dir))
                n++;
        closedir(dir);
        return n;
}

static unsigned fds_before;

static int setup(void **state)
{
        struct fake *fake = calloc(1, sizeof(*fake));

        fds_before = count_fds();
        *state = fake;
        return fake_init(fake, &limits);
}

static int teardown(void **state)
{
        struct fake *fake = *state;
        unsigned n_waits;

        fake_deinit(fake);
        n_waits = fake->n_waits;
        free(fake);
        return n_waits || count_fds() != fds_before ? -1 : 0;
}

static void turn(struct fake *fake)
{
        for (unsigned i = 0; i < TURNS; i++)
                ev_run(fake->loop, EVRUN_NOWAIT);
}

static int client_open(struct fake *fake)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int fd;

        strcpy(address.sun_path, fake->path);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        assert_true(fd >= 0);
        assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
        turn(fake);
        return fd;
}

/* SO_PEERCRED is taken when the peer connects, so another effective uid for that long is another user. Needs
 * root. */
static int client_open_as(struct fake *fake, uid_t uid)
{
        int fd;

        assert_int_equal(seteuid(uid), 0);
        fd = client_open(fake);
        assert_int_equal(seteuid(0), 0);
        return fd;
}

static void client_send(struct fake *fake, int fd, const void *bytes, size_t length)
{
        assert_int_equal(send(fd, bytes, length, MSG_NOSIGNAL), length);
        turn(fake);
}

static void client_call(struct fake *fake, int fd, const char *text)
{
        client_send(fake, fd, text, strlen(text) + 1);
}

/* Takes the bytes up to and with the next NUL, of those that are there; whether there was one. */
static bool receive_until_nul(int fd, char *text, size_t *n)
{
        char chunk[65536], *nul;
        ssize_t r;

        r = recv(fd, chunk, sizeof(chunk), MSG_PEEK);
        assert_true(r > 0);
        nul = memchr(chunk, '\0', (size_t)r);
        r = recv(fd, text + *n, nul ? (size_t)(nul - chunk) + 1 : (size_t)r, 0);
        assert_true(r > 0);
        *n += (size_t)r;
        return nul;
}

/* The next reply; those that follow it stay in the socket. */
static struct varlink_reply client_receive(struct fake *fake, int fd)
{
        static char text[1 << 21];
        struct varlink_reply reply;
        size_t n = 0;

        while (!receive_until_nul(fd, text, &n)) {
                assert_true(n < sizeof(text) / 2);
                turn(fake);
        }
        assert_int_equal(varlink_reply_parse(text, n - 1, &reply), 0);
        assert_false(reply.continues);
        return reply;
}

static void expect_nothing(int fd)
{
        char byte;

        assert_int_equal(recv(fd, &byte, 1, 0), -1);
        assert_int_equal(errno, EAGAIN);
}

/* Nothing more than what was sent before; the stream may also end in an error. */
static void expect_end(struct fake *fake, int fd)
{
        char bytes[4096];
        ssize_t n;

        turn(fake);
        while ((n = recv(fd, bytes, sizeof(bytes), 0)) > 0)
                ;
        assert_true(n == 0 || errno == ECONNRESET);
}

static void expect(struct fake *fake, int fd, const char *error, const char *parameters)
{
        struct varlink_reply reply = client_receive(fake, fd);
        char *text = json_dumps(reply.parameters, JSON_COMPACT);

        if (error)
                assert_string_equal(reply.error ? reply.error : "no error", error);
        else
                assert_string_equal(reply.error ? reply.error : "no error", "no error");
        if (parameters)
                assert_string_equal(text, parameters);
        free(text);
        varlink_reply_deinit(&reply);
}

static void check(struct fake *fake, int fd, const char *call, const char *error, const char *parameters)
{
        client_call(fake, fd, call);
        expect(fake, fd, error, parameters);
}

static struct varlink_reply ask(struct fake *fake, int fd, const char *call)
{
        struct varlink_reply reply;

        client_call(fake, fd, call);
        reply = client_receive(fake, fd);
        assert_null(reply.error);
        return reply;
}

/* introspection */

static void test_info(void **state)
{
        struct fake *fake = *state;
        int fd = client_open(fake);

        check(fake, fd, "{\"method\":\"org.varlink.service.GetInfo\"}", NULL,
              "{\"vendor\":\"The wpd authors\",\"product\":\"wpd\",\"version\":\"1.2.3\",\"url\":\"\","
              "\"interfaces\":[\"org.varlink.service\",\"io.wpd.Control\"]}");
        close(fd);
}

static char *read_idl(void)
{
        FILE *file = fopen(IDL_PATH, "re");
        char *text = calloc(1, 65536);

        assert_non_null(file);
        assert_true(fread(text, 1, 65535, file) > 0);
        fclose(file);
        return text;
}

static void test_description(void **state)
{
        struct fake *fake = *state;
        int fd = client_open(fake);
        struct varlink_reply reply;
        char *idl = read_idl();

        reply = ask(fake, fd,
                    "{\"method\":\"org.varlink.service.GetInterfaceDescription\","
                    "\"parameters\":{\"interface\":\"io.wpd.Control\"}}");
        assert_string_equal(json_string_value(json_object_get(reply.parameters, "description")), idl);
        varlink_reply_deinit(&reply);
        free(idl);
        reply = ask(fake, fd,
                    "{\"method\":\"org.varlink.service.GetInterfaceDescription\","
                    "\"parameters\":{\"interface\":\"org.varlink.service\"}}");
        assert_non_null(strstr(json_string_value(json_object_get(reply.parameters, "description")),
                               "\ninterface org.varlink.service\n"));
        varlink_reply_deinit(&reply);
        check(fake, fd,
              "{\"method\":\"org.varlink.service.GetInterfaceDescription\","
              "\"parameters\":{\"interface\":\"io.wpd.Contro\"}}",
              VARLINK_E_INTERFACE_NOT_FOUND, "{\"interface\":\"io.wpd.Contro\"}");
        close(fd);
}

/* Every method that the description names exists: called with a parameter that it cannot have, it says so. */
static void test_described_methods(void **state)
{
        struct fake *fake = *state;
        int fd = client_open(fake);
        unsigned n = 0;
        char *idl = read_idl(), *at = idl, call[256], name[64];

        while ((at = strstr(at, "\nmethod "))) {
                assert_int_equal(sscanf(at, "\nmethod %63[A-Za-z](", name), 1);
                snprintf(call, sizeof(call), "{\"method\":\"io.wpd.Control.%s\",\"parameters\":{\"zz\":1}}",
                         name);
                check(fake, fd, call, VARLINK_E_INVALID_PARAMETER, "{\"parameter\":\"zz\"}");
                at++;
                n++;
        }
        assert_int_equal(n, 10);
        free(idl);
        close(fd);
}

/* The fields of each reply are those of the description: the canned documents of the fake follow it, and so
 * must wpd's. */
static void test_documents(void **state)
{
        struct fake *fake = *state;
        int fd = client_open(fake);
        struct varlink_reply reply;
        char *idl = read_idl(), field[128];
        const char *key;
        json_t *value;

        reply = ask(fake, fd, CALL("Status"));
        json_object_foreach(reply.parameters, key, value) {
                snprintf(field, sizeof(field), " %s: ", key);
                assert_non_null(strstr(strstr(idl, "method Status()"), field));
        }
        assert_int_equal(json_integer_value(json_object_get(reply.parameters, "pages_sharing")), 65536);
        varlink_reply_deinit(&reply);
        reply = ask(fake, fd, CALL("Clients"));
        assert_int_equal(json_array_size(json_object_get(reply.parameters, "clients")), 2);
        json_object_foreach(json_array_get(json_object_get(reply.parameters, "clients"), 0), key, value) {
                snprintf(field, sizeof(field), " %s: ", key);
                assert_non_null(strstr(strstr(idl, "type Client ("), field));
        }
        varlink_reply_deinit(&reply);
        free(idl);
        close(fd);
}

/* requests */

static const struct request_case {
        const char *call;
        const char *error; /* NULL: it succeeds */
        const char *parameters;
} request_cases[] = {
        {"{\"method\":\"\"}", VARLINK_E_INTERFACE_NOT_FOUND, "{\"interface\":\"\"}"},
        {"{\"method\":\"Status\"}", VARLINK_E_INTERFACE_NOT_FOUND, "{\"interface\":\"\"}"},
        {"{\"method\":\"io.wpd.Contro.Status\"}", VARLINK_E_INTERFACE_NOT_FOUND,
         "{\"interface\":\"io.wpd.Contro\"}"},
        {"{\"method\":\"io.wpd.Control\"}", VARLINK_E_INTERFACE_NOT_FOUND, "{\"interface\":\"io.wpd\"}"},
        {CALL("status"), VARLINK_E_METHOD_NOT_FOUND, "{\"method\":\"io.wpd.Control.status\"}"},
        {CALL(""), VARLINK_E_METHOD_NOT_FOUND, "{\"method\":\"io.wpd.Control.\"}"},
        {"{\"method\":\"org.varlink.service.Status\"}", VARLINK_E_METHOD_NOT_FOUND,
         "{\"method\":\"org.varlink.service.Status\"}"},
        {"{\"method\":\"io.wpd.Control.Status\",\"upgrade\":true}", VARLINK_E_METHOD_NOT_IMPLEMENTED,
         "{\"method\":\"io.wpd.Control.Status\"}"},
        {CALL_P("Status", "{\"pid\":1}"), VARLINK_E_INVALID_PARAMETER, "{\"parameter\":\"pid\"}"},
        {CALL_P("Status", "{\"\":null}"), VARLINK_E_INVALID_PARAMETER, "{\"parameter\":\"\"}"},
        {CALL_P("Regions", "{\"pid\":\"4711\"}"), VARLINK_E_INVALID_PARAMETER, "{\"parameter\":\"pid\"}"},
        {CALL_P("Regions", "{\"pid\":4711.0}"), VARLINK_E_INVALID_PARAMETER, "{\"parameter\":\"pid\"}"},
        {CALL_P("Regions", "{\"pid\":0}"), VARLINK_E_INVALID_PARAMETER, "{\"parameter\":\"pid\"}"},
        {CALL_P("Regions", "{\"pid\":-1}"), VARLINK_E_INVALID_PARAMETER, "{\"parameter\":\"pid\"}"},
        {CALL_P("Regions", "{\"pid\":4294972007}"), VARLINK_E_INVALID_PARAMETER, "{\"parameter\":\"pid\"}"},
        {CALL_P("Regions", "{\"pid\":4711,\"x\":0}"), VARLINK_E_INVALID_PARAMETER, "{\"parameter\":\"x\"}"},
        {CALL_P("Regions", "{\"pid\":4710}"), "io.wpd.Control.NoSuchClient", "{\"pid\":4710}"},
        {CALL_P("Doctor", "{\"pid\":2147483647}"), "io.wpd.Control.NoSuchClient", "{\"pid\":2147483647}"},
        {CALL_P("Doctor", "{\"pid\":4713}"), NULL, NULL},
        {CALL_P("Sharers", "{\"pid\":4711}"), VARLINK_E_INVALID_PARAMETER, "{\"parameter\":\"address\"}"},
        {CALL_P("Sharers", "{\"address\":1}"), VARLINK_E_INVALID_PARAMETER, "{\"parameter\":\"pid\"}"},
        {CALL_P("Sharers", "{\"pid\":4711,\"address\":-1}"), VARLINK_E_INVALID_PARAMETER,
         "{\"parameter\":\"address\"}"},
        {CALL_P("Sharers", "{\"pid\":4711,\"address\":\"1\"}"), VARLINK_E_INVALID_PARAMETER,
         "{\"parameter\":\"address\"}"},
        {CALL_P("Sharers", "{\"pid\":4710,\"address\":1}"), "io.wpd.Control.NoSuchClient", "{\"pid\":4710}"},
        {CALL_P("Sharers", "{\"pid\":4711,\"address\":1}"), "io.wpd.Control.NoSuchPage",
         "{\"pid\":4711,\"address\":1}"},
        {CALL_P("Sharers", "{\"pid\":4711,\"address\":140733193396224}"), NULL,
         "{\"state\":\"candidate\",\"sharers\":[],\"complete\":true}"},
        {CALL_P("Scan", "{\"pid\":4713}"), "io.wpd.Control.NoSuchClient", "{\"pid\":4713}"},
        {CALL_P("Scan", "{\"wait\":1}"), VARLINK_E_INVALID_PARAMETER, "{\"parameter\":\"wait\"}"},
        {CALL_P("Scan", "{\"pid\":4710}"), "io.wpd.Control.NoSuchClient", "{\"pid\":4710}"},
        {CALL_P("Set", "{}"), VARLINK_E_INVALID_PARAMETER, "{\"parameter\":\"key\"}"},
        {CALL_P("Set", "{\"key\":\"a\"}"), VARLINK_E_INVALID_PARAMETER, "{\"parameter\":\"value\"}"},
        {CALL_P("Set", "{\"key\":\"a\",\"value\":null}"), VARLINK_E_INVALID_PARAMETER,
         "{\"parameter\":\"value\"}"},
        {CALL_P("Set", "{\"key\":\"a\",\"value\":1}"), VARLINK_E_INVALID_PARAMETER,
         "{\"parameter\":\"value\"}"},
        {CALL("Get"), NULL, "{\"settings\":{\"sleep_millisecs\":\"200\",\"use_zero_pages\":\"yes\"}}"},
        {CALL_P("Get", "{\"key\":null}"), NULL,
         "{\"settings\":{\"sleep_millisecs\":\"200\",\"use_zero_pages\":\"yes\"}}"},
        {CALL_P("Get", "{\"key\":\"use_zero_pages\"}"), NULL, "{\"settings\":{\"use_zero_pages\":\"yes\"}}"},
        {CALL_P("Get", "{\"key\":\"merge.use_zero_pages\"}"), NULL,
         "{\"settings\":{\"use_zero_pages\":\"yes\"}}"},
        {CALL_P("Get", "{\"key\":\"merge.\"}"), "io.wpd.Control.InvalidSetting", NULL},
        {CALL_P("Get", "{\"key\":\"\"}"), "io.wpd.Control.InvalidSetting", NULL},
        {CALL_P("Get", "{\"key\":\"nope\"}"), "io.wpd.Control.InvalidSetting",
         "{\"key\":\"nope\",\"reason\":\"there is no such setting\"}"},
        {"{\"method\":\"org.varlink.service.GetInfo\",\"parameters\":{\"a\":1}}", VARLINK_E_INVALID_PARAMETER,
         "{\"parameter\":\"a\"}"},
        {"{\"method\":\"org.varlink.service.GetInterfaceDescription\"}", VARLINK_E_INVALID_PARAMETER,
         "{\"parameter\":\"interface\"}"},
};

static void test_requests(void **state)
{
        struct fake *fake = *state;
        int fd = client_open(fake);

        for (size_t i = 0; i < ARRAY_SIZE(request_cases); i++)
                check(fake, fd, request_cases[i].call, request_cases[i].error, request_cases[i].parameters);
        assert_int_equal(fake->n_scans, 0);
        close(fd);
}

static void test_no_memory(void **state)
{
        struct fake *fake = *state;
        int fd = client_open(fake);

        fake->no_memory = true;
        check(fake, fd, CALL("Status"), "io.wpd.Control.Busy", NULL);
        check(fake, fd, CALL("Clients"), "io.wpd.Control.Busy", NULL);
        close(fd);
}

static void test_too_large(void **state)
{
        struct fake *fake = *state;
        int fd = client_open(fake);
        struct varlink_reply reply;

        fake->extra_rows = 10000;
        check(fake, fd, CALL("Regions"), "io.wpd.Control.ReplyTooLarge", NULL);
        fake->extra_rows = 2000;
        reply = ask(fake, fd, CALL("Regions"));
        assert_int_equal(json_array_size(json_object_get(reply.parameters, "regions")), 2002);
        varlink_reply_deinit(&reply);
        close(fd);
}

static void test_oneway(void **state)
{
        struct fake *fake = *state;
        int fd = client_open(fake);

        client_call(fake, fd, "{\"method\":\"io.wpd.Control.Status\",\"oneway\":true}");
        client_call(fake, fd, "{\"method\":\"io.wpd.Control.Nothing\",\"oneway\":true}");
        client_call(fake, fd, "{\"method\":\"nothing\",\"oneway\":true}");
        expect_nothing(fd);
        check(fake, fd, CALL_P("Get", "{\"key\":\"use_zero_pages\"}"), NULL,
              "{\"settings\":{\"use_zero_pages\":\"yes\"}}");
        close(fd);
}

/* A request may come in any pieces, and many in one. */
static void test_pieces(void **state)
{
        struct fake *fake = *state;
        int fd = client_open(fake);
        static const char call[] = CALL_P("Get", "{\"key\":\"use_zero_pages\"}");

        for (size_t i = 0; i < sizeof(call); i++) {
                expect_nothing(fd);
                client_send(fake, fd, call + i, 1);
        }
        expect(fake, fd, NULL, "{\"settings\":{\"use_zero_pages\":\"yes\"}}");
        close(fd);
}

static void test_pipeline(void **state)
{
        enum { REQUESTS = 1000 };
        struct fake *fake = *state;
        int fd = client_open(fake), other = client_open(fake);
        char *bytes = malloc(REQUESTS * 128), expected[64];
        size_t n = 0;

        for (int i = 0; i < REQUESTS; i++)
                n += (size_t)sprintf(bytes + n, CALL_P("Regions", "{\"pid\":%d}"), 100000 + i) + 1;
        for (size_t at = 0; at < n;) {
                ssize_t r = send(fd, bytes + at, n - at, MSG_NOSIGNAL);

                if (r > 0)
                        at += (size_t)r;
                ev_run(fake->loop, EVRUN_NOWAIT);
        }
        /* The long pipeline does not hold up another connection. */
        assert_int_equal(send(other, CALL("Get"), sizeof(CALL("Get")), MSG_NOSIGNAL), sizeof(CALL("Get")));
        for (int i = 0; i < 4; i++)
                ev_run(fake->loop, EVRUN_NOWAIT);
        expect(fake, other, NULL, NULL);
        for (int i = 0; i < REQUESTS; i++) {
                turn(fake);
                snprintf(expected, sizeof(expected), "{\"pid\":%d}", 100000 + i);
                expect(fake, fd, "io.wpd.Control.NoSuchClient", expected);
        }
        expect_nothing(fd);
        free(bytes);
        close(fd);
        close(other);
}

/* A peer that says all it has to say and then only listens gets all its answers, and the end after them. */
static void test_half_closed(void **state)
{
        struct fake *fake = *state;
        int fd = client_open(fake);
        static const char calls[] = CALL("Get") "\0" CALL("Status") "\0" CALL("Get") "\0{\"unfinished";

        assert_int_equal(send(fd, calls, sizeof(calls) - 1, 0), sizeof(calls) - 1);
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        turn(fake);
        for (int i = 0; i < 3; i++)
                expect(fake, fd, NULL, NULL);
        expect_end(fake, fd);
        close(fd);
}

/* The same when the answer is longer than what the socket holds. */
static void test_half_closed_long(void **state)
{
        struct fake *fake = *state;
        struct varlink_reply reply;
        int fd = client_open(fake);

        fake->extra_rows = 2000;
        assert_int_equal(send(fd, CALL("Regions"), sizeof(CALL("Regions")), 0), sizeof(CALL("Regions")));
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        turn(fake);
        reply = client_receive(fake, fd);
        assert_int_equal(json_array_size(json_object_get(reply.parameters, "regions")), 2002);
        varlink_reply_deinit(&reply);
        expect_end(fake, fd);
        close(fd);
}

static size_t count_replies(int fd)
{
        static char text[1 << 17];
        ssize_t n = recv(fd, text, sizeof(text), MSG_PEEK);
        size_t n_replies = 0;

        for (ssize_t i = 0; i < n; i++)
                n_replies += !text[i];
        return n_replies;
}

/* A turn of the loop answers one request of a connection, however many there are. */
static void test_turns(void **state)
{
        static const char calls[] = CALL("Get") "\0" CALL("Get") "\0" CALL("Get") "\0" CALL("Get");
        struct fake *fake = *state;
        int fd = client_open(fake);
        size_t before, now;

        assert_int_equal(send(fd, calls, sizeof(calls), 0), sizeof(calls));
        for (before = 0; before < 4; before = now) {
                ev_run(fake->loop, EVRUN_NOWAIT);
                now = count_replies(fd);
                assert_true(now <= before + 1);
        }
        close(fd);
}

/* A loop that may sleep does not as long as a request waits for its turn. */
static void test_sleep(void **state)
{
        static const char calls[] = CALL("Get") "\0" CALL("Get") "\0" CALL("Get") "\0" CALL("Get");
        struct fake *fake = *state;
        int fd = client_open(fake);

        assert_int_equal(send(fd, calls, sizeof(calls), 0), sizeof(calls));
        alarm(HANG_S);
        while (count_replies(fd) < 4)
                ev_run(fake->loop, EVRUN_ONCE);
        alarm(0);
        close(fd);
}

/* rights */

static bool is_root(void)
{
        return geteuid() == 0;
}

static void test_root(void **state)
{
        struct fake *fake = *state;
        int fd;

        if (!is_root())
                skip();
        fd = client_open(fake);
        check(fake, fd, CALL("Pause"), NULL, "{}");
        assert_true(fake->paused);
        check(fake, fd, CALL("Scan"), "io.wpd.Control.Busy", "{\"reason\":\"scanning is paused\"}");
        check(fake, fd, CALL("Resume"), NULL, "{}");
        assert_false(fake->paused);
        check(fake, fd, CALL("Scan"), NULL, "{}");
        assert_int_equal(fake->scan_pid, 0);
        check(fake, fd, CALL_P("Scan", "{\"pid\":4712,\"wait\":false}"), NULL, "{}");
        assert_int_equal(fake->scan_pid, 4712);
        assert_int_equal(fake->n_scans, 2);
        assert_int_equal(fake->n_waits, 0);
        check(fake, fd, CALL_P("Set", "{\"key\":\"sleep_millisecs\",\"value\":\"50\"}"), NULL, "{}");
        assert_string_equal(fake->value, "50");
        check(fake, fd, CALL_P("Set", "{\"key\":\"sleep_millisecs\",\"value\":\"fast\"}"),
              "io.wpd.Control.InvalidSetting",
              "{\"key\":\"sleep_millisecs\",\"reason\":\"it must be a number from 10 to 3600000\"}");
        check(fake, fd, CALL_P("Set", "{\"key\":\"nope\",\"value\":\"1\"}"), "io.wpd.Control.InvalidSetting",
              "{\"key\":\"nope\",\"reason\":\"there is no such setting\"}");
        assert_string_equal(fake->value, "50");
        client_call(fake, fd, "{\"method\":\"io.wpd.Control.Pause\",\"oneway\":true}");
        client_call(fake, fd, "{\"method\":\"io.wpd.Control.Resume\",\"oneway\":true}");
        client_call(fake, fd,
                    "{\"method\":\"io.wpd.Control.Scan\",\"parameters\":{\"wait\":true},\"oneway\":true}");
        expect_nothing(fd);
        assert_false(fake->paused);
        assert_int_equal(fake->n_scans, 3);
        assert_int_equal(fake->n_waits, 0);
        close(fd);
}

static unsigned count_addresses(struct fake *fake, int fd, const char *call, const char *key)
{
        struct varlink_reply reply = ask(fake, fd, call);
        const json_t *rows = json_object_get(reply.parameters, key);
        unsigned n = 0;

        assert_int_equal(json_array_size(rows), 2);
        for (size_t i = 0; i < json_array_size(rows); i++)
                n += json_object_get(json_array_get(rows, i), "address") != NULL;
        varlink_reply_deinit(&reply);
        return n;
}

static void test_other_user(void **state)
{
        struct fake *fake = *state;
        int fd;

        if (!is_root())
                skip();
        fd = client_open_as(fake, FAKE_UID);
        check(fake, fd, CALL("Status"), NULL, NULL);
        check(fake, fd, CALL("Clients"), NULL, NULL);
        check(fake, fd, CALL("Get"), NULL, NULL);
        check(fake, fd, CALL("Pause"), "io.wpd.Control.PermissionDenied", NULL);
        check(fake, fd, CALL("Resume"), "io.wpd.Control.PermissionDenied", NULL);
        check(fake, fd, CALL_P("Set", "{\"key\":\"sleep_millisecs\",\"value\":\"50\"}"),
              "io.wpd.Control.PermissionDenied", NULL);
        check(fake, fd, CALL("Scan"), "io.wpd.Control.PermissionDenied", NULL);
        check(fake, fd, CALL_P("Scan", "{\"wait\":true}"), "io.wpd.Control.PermissionDenied", NULL);
        check(fake, fd, CALL_P("Scan", "{\"pid\":4712}"), "io.wpd.Control.PermissionDenied", NULL);
        check(fake, fd, CALL_P("Scan", "{\"pid\":4710}"), "io.wpd.Control.NoSuchClient", "{\"pid\":4710}");
        client_call(fake, fd, "{\"method\":\"io.wpd.Control.Pause\",\"oneway\":true}");
        assert_int_equal(fake->n_scans, 0);
        assert_false(fake->paused);
        assert_string_equal(fake->value, "200");
        check(fake, fd, CALL_P("Sharers", "{\"pid\":4712,\"address\":1}"), "io.wpd.Control.PermissionDenied",
              NULL);
        check(fake, fd, CALL_P("Sharers", "{\"pid\":4711,\"address\":1}"), "io.wpd.Control.NoSuchPage", NULL);
        check(fake, fd, CALL_P("Scan", "{\"pid\":4711}"), NULL, "{}");
        assert_int_equal(fake->n_scans, 1);
        assert_int_equal(count_addresses(fake, fd, CALL("Regions"), "regions"), 1);
        assert_int_equal(count_addresses(fake, fd, CALL("Doctor"), "findings"), 1);
        close(fd);
        fd = client_open_as(fake, FAKE_UID - 2);
        check(fake, fd, CALL_P("Scan", "{\"pid\":4711}"), "io.wpd.Control.PermissionDenied", NULL);
        assert_int_equal(count_addresses(fake, fd, CALL("Regions"), "regions"), 0);
        assert_int_equal(count_addresses(fake, fd, CALL("Doctor"), "findings"), 0);
        close(fd);
        fd = client_open(fake);
        assert_int_equal(count_addresses(fake, fd, CALL("Regions"), "regions"), 2);
        assert_int_equal(count_addresses(fake, fd, CALL("Doctor"), "findings"), 2);
        close(fd);
}

/* waiting */

static void test_wait(void **state)
{
        struct fake *fake = *state;
        int fd, other;

        if (!is_root())
                skip();
        fd = client_open(fake);
        other = client_open(fake);
        client_call(fake, fd, CALL_P("Scan", "{\"wait\":true}"));
        client_call(fake, other, CALL_P("Scan", "{\"wait\":true,\"pid\":4711}"));
        assert_int_equal(fake->n_waits, 2);
        /* Later requests wait for their turn; other connections do not. */
        client_call(fake, fd, CALL("Pause"));
        client_call(fake, fd, CALL_P("Get", "{\"key\":\"use_zero_pages\"}"));
        expect_nothing(fd);
        expect_nothing(other);
        assert_false(fake->paused);
        fake_finish(fake);
        turn(fake);
        expect(fake, fd, NULL,
               "{\"pages_scanned\":262144,\"pages_merged\":65536,\"zero_pages\":65536,\"pages_failed\":15,"
               "\"seconds\":1.5}");
        expect(fake, fd, NULL, "{}");
        expect(fake, fd, NULL, "{\"settings\":{\"use_zero_pages\":\"yes\"}}");
        expect_nothing(other);
        fake->no_memory = true;
        fake_finish(fake);
        expect(fake, other, "io.wpd.Control.Busy", NULL);
        assert_int_equal(fake->n_cancelled, 0);
        close(fd);
        close(other);
}

static void test_wait_hang_up(void **state)
{
        struct fake *fake = *state;
        int fd, other;

        if (!is_root())
                skip();
        fd = client_open(fake);
        other = client_open(fake);
        client_call(fake, fd, CALL_P("Scan", "{\"wait\":true}"));
        client_call(fake, fd, CALL("Pause"));
        client_call(fake, other, CALL_P("Scan", "{\"wait\":true}"));
        close(fd);
        turn(fake);
        assert_int_equal(fake->n_cancelled, 1);
        assert_int_equal(fake->n_waits, 1);
        assert_false(fake->paused);
        fake_finish(fake);
        expect(fake, other, NULL, NULL);
        close(other);
}

#define SHARERS(_pid, _page) CALL_P("Sharers", "{\"pid\":" _pid ",\"address\":" _page "}")
#define SHARED_PAGE          "140733193392128" /* FAKE_ADDRESS */
#define MUCH_SHARED_PAGE     "140733193400320"

/* Who shares a page is told when it has been found out; a scan may be waited for meanwhile, elsewhere. */
static void test_wait_sharers(void **state)
{
        struct fake *fake = *state;
        int fd, other;

        if (!is_root())
                skip();
        fd = client_open(fake);
        other = client_open_as(fake, FAKE_UID);
        client_call(fake, fd, SHARERS("4711", SHARED_PAGE));
        assert_int_equal(fake->viewer, 0);
        client_call(fake, fd, CALL("Pause"));
        client_call(fake, other, SHARERS("4711", MUCH_SHARED_PAGE));
        assert_int_equal(fake->viewer, FAKE_UID);
        assert_int_equal(fake->n_waits, 2);
        expect_nothing(fd);
        expect_nothing(other);
        assert_false(fake->paused);
        fake_finish(fake);
        turn(fake);
        expect(fake, fd, NULL,
               "{\"state\":\"merged\",\"sharers\":["
               "{\"pid\":4711,\"address\":140733193392128,\"uid\":65534,\"client\":true},"
               "{\"pid\":4712,\"address\":4096,\"uid\":65533,\"client\":false}],"
               "\"complete\":true}");
        expect(fake, fd, NULL, "{}");
        assert_true(fake->paused);
        expect_nothing(other);
        fake->no_memory = true;
        fake_finish(fake);
        expect(fake, other, "io.wpd.Control.Busy", NULL);
        /* Nobody would read the reply. */
        client_call(fake, fd,
                    "{\"method\":\"io.wpd.Control.Sharers\",\"oneway\":true,"
                    "\"parameters\":{\"pid\":4711,\"address\":" SHARED_PAGE "}}");
        assert_int_equal(fake->n_waits, 0);
        assert_int_equal(fake->n_cancelled, 0);
        close(fd);
        close(other);
}

/* Each request is taken back for what it is, when the peer hangs up and when the server ends. */
static void test_wait_sharers_cancelled(void **state)
{
        struct fake *fake = *state;
        int fds[6];

        if (!is_root())
                skip();
        for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
                fds[i] = client_open(fake);
                client_call(fake, fds[i],
                            i % 2 ? CALL_P("Scan", "{\"wait\":true}") : SHARERS("4711", SHARED_PAGE));
        }
        assert_int_equal(fake->n_waits, ARRAY_SIZE(fds));
        for (unsigned i = 0; i < 4; i++) {
                close(fds[i]);
                turn(fake);
                assert_int_equal(fake->n_cancelled, i + 1);
        }
        fake->control = control_free(fake->control);
        assert_int_equal(fake->n_cancelled, ARRAY_SIZE(fds));
        for (unsigned i = 4; i < ARRAY_SIZE(fds); i++) {
                expect_end(fake, fds[i]);
                close(fds[i]);
        }
}

static void test_wait_busy(void **state)
{
        struct fake *fake = *state;
        int fd;

        if (!is_root())
                skip();
        fd = client_open(fake);
        fake->busy = true;
        check(fake, fd, SHARERS("4711", SHARED_PAGE), "io.wpd.Control.Busy",
              "{\"reason\":\"who shares it cannot be found out now\"}");
        check(fake, fd, CALL_P("Scan", "{\"wait\":true}"), "io.wpd.Control.Busy",
              "{\"reason\":\"a scan cannot be started now\"}");
        check(fake, fd, CALL_P("Scan", "{}"), NULL, "{}");
        assert_int_equal(fake->n_waits, 0);
        close(fd);
}

/* Closing the writing side alone takes the request back too, also when both come at once. */
static void test_wait_half_closed(void **state)
{
        struct fake *fake = *state;
        int fd;

        if (!is_root())
                skip();
        fd = client_open(fake);
        client_call(fake, fd, CALL_P("Scan", "{\"wait\":true}"));
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        expect_end(fake, fd);
        assert_int_equal(fake->n_cancelled, 1);
        close(fd);
        fd = client_open(fake);
        assert_int_equal(
                send(fd, CALL_P("Scan", "{\"wait\":true}"), sizeof(CALL_P("Scan", "{\"wait\":true}")), 0),
                sizeof(CALL_P("Scan", "{\"wait\":true}")));
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        expect_end(fake, fd);
        assert_int_equal(fake->n_waits, 0);
        close(fd);
}

/* The server ends while somebody waits: the request is taken back. */
static void test_wait_free(void **state)
{
        struct fake *fake = *state;
        int fd;

        if (!is_root())
                skip();
        fd = client_open(fake);
        client_call(fake, fd, CALL_P("Scan", "{\"wait\":true}"));
        client_call(fake, fd, CALL("Get"));
        fake->control = control_free(fake->control);
        assert_int_equal(fake->n_cancelled, 1);
        expect_end(fake, fd);
        close(fd);
}

/* Behind a waiting request there is room for a buffer full of others, not for more. */
static void test_wait_flood(void **state)
{
        struct fake *fake = *state;
        char *calls;
        int fd;

        if (!is_root())
                skip();
        calls = calloc(1, limits.max_message);
        fd = client_open(fake);
        client_call(fake, fd, CALL_P("Scan", "{\"wait\":true}"));
        memset(calls, ' ', limits.max_message);
        client_send(fake, fd, calls, limits.max_message);
        expect_nothing(fd);
        assert_int_equal(fake->n_waits, 1);
        client_send(fake, fd, "  ", 2);
        expect_end(fake, fd);
        assert_int_equal(fake->n_cancelled, 1);
        free(calls);
        close(fd);
}

/* misbehaviour */

static void test_garbage(void **state)
{
        static const struct {
                const char *bytes;
                size_t length;
        } cases[] = {
#define BYTES(_s) {_s, sizeof(_s) - 1}
                BYTES("\0"),
                BYTES("\0\0\0\0"),
                BYTES("GET / HTTP/1.1\r\n\r\n\0"),
                BYTES("{}\0"),
                BYTES("[]\0"),
                BYTES("{\"method\":1}\0"),
                BYTES("{\"method\":\"a.b\",\"oneway\":true,\"more\":true}\0"),
                BYTES("\xff\xfe\xfd\0"),
                BYTES("{\"method\":\"\xc3\x28\"}\0"),
                BYTES(CALL("Status") " {}\0"),
                BYTES(CALL("Status") "\n" CALL("Status") "\0"),
        };
        struct fake *fake = *state;
        int good = client_open(fake), fd;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                fd = client_open(fake);
                client_send(fake, fd, cases[i].bytes, cases[i].length);
                expect_end(fake, fd);
                close(fd);
                check(fake, good, CALL("Get"), NULL, NULL);
        }
        close(good);
}

static void test_random_garbage(void **state)
{
        static const char likely[] = "{}[]\":,.0x\\u\0metod";
        struct fake *fake = *state;
        unsigned seed = 1;
        char bytes[512];
        int good = client_open(fake), fd;

        for (int round = 0; round < 500; round++) {
                fd = client_open(fake);
                for (size_t i = 0; i < sizeof(bytes); i++) {
                        seed = seed * 1103515245 + 12345;
                        bytes[i] = round % 2 ? likely[(seed >> 16) % sizeof(likely)] : (char)(seed >> 16);
                }
                client_send(fake, fd, bytes, sizeof(bytes));
                close(fd);
                turn(fake);
        }
        check(fake, good, CALL("Get"), NULL, NULL);
        close(good);
}

/* The longest request fits; one byte more does not, whether its end comes or not. */
static void test_oversize(void **state)
{
        struct fake *fake = *state;
        size_t n = limits.max_message;
        char *bytes = malloc(n + 2);
        int fd = client_open(fake);

        memset(bytes, ' ', n + 2);
        memcpy(bytes, CALL("Get"), strlen(CALL("Get")));
        bytes[n] = '\0';
        client_send(fake, fd, bytes, n + 1);
        expect(fake, fd, NULL, NULL);
        bytes[n] = ' ';
        bytes[n + 1] = '\0';
        client_send(fake, fd, bytes, n + 2);
        expect_end(fake, fd);
        close(fd);
        fd = client_open(fake);
        client_send(fake, fd, bytes, n + 1);
        expect_end(fake, fd);
        close(fd);
        free(bytes);
}

/* Who asks and never reads is dropped once the bound is reached, and holds no one up. */
static void test_slow_reader(void **state)
{
        struct fake *fake = *state;
        int slow = client_open(fake), good = client_open(fake);
        size_t sent = 0;
        bool dropped = false;

        fake->extra_rows = 2000;
        for (int i = 0; i < 1000 && !dropped; i++) {
                dropped = send(slow, CALL("Regions"), sizeof(CALL("Regions")), MSG_NOSIGNAL) < 0;
                sent += !dropped;
                ev_run(fake->loop, EVRUN_NOWAIT);
                check(fake, good, CALL("Get"), NULL, NULL);
        }
        assert_true(dropped);
        assert_true(sent > 2);
        close(slow);
        close(good);
}

/* A peer that is gone when its answer is due. */
static void test_gone(void **state)
{
        struct fake *fake = *state;
        int good = client_open(fake), fd;

        fake->extra_rows = 2000;
        for (int i = 0; i < 20; i++) {
                fd = client_open(fake);
                for (int j = 0; j < 5; j++)
                        assert_true(send(fd, CALL("Regions"), sizeof(CALL("Regions")), MSG_NOSIGNAL) > 0);
                for (int j = 0; j < i % 4; j++)
                        ev_run(fake->loop, EVRUN_NOWAIT);
                close(fd);
                turn(fake);
        }
        check(fake, good, CALL("Get"), NULL, NULL);
        close(good);
}

/* Descriptors sent along are none of our business: they are closed. */
static void test_descriptors(void **state)
{
        struct fake *fake = *state;
        int fd = client_open(fake), pipes[2];
        union {
                char bytes[CMSG_SPACE(sizeof(int))];
                struct cmsghdr align;
        } control = {};
        static char call[] = CALL("Get");
        struct iovec iov = {call, sizeof(call)};
        struct msghdr message = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        unsigned n_fds;
        char byte;

        assert_int_equal(pipe(pipes), 0);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &pipes[1], sizeof(int));
        n_fds = count_fds();
        assert_int_equal(sendmsg(fd, &message, MSG_NOSIGNAL), sizeof(call));
        turn(fake);
        expect(fake, fd, NULL, NULL);
        assert_int_equal(count_fds(), n_fds);
        close(pipes[1]);
        assert_int_equal(read(pipes[0], &byte, 1), 0);
        close(pipes[0]);
        close(fd);
}

/* limits */

static void test_limit_together(void **state)
{
        struct fake *fake = *state;
        int fds[16];

        if (!is_root())
                skip();
        for (unsigned i = 0; i < limits.max_connections; i++) {
                fds[i] = client_open(fake);
                check(fake, fds[i], CALL("Get"), NULL, NULL);
        }
        for (int i = 0; i < 3; i++) {
                int fd = client_open(fake);

                expect(fake, fd, "io.wpd.Control.Busy", "{\"reason\":\"too many connections are open\"}");
                expect_end(fake, fd);
                close(fd);
        }
        close(fds[0]);
        turn(fake);
        fds[0] = client_open(fake);
        for (unsigned i = 0; i < limits.max_connections; i++) {
                check(fake, fds[i], CALL("Get"), NULL, NULL);
                close(fds[i]);
        }
}

static void test_limit_per_uid(void **state)
{
        struct fake *fake = *state;
        int fds[8], n = (int)limits.max_connections_per_uid, fd;

        if (!is_root())
                skip();
        for (int i = 0; i < n; i++) {
                fds[i] = client_open_as(fake, FAKE_UID);
                check(fake, fds[i], CALL("Get"), NULL, NULL);
        }
        fd = client_open_as(fake, FAKE_UID);
        expect(fake, fd, "io.wpd.Control.Busy",
               "{\"reason\":\"too many connections of this user are open\"}");
        expect_end(fake, fd);
        close(fd);
        fds[n] = client_open_as(fake, FAKE_UID - 1);
        check(fake, fds[n], CALL("Get"), NULL, NULL);
        fds[n + 1] = client_open(fake);
        check(fake, fds[n + 1], CALL("Get"), NULL, NULL);
        close(fds[0]);
        turn(fake);
        fds[0] = client_open_as(fake, FAKE_UID);
        for (int i = 0; i < n + 2; i++) {
                check(fake, fds[i], CALL("Get"), NULL, NULL);
                close(fds[i]);
        }
}

/* Only a listening stream socket is taken. */
static void test_wrong_socket(void **state)
{
        struct fake *fake = *state;
        struct control *control = (struct control *)fake;
        int pair[2], plain = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), pipes[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        assert_int_equal(pipe(pipes), 0);
        assert_int_equal(control_new(fake->loop, plain, &fake_ops, fake, &limits, "0", &control), -EINVAL);
        assert_int_equal(control_new(fake->loop, pair[0], &fake_ops, fake, &limits, "0", &control), -EINVAL);
        assert_int_equal(control_new(fake->loop, pipes[0], &fake_ops, fake, &limits, "0", &control),
                         -ENOTSOCK);
        assert_int_equal(control_new(fake->loop, -EBADF, &fake_ops, fake, &limits, "0", &control), -EBADF);
        assert_ptr_equal(control, fake);
        assert_null(control_free(NULL));
        close(plain);
        close(pair[0]);
        close(pair[1]);
        close(pipes[0]);
        close(pipes[1]);
}

#define TEST(_f) cmocka_unit_test_setup_teardown(_f, setup, teardown)

int main(void)
{
        static const struct CMUnitTest tests[] = {
                TEST(test_info),
                TEST(test_description),
                TEST(test_described_methods),
                TEST(test_documents),
                TEST(test_requests),
                TEST(test_no_memory),
                TEST(test_too_large),
                TEST(test_oneway),
                TEST(test_pieces),
                TEST(test_pipeline),
                TEST(test_half_closed),
                TEST(test_half_closed_long),
                TEST(test_turns),
                TEST(test_sleep),
                TEST(test_root),
                TEST(test_other_user),
                TEST(test_wait),
                TEST(test_wait_hang_up),
                TEST(test_wait_half_closed),
                TEST(test_wait_free),
                TEST(test_wait_sharers),
                TEST(test_wait_sharers_cancelled),
                TEST(test_wait_busy),
                TEST(test_wait_flood),
                TEST(test_garbage),
                TEST(test_random_garbage),
                TEST(test_oversize),
                TEST(test_slow_reader),
                TEST(test_gone),
                TEST(test_descriptors),
                TEST(test_limit_together),
                TEST(test_limit_per_uid),
                TEST(test_wrong_socket),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
