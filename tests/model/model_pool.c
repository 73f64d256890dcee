/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The pool against a naive array
 *
 * The model has one record per slot number that was ever handed out, and lists of the sites and merges that
 * refer to slots. Retired slots are freed, or come into use again, and content appears that an earlier daemon
 * left behind. After each step the counters and the identities at the head of pool.h are those that it counts
 * itself.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dedup/pool.h"
#include "tests/model/random.h"
#include "util/bits.h"

#define N_CHUNKS  40
#define N_EXTENTS 256 /* more numbers than chunks can hold at a time, orphans included */
#define N_SLOTS   (N_EXTENTS * POOL_EXTENT_SLOTS)
#define N_BLOCKS  (POOL_EXTENT_SLOTS / POOL_BLOCK_SLOTS)
#define MAX_REFS  3000
#define N_STEPS   60000
#define NEAR      24 /* slots of an extent that are used, so that extents become empty now and then */
#define STRIDE    13 /* how far apart these are: in some blocks of the extent, but not in all */

struct naive_slot {
        enum slot_state state;
        uint32_t key;
        uint32_t sharers;
        uint32_t pins;
};

struct refs {
        size_t n;
        uint32_t slots[MAX_REFS];
};

struct model {
        struct pool pool;
        uint32_t *owners[N_CHUNKS]; /* allocated one by one, so that a late write to one is seen */
        bool reserved[N_EXTENTS];
        bool owned[N_EXTENTS];                       /* by a chunk, which is to hear when it is given back */
        bool block_made[N_SLOTS / POOL_BLOCK_SLOTS]; /* a slot of it was used since the extent was reserved */
        struct naive_slot slots[N_SLOTS];
        struct refs sites;
        struct refs merges;
        struct refs retired;
        struct random random;
        uint64_t n_used;
        unsigned n_reused[2];  /* retired slots that were pinned, and shared */
        unsigned n_adopted[2]; /* into extents that were there, and that were not */
};

static void refs_add(struct refs *refs, uint32_t slot)
{
        assert_true(refs->n < MAX_REFS);
        refs->slots[refs->n++] = slot;
}

static uint32_t refs_take(struct refs *refs, struct random *random)
{
        size_t i = random_below(random, refs->n);
        uint32_t slot = refs->slots[i];

        refs->slots[i] = refs->slots[--refs->n];
        return slot;
}

static void refs_remove(struct refs *refs, uint32_t slot)
{
        size_t i = 0;

        while (i < refs->n && refs->slots[i] != slot)
                i++;
        assert_true(i < refs->n);
        refs->slots[i] = refs->slots[--refs->n];
}

static bool extent_busy(const struct model *model, uint32_t extent)
{
        for (uint32_t k = 0; k < POOL_EXTENT_SLOTS; k++)
                if (model->slots[extent * POOL_EXTENT_SLOTS + k].state != SLOT_FREE)
                        return true;
        return false;
}

/* An extent without a slot that is busy is given back, records and all. */
static void still_reserved(struct model *model, uint32_t extent)
{
        model->reserved[extent] = extent_busy(model, extent);
        model->owned[extent] &= model->reserved[extent];
        if (!model->reserved[extent])
                memset(&model->block_made[extent * N_BLOCKS], false, N_BLOCKS);
}

static void reserve(struct model *model, uint32_t chunk)
{
        uint32_t extent = POOL_NO_EXTENT;

        model->owners[chunk] = malloc(sizeof(uint32_t));
        assert_non_null(model->owners[chunk]);
        assert_int_equal(pool_reserve(&model->pool, model->owners[chunk], &extent), 0);
        assert_true(extent < N_EXTENTS);
        assert_false(model->reserved[extent]);
        for (uint32_t i = 0; i < extent; i++) /* the lowest free number */
                assert_true(model->reserved[i]);
        model->reserved[extent] = model->owned[extent] = true;
        *model->owners[chunk] = extent;
}

