/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The daemon as a whole: puts the layers together and runs the loop. */

#include "daemon.h"

#include <ev.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "dedup/merger.h"
#include "fault/service.h"
#include "kernel/lease.h"
#include "kernel/numa.h"
#include "kernel/poolfile.h"
#include "kernel/uffd.h"
#include "process/helper.h"
#include "process/notify.h"
#include "process/sandbox.h"
#include "serve/account.h"
#include "serve/control.h"
#include "serve/session.h"
#include "serve/status.h"
#include "util/bits.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

#define SOCKET_GROUP     "wpd"
#define SOCKET_MODE      0660
#define LISTEN_BACKLOG   128
#define MAX_CONTEXTS     4096 /* forked children; half of them such as clients announce, half that are met here */
#define DEFAULT_MAX_MAPS 65530
#define REAP_SECONDS     1.0
#define NEVER_SECONDS    3600.0

struct daemon {
        const struct daemon_options *options;
        struct config config;
        struct ev_loop *loop;
        int uffd_device_fd;
        int pool_mount_fd;
        int pagemap_fd;            /* our own */
        struct notify_pools pools; /* of the daemon before this one, as the service manager kept them */
        uint64_t max_map_count;
        struct nodes nodes;     /* NUMA */
        bool files;             /* mappings of files take part */
        int lease_fd;           /* signalfd: somebody wants to write to one */
        bool own_client_socket; /* bound here, to be unlinked at the end */
        bool own_control_socket;
        struct account account;
        struct anchors *anchors;
        struct helper *helper;
        struct merger *merger;
        struct fault_service *fault;
        struct session_server *sessions;
        struct control *control;
        struct status_source source;
        struct ev_io worked;
        struct ev_io reports;
        struct ev_io leases;
        struct ev_io answers; /* of the helper */
        struct ev_timer tick;
        struct ev_timer reap;
        struct ev_timer watchdog;
        struct ev_signal terminate;
        struct ev_signal interrupt;
        struct ev_signal hangup;
        char why[CONFIG_MAX_ERROR];
};

/* ------------------------------------------------------------------ settings */

static struct merger_settings settings_from(const struct daemon *daemon)
{
        const struct config *config = &daemon->config;

        return (struct merger_settings){
                .sleep_ns = config->sleep_millisecs * NSEC_PER_MSEC,
                .sleep_max_ns = config->sleep_max_millisecs * NSEC_PER_MSEC,
                .max_cpu_percent = (uint32_t)config->max_cpu_percent,
                .use_zero_pages = config->use_zero_pages,
                .min_run_pages = (uint32_t)config->min_run_pages,
                .pool_max_pages = config->pool_max_bytes >> PAGE_SHIFT,
                .max_map_count = daemon->max_map_count,
                .files = daemon->files,
                .nodes = daemon->nodes,
                .nodes_policy = {.across = config->merge_across_nodes,
                                 .max_replicas = (uint32_t)config->max_node_replicas,
                                 .hot_sharers = (uint32_t)config->replica_min_sharers},
        };
}

static void apply_config(struct daemon *daemon)
{
        struct merger_settings settings = settings_from(daemon);

        merger_set(daemon->merger, &settings);
        daemon->account.limits = (struct account_limits){
                .max_clients = daemon->config.max_clients,
                .max_clients_per_uid = daemon->config.max_clients_per_uid,
                .max_regions_per_client = daemon->config.max_regions_per_client,
                .max_bytes_per_uid = daemon->config.max_bytes_per_uid,
        };
}

/* ------------------------------------------------------------------ the loop */

static void on_tick(struct ev_loop *loop, struct ev_timer *watcher, int revents)
{
        struct daemon *daemon = watcher->data;
        uint64_t now = clock_now(), next = merger_tick(daemon->merger, now);
        double delay = next == UINT64_MAX ? NEVER_SECONDS : next <= now ? 0.0 : (double)(next - now) / 1e9;

        ev_timer_stop(loop, watcher);
        ev_timer_set(watcher, MIN(delay, NEVER_SECONDS), 0.0);
        ev_timer_start(loop, watcher);
}

