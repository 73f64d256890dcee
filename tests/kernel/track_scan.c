/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What was written since the last look is known exactly, without a fault that anybody must serve
 *
 * Fact: in memory registered with a WP_ASYNC context, pagemap_protect() makes populated pages clean; a page
 * written afterwards, by instructions or by the kernel, and a page populated by a write afterwards, are listed
 * by pagemap_survey(), and no others: no clean page, none that is not populated, with a protection marker or
 * without, and not the kernel's zero page. No messages arise. A page that was never protected is listed,
 * registered or not. Unpopulated memory gets no protection markers (they would cost page tables). Memory that
 * is not registered is refused with EPERM. In a private mapping of the pool pagemap_survey_copied() lists the
 * pages that have been copied, clean ones too, and never a page of the pool's; of a shared mapping it lists
 * nothing. pagemap_survey_empty() lists what is not there at all, and not what has a marker, pagemap_survey_zero() the
 * kernel's zero page.
 *
 * Source: Documentation/admin-guide/mm/pagemap.rst "Pagemap Scan IOCTL"; fs/proc/task_mmu.c,
 * pagemap_scan_pmd_entry() (its short cut for WP_MATCHING without a vector ignores the categories and does
 * leave markers).
 *
 * Relied on by: daemon/kernel/pagemap.h, daemon/dedup/scan, daemon/dedup/policy, the reconciliation of copied
 * pages.
 *
 * Without it: written pages taken for settled ones, and zero pages and holes read for nothing.
 */

#include "fact.h"

#include <sys/mman.h>
#include <unistd.h>

#define N_PAGES     16
#define N_POPULATED 8
#define ZERO_PAGE   8    /* read only, not written before the first look */
#define NEW_PAGE    12   /* written only after the first look */
#define READ_PAGE   14   /* read only, and only after the first look */
#define N_SCATTERED 1024 /* populated pages, each with a hole after it: more runs than one call protects */

typedef int (*survey_function)(int pagemap_fd, uint64_t start, uint64_t end, struct page_region *runs,
                               size_t n_runs, uint64_t *ret_walked);

static int pagemap;

static void protect(const char *pages, size_t n_pages)
{
        FACT_VALUE(pagemap_protect(pagemap, (uintptr_t)pages, (uintptr_t)pages + n_pages * PAGE_BYTES), 0);
}

/* Of N_PAGES pages these are listed, and no others; neighbours in one run. */
static void check_listed(int line, const char *what, survey_function survey, const char *pages,
                         const bool *expected)
{
        struct page_region runs[N_PAGES];
        uint64_t walked, end = (uintptr_t)pages + N_PAGES * PAGE_BYTES;
        long n_runs = FACT_OK(survey(pagemap, (uintptr_t)pages, end, runs, N_PAGES, &walked)), run = 0;

        FACT_CHECK(walked == end, "line %d: walked up to %#llx only", line, (unsigned long long)walked);
        for (size_t i = 0, first; i < N_PAGES; i++) {
                if (!expected[i])
                        continue;
                for (first = i; i + 1 < N_PAGES && expected[i + 1]; i++)
                        ;
                FACT_CHECK(run < n_runs, "line %d: page %zu is not %s", line, first, what);
                FACT_CHECK(runs[run].start == (uintptr_t)pages + first * PAGE_BYTES &&
                                   runs[run].end == (uintptr_t)pages + (i + 1) * PAGE_BYTES,
                           "line %d: %s are pages [%lld, %lld) instead of [%zu, %zu)", line, what,
                           (long long)(runs[run].start - (uintptr_t)pages) / (long long)PAGE_BYTES,
                           (long long)(runs[run].end - (uintptr_t)pages) / (long long)PAGE_BYTES, first,
                           i + 1);
                run++;
        }
        FACT_CHECK(run == n_runs, "line %d: %ld runs are %s instead of %ld", line, n_runs, what, run);
}

/* The pages that are listed are these: designated initializers of an array of N_PAGES flags. */
#define WRITTEN(_pages, ...)                                                                                 \
        check_listed(__LINE__, "written", pagemap_survey, (_pages), (const bool[N_PAGES]){__VA_ARGS__})
