/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Merged memory can be protected so that its writers wait for nobody
 *
 * Fact: a context with WP_ASYNC and MINOR_SHMEM on a private pool mapping lets a write through at once: the
 * kernel copies the page, and takes its protection away, within the fault. Nothing is to be read on the
 * context. pagemap_survey() lists such a page from then on, and no other: of protected memory, "written" means
 * copied. A discarded page is a MINOR fault as with hold, whose answer is zeros; so it is in a child, which
 * arrives by EVENT_FORK before it can run. mremap(2) takes protection and registration along.
 *
 * Source: Documentation/admin-guide/mm/userfaultfd.rst "Write Protect Notifications"; mm/memory.c, do_wp_page(),
 * pte_marker_handle_uffd_wp().
 *
 * Relied on by: libwp/run.c (context lazy), daemon/dedup/scan.h.
 *
 * Without it: every first write to merged memory costs a round trip, whether anybody wants to hear of it or not.
 */

#include "fact.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_PAGES 8

static struct fact_pool pool;
static int lazy, pagemap;

static void check_writes(char *pages)
{
        FACT_CHECK(fact_written(pagemap, pages, N_PAGES) == 0, "merged pages are listed");
        pages[5] ^= 1;
        FACT_CHECK(fact_written(pagemap, pages, N_PAGES) == 1 && fact_copied(pagemap, pages, 1) == 1,
                   "the written page is not listed as a copy");
        pages[5] ^= 1;
        FACT_CHECK(fact_filled(pages, N_PAGES, 1), "the copy has other content");
        FACT_CHECK(fact_quiet(lazy), "a write was a fault");
}

static void check_system_call(char *pages)
{
        int fds[2];

        FACT_OK(error_from(pipe(fds)));
        FACT_CHECK(write(fds[1], "x", 1) == 1 && read(fds[0], pages + PAGE_BYTES, 1) == 1, "%m");
        close(fds[0]);
        close(fds[1]);
        FACT_CHECK(pages[PAGE_BYTES] == 'x', "what a system call wrote was lost");
        FACT_CHECK(fact_written(pagemap, pages, N_PAGES) == 2, "it is not listed");
}

static void discard_and_read(char *page)
{
        struct fact_access reader;

        FACT_OK(error_from(madvise(page, PAGE_BYTES, MADV_DONTNEED)));
        fact_access_start(&reader, page + 7, false, 0);
        fact_fault(lazy, page, UFFD_PAGEFAULT_FLAG_MINOR);
        FACT_VALUE(hold_answer_minor(lazy, (uintptr_t)page, false), 1);
        fact_access_join(&reader);
        FACT_CHECK(reader.value == 0 && fact_zero(page, 1), "a discarded page is not zeros");
        page[9] = 1;
        FACT_CHECK(fact_quiet(lazy) && page[9] == 1, "writing it afterwards was a fault");
}

static void use_in_child(char *pages)
{
        pages[4 * PAGE_BYTES] ^= 1;
        FACT_OK(error_from(madvise(pages + 5 * PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED)));
        FACT_CHECK(fact_zero(pages + 5 * PAGE_BYTES, 1), "the child's discarded page is not zeros");
        pages[4 * PAGE_BYTES] ^= 1;
}

static void check_child(char *pages)
{
        struct fact_server server;
        pid_t child;
        int status;

        fact_server_start(&server, lazy);
        child = (pid_t)FACT_OK(error_from(fork()));
        if (!child) {
                use_in_child(pages);
                _exit(0);
        }
        fact_step("serving the child");
        while (!atomic_load(&server.n_forks)) /* the child may run before the server has kept its context */
                fact_pause();
        fact_fault(server.child, pages + 5 * PAGE_BYTES, UFFD_PAGEFAULT_FLAG_MINOR);
        FACT_VALUE(hold_answer_minor(server.child, (uintptr_t)pages + 5 * PAGE_BYTES, false), 1);
        FACT_OK(error_from(waitpid(child, &status, 0)));
        FACT_CHECK(status == 0, "the child's status is %#x", (unsigned)status);
        fact_server_stop(&server);
        FACT_CHECK(atomic_load(&server.n_forks) == 1, "the fork was not announced");
}

static void check_remap(char *pages, char *target)
{
        struct fact_server server;

        fact_server_start(&server, lazy);
        FACT_CHECK(mremap(pages + 6 * PAGE_BYTES, 2 * PAGE_BYTES, 2 * PAGE_BYTES,
                          MREMAP_MAYMOVE | MREMAP_FIXED, target) == target,
                   "%m");
        fact_server_stop(&server);
        FACT_CHECK(atomic_load(&server.n_remaps) == 1, "the move was not announced");
        FACT_CHECK(fact_written(pagemap, target, 2) == 0, "its protection was lost");
        target[0] ^= 1;
        FACT_CHECK(fact_written(pagemap, target, 2) == 1 && fact_copied(pagemap, target, 2) == 1,
                   "a write to it is not listed");
        discard_and_read(target + PAGE_BYTES);
}

int main(void)
{
        char *pages;

        fact_begin();
        pagemap = fact_pagemap();
        lazy = fact_context(fact_device(), LAZY_FEATURES);
        fact_pool(&pool, N_PAGES, 1);
        pages = fact_map_merged(lazy, &pool, 0, N_PAGES);
        fact_step("writing");
        check_writes(pages);
        check_system_call(pages);
        fact_step("discarding a copy");
        discard_and_read(pages + PAGE_BYTES);
        fact_step("discarding a merged page");
        discard_and_read(pages + 2 * PAGE_BYTES);
        fact_step("forking");
        check_child(pages);
        fact_step("moving");
        check_remap(pages, fact_map(2));
        FACT_CHECK(fact_pool_intact(&pool, 1), "the pool changed");
        return 0;
}
