/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Fault service: the thread that answers faults of forked children. */

#include "fault/service.h"

#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "kernel/hold.h"
#include "kernel/ring.h"
#include "kernel/uffd.h"
#include "libwp/wire.h"
#include "util/bits.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/spsc.h"

#define RING_ENTRIES     512
#define QUEUE_ENTRIES    16384 /* of commands and of reports; more than contexts */
#define CONTEXT_MESSAGES 16

/* How long a client that lives has for the faults of its children before we step in; and one that let that pass. */
#define PATIENCE_NS NSEC_PER_SEC
#define AWAY_NS     (10 * NSEC_PER_MSEC)

struct fault_context {
        int fd;
        bool used; /* owns its descriptor */
        enum {
                CONTEXT_POLLING, /* a poll is in flight */
                CONTEXT_WAITING, /* on service->waiting: has something to read */
                CONTEXT_READING, /* a read is in flight */
        } state;
        bool ending; /* removal was asked for */
        bool orphan;
        bool away;       /* its client did not serve it in time */
        int client_fd;   /* where the client is told of grandchildren; not the context's own */
        bool from_fault; /* of the stock that the fault thread takes from */
        void *owner;     /* control's */
        uint64_t due_ns; /* waiting: when it is read */
        struct fault_context *next_free;
        struct fault_context *next_waiting;
        struct uffd_msg messages[CONTEXT_MESSAGES];
};

enum command_kind {
        COMMAND_ADD = 1,
        COMMAND_ORPHAN,
        COMMAND_REMOVE,
        COMMAND_RESTOCK, /* a context of the fault thread's stock is free again */
        COMMAND_STOP,
};

struct command {
        enum command_kind kind;
        struct fault_context *context;
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
        int command_fd;
        int report_fd;
        uint64_t command_count; /* read target */
        bool report_pending;    /* reports were queued since control was last woken */
        struct spsc commands;
        struct spsc reports;
        struct fault_context *contexts;
        struct stock stock_control; /* for children that clients announce: touched by control only */
        struct stock stock_fault;   /* for grandchildren that are met here: touched by fault only */
        struct fault_context *waiting;
        uint64_t next_due_ns; /* of those that wait */
        _Atomic uint64_t writes;
};

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

static void report(struct fault_service *service, const struct fault_report *report)
{
        (void)spsc_push(&service->reports, report);
        service->report_pending = true;
}

/* ------------------------------------------------------------------ the ring */

/* A place in the ring; what is queued is handed to the kernel when the ring is full. */
static struct io_uring_sqe *get_sqe(struct fault_service *service)
{
        struct io_uring_sqe *sqe = io_uring_get_sqe(&service->ring);

        while (!sqe) {
                io_uring_submit(&service->ring);
                sqe = io_uring_get_sqe(&service->ring);
        }
        return sqe;
}

static void submit_poll(struct fault_service *service, struct fault_context *context)
{
        struct io_uring_sqe *sqe = get_sqe(service);

        io_uring_prep_poll_add(sqe, context->fd, POLLIN);
        io_uring_sqe_set_data(sqe, context);
        context->state = CONTEXT_POLLING;
}

/*
 * Not by a call of our own: whether that would block is up to a flag that the client can change, since it belongs to the
 * open file description.
 */
