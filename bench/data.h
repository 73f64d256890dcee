#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What the processes of the demo and of the benchmark fill their memory with
 *
 * Memory is cut into runs of equal length; each run is shared (the same content exists once in every
 * process), unique (exists nowhere else) or zeros. The kinds are spread evenly and at the same places in
 * every process, but unless `same_places` is set each process holds the shared runs in another order, so that
 * equal content is found by what it is and not by where it is. Pages behind the last full run are unique.
 * Every word follows from the layout, so any byte can be verified at any time.
 *
 * Pure.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum data_kind {
        DATA_UNIQUE,
        DATA_SHARED,
        DATA_ZERO,
};

struct data_layout {
        uint32_t n_processes;
        uint32_t run_pages;
        uint32_t shared_percent; /* of the runs of a process */
        uint32_t zero_percent;   /* shared_percent + zero_percent <= 100 */
        uint64_t n_pages;        /* of one process */
        uint64_t seed;
        uint32_t same_places; /* shared runs are at the same places in every process */
};

/* What merging can reach with this layout. */
struct data_expect {
        uint64_t pages_shared;  /* canonical pages */
        uint64_t pages_sharing; /* sites that then share a page with another one */
        uint64_t zero_pages;    /* all processes together */
};

bool data_layout_valid(const struct data_layout *layout);

void data_expect(const struct data_layout *layout, struct data_expect *ret_expect);

enum data_kind data_kind(const struct data_layout *layout, uint64_t page);

/*
 * Writes, or compares, one page of a process. Version 0 is the original; a higher one is the original with
 * its first word replaced by data_mark().
 */
void data_fill(const struct data_layout *layout, uint32_t process, uint64_t page, void *memory);
bool data_equal(const struct data_layout *layout, uint32_t process, uint64_t page, uint32_t version,
                const void *memory);

/* The first word of a page that was written `version` times; differs for every process, page and version. */
uint64_t data_mark(const struct data_layout *layout, uint32_t process, uint64_t page, uint32_t version);

/* The page with the given rank among the shared ones of a process; rank < pages_shared. */
uint64_t data_shared_page(const struct data_layout *layout, uint64_t rank);

/* The page of `other` that holds the same content as the shared page `page` of `process`. */
uint64_t data_twin(const struct data_layout *layout, uint32_t process, uint64_t page, uint32_t other);
