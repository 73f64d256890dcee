/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Backings: on a real file by hand, and who shares and uses its pages at random against plain counts. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "dedup/backing.h"
#include "kernel/lease.h"
#include "tests/model/random.h"
#include "tests/unit/dedup/fail_alloc.h"
#include "util/bits.h"
#include "util/cleanup.h"

#define FILE_PAGES 24
#define DOMAIN     ((struct domain *)0x1000)

struct file {
        int write_fd;
        struct backing *backing;
};

static void set_size(const struct file *file, off_t bytes)
{
        assert_int_equal(ftruncate(file->write_fd, bytes), 0);
}

static off_t pages(uint64_t n)
{
        return (off_t)(n << PAGE_SHIFT);
}

/* A file of FILE_PAGES pages and a half, which nobody can find. */
static int setup(void **state)
{
        static struct file file;
        char path[] = "/tmp/test-backing-XXXXXX", proc[40];
        struct stat st;
        int fd;

        fail_alloc = false;
        fail_at = 0;
        file.write_fd = mkostemp(path, O_CLOEXEC);
        if (file.write_fd < 0 || unlink(path) < 0)
                return -1;
        set_size(&file, pages(FILE_PAGES) + (off_t)PAGE_BYTES / 2);
        snprintf(proc, sizeof(proc), "/proc/self/fd/%d", file.write_fd);
        fd = open(proc, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return -1;
        *state = &file;
        return backing_new(DOMAIN, fd, &st, &file.backing);
}

static int teardown(void **state)
{
        struct file *file = *state;

        file->backing = backing_free(file->backing);
        file->write_fd = fd_close(file->write_fd);
        return 0;
}

/* ------------------------------------------------------------------ by hand */

static void test_new(void **state)
{
        const struct file *file = *state;
        const struct backing *backing = file->backing;
        struct stat st;

        assert_int_equal(fstat(file->write_fd, &st), 0);
        assert_ptr_equal(backing->domain, DOMAIN);
        assert_int_equal(backing->dev, st.st_dev);
        assert_int_equal(backing->inode, st.st_ino);
        assert_int_equal(backing->owner, geteuid());
        assert_true(backing->owner_reads);
        assert_false(backing->others_read);
        assert_int_equal(backing->state, BACKING_LEASED);
        assert_int_equal(backing->n_pages, FILE_PAGES);
        assert_true(list_empty(&backing->regions));
        assert_false(backing_in_use(backing));
        assert_int_equal(backing_bytes(backing), sizeof(*backing) + FILE_PAGES * 2 * sizeof(uint16_t));
        for (uint32_t page = 0; page < FILE_PAGES; page++)
                assert_int_equal(backing->sites[page] + backing->users[page], 0);
        assert_null(backing_free(NULL));
}

/* Whole pages, and no more than can be numbered. */
static void test_sizes(void **state)
{
        static const struct {
                off_t size;
                uint32_t n_pages;
        } sizes[] = {{0, 0}, {1, 0}, {PAGE_BYTES - 1, 0}, {PAGE_BYTES, 1}, {2 * PAGE_BYTES - 1, 1}};
        const struct file *file = *state;
        struct backing *backing;
        struct stat st;

        assert_int_equal(fstat(file->write_fd, &st), 0);
        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
                st.st_size = sizes[i].size;
                assert_int_equal(backing_new(DOMAIN, -EBADF, &st, &backing), 0);
                assert_int_equal(backing->n_pages, sizes[i].n_pages);
                backing_free(backing);
        }
}

/* It closes its descriptor, and ends the lease that others' descriptors share. */
static void test_frees_lease(void **state)
{
        struct file *file = *state;
        int fd = file->backing->fd;
        _cleanup_fd_ int shared_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);

        file->write_fd = fd_close(file->write_fd);
        if (lease_take(fd) < 0) {
                print_message("no leases here\n");
                skip();
        }
        assert_true(lease_quiet(shared_fd));
        file->backing = backing_free(file->backing);
        assert_false(lease_quiet(shared_fd));
        assert_int_equal(fcntl(fd, F_GETFD), -1);
        assert_int_equal(errno, EBADF);
}

static void test_new_without_memory(void **state)
{
        const struct file *file = *state;
        struct backing *backing = (struct backing *)0x77;
        struct stat st;

        assert_int_equal(fstat(file->write_fd, &st), 0);
        for (unsigned i = 1; i <= 3; i++) {
                fail_at = i;
                assert_int_equal(backing_new(DOMAIN, file->write_fd, &st, &backing), -ENOMEM);
                assert_int_equal(fail_at, 0);
                assert_ptr_equal(backing, (struct backing *)0x77);
                assert_true(fcntl(file->write_fd, F_GETFD) >= 0);
        }
}

