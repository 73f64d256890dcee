/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A histogram of durations with a relative error of at most 1/16
 *
 * Values below HIST_STEPS have a bucket each. From there on every power of two is cut into HIST_STEPS buckets
 * of equal width, so that a bucket is never wider than 1/16 of the smallest value in it.
 */

#include "util/hist.h"

#include "util/bits.h"

#define STEP_SHIFT 4

_Static_assert(HIST_STEPS == 1 << STEP_SHIFT, "the shift belongs to the number of steps");
_Static_assert(HIST_BUCKETS == (64 - STEP_SHIFT + 1) * HIST_STEPS, "every 64-bit value has a bucket");

static unsigned bucket_of(uint64_t value)
{
        unsigned exponent;

        if (value < HIST_STEPS)
                return (unsigned)value;
        exponent = 63 - (unsigned)__builtin_clzll(value);
        return (exponent - STEP_SHIFT + 1) * HIST_STEPS +
               (unsigned)(value >> (exponent - STEP_SHIFT) & (HIST_STEPS - 1));
}

/* The greatest value that falls into the bucket. */
static uint64_t bucket_end(unsigned bucket)
{
        unsigned shift;

        if (bucket < HIST_STEPS)
                return bucket;
        shift = bucket / HIST_STEPS - 1;
        return ((uint64_t)(HIST_STEPS + bucket % HIST_STEPS) << shift) + (((uint64_t)1 << shift) - 1);
}

static uint64_t load(const uint64_t *counter)
{
        return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* There is one writer only, so a plain load and store lose nothing and spare it the locked instruction. */
static void store(uint64_t *counter, uint64_t value)
{
        __atomic_store_n(counter, value, __ATOMIC_RELAXED);
}

void hist_add(struct hist *hist, uint64_t value)
{
        uint64_t *bucket = &hist->bucket[bucket_of(value)];

        store(bucket, load(bucket) + 1);
        if (value > load(&hist->max))
                store(&hist->max, value);
        store(&hist->count, load(&hist->count) + 1);
}

uint64_t hist_quantile(const struct hist *hist, unsigned permille)
{
        uint64_t count = hist_count(hist), max = hist_max(hist), rank, seen = 0;

        if (!count)
                return 0;
        permille = MIN(permille, 1000U);
        rank = MAX(count / 1000 * permille + (count % 1000 * permille + 999) / 1000, UINT64_C(1));
        for (unsigned i = 0; i < HIST_BUCKETS; i++) {
                seen += load(&hist->bucket[i]);
                if (seen >= rank)
                        return MIN(bucket_end(i), max);
        }
        return max; /* the counter was read ahead of the buckets */
}

uint64_t hist_count(const struct hist *hist)
{
        return load(&hist->count);
}

uint64_t hist_max(const struct hist *hist)
{
        return load(&hist->max);
}
