/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Entries of the pagemap; see the header. */

#include "torture/entry.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "util/bits.h"
#include "util/cleanup.h"

int entries_read(pid_t pid, uintptr_t address, uint64_t *ret_entries, size_t n_pages)
{
        _cleanup_fd_ int fd = -EBADF;
        size_t bytes = n_pages * sizeof(*ret_entries);
        char path[64];
        ssize_t n;

        snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        n = pread(fd, ret_entries, bytes, (off_t)(address / PAGE_BYTES * sizeof(*ret_entries)));
        return n < 0 ? -errno : (size_t)n < bytes ? -ENODATA : 0;
}
