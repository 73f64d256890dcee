/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Region: one registered range, and what is known of each of its pages. */

#include "core/region.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int region_new(struct space *space, uint64_t start, uint64_t length, uint64_t flags,
               struct region **ret_region)
{
        struct region *region;

        if (length >> PAGE_SHIFT > REGION_MAX_PAGES)
                return -E2BIG;
        region = calloc(1, sizeof(*region));
        if (!region)
                return -ENOMEM;
        list_init(&region->link);
        list_init(&region->sibling);
        region->space = space;
        region->id = REGION_NO_ID;
        region->start = start;
        region->flags = flags;
        region->n_pages = (uint32_t)(length >> PAGE_SHIFT);
        region->n_chunks = (region->n_pages + CHUNK_PAGES - 1) / CHUNK_PAGES;
        region->count[PAGE_EMPTY] = region->n_pages;
        region->chunks = calloc(region->n_chunks, sizeof(*region->chunks));
        region->excluded = calloc(BITMAP_WORDS(region->n_chunks), sizeof(uint64_t));
        if (!region->chunks || !region->excluded) {
                free(region->excluded);
                free(region->chunks);
                free(region);
                return -ENOMEM;
        }
        *ret_region = region;
        return 0;
}

struct region *region_free(struct region *region)
{
        if (!region)
                return NULL;
        list_remove(&region->link);
        for (uint32_t i = 0; i < region->n_chunks; i++)
                free(region->chunks[i]);
        free(region->excluded);
        free(region->chunks);
        free(region);
        return NULL;
}

struct chunk *region_chunk(const struct region *region, uint32_t page)
{
        return region->chunks[page / CHUNK_PAGES];
}

int region_make_chunk(struct region *region, uint32_t page)
{
        struct chunk **chunk = &region->chunks[page / CHUNK_PAGES];

        if (*chunk)
                return 0;
        *chunk = calloc(1, sizeof(**chunk));
        if (!*chunk)
                return -ENOMEM;
        (*chunk)->extent = UINT32_MAX;
        if (bitmap_get(region->excluded, page / CHUNK_PAGES)) {
                memset((*chunk)->state, PAGE_EXCLUDED, sizeof((*chunk)->state));
                bitmap_clear(region->excluded, page / CHUNK_PAGES);
        }
        region->n_chunks_made++;
        return 0;
}

uint32_t region_chunk_last(const struct region *region, uint32_t page)
{
        return MIN((page / CHUNK_PAGES + 1) * CHUNK_PAGES, region->n_pages) - 1;
}

/* Whether the chunk of the page was never made and lies in [page, end) as a whole. */
static bool absent_in(const struct region *region, uint32_t page, uint32_t end)
{
        return !region_chunk(region, page) && page % CHUNK_PAGES == 0 &&
               region_chunk_last(region, page) < end;
}

bool region_exclude_chunk(struct region *region, uint32_t page, uint32_t end)
{
        uint32_t n = region_chunk_last(region, page) - page + 1;

        if (!absent_in(region, page, end))
                return false;
        if (!bitmap_get(region->excluded, page / CHUNK_PAGES)) {
                bitmap_set(region->excluded, page / CHUNK_PAGES);
                region->count[PAGE_EMPTY] -= n;
                region->count[PAGE_EXCLUDED] += n;
        }
        return true;
}

bool region_include_chunk(struct region *region, uint32_t page, uint32_t end)
{
        uint32_t n = region_chunk_last(region, page) - page + 1;

        if (!absent_in(region, page, end) || !bitmap_get(region->excluded, page / CHUNK_PAGES))
                return false;
        bitmap_clear(region->excluded, page / CHUNK_PAGES);
        region->count[PAGE_EMPTY] += n;
        region->count[PAGE_EXCLUDED] -= n;
        return true;
}

enum page_state region_state(const struct region *region, uint32_t page)
{
        const struct chunk *chunk = region_chunk(region, page);

        if (chunk)
                return (enum page_state)chunk->state[page % CHUNK_PAGES];
        return bitmap_get(region->excluded, page / CHUNK_PAGES) ? PAGE_EXCLUDED : PAGE_EMPTY;
}

uint32_t region_key(const struct region *region, uint32_t page)
{
        const struct chunk *chunk = region_chunk(region, page);

        return chunk ? chunk->key[page % CHUNK_PAGES] : 0;
}

uint8_t region_flags(const struct region *region, uint32_t page)
{
        const struct chunk *chunk = region_chunk(region, page);

        return chunk ? chunk->flags[page % CHUNK_PAGES] : 0;
}

/*
 * Whether a mapping ends between page-1 and page because of merging. The region's own ends count as unmerged.
 */
static bool border(const struct region *region, uint32_t page)
{
        bool left = page > 0 && (region_flags(region, page - 1) & PAGE_F_POOLED);
        bool right = page < region->n_pages && (region_flags(region, page) & PAGE_F_POOLED);

        if (!left || !right)
                return left != right;
        return region_key(region, page) != region_key(region, page - 1) + 1;
}

