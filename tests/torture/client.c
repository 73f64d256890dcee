/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Clients; see the header. */

#include "torture/client.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "system/harness.h"
#include "torture/peer.h"

#define MANAGER_PAUSE_NS (5 * NSEC_PER_MSEC)
#define PATIENCE_MS      2500 /* at most: how long the library may take to connect again by itself */
#define ANEW_MS          6000 /* at most: how long a connection lasts */
#define LEAVE_MS         15000
#define LEAVE_ONE_IN     4
#define LEFT_SECONDS     30 /* for a watcher to notice that the last mapping of the pool is gone */

/* ------------------------------------------------------------------ an ordinary program */

static bool is_dead(const struct fate *fate)
{
        return atomic_load(&fate->died_ns);
}

/* Its place is somebody else's: it died long ago. */
static bool is_forgotten(const struct forebear *forebear)
{
        return atomic_load(&forebear->slot->pid) != forebear->pid;
}

bool client_is_orphaned(const struct client *client)
{
        bool orphaned = is_dead(client_fate(client));

        for (unsigned i = 0; i < client->n_forebears; i++)
                orphaned |= is_dead(&client->forebears[i].slot->fate) || is_forgotten(&client->forebears[i]);
        return orphaned;
}

/* The one that died was connected to the daemon of today, for long enough, and the child was there for long enough. */
static bool was_handed_over(const struct fate *fate, const struct worker *child)
{
        uint64_t died_ns = atomic_load(&fate->died_ns);

        return atomic_load(&fate->daemon) == atomic_load(&shared->daemon.n_ends) &&
               died_ns > atomic_load(&fate->connected_ns) + TOLD_NS && died_ns > child->forked.told_ns;
}

bool client_is_unserved(const struct worker *worker, const struct area *area)
{
        const struct client *client = worker->client;
        const struct fate *fate = client_fate(client);
        bool unserved = false;

        if (!worker->depth || !client_is_orphaned(client))
                return false;
        if (is_dead(fate))
                unserved = !was_handed_over(fate, worker) ||
                           atomic_load(&fate->n_disconnects) != area->n_disconnects;
        for (unsigned i = 0; i < client->n_forebears && !unserved; i++) {
                fate = &client->forebears[i].slot->fate;
                unserved = is_forgotten(&client->forebears[i]) ||
                           (is_dead(fate) && !was_handed_over(fate, worker));
        }
        /* A daemon that errs may lose a context at any time. */
        return unserved || shared->options.inject;
}

static void become(uid_t uid, pid_t parent)
{
        struct rlimit limit;
        int r;

        /* As much as may be: for mlock(2) and the fixed buffers of io_uring. */
        if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
                limit.rlim_cur = limit.rlim_max;
                (void)!setrlimit(RLIMIT_MEMLOCK, &limit);
        }
        r = harness_drop_to(uid);
        EXPECT(r == 0, "user %u: %s", uid, strerror(-r));
        EXPECT(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0, "PR_SET_PDEATHSIG: %s", strerror(errno));
        if (getppid() != parent)
                _exit(EXIT_FAILURE);
}

/* An access that ends in a signal is wrong, too: say where it was. */
static void on_fault(int signal, siginfo_t *info, void *context)
{
        fail((uintptr_t)info->si_addr, "%s of process %d at %p", strsignal(signal), getpid(), info->si_addr);
}

static void catch_faults(void)
{
        struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};

        EXPECT(sigaction(SIGSEGV, &action, NULL) == 0 && sigaction(SIGBUS, &action, NULL) == 0,
               "sigaction: %s", strerror(errno));
}

/* ------------------------------------------------------------------ the connection */

/* No call of libwp is under way, and none will be; nothing is discarded. */
static void close_gates(struct client *client)
{
        while (!gate_close(&client->connection))
                ;
        for (unsigned i = 0; i < client->n_areas; i++) {
                while (!gate_close(&client->areas[i].registration))
                        ;
                while (!gate_close(&client->areas[i].discards))
                        ;
        }
}

