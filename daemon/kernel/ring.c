/* SPDX-License-Identifier: GPL-2.0-or-later */

/* io_uring rings that can do no more than they are made for. */

#include "kernel/ring.h"

#include "util/bits.h"

#define MAX_RESTRICTIONS 8

static int restrict_ring(struct io_uring *ring, const int *ops, unsigned n_ops, int register_op)
{
        struct io_uring_restriction restrictions[MAX_RESTRICTIONS] = {{.opcode = 0}};
        unsigned n = 0;
        int r;

        if (n_ops + 1 > MAX_RESTRICTIONS)
                return -E2BIG;
        for (; n < n_ops; n++) {
                restrictions[n].opcode = IORING_RESTRICTION_SQE_OP;
                restrictions[n].sqe_op = (uint8_t)ops[n];
        }
        if (register_op >= 0) {
                restrictions[n].opcode = IORING_RESTRICTION_REGISTER_OP;
                restrictions[n++].register_op = (uint8_t)register_op;
        }
        /* Debian 12's liburing declares functions for these two, and does not export them. */
        r = io_uring_register(ring->ring_fd, IORING_REGISTER_RESTRICTIONS, restrictions, n);
        return r < 0 ? r : io_uring_register(ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

int ring_make(struct io_uring *ring, unsigned n_entries, unsigned n_completions, const int *ops,
              unsigned n_ops, int register_op, unsigned n_buffers)
{
        struct io_uring_params params = {
                .flags = IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
                .cq_entries = n_completions,
        };
        int r;

        r = io_uring_queue_init_params(n_entries, ring, &params);
        if (r < 0)
                return r;
        if (n_buffers)
                r = io_uring_register_buffers_sparse(ring, n_buffers);
        if (r >= 0)
                r = restrict_ring(ring, ops, n_ops, register_op);
        if (r < 0)
                io_uring_queue_exit(ring);
        return r < 0 ? r : 0;
}
