#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What the run came to. */

#include "torture/keeper.h"

void report_print(const struct keeper *keeper, double seconds);

/* All that is known about the first failure. */
void report_failure(const struct keeper *keeper);
