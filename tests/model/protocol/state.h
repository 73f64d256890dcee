#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Everything that the model of the merge protocol knows at one moment
 *
 * A state is plain bytes: two states are the same if and only if their bytes are. What never changes in a
 * scenario (scripts, features, the guard that was taken out) is in struct scenario and struct move instead.
 */

#include <stdbool.h>
#include <stdint.h>

#define N_PAGES        2 /* a scenario may use one of them only */
#define N_FRAMES       8
#define N_THREADS      4 /* of the program; the agent comes behind them */
#define AGENT          N_THREADS
#define BIT(_n)        (1U << (_n))
#define ALL_PAGES(_sc) (BIT((_sc)->n_pages) - 1)

/* The content of a page is one symbol. A page of the pool may also be a hole. */
enum value {
        VALUE_ZERO,
        VALUE_A, /* what the pool has at first */
        VALUE_B, /* what writers store */
        VALUE_C, /* what a device writes */
        N_VALUES,
        POOL_HOLE = N_VALUES,
};

/* Rows of pages. The first two are the run as parent and child see it. */
enum row {
        ROW_PARENT,
        ROW_CHILD,
        ROW_ASIDE,   /* what the agent prepared elsewhere: X of a merge, the copy of an unmerge */
        ROW_STAGING, /* not inherited by children */
        N_ROWS,
};
#define PARENT      ROW_PARENT
#define CHILD       ROW_CHILD
#define N_PROCESSES 2

enum vma {
        VMA_NONE,
        VMA_ANON,
        VMA_POOL, /* private mapping of the page of the pool with the same number */
};

enum context {
        CONTEXT_NONE,
        CONTEXT_TRACK,
        CONTEXT_STAGE,
        CONTEXT_GUARD,
        CONTEXT_HOLD,
        CONTEXT_LAZY,
        CONTEXT_WATCH,
        CONTEXT_CROWD, /* of a hot page */
        N_CONTEXTS,
};

enum pte {
        PTE_EMPTY,
        PTE_FRAME, /* an anonymous page, struct place.frame */
        PTE_POOL,  /* the page of the pool, not writable */
        PTE_ZERO,  /* the kernel's page of zeros, not writable */
};

struct place {
        uint16_t vma : 2;
        uint16_t context : 3;
        uint16_t pte : 2;
        uint16_t frame : 3;
        uint16_t wp : 1; /* the userfaultfd write protection bit */
};

/* An anonymous page. It is shared if several places name it, and free if none does and no device has it. */
struct frame {
        uint8_t content : 4;
        uint8_t pins : 4;
};

enum phase {
        PHASE_UNBORN, /* a thread of the child before the fork */
        PHASE_RUNNING,
        PHASE_FAULT,   /* sleeps in a page fault until it is woken */
        PHASE_EVENT,   /* its event is queued and unread */
        PHASE_READ,    /* its event was read, and it has not run since */
        PHASE_ZAP,     /* in MADV_DONTNEED behind the event, and about to discard */
        PHASE_TELLING, /* in fork: page tables are copied, contexts still have to be told */
};

/* Where a thread is in wp_protect() or wp_release(). From CALL_ASK on it waits for others. */
enum call {
        CALL_NONE,
        CALL_PROTECT, /* there is a connection; the shield is to be looked at */
        CALL_PLACE,   /* has the mutex, and takes a hot page to its place */
        CALL_ARM,     /* without a guard: has looked at the shield, and let go of the mutex */
        CALL_ASK,     /* the daemon is to leave the page alone */
        CALL_ERRAND,  /* the agent is to do something */
        CALL_TELL,    /* the daemon is to hear that the page was released */
};

enum fault {
        FAULT_MISSING,
        FAULT_MINOR,
        FAULT_WP,
};

struct thread {
        uint32_t pc : 4; /* index into its script */
        uint32_t phase : 3;
        uint32_t context : 3;  /* FAULT, EVENT, READ: of which it waits */
        uint32_t fault : 2;    /* FAULT: enum fault */
        uint32_t page : 1;     /* FAULT: where */
        uint32_t answered : 1; /* FAULT: its message was read */
        uint32_t ticket : 3;   /* EVENT: its place in the queue of the context, from 1 */
        uint32_t pending : 8;  /* fork: set of contexts that have not heard of it */
        uint32_t : 0;
        uint32_t op : 4; /* what it does, if the script leaves that open: enum op */
        uint32_t op_page : 1;
        uint32_t frame : 4;    /* what it has pinned for a device, from 1 */
        uint32_t pin_page : 1; /* where it was mapped then */
        uint32_t attached : 1; /* and still is, as far as the program is concerned */
        uint32_t call : 3;     /* enum call */
        uint32_t epoch : 1;    /* of the connection when it was called */
};

