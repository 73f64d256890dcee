/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Tasks: registering, unregistering and excluding, the agents' results, and the end of members. */

#include "dedup/merger-private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dedup/backing.h"
#include "kernel/uffd.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "wp.h"

/* ------------------------------------------------------------------ registering */

/* With its smaps, which it owns from merger_register() on. */
void inspection_free(struct inspection *inspection)
{
        list_remove(&inspection->link);
        fd_close(inspection->smaps_fd);
        free(inspection->vmas);
        free(inspection->shared);
        free(inspection);
}

static void inspection_answer(struct inspection *inspection, int error, struct region *region,
                              const char *detail)
{
        if (inspection->member)
                inspection->done(inspection->context, error, region, detail);
        inspection_free(inspection);
}

int merger_register(struct merger *merger, struct member *member, uint64_t start, uint64_t length,
                    uint64_t flags, int smaps_fd, merger_done done, void *context)
{
        struct inspection *inspection;

        if (length >> PAGE_SHIFT > REGION_MAX_PAGES)
                return -E2BIG;
        inspection = calloc(1, sizeof(*inspection));
        if (!inspection)
                return -ENOMEM;
        list_init(&inspection->link);
        inspection->smaps_fd = -EBADF;
        inspection->vmas = calloc(INSPECTION_VMAS, sizeof(*inspection->vmas));
        if (member->resumed)
                inspection->shared = calloc(BITMAP_WORDS(length >> PAGE_SHIFT), sizeof(uint64_t));
        if (!inspection->vmas || (member->resumed && !inspection->shared)) {
                inspection_free(inspection);
                return -ENOMEM;
        }
        inspection->member = member;
        inspection->start = start;
        inspection->length = length;
        inspection->flags = flags;
        inspection->smaps_fd = smaps_fd;
        inspection->done = done;
        inspection->context = context;
        list_append(&merger->inspections, &inspection->link);
        merger_advance(merger, 0);
        return 0;
}

static enum reason judge_vma(const struct inspection *inspection, const struct vma *vma)
{
        const struct member *member = inspection->member;
        enum reason reason =
                policy_vma(vma, member->domain->pool_dev, member->domain->pool_inode, member->resumed);

        return reason == REASON_REMNANT || inspection->flags & WP_MERGE ? reason : policy_vma_unmerged(vma);
}

/* Whether both have the same of what is kept. */
static bool same_kept(const struct vma *a, const struct vma *b)
{
        char name_a[REGION_NAME_BYTES], name_b[REGION_NAME_BYTES];

        policy_kept_name(a, name_a);
        policy_kept_name(b, name_b);
        return !((a->flags ^ b->flags) & POLICY_KEPT_FLAGS) && !strcmp(name_a, name_b);
}

/*
 * The first reason why the memory cannot take part; *ret_address is where. *ret_first is a mapping that is like all of
 * it, or NULL when there are only mappings of pools.
 */
static enum reason judge(const struct inspection *inspection, size_t n_vmas, uint64_t *ret_address,
                         const struct vma **ret_first)
{
        uint64_t expected = inspection->start;

        *ret_first = NULL;

        for (size_t i = 0; i < n_vmas; i++) {
                const struct vma *vma = &inspection->vmas[i];
                enum reason reason = judge_vma(inspection, vma);

                if (vma->start > expected)
                        break;
                *ret_address = MAX(vma->start, inspection->start);
                if (reason != REASON_NONE && reason != REASON_REMNANT)
                        return reason;
                expected = vma->end;
                if (reason == REASON_REMNANT)
                        continue;
                if (inspection->flags & WP_MERGE && *ret_first && !same_kept(*ret_first, vma))
                        return REASON_MIXED;
                *ret_first = vma;
        }
        *ret_address = expected;
        return expected < inspection->start + inspection->length ? REASON_UNMAPPED : REASON_NONE;
}

/*
 * What a page in a mapping of a pool is. Only of a client that came back we know that the mapping is under its hold or
 * lazy; in others it is what an earlier connection left behind.
 */
