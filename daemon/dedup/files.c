/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Files: regions that are read-only mappings of files, and what becomes of their leases; the theory is in backing.h. */

#include "dedup/merger-private.h"

#include <fcntl.h>

#include "dedup/backing.h"
#include "kernel/lease.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define RETRY_NS     (1 * NSEC_PER_SEC)
#define RETRY_MAX_NS (30 * NSEC_PER_SEC)

/* How often it is looked after a file whose lease is about to end. */
#define BREAK_TICK_NS (10 * NSEC_PER_MSEC)

static struct backing *find_backing(const struct merger *merger, const struct stat *st)
{
        list_for_each(link, &merger->backings) {
                struct backing *backing = list_entry(link, struct backing, link);

                if (backing->inode == st->st_ino && backing->dev == st->st_dev)
                        return backing;
        }
        return NULL;
}

int files_adopt(struct merger *merger, int fd, const struct stat *st, struct backing **ret_backing)
{
        struct backing *backing = find_backing(merger, st);
        int r = 0;

        if (backing && backing->state != BACKING_LEASED)
                return -EAGAIN;
        if (!backing) {
                r = backing_new(fd, st, &backing);
                if (r < 0)
                        return r;
                list_append(&merger->backings, &backing->link);
                fd = -EBADF;
        }
        fd_close(fd); /* we have one already */
        *ret_backing = backing;
        return 0;
}

void files_sweep(struct merger *merger)
{
        list_for_each_safe(link, next, &merger->backings)
                if (list_empty(&list_entry(link, struct backing, link)->regions))
                        backing_free(list_entry(link, struct backing, link));
}

void files_leave(struct region *region)
{
        struct backing *backing = region->backing;

        backing_leave(region);
        if (backing && list_empty(&backing->regions))
                backing_free(backing);
}

/* ------------------------------------------------------------------ rounds */

bool files_scannable(const struct region *region)
{
        return region->backing->state == BACKING_LEASED &&
               region->count[PAGE_EMPTY] + region->count[PAGE_TRACKED] + region->count[PAGE_VOLATILE] > 0;
}

/* Whether the page is to be read in this round. */
static bool readable(struct region *region, uint32_t page, bool at_once)
{
        enum page_state state = region_state(region, page);

        if (state != PAGE_EMPTY && state != PAGE_TRACKED && state != PAGE_VOLATILE)
                return false;
        if (region_make_chunk(region, page) < 0)
                return false;
        if (state != PAGE_TRACKED)
                region_set_state(region, page, PAGE_TRACKED, 0);
        return at_once || !(region_flags(region, page) & PAGE_F_FAILED) || !region_patient(region, page);
}

int files_digest(struct region *region, uint32_t first, uint32_t end, bool at_once, struct range_list *read)
{
        uint32_t file_page;
        int r = 0;

        for (uint32_t page = first; page < end && backing_page(region, page, &file_page) && r >= 0; page++)
                if (readable(region, page, at_once))
                        r = range_list_add(read, page);
        return r;
}

uint64_t files_read_offset(const struct region *region, uint32_t page)
{
        return ((uint64_t)region->backing_page + page) << PAGE_SHIFT;
}

/* ------------------------------------------------------------------ what is of no use any more */

void files_merged(struct region *region, uint32_t page)
{
        uint32_t file_page;

        backing_share(region, page);
        /* Out of memory: the page stays in the page cache until the kernel wants it back. */
        if (backing_page(region, page, &file_page))
                (void)!range_list_add(&region->backing->drops, file_page);
}

/* The list is the worker's until files_dropped(). */
bool files_prepare_drops(struct merger *merger)
{
        list_for_each(link, &merger->backings) {
                struct backing *backing = list_entry(link, struct backing, link);

                if (!backing->drops.n)
                        continue;
                merger->dropping = backing->drops;
                backing->drops = (struct range_list){.ranges = NULL};
                merger->drop_fd = (int)error_from(fcntl(backing->fd, F_DUPFD_CLOEXEC, 3));
                if (merger->drop_fd < 0) {
                        range_list_deinit(&merger->dropping);
                        continue;
                }
                merger->work.drop_fd = merger->drop_fd;
                merger->work.drops = merger->dropping.ranges;
                merger->work.n_drops = merger->dropping.n;
                return true;
        }
        return false;
}

