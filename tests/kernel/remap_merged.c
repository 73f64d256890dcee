/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A prepared mapping is put in the place of the program's memory in one step that has no gap
 *
 * Fact: mremap(MREMAP_MAYMOVE|MREMAP_FIXED) of a registered, protected and populated private mapping of the
 * pool onto other memory carries page tables, registration and protection along: from the first moment every
 * write to the new place faults. The call sends EVENT_REMAP and does not return before that has been read,
 * and until then a fault cannot be answered (EAGAIN).
 *
 * Source: Documentation/admin-guide/mm/userfaultfd.rst "Non-cooperative userfaultfd"; mm/mremap.c; trap T7.
 *
 * Relied on by: libwp/run.c (step 7), which therefore must not be the one who reads hold; libwp/watcher.c.
 *
 * Without it: writes in a window between mapping and protecting go unnoticed.
 */

#include "fact.h"

#include <sched.h>
#include <sys/mman.h>

#define N_PAGES  4
#define N_ROUNDS 300

static struct fact_pool pool;
static int hold;
static char *place;
static atomic_uint round_started, round_done, round_remapped;
static atomic_ulong n_written;
static atomic_bool writer_stop;

static void *swap_run(void *unused)
{
        (void)unused;
        for (unsigned i = 1; i <= N_ROUNDS; i++) {
                char *prepared = fact_map_merged(hold, &pool, 0, N_PAGES);

                atomic_store(&round_started, i);
                FACT_CHECK(mremap(prepared, N_PAGES * PAGE_BYTES, N_PAGES * PAGE_BYTES,
                                  MREMAP_MAYMOVE | MREMAP_FIXED, place) == place,
                           "%m");
                atomic_store(&round_remapped, i);
                while (atomic_load(&round_done) < i)
                        sched_yield();
        }
        return NULL;
}

/* Writes to page 1 as fast as it can, a byte that the pool does not have there. */
static void *writer_run(void *value)
{
        volatile char *byte = place + PAGE_BYTES + 8;

        while (!atomic_load(&writer_stop)) {
                *byte = *(char *)value;
                atomic_fetch_add(&n_written, 1);
        }
        return NULL;
}

/* Sees one swap through: its event and the writer's fault come in any order, the first write after it is
 * held. */
static void check_round(unsigned number, const char *original)
{
        bool remapped = false, faulted = false;
        unsigned long n;

        while (!remapped || !faulted) {
                struct uffd_msg message;

                fact_wait_message(hold);
                if (!remapped)
                        FACT_CHECK(atomic_load(&round_remapped) < number,
                                   "mremap returned before its event was read");
                if (!FACT_OK(uffd_read(hold, &message, 1)))
                        continue;
                if (message.event == UFFD_EVENT_REMAP) {
                        FACT_CHECK(message.arg.remap.to == (uintptr_t)place, "another place");
                        FACT_CHECK(message.arg.remap.len == N_PAGES * PAGE_BYTES, "another length");
                        remapped = true;
                        continue;
                }
                FACT_CHECK(message.event == UFFD_EVENT_PAGEFAULT, "event %#x", message.event);
                FACT_CHECK(message.arg.pagefault.flags ==
                                   (UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE),
                           "fault flags %#llx", (unsigned long long)message.arg.pagefault.flags);
                FACT_CHECK(message.arg.pagefault.address == (uintptr_t)place + PAGE_BYTES + 8,
                           "another address");
                if (!remapped) {
                        FACT_ERROR(hold_answer_write(hold, message.arg.pagefault.address), EAGAIN);
                        FACT_CHECK(uffd_events_pending(hold) == 1, "no event is pending");
                }
                faulted = true;
        }
        /* The only writer waits: what is there now is what the swap brought. */
        FACT_CHECK(place[PAGE_BYTES + 8] == *original, "a write got through before the protection");
        FACT_CHECK(fact_filled(place, N_PAGES, 1), "other content than the pool's");
        while (atomic_load(&round_remapped) < number)
                sched_yield();
        n = atomic_load(&n_written);
        FACT_OK(hold_answer_write(hold, (uintptr_t)place + PAGE_BYTES));
        /* Not by reading the page: that can fault while it is copied (minor_spurious.c), and nobody serves
         * here. */
        while (atomic_load(&n_written) == n)
                sched_yield();
        FACT_CHECK(place[PAGE_BYTES + 8] != *original, "the write was lost");
}

int main(void)
{
        int device;
        pthread_t swapper, writer;
        char original, other;

        fact_begin();
        device = fact_device();
        hold = fact_context(device, HOLD_FEATURES);
        fact_pool(&pool, N_PAGES, 1);
        place = fact_map(N_PAGES);
        fact_fill(place, N_PAGES, 2);
        original = fact_map_pool(&pool, 1, 1)[8];
        other = (char)~original;

        FACT_OK(-pthread_create(&writer, NULL, writer_run, &other));
        FACT_OK(-pthread_create(&swapper, NULL, swap_run, NULL));
        fact_step("swapping under a writer");
        for (unsigned i = 1; i <= N_ROUNDS; i++) {
                while (atomic_load(&round_started) < i)
                        sched_yield();
                check_round(i, &original);
                /* The next round starts from anonymous memory again. */
                FACT_CHECK(mmap(place, N_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == place,
                           "%m");
                atomic_store(&round_done, i);
        }
        atomic_store(&writer_stop, true);
        FACT_OK(-pthread_join(swapper, NULL));
        FACT_OK(-pthread_join(writer, NULL));
        FACT_CHECK(fact_pool_intact(&pool, 1), "the pool changed");
        return 0;
}
