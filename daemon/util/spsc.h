#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A bounded queue between two threads, one producer and one consumer, of elements of any size; never blocks,
 * never allocates after spsc_init().
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "util/error.h"

struct spsc {
        char *elements;
        size_t element_size;
        uint32_t mask;
        _Alignas(64) _Atomic uint32_t head; /* written by the producer */
        _Alignas(64) _Atomic uint32_t tail; /* written by the consumer */
};

/* n_elements: a power of two. */
static inline int spsc_init(struct spsc *queue, uint32_t n_elements, size_t element_size)
{
        queue->elements = calloc(n_elements, element_size);
        queue->element_size = element_size;
        queue->mask = n_elements - 1;
        atomic_init(&queue->head, 0);
        atomic_init(&queue->tail, 0);
        return queue->elements ? 0 : -ENOMEM;
}

static inline void spsc_deinit(struct spsc *queue)
{
        free(queue->elements);
        queue->elements = NULL;
}

/* False when it is full. */
static inline bool spsc_push(struct spsc *queue, const void *element)
{
        uint32_t head = atomic_load_explicit(&queue->head, memory_order_relaxed);

        if (head - atomic_load_explicit(&queue->tail, memory_order_acquire) > queue->mask)
                return false;
        memcpy(queue->elements + (size_t)(head & queue->mask) * queue->element_size, element,
               queue->element_size);
        atomic_store_explicit(&queue->head, head + 1, memory_order_release);
        return true;
}

/* False when it is empty. */
static inline bool spsc_pop(struct spsc *queue, void *ret_element)
{
        uint32_t tail = atomic_load_explicit(&queue->tail, memory_order_relaxed);

        if (tail == atomic_load_explicit(&queue->head, memory_order_acquire))
                return false;
        memcpy(ret_element, queue->elements + (size_t)(tail & queue->mask) * queue->element_size,
               queue->element_size);
        atomic_store_explicit(&queue->tail, tail + 1, memory_order_release);
        return true;
}

/* How many more elements fit, as the producer sees it. */
static inline uint32_t spsc_room(const struct spsc *queue)
{
        return queue->mask + 1 -
               (atomic_load_explicit(&queue->head, memory_order_relaxed) -
                atomic_load_explicit(&queue->tail, memory_order_acquire));
}
