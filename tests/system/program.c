/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Client programs, and their areas. */

#include "system/program.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/cleanup.h"

#define EVENT_MILLISECS 30000 /* a hang guard */

struct request {
        program_function function;
        long arguments[3];
};

/* ------------------------------------------------------------------ the test's side */

/* A child inherits the test's ends of the other clients' sockets, which it must not keep open. */
static void close_inherited(int keep)
{
        for (int fd = STDERR_FILENO + 1; fd < 1024; fd++)
                if (fd != keep)
                        close(fd);
}

__attribute__((__noreturn__)) static void serve(struct program *program)
{
        struct request request;

        while (recv(program->socket, &request, sizeof(request), 0) == (ssize_t)sizeof(request)) {
                long result = request.function(program, request.arguments[0], request.arguments[1],
                                               request.arguments[2]);

                CHECK(send(program->socket, &result, sizeof(result), MSG_NOSIGNAL) == (ssize_t)sizeof(result),
                      "%m");
        }
        _exit(EXIT_SUCCESS);
}

static void make_pair(int pair[2])
{
        CHECK_OK(error_from(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)));
}

void client_start(struct client *client, uid_t uid)
{
        struct program program = {.fd = -EBADF, .child_socket = -EBADF};
        pid_t parent = getpid();
        int pair[2];

        make_pair(pair);
        client->pid = fork();
        CHECK(client->pid >= 0, "%m");
        if (!client->pid) {
                close_inherited(pair[1]);
                harness_become(uid, parent);
                program.socket = pair[1];
                serve(&program);
        }
        close(pair[1]);
        client->socket = pair[0];
}

static long set_name(struct program *program, long a, long b, long c)
{
        program->name = a;
        return 0;
}

void client_name(struct client *client, long name)
{
        client_do(client, set_name, name, 0, 0);
}

void client_begin(const struct client *client, program_function function, long a, long b, long c)
{
        struct request request = {.function = function, .arguments = {a, b, c}};

        CHECK(send(client->socket, &request, sizeof(request), MSG_NOSIGNAL) == (ssize_t)sizeof(request),
              "client %d is gone", client->pid);
}

long client_finish(const struct client *client)
{
        long result;

        CHECK(recv(client->socket, &result, sizeof(result), 0) == (ssize_t)sizeof(result),
              "client %d is gone", client->pid);
        return result;
}

long client_do(const struct client *client, program_function function, long a, long b, long c)
{
        client_begin(client, function, a, b, c);
        return client_finish(client);
}

void client_stop(struct client *client)
{
        int status;

        client->socket = fd_close(client->socket);
        status = harness_reap(client->pid);
        CHECK(WIFEXITED(status) && !WEXITSTATUS(status), "client %d ended with status %#x", client->pid,
              (unsigned)status);
}

void client_kill(struct client *client)
{
        client->socket = fd_close(client->socket);
        kill(client->pid, SIGKILL);
        harness_reap(client->pid);
}

/* ------------------------------------------------------------------ memory */

static uint64_t mix(uint64_t value)
{
        value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
        return value ^ value >> 31;
}

void program_fill_page(void *page, uint64_t content)
{
        uint64_t *words = page;

        for (size_t i = 0; i < PAGE_BYTES / sizeof(*words); i++)
                words[i] = content == PAGE_OF_ZEROS ? 0 : mix(mix(content) + i);
}

static char *map(size_t n_pages)
{
        char *memory =
                mmap(NULL, n_pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        CHECK(memory != MAP_FAILED, "%m");
        return memory;
}

long program_map(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];
        page_content content = (page_content)c;

        *area = (struct area){.memory = map((size_t)b), .shadow = map((size_t)b), .n_pages = (size_t)b};
        for (size_t page = 0; page < area->n_pages; page++)
                program_fill_page(area->shadow + page * PAGE_BYTES, content(program->name, page));
        memcpy(area->memory, area->shadow, area->n_pages * PAGE_BYTES);
        return 0;
}

