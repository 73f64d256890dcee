/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Fault injection: a library to be preloaded into wpd, which makes its system calls fail now and then
 *
 * It stands between the daemon and the C library. Each call in the table fails once in so many times, by chance, with the next
 * errno of its row, so that all of them come in turn. Only such are in the table as the kernel could return at that place at
 * that moment; what would be a lie about the past - that a page was copied, that a process that lives is gone for a
 * userfaultfd - is not. Besides, packets to clients are sent late, cut off, or with fewer runs than were planned.
 *
 * None of that may cost a client more than that its memory is not merged, or its connection.
 *
 * WPD_INJECT_SEED    the choices
 * WPD_INJECT_ONE_IN  how rarely a frequent call fails; rare ones fail more often; without it none fails
 *
 * The first failure of each kind is announced on standard error. The wrappers call the kernel by syscall(2), not what they
 * stand before: they work before the loader is done, and under the daemon's filter of system calls.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "kernel/uapi.h"
#include "libwp/wire.h"
#include "model/random.h"
#include "util/clock.h"

#define exported __attribute__((__visibility__("default")))

#define MAX_ERRORS    5
#define QUIET_NS      (300 * NSEC_PER_MSEC) /* three of four daemons start undisturbed */
#define MAX_DELAY_NS  (3 * NSEC_PER_SEC)
#define EVENTFD_BYTES 8

enum call {
        CALL_API,
        CALL_REGISTER,
        CALL_UNREGISTER,
        CALL_WRITEPROTECT,
        CALL_COPY,
        CALL_SCAN,
        CALL_PREAD,
        CALL_PWRITE,
        CALL_FALLOCATE,
        CALL_MMAP,
        CALL_SENDMSG,
        CALL_RECVMSG,
        CALL_ACCEPT,
        CALL_OPEN,
        CALL_READ,
        CALL_READ_EVENT,
        CALL_CREATE,
        CALL_DUPFD,
        CALL_ALLOCATE,
        CALL_DELAY, /* these three are not errors */
        CALL_TEAR,
        CALL_SHORTEN,
        N_CALLS,
};

static struct row {
        const char *name;
        unsigned boost; /* how much more often than a frequent call */
        int errors[MAX_ERRORS];
        _Atomic unsigned next;
        _Atomic unsigned announced; /* a bit for each error */
} rows[N_CALLS] = {
        [CALL_API] = {"UFFDIO_API", 30, {EPERM, EINVAL}},
        [CALL_REGISTER] = {"UFFDIO_REGISTER", 10, {ENOMEM, EBUSY, EINVAL}},
        [CALL_UNREGISTER] = {"UFFDIO_UNREGISTER", 10, {ENOMEM, EINVAL}},
        [CALL_WRITEPROTECT] = {"UFFDIO_WRITEPROTECT", 1, {EAGAIN, ENOMEM}},
        [CALL_COPY] = {"UFFDIO_COPY", 1, {EAGAIN, ENOMEM, ENOENT}},
        [CALL_SCAN] = {"PAGEMAP_SCAN", 1, {ENOMEM, EINTR, ESRCH, EFAULT}},
        [CALL_PREAD] = {"pread", 1, {EIO, ESRCH, EINTR, ENOMEM}},
        [CALL_PWRITE] = {"pwrite", 1, {ENOSPC, ENOMEM, EINTR, EIO}},
        [CALL_FALLOCATE] = {"fallocate", 3, {ENOSPC, EINTR, ENOMEM, EIO}},
        [CALL_MMAP] = {"mmap", 3, {ENOMEM, EAGAIN}},
        [CALL_SENDMSG] = {"sendmsg", 3, {EAGAIN, ENOBUFS, ENOMEM, EINTR}},
        [CALL_RECVMSG] = {"recvmsg", 3, {EAGAIN, EINTR, ENOMEM, ECONNRESET}},
        [CALL_ACCEPT] = {"accept4", 30, {EMFILE, ENFILE, ENOMEM, EINTR, ECONNABORTED}},
        [CALL_OPEN] = {"open", 30, {EMFILE, ENFILE, ENOMEM, EINTR, ESRCH}},
        [CALL_READ] = {"read", 3, {EIO, EINTR, ENOMEM, ESRCH}},
        [CALL_READ_EVENT] = {"read of an event", 1, {EAGAIN, EINTR}},
        [CALL_CREATE] = {"creating a file", 30, {EMFILE, ENFILE, ENOMEM, ENOSPC}},
        [CALL_DUPFD] = {"F_DUPFD_CLOEXEC", 30, {EMFILE}},
        [CALL_ALLOCATE] = {"allocating memory", 1, {ENOMEM}},
        [CALL_DELAY] = {"a late packet", 1, {-1}},
        [CALL_TEAR] = {"a packet cut off", 1, {-1}},
        [CALL_SHORTEN] = {"a batch with fewer runs", 30, {-1}},
};

