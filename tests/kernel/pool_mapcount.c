/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The kernel says of a page of the pool whether anybody else maps it
 *
 * Fact: bit 56 of the pagemap entry of our own mapping of a tmpfs page is set if and only if no other page
 * table has the page. Every process counts that maps it, forked children included, whether somebody knows of
 * them or not: fork(2) copies the page tables of memory that is registered for write protection at once. A
 * page that was copied by its writer, discarded or unmapped no longer counts. Needs no privilege.
 *
 * Source: Documentation/admin-guide/mm/pagemap.rst, bit 56; fs/proc/task_mmu.c, pagemap_pte_entry(); mm/memory.c,
 * vma_needs_copy().
 *
 * Relied on by: poolfile_unmapped() (daemon/kernel/poolfile.h), and with it daemon/dedup/domain.h: when a page
 * of the pool may be given back.
 *
 * Without it: a page is punched while a child of a client that was killed still maps it, and reads zeros.
 */

#include "fact.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_PAGES       8
#define CHILD_SECONDS 60 /* as long as this test may take */

static struct fact_pool pool;
static int pagemap;

static void check_unmapped(const char *when, unsigned expected)
{
        uint64_t unmapped[BITMAP_WORDS(N_PAGES)] = {0};

        FACT_OK(poolfile_unmapped(pool.writable, pagemap, 0, N_PAGES, unmapped));
        FACT_CHECK(unmapped[0] == expected, "%s: %#llx instead of %#x", when, (unsigned long long)unmapped[0],
                   expected);
}

/* A process of another user maps pages 2 to 5, writes one and discards one. */
static void client(int socket, void *unused)
{
        int device, context;
        pid_t child;
        char *pages;

        (void)unused;
        fact_receive(socket, &device);
        context = fact_context(device, TRACK_FEATURES);
        pages = fact_map_merged(context, &pool, 2, 4);
        fact_send(socket, 0, -EBADF);
        fact_receive(socket, NULL);
        pages[PAGE_BYTES] = 1;
        FACT_OK(error_from(madvise(pages + 2 * PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED)));
        fact_send(socket, 0, -EBADF);
        fact_receive(socket, NULL);
        /* A child of which nobody hears: its context is nobody's, and it touches nothing. It is killed, or ends by itself. */
        child = (pid_t)FACT_OK(error_from(fork()));
        if (!child) {
                sleep(CHILD_SECONDS);
                _exit(1);
        }
        FACT_OK(error_from(munmap(pages, 4 * PAGE_BYTES)));
        fact_send(socket, (uint64_t)child, -EBADF);
        fact_receive(socket, NULL);
}

int main(void)
{
        struct fact_client process;
        int device;
        char *pages;
        pid_t child;

        fact_begin();
        device = fact_device();
        fd_close(fact_context(device, TRACK_FEATURES)); /* skips, which the client cannot */
        pagemap = fact_pagemap();
        fact_pool(&pool, N_PAGES, 1);
        FACT_OK(error_from(prctl(PR_SET_CHILD_SUBREAPER, 1)));

        fact_step("nobody maps it");
        check_unmapped("nobody", 0xff);
        fact_step("this process does");
        pages = fact_map_pool(&pool, 7, 1);
        check_unmapped("this process", 0x7f);
        FACT_OK(error_from(munmap(pages, PAGE_BYTES)));
        check_unmapped("not any more", 0xff);

        fact_step("another process does");
        fact_client_start(&process, FACT_NOBODY, client, NULL);
        fact_send(process.socket, 0, device);
        fact_receive(process.socket, NULL);
        check_unmapped("another process", 0xc3);
        fact_step("it wrote one page and discarded another");
        fact_send(process.socket, 0, -EBADF);
        fact_receive(process.socket, NULL);
        check_unmapped("written and discarded", 0xdb);
        fact_step("it forked and unmapped");
        fact_send(process.socket, 0, -EBADF);
        child = (pid_t)fact_receive(process.socket, NULL);
        check_unmapped("a child", 0xdb);
        fact_send(process.socket, 0, -EBADF);
        fact_client_join(&process);
        check_unmapped("an orphan", 0xdb);
        FACT_OK(error_from(kill(child, SIGKILL)));
        FACT_OK(error_from(waitpid(child, NULL, 0)));
        check_unmapped("all are gone", 0xff);
        FACT_CHECK(fact_pool_intact(&pool, 1), "the pool changed");
        return 0;
}
