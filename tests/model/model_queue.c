/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The event queue against a bitmap of pages (folding) and a list of everything that was sent (the queue as a
 * whole)
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libwp/queue.h"
#include "tests/model/random.h"
#include "wp.h"

#define N_PAGES 3000

/* ------------------------------------------------------------------ folding */

struct folding {
        struct queue_range folds[QUEUE_FOLDS];
        unsigned n_folds;
        bool added[N_PAGES]; /* what was given */
        bool cover[N_PAGES]; /* what the naive rule makes of it */
};

static void cover_of(const struct queue_range *folds, unsigned n_folds, bool *cover)
{
        memset(cover, 0, N_PAGES * sizeof(*cover));
        for (unsigned i = 0; i < n_folds; i++)
                for (uint64_t page = folds[i].start; page < folds[i].end; page++)
                        cover[page] = true;
}

static unsigned count_runs(const bool *pages)
{
        unsigned n = 0;

        for (size_t i = 0; i < N_PAGES; i++)
                n += pages[i] && (i == 0 || !pages[i - 1]);
        return n;
}

/* The first of the shortest gaps between runs of pages is filled. */
static void fill_smallest_gap(bool *pages)
{
        size_t best_start = 0, best = N_PAGES, end = N_PAGES;

        for (size_t i = 0; i < N_PAGES; i++) {
                if (!pages[i])
                        continue;
                if (end < i && i - end < best) {
                        best = i - end;
                        best_start = end;
                }
                end = i + 1;
        }
        memset(pages + best_start, true, best * sizeof(*pages));
}

static void fold_and_check(struct folding *model, uint64_t start, uint64_t end)
{
        bool cover[N_PAGES];

        for (uint64_t page = start; page < end; page++)
                model->added[page] = model->cover[page] = true;
        if (count_runs(model->cover) > QUEUE_FOLDS)
                fill_smallest_gap(model->cover);
        queue_fold(model->folds, &model->n_folds, start, end);

        assert_true(model->n_folds <= QUEUE_FOLDS);
        for (unsigned i = 0; i < model->n_folds; i++) {
                assert_true(model->folds[i].start < model->folds[i].end);
                assert_true(model->folds[i].end <= N_PAGES);
                assert_true(i == 0 || model->folds[i - 1].end < model->folds[i].start);
        }
        cover_of(model->folds, model->n_folds, cover);
        for (size_t page = 0; page < N_PAGES; page++)
                assert_true(cover[page] || !model->added[page]);
        assert_memory_equal(cover, model->cover, sizeof(cover));
}

static void test_folding(void **state)
{
        struct random random = RANDOM_INIT(9);
        unsigned n_exact = 0, n_lossy = 0;

        for (unsigned round = 0; round < 60; round++) {
                uint64_t max_length = 1 + random_below(&random, round % 3 ? 4 : 60);
                struct folding model = {.n_folds = 0};

                for (unsigned i = 0; i < 250; i++) {
                        uint64_t start = random_below(&random, N_PAGES - max_length);

                        fold_and_check(&model, start, start + 1 + random_below(&random, max_length));
                        if (memcmp(model.added, model.cover, sizeof(model.added)))
                                n_lossy++;
                        else
                                n_exact++;
                }
        }
        assert_true(n_exact > 1000); /* both kinds were there */
        assert_true(n_lossy > 1000);
}

/* ------------------------------------------------------------------ the whole queue */

#define MAX_SENT 100000

struct model {
        struct queue_ring ring;
        struct queue_producer producer;
        struct queue_event expected[MAX_SENT]; /* what the consumer will see, in order */
        size_t n_expected;
        size_t n_taken;
        struct folding folding; /* what waits for room */
        unsigned n_folded;
        unsigned n_put_off;
};

static size_t room(const struct model *model)
{
        return QUEUE_ENTRIES - (model->n_expected - model->n_taken);
}

static void expect(struct model *model, struct queue_event event)
{
        assert_true(model->n_expected < MAX_SENT);
        model->expected[model->n_expected++] = event;
}