static enum page_state pooled_state(const struct inspection *inspection, const struct vma *vma, uint32_t page,
                                    uint32_t slot)
{
        struct domain *domain = inspection->member->domain;

        if (!inspection->shared || !bitmap_get(inspection->shared, page))
                return PAGE_COPIED;
        if (!policy_is_pool(vma, domain->pool_dev, domain->pool_inode))
                return PAGE_FOREIGN;
        return domain_claim(domain, slot) < 0 ? PAGE_FOREIGN : PAGE_MERGED;
}

/* Pages in a mapping of a pool. */
static int mark_pooled(const struct inspection *inspection, struct region *region, const struct vma *vma,
                       uint64_t start, uint64_t end)
{
        uint32_t slot = (uint32_t)((vma->offset + (start - vma->start)) >> PAGE_SHIFT);
        int r;

        for (uint64_t address = start; address < end; address += PAGE_BYTES, slot++) {
                uint32_t page = (uint32_t)((address - region->start) >> PAGE_SHIFT);
                enum page_state state;

                r = region_make_chunk(region, page);
                if (r < 0)
                        return r;
                state = pooled_state(inspection, vma, page, slot);
                region_set_state(region, page, state, slot);
                region->n_remnants += state == PAGE_COPIED;
        }
        return 0;
}

static void untrack(struct member *member, const struct region *region)
{
        for (uint32_t page = 0, end; page < region->n_pages; page = end) {
                bool pooled = region->backing || region_flags(region, page) & PAGE_F_POOLED;

                for (end = page + 1;
                     end < region->n_pages &&
                     (region->backing || !(region_flags(region, end) & PAGE_F_POOLED) == !pooled);
                     end++)
                        if (!region_chunk(region, end))
                                end = region_chunk_last(region, end);
                /* What cannot be unregistered was unmapped meanwhile. */
                if (!pooled)
                        (void)!uffd_unregister(member->track_fd, region_address(region, page),
                                               (uint64_t)(end - page) << PAGE_SHIFT);
        }
}

/*
 * Of a client that came back, pages may be protected by the daemon before this one: no survey would list them. Afresh, all
 * of them count as written.
 */
static int track_anew(struct member *member, uint64_t start, uint64_t length)
{
        if (member->resumed)
                (void)!uffd_unregister(member->track_fd, start, length);
        return uffd_register(member->track_fd, start, length, UFFDIO_REGISTER_MODE_WP);
}

/* Memory that is not to be merged is left alone, if only the program can protect it: that the kernel knows best. */
static int try_protection(struct member *member, uint64_t start, uint64_t length)
{
        int r = uffd_register(member->watch_fd, start, length, UFFDIO_REGISTER_MODE_WP);

        return r < 0 ? r : uffd_unregister(member->watch_fd, start, length);
}

static int track(const struct inspection *inspection, size_t n_vmas, struct region *region)
{
        struct member *member = inspection->member;
        int r = 0;

        for (size_t i = 0; i < n_vmas && r >= 0; i++) {
                const struct vma *vma = &inspection->vmas[i];
                uint64_t start = MAX(vma->start, region->start), end = MIN(vma->end, region_end(region));

                if (judge_vma(inspection, vma) == REASON_REMNANT)
                        r = mark_pooled(inspection, region, vma, start, end);
                else if (region->flags & WP_MERGE)
                        r = track_anew(member, start, end - start);
                else
                        r = try_protection(member, start, end - start);
        }
        return r;
}

/* The page is no longer what it was: a sharer of a slot, or an alias of a page of a file. */
static void forget_sharing(struct region *region, uint32_t page, enum page_state was, uint32_t key)
{
        if (was != PAGE_MERGED && was != PAGE_ALIASED)
                return;
        backing_unshare(region, page);
        if (was == PAGE_MERGED)
                domain_unshare(member_of(region)->domain, key);
        else
                files_unalias(member_of(region), key);
}

static void unshare_all(struct region *region)
{
        for (uint32_t page = 0; page < region->n_pages; page++)
                if (!region_chunk(region, page))
                        page = region_chunk_last(region, page);
                else
                        forget_sharing(region, page, region_state(region, page), region_key(region, page));
}

