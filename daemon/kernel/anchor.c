/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Anchors: pinned pages of pool files. */

#include "kernel/anchor.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "kernel/ring.h"
#include "util/bits.h"

/* The kernel's limit for one ring is 16384 buffers: 32 GiB of pool. */
#define ANCHOR_RINGS     4
#define ANCHORS_PER_RING 16384
#define N_ANCHORS        (ANCHOR_RINGS * ANCHORS_PER_RING)

struct anchors {
        struct io_uring rings[ANCHOR_RINGS];
        unsigned n_rings; /* made */
        uint32_t hint;    /* no free anchor below */
        uint64_t taken[BITMAP_WORDS(N_ANCHORS)];
};

int anchors_new(struct anchors **ret_anchors)
{
        struct anchors *anchors = calloc(1, sizeof(*anchors));
        int r = 0;

        if (!anchors)
                return -ENOMEM;
        while (anchors->n_rings < ANCHOR_RINGS && r >= 0) {
                r = ring_make(&anchors->rings[anchors->n_rings], 1, 2, NULL, 0,
                              IORING_REGISTER_BUFFERS_UPDATE, ANCHORS_PER_RING);
                anchors->n_rings += r >= 0;
        }
        if (r < 0) {
                anchors_free(anchors);
                return r;
        }
        *ret_anchors = anchors;
        return 0;
}

struct anchors *anchors_free(struct anchors *anchors)
{
        if (!anchors)
                return NULL;
        for (unsigned i = 0; i < anchors->n_rings; i++)
                io_uring_queue_exit(&anchors->rings[i]);
        free(anchors);
        return NULL;
}

int anchors_take(struct anchors *anchors, uint32_t *ret_anchor)
{
        uint32_t anchor = anchors->hint;

        while (anchor < N_ANCHORS && bitmap_get(anchors->taken, anchor))
                anchor++;
        anchors->hint = anchor;
        if (anchor == N_ANCHORS)
                return -ENOSPC;
        bitmap_set(anchors->taken, anchor);
        *ret_anchor = anchor;
        return 0;
}

static int update(struct anchors *anchors, uint32_t anchor, void *page)
{
        struct iovec buffer = {.iov_base = page, .iov_len = page ? PAGE_BYTES : 0};
        __u64 tag = 0;
        int r;

        r = io_uring_register_buffers_update_tag(&anchors->rings[anchor / ANCHORS_PER_RING],
                                                 anchor % ANCHORS_PER_RING, &buffer, &tag, 1);
        return r < 0 ? r : 0;
}

int anchors_pin(struct anchors *anchors, uint32_t anchor, int pool_fd, uint64_t offset)
{
        void *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, pool_fd, (off_t)offset);
        int r;

        if (page == MAP_FAILED)
                return -errno;
        r = update(anchors, anchor, page);
        /* The pin does not need the mapping. */
        munmap(page, PAGE_BYTES);
        return r;
}

void anchors_release(struct anchors *anchors, uint32_t anchor)
{
        /* A page that stays pinned costs itself, nothing else. */
        (void)!update(anchors, anchor, NULL);
        bitmap_clear(anchors->taken, anchor);
        anchors->hint = MIN(anchors->hint, anchor);
}
