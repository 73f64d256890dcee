/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Operations: munmap(2), mmap(2) and mremap(2). */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "torture/op.h"

#define RENEW_ONE_IN 6

/* Closes the layout of an area and takes all pages of it, unregistered; false when that is not possible now. */
static bool whole_take(struct worker *worker, struct area *area, struct range *ret_range)
{
        if (!gate_close(&area->layout))
                return false;
        if (range_take_at(worker, area, 0, area->n_pages, true, ret_range)) {
                if (ret_range->n == area->n_pages && area_unregister(area, worker->client))
                        return true;
                range_give(worker, ret_range);
        }
        gate_open(&area->layout);
        return false;
}

static void whole_give(struct worker *worker, struct range *range)
{
        struct area *area = range->area;

        range_give(worker, range);
        gate_open(&area->layout);
}

/*
 * Fresh memory in place of the old. Pages that were merged and written are never merged again, nor is what an earlier daemon
 * merged: without this, merging would come to an end. So areas that were refused are always renewed.
 */
void op_renew(struct worker *worker, struct area *area)
{
        struct range all;

        if (!area->refused && draw(worker, RENEW_ONE_IN))
                return;
        if (!whole_take(worker, area, &all))
                return;
        range_verify(worker, &all, "before it is unmapped");
        range_give(worker, &all);
        area_unmap(worker, area);
        area_map(worker, area);
        gate_open(&area->layout);
}

/* ------------------------------------------------------------------ parts */

/* Zeros, as a new mapping is. */
static void map_over(struct worker *worker, const struct range *range)
{
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
        void *memory = range_memory(range);
        void *mapped = coin(worker) ? mmap(memory, range_bytes(range), PROT_READ | PROT_WRITE, flags, -1, 0)
                                    : (void *)syscall(SYS_mmap, memory, range_bytes(range),
                                                      PROT_READ | PROT_WRITE, flags, -1, 0);

        EXPECT(mapped == memory, "mmap(MAP_FIXED): %s", strerror(errno));
        range_zero_shadow(range);
}

/* What was made elsewhere. */
static void move_over(struct worker *worker, const struct range *range)
{
        char *fresh = torture_map(range_bytes(range));
        void *moved;

        for (size_t page = 0; page < range->n; page++)
                range_draw_content(worker, range_shadow(range) + page * PAGE_BYTES, 1);
        memcpy(fresh, range_shadow(range), range_bytes(range));
        moved = mremap(fresh, range_bytes(range), range_bytes(range), MREMAP_MAYMOVE | MREMAP_FIXED,
                       range_memory(range));
        EXPECT(moved == range_memory(range), "mremap(MREMAP_FIXED): %s", strerror(errno));
}

void op_remap(struct worker *worker, struct area *area)
{
        struct range range;

        if (!range_take(worker, area, SIZE_MAX, true, &range))
                return;
        if (exclusion_begin(worker, &range)) {
                if (coin(worker))
                        map_over(worker, &range);
                else
                        move_over(worker, &range);
                range_verify(worker, &range, "after a new mapping in its place");
                exclusion_end(worker, &range);
        }
        range_give(worker, &range);
}

/* ------------------------------------------------------------------ moving and resizing */

/* How far the mapping that holds the address extends, at most to `end`, and whether it is anonymous. */
static uintptr_t mapping_end(uintptr_t address, uintptr_t end, bool *ret_anonymous)
{
        FILE *maps = fopen("/proc/self/maps", "re");
        unsigned long from, to, inode;
        char line[512];

        EXPECT(maps, "/proc/self/maps: %s", strerror(errno));
        while (fgets(line, sizeof(line), maps))
                if (sscanf(line, "%lx-%lx %*s %*x %*s %lu", &from, &to, &inode) == 3 && address >= from &&
                    address < to) {
                        *ret_anonymous = !inode;
                        end = MIN(end, to);
                        break;
                }
        fclose(maps);
        return end;
}

/* mremap(2) as the C library makes it, or without it. */
static void *remap(struct worker *worker, void *from, size_t old_bytes, size_t new_bytes, int flags, void *to)
{
        return coin(worker) ? mremap(from, old_bytes, new_bytes, flags, to)
                            : (void *)syscall(SYS_mremap, from, old_bytes, new_bytes, flags, to);
}

/* One mapping after the other: a call must not cross the border of merged pages. */
static void move_parts(struct worker *worker, const struct range *all, char *to)
{
        uintptr_t start = (uintptr_t)range_memory(all), end = start + range_bytes(all), next;
        bool anonymous;

        for (uintptr_t at = start; at < end; at = next) {
                char *target = to + (at - start);
                void *moved;

                next = mapping_end(at, end, &anonymous);
                moved = remap(worker, (void *)at, next - at, next - at, MREMAP_MAYMOVE | MREMAP_FIXED,
                              target);
                EXPECT_AT(at, moved == target, "mremap(MREMAP_FIXED) of a part: %s", strerror(errno));
        }
}

void op_move(struct worker *worker, struct area *area)
{
        struct range all;
        char *to;

        if (!whole_take(worker, area, &all))
                return;
        to = torture_map(range_bytes(&all));
        move_parts(worker, &all, to);
        area->memory = to;
        range_verify(worker, &all, "after it was moved");
        whole_give(worker, &all);
}

static void shrink(struct worker *worker, struct area *area, struct range *all)
{
        size_t n = 1 + draw(worker, all->n);

        EXPECT_AT(area->memory,
                  remap(worker, area->memory, range_bytes(all), n * PAGE_BYTES, 0, NULL) == area->memory,
                  "mremap, shrinking: %s", strerror(errno));
        range_verify(worker, &(struct range){.area = area, .n = n}, "after the area was shrunk");
        range_give(worker, all);
        area->n_pages = n;
}

/* EFAULT: not a single mapping. One that belongs to the pool as a whole must not be grown (doc/memory.md). */
static void grow(struct worker *worker, struct area *area, struct range *all)
{
        size_t n = all->n + draw(worker, area->max_pages - all->n + 1);
        uintptr_t start = (uintptr_t)area->memory, end = start + range_bytes(all);
        bool anonymous = true, single = mapping_end(start, end, &anonymous) == end;
        char *grown;

        if (single && !anonymous)
                return;
        grown = remap(worker, area->memory, range_bytes(all), n * PAGE_BYTES, MREMAP_MAYMOVE, NULL);
        if (grown == MAP_FAILED) {
                EXPECT_AT(area->memory, errno == EFAULT && !single, "mremap, growing: %s", strerror(errno));
                count(COUNT_TOLERATED, 1);
        } else {
                area->memory = grown;
                memset(area->shadow + range_bytes(all), 0, (n - all->n) * PAGE_BYTES);
                area->n_pages = n;
        }
        range_verify(worker, &(struct range){.area = area, .n = area->n_pages}, "after the area was grown");
}

void op_resize(struct worker *worker, struct area *area)
{
        struct range all;

        if (!whole_take(worker, area, &all))
                return;
        if (draw(worker, 4) == 0)
                shrink(worker, area, &all);
        else
                grow(worker, area, &all);
        whole_give(worker, &all);
}
