#pragma once
/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* /proc/PID/pagemap: the PAGEMAP_SCAN ioctl (Documentation/admin-guide/mm/pagemap.rst). */

#include <stddef.h>
#include <stdint.h>

#include "kernel/uapi.h"
#include "util/error.h"

/*
 * Lists the pages of [start, end) that are populated, written since they were last write-protected, and not
 * the kernel's zero page, as runs. A page that was never protected counts as written. Nothing is changed.
 * Asking for no more than that is what makes it cheap: clean memory costs 3 ns a page, telling file pages
 * from others 50.
 *
 * Returns the number of runs; fewer than all when the array is full, in which case *ret_walked, the address
 * up to which the range was looked at, is below `end`.
 */
int pagemap_survey(int pagemap_fd, uint64_t start, uint64_t end, struct page_region *runs, size_t n_runs,
                   uint64_t *ret_walked) wp_check;

/* The same for all populated pages, the zero page included. */
int pagemap_survey_present(int pagemap_fd, uint64_t start, uint64_t end, struct page_region *runs,
                           size_t n_runs, uint64_t *ret_walked) wp_check;

/*
 * The same for populated pages that are anonymous, and not the zero page: in a private mapping of a file, those that
 * have been copied.
 */
int pagemap_survey_copied(int pagemap_fd, uint64_t start, uint64_t end, struct page_region *runs,
                          size_t n_runs, uint64_t *ret_walked) wp_check;

/* The same for populated pages that are the file's own. */
int pagemap_survey_file(int pagemap_fd, uint64_t start, uint64_t end, struct page_region *runs, size_t n_runs,
                        uint64_t *ret_walked) wp_check;

/*
 * The same for pages with nothing in them: neither populated nor swapped out, nor on their way from one place to another,
 * nor with a marker. So a page that is in neither this list nor another may still have content.
 */
int pagemap_survey_empty(int pagemap_fd, uint64_t start, uint64_t end, struct page_region *runs,
                         size_t n_runs, uint64_t *ret_walked) wp_check;

/* The same for the kernel's zero page. */
int pagemap_survey_zero(int pagemap_fd, uint64_t start, uint64_t end, struct page_region *runs, size_t n_runs,
                        uint64_t *ret_walked) wp_check;

/* The same for pages that are the file's own, and protected. */
int pagemap_survey_pooled(int pagemap_fd, uint64_t start, uint64_t end, struct page_region *runs,
                          size_t n_runs, uint64_t *ret_walked) wp_check;

/*
 * Whether the page at the address is a file's own, 1 or 0: in a private mapping, whether it has not been copied. One that is on
 * its way from one place to another counts.
 */
int pagemap_is_file(int pagemap_fd, uint64_t address) wp_check;

/*
 * Write-protects again the populated pages of [start, end) that are written, atomically with looking at them.
 * Only memory registered with an asynchronous context can be protected; -EPERM when anything in the range is
 * not.
 */
int pagemap_protect(int pagemap_fd, uint64_t start, uint64_t end) wp_check;
