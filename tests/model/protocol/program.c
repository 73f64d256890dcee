/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The program's threads, and what their memory would be without us. */

#include "tests/model/protocol/actors.h"
#include "tests/model/protocol/kernel.h"

/* Choices from here on are touches of page 0, 1 while somebody else copies it. */
#define FIRST_IN_COPY (MAX_CHOICES - N_PAGES)

static bool advance(struct thread *thread)
{
        thread->pc++;
        thread->op = thread->op_page = 0;
        thread->phase = PHASE_RUNNING;
        thread->context = thread->ticket = 0;
        thread->call = thread->epoch = 0;
        return true;
}

/* The values that the page may have from now on: this one, or zeros if somebody is just discarding it. */
static void allow(struct move *move, unsigned process, unsigned page, enum value value)
{
        bool zeros = discarding(move, process, page, false);

        move->state->allowed[process][page] = (uint8_t)(BIT(value) | (zeros ? BIT(VALUE_ZERO) : 0));
}

/* ------------------------------------------------------------------ promises */

static void check_write(struct move *move, unsigned i, unsigned page)
{
        enum promise promise = move->state->shields[page].promise;

        if (thread_process(move->scenario, i) != PARENT)
                return;
        if (promise == PROMISE_TOLD)
                move->violation = "a write to a protected page is not told of";
        else if (promise == PROMISE_WAITS)
                move->violation = "a page that is held is written";
}

/* Who is told of has not written yet: he sleeps, or was woken for another reason, and sleeps soon. */
static bool somebody_writes(const struct move *move, unsigned page)
{
        bool writes = false;

        for (unsigned i = 0; i < N_THREADS; i++) {
                struct instruction now = current(move, i);

                writes |= (now.op == OP_STORE || now.op == OP_PIN) && now.page == page &&
                          thread_process(move->scenario, i) == PARENT;
        }
        return writes;
}

void program_told(struct move *move, unsigned page, bool waits)
{
        struct shield *shield = &move->state->shields[page];

        say(move, "tells of a write to page %u; ", page);
        if (shield->promise == PROMISE_TOLD && !somebody_writes(move, page))
                move->violation = "the program is told of a write that is past";
        if (shield->promise == PROMISE_NONE)
                move->violation = "the program is told of a page that is not protected";
        else if (shield->promise == PROMISE_WAITS || shield->promise == PROMISE_KEPT)
                move->violation = "the program is told twice";
        shield->promise = shield->promise == PROMISE_TOLD && waits ? PROMISE_WAITS : PROMISE_KEPT;
}

/* ------------------------------------------------------------------ memory */

/* Without the known differences: what a careful program does not do at this moment. */
static bool abstains(const struct move *move, unsigned i, struct instruction now)
{
        bool given_back = false;

        if (!move->scenario->careful || thread_process(move->scenario, i) != PARENT)
                return false;
        for (unsigned page = 0; page < move->scenario->n_pages; page++) {
                const struct place *place = &move->state->places[PARENT][page];

                given_back |= place->vma == VMA_POOL &&
                              (place->context == CONTEXT_NONE || place->context == CONTEXT_GUARD);
        }
        if (now.op == OP_FORK)
                return given_back && move->state->threads[i].phase == PHASE_RUNNING;
        return (now.op == OP_LOAD || now.op == OP_STORE || now.op == OP_PIN) &&
               in_gap(move->state, PARENT, now.page);
}

static bool load(struct move *move, unsigned i, unsigned page)
{
        static const char *const names[] = {"zeros", "A", "B", "C"};
        unsigned process = thread_process(move->scenario, i), value;

        if (!touch(move, i, page, false))
                return true;
        value = read_place(move->state, process, page);
        say(move, "reads %s from page %u", names[value], page);
        if (!(move->state->allowed[process][page] & BIT(value)))
                move->violation = "the page must not read like that";
        else if (!discarding(move, process, page, false))
                move->state->allowed[process][page] = (uint8_t)BIT(value);
        return advance(&move->state->threads[i]);
}

static bool store(struct move *move, unsigned i, unsigned page)
{
        unsigned process = thread_process(move->scenario, i);

        if (!touch(move, i, page, true))
                return true;
        check_write(move, i, page);
        move->state->frames[move->state->places[process][page].frame].content = VALUE_B;
        allow(move, process, page, VALUE_B);
        say(move, "stores B to page %u", page);
        return advance(&move->state->threads[i]);
}

