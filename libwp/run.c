/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Run: the merge protocol, carried out by the agent inside the process whose memory it is
 *
 * Theory of operation
 *
 * Only the owner of an address space can change its mappings, so the daemon plans and the agent acts: it
 * receives batches of runs, carries out each run by itself, and sends one result. Nothing waits for the
 * daemon inside a run. A run becomes a private mapping of canonical pages of the pool file: reads share the
 * physical page, a write is copied by the kernel.
 *
 * Contexts (userfaultfds of this process; the daemon holds track, too)
 *   track  on everything not merged: asynchronous write protection, read by the daemon's PAGEMAP_SCAN
 *   guard  on one run while it is frozen: MISSING; with REMOVE and FORK events; read here only
 *   stage  on the staging area: MISSING, so that UFFDIO_MOVE into it is allowed; never faults, has no events
 *   hold   on merged runs of regions whose writes are events: synchronous write protection; MINOR and MISSING for
 *          pages that the program discards; read by the watcher
 *   lazy   on all other merged runs: the same, but the kernel lets writes through by itself
 *   watch  on what the program protects itself and is not merged, and the crowds on pages of it for which many wait: see
 *          protect.c
 *
 * One run [a, a+n):
 *   1. Map the pool's run elsewhere (X), populate it, register it with hold or lazy and protect it.
 *   2. mincore(a): no holes in the mappings, since REGISTER would skip them and MOVE not notice (trap T1).
 *   3. From track to guard.
 *   4. Freeze: UFFDIO_MOVE every page to the staging area. Whoever touches the run now waits in a MISSING
 *      fault. A page that is pinned for DMA or shared with a forked child is -EBUSY: it stays where it is.
 *   5. Compare staging with X. This is the only thing that decides; fingerprints are hints.
 *   6. What differs goes back where it was, before any event of guard is read.
 *   7. What is equal: mremap(X -> a). Mapping, page tables, registration and protection appear at once.
 *   8. Unregister guard, wake who waits.
 *   9. Read guard's events until none is pending. A child forked while the run was frozen lacks the staged
 *      pages: they are copied into it through its own copy of guard.
 *  10. Discard the staging area; back to track with what stayed anonymous.
 * A run of zeros is the same without X: the equal pages are simply not put back.
 *
 * Why no byte can be lost: from 4 on the only copy of a page is in the staging area or back in place; a page
 * leaves the staging area only into its place (6), or after the same content was mapped there (7). The events
 * that matter block their callers until they are read (9), when everything is in its place: who discards
 * discards it there, and a child that is heard of was forked before that. tests/model/protocol tries all
 * orders.
 *
 * Trap T3: reading a REMOVE event lets its caller go on, and only then it discards. A run frozen at that very
 * moment would bring the content back. So a range with a recent REMOVE event is left alone for a while.
 */

#include "libwp/client.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "kernel/hold.h"
#include "kernel/mapping.h"
#include "kernel/pagemap.h"
#include "kernel/poollock.h"
#include "kernel/uffd.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define REMOVED_QUARANTINE_NS (300 * NSEC_PER_MSEC)
#define RETRY_PAUSE_NS        (50 * NSEC_PER_USEC)
#define RETRY_LIMIT           20000 /* pauses: a second; only for steps that can still be given up */
#define MOVE_RETRY_LIMIT      64
#define GUARD_MESSAGES        16
#define FORK_DEPTH            16
#define COPY_ATTEMPTS         16
#define SETTLE_ATTEMPTS       3

/* Bits of /proc/PID/coredump_filter, core(5). */
#define CORE_ANONYMOUS_PRIVATE 0x1
#define CORE_FILE_PRIVATE      0x4

/* Of a pagemap entry: a guard page (Documentation/admin-guide/mm/pagemap.rst). */
#define ENTRY_GUARD (UINT64_C(1) << 58)

typedef uint64_t run_bitmap[BITMAP_WORDS(WIRE_RUN_PAGES)];

/* One run while it is carried out. */
struct run {
        struct wp_client *client;
        const struct wire_run *wire;
        uintptr_t address;
        unsigned n_pages;
        int hold;                /* the context that merged pages of it are registered with: hold or lazy */
        struct client_kept kept; /* of its region */
        char *pool;              /* X; NULL for a run of zeros */
        bool frozen;             /* the staging area holds pages of this run */
        run_bitmap busy;         /* could not be moved: still in place */
        run_bitmap staged;       /* content is in the staging area */
        run_bitmap equal;        /* staged, and equal to the pool or to zeros */
        run_bitmap removed;      /* a run that is given back: discarded by the program while it was frozen */
        run_bitmap done;
};

static void pause_briefly(void)
{
        nanosleep(&(struct timespec){.tv_nsec = RETRY_PAUSE_NS}, NULL);
}

