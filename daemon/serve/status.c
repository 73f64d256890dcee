/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Status: the documents that the control socket shows. */

#include "serve/status.h"

#include "dedup/backing.h"
#include "util/clock.h"
#include "wp.h"

/* What one mapping costs the kernel: struct vm_area_struct and its share of the tree (Linux 6.x, x86-64,
 * rounded up). */
#define VMA_BYTES 256

static double seconds(uint64_t ns)
{
        return (double)ns / (double)NSEC_PER_SEC;
}

static double micros(uint64_t ns)
{
        return (double)ns / (double)NSEC_PER_USEC;
}

static json_t *failures_document(const uint64_t *failures)
{
        json_t *document = json_object();

        for (unsigned i = REASON_NONE + 1; i < REASON_N; i++)
                if (failures[i])
                        json_object_set_new(document, reason_name((enum reason)i),
                                            json_integer((json_int_t)failures[i]));
        return document;
}

static json_t *latency_document(const struct hist *latency)
{
        return json_pack("{s:f, s:f, s:f}", "p50", micros(hist_quantile(latency, 500)), "p99",
                         micros(hist_quantile(latency, 990)), "max", micros(hist_max(latency)));
}

json_t *status_totals(const struct status_source *source)
{
        struct session_fault_stat served;
        struct merger_stat stat;
        struct fault_stat fault;
        uint64_t metadata;
        int64_t profit;

        merger_stat(source->merger, &stat);
        fault_stat(source->fault, &fault);
        session_fault_stat(source->sessions, &served);
        metadata = stat.metadata_bytes + stat.vmas * VMA_BYTES;
        profit = (int64_t)((stat.pages_sharing + stat.count[PAGE_ZERO]) * PAGE_BYTES) - (int64_t)metadata;
        return json_pack(
                "{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:I, s:I, s:I, "
                "s:I, s:I, s:{s:f, s:f, s:f}, s:o, s:I, s:I, s:I, s:I, s:o}",
                "version", WPD_VERSION, "state",
                stat.paused   ? "paused"
                : stat.active ? "scanning"
                              : "idle",
                "uptime_seconds", (json_int_t)((clock_now() - source->started_ns) / NSEC_PER_SEC), "clients",
                (json_int_t)stat.members, "regions", (json_int_t)stat.regions, "bytes_registered",
                (json_int_t)(stat.pages * PAGE_BYTES), "pages_tracked",
                (json_int_t)(stat.pages - stat.count[PAGE_EMPTY]), "pages_shared",
                (json_int_t)stat.pages_shared, "pages_sharing", (json_int_t)stat.pages_sharing,
                "pages_unshared", (json_int_t)stat.count[PAGE_CANDIDATE], "pages_volatile",
                (json_int_t)stat.count[PAGE_VOLATILE], "zero_pages", (json_int_t)stat.count[PAGE_ZERO],
                "pages_retired", (json_int_t)stat.pages_retired, "pages_foreign",
                (json_int_t)stat.count[PAGE_FOREIGN], "pages_scanned", (json_int_t)stat.pages_scanned,
                "pages_skipped", (json_int_t)stat.pages_skipped, "full_scans", (json_int_t)stat.full_scans,
                "merges", (json_int_t)stat.merges, "merge_failures", failures_document(stat.failures),
                "write_faults", (json_int_t)(stat.write_faults + fault.writes), "unmerges",
                (json_int_t)stat.unmerges, "general_profit", (json_int_t)profit, "metadata_bytes",
                (json_int_t)metadata, "vmas", (json_int_t)stat.vmas, "cpu_seconds", "control",
                seconds(clock_ns(CLOCK_THREAD_CPUTIME_ID)), "fault",
                seconds(fault.cpu_ns + served.watcher_cpu_ns), "scan", seconds(stat.worker_cpu_ns),
                "fault_latency_us", latency_document(served.latency), "files", (json_int_t)stat.files,
                "files_leased", (json_int_t)stat.files_leased, "file_pages", (json_int_t)stat.file_pages,
                "lease_breaks", (json_int_t)hist_count(stat.lease_wait), "lease_break_us",
                latency_document(stat.lease_wait));
}

/* ------------------------------------------------------------------ clients and regions */

static void sum_regions(const struct member *member, uint64_t *count)
{
        for (unsigned i = 0; i < PAGE_N_STATES; i++)
                count[i] = 0;
        list_for_each(link, &member->space.regions) {
                const struct region *region = list_entry(link, struct region, link);

                for (unsigned i = 0; i < PAGE_N_STATES; i++)
                        count[i] += region->count[i];
        }
}

