/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What the programs of this folder share. */

#include "fact.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#define WATCHDOG_SECONDS 60

static const char *volatile current_step = "the start";

void fact_failed(const char *file, int line, const char *expected, const char *format, ...)
{
        va_list arguments;

        printf("%s:%d: expected: %s; seen: ", file, line, expected);
        va_start(arguments, format);
        vprintf(format, arguments);
        va_end(arguments);
        putchar('\n');
        fflush(stdout);
        /* Threads may be waiting in the kernel for this one, and a child must not run its parent's handlers.
         */
        _exit(1);
}

long fact_ok(const char *file, int line, const char *expression, long result)
{
        if (result < 0)
                fact_failed(file, line, expression, "%s", strerror((int)-result));
        return result;
}

void fact_error(const char *file, int line, const char *expression, long result, int expected)
{
        char text[256];

        if (result == -expected)
                return;
        snprintf(text, sizeof(text), "%s is \"%s\"", expression, strerror(expected));
        if (result < 0)
                fact_failed(file, line, text, "%s", strerror((int)-result));
        fact_failed(file, line, text, "success (%ld)", result);
}

void fact_value(const char *file, int line, const char *expression, long result, long expected)
{
        char text[256];

        if (result == expected)
                return;
        snprintf(text, sizeof(text), "%s is %ld", expression, expected);
        if (result < 0)
                fact_failed(file, line, text, "%s", strerror((int)-result));
        fact_failed(file, line, text, "%ld", result);
}

void fact_skip(const char *format, ...)
{
        va_list arguments;

        printf("skipped: ");
        va_start(arguments, format);
        vprintf(format, arguments);
        va_end(arguments);
        putchar('\n');
        fflush(stdout);
        _exit(77);
}

static void on_alarm(int signal)
{
        static const char text[] = "hang, in step: ";

        (void)signal;
        (void)!write(STDOUT_FILENO, text, sizeof(text) - 1);
        (void)!write(STDOUT_FILENO, current_step, strlen(current_step));
        (void)!write(STDOUT_FILENO, "\n", 1);
        _exit(1);
}

void fact_begin(void)
{
        struct sigaction action = {.sa_handler = on_alarm};

        setvbuf(stdout, NULL, _IOLBF, 0);
        sigaction(SIGALRM, &action, NULL);
        alarm(WATCHDOG_SECONDS);
}

void fact_step(const char *step)
{
        current_step = step;
}

int fact_device(void)
{
        int device = uffd_open_device();

        if (device < 0)
                fact_skip("/dev/userfaultfd: %s", strerror(-device));
        return device;
}

void fact_api(int device, int context, uint64_t features)
{
        _cleanup_fd_ int probe = (int)FACT_OK(uffd_create(device));
        uint64_t present;

        FACT_OK(uffd_probe(probe, &present));
        if (features & ~present)
                fact_skip("this kernel lacks the userfaultfd features %#llx",
                          (unsigned long long)(features & ~present));
        int r = uffd_api(context, features);
        if (r == -EPERM)
                fact_skip("these userfaultfd features need CAP_SYS_PTRACE");
        FACT_OK(r);
}

int fact_context(int device, uint64_t features)
{
        int context = (int)FACT_OK(uffd_create(device));

        fact_api(device, context, features);
        return context;
}

