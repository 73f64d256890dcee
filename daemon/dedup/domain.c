/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Domain: one trust domain with its index and its pool. */

#include "dedup/domain.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "dedup/fingerprint.h"
#include "kernel/poolfile.h"
#include "util/cleanup.h"

_Static_assert(REGION_MAX_PAGES <= INDEX_MAX_PAGES && POOL_MAX_EXTENTS <= INDEX_MAX_PAGES / POOL_EXTENT_SLOTS,
               "each page and each slot has a place in an entry of the index");

static bool resolve(void *context, struct page_ref ref, uint32_t *ret_key)
{
        const struct domain *domain = context;
        const struct region *region;
        const struct slot *slot;

        if (page_ref_is_slot(ref)) {
                slot = pool_slot(&domain->pool, ref.page);
                if (!slot || slot->state != SLOT_USED)
                        return false;
                *ret_key = slot->key;
                return true;
        }
        region = domain_region(domain, ref.region);
        if (!region || ref.page >= region->n_pages || region_state(region, ref.page) != PAGE_CANDIDATE)
                return false;
        *ret_key = region_key(region, ref.page);
        return true;
}

int domain_new(uid_t uid, int mount_fd, struct anchors *anchors, struct domain **ret_domain)
{
        struct domain *domain = calloc(1, sizeof(*domain));
        struct stat st;
        char name[32];
        int r;

        if (!domain)
                return -ENOMEM;
        *domain = (struct domain){
                .uid = uid,
                .anchors = anchors,
                .index = INDEX_INIT(resolve, domain),
                .pool = POOL_INIT,
                .pool_fd = -EBADF,
                .pool_readonly_fd = -EBADF,
                .spill = POOL_NO_EXTENT,
        };
        list_init(&domain->link);
        snprintf(name, sizeof(name), "uid-%u", uid);
        r = fingerprint_secret(domain->secret, sizeof(domain->secret));
        if (r >= 0)
                r = poolfile_create(mount_fd, name, &domain->pool_fd, &domain->pool_readonly_fd);
        if (r >= 0)
                r = (int)error_from(fstat(domain->pool_fd, &st));
        if (r < 0) {
                domain_free(domain);
                return r;
        }
        domain->pool_dev = st.st_dev;
        domain->pool_inode = st.st_ino;
        *ret_domain = domain;
        return 0;
}

struct domain *domain_free(struct domain *domain)
{
        if (!domain)
                return NULL;
        list_remove(&domain->link);
        index_deinit(&domain->index);
        pool_deinit(&domain->pool);
        fd_close(domain->pool_fd);
        fd_close(domain->pool_readonly_fd);
        free(domain->regions);
        free(domain->retired.slots);
        free(domain->condemned.slots);
        free(domain);
        return NULL;
}

int domain_add_region(struct domain *domain, struct region *region)
{
        uint32_t id = domain->region_hint;

        while (id < domain->n_regions && domain->regions[id])
                id++;
        if (id >= INDEX_MAX_REGIONS)
                return -EDQUOT;
        if (id == domain->n_regions) {
                uint32_t n = MAX(domain->n_regions * 2, UINT32_C(16));
                struct region **regions = reallocarray(domain->regions, n, sizeof(*regions));

                if (!regions)
                        return -ENOMEM;
                for (uint32_t i = domain->n_regions; i < n; i++)
                        regions[i] = NULL;
                domain->regions = regions;
                domain->n_regions = n;
        }
        domain->regions[id] = region;
        domain->region_hint = id + 1;
        region->id = id;
        return 0;
}

void domain_remove_region(struct domain *domain, struct region *region)
{
        domain->regions[region->id] = NULL;
        domain->region_hint = MIN(domain->region_hint, region->id);
        for (uint32_t i = 0; i < region->n_chunks; i++)
                if (region->chunks[i] && region->chunks[i]->extent != POOL_NO_EXTENT)
                        pool_disown(&domain->pool, region->chunks[i]->extent);
}

struct region *domain_region(const struct domain *domain, uint32_t id)
{
        return id < domain->n_regions ? domain->regions[id] : NULL;
}

/* The place that mirrors the page, or any free one where that is taken by other content. */
static int place_spilled(struct domain *domain, uint32_t key, uint32_t *ret_slot)
{
        uint32_t slot;
        int r = 0;

        if (domain->spill == POOL_NO_EXTENT || domain->spill_next == POOL_EXTENT_SLOTS) {
                if (domain->spill != POOL_NO_EXTENT)
                        pool_disown(&domain->pool, domain->spill);
                r = pool_reserve(&domain->pool, &domain->spill, &domain->spill);
                domain->spill_next = 0;
        }
        if (r < 0)
                return r;
        slot = domain->spill * POOL_EXTENT_SLOTS + domain->spill_next++;
        r = pool_take(&domain->pool, slot, key);
        if (r >= 0)
                *ret_slot = slot;
        return r;
}

int domain_place(struct domain *domain, struct region *region, uint32_t page, uint32_t key,
                 uint32_t *ret_slot)
{
        struct chunk *chunk = region_chunk(region, page);
        uint32_t slot;
        int r = 0;

        if (chunk->extent == POOL_NO_EXTENT)
                r = pool_reserve(&domain->pool, &chunk->extent, &chunk->extent);
        if (r < 0)
                return r;
        slot = chunk->extent * POOL_EXTENT_SLOTS + page % CHUNK_PAGES;
        r = pool_take(&domain->pool, slot, key);
        if (r == -EBUSY)
                return place_spilled(domain, key, ret_slot);
        if (r >= 0)
                *ret_slot = slot;
        return r;
}

