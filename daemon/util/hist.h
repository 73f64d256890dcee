#pragma once
/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A histogram of durations with a relative error of at most 1/16: 16 linear steps per power of two
 *
 * One thread adds; any thread may read at the same time (relaxed atomics; a reader sees some recent state).
 */

#include <stdint.h>

#define HIST_STEPS   16
#define HIST_BUCKETS (61 * HIST_STEPS)

struct hist {
        uint64_t count;
        uint64_t max;
        uint64_t bucket[HIST_BUCKETS];
};

#define HIST_INIT                                                                                            \
        {                                                                                                    \
                .count = 0                                                                                   \
        }

void hist_add(struct hist *hist, uint64_t value);

/*
 * The value below or at which `permille` of all added values lie (the upper end of its bucket); 0 when empty.
 */
uint64_t hist_quantile(const struct hist *hist, unsigned permille);

uint64_t hist_count(const struct hist *hist);
uint64_t hist_max(const struct hist *hist);
