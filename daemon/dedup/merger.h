#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Merger: rounds of scanning, matching, planning and applying; the part of the daemon that makes pages one
 *
 * Theory of operation
 *
 * All of it runs on the control thread, in short steps, around one worker (worker.h) that does what takes
 * time. A *round* walks all regions in windows: survey a window, digest it (scan.h), protect what was
 * written, read what has settled, match what was read, store new canonical content, and only then hand the
 * runs to the members' queues (member.h). Results come back from agents whenever they do.
 *
 *   idle -> round: [survey -> digest -> (protect, read -> match -> store)*]* -> idle
 *
 * Between two rounds lies at least the settle interval; when rounds find nothing to do it doubles up to its
 * maximum, so that memory that does not change costs next to nothing.
 *
 * A page is a candidate only while its state says so, and a slot is used only after its content was stored.
 * Whatever changes in between is found out by the agent's comparison.
 *
 * *Tasks* change a region on behalf of its owner (unregister, exclude, protect): first nothing new is planned, then
 * what is queued is withdrawn, then what is in flight comes home, then, unless it is only to be protected, what is merged
 * is given back; then the owner gets its answer. Tasks of one region go one after the other.
 */

#include <stdbool.h>
#include <stdint.h>

#include "dedup/member.h"
#include "dedup/nodes.h"
#include "util/error.h"
#include "util/hist.h"

struct merger;

struct merger_settings {
        uint64_t sleep_ns;     /* between rounds while there is work */
        uint64_t sleep_max_ns; /* at most, when there is none */
        uint32_t max_cpu_percent;
        bool use_zero_pages;
        uint32_t min_run_pages;
        uint64_t pool_max_pages; /* 0: no limit */
        uint64_t max_map_count;  /* vm.max_map_count */
        bool files;              /* mappings of files take part */
        struct nodes nodes;
        struct nodes_policy nodes_policy;
};

struct merger_stat {
        uint64_t pages_scanned; /* read and hashed, ever */
        uint64_t pages_skipped; /* that keep changing, or failed, and were left alone, ever */
        uint64_t full_scans;
        uint64_t merges;
        uint64_t zeros;
        uint64_t unmerges;
        uint64_t write_faults; /* forked children's included */
        uint64_t failures[REASON_N];
        uint64_t metadata_bytes;
        uint64_t worker_cpu_ns;
        bool paused;
        bool active; /* a round is under way */
        /* Totals over all members and domains now. */
        uint64_t members;
        uint64_t regions;
        uint64_t pages;
        uint64_t count[PAGE_N_STATES];
        uint64_t pages_shared;
        uint64_t pages_sharing;
        uint64_t files;         /* of which mappings are registered, or serve others */
        uint64_t files_leased;  /* of these; others are being written */
        uint64_t file_pages;    /* that equal pages have taken the place of */
        uint64_t pages_retired; /* that nobody shares so far as we know, but somebody maps */
        uint64_t vmas;
        const struct hist *lease_wait; /* ns from hearing of who wants to write to a file to letting him go */
};

/* The answer to a register call or a task: error, the region if it is registered now, a sentence when there is one. */
typedef void (*merger_done)(void *context, int error, struct region *region, const char *detail);

/* The end of merger_merge(): -ENOTCONN if the region went away meanwhile. */
struct merger_merge_stat {
        uint64_t examined; /* pages with content that may be merged, and those that are */
        uint64_t merged;   /* pages that were not before */
        uint64_t zero;
        uint64_t failed; /* of those with a match */
};
typedef void (*merger_merged)(void *context, int error, const struct merger_merge_stat *stat);

/* The end of merger_scan(). */
typedef void (*merger_scanned)(void *context);

/* The anchors and own_pagemap_fd, our own /proc/self/pagemap, outlive the merger. */
int merger_new(const struct member_ops *ops, const struct merger_settings *settings, struct anchors *anchors,
               int own_pagemap_fd, struct merger **ret_merger, int *ret_worker_fd) wp_check;
