/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Matching: what was read is looked up, and what is found becomes runs
 *
 * Three passes over what one piece of work has read, in address order. First every page is looked up; one
 * without a match becomes a candidate at once, so that its twin in the same batch finds it. Then matches of
 * neighbours with neighbours become runs, and each is accepted or refused as a whole. Then the pages of
 * accepted runs get their slots: a matched candidate is *promoted*, that is, its content (equal to what was
 * just read, so far as we know) is stored in a slot that mirrors its place, and both pages are planned.
 */

#include "dedup/merger-private.h"

#include <sys/mman.h>

#include "dedup/backing.h"
#include "dedup/fingerprint.h"
#include "libwp/wire.h"

/* Fingerprint for pages of zeros when they are to be treated like others. */
#define ZERO_FINGERPRINT 1

static bool same_content(const struct domain *domain, struct page_ref ref, uint32_t key)
{
        const struct region *region = domain_region(domain, ref.region);

        return region && !region->closing && region_state(region, ref.page) == PAGE_CANDIDATE &&
               region_key(region, ref.page) == key;
}

static void become_candidate(struct domain *domain, struct region *region, uint32_t page,
                             uint64_t fingerprint, bool enter)
{
        region_set_state(region, page, PAGE_CANDIDATE, fingerprint_key(fingerprint));
        region_forget_patience(region, page);
        /* Out of memory: the page is no candidate for others until it is read again. */
        if (!enter)
                region_mark_refused(region, page);
        else
                (void)!index_insert(&domain->index, fingerprint,
                                    (struct page_ref){.region = region->id, .page = page});
}

static uint32_t sharers_of(const void *context, uint32_t slot)
{
        const struct domain *domain = context;

        return pool_slot(&domain->pool, slot)->sharers;
}

/* What was matched is the very page of a file that was read, as somebody else maps it. */
static bool same_file_page(const struct domain *domain, const struct region *region,
                           const struct match *match)
{
        return match->kind == MATCH_PAGE && region->backing &&
               backing_same(region, match->page, domain_region(domain, match->with.region), match->with.page);
}

/*
 * A page of a file that others are aliases of cannot go, and some cannot be replaced just now: who matches such a page and cannot be
 * an alias of it begins with a slot of his own.
 */
static bool must_stay(const struct domain *domain, const struct match *match)
{
        const struct region *other;
        uint32_t file_page;

        if (match->kind != MATCH_PAGE)
                return false;
        other = domain_region(domain, match->with.region);
        return other->backing &&
               (!files_promotable(other) ||
                (backing_page(other, match->with.page, &file_page) && other->backing->users[file_page]));
}

static void match_one(struct merger *merger, struct domain *domain, struct region *region,
                      const struct work_read *read, struct match *match)
{
        const struct nodes *nodes = &merger->settings.nodes;

        match->kind = MATCH_NONE;
        if (region_state(region, match->page) != PAGE_TRACKED)
                return;
        if (!read->ok) {
                region_mark_failed(region, match->page);
                return;
        }
        merger->stat.pages_scanned++;
        /* Each page of zeros of a file would be a mapping of its own. */
        if (read->zero && region->backing) {
                become_candidate(domain, region, match->page, ZERO_FINGERPRINT, false);
                return;
        }
        if (read->zero && merger->settings.use_zero_pages) {
                match->kind = MATCH_ZERO;
                return;
        }
        nodes_match(nodes, &merger->settings.nodes_policy, &domain->index, sharers_of, domain,
                    read->fingerprint, nodes_home(nodes, read->node), match);
        if (match->kind == MATCH_NONE) {
                become_candidate(domain, region, match->page, match->fingerprint, true);
        } else if (same_file_page(domain, region, match)) {
                match->kind = MATCH_NONE;
                become_candidate(domain, region, match->page, match->fingerprint, false);
        } else if (must_stay(domain, match) &&
                   !files_may_alias(region, domain_region(domain, match->with.region))) {
                match->kind = MATCH_REPLICA;
        }
}

static bool affordable(struct merger *merger, struct member *member, size_t n_pages)
{
        uint32_t minimum = planner_min_run(space_borders(&member->space) + 2 * member->n_queued,
                                           member->space.vma_budget, merger->settings.min_run_pages);

        if (n_pages >= minimum)
                return true;
        if (n_pages >= merger->settings.min_run_pages)
                member->stat.failures[REASON_VMA_BUDGET] += n_pages;
        return false;
}

