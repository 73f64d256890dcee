#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What the files of the merger share: merger.c (rounds), match.c (matching, promoting), task.c (regions and
 * their owners).
 */

#include "dedup/merger.h"
#include "dedup/planner.h"
#include "dedup/scan.h"
#include "dedup/worker.h"

enum task_kind {
        TASK_UNREGISTER,
        TASK_EXCLUDE,
        TASK_PROTECT,
        TASK_UNMERGE,
};

/* Work on a region on behalf of its owner; in member->tasks, in order of arrival. */
struct task {
        struct list link;
        enum task_kind kind;
        struct member *member;
        struct region *region;
        uint32_t page;
        uint32_t n_pages;
        bool giving_back; /* its unmerge runs are queued or in flight */
        unsigned n_runs;  /* of them */
        int error;
        bool lost; /* some of the memory is not where it was registered */
        merger_done done;
        void *context;
};

/* A register call that waits for the worker to look at the memory. */
struct inspection {
        struct list link;
        struct member *member; /* NULL: hung up meanwhile */
        uint64_t start;
        uint64_t length;
        uint64_t flags;
        int smaps_fd;
        struct vma *vmas;
        size_t n_vmas;
        uint64_t n_mappings;
        bool opening;     /* it is a mapping of a file, which is being opened */
        uint64_t *shared; /* see struct work */
        merger_done done;
        void *context;
};

#define INSPECTION_VMAS 8192

struct scan_request {
        struct list link;
        pid_t pid;
        unsigned rounds_left;
        uint64_t deadline_ns; /* for the queues to drain, once the rounds are over */
        merger_scanned done;
        void *context;
};

/* A range whose owner waits until it is merged: a round of its own, and then its runs. */
struct merging {
        struct list link;
        struct member *member;
        struct region *region; /* NULL: it went away */
        uint32_t page;
        uint32_t n_pages;
        bool walked;          /* its round is over; then, at the latest at */
        uint64_t deadline_ns; /* its runs are at home */
        uint64_t merged_before;
        uint64_t zero_before;
        merger_merged done;
        void *context;
};

struct round_entry {
        struct domain *domain;
        uint32_t region;
};

struct round {
        bool active;
        struct round_entry *entries;
        size_t n_entries;
        size_t next_entry;
        struct merging
                *merging;      /* on behalf of it alone; NULL: an ordinary round, or it went away meanwhile */
        bool at_once;          /* see scan_digest() */
        struct region *region; /* being walked; NULL: none, or it went away meanwhile */
        uint32_t page;         /* where the next window starts */
        uint32_t end;          /* and the last one ends */
        uint32_t window_first;
        uint32_t window_end;
        struct scan_output output;
        size_t read_range; /* next to be read in output.read */
        uint32_t read_offset;
        size_t n_reads;
        struct work_read reads[WORK_READ_PAGES];
        struct match matches[WORK_READ_PAGES];
        uint32_t read_pages[WORK_READ_PAGES];
        struct work_store stores[WORK_READ_PAGES];
        size_t n_stores;
        struct domain *store_domain;
        /* Candidates of files that became slots in this batch. */
        struct promotion {
                struct region *region;
                uint32_t page;
                uint32_t slot;
                uint32_t key;
        } promotions[WORK_READ_PAGES];
        size_t n_promotions;
        struct list storing; /* runs whose content is being stored */
        uint64_t n_changed;  /* pages read or protected in this round */
        uint64_t n_pages;    /* walked in this round */
};

struct merger {
        const struct member_ops *ops;
        struct anchors *anchors;
        struct merger_settings settings;
        struct list domains;
        struct list members;
        struct list inspections;
        struct list requests;
        struct list mergings;
        struct list backings;
        struct range_list dropping; /* pages of a file that the worker drops, */
        int drop_fd;                /* through this descriptor; or -EBADF */
        struct worker *worker;
        struct work work;
        struct work_range protects[WORK_SURVEY_RUNS];
        struct page_region runs[WORK_SURVEY_RUNS];
        bool working;               /* the worker has `work` */
        struct member *work_member; /* whose descriptors it uses */
        bool survey_stale;          /* pages of the region that is being surveyed were merged meanwhile */
        struct inspection *inspecting;
        int own_pagemap_fd;
        struct domain *adopting; /* whose slots are being read; see prepare_adoption() */
        uint64_t work_began_ns;
        uint64_t not_before_ns; /* CPU budget: no work for rounds until then */
        uint64_t next_round_ns;
        uint64_t sleep_ns;
        bool paused;
        bool retry_refused;
        bool retry_candidates;
        struct round round;
        struct merger_stat stat; /* the counters; totals are made when asked for */
        struct hist lease_wait;  /* as in struct merger_stat */
};

