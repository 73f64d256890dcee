#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The files that hold canonical pages: on a tmpfs of the daemon's own that is mounted nowhere
 *
 * `noswap` and `huge=never` are what correctness rests on, not speed: a page-table entry of the pool that is
 * empty must mean that the program discarded the page (tests/kernel/pool_noswap.c,
 * tests/kernel/minor_zero.c).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

/* Creates the detached file system; needs CAP_SYS_ADMIN. Returns a descriptor of its root directory. */
int poolfile_mount(void) wp_check;

/*
 * Creates an empty file without a name, for the daemon. It grows as it is written, and no further, since whoever maps
 * it can make its holes cost memory by reading them (tests/kernel/pool_hole.c).
 */
int poolfile_create(int mount_fd, const char *name, int *ret_fd) wp_check;

/*
 * What a client gets: an open file description of its own, since locks belong to descriptions, that can never be
 * written through or reopened for writing.
 */
int poolfile_reopen(int fd, int *ret_readonly) wp_check;

/* Whether this is a pool file, as an earlier daemon created it. */
bool poolfile_is_one(int fd);

/* Writes whole pages; all or a negative errno (-ENOSPC: the file system's limit, or memory). */
int poolfile_write(int fd, uint64_t offset, const void *data, size_t length) wp_check;

/*
 * Gives the pages back to the system. Mappings of them read zeros from now on: the caller knows there are
 * none.
 */
int poolfile_discard(int fd, uint64_t offset, uint64_t length) wp_check;

/*
 * Whoever is about to map pages that he does not map yet, because a batch tells him to, holds a lock on them meanwhile
 * (kernel/poollock.h). Takes the same range for ourselves, without waiting: -EAGAIN when somebody has a part of it;
 * poolfile_unlock() gives it back; a length of 0 means all that is behind.
 */
int poolfile_lock(int fd, uint64_t offset, uint64_t length) wp_check;
void poolfile_unlock(int fd, uint64_t offset, uint64_t length);

/*
 * Which of `n_pages` pages from `offset` on nobody maps; holes cost memory for the moment: the bits of these are set in
 * `unmapped` (whole words, zeroed by the caller). pagemap_fd is /proc/self/pagemap of the caller, who must not
 * map them either. The kernel counts page-table entries, so that no client and no forked child is overlooked,
 * whoever knows of him (tests/kernel/pool_mapcount.c). A page that is being migrated at this moment may pass for mapped.
 */
int poolfile_unmapped(int fd, int pagemap_fd, uint64_t offset, size_t n_pages, uint64_t *unmapped) wp_check;