char *fact_map(size_t n_pages)
{
        char *pages =
                mmap(NULL, n_pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        FACT_CHECK(pages != MAP_FAILED, "%m");
        FACT_OK(error_from(madvise(pages, n_pages * PAGE_BYTES, MADV_NOHUGEPAGE)));
        return pages;
}

/* One step of splitmix64. */
static uint64_t mix(uint64_t x)
{
        x += UINT64_C(0x9e3779b97f4a7c15);
        x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
        return x ^ x >> 31;
}

void fact_fill(char *pages, size_t n_pages, uint64_t seed)
{
        uint64_t *words = (uint64_t *)(void *)pages;

        for (size_t i = 0; i < n_pages * PAGE_BYTES / sizeof(*words); i++)
                words[i] = mix(seed << 32 | i);
}

bool fact_filled(const char *pages, size_t n_pages, uint64_t seed)
{
        const uint64_t *words = (const uint64_t *)(const void *)pages;

        for (size_t i = 0; i < n_pages * PAGE_BYTES / sizeof(*words); i++)
                if (words[i] != mix(seed << 32 | i))
                        return false;
        return true;
}

bool fact_zero(const char *pages, size_t n_pages)
{
        for (size_t i = 0; i < n_pages * PAGE_BYTES; i++)
                if (pages[i])
                        return false;
        return true;
}

void fact_pool(struct fact_pool *pool, size_t n_pages, uint64_t seed)
{
        _cleanup_free_ char *content = aligned_alloc(PAGE_BYTES, n_pages * PAGE_BYTES);

        FACT_CHECK(content, "no memory");
        pool->mount = poolfile_mount();
        if (pool->mount < 0)
                fact_skip("a detached tmpfs with noswap: %s", strerror(-pool->mount));
        pool->n_pages = n_pages;
        FACT_OK(poolfile_create(pool->mount, "pool", &pool->writable));
        FACT_OK(poolfile_reopen(pool->writable, &pool->readonly));
        FACT_OK(ftruncate(pool->writable, (off_t)(n_pages * PAGE_BYTES)));
        fact_fill(content, n_pages, seed);
        FACT_OK(poolfile_write(pool->writable, 0, content, n_pages * PAGE_BYTES));
}

bool fact_pool_intact(const struct fact_pool *pool, uint64_t seed)
{
        _cleanup_free_ char *content = malloc(pool->n_pages * PAGE_BYTES);

        FACT_CHECK(content, "no memory");
        for (size_t at = 0; at < pool->n_pages * PAGE_BYTES;) {
                long n = FACT_OK(error_from(
                        pread(pool->readonly, content + at, pool->n_pages * PAGE_BYTES - at, (off_t)at)));

                FACT_CHECK(n > 0, "end of file at %zu", at);
                at += (size_t)n;
        }
        return fact_filled(content, pool->n_pages, seed);
}

char *fact_map_pool(const struct fact_pool *pool, size_t first, size_t n_pages)
{
        char *pages = mmap(NULL, n_pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, pool->readonly,
                           (off_t)(first * PAGE_BYTES));

        FACT_CHECK(pages != MAP_FAILED, "%m");
        FACT_OK(error_from(madvise(pages, n_pages * PAGE_BYTES, MADV_POPULATE_READ)));
        return pages;
}

char *fact_map_merged(int hold, const struct fact_pool *pool, size_t first, size_t n_pages)
{
        char *pages = fact_map_pool(pool, first, n_pages);

        FACT_OK(uffd_register(hold, (uintptr_t)pages, n_pages * PAGE_BYTES, HOLD_MODES));
        FACT_OK(uffd_write_protect(hold, (uintptr_t)pages, n_pages * PAGE_BYTES, true));
        return pages;
}

/*
 * Lists the populated pages of [start, end) that are not the zero page and belong to each of these
 * categories.
 */
static long scan(int pagemap, uint64_t start, uint64_t end, uint64_t categories, struct page_region *runs,
                 size_t n_runs, uint64_t *ret_walked)
{
        struct pm_scan_arg arg = {
                .size = sizeof(arg),
                .start = start,
                .end = end,
                .vec = (uintptr_t)runs,
                .vec_len = n_runs,
                .category_inverted = PAGE_IS_PFNZERO,
                .category_mask = PAGE_IS_PFNZERO | PAGE_IS_PRESENT | categories,
                .return_mask = PAGE_IS_PRESENT | categories,
        };
        long r = error_from(ioctl(pagemap, PAGEMAP_SCAN, &arg));

        if (r >= 0)
                *ret_walked = arg.walk_end;
        return r;
}

int fact_pagemap(void)
{
        int pagemap = (int)FACT_OK(error_from(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)));
        struct page_region run;
        uint64_t walked;
        long r = scan(pagemap, 0, PAGE_BYTES, 0, &run, 1, &walked);

        if (r == -ENOTTY || r == -EINVAL)
                fact_skip("this kernel lacks PAGEMAP_SCAN");
        FACT_OK(r);
        return pagemap;
}

