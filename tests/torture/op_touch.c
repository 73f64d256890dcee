/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Operations: loads, stores and atomic operations. */

#include <string.h>

#include "torture/op.h"
#include "torture/stall.h"

#define MAX_STORES 64

void op_load(struct worker *worker, struct area *area)
{
        struct range range;

        if (!range_take(worker, area, SIZE_MAX, false, &range))
                return;
        range_verify(worker, &range, "by reading");
        range_give(worker, &range);
}

/* One store of 1, 2, 4 or 8 bytes; the address is a multiple of that. */
static void store(struct worker *worker, const struct range *range)
{
        size_t size = (size_t)1 << draw(worker, 4);
        size_t offset = draw(worker, range_bytes(range) / size) * size;
        uint64_t value = random_next(&worker->random), start = clock_now();
        char *memory = range_memory(range) + offset;

        if (size == 1)
                *(volatile uint8_t *)memory = (uint8_t)value;
        else if (size == 2)
                *(volatile uint16_t *)memory = (uint16_t)value;
        else if (size == 4)
                *(volatile uint32_t *)memory = (uint32_t)value;
        else
                *(volatile uint64_t *)memory = value;
        stall_note(worker, start, clock_now());
        memcpy(range_shadow(range) + offset, &value, size);
        page_verify(worker, range, offset / PAGE_BYTES, "after a store");
}

void op_store(struct worker *worker, struct area *area)
{
        struct range range;
        unsigned n;

        if (!range_take(worker, area, SIZE_MAX, true, &range))
                return;
        n = 1 + (unsigned)draw(worker, MIN(range.n, MAX_STORES));
        for (unsigned i = 0; i < n; i++)
                store(worker, &range);
        count(COUNT_STORES, n);
        range_give(worker, &range);
}

/* The result of each says what the memory held, so that nothing need be read before. */
void op_atomic(struct worker *worker, struct area *area)
{
        struct range range;
        size_t offset;
        uint64_t *memory, *shadow, value = random_next(&worker->random), found, start;

        if (!range_take(worker, area, SIZE_MAX, true, &range))
                return;
        offset = draw(worker, range_bytes(&range) / sizeof(*memory)) * sizeof(*memory);
        memory = (uint64_t *)(range_memory(&range) + offset);
        shadow = (uint64_t *)(range_shadow(&range) + offset);
        start = clock_now();
        switch (draw(worker, 3)) {
        case 0:
                found = __atomic_fetch_add(memory, value, __ATOMIC_SEQ_CST);
                value += *shadow;
                break;
        case 1:
                found = __atomic_exchange_n(memory, value, __ATOMIC_SEQ_CST);
                break;
        default:
                found = *shadow;
                __atomic_compare_exchange_n(memory, &found, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        }
        stall_note(worker, start, clock_now());
        if (found != *shadow)
                page_verify(worker, &range, offset / PAGE_BYTES,
                            "by an atomic operation, before what it wrote");
        *shadow = value;
        page_verify(worker, &range, offset / PAGE_BYTES, "after an atomic operation");
        count(COUNT_STORES, 1);
        range_give(worker, &range);
}

/* From one part of the memory to another. */
void op_copy(struct worker *worker, struct area *area)
{
        struct range from, to;

        if (!range_take(worker, area, SIZE_MAX, false, &from))
                return;
        if (range_take(worker, area, from.n, true, &to)) {
                memcpy(range_memory(&to), range_memory(&from), range_bytes(&to));
                memcpy(range_shadow(&to), range_shadow(&from), range_bytes(&to));
                range_verify(worker, &to, "after a copy");
                count(COUNT_STORES, to.n);
                range_give(worker, &to);
        }
        range_give(worker, &from);
}

/* Pages become contents of the set again, so that they can be merged. */
void op_fill(struct worker *worker, struct area *area)
{
        struct range range;

        if (!range_take(worker, area, SIZE_MAX, true, &range))
                return;
        if (coin(worker))
                range_verify(worker, &range, "before it is filled");
        range_fill(worker, &range);
        count(COUNT_STORES, range.n);
        if (coin(worker))
                range_verify(worker, &range, "after it was filled");
        range_give(worker, &range);
}
