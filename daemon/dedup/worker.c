/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Worker: the scan thread. */

#include "dedup/worker.h"

#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#include "dedup/fingerprint.h"
#include "kernel/lease.h"
#include "kernel/mapfile.h"
#include "kernel/pagemap.h"
#include "kernel/poolfile.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define WORKER_NICE 5

struct worker {
        pthread_t thread;
        bool started;
        int done_fd;
        sem_t submitted;
        _Atomic bool stop;
        struct work *_Atomic work; /* with the thread */
        struct work *_Atomic done; /* on its way back */
        char *buffer;              /* WORK_READ_PAGES pages */
        bool buffer_used;          /* since it was emptied */
};

static void do_store(struct worker *worker, struct work *work)
{
        int node = NUMA_NO_NODE;

        work->store_error = 0;
        for (size_t i = 0, end; i < work->n_stores && work->store_error >= 0; i = end) {
                const struct work_store *first = &work->stores[i];

                for (end = i + 1; end < work->n_stores && work->stores[end].read == first->read + (end - i) &&
                                  work->stores[end].slot == first->slot + (end - i) &&
                                  work->stores[end].node == first->node;
                     end++)
                        ;
                if (first->node != node && numa_prefer(first->node) >= 0)
                        node = first->node;
                work->store_error =
                        poolfile_write(work->pool_fd, (uint64_t)first->slot << PAGE_SHIFT,
                                       worker->buffer + first->read * PAGE_BYTES, (end - i) * PAGE_BYTES);
        }
        if (node != NUMA_NO_NODE)
                (void)!numa_prefer(NUMA_NO_NODE);
}

static void do_anchor(struct work *work)
{
        for (size_t i = 0; i < work->n_stores && work->store_error >= 0; i++)
                if (work->stores[i].anchor != ANCHOR_NONE)
                        work->store_error = anchors_pin(work->anchors, work->stores[i].anchor, work->pool_fd,
                                                        (uint64_t)work->stores[i].slot << PAGE_SHIFT);
}

static void do_protect(struct work *work)
{
        /* What cannot be protected is seen as written again next time. */
        for (size_t i = 0; i < work->n_protects; i++)
                (void)!pagemap_protect(work->pagemap_fd, work->protects[i].address,
                                       work->protects[i].address + work->protects[i].length);
}

/*
 * Reads n pages that lie next to each other. /proc/PID/mem fails at once on a page that is being merged,
 * where process_vm_readv() would wait for it, and so could be made to wait for ever
 * (tests/kernel/proc_mem.c).
 */
static void read_pages(struct worker *worker, struct work *work, size_t first, size_t n)
{
        char *buffer = worker->buffer + first * PAGE_BYTES;
        long got = error_from(pread(work->mem_fd, buffer, n * PAGE_BYTES, (off_t)work->reads[first].address));

        for (size_t i = 0; i < n; i++)
                work->reads[first + i].ok = got >= (long)((i + 1) * PAGE_BYTES);
}

/*
 * The same of a file, through a descriptor of our own, so that nothing comes into a client's resident memory. What is not in
 * the page cache takes no memory that could be saved, and is not fetched from the disk.
 */
static void read_cached(struct worker *worker, struct work *work, size_t first, size_t n)
{
        for (size_t i = first, done; i < first + n; i += done) {
                struct iovec to = {worker->buffer + i * PAGE_BYTES, (first + n - i) * PAGE_BYTES};
                long got =
                        error_from(preadv2(work->mem_fd, &to, 1, (off_t)work->reads[i].address, RWF_NOWAIT));

                done = got < (long)PAGE_BYTES ? 0 : (size_t)got / PAGE_BYTES;
                for (size_t k = 0; k < done; k++)
                        work->reads[i + k].ok = true;
                if (!done)
                        work->reads[i + done++].ok = false;
        }
}

static void hash_pages(struct worker *worker, struct work *work, size_t first, size_t n)
{
        for (size_t i = first; i < first + n; i++) {
                struct work_read *read = &work->reads[i];
                const char *page = worker->buffer + i * PAGE_BYTES;

                if (!read->ok)
                        continue;
                read->zero = fingerprint_zero(page);
                read->fingerprint = read->zero ? 0 : fingerprint_page(page, work->secret, WORK_SECRET_BYTES);
        }
}

