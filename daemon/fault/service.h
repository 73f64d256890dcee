#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Fault service: the thread that answers write faults on merged memory
 *
 * Theory of operation
 *
 * One io_uring; one read in flight for each context. A message that arrives is answered at once, statelessly
 * (kernel/hold.h): the writer goes on before anybody else hears of it. Then the owner's event is queued
 * (libwp/queue.h) and a record of the fault goes to the control thread.
 *
 * The thread never waits for control, for the scan or for any client; it takes no lock, allocates nothing and
 * logs nothing. Everything it needs is made before it starts or handed to it complete. Control and fault talk
 * through two bounded queues with one producer and one consumer each, and an eventfd each:
 *
 *   commands  control -> fault   add a context, remove one, new list of ranges whose writes are to be
 *             reported
 *   reports   fault -> control   a fault was answered, a child appeared, a context was removed, a list is no
 *             longer used
 *
 * When the queue of reports is half full, reports of faults are dropped and counted; the survey finds such
 * pages (scan.h). The other half is for reports that hand something over (child, removed, list), of which
 * there are never that many.
 *
 * A fault that cannot be answered because an event has to be read first (-EAGAIN) is deferred and tried again
 * after the next message, or after a moment; meanwhile reading goes on (trap T8).
 */

#include <stdbool.h>
#include <stdint.h>

#include "libwp/queue.h"
#include "util/error.h"
#include "util/hist.h"

struct fault_service;
struct fault_context; /* a hold context that the thread reads */

/* Ranges of a client whose writes are events. Immutable once handed over; sorted, disjoint. */
struct fault_ranges {
        uint32_t n;
        struct queue_range ranges[];
};

enum fault_report_kind {
        FAULT_WRITE = 1, /* a merged page was written: private now */
        FAULT_DISCARD,   /* a merged page was discarded: zeros now */
        FAULT_CHILD,     /* a child was forked; `context` is its, new, and served already */
        FAULT_REMOVED,   /* the context is no longer read: it and its descriptor are the caller's again */
        FAULT_SYNCED,    /* see fault_sync() */
        FAULT_RANGES,    /* `ranges` is no longer used: the caller frees it */
};

struct fault_report {
        enum fault_report_kind kind;
        struct fault_context *context; /* FAULT_CHILD: the parent's */
        struct fault_context *child;   /* NULL: it is not served, for want of room */
        struct fault_ranges *ranges;
        uint64_t address;
};

struct fault_stat {
        uint64_t writes;
        uint64_t discards;
        uint64_t forks;
        uint64_t deferred;
        uint64_t dropped; /* reports that did not fit */
        uint64_t cpu_ns;
};

/*
 * Makes the service with its ring, before the process is confined. n_contexts: at most this many, children
 * included. *ret_report_fd is readable when reports wait; it stays the service's.
 */
int fault_service_new(unsigned n_contexts, struct fault_service **ret_service, int *ret_report_fd) wp_check;

/* Starts the thread, after the process was confined. */
int fault_service_start(struct fault_service *service) wp_check;
struct fault_service *fault_service_free(struct fault_service *service);

/*
 * Starts serving a hold context. `queue` (a mapping of QUEUE_BYTES) and `event_fd` (a socket, see
 * libwp/event.c) are for the owner's events. On success all three become the context's, until
 * fault_release(). -EMFILE: too many contexts.
 */
int fault_add(struct fault_service *service, int hold_fd, struct queue_ring *queue, int event_fd, void *owner,
              struct fault_context **ret_context) wp_check;

/* Asks for FAULT_SYNCED: every message that had been read when this was called is reported before it. */
void fault_sync(struct fault_service *service);

/* Asks for the end of serving; FAULT_REMOVED follows. */
void fault_remove(struct fault_service *service, struct fault_context *context);

/* New ranges (allocated by the caller, who gets the old ones back as FAULT_RANGES); NULL: none. */
void fault_set_ranges(struct fault_service *service, struct fault_context *context,
                      struct fault_ranges *ranges);

/* After FAULT_REMOVED: closes what the context owned and gives it back to the service's stock. */
void fault_release(struct fault_service *service, struct fault_context *context);

/* The next report: 1, or 0 when there is none. */
int fault_next_report(struct fault_service *service, struct fault_report *ret_report);

void *fault_owner(const struct fault_context *context);
void fault_set_owner(struct fault_context *context, void *owner);
int fault_hold_fd(const struct fault_context *context);

void fault_stat(struct fault_service *service, struct fault_stat *ret_stat);

/* Time from having the message to having answered it, ns. */
const struct hist *fault_latency(const struct fault_service *service);
