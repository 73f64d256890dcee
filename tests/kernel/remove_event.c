/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A program that discards memory while it is being merged is noticed before anything can be put back
 *
 * Fact: MADV_DONTNEED in guard-registered memory sends EVENT_REMOVE and waits until it is read. From before
 * the event can be seen until after it has been read every ioctl of this context that fills memory says
 * EAGAIN, and uffd_events_pending() says 1. Other contexts of the process are not concerned. The call that
 * was noticed carries on only after the read, so EAGAIN may last a moment longer than the event: whoever
 * drains must look again.
 *
 * Source: Documentation/admin-guide/mm/userfaultfd.rst "Non-cooperative userfaultfd"; fs/userfaultfd.c,
 * userfaultfd_remove(), userfaultfd_event_wait_completion(); traps T3, T8.
 *
 * Relied on by: libwp/run.c (steps 6 and 9), daemon/kernel/uffd.h.
 *
 * Without it: old data comes back into memory that the program has discarded.
 */

#include "fact.h"

#include <sched.h>
#include <sys/mman.h>

#define N_PAGES 8
#define REMOVED 3

struct discard {
        char *page;
        atomic_bool done;
};

static void *discard_run(void *argument)
{
        struct discard *discard = argument;

        FACT_OK(error_from(madvise(discard->page, PAGE_BYTES, MADV_DONTNEED)));
        atomic_store(&discard->done, true);
        return NULL;
}

int main(void)
{
        struct discard discard = {0};
        struct uffd_msg event;
        int device, guard, stage;
        pthread_t thread;
        char *run, *staging;
        int64_t moved;

        fact_begin();
        device = fact_device();
        guard = fact_context(device, GUARD_FEATURES);
        stage = fact_context(device, STAGE_FEATURES);
        run = fact_map(N_PAGES);
        staging = fact_map(N_PAGES);
        fact_fill(run, N_PAGES, 1);
        FACT_OK(uffd_register(stage, (uintptr_t)staging, N_PAGES * PAGE_BYTES, UFFDIO_REGISTER_MODE_MISSING));
        FACT_CHECK(uffd_events_pending(guard) == 0, "an event is pending on an unused context");
        FACT_OK(uffd_register(guard, (uintptr_t)run, N_PAGES * PAGE_BYTES, UFFDIO_REGISTER_MODE_MISSING));
        FACT_OK(uffd_move(stage, (uintptr_t)staging, (uintptr_t)run, (N_PAGES - 1) * PAGE_BYTES, 0));
        FACT_CHECK(uffd_events_pending(guard) == 0, "an event is pending without a cause");

        fact_step("waiting for the event");
        discard.page = run + REMOVED * PAGE_BYTES;
        FACT_OK(-pthread_create(&thread, NULL, discard_run, &discard));
        fact_wait_message(guard);
        FACT_CHECK(uffd_events_pending(guard) == 1, "no event is pending");
        FACT_ERROR(uffd_copy(guard, (uintptr_t)run, staging, PAGE_BYTES, 0), EAGAIN);
        FACT_ERROR(uffd_move(guard, (uintptr_t)run, (uintptr_t)staging, PAGE_BYTES, 0), EAGAIN);
        FACT_CHECK(uffd_events_pending(stage) == 0, "an event is pending on another context");
        moved = uffd_move(stage, (uintptr_t)staging + (N_PAGES - 1) * PAGE_BYTES,
                          (uintptr_t)run + (N_PAGES - 1) * PAGE_BYTES, PAGE_BYTES, 0);
        FACT_CHECK(moved == (int64_t)PAGE_BYTES, "another context cannot move: %lld", (long long)moved);
        fact_pause();
        FACT_CHECK(!atomic_load(&discard.done), "madvise() returned before the event was read");
        FACT_CHECK(uffd_events_pending(guard) == 1, "no event is pending any more");

        fact_step("reading the event");
        event = fact_message(guard, UFFD_EVENT_REMOVE);
        FACT_CHECK(event.arg.remove.start == (uintptr_t)discard.page &&
                           event.arg.remove.end == (uintptr_t)discard.page + PAGE_BYTES,
                   "%#llx-%#llx", (unsigned long long)event.arg.remove.start,
                   (unsigned long long)event.arg.remove.end);
        while (uffd_events_pending(guard) == 1)
                sched_yield();
        moved = uffd_move(guard, (uintptr_t)run, (uintptr_t)staging, REMOVED * PAGE_BYTES, 0);
        FACT_CHECK(moved == REMOVED * (int64_t)PAGE_BYTES, "%lld", (long long)moved);
        FACT_OK(-pthread_join(thread, NULL));
        FACT_CHECK(fact_filled(run, REMOVED, 1), "other content");
        return 0;
}
