/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * `wpd --check`: every need is probed by trying it on memory and descriptors of this process. Nothing on the
 * system is changed, and nothing of the process remains changed.
 */

#include "process/check.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/hold.h"
#include "kernel/numa.h"
#include "kernel/pagemap.h"
#include "kernel/poolfile.h"
#include "kernel/ring.h"
#include "kernel/uffd.h"
#include "util/bits.h"
#include "util/cleanup.h"

#define MAP_COUNT_WANTED 65530

/* How long an answer of the kernel that is due at once may take before it counts as missing. */
#define PROBE_SECONDS 2

/* A probe returns 0 when the need is met or a negative errno, and may say in `detail` what it saw. */
struct need {
        const char *what;
        const char *why;
        const char *without;
        bool optional;
        int (*probe)(const struct need *need, char *detail, size_t size);
        uint64_t feature; /* of userfaultfd, for probe_feature() */
};

static int probe_page_size(const struct need *need, char *detail, size_t size)
{
        long bytes = sysconf(_SC_PAGESIZE);

        snprintf(detail, size, "%ld", bytes);
        return bytes == (long)PAGE_BYTES ? 0 : -EOPNOTSUPP;
}

static int probe_device(const struct need *need, char *detail, size_t size)
{
        _cleanup_fd_ int device = uffd_open_device();

        return MIN(device, 0);
}

static int new_context(int *ret_fd)
{
        _cleanup_fd_ int device = uffd_open_device();
        int fd = device < 0 ? device : uffd_create(device);

        if (fd < 0)
                return fd;
        *ret_fd = fd;
        return 0;
}

static int probe_feature(const struct need *need, char *detail, size_t size)
{
        _cleanup_fd_ int context = -EBADF, other = -EBADF;
        uint64_t features;
        int r;

        r = new_context(&context);
        if (r < 0)
                return r;
        r = uffd_api(context, need->feature);
        if (r != -EPERM)
                return r;
        /* The kernel has it but not for us, which is another row's matter. */
        r = new_context(&other);
        if (r >= 0)
                r = uffd_probe(other, &features);
        if (r < 0)
                return r;
        return (features & need->feature) == need->feature ? 0 : -EOPNOTSUPP;
}

static int probe_ptrace(const struct need *need, char *detail, size_t size)
{
        _cleanup_fd_ int context = -EBADF;
        int r = new_context(&context);

        return r < 0 ? r : uffd_api(context, UFFD_FEATURE_EVENT_FORK);
}

/* The helper's; CAP_SYS_PTRACE, which it needs, too, is looked for by itself. */
static int probe_page_maps(const struct need *need, char *detail, size_t size)
{
        cap_t caps = cap_get_proc();
        cap_flag_value_t value = CAP_CLEAR;
        int r;

        if (!caps)
                return -errno;
        r = (int)error_from(cap_get_flag(caps, CAP_DAC_READ_SEARCH, CAP_EFFECTIVE, &value));
        cap_free(caps);
        return r < 0 ? r : value == CAP_SET ? 0 : -EPERM;
}

static void unmap_page(void **page)
{
        if (*page != MAP_FAILED)
                munmap(*page, PAGE_BYTES);
}

