/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Domain: one trust domain with its index and its pool. */

#include "dedup/domain.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "dedup/fingerprint.h"
#include "kernel/poolfile.h"
#include "util/cleanup.h"
#include "util/clock.h"

_Static_assert(REGION_MAX_PAGES <= INDEX_MAX_PAGES && POOL_MAX_EXTENTS <= INDEX_MAX_PAGES / POOL_EXTENT_SLOTS,
               "each page and each slot has a place in an entry of the index");

/* Region 0 is none, so that a reply that names no region can be told from others. */
#define FIRST_REGION 1

/* Retired slots that are looked at in one go, and neighbours among them at once. */
#define RECLAIM_SLOTS 8192
#define RECLAIM_RUN   512

/* How soon slots that are still mapped are looked at again - later if they are many -, and how rarely at last. */
#define RECHECK_NS      (1 * NSEC_PER_MSEC)
#define RECHECK_SLOT_NS (10 * NSEC_PER_USEC)
#define RECHECK_MAX_NS  (8 * NSEC_PER_SEC)

static bool resolve(void *context, struct page_ref ref, uint32_t *ret_key)
{
        const struct domain *domain = context;
        const struct region *region;
        const struct slot *slot;

        if (page_ref_is_slot(ref)) {
                slot = pool_slot(&domain->pool, ref.page);
                if (!slot || slot->state == SLOT_FREE)
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

static bool append(struct slot_list *list, uint32_t slot)
{
        if (list->n == list->capacity) {
                uint32_t capacity = MAX(list->capacity * 2, UINT32_C(256));
                uint32_t *slots = reallocarray(list->slots, capacity, sizeof(*slots));

                if (!slots)
                        return false;
                list->slots = slots;
                list->capacity = capacity;
        }
        list->slots[list->n++] = slot;
        return true;
}

/* Out of memory: the slot keeps its page until it is used and retired again. */
static void retired(struct domain *domain, uint32_t slot)
{
        (void)append(&domain->retired, slot);
        domain->recheck_delay_ns = RECHECK_NS;
}

int domain_add_region(struct domain *domain, struct region *region)
{
        uint32_t id = domain->region_hint;

        while (id < domain->n_regions && domain->regions[id])
                id++;
        if (id >= INDEX_MAX_REGIONS)
                return -EDQUOT;
        if (id >= domain->n_regions) {
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

void domain_unanchor(struct domain *domain, uint32_t slot)
{
        struct pool_anchor *anchor = pool_anchor(&domain->pool, slot / POOL_EXTENT_SLOTS);

        anchors_release(domain->anchors, anchor->anchor);
        anchor->anchor = ANCHOR_NONE;
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

/* ------------------------------------------------------------------ coming and going */

static int adopt_slot(struct domain *domain, uint32_t slot)
{
        uint32_t anchor;
        int r = pool_adopt(&domain->pool, slot);

        if (r < 0)
                return r;
        if (!append(&domain->adopted, slot))
                return -ENOMEM;
        retired(domain, slot);
        r = domain_anchor(domain, slot, &anchor);
        return r > 0 ? anchors_pin(domain->anchors, anchor, domain->pool_fd, (uint64_t)slot << PAGE_SHIFT)
                     : r;
}

static void release_anchors(struct domain *domain)
{
        for (uint32_t extent = 0; extent < domain->pool.n_extents; extent++) {
                struct pool_anchor *anchor =
                        domain->pool.extents[extent] ? pool_anchor(&domain->pool, extent) : NULL;

                if (anchor && anchor->anchor != ANCHOR_NONE)
                        anchors_release(domain->anchors, anchor->anchor);
        }
}

/* Everything in the file is content that somebody may map. */
static int adopt_slots(struct domain *domain)
{
        off_t end = 0;
        int r = 0;

        while (r >= 0) {
                off_t start = error_from(lseek(domain->pool_fd, end, SEEK_DATA));

                if (start < 0)
                        return start == -ENXIO ? 0 : (int)start;
                end = error_from(lseek(domain->pool_fd, start, SEEK_HOLE));
                if (end < 0)
                        return (int)end;
                for (off_t at = start; at < end && r >= 0; at += (off_t)PAGE_BYTES) {
                        uint32_t slot = (uint32_t)((uint64_t)at >> PAGE_SHIFT);

                        r = adopt_slot(domain, slot);
                }
        }
        return r;
}

static int open_pool(struct domain *domain, int mount_fd, int adopted)
{
        char name[32];
        int r;

        snprintf(name, sizeof(name), "uid-%u", domain->uid);
        if (adopted < 0)
                return poolfile_create(mount_fd, name, &domain->pool_fd);
        if (!poolfile_is_one(adopted))
                return -EINVAL;
        domain->pool_fd = adopted;
        poolfile_unlock(adopted, 0, 0); /* what the daemon before may have held when it died */
        r = adopt_slots(domain);
        if (r < 0)
                release_anchors(domain);
        return r;
}

int domain_new(uid_t uid, int mount_fd, int adopted, struct anchors *anchors, struct domain **ret_domain)
{
        struct domain *domain = calloc(1, sizeof(*domain));
        struct stat st;
        int r;

        if (!domain)
                return -ENOMEM;
        *domain = (struct domain){
                .uid = uid,
                .anchors = anchors,
                .index = INDEX_INIT(resolve, domain),
                .pool = POOL_INIT,
                .pool_fd = -EBADF,
                .spill = POOL_NO_EXTENT,
                .region_hint = FIRST_REGION,
        };
        list_init(&domain->link);
        r = fingerprint_secret(domain->secret, sizeof(domain->secret));
        if (r >= 0)
                r = open_pool(domain, mount_fd, adopted);
        if (r >= 0)
                r = (int)error_from(fstat(domain->pool_fd, &st));
        if (r < 0) {
                if (domain->pool_fd == adopted)
                        domain->pool_fd = -EBADF; /* remains the caller's */
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
        free(domain->regions);
        free(domain->adopted.slots);
        free(domain->retired.slots);
        free(domain->waiting.slots);
        free(domain);
        return NULL;
}

/* ------------------------------------------------------------------ giving pages back */

int domain_claim(struct domain *domain, uint32_t slot)
{
        const struct slot *record = pool_slot(&domain->pool, slot);

        if (!record || record->state == SLOT_FREE)
                return -ENOENT;
        pool_share(&domain->pool, slot);
        return 0;
}

void domain_spoil(struct domain *domain, uint32_t slot)
{
        pool_set_key(&domain->pool, slot, ~pool_slot(&domain->pool, slot)->key);
}

static int compare_slots(const void *a, const void *b)
{
        uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;

        return (left > right) - (left < right);
}

static bool is_retired(const struct domain *domain, uint32_t slot)
{
        const struct slot *record = pool_slot(&domain->pool, slot);

        return record && record->state == SLOT_RETIRED;
}

/*
 * Neighbouring retired slots: those that are mapped, or about to be (kernel/poollock.h), wait; the others lose their
 * pages.
 */
static void reclaim_run(struct domain *domain, int pagemap_fd, const uint32_t *slots, uint32_t n)
{
        uint64_t offset = (uint64_t)slots[0] << PAGE_SHIFT, bytes = (uint64_t)n << PAGE_SHIFT;
        uint64_t unmapped[BITMAP_WORDS(RECLAIM_RUN)] = {0};
        int locked = poolfile_lock(domain->pool_fd, offset, bytes), r = locked;

        if (r >= 0)
                r = poolfile_unmapped(domain->pool_fd, pagemap_fd, offset, n, unmapped);
        for (uint32_t i = 0, end; i < n; i = end) {
                end = (uint32_t)bitmap_run_end(unmapped, i, n);
                if (r >= 0 && bitmap_get(unmapped, i))
                        punch(domain, slots[i], slots[end - 1] + 1);
        }
        if (locked >= 0)
                poolfile_unlock(domain->pool_fd, offset, bytes);
        for (uint32_t i = 0; i < n; i++)
                if (is_retired(domain, slots[i]))
                        (void)append(&domain->waiting, slots[i]);
}

/* Takes slots from the end of the list; each that still is retired is looked at once. */
static void reclaim_some(struct domain *domain, int pagemap_fd)
{
        struct slot_list *list = &domain->retired;
        uint32_t n_taken = MIN(list->n, (uint32_t)RECLAIM_SLOTS), n = 0;
        uint32_t *slots = list->slots + list->n - n_taken;

        qsort(slots, n_taken, sizeof(*slots), compare_slots);
        for (uint32_t i = 0; i < n_taken; i++)
                if (is_retired(domain, slots[i]) && (!n || slots[n - 1] != slots[i]))
                        slots[n++] = slots[i];
        for (uint32_t i = 0, end; i < n; i = end) {
                for (end = i + 1; end < n && slots[end] == slots[end - 1] + 1 && end - i < RECLAIM_RUN; end++)
                        ;
                reclaim_run(domain, pagemap_fd, slots + i, end - i);
        }
        list->n -= n_taken;
}

static void shrink(struct slot_list *list)
{
        if (list->n)
                return;
        free(list->slots);
        *list = (struct slot_list){.slots = NULL};
}

/* Those that waited are looked at again, rarely if that keeps being in vain. */
static void recheck(struct domain *domain)
{
        struct slot_list none = domain->retired;

        domain->retired = domain->waiting;
        domain->waiting = none;
        domain->recheck_delay_ns = MIN(domain->recheck_delay_ns * 2, RECHECK_MAX_NS);
}

/* When they are. A pass over many must not be followed by the next at once. */
static uint64_t recheck_due_ns(const struct domain *domain)
{
        uint64_t delay_ns = MAX(domain->recheck_delay_ns, domain->waiting.n * RECHECK_SLOT_NS);

        return domain->waiting_since_ns + MIN(delay_ns, RECHECK_MAX_NS);
}

/* Nothing is looked at again before all the rest has been: each gets its turn. */
uint64_t domain_reclaim(struct domain *domain, int pagemap_fd, uint64_t now_ns)
{
        if (!domain->retired.n && domain->waiting.n && now_ns >= recheck_due_ns(domain))
                recheck(domain);
        if (domain->retired.n) {
                if (!domain->waiting.n)
                        domain->waiting_since_ns = now_ns;
                reclaim_some(domain, pagemap_fd);
        }
        if (domain->retired.n)
                return now_ns;
        /* Quiet: the room that a burst needed is given back. */
        shrink(&domain->retired);
        shrink(&domain->waiting);
        shrink(&domain->adopted);
        return domain->waiting.n ? recheck_due_ns(domain) : UINT64_MAX;
}

size_t domain_bytes(const struct domain *domain)
{
        return sizeof(*domain) + index_bytes(&domain->index) + domain->pool.bytes +
               domain->n_regions * sizeof(*domain->regions) +
               (domain->retired.capacity + domain->waiting.capacity + domain->adopted.capacity) *
                       sizeof(uint32_t);
}