static bool pool_has_room(const struct merger *merger)
{
        uint64_t used = 0;

        if (!merger->settings.pool_max_pages)
                return true;
        list_for_each(link, &merger->domains) {
                const struct domain *domain = list_entry(link, struct domain, link);

                used += domain->pool.n_used + domain->pool.n_retired;
        }
        return used < merger->settings.pool_max_pages;
}

/* Whether this run of matches is worth its price to those who would pay it. */
static bool accept(struct merger *merger, struct member *member, const struct match *match, size_t n_pages)
{
        const struct region *other;

        if (match->kind == MATCH_ZERO)
                return true;
        if (!affordable(merger, member, n_pages))
                return false;
        if (match->kind != MATCH_PAGE)
                return true;
        other = domain_region(member->domain, match->with.region);
        return !other || member_of(other) == member || affordable(merger, member_of(other), n_pages);
}

static enum wire_run_kind merge_kind(const struct region *region)
{
        return region->backing ? WIRE_RUN_FILE : WIRE_RUN_MERGE;
}

/*
 * Adds a page to the newest run of its kind that it continues, or starts one. The page becomes PAGE_PLANNED.
 */
static int plan(struct merger *merger, struct run **newest, struct region *region, uint32_t page,
                enum wire_run_kind kind, uint32_t slot)
{
        struct run *run = *newest;
        bool merge = kind != WIRE_RUN_ZERO;

        if (run && run->region == region && run->kind == kind && run->page + run->n_pages == page &&
            run->n_pages < WIRE_RUN_PAGES && (!merge || run->slot + run->n_pages == slot)) {
                run->n_pages++;
        } else {
                run = run_new(member_of(region), region, page, kind, slot);
                if (!run)
                        return -ENOMEM;
                list_append(&merger->round.storing, &run->link);
                *newest = run;
        }
        region_set_state(region, page, PAGE_PLANNED, slot);
        return 0;
}

/* The newest runs on both sides of a batch: what was read, and the candidates that it matched. */
struct open_runs {
        struct run *here;
        struct run *there;
};

/* A slot for the content of what was read as page `i`, at the place of this page of a region; it has one pin. */
static int new_slot(struct merger *merger, struct domain *domain, struct region *region, uint32_t page,
                    size_t i, uint32_t *ret_slot, uint32_t *ret_anchor)
{
        uint32_t slot, anchor = ANCHOR_NONE;
        int r;

        if (!pool_has_room(merger))
                return -ENOSPC;
        r = domain_place(domain, region, page, fingerprint_key(merger->round.matches[i].fingerprint), &slot);
        if (r < 0)
                return r;
        r = domain_anchor(domain, slot, &anchor);
        if (r < 0) {
                domain_unpin(domain, slot);
                return r;
        }
        *ret_slot = slot;
        *ret_anchor = anchor;
        return 0;
}

/* The content is going to be stored, and can be found. */
static void keep_slot(struct merger *merger, struct domain *domain, size_t i, uint32_t slot, uint32_t anchor)
{
        struct round *round = &merger->round;
        const struct match *match = &round->matches[i];

        /* A slot that is not in the index is found by nobody else: no harm. */
        (void)!index_insert(&domain->index, match->fingerprint,
                            (struct page_ref){.region = INDEX_SLOT, .page = slot});
        round->stores[round->n_stores++] =
                (struct work_store){.read = (uint32_t)i,
                                    .slot = slot,
                                    .anchor = anchor,
                                    .node = merger->settings.nodes.n > 1 ? match->node : NUMA_NO_NODE};
        round->store_domain = domain;
}

static void drop_slot(struct domain *domain, uint32_t slot, uint32_t anchor)
{
        if (anchor != ANCHOR_NONE)
                domain_unanchor(domain, slot);
        domain_unpin(domain, slot);
}

/* Makes a slot of the candidate that read page `i` matched, and pins it for that page. */
static int promote(struct merger *merger, struct domain *domain, struct open_runs *open, size_t i,
                   uint32_t *ret_slot)
{
        struct page_ref ref = merger->round.matches[i].with;
        struct region *other = domain_region(domain, ref.region);
        uint32_t slot, anchor;
        int r;

        r = new_slot(merger, domain, other, ref.page, i, &slot, &anchor);
        if (r < 0)
                return r;
        r = plan(merger, &open->there, other, ref.page, merge_kind(other), slot);
        if (r < 0) {
                drop_slot(domain, slot, anchor);
                return r;
        }
        keep_slot(merger, domain, i, slot, anchor);
        pool_pin(&domain->pool, slot);
        if (other->backing)
                merger->round.promotions[merger->round.n_promotions++] =
                        (struct promotion){.region = other,
                                           .page = ref.page,
                                           .slot = slot,
                                           .key = fingerprint_key(merger->round.matches[i].fingerprint)};
        *ret_slot = slot;
        return 0;
}