int domain_anchor(struct domain *domain, uint32_t slot, uint32_t *ret_anchor)
{
        struct pool_anchor *anchor = pool_anchor(&domain->pool, slot / POOL_EXTENT_SLOTS);
        int r;

        if (anchor->anchor != ANCHOR_NONE)
                return 0;
        r = anchors_take(domain->anchors, ret_anchor);
        if (r < 0)
                return r;
        *anchor = (struct pool_anchor){.anchor = *ret_anchor, .slot = slot};
        return 1;
}

/*
 * Before the slots [start, end) of one extent lose their pages: the anchor moves to a page that stays, or is
 * given back.
 */
static int move_anchor(struct domain *domain, uint32_t start, uint32_t end)
{
        uint32_t extent = start / POOL_EXTENT_SLOTS, other;
        struct pool_anchor *anchor = pool_anchor(&domain->pool, extent);
        int r;

        if (anchor->anchor == ANCHOR_NONE || anchor->slot < start || anchor->slot >= end)
                return 0;
        if (pool_other_slot(&domain->pool, extent, start, end, &other) < 0) {
                anchors_release(domain->anchors, anchor->anchor);
                anchor->anchor = ANCHOR_NONE;
                return 0;
        }
        r = anchors_pin(domain->anchors, anchor->anchor, domain->pool_fd, (uint64_t)other << PAGE_SHIFT);
        if (r >= 0)
                anchor->slot = other;
        return r;
}

static int move_anchors(struct domain *domain, uint32_t start, uint32_t end)
{
        int r = 0;

        while (start < end && r >= 0) {
                uint32_t stop = MIN(end, (start / POOL_EXTENT_SLOTS + 1) * POOL_EXTENT_SLOTS);

                r = move_anchor(domain, start, stop);
                start = stop;
        }
        return r;
}

/*
 * Slots [start, end), retired all, lose their pages. What cannot be done leaves content there, which costs
 * memory.
 */
static void punch(struct domain *domain, uint32_t start, uint32_t end)
{
        if (move_anchors(domain, start, end) < 0 ||
            poolfile_discard(domain->pool_fd, (uint64_t)start << PAGE_SHIFT,
                             (uint64_t)(end - start) << PAGE_SHIFT) < 0)
                return;
        for (uint32_t slot = start; slot < end; slot++)
                pool_free(&domain->pool, slot);
}

static void retired(struct domain *domain, uint32_t slot)
{
        struct slot_list *list = &domain->retired;

        if (list->n == list->capacity) {
                uint32_t capacity = MAX(list->capacity * 2, UINT32_C(256));
                uint32_t *slots = reallocarray(list->slots, capacity, sizeof(*slots));

                if (!slots) /* its page stays until all children are gone the next time */
                        return;
                list->slots = slots;
                list->capacity = capacity;
        }
        list->slots[list->n++] = slot;
}

void domain_unshare(struct domain *domain, uint32_t slot)
{
        if (pool_unshare(&domain->pool, slot))
                retired(domain, slot);
}

void domain_unpin(struct domain *domain, uint32_t slot)
{
        if (pool_unpin(&domain->pool, slot))
                retired(domain, slot);
}

bool domain_condemn(struct domain *domain)
{
        struct slot_list retired_before = domain->condemned;

        if (domain->n_children || !domain->retired.n || domain->condemned.n)
                return false;
        domain->condemned = domain->retired;
        domain->retired = retired_before;
        return true;
}

static int compare_slots(const void *a, const void *b)
{
        uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;

        return (left > right) - (left < right);
}

void domain_punch(struct domain *domain)
{
        struct slot_list *list = &domain->condemned;

        if (!domain->n_children && list->n)
                qsort(list->slots, list->n, sizeof(list->slots[0]), compare_slots);
        for (uint32_t i = 0, end; !domain->n_children && i < list->n; i = end) {
                for (end = i + 1; end < list->n && list->slots[end] == list->slots[end - 1] + 1; end++)
                        ;
                punch(domain, list->slots[i], list->slots[end - 1] + 1);
        }
        list->n = 0;
        if (!domain->retired.n) { /* quiet: the room that a burst needed is given back */
                free(list->slots);
                free(domain->retired.slots);
                domain->condemned = domain->retired = (struct slot_list){.slots = NULL};
        }
}

void domain_child_came(struct domain *domain)
{
        domain->n_children++;
}

void domain_child_gone(struct domain *domain)
{
        if (--domain->n_children)
                return;
        /* Everything that is retired, whether it was on a list or not. */
        domain->retired.n = domain->condemned.n = 0;
        for (uint32_t slot = 0; domain->pool.n_retired && slot < domain->pool.n_extents * POOL_EXTENT_SLOTS;
             slot++) {
                const struct slot *record = pool_slot(&domain->pool, slot);

                if (record && record->state == SLOT_RETIRED)
                        retired(domain, slot);
        }
}

size_t domain_bytes(const struct domain *domain)
{
        return sizeof(*domain) + index_bytes(&domain->index) + domain->pool.bytes +
               domain->n_regions * sizeof(*domain->regions) +
               (domain->retired.capacity + domain->condemned.capacity) * sizeof(uint32_t);
}
