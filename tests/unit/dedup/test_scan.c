/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Scan: every state of a page, listed by the survey or not, due or not; windows, lists, and running out of memory. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dedup/scan.h"
#include "tests/unit/dedup/fail_alloc.h"
#include "util/bits.h"

#define BASE     UINT64_C(0x7f0000000000)
#define N_PAGES  (3 * CHUNK_PAGES + 10)
#define MAX_RUNS 80

struct survey {
        struct page_region runs[MAX_RUNS];
        size_t n;
};

static struct region *make_region(void)
{
        struct region *region;

        assert_int_equal(region_new(NULL, BASE, N_PAGES * PAGE_BYTES, 0, &region), 0);
        return region;
}

/* How each state is come to from EMPTY; the steps are those of the table in core/page.c. */
static void reach(struct region *region, uint32_t page, enum page_state wanted, uint32_t key)
{
        static const enum page_state paths[PAGE_N_STATES][5] = {
                [PAGE_VOLATILE] = {PAGE_VOLATILE},
                [PAGE_TRACKED] = {PAGE_TRACKED},
                [PAGE_CANDIDATE] = {PAGE_TRACKED, PAGE_CANDIDATE},
                [PAGE_PLANNED] = {PAGE_TRACKED, PAGE_PLANNED},
                [PAGE_MERGED] = {PAGE_TRACKED, PAGE_PLANNED, PAGE_MERGED},
                [PAGE_FOREIGN] = {PAGE_FOREIGN},
                [PAGE_COPIED] = {PAGE_COPIED},
                [PAGE_ZERO] = {PAGE_TRACKED, PAGE_PLANNED, PAGE_ZERO},
                [PAGE_EXCLUDED] = {PAGE_EXCLUDED},
        };

        assert_int_equal(region_make_chunk(region, page), 0);
        for (size_t i = 0; i < ARRAY_SIZE(paths[wanted]) && paths[wanted][i] != PAGE_EMPTY; i++)
                region_set_state(region, page, paths[wanted][i], key);
        assert_int_equal(region_state(region, page), wanted);
}

static void list_pages(struct survey *survey, uint32_t first, uint32_t end)
{
        assert_true(survey->n < MAX_RUNS);
        survey->runs[survey->n++] = (struct page_region){
                .start = BASE + first * PAGE_BYTES,
                .end = BASE + end * PAGE_BYTES,
                .categories = PAGE_IS_PRESENT,
        };
}

static int digest(struct region *region, uint32_t first, uint32_t end, const struct survey *survey,
                  struct scan_output *output)
{
        return scan_digest(region, first, end, survey->runs, survey->n, false, output);
}

static void output_deinit(struct scan_output *output)
{
        range_list_deinit(&output->protect);
        range_list_deinit(&output->read);
        range_list_deinit(&output->copied);
}

static void output_clear(struct scan_output *output)
{
        range_list_clear(&output->protect);
        range_list_clear(&output->read);
        range_list_clear(&output->copied);
        output->n_written = output->n_skipped = 0;
}

static void assert_ranges(const struct range_list *list, const struct page_range *ranges, size_t n)
{
        assert_int_equal(list->n, n);
        for (size_t i = 0; i < n; i++) {
                assert_int_equal(list->ranges[i].page, ranges[i].page);
                assert_int_equal(list->ranges[i].n_pages, ranges[i].n_pages);
        }
}

#define assert_list(_list, ...)                                                                              \
        do {                                                                                                 \
                static const struct page_range _ranges[] = {__VA_ARGS__};                                    \
                assert_ranges((_list), _ranges, ARRAY_SIZE(_ranges));                                        \
        } while (0)

static unsigned level(const struct region *region, uint32_t page)
{
        return (region_flags(region, page) & PAGE_F_WAIT) >> PAGE_F_LEVEL_SHIFT;
}

