/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Views: what the mappings of a file must show
 *
 * Theory of operation
 *
 * Files. Each word of a file says which version of which page it is. One process writes new versions, each all over a file,
 * and tells before it begins and when it has ended. So who reads a word must see a version that is no older than
 * what had ended before, and no newer than what has begun afterwards, whatever is merged meanwhile. The files of a group
 * mostly have the same content, and so are merged with each other.
 *
 * Views. A worker has some of its own, of which it knows everything, so they need no locks. Pages of private ones that it
 * writes are its own copies, and stay what they are whoever writes to the file. It writes to pages only while they are excluded
 * or not registered, since doc/memory.md warns of writes to what is just going back to its file.
 *
 * Fork. A child goes on with what its parent had merged, which may be another file of the group: it may see
 * all versions from the one that had ended before it was forked.
 */

#include "torture/view.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#include "torture/client.h"
#include "torture/shared.h"
#include "torture/worker.h"

#define WORDS       (PAGE_BYTES / sizeof(uint64_t))
#define OWN         (UINT64_C(1) << 63)
#define MAX_REST_MS 5000
#define NAP_NS      (5 * NSEC_PER_MSEC)

/* ------------------------------------------------------------------ files */

static uint64_t word_of(unsigned file, uint32_t version, size_t page)
{
        return (uint64_t)version << 32 | (uint64_t)(file / VIEW_GROUP_FILES) << 24 | (page + 1);
}

static void fill(char *page, uint64_t word)
{
        for (size_t i = 0; i < WORDS; i++)
                ((volatile uint64_t *)page)[i] = word;
}

static bool write_pages(int fd, unsigned file, uint32_t version)
{
        static char content[1 << PAGE_SHIFT] __attribute__((__aligned__(8)));

        for (size_t page = 0; page < VIEW_PAGES; page++) {
                fill(content, word_of(file, version, page));
                if (pwrite(fd, content, PAGE_BYTES, (off_t)(page * PAGE_BYTES)) != (ssize_t)PAGE_BYTES)
                        return false;
        }
        return true;
}

/* They belong to the clients' user, to whom alone the kernel says what of them is in memory. */
static bool create(unsigned file)
{
        struct view_file *entry = &shared->view_files[file];
        const struct options *options = &shared->options;
        bool done;
        int fd;

        snprintf(entry->path, sizeof(entry->path), "%s/wpd-torture.%d.%u", options->directory, getpid(),
                 file);
        fd = open(entry->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        if (fd < 0)
                return false;
        done = write_pages(fd, file, 0) && !fchown(fd, options->uid, options->uid) && !fsync(fd);
        return !close(fd) && done;
}

/* As in doc/memory.md; what is local and may be written. */
static bool merges_files(const char *directory)
{
        static const uint32_t magics[] = {0xef53 /* ext4 */, 0x58465342 /* xfs */, 0x9123683e /* btrfs */,
                                          0xf2f52010 /* f2fs */};
        struct statfs fs;

        for (unsigned i = 0; statfs(directory, &fs) == 0 && i < ARRAY_SIZE(magics); i++)
                if ((uint32_t)fs.f_type == magics[i])
                        return true;
        return false;
}

void views_remove(void)
{
        for (unsigned i = 0; i < VIEW_FILES; i++)
                if (shared->view_files[i].path[0])
                        unlink(shared->view_files[i].path);
}

bool views_create(void)
{
        bool done = merges_files(shared->options.directory);

        for (unsigned i = 0; i < VIEW_FILES && done; i++)
                done = create(i);
        if (!done)
                printf("files in %s are not merged: their mappings are left out\n",
                       shared->options.directory);
        return done;
}

/* ------------------------------------------------------------------ the writer */

static void rest(uint64_t until_ns)
{
        while (!atomic_load(&shared->stop) && clock_now() < until_ns) {
                progress_note(&shared->writer, "a rest");
                nanosleep(&(struct timespec){.tv_nsec = (long)NAP_NS}, NULL);
        }
}

static void write_version(unsigned file, uint32_t version)
{
        struct view_file *entry = &shared->view_files[file];
        uint64_t start, took;
        int fd;

        progress_note(&shared->writer, "open for writing");
        atomic_store(&entry->begun, version);
        start = clock_now();
        fd = open(entry->path, O_WRONLY | O_CLOEXEC);
        took = clock_now() - start;
        EXPECT(fd >= 0, "%s: %s", entry->path, strerror(errno));
        EXPECT(took < VIEW_WRITER_SECONDS * NSEC_PER_SEC, "HANG: who wants to write to %s waited for %.1f s",
               entry->path, (double)took / 1e9);
        if (took > atomic_load(&shared->writer_longest_ns))
                atomic_store(&shared->writer_longest_ns, took);
        EXPECT(write_pages(fd, file, version) && !close(fd), "%s: %s", entry->path, strerror(errno));
        atomic_store(&entry->ended, version);
        count(COUNT_FILE_WRITES, 1);
}

/* Mostly all files of a group, at times only one. */
static void write_round(struct random *random, uint32_t version)
{
        unsigned first = (unsigned)random_below(random, VIEW_GROUPS) * VIEW_GROUP_FILES;
        unsigned only = (unsigned)random_below(random, 4 * VIEW_GROUP_FILES);

        for (unsigned i = 0; i < VIEW_GROUP_FILES; i++)
                if (only >= VIEW_GROUP_FILES || i == only)
                        write_version(first + i, version);
}

pid_t views_start_writer(void)
{
        struct random random = {.state = shared->options.seed ^ 3};
        pid_t pid = fork();

        if (pid)
                return pid;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != shared->main_pid)
                _exit(EXIT_FAILURE);
        progress_begin(&shared->writer, getpid(), getpid(), "start");
        for (uint32_t version = 1; !atomic_load(&shared->stop); version++) {
                rest(clock_now() + random_below(&random, MAX_REST_MS * NSEC_PER_MSEC));
                if (!atomic_load(&shared->stop))
                        write_round(&random, version);
        }
        progress_end(&shared->writer);
        _exit(EXIT_SUCCESS);
}

