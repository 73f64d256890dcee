/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Text for people: see the header. */

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include "util/bits.h"
#include "util/cleanup.h"
#include "wpctl/table.h"

#define GAP      2 /* blanks between two columns */
#define MIN_TEXT 4 /* numbers are cut rather than a text that is no longer than this */

/* A row is n_columns cells; a heading is one cell and n_columns - 1 empty ones. */
struct table {
        const struct table_column *columns;
        size_t n_columns;
        bool utf8;
        int error;
        char **cells;
        size_t n_cells;
        size_t capacity;
        bool *headings; /* one a row */
};

/* A text that grows; an error sticks. */
struct text {
        char *bytes;
        size_t length;
        size_t capacity;
        int error;
};

static void text_append(struct text *text, const char *bytes, size_t n)
{
        size_t capacity = MAX(text->capacity, (size_t)256);
        char *grown;

        if (text->error)
                return;
        if (text->length + n + 1 > text->capacity) {
                while (capacity < text->length + n + 1)
                        capacity *= 2;
                grown = realloc(text->bytes, capacity);
                if (!grown) {
                        text->error = -ENOMEM;
                        return;
                }
                text->bytes = grown;
                text->capacity = capacity;
        }
        memcpy(text->bytes + text->length, bytes, n);
        text->length += n;
        text->bytes[text->length] = '\0';
}

static void text_fill(struct text *text, char byte, size_t n)
{
        while (n--)
                text_append(text, &byte, 1);
}

static int text_finish(struct text *text, char **ret_text)
{
        text_append(text, "", 0);
        if (text->error) {
                free(text->bytes);
                return text->error;
        }
        *ret_text = text->bytes;
        return 0;
}

/*
 * The character at the start of `bytes`: its code point, and how many bytes it takes. 0 for what is no UTF-8
 * of the shortest form, or stands for no character; then one byte is to be skipped.
 */
