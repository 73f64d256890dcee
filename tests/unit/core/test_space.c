/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Space: order, overlaps at every relative position, and which region an address belongs to. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/space.h"
#include "util/bits.h"

#define BASE   UINT64_C(0x7f0000000000)
#define AT(_n) (BASE + (uint64_t)(_n)*PAGE_BYTES)

static struct region *make_region(uint32_t page, uint32_t n_pages)
{
        struct region *region;

        assert_int_equal(region_new(NULL, AT(page), n_pages * PAGE_BYTES, 0, &region), 0);
        return region;
}

static struct region *insert(struct space *space, uint32_t page, uint32_t n_pages)
{
        struct region *region = make_region(page, n_pages);

        assert_int_equal(space_insert(space, region), 0);
        assert_ptr_equal(region->space, space);
        return region;
}

static void refuse(struct space *space, uint32_t page, uint32_t n_pages)
{
        struct region *region = make_region(page, n_pages);

        assert_int_equal(space_insert(space, region), -EEXIST);
        assert_false(list_linked(&region->link));
        assert_null(region->space);
        region_free(region);
}

static void deinit(struct space *space)
{
        list_for_each_safe(link, next, &space->regions) {
                struct region *region = list_entry(link, struct region, link);

                space_remove(space, region);
                region_free(region);
        }
        assert_int_equal(space->n_regions, 0);
        assert_int_equal(space->n_pages, 0);
}

/* Sorted and disjoint, and the counts are those of the list, forwards and backwards. */
static void check(struct space *space)
{
        uint64_t n_pages = 0, end = 0;
        uint32_t n = 0;

        list_for_each(link, &space->regions) {
                struct region *region = list_entry(link, struct region, link);

                assert_true(region->start >= end);
                assert_ptr_equal(link->next->prev, link);
                end = region_end(region);
                n_pages += region->n_pages;
                n++;
        }
        assert_int_equal(space->n_regions, n);
        assert_int_equal(space->n_pages, n_pages);
}

static void test_init(void **state)
{
        struct space space = {.n_pages = 7, .vma_budget = 9};
        uint32_t page = 77;

        space_init(&space, 12, 34);
        assert_int_equal(space.pid, 12);
        assert_int_equal(space.uid, 34);
        assert_int_equal(space.vma_budget, 0);
        check(&space);
        assert_null(space_find(&space, BASE, &page));
        assert_int_equal(page, 77);
        assert_int_equal(space_borders(&space), 0);
}

/* Five regions that touch each other, in every order in which they can come. */
static void test_order(void **state)
{
        for (unsigned code = 0; code < 5 * 5 * 5 * 5 * 5; code++) {
                struct space space;
                unsigned seen = 0;

                space_init(&space, 1, 1);
                for (unsigned i = 0, rest = code; i < 5; i++, rest /= 5) {
                        if (seen & 1U << rest % 5)
                                break;
                        seen |= 1U << rest % 5;
                        insert(&space, 10 * (rest % 5), 10);
                        check(&space);
                }
                deinit(&space);
        }
}

/* Against [20, 30) with neighbours [10, 15) and [40, 50): every place and length up to 60. */
static void test_overlap(void **state)
{
        static const uint32_t taken[][2] = {{10, 15}, {20, 30}, {40, 50}};
        struct space space;

        space_init(&space, 1, 1);
        for (size_t i = 0; i < ARRAY_SIZE(taken); i++)
                insert(&space, taken[i][0], taken[i][1] - taken[i][0]);
        for (uint32_t start = 0; start < 60; start++)
                for (uint32_t end = start + 1; end <= 60; end++) {
                        bool overlaps = false;

                        for (size_t i = 0; i < ARRAY_SIZE(taken); i++)
                                overlaps |= start < taken[i][1] && end > taken[i][0];
                        if (overlaps) {
                                refuse(&space, start, end - start);
                        } else {
                                struct region *region = insert(&space, start, end - start);

                                check(&space);
                                space_remove(&space, region);
                                assert_false(list_linked(&region->link));
                                region_free(region);
                        }
                        check(&space);
                }
        deinit(&space);
}

static void assert_found(const struct space *space, uint64_t address, const struct region *region,
                         uint32_t page)
{
        uint32_t found = 77;

        assert_ptr_equal(space_find(space, address, &found), region);
        assert_int_equal(found, region ? page : 77);
}

/* [0, 3) and [3, 5) touch; [8, 9) is alone. Each border to the byte. */
static void test_find(void **state)
{
        struct space space;
        struct region *a, *b, *c;

        space_init(&space, 1, 1);
        c = insert(&space, 8, 1);
        a = insert(&space, 0, 3);
        b = insert(&space, 3, 2);
        assert_found(&space, AT(0) - 1, NULL, 0);
        assert_found(&space, AT(0), a, 0);
        assert_found(&space, AT(1) - 1, a, 0);
        assert_found(&space, AT(1), a, 1);
        assert_found(&space, AT(3) - 1, a, 2);
        assert_found(&space, AT(3), b, 0);
        assert_found(&space, AT(5) - 1, b, 1);
        assert_found(&space, AT(5), NULL, 0);
        assert_found(&space, AT(8) - 1, NULL, 0);
        assert_found(&space, AT(8), c, 0);
        assert_found(&space, AT(9) - 1, c, 0);
        assert_found(&space, AT(9), NULL, 0);
        assert_found(&space, 0, NULL, 0);
        assert_found(&space, UINT64_MAX, NULL, 0);

        space_remove(&space, b);
        region_free(b);
        assert_found(&space, AT(3), NULL, 0);
        assert_found(&space, AT(3) - 1, a, 2);
        assert_found(&space, AT(8), c, 0);
        deinit(&space);
}

static void merge(struct region *region, uint32_t page, uint32_t slot)
{
        assert_int_equal(region_make_chunk(region, page), 0);
        region_set_state(region, page, PAGE_TRACKED, 0);
        region_set_state(region, page, PAGE_PLANNED, slot);
        region_set_state(region, page, PAGE_MERGED, slot);
}

static void test_borders(void **state)
{
        struct space space;
        struct region *a, *b;

        space_init(&space, 1, 1);
        a = insert(&space, 0, 8);
        b = insert(&space, 8, 8);
        merge(a, 2, 100);
        assert_int_equal(space_borders(&space), 2);
        merge(b, 0, 200);
        merge(b, 3, 300);
        assert_int_equal(space_borders(&space), 6);
        merge(a, 3, 101);
        assert_int_equal(space_borders(&space), 6);
        space_remove(&space, b);
        assert_int_equal(space_borders(&space), 2);
        region_free(b);
        deinit(&space);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_init), cmocka_unit_test(test_order),   cmocka_unit_test(test_overlap),
                cmocka_unit_test(test_find), cmocka_unit_test(test_borders),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
