/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The watcher: serves the contexts of merged memory of its process and of forked children; see
 * libwp/watcher.c
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

/* What cannot be answered now is woken: it comes back behind the event that must be read first. */
static bool answer(struct move *move)
{
        const struct hand hand = move->state->hand;
        int r;

        if (hand.fault != FAULT_WP)
                r = uffd_copy(move, hand.process, hand.context, hand.page, VALUE_ZERO);
        else
                r = uffd_write_protect(move, hand.process, hand.context, hand.process, BIT(hand.page), false);
        if (r == -EAGAIN && !has(move, GUARD_WATCHER_READS_ON))
                return false;
        if (r < 0)
                wake(move, hand.process, hand.context, BIT(hand.page));
        move->state->hand = (struct hand){0};
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
        move->state->hand = (struct hand){
                .full = true,
                .process = (uint8_t)thread_process(move->scenario, i),
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

/* The messages that can be read: events at any time, faults one at a time. */
static bool read_message(struct move *move, unsigned process, unsigned context, unsigned *choice)
{
        bool full = move->state->hand.full;

        if (event_unread(move, process, context) && (!full || has(move, GUARD_WATCHER_READS_ON)) &&
            (*choice)-- == 0)
                return read_event(move, process, context);
        for (unsigned i = 0; i <= AGENT && !full; i++)
                if (readable(move, i, process, context) && (*choice)-- == 0)
                        return read_fault(move, i);
        return false;
}

bool watcher_step(struct move *move)
{
        unsigned choice = move->choice;

        if (move->state->agent.serving)
                return false;
        if (choice-- == 0)
                return move->state->hand.full && answer(move);
        for (unsigned process = 0; process < N_PROCESSES; process++)
                for (unsigned context = CONTEXT_HOLD; context <= CONTEXT_LAZY; context++)
                        if (serves(move, process, context) && read_message(move, process, context, &choice))
                                return true;
        return false;
}