static void test_join(void **state)
{
        const struct file *file = *state;
        struct backing *backing = file->backing;
        struct region regions[3] = {{.n_pages = 4}, {.n_pages = 4}, {.n_pages = 4}};
        unsigned n = 0;

        backing_leave(&regions[0]); /* of no file: nothing */
        for (uint32_t i = 0; i < 3; i++) {
                backing_join(backing, &regions[i], 5 * i);
                assert_ptr_equal(regions[i].backing, backing);
                assert_int_equal(regions[i].backing_page, 5 * i);
        }
        backing_leave(&regions[1]);
        backing_leave(&regions[1]);
        assert_null(regions[1].backing);
        list_for_each(link, &backing->regions) {
                assert_ptr_equal(list_entry(link, struct region, sibling), &regions[n]);
                n += 2;
        }
        assert_int_equal(n, 4);
        backing_leave(&regions[0]);
        backing_leave(&regions[2]);
        assert_true(list_empty(&backing->regions));
}

static void test_page(void **state)
{
        static const struct {
                uint32_t first, page;
                bool is;
        } cases[] = {
                {0, 0, true},
                {0, FILE_PAGES - 1, true},
                {0, FILE_PAGES, false},
                {0, UINT32_MAX, false},
                {7, 0, true},
                {7, FILE_PAGES - 8, true},
                {7, FILE_PAGES - 7, false},
                {7, UINT32_MAX - 3, false},
                {FILE_PAGES - 1, 0, true},
                {FILE_PAGES - 1, 1, false},
                {FILE_PAGES, 0, false},
                {FILE_PAGES + 1, 0, false},
                {FILE_PAGES + 1, UINT32_MAX - FILE_PAGES, false},
                {UINT32_MAX, 0, false},
                {UINT32_MAX, 1, false},
        };
        const struct file *file = *state;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct region region = {.backing = file->backing, .backing_page = cases[i].first};
                uint32_t page = 77;

                assert_int_equal(backing_page(&region, cases[i].page, &page), cases[i].is);
                assert_int_equal(page, cases[i].is ? cases[i].first + cases[i].page : 77);
                region.backing = NULL;
                page = 77;
                assert_false(backing_page(&region, cases[i].page, &page));
                assert_int_equal(page, 77);
        }
}

static void test_region_page(void **state)
{
        static const struct {
                uint32_t first, n_pages, file_page;
                bool is;
        } cases[] = {
                {0, 1, 0, true},           {0, 1, 1, false},
                {5, 4, 4, false},          {5, 4, 5, true},
                {5, 4, 8, true},           {5, 4, 9, false},
                {5, 4, 0, false},          {5, 4, UINT32_MAX, false},
                {5, 0, 5, false},          {UINT32_MAX, 4, UINT32_MAX, true},
                {UINT32_MAX, 4, 2, false},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct region region = {.backing_page = cases[i].first, .n_pages = cases[i].n_pages};
                uint32_t page = 77;

                assert_int_equal(backing_region_page(&region, cases[i].file_page, &page), cases[i].is);
                assert_int_equal(page, cases[i].is ? cases[i].file_page - cases[i].first : 77);
        }
}

static void test_same(void **state)
{
        const struct file *file = *state;
        struct backing other = {.n_pages = FILE_PAGES};
        struct region a = {.backing = file->backing, .backing_page = 3},
                      b = {.backing = file->backing, .backing_page = 5},
                      c = {.backing = &other, .backing_page = 3}, none = {.backing_page = 3};

        assert_true(backing_same(&a, 0, &a, 0));
        assert_false(backing_same(&a, 0, &a, 1));
        assert_true(backing_same(&a, 2, &b, 0));
        assert_true(backing_same(&b, 1, &a, 3));
        assert_false(backing_same(&a, 2, &b, 2));
        assert_false(backing_same(&a, 0, &c, 0));
        assert_false(backing_same(&a, 0, &none, 0));
        assert_false(backing_same(&none, 0, &a, 0));
        assert_false(backing_same(&none, 0, &none, 0));
}

