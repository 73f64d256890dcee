/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The fake daemon: see the header. */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fake.h"
#include "util/bits.h"
#include "util/cleanup.h"

#define FINISH_SECONDS 0.01

static json_t *fake_status(void *context)
{
        struct fake *fake = context;

        if (fake->no_memory)
                return NULL;
        return json_pack("{s:s, s:s, s:i, s:i, s:i, s:I, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i,"
                         " s:{s:i, s:i}, s:i, s:i, s:I, s:I, s:i, s:{s:f, s:f, s:f}, s:{s:f, s:f, s:f},"
                         " s:i, s:i, s:i, s:i, s:{s:f, s:f, s:f}}",
                         "version", "1.2.3", "state", fake->paused ? "paused" : "running", "uptime_seconds",
                         93784, "clients", 2, "regions", 3, "bytes_registered", (json_int_t)1 << 30,
                         "pages_tracked", 262144, "pages_shared", 32768, "pages_sharing", 65536,
                         "pages_unshared", 98304, "pages_volatile", 1024, "zero_pages", 65536,
                         "pages_scanned", 524288, "pages_skipped", 77, "full_scans", 4, "merges", 131072,
                         "merge_failures", "busy", 12, "changed", 3, "write_faults", 4242, "unmerges", 17,
                         "general_profit", (json_int_t)532676608, "metadata_bytes", (json_int_t)4194304,
                         "vmas", 1234, "cpu_seconds", "control", 0.5, "fault", 1.25, "scan", 7.0,
                         "fault_latency_us", "p50", 9.5, "p99", 74.0, "max", 1234.5, "files", 3,
                         "files_leased", 2, "file_pages", 4711, "lease_breaks", 6, "lease_break_us", "p50",
                         5800.0, "p99", 9100.0, "max", 9100.0);
}

static json_t *client_row(const struct fake *fake, pid_t pid, uid_t uid)
{
        return json_pack("{s:i,s:i,s:s,s:i,s:I,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:s}", "pid", (int)pid, "uid",
                         (int)uid, "name", fake->nasty ? "ev\033[31mil\u202e\xc3\xa9" : "qemu-system-x86",
                         "regions", 1, "bytes_registered", (json_int_t)512 << 20, "pages_tracked", 131072,
                         "pages_sharing", 32768, "zero_pages", 32768, "pages_copied", 5, "vmas", 617,
                         "vma_budget", 16384, "write_faults", 2121, "state", "active");
}

static json_t *fake_clients(void *context)
{
        struct fake *fake = context;

        if (fake->no_memory)
                return NULL;
        return json_pack("[o,o]", client_row(fake, FAKE_PID_OWNED, FAKE_UID),
                         client_row(fake, FAKE_PID_OTHER, FAKE_UID - 1));
}

static json_t *region_row(pid_t pid, int region)
{
        return json_pack("{s:i,s:i,s:I,s:I,s:s,s:[s,s,s],s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i}", "pid",
                         (int)pid, "region", region, "address", (json_int_t)0x7fff00000000 + region * 4096,
                         "length", (json_int_t)512 << 20, "kind", "private", "flags", "merge", "notify",
                         "sole", "pages", 131072, "pages_resident", 130000, "pages_merged", 32768,
                         "zero_pages", 32768, "pages_volatile", 512, "pages_copied", 5, "pages_excluded", 100,
                         "pages_refused", 3, "runs", 617);
}

static json_t *fake_regions(void *context, pid_t pid)
{
        struct fake *fake = context;
        json_t *rows = json_array();

        if (!pid || pid == FAKE_PID_OWNED)
                json_array_append_new(rows, region_row(FAKE_PID_OWNED, 1));
        if (!pid || pid == FAKE_PID_OTHER)
                json_array_append_new(rows, region_row(FAKE_PID_OTHER, 2));
        for (unsigned i = 0; i < fake->extra_rows; i++)
                json_array_append_new(rows, region_row(FAKE_PID_OTHER, 3 + (int)i));
        return rows;
}

static json_t *finding_row(const struct fake *fake, pid_t pid, int region)
{
        return json_pack(
                "{s:i,s:i,s:I,s:i,s:i,s:s,s:s,s:s}", "pid", (int)pid, "region", region, "address",
                (json_int_t)(region ? 0x7fff00000000 : 0), "length", region ? 8192 : 0, "pages",
                region ? 2 : 0, "reason", region ? "locked" : "vma-budget", "text",
                fake->nasty ? "bad\033]0;title\007text"
                            : "The memory is locked with mlock(2): the kernel refuses to move its pages, and "
                              "there is no way around it as long as they are locked in place by the program.",
                "remedy", "Call munlock(2) first, or raise vm.max_map_count.");
}

