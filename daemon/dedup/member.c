/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Member: one client's address space as merging sees it. */

#include "dedup/member.h"

#include <stdlib.h>

#include "dedup/merger-private.h"
#include "kernel/uffd.h"
#include "util/cleanup.h"

int member_new(struct domain *domain, pid_t pid, uid_t uid, void *session, const struct member_fds *fds,
               void *charge, struct member **ret_member)
{
        struct member *member = calloc(1, sizeof(*member));

        if (!member)
                return -ENOMEM;
        space_init(&member->space, pid, uid);
        list_init(&member->link);
        list_init(&member->queue);
        list_init(&member->tasks);
        member->domain = domain;
        member->session = session;
        member->charge = charge;
        member->pagemap_fd = fds->pagemap;
        member->mem_fd = fds->mem;
        member->track_fd = fds->track;
        member->watch_fd = fds->watch;
        *ret_member = member;
        return 0;
}

struct member *member_free(struct member *member)
{
        if (!member)
                return NULL;
        list_remove(&member->link);
        fd_close(member->pagemap_fd);
        fd_close(member->mem_fd);
        fd_close(member->track_fd);
        fd_close(member->watch_fd);
        free(member);
        return NULL;
}

struct run *run_new(struct member *member, struct region *region, uint32_t page, enum wire_run_kind kind,
                    uint32_t slot)
{
        struct run *run = calloc(1, sizeof(*run));

        if (!run)
                return NULL;
        *run = (struct run){
                .member = member, .region = region, .page = page, .n_pages = 1, .slot = slot, .kind = kind};
        list_init(&run->link);
        return run;
}

void run_withdraw(struct run *run, enum reason reason)
{
        for (uint32_t i = 0; i < run->n_pages && run->kind != WIRE_RUN_UNMERGE; i++) {
                region_set_state(run->region, run->page + i, PAGE_TRACKED, 0);
                region_mark_failed(run->region, run->page + i);
                if (run_has_slots(run))
                        domain_unpin(run->member->domain, run->slot + i);
                else if (run->kind == WIRE_RUN_ALIAS)
                        files_unalias(run->member, run->slot + i);
        }
        if (reason != REASON_NONE)
                run->member->stat.failures[reason] += run->n_pages;
        list_remove(&run->link);
        free(run);
}

static void fill_batch(struct member *member, struct wire_batch *batch)
{
        member->n_flight = 0;
        while (member->n_flight < WIRE_BATCH_RUNS && !list_empty(&member->queue)) {
                struct run *run = list_entry(list_first(&member->queue), struct run, link);

                list_remove(&run->link);
                member->n_queued--;
                batch->runs[member->n_flight] = (struct wire_run){
                        .kind = run->kind,
                        .n_pages = run->n_pages,
                        .address = region_address(run->region, run->page),
                        .pool_offset = run_has_slots(run) ? (uint64_t)run->slot << PAGE_SHIFT : 0,
                };
                if (run->kind == WIRE_RUN_ALIAS) {
                        batch->runs[member->n_flight].file = run->slot >> ALIAS_SHIFT;
                        batch->runs[member->n_flight].pool_offset =
                                (uint64_t)(run->slot & (ALIAS_MAX_PAGES - 1)) << PAGE_SHIFT;
                }
                member->flight[member->n_flight++] = run;
        }
        batch->n_runs = member->n_flight;
}

void member_dispatch(struct member *member, const struct member_ops *ops)
{
        union {
                struct wire_batch batch;
                char bytes[sizeof(struct wire_batch) + WIRE_BATCH_RUNS * sizeof(struct wire_run)];
        } message = {.batch = {.reserved = 0}};

        if (member->flight_serial || list_empty(&member->queue) || !member->session)
                return;
        fill_batch(member, &message.batch);
        member->flight_serial = ++member->next_serial;
        wire_init(&message.batch, WIRE_BATCH,
                  sizeof(message.batch) + message.batch.n_runs * sizeof(struct wire_run),
                  member->flight_serial);
        (void)!ops->send_batch(member->session, &message.batch);
}

bool member_region_in_flight(const struct member *member, const struct region *region)
{
        for (unsigned i = 0; i < member->n_flight; i++)
                if (member->flight[i]->region == region)
                        return true;
        return false;
}

bool member_dead(const struct member *member)
{
        return !uffd_alive(member->track_fd);
}