/* `backing`: of a region that is a mapping of a file; else NULL. */
static int install(struct merger *merger, struct inspection *inspection, struct backing *backing,
                   struct region **ret_region)
{
        struct member *member = inspection->member;
        const struct vma *first = &inspection->vmas[0];
        struct region *region;
        int r;

        r = region_new(&member->space, inspection->start, inspection->length, inspection->flags, &region);
        if (r < 0)
                return r;
        r = space_insert(&member->space, region);
        if (r < 0) {
                region_free(region);
                return r;
        }
        r = domain_add_region(member->domain, region);
        if (r >= 0) {
                r = backing ? files_join(merger, backing, region,
                                         (uint32_t)((first->offset + (region->start - first->start)) >>
                                                    PAGE_SHIFT))
                            : track(inspection, inspection->n_vmas, region);
                if (r < 0) {
                        untrack(member, region);
                        unshare_all(region);
                        domain_remove_region(member->domain, region);
                }
        }
        if (r < 0) {
                space_remove(&member->space, region);
                region_free(region);
                return r;
        }
        region->shared = backing && first->shared;
        region->protection = backing ? first->protection : 0;
        member->space.vma_budget = policy_vma_budget(merger->settings.max_map_count, inspection->n_mappings);
        *ret_region = region;
        return 0;
}

/* What is wrong with it, at which address. */
static void answer_refused(struct inspection *inspection, enum reason reason, uint64_t address)
{
        char detail[WIRE_MAX_DETAIL];

        snprintf(detail, sizeof(detail), "%#llx: %s (%s)", (unsigned long long)address, reason_text(reason),
                 reason_remedy(reason));
        inspection_answer(inspection, -EOPNOTSUPP, NULL, detail);
}

/* The memory can take part. */
static void admit(struct merger *merger, struct inspection *inspection, struct backing *backing,
                  const struct vma *like)
{
        struct region *region = NULL;
        const char *detail = "";
        int r = install(merger, inspection, backing, &region);

        if (r == -EBUSY) {
                answer_refused(inspection, REASON_UFFD, inspection->start);
                return;
        }
        if ((r == -EINVAL || r == -EPERM) && !(inspection->flags & WP_MERGE)) {
                answer_refused(inspection, REASON_UNPROTECTABLE, inspection->start);
                return;
        }
        if (r == -EEXIST) {
                detail = "it overlaps a region that is registered already";
                r = -EINVAL;
        } else if (r == -ENOSPC) {
                detail = "this process has mappings of too many files registered";
                r = -EDQUOT;
        } else if (r < 0) {
                detail = "registering it with userfaultfd failed";
        } else {
                if (like) {
                        region->kept = like->flags & POLICY_KEPT_FLAGS;
                        policy_kept_name(like, region->kept_name);
                }
                merger_wake(merger);
        }
        inspection_answer(inspection, r, region, detail);
}

/* Whether the region is a mapping of a file, to be merged as such; remnants of pools are none. */
static bool is_file(const struct inspection *inspection)
{
        const struct domain *domain = inspection->member->domain;

        return inspection->flags & WP_MERGE && inspection->n_vmas && policy_is_file(&inspection->vmas[0]) &&
               policy_vma(&inspection->vmas[0], domain->pool_dev, domain->pool_inode,
                          inspection->member->resumed) != REASON_REMNANT;
}

static enum reason judge_file(const struct merger *merger, const struct inspection *inspection)
{
        const struct vma *vma = &inspection->vmas[0];
        enum reason reason = policy_vma_file(vma, inspection->flags & WP_EXEC);

        if (!merger->settings.files)
                reason = REASON_FILE;
        if (reason != REASON_NONE)
                return reason;
        if (vma->start > inspection->start)
                return REASON_UNMAPPED;
        if (vma->end < inspection->start + inspection->length)
                return REASON_MIXED;
        if (inspection->flags & (WP_NOTIFY | WP_LAZY))
                return REASON_EVENTS;
        return REASON_NONE;
}

static void inspected_file(struct merger *merger, struct inspection *inspection)
{
        enum reason reason = judge_file(merger, inspection);

        if (reason != REASON_NONE) {
                answer_refused(inspection, reason, inspection->start);
                return;
        }
        inspection->opening = true;
        merger_advance(merger, 0);
}

