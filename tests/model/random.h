#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Random numbers for tests: splitmix64, the same on every machine for the same seed. */

#include <stdint.h>

struct random {
        uint64_t state;
};

#define RANDOM_INIT(_seed)                                                                                   \
        {                                                                                                    \
                .state = (_seed)                                                                             \
        }

static inline uint64_t random_next(struct random *random)
{
        uint64_t z = (random->state += UINT64_C(0x9e3779b97f4a7c15));

        z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
        return z ^ z >> 31;
}

/* A number below `n`. */
static inline uint64_t random_below(struct random *random, uint64_t n)
{
        return random_next(random) % n;
}
