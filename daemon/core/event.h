#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Event: a userfaultfd message, decoded (userfaultfd(2)). Pure. */

#include <stdint.h>
#include <sys/types.h>

#include "kernel/uapi.h"

enum event_kind {
        EVENT_OTHER, /* nothing that we have to answer */
        EVENT_WRITE, /* a write to a protected page */
        EVENT_MINOR, /* an access to a page that the program discarded */
        EVENT_FORK,
        EVENT_REMAP,
};

struct event {
        enum event_kind kind;
        uint64_t
                address; /* EVENT_WRITE, EVENT_MINOR: as exact as the kernel gave it; EVENT_REMAP: the new place */
        pid_t tid;       /* in the client's own numbering; 0 when unknown */
        int child_fd; /* EVENT_FORK */
};

struct event event_decode(const struct uffd_msg *message);
