/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The contexts of a dead process say so when they are used, and only then; its pidfd says so at once
 *
 * Fact: when a process is gone, ioctls that fill or protect its memory say ESRCH, registering and
 * unregistering ENOMEM. Its contexts become neither readable nor hung up; its pidfd becomes readable. A
 * process that is killed while it waits for a fault or for the reading of its fork event dies nevertheless.
 *
 * Source: pidfd_open(2); fs/userfaultfd.c (mmget_not_zero()), userfaultfd_event_wait_completion()
 * (TASK_KILLABLE).
 *
 * Relied on by: daemon/serve/session (watches the pidfd), daemon/fault (ESRCH: forget the context).
 *
 * Without it: slots of the pool that are held for the dead.
 */

#include "fact.h"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_PAGES 4

static void set_up(int socket, char **ret_pages)
{
        char *pages = fact_map(N_PAGES);
        int device;

        fact_fill(pages, N_PAGES, 1);
        fact_receive(socket, &device);
        fact_send(socket, (uintptr_t)pages, (int)FACT_OK(uffd_create(device)));
        fact_receive(socket, NULL);
        *ret_pages = pages;
}

static void write_page(int socket, void *unused)
{
        char *pages;

        (void)unused;
        set_up(socket, &pages);
        pages[PAGE_BYTES] = 1;
        FACT_CHECK(false, "the write was not held");
}

static void fork_child(int socket, void *unused)
{
        char *pages;

        (void)unused;
        set_up(socket, &pages);
        FACT_OK(error_from(fork()));
        _exit(0);
}

/* Kills a process that waits for this one to read the context, and looks at what is left. */
static void check_death(int device, void (*body)(int, void *))
{
        static const char zeros[PAGE_BYTES] __attribute__((__aligned__(4096)));
        struct fact_client process;
        struct pollfd fds[2] = {{.events = POLLIN}, {.events = POLLIN}};
        int hold, status;
        uint64_t at;

        fact_client_start(&process, FACT_NOBODY, body, NULL);
        fds[0].fd = (int)FACT_OK(error_from(syscall(SYS_pidfd_open, process.pid, 0)));
        fact_send(process.socket, 0, device);
        at = fact_receive(process.socket, &hold);
        fds[1].fd = hold;
        fact_api(device, hold, HOLD_FEATURES);
        FACT_OK(uffd_register(hold, at, N_PAGES * PAGE_BYTES, UFFDIO_REGISTER_MODE_WP));
        FACT_OK(uffd_write_protect(hold, at, N_PAGES * PAGE_BYTES, true));
        fact_send(process.socket, 0, -EBADF);
        fact_wait_message(hold);
        FACT_OK(error_from(poll(fds, 1, 0)));
        FACT_CHECK(!fds[0].revents, "the pidfd says %#x although the process lives",
                   (unsigned)fds[0].revents);

        FACT_OK(error_from(kill(process.pid, SIGKILL)));
        FACT_OK(error_from(poll(fds, 1, -1)));
        FACT_CHECK(fds[0].revents & POLLIN, "the pidfd says %#x", (unsigned)fds[0].revents);
        FACT_OK(error_from(waitpid(process.pid, &status, 0)));
        FACT_CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %#x", (unsigned)status);
        FACT_ERROR(uffd_write_protect(hold, at, PAGE_BYTES, true), ESRCH);
        FACT_ERROR(uffd_copy(hold, at, zeros, PAGE_BYTES, 0), ESRCH);
        FACT_ERROR(hold_answer_write(hold, at), ESRCH);
        FACT_ERROR(hold_answer_minor(hold, at, false), ESRCH);
        FACT_OK(error_from(poll(fds + 1, 1, 0)));
        FACT_CHECK(!(fds[1].revents & POLLHUP), "the context is hung up");
        FACT_CHECK(uffd_events_pending(hold) == 0, "an event is still pending");
        FACT_ERROR(uffd_register(hold, at, PAGE_BYTES, UFFDIO_REGISTER_MODE_WP), ENOMEM);
        FACT_ERROR(uffd_unregister(hold, at, PAGE_BYTES), ENOMEM);
        process.socket = fd_close(process.socket);
        fd_close(hold);
        fd_close(fds[0].fd);
}

int main(void)
{
        int device;

        fact_begin();
        device = fact_device();
        fact_step("killing a process that waits for a fault");
        check_death(device, write_page);
        fact_step("killing a process that waits in fork");
        check_death(device, fork_child);
        return 0;
}
