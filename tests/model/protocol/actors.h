#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Those who act: each function takes one atomic step of one actor
 *
 * A step is possible or not; if not, false, and the state may be anything. An actor that has several possible
 * steps takes the one that move->choice says, from 0; behind the last it returns false.
 */

#include "tests/model/protocol/state.h"

#include <stddef.h>

#define MAX_CHOICES 16

bool program_step(struct move *move, unsigned thread);
bool agent_step(struct move *move);
bool watcher_step(struct move *move);
bool daemon_step(struct move *move);

/*
 * ---- what threads of the program, agent and watcher do to each other: the mutex of the watcher, which who
 * protects takes, too, and what it guards
 */
bool serving_locked(const struct move *move);
/* Whether a page for which many waited should be in a context of its own, and can be taken there now. */
bool shield_misplaced(const struct move *move, unsigned page);
/* Protects a page that is in its context; false: events must be read first. */
bool shield_arm(struct move *move, unsigned page, bool hold);
/* The program is told of a write, before it happens, and who writes may have to wait. */
void program_told(struct move *move, unsigned page, bool waits);
/* A call that waited for somebody is over. */
void program_returns(struct move *move, unsigned thread);
/* It protects what was not protected, and no other thread does meanwhile. */
bool program_protecting(const struct move *move, unsigned thread);

/*
 * ---- shared by the files of the agent: a run is a table of steps, ended by NULL
 *
 * A step that concerns the agent alone, so that nobody can tell when it happens, is taken together with the
 * one behind it.
 */
enum outcome {
        BLOCKED,
        STEPPED,
        UNSEEN,
};
typedef enum outcome (*agent_stepper)(struct move *move);
extern const agent_stepper merge_steps[], unmerge_steps[];

enum outcome agent_next(struct move *move);                   /* on to the next step of the run; STEPPED */
enum outcome agent_unseen(struct move *move);                 /* likewise; UNSEEN */
enum outcome agent_pages_done(struct move *move, unsigned n); /* on to another page, or to the next step */
unsigned agent_range(const struct move *move,
                     unsigned map);          /* pages from agent.page that are alike in `map` */
enum outcome agent_drain(struct move *move); /* reads one event of guard; BLOCKED: there is none */
enum outcome agent_drain_all(struct move *move);
enum outcome agent_finish(struct move *move);
enum outcome agent_wake_guard(struct move *move);
void agent_register(struct move *move, unsigned pages, enum context context); /* pages of the run */
void agent_unregister(struct move *move, unsigned pages);
bool agent_sees_removal(const struct move *move); /* a REMOVE event of the run is recent */
