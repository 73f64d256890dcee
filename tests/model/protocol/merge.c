/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The agent's steps of one merge, in the order of the head of libwp/run.c. */

#include "tests/model/protocol/actors.h"
#include "tests/model/protocol/kernel.h"

static unsigned all(const struct move *move)
{
        return ALL_PAGES(move->scenario);
}

static bool has_pool(const struct move *move)
{
        return move->scenario->runs[move->state->agent.run] == RUN_MERGE;
}

/* ------------------------------------------------------------------ X */

static enum outcome give_up(struct move *move);

static unsigned holes(const struct move *move)
{
        unsigned pages = 0;

        for (unsigned page = 0; page < move->scenario->n_pages; page++)
                pages |= move->state->pool[page] == POOL_HOLE ? BIT(page) : 0;
        return pages;
}

static enum outcome lock_pool(struct move *move)
{
        if (!has_pool(move))
                return agent_unseen(move);
        if (has(move, GUARD_POOL_LOCK) && move->state->daemon.checked) {
                say(move, "gives up: the daemon has locked the slots");
                return give_up(move);
        }
        move->state->agent.locked = true;
        say(move, "locks the slots");
        return agent_next(move);
}

/* A batch may be older than the last punching. Who maps a hole makes a page that nobody knows of. */
static enum outcome look_for_content(struct move *move)
{
        if (!has_pool(move))
                return agent_unseen(move);
        if (!holes(move) || !has(move, GUARD_HOLE_CHECK)) {
                say(move, "finds all slots filled");
                return agent_next(move);
        }
        say(move, "gives up: the slots %#x are empty", holes(move));
        return give_up(move);
}

static void fill_aside(struct state *state, unsigned page)
{
        if (state->pool[page] == POOL_HOLE)
                state->pool[page] = VALUE_ZERO;
        state->places[ROW_ASIDE][page].pte = PTE_POOL;
}

static enum outcome map_pool(struct move *move)
{
        for (unsigned page = 0; has_pool(move) && page < move->scenario->n_pages; page++) {
                map_place(move->state, ROW_ASIDE, page, VMA_POOL);
                if (has(move, GUARD_POPULATE))
                        fill_aside(move->state, page);
        }
        say(move, "maps X, populates it ");
        return agent_unseen(move);
}

static enum outcome register_pool(struct move *move)
{
        for (unsigned page = 0; has_pool(move) && page < move->scenario->n_pages; page++)
                uffd_register(move->state, ROW_ASIDE, page, move->scenario->merged);
        say(move, "and registers it");
        return agent_next(move);
}

static enum outcome protect_pool(struct move *move)
{
        if (has_pool(move) &&
            uffd_write_protect(move, PARENT, move->scenario->merged, ROW_ASIDE, all(move), true) < 0)
                return BLOCKED;
        say(move, "protects X");
        return agent_next(move);
}

static enum outcome unmap_pool(struct move *move)
{
        for (unsigned page = 0; page < move->scenario->n_pages; page++)
                map_place(move->state, ROW_ASIDE, page, VMA_NONE);
        say(move, "unmaps what is left of X");
        return agent_next(move);
}

static enum outcome unlock_pool(struct move *move)
{
        move->state->agent.locked = false;
        say(move, "unlocks the slots, ");
        return agent_unseen(move);
}

static enum outcome give_up(struct move *move)
{
        while (merge_steps[move->state->agent.step - 1] != unmap_pool)
                move->state->agent.step++;
        return STEPPED;
}

/* ------------------------------------------------------------------ from track to guard */

static enum outcome look_at_quarantine(struct move *move)
{
        if (!agent_sees_removal(move)) {
                say(move, "finds no recent REMOVE event");
                return agent_next(move);
        }
        say(move, "gives up: a REMOVE event is recent");
        return give_up(move);
}

static enum outcome look_for_holes(struct move *move)
{
        bool hole = false;

