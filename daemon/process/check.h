#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* `wpd --check`: what this kernel and host offer, each need with what it is for. Changes nothing. */

#include <stdbool.h>
#include <stdio.h>

struct check_row {
        const char *what;    /* "userfaultfd: asynchronous write protection" */
        const char *why;     /* what we need it for */
        const char *without; /* what is lost without it */
        bool required;       /* the daemon cannot serve without it */
        bool found;
        char detail[96]; /* what was seen: "features 0x1ffff", "Permission denied" */
};

/* Fills at most `n_rows` rows and returns how many there are; all are probed by trying, never by version. */
unsigned check_run(struct check_row *rows, unsigned n_rows);

/* Prints the table; returns whether every required row is there. */
bool check_print(FILE *out, const struct check_row *rows, unsigned n_rows);
