/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The keeper of the daemon; see the header. */

#include "torture/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/control.h"
#include "system/harness.h"
#include "torture/shared.h"
#include "wp.h"

#define POLL_NS     (100 * NSEC_PER_MSEC)
#define ANSWER_MS   100 /* a daemon that is slower is asked again later */
#define READY_NS    (30 * NSEC_PER_SEC)
#define END_NS      (30 * NSEC_PER_SEC)
#define LEFT_NS     (30 * NSEC_PER_SEC)
#define MAX_DOWN_MS 800
#define MAX_STOP_MS 3000
#define LOSS_ONE_IN 4

static const char configuration[] = "[scan]\n"
                                    "sleep_millisecs = 10\n"
                                    "sleep_max_millisecs = 50\n"
                                    "max_cpu_percent = 100\n"
                                    "[merge]\n"
                                    "merge_across_nodes = yes\n";

static const char injected_prefix[] = "inject: ";

/* What a log must not say. */
static const char *const findings[] = {"is not in the table", "ERROR: AddressSanitizer",
                                       "runtime error:", "ERROR: LeakSanitizer", "Assertion `"};

/* ------------------------------------------------------------------ files */

static void log_path(unsigned life, char path[128])
{
        snprintf(path, 128, "%s/log.%u", shared->directory, life);
}

static void config_path(char path[128])
{
        snprintf(path, 128, "%s/wpd.conf", shared->directory);
}

static bool write_configuration(void)
{
        char path[128];
        FILE *file;

        config_path(path);
        file = fopen(path, "we");
        if (!file)
                return false;
        fputs(configuration, file);
        return !fclose(file);
}

static void note_injected(struct keeper *keeper, const char *line)
{
        for (unsigned i = 0; i < keeper->n_injected; i++)
                if (!strncmp(keeper->injected[i], line, KEEPER_INJECTED_BYTES - 1))
                        return;
        if (keeper->n_injected < KEEPER_MAX_INJECTED)
                snprintf(keeper->injected[keeper->n_injected++], KEEPER_INJECTED_BYTES, "%.*s",
                         KEEPER_INJECTED_BYTES - 1, line);
}

static bool is_finding(const char *line)
{
        for (unsigned i = 0; i < ARRAY_SIZE(findings); i++)
                if (strstr(line, findings[i]))
                        return true;
        return false;
}

/* Of the life that ended. */
static void read_log(struct keeper *keeper)
{
        char path[128], line[512];
        FILE *log;

        log_path(keeper->n_lives, path);
        log = fopen(path, "re");
        while (log && fgets(line, sizeof(line), log)) {
                if (!strncmp(line, injected_prefix, strlen(injected_prefix)))
                        note_injected(keeper, line + strlen(injected_prefix));
                else if (is_finding(line))
                        complain("the daemon's log says: %s", line);
        }
        if (log)
                fclose(log);
}

/* ------------------------------------------------------------------ asking */

static uint64_t figure(const json_t *status, const char *name)
{
        const json_t *value = json_object_get(status, name);

        return json_is_integer(value) ? (uint64_t)json_integer_value(value) : 0;
}

/* NULL when there is no answer in time. */
static json_t *ask_status(struct keeper *keeper)
{
        json_t *status = NULL;

        if (!keeper->control || control_send(keeper->control, "Status", NULL) < 0)
                return NULL;
        if (control_receive(keeper->control, ANSWER_MS, &status) <= 0)
                return NULL;
        return status;
}

static void poll_figures(struct keeper *keeper)
{
        json_t *status = ask_status(keeper);
        uint64_t merges = figure(status, "merges");

        if (!status)
                return;
        if (merges > keeper->life.merges)
                atomic_store(&shared->daemon.merged_ns, clock_now());
        keeper->life = (struct figures){
                .merges = MAX(merges, keeper->life.merges),
                .unmerges = figure(status, "unmerges"),
                .write_faults = figure(status, "write_faults"),
                .zero_pages = MAX(figure(status, "zero_pages"), keeper->life.zero_pages),
        };
        json_decref(status);
}

