#pragma once
/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Scope-bound release of descriptors and memory: `_cleanup_fd_ int fd = -EBADF;` and friends. */

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((__cleanup__(f)))

/* Closes a descriptor unless it is negative; always returns -EBADF, for `fd = fd_close(fd)`. */
static inline int fd_close(int fd)
{
        if (fd >= 0)
                close(fd);
        return -EBADF;
}

static inline void fd_closep(int *fd)
{
        *fd = fd_close(*fd);
}

static inline void freep(void *p)
{
        free(*(void **)p);
}

/* Hands the descriptor over: what remains behind is -EBADF. */
static inline int fd_take(int *fd)
{
        int taken = *fd;

        *fd = -EBADF;
        return taken;
}

#define _cleanup_fd_   _cleanup_(fd_closep)
#define _cleanup_free_ _cleanup_(freep)