long program_unmap(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];

        munmap(area->memory, area->n_pages * PAGE_BYTES);
        munmap(area->shadow, area->n_pages * PAGE_BYTES);
        *area = (struct area){.memory = NULL};
        return 0;
}

void program_check_area(const struct area *area, const char *when)
{
        for (size_t page = 0; page < area->n_pages; page++) {
                const char *seen = area->memory + page * PAGE_BYTES,
                           *expected = area->shadow + page * PAGE_BYTES;
                size_t at = 0;

                if (!memcmp(seen, expected, PAGE_BYTES))
                        continue;
                while (seen[at] == expected[at])
                        at++;
                CHECK(false, "%s: page %zu is wrong from byte %zu on: %#x instead of %#x", when, page, at,
                      (unsigned char)seen[at], (unsigned char)expected[at]);
        }
}

long program_verify(struct program *program, long a, long b, long c)
{
        program_check_area(&program->areas[a], "verify");
        return 0;
}

char program_next_byte(struct area *area, size_t offset)
{
        return area->shadow[offset] = (char)(area->shadow[offset] + 1);
}

long program_store(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];

        *(volatile char *)(area->memory + b) = program_next_byte(area, (size_t)b);
        return 0;
}

long program_discard(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];
        size_t start = (size_t)b * PAGE_BYTES, bytes = (size_t)c * PAGE_BYTES;

        memset(area->shadow + start, 0, bytes);
        return error_from(madvise(area->memory + start, bytes, MADV_DONTNEED));
}

/* ------------------------------------------------------------------ libwp */

long program_connect(struct program *program, long a, long b, long c)
{
        program->before = (struct program_belongings){.n_fds = harness_count_fds(getpid()),
                                                      .n_threads = harness_count_threads(getpid())};
        return wp_connect((const char *)a, &program->wp);
}

long program_disconnect(struct program *program, long a, long b, long c)
{
        size_t n_fds = program->before.n_fds, n_threads = program->before.n_threads;

        program->wp = wp_disconnect(program->wp);
        CHECK(!program->wp, "wp_disconnect() does not return NULL");
        if (a)
                return 0;
        CHECK_SOON(harness_count_threads(getpid()) == n_threads, "the library left a thread");
        CHECK_SOON(harness_count_fds(getpid()) == n_fds,
                   "%zu descriptors instead of %zu after wp_disconnect()", harness_count_fds(getpid()),
                   n_fds);
        return 0;
}

long program_register(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];

        return wp_register(program->wp, area->memory, area->n_pages * PAGE_BYTES, (uint64_t)b, &area->region);
}

long program_unregister(struct program *program, long a, long b, long c)
{
        long r = wp_unregister(program->areas[a].region);

        if (r >= 0)
                program->areas[a].region = NULL;
        return r;
}

long program_exclude(struct program *program, long a, long b, long c)
{
        return wp_exclude(program->areas[a].region, (size_t)b * PAGE_BYTES, (size_t)c * PAGE_BYTES);
}

long program_include(struct program *program, long a, long b, long c)
{
        return wp_include(program->areas[a].region, (size_t)b * PAGE_BYTES, (size_t)c * PAGE_BYTES);
}

long program_stat(struct program *program, long a, long b, long c)
{
        struct wp_region_stat stat;
        int r = wp_region_stat(program->areas[a].region, &stat);
        uint64_t value;

        if (r < 0)
                return r; /* -ENOTCONN: the library has not heard yet that a new daemon knows the region */
        memcpy(&value, (const char *)&stat + b, sizeof(value));
        return (long)value;
}

long program_use(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];

        for (long page = b; page + 3 < (long)area->n_pages; page += 16) {
                program_store(program, a, page * PAGE_BYTES + 4000, 0);
                CHECK_OK(program_discard(program, a, page + 1, 1));
                CHECK_OK(program_discard(program, a, page + 2, 1));
                program_store(program, a, (page + 2) * PAGE_BYTES + 4000, 0);
                program_check_area(area, "in use");
        }
        return 0;
}