#define COPIED(_pages, ...)                                                                                  \
        check_listed(__LINE__, "copied", pagemap_survey_copied, (_pages), (const bool[N_PAGES]){__VA_ARGS__})

#define EMPTY(_pages, ...)                                                                                   \
        check_listed(__LINE__, "empty", pagemap_survey_empty, (_pages), (const bool[N_PAGES]){__VA_ARGS__})
#define ZERO(_pages, ...)                                                                                    \
        check_listed(__LINE__, "zero", pagemap_survey_zero, (_pages), (const bool[N_PAGES]){__VA_ARGS__})

/* No page has a marker that is not populated; `first` and those after it are not. */
static void check_no_markers(const char *pages, size_t first)
{
        for (size_t i = first; i < N_PAGES; i++)
                FACT_CHECK(!fact_entry(pagemap, pages + i * PAGE_BYTES), "page %zu has the entry %#llx", i,
                           (unsigned long long)fact_entry(pagemap, pages + i * PAGE_BYTES));
}

static void read_zero(const char *page)
{
        FACT_CHECK(*(const volatile char *)page == 0, "not zero");
        FACT_CHECK(fact_entry(pagemap, page), "the zero page is not there");
}

/* What was written and what was not, told apart again and again. */
static void check_rounds(int track, char *pages)
{
        int pipe_fds[2];

        FACT_OK(error_from(pipe(pipe_fds)));
        pages[3 * PAGE_BYTES + 1] = 1;
        FACT_CHECK(write(pipe_fds[1], "x", 1) == 1, "%m");
        FACT_CHECK(read(pipe_fds[0], pages + 5 * PAGE_BYTES, 1) == 1, "%m");
        pages[ZERO_PAGE * PAGE_BYTES] = 1;
        pages[NEW_PAGE * PAGE_BYTES] = 1;
        read_zero(pages + READ_PAGE * PAGE_BYTES);
        WRITTEN(pages, [3] = true, [5] = true, [ZERO_PAGE] = true, [NEW_PAGE] = true);
        /* The look changed nothing. */
        WRITTEN(pages, [3] = true, [5] = true, [ZERO_PAGE] = true, [NEW_PAGE] = true);
        protect(pages, 5);
        WRITTEN(pages, [5] = true, [ZERO_PAGE] = true, [NEW_PAGE] = true);
        protect(pages, N_PAGES);
        WRITTEN(pages, 0);
        FACT_CHECK(fact_populated(pagemap, pages, N_PAGES, 0) == N_POPULATED + 2, "%zu pages",
                   fact_populated(pagemap, pages, N_PAGES, 0));

        pages[3 * PAGE_BYTES + 1] = 2;
        pages[READ_PAGE * PAGE_BYTES] = 1;
        WRITTEN(pages, [3] = true, [READ_PAGE] = true);
        /* A discarded page is not there, whether it was clean or written, until it is written again. */
        FACT_OK(error_from(madvise(pages + 2 * PAGE_BYTES, 2 * PAGE_BYTES, MADV_DONTNEED)));
        WRITTEN(pages, [READ_PAGE] = true);
        pages[2 * PAGE_BYTES] = 1;
        WRITTEN(pages, [2] = true, [READ_PAGE] = true);
        FACT_CHECK(fact_quiet(track), "a message on the asynchronous context");
        close(pipe_fds[0]);
        close(pipe_fds[1]);
}

static void check_anonymous(int device)
{
        int track = fact_context(device, TRACK_FEATURES);
        char *pages = fact_map(N_PAGES);

        fact_fill(pages, N_POPULATED, 1);
        read_zero(pages + ZERO_PAGE * PAGE_BYTES);
        WRITTEN(pages, true, true, true, true, true, true, true, true);
        ZERO(pages, [ZERO_PAGE] = true);
        EMPTY(pages, [9] = true, true, true, true, true, true, true);
        FACT_ERROR(pagemap_protect(pagemap, (uintptr_t)pages, (uintptr_t)pages + PAGE_BYTES), EPERM);
        FACT_OK(uffd_register(track, (uintptr_t)pages, N_PAGES * PAGE_BYTES, UFFDIO_REGISTER_MODE_WP));
        WRITTEN(pages, true, true, true, true, true, true, true, true);

        protect(pages, N_PAGES);
        FACT_CHECK(fact_populated(pagemap, pages, N_PAGES, 0) == N_POPULATED, "%zu pages",
                   fact_populated(pagemap, pages, N_PAGES, 0));
        WRITTEN(pages, 0);
        check_no_markers(pages, ZERO_PAGE + 1);
        check_rounds(track, pages);
        fd_close(track);
}

