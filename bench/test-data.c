/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The data of the demo and the benchmark holds exactly what data_expect() says: counted by comparing pages.
 */

#undef NDEBUG
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/data.h"
#include "bench/measure.h"
#include "util/bits.h"

static int compare_page(const void *a, const void *b)
{
        return memcmp(a, b, PAGE_BYTES);
}

static bool page_is_zero(const unsigned char *page)
{
        return !page[0] && !memcmp(page, page + 1, PAGE_BYTES - 1);
}

/* Fills all processes' memory and counts equal pages by sorting them: nothing here knows how the data is
 * made. */
static void test_counts(const struct data_layout *layout)
{
        uint64_t n = layout->n_processes * layout->n_pages, zeros = 0, shared = 0, sharing = 0;
        unsigned char *pages = malloc(n * PAGE_BYTES);
        struct data_expect expect;

        assert(pages);
        assert(data_layout_valid(layout));
        data_expect(layout, &expect);
        for (uint32_t p = 0; p < layout->n_processes; p++)
                for (uint64_t i = 0; i < layout->n_pages; i++)
                        data_fill(layout, p, i, pages + (p * layout->n_pages + i) * PAGE_BYTES);
        qsort(pages, n, PAGE_BYTES, compare_page);
        for (uint64_t i = 0, end; i < n; i = end) {
                for (end = i + 1; end < n && !compare_page(pages + i * PAGE_BYTES, pages + end * PAGE_BYTES);)
                        end++;
                if (page_is_zero(pages + i * PAGE_BYTES)) {
                        zeros += end - i;
                } else if (end - i > 1) {
                        shared++;
                        sharing += end - i - 1;
                }
        }
        assert(zeros == expect.zero_pages);
        assert(shared == expect.pages_shared);
        assert(sharing == expect.pages_sharing);
        free(pages);
}

static void test_versions(const struct data_layout *layout)
{
        unsigned char page[PAGE_BYTES];
        uint64_t mark = data_mark(layout, 1, 5, 1);

        data_fill(layout, 1, 5, page);
        assert(data_equal(layout, 1, 5, 0, page));
        assert(!data_equal(layout, 1, 5, 1, page));
        assert(!data_equal(layout, 0, 5, 0, page));
        memcpy(page, &mark, sizeof(mark));
        assert(data_equal(layout, 1, 5, 1, page));
        assert(!data_equal(layout, 1, 5, 0, page));
        assert(!data_equal(layout, 1, 5, 2, page));
        page[PAGE_BYTES - 1] ^= 1;
        assert(!data_equal(layout, 1, 5, 1, page));
}

static void test_twins(const struct data_layout *layout)
{
        unsigned char a[PAGE_BYTES], b[PAGE_BYTES];
        struct data_expect expect;

        data_expect(layout, &expect);
        for (uint64_t rank = 0; rank < expect.pages_shared; rank++) {
                uint64_t page = data_shared_page(layout, rank);

                assert(page < layout->n_pages);
                assert(data_kind(layout, page) == DATA_SHARED);
                for (uint32_t other = 0; other < layout->n_processes; other++) {
                        data_fill(layout, 1, page, a);
                        data_fill(layout, other, data_twin(layout, 1, page, other), b);
                        assert(!memcmp(a, b, PAGE_BYTES));
                }
        }
}

static void test_parsers(void)
{
        static const char rollup[] = "55d0-7ffe ---p 00000000 00:00 0    [rollup]\nRss:      900 kB\n"
                                     "Pss:                 512 kB\nPss_Anon:   7 kB\n";
        uint64_t value = 99;

        assert(!measure_parse_kb(rollup, "Pss", &value) && value == 512);
        assert(!measure_parse_kb(rollup, "Pss_Anon", &value) && value == 7);
        assert(measure_parse_kb(rollup, "Swap", &value) < 0 && value == 7);
        assert(measure_parse_kb("Pss: x kB\n", "Pss", &value) < 0 && value == 7);
        assert(measure_parse_kb("Pss:\n", "Pss", &value) < 0 && value == 7);
}

static void test_medians(void)
{
        double odd[] = {3, 1, 2}, even[] = {4, 1, 2, 3};
        uint32_t samples[] = {50, 10, 40, 30, 20};

        assert(measure_median(odd, 3) == 2);
        assert(measure_median(even, 4) == 2.5);
        assert(measure_quantile(samples, 5, 500) == 30);
        assert(measure_quantile(samples, 5, 990) == 50);
        assert(measure_quantile(samples, 5, 0) == 10);
}

int main(void)
{
        static const struct data_layout layouts[] = {
                {.n_processes = 2, .n_pages = 1024, .run_pages = 64, .shared_percent = 50, .seed = 1},
                {.n_processes = 3,
                 .n_pages = 1000,
                 .run_pages = 64,
                 .shared_percent = 33,
                 .zero_percent = 20},
                {.n_processes = 3, .n_pages = 256, .run_pages = 1, .shared_percent = 50, .zero_percent = 50},
                {.n_processes = 3, .n_pages = 256, .run_pages = 64, .shared_percent = 100, .same_places = 1},
                {.n_processes = 2, .n_pages = 256, .run_pages = 4, .shared_percent = 100},
                {.n_processes = 2, .n_pages = 300, .run_pages = 7, .zero_percent = 100},
                {.n_processes = 2, .n_pages = 63, .run_pages = 64, .shared_percent = 50},
        };
        struct data_layout bad = layouts[0];

        for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
                test_counts(&layouts[i]);
                test_twins(&layouts[i]);
        }
        test_versions(&layouts[0]);
        test_parsers();
        test_medians();
        bad.zero_percent = 51;
        assert(!data_layout_valid(&bad));
        bad.zero_percent = 50;
        assert(data_layout_valid(&bad));
        return 0;
}
