/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The process boundary: children confine themselves; what the daemon does must work, what it never does must
 * kill, and the capabilities that /proc shows must be the documented ones. Each attempt has a process of its
 * own.
 */

#undef NDEBUG
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <linux/bpf.h>
#include <linux/sched.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel/hold.h"
#include "kernel/pagemap.h"
#include "kernel/poolfile.h"
#include "kernel/ring.h"
#include "kernel/uffd.h"
#include "process/config.h"
#include "process/notify.h"
#include "process/sandbox.h"
#include "util/bits.h"
#include "util/cleanup.h"
#include "util/log.h"

enum {
        EXIT_DONE = 0,
        EXIT_FAILED = 1,     /* what should work does not */
        EXIT_SURVIVED = 2,   /* what should kill did not */
        EXIT_UNPREPARED = 3, /* setting up failed: nothing is known about the boundary */
};

/* Sanitized builds permit more, because the sanitizers' libraries do more: see sandbox.c. */
#ifdef WPD_SANITIZER
static const bool sanitized = true;
#else
static const bool sanitized = false;
#endif

/* In children: says where, and ends the process. */
#define check(_condition)                                                                                    \
        do {                                                                                                 \
                if (!(_condition)) {                                                                         \
                        dprintf(STDERR_FILENO, "%s:%d: %s: errno %d\n", __FILE__, __LINE__, #_condition,     \
                                errno);                                                                      \
                        _exit(EXIT_FAILED);                                                                  \
                }                                                                                            \
        } while (0)

#define prepare(_condition)                                                                                  \
        do {                                                                                                 \
                if (!(_condition)) {                                                                         \
                        dprintf(STDERR_FILENO, "%s:%d: %s: errno %d\n", __FILE__, __LINE__, #_condition,     \
                                errno);                                                                      \
                        _exit(EXIT_UNPREPARED);                                                              \
                }                                                                                            \
        } while (0)

static void confine(void)
{
        int r = sandbox_confine();

        if (r < 0)
                dprintf(STDERR_FILENO, "sandbox_confine: %s\n", strerror(-r));
        prepare(r == 0);
}

/* Runs one function in a child, which a hanging test does not survive, and returns its wait status. */
static int run(void (*function)(void))
{
        pid_t pid;
        int status;

        fflush(NULL);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                /* Dying is expected here; nobody wants the core. */
                setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
                alarm(30);
                function();
                _exit(EXIT_DONE);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        return status;
}

/* -- what must work
 * ------------------------------------------------------------------------------------------ */

/* Of /proc/self/status, in base 10 or 16. */
static uint64_t status_field(const char *name, int base)
{
        char line[256];
        uint64_t value = UINT64_MAX;
        FILE *file = fopen("/proc/self/status", "re");

        check(file);
        while (fgets(line, sizeof(line), file))
                if (!strncmp(line, name, strlen(name)) && line[strlen(name)] == ':')
                        value = strtoull(line + strlen(name) + 1, NULL, base);
        fclose(file);
        check(value != UINT64_MAX);
        return value;
}

static void allowed_identity(void)
{
        static const cap_value_t caps[] = SANDBOX_CAPS;
        uint64_t expected = 0;
        int dumpable = prctl(PR_GET_DUMPABLE);

        for (size_t i = 0; i < ARRAY_SIZE(caps); i++)
                expected |= UINT64_C(1) << caps[i];
        check(expected == UINT64_C(1)
                                  << 19); /* CAP_SYS_PTRACE, and a reason to read sandbox.c when it is more */
        confine();
        check(status_field("CapBnd", 16) == expected);
        check(status_field("CapPrm", 16) == expected);
        check(status_field("CapEff", 16) == expected);
        check(status_field("CapInh", 16) == 0);
        check(status_field("CapAmb", 16) == 0);
        check(status_field("NoNewPrivs", 10) == 1);
        check(status_field("Seccomp", 10) == 2);
        check(status_field("Seccomp_filters", 10) >= 1);
        check(dumpable == 1);
        check(getpid() > 0 && gettid() == getpid() && getuid() == 0 && geteuid() == 0 &&
              getgid() == getegid());
}

static void *thread_main(void *context)
{
        char *memory = malloc(1 << 20);
        struct rusage usage;

        check(memory);
        memset(memory, 1, 1 << 20);
        free(memory);
        pthread_setname_np(pthread_self(), "worker");
        check(getrusage(RUSAGE_THREAD, &usage) == 0);
        sched_yield();
        return context;
}

static void allowed_threads(void)
{
        confine();
        for (int i = 0; i < 4; i++) {
                pthread_t thread;
                void *result;
                int r;

                r = pthread_create(&thread, NULL, thread_main, &result);
                if (r)
                        errno = r;
                check(!r);
                check(pthread_join(thread, &result) == 0 && result == &result);
        }
}