static void open_gates(struct client *client)
{
        for (unsigned i = 0; i < client->n_areas; i++) {
                gate_open(&client->areas[i].discards);
                gate_open(&client->areas[i].registration);
        }
        gate_open(&client->connection);
}

static void disconnect(struct client *client)
{
        client->manager.what = "wp_disconnect";
        progress_note(&client->slot->manager, "wp_disconnect");
        close_gates(client);
        fate_disconnected(client_fate(client));
        atomic_fetch_add(&client_fate(client)->n_disconnects, 1);
        client->wp = wp_disconnect(client->wp);
        for (unsigned i = 0; i < client->n_areas; i++)
                client->areas[i].region = NULL;
        for (unsigned i = 0; i < client->n_workers; i++)
                views_forget(&client->workers[i]);
        open_gates(client);
        client->lost_ns = 0;
}

/* A daemon that is not there, is not ready or whose socket may not be opened yet: later. */
static bool transient(int r)
{
        return r == -ENOTCONN || r == -EACCES || shared->options.inject;
}

static void try_connect(struct client *client)
{
        struct wp_client *wp = NULL;
        int r;

        progress_note(&client->slot->manager, "wp_connect");
        r = wp_connect(shared->client_path, &wp);
        EXPECT(r == 0 || transient(r), "wp_connect: %s: %s", strerror(-r), wp_strerror_detail(NULL));
        if (r < 0)
                return;
        count(COUNT_CONNECTS, 1);
        fate_connected(client_fate(client));
        while (!gate_close(&client->connection))
                ;
        client->wp = wp;
        gate_open(&client->connection);
        client->anew_ns = clock_now() + draw(&client->manager, ANEW_MS * NSEC_PER_MSEC);
}

/* Whether the daemon answers: the library may have found the next one by itself. */
static bool answers(struct client *client)
{
        struct wp_region_stat stat;
        int r = -ENOTCONN;

        for (unsigned i = 0; i < client->n_areas && r == -ENOTCONN; i++) {
                struct area *area = &client->areas[i];

                if (!gate_enter(&area->registration))
                        continue;
                if (area->region)
                        r = wp_region_stat(area->region, &stat);
                gate_leave(&area->registration);
        }
        return r == 0;
}

static void note_lost(struct client *client)
{
        count(COUNT_LOST, 1);
        fate_disconnected(client_fate(client));
        client->lost_ns = clock_now();
        client->patience_ns = draw(&client->manager, PATIENCE_MS * NSEC_PER_MSEC);
}

static void take_events(struct client *client)
{
        struct wp_event event;

        while (wp_next_event(client->wp, &event) > 0) {
                count(COUNT_EVENTS, 1);
                if (event.type == WP_EVENT_DISCONNECTED)
                        note_lost(client);
                else if (event.type == WP_EVENT_RECONNECTED)
                        fate_connected(client_fate(client));
        }
}

static void tend_connection(struct client *client)
{
        uint64_t now = clock_now();

        if (!client->wp) {
                try_connect(client);
                return;
        }
        take_events(client);
        if (client->lost_ns && now > client->lost_ns + client->patience_ns) {
                if (answers(client))
                        client->lost_ns = 0;
                else
                        disconnect(client);
        } else if (now > client->anew_ns && !atomic_load(&shared->calm)) {
                disconnect(client);
        }
}

/* ------------------------------------------------------------------ life */

static void reap_children(struct client *client)
{
        int status;
        pid_t pid;

        while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
                child_reaped(pid, status);
}

static void start_workers(struct client *client)
{
        for (unsigned i = 0; i < client->n_workers; i++) {
                int r = pthread_create(&client->workers[i].thread, NULL, worker_main, &client->workers[i]);

                EXPECT(r == 0, "pthread_create: %s", strerror(r));
        }
}

static void manage(struct client *client)
{
        while (!atomic_load(&shared->stop)) {
                progress_note(&client->slot->manager, "manager");
                tend_connection(client);
                reap_children(client);
                /* In the middle of everything: the other threads end wherever they are. */
                if (client->leave_ns && clock_now() > client->leave_ns && !atomic_load(&shared->calm)) {
                        atomic_store(&client_fate(client)->died_ns, clock_now());
                        _exit(EXIT_SUCCESS);
                }
                nanosleep(&(struct timespec){.tv_nsec = (long)MANAGER_PAUSE_NS}, NULL);
        }
}

