#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Sessions: the client socket, and one connection each
 *
 * A session goes through three states: it says HELLO and hands over its /proc/self/{mem,pagemap}; it hands
 * over its five userfaultfds; then it is a member of its domain and may ask. A client that breaks the
 * protocol is dropped with a reason that `wpctl doctor` and the journal tell; its memory stays right, since
 * it needs no daemon for that.
 *
 * Nothing here blocks: answers that the peer does not read wait in a bounded queue, and beyond the bound the
 * peer is dropped.
 */

#include <ev.h>
#include <stdint.h>
#include <sys/types.h>

#include "dedup/merger.h"
#include "fault/service.h"
#include "serve/account.h"
#include "util/error.h"
#include "util/hist.h"

struct session_server;

/* What the server needs; all of it outlives the server. */
struct session_context {
        struct ev_loop *loop;
        struct merger *merger;
        struct fault_service *fault;
        struct account *account;
        int uffd_device_fd; /* /dev/userfaultfd, handed to clients */
        int pool_mount_fd;
        void (*changed)(void *context); /* something happened that the merger's clock should know */
        /* A user's pool was made: whoever keeps the descriptor lets merged memory survive the daemon. */
        void (*keep_pool)(void *context, uid_t uid, int pool_fd);
        void *callback_context;
};

/* Serves the listening socket, which becomes the server's. */
int session_server_new(const struct session_context *context, int listen_fd,
                       struct session_server **ret_server) wp_check;
/* Ends all sessions; clients keep their memory as it reads now. */
struct session_server *session_server_free(struct session_server *server);

/* The member_ops of the merger: batches go to the session. */
extern const struct member_ops session_member_ops;

/* What clients said about the faults that they served themselves. */
struct session_fault_stat {
        const struct hist *latency; /* ns from having a fault to having answered it */
        uint64_t watcher_cpu_ns;
};

void session_fault_stat(const struct session_server *server, struct session_fault_stat *ret_stat);

/* A report of the fault service. */
void session_fault_report(struct session_server *server, const struct fault_report *report);

/* Looks which clients and forked children are gone; to be called about once a second. */
void session_reap(struct session_server *server);

/* What was refused lately, newest first, for `doctor`. */
struct session_refusal {
        pid_t pid;
        uint64_t address; /* 0: the client as a whole */
        uint64_t length;
        char detail[192];
};

#define SESSION_REFUSALS 64

unsigned session_refusals(const struct session_server *server,
                          struct session_refusal refusals[SESSION_REFUSALS]);

/* Name of the process of a session (comm), for people; "" when unknown. */
const char *session_name(const void *session);
