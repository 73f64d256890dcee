/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The pool by hand: extents, the life of a slot, owners that go away, content taken over, counts that end, failures. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "dedup/pool.h"
#include "tests/unit/dedup/fail_alloc.h"
#include "util/bits.h"

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
        assert_int_equal(pool_slot(pool, slot)->key, 99);
        assert_int_equal(pool_take(pool, slot, 97), -EBUSY);
        assert_int_equal(owner, 0);
        pool_free(pool, slot);
        expect(pool, 0, 0, 0, 0);
        assert_int_equal(owner, POOL_NO_EXTENT);
        assert_null(pool_slot(pool, slot));
        assert_int_equal(pool->bytes, pool->n_extents * sizeof(void *));
}

/* A retired slot has its content: whoever comes finds it, as often as he likes, until it is freed. */
static void test_retired_is_used_again(void **state)
{
        struct pool *pool = *state;
        uint32_t owner;
        size_t bytes;

        assert_int_equal(pool_reserve(pool, &owner, &owner), 0);
        assert_int_equal(pool_take(pool, 5, 99), 0);
        assert_int_equal(pool_take(pool, 6, 98), 0);
        assert_true(pool_unpin(pool, 5));
        assert_true(pool_unpin(pool, 6));
        bytes = pool->bytes;
        for (unsigned round = 0; round < 3; round++) {
                expect(pool, 0, 2, 0, 0);
                pool_pin(pool, 5);
                expect(pool, 1, 1, 0, 0);
                assert_int_equal(pool_slot(pool, 5)->state, SLOT_USED);
                assert_int_equal(pool_slot(pool, 5)->key, 99);
                assert_int_equal(pool_pins(pool, 5), 1);
                assert_int_equal(pool_slot(pool, 6)->state, SLOT_RETIRED);
                pool_share(pool, 6);
                expect(pool, 2, 0, 1, 1);
                assert_int_equal(pool_slot(pool, 6)->state, SLOT_USED);
                assert_int_equal(pool_slot(pool, 6)->key, 98);
                assert_int_equal(pool_pins(pool, 6), 0);
                /* Used already: counted once as used. */
                pool_share(pool, 5);
                pool_pin(pool, 6);
                expect(pool, 2, 0, 2, 2);
                assert_false(pool_unpin(pool, 5));
                assert_false(pool_unpin(pool, 6));
                expect(pool, 2, 0, 2, 2);
                assert_true(pool_unshare(pool, 5));
                assert_true(pool_unshare(pool, 6));
        }
        expect(pool, 0, 2, 0, 0);
        assert_int_equal(pool->bytes, bytes);
        pool_free(pool, 6);
        assert_int_equal(pool_take(pool, 6, 97), 0); /* by other content now */
        assert_int_equal(pool_slot(pool, 6)->key, 97);
        pool_pin(pool, 5);
        assert_true(pool_unpin(pool, 5));
        assert_true(pool_unpin(pool, 6));
        pool_free(pool, 5);
        pool_free(pool, 6);
        assert_int_equal(owner, POOL_NO_EXTENT);
}

/* The key says what the content is; nothing else changes with it. */
static void test_set_key(void **state)
{
        struct pool *pool = *state;
        uint32_t owner;

        assert_int_equal(pool_reserve(pool, &owner, &owner), 0);
        assert_int_equal(pool_take(pool, 5, 99), 0);
        assert_int_equal(pool_take(pool, 6, 99), 0);
        pool_share(pool, 5);
        pool_set_key(pool, 5, ~UINT32_C(99));
        assert_int_equal(pool_slot(pool, 5)->key, ~UINT32_C(99));
        assert_int_equal(pool_slot(pool, 5)->state, SLOT_USED);
        assert_int_equal(pool_slot(pool, 5)->sharers, 1);
        assert_int_equal(pool_pins(pool, 5), 1);
        assert_int_equal(pool_slot(pool, 6)->key, 99);
        assert_true(pool_unpin(pool, 6));
        pool_set_key(pool, 6, 7);
        assert_int_equal(pool_slot(pool, 6)->state, SLOT_RETIRED);
        assert_int_equal(pool_slot(pool, 6)->key, 7);
        expect(pool, 1, 1, 1, 1);
        pool_pin(pool, 6);
        assert_int_equal(pool_slot(pool, 6)->key, 7);
}

/* ------------------------------------------------------------------ content of an earlier daemon */

