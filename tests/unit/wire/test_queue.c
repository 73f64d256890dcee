/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The event queue by hand: order, fullness, folding, flushing, and positions that make no sense. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libwp/queue.h"
#include "wp.h"

#define PAGE(_n) ((uint64_t)(_n) << PAGE_SHIFT)

struct fixture {
        struct queue_ring ring;
        struct queue_producer producer;
};

static int setup(void **state)
{
        struct fixture *fixture = aligned_alloc(64, sizeof(*fixture));

        if (!fixture)
                return -1;
        memset(fixture, 0, sizeof(*fixture));
        fixture->producer.ring = &fixture->ring;
        *state = fixture;
        return 0;
}

static int teardown(void **state)
{
        free(*state);
        return 0;
}

static struct queue_event write_event(uint64_t page)
{
        return (struct queue_event){.type = WP_EVENT_WRITE,
                                    .address = PAGE(page),
                                    .length = PAGE_BYTES,
                                    .time_ns = page + 1000,
                                    .tid = (int32_t)page};
}

static int push(struct fixture *fixture, uint64_t page)
{
        struct queue_event event = write_event(page);

        return queue_push(&fixture->producer, &event);
}

static void expect(struct fixture *fixture, const struct queue_event *wanted)
{
        struct queue_event event;

        assert_false(queue_empty(&fixture->ring));
        assert_int_equal(queue_pop(&fixture->ring, &event), 1);
        assert_memory_equal(&event, wanted, sizeof(event));
}

static void expect_write(struct fixture *fixture, uint64_t page)
{
        struct queue_event wanted = write_event(page);

        expect(fixture, &wanted);
}

static void expect_nothing(struct fixture *fixture)
{
        struct queue_event event = {.type = 77};

        assert_true(queue_empty(&fixture->ring));
        assert_int_equal(queue_pop(&fixture->ring, &event), 0);
        assert_int_equal(event.type, 77);
}

static void fill(struct fixture *fixture)
{
        for (uint64_t i = 0; i < QUEUE_ENTRIES; i++)
                assert_int_equal(push(fixture, i), 1);
}

static void test_order(void **state)
{
        struct fixture *fixture = *state;

        expect_nothing(fixture);
        for (uint64_t i = 0; i < 5 * QUEUE_ENTRIES; i += 3) {
                for (uint64_t k = 0; k < 3; k++)
                        assert_int_equal(push(fixture, i + k), 1);
                for (uint64_t k = 0; k < 3; k++)
                        expect_write(fixture, i + k);
                expect_nothing(fixture);
        }
}

static void test_exactly_full(void **state)
{
        struct fixture *fixture = *state;

        fill(fixture);
        assert_false(queue_folded(&fixture->producer));
        for (uint64_t i = 0; i < QUEUE_ENTRIES; i++)
                expect_write(fixture, i);
        expect_nothing(fixture);
}

static void test_overrun(void **state)
{
        struct fixture *fixture = *state;
        struct queue_event overrun = {.type = WP_EVENT_OVERRUN, .time_ns = 9};
        struct queue_event folded = {
                .type = WP_EVENT_WRITE, .flags = WP_EVENT_F_FOLDED, .time_ns = 9, .length = 2 * PAGE_BYTES};

        fill(fixture);
        assert_int_equal(push(fixture, 5000), 0);
        assert_int_equal(push(fixture, 5001), 0);
        assert_int_equal(push(fixture, 7000), 0);
        assert_int_equal(push(fixture, 5000), 0);
        assert_true(queue_folded(&fixture->producer));
        assert_int_equal(queue_flush(&fixture->producer, 9), 0);

        /* Two ranges and the notice need three places. */
        expect_write(fixture, 0);
        expect_write(fixture, 1);
        assert_int_equal(queue_flush(&fixture->producer, 9), 0);
        expect_write(fixture, 2);
        assert_int_equal(queue_flush(&fixture->producer, 9), 1);
        assert_false(queue_folded(&fixture->producer));
        assert_int_equal(queue_flush(&fixture->producer, 9), 0);
        for (uint64_t i = 3; i < QUEUE_ENTRIES; i++)
                expect_write(fixture, i);
        expect(fixture, &overrun);
        folded.address = PAGE(5000);
        expect(fixture, &folded);
        folded.address = PAGE(7000);
        folded.length = PAGE_BYTES;
        expect(fixture, &folded);
        expect_nothing(fixture);
}