bool files_dropped(struct merger *merger)
{
        if (merger->drop_fd < 0)
                return false;
        merger->drop_fd = fd_close(merger->drop_fd);
        range_list_deinit(&merger->dropping);
        return true;
}

/* ------------------------------------------------------------------ leases that end */

static bool has_task(const struct region *region)
{
        list_for_each(link, &member_of(region)->tasks)
                if (list_entry(link, struct task, link)->region == region)
                        return true;
        return false;
}

static void restored(void *context, int error, struct region *region, const char *detail)
{
}

/* Who was asked before, or is about to unregister it, needs not be asked. Out of memory: another time. */
static void restore_regions(struct merger *merger, struct backing *backing)
{
        list_for_each_safe(link, next, &backing->regions) {
                struct region *region = list_entry(link, struct region, sibling);

                if ((region->count[PAGE_MERGED] || region->count[PAGE_PLANNED]) && !has_task(region))
                        (void)!merger_unmerge(merger, region, 0, region->n_pages, restored, NULL);
        }
}

/* Those that have not given back what is merged go on with what the file was, until they see that they are alone. */
static void send_away(struct merger *merger, struct backing *backing)
{
        list_for_each_safe(link, next, &backing->regions) {
                struct region *region = list_entry(link, struct region, sibling);
                struct member *member = member_of(region);

                if ((region->count[PAGE_MERGED] || region->count[PAGE_PLANNED]) && member->session)
                        merger->ops->send_away(member->session,
                                               "it did not give back pages of a file in time");
        }
}

static void let_writer_go(struct backing *backing, uint64_t now_ns)
{
        lease_release(backing->fd);
        backing->state = BACKING_OPEN;
        backing->retry_ns = RETRY_NS;
        backing->deadline_ns = now_ns + RETRY_NS;
}

static void advance_breaking(struct merger *merger, struct backing *backing, uint64_t now_ns)
{
        bool late = now_ns >= backing->deadline_ns;

        restore_regions(merger, backing);
        if (backing_in_use(backing) && late)
                send_away(merger, backing);
        if (!backing_in_use(backing) || late)
                let_writer_go(backing, now_ns);
}

/* Whatever was read of it may have changed. */
static void advance_open(struct merger *merger, struct backing *backing, uint64_t now_ns)
{
        int r;

        if (now_ns < backing->deadline_ns || backing_in_use(backing))
                return;
        r = lease_take(backing->fd);
        if (r >= 0)
                r = backing_measure(backing);
        if (r < 0) {
                lease_release(backing->fd);
                backing->retry_ns = MIN(backing->retry_ns * 2, RETRY_MAX_NS);
                backing->deadline_ns = now_ns + backing->retry_ns;
                return;
        }
        list_for_each(link, &backing->regions)
                region_retry_candidates(list_entry(link, struct region, sibling));
        backing->state = BACKING_LEASED;
        merger_wake(merger);
}

uint64_t files_advance(struct merger *merger, uint64_t now_ns)
{
        uint64_t next = UINT64_MAX;

        list_for_each(link, &merger->backings) {
                struct backing *backing = list_entry(link, struct backing, link);

                if (backing->state == BACKING_BREAKING)
                        advance_breaking(merger, backing, now_ns);
                else if (backing->state == BACKING_OPEN)
                        advance_open(merger, backing, now_ns);
                if (backing->state == BACKING_BREAKING)
                        next = MIN(next, now_ns + BREAK_TICK_NS);
                else if (backing->state == BACKING_OPEN)
                        next = MIN(next, MAX(backing->deadline_ns, now_ns + BREAK_TICK_NS));
        }
        return next;
}

void merger_lease_broken(struct merger *merger, int fd)
{
        uint64_t now_ns = clock_now();

        list_for_each(link, &merger->backings) {
                struct backing *backing = list_entry(link, struct backing, link);

                if (backing->state != BACKING_LEASED || (fd >= 0 && fd != backing->fd) ||
                    lease_quiet(backing->fd))
                        continue;
                backing->state = BACKING_BREAKING;
                backing->deadline_ns = now_ns + BACKING_BREAK_NS;
        }
        (void)files_advance(merger, now_ns);
}
