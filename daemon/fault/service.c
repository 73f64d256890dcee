/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Fault service: the thread that answers write faults on merged memory. */

#include "fault/service.h"

#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/event.h"
#include "kernel/hold.h"
#include "kernel/ring.h"
#include "kernel/uffd.h"
#include "util/bits.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/spsc.h"
#include "wp.h"

#define RING_ENTRIES     512
#define COMMAND_ENTRIES  1024
#define REPORT_ENTRIES   16384
#define CONTEXT_MESSAGES 16
#define CONTEXT_DEFERRED 64
#define MAX_CHILDREN     256 /* of one client, grandchildren included, served at once */

/* How soon a deferred fault is tried again when nothing else happens, and folded events are. */
#define DEFER_NS (100 * NSEC_PER_USEC)
#define FOLD_NS  (5 * NSEC_PER_MSEC)

/* See spin(). */
#define SPIN_NS     (20 * NSEC_PER_USEC)
#define SPIN_GAP_NS (80 * NSEC_PER_USEC)

struct fault_context {
        int hold_fd;
        bool used;    /* owns its descriptors and its mapping of the queue */
        bool reading; /* a read is in flight */
        bool ending;  /* removal was asked for */
        bool is_child;
        int event_fd;
        struct queue_producer queue; /* .ring NULL: nobody is told */
        struct fault_ranges *ranges;
        void *owner; /* control's */
        struct fault_context *next_free;
        struct fault_context *next_deferred;
        struct fault_context *next_folding;
        struct fault_context *next_paused;
        struct fault_context *root; /* a child's: the client's context from which it descends */
        unsigned n_children;        /* of a client, served now */
        bool folding;               /* on service->folding: events wait for room in the owner's queue */
        unsigned n_deferred;
        struct event deferred[CONTEXT_DEFERRED];
        struct uffd_msg messages[CONTEXT_MESSAGES];
};

enum command_kind {
        COMMAND_ADD = 1,
        COMMAND_REMOVE,
        COMMAND_RANGES,
        COMMAND_RESTOCK, /* a child's context is free again */
        COMMAND_SYNC,
        COMMAND_STOP,
};

struct command {
        enum command_kind kind;
        struct fault_context *context;
        struct fault_ranges *ranges;
};

/* Unused contexts. Those that were never used are not touched, so that they cost no memory. */
struct stock {
        struct fault_context *used_before; /* linked by next_free */
        struct fault_context *fresh;       /* up to end */
        struct fault_context *end;
};

struct fault_service {
        struct io_uring ring;
        bool ring_made;
        pthread_t thread;
        bool started;
        bool stopping;
        bool syncing;  /* answered when all messages that have arrived are reported */
        bool spinning; /* faults follow each other closely */
        uint64_t last_fault_ns;
        int command_fd;
        int report_fd;
        uint64_t command_count; /* read target */
        bool report_pending;    /* reports were queued since control was last woken */
        struct spsc commands;
        struct spsc reports;
        struct fault_context *contexts;
        unsigned n_contexts;
        struct stock stock_control; /* for clients: the lower half of the contexts, touched by control only */
        struct stock stock_fault;   /* for forked children: the upper half, touched by fault only */
        struct fault_context *deferring; /* contexts with deferred faults */
        struct fault_context *folding;   /* contexts with folded events */
        struct fault_context *paused;    /* contexts whose reading failed and is tried again */
        struct hist latency;
        _Atomic uint64_t writes;
        _Atomic uint64_t discards;
        _Atomic uint64_t forks;
        _Atomic uint64_t n_deferred;
        _Atomic uint64_t dropped;
};

