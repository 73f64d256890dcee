/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The watcher: serves the contexts of merged memory, and of what the program protects, of its process and of
 * forked children; see libwp/watcher.c
 *
 * It reads messages in batches: so it may read events while it has a fault in its hand, and that fault may be
 * long out of date by the time it is answered. It holds a mutex for as long as it has one; an event without
 * one takes the mutex for the moment.
 */

#include "tests/model/protocol/actors.h"
#include "tests/model/protocol/kernel.h"

static const char *whose(unsigned process)
{
        return process == PARENT ? "parent" : "child";
}

static bool serves(const struct move *move, unsigned process, unsigned context)
{
        return process == PARENT || move->state->child_contexts[context] == CHILD_CONTEXT_OPEN;
}

/* ------------------------------------------------------------------ the mutex, and what it guards */

/* Whether a thread of the program has the mutex beyond a step of its own. */
static bool program_serving(const struct move *move)
{
        bool placing = false;

        for (unsigned i = 0; i < N_THREADS; i++)
                placing |= move->state->threads[i].call == CALL_PLACE;
        return placing && has(move, GUARD_PROTECT_LOCK);
}

bool serving_locked(const struct move *move)
{
        return move->state->agent.serving || move->state->hands[0].full || program_serving(move);
}

/* What is protected is not moved: nobody would be held meanwhile. */
bool shield_misplaced(const struct move *move, unsigned page)
{
        const struct shield *shield = &move->state->shields[page];

        return shield->hot && !shield->placed && move->state->places[PARENT][page].vma == VMA_ANON &&
               (shield->state == SHIELD_SPENT || !has(move, GUARD_PLACE_SPENT));
}

/* Whether the program may rely on it: not while the agent is about to release the page. */
static bool reliable(const struct move *move, unsigned page)
{
        const struct agent *agent = &move->state->agent;

        return agent->errand != ERRAND_BREAK && (agent->errand <= ERRAND_PROTECT || agent->page != page);
}

bool shield_arm(struct move *move, unsigned page, bool hold)
{
        struct shield *shield = &move->state->shields[page];
        bool waited = shield->state == SHIELD_WAITED;

        if (uffd_write_protect(move, PARENT, CONTEXT_WATCH, PARENT, BIT(page), true) == -EAGAIN)
                return false;
        if (!waited || !has(move, GUARD_WAITING_STAYS))
                shield->state = hold ? SHIELD_HELD : SHIELD_WATCHED;
        shield->promise = !reliable(move, page) ? PROMISE_MAYBE : waited ? PROMISE_WAITS : PROMISE_TOLD;
        say(move, "protects page %u with %s", page, hold ? "hold" : "watch");
        return true;
}

/* ------------------------------------------------------------------ faults */

/* Whether the writer goes on now; the program has been told what it is to be told by then. */
static bool goes_on(struct move *move, const struct hand *hand)
{
        struct shield *shield = &move->state->shields[hand->page];

        switch ((enum shield_state)shield->state) {
        case SHIELD_NONE:
                if (context_is_watch(hand->context))
                        wake(move, PARENT, hand->context, BIT(hand->page));
                return !context_is_watch(hand->context);
        case SHIELD_WATCHED:
                shield->state = SHIELD_SPENT;
                program_told(move, hand->page, false);
                return true;
        case SHIELD_HELD:
                shield->state = SHIELD_WAITED;
                program_told(move, hand->page, true);
                return false;
        case SHIELD_WAITED:
                shield->hot = 1;
                if (!has(move, GUARD_STALE))
                        program_told(move, hand->page, true);
                return false;
        case SHIELD_SPENT:
                if (!has(move, GUARD_STALE))
                        program_told(move, hand->page, false);
                return true;
        }
        return true;
}

/* Zeros for a page that was discarded; one that is protected remains so. */
static int fill(struct move *move, const struct hand *hand)
{
        int r = uffd_copy(move, hand->process, hand->context, hand->page, VALUE_ZERO);

        if (r >= 0 && hand->process == PARENT && move->state->shields[hand->page].state > SHIELD_SPENT &&
            has(move, GUARD_FILL_PROTECTED))
                move->state->places[PARENT][hand->page].wp = 1;
        return r;
}

