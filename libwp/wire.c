/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The client protocol: checking, sending and receiving messages
 *
 * Nothing here allocates and nothing is kept: a thread that must not touch the program's heap can use all of
 * it. Messages are read by copying, so that a buffer needs no alignment.
 */

#include "libwp/wire.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "util/cleanup.h"

#define MAX_ERRNO 4095

struct wire_spec {
        size_t size; /* of the fixed part; 0 for no such type */
        size_t item; /* of one element of the array behind it, 0 when there is none */
        uint32_t max_items;
        unsigned n_fds;
        enum wire_side sender;
        const char *(*check)(const void *message); /* what is wrong with the body, or NULL */
};

/* All messages with an array have its length in the same place. */
_Static_assert(offsetof(struct wire_batch, n_runs) == offsetof(struct wire_result, n_runs), "one reader");
_Static_assert(offsetof(struct wire_batch, n_runs) == offsetof(struct wire_faults, n_faults), "one reader");
_Static_assert(offsetof(struct wire_batch, n_runs) == offsetof(struct wire_written, n_ranges), "one reader");
_Static_assert(sizeof(struct wire_faults) + WIRE_FAULTS_MAX * sizeof(struct wire_fault) <= WIRE_MAX_MESSAGE,
               "");
_Static_assert(sizeof(struct wire_batch) + WIRE_BATCH_RUNS * sizeof(struct wire_run) <= WIRE_MAX_MESSAGE, "");
_Static_assert(sizeof(struct wire_result) + WIRE_BATCH_RUNS * sizeof(struct wire_run_result) <=
                       WIRE_MAX_MESSAGE,
               "");

static uint32_t n_items_of(const void *message)
{
        uint32_t n_items;

        memcpy(&n_items, (const char *)message + offsetof(struct wire_batch, n_runs), sizeof(n_items));
        return n_items;
}

static bool error_valid(int32_t error)
{
        return error <= 0 && error >= -MAX_ERRNO;
}

static const char *check_hello(const void *message)
{
        struct wire_hello hello;

        memcpy(&hello, message, sizeof(hello));
        return hello.reserved ? "a reserved field is not zero" : NULL;
}

static const char *check_welcome(const void *message)
{
        struct wire_welcome welcome;

        memcpy(&welcome, message, sizeof(welcome));
        return welcome.reserved ? "a reserved field is not zero" : NULL;
}

static const char *check_contexts(const void *message)
{
        struct wire_contexts contexts;

        memcpy(&contexts, message, sizeof(contexts));
        if (contexts.flags & ~WIRE_CONTEXTS_RESUMED)
                return "an unknown flag";
        return contexts.reserved ? "a reserved field is not zero" : NULL;
}

static const char *check_child(const void *message)
{
        struct wire_child child;

        memcpy(&child, message, sizeof(child));
        if (child.flags & ~WIRE_CHILD_SOLE)
                return "an unknown flag";
        return child.reserved ? "a reserved field is not zero" : NULL;
}

static const char *check_file(const void *message)
{
        struct wire_file file;

        memcpy(&file, message, sizeof(file));
        if (file.file >= WIRE_FILES)
                return "a number that no file has";
        return file.reserved ? "a reserved field is not zero" : NULL;
}

static const char *check_range(const void *message)
{
        struct wire_range range;

        memcpy(&range, message, sizeof(range));
        return range.reserved ? "a reserved field is not zero" : NULL;
}

static const char *check_region(const void *message)
{
        struct wire_range range;

        memcpy(&range, message, sizeof(range));
        if (range.offset || range.length)
                return "a range where the whole region is meant";
        return range.reserved ? "a reserved field is not zero" : NULL;
}

static const char *check_reply(const void *message)
{
        struct wire_reply reply;

        memcpy(&reply, message, sizeof(reply));
        if (!error_valid(reply.error))
                return "an error that is no negative errno";
        return memchr(reply.detail, '\0', sizeof(reply.detail)) ? NULL : "a string without an end";
}

static const char *check_run(const struct wire_run *run)
{
        uint64_t length = (uint64_t)run->n_pages << PAGE_SHIFT;

        if (run->kind < WIRE_RUN_MERGE || run->kind >= WIRE_RUN_N_KINDS)
                return "an unknown kind of run";
        if (run->n_pages < 1 || run->n_pages > WIRE_RUN_PAGES)
                return "a run that is empty or too long";
        if (!page_aligned(run->address) || !page_aligned(run->pool_offset))
                return "a run that is not page aligned";
        if (run->address > UINT64_MAX - length || run->pool_offset > UINT64_MAX - length)
                return "a run that wraps around";
        if ((run->kind == WIRE_RUN_ZERO || run->kind == WIRE_RUN_UNMERGE) && run->pool_offset)
                return "an offset where no pool page is meant";
        if (run->file >= (run->kind == WIRE_RUN_ALIAS ? WIRE_FILES : 1))
                return "a number that no file has";
        return run->reserved ? "a reserved field is not zero" : NULL;
}

