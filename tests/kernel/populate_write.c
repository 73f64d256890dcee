/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Merged pages are given back to their owner in place, while the program runs
 *
 * Fact: after un-protecting, MADV_POPULATE_WRITE gives every page of a private pool mapping a copy of its
 * own without changing a byte, whatever other threads read and write meanwhile and with an io_uring
 * fixed-buffer read in flight into some of the pages. Afterwards no page is the pool's, and the mapping
 * needs no service any more.
 *
 * Source: madvise(2); mm/gup.c, faultin_page_range().
 *
 * Relied on by: libwp/run.c (UNMERGE runs), hence wp_unregister(), wp_exclude(), wp_disconnect().
 *
 * Without it: giving memory back would need a second copy of the run and a freeze.
 */

#include "fact.h"

#include <liburing.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define N_PAGES  64
#define N_ROUNDS 40
#define BUFFER   16 /* first page of the fixed buffer */
#define N_BUFFER 4
#define WRITTEN  5 /* page % 8 of the pages that the writer has for itself */

static struct fact_pool pool;
static char *expected; /* the pool's content */
static char *_Atomic pages;
static atomic_uint n_passes[2];
static atomic_bool stop;

static bool is_buffer(size_t page)
{
        return page >= BUFFER && page < BUFFER + N_BUFFER;
}

/* Compares the pages that nobody writes. */
static void check_untouched(const char *at)
{
        for (size_t page = 0; page < N_PAGES; page++)
                if (!is_buffer(page) && page % 8 != WRITTEN)
                        FACT_CHECK(!memcmp(at + page * PAGE_BYTES, expected + page * PAGE_BYTES, PAGE_BYTES),
                                   "page %zu has other content", page);
}

static void *reader_run(void *unused)
{
        (void)unused;
        while (!atomic_load(&stop)) {
                check_untouched(atomic_load(&pages));
                atomic_fetch_add(&n_passes[0], 1);
        }
        return NULL;
}

/* Writes its pages and sees its own writes only. */
static void *writer_run(void *unused)
{
        const char *last = NULL;
        char value = 0;

        (void)unused;
        while (!atomic_load(&stop)) {
                char *at = atomic_load(&pages);

                for (size_t page = WRITTEN; page < N_PAGES; page += 8) {
                        volatile char *byte = at + page * PAGE_BYTES + 100;

                        if (at == last)
                                FACT_CHECK(*byte == value, "the last write to page %zu was lost", page);
                        *byte = (char)(value + 1);
                }
                value++;
                last = at;
                atomic_fetch_add(&n_passes[1], 1);
        }
        return NULL;
}

static void submit_reads(struct io_uring *ring, int pipe_fd, char *at)
{
        for (unsigned i = 0; i < N_BUFFER; i++) {
                struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

                io_uring_prep_read_fixed(sqe, pipe_fd, at + (BUFFER + i) * PAGE_BYTES, PAGE_BYTES, 0, 0);
                /* In order, so that it is known which page gets what. */
                sqe->flags |= IOSQE_IO_LINK;
        }
        FACT_CHECK(FACT_OK(io_uring_submit(ring)) == N_BUFFER, "not all were submitted");
}

static void complete_reads(struct io_uring *ring, int pipe_fd, const char *at)
{
        static char bytes[PAGE_BYTES];

        for (unsigned i = 0; i < N_BUFFER; i++) {
                memset(bytes, (int)i + 1, sizeof(bytes));
                FACT_CHECK(write(pipe_fd, bytes, sizeof(bytes)) == sizeof(bytes), "%m");
        }
        for (unsigned i = 0; i < N_BUFFER; i++) {
                struct io_uring_cqe *cqe;

                FACT_OK(io_uring_wait_cqe(ring, &cqe));
                FACT_CHECK(cqe->res == (int)PAGE_BYTES, "result %d", cqe->res);
                io_uring_cqe_seen(ring, cqe);
        }
        for (unsigned i = 0; i < N_BUFFER; i++) {
                memset(bytes, (int)i + 1, sizeof(bytes));
                FACT_CHECK(!memcmp(at + (BUFFER + i) * PAGE_BYTES, bytes, PAGE_BYTES),
                           "what was read into page %u did not arrive", BUFFER + i);
        }
}

