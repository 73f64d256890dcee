/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The agent: its events, its children, its errands, and what else it does between runs; see libwp/run.c,
 * libwp/agent.c and libwp/protect.c
 */

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

static bool in_shield(const struct move *move)
{
        bool in = false;

        for (unsigned page = 0; page < move->scenario->n_pages; page++)
                in |= move->state->shields[page].state != SHIELD_NONE;
        return in;
}

static enum outcome start(struct move *move)
{
        static const char *const names[] = {"", "merges", "merges zeros", "gives back"};

        say(move, "receives a batch: the run %s", names[move->scenario->runs[move->state->agent.run]]);
        if (!in_shield(move) || !has(move, GUARD_SHIELD))
                return agent_next(move);
        say(move, "; refuses, since the program protects it; ");
        return agent_finish(move);
}

static void send_result(struct move *move)
{
        const struct agent *agent = &move->state->agent;
        struct daemon *daemon = &move->state->daemon;

        if (move->scenario->protects) {
                daemon->result = daemon->sent = daemon->alive;
        } else if (daemon->alive && !daemon->successor) {
                daemon->result = true;
                daemon->merged = move->scenario->runs[agent->run] == RUN_MERGE ? agent->done : 0;
        }
}

enum outcome agent_finish(struct move *move)
{
        struct agent *agent = &move->state->agent;

        send_result(move);
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

/* ------------------------------------------------------------------ errands */

/* The page that the errand is at, and what it is like. */
static struct place *errand_place(struct move *move)
{
        return &move->state->places[PARENT][move->state->agent.page];
}

static struct shield *errand_shield(struct move *move)
{
        return &move->state->shields[move->state->agent.page];
}

/* Merged, and to come under the other context. */
static bool exchanges(struct move *move)
{
        return errand_place(move)->vma == VMA_POOL && move->scenario->merged == CONTEXT_LAZY &&
               has(move, GUARD_EXCHANGE);
}

static enum outcome errand_next(struct move *move, enum outcome outcome)
{
        move->state->agent.step++;
        return outcome;
}

static enum outcome errand_enter(struct move *move)
{
        if (has(move, GUARD_PROTECT_LOCK)) {
                if (serving_locked(move))
                        return BLOCKED;
                move->state->agent.serving = true;
        }
        return errand_next(move, UNSEEN);
}

/* Of a release, and of a protection that is undone, the daemon is to hear. */
static enum outcome errand_leave(struct move *move)
{
        struct agent *agent = &move->state->agent;
        bool tell = agent->errand != ERRAND_PROTECT && !move->state->daemon.hung_up;

        if (agent->errand != ERRAND_BREAK && tell)
                move->state->threads[agent->caller].call = CALL_TELL;
        else if (agent->errand != ERRAND_BREAK)
                program_returns(move, agent->caller);
        *agent = (struct agent){.run = agent->run};
        say(move, "lets go of the mutex");
        return STEPPED;
}

/* Events must be read first, which the watcher does. What came too late is not tried again. */
static enum outcome errand_again(struct move *move)
{
        if (move->state->agent.errand == ERRAND_UNDO)
                return errand_leave(move);
        if (!has(move, GUARD_ERRAND_LETS_GO))
                return BLOCKED;
        move->state->agent.serving = false;
        move->state->agent.step = 1;
        say(move, "lets the watcher read an event, and begins again");
        return STEPPED;
}

/* ------------------------------------------------------------------ in */

/* What was protected meanwhile, with another daemon's consent, ends, too. */
static enum outcome check_epoch(struct move *move)
{
        const struct daemon *daemon = &move->state->daemon;
        struct agent *agent = &move->state->agent;

        if (agent->errand != ERRAND_PROTECT || !has(move, GUARD_EPOCH) ||
            move->state->threads[agent->caller].epoch == (daemon->hung_up || daemon->successor))
                return errand_next(move, UNSEEN);
        say(move, "finds the connection gone over which the daemon agreed; ");
        agent->errand = ERRAND_UNDO;
        return errand_next(move, UNSEEN);
}

static enum outcome leave_track(struct move *move)
{
        struct place *place = errand_place(move);

        if (errand_shield(move)->state != SHIELD_NONE ||
            (place->context != CONTEXT_TRACK && !(exchanges(move) && place->context == CONTEXT_LAZY)))
                return errand_next(move, UNSEEN);
        say(move, "unregisters page %u from %s", move->state->agent.page,
            place->context == CONTEXT_TRACK ? "track" : "lazy");
        uffd_unregister(move, PARENT, move->state->agent.page);
        return errand_next(move, STEPPED);
}

static enum outcome enter_watch(struct move *move)
{
        struct shield *shield = errand_shield(move);
        bool plain = errand_place(move)->vma == VMA_ANON;

