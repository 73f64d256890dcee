/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The kernel's part of the model: pages, mappings, events and faults. */

#include "tests/model/protocol/kernel.h"

#include <assert.h>
#include <string.h>

/* ------------------------------------------------------------------ features of contexts */

bool context_is_sync(unsigned context)
{
        return context == CONTEXT_GUARD || context == CONTEXT_HOLD || context_is_watch(context);
}

bool context_is_watch(unsigned context)
{
        return context == CONTEXT_WATCH || context == CONTEXT_CROWD;
}

/* Only of anonymous memory: what is empty in a mapping of the pool is filled before anything else. */
static bool context_has_unpopulated(const struct move *move, unsigned context)
{
        return context_is_watch(context) && has(move, GUARD_UNPOPULATED);
}

bool context_has_minor(unsigned context)
{
        return context == CONTEXT_GUARD || context == CONTEXT_HOLD || context == CONTEXT_LAZY;
}

bool context_has_missing(const struct move *move, unsigned context)
{
        return context_has_minor(context) && has(move, GUARD_MISSING);
}

bool context_told_of_remove(const struct move *move, unsigned context)
{
        return context == CONTEXT_GUARD && has(move, GUARD_REMOVE_EVENTS);
}

bool context_told_of_fork(unsigned context)
{
        return context == CONTEXT_GUARD || context == CONTEXT_HOLD || context == CONTEXT_LAZY ||
               context_is_watch(context);
}

bool context_told_of_remap(unsigned context)
{
        return context == CONTEXT_HOLD || context == CONTEXT_LAZY;
}

/* ------------------------------------------------------------------ threads */

unsigned thread_process(const struct scenario *scenario, unsigned thread)
{
        return thread == AGENT ? PARENT : scenario->scripts[thread].process;
}

struct instruction current(const struct move *move, unsigned i)
{
        const struct thread *thread = &move->state->threads[i];

        if (thread->op)
                return (struct instruction){.op = thread->op, .page = thread->op_page};
        return move->scenario->scripts[i].code[thread->pc];
}

/* ------------------------------------------------------------------ events */

bool changing(const struct state *state, unsigned process, unsigned context, const struct scenario *scenario)
{
        for (unsigned i = 0; i <= AGENT; i++) {
                const struct thread *thread = &state->threads[i];

                if (thread_process(scenario, i) != process)
                        continue;
                if ((thread->phase == PHASE_EVENT || thread->phase == PHASE_READ) &&
                    thread->context == context)
                        return true;
                if (thread->pending & BIT(context))
                        return true;
        }
        return false;
}

void event_post(struct move *move, unsigned i, unsigned context)
{
        struct thread *thread = &move->state->threads[i];
        unsigned process = thread_process(move->scenario, i), ticket = 1;

        for (unsigned k = 0; k <= AGENT; k++) {
                const struct thread *other = &move->state->threads[k];

                ticket += other->phase == PHASE_EVENT && other->context == context &&
                          thread_process(move->scenario, k) == process;
        }
        thread->phase = PHASE_EVENT;
        thread->context = context & 7;
        thread->ticket = ticket & 7;
}

bool event_unread(const struct move *move, unsigned process, unsigned context)
{
        for (unsigned i = 0; i <= AGENT; i++) {
                const struct thread *thread = &move->state->threads[i];

                if (thread->phase == PHASE_EVENT && thread->context == context &&
                    thread_process(move->scenario, i) == process)
                        return true;
        }
        return false;
}

int event_read(struct move *move, unsigned process, unsigned context)
{
        int found = -1;

        for (unsigned i = 0; i <= AGENT; i++) {
                struct thread *thread = &move->state->threads[i];

                if (thread->phase != PHASE_EVENT || thread->context != context ||
                    thread_process(move->scenario, i) != process)
                        continue;
                if (--thread->ticket == 0) {
                        thread->phase = PHASE_READ;
                        found = (int)i;
                }
        }
        return found;
}

bool discarding(const struct move *move, unsigned process, unsigned page, bool read)
{
        for (unsigned i = 0; i < N_THREADS; i++) {
                const struct thread *thread = &move->state->threads[i];
                struct instruction now = current(move, i);

                if (thread_process(move->scenario, i) == process && now.op == OP_DISCARD &&
                    now.page == page &&
                    (thread->phase == PHASE_READ || thread->phase == PHASE_ZAP ||
                     (!read && thread->phase == PHASE_EVENT)))
                        return true;
        }
        return false;
}

/* ------------------------------------------------------------------ frames */

