#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A client: a process that is linked with libwp, its connection, its areas, its workers
 *
 * Its main thread, the manager, connects, takes events, loses patience with a connection that the daemon ended, reaps
 * children, and in the end looks whether anything is left of the library.
 */

#include <stdbool.h>
#include <stdint.h>

#include "torture/area.h"
#include "torture/shared.h"
#include "torture/worker.h"

#define AREAS_PER_THREAD 2
#define MAX_AREAS        (MAX_THREADS * AREAS_PER_THREAD)
#define MAX_DEPTH        3 /* of children's children */

struct client {
        unsigned index;
        uint32_t generation;
        struct client_slot *slot;
        struct worker manager; /* it draws, too */
        unsigned n_workers;
        struct worker workers[MAX_THREADS];
        unsigned n_areas;
        struct area areas[MAX_AREAS];

        /* Inside: `wp` may be used. Closed: it may change. */
        struct gate connection;
        struct wp_client *wp;

        /* A child's: those between it and the client that had a connection of their own. */
        struct forebear {
                const struct child_slot *slot;
                pid_t pid;
        } forebears[MAX_DEPTH];
        unsigned n_forebears;

        uint64_t lost_ns; /* when its end was seen; 0: it is there */
        uint64_t patience_ns;
        uint64_t anew_ns;  /* when to connect anew for no reason */
        uint64_t leave_ns; /* when to exit in the middle of everything; 0: never */
};

/* In a forked child, which has no part in its parent's connection. Whether it has one of its own: `wp`. */
static inline void client_inherit(struct client *client)
{
        client->wp = NULL;
        atomic_store(&client->connection.inside, 0);
}

static inline struct fate *client_fate(const struct client *client)
{
        return client_slot_fate(client->slot, client->generation);
}

/* For its children: it, or one between that had a connection of its own, is dead, or will be at once. */
bool client_is_orphaned(const struct client *client);

/*
 * Whether nobody need have the context that a child inherited with this area, by the rules of doc/memory.md. That the daemon
 * was told is something that only shows later, so some time is left for it.
 */
bool client_is_unserved(const struct worker *worker, const struct area *area);

/* Until a watcher that gets little CPU has told the daemon of a fork, or a new daemon of all its children. */
#define TOLD_NS (500 * NSEC_PER_MSEC)

/* The process: forked from the main one. */
void client_main(unsigned index) __attribute__((__noreturn__));
