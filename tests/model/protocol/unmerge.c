/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The agent's steps of giving a merged run back: it is copied, frozen and replaced; see run_unmerge() in
 * libwp/run.c
 */

#include "tests/model/protocol/actors.h"
#include "tests/model/protocol/kernel.h"

/* ------------------------------------------------------------------ copy */

static enum outcome wait_for_removals(struct move *move)
{
        if (agent_sees_removal(move))
                return BLOCKED;
        say(move, "finds no recent REMOVE event, ");
        return agent_unseen(move);
}

static enum outcome map_copy(struct move *move)
{
        for (unsigned page = 0; page < move->scenario->n_pages; page++) {
                map_place(move->state, ROW_ASIDE, page, VMA_ANON);
                frame_new(move->state, ROW_ASIDE, page, VALUE_ZERO);
        }
        say(move, "maps memory for a copy, ");
        return agent_unseen(move);
}

static enum outcome survey_empty(struct move *move)
{
        struct agent *agent = &move->state->agent;

        agent->empty = 0;
        for (unsigned page = 0; page < move->scenario->n_pages; page++)
                if (move->state->places[PARENT][page].pte == PTE_EMPTY)
                        agent->empty |= (uint8_t)BIT(page);
        say(move, "surveys: empty pages %#x", agent->empty);
        return agent_next(move);
}

/* That the protection is taken away before, of a page that is empty, is not to be seen. */
static enum outcome fill_empty(struct move *move)
{
        unsigned page = move->state->agent.page;

        if (!(move->state->agent.empty & BIT(page)) || !has(move, GUARD_FILL_EMPTY)) {
                (void)agent_pages_done(move, 1);
                return UNSEEN;
        }
        if (uffd_zeropage(move, move->scenario->merged, page) == -EAGAIN)
                return BLOCKED;
        say(move, "maps zeros at the empty page %u", page);
        return agent_pages_done(move, 1);
}

/* A page that is empty again cannot be read, and all begins anew. The code gives up at some time. */
static enum outcome copy(struct move *move)
{
        struct state *state = move->state;
        struct agent *agent = &state->agent;
        unsigned page = agent->page;

        if (state->places[PARENT][page].pte == PTE_EMPTY && has(move, GUARD_FILL_EMPTY)) {
                agent->step -= 2;
                agent->page = 0;
                say(move, "cannot copy page %u: it is empty", page);
                return STEPPED;
        }
        state->frames[state->places[ROW_ASIDE][page].frame].content = read_place(state, PARENT, page) & 0xf;
        say(move, "copies page %u", page);
        return agent_pages_done(move, 1);
}

/* ------------------------------------------------------------------ freeze */

static bool lock_serving(struct move *move)
{
        if (!has(move, GUARD_SERVING_LOCK) || move->state->agent.serving)
                return true;
        if (serving_locked(move))
                return false;
        move->state->agent.serving = true;
        return true;
}

static enum outcome stop_serving(struct move *move)
{
        if (!lock_serving(move))
                return BLOCKED;
        say(move, "keeps the watcher from answering");
        return agent_next(move);
}

static enum outcome give_up(struct move *move)
{
        for (unsigned page = 0; page < move->scenario->n_pages; page++)
                map_place(move->state, ROW_ASIDE, page, VMA_NONE);
        move->state->agent.serving = false;
        while (unmerge_steps[move->state->agent.step - 1] != agent_finish)
                move->state->agent.step++;
        say(move, "gives up: another context has the run");
        return STEPPED;
}

static enum outcome unhold(struct move *move)
{
        for (unsigned page = 0; page < move->scenario->n_pages; page++)
                if (move->state->places[PARENT][page].context != CONTEXT_HOLD &&
                    move->state->places[PARENT][page].context != CONTEXT_LAZY)
                        return give_up(move);
        agent_unregister(move, ALL_PAGES(move->scenario));
        say(move, "unregisters the run from hold");
        return agent_next(move);
}

static enum outcome guard_merged(struct move *move)
{
        if (has(move, GUARD_UNMERGE_FREEZE))
                agent_register(move, ALL_PAGES(move->scenario), CONTEXT_GUARD);
        say(move, "registers the run with guard");
        return agent_next(move);
}

