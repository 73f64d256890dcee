/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The scan against a naive kernel and a client that does as it likes
 *
 * The kernel has three bits a page: populated, protected (a write takes that away), and the kernel's zero page. The client
 * writes, reads and discards pages at any time: between rounds, between a survey and the protection that follows from it, and
 * before what is to be read is read. Surveys end early, protections are cut off, reads fail, pages are planned and merged and
 * excluded. What must hold of each round:
 *
 *   - the lists are sorted, disjoint and inside of the window
 *   - a page is protected only if it was listed, and taken for tracked exactly if it was put on that list or stayed clean
 *   - a page is read only if it was tracked and not written since it was protected
 *   - a page that was written since it was read is a candidate no longer
 *   - a page that stops changing is read after at most LONGEST_WAIT rounds, and then never again
 *   - a page that shares is put on the list of copied ones exactly if it was listed
 *   - what is empty, planned, merged, foreign, copied or excluded is left alone
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dedup/scan.h"
#include "tests/model/random.h"
#include "util/bits.h"

#define BASE         UINT64_C(0x7f0000000000)
#define N_PAGES      (4 * CHUNK_PAGES + 60)
#define STRETCH      16
#define N_STRETCHES  ((N_PAGES + STRETCH - 1) / STRETCH)
#define UNUSED_CHUNK 2
#define N_ROUNDS     600
#define MAX_RUNS     40 /* fewer than a busy window has */

/*
 * The most patient page is looked at in one round of 2^(PATIENCE_LEVELS-2). The round after it was protected reads it.
 */
#define LONGEST_WAIT ((1U << (PATIENCE_LEVELS - 2)) + 1)

struct naive_page {
        bool populated;
        bool zero;      /* maps the kernel's zero page */
        bool protected; /* asynchronously, and not written since */
        bool changed;   /* anything at all happened to it since the last round ended */
        uint32_t wait;  /* whole rounds since then in which it was not read */
        uint8_t heat;   /* how often the client thinks of it */
};

struct model {
        struct region *region;
        struct naive_page pages[N_PAGES];
        enum page_state before[N_PAGES];
        bool listed[N_PAGES];
        struct scan_output output;
        struct random random;
        bool quiet;       /* the client has stopped */
        bool undisturbed; /* surveys are whole, protections are carried out, reads succeed */
        uint64_t n_read, n_protected, n_skipped, n_written, n_copied[PAGE_N_STATES];
        uint32_t longest_wait;
};

static bool chance(struct model *model, uint64_t one_in)
{
        return random_below(&model->random, one_in) == 0;
}

/* The survey's question: populated, written since protected, not the zero page. */
static bool dirty(const struct naive_page *page)
{
        return page->populated && !page->zero && !page->protected;
}

/* ------------------------------------------------------------------ the client */

static bool owned_by_pool(const struct model *model, uint32_t page)
{
        enum page_state state = region_state(model->region, page);

        return state == PAGE_MERGED || state == PAGE_FOREIGN || state == PAGE_COPIED;
}

static void client_touch(struct model *model, uint32_t i)
{
        struct naive_page *page = &model->pages[i];
        uint64_t what = random_below(&model->random, 10);

        page->changed = true;
        if (what < 7) { /* write */
                page->populated = true;
                page->zero = false;
                page->protected = false;
        } else if (what < 9) { /* discard: the protection is gone with the page */
                page->populated = false;
                page->zero = false;
                page->protected = false;
        } else if (!page->populated) { /* read what is not there */
                page->populated = true;
                page->zero = true;
        }
}

/* Some stretches are written all the time, some now and then; 1 is the hottest. One chunk is never used. */
static void heat_up(struct model *model, uint32_t stretch)
{
        uint8_t heat = (uint8_t)(1 + random_below(&model->random, 9));

        for (uint32_t i = stretch * STRETCH; i < MIN((stretch + 1) * STRETCH, N_PAGES); i++)
                model->pages[i].heat = i / CHUNK_PAGES == UNUSED_CHUNK ? 0 : heat;
}

static void client_run(struct model *model)
{
        if (model->quiet)
                return;
        for (uint32_t i = 0; i < N_PAGES; i++)
                if (model->pages[i].heat && chance(model, 1U << model->pages[i].heat))
                        client_touch(model, i);
        heat_up(model, (uint32_t)random_below(&model->random, N_STRETCHES));
}

