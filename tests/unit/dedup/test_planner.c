/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Planner: where runs end, and how long they have to be. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dedup/planner.h"
#include "tests/model/random.h"
#include "util/bits.h"

#define NONE(_page)                                                                                          \
        {                                                                                                    \
                .page = (_page), .kind = MATCH_NONE                                                          \
        }
#define ZERO(_page)                                                                                          \
        {                                                                                                    \
                .page = (_page), .kind = MATCH_ZERO                                                          \
        }
#define PAGE(_page, _region, _with)                                                                          \
        {                                                                                                    \
                .page = (_page), .kind = MATCH_PAGE, .with = {(_region), (_with) }                           \
        }
#define SLOT(_page, _slot)                                                                                   \
        {                                                                                                    \
                .page = (_page), .kind = MATCH_SLOT, .with = { INDEX_SLOT, (_slot) }                         \
        }

/* Pairs of neighbours: whether the second goes on with the first. */
static const struct {
        struct match pair[2];
        bool continues;
} pairs[] = {
        {{PAGE(5, 1, 90), PAGE(6, 1, 91)}, true},
        {{PAGE(5, 1, 90), PAGE(6, 2, 91)}, false}, /* another region */
        {{PAGE(5, 1, 90), PAGE(6, 1, 92)}, false}, /* a gap over there */
        {{PAGE(5, 1, 90), PAGE(6, 1, 90)}, false}, /* twice the same */
        {{PAGE(5, 1, 90), PAGE(6, 1, 89)}, false}, /* backwards */
        {{PAGE(5, 1, 90), PAGE(7, 1, 91)}, false}, /* a gap here */
        {{PAGE(5, 1, 90), PAGE(7, 1, 92)}, false}, /* the same gap on both sides */
        {{PAGE(5, 1, 90), PAGE(5, 1, 91)}, false},
        {{PAGE(6, 1, 90), PAGE(5, 1, 91)}, false},
        {{SLOT(5, 90), SLOT(6, 91)}, true},
        {{SLOT(5, 90), SLOT(6, 92)}, false},
        {{SLOT(5, 90), SLOT(6, 90)}, false},
        {{SLOT(5, 90), SLOT(6, 89)}, false},
        {{SLOT(5, 90), SLOT(7, 91)}, false},
        {{SLOT(5, 90), PAGE(6, INDEX_SLOT, 91)}, false}, /* another kind */
        {{SLOT(5, 90), PAGE(6, 1, 91)}, false},
        {{PAGE(5, 1, 90), SLOT(6, 91)}, false},
        {{ZERO(5), ZERO(6)}, true},
        {{ZERO(5), ZERO(7)}, false},
        {{ZERO(5), ZERO(5)}, false},
        {{ZERO(5), NONE(6)}, false},
        {{ZERO(5), SLOT(6, 1)}, false},
        {{NONE(5), NONE(6)}, true},
        {{NONE(5), NONE(7)}, false},
        {{NONE(5), ZERO(6)}, false},
        {{NONE(5), PAGE(6, 0, 1)}, false},
        {{SLOT(511, 511), SLOT(512, 512)}, true}, /* a chunk's end is no end */
};

static void test_pairs(void **state)
{
        for (size_t i = 0; i < ARRAY_SIZE(pairs); i++)
                if (planner_run_end(pairs[i].pair, 0, 2) != 1U + pairs[i].continues)
                        fail_msg("pairs[%zu]", i);
}

/* What `with` holds from earlier use means nothing where the kind has no partner. */
static void test_stale_partner(void **state)
{
        static const enum match_kind kinds[] = {MATCH_NONE, MATCH_ZERO};

        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
                struct match matches[] = {
                        {.page = 1, .kind = kinds[i], .with = {3, 50}},
                        {.page = 2, .kind = kinds[i], .with = {9, 7}},
                };

                assert_int_equal(planner_run_end(matches, 0, 2), 2);
        }
}

static void test_ends(void **state)
{
        static const struct match matches[] = {
                PAGE(0, 1, 10), PAGE(1, 1, 11), PAGE(2, 1, 12), SLOT(3, 13), SLOT(4, 14),
                ZERO(5),        NONE(6),        ZERO(8),        ZERO(9),     PAGE(10, 2, 13),
        };
        static const size_t ends[] = {3, 3, 3, 5, 5, 6, 7, 9, 9, 10};

        for (size_t i = 0; i < ARRAY_SIZE(matches); i++) {
                assert_int_equal(planner_run_end(matches, i, ARRAY_SIZE(matches)), ends[i]);
                /* What lies beyond the end of the array is not looked at. */
                for (size_t n = i + 1; n < ARRAY_SIZE(matches); n++)
                        assert_int_equal(planner_run_end(matches, i, n), MIN(ends[i], n));
        }
}