/* Its process still exists, so that its number was not another's when the file was opened. */
static void opened(struct merger *merger, struct inspection *inspection)
{
        struct work *work = &merger->work;
        _cleanup_fd_ int fd = fd_take(&work->opened_fd);
        enum reason reason = work->open_reason;
        struct backing *backing = NULL;
        int r = work->open_error;

        if (!inspection->member || r < 0 || member_dead(inspection->member)) {
                inspection_answer(inspection, r < 0 ? r : -ENOTCONN, NULL,
                                  "the file behind the mapping cannot be opened");
                return;
        }
        if (reason == REASON_NONE)
                r = files_adopt(merger, inspection->member->domain, fd_take(&fd), &work->opened, &backing);
        if (r == -EAGAIN)
                reason = REASON_WRITTEN;
        if (reason != REASON_NONE)
                answer_refused(inspection, reason, inspection->start);
        else if (r < 0)
                inspection_answer(inspection, r, NULL, "out of memory");
        else
                admit(merger, inspection, backing, NULL);
        files_sweep(merger, clock_now());
}

static void inspected(struct merger *merger, struct inspection *inspection)
{
        const struct vma *first;
        enum reason reason;
        uint64_t address;
        int r = merger->work.inspect_error;

        if (r < 0) {
                inspection_answer(inspection, r, NULL,
                                  r == -E2BIG ? "the range has too many mappings"
                                              : "its mappings cannot be read");
                return;
        }
        inspection->n_vmas = merger->work.n_vmas;
        inspection->n_mappings = merger->work.n_mappings;
        if (is_file(inspection)) {
                inspected_file(merger, inspection);
                return;
        }
        reason = judge(inspection, inspection->n_vmas, &address, &first);
        if (reason == REASON_NONE && inspection->flags & WIRE_REGISTER_POLICY &&
            inspection->flags & WP_MERGE) {
                reason = REASON_POLICY;
                address = inspection->start;
        }
        if (reason == REASON_NONE)
                admit(merger, inspection, NULL, first);
        else
                answer_refused(inspection, reason, address);
}

void task_inspected(struct merger *merger, struct inspection *inspection)
{
        if (inspection->opening)
                opened(merger, inspection);
        else if (!inspection->member)
                inspection_answer(inspection, -ENOTCONN, NULL, "");
        else
                inspected(merger, inspection);
}

/* ------------------------------------------------------------------ tasks */

/* Whoever still shares something of it, because the program moved it without a word, is seen by the kernel. */
void task_end_region(struct merger *merger, struct member *member, struct region *region)
{
        if (merger->round.region == region)
                merger->round.region = NULL;
        merger_end_mergings(merger, member, region, false);
        unshare_all(region);
        files_leave(merger, region);
        domain_remove_region(member->domain, region);
        space_remove(&member->space, region);
        region_free(region);
}

static void withdraw_queued(struct member *member, const struct region *region)
{
        list_for_each_safe(link, next, &member->queue) {
                struct run *run = list_entry(link, struct run, link);

                if (region && run->region != region)
                        continue;
                member->n_queued--;
                run_withdraw(run, REASON_NONE);
        }
}

bool task_storing(const struct merger *merger, const struct region *region)
{
        list_for_each(link, &merger->round.storing)
                if (list_entry(link, struct run, link)->region == region)
                        return true;
        return false;
}

static void give_back(struct member *member, struct task *task)
{
        struct run *run = NULL;

        task->giving_back = true;
        for (uint32_t page = task->page; page < task->page + task->n_pages; page++) {
                if (!region_chunk(task->region, page))
                        page = region_chunk_last(task->region, page);
                if (!region_shares(task->region, page))
                        continue;
                if (run && run->page + run->n_pages == page && run->n_pages < WIRE_RUN_PAGES) {
                        run->n_pages++;
                        continue;
                }
                run = run_new(member, task->region, page, WIRE_RUN_UNMERGE, 0);
                if (!run) {
                        task->error = -ENOMEM;
                        return;
                }
                list_append(&member->queue, &run->link);
                member->n_queued++;
                task->n_runs++;
        }
}

