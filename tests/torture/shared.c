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

struct child_slot *child_slot_take(void)
{
        for (unsigned i = 0; i < MAX_CHILDREN; i++) {
                struct child_slot *slot = &shared->children[i];
                int free_state = CHILD_FREE;

                if (atomic_load(&slot->state) == CHILD_FREE &&
                    atomic_compare_exchange_strong(&slot->state, &free_state, CHILD_RUNS)) {
                        atomic_store(&slot->may_be_killed, false);
                        atomic_store(&slot->died_ns, 0);
                        return slot;
                }
        }
        return NULL;
}

static struct child_slot *child_slot_of(pid_t pid)
{
        for (unsigned i = 0; i < MAX_CHILDREN; i++)
                if (atomic_load(&shared->children[i].state) == CHILD_RUNS &&
                    atomic_load(&shared->children[i].pid) == pid)
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
                atomic_store(&slot->state, CHILD_FREE);
        }
}