static bool pin(struct move *move, unsigned i, unsigned page)
{
        struct thread *thread = &move->state->threads[i];
        unsigned process = thread_process(move->scenario, i), frame;

        if (!touch(move, i, page, true))
                return true;
        check_write(move, i, page);
        frame = move->state->places[process][page].frame;
        move->state->frames[frame].pins++;
        thread->frame = (frame + 1) & 0xf;
        thread->pin_page = page & 1;
        thread->attached = 1;
        say(move, "pins page %u for a device", page);
        return advance(thread);
}

static bool device_writes(struct move *move, unsigned i, unsigned page)
{
        struct thread *thread = &move->state->threads[i];
        struct frame *frame = &move->state->frames[thread->frame - 1];

        frame->content = VALUE_C;
        frame->pins--;
        if (thread->attached)
                allow(move, thread_process(move->scenario, i), page, VALUE_C);
        thread->frame = thread->pin_page = thread->attached = 0;
        say(move, "its device writes C where page %u was pinned, and lets go of it", page);
        return advance(thread);
}

/* ------------------------------------------------------------------ MADV_DONTNEED */

static bool discard_now(struct move *move, unsigned i, unsigned page)
{
        struct shield *shield = &move->state->shields[page];
        unsigned process = thread_process(move->scenario, i);

        zap(move->state, process, page);
        if (process == PARENT && (shield->promise == PROMISE_TOLD || shield->promise == PROMISE_WAITS))
                shield->promise = PROMISE_MAYBE;
        for (unsigned k = 0; k < N_THREADS; k++)
                if (thread_process(move->scenario, k) == process && move->state->threads[k].pin_page == page)
                        move->state->threads[k].attached = 0;
        advance(&move->state->threads[i]);
        allow(move, process, page, VALUE_ZERO);
        say(move, "discards page %u", page);
        return true;
}

static bool discard(struct move *move, unsigned i, unsigned page)
{
        struct thread *thread = &move->state->threads[i];
        unsigned process = thread_process(move->scenario, i);
        unsigned context = move->state->places[process][page].context;

        if (thread->phase == PHASE_READ) {
                thread->phase = PHASE_ZAP;
                say(move, "runs again: the event was read, page %u will be discarded", page);
                return true;
        }
        if (thread->phase == PHASE_ZAP || !context_told_of_remove(move, context))
                return discard_now(move, i, page);
        event_post(move, i, context);
        move->state->allowed[process][page] |= (uint8_t)BIT(VALUE_ZERO);
        say(move, "calls MADV_DONTNEED for page %u: a REMOVE event is queued and waited for", page);
        return true;
}

/* ------------------------------------------------------------------ fork */

static bool child_starts(struct move *move, unsigned i)
{
        for (unsigned k = 0; k < N_THREADS; k++)
                if (move->scenario->scripts[k].process == CHILD)
                        move->state->threads[k].phase = PHASE_RUNNING;
        return advance(&move->state->threads[i]);
}

/* Contexts are told one after the other; in which order is a matter of addresses. */
static bool tell_next(struct move *move, unsigned i)
{
        static const char *const names[N_CONTEXTS] = {
                [CONTEXT_GUARD] = "guard", [CONTEXT_HOLD] = "hold",   [CONTEXT_LAZY] = "lazy",
                [CONTEXT_WATCH] = "watch", [CONTEXT_CROWD] = "crowd",
        };
        unsigned pending = move->state->threads[i].pending, context = 0;

        for (unsigned skip = move->choice;; context++) {
                if (context == N_CONTEXTS)
                        return false;
                if (pending & BIT(context) && skip-- == 0)
                        break;
        }
        event_post(move, i, context);
        say(move, "in fork, queues a FORK event for %s and waits", names[context]);
        return true;
}

static bool fork_step(struct move *move, unsigned i)
{
        struct thread *thread = &move->state->threads[i];

        if (thread->phase == PHASE_TELLING)
                return tell_next(move, i);
        if (move->choice)
                return false;
        if (thread->phase == PHASE_READ) {
                thread->pending &= ~BIT(thread->context) & 0xff;
                thread->context = 0;
                say(move, "in fork, runs again");
        } else {
                fork_tables(move, i);
                say(move, "forks: the child has the mappings and page tables of this moment");
        }
        if (!thread->pending)
                return child_starts(move, i);
        thread->phase = PHASE_TELLING;
        return true;
}

