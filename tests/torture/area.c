/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Areas: who may touch which page, and what each byte must be
 *
 * Theory of operation
 *
 * Shadow. Beside its memory each area has a shadow of the same size, in ordinary memory that is never registered. Whoever
 * changes the memory makes the same change to the shadow, so what every byte must be is known without a doubt, and a page is
 * verified by comparing it with its shadow as a whole.
 *
 * Ownership. Each page has a lock beside it: one worker may change the page and its shadow, or several may compare them. A
 * worker locks a run of pages, as many in a row as it can get at once, and never waits for a page: so it can
 * hold as many as it likes, in any order, and still be stuck in nothing but the kernel, which is what the watchdog is to find.
 * Pages are the unit because libwp, the kernel and the verification know no smaller one; that neighbours in a merged run
 * belong to different workers is what matters.
 *
 * Layout. That the memory stays where it is, is a second right, for the whole area (gate.h): workers are inside while they
 * hold pages, and who unmaps, moves or resizes the area closes the gate. Registration is a third one, of the same kind, and
 * discarding a fourth: doc/memory.md forbids to discard pages while others give back pages of the region.
 *
 * The order is layout, registration, discards, pages. Only the closer of a gate waits, and only for those inside, who do
 * not wait for it: whoever closes `discards` is inside at most `registration` and `layout`, and those inside `discards`
 * close nothing.
 *
 * Fork. Memory, shadow, locks and gates are private memory, so a forked child gets a copy of each. But fork(2) does not copy
 * them at one moment: other threads go on meanwhile, and what the child sees of pages that they own may be torn. The forking
 * worker therefore holds pages as a reader while it forks; these, and only these, are known in the child. All others
 * are taken for good there (areas_inherit()), and so are the gates of areas of which it has none. From then on the child is
 * the only thread of its process and does the same operations with the same rules.
 *
 * Failure. Whoever finds a wrong byte looks again a little later, which tells a page that was read too early from one
 * that is wrong, says what was done to the page last and who did it, and stands still, so that the main process can
 * look at the mappings.
 */

#include "torture/area.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "torture/client.h"
#include "torture/content.h"
#include "torture/entry.h"
#include "torture/shared.h"
#include "torture/stall.h"
#include "torture/worker.h"

#define MIN_AREA_PAGES 8

/* Only what is left alone for a while is merged: most changes are made to the first part of an area. */
#define HOT_PART    4
#define COLD_ONE_IN 24

#define LOOK_AGAIN_NS (20 * NSEC_PER_MSEC)

/* ------------------------------------------------------------------ areas */

void area_init(struct area *area, unsigned index, size_t max_pages)
{
        area->index = index;
        area->max_pages = max_pages;
        area->shadow = torture_map(max_pages * PAGE_BYTES);
        area->locks = torture_map(max_pages * sizeof(*area->locks));
        area->discarded = torture_map(max_pages * sizeof(*area->discarded));
        area->history = torture_map(max_pages * sizeof(*area->history));
}

void area_release(struct area *area)
{
        munmap(area->shadow, area->max_pages * PAGE_BYTES);
        munmap((void *)area->locks, area->max_pages * sizeof(*area->locks));
        munmap((void *)area->discarded, area->max_pages * sizeof(*area->discarded));
        munmap(area->history, area->max_pages * sizeof(*area->history));
}

static size_t draw_size(struct worker *worker, const struct area *area)
{
        size_t least = MIN(MIN_AREA_PAGES, area->max_pages);

        return coin(worker) ? area->max_pages : least + draw(worker, area->max_pages - least + 1);
}

/* Aligned for huge pages: a larger mapping, of which the ends are given back. */
static char *map_aligned(size_t bytes)
{
        char *memory = torture_map(bytes + HUGE_BYTES);
        size_t skipped = -(uintptr_t)memory & (HUGE_BYTES - 1);

        if (skipped)
                munmap(memory, skipped);
        munmap(memory + skipped + bytes, HUGE_BYTES - skipped);
        return memory + skipped;
}

/* Where it was before, if nobody else is there by now. */
static char *map_again(void *address, size_t bytes)
{
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
        void *memory = address ? mmap(address, bytes, PROT_READ | PROT_WRITE, flags, -1, 0) : MAP_FAILED;

        return memory == MAP_FAILED ? torture_map(bytes) : memory;
}

