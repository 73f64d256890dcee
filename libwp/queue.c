/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The event queue: a ring between the watcher and the program. */

#include "libwp/queue.h"

#include <stdatomic.h>
#include <string.h>

#include "wp.h"

_Static_assert(!(QUEUE_ENTRIES & (QUEUE_ENTRIES - 1)), "positions are masked");
_Static_assert(QUEUE_ENTRIES > QUEUE_FOLDS + 1, "an empty ring takes all that can be folded");

/* Entries that may be written. */
static uint64_t room(const struct queue_producer *producer)
{
        uint64_t used = producer->head - atomic_load_explicit(&producer->ring->tail, memory_order_acquire);

        return used > QUEUE_ENTRIES ? 0 : QUEUE_ENTRIES - used;
}

/* Writes one event; the consumer sees it after publish(). */
static void put(struct queue_producer *producer, const struct queue_event *event)
{
        producer->ring->events[producer->head++ % QUEUE_ENTRIES] = *event;
}

static void publish(struct queue_producer *producer)
{
        atomic_store_explicit(&producer->ring->head, producer->head, memory_order_release);
}

bool queue_folded(const struct queue_producer *producer)
{
        return producer->n_folds > 0;
}

/* All or nothing: the ranges between an OVERRUN and the next event are then the whole of what was folded. */
int queue_flush(struct queue_producer *producer, uint64_t time_ns)
{
        struct queue_event event = {.type = WP_EVENT_OVERRUN, .time_ns = time_ns};

        if (!queue_folded(producer) || room(producer) < producer->n_folds + 1)
                return 0;
        put(producer, &event);
        event.type = WP_EVENT_WRITE;
        event.flags = WP_EVENT_F_FOLDED;
        for (unsigned i = 0; i < producer->n_folds; i++) {
                event.address = producer->folds[i].start;
                event.length = producer->folds[i].end - producer->folds[i].start;
                put(producer, &event);
        }
        producer->n_folds = 0;
        publish(producer);
        return 1;
}

/* The whole pages that the event is about; user addresses are far below the end of 64 bits. */
static void fold_event(struct queue_producer *producer, const struct queue_event *event)
{
        uint64_t last = event->address + MAX(event->length, UINT64_C(1)) - 1;

        queue_fold(producer->folds, &producer->n_folds, page_down(event->address),
                   page_down(last) + PAGE_BYTES);
}

int queue_push(struct queue_producer *producer, const struct queue_event *event)
{
        int written = queue_flush(producer, event->time_ns);

        if (queue_folded(producer) || !room(producer)) {
                fold_event(producer, event);
                return written;
        }
        put(producer, event);
        publish(producer);
        return 1;
}

int queue_push_whole(struct queue_producer *producer, const struct queue_event *event)
{
        (void)queue_flush(producer, event->time_ns);
        if (queue_folded(producer) || !room(producer))
                return 0;
        put(producer, event);
        publish(producer);
        return 1;
}

int queue_pop(struct queue_ring *ring, struct queue_event *ret_event)
{
        uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);

        if (atomic_load_explicit(&ring->head, memory_order_acquire) == tail)
                return 0;
        *ret_event = ring->events[tail % QUEUE_ENTRIES];
        atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);
        return 1;
}

bool queue_empty(struct queue_ring *ring)
{
        return atomic_load_explicit(&ring->head, memory_order_acquire) ==
               atomic_load_explicit(&ring->tail, memory_order_relaxed);
}

static void remove_folds(struct queue_range *folds, unsigned *n_folds, unsigned at, unsigned n)
{
        memmove(folds + at, folds + at + n, (*n_folds - at - n) * sizeof(*folds));
        *n_folds -= n;
}

/* Makes one range of two neighbours: `i` and `i` + 1. */
static void join_folds(struct queue_range *folds, unsigned *n_folds, unsigned i)
{
        folds[i].end = folds[i + 1].end;
        remove_folds(folds, n_folds, i + 1, 1);
}

static unsigned smallest_gap(const struct queue_range *folds, unsigned n_folds)
{
        unsigned best = 0;

        for (unsigned i = 1; i + 1 < n_folds; i++)
                if (folds[i + 1].start - folds[i].end < folds[best + 1].start - folds[best].end)
                        best = i;
        return best;
}

static void insert_fold(struct queue_range *folds, unsigned *n_folds, unsigned at, struct queue_range range)
{
        struct queue_range all[QUEUE_FOLDS + 1];
        unsigned n_all = *n_folds + 1;

        memcpy(all, folds, at * sizeof(*folds));
        all[at] = range;
        memcpy(all + at + 1, folds + at, (*n_folds - at) * sizeof(*folds));
        if (n_all > QUEUE_FOLDS)
                join_folds(all, &n_all, smallest_gap(all, n_all));
        memcpy(folds, all, n_all * sizeof(*folds));
        *n_folds = n_all;
}

void queue_fold(struct queue_range *folds, unsigned *n_folds, uint64_t start, uint64_t end)
{
        struct queue_range range = {start, end};
        unsigned first = 0, after;

        if (start >= end)
                return;
        while (first < *n_folds && folds[first].end < start)
                first++;
        for (after = first; after < *n_folds && folds[after].start <= end; after++)
                ;
        if (first == after) {
                insert_fold(folds, n_folds, first, range);
                return;
        }
        /* It touches the ranges from `first` to before `after`: they become one. */
        folds[first].start = MIN(folds[first].start, start);
        folds[first].end = MAX(folds[after - 1].end, end);
        remove_folds(folds, n_folds, first + 1, after - first - 1);
}
