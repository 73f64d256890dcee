#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Planner: from matches of single pages to runs (pure)
 *
 * A merge of n pages costs one set of system calls and at most two VMAs, whatever n. So matches are not
 * carried out page by page: pages that lie next to each other and match pages (or slots) that lie next to
 * each other, in the same order, are one run. The scarcer a process's VMAs have become, the longer a run must
 * be to be worth its two.
 */

#include <stddef.h>
#include <stdint.h>

#include "dedup/index.h"

enum match_kind {
        MATCH_NONE, /* nothing known has this content */
        MATCH_ZERO,
        MATCH_PAGE,    /* a candidate page */
        MATCH_SLOT,    /* a slot of the pool */
        MATCH_REPLICA, /* a slot, of another node: it is to have one of its own on this node (nodes.h) */
};

struct match {
        uint32_t page; /* of the region that was read */
        enum match_kind kind;
        struct page_ref with; /* MATCH_PAGE, MATCH_SLOT */
        uint64_t fingerprint; /* under which that is, or is to be, in the index; with the node in it */
        uint16_t node;        /* where that is, or is to be */
};

/* The end of the run that starts at matches[i]. */
size_t planner_run_end(const struct match *matches, size_t i, size_t n);

/*
 * How long a run must be at least, for a process that has spent `used` of the VMAs that merging may add to
 * it. `minimum` is the administrator's. UINT32_MAX: nothing fits any more.
 */
uint32_t planner_min_run(uint64_t used, uint64_t budget, uint32_t minimum);