static void *map_page(void)
{
        return mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* Whether the page counts as written: 1 yes, 0 no. */
static int page_written(int pagemap, const void *page)
{
        uint64_t start = (uintptr_t)page, walked;
        struct page_region run;

        return pagemap_survey(pagemap, start, start + PAGE_BYTES, &run, 1, &walked);
}

/* Written, protected, written again: what a round of the scan relies on. */
static int probe_pagemap(const struct need *need, char *detail, size_t size)
{
        _cleanup_(unmap_page) void *page = map_page();
        _cleanup_fd_ int context = -EBADF, pagemap = -EBADF;
        uint64_t start = (uintptr_t)page;
        int r;

        if (page == MAP_FAILED)
                return -errno;
        pagemap = (int)error_from(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
        if (pagemap < 0)
                return pagemap;
        r = new_context(&context);
        if (r >= 0)
                r = uffd_api(context, TRACK_FEATURES);
        if (r >= 0)
                r = uffd_register(context, start, PAGE_BYTES, UFFDIO_REGISTER_MODE_WP);
        for (int round = 0; r >= 0 && round < 2; round++) {
                *(volatile char *)page = 1;
                r = page_written(pagemap, page);
                if (r == 0)
                        r = -ENODATA;
                if (r >= 0)
                        r = pagemap_protect(pagemap, start, start + PAGE_BYTES);
                if (r >= 0)
                        r = page_written(pagemap, page) == 0 ? 0 : -ENODATA;
        }
        return MIN(r, 0);
}

/* The mount is attached nowhere and ends with its last descriptor. */
static int make_pool(int *ret_fd)
{
        static const char page[PAGE_BYTES] = {1};
        _cleanup_fd_ int mount = poolfile_mount(), fd = -EBADF;
        int r = mount < 0 ? mount : poolfile_create(mount, "check", &fd);

        if (r >= 0)
                r = poolfile_write(fd, 0, page, sizeof(page));
        if (r >= 0)
                *ret_fd = fd_take(&fd);
        return r;
}

static int probe_pool(const struct need *need, char *detail, size_t size)
{
        _cleanup_fd_ int fd = -EBADF;

        return make_pool(&fd);
}

/* Whether a page is mapped: first it is, then it is not. */
static int probe_mapped(const struct need *need, char *detail, size_t size)
{
        _cleanup_fd_ int fd = -EBADF, pagemap = -EBADF;
        _cleanup_(unmap_page) void *page = MAP_FAILED;
        uint64_t unmapped = 0;
        int r = make_pool(&fd);

        if (r < 0)
                return r;
        pagemap = (int)error_from(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
        if (pagemap < 0)
                return pagemap;
        page = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
        if (page == MAP_FAILED)
                return -errno;
        r = poolfile_unmapped(fd, pagemap, 0, 1, &unmapped);
        if (r < 0 || unmapped)
                return r < 0 ? r : -EOPNOTSUPP;
        unmap_page(&page);
        page = MAP_FAILED;
        r = poolfile_unmapped(fd, pagemap, 0, 1, &unmapped);
        return r < 0 || unmapped ? r : -EOPNOTSUPP;
}

static int probe_ring(const struct need *need, char *detail, size_t size)
{
        struct io_uring ring;
        int r = ring_make(&ring, 4, 8, NULL, 0, IORING_REGISTER_BUFFERS_UPDATE, 4);

        if (r < 0)
                return r;
        io_uring_queue_exit(&ring);
        return 0;
}

static void *touch(void *page)
{
        *(volatile char *)page = 1;
        return NULL;
}

/* Reads the message about a missing page through the ring. */
static int read_message(struct io_uring *ring, int context)
{
        struct __kernel_timespec patience = {.tv_sec = PROBE_SECONDS};
        struct uffd_msg message = {.event = 0};
        struct io_uring_cqe *cqe;
        struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
        int r;

        if (!sqe)
                return -ENOSPC;
        io_uring_prep_read(sqe, context, &message, sizeof(message), 0);
        r = io_uring_submit(ring);
        if (r < 0)
                return r;
        r = io_uring_wait_cqe_timeout(ring, &cqe, &patience);
        if (r < 0)
                return r;
        r = cqe->res;
        io_uring_cqe_seen(ring, cqe);
        if (r < 0)
                return r;
        return r == sizeof(message) && message.event == UFFD_EVENT_PAGEFAULT ? 0 : -EBADMSG;
}

/* A thread that touches a missing page, so that there is something to read. */
static int fault_and_read(struct io_uring *ring, int context, void *page)
{
        static const char zeros[PAGE_BYTES];
        struct pollfd wait = {.fd = context, .events = POLLIN};
        pthread_t thread;
        int r, answered;

        r = pthread_create(&thread, NULL, touch, page);
        if (r > 0)
                return -r;
        r = (int)error_from(poll(&wait, 1, PROBE_SECONDS * 1000));
        if (r >= 0)
                r = r == 0 ? -ETIME : read_message(ring, context);
        /* The thread goes on in any case: with a page, or because nobody is asked about it any more. */
        answered = uffd_copy(context, (uintptr_t)page, zeros, PAGE_BYTES, 0);
        if (answered < 0 && uffd_unregister(context, (uintptr_t)page, PAGE_BYTES) < 0)
                abort();
        pthread_join(thread, NULL);
        return r < 0 ? r : answered;
}

static int probe_ring_read(const struct need *need, char *detail, size_t size)
{
        _cleanup_(unmap_page) void *page = map_page();
        _cleanup_fd_ int context = -EBADF;
        struct io_uring ring;
        int r;

        if (page == MAP_FAILED)
                return -errno;
        r = new_context(&context);
        if (r >= 0)
                r = uffd_api(context, 0);
        if (r >= 0)
                r = uffd_register(context, (uintptr_t)page, PAGE_BYTES, UFFDIO_REGISTER_MODE_MISSING);
        if (r >= 0)
                r = ring_make(&ring, 4, 8, (int[]){IORING_OP_READ}, 1, -1, 0);
        if (r < 0)
                return r;
        r = fault_and_read(&ring, context, page);
        io_uring_queue_exit(&ring);
        return r;
}

/* Asks for the action, which loads nothing. */
static int probe_seccomp(const struct need *need, char *detail, size_t size)
{
        uint32_t action = SECCOMP_RET_KILL_PROCESS;

        return (int)error_from(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action));
}

/* Locks one page more than the limit allows, without touching any. */
static int probe_lock(const struct need *need, char *detail, size_t size)
{
        struct rlimit limit, raised = {RLIM_INFINITY, RLIM_INFINITY};
        size_t length;
        void *memory;
        int r = 0;

        if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0)
                return -errno;
        if (limit.rlim_cur == RLIM_INFINITY) {
                snprintf(detail, size, "unlimited");
                return 0;
        }
        snprintf(detail, size, "%" PRIu64 " KiB", (uint64_t)limit.rlim_cur / 1024);
        if (setrlimit(RLIMIT_MEMLOCK, &raised) >= 0) {
                snprintf(detail, size, "can be raised");
                return (int)error_from(setrlimit(RLIMIT_MEMLOCK, &limit));
        }
        length = page_down(limit.rlim_cur) + PAGE_BYTES;
        memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                      0);
        if (memory == MAP_FAILED)
                return -errno;
        r = (int)error_from(syscall(SYS_mlock2, memory, length, MLOCK_ONFAULT));
        if (r >= 0)
                snprintf(detail, size, "CAP_IPC_LOCK");
        munmap(memory, length);
        return r;
}

