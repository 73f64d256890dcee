/* SPDX-License-Identifier: GPL-2.0-or-later */

/* wpctl as its users meet it: the program (first argument) against a server that has canned answers. */

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wchar.h>
#include <locale.h>

#include <cmocka.h>

#include "fake.h"
#include "util/bits.h"

#ifdef NDEBUG
#error "tests rely on assertions"
#endif

#define MAX_ARGS     8
#define OUTPUT_BYTES (1 << 20)
#define HANG_S       120
#define NO_EXEC      126
#define COLUMNS      100

static const char *wpctl;

struct outcome {
        int status; /* exit status, or minus the signal */
        char out[OUTPUT_BYTES];
        char err[OUTPUT_BYTES];
};

static struct outcome outcome;

struct run {
        const char *args; /* separated by blanks */
        const char *socket;
        const char *locale;
        uid_t uid;  /* 0: ours */
        int out_fd; /* 0: to outcome.out */
};

static int open_scratch(void)
{
        int fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        return fd;
}

static void slurp(int fd, char *text)
{
        ssize_t n = pread(fd, text, OUTPUT_BYTES - 1, 0);

        assert_true(n >= 0 && n < OUTPUT_BYTES - 1);
        text[n] = '\0';
        close(fd);
}

/* In the child: becomes wpctl. */
static void become(const struct run *run, int out, int err)
{
        char args[1024], socket[PATH_MAX], *argv[MAX_ARGS + 3] = {(char *)(uintptr_t)wpctl};
        int argc = 1;

        snprintf(args, sizeof(args), "%s", run->args);
        if (run->socket) {
                snprintf(socket, sizeof(socket), "--socket=%s", run->socket);
                argv[argc++] = socket;
        }
        for (char *arg = strtok(args, " "); arg && argc < MAX_ARGS + 2; arg = strtok(NULL, " "))
                argv[argc++] = arg;
        setenv("LC_ALL", run->locale ? run->locale : "C", 1);
        if (dup2(out, STDOUT_FILENO) < 0 || dup2(err, STDERR_FILENO) < 0)
                _exit(NO_EXEC);
        if (run->uid && setuid(run->uid) < 0)
                _exit(NO_EXEC);
        execv(wpctl, argv);
        _exit(NO_EXEC);
}

static pid_t start(const struct run *run, int out, int err)
{
        pid_t pid;

        fflush(NULL);
        pid = fork();
        assert_true(pid >= 0);
        if (!pid)
                become(run, out, err);
        return pid;
}

static void finish(pid_t pid, int out, int err)
{
        int status;

        assert_int_equal(waitpid(pid, &status, 0), pid);
        outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
        slurp(out, outcome.out);
        slurp(err, outcome.err);
}

static void run_wpctl(const struct run *run)
{
        int out = open_scratch(), err = open_scratch();

        finish(start(run, run->out_fd ? run->out_fd : out, err), out, err);
}

struct server {
        char path[PATH_MAX];
        pid_t pid;
        int stop_fd;
};

static struct server server_start(const struct fake *knobs)
{
        struct server server;

        assert_int_equal(fake_start(knobs, server.path, &server.pid, &server.stop_fd), 0);
        return server;
}

static void server_stop(struct server *server)
{
        assert_int_equal(fake_stop(server->pid, server->stop_fd), 0);
}