static void add_client(void *context, struct member *member)
{
        uint64_t count[PAGE_N_STATES];

        sum_regions(member, count);
        json_array_append_new(
                context,
                json_pack("{s:i, s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "pid",
                          member->space.pid, "uid", (json_int_t)member->space.uid, "name",
                          session_name(member->session), "regions", (json_int_t)member->space.n_regions,
                          "bytes_registered", (json_int_t)(member->space.n_pages * PAGE_BYTES),
                          "pages_tracked", (json_int_t)(member->space.n_pages - count[PAGE_EMPTY]),
                          "pages_sharing", (json_int_t)(count[PAGE_MERGED] + count[PAGE_ALIASED]),
                          "zero_pages", (json_int_t)count[PAGE_ZERO], "pages_copied",
                          (json_int_t)count[PAGE_COPIED], "vmas", (json_int_t)space_borders(&member->space),
                          "vma_budget", (json_int_t)member->space.vma_budget, "write_faults",
                          (json_int_t)member->stat.write_faults, "state",
                          member->session ? "connected" : "gone"));
}

json_t *status_clients(const struct status_source *source)
{
        json_t *document = json_array();

        if (document)
                merger_each_member(source->merger, add_client, document);
        return document;
}

struct pid_filter {
        json_t *document;
        pid_t pid;
};

static json_t *flags_document(uint64_t flags)
{
        json_t *document = json_array();

        if (flags & WP_MERGE)
                json_array_append_new(document, json_string("merge"));
        if (flags & WP_NOTIFY)
                json_array_append_new(document, json_string("notify"));
        if (flags & WP_LAZY)
                json_array_append_new(document, json_string("lazy"));
        if (flags & WP_EXEC)
                json_array_append_new(document, json_string("exec"));
        return document;
}

static const char *kind(const struct region *region)
{
        return region->backing ? "file" : region->shared ? "shared" : "private";
}

static json_t *region_document(const struct member *member, const struct region *region)
{
        const uint64_t *count = region->count;

        return json_pack(
                "{s:i, s:I, s:I, s:I, s:s, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "pid",
                member->space.pid, "region", (json_int_t)region->id, "address", (json_int_t)region->start,
                "length", (json_int_t)((uint64_t)region->n_pages * PAGE_BYTES), "kind", kind(region), "flags",
                flags_document(region->flags), "pages", (json_int_t)region->n_pages, "pages_resident",
                (json_int_t)(region->n_pages - count[PAGE_EMPTY] - count[PAGE_ZERO] - count[PAGE_EXCLUDED]),
                "pages_merged", (json_int_t)(count[PAGE_MERGED] + count[PAGE_ALIASED] + count[PAGE_FOREIGN]),
                "zero_pages", (json_int_t)count[PAGE_ZERO], "pages_volatile",
                (json_int_t)count[PAGE_VOLATILE], "pages_copied", (json_int_t)count[PAGE_COPIED],
                "pages_excluded", (json_int_t)count[PAGE_EXCLUDED], "pages_refused",
                (json_int_t)count[PAGE_COPIED], "runs", (json_int_t)(region->borders / 2));
}

static void add_regions(void *context, struct member *member)
{
        const struct pid_filter *filter = context;

        if (filter->pid && member->space.pid != filter->pid)
                return;
        list_for_each(link, &member->space.regions)
                json_array_append_new(filter->document,
                                      region_document(member, list_entry(link, struct region, link)));
}

json_t *status_regions(const struct status_source *source, pid_t pid)
{
        struct pid_filter filter = {.document = json_array(), .pid = pid};

        if (filter.document)
                merger_each_member(source->merger, add_regions, &filter);
        return filter.document;
}

/* ------------------------------------------------------------------ doctor */

static void add_finding(json_t *document, pid_t pid, uint32_t region, uint64_t address, uint64_t length,
                        uint64_t pages, const char *reason, const char *text, const char *remedy)
{
        json_array_append_new(document,
                              json_pack("{s:i, s:I, s:I, s:I, s:I, s:s, s:s, s:s}", "pid", pid, "region",
                                        (json_int_t)region, "address", (json_int_t)address, "length",
                                        (json_int_t)length, "pages", (json_int_t)pages, "reason", reason,
                                        "text", text, "remedy", remedy));
}

static void examine_region(json_t *document, const struct member *member, const struct region *region)
{
        static const struct {
                enum page_state state;
                const char *reason;
                const char *text;
                const char *remedy;
        } findings[] = {
                {PAGE_VOLATILE, "volatile", "written too often or too recently to be looked at",
                 "none needed: looked at again when it settles"},
                {PAGE_CANDIDATE, "unshared", "no page with the same content was found", "none needed"},
                {PAGE_COPIED, "copied", "was merged, then written: private now, and not merged again",
                 "register it with fresh memory to merge it again"},
                {PAGE_FOREIGN, "foreign", "merged by an earlier daemon, whose pool is not known to this one",
                 "none needed: it still shares with others of that time; register it anew to merge it here"},
                {PAGE_EXCLUDED, "excluded", "the program excluded it", "wp_include() takes it back in"},
                {PAGE_PROTECTED, "protected", "the program protects it", "wp_release() ends that"},
        };
        uint64_t length = (uint64_t)region->n_pages * PAGE_BYTES;

        for (size_t i = 0; i < ARRAY_SIZE(findings); i++)
                if (region->count[findings[i].state])
                        add_finding(document, member->space.pid, region->id, region->start, length,
                                    region->count[findings[i].state], findings[i].reason, findings[i].text,
                                    findings[i].remedy);
        if (region->n_remnants)
                add_finding(document, member->space.pid, region->id, region->start, length,
                            region->n_remnants, reason_name(REASON_REMNANT), reason_text(REASON_REMNANT),
                            reason_remedy(REASON_REMNANT));
        if (region->backing && region->backing->state != BACKING_LEASED)
                add_finding(document, member->space.pid, region->id, region->start, length, region->n_pages,
                            "open_for_writing", "somebody has the file open for writing",
                            "none needed: merged again when nobody has it open for writing");
        if (!(region->flags & WP_MERGE))
                add_finding(document, member->space.pid, region->id, region->start, length, region->n_pages,
                            "no_merge", "registered without WP_MERGE", "register it with WP_MERGE");
}

