/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The Varlink client: see the header. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "util/bits.h"
#include "util/cleanup.h"
#include "wpctl/client.h"

#define REPLY_MAX   ((size_t)256 << 20)
#define CHUNK_BYTES 65536
#define METHOD_MAX  128

struct client {
        int fd;
        struct varlink_splitter input;
};

/* How long one call on the socket may take; 0 seconds: for ever. */
static int set_timeout(int fd, time_t seconds)
{
        const struct timeval timeout = {.tv_sec = seconds};
        int r;

        r = (int)error_from(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)));
        if (r < 0)
                return r;
        return (int)error_from(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)));
}

int client_connect(const char *path, struct client **ret_client)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        _cleanup_fd_ int fd = -EBADF;
        struct client *client;
        int r;

        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        strcpy(address.sun_path, path);
        fd = (int)error_from(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (fd < 0)
                return fd;
        r = set_timeout(fd, CLIENT_TIMEOUT_S);
        if (r < 0)
                return r;
        r = (int)error_from(connect(fd, (const struct sockaddr *)&address, sizeof(address)));
        if (r < 0)
                return r == -EAGAIN ? -ETIMEDOUT : r;
        client = calloc(1, sizeof(*client));
        if (!client)
                return -ENOMEM;
        client->fd = fd_take(&fd);
        client->input = (struct varlink_splitter)VARLINK_SPLITTER_INIT(REPLY_MAX);
        *ret_client = client;
        return 0;
}

struct client *client_free(struct client *client)
{
        if (!client)
                return NULL;
        fd_close(client->fd);
        varlink_splitter_deinit(&client->input);
        free(client);
        return NULL;
}

/*
 * A daemon that refuses the connection says why, unasked, and closes it: so a failure to send is told apart
 * only after what it sent has been read.
 */
static int client_send(struct client *client, const char *bytes, size_t length)
{
        ssize_t n;

        while (length) {
                n = error_from(send(client->fd, bytes, length, MSG_NOSIGNAL));
                if (n == -EINTR)
                        continue;
                if (n == -EPIPE)
                        return 0;
                if (n < 0)
                        return n == -EAGAIN ? -ETIMEDOUT : (int)n;
                bytes += n;
                length -= (size_t)n;
        }
        return 0;
}

static int client_fill(struct client *client)
{
        char chunk[CHUNK_BYTES];
        ssize_t n;

        n = error_from(recv(client->fd, chunk, MIN(sizeof(chunk), varlink_splitter_room(&client->input)), 0));
        if (n == -EINTR)
                return 0;
        if (n == -EAGAIN)
                return -ETIMEDOUT;
        if (n <= 0)
                return n ? (int)n : -ECONNRESET;
        return varlink_splitter_push(&client->input, chunk, (size_t)n);
}

static int client_receive(struct client *client, struct varlink_reply *ret_reply)
{
        const char *message;
        size_t length;
        int r;

        while (!(r = varlink_splitter_next(&client->input, &message, &length))) {
                r = client_fill(client);
                if (r < 0)
                        return r;
        }
        return r < 0 ? r : varlink_reply_parse(message, length, ret_reply);
}

int client_call(struct client *client, const char *method, json_t *parameters, bool patient,
                struct varlink_reply *ret_reply)
{
        json_auto_t *owned = parameters;
        _cleanup_free_ char *bytes = NULL;
        char name[METHOD_MAX];
        size_t length;
        int r;

        if (!owned)
                return -ENOMEM;
        snprintf(name, sizeof(name), CLIENT_INTERFACE ".%s", method);
        r = varlink_call_format(name, owned, false, false, &bytes, &length);
        if (r < 0)
                return r;
        r = client_send(client, bytes, length);
        if (r < 0)
                return r;
        r = set_timeout(client->fd, patient ? 0 : CLIENT_TIMEOUT_S);
        if (r < 0)
                return r;
        return client_receive(client, ret_reply);
}
