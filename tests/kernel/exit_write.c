/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What the kernel writes into an exiting thread's memory is lost when the page is merged or frozen
 *
 * Fact: page faults that the kernel takes on behalf of an exiting thread are not sent to userfaultfds. The
 * word of CLONE_CHILD_CLEARTID, on which pthread_join() waits (and, by the source, a robust mutex that the
 * thread held), stays as it is when its page is write-protected by hold or moved away by a merge, and no
 * message says so. In memory that is only registered with track (WP_ASYNC) the write arrives and is seen by
 * the scan.
 *
 * Source: fs/userfaultfd.c, handle_userfault() (PF_EXITING); kernel/fork.c, mm_release().
 *
 * Relied on by: the rule that memory with thread stacks, where the C library keeps that word, must not be
 * merged (libwp's contract, daemon registration, the manual).
 *
 * Without it: nothing is lost. Because of it pthread_join() would hang.
 */

#include "fact.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define UNTOUCHED 77

static int thread_run(void *unused)
{
        (void)unused;
        return 0;
}

/* Lets a thread exit whose word this is, and waits until it is gone. */
static void run_thread(int *word)
{
        static char stack[64 << 10] __attribute__((__aligned__(16)));
        pid_t tid =
                (pid_t)FACT_OK(error_from(clone(thread_run, stack + sizeof(stack),
                                                CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND |
                                                        CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_CLEARTID,
                                                NULL, NULL, NULL, word)));

        while (error_from(syscall(SYS_tgkill, getpid(), tid, 0)) != -ESRCH)
                sched_yield();
}

/* Returns whether the write was lost. */
static bool check_merged(int device)
{
        int hold = fact_context(device, HOLD_FEATURES), before;
        struct fact_pool pool;
        int *word;

        fact_pool(&pool, 1, 1);
        word = (int *)(void *)fact_map_merged(hold, &pool, 0, 1);
        before = *word;
        run_thread(word);
        return *word == before && fact_quiet(hold);
}

static bool check_frozen(int device)
{
        int guard = fact_context(device, GUARD_FEATURES), stage = fact_context(device, STAGE_FEATURES);
        char *page = fact_map(1), *staging = fact_map(1);
        int *word = (int *)(void *)page;
        bool quiet;

        *word = UNTOUCHED;
        FACT_OK(uffd_register(stage, (uintptr_t)staging, PAGE_BYTES, UFFDIO_REGISTER_MODE_MISSING));
        FACT_OK(uffd_register(guard, (uintptr_t)page, PAGE_BYTES, UFFDIO_REGISTER_MODE_MISSING));
        FACT_OK(uffd_move(stage, (uintptr_t)staging, (uintptr_t)page, PAGE_BYTES, 0));
        run_thread(word);
        quiet = fact_quiet(guard);
        FACT_OK(uffd_move(guard, (uintptr_t)page, (uintptr_t)staging, PAGE_BYTES, 0));
        return *word == UNTOUCHED && quiet;
}

static void check_tracked(int device)
{
        int track = fact_context(device, TRACK_FEATURES), pagemap = fact_pagemap();
        char *page = fact_map(1);
        int *word = (int *)(void *)page;

        *word = UNTOUCHED;
        FACT_OK(uffd_register(track, (uintptr_t)page, PAGE_BYTES, UFFDIO_REGISTER_MODE_WP));
        FACT_OK(pagemap_protect(pagemap, (uintptr_t)page, (uintptr_t)page + PAGE_BYTES));
        FACT_CHECK(fact_written(pagemap, page, 1) == 0, "written before there was a thread");
        run_thread(word);
        FACT_CHECK(*word == 0, "%d", *word);
        FACT_CHECK(fact_written(pagemap, page, 1) == 1, "the scan does not see it");
}

int main(void)
{
        int device;

        fact_begin();
        device = fact_device();
        fact_step("an exiting thread");
        check_tracked(device);
        if (!check_merged(device) || !check_frozen(device))
                fact_skip("this kernel serves the faults of exiting threads: the rule is no longer needed");
        return 0;
}