static const struct row {
        enum page_state from;
        bool listed;
        bool due; /* otherwise the page's patience lasts for this round */
        enum page_state to;
        bool protect, read, written, skipped, copied;
} rows[] = {
        /* from, listed, due            to               protect, read, written, skipped, copied: what is left out is false */
        {PAGE_EMPTY, true, true, PAGE_TRACKED, true, false, false, false},
        {PAGE_EMPTY, true, false, PAGE_VOLATILE, false, false, false, true},
        {PAGE_ZERO, true, true, PAGE_TRACKED, true, false, false, false},
        {PAGE_ZERO, true, false, PAGE_VOLATILE, false, false, false, true},
        {PAGE_VOLATILE, true, true, PAGE_TRACKED, true, false, false, false},
        {PAGE_VOLATILE, true, false, PAGE_VOLATILE, false, false, false, true},
        {PAGE_TRACKED, true, true, PAGE_TRACKED, true, false, true, false},
        {PAGE_TRACKED, true, false, PAGE_VOLATILE, false, false, true, true},
        {PAGE_CANDIDATE, true, true, PAGE_TRACKED, true, false, true, false},
        {PAGE_CANDIDATE, true, false, PAGE_VOLATILE, false, false, true, true},
        {PAGE_PLANNED, true, true, PAGE_PLANNED, false, false, false, false},
        {PAGE_MERGED, true, true, PAGE_MERGED, false, false, false, false, true},
        {PAGE_MERGED, true, false, PAGE_MERGED, false, false, false, false, true},
        {PAGE_FOREIGN, true, true, PAGE_FOREIGN, false, false, false, false, true},
        {PAGE_FOREIGN, true, false, PAGE_FOREIGN, false, false, false, false, true},
        {PAGE_COPIED, true, true, PAGE_COPIED, false, false, false, false},
        {PAGE_EXCLUDED, true, true, PAGE_EXCLUDED, false, false, false, false},

        {PAGE_EMPTY, false, true, PAGE_EMPTY, false, false, false, false},
        {PAGE_ZERO, false, true, PAGE_ZERO, false, false, false, false},
        {PAGE_VOLATILE, false, true, PAGE_EMPTY, false, false, false, false},
        {PAGE_VOLATILE, false, false, PAGE_EMPTY, false, false, false, false},
        {PAGE_TRACKED, false, true, PAGE_TRACKED, false, true, false, false},
        {PAGE_TRACKED, false, false, PAGE_TRACKED, false, true, false, false},
        {PAGE_CANDIDATE, false, true, PAGE_CANDIDATE, false, false, false, false},
        {PAGE_PLANNED, false, true, PAGE_PLANNED, false, false, false, false},
        {PAGE_MERGED, false, true, PAGE_MERGED, false, false, false, false},
        {PAGE_FOREIGN, false, true, PAGE_FOREIGN, false, false, false, false},
        {PAGE_COPIED, false, true, PAGE_COPIED, false, false, false, false},
        {PAGE_EXCLUDED, false, true, PAGE_EXCLUDED, false, false, false, false},
};

#define KEY 77

static void check_row(const struct row *row, uint32_t page, unsigned patience)
{
        struct region *region = make_region();
        struct scan_output output = {.n_written = 0};
        struct survey survey = {.n = 0};
        unsigned expected = patience;

        reach(region, page, row->from, KEY);
        /* A volatile neighbour, so that a chunk is not skipped for being quiet; the window is this one page. */
        reach(region, page ^ 1, PAGE_VOLATILE, 0);
        for (unsigned i = 0; i < patience; i++)
                region_be_patient(region, page);
        region->round = row->due ? 0 - page / CHUNK_PAGES : 1 - page / CHUNK_PAGES;
        if (row->written && expected < PATIENCE_LEVELS - 1)
                expected++;
        if (row->listed)
                list_pages(&survey, page, page + 1);
        assert_int_equal(digest(region, page, page + 1, &survey, &output), 0);

        assert_int_equal(region_state(region, page), row->to);
        assert_int_equal(region_state(region, page ^ 1), PAGE_VOLATILE);
        assert_int_equal(level(region, page), expected);
        assert_int_equal(region_key(region, page),
                         row->from == row->to && row->from != PAGE_EMPTY && !row->protect ? KEY : 0);
        assert_ranges(&output.protect, &(struct page_range){page, 1}, row->protect);
        assert_ranges(&output.read, &(struct page_range){page, 1}, row->read);
        assert_ranges(&output.copied, &(struct page_range){page, 1}, row->copied);
        assert_int_equal(output.n_written, row->written);
        assert_int_equal(output.n_skipped, row->skipped);
        output_deinit(&output);
        region_free(region);
}

