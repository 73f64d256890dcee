/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Operations: calls of libwp. */

#include <errno.h>
#include <string.h>

#include "torture/client.h"
#include "torture/op.h"

#define MAX_WATCHED_PAGES 8

void expect_errno(int r, const char *call, int documented, int also_documented)
{
        EXPECT(r == 0 || r == -ENOTCONN || r == -documented || r == -also_documented ||
                       shared->options.inject,
               "%s: %s: %s", call, strerror(-r), wp_strerror_detail(NULL));
}

/* The whole area, or a part of it. */
static void draw_region(struct worker *worker, struct area *area)
{
        area->region_first = 0;
        area->region_pages = area->n_pages;
        if (area->n_pages > 2 && draw(worker, 4) == 0) {
                area->region_first = draw(worker, area->n_pages / 2);
                area->region_pages = 1 + draw(worker, area->n_pages - area->region_first);
        }
}

static void register_area(struct worker *worker, struct area *area)
{
        uint64_t flags = WP_MERGE | (coin(worker) ? WP_NOTIFY : 0);
        struct wp_region *region;
        int r;

        draw_region(worker, area);
        r = wp_register(worker->client->wp, area->memory + area->region_first * PAGE_BYTES,
                        area->region_pages * PAGE_BYTES, flags, &region);
        /* Refused: an earlier daemon merged some of it, or another worker has locked or protected some. */
        expect_errno(r, "wp_register", EOPNOTSUPP, EDQUOT);
        area->refused = r == -EOPNOTSUPP;
        if (r == 0)
                area->region = region;
        if (r != -ENOTCONN)
                count(r == 0 ? COUNT_REGISTERED : COUNT_REFUSED, 1);
}

void op_register(struct worker *worker, struct area *area)
{
        struct client *client = worker->client;

        if (area->region || area->refused || !gate_enter(&client->connection))
                return;
        if (client->wp && gate_close(&area->registration)) {
                if (!area->region)
                        register_area(worker, area);
                gate_open(&area->registration);
        }
        gate_leave(&client->connection);
}

/* All gates are closed. -ENOMEM leaves it registered. */
static void unregister_closed(struct area *area)
{
        int r;

        if (!area->region)
                return;
        r = wp_unregister(area->region);
        expect_errno(r, "wp_unregister", ENOMEM, ENOMEM);
        if (r == 0)
                area->region = NULL;
}

bool area_unregister(struct area *area, struct client *client)
{
        bool done = false;

        if (!gate_enter(&client->connection))
                return false;
        if (gate_close(&area->registration)) {
                if (gate_close(&area->discards)) {
                        unregister_closed(area);
                        done = !area->region;
                        gate_open(&area->discards);
                }
                gate_open(&area->registration);
        }
        gate_leave(&client->connection);
        return done;
}

void op_unregister(struct worker *worker, struct area *area)
{
        if (area->region)
                (void)area_unregister(area, worker->client);
}

/* ------------------------------------------------------------------ exclusion */

/* The part of the range that is registered; false when there is none. The caller is inside the registration. */
static bool registered_part(const struct range *range, size_t *ret_offset, size_t *ret_length)
{
        const struct area *area = range->area;
        size_t first = MAX(range->first, area->region_first);
        size_t end = MIN(range->first + range->n, area->region_first + area->region_pages);

        if (!area->region || first >= end)
                return false;
        *ret_offset = (first - area->region_first) * PAGE_BYTES;
        *ret_length = (end - first) * PAGE_BYTES;
        return true;
}

static int exclude(const struct range *range, size_t offset, size_t length)
{
        struct area *area = range->area;
        int r = -EBUSY;

        if (gate_close(&area->discards)) {
                r = wp_exclude(area->region, offset, length);
                expect_errno(r, "wp_exclude", ENOMEM, EDQUOT);
                gate_open(&area->discards);
        }
        return r;
}

/* The memory of a child is not registered. */
static bool child_without_connection(const struct worker *worker)
{
        return worker->depth && !worker->client->wp;
}

/* Between these the connection and the registration of the area stay as they are. False: that is not possible now. */
static bool enter_registration(struct worker *worker, struct area *area)
{
        if (!gate_enter(&worker->client->connection))
                return false;
        if (gate_enter(&area->registration))
                return true;
        gate_leave(&worker->client->connection);
        return false;
}

static void leave_registration(struct worker *worker, struct area *area)
{
        gate_leave(&area->registration);
        gate_leave(&worker->client->connection);
}