        if (shield->state != SHIELD_NONE)
                return errand_next(move, UNSEEN);
        shield->state = SHIELD_SPENT;
        if (!plain && !exchanges(move))
                return errand_next(move, UNSEEN);
        uffd_register(move->state, PARENT, move->state->agent.page, plain ? CONTEXT_WATCH : CONTEXT_HOLD);
        say(move, "registers page %u with %s", move->state->agent.page, plain ? "watch" : "hold");
        return errand_next(move, STEPPED);
}

static enum outcome leave_for_place(struct move *move)
{
        if (!shield_misplaced(move, move->state->agent.page)) {
                move->state->agent.step++;
                return errand_next(move, UNSEEN);
        }
        uffd_unregister(move, PARENT, move->state->agent.page);
        say(move, "takes the hot page %u out of watch", move->state->agent.page);
        return errand_next(move, STEPPED);
}

static enum outcome enter_place(struct move *move)
{
        uffd_register(move->state, PARENT, move->state->agent.page, CONTEXT_CROWD);
        errand_shield(move)->placed = 1;
        say(move, "gives the hot page %u a context of its own", move->state->agent.page);
        return errand_next(move, STEPPED);
}

static enum outcome arm(struct move *move)
{
        bool hold = current(move, move->state->agent.caller).op == OP_HOLD;

        if (!shield_arm(move, move->state->agent.page, hold))
                return errand_again(move);
        say(move, "; ");
        return errand_next(move, UNSEEN);
}

static const agent_stepper protect_steps[] = {
        errand_enter, check_epoch, leave_track, enter_watch, leave_for_place, enter_place, arm, errand_leave,
};

/* ------------------------------------------------------------------ out */

/* From here on writes may be told of, or not. */
static void promise_less(struct move *move)
{
        struct shield *shield = errand_shield(move);

        if (shield->promise == PROMISE_TOLD || shield->promise == PROMISE_WAITS)
                shield->promise = PROMISE_MAYBE;
}

static void forget(struct move *move)
{
        struct shield *shield = errand_shield(move);

        shield->state = SHIELD_NONE;
        shield->promise = PROMISE_NONE;
}

/* Of merged pages that stay under hold, who waits is let go; others are still protected. */
static enum outcome unprotect(struct move *move)
{
        unsigned page = move->state->agent.page;
        struct place *place = errand_place(move);
        bool plain = place->vma == VMA_ANON;

        if (errand_shield(move)->state == SHIELD_NONE)
                return errand_next(move, UNSEEN);
        if (exchanges(move)) {
                if (place->context != CONTEXT_HOLD)
                        return errand_next(move, UNSEEN);
                uffd_unregister(move, PARENT, page);
                say(move, "unregisters page %u from hold", page);
        } else {
                if (!plain && errand_shield(move)->state != SHIELD_WAITED)
                        return errand_next(move, UNSEEN);
                if (uffd_write_protect(move, PARENT, plain ? CONTEXT_WATCH : CONTEXT_HOLD, PARENT, BIT(page),
                                       false) == -EAGAIN)
                        return errand_again(move);
                say(move, "unprotects page %u", page);
        }
        promise_less(move);
        return errand_next(move, STEPPED);
}

/* Only anonymous pages have places. */
static void leave_place(struct move *move)
{
        unsigned page = move->state->agent.page;

        if (!errand_shield(move)->placed)
                return;
        uffd_unregister(move, PARENT, page);
        if (has(move, GUARD_PLACE_WAKE))
                wake(move, PARENT, CONTEXT_CROWD, BIT(page));
        errand_shield(move)->placed = 0;
}

static enum outcome leave_watch(struct move *move)
{
        unsigned page = move->state->agent.page;

        if (errand_shield(move)->state == SHIELD_NONE)
                return errand_next(move, UNSEEN);
        if (errand_place(move)->vma == VMA_ANON) {
                leave_place(move);
                uffd_unregister(move, PARENT, page);
                wake(move, PARENT, CONTEXT_WATCH, BIT(page));
                say(move, "unregisters page %u from watch", page);
                return errand_next(move, STEPPED);
        }
        if (!exchanges(move))
                return errand_next(move, UNSEEN);
        uffd_register(move->state, PARENT, page, CONTEXT_LAZY);
        say(move, "registers page %u with lazy", page);
        return errand_next(move, STEPPED);
}

static enum outcome protect_lazily(struct move *move)
{
        if (errand_shield(move)->state == SHIELD_NONE || !exchanges(move))
                return errand_next(move, UNSEEN);
        if (uffd_write_protect(move, PARENT, CONTEXT_LAZY, PARENT, BIT(move->state->agent.page), true) ==
            -EAGAIN)
                return errand_again(move);
        say(move, "protects it");
        return errand_next(move, STEPPED);
}

/* Those are the program's own: nobody wants to know of writes to them. */
static enum outcome unprotect_copied(struct move *move)
{
        struct place *place = errand_place(move);

