/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The service manager's side is played by the test: it passes descriptors, and reads and keeps what it is told. */

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
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process/notify.h"
#include "util/bits.h"
#include "util/cleanup.h"

enum {
        FIRST_FD = 3,
        MAX_PASSED = 16,
};

/* What a passed descriptor is. */
enum kind {
        KIND_NONE,
        KIND_SEQPACKET,
        KIND_STREAM,
        KIND_DATAGRAM,
        KIND_IDLE, /* a stream socket that does not listen */
        KIND_FILE,
        KIND_POOL,
};

static int make(enum kind kind)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int type = kind == KIND_SEQPACKET ? SOCK_SEQPACKET : kind == KIND_DATAGRAM ? SOCK_DGRAM : SOCK_STREAM;
        int fd;

        if (kind == KIND_FILE)
                return open("/dev/null", O_RDONLY);
        if (kind == KIND_POOL)
                return memfd_create("pool", 0);
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
        unsigned n_unknown; /* names that mean nothing */
        unsigned n_pools;
        struct {
                uid_t uid;
                int index;
        } pools[MAX_PASSED];
};

/* A child's warnings go to a file, where the names that it complained of are counted. */
static int catch_log(void)
{
        int fd = memfd_create("log", MFD_CLOEXEC);

        return fd >= 0 && dup2(fd, STDERR_FILENO) == STDERR_FILENO ? 0 : -1;
}

static unsigned count_unknown(void)
{
        static char text[65536];
        unsigned n = 0;

        if (pread(STDERR_FILENO, text, sizeof(text) - 1, 0) < 0)
                return UINT32_MAX;
        for (const char *at = text; (at = strstr(at, "means nothing here")); at++)
                n++;
        return n;
}

static void announce(int n, const char *names)
{
        char text[16];

        snprintf(text, sizeof(text), "%d", getpid());
        setenv("LISTEN_PID", text, 1);
        snprintf(text, sizeof(text), "%d", n);
        setenv("LISTEN_FDS", text, 1);
        setenv("LISTEN_FDNAMES", names, 1);
}

static bool expected_pools(const struct passing *passing, const struct notify_pools *pools)
{
        if (pools->n != (passing->result < 0 ? 0 : passing->n_pools))
                return false;
        for (unsigned i = 0; i < pools->n; i++)
                if (pools->pools[i].uid != passing->pools[i].uid ||
                    pools->pools[i].fd != FIRST_FD + passing->pools[i].index)
                        return false;
        return true;
}

static bool expected_fd(const struct passing *passing, int index)
{
        bool taken = index == passing->client || index == passing->control;
        int flags = fcntl(FIRST_FD + index, F_GETFD);

        for (unsigned i = 0; i < passing->n_pools; i++)
                taken |= index == passing->pools[i].index;
        return taken && !passing->result ? flags == FD_CLOEXEC : flags < 0;
}

/* In a child, because the descriptors have fixed numbers. Exit status 0: as expected. */
static int receive(const struct passing *passing)
{
        static struct notify_pools pools;
        int client = -1, control = -1, n = 0, r;

        for (int fd = FIRST_FD; fd < 64; fd++)
                close(fd);
        if (catch_log() < 0)
                return 9;
        close(FIRST_FD);
        for (; n < MAX_PASSED && passing->kinds[n] != KIND_NONE; n++)
                if (make(passing->kinds[n]) != FIRST_FD + n)
                        return 10;
        if (n > 0)
                announce(n, passing->names);

        r = notify_passed_fds(&client, &control, &pools);
        if (r != passing->result)
                return 11;
        if (getenv("LISTEN_FDS"))
                return 12;
        if (r == 0 && (client != (passing->client < 0 ? -EBADF : FIRST_FD + passing->client) ||
                       control != (passing->control < 0 ? -EBADF : FIRST_FD + passing->control)))
                return 13;
        if (r < 0 && (client != -1 || control != -1))
                return 14;
        for (int i = 0; i < n; i++)
                if (!expected_fd(passing, i))
                        return 15;
        if (!expected_pools(passing, &pools))
                return 16;
        return count_unknown() == passing->n_unknown ? 0 : 17;
}

