/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Read leases on files. */

#include "kernel/lease.h"

#include <fcntl.h>
#include <unistd.h>

int lease_take(int fd)
{
        int r = (int)error_from(fcntl(fd, F_SETSIG, LEASE_SIGNAL));

        /* Otherwise the kernel takes the calling thread, and finds no process of that number. */
        if (r >= 0)
                r = (int)error_from(fcntl(fd, F_SETOWN, getpid()));
        return r < 0 ? r : (int)error_from(fcntl(fd, F_SETLEASE, F_RDLCK));
}

void lease_release(int fd)
{
        (void)!fcntl(fd, F_SETLEASE, F_UNLCK);
}

bool lease_quiet(int fd)
{
        return fcntl(fd, F_GETLEASE) == F_RDLCK;
}
