/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A region against naive arrays
 *
 * Random changes that the table allows, random keys that are often those of neighbours, marks and patience. The model keeps for
 * each page what was last said of it, and counts everything anew: states, pages that are unsettled, and the mappings that a
 * process with such pages has. What the region says of itself is the same after each step.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/region.h"
#include "tests/model/random.h"
#include "util/bits.h"

#define N_CHUNKS 5
#define N_PAGES  (4 * CHUNK_PAGES + 37)
#define N_STEPS  120000
#define UNUSED   3 /* the chunk that is never touched */

struct naive_page {
        enum page_state state;
        uint32_t key;
        bool pooled;
        bool written;
        bool refused;
        unsigned level;
};

struct model {
        struct region *region;
        struct naive_page pages[N_PAGES];
        bool made[N_CHUNKS];
        struct random random;
        uint64_t max_borders;
        unsigned n_changes[PAGE_N_STATES][PAGE_N_STATES];
};

static bool chance(struct model *model, uint64_t one_in)
{
        return random_below(&model->random, one_in) == 0;
}

/* A few places that are near each other and on both sides of the chunks' borders; now and then any other. */
static uint32_t pick(struct model *model)
{
        uint32_t page;

        do {
                page = chance(model, 8)
                               ? (uint32_t)random_below(&model->random, N_PAGES)
                               : (uint32_t)((CHUNK_PAGES * (1 + random_below(&model->random, N_CHUNKS)) +
                                             random_below(&model->random, 24) - 12) %
                                            N_PAGES);
        } while (page / CHUNK_PAGES == UNUSED);
        return page;
}

static void make_chunk(struct model *model, uint32_t page)
{
        assert_int_equal(region_make_chunk(model->region, page), 0);
        model->made[page / CHUNK_PAGES] = true;
}

/* ------------------------------------------------------------------ what is counted anew */

/*
 * Mappings of [start, end) with one page beyond either end that is not merged: pages that are not pooled are one mapping, pooled ones
 * as long as their slots follow each other. All but the first begin at a border.
 */
static uint64_t naive_borders(const struct model *model)
{
        uint64_t n_mappings = 1;
        bool in_pool = false;
        uint32_t slot = 0;

        for (uint32_t i = 0; i < N_PAGES; i++) {
                const struct naive_page *page = &model->pages[i];

                if (page->pooled != in_pool || (in_pool && page->key - slot != 1))
                        n_mappings++;
                in_pool = page->pooled;
                slot = page->key;
        }
        return n_mappings - 1 + in_pool;
}

static uint32_t naive_unsettled(const struct model *model, uint32_t chunk)
{
        uint32_t n = 0;

        for (uint32_t i = chunk * CHUNK_PAGES; i < MIN((chunk + 1) * CHUNK_PAGES, (uint32_t)N_PAGES); i++)
                n += model->pages[i].state == PAGE_VOLATILE || model->pages[i].state == PAGE_TRACKED;
        return n;
}

static void check_page(const struct model *model, uint32_t i)
{
        static const uint32_t periods[PATIENCE_LEVELS] = {1, 1, 2, 4, 8, 16};
        const struct region *region = model->region;
        const struct naive_page *page = &model->pages[i];

        assert_int_equal(region_state(region, i), page->state);
        assert_int_equal(region_key(region, i), page->key);
        assert_int_equal(region_flags(region, i),
                         page->pooled * PAGE_F_POOLED + page->written * PAGE_F_WRITTEN +
                                 page->refused * PAGE_F_REFUSED + (page->level << PAGE_F_LEVEL_SHIFT));
        assert_int_equal(region_shares(region, i), page->state == PAGE_MERGED ||
                                                           page->state == PAGE_ALIASED ||
                                                           page->state == PAGE_FOREIGN);
        assert_int_equal(region_patient(region, i),
                         (region->round + i / CHUNK_PAGES) % periods[page->level] != 0);
}