static void test_table(void **state)
{
        static const uint32_t pages[] = {0, 1, CHUNK_PAGES - 1, CHUNK_PAGES, N_PAGES - 1};

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
                for (size_t k = 0; k < ARRAY_SIZE(pages); k++) {
                        /* At the highest level every round but one in 16 is too early; at 0 none is. */
                        check_row(&rows[i], pages[k], PATIENCE_LEVELS - 1);
                        if (rows[i].due)
                                check_row(&rows[i], pages[k], 0);
                }
}

/* Whether a page that loses its protection is due is decided with the patience that it has then, not before. */
static void test_patience_counts_at_once(void **state)
{
        struct region *region = make_region();
        struct scan_output output = {.n_written = 0};
        struct survey survey = {.n = 0};

        reach(region, 0, PAGE_TRACKED, 0);
        region_be_patient(region, 0); /* at level 1 every round is due, at 2 every second */
        region->round = 1;
        list_pages(&survey, 0, 1);
        assert_int_equal(digest(region, 0, 1, &survey, &output), 0);
        assert_int_equal(region_state(region, 0), PAGE_VOLATILE);
        assert_int_equal(output.n_skipped, 1);
        region->round = 2;
        assert_int_equal(digest(region, 0, 1, &survey, &output), 0);
        assert_int_equal(region_state(region, 0), PAGE_TRACKED);
        output_deinit(&output);
        region_free(region);
}

/* A page that is written all the time costs a protection in every 16th round once its patience is at its end. */
static void test_busy_page(void **state)
{
        struct region *region = make_region();
        struct scan_output output = {.n_written = 0};
        struct survey survey = {.n = 0};
        unsigned n_first = 0, n_later = 0;

        list_pages(&survey, 5, 6);
        for (region->round = 1; region->round <= 64 + 160; region->round++) {
                output_clear(&output);
                assert_int_equal(digest(region, 0, N_PAGES, &survey, &output), 0);
                assert_int_equal(output.read.n, 0);
                *(region->round <= 64 ? &n_first : &n_later) += output.protect.n > 0;
        }
        assert_true(n_first > 4);
        assert_int_equal(n_later, 10);
        output_deinit(&output);
        region_free(region);
}

/* Nothing outside of the window is touched, whichever run reaches out of it. */
static void test_window(void **state)
{
        enum { FIRST = 100, END = 600 };
        static const enum page_state outside[] = {PAGE_TRACKED, PAGE_VOLATILE, PAGE_CANDIDATE};
        struct scan_output output = {.n_written = 0};
        struct survey survey = {.n = 0};

        list_pages(&survey, FIRST, FIRST + 5);
        list_pages(&survey, END - 5, END + 5);
        list_pages(&survey, END + 7, END + 9);
        for (size_t i = 0; i < ARRAY_SIZE(outside); i++) {
                struct region *region = make_region();

                for (uint32_t page = FIRST - 3; page < END + 10; page++)
                        reach(region, page, page < FIRST || page >= END ? outside[i] : PAGE_TRACKED, KEY);
                output_clear(&output);
                assert_int_equal(digest(region, FIRST, END, &survey, &output), 0);
                assert_list(&output.protect, {FIRST, 5}, {END - 5, 5});
                assert_list(&output.read, {FIRST + 5, END - FIRST - 10});
                assert_int_equal(output.n_written, 10);
                for (uint32_t page = FIRST - 3; page < END + 10; page++)
                        if (page < FIRST || page >= END) {
                                assert_int_equal(region_state(region, page), outside[i]);
                                assert_int_equal(region_key(region, page), KEY);
                        }
                region_free(region);
        }
        output_deinit(&output);
}

