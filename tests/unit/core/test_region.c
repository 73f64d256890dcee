/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Region: chunks, states and their counts, borders, patience, runs; what the table forbids stops the program. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/region.h"
#include "util/bits.h"

#define BASE    UINT64_C(0x7f0000000000)
#define N_PAGES (2 * CHUNK_PAGES + 10)

/* The program is linked with --wrap=calloc: the n-th allocation from now on fails, 0 means that none does. */
static unsigned fail_at;

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);

void *__wrap_calloc(size_t n, size_t size)
{
        return fail_at && !--fail_at ? NULL : __real_calloc(n, size);
}

static struct region *make_region(uint32_t n_pages)
{
        struct region *region;

        assert_int_equal(region_new(NULL, BASE, n_pages * PAGE_BYTES, 0, &region), 0);
        return region;
}

/* How each state is come to from EMPTY; the steps are those of the table in core/page.c. */
static const enum page_state paths[PAGE_N_STATES][5] = {
        [PAGE_VOLATILE] = {PAGE_VOLATILE},
        [PAGE_TRACKED] = {PAGE_TRACKED},
        [PAGE_CANDIDATE] = {PAGE_TRACKED, PAGE_CANDIDATE},
        [PAGE_PLANNED] = {PAGE_TRACKED, PAGE_PLANNED},
        [PAGE_MERGED] = {PAGE_TRACKED, PAGE_PLANNED, PAGE_MERGED},
        [PAGE_ALIASED] = {PAGE_TRACKED, PAGE_PLANNED, PAGE_ALIASED},
        [PAGE_FOREIGN] = {PAGE_FOREIGN},
        [PAGE_COPIED] = {PAGE_TRACKED, PAGE_PLANNED, PAGE_MERGED, PAGE_COPIED},
        [PAGE_ZERO] = {PAGE_TRACKED, PAGE_PLANNED, PAGE_ZERO},
        [PAGE_EXCLUDED] = {PAGE_EXCLUDED},
        [PAGE_PROTECTED] = {PAGE_PROTECTED},
};

static void reach(struct region *region, uint32_t page, enum page_state wanted, uint32_t key)
{
        assert_int_equal(region_make_chunk(region, page), 0);
        for (size_t i = 0; i < ARRAY_SIZE(paths[wanted]) && paths[wanted][i] != PAGE_EMPTY; i++)
                region_set_state(region, page, paths[wanted][i], key);
        assert_int_equal(region_state(region, page), wanted);
}

static void test_new(void **state)
{
        struct space *space = (struct space *)&fail_at;
        struct region *region;

        assert_int_equal(region_new(space, BASE, N_PAGES * PAGE_BYTES, 5, &region), 0);
        assert_ptr_equal(region->space, space);
        assert_int_equal(region->id, REGION_NO_ID);
        assert_int_equal(region->start, BASE);
        assert_int_equal(region->flags, 5);
        assert_int_equal(region->n_pages, N_PAGES);
        assert_int_equal(region->n_chunks, 3);
        assert_int_equal(region->n_chunks_made, 0);
        assert_int_equal(region->borders, 0);
        assert_int_equal(region->count[PAGE_EMPTY], N_PAGES);
        assert_false(region->closing);
        assert_false(list_linked(&region->link));
        assert_int_equal(region_address(region, 0), BASE);
        assert_int_equal(region_address(region, 3), BASE + 3 * PAGE_BYTES);
        assert_int_equal(region_end(region), BASE + N_PAGES * PAGE_BYTES);
        assert_null(region_free(region));
        assert_null(region_free(NULL));
}

static void test_number_of_chunks(void **state)
{
        static const uint32_t rows[][2] = {
                {1, 1}, {CHUNK_PAGES - 1, 1}, {CHUNK_PAGES, 1}, {CHUNK_PAGES + 1, 2}, {2 * CHUNK_PAGES, 2},
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct region *region = make_region(rows[i][0]);

                assert_int_equal(region->n_chunks, rows[i][1]);
                assert_int_equal(region_bytes(region), sizeof(*region) + rows[i][1] * sizeof(struct chunk *) +
                                                               BITMAP_WORDS(rows[i][1]) * sizeof(uint64_t));
                region_free(region);
        }
}