static void check_runs(struct model *model)
{
        for (unsigned n = 0; n < 20; n++) {
                uint32_t page = pick(model),
                         limit = page + (uint32_t)random_below(&model->random, N_PAGES - page + 1);
                enum page_state state = chance(model, 4)
                                                ? (enum page_state)random_below(&model->random, PAGE_N_STATES)
                                                : model->pages[page].state;
                uint32_t end = region_run_end(model->region, page, limit, state);

                assert_in_range(end, page, limit);
                for (uint32_t i = page; i < end; i++)
                        assert_int_equal(model->pages[i].state, state);
                if (end < limit)
                        assert_int_not_equal(model->pages[end].state, state);
        }
}

static void check_chunks(const struct model *model)
{
        uint32_t n_made = 0;

        for (uint32_t i = 0; i < N_CHUNKS; i++) {
                const struct chunk *chunk = region_chunk(model->region, i * CHUNK_PAGES);

                assert_int_equal(chunk != NULL, model->made[i]);
                assert_int_equal(region_unsettled(model->region, i * CHUNK_PAGES + 36),
                                 naive_unsettled(model, i) > 0);
                if (!chunk)
                        continue;
                assert_int_equal(chunk->n_unsettled, naive_unsettled(model, i));
                assert_int_equal(chunk->extent, UINT32_MAX);
                n_made++;
        }
        assert_int_equal(model->region->n_chunks_made, n_made);
        assert_int_equal(region_bytes(model->region),
                         sizeof(struct region) + N_CHUNKS * sizeof(struct chunk *) +
                                 BITMAP_WORDS(N_CHUNKS) * sizeof(uint64_t) + n_made * sizeof(struct chunk));
}

static void check_counts(const struct model *model)
{
        uint64_t count[PAGE_N_STATES] = {0}, sum = 0;

        for (uint32_t i = 0; i < N_PAGES; i++)
                count[model->pages[i].state]++;
        for (unsigned i = 0; i < PAGE_N_STATES; i++) {
                assert_int_equal(model->region->count[i], count[i]);
                sum += model->region->count[i];
        }
        assert_int_equal(sum, N_PAGES);
}

static void check_all(struct model *model)
{
        for (uint32_t i = 0; i < N_PAGES; i++)
                check_page(model, i);
        check_counts(model);
        check_chunks(model);
        check_runs(model);
}

/* ------------------------------------------------------------------ steps */

/* Often the slot that continues a neighbour's, on either side, or nearly. */
static uint32_t pick_key(struct model *model, uint32_t page)
{
        uint32_t base = 1000 * (uint32_t)random_below(&model->random, 2);

        return chance(model, 6) ? (uint32_t)random_next(&model->random)
                                : base + page + (chance(model, 10) ? 1 : 0);
}

static void set_state(struct model *model, uint32_t i, enum page_state to)
{
        struct naive_page *page = &model->pages[i];
        uint32_t key = pick_key(model, i);
        bool pooled = to == PAGE_MERGED || to == PAGE_ALIASED || to == PAGE_FOREIGN || to == PAGE_COPIED ||
                      (to == PAGE_EXCLUDED && page->pooled);

        make_chunk(model, i);
        region_set_state(model->region, i, to, key);
        model->n_changes[page->state][to]++;
        if (!page->pooled || !pooled)
                page->key = key;
        page->pooled = pooled;
        page->state = to;
        page->written = page->refused = false;
}

/* Mostly on the way that pages take, so that much of the region is pooled; every change of the table is met. */
static void step_state(struct model *model, uint32_t i)
{
        static const enum page_state onwards[PAGE_N_STATES] = {
                [PAGE_EMPTY] = PAGE_TRACKED,     [PAGE_VOLATILE] = PAGE_TRACKED,
                [PAGE_TRACKED] = PAGE_CANDIDATE, [PAGE_CANDIDATE] = PAGE_PLANNED,
                [PAGE_PLANNED] = PAGE_MERGED,    [PAGE_MERGED] = PAGE_VOLATILE,
                [PAGE_ALIASED] = PAGE_VOLATILE,  [PAGE_FOREIGN] = PAGE_VOLATILE,
                [PAGE_COPIED] = PAGE_EXCLUDED,   [PAGE_ZERO] = PAGE_VOLATILE,
                [PAGE_EXCLUDED] = PAGE_TRACKED,  [PAGE_PROTECTED] = PAGE_TRACKED,
        };
        enum page_state from = model->pages[i].state, to = onwards[from];

        if (chance(model, 3))
                to = (enum page_state)random_below(&model->random, PAGE_N_STATES);
        if (from == to || page_state_allowed(from, to))
                set_state(model, i, to);
}