static void count(_Atomic uint64_t *counter)
{
        atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static struct fault_context *stock_take(struct stock *stock)
{
        struct fault_context *context = stock->used_before;

        if (context)
                stock->used_before = context->next_free;
        else if (stock->fresh < stock->end)
                context = stock->fresh++;
        return context;
}

static void stock_return(struct stock *stock, struct fault_context *context)
{
        context->next_free = stock->used_before;
        stock->used_before = context;
}

/* ------------------------------------------------------------------ telling */

/*
 * Half of the queue is kept for reports that hand something over; there are never more of these than
 * contexts.
 */
static bool report(struct fault_service *service, const struct fault_report *report)
{
        bool droppable = report->kind == FAULT_WRITE || report->kind == FAULT_DISCARD;

        if ((droppable && spsc_room(&service->reports) < REPORT_ENTRIES / 2) ||
            !spsc_push(&service->reports, report)) {
                count(&service->dropped);
                return false;
        }
        service->report_pending = true;
        return true;
}

static bool in_ranges(const struct fault_ranges *ranges, uint64_t address)
{
        uint32_t low = 0, high = ranges ? ranges->n : 0;

        while (low < high) {
                uint32_t middle = (low + high) / 2;

                if (address >= ranges->ranges[middle].end)
                        low = middle + 1;
                else if (address < ranges->ranges[middle].start)
                        high = middle;
                else
                        return true;
        }
        return false;
}

/*
 * Makes the owner's descriptor readable. A full socket is readable already, and a broken one is its owner's
 * loss.
 */
static void ring_bell(const struct fault_context *context)
{
        (void)!send(context->event_fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void tell_owner(struct fault_service *service, struct fault_context *context,
                       const struct event *event, uint64_t now_ns)
{
        if (!context->queue.ring || !in_ranges(context->ranges, event->address))
                return;
        if (queue_push(&context->queue, &(struct queue_event){
                                                .type = WP_EVENT_WRITE,
                                                .address = event->address,
                                                .length = PAGE_BYTES - (event->address & (PAGE_BYTES - 1)),
                                                .time_ns = now_ns,
                                                .tid = event->tid,
                                        }))
                ring_bell(context);
        if (queue_folded(&context->queue) && !context->folding) {
                context->folding = true;
                context->next_folding = service->folding;
                service->folding = context;
        }
}

/* Writes out events that were folded while the owner's queue was full. */
static void flush_folded(struct fault_service *service)
{
        struct fault_context **link = &service->folding;

        while (*link) {
                struct fault_context *context = *link;

                if (queue_flush(&context->queue, clock_now()))
                        ring_bell(context);
                if (queue_folded(&context->queue)) {
                        link = &context->next_folding;
                } else {
                        *link = context->next_folding;
                        context->folding = false;
                }
        }
}

/* ------------------------------------------------------------------ answering */

static int answer(struct fault_context *context, const struct event *event)
{
        return event->kind == EVENT_WRITE ? hold_answer_write(context->hold_fd, event->address)
                                          : hold_answer_minor(context->hold_fd, event->address);
}

static void answered(struct fault_service *service, struct fault_context *context, const struct event *event,
                     bool changed, uint64_t began_ns)
{
        uint64_t now_ns = clock_now();
        bool write = event->kind == EVENT_WRITE;

        hist_add(&service->latency, now_ns - began_ns);
        if (!changed)
                return;
        count(write ? &service->writes : &service->discards);
        if (write)
                tell_owner(service, context, event, now_ns);
        if (!context->is_child)
                report(service, &(struct fault_report){.kind = write ? FAULT_WRITE : FAULT_DISCARD,
                                                       .context = context,
                                                       .address = event->address});
}

static void defer(struct fault_service *service, struct fault_context *context, const struct event *event)
{
        count(&service->n_deferred);
        if (context->n_deferred == CONTEXT_DEFERRED) {
                /* Woken unanswered it faults again, behind the event that has to be read first. */
                (void)!uffd_wake(context->hold_fd, page_down(event->address), PAGE_BYTES);
                return;
        }
        if (!context->n_deferred) {
                context->next_deferred = service->deferring;
                service->deferring = context;
        }
        context->deferred[context->n_deferred++] = *event;
}

static void handle_fault(struct fault_service *service, struct fault_context *context,
                         const struct event *event, uint64_t began_ns)
{
        int r = answer(context, event);

        service->spinning |= began_ns - service->last_fault_ns < SPIN_GAP_NS;
        service->last_fault_ns = began_ns;
        if (r >= 0)
                answered(service, context, event, event->kind == EVENT_WRITE || r > 0, began_ns);
        else if (r == -EAGAIN || r == -ENOMEM)
                defer(service, context, event);
        /* Otherwise the process is gone, and the fault with it. */
}

static void retry_deferred(struct fault_service *service)
{
        struct fault_context *context = service->deferring;

        service->deferring = NULL;
        while (context) {
                struct fault_context *next = context->next_deferred;
                unsigned n = context->n_deferred;
                struct event events[CONTEXT_DEFERRED];

                memcpy(events, context->deferred, n * sizeof(events[0]));
                context->n_deferred = 0;
                for (unsigned i = 0; i < n; i++)
                        handle_fault(service, context, &events[i], clock_now());
                context = next;
        }
}

static void submit_read(struct fault_service *service, struct fault_context *context);

/*
 * A forked child is served from now on by itself; control hears of it and passes a duplicate on to the
 * parent's watcher.
 */
static void handle_fork(struct fault_service *service, struct fault_context *parent, int child_fd)
{
        struct fault_context *child, *root;

        count(&service->forks);
        if (child_fd < 0)
                return;
        /*
         * A child that cannot be served is reported all the same. Its memory stays private and right without
         * a context, except that what it discards does not read as zeros; the limits are documented.
         */
        root = parent->is_child ? parent->root : parent;
        child = root->n_children < MAX_CHILDREN ? stock_take(&service->stock_fault) : NULL;
        if (!child) {
                close(child_fd);
                report(service, &(struct fault_report){.kind = FAULT_CHILD, .context = parent});
                return;
        }
        root->n_children++;
        *child = (struct fault_context){
                .used = true, .hold_fd = child_fd, .is_child = true, .root = root, .event_fd = -EBADF};
        report(service, &(struct fault_report){.kind = FAULT_CHILD, .context = parent, .child = child});
        submit_read(service, child);
}

static void handle_message(struct fault_service *service, struct fault_context *context,
                           const struct uffd_msg *message, uint64_t began_ns)
{
        struct event event = event_decode(message);

        switch (event.kind) {
        case EVENT_WRITE:
        case EVENT_MINOR:
                handle_fault(service, context, &event, began_ns);
                break;
        case EVENT_FORK:
                handle_fork(service, context, event.child_fd);
                break;
        case EVENT_REMAP: /* reading it was what its caller waited for */
        case EVENT_OTHER:
                break;
        }
}

/* ------------------------------------------------------------------ the ring */

static struct io_uring_sqe *get_sqe(struct fault_service *service)
{
        struct io_uring_sqe *sqe = io_uring_get_sqe(&service->ring);

        while (!sqe) {
                io_uring_submit(&service->ring);
                sqe = io_uring_get_sqe(&service->ring);
        }
        return sqe;
}

static void submit_read(struct fault_service *service, struct fault_context *context)
{
        struct io_uring_sqe *sqe = get_sqe(service);

        io_uring_prep_read(sqe, context->hold_fd, context->messages, sizeof(context->messages), 0);
        io_uring_sqe_set_data(sqe, context);
        context->reading = true;
}

static void submit_cancel(struct fault_service *service, struct fault_context *context)
{
        struct io_uring_sqe *sqe = get_sqe(service);

        io_uring_prep_cancel(sqe, context, 0);
        io_uring_sqe_set_data(sqe, NULL);
}

/* user_data of the read of command_fd: the service itself. */
static void submit_command_read(struct fault_service *service)
{
        struct io_uring_sqe *sqe = get_sqe(service);

        io_uring_prep_read(sqe, service->command_fd, &service->command_count, sizeof(service->command_count),
                           0);
        io_uring_sqe_set_data(sqe, service);
}

static void forget_pending(struct fault_service *service, struct fault_context *context)
{
        struct fault_context **link = &service->deferring;

        while (*link && *link != context)
                link = &(*link)->next_deferred;
        if (*link)
                *link = context->next_deferred;
        /* Whoever serves from now on hears of them again. */
        for (unsigned i = 0; i < context->n_deferred; i++)
                (void)!uffd_wake(context->hold_fd, page_down(context->deferred[i].address), PAGE_BYTES);
        context->n_deferred = 0;
        for (link = &service->folding; *link && *link != context;)
                link = &(*link)->next_folding;
        if (*link)
                *link = context->next_folding;
        context->folding = false;
}

static void finish_removal(struct fault_service *service, struct fault_context *context)
{
        forget_pending(service, context);
        if (context->ranges)
                report(service, &(struct fault_report){.kind = FAULT_RANGES, .ranges = context->ranges});
        context->ranges = NULL;
        report(service, &(struct fault_report){.kind = FAULT_REMOVED, .context = context});
}

static void handle_command(struct fault_service *service, const struct command *command)
{
        struct fault_context *context = command->context;

        switch (command->kind) {
        case COMMAND_ADD:
                submit_read(service, context);
                break;
        case COMMAND_REMOVE:
                context->ending = true;
                if (context->reading)
                        submit_cancel(service, context);
                else
                        finish_removal(service, context);
                break;
        case COMMAND_RANGES:
                if (context->ranges)
                        report(service,
                               &(struct fault_report){.kind = FAULT_RANGES, .ranges = context->ranges});
                context->ranges = command->ranges;
                break;
        case COMMAND_RESTOCK:
                /* The root may serve another client by now: its count is a bound, not a ledger. */
                context->root->n_children -= context->root->n_children > 0;
                stock_return(&service->stock_fault, context);
                break;
        case COMMAND_SYNC:
                service->syncing = true;
                break;
        case COMMAND_STOP:
                service->stopping = true;
                break;
        }
}

static void handle_commands(struct fault_service *service)
{
        struct command command;

        while (spsc_pop(&service->commands, &command))
                handle_command(service, &command);
        submit_command_read(service);
}

static void read_later(struct fault_service *service, struct fault_context *context)
{
        context->next_paused = service->paused;
        service->paused = context;
}

static void resume_reading(struct fault_service *service)
{
        struct fault_context *context = service->paused;

        service->paused = NULL;
        for (; context; context = context->next_paused)
                if (!context->ending)
                        submit_read(service, context);
}

static void handle_read(struct fault_service *service, struct fault_context *context, int result,
                        uint64_t began_ns)
{
        context->reading = false;
        for (int i = 0; i < result / (int)sizeof(struct uffd_msg); i++)
                handle_message(service, context, &context->messages[i], began_ns);
        if (context->ending)
                finish_removal(service, context);
        else if (result > 0 || result == -EAGAIN || result == -EINTR || result == -ECANCELED)
                submit_read(service, context);
        else
                read_later(service, context); /* no descriptor or memory for a FORK event, for the moment */
}

static void handle_completion(struct fault_service *service, struct io_uring_cqe *cqe, uint64_t began_ns)
{
        void *data = io_uring_cqe_get_data(cqe);

        if (data == service)
                handle_commands(service);
        else if (data)
                handle_read(service, data, cqe->res, began_ns);
}

static void wake_control(struct fault_service *service)
{
        uint64_t one = 1;

        if (!service->report_pending)
                return;
        service->report_pending = false;
        if (write(service->report_fd, &one, sizeof(one)) < 0)
                return; /* the counter is full: it is readable, which is all that matters */
}

/*
 * Waking a thread that sleeps on another CPU takes longer than everything else that is done for a fault. So
 * while faults come thick and fast the thread looks for the next one for a moment before it sleeps. The
 * moment is short, and a gap longer than it ends the habit, so that quiet memory costs nothing.
 */
static void spin(struct fault_service *service)
{
        uint64_t until;

        io_uring_submit(&service->ring);
        if (!service->spinning)
                return;
        until = clock_now() + SPIN_NS;
        while (!io_uring_cq_ready(&service->ring)) {
                if (clock_now() >= until) {
                        service->spinning = false;
                        return;
                }
                __builtin_ia32_pause();
        }
}

static void wait_for_work(struct fault_service *service)
{
        struct __kernel_timespec timeout = {.tv_nsec = service->deferring ? DEFER_NS : FOLD_NS};
        struct io_uring_cqe *cqe;

        spin(service);
        if (service->deferring || service->folding || service->paused)
                io_uring_submit_and_wait_timeout(&service->ring, &cqe, 1, &timeout, NULL);
        else
                io_uring_submit_and_wait(&service->ring, 1);
}

static void *fault_main(void *argument)
{
        struct fault_service *service = argument;

        submit_command_read(service);
        while (!service->stopping) {
                struct io_uring_cqe *cqe;
                unsigned head, n = 0;
                uint64_t began_ns;

                wait_for_work(service);
                began_ns = clock_now();
                io_uring_for_each_cqe(&service->ring, head, cqe) {
                        handle_completion(service, cqe, began_ns);
                        n++;
                }
                io_uring_cq_advance(&service->ring, n);
                if (service->deferring)
                        retry_deferred(service);
                if (service->folding)
                        flush_folded(service);
                if (service->paused)
                        resume_reading(service);
                if (service->syncing)
                        service->syncing = !report(service, &(struct fault_report){.kind = FAULT_SYNCED});
                wake_control(service);
        }
        return NULL;
}

/* ------------------------------------------------------------------ control's side */

static void context_deinit(struct fault_context *context)
{
        if (!context->used)
                return;
        fd_close(context->hold_fd);
        fd_close(context->event_fd);
        if (context->queue.ring)
                munmap(context->queue.ring, QUEUE_BYTES);
        free(context->ranges);
        context->used = false;
}

int fault_service_new(unsigned n_contexts, struct fault_service **ret_service, int *ret_report_fd)
{
        struct fault_service *service = calloc(1, sizeof(*service));
        static const int ring_ops[] = {IORING_OP_READ, IORING_OP_ASYNC_CANCEL};
        int r = -ENOMEM;

        if (!service)
                return -ENOMEM;
        service->command_fd = service->report_fd = -EBADF;
        n_contexts = MIN(n_contexts, (unsigned)REPORT_ENTRIES / 4);
        service->n_contexts = n_contexts;
        service->contexts = calloc(n_contexts, sizeof(*service->contexts));
        if (!service->contexts ||
            spsc_init(&service->commands, COMMAND_ENTRIES, sizeof(struct command)) < 0 ||
            spsc_init(&service->reports, REPORT_ENTRIES, sizeof(struct fault_report)) < 0)
                goto fail;
        service->stock_control =
                (struct stock){.fresh = service->contexts, .end = service->contexts + n_contexts / 2};
        service->stock_fault =
                (struct stock){.fresh = service->stock_control.end, .end = service->contexts + n_contexts};
        service->command_fd = (int)error_from(eventfd(0, EFD_CLOEXEC));
        service->report_fd = (int)error_from(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        r = MIN(service->command_fd, service->report_fd);
        if (r < 0)
                goto fail;
        r = ring_make(&service->ring, RING_ENTRIES, MAX(4 * n_contexts, 4U * RING_ENTRIES), ring_ops,
                      ARRAY_SIZE(ring_ops), -1, 0);
        if (r < 0)
                goto fail;
        service->ring_made = true;
        *ret_service = service;
        *ret_report_fd = service->report_fd;
        return 0;

fail:
        fault_service_free(service);
        return r;
}

int fault_service_start(struct fault_service *service)
{
        int r = -pthread_create(&service->thread, NULL, fault_main, service);

        service->started = r >= 0;
        return r;
}

static void command(struct fault_service *service, const struct command *what)
{
        uint64_t one = 1;

        /* The fault thread waits for nobody, so there is room in no time. */
        while (!spsc_push(&service->commands, what))
                poll(NULL, 0, 1);
        while (write(service->command_fd, &one, sizeof(one)) < 0 && errno == EINTR)
                ;
}

/* Ranges that are on their way from or to control. */
static void free_ranges(struct fault_service *service)
{
        struct fault_report lost;
        struct command unheard;

        while (service->reports.elements && spsc_pop(&service->reports, &lost))
                free(lost.ranges);
        while (service->commands.elements && spsc_pop(&service->commands, &unheard))
                free(unheard.ranges);
}

struct fault_service *fault_service_free(struct fault_service *service)
{
        if (!service)
                return NULL;
        if (service->started) {
                command(service, &(struct command){.kind = COMMAND_STOP});
                pthread_join(service->thread, NULL);
        }
        if (service->ring_made)
                io_uring_queue_exit(&service->ring);
        free_ranges(service);
        for (struct fault_context *context = service->contexts; context < service->stock_control.fresh;
             context++)
                context_deinit(context);
        for (struct fault_context *context = service->stock_control.end; context < service->stock_fault.fresh;
             context++)
                context_deinit(context);
        fd_close(service->command_fd);
        fd_close(service->report_fd);
        spsc_deinit(&service->commands);
        spsc_deinit(&service->reports);
        free(service->contexts);
        free(service);
        return NULL;
}

int fault_add(struct fault_service *service, int hold_fd, struct queue_ring *queue, int event_fd, void *owner,
              struct fault_context **ret_context)
{
        struct fault_context *context = stock_take(&service->stock_control);

        if (!context)
                return -EMFILE;
        *context = (struct fault_context){
                .used = true,
                .hold_fd = hold_fd,
                .event_fd = event_fd,
                .queue = QUEUE_PRODUCER_INIT(queue),
                .owner = owner,
        };
        command(service, &(struct command){.kind = COMMAND_ADD, .context = context});
        *ret_context = context;
        return 0;
}

void fault_sync(struct fault_service *service)
{
        command(service, &(struct command){.kind = COMMAND_SYNC});
}

void fault_remove(struct fault_service *service, struct fault_context *context)
{
        command(service, &(struct command){.kind = COMMAND_REMOVE, .context = context});
}

void fault_set_ranges(struct fault_service *service, struct fault_context *context,
                      struct fault_ranges *ranges)
{
        command(service, &(struct command){.kind = COMMAND_RANGES, .context = context, .ranges = ranges});
}

void fault_release(struct fault_service *service, struct fault_context *context)
{
        bool is_child = context->is_child;

        context_deinit(context);
        if (is_child) {
                command(service, &(struct command){.kind = COMMAND_RESTOCK, .context = context});
                return;
        }
        stock_return(&service->stock_control, context);
}

int fault_next_report(struct fault_service *service, struct fault_report *ret_report)
{
        uint64_t n;

        if (spsc_pop(&service->reports, ret_report))
                return 1;
        if (read(service->report_fd, &n, sizeof(n)) < 0)
                return 0;
        return spsc_pop(&service->reports, ret_report);
}

void *fault_owner(const struct fault_context *context)
{
        return context->owner;
}

void fault_set_owner(struct fault_context *context, void *owner)
{
        context->owner = owner;
}

int fault_hold_fd(const struct fault_context *context)
{
        return context->hold_fd;
}

void fault_stat(struct fault_service *service, struct fault_stat *ret_stat)
{
        clockid_t clock;

        *ret_stat = (struct fault_stat){
                .writes = atomic_load(&service->writes),
                .discards = atomic_load(&service->discards),
                .forks = atomic_load(&service->forks),
                .deferred = atomic_load(&service->n_deferred),
                .dropped = atomic_load(&service->dropped),
                .cpu_ns = pthread_getcpuclockid(service->thread, &clock) ? 0 : clock_ns(clock),
        };
}

const struct hist *fault_latency(const struct fault_service *service)
{
        return &service->latency;
}