/* Random matches with few values: runs cover everything, each inside is one by the definition, and none could be longer. */
static bool adjacent(const struct match *a, const struct match *b)
{
        bool partners = a->kind == MATCH_NONE || a->kind == MATCH_ZERO ||
                        (a->with.region == b->with.region && b->with.page - a->with.page == 1);

        return a->kind == b->kind && b->page - a->page == 1 && partners;
}

static void test_random(void **state)
{
        struct random random = RANDOM_INIT(1);
        struct match matches[64];
        unsigned n_long = 0;

        for (unsigned round = 0; round < 2000; round++) {
                for (size_t i = 0; i < ARRAY_SIZE(matches); i++) {
                        matches[i] = (struct match){
                                .page = (uint32_t)(i + random_below(&random, 12) / 11),
                                .kind = (enum match_kind)(random_below(&random, 10) / 3),
                                .with = {.region = (uint32_t)random_below(&random, 6) / 5,
                                         .page = (uint32_t)(100 + i + random_below(&random, 8) / 7)},
                        };
                        if (i && random_below(&random, 4))
                                matches[i].kind = matches[i - 1].kind;
                }
                for (size_t i = 0, end; i < ARRAY_SIZE(matches); i = end) {
                        end = planner_run_end(matches, i, ARRAY_SIZE(matches));
                        assert_in_range(end, i + 1, ARRAY_SIZE(matches));
                        for (size_t k = i + 1; k < end; k++)
                                assert_true(adjacent(&matches[k - 1], &matches[k]));
                        if (end < ARRAY_SIZE(matches))
                                assert_false(adjacent(&matches[end - 1], &matches[end]));
                        n_long += end - i >= 8;
                }
        }
        assert_true(n_long > 100);
}

/* Half of the budget for everything, a quarter for two pages on, and so on; the last sixteenth for the longest. */
static void test_min_run_steps(void **state)
{
        static const struct {
                uint64_t used;
                uint32_t length;
        } rows[] = {
                {0, 1},
                {511, 1},
                {512, 1},
                {513, 2},
                {768, 2},
                {769, 8},
                {896, 8},
                {897, 32},
                {960, 32},
                {961, 128},
                {992, 128},
                {993, 128},
                {1022, 128},
                {1023, UINT32_MAX},
                {1024, UINT32_MAX},
                {1025, UINT32_MAX},
                {UINT64_MAX, UINT32_MAX},
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                assert_int_equal(planner_min_run(rows[i].used, 1024, 1), rows[i].length);
                assert_int_equal(planner_min_run(rows[i].used, 1024, 0), rows[i].length);
                assert_int_equal(planner_min_run(rows[i].used, 1024, 16), MAX(rows[i].length, 16U));
                assert_int_equal(planner_min_run(rows[i].used, 1024, 4096), MAX(rows[i].length, 4096U));
        }
}

/* For budgets of every size: never easier when more is spent, never below the minimum, and always an end. */
static void test_min_run_monotone(void **state)
{
        static const uint64_t budgets[] = {0, 1, 2, 3, 4, 5, 7, 16, 31, 32, 33, 100, 1000, 49148};
        static const uint32_t minimums[] = {0, 1, 2, 5, 64, 1000, UINT32_MAX};

        for (size_t b = 0; b < ARRAY_SIZE(budgets); b++)
                for (size_t m = 0; m < ARRAY_SIZE(minimums); m++) {
                        uint32_t last = 0;

                        for (uint64_t used = 0; used <= budgets[b] + 3; used++) {
                                uint32_t length = planner_min_run(used, budgets[b], minimums[m]);

                                assert_true(length >= last);
                                assert_true(length >= minimums[m]);
                                assert_true(length >= 1);
                                /* A run may add two mappings: with room for fewer, nothing fits. */
                                if (used + 2 > budgets[b])
                                        assert_int_equal(length, UINT32_MAX);
                                else if (minimums[m] < 128)
                                        assert_true(length <= 128);
                                last = length;
                        }
                }
}

/* The whole range of the type. */
static void test_min_run_extremes(void **state)
{
        assert_int_equal(planner_min_run(0, UINT64_MAX, 3), 3);
        assert_int_equal(planner_min_run(UINT64_MAX / 2 + 2, UINT64_MAX, 1), 2);
        assert_int_equal(planner_min_run(UINT64_MAX - 2, UINT64_MAX, 1), 128);
        assert_int_equal(planner_min_run(UINT64_MAX - 1, UINT64_MAX, 1), UINT32_MAX);
        assert_int_equal(planner_min_run(UINT64_MAX, UINT64_MAX, 1), UINT32_MAX);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_pairs),
                cmocka_unit_test(test_stale_partner),
                cmocka_unit_test(test_ends),
                cmocka_unit_test(test_random),
                cmocka_unit_test(test_min_run_steps),
                cmocka_unit_test(test_min_run_monotone),
                cmocka_unit_test(test_min_run_extremes),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
