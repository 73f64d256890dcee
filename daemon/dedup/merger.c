/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Merger: rounds of scanning, and everything that comes in from outside; the theory is in merger.h. */

#include "dedup/merger-private.h"

#include <stdlib.h>
#include <string.h>

#include "dedup/backing.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "wp.h"

/* The settle interval of a pass that somebody asked for: long enough for a writer in a loop to be noticed. */
#define REQUEST_SETTLE_NS (20 * NSEC_PER_MSEC)

/* A pass that somebody asked for does not wait longer than this for agents that do not answer. */
#define REQUEST_DRAIN_NS (10 * NSEC_PER_SEC)

/* Refused matches are tried again every so many rounds. */
#define RETRY_ROUNDS 64

/* A round in which fewer than one page in this many was new counts as quiet. */
#define QUIET_SHARE 1000

int merger_new(const struct member_ops *ops, const struct merger_settings *settings, struct anchors *anchors,
               int own_pagemap_fd, struct merger **ret_merger, int *ret_worker_fd)
{
        struct merger *merger = calloc(1, sizeof(*merger));
        int r;

        if (!merger)
                return -ENOMEM;
        merger->ops = ops;
        merger->anchors = anchors;
        merger->own_pagemap_fd = own_pagemap_fd;
        merger->work = (struct work)WORK_INIT;
        list_init(&merger->domains);
        list_init(&merger->members);
        list_init(&merger->inspections);
        list_init(&merger->requests);
        list_init(&merger->mergings);
        list_init(&merger->backings);
        merger->drop_fd = -EBADF;
        list_init(&merger->round.storing);
        merger_set(merger, settings);
        r = worker_new(&merger->worker, ret_worker_fd);
        if (r < 0) {
                free(merger);
                return r;
        }
        *ret_merger = merger;
        return 0;
}

void merger_set(struct merger *merger, const struct merger_settings *settings)
{
        /* Who found nothing on his own node may find it on others now. */
        merger->retry_candidates |= settings->nodes_policy.across && !merger->settings.nodes_policy.across;
        merger->settings = *settings;
        merger->retry_refused = true;
        merger_wake(merger);
}

int merger_domain(struct merger *merger, uid_t uid, int mount_fd, int adopted, struct domain **ret_domain)
{
        struct domain *domain;
        int r;

        list_for_each(link, &merger->domains) {
                domain = list_entry(link, struct domain, link);
                if (domain->uid == uid && adopted >= 0)
                        return -EEXIST;
                if (domain->uid == uid) {
                        *ret_domain = domain;
                        return 0;
                }
        }
        r = domain_new(uid, mount_fd, adopted, merger->anchors, &domain);
        if (r < 0)
                return r;
        list_append(&merger->domains, &domain->link);
        *ret_domain = domain;
        return 1;
}

void merger_each_member(struct merger *merger, void (*visit)(void *context, struct member *member),
                        void *context)
{
        list_for_each(link, &merger->members)
                visit(context, list_entry(link, struct member, link));
}

void merger_add_member(struct merger *merger, struct member *member)
{
        list_append(&merger->members, &member->link);
}

/* ------------------------------------------------------------------ the end of members */

static void add_stat(struct merger_stat *stat, const struct member_stat *more)
{
        stat->merges += more->merges;
        stat->zeros += more->zeros;
        stat->unmerges += more->unmerges;
        stat->write_faults += more->write_faults;
        for (unsigned i = 0; i < REASON_N; i++)
                stat->failures[i] += more->failures[i];
}

static void member_destroy(struct merger *merger, struct member *member)
{
        uint64_t bytes = member->space.n_pages << PAGE_SHIFT;

        for (unsigned i = 0; i < member->n_flight; i++)
                run_withdraw(member->flight[i], REASON_NONE);
        list_for_each_safe(link, next, &member->space.regions)
                task_end_region(merger, member, list_entry(link, struct region, link));
        add_stat(&merger->stat, &member->stat);
        merger->ops->gone(member->charge, bytes);
        member_free(member);
}

/* Whether no work refers to the member. */
static bool releasable(const struct merger *merger, const struct member *member)
{
        if (member->session || member == merger->work_member)
                return false;
        list_for_each(link, &merger->round.storing)
                if (list_entry(link, struct run, link)->member == member)
                        return false;
        return true;
}

