/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * On overlayfs a read lease promises nothing
 *
 * Fact: a lease is granted on a file of an overlay that a process has mapped shared and writable, once the descriptor is closed:
 * the mapping is one of the file of the layer below, and the overlay does not know of it. What is written through it is in the
 * file, and nobody is told.
 *
 * Source: fs/overlayfs/file.c, ovl_mmap() (backing_file_mmap()).
 *
 * Relied on by: daemon/dedup/policy.c, policy_file_system(), which refuses such files.
 *
 * Without it: (the day this program fails) files of overlays could take part.
 */

#include "fact.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel/lease.h"

/* An overlay in a mount namespace of our own, which ends with it. */
static void make_overlay(void)
{
        static const char *const directories[] = {"lower", "upper", "work", "merged"};

        FACT_OK(error_from(unshare(CLONE_NEWNS)));
        FACT_OK(error_from(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)));
        FACT_OK(error_from(mount("none", "/tmp", "tmpfs", 0, NULL)));
        FACT_OK(error_from(chdir("/tmp")));
        for (size_t i = 0; i < ARRAY_SIZE(directories); i++)
                FACT_OK(error_from(mkdir(directories[i], 0755)));
        if (mount("overlay", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work") < 0)
                fact_skip("this kernel has no overlayfs");
}

int main(void)
{
        int reader, writer;
        char seen, *page;

        fact_begin();
        if (geteuid())
                fact_skip("only root may mount");
        make_overlay();
        writer = (int)FACT_OK(error_from(open("merged/file", O_RDWR | O_CREAT | O_CLOEXEC, 0644)));
        FACT_OK(error_from(ftruncate(writer, PAGE_BYTES)));
        page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, writer, 0);
        FACT_CHECK(page != MAP_FAILED, "%m");
        close(writer);
        reader = (int)FACT_OK(error_from(open("merged/file", O_RDONLY | O_CLOEXEC)));
        FACT_OK(lease_take(reader));
        *page = 'x';
        FACT_VALUE(error_from(pread(reader, &seen, 1, 0)), 1);
        FACT_CHECK(seen == 'x' && lease_quiet(reader), "the lease promised something");
        return 0;
}
