/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Reading memory through /proc/PID/mem leaves the pages as they are; process_vm_readv(2) does not
 *
 * Fact: a read-only pin of an anonymous page that is shared with a child gives the page's process a copy of its own, whose
 * page-table entry is clean although the page holds data. If it is forked again, and one of the two then uses
 * MADV_FREE and writes, the other's page counts as freed, and as clean: reclaim drops it, and it reads as zeros. No wpd is
 * needed for that. Reading through /proc/PID/mem pins nothing, so it never is the beginning of it.
 *
 * Source: mm/memory.c, wp_page_copy() (no pte_mkdirty() when `unshare`); mm/gup.c, gup_must_unshare() (FOLL_PIN, which
 * access_remote_vm() does not use); mm/madvise.c, madvise_free_pte_range() (mapcount matters for dirty folios only); mm/rmap.c,
 * try_to_unmap_one().
 *
 * Relied on by: daemon/dedup/scan, which reads clients' memory; tests/torture/op_advice.c, op_free(), which avoids that fault.
 *
 * Without it: looking at a program's memory could be what makes it lose its content.
 */

#include "fact.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define N_PAGES 256 /* enough for the kernel not to keep all of them in its batches */

static char *pages;
static char copy[N_PAGES * PAGE_BYTES];

static void read_pinned(void)
{
        struct iovec from = {pages, sizeof(copy)}, to = {copy, sizeof(copy)};

        FACT_VALUE(error_from(process_vm_readv(getpid(), &to, 1, &from, 1, 0)), sizeof(copy));
}

static void read_mem(void)
{
        _cleanup_fd_ int mem = (int)FACT_OK(error_from(open("/proc/self/mem", O_RDONLY | O_CLOEXEC)));

        FACT_VALUE(error_from(pread(mem, copy, sizeof(copy), (off_t)(uintptr_t)pages)), sizeof(copy));
}

static void wait_for_ever(int socket, void *unused)
{
        (void)unused;
        fact_receive(socket, NULL);
}

/* Says how many pages are not what they were when it was forked. */
static void page_out(int socket, void *unused)
{
        size_t n_wrong = 0;

        (void)unused;
        fact_receive(socket, NULL);
        FACT_CHECK(fact_filled(pages, N_PAGES, 1), "wrong before anything was done to them");
        FACT_OK(error_from(madvise(pages, sizeof(copy), MADV_PAGEOUT)));
        for (size_t i = 0; i < N_PAGES; i++)
                n_wrong += fact_zero(pages + i * PAGE_BYTES, 1);
        fact_send(socket, n_wrong, -EBADF);
}

/* How many pages a child lost because of what its parent did to its own. */
static size_t count_lost(void (*read_all)(void))
{
        struct fact_client sharer, child;
        size_t n_lost;

        pages = fact_map(N_PAGES);
        fact_fill(pages, N_PAGES, 1);
        fact_client_start(&sharer, getuid(), wait_for_ever, NULL);
        read_all();
        fact_send(sharer.socket, 0, -EBADF);
        fact_client_join(&sharer);

        fact_client_start(&child, getuid(), page_out, NULL);
        FACT_OK(error_from(madvise(pages, sizeof(copy), MADV_FREE)));
        fact_fill(pages, N_PAGES, 2);
        fact_send(child.socket, 0, -EBADF);
        n_lost = fact_receive(child.socket, NULL);
        fact_client_join(&child);
        FACT_OK(error_from(munmap(pages, sizeof(copy))));
        return n_lost;
}

int main(void)
{
        fact_begin();
        fact_step("reading through /proc/self/mem");
        FACT_VALUE((long)count_lost(read_mem), 0);
        fact_step("reading with process_vm_readv()");
        if (!count_lost(read_pinned))
                fact_skip("this kernel loses nothing: there is nothing to compare with");
        return 0;
}
