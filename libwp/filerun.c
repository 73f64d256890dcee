/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * File runs: mappings of files that come to map canonical pages, and go back to their file
 *
 * Theory of operation
 *
 * The content of such a page is the file's, unless the program has a copy of its own, and the daemon has seen to it that the file
 * does not change (it holds a lease). Where the mapping is writable the program has promised not to write just now.
 * So nothing has to be frozen while a run is compared: a mapping of the pool with the same content takes the place of the
 * file's, in one mremap(2). What has to be possible at any moment is the way back, exactly: the same file, of
 * which this process may have no descriptor any more, at the same place, with the same flags. So before a run is replaced its
 * mapping is doubled: mremap(2) with MREMAP_DONTUNMAP moves the page tables to a second mapping of the same file, the
 * *shadow*, and leaves the first one, which fills itself again from the file (tests/kernel/remap_file.c). Each region has
 * a shadow of its own size, of which the parts that were never merged are reserved addresses and no more. The way back
 * is the same call in the other direction. The shadow is empty but for moments, so that nobody maps the file's pages.
 *
 * One run [a, a+n):
 *   1. Pages that the program has a private copy of are left alone, as far as they are known.
 *   2. Double the rest. A copy that was made just now has moved along: then the part goes back at once, with it.
 *   3. Compare the shadow with X, a read-only mapping of the pool. It is read through /proc/self/mem, which fails where a load
 *      would be a SIGBUS: if it is not the file any more that the daemon believes it to be.
 *   4. What is equal: mremap(X -> a).
 *   5. Empty the shadow.
 *
 * The way back: pages that were made writable and written meanwhile are private copies in a mapping of the pool. They are the
 * program's, whatever becomes of the file, and become copies in the file's mapping. So that none is made or changed between
 * looking for them and the mremap(2), writers are held by watch for that long (protect.c says what that context is otherwise
 * for), and go on in the file's mapping. Until then the daemon keeps the pool's page.
 *
 * A mapping of the pool has no use for the contexts that serve other merged memory: it is not written, and a page that is
 * discarded comes from the pool again with the content that the file has.
 *
 * An *alias* is the same with another file in the place of the pool, on which the daemon has a lease as well: its pages can go
 * when memory is short, and nothing is copied. But writers to mappings of regular files cannot be held: what is written in the very
 * moment in which it goes back, to a page that was made writable, may be lost.
 *
 * A child would map the pool's pages without anybody knowing of it, since the kernel copies no page tables of such mappings, and
 * would see what is written to the other file of an alias. So what is merged is not copied into children (MADV_DONTFORK). One that
 * fork(3) makes puts back the file's mappings before it does anything else; before that the parent has put back those pages
 * of which it has private copies. One of a raw clone(2) has nothing there.
 *
 * The lease outlasts the daemon, since we have descriptors that share it: who wants to write waits until they are closed, and
 * they are when everything has gone back to its file, which it does when the connection ends. It goes back, too, if somebody
 * has been waiting for a daemon that is stopped. Only after the kernel's patience (lease-break-time) he need not wait any more.
 */

#include "libwp/client.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "kernel/mapping.h"
#include "kernel/pagemap.h"
#include "kernel/poollock.h"
#include "kernel/uffd.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define RETRY_PAUSE_NS (50 * NSEC_PER_USEC)
#define HUGE_BYTES     ((uintptr_t)2 << 20)

struct file_run {
        struct wp_client *client;
        struct wp_region *region;
        uintptr_t address;
        unsigned n_pages;
        char *source;   /* X, page for page; the parts that have moved are no longer ours */
        uint64_t *done; /* as in struct wire_run_result */
        uint64_t *busy;
};

static uintptr_t page_address(const struct file_run *run, unsigned page)
{
        return run->address + page * PAGE_BYTES;
}

static char *shadow_page(const struct file_run *run, unsigned page)
{
        return run->region->shadow + (run->address - run->region->start) + page * PAGE_BYTES;
}

static bool remap(void *from, void *to, size_t bytes, int flags)
{
        return mremap(from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED | flags, to) == to;
}