static _Atomic uint64_t chance;
static uint64_t one_in; /* 0: nothing fails, or not yet */
static uint64_t began_ns;
static bool quiet_start;

__attribute__((__constructor__)) static void begin(void)
{
        const char *seed = getenv("WPD_INJECT_SEED"), *rarely = getenv("WPD_INJECT_ONE_IN");
        uint64_t number = seed ? strtoull(seed, NULL, 10) : 0;

        atomic_store(&chance, number);
        began_ns = clock_now();
        quiet_start = number % 4;
        one_in = rarely ? strtoull(rarely, NULL, 10) : 0;
}

static uint64_t draw(uint64_t n)
{
        struct random random = {.state = atomic_fetch_add(&chance, 1) * UINT64_C(0xd1342543de82ef95)};

        return random_below(&random, n);
}

/* By one write(2): several threads announce. */
static void announce(const struct row *row, int error)
{
        char line[128];
        int n = row >= &rows[CALL_DELAY]
                        ? snprintf(line, sizeof(line), "inject: %s\n", row->name)
                        : snprintf(line, sizeof(line), "inject: %s %s\n", row->name, strerrorname_np(error));

        (void)!syscall(SYS_write, STDERR_FILENO, line, (size_t)n);
}

static unsigned count_errors(const struct row *row)
{
        unsigned n = 0;

        while (n < MAX_ERRORS && row->errors[n])
                n++;
        return n;
}

/* Libraries must have their memory at the start: libseccomp, without it, tries for ever. */
static bool spared(enum call call)
{
        return (quiet_start || call == CALL_ALLOCATE) && clock_now() < began_ns + QUIET_NS;
}

/* Whether this call is to fail: the errno, or 0. */
static int injected(enum call call)
{
        struct row *row = &rows[call];
        unsigned which;

        if (!one_in || draw(MAX(one_in / row->boost, 2)) || spared(call))
                return 0;
        which = atomic_fetch_add(&row->next, 1) % count_errors(row);
        if (!(atomic_fetch_or(&row->announced, 1U << which) & 1U << which))
                announce(row, row->errors[which]);
        return row->errors[which];
}

/* For wrappers: sets errno. */
static bool fails(enum call call)
{
        int error = injected(call);

        if (error)
                errno = error;
        return error;
}

/* ------------------------------------------------------------------ ioctl(2), fcntl(2) */

static bool ioctl_fails(unsigned long request)
{
        switch (request) {
        case UFFDIO_API:
                return fails(CALL_API);
        case UFFDIO_REGISTER:
                return fails(CALL_REGISTER);
        case UFFDIO_UNREGISTER:
                return fails(CALL_UNREGISTER);
        case UFFDIO_WRITEPROTECT:
                return fails(CALL_WRITEPROTECT);
        case UFFDIO_COPY:
                return fails(CALL_COPY);
        case PAGEMAP_SCAN:
                return fails(CALL_SCAN);
        default:
                return false;
        }
}

exported int ioctl(int fd, unsigned long request, ...)
{
        va_list arguments;
        void *argument;

        va_start(arguments, request);
        argument = va_arg(arguments, void *);
        va_end(arguments);
        if (!ioctl_fails(request))
                return (int)syscall(SYS_ioctl, fd, request, argument);
        /* Nothing was done, and the kernel says so here, too. */
        if (request == UFFDIO_COPY)
                ((struct uffdio_copy *)argument)->copy = -errno;
        return -1;
}

exported int fcntl64(int fd, int command, ...)
{
        va_list arguments;
        void *argument;

        va_start(arguments, command);
        argument = va_arg(arguments, void *);
        va_end(arguments);
        if (command == F_DUPFD_CLOEXEC && fails(CALL_DUPFD))
                return -1;
        return (int)syscall(SYS_fcntl, fd, command, argument);
}

/* ------------------------------------------------------------------ files and memory */

exported ssize_t pread64(int fd, void *buffer, size_t n, off_t offset)
{
        return fails(CALL_PREAD) ? -1 : syscall(SYS_pread64, fd, buffer, n, offset);
}