/* Up to REGION_MAX_PAGES pages; one more is refused, and a length whose number of pages does not even fit 32 bits. */
static void test_size(void **state)
{
        const uint64_t longest = (uint64_t)REGION_MAX_PAGES << PAGE_SHIFT;
        const uint64_t too_long[] = {
                longest + PAGE_BYTES,
                UINT64_C(1) << 44,
                (UINT64_C(1) << 44) + PAGE_BYTES,
                UINT64_MAX & ~(PAGE_BYTES - 1),
        };
        struct region *region = NULL;

        for (size_t i = 0; i < ARRAY_SIZE(too_long); i++)
                assert_int_equal(region_new(NULL, 0, too_long[i], 0, &region), -E2BIG);
        assert_null(region);
        assert_int_equal(region_new(NULL, PAGE_BYTES, longest, 0, &region), 0);
        assert_int_equal(region->n_pages, REGION_MAX_PAGES);
        assert_int_equal(region_end(region), PAGE_BYTES + longest);
        assert_int_equal(region_make_chunk(region, REGION_MAX_PAGES - 1), 0);
        region_set_state(region, REGION_MAX_PAGES - 1, PAGE_VOLATILE, 9);
        assert_int_equal(region_key(region, REGION_MAX_PAGES - 1), 9);
        region_free(region);
}

static void test_no_memory(void **state)
{
        struct region *region = NULL;

        for (unsigned i = 1; i <= 2; i++) {
                fail_at = i;
                assert_int_equal(region_new(NULL, BASE, PAGE_BYTES, 0, &region), -ENOMEM);
                assert_int_equal(fail_at, 0);
                assert_null(region);
        }
        region = make_region(N_PAGES);
        fail_at = 1;
        assert_int_equal(region_make_chunk(region, CHUNK_PAGES), -ENOMEM);
        assert_null(region_chunk(region, CHUNK_PAGES));
        assert_int_equal(region->n_chunks_made, 0);
        assert_int_equal(region_make_chunk(region, CHUNK_PAGES), 0);
        fail_at = 1; /* what is there needs no memory */
        assert_int_equal(region_make_chunk(region, 2 * CHUNK_PAGES - 1), 0);
        assert_int_equal(fail_at, 1);
        fail_at = 0;
        region_free(region);
}

static void test_list(void **state)
{
        struct list head = LIST_INIT(head);
        struct region *region = make_region(1);

        list_append(&head, &region->link);
        region_free(region);
        assert_true(list_empty(&head));
}

/* Chunks are made one by one; pages without one are empty and answer every question. */
static void test_chunks(void **state)
{
        struct region *region = make_region(N_PAGES);
        size_t bytes = region_bytes(region);

        assert_int_equal(region_make_chunk(region, 2 * CHUNK_PAGES - 1), 0);
        assert_int_equal(region_make_chunk(region, CHUNK_PAGES), 0);
        assert_int_equal(region->n_chunks_made, 1);
        assert_null(region_chunk(region, CHUNK_PAGES - 1));
        assert_non_null(region_chunk(region, CHUNK_PAGES));
        assert_ptr_equal(region_chunk(region, CHUNK_PAGES), region_chunk(region, 2 * CHUNK_PAGES - 1));
        assert_null(region_chunk(region, 2 * CHUNK_PAGES));
        assert_int_equal(region_bytes(region), bytes + sizeof(struct chunk));
        assert_int_equal(region_chunk(region, CHUNK_PAGES)->extent, UINT32_MAX);
        assert_int_equal(region->count[PAGE_EMPTY], N_PAGES);
        for (uint32_t page = 0; page < N_PAGES; page++) {
                assert_int_equal(region_state(region, page), PAGE_EMPTY);
                assert_int_equal(region_key(region, page), 0);
                assert_int_equal(region_flags(region, page), 0);
                assert_false(region_unsettled(region, page));
                assert_false(region_patient(region, page));
                assert_false(region_shares(region, page));
        }
        region_free(region);
}

