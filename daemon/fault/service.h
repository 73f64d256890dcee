#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Fault service: the thread that answers faults of forked children when their own family cannot
 *
 * Theory of operation
 *
 * A client serves the faults of its merged memory itself (libwp/watcher.c), and those of the children that it forked,
 * whose contexts it shares with us. What it cannot do is serve them while it is stopped, or when it is gone: then
 * this thread does. Serving is stateless (kernel/hold.h), so both may try.
 *
 * One io_uring; for each context a poll in flight. A context whose client lives is left alone for PATIENCE_NS when it
 * has something to read: by then it has been read, unless the client is stopped; once it was not, for AWAY_NS only,
 * until something is found to be read by others again. That of an orphan is read at once. The event of a fork is read
 * like everything else: the grandchild's context goes to the client before anything else is done, so that our death
 * does not take it along; it is served here as well, and handed to control.
 *
 * The thread never waits for control, for the scan or for any client; it takes no lock, allocates nothing and
 * logs nothing. Everything it needs is made before it starts or handed to it complete. Control and fault talk
 * through two bounded queues with one producer and one consumer each, and an eventfd each:
 *
 *   commands  control -> fault   add a context, remove one, its client is gone
 *   reports   fault -> control   a grandchild appeared, a context was removed
 *
 * There are never more reports than contexts, so that they always fit.
 *
 * A fault that cannot be answered because an event has to be read first (-EAGAIN) is woken unanswered: it comes
 * back behind the event (trap T8).
 */

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"

struct fault_service;
struct fault_context; /* a context that the thread serves */

enum fault_report_kind {
        FAULT_CHILD = 1, /* a child forked; `child` is the grandchild's context, new, and served already */
        FAULT_REMOVED,   /* the context is no longer read: it and its descriptor are the caller's again */
};

struct fault_report {
        enum fault_report_kind kind;
        struct fault_context *context; /* FAULT_CHILD: the parent's */
        struct fault_context *child;
};

struct fault_stat {
        uint64_t writes;
        uint64_t cpu_ns;
};

/*
 * Makes the service with its ring, before the process is confined. n_contexts: at most this many.
 * *ret_report_fd is readable when reports wait; it stays the service's.
 */
int fault_service_new(unsigned n_contexts, struct fault_service **ret_service, int *ret_report_fd) wp_check;

/* Starts the thread, after the process was confined. */
int fault_service_start(struct fault_service *service) wp_check;

/* Ends the thread, and what the kernel still does for it: from then on only fault_service_free() is of use. */
void fault_service_stop(struct fault_service *service);
struct fault_service *fault_service_free(struct fault_service *service);

/*
 * Starts serving a context, whose descriptor becomes the context's, until fault_release(). orphan: nobody else serves it.
 * client_fd: the client's socket, where it is told of grandchildren; it remains the caller's, and stays open for as long as
 * this context and its descendants are served. -EMFILE: too many contexts.
 */
int fault_add(struct fault_service *service, int fd, bool orphan, int client_fd, void *owner,
              struct fault_context **ret_context) wp_check;

/* From now on nobody else serves it. */
void fault_orphan(struct fault_service *service, struct fault_context *context);

/* Asks for the end of serving; FAULT_REMOVED follows. */
void fault_remove(struct fault_service *service, struct fault_context *context);

/* After FAULT_REMOVED: closes what the context owned and gives it back to the service's stock. */
void fault_release(struct fault_service *service, struct fault_context *context);

/* The next report: 1, or 0 when there is none. */
int fault_next_report(struct fault_service *service, struct fault_report *ret_report);

void *fault_owner(const struct fault_context *context);
void fault_set_owner(struct fault_context *context, void *owner);
int fault_fd(const struct fault_context *context);

void fault_stat(struct fault_service *service, struct fault_stat *ret_stat);