static bool map(struct move *move, unsigned i, unsigned page)
{
        unsigned process = thread_process(move->scenario, i);

        map_place(move->state, process, page, VMA_ANON);
        move->state->allowed[process][page] = (uint8_t)BIT(VALUE_ZERO);
        say(move, "maps memory into the hole at page %u", page);
        return advance(&move->state->threads[i]);
}

static bool exit_step(struct move *move, unsigned i, unsigned unused)
{
        (void)unused;
        child_exit(move->state);
        say(move, "exits");
        return advance(&move->state->threads[i]);
}

/* ------------------------------------------------------------------ wp_protect() and wp_release() */

void program_returns(struct move *move, unsigned i)
{
        (void)advance(&move->state->threads[i]);
}

static bool return_disconnected(struct move *move, unsigned i)
{
        say(move, "finds the daemon gone, and protects nothing");
        return advance(&move->state->threads[i]);
}

static bool may_lock(const struct move *move)
{
        return !has(move, GUARD_PROTECT_LOCK) || !serving_locked(move);
}

/* The page is in the shield. */
static bool arm_again(struct move *move, unsigned i, unsigned page)
{
        struct thread *thread = &move->state->threads[i];

        if (shield_misplaced(move, page)) {
                uffd_unregister(move, PARENT, page);
                thread->call = CALL_PLACE;
                say(move, "takes the hot page %u out of watch", page);
                return true;
        }
        return shield_arm(move, page, current(move, i).op == OP_HOLD) && advance(thread);
}

/* That the lock is free for a moment then is more than the truth. */
static bool take_place(struct move *move, unsigned i, unsigned page)
{
        uffd_register(move->state, PARENT, page, CONTEXT_CROWD);
        move->state->shields[page].placed = 1;
        move->state->threads[i].call = CALL_PROTECT;
        say(move, "gives the hot page %u a context of its own", page);
        return true;
}

/* The thread has the mutex of those who protect what was not protected before. */
bool program_protecting(const struct move *move, unsigned i)
{
        enum op op = current(move, i).op;

        return move->state->threads[i].call >= CALL_ASK && (op == OP_WATCH || op == OP_HOLD);
}

static bool look_at_shield(struct move *move, unsigned i, unsigned page)
{
        struct thread *thread = &move->state->threads[i];

        if (!may_lock(move))
                return false;
        if (move->state->shields[page].state == SHIELD_NONE) {
                if (move->state->daemon.hung_up)
                        return return_disconnected(move, i);
                for (unsigned k = 0; k < N_THREADS && has(move, GUARD_PROTECTING); k++)
                        if (k != i && program_protecting(move, k))
                                return false;
                thread->call = CALL_ASK;
                say(move, "asks the daemon to leave page %u alone", page);
                return true;
        }
        if (has(move, GUARD_LOOK_AND_ARM))
                return arm_again(move, i, page);
        thread->call = CALL_ARM;
        say(move, "finds page %u in the shield", page);
        return true;
}

/* That the connection is looked at before anything else matters only if it may end. */
static bool begin_protecting(struct move *move, unsigned i, unsigned page)
{
        struct thread *thread = &move->state->threads[i];

        if (move->state->daemon.hung_up)
                return return_disconnected(move, i);
        thread->epoch = move->state->daemon.successor;
        thread->call = CALL_PROTECT;
        if (move->scenario->daemon == DAEMON_LIVES)
                return look_at_shield(move, i, page);
        say(move, "begins to protect page %u", page);
        return true;
}

static bool protect(struct move *move, unsigned i, unsigned page)
{
        switch ((enum call)move->state->threads[i].call) {
        case CALL_NONE:
                return begin_protecting(move, i, page);
        case CALL_PROTECT:
                return look_at_shield(move, i, page);
        case CALL_PLACE:
                return take_place(move, i, page);
        case CALL_ARM:
                return may_lock(move) && arm_again(move, i, page);
        default:
                return false;
        }
}

static bool release(struct move *move, unsigned i, unsigned page)
{
        struct thread *thread = &move->state->threads[i];

        if (thread->call != CALL_NONE || !may_lock(move))
                return false;
        if (move->state->shields[page].state == SHIELD_NONE) {
                say(move, "has nothing to release");
                return advance(thread);
        }
        thread->call = CALL_ERRAND;
        say(move, "asks the agent to release page %u", page);
        return true;
}

/* ------------------------------------------------------------------ programs that do anything */

