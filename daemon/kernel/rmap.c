/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Who maps a page of a file. */

#include "kernel/rmap.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kernel/pagemap.h"
#include "kernel/procmaps.h"
#include "util/cleanup.h"

struct walk {
        const struct rmap_query *query;
        const struct rmap_visitor *visitor;
        struct rmap_site site; /* the process that is looked at */
        int pagemap_fd;
        bool ended;
        bool incomplete;
};

/* A process that has ended has no files, or has nothing in them. */
static bool is_gone(int error)
{
        return error == -ENOENT || error == -ESRCH;
}

/* A process whose mappings the kernel does not show is none that was forked from one whose mappings it shows. */
static bool is_kept_away(int error)
{
        return error == -EACCES || error == -EPERM;
}

static void note(struct walk *walk, int result)
{
        walk->incomplete |= result < 0 && !is_gone(result);
}

static bool has_page(const struct rmap_query *query, const struct vma *vma)
{
        return vma->inode == query->inode && makedev(vma->dev_major, vma->dev_minor) == query->dev &&
               query->offset >= vma->offset && query->offset - vma->offset < vma->end - vma->start;
}

static int check_vma(void *context, const struct vma *vma)
{
        struct walk *walk = context;
        int r;

        if (!has_page(walk->query, vma))
                return 0;
        walk->site.address = vma->start + (walk->query->offset - vma->offset);
        r = pagemap_is_file(walk->pagemap_fd, walk->site.address);
        note(walk, r);
        if (r > 0 && !walk->visitor->visit(walk->visitor->context, &walk->site))
                walk->ended = true;
        return walk->ended;
}

static int open_in(int directory_fd, const char *name, int flags)
{
        return (int)error_from(openat(directory_fd, name, O_RDONLY | O_CLOEXEC | flags));
}

/*
 * All is opened through one descriptor, so that it belongs to one process although ids are used again; and the page map before
 * the mappings: it stays that of this program when another one is executed, whose mappings are not of interest.
 */
static int look_at(struct walk *walk, int proc_fd, const char *name)
{
        _cleanup_fd_ int process_fd = open_in(proc_fd, name, O_DIRECTORY), pagemap_fd = -EBADF,
                         maps_fd = -EBADF;
        struct stat st;

        if (process_fd < 0)
                return process_fd;
        /* That it cannot be opened is of no matter in a process that does not map the file. */
        walk->pagemap_fd = pagemap_fd = open_in(process_fd, "pagemap", 0);
        maps_fd = open_in(process_fd, "maps", 0);
        if (maps_fd < 0)
                return is_kept_away(maps_fd) ? 0 : maps_fd;
        /* Not of the directory, which is the user's whether he may look into the process or not. */
        if (fstat(maps_fd, &st) < 0)
                return -errno;
        if (walk->query->uid != RMAP_ANYBODY && st.st_uid != walk->query->uid)
                return 0;
        walk->site.uid = st.st_uid;
        return procmaps_read(maps_fd, check_vma, walk);
}

/* What begins with a digit in /proc is a process. */
static pid_t pid_of(const char *name)
{
        return *name >= '1' && *name <= '9' ? (pid_t)strtol(name, NULL, 10) : 0;
}

static void look_at_entry(struct walk *walk, int proc_fd, const char *name)
{
        walk->site.pid = pid_of(name);
        if (!walk->site.pid || walk->site.pid == walk->query->except)
                return;
        walk->ended = !walk->visitor->go_on(walk->visitor->context);
        if (!walk->ended)
                note(walk, look_at(walk, proc_fd, name));
}

int rmap_walk(const struct rmap_query *query, const struct rmap_visitor *visitor)
{
        _cleanup_fd_ int proc_fd = open_in(AT_FDCWD, "/proc", O_DIRECTORY);
        struct walk walk = {.query = query, .visitor = visitor};
        char entries[4096] __attribute__((__aligned__(8)));
        long n = proc_fd;

        while (n >= 0 && !walk.ended && (n = error_from(getdents64(proc_fd, entries, sizeof(entries)))) > 0)
                for (long at = 0; at < n && !walk.ended;) {
                        const struct dirent64 *entry = (const struct dirent64 *)(entries + at);

                        look_at_entry(&walk, proc_fd, entry->d_name);
                        at += entry->d_reclen;
                }
        return n < 0 ? (int)n : walk.ended || walk.incomplete;
}
