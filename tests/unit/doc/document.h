#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Documents as their tests see them: read whole, and taken apart into names. */

#include <stdbool.h>
#include <stddef.h>

#define DOCUMENT_MAX_NAMES 128
#define DOCUMENT_MAX_NAME  128

/* Names in the order in which they were found. */
struct names {
        size_t n;
        char name[DOCUMENT_MAX_NAMES][DOCUMENT_MAX_NAME];
};

/* A file, NUL-terminated, to be freed; NULL when it cannot be read. */
char *document_read(const char *path);

void names_add(struct names *names, const char *name, size_t length);

/* The first name of `names` that `among` lacks or that is in `names` twice, or NULL. */
const char *names_missing(const struct names *names, const struct names *among);

/* Whether the text has this word, with nothing that belongs to a word next to it. */
bool document_has_word(const char *text, const char *word);

/*
 * The cells of one column of a table, `backquotes` removed: table number `table` (from 0) of the section with this heading,
 * such as "## status". A section ends at the next heading of any level. Empty when there is no such table or column.
 */
void document_column(const char *text, const char *heading, unsigned table, unsigned column,
                     struct names *ret_cells);

/* The names of the members between the line that begins with `opening` and the next that begins with `closing`. */
typedef bool (*document_member)(const char *line, size_t length, const char **ret_name, size_t *ret_length);
void document_members(const char *text, const char *opening, const char *closing, document_member member,
                      struct names *ret_names);