/* A number in a file of the kernel. */
static int read_number(const char *path, uint64_t *ret_value)
{
        _cleanup_fd_ int fd = (int)error_from(open(path, O_RDONLY | O_CLOEXEC));
        char text[32], *end;
        ssize_t length;
        uint64_t value;

        if (fd < 0)
                return fd;
        length = error_from(read(fd, text, sizeof(text) - 1));
        if (length < 0)
                return (int)length;
        text[length] = '\0';
        value = strtoull(text, &end, 10);
        if (end == text)
                return -EBADMSG;
        *ret_value = value;
        return 0;
}

static int probe_map_count(const struct need *need, char *detail, size_t size)
{
        uint64_t value = 0;
        int r = read_number("/proc/sys/vm/max_map_count", &value);

        if (r < 0)
                return r;
        snprintf(detail, size, "%" PRIu64, value);
        return value >= MAP_COUNT_WANTED ? 0 : -ERANGE;
}

static int probe_ring_policy(const struct need *need, char *detail, size_t size)
{
        uint64_t value = 0;
        int r = read_number("/proc/sys/kernel/io_uring_disabled", &value);

        if (r == -ENOENT) /* before Linux 6.6 there was no such switch */
                return 0;
        if (r < 0)
                return r;
        snprintf(detail, size, "%" PRIu64, value);
        return value < 2 ? 0 : -EPERM;
}