/* What was folded goes before what comes later, and later events are folded, too, until it could go. */
static void test_push_after_overrun(void **state)
{
        struct fixture *fixture = *state;
        struct queue_event event;

        fill(fixture);
        assert_int_equal(push(fixture, 5000), 0);
        expect_write(fixture, 0);
        assert_int_equal(push(fixture, 6000), 0); /* one place, two wanted */
        expect_write(fixture, 1);
        expect_write(fixture, 2);
        assert_int_equal(push(fixture, 8000), 1); /* the folded ones were written; no place for this one */
        assert_true(queue_folded(&fixture->producer));
        for (uint64_t i = 3; i < QUEUE_ENTRIES; i++)
                expect_write(fixture, i);
        assert_int_equal(queue_pop(&fixture->ring, &event), 1);
        assert_int_equal(event.type, WP_EVENT_OVERRUN);
        assert_int_equal(queue_pop(&fixture->ring, &event), 1);
        assert_int_equal(event.address, PAGE(5000));
        assert_int_equal(queue_pop(&fixture->ring, &event), 1);
        assert_int_equal(event.address, PAGE(6000));
        expect_nothing(fixture);
        assert_int_equal(push(fixture, 9000), 1);
        assert_int_equal(queue_pop(&fixture->ring, &event), 1);
        assert_int_equal(event.type, WP_EVENT_OVERRUN);
        assert_int_equal(queue_pop(&fixture->ring, &event), 1);
        assert_int_equal(event.address, PAGE(8000));
        expect_write(fixture, 9000);
        expect_nothing(fixture);
}

static int push_whole(struct fixture *fixture, uint64_t page)
{
        struct queue_event event = write_event(page);

        return queue_push_whole(&fixture->producer, &event);
}

/* What must not be folded is put off instead, behind what was folded before it: nothing of it is left behind. */
static void test_push_whole(void **state)
{
        struct fixture *fixture = *state;
        struct queue_event overrun = {.type = WP_EVENT_OVERRUN, .time_ns = 9000 + 1000};
        struct queue_event folded = {.type = WP_EVENT_WRITE,
                                     .flags = WP_EVENT_F_FOLDED,
                                     .time_ns = 9000 + 1000,
                                     .address = PAGE(5000),
                                     .length = PAGE_BYTES};

        assert_int_equal(push_whole(fixture, 3), 1);
        expect_write(fixture, 3);
        expect_nothing(fixture);
        for (uint64_t i = 0; i < QUEUE_ENTRIES; i++)
                assert_int_equal(push_whole(fixture, i), 1);
        assert_int_equal(push_whole(fixture, 9000), 0);
        assert_false(queue_folded(&fixture->producer));
        expect_write(fixture, 0);
        assert_int_equal(push_whole(fixture, 7000), 1);
        assert_int_equal(push_whole(fixture, 9000), 0);

        /* One that was folded and its notice go first, and leave no place for it. */
        assert_int_equal(push(fixture, 5000), 0);
        expect_write(fixture, 1);
        assert_int_equal(push_whole(fixture, 9000), 0);
        assert_true(queue_folded(&fixture->producer));
        expect_write(fixture, 2);
        assert_int_equal(push_whole(fixture, 9000), 0);
        assert_false(queue_folded(&fixture->producer));
        expect_write(fixture, 3);
        assert_int_equal(push_whole(fixture, 9001), 1);
        for (uint64_t i = 4; i < QUEUE_ENTRIES; i++)
                expect_write(fixture, i);
        expect_write(fixture, 7000);
        expect(fixture, &overrun);
        expect(fixture, &folded);
        expect_write(fixture, 9001);
        expect_nothing(fixture);
}

static void test_whole_pages_are_folded(void **state)
{
        static const struct {
                uint64_t address, length, start, end;
        } rows[] = {
                {0x5000, 0x1000, 0x5000, 0x6000}, {0x5123, 1, 0x5000, 0x6000},
                {0x5fff, 2, 0x5000, 0x7000},      {0x5123, 0, 0x5000, 0x6000},
                {0x5fff, 1, 0x5000, 0x6000},      {0x5001, 0x2000, 0x5000, 0x8000},
        };
        struct fixture *fixture = *state;

        fill(fixture);
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct queue_event event = {.type = WP_EVENT_WRITE};

                event.address = rows[i].address;
                event.length = rows[i].length;
                fixture->producer.n_folds = 0;
                assert_int_equal(queue_push(&fixture->producer, &event), 0);
                assert_int_equal(fixture->producer.n_folds, 1);
                assert_int_equal(fixture->producer.folds[0].start, rows[i].start);
                assert_int_equal(fixture->producer.folds[0].end, rows[i].end);
        }
}

