#pragma once
/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The inside of libwp: what its files share
 *
 * Threads. The program's threads ask (wp.c, region.c, event.c). The *agent* (agent.c) is the only reader of
 * the socket; it carries out batches and hands replies to whoever asked. The *watcher* (watcher.c) sleeps
 * until the daemon's end of the socket closes and then serves the hold contexts in the daemon's place.
 *
 * Hygiene. While the agent has a run frozen, any thread of the program may wait for it, holding any lock. So
 * agent and watcher block all signals, run on stacks of their own, call neither malloc nor stdio, need no
 * lazy binding, and touch no memory that could be merged: this structure and all that hangs on it come from
 * mmap. `lock` may be held by a thread that waits for a frozen page (its stack may be registered), so the
 * agent never takes it inside a run.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "libwp/queue.h"
#include "libwp/wire.h"
#include "util/bits.h"
#include "wp.h"

#define wp_export __attribute__((__visibility__("default")))

#define CLIENT_MAX_REGIONS  65536
#define CLIENT_MAX_REQUESTS 64
#define CLIENT_MAX_CHILDREN 256
#define CLIENT_MAX_REMOVED  32
#define CLIENT_STACK_BYTES  ((size_t)256 << 10)

/* The four contexts of a client; KERNEL facts: tests/kernel/. What each is for: agent.c. */
enum client_context {
        CONTEXT_TRACK,
        CONTEXT_GUARD,
        CONTEXT_STAGE,
        CONTEXT_HOLD,
        N_CONTEXTS,
};
_Static_assert(N_CONTEXTS <= WIRE_MAX_FDS, "all contexts travel in one message");

struct wp_region {
        struct wp_client *client; /* NULL: the entry is free */
        uint32_t id;              /* the daemon's name for it */
        uintptr_t start;
        size_t length;
};

/* A call waiting for its reply; free when serial is 0. */
struct client_request {
        uint64_t serial;
        bool done;
        int error; /* when the connection broke: -ENOTCONN, and there is no reply */
        struct wire_reply reply;
};

/* A range that the program discarded while it was guarded; see trap T3 in agent.c. */
struct client_removed {
        uintptr_t start;
        uintptr_t end;
        uint64_t time_ns;
};

struct wp_client {
        struct wp_client *next; /* all clients of the process, see wp.c */
        pid_t pid;              /* of the process that connected: a forked child has no connection */
        int socket_fd;
        int context_fds[N_CONTEXTS];
        int pool_fd;
        int pagemap_fd;    /* of this process */
        int event_fd;      /* the bell, a pair of sockets: readable here when an event waits */
        int bell_fd;       /* its other end; the daemon has it, too */
        int agent_stop_fd; /* eventfds: readable once the thread is to end */
        int watcher_stop_fd;
        struct queue_ring *queue;
        uint64_t pool_bytes;

        /* agent */
        pthread_t agent;
        void *agent_stack;
        char *staging; /* WIRE_RUN_PAGES pages, registered with stage */
        unsigned removed_next;
        struct client_removed removed[CLIENT_MAX_REMOVED];
        uint64_t inbox[WIRE_MAX_MESSAGE / sizeof(uint64_t)];
        uint64_t outbox[WIRE_MAX_MESSAGE / sizeof(uint64_t)];

        /* watcher */
        pthread_t watcher;
        void *watcher_stack;
        _Atomic bool merged_ever;           /* some memory may still be a mapping of the pool */
        _Atomic bool lingering;             /* the client is gone; only the watcher keeps this structure */
        struct queue_producer own_producer; /* of the watcher, when it serves */

        pthread_mutex_t lock; /* guards all below, and sending on the socket */
        pthread_cond_t replied;
        bool connected;
        uint64_t next_serial;
        struct client_request requests[CLIENT_MAX_REQUESTS];
        struct wp_region *regions; /* CLIENT_MAX_REGIONS, lazily populated */
        uint32_t n_regions;        /* entries ever used */
        /*
         * Hold contexts of forked children, -EBADF where there is none. Not under the lock: the watcher needs
         * them to answer a fault of a thread that may hold it. Only the agent and, when there is no daemon,
         * the watcher change them.
         */
        _Atomic int child_fds[CLIENT_MAX_CHILDREN];
};

/* Memory of the library's own: page aligned, zeroed, never from malloc. NULL when there is none. */
void *client_map(size_t bytes);
void client_unmap(void *memory, size_t bytes);

/* Makes event_fd readable. */
void client_ring_bell(struct wp_client *client);

/* Sets what wp_strerror_detail() says to the calling thread and returns `error`. */
int client_fail(int error, const char *detail);

/*
 * Sends a request and waits for its reply, which is copied to *ret_reply (may be NULL). Returns the reply's
 * error, or
 * -ENOTCONN / -ETIMEDOUT / -EMFILE (too many calls at once). `message` gets its serial here.
 */
int client_call(struct wp_client *client, struct wire_header *message, const int *fds, unsigned n_fds,
                struct wire_reply *ret_reply) wp_check;

/* The calling process is the one that connected, and the client is real; else -EINVAL / -ENOTCONN. */
int client_check(struct wp_client *client) wp_check;

/* The agent's news: a reply arrived; the connection ended. */
void client_replied(struct wp_client *client, const struct wire_reply *reply);
void client_hung_up(struct wp_client *client);

/* The region that contains the address, or NULL. Called with the lock held. */
struct wp_region *client_region_at(struct wp_client *client, uintptr_t address);

/* Keeps the hold context of a forked child, for the time when the daemon is gone; takes the descriptor. */
void client_add_child(struct wp_client *client, int fd);

/*
 * Starts a thread of the library: own stack, all signals blocked. *ret_stack is to be freed after the join.
 */
int client_start_thread(pthread_t *ret_thread, void **ret_stack, void *(*entry)(void *),
                        void *argument) wp_check;

/* Thread entries; the argument is the client. */
void *agent_main(void *client);
void *watcher_main(void *client);

/* Makes the staging area and registers it; before the agent starts. */
int agent_prepare(struct wp_client *client) wp_check;
void agent_release(struct wp_client *client);

/* The client is gone for good: a forked child has nothing to close of it. */
void client_forget(struct wp_client *client);

/* Whether some mapping of this process still belongs to the pool (true when that cannot be told). */
bool watcher_pool_mapped(struct wp_client *client);
