/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * An exhaustive model of the merge protocol
 *
 * Theory of operation
 *
 * Program threads, the agent, the watcher and the daemon act on a memory of one or two pages (state.h). Each
 * of them is a function that takes one atomic step (actors.h), and what is atomic is what the kernel does
 * without dropping the lock of the address space or sleeping (kernel.h): one ioctl on one page, one system
 * call up to the point where it waits for its event to be read, one look at a page. The explorer tries all
 * interleavings of these steps and visits every state that they lead to (explore.c).
 *
 * Beside the real memory there is an ideal one without us: for each page of parent and child the set of
 * values that it may have now. That is one value, and zeros in addition while a thread is in MADV_DONTNEED. A
 * store or a device makes it the stored value, discarding makes it zeros when the page-table entry is
 * emptied, a fork copies it. In every state every page that can be read without waiting must read as one of
 * these values: so no write is lost, nothing stale or foreign is read. In a state in which nobody can step
 * everybody must have finished, and from every state such an end must be reachable: so nobody waits for ever.
 * At the end the staging area is empty, X is gone, no descriptor is kept, a page of the pool that nobody
 * can map is punched, and a free slot is a hole.
 *
 * Where threads protect pages there is a promise for each page of the parent (enum promise): once it is
 * protected the next write is told of before it happens, and nothing else is told of; and if the page is held
 * it is not written before it is released. At the end nothing is protected without a daemon, and client and
 * daemon agree on what is.
 *
 * A scenario (scenario.c) says what the threads execute, and what the agent is asked to do. The scenarios
 * any/... let the threads execute any operations at all, in any order. Each scenario is run as the protocol
 * should be, and must be right; then once for each guard that it is a test of, with that guard taken out, and
 * something wrong must be found. Scenarios with a known difference must show it. They concern the moments in
 * which a run that is given back belongs to no context: a page that was discarded since it was copied must not
 * be touched then; and a child that is forked then, or a moment later, is not served. What else may happen
 * while memory is given back is tried with programs that are careful to do neither.
 *
 * What is abstracted, and why that is sound
 *   content      One symbol a page: the protocol moves whole pages, and a store of the program is atomic for
 *                the kernel as well.
 *   faults       Looking at the page-table entry and falling asleep is one step: the kernel looks again
 *                after it has queued the fault.
 *   zero page    In anonymous memory an entry for the kernel's zero page is no entry. In a mapping of the pool
 *                it is one: it is what keeps the pool's page away.
 *   markers      Protection markers in empty entries are left out but for watch: elsewhere they only matter to
 *                UFFDIO_ZEROPAGE (T5), and the agent takes them away before.
 *   messages     The watcher takes any message next, has one fault in its hand, and reads events while it
 *                has. Reality orders faults before events and has more in its hand: less, and independent of
 *                it; only where pages are protected faults of one page depend on each other, and there it has
 *                two. Events of one context are read in the order in which they were queued. The watcher holds
 *                its mutex for as long as it has a fault in its hand.
 *   spurious     That a page which is being copied looks empty to others can happen whenever somebody is
 *   faults       about to write.
 *   retries      A call that says EAGAIN is a step that cannot be taken yet. That the code gives up after a
 *                second is left out, so that it cannot hide a deadlock.
 *   locks        A lock on the pool that is taken is an attempt that fails at once, as in reality. To lock a
 *                slot and to find out whether it is mapped is one step of the daemon's, as is to punch and to
 *                unlock it: who is locked out does not see what is in between, and a mapping that comes or
 *                goes by a fork or a write does so before or after the look. A lock ends with the daemon; that
 *                a descriptor which a service manager keeps may hold it would only make agents give up more.
 *   batches      The agent may carry out a batch at any time, also when the daemon that sent it is gone.
 *   quarantine   Is assumed to last until the thread whose event was read has discarded (T3).
 *   own steps    What the agent does with its own memory is not a step of its own.
 *   reading      The agent copies a run that is given back through /proc/self/mem: an empty page is an error,
 *                and no fault.
 *   calls        wp_protect() and wp_release() are of one page. What a thread does under the mutex is one step,
 *                but for the way of a hot page to its place. Of several errands the agent takes any next.
 *   crowds       The second who waits for a page makes it hot, and there is a place for every page.
 *   bounds       A bound may be reached at any time, in scenarios that say so, and never in others, so that it
 *                cannot hide a deadlock.
 *   tasks        When nothing is in flight, the daemon knows which pages are merged. It plans a run, or does
 *                not, at any time. Where pages are protected it punches no slot.
 *   mapcount     Of what the child inherits of X and of the agent's copies it counts nothing; the real count
 *                is higher, and less is punched.
 *
 * What is not covered: children of children, and children with several threads; the parent's death before the
 * child's (L4); unmapping and mprotect() of a run that is merged (L1); discarding more than a page in one
 * call; system calls that fail for want of memory or after a time; pages that MADV_GUARD_INSTALL guards; huge
 * pages, swap; devices that do not pin (L5); protection of memory that is not to be merged; the limits of
 * shields and of the event queue; and WP_NOTIFY's own events.
 */

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "tests/model/protocol/explore.h"
#include "tests/model/protocol/scenario.h"