static void add_figures(struct keeper *keeper)
{
        keeper->total.merges += keeper->life.merges;
        keeper->total.unmerges += keeper->life.unmerges;
        keeper->total.write_faults += keeper->life.write_faults;
        keeper->total.zero_pages += keeper->life.zero_pages;
        keeper->life = (struct figures){0};
}

/* ------------------------------------------------------------------ starting */

static void inject(const struct keeper *keeper)
{
        const struct options *options = &shared->options;
        char number[32];

        if (!keeper->injected_life)
                return;
        snprintf(number, sizeof(number), "%llu", (unsigned long long)(options->seed + keeper->n_lives));
        setenv("WPD_INJECT_SEED", number, true);
        snprintf(number, sizeof(number), "%u", options->inject_one_in);
        setenv("WPD_INJECT_ONE_IN", number, true);
        setenv("LD_PRELOAD", options->inject, true);
}

__attribute__((__noreturn__)) static void execute(const struct keeper *keeper)
{
        char path[128], config[160], runtime[160];
        int log;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        log_path(keeper->n_lives, path);
        log = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (log < 0 || dup2(log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0)
                _exit(EXIT_FAILURE);
        close(log);
        if (fd_store_pass(&keeper->store) < 0)
                _exit(EXIT_FAILURE);
        inject(keeper);
        config_path(path);
        snprintf(config, sizeof(config), "--config=%s", path);
        snprintf(runtime, sizeof(runtime), "--runtime-dir=%s/run", shared->directory);
        execl(shared->options.wpd, shared->options.wpd, config, runtime, NULL);
        perror(shared->options.wpd);
        _exit(EXIT_FAILURE);
}

/* Now and then there is no service manager, so to speak. */
static void keep_store(struct keeper *keeper)
{
        int r = fd_store_collect(&keeper->store);

        if (r < 0)
                complain("what the daemon says to the service manager: %s", strerror(-r));
        if (!keeper->store.n || random_below(&keeper->random, LOSS_ONE_IN))
                return;
        fd_store_forget(&keeper->store);
        keeper->n_losses++;
}

static void start(struct keeper *keeper)
{
        char path[128];

        /* The log before the last is of no interest any more. */
        if (keeper->n_lives > 1) {
                log_path(keeper->n_lives - 1, path);
                unlink(path);
        }
        keep_store(keeper);
        keeper->injected_life = shared->options.inject && !keeper->spared;
        keeper->n_lives++;
        keeper->pid = fork();
        if (!keeper->pid)
                execute(keeper);
        if (keeper->pid < 0) {
                complain("fork: %s", strerror(errno));
                keeper->pid = 0;
                keeper->state = KEEPER_DOWN;
                return;
        }
        keeper->state = KEEPER_STARTING;
        keeper->next_ns = clock_now() + READY_NS;
}

static void draw_next(struct keeper *keeper)
{
        uint64_t mean = shared->options.kill_ms * NSEC_PER_MSEC;

        keeper->next_ns = mean ? clock_now() + mean / 8 + random_below(&keeper->random, 2 * mean - mean / 8)
                               : UINT64_MAX;
}

static void try_ready(struct keeper *keeper)
{
        struct control *control;

        if (control_open(shared->control_path, 0, &control) < 0) {
                if (clock_now() > keeper->next_ns)
                        complain("the daemon is not ready after %.0f s", (double)READY_NS / 1e9);
                return;
        }
        keeper->control = control;
        if (chmod(shared->client_path, 0666) < 0)
                complain("%s: %s", shared->client_path, strerror(errno));
        keeper->state = KEEPER_READY;
        atomic_store(&shared->daemon.ready_ns, clock_now());
        draw_next(keeper);
}

/* ------------------------------------------------------------------ ending */

static void note_end(struct keeper *keeper)
{
        atomic_fetch_add(&shared->daemon.n_ends, 1);
        atomic_store(&shared->daemon.ended_ns, clock_now());
        atomic_store(&shared->daemon.ready_ns, 0);
        keeper->control = control_close(keeper->control);
        add_figures(keeper);
}

static void end(struct keeper *keeper, int signal)
{
        if (keeper->state == KEEPER_READY)
                poll_figures(keeper);
        note_end(keeper);
        kill(keeper->pid, signal);
        keeper->state = KEEPER_ENDING;
        keeper->next_ns = clock_now() + END_NS;
}

static void resumed(void)
{
        atomic_store(&shared->daemon.resumed_ns, clock_now());
        atomic_store(&shared->daemon.stopped_ns, 0);
}

static void act(struct keeper *keeper)
{
        uint64_t drawn = random_below(&keeper->random, 8);

        if (shared->options.stops && drawn < 3) {
                atomic_store(&shared->daemon.stopped_ns, clock_now());
                kill(keeper->pid, SIGSTOP);
                keeper->n_stops++;
                keeper->state = KEEPER_STOPPED;
                keeper->next_ns = clock_now() + random_below(&keeper->random, MAX_STOP_MS * NSEC_PER_MSEC);
        } else if (drawn == 7) {
                keeper->n_terms++;
                end(keeper, SIGTERM);
        } else {
                keeper->n_kills++;
                end(keeper, SIGKILL);
        }
}

static void act_stopped(struct keeper *keeper)
{
        if (random_below(&keeper->random, 2)) {
                keeper->n_kills++;
                end(keeper, SIGKILL);
        } else {
                kill(keeper->pid, SIGCONT);
                keeper->state = KEEPER_READY;
                draw_next(keeper);
        }
        resumed();
}

static void check_end(struct keeper *keeper, int status)
{
        bool told = keeper->state == KEEPER_ENDING;

        read_log(keeper);
        if (told && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
                return;
        if (WIFSIGNALED(status))
                complain("the daemon was ended by %s", strsignal(WTERMSIG(status)));
        else if (keeper->injected_life)
                keeper->n_own_ends += !told;
        else if (!told || WEXITSTATUS(status))
                complain("the daemon ended by itself, or not well, with status %d", WEXITSTATUS(status));
}

bool keeper_reaped(struct keeper *keeper, pid_t pid, int status)
{
        if (pid != keeper->pid)
                return false;
        if (keeper->state != KEEPER_ENDING)
                note_end(keeper);
        check_end(keeper, status);
        keeper->pid = 0;
        keeper->state = KEEPER_DOWN;
        keeper->next_ns = clock_now();
        if (!keeper->spared && random_below(&keeper->random, 4))
                keeper->next_ns += random_below(&keeper->random, MAX_DOWN_MS * NSEC_PER_MSEC);
        return true;
}

/* ------------------------------------------------------------------ steps */

void keeper_step(struct keeper *keeper)
{
        uint64_t now = clock_now();

        switch (keeper->state) {
        case KEEPER_DOWN:
                if (now >= keeper->next_ns)
                        start(keeper);
                break;
        case KEEPER_STARTING:
                try_ready(keeper);
                break;
        case KEEPER_READY:
                if (!keeper->spared && now >= keeper->next_ns)
                        act(keeper);
                else if (now >= keeper->poll_ns) {
                        poll_figures(keeper);
                        keeper->poll_ns = clock_now() + POLL_NS;
                }
                break;
        case KEEPER_STOPPED:
                if (now >= keeper->next_ns)
                        act_stopped(keeper);
                break;
        case KEEPER_ENDING:
                if (now >= keeper->next_ns)
                        complain("the daemon does not end");
                break;
        }
}

void keeper_spare(struct keeper *keeper)
{
        if (keeper->state == KEEPER_STOPPED)
                resumed();
        keeper->spared = true;
        if (keeper->pid && keeper->state != KEEPER_ENDING &&
            (shared->options.kill_ms || shared->options.inject)) {
                keeper->n_kills++;
                end(keeper, SIGKILL);
        }
}

/* The first client of a user makes his trust domain, which the daemon keeps. */
static void make_domain(void)
{
        pid_t pid = fork();
        struct wp_client *client = NULL;
        int status = 0;

        if (!pid) {
                if (harness_drop_to(shared->options.uid) < 0)
                        _exit(EXIT_FAILURE);
                status = wp_connect(shared->client_path, &client) < 0;
                wp_disconnect(client);
                _exit(status);
        }
        if (waitpid(pid, &status, 0) != pid || status)
                complain("a client without memory ended with status %#x", (unsigned)status);
}

/* False on a host on which wpd says itself that it cannot serve. */
static bool first_ended(struct keeper *keeper, int status)
{
        keeper->pid = 0;
        keeper->state = KEEPER_DOWN;
        if (harness_cannot_serve(shared->options.wpd, status))
                return false;
        complain("the daemon ended at its start with status %#x", (unsigned)status);
        return true;
}

bool keeper_start(struct keeper *keeper)
{
        bool spared = keeper->spared;
        int status;

        if (!write_configuration()) {
                complain("the configuration cannot be written: %s", strerror(errno));
                return true;
        }
        if (fd_store_open(&keeper->store, shared->directory) < 0) {
                complain("no socket for what the daemon says");
                return true;
        }
        /* The first look is at a daemon without injection. */
        keeper->spared = true;
        start(keeper);
        while (keeper->state == KEEPER_STARTING && !atomic_load(&shared->verdict.ready)) {
                if (waitpid(keeper->pid, &status, WNOHANG) == keeper->pid)
                        return first_ended(keeper, status);
                try_ready(keeper);
        }
        keeper->spared = spared;
        make_domain();
        keeper->n_fds = harness_settled_fds(keeper->pid);
        keeper->n_threads = harness_count_threads(keeper->pid);
        return true;
}

static bool empty(struct keeper *keeper, char *ret_text, size_t size)
{
        json_t *status = ask_status(keeper);
        uint64_t clients = figure(status, "clients"),
                 pages = figure(status, "pages_shared") + figure(status, "pages_retired");
        size_t n_fds = harness_settled_fds(keeper->pid), n_threads = harness_count_threads(keeper->pid);
        bool answered = status;

        json_decref(status);
        snprintf(ret_text, size,
                 "%sclients %llu, pages of the pool %llu, descriptors %zu (%zu), threads %zu (%zu)",
                 answered ? "" : "no answer, ", (unsigned long long)clients, (unsigned long long)pages, n_fds,
                 keeper->n_fds, n_threads, keeper->n_threads);
        return answered && !clients && !pages && n_fds == keeper->n_fds && n_threads == keeper->n_threads;
}

void keeper_check_leaks(struct keeper *keeper)
{
        uint64_t deadline = clock_now() + LEFT_NS;
        char text[256] = "";
        int status;

        while (!empty(keeper, text, sizeof(text)))
                if (clock_now() > deadline) {
                        complain("the daemon without clients: %s", text);
                        return;
                }
        end(keeper, SIGTERM);
        if (waitpid(keeper->pid, &status, 0) == keeper->pid)
                keeper_reaped(keeper, keeper->pid, status);
}

void keeper_describe(const struct keeper *keeper)
{
        static const char *const states[] = {"down", "starting", "ready", "stopped", "ending"};
        uint64_t ended = atomic_load(&shared->daemon.ended_ns);
        char path[128];

        printf("daemon: life %u, process %d, %s", keeper->n_lives, keeper->pid, states[keeper->state]);
        if (ended)
                printf(", the last one ended %.3f s ago", (double)(clock_now() - ended) / 1e9);
        printf("\n");
        log_path(keeper->n_lives, path);
        harness_show_tail(path);
}

void keeper_kill(struct keeper *keeper)
{
        keeper->control = control_close(keeper->control);
        if (keeper->pid > 0) {
                kill(keeper->pid, SIGKILL);
                waitpid(keeper->pid, NULL, 0);
        }
        keeper->pid = 0;
}
