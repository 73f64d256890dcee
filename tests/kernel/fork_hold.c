/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A forked child's merged pages are served through a context of its own, which arrives before the child can
 * run
 *
 * Fact: fork(2) of a process with hold-registered memory sends EVENT_FORK and waits until it is read; the
 * message brings a new descriptor. It serves the child's memory, from any process: the child's pages are
 * still protected and registered, its writes and its discarded pages are faults there and not on the
 * parent's context. While the event is unread, UFFDIO_WRITEPROTECT on the parent's context says EAGAIN: one
 * that succeeded proves that every fork before it has been heard of.
 *
 * Source: Documentation/admin-guide/mm/userfaultfd.rst "Non-cooperative userfaultfd"; fs/userfaultfd.c,
 * dup_userfaultfd(), dup_userfaultfd_complete(); limit L4.
 *
 * Relied on by: the CHILD message (libwp/wire.h), daemon/fault, libwp/watcher.c, reclaiming slots of the
 * pool.
 *
 * Without it: a child that reads another content than its parent had, or a slot that is reused while a child
 * maps it.
 */

#include "fact.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_PAGES 8
#define WP      (UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE)

static struct fact_pool pool;
static atomic_bool *forked; /* shared with the client */

static void child(char *pages)
{
        volatile char *written = pages + 2 * PAGE_BYTES;
        char before = *written;

        FACT_OK(error_from(madvise(pages + PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED)));
        FACT_CHECK(fact_zero(pages + PAGE_BYTES, 1), "the child's discarded page is not zeros");
        *written = (char)~before;
        FACT_CHECK(*written == (char)~before, "the child's write was lost");
        FACT_CHECK(fact_filled(pages, 1, 1), "the child sees other content");
}

static void client(int socket, void *unused)
{
        int device, hold, status;
        char *pages;
        pid_t pid;

        (void)unused;
        fact_receive(socket, &device);
        hold = (int)FACT_OK(uffd_create(device));
        pages = fact_map_pool(&pool, 0, N_PAGES);
        fact_send(socket, (uintptr_t)pages, hold);
        fact_receive(socket, NULL);
        pid = (pid_t)FACT_OK(error_from(fork()));
        if (pid == 0) {
                child(pages);
                _exit(0);
        }
        atomic_store(forked, true);
        FACT_OK(error_from(waitpid(pid, &status, 0)));
        FACT_CHECK(status == 0, "the child's status is %#x", (unsigned)status);
        FACT_CHECK(fact_filled(pages, N_PAGES, 1), "the child's doings changed its parent's pages");
        pages[2 * PAGE_BYTES] = 5;
}

/* Waits for the fork and returns the child's context. */
static int receive_child(int hold, const char *pages)
{
        int child_hold;

        fact_wait_message(hold);
        fact_pause();
        FACT_CHECK(!atomic_load(forked), "fork() returned before its event was read");
        FACT_ERROR(uffd_write_protect(hold, (uintptr_t)pages, PAGE_BYTES, true), EAGAIN);
        FACT_ERROR(hold_answer_write(hold, (uintptr_t)pages), EAGAIN);
        FACT_ERROR(hold_answer_minor(hold, (uintptr_t)pages, false), EAGAIN);
        FACT_CHECK(uffd_events_pending(hold) == 1, "no event is pending");
        child_hold = (int)fact_message(hold, UFFD_EVENT_FORK).arg.fork.ufd;
        FACT_CHECK(uffd_is_context(child_hold), "not a userfaultfd");
        while (uffd_write_protect(hold, (uintptr_t)pages, PAGE_BYTES, true) == -EAGAIN)
                sched_yield();
        FACT_OK(uffd_write_protect(hold, (uintptr_t)pages, PAGE_BYTES, true));
        return child_hold;
}

int main(void)
{
        struct fact_client process;
        int device, hold, child_hold;
        char *pages;

        fact_begin();
        device = fact_device();
        fact_pool(&pool, N_PAGES, 1);
        forked = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        FACT_CHECK(forked != MAP_FAILED, "%m");
        fact_client_start(&process, FACT_NOBODY, client, NULL);
        fact_send(process.socket, 0, device);
        pages = (char *)(uintptr_t)fact_receive(process.socket, &hold);
        fact_api(device, hold, HOLD_FEATURES);
        FACT_OK(uffd_register(hold, (uintptr_t)pages, N_PAGES * PAGE_BYTES,
                              UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MINOR));
        FACT_OK(uffd_write_protect(hold, (uintptr_t)pages, N_PAGES * PAGE_BYTES, true));
        fact_send(process.socket, 0, -EBADF);

        fact_step("waiting for the fork");
        child_hold = receive_child(hold, pages);
        fact_step("serving the child");
        fact_fault(child_hold, pages + PAGE_BYTES, UFFD_PAGEFAULT_FLAG_MINOR);
        FACT_VALUE(hold_answer_minor(child_hold, (uintptr_t)pages + PAGE_BYTES, false), 1);
        fact_fault(child_hold, pages + 2 * PAGE_BYTES, WP);
        FACT_CHECK(fact_quiet(hold), "the child's fault is on its parent's context");
        FACT_OK(hold_answer_write(child_hold, (uintptr_t)pages + 2 * PAGE_BYTES));
        fact_step("serving the parent after the child");
        fact_fault(hold, pages + 2 * PAGE_BYTES, WP);
        FACT_OK(hold_answer_write(hold, (uintptr_t)pages + 2 * PAGE_BYTES));
        fact_client_join(&process);
        FACT_CHECK(fact_pool_intact(&pool, 1), "the pool changed");
        return 0;
}
