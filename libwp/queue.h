#pragma once
/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The event queue: a ring between the watcher (producer) and the threads of the program (consumer, one at a time)
 *
 * Nothing blocks and nothing allocates on either side. The producer reads nothing back but the consumer's position,
 * to learn how much room there is.
 *
 * When the ring is full, events are folded into page ranges in the producer's private memory; they follow,
 * after an OVERRUN, as soon as there is room for all of them, as WRITE events with WP_EVENT_F_FOLDED whatever
 * they were. Nothing is lost but order and count.
 */

#include <stdbool.h>
#include <stdint.h>

#include "util/bits.h"
#include "util/error.h"

#define QUEUE_ENTRIES 1024 /* a power of two */
#define QUEUE_FOLDS   64

/* What travels; struct wp_event without the pointer. */
struct queue_event {
        uint32_t type;
        uint32_t flags;
        uint64_t address;
        uint64_t length;
        uint64_t time_ns;
        int32_t tid;
        uint32_t reserved;
};

struct queue_ring {
        _Alignas(64) _Atomic uint64_t head; /* events ever written; the producer's */
        _Alignas(64) _Atomic uint64_t tail; /* events ever taken; the consumer's */
        _Alignas(64) struct queue_event events[QUEUE_ENTRIES];
};

#define QUEUE_BYTES ((sizeof(struct queue_ring) + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1))

struct queue_range {
        uint64_t start; /* bytes */
        uint64_t end;
};

/* The producer's private half. */
struct queue_producer {
        struct queue_ring *ring;
        uint64_t head;
        unsigned n_folds;
        struct queue_range folds[QUEUE_FOLDS]; /* sorted, disjoint */
};

#define QUEUE_PRODUCER_INIT(_ring)                                                                           \
        {                                                                                                    \
                .ring = (_ring)                                                                              \
        }

/*
 * Queues one event, or folds it if there is no room. Events folded before are written first when there is
 * room now. Returns 1 when the ring was written (the consumer wants a wake-up), 0 when the event was folded.
 */
int queue_push(struct queue_producer *producer, const struct queue_event *event);

/* Queues an event that must not be folded: 1, or 0 when there is no room for it now. */
int queue_push_whole(struct queue_producer *producer, const struct queue_event *event);

/* Writes out what was folded, if there is room: 1 when it was, 0 when there was nothing or no room. */
int queue_flush(struct queue_producer *producer, uint64_t time_ns);

/* Whether anything waits folded for room. */
bool queue_folded(const struct queue_producer *producer);

/* Consumer: takes one event. 1 an event, 0 none. */
int queue_pop(struct queue_ring *ring, struct queue_event *ret_event);
bool queue_empty(struct queue_ring *ring);

/*
 * Adds [start, end) to a sorted array of disjoint ranges of capacity QUEUE_FOLDS; when it is full, the two
 * ranges with the smallest gap between them become one, so that the array covers more than was added but
 * never less.
 */
void queue_fold(struct queue_range *folds, unsigned *n_folds, uint64_t start, uint64_t end);
