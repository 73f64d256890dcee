/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Histogram: quantiles against a sorted array. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/model/random.h"
#include "util/bits.h"
#include "util/hist.h"

#define N_VALUES 20000

static int compare(const void *a, const void *b)
{
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

        return (x > y) - (x < y);
}

/* The smallest value at or below which `permille` of the sorted values lie. */
static uint64_t exact_quantile(const uint64_t *sorted, size_t n, unsigned permille)
{
        size_t rank = (n * permille + 999) / 1000;

        return sorted[MAX(rank, (size_t)1) - 1];
}

static void check_quantiles(uint64_t *values, size_t n)
{
        static struct hist hist;

        memset(&hist, 0, sizeof(hist));
        for (size_t i = 0; i < n; i++)
                hist_add(&hist, values[i]);
        qsort(values, n, sizeof(*values), compare);
        for (unsigned permille = 0; permille <= 1000; permille++) {
                uint64_t exact = exact_quantile(values, n, permille), shown = hist_quantile(&hist, permille);

                assert_true(shown >= exact);
                assert_true(shown - exact <= exact / 16);
        }
        assert_int_equal(hist_count(&hist), n);
        assert_int_equal(hist_max(&hist), values[n - 1]);
        assert_int_equal(hist_quantile(&hist, 1000), values[n - 1]);
}

static void test_empty(void **state)
{
        static const struct hist hist = HIST_INIT;

        assert_int_equal(hist_quantile(&hist, 500), 0);
        assert_int_equal(hist_count(&hist), 0);
        assert_int_equal(hist_max(&hist), 0);
}

static void test_small_values_are_exact(void **state)
{
        for (uint64_t value = 0; value < 2 * HIST_STEPS; value++) {
                struct hist hist = HIST_INIT;

                hist_add(&hist, value);
                hist_add(&hist, UINT64_MAX);
                assert_int_equal(hist_quantile(&hist, 500), value);
        }
}

static void test_borders(void **state)
{
        for (unsigned shift = 0; shift < 64; shift++) {
                for (int offset = -1; offset <= 1; offset++) {
                        uint64_t value = (UINT64_C(1) << shift) + (uint64_t)offset;
                        uint64_t values[] = {value, UINT64_MAX};

                        check_quantiles(values, 2);
                }
        }
}

static void test_random(void **state)
{
        static uint64_t values[N_VALUES];
        struct random random = RANDOM_INIT(1);

        for (unsigned spread = 1; spread <= 64; spread += 7) {
                for (size_t i = 0; i < N_VALUES; i++)
                        values[i] = random_next(&random) >> random_below(&random, 64) >> (64 - spread);
                check_quantiles(values, N_VALUES);
        }
}

static void test_permille_is_bounded(void **state)
{
        struct hist hist = HIST_INIT;

        hist_add(&hist, 7);
        assert_int_equal(hist_quantile(&hist, 5000), 7);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_empty),
                cmocka_unit_test(test_small_values_are_exact),
                cmocka_unit_test(test_borders),
                cmocka_unit_test(test_random),
                cmocka_unit_test(test_permille_is_bounded),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
