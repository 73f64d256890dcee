#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A worker: a thread of a client, or a forked child, that does one operation after the other
 *
 * Its choices are a stream of random numbers that the run's seed, the client, its generation and the worker's number
 * determine. What they meet - who holds which page, what the daemon does - is up to the scheduler.
 */

#include <liburing.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "model/random.h"
#include "torture/area.h"
#include "torture/shared.h"
#include "torture/view.h"

#define WORKER_BUFFER_PAGES 64

struct child_slot;
struct client;

struct worker {
        struct client *client;
        unsigned index;
        pthread_t thread;
        struct random random;
        struct progress *progress;
        const char *what; /* the operation's name */
        int32_t tid;
        unsigned depth; /* 0: a thread of the client; n: a child's child's ... */
        struct forked {
                uint64_t time_ns;
                uint64_t told_ns;       /* from then on the client's watcher has told the daemon of it */
                uint64_t n_ends;        /* how often the daemon had ended before */
                uint32_t n_disconnects; /* and the client had disconnected */
                bool raw;               /* by a raw clone(2): malloc(3) and the like may be locked for ever */
        } forked;                       /* a child */
        uint64_t until_ns;              /* a child's end */
        struct child_slot *slot;        /* a child's */

        char *buffer; /* WORKER_BUFFER_PAGES pages, never registered */
        int pipe[2];
        int sockets[2];
        int file;   /* of its own, without a name */
        int direct; /* the file of contents; -EBADF: there is none */
        int peer;   /* the process that reaches into ours, see peer.h; -EBADF: none */
        bool has_ring;
        struct io_uring ring;
        struct view views[VIEWS_PER_WORKER];
};

/* A number below `n`. */
static inline uint64_t draw(struct worker *worker, uint64_t n)
{
        return random_below(&worker->random, n);
}

static inline bool coin(struct worker *worker)
{
        return draw(worker, 2);
}

/* Before the thread is started, in a process without areas in use. */
void worker_init(struct worker *worker, struct client *client, unsigned index, struct progress *progress);

void worker_release(struct worker *worker);

/* The thread. Ends when the run does. */
void *worker_main(void *worker);

/* The life of a forked child, which never returns. */
void worker_live_as_child(struct worker *worker) __attribute__((__noreturn__));
