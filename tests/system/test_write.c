/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Writes to merged pages, of every kind: served, told to the owner, and unseen by everybody else. */

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "system/pair.h"

#define N_PAGES  512
#define OFFSET   77   /* in its page, of the byte that is written */
#define QUEUED   1024 /* events that a queue holds (libwp/queue.h) */
#define MANY     (4 * QUEUED)
#define NOTIFIED (WP_MERGE | WP_NOTIFY)

static size_t at(long page)
{
        return (size_t)page * PAGE_BYTES + OFFSET;
}

/* ------------------------------------------------------------------ kinds of writes: page b of area a */

/* By the processor, in a thread of its own when c is set. */
struct store {
        volatile char *address;
        char value;
        pid_t tid;
};

static void *store_in_thread(void *argument)
{
        struct store *store = argument;

        store->tid = gettid();
        *store->address = store->value;
        return NULL;
}

/* Returns the thread's id. */
static long write_by_thread(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];
        struct store store = {.address = area->memory + at(b), .value = program_next_byte(area, at(b))};
        pthread_t thread;

        CHECK_OK(-pthread_create(&thread, NULL, store_in_thread, &store));
        CHECK_OK(-pthread_join(thread, NULL));
        return store.tid;
}

static long write_by_store(struct program *program, long a, long b, long c)
{
        program_store(program, a, (long)at(b), c);
        return gettid();
}

/* By the kernel, which writes for a system call. */
static long write_by_read(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];
        char value = program_next_byte(area, at(b));
        int ends[2];

        CHECK(!pipe(ends) && write(ends[1], &value, 1) == 1, "%m");
        CHECK(read(ends[0], area->memory + at(b), 1) == 1, "read() into a merged page: %m");
        close(ends[0]);
        close(ends[1]);
        return gettid();
}

/* By another process, which is this client's child: 0, or the errno that it met. */
static int poke_from_outside(char *address, char value, bool (*poke)(pid_t pid, char *address, char value))
{
        pid_t target = getpid(), writer = fork();
        int status;

        if (!writer)
                _exit(poke(target, address, value) ? 0 : errno ? errno : EXIT_FAILURE);
        status = harness_reap(writer);
        CHECK(WIFEXITED(status), "the other process ended with status %#x", (unsigned)status);
        return WEXITSTATUS(status);
}

static bool poke_vm(pid_t pid, char *address, char value)
{
        struct iovec local = {.iov_base = &value, .iov_len = 1}, remote = {.iov_base = address, .iov_len = 1};

        return process_vm_writev(pid, &local, 1, &remote, 1, 0) == 1;
}

static long write_by_process_vm(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];
        int error = poke_from_outside(area->memory + at(b), program_next_byte(area, at(b)), poke_vm);

        CHECK(!error, "the other process could not write: %s", strerror(error));
        return 0;
}

/* Not among the kinds below: the kernel may refuse it. */
static bool poke_ptrace(pid_t pid, char *address, char value)
{
        char *word_address = address - (uintptr_t)address % sizeof(long);
        int status;
        long word;

        if (ptrace(PTRACE_ATTACH, pid, NULL, NULL) < 0 || waitpid(pid, &status, __WALL) != pid)
                return false;
        errno = 0;
        word = ptrace(PTRACE_PEEKDATA, pid, word_address, NULL);
        if (errno)
                return false;
        memcpy((char *)&word + (address - word_address), &value, 1);
        return ptrace(PTRACE_POKEDATA, pid, word_address, word) == 0;
}

static const struct {
        const char *name;
        program_function write;
        bool by_thread; /* of the process itself: whose id is told */
} kinds[] = {
        {"store", write_by_store, true},
        {"store by a thread", write_by_thread, true},
        {"read(2)", write_by_read, true},
        {"process_vm_writev(2)", write_by_process_vm, false},
};

/* ------------------------------------------------------------------ events */

