#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Read leases on files (fcntl(2), F_SETLEASE): nobody opens the file for writing, or truncates it, without the holder being
 * told first and given time (tests/kernel/lease.c)
 */

#include <signal.h>
#include <stdbool.h>

#include "util/error.h"

/* Real-time, so that it says which descriptor is meant; if too many are pending SIGIO comes in its place, and says nothing. */
#define LEASE_SIGNAL (SIGRTMIN + 2)

/*
 * Takes a lease through a descriptor that was opened for reading. This process gets LEASE_SIGNAL, which it blocks and reads
 * through a signalfd, when somebody wants to write, who waits until lease_release(), or
 * /proc/sys/fs/lease-break-time. -EAGAIN: the file is open for writing now; -EINVAL: this file system has none. Of files of
 * other users it needs CAP_LEASE.
 */
int lease_take(int fd) wp_check;
void lease_release(int fd);

/* Whether the lease is there, and nobody wants it to end. */
bool lease_quiet(int fd);