/* What is not listed does not cost a chunk, what is listed does; a window that ends in the middle of the last chunk is whole. */
static void test_chunks(void **state)
{
        struct region *region = make_region();
        struct scan_output output = {.n_written = 0};
        struct survey survey = {.n = 0};

        assert_int_equal(digest(region, 0, N_PAGES, &survey, &output), 0);
        assert_int_equal(region->n_chunks_made, 0);
        list_pages(&survey, CHUNK_PAGES - 1, CHUNK_PAGES + 1);
        list_pages(&survey, N_PAGES - 1, N_PAGES);
        assert_int_equal(digest(region, 0, N_PAGES, &survey, &output), 0);
        assert_int_equal(region->n_chunks_made, 3);
        assert_null(region_chunk(region, 2 * CHUNK_PAGES));
        assert_list(&output.protect, {CHUNK_PAGES - 1, 2}, {N_PAGES - 1, 1});
        assert_int_equal(output.read.n, 0);

        output_clear(&output);
        survey.n = 0;
        assert_int_equal(digest(region, 0, N_PAGES, &survey, &output), 0);
        assert_list(&output.read, {CHUNK_PAGES - 1, 2}, {N_PAGES - 1, 1});
        assert_int_equal(output.protect.n, 0);
        output_deinit(&output);
        region_free(region);
}

/* Settled pages in, between, before and behind the runs of one survey are all found. */
static void test_runs(void **state)
{
        struct region *region = make_region();
        struct scan_output output = {.n_written = 0};
        struct survey survey = {.n = 0};

        for (uint32_t page = 0; page < N_PAGES; page++)
                reach(region, page, PAGE_TRACKED, 0);
        list_pages(&survey, 0, 2);
        list_pages(&survey, 2, 3); /* runs of different categories touch */
        list_pages(&survey, 10, 11);
        list_pages(&survey, CHUNK_PAGES + 3, 2 * CHUNK_PAGES + 3);
        assert_int_equal(digest(region, 0, N_PAGES, &survey, &output), 0);
        assert_list(&output.protect, {0, 3}, {10, 1}, {CHUNK_PAGES + 3, CHUNK_PAGES});
        assert_list(&output.read, {3, 7}, {11, CHUNK_PAGES - 8},
                    {2 * CHUNK_PAGES + 3, N_PAGES - 2 * CHUNK_PAGES - 3});
        assert_int_equal(output.n_written, CHUNK_PAGES + 4);
        output_deinit(&output);
        region_free(region);
}

/*
 * Shared pages that were written are listed in order and in ranges, whoever they are shared with, and left as they are: what
 * becomes of them, and of their slots, is the caller's. Those that are not listed are none of them.
 */
static void test_copied(void **state)
{
        struct region *region = make_region();
        struct scan_output output = {.n_written = 0};
        struct survey survey = {.n = 0};
        uint64_t count[PAGE_N_STATES];

        for (uint32_t page = 0; page < 40; page++)
                reach(region, page, page < 20 ? PAGE_MERGED : PAGE_FOREIGN, 500 + page);
        for (uint32_t page = CHUNK_PAGES - 4; page < CHUNK_PAGES + 4; page++)
                reach(region, page, PAGE_MERGED, 500 + page);
        region_set_state(region, 8, PAGE_COPIED, 508);
        reach(region, 40, PAGE_VOLATILE, 0);
        reach(region, 41, PAGE_TRACKED, 0);
        memcpy(count, region->count, sizeof(count));
        list_pages(&survey, 5, 10);
        list_pages(&survey, 18, 23); /* merged and foreign ones */
        list_pages(&survey, 39, 41);
        list_pages(&survey, CHUNK_PAGES - 1, CHUNK_PAGES + 10); /* and others behind them */
        assert_int_equal(digest(region, 0, CHUNK_PAGES + 2, &survey, &output), 0);
        assert_list(&output.copied, {5, 3}, {9, 1}, {18, 5}, {39, 1}, {CHUNK_PAGES - 1, 3});
        assert_list(&output.protect, {40, 1});
        assert_list(&output.read, {41, 1});
        assert_int_equal(output.n_written, 0);
        assert_int_equal(output.n_skipped, 0);
        count[PAGE_VOLATILE]--;
        count[PAGE_TRACKED]++;
        assert_memory_equal(region->count, count, sizeof(count));
        for (uint32_t page = 0; page < 40; page++)
                assert_int_equal(region_key(region, page), 500 + page);

        /* Nobody looked at the list: what is still there is found again. */
        output_clear(&output);
        assert_int_equal(digest(region, 0, 21, &survey, &output), 0);
        assert_list(&output.copied, {5, 3}, {9, 1}, {18, 3});
        region_set_state(region, 6, PAGE_COPIED, 506);
        region_set_state(region, 20, PAGE_COPIED, 520);
        output_clear(&output);
        assert_int_equal(digest(region, 0, 21, &survey, &output), 0);
        assert_list(&output.copied, {5, 1}, {7, 1}, {9, 1}, {18, 2});
        output_deinit(&output);
        region_free(region);
}