long program_use_forks(struct program *program, long a, long b, long c)
{
        for (long i = 0; i < 4; i++) {
                pid_t child = fork();

                CHECK(child >= 0, "%m");
                if (!child) {
                        program_check_area(&program->areas[a], "child");
                        program_use(program, a, b + i, 0);
                        if (c)
                                program_use_forks(program, a, b, c - 1);
                        _exit(0);
                }
                CHECK(harness_reap(child) == 0, "the child failed");
                program_check_area(&program->areas[a], "parent");
        }
        return 0;
}

long program_wait_event(struct program *program, long a, long b, long c)
{
        struct pollfd pollfd = {.fd = wp_event_fd(program->wp), .events = POLLIN};

        while (!CHECK_OK(wp_next_event(program->wp, &program->event)))
                CHECK(poll(&pollfd, 1, EVENT_MILLISECS) == 1 && pollfd.revents == POLLIN, "no event came");
        return (long)program->event.type;
}

long program_await_event(struct program *program, long a, long b, long c)
{
        while (program_wait_event(program, 0, 0, 0) != a)
                CHECK(program->event.type == WP_EVENT_WRITE || program->event.type == WP_EVENT_OVERRUN,
                      "event %u", program->event.type);
        return 0;
}

long program_drain_events(struct program *program, long a, long b, long c)
{
        long n = 0;

        while (CHECK_OK(wp_next_event(program->wp, &program->event)))
                n++;
        return n;
}

/* ------------------------------------------------------------------ forked programs */

static void send_fd(int socket, int fd)
{
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int))];
        } control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)),
                                .cmsg_level = SOL_SOCKET,
                                .cmsg_type = SCM_RIGHTS}};
        char byte = 0;
        struct iovec data = {.iov_base = &byte, .iov_len = 1};
        struct msghdr message = {.msg_iov = &data,
                                 .msg_iovlen = 1,
                                 .msg_control = control.space,
                                 .msg_controllen = sizeof(control.space)};

        memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
        CHECK(sendmsg(socket, &message, MSG_NOSIGNAL) == 1, "%m");
}

/* The child is a program of its own, which serves the other end of child_socket. */
static long fork_child(struct program *program, long a, long b, long c)
{
        pid_t child;
        int pair[2];

        make_pair(pair);
        child = fork();
        CHECK(child >= 0, "%m");
        if (!child) {
                close(pair[0]);
                close(program->socket);
                program->socket = pair[1];
                serve(program);
        }
        close(pair[1]);
        program->child = child;
        program->child_socket = pair[0];
        return 0;
}

static long hand_over_child(struct program *program, long a, long b, long c)
{
        send_fd(program->socket, program->child_socket);
        program->child_socket = fd_close(program->child_socket);
        return program->child;
}

/* The test's end of the connection to the program that was forked. */
static void adopt(const struct client *parent, struct client *ret_child)
{
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int))];
        } control;
        char byte;
        struct iovec data = {.iov_base = &byte, .iov_len = 1};
        struct msghdr message = {.msg_iov = &data,
                                 .msg_iovlen = 1,
                                 .msg_control = control.space,
                                 .msg_controllen = sizeof(control.space)};

        client_begin(parent, hand_over_child, 0, 0, 0);
        CHECK(recvmsg(parent->socket, &message, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&message),
              "no descriptor came");
        memcpy(&ret_child->socket, CMSG_DATA(&control.header), sizeof(int));
        ret_child->pid = (pid_t)client_finish(parent);
}

void client_fork(const struct client *parent, struct client *ret_child)
{
        CHECK_OK(client_do(parent, fork_child, 0, 0, 0));
        adopt(parent, ret_child);
}

static long reap_child(struct program *program, long a, long b, long c)
{
        return harness_reap(program->child);
}

void client_stop_child(const struct client *parent, struct client *child)
{
        child->socket = fd_close(child->socket);
        CHECK(client_do(parent, reap_child, 0, 0, 0) == 0, "the child failed");
}