/* ------------------------------------------------------------------ views */

void view_map(struct worker *worker, struct view *view)
{
        size_t first = coin(worker) ? 0 : draw(worker, VIEW_PAGES);
        size_t n_pages = coin(worker) ? VIEW_PAGES - first : 1 + draw(worker, VIEW_PAGES - first);
        unsigned file = (unsigned)draw(worker, VIEW_FILES);
        int kind = coin(worker) ? MAP_PRIVATE : MAP_SHARED;
        int fd = open(shared->view_files[file].path, O_RDONLY | O_CLOEXEC);
        void *memory;

        EXPECT(fd >= 0, "%s: %s", shared->view_files[file].path, strerror(errno));
        memory = mmap(NULL, n_pages * PAGE_BYTES, PROT_READ, kind, fd, (off_t)(first * PAGE_BYTES));
        EXPECT(memory != MAP_FAILED, "%s: mmap: %s", shared->view_files[file].path, strerror(errno));
        close(fd);
        *view = (struct view){
                .memory = memory, .file = file, .first = first, .n_pages = n_pages, .kind = kind};
}

void view_unmap(struct view *view)
{
        int r = munmap(view->memory, view->n_pages * PAGE_BYTES);

        EXPECT_AT(view->memory, r == 0, "munmap: %s", strerror(errno));
        view->memory = NULL;
}

/* The newest version that may be seen. */
static uint32_t newest_of(const struct worker *worker, const struct view *view)
{
        unsigned first = view->file / VIEW_GROUP_FILES * VIEW_GROUP_FILES;
        uint32_t newest = atomic_load(&shared->view_files[view->file].begun);

        for (unsigned i = first; worker->depth && i < first + VIEW_GROUP_FILES; i++)
                newest = MAX(newest, atomic_load(&shared->view_files[i].begun));
        return newest;
}

static uint32_t ended_of(const struct view *view)
{
        return atomic_load(&shared->view_files[view->file].ended);
}

