/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Protect: pages that the program itself protects (wp_protect(), wp_release())
 *
 * Theory of operation
 *
 * Merging is one user of write protection; the program is the other. What it protects is taken from the daemon, which leaves
 * it alone from then on, and comes under a context in which a writer really waits: pages that are not merged from
 * track to *watch*, which has no other use, and mappings of the pool from lazy to hold, if they were not under hold already.
 * Merged pages stay merged, and the first write copies them as ever. The watcher reads both contexts, and the shield
 * (shield.h) tells it what to do: queue the event and let the writer go on, let him wait, or see that he need not.
 *
 * Pages that were taken stay where they are when they have been written, so that protecting them again is one ioctl, by the
 * thread that asks. Releasing a range gives it back to the context where it came from, and to the daemon.
 *
 * Only the agent takes pages in and gives them back, for that is a change of mappings. The daemon is needed for nothing
 * but to be told; when it goes away all protection ends, so that nobody depends on a program that may have relied on it.
 *
 * What happens in the moment in which a mapping changes contexts: a write is not seen, as if it had come before wp_protect(),
 * or after wp_release(). A page of the pool that is discarded and read in that moment shows its old content, as when
 * memory is given back (run.c).
 */

#include "libwp/client.h"

#include <errno.h>
#include <sched.h>
#include <time.h>

#include "kernel/hold.h"
#include "kernel/pagemap.h"
#include "kernel/uffd.h"
#include "util/clock.h"

#define DEFAULT_MS     1000
#define RETRY_PAUSE_NS (50 * NSEC_PER_USEC)
#define SURVEY_RUNS    64

static int context(const struct wp_client *client, enum client_context which)
{
        return client->context_fds[which];
}

/* ------------------------------------------------------------------ in and out */

/* Both ways of a part of a range that is of one kind: what the daemon tracks, or a mapping of the pool. */
struct passage {
        struct wp_client *client;
        bool tracked; /* merged, or to be merged, unless it is protected */
        bool lazy;    /* and its merged pages are under lazy */
        int (*plain)(const struct passage *passage, uintptr_t start, size_t length);
        int (*pooled)(const struct passage *passage, uintptr_t start, size_t length);
        uintptr_t next; /* where the part begins that is looked at */
};

static int crowd(const struct wp_client *client, unsigned place)
{
        return client->context_fds[CONTEXT_CROWD + place];
}

/* Takes [start, start+length) from track to watch. */
static int take_plain(const struct passage *passage, uintptr_t start, size_t length)
{
        struct wp_client *client = passage->client;
        int r;

        /* It is not there if the daemon had no room for it. */
        if (passage->tracked)
                (void)!uffd_unregister(context(client, CONTEXT_TRACK), start, length);
        r = uffd_register(context(client, CONTEXT_WATCH), start, length, UFFDIO_REGISTER_MODE_WP);
        if (r >= 0)
                shields_set(&client->shields, start, length, shield_make(SHIELD_SPENT, 0));
        return r;
}

/*
 * A mapping of the pool from hold to lazy or the other way; nothing of it is protected afterwards. EINVAL: it is not in the one,
 * but in the other already, by an earlier attempt or registration; before Linux 6.17 it leaves that, and comes back.
 */
static int exchange(int from, int to, uintptr_t start, size_t length)
{
        int r = uffd_unregister(from, start, length);

        if (r < 0 && r != -EINVAL)
                return r;
        r = uffd_register(to, start, length, HOLD_MODES);
        if (r < 0)
                (void)!uffd_register(from, start, length, HOLD_MODES);
        return r;
}

static int take_pooled(const struct passage *passage, uintptr_t start, size_t length)
{
        struct wp_client *client = passage->client;
        int r = 0;

        if (passage->lazy)
                r = exchange(context(client, CONTEXT_LAZY), context(client, CONTEXT_HOLD), start, length);
        if (r >= 0)
                shields_set(&client->shields, start, length, shield_make(SHIELD_SPENT, 0));
        return r;
}