static void submit_read(struct fault_service *service, struct fault_context *context)
{
        struct io_uring_sqe *sqe = get_sqe(service);

        io_uring_prep_read(sqe, context->fd, context->messages, sizeof(context->messages), 0);
        io_uring_sqe_set_data(sqe, context);
        context->state = CONTEXT_READING;
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

/* ------------------------------------------------------------------ serving */

static void handle_fault(struct fault_service *service, const struct fault_context *context,
                         const struct uffd_msg *fault)
{
        if (hold_answer(context->fd, fault, false) >= 0 && hold_is_write(fault))
                atomic_fetch_add_explicit(&service->writes, 1, memory_order_relaxed);
}

static void tell_client(const struct fault_context *parent, int fd)
{
        struct wire_grandchild message;

        wire_init(&message, WIRE_GRANDCHILD, sizeof(message), 0);
        if (!parent->orphan && parent->client_fd >= 0)
                (void)!wire_send(parent->client_fd, &message, &fd, 1, false);
}

/* Where there is no room for it, the grandchild is its client's alone. */
static void handle_fork(struct fault_service *service, struct fault_context *parent, int fd)
{
        struct fault_context *child = stock_take(&service->stock_fault);

        tell_client(parent, fd);
        if (!child) {
                fd_close(fd);
                return;
        }
        *child = (struct fault_context){.fd = fd,
                                        .used = true,
                                        .orphan = parent->orphan,
                                        .client_fd = parent->client_fd,
                                        .from_fault = true};
        submit_poll(service, child);
        report(service, &(struct fault_report){.kind = FAULT_CHILD, .context = parent, .child = child});
}

static void serve(struct fault_service *service, struct fault_context *context, int n_messages)
{
        for (int i = 0; i < n_messages; i++) {
                const struct uffd_msg *message = &context->messages[i];

                if (message->event == UFFD_EVENT_PAGEFAULT)
                        handle_fault(service, context, message);
                else if (message->event == UFFD_EVENT_FORK)
                        handle_fork(service, context, (int)message->arg.fork.ufd);
        }
}

static void finish_removal(struct fault_service *service, struct fault_context *context)
{
        report(service, &(struct fault_report){.kind = FAULT_REMOVED, .context = context});
}

static void wait_a_moment(struct fault_service *service, struct fault_context *context, uint64_t how_long_ns)
{
        context->due_ns = clock_now() + how_long_ns;
        context->state = CONTEXT_WAITING;
        context->next_waiting = service->waiting;
        service->waiting = context;
}

/* Reads the contexts whose time has come, and says when that of the next will have. */
static void serve_due(struct fault_service *service)
{
        struct fault_context **link = &service->waiting;
        uint64_t now_ns = clock_now();

        service->next_due_ns = UINT64_MAX;
        while (*link) {
                struct fault_context *context = *link;

                if (!context->ending && now_ns < context->due_ns) {
                        service->next_due_ns = MIN(service->next_due_ns, context->due_ns);
                        link = &context->next_waiting;
                        continue;
                }
                *link = context->next_waiting;
                if (context->ending)
                        finish_removal(service, context);
                else
                        submit_read(service, context);
        }
}

/*
 * The client is gone, perhaps having read what it did not answer: whoever waits looks again, and we are the only ones to
 * hear of it.
 */
static void become_orphan(struct fault_context *context)
{
        context->orphan = true;
        context->due_ns = 0;
        (void)!uffd_wake_all(context->fd);
}

static void handle_command(struct fault_service *service, const struct command *command)
{
        struct fault_context *context = command->context;

        switch (command->kind) {
        case COMMAND_ADD:
                submit_poll(service, context);
                break;
        case COMMAND_ORPHAN:
                become_orphan(context);
                break;
        case COMMAND_REMOVE:
                context->ending = true;
                if (context->state != CONTEXT_WAITING)
                        submit_cancel(service, context);
                break;
        case COMMAND_RESTOCK:
                stock_return(&service->stock_fault, context);
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

/* A poll or a read of a context ended: `result` is what the kernel says. */
static void handle_context(struct fault_service *service, struct fault_context *context, int result)
{
        bool read = context->state == CONTEXT_READING, failed = result < 0 && result != -EAGAIN;

        if (read)
                context->away = result > 0;
        if (read && result > 0)
                serve(service, context, result / (int)sizeof(context->messages[0]));
        if (context->ending)
                finish_removal(service, context);
        else if (read && !failed)
                submit_poll(service, context);
        else if (failed) /* there was no descriptor for what it has */
                wait_a_moment(service, context, AWAY_NS);
        else
                wait_a_moment(service, context, context->orphan ? 0 : context->away ? AWAY_NS : PATIENCE_NS);
}

static void handle_completion(struct fault_service *service, const struct io_uring_cqe *cqe)
{
        void *data = io_uring_cqe_get_data(cqe);

        if (data == service)
                handle_commands(service);
        else if (data)
                handle_context(service, data, cqe->res);
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

static void wait_for_work(struct fault_service *service)
{
        struct __kernel_timespec timeout;
        uint64_t now_ns, wait_ns;
        struct io_uring_cqe *cqe;

        if (!service->waiting) {
                io_uring_submit_and_wait(&service->ring, 1);
                return;
        }
        now_ns = clock_now();
        wait_ns = service->next_due_ns > now_ns ? service->next_due_ns - now_ns : 0;
        timeout.tv_sec = (int64_t)(wait_ns / NSEC_PER_SEC);
        timeout.tv_nsec = (int64_t)(wait_ns % NSEC_PER_SEC);
        io_uring_submit_and_wait_timeout(&service->ring, &cqe, 1, &timeout, NULL);
}

static void *fault_main(void *argument)
{
        struct fault_service *service = argument;

        submit_command_read(service);
        while (!service->stopping) {
                struct io_uring_cqe *cqe;
                unsigned head, n = 0;

                wait_for_work(service);
                io_uring_for_each_cqe(&service->ring, head, cqe) {
                        handle_completion(service, cqe);
                        n++;
                }
                io_uring_cq_advance(&service->ring, n);
                if (service->waiting)
                        serve_due(service);
                wake_control(service);
        }
        return NULL;
}

/* ------------------------------------------------------------------ control's side */

static void context_deinit(struct fault_context *context)
{
        if (context->used)
                fd_close(context->fd);
        context->used = false;
}

int fault_service_new(unsigned n_contexts, struct fault_service **ret_service, int *ret_report_fd)
{
        struct fault_service *service = calloc(1, sizeof(*service));
        static const int ring_ops[] = {IORING_OP_READ, IORING_OP_POLL_ADD, IORING_OP_ASYNC_CANCEL};
        int r = -ENOMEM;

        if (!service)
                return -ENOMEM;
        service->command_fd = service->report_fd = -EBADF;
        n_contexts = MIN(n_contexts, (unsigned)QUEUE_ENTRIES / 4);
        service->contexts = calloc(n_contexts, sizeof(*service->contexts));
        if (!service->contexts || spsc_init(&service->commands, QUEUE_ENTRIES, sizeof(struct command)) < 0 ||
            spsc_init(&service->reports, QUEUE_ENTRIES, sizeof(struct fault_report)) < 0)
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

static void command(struct fault_service *service, enum command_kind kind, struct fault_context *context)
{
        const struct command command = {.kind = kind, .context = context};
        uint64_t one = 1;

        /* The fault thread waits for nobody, so there is room in no time. */
        while (!spsc_push(&service->commands, &command))
                poll(NULL, 0, 1);
        while (write(service->command_fd, &one, sizeof(one)) < 0 && errno == EINTR)
                ;
}

void fault_service_stop(struct fault_service *service)
{
        if (service->started) {
                command(service, COMMAND_STOP, NULL);
                pthread_join(service->thread, NULL);
        }
        if (service->ring_made)
                io_uring_queue_exit(&service->ring);
        service->started = service->ring_made = false;
}

struct fault_service *fault_service_free(struct fault_service *service)
{
        if (!service)
                return NULL;
        fault_service_stop(service);
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

int fault_add(struct fault_service *service, int fd, bool orphan, int client_fd, void *owner,
              struct fault_context **ret_context)
{
        struct fault_context *context = stock_take(&service->stock_control);

        if (!context)
                return -EMFILE;
        *context = (struct fault_context){
                .fd = fd, .used = true, .orphan = orphan, .client_fd = client_fd, .owner = owner};
        command(service, COMMAND_ADD, context);
        *ret_context = context;
        return 0;
}

void fault_orphan(struct fault_service *service, struct fault_context *context)
{
        command(service, COMMAND_ORPHAN, context);
}

void fault_remove(struct fault_service *service, struct fault_context *context)
{
        command(service, COMMAND_REMOVE, context);
}

void fault_release(struct fault_service *service, struct fault_context *context)
{
        context_deinit(context);
        if (context->from_fault)
                command(service, COMMAND_RESTOCK, context);
        else
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

int fault_fd(const struct fault_context *context)
{
        return context->fd;
}

void fault_stat(struct fault_service *service, struct fault_stat *ret_stat)
{
        clockid_t clock;

        *ret_stat = (struct fault_stat){
                .writes = atomic_load(&service->writes),
                .cpu_ns = pthread_getcpuclockid(service->thread, &clock) ? 0 : clock_ns(clock),
        };
}