/* The last event was a write to page b of area a; c: by this thread, 0 any. */
static long check_write_event(struct program *program, long a, long b, long c)
{
        const struct wp_event *event = &program->event;
        const struct area *area = &program->areas[a];
        uint64_t page = (uintptr_t)area->memory + (uint64_t)b * PAGE_BYTES;

        CHECK(event->type == WP_EVENT_WRITE, "event %u", event->type);
        CHECK(event->flags == 0, "flags %#x", event->flags);
        CHECK(event->address >= page && event->address < page + PAGE_BYTES,
              "%#llx is not in the page at %#llx", (unsigned long long)event->address,
              (unsigned long long)page);
        CHECK(event->length > 0 && event->address + event->length <= page + PAGE_BYTES,
              "%llu bytes from %#llx on", (unsigned long long)event->length,
              (unsigned long long)event->address);
        CHECK(event->region == area->region, "the event names another region");
        CHECK(event->time_ns > 0, "the event has no time");
        CHECK(!c || event->tid == c, "thread %d instead of %ld", event->tid, c);
        return 0;
}

static long check_no_event(struct program *program, long a, long b, long c)
{
        struct pollfd pollfd = {.fd = (int)CHECK_OK(wp_event_fd(program->wp)), .events = POLLIN};

        CHECK(CHECK_OK(wp_next_event(program->wp, &program->event)) == 0, "an event of type %u waits",
              program->event.type);
        CHECK(poll(&pollfd, 1, 0) == 0, "wp_event_fd() is readable");
        return 0;
}

/* The descriptor is readable while an event waits, and only then. */
static long check_event_fd(struct program *program, long a, long b, long c)
{
        struct pollfd pollfd = {.fd = (int)CHECK_OK(wp_event_fd(program->wp)), .events = POLLIN};

        CHECK(poll(&pollfd, 1, 0) == 0, "wp_event_fd() is readable before the first event");
        for (long i = 0; i < b; i++)
                program_store(program, a, (long)at(i), 0);
        for (long i = 0; i < b; i++) {
                CHECK(poll(&pollfd, 1, -1) == 1 && pollfd.revents == POLLIN, "%#x", (unsigned)pollfd.revents);
                CHECK(wp_next_event(program->wp, &program->event) == 1, "event %ld does not wait", i);
        }
        CHECK(poll(&pollfd, 1, 0) == 0, "wp_event_fd() is readable after the last event was taken");
        return 0;
}

static void event_fd(uid_t uid)
{
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, NOTIFIED);
        client_do(&pair.clients[0], check_event_fd, 0, 10, 0);
        client_do(&pair.clients[1], check_event_fd, 0, 1, 0);
        pair_end(&pair);
}

/* An event about pages [b, b + c), without a writer. */
static long check_range_event(struct program *program, long a, long b, long c)
{
        const struct wp_event *event = &program->event;

        CHECK(program_wait_event(program, 0, 0, 0) == WP_EVENT_WRITE, "event %u", event->type);
        CHECK(event->address == (uintptr_t)program->areas[a].memory + (size_t)b * PAGE_BYTES &&
                      event->length == (size_t)c * PAGE_BYTES,
              "%llu bytes from %#llx", (unsigned long long)event->length, (unsigned long long)event->address);
        CHECK(!event->tid && event->region == program->areas[a].region &&
                      event->flags == (c > 1 ? WP_EVENT_F_FOLDED : 0),
              "thread %d, flags %#x", event->tid, event->flags);
        return 0;
}