/* Makes a slot of read page `i` itself. */
static int replicate(struct merger *merger, struct domain *domain, struct region *region, size_t i,
                     uint32_t *ret_slot)
{
        uint32_t slot, anchor;
        int r = new_slot(merger, domain, region, merger->round.matches[i].page, i, &slot, &anchor);

        if (r < 0)
                return r;
        keep_slot(merger, domain, i, slot, anchor);
        *ret_slot = slot;
        return 0;
}

/*
 * The slot that read page `i` is to map, pinned for it: 0, or 1 when the match is gone, or a negative errno.
 */
static int find_slot(struct merger *merger, struct domain *domain, struct region *region,
                     struct open_runs *open, size_t i, uint32_t *ret_slot)
{
        const struct match *match = &merger->round.matches[i];
        struct page_ref ref = match->with;
        const struct slot *slot;

        if (match->kind == MATCH_PAGE && same_content(domain, ref, fingerprint_key(match->fingerprint)) &&
            files_promotable(domain_region(domain, ref.region)))
                return promote(merger, domain, open, i, ret_slot);
        /* A slot; or what became one earlier in this batch; or a candidate that changed. */
        if (match->kind != MATCH_SLOT &&
            (!index_find(&domain->index, match->fingerprint, &ref) || !page_ref_is_slot(ref)))
                return match->kind == MATCH_REPLICA ? replicate(merger, domain, region, i, ret_slot) : 1;
        slot = pool_slot(&domain->pool, ref.page);
        if (!slot || slot->state == SLOT_FREE || slot->key != fingerprint_key(match->fingerprint))
                return 1;
        pool_pin(&domain->pool, ref.page);
        *ret_slot = ref.page;
        return 0;
}

/* Whether read page `i`, of a mapping of a file, is planned as an alias of the page of another file that it matched. */
static bool plan_alias(struct merger *merger, struct domain *domain, struct region *region,
                       struct open_runs *open, size_t i)
{
        const struct match *match = &merger->round.matches[i];
        uint32_t key;

        if (match->kind != MATCH_PAGE || region_state(region, match->page) != PAGE_TRACKED ||
            !same_content(domain, match->with, fingerprint_key(match->fingerprint)) ||
            files_alias(merger, region, domain_region(domain, match->with.region), match->with.page, &key) <
                    0)
                return false;
        if (plan(merger, &open->here, region, match->page, WIRE_RUN_ALIAS, key) >= 0)
                return true;
        files_unalias(member_of(region), key);
        return false;
}

static void plan_merge(struct merger *merger, struct domain *domain, struct region *region,
                       struct open_runs *open, size_t i)
{
        uint32_t page = merger->round.matches[i].page, slot;
        int r;

        if (plan_alias(merger, domain, region, open, i))
                return;
        if (region->protection & PROT_EXEC) {
                if (region_state(region, page) == PAGE_TRACKED)
                        become_candidate(domain, region, page, merger->round.matches[i].fingerprint, false);
                return;
        }
        r = find_slot(merger, domain, region, open, i, &slot);

        /* Promoting another page of this region may have planned this one. */
        if (r == 0 && region_state(region, page) != PAGE_TRACKED) {
                domain_unpin(domain, slot);
                return;
        }
        if (r == 0) {
                r = plan(merger, &open->here, region, page, merge_kind(region), slot);
                if (r < 0)
                        domain_unpin(domain, slot);
        }
        if (r < 0)
                member_of(region)->stat.failures[REASON_POOL]++;
        if (r != 0)
                become_candidate(domain, region, page, merger->round.matches[i].fingerprint, r == 1);
}

static void plan_run(struct merger *merger, struct region *region, struct open_runs *open, size_t first,
                     size_t end)
{
        struct round *round = &merger->round;
        struct member *member = member_of(region);
        bool accepted = accept(merger, member, &round->matches[first], end - first);

        for (size_t i = first; i < end; i++) {
                uint32_t page = round->matches[i].page;

                if (!accepted)
                        become_candidate(member->domain, region, page, round->matches[i].fingerprint, false);
                else if (round->matches[i].kind != MATCH_ZERO)
                        plan_merge(merger, member->domain, region, open, i);
                else if (plan(merger, &open->here, region, page, WIRE_RUN_ZERO, 0) < 0)
                        become_candidate(member->domain, region, page, ZERO_FINGERPRINT, false);
        }
}