static void allowed_memory(void)
{
        size_t n = 64 << 20;
        uint64_t locked, caps = UINT64_C(1) << CAP_SYS_PTRACE;
        struct rlimit limit;
        char *memory;

        prepare(sandbox_lock_memory() == 0);
        confine();
        /* A limit that could not be raised is the one reason to keep a second capability. */
        check(getrlimit(RLIMIT_MEMLOCK, &limit) == 0);
        if (limit.rlim_cur != RLIM_INFINITY)
                caps |= UINT64_C(1) << CAP_IPC_LOCK;
        check(status_field("CapBnd", 16) == caps);
        check(status_field("CapPrm", 16) == caps);
        check(status_field("CapEff", 16) == caps);
        /* Later mappings are locked without CAP_IPC_LOCK, beyond any default limit, and cost only what is
         * touched. */
        locked = status_field("VmLck", 10);
        memory = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        check(memory != MAP_FAILED);
        memory[0] = memory[n - 1] = 1;
        /* AddressSanitizer turns locking into nothing. */
        check(sanitized || status_field("VmLck", 10) >= locked + n / 1024);
        memory = mremap(memory, n, 2 * n, MREMAP_MAYMOVE);
        check(memory != MAP_FAILED);
        check(mprotect(memory, n, PROT_READ) == 0);
        check(mlock(memory + 2 * n - 4096, 4096) == 0);
        check(madvise(memory + n, n, MADV_DONTNEED) == 0 || errno == EINVAL);
        check(munmap(memory, 2 * n) == 0);
        for (size_t size = 1; size < n; size *= 3) {
                memory = calloc(1, size);
                check(memory);
                memory = realloc(memory, 2 * size);
                check(memory);
                free(memory);
        }
}

static void on_timer(struct ev_loop *loop, ev_timer *timer, int events)
{
        ev_async_send(loop, timer->data);
}

static void on_async(struct ev_loop *loop, ev_async *async, int events)
{
        check(raise(SIGHUP) == 0);
}

static void on_signal(struct ev_loop *loop, ev_signal *watcher, int events)
{
        ev_io_start(loop, watcher->data);
}

static void on_io(struct ev_loop *loop, ev_io *io, int events)
{
        uint64_t value;

        check(read(io->fd, &value, sizeof(value)) == sizeof(value));
        ev_break(loop, EVBREAK_ALL);
}

static void loop_with(unsigned flags)
{
        struct ev_loop *loop;
        ev_timer timer;
        ev_async async;
        ev_signal hangup;
        ev_io io;
        int fd;

        confine();
        fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
        check(fd >= 0);
        loop = ev_loop_new(flags);
        check(loop && ev_backend(loop) == EVBACKEND_EPOLL);
        ev_io_init(&io, on_io, fd, EV_READ);
        ev_signal_init(&hangup, on_signal, SIGHUP);
        ev_async_init(&async, on_async);
        ev_timer_init(&timer, on_timer, 0.001, 0);
        hangup.data = &io;
        timer.data = &async;
        ev_signal_start(loop, &hangup);
        ev_async_start(loop, &async);
        ev_timer_start(loop, &timer);
        ev_run(loop, 0);
        ev_loop_destroy(loop);
        close(fd);
}

static void allowed_loop(void)
{
        loop_with(EVFLAG_AUTO);
}

static void allowed_loop_signalfd(void)
{
        loop_with(EVFLAG_SIGNALFD);
}

static void allowed_ring(void)
{
        struct io_uring ring;
        struct io_uring_cqe *cqe;
        struct io_uring_sqe *sqe;
        uint64_t value = 0;
        int fd;

        prepare(ring_make(&ring, 8, 16, (int[]){IORING_OP_READ}, 1, -1, 0) == 0);
        confine();
        fd = eventfd(7, EFD_CLOEXEC | EFD_NONBLOCK);
        sqe = io_uring_get_sqe(&ring);
        io_uring_prep_read(sqe, fd, &value, sizeof(value), 0);
        check(io_uring_submit(&ring) == 1);
        check(io_uring_wait_cqe(&ring, &cqe) == 0);
        check(cqe->res == sizeof(value) && value == 7);
        io_uring_cqe_seen(&ring, cqe);
        io_uring_queue_exit(&ring);
}

/* The contexts of a client, as the daemon handles them: made before by the client, given their features here.
 */