/* Clears the bits of the pages, from `start` on, that a survey lists. */
static bool clear_listed(const struct file_run *run, const void *start, unsigned n_pages,
                         int (*survey)(int, uint64_t, uint64_t, struct page_region *, size_t, uint64_t *),
                         uint64_t *pages)
{
        struct page_region found[WIRE_RUN_PAGES / 2 + 1];
        uint64_t at = (uintptr_t)start, walked;
        int n = survey(run->client->pagemap_fd, at, at + n_pages * PAGE_BYTES, found, ARRAY_SIZE(found),
                       &walked);

        for (int i = 0; i < n; i++)
                for (uint64_t page = found[i].start; page < found[i].end; page += PAGE_BYTES)
                        bitmap_clear(pages, (page - at) / PAGE_BYTES);
        return n >= 0;
}

/*
 * Sets the bits of pages that may be private copies: all that are neither empty nor known to be a file's own, so that one that is
 * swapped out, or just being moved by the kernel, is among them. False: that cannot be told.
 */
static bool find_copied(const struct file_run *run, const void *start, unsigned n_pages, uint64_t *copied)
{
        for (unsigned page = 0; page < n_pages; page++)
                bitmap_set(copied, page);
        return clear_listed(run, start, n_pages, pagemap_survey_file, copied) &&
               clear_listed(run, start, n_pages, pagemap_survey_empty, copied);
}

static size_t merged_bytes(const struct wp_region *region)
{
        return BITMAP_WORDS(region->length / PAGE_BYTES) * sizeof(uint64_t);
}

