/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Memory belongs to one userfaultfd context at a time
 *
 * Fact: registering what another context has is EBUSY, and nothing of the range is registered then; what the same
 * context has it may register again. Unregistering it through the wrong context is EINVAL; but kernels before 6.17 take it out of
 * the other context, so nobody may try. UFFDIO_REGISTER skips holes without a word, so its
 * success does not say that the whole range is mapped; only a range without any mapping is refused.
 * Write-protecting what is not registered for it is ENOENT.
 *
 * Source: fs/userfaultfd.c, userfaultfd_register(), userfaultfd_unregister(); trap T1.
 *
 * Relied on by: libwp/run.c (step 3: EBUSY means that the program uses userfaultfd itself; run_leave_hold()),
 * libwp/protect.c, daemon registration.
 *
 * Without it: two servers for one page.
 */

#include "fact.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define N_PAGES 6
#define HOLE    2

static uint64_t page(const char *pages, size_t n)
{
        return (uintptr_t)pages + n * PAGE_BYTES;
}

int main(void)
{
        struct fact_access writer;
        int device, first, second, unregistered;
        char *pages;

        fact_begin();
        device = fact_device();
        first = fact_context(device, HOLD_FEATURES);
        second = fact_context(device, TRACK_FEATURES);
        pages = fact_map(N_PAGES);
        fact_fill(pages, N_PAGES, 1);

        FACT_OK(uffd_register(first, page(pages, 3), PAGE_BYTES, UFFDIO_REGISTER_MODE_WP));
        FACT_ERROR(uffd_register(second, page(pages, 3), PAGE_BYTES, UFFDIO_REGISTER_MODE_WP), EBUSY);
        FACT_ERROR(uffd_register(second, page(pages, 0), N_PAGES * PAGE_BYTES, UFFDIO_REGISTER_MODE_WP),
                   EBUSY);
        FACT_ERROR(uffd_write_protect(second, page(pages, 0), PAGE_BYTES, true), ENOENT);
        FACT_OK(uffd_register(first, page(pages, 3), PAGE_BYTES, UFFDIO_REGISTER_MODE_WP));
        unregistered = uffd_unregister(second, page(pages, 3), PAGE_BYTES);
        FACT_CHECK(unregistered == -EINVAL || unregistered == 0, "%s", strerror(-unregistered));
        FACT_OK(uffd_register(first, page(pages, 3), PAGE_BYTES, UFFDIO_REGISTER_MODE_WP));
        FACT_OK(uffd_unregister(first, page(pages, 3), PAGE_BYTES));
        FACT_OK(uffd_register(second, page(pages, 3), PAGE_BYTES, UFFDIO_REGISTER_MODE_WP));
        FACT_OK(uffd_unregister(second, page(pages, 0), N_PAGES * PAGE_BYTES));

        fact_step("a range with a hole");
        FACT_OK(error_from(munmap(pages + HOLE * PAGE_BYTES, PAGE_BYTES)));
        FACT_OK(uffd_register(first, page(pages, 0), N_PAGES * PAGE_BYTES, UFFDIO_REGISTER_MODE_WP));
        FACT_OK(uffd_write_protect(first, page(pages, 0), HOLE * PAGE_BYTES, true));
        FACT_OK(uffd_write_protect(first, page(pages, HOLE + 1), (N_PAGES - HOLE - 1) * PAGE_BYTES, true));
        fact_access_start(&writer, pages + (N_PAGES - 1) * PAGE_BYTES, true, 1);
        fact_fault(first, pages + (N_PAGES - 1) * PAGE_BYTES,
                   UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE);
        FACT_OK(hold_answer_write(first, page(pages, N_PAGES - 1)));
        fact_access_join(&writer);
        FACT_ERROR(uffd_register(first, page(pages, HOLE), PAGE_BYTES, UFFDIO_REGISTER_MODE_WP), EINVAL);
        return 0;
}