/* Of memory in which the program has mapped something else, against the contract, what is still ours. */
static void unprotect_each(int fd, uintptr_t start, size_t length)
{
        for (uintptr_t page = start; page < start + length; page += PAGE_BYTES)
                (void)!uffd_write_protect(fd, page, PAGE_BYTES, false);
}

/*
 * A page for which many waited, from watch to a context of its own. It is not protected now. Where that is not possible -
 * merged memory is not in watch, and there may be too many mappings - it is no longer thought of.
 */
static void take_place(struct wp_client *client, struct shield_hot *hot, unsigned place)
{
        int watch = context(client, CONTEXT_WATCH);

        hot->placed =
                uffd_register(watch, hot->address, PAGE_BYTES, UFFDIO_REGISTER_MODE_WP) >=
                        0 && /* it is in watch */
                uffd_unregister(watch, hot->address, PAGE_BYTES) >= 0 &&
                uffd_register(crowd(client, place), hot->address, PAGE_BYTES, UFFDIO_REGISTER_MODE_WP) >= 0;
        hot->used = hot->placed;
        if (!hot->placed) /* EBUSY: it never left its context */
                (void)!uffd_register(watch, hot->address, PAGE_BYTES, UFFDIO_REGISTER_MODE_WP);
}

/* And out of it, into no context. */
static void leave_place(struct wp_client *client, struct shield_hot *hot, unsigned place)
{
        (void)!uffd_unregister(crowd(client, place), hot->address, PAGE_BYTES);
        (void)!uffd_wake(crowd(client, place), hot->address, PAGE_BYTES);
        hot->placed = false;
}

/* Out of watch, or of a place. -ENOMEM: the process can have no more mappings; some of it stays where it is. */
static int leave_watch(struct wp_client *client, uintptr_t start, size_t length)
{
        int watch = context(client, CONTEXT_WATCH), r;

        for (unsigned i = 0; i < SHIELDS_MAX_HOT; i++) {
                struct shield_hot *hot = &client->shields.hot[i];

                if (hot->placed && hot->address - start < length)
                        leave_place(client, hot, i);
        }
        r = uffd_unregister(watch, start, length);
        (void)!uffd_wake(watch, start, length);
        return r;
}

/*
 * Gives [start, start+length) back to track. Nothing of it is protected when it leaves watch: who wrote to it later would find
 * nobody who knows it. -ENOMEM: it stays where it is, unprotected.
 */
static int drop_plain(const struct passage *passage, uintptr_t start, size_t length)
{
        struct wp_client *client = passage->client;
        int watch = context(client, CONTEXT_WATCH), r = uffd_write_protect(watch, start, length, false);

        if (r == -EAGAIN)
                return r;
        if (r < 0)
                unprotect_each(watch, start, length);
        r = leave_watch(client, start, length);
        shields_set(&client->shields, start, length,
                    shield_make(r == -ENOMEM ? SHIELD_SPENT : SHIELD_NONE, 0));
        if (r == -ENOMEM)
                return r;
        if (passage->tracked)
                (void)!uffd_register(context(client, CONTEXT_TRACK), start, length, UFFDIO_REGISTER_MODE_WP);
        return 0;
}

