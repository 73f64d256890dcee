/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Who maps a page of a file: this process and a child of it, with mappings of every kind. */

#undef NDEBUG
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel/pagemap.h"
#include "kernel/rmap.h"
#include "util/bits.h"

#define FILE_PAGES 8
#define PAGE       3 /* the one that is asked for */
#define MAX_SITES  16

struct sites {
        size_t n;
        size_t max; /* the walk is ended by the one after so many */
        struct rmap_site list[MAX_SITES];
        unsigned n_processes; /* that were begun */
        unsigned max_processes;
};

struct file {
        int fd;
        struct rmap_query query;
};

static bool go_on(void *context)
{
        struct sites *sites = context;

        return sites->n_processes++ < sites->max_processes;
}

static bool visit(void *context, const struct rmap_site *site)
{
        struct sites *sites = context;

        if (sites->n == sites->max)
                return false;
        sites->list[sites->n++] = *site;
        return true;
}

static int walk_some(const struct rmap_query *query, struct sites *sites, size_t max, unsigned max_processes)
{
        struct rmap_visitor visitor = {.go_on = go_on, .visit = visit, .context = sites};

        *sites = (struct sites){.max = max, .max_processes = max_processes};
        return rmap_walk(query, &visitor);
}

/* Of all processes; how often this place is among them. */
static unsigned found(const struct rmap_query *query, pid_t pid, const void *address)
{
        struct sites sites;
        unsigned n = 0;

        assert_in_range(walk_some(query, &sites, MAX_SITES, UINT32_MAX), 0, 1);
        for (size_t i = 0; i < sites.n; i++)
                n += sites.list[i].pid == pid && sites.list[i].address == (uintptr_t)address;
        return n;
}

static size_t count(const struct rmap_query *query)
{
        struct sites sites;

        assert_in_range(walk_some(query, &sites, MAX_SITES, UINT32_MAX), 0, 1);
        return sites.n;
}

static int setup(void **state)
{
        static struct file file;
        char bytes[PAGE_BYTES];
        struct stat st;

        file.fd = memfd_create("rmap test", MFD_CLOEXEC);
        assert_true(file.fd >= 0);
        memset(bytes, 7, sizeof(bytes));
        for (unsigned i = 0; i < FILE_PAGES; i++)
                assert_int_equal(pwrite(file.fd, bytes, sizeof(bytes), (off_t)(i * PAGE_BYTES)), PAGE_BYTES);
        assert_int_equal(fstat(file.fd, &st), 0);
        file.query = (struct rmap_query){
                .dev = st.st_dev, .inode = st.st_ino, .offset = PAGE * PAGE_BYTES, .uid = RMAP_ANYBODY};
        *state = &file;
        return 0;
}

static int teardown(void **state)
{
        close(((struct file *)*state)->fd);
        return 0;
}

/* Populated if `touch`. */
static volatile char *map(const struct file *file, unsigned first, unsigned n, int flags, bool touch)
{
        volatile char *memory = mmap(NULL, n * PAGE_BYTES, PROT_READ | PROT_WRITE, flags, file->fd,
                                     (off_t)(first * PAGE_BYTES));

        assert_true(memory != MAP_FAILED);
        for (unsigned i = 0; touch && i < n; i++)
                (void)memory[i * PAGE_BYTES];
        return memory;
}

static void unmap(volatile char *memory, unsigned n)
{
        assert_int_equal(munmap((void *)(uintptr_t)memory, n * PAGE_BYTES), 0);
}

static void test_own(void **state)
{
        const struct file *file = *state;
        volatile char *private, *shared, *others, *untouched;

        assert_int_equal(count(&file->query), 0);
        private = map(file, 0, FILE_PAGES, MAP_PRIVATE, true);
        shared = map(file, PAGE, 1, MAP_SHARED, true);
        others = map(file, PAGE + 1, FILE_PAGES - PAGE - 1, MAP_PRIVATE, true);
        unmap(map(file, 0, PAGE, MAP_PRIVATE, true), PAGE);
        assert_int_equal(found(&file->query, getpid(), (char *)private + PAGE * PAGE_BYTES), 1);
        assert_int_equal(found(&file->query, getpid(), (char *)shared), 1);
        assert_int_equal(count(&file->query), 2);
        /* A page that was not populated is not mapped. */
        untouched = map(file, 0, FILE_PAGES, MAP_PRIVATE, false);
        assert_int_equal(madvise((void *)(uintptr_t)untouched, FILE_PAGES * PAGE_BYTES, MADV_DONTNEED), 0);
        assert_int_equal(count(&file->query), 2);
        /* A copy is not the file's. */
        private[PAGE * PAGE_BYTES] = 1;
        assert_int_equal(count(&file->query), 1);
        assert_int_equal(found(&file->query, getpid(), (char *)shared), 1);
        unmap(private, FILE_PAGES);
        unmap(shared, 1);
        unmap(others, FILE_PAGES - PAGE - 1);
        unmap(untouched, FILE_PAGES);
        assert_int_equal(count(&file->query), 0);
}

