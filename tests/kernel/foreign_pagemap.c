/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Who maps a page of the pool can be seen in /proc, of any process, but not with CAP_SYS_PTRACE alone
 *
 * Fact: with CAP_SYS_PTRACE and no other capability, /proc/PID/maps of another user's process can be opened, and its
 * /proc/PID/pagemap not (EACCES): for that it takes CAP_DAC_READ_SEARCH, too. PAGEMAP_SCAN on it says PAGE_IS_FILE of a page in a
 * private mapping of a tmpfs if and only if the page is the file's own, of a forked child without any context, too, which
 * PAGE_IS_WRITTEN says nothing about. It is not when it was written or discarded.
 *
 * Source: fs/proc/base.c, tgid_base_stuff[]; fs/proc/task_mmu.c, pagemap_open(), pagemap_page_category().
 *
 * Relied on by: daemon/kernel/rmap.h; daemon/process/sandbox.c, "The helper".
 *
 * Without it: there is a process with more rights than it needs, and wpctl sharers lists who does not share.
 */

#include "fact.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_PAGES 4

static struct fact_pool pool;
static int device;

static void child(int socket, char *pages)
{
        fact_receive(socket, NULL);
        /* What nobody touched since the fork need not be in its page tables. */
        FACT_CHECK(fact_filled(pages, N_PAGES, 1), "the child reads something else");
        fact_send(socket, 0, -EBADF);
        fact_receive(socket, NULL);
        pages[PAGE_BYTES] = 1;
        FACT_OK(error_from(madvise(pages + 2 * PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED)));
        fact_send(socket, 0, -EBADF);
        fact_receive(socket, NULL);
        _exit(0);
}

/* A process of another user maps the pool, protected as an agent does it, and forks. */
static void client(int socket, void *unused)
{
        int context, status;
        char *pages;
        pid_t pid;

        (void)unused;
        FACT_OK(error_from(prctl(PR_SET_DUMPABLE, 1)));
        context = fact_context(device, TRACK_FEATURES);
        pages = fact_map_merged(context, &pool, 0, N_PAGES);
        pid = (pid_t)FACT_OK(error_from(fork()));
        if (!pid)
                child(socket, pages);
        fact_send(socket, (uintptr_t)pages, -EBADF);
        fact_send(socket, (uint64_t)pid, -EBADF);
        FACT_OK(error_from(waitpid(pid, &status, 0)));
        FACT_CHECK(status == 0, "the child ended with status %#x", (unsigned)status);
}

static void keep_capabilities(uint64_t kept)
{
        struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct data[2];

        FACT_OK(error_from(syscall(SYS_capget, &header, data)));
        for (unsigned i = 0; i < 2; i++)
                data[i].effective = data[i].permitted & (uint32_t)(kept >> (32 * i));
        FACT_OK(error_from(syscall(SYS_capset, &header, data)));
}

static int open_of(pid_t pid, const char *name)
{
        char path[64];

        snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
        return (int)error_from(open(path, O_RDONLY | O_CLOEXEC));
}

static void check_rights(pid_t pid)
{
        int fd;

        keep_capabilities(UINT64_C(1) << CAP_SYS_PTRACE);
        fd = (int)FACT_OK(open_of(pid, "maps"));
        close(fd);
        FACT_ERROR(open_of(pid, "pagemap"), EACCES);
        keep_capabilities(UINT64_C(1) << CAP_DAC_READ_SEARCH);
        FACT_ERROR(open_of(pid, "pagemap"), EACCES);
        keep_capabilities(UINT64_C(1) << CAP_SYS_PTRACE | UINT64_C(1) << CAP_DAC_READ_SEARCH);
        fd = (int)FACT_OK(open_of(pid, "pagemap"));
        close(fd);
}

/* expected: a bit for each page that is the pool's own. */
static void check_pages(const char *when, pid_t pid, const char *pages, unsigned expected)
{
        int pagemap = (int)FACT_OK(open_of(pid, "pagemap"));
        unsigned seen = 0;

        for (unsigned i = 0; i < N_PAGES; i++)
                seen |= (unsigned)FACT_OK(pagemap_is_file(pagemap, (uintptr_t)pages + i * PAGE_BYTES)) << i;
        close(pagemap);
        FACT_CHECK(seen == expected, "%s: %#x instead of %#x", when, seen, expected);
}

int main(void)
{
        struct fact_client process;
        char *pages;
        pid_t pid;

        fact_begin();
        device = fact_device();
        fd_close(fact_context(device, TRACK_FEATURES)); /* skips, which the client cannot */
        fd_close(fact_pagemap());
        if (geteuid())
                fact_skip("the rights of root are the question");
        fact_pool(&pool, N_PAGES, 1);
        fact_client_start(&process, FACT_NOBODY, client, NULL);
        pages = (char *)(uintptr_t)fact_receive(process.socket, NULL);
        pid = (pid_t)fact_receive(process.socket, NULL);
        fact_step("the child reads");
        fact_send(process.socket, 0, -EBADF);
        fact_receive(process.socket, NULL);

        fact_step("rights");
        check_rights(process.pid);
        check_rights(pid);
        fact_step("pages of the parent and of the child");
        check_pages("parent", process.pid, pages, 0xf);
        check_pages("child", pid, pages, 0xf);
        fact_step("the child wrote one and discarded another");
        fact_send(process.socket, 0, -EBADF);
        fact_receive(process.socket, NULL);
        check_pages("parent, untouched", process.pid, pages, 0xf);
        check_pages("child, written", pid, pages, 0x9);
        fact_send(process.socket, 0, -EBADF);
        fact_client_join(&process);
        return 0;
}
