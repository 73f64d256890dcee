/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The explorer
 *
 * All states go into one array in the order of their discovery, which is also the queue; a table finds equal
 * ones. Each state remembers who led to it first. Every step is recorded as well: in the end one walks
 * backwards from the states in which everybody has finished, and a state that is not met cannot end - a
 * deadlock, or a circle without a way out.
 */

#include "tests/model/protocol/explore.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "tests/model/protocol/actors.h"
#include "tests/model/protocol/kernel.h"

#define MAX_STATES ((size_t)3 << 20)
#define NOBODY     UINT32_MAX

enum actor {
        ACTOR_AGENT = AGENT, /* behind the program's threads */
        ACTOR_WATCHER,
        ACTOR_DAEMON,
        N_ACTORS,
};

struct origin {
        uint32_t state;
        uint8_t actor, choice;
};

struct edge {
        uint32_t from, to;
};

struct explorer {
        const struct scenario *scenario;
        enum guard without;
        struct state *states;
        struct origin *origins;
        size_t n_states, states_capacity;
        uint32_t *table; /* number of a state + 1 */
        size_t table_size;
        struct edge *edges;
        size_t n_edges, edges_capacity;
};

void say(struct move *move, const char *format, ...)
{
        va_list arguments;

        size_t length;

        if (!move->text)
                return;
        length = strlen(move->text);
        va_start(arguments, format);
        vsnprintf(move->text + length, TEXT_SIZE - length, format, arguments);
        va_end(arguments);
}

/* ------------------------------------------------------------------ the set of states */

static void *grow(void *memory, size_t n, size_t size)
{
        memory = reallocarray(memory, n, size);
        if (!memory) {
                fprintf(stderr, "out of memory\n");
                exit(1);
        }
        return memory;
}

static uint64_t hash(const struct state *state)
{
        uint64_t words[(sizeof(*state) + 7) / 8] = {0}, h = 0x9e3779b97f4a7c15;

        memcpy(words, state, sizeof(*state));
        for (size_t i = 0; i < sizeof(words) / 8; i++) {
                h = (h ^ words[i]) * 0xff51afd7ed558ccd;
                h ^= h >> 32;
        }
        return h;
}

static size_t find(const struct explorer *explorer, const struct state *state)
{
        size_t at = hash(state) & (explorer->table_size - 1);

        while (explorer->table[at] &&
               memcmp(&explorer->states[explorer->table[at] - 1], state, sizeof(*state)) != 0)
                at = (at + 1) & (explorer->table_size - 1);
        return at;
}

static void enlarge(struct explorer *explorer)
{
        size_t capacity = explorer->states_capacity ? explorer->states_capacity * 2 : 4096;

        explorer->states = grow(explorer->states, capacity, sizeof(*explorer->states));
        explorer->origins = grow(explorer->origins, capacity, sizeof(*explorer->origins));
        explorer->states_capacity = capacity;
        free(explorer->table);
        explorer->table_size = capacity * 2;
        explorer->table = grow(NULL, explorer->table_size, sizeof(*explorer->table));
        memset(explorer->table, 0, explorer->table_size * sizeof(*explorer->table));
        for (size_t i = 0; i < explorer->n_states; i++)
                explorer->table[find(explorer, &explorer->states[i])] = (uint32_t)i + 1;
}

/* Adds the state if it is new; returns its number. */
static uint32_t add(struct explorer *explorer, const struct state *state, struct origin origin)
{
        size_t at;

        if (explorer->n_states == explorer->states_capacity)
                enlarge(explorer);
        at = find(explorer, state);
        if (!explorer->table[at]) {
                explorer->states[explorer->n_states] = *state;
                explorer->origins[explorer->n_states] = origin;
                explorer->table[at] = (uint32_t)++explorer->n_states;
        }
        return explorer->table[at] - 1;
}

static void add_edge(struct explorer *explorer, uint32_t from, uint32_t to)
{
        if (explorer->n_edges == explorer->edges_capacity) {
                explorer->edges_capacity = explorer->edges_capacity ? explorer->edges_capacity * 2 : 16384;
                explorer->edges = grow(explorer->edges, explorer->edges_capacity, sizeof(*explorer->edges));
        }
        explorer->edges[explorer->n_edges++] = (struct edge){.from = from, .to = to};
}

/* ------------------------------------------------------------------ what must hold */