static void test_another_file(void **state)
{
        const struct file *file = *state;
        volatile char *memory = map(file, 0, FILE_PAGES, MAP_PRIVATE, true);
        struct rmap_query query = file->query;

        query.inode++;
        assert_int_equal(count(&query), 0);
        query = file->query;
        query.dev++;
        assert_int_equal(count(&query), 0);
        query = file->query;
        query.offset = FILE_PAGES * PAGE_BYTES;
        assert_int_equal(count(&query), 0);
        query = file->query;
        query.except = getpid();
        assert_int_equal(count(&query), 0);
        unmap(memory, FILE_PAGES);
}

static void test_user(void **state)
{
        const struct file *file = *state;
        volatile char *memory = map(file, 0, FILE_PAGES, MAP_PRIVATE, true);
        struct rmap_query query = file->query;
        struct sites sites;

        query.uid = getuid();
        assert_in_range(walk_some(&query, &sites, MAX_SITES, UINT32_MAX), 0, 1);
        assert_int_equal(sites.n, 1);
        assert_int_equal(sites.list[0].uid, getuid());
        query.uid = getuid() + 1;
        assert_int_equal(count(&query), 0);
        unmap(memory, FILE_PAGES);
}

static void test_ended(void **state)
{
        const struct file *file = *state;
        volatile char *memory[3];
        struct sites sites;

        for (size_t i = 0; i < ARRAY_SIZE(memory); i++)
                memory[i] = map(file, 0, FILE_PAGES, MAP_PRIVATE, true);
        assert_int_equal(walk_some(&file->query, &sites, 2, UINT32_MAX), 1);
        assert_int_equal(sites.n, 2);
        assert_int_equal(walk_some(&file->query, &sites, 0, UINT32_MAX), 1);
        assert_int_equal(walk_some(&file->query, &sites, MAX_SITES, 0), 1);
        assert_int_equal(sites.n, 0);
        assert_int_equal(sites.n_processes, 1);
        for (size_t i = 0; i < ARRAY_SIZE(memory); i++)
                unmap(memory[i], FILE_PAGES);
}

/* A step of the child; its answer says that it was made. */
static void step(int socket)
{
        char byte = 0;

        assert_int_equal(write(socket, &byte, 1), 1);
        assert_int_equal(read(socket, &byte, 1), 1);
}

static void child(int socket, volatile char *memory, uid_t uid)
{
        char byte;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (uid && (setuid(uid) < 0 || prctl(PR_SET_DUMPABLE, 1) < 0))
                _exit(1);
        for (unsigned i = 0; read(socket, &byte, 1) == 1; i++) {
                if (i == 1)
                        (void)memory[PAGE * PAGE_BYTES];
                if (i == 2)
                        memory[(PAGE + 1) * PAGE_BYTES] = 1;
                if (i == 3)
                        memory[PAGE * PAGE_BYTES] = 1;
                if (write(socket, &byte, 1) != 1)
                        break;
        }
        _exit(0);
}

/* A child shares the page from when it reads it until it writes it; its other pages are of no matter. */
static void check_child(const struct file *file, uid_t uid)
{
        volatile char *memory = map(file, 0, FILE_PAGES, MAP_PRIVATE, true);
        const char *page = (char *)memory + PAGE * PAGE_BYTES;
        struct rmap_query query = file->query;
        int sockets[2], status;
        pid_t pid;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (!pid) {
                close(sockets[0]);
                child(sockets[1], memory, uid);
        }
        close(sockets[1]);
        step(sockets[0]);
        step(sockets[0]); /* reads */
        assert_int_equal(found(&query, pid, page), 1);
        assert_int_equal(found(&query, getpid(), page), 1);
        query.uid = uid;
        assert_int_equal(found(&query, pid, page), 1);
        assert_int_equal(found(&query, getpid(), page), uid == getuid());
        step(sockets[0]); /* writes another */
        assert_int_equal(found(&query, pid, page), 1);
        step(sockets[0]); /* writes it */
        assert_int_equal(found(&query, pid, page), 0);
        close(sockets[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        unmap(memory, FILE_PAGES);
}

static void test_child(void **state)
{
        check_child(*state, getuid());
        if (!getuid())
                check_child(*state, 65534);
}

static bool can_survey(void)
{
        struct page_region run;
        uint64_t walked;
        int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), r;

        r = pagemap_survey(fd, 0, PAGE_BYTES, &run, 1, &walked);
        close(fd);
        return r >= 0;
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_own),   cmocka_unit_test(test_another_file),
                cmocka_unit_test(test_user),  cmocka_unit_test(test_ended),
                cmocka_unit_test(test_child),
        };

        if (!can_survey())
                return 77;
        return cmocka_run_group_tests(tests, setup, teardown);
}
