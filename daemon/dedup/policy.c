/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Policy: which memory can take part, and how many VMAs merging may spend on a process. */

#include "dedup/policy.h"

#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include "kernel/mapfile.h"
#include "util/bits.h"

struct reason_words {
        const char *name;
        const char *text;
        const char *remedy;
};

static const struct reason_words words[REASON_N] = {
#define X(_symbol, _name, _text, _remedy) [REASON_##_symbol] = {_name, _text, _remedy},
        REASON_LIST(X)
#undef X
};

static const struct reason_words *words_of(enum reason reason)
{
        static const struct reason_words invalid = {"invalid", "", ""};

        return (unsigned)reason < REASON_N ? &words[reason] : &invalid;
}

const char *reason_name(enum reason reason)
{
        return words_of(reason)->name;
}

const char *reason_text(enum reason reason)
{
        return words_of(reason)->text;
}

const char *reason_remedy(enum reason reason)
{
        return words_of(reason)->remedy;
}

/* How the kernel shows the name that a program has given to anonymous memory. */
#define NAMED "[anon:"

bool policy_is_pool(const struct vma *vma, uint64_t pool_dev, uint64_t pool_inode)
{
        return !vma->shared && vma->inode && vma->inode == pool_inode &&
               makedev(vma->dev_major, vma->dev_minor) == pool_dev;
}

/* Mappings that the kernel makes for itself; programs cannot give memory such a name. */
static bool is_special(const struct vma *vma)
{
        static const char *const names[] = {"[vdso]", "[vvar", "[vsyscall]", "[uprobes]"};

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (!strncmp(vma->name, names[i], strlen(names[i])))
                        return true;
        return false;
}

/* What memfd_secret(2) makes is a file of that name, which no process has mounted. */
static bool is_secret(const struct vma *vma)
{
        return vma->inode && vma->shared && !strncmp(vma->name, "/secretmem", strlen("/secretmem"));
}

/* Memory that is of no use to us whatever is to be done with it. */
static enum reason special_reason(const struct vma *vma)
{
        if (is_secret(vma))
                return REASON_SECRET;
        if (vma->flags & (VMA_IO | VMA_PFNMAP | VMA_MIXED) || is_special(vma))
                return REASON_DEVICE;
        if (vma->flags & VMA_HUGETLB)
                return REASON_HUGETLB;
        return REASON_NONE;
}

static bool is_stack(const struct vma *vma)
{
        return vma->flags & (VMA_GROWSDOWN | VMA_SHARED_STACK);
}

/* What kind of memory it is: nothing that the program does later changes it. */
static enum reason kind_reason(const struct vma *vma)
{
        enum reason reason = special_reason(vma);

        if (reason != REASON_NONE)
                return reason;
        if (vma->shared)
                return REASON_SHARED;
        if (vma->inode || vma->dev_major || vma->dev_minor)
                return REASON_FILE;
        return is_stack(vma) ? REASON_STACK : REASON_NONE;
}

/* What the program has asked for; `taken`: that another userfaultfd has it. */
static enum reason advice_reason(const struct vma *vma, bool taken)
{
        if (vma->flags & VMA_SEALED)
                return REASON_SEALED;
        if (vma->pkey)
                return REASON_PKEY;
        if (vma->flags & VMA_LOCKED)
                return REASON_LOCKED;
        if (vma->flags & VMA_MERGEABLE)
                return REASON_KSM;
        if (taken)
                return REASON_UFFD;
        if (vma->flags &
            (VMA_DONTFORK | VMA_DONTDUMP | VMA_WIPEONFORK | VMA_RANDOM | VMA_SEQUENTIAL | VMA_DROPPABLE))
                return REASON_ADVICE;
        return REASON_NONE;
}

bool policy_is_file(const struct vma *vma)
{
        return vma->inode && !(vma->shared && vma->protection & PROT_WRITE) &&
               special_reason(vma) == REASON_NONE;
}

enum reason policy_vma_file(const struct vma *vma, bool wanted)
{
        static const char memfd[] = "/memfd:"; /* which no process has mounted */

        if (!strncmp(vma->name, memfd, strlen(memfd)))
                return REASON_STORAGE;
        if (vma->protection & PROT_EXEC && !wanted)
                return REASON_EXECUTABLE;
        if (!(vma->protection & PROT_READ) || (vma->protection & PROT_WRITE && vma->protection & PROT_EXEC))
                return REASON_PROTECTION;
        return advice_reason(vma, vma->flags & (VMA_UFFD_MISSING | VMA_UFFD_MINOR | VMA_UFFD_WP));
}

enum reason policy_file_system(const char *type)
{
        static const char *const good[] = {"ext4",  "ext3", "ext2",     "xfs",
                                           "btrfs", "f2fs", "squashfs", "erofs"};

        for (size_t i = 0; i < ARRAY_SIZE(good); i++)
                if (!strcmp(type, good[i]))
                        return REASON_NONE;
        if (!strcmp(type, MAPFILE_DAX))
                return REASON_DAX;
        return strcmp(type, "tmpfs") ? REASON_FILE_SYSTEM : REASON_STORAGE;
}

enum reason policy_vma_unmerged(const struct vma *vma)
{
        enum reason reason = special_reason(vma);

        if (reason != REASON_NONE)
                return reason;
        if (is_stack(vma))
                return REASON_STACK;
        return vma->protection == (PROT_READ | PROT_WRITE) ? REASON_NONE : REASON_PROTECTION;
}

/* What the program has made of it; the most lasting reason first. */
static enum reason state_reason(const struct vma *vma, bool resumed)
{
        const uint32_t taken = VMA_UFFD_MISSING | VMA_UFFD_MINOR | (resumed ? 0 : VMA_UFFD_WP);

        if (vma->protection != (PROT_READ | PROT_WRITE) && !(vma->flags & VMA_SEALED))
                return REASON_PROTECTION;
        return advice_reason(vma, vma->flags & taken);
}

enum reason policy_vma(const struct vma *vma, uint64_t pool_dev, uint64_t pool_inode, bool resumed)
{
        enum reason reason;

        if (policy_is_pool(vma, pool_dev, pool_inode))
                return REASON_REMNANT;
        if (resumed && !vma->shared && vma->inode && vma->flags & VMA_UFFD_MINOR &&
            !(vma->flags & (VMA_IO | VMA_PFNMAP | VMA_MIXED | VMA_HUGETLB)))
                return REASON_REMNANT;
        reason = kind_reason(vma);
        return reason != REASON_NONE ? reason : state_reason(vma, resumed);
}

void policy_kept_name(const struct vma *vma, char ret_name[REGION_NAME_BYTES])
{
        size_t length = strlen(vma->name);

        memset(ret_name, 0, REGION_NAME_BYTES);
        if (strncmp(vma->name, NAMED, strlen(NAMED)) || vma->name[length - 1] != ']')
                return;
        length -= strlen(NAMED) + 1;
        memcpy(ret_name, vma->name + strlen(NAMED), MIN(length, (size_t)REGION_NAME_BYTES - 1));
}

/* The program keeps a quarter of the limit for itself, or as much as it has now, so that it can double. */
uint64_t policy_vma_budget(uint64_t max_map_count, uint64_t n_existing)
{
        uint64_t headroom = MAX(max_map_count / 4, n_existing);

        if (n_existing >= max_map_count || max_map_count - n_existing <= headroom)
                return 0;
        return max_map_count - n_existing - headroom;
}