static void test_range_list(void **state)
{
        struct range_list list = {.ranges = NULL};
        struct page_range *ranges;

        for (uint32_t i = 0; i < 1000; i++) {
                assert_int_equal(range_list_add(&list, 4 * i), 0);
                assert_int_equal(range_list_add(&list, 4 * i + 1), 0);
        }
        assert_int_equal(list.n, 1000);
        for (uint32_t i = 0; i < 1000; i++) {
                assert_int_equal(list.ranges[i].page, 4 * i);
                assert_int_equal(list.ranges[i].n_pages, 2);
        }
        /* Clearing keeps the memory, and nothing joins what was there. */
        ranges = list.ranges;
        range_list_clear(&list);
        assert_int_equal(range_list_add(&list, 4 * 999 + 2), 0);
        assert_list(&list, {4 * 999 + 2, 1});
        assert_ptr_equal(list.ranges, ranges);
        assert_int_equal(range_list_add(&list, 4 * 999 + 4), 0);
        assert_list(&list, {4 * 999 + 2, 1}, {4 * 999 + 4, 1});
        range_list_deinit(&list);
        assert_null(list.ranges);
        assert_int_equal(list.n, 0);
        assert_int_equal(list.capacity, 0);
        range_list_deinit(&list);
}

/* A page whose protection could not be noted down is not taken for protected. */
static void assert_protected_are_listed(const struct region *region, const struct scan_output *output)
{
        uint64_t n_listed = 0;

        for (size_t i = 0; i < output->protect.n; i++) {
                n_listed += output->protect.ranges[i].n_pages;
                for (uint32_t k = 0; k < output->protect.ranges[i].n_pages; k++)
                        assert_int_equal(region_state(region, output->protect.ranges[i].page + k),
                                         PAGE_TRACKED);
        }
        assert_int_equal(region->count[PAGE_TRACKED], n_listed);
}

static void test_no_memory_to_protect(void **state)
{
        struct region *region = make_region();
        struct scan_output output = {.n_written = 0};
        struct survey survey = {.n = 0};
        size_t capacity;

        assert_int_equal(region_make_chunk(region, 0), 0);
        for (uint32_t i = 0; i < MAX_RUNS; i++)
                list_pages(&survey, 2 * i, 2 * i + 1);
        fail_alloc = true;
        assert_int_equal(digest(region, 0, N_PAGES, &survey, &output), -ENOMEM);
        assert_int_equal(output.protect.n, 0);
        assert_protected_are_listed(region, &output);
        fail_alloc = false;

        /* The list exists, but cannot grow. */
        assert_int_equal(range_list_add(&output.protect, 0), 0);
        range_list_clear(&output.protect);
        capacity = output.protect.capacity;
        assert_in_range(capacity, 1, MAX_RUNS - 1);
        fail_alloc = true;
        assert_int_equal(digest(region, 0, N_PAGES, &survey, &output), -ENOMEM);
        assert_int_equal(output.protect.n, capacity);
        assert_protected_are_listed(region, &output);
        fail_alloc = false;

        /* The next round finds all that was left out. */
        range_list_clear(&output.protect);
        assert_int_equal(digest(region, 0, N_PAGES, &survey, &output), 0);
        assert_int_equal(output.protect.n, MAX_RUNS);
        assert_protected_are_listed(region, &output);
        output_deinit(&output);
        region_free(region);
}