struct merger *merger_free(struct merger *merger);
void merger_set(struct merger *merger, const struct merger_settings *settings);

/*
 * The domain of a uid, made when there is none (1). mount_fd, adopted: see domain_new(); with a pool to be adopted there must
 * be none yet (-EEXIST).
 */
int merger_domain(struct merger *merger, uid_t uid, int mount_fd, int adopted,
                  struct domain **ret_domain) wp_check;
void merger_each_member(struct merger *merger, void (*visit)(void *context, struct member *member),
                        void *context);

void merger_add_member(struct merger *merger, struct member *member);

/* The connection is gone, and with it what is known of the member's memory; who maps what, the kernel knows. */
void merger_hang_up(struct merger *merger, struct member *member);

/*
 * Registers [start, start+length). The memory is inspected by the worker (smaps_fd, which becomes the
 * merger's); then `done` is called with the new region or with an error: -EINVAL overlaps, -EOPNOTSUPP with
 * the reason as detail, ...
 */
int merger_register(struct merger *merger, struct member *member, uint64_t start, uint64_t length,
                    uint64_t flags, int smaps_fd, merger_done done, void *context) wp_check;

/* Tasks; `done` is called once, perhaps before the call returns. */
int merger_unregister(struct merger *merger, struct region *region, merger_done done, void *context) wp_check;
int merger_exclude(struct merger *merger, struct region *region, uint32_t page, uint32_t n_pages,
                   merger_done done, void *context) wp_check;
int merger_unmerge(struct merger *merger, struct region *region, uint32_t page, uint32_t n_pages,
                   merger_done done, void *context) wp_check;
void merger_include(struct merger *merger, struct region *region, uint32_t page, uint32_t n_pages);

/*
 * Looks at a range now, whatever was written lately, and merges it; `done` is called once, when all that came of it is at
 * home. -EBUSY: scanning is paused.
 */
int merger_merge(struct merger *merger, struct region *region, uint32_t page, uint32_t n_pages,
                 merger_merged done, void *context) wp_check;

/*
 * The owner takes pages under a protection of his own, and gives them up again. Until then they are left alone; merged ones
 * stay merged. Excluded ones stay excluded.
 */
int merger_protect(struct merger *merger, struct region *region, uint32_t page, uint32_t n_pages,
                   merger_done done, void *context) wp_check;
void merger_release(struct merger *merger, struct region *region, uint32_t page, uint32_t n_pages);

/* An agent's answer. -EPROTO: it answers no batch of ours. */
int merger_result(struct merger *merger, struct member *member, const struct wire_result *result) wp_check;

/*
 * The client says that a merged page is private now (it was written, or discarded and touched). Nothing rests on that being
 * true.
 */
void merger_fault(struct member *member, uint64_t address, enum wire_fault_kind kind);

/*
 * A full pass over all members' memory, or that of one process, as fast as can be; `done` is called when it
 * is over.
 */
int merger_scan(struct merger *merger, pid_t pid, merger_scanned done, void *context) wp_check;
/* Forgets requests whose context `matches` picks; each such context is given to `release`. */
void merger_scan_cancel(struct merger *merger, bool (*matches)(const void *context, const void *key),
                        const void *key, void (*release)(void *context));

void merger_pause(struct merger *merger, bool paused);

/* Somebody wants to write to a file whose lease is held through this descriptor; negative: which one is not known. */
void merger_lease_broken(struct merger *merger, int fd);

/* The worker's descriptor is readable. */
void merger_worked(struct merger *merger, uint64_t now_ns);

/*
 * To be called when its time has come; returns when it wants to be called next (CLOCK_MONOTONIC, UINT64_MAX
 * never).
 */
uint64_t merger_tick(struct merger *merger, uint64_t now_ns);

void merger_stat(struct merger *merger, struct merger_stat *ret_stat);
