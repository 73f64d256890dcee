#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A gate: many may be inside, or one has closed it
 *
 * A lock of many readers or one writer that never makes a reader wait: who cannot enter does something else. Who closes
 * it waits for those inside, so nobody may do that from inside.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define GATE_CLOSED   (1 << 30)
#define GATE_PAUSE_NS 20000

struct gate {
        _Atomic int32_t inside; /* how many, and GATE_CLOSED */
};

static inline bool gate_enter(struct gate *gate)
{
        int32_t n = atomic_load(&gate->inside);

        while (!(n & GATE_CLOSED))
                if (atomic_compare_exchange_weak(&gate->inside, &n, n + 1))
                        return true;
        return false;
}

static inline void gate_leave(struct gate *gate)
{
        atomic_fetch_sub(&gate->inside, 1);
}

/* False when somebody else has closed it. */
static inline bool gate_close(struct gate *gate)
{
        if (atomic_fetch_or(&gate->inside, GATE_CLOSED) & GATE_CLOSED)
                return false;
        while (atomic_load(&gate->inside) != GATE_CLOSED)
                nanosleep(&(struct timespec){.tv_nsec = GATE_PAUSE_NS}, NULL);
        return true;
}

static inline void gate_open(struct gate *gate)
{
        atomic_fetch_and(&gate->inside, ~GATE_CLOSED);
}
