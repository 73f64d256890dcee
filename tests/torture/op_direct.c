/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Operations: the device writes into the memory, while pages are pinned. */

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "torture/content.h"
#include "torture/op.h"
#include "util/bits.h"

#define SECTOR_BYTES     ((size_t)512)
#define MAX_DIRECT_PAGES 64
#define RING_ENTRIES     8
#define MAX_ROUNDS       8

/* A part of a range, and where in the file of contents it comes from. All in bytes, and multiples of a sector. */
struct piece {
        size_t offset;
        size_t length;
        size_t from;
};

static struct piece draw_piece(struct worker *worker, const struct range *range)
{
        const size_t sectors = range_bytes(range) / SECTOR_BYTES, file = CONTENT_FILE_PAGES * PAGE_BYTES;
        size_t length = (1 + draw(worker, sectors)) * SECTOR_BYTES;
        size_t offset = draw(worker, (range_bytes(range) - length) / SECTOR_BYTES + 1) * SECTOR_BYTES;
        bool whole_pages = coin(worker);

        if (whole_pages)
                return (struct piece){.offset = 0,
                                      .length = range_bytes(range),
                                      .from = draw(worker, CONTENT_FILE_PAGES - range->n) * PAGE_BYTES};
        return (struct piece){
                .offset = offset,
                .length = length,
                .from = draw(worker, (file - length) / SECTOR_BYTES) * SECTOR_BYTES,
        };
}

/* What the device wrote. */
static void copy_to_shadow(const struct range *range, const struct piece *piece)
{
        for (size_t done = 0; done < piece->length; done += SECTOR_BYTES) {
                size_t at = piece->from + done;

                memcpy(range_shadow(range) + piece->offset + done,
                       content_page(at / PAGE_BYTES % CONTENT_NUMBERS) + at % PAGE_BYTES, SECTOR_BYTES);
        }
}

void op_direct(struct worker *worker, struct area *area)
{
        struct range range;
        struct piece piece;
        ssize_t r;

        if (worker->direct < 0 || !range_take(worker, area, MAX_DIRECT_PAGES, true, &range))
                return;
        piece = draw_piece(worker, &range);
        r = pread(worker->direct, range_memory(&range) + piece.offset, piece.length, (off_t)piece.from);
        EXPECT(r == (ssize_t)piece.length, "O_DIRECT into memory at %p: %zd of %zu bytes: %s",
               (void *)(range_memory(&range) + piece.offset), r, piece.length, strerror(errno));
        copy_to_shadow(&range, &piece);
        range_verify(worker, &range, "after a direct read");
        range_give(worker, &range);
}

/* ------------------------------------------------------------------ fixed buffers */

void ring_close(struct worker *worker)
{
        if (worker->has_ring)
                io_uring_queue_exit(&worker->ring);
        worker->has_ring = false;
}

static void read_fixed(struct worker *worker, const struct range *range)
{
        struct piece piece = draw_piece(worker, range);
        struct io_uring_sqe *sqe = io_uring_get_sqe(&worker->ring);
        struct io_uring_cqe *cqe;
        int r;

        io_uring_prep_read_fixed(sqe, worker->direct, range_memory(range) + piece.offset,
                                 (unsigned)piece.length, piece.from, 0);
        r = io_uring_submit(&worker->ring);
        EXPECT(r == 1, "io_uring_submit: %s", strerror(-r));
        do
                r = io_uring_wait_cqe(&worker->ring, &cqe);
        while (r == -EINTR);
        EXPECT(r == 0, "io_uring_wait_cqe: %s", strerror(-r));
        EXPECT(cqe->res == (int)piece.length, "READ_FIXED into memory at %p: %d of %zu bytes",
               (void *)(range_memory(range) + piece.offset), cqe->res, piece.length);
        io_uring_cqe_seen(&worker->ring, cqe);
        copy_to_shadow(range, &piece);
        range_verify(worker, range, "after a read into a fixed buffer");
}

/* The buffer stays pinned while it is read into and written to, again and again. */
static void use_fixed(struct worker *worker, const struct range *range)
{
        for (unsigned rounds = 1 + (unsigned)draw(worker, MAX_ROUNDS); rounds; rounds--) {
                read_fixed(worker, range);
                if (coin(worker))
                        range_fill(worker, range);
        }
}

void op_uring(struct worker *worker, struct area *area)
{
        struct range range;
        struct iovec buffer;
        int r;

        if (!worker->has_ring)
                worker->has_ring = io_uring_queue_init(RING_ENTRIES, &worker->ring, 0) == 0;
        if (!worker->has_ring || worker->direct < 0 ||
            !range_take(worker, area, MAX_DIRECT_PAGES, true, &range))
                return;
        buffer = (struct iovec){.iov_base = range_memory(&range), .iov_len = range_bytes(&range)};
        r = io_uring_register_buffers(&worker->ring, &buffer, 1);
        /* What the user may lock is shared by all clients. */
        EXPECT(r == 0 || r == -ENOMEM, "io_uring_register_buffers: %s", strerror(-r));
        if (r == 0) {
                use_fixed(worker, &range);
                r = io_uring_unregister_buffers(&worker->ring);
                EXPECT(r == 0, "io_uring_unregister_buffers: %s", strerror(-r));
        }
        range_verify(worker, &range, "after a fixed buffer was given up");
        range_give(worker, &range);
}
