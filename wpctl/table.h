#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Text for people: tables, wrapped paragraphs, numbers with units. Pure: everything becomes a string.
 *
 * No line is ever wider than it may be. Text of others (names of processes, reasons) is cleaned: what could
 * steer a terminal, or could not be shown by it, becomes a question mark. `utf8` says whether the terminal
 * shows more than ASCII; when it is set, the locale of the process has to be a UTF-8 one, for that knows how
 * wide characters are.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

#define TABLE_WIDTH 100

enum table_align {
        TABLE_LEFT, /* text: the widest of these columns is cut first when a line would be too long */
        TABLE_RIGHT /* numbers */
};

struct table_column {
        const char *title; /* NULL in every column: the table has no line of titles */
        enum table_align align;
};

struct table;

int table_new(const struct table_column *columns, size_t n_columns, bool utf8,
              struct table **ret_table) wp_check;
struct table *table_free(struct table *table);

/* The next cell, row by row. What fails here (-ENOMEM) is remembered and returned by table_format(). */
void table_cell(struct table *table, const char *format, ...) __attribute__((__format__(printf, 2, 3)));
/* A line across all columns, with an empty line before it unless it is the first. Only between rows. */
void table_heading(struct table *table, const char *format, ...) __attribute__((__format__(printf, 2, 3)));

/* The whole table, no line wider than `width`; -EINVAL if that is less than 3 for each of its columns. */
int table_format(const struct table *table, size_t width, char **ret_text) wp_check;

/* A copy of the text in which everything can be shown; NULL: out of memory. */
char *table_clean(const char *text, bool utf8);

/* A paragraph, each line of it indented and `width` columns wide at most. */
int table_wrap(const char *text, size_t indent, size_t width, bool utf8, char **ret_text) wp_check;

/* Numbers. Each takes a buffer, which it also returns. */
#define TABLE_NUMBER_MAX 32

char *table_bytes(int64_t bytes, char buffer[TABLE_NUMBER_MAX]);               /* 1.5 GiB */
char *table_percent(double part, double whole, char buffer[TABLE_NUMBER_MAX]); /* 12.5%; "-" of nothing */
char *table_duration(int64_t seconds, char buffer[TABLE_NUMBER_MAX]);        /* 1d 02h, 2h 05m, 3m 07s, 4s */
char *table_ratio(double part, double whole, char buffer[TABLE_NUMBER_MAX]); /* 12.5; "-" by nothing */
