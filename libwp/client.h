#pragma once
/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The inside of libwp: what its files share
 *
 * Threads. The program's threads ask (wp.c, region.c, event.c). The *agent* (agent.c) talks to the daemon
 * (link.c) and carries out batches, one run at a time (run.c). The *watcher* (watcher.c) serves the faults of
 * merged memory. Neither needs the daemon for what it does to memory: that one may be stopped, killed or upgraded
 * at any moment.
 *
 * Hygiene. While the agent has a run frozen, any thread of the program may wait for it, holding any lock. So
 * agent and watcher block all signals, run on stacks of their own, call neither malloc nor stdio, need no
 * lazy binding, and touch no memory that could be merged: this structure and all that hangs on it come from
 * mmap. `lock` may be held by a thread that waits for a frozen page (its stack may be registered), so the
 * agent never takes it inside a run, and the watcher never takes it at all.
 */

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/un.h>

#include "libwp/queue.h"
#include "libwp/shield.h"
#include "libwp/wire.h"
#include "util/bits.h"
#include "wp.h"

#define wp_export __attribute__((__visibility__("default")))

#define CLIENT_MAX_REGIONS  65536
#define CLIENT_MAX_REQUESTS 64
#define CLIENT_MAX_CHILDREN 1024
#define CLIENT_MAX_REMOVED  32
#define CLIENT_MAX_POOLS    16
#define CLIENT_NAME_BYTES   80 /* of anonymous memory: prctl(2), PR_SET_VMA_ANON_NAME */
#define CLIENT_STACK_BYTES  ((size_t)256 << 10)

/* The contexts of a client; KERNEL facts: tests/kernel/. What each is for: run.c. */
enum client_context {
        CONTEXT_TRACK,
        CONTEXT_GUARD,
        CONTEXT_STAGE,
        CONTEXT_HOLD, /* from here on they are the watcher's to read */
        CONTEXT_LAZY,
        CONTEXT_WATCH,
        CONTEXT_CROWD, /* the first of as many as there are places for hot pages, see shield.h */
        N_CONTEXTS = CONTEXT_CROWD + SHIELDS_MAX_HOT,
        N_SERVED = N_CONTEXTS - CONTEXT_HOLD,
};
_Static_assert(N_CONTEXTS <= WIRE_MAX_FDS, "all contexts travel in one message");

struct wp_region {
        struct wp_client *client; /* NULL: the entry is free */
        bool joined;              /* the daemon knows it, as `id` */
        bool leaving;             /* being unregistered: nothing more is merged, no new daemon is told */
        bool returning;           /* a new daemon is to be told of it, */
        uint64_t serial;          /* with this REGISTER, if that is under way */
        size_t n_repeated;        /* pages whose exclusion the daemon has been told */
        uint32_t id;
        uint64_t flags; /* WP_MERGE, WP_NOTIFY, WP_LAZY */
        /* What the daemon saw that its memory has, and that memory in the place of merged memory must have. */
        struct client_kept {
                uint64_t flags; /* WIRE_KEPT_* */
                char name[CLIENT_NAME_BYTES];
        } kept;
        uintptr_t start;
        size_t length;
        /* Of a mapping of a file, see filerun.c; the agent's. */
        uint32_t file; /* its number, and 1 */
        char *shadow;
        uint64_t *merged;           /* a bit a page, made with the shadow */
        _Atomic uint64_t *excluded; /* a bit a page; NULL: no page was ever excluded */
};

/* A call waiting for its reply; free when serial is 0. */
struct client_request {
        uint64_t serial;
        bool done;
        int error; /* when the connection broke: -ENOTCONN, and there is no reply */
        struct wire_reply reply;
};

/* What the agent is asked to do for a thread of the program. */
enum client_errand_kind {
        ERRAND_GIVE_BACK, /* what is merged, without a daemon */
        ERRAND_PROTECT,   /* with `word`; not if the connection of `epoch` is gone */
        ERRAND_RELEASE,
};

struct client_errand {
        enum { ERRAND_NONE, ERRAND_WAITS, ERRAND_DONE } state;
        enum client_errand_kind kind;
        struct wp_region *region; /* that the range is in */
        uintptr_t start;
        size_t length;
        uint64_t epoch;
        shield_word word;
        int error;
};

