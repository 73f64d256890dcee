#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Anchors: pinned pages of pool files
 *
 * Anybody who maps a file of the pool may ask for its pages to be collapsed into a huge page
 * (madvise(MADV_COLLAPSE), whatever the file system's `huge=` says). Collapsing empties the page-table
 * entries of everybody who maps these 2 MiB, and an empty entry of the pool is taken for a discarded page: it
 * would read as zeros (tests/kernel/pool_collapse.c). The kernel does not collapse what contains a pinned
 * page. So each aligned 2 MiB of the pool that has content keeps one page pinned: as a registered buffer of
 * an io_uring that is used for nothing else.
 *
 * Thread-safe, except that one anchor is changed by one thread at a time.
 */

#include <stdint.h>

#include "util/error.h"

#define ANCHOR_NONE UINT32_MAX

struct anchors;

/* How many anchors there are in all bounds the pool: 2 MiB each. Made before the process is confined. */
int anchors_new(struct anchors **ret_anchors) wp_check;
struct anchors *anchors_free(struct anchors *anchors);

/* Takes a free anchor, of the calling thread's choice. -ENOSPC: there is none. */
int anchors_take(struct anchors *anchors, uint32_t *ret_anchor) wp_check;

/*
 * Pins the page at this offset of the file (open for writing); what the anchor pinned before is let go
 * afterwards.
 */
int anchors_pin(struct anchors *anchors, uint32_t anchor, int pool_fd, uint64_t offset) wp_check;

/* Lets go of what it pins, and gives the anchor back. */
void anchors_release(struct anchors *anchors, uint32_t anchor);
