/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A merged page that its program discards reads as zeros, as private anonymous memory would
 *
 * Fact: touching a page of a registered private pool mapping after MADV_DONTNEED is a MINOR fault, whether
 * the page was still the pool's or a copy, and whether an instruction or a system call touches it;
 * UFFDIO_COPY of zeros answers it, and the page counts as copied from then on. A page that is mapped never
 * causes a MINOR fault by itself. An answer for a page that is there, or for one whose mapping is gone or
 * another one, changes nothing but wakes whoever waits; hold_answer_minor() tells the two apart.
 *
 * Source: Documentation/admin-guide/mm/userfaultfd.rst "Resolving Userfaults"; mm/shmem.c,
 * shmem_get_folio_gfp() (userfaultfd_minor() when the page is in the cache, private mappings included).
 *
 * Relied on by: daemon/kernel/hold.h, whose answer to every MINOR fault is zeros; daemon/fault,
 * libwp/watcher.c.
 *
 * Without it: a program that discards memory (a garbage collector, malloc_trim) reads old data.
 */

#include "fact.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define N_PAGES 8
#define WP      (UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE)

static struct fact_pool pool;
static int hold, pagemap;

static void discard(char *page)
{
        FACT_OK(error_from(madvise(page, PAGE_BYTES, MADV_DONTNEED)));
        FACT_CHECK(!fact_written(pagemap, page, 1) && !fact_copied(pagemap, page, 1),
                   "the discarded page is listed");
}

static void check_read(char *page)
{
        struct fact_access reader;

        discard(page);
        fact_access_start(&reader, page + 77, false, 0);
        fact_fault(hold, page, UFFD_PAGEFAULT_FLAG_MINOR);
        fact_pause();
        FACT_CHECK(!atomic_load(&reader.done), "the reader was not held");
        FACT_VALUE(hold_answer_minor(hold, (uintptr_t)page + 77, false), 1);
        fact_access_join(&reader);
        FACT_CHECK(reader.value == 0 && fact_zero(page, 1), "not zeros");
        FACT_CHECK(fact_copied(pagemap, page, 1) == 1, "the page of zeros is not listed as copied");
        page[3] = 1;
        FACT_CHECK(fact_quiet(hold), "a write after the answer caused a fault");
        FACT_VALUE(hold_answer_minor(hold, (uintptr_t)page, false), 0);
        FACT_CHECK(page[3] == 1, "a second answer destroyed what was written");
}

/* The page of zeros is to be protected: whoever writes to it waits again. */
static void check_protected(char *page)
{
        struct fact_access writer;

        discard(page);
        fact_access_start(&writer, page + 77, true, 5);
        fact_fault(hold, page, UFFD_PAGEFAULT_FLAG_MINOR | UFFD_PAGEFAULT_FLAG_WRITE);
        FACT_VALUE(hold_answer_minor(hold, (uintptr_t)page, true), 1);
        fact_fault(hold, page, UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE);
        fact_pause();
        FACT_CHECK(!atomic_load(&writer.done) && fact_zero(page, 1), "it was written");
        FACT_OK(hold_answer_write(hold, (uintptr_t)page));
        fact_access_join(&writer);
        FACT_CHECK(page[77] == 5, "the write is lost");
}

static void check_write(char *page)
{
        struct fact_access writer;

        discard(page);
        fact_access_start(&writer, page + 77, true, 9);
        fact_fault(hold, page, UFFD_PAGEFAULT_FLAG_MINOR | UFFD_PAGEFAULT_FLAG_WRITE);
        FACT_VALUE(hold_answer_minor(hold, (uintptr_t)page + 77, false), 1);
        fact_access_join(&writer);
        FACT_CHECK(page[77] == 9, "the write was lost");
        page[77] = 0;
        FACT_CHECK(fact_zero(page, 1), "not zeros");
}

