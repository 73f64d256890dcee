/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Backing: a file of which regions are read-only mappings. */

#include "dedup/backing.h"

#include <stdlib.h>
#include <string.h>

#include "kernel/lease.h"
#include "util/bits.h"
#include "util/cleanup.h"

static uint32_t whole_pages(off_t size)
{
        return (uint32_t)MIN((uint64_t)size >> PAGE_SHIFT, (uint64_t)UINT32_MAX);
}

int backing_new(struct domain *domain, int fd, const struct stat *st, struct backing **ret_backing)
{
        struct backing *backing = calloc(1, sizeof(*backing));

        if (!backing)
                return -ENOMEM;
        *backing = (struct backing){.domain = domain,
                                    .fd = -EBADF,
                                    .others_read = st->st_mode & S_IROTH,
                                    .owner_reads = st->st_mode & S_IRUSR,
                                    .owner = st->st_uid,
                                    .dev = st->st_dev,
                                    .inode = st->st_ino,
                                    .state = BACKING_LEASED,
                                    .n_pages = whole_pages(st->st_size)};
        list_init(&backing->link);
        list_init(&backing->regions);
        backing->sites = calloc(MAX(backing->n_pages, 1U), sizeof(*backing->sites));
        backing->users = calloc(MAX(backing->n_pages, 1U), sizeof(*backing->users));
        if (!backing->sites || !backing->users) {
                backing_free(backing);
                return -ENOMEM;
        }
        backing->fd = fd;
        *ret_backing = backing;
        return 0;
}

struct backing *backing_free(struct backing *backing)
{
        if (!backing)
                return NULL;
        list_remove(&backing->link);
        if (backing->fd >= 0)
                lease_release(backing->fd);
        fd_close(backing->fd);
        range_list_deinit(&backing->drops);
        free(backing->sites);
        free(backing->users);
        free(backing);
        return NULL;
}

void backing_join(struct backing *backing, struct region *region, uint32_t page)
{
        region->backing = backing;
        region->backing_page = page;
        list_append(&backing->regions, &region->sibling);
}

void backing_leave(struct region *region)
{
        if (!region->backing)
                return;
        list_remove(&region->sibling);
        region->backing = NULL;
}

bool backing_page(const struct region *region, uint32_t page, uint32_t *ret_page)
{
        if (!region->backing || region->backing->n_pages <= region->backing_page ||
            page >= region->backing->n_pages - region->backing_page)
                return false;
        *ret_page = region->backing_page + page;
        return true;
}

bool backing_region_page(const struct region *region, uint32_t file_page, uint32_t *ret_page)
{
        if (file_page < region->backing_page || file_page - region->backing_page >= region->n_pages)
                return false;
        *ret_page = file_page - region->backing_page;
        return true;
}

bool backing_same(const struct region *a, uint32_t page_a, const struct region *b, uint32_t page_b)
{
        return a->backing && a->backing == b->backing && a->backing_page + page_a == b->backing_page + page_b;
}

void backing_share(const struct region *region, uint32_t page)
{
        uint32_t file_page;

        if (!backing_page(region, page, &file_page) || region->backing->sites[file_page] == UINT16_MAX)
                return;
        region->backing->n_replaced += !region->backing->sites[file_page];
        region->backing->n_extra += region->backing->sites[file_page]++ > 0;
}

void backing_unshare(const struct region *region, uint32_t page)
{
        uint32_t file_page;

        if (!backing_page(region, page, &file_page) || !region->backing->sites[file_page] ||
            region->backing->sites[file_page] == UINT16_MAX)
                return;
        region->backing->n_extra -= --region->backing->sites[file_page] > 0;
        region->backing->n_replaced -= !region->backing->sites[file_page];
}

void backing_use(struct backing *backing, uint32_t page)
{
        backing->n_users++;
        if (backing->users[page] < UINT16_MAX)
                backing->n_canonical += !backing->users[page]++;
}

/* A count that has reached its maximum stays there. */
void backing_unuse(struct backing *backing, uint32_t page)
{
        backing->n_users--;
        if (backing->users[page] < UINT16_MAX)
                backing->n_canonical -= !--backing->users[page];
}

bool backing_readable(const struct backing *backing, uid_t uid)
{
        return !uid || backing->others_read || (backing->owner_reads && uid == backing->owner);
}

/* Whether a page of the region is another page's, or may be at any moment. */
bool backing_merged(const struct region *region)
{
        return region->count[PAGE_MERGED] || region->count[PAGE_ALIASED] || region->count[PAGE_PLANNED];
}

bool backing_in_use(const struct backing *backing)
{
        list_for_each(link, &backing->regions) {
                if (backing_merged(list_entry(link, struct region, sibling)))
                        return true;
        }
        return backing->n_users;
}

/* A table of a number for each of `n` pages, of which there were `before`. */
static int resize(uint16_t **table, uint32_t before, uint32_t n)
{
        uint16_t *resized = reallocarray(*table, MAX(n, 1U), sizeof(*resized));

        if (!resized)
                return -ENOMEM;
        if (n > before)
                memset(resized + before, 0, (n - before) * sizeof(*resized));
        *table = resized;
        return 0;
}

int backing_measure(struct backing *backing)
{
        uint32_t n_pages;
        struct stat st;
        int r;

        if (fstat(backing->fd, &st) < 0)
                return -errno;
        n_pages = whole_pages(st.st_size);
        /* First: if the second table cannot be had the first is shorter already. */
        backing->n_pages = MIN(backing->n_pages, n_pages);
        r = resize(&backing->sites, backing->n_pages, n_pages);
        if (r >= 0)
                r = resize(&backing->users, backing->n_pages, n_pages);
        if (r >= 0)
                backing->n_pages = n_pages;
        return r;
}

size_t backing_bytes(const struct backing *backing)
{
        return sizeof(*backing) + backing->n_pages * (sizeof(*backing->sites) + sizeof(*backing->users)) +
               backing->drops.capacity * sizeof(*backing->drops.ranges);
}
