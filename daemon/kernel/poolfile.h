#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The files that hold canonical pages: on a tmpfs of the daemon's own that is mounted nowhere
 *
 * `noswap` and `huge=never` are what correctness rests on, not speed: a page-table entry of the pool that is
 * empty must mean that the program discarded the page (tests/kernel/pool_noswap.c,
 * tests/kernel/minor_zero.c).
 */

#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

/* Creates the detached file system; needs CAP_SYS_ADMIN. Returns a descriptor of its root directory. */
int poolfile_mount(void) wp_check;

/*
 * Creates an empty file without a name: *ret_writable for the daemon, and *ret_readonly, a separate open file
 * description that can never be written through or reopened for writing by a client. It grows as it is
 * written, and no further, since whoever maps it can make its holes cost memory by reading them
 * (tests/kernel/pool_hole.c).
 */
int poolfile_create(int mount_fd, const char *name, int *ret_writable, int *ret_readonly) wp_check;

/* Writes whole pages; all or a negative errno (-ENOSPC: the file system's limit, or memory). */
int poolfile_write(int fd, uint64_t offset, const void *data, size_t length) wp_check;

/*
 * Gives the pages back to the system. Mappings of them read zeros from now on: the caller knows there are
 * none.
 */
int poolfile_discard(int fd, uint64_t offset, uint64_t length) wp_check;
