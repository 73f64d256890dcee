/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Operations: mappings of files. The area is of no interest: each worker has views of its own. */

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "torture/client.h"
#include "torture/op.h"
#include "torture/view.h"

#define MAX_WRITTEN 16

/* Pages of a view. */
struct part {
        struct view *view;
        size_t first;
        size_t n;
};

static struct view *draw_view(struct worker *worker)
{
        struct view *view = &worker->views[draw(worker, VIEWS_PER_WORKER)];

        if (!view->memory && shared->has_views && !worker->depth)
                view_map(worker, view);
        return view->memory ? view : NULL;
}

static bool draw_part(struct worker *worker, size_t max, struct part *ret_part)
{
        struct view *view = draw_view(worker);
        size_t n;

        if (!view)
                return false;
        n = range_draw_length(worker, MIN(max, view->n_pages));
        *ret_part = (struct part){.view = view, .first = draw(worker, view->n_pages - n + 1), .n = n};
        return true;
}

static void verify(struct worker *worker, const struct part *part, const char *when)
{
        view_verify(worker, part->view, part->first, part->n, when);
}

void op_view(struct worker *worker, struct area *area)
{
        struct part part;

        if (draw_part(worker, SIZE_MAX, &part))
                verify(worker, &part, "when it was read");
}

/* Anonymous memory with the same content: then they share a page of the pool. */
void op_view_copy(struct worker *worker, struct area *area)
{
        struct range range;
        struct part part;

        if (!draw_part(worker, WORKER_BUFFER_PAGES, &part) || !range_take(worker, area, part.n, true, &range))
                return;
        part.n = MIN(part.n, range.n);
        range_verify(worker, &range, "before it becomes a copy of a view");
        memcpy(worker->buffer, part.view->memory + part.first * PAGE_BYTES, part.n * PAGE_BYTES);
        memcpy(range_shadow(&range), worker->buffer, part.n * PAGE_BYTES);
        memcpy(range_memory(&range), worker->buffer, part.n * PAGE_BYTES);
        count(COUNT_STORES, part.n);
        range_verify(worker, &range, "after it became a copy of a view");
        range_give(worker, &range);
}

/* Its content comes from the file again, or from what stands for it. */
void op_view_drop(struct worker *worker, struct area *area)
{
        struct part part;
        char *memory;
        int r;

        if (!draw_part(worker, SIZE_MAX, &part))
                return;
        memory = part.view->memory + part.first * PAGE_BYTES;
        r = madvise(memory, part.n * PAGE_BYTES, MADV_DONTNEED);
        EXPECT_AT(memory, r == 0, "MADV_DONTNEED: %s", strerror(errno));
        memset(part.view->own + part.first, 0, part.n * sizeof(part.view->own[0]));
        verify(worker, &part, "after it was discarded");
}

/* ------------------------------------------------------------------ libwp */

/* Inside the connection. -ENOMEM leaves it registered. */
static void unregister(struct view *view)
{
        int r = wp_unregister(view->region);

        expect_errno(r, "wp_unregister", ENOMEM, ENOMEM);
        if (r == 0)
                view->region = NULL;
}

void op_view_register(struct worker *worker, struct area *area)
{
        struct client *client = worker->client;
        struct view *view = draw_view(worker);
        int r;

        if (!view || view->region || !gate_enter(&client->connection))
                return;
        if (client->wp) {
                r = wp_register(client->wp, view->memory, view->n_pages * PAGE_BYTES, WP_MERGE,
                                &view->region);
                /* Refused: somebody writes to the file, or the worker made a part writable. */
                expect_errno(r, "wp_register", EOPNOTSUPP, EDQUOT);
                if (r == 0)
                        count(COUNT_FILE_REGISTERED, 1);
                else
                        view->region = NULL;
        }
        gate_leave(&client->connection);
        view_verify(worker, view, 0, view->n_pages, "after it was registered");
}