static void disown(struct model *model, uint32_t chunk)
{
        uint32_t extent = *model->owners[chunk];

        if (extent != POOL_NO_EXTENT) {
                pool_disown(&model->pool, extent);
                model->owned[extent] = false;
                still_reserved(model, extent);
        }
        free(model->owners[chunk]);
        model->owners[chunk] = NULL;
}

static void take(struct model *model, uint32_t extent)
{
        uint32_t slot = extent * POOL_EXTENT_SLOTS + (uint32_t)random_below(&model->random, NEAR) * STRIDE;
        uint32_t key = (uint32_t)random_next(&model->random);
        struct naive_slot *naive = &model->slots[slot];
        int r = pool_take(&model->pool, slot, key);

        assert_int_equal(r, naive->state == SLOT_FREE ? 0 : -EBUSY);
        if (r < 0)
                return;
        *naive = (struct naive_slot){.state = SLOT_USED, .key = key, .pins = 1};
        refs_add(&model->merges, slot);
        model->n_used++;
        model->block_made[slot / POOL_BLOCK_SLOTS] = true;
}

/* Content that is in the file already, in any extent: of a chunk, of nobody, or not reserved. */
static void adopt(struct model *model)
{
        uint32_t extent = (uint32_t)random_below(&model->random, N_CHUNKS + 20);
        uint32_t slot = extent * POOL_EXTENT_SLOTS + (uint32_t)random_below(&model->random, NEAR) * STRIDE;
        struct naive_slot *naive = &model->slots[slot];
        int r = pool_adopt(&model->pool, slot);

        assert_int_equal(r, naive->state == SLOT_FREE ? 0 : -EBUSY);
        if (r < 0)
                return;
        *naive = (struct naive_slot){.state = SLOT_RETIRED};
        refs_add(&model->retired, slot);
        model->n_adopted[!model->reserved[extent]]++;
        model->reserved[extent] = true;
        model->block_made[slot / POOL_BLOCK_SLOTS] = true;
}

/* The model's half of a reference to a slot, which may have been retired. */
static void referred(struct model *model, uint32_t slot, bool by_site)
{
        struct naive_slot *naive = &model->slots[slot];

        if (naive->state == SLOT_RETIRED) {
                refs_remove(&model->retired, slot);
                naive->state = SLOT_USED;
                model->n_used++;
                model->n_reused[by_site]++;
        }
        if (by_site)
                naive->sharers++;
        else
                naive->pins++;
        refs_add(by_site ? &model->sites : &model->merges, slot);
}

static void share(struct model *model, uint32_t slot)
{
        pool_share(&model->pool, slot);
        referred(model, slot, true);
}

static void pin(struct model *model, uint32_t slot)
{
        pool_pin(&model->pool, slot);
        referred(model, slot, false);
}

static void set_key(struct model *model, uint32_t slot)
{
        model->slots[slot].key = (uint32_t)random_next(&model->random);
        pool_set_key(&model->pool, slot, model->slots[slot].key);
}

/* The model's half of losing a reference: what the pool must have answered. */
static void dropped(struct model *model, uint32_t slot, bool retired)
{
        struct naive_slot *naive = &model->slots[slot];

        assert_int_equal(retired, !naive->sharers && !naive->pins);
        if (!retired)
                return;
        naive->state = SLOT_RETIRED;
        model->n_used--;
        refs_add(&model->retired, slot);
}

static void unshare(struct model *model)
{
        uint32_t slot = refs_take(&model->sites, &model->random);

        model->slots[slot].sharers--;
        dropped(model, slot, pool_unshare(&model->pool, slot));
}

static void unpin(struct model *model)
{
        uint32_t slot = refs_take(&model->merges, &model->random);

        model->slots[slot].pins--;
        dropped(model, slot, pool_unpin(&model->pool, slot));
}

static void free_retired(struct model *model)
{
        uint32_t slot = refs_take(&model->retired, &model->random), extent = slot / POOL_EXTENT_SLOTS;

        pool_free(&model->pool, slot);
        model->slots[slot] = (struct naive_slot){0};
        still_reserved(model, extent);
}

