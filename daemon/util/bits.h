#pragma once
/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Small arithmetic that everybody needs: pages, alignment, bitmaps, minimum and maximum. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The only page size of x86-64's base pages; start-up refuses hosts whose page size differs. */
#define PAGE_SHIFT 12
#define PAGE_BYTES ((size_t)1 << PAGE_SHIFT)

#define ARRAY_SIZE(_a) (sizeof(_a) / sizeof((_a)[0]))

#define MIN(_a, _b) ((_a) < (_b) ? (_a) : (_b))
#define MAX(_a, _b) ((_a) > (_b) ? (_a) : (_b))

static inline bool page_aligned(uint64_t value)
{
        return !(value & (PAGE_BYTES - 1));
}

static inline uint64_t page_down(uint64_t value)
{
        return value & ~(uint64_t)(PAGE_BYTES - 1);
}

/* Bitmaps are arrays of 64-bit words, bit 0 of word 0 first. */
#define BITMAP_WORDS(_bits) (((_bits) + 63) / 64)

static inline bool bitmap_get(const uint64_t *map, size_t bit)
{
        return map[bit / 64] >> (bit % 64) & 1;
}

static inline void bitmap_set(uint64_t *map, size_t bit)
{
        map[bit / 64] |= (uint64_t)1 << (bit % 64);
}

static inline void bitmap_clear(uint64_t *map, size_t bit)
{
        map[bit / 64] &= ~((uint64_t)1 << (bit % 64));
}

/* The end of the run of equal bits that starts at `bit`, at most `n_bits`. */
static inline size_t bitmap_run_end(const uint64_t *map, size_t bit, size_t n_bits)
{
        bool value = bitmap_get(map, bit);

        while (++bit < n_bits && bitmap_get(map, bit) == value)
                ;
        return bit;
}
