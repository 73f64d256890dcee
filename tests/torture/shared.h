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
#include "util/bits.h"
#include "util/clock.h"

#define MAX_CLIENTS  32
#define MAX_THREADS  32
#define MAX_CHILDREN 256 /* forked by clients, and theirs, at once */
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

struct client_slot {
        _Atomic pid_t pid;
        _Atomic uint32_t generation; /* of the process: it is killed and started again */
        /* By generation: when it was killed or about to exit, after which it serves its children no more; 0: it lives. */
        _Atomic uint64_t died_ns[MAX_GENERATIONS];
        _Atomic uint32_t n_disconnects; /* of all generations */
        struct progress manager;
        struct progress workers[MAX_THREADS];
};

static inline _Atomic uint64_t *client_slot_died_ns(struct client_slot *slot, uint32_t generation)
{
        return &slot->died_ns[generation % MAX_GENERATIONS];
}

enum child_state {
        CHILD_FREE,
        CHILD_RUNS,
};

struct child_slot {
        _Atomic int state;
        _Atomic pid_t pid;
        _Atomic bool may_be_killed; /* kills itself, or dies with its client */
        _Atomic uint64_t died_ns;   /* when it was about to exit; 0: it lives */
        _Atomic uint32_t client;
        _Atomic uint32_t generation; /* of the client */
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
        N_COUNTS,
};

/* When a load or store was stalled; see stall.c. */
enum stall {
        STALL_EVER,
        STALL_ALIVE,
        STALL_MERGING,
        STALL_KILL,
        STALL_STOPPED,
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
        char direct_path[256];    /* the file of page contents; empty: direct I/O does not work here */
        char *contents;           /* the table of page contents, also shared */
        _Atomic bool stop;        /* workers and children end */
        _Atomic bool calm;        /* clients neither exit nor lose patience: the end is near */
        _Atomic uint64_t beat_ns; /* of the main process */
        struct daemon_news daemon;
        struct verdict verdict;
        struct client_slot clients[MAX_CLIENTS];
        struct child_slot children[MAX_CHILDREN];
        _Atomic uint64_t counts[N_COUNTS];
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

/* A child's place; NULL when there are as many as there may be. */
struct child_slot *child_slot_take(void);

/* A child has been reaped: it has ended as it should, and its place is free. */
void child_reaped(pid_t pid, int status);