static void check_passing(const struct passing *cases, size_t n_cases)
{
        for (size_t i = 0; i < n_cases; i++) {
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

static void test_listen(void **state)
{
        static const struct passing cases[] = {
                {"nothing", "", {KIND_NONE}, 0, -1, -1},
                {"both", "client:control", {KIND_SEQPACKET, KIND_STREAM}, 0, 0, 1},
                {"the other way round", "control:client", {KIND_STREAM, KIND_SEQPACKET}, 0, 1, 0},
                {"client only", "client", {KIND_SEQPACKET}, 0, 0, -1},
                {"control only", "control", {KIND_STREAM}, 0, -1, 0},
                {"a stranger", "other:client", {KIND_STREAM, KIND_SEQPACKET}, 0, 1, -1, .n_unknown = 1},
                {"swapped types", "client:control", {KIND_STREAM, KIND_SEQPACKET}, -EPROTOTYPE, -1, -1},
                {"client twice", "client:client", {KIND_SEQPACKET, KIND_SEQPACKET}, -EEXIST, -1, -1},
                {"not listening", "control", {KIND_IDLE}, -EPROTOTYPE, -1, -1},
                {"datagrams", "client", {KIND_DATAGRAM}, -EPROTOTYPE, -1, -1},
                {"no socket", "control:client", {KIND_FILE, KIND_SEQPACKET}, -EPROTOTYPE, -1, -1},
        };

        check_passing(cases, ARRAY_SIZE(cases));
}

static void test_pools(void **state)
{
        static const struct passing cases[] = {
                {"one pool", "pool-1000", {KIND_POOL}, 0, -1, -1, 0, 1, {{1000, 0}}},
                {"root's", "pool-0", {KIND_POOL}, 0, -1, -1, 0, 1, {{0, 0}}},
                {"the last uid", "pool-4294967295", {KIND_POOL}, 0, -1, -1, 0, 1, {{UINT32_MAX, 0}}},
                {"between sockets",
                 "pool-7:client:pool-0:control:pool-65534",
                 {KIND_POOL, KIND_SEQPACKET, KIND_POOL, KIND_STREAM, KIND_POOL},
                 0,
                 1,
                 3,
                 0,
                 3,
                 {{7, 0}, {0, 2}, {65534, 4}}},
                /* What they are, and whether there may be two, is for somebody else to judge. */
                {"no pool files",
                 "pool-1:pool-2:pool-3",
                 {KIND_FILE, KIND_IDLE, KIND_SEQPACKET},
                 0,
                 -1,
                 -1,
                 0,
                 3,
                 {{1, 0}, {2, 1}, {3, 2}}},
                {"one user's twice",
                 "pool-5:pool-5",
                 {KIND_POOL, KIND_POOL},
                 0,
                 -1,
                 -1,
                 0,
                 2,
                 {{5, 0}, {5, 1}}},
                {"names that are none",
                 "pool-:pool:pool-x:pool-1x:pool--1:pool-+1:pool- 1:pool-1 :pool-0x1:Pool-1:xpool-1:stored",
                 {KIND_POOL, KIND_POOL, KIND_POOL, KIND_POOL, KIND_POOL, KIND_POOL, KIND_POOL, KIND_POOL,
                  KIND_POOL, KIND_POOL, KIND_POOL, KIND_POOL},
                 0,
                 -1,
                 -1,
                 12},
                {"numbers that are no uid",
                 "pool-4294967296:pool-18446744073709551615:pool-18446744073709551616:pool-9",
                 {KIND_POOL, KIND_POOL, KIND_POOL, KIND_POOL},
                 0,
                 -1,
                 -1,
                 3,
                 1,
                 {{9, 3}}},
                {"strangers in between",
                 "pool-1:other:pool-2:unknown",
                 {KIND_POOL, KIND_POOL, KIND_POOL, KIND_STREAM},
                 0,
                 -1,
                 -1,
                 2,
                 2,
                 {{1, 0}, {2, 2}}},
        };

        check_passing(cases, ARRAY_SIZE(cases));
}

/* Then nothing is passed on, whether it came before or after what was wrong: no descriptor is left. */
static void test_pools_and_errors(void **state)
{
        static const struct passing cases[] = {
                {"swapped type",
                 "pool-1:client:pool-2:control",
                 {KIND_POOL, KIND_STREAM, KIND_POOL, KIND_STREAM},
                 -EPROTOTYPE,
                 -1,
                 -1},
                {"control twice",
                 "pool-1:control:pool-2:control:pool-3",
                 {KIND_POOL, KIND_STREAM, KIND_POOL, KIND_STREAM, KIND_POOL},
                 -EEXIST,
                 -1,
                 -1},
                {"a pool as a socket",
                 "pool-1:pool-2:client",
                 {KIND_POOL, KIND_POOL, KIND_POOL},
                 -EPROTOTYPE,
                 -1,
                 -1},
                {"a stranger, too",
                 "pool-1:other:client",
                 {KIND_POOL, KIND_POOL, KIND_POOL},
                 -EPROTOTYPE,
                 -1,
                 -1,
                 1},
        };

        check_passing(cases, ARRAY_SIZE(cases));
}

/* More than are kept: the first ones are, the others are closed. */
static int receive_many(void)
{
        enum { N = NOTIFY_MAX_POOLS + 2 };
        static struct notify_pools pools;
        static char names[16 * N];
        int client = -1, control = -1;
        size_t length = 0;

        for (int fd = FIRST_FD; fd < FIRST_FD + N; fd++)
                close(fd);
        for (int i = 0; i < N; i++) {
                if (make(KIND_FILE) != FIRST_FD + i)
                        return 10;
                length += (size_t)snprintf(names + length, sizeof(names) - length, "%spool-%d", i ? ":" : "",
                                           5000 + i);
        }
        announce(N, names);
        if (notify_passed_fds(&client, &control, &pools) != 0)
                return 11;
        if (pools.n != NOTIFY_MAX_POOLS)
                return 12;
        for (int i = 0; i < N; i++) {
                int flags = fcntl(FIRST_FD + i, F_GETFD);

                if (i < NOTIFY_MAX_POOLS ? flags != FD_CLOEXEC : flags >= 0)
                        return 13;
                if (i < NOTIFY_MAX_POOLS &&
                    (pools.pools[i].uid != 5000U + (unsigned)i || pools.pools[i].fd != FIRST_FD + i))
                        return 14;
        }
        return 0;
}

static void test_too_many_pools(void **state)
{
        struct rlimit limit;
        pid_t pid;
        int status;

        assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
        if (limit.rlim_max < NOTIFY_MAX_POOLS + 64) {
                print_message("not here: a process may have %lu descriptors\n",
                              (unsigned long)limit.rlim_max);
                skip();
        }
        fflush(NULL);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                limit.rlim_cur = MAX(limit.rlim_cur, (rlim_t)NOTIFY_MAX_POOLS + 64);
                _exit(setrlimit(RLIMIT_NOFILE, &limit) < 0 ? 9 : receive_many());
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

/* Without a manager there is nothing to be told, and nobody to fail. */
static void test_alone(void **state)
{
        static struct notify_pools pools;
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
        notify_store_pool(1000, STDOUT_FILENO);
        notify_forget_pool(1000);
        assert_int_equal(notify_watchdog_interval(), 0);
        pools.n = 77;
        assert_int_equal(notify_passed_fds(&client, &control, &pools), 0);
        assert_int_equal(client, -EBADF);
        assert_int_equal(control, -EBADF);
        assert_int_equal(pools.n, 0);
}

static void assert_told(int manager, const char *expected)
{
        char text[512];
        ssize_t length = recv(manager, text, sizeof(text) - 1, MSG_DONTWAIT);

        assert_in_range(length, 1, sizeof(text) - 1);
        text[length] = '\0';
        assert_memory_equal(text, expected, strlen(expected));
}

/* The manager's socket, which is announced until NOTIFY_SOCKET is unset. */
static int make_manager(void)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        socklen_t length = sizeof(address);
        char name[128];

        assert_int_equal(bind(manager, (struct sockaddr *)&address, sizeof(sa_family_t)), 0);
        assert_int_equal(getsockname(manager, (struct sockaddr *)&address, &length), 0);
        snprintf(name, sizeof(name), "@%.*s", (int)(length - sizeof(sa_family_t)) - 1, address.sun_path + 1);
        setenv("NOTIFY_SOCKET", name, 1);
        return manager;
}

static void test_messages(void **state)
{
        _cleanup_fd_ int manager = make_manager();
        char byte;

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

/* One whole message, and the descriptor that came with it, or -EBADF. */
static int receive_store(int manager, char *text, size_t size)
{
        _Alignas(struct cmsghdr) char control[CMSG_SPACE(4 * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
        struct iovec iovec = {.iov_base = text, .iov_len = size - 1};
        struct msghdr message = {.msg_iov = &iovec,
                                 .msg_iovlen = 1,
                                 .msg_control = control,
                                 .msg_controllen = sizeof(control)};
        ssize_t length = recvmsg(manager, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        int fd = -EBADF;

        assert_in_range(length, 1, size - 1);
        assert_int_equal(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC), 0);
        text[length] = '\0';
        for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message); cmsg; cmsg = CMSG_NXTHDR(&message, cmsg)) {
                if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
                        continue;
                assert_int_equal(cmsg->cmsg_len, CMSG_LEN(sizeof(int)));
                assert_int_equal(fd, -EBADF);
                memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
        }
        return fd;
}

/* What is kept is the descriptor that was meant, under a name by which the next daemon knows whose it is. */
static void test_store(void **state)
{
        static const uid_t uids[] = {0, 1, 1000, 65534, UINT32_MAX};
        _cleanup_fd_ int manager = make_manager();

        for (size_t i = 0; i < ARRAY_SIZE(uids); i++) {
                struct passing next = {"the next daemon", NULL, {KIND_POOL}, 0, -1, -1, 0, 1, {{uids[i], 0}}};
                _cleanup_fd_ int pool = memfd_create("pool", MFD_CLOEXEC), kept = -EBADF;
                char text[256], expected[256], name[64];
                struct stat sent, received;

                notify_store_pool(uids[i], pool);
                kept = receive_store(manager, text, sizeof(text));
                snprintf(expected, sizeof(expected), "FDSTORE=1\nFDNAME=pool-%u\nFDPOLL=0", uids[i]);
                assert_string_equal(text, expected);
                assert_true(kept >= 0);
                assert_int_equal(fstat(pool, &sent), 0);
                assert_int_equal(fstat(kept, &received), 0);
                assert_int_equal(sent.st_dev, received.st_dev);
                assert_int_equal(sent.st_ino, received.st_ino);
                assert_true(fcntl(pool, F_GETFD) >= 0); /* remains the caller's */

                assert_int_equal(sscanf(text, "FDSTORE=1\nFDNAME=%63s", name), 1);
                next.names = name;
                check_passing(&next, 1);

                notify_forget_pool(uids[i]);
                assert_int_equal(receive_store(manager, text, sizeof(text)), -EBADF);
                snprintf(expected, sizeof(expected), "FDSTOREREMOVE=1\nFDNAME=pool-%u", uids[i]);
                assert_string_equal(text, expected);
        }
        assert_int_equal(recv(manager, &(char){0}, 1, MSG_DONTWAIT), -1);
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
                cmocka_unit_test(test_pools),
                cmocka_unit_test(test_pools_and_errors),
                cmocka_unit_test(test_too_many_pools),
                cmocka_unit_test(test_alone),
                cmocka_unit_test(test_messages),
                cmocka_unit_test(test_store),
                cmocka_unit_test(test_watchdog),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
