/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "bench/control.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "util/bits.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define INTERFACE    "io.wpd.Control"
#define MAX_REPLY    ((size_t)4 << 20)
#define CALL_TIMEOUT 10000 /* ms; a hang guard for calls that the daemon answers at once */

struct control {
        int fd;
        pid_t peer;
        char *buffer; /* what was received and not yet returned */
        size_t used;
        size_t size;
        char error[160];
};

struct control *control_close(struct control *control)
{
        if (!control)
                return NULL;
        fd_close(control->fd);
        free(control->buffer);
        free(control);
        return NULL;
}

static void control_closep(struct control **control)
{
        *control = control_close(*control);
}

pid_t control_peer(const struct control *control)
{
        return control->peer;
}

const char *control_error(const struct control *control)
{
        return control->error;
}

static int try_connect(const char *path, struct control **ret_control)
{
        _cleanup_(control_closep) struct control *control = calloc(1, sizeof(*control));
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        struct ucred peer;
        socklen_t length = sizeof(peer);
        int r;

        if (!control)
                return -ENOMEM;
        control->fd = -EBADF;
        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        memcpy(address.sun_path, path, strlen(path));
        control->fd = (int)error_from(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (control->fd < 0)
                return control->fd;
        r = (int)error_from(connect(control->fd, (struct sockaddr *)&address, sizeof(address)));
        if (r < 0)
                return r;
        r = (int)error_from(getsockopt(control->fd, SOL_SOCKET, SO_PEERCRED, &peer, &length));
        if (r < 0)
                return r;
        control->peer = peer.pid;
        *ret_control = control;
        control = NULL;
        return 0;
}

int control_open(const char *path, int timeout_ms, struct control **ret_control)
{
        uint64_t deadline = clock_now() + (uint64_t)timeout_ms * NSEC_PER_MSEC;
        struct control_status status;
        int r;

        for (;;) {
                struct control *control;

                r = try_connect(path, &control);
                if (r == 0) {
                        r = control_status(control, &status);
                        if (r == 0) {
                                *ret_control = control;
                                return 0;
                        }
                        control_close(control);
                }
                if (r != -ENOENT && r != -ECONNREFUSED && r != -EPIPE && r != -ECONNRESET)
                        return r;
                if (clock_now() > deadline)
                        return -ETIMEDOUT;
                nanosleep(&(struct timespec){.tv_nsec = (long)(20 * NSEC_PER_MSEC)}, NULL);
        }
}

int control_send(struct control *control, const char *method, json_t *parameters)
{
        _cleanup_free_ char *text = NULL;
        char name[96];
        json_t *call;
        size_t length;
        ssize_t n;

        snprintf(name, sizeof(name), "%s.%s", INTERFACE, method);
        call = json_pack("{s:s, s:o*}", "method", name, "parameters", parameters);
        if (!call)
                return -ENOMEM;
        text = json_dumps(call, JSON_COMPACT);
        json_decref(call);
        if (!text)
                return -ENOMEM;
        length = strlen(text) + 1;
        for (size_t done = 0; done < length; done += (size_t)n) {
                n = error_from(send(control->fd, text + done, length - done, MSG_NOSIGNAL));
                if (n < 0)
                        return (int)n;
        }
        return 0;
}

static int grow(struct control *control)
{
        size_t size = control->size ? control->size * 2 : 16384;
        char *buffer;

        if (control->used < control->size)
                return 0;
        if (size > MAX_REPLY)
                return -EMSGSIZE;
        buffer = realloc(control->buffer, size);
        if (!buffer)
                return -ENOMEM;
        control->buffer = buffer;
        control->size = size;
        return 0;
}

/* Takes one complete reply out of the buffer; 0 when it is not complete. */
static int take_reply(struct control *control, json_t **ret_parameters)
{
        char *end = control->used ? memchr(control->buffer, 0, control->used) : NULL;
        json_t *reply, *parameters;
        const char *error;
        size_t length;

        if (!end)
                return 0;
        reply = json_loads(control->buffer, 0, NULL);
        length = (size_t)(end - control->buffer) + 1;
        control->used -= length;
        memmove(control->buffer, end + 1, control->used);
        if (!json_is_object(reply)) {
                json_decref(reply);
                return -EBADMSG;
        }
        error = json_string_value(json_object_get(reply, "error"));
        parameters = json_object_get(reply, "parameters");
        if (error) {
                char *detail = parameters ? json_dumps(parameters, JSON_COMPACT) : NULL;

                snprintf(control->error, sizeof(control->error), "%s %s", error, detail ? detail : "");
                free(detail);
                json_decref(reply);
                return -EREMOTEIO;
        }
        *ret_parameters = parameters ? json_incref(parameters) : json_object();
        json_decref(reply);
        return *ret_parameters ? 1 : -ENOMEM;
}

int control_receive(struct control *control, int timeout_ms, json_t **ret_parameters)
{
        uint64_t deadline = clock_now() + (uint64_t)timeout_ms * NSEC_PER_MSEC;
        int r;

        for (;;) {
                uint64_t now = clock_now();
                struct pollfd wait = {.fd = control->fd, .events = POLLIN};
                ssize_t n;

                r = take_reply(control, ret_parameters);
                if (r)
                        return r;
                r = (int)error_from(
                        poll(&wait, 1, deadline > now ? (int)((deadline - now) / NSEC_PER_MSEC) : 0));
                if (r <= 0 && r != -EINTR)
                        return r;
                if (r == -EINTR)
                        continue;
                r = grow(control);
                if (r < 0)
                        return r;
                n = error_from(
                        recv(control->fd, control->buffer + control->used, control->size - control->used, 0));
                if (!n || n == -ECONNRESET)
                        return -EPIPE;
                if (n < 0)
                        return (int)n;
                control->used += (size_t)n;
        }
}

static uint64_t number(const json_t *object, const char *name)
{
        const json_t *value = json_object_get(object, name);

        return json_is_number(value) ? (uint64_t)json_number_value(value) : 0;
}

int control_status(struct control *control, struct control_status *ret_status)
{
        json_t *status, *cpu;
        int r;

        r = control_send(control, "Status", NULL);
        if (r < 0)
                return r;
        r = control_receive(control, CALL_TIMEOUT, &status);
        if (r <= 0)
                return r ? r : -ETIMEDOUT;
        if (!json_is_integer(json_object_get(status, "pages_sharing"))) {
                json_decref(status);
                return -EBADMSG;
        }
        cpu = json_object_get(status, "cpu_seconds");
        *ret_status = (struct control_status){
                .pages_tracked = number(status, "pages_tracked"),
                .pages_shared = number(status, "pages_shared"),
                .pages_sharing = number(status, "pages_sharing"),
                .zero_pages = number(status, "zero_pages"),
                .pages_scanned = number(status, "pages_scanned"),
                .metadata_bytes = number(status, "metadata_bytes"),
                .write_faults = number(status, "write_faults"),
                .vmas = number(status, "vmas"),
                .cpu_control = json_number_value(json_object_get(cpu, "control")),
                .cpu_fault = json_number_value(json_object_get(cpu, "fault")),
                .cpu_scan = json_number_value(json_object_get(cpu, "scan")),
        };
        json_decref(status);
        return 0;
}
