#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The functions of the table in ops.c, by file. */

#include "torture/area.h"
#include "torture/worker.h"

/* op_touch.c */
void op_load(struct worker *worker, struct area *area);
void op_store(struct worker *worker, struct area *area);
void op_atomic(struct worker *worker, struct area *area);
void op_copy(struct worker *worker, struct area *area);
void op_fill(struct worker *worker, struct area *area);

/* op_advice.c */
void op_dontneed(struct worker *worker, struct area *area);
void op_free(struct worker *worker, struct area *area);
void op_cold(struct worker *worker, struct area *area);
void op_pageout(struct worker *worker, struct area *area);
void op_populate(struct worker *worker, struct area *area);
void op_huge(struct worker *worker, struct area *area);
void op_lock(struct worker *worker, struct area *area);
void op_protect(struct worker *worker, struct area *area);

/* op_layout.c */
void op_renew(struct worker *worker, struct area *area);
void op_remap(struct worker *worker, struct area *area);
void op_move(struct worker *worker, struct area *area);
void op_resize(struct worker *worker, struct area *area);

/* op_process.c */
void op_fork(struct worker *worker, struct area *area);
void op_clone(struct worker *worker, struct area *area);
void op_join(struct worker *worker, struct area *area);
void op_crowd(struct worker *worker, struct area *area);
void op_vfork(struct worker *worker, struct area *area);
void op_spawn(struct worker *worker, struct area *area);
void op_thread(struct worker *worker, struct area *area);

/* op_transfer.c */
void op_pipe(struct worker *worker, struct area *area);
void op_file(struct worker *worker, struct area *area);
void op_socket(struct worker *worker, struct area *area);
void op_vector(struct worker *worker, struct area *area);

/* op_direct.c */
void op_direct(struct worker *worker, struct area *area);
void op_uring(struct worker *worker, struct area *area);
void ring_close(struct worker *worker);

/* op_peer.c */
void op_vm(struct worker *worker, struct area *area);
void op_mem(struct worker *worker, struct area *area);
void op_ptrace(struct worker *worker, struct area *area);

/* op_self.c */
void op_sabotage(struct worker *worker, struct area *area);
void op_stand(struct worker *worker, struct area *area);

/* op_wp.c */
void op_register(struct worker *worker, struct area *area);
void op_unregister(struct worker *worker, struct area *area);
void op_exclude(struct worker *worker, struct area *area);
void op_watch(struct worker *worker, struct area *area);
void op_ask(struct worker *worker, struct area *area);
void op_stat(struct worker *worker, struct area *area);

/* op_view.c */
void op_view(struct worker *worker, struct area *area);
void op_view_new(struct worker *worker, struct area *area);
void op_view_copy(struct worker *worker, struct area *area);
void op_view_drop(struct worker *worker, struct area *area);
void op_view_write(struct worker *worker, struct area *area);
void op_view_register(struct worker *worker, struct area *area);
void op_view_unregister(struct worker *worker, struct area *area);
void op_view_exclude(struct worker *worker, struct area *area);
void op_view_ask(struct worker *worker, struct area *area);
void op_view_stat(struct worker *worker, struct area *area);

/* What calls say when the daemon is gone or, under injection, when it could not do something. */
void expect_errno(int r, const char *call, int documented, int also_documented);

/* Ends the registration of an area whose layout the caller has closed; false when that is not possible now. */
bool area_unregister(struct area *area, struct client *client);

/*
 * Between these nothing of the range is merged, and it may be unmapped and mapped over. False: that is not possible now. The
 * caller holds the range exclusively.
 */
bool exclusion_begin(struct worker *worker, const struct range *range);
void exclusion_end(struct worker *worker, const struct range *range);