static uint32_t utf8_decode(const char *bytes, size_t *ret_length)
{
        static const struct {
                uint8_t mask, lead;
                uint32_t least;
        } forms[] = {{0x80, 0x00, 0x0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};
        const uint8_t *at = (const uint8_t *)bytes;
        uint32_t code;

        for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
                if ((at[0] & forms[i].mask) != forms[i].lead)
                        continue;
                code = at[0] & (uint8_t)~forms[i].mask;
                for (size_t j = 1; j <= i; j++) {
                        if ((at[j] & 0xc0) != 0x80)
                                return 0;
                        code = code << 6 | (at[j] & 0x3f);
                }
                if (code < forms[i].least || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
                        return 0;
                *ret_length = i + 1;
                return code;
        }
        return 0;
}

/* Columns that the character at `bytes` takes, and its length in bytes; 0 columns: it is not to be shown. */
static size_t character(const char *bytes, bool utf8, size_t *ret_length)
{
        uint32_t code = utf8_decode(bytes, ret_length);
        int width;

        if (!code) {
                *ret_length = 1;
                return 0;
        }
        if (code < 0x80)
                return code >= 0x20 && code < 0x7f;
        width = utf8 ? wcwidth((wchar_t)code) : 0;
        return width > 0 ? (size_t)width : 0;
}

char *table_clean(const char *text, bool utf8)
{
        char *copy = malloc(strlen(text) + 1), *at = copy;
        size_t length;

        if (!copy)
                return NULL;
        while (*text) {
                if (character(text, utf8, &length))
                        at = (char *)memcpy(at, text, length) + length;
                else
                        *at++ = '?';
                text += length;
        }
        *at = '\0';
        return copy;
}

/* Columns of a clean text. */
static size_t text_width(const char *text)
{
        size_t width = 0, length;

        for (; *text; text += length)
                width += character(text, true, &length);
        return width;
}

/* Bytes of the longest beginning of a clean text that takes no more than `width` columns, and how many it
 * takes. */
static size_t text_prefix(const char *text, size_t width, size_t *ret_width)
{
        size_t used = 0, bytes = 0, length, columns;

        while (text[bytes]) {
                columns = character(text + bytes, true, &length);
                if (used + columns > width)
                        break;
                used += columns;
                bytes += length;
        }
        *ret_width = used;
        return bytes;
}

int table_new(const struct table_column *columns, size_t n_columns, bool utf8, struct table **ret_table)
{
        struct table *table;

        table = calloc(1, sizeof(*table));
        if (!table)
                return -ENOMEM;
        table->columns = columns;
        table->n_columns = n_columns;
        table->utf8 = utf8;
        *ret_table = table;
        return 0;
}

struct table *table_free(struct table *table)
{
        if (!table)
                return NULL;
        for (size_t i = 0; i < table->n_cells; i++)
                free(table->cells[i]);
        free(table->cells);
        free(table->headings);
        free(table);
        return NULL;
}

static size_t table_rows(const struct table *table)
{
        return (table->n_cells + table->n_columns - 1) / table->n_columns;
}

static int table_grow(struct table *table)
{
        size_t capacity = table->capacity ? table->capacity * 2 : 16 * table->n_columns;
        bool *headings;
        char **cells;

        if (table->n_cells < table->capacity)
                return 0;
        cells = reallocarray(table->cells, capacity, sizeof(*cells));
        if (!cells)
                return -ENOMEM;
        table->cells = cells;
        headings = reallocarray(table->headings, capacity / table->n_columns, sizeof(*headings));
        if (!headings)
                return -ENOMEM;
        table->headings = headings;
        table->capacity = capacity;
        return 0;
}

__attribute__((__format__(printf, 3, 0))) static int table_add(struct table *table, bool heading,
                                                               const char *format, va_list arguments)
{
        _cleanup_free_ char *text = NULL;
        char *cell;
        int r;

        r = table_grow(table);
        if (r < 0)
                return r;
        if (vasprintf(&text, format, arguments) < 0) {
                text = NULL;
                return -ENOMEM;
        }
        cell = table_clean(text, table->utf8);
        if (!cell)
                return -ENOMEM;
        table->headings[table->n_cells / table->n_columns] = heading;
        table->cells[table->n_cells++] = cell;
        return 0;
}

void table_cell(struct table *table, const char *format, ...)
{
        va_list arguments;

        va_start(arguments, format);
        if (!table->error)
                table->error = table_add(table, false, format, arguments);
        va_end(arguments);
}

void table_heading(struct table *table, const char *format, ...)
{
        va_list arguments;

        va_start(arguments, format);
        if (!table->error)
                table->error = table_add(table, true, format, arguments);
        va_end(arguments);
        for (size_t i = 1; i < table->n_columns && !table->error; i++) {
                table->error = table_grow(table);
                if (!table->error)
                        table->cells[table->n_cells++] = NULL;
        }
}

static const char *table_at(const struct table *table, size_t row, size_t column)
{
        size_t i = row * table->n_columns + column;

        return i < table->n_cells && table->cells[i] ? table->cells[i] : "";
}

static const char *table_title(const struct table *table, size_t column)
{
        return table->columns[column].title ? table->columns[column].title : "";
}

/* The column to cut next: the widest text as long as one is wide enough, then the widest of all. */
static size_t widest(const struct table *table, const size_t *widths)
{
        size_t text = table->n_columns, any = 0;

        for (size_t i = 0; i < table->n_columns; i++) {
                if (widths[i] > widths[any])
                        any = i;
                if (table->columns[i].align == TABLE_LEFT && widths[i] > MIN_TEXT &&
                    (text == table->n_columns || widths[i] > widths[text]))
                        text = i;
        }
        return text < table->n_columns ? text : any;
}

static void table_measure(const struct table *table, size_t width, size_t *ret_widths)
{
        size_t total = GAP * (table->n_columns - 1);

        for (size_t i = 0; i < table->n_columns; i++) {
                ret_widths[i] = text_width(table_title(table, i));
                for (size_t row = 0; row < table_rows(table); row++)
                        if (!table->headings[row])
                                ret_widths[i] = MAX(ret_widths[i], text_width(table_at(table, row, i)));
                total += ret_widths[i];
        }
        for (; total > width; total--)
                ret_widths[widest(table, ret_widths)]--;
}

/* One cell, cut where it must be: with an ellipsis, or its dots as far as they fit. */
static void append_cell(struct text *text, const char *cell, size_t width, enum table_align align, bool utf8)
{
        size_t used = text_width(cell), bytes = strlen(cell), mark;

        if (used <= width) {
                text_fill(text, ' ', align == TABLE_RIGHT ? width - used : 0);
                text_append(text, cell, bytes);
                text_fill(text, ' ', align == TABLE_LEFT ? width - used : 0);
                return;
        }
        mark = MIN(width, (size_t)(utf8 ? 1 : 3));
        bytes = text_prefix(cell, width - mark, &used);
        text_append(text, cell, bytes);
        if (utf8)
                text_append(text, "…", mark ? strlen("…") : 0);
        else
                text_fill(text, '.', mark);
        text_fill(text, ' ', width - mark - used);
}

static void end_line(struct text *text)
{
        while (!text->error && text->length && text->bytes[text->length - 1] == ' ')
                text->length--;
        text_append(text, "\n", 1);
}

static void append_titles(struct text *text, const struct table *table, const size_t *widths)
{
        bool any = false;

        for (size_t i = 0; i < table->n_columns; i++)
                any |= table->columns[i].title != NULL;
        if (!any)
                return;
        for (size_t i = 0; i < table->n_columns; i++) {
                text_fill(text, ' ', i ? GAP : 0);
                append_cell(text, table_title(table, i), widths[i], table->columns[i].align, table->utf8);
        }
        end_line(text);
}

static void append_row(struct text *text, const struct table *table, size_t row, const size_t *widths)
{
        for (size_t i = 0; i < table->n_columns; i++) {
                text_fill(text, ' ', i ? GAP : 0);
                append_cell(text, table_at(table, row, i), widths[i], table->columns[i].align, table->utf8);
        }
        end_line(text);
}

int table_format(const struct table *table, size_t width, char **ret_text)
{
        _cleanup_free_ size_t *widths = NULL;
        struct text text = {};

        if (table->error)
                return table->error;
        if (width < table->n_columns * (GAP + 1))
                return -EINVAL;
        widths = calloc(table->n_columns, sizeof(*widths));
        if (!widths)
                return -ENOMEM;
        table_measure(table, width, widths);
        append_titles(&text, table, widths);
        for (size_t row = 0; row < table_rows(table); row++) {
                if (!table->headings[row]) {
                        append_row(&text, table, row, widths);
                        continue;
                }
                text_append(&text, "\n", text.length ? 1 : 0);
                append_cell(&text, table_at(table, row, 0), width, TABLE_LEFT, table->utf8);
                end_line(&text);
        }
        return text_finish(&text, ret_text);
}

/* The end of the line that begins at `text` and may take `width` columns: after its last word that fits, or
 * in the midst of one. */
static size_t line_length(const char *text, size_t width)
{
        size_t used, bytes = text_prefix(text, width, &used), end = bytes;

        if (!text[bytes] || text[bytes] == ' ')
                return bytes;
        while (end && text[end - 1] != ' ')
                end--;
        return end ? end : bytes;
}

int table_wrap(const char *paragraph, size_t indent, size_t width, bool utf8, char **ret_text)
{
        _cleanup_free_ char *cleaned = table_clean(paragraph, utf8);
        const char *at = cleaned;
        struct text text = {};
        size_t length;

        if (width < indent + 2)
                return -EINVAL;
        if (!cleaned)
                return -ENOMEM;
        for (;;) {
                at += strspn(at, " ");
                if (!*at)
                        return text_finish(&text, ret_text);
                length = line_length(at, width - indent);
                text_fill(&text, ' ', indent);
                text_append(&text, at, length);
                end_line(&text);
                at += length;
        }
}

char *table_bytes(int64_t bytes, char buffer[TABLE_NUMBER_MAX])
{
        static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
        double value = (double)bytes;
        size_t unit = 0;

        /* From 1023.95 on, one decimal would print 1024.0. */
        while ((value >= 1023.95 || value <= -1023.95) && unit < ARRAY_SIZE(units) - 1) {
                value /= 1024;
                unit++;
        }
        snprintf(buffer, TABLE_NUMBER_MAX, "%.*f %s", unit ? 1 : 0, value, units[unit]);
        return buffer;
}

char *table_percent(double part, double whole, char buffer[TABLE_NUMBER_MAX])
{
        if (whole > 0)
                snprintf(buffer, TABLE_NUMBER_MAX, "%.1f%%", 100 * part / whole);
        else
                snprintf(buffer, TABLE_NUMBER_MAX, "-");
        return buffer;
}

char *table_duration(int64_t seconds, char buffer[TABLE_NUMBER_MAX])
{
        if (seconds >= 86400)
                snprintf(buffer, TABLE_NUMBER_MAX, "%" PRId64 "d %02" PRId64 "h", seconds / 86400,
                         seconds % 86400 / 3600);
        else if (seconds >= 3600)
                snprintf(buffer, TABLE_NUMBER_MAX, "%" PRId64 "h %02" PRId64 "m", seconds / 3600,
                         seconds % 3600 / 60);
        else if (seconds >= 60)
                snprintf(buffer, TABLE_NUMBER_MAX, "%" PRId64 "m %02" PRId64 "s", seconds / 60, seconds % 60);
        else
                snprintf(buffer, TABLE_NUMBER_MAX, "%" PRId64 "s", seconds);
        return buffer;
}

char *table_ratio(double part, double whole, char buffer[TABLE_NUMBER_MAX])
{
        if (whole > 0)
                snprintf(buffer, TABLE_NUMBER_MAX, "%.1f", part / whole);
        else
                snprintf(buffer, TABLE_NUMBER_MAX, "-");
        return buffer;
}
