#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Page contents
 *
 * All clients draw from one small set: content number n is always the same page, and number 0 is zeros. Memory is filled with
 * runs n, n+1, n+2 ... (after the last comes 0), so that runs of all lengths are found more than once.
 */

#include <stddef.h>
#include <stdint.h>

#define CONTENT_NUMBERS 256
#define CONTENT_SEED    UINT64_C(0x746f7274757265) /* the same in every run: merging does not depend on it */

/* Fills the table of all contents: CONTENT_NUMBERS pages. */
void content_make(char *table);

static inline unsigned content_next(unsigned number)
{
        return (number + 1) % CONTENT_NUMBERS;
}

/* The page itself, not to be written. */
const char *content_page(unsigned number);

/* Writes the contents as a file that is read directly; 0, or a negative errno when that does not work there. */
int content_write_file(const char *path);
#define CONTENT_FILE_PAGES (4 * CONTENT_NUMBERS) /* of the file: the set, again and again */