static void mark_excluded(struct task *task)
{
        uint32_t end = task->page + task->n_pages;

        for (uint32_t page = task->page; page < end; page++) {
                if (region_exclude_chunk(task->region, page, end)) {
                        page = region_chunk_last(task->region, page);
                        continue;
                }
                if (region_make_chunk(task->region, page) < 0) {
                        task->error = -ENOMEM;
                        return;
                }
                if (region_state(task->region, page) != PAGE_EXCLUDED)
                        region_set_state(task->region, page, PAGE_EXCLUDED, 0);
        }
}

void task_free(struct task *task)
{
        list_remove(&task->link);
        free(task);
}

static const char *task_detail(int error)
{
        if (error == -ENOMEM)
                return "not enough memory to make the pages private: everything is as it was";
        return error ? "the memory is no longer mapped as it was when it was registered" : "";
}

static bool can_be_protected(const struct region *region, uint32_t page)
{
        return page_state_allowed(region_state(region, page), PAGE_PROTECTED);
}

static void mark_protected(struct merger *merger, struct task *task)
{
        uint32_t end = task->page + task->n_pages;
        int r = 0;

        for (uint32_t page = task->page; page < end && r >= 0; page++) {
                if (!can_be_protected(task->region, page))
                        continue;
                r = region_make_chunk(task->region, page);
                if (r >= 0)
                        region_set_state(task->region, page, PAGE_PROTECTED, 0);
        }
        if (r < 0)
                merger_release(merger, task->region, task->page, task->n_pages);
        task->error = r;
}

/* Everything is private: the task ends, and its owner hears of it. */
static void task_finish(struct merger *merger, struct member *member, struct task *task)
{
        struct task finished = *task;

        if (!task->error && task->lost && (task->kind == TASK_EXCLUDE || task->kind == TASK_UNMERGE))
                task->error = -EFAULT;
        if (!task->error && task->kind == TASK_EXCLUDE)
                mark_excluded(task);
        if (task->kind == TASK_PROTECT)
                mark_protected(merger, task);
        finished.error = task->error;
        if (!task->error && task->kind == TASK_UNREGISTER) {
                untrack(member, task->region);
                task_end_region(merger, member, task->region);
                finished.region = NULL;
        } else {
                task->region->closing = false;
        }
        task_free(task);
        finished.done(finished.context, finished.error, finished.region, task_detail(finished.error));
}

/* Takes one task as far as it goes now; whether it ended. */
static bool task_step(struct merger *merger, struct member *member, struct task *task)
{
        task->region->closing = true;
        if (!task->giving_back) {
                withdraw_queued(member, task->region);
                if (member_region_in_flight(member, task->region) || task_storing(merger, task->region))
                        return false;
                if (task->kind != TASK_PROTECT)
                        give_back(member, task);
                member_dispatch(member, merger->ops);
        }
        if (task->n_runs)
                return false;
        task_finish(merger, member, task);
        return true;
}

/* Tasks of one region go one after the other; those of others need not wait for them. */
void task_advance(struct merger *merger, struct member *member)
{
        bool ended;

        do {
                ended = false;
                list_for_each(link, &member->tasks) {
                        struct task *task = list_entry(link, struct task, link);
                        bool first = true;

                        list_for_each(before, &member->tasks) {
                                if (before == link)
                                        break;
                                if (list_entry(before, struct task, link)->region == task->region)
                                        first = false;
                        }
                        if (first && task_step(merger, member, task)) {
                                ended = true;
                                break;
                        }
                }
        } while (ended);
}

static int task_start(struct merger *merger, struct region *region, enum task_kind kind, uint32_t page,
                      uint32_t n_pages, merger_done done, void *context)
{
        struct member *member = member_of(region);
        struct task *task;

        list_for_each(link, &member->tasks)
                if (list_entry(link, struct task, link)->region == region &&
                    list_entry(link, struct task, link)->kind == TASK_UNREGISTER)
                        return -EALREADY;
        task = calloc(1, sizeof(*task));
        if (!task)
                return -ENOMEM;
        *task = (struct task){
                .kind = kind,
                .member = member,
                .region = region,
                .page = page,
                .n_pages = n_pages,
                .done = done,
                .context = context,
        };
        list_init(&task->link);
        list_append(&member->tasks, &task->link);
        task_advance(merger, member);
        return 0;
}