struct options {
        const char *scenario; /* NULL: all */
        int without;          /* -1: nothing, and then every guard that the scenario is a test of */
        bool trace;
};

/* Prints one line; returns whether the verdict is the expected one. */
static bool examine(const struct scenario *scenario, enum guard without, const struct options *options)
{
        struct verdict verdict = explore(scenario, without, options->trace ? stdout : NULL);
        bool expected = without != GUARD_NONE || scenario->known;
        bool fine = expected == !!verdict.violation;
        char name[64];

        snprintf(name, sizeof(name), without ? "%s without %s" : "%s", scenario->name,
                 guard_texts[without].name);
        printf("%-40s %8zu states  ", name, verdict.n_states);
        if (!verdict.violation)
                printf("nothing wrong%s\n", fine ? "" : ": SOMETHING MUST BE FOUND");
        else if (!expected)
                printf("WRONG after %u steps: %s\n", verdict.length, verdict.violation);
        else
                printf("%s after %u steps: %s\n", without ? "found" : "known", verdict.length,
                       without ? verdict.violation : scenario->known);
        fflush(stdout);
        return fine;
}

static bool examine_all_of(const struct scenario *scenario, const struct options *options)
{
        bool fine = true;

        if (options->without >= 0)
                return examine(scenario, (enum guard)options->without, options);
        fine &= examine(scenario, GUARD_NONE, options);
        for (unsigned i = 0; i < N_MISSING && scenario->missing[i]; i++)
                fine &= examine(scenario, scenario->missing[i], options);
        return fine;
}

static int usage(const char *program)
{
        fprintf(stderr, "usage: %s [--scenario=NAME] [--without=GUARD] [--trace] [--list]\n", program);
        return 2;
}

static int list(void)
{
        struct scenario at;

        for (unsigned n = 0; scenario_get(n, &at); n++) {
                printf("%s: %s\n", at.name, at.about);
                for (unsigned i = 0; i < N_MISSING && at.missing[i]; i++)
                        printf("    --without=%-17s %s\n", guard_texts[at.missing[i]].name,
                               guard_texts[at.missing[i]].without);
        }
        return 0;
}

static int find_guard(const char *name)
{
        for (unsigned i = 0; i < N_GUARDS; i++)
                if (!strcmp(guard_texts[i].name, name))
                        return (int)i;
        return -1;
}

int main(int argc, char **argv)
{
        static const struct option long_options[] = {
                {"scenario", required_argument, NULL, 's'},
                {"without", required_argument, NULL, 'w'},
                {"trace", no_argument, NULL, 't'},
                {"list", no_argument, NULL, 'l'},
                {0},
        };
        struct options options = {.without = -1};
        struct scenario at;
        unsigned n = 0;
        bool fine = true;
        int c;

        while ((c = getopt_long(argc, argv, "", long_options, NULL)) >= 0) {
                if (c == 'l')
                        return list();
                else if (c == 's')
                        options.scenario = optarg;
                else if (c == 't')
                        options.trace = true;
                else if (c != 'w' || (options.without = find_guard(optarg)) < 0)
                        return usage(argv[0]);
        }
        for (unsigned i = 0; scenario_get(i, &at); i++)
                if (!options.scenario || !strcmp(options.scenario, at.name)) {
                        fine &= examine_all_of(&at, &options);
                        n++;
                }
        if (!n || optind < argc)
                return usage(argv[0]);
        return fine ? 0 : 1;
}
