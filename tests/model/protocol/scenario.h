#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The table of scenarios. */

#include "tests/model/protocol/state.h"

struct guard_text {
        const char *name;
        const char *without; /* what happens when it is taken out */
};

extern const struct guard_text guard_texts[N_GUARDS];

/* False behind the last. */
bool scenario_get(unsigned i, struct scenario *ret_scenario);