static bool finished(const struct scenario *scenario, const struct state *state)
{
        const struct agent *agent = &state->agent;

        for (unsigned i = 0; i < N_THREADS; i++)
                if (state->threads[i].phase != PHASE_UNBORN &&
                    (state->threads[i].phase != PHASE_RUNNING ||
                     scenario->scripts[i].code[state->threads[i].pc].op != OP_END))
                        return false;
        return !agent->step && !agent->completing && !state->hands[0].full &&
               state->threads[AGENT].phase == PHASE_RUNNING &&
               (scenario->protects || agent->run == N_RUNS || scenario->runs[agent->run] == RUN_NONE);
}

/* What somebody who reads the page now would get; -1: he would wait. */
static int would_read(const struct state *state, unsigned process, unsigned page)
{
        const struct place *place = &state->places[process][page];

        if (place->pte != PTE_EMPTY)
                return (int)read_place(state, process, page);
        if (place->vma == VMA_ANON)
                return place->context == CONTEXT_GUARD ? -1 : VALUE_ZERO;
        if (context_has_minor(place->context))
                return -1; /* it depends on who answers */
        return state->pool[page] == POOL_HOLE ? VALUE_ZERO : state->pool[page];
}

/* Before the fork is complete nobody is there to read the child's pages. */
static bool lives(const struct scenario *scenario, const struct state *state, unsigned process)
{
        bool lives = process == PARENT;

        for (unsigned i = 0; i < N_THREADS; i++)
                lives |= thread_process(scenario, i) == process && state->threads[i].phase != PHASE_UNBORN;
        return lives;
}

static const char *check_memory(const struct scenario *scenario, const struct state *state)
{
        static const char *const wrong[N_PROCESSES][N_PAGES] = {
                {"the parent's page 0 does not read as it must",
                 "the parent's page 1 does not read as it must"},
                {"the child's page 0 does not read as it must",
                 "the child's page 1 does not read as it must"},
        };

        for (unsigned process = 0; process < N_PROCESSES; process++)
                for (unsigned page = 0; page < scenario->n_pages; page++) {
                        int value = -1;

                        if (process == PARENT && scenario->careful && in_gap(state, process, page))
                                continue;
                        if (state->places[process][page].vma != VMA_NONE && lives(scenario, state, process))
                                value = would_read(state, process, page);
                        if (value >= 0 && !(state->allowed[process][page] & BIT(value)))
                                return wrong[process][page];
                }
        return NULL;
}

static bool slot_in_use(const struct state *state, unsigned page)
{
        for (unsigned row = 0; row < N_ROWS; row++)
                if (state->places[row][page].vma == VMA_POOL && state->places[row][page].pte != PTE_FRAME)
                        return true;
        return false;
}

/* Client and daemon must agree on which pages are protected. */
static const char *check_protection(const struct scenario *scenario, const struct state *state, unsigned page)
{
        bool protected = state->shields[page].state != SHIELD_NONE;
        bool left_alone = state->daemon.left_alone & BIT(page);

        if (protected && !state->daemon.alive)
                return "in the end a page is protected, and there is no daemon";
        if (protected && !left_alone && state->places[PARENT][page].vma == VMA_ANON)
                return "in the end the daemon would merge what is protected";
        if (!protected && left_alone)
                return "in the end the daemon leaves alone what nobody protects";
        return NULL;
}

static const char *check_pool(const struct state *state, unsigned page)
{
        const struct daemon *daemon = &state->daemon;

        if (daemon->alive && !daemon->reused && state->pool[page] != POOL_HOLE &&
            !(daemon->freed & BIT(page)) && !slot_in_use(state, page))
                return "in the end a page of the pool is left that nobody can map";
        if (daemon->freed & ~daemon->reused & BIT(page) && state->pool[page] != POOL_HOLE)
                return "in the end there is a page in a free slot";
        return NULL;
}

/* Says what is wrong with a state in which everybody has finished and nobody can go on. */
static const char *check_end(const struct scenario *scenario, const struct state *state)
{
        for (unsigned page = 0; page < scenario->n_pages; page++) {
                const char *wrong = scenario->protects ? check_protection(scenario, state, page)
                                                       : check_pool(state, page);

                if (wrong)
                        return wrong;
                if (state->places[ROW_STAGING][page].pte != PTE_EMPTY ||
                    state->places[ROW_ASIDE][page].vma != VMA_NONE)
                        return "in the end the agent has memory left";
        }
        if (state->child_contexts[CONTEXT_GUARD] == CHILD_CONTEXT_OPEN)
                return "in the end the agent has a child's guard left";
        return NULL;
}