static void allowed_contexts(void)
{
        _cleanup_fd_ int device = -EBADF, hold = -EBADF, track = -EBADF, pagemap = -EBADF;
        struct page_region runs[4];
        size_t n = 4 * PAGE_BYTES;
        uint64_t features, walked;
        char *memory;

        device = uffd_open_device();
        if (device < 0)
                _exit(77);
        hold = uffd_create(device);
        track = uffd_create(device);
        prepare(hold >= 0 && track >= 0);
        prepare(uffd_probe(uffd_create(device), &features) == 0);
        if ((features & (HOLD_FEATURES | TRACK_FEATURES)) != (HOLD_FEATURES | TRACK_FEATURES))
                _exit(77);
        pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        prepare(pagemap >= 0);
        memory = mmap(NULL, 2 * n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        prepare(memory != MAP_FAILED);
        confine();
        check(uffd_is_context(hold));
        check(uffd_api(track, TRACK_FEATURES) == 0);
        check(uffd_api(hold, HOLD_FEATURES) == 0); /* with EVENT_FORK: CAP_SYS_PTRACE works */
        check(uffd_register(track, (uintptr_t)memory, n, UFFDIO_REGISTER_MODE_WP) == 0);
        memset(memory, 1, n);
        check(pagemap_survey(pagemap, (uintptr_t)memory, (uintptr_t)memory + n, runs, ARRAY_SIZE(runs),
                             &walked) == 1);
        check(runs[0].start == (uintptr_t)memory && runs[0].end == (uintptr_t)memory + n);
        check(pagemap_protect(pagemap, (uintptr_t)memory, (uintptr_t)memory + n) == 0);
        check(pagemap_survey(pagemap, (uintptr_t)memory, (uintptr_t)memory + n, runs, ARRAY_SIZE(runs),
                             &walked) == 0);
        check(uffd_register(hold, (uintptr_t)memory + n, n, UFFDIO_REGISTER_MODE_WP) == 0);
        check(uffd_write_protect(hold, (uintptr_t)memory + n, n, true) == 0);
        check(hold_answer_write(hold, (uintptr_t)memory + n) == 0);
        check(uffd_wake(hold, (uintptr_t)memory + n, n) == 0);
        check(uffd_events_pending(hold) == 0);
        check(uffd_unregister(hold, (uintptr_t)memory + n, n) == 0);
        check(uffd_unregister(track, (uintptr_t)memory, n) == 0);
}

static void allowed_pool(void)
{
        int mount, writable, readonly, pagemap;
        uint64_t unmapped = 0;
        char page[PAGE_BYTES];
        void *mapping;

        mount = poolfile_mount();
        pagemap = open("/proc/self/pagemap", O_RDONLY);
        prepare(mount >= 0 && pagemap >= 0);
        confine();
        check(poolfile_create(mount, "pool", &writable) == 0 && poolfile_is_one(writable));
        check(poolfile_reopen(writable, &readonly) == 0);
        memset(page, 5, sizeof(page));
        check(poolfile_write(writable, 8192, page, sizeof(page)) == 0);
        mapping = mmap(NULL, 16384, PROT_READ, MAP_PRIVATE, readonly, 0);
        check(mapping != MAP_FAILED && !memcmp((char *)mapping + 8192, page, sizeof(page)));
        check(munmap(mapping, 16384) == 0);
        check(pread(readonly, page, sizeof(page), 8192) == sizeof(page) && page[0] == 5);
        check(lseek(writable, 0, SEEK_DATA) == 8192 && lseek(writable, 8192, SEEK_HOLE) == 12288);
        check(poolfile_lock(writable, 8192, 4096) == 0);
        check(poolfile_unmapped(writable, pagemap, 8192, 1, &unmapped) == 0 && unmapped == 1);
        poolfile_unlock(writable, 8192, 4096);
        check(poolfile_discard(writable, 8192, 4096) == 0);
        check(pread(readonly, page, sizeof(page), 8192) == sizeof(page) && page[0] == 0);
}

/* An ordinary process of another user, which ends when this one does. */
static pid_t make_foreign(void)
{
        int ready[2];
        char byte;
        pid_t pid;

        prepare(pipe2(ready, O_CLOEXEC) == 0);
        pid = fork();
        prepare(pid >= 0);
        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                prepare(setgroups(0, NULL) == 0 && setgid(65534) == 0 && setuid(65534) == 0);
                prepare(prctl(PR_SET_DUMPABLE, 1) == 0);
                prepare(write(ready[1], "x", 1) == 1);
                alarm(2);
                for (;;)
                        pause();
        }
        prepare(read(ready[0], &byte, 1) == 1);
        return pid;
}