static void reap(struct merger *merger)
{
        list_for_each_safe(link, next, &merger->members)
                if (releasable(merger, list_entry(link, struct member, link)))
                        member_destroy(merger, list_entry(link, struct member, link));
}

void merger_hang_up(struct merger *merger, struct member *member)
{
        member->session = NULL;
        files_hang_up(member);
        task_abandon(merger, member);
        reap(merger);
}

static void free_runs(struct list *runs)
{
        list_for_each_safe(link, next, runs)
                free(list_entry(link, struct run, link));
        list_init(runs);
}

/*
 * The daemon ends, its clients go on: what is freed is only what we know. No slot may lose its page now,
 * since they map them.
 */
static void member_forget(const struct merger *merger, struct member *member)
{
        merger->ops->gone(member->charge, member->space.n_pages << PAGE_SHIFT);
        free_runs(&member->queue);
        for (unsigned i = 0; i < member->n_flight; i++)
                free(member->flight[i]);
        list_for_each_safe(link, next, &member->tasks)
                task_free(list_entry(link, struct task, link));
        list_for_each_safe(link, next, &member->space.regions)
                region_free(list_entry(link, struct region, link));
        member_free(member);
}

struct merger *merger_free(struct merger *merger)
{
        if (!merger)
                return NULL;
        merger->worker = worker_free(merger->worker);
        free_runs(&merger->round.storing);
        list_for_each_safe(link, next, &merger->members)
                member_forget(merger, list_entry(link, struct member, link));
        list_for_each_safe(link, next, &merger->inspections)
                inspection_free(list_entry(link, struct inspection, link));
        list_for_each_safe(link, next, &merger->requests)
                free(list_entry(link, struct scan_request, link));
        list_for_each_safe(link, next, &merger->mergings)
                free(list_entry(link, struct merging, link));
        /* Leases end when the clients, who are giving back, have closed their descriptors, too. */
        list_for_each_safe(link, next, &merger->backings) {
                struct backing *backing = list_entry(link, struct backing, link);

                backing->fd = fd_close(backing->fd);
                backing_free(backing);
        }
        (void)files_dropped(merger);
        list_for_each_safe(link, next, &merger->domains)
                domain_free(list_entry(link, struct domain, link));
        range_list_deinit(&merger->round.output.protect);
        range_list_deinit(&merger->round.output.read);
        range_list_deinit(&merger->round.output.copied);
        free(merger->round.entries);
        free(merger);
        return NULL;
}

/* ------------------------------------------------------------------ rounds */

/* The process whose memory alone the requests want, or 0. */
static pid_t requested_pid(const struct merger *merger)
{
        pid_t pid = -1;

        list_for_each(link, &merger->requests) {
                const struct scan_request *request = list_entry(link, struct scan_request, link);

                if (pid >= 0 && pid != request->pid)
                        return 0;
                pid = request->pid;
        }
        return MAX(pid, 0);
}

static int round_add_member(struct merger *merger, const struct member *member)
{
        struct round *round = &merger->round;
        size_t n = round->n_entries + member->space.n_regions;
        struct round_entry *entries = reallocarray(round->entries, n + 1, sizeof(*entries));

        if (!entries)
                return -ENOMEM;
        round->entries = entries;
        list_for_each(link, &member->space.regions) {
                const struct region *region = list_entry(link, struct region, link);

                if (!region->closing && region->flags & WP_MERGE &&
                    (!region->backing || files_scannable(region)))
                        entries[round->n_entries++] =
                                (struct round_entry){.domain = member->domain, .region = region->id};
        }
        return 0;
}

static void each_region(struct merger *merger, void (*visit)(struct region *region))
{
        list_for_each(link, &merger->members)
                list_for_each(region_link, &list_entry(link, struct member, link)->space.regions)
                        visit(list_entry(region_link, struct region, link));
}

/*
 * Pages whose match was refused for want of VMAs or pool are read again when that may have changed: after new
 * settings, when somebody asks for a pass, and now and then.
 */
static void retry_refused(struct merger *merger)
{
        if (!merger->retry_refused && merger->stat.full_scans % RETRY_ROUNDS)
                return;
        merger->retry_refused = false;
        each_region(merger, region_retry_refused);
}

