/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Pages and bitmaps. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/model/random.h"
#include "util/bits.h"

#define N_BITS 300

static void test_pages(void **state)
{
        assert_true(page_aligned(0));
        assert_true(page_aligned(0x7000));
        assert_false(page_aligned(0x7001));
        assert_false(page_aligned(0x7fff));
        assert_int_equal(page_down(0x7fff), 0x7000);
        assert_int_equal(page_down(0x8000), 0x8000);
        assert_int_equal(page_down(UINT64_MAX), UINT64_MAX - 0xfff);
}

static void test_bitmap(void **state)
{
        uint64_t map[BITMAP_WORDS(N_BITS)] = {0};
        bool naive[N_BITS] = {false};
        struct random random = RANDOM_INIT(2);

        for (unsigned round = 0; round < 5000; round++) {
                size_t bit = random_below(&random, N_BITS);

                naive[bit] = random_below(&random, 2);
                if (naive[bit])
                        bitmap_set(map, bit);
                else
                        bitmap_clear(map, bit);
                for (size_t i = 0; i < N_BITS; i++)
                        assert_int_equal(bitmap_get(map, i), naive[i]);
        }
}

static void test_runs(void **state)
{
        uint64_t map[BITMAP_WORDS(N_BITS)] = {0};
        struct random random = RANDOM_INIT(3);

        for (unsigned round = 0; round < 200; round++) {
                for (size_t i = 0; i < BITMAP_WORDS(N_BITS); i++)
                        map[i] = random_below(&random, 3) ? random_next(&random) & random_next(&random) : 0;
                for (size_t start = 0; start < N_BITS; start++) {
                        size_t end = bitmap_run_end(map, start, N_BITS);

                        assert_in_range(end, start + 1, N_BITS);
                        for (size_t i = start; i < end; i++)
                                assert_int_equal(bitmap_get(map, i), bitmap_get(map, start));
                        if (end < N_BITS)
                                assert_int_not_equal(bitmap_get(map, end), bitmap_get(map, start));
                }
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_pages),
                cmocka_unit_test(test_bitmap),
                cmocka_unit_test(test_runs),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