static bool frame_used(const struct state *state, unsigned frame)
{
        if (state->frames[frame].pins)
                return true;
        for (unsigned row = 0; row < N_ROWS; row++)
                for (unsigned page = 0; page < N_PAGES; page++) {
                        const struct place *place = &state->places[row][page];

                        if (place->pte == PTE_FRAME && place->frame == frame)
                                return true;
                }
        return false;
}

bool frame_shared(const struct state *state, unsigned frame)
{
        unsigned n = 0;

        for (unsigned row = 0; row < N_ROWS; row++)
                for (unsigned page = 0; page < N_PAGES; page++) {
                        const struct place *place = &state->places[row][page];

                        n += place->pte == PTE_FRAME && place->frame == frame;
                }
        return n > 1;
}

/* The place gets a fresh frame, unprotected. */
void frame_new(struct state *state, unsigned row, unsigned page, unsigned content)
{
        struct place *place = &state->places[row][page];
        unsigned frame = 0;

        while (frame < N_FRAMES && frame_used(state, frame))
                frame++;
        assert(frame < N_FRAMES);
        state->frames[frame].content = content & 0xf;
        place->pte = PTE_FRAME;
        place->frame = frame & 7;
        place->wp = 0;
}

/* Numbers frames in the order of the places, so that equal memory is an equal state. */
void tidy(struct state *state)
{
        struct frame frames[N_FRAMES] = {0};
        uint8_t number[N_FRAMES], n = 0;

        memset(number, 0xff, sizeof(number));
        for (unsigned row = 0; row < N_ROWS; row++)
                for (unsigned page = 0; page < N_PAGES; page++) {
                        struct place *place = &state->places[row][page];

                        if (place->pte != PTE_FRAME)
                                continue;
                        if (number[place->frame] == 0xff) {
                                number[place->frame] = n;
                                frames[n++] = state->frames[place->frame];
                        }
                        place->frame = number[place->frame] & 7;
                }
        for (unsigned frame = 0; frame < N_FRAMES; frame++)
                if (state->frames[frame].pins && number[frame] == 0xff) {
                        number[frame] = n;
                        frames[n++] = state->frames[frame];
                }
        for (unsigned i = 0; i < N_THREADS; i++) {
                struct thread *thread = &state->threads[i];

                thread->frame = thread->frame ? (number[thread->frame - 1] + 1U) & 0xf : 0;
        }
        memcpy(state->frames, frames, sizeof(frames));
}

/* ------------------------------------------------------------------ faults */

void wake(struct move *move, unsigned process, unsigned context, unsigned pages)
{
        for (unsigned i = 0; i <= AGENT; i++) {
                struct thread *thread = &move->state->threads[i];

                if (thread->phase != PHASE_FAULT || thread->context != context ||
                    thread_process(move->scenario, i) != process || !(pages & BIT(thread->page)))
                        continue;
                thread->phase = PHASE_RUNNING;
                thread->context = thread->fault = thread->page = thread->answered = 0;
        }
}

bool sleep_in_fault(struct move *move, unsigned i, unsigned page, enum fault fault)
{
        static const char *const names[] = {"missing", "minor", "write-protect"};
        struct thread *thread = &move->state->threads[i];

        thread->phase = PHASE_FAULT;
        thread->context = move->state->places[thread_process(move->scenario, i)][page].context;
        thread->fault = fault & 3;
        thread->page = page & 1;
        thread->answered = 0;
        say(move, "sleeps in a %s fault at page %u", names[fault], page);
        return false;
}

bool in_gap(const struct state *state, unsigned process, unsigned page)
{
        const struct place *place = &state->places[process][page];

        return place->vma == VMA_POOL && place->pte == PTE_EMPTY && place->context == CONTEXT_NONE;
}

/* Where no context has the memory, the kernel maps along what is in the file for empty neighbours. */
static void fault_around(struct move *move, unsigned row)
{
        for (unsigned page = 0; page < move->scenario->n_pages; page++)
                if (in_gap(move->state, row, page) && move->state->pool[page] != POOL_HOLE)
                        move->state->places[row][page].pte = PTE_POOL;
}