/* ------------------------------------------------------------------ steps */

static bool take(struct move *move, enum actor actor)
{
        bool done;

        switch (actor) {
        case ACTOR_AGENT:
                done = agent_step(move);
                break;
        case ACTOR_WATCHER:
                done = watcher_step(move);
                break;
        case ACTOR_DAEMON:
                done = daemon_step(move);
                break;
        default:
                done = program_step(move, actor);
        }
        if (done)
                tidy(move->state);
        return done;
}

static void print_step(FILE *trace, const struct scenario *scenario, unsigned number, unsigned actor,
                       const char *text)
{
        static const char *const names[] = {[ACTOR_AGENT] = "agent", "watcher", "daemon"};

        if (actor < N_THREADS)
                fprintf(trace, "  %3u. thread %u of the %s %s\n", number, actor,
                        scenario->scripts[actor].process == PARENT ? "parent" : "child", text);
        else
                fprintf(trace, "  %3u. %s %s\n", number, names[actor], text);
}

/* Prints the steps up to and including this one; returns their number. */
static unsigned print_way(const struct explorer *explorer, struct origin origin, FILE *trace)
{
        char text[TEXT_SIZE] = "";
        struct state state;
        struct move move = {.scenario = explorer->scenario,
                            .without = explorer->without,
                            .state = &state,
                            .choice = origin.choice,
                            .text = text};
        unsigned length;

        if (origin.state == NOBODY)
                return 0;
        length = print_way(explorer, explorer->origins[origin.state], trace) + 1;
        state = explorer->states[origin.state];
        (void)!take(&move, origin.actor);
        if (trace)
                print_step(trace, explorer->scenario, length, origin.actor, text);
        return length;
}

/* Spares us asking those who obviously cannot step; being wrong here must only cost time. */
static bool idle(const struct scenario *scenario, const struct state *state, unsigned actor)
{
        const struct thread *thread = &state->threads[actor <= AGENT ? actor : AGENT];

        if (actor == ACTOR_DAEMON)
                return !state->daemon.alive;
        if (actor == ACTOR_WATCHER)
                return false;
        return thread->phase == PHASE_FAULT || thread->phase == PHASE_EVENT ||
               thread->phase == PHASE_UNBORN || thread->call >= CALL_ASK ||
               (actor < N_THREADS && scenario->scripts[actor].code[thread->pc].op == OP_END);
}

/* Takes all steps from one state. Returns what is wrong with one of them, or with the state, and the way. */
static const char *expand(struct explorer *explorer, uint32_t number, struct origin *ret_origin)
{
        struct state state;
        struct move move = {.scenario = explorer->scenario, .without = explorer->without, .state = &state};
        struct origin origin = {.state = number};
        size_t n_edges = explorer->n_edges;
        const char *wrong;
        uint32_t to;

        for (origin.actor = 0; origin.actor < N_ACTORS; origin.actor++)
                for (origin.choice = 0; origin.choice < MAX_CHOICES; origin.choice++) {
                        if (idle(explorer->scenario, &explorer->states[number], origin.actor))
                                break;
                        state = explorer->states[number];
                        move.choice = origin.choice;
                        if (!take(&move, origin.actor))
                                continue;
                        wrong = move.violation ? move.violation : check_memory(explorer->scenario, &state);
                        if (wrong) {
                                *ret_origin = origin;
                                return wrong;
                        }
                        to = add(explorer, &state, origin);
                        if (to != number)
                                add_edge(explorer, number, to);
                }
        if (explorer->n_edges > n_edges)
                return NULL;
        *ret_origin = explorer->origins[number];
        if (!finished(explorer->scenario, &explorer->states[number]))
                return "everybody waits for ever";
        wrong = check_end(explorer->scenario, &explorer->states[number]);
        if (!wrong)
                add_edge(explorer, number, number); /* which no step is: it marks an end */
        return wrong;
}

/* ------------------------------------------------------------------ whether everybody can finish */

/* Turns edges into lists of predecessors: those of state i are at [starts[i], starts[i + 1]). */
static uint32_t *list_predecessors(const struct explorer *explorer, uint32_t *starts)
{
        uint32_t *predecessors = grow(NULL, explorer->n_edges + 1, sizeof(*predecessors));

        memset(starts, 0, (explorer->n_states + 2) * sizeof(*starts));
        for (size_t i = 0; i < explorer->n_edges; i++)
                starts[explorer->edges[i].to + 2]++;
        for (size_t i = 2; i < explorer->n_states + 2; i++)
                starts[i] += starts[i - 1];
        for (size_t i = 0; i < explorer->n_edges; i++)
                predecessors[starts[explorer->edges[i].to + 1]++] = explorer->edges[i].from;
        return predecessors;
}

