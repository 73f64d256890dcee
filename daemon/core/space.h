#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Space: the registered regions of one address space. Pure bookkeeping: no descriptor, no clock. */

#include <stdint.h>
#include <sys/types.h>

#include "core/region.h"
#include "util/error.h"
#include "util/list.h"

struct space {
        struct list regions; /* by address, disjoint */
        uint32_t n_regions;
        pid_t pid;
        uid_t uid;
        uint64_t n_pages;    /* of all regions */
        uint64_t vma_budget; /* VMAs that merging may add to it */
};

void space_init(struct space *space, pid_t pid, uid_t uid);

/* Takes the region into its place by address. -EEXIST: it overlaps one that is there. */
int space_insert(struct space *space, struct region *region) wp_check;
void space_remove(struct space *space, struct region *region);

/* The region that contains the address and the page of it, or NULL. */
struct region *space_find(const struct space *space, uint64_t address, uint32_t *ret_page);

/* VMAs that merging has added so far. */
uint64_t space_borders(const struct space *space);