/* Every change that the table allows: the counts follow, the neighbours do not. */
static void test_changes(void **state)
{
        for (unsigned from = 0; from < PAGE_N_STATES; from++)
                for (unsigned to = 0; to < PAGE_N_STATES; to++) {
                        struct region *region = make_region(N_PAGES);
                        uint64_t expected[PAGE_N_STATES] = {[PAGE_EMPTY] = N_PAGES - 1};

                        reach(region, CHUNK_PAGES, from, 70);
                        assert_int_equal(region->count[from], from == PAGE_EMPTY ? N_PAGES : 1);
                        if (from == to || page_state_allowed(from, to)) {
                                region_set_state(region, CHUNK_PAGES, to, 71);
                                expected[to]++;
                                assert_memory_equal(region->count, expected, sizeof(expected));
                                assert_int_equal(region_state(region, CHUNK_PAGES), to);
                                assert_int_equal(region_state(region, CHUNK_PAGES - 1), PAGE_EMPTY);
                                assert_int_equal(region_state(region, CHUNK_PAGES + 1), PAGE_EMPTY);
                                assert_int_equal(region_unsettled(region, CHUNK_PAGES + 9),
                                                 to == PAGE_VOLATILE || to == PAGE_TRACKED);
                                assert_false(region_unsettled(region, CHUNK_PAGES - 1));
                                assert_int_equal(region_shares(region, CHUNK_PAGES),
                                                 to == PAGE_MERGED || to == PAGE_ALIASED ||
                                                         to == PAGE_FOREIGN);
                        }
                        region_free(region);
                }
}

/* A pooled page's key is its slot for good; any other's is what was said last. */
static void test_key(void **state)
{
        struct region *region = make_region(2);

        assert_int_equal(region_make_chunk(region, 0), 0);
        region_set_state(region, 0, PAGE_TRACKED, 1);
        region_set_state(region, 0, PAGE_CANDIDATE, 0xdeadbeef);
        assert_int_equal(region_key(region, 0), 0xdeadbeef);
        region_set_state(region, 0, PAGE_PLANNED, 3);
        assert_int_equal(region_key(region, 0), 3);
        assert_false(region_flags(region, 0) & PAGE_F_POOLED);
        region_set_state(region, 0, PAGE_MERGED, 4);
        assert_int_equal(region_key(region, 0), 4);
        assert_true(region_flags(region, 0) & PAGE_F_POOLED);
        region_set_state(region, 0, PAGE_COPIED, 6);
        region_set_state(region, 0, PAGE_EXCLUDED, 0);
        region_set_state(region, 0, PAGE_COPIED, 7);
        assert_int_equal(region_key(region, 0), 4);
        assert_true(region_flags(region, 0) & PAGE_F_POOLED);
        assert_int_equal(region_key(region, 1), 0);

        /* One that was written before its result came. */
        reach(region, 1, PAGE_PLANNED, 8);
        region_mark_written(region, 1);
        region_set_state(region, 1, PAGE_MERGED, 8);
        region_set_state(region, 1, PAGE_COPIED, 9);
        assert_int_equal(region_flags(region, 1), PAGE_F_POOLED);
        assert_int_equal(region_key(region, 1), 8);
        region_free(region);
}

/* What a registration finds in a mapping of a pool has the slot that it was found in, and keeps it. */
static void test_found_pooled(void **state)
{
        static const enum page_state found[] = {PAGE_MERGED, PAGE_FOREIGN, PAGE_COPIED};

        for (size_t i = 0; i < ARRAY_SIZE(found); i++) {
                struct region *region = make_region(2);

                assert_int_equal(region_make_chunk(region, 0), 0);
                region_set_state(region, 1, found[i], 9);
                assert_int_equal(region_flags(region, 1), PAGE_F_POOLED);
                assert_int_equal(region_key(region, 1), 9);
                assert_int_equal(region_shares(region, 1), found[i] != PAGE_COPIED);
                assert_int_equal(region->borders, 2);
                assert_false(region_unsettled(region, 1));
                region_set_state(region, 1, PAGE_COPIED, 10);
                assert_int_equal(region_key(region, 1), 9);
                assert_false(region_shares(region, 1));
                assert_int_equal(region_flags(region, 0), 0);
                region_free(region);
        }
}

/* The mark lasts until the state changes, and touches nothing else. */
static void test_written(void **state)
{
        struct region *region = make_region(2);

        reach(region, 0, PAGE_PLANNED, 8);
        region_be_patient(region, 0);
        region_mark_written(region, 0);
        assert_int_equal(region_flags(region, 0), PAGE_F_WRITTEN | 1 << PAGE_F_LEVEL_SHIFT);
        assert_int_equal(region_flags(region, 1), 0);
        region_set_state(region, 0, PAGE_MERGED, 8);
        assert_int_equal(region_flags(region, 0), PAGE_F_POOLED | 1 << PAGE_F_LEVEL_SHIFT);
        region_free(region);
}

/* ------------------------------------------------------------------ borders */

#define N_SLOTS 6
#define __      0 /* not in the pool */