/* Another user's process: its smaps and status can be read, its memory and page map cannot be opened at all. */
static void allowed_foreign(void)
{
        pid_t pid = make_foreign();
        char path[64], text[4096];
        int fd;

        confine();
        snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        check(fd >= 0 && read(fd, text, sizeof(text)) > 100);
        close(fd);
        snprintf(path, sizeof(path), "/proc/%d/status", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        check(fd >= 0 && read(fd, text, sizeof(text)) > 100);
        close(fd);
        snprintf(path, sizeof(path), "/proc/%d/mem", pid);
        check(open(path, O_RDONLY | O_CLOEXEC) < 0 && errno == EACCES);
        snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
        check(open(path, O_RDONLY | O_CLOEXEC) < 0 && errno == EACCES);
        fd = open("/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC);
        check(fd >= 0 && read(fd, text, sizeof(text)) > 0);
        close(fd);
}

static void allowed_sockets(void)
{
        union {
                struct cmsghdr header;
                char buffer[CMSG_SPACE(sizeof(int))];
        } control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)),
                                .cmsg_level = SOL_SOCKET,
                                .cmsg_type = SCM_RIGHTS}};
        char letter = 'x';
        struct iovec piece = {&letter, 1};
        struct msghdr message = {.msg_iov = &piece,
                                 .msg_iovlen = 1,
                                 .msg_control = &control,
                                 .msg_controllen = sizeof(control)};
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        struct ucred credentials;
        socklen_t length = sizeof(address), n_credentials = sizeof(credentials);
        char byte, received[64];
        struct iovec space = {received, sizeof(received)};
        struct msghdr answer = {.msg_iov = &space,
                                .msg_iovlen = 1,
                                .msg_control = &control,
                                .msg_controllen = sizeof(control)};
        int listener, client, server, size = 1 << 16, fd;

        listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        client = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        /* An address of its own choice in the abstract name space: nothing remains in the file system. */
        prepare(bind(listener, (struct sockaddr *)&address, sizeof(sa_family_t)) == 0);
        prepare(getsockname(listener, (struct sockaddr *)&address, &length) == 0);
        prepare(listen(listener, 1) == 0);
        prepare(connect(client, (struct sockaddr *)&address, length) == 0);
        confine();
        server = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        check(server >= 0);
        check(getsockopt(server, SOL_SOCKET, SO_PEERCRED, &credentials, &n_credentials) == 0);
        check(credentials.uid == 0);
        check(setsockopt(server, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) == 0);
        memcpy(CMSG_DATA(&control.header), &listener, sizeof(listener));
        check(sendmsg(client, &message, MSG_NOSIGNAL) == 1);
        check(recvmsg(server, &answer, MSG_CMSG_CLOEXEC) == 1);
        check(answer.msg_controllen >= CMSG_LEN(sizeof(int)));
        memcpy(&fd, CMSG_DATA(&control.header), sizeof(fd));
        check(fcntl(fd, F_GETFD) == FD_CLOEXEC);
        check(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0);
        check(fcntl(-1, F_SETLEASE, F_UNLCK) < 0 && fcntl(-1, F_SETOWN, getpid()) < 0 && errno == EBADF);
        check(close(fd) == 0);
        check(send(server, "y", 1, MSG_NOSIGNAL) == 1 && recv(client, &byte, 1, 0) == 1);
        check(shutdown(server, SHUT_RDWR) == 0);
}

static void allowed_notify(void)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        socklen_t length = sizeof(address);
        char text[256], name[128];
        int manager;

        manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        prepare(bind(manager, (struct sockaddr *)&address, sizeof(sa_family_t)) == 0);
        prepare(getsockname(manager, (struct sockaddr *)&address, &length) == 0);
        snprintf(name, sizeof(name), "@%.*s", (int)(length - sizeof(sa_family_t)) - 1, address.sun_path + 1);
        prepare(setenv("NOTIFY_SOCKET", name, 1) == 0);
        confine();
        notify_status("%d clients", 3);
        check(recv(manager, text, sizeof(text), MSG_DONTWAIT) == strlen("STATUS=3 clients"));
        notify_watchdog();
        check(recv(manager, text, sizeof(text), MSG_DONTWAIT) == strlen("WATCHDOG=1"));
        log_error("(this line shows that logging works)");
}

