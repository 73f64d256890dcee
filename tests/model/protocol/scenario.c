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

#define WATCH(_page)   DO(OP_WATCH, _page)
#define HOLD(_page)    DO(OP_HOLD, _page)
#define RELEASE(_page) DO(OP_RELEASE, _page)

#define ANY(_set) DO(OP_ANY, _set)
#define PLAIN     (BIT(OP_LOAD) | BIT(OP_STORE) | BIT(OP_DISCARD))
#define WITH_FORK (PLAIN | BIT(OP_FORK))
#define CALLS     (BIT(OP_WATCH) | BIT(OP_HOLD) | BIT(OP_RELEASE))
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
        [GUARD_UNPOPULATED] = {"unpopulated", "pages that are empty are not protected"},
        [GUARD_PROTECT_LOCK] = {"protect-lock",
                                "pages are protected while the watcher has faults in its hand"},
        [GUARD_LOOK_AND_ARM] = {"look-and-arm", "a page is armed that was in the shield a moment ago"},
        [GUARD_STALE] = {"stale", "each fault of a protected page is told of"},
        [GUARD_WAITING_STAYS] = {"waiting-stays", "protecting again forgets who waits"},
        [GUARD_EXCHANGE] = {"exchange", "merged pages are protected under lazy"},
        [GUARD_UNPROTECT_COPIED] = {"unprotect-copied",
                                    "a page that was copied stays protected when released"},
        [GUARD_SHIELD] = {"shield", "the agent carries out a run of protected pages"},
        [GUARD_TASK_WAITS] = {"task-waits", "the daemon does not wait for what is in flight"},
        [GUARD_ERRAND_LETS_GO] = {"errand-lets-go", "the agent keeps the mutex while it waits for an event"},
        [GUARD_EPOCH] = {"epoch", "a page is protected with the consent of a daemon that is gone"},
        [GUARD_BREAK_ALL] = {"break-all", "protection does not end with the daemon"},
        [GUARD_BOUND] = {"bound", "nobody is let go after a time"},
        [GUARD_PLACE_SPENT] = {"place-spent", "a hot page gets its place while it is protected"},
        [GUARD_FILL_PROTECTED] = {"fill-protected", "what is discarded under protection is filled without"},
        [GUARD_PROTECTING] = {"protecting", "the daemon hears of a release in the midst of a protection"},
        [GUARD_PLACE_WAKE] = {"place-wake", "who waits in a place is not woken when it is left"},
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
                .name = "protect/watch",
                .about = "a page is watched, again and again, while two threads write",
                PAGES(VALUE_A),
                .protects = true,
                .scripts = {PARENT_THREAD(WATCH(0), WATCH(0), RELEASE(0), WATCH(0)),
                            PARENT_THREAD(STORE(0), STORE(0)), PARENT_THREAD(STORE(0), LOAD(0))},
                .missing = {GUARD_PROTECT_LOCK, GUARD_STALE},
        },
        {
                .name = "protect/hold",
                .about = "a page is held, again and again, while two threads write",
                PAGES(VALUE_A),
                .protects = true,
                .scripts = {PARENT_THREAD(HOLD(0), WATCH(0), RELEASE(0), HOLD(0), RELEASE(0)),
                            PARENT_THREAD(STORE(0), STORE(0)), PARENT_THREAD(STORE(0), LOAD(0))},
                .missing = {GUARD_PROTECT_LOCK, GUARD_STALE, GUARD_WAITING_STAYS},
        },
        {
                .name = "protect/crowd",
                .about = "three threads write to a page that is held, which makes it hot",
                PAGES(VALUE_A),
                .protects = true,
                .scripts = {PARENT_THREAD(HOLD(0), HOLD(0), RELEASE(0), HOLD(0), RELEASE(0)),
                            PARENT_THREAD(STORE(0)), PARENT_THREAD(STORE(0)),
                            PARENT_THREAD(STORE(0), STORE(0))},
                .missing = {GUARD_PLACE_SPENT, GUARD_PLACE_WAKE},
        },
        {
                .name = "protect/bound",
                .about = "nobody releases a page that is held",
                PAGES(VALUE_A),
                .protects = true,
                .bounded = true,
                .scripts = {PARENT_THREAD(HOLD(0), HOLD(0)), PARENT_THREAD(STORE(0), STORE(0)),
                            PARENT_THREAD(STORE(0))},
                .missing = {GUARD_BOUND},
        },
        {
                .name = "protect/unpopulated",
                .about = "a page that is empty is watched",
                PAGES(VALUE_A),
                .protects = true,
                .discarded = BIT(0),
                .scripts = {PARENT_THREAD(WATCH(0), WATCH(0)),
                            PARENT_THREAD(LOAD(0), STORE(0), DISCARD(0), STORE(0))},
                .missing = {GUARD_UNPOPULATED},
        },
        {
                .name = "protect/merged",
                .about = "a merged page is watched, held and released",
                MERGED_PAGES(VALUE_A),
                .protects = true,
                .scripts = {PARENT_THREAD(WATCH(0), HOLD(0), RELEASE(0)), PARENT_THREAD(STORE(0), STORE(0)),
                            PARENT_THREAD(LOAD(0), STORE(0))},
                .missing = {GUARD_UNPROTECT_COPIED},
        },
        LAZY("protect/merged/lazy", GUARD_EXCHANGE),
        {
                .name = "protect/merged/discarded",
                .about = "a merged page that was discarded is watched",
                MERGED_PAGES(VALUE_A),
                .protects = true,
                .discarded = BIT(0),
                .scripts = {PARENT_THREAD(WATCH(0), STORE(0))},
                .missing = {GUARD_FILL_PROTECTED},
        },
        {
                .name = "protect/merge",
                .about = "a page is watched that is just being merged",
                PAGES(VALUE_A),
                .protects = true,
                .runs = {RUN_MERGE, RUN_MERGE},
                .scripts = {PARENT_THREAD(WATCH(0)), PARENT_THREAD(STORE(0), STORE(0))},
                .missing = {GUARD_TASK_WAITS},
        },
        {
                .name = "protect/unmerge",
                .about = "a page is watched that somebody else is about to give back",
                MERGED_PAGES(VALUE_A),
                .protects = true,
                .runs = {RUN_UNMERGE},
                .scripts = {PARENT_THREAD(WATCH(0), RELEASE(0)), PARENT_THREAD(STORE(0), LOAD(0))},
                .missing = {GUARD_SHIELD},
        },
        LAZY("protect/unmerge/lazy", GUARD_SHIELD),
        {
                .name = "protect/fork",
                .about = "a child is forked meanwhile",
                PAGES(VALUE_A),
                .protects = true,
                .scripts = {PARENT_THREAD(HOLD(0), RELEASE(0), WATCH(0)), PARENT_THREAD(FORK, STORE(0)),
                            PARENT_THREAD(STORE(0)), CHILD_THREAD(STORE(0), LOAD(0))},
                .missing = {GUARD_ERRAND_LETS_GO, GUARD_WATCHER_READS_ON},
        },
        {
                .name = "protect/rivals",
                .about = "one thread protects, another one releases",
                PAGES(VALUE_A),
                .protects = true,
                .scripts = {PARENT_THREAD(WATCH(0), WATCH(0)), PARENT_THREAD(RELEASE(0), RELEASE(0)),
                            PARENT_THREAD(STORE(0))},
                .missing = {GUARD_LOOK_AND_ARM},
        },
        {
                .name = "protect/rivals/daemon",
                .about = "the same, and the daemon must know the outcome",
                PAGES(VALUE_A),
                .protects = true,
                .scripts = {PARENT_THREAD(WATCH(0), WATCH(0)), PARENT_THREAD(RELEASE(0))},
                .missing = {GUARD_PROTECTING},
        },
        {
                .name = "protect/daemon/dies",
                .about = "the daemon is killed while a page is held",
                PAGES(VALUE_A),
                .protects = true,
                .daemon = DAEMON_DIES,
                .scripts = {PARENT_THREAD(HOLD(0)), PARENT_THREAD(STORE(0)), PARENT_THREAD(STORE(0))},
                .missing = {GUARD_BREAK_ALL, GUARD_EPOCH},
        },
        {
                .name = "protect/daemon/returns",
                .about = "it is killed, and a new one comes, while a page is watched",
                PAGES(VALUE_A),
                .protects = true,
                .daemon = DAEMON_RETURNS,
                .runs = {RUN_MERGE, RUN_MERGE},
                .scripts = {PARENT_THREAD(WATCH(0), RELEASE(0), WATCH(0)), PARENT_THREAD(STORE(0)),
                            PARENT_THREAD(STORE(0))},
                .missing = {GUARD_EPOCH},
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
        {
                .name = "any/protect",
                .about = "anything while a page is protected, merged and given back",
                PAGES(VALUE_A),
                .protects = true,
                .runs = {RUN_MERGE, RUN_UNMERGE},
                .careful = true,
                .scripts = {PARENT_THREAD(ANY(CALLS), ANY(CALLS), RELEASE(0)),
                            PARENT_THREAD(ANY(PLAIN), ANY(PLAIN)), PARENT_THREAD(ANY(PLAIN))},
        },
        LAZY("any/protect/lazy", GUARD_NONE),
        {
                .name = "any/protect/crowd",
                .about = "the same with more calls and writers, and nothing merged",
                PAGES(VALUE_A),
                .protects = true,
                .scripts = {PARENT_THREAD(ANY(CALLS), ANY(CALLS), ANY(CALLS), ANY(CALLS), RELEASE(0)),
                            PARENT_THREAD(ANY(PLAIN), ANY(PLAIN)), PARENT_THREAD(ANY(PLAIN), ANY(PLAIN)),
                            PARENT_THREAD(ANY(PLAIN), ANY(PLAIN))},
        },
        {
                .name = "any/protect/merged",
                .about = "the same with a page that is merged",
                MERGED_PAGES(VALUE_A),
                .protects = true,
                .careful = true,
                .scripts = {PARENT_THREAD(ANY(CALLS), ANY(CALLS), ANY(CALLS), RELEASE(0)),
                            PARENT_THREAD(ANY(PLAIN), ANY(PLAIN)), PARENT_THREAD(ANY(PLAIN), ANY(PLAIN))},
        },
        LAZY("any/protect/merged/lazy", GUARD_NONE),
        {
                .name = "any/protect/two-pages",
                .about = "the same with two pages",
                PAGES(VALUE_A, VALUE_C),
                .protects = true,
                .runs = {RUN_MERGE},
                .careful = true,
                .scripts = {PARENT_THREAD(ANY(CALLS), ANY(CALLS), RELEASE(0), RELEASE(1)),
                            PARENT_THREAD(ANY(PLAIN)), PARENT_THREAD(ANY(PLAIN))},
        },
        {
                .name = "any/protect/fork",
                .about = "the same with fork, and nobody waits for ever if nobody releases",
                PAGES(VALUE_A),
                .protects = true,
                .bounded = true,
                .scripts = {PARENT_THREAD(ANY(CALLS), ANY(CALLS), ANY(CALLS)),
                            PARENT_THREAD(ANY(WITH_FORK), ANY(WITH_FORK)),
                            PARENT_THREAD(ANY(PLAIN), ANY(PLAIN)), CHILD_THREAD(ANY(PLAIN), ANY(PLAIN))},
        },
        {
                .name = "any/protect/fork/merged",
                .about = "the same with a page that is merged",
                MERGED_PAGES(VALUE_A),
                .protects = true,
                .careful = true,
                .scripts = {PARENT_THREAD(ANY(CALLS), ANY(CALLS), RELEASE(0)),
                            PARENT_THREAD(ANY(WITH_FORK), ANY(WITH_FORK)), PARENT_THREAD(ANY(PLAIN)),
                            CHILD_THREAD(ANY(PLAIN), ANY(PLAIN))},
        },
        LAZY("any/protect/fork/lazy", GUARD_NONE),
        {
                .name = "any/protect/rivals",
                .about = "the same with two threads that protect, and a run",
                PAGES(VALUE_A),
                .protects = true,
                .runs = {RUN_MERGE},
                .careful = true,
                .scripts = {PARENT_THREAD(ANY(CALLS), ANY(CALLS), RELEASE(0)),
                            PARENT_THREAD(ANY(CALLS), RELEASE(0)), PARENT_THREAD(ANY(PLAIN), ANY(PLAIN))},
        },
        LAZY("any/protect/rivals/lazy", GUARD_NONE),
        {
                .name = "any/protect/daemon",
                .about = "the same while daemons come and go",
                PAGES(VALUE_A),
                .protects = true,
                .daemon = DAEMON_RETURNS,
                .runs = {RUN_MERGE},
                .careful = true,
                .scripts = {PARENT_THREAD(ANY(CALLS), RELEASE(0)), PARENT_THREAD(ANY(CALLS), RELEASE(0)),
                            PARENT_THREAD(ANY(PLAIN), STORE(0))},
        },
        LAZY("any/protect/daemon/lazy", GUARD_NONE),
};

/* An entry that says nothing about it merges pages with hold, and protects them with a daemon that lives. */
bool scenario_get(unsigned i, struct scenario *ret_scenario)
{
        const struct scenario *entry = &all[i];

        if (i >= sizeof(all) / sizeof(all[0]))
                return false;
        *ret_scenario = entry->merged == CONTEXT_LAZY ? entry[-1] : entry[0];
        ret_scenario->name = entry->name;
        ret_scenario->about = entry->about;
        if (ret_scenario->protects && ret_scenario->daemon == DAEMON_GONE)
                ret_scenario->daemon = DAEMON_LIVES;
        ret_scenario->merged = entry->merged == CONTEXT_LAZY ? CONTEXT_LAZY : CONTEXT_HOLD;
        memcpy(ret_scenario->missing, entry->missing, sizeof(entry->missing));
        return true;
}