static const struct case_ {
        const char *args;
        int status;
        const char *out; /* part of it; NULL: nothing */
        const char *err;
} cases[] = {
        {"status", 0, "wpd 1.2.3, running, up 1d 02h", NULL},
        {"status", 0, "512.0 MiB  50.0% of registered", NULL},
        {"status", 0, "16.0 bytes per tracked page", NULL},
        {"status", 0, "74.00 us", NULL},
        {"status", 0, "9100.00 us", NULL},
        {"status", 0, "of files that equal pages stand for", NULL},
        {"clients", 0, "qemu-system-x86", NULL},
        {"regions", 0, "512.0 MiB", NULL},
        {"regions 4711", 0, "merge,notify,sole", NULL},
        {"regions 4710", 1, NULL, "wpctl: regions: process 4710 is not a client of wpd\n"},
        {"doctor", 0, "Process 4712: vma-budget\n", NULL},
        {"doctor 4712", 0, "Remedy: Call munlock(2) first", NULL},
        {"doctor 4713", 0, ", 4.0 KiB, 1 page: refused\n        It is not aligned.\n", NULL},
        {"doctor 4710", 1, NULL, "wpctl: doctor: process 4710 is not a client of wpd\n"},
        {"sharers 4711 0x7fff00001000", 0, "PID         ADDRESS  WHO\n4711  0x7fff00001000  client\n", NULL},
        {"sharers 4711 7FFF00001000", 0, "4712          0x1000  child\n", NULL},
        {"sharers 4711 0x7fff00003000", 0, "child\n\nThere may be more, who could not all be looked at.\n",
         NULL},
        {"sharers 4711 0x7fff00002000", 0, "shared with nobody: it is candidate", NULL},
        {"sharers 4711 0x7fff00004000", 0, "shared with nobody any more: it was written or discarded.\n",
         NULL},
        {"sharers 4711 0x0", 1, NULL, "wpctl: sharers: process 4711 has registered nothing there\n"},
        {"sharers 4710 0x0", 1, NULL, "wpctl: sharers: process 4710 is not a client of wpd\n"},
        {"sharers 4711", 2, NULL, "usage: wpctl"},
        {"sharers x 0x1", 2, NULL, "'x' is not a process id"},
        {"sharers 4711 xyz", 2, NULL, "'xyz' is not a hexadecimal address"},
        {"sharers 4711 0x", 2, NULL, "'0x' is not a hexadecimal address"},
        {"sharers 4711 0xffffffffffffffff", 2, NULL, "is not a hexadecimal address"},
        {"get", 0, "sleep_millisecs  200\n", NULL},
        {"get use_zero_pages", 0, "yes\n", NULL},
        {"get nope", 1, NULL, "wpctl: get: nope: there is no such setting\n"},
        {"status --json", 0, "\"pages_sharing\": 65536,", NULL},
        {"--version", 0, "wpctl ", NULL},
        {"--help", 0, "regions [PID]", NULL},
        {"", 2, NULL, "Usage: wpctl"},
        {"sing", 2, NULL, "there is no verb 'sing'"},
        {"--frobnicate status", 2, NULL, "frobnicate"},
        {"--socket", 2, NULL, "requires an argument"},
        {"status 1", 2, NULL, "usage: wpctl [--socket=PATH] [--json] status\n"},
        {"status --wait", 2, NULL, "--wait is for scan only"},
        {"regions 0", 2, NULL, "'0' is not a process id"},
        {"regions -- -1", 2, NULL, "'-1' is not a process id"},
        {"regions 1x", 2, NULL, "'1x' is not a process id"},
        {"regions +1", 2, NULL, "'+1' is not a process id"},
        {"regions 2147483648", 2, NULL, "'2147483648' is not a process id"},
        {"regions 99999999999999999999999", 2, NULL, "is not a process id"},
        {"regions 1 2", 2, NULL, "usage: wpctl"},
        {"get a b", 2, NULL, "usage: wpctl"},
        {"get a\xff", 2, NULL, "not valid UTF-8"},
        {"set", 2, NULL, "set KEY=VALUE"},
        {"set key", 2, NULL, "'key' is not KEY=VALUE"},
        {"set =value", 2, NULL, "'=value' is not KEY=VALUE"},
        {"set a=\xff", 2, NULL, "not valid UTF-8"},
        {"pause now", 2, NULL, "usage: wpctl"},
};

static void check(const char *args, const char *socket, int status, const char *out, const char *err)
{
        run_wpctl(&(struct run){.args = args, .socket = socket});
        assert_int_equal(outcome.status, status);
        if (!strstr(outcome.out, out ? out : ""))
                fail_msg("wpctl %s does not say \"%s\", but: %s", args, out, outcome.out);
        assert_non_null(strstr(outcome.err, err ? err : ""));
        assert_int_equal(!*outcome.out, !out);
        assert_int_equal(!*outcome.err, !err);
}

