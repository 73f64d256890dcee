/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Scan: what one look at a window of a region means for its pages. */

#include "dedup/scan.h"

#include <stdlib.h>

void range_list_clear(struct range_list *list)
{
        list->n = 0;
}

void range_list_deinit(struct range_list *list)
{
        free(list->ranges);
        *list = (struct range_list){.ranges = NULL};
}

int range_list_add(struct range_list *list, uint32_t page)
{
        struct page_range *last = list->n ? &list->ranges[list->n - 1] : NULL;

        if (last && last->page + last->n_pages == page) {
                last->n_pages++;
                return 0;
        }
        if (list->n == list->capacity) {
                size_t capacity = MAX(list->capacity * 2, (size_t)64);
                struct page_range *ranges = reallocarray(list->ranges, capacity, sizeof(*ranges));

                if (!ranges)
                        return -ENOMEM;
                list->ranges = ranges;
                list->capacity = capacity;
        }
        list->ranges[list->n++] = (struct page_range){.page = page, .n_pages = 1};
        return 0;
}

static int protect(struct region *region, uint32_t page, bool at_once, struct scan_output *output)
{
        int r;

        if (!at_once && region_patient(region, page)) {
                output->n_skipped++;
                return 0;
        }
        r = range_list_add(&output->protect, page);
        if (r >= 0)
                region_set_state(region, page, PAGE_TRACKED, 0);
        return r < 0 || !at_once ? r : range_list_add(&output->read, page);
}

static int digest_written(struct region *region, uint32_t page, bool at_once, struct scan_output *output)
{
        switch (region_state(region, page)) {
        case PAGE_EMPTY:
        case PAGE_ZERO:
                region_set_state(region, page, PAGE_VOLATILE, 0);
                return protect(region, page, at_once, output);
        case PAGE_TRACKED:
        case PAGE_CANDIDATE:
                region_set_state(region, page, PAGE_VOLATILE, 0);
                region_be_patient(region, page);
                output->n_written++;
                return protect(region, page, at_once, output);
        case PAGE_VOLATILE:
                return protect(region, page, at_once, output);
        case PAGE_MERGED:
        case PAGE_FOREIGN:
                return range_list_add(&output->copied, page);
        default:
                return 0;
        }
}

static int settled(const struct region *region, uint32_t page, bool at_once, struct scan_output *output)
{
        if (!at_once && region_flags(region, page) & PAGE_F_FAILED && region_patient(region, page)) {
                output->n_skipped++;
                return 0;
        }
        return range_list_add(&output->read, page);
}

/*
 * Pages that the survey did not list. A tracked one has settled - or was discarded, which reading it will
 * show. A volatile one would be listed if it were populated. Chunks without such pages, which is what quiet
 * memory consists of, are skipped.
 */
static int digest_unlisted(struct region *region, uint32_t page, uint32_t end, bool at_once,
                           struct scan_output *output)
{
        int r = 0;

        while (page < end && r >= 0) {
                uint32_t stop = MIN(end, (page / CHUNK_PAGES + 1) * CHUNK_PAGES);

                if (!region_unsettled(region, page))
                        page = stop;
                for (; page < stop && r >= 0; page++)
                        if (region_state(region, page) == PAGE_TRACKED)
                                r = settled(region, page, at_once, output);
                        else if (region_state(region, page) == PAGE_VOLATILE)
                                region_set_state(region, page, PAGE_EMPTY, 0);
        }
        return r;
}

int scan_digest(struct region *region, uint32_t first, uint32_t end, const struct page_region *runs,
                size_t n_runs, bool at_once, struct scan_output *output)
{
        uint32_t page = first;
        int r = 0;

        for (size_t i = 0; i < n_runs && r >= 0; i++) {
                uint32_t start = (uint32_t)((runs[i].start - region->start) >> PAGE_SHIFT);
                uint32_t stop = (uint32_t)((runs[i].end - region->start) >> PAGE_SHIFT);

                r = digest_unlisted(region, page, MIN(start, end), at_once, output);
                for (page = start; page < MIN(stop, end) && r >= 0; page++) {
                        r = region_make_chunk(region, page);
                        if (r >= 0)
                                r = digest_written(region, page, at_once, output);
                }
        }
        return r < 0 ? r : digest_unlisted(region, page, end, at_once, output);
}
