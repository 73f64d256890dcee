/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Whoever writes a page of a tmpfs decides on which node it lies, and anybody can be asked where his pages are
 *
 * Fact: with set_mempolicy(MPOL_PREFERRED), what this thread writes into a pool file lies on that node, wherever the thread
 * runs; private mappings of it elsewhere do not move it. move_pages(2) without nodes tells on which node the pages of
 * another user's process are, and -ENOENT where there is none.
 *
 * Source: mm/shmem.c, shmem_get_pgoff_policy() (no policy of the file: the task's); mm/migrate.c, do_pages_stat().
 *
 * Relied on by: daemon/kernel/numa, daemon/dedup/nodes.
 *
 * Without it: canonical pages lie on the node of the CPU that wpd happened to run on.
 */

#include "fact.h"

#include <stdio.h>
#include <stdlib.h>

#include "kernel/numa.h"

#define N_PAGES 64
#define N_NODES 8

/* Ids of nodes with memory; at least two, or the program is skipped. */
static unsigned find_nodes(int nodes[N_NODES])
{
        char list[64], *at = list;
        unsigned n = 0;
        int r = numa_list(list, sizeof(list));

        if (r < 0)
                fact_skip("this kernel knows no NUMA nodes");
        while (*at && n < N_NODES) {
                long first = strtol(at, &at, 10), last = *at == '-' ? strtol(at + 1, &at, 10) : first;

                for (long id = first; id <= last && n < N_NODES; id++)
                        nodes[n++] = (int)id;
                at += *at == ',';
        }
        if (n < 2)
                fact_skip("this machine has one NUMA node");
        return n;
}

static size_t count_in_process(pid_t pid, const char *pages, size_t n_pages, int node)
{
        uint64_t addresses[N_PAGES];
        int nodes[N_PAGES];
        size_t n = 0;

        for (size_t i = 0; i < n_pages; i++)
                addresses[i] = (uintptr_t)pages + i * PAGE_BYTES;
        FACT_OK(numa_of_pages(pid, addresses, n_pages, nodes));
        for (size_t i = 0; i < n_pages; i++)
                n += nodes[i] == node;
        return n;
}

static void client(int socket, void *unused)
{
        char *pages;

        (void)unused;
        FACT_OK(numa_prefer((int)fact_receive(socket, NULL)));
        pages = fact_map(N_PAGES);
        fact_fill(pages, N_PAGES / 2, 3);
        fact_send(socket, (uintptr_t)pages, -EBADF);
        fact_receive(socket, NULL);
}

static void check_client(int node)
{
        struct fact_client process;
        char *pages;
        size_t n;

        fact_client_start(&process, FACT_NOBODY, client, NULL);
        fact_send(process.socket, (uint64_t)node, -EBADF);
        pages = (char *)(uintptr_t)fact_receive(process.socket, NULL);
        n = count_in_process(process.pid, pages, N_PAGES, node);
        FACT_CHECK(n == N_PAGES / 2, "%zu of its pages on node %d", n, node);
        n = count_in_process(process.pid, pages, N_PAGES, NUMA_NO_NODE);
        FACT_CHECK(n == N_PAGES / 2, "%zu pages that are not there", n);
        fact_send(process.socket, 0, -EBADF);
        fact_client_join(&process);
}

static void check_file(const struct fact_pool *pool, size_t first, int node)
{
        int nodes[N_PAGES];
        char *mapped;

        FACT_OK(numa_of_file(pool->writable, first * PAGE_BYTES, N_PAGES, nodes));
        for (size_t i = 0; i < N_PAGES; i++)
                FACT_CHECK(nodes[i] == node, "page %zu is on node %d instead of %d", i, nodes[i], node);
        mapped = fact_map_pool(pool, first, N_PAGES);
        FACT_CHECK(count_in_process(0, mapped, N_PAGES, node) == N_PAGES, "mapped, they lie elsewhere");
}

int main(void)
{
        static char content[N_PAGES * PAGE_BYTES];
        struct fact_pool pool;
        int nodes[N_NODES];
        unsigned n;

        fact_begin();
        n = find_nodes(nodes);
        fact_pool(&pool, 1, 1);
        fact_fill(content, N_PAGES, 2);
        for (unsigned i = 0; i < n; i++) {
                fact_step("writing");
                FACT_OK(numa_prefer(nodes[i]));
                FACT_OK(poolfile_write(pool.writable, (1 + i * N_PAGES) * PAGE_BYTES, content,
                                       sizeof(content)));
        }
        FACT_OK(numa_prefer(NUMA_NO_NODE));
        for (unsigned i = 0; i < n; i++) {
                fact_step("looking");
                check_file(&pool, 1 + i * N_PAGES, nodes[i]);
                check_client(nodes[i]);
        }
        return 0;
}