static char *staged_page(const struct run *run, unsigned page)
{
        return run->client->staging + page * PAGE_BYTES;
}

static uintptr_t page_address(const struct run *run, unsigned page)
{
        return run->address + page * PAGE_BYTES;
}

static int context(const struct run *run, enum client_context which)
{
        return run->client->context_fds[which];
}

/* ------------------------------------------------------------------ guard's events */

static void note_removed(struct wp_client *client, struct run *run, uintptr_t start, uintptr_t end)
{
        client->removed[client->removed_next++ % CLIENT_MAX_REMOVED] =
                (struct client_removed){.start = start, .end = end, .time_ns = clock_now()};
        for (unsigned page = 0; run && page < run->n_pages; page++)
                if (page_address(run, page) >= start && page_address(run, page) < end)
                        bitmap_set(run->removed, page);
}

static bool recently_removed(const struct wp_client *client, uintptr_t start, uintptr_t end)
{
        uint64_t now = clock_now();

        for (unsigned i = 0; i < CLIENT_MAX_REMOVED; i++) {
                const struct client_removed *removed = &client->removed[i];

                if (removed->end > start && removed->start < end &&
                    now - removed->time_ns < REMOVED_QUARANTINE_NS)
                        return true;
        }
        return false;
}

static void complete_child(const struct run *run, int child_fd, const run_bitmap parent_removed,
                           unsigned depth);

/* Reads the events of a child's copy of guard, so that copying into it can go on. */
static void drain_child(const struct run *run, int child_fd, run_bitmap removed, unsigned depth)
{
        struct uffd_msg messages[GUARD_MESSAGES];
        int n = uffd_read(child_fd, messages, GUARD_MESSAGES);

        for (int i = 0; i < n; i++) {
                if (messages[i].event == UFFD_EVENT_FORK)
                        complete_child(run, (int)messages[i].arg.fork.ufd, removed, depth + 1);
                else if (messages[i].event == UFFD_EVENT_REMOVE)
                        for (unsigned page = 0; page < run->n_pages; page++)
                                if (page_address(run, page) >= messages[i].arg.remove.start &&
                                    page_address(run, page) < messages[i].arg.remove.end)
                                        bitmap_set(removed, page);
        }
        if (n == 0)
                sched_yield();
}

/*
 * Whether the page is registered with the child's guard: then the child lacks it, or has discarded it, of
 * which an event tells. If it was merged before the fork it is registered with the child's hold, and empty
 * because the child discarded it, of which nothing tells. UFFDIO_COPY does not make that difference,
 * UFFDIO_REGISTER does (tests/kernel/foreign_context.c).
 */
static bool child_lacks(const struct run *run, int child_fd, unsigned page)
{
        return uffd_register(child_fd, page_address(run, page), PAGE_BYTES, UFFDIO_REGISTER_MODE_MISSING) >=
               0;
}

/*
 * Gives a child that was forked while the run was frozen the pages that it lacks, and closes its copy of
 * guard, which unregisters the memory and wakes whoever waits there. Pages that it has already are EEXIST.
 * What the parent discarded is not left out: the fork came first, since no REMOVE event is read before the
 * run is thawed. `parent_removed` is what a child discarded before it forked itself.
 */
static void complete_child(const struct run *run, int child_fd, const run_bitmap parent_removed,
                           unsigned depth)
{
        run_bitmap removed;
        unsigned page = 0;

        if (child_fd < 0)
                return;
        memcpy(removed, parent_removed, sizeof(removed));
        while (run->frozen && depth < FORK_DEPTH && page < run->n_pages) {
                int r = 0;

                if (bitmap_get(run->staged, page) && !bitmap_get(removed, page) &&
                    child_lacks(run, child_fd, page))
                        r = uffd_copy(child_fd, page_address(run, page), staged_page(run, page), PAGE_BYTES,
                                      0);
                if (r == -ESRCH)
                        break;
                if (r == -EAGAIN)
                        drain_child(run, child_fd, removed, depth);
                else if (r == -ENOMEM)
                        pause_briefly();
                else
                        page++;
        }
        close(child_fd);
}

/* Reads what waits on guard. `run` is NULL between runs: then an event is merely acknowledged. */
static void drain_guard(struct wp_client *client, struct run *run)
{
        static const struct run no_run;
        static const run_bitmap none;
        struct uffd_msg messages[GUARD_MESSAGES];
        int n;

        while ((n = uffd_read(client->context_fds[CONTEXT_GUARD], messages, GUARD_MESSAGES)) > 0)
                for (int i = 0; i < n; i++) {
                        const struct uffd_msg *message = &messages[i];

                        /* Page faults are answered by what follows them: put back, swapped in, or woken. */
                        if (message->event == UFFD_EVENT_REMOVE)
                                note_removed(client, run, message->arg.remove.start, message->arg.remove.end);
                        else if (message->event == UFFD_EVENT_FORK)
                                complete_child(run ? run : &no_run, (int)message->arg.fork.ufd, none, 0);
                }
}

