/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Taking a run's pages away with UFFDIO_MOVE stops everybody who touches it, and they can be put back
 *
 * Fact: UFFDIO_MOVE works through the context that the destination is registered with (MISSING); the source
 * may be registered with another. Afterwards whoever touches the source waits as a MISSING fault of the
 * source's own context, until the pages are moved back through that one. Holes in the source are skipped
 * with ALLOW_SRC_HOLES; without it a hole ends the call: the pages before it have been moved, and a hole as
 * the first page is ENOENT. A page in the destination ends it likewise (EEXIST).
 *
 * Source: Documentation/admin-guide/mm/userfaultfd.rst "Memory move"; mm/userfaultfd.c, move_pages().
 *
 * Relied on by: libwp/run.c (steps 3, 4, 6, 8).
 *
 * Without it: no way to compare pages that nobody can change in between.
 */

#include "fact.h"

#include <sys/mman.h>

#define N_PAGES 16
#define HOLE    5

static int pagemap, guard, stage;
static char *run, *staging;

static int64_t freeze(size_t first, size_t n_pages, uint64_t mode)
{
        return uffd_move(stage, (uintptr_t)staging + first * PAGE_BYTES, (uintptr_t)run + first * PAGE_BYTES,
                         n_pages * PAGE_BYTES, mode);
}

static int64_t thaw(size_t first, size_t n_pages)
{
        return uffd_move(guard, (uintptr_t)run + first * PAGE_BYTES, (uintptr_t)staging + first * PAGE_BYTES,
                         n_pages * PAGE_BYTES, UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES);
}

static void check_moved(int64_t moved, size_t n_pages)
{
        FACT_OK(moved);
        FACT_CHECK(moved == (int64_t)(n_pages * PAGE_BYTES), "%lld bytes", (long long)moved);
}

static void check_holes(void)
{
        check_moved(freeze(0, N_PAGES, 0), HOLE);
        FACT_ERROR(freeze(HOLE, N_PAGES - HOLE, 0), ENOENT);
        check_moved(freeze(HOLE, N_PAGES - HOLE, UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES), N_PAGES - HOLE);
        FACT_CHECK(!fact_populated(pagemap, run, N_PAGES, 0), "pages are left behind");
        FACT_CHECK(fact_populated(pagemap, staging, N_PAGES, 0) == N_PAGES - 1, "%zu pages staged",
                   fact_populated(pagemap, staging, N_PAGES, 0));
        check_moved(thaw(0, N_PAGES), N_PAGES);
        FACT_CHECK(fact_populated(pagemap, run, N_PAGES, 0) == N_PAGES - 1, "%zu pages came back",
                   fact_populated(pagemap, run, N_PAGES, 0));
        FACT_CHECK(fact_filled(run, HOLE, 1), "other content");
}

static void check_waiting(void)
{
        struct fact_access reader, writer;
        char expected = run[3 * PAGE_BYTES + 9];

        check_moved(freeze(0, N_PAGES, UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES), N_PAGES);
        fact_access_start(&reader, run + 3 * PAGE_BYTES + 9, false, 0);
        fact_fault(guard, run + 3 * PAGE_BYTES, 0);
        fact_access_start(&writer, run + 4 * PAGE_BYTES, true, 1);
        fact_fault(guard, run + 4 * PAGE_BYTES, UFFD_PAGEFAULT_FLAG_WRITE);
        fact_pause();
        FACT_CHECK(!atomic_load(&reader.done) && !atomic_load(&writer.done), "not held");
        FACT_CHECK(fact_filled(staging, HOLE, 1), "other content in the staging area");
        check_moved(thaw(0, N_PAGES), N_PAGES);
        fact_access_join(&reader);
        fact_access_join(&writer);
        FACT_CHECK(reader.value == expected, "another byte was read");
        FACT_CHECK(run[4 * PAGE_BYTES] == 1, "the write was lost");
        FACT_CHECK(fact_filled(run, 4, 1), "other content");
}

/* Who waits for a page that stays away goes on, with zeros, once the guard is gone and has woken it. */
static void check_dropped(void)
{
        struct fact_access reader;

        check_moved(freeze(0, 1, 0), 1);
        fact_access_start(&reader, run, false, 0);
        fact_fault(guard, run, 0);
        FACT_OK(uffd_unregister(guard, (uintptr_t)run, PAGE_BYTES));
        FACT_OK(uffd_wake(guard, (uintptr_t)run, PAGE_BYTES));
        fact_access_join(&reader);
        FACT_CHECK(reader.value == 0 && fact_zero(run, 1), "not zeros");
}

int main(void)
{
        int device;

        fact_begin();
        device = fact_device();
        pagemap = fact_pagemap();
        guard = fact_context(device, GUARD_FEATURES);
        stage = fact_context(device, STAGE_FEATURES);
        run = fact_map(N_PAGES);
        for (size_t i = 0; i < N_PAGES; i++)
                if (i != HOLE)
                        run[i * PAGE_BYTES] = 1;
        fact_fill(run, HOLE, 1);
        staging = fact_map(N_PAGES);
        FACT_OK(error_from(madvise(staging, N_PAGES * PAGE_BYTES, MADV_DONTFORK)));
        FACT_OK(uffd_register(stage, (uintptr_t)staging, N_PAGES * PAGE_BYTES, UFFDIO_REGISTER_MODE_MISSING));
        FACT_OK(uffd_register(guard, (uintptr_t)run, N_PAGES * PAGE_BYTES, UFFDIO_REGISTER_MODE_MISSING));

        fact_step("holes");
        check_holes();
        fact_step("waiting for frozen pages");
        check_waiting();
        fact_step("a page in the way");
        check_moved(freeze(0, 1, 0), 1);
        check_moved(freeze(1, 1, 0), 1);
        FACT_OK(uffd_copy(guard, (uintptr_t)run, staging, PAGE_BYTES, 0));
        FACT_ERROR(freeze(0, 1, 0), EEXIST);
        FACT_ERROR(thaw(0, 2), EEXIST);
        check_moved(thaw(1, 1), 1);
        FACT_OK(error_from(madvise(staging, PAGE_BYTES, MADV_DONTNEED)));
        fact_step("through the wrong context");
        FACT_ERROR(uffd_move(guard, (uintptr_t)staging, (uintptr_t)run, PAGE_BYTES, 0), EINVAL);
        fact_step("dropping a frozen page");
        check_dropped();
        return 0;
}