static void test_cases(void **state)
{
        struct server server = server_start(&(struct fake){.finish = true});

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                check(cases[i].args, server.path, cases[i].status, cases[i].out, cases[i].err);
        server_stop(&server);
}

static void test_changes(void **state)
{
        struct server server;

        if (geteuid())
                skip();
        server = server_start(&(struct fake){.finish = true});
        check("scan", server.path, 0, "has been started", NULL);
        check("scan 4711", server.path, 0, "has been started", NULL);
        check("scan --wait", server.path, 0, "A full pass is over: 262144 pages scanned, 65536 merged", NULL);
        check("scan --wait 4712", server.path, 0, "A full pass is over", NULL);
        check("scan --wait 4710", server.path, 1, NULL, "4710 is not a client");
        check("regions", server.path, 0, "0x7fff00002000", NULL);
        check("doctor", server.path, 0,
              "Process 4711, region 1, at 0x7fff00000000, 8.0 KiB, 2 pages: locked\n", NULL);
        check("pause", server.path, 0, "paused", NULL);
        check("scan --wait", server.path, 1, NULL, "wpctl: scan: refused: scanning is paused\n");
        check("status", server.path, 0, "wpd 1.2.3, paused", NULL);
        check("resume", server.path, 0, "goes on", NULL);
        check("set sleep_millisecs=77", server.path, 0, NULL, NULL);
        check("get sleep_millisecs", server.path, 0, "77\n", NULL);
        check("set sleep_millisecs=a=b", server.path, 1, NULL, "sleep_millisecs: it must be a number");
        check("set sleep_millisecs=", server.path, 1, NULL, "sleep_millisecs: it must be a number");
        check("set x=1", server.path, 1, NULL, "wpctl: set: x: there is no such setting\n");
        server_stop(&server);
}

static void test_doctor_healthy(void **state)
{
        struct server server = server_start(&(struct fake){.healthy = true});

        check("doctor", server.path, 0, "All is well", NULL);
        check("doctor 4711", server.path, 0,
              "All is well: nothing keeps the registered memory of this process", NULL);
        server_stop(&server);
}

static void test_refusals(void **state)
{
        struct server server = server_start(&(struct fake){.no_memory = true});

        check("status", server.path, 1, NULL, "wpctl: status: refused: wpd is short of memory\n");
        server_stop(&server);
        server = server_start(&(struct fake){.extra_rows = 10000});
        check("regions", server.path, 1, NULL, "ask for one client");
        server_stop(&server);
}

/* An ordinary user may look and not touch. */
static void test_ordinary_user(void **state)
{
        struct server server;

        if (geteuid())
                skip();
        server = server_start(&(struct fake){});
        run_wpctl(&(struct run){.args = "pause", .socket = server.path, .uid = FAKE_UID});
        if (outcome.status == NO_EXEC) {
                server_stop(&server);
                skip();
        }
        assert_int_equal(outcome.status, 1);
        assert_string_equal(outcome.err,
                            "wpctl: pause: permission denied: only root may pause and resume scanning\n");
        run_wpctl(&(struct run){.args = "scan 4712", .socket = server.path, .uid = FAKE_UID});
        assert_int_equal(outcome.status, 1);
        run_wpctl(&(struct run){.args = "scan 4711", .socket = server.path, .uid = FAKE_UID});
        assert_int_equal(outcome.status, 0);
        run_wpctl(&(struct run){.args = "status", .socket = server.path, .uid = FAKE_UID});
        assert_int_equal(outcome.status, 0);
        run_wpctl(&(struct run){.args = "regions", .socket = server.path, .uid = FAKE_UID});
        assert_non_null(strstr(outcome.out, "0x7fff00001000"));
        assert_null(strstr(outcome.out, "0x7fff00002000"));
        server_stop(&server);
}