void run_acknowledge(struct wp_client *client)
{
        drain_guard(client, NULL);
}

/* ------------------------------------------------------------------ the steps of a run */

/* Protects as soon as the events of the context have been read, which somebody else does; -EAGAIN: nobody did. */
static int wait_protected(int context_fd, uintptr_t address, size_t bytes)
{
        int r;

        for (unsigned i = 0; i < RETRY_LIMIT; i++) {
                r = uffd_write_protect(context_fd, address, bytes, true);
                if (r != -EAGAIN)
                        return r;
                pause_briefly();
        }
        return -EAGAIN;
}

static int run_map_pool(struct run *run)
{
        size_t bytes = run->n_pages * PAGE_BYTES;
        void *pool;
        int r;

        if (run->wire->pool_offset > run->client->pool_bytes ||
            bytes > run->client->pool_bytes - run->wire->pool_offset)
                return -EINVAL;
        pool = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, run->client->pool_fd,
                    (off_t)run->wire->pool_offset);
        if (pool == MAP_FAILED)
                return -errno;
        r = (int)error_from(madvise(pool, bytes, MADV_POPULATE_READ));
        if (r >= 0)
                r = uffd_register(run->hold, (uintptr_t)pool, bytes, HOLD_MODES);
        if (r >= 0)
                r = wait_protected(run->hold, (uintptr_t)pool, bytes);
        if (r < 0) {
                munmap(pool, bytes);
                return r;
        }
        run->pool = pool;
        return 0;
}

/* Unmaps the parts of X that did not move into place; the others are no longer ours. */
static void run_unmap_pool(struct run *run)
{
        for (unsigned page = 0, end; run->pool && page < run->n_pages; page = end) {
                end = (unsigned)bitmap_run_end(run->done, page, run->n_pages);
                if (!bitmap_get(run->done, page))
                        munmap(run->pool + page * PAGE_BYTES, (end - page) * PAGE_BYTES);
        }
}

static int run_guard(struct run *run)
{
        size_t bytes = run->n_pages * PAGE_BYTES;
        unsigned char resident[WIRE_RUN_PAGES];
        int r;

        if (recently_removed(run->client, run->address, run->address + bytes))
                return -EBUSY;
        r = (int)error_from(mincore((void *)run->address, bytes, resident));
        if (r < 0)
                return r;
        r = uffd_unregister(context(run, CONTEXT_TRACK), run->address, bytes);
        if (r < 0)
                return r;
        r = uffd_register(context(run, CONTEXT_GUARD), run->address, bytes, UFFDIO_REGISTER_MODE_MISSING);
        if (r < 0)
                (void)!uffd_register(context(run, CONTEXT_TRACK), run->address, bytes,
                                     UFFDIO_REGISTER_MODE_WP);
        return r;
}

static void run_freeze(struct run *run)
{
        unsigned page = 0, retries = 0;

        run->frozen = true;
        while (page < run->n_pages) {
                int64_t moved = uffd_move(context(run, CONTEXT_STAGE), (uintptr_t)staged_page(run, page),
                                          page_address(run, page), (run->n_pages - page) * PAGE_BYTES,
                                          UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES);

                if (moved > 0) {
                        page += (unsigned)((uint64_t)moved / PAGE_BYTES);
                        retries = 0;
                } else if (moved == -EAGAIN && retries++ < MOVE_RETRY_LIMIT) {
                        sched_yield();
                } else {
                        bitmap_set(run->busy, page++);
                        retries = 0;
                }
        }
}

typedef int (*pagemap_surveyor)(int pagemap_fd, uint64_t start, uint64_t end, struct page_region *runs,
                                size_t n_runs, uint64_t *ret_walked);

/* Sets the bits of the pages, from `address` on, that a survey lists. */
static int run_survey(const struct run *run, uintptr_t address, pagemap_surveyor surveyor, run_bitmap listed)
{
        struct page_region found[WIRE_RUN_PAGES / 2 + 1];
        uint64_t walked;
        int n = surveyor(run->client->pagemap_fd, address, address + run->n_pages * PAGE_BYTES, found,
                         ARRAY_SIZE(found), &walked);

        for (int i = 0; i < n; i++)
                for (uint64_t at = found[i].start; at < found[i].end; at += PAGE_BYTES)
                        bitmap_set(listed, (at - address) / PAGE_BYTES);
        return MIN(n, 0);
}