/* The page was copied before; what the copy covered must not come back either. */
static void check_copied(char *page)
{
        struct fact_access writer;

        fact_access_start(&writer, page, true, 1);
        fact_fault(hold, page, WP);
        FACT_VALUE(hold_answer_write(hold, (uintptr_t)page), 0);
        fact_access_join(&writer);
        FACT_CHECK(fact_copied(pagemap, page, 1) == 1, "the copy is not listed as copied");
        check_read(page);
}

static void *write_pipe(void *page)
{
        int fds[2];
        char byte = 1;

        FACT_OK(error_from(pipe(fds)));
        FACT_CHECK(write(fds[1], page, 1) == 1, "%m");
        FACT_CHECK(read(fds[0], &byte, 1) == 1, "%m");
        close(fds[0]);
        close(fds[1]);
        return byte == 0 ? NULL : page;
}

static void check_system_call(char *page)
{
        pthread_t thread;
        void *wrong;

        discard(page);
        FACT_OK(-pthread_create(&thread, NULL, write_pipe, page));
        fact_fault(hold, page, UFFD_PAGEFAULT_FLAG_MINOR);
        FACT_VALUE(hold_answer_minor(hold, (uintptr_t)page, false), 1);
        FACT_OK(-pthread_join(thread, &wrong));
        FACT_CHECK(!wrong, "the system call read other bytes than zeros");
}

/* Nobody discarded the page. */
static void check_mapped(char *page)
{
        FACT_VALUE(hold_answer_minor(hold, (uintptr_t)page, false), 0);
        FACT_CHECK(!fact_copied(pagemap, page, 1) && !fact_written(pagemap, page, 1),
                   "the answer changed a page that was there");
}

/* While the reader waits its page becomes another mapping's; then that one goes too. */
static void check_replaced(char *page)
{
        struct fact_access reader;
        char *other = fact_map(1);

        *other = 9;
        discard(page);
        fact_access_start(&reader, page, false, 0);
        fact_fault(hold, page, UFFD_PAGEFAULT_FLAG_MINOR);
        FACT_CHECK(mremap(other, PAGE_BYTES, PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, page) == page, "%m");
        FACT_VALUE(hold_answer_minor(hold, (uintptr_t)page, false), 0);
        fact_access_join(&reader);
        FACT_CHECK(reader.value == 9 && *page == 9, "the answer went into another mapping");
        FACT_OK(error_from(munmap(page, PAGE_BYTES)));
        FACT_VALUE(hold_answer_minor(hold, (uintptr_t)page, false), 0);
}

int main(void)
{
        int device;
        char *pages, *others;

        fact_begin();
        device = fact_device();
        pagemap = fact_pagemap();
        hold = fact_context(device, HOLD_FEATURES);
        fact_pool(&pool, N_PAGES, 1);
        pages = fact_map_merged(hold, &pool, 0, N_PAGES);
        others = fact_map_merged(hold, &pool, 0, N_PAGES);
        fact_step("reading mapped pages");
        FACT_CHECK(fact_filled(pages, N_PAGES, 1), "other content than the pool's");
        FACT_CHECK(fact_quiet(hold), "reading mapped pages caused a fault");
        fact_step("reading a discarded page");
        check_read(pages);
        fact_step("writing a discarded page");
        check_write(pages + PAGE_BYTES);
        fact_step("a discarded page that is to be protected");
        check_protected(pages + PAGE_BYTES);
        fact_step("discarding a copy");
        check_copied(pages + 2 * PAGE_BYTES);
        fact_step("a system call reads a discarded page");
        check_system_call(pages + 3 * PAGE_BYTES);
        fact_step("answering without a fault");
        check_mapped(pages + 4 * PAGE_BYTES);
        FACT_CHECK(fact_filled(others, N_PAGES, 1) &&
                           !memcmp(pages + 4 * PAGE_BYTES, others + 4 * PAGE_BYTES, 4 * PAGE_BYTES),
                   "other content than the pool's");
        fact_step("answering after the mapping has been replaced");
        check_replaced(pages + 5 * PAGE_BYTES);
        FACT_CHECK(fact_filled(others, N_PAGES, 1), "another mapping changed");
        FACT_CHECK(fact_pool_intact(&pool, 1), "the pool changed");
        return 0;
}
