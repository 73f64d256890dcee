/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Nobody can be told of faults in a mapping of a regular file
 *
 * Fact: a mapping of a file that is not in a tmpfs cannot be registered with a userfaultfd for missing pages, for minor faults, or for
 * synchronous write protection (EINVAL). After MADV_DONTNEED a private one reads the file again.
 *
 * Source: include/linux/userfaultfd_k.h, vma_can_userfault().
 *
 * Relied on by: dedup/backing.h: anonymous memory shares with files by pages of the pool, and never maps the file itself. A
 * program that discards such a page wants zeros, and would read what the file has.
 *
 * Without it: the page of the file could serve both, and be dropped when memory is short.
 */

#include "fact.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <linux/magic.h>
#include <unistd.h>

#define N_PAGES 4

static char path[] = "/var/tmp/wpd-fact-XXXXXX";

static int make_file(void)
{
        static char content[N_PAGES * PAGE_BYTES];
        int fd = (int)FACT_OK(error_from(mkstemp(path)));
        struct statfs fs;

        FACT_OK(error_from(unlink(path)));
        FACT_OK(error_from(fstatfs(fd, &fs)));
        if (fs.f_type == TMPFS_MAGIC)
                fact_skip("/var/tmp is a tmpfs");
        fact_fill(content, N_PAGES, 1);
        FACT_VALUE(error_from(write(fd, content, sizeof(content))), (long)sizeof(content));
        return fd;
}

static const uint64_t modes[] = {UFFDIO_REGISTER_MODE_MISSING, UFFDIO_REGISTER_MODE_MINOR,
                                 UFFDIO_REGISTER_MODE_WP};

/* It is the file that matters: a memfd can be registered for all of these. */
static void check_memfd(int context)
{
        int fd = (int)FACT_OK(error_from(memfd_create("fact", MFD_CLOEXEC)));
        char *pages;

        FACT_OK(error_from(ftruncate(fd, N_PAGES * PAGE_BYTES)));
        pages = mmap(NULL, N_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
        FACT_CHECK(pages != MAP_FAILED, "%m");
        close(fd);
        for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
                FACT_OK(uffd_register(context, (uintptr_t)pages, N_PAGES * PAGE_BYTES, modes[i]));
                FACT_OK(uffd_unregister(context, (uintptr_t)pages, N_PAGES * PAGE_BYTES));
        }
}

int main(void)
{
        static const int kinds[] = {MAP_PRIVATE, MAP_SHARED};
        int device, context, fd;

        fact_begin();
        fd = make_file();
        device = fact_device();
        context = fact_context(device, HOLD_FEATURES);
        check_memfd(context);
        for (size_t kind = 0; kind < ARRAY_SIZE(kinds); kind++) {
                char *pages = mmap(NULL, N_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, kinds[kind], fd, 0);

                FACT_CHECK(pages != MAP_FAILED, "%m");
                for (size_t i = 0; i < ARRAY_SIZE(modes); i++)
                        FACT_ERROR(uffd_register(context, (uintptr_t)pages, N_PAGES * PAGE_BYTES, modes[i]),
                                   EINVAL);
                FACT_OK(error_from(madvise(pages, N_PAGES * PAGE_BYTES, MADV_DONTNEED)));
                FACT_CHECK(fact_filled(pages, N_PAGES, 1), "it does not read as the file does");
        }
        return 0;
}
