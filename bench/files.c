/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * wpd-bench-files: what merging read-only mappings of files saves, and what who wants to write to such a file waits
 *
 *   wpd-bench-files --socket=PATH --control=PATH [--directory=DIR] [--mib=N] [--writers=N]
 *
 *   files     two processes, each of which maps a file of its own with the same content
 *   mixed     a process that maps a file, and one that has its content in anonymous memory
 *   written   the first again: somebody opens one of the files for writing, over and over
 *
 * The first two also with the kernel's KSM, which is given the same memory. Saved is what there is less of, all together: pages of
 * the two files in the page cache (mincore(2)), anonymous and shared memory of the processes (PSS: the pool is in it), and all memory
 * of wpd. Below it are what status says, and by how much the machine's free memory has grown and what our control group is charged
 * with has shrunk, which are right if nobody else does anything. wpd is thought to be in the same group.
 * Exit status 0: measured, 2: usage, 3: something could not be done.
 */

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench/control.h"
#include "bench/ksm.h"
#include "bench/measure.h"
#include "util/bits.h"
#include "util/clock.h"
#include "wp.h"

#define EXIT_USAGE  2
#define EXIT_BROKEN 3

#define PROCESSES   2
#define SETTLED     98 /* percent of what can be merged */
#define PATIENCE_NS (120 * NSEC_PER_SEC)
#define KSM_SCANS   3

static const char *socket_path, *control_path, *directory = "/var/tmp";
static size_t n_bytes = (size_t)256 << 20;
static unsigned n_writers = 20;
static char paths[PROCESSES][256];
static pid_t main_pid; /* the others must not remove the files */
static struct control *control;

__attribute__((__noreturn__)) static void give_up(const char *what, int error)
{
        fprintf(stderr, "wpd-bench-files: %s: %s\n", what, strerror(error < 0 ? -error : error));
        if (getpid() != main_pid)
                _exit(EXIT_BROKEN);
        exit(EXIT_BROKEN);
}

static long must(const char *what, long result)
{
        if (result < 0)
                give_up(what, (int)result);
        return result;
}

/* ------------------------------------------------------------------ the files */

static void fill_page(uint64_t *words, size_t page)
{
        for (size_t i = 0; i < PAGE_BYTES / sizeof(*words); i++)
                words[i] = (page + 1) * UINT64_C(0x9e3779b97f4a7c15) + i;
}

static void remove_files(void)
{
        for (unsigned i = 0; i < PROCESSES; i++)
                unlink(paths[i]);
}

static void make_files(void)
{
        uint64_t words[PAGE_BYTES / sizeof(uint64_t)];

        for (unsigned i = 0; i < PROCESSES; i++) {
                int fd;

                snprintf(paths[i], sizeof(paths[i]), "%s/wpd-bench-%d-%u", directory, getpid(), i);
                fd = (int)must(paths[i],
                               error_from(open(paths[i], O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644)));
                for (size_t page = 0; page < n_bytes / PAGE_BYTES; page++) {
                        fill_page(words, page);
                        must(paths[i], error_from(write(fd, words, sizeof(words))));
                }
                must(paths[i], error_from(fsync(fd)));
                close(fd);
        }
        atexit(remove_files);
}

/* ------------------------------------------------------------------ the processes */

struct process {
        pid_t pid;
        int socket;
};

struct memory {
        char *pages;
        struct wp_client *client;
        struct wp_region *region;
};