/* Into a pool that has nothing yet: extents without an owner, which go with their last slot. */
static void test_adopt(void **state)
{
        static const uint32_t slots[] = {SLOT(3, 0), SLOT(3, 1), SLOT(3, POOL_EXTENT_SLOTS - 1), SLOT(0, 9)};
        struct pool *pool = *state;
        uint32_t owners[4];

        for (uint32_t i = 0; i < ARRAY_SIZE(slots); i++) {
                assert_int_equal(pool_adopt(pool, slots[i]), 0);
                expect(pool, 0, i + 1, 0, 0);
                assert_int_equal(pool_slot(pool, slots[i])->state, SLOT_RETIRED);
                assert_int_equal(pool_slot(pool, slots[i])->key, 0);
                assert_int_equal(pool_slot(pool, slots[i])->sharers, 0);
                assert_int_equal(pool_slot(pool, slots[i])->pins, 0);
                assert_int_equal(pool_adopt(pool, slots[i]), -EBUSY);
                assert_int_equal(pool_take(pool, slots[i], 5), -EBUSY);
        }
        expect(pool, 0, 4, 0, 0);
        assert_int_equal(pool_slot(pool, SLOT(3, 2))->state, SLOT_FREE);
        assert_null(pool_slot(pool, SLOT(1, 0)));
        assert_int_equal(pool_anchor(pool, 3)->anchor, UINT32_MAX);

        /* Chunks get the numbers between them. */
        for (uint32_t i = 0; i < 4; i++)
                assert_int_equal(pool_reserve(pool, &owners[i], &owners[i]), 0);
        assert_int_equal(owners[0], 1);
        assert_int_equal(owners[1], 2);
        assert_int_equal(owners[2], 4);
        assert_int_equal(owners[3], 5);

        /* Used like any other: by a merge, and by a page that was found to map it. */
        pool_set_key(pool, SLOT(3, 1), 77);
        pool_pin(pool, SLOT(3, 1));
        pool_share(pool, SLOT(3, 0));
        expect(pool, 2, 2, 1, 1);
        assert_int_equal(pool_slot(pool, SLOT(3, 1))->key, 77);
        assert_true(pool_unshare(pool, SLOT(3, 0)));
        pool_free(pool, SLOT(3, 0));
        pool_free(pool, SLOT(3, POOL_EXTENT_SLOTS - 1));
        assert_non_null(pool_slot(pool, SLOT(3, 0)));
        assert_true(pool_unpin(pool, SLOT(3, 1)));
        pool_free(pool, SLOT(3, 1));
        assert_null(pool_slot(pool, SLOT(3, 1)));
        pool_free(pool, SLOT(0, 9));
        assert_null(pool_slot(pool, SLOT(0, 9)));
        expect(pool, 0, 0, 0, 0);
        for (uint32_t i = 0; i < 4; i++)
                pool_disown(pool, owners[i]);
        assert_int_equal(pool->bytes, pool->n_extents * sizeof(void *));
        assert_int_equal(pool_reserve(pool, &owners[0], &owners[0]), 0);
        assert_int_equal(owners[0], 0);
}

/* Into an extent that has an owner, and into blocks that are there or not; what is free next to it can be taken. */
static void test_adopt_into_owned_extent(void **state)
{
        struct pool *pool = *state;
        uint32_t owner;

        assert_int_equal(pool_reserve(pool, &owner, &owner), 0);
        assert_int_equal(pool_take(pool, SLOT(owner, 0), 1), 0);
        assert_int_equal(pool_adopt(pool, SLOT(owner, 0)), -EBUSY);
        assert_int_equal(pool_adopt(pool, SLOT(owner, 1)), 0);
        assert_int_equal(pool_adopt(pool, SLOT(owner, POOL_BLOCK_SLOTS)), 0);
        assert_int_equal(pool_take(pool, SLOT(owner, POOL_BLOCK_SLOTS + 1), 2), 0);
        expect(pool, 2, 2, 0, 0);
        assert_true(pool_unpin(pool, SLOT(owner, 0)));
        pool_free(pool, SLOT(owner, 0));
        assert_true(pool_unpin(pool, SLOT(owner, POOL_BLOCK_SLOTS + 1)));
        pool_free(pool, SLOT(owner, POOL_BLOCK_SLOTS + 1));
        assert_int_equal(owner, 0);
        pool_free(pool, SLOT(owner, 1));
        assert_int_equal(owner, 0);
        pool_free(pool, SLOT(owner, POOL_BLOCK_SLOTS));
        assert_int_equal(owner, POOL_NO_EXTENT);

        /* An owner that goes away leaves to the extent what was adopted. */
        assert_int_equal(pool_reserve(pool, &owner, &owner), 0);
        assert_int_equal(pool_adopt(pool, SLOT(0, 3)), 0);
        pool_disown(pool, 0);
        owner = 77;
        assert_int_equal(pool_slot(pool, SLOT(0, 3))->state, SLOT_RETIRED);
        pool_free(pool, SLOT(0, 3));
        assert_int_equal(owner, 77);
        assert_null(pool_slot(pool, SLOT(0, 3)));
}

