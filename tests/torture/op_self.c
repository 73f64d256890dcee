/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Operations that are wrong on purpose, and only done when --only names them: a test of the torture itself, which must find
 * them out
 */

#include <unistd.h>

#include "torture/op.h"

/* A byte that the shadow is not told of. */
void op_sabotage(struct worker *worker, struct area *area)
{
        struct range range;

        if (!range_take(worker, area, 1, true, &range))
                return;
        range_memory(&range)[draw(worker, PAGE_BYTES)] ^= 1;
        range_give(worker, &range);
}

/* A worker that never comes back. */
void op_stand(struct worker *worker, struct area *area)
{
        for (;;)
                pause();
}