/* The end of the neighbours that begin with reads[i], at most n. */
static size_t neighbours_end(const struct work *work, size_t i, size_t n)
{
        size_t end = i + 1;

        while (end < work->n_reads && end - i < n &&
               work->reads[end].address == work->reads[end - 1].address + PAGE_BYTES)
                end++;
        return end;
}

static void ask_nodes_of_client(struct work *work)
{
        uint64_t addresses[WORK_READ_PAGES];
        int nodes[WORK_READ_PAGES];

        for (size_t i = 0; i < work->n_reads; i++)
                addresses[i] = work->reads[i].address;
        if (numa_of_pages(work->pid, addresses, work->n_reads, nodes) < 0)
                return;
        for (size_t i = 0; i < work->n_reads; i++)
                work->reads[i].node = nodes[i];
}

/* Of a pool, or another file. */
static void ask_nodes_of_file(struct work *work)
{
        int nodes[WORK_READ_PAGES];

        for (size_t i = 0, end; i < work->n_reads; i = end) {
                end = neighbours_end(work, i, WORK_READ_PAGES);
                if (numa_of_file(work->mem_fd, work->reads[i].address, end - i, nodes) < 0)
                        continue;
                for (size_t k = i; k < end; k++)
                        work->reads[k].node = nodes[k - i];
        }
}

static void do_read(struct worker *worker, struct work *work)
{
        worker->buffer_used = true;
        for (size_t i = 0, end; i < work->n_reads; i = end) {
                /* 64 pages at a time: what was read is hashed while it is in the cache. */
                end = neighbours_end(work, i, 64);
                if (work->cached)
                        read_cached(worker, work, i, end - i);
                else
                        read_pages(worker, work, i, end - i);
                hash_pages(worker, work, i, end - i);
        }
        for (size_t i = 0; i < work->n_reads; i++)
                work->reads[i].node = NUMA_NO_NODE;
        if (work->ask_nodes && work->cached)
                ask_nodes_of_file(work);
        else if (work->ask_nodes && work->pid)
                ask_nodes_of_client(work);
        else if (work->ask_nodes)
                ask_nodes_of_file(work);
}

static void do_survey(struct work *work)
{
        int r = pagemap_survey(work->pagemap_fd, work->survey_start, work->survey_end, work->runs,
                               WORK_SURVEY_RUNS, &work->survey_walked);

        work->survey_error = r < 0 ? r : 0;
        work->n_runs = r < 0 ? 0 : (size_t)r;
}

static int inspect_vma(void *context, const struct vma *vma)
{
        struct work *work = context;

        if (vma->start >= work->inspect_end)
                return 1;
        work->n_mappings++;
        if (vma->end <= work->inspect_start)
                return 0;
        if (work->n_vmas == work->n_vmas_max)
                return -E2BIG;
        work->vmas[work->n_vmas++] = *vma;
        return 0;
}

/* Marks the pages of [start, end) that still are a pool's own. What cannot be told counts as private. */
static void mark_shared(struct work *work, uint64_t start, uint64_t end)
{
        struct page_region runs[64];

        while (start < end) {
                uint64_t walked = end;
                int n = pagemap_survey_pooled(work->pagemap_fd, start, end, runs, ARRAY_SIZE(runs), &walked);

                for (int i = 0; i < n; i++)
                        for (uint64_t at = runs[i].start; at < runs[i].end; at += PAGE_BYTES)
                                bitmap_set(work->shared, (at - work->inspect_start) >> PAGE_SHIFT);
                if (n < 0 || walked <= start)
                        return;
                start = walked;
        }
}

static void do_inspect(struct work *work)
{
        work->n_vmas = 0;
        work->n_mappings = 0;
        work->inspect_error = procmaps_read(work->smaps_fd, inspect_vma, work);
        for (size_t i = 0; work->shared && i < work->n_vmas; i++)
                if (work->vmas[i].inode)
                        mark_shared(work, MAX(work->vmas[i].start, work->inspect_start),
                                    MIN(work->vmas[i].end, work->inspect_end));
}

static enum reason lease_reason(int error)
{
        if (error >= 0)
                return REASON_NONE;
        return error == -EAGAIN ? REASON_WRITTEN : REASON_FILE_SYSTEM;
}

