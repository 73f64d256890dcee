/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Clients can read and map the pool, and nothing else
 *
 * Fact: the pool file is on a tmpfs that is mounted nowhere and has no name. The clients' descriptor cannot
 * be written, resized, punched, mapped shared and writable, or made so, and a client that is not root cannot
 * reopen it through /proc/self/fd. The file lives on through mappings when all descriptors are closed.
 *
 * Source: fsopen(2), fsmount(2), open(2); mm/mmap.c, do_mmap() (a shared writable mapping needs
 * FMODE_WRITE).
 *
 * Relied on by: daemon/kernel/poolfile.h, the WELCOME message (libwp/wire.h); the restart of the daemon.
 *
 * Without it: a client changes what all members of its domain read.
 */

#include "fact.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <linux/magic.h>

#define N_PAGES 8

/* What a client must not be able to do with the descriptor that it gets. */
static void attack(int fd)
{
        char path[64], *pages;
        struct stat status;

        FACT_OK(error_from(fstat(fd, &status)));
        FACT_CHECK(status.st_nlink == 0, "%u names", (unsigned)status.st_nlink);
        FACT_ERROR(error_from(pwrite(fd, "x", 1, 0)), EBADF);
        FACT_ERROR(error_from(ftruncate(fd, 0)), EINVAL);
        FACT_ERROR(error_from(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE_BYTES)),
                   EBADF);
        FACT_CHECK(mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED &&
                           errno == EACCES,
                   "a shared writable mapping, or: %m");
        pages = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
        FACT_CHECK(pages != MAP_FAILED, "%m");
        FACT_ERROR(error_from(mprotect(pages, PAGE_BYTES, PROT_READ | PROT_WRITE)), EACCES);
        FACT_ERROR(error_from(madvise(pages, PAGE_BYTES, MADV_REMOVE)), EACCES);
        pages = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
        FACT_CHECK(pages != MAP_FAILED, "%m");
        FACT_CHECK(madvise(pages, PAGE_BYTES, MADV_REMOVE) < 0, "a hole punched through a private mapping");
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        /* Root may override the file's mode: DAC does not bind it. */
        if (geteuid() != 0) {
                FACT_ERROR(error_from(open(path, O_RDWR | O_CLOEXEC)), EACCES);
                FACT_ERROR(error_from(open(path, O_WRONLY | O_TRUNC | O_CLOEXEC)), EACCES);
                FACT_ERROR(error_from(fchmod(fd, 0666)), EPERM);
        }
}

static void client(int socket, void *unused)
{
        int fd;

        (void)unused;
        fact_receive(socket, &fd);
        attack(fd);
}

static void check_mount(int mount_fd)
{
        _cleanup_fd_ int mounts =
                (int)FACT_OK(error_from(open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC)));
        static char text[1 << 20];
        struct statfs status;

        FACT_OK(error_from(fstatfs(mount_fd, &status)));
        FACT_CHECK(status.f_type == TMPFS_MAGIC, "file system type %#lx", (unsigned long)status.f_type);
        for (size_t n = 0; n < sizeof(text) - 1;) {
                long r = FACT_OK(error_from(read(mounts, text + n, sizeof(text) - 1 - n)));

                if (!r)
                        break;
                n += (size_t)r;
        }
        FACT_CHECK(!strstr(text, " - tmpfs wpd "), "the pool's file system is mounted somewhere");
}

int main(void)
{
        struct fact_client process;
        struct fact_pool pool;
        struct stat status;
        char *pages;

        fact_begin();
        fact_pool(&pool, N_PAGES, 1);
        check_mount(pool.mount);
        attack(pool.readonly);
        if (geteuid() == 0) {
                fact_client_start(&process, FACT_NOBODY, client, NULL);
                fact_send(process.socket, 0, pool.readonly);
                fact_client_join(&process);
        }
        FACT_CHECK(fact_pool_intact(&pool, 1), "the pool changed");

        FACT_OK(poolfile_discard(pool.writable, (N_PAGES - 1) * PAGE_BYTES, PAGE_BYTES));
        FACT_OK(error_from(fstat(pool.writable, &status)));
        FACT_CHECK((size_t)status.st_blocks * 512 == (N_PAGES - 1) * PAGE_BYTES, "%lld blocks",
                   (long long)status.st_blocks);
        FACT_CHECK((size_t)status.st_size == N_PAGES * PAGE_BYTES, "size %lld", (long long)status.st_size);

        pages = mmap(NULL, N_PAGES * PAGE_BYTES, PROT_READ, MAP_PRIVATE, pool.readonly, 0);
        FACT_CHECK(pages != MAP_FAILED, "%m");
        fd_close(pool.writable);
        fd_close(pool.readonly);
        fd_close(pool.mount);
        FACT_CHECK(fact_filled(pages, N_PAGES - 1, 1), "other content after closing");
        FACT_CHECK(fact_zero(pages + (N_PAGES - 1) * PAGE_BYTES, 1), "the discarded page is not zeros");
        return 0;
}