static void map_memory(struct memory *memory, const char *path)
{
        int fd = path ? (int)must(path, error_from(open(path, O_RDONLY | O_CLOEXEC))) : -1;

        memory->pages = mmap(NULL, n_bytes, path ? PROT_READ : PROT_READ | PROT_WRITE,
                             path ? MAP_PRIVATE : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
        if (memory->pages == MAP_FAILED)
                give_up("mmap", errno);
        if (path) {
                close(fd);
                must("MADV_POPULATE_READ", error_from(madvise(memory->pages, n_bytes, MADV_POPULATE_READ)));
                return;
        }
        for (size_t page = 0; page < n_bytes / PAGE_BYTES; page++)
                fill_page((uint64_t *)(void *)(memory->pages + page * PAGE_BYTES), page);
}

static void check_memory(const struct memory *memory)
{
        uint64_t words[PAGE_BYTES / sizeof(uint64_t)];

        for (size_t page = 0; page < n_bytes / PAGE_BYTES; page++) {
                fill_page(words, page);
                if (memcmp(memory->pages + page * PAGE_BYTES, words, PAGE_BYTES))
                        give_up("a page has the wrong content", EIO);
        }
}

/* What a process is told to do, one letter each; it answers with the same. */
static void obey(struct memory *memory, char what)
{
        switch (what) {
        case 'r':
                must("wp_connect", wp_connect(socket_path, &memory->client));
                must("wp_register",
                     wp_register(memory->client, memory->pages, n_bytes, WP_MERGE, &memory->region));
                break;
        case 'k':
                /* Of mappings of files the kernel takes note, and no more. */
                (void)!madvise(memory->pages, n_bytes, MADV_MERGEABLE);
                break;
        case 'v':
                check_memory(memory);
                break;
        case 'q':
                if (memory->client)
                        wp_disconnect(memory->client);
                _exit(EXIT_SUCCESS);
        }
}

static void serve(int socket, const char *path)
{
        struct memory memory = {.pages = NULL};
        char what;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        map_memory(&memory, path);
        must("write", error_from(write(socket, "m", 1)));
        while (read(socket, &what, 1) == 1) {
                obey(&memory, what);
                must("write", error_from(write(socket, &what, 1)));
        }
        _exit(EXIT_BROKEN);
}

static void tell(const struct process *process, char what)
{
        must("write", error_from(write(process->socket, &what, 1)));
}

static void await(const struct process *process)
{
        char what;

        if (read(process->socket, &what, 1) != 1)
                give_up("a process ended", ECHILD);
}

/* The n-th has the n-th file, or anonymous memory. */
static void start(struct process *process, const char *path)
{
        int ends[2];

        must("socketpair", error_from(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)));
        fflush(NULL);
        process->pid = (pid_t)must("fork", error_from(fork()));
        if (!process->pid) {
                close(ends[0]);
                serve(ends[1], path);
        }
        close(ends[1]);
        process->socket = ends[0];
        await(process);
}

static void order(const struct process *processes, char what)
{
        for (unsigned i = 0; i < PROCESSES; i++) {
                tell(&processes[i], what);
                await(&processes[i]);
        }
}

static void stop(struct process *processes)
{
        int status;

        for (unsigned i = 0; i < PROCESSES; i++) {
                tell(&processes[i], 'q');
                if (waitpid(processes[i].pid, &status, 0) < 0 || status)
                        give_up("a process failed", ECHILD);
                close(processes[i].socket);
        }
}

/* ------------------------------------------------------------------ measuring */

static void drop_caches(void)
{
        int fd;

        sync();
        fd = (int)must("drop_caches", error_from(open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC)));
        must("drop_caches", error_from(write(fd, "3", 1)));
        close(fd);
}

static double free_mib(void)
{
        static char text[8192];
        uint64_t kb = 0;

        must("/proc/meminfo", measure_file_text("/proc/meminfo", text, sizeof(text)));
        must("/proc/meminfo", measure_parse_kb(text, "MemFree", &kb));
        return (double)kb / 1024;
}

/* What our control group is charged with, wpd and the two processes in it; 0 where there is none. */
static double charged_mib(void)
{
        uint64_t bytes = 0;

        (void)!measure_charged(&bytes);
        return (double)bytes / (1 << 20);
}

/* MiB of a file in the page cache. */
static double cached_mib(const char *path)
{
        int fd = (int)must(path, error_from(open(path, O_RDONLY | O_CLOEXEC)));
        void *pages = mmap(NULL, n_bytes, PROT_READ, MAP_SHARED, fd, 0);
        unsigned char *resident = malloc(n_bytes / PAGE_BYTES);
        size_t n = 0;

        close(fd);
        if (pages == MAP_FAILED || !resident)
                give_up("mmap", ENOMEM);
        must("mincore", error_from(mincore(pages, n_bytes, resident)));
        for (size_t page = 0; page < n_bytes / PAGE_BYTES; page++)
                n += resident[page] & 1;
        munmap(pages, n_bytes);
        free(resident);
        return (double)(n * PAGE_BYTES) / (1 << 20);
}

