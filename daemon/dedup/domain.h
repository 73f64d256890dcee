#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Domain: one trust domain, which owns a secret, an index and a pool; nothing crosses its border
 *
 * When a slot's page may be given back: a page that nobody shares any more may still be mapped by a child
 * that a client forked while it was merged. Children announce themselves: fork blocks until its event was
 * read. But the event may be read, and its report be on its way to us, while we learn from elsewhere that the
 * last sharer is gone. So a retired slot is first *condemned*, at a moment when no event is unread, and
 * punched when the fault service has reported everything it had read by then - if there still is no child. As
 * long as the domain has children, slots are retired but keep their page; when the last child is gone, all
 * retired slots are looked at again.
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
        int pool_fd;          /* for writing */
        int pool_readonly_fd; /* what clients get */
        uint64_t pool_dev;
        uint64_t pool_inode;
        struct region **regions; /* by id; NULL: free */
        uint32_t n_regions;      /* length of the array */
        uint32_t region_hint;
        struct anchors *anchors;
        uint32_t n_children;
        uint32_t spill; /* extent for content whose own place is taken, and the next slot in it */
        uint32_t spill_next;
        struct slot_list retired;   /* slots that nobody shares any more */
        struct slot_list condemned; /* of these, those whose pages go when the fault service is in step */
};

/* The length of every pool file. Sparse; what is used is bounded by the settings and by memory. */
#define DOMAIN_POOL_BYTES ((uint64_t)POOL_MAX_EXTENTS * POOL_EXTENT_SLOTS << PAGE_SHIFT)

/* mount_fd: where pool files are made (poolfile_mount). The anchors are all domains'. */
int domain_new(uid_t uid, int mount_fd, struct anchors *anchors, struct domain **ret_domain) wp_check;
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

/* One sharer or pin less. */
void domain_unshare(struct domain *domain, uint32_t slot);
void domain_unpin(struct domain *domain, uint32_t slot);

/*
 * Giving pages back, in two steps. domain_condemn() is called when no member has events of hold unread: then
 * every fork so far is on its way to us. It says whether there is anything to give back. domain_punch()
 * follows when all that was on its way has arrived, and does nothing if there turned out to be a child.
 */
bool domain_condemn(struct domain *domain);
void domain_punch(struct domain *domain);

/* A forked child that may map slots has come, or gone. */
void domain_child_came(struct domain *domain);
void domain_child_gone(struct domain *domain);

size_t domain_bytes(const struct domain *domain);
