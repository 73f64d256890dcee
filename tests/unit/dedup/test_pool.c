/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The pool by hand: extents, the life of a slot, owners that go away, counts that end, failures. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "dedup/pool.h"
#include "tests/unit/dedup/fail_alloc.h"

#define SLOT(_extent, _k) ((_extent)*POOL_EXTENT_SLOTS + (_k))

static int setup(void **state)
{
        struct pool *pool = malloc(sizeof(*pool));

        if (!pool)
                return -1;
        *pool = (struct pool)POOL_INIT;
        *state = pool;
        return 0;
}

static int teardown(void **state)
{
        struct pool *pool = *state;

        pool_deinit(pool);
        pool_deinit(pool);
        free(pool);
        return 0;
}

static void expect(const struct pool *pool, uint64_t n_used, uint64_t n_retired, uint64_t n_shared,
                   uint64_t n_sharers)
{
        assert_int_equal(pool->n_used, n_used);
        assert_int_equal(pool->n_retired, n_retired);
        assert_int_equal(pool->n_shared, n_shared);
        assert_int_equal(pool->n_sharers, n_sharers);
}

static void test_life_of_a_slot(void **state)
{
        struct pool *pool = *state;
        uint32_t owner = POOL_NO_EXTENT, slot;
        size_t bytes;

        assert_null(pool_slot(pool, 0));
        assert_int_equal(pool_take(pool, 0, 1), -EINVAL);
        assert_int_equal(pool_reserve(pool, &owner, &owner), 0);
        bytes = pool->bytes;
        slot = SLOT(owner, 7);
        assert_int_equal(pool_slot(pool, slot)->state, SLOT_FREE);
        assert_null(pool_slot(pool, SLOT(owner + 1, 0)));
        assert_null(pool_slot(pool, UINT32_MAX));

        assert_int_equal(pool_take(pool, slot, 99), 0);
        assert_int_equal(pool_take(pool, slot, 98), -EBUSY);
        assert_int_equal(pool_slot(pool, slot)->key, 99);
        assert_true(pool->bytes >= bytes + POOL_BLOCK_SLOTS * sizeof(struct slot));
        assert_true(pool->bytes < bytes + (POOL_BLOCK_SLOTS + 4) * sizeof(struct slot));
        expect(pool, 1, 0, 0, 0);
        pool_share(pool, slot);
        pool_share(pool, slot);
        expect(pool, 1, 0, 1, 2);
        assert_false(pool_unpin(pool, slot));
        assert_false(pool_unshare(pool, slot));
        expect(pool, 1, 0, 1, 1);
        pool_pin(pool, slot);
        assert_false(pool_unshare(pool, slot)); /* the pin holds it */
        expect(pool, 1, 0, 0, 0);
        assert_int_equal(pool_slot(pool, slot)->state, SLOT_USED);
        assert_true(pool_unpin(pool, slot));
        expect(pool, 0, 1, 0, 0);
        assert_int_equal(pool_slot(pool, slot)->state, SLOT_RETIRED);
        assert_int_equal(pool_take(pool, slot, 97), -EBUSY);
        assert_int_equal(owner, 0);
        pool_free(pool, slot);
        expect(pool, 0, 0, 0, 0);
        assert_int_equal(owner, POOL_NO_EXTENT);
        assert_null(pool_slot(pool, slot));
        assert_int_equal(pool->bytes, pool->n_extents * sizeof(void *));
}

static void test_numbers_are_used_again(void **state)
{
        struct pool *pool = *state;
        uint32_t owners[100];

        for (uint32_t i = 0; i < 100; i++) {
                assert_int_equal(pool_reserve(pool, &owners[i], &owners[i]), 0);
                assert_int_equal(owners[i], i);
                assert_int_equal(pool_take(pool, SLOT(i, i), i), 0);
        }
        for (uint32_t i = 0; i < 100; i++) /* nothing moved when the array grew */
                assert_int_equal(pool_slot(pool, SLOT(i, i))->key, i);
        for (uint32_t i = 20; i < 40; i += 10) {
                assert_true(pool_unpin(pool, SLOT(i, i)));
                pool_free(pool, SLOT(i, i));
                assert_int_equal(owners[i], POOL_NO_EXTENT);
        }
        assert_int_equal(pool_reserve(pool, &owners[20], &owners[20]), 0);
        assert_int_equal(owners[20], 20);
        assert_int_equal(pool_reserve(pool, &owners[30], &owners[30]), 0);
        assert_int_equal(owners[30], 30);
        assert_int_equal(pool_slot(pool, SLOT(30, 30))->state, SLOT_FREE);
}

