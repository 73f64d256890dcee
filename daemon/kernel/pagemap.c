/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* /proc/PID/pagemap: the PAGEMAP_SCAN ioctl. */

#include "kernel/pagemap.h"

#include "util/bits.h"

static int survey(int pagemap_fd, uint64_t start, uint64_t end, uint64_t mask, uint64_t inverted,
                  struct page_region *runs, size_t n_runs, uint64_t *ret_walked)
{
        struct pm_scan_arg arg = {
                .size = sizeof(arg),
                .start = start,
                .end = end,
                .vec = (uintptr_t)runs,
                .vec_len = n_runs,
                .category_inverted = inverted,
                .category_mask = mask | inverted,
                .return_mask = PAGE_IS_PRESENT,
        };
        long r = error_from(ioctl(pagemap_fd, PAGEMAP_SCAN, &arg));

        if (r >= 0)
                *ret_walked = arg.walk_end;
        return (int)r;
}

int pagemap_survey(int pagemap_fd, uint64_t start, uint64_t end, struct page_region *runs, size_t n_runs,
                   uint64_t *ret_walked)
{
        return survey(pagemap_fd, start, end, PAGE_IS_WRITTEN | PAGE_IS_PRESENT, PAGE_IS_PFNZERO, runs,
                      n_runs, ret_walked);
}

int pagemap_survey_present(int pagemap_fd, uint64_t start, uint64_t end, struct page_region *runs,
                           size_t n_runs, uint64_t *ret_walked)
{
        return survey(pagemap_fd, start, end, PAGE_IS_PRESENT, 0, runs, n_runs, ret_walked);
}

int pagemap_survey_copied(int pagemap_fd, uint64_t start, uint64_t end, struct page_region *runs,
                          size_t n_runs, uint64_t *ret_walked)
{
        return survey(pagemap_fd, start, end, PAGE_IS_PRESENT, PAGE_IS_FILE | PAGE_IS_PFNZERO, runs, n_runs,
                      ret_walked);
}

int pagemap_survey_file(int pagemap_fd, uint64_t start, uint64_t end, struct page_region *runs, size_t n_runs,
                        uint64_t *ret_walked)
{
        return survey(pagemap_fd, start, end, PAGE_IS_PRESENT | PAGE_IS_FILE, 0, runs, n_runs, ret_walked);
}

int pagemap_survey_empty(int pagemap_fd, uint64_t start, uint64_t end, struct page_region *runs,
                         size_t n_runs, uint64_t *ret_walked)
{
        return survey(pagemap_fd, start, end, 0, PAGE_IS_PRESENT | PAGE_IS_SWAPPED, runs, n_runs, ret_walked);
}

int pagemap_survey_zero(int pagemap_fd, uint64_t start, uint64_t end, struct page_region *runs, size_t n_runs,
                        uint64_t *ret_walked)
{
        return survey(pagemap_fd, start, end, PAGE_IS_PRESENT | PAGE_IS_PFNZERO, 0, runs, n_runs, ret_walked);
}

int pagemap_survey_pooled(int pagemap_fd, uint64_t start, uint64_t end, struct page_region *runs,
                          size_t n_runs, uint64_t *ret_walked)
{
        return survey(pagemap_fd, start, end, PAGE_IS_PRESENT | PAGE_IS_FILE, PAGE_IS_WRITTEN, runs, n_runs,
                      ret_walked);
}

int pagemap_is_file(int pagemap_fd, uint64_t address)
{
        struct page_region run;
        uint64_t walked;

        return survey(pagemap_fd, address, address + PAGE_BYTES, PAGE_IS_FILE, 0, &run, 1, &walked);
}

#define PROTECT_RUNS 64

int pagemap_protect(int pagemap_fd, uint64_t start, uint64_t end)
{
        struct page_region runs[PROTECT_RUNS];
        /*
         * The runs are not looked at. Without a place for them the kernel takes a short cut that ignores the
         * categories and puts markers into unpopulated pages (tests/kernel/track_scan.c).
         */
        struct pm_scan_arg arg = {
                .size = sizeof(arg),
                .flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
                .start = start,
                .end = end,
                .vec = (uintptr_t)runs,
                .vec_len = PROTECT_RUNS,
                .category_mask = PAGE_IS_WRITTEN | PAGE_IS_PRESENT,
                .return_mask = PAGE_IS_PRESENT,
        };

        while (arg.start < end) {
                long r = error_from(ioctl(pagemap_fd, PAGEMAP_SCAN, &arg));

                if (r < 0)
                        return (int)r;
                arg.start = arg.walk_end;
        }
        return 0;
}
