#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Helper: a process of its own, which finds out who maps a page of a pool
 *
 * For that it needs a right that the daemon gives up (see sandbox.c), and it may have to wait: for as long as it takes to go
 * through all processes, and for any of them that keeps its address space locked. Nobody else waits with it. It knows nothing
 * and keeps nothing, hears from the daemon alone, and ends with it.
 */

#include <stdbool.h>
#include <stddef.h>

#include "kernel/rmap.h"
#include "util/error.h"

#define HELPER_MAX_SITES 4096 /* in one answer */

struct helper;

/* The answer; `complete`: there are no more. Sites are in the order of processes, and valid during the call. */
typedef void (*helper_done)(void *context, const struct rmap_site *sites, size_t n_sites, bool complete);

/*
 * Starts the process; before there is a second thread, and before the daemon is confined. *ret_fd, which belongs to the
 * helper, is readable when helper_answered() is to be called.
 */
int helper_new(struct helper **ret_helper, int *ret_fd) wp_check;
/* Whoever waits for an answer is forgotten. */
struct helper *helper_free(struct helper *helper);

/*
 * Asks; `done` is called once, later, unless the question is taken back before. The daemon itself is never among the
 * answers. -EPIPE: the process is gone.
 */
int helper_ask(struct helper *helper, const struct rmap_query *query, helper_done done,
               void *context) wp_check;
/* Takes back questions whose context `matches` picks; each such context is given to `release`. */
void helper_cancel(struct helper *helper, bool (*matches)(const void *context, const void *key),
                   const void *key, void (*release)(void *context));

/* -EPIPE: the process is gone, and the descriptor not to be watched any more; who waited has got an answer without sites. */
int helper_answered(struct helper *helper) wp_check;