static void test_readable(void **state)
{
        static const struct {
                mode_t mode;
                uid_t owner, uid;
                bool is;
        } cases[] = {
                {0644, 1000, 1000, true},  {0644, 1000, 1001, true},  {0600, 1000, 1000, true},
                {0600, 1000, 1001, false}, {0640, 1000, 1001, false}, /* its group is not looked at */
                {0040, 1000, 1000, false}, {0004, 1000, 1001, true},  {0200, 1000, 1000, false},
                {0311, 1000, 1000, false}, {0733, 1000, 1001, false}, {0000, 1000, 1000, false},
                {0000, 1000, 0, true},     {0600, 1000, 0, true},     {0000, 0, 0, true},
                {0600, 0, 1000, false},    {0644, 0, 1000, true},     {0600, UINT32_MAX, UINT32_MAX, true},
        };
        const struct file *file = *state;
        struct backing *backing;
        struct stat st;

        assert_int_equal(fstat(file->write_fd, &st), 0);
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                st.st_mode = S_IFREG | cases[i].mode;
                st.st_uid = cases[i].owner;
                assert_int_equal(backing_new(DOMAIN, -EBADF, &st, &backing), 0);
                if (backing_readable(backing, cases[i].uid) != cases[i].is)
                        fail_msg("cases[%zu]: mode %o of %u, for %u", i, cases[i].mode, cases[i].owner,
                                 cases[i].uid);
                backing_free(backing);
        }
}

/* Some page in one of three states, of any region; or an alias elsewhere. */
static void test_in_use(void **state)
{
        const struct file *file = *state;
        struct backing *backing = file->backing;
        struct region regions[2] = {{.n_pages = 4}, {.n_pages = 4}};

        backing_join(backing, &regions[0], 0);
        backing_join(backing, &regions[1], 2);
        for (unsigned s = 0; s < PAGE_N_STATES; s++) {
                bool merged = s == PAGE_MERGED || s == PAGE_ALIASED || s == PAGE_PLANNED;

                for (unsigned i = 0; i < 2; i++) {
                        regions[i].count[s] = 1;
                        assert_int_equal(backing_merged(&regions[i]), merged);
                        assert_false(backing_merged(&regions[!i]));
                        assert_int_equal(backing_in_use(backing), merged);
                        regions[i].count[s] = 0;
                }
        }
        backing_use(backing, 3);
        assert_true(backing_in_use(backing));
        assert_false(backing_merged(&regions[0]));
        backing_unuse(backing, 3);
        assert_false(backing_in_use(backing));
        regions[1].count[PAGE_MERGED] = 1;
        backing_leave(&regions[1]);
        assert_false(backing_in_use(backing));
        backing_leave(&regions[0]);
}

/* Counts that can grow no more stay where they are: nothing is taken for the last of them. */
static void test_counts_at_their_end(void **state)
{
        const struct file *file = *state;
        struct backing *backing = file->backing;
        struct region region = {.backing = backing, .backing_page = 2, .n_pages = 4};

        for (uint32_t i = 0; i < UINT16_MAX - 1; i++) {
                backing_share(&region, 1);
                backing_use(backing, 3);
        }
        backing_unshare(&region, 1);
        backing_unuse(backing, 3);
        assert_int_equal(backing->sites[3], UINT16_MAX - 2);
        assert_int_equal(backing->users[3], UINT16_MAX - 2);
        for (uint32_t i = 0; i < 5; i++) {
                backing_share(&region, 1);
                backing_use(backing, 3);
        }
        assert_int_equal(backing->sites[3], UINT16_MAX);
        assert_int_equal(backing->users[3], UINT16_MAX);
        assert_int_equal(backing->n_extra, UINT16_MAX - 1);
        assert_int_equal(backing->n_users, UINT16_MAX + 3);
        assert_int_equal(backing->n_canonical, 1);
        for (uint32_t i = 0; i < UINT16_MAX + 3; i++) {
                backing_unshare(&region, 1);
                backing_unuse(backing, 3);
        }
        assert_int_equal(backing->sites[3], UINT16_MAX);
        assert_int_equal(backing->users[3], UINT16_MAX);
        assert_int_equal(backing->n_extra, UINT16_MAX - 1);
        assert_int_equal(backing->n_users, 0);
        assert_int_equal(backing->n_canonical, 1);
}

/* ------------------------------------------------------------------ a file whose length changes */

