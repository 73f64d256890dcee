/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A client that is not root can be served completely
 *
 * Fact: with a passed descriptor of /dev/userfaultfd an unprivileged process creates contexts of its own
 * (USERFAULTFD_IOC_NEW). A privileged process that receives such a context does UFFDIO_API on it, EVENT_FORK
 * included, registers the other's memory and protects it. Faults that system calls of the client take are
 * served like those of its own instructions.
 *
 * Source: Documentation/admin-guide/mm/userfaultfd.rst "Creating a userfaultfd"; fs/userfaultfd.c,
 * userfaultfd_api() (EVENT_FORK needs CAP_SYS_PTRACE of the caller of the ioctl).
 *
 * Relied on by: the HELLO and CONTEXTS messages (libwp/wire.h), libwp/wp.c, daemon/fault.
 *
 * Without it: only clients of root; or EFAULT from a client's read(2) into a merged page.
 */

#include "fact.h"

#include <string.h>
#include <unistd.h>

#define N_PAGES 4

static void client(int socket, void *unused)
{
        int device, context, pipe_fds[2];
        char *pages = fact_map(N_PAGES);

        (void)unused;
        fact_fill(pages, N_PAGES, 1);
        fact_receive(socket, &device);
        context = (int)FACT_OK(uffd_create(device));
        FACT_ERROR(uffd_api(context, HOLD_FEATURES), EPERM);
        fact_send(socket, (uintptr_t)pages, context);

        fact_receive(socket, NULL);
        FACT_OK(error_from(pipe(pipe_fds)));
        FACT_CHECK(write(pipe_fds[1], "kernel", 6) == 6, "%m");
        FACT_OK(error_from(read(pipe_fds[0], pages + PAGE_BYTES + 10, 6)));
        FACT_CHECK(!memcmp(pages + PAGE_BYTES + 10, "kernel", 6), "other bytes");

        pages[2 * PAGE_BYTES] = 7;
        FACT_CHECK(pages[2 * PAGE_BYTES] == 7, "another byte");
        FACT_CHECK(fact_filled(pages, 1, 1), "page 0 changed");
}

int main(void)
{
        struct fact_client process;
        int device, hold;
        char *pages;

        fact_begin();
        device = fact_device();
        fact_client_start(&process, FACT_NOBODY, client, NULL);
        fact_send(process.socket, 0, device);
        fact_step("waiting for the client's context");
        pages = (char *)(uintptr_t)fact_receive(process.socket, &hold);
        FACT_CHECK(uffd_is_context(hold), "not recognised as a userfaultfd");
        FACT_CHECK(!uffd_is_context(device), "the device is taken for a context");

        fact_step("the remote set-up");
        fact_api(device, hold, HOLD_FEATURES);
        FACT_OK(uffd_register(hold, (uintptr_t)pages, N_PAGES * PAGE_BYTES, UFFDIO_REGISTER_MODE_WP));
        FACT_OK(uffd_write_protect(hold, (uintptr_t)pages, N_PAGES * PAGE_BYTES, true));
        FACT_CHECK(fact_quiet(hold), "a message although nothing was written");
        fact_send(process.socket, 0, -EBADF);

        fact_step("waiting for the fault of read(2)");
        fact_fault(hold, pages + PAGE_BYTES, UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE);
        FACT_OK(hold_answer_write(hold, (uintptr_t)pages + PAGE_BYTES));
        fact_step("waiting for the fault of an instruction");
        fact_fault(hold, pages + 2 * PAGE_BYTES, UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE);
        FACT_OK(hold_answer_write(hold, (uintptr_t)pages + 2 * PAGE_BYTES));
        fact_step("waiting for the client's end");
        fact_client_join(&process);
        return 0;
}
