/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Migration of the pool's pages is invisible
 *
 * Fact: when the kernel moves pages of the pool to other physical places (compaction), readers of merged
 * memory see the right content all the time, every page stays mapped, and no page becomes writable.
 *
 * Source: mm/migrate.c, remove_migration_ptes() (restores the userfaultfd protection).
 *
 * Relied on by: daemon/kernel/hold.h (an empty entry means that the program discarded the page).
 *
 * Without it: pages must be locked in place.
 */

#include "fact.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define N_PAGES 4096 /* of the file; every other one is used, to give compaction something to do */
#define N_USED  (N_PAGES / 2)

static char *pages, *expected;
static atomic_bool stop;

static void *reader_run(void *unused)
{
        size_t n = 0;

        (void)unused;
        while (!atomic_load(&stop)) {
                size_t at = n++ * 7919 % N_USED * PAGE_BYTES + 256;

                FACT_CHECK(*(volatile char *)(pages + at) == expected[at], "other content in page %zu",
                           at / PAGE_BYTES);
        }
        return NULL;
}

/* The physical page; 0 for processes that may not know. */
static uint64_t frame(int pagemap, const char *page)
{
        return fact_entry(pagemap, page) & ((UINT64_C(1) << 55) - 1);
}

static void compact(void)
{
        _cleanup_fd_ int fd = (int)error_from(open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC));

        if (fd < 0)
                fact_skip("/proc/sys/vm/compact_memory: %s", strerror(-fd));
        FACT_OK(error_from(write(fd, "1", 1)));
}

/* As merging does with scattered slots, which also keeps the kernel from moving them as a block. */
static void map_even_pages(const struct fact_pool *pool, int hold)
{
        pages = fact_map(N_USED);
        expected = fact_map(N_USED);
        /* Populated first: otherwise these pages would fill the gaps that are made below, as they are made. */
        FACT_OK(error_from(madvise(expected, N_USED * PAGE_BYTES, MADV_POPULATE_WRITE)));
        for (size_t i = 0; i < N_USED; i++) {
                char *at = pages + i * PAGE_BYTES;
                off_t offset = (off_t)(2 * i * PAGE_BYTES);

                FACT_CHECK(mmap(at, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
                                pool->readonly, offset) == at,
                           "%m");
                FACT_CHECK(pread(pool->readonly, expected + i * PAGE_BYTES, PAGE_BYTES, offset) ==
                                   (ssize_t)PAGE_BYTES,
                           "%m");
                FACT_OK(poolfile_discard(pool->writable, (uint64_t)offset + PAGE_BYTES, PAGE_BYTES));
        }
        FACT_OK(error_from(madvise(pages, N_USED * PAGE_BYTES, MADV_POPULATE_READ)));
        FACT_OK(uffd_register(hold, (uintptr_t)pages, N_USED * PAGE_BYTES,
                              UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MINOR));
        FACT_OK(uffd_write_protect(hold, (uintptr_t)pages, N_USED * PAGE_BYTES, true));
}

int main(void)
{
        static uint64_t frames[N_USED];
        struct fact_access writer;
        struct fact_pool pool;
        int device, hold, pagemap;
        size_t n_moved = 0, moved = 0;
        pthread_t reader;

        fact_begin();
        device = fact_device();
        pagemap = fact_pagemap();
        hold = fact_context(device, HOLD_FEATURES);
        fact_pool(&pool, N_PAGES, 1);
        map_even_pages(&pool, hold);
        for (size_t i = 0; i < N_USED; i++)
                frames[i] = frame(pagemap, pages + i * PAGE_BYTES);
        fact_step("compaction under a reader");
        FACT_OK(-pthread_create(&reader, NULL, reader_run, NULL));
        compact();
        atomic_store(&stop, true);
        FACT_OK(-pthread_join(reader, NULL));
        FACT_CHECK(fact_populated(pagemap, pages, N_USED, PAGE_IS_FILE) == N_USED,
                   "%zu of %d pages are mapped", fact_populated(pagemap, pages, N_USED, PAGE_IS_FILE),
                   N_USED);
        FACT_CHECK(fact_written(pagemap, pages, N_USED) == 0, "%zu pages lost their protection",
                   fact_written(pagemap, pages, N_USED));
        FACT_CHECK(!memcmp(pages, expected, N_USED * PAGE_BYTES), "other content");
        FACT_CHECK(fact_quiet(hold), "a message although nothing was written");
        for (size_t i = 0; i < N_USED; i++)
                if (frame(pagemap, pages + i * PAGE_BYTES) != frames[i]) {
                        moved = i;
                        n_moved++;
                }
        if (!n_moved)
                fact_skip("compaction moved none of the pages");
        fact_step("writing a page that was moved");
        fact_access_start(&writer, pages + moved * PAGE_BYTES, true, 1);
        fact_fault(hold, pages + moved * PAGE_BYTES, UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE);
        FACT_OK(hold_answer_write(hold, (uintptr_t)pages + moved * PAGE_BYTES));
        fact_access_join(&writer);
        return 0;
}