static json_t *fake_doctor(void *context, pid_t pid)
{
        struct fake *fake = context;
        json_t *rows = json_array();

        if (fake->healthy)
                return rows;
        if (!pid || pid == FAKE_PID_OWNED)
                json_array_append_new(rows, finding_row(fake, FAKE_PID_OWNED, 1));
        if (!pid || pid == FAKE_PID_OTHER)
                json_array_append_new(rows, finding_row(fake, FAKE_PID_OTHER, 0));
        if (pid == FAKE_PID_REFUSED)
                json_array_append_new(rows,
                                      json_pack("{s:i,s:i,s:I,s:i,s:i,s:s,s:s,s:s}", "pid", FAKE_PID_REFUSED,
                                                "region", 0, "address", (json_int_t)0x123456000, "length",
                                                4096, "pages", 1, "reason", "refused", "text",
                                                "It is not aligned.", "remedy", ""));
        return rows;
}

static int fake_wait(struct fake *fake, const char *what, uint64_t address, control_done done,
                     void *connection)
{
        if (fake->busy || fake->n_waits == ARRAY_SIZE(fake->waits))
                return -EAGAIN;
        fake->waits[fake->n_waits].what = what;
        fake->waits[fake->n_waits].address = address;
        fake->waits[fake->n_waits].done = done;
        fake->waits[fake->n_waits++].connection = connection;
        if (fake->finish)
                ev_timer_start(fake->loop, &fake->timer);
        return 0;
}

/* Its first page is shared by two places, its second by nobody, its third by more than can be told, its fourth by nobody any more. */
static int fake_sharers(void *context, pid_t pid, uint64_t address, uid_t viewer, control_done done,
                        void *connection, json_t **ret_document)
{
        struct fake *fake = context;
        int r;

        switch ((address - FAKE_ADDRESS) / 4096) {
        case 3:
                *ret_document = json_pack("{s:s,s:[],s:b}", "state", "merged", "sharers", "complete", 1);
                return 0;
        case 1:
                *ret_document = json_pack("{s:s,s:[],s:b}", "state", "candidate", "sharers", "complete", 1);
                return 0;
        case 0:
        case 2:
                fake->viewer = viewer;
                r = fake_wait(fake, "Sharers", address, done, connection);
                return r < 0 ? r : 1;
        default:
                return -ENOENT;
        }
}

static json_t *sharers_document(uint64_t address)
{
        return json_pack("{s:s,s:[{s:i,s:I,s:i,s:b},{s:i,s:I,s:i,s:b}],s:b}", "state", "merged", "sharers",
                         "pid", FAKE_PID_OWNED, "address", (json_int_t)address, "uid", FAKE_UID, "client", 1,
                         "pid", FAKE_PID_OTHER, "address", (json_int_t)0x1000, "uid", FAKE_UID - 1, "client",
                         0, "complete", address == FAKE_ADDRESS);
}

static int fake_scan(void *context, pid_t pid, control_done done, void *connection)
{
        struct fake *fake = context;

        if (fake->paused)
                return -EBUSY;
        fake->n_scans++;
        fake->scan_pid = pid;
        return done ? fake_wait(fake, "Scan", 0, done, connection) : 0;
}

static void fake_forget_wait(struct fake *fake, unsigned i)
{
        fake->n_waits--;
        memmove(&fake->waits[i], &fake->waits[i + 1], (fake->n_waits - i) * sizeof(fake->waits[0]));
}

static void fake_cancel(struct fake *fake, const char *what, const void *connection)
{
        for (unsigned i = 0; i < fake->n_waits; i++)
                if (fake->waits[i].connection == connection && !strcmp(fake->waits[i].what, what)) {
                        fake_forget_wait(fake, i);
                        fake->n_cancelled++;
                        return;
                }
        abort();
}

static void fake_scan_cancel(void *context, void *connection)
{
        fake_cancel(context, "Scan", connection);
}

static void fake_sharers_cancel(void *context, void *connection)
{
        fake_cancel(context, "Sharers", connection);
}

static json_t *scan_document(void)
{
        return json_pack("{s:i,s:i,s:i,s:i,s:f}", "pages_scanned", 262144, "pages_merged", 65536,
                         "zero_pages", 65536, "pages_failed", 15, "seconds", 1.5);
}

void fake_finish(struct fake *fake)
{
        control_done done = fake->waits[0].done;
        void *connection = fake->waits[0].connection;
        uint64_t address = fake->waits[0].address;

        if (!fake->n_waits)
                abort();
        fake_forget_wait(fake, 0);
        done(connection, fake->no_memory ? NULL : address ? sharers_document(address) : scan_document());
}

static void fake_timer(struct ev_loop *loop, ev_timer *timer, int events)
{
        struct fake *fake = timer->data;

        while (fake->n_waits)
                fake_finish(fake);
}

static void fake_pause(void *context, bool paused)
{
        ((struct fake *)context)->paused = paused;
}

static json_t *fake_settings(void *context)
{
        struct fake *fake = context;

        return json_pack("{s:s,s:s}", "sleep_millisecs", fake->value, "use_zero_pages", "yes");
}