static void test_no_memory_for_chunk(void **state)
{
        struct region *region = make_region();
        struct scan_output output = {.n_written = 0};
        struct survey survey = {.n = 0};

        assert_int_equal(region_make_chunk(region, 0), 0);
        assert_int_equal(range_list_add(&output.protect, 0), 0);
        range_list_clear(&output.protect);
        list_pages(&survey, CHUNK_PAGES - 1, CHUNK_PAGES + 1);
        fail_alloc = true;
        assert_int_equal(digest(region, 0, N_PAGES, &survey, &output), -ENOMEM);
        fail_alloc = false;
        assert_list(&output.protect, {CHUNK_PAGES - 1, 1});
        assert_null(region_chunk(region, CHUNK_PAGES));
        output_deinit(&output);
        region_free(region);
}

static void test_no_memory_to_read(void **state)
{
        struct region *region = make_region();
        struct scan_output output = {.n_written = 0};
        struct survey survey = {.n = 0};

        for (uint32_t page = 0; page < 200; page++)
                reach(region, 2 * page, PAGE_TRACKED, 0);
        reach(region, 1, PAGE_VOLATILE, 0);
        fail_alloc = true;
        assert_int_equal(digest(region, 0, N_PAGES, &survey, &output), -ENOMEM);
        fail_alloc = false;
        assert_int_equal(output.read.n, 0);
        assert_int_equal(region->count[PAGE_TRACKED], 200);
        assert_int_equal(digest(region, 0, N_PAGES, &survey, &output), 0);
        assert_int_equal(output.read.n, 200);
        assert_int_equal(region_state(region, 1), PAGE_EMPTY);
        output_deinit(&output);
        region_free(region);
}

static void test_no_memory_for_copied(void **state)
{
        struct region *region = make_region();
        struct scan_output output = {.n_written = 0};
        struct survey survey = {.n = 0};
        size_t capacity;

        for (uint32_t i = 0; i < MAX_RUNS; i++) {
                reach(region, 2 * i, i % 2 ? PAGE_MERGED : PAGE_FOREIGN, KEY);
                list_pages(&survey, 2 * i, 2 * i + 1);
        }
        fail_alloc = true;
        assert_int_equal(digest(region, 0, N_PAGES, &survey, &output), -ENOMEM);
        fail_alloc = false;
        assert_int_equal(output.copied.n, 0);

        assert_int_equal(range_list_add(&output.copied, 0), 0);
        range_list_clear(&output.copied);
        capacity = output.copied.capacity;
        assert_in_range(capacity, 1, MAX_RUNS - 1);
        fail_alloc = true;
        assert_int_equal(digest(region, 0, N_PAGES, &survey, &output), -ENOMEM);
        fail_alloc = false;
        assert_int_equal(output.copied.n, capacity);
        assert_int_equal(region->count[PAGE_MERGED] + region->count[PAGE_FOREIGN], MAX_RUNS);

        range_list_clear(&output.copied);
        assert_int_equal(digest(region, 0, N_PAGES, &survey, &output), 0);
        assert_int_equal(output.copied.n, MAX_RUNS);
        output_deinit(&output);
        region_free(region);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_table),
                cmocka_unit_test(test_patience_counts_at_once),
                cmocka_unit_test(test_busy_page),
                cmocka_unit_test(test_window),
                cmocka_unit_test(test_chunks),
                cmocka_unit_test(test_runs),
                cmocka_unit_test(test_copied),
                cmocka_unit_test(test_range_list),
                cmocka_unit_test(test_no_memory_to_protect),
                cmocka_unit_test(test_no_memory_for_chunk),
                cmocka_unit_test(test_no_memory_to_read),
                cmocka_unit_test(test_no_memory_for_copied),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