static void step_patience(struct model *model, uint32_t i)
{
        struct naive_page *page = &model->pages[i];

        make_chunk(model, i);
        if (chance(model, 8)) {
                region_forget_patience(model->region, i);
                page->level = 0;
        } else {
                region_be_patient(model->region, i);
                page->level = MIN(page->level + 1, 5U);
        }
}

static void step_mark(struct model *model, uint32_t i)
{
        struct naive_page *page = &model->pages[i];

        if (page->state == PAGE_PLANNED) {
                region_mark_written(model->region, i);
                page->written = true;
        } else if (page->state == PAGE_CANDIDATE) {
                region_mark_refused(model->region, i);
                page->refused = true;
        }
}

static void retry_refused(struct model *model)
{
        region_retry_refused(model->region);
        assert_int_equal(model->region->n_refused, 0);
        for (uint32_t i = 0; i < N_PAGES; i++)
                if (model->pages[i].refused) {
                        model->pages[i].state = PAGE_TRACKED;
                        model->pages[i].key = 0;
                        model->pages[i].refused = false;
                }
        check_all(model);
}

static void step(struct model *model)
{
        uint64_t what = random_below(&model->random, 100);
        uint32_t i = pick(model);

        if (what < 70)
                step_state(model, i);
        else if (what < 85)
                step_patience(model, i);
        else if (what < 95)
                step_mark(model, i);
        else
                model->region->round += 1 + (uint32_t)random_below(&model->random, 3);
        for (uint32_t page = i ? i - 1 : 0; page < MIN(i + 2, (uint32_t)N_PAGES); page++)
                check_page(model, page);
        assert_int_equal(model->region->borders, naive_borders(model));
        model->max_borders = MAX(model->max_borders, model->region->borders);
}

/* Everything is given back or excluded: where no page is pooled, no border is. */
static void wind_down(struct model *model)
{
        for (uint32_t i = 0; i < N_PAGES; i++) {
                if (model->pages[i].state == PAGE_MERGED || model->pages[i].state == PAGE_ALIASED ||
                    model->pages[i].state == PAGE_FOREIGN)
                        set_state(model, i, PAGE_VOLATILE);
                if (model->pages[i].state == PAGE_COPIED)
                        set_state(model, i, PAGE_EXCLUDED);
                if (model->pages[i].state == PAGE_EXCLUDED)
                        set_state(model, i, PAGE_TRACKED);
        }
        check_all(model);
        assert_int_equal(model->region->borders, 0);
}

static void run(uint64_t seed)
{
        struct model *model = calloc(1, sizeof(*model));

        assert_non_null(model);
        model->random.state = seed;
        assert_int_equal(region_new(NULL, 0, N_PAGES * PAGE_BYTES, 0, &model->region), 0);
        model->region->round = UINT32_MAX - N_STEPS / 20;
        for (unsigned i = 0; i < N_STEPS; i++) {
                step(model);
                if (i % 500 == 0)
                        check_all(model);
                if (i % 5000 == 0)
                        retry_refused(model);
        }
        assert_true(model->max_borders > 100);
        for (unsigned from = 0; from < PAGE_N_STATES; from++)
                for (unsigned to = 0; to < PAGE_N_STATES; to++)
                        assert_int_equal(model->n_changes[from][to] > 0,
                                         from == to || page_state_allowed(from, to));
        wind_down(model);
        region_free(model->region);
        free(model);
}

static void test_random(void **state)
{
        for (uint64_t seed = 1; seed <= 4; seed++)
                run(seed);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_random),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