bool exclusion_begin(struct worker *worker, const struct range *range)
{
        struct area *area = range->area;
        size_t offset, length;
        int r;

        if (child_without_connection(worker))
                return true;
        if (!enter_registration(worker, area))
                return false;
        r = registered_part(range, &offset, &length) ? exclude(range, offset, length) : 0;
        if (r < 0)
                leave_registration(worker, area);
        return r == 0;
}

void exclusion_end(struct worker *worker, const struct range *range)
{
        struct area *area = range->area;
        size_t offset, length;

        if (child_without_connection(worker))
                return;
        /* Some parts stay excluded until the area is registered anew. */
        if (registered_part(range, &offset, &length) && draw(worker, 4))
                expect_errno(wp_include(area->region, offset, length), "wp_include", EOPNOTSUPP, EDQUOT);
        leave_registration(worker, area);
}

/* Excluded memory stays as it is, and works. */
void op_exclude(struct worker *worker, struct area *area)
{
        struct range range;

        if (!range_take(worker, area, SIZE_MAX, true, &range))
                return;
        if (exclusion_begin(worker, &range)) {
                range_verify(worker, &range, "while it is excluded");
                exclusion_end(worker, &range);
        }
        range_verify(worker, &range, "after it was excluded");
        range_give(worker, &range);
}

/* ------------------------------------------------------------------ protection and merging on request */

/*
 * First writes are told of, or wait for the bound, since nobody releases them. EBUSY: some of it was merged under another
 * connection.
 */
static void write_protected(struct worker *worker, const struct range *range, size_t offset, size_t length)
{
        struct area *area = range->area;
        uint64_t flags = coin(worker) ? WP_WATCH : WP_HOLD | WP_BOUND_MS(1 + draw(worker, 4));
        int r = wp_protect(area->region, offset, length, flags);

        EXPECT(r != -EINVAL && r != -EFAULT, "wp_protect: %s: %s", strerror(-r), wp_strerror_detail(NULL));
        range_verify(worker, range, "while it is protected");
        range_fill(worker, range);
        count(COUNT_STORES, range->n);
        range_verify(worker, range, "after it was written while protected");
        expect_errno(wp_release(area->region, offset, length), "wp_release", ENOMEM, ENOMEM);
        range_fill(worker, range);
        range_verify(worker, range, "after it was released");
}

void op_watch(struct worker *worker, struct area *area)
{
        size_t offset, length;
        struct range range;

        if (child_without_connection(worker) || !enter_registration(worker, area))
                return;
        if (range_take(worker, area, MAX_WATCHED_PAGES, true, &range)) {
                if (registered_part(&range, &offset, &length))
                        write_protected(worker, &range, offset, length);
                range_give(worker, &range);
        }
        leave_registration(worker, area);
}

/* EBUSY: another call changes the region, or some of it is protected. */
static void merge_or_unmerge(struct area *area, bool merge, size_t offset, size_t length)
{
        if (merge) {
                expect_errno(wp_merge(area->region, offset, length, NULL), "wp_merge", EBUSY, EBUSY);
        } else if (gate_close(&area->discards)) {
                expect_errno(wp_unmerge(area->region, offset, length), "wp_unmerge", EBUSY, ENOMEM);
                gate_open(&area->discards);
        }
}

void op_ask(struct worker *worker, struct area *area)
{
        bool merge = coin(worker);
        size_t offset, length;
        struct range range;

        if (child_without_connection(worker) || !enter_registration(worker, area))
                return;
        if (range_take(worker, area, SIZE_MAX, false, &range)) {
                if (registered_part(&range, &offset, &length))
                        merge_or_unmerge(area, merge, offset, length);
                range_verify(worker, &range, merge ? "after it was merged" : "after it was given back");
                range_give(worker, &range);
        }
        leave_registration(worker, area);
}

/* Figures add up, whenever they are asked for. */
void op_stat(struct worker *worker, struct area *area)
{
        struct wp_region_stat stat;
        int r;

        if (!enter_registration(worker, area))
                return;
        r = area->region ? wp_region_stat(area->region, &stat) : -ENOTCONN;
        expect_errno(r, "wp_region_stat", ENOTCONN, ENOTCONN);
        if (r == 0)
                EXPECT(stat.pages == area->region_pages && stat.pages_merged <= stat.pages_resident &&
                               stat.pages_resident <= stat.pages,
                       "wp_region_stat: %llu pages, %llu resident, %llu merged; %zu were registered",
                       (unsigned long long)stat.pages, (unsigned long long)stat.pages_resident,
                       (unsigned long long)stat.pages_merged, area->region_pages);
        leave_registration(worker, area);
}
