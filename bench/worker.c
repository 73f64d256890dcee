/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "bench/worker.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/bits.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "wp.h"

#define WORKER_FD      3
#define EVENT_TIMEOUT  5000   /* ms; a hang guard: an event comes within microseconds or never */
#define REPLY_TIMEOUT  600000 /* ms; a hang guard */
#define REWRITE_TICK   (10 * NSEC_PER_MSEC)
#define HELLO_MAX_PATH sizeof(((struct sockaddr_un *)0)->sun_path)

/* The first message to a worker. */
struct hello {
        struct data_layout layout;
        uint32_t index;
        char socket[HELLO_MAX_PATH];
};

/* A worker's own state. */
struct state {
        struct data_layout layout;
        uint32_t index;
        const char *socket;
        unsigned char *memory;
        uint32_t *version; /* of each page, as data.h means it */
        uint64_t random;
        struct wp_client *client;
        struct wp_region *region;
        struct worker_reply *reply;
};

static unsigned char *page_address(const struct state *state, uint64_t page)
{
        return state->memory + page * PAGE_BYTES;
}

static int failed(struct state *state, const char *what, int error)
{
        snprintf(state->reply->text, sizeof(state->reply->text), "worker %u: %s: %s", state->index, what,
                 strerror(-error));
        return error;
}

static int failed_wp(struct state *state, const char *what, int error)
{
        snprintf(state->reply->text, sizeof(state->reply->text), "worker %u: %s: %s: %s", state->index, what,
                 strerror(-error), wp_strerror_detail(state->client));
        return error;
}

static int do_fill(struct state *state)
{
        size_t length = state->layout.n_pages * PAGE_BYTES;
        void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (memory == MAP_FAILED)
                return failed(state, "mmap", -errno);
        state->memory = memory;
        /* Figures are about 4 KiB pages on every host; a kernel without huge pages refuses, which is as good.
         */
        (void)madvise(memory, length, MADV_NOHUGEPAGE);
        state->version = calloc(state->layout.n_pages, sizeof(*state->version));
        if (!state->version)
                return failed(state, "calloc", -ENOMEM);
        for (uint64_t page = 0; page < state->layout.n_pages; page++)
                data_fill(&state->layout, state->index, page, page_address(state, page));
        return 0;
}

static bool page_right(const struct state *state, uint64_t page)
{
        return data_equal(&state->layout, state->index, page, state->version[page],
                          page_address(state, page));
}

static int do_verify(struct state *state)
{
        uint64_t wrong = 0, first = 0;

        for (uint64_t page = 0; page < state->layout.n_pages; page++)
                if (!page_right(state, page) && !wrong++)
                        first = page;
        state->reply->pages = state->layout.n_pages - wrong;
        if (!wrong)
                return 0;
        snprintf(state->reply->text, sizeof(state->reply->text),
                 "worker %u: %llu pages wrong, the first is %llu", state->index, (unsigned long long)wrong,
                 (unsigned long long)first);
        return -EILSEQ;
}

static int do_check_page(struct state *state, uint64_t page)
{
        state->reply->pages = page_right(state, page);
        return 0;
}

static int do_register(struct state *state)
{
        int r;

        r = wp_connect(state->socket, &state->client);
        if (r < 0)
                return failed_wp(state, "wp_connect", r);
        r = wp_register(state->client, state->memory, state->layout.n_pages * PAGE_BYTES,
                        WP_MERGE | (state->index == WORKER_NOTIFIED ? WP_NOTIFY : 0), &state->region);
        return r < 0 ? failed_wp(state, "wp_register", r) : 0;
}

static int do_unregister(struct state *state)
{
        int r;

        r = wp_unregister(state->region);
        if (r < 0)
                return failed_wp(state, "wp_unregister", r);
        state->region = NULL;
        state->client = wp_disconnect(state->client);
        return 0;
}

static int do_madvise(struct state *state, int advice)
{
        int r = (int)error_from(madvise(state->memory, state->layout.n_pages * PAGE_BYTES, advice));

        return r < 0 ? failed(state, "madvise", r) : 0;
}

static void drain_events(struct state *state)
{
        struct wp_event event;

        while (state->client && wp_next_event(state->client, &event) > 0)
                ;
}

/* Waits for the owner's event about a write and puts it into the reply. */
static int await_event(struct state *state)
{
        uint64_t deadline = clock_now() + EVENT_TIMEOUT * NSEC_PER_MSEC;
        struct pollfd wait = {.fd = wp_event_fd(state->client), .events = POLLIN};
        struct wp_event event;
        int r;

        for (;;) {
                r = wp_next_event(state->client, &event);
                if (r < 0)
                        return failed_wp(state, "wp_next_event", r);
                if (r > 0 && event.type != WP_EVENT_WRITE)
                        continue;
                if (r > 0)
                        break;
                if (clock_now() > deadline)
                        return 0;
                (void)poll(&wait, 1, 100);
        }
        state->reply->event_type = event.type;
        state->reply->event_tid = event.tid;
        state->reply->event_address = event.address;
        return 0;
}