/* The program excludes and includes; the daemon merges and unmerges. All steps are those of core/page.c. */
static void change_state(struct model *model)
{
        uint32_t i = (uint32_t)random_below(&model->random, N_PAGES);
        enum page_state from = region_state(model->region, i), to;

        if (!model->pages[i].heat) /* never used: not even its chunk is made */
                return;
        switch (from) {
        case PAGE_PLANNED:
                to = chance(model, 3) ? PAGE_MERGED : chance(model, 2) ? PAGE_ZERO : PAGE_TRACKED;
                break;
        case PAGE_MERGED:
        case PAGE_FOREIGN:
                to = chance(model, 2) ? PAGE_COPIED : PAGE_VOLATILE;
                break;
        case PAGE_COPIED:
                to = PAGE_EXCLUDED;
                break;
        case PAGE_EXCLUDED:
                to = region_flags(model->region, i) & PAGE_F_POOLED ? PAGE_COPIED : PAGE_TRACKED;
                break;
        case PAGE_CANDIDATE:
                to = PAGE_PLANNED;
                break;
        case PAGE_EMPTY: /* sometimes a new registration finds it in a mapping of a pool */
                to = chance(model, 2) ? PAGE_FOREIGN : chance(model, 2) ? PAGE_MERGED : PAGE_EXCLUDED;
                break;
        case PAGE_VOLATILE:
        case PAGE_TRACKED:
                if (!chance(model, 4))
                        return;
                to = PAGE_EXCLUDED;
                break;
        default:
                return;
        }
        assert_int_equal(region_make_chunk(model->region, i), 0);
        region_set_state(model->region, i, to, i);
        model->pages[i].changed = true;
        if (to == PAGE_ZERO)
                model->pages[i] = (struct naive_page){.changed = true, .heat = model->pages[i].heat};
        else if (to == PAGE_VOLATILE)
                model->pages[i].protected = false;
        /* A run that failed: withdrawn before the agent had it, or put back, which ends the protection. */
        if (from == PAGE_PLANNED && to == PAGE_TRACKED) {
                region_mark_failed(model->region, i);
                if (chance(model, 2))
                        model->pages[i].protected = false;
        }
}

/* ------------------------------------------------------------------ the worker */

/* Returns where the survey ended; like the kernel, with as many runs as there is room for. */
static uint32_t survey(struct model *model, uint32_t first, uint32_t end, struct page_region *runs,
                       size_t *ret_n_runs)
{
        size_t n_max = model->undisturbed ? N_PAGES : 1 + random_below(&model->random, MAX_RUNS), n = 0;
        uint32_t i;

        for (i = first; i < end; i++) {
                bool listed = owned_by_pool(model, i) ? chance(model, 2) : dirty(&model->pages[i]);

                model->listed[i] = false;
                if (!listed)
                        continue;
                if (!n || runs[n - 1].end != BASE + i * PAGE_BYTES) {
                        if (n == n_max)
                                break;
                        runs[n++] = (struct page_region){.start = BASE + i * PAGE_BYTES,
                                                         .categories = PAGE_IS_PRESENT};
                }
                runs[n - 1].end = BASE + (i + 1) * PAGE_BYTES;
                model->listed[i] = true;
        }
        *ret_n_runs = n;
        return i;
}

/* Protects what is populated, as pagemap_protect() does, or only the first of it. */
static void carry_out_protects(struct model *model)
{
        const struct range_list *list = &model->output.protect;
        size_t n = model->undisturbed || !chance(model, 10) ? list->n
                                                            : random_below(&model->random, list->n + 1);

        for (size_t k = 0; k < list->n; k++)
                for (uint32_t i = list->ranges[k].page; i < list->ranges[k].page + list->ranges[k].n_pages;
                     i++) {
                        if (k >= n)
                                model->pages[i].changed = true; /* has to wait again: the daemon's doing */
                        else if (model->pages[i].populated)
                                model->pages[i].protected = true;
                }
}

static void read_page(struct model *model, uint32_t i)
{
        enum page_state to = PAGE_CANDIDATE;

        model->pages[i].wait = 0;
        if (region_state(model->region, i) != PAGE_TRACKED)
                return;
        if (!model->undisturbed && chance(model, 30)) { /* could not be read */
                region_mark_failed(model->region, i);
                model->pages[i].changed = true;
                model->n_read++;
                return;
        } else if (chance(model, 10)) {
                to = PAGE_PLANNED;
        }
        region_set_state(model->region, i, to, i);
        if (to == PAGE_CANDIDATE)
                region_forget_patience(model->region, i);
        model->n_read++;
}

