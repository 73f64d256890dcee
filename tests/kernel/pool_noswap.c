/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Reclaim does not unmap the pool
 *
 * Fact: pages of a tmpfs with noswap are unevictable: even MADV_PAGEOUT leaves the page-table entries of a
 * mapping in place, whereas those of a memfd go, with or without swap space.
 *
 * Source: Documentation/filesystems/tmpfs.rst "noswap"; mm/shmem.c (mapping_set_unevictable()); mm/vmscan.c,
 * shrink_folio_list(); trap T6.
 *
 * Relied on by: daemon/kernel/hold.h (an empty entry means that the program discarded the page),
 * daemon/kernel/poolfile.h.
 *
 * Without it: under memory pressure merged memory turns into zeros.
 */

#include "fact.h"

#include <sys/mman.h>
#include <unistd.h>

#define N_PAGES 64

/* A mapping of the same file, made by MADV_PAGEOUT to be reclaimed; returns how many pages are still mapped.
 */
static size_t page_out(int pagemap, char *pages)
{
        FACT_CHECK(fact_populated(pagemap, pages, N_PAGES, PAGE_IS_FILE) == N_PAGES, "%zu pages mapped",
                   fact_populated(pagemap, pages, N_PAGES, PAGE_IS_FILE));
        FACT_OK(error_from(madvise(pages, N_PAGES * PAGE_BYTES, MADV_PAGEOUT)));
        return fact_populated(pagemap, pages, N_PAGES, PAGE_IS_FILE);
}

int main(void)
{
        _cleanup_fd_ int memfd = -EBADF;
        struct fact_pool pool, control = {.n_pages = N_PAGES};
        size_t n;
        int pagemap;

        fact_begin();
        pagemap = fact_pagemap();
        fact_pool(&pool, N_PAGES, 1);
        n = page_out(pagemap, fact_map_pool(&pool, 0, N_PAGES));
        FACT_CHECK(n == N_PAGES, "%zu of %d pages are left", n, N_PAGES);

        memfd = (int)FACT_OK(error_from(memfd_create("control", MFD_CLOEXEC)));
        for (size_t i = 0; i < N_PAGES; i++)
                FACT_OK(poolfile_write(memfd, i * PAGE_BYTES, "x", 1));
        FACT_OK(error_from(ftruncate(memfd, N_PAGES * PAGE_BYTES)));
        control.readonly = memfd;
        n = page_out(pagemap, fact_map_pool(&control, 0, N_PAGES));
        if (n == N_PAGES)
                fact_skip("MADV_PAGEOUT unmaps nothing here, so that this program can find out nothing");
        return 0;
}