/*
 * While somebody forks guard cannot protect. He may wait for the watcher to read an event of hold, and come
 * to guard's only then; so the watcher is let go on for a moment. That harms nothing: what it could unprotect
 * is not protected yet.
 */
static enum outcome protect_guarded(struct move *move)
{
        if (!lock_serving(move))
                return BLOCKED;
        if (!has(move, GUARD_UNMERGE_FREEZE) ||
            uffd_write_protect(move, PARENT, CONTEXT_GUARD, PARENT, ALL_PAGES(move->scenario), true) == 0) {
                say(move, "protects the run with guard");
                return agent_next(move);
        }
        if (has(move, GUARD_READ_ON) && agent_drain(move) != BLOCKED)
                return STEPPED;
        if (!has(move, GUARD_LET_GO) || !move->state->agent.serving)
                return BLOCKED;
        move->state->agent.serving = false;
        say(move, "lets the watcher answer");
        return STEPPED;
}

static enum outcome drain_readable(struct move *move)
{
        if (agent_drain(move) != BLOCKED)
                return STEPPED;
        say(move, "finds no event of guard to read");
        return agent_next(move);
}

/* ------------------------------------------------------------------ replace */

static enum outcome survey_copied(struct move *move)
{
        struct agent *agent = &move->state->agent;

        for (unsigned page = 0; page < move->scenario->n_pages; page++)
                if (move->state->places[PARENT][page].pte != PTE_FRAME)
                        agent->equal |= (uint8_t)BIT(page);
                else
                        agent->busy |= (uint8_t)BIT(page);
        say(move, "surveys: pages that are copies %#x", agent->busy);
        return agent_next(move);
}

/* A page that is not protected would have been written. */
static enum outcome survey_pooled(struct move *move)
{
        struct agent *agent = &move->state->agent;

        for (unsigned page = 0; page < move->scenario->n_pages; page++) {
                const struct place *place = &move->state->places[PARENT][page];

                if (place->pte == PTE_POOL && (place->wp || !has(move, GUARD_UNMERGE_FREEZE)))
                        agent->filled |= (uint8_t)BIT(page);
                if (!(agent->filled & ~agent->removed & BIT(page)))
                        zap(move->state, ROW_ASIDE, page);
        }
        say(move, "surveys: pages of the pool %#x", agent->filled);
        return agent_next(move);
}

static enum outcome replace(struct move *move)
{
        struct agent *agent = &move->state->agent;
        unsigned pages = agent_range(move, agent->equal), n = (unsigned)__builtin_popcount(pages);

        for (unsigned page = 0; page < move->scenario->n_pages; page++)
                if (pages & agent->equal & BIT(page))
                        move_mapping(move->state, page);
                else if (pages & BIT(page))
                        map_place(move->state, ROW_ASIDE, page, VMA_NONE);
        agent->done |= pages & agent->equal;
        say(move,
            pages & agent->equal ? "moves the copy over the pages %#x" : "unmaps the copy of the pages %#x",
            pages);
        return agent_pages_done(move, n);
}

static enum outcome serve_again(struct move *move)
{
        move->state->agent.serving = false;
        say(move, "lets the watcher answer");
        return agent_next(move);
}

/* ------------------------------------------------------------------ settle */

/* What is copies has nothing to be protected. */
static enum outcome settle(struct move *move)
{
        unsigned pages = agent_range(move, move->state->agent.done), n = (unsigned)__builtin_popcount(pages);

        if (move->state->agent.done & pages) {
                agent_register(move, pages, CONTEXT_TRACK);
                say(move, "registers the pages %#x with track", pages);
                return agent_pages_done(move, n);
        }
        if (move->state->places[PARENT][move->state->agent.page].context == CONTEXT_GUARD) {
                agent_unregister(move, pages);
                say(move, "unregisters the pages %#x from guard", pages);
                return STEPPED;
        }
        agent_register(move, pages, move->scenario->merged);
        say(move, "registers the pages %#x with hold", pages);
        return agent_pages_done(move, n);
}

const agent_stepper unmerge_steps[] = {
        wait_for_removals,
        map_copy,
        survey_empty,
        fill_empty,
        copy,
        stop_serving,
        unhold,
        guard_merged,
        protect_guarded,
        drain_readable,
        survey_copied,
        survey_pooled,
        replace,
        serve_again,
        settle,
        agent_wake_guard,
        agent_drain_all,
        agent_finish,
        NULL,
};