/* Fills an empty entry for a reader, or returns false and says which fault it is. */
static bool fill(struct move *move, unsigned row, unsigned page, enum fault *ret_fault)
{
        struct place *place = &move->state->places[row][page];
        bool hole = move->state->pool[page] == POOL_HOLE;

        *ret_fault = FAULT_MISSING;
        if (place->vma == VMA_ANON)
                return place->context != CONTEXT_GUARD;
        if (hole && context_has_missing(move, place->context))
                return false;
        *ret_fault = FAULT_MINOR;
        if (!hole && context_has_minor(place->context))
                return false;
        if (hole) /* the kernel makes a page for the reader, and it stays */
                move->state->pool[page] = VALUE_ZERO;
        place->pte = PTE_POOL;
        if (place->context == CONTEXT_NONE)
                fault_around(move, row);
        return true;
}

unsigned read_place(const struct state *state, unsigned row, unsigned page)
{
        const struct place *place = &state->places[row][page];

        if (place->pte == PTE_POOL)
                return state->pool[page];
        return place->pte == PTE_FRAME ? state->frames[place->frame].content : VALUE_ZERO;
}

bool touch(struct move *move, unsigned i, unsigned page, bool write)
{
        struct state *state = move->state;
        unsigned row = thread_process(move->scenario, i);
        struct place *place = &state->places[row][page];
        enum fault fault;

        assert(place->vma != VMA_NONE);
        if (place->pte == PTE_EMPTY && !fill(move, row, page, &fault))
                return sleep_in_fault(move, i, page, fault);
        if (!write)
                return true;
        if (place->wp && context_is_sync(place->context)) {
                if (row == PARENT && place->context == CONTEXT_HOLD && place->pte == PTE_FRAME &&
                    state->shields[page].state == SHIELD_NONE)
                        move->violation = "a page is protected that is the program's own";
                return sleep_in_fault(move, i, page, FAULT_WP);
        }
        if (place->pte != PTE_FRAME || frame_shared(state, place->frame))
                frame_new(state, row, page, read_place(state, row, page));
        place->wp = 0;
        return true;
}

/* ------------------------------------------------------------------ pages and mappings */

void zap(struct state *state, unsigned row, unsigned page)
{
        struct place *place = &state->places[row][page];

        place->pte = PTE_EMPTY;
        place->frame = 0;
        place->wp = 0;
}

void map_place(struct state *state, unsigned row, unsigned page, enum vma vma)
{
        state->places[row][page] = (struct place){.vma = vma & 3};
}

void move_mapping(struct state *state, unsigned page)
{
        state->places[PARENT][page] = state->places[ROW_ASIDE][page];
        map_place(state, ROW_ASIDE, page, VMA_NONE);
}

unsigned pool_mapcount(const struct state *state, unsigned page)
{
        unsigned n = 0;

        for (unsigned row = 0; row < N_ROWS; row++)
                n += state->places[row][page].pte == PTE_POOL;
        return n;
}

void pool_punch(struct state *state, unsigned page)
{
        state->pool[page] = POOL_HOLE;
        for (unsigned row = 0; row < N_ROWS; row++)
                if (state->places[row][page].pte == PTE_POOL)
                        zap(state, row, page);
}

static void fork_page(struct move *move, unsigned page, struct thread *forker)
{
        struct state *state = move->state;
        struct place *from = &state->places[PARENT][page], *to = &state->places[CHILD][page];

        *to = *from;
        if (context_told_of_fork(from->context)) {
                forker->pending |= BIT(from->context) & 0xff;
        } else {
                to->context = CONTEXT_NONE;
                to->wp = 0;
        }
        if (to->pte == PTE_FRAME && state->frames[from->frame].pins)
                frame_new(state, CHILD, page, state->frames[from->frame].content);
        state->allowed[CHILD][page] = state->allowed[PARENT][page];
}

/* What the child inherits of the agent's own mappings it never touches; the page of the pool stays mapped. */
void fork_tables(struct move *move, unsigned i)
{
        struct state *state = move->state;
        struct thread *forker = &state->threads[i];

        for (unsigned page = 0; page < move->scenario->n_pages; page++) {
                const struct place *aside = &state->places[ROW_ASIDE][page];

                fork_page(move, page, forker);
                if (context_told_of_fork(aside->context))
                        forker->pending |= BIT(aside->context) & 0xff;
        }
        if (move->scenario->elsewhere)
                forker->pending |= BIT(move->scenario->merged) & 0xff;
        for (unsigned context = 0; context < N_CONTEXTS; context++)
                if (forker->pending & BIT(context))
                        state->child_contexts[context] = CHILD_CONTEXT_UNREAD;
}

void child_exit(struct state *state)
{
        for (unsigned page = 0; page < N_PAGES; page++) {
                map_place(state, CHILD, page, VMA_NONE);
                state->allowed[CHILD][page] = 0;
        }
}

