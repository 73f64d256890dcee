#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Visits every state of a scenario, breadth first, so that what it finds wrong it finds by a shortest way. */

#include "tests/model/protocol/state.h"

#include <stdio.h>

struct verdict {
        size_t n_states;
        const char *violation; /* NULL: there is none */
        unsigned length;       /* steps to the violation */
};

/* `trace`: print the steps to the violation there, if not NULL. */
struct verdict explore(const struct scenario *scenario, enum guard without, FILE *trace);
