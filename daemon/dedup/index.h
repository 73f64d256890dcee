#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Index: fingerprint -> stable slot or candidate page
 *
 * One table stands in for KSM's two trees: an entry names either a slot of the pool (stable: its content
 * cannot change) or a page that settled and was read once (unstable: a hint, and only that). An entry is 8
 * bytes; the fingerprint is not kept here: its high 16 bits are the entry's tag, and its low 32 bits, the
 * key, are where the entry points - in the region's page records, or in the slot - and are asked for through
 * a callback. A page that changed has another key there by now, so an entry that has gone stale is recognised
 * when it is met and its place is used again. Nothing is ever searched for in order to delete it. What lies
 * between key and tag decides nothing.
 *
 * Entry layout: bit 63 slot or page, bits 62..47 the tag (misses hardly ever leave the table), bits 46..29
 * region id, bits 28..0 page number or slot.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

/* What an entry points at. A handle, never a pointer: what it names may be gone. */
struct page_ref {
        uint32_t region; /* 18 bits; INDEX_SLOT for a slot */
        uint32_t page;   /* 29 bits; page of the region, or slot of the pool */
};
_Static_assert(sizeof(struct page_ref) == 8, "a page_ref is a handle of 8 bytes");

#define INDEX_SLOT        UINT32_MAX
#define INDEX_MAX_REGIONS (UINT32_C(1) << 18)
#define INDEX_MAX_PAGES   (UINT32_C(1) << 29) /* of a region; slots of a pool */

static inline bool page_ref_is_slot(struct page_ref ref)
{
        return ref.region == INDEX_SLOT;
}

/*
 * Tells the key of what `ref` names now: true and *ret_key, or false when it names nothing any more (region
 * gone, page written since, slot freed).
 */
typedef bool (*index_resolve)(void *context, struct page_ref ref, uint32_t *ret_key);

struct index {
        uint64_t *entries; /* open addressing, linear probing; 0 is empty */
        size_t n_entries;  /* a multiple of 8, or 0 */
        size_t n_used;     /* stale ones included */
        size_t limit;      /* of n_used, at which the table is rebuilt */
        index_resolve resolve;
        void *context;
};

#define INDEX_INIT(_resolve, _context)                                                                       \
        {                                                                                                    \
                .resolve = (_resolve), .context = (_context)                                                 \
        }

void index_deinit(struct index *index);

/* Finds what has this fingerprint; a slot is preferred to a page. Returns whether there is one. */
bool index_find(const struct index *index, uint64_t fingerprint, struct page_ref *ret_ref);

/*
 * Enters `ref` under a fingerprint; the place of a stale entry met on the way is used again. Entering what is
 * there already changes nothing. Look first: a search passes every live entry of its fingerprint, so equal
 * pages that are all entered make it as long as they are many. The table grows when it is too full and most
 * of it is alive, and is rebuilt without its stale entries when it is not. -ENOMEM leaves the table as it
 * was; -ERANGE: a number that has too many bits.
 */
int index_insert(struct index *index, uint64_t fingerprint, struct page_ref ref) wp_check;

size_t index_bytes(const struct index *index);
