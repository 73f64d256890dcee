/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What all processes share; see the header. */

#include "torture/shared.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct shared *shared;

int shared_create(const struct options *options)
{
        void *memory = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

        if (memory == MAP_FAILED)
                return -errno;
        shared = memory;
        shared->options = *options;
        atomic_store(&shared->beat_ns, clock_now());
        return 0;
}

void *torture_map(size_t bytes)
{
        void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        EXPECT(memory != MAP_FAILED, "%zu bytes cannot be mapped: %s", bytes, strerror(errno));
        return memory;
}

void progress_begin(struct progress *progress, pid_t pid, pid_t tid, const char *what)
{
        progress_note(progress, what);
        atomic_store(&progress->tid, tid);
        atomic_store(&progress->pid, pid);
}

void progress_end(struct progress *progress)
{
        atomic_store(&progress->pid, 0);
}

__attribute__((__format__(__printf__, 2, 0))) static void record(uintptr_t address, const char *format,
                                                                 va_list arguments)
{
        struct verdict *verdict = &shared->verdict;

        if (atomic_flag_test_and_set(&verdict->taken))
                return;
        verdict->pid = (pid_t)syscall(SYS_getpid);
        verdict->address = address;
        vsnprintf(verdict->text, sizeof(verdict->text), format, arguments);
        atomic_store(&verdict->ready, true);
}

void fail(uintptr_t address, const char *format, ...)
{
        va_list arguments;

        va_start(arguments, format);
        record(address, format, arguments);
        va_end(arguments);
        for (;;)
                pause();
}

void complain(const char *format, ...)
{
        va_list arguments;

        va_start(arguments, format);
        record(0, format, arguments);
        va_end(arguments);
}

/* ------------------------------------------------------------------ fates */

void fate_begin(struct fate *fate)
{
        atomic_store(&fate->daemon, NO_DAEMON);
        atomic_store(&fate->connected_ns, 0);
        atomic_store(&fate->n_disconnects, 0);
        atomic_store(&fate->died_ns, 0);
}

void fate_connected(struct fate *fate)
{
        atomic_store(&fate->daemon, atomic_load(&shared->daemon.n_ends));
        atomic_store(&fate->connected_ns, clock_now());
}

void fate_disconnected(struct fate *fate)
{
        atomic_store(&fate->daemon, NO_DAEMON);
}

/* ------------------------------------------------------------------ children */

/*
 * A ticket is a number that is given once and tells the client. The owner of a place is twice the ticket while the child is not
 * known, and one more from then on: so a place that was taken away and given to another is never taken for one's own.
 */
struct child_slot *child_slot_take(unsigned client, uint32_t generation, bool peer, uint64_t *ret_ticket)
{
        uint64_t ticket = (atomic_fetch_add(&shared->n_tickets, 1) + 1) * MAX_CLIENTS + client;
        unsigned first = peer ? MAX_FORKED : 0, end = peer ? MAX_CHILDREN : MAX_FORKED;

        for (unsigned i = first; i < end; i++) {
                struct child_slot *slot = &shared->children[i];
                uint64_t nobody = 0;

                if (atomic_load(&slot->owner) ||
                    !atomic_compare_exchange_strong(&slot->owner, &nobody, 2 * ticket))
                        continue;
                atomic_store(&slot->may_be_killed, false);
                atomic_store(&slot->client, client);
                atomic_store(&slot->generation, generation);
                fate_begin(&slot->fate);
                *ret_ticket = ticket;
                return slot;
        }
        return NULL;
}

bool child_slot_begin(struct child_slot *slot, uint64_t ticket)
{
        uint64_t owner = 2 * ticket;

        if (!atomic_compare_exchange_strong(&slot->owner, &owner, owner + 1))
                return false;
        atomic_store(&slot->pid, (pid_t)syscall(SYS_getpid));
        return true;
}

void child_slots_reclaim(unsigned client)
{
        for (unsigned i = 0; i < MAX_CHILDREN; i++) {
                struct child_slot *slot = &shared->children[i];
                uint64_t owner = atomic_load(&slot->owner);

                if (owner && owner % 2 == 0 && owner / 2 % MAX_CLIENTS == client)
                        atomic_compare_exchange_strong(&slot->owner, &owner, 0);
        }
}

static struct child_slot *child_slot_of(pid_t pid)
{
        for (unsigned i = 0; i < MAX_CHILDREN; i++)
                if (atomic_load(&shared->children[i].pid) == pid)
                        return &shared->children[i];
        return NULL;
}

void child_reaped(pid_t pid, int status)
{
        struct child_slot *slot = child_slot_of(pid);
        bool killed = slot && atomic_load(&slot->may_be_killed) && WIFSIGNALED(status) &&
                      WTERMSIG(status) == SIGKILL;

        if (!killed && (!WIFEXITED(status) || WEXITSTATUS(status)))
                complain("child %d ended with status %#x, doing %s", pid, (unsigned)status,
                         slot ? atomic_load(&slot->progress.what) : "no operation");
        if (slot) {
                progress_end(&slot->progress);
                atomic_store(&slot->pid, 0);
                atomic_store(&slot->owner, 0);
        }
}