static void run_compare(struct run *run)
{
        static const char zeros[1 << PAGE_SHIFT];
        run_bitmap holes = {0};

        /* A hole in the staging area must not be touched: it would fault into stage, which nobody reads. */
        while (run_survey(run, (uintptr_t)run->client->staging, pagemap_survey_empty, holes) < 0)
                pause_briefly();
        for (unsigned page = 0; page < run->n_pages; page++) {
                const char *expected = run->pool ? run->pool + page * PAGE_BYTES : zeros;

                if (bitmap_get(run->busy, page) || bitmap_get(holes, page))
                        continue;
                bitmap_set(run->staged, page);
                if (!memcmp(staged_page(run, page), expected, PAGE_BYTES))
                        bitmap_set(run->equal, page);
        }
}

/*
 * Puts [page, end) back, whatever it takes: this is the only copy.
 *
 * While guard has an event that nobody has read nothing can be moved. But no event may be read yet: one that
 * says that a page was discarded could hide a fork that came first and is reported later, and the child would
 * not get the page. A copy can be made, through a context that has no events: UFFDIO_COPY does not ask whose
 * the memory is (tests/kernel/foreign_context.c). The page stays in the staging area as well then, for the
 * children. A copy also does if the protection changed or somebody pinned the staged page.
 */
static void run_put_back(struct run *run, unsigned page, unsigned end)
{
        while (page < end) {
                int64_t r;

                if (bitmap_get(run->busy, page)) {
                        page++;
                        continue;
                }
                r = uffd_move(context(run, CONTEXT_GUARD), page_address(run, page),
                              (uintptr_t)staged_page(run, page), PAGE_BYTES,
                              UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES);
                /* From here on it is a hole in the staging area, which nobody may touch. */
                if (r >= 0)
                        bitmap_clear(run->staged, page);
                else if (r != -EEXIST && bitmap_get(run->staged, page))
                        r = uffd_copy(context(run, CONTEXT_STAGE), page_address(run, page),
                                      staged_page(run, page), PAGE_BYTES, 0);
                if (r == -ENOMEM || (r == -EAGAIN && bitmap_get(run->staged, page)))
                        pause_briefly();
                else
                        page++;
        }
}

static void run_put_back_unequal(struct run *run)
{
        for (unsigned page = 0, end; page < run->n_pages; page = end) {
                end = (unsigned)bitmap_run_end(run->equal, page, run->n_pages);
                if (!bitmap_get(run->equal, page))
                        run_put_back(run, page, end);
        }
}

/*
 * Whoever wants private memory in core dumps wants merged memory there, too; but pages of a private file mapping are
 * left out unless bit 2 of the filter is set (core(5)). Children inherit it.
 */
static void complete_core_dumps(void)
{
        _cleanup_fd_ int fd = (int)error_from(open("/proc/self/coredump_filter", O_RDWR | O_CLOEXEC));
        char text[16], *end;
        unsigned long filter;
        ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof(text) - 1, 0);

        if (n <= 0)
                return;
        text[n] = '\0';
        filter = strtoul(text, &end, 16);
        if (!(filter & CORE_ANONYMOUS_PRIVATE) || filter & CORE_FILE_PRIVATE)
                return;
        n = snprintf(text, sizeof(text), "%#lx", filter | CORE_FILE_PRIVATE);
        (void)!pwrite(fd, text, (size_t)n, 0);
}

/*
 * Whether [page, end) still is what can be replaced: the program may have changed its protection since, and that would be
 * lost. Nothing keeps it from doing so between this and the next system call, but the shorter that is, the better.
 */
static bool unchanged(const struct run *run, unsigned page, unsigned end)
{
        uint64_t at = page_address(run, page);
        struct mapping mapping;

        for (; at < page_address(run, end); at = mapping.end) {
                int r = mapping_query(run->client->maps_fd, at, &mapping);

                if (r == -ENOTTY)
                        return true;
                if (r < 0 || mapping.shared || mapping.inode ||
                    mapping.protection != (PROT_READ | PROT_WRITE))
                        return false;
        }
        return true;
}

/* Moves X into place over [page, end); these pages are equal. */
static void run_swap(struct run *run, unsigned page, unsigned end)
{
        size_t bytes = (end - page) * PAGE_BYTES;
        void *target = (void *)page_address(run, page);

        if (!unchanged(run, page, end) || mremap(run->pool + page * PAGE_BYTES, bytes, bytes,
                                                 MREMAP_MAYMOVE | MREMAP_FIXED, target) != target) {
                run_put_back(run, page, end);
                return;
        }
        atomic_store(&run->client->merged_ever, true);
        if (!run->client->dumps_completed)
                complete_core_dumps();
        run->client->dumps_completed = true;
        for (; page < end; page++)
                bitmap_set(run->done, page);
}

static void run_keep_equal(struct run *run)
{
        if (!run->pool) {
                memcpy(run->done, run->equal, sizeof(run->done));
                return;
        }
        for (unsigned page = 0, end; page < run->n_pages; page = end) {
                end = (unsigned)bitmap_run_end(run->equal, page, run->n_pages);
                if (bitmap_get(run->equal, page))
                        run_swap(run, page, end);
        }
}

