/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Reading a hole of the pool through a mapping allocates memory that stays
 *
 * Fact: a read fault of a private mapping on a hole of a tmpfs file puts a page of zeros into the file; it
 * counts against the file system's size and stays when the client is gone. read(2) does not. Beyond the end
 * of the file there is SIGBUS and nothing is allocated.
 *
 * Source: mm/shmem.c, shmem_fault() (SGP_CACHE), shmem_file_read_iter() (SGP_READ).
 *
 * Relied on by: the pool's accounting (daemon/dedup/pool): the file must be no longer than what is in use,
 * and st_blocks, not the table of slots, is what it costs.
 *
 * Without it: nothing is lost. Because of it any client could make the daemon's file system as large as its
 * limit.
 */

#include "fact.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define N_PAGES 16

static size_t allocated(const struct fact_pool *pool)
{
        struct stat status;

        FACT_OK(error_from(fstat(pool->writable, &status)));
        return (size_t)status.st_blocks * 512 / PAGE_BYTES;
}

static void client(int socket, void *context)
{
        const struct fact_pool *pool = context;
        char *pages = mmap(NULL, 2 * N_PAGES * PAGE_BYTES, PROT_READ, MAP_PRIVATE, pool->readonly, 0);

        (void)socket;
        FACT_CHECK(pages != MAP_FAILED, "%m");
        FACT_OK(error_from(madvise(pages, N_PAGES * PAGE_BYTES, MADV_POPULATE_READ)));
        FACT_ERROR(error_from(madvise(pages, 2 * N_PAGES * PAGE_BYTES, MADV_POPULATE_READ)), EFAULT);
}

int main(void)
{
        struct fact_client process;
        struct fact_pool pool;
        char bytes[PAGE_BYTES];

        fact_begin();
        fact_pool(&pool, N_PAGES, 1);
        FACT_OK(poolfile_discard(pool.writable, 0, N_PAGES * PAGE_BYTES));
        FACT_CHECK(allocated(&pool) == 0, "%zu pages", allocated(&pool));
        FACT_OK(error_from(pread(pool.readonly, bytes, sizeof(bytes), 0)));
        FACT_CHECK(allocated(&pool) == 0, "read(2) allocated %zu pages", allocated(&pool));
        fact_client_start(&process, FACT_NOBODY, client, &pool);
        fact_client_join(&process);
        FACT_CHECK(allocated(&pool) == N_PAGES, "%zu pages", allocated(&pool));
        FACT_OK(poolfile_discard(pool.writable, 0, N_PAGES * PAGE_BYTES));
        FACT_CHECK(allocated(&pool) == 0, "%zu pages cannot be given back", allocated(&pool));
        return 0;
}
