/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A client's memory is read through descriptors that the client itself opened, without ever waiting for
 * anybody
 *
 * Fact: an ordinary process opens its own /proc/self/mem and /proc/self/pagemap and passes them on. Whoever
 * has them reads the memory and does PAGEMAP_SCAN on it, protecting included. A read of a page that is
 * MISSING in a userfaultfd's range fails at once (EIO), or ends before it. Both stay bound to the address
 * space that they were opened in: after execve(2) they say that it is gone: end of file; ESRCH, or before Linux 6.17 that
 * there is nothing.
 *
 * Source: fs/proc/base.c, mem_rw() (the mm is taken at open); mm/gup.c (no FOLL_UNLOCKABLE, so
 * handle_userfault() cannot wait); fs/proc/task_mmu.c, do_pagemap_scan().
 *
 * Relied on by: the HELLO message (libwp/wire.h), daemon/dedup/scan.
 *
 * Without it: the scan thread waits for a client's agent, or reads another program under the old one's name.
 */

#include "fact.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define N_PAGES 8

static void client(int socket, void *unused)
{
        int device, track, guard;
        char *pages = fact_map(N_PAGES), *missing = fact_map(1);

        (void)unused;
        fact_fill(pages, N_PAGES, 1);
        fact_receive(socket, &device);
        track = (int)FACT_OK(uffd_create(device));
        guard = (int)FACT_OK(uffd_create(device));
        fact_send(socket, (uintptr_t)pages,
                  (int)FACT_OK(error_from(open("/proc/self/mem", O_RDONLY | O_CLOEXEC))));
        fact_send(socket, (uintptr_t)missing,
                  (int)FACT_OK(error_from(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC))));
        fact_send(socket, 0, track);
        fact_send(socket, 0, guard);
        fact_receive(socket, NULL);
        pages[2 * PAGE_BYTES]++;
        fact_send(socket, 0, -EBADF);
        fact_receive(socket, NULL);
        /* Another program, which ends when the other end of the socket is closed. */
        FACT_OK(error_from(dup2(socket, STDIN_FILENO)));
        execl("/bin/cat", "cat", NULL);
        FACT_CHECK(false, "/bin/cat: %m");
}

static void check_scan(int socket, int pagemap, const char *pages)
{
        FACT_CHECK(fact_written(pagemap, pages, N_PAGES) == N_PAGES, "%zu pages written",
                   fact_written(pagemap, pages, N_PAGES));
        FACT_OK(pagemap_protect(pagemap, (uintptr_t)pages, (uintptr_t)pages + N_PAGES * PAGE_BYTES));
        FACT_CHECK(fact_populated(pagemap, pages, N_PAGES, 0) == N_PAGES, "%zu pages populated",
                   fact_populated(pagemap, pages, N_PAGES, 0));
        FACT_CHECK(fact_written(pagemap, pages, N_PAGES) == 0, "%zu pages written",
                   fact_written(pagemap, pages, N_PAGES));
        fact_send(socket, 0, -EBADF);
        fact_receive(socket, NULL);
        FACT_CHECK(fact_written(pagemap, pages + 2 * PAGE_BYTES, 1) == 1 &&
                           fact_written(pagemap, pages, N_PAGES) == 1,
                   "%zu pages written", fact_written(pagemap, pages, N_PAGES));
}

int main(void)
{
        static char buffer[N_PAGES * PAGE_BYTES] __attribute__((__aligned__(4096)));
        struct fact_client process;
        struct page_region run;
        int device, mem, pagemap, track, guard;
        char *pages, *missing;
        uint64_t walked = 1;
        long n;

        fact_begin();
        device = fact_device();
        fact_pagemap();
        fact_client_start(&process, FACT_NOBODY, client, NULL);
        fact_send(process.socket, 0, device);
        pages = (char *)(uintptr_t)fact_receive(process.socket, &mem);
        missing = (char *)(uintptr_t)fact_receive(process.socket, &pagemap);
        fact_receive(process.socket, &track);
        fact_receive(process.socket, &guard);
        fact_api(device, track, TRACK_FEATURES);
        fact_api(device, guard, GUARD_FEATURES);
        FACT_OK(uffd_register(track, (uintptr_t)pages, N_PAGES * PAGE_BYTES, UFFDIO_REGISTER_MODE_WP));
        FACT_OK(uffd_register(guard, (uintptr_t)missing, PAGE_BYTES, UFFDIO_REGISTER_MODE_MISSING));

        fact_step("reading");
        n = FACT_OK(error_from(pread(mem, buffer, sizeof(buffer), (off_t)(uintptr_t)pages)));
        FACT_CHECK(n == (long)sizeof(buffer) && fact_filled(buffer, N_PAGES, 1),
                   "%ld bytes, or other content", n);
        fact_step("reading what is missing");
        FACT_ERROR(error_from(pread(mem, buffer, PAGE_BYTES, (off_t)(uintptr_t)missing)), EIO);
        FACT_CHECK(fact_quiet(guard), "the read caused a fault that somebody must serve");
        fact_step("PAGEMAP_SCAN");
        check_scan(process.socket, pagemap, pages);

        fact_step("after execve");
        fact_send(process.socket, 0, -EBADF);
        while ((n = error_from(pread(mem, buffer, PAGE_BYTES, (off_t)(uintptr_t)pages))) > 0)
                fact_pause();
        FACT_CHECK(n == 0, "reading says %s instead of end of file", strerror((int)-n));
        n = pagemap_survey(pagemap, (uintptr_t)pages, (uintptr_t)pages + PAGE_BYTES, &run, 1, &walked);
        FACT_CHECK(n == -ESRCH || n == 0, "a survey says %ld", n);
        FACT_CHECK(n == 0 || walked == 1, "a survey that failed walked up to %#llx",
                   (unsigned long long)walked);
        n = pagemap_survey_copied(pagemap, (uintptr_t)pages, (uintptr_t)pages + PAGE_BYTES, &run, 1, &walked);
        FACT_CHECK(n == -ESRCH || n == 0, "a survey of copies says %ld", n);
        n = pagemap_protect(pagemap, (uintptr_t)pages, (uintptr_t)pages + PAGE_BYTES);
        FACT_CHECK(n == -ESRCH || n == 0, "protecting says %ld", n);
        FACT_ERROR(uffd_write_protect(track, (uintptr_t)pages, PAGE_BYTES, true), ESRCH);
        shutdown(process.socket, SHUT_RDWR);
        fact_client_join(&process);
        return 0;
}
