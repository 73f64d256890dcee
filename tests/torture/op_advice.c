/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Operations: madvise(2), mprotect(2) and mlock(2). */

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "torture/entry.h"
#include "torture/op.h"

/* Newer than the C library's headers. */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define ENTRIES_AT_ONCE  512
#define MAX_LOCKED_PAGES 64 /* RLIMIT_MEMLOCK of an ordinary user is small */

/* The call as the C library makes it, or without it. */
static int advise(struct worker *worker, const struct range *range, int advice)
{
        return coin(worker) ? madvise(range_memory(range), range_bytes(range), advice)
                            : (int)syscall(SYS_madvise, range_memory(range), range_bytes(range), advice);
}

/* ------------------------------------------------------------------ discarding */

void op_dontneed(struct worker *worker, struct area *area)
{
        struct range range;

        if (!gate_enter(&area->discards))
                return;
        if (range_take(worker, area, SIZE_MAX, true, &range)) {
                if (coin(worker))
                        range_verify(worker, &range, "before it is discarded");
                range_discard_shadow(&range);
                EXPECT_AT(range_memory(&range), advise(worker, &range, MADV_DONTNEED) == 0,
                          "MADV_DONTNEED: %s", strerror(errno));
                /* A child settles at once what it reads; see page_verify(). */
                if (worker->depth || coin(worker))
                        range_verify(worker, &range, "after it was discarded");
                range_give(worker, &range);
        }
        gate_leave(&area->discards);
}

/*
 * A process that frees pages can make others lose theirs if they share them since fork(2) and somebody reads with
 * process_vm_readv(2): that is the kernel's fault (tests/kernel/shared_lazyfree.c). So these are written first.
 */
static void stop_sharing(const struct range *range)
{
        uint64_t entries[ENTRIES_AT_ONCE];

        for (size_t done = 0, n; done < range->n; done += n) {
                char *memory = range_memory(range) + done * PAGE_BYTES;
                int r;

                n = MIN(range->n - done, ENTRIES_AT_ONCE);
                r = entries_read(getpid(), (uintptr_t)memory, entries, n);
                EXPECT(r == 0, "/proc/self/pagemap: %s", strerror(-r));
                for (size_t i = 0; i < n; i++)
                        if ((entries[i] & (ENTRY_PRESENT | ENTRY_FILE | ENTRY_EXCLUSIVE)) == ENTRY_PRESENT)
                                *(volatile char *)(memory + i * PAGE_BYTES) = memory[i * PAGE_BYTES];
        }
}

/* A write ends what MADV_FREE began: from then on the page is what it was or zeros, but for that byte. */
static void settle_freed(struct worker *worker, const struct range *range, size_t page)
{
        size_t offset = draw(worker, PAGE_BYTES);
        char *memory = range_memory(range) + page * PAGE_BYTES,
             *shadow = range_shadow(range) + page * PAGE_BYTES;
        char value = (char)draw(worker, 256);

        *(volatile char *)(memory + offset) = value;
        shadow[offset] = value;
        if (memcmp(memory, shadow, PAGE_BYTES)) {
                memset(shadow, 0, PAGE_BYTES);
                shadow[offset] = value;
        }
        page_verify(worker, range, page, "after MADV_FREE, neither as before nor zeros");
}

/* EINVAL: some of it is merged, or was; what lies before that is freed all the same. */
void op_free(struct worker *worker, struct area *area)
{
        struct range range;

        if (!gate_enter(&area->discards))
                return;
        if (range_take(worker, area, SIZE_MAX, true, &range)) {
                range_verify(worker, &range, "before it is freed");
                stop_sharing(&range);
                if (advise(worker, &range, MADV_FREE) < 0) {
                        EXPECT_AT(range_memory(&range), errno == EINVAL, "MADV_FREE: %s", strerror(errno));
                        count(COUNT_TOLERATED, 1);
                }
                for (size_t page = 0; page < range.n; page++)
                        settle_freed(worker, &range, page);
                range_give(worker, &range);
        }
        gate_leave(&area->discards);
}

/* ------------------------------------------------------------------ advice that changes nothing */

/* `must_work`: as it would without wpd. */
static void advise_and_verify(struct worker *worker, struct area *area, int advice, const char *name,
                              bool must_work)
{
        struct range range;

        if (!range_take(worker, area, SIZE_MAX, false, &range))
                return;
        if (advise(worker, &range, advice) < 0)
                EXPECT_AT(range_memory(&range), !must_work, "%s: %s", name, strerror(errno));
        range_verify(worker, &range, name);
        range_give(worker, &range);
}

void op_cold(struct worker *worker, struct area *area)
{
        advise_and_verify(worker, area, MADV_COLD, "after MADV_COLD", true);
}

