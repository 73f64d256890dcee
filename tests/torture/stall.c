/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Stalls; see the header. */

#include "torture/stall.h"

#include "torture/client.h"

/* Below this nothing is looked at closely: it is what the measurement itself costs. */
#define STALL_FLOOR_NS (20 * NSEC_PER_USEC)
#define AROUND_KILL_NS NSEC_PER_SEC
#define MERGE_HEAVY_NS (300 * NSEC_PER_MSEC)

static void add(enum stall which, uint64_t duration)
{
        struct stall_slot *slot = &shared->stalls[which];
        uint64_t longest = atomic_load(&slot->longest_ns);

        while (duration > longest && !atomic_compare_exchange_weak(&slot->longest_ns, &longest, duration))
                ;
        if (duration >= STALL_SLOW_NS)
                atomic_fetch_add(&slot->n_slow, 1);
}

void stall_note(const struct worker *worker, uint64_t start_ns, uint64_t end_ns)
{
        const struct daemon_news *news = &shared->daemon;
        uint64_t duration = end_ns - start_ns;
        uint64_t ended, ready;
        bool stopped;

        if (duration < STALL_FLOOR_NS)
                return;
        if (worker->depth && client_is_orphaned(worker->client)) {
                add(STALL_ORPHAN, duration);
                return;
        }
        ended = atomic_load(&news->ended_ns);
        ready = atomic_load(&news->ready_ns);
        stopped = atomic_load(&news->stopped_ns) || atomic_load(&news->resumed_ns) >= start_ns;
        add(STALL_EVER, duration);
        if (stopped)
                add(STALL_STOPPED, duration);
        else if (ended && start_ns < ended + AROUND_KILL_NS && end_ns >= ended)
                add(STALL_KILL, duration);
        else if (ready && ready < start_ns) {
                add(STALL_ALIVE, duration);
                if (atomic_load(&news->merged_ns) + MERGE_HEAVY_NS > end_ns)
                        add(STALL_MERGING, duration);
        }
}
