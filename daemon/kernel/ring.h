#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * io_uring rings that can do no more than they are made for
 *
 * A ring acts for the process behind the back of the system-call filter. So rings are made before the process
 * is confined, and each is restricted to the few operations that it needs (io_uring_register(2),
 * IORING_REGISTER_RESTRICTIONS).
 */

#include <liburing.h>

#include "util/error.h"

/*
 * A ring whose only operations are `ops` (IORING_OP_*), and whose only registration is `register_op` (-1:
 * none).
 */
int ring_make(struct io_uring *ring, unsigned n_entries, unsigned n_completions, const int *ops,
              unsigned n_ops, int register_op, unsigned n_buffers) wp_check;