__attribute__((__noreturn__)) static void word_fail(const struct worker *worker, const struct view *view,
                                                    size_t page, size_t index, uint64_t seen, uint32_t oldest,
                                                    const char *when)
{
        const volatile uint64_t *word = (uint64_t *)(view->memory + page * PAGE_BYTES) + index;
        uint32_t newest = newest_of(worker, view);
        uint64_t again;

        nanosleep(&(struct timespec){.tv_nsec = 20 * (long)NSEC_PER_MSEC}, NULL);
        again = *word;
        fail((uintptr_t)word,
             "WRONG BYTE: page %zu of a %s view of file %u, word %zu, found %s\n"
             "  worker %u, thread %d, %s %u, operation %s, %s\n"
             "  found %#llx, 20 ms later %#llx; expected %#llx%s, versions %u to %u; ended by now: %u\n"
             "  forked %.3f ms ago%s",
             view->first + page, view->kind == MAP_PRIVATE ? "private" : "shared", view->file, index, when,
             worker->index, worker->tid, worker->depth ? "child of depth" : "client thread, depth",
             worker->depth, worker->what, view->region ? "registered" : "not registered",
             (unsigned long long)seen, (unsigned long long)again,
             (unsigned long long)(view->own[page] ? view->own[page]
                                                  : word_of(view->file, oldest, view->first + page)),
             view->own[page] ? ", its own copy" : "", oldest, newest, ended_of(view),
             worker->depth ? (double)(clock_now() - worker->forked.time_ns) / 1e6 : 0,
             worker->depth && client_is_orphaned(worker->client) ? ", and the client is gone" : "");
}

static void verify_page(struct worker *worker, const struct view *view, size_t page, const char *when)
{
        const volatile uint64_t *words = (uint64_t *)(view->memory + page * PAGE_BYTES);
        uint32_t oldest = worker->depth ? view->floor : ended_of(view);
        uint64_t own = view->own[page];

        for (size_t i = 0; i < WORDS; i++) {
                uint64_t seen = words[i], expected;
                uint32_t version = (uint32_t)(seen >> 32);

                expected = own ? own : word_of(view->file, version, view->first + page);
                if (seen != expected || (!own && (version < oldest || version > newest_of(worker, view))))
                        word_fail(worker, view, page, i, seen, oldest, when);
        }
}

void view_verify(struct worker *worker, const struct view *view, size_t page, size_t n, const char *when)
{
        for (size_t i = page; i < page + n; i++)
                verify_page(worker, view, i, when);
        count(COUNT_FILE_VERIFIED, n);
}

void views_verify(struct worker *worker, const char *when)
{
        for (unsigned i = 0; i < VIEWS_PER_WORKER; i++)
                if (worker->views[i].memory)
                        view_verify(worker, &worker->views[i], 0, worker->views[i].n_pages, when);
}

void views_release(struct worker *worker)
{
        for (unsigned i = 0; i < VIEWS_PER_WORKER; i++)
                if (worker->views[i].memory)
                        view_unmap(&worker->views[i]);
}

void view_write(struct worker *worker, struct view *view, size_t page, size_t n)
{
        char *memory = view->memory + page * PAGE_BYTES;
        int r = mprotect(memory, n * PAGE_BYTES, PROT_READ | PROT_WRITE);

        EXPECT_AT(memory, r == 0, "mprotect: %s", strerror(errno));
        for (size_t i = page; i < page + n; i++) {
                view->own[i] = OWN | random_next(&worker->random);
                fill(view->memory + i * PAGE_BYTES, view->own[i]);
        }
        /* What stays writable is merged on request only. */
        r = draw(worker, 4) ? mprotect(memory, n * PAGE_BYTES, PROT_READ) : 0;
        EXPECT_AT(memory, r == 0, "mprotect: %s", strerror(errno));
}

/* ------------------------------------------------------------------ fork, and the connection */

void views_note_fork(struct worker *worker)
{
        for (unsigned i = 0; i < VIEWS_PER_WORKER && !worker->depth; i++)
                worker->views[i].floor = ended_of(&worker->views[i]);
}

void views_forget(struct worker *worker)
{
        for (unsigned i = 0; i < VIEWS_PER_WORKER; i++) {
                worker->views[i].region = NULL;
                if (worker->forked.raw)
                        worker->views[i].memory = NULL;
        }
}