size_t fact_populated(int pagemap, const char *pages, size_t n_pages, uint64_t categories)
{
        uint64_t at = (uintptr_t)pages, end = at + n_pages * PAGE_BYTES;
        struct page_region runs[8];
        size_t n = 0;

        while (at < end) {
                uint64_t walked;
                long n_runs = FACT_OK(scan(pagemap, at, end, categories, runs, ARRAY_SIZE(runs), &walked));

                FACT_CHECK(walked > at, "no progress at %#llx", (unsigned long long)at);
                for (long i = 0; i < n_runs; i++)
                        n += (runs[i].end - runs[i].start) / PAGE_BYTES;
                at = walked;
        }
        return n;
}

typedef int (*survey_function)(int pagemap_fd, uint64_t start, uint64_t end, struct page_region *runs,
                               size_t n_runs, uint64_t *ret_walked);

static size_t count_listed(survey_function survey, int pagemap, const char *pages, size_t n_pages)
{
        uint64_t at = (uintptr_t)pages, end = at + n_pages * PAGE_BYTES;
        struct page_region runs[8];
        size_t n = 0;

        while (at < end) {
                uint64_t walked;
                long n_runs = FACT_OK(survey(pagemap, at, end, runs, ARRAY_SIZE(runs), &walked));

                FACT_CHECK(walked > at && walked <= end, "from %#llx up to %#llx", (unsigned long long)at,
                           (unsigned long long)walked);
                FACT_CHECK(walked == end || n_runs == (long)ARRAY_SIZE(runs), "ended early with %ld runs",
                           n_runs);
                for (long i = 0; i < n_runs; i++) {
                        FACT_CHECK(runs[i].start >= at && runs[i].start < runs[i].end &&
                                           runs[i].end <= walked,
                                   "a run from %#llx to %#llx", (unsigned long long)runs[i].start,
                                   (unsigned long long)runs[i].end);
                        n += (runs[i].end - runs[i].start) / PAGE_BYTES;
                        at = runs[i].end;
                }
                at = walked;
        }
        return n;
}

size_t fact_written(int pagemap, const char *pages, size_t n_pages)
{
        return count_listed(pagemap_survey, pagemap, pages, n_pages);
}

size_t fact_copied(int pagemap, const char *pages, size_t n_pages)
{
        return count_listed(pagemap_survey_copied, pagemap, pages, n_pages);
}

#define ENTRY_SOFT_DIRTY (UINT64_C(1) << 55)

uint64_t fact_entry(int pagemap, const char *page)
{
        uint64_t entry;
        off_t offset = (off_t)((uintptr_t)page / PAGE_BYTES * sizeof(entry));

        FACT_CHECK(pread(pagemap, &entry, sizeof(entry), offset) == sizeof(entry), "%m");
        /* Some kernels have it set for whatever is in a new mapping, also where nothing is. */
        return entry & ~ENTRY_SOFT_DIRTY;
}

void fact_wait_message(int context)
{
        struct pollfd fd = {.fd = context, .events = POLLIN};

        FACT_OK(error_from(poll(&fd, 1, -1)));
        FACT_CHECK(fd.revents == POLLIN, "poll says %#x", (unsigned)fd.revents);
}

struct uffd_msg fact_message(int context, uint8_t event)
{
        struct uffd_msg message;

