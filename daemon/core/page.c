/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Page: names of the states and the table of what may become of a page. */

#include "core/page.h"

#define TO(_state) (1U << PAGE_##_state)

/*
 * Rows are what a page is, bits what it may become.
 *
 * A page leaves PLANNED only by the agent's result, or because its run was withdrawn unsent: the program's wishes
 * wait for that. A merged page that is given back
 * is VOLATILE, as ordinary memory; one that was copied first stays inside a mapping of the pool, and nothing
 * that could be pinned can be moved from there: so COPIED leads nowhere but to EXCLUDED; who includes it
 * again has to know that it was copied. An EMPTY page is MERGED, FOREIGN or COPIED at once when a region turns
 * out to contain a mapping of a pool. Excluding what is excluded changes nothing.
 */
static const uint16_t allowed[PAGE_N_STATES] = {
        [PAGE_EMPTY] = TO(VOLATILE) | TO(TRACKED) | TO(MERGED) | TO(FOREIGN) | TO(COPIED) | TO(EXCLUDED) |
                       TO(PROTECTED),
        [PAGE_VOLATILE] = TO(EMPTY) | TO(TRACKED) | TO(EXCLUDED) | TO(PROTECTED),
        [PAGE_TRACKED] =
                TO(EMPTY) | TO(VOLATILE) | TO(CANDIDATE) | TO(PLANNED) | TO(EXCLUDED) | TO(PROTECTED),
        [PAGE_CANDIDATE] =
                TO(EMPTY) | TO(VOLATILE) | TO(TRACKED) | TO(PLANNED) | TO(EXCLUDED) | TO(PROTECTED),
        [PAGE_PLANNED] = TO(TRACKED) | TO(MERGED) | TO(ALIASED) | TO(ZERO),
        [PAGE_MERGED] = TO(COPIED) | TO(VOLATILE),
        [PAGE_ALIASED] = TO(VOLATILE),
        [PAGE_FOREIGN] = TO(COPIED) | TO(VOLATILE),
        [PAGE_COPIED] = TO(EXCLUDED),
        [PAGE_ZERO] = TO(EMPTY) | TO(VOLATILE) | TO(TRACKED) | TO(EXCLUDED) | TO(PROTECTED),
        [PAGE_EXCLUDED] = TO(TRACKED) | TO(COPIED) | TO(EXCLUDED),
        [PAGE_PROTECTED] = TO(TRACKED),
};

static const char *const names[PAGE_N_STATES] = {
        [PAGE_EMPTY] = "empty",         [PAGE_VOLATILE] = "volatile",   [PAGE_TRACKED] = "tracked",
        [PAGE_CANDIDATE] = "candidate", [PAGE_PLANNED] = "planned",     [PAGE_MERGED] = "merged",
        [PAGE_FOREIGN] = "foreign",     [PAGE_COPIED] = "copied",       [PAGE_ZERO] = "zero",
        [PAGE_EXCLUDED] = "excluded",   [PAGE_PROTECTED] = "protected", [PAGE_ALIASED] = "aliased",
};

const char *page_state_name(enum page_state state)
{
        return (unsigned)state < PAGE_N_STATES ? names[state] : "invalid";
}

bool page_state_allowed(enum page_state from, enum page_state to)
{
        if ((unsigned)from >= PAGE_N_STATES || (unsigned)to >= PAGE_N_STATES)
                return false;
        return allowed[from] >> to & 1;
}