enum errand {
        ERRAND_NONE,
        ERRAND_PROTECT,
        ERRAND_RELEASE,
        ERRAND_UNDO,  /* a protection that came too late */
        ERRAND_BREAK, /* of all pages: the daemon is gone */
};

struct agent {
        uint8_t run;  /* index into the scenario's runs */
        uint8_t step; /* of the run; 0: between runs */
        uint8_t page;
        bool locked;  /* holds the lock on the run's pages of the pool */
        bool serving; /* holds the watcher's mutex */
        bool frozen;
        uint8_t busy, staged, equal, removed, done; /* bitmaps as in libwp/run.c */
        uint8_t empty, filled;                      /* a run that is given back: as surveyed */
        bool completing;                            /* a child gets what it lacks */
        uint8_t child_page;
        uint8_t child_removed;
        uint8_t errand; /* enum errand; `page` is where */
        uint8_t caller; /* the thread that asked for it */
};

/* A fault message that was read and is not answered yet. */
struct hand {
        uint8_t full : 1;
        uint8_t process : 1;
        uint8_t context : 3;
        uint8_t page : 1;
        uint8_t fault : 2;
};
#define N_HANDS 2 /* more than one only where pages are protected: there the others may be stale */

/* As in libwp/shield.h. */
enum shield_state {
        SHIELD_NONE,
        SHIELD_SPENT,
        SHIELD_WATCHED,
        SHIELD_HELD,
        SHIELD_WAITED,
};

/* What the program may rely on about the next write to a page. */
enum promise {
        PROMISE_NONE,
        PROMISE_TOLD,  /* it is told of before it happens */
        PROMISE_WAITS, /* was told of, and does not happen */
        PROMISE_KEPT,  /* was told of; nothing more is */
        PROMISE_MAYBE, /* the page was discarded, or is being released: it may be told of once */
};

struct shield {
        uint8_t state : 3;
        uint8_t hot : 1;
        uint8_t placed : 1; /* in a context of its own */
        uint8_t promise : 3;
};

enum child_context {
        CHILD_CONTEXT_NONE,
        CHILD_CONTEXT_UNREAD, /* in a fork event */
        CHILD_CONTEXT_OPEN,   /* somebody has the descriptor */
        CHILD_CONTEXT_CLOSED,
};

/* Bitmaps are of slots. */
struct daemon {
        bool alive;
        bool successor;  /* of the one that sent the batch */
        bool result;     /* the agent's result waits to be read */
        uint8_t merged;  /* what it says */
        uint8_t pins;    /* of a planned merge */
        uint8_t sharers; /* that the run is counted for */
        uint8_t checked; /* locked, found unused, and about to be punched */
        uint8_t freed;   /* punched */
        uint8_t reused;  /* that got another content */
        /* Where the program protects pages: */
        bool sent;          /* the next run is with the agent */
        bool hung_up;       /* the agent has noticed that it is gone */
        uint8_t left_alone; /* pages */
};

struct state {
        struct place places[N_ROWS][N_PAGES];
        struct frame frames[N_FRAMES];
        uint8_t pool[N_PAGES];
        uint8_t allowed[N_PROCESSES][N_PAGES]; /* set of values that ideal memory could have */
        uint8_t child_contexts[N_CONTEXTS];
        struct thread threads[N_THREADS + 1];
        struct agent agent;
        struct hand hands[N_HANDS]; /* in the order in which they are answered */
        struct shield shields[N_PAGES];
        struct daemon daemon;
};

/* ------------------------------------------------------------------ what does not change */