static const char *check_batch(const void *message)
{
        const char *runs = (const char *)message + sizeof(struct wire_batch), *reason = NULL;
        struct wire_batch batch;
        struct wire_run run;

        memcpy(&batch, message, sizeof(batch));
        for (uint32_t i = 0; i < batch.n_runs && !reason; i++) {
                memcpy(&run, runs + i * sizeof(run), sizeof(run));
                reason = check_run(&run);
        }
        return batch.reserved ? "a reserved field is not zero" : reason;
}

static const char *check_run_result(const struct wire_run_result *result)
{
        uint64_t done = 0, both = 0;

        for (unsigned i = 0; i < ARRAY_SIZE(result->done); i++) {
                done |= result->done[i];
                both |= result->done[i] & result->busy[i];
        }
        if (!error_valid(result->error))
                return "an error that is no negative errno";
        if (both || (result->error && done))
                return "a result that contradicts itself";
        return result->reserved ? "a reserved field is not zero" : NULL;
}

static const char *check_result(const void *message)
{
        const char *runs = (const char *)message + sizeof(struct wire_result), *reason = NULL;
        struct wire_result head;
        struct wire_run_result result;

        memcpy(&head, message, sizeof(head));
        for (uint32_t i = 0; i < head.n_runs && !reason; i++) {
                memcpy(&result, runs + i * sizeof(result), sizeof(result));
                reason = check_run_result(&result);
        }
        return head.reserved ? "a reserved field is not zero" : reason;
}

static const char *check_written(const void *message)
{
        const char *ranges = (const char *)message + sizeof(struct wire_written);
        struct wire_written head;
        struct wire_written_range range;

        memcpy(&head, message, sizeof(head));
        for (uint32_t i = 0; i < head.n_ranges; i++) {
                memcpy(&range, ranges + i * sizeof(range), sizeof(range));
                if (!range.length || !page_aligned(range.address) || !page_aligned(range.length))
                        return "a range that is empty or not page aligned";
                if (range.address > UINT64_MAX - range.length)
                        return "a range that wraps around";
        }
        return head.reserved ? "a reserved field is not zero" : NULL;
}

static const char *check_faults(const void *message)
{
        const char *faults = (const char *)message + sizeof(struct wire_faults);
        struct wire_faults head;
        struct wire_fault fault;

        memcpy(&head, message, sizeof(head));
        for (uint32_t i = 0; i < head.n_faults; i++) {
                memcpy(&fault, faults + i * sizeof(fault), sizeof(fault));
                if (fault.kind < WIRE_FAULT_WRITE || fault.kind >= WIRE_FAULT_N_KINDS)
                        return "an unknown kind of fault";
        }
        return head.reserved ? "a reserved field is not zero" : NULL;
}