/* The first state from which no end can be reached, or NOBODY. */
static uint32_t find_endless(const struct explorer *explorer)
{
        uint32_t *starts = grow(NULL, explorer->n_states + 2, sizeof(*starts));
        uint32_t *queue = grow(NULL, explorer->n_states, sizeof(*queue));
        uint32_t *predecessors = list_predecessors(explorer, starts);
        uint8_t *ends = grow(NULL, explorer->n_states, 1);
        size_t n_queued = 0;
        uint32_t endless = 0;

        memset(ends, 0, explorer->n_states);
        for (size_t i = 0; i < explorer->n_edges; i++)
                if (explorer->edges[i].from == explorer->edges[i].to && !ends[explorer->edges[i].to]) {
                        ends[explorer->edges[i].to] = 1;
                        queue[n_queued++] = explorer->edges[i].to;
                }
        for (size_t i = 0; i < n_queued; i++)
                for (uint32_t k = starts[queue[i]]; k < starts[queue[i] + 1]; k++)
                        if (!ends[predecessors[k]]) {
                                ends[predecessors[k]] = 1;
                                queue[n_queued++] = predecessors[k];
                        }
        while (endless < explorer->n_states && ends[endless])
                endless++;
        free(ends);
        free(predecessors);
        free(queue);
        free(starts);
        return endless < explorer->n_states ? endless : NOBODY;
}

/* ------------------------------------------------------------------ all of it */

static void start(struct explorer *explorer)
{
        const struct scenario *scenario = explorer->scenario;
        struct state state;

        memset(&state, 0, sizeof(state));
        for (unsigned page = 0; page < scenario->n_pages; page++) {
                state.pool[page] = VALUE_A;
                map_place(&state, ROW_STAGING, page, VMA_ANON);
                if (scenario->holes & BIT(page))
                        continue;
                state.allowed[PARENT][page] = (uint8_t)BIT(scenario->content[page]);
                map_place(&state, PARENT, page, scenario->starts_merged ? VMA_POOL : VMA_ANON);
                uffd_register(&state, PARENT, page,
                              scenario->starts_merged ? scenario->merged : CONTEXT_TRACK);
                if (scenario->discarded & BIT(page)) {
                        state.allowed[PARENT][page] = BIT(VALUE_ZERO);
                } else if (scenario->starts_merged) {
                        state.places[PARENT][page].pte = PTE_POOL;
                        state.places[PARENT][page].wp = 1;
                } else {
                        frame_new(&state, PARENT, page, scenario->content[page]);
                }
        }
        for (unsigned i = 0; i <= AGENT; i++)
                if (thread_process(scenario, i) == PARENT)
                        state.threads[i].phase = PHASE_RUNNING;
        if (scenario->daemon != DAEMON_GONE) {
                state.daemon.alive = true;
                *(scenario->starts_merged ? &state.daemon.sharers : &state.daemon.pins) =
                        (uint8_t)(scenario->protects ? 0 : ALL_PAGES(scenario));
        }
        add(explorer, &state, (struct origin){.state = NOBODY});
}

static const char *run(struct explorer *explorer, struct origin *ret_origin)
{
        uint32_t endless;

        start(explorer);
        for (uint32_t i = 0; i < explorer->n_states; i++) {
                const char *violation = expand(explorer, i, ret_origin);

                if (violation)
                        return violation;
                if (explorer->n_states > MAX_STATES)
                        return "there are too many states to look at";
        }
        endless = find_endless(explorer);
        if (endless == NOBODY)
                return NULL;
        *ret_origin = explorer->origins[endless];
        return "from here on somebody goes round in circles for ever";
}

struct verdict explore(const struct scenario *scenario, enum guard without, FILE *trace)
{
        struct explorer explorer = {.scenario = scenario, .without = without};
        struct origin origin = {.state = NOBODY};
        struct verdict verdict = {.violation = run(&explorer, &origin)};

        verdict.n_states = explorer.n_states;
        if (verdict.violation)
                verdict.length = print_way(&explorer, origin, trace);
        if (verdict.violation && trace)
                fprintf(trace, "       and %s\n", verdict.violation);
        free(explorer.states);
        free(explorer.origins);
        free(explorer.table);
        free(explorer.edges);
        return verdict;
}