static double field_mib(const char *text, const char *name)
{
        uint64_t kb = 0;

        must(name, measure_parse_kb(text, name, &kb));
        return (double)kb / 1024;
}

/* All that the two processes and wpd keep in memory, of what is measured here. */
static double used_mib(const struct process *processes)
{
        static char text[8192];
        uint64_t own = 0;
        double mib = 0;
        char path[64];

        for (unsigned i = 0; i < PROCESSES; i++) {
                snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", processes[i].pid);
                must(path, measure_file_text(path, text, sizeof(text)));
                mib += field_mib(text, "Pss_Anon") + field_mib(text, "Pss_Shmem") + cached_mib(paths[i]);
        }
        must("PSS of wpd", measure_pss(control_peer(control), &own));
        return mib + (double)own / (1 << 20);
}

static void nap(void)
{
        nanosleep(&(struct timespec){.tv_nsec = (long)(20 * NSEC_PER_MSEC)}, NULL);
}

static struct control_status status_now(void)
{
        struct control_status status;

        must("status", control_status(control, &status));
        return status;
}

static double cpu_of(const struct control_status *status)
{
        return status->cpu_control + status->cpu_fault + status->cpu_scan;
}

static bool settled(void)
{
        return status_now().pages_sharing >= n_bytes / PAGE_BYTES * SETTLED / 100;
}

/* How long it takes, in seconds. */
static double await_settled(void)
{
        uint64_t began_ns = clock_now();

        while (!settled()) {
                if (clock_now() - began_ns > PATIENCE_NS)
                        give_up("waiting until everything is merged", ETIMEDOUT);
                nap();
        }
        return (double)(clock_now() - began_ns) / 1e9;
}

struct figures {
        double saved_mib;
        double free_mib;
        double charged_mib;
        double counted_mib; /* by wpd */
        double seconds;
        double cpu;
};

/* What is saved when nothing more comes free. */
static double await_saved(const struct process *processes, double used_before)
{
        double best = -1e9, now;
        unsigned n_same = 0;

        while (n_same < 10) {
                nap();
                now = used_before - used_mib(processes);
                n_same = now > best + 0.5 ? 0 : n_same + 1;
                best = MAX(best, now);
        }
        return best;
}

static struct figures with_wpd(const struct process *processes)
{
        struct control_status before = status_now(), after;
        double free_before = free_mib(), charged_before = charged_mib(), used_before = used_mib(processes);
        struct figures figures;

        order(processes, 'r');
        figures.seconds = await_settled();
        figures.saved_mib = await_saved(processes, used_before);
        figures.free_mib = free_mib() - free_before;
        figures.charged_mib = charged_mib() - charged_before;
        after = status_now();
        figures.counted_mib = (double)(after.pages_sharing * PAGE_BYTES) / (1 << 20);
        figures.cpu = cpu_of(&after) - cpu_of(&before);
        return figures;
}

static struct figures with_ksm(const struct process *processes)
{
        struct ksm_settings tuned = ksm_defaults;
        struct ksm_counters counters = {.full_scans = 0};
        uint64_t began_ns = clock_now(), cpu_before = 0, cpu_after = 0;
        double free_before = free_mib(), charged_before = charged_mib(), used_before = used_mib(processes);
        struct figures figures = {.counted_mib = 0};

        tuned.pages_to_scan = 4000;
        tuned.sleep_millisecs = 10;
        must("ksm", ksm_cpu(&cpu_before));
        must("ksm", ksm_start(&tuned));
        order(processes, 'k');
        while (counters.full_scans < KSM_SCANS && clock_now() - began_ns < PATIENCE_NS / 4) {
                nap();
                must("ksm", ksm_counters(&counters));
        }
        figures.seconds = (double)(clock_now() - began_ns) / 1e9;
        must("ksm", ksm_cpu(&cpu_after));
        figures.saved_mib = used_before - used_mib(processes);
        figures.free_mib = free_mib() - free_before;
        figures.charged_mib = charged_mib() - charged_before;
        figures.cpu = (double)(cpu_after - cpu_before) / 1e9;
        must("ksm", ksm_stop());
        return figures;
}

static void start_both(struct process *processes, bool mixed)
{
        drop_caches();
        start(&processes[0], paths[0]);
        start(&processes[1], mixed ? NULL : paths[1]);
}