static void allowed_reload(void)
{
        char directory[] = "/tmp/wpd-test-sandbox-XXXXXX", path[64], inner[96], error[CONFIG_MAX_ERROR];
        struct config config;
        int fd, r;

        prepare(mkdtemp(directory));
        snprintf(path, sizeof(path), "%s/wpd.conf.d", directory);
        prepare(mkdir(path, 0700) == 0);
        snprintf(inner, sizeof(inner), "%s/a.conf", path);
        fd = open(inner, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        prepare(fd >= 0 && write(fd, "[scan]\nmax_cpu_percent = 7\n", 27) == 27);
        close(fd);
        confine();
        config_init(&config);
        *strrchr(path, '.') = '\0';
        r = config_load(&config, path, false, error);
        check(unlinkat(AT_FDCWD, inner, 0) == 0);
        strcat(path, ".d");
        check(unlinkat(AT_FDCWD, path, AT_REMOVEDIR) == 0);
        check(unlinkat(AT_FDCWD, directory, AT_REMOVEDIR) == 0);
        check(r == 0 && config.max_cpu_percent == 7);
}

/* What waited for a process that has ended already: the event loop does when the helper ends. */
static void allowed_wait(void)
{
        pid_t pid = fork();

        prepare(pid >= 0);
        if (!pid)
                _exit(0);
        confine();
        check(waitpid(pid, NULL, 0) == pid);
        check(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
}

static void confine_helper(void)
{
        prepare(sandbox_confine_helper() == 0);
}

/* The helper's capabilities as the kernel shows them at its start: afterwards it can read no such file but by its own means. */
static void allowed_helper(void)
{
        static const cap_value_t caps[] = SANDBOX_HELPER_CAPS;
        pid_t pid = make_foreign();
        struct page_region run;
        char path[64], text[4096];
        uint64_t walked;
        int sockets[2], fd;

        check(ARRAY_SIZE(caps) == 2 && caps[0] == CAP_SYS_PTRACE && caps[1] == CAP_DAC_READ_SEARCH);
        prepare(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) == 0);
        confine_helper();
        check(send(sockets[0], "x", 1, MSG_NOSIGNAL) == 1 && recv(sockets[1], text, 1, 0) == 1);
        snprintf(path, sizeof(path), "/proc/%d/maps", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        check(fd >= 0 && pread(fd, text, sizeof(text), 0) > 100);
        check(close(fd) == 0);
        snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        check(fd >= 0 && pagemap_survey(fd, 0, 1 << 20, &run, 1, &walked) >= 0);
        fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        check(fd >= 0 && getdents64(fd, text, sizeof(text)) > 0);
}

/* Its capabilities, seen from outside. */
static void helper_identity(void)
{
        uint64_t expected = UINT64_C(1) << CAP_SYS_PTRACE | UINT64_C(1) << CAP_DAC_READ_SEARCH, value = 0;
        int ready[2], stop[2];
        char path[64], line[256];
        unsigned n = 0;
        FILE *status;
        pid_t pid;

        prepare(pipe2(ready, O_CLOEXEC) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, stop) == 0);
        pid = fork();
        prepare(pid >= 0);
        if (!pid) {
                close(stop[0]);
                confine_helper();
                close(ready[1]);
                recv(stop[1], line, 1, 0);
                _exit(0);
        }
        close(ready[1]);
        check(read(ready[0], line, 1) == 0);
        snprintf(path, sizeof(path), "/proc/%d/status", pid);
        status = fopen(path, "re");
        check(status);
        while (fgets(line, sizeof(line), status))
                if (sscanf(line, "CapBnd: %" SCNx64, &value) == 1 ||
                    sscanf(line, "CapPrm: %" SCNx64, &value) == 1 ||
                    sscanf(line, "CapEff: %" SCNx64, &value) == 1) {
                        check(value == expected);
                        n++;
                }
        check(n == 3);
        fclose(status);
        close(stop[0]);
        close(stop[1]);
        check(waitpid(pid, NULL, 0) == pid);
}

static void allowed_rest(void)
{
        struct rlimit limit;
        char secret[32];

        confine();
        check(syscall(SYS_getrandom, secret, sizeof(secret), 0) == sizeof(secret));
        check(getrlimit(RLIMIT_NOFILE, &limit) == 0);
        check(nanosleep(&(struct timespec){0, 1000}, NULL) == 0);
        check(clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){0, 1000}, NULL) == 0);
}

static void test_allowed(void **state)
{
        static const struct {
                const char *name;
                void (*function)(void);
        } cases[] = {
                {"identity", allowed_identity},
                {"threads", allowed_threads},
                {"memory", allowed_memory},
                {"loop", allowed_loop},
                {"loop with signalfd", allowed_loop_signalfd},
                {"ring", allowed_ring},
                {"contexts", allowed_contexts},
                {"pool", allowed_pool},
                {"foreign processes", allowed_foreign},
                {"sockets", allowed_sockets},
                {"notify", allowed_notify},
                {"reload", allowed_reload},
                {"wait", allowed_wait},
                {"helper", allowed_helper},
                {"helper's identity", helper_identity},
                {"rest", allowed_rest},
        };
        bool failed = false;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                int status = run(cases[i].function);

                if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
                        print_message("%s: skipped, this kernel lacks the features\n", cases[i].name);
                        continue;
                }
                if (status) {
                        print_error("%s: wait status %#x\n", cases[i].name, (unsigned)status);
                        failed = true;
                }
        }
        assert_false(failed);
}

/* -- what must kill
 * ------------------------------------------------------------------------------------------ */