/* A range that the program discarded while it was guarded; see trap T3 in run.c. */
struct client_removed {
        uintptr_t start;
        uintptr_t end;
        uint64_t time_ns;
};

/* Identity of a pool that this client was given: mappings of it may be around. */
struct client_pool {
        uint64_t dev;
        uint64_t inode;
};

enum link_state {
        LINK_DOWN,     /* no connection; another attempt when its time has come */
        LINK_HELLO,    /* HELLO was sent, WELCOME is expected */
        LINK_CONTEXTS, /* CONTEXTS was sent, REPLY is expected */
        LINK_UP,
};

/* The connection to the daemon, see link.c; the agent's. */
struct link {
        enum link_state state;
        bool once;                 /* the first connection: a failure is final */
        uint64_t deadline_ns;      /* of the handshake; LINK_DOWN: when to try again */
        uint64_t delay_ns;         /* between attempts */
        uint64_t backlog_until_ns; /* how long a full backlog is waited for */
        bool blocked;              /* the socket is full: there is more to be said */
        size_t result_bytes;       /* of the RESULT in the outbox that could not be sent yet */
        uint64_t epoch;            /* how many connections have ended; guarded by client->lock */
        struct sockaddr_un address;
};

/* A context of a forked child. */
struct client_child {
        int fd;
        bool told; /* the daemon has it, too */
};

struct wp_client {
        struct wp_client *next; /* all clients of the process, see wp.c */
        pid_t pid;              /* of the process that connected: a forked child has no connection */
        int socket_fd;          /* its number stays, whatever it is connected to */
        int context_fds[N_CONTEXTS];
        int pool_fd;
        int pagemap_fd; /* of this process, as are the next two */
        int mem_fd;
        int maps_fd;
        int event_fd;   /* eventfds: readable when an event waits, */
        int agent_fd;   /* when the agent has something to do, */
        int watcher_fd; /* when the watcher has */
        int channel_fd; /* where descriptors for the watcher are sent; its end is channel_end_fd */
        int channel_end_fd;
        struct queue_ring *queue;
        uint64_t pool_bytes;

        /* agent */
        pthread_t agent;
        void *agent_stack;
        pthread_mutex_t running; /* held while a run is carried out, and while the process forks */
        char *staging;           /* WIRE_RUN_PAGES pages, registered with stage */
        char scratch[2][1 << PAGE_SHIFT];
        int files[WIRE_FILES]; /* descriptors that share the daemon's leases, or -EBADF */
        unsigned n_files;
        struct link link;
        bool contexts_ready; /* the daemon has enabled them */
        bool dumps_completed;
        unsigned removed_next;
        struct client_removed removed[CLIENT_MAX_REMOVED];
        _Atomic unsigned n_pools; /* ever; only the last CLIENT_MAX_POOLS are known */
        struct client_pool pools[CLIENT_MAX_POOLS];
        uint64_t inbox[WIRE_MAX_MESSAGE / sizeof(uint64_t)];
        uint64_t outbox[WIRE_MAX_MESSAGE / sizeof(uint64_t)];

        /* watcher */
        pthread_t watcher;
        void *watcher_stack;
        _Atomic bool merged_ever; /* some memory may still be a mapping of the pool */
        _Atomic bool lingering;   /* the client is gone; only the watcher keeps this structure */
        _Atomic bool hung_up;     /* the connection ended: the program is to hear of it */
        _Atomic bool came_up;     /* there is a new one, whose daemon knows no child yet */
        _Atomic bool up;
        _Atomic bool stopping;      /* both threads are to end */
        _Atomic bool dropping;      /* the daemon does not answer: the agent is to hang up */
        _Atomic bool wishing;       /* a region is to be known again */
        pthread_mutex_t serving;    /* held by the watcher while it reads and answers; see run_unmerge() */
        struct shields shields;     /* guarded by it; only the agent takes pages in and out */
        pthread_mutex_t queue_lock; /* guards the producer; held for moments, never inside a run */
        struct queue_producer producer;
        /* Of the watcher's own table, see watcher.c. */
        struct client_served {
                int contexts[N_SERVED];
                int socket;
                int spare; /* given up when a child's context finds no room */
        } served;
        sem_t verdict;  /* posted when it has decided whether it ends or lingers */
        sem_t released; /* posted when a lingering watcher has the rest for itself */
        struct client_child children[CLIENT_MAX_CHILDREN];
        unsigned n_children;    /* guarded by `serving`, as are the children */
        unsigned forget_at;     /* so many children: those that are gone are looked for */
        uint64_t cpu_before_ns; /* that the watcher had used when the connection was made */
        bool connected_before;
        bool lost;     /* the program is to hear that the connection ended, */
        bool found;    /* and that there is one again */
        bool spinning; /* faults follow each other closely */
        uint64_t last_fault_ns;
        uint64_t first_fault_ns; /* of those that the daemon has not been told */
        uint64_t faults[(sizeof(struct wire_faults) + WIRE_FAULTS_MAX * sizeof(struct wire_fault)) /
                        sizeof(uint64_t)];