        for (unsigned page = 0; page < move->scenario->n_pages; page++)
                hole |= move->state->places[PARENT][page].vma == VMA_NONE;
        if (!hole || !has(move, GUARD_MINCORE)) {
                say(move, "finds no hole");
                return agent_next(move);
        }
        say(move, "gives up: there is a hole");
        return give_up(move);
}

static enum outcome untrack(struct move *move)
{
        for (unsigned page = 0; page < move->scenario->n_pages; page++) {
                unsigned context = move->state->places[PARENT][page].context;

                if (context != CONTEXT_TRACK && context != CONTEXT_NONE) {
                        say(move, "gives up: another context has the run");
                        return give_up(move);
                }
        }
        agent_unregister(move, all(move));
        say(move, "unregisters the run from track");
        return agent_next(move);
}

static enum outcome guard(struct move *move)
{
        agent_register(move, all(move), CONTEXT_GUARD);
        say(move, "registers the run with guard");
        return agent_next(move);
}

/* ------------------------------------------------------------------ freeze and compare */

static enum outcome freeze(struct move *move)
{
        struct agent *agent = &move->state->agent;

        agent->frozen = true;
        if (!has(move, GUARD_FREEZE)) {
                say(move, "leaves the run where it is");
                return agent_next(move);
        }
        if (uffd_move_out(move, agent->page) < 0) {
                agent->busy |= (uint8_t)BIT(agent->page);
                say(move, "cannot freeze page %u: busy", agent->page);
        } else {
                say(move, "freezes page %u: moves it to the staging area", agent->page);
        }
        return agent_pages_done(move, 1);
}

static void compare_page(struct move *move, unsigned page)
{
        struct state *state = move->state;
        unsigned row = has(move, GUARD_FREEZE) ? ROW_STAGING : PARENT, expected = VALUE_ZERO;

        if (state->agent.busy & BIT(page) || state->places[row][page].pte == PTE_EMPTY)
                return;
        if (row == ROW_STAGING)
                state->agent.staged |= (uint8_t)BIT(page);
        if (has_pool(move)) {
                if (has(move, GUARD_POPULATE))
                        fill_aside(state, page); /* as the kernel does if the slot was punched */
                expected = state->pool[page];
        }
        if (!has(move, GUARD_COMPARE) || read_place(state, row, page) == expected)
                state->agent.equal |= (uint8_t)BIT(page);
}

static enum outcome compare(struct move *move)
{
        for (unsigned page = 0; page < move->scenario->n_pages; page++)
                compare_page(move, page);
        say(move, "compares: equal %#x, staged %#x; ", move->state->agent.equal, move->state->agent.staged);
        return has(move, GUARD_FREEZE) ? agent_unseen(move) : agent_next(move);
}

/*
 * The only copy goes back. While an event of guard is pending it cannot be moved. Reading the event here
 * would be wrong: see the mutation put-back-first. So the page is copied instead, through the context of the
 * staging area, which has no events.
 */
static enum outcome put_back(struct move *move)
{
        struct agent *agent = &move->state->agent;
        unsigned page = agent->page;
        int r;

        if ((agent->equal | agent->busy | agent->removed) & BIT(page) || !has(move, GUARD_FREEZE)) {
                (void)agent_pages_done(move, 1);
                return UNSEEN;
        }
        r = uffd_move_back(move, page);
        if (r == -EAGAIN && !has(move, GUARD_PUT_BACK_FIRST))
                return has(move, GUARD_READ_ON) ? agent_drain(move) : BLOCKED;
        if (r == 0)
                agent->staged &= (uint8_t)~BIT(page);
        else if (r == -EAGAIN && agent->staged & BIT(page))
                r = uffd_copy(move, PARENT, CONTEXT_STAGE, page, read_place(move->state, ROW_STAGING, page));
        say(move, "puts page %u back%s", page, r ? ": there is one" : "");
        return agent_pages_done(move, 1);
}