static void carry_out_reads(struct model *model)
{
        const struct range_list *list = &model->output.read;

        for (size_t k = 0; k < list->n; k++)
                for (uint32_t i = list->ranges[k].page; i < list->ranges[k].page + list->ranges[k].n_pages;
                     i++)
                        read_page(model, i);
}

/* What is found to be a copy is believed at once, or, as when its region is going away, never. */
static void carry_out_copied(struct model *model)
{
        const struct range_list *list = &model->output.copied;

        for (size_t k = 0; k < list->n && !chance(model, 4); k++)
                for (uint32_t i = list->ranges[k].page; i < list->ranges[k].page + list->ranges[k].n_pages;
                     i++) {
                        region_set_state(model->region, i, PAGE_COPIED, 0);
                        model->pages[i].changed = true;
                }
}

/* ------------------------------------------------------------------ what must hold */

/* Marks the pages of a list that is sorted, has no neighbours that are not one range, and lies in the window. */
static void mark(const struct range_list *list, uint32_t first, uint32_t end, bool on_list[N_PAGES])
{
        uint64_t last_end = first;

        memset(on_list, 0, N_PAGES * sizeof(on_list[0]));
        for (size_t k = 0; k < list->n; k++) {
                const struct page_range *range = &list->ranges[k];

                assert_true(range->n_pages > 0);
                assert_true(range->page >= last_end);
                assert_true(k == 0 || range->page > last_end);
                last_end = (uint64_t)range->page + range->n_pages;
                assert_true(last_end <= end);
                for (uint32_t i = range->page; i < last_end; i++)
                        on_list[i] = true;
        }
}

/* Failed before, and to be tried again later. */
static bool put_off(const struct model *model, uint32_t i)
{
        return region_state(model->region, i) == PAGE_TRACKED &&
               region_flags(model->region, i) & PAGE_F_FAILED && region_patient(model->region, i);
}

static bool shares(enum page_state state)
{
        return state == PAGE_MERGED || state == PAGE_FOREIGN;
}

static void check_page(const struct model *model, uint32_t i, bool protect, bool read, bool copied)
{
        const struct naive_page *page = &model->pages[i];
        enum page_state before = model->before[i], after = region_state(model->region, i);

        assert_false(protect && read);
        assert_int_equal(copied, model->listed[i] && shares(before));
        assert_int_equal(after == PAGE_TRACKED, protect || read || (!model->listed[i] && put_off(model, i)));
        if (protect)
                assert_true(model->listed[i]);
        if (read) {
                assert_int_equal(before, PAGE_TRACKED);
                assert_true(page->protected || page->zero || !page->populated);
        }
        if (after == PAGE_CANDIDATE) {
                assert_int_equal(before, PAGE_CANDIDATE);
                assert_true(page->protected || page->zero || !page->populated);
        }
        if (after == PAGE_VOLATILE)
                assert_true(dirty(page));
        switch (before) {
        case PAGE_PLANNED:
        case PAGE_MERGED:
        case PAGE_FOREIGN:
        case PAGE_COPIED:
        case PAGE_EXCLUDED:
                assert_int_equal(after, before);
                assert_int_equal(region_key(model->region, i), i);
                break;
        default:
                break;
        }
}

static void check_window(struct model *model, uint32_t first, uint32_t end)
{
        static bool protect[N_PAGES], read[N_PAGES], copied[N_PAGES];
        uint32_t n_skipped = 0, n_written = 0;

        mark(&model->output.protect, first, end, protect);
        mark(&model->output.read, first, end, read);
        mark(&model->output.copied, first, end, copied);
        for (uint32_t i = 0; i < N_PAGES; i++) {
                enum page_state before = model->before[i], after = region_state(model->region, i);

                if (i < first || i >= end) {
                        assert_int_equal(before, after);
                        continue;
                }
                check_page(model, i, protect[i], read[i], copied[i]);
                n_skipped += model->listed[i] && after == PAGE_VOLATILE;
                n_skipped += !model->listed[i] && put_off(model, i);
                n_written += model->listed[i] && (before == PAGE_TRACKED || before == PAGE_CANDIDATE);
                model->n_protected += protect[i];
                model->n_copied[before] += copied[i];
        }
        assert_int_equal(model->output.n_skipped, n_skipped);
        assert_int_equal(model->output.n_written, n_written);
        model->n_skipped += n_skipped;
        model->n_written += n_written;
}