/* Addresses for the shadow of the region. They are nobody's while no part of it is in use. */
static int make_shadow(struct wp_region *region)
{
        void *shadow;

        if (region->shadow)
                return 0;
        shadow = mmap(NULL, region->length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (shadow == MAP_FAILED)
                return -errno;
        region->merged = client_map(merged_bytes(region));
        if (!region->merged) {
                munmap(shadow, region->length);
                return -ENOMEM;
        }
        region->shadow = shadow;
        return 0;
}

void filerun_forget(struct wp_region *region)
{
        if (!region->shadow)
                return;
        munmap(region->shadow, region->length);
        client_unmap(region->merged, merged_bytes(region));
        region->shadow = NULL;
        region->merged = NULL;
}

/* What the mapping was when it was registered. */
static int protection_of(const struct wp_region *region)
{
        return PROT_READ | (region->kept.flags & WIRE_KEPT_WRITABLE ? PROT_WRITE : 0) |
               (region->kept.flags & WIRE_KEPT_EXECUTABLE ? PROT_EXEC : 0);
}

static size_t region_page(const struct file_run *run, unsigned page)
{
        return (run->address - run->region->start) / PAGE_BYTES + page;
}

/* Nothing that happened since it was registered makes it something else. */
static int check_mapping(const struct file_run *run)
{
        bool shared = run->region->kept.flags & WIRE_KEPT_SHARED;
        struct mapping mapping;
        int r = mapping_query(run->client->maps_fd, run->address, &mapping);

        if (r < 0)
                return r == -ENOTTY ? 0 : r;
        if (!mapping.inode || (int)mapping.protection != protection_of(run->region) ||
            mapping.shared != shared || mapping.end < page_address(run, run->n_pages))
                return -EBUSY;
        return 0;
}

/* X: of the pool, or of another file. */
static int map_source(struct file_run *run, int fd, uint64_t offset)
{
        int kind = run->region->kept.flags & WIRE_KEPT_SHARED ? MAP_SHARED : MAP_PRIVATE;
        size_t bytes = run->n_pages * PAGE_BYTES;
        void *source = mmap(NULL, bytes, protection_of(run->region), kind, fd, (off_t)offset);
        int r;

        if (source == MAP_FAILED)
                return -errno;
        r = (int)error_from(madvise(source, bytes, MADV_POPULATE_READ));
        if (r >= 0)
                r = (int)error_from(madvise(source, bytes, MADV_DONTFORK));
        if (r < 0)
                munmap(source, bytes);
        else
                run->source = source;
        return r;
}

static void unmap_source(struct file_run *run)
{
        for (unsigned page = 0, end; run->source && page < run->n_pages; page = end) {
                end = (unsigned)bitmap_run_end(run->done, page, run->n_pages);
                if (!bitmap_get(run->done, page))
                        munmap(run->source + page * PAGE_BYTES, (end - page) * PAGE_BYTES);
        }
}

/* Step 2, of [page, end). */
static bool double_mapping(struct file_run *run, unsigned page, unsigned end)
{
        uint64_t copied[BITMAP_WORDS(WIRE_RUN_PAGES)] = {0};
        size_t bytes = (end - page) * PAGE_BYTES;
        void *place = (void *)page_address(run, page), *shadow = shadow_page(run, page);

        if (!remap(place, shadow, bytes, MREMAP_DONTUNMAP))
                return false;
        if (find_copied(run, shadow, end - page, copied) &&
            bitmap_run_end(copied, 0, end - page) == end - page && !bitmap_get(copied, 0))
                return true;
        (void)!remap(shadow, place, bytes, MREMAP_DONTUNMAP);
        return false;
}

/* Reads a page of our own memory. */
static bool read_page(const struct wp_client *client, const char *page, char *buffer)
{
        return pread(client->mem_fd, buffer, PAGE_BYTES, (off_t)(uintptr_t)page) == (ssize_t)PAGE_BYTES;
}

/* Whether the shadow's page has the content of X's. */
static bool equal(struct file_run *run, unsigned page)
{
        char(*scratch)[1 << PAGE_SHIFT] = run->client->scratch;

        return read_page(run->client, shadow_page(run, page), scratch[0]) &&
               read_page(run->client, run->source + page * PAGE_BYTES, scratch[1]) &&
               !memcmp(scratch[0], scratch[1], PAGE_BYTES);
}

/*
 * Of pages [page, end), and of what the kernel may have mapped along with them: of a file in huge pages all of one. Nobody else
 * has anything in the shadow.
 */
static void empty_shadow(const struct file_run *run, unsigned page, unsigned end)
{
        uintptr_t low = (uintptr_t)run->region->shadow, high = low + run->region->length;
        uintptr_t start = (uintptr_t)shadow_page(run, page) & ~(HUGE_BYTES - 1);
        uintptr_t stop = ((uintptr_t)shadow_page(run, end) + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1);

        start = MAX(start, low);
        (void)!madvise((void *)start, MIN(stop, high) - start, MADV_DONTNEED);
}

/* Steps 3 to 5, of [page, end). */
static void replace(struct file_run *run, unsigned page, unsigned end)
{
        unsigned first = page, stop;

        for (; page < end; page = stop) {
                for (stop = page; stop < end && equal(run, stop); stop++)
                        ;
                if (stop == page) {
                        stop++;
                        continue;
                }
                if (!remap(run->source + page * PAGE_BYTES, (void *)page_address(run, page),
                           (stop - page) * PAGE_BYTES, 0))
                        continue;
                for (unsigned i = page; i < stop; i++) {
                        bitmap_set(run->done, i);
                        bitmap_set(run->region->merged, region_page(run, i));
                }
        }
        empty_shadow(run, first, end);
}

static int merge(struct file_run *run)
{
        uint64_t copied[BITMAP_WORDS(WIRE_RUN_PAGES)] = {0};
        int r = make_shadow(run->region);

        if (r >= 0)
                r = check_mapping(run);
        if (r >= 0 && !find_copied(run, (void *)run->address, run->n_pages, copied))
                r = -EBUSY;
        for (unsigned page = 0, end; r >= 0 && page < run->n_pages; page = end) {
                end = (unsigned)bitmap_run_end(copied, page, run->n_pages);
                if (!bitmap_get(copied, page) && double_mapping(run, page, end)) {
                        replace(run, page, end);
                        continue;
                }
                for (unsigned i = page; i < end; i++)
                        bitmap_set(run->busy, i);
        }
        return r;
}

static void is_back(struct file_run *run, unsigned page)
{
        bitmap_set(run->done, page);
        bitmap_clear(run->region->merged, region_page(run, page));
}

/* [page, end) is the file's again, with this protection; the shadow may consist of several mappings. */
static void put_back(struct file_run *run, unsigned page, unsigned end, int protection)
{
        size_t bytes = (end - page) * PAGE_BYTES;
        char *shadow = shadow_page(run, page);

        if (mprotect(shadow, bytes, protection) < 0 ||
            !remap(shadow, (void *)page_address(run, page), bytes, MREMAP_DONTUNMAP)) {
                for (unsigned i = page; end - page > 1 && i < end; i++)
                        put_back(run, i, i + 1, protection);
                return;
        }
        for (; page < end; page++)
                is_back(run, page);
}

/*
 * The program's own copy of a page becomes one in the file's mapping. Not by storing into that ourselves: if the file is
 * shorter by now that would be a SIGBUS.
 */
static void graft(struct file_run *run, unsigned page, int protection)
{
        struct iovec from = {run->client->scratch[0], PAGE_BYTES}, to = {shadow_page(run, page), PAGE_BYTES};

        if (!read_page(run->client, (char *)page_address(run, page), from.iov_base) ||
            mprotect(to.iov_base, PAGE_BYTES, PROT_READ | PROT_WRITE) < 0 ||
            process_vm_writev(getpid(), &from, 1, &to, 1, 0) != (ssize_t)PAGE_BYTES ||
            mprotect(to.iov_base, PAGE_BYTES, protection) < 0 ||
            !remap(to.iov_base, (void *)page_address(run, page), PAGE_BYTES, MREMAP_DONTUNMAP))
                bitmap_set(run->busy, page);
        else
                is_back(run, page);
}

/* The program may have changed the protection of parts of the run. */
static void restore_part(struct file_run *run, unsigned page, unsigned end, bool copied)
{
        while (page < end) {
                struct mapping mapping = {.end = page_address(run, end),
                                          .protection = (uint32_t)protection_of(run->region)};
                unsigned stop = end;
                int r = mapping_query(run->client->maps_fd, page_address(run, page), &mapping);

                if (r >= 0 && mapping.end < page_address(run, end))
                        stop = (unsigned)((mapping.end - run->address) / PAGE_BYTES);
                if (copied)
                        for (unsigned i = page; i < stop; i++)
                                graft(run, i, (int)mapping.protection);
                else
                        put_back(run, page, stop, (int)mapping.protection);
                page = stop;
        }
}

/*
 * Whoever writes waits from now on, until he is woken. A fork that watch has to tell of comes first: the watcher is let at it
 * meanwhile. Shared mappings that are read-only stay so, and those of regular files cannot be held.
 */
static int hold_writers(struct file_run *run)
{
        int watch = run->client->context_fds[CONTEXT_WATCH], r;
        size_t bytes = run->n_pages * PAGE_BYTES;

        if (run->region->kept.flags & WIRE_KEPT_SHARED)
                return 0;
        r = uffd_register(watch, run->address, bytes, UFFDIO_REGISTER_MODE_WP);
        if (r == -EINVAL)
                return 0;
        while (r >= 0 && (r = uffd_write_protect(watch, run->address, bytes, true)) == -EAGAIN) {
                pthread_mutex_unlock(&run->client->serving);
                nanosleep(&(struct timespec){.tv_nsec = RETRY_PAUSE_NS}, NULL);
                pthread_mutex_lock(&run->client->serving);
                r = 0;
        }
        return r;
}

/* [page, end) is merged. */
static int restore(struct file_run *run, unsigned page, unsigned end)
{
        struct file_run part = *run;
        uint64_t copied[BITMAP_WORDS(WIRE_RUN_PAGES)] = {0};
        struct wp_client *client = run->client;
        int watch = client->context_fds[CONTEXT_WATCH], r;
        size_t bytes = (end - page) * PAGE_BYTES;

        part.address = page_address(run, page);
        part.n_pages = end - page;
        /* What is empty would get a marker, and pass for a copy. */
        (void)!madvise((void *)part.address, bytes, MADV_POPULATE_READ);
        pthread_mutex_lock(&client->serving);
        r = hold_writers(&part);
        if (r >= 0 && !find_copied(&part, (void *)part.address, part.n_pages, copied))
                r = -EFAULT;
        for (unsigned at = page, stop; r >= 0 && at < end; at = stop) {
                stop = page + (unsigned)bitmap_run_end(copied, at - page, end - page);
                restore_part(run, at, stop, bitmap_get(copied, at - page));
        }
        /* Of what could not be replaced. */
        (void)!uffd_unregister(watch, part.address, bytes);
        (void)!uffd_wake(watch, part.address, bytes);
        pthread_mutex_unlock(&client->serving);
        return r;
}

int filerun_restore(struct wp_client *client, struct wp_region *region, const struct wire_run *wire,
                    struct wire_run_result *result)
{
        struct file_run run = {.client = client,
                               .region = region,
                               .address = wire->address,
                               .n_pages = wire->n_pages,
                               .done = result->done,
                               .busy = result->busy};
        int r = 0;

        for (unsigned page = 0, end; page < run.n_pages && r >= 0; page = end) {
                bool merged = region->shadow && bitmap_get(region->merged, region_page(&run, page));

                for (end = page + 1; end < run.n_pages; end++)
                        if ((region->shadow && bitmap_get(region->merged, region_page(&run, end))) != merged)
                                break;
                if (merged)
                        r = restore(&run, page, end);
                for (unsigned i = page; i < end && !merged; i++)
                        bitmap_set(run.done, i); /* it went back already */
        }
        return r;
}

/* Called within `running`. */
static int give_back(struct wp_client *client, struct wp_region *region, uintptr_t start, size_t length)
{
        struct wire_run wire = {.kind = WIRE_RUN_UNMERGE};
        int r = 0;

        for (uintptr_t at = start; at < start + length; at += wire.n_pages * PAGE_BYTES) {
                struct wire_run_result result = {.error = 0};

                wire.address = at;
                wire.n_pages = (uint32_t)MIN((start + length - at) / PAGE_BYTES, (size_t)WIRE_RUN_PAGES);
                if (filerun_restore(client, region, &wire, &result) < 0 || !bitmap_get(result.done, 0) ||
                    bitmap_run_end(result.done, 0, wire.n_pages) < wire.n_pages)
                        r = -ENOMEM;
        }
        return r;
}

int filerun_give_back(struct wp_client *client, struct wp_region *region, uintptr_t start, size_t length)
{
        int r;

        pthread_mutex_lock(&client->running);
        r = give_back(client, region, start, length);
        pthread_mutex_unlock(&client->running);
        return r;
}

/* ------------------------------------------------------------------ children */

/* The end of the pages of the region, from `page` on, that are merged, or are not. */
static size_t merged_end(const struct wp_region *region, size_t page)
{
        return bitmap_run_end(region->merged, page, region->length / PAGE_BYTES);
}

/* The parts of a run that a child could not put back as they are: private copies, and what has another protection now. */
static void put_back_special(struct file_run *run)
{
        uint64_t special[BITMAP_WORDS(WIRE_RUN_PAGES)] = {0};

        if (!(run->region->kept.flags & WIRE_KEPT_SHARED) &&
            !find_copied(run, (void *)run->address, run->n_pages, special))
                memset(special, 0xff, sizeof(special));
        for (unsigned page = 0, end; page < run->n_pages; page = end) {
                struct mapping mapping = {.end = 0};
                int r = mapping_query(run->client->maps_fd, page_address(run, page), &mapping);

                end = run->n_pages;
                if (r >= 0 && mapping.end < page_address(run, end))
                        end = (unsigned)((mapping.end - run->address) / PAGE_BYTES);
                for (unsigned i = page;
                     i < end && (r < 0 || (int)mapping.protection != protection_of(run->region)); i++)
                        bitmap_set(special, i);
        }
        for (unsigned page = 0, end; page < run->n_pages; page = end) {
                end = (unsigned)bitmap_run_end(special, page, run->n_pages);
                if (bitmap_get(special, page))
                        (void)!restore(run, page, end);
        }
}

void filerun_before_fork(struct wp_client *client)
{
        for (uint32_t i = 0; i < client->n_regions; i++) {
                struct wp_region *region = &client->regions[i];
                size_t n_pages = region->length / PAGE_BYTES;

                for (size_t page = 0, end; region->shadow && page < n_pages; page = end) {
                        struct wire_run_result result = {.error = 0};
                        struct file_run run = {.client = client,
                                               .region = region,
                                               .address = region->start + page * PAGE_BYTES,
                                               .done = result.done,
                                               .busy = result.busy};

                        end = MIN(merged_end(region, page), page + WIRE_RUN_PAGES);
                        run.n_pages = (unsigned)(end - page);
                        if (bitmap_get(region->merged, page))
                                put_back_special(&run);
                }
        }
}

/* The shadow may consist of several mappings. */
static void put_back_in_child(struct wp_region *region, size_t page, size_t end)
{
        char *shadow = region->shadow + page * PAGE_BYTES, *place = (char *)region->start + page * PAGE_BYTES;

        if (remap(shadow, place, (end - page) * PAGE_BYTES, MREMAP_DONTUNMAP))
                return;
        for (size_t i = 0; i < end - page; i++)
                (void)!remap(shadow + i * PAGE_BYTES, place + i * PAGE_BYTES, PAGE_BYTES, MREMAP_DONTUNMAP);
}

void filerun_after_fork_child(struct wp_client *client)
{
        for (uint32_t i = 0; i < client->n_regions; i++) {
                struct wp_region *region = &client->regions[i];

                for (size_t page = 0, end; region->shadow && page < region->length / PAGE_BYTES; page = end) {
                        end = merged_end(region, page);
                        if (bitmap_get(region->merged, page))
                                put_back_in_child(region, page, end);
                }
                filerun_forget(region);
        }
}

/* ------------------------------------------------------------------ files, and their leases */

/* Whether the lease is there, and nobody wants it to end. */
static bool quiet(const struct wp_client *client, uint32_t file)
{
        return client->files[file] >= 0 && fcntl(client->files[file], F_GETLEASE) == F_RDLCK;
}

/*
 * A file's lease may have ended before its pages were in place: then they go back at once. As long as it had not, whoever wanted it
 * to end waits until the daemon has heard of this run.
 */
int filerun_merge(struct wp_client *client, struct wp_region *region, const struct wire_run *wire,
                  struct wire_run_result *result)
{
        bool alias = wire->kind == WIRE_RUN_ALIAS;
        int fd = alias ? client->files[wire->file] : client->pool_fd, r;
        struct file_run run = {.client = client,
                               .region = region,
                               .address = wire->address,
                               .n_pages = wire->n_pages,
                               .done = result->done,
                               .busy = result->busy};
        size_t bytes = run.n_pages * PAGE_BYTES;

        if (!region->file || region->file > WIRE_FILES || fd < 0)
                return -EINVAL;
        r = alias ? 0 : poollock_set(fd, F_RDLCK, wire->pool_offset, bytes);
        if (r < 0)
                return r;
        if (!alias)
                r = run_check_content(client, wire);
        if (r >= 0)
                r = map_source(&run, fd, wire->pool_offset);
        if (r >= 0)
                r = merge(&run);
        unmap_source(&run);
        if (!alias)
                (void)!poollock_set(fd, F_UNLCK, wire->pool_offset, bytes);
        if (r >= 0 && (!quiet(client, region->file - 1) || (alias && !quiet(client, wire->file)))) {
                struct wire_run_result back = {.error = 0};

                (void)!filerun_restore(client, region, wire, &back);
                memset(result->done, 0, sizeof(result->done));
                for (unsigned page = 0; page < wire->n_pages; page++)
                        bitmap_set(result->busy, page);
        }
        return r;
}

void filerun_take_file(struct wp_client *client, uint32_t file, int fd)
{
        client->n_files -= client->files[file] >= 0;
        fd_close(client->files[file]);
        client->files[file] = fd;
        client->n_files += fd >= 0;
}

/* A region that the program is about to end keeps its shadow until `running` is free. */
static void restore_regions(struct wp_client *client)
{
        pthread_mutex_lock(&client->running);
        for (uint32_t i = 0; i < client->n_regions; i++) {
                struct wp_region *region = &client->regions[i];

                if (region->shadow)
                        (void)!give_back(client, region, region->start, region->length);
        }
        pthread_mutex_unlock(&client->running);
}

void filerun_restore_all(struct wp_client *client)
{
        restore_regions(client);
        for (uint32_t file = 0; file < WIRE_FILES; file++)
                filerun_take_file(client, file, -EBADF);
}

void filerun_look_after(struct wp_client *client)
{
        bool all = true;

        for (uint32_t file = 0; file < WIRE_FILES; file++)
                all &= client->files[file] < 0 || quiet(client, file);
        if (!all)
                restore_regions(client);
}