/* Something happened that the merger's clock should know: look at it before the loop sleeps again. */
static void on_changed(void *context)
{
        struct daemon *daemon = context;

        ev_timer_stop(daemon->loop, &daemon->tick);
        ev_timer_set(&daemon->tick, 0.0, 0.0);
        ev_timer_start(daemon->loop, &daemon->tick);
}

static void on_worked(struct ev_loop *loop, struct ev_io *watcher, int revents)
{
        struct daemon *daemon = watcher->data;

        merger_worked(daemon->merger, clock_now());
        on_changed(daemon);
}

static void on_reports(struct ev_loop *loop, struct ev_io *watcher, int revents)
{
        struct daemon *daemon = watcher->data;
        struct fault_report report;

        while (fault_next_report(daemon->fault, &report))
                session_fault_report(daemon->sessions, &report);
        on_changed(daemon);
}

/* SIGIO says that too many wanted to write at once. */
static void on_leases(struct ev_loop *loop, struct ev_io *watcher, int revents)
{
        struct daemon *daemon = watcher->data;
        struct signalfd_siginfo info;

        while (read(daemon->lease_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
                merger_lease_broken(daemon->merger, info.ssi_signo == SIGIO ? -1 : info.ssi_fd);
        on_changed(daemon);
}

static void on_answers(struct ev_loop *loop, struct ev_io *watcher, int revents)
{
        if (helper_answered(((struct daemon *)watcher->data)->helper) >= 0)
                return;
        ev_io_stop(loop, watcher);
        log_warning("the helper has ended: nobody can be told who shares a page until wpd is started again");
}

static void on_reap(struct ev_loop *loop, struct ev_timer *watcher, int revents)
{
        session_reap(((struct daemon *)watcher->data)->sessions);
}

static void on_watchdog(struct ev_loop *loop, struct ev_timer *watcher, int revents)
{
        notify_watchdog();
}

static void on_terminate(struct ev_loop *loop, struct ev_signal *watcher, int revents)
{
        notify_stopping();
        ev_break(loop, EVBREAK_ALL);
}

static void on_hangup(struct ev_loop *loop, struct ev_signal *watcher, int revents)
{
        struct daemon *daemon = watcher->data;
        char error[CONFIG_MAX_ERROR];
        struct config config;

        notify_reloading();
        config_init(&config);
        if (config_load(&config, daemon->options->config_path, daemon->options->config_required, error) < 0) {
                log_error("configuration not reloaded: %s", error);
        } else {
                daemon->config = config;
                apply_config(daemon);
                log_info("configuration reloaded");
        }
        notify_ready();
        on_changed(daemon);
}

/* ------------------------------------------------------------------ the control socket's questions */

static json_t *control_status(void *context)
{
        return status_totals(&((struct daemon *)context)->source);
}

static json_t *control_clients(void *context)
{
        return status_clients(&((struct daemon *)context)->source);
}

static json_t *control_regions(void *context, pid_t pid)
{
        return status_regions(&((struct daemon *)context)->source, pid);
}

static json_t *control_doctor(void *context, pid_t pid)
{
        return status_doctor(&((struct daemon *)context)->source, pid);
}

/* A connection that waits to hear who shares a page. */
struct sharers_wait {
        struct daemon *daemon;
        control_done done;
        void *connection;
        enum page_state state;
};

static void on_sharers(void *context, const struct rmap_site *sites, size_t n_sites, bool complete)
{
        struct sharers_wait *wait = context;

        wait->done(wait->connection,
                   status_sharers(&wait->daemon->source, wait->state, sites, n_sites, complete));
        free(wait);
}

static int control_sharers(void *context, pid_t pid, uint64_t address, uid_t viewer, control_done done,
                           void *connection, json_t **ret_document)
{
        struct daemon *daemon = context;
        struct sharers_wait *wait;
        struct rmap_query query;
        enum page_state state;
        int r;

        r = status_find_page(&daemon->source, pid, address, viewer, &state, &query);
        if (r < 0)
                return r;
        if (r == 0) {
                *ret_document = status_sharers(&daemon->source, state, NULL, 0, true);
                return 0;
        }
        wait = calloc(1, sizeof(*wait));
        if (!wait)
                return -ENOMEM;
        *wait = (struct sharers_wait){
                .daemon = daemon, .done = done, .connection = connection, .state = state};
        r = helper_ask(daemon->helper, &query, on_sharers, wait);
        if (r < 0)
                free(wait);
        return r < 0 ? r : 1;
}

static bool same_asker(const void *question, const void *connection)
{
        return ((const struct sharers_wait *)question)->connection == connection;
}

static void control_sharers_cancel(void *context, void *connection)
{
        helper_cancel(((struct daemon *)context)->helper, same_asker, connection, free);
}

/* A pass that a connection waits for, and what had been done when it began. */
struct scan_wait {
        struct daemon *daemon;
        control_done done;
        void *connection;
        struct merger_stat before;
        uint64_t began_ns;
};

static uint64_t failures(const struct merger_stat *stat)
{
        uint64_t n = 0;

        for (unsigned i = 0; i < REASON_N; i++)
                n += stat->failures[i];
        return n;
}

static void on_scanned(void *context)
{
        struct scan_wait *wait = context;
        const struct merger_stat *before = &wait->before;
        struct merger_stat after;

        merger_stat(wait->daemon->merger, &after);
        wait->done(wait->connection,
                   json_pack("{s:I, s:I, s:I, s:I, s:f}", "pages_scanned",
                             (json_int_t)(after.pages_scanned - before->pages_scanned), "pages_merged",
                             (json_int_t)(after.merges - before->merges), "zero_pages",
                             (json_int_t)(after.zeros - before->zeros), "pages_failed",
                             (json_int_t)(failures(&after) - failures(before)), "seconds",
                             (double)(clock_now() - wait->began_ns) / (double)NSEC_PER_SEC));
        free(wait);
}

static int control_scan(void *context, pid_t pid, control_done done, void *connection)
{
        struct daemon *daemon = context;
        struct scan_wait *wait;
        int r;

        if (!done) {
                r = merger_scan(daemon->merger, pid, NULL, NULL);
                on_changed(daemon);
                return r;
        }
        wait = calloc(1, sizeof(*wait));
        if (!wait)
                return -ENOMEM;
        *wait = (struct scan_wait){
                .daemon = daemon, .done = done, .connection = connection, .began_ns = clock_now()};
        merger_stat(daemon->merger, &wait->before);
        r = merger_scan(daemon->merger, pid, on_scanned, wait);
        if (r < 0)
                free(wait);
        on_changed(daemon);
        return r;
}

static bool same_connection(const void *request, const void *connection)
{
        return request && ((const struct scan_wait *)request)->connection == connection;
}

static void control_scan_cancel(void *context, void *connection)
{
        merger_scan_cancel(((struct daemon *)context)->merger, same_connection, connection, free);
}

static void control_pause(void *context, bool paused)
{
        struct daemon *daemon = context;

        merger_pause(daemon->merger, paused);
        notify_status("%s", paused ? "Scanning is paused" : "Serving");
        on_changed(daemon);
}

static json_t *control_settings(void *context)
{
        struct daemon *daemon = context;
        json_t *document = json_object();
        char value[64];

        for (size_t i = 0; document && i < config_n_keys; i++) {
                config_format(&daemon->config, &config_keys[i], value, sizeof(value));
                json_object_set_new(document, config_keys[i].name, json_string(value));
        }
        return document;
}

static int control_set(void *context, const char *key, const char *value, const char **ret_why)
{
        struct daemon *daemon = context;
        int r = config_set(&daemon->config, key, value, true, daemon->why);

        if (r < 0) {
                *ret_why = daemon->why;
                return r == -ENOENT ? r : -EINVAL;
        }
        apply_config(daemon);
        on_changed(daemon);
        return 0;
}

struct owner_search {
        pid_t pid;
        bool found;
        uid_t uid;
};

static void find_owner(void *context, struct member *member)
{
        struct owner_search *search = context;

        if (member->space.pid != search->pid)
                return;
        search->found = true;
        search->uid = member->space.uid;
}

static int control_owner(void *context, pid_t pid, uid_t *ret_uid)
{
        struct owner_search search = {.pid = pid};

        merger_each_member(((struct daemon *)context)->merger, find_owner, &search);
        if (!search.found)
                return -ESRCH;
        *ret_uid = search.uid;
        return 0;
}

static const struct control_ops control_callbacks = {
        .status = control_status,
        .clients = control_clients,
        .regions = control_regions,
        .doctor = control_doctor,
        .sharers = control_sharers,
        .sharers_cancel = control_sharers_cancel,
        .scan = control_scan,
        .scan_cancel = control_scan_cancel,
        .pause = control_pause,
        .settings = control_settings,
        .set = control_set,
        .owner = control_owner,
};

/* ------------------------------------------------------------------ stage 1: open */

static int bind_socket(const char *directory, const char *name, int type)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        const struct group *group = getgrnam(SOCKET_GROUP);
        _cleanup_fd_ int fd = -EBADF;
        int n;

        n = snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", directory, name);
        if (n < 0 || (size_t)n >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        fd = (int)error_from(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        if (fd < 0)
                return fd;
        /* A socket that somebody still answers is not taken away from him. */
        if (!connect(fd, (struct sockaddr *)&address, sizeof(address)))
                return -EADDRINUSE;
        unlink(address.sun_path);
        fd_closep(&fd);
        fd = (int)error_from(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        if (fd < 0)
                return fd;
        if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
            chmod(address.sun_path, SOCKET_MODE) < 0 ||
            (group && chown(address.sun_path, (uid_t)-1, group->gr_gid) < 0) ||
            listen(fd, LISTEN_BACKLOG) < 0)
                return -errno;
        return fd_take(&fd);
}

static int open_sockets(struct daemon *daemon, int *ret_client_fd, int *ret_control_fd)
{
        const char *directory = daemon->options->runtime_dir;
        _cleanup_fd_ int client_fd = -EBADF, control_fd = -EBADF;
        int r = notify_passed_fds(&client_fd, &control_fd, &daemon->pools);

        if (r < 0) {
                log_error("what the service manager passed cannot be used: %s", strerror(-r));
                return r;
        }
        if (client_fd < 0 || control_fd < 0) {
                if (mkdir(directory, 0755) < 0 && errno != EEXIST) {
                        log_error("%s cannot be made: %s", directory, strerror(errno));
                        return -errno;
                }
        }
        if (client_fd < 0) {
                client_fd = bind_socket(directory, "client.sock", SOCK_SEQPACKET);
                daemon->own_client_socket = client_fd >= 0;
        }
        if (control_fd < 0 && client_fd >= 0) {
                control_fd = bind_socket(directory, "control.sock", SOCK_STREAM);
                daemon->own_control_socket = control_fd >= 0;
        }
        if (client_fd < 0 || control_fd < 0) {
                r = client_fd < 0 ? client_fd : control_fd;
                log_error("%s/%s: %s%s", directory, client_fd < 0 ? "client.sock" : "control.sock",
                          strerror(-r), r == -EADDRINUSE ? " (is another wpd running?)" : "");
                return r;
        }
        *ret_client_fd = fd_take(&client_fd);
        *ret_control_fd = fd_take(&control_fd);
        return 0;
}

static uint64_t read_max_map_count(void)
{
        char text[32] = "";
        _cleanup_fd_ int fd = (int)error_from(open("/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC));
        ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
        uint64_t value = n > 0 ? strtoull(text, NULL, 10) : 0;

        return value ? value : DEFAULT_MAX_MAPS;
}

static struct nodes read_nodes(void)
{
        struct nodes nodes = NODES_INIT;
        char list[256];
        int r = numa_list(list, sizeof(list));

        if (r >= 0)
                r = nodes_parse(list, &nodes);
        if (r < 0 && r != -ENOENT)
                log_warning("NUMA nodes are not told apart: %s", strerror(-r));
        return nodes;
}

/* Before any thread starts: all of them block what is read here. */
static int open_leases(struct daemon *daemon)
{
        sigset_t signals;

        sigemptyset(&signals);
        sigaddset(&signals, LEASE_SIGNAL);
        sigaddset(&signals, SIGIO);
        if (sigprocmask(SIG_BLOCK, &signals, NULL) < 0)
                return -errno;
        daemon->lease_fd = (int)error_from(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
        return MIN(daemon->lease_fd, 0);
}

static int open_privileged(struct daemon *daemon)
{
        daemon->max_map_count = read_max_map_count();
        daemon->nodes = read_nodes();
        daemon->uffd_device_fd = uffd_open_device();
        if (daemon->uffd_device_fd < 0) {
                log_error("/dev/userfaultfd: %s (see wpd --check)", strerror(-daemon->uffd_device_fd));
                return daemon->uffd_device_fd;
        }
        daemon->pool_mount_fd = poolfile_mount();
        if (daemon->pool_mount_fd < 0) {
                log_error("the pool's tmpfs cannot be made: %s (see wpd --check)",
                          strerror(-daemon->pool_mount_fd));
                return daemon->pool_mount_fd;
        }
        daemon->pagemap_fd = (int)error_from(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
        if (daemon->pagemap_fd < 0)
                log_error("/proc/self/pagemap: %s", strerror(-daemon->pagemap_fd));
        return MIN(daemon->pagemap_fd, 0);
}

/* ------------------------------------------------------------------ pools that outlive a daemon */

/* The descriptor goes to the service manager, if there is one that keeps it for the next daemon. */
static void keep_pool(void *context, uid_t uid, int pool_fd)
{
        notify_store_pool(uid, pool_fd);
}

/*
 * What clients have merged is theirs for as long as they want it; with the pools of the daemon before, this one knows what it
 * is, and can share it with others. One that is of no use is let go, here and by the service manager.
 */
static void adopt_pools(struct daemon *daemon)
{
        for (unsigned i = 0; i < daemon->pools.n; i++) {
                struct notify_pool *pool = &daemon->pools.pools[i];
                struct domain *domain;
                int r = merger_domain(daemon->merger, pool->uid, daemon->pool_mount_fd, pool->fd, &domain);

                if (r >= 0) {
                        pool->fd = -EBADF;
                        log_info("the pool of uid %u was taken over", pool->uid);
                        continue;
                }
                log_warning("the pool of uid %u cannot be taken over: %s", pool->uid, strerror(-r));
                pool->fd = fd_close(pool->fd);
                if (r != -EEXIST) /* that would be the one that was taken */
                        notify_forget_pool(pool->uid);
        }
}

/* ------------------------------------------------------------------ stages 2 and 3, and serving */

/* Each thread inherits the nice value that this one has when it starts it. */
static int start_threads(struct daemon *daemon, const struct merger_settings *settings, int *ret_worker_fd)
{
        int r = fault_service_start(daemon->fault);

        if (r >= 0)
                r = sandbox_set_nice(SANDBOX_NICE_CONTROL);
        if (r >= 0)
                r = merger_new(&session_member_ops, settings, daemon->anchors, daemon->pagemap_fd,
                               &daemon->merger, ret_worker_fd);
        return r;
}

static int start_services(struct daemon *daemon, int *client_fd)
{
        struct merger_settings settings = settings_from(daemon);
        struct session_context context;
        int worker_fd, r;

        r = start_threads(daemon, &settings, &worker_fd);
        if (r < 0)
                return r;
        account_init(&daemon->account, &(struct account_limits){.max_clients = 0});
        apply_config(daemon);
        context = (struct session_context){
                .loop = daemon->loop,
                .merger = daemon->merger,
                .fault = daemon->fault,
                .account = &daemon->account,
                .uffd_device_fd = daemon->uffd_device_fd,
                .pool_mount_fd = daemon->pool_mount_fd,
                .changed = on_changed,
                .keep_pool = keep_pool,
                .callback_context = daemon,
        };
        r = session_server_new(&context, *client_fd, &daemon->sessions);
        if (r < 0)
                return r;
        fd_take(client_fd);
        adopt_pools(daemon);
        daemon->source = (struct status_source){.merger = daemon->merger,
                                                .fault = daemon->fault,
                                                .sessions = daemon->sessions,
                                                .started_ns = clock_now()};
        ev_io_init(&daemon->worked, on_worked, worker_fd, EV_READ);
        ev_io_init(&daemon->leases, on_leases, daemon->lease_fd, EV_READ);
        return 0;
}

static void start_watchers(struct daemon *daemon)
{
        double watchdog = (double)notify_watchdog_interval() / 1e6;

        daemon->worked.data = daemon->reports.data = daemon->tick.data = daemon->reap.data = daemon;
        daemon->hangup.data = daemon->leases.data = daemon;
        ev_io_start(daemon->loop, &daemon->leases);
        daemon->answers.data = daemon;
        ev_io_start(daemon->loop, &daemon->worked);
        ev_io_start(daemon->loop, &daemon->reports);
        ev_io_start(daemon->loop, &daemon->answers);
        ev_timer_init(&daemon->tick, on_tick, 0.0, 0.0);
        ev_timer_start(daemon->loop, &daemon->tick);
        ev_timer_init(&daemon->reap, on_reap, REAP_SECONDS, REAP_SECONDS);
        ev_timer_start(daemon->loop, &daemon->reap);
        if (watchdog > 0.0) {
                ev_timer_init(&daemon->watchdog, on_watchdog, 0.0, watchdog);
                ev_timer_start(daemon->loop, &daemon->watchdog);
        }
        ev_signal_init(&daemon->terminate, on_terminate, SIGTERM);
        ev_signal_start(daemon->loop, &daemon->terminate);
        ev_signal_init(&daemon->interrupt, on_terminate, SIGINT);
        ev_signal_start(daemon->loop, &daemon->interrupt);
        ev_signal_init(&daemon->hangup, on_hangup, SIGHUP);
        ev_signal_start(daemon->loop, &daemon->hangup);
}

/* Before the sandbox: libraries open what they need for good. Nobody is answered before the loop runs. */
static int start_loop(struct daemon *daemon, int *control_fd)
{
        static const struct control_limits limits = {
                .max_connections = 256,
                .max_connections_per_uid = 64,
                .max_message = 64 << 10,
                .max_output = 16 << 20,
        };
        int r;

        daemon->loop = ev_default_loop(EVFLAG_AUTO | EVFLAG_NOENV);
        if (!daemon->loop)
                return -ENOMEM;
        r = control_new(daemon->loop, *control_fd, &control_callbacks, daemon, &limits, WPD_VERSION,
                        &daemon->control);
        if (r >= 0)
                fd_take(control_fd);
        return r;
}

static int start_helper(struct daemon *daemon)
{
        int r, answer_fd;

        r = helper_new(&daemon->helper, &answer_fd);
        if (r >= 0)
                ev_io_init(&daemon->answers, on_answers, answer_fd, EV_READ);
        return r;
}

/* The same goes for rings, which are made now, each restricted to what it is for. */
static int make_rings(struct daemon *daemon)
{
        int r, report_fd;

        r = anchors_new(&daemon->anchors);
        if (r >= 0)
                r = fault_service_new(MAX_CONTEXTS, &daemon->fault, &report_fd);
        if (r >= 0)
                ev_io_init(&daemon->reports, on_reports, report_fd, EV_READ);
        return r;
}

static int start(struct daemon *daemon)
{
        _cleanup_fd_ int client_fd = -EBADF, control_fd = -EBADF;
        int r;

        r = open_sockets(daemon, &client_fd, &control_fd);
        if (r >= 0)
                r = open_privileged(daemon);
        if (r < 0)
                return r;
        r = start_helper(daemon);
        if (r < 0) {
                log_error("the helper cannot be started: %s", strerror(-r));
                return r;
        }
        daemon->files = daemon->config.merge_files && sandbox_keep_files();
        r = open_leases(daemon);
        if (r < 0)
                return r;
        r = sandbox_lock_memory();
        if (r == -EPERM)
                log_warning("memory cannot be locked: faults may wait for our own swap (see wpd --check)");
        else if (r < 0) {
                log_error("memory cannot be locked: %s", strerror(-r));
                return r;
        }
        r = start_loop(daemon, &control_fd);
        if (r < 0) {
                log_error("the control socket cannot be served: %s", strerror(-r));
                return r;
        }
        r = make_rings(daemon);
        if (r < 0) {
                log_error("io_uring cannot be used: %s (see wpd --check)", strerror(-r));
                return r;
        }
        /* Without the right to it, the fault service runs like everybody else. */
        (void)!sandbox_set_nice(SANDBOX_NICE_FAULT);
        r = sandbox_confine();
        if (r < 0) {
                log_error("the process cannot be confined: %s", strerror(-r));
                return r;
        }
        r = start_services(daemon, &client_fd);
        if (r < 0)
                log_error("cannot start serving: %s", strerror(-r));
        return r;
}

static void unlink_socket(const char *directory, const char *name)
{
        char path[sizeof(((struct sockaddr_un *)0)->sun_path)];

        snprintf(path, sizeof(path), "%s/%s", directory, name);
        /* Not unlink(): the sandbox knows only this one. */
        unlinkat(AT_FDCWD, path, 0);
}

static void stop(struct daemon *daemon)
{
        control_free(daemon->control);
        /* It sends over the clients' connections, and must have read nothing of what they answer when these end. */
        if (daemon->fault)
                fault_service_stop(daemon->fault);
        session_server_free(daemon->sessions);
        fault_service_free(daemon->fault);
        merger_free(daemon->merger);
        anchors_free(daemon->anchors);
        helper_free(daemon->helper);
        if (daemon->account.users.next)
                account_deinit(&daemon->account);
        if (daemon->own_client_socket)
                unlink_socket(daemon->options->runtime_dir, "client.sock");
        if (daemon->own_control_socket)
                unlink_socket(daemon->options->runtime_dir, "control.sock");
        fd_close(daemon->uffd_device_fd);
        fd_close(daemon->pool_mount_fd);
        fd_close(daemon->pagemap_fd);
        fd_close(daemon->lease_fd);
        for (unsigned i = 0; i < daemon->pools.n; i++)
                fd_close(daemon->pools.pools[i].fd);
        if (daemon->loop)
                ev_loop_destroy(daemon->loop);
}

int daemon_run(const struct daemon_options *options)
{
        struct daemon *daemon = calloc(1, sizeof(*daemon));
        int r;

        if (!daemon)
                return -ENOMEM;
        daemon->options = options;
        daemon->config = options->config;
        daemon->uffd_device_fd = daemon->pool_mount_fd = daemon->pagemap_fd = daemon->lease_fd = -EBADF;
        signal(SIGPIPE, SIG_IGN);
        r = start(daemon);
        if (r >= 0) {
                start_watchers(daemon);
                log_info("wpd " WPD_VERSION " serves clients in %s", options->runtime_dir);
                notify_ready();
                notify_status("Serving");
                ev_run(daemon->loop, 0);
                log_info("wpd stops; its clients' memory stays as it is");
        }
        stop(daemon);
        free(daemon);
        return r;
}