static void examine_member(void *context, struct member *member)
{
        const struct pid_filter *filter = context;

        if (filter->pid && member->space.pid != filter->pid)
                return;
        list_for_each(link, &member->space.regions)
                examine_region(filter->document, member, list_entry(link, struct region, link));
        for (unsigned i = REASON_NONE + 1; i < REASON_N; i++)
                if (member->stat.failures[i])
                        add_finding(filter->document, member->space.pid, 0, 0, 0, member->stat.failures[i],
                                    reason_name((enum reason)i), reason_text((enum reason)i),
                                    reason_remedy((enum reason)i));
}

json_t *status_doctor(const struct status_source *source, pid_t pid)
{
        struct pid_filter filter = {.document = json_array(), .pid = pid};
        struct session_refusal refusals[SESSION_REFUSALS];
        unsigned n = session_refusals(source->sessions, refusals);

        if (!filter.document)
                return NULL;
        merger_each_member(source->merger, examine_member, &filter);
        for (unsigned i = 0; i < n; i++)
                if (!pid || refusals[i].pid == pid)
                        add_finding(filter.document, refusals[i].pid, 0, refusals[i].address,
                                    refusals[i].length, refusals[i].length / PAGE_BYTES,
                                    refusals[i].address ? "refused" : "dropped", refusals[i].detail, "");
        return filter.document;
}

/* ------------------------------------------------------------------ sharers */

struct page_search {
        pid_t pid;
        uint64_t address;
        const struct member *member; /* NULL: not found yet */
        const struct region *region;
        uint32_t page;
};

/* A process may have several connections. */
static void find_page(void *context, struct member *member)
{
        struct page_search *search = context;

        if (member->space.pid != search->pid || search->member)
                return;
        search->region = space_find(&member->space, search->address, &search->page);
        if (search->region)
                search->member = member;
}

/* Where the canonical page of a page that shares lies: in the pool, or in another file. */
static bool find_canonical(const struct page_search *search, enum page_state state, struct rmap_query *query)
{
        uint32_t key = region_key(search->region, search->page);
        const struct backing *backing;

        if (state == PAGE_MERGED) {
                query->dev = search->member->domain->pool_dev;
                query->inode = search->member->domain->pool_inode;
                query->offset = (uint64_t)key << PAGE_SHIFT;
                return true;
        }
        if (state != PAGE_ALIASED)
                return false;
        backing = search->member->files[key >> ALIAS_SHIFT].backing;
        query->dev = backing->dev;
        query->inode = backing->inode;
        query->offset = (uint64_t)(key & (ALIAS_MAX_PAGES - 1)) << PAGE_SHIFT;
        return true;
}

int status_find_page(const struct status_source *source, pid_t pid, uint64_t address, uid_t viewer,
                     enum page_state *ret_state, struct rmap_query *ret_query)
{
        struct page_search search = {.pid = pid, .address = address};
        struct rmap_query query = {.uid = viewer ? viewer : RMAP_ANYBODY};

        merger_each_member(source->merger, find_page, &search);
        if (!search.member)
                return -ENOENT;
        *ret_state = region_state(search.region, search.page);
        if (!find_canonical(&search, *ret_state, &query))
                return 0;
        *ret_query = query;
        return 1;
}

struct client_search {
        pid_t pid;
        bool found;
};

static void find_client(void *context, struct member *member)
{
        struct client_search *search = context;

        search->found |= member->session && member->space.pid == search->pid;
}

json_t *status_sharers(const struct status_source *source, enum page_state state,
                       const struct rmap_site *sites, size_t n_sites, bool complete)
{
        json_t *sharers = json_array();
        struct client_search search = {.pid = 0};

        for (size_t i = 0; sharers && i < n_sites; i++) {
                if (sites[i].pid != search.pid) {
                        search = (struct client_search){.pid = sites[i].pid};
                        merger_each_member(source->merger, find_client, &search);
                }
                json_array_append_new(sharers, json_pack("{s:i, s:I, s:I, s:b}", "pid", (int)sites[i].pid,
                                                         "address", (json_int_t)sites[i].address, "uid",
                                                         (json_int_t)sites[i].uid, "client", search.found));
        }
        return json_pack("{s:s, s:o, s:b}", "state", page_state_name(state), "sharers", sharers, "complete",
                         complete);
}