/* A page that is there, that nobody changes, and that the scan is to find. */
static bool waits(const struct model *model, uint32_t i)
{
        enum page_state state = region_state(model->region, i);

        return state == PAGE_VOLATILE || state == PAGE_TRACKED ||
               ((state == PAGE_EMPTY || state == PAGE_ZERO) && dirty(&model->pages[i]));
}

static void check_waits(struct model *model)
{
        for (uint32_t i = 0; i < N_PAGES; i++) {
                struct naive_page *page = &model->pages[i];

                if (page->changed || !waits(model, i))
                        page->wait = 0;
                else
                        page->wait++;
                page->changed = false;
                assert_true(page->wait < LONGEST_WAIT);
                model->longest_wait = MAX(model->longest_wait, page->wait);
        }
}

/* ------------------------------------------------------------------ rounds */

static uint32_t scan_window(struct model *model, uint32_t first)
{
        static struct page_region runs[N_PAGES];
        uint64_t n_pages = 1 + random_below(&model->random, 2 * CHUNK_PAGES);
        uint32_t end = (uint32_t)MIN(first + n_pages, (uint64_t)N_PAGES);
        size_t n_runs;

        end = survey(model, first, end, runs, &n_runs);
        for (uint32_t i = 0; i < N_PAGES; i++)
                model->before[i] = region_state(model->region, i);
        range_list_clear(&model->output.protect);
        range_list_clear(&model->output.read);
        range_list_clear(&model->output.copied);
        model->output.n_skipped = model->output.n_written = 0;
        assert_int_equal(scan_digest(model->region, first, end, runs, n_runs, false, &model->output), 0);
        check_window(model, first, end);
        carry_out_copied(model);
        if (chance(model, 4))
                client_run(model);
        carry_out_protects(model);
        if (chance(model, 4))
                client_run(model);
        carry_out_reads(model);
        return end;
}

static void scan_round(struct model *model)
{
        model->region->round++;
        for (uint32_t page = 0; page < N_PAGES;)
                page = scan_window(model, page);
        for (unsigned i = 0; i < 5 && !model->quiet; i++)
                change_state(model);
        client_run(model);
        check_waits(model);
}

/* The client stops: then everything that is left is read, and after that a round has nothing to do. */
static void settle(struct model *model)
{
        uint64_t n_read;

        model->quiet = model->undisturbed = true;
        for (unsigned i = 0; i <= LONGEST_WAIT; i++)
                scan_round(model);
        n_read = model->n_read;
        assert_int_equal(model->region->count[PAGE_VOLATILE], 0);
        assert_int_equal(model->region->count[PAGE_TRACKED], 0);
        scan_round(model);
        assert_int_equal(model->n_read, n_read);
        assert_int_equal(model->output.protect.n, 0);
}

static void run(uint64_t seed, bool undisturbed)
{
        struct model *model = calloc(1, sizeof(*model));

        assert_non_null(model);
        model->random.state = seed;
        model->undisturbed = undisturbed;
        assert_int_equal(region_new(NULL, BASE, N_PAGES * PAGE_BYTES, 0, &model->region), 0);
        for (uint32_t i = 0; i < N_STRETCHES; i++)
                heat_up(model, i);
        for (unsigned i = 0; i < N_ROUNDS; i++)
                scan_round(model);
        assert_null(region_chunk(model->region, UNUSED_CHUNK * CHUNK_PAGES));
        /* The model did meet what it is for; the bound is one that is reached. */
        assert_true(model->n_read > 10000 && model->n_protected > 10000);
        assert_true(model->n_skipped > 10000 && model->n_written > 10000);
        assert_true(model->n_copied[PAGE_MERGED] > 300 && model->n_copied[PAGE_FOREIGN] > 30);
        assert_int_equal(model->longest_wait, LONGEST_WAIT - 1);
        settle(model);
        range_list_deinit(&model->output.protect);
        range_list_deinit(&model->output.read);
        range_list_deinit(&model->output.copied);
        region_free(model->region);
        free(model);
}

static void test_random(void **state)
{
        for (uint64_t seed = 1; seed <= 4; seed++) {
                run(seed, false);
                run(seed, true);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_random),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
