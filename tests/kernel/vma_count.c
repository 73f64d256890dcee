/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Runs that continue each other in memory and in the pool become one mapping again
 *
 * Fact: 16 pages that follow each other, merged one after the other with pool pages that follow each other
 * too, add at most 2 mappings to the process; with scattered pool pages each adds one.
 *
 * Source: mm/vma.c, can_vma_merge_after() (same file, adjoining offsets, same userfaultfd context).
 *
 * Relied on by: daemon/dedup/pool (slots are laid out in address order), daemon/dedup/policy (the budget of
 * VMAs).
 *
 * Without it: vm.max_map_count (65530) is reached after as many merged runs, and the program's own mmap()
 * fails.
 */

#include "fact.h"

#include <stdio.h>
#include <sys/mman.h>

#define N_PAGES 16

/* The mappings of this process that have a part in [start, start + length). */
static long count_mappings(const char *start, size_t length)
{
        FILE *maps = fopen("/proc/self/maps", "re");
        unsigned long from, to;
        char line[512];
        long n = 0;

        FACT_CHECK(maps, "%m");
        while (fgets(line, sizeof(line), maps)) {
                FACT_CHECK(sscanf(line, "%lx-%lx ", &from, &to) == 2, "%s", line);
                n += from < (uintptr_t)start + length && to > (uintptr_t)start;
        }
        fclose(maps);
        return n;
}

/* Merges page after page of a new range, the n-th of them with the pool's page order[n]. Returns the VMAs
 * added. */
static long merge(int hold, const struct fact_pool *pool, const size_t *order)
{
        char *space = fact_map(N_PAGES + 2), *run = space + PAGE_BYTES;
        long before;

        fact_fill(space, N_PAGES + 2, 2);
        before = count_mappings(space, (N_PAGES + 2) * PAGE_BYTES);
        for (size_t i = 0; i < N_PAGES; i++) {
                char *prepared = fact_map_merged(hold, pool, order[i], 1);

                FACT_CHECK(mremap(prepared, PAGE_BYTES, PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED,
                                  run + i * PAGE_BYTES) == run + i * PAGE_BYTES,
                           "%m");
        }
        return count_mappings(space, (N_PAGES + 2) * PAGE_BYTES) - before;
}

int main(void)
{
        struct fact_server server = {0};
        size_t consecutive[N_PAGES], scattered[N_PAGES];
        struct fact_pool pool;
        int device, hold;
        long n;

        fact_begin();
        device = fact_device();
        hold = fact_context(device, HOLD_FEATURES);
        fact_pool(&pool, N_PAGES, 1);
        for (size_t i = 0; i < N_PAGES; i++) {
                consecutive[i] = i;
                scattered[i] = i * 7 % N_PAGES;
        }
        fact_server_start(&server, hold);
        n = merge(hold, &pool, consecutive);
        FACT_CHECK(n >= 1 && n <= 2, "consecutive pages added %ld mappings", n);
        n = merge(hold, &pool, scattered);
        FACT_CHECK(n >= N_PAGES, "scattered pages added %ld mappings", n);
        fact_server_stop(&server);
        return 0;
}
