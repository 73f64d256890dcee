#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Member: one client's address space as merging sees it - its descriptors, its queue of runs, its batch in
 * flight
 *
 * Runs wait in a queue and go to the agent in batches, one batch at a time. An agent that never answers costs
 * its own client further merging, and nobody else anything.
 *
 * A run in the queue or in flight owns its pages' PAGE_PLANNED state and, for merges, one pin of each slot.
 */

#include <stdbool.h>
#include <stdint.h>

#include "core/space.h"
#include "dedup/domain.h"
#include "dedup/policy.h"
#include "libwp/wire.h"
#include "util/list.h"

struct run {
        struct list
                link; /* in member->queue, or in the merger's list of runs whose content is being stored */
        struct member *member;
        struct region *region;
        uint32_t page;
        uint32_t n_pages;
        uint32_t slot; /* of the first page; the others follow. WIRE_RUN_ALIAS: see ALIAS_SHIFT */
        enum wire_run_kind kind;
};

/* Whether the run maps slots, and has a pin of each. */
static inline bool run_has_slots(const struct run *run)
{
        return run->kind == WIRE_RUN_MERGE || run->kind == WIRE_RUN_FILE;
}

/* What the user of dedup knows of a member and its region; called on the control thread. */
struct member_ops {
        /*
         * Sends a batch to the agent. A failure means that the client is going away, which the caller learns
         * elsewhere.
         */
        int (*send_batch)(void *session, const struct wire_batch *batch);
        /* Pages of lazy regions were found written; not unless it hears: nothing waits to be read by it. */
        int (*send_written)(void *session, const struct wire_written *written);
        bool (*hears)(void *session);
        /* Gives the client a descriptor of a file under this number; and tells it that the number means nothing any more. */
        int (*send_file)(void *session, uint32_t number, int fd);
        int (*send_file_gone)(void *session, uint32_t number);
        /* Ends the connection, whose end the caller learns elsewhere, and later. */
        void (*send_away)(void *session, const char *reason);
        /* The member is no more: `charge` of member_new(), and the bytes that it still had registered. */
        void (*gone)(void *charge, uint64_t bytes);
};

struct member_stat {
        uint64_t merges;   /* pages */
        uint64_t unmerges; /* pages given back on request */
        uint64_t zeros;    /* pages */
        uint64_t write_faults;
        uint64_t failures[REASON_N]; /* pages */
};

struct member {
        struct space space;
        struct list link; /* in the merger's list */
        struct domain *domain;
        void *charge;
        void *session; /* NULL once the connection is gone, and the member goes as soon as no work refers to it */
        int pagemap_fd;
        int mem_fd;
        int track_fd;
        int watch_fd; /* for asking the kernel what can be write-protected */
        bool resumed; /* its contexts were in use before this connection: mappings of pools are its own doing */
        struct list queue;
        uint64_t n_queued; /* runs */
        struct list tasks; /* see merger.h */
        uint64_t next_serial;
        uint64_t flight_serial; /* 0: no batch in flight */
        unsigned n_flight;
        struct run *flight[WIRE_BATCH_RUNS];
        struct member_stat stat;
        /* The files that it has descriptors of, by number. */
        struct member_file {
                struct backing *backing; /* NULL: the number is free */
                uint32_t
                        n; /* regions that are mappings of it, and pages that are aliases, or planned to be */
        } files[WIRE_FILES];
};

/* What the key of an aliased page, and the slot of a run of such, consist of: the file's number, and the page of the file. */
#define ALIAS_SHIFT     26
#define ALIAS_MAX_PAGES (UINT32_C(1) << ALIAS_SHIFT)
_Static_assert(WIRE_FILES <= UINT32_C(1) << (32 - ALIAS_SHIFT), "a number fits into a key");

struct member_fds {
        int pagemap;
        int mem;
        int track;
        int watch;
};

/* Takes over the descriptors on success. */
int member_new(struct domain *domain, pid_t pid, uid_t uid, void *session, const struct member_fds *fds,
               void *charge, struct member **ret_member) wp_check;
/* Only when its regions are gone and no work refers to it. */
struct member *member_free(struct member *member);

/* Sends the next batch if none is in flight and the client can be reached. */
void member_dispatch(struct member *member, const struct member_ops *ops);

/* Whether the region has runs in the batch in flight. */
bool member_region_in_flight(const struct member *member, const struct region *region);

/* Whether the address space is gone (tests/kernel/dead_process.c). */
bool member_dead(const struct member *member);

/* Run constructor; the run is on no list. */
struct run *run_new(struct member *member, struct region *region, uint32_t page, enum wire_run_kind kind,
                    uint32_t slot);
/* Gives the pages and pins of a run back that was not carried out, and frees it. */
void run_withdraw(struct run *run, enum reason reason);
