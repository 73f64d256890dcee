/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The files that hold canonical pages. */

#include "kernel/poolfile.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "kernel/poollock.h"
#include "util/bits.h"
#include "util/cleanup.h"

int poolfile_mount(void)
{
        _cleanup_fd_ int context = -EBADF;

        context = (int)error_from(fsopen("tmpfs", FSOPEN_CLOEXEC));
        if (context < 0)
                return fd_take(&context);
        if (fsconfig(context, FSCONFIG_SET_STRING, "source", "wpd", 0) < 0 ||
            fsconfig(context, FSCONFIG_SET_FLAG, "noswap", NULL, 0) < 0 ||
            fsconfig(context, FSCONFIG_SET_STRING, "huge", "never", 0) < 0 ||
            fsconfig(context, FSCONFIG_SET_STRING, "mode", "0700", 0) < 0 ||
            fsconfig(context, FSCONFIG_SET_STRING, "size", "90%", 0) < 0 ||
            fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
                return -errno;
        return (int)error_from(
                fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV));
}

int poolfile_create(int mount_fd, const char *name, int *ret_fd)
{
        _cleanup_fd_ int fd = -EBADF;

        fd = (int)error_from(openat(mount_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0400));
        if (fd < 0)
                return fd_take(&fd);
        if (unlinkat(mount_fd, name, 0) < 0)
                return -errno;
        *ret_fd = fd_take(&fd);
        return 0;
}

bool poolfile_is_one(int fd)
{
        struct statfs fs;
        struct stat st;

        return fstat(fd, &st) >= 0 && S_ISREG(st.st_mode) && !st.st_nlink && fstatfs(fd, &fs) >= 0 &&
               fs.f_type == TMPFS_MAGIC && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
}

int poolfile_reopen(int fd, int *ret_readonly)
{
        char path[32];
        int readonly;

        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        readonly = (int)error_from(open(path, O_RDONLY | O_CLOEXEC));
        if (readonly < 0)
                return readonly;
        *ret_readonly = readonly;
        return 0;
}

int poolfile_write(int fd, uint64_t offset, const void *data, size_t length)
{
        const char *from = data;

        while (length > 0) {
                ssize_t n = error_from(pwrite(fd, from, length, (off_t)offset));

                if (n < 0)
                        return (int)n;
                from += n;
                offset += (uint64_t)n;
                length -= (size_t)n;
        }
        return 0;
}

int poolfile_discard(int fd, uint64_t offset, uint64_t length)
{
        return (int)error_from(
                fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length));
}

int poolfile_lock(int fd, uint64_t offset, uint64_t length)
{
        return poollock_set(fd, F_WRLCK, offset, length);
}

void poolfile_unlock(int fd, uint64_t offset, uint64_t length)
{
        (void)!poollock_set(fd, F_UNLCK, offset, length);
}

/* Bits of a pagemap entry (Documentation/admin-guide/mm/pagemap.rst). */
#define ENTRY_PRESENT   (UINT64_C(1) << 63)
#define ENTRY_EXCLUSIVE (UINT64_C(1) << 56)

#define ENTRIES_AT_ONCE 256

/* Clears the bits of those pages [first, end) of our mapping that somebody else maps. */
static int clear_mapped(int pagemap_fd, const volatile char *pages, size_t first, size_t end,
                        uint64_t *unmapped)
{
        uint64_t entries[ENTRIES_AT_ONCE];
        ssize_t wanted = (ssize_t)((end - first) * sizeof(entries[0])), n;

        n = error_from(pread(pagemap_fd, entries, (size_t)wanted,
                             (off_t)(((uintptr_t)pages >> PAGE_SHIFT) + first) * (off_t)sizeof(entries[0])));
        if (n != wanted)
                return n < 0 ? (int)n : -EIO;
        for (size_t i = first; i < end; i++)
                if (~entries[i - first] & (ENTRY_PRESENT | ENTRY_EXCLUSIVE))
                        bitmap_clear(unmapped, i);
        return 0;
}

int poolfile_unmapped(int fd, int pagemap_fd, uint64_t offset, size_t n_pages, uint64_t *unmapped)
{
        const volatile char *pages;
        struct stat st;
        int r = 0;

        for (size_t i = 0; i < n_pages; i++)
                bitmap_set(unmapped, i);
        /* Behind the end of the file there is nothing to be mapped. */
        if (fstat(fd, &st) < 0)
                return -errno;
        if ((uint64_t)st.st_size <= offset)
                return 0;
        n_pages = MIN(n_pages, ((uint64_t)st.st_size - offset) >> PAGE_SHIFT);
        pages = mmap(NULL, n_pages * PAGE_BYTES, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, (off_t)offset);
        if (pages == MAP_FAILED)
                return -errno;
        /*
         * Twice: a page that is being migrated loses its mappings for a moment, ours perhaps last. Touching it
         * waits until it has arrived.
         */
        for (int pass = 0; pass < 2 && r >= 0; pass++) {
                for (size_t i = 0; i < n_pages; i++)
                        (void)pages[i * PAGE_BYTES];
                for (size_t i = 0; i < n_pages && r >= 0; i += ENTRIES_AT_ONCE)
                        r = clear_mapped(pagemap_fd, pages, i, MIN(i + ENTRIES_AT_ONCE, n_pages), unmapped);
        }
        munmap((void *)pages, n_pages * PAGE_BYTES);
        return r;
}
