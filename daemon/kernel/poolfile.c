/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The files that hold canonical pages. */

#include "kernel/poolfile.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

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

int poolfile_create(int mount_fd, const char *name, int *ret_writable, int *ret_readonly)
{
        _cleanup_fd_ int writable = -EBADF, readonly = -EBADF;
        int r = 0;

        writable = (int)error_from(openat(mount_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0400));
        if (writable < 0)
                return fd_take(&writable);
        readonly = (int)error_from(openat(mount_fd, name, O_RDONLY | O_CLOEXEC));
        if (readonly < 0)
                r = readonly;
        if (unlinkat(mount_fd, name, 0) < 0 && r >= 0)
                r = -errno;
        if (r < 0)
                return r;
        *ret_writable = fd_take(&writable);
        *ret_readonly = fd_take(&readonly);
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
