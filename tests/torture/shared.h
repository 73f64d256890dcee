#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What all processes of the torture share
 *
 * One shared mapping, made before the first fork: the choices of the run, what the keeper knows of the daemon, a slot for
 * whoever must make progress, the first failure, and counters. It is never registered. Everything in it that more than one
 * process changes is atomic.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "torture/options.h"
#include "torture/view.h"
#include "util/bits.h"
#include "util/clock.h"

#define MAX_CLIENTS  32
#define MAX_THREADS  32
#define MAX_FORKED   512                             /* by clients and by these, at once; there are no more */
#define MAX_PEERS    (2 * MAX_CLIENTS * MAX_THREADS) /* also of those clients that were just killed */
#define MAX_CHILDREN (MAX_FORKED + MAX_PEERS)
#define MAX_VERDICT  8192

/* Of a client, while a child of one of them may live. */
#define MAX_GENERATIONS 64

/* Somebody who must not stand still; the watchdog looks at these. */
struct progress {
        _Atomic pid_t pid; /* 0: nobody */
        _Atomic pid_t tid;
        _Atomic uint64_t since_ns; /* when what it does began */
        const char *_Atomic what;
};

/* What becomes of a process that merges memory, and so of who inherited that. */
struct fate {
        _Atomic uint64_t
                died_ns; /* when it was killed or about to exit, and serves its children no more; 0: it lives */
        _Atomic uint64_t
                daemon; /* how often the daemon had ended when it connected to this one; NO_DAEMON: to none */
        _Atomic uint64_t connected_ns;  /* when that was seen */
        _Atomic uint32_t n_disconnects; /* how often it gave up a connection */
};

#define NO_DAEMON UINT64_MAX

struct client_slot {
        _Atomic pid_t pid;
        _Atomic uint32_t generation;        /* of the process: it is killed and started again */
        struct fate fates[MAX_GENERATIONS]; /* by generation */
        struct progress manager;
        struct progress workers[MAX_THREADS];
};

struct child_slot {
        _Atomic uint64_t owner; /* whose it is: see child_slot_take(); 0: it is free */
        _Atomic pid_t pid;
        _Atomic bool may_be_killed; /* kills itself, or dies with its client */
        _Atomic uint32_t client;
        _Atomic uint32_t generation; /* of the client */
        struct fate fate;            /* if it connects */
        struct progress progress;
};

enum count {
        COUNT_VERIFIED, /* pages compared */
        COUNT_STORES,   /* pages written by the processor */
        COUNT_FORKS,
        COUNT_ORPHANS, /* children that outlived their client */
        COUNT_CONNECTS,
        COUNT_LOST, /* connections that the daemon ended */
        COUNT_REGISTERED,
        COUNT_REFUSED,
        COUNT_EVENTS,
        COUNT_STALE,     /* discarded pages that read as before, in the documented case */
        COUNT_TOLERATED, /* documented errors: EIO of ptrace(2), EFAULT of mremap(2), EINVAL of MADV_FREE */
        COUNT_FILE_VERIFIED,   /* pages of views */
        COUNT_FILE_REGISTERED, /* views */
        COUNT_FILE_MERGED,     /* pages of them that were seen to be merged */
        COUNT_FILE_WRITES,     /* of whole files */
        N_COUNTS,
};

/* When a load or store was stalled; see stall.c. */
enum stall {
        STALL_EVER,
        STALL_ALIVE,
        STALL_MERGING,
        STALL_KILL,
        STALL_STOPPED,
        STALL_ORPHAN,
        N_STALLS,
};

struct stall_slot {
        _Atomic uint64_t longest_ns;
        _Atomic uint64_t n_slow; /* longer than STALL_SLOW_NS */
};

/* What the keeper of the daemon tells; times of CLOCK_MONOTONIC. */
struct daemon_news {
        _Atomic uint64_t n_ends;     /* how often it ended, for whatever reason */
        _Atomic uint64_t ended_ns;   /* when it was last told to end, or did */
        _Atomic uint64_t ready_ns;   /* when it last began to answer; 0: it is gone */
        _Atomic uint64_t stopped_ns; /* 0: it is not stopped */
        _Atomic uint64_t resumed_ns;
        _Atomic uint64_t merged_ns; /* when its merges were last seen to rise */
};

