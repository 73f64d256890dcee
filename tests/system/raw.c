/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The client protocol spoken by hand. */

#include "system/raw.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "kernel/uffd.h"
#include "system/harness.h"
#include "util/cleanup.h"

#define MAX_SENT_FDS 16

void raw_send(struct raw *raw, const void *bytes, size_t length, const int *fds, unsigned n_fds)
{
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(MAX_SENT_FDS * sizeof(int))];
        } control = {.space = {0}};
        struct iovec data = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = length};
        struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};

        CHECK(n_fds <= MAX_SENT_FDS, "%u", n_fds);
        if (n_fds) {
                control.header.cmsg_level = SOL_SOCKET;
                control.header.cmsg_type = SCM_RIGHTS;
                control.header.cmsg_len = CMSG_LEN(n_fds * sizeof(int));
                memcpy(CMSG_DATA(&control.header), fds, n_fds * sizeof(int));
                message.msg_control = control.space;
                message.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        }
        /* Whoever was dropped already cannot send. */
        CHECK(sendmsg(raw->socket, &message, MSG_NOSIGNAL) == (ssize_t)length || errno == EPIPE ||
                      errno == ECONNRESET,
              "%m");
}

void *raw_await(struct raw *raw, enum wire_type type)
{
        struct wire_header *header = (struct wire_header *)raw->inbox;
        const char *reason;

        for (;;) {
                int fds[WIRE_MAX_FDS];
                unsigned n_fds = 0;
                int length = wire_receive(raw->socket, raw->inbox, fds, &n_fds, true);

                CHECK(length > 0, "the daemon ended the connection");
                CHECK(!wire_check(raw->inbox, (size_t)length, n_fds, WIRE_FROM_DAEMON, &reason),
                      "the daemon sent %s", reason);
                for (unsigned i = 0; i < n_fds; i++)
                        if (type == WIRE_WELCOME)
                                raw->given[i] = fds[i];
                        else
                                close(fds[i]);
                if (header->type == type)
                        return raw->inbox;
        }
}

int raw_reply(struct raw *raw)
{
        return ((struct wire_reply *)raw_await(raw, WIRE_REPLY))->error;
}

void raw_await_end(struct raw *raw)
{
        int fds[WIRE_MAX_FDS], length;
        unsigned n_fds;

        do {
                n_fds = 0;
                length = wire_receive(raw->socket, raw->inbox, fds, &n_fds, true);
                for (unsigned i = 0; length > 0 && i < n_fds; i++)
                        close(fds[i]);
        } while (length > 0);
        CHECK(length == 0 || length == -ECONNRESET, "%s", strerror(-length));
}

void raw_say_hello(struct raw *raw)
{
        struct wire_hello hello = {.version = WIRE_VERSION};
        int fds[] = {open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC),
                     open("/proc/self/mem", O_RDONLY | O_CLOEXEC)};

        CHECK(fds[0] >= 0 && fds[1] >= 0, "%m");
        wire_init(&hello, WIRE_HELLO, sizeof(hello), 0);
        raw_send(raw, &hello, sizeof(hello), fds, ARRAY_SIZE(fds));
        close(fds[0]);
        close(fds[1]);
}

void raw_take_welcome(struct raw *raw)
{
        raw_await(raw, WIRE_WELCOME);
}

void raw_make_contexts(struct raw *raw)
{
        for (size_t i = 0; i < ARRAY_SIZE(raw->contexts); i++)
                raw->contexts[i] = (int)CHECK_OK(uffd_create(raw->given[0]));
}

void raw_say_contexts(struct raw *raw, uint32_t flags)
{
        struct wire_contexts contexts = {.flags = flags};

        wire_init(&contexts, WIRE_CONTEXTS, sizeof(contexts), 0);
        raw_send(raw, &contexts, sizeof(contexts), raw->contexts, ARRAY_SIZE(raw->contexts));
}

void raw_say_register(struct raw *raw, const void *memory, size_t length, uint64_t serial)
{
        struct wire_register message = {.address = (uintptr_t)memory, .length = length, .flags = 1};

        wire_init(&message, WIRE_REGISTER, sizeof(message), serial);
        raw_send(raw, &message, sizeof(message), NULL, 0);
}

void raw_open(struct raw *raw, const char *path, enum raw_state state)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};

        *raw = (struct raw){.given = {-EBADF, -EBADF, -EBADF, -EBADF, -EBADF},
                            .contexts = {-EBADF, -EBADF, -EBADF, -EBADF, -EBADF, -EBADF, -EBADF, -EBADF}};
        raw->socket = (int)CHECK_OK(error_from(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)));
        memcpy(address.sun_path, path, MIN(strlen(path), sizeof(address.sun_path) - 1));
        CHECK_OK(error_from(connect(raw->socket, (struct sockaddr *)&address, sizeof(address))));
        if (state >= RAW_WELCOME) {
                raw_say_hello(raw);
                raw_take_welcome(raw);
                raw_make_contexts(raw);
        }
        if (state >= RAW_READY) {
                raw_say_contexts(raw, 0);
                CHECK_OK(raw_reply(raw));
        }
}

void raw_close(struct raw *raw)
{
        raw->socket = fd_close(raw->socket);
        for (size_t i = 0; i < ARRAY_SIZE(raw->given); i++)
                raw->given[i] = fd_close(raw->given[i]);
        for (size_t i = 0; i < ARRAY_SIZE(raw->contexts); i++)
                raw->contexts[i] = fd_close(raw->contexts[i]);
}