void area_map(struct worker *worker, struct area *area)
{
        struct range all;
        bool huge; /* aligned, and asked for huge pages */

        area->n_pages = draw_size(worker, area);
        huge = draw(worker, 4) == 0;
        area->n_disconnects = atomic_load(&client_fate(worker->client)->n_disconnects);
        if (huge)
                area->memory = map_aligned(area->n_pages * PAGE_BYTES);
        else
                area->memory = coin(worker) ? map_again(area->memory, area->n_pages * PAGE_BYTES)
                                            : torture_map(area->n_pages * PAGE_BYTES);
        if (huge)
                (void)!madvise(area->memory, area->n_pages * PAGE_BYTES, MADV_HUGEPAGE);
        all = (struct range){.area = area, .n = area->n_pages, .exclusive = true};
        range_fill(worker, &all);
        count(COUNT_STORES, all.n);
}

void area_unmap(struct worker *worker, struct area *area)
{
        const size_t bytes = area->n_pages * PAGE_BYTES;
        long r = coin(worker) ? munmap(area->memory, bytes) : syscall(SYS_munmap, area->memory, bytes);

        EXPECT_AT(area->memory, r == 0, "munmap: %s", strerror(errno));
}

/* ------------------------------------------------------------------ ranges */

size_t range_draw_length(struct worker *worker, size_t max)
{
        size_t length;

        switch (draw(worker, 8)) {
        case 0 ... 2:
                length = 1;
                break;
        case 3 ... 4:
                length = 1 + draw(worker, 16);
                break;
        case 5 ... 6:
                length = 1 + draw(worker, 600);
                break;
        default:
                length = max;
        }
        return MIN(length, max);
}

static bool page_lock(struct area *area, size_t page, bool exclusive)
{
        int32_t n = atomic_load(&area->locks[page]);

        while (exclusive ? n == 0 : n >= 0)
                if (atomic_compare_exchange_weak(&area->locks[page], &n, exclusive ? PAGE_TAKEN : n + 1))
                        return true;
        return false;
}

bool range_take_at(struct worker *worker, struct area *area, size_t first, size_t max, bool exclusive,
                   struct range *ret_range)
{
        size_t n = 0;

        /* Settling changes the shadow; see page_verify(). */
        exclusive |= worker->depth > 0;
        while (n < max && first + n < area->n_pages && page_lock(area, first + n, exclusive))
                n++;
        *ret_range = (struct range){.area = area, .first = first, .n = n, .exclusive = exclusive};
        /* What a child inherited as discarded is settled before anything else is done to it; see page_verify(). */
        if (worker->depth)
                range_verify(worker, ret_range, "when a child took it");
        return n;
}

bool range_take(struct worker *worker, struct area *area, size_t max, bool exclusive, struct range *ret_range)
{
        size_t length = range_draw_length(worker, MIN(max, area->n_pages));
        size_t n_firsts = area->n_pages - length + 1;

        if (exclusive && draw(worker, COLD_ONE_IN))
                n_firsts = (n_firsts + HOT_PART - 1) / HOT_PART;
        return range_take_at(worker, area, draw(worker, n_firsts), length, exclusive, ret_range);
}

static void note_history(struct worker *worker, const struct range *range)
{
        uint64_t now = clock_now();

        for (size_t i = 0; i < range->n; i++) {
                struct history *history = &range->area->history[range->first + i];

                history->entries[history->next++ % HISTORY_LENGTH] =
                        (struct history_entry){.time_ns = now,
                                               .what = worker->what,
                                               .tid = worker->tid,
                                               .pages = (uint32_t)(range->n - i)};
        }
}

void range_give(struct worker *worker, struct range *range)
{
        if (range->exclusive)
                note_history(worker, range);
        for (size_t page = range->first; page < range->first + range->n; page++)
                if (range->exclusive)
                        atomic_store(&range->area->locks[page], 0);
                else
                        atomic_fetch_sub(&range->area->locks[page], 1);
        range->n = 0;
}

void range_draw_content(struct worker *worker, char *buffer, size_t n_pages)
{
        unsigned number = (unsigned)draw(worker, CONTENT_NUMBERS);
        bool zeros = draw(worker, 8) == 0;

        for (size_t i = 0; i < n_pages; i++, number = content_next(number))
                memcpy(buffer + i * PAGE_BYTES, content_page(zeros ? 0 : number), PAGE_BYTES);
}

