/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A child forked while a run is frozen gets the run's content before it can miss it
 *
 * Fact: fork(2) of a process with guard-registered memory sends EVENT_FORK with the child's guard. The child
 * waits for the absent pages as its parent's threads do, and UFFDIO_COPY through the child's context brings
 * them. The child's context has the parent's features, EVENT_REMOVE and EVENT_FORK included: once the child
 * has discarded memory or forked, UFFDIO_COPY says EAGAIN until that event has been read. When the context
 * is closed the child's memory is ordinary memory again.
 *
 * Source: fs/userfaultfd.c, dup_userfaultfd(), userfaultfd_release(); trap T4.
 *
 * Relied on by: libwp/run.c (step 9).
 *
 * Without it: children that read zeros, or hang.
 */

#include "fact.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_PAGES 4

struct forker {
        char *run;
        int closed[2]; /* pipe: a byte says that the child's context is closed */
        int status;
};

static void child(struct forker *forker)
{
        char byte;

        FACT_CHECK(fact_filled(forker->run, 1, 1), "page 0 is not what it was at the fork");
        FACT_OK(error_from(madvise(forker->run + PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED)));
        FACT_CHECK(read(forker->closed[0], &byte, 1) == 1, "%m");
        FACT_CHECK(fact_zero(forker->run + PAGE_BYTES, 1), "what the child discarded is not zeros");
        FACT_CHECK(forker->run[3 * PAGE_BYTES] == 9, "page 3 is not what it was at the fork");
}

static void *fork_run(void *argument)
{
        struct forker *forker = argument;
        pid_t pid = (pid_t)FACT_OK(error_from(fork()));

        if (pid == 0) {
                alarm(30); /* fork() cleared the watchdog */
                child(forker);
                _exit(0);
        }
        FACT_OK(error_from(waitpid(pid, &forker->status, 0)));
        return NULL;
}

int main(void)
{
        struct forker forker = {0};
        int device, guard, stage, child_guard;
        pthread_t thread;
        struct uffd_msg event;
        char *staging;

        fact_begin();
        device = fact_device();
        guard = fact_context(device, GUARD_FEATURES);
        stage = fact_context(device, STAGE_FEATURES);
        FACT_OK(error_from(pipe(forker.closed)));
        forker.run = fact_map(N_PAGES);
        fact_fill(forker.run, 3, 1);
        forker.run[3 * PAGE_BYTES] = 9;
        staging = fact_map(N_PAGES);
        FACT_OK(error_from(madvise(staging, N_PAGES * PAGE_BYTES, MADV_DONTFORK)));
        FACT_OK(uffd_register(stage, (uintptr_t)staging, N_PAGES * PAGE_BYTES, UFFDIO_REGISTER_MODE_MISSING));
        FACT_OK(uffd_register(guard, (uintptr_t)forker.run, N_PAGES * PAGE_BYTES,
                              UFFDIO_REGISTER_MODE_MISSING));
        FACT_OK(uffd_move(stage, (uintptr_t)staging, (uintptr_t)forker.run, N_PAGES * PAGE_BYTES, 0));

        fact_step("waiting for the fork");
        FACT_OK(-pthread_create(&thread, NULL, fork_run, &forker));
        child_guard = (int)fact_message(guard, UFFD_EVENT_FORK).arg.fork.ufd;
        fact_step("waiting for the child's fault");
        fact_fault(child_guard, forker.run, 0);
        FACT_OK(uffd_copy(child_guard, (uintptr_t)forker.run, staging, PAGE_BYTES, 0));

        fact_step("waiting for the child's event");
        fact_wait_message(child_guard);
        FACT_ERROR(uffd_copy(child_guard, (uintptr_t)forker.run + 3 * PAGE_BYTES, staging + 3 * PAGE_BYTES,
                             PAGE_BYTES, 0),
                   EAGAIN);
        event = fact_message(child_guard, UFFD_EVENT_REMOVE);
        FACT_CHECK(event.arg.remove.start == (uintptr_t)forker.run + PAGE_BYTES, "%#llx",
                   (unsigned long long)event.arg.remove.start);
        fact_step("copying the rest");
        while (uffd_events_pending(child_guard) == 1)
                sched_yield();
        FACT_OK(uffd_copy(child_guard, (uintptr_t)forker.run + 3 * PAGE_BYTES, staging + 3 * PAGE_BYTES,
                          PAGE_BYTES, 0));
        FACT_ERROR(uffd_copy(child_guard, (uintptr_t)forker.run, staging, PAGE_BYTES, 0), EEXIST);
        fd_close(child_guard);
        FACT_CHECK(write(forker.closed[1], "x", 1) == 1, "%m");
        fact_step("waiting for the child's end");
        FACT_OK(-pthread_join(thread, NULL));
        FACT_CHECK(forker.status == 0, "the child's status is %#x", (unsigned)forker.status);
        return 0;
}