static void each_kind(uid_t uid)
{
        struct pair pair;
        int64_t faults;

        pair_begin(&pair, uid, NULL, N_PAGES, NOTIFIED);
        faults = service_figure(&pair.service, "write_faults");
        for (long i = 0; i < (long)ARRAY_SIZE(kinds); i++) {
                const struct client *writer = &pair.clients[i % 2], *other = &pair.clients[1 - i % 2];
                long page = 3 + 7 * i, tid;

                client_do(writer, check_no_event, 0, 0, 0);
                tid = CHECK_OK(client_do(writer, kinds[i].write, 0, page, 0));
                CHECK(client_do(writer, program_wait_event, 0, 0, 0) == WP_EVENT_WRITE, "%s: another event",
                      kinds[i].name);
                client_do(writer, check_write_event, 0, page, kinds[i].by_thread ? tid : 0);
                client_do(writer, check_no_event, 0, 0, 0);
                client_do(other, check_no_event, 0, 0, 0);
                pair_verify(&pair);
                /* Once it is private, nobody hears of it. */
                CHECK_OK(client_do(writer, kinds[i].write, 0, page, 0));
                client_do(writer, check_no_event, 0, 0, 0);
                pair_verify(&pair);
                CHECK_SOON(service_figure(&pair.service, "write_faults") == faults + i + 1,
                           "%s: %lld write faults", kinds[i].name,
                           (long long)service_figure(&pair.service, "write_faults"));
        }
        CHECK_SOON(service_figure(&pair.service, "pages_sharing") == N_PAGES - (long)ARRAY_SIZE(kinds),
                   "sharing %lld", (long long)service_figure(&pair.service, "pages_sharing"));
        pair_end(&pair);
}

/*
 * A debugger's write to a merged page is refused by the kernel, which may not wait there (mm/memory.c,
 * __access_remote_vm()): then nothing has changed. Once the program itself has written the page, it works.
 */
static long poke_by_debugger(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];
        char before = area->shadow[at(b)];
        int error = poke_from_outside(area->memory + at(b), program_next_byte(area, at(b)), poke_ptrace);

        CHECK(!error || error == EIO, "%s", strerror(error));
        if (error)
                area->shadow[at(b)] = before;
        program_check_area(area, "after the debugger");
        program_store(program, a, (long)at(b), 0);
        error = poke_from_outside(area->memory + at(b), program_next_byte(area, at(b)), poke_ptrace);
        CHECK(!error, "a private page could not be written: %s", strerror(error));
        return 0;
}

static void debugger(uid_t uid)
{
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        CHECK_OK(client_do(&pair.clients[0], poke_by_debugger, 0, 9, 0));
        pair_verify(&pair);
        pair_end(&pair);
}

static void without_notify(uid_t uid)
{
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        for (long i = 0; i < (long)ARRAY_SIZE(kinds); i++)
                CHECK_OK(client_do(&pair.clients[0], kinds[i].write, 0, i, 0));
        CHECK_SOON(service_figure(&pair.service, "write_faults") == (long)ARRAY_SIZE(kinds),
                   "%lld write faults", (long long)service_figure(&pair.service, "write_faults"));
        client_do(&pair.clients[0], check_no_event, 0, 0, 0);
        pair_verify(&pair);
        pair_end(&pair);
}

/* Nobody waits for anybody, and the events come with the next scan. */
static void lazy(uid_t uid)
{
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE | WP_LAZY);
        CHECK_OK(error_from(kill(pair.service.pid, SIGSTOP)));
        for (long i = 0; i < 3; i++)
                CHECK_OK(client_do(&pair.clients[0], program_store, 0, (long)at(20 + i), 0));
        CHECK_OK(client_do(&pair.clients[0], program_store, 0, (long)at(50), 0));
        client_do(&pair.clients[0], check_no_event, 0, 0, 0);
        CHECK_OK(error_from(kill(pair.service.pid, SIGCONT)));
        service_scan(&pair.service);
        client_do(&pair.clients[0], check_range_event, 0, 20, 3);
        client_do(&pair.clients[0], check_range_event, 0, 50, 1);
        client_do(&pair.clients[0], check_no_event, 0, 0, 0);
        client_do(&pair.clients[1], check_no_event, 0, 0, 0);
        pair_verify(&pair);
        pair_end(&pair);
}

/* ------------------------------------------------------------------ many writes */

/* Stores into every page of the area, in order. */
static long write_all(struct program *program, long a, long b, long c)
{
        for (size_t page = 0; page < program->areas[a].n_pages; page++)
                program_store(program, a, (long)at((long)page), 0);
        return 0;
}