static void test_measure(void **state)
{
        const struct file *file = *state;
        struct backing *backing = file->backing;
        struct region region = {.backing = backing, .backing_page = 0, .n_pages = 8 * FILE_PAGES};
        uint32_t page;

        backing_share(&region, 1);
        backing_use(backing, 2);
        backing_share(&region, FILE_PAGES); /* behind the end: it is none */
        set_size(file, pages(8 * FILE_PAGES) - 1);
        assert_int_equal(backing->n_pages, FILE_PAGES); /* until it is asked */
        assert_int_equal(backing_measure(backing), 0);
        assert_int_equal(backing->n_pages, 8 * FILE_PAGES - 1);
        assert_false(backing_page(&region, 8 * FILE_PAGES - 1, &page));
        assert_true(backing_page(&region, 8 * FILE_PAGES - 2, &page));
        for (page = 0; page < backing->n_pages; page++) {
                assert_int_equal(backing->sites[page], page == 1);
                assert_int_equal(backing->users[page], page == 2);
        }
        backing_share(&region, backing->n_pages - 1);
        backing_use(backing, backing->n_pages - 1);
        backing_unshare(&region, backing->n_pages - 1);
        backing_unuse(backing, backing->n_pages - 1);

        set_size(file, pages(2) + 1);
        assert_int_equal(backing_measure(backing), 0);
        assert_int_equal(backing->n_pages, 2);
        assert_int_equal(backing->sites[1], 1);
        set_size(file, 0);
        backing_unshare(&region, 1);
        assert_int_equal(backing_measure(backing), 0);
        assert_int_equal(backing->n_pages, 0);
        assert_false(backing_page(&region, 0, &page));
        backing_share(&region, 0);
        assert_int_equal(backing->n_extra, 0);
        /* What was behind the end is forgotten. */
        set_size(file, pages(FILE_PAGES));
        assert_int_equal(backing_measure(backing), 0);
        for (page = 0; page < FILE_PAGES; page++)
                assert_int_equal(backing->sites[page] + backing->users[page], 0);
}

static void test_measure_fails(void **state)
{
        const struct file *file = *state;
        struct backing broken = {.fd = -EBADF, .n_pages = 5};

        assert_int_equal(backing_measure(&broken), -EBADF);
        assert_int_equal(broken.n_pages, 5);
        set_size(file, pages(2 * FILE_PAGES));
        for (unsigned i = 1; i <= 2; i++) {
                fail_at = i;
                assert_int_equal(backing_measure(file->backing), -ENOMEM);
                assert_int_equal(fail_at, 0);
                assert_int_equal(file->backing->n_pages, FILE_PAGES);
        }
        assert_int_equal(backing_measure(file->backing), 0);
        for (uint32_t page = 0; page < 2 * FILE_PAGES; page++)
                assert_int_equal(file->backing->sites[page] + file->backing->users[page], 0);
}

/* A file that is shorter has no more pages than both tables, and those that it gets later count from nothing. */
static void test_shrinks_without_memory(void **state)
{
        const struct file *file = *state;
        struct backing *backing = file->backing;

        for (unsigned i = 1; i <= 2; i++) {
                set_size(file, pages(3));
                fail_at = i;
                assert_int_equal(backing_measure(backing), -ENOMEM);
                assert_int_equal(backing->n_pages, 3);
                set_size(file, pages(FILE_PAGES));
                assert_int_equal(backing_measure(backing), 0);
                assert_int_equal(backing->n_pages, FILE_PAGES);
                for (uint32_t page = 0; page < FILE_PAGES; page++)
                        assert_int_equal(backing->sites[page] + backing->users[page], 0);
        }
}

/* ------------------------------------------------------------------ at random */

#define REGIONS      7
#define REGION_PAGES 16
#define MAX_PAGES    (2 * FILE_PAGES)
#define STEPS        200000

struct naive {
        struct region regions[REGIONS];
        bool shares[REGIONS][REGION_PAGES];
        uint32_t n_users[MAX_PAGES];
};

/* The page of the file, or MAX_PAGES. */
static uint32_t naive_page(const struct naive *naive, const struct backing *backing, unsigned i,
                           uint32_t page)
{
        uint32_t file_page = naive->regions[i].backing_page + page;

        return naive->regions[i].backing && file_page < backing->n_pages ? file_page : MAX_PAGES;
}