static void run_thaw(struct run *run)
{
        int guard = context(run, CONTEXT_GUARD);
        int pending;

        for (unsigned page = 0, end; page < run->n_pages; page = end) {
                end = run->pool ? (unsigned)bitmap_run_end(run->done, page, run->n_pages) : run->n_pages;
                if (!run->pool || !bitmap_get(run->done, page))
                        (void)!uffd_unregister(guard, page_address(run, page), (end - page) * PAGE_BYTES);
        }
        (void)!uffd_wake(guard, run->address, run->n_pages * PAGE_BYTES);
        while ((pending = uffd_events_pending(guard)) > 0)
                drain_guard(run->client, run);
        run->frozen = false;
        madvise(run->client->staging, run->n_pages * PAGE_BYTES, MADV_DONTNEED);
        for (unsigned page = 0, end; page < run->n_pages; page = end) {
                end = run->pool ? (unsigned)bitmap_run_end(run->done, page, run->n_pages) : run->n_pages;
                if (!run->pool || !bitmap_get(run->done, page))
                        (void)!uffd_register(context(run, CONTEXT_TRACK), page_address(run, page),
                                             (end - page) * PAGE_BYTES, UFFDIO_REGISTER_MODE_WP);
        }
}

static void run_exchange(struct run *run)
{
        run_freeze(run);
        run_compare(run);
        run_put_back_unequal(run);
        run_keep_equal(run);
        run_thaw(run);
}

/*
 * A batch may be older than the daemon of today, which has given its pages back before they were locked: mapping them now
 * would make pages in slots that are free, and what is stored there next would be the program's.
 */
int run_check_content(const struct wp_client *client, const struct wire_run *wire)
{
        off_t start = (off_t)wire->pool_offset, end = start + (off_t)(wire->n_pages * PAGE_BYTES);
        off_t hole = error_from(lseek(client->pool_fd, start, SEEK_HOLE));

        if (hole < 0)
                return (int)hole;
        return hole < end ? -ESTALE : 0;
}

/* Until the run is mapped the daemon must not give its pages back (kernel/poollock.h). */
static int run_merge_locked(struct run *run)
{
        uint64_t offset = run->wire->pool_offset, bytes = run->n_pages * PAGE_BYTES;
        int r = poollock_set(run->client->pool_fd, F_RDLCK, offset, bytes);

        if (r < 0)
                return r;
        r = run_check_content(run->client, run->wire);
        if (r >= 0)
                r = run_map_pool(run);
        if (r >= 0)
                r = run_guard(run);
        if (r >= 0)
                run_exchange(run);
        run_unmap_pool(run);
        (void)!poollock_set(run->client->pool_fd, F_UNLCK, offset, bytes);
        return r;
}

static int run_merge(struct run *run)
{
        int r;

        if (run->wire->kind == WIRE_RUN_MERGE)
                return run_merge_locked(run);
        r = run_guard(run);
        if (r >= 0)
                run_exchange(run);
        return r;
}

/* ------------------------------------------------------------------ giving back */

/*
 * Protects again what still is the pool's own of [page, end). What is a copy must not be protected: that would be
 * a fault for nothing, and an event that did not happen.
 */
static void run_protect_pooled(struct run *run, unsigned page, unsigned end)
{
        struct page_region pooled[WIRE_RUN_PAGES / 2 + 1];
        uint64_t walked;
        int n = pagemap_survey_file(run->client->pagemap_fd, page_address(run, page), page_address(run, end),
                                    pooled, ARRAY_SIZE(pooled), &walked);

        for (int i = 0; i < n; i++)
                (void)!wait_protected(run->hold, pooled[i].start, pooled[i].end - pooled[i].start);
}

/*
 * Memory with the same flags as that of its region, so that it becomes one mapping with its neighbours again, and keeps
 * what the program asked for.
 */
static void *map_like(const struct client_kept *kept, size_t bytes)
{
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | (kept->flags & WIRE_KEPT_NORESERVE ? MAP_NORESERVE : 0);
        void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);

        if (memory == MAP_FAILED)
                return NULL;
        if (kept->flags & WIRE_KEPT_HUGEPAGE)
                (void)!madvise(memory, bytes, MADV_HUGEPAGE);
        if (kept->flags & WIRE_KEPT_NOHUGEPAGE)
                (void)!madvise(memory, bytes, MADV_NOHUGEPAGE);
        if (kept->name[0])
                (void)!prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, memory, bytes, kept->name);
        return memory;
}

/* Maps the zero page into [start, end), where nothing is; what is there by now, or cannot be, is passed over. */
static void fill_with_zeros(struct run *run, uint64_t start, uint64_t end)
{
        while (start < end) {
                int64_t r;

                /* A page that was discarded under protection leaves a marker. */
                r = uffd_write_protect(run->hold, start, end - start, false);
                if (r >= 0)
                        r = uffd_zeropage(run->hold, start, end - start);
                if (r == -EAGAIN)
                        pause_briefly();
                else
                        start += r > 0 ? (uint64_t)r : PAGE_BYTES;
        }
}