/* Both clients write every page at the same time: the last sharer of each is a writer, too. */
static void both_write_all(uid_t uid)
{
        struct pair pair;

        for (int round = 0; round < 4; round++) {
                pair_begin(&pair, uid, NULL, 2 * N_PAGES, WP_MERGE);
                for (long i = 0; i < 2; i++)
                        client_begin(&pair.clients[i], write_all, 0, 0, 0);
                for (long i = 0; i < 2; i++)
                        CHECK_OK(client_finish(&pair.clients[i]));
                pair_verify(&pair);
                CHECK_SOON(!service_figure(&pair.service, "pages_shared"), "%lld canonical pages stay",
                           (long long)service_figure(&pair.service, "pages_shared"));
                pair_verify(&pair);
                pair_end(&pair);
        }
}

/* What was written and discarded is none of the business of those who get the canonical pages next. */
static void slots_used_again(uid_t uid)
{
        struct pair pair, next;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        for (long i = 0; i < 2; i++)
                CHECK_OK(client_do(&pair.clients[i], write_all, 0, 0, 0));
        CHECK_SOON(!service_figure(&pair.service, "pages_shared"), "%lld canonical pages stay",
                   (long long)service_figure(&pair.service, "pages_shared"));
        CHECK_OK(client_do(&pair.clients[0], program_discard, 0, 0, N_PAGES));
        pair_verify(&pair);
        next.service = pair.service;
        pair_join(&next, uid, N_PAGES, WP_MERGE);
        pair_verify(&pair);
        pair_leave(&next, false);
        pair_end(&pair);
}

struct crowd {
        struct area *area;
        size_t first;
        size_t step;
        pthread_t thread;
};

static void *write_share(void *argument)
{
        const struct crowd *crowd = argument;

        for (size_t page = crowd->first; page < crowd->area->n_pages; page += crowd->step)
                *(volatile char *)(crowd->area->memory + at((long)page)) =
                        program_next_byte(crowd->area, at((long)page));
        return NULL;
}

/* Eight threads write, neighbouring pages at the same time. */
static long write_by_crowd(struct program *program, long a, long b, long c)
{
        struct crowd crowds[8];

        for (size_t i = 0; i < ARRAY_SIZE(crowds); i++) {
                crowds[i] =
                        (struct crowd){.area = &program->areas[a], .first = i, .step = ARRAY_SIZE(crowds)};
                CHECK_OK(-pthread_create(&crowds[i].thread, NULL, write_share, &crowds[i]));
        }
        for (size_t i = 0; i < ARRAY_SIZE(crowds); i++)
                CHECK_OK(-pthread_join(crowds[i].thread, NULL));
        return 0;
}

static void many_threads(uid_t uid)
{
        struct pair pair;

        pair_begin(&pair, uid, NULL, 2 * N_PAGES, WP_MERGE);
        for (long i = 0; i < 2; i++)
                client_begin(&pair.clients[i], write_by_crowd, 0, 0, 0);
        for (long i = 0; i < 2; i++)
                CHECK_OK(client_finish(&pair.clients[i]));
        pair_verify(&pair);
        pair_end(&pair);
}