static void round_begin(struct merger *merger, uint64_t now_ns)
{
        struct round *round = &merger->round;
        pid_t pid = requested_pid(merger);

        retry_refused(merger);
        if (merger->retry_candidates)
                each_region(merger, region_retry_candidates);
        merger->retry_candidates = false;
        round->n_entries = round->next_entry = 0;
        round->n_changed = round->n_pages = 0;
        list_for_each(link, &merger->members) {
                const struct member *member = list_entry(link, struct member, link);

                if (member->session && (!pid || member->space.pid == pid) &&
                    round_add_member(merger, member) < 0)
                        break; /* the rest is looked at when there is memory again */
        }
        round->active = true;
        merger_advance(merger, now_ns);
}

/* The first range that somebody waits for, and that nobody has walked yet. */
static struct merging *next_merging(const struct merger *merger)
{
        list_for_each(link, &merger->mergings) {
                struct merging *merging = list_entry(link, struct merging, link);

                if (!merging->walked)
                        return merging;
        }
        return NULL;
}

static void count_pages(const struct merging *merging, struct merger_merge_stat *stat)
{
        *stat = (struct merger_merge_stat){.examined = 0};
        for (uint32_t page = merging->page; page < merging->page + merging->n_pages; page++) {
                enum page_state state = region_state(merging->region, page);
                uint8_t flags = region_flags(merging->region, page);

                stat->examined += state != PAGE_EMPTY && state != PAGE_EXCLUDED && state != PAGE_PROTECTED &&
                                  state != PAGE_COPIED;
                stat->merged += state == PAGE_MERGED || state == PAGE_ALIASED || state == PAGE_FOREIGN;
                stat->zero += state == PAGE_ZERO;
                stat->failed += (state == PAGE_TRACKED && flags & PAGE_F_FAILED) ||
                                (state == PAGE_CANDIDATE && flags & PAGE_F_REFUSED) || state == PAGE_PLANNED;
        }
}

static int round_begin_merging(struct merger *merger, struct merging *merging, uint64_t now_ns)
{
        struct round *round = &merger->round;
        struct round_entry *entries = reallocarray(round->entries, 1, sizeof(*entries));

        if (!entries)
                return -ENOMEM;
        entries[0] = (struct round_entry){.domain = merging->member->domain, .region = merging->region->id};
        round->entries = entries;
        round->n_entries = 1;
        round->next_entry = 0;
        round->merging = merging;
        round->at_once = round->active = true;
        merger->not_before_ns = 0;
        merger_advance(merger, now_ns);
        return 0;
}

static void choose_sleep(struct merger *merger)
{
        const struct round *round = &merger->round;
        uint64_t maximum = MAX(merger->settings.sleep_max_ns, merger->settings.sleep_ns);

        if (round->n_changed * QUIET_SHARE > round->n_pages)
                merger->sleep_ns = merger->settings.sleep_ns;
        else if (!round->n_changed)
                merger->sleep_ns = MIN(merger->sleep_ns * 2, maximum);
}

static bool drained(const struct merger *merger, pid_t pid)
{
        list_for_each(link, &merger->members) {
                const struct member *member = list_entry(link, struct member, link);

                if (member->session && (!pid || member->space.pid == pid) &&
                    (member->n_flight || !list_empty(&member->queue)))
                        return false;
        }
        return true;
}

static void answer_requests(struct merger *merger, uint64_t now_ns)
{
        list_for_each_safe(link, next, &merger->requests) {
                struct scan_request *request = list_entry(link, struct scan_request, link);

                if (request->rounds_left || (!drained(merger, request->pid) && now_ns < request->deadline_ns))
                        continue;
                list_remove(&request->link);
                if (request->done)
                        request->done(request->context);
                free(request);
        }
}

static void merging_walked(struct merging *merging, uint64_t now_ns)
{
        merging->walked = true;
        merging->deadline_ns = now_ns + REQUEST_DRAIN_NS;
}

/* Runs of a region that are not at home. */
static bool under_way(const struct merger *merger, const struct region *region)
{
        const struct member *member = member_of(region);

        list_for_each(link, &member->queue)
                if (list_entry(link, struct run, link)->region == region)
                        return true;
        return task_storing(merger, region) || member_region_in_flight(member, region);
}