static void test_extent_waits_for_its_last_slot(void **state)
{
        struct pool *pool = *state;
        uint32_t owner;

        assert_int_equal(pool_reserve(pool, &owner, &owner), 0);
        for (uint32_t k = 0; k < POOL_EXTENT_SLOTS; k++)
                assert_int_equal(pool_take(pool, SLOT(owner, k), k), 0);
        for (uint32_t k = 0; k < POOL_EXTENT_SLOTS; k++) {
                assert_int_equal(owner, 0);
                assert_true(pool_unpin(pool, SLOT(0, k)));
                pool_free(pool, SLOT(0, k));
        }
        assert_int_equal(owner, POOL_NO_EXTENT);
}

static void test_disowned(void **state)
{
        struct pool *pool = *state;
        uint32_t *owner = malloc(sizeof(*owner));

        assert_non_null(owner);
        assert_int_equal(pool_reserve(pool, owner, owner), 0);
        assert_int_equal(pool_take(pool, SLOT(0, 3), 3), 0);
        pool_disown(pool, *owner);
        free(owner); /* a write to it would be seen by the sanitizer */
        assert_non_null(pool_slot(pool, SLOT(0, 3)));
        assert_true(pool_unpin(pool, SLOT(0, 3)));
        pool_free(pool, SLOT(0, 3));
        assert_null(pool_slot(pool, SLOT(0, 3)));
}

/* Nobody is left who could free a slot of it: it goes at once. */
static void test_disowned_while_empty(void **state)
{
        struct pool *pool = *state;
        uint32_t owner = 77, extent;

        assert_int_equal(pool_reserve(pool, &owner, &extent), 0);
        assert_int_equal(owner, 77);
        pool_disown(pool, extent);
        assert_int_equal(owner, 77);
        assert_null(pool_slot(pool, SLOT(extent, 0)));
}

/* A count that can grow no more holds its slot for ever, instead of freeing it under those that were not
 * counted. */
static void test_sharers_at_their_end(void **state)
{
        struct pool *pool = *state;
        uint32_t owner;

        assert_int_equal(pool_reserve(pool, &owner, &owner), 0);
        assert_int_equal(pool_take(pool, 0, 1), 0);
        for (uint32_t i = 0; i < SLOT_MAX_SHARERS; i++)
                pool_share(pool, 0);
        assert_int_equal(pool_slot(pool, 0)->sharers, SLOT_MAX_SHARERS);
        expect(pool, 1, 0, 1, SLOT_MAX_SHARERS);
        pool_share(pool, 0);
        assert_int_equal(pool_slot(pool, 0)->sharers, SLOT_MAX_SHARERS);
        assert_int_equal(pool_slot(pool, 0)->state, SLOT_USED);
        for (int i = 0; i < 3; i++)
                assert_false(pool_unshare(pool, 0));
        assert_int_equal(pool_slot(pool, 0)->sharers, SLOT_MAX_SHARERS);
        expect(pool, 1, 0, 1, SLOT_MAX_SHARERS);
        assert_false(pool_unpin(pool, 0));
}

/* More pins than a slot's record can count are counted all the same, each slot's for itself. */
static void test_many_pins(void **state)
{
        const uint32_t n[] = {1, SLOT_MAX_PINS - 1, SLOT_MAX_PINS, 5 * SLOT_MAX_PINS};
        struct pool *pool = *state;
        uint32_t owner;

        assert_int_equal(pool_reserve(pool, &owner, &owner), 0);
        for (uint32_t slot = 0; slot < 4; slot++) {
                assert_int_equal(pool_take(pool, slot, slot), 0);
                for (uint32_t pins = 1; pins < n[slot]; pins++) {
                        assert_int_equal(pool_pins(pool, slot), pins);
                        pool_pin(pool, slot);
                }
        }
        for (uint32_t slot = 0; slot < 4; slot++) {
                for (uint32_t pins = n[slot]; pins > 1; pins--) {
                        assert_int_equal(pool_pins(pool, slot), pins);
                        assert_false(pool_unpin(pool, slot));
                }
                assert_true(pool_unpin(pool, slot));
        }
        expect(pool, 0, 4, 0, 0);
        for (uint32_t slot = 0; slot < 4; slot++)
                pool_free(pool, slot);
        assert_int_equal(pool->bytes, pool->n_extents * sizeof(void *));
}

