/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * io_uring reads userfaultfds
 *
 * Fact: IORING_OP_READ on a userfaultfd that has nothing to say stays in flight and completes with the
 * message of the next fault or event. The descriptor that an EVENT_FORK brings is installed in the process
 * that owns the ring and can be used there. A read that is in flight can be cancelled.
 *
 * Source: fs/userfaultfd.c, userfaultfd_read_iter() (Linux 6.10); io_uring/rw.c.
 *
 * Relied on by: daemon/fault.
 *
 * Without it: a system call more for every fault.
 */

#include "fact.h"

#include <liburing.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_PAGES 4
#define TAG     7

static struct io_uring ring;

static void submit_read(int context, struct uffd_msg *message)
{
        struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

        io_uring_prep_read(sqe, context, message, sizeof(*message), 0);
        sqe->user_data = TAG;
        FACT_CHECK(FACT_OK(io_uring_submit(&ring)) == 1, "not submitted");
}

static int wait_completion(uint64_t tag)
{
        struct io_uring_cqe *cqe;
        int result;

        FACT_OK(io_uring_wait_cqe(&ring, &cqe));
        result = cqe->res;
        FACT_CHECK(cqe->user_data == tag, "another completion, %llu", (unsigned long long)cqe->user_data);
        io_uring_cqe_seen(&ring, cqe);
        return result;
}

static void *fork_run(void *argument)
{
        char *pages = argument;
        pid_t pid = (pid_t)FACT_OK(error_from(fork()));
        int status;

        if (pid == 0) {
                alarm(30); /* fork() cleared the watchdog */
                pages[PAGE_BYTES] = 1;
                _exit(0);
        }
        FACT_OK(error_from(waitpid(pid, &status, 0)));
        FACT_CHECK(status == 0, "the child's status is %#x", (unsigned)status);
        return NULL;
}

int main(void)
{
        struct fact_access writer;
        struct uffd_msg message = {0};
        int device, hold, child_hold, result, r = io_uring_queue_init(8, &ring, 0);
        pthread_t forker;
        char *pages;

        fact_begin();
        if (r < 0)
                fact_skip("io_uring: %s", strerror(-r));
        device = fact_device();
        hold = fact_context(device, HOLD_FEATURES);
        pages = fact_map(N_PAGES);
        fact_fill(pages, N_PAGES, 1);
        FACT_OK(uffd_register(hold, (uintptr_t)pages, N_PAGES * PAGE_BYTES, UFFDIO_REGISTER_MODE_WP));
        FACT_OK(uffd_write_protect(hold, (uintptr_t)pages, N_PAGES * PAGE_BYTES, true));

        fact_step("a fault");
        submit_read(hold, &message);
        fact_pause();
        FACT_CHECK(io_uring_cq_ready(&ring) == 0, "a read was over although there was nothing to read");
        fact_access_start(&writer, pages, true, 1);
        result = wait_completion(TAG);
        FACT_CHECK(result == sizeof(message), "result %d", result);
        FACT_CHECK(message.event == UFFD_EVENT_PAGEFAULT && message.arg.pagefault.address == (uintptr_t)pages,
                   "event %#x at %#llx", message.event, (unsigned long long)message.arg.pagefault.address);
        FACT_OK(hold_answer_write(hold, (uintptr_t)pages));
        fact_access_join(&writer);

        fact_step("a fork");
        submit_read(hold, &message);
        FACT_OK(-pthread_create(&forker, NULL, fork_run, pages));
        result = wait_completion(TAG);
        FACT_CHECK(result == sizeof(message) && message.event == UFFD_EVENT_FORK, "result %d, event %#x",
                   result, message.event);
        child_hold = (int)message.arg.fork.ufd;
        FACT_CHECK(uffd_is_context(child_hold), "descriptor %d is not a userfaultfd", child_hold);
        fact_step("a fault of the child");
        submit_read(child_hold, &message);
        result = wait_completion(TAG);
        FACT_CHECK(result == sizeof(message) && message.event == UFFD_EVENT_PAGEFAULT, "result %d, event %#x",
                   result, message.event);
        FACT_OK(hold_answer_write(child_hold, message.arg.pagefault.address));
        FACT_OK(-pthread_join(forker, NULL));

        fact_step("cancelling a read");
        submit_read(hold, &message);
        io_uring_prep_cancel64(io_uring_get_sqe(&ring), TAG, 0);
        FACT_OK(io_uring_submit(&ring));
        for (int i = 0; i < 2; i++) {
                struct io_uring_cqe *cqe;

                FACT_OK(io_uring_wait_cqe(&ring, &cqe));
                if (cqe->user_data == TAG)
                        FACT_CHECK(cqe->res == -ECANCELED || cqe->res == -EINTR, "the read says %d",
                                   cqe->res);
                else
                        FACT_CHECK(cqe->res >= 0 || cqe->res == -EALREADY, "the cancellation says %d",
                                   cqe->res);
                io_uring_cqe_seen(&ring, cqe);
        }
        io_uring_queue_exit(&ring);
        return 0;
}