        if (errand_shield(move)->state == SHIELD_NONE || place->vma != VMA_POOL || place->pte != PTE_FRAME ||
            !has(move, GUARD_UNPROTECT_COPIED))
                return errand_next(move, UNSEEN);
        if (uffd_write_protect(move, PARENT, move->scenario->merged, PARENT, BIT(move->state->agent.page),
                               false) == -EAGAIN)
                return errand_again(move);
        say(move, "unprotects page %u, which is a copy", move->state->agent.page);
        promise_less(move);
        return errand_next(move, STEPPED);
}

static enum outcome return_to_track(struct move *move)
{
        if (errand_shield(move)->state == SHIELD_NONE)
                return errand_next(move, UNSEEN);
        forget(move);
        if (errand_place(move)->vma == VMA_ANON)
                uffd_register(move->state, PARENT, move->state->agent.page, CONTEXT_TRACK);
        else
                wake(move, PARENT, CONTEXT_HOLD, BIT(move->state->agent.page));
        say(move, "gives page %u back; ", move->state->agent.page);
        return errand_next(move, UNSEEN);
}

static enum outcome next_page(struct move *move)
{
        struct agent *agent = &move->state->agent;

        if (agent->errand != ERRAND_BREAK || agent->page + 1U == move->scenario->n_pages)
                return errand_next(move, UNSEEN);
        agent->page++;
        agent->step = 2;
        return UNSEEN;
}

/* The first two are those of protecting: what came too late goes on here. */
static const agent_stepper release_steps[] = {
        errand_enter,     check_epoch,     unprotect, leave_watch,  protect_lazily,
        unprotect_copied, return_to_track, next_page, errand_leave,
};

/* ------------------------------------------------------------------ between runs */

static bool begin_errand(struct move *move, unsigned i)
{
        struct agent *agent = &move->state->agent;
        struct instruction now = current(move, i);

        if (move->state->threads[i].call != CALL_ERRAND)
                return false;
        *agent = (struct agent){.run = agent->run, .step = 1, .page = now.page & 1, .caller = (uint8_t)i};
        agent->errand = now.op == OP_RELEASE ? ERRAND_RELEASE : ERRAND_PROTECT;
        return true;
}

/* Calls that wait for the daemon fail. */
static bool hang_up(struct move *move)
{
        struct state *state = move->state;

        if (state->daemon.alive || state->daemon.hung_up)
                return false;
        state->daemon = (struct daemon){.hung_up = true};
        for (unsigned i = 0; i < N_THREADS; i++)
                if (state->threads[i].call == CALL_ASK || state->threads[i].call == CALL_TELL)
                        program_returns(move, i);
        if (has(move, GUARD_BREAK_ALL))
                state->agent = (struct agent){.run = state->agent.run, .step = 1, .errand = ERRAND_BREAK};
        say(move, "finds the daemon gone");
        return true;
}

static bool connect_again(struct move *move)
{
        if (!move->state->daemon.hung_up || move->scenario->daemon != DAEMON_RETURNS)
                return false;
        move->state->daemon = (struct daemon){.alive = true, .successor = true};
        say(move, "finds another daemon, which knows the region now");
        return true;
}

/* ------------------------------------------------------------------ the thread */

static const agent_stepper *steps_of(const struct agent *agent, enum run_kind kind)
{
        if (agent->errand)
                return agent->errand == ERRAND_PROTECT ? protect_steps : release_steps;
        return kind == RUN_UNMERGE ? unmerge_steps : merge_steps;
}

static enum outcome step(struct move *move)
{
        const struct agent *agent = &move->state->agent;
        const struct daemon *daemon = &move->state->daemon;
        enum run_kind kind = agent->run < N_RUNS ? move->scenario->runs[agent->run] : RUN_NONE;

        if (agent->completing)
                return complete_child(move);
        if (agent->step)
                return steps_of(agent, kind)[agent->step - 1](move);
        if (move->scenario->protects && (!daemon->sent || daemon->result))
                return BLOCKED;
        return kind != RUN_NONE ? start(move) : BLOCKED;
}

static bool carry_on(struct move *move)
{
        enum outcome outcome;

        do
                outcome = step(move);
        while (outcome == UNSEEN);
        return outcome == STEPPED;
}

bool agent_step(struct move *move)
{
        const struct agent *agent = &move->state->agent;
        enum phase phase = move->state->threads[AGENT].phase;
        unsigned choice = move->choice;

        if (phase == PHASE_FAULT || phase == PHASE_EVENT)
                return false;
        if (choice == 0)
                return carry_on(move);
        if (agent->step || agent->completing)
                return false;
        if (choice == 1)
                return agent_drain(move) != BLOCKED;
        if (!move->scenario->protects)
                return false;
        choice -= 2;
        if (choice < N_THREADS)
                return begin_errand(move, choice) && carry_on(move);
        return choice == N_THREADS ? hang_up(move) : choice == N_THREADS + 1 && connect_again(move);
}