/* Pages that were copied are the program's own: nobody wants to know of writes to them. */
static int unprotect_copied(struct wp_client *client, int fd, uintptr_t start, size_t length)
{
        struct page_region copied[SURVEY_RUNS];
        uint64_t walked = start, end = start + length;

        while (walked < end) {
                int n = pagemap_survey_copied(client->pagemap_fd, walked, end, copied, SURVEY_RUNS, &walked);
                int r = MIN(n, 0);

                for (int i = 0; i < n && r >= 0; i++)
                        r = uffd_write_protect(fd, copied[i].start, copied[i].end - copied[i].start, false);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* Those who wait for a merged page get their copies; other pages stay protected, since they are shared. */
static int let_writers_go(struct wp_client *client, uintptr_t start, size_t length)
{
        int hold = context(client, CONTEXT_HOLD), r = 0;

        for (unsigned i = 0; i < client->shields.n_held && r >= 0; i++)
                if (client->shields.held[i].address - start < length)
                        r = uffd_write_protect(hold, client->shields.held[i].address, PAGE_BYTES, false);
        return r;
}

static int drop_pooled(const struct passage *passage, uintptr_t start, size_t length)
{
        struct wp_client *client = passage->client;
        int hold = context(client, CONTEXT_HOLD), lazy = context(client, CONTEXT_LAZY), r;

        if (passage->lazy)
                r = exchange(hold, lazy, start, length);
        else
                r = let_writers_go(client, start, length);
        if (r >= 0 && passage->lazy)
                r = uffd_write_protect(lazy, start, length, true);
        if (r >= 0)
                r = unprotect_copied(client, passage->lazy ? lazy : hold, start, length);
        if (r == -EAGAIN)
                return r;
        (void)!uffd_wake(hold, start, length);
        shields_set(&client->shields, start, length, shield_make(SHIELD_NONE, 0));
        return 0;
}

static int visit_pooled(void *argument, uintptr_t start, uintptr_t end)
{
        struct passage *passage = argument;
        int r = 0;

        if (passage->next < start)
                r = passage->plain(passage, passage->next, start - passage->next);
        passage->next = end;
        return r < 0 ? r : passage->pooled(passage, start, end - start);
}

static int pass_run(struct passage *passage, uintptr_t start, uintptr_t end)
{
        int r = 0;

        passage->next = start;
        if (atomic_load(&passage->client->merged_ever))
                r = pools_walk(passage->client, start, end, visit_pooled, passage);
        if (r >= 0 && passage->next < end)
                r = passage->plain(passage, passage->next, end - passage->next);
        return r;
}

/* Takes in what of the range is not protected, or drops what is. */
static int pass(struct wp_client *client, bool taking, uint64_t flags, uintptr_t start, size_t length)
{
        struct passage passage = {.client = client,
                                  .tracked = flags & WP_MERGE,
                                  .lazy = !(flags & WP_NOTIFY),
                                  .plain = taking ? take_plain : drop_plain,
                                  .pooled = taking ? take_pooled : drop_pooled};
        int r = 0;

        for (uintptr_t at = start, end = start + length, next; at < end && r >= 0; at = next) {
                bool protected;

                next = shields_run_end(&client->shields, at, end, &protected);
                if (protected != taking)
                        r = pass_run(&passage, at, next);
        }
        return r;
}

/* ------------------------------------------------------------------ the agent's part */

static int drop(struct wp_client *client, uint64_t flags, uintptr_t start, size_t length)
{
        return pass(client, false, flags, start, length);
}

static int take(struct wp_client *client, uint64_t flags, uintptr_t start, size_t length)
{
        return pass(client, true, flags, start, length);
}

/* Hot pages get their places, unless they are protected now: by a wp_protect() that no write and no release has followed. */
static void place_hot(struct wp_client *client, uintptr_t start, size_t length)
{
        int place;

        while ((place = shields_misplaced(&client->shields, start, length)) >= 0)
                take_place(client, &client->shields.hot[place], (unsigned)place);
}

/* Everything of the range is in its context. The ioctl is the same for all (tests/kernel/foreign_context.c). */
static int arm(struct wp_client *client, uintptr_t start, size_t length, shield_word word)
{
        int r;

        place_hot(client, start, length);
        r = uffd_write_protect(context(client, CONTEXT_WATCH), start, length, true);
        if (r >= 0)
                shields_set(&client->shields, start, length, word);
        return r;
}

static int make_shield(struct wp_client *client, const struct wp_region *region)
{
        size_t n_pages = region->length / PAGE_BYTES;
        shield_word *words;
        int r;

        if (shields_find(&client->shields, region->start))
                return 0;
        words = client_map(n_pages * sizeof(*words));
        if (!words)
                return -ENOMEM;
        r = shields_add(&client->shields, region->start, n_pages, words, region->flags);
        if (r < 0)
                client_unmap(words, n_pages * sizeof(*words));
        return r;
}

static int carry_out(struct wp_client *client, const struct client_errand *errand)
{
        uint64_t flags = errand->region->flags;
        int r;

        if (errand->kind == ERRAND_RELEASE)
                return drop(client, flags, errand->start, errand->length);
        r = make_shield(client, errand->region);
        if (r >= 0)
                r = take(client, flags, errand->start, errand->length);
        return r < 0 ? r : arm(client, errand->start, errand->length, errand->word);
}

static void enter(struct wp_client *client)
{
        pthread_mutex_lock(&client->running);
        pthread_mutex_lock(&client->serving);
}

/* The event of a fork, which only the watcher can read, may have to be read first. */
static void leave(struct wp_client *client, bool pause)
{
        pthread_mutex_unlock(&client->serving);
        pthread_mutex_unlock(&client->running);
        if (pause)
                nanosleep(&(struct timespec){.tv_nsec = RETRY_PAUSE_NS}, NULL);
}

int protect_execute(struct wp_client *client, const struct client_errand *errand)
{
        const struct client_errand undo = {.kind = ERRAND_RELEASE,
                                           .region = errand->region,
                                           .start = errand->start,
                                           .length = errand->length};
        int r;

        /* Nothing was taken: what others protect there is theirs. */
        if (errand->kind == ERRAND_PROTECT && errand->epoch != client->link.epoch)
                return -ENOTCONN;
        do {
                enter(client);
                r = carry_out(client, errand);
                leave(client, r == -EAGAIN);
        } while (r == -EAGAIN);
        if (r < 0 && errand->kind == ERRAND_PROTECT)
                (void)!protect_execute(client, &undo);
        return r;
}

void protect_break_all(struct wp_client *client)
{
        int r;

        do {
                r = 0;
                enter(client);
                for (unsigned i = 0; i < client->shields.n && r != -EAGAIN; i++) {
                        const struct shield *shield = &client->shields.shields[i];

                        r = drop(client, shield->flags, shield->start, shield->n_pages * PAGE_BYTES);
                }
                leave(client, r == -EAGAIN);
        } while (r == -EAGAIN);
}

/* ------------------------------------------------------------------ the program's part */

/* What was taken in before is only armed again: 1; 0: some of it was not. */
static int arm_again(struct wp_client *client, uintptr_t start, size_t length, shield_word word)
{
        bool covered;
        int r;

        do {
                pthread_mutex_lock(&client->serving);
                covered = shields_cover(&client->shields, start, length);
                r = covered ? arm(client, start, length, word) : 0;
                pthread_mutex_unlock(&client->serving);
                if (r == -EAGAIN)
                        sched_yield();
        } while (r == -EAGAIN);
        return r < 0 ? r : covered;
}

static int word_of(uint64_t flags, shield_word *ret_word)
{
        uint64_t kind = flags & (WP_WATCH | WP_HOLD), milliseconds = flags >> 32;

        if (flags & UINT32_MAX & ~(WP_WATCH | WP_HOLD))
                return client_fail(-EINVAL, "unknown flags");
        if (kind != WP_WATCH && kind != WP_HOLD)
                return client_fail(-EINVAL, "one of WP_WATCH and WP_HOLD is wanted");
        if (milliseconds > SHIELD_MAX_MS || (milliseconds && kind == WP_WATCH))
                return client_fail(-EINVAL, "a bound is for WP_HOLD, and at most 8191 ms");
        *ret_word = kind == WP_WATCH
                            ? shield_make(SHIELD_WATCHED, 0)
                            : shield_make(SHIELD_HELD, milliseconds ? (unsigned)milliseconds : DEFAULT_MS);
        return 0;
}

static int explain(int error)
{
        switch (error) {
        case -EBUSY:
                return client_fail(error, "some of it belongs to another userfaultfd");
        case -EINVAL:
        case -ENOENT:
                return client_fail(-EFAULT, "some of it is not mapped any more, or not as it was");
        case -ENOTCONN:
                return client_fail(error, "the daemon is gone; the memory is intact");
        case -EDQUOT:
                return client_fail(error, "too many regions with protected pages");
        case -ENOMEM:
                return client_fail(error, "not enough memory, or too many mappings: see vm.max_map_count");
        default:
                return error < 0 ? client_fail(error, "it cannot be protected") : 0;
        }
}

/*
 * Tells the daemon of what is not protected of a range. Who protects some of it at this moment, and has the daemon's consent
 * already, has `protecting` until it is: of these pages the daemon must not hear.
 */
static void tell_released(struct wp_region *region, size_t offset, size_t length)
{
        uint64_t at = region->start + offset, end = at + length;

        while (at < end) {
                uint64_t stop;
                bool is_protected;

                pthread_mutex_lock(&region->client->serving);
                stop = shields_run_end(&region->client->shields, at, end, &is_protected);
                pthread_mutex_unlock(&region->client->serving);
                if (!is_protected)
                        (void)!region_call(region, WIRE_RELEASE, at - region->start, stop - at, NULL);
                at = stop;
        }
}

static int protect_anew(struct wp_region *region, size_t offset, size_t length, shield_word word,
                        uint64_t epoch)
{
        struct wp_client *client = region->client;
        struct client_errand errand = {.kind = ERRAND_PROTECT,
                                       .region = region,
                                       .start = region->start + offset,
                                       .length = length,
                                       .epoch = epoch,
                                       .word = word};
        int r;

        if (!(region->flags & WP_MERGE))
                return explain(client_run_errand(client, &errand));
        pthread_mutex_lock(&client->protecting);
        r = region_call(region, WIRE_PROTECT, offset, length, NULL);
        if (r >= 0) {
                r = client_run_errand(client, &errand);
                if (r < 0)
                        tell_released(region, offset, length);
                r = explain(r);
        }
        pthread_mutex_unlock(&client->protecting);
        return r;
}

wp_export int wp_protect(struct wp_region *region, size_t offset, size_t length, uint64_t flags)
{
        int r = region_check_range(region, offset, length);
        struct wp_client *client;
        shield_word word = 0;
        uint64_t epoch;
        bool joined;

        if (r >= 0)
                r = word_of(flags, &word);
        if (r < 0)
                return r;
        client = region->client;
        pthread_mutex_lock(&client->lock);
        joined = region->joined;
        epoch = client->link.epoch;
        pthread_mutex_unlock(&client->lock);
        if (!joined)
                return explain(-ENOTCONN);
        r = arm_again(client, region->start + offset, length, word);
        if (r < 0)
                (void)!region_run_errand(region, ERRAND_RELEASE, offset, length);
        return r ? explain(MIN(r, 0)) : protect_anew(region, offset, length, word, epoch);
}

wp_export int wp_release(struct wp_region *region, size_t offset, size_t length)
{
        int r = region_check_range(region, offset, length);

        if (r < 0 || !protect_touches(region->client, region->start + offset, length))
                return r;
        /* Writers go on at once, whatever others wait for; what the daemon has to know can wait. */
        r = region_run_errand(region, ERRAND_RELEASE, offset, length);
        if (r >= 0 && region->flags & WP_MERGE) {
                pthread_mutex_lock(&region->client->protecting);
                tell_released(region, offset, length);
                pthread_mutex_unlock(&region->client->protecting);
        }
        return explain(r);
}

void protect_leave(struct wp_region *region)
{
        if (protect_touches(region->client, region->start, region->length))
                (void)!region_run_errand(region, ERRAND_RELEASE, 0, region->length);
}

void protect_forget(struct wp_client *client, const struct wp_region *region)
{
        struct shield *shield;

        pthread_mutex_lock(&client->serving);
        shield = shields_find(&client->shields, region->start);
        if (shield)
                client_unmap(shields_remove(&client->shields, shield),
                             region->length / PAGE_BYTES * sizeof(shield_word));
        pthread_mutex_unlock(&client->serving);
}

bool protect_touches(struct wp_client *client, uintptr_t start, size_t length)
{
        bool touches;

        pthread_mutex_lock(&client->serving);
        touches = shields_touch(&client->shields, start, length);
        pthread_mutex_unlock(&client->serving);
        return touches;
}

size_t protect_count(struct wp_region *region)
{
        struct wp_client *client = region->client;
        size_t n;

        pthread_mutex_lock(&client->serving);
        n = shields_count(&client->shields, region->start);
        pthread_mutex_unlock(&client->serving);
        return n;
}
