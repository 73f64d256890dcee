#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Views: mappings of files, and who writes to these
 *
 * Theory of operation: view.c.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/bits.h"
#include "wp.h"

struct client;
struct worker;

#define VIEW_GROUPS      2 /* of files with the same content, but for moments */
#define VIEW_GROUP_FILES 3
#define VIEW_FILES       (VIEW_GROUPS * VIEW_GROUP_FILES)
#define VIEW_PAGES       ((size_t)256) /* of each file */
#define VIEWS_PER_WORKER 2

/* Who wants to write waits at most that long: the kernel's patience, and some. */
#define VIEW_WRITER_SECONDS 50

/* Versions of the content of which the writing has begun, and ended. */
struct view_file {
        char path[256];
        _Atomic uint32_t begun;
        _Atomic uint32_t ended;
};

/* A worker's, and nobody else's. */
struct view {
        char *memory; /* NULL: there is none now */
        unsigned file;
        size_t first; /* page of the file */
        size_t n_pages;
        int kind;                 /* MAP_PRIVATE or MAP_SHARED */
        struct wp_region *region; /* used inside the connection only */
        uint32_t floor;           /* in a child: the version that had ended when it was forked */
        uint64_t own
                [VIEW_PAGES]; /* by page: what all words of the worker's own copy are; 0: it is the file's */
};

/* Makes the files; false, and said, where their mappings are not merged. They are removed by views_remove(). */
bool views_create(void);
void views_remove(void);

/* The process that writes to them, forked from the main one; ends when the run does. */
pid_t views_start_writer(void);

void view_map(struct worker *worker, struct view *view);
void view_unmap(struct view *view);

/* Compares every word of some pages, or of all views of a worker. */
void view_verify(struct worker *worker, const struct view *view, size_t page, size_t n, const char *when);
void views_verify(struct worker *worker, const char *when);
void views_release(struct worker *worker);

/* Private: the pages are the worker's own copies from now on. Nothing of them is merged. */
void view_write(struct worker *worker, struct view *view, size_t page, size_t n);

/* Before a fork(2). */
void views_note_fork(struct worker *worker);

/* Their regions are gone: the connection is closed, or this is a child. That of a raw clone(2) lacks what was merged of them. */
void views_forget(struct worker *worker);