/*
 * Pages that the program has discarded read as zeros because hold or lazy says so. Before these are left, there must be
 * zeros in place: else a read in between would find the pool's page, and the kernel maps neighbours along.
 */
static void run_fill_empty(struct run *run)
{
        struct page_region present[WIRE_RUN_PAGES / 2 + 1];
        uint64_t at = run->address, end = run->address + run->n_pages * PAGE_BYTES, walked;
        int n = pagemap_survey_present(run->client->pagemap_fd, at, end, present, ARRAY_SIZE(present),
                                       &walked);

        for (int i = 0; i < n; i++) {
                fill_with_zeros(run, at, present[i].start);
                at = present[i].end;
        }
        if (n >= 0)
                fill_with_zeros(run, at, end);
}

/* Whether there is something in every page: nothing was discarded since run_fill_empty(). */
static bool run_populated(const struct run *run)
{
        struct page_region present;
        uint64_t end = run->address + run->n_pages * PAGE_BYTES, walked;

        return pagemap_survey_present(run->client->pagemap_fd, run->address, end, &present, 1, &walked) ==
                       1 &&
               present.start == run->address && present.end == end;
}

/* A private copy of the run as it reads now. A page that is discarded at this moment makes it begin again. */
static int run_copy(struct run *run, char **ret_copy)
{
        size_t bytes = run->n_pages * PAGE_BYTES;
        char *copy = map_like(&run->kept, bytes);
        int r;

        if (!copy)
                return -ENOMEM;
        do
                r = (int)error_from(madvise(copy, bytes, MADV_POPULATE_WRITE));
        while (r == -EINTR || r == -EAGAIN);
        if (r < 0) {
                munmap(copy, bytes);
                return -ENOMEM;
        }
        for (unsigned i = 0; i < COPY_ATTEMPTS; i++) {
                run_fill_empty(run);
                /* Not by reading it ourselves: against the contract, it may have been unmapped. */
                if (pread(run->client->mem_fd, copy, bytes, (off_t)run->address) == (ssize_t)bytes) {
                        *ret_copy = copy;
                        return 0;
                }
        }
        munmap(copy, bytes);
        return -EFAULT;
}

/*
 * It may have been merged when its region was registered with other flags, or under an earlier registration: then it is in the
 * other context, which registering says (tests/kernel/register_conflict.c).
 */
static int run_leave_hold(struct run *run)
{
        size_t bytes = run->n_pages * PAGE_BYTES;

        if (uffd_register(run->hold, run->address, bytes, HOLD_MODES) == -EBUSY)
                run->hold =
                        context(run, run->hold == context(run, CONTEXT_HOLD) ? CONTEXT_LAZY : CONTEXT_HOLD);
        return uffd_unregister(run->hold, run->address, bytes);
}

/*
 * Under guard, which nobody serves until the run is thawed, whoever writes waits. A fork may come to guard only after the
 * watcher has read hold's event: it is let go on meanwhile. Nothing is protected yet that it could unprotect.
 */
static int run_guard_merged(struct run *run)
{
        size_t bytes = run->n_pages * PAGE_BYTES;
        int guard = context(run, CONTEXT_GUARD), r;

        r = uffd_register(guard, run->address, bytes, HOLD_MODES);
        while (r >= 0 && (r = uffd_write_protect(guard, run->address, bytes, true)) == -EAGAIN) {
                drain_guard(run->client, run);
                pthread_mutex_unlock(&run->client->serving);
                pause_briefly();
                pthread_mutex_lock(&run->client->serving);
                r = 0;
        }
        return r;
}

/* Guard pages (MADV_GUARD_INSTALL) are neither content nor empty: they stay where they are. */
static void run_find_guard_pages(struct run *run)
{
        uint64_t entries[WIRE_RUN_PAGES];
        size_t bytes = run->n_pages * sizeof(entries[0]);

        if (pread(run->client->pagemap_fd, entries, bytes,
                  (off_t)(run->address / PAGE_BYTES * sizeof(entries[0]))) != (ssize_t)bytes)
                return;
        for (unsigned page = 0; page < run->n_pages; page++)
                if (entries[page] & ENTRY_GUARD) {
                        bitmap_clear(run->equal, page);
                        bitmap_set(run->busy, page);
                }
}

/*
 * Which pages are the pool's own, which are empty, and which have been copied. What is being migrated is none of these for a
 * moment, which is waited for; what is swapped out remains unknown, and so does what was discarded under protection, unless
 * that was heard of.
 */