        /* A fault that was answered between poll() and read() is gone: ask again. */
        do
                fact_wait_message(context);
        while (!FACT_OK(uffd_read(context, &message, 1)));
        FACT_CHECK(message.event == event, "event %#x instead of %#x", message.event, event);
        return message;
}

struct uffd_msg fact_fault(int context, const char *page, uint64_t flags)
{
        struct uffd_msg message = fact_message(context, UFFD_EVENT_PAGEFAULT);

        FACT_CHECK(page_down(message.arg.pagefault.address) == page_down((uintptr_t)page),
                   "a fault at %#llx instead of page %p", (unsigned long long)message.arg.pagefault.address,
                   (const void *)page);
        FACT_CHECK(message.arg.pagefault.flags == flags, "fault flags %#llx instead of %#llx",
                   (unsigned long long)message.arg.pagefault.flags, (unsigned long long)flags);
        return message;
}

bool fact_quiet(int context)
{
        struct pollfd fd = {.fd = context, .events = POLLIN};

        return FACT_OK(error_from(poll(&fd, 1, 0))) == 0;
}

static void *access_run(void *argument)
{
        struct fact_access *access = argument;

        access->tid = gettid();
        if (access->write)
                *access->address = access->value;
        else
                access->value = *access->address;
        atomic_store(&access->done, true);
        return NULL;
}

void fact_access_start(struct fact_access *access, void *address, bool write, char value)
{
        access->address = address;
        access->write = write;
        access->value = value;
        atomic_store(&access->done, false);
        FACT_OK(-pthread_create(&access->thread, NULL, access_run, access));
}

void fact_access_join(struct fact_access *access)
{
        FACT_OK(-pthread_join(access->thread, NULL));
}

void fact_pause(void)
{
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
}

/* Returns 0, or -EAGAIN when an event must be read before this fault can be answered. */
static int server_answer(struct fact_server *server, const struct uffd_msg *fault)
{
        uint64_t address = fault->arg.pagefault.address;
        int r;

        if (!(fault->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP)) {
                r = hold_answer_minor(server->context, address, false);
                if (r > 0)
                        atomic_fetch_add(&server->n_zeros, 1);
        } else {
                r = hold_answer_write(server->context, address);
        }
        return MIN(r, 0);
}

static void server_count(struct fact_server *server, const struct uffd_msg *message)
{
        switch (message->event) {
        case UFFD_EVENT_PAGEFAULT:
                if (!(message->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP))
                        atomic_fetch_add(&server->n_minors, 1);
                else
                        atomic_fetch_add(&server->n_writes, 1);
                break;
        case UFFD_EVENT_FORK:
                fd_close(server->child);
                server->child = (int)message->arg.fork.ufd;
                atomic_fetch_add(&server->n_forks, 1);
                break;
        case UFFD_EVENT_REMAP:
                atomic_fetch_add(&server->n_remaps, 1);
                break;
        default:
                FACT_CHECK(false, "event %#x", message->event);
        }
}

static void *server_run(void *argument)
{
        struct fact_server *server = argument;
        struct uffd_msg deferred[64];
        size_t n_deferred = 0;

        for (;;) {
                struct pollfd fds[] = {{.fd = server->context, .events = POLLIN},
                                       {.fd = server->stop, .events = POLLIN}};
                struct uffd_msg message;

                /* Deferred faults wait for an event whose message is on its way: look again without sleeping.
                 */
                FACT_OK(error_from(poll(fds, ARRAY_SIZE(fds), n_deferred > 0 ? 0 : -1)));
                if (fds[1].revents && !n_deferred)
                        return NULL;
                if (fds[0].revents && FACT_OK(uffd_read(server->context, &message, 1)) > 0) {
                        server_count(server, &message);
                        if (message.event == UFFD_EVENT_PAGEFAULT) {
                                FACT_CHECK(n_deferred < ARRAY_SIZE(deferred), "too many unanswered faults");
                                deferred[n_deferred++] = message;
                        }
                }
                while (n_deferred > 0) {
                        int r = server_answer(server, &deferred[n_deferred - 1]);

                        if (r == -EAGAIN)
                                break;
                        FACT_OK(r);
                        n_deferred--;
                }
        }
}