static void merging_free(struct merger *merger, struct merging *merging)
{
        if (merger->round.merging == merging)
                merger->round.merging = NULL;
        list_remove(&merging->link);
        free(merging);
}

static void merging_answer(struct merger *merger, struct merging *merging, int error)
{
        struct merging answered = *merging;
        struct merger_merge_stat stat = {.examined = 0};

        if (!error) {
                count_pages(merging, &stat);
                stat.merged -= MIN(stat.merged, answered.merged_before);
                stat.zero -= MIN(stat.zero, answered.zero_before);
        }
        merging_free(merger, merging);
        answered.done(answered.context, error, &stat);
}

void merger_answer_mergings(struct merger *merger, uint64_t now_ns)
{
        list_for_each_safe(link, next, &merger->mergings) {
                struct merging *merging = list_entry(link, struct merging, link);

                if (merging->walked &&
                    (now_ns >= merging->deadline_ns || !under_way(merger, merging->region)))
                        merging_answer(merger, merging, 0);
        }
}

void merger_end_mergings(struct merger *merger, const struct member *member, const struct region *region,
                         bool abandon)
{
        list_for_each_safe(link, next, &merger->mergings) {
                struct merging *merging = list_entry(link, struct merging, link);

                if (merging->member != member || (region && merging->region != region))
                        continue;
                if (abandon)
                        merging_free(merger, merging);
                else
                        merging_answer(merger, merging, -ENOTCONN);
        }
}

static void round_end(struct merger *merger, uint64_t now_ns)
{
        bool at_once = merger->round.at_once;

        merger->round.active = merger->round.at_once = false;
        worker_empty(merger->worker); /* most rounds read nothing */
        if (at_once) {
                if (merger->round.merging)
                        merging_walked(merger->round.merging, now_ns);
                merger->round.merging = NULL;
                merger_answer_mergings(merger, now_ns);
                return;
        }
        merger->stat.full_scans++;
        choose_sleep(merger);
        list_for_each(link, &merger->requests) {
                struct scan_request *request = list_entry(link, struct scan_request, link);

                if (request->rounds_left && --request->rounds_left == 0)
                        request->deadline_ns = now_ns + REQUEST_DRAIN_NS;
        }
        merger->next_round_ns =
                now_ns + (list_empty(&merger->requests) ? merger->sleep_ns
                                                        : MIN(merger->settings.sleep_ns, REQUEST_SETTLE_NS));
        answer_requests(merger, now_ns);
}

static void leave_region(struct round *round)
{
        round->region = NULL;
        range_list_clear(&round->output.protect);
        range_list_clear(&round->output.read);
        round->read_range = round->read_offset = 0;
}

/* The region to go on with: the one that is being walked, or the next that still exists; NULL at the end. */
static struct region *current_region(struct merger *merger)
{
        struct round *round = &merger->round;

        if (round->region && round->region->closing)
                leave_region(round);
        while (!round->region && round->next_entry < round->n_entries) {
                const struct round_entry *entry = &round->entries[round->next_entry++];
                struct region *region = domain_region(entry->domain, entry->region);

                leave_region(round);
                if (!region || region->closing)
                        continue;
                round->region = region;
                round->page = round->merging ? round->merging->page : 0;
                round->end = round->merging ? round->page + round->merging->n_pages : region->n_pages;
                region->round += !round->at_once;
                round->n_pages += round->end - round->page;
        }
        return round->region;
}

static void prepare_protects(struct merger *merger, const struct region *region)
{
        struct range_list *list = &merger->round.output.protect;
        size_t n = MIN(list->n, ARRAY_SIZE(merger->protects));

        for (size_t i = 0; i < n; i++) {
                merger->protects[i] = (struct work_range){
                        .address = region_address(region, list->ranges[i].page),
                        .length = (uint64_t)list->ranges[i].n_pages << PAGE_SHIFT,
                };
                merger->round.n_changed += list->ranges[i].n_pages;
        }
        merger->work.protects = merger->protects;
        merger->work.n_protects = n;
        /* Ranges beyond the array are seen as written in the next round, and protected then. */
        range_list_clear(list);
}

