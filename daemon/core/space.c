/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Space: the registered regions of one address space. */

#include "core/space.h"

void space_init(struct space *space, pid_t pid, uid_t uid)
{
        *space = (struct space){.pid = pid, .uid = uid};
        list_init(&space->regions);
}

int space_insert(struct space *space, struct region *region)
{
        struct list *before = &space->regions;

        list_for_each(link, &space->regions) {
                struct region *other = list_entry(link, struct region, link);

                if (other->start >= region_end(region)) {
                        before = link;
                        break;
                }
                if (region_end(other) > region->start)
                        return -EEXIST;
        }
        list_append(before, &region->link); /* in front of `before` */
        region->space = space;
        space->n_regions++;
        space->n_pages += region->n_pages;
        return 0;
}

void space_remove(struct space *space, struct region *region)
{
        list_remove(&region->link);
        space->n_regions--;
        space->n_pages -= region->n_pages;
}

struct region *space_find(const struct space *space, uint64_t address, uint32_t *ret_page)
{
        list_for_each(link, &space->regions) {
                struct region *region = list_entry(link, struct region, link);

                if (address >= region->start && address < region_end(region)) {
                        *ret_page = (uint32_t)((address - region->start) >> PAGE_SHIFT);
                        return region;
                }
        }
        return NULL;
}

uint64_t space_borders(const struct space *space)
{
        uint64_t borders = 0;

        list_for_each(link, &space->regions)
                borders += list_entry(link, struct region, link)->borders;
        return borders;
}