enum op {
        OP_END,
        OP_LOAD,
        OP_STORE, /* VALUE_B */
        OP_DISCARD,
        OP_FORK,
        OP_PIN,    /* for writing by a device */
        OP_DEVICE, /* the device writes VALUE_C, and unpins */
        OP_MAP,    /* fresh memory, into a hole */
        OP_EXIT,   /* of the process */
        OP_WATCH,  /* wp_protect() */
        OP_HOLD,   /* likewise */
        OP_RELEASE,
        OP_ANY, /* one of a set of operations, at any page */
        N_OPS,
};

struct instruction {
        enum op op;
        unsigned page; /* OP_ANY: the set */
};

#define SCRIPT_LENGTH 6

struct script {
        enum row process;
        struct instruction code[SCRIPT_LENGTH];
};

enum run_kind {
        RUN_NONE,
        RUN_MERGE,
        RUN_ZEROS,   /* a merge with zeros: no pool */
        RUN_UNMERGE, /* copies, freezes, and swaps anonymous memory in */
};

#define N_RUNS    3
#define N_MISSING 6

/* What makes the protocol right. Each can be taken out. */
enum guard {
        GUARD_NONE,
        GUARD_FREEZE,
        GUARD_COMPARE,
        GUARD_ATOMIC_SWAP,
        GUARD_REMOVE_EVENTS,
        GUARD_QUARANTINE,
        GUARD_FORK_COMPLETION,
        GUARD_FORK_CONTEXT,
        GUARD_POPULATE,
        GUARD_PIN_CHECK,
        GUARD_MAPCOUNT,
        GUARD_POOL_LOCK,
        GUARD_HOLE_CHECK,
        GUARD_WAKE,
        GUARD_READ_ON,
        GUARD_WATCHER_READS_ON,
        GUARD_UNMERGE_FREEZE,
        GUARD_FILL_EMPTY,
        GUARD_SERVING_LOCK,
        GUARD_LET_GO,
        GUARD_CHILD_PROBE,
        GUARD_PUT_BACK_FIRST,
        GUARD_MINCORE,
        GUARD_MISSING,
        GUARD_UNPOPULATED,
        GUARD_PROTECT_LOCK,
        GUARD_LOOK_AND_ARM,
        GUARD_STALE,
        GUARD_WAITING_STAYS,
        GUARD_EXCHANGE,
        GUARD_UNPROTECT_COPIED,
        GUARD_SHIELD,
        GUARD_TASK_WAITS,
        GUARD_ERRAND_LETS_GO,
        GUARD_EPOCH,
        GUARD_BREAK_ALL,
        GUARD_BOUND,
        GUARD_PLACE_SPENT,
        GUARD_PLACE_WAKE,
        GUARD_FILL_PROTECTED,
        GUARD_PROTECTING,
        N_GUARDS,
};

enum daemon_fate {
        DAEMON_GONE, /* from the beginning */
        DAEMON_LIVES,
        DAEMON_DIES,    /* at any moment */
        DAEMON_RETURNS, /* likewise, and a new one adopts the pool */
};

struct scenario {
        const char *name;
        const char *about;
        unsigned n_pages;
        enum context merged; /* with which context pages are merged: hold or lazy */
        bool starts_merged;
        unsigned discarded; /* pages that were discarded before */
        bool elsewhere;     /* there is more memory under hold or lazy, which nobody touches */
        bool careful;       /* without the known differences: see abstains() */
        bool protects;      /* some thread does; what becomes of the pool is left out then */
        bool bounded;       /* who waits for a held page does so for a while only */
        enum daemon_fate daemon;
        bool reuse; /* the daemon gives punched slots another content */
        enum value content[N_PAGES];
        unsigned holes; /* pages that are not mapped at first */
        enum run_kind runs[N_RUNS];
        struct script scripts[N_THREADS];
        enum guard missing[N_MISSING]; /* what this scenario is a test of */
        const char *known; /* a violation that the documents own up to; NULL: there must be none */
};

/* One attempt of one actor to take a step. */
struct move {
        const struct scenario *scenario;
        enum guard without;
        unsigned choice;       /* which of several possible steps */
        struct state *state;   /* before and, if the step is possible, after it */
        const char *violation; /* what the step made wrong */
        char *text;            /* the step in words, if wanted */
};

#define TEXT_SIZE 256

static inline bool has(const struct move *move, enum guard guard)
{
        return move->without != guard;
}

void say(struct move *move, const char *format, ...) __attribute__((__format__(printf, 2, 3)));
