#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Pool: the slots of canonical pages of one domain, and where a slot is laid out (pure bookkeeping; no file
 * here)
 *
 * Theory of operation
 *
 * A slot is one page of the pool file; its number is the page's offset. What a merge costs is decided here,
 * because a run of pages can be mapped as one VMA only if its slots lie next to each other in the same order.
 * So slots are handed out in extents: an extent is POOL_EXTENT_SLOTS consecutive slots that mirror one
 * aligned stretch ("chunk") of the client that showed the content first, page k of the chunk at slot k of the
 * extent. Neighbours that settle later fall into place by themselves, gaps fill, and other clients with the
 * same content in the same order find it in the same shape.
 *
 * The file is sparse: a slot that is not in use costs no memory. Its record costs some: the records of an
 * extent are made in blocks of POOL_BLOCK_SLOTS when the first slot of the block is taken, since often only
 * parts of a chunk have a twin. Extents whose slots are all free are given back and their numbers used again.
 *
 * A slot counts its sharers: the sites (page of a region) that map it, so far as we know. Nobody may write it,
 * ever, and its page is given back to the system only when its count is 0 *and* the kernel says that nobody maps
 * it (dedup/domain.h). Until then it is "retired": it has its content and may be used again at any moment.
 *
 * Identity: n_sharers == sum over used slots of sharers (those that a full count left out are not in either);
 * n_shared == used slots with sharers > 0; pages_sharing == n_sharers - n_shared.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

#define POOL_EXTENT_SLOTS 512
#define POOL_BLOCK_SLOTS  64
#define POOL_NO_EXTENT    UINT32_MAX
#define POOL_MAX_EXTENTS  (UINT32_C(1) << 20) /* 2 TiB of distinct content; where the pool file ends at most */

enum slot_state {
        SLOT_FREE, /* no content; the page is a hole */
        SLOT_USED, /* has content and may be mapped; sharers may be 0 while a merge is under way */
        SLOT_RETIRED, /* no sharers and no pins, but still its content: somebody whom we do not count may map it */
};

struct slot {
        uint32_t key; /* of the content's fingerprint */
        uint32_t sharers : 20;
        uint32_t pins : 10; /* merges under way that will map it; see pool_pins() */
        uint32_t state : 2; /* enum slot_state */
};
_Static_assert(sizeof(struct slot) == 8, "slots are metadata; see the README's bytes per page");

/*
 * A count that has reached its maximum stays there, and its slot is never retired: a count that wrapped would
 * free the slot under everybody. For sharers that takes a million mappings of one page. For pins it takes
 * being out of memory as well: those that do not fit into the slot are counted elsewhere.
 */
#define SLOT_MAX_SHARERS ((UINT32_C(1) << 20) - 1)
#define SLOT_MAX_PINS    ((UINT32_C(1) << 10) - 1)

struct pool_extent;

struct pool {
        struct pool_extent **extents; /* by number; NULL when free */
        uint32_t n_extents;           /* length of the array */
        uint32_t free_hint;
        uint64_t n_used;
        uint64_t n_retired;
        uint64_t n_shared;  /* used slots with at least one sharer */
        uint64_t n_sharers; /* sites */
        size_t bytes;       /* of metadata */
};

#define POOL_INIT                                                                                            \
        {                                                                                                    \
                .extents = NULL                                                                              \
        }

void pool_deinit(struct pool *pool);

/* Reserves an extent for a chunk: its number. -ENOSPC: all are taken; -ENOMEM. It is given back by itself when its last
 * slot becomes free; `*owner` (the chunk's record of its extent) is then set to POOL_NO_EXTENT. The owner
 * clears the
 * link with pool_disown() when it goes away first. */
int pool_reserve(struct pool *pool, uint32_t *owner, uint32_t *ret_extent) wp_check;
void pool_disown(struct pool *pool, uint32_t extent);

/* Takes a free slot for content: SLOT_FREE -> SLOT_USED, no sharers, one pin. -EBUSY: not free; -EINVAL: of no reserved
 * extent; -ENOMEM. */
int pool_take(struct pool *pool, uint32_t slot, uint32_t key) wp_check;

/* The record of a slot, or NULL when the number names no slot of a reserved extent. */
const struct slot *pool_slot(const struct pool *pool, uint32_t slot);

/* One merge under way, or one sharer, more; a retired slot is in use again. */
void pool_pin(struct pool *pool, uint32_t slot);
void pool_share(struct pool *pool, uint32_t slot);

/*
 * Takes over a slot whose content is in the file already, as SLOT_RETIRED; its extent is reserved if it is not yet. -EBUSY:
 * not free; -ENOSPC: no such slot; -ENOMEM. pool_set_key() says what its content is.
 */
int pool_adopt(struct pool *pool, uint32_t slot) wp_check;
void pool_set_key(struct pool *pool, uint32_t slot, uint32_t key);

/* The merges under way that will map a used slot, all of them. */
uint32_t pool_pins(const struct pool *pool, uint32_t slot);

/*
 * What keeps the extent from being collapsed into a huge page (kernel/anchor.h): the anchor, and the slot
 * that it pins. For the owner of the pool to use; a new extent has none.
 */
struct pool_anchor {
        uint32_t anchor; /* ANCHOR_NONE: none */
        uint32_t slot;
};

struct pool_anchor *pool_anchor(const struct pool *pool, uint32_t extent);

/* Any slot of the extent outside [start, end) that has content: 0, or -ENOENT. */
int pool_other_slot(const struct pool *pool, uint32_t extent, uint32_t start, uint32_t end,
                    uint32_t *ret_slot) wp_check;

/* One sharer or one pin less. Returns true when nothing refers to the slot any more: it is retired now, and the caller
 * calls pool_free() as soon as nobody can map it. */
bool pool_unshare(struct pool *pool, uint32_t slot) wp_check;
bool pool_unpin(struct pool *pool, uint32_t slot) wp_check;

/* SLOT_RETIRED -> SLOT_FREE. The caller has punched the hole. */
void pool_free(struct pool *pool, uint32_t slot);
