/* SPDX-License-Identifier: GPL-2.0-or-later */

/* wire_send() and wire_receive() over a real socket pair; no descriptor may be left behind in any case. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "libwp/wire.h"
#include "util/cleanup.h"

static char buffer[WIRE_MAX_MESSAGE];

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

struct pair {
        int end[2];
        unsigned n_fds; /* open in this process */
};

static int setup(void **state)
{
        struct pair *pair = malloc(sizeof(*pair));

        if (!pair || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair->end) < 0)
                return -1;
        pair->n_fds = count_fds();
        *state = pair;
        return 0;
}

/* Fails the test when it leaks. */
static int teardown(void **state)
{
        struct pair *pair = *state;
        unsigned n_fds = count_fds();
        int r = n_fds == pair->n_fds - (pair->end[0] < 0) ? 0 : -1;

        fd_close(pair->end[0]);
        fd_close(pair->end[1]);
        free(pair);
        return r;
}

/* Sends as a peer would that knows no rules. */
static void send_raw(int fd, const void *data, size_t size, unsigned n_fds)
{
        _Alignas(struct cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))] = {0};
        struct iovec iovec = {.iov_base = (void *)data, .iov_len = size};
        struct msghdr packet = {.msg_iov = &iovec, .msg_iovlen = 1};
        struct cmsghdr *cmsg = (struct cmsghdr *)control;

        assert_true(n_fds <= 16);
        if (n_fds > 0) {
                *cmsg = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
                                         .cmsg_type = SCM_RIGHTS,
                                         .cmsg_len = CMSG_LEN(n_fds * sizeof(int))};
                for (unsigned i = 0; i < n_fds; i++)
                        memcpy(CMSG_DATA(cmsg) + i * sizeof(int), &(int){STDERR_FILENO}, sizeof(int));
                packet.msg_control = control;
                packet.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        }
        assert_int_equal(sendmsg(fd, &packet, MSG_NOSIGNAL), size);
}

static void expect_failure(struct pair *pair, int error)
{
        int fds[WIRE_MAX_FDS] = {-7, -7, -7, -7, -7, -7, -7, -7};
        unsigned n_fds = 77;

        assert_int_equal(wire_receive(pair->end[1], buffer, fds, &n_fds, false), error);
        assert_int_equal(n_fds, 77);
        for (unsigned i = 0; i < WIRE_MAX_FDS; i++)
                assert_int_equal(fds[i], -7);
}

static void test_descriptors(void **state)
{
        struct pair *pair = *state;
        struct wire_hello hello = {.version = 3};
        int pipes[WIRE_MAX_FDS + 2];

        wire_init(&hello, WIRE_HELLO, sizeof(hello), 9);
        for (unsigned i = 0; i <= WIRE_MAX_FDS; i += 2)
                assert_int_equal(pipe2(pipes + i, O_CLOEXEC), 0);
        for (unsigned n = 0; n <= WIRE_MAX_FDS; n++) {
                int fds[WIRE_MAX_FDS];
                unsigned n_fds = 77;
                struct stat sent, received;

                assert_int_equal(wire_send(pair->end[0], &hello, pipes, n, false), 0);
                assert_int_equal(wire_receive(pair->end[1], buffer, fds, &n_fds, false), sizeof(hello));
                assert_memory_equal(buffer, &hello, sizeof(hello));
                assert_int_equal(n_fds, n);
                for (unsigned i = 0; i < n; i++) {
                        assert_int_equal(fcntl(fds[i], F_GETFD), FD_CLOEXEC);
                        assert_int_equal(fstat(fds[i], &received), 0);
                        assert_int_equal(fstat(pipes[i], &sent), 0);
                        assert_int_equal(received.st_ino, sent.st_ino);
                        close(fds[i]);
                }
        }
        assert_int_equal(wire_send(pair->end[0], &hello, pipes, WIRE_MAX_FDS + 1, false), -EINVAL);
        for (unsigned i = 0; i <= WIRE_MAX_FDS / 2 * 2 + 1; i++)
                assert_int_equal(close(pipes[i]), 0);
}

