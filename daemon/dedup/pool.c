/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Pool: the slots of canonical pages of one domain; the theory is at the head of pool.h. */

#include "dedup/pool.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "util/bits.h"

#define MIN_EXTENTS 16

/* The last value of a slot's own count of pins; the one behind it is SLOT_MAX_PINS, which it never leaves. */
#define OWN_PINS (SLOT_MAX_PINS - 1)

#define N_BLOCKS        (POOL_EXTENT_SLOTS / POOL_BLOCK_SLOTS)
#define MORE_PINS_BYTES (POOL_BLOCK_SLOTS * sizeof(uint32_t))

struct block {
        uint32_t *more_pins; /* by slot, on top of OWN_PINS; made when the first slot needs it */
        struct slot slots[POOL_BLOCK_SLOTS];
};

struct pool_extent {
        uint32_t *owner; /* the chunk's record of this extent; NULL when it went away */
        uint32_t n_busy; /* slots that are not free */
        struct pool_anchor anchor;
        struct block *blocks[N_BLOCKS]; /* NULL: all slots are free */
};

static void free_extent(struct pool_extent *extent)
{
        for (unsigned i = 0; extent && i < N_BLOCKS; i++) {
                if (extent->blocks[i])
                        free(extent->blocks[i]->more_pins);
                free(extent->blocks[i]);
        }
        free(extent);
}

static size_t extent_bytes(const struct pool_extent *extent)
{
        size_t bytes = sizeof(*extent);

        for (unsigned i = 0; i < N_BLOCKS; i++)
                if (extent->blocks[i])
                        bytes += sizeof(*extent->blocks[i]) +
                                 (extent->blocks[i]->more_pins ? MORE_PINS_BYTES : 0);
        return bytes;
}

void pool_deinit(struct pool *pool)
{
        for (uint32_t i = 0; i < pool->n_extents; i++)
                free_extent(pool->extents[i]);
        free(pool->extents);
        *pool = (struct pool)POOL_INIT;
}

static struct pool_extent *extent_of(const struct pool *pool, uint32_t extent)
{
        return extent < pool->n_extents ? pool->extents[extent] : NULL;
}

/* Where the block of the slot is, or is to be, or NULL when the number names no slot of a reserved extent. */
static struct block **block_of(const struct pool *pool, uint32_t slot)
{
        struct pool_extent *extent = extent_of(pool, slot / POOL_EXTENT_SLOTS);

        return extent ? &extent->blocks[slot % POOL_EXTENT_SLOTS / POOL_BLOCK_SLOTS] : NULL;
}

const struct slot *pool_slot(const struct pool *pool, uint32_t slot)
{
        static const struct slot free_slot = {.state = SLOT_FREE};
        struct block **block = block_of(pool, slot);

        if (!block)
                return NULL;
        return *block ? &(*block)->slots[slot % POOL_BLOCK_SLOTS] : &free_slot;
}

/* Doubles the array of extents. */
static int grow(struct pool *pool)
{
        uint32_t n_extents = MIN(MAX(pool->n_extents * 2, MIN_EXTENTS), POOL_MAX_EXTENTS);
        struct pool_extent **extents;

        if (n_extents == pool->n_extents)
                return -ENOSPC;
        extents = reallocarray(pool->extents, n_extents, sizeof(*extents));
        if (!extents)
                return -ENOMEM;
        memset(extents + pool->n_extents, 0, (n_extents - pool->n_extents) * sizeof(*extents));
        pool->bytes += (n_extents - pool->n_extents) * sizeof(*extents);
        pool->extents = extents;
        pool->n_extents = n_extents;
        return 0;
}

/* The lowest free number; the hint says that there is none below it. */
static int find_free(struct pool *pool, uint32_t *ret_extent)
{
        uint32_t extent = pool->free_hint;
        int r;

        while (extent < pool->n_extents && pool->extents[extent])
                extent++;
        pool->free_hint = extent;
        if (extent == pool->n_extents) {
                r = grow(pool);
                if (r < 0)
                        return r;
        }
        *ret_extent = extent;
        return 0;
}

