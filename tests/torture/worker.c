/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Workers; see the header. */

#include "torture/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "torture/client.h"
#include "torture/op.h"
#include "torture/ops.h"
#include "util/cleanup.h"

/* A child whose run has died with its main process ends, too. */
#define BEAT_LOST_NS (60 * NSEC_PER_SEC)

static void open_descriptors(struct worker *worker)
{
        EXPECT(pipe2(worker->pipe, O_CLOEXEC) == 0, "pipe2: %s", strerror(errno));
        EXPECT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, worker->sockets) == 0, "socketpair: %s",
               strerror(errno));
        worker->file = memfd_create("wpd-torture", MFD_CLOEXEC);
        EXPECT(worker->file >= 0, "memfd_create: %s", strerror(errno));
        worker->direct =
                shared->direct_path[0] ? open(shared->direct_path, O_RDONLY | O_DIRECT | O_CLOEXEC) : -EBADF;
}

static void close_descriptors(struct worker *worker)
{
        for (unsigned i = 0; i < 2; i++) {
                fd_close(worker->pipe[i]);
                fd_close(worker->sockets[i]);
        }
        fd_close(worker->file);
        fd_close(worker->direct);
}

void worker_init(struct worker *worker, struct client *client, unsigned index, struct progress *progress)
{
        uint64_t stream = ((uint64_t)client->index << 40) + ((uint64_t)client->generation << 8) + index;

        *worker = (struct worker){.client = client, .index = index, .peer = -EBADF, .what = "nothing yet"};
        worker->random.state = shared->options.seed ^ stream * UINT64_C(0x9e3779b97f4a7c15);
        worker->progress = progress;
        worker->buffer = torture_map(WORKER_BUFFER_PAGES * PAGE_BYTES);
        open_descriptors(worker);
}

void worker_release(struct worker *worker)
{
        close_descriptors(worker);
        fd_close(worker->peer);
        ring_close(worker);
        munmap(worker->buffer, WORKER_BUFFER_PAGES * PAGE_BYTES);
}

static void step(struct worker *worker)
{
        const struct op *op = ops_draw(worker);
        struct area *area = &worker->client->areas[draw(worker, worker->client->n_areas)];

        worker->what = op->name;
        progress_note(worker->progress, op->name);
        if (op->flags & OP_WHOLE) {
                op->run(worker, area);
        } else if (gate_enter(&area->layout)) {
                op->run(worker, area);
                gate_leave(&area->layout);
        }
        atomic_fetch_add_explicit(&shared->op_counts[op - ops], 1, memory_order_relaxed);
}

void *worker_main(void *argument)
{
        struct worker *worker = argument;

        worker->tid = (int32_t)syscall(SYS_gettid);
        progress_begin(worker->progress, getpid(), worker->tid, "start");
        while (!atomic_load(&shared->stop))
                step(worker);
        ring_close(worker);
        progress_end(worker->progress);
        return NULL;
}

/* All pages that the child has. */
static void verify_all(struct worker *worker)
{
        struct client *client = worker->client;

        worker->what = "last look";
        for (unsigned i = 0; i < client->n_areas; i++) {
                struct area *area = &client->areas[i];
                struct range range;

                if (!gate_enter(&area->layout))
                        continue;
                for (size_t page = 0; page < area->n_pages; page++)
                        if (range_take_at(worker, area, page, 1, false, &range)) {
                                range_verify(worker, &range, "at the child's end");
                                range_give(worker, &range);
                        }
                gate_leave(&area->layout);
        }
        views_verify(worker, "at the child's end");
}

/* The connection of its own that a child made; nobody else is there. */
static void leave(struct worker *worker)
{
        struct client *client = worker->client;

        progress_note(worker->progress, "wp_disconnect of a child");
        client->wp = wp_disconnect(client->wp);
        for (unsigned i = 0; i < client->n_areas; i++)
                client->areas[i].region = NULL;
}

void worker_live_as_child(struct worker *worker)
{
        worker->tid = (int32_t)syscall(SYS_gettid);
        worker->progress = &worker->slot->progress;
        progress_begin(worker->progress, worker->tid, worker->tid, "start of a child");
        worker->depth++;
        worker->peer = -EBADF;
        worker->has_ring = false;
        worker->random.state ^= (uint64_t)worker->depth << 56;
        close_descriptors(worker);
        open_descriptors(worker);
        while (!atomic_load(&shared->stop) && clock_now() < worker->until_ns) {
                step(worker);
                if (clock_now() > atomic_load(&shared->beat_ns) + BEAT_LOST_NS)
                        break;
        }
        verify_all(worker);
        if (worker->client->wp) {
                leave(worker);
                verify_all(worker);
        }
        if (client_is_orphaned(worker->client))
                count(COUNT_ORPHANS, 1);
        progress_end(worker->progress);
        atomic_store(&worker->slot->fate.died_ns, clock_now());
        _exit(0);
}