static void test_biggest(void **state)
{
        struct pair *pair = *state;
        static char sent[WIRE_MAX_MESSAGE];
        int fds[WIRE_MAX_FDS];
        unsigned n_fds;

        memset(sent, 0x5a, sizeof(sent));
        wire_init(sent, WIRE_RESULT, sizeof(sent), 1);
        assert_int_equal(wire_send(pair->end[0], sent, NULL, 0, true), 0);
        assert_int_equal(wire_receive(pair->end[1], buffer, fds, &n_fds, true), WIRE_MAX_MESSAGE);
        assert_memory_equal(buffer, sent, sizeof(sent));
}

static void test_oversized(void **state)
{
        struct pair *pair = *state;
        static char sent[WIRE_MAX_MESSAGE + 1];

        for (unsigned n_fds = 0; n_fds <= 6; n_fds += 3) {
                send_raw(pair->end[0], sent, sizeof(sent), n_fds);
                expect_failure(pair, -EBADMSG);
        }
        expect_failure(pair, -EAGAIN);
}

static void test_surplus_descriptors(void **state)
{
        struct pair *pair = *state;

        for (unsigned n_fds = WIRE_MAX_FDS + 1; n_fds <= 16; n_fds++) {
                send_raw(pair->end[0], "0123456789abcdef", 16, n_fds);
                expect_failure(pair, -EBADMSG);
        }
}

/* A limit of the receiver's own is not the peer's fault, and is told apart. */
static void test_no_room_for_descriptors(void **state)
{
        struct pair *pair = *state;
        struct rlimit old, tight;
        int fds[WIRE_MAX_FDS];
        unsigned n_fds;

        send_raw(pair->end[0], "0123456789abcdef", 16, 3);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
        tight = (struct rlimit){.rlim_cur = (rlim_t)MAX(pair->end[0], pair->end[1]) + 2,
                                .rlim_max = old.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
        assert_int_equal(wire_receive(pair->end[1], buffer, fds, &n_fds, false), -EMFILE);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
}

/* An empty packet looks like the end of the file; what came with it is closed all the same. */
static void test_empty_packet(void **state)
{
        struct pair *pair = *state;

        send_raw(pair->end[0], "", 0, 2);
        expect_failure(pair, 0);
}

static void test_end_of_file(void **state)
{
        struct pair *pair = *state;

        pair->end[0] = fd_close(pair->end[0]);
        expect_failure(pair, 0);
}

/* Would kill the test by SIGPIPE if it were raised; the kernel does so on stream sockets only. */
static void test_peer_is_gone(void **state)
{
        struct pair *pair = *state;
        struct wire_bye bye;
        int stream[2];

        wire_init(&bye, WIRE_BYE, sizeof(bye), 0);
        pair->end[0] = fd_close(pair->end[0]);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, stream), 0);
        close(stream[0]);
        for (int wait = 0; wait <= 1; wait++) {
                assert_int_equal(wire_send(pair->end[1], &bye, NULL, 0, wait), -EPIPE);
                assert_int_equal(wire_send(stream[1], &bye, NULL, 0, wait), -EPIPE);
        }
        close(stream[1]);
}

/* Who ends with something unread resets the connection, which the kernel reports before what was sent earlier. */
static void test_last_words(void **state)
{
        struct pair *pair = *state;
        int fds[WIRE_MAX_FDS];
        struct wire_bye bye;
        unsigned n_fds;

        wire_init(&bye, WIRE_BYE, sizeof(bye), 0);
        for (unsigned i = 0; i < 3; i++)
                assert_int_equal(wire_send(pair->end[0], &bye, NULL, 0, false), 0);
        assert_int_equal(wire_send(pair->end[1], &bye, NULL, 0, false), 0);
        pair->end[0] = fd_close(pair->end[0]);
        for (unsigned i = 0; i < 3; i++)
                assert_int_equal(wire_receive(pair->end[1], buffer, fds, &n_fds, i % 2), sizeof(bye));
        assert_int_equal(wire_receive(pair->end[1], buffer, fds, &n_fds, false), 0);
}