static int run_tell_apart(const struct run *run, run_bitmap pooled, run_bitmap empty, run_bitmap copied)
{
        for (unsigned attempt = 1;; attempt++) {
                unsigned known = 0;
                int r = run_survey(run, run->address, pagemap_survey_copied, copied);

                if (r >= 0)
                        r = run_survey(run, run->address, pagemap_survey_file, pooled);
                if (r >= 0)
                        r = run_survey(run, run->address, pagemap_survey_zero, empty);
                if (r >= 0)
                        r = run_survey(run, run->address, pagemap_survey_empty, empty);
                while (known < run->n_pages && (bitmap_get(copied, known) || bitmap_get(pooled, known) ||
                                                bitmap_get(empty, known) || bitmap_get(run->removed, known)))
                        known++;
                if (r < 0 || known == run->n_pages || attempt == SETTLE_ATTEMPTS)
                        return r;
                pause_briefly();
        }
}

/*
 * Says in `equal` which pages can be replaced: those that are the pool's own, whose content is in the copy and cannot
 * change, and those that are empty or were discarded, which read as zeros. It takes a sign that a page is that. What is a
 * copy by now may be the target of DMA, and what is not known may be a copy: all that stays where it is.
 */
static int run_find_replaceable(struct run *run, char *copy)
{
        run_bitmap pooled = {0}, empty = {0}, copied = {0};
        int r = run_tell_apart(run, pooled, empty, copied);

        if (r < 0)
                return r;
        for (unsigned page = 0; page < run->n_pages; page++) {
                bool zeros = bitmap_get(empty, page) || bitmap_get(run->removed, page);

                if (bitmap_get(copied, page) || !(zeros || bitmap_get(pooled, page))) {
                        bitmap_set(run->busy, page);
                        continue;
                }
                bitmap_set(run->equal, page);
                if (zeros)
                        madvise(copy + page * PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED);
        }
        run_find_guard_pages(run);
        return 0;
}

/* Moves the copy into place where that is possible. */
static void run_replace(struct run *run, char *copy)
{
        for (unsigned page = 0, end; page < run->n_pages; page = end) {
                size_t bytes;

                end = (unsigned)bitmap_run_end(run->equal, page, run->n_pages);
                bytes = (end - page) * PAGE_BYTES;
                if (!bitmap_get(run->equal, page) ||
                    mremap(copy + page * PAGE_BYTES, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
                           (void *)page_address(run, page)) == MAP_FAILED) {
                        munmap(copy + page * PAGE_BYTES, bytes);
                        continue;
                }
                for (unsigned i = page; i < end; i++)
                        bitmap_set(run->done, i);
        }
}

/* What was replaced comes under track, the rest back under hold or lazy, as it was. */
static void run_settle(struct run *run)
{
        for (unsigned page = 0, end; page < run->n_pages; page = end) {
                uintptr_t address = page_address(run, page);
                size_t bytes;

                end = (unsigned)bitmap_run_end(run->done, page, run->n_pages);
                bytes = (end - page) * PAGE_BYTES;
                if (bitmap_get(run->done, page)) {
                        (void)!uffd_register(context(run, CONTEXT_TRACK), address, bytes,
                                             UFFDIO_REGISTER_MODE_WP);
                        continue;
                }
                (void)!uffd_unregister(context(run, CONTEXT_GUARD), address, bytes);
                if (uffd_register(run->hold, address, bytes, HOLD_MODES) >= 0)
                        run_protect_pooled(run, page, end);
        }
}

/*
 * Makes a merged run ordinary anonymous memory again.
 *
 * The content is copied first; it cannot change as long as a page is the pool's own. Then the run is frozen -
 * from hold to guard -, and what still is the pool's own is replaced by the copy. Pages that were written
 * meanwhile or long ago are private already, and somebody may have them pinned for DMA: they stay, in a
 * mapping that remains one of the pool.
 *
 * The watcher answers nothing meanwhile. Had it read a fault before, and answered it only now, it would take guard's
 * protection away, since UFFDIO_WRITEPROTECT does not ask whose the memory is (tests/kernel/foreign_context.c).
 *
 * A REMOVE event that was read means that the page is to be zeros; one that was not read keeps its caller
 * waiting, and then it discards what is in place by then. Between leaving hold and entering guard, and between leaving
 * guard and being back under hold, nobody watches for some microseconds: a page that is discarded just before, or in
 * that moment, *and* read in it would come back with its old content. That is why memory is given back only when
 * the program asks for it.
 */