static const struct layout {
        uint32_t slots[N_SLOTS];
        uint64_t borders;
} layouts[] = {
        {{__, __, __, __, __, __}, 0}, {{__, __, 10, __, __, __}, 2},
        {{10, __, __, __, __, __}, 2}, /* the region's ends count as memory that is not merged */
        {{__, __, __, __, __, 10}, 2}, {{10, __, __, __, __, 11}, 4},
        {{__, 10, 11, 12, __, __}, 2}, {{__, 10, 12, 13, __, __}, 3}, /* a gap in the pool */
        {{__, 10, 10, __, __, __}, 3},                                /* the same slot twice */
        {{__, 11, 10, __, __, __}, 3},                                /* backwards */
        {{__, 10, __, 12, __, __}, 4}, /* in the pool contiguous, but not here */
        {{10, 11, 12, 13, 14, 15}, 2}, {{10, 12, 14, 16, 18, 20}, 7},
        {{10, 11, 12, 30, 31, 32}, 3},
};

/*
 * The pages are made in the order of a permutation, across the border of two chunks; the order does not matter, nor who made the
 * mappings: us, or a daemon before us.
 */
static void check_layout(const struct layout *layout, const unsigned order[N_SLOTS], enum page_state shared)
{
        enum { FIRST = CHUNK_PAGES - N_SLOTS / 2 };
        struct region *regions[] = {make_region(N_SLOTS), make_region(N_PAGES)};
        static const uint32_t offsets[] = {0, FIRST};

        for (size_t k = 0; k < ARRAY_SIZE(regions); k++) {
                for (unsigned i = 0; i < N_SLOTS; i++)
                        if (layout->slots[order[i]] != __)
                                reach(regions[k], offsets[k] + order[i], shared, layout->slots[order[i]]);
                assert_int_equal(regions[k]->borders, layout->borders);
                /* The mapping stays when the page is written or excluded. */
                for (unsigned i = 0; i < N_SLOTS; i++)
                        if (layout->slots[i] != __) {
                                region_set_state(regions[k], offsets[k] + i, PAGE_COPIED, 98);
                                assert_int_equal(regions[k]->borders, layout->borders);
                                region_set_state(regions[k], offsets[k] + i, PAGE_EXCLUDED, 97);
                                assert_int_equal(regions[k]->borders, layout->borders);
                        }
                region_free(regions[k]);
        }
}

static void test_borders(void **state)
{
        static const unsigned orders[][N_SLOTS] = {
                {0, 1, 2, 3, 4, 5}, {5, 4, 3, 2, 1, 0}, {0, 2, 4, 1, 3, 5},
                {1, 5, 3, 0, 2, 4}, {2, 3, 1, 4, 0, 5},
        };

        for (size_t i = 0; i < ARRAY_SIZE(layouts); i++)
                for (size_t k = 0; k < ARRAY_SIZE(orders); k++) {
                        check_layout(&layouts[i], orders[k], PAGE_MERGED);
                        check_layout(&layouts[i], orders[k], PAGE_FOREIGN);
                }
}

/* Memory that was given back is ordinary memory: no border, no slot, and mergeable anew, whatever the order. */
static void test_unmerged(void **state)
{
        static const enum page_state froms[] = {PAGE_MERGED, PAGE_FOREIGN};
        static const uint64_t borders[] = {4, 4, 4, 2, 0};
        static const uint32_t order[] = {3, 5, 1, 4, 2};

        for (size_t i = 0; i < ARRAY_SIZE(froms); i++) {
                struct region *region = make_region(N_PAGES);

                for (uint32_t page = 1; page < 6; page++)
                        reach(region, page, froms[i], 100 + page);
                assert_int_equal(region->borders, 2);
                for (size_t k = 0; k < ARRAY_SIZE(order); k++) {
                        region_set_state(region, order[k], PAGE_VOLATILE, 7);
                        assert_int_equal(region->borders, borders[k]);
                        assert_int_equal(region_flags(region, order[k]), 0);
                        assert_int_equal(region_key(region, order[k]), 7);
                }
                region_free(region);
        }
}

/* ------------------------------------------------------------------ patience */

/*
 * At level n a page is due in one of 2^(n-1) rounds, evenly, and in all of them at level 0; from one chunk to the next it is one round
 * earlier. The counter of rounds may wrap.
 */
static void check_due(struct region *region, uint32_t page, unsigned level)
{
        uint32_t period = level ? UINT32_C(1) << (level - 1) : 1;

        for (uint32_t i = 0; i < 4 * period + 4; i++) {
                region->round = UINT32_MAX - 2 * period + i;
                assert_int_equal(region_patient(region, page),
                                 (region->round + page / CHUNK_PAGES) % period != 0);
        }
}