static const struct wire_spec specs[WIRE_N_TYPES] = {
        [WIRE_HELLO] = {sizeof(struct wire_hello), 0, 0, 2, WIRE_FROM_CLIENT, check_hello},
        [WIRE_WELCOME] = {sizeof(struct wire_welcome), 0, 0, 2, WIRE_FROM_DAEMON, check_welcome},
        [WIRE_CONTEXTS] = {sizeof(struct wire_contexts), 0, 0, WIRE_MAX_FDS, WIRE_FROM_CLIENT,
                           check_contexts},
        [WIRE_REGISTER] = {sizeof(struct wire_register), 0, 0, 0, WIRE_FROM_CLIENT, NULL},
        [WIRE_UNREGISTER] = {sizeof(struct wire_range), 0, 0, 0, WIRE_FROM_CLIENT, check_region},
        [WIRE_EXCLUDE] = {sizeof(struct wire_range), 0, 0, 0, WIRE_FROM_CLIENT, check_range},
        [WIRE_INCLUDE] = {sizeof(struct wire_range), 0, 0, 0, WIRE_FROM_CLIENT, check_range},
        [WIRE_PROTECT] = {sizeof(struct wire_range), 0, 0, 0, WIRE_FROM_CLIENT, check_range},
        [WIRE_RELEASE] = {sizeof(struct wire_range), 0, 0, 0, WIRE_FROM_CLIENT, check_range},
        [WIRE_MERGE] = {sizeof(struct wire_range), 0, 0, 0, WIRE_FROM_CLIENT, check_range},
        [WIRE_UNMERGE] = {sizeof(struct wire_range), 0, 0, 0, WIRE_FROM_CLIENT, check_range},
        [WIRE_STAT] = {sizeof(struct wire_range), 0, 0, 0, WIRE_FROM_CLIENT, check_region},
        [WIRE_REPLY] = {sizeof(struct wire_reply), 0, 0, 0, WIRE_FROM_DAEMON, check_reply},
        [WIRE_BATCH] = {sizeof(struct wire_batch), sizeof(struct wire_run), WIRE_BATCH_RUNS, 0,
                        WIRE_FROM_DAEMON, check_batch},
        [WIRE_RESULT] = {sizeof(struct wire_result), sizeof(struct wire_run_result), WIRE_BATCH_RUNS, 0,
                         WIRE_FROM_CLIENT, check_result},
        [WIRE_WRITTEN] = {sizeof(struct wire_written), sizeof(struct wire_written_range), WIRE_RANGES_MAX, 0,
                          WIRE_FROM_DAEMON, check_written},
        [WIRE_FAULTS] = {sizeof(struct wire_faults), sizeof(struct wire_fault), WIRE_FAULTS_MAX, 0,
                         WIRE_FROM_CLIENT, check_faults},
        [WIRE_CHILD] = {sizeof(struct wire_child), 0, 0, 1, WIRE_FROM_CLIENT, check_child},
        [WIRE_GRANDCHILD] = {sizeof(struct wire_grandchild), 0, 0, 1, WIRE_FROM_DAEMON, NULL},
        [WIRE_BYE] = {sizeof(struct wire_bye), 0, 0, 0, WIRE_FROM_CLIENT, NULL},
        [WIRE_FILE] = {sizeof(struct wire_file), 0, 0, 1, WIRE_FROM_DAEMON, check_file},
        [WIRE_FILE_GONE] = {sizeof(struct wire_file), 0, 0, 0, WIRE_FROM_DAEMON, check_file},
};

/* Whether the message has exactly the size that its type, and its count if there is one, ask for. */
static const char *check_size(const struct wire_spec *spec, const void *message, size_t length)
{
        uint32_t n_items;

        if (length < spec->size)
                return "a message shorter than its type";
        if (!spec->item)
                return length == spec->size ? NULL : "a message longer than its type";
        n_items = n_items_of(message);
        if (n_items < 1 || n_items > spec->max_items)
                return "a count out of bounds";
        return length == spec->size + n_items * spec->item ? NULL : "a count that is not the list's length";
}

static const char *check_message(const void *message, size_t length, unsigned n_fds, enum wire_side sender)
{
        const struct wire_spec *spec;
        struct wire_header header;
        const char *reason;

        if (length < sizeof(header))
                return "a packet shorter than a header";
        memcpy(&header, message, sizeof(header));
        if (header.size != length)
                return "a header that does not give the packet's length";
        if (header.type >= WIRE_N_TYPES || !specs[header.type].size)
                return "an unknown type of message";
        spec = &specs[header.type];
        if (spec->sender != sender)
                return "a message that this side may not send";
        if (spec->n_fds != n_fds)
                return "the wrong number of descriptors";
        reason = check_size(spec, message, length);
        return reason || !spec->check ? reason : spec->check(message);
}

int wire_check(const void *message, size_t length, unsigned n_fds, enum wire_side sender,
               const char **ret_reason)
{
        const char *reason = check_message(message, length, n_fds, sender);

        if (!reason)
                return 0;
        *ret_reason = reason;
        return -EBADMSG;
}

void wire_init(void *message, enum wire_type type, size_t size, uint64_t serial)
{
        struct wire_header header = {.type = type, .size = (uint32_t)size, .serial = serial};

        memcpy(message, &header, sizeof(header));
}

/* Alignment can leave room for one descriptor more than a message may have: all that fit are counted, and
 * closed. */
#define CONTROL_FDS ((CMSG_SPACE(WIRE_MAX_FDS * sizeof(int)) - CMSG_LEN(0)) / sizeof(int))

union control {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(WIRE_MAX_FDS * sizeof(int))];
};

