#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Closer: a thread that closes descriptors which came from clients
 *
 * The last close of a descriptor may block for as long as its owner likes - a socket that lingers, a file of
 * a file system in userspace -, and a client can make ours the last. So whatever came from a client and is
 * not known to be one of our kinds is closed here, sockets of clients included (what they sent and nobody
 * received is closed with them). A client that blocks the thread costs the descriptors that wait behind his,
 * and nothing else.
 */

#include "util/error.h"

struct closer;

int closer_new(struct closer **ret_closer) wp_check;
/* Waits a moment for what is to be closed, and leaves behind what blocks. */
struct closer *closer_free(struct closer *closer);

/* Takes the descriptor; harmless for a negative one. Always returns -EBADF. */
int closer_close(struct closer *closer, int fd);
