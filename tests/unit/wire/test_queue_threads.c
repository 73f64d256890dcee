/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The event queue between two threads: nothing is lost with an honest consumer, and a hostile one, which
 * writes what it likes wherever it likes, harms nobody but itself.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "libwp/queue.h"
#include "tests/model/random.h"
#include "wp.h"

#define N_EVENTS  200000
#define N_HOSTILE 300000

/* Event i is about page 2i, so that two events never make one range by themselves. */
#define ADDRESS_OF(_i) ((uint64_t)(_i) << (PAGE_SHIFT + 1))
#define EVENT_AT(_a)   ((_a) >> (PAGE_SHIFT + 1))

static struct queue_event event_number(uint64_t i)
{
        return (struct queue_event){.type = WP_EVENT_WRITE,
                                    .address = ADDRESS_OF(i),
                                    .length = PAGE_BYTES,
                                    .time_ns = ~i,
                                    .tid = (int32_t)i};
}

/* The ring between two pages that must not be touched. */
static struct queue_ring *map_ring(void)
{
        char *memory =
                mmap(NULL, QUEUE_BYTES + 2 * PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        assert_true(memory != MAP_FAILED);
        assert_int_equal(mprotect(memory + PAGE_BYTES, QUEUE_BYTES, PROT_READ | PROT_WRITE), 0);
        return (struct queue_ring *)(memory + PAGE_BYTES);
}

static void unmap_ring(struct queue_ring *ring)
{
        munmap((char *)ring - PAGE_BYTES, QUEUE_BYTES + 2 * PAGE_BYTES);
}

struct consumer {
        struct queue_ring *ring;
        _Atomic bool stop;
        _Atomic uint64_t head; /* the producer's true position: an attacker can count, too */
        const char *error;     /* what went wrong, if anything; asserted by the main thread */
        uint64_t n_exact;
        uint64_t n_overruns;
        bool after_overrun; /* only there may folded ranges be */
        uint64_t next;      /* no exact event below this one may come any more */
        uint8_t seen[N_EVENTS];
};

static const char *take(struct consumer *consumer, const struct queue_event *event)
{
        uint64_t i = EVENT_AT(event->address);
        struct queue_event wanted = event_number(i);

        if (event->type == WP_EVENT_OVERRUN) {
                consumer->n_overruns++;
                consumer->after_overrun = true;
                return NULL;
        }
        if (event->flags == WP_EVENT_F_FOLDED) {
                for (uint64_t a = event->address; a < event->address + event->length; a += PAGE_BYTES)
                        if (EVENT_AT(a) < N_EVENTS && a == ADDRESS_OF(EVENT_AT(a)))
                                consumer->seen[EVENT_AT(a)] |= 2;
                return consumer->after_overrun ? NULL : "a folded range without an overrun";
        }
        consumer->after_overrun = false;
        if (i >= N_EVENTS || memcmp(event, &wanted, sizeof(wanted)))
                return "an event that was never sent";
        if (i < consumer->next)
                return "an event out of order or twice";
        consumer->next = i + 1;
        consumer->seen[i] |= 1;
        consumer->n_exact++;
        return NULL;
}

static void *consume(void *argument)
{
        struct consumer *consumer = argument;
        struct random random = RANDOM_INIT(6);
        struct queue_event event;
        bool stop;

        do {
                stop = consumer->stop; /* read before the queue: what is in it then is all */
                while (!consumer->error && queue_pop(consumer->ring, &event)) {
                        consumer->error = take(consumer, &event);
                        for (uint64_t n = random_below(&random, 1000); n > 990; n--)
                                sched_yield();
                }
                sched_yield();
        } while (!stop && !consumer->error);
        return NULL;
}

static void test_nothing_is_lost(void **state)
{
        static struct consumer consumer;
        struct queue_producer producer = QUEUE_PRODUCER_INIT(map_ring());
        pthread_t thread;
        uint64_t i;

        consumer.ring = producer.ring;
        for (i = 0; i < 2 * QUEUE_ENTRIES; i++) { /* nobody takes any of them yet: an overrun is certain */
                struct queue_event event = event_number(i);

                assert_int_equal(queue_push(&producer, &event), i < QUEUE_ENTRIES);
        }
        assert_int_equal(pthread_create(&thread, NULL, consume, &consumer), 0);
        for (; i < N_EVENTS; i++) {
                struct queue_event event = event_number(i);

                if (!queue_push(&producer, &event) && i % 64 == 0)
                        sched_yield();
        }
        while (queue_folded(&producer) && !queue_flush(&producer, 0))
                sched_yield();
        consumer.stop = true;
        assert_int_equal(pthread_join(thread, NULL), 0);
        if (consumer.error)
                fail_msg("%s", consumer.error);
        assert_true(consumer.n_overruns > 0);
        assert_true(consumer.n_exact >= QUEUE_ENTRIES);
        for (i = 0; i < N_EVENTS; i++)
                assert_true(consumer.seen[i]);
        unmap_ring(producer.ring);
}

/* Positions that are random, right, nearly right, and a ring full of rubbish. */
static void *attack(void *argument)
{
        struct consumer *consumer = argument;
        struct random random = RANDOM_INIT(7);

        while (!consumer->stop) {
                uint64_t head = consumer->head;

                switch (random_below(&random, 6)) {
                case 0:
                        consumer->ring->tail = random_next(&random);
                        break;
                case 1:
                        consumer->ring->tail = head;
                        break;
                case 2:
                        consumer->ring->tail = head + random_below(&random, 9) - 4;
                        break;
                case 3:
                        consumer->ring->tail = head - QUEUE_ENTRIES + random_below(&random, 9) - 4;
                        break;
                case 4:
                        consumer->ring->head = random_next(&random);
                        break;
                default:
                        memset(consumer->ring->events + random_below(&random, QUEUE_ENTRIES), 0xff,
                               sizeof(struct queue_event));
                }
        }
        return NULL;
}

static void check_producer(const struct queue_producer *producer)
{
        assert_true(producer->n_folds <= QUEUE_FOLDS);
        for (unsigned i = 0; i < producer->n_folds; i++) {
                assert_true(producer->folds[i].start < producer->folds[i].end);
                assert_true(i == 0 || producer->folds[i - 1].end < producer->folds[i].start);
        }
}

static void test_hostile_consumer(void **state)
{
        static struct consumer consumer;
        struct queue_producer producer = QUEUE_PRODUCER_INIT(map_ring());
        struct random random = RANDOM_INIT(8);
        unsigned n_written = 0, n_folded = 0;
        pthread_t thread;

        consumer.ring = producer.ring;
        assert_int_equal(pthread_create(&thread, NULL, attack, &consumer), 0);
        /* Goes on until both outcomes have been met: how the threads run is not in our hands. */
        for (uint64_t i = 0; i < N_HOSTILE || !n_written || !n_folded; i++) {
                struct queue_event event = event_number(random_below(&random, 10000));
                uint64_t before = producer.head;
                unsigned folds = producer.n_folds;
                int r = queue_push(&producer, &event);

                assert_in_range(r, 0, 1);
                assert_in_range(producer.head - before, r, r ? folds + 2 : 0);
                check_producer(&producer);
                consumer.head = producer.head;
                n_written += r != 0;
                n_folded += queue_folded(&producer);
        }
        consumer.stop = true;
        assert_int_equal(pthread_join(thread, NULL), 0);
        unmap_ring(producer.ring);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_nothing_is_lost),
                cmocka_unit_test(test_hostile_consumer),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
