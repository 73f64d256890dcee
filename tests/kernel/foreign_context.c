/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Filling and unprotecting memory works through any context of the process, not only through its own
 *
 * Fact: UFFDIO_COPY and UFFDIO_WRITEPROTECT ask whether the memory belongs to a context, and not to which. So
 * an answer to a fault that is given late, when the memory has been registered with another context
 * meanwhile, takes that context's protection away: the next writer meets no fault. Who waits in the other
 * context goes on waiting; who waits in the context that answers goes on. But nobody does if the memory was
 * registered for missing pages, too, as merged memory is (HOLD_MODES): then UFFDIO_UNREGISTER wakes writers
 * as well. They write before the other context protects the page, or wait in that one. And memory can be
 * filled through a context that has no events while the events of its own context are unread.
 * UFFDIO_REGISTER does ask: it is the way to find out.
 *
 * Source: mm/userfaultfd.c, mwriteprotect_range(), mfill_atomic(); fs/userfaultfd.c,
 * userfaultfd_unregister() (wakes if userfaultfd_missing()).
 *
 * Relied on by: libwp/run.c (putting back, completing children); tests/model/protocol (kernel.h).
 *
 * Without it: pages could not be put back before the events of guard are read.
 */

#include "fact.h"

#include <sys/mman.h>

#define MODES (HOLD_MODES & ~UFFDIO_REGISTER_MODE_MISSING)

static struct fact_pool pool;
static int device;

/* The exchange of hold for guard with a writer's fault in between, of memory that is not registered for missing pages. */
static void check_late_answer(void)
{
        int hold = fact_context(device, HOLD_FEATURES), guard = fact_context(device, GUARD_FEATURES);
        char *page = fact_map_pool(&pool, 0, 1);
        struct fact_access writer;

        FACT_OK(uffd_register(hold, (uintptr_t)page, PAGE_BYTES, MODES));
        FACT_OK(uffd_write_protect(hold, (uintptr_t)page, PAGE_BYTES, true));
        fact_step("waiting for the writer's fault");
        fact_access_start(&writer, page, true, 7);
        fact_fault(hold, page, UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE);
        FACT_OK(uffd_unregister(hold, (uintptr_t)page, PAGE_BYTES));
        FACT_OK(uffd_register(guard, (uintptr_t)page, PAGE_BYTES, MODES));
        FACT_OK(uffd_write_protect(guard, (uintptr_t)page, PAGE_BYTES, true));
        fact_pause();
        FACT_CHECK(!atomic_load(&writer.done), "the exchange woke the writer");
        fact_step("answering late");
        FACT_VALUE(hold_answer_write(hold, (uintptr_t)page), 0);
        fact_access_join(&writer);
        FACT_CHECK(page[0] == 7 && fact_quiet(guard), "guard was asked");
        fd_close(hold);
        fd_close(guard);
}

/* The same exchange as giving merged memory back makes it. */
static void check_merged(void)
{
        int hold = fact_context(device, HOLD_FEATURES), guard = fact_context(device, GUARD_FEATURES);
        char *page = fact_map_merged(hold, &pool, 0, 1);
        struct fact_access early, late;

        fact_step("waiting for the early writer's fault");
        fact_access_start(&early, page, true, 7);
        fact_fault(hold, page, UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE);
        fact_step("taking the page from hold, which wakes him");
        FACT_OK(uffd_unregister(hold, (uintptr_t)page, PAGE_BYTES));
        fact_access_join(&early);
        FACT_OK(uffd_register(guard, (uintptr_t)page, PAGE_BYTES, HOLD_MODES));
        FACT_OK(uffd_write_protect(guard, (uintptr_t)page, PAGE_BYTES, true));
        fact_step("waiting for the late writer's fault");
        fact_access_start(&late, page, true, 8);
        fact_fault(guard, page, UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE);
        FACT_VALUE(hold_answer_write(hold, (uintptr_t)page), 0);
        fact_pause();
        FACT_CHECK(!atomic_load(&late.done), "an answer through hold woke who waits in guard");
        fact_step("waking him, whose page is not protected any more");
        FACT_OK(uffd_wake(guard, (uintptr_t)page, PAGE_BYTES));
        fact_access_join(&late);
        FACT_CHECK(page[0] == 8 && fact_quiet(guard), "guard was asked again");
        fd_close(hold);
        fd_close(guard);
}

struct discard {
        char *page;
        pthread_t thread;
};

static void *discard_run(void *argument)
{
        struct discard *discard = argument;

        FACT_OK(error_from(madvise(discard->page, PAGE_BYTES, MADV_DONTNEED)));
        return NULL;
}

/* Putting back a frozen page whose context has an event that nobody has read. */
static void check_fill(void)
{
        int guard = fact_context(device, GUARD_FEATURES), stage = fact_context(device, STAGE_FEATURES);
        struct discard discard = {.page = fact_map(1)};
        char *staging = fact_map(1);

        fact_fill(staging, 1, 2);
        FACT_OK(uffd_register(stage, (uintptr_t)staging, PAGE_BYTES, UFFDIO_REGISTER_MODE_MISSING));
        FACT_OK(uffd_register(guard, (uintptr_t)discard.page, PAGE_BYTES, UFFDIO_REGISTER_MODE_MISSING));
        FACT_OK(-pthread_create(&discard.thread, NULL, discard_run, &discard));
        fact_step("waiting for the discarding thread");
        fact_wait_message(guard);
        FACT_ERROR(uffd_copy(guard, (uintptr_t)discard.page, staging, PAGE_BYTES, 0), EAGAIN);
        FACT_OK(uffd_copy(stage, (uintptr_t)discard.page, staging, PAGE_BYTES, 0));
        FACT_CHECK(fact_filled(discard.page, 1, 2), "the page has another content");
        fact_message(guard, UFFD_EVENT_REMOVE);
        FACT_OK(-pthread_join(discard.thread, NULL));
        FACT_OK(uffd_unregister(guard, (uintptr_t)discard.page, PAGE_BYTES));
        FACT_CHECK(fact_zero(discard.page, 1), "what was discarded afterwards is not zeros");
}

/* Registering once more what is registered changes nothing, and says whose it is. */
static void check_probe(void)
{
        int hold = fact_context(device, HOLD_FEATURES), guard = fact_context(device, GUARD_FEATURES);
        char *page = fact_map_merged(hold, &pool, 0, 1), *other = fact_map(1);

        FACT_OK(uffd_register(guard, (uintptr_t)other, PAGE_BYTES, UFFDIO_REGISTER_MODE_MISSING));
        FACT_OK(uffd_register(guard, (uintptr_t)other, PAGE_BYTES, UFFDIO_REGISTER_MODE_MISSING));
        FACT_ERROR(uffd_register(guard, (uintptr_t)page, PAGE_BYTES, UFFDIO_REGISTER_MODE_MISSING), EBUSY);
        fd_close(hold);
        fd_close(guard);
}

int main(void)
{
        fact_begin();
        device = fact_device();
        fact_pool(&pool, 1, 1);
        check_late_answer();
        check_merged();
        check_fill();
        check_probe();
        return 0;
}
