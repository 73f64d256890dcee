#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The operations: whatever a program may do to its own memory
 *
 * An operation that works on pages is called inside the layout of the area; the others are not, and close or enter it themselves.
 * It takes the pages that it needs, does its work to the memory and the same to the shadow, and gives the pages back. One that
 * cannot be done at the moment returns without having done anything.
 */

#include <stdbool.h>

#include "torture/area.h"
#include "torture/worker.h"

enum {
        OP_WHOLE = 1 << 0, /* called outside the layout */
        OP_CHILD = 1 << 1, /* children do it, too */
        OP_ASKED = 1 << 2, /* only when --only names it */
};

struct op {
        const char *name;
        unsigned weight;
        unsigned flags;
        void (*run)(struct worker *worker, struct area *area);
};

extern const struct op ops[];
extern const unsigned n_ops;

/* Which operations are wanted, from --only and --without. 0, or -EINVAL, reported: a name is unknown. */
int ops_select(const char *only, const char *without);

void ops_list(void);

/* One that is wanted, by weight. */
const struct op *ops_draw(struct worker *worker);