static int run_unmerge(struct run *run)
{
        char *copy = NULL;
        int r = -EAGAIN;

        for (unsigned i = 0; i < COPY_ATTEMPTS && r == -EAGAIN; i++) {
                r = run_copy(run, &copy);
                if (r < 0)
                        return r;
                pthread_mutex_lock(&run->client->serving);
                r = run_populated(run) ? run_leave_hold(run) : -EAGAIN;
                if (r < 0) {
                        pthread_mutex_unlock(&run->client->serving);
                        munmap(copy, run->n_pages * PAGE_BYTES);
                }
        }
        if (r < 0)
                return r;
        r = run_guard_merged(run);
        if (r >= 0) {
                drain_guard(run->client, run);
                r = run_find_replaceable(run, copy);
        }
        if (r < 0)
                memset(run->equal, 0, sizeof(run->equal));
        run_replace(run, copy);
        pthread_mutex_unlock(&run->client->serving);
        run_settle(run);
        (void)!uffd_wake(context(run, CONTEXT_GUARD), run->address, run->n_pages * PAGE_BYTES);
        while (uffd_events_pending(context(run, CONTEXT_GUARD)) > 0)
                drain_guard(run->client, run);
        return r;
}

/* ------------------------------------------------------------------ what may be done at all */

static bool excluded(const struct wp_region *region, const struct wire_run *wire)
{
        size_t first = (wire->address - region->start) / PAGE_BYTES;

        for (size_t page = first; region->excluded && page < first + wire->n_pages; page++)
                if (atomic_load(&region->excluded[page / 64]) >> (page % 64) & 1)
                        return true;
        return false;
}

/*
 * The program decides which of its memory is touched, whatever the daemon says: a run must lie in a region, and
 * nothing of it may be excluded unless it is given back. Says also how the region's writes are to be served.
 */
static int run_permitted(struct wp_client *client, const struct wire_run *wire, bool *ret_notify,
                         struct wp_region **ret_region)
{
        struct wp_region *region;
        int r = 0;

        if (protect_touches(client, wire->address, wire->n_pages * PAGE_BYTES))
                return -EBUSY;
        pthread_mutex_lock(&client->lock);
        region = client_region_at(client, wire->address);
        if (!region || region->length - (wire->address - region->start) < wire->n_pages * PAGE_BYTES)
                r = -EFAULT;
        else if (wire->kind != WIRE_RUN_UNMERGE && (region->leaving || excluded(region, wire)))
                r = -EBUSY;
        /* Until the caller of wp_register() knows it, too, nobody knows what its memory has. */
        else if ((wire->kind == WIRE_RUN_FILE || wire->kind == WIRE_RUN_ALIAS) && !region->joined)
                r = -EBUSY;
        if (r >= 0) {
                *ret_notify = region->flags & WP_NOTIFY;
                *ret_region = region;
        }
        pthread_mutex_unlock(&client->lock);
        return r;
}

/* What is merged can be left alone after a discard; what is to be given back has to wait (trap T3). */
static void run_await_quiet(const struct run *run)
{
        while (recently_removed(run->client, run->address, run->address + run->n_pages * PAGE_BYTES)) {
                drain_guard(run->client, NULL);
                pause_briefly();
        }
}

void run_execute(struct wp_client *client, const struct wire_run *wire, struct wire_run_result *result)
{
        struct run run = {.client = client, .wire = wire, .address = wire->address, .n_pages = wire->n_pages};
        struct wp_region *region = NULL;
        bool notify = false;

        result->error = run_permitted(client, wire, &notify, &region);
        if (result->error < 0)
                return;
        if (wire->kind == WIRE_RUN_FILE || wire->kind == WIRE_RUN_ALIAS || region->file) {
                pthread_mutex_lock(&client->running);
                result->error = wire->kind == WIRE_RUN_UNMERGE ? filerun_restore(client, region, wire, result)
                                                               : filerun_merge(client, region, wire, result);
                pthread_mutex_unlock(&client->running);
                return;
        }
        run.kept = region->kept;
        run.hold = context(&run, notify ? CONTEXT_HOLD : CONTEXT_LAZY);
        if (wire->kind == WIRE_RUN_UNMERGE)
                run_await_quiet(&run);
        pthread_mutex_lock(&client->running);
        result->error = wire->kind == WIRE_RUN_UNMERGE ? run_unmerge(&run) : run_merge(&run);
        pthread_mutex_unlock(&client->running);
        memcpy(result->done, run.done, sizeof(result->done));
        memcpy(result->busy, run.busy, sizeof(result->busy));
}

int run_prepare(struct wp_client *client)
{
        size_t bytes = WIRE_RUN_PAGES * PAGE_BYTES;

        client->staging = client_map(bytes);
        if (!client->staging)
                return -ENOMEM;
        if (madvise(client->staging, bytes, MADV_DONTFORK) < 0)
                return -errno;
        return uffd_register(client->context_fds[CONTEXT_STAGE], (uintptr_t)client->staging, bytes,
                             UFFDIO_REGISTER_MODE_MISSING);
}

void run_release(struct wp_client *client)
{
        client_unmap(client->staging, WIRE_RUN_PAGES * PAGE_BYTES);
        client->staging = NULL;
}
