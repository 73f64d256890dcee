#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Backing: a file of which regions are read-only mappings, and the lease that keeps it as it is
 *
 * Theory of operation
 *
 * As long as we hold a read lease on the file its content cannot change, so a page of it may be replaced by a canonical page in
 * every mapping. When somebody wants to write the kernel tells us and lets him wait:
 *
 *   LEASED -> (a writer comes) -> BREAKING -> (nothing of it is merged any more) -> OPEN -> (nobody has it open
 *   for writing) -> LEASED ...
 *
 * While BREAKING nothing new is planned, and every region of the file is given back as its owner could ask for it. The
 * writer goes on when that is done, or at the latest after BACKING_BREAK_NS: members that have not answered by then are
 * sent away. What was read before a file was OPEN is forgotten.
 *
 * With other files it is merged by *aliases*: a page of one file is mapped in the place of the other's, so that it stays what
 * can be dropped and read again. Who gets a descriptor of a file for that may read all of it, so it is only for those who could
 * open it. With anonymous memory it is merged by the pool: where the file itself was mapped in its place, a page that the program
 * discards would read as the file's, and nobody could help it (tests/kernel/regular_file.c).
 *
 * Clients have descriptors that share the lease, and it outlasts the daemon with them (libwp/filerun.c). They could end it,
 * too, which is found out before long; a client's domain is hurt by that and nobody else, since each domain has leases of its own.
 *
 * One page of a file that several regions map is one page already. So they never match each other; when one of
 * them is merged its siblings follow, for only then the file's page can go. And `sites` counts how many share for each
 * page of the file, so that one page is not counted as saved twice.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "core/region.h"
#include "dedup/scan.h"
#include "util/error.h"
#include "util/list.h"

enum backing_state {
        BACKING_LEASED,
        BACKING_BREAKING,
        BACKING_OPEN,
};

/* How long a writer waits at most. */
#define BACKING_BREAK_NS (2 * NSEC_PER_SEC)

struct domain;

struct backing {
        struct list link;      /* in the merger's list */
        struct domain *domain; /* whose clients share the lease */
        int fd;                /* for reading */
        dev_t dev;
        ino_t inode;
        enum backing_state state;
        uint64_t
                deadline_ns; /* LEASED: when to look at it; BREAKING: of the members; OPEN: when to try the lease again */
        uint64_t retry_ns;   /* OPEN: between attempts */
        uint64_t leased_ns;  /* since when */
        uint64_t asked_ns;   /* BREAKING: since when we know of somebody who wants to write */
        uint64_t grace_ns;   /* until then somebody whose connection ended may still be giving back */
        uint32_t n_pages;    /* whole ones; what is behind them is never merged */
        struct list regions; /* region->sibling */
        uint16_t *sites;     /* by page: how many regions share it */
        uint64_t n_replaced; /* pages of the file that have any: equal pages are mapped in their place */
        uint64_t n_extra;    /* sites beyond the first, all together */
        bool others_read;    /* everybody may read it, */
        bool owner_reads;    /* or its owner, */
        uid_t owner;         /* who is this one */
        uint16_t *
                users; /* by page: how many pages of regions of other files are aliases of it, or are planned to be */
        uint64_t n_users;        /* all together */
        uint64_t n_canonical;    /* pages that have any */
        struct range_list drops; /* pages that were merged: the file's own may be of no use now */
};

/* Takes over the descriptor, which has a lease, on success. */
int backing_new(struct domain *domain, int fd, const struct stat *st, struct backing **ret_backing) wp_check;
/* Only when it has neither regions nor users. Ends the lease, whoever else has descriptors that share it. */
struct backing *backing_free(struct backing *backing);

/* The region begins with this page of the file. */
void backing_join(struct backing *backing, struct region *region, uint32_t page);
/* Its pages share no more. */
void backing_leave(struct region *region);

/* The page of the file that a page of a region is; whether there is one. */
bool backing_page(const struct region *region, uint32_t page, uint32_t *ret_page);
/* The page of a region that is this page of its file; whether there is one. */
bool backing_region_page(const struct region *region, uint32_t file_page, uint32_t *ret_page);

/* Whether two pages of regions are the same page of a file. */
bool backing_same(const struct region *a, uint32_t page_a, const struct region *b, uint32_t page_b);

/* A page of a region begins, or ends, to share. */
void backing_share(const struct region *region, uint32_t page);
void backing_unshare(const struct region *region, uint32_t page);

/* A page of a region of another file becomes an alias of this page, or is planned to; and is none any more. */
void backing_use(struct backing *backing, uint32_t page);
void backing_unuse(struct backing *backing, uint32_t page);

/* Whether clients of this user could have opened it for reading. */
bool backing_readable(const struct backing *backing, uid_t uid);

/* Whether some page of its regions is merged, or may be at any moment, or an alias of it is. */
bool backing_in_use(const struct backing *backing);
/* The same of one region. */
bool backing_merged(const struct region *region);

/* The file may have become shorter or longer. */
int backing_measure(struct backing *backing) wp_check;

size_t backing_bytes(const struct backing *backing);
