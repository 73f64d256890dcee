/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The scenarios, and the guards that each of them is a test of. */

#include "tests/model/protocol/scenario.h"

#include <string.h>

#define DO(_op, _page)                                                                                       \
        {                                                                                                    \
                _op, _page                                                                                   \
        }
#define LOAD(_page)    DO(OP_LOAD, _page)
#define STORE(_page)   DO(OP_STORE, _page)
#define DISCARD(_page) DO(OP_DISCARD, _page)
#define MAP(_page)     DO(OP_MAP, _page)
#define FORK           DO(OP_FORK, 0)
#define EXIT           DO(OP_EXIT, 0)
#define PIN(_page)     DO(OP_PIN, _page)
#define DEVICE(_page)  DO(OP_DEVICE, _page)

#define ANY(_set) DO(OP_ANY, _set)
#define PLAIN     (BIT(OP_LOAD) | BIT(OP_STORE) | BIT(OP_DISCARD))
#define WITH_FORK (PLAIN | BIT(OP_FORK))
#define WITH_DMA  (PLAIN | BIT(OP_PIN) | BIT(OP_DEVICE))

#define THREAD(_process, ...)                                                                                \
        {                                                                                                    \
                _process,                                                                                    \
                {                                                                                            \
                        __VA_ARGS__                                                                          \
                }                                                                                            \
        }
#define PARENT_THREAD(...) THREAD(PARENT, __VA_ARGS__)
#define CHILD_THREAD(...)  THREAD(CHILD, __VA_ARGS__)

/* What the pages of the run contain at first, anonymous or merged. */
#define PAGES(...)                                                                                           \
        .n_pages = sizeof((enum value[]){__VA_ARGS__}) / sizeof(enum value), .content = {__VA_ARGS__}
#define MERGED_PAGES(...) PAGES(__VA_ARGS__), .starts_merged = true

/* The scenario before it, with asynchronous protection; GUARD_NONE if it is a test of no guard. */
#define LAZY(_name, ...)                                                                                     \
        {                                                                                                    \
                .name = _name, .about = "the same with asynchronous protection", .merged = CONTEXT_LAZY,     \
                .missing = {                                                                                 \
                        __VA_ARGS__                                                                          \
                }                                                                                            \
        }

const struct guard_text guard_texts[N_GUARDS] = {
        [GUARD_NONE] = {"nothing", "the protocol as it should be"},
        [GUARD_FREEZE] = {"freeze", "the pages are compared and replaced where they are"},
        [GUARD_COMPARE] = {"compare", "the fingerprint is trusted"},
        [GUARD_MINCORE] = {"mincore", "a run with a hole is merged"},
        [GUARD_ATOMIC_SWAP] = {"atomic-swap",
                               "mmap(MAP_FIXED), then REGISTER and WRITEPROTECT, instead of mremap()"},
        [GUARD_REMOVE_EVENTS] = {"remove-events", "guard does not report MADV_DONTNEED"},
        [GUARD_QUARANTINE] = {"quarantine", "a range is merged right after a REMOVE event of it (trap T3)"},
        [GUARD_FORK_COMPLETION] = {"fork-completion", "a child does not get the pages that it lacks"},
        [GUARD_FORK_CONTEXT] = {"fork-context", "a child's context of merged memory is closed"},
        [GUARD_CHILD_PROBE] = {"child-probe",
                               "staged pages are copied into a child wherever it has an empty entry"},
        [GUARD_PUT_BACK_FIRST] = {"put-back-first",
                                  "guard's events are read while pages still have to be put back"},
        [GUARD_POPULATE] = {"populate", "X is not populated, and what it would show is compared"},
        [GUARD_PIN_CHECK] = {"pin-check", "UFFDIO_MOVE does not care whether a page is pinned"},
        [GUARD_WAKE] = {"wake", "nobody is woken when the run is thawed"},
        [GUARD_READ_ON] = {"read-on", "the agent repeats a call that says EAGAIN without reading the events"},
        [GUARD_WATCHER_READS_ON] = {"watcher-reads-on", "the watcher does, too"},
        [GUARD_UNMERGE_FREEZE] = {"unmerge-freeze",
                                  "writers are not stopped while a run is copied and replaced"},
        [GUARD_FILL_EMPTY] = {"fill-empty", "an empty page is copied as zeros, and stays empty"},
        [GUARD_SERVING_LOCK] = {"serving-lock", "the watcher answers while a run is given back"},
        [GUARD_LET_GO] = {"let-go", "and may not read either while guard's events are waited for"},
        [GUARD_MAPCOUNT] = {"mapcount", "a slot is punched that nobody is counted for, mapped or not"},
        [GUARD_POOL_LOCK] = {"pool-lock", "slots are punched while an agent is about to map them"},
        [GUARD_HOLE_CHECK] = {"hole-check", "the agent maps a slot that was punched before"},
        [GUARD_MISSING] = {"missing", "the kernel fills a slot that was punched for its reader"},
};

