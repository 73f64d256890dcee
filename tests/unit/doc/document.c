/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Documents as their tests see them. */

#include "document.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILE_BYTES ((size_t)1 << 20)

char *document_read(const char *path)
{
        FILE *file = fopen(path, "re");
        char *text = calloc(1, MAX_FILE_BYTES + 1);
        size_t length = 0;

        if (file && text)
                length = fread(text, 1, MAX_FILE_BYTES, file);
        if (file)
                fclose(file);
        if (length)
                return text;
        free(text);
        return NULL;
}

void names_add(struct names *names, const char *name, size_t length)
{
        if (names->n == DOCUMENT_MAX_NAMES)
                abort();
        snprintf(names->name[names->n++], DOCUMENT_MAX_NAME, "%.*s", (int)length, name);
}

static unsigned names_count(const struct names *names, const char *name)
{
        unsigned n = 0;

        for (size_t i = 0; i < names->n; i++)
                n += !strcmp(names->name[i], name);
        return n;
}

const char *names_missing(const struct names *names, const struct names *among)
{
        for (size_t i = 0; i < names->n; i++)
                if (names_count(names, names->name[i]) != 1 || !names_count(among, names->name[i]))
                        return names->name[i];
        return NULL;
}

static bool in_word(char c)
{
        return isalnum((unsigned char)c) || c == '_';
}

bool document_has_word(const char *text, const char *word)
{
        size_t length = strlen(word);

        for (const char *at = text; (at = strstr(at, word)); at++)
                if ((at == text || !in_word(at[-1])) && !in_word(at[length]))
                        return true;
        return false;
}

static size_t line_length(const char *line)
{
        return strcspn(line, "\n");
}

static const char *next_line(const char *line)
{
        line += line_length(line);
        return *line ? line + 1 : line;
}

/* Whether the line is exactly this heading. */
static bool is_heading(const char *line, const char *heading)
{
        return line_length(line) == strlen(heading) && !strncmp(line, heading, strlen(heading));
}

static void add_cell(struct names *cells, const char *cell, size_t length)
{
        char plain[DOCUMENT_MAX_NAME];
        size_t n = 0;

        for (size_t i = 0; i < length && n < sizeof(plain); i++)
                if (cell[i] != '`')
                        plain[n++] = cell[i];
        for (cell = plain; n > 0 && *cell == ' '; cell++)
                n--;
        while (n > 0 && cell[n - 1] == ' ')
                n--;
        names_add(cells, cell, n);
}

static void add_row(const char *line, unsigned column, struct names *cells)
{
        const char *end = line + line_length(line), *cell = line + 1;

        for (; column > 0 && cell < end; column--)
                cell += strcspn(cell, "|\n") + 1;
        if (cell < end)
                add_cell(cells, cell, strcspn(cell, "|\n"));
}

void document_column(const char *text, const char *heading, unsigned table, unsigned column,
                     struct names *ret_cells)
{
        const char *line = text;
        unsigned row = 0;

        ret_cells->n = 0;
        while (*line && !is_heading(line, heading))
                line = next_line(line);
        for (line = next_line(line); *line && *line != '#'; line = next_line(line)) {
                if (*line != '|') {
                        table -= row > 0 && table > 0 ? 1 : 0;
                        if (row > 0 && ret_cells->n)
                                return;
                        row = 0;
                        continue;
                }
                /* The first two rows are the titles and the rule below them. */
                if (row++ >= 2 && !table)
                        add_row(line, column, ret_cells);
        }
}

void document_members(const char *text, const char *opening, const char *closing, document_member member,
                      struct names *ret_names)
{
        const char *line = text, *name;
        size_t length;

        ret_names->n = 0;
        while (*line && strncmp(line, opening, strlen(opening)))
                line = next_line(line);
        for (line = next_line(line); *line && strncmp(line, closing, strlen(closing)); line = next_line(line))
                if (member(line, line_length(line), &name, &length))
                        names_add(ret_names, name, length);
}
