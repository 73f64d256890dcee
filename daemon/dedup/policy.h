#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Policy: which memory can take part, and how many VMAs merging may spend on a process. Pure. */

#include <stdint.h>

#include "core/region.h"
#include "kernel/procmaps.h"

/*
 * Why memory, a page or a merge was refused. One list for `status` (merge_failures), `doctor` and errors: the
 * symbol, its name in JSON, what it means and what to do about it.
 */
#define REASON_LIST(X)                                                                                       \
        X(NONE, "none", "takes part", "")                                                                    \
        X(UNMAPPED, "unmapped", "nothing is mapped there", "register memory after mapping it")               \
        X(SHARED, "shared", "a shared mapping", "use MAP_PRIVATE memory")                                    \
        X(FILE, "file", "a mapping of a file, and such are not merged here",                                 \
          "set merge_files, or use anonymous memory")                                                        \
        X(EXECUTABLE, "executable", "an executable mapping of a file",                                       \
          "register it with WP_EXEC, or leave it out")                                                       \
        X(STORAGE, "storage", "pages of a memfd or tmpfs file, which are the file itself",                   \
          "merging them would save nothing: leave it out")                                                   \
        X(FILE_SYSTEM, "file_system", "its file system does not promise to keep a file as it is",            \
          "use a local file system: ext4, xfs, btrfs")                                                       \
        X(DAX, "dax", "the file is accessed directly (DAX): its pages are the storage itself",               \
          "leave it out, or mount the file system without DAX")                                              \
        X(WRITTEN, "open_for_writing", "the file is open for writing",                                       \
          "register it when nobody has it open for writing")                                                 \
        X(EVENTS, "no_events", "writes to a mapping of a file cannot be noticed",                            \
          "register it without WP_NOTIFY and WP_LAZY")                                                       \
        X(UNPROTECTABLE, "unprotectable", "the kernel cannot write-protect it",                              \
          "use anonymous memory, memfd or tmpfs")                                                            \
        X(PROTECTION, "protection", "not both readable and writable, or executable",                         \
          "mprotect() it PROT_READ|PROT_WRITE before registering")                                           \
        X(SECRET, "secretmem", "secret memory, which nobody else may see", "leave it out")                   \
        X(HUGETLB, "hugetlb", "hugetlbfs pages", "use ordinary pages")                                       \
        X(DEVICE, "device", "device or special memory", "register ordinary memory only")                     \
        X(LOCKED, "locked", "mlocked: its pages may not move", "munlock() it first")                         \
        X(STACK, "stack", "grows down on demand", "register memory from mmap()")                             \
        X(SEALED, "sealed", "sealed by mseal()", "register it before sealing, or leave it out")              \
        X(PKEY, "pkey", "has a protection key", "use memory with the default key")                           \
        X(KSM, "ksm", "given to the kernel's KSM", "madvise(MADV_UNMERGEABLE) first")                        \
        X(UFFD, "userfaultfd", "the program uses userfaultfd on it itself", "leave it out")                  \
        X(ADVICE, "advice",                                                                                  \
          "has MADV_DONTFORK, DONTDUMP, WIPEONFORK, RANDOM or SEQUENTIAL, or is droppable",                  \
          "undo the advice, or leave it out")                                                                \
        X(MIXED, "mixed", "differs in name, MAP_NORESERVE or huge-page advice from what lies before it",     \
          "register the parts one by one")                                                                   \
        X(POLICY, "policy", "has a memory policy (mbind), which merging would lose",                         \
          "leave it out, or bind the whole process instead")                                                 \
        X(REMNANT, "remnant", "was merged earlier and is a private copy now",                                \
          "map fresh memory to merge it")                                                                    \
        X(CHANGED, "changed", "changed between scan and merge", "none needed: it is tried again")            \
        X(BUSY, "busy", "pinned for DMA, or shared with a forked child",                                     \
          "none needed: it is tried again; wp_exclude() buffers for DMA")                                    \
        X(VMA_BUDGET, "vma_budget", "the process has spent its VMA budget",                                  \
          "raise vm.max_map_count or merge longer runs")                                                     \
        X(POOL, "pool", "no memory or room for canonical pages", "free memory or raise pool_max_bytes")      \
        X(AGENT, "agent", "the client's agent failed or did not answer",                                     \
          "free memory or raise vm.max_map_count; unregister memory before unmapping it")

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
 * Whether it is a mapping of a file through which the file cannot be written as it is, which is merged in a way of its own
 * (dedup/backing.h); whether it can be, as far as smaps tells - executable ones where that is `wanted` -; and whether files of this
 * type of file system keep to their leases, and are opened without waiting for anybody.
 */
bool policy_is_file(const struct vma *vma);
enum reason policy_vma_file(const struct vma *vma, bool wanted);
enum reason policy_file_system(const char *type);

/* Whether it is a private mapping of that pool. */
bool policy_is_pool(const struct vma *vma, uint64_t pool_dev, uint64_t pool_inode);

/*
 * Whether the mapping can be registered without WP_MERGE, to be protected by the program, as far as that can be told without
 * asking the kernel: nothing of it is ever replaced, so it may be much that could not be merged.
 */
enum reason policy_vma_unmerged(const struct vma *vma);

/*
 * Whether the mapping can be registered for merging. REASON_REMNANT for a mapping of our own pool
 * (pool_dev/pool_inode), or of an earlier daemon's: what its pages are is for the caller to find out. Of a client
 * that has come back (`resumed`), memory under write protection is under its own track, and a private file mapping
 * that somebody serves minor faults of is one of a pool.
 */
enum reason policy_vma(const struct vma *vma, uint64_t pool_dev, uint64_t pool_inode, bool resumed);

/*
 * What is lost when a mapping is replaced, and what the agent gives to memory that it puts in the place of what was
 * merged: these flags (enum vma_flag), and the name that the program has given it (PR_SET_VMA_ANON_NAME). They must be
 * the same all over a region.
 */
#define POLICY_KEPT_FLAGS (VMA_NORESERVE | VMA_HUGEPAGE | VMA_NOHUGEPAGE)

/* Copies the name of anonymous memory, without what the kernel puts around it; empty when it has none. */
void policy_kept_name(const struct vma *vma, char ret_name[REGION_NAME_BYTES]);

/*
 * VMAs that merging may add to a process: a share of vm.max_map_count that leaves headroom for the program.
 * n_existing: the mappings that it has without us.
 */
uint64_t policy_vma_budget(uint64_t max_map_count, uint64_t n_existing);