static void print_figures(const char *who, const struct figures *figures)
{
        printf("  %-10s saved %6.1f MiB of %zu (%.1f %%), after %.2f s, CPU %.2f s\n", who,
               figures->saved_mib, n_bytes >> 20, figures->saved_mib * 100 / (double)(n_bytes >> 20),
               figures->seconds, figures->cpu);
        printf("  %-10s status %.1f MiB, free memory %+.1f MiB, control group %+.1f MiB\n", "",
               figures->counted_mib, figures->free_mib, figures->charged_mib);
}

static void measure_case(const char *name, bool mixed, bool ksm)
{
        struct process processes[PROCESSES];
        struct figures figures;

        printf("%s\n", name);
        start_both(processes, mixed);
        figures = with_wpd(processes);
        order(processes, 'v');
        stop(processes);
        print_figures("wpd", &figures);
        if (!ksm)
                return;
        start_both(processes, mixed);
        figures = with_ksm(processes);
        order(processes, 'v');
        stop(processes);
        print_figures("KSM, tuned", &figures);
}

static int compare_samples(const void *a, const void *b)
{
        uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;

        return (left > right) - (left < right);
}

static void measure_writers(void)
{
        uint32_t *samples = calloc(MAX(n_writers, 1U), sizeof(*samples));
        struct process processes[PROCESSES];

        if (!samples)
                give_up("memory", ENOMEM);
        printf("who opens one of two merged files for writing\n");
        start_both(processes, false);
        order(processes, 'r');
        for (unsigned i = 0; i < n_writers; i++) {
                uint64_t began_ns;
                int fd;

                await_settled();
                began_ns = clock_now();
                fd = (int)must("open", error_from(open(paths[i % PROCESSES], O_WRONLY | O_CLOEXEC)));
                samples[i] = (uint32_t)((clock_now() - began_ns) / 1000);
                close(fd);
        }
        order(processes, 'v');
        stop(processes);
        qsort(samples, n_writers, sizeof(*samples), compare_samples);
        if (n_writers)
                printf("  waits %.1f ms at the median, %.1f ms at most (%u times, %zu MiB merged)\n",
                       samples[n_writers / 2] / 1e3, samples[n_writers - 1] / 1e3, n_writers, n_bytes >> 20);
        free(samples);
}

static bool parse_number(const char *text, unsigned long maximum, unsigned long *ret_number)
{
        char *end;

        errno = 0;
        *ret_number = strtoul(text, &end, 10);
        return !errno && end != text && !*end && *ret_number <= maximum;
}

static bool parse(int argc, char **argv)
{
        static const struct option options[] = {
                {"socket", required_argument, NULL, 's'},    {"control", required_argument, NULL, 'c'},
                {"directory", required_argument, NULL, 'd'}, {"mib", required_argument, NULL, 'm'},
                {"writers", required_argument, NULL, 'w'},   {NULL, 0, NULL, 0},
        };
        unsigned long number;
        int option;

        while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
                if (option == 's')
                        socket_path = optarg;
                else if (option == 'c')
                        control_path = optarg;
                else if (option == 'd')
                        directory = optarg;
                else if (option == 'm' && parse_number(optarg, 1 << 16, &number) && number)
                        n_bytes = number << 20;
                else if (option == 'w' && parse_number(optarg, 1 << 16, &number))
                        n_writers = (unsigned)number;
                else
                        return false;
        }
        return optind == argc && socket_path && control_path;
}

int main(int argc, char **argv)
{
        const char *why;
        bool ksm;

        if (!parse(argc, argv)) {
                fprintf(stderr,
                        "usage: wpd-bench-files --socket=PATH --control=PATH [--directory=DIR] [--mib=N] "
                        "[--writers=N]\n");
                return EXIT_USAGE;
        }
        signal(SIGPIPE, SIG_IGN);
        main_pid = getpid();
        must("the control socket", control_open(control_path, 10000, &control));
        ksm = ksm_open(&why) >= 0;
        if (ksm)
                atexit(ksm_restore);
        else
                printf("KSM is not measured: %s\n", why);
        make_files();
        measure_case("two files with the same content", false, ksm);
        measure_case("a file, and its content in anonymous memory", true, ksm);
        measure_writers();
        control_close(control);
        return EXIT_SUCCESS;
}