/* UFFDIO_WRITEPROTECT does leave markers: they are seen by check_no_markers(), and not listed. */
static void check_markers(int device)
{
        int track = fact_context(device, TRACK_FEATURES);
        char *pages = fact_map(N_PAGES);

        fact_fill(pages, 1, 1);
        FACT_OK(uffd_register(track, (uintptr_t)pages, N_PAGES * PAGE_BYTES, UFFDIO_REGISTER_MODE_WP));
        check_no_markers(pages, 1);
        FACT_OK(uffd_write_protect(track, (uintptr_t)pages, N_PAGES * PAGE_BYTES, true));
        FACT_CHECK(fact_entry(pagemap, pages + (N_PAGES - 1) * PAGE_BYTES), "no marker");
        EMPTY(pages, 0);
        WRITTEN(pages, 0);
        COPIED(pages, true);
        pages[4 * PAGE_BYTES] = 1;
        WRITTEN(pages, [4] = true);
        COPIED(pages, true, [4] = true);
        fd_close(track);
}

/* One page in the range that is not registered is enough. */
static void check_refused(int device)
{
        int track = fact_context(device, TRACK_FEATURES);
        char *pages = fact_map(N_PAGES);
        uint64_t start = (uintptr_t)pages, end = start + N_PAGES * PAGE_BYTES;

        fact_fill(pages, N_PAGES, 1);
        FACT_OK(uffd_register(track, start, (N_PAGES - 1) * PAGE_BYTES, UFFDIO_REGISTER_MODE_WP));
        FACT_ERROR(pagemap_protect(pagemap, start, end), EPERM);
        protect(pages, N_PAGES - 1);
        WRITTEN(pages, [N_PAGES - 1] = true);
        fd_close(track);
}

/* More runs than the kernel is given a place for: all of them are protected all the same, and only they. */
static void check_scattered(int device)
{
        int track = fact_context(device, TRACK_FEATURES);
        char *pages = fact_map(2 * N_SCATTERED);

        for (size_t i = 0; i < N_SCATTERED; i++)
                pages[2 * i * PAGE_BYTES] = 1;
        FACT_OK(uffd_register(track, (uintptr_t)pages, 2 * N_SCATTERED * PAGE_BYTES,
                              UFFDIO_REGISTER_MODE_WP));
        FACT_CHECK(fact_written(pagemap, pages, 2 * N_SCATTERED) == N_SCATTERED, "%zu pages",
                   fact_written(pagemap, pages, 2 * N_SCATTERED));
        protect(pages + 2 * PAGE_BYTES, 2 * N_SCATTERED - 4);
        FACT_CHECK(fact_written(pagemap, pages, 2 * N_SCATTERED) == 2, "%zu pages",
                   fact_written(pagemap, pages, 2 * N_SCATTERED));
        FACT_CHECK(fact_written(pagemap, pages, 1) == 1, "a page before the range became clean");
        FACT_CHECK(fact_copied(pagemap, pages, 2 * N_SCATTERED) == N_SCATTERED, "%zu pages",
                   fact_copied(pagemap, pages, 2 * N_SCATTERED));
        for (size_t i = 0; i < N_SCATTERED; i++)
                FACT_CHECK(!fact_entry(pagemap, pages + (2 * i + 1) * PAGE_BYTES), "a marker in page %zu",
                           2 * i + 1);
        fd_close(track);
}