#define FORBIDDEN(_name, _statement)                                                                         \
        static void forbidden_##_name(void)                                                                  \
        {                                                                                                    \
                confine();                                                                                   \
                (void)(_statement);                                                                          \
                _exit(EXIT_SURVIVED);                                                                        \
        }

static char *const no_strings[] = {NULL};

FORBIDDEN(execve, execve("/bin/true", no_strings, no_strings))
FORBIDDEN(execveat, syscall(SYS_execveat, -1, "/bin/true", no_strings, no_strings, 0))
FORBIDDEN(fork, syscall(SYS_fork))
FORBIDDEN(vfork, syscall(SYS_vfork))
FORBIDDEN(mmap_exec, mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
FORBIDDEN(mprotect_exec, mprotect((void *)page_down((uintptr_t)&no_strings), 4096, PROT_READ | PROT_EXEC))
FORBIDDEN(pkey_mprotect, syscall(SYS_pkey_mprotect, NULL, 0, PROT_EXEC, -1))
FORBIDDEN(personality, syscall(SYS_personality, 0x0400000)) /* READ_IMPLIES_EXEC */
FORBIDDEN(socket_inet, socket(AF_INET, SOCK_STREAM, 0))
FORBIDDEN(socket_netlink, socket(AF_NETLINK, SOCK_RAW, 0))
FORBIDDEN(socket_vsock, socket(AF_VSOCK, SOCK_STREAM, 0))
FORBIDDEN(bind, bind(-1, NULL, 0))
FORBIDDEN(listen, listen(-1, 1))
FORBIDDEN(ioctl_zero, ioctl(-1, 0))
FORBIDDEN(ioctl_tiocsti, ioctl(-1, TIOCSTI, "x"))
FORBIDDEN(ioctl_move, ioctl(-1, UFFDIO_MOVE, NULL))
FORBIDDEN(ioctl_continue, ioctl(-1, UFFDIO_CONTINUE, NULL))
FORBIDDEN(ioctl_new, ioctl(-1, USERFAULTFD_IOC_NEW, 0))
FORBIDDEN(userfaultfd, syscall(SYS_userfaultfd, O_CLOEXEC))
FORBIDDEN(keyctl, syscall(SYS_keyctl, 0, 0, 0, 0, 0))
FORBIDDEN(add_key, syscall(SYS_add_key, NULL, NULL, NULL, 0, 0))
FORBIDDEN(mount, mount(NULL, "/", NULL, MS_REMOUNT, NULL))
FORBIDDEN(umount, umount2("/", MNT_DETACH))
FORBIDDEN(fsopen, fsopen("tmpfs", 0))
FORBIDDEN(chroot, chroot("/"))
FORBIDDEN(unshare, unshare(CLONE_NEWUSER))
FORBIDDEN(setns, setns(-1, 0))
FORBIDDEN(bpf, syscall(SYS_bpf, BPF_PROG_LOAD, NULL, 0))
FORBIDDEN(perf_event_open, syscall(SYS_perf_event_open, NULL, 0, 0, -1, 0))
FORBIDDEN(init_module, syscall(SYS_init_module, NULL, 0, ""))
FORBIDDEN(setuid, syscall(SYS_setuid, 0))
FORBIDDEN(capset, syscall(SYS_capset, NULL, NULL))
FORBIDDEN(seccomp, syscall(SYS_seccomp, 0, 0, NULL))
FORBIDDEN(process_vm_writev, process_vm_writev(getpid(), NULL, 0, NULL, 0, 0))
FORBIDDEN(pidfd_getfd, syscall(SYS_pidfd_getfd, -1, 0, 0))
FORBIDDEN(pidfd_send_signal, syscall(SYS_pidfd_send_signal, -1, 0, NULL, 0))
FORBIDDEN(mkdir, mkdir("/", 0700))
FORBIDDEN(rename, rename("/", "/"))
FORBIDDEN(chmod, chmod("/", 0755))
FORBIDDEN(link, link("/", "/"))
FORBIDDEN(setlease, fcntl(-1, F_SETLEASE, F_WRLCK))
FORBIDDEN(setown, fcntl(-1, F_SETOWN, 1))
FORBIDDEN(x32, syscall(0x40000000 | SYS_getpid))

/* Threads may be started, processes and name spaces may not, whatever else is asked for. */
FORBIDDEN(clone_process, syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL))
FORBIDDEN(clone_namespace,
          syscall(SYS_clone, CLONE_THREAD | CLONE_SIGHAND | CLONE_VM | CLONE_NEWNS, NULL, NULL, NULL, NULL))