/* ------------------------------------------------------------------ swap */

static enum outcome forget_removed(struct move *move)
{
        struct agent *agent = &move->state->agent;

        agent->equal &= (uint8_t)~agent->removed;
        if (!has_pool(move))
                agent->done = agent->equal;
        return agent_unseen(move);
}

static unsigned count(unsigned pages)
{
        return (unsigned)__builtin_popcount(pages);
}

/* mmap(MAP_FIXED) first, REGISTER and WRITEPROTECT afterwards: what the mutation does instead of mremap(). */
static enum outcome swap_in_two_steps(struct move *move, unsigned pages)
{
        struct agent *agent = &move->state->agent;
        bool mapped = agent->done & pages;

        for (unsigned page = 0; page < move->scenario->n_pages; page++) {
                struct place *place = &move->state->places[PARENT][page];

                if (!(pages & BIT(page)))
                        continue;
                if (!mapped)
                        *place = (struct place){.vma = VMA_POOL, .pte = PTE_POOL};
                else
                        uffd_register(move->state, PARENT, page, move->scenario->merged);
                place->wp = mapped && place->pte != PTE_EMPTY;
        }
        agent->done |= (uint8_t)pages;
        say(move, mapped ? "registers and protects pages %#x" : "maps the pool over pages %#x", pages);
        return mapped ? agent_pages_done(move, count(pages)) : STEPPED;
}

static enum outcome remap(struct move *move, unsigned pages)
{
        for (unsigned page = 0; page < move->scenario->n_pages; page++)
                if (pages & BIT(page))
                        move_mapping(move->state, page);
        move->state->agent.done |= (uint8_t)pages;
        event_post(move, AGENT, move->scenario->merged);
        say(move, "moves X over the pages %#x; a REMAP event is queued and waited for", pages);
        return STEPPED;
}

static enum outcome swap(struct move *move)
{
        struct agent *agent = &move->state->agent;
        struct thread *thread = &move->state->threads[AGENT];
        unsigned pages = agent_range(move, agent->equal);

        if (!(agent->equal & pages) || !has_pool(move)) {
                (void)agent_pages_done(move, count(pages));
                return UNSEEN;
        }
        if (!has(move, GUARD_ATOMIC_SWAP))
                return swap_in_two_steps(move, pages);
        if (thread->phase != PHASE_READ)
                return remap(move, pages);
        *thread = (struct thread){.phase = PHASE_RUNNING};
        say(move, "returns from mremap");
        return agent_pages_done(move, count(pages));
}

/* ------------------------------------------------------------------ thaw */

static unsigned still_anonymous(const struct move *move)
{
        return has_pool(move) ? all(move) & ~move->state->agent.done : all(move);
}

static enum outcome unguard(struct move *move)
{
        agent_unregister(move, still_anonymous(move));
        say(move, "unregisters from guard what stays anonymous");
        return agent_next(move);
}

static enum outcome discard_staging(struct move *move)
{
        for (unsigned page = 0; page < move->scenario->n_pages; page++)
                zap(move->state, ROW_STAGING, page);
        move->state->agent.frozen = false;
        say(move, "discards the staging area, ");
        return agent_unseen(move);
}

static enum outcome track(struct move *move)
{
        agent_register(move, still_anonymous(move), CONTEXT_TRACK);
        say(move, "registers with track what stayed anonymous");
        return agent_next(move);
}

const agent_stepper merge_steps[] = {
        lock_pool,
        look_for_content,
        map_pool,
        register_pool,
        protect_pool,
        look_at_quarantine,
        look_for_holes,
        untrack,
        guard,
        freeze,
        compare,
        put_back,
        forget_removed,
        swap,
        unguard,
        agent_wake_guard,
        agent_drain_all,
        discard_staging,
        track,
        unmap_pool,
        unlock_pool,
        agent_finish,
        NULL,
};
