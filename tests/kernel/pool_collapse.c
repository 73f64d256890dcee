/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A client can take the pool out of other clients' page tables with MADV_COLLAPSE, unless a page is pinned
 *
 * Fact: MADV_COLLAPSE on a mapping of the pool, which any process that can read the pool file may use,
 * replaces 2 MiB of it by a huge page, in spite of huge=never, and in doing so empties the page-table
 * entries of *every* process that maps them, registered with hold or not: their next access is a MINOR
 * fault, whose answer is zeros. One pinned page in each aligned 2 MiB of the file (an io_uring fixed buffer
 * on a mapping of the daemon's) makes it fail before anything is unmapped.
 *
 * Source: mm/khugepaged.c, hpage_collapse_scan_file() (reference counts are looked at first),
 * collapse_file() (try_to_unmap()); mm/shmem.c, shmem_huge_global_enabled() (MADV_COLLAPSE overrides
 * everything but "deny").
 *
 * Relied on by: daemon/kernel/hold.h (an empty entry means that the program discarded the page), the pool.
 *
 * Without it: one client of a domain turns all merged memory of the others into zeros.
 */

#include "fact.h"

#include <liburing.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define HUGE_BYTES ((size_t)2 << 20)
#define N_PAGES    (HUGE_BYTES / PAGE_BYTES)

/* A private mapping of the whole pool at an address where a huge page can be. */
static char *map_aligned(const struct fact_pool *pool)
{
        char *space = mmap(NULL, 2 * HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *pages;

        FACT_CHECK(space != MAP_FAILED, "%m");
        pages = space + (HUGE_BYTES - (uintptr_t)space % HUGE_BYTES) % HUGE_BYTES;
        FACT_CHECK(mmap(pages, HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, pool->readonly,
                        0) == pages,
                   "%m");
        FACT_OK(error_from(madvise(pages, HUGE_BYTES, MADV_POPULATE_READ)));
        return pages;
}

/* What the client does, as a process of its own. Its report is 0 or the errno of MADV_COLLAPSE. */
static void client(int socket, void *context)
{
        char *pages = map_aligned(context);

        fact_send(socket, (uint64_t)-error_from(madvise(pages, HUGE_BYTES, MADV_COLLAPSE)), -EBADF);
}

static int collapse(struct fact_pool *pool)
{
        struct fact_client process;
        uint64_t error;

        fact_client_start(&process, FACT_NOBODY, client, pool);
        error = fact_receive(process.socket, NULL);
        fact_client_join(&process);
        return (int)error;
}

int main(void)
{
        struct fact_pool pool;
        struct io_uring ring;
        struct iovec pin = {.iov_len = PAGE_BYTES};
        char *merged;
        int device, hold, pagemap, error, r = io_uring_queue_init(4, &ring, 0);

        fact_begin();
        if (r < 0)
                fact_skip("io_uring: %s", strerror(-r));
        device = fact_device();
        pagemap = fact_pagemap();
        /* Without EVENT_FORK: the processes started below would wait for somebody to read it. */
        hold = fact_context(device, HOLD_FEATURES & ~(uint64_t)UFFD_FEATURE_EVENT_FORK);
        fact_pool(&pool, N_PAGES, 1);
        merged = fact_map_merged(hold, &pool, 0, N_PAGES);

        pin.iov_base = mmap(NULL, HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, pool.writable, 0);
        FACT_CHECK(pin.iov_base != MAP_FAILED, "%m");
        FACT_OK(io_uring_register_buffers(&ring, &pin, 1));
        fact_step("collapsing a pool with a pinned page");
        error = collapse(&pool);
        if (error == EINVAL)
                fact_skip("this kernel cannot collapse tmpfs files");
        FACT_CHECK(error != 0, "a pinned page does not prevent a huge page");
        FACT_CHECK(fact_populated(pagemap, merged, N_PAGES, PAGE_IS_FILE) == N_PAGES,
                   "%zu of %zu pages are mapped", fact_populated(pagemap, merged, N_PAGES, PAGE_IS_FILE),
                   N_PAGES);
        FACT_CHECK(fact_filled(merged, N_PAGES, 1), "other content");
        FACT_CHECK(fact_quiet(hold), "a message although nothing was written");

        fact_step("collapsing a pool without a pinned page");
        FACT_OK(io_uring_unregister_buffers(&ring));
        io_uring_queue_exit(&ring);
        for (int i = 0; i < 100 && (error = collapse(&pool)) != 0; i++)
                fact_pause();
        if (error)
                fact_skip("MADV_COLLAPSE never succeeds here (%s), so that this program can find out nothing",
                          strerror(error));
        FACT_CHECK(fact_populated(pagemap, merged, N_PAGES, PAGE_IS_FILE) == 0, "%zu of %zu pages are mapped",
                   fact_populated(pagemap, merged, N_PAGES, PAGE_IS_FILE), N_PAGES);
        return 0;
}