        pthread_mutex_t
                protecting;   /* held while pages are protected, from asking the daemon on, see protect.c */
        pthread_mutex_t lock; /* guards all below */
        pthread_cond_t changed;
        bool connected;
        bool tried;                   /* the first connection was made, or failed: */
        int error;                    /* so, */
        char detail[WIRE_MAX_DETAIL]; /* in words */
        struct client_errand errand;
        uint64_t next_serial;
        struct client_request requests[CLIENT_MAX_REQUESTS];
        struct wp_region *regions; /* CLIENT_MAX_REGIONS, lazily populated */
        uint32_t n_regions;        /* entries ever used */
};

/* Memory of the library's own: page aligned, zeroed, never from malloc. NULL when there is none. */
void *client_map(size_t bytes);
void client_unmap(void *memory, size_t bytes);

/* Makes an eventfd readable; silences it again. */
void client_ring(int event_fd);
void client_silence(int event_fd);

/* Queues an event for the program, folded if there is no room. */
void client_tell(struct wp_client *client, const struct queue_event *event);

/* Sets what wp_strerror_detail() says to the calling thread and returns `error`. */
int client_fail(int error, const char *detail);

/*
 * Sends a request and waits for its reply, which is copied to *ret_reply (may be NULL). Returns the reply's
 * error, or -ENOTCONN / -EMFILE (too many calls at once). `message` gets its serial here.
 */
int client_call(struct wp_client *client, struct wire_header *message, struct wire_reply *ret_reply) wp_check;

/* Lets the agent do an errand, and returns its error. Giving back: 0, or -ENOMEM. */
int client_run_errand(struct wp_client *client, const struct client_errand *errand) wp_check;

/* The calling process is the one that connected, and the client is real; else -EINVAL / -ENOTCONN. */
int client_check(struct wp_client *client) wp_check;

/* The region that contains the address, or NULL. Called with the lock held. */
struct wp_region *client_region_at(struct wp_client *client, uintptr_t address);

/*
 * Starts a thread of the library: own stack, all signals blocked. *ret_stack is to be freed after the join.
 */
int client_start_thread(pthread_t *ret_thread, void **ret_stack, void *(*entry)(void *),
                        void *argument) wp_check;

/* The client is gone for good: a forked child has nothing to close of it. */
void client_forget(struct wp_client *client);
void client_close_all(struct wp_client *client);

/* Thread entries; the argument is the client. */
void *agent_main(void *client);
void *watcher_main(void *client);

/* What the agent hands to the watcher, in copies; the descriptors remain the caller's. */
enum watcher_news {
        WATCHER_CONTEXTS = 1, /* N_SERVED, from hold on */
        WATCHER_SOCKET,       /* a new connection */
        WATCHER_GRANDCHILD,   /* the context of a grandchild, which the daemon has, too */
};

void watcher_hand(struct wp_client *client, enum watcher_news what, const int *fds, unsigned n_fds);

/* Ends the watcher: true; or lets it linger, because there still is something to serve: false. */
bool watcher_end(struct wp_client *client);

/*
 * link.c, called by the agent. link_start() begins the first attempt. link_tick() does what its time has come for and
 * returns when it wants to be called next. link_receive() takes the message that waits; the agent carries out what
 * is handed back: a batch in the inbox (true). link_flush() says what did not fit into the socket before, which
 * link_blocked() tells. link_drop() gives up on a daemon that does not answer.
 */
