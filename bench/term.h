#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Output for people: a few lines that are drawn again in place on a terminal, plain lines in turn elsewhere.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define TERM_LINE 512 /* bytes; a line of 100 columns in UTF-8 */

struct term {
        FILE *out;
        bool live;
        bool utf8;
        unsigned columns; /* at most 100 */
        unsigned n_drawn; /* lines to go back over */
        uint64_t printed_ns;
};

/* `plain` forbids drawing in place; so do a pipe, a dumb terminal and a narrow one. The locale must be set.
 */
void term_init(struct term *term, FILE *out, bool plain);

/* A progress bar of `width` columns between brackets, for a fraction of 0 to 1. */
void term_bar(const struct term *term, char *text, size_t size, unsigned width, double fraction);

/*
 * Draws lines in place of the last ones. Where that is not possible, `summary` is printed instead, at most
 * once a second; `last` prints it in any case and leaves the lines standing.
 */
void term_frame(struct term *term, char lines[][TERM_LINE], unsigned n_lines, const char *summary, bool last);

/* A size in MiB or GiB, as in "128.0 MiB". */
const char *term_bytes(char *text, size_t size, double bytes);
