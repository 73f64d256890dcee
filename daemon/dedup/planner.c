/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Planner: from matches of single pages to runs. */

#include "dedup/planner.h"

#include <stdbool.h>

#include "util/bits.h"

static bool continues(const struct match *a, const struct match *b)
{
        if (b->kind != a->kind || b->page != a->page + 1)
                return false;
        if (a->kind != MATCH_PAGE && a->kind != MATCH_SLOT)
                return true;
        return b->with.region == a->with.region && b->with.page == a->with.page + 1;
}

size_t planner_run_end(const struct match *matches, size_t i, size_t n)
{
        while (++i < n && continues(&matches[i - 1], &matches[i]))
                ;
        return i;
}

uint32_t planner_min_run(uint64_t used, uint64_t budget, uint32_t minimum)
{
        /*
         * Each step halves what is left: short runs may take half of the budget, the longest ones all of it.
         */
        static const uint32_t lengths[] = {1, 2, 8, 32, 128};
        uint64_t left = budget > used ? budget - used : 0;

        if (left < 2)
                return UINT32_MAX;
        for (size_t i = 0; i < ARRAY_SIZE(lengths); i++)
                if (left >= budget >> (i + 1))
                        return MAX(lengths[i], minimum);
        return MAX(lengths[ARRAY_SIZE(lengths) - 1], minimum);
}
