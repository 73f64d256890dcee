/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A read lease keeps a file as it is until its holder gives it up
 *
 * Fact: a lease is refused (EAGAIN) while the file is open for writing, or mapped shared by a descriptor that was; nobody opens
 * it for writing, and nobody truncates it, before the holder has been sent a signal that names the descriptor, and has given
 * the lease up. Until then F_GETLEASE says that it is wanted. A thread other than the first can take the lease if the owner was set
 * before. F_SETLEASE through a descriptor that was opened with /proc/PID/map_files is as good as any.
 *
 * Source: fs/locks.c, generic_add_lease(), lease_setup(), __break_lease().
 *
 * Relied on by: daemon/kernel/lease.h, daemon/dedup/backing.h.
 *
 * Without it: the content of merged pages would be another than the file's.
 */

#include "fact.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "kernel/lease.h"
#include "kernel/mapfile.h"

static char path[] = "/tmp/wpd-fact-XXXXXX";

static void make_file(void)
{
        struct statfs fs;
        int fd = (int)FACT_OK(error_from(mkstemp(path)));

        FACT_OK(error_from(ftruncate(fd, 4 * PAGE_BYTES)));
        FACT_OK(error_from(fstatfs(fd, &fs)));
        close(fd);
        if (fs.f_type == OVERLAYFS_SUPER_MAGIC)
                fact_skip("/tmp is an overlay: see lease_overlay");
}

static void check_refused(int fd)
{
        int writer = (int)FACT_OK(error_from(open(path, O_RDWR | O_CLOEXEC)));
        char *pages = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, writer, 0);

        fact_step("while somebody may write");
        FACT_CHECK(pages != MAP_FAILED, "%m");
        FACT_ERROR(lease_take(fd), EAGAIN);
        close(writer);
        FACT_ERROR(lease_take(fd), EAGAIN);
        munmap(pages, PAGE_BYTES);
        FACT_CHECK(!lease_quiet(fd), "a lease that was refused is there");
}

static void *take(void *context)
{
        FACT_OK(lease_take(*(int *)context));
        return NULL;
}

static void *open_writer(void *context)
{
        close((int)FACT_OK(error_from(open(path, O_WRONLY | O_CLOEXEC))));
        atomic_store((atomic_bool *)context, true);
        return NULL;
}

static void *truncate_file(void *context)
{
        FACT_OK(error_from(truncate(path, 2 * PAGE_BYTES)));
        atomic_store((atomic_bool *)context, true);
        return NULL;
}

static void check_break(int fd, int signals, void *(*writer)(void *))
{
        struct pollfd wait = {.fd = signals, .events = POLLIN};
        atomic_bool done = false;
        struct signalfd_siginfo info;
        pthread_t thread;

        FACT_CHECK(!pthread_create(&thread, NULL, take, &fd) && !pthread_join(thread, NULL), "no thread");
        FACT_CHECK(lease_quiet(fd), "the lease is not there");
        fact_step("somebody wants to write");
        FACT_CHECK(!pthread_create(&thread, NULL, writer, &done), "no thread");
        FACT_VALUE(error_from(poll(&wait, 1, -1)), 1);
        FACT_VALUE(error_from(read(signals, &info, sizeof(info))), (long)sizeof(info));
        FACT_CHECK(info.ssi_signo == (uint32_t)LEASE_SIGNAL && info.ssi_fd == fd,
                   "signal %u, descriptor %d instead of %d", info.ssi_signo, info.ssi_fd, fd);
        fact_pause();
        FACT_CHECK(!atomic_load(&done), "he did not wait");
        FACT_CHECK(!lease_quiet(fd), "nobody is said to want the lease");
        lease_release(fd);
        fact_step("he goes on");
        FACT_CHECK(!pthread_join(thread, NULL) && atomic_load(&done), "he did not");
}

int main(void)
{
        sigset_t mask;
        char *pages;
        char type[MAPFILE_TYPE_BYTES];
        int fd, signals, found, mapped, r;

        fact_begin();
        make_file();
        sigemptyset(&mask);
        sigaddset(&mask, LEASE_SIGNAL);
        pthread_sigmask(SIG_BLOCK, &mask, NULL);
        signals = (int)FACT_OK(error_from(signalfd(-1, &mask, SFD_CLOEXEC)));
        fd = (int)FACT_OK(error_from(open(path, O_RDONLY | O_CLOEXEC)));
        pages = mmap(NULL, 4 * PAGE_BYTES, PROT_READ, MAP_PRIVATE, fd, 0);
        FACT_CHECK(pages != MAP_FAILED, "%m");
        r = mapfile_find(getpid(), (uintptr_t)pages, (uintptr_t)pages + 4 * PAGE_BYTES, type, &found);
        if (r == -EPERM)
                fact_skip("/proc/PID/map_files cannot be opened");
        FACT_OK(r);
        FACT_CHECK(type[0], "a file system without a type");
        mapped = (int)FACT_OK(mapfile_open(found));
        check_refused(fd);
        check_break(fd, signals, open_writer);
        check_break(mapped, signals, open_writer);
        check_break(mapped, signals, truncate_file);
        unlink(path);
        return 0;
}