static void prepare_reads(struct merger *merger, const struct region *region)
{
        struct round *round = &merger->round;
        const struct range_list *list = &round->output.read;

        round->n_reads = 0;
        while (round->n_reads < WORK_READ_PAGES && round->read_range < list->n) {
                const struct page_range *range = &list->ranges[round->read_range];
                uint32_t page = range->page + round->read_offset;

                round->read_pages[round->n_reads] = page;
                round->reads[round->n_reads++].address =
                        region->backing ? files_read_offset(region, page) : region_address(region, page);
                if (++round->read_offset == range->n_pages) {
                        round->read_range++;
                        round->read_offset = 0;
                }
        }
        round->n_changed += round->n_reads;
        merger->work.reads = round->reads;
        merger->work.n_reads = round->n_reads;
}

/* A file does not change: there is nothing to survey. Out of memory: what is left out is met in the next round. */
static void prepare_file_window(struct round *round, struct region *region)
{
        (void)!files_digest(region, round->window_first, round->window_end, round->at_once,
                            &round->output.read);
        round->page = round->window_end;
}

static void prepare_survey(struct merger *merger, struct region *region)
{
        struct round *round = &merger->round;

        range_list_clear(&round->output.read);
        round->read_range = round->read_offset = 0;
        round->window_first = round->page;
        round->window_end = (uint32_t)MIN(round->page + WORK_SURVEY_PAGES, (uint64_t)round->end);
        if (region->backing) {
                prepare_file_window(round, region);
                return;
        }
        merger->work.survey_start = region_address(region, round->window_first);
        merger->work.survey_end = region_address(region, round->window_end);
        merger->work.runs = merger->runs;
        merger->survey_stale = false;
}

/* The next piece of work for the current region; false when the region has been walked. */
static bool prepare_region(struct merger *merger, struct region *region)
{
        struct round *round = &merger->round;
        struct member *member = member_of(region);

        merger->work_member = member;
        merger->work.pagemap_fd = member->pagemap_fd;
        merger->work.mem_fd = region->backing ? region->backing->fd : member->mem_fd;
        merger->work.cached = region->backing;
        merger->work.secret = member->domain->secret;
        merger->work.pid = member->space.pid;
        merger->work.ask_nodes = merger->settings.nodes.n > 1;
        if (round->output.protect.n)
                prepare_protects(merger, region);
        while (round->read_range >= round->output.read.n && round->page < round->end &&
               !merger->work.survey_end)
                prepare_survey(merger, region);
        if (round->read_range < round->output.read.n)
                prepare_reads(merger, region);
        return merger->work.n_protects || merger->work.n_reads || merger->work.survey_end;
}

static bool prepare_round(struct merger *merger)
{
        struct round *round = &merger->round;
        struct region *region;

        while ((region = current_region(merger)) && !prepare_region(merger, region))
                leave_region(round);
        if (!region)
                merger->work_member = NULL;
        if (round->n_stores) {
                merger->work.pool_fd = round->store_domain->pool_fd;
                merger->work.stores = round->stores;
                merger->work.n_stores = round->n_stores;
                merger->work.anchors = merger->anchors;
        }
        return region || round->n_stores;
}

/* ------------------------------------------------------------------ pools of earlier daemons */

/*
 * What the slots of an adopted pool contain is found out by reading them, so that the same content is not stored
 * again: as soon as possible, whatever share of a CPU that takes. They serve whoever maps them in any case.
 */
static bool prepare_adoption(struct merger *merger)
{
        struct round *round = &merger->round;

        merger->adopting = NULL;
        list_for_each(link, &merger->domains) {
                struct domain *domain = list_entry(link, struct domain, link);

                round->n_reads = MIN(domain->adopted.n, (uint32_t)WORK_READ_PAGES);
                if (!round->n_reads)
                        continue;
                domain->adopted.n -= (uint32_t)round->n_reads;
                for (size_t i = 0; i < round->n_reads; i++) {
                        uint32_t slot = domain->adopted.slots[domain->adopted.n + i];

                        round->read_pages[i] = slot;
                        round->reads[i].address = (uint64_t)slot << PAGE_SHIFT;
                }
                merger->adopting = domain;
                merger->work.mem_fd = domain->pool_fd;
                merger->work.secret = domain->secret;
                merger->work.reads = round->reads;
                merger->work.n_reads = round->n_reads;
                merger->work.ask_nodes = merger->settings.nodes.n > 1;
                return true;
        }
        return false;
}