static void check_slot(const struct model *model, uint32_t number)
{
        const struct slot *slot = pool_slot(&model->pool, number);
        const struct naive_slot *naive = &model->slots[number];

        assert_int_equal(slot != NULL, model->reserved[number / POOL_EXTENT_SLOTS]);
        if (!slot)
                return;
        assert_int_equal(slot->state, naive->state);
        assert_int_equal(slot->sharers, naive->sharers);
        assert_int_equal(naive->state == SLOT_USED ? pool_pins(&model->pool, number) : slot->pins,
                         naive->pins);
        assert_int_equal(slot->key, naive->key);
}

static void check_all(const struct model *model)
{
        uint64_t n_used = 0, n_retired = 0, n_shared = 0, n_sharers = 0, n_reserved = 0, n_blocks = 0;
        uint32_t n_owned = 0;

        for (uint32_t i = 0; i < N_SLOTS; i++) {
                check_slot(model, i);
                n_used += model->slots[i].state == SLOT_USED;
                n_retired += model->slots[i].state == SLOT_RETIRED;
                n_shared += model->slots[i].sharers > 0;
                n_sharers += model->slots[i].sharers;
        }
        assert_int_equal(model->pool.n_used, n_used);
        assert_int_equal(model->pool.n_retired, n_retired);
        assert_int_equal(model->pool.n_shared, n_shared);
        assert_int_equal(model->pool.n_sharers, n_sharers);
        for (uint32_t i = 0; i < N_EXTENTS; i++) {
                n_reserved += model->reserved[i];
                n_owned += model->owned[i];
        }
        for (uint32_t i = 0; i < N_CHUNKS; i++)
                n_owned -= model->owners[i] && *model->owners[i] != POOL_NO_EXTENT;
        assert_int_equal(n_owned, 0);
        for (uint32_t i = 0; i < N_SLOTS / POOL_BLOCK_SLOTS; i++)
                n_blocks += model->block_made[i];
        assert_true(model->pool.bytes >= n_blocks * POOL_BLOCK_SLOTS * sizeof(struct slot));
        assert_true(model->pool.bytes <= n_blocks * (POOL_BLOCK_SLOTS + 2) * sizeof(struct slot) +
                                                 n_reserved * 16 * sizeof(void *) +
                                                 N_EXTENTS * sizeof(void *));
}

/* Cheap, so that it is done after each step; the naive counts follow from the lists. */
static void check_counters(const struct model *model)
{
        assert_int_equal(model->pool.n_sharers, model->sites.n);
        assert_int_equal(model->pool.n_retired, model->retired.n);
        assert_int_equal(model->pool.n_used, model->n_used);
        assert_true(model->pool.n_shared <= model->pool.n_used);
        assert_true(model->pool.n_shared <= model->pool.n_sharers);
        for (uint32_t i = 0; i < N_CHUNKS; i++)
                if (model->owners[i] && *model->owners[i] != POOL_NO_EXTENT)
                        assert_true(model->owned[*model->owners[i]]);
}

static void step_chunk(struct model *model)
{
        uint32_t chunk = (uint32_t)random_below(&model->random, N_CHUNKS);

        if (!model->owners[chunk])
                reserve(model, chunk);
        else if (*model->owners[chunk] == POOL_NO_EXTENT || random_below(&model->random, 30) == 0)
                disown(model, chunk);
        else
                take(model, *model->owners[chunk]);
}

static uint32_t pick(struct model *model, const struct refs *refs)
{
        return refs->slots[random_below(&model->random, refs->n)];
}

/* What has been retired lately is often wanted again. */
static void step_retired(struct model *model)
{
        uint64_t what = random_below(&model->random, 20);

        if (what < 2)
                pin(model, pick(model, &model->retired));
        else if (what < 4)
                share(model, pick(model, &model->retired));
        else if (what < 5)
                set_key(model, pick(model, &model->retired));
        else
                free_retired(model);
}