void fact_server_start(struct fact_server *server, int context)
{
        server->context = context;
        server->stop = (int)FACT_OK(error_from(eventfd(0, EFD_CLOEXEC)));
        server->child = -EBADF;
        FACT_OK(-pthread_create(&server->thread, NULL, server_run, server));
}

void fact_server_stop(struct fact_server *server)
{
        FACT_OK(error_from(eventfd_write(server->stop, 1)));
        FACT_OK(-pthread_join(server->thread, NULL));
        server->stop = fd_close(server->stop);
        server->child = fd_close(server->child);
}

/* An ordinary program of that user: dumpable, so that its own files in /proc are its own, as after execve(2).
 */
static void become(uid_t uid)
{
        FACT_OK(error_from(setgroups(0, NULL)));
        FACT_OK(error_from(setresgid(uid, uid, uid)));
        FACT_OK(error_from(setresuid(uid, uid, uid)));
        FACT_OK(error_from(prctl(PR_SET_DUMPABLE, 1)));
}

void fact_client_start(struct fact_client *client, uid_t uid, void (*body)(int socket, void *context),
                       void *context)
{
        pid_t parent = getpid();
        int pair[2];

        if (uid != geteuid() && geteuid() != 0)
                fact_skip("needs root to start a process of user %u", (unsigned)uid);
        FACT_OK(error_from(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)));
        client->pid = (pid_t)FACT_OK(error_from(fork()));
        if (client->pid > 0) {
                fd_close(pair[1]);
                client->socket = pair[0];
                return;
        }
        fd_close(pair[0]);
        if (uid != geteuid())
                become(uid);
        /* After the change of user, which resets it. */
        FACT_OK(error_from(prctl(PR_SET_PDEATHSIG, SIGKILL)));
        if (getppid() != parent)
                _exit(1);
        alarm(WATCHDOG_SECONDS); /* fork() cleared it */
        body(pair[1], context);
        fflush(stdout);
        _exit(0);
}

void fact_client_join(struct fact_client *client)
{
        int status;

        FACT_OK(error_from(waitpid(client->pid, &status, 0)));
        FACT_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the other process ended with status %#x",
                   (unsigned)status);
        client->socket = fd_close(client->socket);
}

void fact_send(int socket, uint64_t value, int fd)
{
        struct iovec data = {.iov_base = &value, .iov_len = sizeof(value)};
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int))];
        } control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)),
                                .cmsg_level = SOL_SOCKET,
                                .cmsg_type = SCM_RIGHTS}};
        struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};

        if (fd >= 0) {
                memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
                message.msg_control = &control;
                message.msg_controllen = sizeof(control);
        }
        FACT_OK(error_from(sendmsg(socket, &message, MSG_NOSIGNAL)));
}

uint64_t fact_receive(int socket, int *ret_fd)
{
        uint64_t value;
        struct iovec data = {.iov_base = &value, .iov_len = sizeof(value)};
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int))];
        } control;
        struct msghdr message = {.msg_iov = &data,
                                 .msg_iovlen = 1,
                                 .msg_control = &control,
                                 .msg_controllen = sizeof(control)};
        long n = FACT_OK(error_from(recvmsg(socket, &message, MSG_CMSG_CLOEXEC)));

        FACT_CHECK(n == sizeof(value), "the other process ended, or sent %ld bytes", n);
        if (ret_fd) {
                struct cmsghdr *header = CMSG_FIRSTHDR(&message);

                FACT_CHECK(header && header->cmsg_type == SCM_RIGHTS, "no descriptor came with the message");
                memcpy(ret_fd, CMSG_DATA(header), sizeof(*ret_fd));
        }
        return value;
}