static bool prepare_inspection(struct merger *merger)
{
        struct inspection *inspection = list_entry(list_first(&merger->inspections), struct inspection, link);

        merger->inspecting = inspection;
        merger->work_member = inspection->member;
        if (inspection->opening) {
                merger->work.pid = inspection->member ? inspection->member->space.pid : 0;
                merger->work.open_start = inspection->vmas[0].start;
                merger->work.open_end = inspection->vmas[0].end;
                return true;
        }
        merger->work.smaps_fd = inspection->smaps_fd;
        merger->work.pagemap_fd = inspection->member ? inspection->member->pagemap_fd : -EBADF;
        merger->work.shared = inspection->shared;
        merger->work.inspect_start = inspection->start;
        merger->work.inspect_end = inspection->start + inspection->length;
        merger->work.vmas = inspection->vmas;
        merger->work.n_vmas_max = INSPECTION_VMAS;
        return true;
}

void merger_advance(struct merger *merger, uint64_t now_ns)
{
        bool prepared;

        if (merger->working)
                return;
        merger->work = (struct work)WORK_INIT;
        if (!list_empty(&merger->inspections)) {
                prepared = prepare_inspection(merger);
        } else if (!merger->round.active && prepare_adoption(merger)) {
                prepared = true;
        } else if (!merger->round.active && files_prepare_drops(merger)) {
                prepared = true;
        } else if (merger->round.active && now_ns >= merger->not_before_ns) {
                prepared = prepare_round(merger);
                if (!prepared)
                        round_end(merger, now_ns);
        } else {
                return;
        }
        if (!prepared)
                return;
        merger->working = true;
        merger->work_began_ns = clock_now();
        worker_submit(merger->worker, &merger->work);
}

/* The CPU budget: after work that took t, the worker rests for what makes t its share. */
static void rest(struct merger *merger, uint64_t now_ns)
{
        uint64_t took = now_ns - merger->work_began_ns;

        if (merger->settings.max_cpu_percent < 100 && list_empty(&merger->requests) && !merger->round.at_once)
                merger->not_before_ns = now_ns + took * (100 - merger->settings.max_cpu_percent) /
                                                         merger->settings.max_cpu_percent;
}

static void tell_written(struct merger *merger, struct member *member, struct wire_written *written)
{
        if (!written->n_ranges || !member->session)
                return;
        wire_init(written, WIRE_WRITTEN, sizeof(*written) + written->n_ranges * sizeof(written->ranges[0]),
                  0);
        (void)!merger->ops->send_written(member->session, written);
        written->n_ranges = 0;
}

/*
 * Pages that shared and do no longer. Writes of which nobody told us, as those to lazy memory, are counted when they are
 * found; a client that does not hear of them now does so after another survey.
 */
static void take_copied(struct merger *merger, struct region *region, struct range_list *copied)
{
        union {
                struct wire_written written;
                char bytes[sizeof(struct wire_written) + WIRE_RANGES_MAX * sizeof(struct wire_written_range)];
        } message = {.written = {.n_ranges = 0}};
        struct wire_written *written = &message.written;
        struct member *member = member_of(region);
        bool lazy = region->flags & WP_LAZY;

        if (lazy && member->session && !merger->ops->hears(member->session))
                range_list_clear(copied);
        for (size_t i = 0; i < copied->n; i++) {
                const struct page_range *range = &copied->ranges[i];

                for (uint32_t k = 0; k < range->n_pages; k++)
                        task_copied(region, range->page + k);
                member->stat.write_faults += range->n_pages;
                if (!lazy)
                        continue;
                if (written->n_ranges == WIRE_RANGES_MAX)
                        tell_written(merger, member, written);
                written->ranges[written->n_ranges++] =
                        (struct wire_written_range){.address = region_address(region, range->page),
                                                    .length = (uint64_t)range->n_pages << PAGE_SHIFT};
        }
        range_list_clear(copied);
        tell_written(merger, member, written);
}

