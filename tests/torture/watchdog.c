/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The watchdog; see the header. */

#include "torture/watchdog.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "torture/entry.h"
#include "torture/shared.h"
#include "util/cleanup.h"

static bool hangs(const struct progress *progress)
{
        uint64_t since = atomic_load(&progress->since_ns);
        unsigned seconds = shared->options.hang_seconds;

        /* Who writes to files may have to wait. */
        if (progress == &shared->writer)
                seconds = MAX(seconds, VIEW_WRITER_SECONDS);
        return clock_now() > since + seconds * NSEC_PER_SEC;
}

/* `gone`: who serves a child's memory depends on whether its client lives. */
static void look(const struct progress *progress, const char *who, unsigned client, bool gone)
{
        pid_t pid = atomic_load(&progress->pid);

        if (!pid || !hangs(progress))
                return;
        complain("HANG: %s %u%s, process %d, thread %d, does \"%s\" since %.1f s", who, client,
                 gone ? ", which is gone" : "", pid, atomic_load(&progress->tid),
                 atomic_load(&progress->what),
                 (double)(clock_now() - atomic_load(&progress->since_ns)) / 1e9);
        shared->verdict.pid = pid;
}

static void look_at_child(const struct child_slot *child)
{
        unsigned client = atomic_load(&child->client);
        bool gone = atomic_load(&shared->clients[client].generation) != atomic_load(&child->generation);

        look(&child->progress, "a child of client", client, gone);
}

void watchdog_step(void)
{
        for (unsigned i = 0; i < shared->options.clients; i++) {
                look(&shared->clients[i].manager, "the manager of client", i, false);
                for (unsigned k = 0; k < shared->options.threads; k++)
                        look(&shared->clients[i].workers[k], "a worker of client", i, false);
        }
        for (unsigned i = 0; i < MAX_CHILDREN; i++)
                look_at_child(&shared->children[i]);
        look(&shared->writer, "the writer of files", 0, false);
}

static void print_file(const char *path, const char *name)
{
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        char text[4096];
        ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

        if (n <= 0)
                return;
        text[n] = '\0';
        printf("  %s: %s%s", name, text, text[n - 1] == '\n' ? "" : "\n");
}

void watchdog_describe_threads(pid_t pid)
{
        static const char *const files[] = {"stat", "wchan", "syscall", "stack"};
        char path[128];
        DIR *threads;

        snprintf(path, sizeof(path), "/proc/%d/task", pid);
        threads = opendir(path);
        for (const struct dirent *entry; threads && (entry = readdir(threads));) {
                if (entry->d_name[0] == '.')
                        continue;
                printf("thread %s of process %d\n", entry->d_name, pid);
                for (unsigned i = 0; i < ARRAY_SIZE(files); i++) {
                        snprintf(path, sizeof(path), "/proc/%d/task/%.16s/%s", pid, entry->d_name, files[i]);
                        print_file(path, files[i]);
                }
        }
        if (threads)
                closedir(threads);
}

void watchdog_describe_address(pid_t pid, uintptr_t address)
{
        char path[64], line[512];
        bool inside = false;
        uint64_t entry;
        FILE *smaps;

        snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
        smaps = fopen(path, "re");
        while (smaps && fgets(line, sizeof(line), smaps)) {
                unsigned long start, end;

                if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
                        inside = address >= start && address < end;
                if (inside)
                        fputs(line, stdout);
        }
        if (smaps)
                fclose(smaps);
        if (entries_read(pid, address, &entry, 1) == 0)
                printf("pagemap of %#lx: %#llx\n", (unsigned long)address, (unsigned long long)entry);
}