/* One store, and how long it took. */
static uint64_t timed_store(struct state *state, uint64_t page)
{
        volatile uint64_t *word = (uint64_t *)(void *)page_address(state, page);
        uint64_t mark = data_mark(&state->layout, state->index, page, ++state->version[page]), start;

        start = clock_now();
        *word = mark;
        return clock_now() - start;
}

static int timed_read_into(struct state *state, uint64_t page, uint64_t *ret_ns)
{
        uint64_t mark = data_mark(&state->layout, state->index, page, state->version[page] + 1), start;
        int fds[2], r;
        ssize_t n;

        r = (int)error_from(pipe2(fds, O_CLOEXEC));
        if (r < 0)
                return failed(state, "pipe", r);
        n = error_from(write(fds[1], &mark, sizeof(mark)));
        if (n == sizeof(mark)) {
                start = clock_now();
                n = error_from(read(fds[0], page_address(state, page), sizeof(mark)));
                *ret_ns = clock_now() - start;
        }
        close(fds[0]);
        close(fds[1]);
        if (n != sizeof(mark))
                return failed(state, "read into a merged page", n < 0 ? (int)n : -EIO);
        state->version[page]++;
        return 0;
}

static int do_write(struct state *state, uint64_t page, bool by_read)
{
        int r = 0;

        drain_events(state);
        state->reply->tid = gettid();
        state->reply->address = (uint64_t)(uintptr_t)page_address(state, page);
        if (by_read)
                r = timed_read_into(state, page, &state->reply->ns);
        else
                state->reply->ns = timed_store(state, page);
        return r < 0 || !state->client ? r : await_event(state);
}

static void pause_ns(uint64_t ns)
{
        struct timespec ts = {.tv_sec = (time_t)(ns / NSEC_PER_SEC), .tv_nsec = (long)(ns % NSEC_PER_SEC)};

        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
}

static int do_sample(struct state *state, uint32_t count, uint64_t gap_ns)
{
        struct data_expect expect;

        data_expect(&state->layout, &expect);
        count = (uint32_t)MIN(MIN(count, WORKER_MAX_SAMPLES), expect.pages_shared);
        drain_events(state);
        for (uint32_t i = 0; i < count; i++) {
                uint64_t rank = i * expect.pages_shared / count, page = 0, ns;

                /* The first page from there on that was never written. */
                for (; rank < expect.pages_shared; rank++) {
                        page = data_shared_page(&state->layout, rank);
                        if (!state->version[page])
                                break;
                }
                if (rank == expect.pages_shared)
                        break;
                if (gap_ns)
                        pause_ns(gap_ns);
                ns = timed_store(state, page);
                state->reply->sample_ns[state->reply->n_samples++] = (uint32_t)MIN(ns, UINT32_MAX);
        }
        drain_events(state);
        return 0;
}

static int do_rewrite(struct state *state, uint32_t pages_per_second, uint64_t seconds)
{
        uint64_t start = clock_now(), end = seconds * NSEC_PER_SEC, now, done = 0;

        while ((now = clock_now() - start) < end) {
                for (; done < now * pages_per_second / NSEC_PER_SEC; done++) {
                        state->random = state->random * UINT64_C(6364136223846793005) + 1442695040888963407;
                        timed_store(state, (state->random >> 33) % state->layout.n_pages);
                }
                drain_events(state);
                pause_ns(REWRITE_TICK);
        }
        return 0;
}

static int execute(struct state *state, const struct worker_request *request)
{
        switch (request->command) {
        case WORKER_FILL:
                return do_fill(state);
        case WORKER_VERIFY:
                return do_verify(state);
        case WORKER_REGISTER:
                return do_register(state);
        case WORKER_UNREGISTER:
                return do_unregister(state);
        case WORKER_MERGEABLE:
                return do_madvise(state, MADV_MERGEABLE);
        case WORKER_UNMERGEABLE:
                return do_madvise(state, MADV_UNMERGEABLE);
        case WORKER_WRITE:
                return do_write(state, request->argument, false);
        case WORKER_READ_INTO:
                return do_write(state, request->argument, true);
        case WORKER_CHECK_PAGE:
                return do_check_page(state, request->argument);
        case WORKER_SAMPLE:
                return do_sample(state, request->count, request->argument);
        case WORKER_REWRITE:
                return do_rewrite(state, request->count, request->argument);
        case WORKER_QUIT:
                return 0;
        default:
                return failed(state, "unknown command", -EINVAL);
        }
}