static void surveyed(struct merger *merger)
{
        struct round *round = &merger->round;
        struct region *region = round->region;
        uint32_t end;

        if (!region || region->closing)
                return;
        if (merger->work.survey_error < 0) { /* the process is going away */
                leave_region(round);
                return;
        }
        end = (uint32_t)((merger->work.survey_walked - region->start) >> PAGE_SHIFT);
        end = MIN(end, round->window_end);
        if (end <= round->window_first) {
                leave_region(round);
                return;
        }
        round->page = end;
        /* Out of memory: the pages that were not digested are met again in the next round. */
        (void)!scan_digest(region, round->window_first, end, merger->runs, merger->work.n_runs,
                           round->at_once, &round->output);
        /* While a run is merged its pages are unprotected for a moment: that is no write. */
        if (merger->survey_stale)
                range_list_clear(&round->output.copied);
        take_copied(merger, region, &round->output.copied);
        merger->stat.pages_skipped += round->output.n_skipped;
        round->output.n_skipped = 0;
}

static void round_worked(struct merger *merger)
{
        if (merger->work.n_stores)
                match_stored(merger, merger->work.store_error);
        if (merger->work.n_reads)
                match_reads(merger);
        if (merger->work.survey_end)
                surveyed(merger);
}

void merger_worked(struct merger *merger, uint64_t now_ns)
{
        struct inspection *inspection = merger->inspecting;

        if (!worker_take(merger->worker))
                return;
        merger->working = false;
        merger->work_member = NULL;
        rest(merger, now_ns);
        if (inspection) {
                merger->inspecting = NULL;
                task_inspected(merger, inspection);
        } else if (merger->adopting) {
                match_adopted(merger);
                merger->adopting = NULL;
        } else if (!files_dropped(merger)) {
                round_worked(merger);
        }
        list_for_each(link, &merger->members)
                task_advance(merger, list_entry(link, struct member, link));
        merger_advance(merger, now_ns);
}

void merger_wake(struct merger *merger)
{
        merger->sleep_ns = merger->settings.sleep_ns;
        merger->next_round_ns = 0;
}

/* Whether there is reason for another round. */
static bool wanted(const struct merger *merger)
{
        return !merger->paused && (!list_empty(&merger->members) || !list_empty(&merger->requests));
}

static uint64_t reclaim(struct merger *merger, uint64_t now_ns)
{
        uint64_t next = UINT64_MAX;

        list_for_each(link, &merger->domains)
                next = MIN(next, domain_reclaim(list_entry(link, struct domain, link), merger->own_pagemap_fd,
                                                now_ns));
        return next;
}

uint64_t merger_tick(struct merger *merger, uint64_t now_ns)
{
        struct merging *merging;
        uint64_t next;

        reap(merger);
        files_sweep(merger, now_ns);
        next = MIN(reclaim(merger, now_ns), files_advance(merger, now_ns));
        if (!list_empty(&merger->requests)) {
                answer_requests(merger, now_ns);
                next = MIN(next, now_ns + REQUEST_SETTLE_NS);
        }
        if (!list_empty(&merger->mergings)) {
                merger_answer_mergings(merger, now_ns);
                next = MIN(next, now_ns + REQUEST_SETTLE_NS);
        }
        /* What comes between rounds. */
        if (!merger->round.active)
                merger_advance(merger, now_ns);
        merging = merger->round.active ? NULL : next_merging(merger);
        if (merging && round_begin_merging(merger, merging, now_ns) < 0)
                merging_answer(merger, merging, -ENOMEM);
        else if (!merger->round.active && wanted(merger) && now_ns >= merger->next_round_ns)
                round_begin(merger, now_ns);
        else
                merger_advance(merger, now_ns);
        if (merger->round.active && !merger->working)
                next = MIN(next, merger->not_before_ns);
        if (!merger->round.active && wanted(merger))
                next = MIN(next, merger->next_round_ns);
        return next;
}

/* ------------------------------------------------------------------ requests */

