#pragma once
/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Locks on pages of a pool file: between agents that are about to map them and the daemon that is about to give them
 * back
 *
 * A page that nobody maps may be given back at any moment, except while somebody is on his way from "a batch says so"
 * to "mapped". An agent therefore holds a shared lock on the pages of a run until they are in place. It outlives the
 * daemon that sent the batch, so that the next one sees it; it ends with the agent's process. A lock belongs to an open
 * file description (F_OFD_SETLK, fcntl_locking(2)), of which every client has one of its own
 * (tests/kernel/pool_lock.c).
 */

#include <fcntl.h>
#include <stdint.h>

#include "util/error.h"

/* type: F_RDLCK, F_WRLCK or F_UNLCK; never waits: -EAGAIN when it conflicts. */
static inline wp_check int poollock_set(int fd, short type, uint64_t offset, uint64_t length)
{
        struct flock lock = {
                .l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)offset, .l_len = (off_t)length};

        return (int)error_from(fcntl(fd, F_OFD_SETLK, &lock));
}
