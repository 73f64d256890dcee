#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Areas: the memory under torture, and the exact knowledge of what it must hold
 *
 * Theory of operation: area.c.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "torture/gate.h"
#include "util/bits.h"
#include "wp.h"

struct worker;

#define HISTORY_LENGTH 8
#define HUGE_BYTES     ((size_t)2 << 20)

/* What was done to a page lately. */
struct history {
        uint32_t next;
        struct history_entry {
                uint64_t time_ns;
                const char *what;
                int32_t tid;
                uint32_t pages; /* of the operation, from this page's place in it on */
        } entries[HISTORY_LENGTH];
};

struct area {
        unsigned index;
        size_t max_pages;

        /* Where the memory is. Inside: it stays where it is. Closed: the closer may unmap, move and resize it. */
        struct gate layout;
        char *memory;
        size_t n_pages;
        uint32_t n_disconnects; /* how often the client had disconnected when it was mapped */

        /* Whether it is registered. Inside: that does not change. */
        struct gate registration;
        struct wp_region *_Atomic region;
        size_t region_first; /* in pages */
        size_t region_pages;
        _Atomic bool refused; /* by wp_register(): only fresh memory helps */

        /* Inside: may discard pages. Closed: pages are being given back, when doc/memory.md forbids that. */
        struct gate discards;

        /* One of each for each page; none of this is ever registered. */
        char *shadow;            /* what the memory must hold */
        _Atomic int32_t *locks;  /* 0 free, n readers, PAGE_TAKEN */
        _Atomic bool *discarded; /* and not settled since; see page_verify() */
        struct history *history;
};

#define PAGE_TAKEN (-1)

/* Pages of an area that the worker has locked. */
struct range {
        struct area *area;
        size_t first;
        size_t n;
        bool exclusive;
};

void area_init(struct area *area, unsigned index, size_t max_pages);
void area_release(struct area *area);

/* Layout closed, or before there are workers: maps fresh memory, of a size drawn anew, and fills it. */
void area_map(struct worker *worker, struct area *area);
void area_unmap(struct worker *worker, struct area *area);

/* Inside the layout: locks pages, as many as can be had in a row, at most `max`; false when there is none. */
bool range_take(struct worker *worker, struct area *area, size_t max, bool exclusive,
                struct range *ret_range);
/* The same from a page that is given, and no fewer than can be had. */
bool range_take_at(struct worker *worker, struct area *area, size_t first, size_t max, bool exclusive,
                   struct range *ret_range);
void range_give(struct worker *worker, struct range *range);

/* How long a range is to be: single pages, parts, whole areas. */
size_t range_draw_length(struct worker *worker, size_t max);

static inline char *range_memory(const struct range *range)
{
        return range->area->memory + range->first * PAGE_BYTES;
}

static inline char *range_shadow(const struct range *range)
{
        return range->area->shadow + range->first * PAGE_BYTES;
}

static inline size_t range_bytes(const struct range *range)
{
        return range->n * PAGE_BYTES;
}

/* Compares every byte. `when` goes into the report of a failure. */
void range_verify(struct worker *worker, const struct range *range, const char *when);
void page_verify(struct worker *worker, const struct range *range, size_t page, const char *when);

/* The memory and the shadow get a run of contents, beginning with one that is drawn. */
void range_fill(struct worker *worker, const struct range *range);
/* One run of contents, into any buffer. */
void range_draw_content(struct worker *worker, char *buffer, size_t n_pages);

/* The shadow becomes zeros. */
void range_zero_shadow(const struct range *range);
/* The same, of pages that are about to be discarded. */
void range_discard_shadow(const struct range *range);

/* In a forked child: of all areas only these pages are its own; see area.c. */
void areas_inherit(struct area *areas, unsigned n_areas, const struct range *ranges, unsigned n_ranges);