static void verify_areas(struct client *client, const char *when)
{
        client->manager.what = when;
        progress_note(&client->slot->manager, when);
        for (unsigned i = 0; i < client->n_areas; i++) {
                struct area *area = &client->areas[i];
                struct range all = {.area = area, .n = area->n_pages};

                range_verify(&client->manager, &all, when);
        }
        for (unsigned i = 0; i < client->n_workers; i++)
                views_verify(&client->workers[i], when);
}

static void prepare(struct client *client, unsigned index)
{
        const struct options *options = &shared->options;

        client->index = index;
        client->slot = &shared->clients[index];
        client->generation = atomic_load(&client->slot->generation);
        client->n_workers = options->threads;
        client->n_areas = options->threads * AREAS_PER_THREAD;
        worker_init(&client->manager, client, MAX_THREADS, &client->slot->manager);
        client->manager.tid = getpid();
        progress_begin(&client->slot->manager, getpid(), getpid(), "start");
        if (draw(&client->manager, LEAVE_ONE_IN) == 0 && options->client_kill_ms)
                client->leave_ns = clock_now() + draw(&client->manager, LEAVE_MS * NSEC_PER_MSEC);
        for (unsigned i = 0; i < client->n_workers; i++) {
                worker_init(&client->workers[i], client, i, &client->slot->workers[i]);
                client->workers[i].peer = peer_start(client);
        }
        for (unsigned i = 0; i < client->n_areas; i++) {
                area_init(&client->areas[i], i, options->pages / client->n_areas);
                area_map(&client->manager, &client->areas[i]);
        }
}

/* Nothing of the library is left once the last memory that was merged is gone. */
static void check_leaks(struct client *client, size_t n_fds, size_t n_threads)
{
        uint64_t deadline = clock_now() + LEFT_SECONDS * NSEC_PER_SEC;

        progress_note(&client->slot->manager, "waiting for the library's last thread");
        while (clock_now() < deadline &&
               (harness_count_threads(getpid()) != n_threads || harness_count_fds(getpid()) != n_fds))
                nanosleep(&(struct timespec){.tv_nsec = (long)MANAGER_PAUSE_NS}, NULL);
        EXPECT(harness_count_threads(getpid()) == n_threads,
               "client %u is left with %zu threads instead of %zu", client->index,
               harness_count_threads(getpid()), n_threads);
        EXPECT(harness_count_fds(getpid()) == n_fds, "client %u is left with %zu descriptors instead of %zu",
               client->index, harness_count_fds(getpid()), n_fds);
}

static void finish(struct client *client)
{
        int status;
        pid_t pid;

        for (unsigned i = 0; i < client->n_workers; i++) {
                pthread_join(client->workers[i].thread, NULL);
                worker_release(&client->workers[i]);
        }
        progress_note(&client->slot->manager, "waiting for children");
        while ((pid = waitpid(-1, &status, 0)) > 0)
                child_reaped(pid, status);
        verify_areas(client, "after the last operation");
        disconnect(client);
        verify_areas(client, "after disconnecting");
        for (unsigned i = 0; i < client->n_areas; i++)
                area_unmap(&client->manager, &client->areas[i]);
        for (unsigned i = 0; i < client->n_workers; i++)
                views_release(&client->workers[i]);
        worker_release(&client->manager);
}

void client_main(unsigned index)
{
        struct client *client;
        size_t n_fds, n_threads;

        become(shared->options.uid, shared->main_pid);
        catch_faults();
        client = torture_map(sizeof(*client));
        n_fds = harness_count_fds(getpid());
        prepare(client, index);
        n_threads = harness_count_threads(getpid());
        start_workers(client);
        manage(client);
        finish(client);
        check_leaks(client, n_fds, n_threads);
        progress_end(&client->slot->manager);
        _exit(EXIT_SUCCESS);
}
