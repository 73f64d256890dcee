/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The agent: carries out the merge protocol inside the process whose memory it is
 *
 * Theory of operation
 *
 * Only the owner of an address space can change its mappings, so the daemon plans and the agent acts: it
 * receives batches of runs, carries out each run by itself, and sends one result. Nothing waits for the
 * daemon inside a run. A run becomes a private mapping of canonical pages of the pool file: reads share the
 * physical page, a write is copied by the kernel.
 *
 * Contexts (userfaultfds of this process; the daemon holds track and hold, too)
 *   track  on everything not merged: asynchronous write protection, read by the daemon's PAGEMAP_SCAN
 *   guard  on one run while it is frozen: MISSING; with REMOVE and FORK events; read here only
 *   stage  on the staging area: MISSING, so that UFFDIO_MOVE into it is allowed; never faults, has no events
 *   hold   on merged runs: synchronous write protection, and MINOR for pages that the program discards
 *
 * One run [a, a+n):
 *   1. Map the pool's run elsewhere (X), populate it, register it with hold and protect it.
 *   2. mincore(a): no holes in the mappings, since REGISTER would skip them and MOVE not notice (trap T1).
 *   3. From track to guard.
 *   4. Freeze: UFFDIO_MOVE every page to the staging area. Whoever touches the run now waits in a MISSING
 *      fault. A page that is pinned for DMA or shared with a forked child is -EBUSY: it stays where it is.
 *   5. Compare staging with X. This is the only thing that decides; fingerprints are hints.
 *   6. What differs goes back where it was.
 *   7. What is equal: mremap(X -> a). Mapping, page tables, registration and protection appear at once.
 *   8. Unregister guard, wake who waits.
 *   9. Read guard's events until none is pending. A child forked while the run was frozen lacks the staged
 *      pages: they are copied into it through its own copy of guard.
 *  10. Discard the staging area; back to track with what stayed anonymous.
 * A run of zeros is the same without X: the equal pages are simply not put back.
 *
 * Why no byte can be lost: from 4 on the only copy of a page is in the staging area or back in place; a page
 * leaves the staging area only into its place (6), or after the same content was mapped there (7), or because
 * the program discarded it (a REMOVE event: it wants zeros). The events that matter block their callers until
 * they are read here, and calls on guard fail with -EAGAIN until then.
 *
 * Trap T3: reading a REMOVE event lets its caller go on, and only then it discards. A run frozen at that very
 * moment would bring the content back. So a range with a recent REMOVE event is left alone for a while.
 */

#include "libwp/client.h"

#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "kernel/hold.h"
#include "kernel/pagemap.h"
#include "kernel/uffd.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define REMOVED_QUARANTINE_NS (300 * NSEC_PER_MSEC)
#define RETRY_PAUSE_NS        (50 * NSEC_PER_USEC)
#define RETRY_LIMIT           20000 /* pauses: a second; only for steps that can still be given up */
#define MOVE_RETRY_LIMIT      64
#define GUARD_MESSAGES        16
#define FORK_DEPTH            16

typedef uint64_t run_bitmap[BITMAP_WORDS(WIRE_RUN_PAGES)];