/* In several runs, as long as other lengths of ranges are. */
void range_fill(struct worker *worker, const struct range *range)
{
        for (size_t done = 0, length; done < range->n; done += length) {
                size_t offset = done * PAGE_BYTES;

                length = range_draw_length(worker, range->n - done);
                range_draw_content(worker, range_shadow(range) + offset, length);
                memcpy(range_memory(range) + offset, range_shadow(range) + offset, length * PAGE_BYTES);
        }
}

void range_zero_shadow(const struct range *range)
{
        memset(range_shadow(range), 0, range_bytes(range));
}

void range_discard_shadow(const struct range *range)
{
        range_zero_shadow(range);
        for (size_t page = range->first; page < range->first + range->n; page++)
                atomic_store(&range->area->discarded[page], true);
}

/* ------------------------------------------------------------------ fork */

void areas_inherit(struct area *areas, unsigned n_areas, const struct range *ranges, unsigned n_ranges)
{
        for (unsigned i = 0; i < n_areas; i++) {
                struct area *area = &areas[i];
                bool known = false;

                for (unsigned k = 0; k < n_ranges; k++)
                        known |= ranges[k].area == area;
                atomic_store(&area->layout.inside, known ? 0 : GATE_CLOSED);
                atomic_store(&area->discards.inside, 0);
                /* A child has no connection. */
                atomic_store(&area->registration.inside, GATE_CLOSED);
                area->region = NULL;
                for (size_t page = 0; known && page < area->n_pages; page++)
                        atomic_store(&area->locks[page], PAGE_TAKEN);
        }
        for (unsigned k = 0; k < n_ranges; k++)
                for (size_t i = 0; i < ranges[k].n; i++)
                        atomic_store(&ranges[k].area->locks[ranges[k].first + i], 0);
}

/* ------------------------------------------------------------------ verification */

struct text {
        char *next;
        char *end;
};

__attribute__((__format__(__printf__, 2, 3))) static void say(struct text *text, const char *format, ...)
{
        va_list arguments;
        int n;

        va_start(arguments, format);
        n = vsnprintf(text->next, (size_t)(text->end - text->next), format, arguments);
        va_end(arguments);
        text->next += MIN(MAX(n, 0), text->end - text->next - 1);
}

/* Which content a page is, or how much of it is not what it should be. */
static void describe_content(struct text *text, const char *name, const char *page)
{
        for (unsigned number = 0; number < CONTENT_NUMBERS; number++)
                if (!memcmp(page, content_page(number), PAGE_BYTES)) {
                        say(text, "  %s: content number %u%s\n", name, number, number ? "" : " (zeros)");
                        return;
                }
        say(text, "  %s: none of the contents as it is\n", name);
}

static void describe_difference(struct text *text, const char *seen, const char *shadow)
{
        size_t first = 0, n = 0;

        for (size_t i = PAGE_BYTES; i-- > 0;)
                if (seen[i] != shadow[i]) {
                        first = i;
                        n++;
                }
        say(text, "  %zu bytes differ, the first at offset %zu:\n  found   ", n, first);
        for (size_t i = first; i < MIN(first + 16, PAGE_BYTES); i++)
                say(text, " %02x", (unsigned char)seen[i]);
        say(text, "\n  expected");
        for (size_t i = first; i < MIN(first + 16, PAGE_BYTES); i++)
                say(text, " %02x", (unsigned char)shadow[i]);
        say(text, "\n");
}

static void describe_history(struct text *text, const struct history *history)
{
        uint64_t now = clock_now();

        for (unsigned i = 1; i <= HISTORY_LENGTH; i++) {
                const struct history_entry *entry = &history->entries[(history->next - i) % HISTORY_LENGTH];

                if (entry->what)
                        say(text, "  %9.3f ms ago: %s by thread %d, %u pages from here on\n",
                            (double)(now - entry->time_ns) / 1e6, entry->what, entry->tid, entry->pages);
        }
}

/* One page, or a run of them: that tells a lost write from a lost run. */
static void describe_extent(struct text *text, const struct range *range)
{
        size_t n = 0, first = 0, last = 0;

        for (size_t page = 0; page < range->n; page++) {
                if (!memcmp(range_memory(range) + page * PAGE_BYTES, range_shadow(range) + page * PAGE_BYTES,
                            PAGE_BYTES))
                        continue;
                first = n++ ? first : page;
                last = page;
        }
        say(text, "  %zu pages of the operation's are wrong, from %zu to %zu\n", n, range->first + first,
            range->first + last);
}

