#pragma once
/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Shields: which pages are protected for the program (wp_protect()), and who waits there
 *
 * Theory of operation
 *
 * A shield is the record of one region, a word a page. Pages are *armed* - watched or held - until the first write, which
 * spends them; a held page whose writer waits is in a short list, too, with the time at which it may wait no longer. The
 * kernel's own protection is a page's as long as it is armed: what is armed here is protected there, and the other way round.
 * That makes every first write one verdict other than *stale*: of several faults of one page that were read at
 * once, the first is the write, and the others only want to go on.
 *
 * A page for which many wait is *hot*. The kernel goes through all who wait in a context to wake some of them, so a crowd
 * makes every other fault there slower. When a hot page is protected the next time it gets a context of its own, its
 * *place*; it cannot be moved while it is protected, since nobody would be held meanwhile.
 *
 * All of it is pure, and guarded by one lock (client.h): protecting and releasing change words and the kernel's protection
 * under it, and faults are read and answered under it, so that none is judged by what was true before.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

#define SHIELDS_MAX      1024 /* regions of a client with protected pages */
#define SHIELDS_MAX_HELD 1024 /* pages in which writers wait */
#define SHIELDS_MAX_HOT  2    /* places */
#define SHIELD_CROWD     8    /* so many waiters make a page hot */
#define SHIELD_MAX_MS    UINT16_C(8191)

enum shield_state {
        SHIELD_NONE,    /* not protected, and in no context of ours */
        SHIELD_SPENT,   /* was written, or broken: protected no more, until it is armed again */
        SHIELD_WATCHED, /* armed: the writer goes on */
        SHIELD_HELD,    /* armed: the writer waits */
        SHIELD_WAITED,  /* a writer waits */
};

/* State, and for held pages how long a writer may wait. */
typedef uint16_t shield_word;

static inline shield_word shield_make(enum shield_state state, unsigned milliseconds)
{
        return (shield_word)(state | milliseconds << 3);
}

static inline enum shield_state shield_state_of(shield_word word)
{
        return (enum shield_state)(word & 7);
}

static inline unsigned shield_milliseconds(shield_word word)
{
        return word >> 3;
}

struct shield {
        uint64_t start; /* bytes */
        size_t n_pages;
        shield_word *words; /* of whoever added it */
        uint64_t flags;     /* of its region */
};

struct shields {
        unsigned n;
        unsigned n_held;
        struct shield shields[SHIELDS_MAX]; /* by address, disjoint */
        struct shield_held {
                uint64_t address;
                uint64_t deadline_ns;
                unsigned n_waiters;
        } held[SHIELDS_MAX_HELD];
        struct shield_hot {
                uint64_t address;
                bool used;
                bool placed; /* the page is in this place */
        } hot[SHIELDS_MAX_HOT];
};

/* The shield that the address is in, or NULL. Valid until one is added or removed. */
struct shield *shields_find(struct shields *shields, uint64_t address);

/* `words`: zeroed, one a page, and kept until the shield is removed. -EDQUOT: there are too many. */
int shields_add(struct shields *shields, uint64_t start, size_t n_pages, shield_word *words,
                uint64_t flags) wp_check;
/* Returns the words. */
shield_word *shields_remove(struct shields *shields, struct shield *shield);

/* Whether every page of the range, or any, has a state other than SHIELD_NONE. The range is whole pages in one region. */
bool shields_cover(struct shields *shields, uint64_t start, uint64_t length);
bool shields_touch(struct shields *shields, uint64_t start, uint64_t length);

/* The end of the run of pages from `start` on that all have one, or all have none, and which; the range leaves no shield. */
uint64_t shields_run_end(struct shields *shields, uint64_t start, uint64_t end, bool *ret_protected);

/* How many pages of the shield at this address do. */
size_t shields_count(struct shields *shields, uint64_t address);

/* Sets all pages of a range in a shield; whoever waits there goes on waiting, unless the range is to be SHIELD_NONE or SPENT. */
void shields_set(struct shields *shields, uint64_t start, uint64_t length, shield_word word);

/* Whether the page at the address is protected now: its next writer is to be told of, or waits. */
bool shields_armed(struct shields *shields, uint64_t address);

enum shield_verdict {
        SHIELD_UNKNOWN, /* no page of ours */
        SHIELD_STALE,   /* let it go on: it is no first write */
        SHIELD_WRITE,   /* tell of it, and let it go on */
        SHIELD_HOLD,    /* tell of it: it waits from now on */
        SHIELD_WAIT,    /* it waits with others */
        SHIELD_CROWDED, /* it would have to wait, but too many pages are waited for: break the protection */
};

/* What is to be done about a write to a protected page. */
enum shield_verdict shields_judge(struct shields *shields, uint64_t address, uint64_t now_ns);

/* The place of a page that is in one, or -1. */
int shields_place(const struct shields *shields, uint64_t address);
/* The place of a hot page of the range that is spent, and not in its place, or -1. */
int shields_misplaced(struct shields *shields, uint64_t start, uint64_t length);

/* When the first writer may wait no longer; UINT64_MAX: nobody waits. */
uint64_t shields_deadline(const struct shields *shields);

/* Takes one page whose time is over, which is SHIELD_SPENT then: true, and its address. */
bool shields_overdue(struct shields *shields, uint64_t now_ns, uint64_t *ret_address);