/* On a machine with one node there is nothing to be lost. */
static int probe_numa(const struct need *need, char *detail, size_t size)
{
        _cleanup_(unmap_page) void *page = map_page();
        char list[64];
        int node, r = numa_list(list, sizeof(list));

        if (r < 0 || page == MAP_FAILED)
                return r == -ENOENT ? 0 : r < 0 ? r : -ENOMEM;
        snprintf(detail, size, "%s", list);
        *(volatile char *)page = 1;
        r = numa_of_pages(0, (uint64_t[]){(uintptr_t)page}, 1, &node);
        if (r >= 0 && node == NUMA_NO_NODE)
                r = -ENODATA;
        if (r >= 0)
                r = numa_prefer(node);
        if (r >= 0)
                r = numa_prefer(NUMA_NO_NODE);
        return r;
}

static int probe_ksm(const struct need *need, char *detail, size_t size)
{
        uint64_t value = 0;
        int r = read_number("/sys/kernel/mm/ksm/run", &value);

        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return r;
        snprintf(detail, size, "run %" PRIu64, value);
        return value == 1 ? -EBUSY : 0;
}

#define UFFD(_name, _feature, _why, _without)                                                                \
        {                                                                                                    \
                .what = "userfaultfd: " _name, .why = (_why), .without = (_without), .probe = probe_feature, \
                .feature = (_feature),                                                                       \
        }

static const struct need needs[] = {
        {"pages of 4096 bytes", "every table counts in them", "no service", false, probe_page_size, 0},
        {"/dev/userfaultfd", "contexts that serve system calls too", "no service", false, probe_device, 0},
        {"CAP_SYS_PTRACE", "following forks, other users' smaps", "no service", false, probe_ptrace, 0},
        UFFD("write protection", UFFD_FEATURE_PAGEFAULT_FLAG_WP, "noticing the first write", "no service"),
        UFFD("WP_ASYNC", UFFD_FEATURE_WP_ASYNC, "finding memory that has settled", "no service"),
        UFFD("WP_UNPOPULATED", UFFD_FEATURE_WP_UNPOPULATED, "the same for untouched memory", "no service"),
        UFFD("MOVE", UFFD_FEATURE_MOVE, "freezing pages while they are compared", "no service"),
        UFFD("MINOR_SHMEM", UFFD_FEATURE_MINOR_SHMEM, "zeros after MADV_DONTNEED", "no service"),
        UFFD("WP_HUGETLBFS_SHMEM", UFFD_FEATURE_WP_HUGETLBFS_SHMEM, "protecting canonical pages",
             "no service"),
        UFFD("EVENT_FORK", UFFD_FEATURE_EVENT_FORK, "serving forked children", "no service"),
        UFFD("EVENT_REMAP", UFFD_FEATURE_EVENT_REMAP, "putting merged pages in place", "no service"),
        UFFD("EVENT_REMOVE", UFFD_FEATURE_EVENT_REMOVE, "noticing discards during a merge", "no service"),
        UFFD("THREAD_ID", UFFD_FEATURE_THREAD_ID, "naming the writing thread in events", "no service"),
        UFFD("EXACT_ADDRESS", UFFD_FEATURE_EXACT_ADDRESS, "naming the written byte in events", "no service"),
        {"PAGEMAP_SCAN", "which pages were written, at once", "no service", false, probe_pagemap, 0},
        {"detached tmpfs, noswap, huge=never", "canonical pages that stay as they are", "no service", false,
         probe_pool, 0},
        {"pagemap: exclusively mapped", "giving canonical pages back", "no service", false, probe_mapped, 0},
        {"io_uring with restrictions", "the fault service, and pinned pages of the pool", "no service", false,
         probe_ring, 0},
        {"io_uring READ of a userfaultfd", "the fault service", "no service", false, probe_ring_read, 0},
        {"kernel.io_uring_disabled below 2", "making rings", "no service", false, probe_ring_policy, 0},
        {"seccomp filters", "confining the daemon", "no service", false, probe_seccomp, 0},
        {"CAP_DAC_READ_SEARCH", "who shares a page (wpctl sharers)", "only root's processes are found", true,
         probe_page_maps, 0},
        {"locking memory without limit", "never waiting for our own swap", "faults may wait for swap", true,
         probe_lock, 0},
        {"vm.max_map_count 65530 or more", "each merged run costs VMAs", "less is merged in each process",
         true, probe_map_count, 0},
        {"NUMA nodes of pages", "merging within a node", "pages of all nodes are merged", true, probe_numa,
         0},
        {"kernel's KSM not running", "one merger at a time", "KSM scans too; its memory is refused", true,
         probe_ksm, 0},
};