/* A survey with a short array ends early and says where; from there it goes on. */
static void check_continuation(survey_function survey)
{
        char *pages = fact_map(N_PAGES);
        uint64_t start = (uintptr_t)pages, end = start + N_PAGES * PAGE_BYTES, walked;
        struct page_region runs[2];

        for (size_t i = 0; i < N_PAGES; i += 2)
                pages[i * PAGE_BYTES] = 1;
        for (size_t i = 0; i < N_PAGES; i += 4) {
                FACT_VALUE(survey(pagemap, start, end, runs, 2, &walked), 2);
                for (size_t run = 0; run < 2; run++)
                        FACT_CHECK(runs[run].start == (uintptr_t)pages + (i + 2 * run) * PAGE_BYTES &&
                                           runs[run].end == runs[run].start + PAGE_BYTES,
                                   "a run from %#llx to %#llx", (unsigned long long)runs[run].start,
                                   (unsigned long long)runs[run].end);
                FACT_CHECK(walked >= runs[1].end && walked <= runs[1].end + PAGE_BYTES,
                           "walked up to page %zu", (size_t)((walked - (uintptr_t)pages) / PAGE_BYTES));
                start = walked;
        }
        FACT_VALUE(start < end ? survey(pagemap, start, end, runs, 2, &walked) : 0, 0);
}

static void check_pool(int device)
{
        int track = fact_context(device, TRACK_FEATURES);
        struct fact_pool pool;
        char *pages;

        fact_pool(&pool, N_PAGES, 1);
        pages = fact_map_pool(&pool, 0, N_PAGES);
        FACT_CHECK(fact_populated(pagemap, pages, N_PAGES, PAGE_IS_FILE) == N_PAGES, "%zu pages",
                   fact_populated(pagemap, pages, N_PAGES, PAGE_IS_FILE));
        FACT_CHECK(fact_written(pagemap, pages, N_PAGES) == N_PAGES,
                   "%zu pages that were never protected are listed", fact_written(pagemap, pages, N_PAGES));
        COPIED(pages, 0);
        pages[5 * PAGE_BYTES]++;
        COPIED(pages, [5] = true);
        FACT_CHECK(fact_populated(pagemap, pages, N_PAGES, 0) == N_PAGES, "%zu pages",
                   fact_populated(pagemap, pages, N_PAGES, 0));
        FACT_CHECK(fact_populated(pagemap, pages, N_PAGES, PAGE_IS_FILE) == N_PAGES - 1, "%zu pages",
                   fact_populated(pagemap, pages, N_PAGES, PAGE_IS_FILE));
        FACT_CHECK(!fact_populated(pagemap, pages + 5 * PAGE_BYTES, 1, PAGE_IS_FILE),
                   "the copy is still FILE");

        /* Whether a page was copied and whether it is clean are two things. */
        FACT_OK(uffd_register(track, (uintptr_t)pages, N_PAGES * PAGE_BYTES, UFFDIO_REGISTER_MODE_WP));
        protect(pages, N_PAGES);
        WRITTEN(pages, 0);
        COPIED(pages, [5] = true);
        pages[7 * PAGE_BYTES]++;
        WRITTEN(pages, [7] = true);
        COPIED(pages, [5] = true, [7] = true);
        /* What is discarded is neither, whether it was a copy or the pool's page. */
        FACT_OK(error_from(madvise(pages + 7 * PAGE_BYTES, 2 * PAGE_BYTES, MADV_DONTNEED)));
        WRITTEN(pages, 0);
        COPIED(pages, [5] = true);
        /* Nothing is left of the copy, but a marker where a protected page was. */
        EMPTY(pages, [7] = true);
        FACT_CHECK(fact_entry(pagemap, pages + 8 * PAGE_BYTES), "no marker");
        FACT_CHECK(fact_quiet(track), "a message on the asynchronous context");
        fd_close(track);
}

/* What is written through a shared mapping is the file's page, not a copy. */
static void check_shared(void)
{
        struct fact_pool pool;
        char *pages;

        fact_pool(&pool, N_PAGES, 1);
        pages = mmap(NULL, N_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, pool.writable, 0);
        FACT_CHECK(pages != MAP_FAILED, "%m");
        pages[5 * PAGE_BYTES]++;
        FACT_CHECK(fact_written(pagemap, pages + 5 * PAGE_BYTES, 1) == 1, "the written page is not listed");
        COPIED(pages, 0);
}

int main(void)
{
        int device;

        fact_begin();
        device = fact_device();
        pagemap = fact_pagemap();
        check_anonymous(device);
        check_markers(device);
        check_refused(device);
        check_scattered(device);
        check_continuation(pagemap_survey);
        check_continuation(pagemap_survey_copied);
        check_pool(device);
        check_shared();
        return 0;
}