static void describe_registration(struct text *text, const struct area *area)
{
        if (area->region)
                say(text, "  registered: pages %zu to %zu\n", area->region_first,
                    area->region_first + area->region_pages - 1);
        else
                say(text, "  not registered now\n");
}

static void describe_fork(struct text *text, const struct worker *worker)
{
        const struct forked *forked = &worker->forked;

        if (!worker->depth)
                return;
        say(text,
            "  forked %.3f ms ago; since then the daemon ended %llu times, the client disconnected %u times%s\n",
            (double)(clock_now() - forked->time_ns) / 1e6,
            (unsigned long long)(atomic_load(&shared->daemon.n_ends) - forked->n_ends),
            atomic_load(&client_fate(worker->client)->n_disconnects) - forked->n_disconnects,
            client_is_orphaned(worker->client) ? ", and is gone" : "");
}

__attribute__((__noreturn__)) static void page_fail(struct worker *worker, const struct range *range,
                                                    size_t page, const char *when)
{
        const char *memory = range_memory(range) + page * PAGE_BYTES,
                   *shadow = range_shadow(range) + page * PAGE_BYTES;
        char seen[PAGE_BYTES], again[PAGE_BYTES], buffer[MAX_VERDICT / 2];
        struct text text = {.next = buffer, .end = buffer + sizeof(buffer)};
        const struct area *area = range->area;

        memcpy(seen, memory, PAGE_BYTES);
        nanosleep(&(struct timespec){.tv_nsec = LOOK_AGAIN_NS}, NULL);
        memcpy(again, memory, PAGE_BYTES);
        say(&text, "WRONG BYTE: area %u, page %zu of %zu, address %p, found %s\n", area->index,
            range->first + page, area->n_pages, (const void *)memory, when);
        say(&text, "  worker %u, thread %d, %s %u, operation %s on pages %zu to %zu\n", worker->index,
            worker->tid, worker->depth ? "child of depth" : "client thread, depth", worker->depth,
            worker->what, range->first, range->first + range->n - 1);
        if (memcmp(seen, shadow, PAGE_BYTES))
                describe_difference(&text, seen, shadow);
        else
                say(&text, "  it was right when it was read a second time\n");
        say(&text, "  %.0f ms later it is %s\n", (double)LOOK_AGAIN_NS / 1e6,
            !memcmp(again, shadow, PAGE_BYTES) ? "right"
            : !memcmp(again, seen, PAGE_BYTES) ? "the same"
                                               : "wrong in another way");
        describe_extent(&text, range);
        describe_registration(&text, area);
        describe_fork(&text, worker);
        describe_content(&text, "found", seen);
        describe_content(&text, "expected", shadow);
        describe_history(&text, &area->history[range->first + page]);
        fail((uintptr_t)memory, "%s", buffer);
}

/* Where nobody has the context of a child, what was merged and is discarded reads as what is in the pool at this time. */
static bool shows_pool(const struct worker *worker, const struct range *range, size_t page)
{
        const char *memory = range_memory(range) + page * PAGE_BYTES;
        uint64_t entry;

        return client_is_unserved(worker, range->area) &&
               entries_read((pid_t)syscall(SYS_getpid), (uintptr_t)memory, &entry, 1) == 0 &&
               entry & ENTRY_FILE;
}

/* Of a page that was discarded and not written since: the shadow takes over what the pool shows. */
static void settle(struct worker *worker, const struct range *range, size_t page, bool *right)
{
        _Atomic bool *discarded = &range->area->discarded[range->first + page];

        if (!shows_pool(worker, range, page)) {
                atomic_store(discarded, false);
        } else if (!*right) {
                memcpy(range_shadow(range) + page * PAGE_BYTES, range_memory(range) + page * PAGE_BYTES,
                       PAGE_BYTES);
                count(COUNT_STALE, 1);
                *right = true;
        }
}

void page_verify(struct worker *worker, const struct range *range, size_t page, const char *when)
{
        uint64_t start = clock_now();
        bool right = !memcmp(range_memory(range) + page * PAGE_BYTES, range_shadow(range) + page * PAGE_BYTES,
                             PAGE_BYTES);

        stall_note(worker, start, clock_now());
        if (atomic_load(&range->area->discarded[range->first + page]))
                settle(worker, range, page, &right);
        if (!right)
                page_fail(worker, range, page, when);
        count(COUNT_VERIFIED, 1);
}

void range_verify(struct worker *worker, const struct range *range, const char *when)
{
        for (size_t page = 0; page < range->n; page++)
                page_verify(worker, range, page, when);
}