static int serve(void)
{
        static struct worker_reply reply; /* static: zeroed, and the stack stays small */
        struct worker_request request = {.command = 0};
        struct hello hello;
        struct state state = {.reply = &reply};

        if (recv(WORKER_FD, &hello, sizeof(hello), 0) != sizeof(hello))
                return 1;
        state.layout = hello.layout;
        state.index = hello.index;
        state.socket = hello.socket;
        state.random = hello.layout.seed + hello.index;
        while (request.command != WORKER_QUIT &&
               recv(WORKER_FD, &request, sizeof(request), 0) == sizeof(request)) {
                memset(&reply, 0, sizeof(reply));
                reply.status = execute(&state, &request);
                if (send(WORKER_FD, &reply, sizeof(reply), MSG_NOSIGNAL) < 0)
                        return 1;
        }
        wp_disconnect(state.client);
        free(state.version);
        return 0;
}

void worker_main(int argc, char **argv)
{
        if (argc == 2 && !strcmp(argv[1], "--worker"))
                exit(serve());
}

static void become_worker(int fd, pid_t parent)
{
        /* A worker must not outlive its parent, however that one ends. */
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
                _exit(1);
        if (fd == WORKER_FD ? fcntl(fd, F_SETFD, 0) < 0 : dup2(fd, WORKER_FD) < 0)
                _exit(1);
        execl("/proc/self/exe", "wpd-worker", "--worker", (char *)NULL);
        _exit(1);
}

static int worker_start(struct worker *worker, const struct hello *hello)
{
        int fds[2], r;
        pid_t parent = getpid(), pid;

        r = (int)error_from(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds));
        if (r < 0)
                return r;
        pid = (pid_t)error_from(fork());
        if (pid == 0)
                become_worker(fds[1], parent);
        close(fds[1]);
        if (pid < 0) {
                close(fds[0]);
                return pid;
        }
        *worker = (struct worker){.pid = pid, .fd = fds[0], .index = hello->index};
        return send(fds[0], hello, sizeof(*hello), MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int worker_start_all(const struct data_layout *layout, const char *socket, struct worker **ret_workers)
{
        struct worker *workers = calloc(layout->n_processes, sizeof(*workers));
        struct hello hello = {.layout = *layout};
        int r = 0;

        if (!workers)
                return -ENOMEM;
        if (strlen(socket) >= sizeof(hello.socket))
                r = -ENAMETOOLONG;
        else
                memcpy(hello.socket, socket, strlen(socket) + 1);
        for (uint32_t i = 0; i < layout->n_processes; i++)
                workers[i].fd = -EBADF;
        for (uint32_t i = 0; i < layout->n_processes && r == 0; i++) {
                hello.index = i;
                r = worker_start(&workers[i], &hello);
        }
        if (r < 0) {
                worker_stop_all(workers, layout->n_processes);
                return r;
        }
        *ret_workers = workers;
        return 0;
}

struct worker *worker_stop_all(struct worker *workers, uint32_t n_workers)
{
        if (!workers)
                return NULL;
        for (uint32_t i = 0; i < n_workers; i++)
                if (workers[i].pid > 0)
                        kill(workers[i].pid, SIGKILL);
        for (uint32_t i = 0; i < n_workers; i++) {
                if (workers[i].pid > 0)
                        waitpid(workers[i].pid, NULL, 0);
                fd_close(workers[i].fd);
        }
        free(workers);
        return NULL;
}

static int call_send(struct worker *worker, const struct worker_request *request, struct worker_reply *reply)
{
        if (send(worker->fd, request, sizeof(*request), MSG_NOSIGNAL) == sizeof(*request))
                return 0;
        snprintf(reply->text, sizeof(reply->text), "worker %u is dead", worker->index);
        return -EPIPE;
}

static int call_receive(struct worker *worker, struct worker_reply *reply)
{
        struct pollfd wait = {.fd = worker->fd, .events = POLLIN};
        int r;

        do
                r = (int)error_from(poll(&wait, 1, REPLY_TIMEOUT));
        while (r == -EINTR);
        if (r > 0 && recv(worker->fd, reply, sizeof(*reply), 0) == sizeof(*reply)) {
                reply->text[sizeof(reply->text) - 1] = 0;
                return reply->status;
        }
        memset(reply, 0, sizeof(*reply));
        snprintf(reply->text, sizeof(reply->text), "worker %u %s", worker->index,
                 r > 0 ? "died" : "does not answer");
        return r > 0 ? -EPIPE : -ETIMEDOUT;
}

int worker_call(struct worker *worker, const struct worker_request *request, struct worker_reply *reply)
{
        int r;

        r = call_send(worker, request, reply);
        return r < 0 ? r : call_receive(worker, reply);
}

int worker_call_all(struct worker *workers, uint32_t n_workers, const struct worker_request *request,
                    uint64_t *ret_pages, struct worker_reply *reply)
{
        struct worker_reply one;
        uint64_t pages = 0;
        int result = 0, r;

        for (uint32_t i = 0; i < n_workers; i++) {
                r = call_send(&workers[i], request, reply);
                if (r < 0)
                        return r;
        }
        for (uint32_t i = 0; i < n_workers; i++) {
                r = call_receive(&workers[i], &one);
                pages += one.pages;
                if (r < 0 && result == 0) {
                        result = r;
                        *reply = one;
                }
        }
        if (result == 0)
                *ret_pages = pages;
        return result;
}