void op_view_unregister(struct worker *worker, struct area *area)
{
        struct client *client = worker->client;
        struct view *view = draw_view(worker);

        if (!view || !gate_enter(&client->connection))
                return;
        if (view->region)
                unregister(view);
        gate_leave(&client->connection);
        view_verify(worker, view, 0, view->n_pages, "after its registration ended");
}

void op_view_new(struct worker *worker, struct area *area)
{
        struct client *client = worker->client;
        struct view *view = draw_view(worker);

        if (!view || !gate_enter(&client->connection))
                return;
        if (view->region)
                unregister(view);
        if (!view->region) {
                view_verify(worker, view, 0, view->n_pages, "before it is unmapped");
                view_unmap(view);
                view_map(worker, view);
        }
        gate_leave(&client->connection);
}

/* Inside the connection. Nothing of the part is merged from then on. */
static bool exclude(const struct part *part)
{
        int r;

        if (!part->view->region)
                return true;
        r = wp_exclude(part->view->region, part->first * PAGE_BYTES, part->n * PAGE_BYTES);
        expect_errno(r, "wp_exclude", ENOMEM, EDQUOT);
        return r == 0;
}

static void include(const struct part *part)
{
        if (part->view->region)
                expect_errno(wp_include(part->view->region, part->first * PAGE_BYTES, part->n * PAGE_BYTES),
                             "wp_include", EOPNOTSUPP, EDQUOT);
}

void op_view_exclude(struct worker *worker, struct area *area)
{
        struct client *client = worker->client;
        struct part part;

        if (!draw_part(worker, SIZE_MAX, &part) || !gate_enter(&client->connection))
                return;
        if (exclude(&part)) {
                verify(worker, &part, "while it is excluded");
                include(&part);
        }
        gate_leave(&client->connection);
        verify(worker, &part, "after it was excluded");
}

/* Private copies, which stay what they are. */
void op_view_write(struct worker *worker, struct area *area)
{
        struct client *client = worker->client;
        struct part part;

        if (!draw_part(worker, MAX_WRITTEN, &part) || part.view->kind != MAP_PRIVATE ||
            !gate_enter(&client->connection))
                return;
        if (exclude(&part)) {
                view_write(worker, part.view, part.first, part.n);
                verify(worker, &part, "after it was written");
                include(&part);
        }
        gate_leave(&client->connection);
}

void op_view_ask(struct worker *worker, struct area *area)
{
        struct client *client = worker->client;
        bool merge = coin(worker);
        struct part part;
        size_t offset, length;

        if (!draw_part(worker, SIZE_MAX, &part) || !gate_enter(&client->connection))
                return;
        offset = part.first * PAGE_BYTES;
        length = part.n * PAGE_BYTES;
        if (part.view->region && merge)
                expect_errno(wp_merge(part.view->region, offset, length, NULL), "wp_merge", EBUSY, EBUSY);
        else if (part.view->region)
                expect_errno(wp_unmerge(part.view->region, offset, length), "wp_unmerge", EBUSY, ENOMEM);
        gate_leave(&client->connection);
        verify(worker, &part, merge ? "after it was merged" : "after it was given back");
}

void op_view_stat(struct worker *worker, struct area *area)
{
        struct client *client = worker->client;
        struct view *view = draw_view(worker);
        struct wp_region_stat stat;
        int r;

        if (!view || !gate_enter(&client->connection))
                return;
        r = view->region ? wp_region_stat(view->region, &stat) : -ENOTCONN;
        expect_errno(r, "wp_region_stat", ENOTCONN, ENOTCONN);
        if (r == 0) {
                EXPECT(stat.pages == view->n_pages && stat.pages_merged <= stat.pages,
                       "wp_region_stat of a view: %llu pages, %llu merged; %zu were registered",
                       (unsigned long long)stat.pages, (unsigned long long)stat.pages_merged, view->n_pages);
                count(COUNT_FILE_MERGED, stat.pages_merged);
        }
        gate_leave(&client->connection);
}