void link_start(struct wp_client *client);
uint64_t link_tick(struct wp_client *client, uint64_t now_ns);
bool link_receive(struct wp_client *client);
bool link_blocked(const struct wp_client *client);
void link_flush(struct wp_client *client);
void link_drop(struct wp_client *client);

/* run.c, called by the agent. */
int run_prepare(struct wp_client *client) wp_check; /* makes the staging area */
void run_release(struct wp_client *client);
void run_execute(struct wp_client *client, const struct wire_run *wire, struct wire_run_result *result);
/* Reads what waits on guard between runs. */
void run_acknowledge(struct wp_client *client);
/* Whether the pool still has content for the run; -ESTALE. The caller holds a lock on it. */
int run_check_content(const struct wp_client *client, const struct wire_run *wire) wp_check;

/*
 * filerun.c, called by the agent, within `running`: merges a run of a region that is a mapping of a file; gives back what is
 * merged. filerun_forget() is called by who ends the region.
 */
int filerun_merge(struct wp_client *client, struct wp_region *region, const struct wire_run *wire,
                  struct wire_run_result *result) wp_check;
int filerun_restore(struct wp_client *client, struct wp_region *region, const struct wire_run *wire,
                    struct wire_run_result *result) wp_check;
void filerun_forget(struct wp_region *region); /* within `running` */
/* The process is about to fork, within `running`; it is the child of fork(3), and alone. */
void filerun_before_fork(struct wp_client *client);
void filerun_after_fork_child(struct wp_client *client);
/* Everything that is merged of mappings of files goes back to them, at once. */
void filerun_restore_all(struct wp_client *client);
/* The same of [start, start + length), of one region; -ENOMEM: not all of it. */
int filerun_give_back(struct wp_client *client, struct wp_region *region, uintptr_t start,
                      size_t length) wp_check;
/*
 * A file that the daemon has a lease on, as a descriptor that becomes ours (-EBADF: it is of no use any more); and what
 * has to be done now and then as long as there is one: somebody may have waited for a daemon that does not run.
 */
void filerun_take_file(struct wp_client *client, uint32_t file, int fd);
void filerun_look_after(struct wp_client *client);

/*
 * protect.c. Called by the agent: carries out an errand; ends all protection. Called by threads of the program: the region is
 * about to end, and so is the protection of its pages; its record goes.
 */
int protect_execute(struct wp_client *client, const struct client_errand *errand) wp_check;
void protect_break_all(struct wp_client *client);
void protect_leave(struct wp_region *region);
void protect_forget(struct wp_client *client, const struct wp_region *region);
/* How many pages of it are protected, written since or not. */
size_t protect_count(struct wp_region *region);
/* Whether any page of the range is. */
bool protect_touches(struct wp_client *client, uintptr_t start, size_t length);

/*
 * region.c: what a call on a part of a region begins with; asking the daemon, -ENOTCONN if it does not know the region; and
 * letting the agent do an errand that needs no more than the range.
 */
int region_check_range(struct wp_region *region, size_t offset, size_t length) wp_check;
int region_call(struct wp_region *region, enum wire_type type, size_t offset, size_t length,
                struct wire_reply *ret_reply) wp_check;
int region_run_errand(struct wp_region *region, enum client_errand_kind kind, size_t offset,
                      size_t length) wp_check;

/*
 * Calls `visit` for each mapping of a pool that intersects [start, end), in order of address and cut to that range, until it
 * returns other than 0, which is the result. -EIO: the mappings cannot be read; what is unknown counts as mapped.
 */
typedef int (*maps_visit)(void *context, uintptr_t start, uintptr_t end);
int pools_walk(struct wp_client *client, uintptr_t start, uintptr_t end, maps_visit visit,
               void *context) wp_check;
/* The pool whose descriptor this is may be mapped from now on. */
int pools_add(struct wp_client *client, int pool_fd) wp_check;
/* Whether some mapping of this process still belongs to a pool (true when that cannot be told). */
bool pools_mapped(struct wp_client *client);

/* Whether any mapping in [start, end) has a memory policy of its own (mbind(2)). */
bool maps_have_policy(uintptr_t start, uintptr_t end);