static void wait_passes(void)
{
        unsigned before[] = {atomic_load(&n_passes[0]), atomic_load(&n_passes[1])};

        /* The second pass from now on began after this moment. */
        while (atomic_load(&n_passes[0]) < before[0] + 2 || atomic_load(&n_passes[1]) < before[1] + 2)
                sched_yield();
}

static void check_round(struct io_uring *ring, int pagemap, int hold, const int *pipe_fds)
{
        char *old = atomic_load(&pages), *at = fact_map_merged(hold, &pool, 0, N_PAGES);
        struct iovec buffer = {.iov_base = at + BUFFER * PAGE_BYTES, .iov_len = N_BUFFER * PAGE_BYTES};

        FACT_OK(io_uring_register_buffers(ring, &buffer, 1));
        submit_reads(ring, pipe_fds[0], at);
        atomic_store(&pages, at);
        sched_yield();
        FACT_OK(uffd_write_protect(hold, (uintptr_t)at, N_PAGES * PAGE_BYTES, false));
        FACT_OK(error_from(madvise(at, N_PAGES * PAGE_BYTES, MADV_POPULATE_WRITE)));
        FACT_CHECK(fact_populated(pagemap, at, N_PAGES, 0) == N_PAGES, "%zu pages populated",
                   fact_populated(pagemap, at, N_PAGES, 0));
        FACT_CHECK(fact_populated(pagemap, at, N_PAGES, PAGE_IS_FILE) == 0, "%zu pages are still the pool's",
                   fact_populated(pagemap, at, N_PAGES, PAGE_IS_FILE));
        FACT_CHECK(fact_copied(pagemap, at, N_PAGES) == N_PAGES, "%zu pages are listed as copied",
                   fact_copied(pagemap, at, N_PAGES));
        FACT_OK(uffd_unregister(hold, (uintptr_t)at, N_PAGES * PAGE_BYTES));
        FACT_CHECK(io_uring_cq_ready(ring) == 0, "a read was over before there was anything to read");
        complete_reads(ring, pipe_fds[1], at);
        FACT_OK(io_uring_unregister_buffers(ring));
        wait_passes();
        check_untouched(at);
        FACT_OK(error_from(munmap(old, N_PAGES * PAGE_BYTES)));
}

int main(void)
{
        struct fact_server server = {0};
        struct io_uring ring;
        int device, hold, pagemap, pipe_fds[2], r = io_uring_queue_init(8, &ring, 0);
        pthread_t reader, writer;

        fact_begin();
        if (r < 0)
                fact_skip("io_uring: %s", strerror(-r));
        device = fact_device();
        pagemap = fact_pagemap();
        hold = fact_context(device, HOLD_FEATURES);
        fact_pool(&pool, N_PAGES, 1);
        expected = fact_map(N_PAGES);
        fact_fill(expected, N_PAGES, 1);
        FACT_OK(error_from(pipe(pipe_fds)));
        fact_server_start(&server, hold);
        fact_step("giving pages back");
        atomic_store(&pages, fact_map_merged(hold, &pool, 0, N_PAGES));
        FACT_OK(-pthread_create(&reader, NULL, reader_run, NULL));
        FACT_OK(-pthread_create(&writer, NULL, writer_run, NULL));
        for (size_t i = 0; i < N_ROUNDS; i++)
                check_round(&ring, pagemap, hold, pipe_fds);
        atomic_store(&stop, true);
        FACT_OK(-pthread_join(reader, NULL));
        FACT_OK(-pthread_join(writer, NULL));
        fact_server_stop(&server);
        io_uring_queue_exit(&ring);
        FACT_CHECK(fact_pool_intact(&pool, 1), "the pool changed");
        return 0;
}