/* A position that cannot be means "full", for as long as it is there. */
static void test_nonsensical_tail(void **state)
{
        struct fixture *fixture = *state;
        const uint64_t bad[] = {5, 4, UINT64_MAX - QUEUE_ENTRIES, UINT64_MAX / 2,
                                UINT64_C(2) - QUEUE_ENTRIES};

        assert_int_equal(push(fixture, 0), 1);
        assert_int_equal(push(fixture, 1), 1);
        assert_int_equal(push(fixture, 2), 1);
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                fixture->ring.tail = bad[i];
                fixture->ring.head = bad[i]; /* nobody reads it back */
                assert_int_equal(push(fixture, 10 + i), 0);
                assert_int_equal(fixture->ring.head, bad[i]);
        }
        fixture->ring.tail = 3;
        assert_int_equal(push(fixture, 20), 1);
        assert_int_equal(fixture->ring.head, 3 + 2 + 1);
}

static void fold(struct queue_producer *producer, uint64_t start, uint64_t end)
{
        queue_fold(producer->folds, &producer->n_folds, start, end);
}

static void test_fold_joins(void **state)
{
        struct queue_producer *producer = &((struct fixture *)*state)->producer;

        fold(producer, 10, 20);
        fold(producer, 40, 50);
        fold(producer, 30, 30); /* empty */
        assert_int_equal(producer->n_folds, 2);
        fold(producer, 20, 25); /* touches */
        assert_int_equal(producer->n_folds, 2);
        assert_int_equal(producer->folds[0].end, 25);
        fold(producer, 35, 40);
        assert_int_equal(producer->folds[1].start, 35);
        fold(producer, 26, 34);
        assert_int_equal(producer->n_folds, 3);
        fold(producer, 12, 45);
        assert_int_equal(producer->n_folds, 1);
        assert_int_equal(producer->folds[0].start, 10);
        assert_int_equal(producer->folds[0].end, 50);
        fold(producer, 11, 12); /* inside */
        assert_int_equal(producer->n_folds, 1);
        fold(producer, 0, UINT64_MAX);
        assert_int_equal(producer->n_folds, 1);
        assert_int_equal(producer->folds[0].end, UINT64_MAX);
}

/* At capacity the cheapest gap is given up, wherever it is: before, at or behind the new range. */
static void test_fold_at_capacity(void **state)
{
        struct queue_producer *producer = &((struct fixture *)*state)->producer;

        for (uint64_t i = 1; i <= QUEUE_FOLDS; i++)
                fold(producer, i * 1000, i * 1000 + (i == 7 ? 600 : 10));
        assert_int_equal(producer->n_folds, QUEUE_FOLDS);
        fold(producer, 30500, 30510); /* the gap behind range 7 is the smallest */
        assert_int_equal(producer->n_folds, QUEUE_FOLDS);
        assert_int_equal(producer->folds[6].start, 7000);
        assert_int_equal(producer->folds[6].end, 8010);
        assert_int_equal(producer->folds[29].start, 30500);
        fold(producer, 50011, 50012); /* the gap before the new one is */
        assert_int_equal(producer->n_folds, QUEUE_FOLDS);
        assert_int_equal(producer->folds[49].start, 50000);
        assert_int_equal(producer->folds[49].end, 50012);
        fold(producer, 990, 999); /* the gap behind the new one is, at the front */
        assert_int_equal(producer->folds[0].start, 990);
        assert_int_equal(producer->folds[0].end, 1010);
        fold(producer, 1000000, 1000001); /* at the end */
        assert_int_equal(producer->n_folds, QUEUE_FOLDS);
        assert_int_equal(producer->folds[QUEUE_FOLDS - 1].start, 1000000);
}

#define TEST(_name) cmocka_unit_test_setup_teardown(_name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(test_order),
                TEST(test_exactly_full),
                TEST(test_overrun),
                TEST(test_push_after_overrun),
                TEST(test_push_whole),
                TEST(test_whole_pages_are_folded),
                TEST(test_nonsensical_tail),
                TEST(test_fold_joins),
                TEST(test_fold_at_capacity),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