int merger_scan(struct merger *merger, pid_t pid, merger_scanned done, void *context)
{
        struct scan_request *request;
        bool known = !pid;

        if (merger->paused)
                return -EBUSY;
        list_for_each(link, &merger->members)
                known |= list_entry(link, struct member, link)->space.pid == pid;
        if (!known)
                return -ESRCH;
        if (!done && !list_empty(&merger->requests))
                return 0; /* a pass is coming anyway */
        request = calloc(1, sizeof(*request));
        if (!request)
                return -ENOMEM;
        /* One round protects, the next reads; a round that has begun does not count. */
        *request = (struct scan_request){
                .pid = pid, .rounds_left = 2 + merger->round.active, .done = done, .context = context};
        list_init(&request->link);
        list_append(&merger->requests, &request->link);
        merger->not_before_ns = 0;
        merger->retry_refused = true;
        merger_wake(merger);
        return 0;
}

int merger_merge(struct merger *merger, struct region *region, uint32_t page, uint32_t n_pages,
                 merger_merged done, void *context)
{
        struct merger_merge_stat before;
        struct merging *merging;

        if (merger->paused)
                return -EBUSY;
        merging = calloc(1, sizeof(*merging));
        if (!merging)
                return -ENOMEM;
        *merging = (struct merging){.member = member_of(region),
                                    .region = region,
                                    .page = page,
                                    .n_pages = n_pages,
                                    .done = done,
                                    .context = context};
        count_pages(merging, &before);
        merging->merged_before = before.merged;
        merging->zero_before = before.zero;
        list_init(&merging->link);
        list_append(&merger->mergings, &merging->link);
        region_retry_refused(region);
        merger->not_before_ns = 0;
        return 0;
}

void merger_scan_cancel(struct merger *merger, bool (*matches)(const void *context, const void *key),
                        const void *key, void (*release)(void *context))
{
        list_for_each_safe(link, next, &merger->requests) {
                struct scan_request *request = list_entry(link, struct scan_request, link);

                if (!matches(request->context, key))
                        continue;
                list_remove(&request->link);
                release(request->context);
                free(request);
        }
}

void merger_pause(struct merger *merger, bool paused)
{
        merger->paused = paused;
        if (!paused) {
                merger_wake(merger);
                return;
        }
        /* Whoever waits for a pass gets what there is of it. */
        list_for_each(link, &merger->requests)
                list_entry(link, struct scan_request, link)->rounds_left = 0;
}

void merger_stat(struct merger *merger, struct merger_stat *ret_stat)
{
        struct merger_stat stat = merger->stat;

        stat.paused = merger->paused;
        stat.active = merger->round.active;
        stat.lease_wait = &merger->lease_wait;
        stat.worker_cpu_ns = worker_cpu_ns(merger->worker);
        stat.metadata_bytes = sizeof(*merger);
        list_for_each(link, &merger->members) {
                const struct member *member = list_entry(link, struct member, link);

                stat.members += member->session != NULL;
                stat.metadata_bytes += sizeof(*member) + member->n_queued * sizeof(struct run);
                add_stat(&stat, &member->stat);
                list_for_each(region_link, &member->space.regions) {
                        const struct region *region = list_entry(region_link, struct region, link);

                        stat.regions++;
                        stat.pages += region->n_pages;
                        stat.vmas += region->borders;
                        stat.metadata_bytes += region_bytes(region);
                        for (unsigned i = 0; i < PAGE_N_STATES; i++)
                                stat.count[i] += region->count[i];
                }
        }
        list_for_each(link, &merger->domains) {
                const struct domain *domain = list_entry(link, struct domain, link);

                stat.metadata_bytes += domain_bytes(domain);
                stat.pages_shared += domain->pool.n_shared;
                stat.pages_sharing += domain->pool.n_sharers - domain->pool.n_shared;
                stat.pages_retired += domain->pool.n_retired;
        }
        stat.pages_sharing += stat.count[PAGE_ALIASED];
        list_for_each(link, &merger->backings) {
                const struct backing *backing = list_entry(link, struct backing, link);

                stat.files++;
                stat.files_leased += backing->state == BACKING_LEASED;
                stat.file_pages += backing->n_replaced;
                stat.metadata_bytes += backing_bytes(backing);
                /* One page of a file is one, however many map it. */
                stat.pages_sharing -= MIN(stat.pages_sharing, backing->n_extra);
                stat.pages_shared += backing->n_canonical;
        }
        *ret_stat = stat;
}