/* No line is too wide, nothing steers the terminal, nothing is beyond ASCII where the locale has no more. */
static void expect_presentable(const char *text, bool utf8)
{
        wchar_t wide[OUTPUT_BYTES / 64];
        size_t width = 0, n;

        n = mbstowcs(wide, text, ARRAY_SIZE(wide));
        assert_true(n < ARRAY_SIZE(wide));
        for (size_t i = 0; i < n; i++) {
                width = wide[i] == L'\n' ? 0 : width + (size_t)wcwidth(wide[i]);
                assert_true(width <= COLUMNS);
                assert_true(wide[i] == L'\n' || wcwidth(wide[i]) > 0);
                assert_true(utf8 || wide[i] < 0x80);
        }
        assert_true(!n || wide[n - 1] == L'\n');
}

static void test_presentable(void **state)
{
        static const char *const verbs[] = {"status", "clients", "regions", "doctor", "get", "--help"};
        struct fake knobs = {};
        struct server server;

        if (!setlocale(LC_CTYPE, "C.UTF-8"))
                skip();
        for (int nasty = 0; nasty < 2; nasty++) {
                knobs.nasty = nasty;
                server = server_start(&knobs);
                for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
                        for (int utf8 = 0; utf8 < 2; utf8++) {
                                run_wpctl(&(struct run){.args = verbs[i],
                                                        .socket = server.path,
                                                        .locale = utf8 ? "C.UTF-8" : "C"});
                                assert_int_equal(outcome.status, 0);
                                assert_string_equal(outcome.err, "");
                                expect_presentable(outcome.out, utf8);
                        }
                server_stop(&server);
        }
        run_wpctl(&(struct run){.args = "sing", .locale = "C.UTF-8"});
        expect_presentable(outcome.err, true);
}

static void test_json(void **state)
{
        static const struct {
                const char *args, *key;
        } verbs[] = {
                {"--json status", "cpu_seconds"},   {"--json clients", "clients"},
                {"--json regions 4711", "regions"}, {"doctor --json", "findings"},
                {"get --json", "settings"},         {"get --json use_zero_pages", "settings"},
        };
        struct server server = server_start(&(struct fake){.nasty = true});
        json_t *document;

        for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
                for (int utf8 = 0; utf8 < 2; utf8++) {
                        run_wpctl(&(struct run){.args = verbs[i].args,
                                                .socket = server.path,
                                                .locale = utf8 ? "C.UTF-8" : "C"});
                        assert_int_equal(outcome.status, 0);
                        assert_string_equal(outcome.err, "");
                        document = json_loads(outcome.out, JSON_REJECT_DUPLICATES, NULL);
                        assert_non_null(document);
                        assert_non_null(json_object_get(document, verbs[i].key));
                        json_decref(document);
                        for (const char *at = outcome.out; *at; at++)
                                assert_true(utf8 || (unsigned char)*at < 0x80);
                }
        check("--json regions 4710", server.path, 1, NULL, "not a client");
        server_stop(&server);
}

static void test_output_errors(void **state)
{
        struct server server = server_start(&(struct fake){.extra_rows = 2000});
        int full = open("/dev/full", O_WRONLY | O_CLOEXEC), pipes[2];

        assert_true(full >= 0);
        assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
        close(pipes[0]);
        for (int json = 0; json < 2; json++) {
                run_wpctl(&(struct run){.args = json ? "regions --json" : "regions",
                                        .socket = server.path,
                                        .out_fd = pipes[1]});
                assert_int_equal(outcome.status, -SIGPIPE);
                assert_string_equal(outcome.err, "");
                run_wpctl(&(struct run){
                        .args = json ? "regions --json" : "regions", .socket = server.path, .out_fd = full});
                assert_int_equal(outcome.status, 1);
                assert_string_equal(outcome.err, "wpctl: the output could not be written\n");
        }
        close(pipes[1]);
        close(full);
        server_stop(&server);
}

/* A server that says this to whoever comes and hangs up; it ends with the test. */
static pid_t start_rude_server(const char *path, const char *bytes, size_t length)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), peer;
        char request[256];
        pid_t pid;

        strcpy(address.sun_path, path);
        assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
        assert_int_equal(listen(fd, 8), 0);
        fflush(NULL);
        pid = fork();
        assert_true(pid >= 0);
        if (!pid) {
                peer = accept(fd, NULL, NULL);
                _exit(peer < 0 || read(peer, request, sizeof(request)) <= 0 ||
                      write(peer, bytes, length) != (ssize_t)length);
        }
        close(fd);
        return pid;
}