/* Takes all events: singles first, then the sign that the rest was folded; together they name every page of the area. */
static long check_overrun(struct program *program, long a, long b, long c)
{
        const struct area *area = &program->areas[a];
        char *told = calloc(area->n_pages, 1);
        size_t n_told = 0, n_singles = 0, n_overruns = 0;

        CHECK(told, "out of memory");
        while (n_told < area->n_pages) {
                const struct wp_event *event = &program->event;
                bool folded;

                program_wait_event(program, 0, 0, 0);
                if (event->type == WP_EVENT_OVERRUN) {
                        n_overruns++;
                        continue;
                }
                CHECK(event->type == WP_EVENT_WRITE, "event %u", event->type);
                folded = event->flags & WP_EVENT_F_FOLDED;
                CHECK(!folded || n_overruns, "a folded range before an overrun was told");
                n_singles += !folded;
                for (uint64_t address = page_down(event->address); address < event->address + event->length;
                     address += PAGE_BYTES) {
                        uint64_t page = (address - (uintptr_t)area->memory) / PAGE_BYTES;

                        CHECK(page < area->n_pages, "%#llx is outside", (unsigned long long)address);
                        n_told += !told[page];
                        told[page] = 1;
                }
        }
        CHECK(n_overruns >= 1, "no overrun was told");
        CHECK(n_singles >= QUEUED / 2 && n_singles < area->n_pages, "%zu single events", n_singles);
        free(told);
        return 0;
}

static void overrun(uid_t uid)
{
        struct pair pair;

        pair_begin(&pair, uid, NULL, MANY, NOTIFIED);
        CHECK_OK(client_do(&pair.clients[0], write_all, 0, 0, 0));
        pair_verify(&pair);
        client_do(&pair.clients[0], check_overrun, 0, 0, 0);
        client_do(&pair.clients[0], check_no_event, 0, 0, 0);
        client_do(&pair.clients[1], check_no_event, 0, 0, 0);
        /* And single events come again. */
        CHECK_OK(client_do(&pair.clients[1], write_by_store, 0, 5, 0));
        CHECK(client_do(&pair.clients[1], program_wait_event, 0, 0, 0) == WP_EVENT_WRITE, "another event");
        client_do(&pair.clients[1], check_write_event, 0, 5, 0);
        pair_end(&pair);
}

/* ------------------------------------------------------------------ while pages are being merged */

static atomic_bool churning;

static void *churn(void *argument)
{
        struct area *area = argument;

        for (size_t i = 0; churning; i = i * 5 + 3)
                *(volatile char *)(area->memory + at((long)(i % area->n_pages))) =
                        program_next_byte(area, at((long)(i % area->n_pages)));
        return NULL;
}

static pthread_t churner;

static long churn_start(struct program *program, long a, long b, long c)
{
        churning = true;
        return -pthread_create(&churner, NULL, churn, &program->areas[a]);
}

static long churn_stop(struct program *program, long a, long b, long c)
{
        churning = false;
        return -pthread_join(churner, NULL);
}

static uint64_t same(long program, uint64_t page)
{
        return page / 4 + 1;
}

/* A thread writes all over an area while its pages are looked at and merged, and the others around it. */
static void during_merges(uid_t uid)
{
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        for (int round = 0; round < 3; round++) {
                CHECK_OK(client_do(&pair.clients[0], program_map, 1, 4 * N_PAGES, (long)same));
                CHECK_OK(client_do(&pair.clients[0], program_register, 1, WP_MERGE, 0));
                for (int burst = 0; burst < 8; burst++) {
                        CHECK_OK(client_do(&pair.clients[0], churn_start, 1, 0, 0));
                        service_scan(&pair.service);
                        CHECK_OK(client_do(&pair.clients[0], churn_stop, 1, 0, 0));
                        client_do(&pair.clients[0], program_verify, 1, 0, 0);
                        service_scan(&pair.service);
                }
                CHECK_OK(client_do(&pair.clients[0], program_unregister, 1, 0, 0));
                client_do(&pair.clients[0], program_verify, 1, 0, 0);
                CHECK_OK(client_do(&pair.clients[0], program_unmap, 1, 0, 0));
        }
        pair_end(&pair);
}

static const struct harness_test tests[] = {
        HARNESS_BOTH(each_kind),        HARNESS_USER(without_notify), HARNESS_USER(lazy),
        HARNESS_USER(slots_used_again), HARNESS_USER(debugger),       HARNESS_BOTH(both_write_all),
        HARNESS_USER(many_threads),     HARNESS_BOTH(overrun),        HARNESS_USER(event_fd),
        HARNESS_USER(during_merges),
};

HARNESS_MAIN(tests)
