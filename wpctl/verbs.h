#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What wpctl can do: one table of verbs, each a method of the daemon with its operands and its output for
 * people. */

#include <stdbool.h>
#include <stdio.h>

#include "util/error.h"

/* Exit statuses; they are part of the interface. */
enum wpctl_exit {
        WPCTL_DONE,
        WPCTL_REFUSED,     /* by the daemon; also: the output could not be written */
        WPCTL_USAGE,       /* nothing was asked */
        WPCTL_UNREACHABLE, /* no daemon, or none that answers */
};

struct verb_args {
        const char *socket;
        bool json; /* the reply itself, for programs */
        bool wait;
        bool utf8; /* the terminal shows more than ASCII */
        char **operands;
        int n_operands;
};

struct verb;

/* NULL: there is no such verb. */
const struct verb *verb_find(const char *name);

/* Does it all: checks the operands, calls the daemon, prints to `out` and errors to standard error. */
enum wpctl_exit verb_run(const struct verb *verb, const struct verb_args *args, FILE *out);

/* A line for each verb. */
int verbs_help(FILE *out) wp_check;