static void test_unreachable(void **state)
{
        static const struct {
                const char *bytes;
                size_t length;
                const char *err;
        } rude[] = {
                {"", 0, "the daemon hung up"}, {"{\"parameters\":{}", 16, "the daemon hung up"},
                {"\0", 1, "is not wpd"},       {"HTTP/1.1 400 Bad Request\r\n\r\n", 29, "is not wpd"},
                {"[]", 3, "is not wpd"},
        };
        char directory[] = "/tmp/wpd-test-XXXXXX", path[PATH_MAX], name[201];
        int status, fd;
        pid_t pid;

        assert_non_null(mkdtemp(directory));
        snprintf(path, sizeof(path), "%s/none.sock", directory);
        check("status", path, 3, NULL, "No such file or directory");
        fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        close(fd);
        check("status", path, 3, NULL, "cannot reach the daemon at ");
        unlink(path);
        for (size_t i = 0; i < ARRAY_SIZE(rude); i++) {
                pid = start_rude_server(path, rude[i].bytes, rude[i].length);
                check("status", path, 3, NULL, rude[i].err);
                assert_int_equal(waitpid(pid, &status, 0), pid);
                assert_int_equal(status, 0);
                unlink(path);
        }
        memset(name, 'x', 200);
        name[200] = '\0';
        check("status", name, 3, NULL, "File name too long");
        rmdir(directory);
}

/* The daemon ends while somebody waits for a scan. */
static void test_wait_hang_up(void **state)
{
        struct run run = {.args = "scan --wait"};
        int out = open_scratch(), err = open_scratch(), fd;
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        static const char call[] = "{\"method\":\"io.wpd.Control.Status\"}";
        struct server server;
        char byte;
        pid_t pid;

        if (geteuid()) {
                close(out);
                close(err);
                skip();
        }
        server = server_start(&(struct fake){});
        run.socket = server.path;
        pid = start(&run, out, err);
        /* One answer of the server to us, so that it has run; wpctl may be before or after its call by now.
         */
        strcpy(address.sun_path, server.path);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
        assert_int_equal(send(fd, call, sizeof(call), MSG_NOSIGNAL), sizeof(call));
        assert_int_equal(recv(fd, &byte, 1, 0), 1);
        server_stop(&server);
        close(fd);
        finish(pid, out, err);
        assert_int_equal(outcome.status, 3);
        assert_string_equal(outcome.out, "");
        assert_non_null(strstr(outcome.err, "wpctl: scan: "));
}

static void test_too_many(void **state)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        static const char call[] = "{\"method\":\"io.wpd.Control.Get\"}";
        struct server server;
        int fds[8];
        char byte;

        if (geteuid())
                skip();
        server = server_start(&(struct fake){});
        strcpy(address.sun_path, server.path);
        for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
                fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
                assert_int_equal(connect(fds[i], (struct sockaddr *)&address, sizeof(address)), 0);
                assert_int_equal(send(fds[i], call, sizeof(call), MSG_NOSIGNAL), sizeof(call));
                assert_int_equal(recv(fds[i], &byte, 1, 0), 1);
        }
        check("status", server.path, 1, NULL, "wpctl: status: refused: too many connections are open\n");
        for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
                close(fds[i]);
        server_stop(&server);
}

int main(int argc, char **argv)
{
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_cases),          cmocka_unit_test(test_changes),
                cmocka_unit_test(test_doctor_healthy), cmocka_unit_test(test_refusals),
                cmocka_unit_test(test_ordinary_user),  cmocka_unit_test(test_presentable),
                cmocka_unit_test(test_json),           cmocka_unit_test(test_output_errors),
                cmocka_unit_test(test_unreachable),    cmocka_unit_test(test_wait_hang_up),
                cmocka_unit_test(test_too_many),
        };

        if (argc != 2) {
                fprintf(stderr, "usage: %s WPCTL\n", argv[0]);
                return 2;
        }
        wpctl = argv[1];
        alarm(HANG_S);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
