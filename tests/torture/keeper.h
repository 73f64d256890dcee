#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The keeper: starts the daemon under torture, stops, continues, ends and starts it again, and adds up its figures
 *
 * All of it happens in steps that the main process takes between other things; a step waits for nothing but, for a moment,
 * the answer to a question to the control socket. A daemon that ends on its own is a failure, and so is a log that tells of a
 * failed assertion or of a sanitizer's finding; under fault injection it may end, but not by a signal.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "model/random.h"
#include "system/fd_store.h"

struct control;

enum keeper_state {
        KEEPER_DOWN,     /* started again at `next_ns` */
        KEEPER_STARTING, /* until its control socket answers */
        KEEPER_READY,    /* something is done to it at `next_ns` */
        KEEPER_STOPPED,  /* SIGSTOP; continued or killed at `next_ns` */
        KEEPER_ENDING,   /* told to end */
};

#define KEEPER_MAX_INJECTED   128
#define KEEPER_INJECTED_BYTES 64

/* Of one life of the daemon, or of all. */
struct figures {
        uint64_t merges;
        uint64_t unmerges;
        uint64_t write_faults;
        uint64_t zero_pages; /* the most that there were; the sum over all lives */
};

struct keeper {
        struct random random;
        enum keeper_state state;
        pid_t pid;
        struct control *control;
        struct fd_store store; /* what the daemon has kept from one life to the next, most of the time */
        uint64_t next_ns;
        uint64_t poll_ns;
        bool spared;        /* nothing is done to it any more, and nothing injected from its next life on */
        bool injected_life; /* its system calls fail */
        unsigned n_lives;
        unsigned n_kills;
        unsigned n_terms;
        unsigned n_stops;
        unsigned n_losses;   /* of what was kept */
        unsigned n_own_ends; /* under injection */
        unsigned n_injected; /* kinds of failures that were announced so far */
        char injected[KEEPER_MAX_INJECTED][KEEPER_INJECTED_BYTES];
        struct figures life;
        struct figures total; /* of the lives before */
        size_t n_fds;         /* of a daemon without clients */
        size_t n_threads;
};

/* Starts the first daemon, waits for it and looks what it has without clients. False: it cannot serve here. */
bool keeper_start(struct keeper *keeper);

void keeper_step(struct keeper *keeper);

/* The child has ended; false when it is not the daemon. */
bool keeper_reaped(struct keeper *keeper, pid_t pid, int status);

/* From now on the daemon is left in peace; the one that runs is replaced by one without injection. */
void keeper_spare(struct keeper *keeper);

/* All clients are gone: so is what the daemon had because of them. Then it ends in good order. */
void keeper_check_leaks(struct keeper *keeper);

/* For the report of a failure: what it does, and the end of its log. */
void keeper_describe(const struct keeper *keeper);

void keeper_kill(struct keeper *keeper);