static void test_patience(void **state)
{
        static const uint32_t pages[] = {0, CHUNK_PAGES - 1, CHUNK_PAGES, N_PAGES - 1};
        struct region *region = make_region(N_PAGES);

        for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
                assert_int_equal(region_make_chunk(region, pages[i]), 0);
                for (unsigned k = 0; k < PATIENCE_LEVELS + 3; k++) {
                        unsigned level = MIN(k, PATIENCE_LEVELS - 1U);

                        assert_int_equal(region_flags(region, pages[i]), level << PAGE_F_LEVEL_SHIFT);
                        check_due(region, pages[i], level);
                        region_be_patient(region, pages[i]);
                }
                assert_int_equal(region_flags(region, pages[i] ^ 1), 0);
                region_forget_patience(region, pages[i]);
                assert_int_equal(region_flags(region, pages[i]), 0);
        }
        region_free(region);
}

/* The most patient pages of a large region: in each round, those of one chunk in 16 are due. */
static void test_phases(void **state)
{
        enum { N = 32 };
        struct region *region = make_region(N * CHUNK_PAGES);

        for (uint32_t i = 0; i < N; i++) {
                assert_int_equal(region_make_chunk(region, i * CHUNK_PAGES), 0);
                for (unsigned k = 0; k < PATIENCE_LEVELS; k++)
                        region_be_patient(region, i * CHUNK_PAGES + i);
        }
        for (region->round = 0; region->round < 100; region->round++) {
                unsigned n_due = 0;

                for (uint32_t i = 0; i < N; i++)
                        n_due += !region_patient(region, i * CHUNK_PAGES + i);
                assert_int_equal(n_due, 2);
        }
        region_free(region);
}

/* Patience belongs to the page, not to a state; the other flags are left alone. */
static void test_patience_lasts(void **state)
{
        struct region *region = make_region(1);

        assert_int_equal(region_make_chunk(region, 0), 0);
        for (unsigned i = 0; i < 3; i++)
                region_be_patient(region, 0);
        reach(region, 0, PAGE_PLANNED, 1);
        region_mark_written(region, 0);
        assert_int_equal(region_flags(region, 0), PAGE_F_WRITTEN | 3 << PAGE_F_LEVEL_SHIFT);
        region_be_patient(region, 0);
        assert_int_equal(region_flags(region, 0), PAGE_F_WRITTEN | 4 << PAGE_F_LEVEL_SHIFT);
        region_set_state(region, 0, PAGE_MERGED, 1);
        region_forget_patience(region, 0);
        assert_int_equal(region_flags(region, 0), PAGE_F_POOLED);
        region_free(region);
}

/* ------------------------------------------------------------------ runs */

static void test_run_end(void **state)
{
        struct region *region = make_region(N_PAGES);

        assert_int_equal(region_run_end(region, 0, N_PAGES, PAGE_EMPTY), N_PAGES);
        assert_int_equal(region_run_end(region, 0, N_PAGES, PAGE_MERGED), 0);
        for (uint32_t page = CHUNK_PAGES - 2; page < CHUNK_PAGES + 3; page++)
                reach(region, page, PAGE_TRACKED, 0);
        reach(region, N_PAGES - 1, PAGE_TRACKED, 0);
        assert_int_equal(region_run_end(region, 0, N_PAGES, PAGE_EMPTY), CHUNK_PAGES - 2);
        assert_int_equal(region_run_end(region, CHUNK_PAGES - 2, N_PAGES, PAGE_TRACKED), CHUNK_PAGES + 3);
        assert_int_equal(region_run_end(region, CHUNK_PAGES, N_PAGES, PAGE_TRACKED), CHUNK_PAGES + 3);
        assert_int_equal(region_run_end(region, CHUNK_PAGES - 2, CHUNK_PAGES + 1, PAGE_TRACKED),
                         CHUNK_PAGES + 1);
        assert_int_equal(region_run_end(region, CHUNK_PAGES, CHUNK_PAGES, PAGE_TRACKED), CHUNK_PAGES);
        assert_int_equal(region_run_end(region, CHUNK_PAGES + 3, N_PAGES, PAGE_TRACKED), CHUNK_PAGES + 3);
        assert_int_equal(region_run_end(region, CHUNK_PAGES + 3, N_PAGES, PAGE_EMPTY), N_PAGES - 1);
        assert_int_equal(region_run_end(region, N_PAGES - 1, N_PAGES, PAGE_TRACKED), N_PAGES);
        region_free(region);
}