/* Existing files are opened for reading only; a new one only if nobody else can read it. */
FORBIDDEN(open_write, openat(AT_FDCWD, "/dev/null", O_WRONLY | O_CLOEXEC))
FORBIDDEN(open_read_write, openat(AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC))
FORBIDDEN(open_truncate, openat(AT_FDCWD, "/dev/null", O_RDONLY | O_TRUNC | O_CLOEXEC))
FORBIDDEN(open_create, openat(AT_FDCWD, "/dev/null", O_RDWR | O_CREAT | O_CLOEXEC, 0400))
FORBIDDEN(open_mode, openat(AT_FDCWD, "/dev/null", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666))
FORBIDDEN(openat2, syscall(SYS_openat2, AT_FDCWD, "/dev/null", NULL, 0))

FORBIDDEN(ptrace, ptrace(PTRACE_TRACEME, 0, NULL, NULL))
FORBIDDEN(kill, kill(getpid(), 0))
FORBIDDEN(tgkill_other, syscall(SYS_tgkill, 1, 1, 0))
FORBIDDEN(dumpable, prctl(PR_SET_DUMPABLE, 0))
FORBIDDEN(ambient, prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_PTRACE, 0, 0))
FORBIDDEN(setrlimit, setrlimit(RLIMIT_NOFILE, &(struct rlimit){16, 16}))
FORBIDDEN(process_vm_readv, process_vm_readv(getpid(), NULL, 0, NULL, 0, 0))

/* The helper only looks. */
#define FORBIDDEN_TO_HELPER(_name, _statement)                                                               \
        static void forbidden_##_name(void)                                                                  \
        {                                                                                                    \
                confine_helper();                                                                            \
                (void)(_statement);                                                                          \
                _exit(EXIT_SURVIVED);                                                                        \
        }

FORBIDDEN_TO_HELPER(helper_execve, execve("/bin/true", no_strings, no_strings))
FORBIDDEN_TO_HELPER(helper_fork, syscall(SYS_fork))
FORBIDDEN_TO_HELPER(helper_bpf, syscall(SYS_bpf, BPF_PROG_LOAD, NULL, 0))
FORBIDDEN_TO_HELPER(helper_pidfd_getfd, syscall(SYS_pidfd_getfd, -1, 0, 0))
FORBIDDEN_TO_HELPER(helper_process_vm_writev, process_vm_writev(getpid(), NULL, 0, NULL, 0, 0))
FORBIDDEN_TO_HELPER(helper_mmap, mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
FORBIDDEN_TO_HELPER(helper_thread,
                    syscall(SYS_clone, CLONE_THREAD | CLONE_SIGHAND | CLONE_VM, NULL, NULL, NULL, NULL))
FORBIDDEN_TO_HELPER(helper_socket, socket(AF_UNIX, SOCK_STREAM, 0))
FORBIDDEN_TO_HELPER(helper_connect, connect(-1, NULL, 0))
FORBIDDEN_TO_HELPER(helper_write, write(-1, "x", 1))
FORBIDDEN_TO_HELPER(helper_open_write, openat(AT_FDCWD, "/dev/null", O_WRONLY | O_CLOEXEC))
FORBIDDEN_TO_HELPER(helper_create, openat(AT_FDCWD, "/dev/null", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0400))
FORBIDDEN_TO_HELPER(helper_unlink, unlinkat(AT_FDCWD, "/", 0))
FORBIDDEN_TO_HELPER(helper_uffd, ioctl(-1, UFFDIO_API, NULL))
FORBIDDEN_TO_HELPER(helper_ptrace, ptrace(PTRACE_TRACEME, 0, NULL, NULL))
FORBIDDEN_TO_HELPER(helper_kill, kill(getpid(), 0))

static void test_forbidden(void **state)
{
        static const struct {
                const char *name;
                void (*function)(void);
                bool unless_sanitized;
        } cases[] = {
#define X(_name, _unless_sanitized) {#_name, forbidden_##_name, _unless_sanitized}
                X(execve, false),
                X(execveat, false),
                X(fork, false),
                X(vfork, false),
                X(mmap_exec, false),
                X(mprotect_exec, false),
                X(pkey_mprotect, false),
                X(personality, false),
                X(socket_inet, false),
                X(socket_netlink, false),
                X(socket_vsock, false),
                X(bind, false),
                X(listen, false),
                X(ioctl_zero, false),
                X(ioctl_tiocsti, false),
                X(ioctl_move, false),
                X(ioctl_continue, false),
                X(ioctl_new, false),
                X(userfaultfd, false),
                X(keyctl, false),
                X(add_key, false),
                X(mount, false),
                X(umount, false),
                X(fsopen, false),
                X(chroot, false),
                X(unshare, false),
                X(setns, false),
                X(bpf, false),
                X(perf_event_open, false),
                X(init_module, false),
                X(setuid, false),
                X(capset, false),
                X(seccomp, false),
                X(process_vm_writev, false),
                X(pidfd_getfd, false),
                X(pidfd_send_signal, false),
                X(mkdir, false),
                X(rename, false),
                X(chmod, false),
                X(link, false),
                X(setlease, false),
                X(setown, false),
                X(x32, false),
                X(openat2, false),
                X(clone_process, true),
                X(clone_namespace, true),
                X(open_write, true),
                X(open_read_write, true),
                X(open_truncate, true),
                X(open_create, true),
                X(open_mode, true),
                X(ptrace, true),
                X(kill, true),
                X(tgkill_other, true),
                X(dumpable, true),
                X(ambient, true),
                X(setrlimit, true),
                X(process_vm_readv, true),
                X(helper_execve, false),
                X(helper_fork, false),
                X(helper_bpf, false),
                X(helper_pidfd_getfd, false),
                X(helper_process_vm_writev, false),
                X(helper_mmap, true),
                X(helper_thread, true),
                X(helper_socket, true),
                X(helper_connect, true),
                X(helper_write, true),
                X(helper_open_write, true),
                X(helper_create, true),
                X(helper_unlink, true),
                X(helper_uffd, true),
                X(helper_ptrace, true),
                X(helper_kill, true),
#undef X
        };
        bool failed = false;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                int status;

                if (sanitized && cases[i].unless_sanitized)
                        continue;
                status = run(cases[i].function);
                if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSYS) {
                        print_error("%s: not killed, wait status %#x\n", cases[i].name, (unsigned)status);
                        failed = true;
                }
        }
        assert_false(failed);
}