int merger_unregister(struct merger *merger, struct region *region, merger_done done, void *context)
{
        return task_start(merger, region, TASK_UNREGISTER, 0, region->n_pages, done, context);
}

int merger_exclude(struct merger *merger, struct region *region, uint32_t page, uint32_t n_pages,
                   merger_done done, void *context)
{
        return task_start(merger, region, TASK_EXCLUDE, page, n_pages, done, context);
}

int merger_unmerge(struct merger *merger, struct region *region, uint32_t page, uint32_t n_pages,
                   merger_done done, void *context)
{
        return task_start(merger, region, TASK_UNMERGE, page, n_pages, done, context);
}

int merger_protect(struct merger *merger, struct region *region, uint32_t page, uint32_t n_pages,
                   merger_done done, void *context)
{
        return task_start(merger, region, TASK_PROTECT, page, n_pages, done, context);
}

void merger_release(struct merger *merger, struct region *region, uint32_t page, uint32_t n_pages)
{
        for (uint32_t end = page + n_pages; page < end; page++)
                if (!region_chunk(region, page))
                        page = region_chunk_last(region, page);
                else if (region_state(region, page) == PAGE_PROTECTED)
                        region_set_state(region, page, PAGE_TRACKED, 0);
        merger_wake(merger);
}

void merger_include(struct merger *merger, struct region *region, uint32_t page, uint32_t n_pages)
{
        for (uint32_t end = page + n_pages; page < end; page++) {
                if (region_state(region, page) != PAGE_EXCLUDED) {
                        page = region_chunk(region, page) ? page : region_chunk_last(region, page);
                        continue;
                }
                if (region_include_chunk(region, page, end)) {
                        page = region_chunk_last(region, page);
                        continue;
                }
                /* Out of memory: it remains excluded. */
                if (region_make_chunk(region, page) >= 0)
                        region_set_state(
                                region, page,
                                region_flags(region, page) & PAGE_F_POOLED ? PAGE_COPIED : PAGE_TRACKED, 0);
        }
        merger_wake(merger);
}

/* ------------------------------------------------------------------ results */

static void page_done(struct merger *merger, struct run *run, uint32_t page, uint32_t slot)
{
        struct domain *domain = run->member->domain;
        bool written = region_flags(run->region, page) & PAGE_F_WRITTEN;

        if (run->kind == WIRE_RUN_FILE || run->kind == WIRE_RUN_ALIAS)
                files_merged(run->region, page);

        if (run->kind == WIRE_RUN_ZERO) {
                region_set_state(run->region, page, PAGE_ZERO, 0);
                run->member->stat.zeros++;
                return;
        }
        run->member->stat.merges++;
        if (run->kind == WIRE_RUN_ALIAS) {
                region_set_state(run->region, page, PAGE_ALIASED, slot);
                return;
        }
        pool_share(&domain->pool, slot);
        domain_unpin(domain, slot);
        region_set_state(run->region, page, PAGE_MERGED, slot);
        if (written)
                task_copied(run->region, page);
}

static void page_failed(struct run *run, uint32_t page, uint32_t slot, enum reason reason)
{
        region_set_state(run->region, page, PAGE_TRACKED, 0);
        region_mark_failed(run->region, page);
        run->member->stat.failures[reason]++;
        if (run_has_slots(run))
                domain_unpin(run->member->domain, slot);
        else if (run->kind == WIRE_RUN_ALIAS)
                files_unalias(run->member, slot);
}

