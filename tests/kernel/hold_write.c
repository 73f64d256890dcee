/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The first write to a merged page waits, names itself, and is resolved by the kernel's copy
 *
 * Fact: in a private, protected mapping of the pool reads cause no fault. A write is a write-protect fault
 * with the writer's thread id and the exact address; the writer waits. After the page has been unprotected
 * the kernel copies it for the writer alone: the pool, other mappings and the neighbouring pages are
 * unchanged, and the next write to the page causes no fault. An answer that comes after the mapping has been
 * replaced wakes the writer.
 *
 * Source: Documentation/admin-guide/mm/userfaultfd.rst "Write Protect Notifications"; mm/memory.c,
 * do_wp_page().
 *
 * Relied on by: daemon/kernel/hold.h, daemon/fault, libwp/watcher.c.
 *
 * Without it: writes to merged pages that are not notified, or that change what others read.
 */

#include "fact.h"

#include <sys/mman.h>

#define N_PAGES 8
#define FLAGS   (UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE)

int main(void)
{
        struct fact_access writer;
        struct fact_pool pool;
        struct uffd_msg fault;
        int device, hold;
        char *pages, *others, *at, before;

        fact_begin();
        device = fact_device();
        hold = fact_context(device, HOLD_FEATURES);
        fact_pool(&pool, N_PAGES, 1);
        pages = fact_map_merged(hold, &pool, 0, N_PAGES);
        others = fact_map_merged(hold, &pool, 0, N_PAGES);

        fact_step("reading merged pages");
        FACT_CHECK(fact_filled(pages, N_PAGES, 1), "other content than the pool's");
        FACT_CHECK(fact_quiet(hold), "reading caused a fault");

        fact_step("waiting for the fault of a write");
        at = pages + 2 * PAGE_BYTES + 1234;
        before = *at;
        fact_access_start(&writer, at, true, (char)~before);
        fault = fact_fault(hold, at, FLAGS);
        FACT_CHECK(fault.arg.pagefault.address == (uintptr_t)at, "address %#llx instead of %p",
                   (unsigned long long)fault.arg.pagefault.address, (void *)at);
        FACT_CHECK(fault.arg.pagefault.feat.ptid == (uint32_t)writer.tid, "thread %u instead of %d",
                   fault.arg.pagefault.feat.ptid, (int)writer.tid);
        fact_pause();
        FACT_CHECK(!atomic_load(&writer.done) && *at == before, "the write was not held");

        fact_step("answering the fault");
        FACT_VALUE(hold_answer_write(hold, (uintptr_t)at), 0);
        fact_access_join(&writer);
        FACT_CHECK(*at == (char)~before, "the write was lost");
        *at = before;
        FACT_CHECK(fact_filled(pages, N_PAGES, 1), "bytes besides the written one changed");
        *at = (char)~before;
        FACT_CHECK(fact_filled(others, N_PAGES, 1), "another mapping of the page changed");
        FACT_CHECK(fact_pool_intact(&pool, 1), "the pool changed");
        FACT_CHECK(fact_quiet(hold), "the second write caused a fault");

        fact_step("answering after the mapping has been replaced");
        at = pages + 5 * PAGE_BYTES;
        fact_access_start(&writer, at, true, 1);
        fact_fault(hold, at, FLAGS);
        FACT_CHECK(mmap(at, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                        0) == at,
                   "%m");
        FACT_VALUE(hold_answer_write(hold, (uintptr_t)at), 0);
        fact_access_join(&writer);
        FACT_CHECK(*at == 1 && at[1] == 0, "the write went elsewhere");

        fact_step("answering twice");
        at = pages + 6 * PAGE_BYTES;
        fact_access_start(&writer, at, true, 1);
        fact_fault(hold, at, FLAGS);
        FACT_VALUE(hold_answer_write(hold, (uintptr_t)at), 0);
        FACT_VALUE(hold_answer_write(hold, (uintptr_t)at), 0);
        fact_access_join(&writer);
        return 0;
}