/* What is of no mount of the process is, say, the pool of another daemon. */
static void do_open(struct work *work)
{
        _cleanup_fd_ int found = -EBADF, fd = -EBADF;
        char type[MAPFILE_TYPE_BYTES];
        int r = mapfile_find(work->pid, work->open_start, work->open_end, type, &found);

        work->open_error = 0;
        work->open_reason = r == -ENOENT ? REASON_FILE : r < 0 ? REASON_NONE : policy_file_system(type);
        if (r >= 0 && work->open_reason == REASON_NONE) {
                fd = mapfile_open(found);
                r = fd < 0 ? fd : (int)error_from(fstat(fd, &work->opened));
                if (r >= 0)
                        work->open_reason = lease_reason(lease_take(fd));
        }
        if (work->open_reason != REASON_NONE)
                return;
        work->open_error = MIN(r, 0);
        if (r >= 0)
                work->opened_fd = fd_take(&fd);
}

/* Whoever still maps a page keeps it. */
static void do_drop(const struct work *work)
{
        for (size_t i = 0; i < work->n_drops; i++)
                (void)!posix_fadvise(work->drop_fd, (off_t)work->drops[i].page << PAGE_SHIFT,
                                     (off_t)work->drops[i].n_pages << PAGE_SHIFT, POSIX_FADV_DONTNEED);
}

static void *worker_main(void *argument)
{
        struct worker *worker = argument;
        uint64_t one = 1;

        /* Scanning can always wait; where this is not allowed, it runs like everything else. */
        setpriority(PRIO_PROCESS, 0, WORKER_NICE);
        while (!atomic_load(&worker->stop)) {
                struct work *work;

                while (sem_wait(&worker->submitted) < 0)
                        ;
                work = atomic_exchange(&worker->work, NULL);
                if (!work)
                        continue;
                if (work->n_stores) {
                        do_store(worker, work);
                        do_anchor(work);
                }
                if (work->n_protects)
                        do_protect(work);
                if (work->n_reads)
                        do_read(worker, work);
                if (work->survey_end > work->survey_start)
                        do_survey(work);
                if (work->smaps_fd >= 0)
                        do_inspect(work);
                if (work->open_end)
                        do_open(work);
                if (work->drop_fd >= 0)
                        do_drop(work);
                atomic_store(&worker->done, work);
                if (write(worker->done_fd, &one, sizeof(one)) < 0)
                        continue; /* the counter is full: it is readable, which is all that matters */
        }
        return NULL;
}

int worker_new(struct worker **ret_worker, int *ret_done_fd)
{
        struct worker *worker = calloc(1, sizeof(*worker));
        int r = -ENOMEM;

        if (!worker)
                return -ENOMEM;
        sem_init(&worker->submitted, 0, 0);
        worker->done_fd = (int)error_from(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        worker->buffer = mmap(NULL, WORK_READ_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (worker->buffer == MAP_FAILED)
                worker->buffer = NULL;
        else if (worker->done_fd >= 0)
                r = -pthread_create(&worker->thread, NULL, worker_main, worker);
        else
                r = worker->done_fd;
        if (r < 0) {
                worker_free(worker);
                return r;
        }
        worker->started = true;
        *ret_worker = worker;
        *ret_done_fd = worker->done_fd;
        return 0;
}

struct worker *worker_free(struct worker *worker)
{
        if (!worker)
                return NULL;
        if (worker->started) {
                atomic_store(&worker->stop, true);
                sem_post(&worker->submitted);
                pthread_join(worker->thread, NULL);
        }
        if (worker->buffer)
                munmap(worker->buffer, WORK_READ_PAGES * PAGE_BYTES);
        fd_close(worker->done_fd);
        sem_destroy(&worker->submitted);
        free(worker);
        return NULL;
}

void worker_submit(struct worker *worker, struct work *work)
{
        atomic_store(&worker->work, work);
        sem_post(&worker->submitted);
}

struct work *worker_take(struct worker *worker)
{
        uint64_t count;

        if (read(worker->done_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
                return NULL;
        return atomic_exchange(&worker->done, NULL);
}

/* The buffer may be locked, like all memory of the daemon; hence this kind of advice. */
void worker_empty(struct worker *worker)
{
        if (worker->buffer_used)
                (void)!madvise(worker->buffer, WORK_READ_PAGES * PAGE_BYTES, MADV_DONTNEED_LOCKED);
        worker->buffer_used = false;
}

uint64_t worker_cpu_ns(struct worker *worker)
{
        clockid_t clock;

        return pthread_getcpuclockid(worker->thread, &clock) ? 0 : clock_ns(clock);
}
