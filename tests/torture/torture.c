/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The torture: programs that know each byte of their memory, and a daemon that merges it and is killed
 *
 * The main process keeps the daemon (keeper.c), starts clients and kills some (client.c), and watches that all make progress
 * (watchdog.c); workers in the clients do operations (ops.c) on memory of which each byte is known (area.c).
 * What they share is in shared.h. At the end it lets the daemon live, lets all clients leave and looks for what is left.
 */

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "torture/client.h"
#include "torture/content.h"
#include "torture/keeper.h"
#include "torture/ops.h"
#include "torture/report.h"
#include "torture/shared.h"
#include "torture/view.h"
#include "torture/watchdog.h"
#include "util/cleanup.h"

#define SKIPPED      77
#define STEP_NS      (5 * NSEC_PER_MSEC)
#define CALM_NS      (6 * NSEC_PER_SEC) /* to connect again, and of merging in peace, before all leave */
#define LONG_SECONDS 60
#define LEAVING_NS   (180 * NSEC_PER_SEC)

static volatile sig_atomic_t interrupted;

struct run {
        struct keeper keeper;
        struct random random;
        uint64_t client_kill_ns;
        unsigned n_clients; /* that run */
        unsigned n_client_kills;
        bool leaving;
};

/* ------------------------------------------------------------------ clients */

static void start_client(struct run *run, unsigned index)
{
        struct client_slot *slot = &shared->clients[index];
        pid_t pid;

        memset(slot->workers, 0, sizeof(slot->workers));
        progress_end(&slot->manager);
        fate_begin(client_slot_fate(slot, atomic_load(&slot->generation)));
        pid = fork();
        if (!pid)
                client_main(index);
        if (pid < 0) {
                complain("fork: %s", strerror(errno));
                return;
        }
        atomic_store(&slot->pid, pid);
        run->n_clients++;
}

static void draw_client_kill(struct run *run)
{
        uint64_t mean = shared->options.client_kill_ms * NSEC_PER_MSEC;

        run->client_kill_ns = mean ? clock_now() + random_below(&run->random, 2 * mean) : UINT64_MAX;
}

static void kill_client(struct run *run)
{
        struct client_slot *slot = &shared->clients[random_below(&run->random, shared->options.clients)];

        pid_t pid = atomic_load(&slot->pid);

        draw_client_kill(run);
        if (!pid)
                return;
        atomic_store(&client_slot_fate(slot, atomic_load(&slot->generation))->died_ns, clock_now());
        kill(pid, SIGKILL);
        run->n_client_kills++;
}

/* `told`: it was killed, or chose to leave. */
static void check_end(const struct run *run, unsigned index, int status, bool told)
{
        if (told && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
                return;
        if (!WIFEXITED(status) || WEXITSTATUS(status))
                complain("client %u ended with status %#x", index, (unsigned)status);
        else if (!told && !run->leaving)
                complain("client %u left too early", index);
}

/* False when it is not one. */
static bool client_reaped(struct run *run, pid_t pid, int status)
{
        for (unsigned i = 0; i < shared->options.clients; i++) {
                struct client_slot *slot = &shared->clients[i];

                if (atomic_load(&slot->pid) != pid)
                        continue;
                check_end(run, i, status,
                          atomic_load(&client_slot_fate(slot, atomic_load(&slot->generation))->died_ns));
                run->n_clients--;
                atomic_store(&slot->pid, 0);
                atomic_fetch_add(&slot->generation, 1);
                child_slots_reclaim(i);
                if (!run->leaving)
                        start_client(run, i);
                return true;
        }
        return false;
}

static void reap(struct run *run)
{
        int status;
        pid_t pid;

        while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
                if (!keeper_reaped(&run->keeper, pid, status) && !client_reaped(run, pid, status))
                        child_reaped(pid, status);
}

/* ------------------------------------------------------------------ phases */

static bool failed(void)
{
        return atomic_load(&shared->verdict.ready);
}

static void step(struct run *run)
{
        atomic_store(&shared->beat_ns, clock_now());
        keeper_step(&run->keeper);
        reap(run);
        watchdog_step();
        if (interrupted)
                complain("interrupted by %s", strsignal(interrupted));
        if (clock_now() > run->client_kill_ns && !atomic_load(&shared->calm))
                kill_client(run);
        nanosleep(&(struct timespec){.tv_nsec = (long)STEP_NS}, NULL);
}

static void torture(struct run *run)
{
        uint64_t end = clock_now() + shared->options.seconds * NSEC_PER_SEC;

        for (unsigned i = 0; i < shared->options.clients; i++)
                start_client(run, i);
        if (shared->has_views && views_start_writer() < 0)
                complain("fork: %s", strerror(errno));
        draw_client_kill(run);
        while (!failed() && clock_now() < end)
                step(run);
}

/* The last daemon works without being disturbed: what is left in the end is not what it could not help. */
static void calm_down(struct run *run)
{
        uint64_t ready;

        atomic_store(&shared->calm, true);
        keeper_spare(&run->keeper);
        do {
                step(run);
                ready = atomic_load(&shared->daemon.ready_ns);
        } while (!failed() && (!ready || clock_now() < ready + CALM_NS));
}

/* Processes of this run other than the daemon, orphans among them. */
static bool alone(const struct run *run)
{
        char text[4096] = "", expected[32];
        _cleanup_fd_ int fd = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);

        if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
                return true; /* a kernel that does not tell */
        snprintf(expected, sizeof(expected), "%d ", run->keeper.pid);
        return !strcmp(text, expected);
}