/* ------------------------------------------------------------------ userfaultfd */

void uffd_register(struct state *state, unsigned row, unsigned page, unsigned context)
{
        if (state->places[row][page].vma != VMA_NONE) /* holes are skipped */
                state->places[row][page].context = context & 7;
}

/* Only those who wait for missing pages are woken. */
void uffd_unregister(struct move *move, unsigned row, unsigned page)
{
        struct place *place = &move->state->places[row][page];
        unsigned context = place->context;
        bool missing =
                !context_is_watch(context) && (place->vma == VMA_ANON || context_has_missing(move, context));

        place->context = CONTEXT_NONE;
        place->wp = 0;
        if (missing && row == PARENT)
                wake(move, PARENT, context, BIT(page));
}

int uffd_write_protect(struct move *move, unsigned process, unsigned context, unsigned row, unsigned pages,
                       bool protect)
{
        struct state *state = move->state;

        if (changing(state, process, context, move->scenario))
                return -EAGAIN;
        for (unsigned page = 0; page < move->scenario->n_pages; page++) {
                struct place *place = &state->places[row][page];

                if (!(pages & BIT(page)))
                        continue;
                /* Track protects asynchronously; guard does not protect anonymous memory. */
                if (place->context == CONTEXT_NONE ||
                    (place->context == CONTEXT_GUARD && place->vma != VMA_POOL))
                        return -ENOENT;
                if (place->context != CONTEXT_TRACK)
                        place->wp = protect && (place->pte != PTE_EMPTY ||
                                                context_has_unpopulated(move, place->context));
        }
        if (!protect)
                wake(move, process, context, pages);
        return 0;
}

/* Whether a page can be filled, as mfill_atomic() sees it. */
static int check_fill(const struct move *move, unsigned process, unsigned context, unsigned page)
{
        const struct place *place = &move->state->places[process][page];

        if (changing(move->state, process, context, move->scenario))
                return -EAGAIN;
        if (place->context == CONTEXT_NONE)
                return -ENOENT;
        return place->pte == PTE_EMPTY ? 0 : -EEXIST;
}

int uffd_copy(struct move *move, unsigned process, unsigned context, unsigned page, unsigned content)
{
        int r = check_fill(move, process, context, page);

        if (r < 0)
                return r;
        frame_new(move->state, process, page, content);
        wake(move, process, context, BIT(page));
        return 0;
}

int uffd_zeropage(struct move *move, unsigned context, unsigned page)
{
        int r = check_fill(move, PARENT, context, page);

        if (r < 0)
                return r;
        move->state->places[PARENT][page].pte = PTE_ZERO;
        wake(move, PARENT, context, BIT(page));
        return 0;
}

static void move_frame(struct state *state, unsigned from, unsigned to, unsigned page)
{
        state->places[to][page].pte = state->places[from][page].pte;
        state->places[to][page].frame = state->places[from][page].frame;
        state->places[to][page].wp = 0;
        zap(state, from, page);
}

int uffd_move_out(struct move *move, unsigned page)
{
        struct place *place = &move->state->places[PARENT][page];

        if (place->vma == VMA_NONE)
                return -ENOENT;
        if (place->pte == PTE_FRAME &&
            (frame_shared(move->state, place->frame) ||
             (has(move, GUARD_PIN_CHECK) && move->state->frames[place->frame].pins)))
                return -EBUSY;
        move_frame(move->state, PARENT, ROW_STAGING, page);
        return 0;
}

int uffd_move_back(struct move *move, unsigned page)
{
        if (changing(move->state, PARENT, CONTEXT_GUARD, move->scenario))
                return -EAGAIN;
        if (move->state->places[PARENT][page].pte != PTE_EMPTY)
                return -EEXIST;
        move_frame(move->state, ROW_STAGING, PARENT, page);
        wake(move, PARENT, CONTEXT_GUARD, BIT(page));
        return 0;
}

/* Closing a context releases the memory, whoever waits for it, and whoever waits for an event to be read. */
void uffd_close_child(struct move *move, unsigned context)
{
        struct state *state = move->state;

        state->child_contexts[context] = CHILD_CONTEXT_CLOSED;
        for (unsigned page = 0; page < N_PAGES; page++)
                if (state->places[CHILD][page].context == context) {
                        state->places[CHILD][page].context = CONTEXT_NONE;
                        state->places[CHILD][page].wp = 0;
                }
        wake(move, CHILD, context, ~0U);
        while (event_read(move, CHILD, context) >= 0)
                ;
}
