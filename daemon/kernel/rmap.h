#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Who maps a page of a file: what the kernel's reverse map knows and does not tell, put together from /proc/PID/maps
 * and /proc/PID/pagemap (proc_pid_maps(5), proc_pid_pagemap(5))
 *
 * A look at a system that goes on meanwhile: whoever comes, goes or writes during the walk may be found or not. Of other
 * users' processes it needs CAP_SYS_PTRACE, or passes over them, and CAP_DAC_READ_SEARCH besides, since page maps are for
 * their owners only (tests/kernel/foreign_pagemap.c).
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"

#define RMAP_ANYBODY ((uid_t)-1)

struct rmap_query {
        uint64_t dev; /* the file's, and */
        uint64_t inode;
        uint64_t offset; /* where in it the page begins, bytes */
        uid_t uid;       /* whose processes; RMAP_ANYBODY: everybody's */
        pid_t except;    /* a process that does not count, or 0 */
};

struct rmap_site {
        pid_t pid;
        uid_t uid; /* the owner of its files in /proc: root's are those that the kernel keeps from their user */
        uint64_t address;
};

/* False from either ends the walk. */
struct rmap_visitor {
        bool (*go_on)(void *context); /* asked before each process */
        bool (*visit)(void *context, const struct rmap_site *site);
        void *context;
};

/*
 * Visits each place at which the page is mapped and still is the file's own; a private copy is none. 1: that may not be all,
 * since the walk was ended or a process that maps the page cannot be looked at.
 */
int rmap_walk(const struct rmap_query *query, const struct rmap_visitor *visitor) wp_check;
