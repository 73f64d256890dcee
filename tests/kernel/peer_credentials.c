/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The listener knows who connected, whatever happens to the process id
 *
 * Fact: of a connected SOCK_SEQPACKET socket SO_PEERCRED gives pid, uid and gid of the process that called
 * connect(2), and SO_PEERPIDFD a pidfd of it, which becomes readable when it ends.
 *
 * Source: unix(7); net/core/sock.c, sk_getsockopt().
 *
 * Relied on by: daemon/serve/session (identity, limits by uid, death of a client).
 *
 * Without it: a process that has got the pid of a dead client is taken for it.
 */

#include "fact.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct sockaddr_un address = {.sun_family = AF_UNIX};
static socklen_t address_length;

static void client(int socket_fd, void *unused)
{
        int fd = (int)FACT_OK(error_from(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)));

        (void)unused;
        FACT_OK(error_from(connect(fd, (const struct sockaddr *)&address, address_length)));
        fact_receive(socket_fd, NULL);
}

int main(void)
{
        struct fact_client process;
        struct pollfd pidfd = {.events = POLLIN};
        struct ucred peer;
        socklen_t size = sizeof(peer);
        int listener, session, r;
        uid_t uid = geteuid() == 0 ? FACT_NOBODY : geteuid();

        fact_begin();
        /* An abstract address that the kernel chooses. */
        listener = (int)FACT_OK(error_from(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)));
        FACT_OK(error_from(bind(listener, (const struct sockaddr *)&address, sizeof(sa_family_t))));
        address_length = sizeof(address);
        FACT_OK(error_from(getsockname(listener, (struct sockaddr *)&address, &address_length)));
        FACT_OK(error_from(listen(listener, 1)));
        fact_client_start(&process, uid, client, NULL);
        fact_step("waiting for the connection");
        session = (int)FACT_OK(error_from(accept4(listener, NULL, NULL, SOCK_CLOEXEC)));

        FACT_OK(error_from(getsockopt(session, SOL_SOCKET, SO_PEERCRED, &peer, &size)));
        FACT_CHECK(peer.pid == process.pid && peer.uid == uid, "pid %d, uid %u", (int)peer.pid,
                   (unsigned)peer.uid);
        size = sizeof(pidfd.fd);
        r = (int)error_from(getsockopt(session, SOL_SOCKET, SO_PEERPIDFD, &pidfd.fd, &size));
        if (r == -ENOPROTOOPT)
                fact_skip("this kernel lacks SO_PEERPIDFD");
        FACT_OK(r);
        FACT_OK(error_from(poll(&pidfd, 1, 0)));
        FACT_CHECK(!pidfd.revents, "the pidfd says %#x although the process lives", (unsigned)pidfd.revents);
        fact_send(process.socket, 0, -EBADF);
        fact_step("waiting for the end of the process");
        FACT_OK(error_from(poll(&pidfd, 1, -1)));
        FACT_CHECK(pidfd.revents & POLLIN, "the pidfd says %#x", (unsigned)pidfd.revents);
        fact_client_join(&process);
        return 0;
}