static void naive_check(const struct naive *naive, const struct backing *backing)
{
        uint64_t n_extra = 0, n_replaced = 0, n_users = 0, n_canonical = 0;

        for (uint32_t file_page = 0; file_page < backing->n_pages; file_page++) {
                uint32_t sites = 0;

                for (unsigned i = 0; i < REGIONS; i++)
                        for (uint32_t page = 0; page < REGION_PAGES; page++)
                                sites += naive->shares[i][page] &&
                                         naive_page(naive, backing, i, page) == file_page;
                n_extra += sites ? sites - 1 : 0;
                n_replaced += sites > 0;
                n_users += naive->n_users[file_page];
                n_canonical += naive->n_users[file_page] > 0;
                assert_int_equal(backing->sites[file_page], sites);
                assert_int_equal(backing->users[file_page], naive->n_users[file_page]);
        }
        assert_int_equal(backing->n_extra, n_extra);
        assert_int_equal(backing->n_replaced, n_replaced);
        assert_int_equal(backing->n_users, n_users);
        assert_int_equal(backing->n_canonical, n_canonical);
}

static void set_share(struct naive *naive, const struct backing *backing, unsigned i, uint32_t page,
                      bool share)
{
        if (share == naive->shares[i][page])
                return;
        if (share)
                backing_share(&naive->regions[i], page);
        else
                backing_unshare(&naive->regions[i], page);
        naive->shares[i][page] = share && naive_page(naive, backing, i, page) < MAX_PAGES;
}

static void join_or_leave(struct naive *naive, struct backing *backing, unsigned i, struct random *random)
{
        if (!naive->regions[i].backing) {
                naive->regions[i] = (struct region){.n_pages = REGION_PAGES};
                backing_join(backing, &naive->regions[i], (uint32_t)random_below(random, MAX_PAGES));
                return;
        }
        for (uint32_t page = 0; page < REGION_PAGES; page++)
                set_share(naive, backing, i, page, false);
        backing_leave(&naive->regions[i]);
}

/* Nothing is shared or used behind the new end, as when a file was open for writing. */
static void change_size(struct naive *naive, const struct file *file, uint32_t n_pages)
{
        for (unsigned i = 0; i < REGIONS; i++)
                for (uint32_t page = 0; page < REGION_PAGES; page++)
                        if (naive_page(naive, file->backing, i, page) >= n_pages)
                                set_share(naive, file->backing, i, page, false);
        for (uint32_t page = n_pages; page < MAX_PAGES; page++)
                for (; naive->n_users[page]; naive->n_users[page]--)
                        backing_unuse(file->backing, page);
        set_size(file, pages(n_pages));
        assert_int_equal(backing_measure(file->backing), 0);
        assert_int_equal(file->backing->n_pages, n_pages);
}

static void test_random(void **state)
{
        const struct file *file = *state;
        struct backing *backing = file->backing;
        struct random random = {.state = 815};
        struct naive naive = {0};

        for (unsigned step = 0; step < STEPS; step++) {
                unsigned i = (unsigned)random_below(&random, REGIONS);
                uint32_t page = (uint32_t)random_below(&random, REGION_PAGES),
                         file_page = (uint32_t)random_below(&random, MAX_PAGES);

                switch (random_below(&random, 512)) {
                case 0:
                        change_size(&naive, file, (uint32_t)random_below(&random, MAX_PAGES + 1));
                        break;
                case 1 ... 8:
                        join_or_leave(&naive, backing, i, &random);
                        break;
                case 9 ... 20:
                        naive_check(&naive, backing);
                        break;
                case 21 ... 130:
                        if (file_page < backing->n_pages) {
                                backing_use(backing, file_page);
                                naive.n_users[file_page]++;
                        }
                        break;
                case 131 ... 250:
                        if (naive.n_users[file_page]) {
                                backing_unuse(backing, file_page);
                                naive.n_users[file_page]--;
                        }
                        break;
                default:
                        set_share(&naive, backing, i, page, random_below(&random, 2));
                }
        }
        for (unsigned i = 0; i < REGIONS; i++)
                if (naive.regions[i].backing)
                        join_or_leave(&naive, backing, i, &random);
        change_size(&naive, file, 0);
        naive_check(&naive, backing);
        assert_false(backing_in_use(backing));
}

#define TEST(_name) cmocka_unit_test_setup_teardown(_name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(test_new),
                TEST(test_sizes),
                TEST(test_frees_lease),
                TEST(test_new_without_memory),
                TEST(test_join),
                TEST(test_page),
                TEST(test_region_page),
                TEST(test_same),
                TEST(test_readable),
                TEST(test_in_use),
                TEST(test_measure),
                TEST(test_counts_at_their_end),
                TEST(test_random),
                TEST(test_measure_fails),
                TEST(test_shrinks_without_memory),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
