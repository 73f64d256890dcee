/* SPDX-License-Identifier: GPL-2.0-or-later */

/* A service manager's descriptor store. */

#include "system/fd_store.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "util/bits.h"
#include "util/cleanup.h"

#define FIRST_FD 3

int fd_store_open(struct fd_store *store, const char *directory)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        _cleanup_fd_ int fd = -EBADF;

        *store = (struct fd_store){.notify_fd = -EBADF};
        snprintf(store->path, sizeof(store->path), "%s/notify", directory);
        fd = (int)error_from(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        if (fd < 0)
                return fd;
        memcpy(address.sun_path, store->path, strlen(store->path));
        if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                return -errno;
        store->notify_fd = fd_take(&fd);
        return 0;
}

static int find(const struct fd_store *store, const char *name)
{
        for (unsigned i = 0; i < store->n; i++)
                if (!strcmp(store->names[i], name))
                        return (int)i;
        return -ENOENT;
}

/* The value of FDNAME= in a message. */
static int take_name(const char *text, char name[32])
{
        const char *value = strstr(text, "FDNAME=");
        size_t length;

        if (!value)
                return -EBADMSG;
        value += strlen("FDNAME=");
        length = strcspn(value, "\n");
        if (!length || length >= 32)
                return -EBADMSG;
        memcpy(name, value, length);
        name[length] = '\0';
        return 0;
}

static int keep(struct fd_store *store, const char *text, int *fd)
{
        char name[32];
        int r = take_name(text, name);

        if (r < 0 || *fd < 0)
                return -EBADMSG;
        if (store->n == FD_STORE_MAX)
                return -ENOSPC;
        strcpy(store->names[store->n], name);
        store->fds[store->n++] = fd_take(fd);
        return 0;
}

static int drop(struct fd_store *store, const char *text)
{
        char name[32];
        int r = take_name(text, name), i;

        while (r >= 0 && (i = find(store, name)) >= 0) {
                fd_close(store->fds[i]);
                store->fds[i] = store->fds[--store->n];
                strcpy(store->names[i], store->names[store->n]);
        }
        return r;
}

static int take_message(struct fd_store *store, const char *text, int *fd)
{
        if (strstr(text, "FDSTORE=1"))
                return keep(store, text, fd);
        return strstr(text, "FDSTOREREMOVE=1") ? drop(store, text) : 0;
}

int fd_store_collect(struct fd_store *store)
{
        int r = 0;

        while (r >= 0) {
                union {
                        struct cmsghdr header;
                        char space[CMSG_SPACE(sizeof(int))];
                } control;
                char text[1024];
                struct iovec data = {.iov_base = text, .iov_len = sizeof(text) - 1};
                struct msghdr message = {.msg_iov = &data,
                                         .msg_iovlen = 1,
                                         .msg_control = control.space,
                                         .msg_controllen = sizeof(control.space)};
                ssize_t n = recvmsg(store->notify_fd, &message, MSG_CMSG_CLOEXEC);
                _cleanup_fd_ int fd = -EBADF;

                if (n < 0)
                        return errno == EAGAIN ? 0 : -errno;
                text[n] = '\0';
                if (message.msg_controllen && control.header.cmsg_type == SCM_RIGHTS)
                        memcpy(&fd, CMSG_DATA(&control.header), sizeof(fd));
                r = take_message(store, text, &fd);
        }
        return r;
}

void fd_store_forget(struct fd_store *store)
{
        while (store->n > 0)
                fd_close(store->fds[--store->n]);
}

void fd_store_close(struct fd_store *store)
{
        fd_store_forget(store);
        store->notify_fd = fd_close(store->notify_fd);
        unlink(store->path);
}

int fd_store_pass(const struct fd_store *store)
{
        char text[FD_STORE_MAX * sizeof(store->names[0])] = "";
        int fds[FD_STORE_MAX];

        setenv("NOTIFY_SOCKET", store->path, 1);
        if (!store->n)
                return 0;
        /* Out of the way first, so that no one takes the place of another. */
        for (unsigned i = 0; i < store->n; i++) {
                fds[i] = (int)error_from(fcntl(store->fds[i], F_DUPFD_CLOEXEC, FIRST_FD + FD_STORE_MAX));
                if (fds[i] < 0)
                        return fds[i];
        }
        for (unsigned i = 0; i < store->n; i++) {
                if (dup2(fds[i], FIRST_FD + (int)i) < 0)
                        return -errno;
                strcat(text, i ? ":" : "");
                strcat(text, store->names[i]);
        }
        setenv("LISTEN_FDNAMES", text, 1);
        snprintf(text, sizeof(text), "%u", store->n);
        setenv("LISTEN_FDS", text, 1);
        snprintf(text, sizeof(text), "%d", getpid());
        setenv("LISTEN_PID", text, 1);
        return 0;
}