static int make_extent(struct pool *pool, uint32_t extent, uint32_t *owner)
{
        struct pool_extent *new = calloc(1, sizeof(*new));

        if (!new)
                return -ENOMEM;
        new->owner = owner;
        new->anchor.anchor = UINT32_MAX;
        pool->extents[extent] = new;
        pool->bytes += sizeof(*new);
        return 0;
}

int pool_reserve(struct pool *pool, uint32_t *owner, uint32_t *ret_extent)
{
        uint32_t extent;
        int r;

        r = find_free(pool, &extent);
        if (r >= 0)
                r = make_extent(pool, extent, owner);
        if (r < 0)
                return r;
        pool->free_hint = extent + 1;
        *ret_extent = extent;
        return 0;
}

static void release(struct pool *pool, uint32_t extent)
{
        struct pool_extent *old = pool->extents[extent];

        if (old->owner)
                *old->owner = POOL_NO_EXTENT;
        pool->bytes -= extent_bytes(old);
        free_extent(old);
        pool->extents[extent] = NULL;
        pool->free_hint = MIN(pool->free_hint, extent);
}

void pool_disown(struct pool *pool, uint32_t extent)
{
        struct pool_extent *orphan = extent_of(pool, extent);

        assert(orphan);
        orphan->owner = NULL;
        if (!orphan->n_busy)
                release(pool, extent);
}

/* Fills the record of a free slot of a reserved extent. */
static int occupy(struct pool *pool, uint32_t slot, struct slot record)
{
        struct block **block = block_of(pool, slot);
        struct slot *taken;

        if (!block)
                return -EINVAL;
        if (!*block) {
                *block = calloc(1, sizeof(**block));
                if (!*block)
                        return -ENOMEM;
                pool->bytes += sizeof(**block);
        }
        taken = &(*block)->slots[slot % POOL_BLOCK_SLOTS];
        if (taken->state != SLOT_FREE)
                return -EBUSY;
        *taken = record;
        pool->extents[slot / POOL_EXTENT_SLOTS]->n_busy++;
        pool->n_used += record.state == SLOT_USED;
        pool->n_retired += record.state == SLOT_RETIRED;
        return 0;
}

int pool_take(struct pool *pool, uint32_t slot, uint32_t key)
{
        return occupy(pool, slot, (struct slot){.key = key, .state = SLOT_USED, .pins = 1});
}

int pool_adopt(struct pool *pool, uint32_t slot)
{
        uint32_t extent = slot / POOL_EXTENT_SLOTS;
        bool made = false;
        int r = extent < POOL_MAX_EXTENTS ? 0 : -ENOSPC;

        while (r >= 0 && extent >= pool->n_extents)
                r = grow(pool);
        if (r >= 0 && !pool->extents[extent]) {
                r = make_extent(pool, extent, NULL);
                made = r >= 0;
        }
        if (r >= 0)
                r = occupy(pool, slot, (struct slot){.state = SLOT_RETIRED});
        if (r < 0 && made)
                release(pool, extent);
        return r;
}

struct pool_anchor *pool_anchor(const struct pool *pool, uint32_t extent)
{
        return &pool->extents[extent]->anchor;
}

int pool_other_slot(const struct pool *pool, uint32_t extent, uint32_t start, uint32_t end,
                    uint32_t *ret_slot)
{
        uint32_t first = extent * POOL_EXTENT_SLOTS;

        for (uint32_t slot = first; slot < first + POOL_EXTENT_SLOTS; slot++)
                if ((slot < start || slot >= end) && pool_slot(pool, slot)->state != SLOT_FREE) {
                        *ret_slot = slot;
                        return 0;
                }
        return -ENOENT;
}

/* The record of a slot of an extent that is in use. */
static struct slot *record_of(const struct pool *pool, uint32_t slot)
{
        struct block **block = block_of(pool, slot);

