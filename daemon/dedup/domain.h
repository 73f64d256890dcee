#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Domain: one trust domain, which owns a secret, an index and a pool; nothing crosses its border
 *
 * When a slot's page may be given back: when the kernel says that nobody maps it (poolfile_unmapped()), and only
 * then. That our own count of sharers is 0 is merely the reason to ask. A forked child may map the page, whether its
 * parent told us of it or not; a writer that was let go may not have copied it yet; a client may have lied; a daemon
 * before this one may have handed it out. All of them show in the page tables. Nobody can start to map a page behind
 * our back: a mapping of the pool that was not populated by the agent when it merged is answered with zeros, and what
 * a batch under way will map is pinned.
 */

#include <stdint.h>
#include <sys/types.h>

#include "core/region.h"
#include "dedup/index.h"
#include "dedup/pool.h"
#include "dedup/worker.h"
#include "kernel/anchor.h"
#include "util/error.h"
#include "util/list.h"

struct slot_list {
        uint32_t *slots;
        uint32_t n;
        uint32_t capacity;
};

struct domain {
        struct list link;
        uid_t uid;
        uint8_t secret[WORK_SECRET_BYTES];
        struct index index;
        struct pool pool;
        int pool_fd; /* for writing */
        uint64_t pool_dev;
        uint64_t pool_inode;
        struct region **regions; /* by id; NULL: free */
        uint32_t n_regions;      /* length of the array */
        uint32_t region_hint;
        struct anchors *anchors;
        uint32_t spill; /* extent for content whose own place is taken, and the next slot in it */
        uint32_t spill_next;
        struct slot_list adopted; /* slots of an adopted pool that have not been read yet */
        struct slot_list retired; /* slots that became so lately; an entry may be outdated */
        struct slot_list waiting; /* those that were found to be mapped still */
        uint64_t waiting_since_ns;
        uint64_t recheck_delay_ns; /* how long they wait at least */
};

/* The length that a pool file has at most. It grows as it is written, and is sparse; what is used is bounded by the settings and by memory. */
#define DOMAIN_POOL_BYTES ((uint64_t)POOL_MAX_EXTENTS * POOL_EXTENT_SLOTS << PAGE_SHIFT)

/*
 * mount_fd: where pool files are made (poolfile_mount). The anchors are all domains'. `adopted`: the pool of a daemon
 * before this one, open for writing, which becomes the domain's on success; -EBADF: none.
 */
int domain_new(uid_t uid, int mount_fd, int adopted, struct anchors *anchors,
               struct domain **ret_domain) wp_check;
struct domain *domain_free(struct domain *domain);

/* Gives the region an id; -ENOMEM, -EDQUOT: no id is free. */
int domain_add_region(struct domain *domain, struct region *region) wp_check;
void domain_remove_region(struct domain *domain, struct region *region);
struct region *domain_region(const struct domain *domain, uint32_t id);

/* A slot for the content of a page, at the place that mirrors it if that is free. The slot has one pin. */
int domain_place(struct domain *domain, struct region *region, uint32_t page, uint32_t key,
                 uint32_t *ret_slot) wp_check;

/*
 * Whether the slot's extent still needs an anchor before anybody may map the slot: 1 and an anchor of its own
 * in *ret_anchor, which pins the slot from now on as far as the domain knows (the caller sees to it), 0 if it
 * has one, or -ENOSPC.
 */
int domain_anchor(struct domain *domain, uint32_t slot, uint32_t *ret_anchor) wp_check;
/* The anchor that domain_anchor() gave is not going to pin the slot after all. */
void domain_unanchor(struct domain *domain, uint32_t slot);

/* One sharer or pin less. */
void domain_unshare(struct domain *domain, uint32_t slot);
void domain_unpin(struct domain *domain, uint32_t slot);

/*
 * A page of a client was found to map the slot, from before: one sharer more. -ENOENT: the slot has no content that we
 * know of.
 */
int domain_claim(struct domain *domain, uint32_t slot) wp_check;

/* The content of the slot could not be stored: nobody is to find it. */
void domain_spoil(struct domain *domain, uint32_t slot);

/*
 * Gives back what nobody maps, a bounded number of pages at a time. pagemap_fd: our own. Returns when it wants to be called
 * again: `now_ns` when there is more to look at, UINT64_MAX when nothing is retired.
 */
uint64_t domain_reclaim(struct domain *domain, int pagemap_fd, uint64_t now_ns);

size_t domain_bytes(const struct domain *domain);