/* Plans for one region what became slots of pages of its file that others map, too. */
static void plan_sibling(struct merger *merger, struct domain *domain, struct region *region)
{
        const struct round *round = &merger->round;
        struct run *newest = NULL;

        for (size_t i = 0; i < round->n_promotions; i++) {
                const struct promotion *promotion = &round->promotions[i];
                uint32_t page;

                if (promotion->region->backing != region->backing || promotion->region == region ||
                    !files_promotable(region) ||
                    !backing_region_page(region, promotion->region->backing_page + promotion->page, &page) ||
                    !same_content(domain, (struct page_ref){region->id, page}, promotion->key))
                        continue;
                pool_pin(&domain->pool, promotion->slot);
                if (plan(merger, &newest, region, page, WIRE_RUN_FILE, promotion->slot) < 0)
                        domain_unpin(domain, promotion->slot);
        }
}

/* A page of a file goes only when nobody maps it: whoever does follows. */
static void plan_siblings(struct merger *merger, struct domain *domain)
{
        const struct round *round = &merger->round;

        for (size_t i = 0; i < round->n_promotions; i++) {
                struct backing *backing = round->promotions[i].region->backing;
                bool first = true;

                for (size_t k = 0; k < i; k++)
                        first &= round->promotions[k].region->backing != backing;
                list_for_each(link, &backing->regions) {
                        struct region *region = list_entry(link, struct region, sibling);

                        if (first && member_of(region)->domain == domain)
                                plan_sibling(merger, domain, region);
                }
        }
}

void match_reads(struct merger *merger)
{
        struct round *round = &merger->round;
        struct region *region = round->region;
        struct open_runs open = {.here = NULL};
        struct domain *domain;

        if (!region || region->closing || !files_leased(region))
                return;
        domain = member_of(region)->domain;
        round->n_promotions = 0;
        for (size_t i = 0; i < round->n_reads; i++) {
                round->matches[i].page = round->read_pages[i];
                if (round->reads[i].zero && !merger->settings.use_zero_pages)
                        round->reads[i].fingerprint = ZERO_FINGERPRINT;
                match_one(merger, domain, region, &round->reads[i], &round->matches[i]);
        }
        for (size_t i = 0, end; i < round->n_reads; i = end) {
                end = planner_run_end(round->matches, i, round->n_reads);
                if (round->matches[i].kind != MATCH_NONE)
                        plan_run(merger, region, &open, i, end);
        }
        plan_siblings(merger, domain);
        if (!round->n_stores)
                match_stored(merger, 0);
}

void match_stored(struct merger *merger, int error)
{
        struct round *round = &merger->round;

        /* What was to be stored may not be there. */
        for (size_t i = 0; error < 0 && i < round->n_stores; i++)
                domain_spoil(round->store_domain, round->stores[i].slot);
        round->n_stores = 0;
        list_for_each_safe(link, next, &round->storing) {
                struct run *run = list_entry(link, struct run, link);

                if (error < 0 || run->region->closing || !run->member->session) {
                        run_withdraw(run, error < 0 ? REASON_POOL : REASON_NONE);
                        continue;
                }
                list_remove(&run->link);
                list_append(&run->member->queue, &run->link);
                run->member->n_queued++;
        }
        list_for_each(link, &merger->members)
                member_dispatch(list_entry(link, struct member, link), merger->ops);
}

void match_adopted(struct merger *merger)
{
        struct domain *domain = merger->adopting;
        struct round *round = &merger->round;

        for (size_t i = 0; i < round->n_reads; i++) {
                const struct slot *slot = pool_slot(&domain->pool, round->read_pages[i]);
                const struct work_read *read = &round->reads[i];
                uint64_t fingerprint;

                /* It may have been given back meanwhile, and its number been used for other content. */
                if (!slot || slot->state == SLOT_FREE || slot->key || !read->ok || read->zero)
                        continue;
                fingerprint =
                        nodes_fingerprint(read->fingerprint, nodes_home(&merger->settings.nodes, read->node));
                pool_set_key(&domain->pool, round->read_pages[i], fingerprint_key(fingerprint));
                (void)!index_insert(&domain->index, fingerprint,
                                    (struct page_ref){.region = INDEX_SLOT, .page = round->read_pages[i]});
        }
        round->n_reads = 0;
}
