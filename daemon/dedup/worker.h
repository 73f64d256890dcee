#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Worker: the scan thread, which does what may take time or block: PAGEMAP_SCAN, reading clients, hashing,
 * writing the pool
 *
 * One piece of work at a time, handed over whole and handed back whole: while the worker has it, nobody else
 * touches it. The thread knows no region, no state and no index, so it needs no lock. Its end is told through
 * an eventfd.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "dedup/policy.h"
#include "dedup/scan.h"
#include "kernel/anchor.h"
#include "kernel/numa.h"
#include "kernel/procmaps.h"
#include "kernel/uapi.h"
#include "util/bits.h"
#include "util/error.h"

#define WORK_READ_PAGES   256                 /* read and hashed at a time */
#define WORK_SURVEY_PAGES ((uint64_t)1 << 15) /* looked at in one survey at most */
#define WORK_SURVEY_RUNS  2048
#define WORK_SECRET_BYTES 192

struct work_range {
        uint64_t address; /* bytes, in the client */
        uint64_t length;
};

struct work_read {
        uint64_t address;     /* bytes, in the client */
        uint64_t fingerprint; /* out */
        bool ok;              /* out: could be read */
        bool zero;            /* out: all zeros */
        int node;             /* out: NUMA_NO_NODE: not known, or not asked for */
};

/* Page `read` of the buffer, as it was read by the work before, into the pool. */
struct work_store {
        uint32_t read;
        uint32_t slot;
        uint32_t anchor; /* to be pinned to the page afterwards, or ANCHOR_NONE */
        int node;        /* where the page is to lie, or NUMA_NO_NODE */
};

/*
 * The parts are carried out in this order, each unless it is empty. The buffer survives between two pieces of
 * work, so that content read by one can be stored by the next.
 */
struct work {
        /* store */
        int pool_fd;
        const struct work_store *stores;
        size_t n_stores;
        struct anchors *anchors;
        int store_error; /* out */

        /* protect */
        int pagemap_fd; /* also for survey and inspection */
        const struct work_range *protects;
        size_t n_protects;

        /* read */
        int mem_fd;            /* or a pool's, whose slots are read then */
        const uint8_t *secret; /* WORK_SECRET_BYTES, of the client's domain */
        struct work_read *reads;
        size_t n_reads;
        bool ask_nodes; /* where the pages lie */
        bool cached;    /* mem_fd is a file's; of that, only what is in the page cache */
        pid_t pid;      /* the client's; 0: mem_fd is a pool's */

        /* survey of [survey_start, survey_end) */
        uint64_t survey_start;
        uint64_t survey_end;
        struct page_region *runs; /* WORK_SURVEY_RUNS */
        size_t n_runs;            /* out */
        uint64_t survey_walked;   /* out: up to here */
        int survey_error;         /* out */

        /* inspect: the mappings that touch [inspect_start, inspect_end) */
        int smaps_fd; /* -EBADF: no inspection */
        uint64_t inspect_start;
        uint64_t inspect_end;
        struct vma *vmas;
        size_t n_vmas_max;
        uint64_t *shared;    /* NULL, or out: a bit a page: in a mapping of a file, and the file's own */
        size_t n_vmas;       /* out */
        uint64_t n_mappings; /* out: of the process, those before inspect_end */
        int inspect_error;   /* out; -E2BIG: more than n_vmas_max */

        /* open the file behind the mapping [open_start, open_end) of `pid`, and take a lease */
        uint64_t open_start;
        uint64_t open_end;
        int open_error;          /* out */
        enum reason open_reason; /* out: why it cannot take part, if there is no error */
        int opened_fd;           /* out, if there is neither */
        struct stat opened;

        /* drop from the page cache what nobody maps */
        int drop_fd; /* -EBADF: nothing */
        const struct page_range *drops;
        size_t n_drops;
};

#define WORK_INIT                                                                                            \
        {                                                                                                    \
                .pool_fd = -EBADF, .pagemap_fd = -EBADF, .mem_fd = -EBADF, .smaps_fd = -EBADF,               \
                .opened_fd = -EBADF, .drop_fd = -EBADF                                                       \
        }

struct worker;

/*
 * Starts the thread. *ret_done_fd becomes readable each time a piece of work is done; it belongs to the
 * worker.
 */
int worker_new(struct worker **ret_worker, int *ret_done_fd) wp_check;
struct worker *worker_free(struct worker *worker);

/* Hands over; only when the one before was taken back. */
void worker_submit(struct worker *worker, struct work *work);

/* Takes back: the work, or NULL when it is not done yet. */
struct work *worker_take(struct worker *worker);

/* Gives the memory of the buffer back, and its content up; only while the worker has no work. */
void worker_empty(struct worker *worker);

/* CPU time of the thread so far, ns. */
uint64_t worker_cpu_ns(struct worker *worker);