void op_pageout(struct worker *worker, struct area *area)
{
        advise_and_verify(worker, area, MADV_PAGEOUT, "after MADV_PAGEOUT", true);
}

void op_populate(struct worker *worker, struct area *area)
{
        if (coin(worker))
                advise_and_verify(worker, area, MADV_POPULATE_READ, "after MADV_POPULATE_READ", true);
        else
                advise_and_verify(worker, area, MADV_POPULATE_WRITE, "after MADV_POPULATE_WRITE", true);
}

/* The kernel need not have huge pages, nor one at hand. */
void op_huge(struct worker *worker, struct area *area)
{
        static const int advice[] = {MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_COLLAPSE};

        advise_and_verify(worker, area, advice[draw(worker, ARRAY_SIZE(advice))],
                          "after advice about huge pages", false);
}

/* ------------------------------------------------------------------ locking */

/* Sanitizers make the C library's calls do nothing. */
void op_lock(struct worker *worker, struct area *area)
{
        struct range range;
        long r;

        if (!range_take(worker, area, MAX_LOCKED_PAGES, true, &range))
                return;
        r = syscall(SYS_mlock2, range_memory(&range), range_bytes(&range), coin(worker) ? MLOCK_ONFAULT : 0);
        EXPECT_AT(range_memory(&range), r == 0 || errno == ENOMEM || errno == EPERM || errno == EAGAIN,
                  "mlock: %s", strerror(errno));
        range_verify(worker, &range, "while it is locked");
        EXPECT_AT(range_memory(&range), syscall(SYS_munlock, range_memory(&range), range_bytes(&range)) == 0,
                  "munlock: %s", strerror(errno));
        range_verify(worker, &range, "after it was unlocked");
        range_give(worker, &range);
}

/* ------------------------------------------------------------------ protection */

static void protect(struct worker *worker, const struct range *range, int protection)
{
        long r = coin(worker) ? mprotect(range_memory(range), range_bytes(range), protection)
                              : syscall(SYS_mprotect, range_memory(range), range_bytes(range), protection);

        EXPECT_AT(range_memory(range), r == 0, "mprotect: %s", strerror(errno));
}

/* Lets the kernel write a byte there, which is to fail, without a signal. */
static void probe_write(struct worker *worker, const struct range *range, bool must_fail)
{
        size_t offset = draw(worker, range_bytes(range));
        char byte = (char)draw(worker, 256);
        ssize_t r;

        EXPECT(write(worker->pipe[1], &byte, 1) == 1, "write to a pipe: %s", strerror(errno));
        r = read(worker->pipe[0], range_memory(range) + offset, 1);
        if (r < 0) {
                EXPECT(errno == EFAULT, "read into protected memory: %s", strerror(errno));
                EXPECT(read(worker->pipe[0], &byte, 1) == 1, "read from a pipe: %s", strerror(errno));
                return;
        }
        EXPECT_AT(range_memory(range) + offset, !must_fail, "read-only memory could be written");
        count(COUNT_TOLERATED, 1);
        range_shadow(range)[offset] = byte;
}

static void probe_read(struct worker *worker, const struct range *range, bool must_fail)
{
        const char *memory = range_memory(range) + draw(worker, range_bytes(range));
        char byte;

        if (write(worker->pipe[1], memory, 1) < 0) {
                EXPECT(errno == EFAULT, "write from protected memory: %s", strerror(errno));
                return;
        }
        EXPECT_AT(memory, !must_fail, "memory without permissions could be read");
        count(COUNT_TOLERATED, 1);
        EXPECT(read(worker->pipe[0], &byte, 1) == 1, "read from a pipe: %s", strerror(errno));
}

/* doc/memory.md: only of memory that cannot be merged is it sure that a change of protection is not lost. */
static void protect_and_probe(struct worker *worker, const struct range *range, bool must_fail)
{
        bool none = coin(worker);

        protect(worker, range, none ? PROT_NONE : PROT_READ);
        probe_write(worker, range, must_fail);
        if (none)
                probe_read(worker, range, must_fail);
        else
                range_verify(worker, range, "while it is read-only");
        protect(worker, range, PROT_READ | PROT_WRITE);
        range_verify(worker, range, "after protections were changed");
}

void op_protect(struct worker *worker, struct area *area)
{
        struct range range;

        if (!range_take(worker, area, SIZE_MAX, true, &range))
                return;
        if (coin(worker) && exclusion_begin(worker, &range)) {
                protect_and_probe(worker, &range, true);
                exclusion_end(worker, &range);
        } else {
                protect_and_probe(worker, &range, false);
        }
        range_give(worker, &range);
}