        assert(block && *block);
        return &(*block)->slots[slot % POOL_BLOCK_SLOTS];
}

/* The record of a slot that must be in this state. */
static struct slot *slot_in(const struct pool *pool, uint32_t slot, enum slot_state state)
{
        struct slot *record = record_of(pool, slot);

        assert(record->state == state);
        return record;
}

/* Retires the slot when neither a site nor a merge under way refers to it. */
static bool retire_unreferenced(struct pool *pool, struct slot *slot)
{
        if (slot->sharers || slot->pins)
                return false;
        slot->state = SLOT_RETIRED;
        pool->n_used--;
        pool->n_retired++;
        return true;
}

/*
 * The count of a slot's pins that do not fit into it, or NULL when it has none and `make` is false or fails.
 */
static uint32_t *more_pins(struct pool *pool, uint32_t slot, bool make)
{
        struct block *block = *block_of(pool, slot);

        if (!block->more_pins && make) {
                block->more_pins = calloc(POOL_BLOCK_SLOTS, sizeof(*block->more_pins));
                if (block->more_pins)
                        pool->bytes += MORE_PINS_BYTES;
        }
        return block->more_pins ? &block->more_pins[slot % POOL_BLOCK_SLOTS] : NULL;
}

/* The record of a slot that has content; one that was retired is in use again. */
static struct slot *use(struct pool *pool, uint32_t slot)
{
        struct slot *used = record_of(pool, slot);

        assert(used->state != SLOT_FREE);
        pool->n_retired -= used->state == SLOT_RETIRED;
        pool->n_used += used->state == SLOT_RETIRED;
        used->state = SLOT_USED;
        return used;
}

void pool_pin(struct pool *pool, uint32_t slot)
{
        struct slot *used = use(pool, slot);
        uint32_t *more;

        if (used->pins == SLOT_MAX_PINS)
                return;
        more = used->pins == OWN_PINS ? more_pins(pool, slot, true) : NULL;
        if (more)
                ++*more;
        else
                used->pins++;
}

bool pool_unpin(struct pool *pool, uint32_t slot)
{
        struct slot *used = slot_in(pool, slot, SLOT_USED);
        uint32_t *more;

        assert(used->pins);
        if (used->pins == SLOT_MAX_PINS)
                return false;
        more = used->pins == OWN_PINS ? more_pins(pool, slot, false) : NULL;
        if (more && *more) {
                --*more;
                return false;
        }
        used->pins--;
        return retire_unreferenced(pool, used);
}

uint32_t pool_pins(const struct pool *pool, uint32_t slot)
{
        uint32_t pins = slot_in(pool, slot, SLOT_USED)->pins;
        const struct block *block = *block_of(pool, slot);

        return pins + (pins == OWN_PINS && block->more_pins ? block->more_pins[slot % POOL_BLOCK_SLOTS] : 0);
}

void pool_set_key(struct pool *pool, uint32_t slot, uint32_t key)
{
        record_of(pool, slot)->key = key;
}

void pool_share(struct pool *pool, uint32_t slot)
{
        struct slot *used = use(pool, slot);

        if (used->sharers == SLOT_MAX_SHARERS)
                return;
        pool->n_shared += !used->sharers;
        pool->n_sharers++;
        used->sharers++;
}

bool pool_unshare(struct pool *pool, uint32_t slot)
{
        struct slot *used = slot_in(pool, slot, SLOT_USED);

        assert(used->sharers);
        if (used->sharers == SLOT_MAX_SHARERS)
                return false;
        used->sharers--;
        pool->n_sharers--;
        pool->n_shared -= !used->sharers;
        return retire_unreferenced(pool, used);
}

void pool_free(struct pool *pool, uint32_t slot)
{
        struct slot *retired = slot_in(pool, slot, SLOT_RETIRED);
        uint32_t extent = slot / POOL_EXTENT_SLOTS;

        *retired = (struct slot){.state = SLOT_FREE};
        pool->n_retired--;
        if (!--pool->extents[extent]->n_busy)
                release(pool, extent);
}
