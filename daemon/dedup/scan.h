#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Scan: what one look at a window of a region means for its pages (pure)
 *
 * Each round PAGEMAP_SCAN tells of every populated page whether it was written since it was last protected. A
 * page that was is volatile: it is protected (again), and left alone for longer the more often that happens.
 * A page that stayed clean for one interval has settled and is to be read, once. KSM reads every page on
 * every scan to find out the same. A merged page is protected for as long as it is shared: one that is listed as
 * written is a copy, or about to become one.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/region.h"
#include "kernel/uapi.h"
#include "util/error.h"

struct page_range {
        uint32_t page;
        uint32_t n_pages;
};

struct range_list {
        struct page_range *ranges;
        size_t n;
        size_t capacity;
};

struct scan_output {
        struct range_list protect; /* populated and written: protect again */
        struct range_list read;    /* settled: read and fingerprint */
        struct range_list copied;  /* shared until now, and found to be private */
        uint32_t n_written;        /* pages that lost their protection by being written, patience used */
        uint32_t n_skipped;        /* volatile pages left alone in this round */
};

void range_list_clear(struct range_list *list);
void range_list_deinit(struct range_list *list);

/* Adds a page behind those that are there; neighbours become one range. -ENOMEM. */
int range_list_add(struct range_list *list, uint32_t page) wp_check;

/*
 * Digests the survey of pages [first, end): `runs` as pagemap_survey() lists them, in order; what it does not
 * list is clean or not populated. Changes states and appends to `output`. -ENOMEM leaves some pages for the
 * next round. at_once: without patience and without waiting for an interval, pages are read as soon as they are protected.
 */
int scan_digest(struct region *region, uint32_t first, uint32_t end, const struct page_region *runs,
                size_t n_runs, bool at_once, struct scan_output *output) wp_check;
