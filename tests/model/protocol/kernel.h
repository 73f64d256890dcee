#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What the kernel does in one step, that is without dropping the lock of the address space
 *
 * Names, conditions and results follow mm/userfaultfd.c, fs/userfaultfd.c, mm/memory.c, mm/mremap.c and
 * mm/madvise.c. Ioctls return 0 or a negative errno like the real ones. Two things are easily overlooked, and
 * modelled because they matter: UFFDIO_COPY and UFFDIO_WRITEPROTECT do not ask to *which* context the memory
 * belongs, only that it belongs to one; and the context of a system call that waits for its event counts as
 * changing from before the event can be read until its thread runs again.
 */

#include "tests/model/protocol/state.h"

#include <errno.h>

/* ---- features of contexts */
bool context_is_sync(unsigned context);   /* a write to a protected page is a fault */
bool context_is_watch(unsigned context);  /* of what the program protects and is not merged */
bool context_has_minor(unsigned context); /* an empty entry over a page of the pool is a fault */
bool context_has_missing(const struct move *move, unsigned context); /* and one over a hole */
bool context_told_of_remove(const struct move *move, unsigned context);
bool context_told_of_fork(unsigned context);
bool context_told_of_remap(unsigned context);

/* ---- events */
bool changing(const struct state *state, unsigned process, unsigned context, const struct scenario *scenario);
void event_post(struct move *move, unsigned thread, unsigned context);
/* Reads the oldest event; returns whose it was, or -1 if there is none. */
int event_read(struct move *move, unsigned process, unsigned context);
bool event_unread(const struct move *move, unsigned process, unsigned context);
/* Whether somebody discards the page right now. `read`: only those whose event was read. */
bool discarding(const struct move *move, unsigned process, unsigned page, bool read);

/* ---- threads */
struct instruction current(const struct move *move, unsigned thread); /* what it is doing or does next */
unsigned thread_process(const struct scenario *scenario, unsigned thread);

/* ---- faults */
void wake(struct move *move, unsigned process, unsigned context, unsigned pages);
/*
 * The thread touches the page. True: `place` is readable, or holds a frame of its own that is writable.
 * False: it sleeps in a fault now.
 */
bool touch(struct move *move, unsigned thread, unsigned page, bool write);
/* Whether who touches the page now finds what the pool has, although the program may have discarded it. */
bool in_gap(const struct state *state, unsigned process, unsigned page);
/* What touch() does if it must; always false. */
bool sleep_in_fault(struct move *move, unsigned thread, unsigned page, enum fault fault);
/* The content at a readable place. */
unsigned read_place(const struct state *state, unsigned row, unsigned page);

/* ---- pages and mappings */
void frame_new(struct state *state, unsigned row, unsigned page, unsigned content);
bool frame_shared(const struct state *state, unsigned frame);
void zap(struct state *state, unsigned row, unsigned page);
void map_place(struct state *state, unsigned row, unsigned page, enum vma vma);
void move_mapping(struct state *state, unsigned page); /* from aside into the run */
unsigned pool_mapcount(const struct state *state, unsigned page);
void pool_punch(struct state *state, unsigned page);
void fork_tables(struct move *move, unsigned thread);
void child_exit(struct state *state);
void tidy(struct state *state);

/* ---- userfaultfd */
void uffd_register(struct state *state, unsigned row, unsigned page, unsigned context);
void uffd_unregister(struct move *move, unsigned row, unsigned page);
int uffd_write_protect(struct move *move, unsigned process, unsigned context, unsigned row, unsigned pages,
                       bool protect);
int uffd_copy(struct move *move, unsigned process, unsigned context, unsigned page, unsigned content);
int uffd_zeropage(struct move *move, unsigned context, unsigned page); /* of the parent */
int uffd_move_out(struct move *move, unsigned page);
int uffd_move_back(struct move *move, unsigned page);
void uffd_close_child(struct move *move, unsigned context);