static inline struct member *member_of(const struct region *region)
{
        return list_entry(region->space, struct member, space);
}

/* merger.c */
/* Answers those who wait for a range to be merged, if it is. */
void merger_answer_mergings(struct merger *merger, uint64_t now_ns);
/* The region, or all of the member's (NULL), goes away: who waits hears of that, or nothing (abandon). */
void merger_end_mergings(struct merger *merger, const struct member *member, const struct region *region,
                         bool abandon);
void merger_advance(struct merger *merger, uint64_t now_ns);
void merger_wake(struct merger *merger); /* there is something new to look at */

/* match.c: what was read; its content was stored, or could not be; slots of a pool that was adopted were read. */
void match_reads(struct merger *merger);
void match_stored(struct merger *merger, int error);
void match_adopted(struct merger *merger);

/*
 * files.c. files_adopt() takes over a descriptor with a lease, also when it fails; -EAGAIN: the lease is about to end. The rest
 * is for regions that have a backing.
 */
int files_adopt(struct merger *merger, struct domain *domain, int fd, const struct stat *st,
                struct backing **ret_backing) wp_check;
/* The region begins with this page of the file, of which its owner gets a descriptor. */
int files_join(struct merger *merger, struct backing *backing, struct region *region, uint32_t page) wp_check;
/* Files of which nothing is registered after all are forgotten. */
void files_sweep(struct merger *merger, uint64_t now_ns);
/*
 * The connection is gone, and the client, if it lives, is giving back what is merged of files. So that nobody writes before it
 * has, leases are kept for as long as it has time for that.
 */
void files_hang_up(struct member *member);
void files_leave(struct merger *merger, struct region *region);
bool files_scannable(const struct region *region);
/*
 * Whether pages of the region can come to share at any moment: not if the program may write to them just then, which nothing
 * prevents, nor if they are executable, as those of the pool are not.
 */
bool files_promotable(const struct region *region);
/* Whether it is no mapping of a file, or the file stays as it is. */
bool files_leased(const struct region *region);
/* What of pages [first, end) is to be read now. */
int files_digest(struct region *region, uint32_t first, uint32_t end, bool at_once,
                 struct range_list *read) wp_check;
uint64_t files_read_offset(const struct region *region, uint32_t page); /* bytes */
/*
 * Makes a page of a region the alias of a page of another file's region, as far as planning goes: the key that stands for that.
 * -EOPNOTSUPP: these two cannot be; -ENOSPC: the client has descriptors of too many files. files_unalias(): it is none.
 */
bool files_may_alias(const struct region *region, const struct region *other);
int files_alias(struct merger *merger, struct region *region, const struct region *other, uint32_t other_page,
                uint32_t *ret_key) wp_check;
void files_unalias(struct member *member, uint32_t key);
/* Numbers that mean nothing any more are free again. */
void files_forget_numbers(struct merger *merger, struct member *member);
/* A page of it is merged. */
void files_merged(struct region *region, uint32_t page);
/* Work for the worker, and its end; false: there is, or was, none. */
bool files_prepare_drops(struct merger *merger);
bool files_dropped(struct merger *merger);
/* Leases that are about to end, and those to be taken again; returns when it wants to be called next. */
uint64_t files_advance(struct merger *merger, uint64_t now_ns);

/* task.c */
void inspection_free(struct inspection *inspection);
void task_inspected(struct merger *merger, struct inspection *inspection);
void task_free(struct task *task);
void task_advance(struct merger *merger, struct member *member);
void task_abandon(struct merger *merger, struct member *member);
/* Whether content of a run of the region is being stored. */
bool task_storing(const struct merger *merger, const struct region *region);
/* The page is known to be private: it no longer counts as a sharer. */
void task_copied(struct region *region, uint32_t page);
/* Ends a region of a member, and the region itself. */
void task_end_region(struct merger *merger, struct member *member, struct region *region);
