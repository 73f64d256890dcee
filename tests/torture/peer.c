/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Peers; see the header. */

#include "torture/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "torture/client.h"
#include "util/cleanup.h"
#include "util/error.h"

static ssize_t transfer_vm(const struct peer_request *request, struct peer_reply *reply)
{
        struct iovec there = {.iov_base = (void *)request->address, .iov_len = request->length};
        struct iovec from = {.iov_base = (void *)request->bytes, .iov_len = request->length};
        struct iovec to = {.iov_base = reply->bytes, .iov_len = request->length};

        return error_from(request->call == PEER_READ
                                  ? process_vm_readv(request->pid, &to, 1, &there, 1, 0)
                                  : process_vm_writev(request->pid, &from, 1, &there, 1, 0));
}

static ssize_t transfer_mem(const struct peer_request *request, struct peer_reply *reply)
{
        _cleanup_fd_ int fd = -EBADF;
        char path[64];

        snprintf(path, sizeof(path), "/proc/%d/mem", request->pid);
        fd = (int)error_from(open(path, O_RDWR | O_CLOEXEC));
        if (fd < 0)
                return fd;
        return error_from(request->call == PEER_MEM_READ
                                  ? pread(fd, reply->bytes, request->length, (off_t)request->address)
                                  : pwrite(fd, request->bytes, request->length, (off_t)request->address));
}

static ssize_t transfer_words(const struct peer_request *request, struct peer_reply *reply)
{
        for (size_t done = 0; done < request->length; done += sizeof(long)) {
                void *address = (void *)(request->address + done);
                long word;

                errno = 0;
                if (request->call == PEER_PEEK) {
                        word = ptrace(PTRACE_PEEKDATA, request->tid, address, NULL);
                        memcpy(reply->bytes + done, &word, sizeof(word));
                } else {
                        memcpy(&word, request->bytes + done, sizeof(word));
                        (void)!ptrace(PTRACE_POKEDATA, request->tid, address, (void *)word);
                }
                if (errno)
                        return done ? (ssize_t)done : -errno;
        }
        return (ssize_t)request->length;
}

static ssize_t transfer_ptrace(const struct peer_request *request, struct peer_reply *reply)
{
        ssize_t r;

        r = error_from(ptrace(PTRACE_ATTACH, request->tid, NULL, NULL));
        if (r < 0)
                return r;
        r = error_from(waitpid(request->tid, NULL, __WALL));
        if (r >= 0)
                r = transfer_words(request, reply);
        (void)!ptrace(PTRACE_DETACH, request->tid, NULL, NULL);
        return r;
}

static ssize_t carry_out(const struct peer_request *request, struct peer_reply *reply)
{
        switch (request->call) {
        case PEER_READ:
        case PEER_WRITE:
                return transfer_vm(request, reply);
        case PEER_MEM_READ:
        case PEER_MEM_WRITE:
                return transfer_mem(request, reply);
        default:
                return transfer_ptrace(request, reply);
        }
}

__attribute__((__noreturn__)) static void serve(int socket)
{
        static struct peer_request request;
        static struct peer_reply reply;

        while (recv(socket, &request, sizeof(request), 0) == (ssize_t)sizeof(request)) {
                reply.result = carry_out(&request, &reply);
                if (send(socket, &reply, sizeof(reply), MSG_NOSIGNAL) < 0)
                        break;
        }
        _exit(EXIT_SUCCESS);
}

int peer_start(const struct client *client)
{
        uint64_t ticket;
        struct child_slot *slot = child_slot_take(client->index, client->generation, true, &ticket);
        pid_t parent = getpid(), pid;
        int pair[2];

        EXPECT(slot, "too many children");
        atomic_store(&slot->may_be_killed, true);
        EXPECT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "socketpair: %s",
               strerror(errno));
        pid = fork();
        EXPECT(pid >= 0, "fork: %s", strerror(errno));
        if (!pid) {
                close(pair[0]);
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                /* Else the client has been killed already. */
                if (child_slot_begin(slot, ticket) && getppid() == parent)
                        serve(pair[1]);
                _exit(EXIT_SUCCESS);
        }
        close(pair[1]);
        return pair[0];
}
