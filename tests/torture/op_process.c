/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Operations: fork(2) and its kin, and threads. */

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "torture/client.h"
#include "torture/op.h"

#define MAX_RANGES    24
#define MAX_CHILD_MS  400
#define LONG_CHILD_MS 6000
#define LONG_ONE_IN   8
#define SEASON_NS     (700 * NSEC_PER_MSEC)
#define SEASONS       4
#define CROWD         3
#define CROWD_US      20000
#define EXECUTED      "/bin/true"

/* ------------------------------------------------------------------ children */

/* What the forking worker holds as a reader, and the child gets. */
struct heritage {
        struct range ranges[MAX_RANGES];
        unsigned n;
        bool inside[MAX_AREAS];
        bool raw; /* by a raw clone(2) */
};

static void take_area(struct worker *worker, struct area *area, struct heritage *heritage)
{
        for (size_t page = 0; page < area->n_pages && heritage->n < MAX_RANGES;) {
                struct range *range = &heritage->ranges[heritage->n];

                if (range_take_at(worker, area, page, SIZE_MAX, false, range)) {
                        page += range->n;
                        heritage->n++;
                } else {
                        page++;
                }
        }
}

/*
 * doc/memory.md: a child that is forked while its memory is given back is not served for that. fork(2) waits until that is
 * over; a raw clone(2) does not, so nothing is given back meanwhile.
 */
static bool enter_area(struct area *area, bool raw)
{
        if (!gate_enter(&area->layout))
                return false;
        if (!raw || gate_enter(&area->discards))
                return true;
        gate_leave(&area->layout);
        return false;
}

static void leave_area(struct area *area, bool raw)
{
        if (raw)
                gate_leave(&area->discards);
        gate_leave(&area->layout);
}

/* As many pages of as many areas as can be had. */
static void heritage_take(struct worker *worker, bool raw, struct heritage *heritage)
{
        struct client *client = worker->client;

        heritage->n = 0;
        heritage->raw = raw;
        for (unsigned i = 0; i < client->n_areas; i++) {
                heritage->inside[i] = enter_area(&client->areas[i], raw);
                if (heritage->inside[i])
                        take_area(worker, &client->areas[i], heritage);
        }
}

static void heritage_give(struct worker *worker, struct heritage *heritage)
{
        for (unsigned i = 0; i < heritage->n; i++)
                range_give(worker, &heritage->ranges[i]);
        for (unsigned i = 0; i < worker->client->n_areas; i++)
                if (heritage->inside[i])
                        leave_area(&worker->client->areas[i], heritage->raw);
}

typedef void (*child_life)(struct worker *worker);

static void live(struct worker *worker)
{
        uint64_t lifetime_ms =
                draw(worker, LONG_ONE_IN) ? draw(worker, MAX_CHILD_MS) : draw(worker, LONG_CHILD_MS);

        worker->until_ns = clock_now() + lifetime_ms * NSEC_PER_MSEC;
        worker_live_as_child(worker);
}

/* A child has no connection, but may make one; then it is a client like others, only without a manager. */
static void live_connected(struct worker *worker)
{
        struct client *client = worker->client;

        progress_begin(&worker->slot->progress, getpid(), getpid(), "wp_connect of a child");
        client->forebears[client->n_forebears++] = (struct forebear){worker->slot, getpid()};
        if (wp_connect(shared->client_path, &client->wp) == 0) {
                fate_connected(&worker->slot->fate);
                for (unsigned i = 0; i < client->n_areas; i++)
                        gate_open(&client->areas[i].registration);
        }
        live(worker);
}