static void merge_result(struct merger *merger, struct run *run, const struct wire_run_result *result)
{
        enum reason error = result->error == -EBUSY ? REASON_BUSY : REASON_AGENT;

        merger->survey_stale |= merger->round.region == run->region;

        for (uint32_t i = 0; i < run->n_pages; i++) {
                if (!result->error && bitmap_get(result->done, i))
                        page_done(merger, run, run->page + i, run->slot + i);
                else
                        page_failed(run, run->page + i, run->slot + i,
                                    result->error                 ? error
                                    : bitmap_get(result->busy, i) ? REASON_BUSY
                                                                  : REASON_CHANGED);
        }
}

/* A page that shared becomes private. */
static void end_sharing(struct region *region, uint32_t page, enum page_state state)
{
        enum page_state before = region_state(region, page);
        uint32_t slot = region_key(region, page);

        region_set_state(region, page, state, state == PAGE_COPIED ? slot : 0);
        forget_sharing(region, page, before, slot);
}

void task_copied(struct region *region, uint32_t page)
{
        end_sharing(region, page, PAGE_COPIED);
}

/* Whether the agent could not give some page back: neither replaced it nor found it to be a copy. */
static bool still_merged(const struct run *run, const struct wire_run_result *result)
{
        for (uint32_t i = 0; i < run->n_pages; i++)
                if (!bitmap_get(result->done, i) && !bitmap_get(result->busy, i))
                        return true;
        return false;
}

static void unmerge_result(struct run *run, const struct wire_run_result *result)
{
        struct member *member = run->member;

        list_for_each(link, &member->tasks) {
                struct task *task = list_entry(link, struct task, link);

                if (task->region != run->region || !task->giving_back)
                        continue;
                task->n_runs--;
                task->lost |= result->error && result->error != -ENOMEM;
                if (result->error == -ENOMEM || (!result->error && still_merged(run, result)))
                        task->error = -ENOMEM;
        }
        for (uint32_t i = 0; !result->error && i < run->n_pages; i++) {
                if (!region_shares(run->region, run->page + i))
                        continue;
                if (bitmap_get(result->done, i))
                        end_sharing(run->region, run->page + i, PAGE_VOLATILE);
                else if (run->region->backing) /* it still maps the slot */
                        continue;
                else if (bitmap_get(result->busy, i))
                        task_copied(run->region, run->page + i);
                else
                        continue;
                member->stat.unmerges++;
        }
}

int merger_result(struct merger *merger, struct member *member, const struct wire_result *result)
{
        if (!member->flight_serial || result->header.serial != member->flight_serial ||
            result->n_runs != member->n_flight)
                return -EPROTO;
        for (unsigned i = 0; i < member->n_flight; i++) {
                struct run *run = member->flight[i];

                if (run->kind == WIRE_RUN_UNMERGE)
                        unmerge_result(run, &result->runs[i]);
                else
                        merge_result(merger, run, &result->runs[i]);
                free(run);
        }
        member->n_flight = 0;
        member->flight_serial = 0;
        task_advance(merger, member);
        member_dispatch(member, merger->ops);
        merger_answer_mergings(merger, clock_now());
        (void)files_advance(merger, clock_now());
        return 0;
}

void merger_fault(struct member *member, uint64_t address, enum wire_fault_kind kind)
{
        struct region *region;
        uint32_t page;

        if (kind == WIRE_FAULT_CHILD) {
                member->stat.write_faults++;
                return;
        }
        region = space_find(&member->space, address, &page);
        if (!region)
                return;
        if (region_state(region, page) == PAGE_PLANNED)
                region_mark_written(region, page);
        else if (region_shares(region, page))
                task_copied(region, page);
        else
                return; /* a survey was faster, and has counted it */
        member->stat.write_faults += kind == WIRE_FAULT_WRITE;
}

/* ------------------------------------------------------------------ the end */

void task_abandon(struct merger *merger, struct member *member)
{
        withdraw_queued(member, NULL);
        merger_end_mergings(merger, member, NULL, true);
        list_for_each_safe(link, next, &member->tasks)
                task_free(list_entry(link, struct task, link));
        list_for_each(link, &merger->inspections) {
                struct inspection *inspection = list_entry(link, struct inspection, link);

                if (inspection->member == member)
                        inspection->member = NULL;
        }
        list_for_each(link, &member->space.regions)
                list_entry(link, struct region, link)->closing = true;
}