/* A thread other than the one that does it takes the whole process down. */
static void *forbidden_main(void *context)
{
        syscall(SYS_keyctl, 0, 0, 0, 0, 0);
        return NULL;
}

static void thread_forbidden(void)
{
        pthread_t thread;

        confine();
        check(pthread_create(&thread, NULL, forbidden_main, NULL) == 0);
        pthread_join(thread, NULL);
        _exit(EXIT_SURVIVED);
}

static void test_thread(void **state)
{
        int status = run(thread_forbidden);

        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), SIGSYS);
}

/* abort(3) ends as abort(3) does everywhere, so that a failed assertion is told from a forbidden call. */
static void call_abort(void)
{
        confine();
        abort();
}

static void test_abort(void **state)
{
        int status = run(call_abort);

        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), SIGABRT);
}

static void *sleep_main(void *context)
{
        for (;;)
                nanosleep(&(struct timespec){.tv_sec = 60}, NULL);
        return NULL;
}

/* A confined process ends like any other; in sanitized builds that includes looking for leaks with a second
 * thread there. */
static void call_exit(void)
{
        pthread_t thread;

        confine();
        check(pthread_create(&thread, NULL, sleep_main, NULL) == 0);
        exit(EXIT_DONE);
}

static void test_exit(void **state)
{
        assert_int_equal(run(call_exit), 0);
}

/* clone3 is answered, not punished: C libraries ask it first. */
static void call_clone3(void)
{
        confine();
        check(syscall(SYS_clone3, NULL, 0) == -1 && errno == ENOSYS);
}

static void test_clone3(void **state)
{
        assert_int_equal(run(call_clone3), 0);
}

static void confine_late(void)
{
        pthread_t thread;

        prepare(pthread_create(&thread, NULL, sleep_main, NULL) == 0);
        check(sandbox_confine() == -EBUSY);
        /* Nothing has been done by halves. */
        check(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0);
}

static void test_late(void **state)
{
        assert_int_equal(run(confine_late), 0);
}

static void confine_unprivileged(void)
{
        prepare(setgroups(0, NULL) == 0 && setgid(65534) == 0 && setuid(65534) == 0);
        check(sandbox_confine() == -EPERM);
}

static void lock_unprivileged(void)
{
        struct rlimit small = {4096, 4096};

        prepare(setrlimit(RLIMIT_MEMLOCK, &small) == 0 && setrlimit(RLIMIT_NOFILE, &small) == 0);
        prepare(setgroups(0, NULL) == 0 && setgid(65534) == 0 && setuid(65534) == 0);
        check(sandbox_lock_memory() == -EPERM);
}

static void test_unprivileged(void **state)
{
        assert_int_equal(run(confine_unprivileged), 0);
        assert_int_equal(run(lock_unprivileged), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_allowed), cmocka_unit_test(test_forbidden),
                cmocka_unit_test(test_thread),  cmocka_unit_test(test_abort),
                cmocka_unit_test(test_clone3),  cmocka_unit_test(test_exit),
                cmocka_unit_test(test_late),    cmocka_unit_test(test_unprivileged),
        };

        if (geteuid() != 0) {
                printf("skipped: giving up capabilities needs root\n");
                return 77;
        }
        return cmocka_run_group_tests(tests, NULL, NULL);
}