static pid_t raw_fork(void)
{
        return (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
}

/* What is shared with a child is not merged until it is written: clients fork at times, and at others they do not. */
static bool is_season(const struct worker *worker)
{
        return (clock_now() / SEASON_NS + worker->client->index) % SEASONS == 0;
}

/* From when on a child of this worker that is forked now is known to the daemon, too. An orphan's fork waits until it is. */
static uint64_t told_ns(const struct worker *worker)
{
        return client_is_orphaned(worker->client) ? worker->forked.told_ns : clock_now() + TOLD_NS;
}

__attribute__((__noreturn__)) static void begin_life(struct worker *worker, struct child_slot *slot,
                                                     const struct forked *forked,
                                                     const struct heritage *heritage, child_life life)
{
        struct client *client = worker->client;

        worker->forked = *forked;
        worker->forked.told_ns = told_ns(worker);
        worker->slot = slot;
        client_inherit(client);
        views_forget(worker);
        areas_inherit(client->areas, client->n_areas, heritage->ranges, heritage->n);
        life(worker);
        __builtin_unreachable();
}

static void fork_by(struct worker *worker, pid_t (*forker)(void), child_life life)
{
        struct client *client = worker->client;
        struct heritage heritage;
        struct child_slot *slot;
        struct forked forked;
        uint64_t ticket;
        pid_t pid;

        if (worker->depth >= MAX_DEPTH || !(worker->depth || is_season(worker)))
                return;
        heritage_take(worker, forker == raw_fork, &heritage);
        /* A child that knows no page would have nothing to do. */
        slot = heritage.n ? child_slot_take(client->index, client->generation, false, &ticket) : NULL;
        if (slot) {
                forked = (struct forked){
                        .time_ns = clock_now(),
                        .told_ns = worker->forked.told_ns,
                        .n_ends = atomic_load(&shared->daemon.n_ends),
                        .n_disconnects = atomic_load(&client_fate(client)->n_disconnects),
                        .raw = worker->forked.raw || forker == raw_fork,
                };
                views_note_fork(worker);
                pid = forker();
                if (!pid && !child_slot_begin(slot, ticket))
                        _exit(0);
                if (!pid)
                        begin_life(worker, slot, &forked, &heritage, life);
                EXPECT(pid > 0, "fork: %s", strerror(errno));
                count(COUNT_FORKS, 1);
        }
        heritage_give(worker, &heritage);
}

/* What the C library locks around fork(2) may be locked for ever in a child of a raw clone(2). */
void op_fork(struct worker *worker, struct area *area)
{
        fork_by(worker, worker->forked.raw ? raw_fork : fork, live);
}

void op_clone(struct worker *worker, struct area *area)
{
        fork_by(worker, raw_fork, live);
}

void op_join(struct worker *worker, struct area *area)
{
        fork_by(worker, fork, live_connected);
}

/* ------------------------------------------------------------------ a process that ends in the middle */

static void *crowd_main(void *argument)
{
        static void (*const runs[])(struct worker *, struct area *) = {op_load, op_store, op_fill,
                                                                       op_dontneed};
        struct worker worker = *(struct worker *)argument;

        worker.tid = (int32_t)syscall(SYS_gettid);
        worker.random.state ^= (uint64_t)worker.tid << 32;
        for (;;) {
                struct area *area = &worker.client->areas[draw(&worker, worker.client->n_areas)];

                if (gate_enter(&area->layout)) {
                        runs[draw(&worker, ARRAY_SIZE(runs))](&worker, area);
                        gate_leave(&area->layout);
                }
        }
        return NULL;
}

/* Its threads end wherever they are, maybe while they wait for a page: by exit_group(2), or killed. */
static void live_in_a_crowd(struct worker *worker)
{
        struct child_slot *slot = worker->slot;
        pthread_t thread;

        progress_begin(&slot->progress, getpid(), getpid(), worker->what);
        worker->progress = &slot->progress;
        worker->depth++;
        for (unsigned i = 0; i < CROWD; i++) {
                int r = pthread_create(&thread, NULL, crowd_main, worker);

                EXPECT(r == 0, "pthread_create: %s", strerror(r));
        }
        nanosleep(&(struct timespec){.tv_nsec = (long)(draw(worker, CROWD_US) * NSEC_PER_USEC)}, NULL);
        if (coin(worker))
                _exit(0);
        atomic_store(&slot->may_be_killed, true);
        kill(getpid(), SIGKILL);
}

void op_crowd(struct worker *worker, struct area *area)
{
        fork_by(worker, fork, live_in_a_crowd);
}

/* ------------------------------------------------------------------ other programs */

/* A child's children have no manager to reap them. */
static void reap_if_child(struct worker *worker, pid_t pid)
{
        int status;

        if (worker->depth)
                EXPECT(waitpid(pid, &status, 0) == pid && !status, "%s ended with status %#x", EXECUTED,
                       (unsigned)status);
}

/* Until it executes, the new process has the same memory, and the thread waits. */
__attribute__((__noinline__)) static pid_t store_and_execute(volatile char *address, char value)
{
        static char *const arguments[] = {(char *)EXECUTED, NULL}, *const environment[] = {NULL};
        pid_t pid = vfork();

        if (pid)
                return pid;
        *address = value;
        execve(EXECUTED, arguments, environment);
        _exit(1);
}

void op_vfork(struct worker *worker, struct area *area)
{
        struct range range;
        size_t offset;
        char value;
        pid_t pid;

        if (!range_take(worker, area, SIZE_MAX, true, &range))
                return;
        offset = draw(worker, range_bytes(&range));
        value = (char)draw(worker, 256);
        pid = store_and_execute(range_memory(&range) + offset, value);
        EXPECT(pid > 0, "vfork: %s", strerror(errno));
        range_shadow(&range)[offset] = value;
        range_verify(worker, &range, "after vfork");
        range_give(worker, &range);
        reap_if_child(worker, pid);
}

void op_spawn(struct worker *worker, struct area *area)
{
        char *const arguments[] = {(char *)EXECUTED, NULL}, *const environment[] = {NULL};
        struct range range;
        pid_t pid;
        int r;

        if (!range_take(worker, area, SIZE_MAX, false, &range))
                return;
        r = posix_spawn(&pid, EXECUTED, NULL, NULL, arguments, environment);
        EXPECT(r == 0, "posix_spawn: %s", strerror(r));
        range_verify(worker, &range, "after posix_spawn");
        range_give(worker, &range);
        reap_if_child(worker, pid);
}

/* ------------------------------------------------------------------ threads */

struct errand {
        struct worker worker; /* a copy, with choices of its own */
        struct range range;
};

static void *run_errand(void *argument)
{
        struct errand *errand = argument;

        errand->worker.tid = (int32_t)syscall(SYS_gettid);
        range_verify(&errand->worker, &errand->range, "by another thread");
        range_fill(&errand->worker, &errand->range);
        return NULL;
}

/* Another thread does the work for the worker, and ends. */
void op_thread(struct worker *worker, struct area *area)
{
        struct errand errand = {.worker = *worker};
        pthread_t thread;
        int r;

        errand.worker.random.state = random_next(&worker->random);
        if (!range_take(worker, area, SIZE_MAX, true, &errand.range))
                return;
        r = pthread_create(&thread, NULL, run_errand, &errand);
        EXPECT(r == 0, "pthread_create: %s", strerror(r));
        pthread_join(thread, NULL);
        range_verify(worker, &errand.range, "after another thread wrote it");
        range_give(worker, &errand.range);
}