/* ------------------------------------------------------------------ refused matches */

static void test_refused(void **state)
{
        struct region *region = make_region(N_PAGES);

        region_retry_refused(region);
        assert_int_equal(region->n_chunks_made, 0);
        for (uint32_t page = CHUNK_PAGES; page < CHUNK_PAGES + 5; page++)
                reach(region, page, PAGE_CANDIDATE, 50 + page);
        reach(region, N_PAGES - 1, PAGE_CANDIDATE, 8);
        region_mark_refused(region, CHUNK_PAGES);
        region_mark_refused(region, CHUNK_PAGES + 2);
        region_mark_refused(region, CHUNK_PAGES + 3);
        region_mark_refused(region, N_PAGES - 1);
        assert_int_equal(region->n_refused, 4);
        assert_int_equal(region_flags(region, CHUNK_PAGES), PAGE_F_REFUSED);
        /* One changes meanwhile: what it becomes is not asked for again. */
        region_set_state(region, CHUNK_PAGES + 3, PAGE_VOLATILE, 0);
        assert_int_equal(region_flags(region, CHUNK_PAGES + 3), 0);

        region_retry_refused(region);
        assert_int_equal(region->n_refused, 0);
        assert_int_equal(region_state(region, CHUNK_PAGES), PAGE_TRACKED);
        assert_int_equal(region_state(region, CHUNK_PAGES + 1), PAGE_CANDIDATE);
        assert_int_equal(region_state(region, CHUNK_PAGES + 2), PAGE_TRACKED);
        assert_int_equal(region_state(region, CHUNK_PAGES + 3), PAGE_VOLATILE);
        assert_int_equal(region_state(region, N_PAGES - 1), PAGE_TRACKED);
        assert_int_equal(region_key(region, CHUNK_PAGES + 1), 50 + CHUNK_PAGES + 1);
        assert_int_equal(region_flags(region, N_PAGES - 1), 0);
        assert_int_equal(region->count[PAGE_TRACKED], 3);
        assert_true(region_unsettled(region, CHUNK_PAGES));
        region_retry_refused(region);
        assert_int_equal(region->count[PAGE_TRACKED], 3);
        region_free(region);
}

/* ------------------------------------------------------------------ what is forbidden */

/* In a process of its own, which must end by SIGABRT and say which change it was. */
static void assert_aborts(enum page_state from, enum page_state to)
{
        char said[256] = "", wanted[128];
        int fds[2], status;
        size_t n = 0;
        ssize_t r;
        pid_t pid;

        assert_int_equal(pipe(fds), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (!pid) {
                struct rlimit no_core = {0, 0};
                struct region *region = make_region(1);

                setrlimit(RLIMIT_CORE, &no_core);
                reach(region, 0, from, 1);
                dup2(fds[1], STDERR_FILENO);
                region_set_state(region, 0, to, 1);
                _exit(0);
        }
        close(fds[1]);
        while (n < sizeof(said) - 1 && (r = read(fds[0], said + n, sizeof(said) - 1 - n)) > 0)
                n += (size_t)r;
        close(fds[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
                fail_msg("%s -> %s went on", page_state_name(from), page_state_name(to));
        snprintf(wanted, sizeof(wanted), "%s -> %s", page_state_name(from), page_state_name(to));
        assert_non_null(strstr(said, wanted));
}

static void test_forbidden(void **state)
{
        for (unsigned from = 0; from < PAGE_N_STATES; from++)
                for (unsigned to = 0; to < PAGE_N_STATES; to++)
                        if (from != to && !page_state_allowed(from, to))
                                assert_aborts(from, to);
        assert_aborts(PAGE_TRACKED, PAGE_N_STATES);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_new),
                cmocka_unit_test(test_size),
                cmocka_unit_test(test_number_of_chunks),
                cmocka_unit_test(test_no_memory),
                cmocka_unit_test(test_list),
                cmocka_unit_test(test_chunks),
                cmocka_unit_test(test_changes),
                cmocka_unit_test(test_key),
                cmocka_unit_test(test_found_pooled),
                cmocka_unit_test(test_written),
                cmocka_unit_test(test_borders),
                cmocka_unit_test(test_patience),
                cmocka_unit_test(test_phases),
                cmocka_unit_test(test_patience_lasts),
                cmocka_unit_test(test_run_end),
                cmocka_unit_test(test_forbidden),
                cmocka_unit_test(test_refused),
                cmocka_unit_test(test_unmerged),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