static int model_flush(struct model *model, uint64_t time_ns)
{
        unsigned n_runs = count_runs(model->folding.cover);
        struct queue_event event = {.type = WP_EVENT_OVERRUN, .time_ns = time_ns};

        if (!n_runs || room(model) < n_runs + 1)
                return 0;
        expect(model, event);
        event.type = WP_EVENT_WRITE;
        event.flags = WP_EVENT_F_FOLDED;
        for (size_t start = 0, end; start < N_PAGES; start = end) {
                for (end = start + 1;
                     end < N_PAGES && model->folding.cover[end] == model->folding.cover[start]; end++)
                        ;
                event.address = (uint64_t)start << PAGE_SHIFT;
                event.length = (uint64_t)(end - start) << PAGE_SHIFT;
                if (model->folding.cover[start])
                        expect(model, event);
        }
        model->folding = (struct folding){.n_folds = 0};
        return 1;
}

static void push(struct model *model, struct random *random)
{
        uint64_t page = random_below(random, N_PAGES);
        struct queue_event event = {.type = WP_EVENT_WRITE,
                                    .address = page << PAGE_SHIFT | random_below(random, PAGE_BYTES),
                                    .length = 1,
                                    .time_ns = random_next(random),
                                    .tid = (int32_t)random_below(random, 100)};
        int written = model_flush(model, event.time_ns);

        if (count_runs(model->folding.cover) || !room(model)) {
                model->folding.cover[page] = true;
                if (count_runs(model->folding.cover) > QUEUE_FOLDS)
                        fill_smallest_gap(model->folding.cover);
                model->n_folded++;
        } else {
                expect(model, event);
                written = 1;
        }
        assert_int_equal(queue_push(&model->producer, &event), written);
}

/* An event that is not to be folded: it comes whole, behind what was folded, or not at all. */
static void push_whole(struct model *model, struct random *random)
{
        struct queue_event event = {.type = WP_EVENT_DISCONNECTED, .time_ns = random_next(random)};
        bool fits;

        (void)model_flush(model, event.time_ns);
        fits = !count_runs(model->folding.cover) && room(model);
        if (fits)
                expect(model, event);
        else
                model->n_put_off++;
        assert_int_equal(queue_push_whole(&model->producer, &event), fits);
}

static void pop(struct model *model)
{
        struct queue_event event;
        int r = queue_pop(&model->ring, &event);

        assert_int_equal(r, model->n_taken < model->n_expected);
        if (r)
                assert_memory_equal(&event, &model->expected[model->n_taken++], sizeof(event));
}

static void check(struct model *model)
{
        assert_int_equal(queue_empty(&model->ring), model->n_taken == model->n_expected);
        assert_int_equal(queue_folded(&model->producer), count_runs(model->folding.cover) > 0);
}

static void test_queue(void **state)
{
        struct model *model = aligned_alloc(64, sizeof(*model));
        struct random random = RANDOM_INIT(11);

        assert_non_null(model);
        memset(model, 0, sizeof(*model));
        model->producer.ring = &model->ring;
        for (unsigned round = 0; round < 300; round++) {
                uint64_t pushes = random_below(&random, 100);

                for (unsigned i = 0; i < 200; i++) {
                        if (random_below(&random, 100) >= pushes)
                                pop(model);
                        else if (random_below(&random, 10))
                                push(model, &random);
                        else
                                push_whole(model, &random);
                }
                if (round % 5 == 0) {
                        uint64_t now = random_next(&random);

                        assert_int_equal(queue_flush(&model->producer, now), model_flush(model, now));
                }
                check(model);
        }
        while (model->n_taken < model->n_expected)
                pop(model);
        assert_true(model->n_folded > 500);
        assert_true(model->n_put_off > 50);
        assert_int_equal(queue_flush(&model->producer, 1), model_flush(model, 1));
        while (model->n_taken < model->n_expected)
                pop(model);
        check(model);
        assert_false(queue_folded(&model->producer));
        free(model);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_folding),
                cmocka_unit_test(test_queue),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
