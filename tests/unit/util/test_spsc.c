/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The queue between two threads: its bounds, the wrap of its counters, and that nothing is lost, doubled, torn or reordered. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>

#include "tests/model/random.h"
#include "tests/unit/dedup/fail_alloc.h"
#include "util/bits.h"
#include "util/spsc.h"

#define N_ELEMENTS 200000

/* Odd in size, so that elements do not lie on cache lines or words. */
struct element {
        uint32_t words[5];
};

static struct element element_number(uint32_t i)
{
        return (struct element){{i, ~i, i * 3, i ^ 0x55555555, i + 7}};
}

static bool is_number(const struct element *element, uint32_t i)
{
        struct element wanted = element_number(i);

        return memcmp(element, &wanted, sizeof(wanted)) == 0;
}

/* As if so many elements had passed through. */
static void start_at(struct spsc *queue, uint32_t position)
{
        atomic_store(&queue->head, position);
        atomic_store(&queue->tail, position);
}

/* Every fill level of small queues, from every position of the counters around their wrap. */
static void test_bounds(void **state)
{
        static const uint32_t sizes[] = {1, 2, 8};

        for (size_t k = 0; k < ARRAY_SIZE(sizes); k++)
                for (uint32_t position = UINT32_MAX - 12; position != 12; position++) {
                        struct element element;
                        struct spsc queue;

                        assert_int_equal(spsc_init(&queue, sizes[k], sizeof(element)), 0);
                        start_at(&queue, position);
                        for (uint32_t i = 0; i < sizes[k]; i++) {
                                element = element_number(i);
                                assert_int_equal(spsc_room(&queue), sizes[k] - i);
                                assert_true(spsc_push(&queue, &element));
                        }
                        assert_int_equal(spsc_room(&queue), 0);
                        element = element_number(99);
                        assert_false(spsc_push(&queue, &element)); /* and overwrites nothing */
                        for (uint32_t i = 0; i < sizes[k]; i++) {
                                assert_true(spsc_pop(&queue, &element));
                                assert_true(is_number(&element, i));
                                assert_int_equal(spsc_room(&queue), i + 1);
                        }
                        element = element_number(99);
                        assert_false(spsc_pop(&queue, &element));
                        assert_true(is_number(&element, 99)); /* untouched when there is nothing */
                        spsc_deinit(&queue);
                        assert_null(queue.elements);
                }
}

static void test_single_bytes(void **state)
{
        struct spsc queue;
        char byte;

        assert_int_equal(spsc_init(&queue, 4, 1), 0);
        for (int i = 0; i < 100; i++) {
                byte = (char)i;
                assert_true(spsc_push(&queue, &byte));
                byte = -1;
                assert_true(spsc_pop(&queue, &byte));
                assert_int_equal(byte, i);
        }
        spsc_deinit(&queue);
}

/* Pushes and pops in random order; the naive queue is two counters. */
static void test_random(void **state)
{
        struct random random = RANDOM_INIT(1);
        uint32_t pushed = 0, popped = 0, n_full = 0, n_empty = 0;
        struct element element;
        struct spsc queue;

        assert_int_equal(spsc_init(&queue, 16, sizeof(element)), 0);
        start_at(&queue, UINT32_MAX - 5000);
        for (unsigned i = 0; i < 100000; i++) {
                /* For a while more of the one, then more of the other: both ends are met. */
                if (random_below(&random, 100) < (i / 500 % 2 ? 30 : 70)) {
                        element = element_number(pushed);
                        assert_int_equal(spsc_push(&queue, &element), pushed - popped < 16);
                        n_full += pushed - popped == 16;
                        pushed += pushed - popped < 16;
                } else {
                        assert_int_equal(spsc_pop(&queue, &element), pushed != popped);
                        n_empty += pushed == popped;
                        assert_true(pushed == popped || is_number(&element, popped));
                        popped += pushed != popped;
                }
                assert_int_equal(spsc_room(&queue), 16 - (pushed - popped));
        }
        assert_true(n_full > 0 && n_empty > 0 && pushed > 5000);
        spsc_deinit(&queue);
}

struct producer {
        struct spsc *queue;
        bool room_was_true; /* whoever sees room can push so many elements */
};

static void *produce(void *argument)
{
        struct producer *producer = argument;

        for (uint32_t i = 0; i < N_ELEMENTS;) {
                uint32_t room = spsc_room(producer->queue);

                if (!room)
                        sched_yield();
                for (; room && i < N_ELEMENTS; room--, i++) {
                        struct element element = element_number(i);

                        if (!spsc_push(producer->queue, &element)) {
                                producer->room_was_true = false;
                                i--; /* sent again, so that the consumer does not wait for ever */
                        }
                }
        }
        return NULL;
}

static void run_threads(uint32_t n_elements)
{
        struct spsc queue;
        struct producer producer = {.queue = &queue, .room_was_true = true};
        struct element element;
        uint32_t n_wrong = 0;
        pthread_t thread;

        assert_int_equal(spsc_init(&queue, n_elements, sizeof(element)), 0);
        start_at(&queue, UINT32_MAX - N_ELEMENTS / 2);
        assert_int_equal(pthread_create(&thread, NULL, produce, &producer), 0);
        for (uint32_t i = 0; i < N_ELEMENTS; i++) {
                while (!spsc_pop(&queue, &element))
                        sched_yield();
                n_wrong += !is_number(&element, i);
        }
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(n_wrong, 0);
        assert_true(producer.room_was_true);
        assert_false(spsc_pop(&queue, &element));
        assert_int_equal(spsc_room(&queue), n_elements);
        spsc_deinit(&queue);
}

static void test_threads(void **state)
{
        static const uint32_t sizes[] = {1, 2, 64, 4096};

        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
                run_threads(sizes[i]);
}

/* Called through a pointer: inlined, the allocation is one that a compiler may leave out, as nothing is done with it. */
static void test_no_memory(void **state)
{
        int (*volatile init)(struct spsc *, uint32_t, size_t) = spsc_init;
        struct spsc queue;

        fail_alloc = true;
        assert_int_equal(init(&queue, 4, 4), -ENOMEM);
        fail_alloc = false;
        spsc_deinit(&queue);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_bounds),    cmocka_unit_test(test_single_bytes),
                cmocka_unit_test(test_random),    cmocka_unit_test(test_threads),
                cmocka_unit_test(test_no_memory),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
