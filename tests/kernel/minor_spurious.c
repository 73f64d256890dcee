/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A MINOR fault can also come from a page that is being copied at this moment; answering it with zeros does
 * no harm
 *
 * Fact: while the kernel copies a page for a writer it clears the page-table entry for a moment. Another
 * thread that touches the page just then takes a MINOR fault although nobody discarded anything. UFFDIO_COPY
 * looks at the entry again under the page-table lock, which the copying thread holds until the new entry is
 * there: it says EEXIST, and after UFFDIO_WAKE the thread reads what it should. The same holds while
 * UFFDIO_WRITEPROTECT changes the entry.
 *
 * Source: mm/memory.c, wp_page_copy() (ptep_clear_flush() ... set_pte_at()); mm/userfaultfd.c,
 * mfill_atomic_install_pte().
 *
 * Relied on by: daemon/kernel/hold.h; and by everybody who serves hold, who for this reason must never touch
 * merged memory, not even to read it.
 *
 * Without it: zeros in the place of data, in pages that are read while they are written for the first time.
 */

#include "fact.h"

#include <stdio.h>
#include <sys/mman.h>

#define N_PAGES  64
#define N_ROUNDS 100

static struct fact_pool pool;
static char *pages;
static atomic_bool stop;

/* Reads what nobody writes, in all pages, over and over. */
static void *reader_run(void *unused)
{
        const char *expected = fact_map_pool(&pool, 0, N_PAGES);
        size_t n = 0;

        (void)unused;
        while (!atomic_load(&stop)) {
                size_t at = n++ % N_PAGES * PAGE_BYTES + 2000;
                uint64_t seen = *(volatile uint64_t *)(void *)(pages + at);

                FACT_CHECK(seen == *(const uint64_t *)(const void *)(expected + at), "%#llx in page %zu",
                           (unsigned long long)seen, at / PAGE_BYTES);
        }
        return NULL;
}

int main(void)
{
        struct fact_server server = {0};
        int device, hold;
        pthread_t reader;

        fact_begin();
        device = fact_device();
        hold = fact_context(device, HOLD_FEATURES);
        fact_pool(&pool, N_PAGES, 1);
        pages = fact_map_merged(hold, &pool, 0, N_PAGES);
        fact_server_start(&server, hold);
        FACT_OK(-pthread_create(&reader, NULL, reader_run, NULL));
        fact_step("writing under a reader");
        for (size_t i = 0; i < N_ROUNDS; i++) {
                char *prepared = fact_map_merged(hold, &pool, 0, N_PAGES);

                FACT_CHECK(mremap(prepared, N_PAGES * PAGE_BYTES, N_PAGES * PAGE_BYTES,
                                  MREMAP_MAYMOVE | MREMAP_FIXED, pages) == pages,
                           "%m");
                for (size_t page = 0; page < N_PAGES; page++)
                        *(volatile char *)(pages + page * PAGE_BYTES) = (char)i;
        }
        atomic_store(&stop, true);
        FACT_OK(-pthread_join(reader, NULL));
        fact_server_stop(&server);
        FACT_CHECK(atomic_load(&server.n_writes) >= N_ROUNDS * N_PAGES, "%u faults",
                   atomic_load(&server.n_writes));
        FACT_CHECK(!atomic_load(&server.n_zeros), "%u pages that nobody discarded were given zeros",
                   atomic_load(&server.n_zeros));
        printf("%u first writes, %u spurious minor faults\n", atomic_load(&server.n_writes),
               atomic_load(&server.n_minors));
        return 0;
}
