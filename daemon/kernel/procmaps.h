#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * /proc/PID/smaps (proc_pid_smaps(5)): a streaming parser, pure; and the reader that feeds it
 *
 * Says of each mapping what memory it is, so that unsuitable memory can be refused with a reason. /proc/PID/maps is the same
 * with less: without flags and pkey, and without the walk of all page tables that smaps costs.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

/* VmFlags that decide about suitability (Documentation/filesystems/proc.rst); others are ignored. */
enum vma_flag {
        VMA_LOCKED = 1 << 0,        /* lo */
        VMA_IO = 1 << 1,            /* io */
        VMA_PFNMAP = 1 << 2,        /* pf */
        VMA_HUGETLB = 1 << 3,       /* ht */
        VMA_GROWSDOWN = 1 << 4,     /* gd */
        VMA_DONTFORK = 1 << 5,      /* dc */
        VMA_DONTDUMP = 1 << 6,      /* dd */
        VMA_WIPEONFORK = 1 << 7,    /* wf */
        VMA_MERGEABLE = 1 << 8,     /* mg: the kernel's KSM has it */
        VMA_UFFD_MISSING = 1 << 9,  /* um */
        VMA_UFFD_WP = 1 << 10,      /* uw */
        VMA_UFFD_MINOR = 1 << 11,   /* ui */
        VMA_SEALED = 1 << 12,       /* sl */
        VMA_MIXED = 1 << 13,        /* mm */
        VMA_SHARED_STACK = 1 << 14, /* ss: shadow stack */
        VMA_RANDOM = 1 << 15,       /* rr: MADV_RANDOM */
        VMA_SEQUENTIAL = 1 << 16,   /* sr: MADV_SEQUENTIAL */
        VMA_DROPPABLE = 1 << 17,    /* dp: MAP_DROPPABLE */
        VMA_NORESERVE = 1 << 18,    /* nr: MAP_NORESERVE */
        VMA_HUGEPAGE = 1 << 19,     /* hg: MADV_HUGEPAGE */
        VMA_NOHUGEPAGE = 1 << 20,   /* nh: MADV_NOHUGEPAGE */
};

struct vma {
        uint64_t start; /* bytes */
        uint64_t end;
        uint64_t offset;
        uint64_t inode;
        uint32_t dev_major;
        uint32_t dev_minor;
        uint32_t protection; /* PROT_* */
        bool shared;         /* MAP_SHARED */
        uint32_t flags;      /* enum vma_flag */
        int pkey;            /* ProtectionKey, 0 when there is none */
        char name
                [96]; /* "[heap]", "[anon:NAME]" as a whole, a path, cut to fit; empty for other anonymous memory */
};

/* Called for each mapping; a return value other than 0 ends the parse and is its result. */
typedef int (*procmaps_visit)(void *context, const struct vma *vma);

struct procmaps_parser {
        procmaps_visit visit;
        void *context;
        struct vma vma;
        bool open; /* a mapping's header has been seen, its end not yet */
        size_t n_line;
        char line[512]; /* longer lines are cut: only the pathname can be that long */
};

#define PROCMAPS_PARSER_INIT(_visit, _context)                                                               \
        {                                                                                                    \
                .visit = (_visit), .context = (_context)                                                     \
        }

/* Feeds text in pieces of any size. 0, the visitor's result, or -EBADMSG: not the format of smaps or maps. */
int procmaps_feed(struct procmaps_parser *parser, const char *text, size_t length) wp_check;
/* End of file: reports the last mapping. */
int procmaps_finish(struct procmaps_parser *parser) wp_check;

/* Reads a whole smaps or maps file through the parser; ends early, without error, when the visitor returns > 0. */
int procmaps_read(int maps_fd, procmaps_visit visit, void *context) wp_check;
