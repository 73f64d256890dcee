#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The control socket: interface io.wpd.Control over Varlink, on the libev loop
 *
 * This module owns connections, framing, introspection, argument checking and rights; what the daemon knows
 * and does comes through one table of callbacks, so that it can be tested without a daemon.
 *
 * Rights: reading is for everyone who may open the socket; what changes something needs uid 0, or, where a
 * call concerns one client, the owner of that client (SO_PEERCRED).
 */

#include <ev.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"

struct control;

/*
 * Tells the end of something started by a connection; `connection` identifies it. The reference to
 * `parameters` is handed over; NULL means out of memory. Never called from within the call that started it.
 */
typedef void (*control_done)(void *connection, json_t *parameters);

/*
 * All documents returned are new references; NULL means out of memory. Their fields are those of the types in
 * doc/io.wpd.Control.varlink, their text is UTF-8. Addresses are always given: this module withholds them
 * from those who own neither the host nor the client.
 */
struct control_ops {
        /* One object with the fields of `wpctl status --json`. */
        json_t *(*status)(void *context);
        /* Arrays of objects, one a client / region; pid 0 means all, an unknown one gives an empty array. */
        json_t *(*clients)(void *context);
        json_t *(*regions)(void *context, pid_t pid);
        /*
         * Array of findings: {pid, region, address, length, pages, reason, text, remedy}; region 0 for the
         * whole client. The process may be one that was refused and is no client.
         */
        json_t *(*doctor)(void *context, pid_t pid);
        /*
         * {state, sharers, complete} of the page at the address, for the eyes of this user. 0: in *ret_document. 1: it is to
         * be found out; `done` is called once, later, unless sharers_cancel() comes first. -ENOENT: the client, which exists,
         * has no region there. Any other error: it cannot be found out now.
         */
        int (*sharers)(void *context, pid_t pid, uint64_t address, uid_t viewer, control_done done,
                       void *connection, json_t **ret_document);
        void (*sharers_cancel)(void *context, void *connection);
        /*
         * Starts a full pass over the client's memory (0: everybody's). `done` is called once, later, with an
         * object to reply ({pages_scanned, pages_merged, zero_pages, pages_failed, seconds}, each of them
         * optional), unless scan_cancel() comes first. `done` and `connection` are NULL when nobody waits:
         * then nothing needs to be remembered, however often that is asked. -ESRCH: no such client; -EBUSY:
         * scanning is paused.
         */
        int (*scan)(void *context, pid_t pid, control_done done, void *connection);
        void (*scan_cancel)(void *context, void *connection);
        void (*pause)(void *context, bool paused);
        /* Object of all settings, key to value; values are text, as wpd.conf has them. */
        json_t *(*settings)(void *context);
        /* 0, or -ENOENT / -EINVAL with a sentence in *ret_why (static or valid until the next call). */
        int (*set)(void *context, const char *key, const char *value, const char **ret_why);
        /* Uid of a client, to decide who may act on it: 0, or -ESRCH. */
        int (*owner)(void *context, pid_t pid, uid_t *ret_uid);
};

struct control_limits {
        unsigned max_connections;         /* together */
        unsigned max_connections_per_uid; /* uid 0 excepted */
        size_t max_message;               /* bytes of one request, and of all those that wait behind it */
        size_t max_output; /* bytes of one reply, and of all those that a peer has not read: dropped beyond */
};

/*
 * Serves the listening socket (stream), which becomes the object's on success and is made non-blocking.
 * `version` is what GetInfo tells. Seeds jansson's hash tables, which opens /dev/urandom: so it comes before
 * the sandbox is closed.
 */
int control_new(struct ev_loop *loop, int listen_fd, const struct control_ops *ops, void *context,
                const struct control_limits *limits, const char *version,
                struct control **ret_control) wp_check;
struct control *control_free(struct control *control);
