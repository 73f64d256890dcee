/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * UFFDIO_MOVE refuses every page whose physical page somebody else relies on
 *
 * Fact: a page that is pinned for DMA (FOLL_PIN: an io_uring fixed buffer) or shared with a forked child is
 * EBUSY, the pages before it have been moved; an unpinned page can be moved again, a page that was shared
 * with a child that is gone only after it has been written. Memory that is not writable or locked, and pages
 * that were copied in a private mapping of a file, are EINVAL.
 *
 * Source: mm/userfaultfd.c, validate_move_areas(), move_present_ptes() (folio_maybe_dma_pinned(),
 * PageAnonExclusive()).
 *
 * Relied on by: libwp/run.c (step 4: nothing else looks for pins), the limits L5 and L6.
 *
 * Without it: a device writes into a page that the program does not have any more.
 */

#include "fact.h"

#include <liburing.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define N_PAGES 8
#define PINNED  2

static int stage;
static char *staging;

static int64_t take(char *pages, size_t n_pages)
{
        return uffd_move(stage, (uintptr_t)staging, (uintptr_t)pages, n_pages * PAGE_BYTES, 0);
}

static void drop_staged(void)
{
        FACT_OK(error_from(madvise(staging, N_PAGES * PAGE_BYTES, MADV_DONTNEED)));
}

static void check_pinned(void)
{
        char *pages = fact_map(N_PAGES);
        struct iovec buffer = {.iov_base = pages + PINNED * PAGE_BYTES, .iov_len = PAGE_BYTES};
        struct io_uring ring;
        int64_t moved;
        int r = io_uring_queue_init(4, &ring, 0);

        if (r < 0)
                fact_skip("io_uring: %s", strerror(-r));
        fact_fill(pages, N_PAGES, 1);
        FACT_OK(io_uring_register_buffers(&ring, &buffer, 1));
        moved = take(pages, N_PAGES);
        FACT_CHECK(moved == PINNED * (int64_t)PAGE_BYTES, "%lld bytes moved", (long long)moved);
        FACT_CHECK(fact_filled(staging, PINNED, 1), "other content");
        drop_staged();
        FACT_ERROR(take(pages + PINNED * PAGE_BYTES, N_PAGES - PINNED), EBUSY);

        /* The kernel may let go of the pin some time later. */
        FACT_OK(io_uring_unregister_buffers(&ring));
        io_uring_queue_exit(&ring);
        fact_step("moving the page that is no longer pinned");
        while ((moved = take(pages + PINNED * PAGE_BYTES, 1)) == -EBUSY)
                sched_yield();
        FACT_OK(moved);
        drop_staged();
}

static void wait_for_word(int socket, void *unused)
{
        (void)unused;
        fact_receive(socket, NULL);
}

static void check_forked(void)
{
        char *pages = fact_map(N_PAGES);
        struct fact_client child;

        fact_fill(pages, N_PAGES, 1);
        fact_client_start(&child, geteuid(), wait_for_word, NULL);
        FACT_ERROR(take(pages, N_PAGES), EBUSY);
        fact_send(child.socket, 0, -EBADF);
        fact_client_join(&child);
        FACT_ERROR(take(pages, 1), EBUSY);
        pages[0]++;
        FACT_CHECK(FACT_OK(take(pages, 1)) == (long)PAGE_BYTES, "nothing moved");
        drop_staged();
}

static void check_kinds(void)
{
        struct fact_pool pool;
        char *pages = fact_map(N_PAGES), *merged;

        fact_fill(pages, N_PAGES, 1);
        FACT_OK(error_from(mprotect(pages, PAGE_BYTES, PROT_READ)));
        FACT_ERROR(take(pages, 1), EINVAL);
        /* Not mlock(3): AddressSanitizer turns it into nothing. */
        FACT_OK(error_from(syscall(SYS_mlock, pages + 2 * PAGE_BYTES, PAGE_BYTES)));
        FACT_ERROR(take(pages + 2 * PAGE_BYTES, 1), EINVAL);

        fact_pool(&pool, N_PAGES, 1);
        merged = fact_map_pool(&pool, 0, N_PAGES);
        merged[0]++;
        FACT_ERROR(take(merged, 1), EINVAL);
        FACT_ERROR(take(merged + PAGE_BYTES, 1), EINVAL);
}

int main(void)
{
        int device;

        fact_begin();
        device = fact_device();
        stage = fact_context(device, STAGE_FEATURES);
        staging = fact_map(N_PAGES);
        FACT_OK(error_from(madvise(staging, N_PAGES * PAGE_BYTES, MADV_DONTFORK)));
        FACT_OK(uffd_register(stage, (uintptr_t)staging, N_PAGES * PAGE_BYTES, UFFDIO_REGISTER_MODE_MISSING));
        fact_step("a page shared with a child");
        check_forked();
        fact_step("kinds of memory");
        check_kinds();
        fact_step("a pinned page");
        check_pinned();
        return 0;
}
