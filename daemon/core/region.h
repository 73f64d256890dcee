#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Region: one registered range of one address space, and what is known of each of its pages
 *
 * Theory of operation
 *
 * Records are kept in chunks of CHUNK_PAGES pages, made when the first page of a chunk is seen populated, so
 * that a sparse region costs little. A page has a state (core/page.h), a key whose meaning belongs to the
 * user of core (for merging: the fingerprint's key of a candidate, the slot of a planned or merged page) and
 * a patience: how many more rounds a page that keeps changing is left alone.
 *
 * All changes of state go through region_set_state(). It keeps, besides the counts by state, the number of
 * *borders*: places between two neighbouring pages where one mapping ends because merging replaced something.
 * Each border is one VMA that the process would not have without us.
 *
 * Invariant: sum of count[] == n_pages; pages without a chunk are PAGE_EMPTY.
 */

#include <stdbool.h>
#include <stdint.h>

#include "core/page.h"
#include "util/bits.h"
#include "util/error.h"
#include "util/list.h"

#define CHUNK_PAGES      512
#define REGION_MAX_PAGES (UINT32_C(1) << 29) /* 2 TiB */
#define REGION_NO_ID     UINT32_MAX

/* The longest name of anonymous memory, with its NUL (prctl(2), PR_SET_VMA_ANON_NAME). */
#define REGION_NAME_BYTES 80

/* A page that keeps being written is left alone for longer and longer: up to 2^(PATIENCE_LEVELS-2)-1 rounds. */
#define PATIENCE_LEVELS 6

struct chunk {
        uint32_t key[CHUNK_PAGES];
        uint8_t state[CHUNK_PAGES]; /* enum page_state */
        uint8_t flags[CHUNK_PAGES]; /* PAGE_F_* */
        uint32_t extent;            /* the pool's extent that mirrors this chunk; for the user of core */
        uint32_t n_unsettled;       /* pages that are volatile or tracked */
};
_Static_assert(sizeof(struct chunk) == 6 * CHUNK_PAGES + 8, "six bytes a page");

/* In chunk.flags. */
#define PAGE_F_POOLED      0x80 /* the page lies in a mapping of the pool, merged or copied */
#define PAGE_F_WRITTEN     0x40 /* PAGE_PLANNED: a write was reported before the result was */
#define PAGE_F_WAIT        0x38 /* level of patience, 0 ... PATIENCE_LEVELS-1, << 3 */
#define PAGE_F_LEVEL_SHIFT 3
#define PAGE_F_FAILED                                                                                        \
        0x02 /* PAGE_TRACKED: it could not be read or merged; not again before its patience is over */
#define PAGE_F_REFUSED 0x01 /* PAGE_CANDIDATE: it has a match, which was refused for want of something */

struct space;
struct backing; /* of the user of core */

struct region {
        struct list link; /* in space->regions, by address */
        struct space *space;
        uint32_t id;
        uint32_t n_pages;
        uint64_t start; /* bytes */
        uint64_t flags; /* WP_MERGE, WP_NOTIFY, WP_LAZY */
        /* For the user of core: what memory that takes the place of merged memory must have. */
        uint32_t kept;
        char kept_name[REGION_NAME_BYTES];
        /* For the user of core: the file of which the region is a mapping, or NULL. */
        struct backing *backing;
        struct list sibling;
        uint32_t backing_page;   /* with which it begins */
        uint32_t backing_number; /* that its owner knows it by, and 1; 0: there is none */
        bool shared;             /* MAP_SHARED */
        uint32_t protection;     /* PROT_* */
        uint32_t round;          /* of the scan; low bits decide whose patience is over */
        bool closing;            /* being unregistered or changed: nothing new is planned */
        struct chunk **chunks;
        uint64_t *excluded; /* a bit a chunk that was never made: all its pages are PAGE_EXCLUDED */
        uint32_t n_chunks;
        uint32_t n_chunks_made;
        uint64_t borders;
        uint64_t count[PAGE_N_STATES];
        uint64_t n_refused;  /* pages marked so since they were last retried */
        uint64_t n_remnants; /* pages found to be copies from an earlier registration */
};

/*
 * `start` and the length are whole pages. The region is on no list. -ENOMEM; -E2BIG: more than
 * REGION_MAX_PAGES.
 */
int region_new(struct space *space, uint64_t start, uint64_t length, uint64_t flags,
               struct region **ret_region) wp_check;
struct region *region_free(struct region *region);

/* The record of a page, or NULL when its chunk was never made (the page is PAGE_EMPTY). */
struct chunk *region_chunk(const struct region *region, uint32_t page);

/* Makes the chunk that the page is in. -ENOMEM. */
int region_make_chunk(struct region *region, uint32_t page) wp_check;

/* The last page of the chunk that the page is in: loops go from there over chunks that were never made. */
uint32_t region_chunk_last(const struct region *region, uint32_t page);

/*
 * Exclude or include a chunk that was never made, without making it: true when that was done for the chunk
 * that starts at `page`, false when it does not start there, was made, does not lie before `end` as a whole,
 * or is not excluded.
 */
bool region_exclude_chunk(struct region *region, uint32_t page, uint32_t end);
bool region_include_chunk(struct region *region, uint32_t page, uint32_t end);

enum page_state region_state(const struct region *region, uint32_t page);
uint32_t region_key(const struct region *region, uint32_t page);
uint8_t region_flags(const struct region *region, uint32_t page);

/*
 * The only place where a state changes. The chunk exists. Changes that page.h forbids stop the program: they
 * are bugs.
 */
void region_set_state(struct region *region, uint32_t page, enum page_state state, uint32_t key);

/* Whether any page of the chunk that the page is in is volatile or tracked. */
bool region_unsettled(const struct region *region, uint32_t page);

/* Marks a planned page as written before its result came. */
void region_mark_written(struct region *region, uint32_t page);

/*
 * Patience: each time a page is found written it is left alone for more rounds (region_be_patient), and a
 * page that settled starts from nothing again. region_patient() says whether a volatile page is still to be
 * left alone in this round.
 */
void region_be_patient(struct region *region, uint32_t page);
void region_forget_patience(struct region *region, uint32_t page);
bool region_patient(const struct region *region, uint32_t page);

/* The end of the run of pages from `page` on that have this state, at most `limit`. */
uint32_t region_run_end(const struct region *region, uint32_t page, uint32_t limit, enum page_state state);

/* Marks a tracked page that could not be read or merged. */
void region_mark_failed(struct region *region, uint32_t page);

/* Marks a candidate whose match was refused; and has all such pages read again. */
void region_mark_refused(struct region *region, uint32_t page);
void region_retry_refused(struct region *region);
/* Has all candidates read again. */
void region_retry_candidates(struct region *region);

/* Whether the page shares one of a pool, which giving it back ends. */
static inline bool region_shares(const struct region *region, uint32_t page)
{
        enum page_state state = region_state(region, page);

        return state == PAGE_MERGED || state == PAGE_ALIASED || state == PAGE_FOREIGN;
}

/* Metadata in bytes. */
size_t region_bytes(const struct region *region);

static inline uint64_t region_address(const struct region *region, uint32_t page)
{
        return region->start + ((uint64_t)page << PAGE_SHIFT);
}

static inline uint64_t region_end(const struct region *region)
{
        return region_address(region, region->n_pages);
}
