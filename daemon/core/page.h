#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Page: what we know of one page of a region, and what may become of it
 *
 * Theory of operation
 *
 * Every page of a region is in one of these states. A state says which context protects the page, what may be
 * done with it and what must never be. States change in one place, region_set_state(), on the control thread,
 * and only along the table in page.c; a change that the table forbids is a bug, and stops the daemon: its
 * clients survive that.
 *
 * The kernel is always ahead of us: a state is what was true when we last looked. Nothing that would corrupt
 * memory may depend on it; the agent decides under the frozen run, and the kernel's copy-on-write under
 * everything.
 */

#include <stdbool.h>
#include <stdint.h>

enum page_state {
        /*
         * PAGE_EMPTY - not populated, or the kernel's zero page
         *      Operations: survey
         *      Caveats: nobody reads it: that would populate it
         */
        PAGE_EMPTY,
        /*
         * PAGE_VOLATILE - populated and written lately; not protected
         *      Operations: survey; protect once `wait` rounds have passed
         *      Caveats: not read, not in the index
         */
        PAGE_VOLATILE,
        /*
         * PAGE_TRACKED - under asynchronous protection (track), so far as we know; not known to have
         *      changed since Operations: survey; read when it stayed clean for one interval Caveats: not in
         *      the index. The state of a page of which we do not know whether it still is protected: if it is
         *      not,
         *              the survey shows it as written, whereas a volatile page that *is* protected would be
         *              taken for empty
         */
        PAGE_TRACKED,
        /*
         * PAGE_CANDIDATE - settled, read once and fingerprinted; under asynchronous protection (track)
         *      Operations: survey; index lookup; planning
         *      Caveats: its index entry holds only as long as the state does
         */
        PAGE_CANDIDATE,
        /*
         * PAGE_PLANNED - part of a run that is queued or with the agent
         *      Operations: await the result
         *      Caveats: not read, not planned again; a write fault on it may be reported before the result is
         */
        PAGE_PLANNED,
        /*
         * PAGE_MERGED - maps a slot of the pool; under protection (hold or lazy)
         *      Operations: write (-> COPIED), discard (-> COPIED), unmerge (-> VOLATILE, COPIED)
         *      Caveats: counts as a sharer of its slot for as long as the state lasts. That it does no longer says
         *              nothing about the slot's page: whether anybody maps that, only the kernel knows
         *              (dedup/domain.h)
         */
        PAGE_MERGED,
        /*
         * PAGE_ALIASED - of a mapping of a file: maps a page of another file
         *      Operations: unmerge (-> VOLATILE)
         *      Caveats: counts as a user of that file for as long as the state lasts (dedup/backing.h)
         */
        PAGE_ALIASED,
        /*
         * PAGE_FOREIGN - merged by a daemon before this one, into a pool that we do not have
         *      Operations: write, discard (-> COPIED), unmerge (-> VOLATILE, COPIED)
         *      Caveats: shares with others what we do not count; nobody new can join them
         */
        PAGE_FOREIGN,
        /*
         * PAGE_COPIED - was merged, then written or discarded: a private page inside a mapping of the pool
         *      Operations: none; the memory is the program's own
         *      Caveats: cannot be moved, so not merged again; its mapping still wants hold or lazy to be served
         */
        PAGE_COPIED,
        /*
         * PAGE_ZERO - was all zeros and given back to the kernel's zero page
         *      Operations: survey (-> VOLATILE once it is populated again)
         *      Caveats: needs neither slot nor VMA
         */
        PAGE_ZERO,
        /*
         * PAGE_EXCLUDED - the program asked us never to merge it
         *      Operations: include
         *      Caveats: neither surveyed nor read
         */
        PAGE_EXCLUDED,
        /*
         * PAGE_PROTECTED - the program protects it itself, with a context of its own (watch)
         *      Operations: release (-> TRACKED)
         *      Caveats: neither read nor protected by us, and whatever a survey shows of it is ignored
         */
        PAGE_PROTECTED,
        PAGE_N_STATES,
};

/* Names in JSON and logs. */
const char *page_state_name(enum page_state state);

/* Whether the table allows this change. */
bool page_state_allowed(enum page_state from, enum page_state to);
