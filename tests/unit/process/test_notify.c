/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The service manager's side is played by the test: it passes sockets and reads what it is told. */

#undef NDEBUG
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process/notify.h"
#include "util/bits.h"
#include "util/cleanup.h"

enum {
        FIRST_FD = 3,
        MAX_PASSED = 4,
};

/* What a passed descriptor is. */
enum kind {
        KIND_NONE,
        KIND_SEQPACKET,
        KIND_STREAM,
        KIND_DATAGRAM,
        KIND_IDLE, /* a stream socket that does not listen */
        KIND_FILE,
};

static int make(enum kind kind)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int type = kind == KIND_SEQPACKET ? SOCK_SEQPACKET : kind == KIND_DATAGRAM ? SOCK_DGRAM : SOCK_STREAM;
        int fd;

        if (kind == KIND_FILE)
                return open("/dev/null", O_RDONLY);
        fd = socket(AF_UNIX, type, 0);
        if (fd >= 0 && kind != KIND_IDLE) {
                if (bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t)) < 0)
                        return -1;
                if (kind != KIND_DATAGRAM && listen(fd, 1) < 0)
                        return -1;
        }
        return fd;
}

struct passing {
        const char *label;
        const char *names;
        enum kind kinds[MAX_PASSED];
        int result;
        int client; /* index, or -1 when none is expected */
        int control;
};

/* In a child, because the descriptors have fixed numbers. Exit status 0: as expected. */
static int receive(const struct passing *passing)
{
        char text[16];
        int client = -1, control = -1, n = 0, r;

        for (int fd = FIRST_FD; fd < 64; fd++)
                close(fd);
        for (; n < MAX_PASSED && passing->kinds[n] != KIND_NONE; n++)
                if (make(passing->kinds[n]) != FIRST_FD + n)
                        return 10;
        if (n > 0) {
                snprintf(text, sizeof(text), "%d", getpid());
                setenv("LISTEN_PID", text, 1);
                snprintf(text, sizeof(text), "%d", n);
                setenv("LISTEN_FDS", text, 1);
                setenv("LISTEN_FDNAMES", passing->names, 1);
        }

        r = notify_listen_fds(&client, &control);
        if (r != passing->result)
                return 11;
        if (getenv("LISTEN_FDS"))
                return 12;
        if (r == 0 && (client != (passing->client < 0 ? -EBADF : FIRST_FD + passing->client) ||
                       control != (passing->control < 0 ? -EBADF : FIRST_FD + passing->control)))
                return 13;
        if (r < 0 && (client != -1 || control != -1))
                return 14;
        for (int fd = FIRST_FD; fd < FIRST_FD + n; fd++) {
                bool taken = r == 0 && (fd == client || fd == control);

                if (taken ? fcntl(fd, F_GETFD) != FD_CLOEXEC : fcntl(fd, F_GETFD) >= 0)
                        return 15;
        }
        return 0;
}

static void test_listen(void **state)
{
        static const struct passing cases[] = {
                {"nothing", "", {KIND_NONE}, 0, -1, -1},
                {"both", "client:control", {KIND_SEQPACKET, KIND_STREAM}, 0, 0, 1},
                {"the other way round", "control:client", {KIND_STREAM, KIND_SEQPACKET}, 0, 1, 0},
                {"client only", "client", {KIND_SEQPACKET}, 0, 0, -1},
                {"control only", "control", {KIND_STREAM}, 0, -1, 0},
                {"a stranger", "other:client", {KIND_STREAM, KIND_SEQPACKET}, 0, 1, -1},
                {"swapped types", "client:control", {KIND_STREAM, KIND_SEQPACKET}, -EPROTOTYPE, -1, -1},
                {"client twice", "client:client", {KIND_SEQPACKET, KIND_SEQPACKET}, -EEXIST, -1, -1},
                {"not listening", "control", {KIND_IDLE}, -EPROTOTYPE, -1, -1},
                {"datagrams", "client", {KIND_DATAGRAM}, -EPROTOTYPE, -1, -1},
                {"no socket", "control:client", {KIND_FILE, KIND_SEQPACKET}, -EPROTOTYPE, -1, -1},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                pid_t pid;
                int status;

                fflush(NULL);
                pid = fork();
                assert_true(pid >= 0);
                if (pid == 0)
                        _exit(receive(&cases[i]));
                assert_int_equal(waitpid(pid, &status, 0), pid);
                if (status)
                        fail_msg("%s: wait status %#x", cases[i].label, (unsigned)status);
        }
}

/* Without a manager there is nothing to be told, and nobody to fail. */
static void test_alone(void **state)
{
        int client = -1, control = -1;

        unsetenv("NOTIFY_SOCKET");
        unsetenv("WATCHDOG_USEC");
        unsetenv("WATCHDOG_PID");
        unsetenv("LISTEN_FDS");
        unsetenv("LISTEN_PID");
        notify_ready();
        notify_reloading();
        notify_stopping();
        notify_status("%s", "nobody listens");
        notify_watchdog();
        assert_int_equal(notify_watchdog_interval(), 0);
        assert_int_equal(notify_listen_fds(&client, &control), 0);
        assert_int_equal(client, -EBADF);
        assert_int_equal(control, -EBADF);
}

static void assert_told(int manager, const char *expected)
{
        char text[512];
        ssize_t length = recv(manager, text, sizeof(text) - 1, MSG_DONTWAIT);

        assert_in_range(length, 1, sizeof(text) - 1);
        text[length] = '\0';
        assert_memory_equal(text, expected, strlen(expected));
}

static void test_messages(void **state)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        _cleanup_fd_ int manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        socklen_t length = sizeof(address);
        char name[128], byte;

        assert_int_equal(bind(manager, (struct sockaddr *)&address, sizeof(sa_family_t)), 0);
        assert_int_equal(getsockname(manager, (struct sockaddr *)&address, &length), 0);
        snprintf(name, sizeof(name), "@%.*s", (int)(length - sizeof(sa_family_t)) - 1, address.sun_path + 1);
        setenv("NOTIFY_SOCKET", name, 1);
        notify_ready();
        assert_told(manager, "READY=1");
        notify_reloading();
        assert_told(manager, "RELOADING=1\nMONOTONIC_USEC=");
        notify_watchdog();
        assert_told(manager, "WATCHDOG=1");
        notify_stopping();
        assert_told(manager, "STOPPING=1");
        notify_status("%d clients", 3);
        assert_told(manager, "STATUS=3 clients");
        /* Text from elsewhere cannot become another assignment. */
        notify_status("%s", "x\nMAINPID=1");
        assert_told(manager, "STATUS=x");
        notify_status("%s", "y");
        assert_told(manager, "STATUS=y");
        assert_int_equal(recv(manager, &byte, 1, MSG_DONTWAIT), -1);
        unsetenv("NOTIFY_SOCKET");
}

static void test_watchdog(void **state)
{
        char text[16];

        setenv("WATCHDOG_USEC", "30000000", 1);
        assert_int_equal(notify_watchdog_interval(), 15000000);
        snprintf(text, sizeof(text), "%d", getpid());
        setenv("WATCHDOG_PID", text, 1);
        assert_int_equal(notify_watchdog_interval(), 15000000);
        setenv("WATCHDOG_PID", "1", 1);
        assert_int_equal(notify_watchdog_interval(), 0);
        unsetenv("WATCHDOG_USEC");
        unsetenv("WATCHDOG_PID");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_listen),
                cmocka_unit_test(test_alone),
                cmocka_unit_test(test_messages),
                cmocka_unit_test(test_watchdog),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