static void let_leave(struct run *run)
{
        uint64_t deadline = clock_now() + LEAVING_NS;

        run->leaving = true;
        atomic_store(&shared->stop, true);
        while (!failed() && (run->n_clients || !alone(run))) {
                step(run);
                if (clock_now() > deadline)
                        complain("%u clients do not leave, or a process is left", run->n_clients);
        }
        if (!failed())
                keeper_check_leaks(&run->keeper);
}

static void check_results(struct run *run)
{
        if (!failed() && shared->options.inject && !run->keeper.n_injected)
                complain("nothing was injected: this run proves nothing");
        if (!failed() && !run->keeper.total.merges)
                complain("nothing was merged: this run proves nothing");
        if (!failed() && !atomic_load(&shared->counts[COUNT_VERIFIED]))
                complain("nothing was verified: this run proves nothing");
        /* Whoever writes to a file, or a daemon that is gone, makes that rarer than other merges. */
        if (!failed() && shared->options.seconds >= LONG_SECONDS && !shared->options.stops &&
            !shared->options.inject && atomic_load(&shared->counts[COUNT_FILE_REGISTERED]) &&
            !atomic_load(&shared->counts[COUNT_FILE_MERGED]))
                complain("nothing of any file was merged: this run proves nothing of them");
}

/* ------------------------------------------------------------------ the frame */

/* Never 0, which is all of our process group. */
static void kill_if_there(pid_t pid)
{
        if (pid > 0)
                kill(pid, SIGKILL);
}

static void kill_known(void)
{
        for (unsigned i = 0; i < MAX_CHILDREN; i++)
                kill_if_there(atomic_load(&shared->children[i].pid));
        for (unsigned i = 0; i < shared->options.clients; i++)
                kill_if_there(atomic_load(&shared->clients[i].pid));
        kill_if_there(atomic_load(&shared->writer.pid));
}

/* A child that is forked at this moment is known a moment later. */
static void kill_all(struct run *run)
{
        int status;
        pid_t pid;

        keeper_kill(&run->keeper);
        do {
                kill_known();
                nanosleep(&(struct timespec){.tv_nsec = (long)STEP_NS}, NULL);
                while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
                        if (!client_reaped(run, pid, status))
                                child_reaped(pid, status);
        } while (pid == 0);
}

static void on_signal(int signal)
{
        interrupted = signal;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
        return remove(path);
}

static void make_direct_file(void)
{
        snprintf(shared->direct_path, sizeof(shared->direct_path), "%s/wpd-torture.%d",
                 shared->options.directory, getpid());
        if (content_write_file(shared->direct_path) < 0) {
                printf("direct I/O does not work in %s: left out\n", shared->options.directory);
                unlink(shared->direct_path);
                shared->direct_path[0] = '\0';
        }
}

static bool prepare(const struct options *options)
{
        const size_t bytes = CONTENT_NUMBERS * PAGE_BYTES;

        if (shared_create(options) < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
                return false;
        shared->main_pid = getpid();
        snprintf(shared->directory, sizeof(shared->directory), "/tmp/wpd-torture-XXXXXX");
        if (!mkdtemp(shared->directory) || chmod(shared->directory, 0755) < 0)
                return false;
        snprintf(shared->client_path, sizeof(shared->client_path), "%s/run/client.sock", shared->directory);
        snprintf(shared->control_path, sizeof(shared->control_path), "%s/run/control.sock",
                 shared->directory);
        shared->contents = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (shared->contents == MAP_FAILED)
                return false;
        content_make(shared->contents);
        make_direct_file();
        shared->has_views = views_create();
        return true;
}

static void clean_up(void)
{
        if (shared->direct_path[0])
                unlink(shared->direct_path);
        views_remove();
        nftw(shared->directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* Whether it went as it should: without a failure, or with the one that was asked for. */
static bool as_expected(void)
{
        const char *expected = shared->options.expect;

        return expected ? failed() && strstr(shared->verdict.text, expected) : !failed();
}

static int run_all(void)
{
        struct run run = {.random.state = shared->options.seed ^ 1,
                          .keeper.random.state = shared->options.seed ^ 2};
        uint64_t start = clock_now();
        bool right;

        if (!keeper_start(&run.keeper)) {
                printf("SKIP: wpd cannot serve here: see wpd --check\n");
                return SKIPPED;
        }
        torture(&run);
        if (!failed())
                calm_down(&run);
        if (!failed())
                let_leave(&run);
        check_results(&run);
        if (failed())
                report_failure(&run.keeper);
        printf("\n");
        report_print(&run.keeper, (double)(clock_now() - start) / 1e9);
        printf("clients killed  %u\n", run.n_client_kills);
        right = as_expected();
        run.leaving = true;
        kill_all(&run);
        printf("\n%s: ", right ? "OK" : "FAILED");
        options_print(&shared->options);
        return right ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
        struct options options;
        int r = options_parse(&options, argc, argv);

        if (r)
                return r < 0 ? 2 : EXIT_SUCCESS;
        if (options.list_ops) {
                ops_list();
                return EXIT_SUCCESS;
        }
        if (ops_select(options.only, options.without) < 0)
                return 2;
        setvbuf(stdout, NULL, _IOLBF, 0);
        signal(SIGINT, on_signal);
        signal(SIGTERM, on_signal);
        if (getuid() != 0) {
                puts("SKIP: needs root");
                return SKIPPED;
        }
        options_print(&options);
        if (!prepare(&options)) {
                perror("wpd-torture");
                return EXIT_FAILURE;
        }
        r = run_all();
        clean_up();
        return r;
}