static void test_not_a_socket(void **state)
{
        struct wire_bye bye;
        int fds[WIRE_MAX_FDS];
        unsigned n_fds;

        wire_init(&bye, WIRE_BYE, sizeof(bye), 0);
        assert_int_equal(wire_send(-1, &bye, NULL, 0, true), -EBADF);
        assert_int_equal(wire_receive(-1, buffer, fds, &n_fds, true), -EBADF);
}

static unsigned fill(int fd)
{
        struct wire_bye bye;
        unsigned n = 0;
        int r;

        wire_init(&bye, WIRE_BYE, sizeof(bye), 0);
        while ((r = wire_send(fd, &bye, NULL, 0, false)) == 0)
                n++;
        assert_int_equal(r, -EAGAIN);
        assert_true(n > 0);
        return n;
}

static void test_full(void **state)
{
        struct pair *pair = *state;

        (void)fill(pair->end[0]);
        (void)fill(pair->end[1]);
}

static void nothing(int signal)
{
}

struct helper {
        struct pair *pair;
        pthread_t main;
        unsigned n_receive;
};

/* Interrupts the other thread's call again and again, then lets it come to its end. */
static void interrupt(pthread_t thread)
{
        for (unsigned i = 0; i < 20; i++) {
                pthread_kill(thread, SIGUSR1);
                nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        }
}

static void *drain_slowly(void *argument)
{
        struct helper *helper = argument;
        static char drained[WIRE_MAX_MESSAGE];
        int fds[WIRE_MAX_FDS];
        unsigned n_fds, n = 0;

        interrupt(helper->main);
        while (n < helper->n_receive && wire_receive(helper->pair->end[1], drained, fds, &n_fds, true) > 0)
                n++;
        helper->n_receive = n;
        return NULL;
}

static void *send_late(void *argument)
{
        struct helper *helper = argument;
        struct wire_bye bye;
        int r;

        interrupt(helper->main);
        wire_init(&bye, WIRE_BYE, sizeof(bye), 5);
        r = wire_send(helper->pair->end[0], &bye, NULL, 0, false);
        return r < 0 ? helper : NULL;
}

static void set_nonblocking(struct pair *pair, bool on)
{
        for (unsigned i = 0; i < 2; i++)
                assert_int_equal(fcntl(pair->end[i], F_SETFL, on ? O_NONBLOCK : 0), 0);
}

/* With `wait` both calls wait, through signals, and whatever O_NONBLOCK says. */
static void test_waiting(void **state)
{
        struct pair *pair = *state;
        struct helper helper = {.pair = pair, .main = pthread_self()};
        struct sigaction action = {.sa_handler = nothing};
        struct wire_bye bye;
        pthread_t thread;
        int fds[WIRE_MAX_FDS];
        unsigned n_fds, n;
        void *failed;

        assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
        wire_init(&bye, WIRE_BYE, sizeof(bye), 0);
        for (int nonblocking = 0; nonblocking <= 1; nonblocking++) {
                set_nonblocking(pair, nonblocking);
                n = fill(pair->end[0]) + 1;
                helper.n_receive = n;
                assert_int_equal(pthread_create(&thread, NULL, drain_slowly, &helper), 0);
                assert_int_equal(wire_send(pair->end[0], &bye, NULL, 0, true), 0);
                assert_int_equal(pthread_join(thread, NULL), 0);
                assert_int_equal(helper.n_receive, n);

                assert_int_equal(pthread_create(&thread, NULL, send_late, &helper), 0);
                assert_int_equal(wire_receive(pair->end[1], buffer, fds, &n_fds, true), sizeof(bye));
                assert_int_equal(pthread_join(thread, &failed), 0);
                assert_null(failed);
        }
}

#define TEST(_name) cmocka_unit_test_setup_teardown(_name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(test_descriptors),
                TEST(test_biggest),
                TEST(test_oversized),
                TEST(test_surplus_descriptors),
                TEST(test_no_room_for_descriptors),
                TEST(test_empty_packet),
                TEST(test_end_of_file),
                TEST(test_peer_is_gone),
                TEST(test_last_words),
                TEST(test_last_words),
                TEST(test_not_a_socket),
                TEST(test_full),
                TEST(test_waiting),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