static const struct scenario all[] = {
        {
                .name = "write",
                .about = "a page is merged while it is written",
                PAGES(VALUE_A),
                .runs = {RUN_MERGE},
                .scripts = {PARENT_THREAD(STORE(0), LOAD(0)), PARENT_THREAD(LOAD(0), LOAD(0))},
                .missing = {GUARD_FREEZE, GUARD_WAKE},
        },
        LAZY("write/lazy", GUARD_FREEZE, GUARD_WAKE),
        {
                .name = "two-pages",
                .about = "one page is equal, the other one not",
                PAGES(VALUE_A, VALUE_C),
                .runs = {RUN_MERGE},
                .scripts = {PARENT_THREAD(STORE(0), LOAD(1)), PARENT_THREAD(LOAD(1), STORE(1), LOAD(1))},
                .missing = {GUARD_COMPARE, GUARD_WAKE},
        },
        {
                .name = "zeros",
                .about = "pages of zeros are dropped",
                PAGES(VALUE_ZERO, VALUE_C),
                .runs = {RUN_ZEROS},
                .scripts = {PARENT_THREAD(STORE(0), LOAD(0)), PARENT_THREAD(DISCARD(1), LOAD(1))},
                .missing = {GUARD_COMPARE},
        },
        {
                .name = "discard",
                .about = "a page is merged while it is discarded",
                PAGES(VALUE_A),
                .runs = {RUN_MERGE},
                .scripts = {PARENT_THREAD(DISCARD(0), LOAD(0)), PARENT_THREAD(LOAD(0), STORE(0))},
                .missing = {GUARD_REMOVE_EVENTS, GUARD_ATOMIC_SWAP, GUARD_POPULATE, GUARD_READ_ON},
        },
        LAZY("discard/lazy", GUARD_ATOMIC_SWAP, GUARD_POPULATE, GUARD_READ_ON),
        {
                .name = "discard/unequal",
                .about = "two pages, of which the unequal one is discarded",
                PAGES(VALUE_A, VALUE_C),
                .runs = {RUN_MERGE},
                .scripts = {PARENT_THREAD(DISCARD(1), LOAD(1)), PARENT_THREAD(DISCARD(0), LOAD(0))},
                .missing = {GUARD_REMOVE_EVENTS},
        },
        {
                .name = "discard/again",
                .about = "a page that was discarded is looked at again at once",
                PAGES(VALUE_C),
                .runs = {RUN_MERGE, RUN_MERGE},
                .scripts = {PARENT_THREAD(DISCARD(0), LOAD(0))},
                .missing = {GUARD_QUARANTINE},
        },
        {
                .name = "hole",
                .about = "a thread maps memory into a hole of the run",
                PAGES(VALUE_A, VALUE_ZERO),
                .holes = BIT(1),
                .runs = {RUN_MERGE},
                .scripts = {PARENT_THREAD(MAP(1), STORE(1), STORE(1), LOAD(1)), PARENT_THREAD(STORE(0))},
                .missing = {GUARD_MINCORE},
        },
        {
                .name = "dma",
                .about = "a device writes into a page that is merged",
                PAGES(VALUE_A),
                .runs = {RUN_MERGE},
                .scripts = {PARENT_THREAD(PIN(0), DEVICE(0), LOAD(0))},
                .missing = {GUARD_PIN_CHECK},
        },
        {
                .name = "dma/discard",
                .about = "the same, and the page is discarded",
                PAGES(VALUE_A),
                .runs = {RUN_MERGE},
                .scripts = {PARENT_THREAD(PIN(0), DEVICE(0), LOAD(0)), PARENT_THREAD(DISCARD(0), LOAD(0))},
                .missing = {GUARD_PIN_CHECK},
        },
        {
                .name = "fork",
                .about = "a child is forked while a page is merged",
                PAGES(VALUE_A),
                .runs = {RUN_MERGE},
                .scripts = {PARENT_THREAD(FORK, STORE(0), LOAD(0)),
                            CHILD_THREAD(LOAD(0), DISCARD(0), LOAD(0))},
                .missing = {GUARD_FORK_COMPLETION, GUARD_FORK_CONTEXT, GUARD_READ_ON, GUARD_WATCHER_READS_ON},
        },
        LAZY("fork/lazy", GUARD_FORK_COMPLETION, GUARD_FORK_CONTEXT, GUARD_READ_ON),
        {
                .name = "fork/two-pages",
                .about = "one page is equal, the other one not, and the child discards",
                PAGES(VALUE_A, VALUE_C),
                .runs = {RUN_MERGE},
                .scripts = {PARENT_THREAD(FORK, LOAD(0)),
                            CHILD_THREAD(DISCARD(0), LOAD(0), LOAD(1), STORE(1))},
                .missing = {GUARD_CHILD_PROBE},
        },
        {
                .name = "fork/discard",
                .about = "a child is forked while another thread discards",
                PAGES(VALUE_A, VALUE_C),
                .runs = {RUN_MERGE},
                .scripts = {PARENT_THREAD(FORK), PARENT_THREAD(DISCARD(1), LOAD(1)),
                            CHILD_THREAD(LOAD(1), LOAD(0))},
                .missing = {GUARD_PUT_BACK_FIRST},
        },
        {
                .name = "fork/zeros",
                .about = "a child is forked while pages of zeros are dropped",
                PAGES(VALUE_ZERO, VALUE_C),
                .runs = {RUN_ZEROS},
                .scripts = {PARENT_THREAD(FORK, LOAD(1)),
                            CHILD_THREAD(LOAD(1), DISCARD(1), LOAD(1), LOAD(0))},
        },
        {
                .name = "fork/dma",
                .about = "a child is forked while a device writes",
                PAGES(VALUE_A),
                .runs = {RUN_MERGE},
                .scripts = {PARENT_THREAD(FORK), PARENT_THREAD(PIN(0), DEVICE(0), LOAD(0)),
                            CHILD_THREAD(LOAD(0), STORE(0))},
                .missing = {GUARD_PIN_CHECK},
        },
        {
                .name = "merged",
                .about = "a merged page is written, read and discarded",
                MERGED_PAGES(VALUE_A),
                .scripts = {PARENT_THREAD(STORE(0), LOAD(0)), PARENT_THREAD(LOAD(0), STORE(0)),
                            PARENT_THREAD(DISCARD(0), LOAD(0))},
        },
        LAZY("merged/lazy", GUARD_NONE),
        {
                .name = "merged/fork",
                .about = "a process with merged pages forks",
                MERGED_PAGES(VALUE_A, VALUE_A),
                .scripts = {PARENT_THREAD(FORK, STORE(0), LOAD(0)), PARENT_THREAD(STORE(1), LOAD(1)),
                            CHILD_THREAD(LOAD(0), DISCARD(0), LOAD(0), STORE(1))},
                .missing = {GUARD_FORK_CONTEXT, GUARD_WATCHER_READS_ON},
        },
        {
                .name = "unmerge",
                .about = "a run is given back while it is written",
                MERGED_PAGES(VALUE_A),
                .runs = {RUN_UNMERGE},
                .scripts = {PARENT_THREAD(STORE(0), LOAD(0)), PARENT_THREAD(LOAD(0), STORE(0))},
                .missing = {GUARD_UNMERGE_FREEZE, GUARD_SERVING_LOCK, GUARD_WAKE},
        },
        LAZY("unmerge/lazy", GUARD_UNMERGE_FREEZE, GUARD_WAKE),
        {
                .name = "unmerge/discarded",
                .about = "a page of it was discarded long before, and is read",
                MERGED_PAGES(VALUE_A, VALUE_A),
                .runs = {RUN_UNMERGE},
                .discarded = BIT(0),
                .scripts = {PARENT_THREAD(LOAD(0), STORE(0)), PARENT_THREAD(LOAD(0), STORE(1))},
                .missing = {GUARD_FILL_EMPTY},
        },
        LAZY("unmerge/discarded/lazy", GUARD_FILL_EMPTY),
        {
                .name = "unmerge/discard",
                .about = "a page is discarded meanwhile; nobody touches it before a context has it again",
                MERGED_PAGES(VALUE_A, VALUE_A),
                .runs = {RUN_UNMERGE},
                .careful = true,
                .scripts = {PARENT_THREAD(DISCARD(0), LOAD(0)), PARENT_THREAD(STORE(0), DISCARD(1), LOAD(1))},
                .missing = {GUARD_REMOVE_EVENTS},
        },
        {
                .name = "unmerge/discard-and-read",
                .about = "the same, but it is touched at any moment",
                MERGED_PAGES(VALUE_A),
                .known = "between hold and guard nobody watches",
                .runs = {RUN_UNMERGE},
                .scripts = {PARENT_THREAD(DISCARD(0), LOAD(0))},
        },
        {
                .name = "unmerge/again",
                .about = "a page that is discarded while it is merged is given back at once",
                PAGES(VALUE_A),
                .runs = {RUN_MERGE, RUN_UNMERGE},
                .careful = true,
                .scripts = {PARENT_THREAD(DISCARD(0), LOAD(0))},
                .missing = {GUARD_QUARANTINE},
        },
        {
                .name = "unmerge/dma",
                .about = "a run is given back while a device writes",
                MERGED_PAGES(VALUE_A),
                .runs = {RUN_UNMERGE},
                .scripts = {PARENT_THREAD(PIN(0), DEVICE(0), LOAD(0)), PARENT_THREAD(LOAD(0), STORE(0))},
        },
        {
                .name = "unmerge/fork",
                .about = "a child is forked meanwhile, and there is other merged memory",
                MERGED_PAGES(VALUE_A),
                .runs = {RUN_UNMERGE},
                .elsewhere = true,
                .scripts = {PARENT_THREAD(FORK, STORE(0), LOAD(0)), CHILD_THREAD(LOAD(0), STORE(0), LOAD(0))},
                .missing = {GUARD_LET_GO},
        },
        {
                .name = "unmerge/fork-and-discard",
                .about = "the same, and the child discards",
                MERGED_PAGES(VALUE_A),
                .known = "a child that is forked in between is not served",
                .runs = {RUN_UNMERGE},
                .scripts = {PARENT_THREAD(FORK), CHILD_THREAD(DISCARD(0), LOAD(0))},
        },
        {
                .name = "daemon",
                .about = "a page is merged, and written; the slot is given back",
                PAGES(VALUE_A),
                .runs = {RUN_MERGE},
                .daemon = DAEMON_LIVES,
                .scripts = {PARENT_THREAD(STORE(0), LOAD(0))},
        },
        {
                .name = "daemon/dies",
                .about = "the daemon is killed at any moment",
                PAGES(VALUE_A),
                .runs = {RUN_MERGE},
                .daemon = DAEMON_DIES,
                .scripts = {PARENT_THREAD(STORE(0), LOAD(0)), PARENT_THREAD(LOAD(0))},
        },
        {
                .name = "daemon/returns",
                .about = "it is killed after it sent a batch, and a new one adopts the pool",
                PAGES(VALUE_A),
                .runs = {RUN_MERGE},
                .daemon = DAEMON_RETURNS,
                .scripts = {PARENT_THREAD(STORE(0), LOAD(0)), PARENT_THREAD(LOAD(0))},
                .missing = {GUARD_POOL_LOCK, GUARD_MAPCOUNT, GUARD_HOLE_CHECK},
        },
        LAZY("daemon/returns/lazy", GUARD_POOL_LOCK, GUARD_MAPCOUNT, GUARD_HOLE_CHECK),
        {
                .name = "daemon/returns-and-reuses",
                .about = "the same; the program has zeroed the page, and the slot gets another content",
                PAGES(VALUE_ZERO),
                .runs = {RUN_MERGE},
                .daemon = DAEMON_RETURNS,
                .reuse = true,
                .scripts = {PARENT_THREAD(LOAD(0), LOAD(0))},
                .missing = {GUARD_HOLE_CHECK},
        },
        {
                .name = "daemon/fork",
                .about = "a child maps the slot when nobody else does any more",
                MERGED_PAGES(VALUE_A),
                .daemon = DAEMON_LIVES,
                .scripts = {PARENT_THREAD(FORK, STORE(0), LOAD(0)), CHILD_THREAD(LOAD(0), LOAD(0), EXIT)},
                .missing = {GUARD_MAPCOUNT},
        },
        {
                .name = "daemon/reuse",
                .about = "a page is written and discarded, and its slot gets another content",
                MERGED_PAGES(VALUE_A),
                .daemon = DAEMON_LIVES,
                .reuse = true,
                .scripts = {PARENT_THREAD(STORE(0), DISCARD(0), LOAD(0), LOAD(0))},
                .missing = {GUARD_MISSING},
        },
        {
                .name = "daemon/fork-and-reuse",
                .about = "a child discards, and the slot gets another content",
                MERGED_PAGES(VALUE_A),
                .daemon = DAEMON_LIVES,
                .reuse = true,
                .scripts = {PARENT_THREAD(FORK, STORE(0), LOAD(0)),
                            CHILD_THREAD(DISCARD(0), LOAD(0), LOAD(0), EXIT)},
                .missing = {GUARD_MISSING},
        },
        {
                .name = "any/merge",
                .about = "two threads do anything while a run is merged",
                PAGES(VALUE_A, VALUE_C),
                .runs = {RUN_MERGE},
                .scripts = {PARENT_THREAD(ANY(PLAIN), ANY(PLAIN), ANY(PLAIN)),
                            PARENT_THREAD(ANY(PLAIN), ANY(PLAIN), ANY(PLAIN))},
        },
        LAZY("any/lazy", GUARD_NONE),
        {
                .name = "any/zeros",
                .about = "the same with zeros",
                PAGES(VALUE_ZERO, VALUE_C),
                .runs = {RUN_ZEROS},
                .scripts = {PARENT_THREAD(ANY(WITH_FORK), ANY(WITH_FORK)), PARENT_THREAD(ANY(PLAIN)),
                            CHILD_THREAD(ANY(PLAIN), ANY(PLAIN))},
        },
        {
                .name = "any/again",
                .about = "the same with a run that is looked at twice",
                PAGES(VALUE_C),
                .runs = {RUN_MERGE, RUN_MERGE},
                .scripts = {PARENT_THREAD(ANY(WITH_FORK), ANY(WITH_FORK)),
                            PARENT_THREAD(ANY(PLAIN), ANY(PLAIN)), CHILD_THREAD(ANY(PLAIN), ANY(PLAIN))},
        },
        {
                .name = "any/fork",
                .about = "the same with fork",
                PAGES(VALUE_A, VALUE_C),
                .runs = {RUN_MERGE},
                .scripts = {PARENT_THREAD(ANY(WITH_FORK), ANY(WITH_FORK)), PARENT_THREAD(ANY(PLAIN)),
                            CHILD_THREAD(ANY(PLAIN), ANY(PLAIN))},
        },
        {
                .name = "any/dma",
                .about = "the same with devices",
                PAGES(VALUE_A),
                .runs = {RUN_MERGE, RUN_MERGE},
                .scripts = {PARENT_THREAD(ANY(WITH_DMA), ANY(WITH_DMA), ANY(WITH_DMA)),
                            PARENT_THREAD(ANY(WITH_DMA), ANY(WITH_DMA), ANY(WITH_DMA))},
        },
        {
                .name = "any/fork-and-dma",
                .about = "the same with both",
                PAGES(VALUE_A),
                .runs = {RUN_MERGE},
                .scripts = {PARENT_THREAD(ANY(WITH_FORK | WITH_DMA), ANY(WITH_FORK | WITH_DMA)),
                            PARENT_THREAD(ANY(WITH_DMA), ANY(WITH_DMA)),
                            CHILD_THREAD(ANY(PLAIN), ANY(PLAIN), ANY(PLAIN))},
        },
        {
                .name = "any/three",
                .about = "the same with three threads",
                PAGES(VALUE_A),
                .runs = {RUN_MERGE},
                .scripts = {PARENT_THREAD(ANY(WITH_FORK)), PARENT_THREAD(ANY(PLAIN), ANY(PLAIN)),
                            PARENT_THREAD(ANY(PLAIN)), CHILD_THREAD(ANY(PLAIN), ANY(PLAIN))},
        },
        {
                .name = "any/unmerge",
                .about = "anything while a run is given back, but see unmerge/discard and unmerge/fork",
                MERGED_PAGES(VALUE_A, VALUE_A),
                .runs = {RUN_UNMERGE},
                .careful = true,
                .scripts = {PARENT_THREAD(ANY(PLAIN), ANY(PLAIN)),
                            PARENT_THREAD(ANY(WITH_DMA), ANY(WITH_DMA))},
        },
        LAZY("any/unmerge/lazy", GUARD_NONE),
        {
                .name = "any/unmerge/fork",
                .about = "the same with fork",
                MERGED_PAGES(VALUE_A),
                .runs = {RUN_UNMERGE},
                .elsewhere = true,
                .careful = true,
                .scripts = {PARENT_THREAD(ANY(WITH_FORK | WITH_DMA), ANY(WITH_FORK | WITH_DMA)),
                            PARENT_THREAD(ANY(WITH_DMA), ANY(WITH_DMA)),
                            CHILD_THREAD(ANY(PLAIN), ANY(PLAIN))},
        },
        {
                .name = "any/merge-and-unmerge",
                .about = "anything while a run is merged and then given back",
                PAGES(VALUE_A),
                .runs = {RUN_MERGE, RUN_UNMERGE},
                .careful = true,
                .scripts = {PARENT_THREAD(ANY(PLAIN), ANY(PLAIN), ANY(PLAIN)),
                            PARENT_THREAD(ANY(PLAIN), ANY(PLAIN))},
        },
        {
                .name = "any/daemon",
                .about = "anything from the merge to the reuse of the slot",
                PAGES(VALUE_A),
                .runs = {RUN_MERGE, RUN_UNMERGE},
                .careful = true,
                .daemon = DAEMON_RETURNS,
                .reuse = true,
                .scripts = {PARENT_THREAD(ANY(WITH_FORK), ANY(WITH_FORK)), PARENT_THREAD(ANY(PLAIN)),
                            CHILD_THREAD(ANY(PLAIN), ANY(PLAIN | BIT(OP_EXIT)))},
        },
};

/* An entry that says nothing about it merges pages with hold. */
bool scenario_get(unsigned i, struct scenario *ret_scenario)
{
        const struct scenario *entry = &all[i];

        if (i >= sizeof(all) / sizeof(all[0]))
                return false;
        *ret_scenario = entry->merged == CONTEXT_LAZY ? entry[-1] : entry[0];
        ret_scenario->name = entry->name;
        ret_scenario->about = entry->about;
        ret_scenario->merged = entry->merged == CONTEXT_LAZY ? CONTEXT_LAZY : CONTEXT_HOLD;
        memcpy(ret_scenario->missing, entry->missing, sizeof(entry->missing));
        return true;
}