/* Pins that cannot be counted for want of memory hold their slot for ever, too. */
static void test_pins_without_memory(void **state)
{
        struct pool *pool = *state;
        uint32_t owner;

        assert_int_equal(pool_reserve(pool, &owner, &owner), 0);
        assert_int_equal(pool_take(pool, 0, 1), 0);
        fail_alloc = true;
        for (uint32_t pins = 1; pins < SLOT_MAX_PINS + 5; pins++)
                pool_pin(pool, 0);
        fail_alloc = false;
        pool_pin(pool, 0);
        assert_int_equal(pool_pins(pool, 0), SLOT_MAX_PINS);
        for (uint32_t pins = 0; pins < 3 * SLOT_MAX_PINS; pins++)
                assert_false(pool_unpin(pool, 0));
        expect(pool, 1, 0, 0, 0);
}

static void test_no_memory(void **state)
{
        struct pool *pool = *state;
        uint32_t owners[17], extent = 77;

        fail_alloc = true;
        assert_int_equal(pool_reserve(pool, &owners[0], &extent), -ENOMEM);
        fail_alloc = false;
        for (uint32_t i = 0; i < 16; i++)
                assert_int_equal(pool_reserve(pool, &owners[i], &owners[i]), 0);
        fail_alloc = true;
        assert_int_equal(pool_reserve(pool, &owners[16], &extent), -ENOMEM);
        assert_int_equal(extent, 77);
        pool_disown(pool, 5);
        assert_int_equal(pool_reserve(pool, &owners[5], &extent), -ENOMEM);
        assert_int_equal(extent, 77);
        fail_alloc = false;
        assert_int_equal(pool_reserve(pool, &owners[5], &extent), 0);
        assert_int_equal(extent, 5);
        assert_int_equal(pool_reserve(pool, &owners[16], &extent), 0);
        assert_int_equal(extent, 16);
        fail_alloc = true;
        assert_int_equal(pool_take(pool, SLOT(16, 3), 5), -ENOMEM);
        expect(pool, 0, 0, 0, 0);
        fail_alloc = false;
        assert_int_equal(pool_slot(pool, SLOT(16, 3))->state, SLOT_FREE);
        assert_int_equal(pool_take(pool, SLOT(16, 3), 5), 0);
        fail_alloc = true; /* the block is there now */
        assert_int_equal(pool_take(pool, SLOT(16, 4), 5), 0);
        fail_alloc = false;
}

/* Every number taken; the extents themselves are stood in for, since a full set would need 8 GiB. */
static void test_no_space(void **state)
{
        static struct pool_extent *extents[POOL_MAX_EXTENTS];
        struct pool pool = {.extents = extents, .n_extents = POOL_MAX_EXTENTS};
        uint32_t owner, extent = 77;

        for (uint32_t i = 0; i < POOL_MAX_EXTENTS; i++)
                extents[i] = (struct pool_extent *)extents;
        assert_int_equal(pool_reserve(&pool, &owner, &extent), -ENOSPC);
        assert_int_equal(extent, 77);
        extents[POOL_MAX_EXTENTS - 1] = NULL;
        pool.free_hint = 0;
        assert_int_equal(pool_reserve(&pool, &owner, &extent), 0);
        assert_int_equal(extent, POOL_MAX_EXTENTS - 1);
        assert_int_equal(pool_take(&pool, SLOT(extent, POOL_EXTENT_SLOTS - 1), 5), 0);
        assert_true(pool_unpin(&pool, SLOT(extent, POOL_EXTENT_SLOTS - 1)));
        pool_free(&pool, SLOT(extent, POOL_EXTENT_SLOTS - 1));
        assert_int_equal(owner, POOL_NO_EXTENT);
}

#define TEST(_name) cmocka_unit_test_setup_teardown(_name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(test_life_of_a_slot),
                TEST(test_numbers_are_used_again),
                TEST(test_extent_waits_for_its_last_slot),
                TEST(test_disowned),
                TEST(test_disowned_while_empty),
                TEST(test_sharers_at_their_end),
                TEST(test_many_pins),
                TEST(test_pins_without_memory),
                TEST(test_no_memory),
                TEST(test_no_space),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
