/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The index by hand: preference, stale entries, sizes, failures. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dedup/fingerprint.h"
#include "dedup/index.h"
#include "tests/model/random.h"
#include "tests/unit/dedup/fail_alloc.h"
#include "util/bits.h"

#define N_PAGES  (1 << 17)
#define N_BYTES  8
#define CAPACITY 3468 /* of the smallest table */

/* One region, whose id can be chosen, and one pool. A fingerprint of 0 means that there is nothing. */
struct world {
        struct index index;
        uint32_t region;
        uint64_t pages[N_PAGES];
        uint64_t slots[N_PAGES];
        unsigned n_asked;
};

static bool resolve(void *context, struct page_ref ref, uint32_t *ret_key)
{
        struct world *world = context;
        uint64_t fingerprint;

        world->n_asked++;
        assert_true(ref.page < N_PAGES);
        assert_true(page_ref_is_slot(ref) || ref.region == world->region);
        fingerprint = page_ref_is_slot(ref) ? world->slots[ref.page] : world->pages[ref.page];
        if (!fingerprint)
                return false;
        *ret_key = fingerprint_key(fingerprint);
        return true;
}

static int setup(void **state)
{
        struct world *world = malloc(sizeof(*world));

        if (!world)
                return -1;
        memset(world, 0, sizeof(*world));
        world->index = (struct index)INDEX_INIT(resolve, world);
        *state = world;
        return 0;
}

static int teardown(void **state)
{
        struct world *world = *state;

        index_deinit(&world->index);
        index_deinit(&world->index);
        free(world);
        return 0;
}

static struct page_ref page_ref(const struct world *world, uint32_t page)
{
        return (struct page_ref){.region = world->region, .page = page};
}

static struct page_ref slot_ref(uint32_t slot)
{
        return (struct page_ref){.region = INDEX_SLOT, .page = slot};
}

static uint64_t fingerprint_of(uint64_t content)
{
        struct random random = RANDOM_INIT(content);

        return random_next(&random) | 1;
}

static int insert(struct world *world, uint32_t page, uint64_t fingerprint)
{
        world->pages[page] = fingerprint;
        return index_insert(&world->index, fingerprint, page_ref(world, page));
}

static int insert_slot(struct world *world, uint32_t slot, uint64_t fingerprint)
{
        world->slots[slot] = fingerprint;
        return index_insert(&world->index, fingerprint, slot_ref(slot));
}

static void expect(struct world *world, uint64_t fingerprint, struct page_ref wanted)
{
        struct page_ref ref;

        assert_true(index_find(&world->index, fingerprint, &ref));
        assert_int_equal(ref.region, wanted.region);
        assert_int_equal(ref.page, wanted.page);
}

static void expect_nothing(struct world *world, uint64_t fingerprint)
{
        struct page_ref ref = {.region = 77, .page = 78};

        assert_false(index_find(&world->index, fingerprint, &ref));
        assert_int_equal(ref.region, 77);
        assert_int_equal(ref.page, 78);
}

static void test_empty(void **state)
{
        struct world *world = *state;

        expect_nothing(world, 5);
        assert_int_equal(index_bytes(&world->index), 0);
}

/* The handle that would be all zeros is one like any other. */
static void test_page_0_of_region_0(void **state)
{
        struct world *world = *state;

        for (unsigned shift = 0; shift < 64; shift++) {
                assert_int_equal(insert(world, 0, UINT64_C(1) << shift), 0);
                expect(world, UINT64_C(1) << shift, page_ref(world, 0));
        }
}

static bool resolve_any(void *context, struct page_ref ref, uint32_t *ret_key)
{
        *ret_key = 5;
        return true;
}

/* The highest numbers come back as they were entered. */
static void test_highest_handles(void **state)
{
        const struct page_ref refs[] = {{.region = INDEX_MAX_REGIONS - 1, .page = INDEX_MAX_PAGES - 1},
                                        {.region = INDEX_SLOT, .page = INDEX_MAX_PAGES - 1}};
        struct index index = INDEX_INIT(resolve_any, NULL);
        struct page_ref ref;

        for (unsigned i = 0; i < ARRAY_SIZE(refs); i++) {
                assert_int_equal(index_insert(&index, UINT64_MAX << 32 | 5, refs[i]), 0);
                assert_true(index_find(&index, UINT64_MAX << 32 | 5, &ref));
                assert_int_equal(ref.region, refs[i].region);
                assert_int_equal(ref.page, refs[i].page);
        }
        index_deinit(&index);
}