/* A socket may be O_NONBLOCK, a flag that others who hold it can set: waiting is done here. */
static long wait_for(int socket_fd, short events)
{
        struct pollfd pollfd = {.fd = socket_fd, .events = events};

        return error_from(poll(&pollfd, 1, -1));
}

static int send_packet(int socket_fd, const struct msghdr *message, bool wait)
{
        for (;;) {
                long r = error_from(sendmsg(socket_fd, message, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT)));

                if (r >= 0)
                        return 0;
                if (r == -EAGAIN && wait)
                        r = wait_for(socket_fd, POLLOUT);
                if (r < 0 && r != -EINTR)
                        return (int)r;
        }
}

int wire_send(int socket_fd, const void *message, const int *fds, unsigned n_fds, bool wait)
{
        union control control = {.bytes = {0}};
        struct wire_header header;
        struct iovec iovec = {.iov_base = (void *)message};
        struct msghdr packet = {.msg_iov = &iovec, .msg_iovlen = 1};

        if (n_fds > WIRE_MAX_FDS)
                return -EINVAL;
        memcpy(&header, message, sizeof(header));
        iovec.iov_len = header.size;
        if (n_fds > 0) {
                control.align.cmsg_level = SOL_SOCKET;
                control.align.cmsg_type = SCM_RIGHTS;
                control.align.cmsg_len = CMSG_LEN(n_fds * sizeof(int));
                memcpy(CMSG_DATA(&control.align), fds, n_fds * sizeof(int));
                packet.msg_control = &control;
                packet.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        }
        return send_packet(socket_fd, &packet, wait);
}

/*
 * A peer that ended with something unread has reset the connection. That is reported once, and before what it had sent,
 * which must not be lost: contexts of children are among it.
 */
static int receive_packet(int socket_fd, struct msghdr *packet, bool wait)
{
        for (;;) {
                long r = error_from(recvmsg(socket_fd, packet, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT)));

                if (r >= 0)
                        return (int)r;
                if (r == -EAGAIN && wait)
                        r = wait_for(socket_fd, POLLIN);
                if (r < 0 && r != -EINTR && r != -ECONNRESET)
                        return (int)r;
        }
}

static void close_one(void *context, int fd)
{
        fd_close(fd);
}

static void close_all(const int *fds, unsigned n_fds, wire_dispose dispose, void *context)
{
        while (n_fds > 0)
                dispose(context, fds[--n_fds]);
}

/* Takes every descriptor that the kernel has installed: at most CONTROL_FDS. */
static unsigned collect_fds(struct msghdr *packet, int *fds)
{
        unsigned n_fds = 0;

        for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(packet); cmsg; cmsg = CMSG_NXTHDR(packet, cmsg)) {
                size_t n = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);

                if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
                        continue;
                memcpy(fds + n_fds, CMSG_DATA(cmsg), n * sizeof(int));
                n_fds += (unsigned)n;
        }
        return n_fds;
}

/* A list is cut as well when this process can have no more descriptors: then fewer have come than would fit.
 */
static int check_packet(int flags, unsigned n_fds)
{
        if (flags & MSG_TRUNC || n_fds > WIRE_MAX_FDS)
                return -EBADMSG;
        if (flags & MSG_CTRUNC)
                return n_fds < CONTROL_FDS ? -EMFILE : -EBADMSG;
        return 0;
}

int wire_receive(int socket_fd, void *buffer, int *fds, unsigned *ret_n_fds, bool wait)
{
        return wire_receive_from_stranger(socket_fd, buffer, fds, ret_n_fds, wait, close_one, NULL);
}

int wire_receive_from_stranger(int socket_fd, void *buffer, int *fds, unsigned *ret_n_fds, bool wait,
                               wire_dispose dispose, void *context)
{
        struct iovec iovec = {.iov_base = buffer, .iov_len = WIRE_MAX_MESSAGE};
        union control control;
        struct msghdr packet = {.msg_iov = &iovec,
                                .msg_iovlen = 1,
                                .msg_control = &control,
                                .msg_controllen = sizeof(control)};
        int received[CONTROL_FDS], length, r;
        unsigned n_fds;

        length = receive_packet(socket_fd, &packet, wait);
        if (length < 0)
                return length;
        n_fds = collect_fds(&packet, received);
        r = check_packet(packet.msg_flags, n_fds);
        if (r < 0 || length == 0) {
                close_all(received, n_fds, dispose, context);
                return r;
        }
        memcpy(fds, received, n_fds * sizeof(int));
        *ret_n_fds = n_fds;
        return length;
}
