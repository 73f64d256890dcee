#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A service manager's descriptor store, for the daemons of a test that are started one after the other
 *
 * It understands of sd_notify(3) what the daemon says of its pools, and passes on what it keeps as
 * sd_listen_fds_with_names(3) expects it.
 */

#include "util/error.h"

#define FD_STORE_MAX 16

struct fd_store {
        int notify_fd; /* what daemons say arrives here */
        char path[108];
        unsigned n;
        int fds[FD_STORE_MAX];
        char names[FD_STORE_MAX][32];
};

/* Listens in this directory. */
int fd_store_open(struct fd_store *store, const char *directory) wp_check;

/* Takes what daemons have sent so far. -EBADMSG: one cannot be understood; -ENOSPC. */
int fd_store_collect(struct fd_store *store) wp_check;

/* Loses what it has. */
void fd_store_forget(struct fd_store *store);
void fd_store_close(struct fd_store *store);

/* In the process that becomes the daemon, before it executes it: descriptors from 3 on, and the environment. */
int fd_store_pass(const struct fd_store *store) wp_check;