/* Whether a page in this state lies in a mapping of the pool; excluding a page leaves it where it is. */
static bool pooled(enum page_state state, bool before)
{
        if (state == PAGE_EXCLUDED)
                return before;
        return state == PAGE_MERGED || state == PAGE_ALIASED || state == PAGE_FOREIGN || state == PAGE_COPIED;
}

static bool unsettled(enum page_state state)
{
        return state == PAGE_VOLATILE || state == PAGE_TRACKED;
}

void region_set_state(struct region *region, uint32_t page, enum page_state state, uint32_t key)
{
        struct chunk *chunk = region_chunk(region, page);
        uint32_t i = page % CHUNK_PAGES;
        enum page_state from = (enum page_state)chunk->state[i];
        bool before = chunk->flags[i] & PAGE_F_POOLED, after = pooled(state, before);

        if (state != from && !page_state_allowed(from, state)) {
                fprintf(stderr, "page state: %s -> %s is not in the table\n", page_state_name(from),
                        page_state_name(state));
                abort();
        }
        if (before != after)
                region->borders -= (uint64_t)border(region, page) + border(region, page + 1);
        chunk->state[i] = (uint8_t)state;
        /* A page in a mapping of the pool keeps its slot as key: the mapping keeps its offset. */
        if (!before || !after)
                chunk->key[i] = key;
        chunk->flags[i] &= (uint8_t) ~(PAGE_F_WRITTEN | PAGE_F_REFUSED | PAGE_F_FAILED);
        if (before != after) {
                chunk->flags[i] ^= PAGE_F_POOLED;
                region->borders += (uint64_t)border(region, page) + border(region, page + 1);
        }
        chunk->n_unsettled += unsettled(state);
        chunk->n_unsettled -= unsettled(from);
        region->count[from]--;
        region->count[state]++;
}

bool region_unsettled(const struct region *region, uint32_t page)
{
        const struct chunk *chunk = region_chunk(region, page);

        return chunk && chunk->n_unsettled;
}

void region_mark_written(struct region *region, uint32_t page)
{
        region_chunk(region, page)->flags[page % CHUNK_PAGES] |= PAGE_F_WRITTEN;
}

void region_mark_failed(struct region *region, uint32_t page)
{
        region_be_patient(region, page);
        region_chunk(region, page)->flags[page % CHUNK_PAGES] |= PAGE_F_FAILED;
}

void region_mark_refused(struct region *region, uint32_t page)
{
        region_chunk(region, page)->flags[page % CHUNK_PAGES] |= PAGE_F_REFUSED;
        region->n_refused++;
}

void region_retry_refused(struct region *region)
{
        for (uint32_t page = 0; region->n_refused && page < region->n_pages; page++)
                if (!region_chunk(region, page))
                        page = region_chunk_last(region, page);
                else if (region_flags(region, page) & PAGE_F_REFUSED)
                        region_set_state(region, page, PAGE_TRACKED, 0);
        region->n_refused = 0;
}

void region_retry_candidates(struct region *region)
{
        for (uint32_t page = 0; region->count[PAGE_CANDIDATE] && page < region->n_pages; page++)
                if (!region_chunk(region, page))
                        page = region_chunk_last(region, page);
                else if (region_state(region, page) == PAGE_CANDIDATE)
                        region_set_state(region, page, PAGE_TRACKED, 0);
        region->n_refused = 0;
}

static unsigned patience_level(const struct region *region, uint32_t page)
{
        return (region_flags(region, page) & PAGE_F_WAIT) >> PAGE_F_LEVEL_SHIFT;
}

static void set_patience_level(struct region *region, uint32_t page, unsigned level)
{
        uint8_t *flags = &region_chunk(region, page)->flags[page % CHUNK_PAGES];

        *flags = (uint8_t)((*flags & ~PAGE_F_WAIT) | level << PAGE_F_LEVEL_SHIFT);
}

void region_be_patient(struct region *region, uint32_t page)
{
        set_patience_level(region, page, MIN(patience_level(region, page) + 1, PATIENCE_LEVELS - 1U));
}

void region_forget_patience(struct region *region, uint32_t page)
{
        set_patience_level(region, page, 0);
}

/*
 * At level n > 1 a page is looked at in every 2^(n-1)-th round: no counter to keep. The page's number shifts the
 * phase, so that the pages of a busy region do not all come due in the same round.
 */
bool region_patient(const struct region *region, uint32_t page)
{
        unsigned level = patience_level(region, page);

        return level > 1 && ((region->round + page / CHUNK_PAGES) & ((1U << (level - 1)) - 1));
}

uint32_t region_run_end(const struct region *region, uint32_t page, uint32_t limit, enum page_state state)
{
        while (page < limit && region_state(region, page) == state)
                page++;
        return page;
}

size_t region_bytes(const struct region *region)
{
        return sizeof(*region) + region->n_chunks * sizeof(*region->chunks) +
               BITMAP_WORDS(region->n_chunks) * sizeof(uint64_t) +
               region->n_chunks_made * sizeof(struct chunk);
}
