/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Event: a userfaultfd message, decoded. */

#include "core/event.h"

static struct event decode_pagefault(const struct uffd_msg *message)
{
        struct event event = {
                .address = message->arg.pagefault.address,
                .tid = (pid_t)message->arg.pagefault.feat.ptid,
                .child_fd = -1,
        };

        /*
         * The WP flag may come with WRITE, and MINOR with WRITE; a fault without either is a missing page: it
         * was discarded after the page of the pool had been given back.
         */
        if (message->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP)
                event.kind = EVENT_WRITE;
        else
                event.kind = EVENT_MINOR;
        return event;
}

struct event event_decode(const struct uffd_msg *message)
{
        switch (message->event) {
        case UFFD_EVENT_PAGEFAULT:
                return decode_pagefault(message);
        case UFFD_EVENT_FORK:
                return (struct event){.kind = EVENT_FORK, .child_fd = (int)message->arg.fork.ufd};
        case UFFD_EVENT_REMAP:
                return (struct event){.kind = EVENT_REMAP, .address = message->arg.remap.to, .child_fd = -1};
        default:
                return (struct event){.kind = EVENT_OTHER, .child_fd = -1};
        }
}