static bool may_fork(const struct move *move)
{
        bool unborn = false;

        for (unsigned i = 0; i < N_THREADS; i++) {
                if (current(move, i).op == OP_FORK)
                        return false;
                unborn |= move->state->threads[i].phase == PHASE_UNBORN;
        }
        return unborn;
}

static bool sensible(const struct move *move, const struct thread *thread, enum op op, unsigned page)
{
        switch (op) {
        case OP_FORK:
                return page == 0 && may_fork(move);
        case OP_EXIT:
                return page == 0;
        case OP_PIN:
                return !thread->frame;
        case OP_DEVICE:
                return thread->frame && thread->pin_page == page;
        default:
                return true;
        }
}

/* Makes the choice, and leaves no other to make. */
static bool choose(struct move *move, struct thread *thread, unsigned set)
{
        for (unsigned op = 0; op < N_OPS; op++)
                for (unsigned page = 0; page < move->scenario->n_pages; page++) {
                        if (!(set & BIT(op)) || !sensible(move, thread, op, page) || move->choice--)
                                continue;
                        thread->op = op & 0xf;
                        thread->op_page = page & 1;
                        move->choice = 0;
                        return true;
                }
        return false;
}

/* Whether the thread may be writing to the page now. */
static bool may_write(const struct move *move, unsigned i, unsigned page)
{
        const struct thread *thread = &move->state->threads[i];
        struct instruction now;

        if (thread->phase != PHASE_RUNNING)
                return false;
        now = current(move, i);
        return now.op == OP_ANY ? now.page & (BIT(OP_STORE) | BIT(OP_PIN))
                                : (now.op == OP_STORE || now.op == OP_PIN) && now.page == page;
}

/* Whether the thread reads the page next; makes the choice if there is one. */
static bool may_load(struct thread *thread, struct instruction now, unsigned page)
{
        if (now.op == OP_ANY && now.page & BIT(OP_LOAD)) {
                thread->op = OP_LOAD;
                thread->op_page = page & 1;
                return true;
        }
        return (now.op == OP_LOAD || now.op == OP_STORE || now.op == OP_PIN) && now.page == page;
}

/*
 * The kernel clears the page-table entry for a moment while it copies a page for a writer. Who touches the
 * page just then takes a minor fault although nobody discarded anything. That it can happen whenever somebody
 * else is about to write is more than the truth.
 */
static bool touch_in_copy(struct move *move, unsigned i, unsigned page)
{
        struct thread *thread = &move->state->threads[i];
        unsigned process = thread_process(move->scenario, i);
        const struct place *place = &move->state->places[process][page];
        bool writer = false;

        if (thread->phase != PHASE_RUNNING || page >= move->scenario->n_pages || place->vma != VMA_POOL ||
            place->pte == PTE_EMPTY || !context_has_minor(place->context))
                return false;
        for (unsigned k = 0; k < N_THREADS; k++)
                writer |= k != i && thread_process(move->scenario, k) == process && may_write(move, k, page);
        if (!writer || !may_load(thread, current(move, i), page))
                return false;
        (void)!sleep_in_fault(move, i, page, FAULT_MINOR);
        return true;
}

/* All but OP_FORK, of which several steps may be possible. */
static bool (*const steps[N_OPS])(struct move *move, unsigned i, unsigned page) = {
        [OP_LOAD] = load,       [OP_STORE] = store,          [OP_DISCARD] = discard,
        [OP_PIN] = pin,         [OP_DEVICE] = device_writes, [OP_MAP] = map,
        [OP_EXIT] = exit_step,  [OP_WATCH] = protect,        [OP_HOLD] = protect,
        [OP_RELEASE] = release,
};

bool program_step(struct move *move, unsigned i)
{
        struct thread *thread = &move->state->threads[i];
        struct instruction now = current(move, i);

        if (thread->phase == PHASE_UNBORN || thread->phase == PHASE_FAULT || thread->phase == PHASE_EVENT)
                return false;
        if (move->choice >= FIRST_IN_COPY)
                return touch_in_copy(move, i, move->choice - FIRST_IN_COPY);
        if (now.op == OP_ANY) {
                if (!choose(move, thread, now.page))
                        return false;
                now = current(move, i);
        }
        if (abstains(move, i, now))
                return false;
        if (now.op == OP_FORK)
                return fork_step(move, i);
        return !move->choice && steps[now.op] && steps[now.op](move, i, now.page);
}