/* What cannot be answered now is woken: it comes back behind the event that must be read first. */
static bool answer(struct move *move)
{
        const struct hand hand = move->state->hands[0];
        int r = 0;

        move->state->hands[0] = move->state->hands[1];
        move->state->hands[1] = (struct hand){0};
        if (hand.fault == FAULT_WP && hand.process == PARENT && !goes_on(move, &hand)) {
                say(move, "lets the fault at page %u wait", hand.page);
                return true;
        }
        if (hand.fault != FAULT_WP)
                r = fill(move, &hand);
        else
                r = uffd_write_protect(move, hand.process, hand.context, hand.process, BIT(hand.page), false);
        if (r == -EAGAIN && !has(move, GUARD_WATCHER_READS_ON))
                return false;
        if (r < 0)
                wake(move, hand.process, hand.context, BIT(hand.page));
        say(move, "answers the %s's fault at page %u%s", whose(hand.process), hand.page,
            r == -EAGAIN             ? ": events first, so wakes it"
            : r < 0                  ? ": there is nothing to do, so wakes it"
            : hand.fault != FAULT_WP ? " with zeros"
                                     : ": unprotects it");
        return true;
}

static bool read_fault(struct move *move, unsigned i)
{
        struct thread *thread = &move->state->threads[i];

        thread->answered = 1;
        move->state->hands[move->state->hands[0].full] = (struct hand){
                .full = 1,
                .process = thread_process(move->scenario, i) & 1,
                .context = thread->context,
                .page = thread->page,
                .fault = thread->fault,
        };
        say(move, "reads the message of the %s's fault at page %u", whose(thread_process(move->scenario, i)),
            thread->page);
        return true;
}

static bool read_event(struct move *move, unsigned process, unsigned context)
{
        int i = event_read(move, process, context);

        if (i < 0)
                return false;
        if (i == AGENT) {
                say(move, "reads the REMAP event");
                return true;
        }
        move->state->child_contexts[context] = CHILD_CONTEXT_OPEN;
        if (!has(move, GUARD_FORK_CONTEXT))
                uffd_close_child(move, context);
        say(move, "reads the FORK event%s",
            has(move, GUARD_FORK_CONTEXT) ? " and keeps the child's context"
                                          : " and drops the child's context");
        return true;
}

static bool readable(const struct move *move, unsigned i, unsigned process, unsigned context)
{
        const struct thread *thread = &move->state->threads[i];

        return thread->phase == PHASE_FAULT && thread->context == context && !thread->answered &&
               thread_process(move->scenario, i) == process;
}

/* A batch is of one context. */
static bool has_hand_for(const struct move *move, unsigned process, unsigned context)
{
        const struct hand *hands = move->state->hands;

        if (!hands[0].full)
                return true;
        return move->scenario->protects && !hands[1].full && hands[0].process == process &&
               hands[0].context == context;
}

/* The messages that can be read: events at any time, faults as long as there is a hand. */
static bool read_message(struct move *move, unsigned process, unsigned context, unsigned *choice)
{
        bool full = move->state->hands[0].full, hand = has_hand_for(move, process, context);

        if (event_unread(move, process, context) && (!full || has(move, GUARD_WATCHER_READS_ON)) &&
            (*choice)-- == 0)
                return read_event(move, process, context);
        for (unsigned i = 0; i <= AGENT && hand; i++)
                if (readable(move, i, process, context) && (*choice)-- == 0)
                        return read_fault(move, i);
        return false;
}

/* ------------------------------------------------------------------ time */

/* If it cannot be unprotected now, writers come back, and go on then. */
static bool break_overdue(struct move *move)
{
        unsigned page = 0;

        if (!move->scenario->bounded || !has(move, GUARD_BOUND) || move->state->hands[0].full)
                return false;
        while (page < move->scenario->n_pages && move->state->shields[page].state != SHIELD_WAITED)
                page++;
        if (page == move->scenario->n_pages)
                return false;
        move->state->shields[page].state = SHIELD_SPENT;
        if (move->state->shields[page].promise == PROMISE_WAITS)
                move->state->shields[page].promise = PROMISE_KEPT;
        (void)!uffd_write_protect(move, PARENT, CONTEXT_WATCH, PARENT, BIT(page), false);
        wake(move, PARENT, move->state->shields[page].placed ? CONTEXT_CROWD : CONTEXT_WATCH, BIT(page));
        wake(move, PARENT, CONTEXT_HOLD, BIT(page));
        say(move, "lets go who has waited for page %u for too long", page);
        return true;
}

bool watcher_step(struct move *move)
{
        unsigned choice = move->choice;

        if (move->state->agent.serving || program_serving(move))
                return false;
        if (choice-- == 0)
                return move->state->hands[0].full && answer(move);
        if (choice-- == 0)
                return break_overdue(move);
        for (unsigned process = 0; process < N_PROCESSES; process++)
                for (unsigned context = CONTEXT_HOLD; context < N_CONTEXTS; context++)
                        if (serves(move, process, context) && read_message(move, process, context, &choice))
                                return true;
        return false;
}