struct verdict {
        atomic_flag taken; /* the first failure is the one that counts */
        _Atomic bool ready;
        pid_t pid;
        uintptr_t address; /* 0: the failure is not about memory */
        char text[MAX_VERDICT];
};

struct shared {
        struct options options;
        pid_t main_pid;
        char directory[64];
        char client_path[108];
        char control_path[108];
        char direct_path[256]; /* the file of page contents; empty: direct I/O does not work here */
        bool has_views;        /* there are files to be mapped */
        struct view_file view_files[VIEW_FILES];
        struct progress writer;             /* who writes to them, */
        _Atomic uint64_t writer_longest_ns; /* and had to wait for that long */
        char *contents;                     /* the table of page contents, also shared */
        _Atomic bool stop;                  /* workers and children end */
        _Atomic bool calm;                  /* clients neither exit nor lose patience: the end is near */
        _Atomic uint64_t beat_ns;           /* of the main process */
        struct daemon_news daemon;
        struct verdict verdict;
        struct client_slot clients[MAX_CLIENTS];
        struct child_slot children[MAX_CHILDREN];
        _Atomic uint64_t counts[N_COUNTS];
        _Atomic uint64_t n_tickets;
        _Atomic uint64_t op_counts[OPTIONS_MAX_OPS];
        struct stall_slot stalls[N_STALLS];
};

extern struct shared *shared;

/* Makes the mapping; before anything else. */
int shared_create(const struct options *options);

/* Memory that is never registered, zeroed; fails the run when there is none. */
void *torture_map(size_t bytes);

static inline void count(enum count which, uint64_t n)
{
        atomic_fetch_add_explicit(&shared->counts[which], n, memory_order_relaxed);
}

static inline void progress_note(struct progress *progress, const char *what)
{
        atomic_store_explicit(&progress->what, what, memory_order_relaxed);
        atomic_store_explicit(&progress->since_ns, clock_now(), memory_order_relaxed);
}

void progress_begin(struct progress *progress, pid_t pid, pid_t tid, const char *what);
void progress_end(struct progress *progress);

/*
 * Ends the run: the first failure is kept for the report, and the caller stays where it is, so that the state of its memory
 * can be looked at. Neither allocates nor uses stdio's streams: a child of a raw clone(2) may call it.
 */
void fail(uintptr_t address, const char *format, ...)
        __attribute__((__noreturn__, __format__(__printf__, 2, 3)));

/* The same, and the caller goes on: for the main process, which ends the run by itself. */
void complain(const char *format, ...) __attribute__((__format__(__printf__, 1, 2)));

/* The condition must hold; the rest says in printf's way what was seen instead, and of which memory. */
#define EXPECT(_condition, ...) EXPECT_AT(NULL, _condition, __VA_ARGS__)
#define EXPECT_AT(_memory, _condition, ...)                                                                  \
        do {                                                                                                 \
                if (!(_condition))                                                                           \
                        fail((uintptr_t)(_memory), __VA_ARGS__);                                             \
        } while (0)

/* The fate of a process of the client. */
static inline struct fate *client_slot_fate(struct client_slot *slot, uint32_t generation)
{
        return &slot->fates[generation % MAX_GENERATIONS];
}

void fate_begin(struct fate *fate);
/* It has a connection, to the daemon of today as far as that can be known; or has none any more. */
void fate_connected(struct fate *fate);
void fate_disconnected(struct fate *fate);

/*
 * A place for a child that is about to be forked; NULL when there are as many as there may be, peers or others. The child begins with the
 * ticket: false when its place was taken away, since its client had died before the child was known. It ends at once then.
 */
struct child_slot *child_slot_take(unsigned client, uint32_t generation, bool peer, uint64_t *ret_ticket);
bool child_slot_begin(struct child_slot *slot, uint64_t ticket);

/* The client's process is dead, and the next one not there yet: the places of children that it did not fork any more are free. */
void child_slots_reclaim(unsigned client);

/* A child has been reaped: it has ended as it should, and its place is free. */
void child_reaped(pid_t pid, int status);
