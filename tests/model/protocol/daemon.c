/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The daemon: who shares a page of the pool, when it is given back, its death, and its successor; or, where the
 * program protects pages, which of them it leaves alone (daemon/dedup/task.c)
 *
 * For the pool it is the same whether a new daemon adopts it or the old one only lost the session: nobody
 * counts the batch that is under way any more.
 */

#include "tests/model/protocol/actors.h"
#include "tests/model/protocol/kernel.h"

static bool take_result(struct move *move)
{
        struct daemon *daemon = &move->state->daemon;

        if (!daemon->result)
                return false;
        daemon->sharers |= daemon->merged;
        daemon->pins = daemon->merged = 0;
        daemon->result = daemon->sent = false;
        say(move, "reads the result: sharers %#x", daemon->sharers);
        return true;
}

/* A page that is a copy shares nothing any more. One that was discarded is not looked for. */
static bool see_copy(struct move *move, unsigned page)
{
        const struct place *place = &move->state->places[PARENT][page];

        if (!(move->state->daemon.sharers & BIT(page)) || (place->vma == VMA_POOL && place->pte != PTE_FRAME))
                return false;
        move->state->daemon.sharers &= (uint8_t)~BIT(page);
        say(move, "sees that page %u is a copy: one sharer less", page);
        return true;
}

/*
 * Own count first, then the lock, and then what the kernel says of the page. The lock is kept until the slot
 * is punched.
 */
static bool check(struct move *move, unsigned page)
{
        struct daemon *daemon = &move->state->daemon;

        if ((daemon->sharers | daemon->pins | daemon->checked | daemon->freed) & BIT(page))
                return false;
        if (has(move, GUARD_POOL_LOCK) && move->state->agent.locked)
                return false;
        if (has(move, GUARD_MAPCOUNT) && pool_mapcount(move->state, page))
                return false;
        daemon->checked |= (uint8_t)BIT(page);
        say(move, "locks slot %u and finds that nobody maps it", page);
        return true;
}

static bool punch(struct move *move, unsigned page)
{
        struct daemon *daemon = &move->state->daemon;

        if (!(daemon->checked & BIT(page)))
                return false;
        pool_punch(move->state, page);
        daemon->checked &= (uint8_t)~BIT(page);
        daemon->freed |= (uint8_t)BIT(page);
        say(move, "punches slot %u and unlocks it", page);
        return true;
}

/* The slot of new content is a free one; nobody is asked, since nobody can map it. */
static bool reuse(struct move *move, unsigned page)
{
        struct daemon *daemon = &move->state->daemon;

        if (!move->scenario->reuse || !(daemon->freed & ~daemon->reused & BIT(page)))
                return false;
        move->state->pool[page] = VALUE_B;
        daemon->reused |= (uint8_t)BIT(page);
        say(move, "stores B in slot %u for somebody else", page);
        return true;
}

static bool die(struct move *move)
{
        if (move->scenario->daemon != DAEMON_DIES)
                return false;
        move->state->daemon = (struct daemon){0};
        say(move, "is killed");
        return true;
}

/* What has content may be mapped; what has none is free. */
static bool give_way(struct move *move)
{
        struct daemon *daemon = &move->state->daemon;

        if (move->scenario->daemon != DAEMON_RETURNS || daemon->successor)
                return false;
        *daemon = (struct daemon){.alive = true, .successor = true};
        for (unsigned page = 0; page < move->scenario->n_pages; page++)
                if (move->state->pool[page] == POOL_HOLE)
                        daemon->freed |= (uint8_t)BIT(page);
        say(move, "is killed; another one adopts the pool, of which the slots %#x are free", daemon->freed);
        return true;
}

/* ------------------------------------------------------------------ where the program protects pages */

static bool asked(const struct move *move)
{
        bool asked = false;

        for (unsigned i = 0; i < N_THREADS; i++)
                asked |= move->state->threads[i].call == CALL_ASK;
        return asked;
}

/*
 * What is left alone is not merged. It may be given back: who asked for that may have looked at the shield
 * before the page was protected.
 */
static bool plan(struct move *move)
{
        struct daemon *daemon = &move->state->daemon;
        unsigned run = move->state->agent.run, pooled = 0;

        if (daemon->sent || asked(move) || run == N_RUNS || move->scenario->runs[run] == RUN_NONE)
                return false;
        for (unsigned page = 0; page < move->scenario->n_pages; page++)
                pooled |= move->state->places[PARENT][page].vma == VMA_POOL ? BIT(page) : 0;
        if (move->scenario->runs[run] == RUN_UNMERGE ? !pooled : pooled | daemon->left_alone)
                return false;
        daemon->sent = true;
        say(move, "sends a batch");
        return true;
}

/* What is in flight has to come home: until then nobody knows what becomes of it. */
static bool leave_alone(struct move *move, struct thread *thread, unsigned page)
{
        struct daemon *daemon = &move->state->daemon;

        if (daemon->sent && has(move, GUARD_TASK_WAITS))
                return false;
        if (!daemon->sent && move->state->places[PARENT][page].vma != VMA_POOL)
                daemon->left_alone |= (uint8_t)BIT(page);
        thread->call = CALL_ERRAND;
        say(move, "leaves the pages %#x alone", daemon->left_alone);
        return true;
}

/* Whether another thread protects something, so that it has the daemon's consent or is about to. */
static bool protected_by_another(const struct move *move, unsigned i)
{
        bool another = false;

        for (unsigned k = 0; k < N_THREADS; k++)
                another |= k != i && program_protecting(move, k);
        return another && has(move, GUARD_PROTECTING);
}

static bool answer_call(struct move *move, unsigned i)
{
        struct thread *thread = &move->state->threads[i];
        unsigned page = current(move, i).page;

        if (thread->call == CALL_ASK)
                return leave_alone(move, thread, page);
        if (thread->call != CALL_TELL || protected_by_another(move, i))
                return false;
        if (move->state->shields[page].state == SHIELD_NONE || !has(move, GUARD_PROTECTING))
                move->state->daemon.left_alone &= (uint8_t)~BIT(page);
        program_returns(move, i);
        say(move, "hears that page %u was released", page);
        return true;
}

/* What it has sent can be read all the same. */
static bool leave_program(struct move *move)
{
        struct daemon *daemon = &move->state->daemon;

        if (move->scenario->daemon == DAEMON_LIVES || daemon->successor)
                return false;
        *daemon = (struct daemon){.sent = daemon->sent && !daemon->result};
        say(move, "is killed");
        return true;
}

static bool serve_program(struct move *move)
{
        switch (move->choice) {
        case 0:
                return take_result(move);
        case 1:
                return plan(move);
        case 2:
                return leave_program(move);
        default:
                return move->choice < 3 + N_THREADS && answer_call(move, move->choice - 3);
        }
}

bool daemon_step(struct move *move)
{
        static bool (*const steps[])(struct move *, unsigned) = {see_copy, check, punch, reuse};
        unsigned step = move->choice / N_PAGES, page = move->choice % N_PAGES;

        if (!move->state->daemon.alive)
                return false;
        if (move->scenario->protects)
                return serve_program(move);
        if (step == 0)
                return page == 0 ? take_result(move) : die(move) || give_way(move);
        return step <= 4 && page < move->scenario->n_pages && steps[step - 1](move, page);
}