static void test_limits_of_handles(void **state)
{
        struct world *world = *state;
        struct page_ref ref = {.region = INDEX_MAX_REGIONS, .page = 0};

        assert_int_equal(index_insert(&world->index, 5, ref), -ERANGE);
        ref.region = INDEX_SLOT - 1;
        assert_int_equal(index_insert(&world->index, 5, ref), -ERANGE);
        ref = (struct page_ref){.region = 0, .page = INDEX_MAX_PAGES};
        assert_int_equal(index_insert(&world->index, 5, ref), -ERANGE);
        ref.region = INDEX_SLOT;
        assert_int_equal(index_insert(&world->index, 5, ref), -ERANGE);
        assert_int_equal(index_bytes(&world->index), 0);
        world->region = INDEX_MAX_REGIONS - 1;
        assert_int_equal(insert(world, N_PAGES - 1, UINT64_MAX), 0);
        assert_int_equal(insert_slot(world, N_PAGES - 1, UINT64_MAX - 1), 0);
        expect(world, UINT64_MAX, page_ref(world, N_PAGES - 1));
        expect(world, UINT64_MAX - 1, slot_ref(N_PAGES - 1));
}

/* Key and tag are both compared; the bits between them are not. */
static void test_what_is_compared(void **state)
{
        struct world *world = *state;

        assert_int_equal(insert(world, 1, UINT64_C(0x0200000012345678)), 0);
        for (unsigned shift = 0; shift < 32; shift++)
                expect_nothing(world, UINT64_C(0x0200000012345678) ^ UINT64_C(1) << shift);
        for (unsigned shift = 32; shift < 48; shift++)
                expect(world, UINT64_C(0x0200000012345678) ^ UINT64_C(1) << shift, page_ref(world, 1));
        for (unsigned shift = 48; shift < 64; shift++)
                expect_nothing(world, UINT64_C(0x0200000012345678) ^ UINT64_C(1) << shift);
        world->pages[1] ^= 1;
        expect_nothing(world, UINT64_C(0x0200000012345678));
}

/* The homes of the highest keys are at the end of the table, whatever its length is; what does not fit there goes on at
 * its beginning. */
static void test_goes_round_at_the_end(void **state)
{
        struct world *world = *state;

        for (uint32_t page = 0; page < 9000; page++) {
                uint64_t fingerprint = fingerprint_of(page);

                if (page % 300 == 0)
                        fingerprint = UINT64_C(1) << 50 << page / 1500 | (UINT32_MAX - page / 300);
                assert_int_equal(insert(world, page, fingerprint), 0);
        }
        assert_true(world->index.n_entries > 9000);
        assert_int_not_equal(world->index.entries[world->index.n_entries - 1], 0);
        for (uint32_t page = 0; page < 9000; page++)
                expect(world, world->pages[page], page_ref(world, page));
        expect_nothing(world, UINT64_C(3) << 50 | UINT32_MAX);
}

static void test_slot_is_preferred(void **state)
{
        struct world *world = *state;

        assert_int_equal(insert(world, 1, 99), 0);
        expect(world, 99, page_ref(world, 1));
        assert_int_equal(insert_slot(world, 8, 99), 0);
        assert_int_equal(insert(world, 2, 99), 0);
        expect(world, 99, slot_ref(8));
        world->slots[8] = 0;
        expect(world, 99, page_ref(world, 1));
        world->pages[1] = 98;
        expect(world, 99, page_ref(world, 2));
        world->pages[2] = 0;
        expect_nothing(world, 99);
        assert_int_equal(world->index.n_used, 3);
}

static void test_inserting_again(void **state)
{
        struct world *world = *state;

        for (unsigned i = 0; i < 3; i++) {
                assert_int_equal(insert(world, 1, 99), 0);
                assert_int_equal(insert_slot(world, 1, 99), 0);
                assert_int_equal(world->index.n_used, 2);
        }
}

/* A stale entry that a search for the same fingerprint meets gives up its place. */
static void test_place_is_used_again(void **state)
{
        struct world *world = *state;

        assert_int_equal(insert(world, 1, 99), 0);
        for (uint32_t page = 2; page < 1000; page++) {
                world->pages[page - 1] = 0;
                assert_int_equal(insert(world, page, 99), 0);
                assert_int_equal(world->index.n_used, 1);
                expect(world, 99, page_ref(world, page));
        }
}

/* Most entries that a search passes are told apart without asking anybody. */
static void test_tags_spare_questions(void **state)
{
        struct world *world = *state;
        struct page_ref ref;

        for (uint32_t page = 0; page < 3000; page++)
                assert_int_equal(insert(world, page, fingerprint_of(page)), 0);
        world->n_asked = 0;
        for (uint32_t i = 0; i < 10000; i++)
                assert_false(index_find(&world->index, fingerprint_of(1000000 + i), &ref));
        assert_true(world->n_asked < 10000 / 4);
}