static int fake_set(void *context, const char *key, const char *value, const char **ret_why)
{
        struct fake *fake = context;

        if (strcmp(key, "sleep_millisecs")) {
                *ret_why = "there is no such setting";
                return -ENOENT;
        }
        if (!*value || strlen(value) >= sizeof(fake->value) || strspn(value, "0123456789") != strlen(value)) {
                *ret_why = "it must be a number from 10 to 3600000";
                return -EINVAL;
        }
        strcpy(fake->value, value);
        return 0;
}

static int fake_owner(void *context, pid_t pid, uid_t *ret_uid)
{
        if (pid != FAKE_PID_OWNED && pid != FAKE_PID_OTHER)
                return -ESRCH;
        *ret_uid = pid == FAKE_PID_OWNED ? FAKE_UID : FAKE_UID - 1;
        return 0;
}

const struct control_ops fake_ops = {
        .status = fake_status,
        .clients = fake_clients,
        .regions = fake_regions,
        .doctor = fake_doctor,
        .sharers = fake_sharers,
        .sharers_cancel = fake_sharers_cancel,
        .scan = fake_scan,
        .scan_cancel = fake_scan_cancel,
        .pause = fake_pause,
        .settings = fake_settings,
        .set = fake_set,
        .owner = fake_owner,
};

static int fake_listen(const char *path)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        _cleanup_fd_ int fd = -EBADF;

        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        strcpy(address.sun_path, path);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || chmod(path, 0666) < 0 ||
            listen(fd, 64) < 0)
                return -errno;
        return fd_take(&fd);
}

int fake_init(struct fake *fake, const struct control_limits *limits)
{
        _cleanup_fd_ int fd = -EBADF;
        int r;

        snprintf(fake->directory, sizeof(fake->directory), "/tmp/wpd-test-XXXXXX");
        if (!mkdtemp(fake->directory) || chmod(fake->directory, 0755) < 0)
                return -errno;
        snprintf(fake->path, sizeof(fake->path), "%s/control.sock", fake->directory);
        strcpy(fake->value, "200");
        fd = fake_listen(fake->path);
        if (fd < 0)
                return fd;
        fake->loop = ev_loop_new(EVFLAG_AUTO);
        if (!fake->loop)
                return -ENOMEM;
        ev_timer_init(&fake->timer, fake_timer, FINISH_SECONDS, 0.);
        fake->timer.data = fake;
        r = control_new(fake->loop, fd, &fake_ops, fake, limits, "1.2.3", &fake->control);
        if (r < 0)
                return r;
        fd_take(&fd);
        return 0;
}

void fake_deinit(struct fake *fake)
{
        fake->control = control_free(fake->control);
        if (fake->loop) {
                ev_timer_stop(fake->loop, &fake->timer);
                ev_loop_destroy(fake->loop);
        }
        fake->loop = NULL;
        unlink(fake->path);
        rmdir(fake->directory);
}

static void fake_hung_up(struct ev_loop *loop, ev_io *io, int events)
{
        ev_break(loop, EVBREAK_ALL);
}

/* The child: serves until the parent closes its end of the pipe, tells its path first. */
static int fake_serve(struct fake *fake, int path_fd, int stop_fd)
{
        static const struct control_limits limits = FAKE_LIMITS;
        ev_io stop;

        if (fake_init(fake, &limits) < 0 || write(path_fd, fake->path, sizeof(fake->path)) < 0)
                return 1;
        close(path_fd);
        ev_io_init(&stop, fake_hung_up, stop_fd, EV_READ);
        ev_io_start(fake->loop, &stop);
        ev_run(fake->loop, 0);
        ev_io_stop(fake->loop, &stop);
        fake_deinit(fake);
        return fake->n_waits ? 1 : 0;
}

int fake_start(const struct fake *knobs, char path[PATH_MAX], pid_t *ret_pid, int *ret_stop_fd)
{
        int tell[2], stop[2];
        pid_t pid;

        if (pipe2(tell, O_CLOEXEC) < 0)
                return -errno;
        if (pipe2(stop, O_CLOEXEC) < 0)
                return -errno;
        fflush(NULL);
        pid = fork();
        if (pid < 0)
                return -errno;
        if (!pid) {
                struct fake fake = *knobs;

                close(tell[0]);
                close(stop[1]);
                exit(fake_serve(&fake, tell[1], stop[0]));
        }
        close(tell[1]);
        close(stop[0]);
        if (read(tell[0], path, PATH_MAX) != PATH_MAX)
                return -EPIPE;
        close(tell[0]);
        *ret_pid = pid;
        *ret_stop_fd = stop[1];
        return 0;
}

int fake_stop(pid_t pid, int stop_fd)
{
        int status;

        close(stop_fd);
        if (waitpid(pid, &status, 0) < 0)
                return -errno;
        return status;
}
