/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A mapping whose page of the pool was punched gets what is stored there next, unless it is registered for
 * missing pages, too
 *
 * Fact: a program writes a merged page, which is copied for it, and discards it later. If the page of the
 * pool was punched meanwhile, its next read is no minor fault: the kernel makes a page of zeros in the file
 * and maps that, and what is stored at this place of the file afterwards is what the program reads. With
 * UFFDIO_REGISTER_MODE_MISSING in addition the read is a fault - without any flag -, UFFDIO_COPY of zeros
 * answers it as it does a minor fault, and the file stays empty. This holds for asynchronous write protection
 * as well.
 *
 * Source: mm/shmem.c, shmem_get_folio_gfp() (userfaultfd_minor() if there is a page, userfaultfd_missing() if
 * there is none).
 *
 * Relied on by: daemon/kernel/hold.h (HOLD_MODES); tests/model/protocol (GUARD_MISSING).
 *
 * Without it: slots of the pool could not be used again while anybody has a mapping of them, even one that
 * shares nothing any more.
 */

#include "fact.h"

#include <sys/mman.h>
#include <sys/stat.h>

#define MODES (UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MINOR)

static struct fact_pool pool;
static int device;

/* Merges the page, writes it, punches its page of the pool, and discards it. */
static char *prepare(int context, uint64_t modes)
{
        char *page;

        fact_pool(&pool, 1, 1);
        page = fact_map_pool(&pool, 0, 1);
        FACT_OK(uffd_register(context, (uintptr_t)page, PAGE_BYTES, modes));
        page[0] = 1;
        FACT_OK(poolfile_discard(pool.writable, 0, PAGE_BYTES));
        FACT_CHECK(page[0] == 1, "the copy is gone");
        FACT_OK(error_from(madvise(page, PAGE_BYTES, MADV_DONTNEED)));
        return page;
}

static off_t blocks(void)
{
        struct stat st;

        FACT_OK(error_from(fstat(pool.writable, &st)));
        return st.st_blocks;
}

static void store(void)
{
        char content[PAGE_BYTES];

        fact_fill(content, 1, 2);
        FACT_OK(poolfile_write(pool.writable, 0, content, PAGE_BYTES));
}

static void check_unregistered(uint64_t features)
{
        int context = fact_context(device, features);
        const char *page = prepare(context, MODES);

        fact_step("reading what nobody serves");
        FACT_CHECK(fact_zero(page, 1) && blocks() != 0, "no page was made");
        store();
        FACT_CHECK(fact_filled(page, 1, 2), "the program does not see what was stored");
        fd_close(context);
}

static void check_registered(uint64_t features)
{
        int context = fact_context(device, features);
        char *page = prepare(context, HOLD_MODES);
        struct fact_access reader;

        fact_access_start(&reader, page, false, 0);
        fact_step("waiting for the reader's fault");
        fact_fault(context, page, 0);
        FACT_VALUE(hold_answer_minor(context, (uintptr_t)page, false), 1);
        fact_access_join(&reader);
        FACT_CHECK(blocks() == 0, "a page was made");
        store();
        FACT_CHECK(fact_zero(page, 1), "the program sees what was stored");
        fd_close(context);
}

int main(void)
{
        fact_begin();
        device = fact_device();
        check_unregistered(HOLD_FEATURES);
        check_registered(HOLD_FEATURES);
        check_registered((HOLD_FEATURES & ~(uint64_t)UFFD_FEATURE_PAGEFAULT_FLAG_WP) | TRACK_FEATURES);
        return 0;
}