/* The size follows what is alive, and nothing is lost on the way. */
static void test_growth(void **state)
{
        struct world *world = *state;

        for (uint32_t page = 0; page < N_PAGES; page++) {
                assert_int_equal(insert(world, page, fingerprint_of(page)), 0);
                assert_int_equal(world->index.n_used, page + 1);
                assert_int_equal(world->index.n_entries % 8, 0);
                assert_true(world->index.n_entries <= MAX(4096, (page + 1) * 1.7));
                assert_true(world->index.n_used <= world->index.n_entries * 0.85);
        }
        assert_int_equal(index_bytes(&world->index), world->index.n_entries * N_BYTES);
        for (uint32_t page = 0; page < N_PAGES; page++)
                expect(world, fingerprint_of(page), page_ref(world, page));
}

/* A thousand live pages among ever more stale ones never need more than the smallest table. */
static void test_stale_entries_are_dropped(void **state)
{
        struct world *world = *state;

        for (uint32_t round = 0; round < 200; round++) {
                memset(world->pages, 0, sizeof(world->pages));
                for (uint32_t page = 0; page < 1000; page++)
                        assert_int_equal(insert(world, page, fingerprint_of(round * 1000 + page)), 0);
                assert_int_equal(world->index.n_entries, 4096);
                for (uint32_t page = 0; page < 1000; page++)
                        expect(world, fingerprint_of(round * 1000 + page), page_ref(world, page));
        }
}

/* When the regions are gone the table is small again after it has filled up once more. */
static void test_shrinks(void **state)
{
        struct world *world = *state;
        size_t big;

        for (uint32_t page = 0; page < 20000; page++)
                assert_int_equal(insert(world, page, fingerprint_of(page)), 0);
        big = world->index.n_entries;
        assert_true(big > 4096);
        for (uint32_t i = 20000; world->index.n_entries == big; i++) {
                memset(world->pages, 0, 20000 * sizeof(*world->pages));
                assert_true(i < 20000 + big);
                assert_int_equal(insert(world, i % 100, fingerprint_of(i)), 0);
        }
        assert_int_equal(world->index.n_entries, 4096);
        assert_int_equal(world->index.n_used, 1);
}

/* Nearly as many alive as fit: still there must be many insertions between two rebuilds. */
static void test_rebuilds_are_rare(void **state)
{
        struct world *world = *state;
        static const uint32_t n_alive[] = {2600, 2700, 3100, 3300, CAPACITY - 1, CAPACITY, 4600};
        const unsigned n_inserts = 40000;

        for (unsigned k = 0; k < ARRAY_SIZE(n_alive); k++) {
                unsigned n_rebuilds = 0;

                index_deinit(&world->index);
                for (uint32_t page = 0; page < n_alive[k]; page++)
                        assert_int_equal(insert(world, page, fingerprint_of(page)), 0);
                for (uint32_t i = 0; i < n_inserts; i++) {
                        size_t before = world->index.n_used;

                        assert_int_equal(insert(world, i % n_alive[k], fingerprint_of(1000000 + i)), 0);
                        n_rebuilds += world->index.n_used < before;
                        assert_true(world->index.n_entries <= MAX(4096, n_alive[k] * 1.7));
                }
                assert_true(n_rebuilds > 1);
                assert_true(n_rebuilds < n_inserts / 700);
        }
}

static void test_no_memory(void **state)
{
        struct world *world = *state;

        fail_alloc = true;
        assert_int_equal(insert(world, 0, fingerprint_of(0)), -ENOMEM);
        assert_int_equal(world->index.n_entries, 0);
        fail_alloc = false;
        for (uint32_t page = 0; page < CAPACITY; page++)
                assert_int_equal(insert(world, page, fingerprint_of(page)), 0);
        fail_alloc = true;
        assert_int_equal(insert(world, CAPACITY, fingerprint_of(CAPACITY)), -ENOMEM);
        assert_int_equal(insert(world, 7, fingerprint_of(7)), 0); /* needs no place */
        assert_int_equal(world->index.n_entries, 4096);
        assert_int_equal(world->index.n_used, CAPACITY);
        fail_alloc = false;
        for (uint32_t page = 0; page < CAPACITY; page++)
                expect(world, fingerprint_of(page), page_ref(world, page));
        expect_nothing(world, fingerprint_of(CAPACITY));
        assert_int_equal(insert(world, CAPACITY, fingerprint_of(CAPACITY)), 0);
        expect(world, fingerprint_of(CAPACITY), page_ref(world, CAPACITY));
        assert_true(world->index.n_entries > 4096);
}

#define TEST(_name) cmocka_unit_test_setup_teardown(_name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(test_empty),
                TEST(test_page_0_of_region_0),
                TEST(test_limits_of_handles),
                TEST(test_highest_handles),
                TEST(test_what_is_compared),
                TEST(test_goes_round_at_the_end),
                TEST(test_slot_is_preferred),
                TEST(test_inserting_again),
                TEST(test_place_is_used_again),
                TEST(test_tags_spare_questions),
                TEST(test_growth),
                TEST(test_stale_entries_are_dropped),
                TEST(test_shrinks),
                TEST(test_rebuilds_are_rare),
                TEST(test_no_memory),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
