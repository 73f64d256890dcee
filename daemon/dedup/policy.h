#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Policy: which memory can take part, and how many VMAs merging may spend on a process. Pure. */

#include <stdint.h>

#include "kernel/procmaps.h"

/*
 * Why memory, a page or a merge was refused. One list for `status` (merge_failures), `doctor` and errors: the
 * symbol, its name in JSON, what it means and what to do about it.
 */
#define REASON_LIST(X)                                                                                       \
        X(NONE, "none", "takes part", "")                                                                    \
        X(UNMAPPED, "unmapped", "nothing is mapped there", "register memory after mapping it")               \
        X(SHARED, "shared", "a shared mapping", "use MAP_PRIVATE memory")                                    \
        X(FILE, "file", "a mapping of a file", "only private anonymous memory is merged so far")             \
        X(PROTECTION, "protection", "not both readable and writable, or executable",                         \
          "mprotect() it PROT_READ|PROT_WRITE before registering")                                           \
        X(HUGETLB, "hugetlb", "hugetlbfs pages", "use ordinary pages")                                       \
        X(DEVICE, "device", "device or special memory", "register ordinary memory only")                     \
        X(LOCKED, "locked", "mlocked: its pages may not move", "munlock() it first")                         \
        X(STACK, "stack", "grows down on demand", "register memory from mmap()")                             \
        X(SEALED, "sealed", "sealed by mseal()", "register it before sealing, or leave it out")              \
        X(PKEY, "pkey", "has a protection key", "use memory with the default key")                           \
        X(KSM, "ksm", "given to the kernel's KSM", "madvise(MADV_UNMERGEABLE) first")                        \
        X(UFFD, "userfaultfd", "the program uses userfaultfd on it itself", "leave it out")                  \
        X(ADVICE, "advice", "has MADV_DONTFORK, DONTDUMP or WIPEONFORK, which merging would lose",           \
          "undo the advice, or leave it out")                                                                \
        X(REMNANT, "remnant", "was merged earlier and is a private copy now",                                \
          "map fresh memory to merge it")                                                                    \
        X(CHANGED, "changed", "changed between scan and merge", "none needed: it is tried again")            \
        X(BUSY, "busy", "pinned for DMA, or shared with a forked child",                                     \
          "none needed: it is tried again; wp_exclude() buffers for DMA")                                    \
        X(VMA_BUDGET, "vma_budget", "the process has spent its VMA budget",                                  \
          "raise vm.max_map_count or merge longer runs")                                                     \
        X(POOL, "pool", "no memory or room for canonical pages", "free memory or raise pool_max_bytes")      \
        X(AGENT, "agent", "the client's agent failed or did not answer", "see the client's log")

enum reason {
#define X(_symbol, _name, _text, _remedy) REASON_##_symbol,
        REASON_LIST(X)
#undef X
                REASON_N,
};

const char *reason_name(enum reason reason);
const char *reason_text(enum reason reason);
const char *reason_remedy(enum reason reason);

/*
 * Whether the mapping can be registered for merging. REASON_REMNANT for a mapping of our own pool
 * (pool_dev/pool_inode): its pages are left alone, the rest of the region takes part. Memory that our own
 * track context holds (reconnect) counts as UFFD too: it is taken over only after the old context is closed.
 */
enum reason policy_vma(const struct vma *vma, uint64_t pool_dev, uint64_t pool_inode);

/*
 * VMAs that merging may add to a process: a share of vm.max_map_count that leaves headroom for the program.
 * n_existing: the mappings that it has without us.
 */
uint64_t policy_vma_budget(uint64_t max_map_count, uint64_t n_existing);
