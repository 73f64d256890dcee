/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The agent: its events, its children, and what it does between runs; see libwp/run.c and libwp/agent.c. */

#include "tests/model/protocol/actors.h"
#include "tests/model/protocol/kernel.h"

/* ------------------------------------------------------------------ helpers */

enum outcome agent_next(struct move *move)
{
        move->state->agent.step++;
        move->state->agent.page = 0;
        return STEPPED;
}

enum outcome agent_unseen(struct move *move)
{
        (void)agent_next(move);
        return UNSEEN;
}

enum outcome agent_pages_done(struct move *move, unsigned n)
{
        move->state->agent.page += (uint8_t)n;
        return move->state->agent.page < move->scenario->n_pages ? STEPPED : agent_next(move);
}

unsigned agent_range(const struct move *move, unsigned map)
{
        const struct agent *agent = &move->state->agent;
        unsigned pages = 0;
        bool value = map & BIT(agent->page);

        for (unsigned page = agent->page; page < move->scenario->n_pages; page++) {
                if (!(map & BIT(page)) == value)
                        break;
                pages |= BIT(page);
        }
        return pages;
}

void agent_register(struct move *move, unsigned pages, enum context context)
{
        for (unsigned page = 0; page < move->scenario->n_pages; page++)
                if (pages & BIT(page))
                        uffd_register(move->state, PARENT, page, context);
}

void agent_unregister(struct move *move, unsigned pages)
{
        for (unsigned page = 0; page < move->scenario->n_pages; page++)
                if (pages & BIT(page))
                        uffd_unregister(move, PARENT, page);
}

static enum outcome start(struct move *move)
{
        static const char *const names[] = {"", "merges", "merges zeros", "gives back"};

        say(move, "receives a batch: the run %s", names[move->scenario->runs[move->state->agent.run]]);
        return agent_next(move);
}

enum outcome agent_finish(struct move *move)
{
        struct agent *agent = &move->state->agent;

        if (move->state->daemon.alive && !move->state->daemon.successor) {
                move->state->daemon.result = true;
                move->state->daemon.merged = move->scenario->runs[agent->run] == RUN_MERGE ? agent->done : 0;
        }
        *agent = (struct agent){.run = (uint8_t)(agent->run + 1)};
        say(move, "sends the result");
        return STEPPED;
}

/*
 * The quarantine is a span of time in reality. What is assumed of it is that it is longer than a thread needs
 * from the event to the discarding.
 */
bool agent_sees_removal(const struct move *move)
{
        bool recent = false;

        for (unsigned page = 0; page < move->scenario->n_pages; page++)
                recent |= discarding(move, PARENT, page, true);
        return recent && has(move, GUARD_QUARANTINE);
}

enum outcome agent_wake_guard(struct move *move)
{
        if (has(move, GUARD_WAKE))
                wake(move, PARENT, CONTEXT_GUARD, ~0U);
        say(move, "wakes who waits for guard");
        return agent_next(move);
}

/* ------------------------------------------------------------------ guard's events */

enum outcome agent_drain(struct move *move)
{
        struct agent *agent = &move->state->agent;
        int i = event_read(move, PARENT, CONTEXT_GUARD);
        struct instruction now;

        if (i < 0)
                return BLOCKED;
        now = current(move, (unsigned)i);
        if (now.op == OP_DISCARD) {
                agent->removed |= (uint8_t)(agent->step ? BIT(now.page) : 0);
                say(move, "reads the REMOVE event of page %u", now.page);
                return STEPPED;
        }
        agent->completing = true;
        agent->child_page = 0;
        agent->child_removed = has(move, GUARD_PUT_BACK_FIRST) ? 0 : agent->removed;
        move->state->child_contexts[CONTEXT_GUARD] = CHILD_CONTEXT_OPEN;
        say(move, "reads the FORK event of guard");
        return STEPPED;
}

enum outcome agent_drain_all(struct move *move)
{
        if (!changing(move->state, PARENT, CONTEXT_GUARD, move->scenario)) {
                say(move, "finds no event of guard pending");
                return agent_next(move);
        }
        return has(move, GUARD_READ_ON) ? agent_drain(move) : BLOCKED;
}

static enum outcome close_child(struct move *move)
{
        uffd_close_child(move, CONTEXT_GUARD);
        move->state->agent.completing = false;
        move->state->agent.child_page = move->state->agent.child_removed = 0;
        say(move, "closes the child's guard");
        return STEPPED;
}

/* The child's own discards, which were queued since. */
static enum outcome drain_child(struct move *move)
{
        int i = event_read(move, CHILD, CONTEXT_GUARD);

        if (i < 0)
                return BLOCKED;
        move->state->agent.child_removed |= (uint8_t)BIT(current(move, (unsigned)i).page);
        say(move, "reads a REMOVE event of the child's guard");
        return STEPPED;
}

/* Whether the child's page is registered with its guard, which REGISTER tells: EBUSY if it is hold's. */
static bool probe_child(const struct move *move, unsigned page)
{
        return !has(move, GUARD_CHILD_PROBE) || move->state->places[CHILD][page].context == CONTEXT_GUARD;
}

static enum outcome complete_child(struct move *move)
{
        struct agent *agent = &move->state->agent;
        unsigned page = agent->child_page;
        unsigned wanted = agent->staged & ~agent->child_removed;
        int r;

        if (!agent->frozen || page == move->scenario->n_pages || !has(move, GUARD_FORK_COMPLETION))
                return close_child(move);
        if (!(wanted & BIT(page)) || !probe_child(move, page)) {
                agent->child_page++;
                return UNSEEN;
        }
        r = uffd_copy(move, CHILD, CONTEXT_GUARD, page, read_place(move->state, ROW_STAGING, page));
        if (r == -EAGAIN)
                return drain_child(move);
        agent->child_page++;
        say(move, "copies the staged page %u into the child%s", page, r ? ", which has one" : "");
        return STEPPED;
}

/* ------------------------------------------------------------------ the thread */

static const agent_stepper *steps_of(enum run_kind kind)
{
        return kind == RUN_UNMERGE ? unmerge_steps : merge_steps;
}

static enum outcome step(struct move *move)
{
        const struct agent *agent = &move->state->agent;
        enum run_kind kind = agent->run < N_RUNS ? move->scenario->runs[agent->run] : RUN_NONE;

        if (agent->completing)
                return complete_child(move);
        if (agent->step)
                return steps_of(kind)[agent->step - 1](move);
        return kind != RUN_NONE ? start(move) : BLOCKED;
}

bool agent_step(struct move *move)
{
        const struct agent *agent = &move->state->agent;
        enum phase phase = move->state->threads[AGENT].phase;
        enum outcome outcome;

        if (phase == PHASE_FAULT || phase == PHASE_EVENT)
                return false;
        if (move->choice)
                return move->choice == 1 && !agent->step && !agent->completing &&
                       agent_drain(move) != BLOCKED;
        do
                outcome = step(move);
        while (outcome == UNSEEN);
        return outcome == STEPPED;
}