/* One run while it is carried out. */
struct run {
        struct wp_client *client;
        const struct wire_run *wire;
        uintptr_t address;
        unsigned n_pages;
        char *pool;         /* X; NULL for a run of zeros */
        bool frozen;        /* the staging area holds pages of this run */
        run_bitmap busy;    /* could not be moved: still in place */
        run_bitmap staged;  /* content is in the staging area */
        run_bitmap equal;   /* staged, and equal to the pool or to zeros */
        run_bitmap removed; /* discarded by the program while it was frozen */
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

static void complete_child(const struct run *run, int child_fd, unsigned depth);

/* Reads the events of a child's copy of guard, so that copying into it can go on. */
static void drain_child(const struct run *run, int child_fd, run_bitmap removed, unsigned depth)
{
        struct uffd_msg messages[GUARD_MESSAGES];
        int n = uffd_read(child_fd, messages, GUARD_MESSAGES);

        for (int i = 0; i < n; i++) {
                if (messages[i].event == UFFD_EVENT_FORK)
                        complete_child(run, (int)messages[i].arg.fork.ufd, depth + 1);
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
 * Gives a child that was forked while the run was frozen the pages that it lacks, and closes its copy of
 * guard, which unregisters the memory and wakes whoever waits there. Pages that it has already are EEXIST,
 * those merged before the fork ENOENT: both are fine.
 */
static void complete_child(const struct run *run, int child_fd, unsigned depth)
{
        run_bitmap removed;
        unsigned page = 0;

        if (child_fd < 0)
                return;
        memcpy(removed, run->removed, sizeof(removed));
        while (run->frozen && depth < FORK_DEPTH && page < run->n_pages) {
                int r = 0;

                if (bitmap_get(run->staged, page) && !bitmap_get(removed, page))
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
        struct uffd_msg messages[GUARD_MESSAGES];
        int n;

        while ((n = uffd_read(client->context_fds[CONTEXT_GUARD], messages, GUARD_MESSAGES)) > 0)
                for (int i = 0; i < n; i++) {
                        const struct uffd_msg *message = &messages[i];

                        /* Page faults are answered by what follows them: put back, swapped in, or woken. */
                        if (message->event == UFFD_EVENT_REMOVE)
                                note_removed(client, run, message->arg.remove.start, message->arg.remove.end);
                        else if (message->event == UFFD_EVENT_FORK)
                                complete_child(run ? run : &no_run, (int)message->arg.fork.ufd, 0);
                }
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
        int hold = context(run, CONTEXT_HOLD);
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
                r = uffd_register(hold, (uintptr_t)pool, bytes,
                                  UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MINOR);
        if (r >= 0)
                r = wait_protected(hold, (uintptr_t)pool, bytes);
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

static void run_compare(struct run *run)
{
        static const char zeros[1 << PAGE_SHIFT];
        unsigned char resident[WIRE_RUN_PAGES];

        /* A hole in the staging area must not be touched: it would fault into stage, which nobody reads. */
        if (mincore(run->client->staging, run->n_pages * PAGE_BYTES, resident) < 0)
                memset(resident, 0, sizeof(resident));
        for (unsigned page = 0; page < run->n_pages; page++) {
                const char *expected = run->pool ? run->pool + page * PAGE_BYTES : zeros;

                if (bitmap_get(run->busy, page) || !(resident[page] & 1))
                        continue;
                bitmap_set(run->staged, page);
                if (!memcmp(staged_page(run, page), expected, PAGE_BYTES))
                        bitmap_set(run->equal, page);
        }
}

/* Puts [page, end) back, whatever it takes: this is the only copy. */
static void run_put_back(struct run *run, unsigned page, unsigned end)
{
        int guard = context(run, CONTEXT_GUARD);

        while (page < end) {
                int64_t moved;

                if (bitmap_get(run->busy, page) || bitmap_get(run->removed, page)) {
                        page++;
                        continue;
                }
                moved = uffd_move(guard, page_address(run, page), (uintptr_t)staged_page(run, page),
                                  PAGE_BYTES, UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES);
                /* Its protection changed, or somebody pinned the staged page: a copy does as well. */
                if (moved < 0 && moved != -EAGAIN && moved != -EEXIST && bitmap_get(run->staged, page))
                        moved = uffd_copy(guard, page_address(run, page), staged_page(run, page), PAGE_BYTES,
                                          0);
                if (moved == -EAGAIN) {
                        drain_guard(run->client, run);
                } else if (moved == -ENOMEM) {
                        pause_briefly();
                } else {
                        /* From here on it is a hole in the staging area, which nobody may touch. */
                        if (moved != -EEXIST)
                                bitmap_clear(run->staged, page);
                        page++;
                }
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

/* Moves X into place over [page, end); these pages are equal. */
static void run_swap(struct run *run, unsigned page, unsigned end)
{
        size_t bytes = (end - page) * PAGE_BYTES;
        void *target = (void *)page_address(run, page);

        if (mremap(run->pool + page * PAGE_BYTES, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, target) !=
            target) {
                run_put_back(run, page, end);
                return;
        }
        atomic_store(&run->client->merged_ever, true);
        for (; page < end; page++)
                bitmap_set(run->done, page);
}

static void run_keep_equal(struct run *run)
{
        /* What the program discarded while it was frozen is not brought back. */
        for (size_t i = 0; i < ARRAY_SIZE(run->equal); i++)
                run->equal[i] &= ~run->removed[i];
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

static int run_merge(struct run *run)
{
        int r = 0;

        if (run->wire->kind == WIRE_RUN_MERGE)
                r = run_map_pool(run);
        if (r >= 0)
                r = run_guard(run);
        if (r >= 0) {
                run_freeze(run);
                run_compare(run);
                run_put_back_unequal(run);
                run_keep_equal(run);
                run_thaw(run);
        }
        run_unmap_pool(run);
        return r;
}

/* ------------------------------------------------------------------ giving back */

/*
 * A private copy of the run as it reads now. Reading a discarded page waits for whoever serves hold, as for
 * anybody.
 */
static int run_copy(struct run *run, char **ret_copy)
{
        size_t bytes = run->n_pages * PAGE_BYTES;
        char *copy = client_map(bytes);
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
        memcpy(copy, (void *)run->address, bytes);
        *ret_copy = copy;
        return 0;
}

/* Back under hold, as it was. */
static void run_hold(struct run *run, unsigned page, unsigned end, bool protect)
{
        int hold = context(run, CONTEXT_HOLD);
        size_t bytes = (end - page) * PAGE_BYTES;

        if (uffd_register(hold, page_address(run, page), bytes,
                          UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MINOR) >= 0 &&
            protect)
                (void)!wait_protected(hold, page_address(run, page), bytes);
}

/* From hold to guard, which nobody serves until the run is thawed: whoever writes now waits. */
static int run_guard_merged(struct run *run)
{
        size_t bytes = run->n_pages * PAGE_BYTES;
        int guard = context(run, CONTEXT_GUARD), r;

        r = uffd_unregister(context(run, CONTEXT_HOLD), run->address, bytes);
        if (r < 0)
                return r;
        r = uffd_register(guard, run->address, bytes, UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MINOR);
        while (r >= 0 && (r = uffd_write_protect(guard, run->address, bytes, true)) == -EAGAIN) {
                drain_guard(run->client, run);
                r = 0;
        }
        if (r < 0) {
                (void)!uffd_unregister(guard, run->address, bytes);
                run_hold(run, 0, run->n_pages, true);
        }
        return r;
}

/*
 * Says in `equal` which pages can be replaced: those that are the pool's own, whose content is in the copy
 * and cannot change, and those that are empty, which read as zeros. What is a copy by now may be the target
 * of DMA: it stays where it is.
 */
static int run_find_replaceable(struct run *run, char *copy)
{
        struct page_region copied[WIRE_RUN_PAGES / 2 + 1], pooled[WIRE_RUN_PAGES / 2 + 1];
        uint64_t end = run->address + run->n_pages * PAGE_BYTES, walked;
        run_bitmap filled = {0};
        int n, m;

        n = pagemap_survey_copied(run->client->pagemap_fd, run->address, end, copied, ARRAY_SIZE(copied),
                                  &walked);
        m = pagemap_survey_pooled(run->client->pagemap_fd, run->address, end, pooled, ARRAY_SIZE(pooled),
                                  &walked);
        if (n < 0 || m < 0)
                return n < 0 ? n : m;
        memset(run->equal, 0xff, sizeof(run->equal));
        for (int i = 0; i < n; i++)
                for (uint64_t at = copied[i].start; at < copied[i].end; at += PAGE_BYTES) {
                        bitmap_clear(run->equal, (at - run->address) / PAGE_BYTES);
                        bitmap_set(run->busy, (at - run->address) / PAGE_BYTES);
                }
        for (int i = 0; i < m; i++)
                for (uint64_t at = pooled[i].start; at < pooled[i].end; at += PAGE_BYTES)
                        bitmap_set(filled, (at - run->address) / PAGE_BYTES);
        for (unsigned page = 0; page < run->n_pages; page++)
                if (!bitmap_get(filled, page) || bitmap_get(run->removed, page))
                        madvise(copy + page * PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED);
        return 0;
}

/* Moves the copy into place where that is possible, and puts the rest back under hold. */
static void run_replace(struct run *run, char *copy)
{
        int guard = context(run, CONTEXT_GUARD);

        for (unsigned page = 0, end; page < run->n_pages; page = end) {
                size_t bytes;

                end = (unsigned)bitmap_run_end(run->equal, page, run->n_pages);
                bytes = (end - page) * PAGE_BYTES;
                if (bitmap_get(run->equal, page) &&
                    mremap(copy + page * PAGE_BYTES, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
                           (void *)page_address(run, page)) != MAP_FAILED) {
                        for (unsigned i = page; i < end; i++)
                                bitmap_set(run->done, i);
                        (void)!uffd_register(context(run, CONTEXT_TRACK), page_address(run, page), bytes,
                                             UFFDIO_REGISTER_MODE_WP);
                        continue;
                }
                munmap(copy + page * PAGE_BYTES, bytes);
                (void)!uffd_unregister(guard, page_address(run, page), bytes);
                run_hold(run, page, end, bitmap_get(run->equal, page));
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
 * A REMOVE event that was read means that the page is to be zeros; one that was not read keeps its caller
 * waiting, and then it discards what is in place by then. Between leaving hold and entering guard nobody
 * watches for some microseconds: a page that is discarded *and* read again in that moment would come back
 * with its old content.
 */
static int run_unmerge(struct run *run)
{
        char *copy;
        int r;

        r = run_copy(run, &copy);
        if (r < 0)
                return r;
        r = run_guard_merged(run);
        if (r < 0) {
                munmap(copy, run->n_pages * PAGE_BYTES);
                return r;
        }
        drain_guard(run->client, run);
        if (run_find_replaceable(run, copy) < 0)
                memset(run->equal, 0, sizeof(run->equal));
        run_replace(run, copy);
        (void)!uffd_wake(context(run, CONTEXT_GUARD), run->address, run->n_pages * PAGE_BYTES);
        while (uffd_events_pending(context(run, CONTEXT_GUARD)) > 0)
                drain_guard(run->client, run);
        return 0;
}

static void run_execute(struct wp_client *client, const struct wire_run *wire, struct wire_run_result *result)
{
        struct run run = {.client = client, .wire = wire, .address = wire->address, .n_pages = wire->n_pages};

        result->error = wire->kind == WIRE_RUN_UNMERGE ? run_unmerge(&run) : run_merge(&run);
        memcpy(result->done, run.done, sizeof(result->done));
        memcpy(result->busy, run.busy, sizeof(result->busy));
}

/* ------------------------------------------------------------------ the thread */

static void handle_batch(struct wp_client *client, const struct wire_batch *batch)
{
        struct wire_result *result = (struct wire_result *)client->outbox;
        size_t size = sizeof(*result) + batch->n_runs * sizeof(result->runs[0]);

        memset(result, 0, size);
        wire_init(result, WIRE_RESULT, size, batch->header.serial);
        result->n_runs = batch->n_runs;
        for (uint32_t i = 0; i < batch->n_runs; i++)
                run_execute(client, &batch->runs[i], &result->runs[i]);
        /* When the daemon is gone nobody wants the result. */
        (void)!wire_send(client->socket_fd, result, NULL, 0, true);
}

static bool handle_message(struct wp_client *client)
{
        const struct wire_header *header = (const struct wire_header *)client->inbox;
        int fds[WIRE_MAX_FDS];
        unsigned n_fds = 0;
        const char *reason;
        int r;

        r = wire_receive(client->socket_fd, client->inbox, fds, &n_fds, false);
        if (r == -EAGAIN)
                return true;
        if (r <= 0)
                return false;
        if (wire_check(client->inbox, (size_t)r, n_fds, WIRE_FROM_DAEMON, &reason) < 0) {
                for (unsigned i = 0; i < n_fds; i++)
                        close(fds[i]);
                shutdown(client->socket_fd, SHUT_RDWR);
                return false;
        }
        if (header->type == WIRE_REPLY)
                client_replied(client, (const struct wire_reply *)client->inbox);
        else if (header->type == WIRE_BATCH)
                handle_batch(client, (const struct wire_batch *)client->inbox);
        else if (header->type == WIRE_CHILD)
                client_add_child(client, fds[0]);
        return true;
}

/*
 * Between runs guard is read as well: a caller may have met the guarded run and queue its event only now
 * (trap T7). That goes on for as long as the client lives, daemon or not.
 */
void *agent_main(void *argument)
{
        struct wp_client *client = argument;
        struct pollfd polled[] = {
                {.fd = client->agent_stop_fd, .events = POLLIN},
                {.fd = client->context_fds[CONTEXT_GUARD], .events = POLLIN},
                {.fd = client->socket_fd, .events = POLLIN},
        };

        while (!polled[0].revents) {
                if (poll(polled, ARRAY_SIZE(polled), -1) < 0)
                        continue;
                if (polled[1].revents)
                        drain_guard(client, NULL);
                if (polled[2].revents && !handle_message(client)) {
                        client_hung_up(client);
                        polled[2].fd = -1;
                        polled[2].revents = 0;
                }
        }
        return NULL;
}

int agent_prepare(struct wp_client *client)
{
        size_t bytes = WIRE_RUN_PAGES * PAGE_BYTES;

        client->staging = client_map(bytes);
        if (!client->staging)
                return -ENOMEM;
        if (madvise(client->staging, bytes, MADV_DONTFORK) < 0)
                return -errno;
        (void)!madvise(client->staging, bytes, MADV_NOHUGEPAGE); /* EINVAL: a kernel without huge pages */
        return uffd_register(client->context_fds[CONTEXT_STAGE], (uintptr_t)client->staging, bytes,
                             UFFDIO_REGISTER_MODE_MISSING);
}

void agent_release(struct wp_client *client)
{
        client_unmap(client->staging, WIRE_RUN_PAGES * PAGE_BYTES);
        client->staging = NULL;
}