exported ssize_t pwrite64(int fd, const void *buffer, size_t n, off_t offset)
{
        return fails(CALL_PWRITE) ? -1 : syscall(SYS_pwrite64, fd, buffer, n, offset);
}

exported int fallocate64(int fd, int mode, off_t offset, off_t length)
{
        return fails(CALL_FALLOCATE) ? -1 : (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

exported void *mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
        if (fails(CALL_MMAP))
                return MAP_FAILED;
        return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}

/* Of files that are there, for reading only. */
exported int open64(const char *path, int flags, ...)
{
        return fails(CALL_OPEN) ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, 0);
}

/* Only the files of pools are opened in this way. */
exported int openat64(int directory_fd, const char *path, int flags, ...)
{
        va_list arguments;
        mode_t mode;

        va_start(arguments, flags);
        mode = va_arg(arguments, mode_t);
        va_end(arguments);
        return fails(CALL_CREATE) ? -1 : (int)syscall(SYS_openat, directory_fd, path, flags, mode);
}

/* What an eventfd or a timer holds is read again later; other errors are not theirs. */
exported ssize_t read(int fd, void *buffer, size_t n)
{
        return fails(n == EVENTFD_BYTES ? CALL_READ_EVENT : CALL_READ) ? -1
                                                                       : syscall(SYS_read, fd, buffer, n);
}

/* ------------------------------------------------------------------ sockets */

exported int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
        return fails(CALL_ACCEPT) ? -1 : (int)syscall(SYS_accept4, fd, address, length, flags);
}

exported ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
        return fails(CALL_RECVMSG) ? -1 : syscall(SYS_recvmsg, fd, message, flags);
}

/* The whole packet, in one piece, is a message to a client. */
static struct wire_header *client_message(const struct msghdr *message)
{
        struct wire_header *header = message->msg_iov->iov_base;

        if (message->msg_iovlen != 1 || message->msg_iov->iov_len < sizeof(*header))
                return NULL;
        return header->size == message->msg_iov->iov_len && header->type < WIRE_N_TYPES ? header : NULL;
}

/* Leaves some runs of a batch out, at the end of it. */
static size_t shorten(struct wire_header *header)
{
        struct wire_batch *batch = (struct wire_batch *)header;

        if (header->type == WIRE_BATCH && batch->n_runs > 1 && injected(CALL_SHORTEN)) {
                batch->n_runs = 1 + (uint32_t)draw(batch->n_runs - 1);
                header->size = (uint32_t)(sizeof(*batch) + batch->n_runs * sizeof(batch->runs[0]));
        }
        return header->size;
}

/* Sends another packet than the daemon wanted; it does not learn of that. */
static ssize_t send_changed(int fd, const struct msghdr *message, int flags)
{
        static _Thread_local uint64_t copy[WIRE_MAX_MESSAGE / sizeof(uint64_t)];
        const struct wire_header *header = client_message(message);
        struct iovec data = {.iov_base = copy};
        struct msghdr changed = *message;
        ssize_t r;

        if (!header || header->size > sizeof(copy))
                return syscall(SYS_sendmsg, fd, message, flags);
        memcpy(copy, header, header->size);
        data.iov_len = shorten((struct wire_header *)copy);
        if (injected(CALL_TEAR))
                data.iov_len = 1 + draw(data.iov_len);
        changed.msg_iov = &data;
        r = syscall(SYS_sendmsg, fd, &changed, flags);
        return r < 0 ? r : (ssize_t)message->msg_iov->iov_len;
}

exported ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
        uint64_t delay;

        if (fails(CALL_SENDMSG))
                return -1;
        if (injected(CALL_DELAY)) {
                delay = draw(MAX_DELAY_NS);
                nanosleep(&(struct timespec){.tv_sec = (time_t)(delay / NSEC_PER_SEC),
                                             .tv_nsec = (long)(delay % NSEC_PER_SEC)},
                          NULL);
        }
        return send_changed(fd, message, flags);
}

/* ------------------------------------------------------------------ memory of the daemon's own */

/* Of glibc. realloc(3) is left alone: libev aborts when it has no memory. */
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *memory, size_t size);

exported void *calloc(size_t n, size_t size)
{
        return fails(CALL_ALLOCATE) ? NULL : __libc_calloc(n, size);
}

exported void *reallocarray(void *memory, size_t n, size_t size)
{
        size_t bytes;

        if (__builtin_mul_overflow(n, size, &bytes) || fails(CALL_ALLOCATE)) {
                errno = ENOMEM;
                return NULL;
        }
        return __libc_realloc(memory, bytes);
}