/* The last slot that there can be, and those that there cannot be. */
static void test_adopt_at_the_end(void **state)
{
        const uint32_t last = SLOT(POOL_MAX_EXTENTS, 0) - 1;
        struct pool *pool = *state;
        uint32_t owner;

        assert_int_equal(pool_adopt(pool, last + 1), -ENOSPC);
        assert_int_equal(pool_adopt(pool, UINT32_MAX), -ENOSPC);
        expect(pool, 0, 0, 0, 0);
        assert_int_equal(pool->n_extents, 0);
        assert_int_equal(pool->bytes, 0);
        assert_int_equal(pool_adopt(pool, last), 0);
        expect(pool, 0, 1, 0, 0);
        assert_int_equal(pool->n_extents, POOL_MAX_EXTENTS);
        assert_int_equal(pool_reserve(pool, &owner, &owner), 0);
        assert_int_equal(owner, 0);
        pool_disown(pool, owner);
        pool_free(pool, last);
        assert_null(pool_slot(pool, last));
        assert_int_equal(pool->bytes, POOL_MAX_EXTENTS * sizeof(void *));
}

/* Whichever allocation fails, nothing is adopted, and no extent is left that nobody would ever free. */
static void test_adopt_without_memory(void **state)
{
        const uint32_t slot = SLOT(20, 100);
        struct pool *pool = *state;
        uint32_t owner, owner_extent;
        size_t bytes;

        /* The array, twice as it doubles; the extent; the block. */
        for (unsigned i = 1; i <= 4; i++) {
                fail_at = i;
                assert_int_equal(pool_adopt(pool, slot), -ENOMEM);
                assert_int_equal(fail_at, 0);
                assert_null(pool_slot(pool, slot));
                expect(pool, 0, 0, 0, 0);
                assert_int_equal(pool->bytes, pool->n_extents * sizeof(void *));
                pool_deinit(pool);
        }
        /* An extent that was there stays as it was, whoever it belongs to. */
        assert_int_equal(pool_reserve(pool, &owner, &owner_extent), 0);
        bytes = pool->bytes;
        fail_alloc = true;
        assert_int_equal(pool_adopt(pool, SLOT(owner_extent, 5)), -ENOMEM);
        fail_alloc = false;
        assert_int_equal(pool->bytes, bytes);
        assert_int_equal(pool_slot(pool, SLOT(owner_extent, 5))->state, SLOT_FREE);
        assert_int_equal(pool_adopt(pool, SLOT(owner_extent, 5)), 0);
        fail_alloc = true; /* the block is there now */
        assert_int_equal(pool_adopt(pool, SLOT(owner_extent, 6)), 0);
        fail_alloc = false;
        expect(pool, 0, 2, 0, 0);
}

/* Where the anchor of an extent can go: to whatever has content, used, retired or adopted. */
static void test_other_slot(void **state)
{
        struct pool *pool = *state;
        uint32_t owner, slot = 77;

        assert_int_equal(pool_reserve(pool, &owner, &owner), 0);
        assert_int_equal(pool_reserve(pool, &owner, &owner), 0);
        assert_int_equal(pool_other_slot(pool, 1, 0, 0, &slot), -ENOENT);
        assert_int_equal(pool_take(pool, SLOT(1, 4), 1), 0);
        assert_int_equal(pool_take(pool, SLOT(1, 5), 1), 0);
        assert_int_equal(pool_other_slot(pool, 1, SLOT(1, 4), SLOT(1, 6), &slot), -ENOENT);
        assert_int_equal(slot, 77);
        assert_int_equal(pool_other_slot(pool, 1, SLOT(1, 4), SLOT(1, 5), &slot), 0);
        assert_int_equal(slot, SLOT(1, 5));
        assert_true(pool_unpin(pool, SLOT(1, 4)));
        assert_int_equal(pool_other_slot(pool, 1, SLOT(1, 5), SLOT(2, 0), &slot), 0);
        assert_int_equal(slot, SLOT(1, 4));
        pool_free(pool, SLOT(1, 4));
        assert_int_equal(pool_other_slot(pool, 1, SLOT(1, 5), SLOT(2, 0), &slot), -ENOENT);
        assert_int_equal(pool_adopt(pool, SLOT(1, POOL_EXTENT_SLOTS - 1)), 0);
        assert_int_equal(pool_other_slot(pool, 1, SLOT(1, 0), SLOT(1, POOL_EXTENT_SLOTS - 1), &slot), 0);
        assert_int_equal(slot, SLOT(1, POOL_EXTENT_SLOTS - 1));
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
        /* One that was retired counts from nothing again. */
        pool_pin(pool, 3);
        assert_int_equal(pool_pins(pool, 3), 1);
        assert_true(pool_unpin(pool, 3));
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
                TEST(test_retired_is_used_again),
                TEST(test_set_key),
                TEST(test_adopt),
                TEST(test_adopt_into_owned_extent),
                TEST(test_adopt_at_the_end),
                TEST(test_adopt_without_memory),
                TEST(test_other_slot),
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
