/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "bench/data.h"

#include <string.h>

#include "util/bits.h"

#define WORDS  (PAGE_BYTES / sizeof(uint64_t))
#define GOLDEN UINT64_C(0x9e3779b97f4a7c15)

/* splitmix64: a bijection, so different inputs never give the same word. */
static uint64_t mix(uint64_t x)
{
        x += GOLDEN;
        x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
        return x ^ (x >> 31);
}

static uint64_t n_runs(const struct data_layout *layout)
{
        return layout->n_pages / layout->run_pages;
}

static uint64_t n_shared_runs(const struct data_layout *layout)
{
        return n_runs(layout) * layout->shared_percent / 100;
}

static uint64_t n_zero_runs(const struct data_layout *layout)
{
        return n_runs(layout) * layout->zero_percent / 100;
}

/* How many of the first `end` of `n` places are taken when `taken` places are spread evenly over all. */
static uint64_t spread(uint64_t end, uint64_t taken, uint64_t n)
{
        return n ? end * taken / n : 0;
}

static enum data_kind run_kind(const struct data_layout *layout, uint64_t run, uint64_t *ret_rank)
{
        uint64_t n = n_runs(layout), shared = n_shared_runs(layout), zero = n_zero_runs(layout);
        uint64_t rank = spread(run, shared, n), rest;

        if (spread(run + 1, shared, n) > rank) {
                *ret_rank = rank;
                return DATA_SHARED;
        }
        rest = run - rank;
        *ret_rank = spread(rest, zero, n - shared);
        return spread(rest + 1, zero, n - shared) > *ret_rank ? DATA_ZERO : DATA_UNIQUE;
}

/* How far the order of shared runs is rotated in one process. */
static uint64_t rotation(const struct data_layout *layout, uint32_t process)
{
        return layout->same_places ? 0 : process * (n_shared_runs(layout) / layout->n_processes);
}

/* The shared run with the given rank, counted from the start of memory. */
static uint64_t shared_run(const struct data_layout *layout, uint64_t rank)
{
        uint64_t n = n_runs(layout), shared = n_shared_runs(layout);

        /* The least r with spread(r + 1) > rank. */
        return ((rank + 1) * n + shared - 1) / shared - 1;
}

bool data_layout_valid(const struct data_layout *layout)
{
        return layout->n_processes && layout->run_pages && layout->n_pages && layout->shared_percent <= 100 &&
               layout->zero_percent <= 100 - layout->shared_percent && layout->n_pages < UINT64_C(1) << 32 &&
               layout->n_processes < 1u << 16;
}

void data_expect(const struct data_layout *layout, struct data_expect *ret_expect)
{
        uint64_t shared = n_shared_runs(layout) * layout->run_pages;

        *ret_expect = (struct data_expect){
                .pages_shared = layout->n_processes > 1 ? shared : 0,
                .pages_sharing = shared * (layout->n_processes - 1),
                .zero_pages = n_zero_runs(layout) * layout->run_pages * layout->n_processes,
        };
}

enum data_kind data_kind(const struct data_layout *layout, uint64_t page)
{
        uint64_t run = page / layout->run_pages, rank;

        return run < n_runs(layout) ? run_kind(layout, run, &rank) : DATA_UNIQUE;
}

/* What the words of a page are made of; equal keys mean equal pages. */
static uint64_t page_key(const struct data_layout *layout, uint32_t process, uint64_t page,
                         enum data_kind kind)
{
        uint64_t rank, identity;

        if (kind == DATA_UNIQUE)
                return mix(mix(layout->seed) ^ ((uint64_t)(process + 1) << 40 | page));
        run_kind(layout, page / layout->run_pages, &rank);
        identity = (rank + rotation(layout, process)) % n_shared_runs(layout);
        return mix(mix(layout->seed) ^ (identity * layout->run_pages + page % layout->run_pages));
}

void data_fill(const struct data_layout *layout, uint32_t process, uint64_t page, void *memory)
{
        enum data_kind kind = data_kind(layout, page);
        uint64_t *words = memory, key;

        if (kind == DATA_ZERO) {
                memset(memory, 0, PAGE_BYTES);
                return;
        }
        key = page_key(layout, process, page, kind);
        for (size_t i = 0; i < WORDS; i++)
                words[i] = mix(key + i);
}

bool data_equal(const struct data_layout *layout, uint32_t process, uint64_t page, uint32_t version,
                const void *memory)
{
        uint64_t expected[WORDS];

        data_fill(layout, process, page, expected);
        if (version)
                expected[0] = data_mark(layout, process, page, version);
        return !memcmp(expected, memory, PAGE_BYTES);
}

uint64_t data_mark(const struct data_layout *layout, uint32_t process, uint64_t page, uint32_t version)
{
        return mix(mix(~layout->seed ^ ((uint64_t)(process + 1) << 40 | page)) + version);
}

uint64_t data_shared_page(const struct data_layout *layout, uint64_t rank)
{
        return shared_run(layout, rank / layout->run_pages) * layout->run_pages + rank % layout->run_pages;
}

uint64_t data_twin(const struct data_layout *layout, uint32_t process, uint64_t page, uint32_t other)
{
        uint64_t shared = n_shared_runs(layout), rank;

        run_kind(layout, page / layout->run_pages, &rank);
        rank = (rank + rotation(layout, process) + shared - rotation(layout, other) % shared) % shared;
        return shared_run(layout, rank) * layout->run_pages + page % layout->run_pages;
}