static void run_need(const struct need *need, struct check_row *row)
{
        int r;

        *row = (struct check_row){
                .what = need->what, .why = need->why, .without = need->without, .required = !need->optional};
        r = need->probe(need, row->detail, sizeof(row->detail));
        row->found = r >= 0;
        if (r < 0 && !row->detail[0])
                snprintf(row->detail, sizeof(row->detail), "%s", strerror(-r));
}

unsigned check_run(struct check_row *rows, unsigned n_rows)
{
        for (unsigned i = 0; i < n_rows && i < ARRAY_SIZE(needs); i++)
                run_need(&needs[i], &rows[i]);
        return ARRAY_SIZE(needs);
}

/* The table: four columns with two spaces between them, 100 columns together. Text that is longer is wrapped.
 */
enum {
        COLUMN_FOUND,
        COLUMN_WHAT,
        COLUMN_WHY,
        COLUMN_WITHOUT,
        N_COLUMNS,
};

static const unsigned widths[N_COLUMNS] = {7, 33, 32, 22};

/* How many bytes of the text go on a line of `width`, and in *skip how many blanks after them are left out.
 */
static size_t fit(const char *text, size_t width, size_t *skip)
{
        size_t length = strlen(text), end = width;

        *skip = 0;
        if (length <= width)
                return length;
        while (end > 0 && text[end] != ' ')
                end--;
        if (end == 0) /* one word longer than the column: cut it */
                return width;
        *skip = strspn(text + end, " ");
        return end;
}

static void print_cells(FILE *out, const char *const cells[N_COLUMNS])
{
        const char *rest[N_COLUMNS];
        bool more = true;

        memcpy(rest, cells, sizeof(rest));
        while (more) {
                unsigned pending = 0; /* blanks that are printed only before more text */

                more = false;
                for (unsigned i = 0; i < N_COLUMNS; i++) {
                        size_t skip, length = fit(rest[i], widths[i], &skip);

                        if (length > 0) {
                                fprintf(out, "%*s%.*s", (int)pending, "", (int)length, rest[i]);
                                pending = 0;
                        }
                        pending += widths[i] - (unsigned)length + 2;
                        rest[i] += length + skip;
                        more = more || *rest[i];
                }
                fputc('\n', out);
        }
}

static void print_row(FILE *out, const struct check_row *row)
{
        const char *found = row->found ? "yes" : row->required ? "MISSING" : "no";
        char what[256];

        snprintf(what, sizeof(what), row->detail[0] ? "%s (%s)" : "%s", row->what, row->detail);
        print_cells(out, (const char *const[]){found, what, row->why, row->without});
}

bool check_print(FILE *out, const struct check_row *rows, unsigned n_rows)
{
        unsigned n_missing = 0;

        print_cells(out, (const char *const[]){"FOUND", "NEED", "USED FOR", "WITHOUT IT"});
        for (unsigned i = 0; i < n_rows; i++) {
                print_row(out, &rows[i]);
                n_missing += rows[i].required && !rows[i].found;
        }
        if (n_missing > 0)
                fprintf(out, "\nwpd cannot serve here: %u of what it needs %s missing.\n", n_missing,
                        n_missing == 1 ? "is" : "are");
        else
                fprintf(out, "\nwpd can serve here.\n");
        return n_missing == 0;
}