static void step(struct model *model)
{
        uint64_t what = random_below(&model->random, 100);
        bool room = model->merges.n < MAX_REFS && model->sites.n < MAX_REFS;

        if (what < 20 && room)
                step_chunk(model);
        else if (what < 22)
                adopt(model);
        else if (what < 40 && model->merges.n > 0 && room)
                share(model, pick(model, &model->merges));
        else if (what < 44 && model->sites.n > 0 && room)
                pin(model, pick(model, &model->sites));
        else if (what < 45 && model->sites.n > 0)
                set_key(model, pick(model, &model->sites));
        else if (what < 63 && model->merges.n > 0)
                unpin(model);
        else if (what < 81 && model->sites.n > 0)
                unshare(model);
        else if (model->retired.n > 0 && room)
                step_retired(model);
}

/* Everybody goes away: then there is nothing left. */
static void wind_down(struct model *model)
{
        while (model->merges.n > 0)
                unpin(model);
        while (model->sites.n > 0)
                unshare(model);
        while (model->retired.n > 0)
                free_retired(model);
        check_all(model);
        for (uint32_t i = 0; i < N_CHUNKS; i++)
                if (model->owners[i])
                        disown(model, i);
        check_all(model);
        for (uint32_t i = 0; i < N_EXTENTS; i++)
                assert_false(model->reserved[i]);
        assert_int_equal(model->pool.bytes, model->pool.n_extents * sizeof(void *));
}

static void run(uint64_t seed)
{
        struct model *model = calloc(1, sizeof(*model));

        assert_non_null(model);
        model->random.state = seed;
        for (unsigned i = 0; i < N_STEPS; i++) {
                step(model);
                check_counters(model);
                if (i % 2000 == 0)
                        check_all(model);
        }
        assert_true(model->sites.n > 0 || model->merges.n > 0);
        assert_true(model->n_reused[0] > 100 && model->n_reused[1] > 100);
        assert_true(model->n_adopted[0] > 100 && model->n_adopted[1] > 100);
        wind_down(model);
        pool_deinit(&model->pool);
        free(model);
}

static void test_random(void **state)
{
        for (uint64_t seed = 1; seed <= 8; seed++)
                run(seed);
}

/* A few slots that thousands of merges wait for, as when memory is full of one content. */
static void test_hot_slots(void **state)
{
        const uint32_t slots[] = {0, 1, POOL_BLOCK_SLOTS, 511};
        struct random random = RANDOM_INIT(9);
        struct pool pool = POOL_INIT;
        uint32_t owner, pins[ARRAY_SIZE(slots)], peak = 0;

        assert_int_equal(pool_reserve(&pool, &owner, &owner), 0);
        for (unsigned k = 0; k < ARRAY_SIZE(slots); k++) {
                pins[k] = 1;
                assert_int_equal(pool_take(&pool, slots[k], k), 0);
        }
        for (unsigned i = 0; i < 200000; i++) {
                uint64_t up = i / 25000 % 2 ? 30 : 70; /* per cent: the counts rise and fall */
                uint64_t k = random_below(&random, ARRAY_SIZE(slots));

                if (random_below(&random, 100) < up) {
                        pool_pin(&pool, slots[k]);
                        pins[k]++;
                } else if (pins[k] > 1) {
                        assert_false(pool_unpin(&pool, slots[k]));
                        pins[k]--;
                }
                assert_int_equal(pool_pins(&pool, slots[k]), pins[k]);
                peak = MAX(peak, pins[k]);
        }
        assert_true(peak > 2 * SLOT_MAX_PINS);
        for (unsigned k = 0; k < ARRAY_SIZE(slots); k++) {
                while (--pins[k])
                        assert_false(pool_unpin(&pool, slots[k]));
                assert_true(pool_unpin(&pool, slots[k]));
        }
        pool_deinit(&pool);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_random),
                cmocka_unit_test(test_hot_slots),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
