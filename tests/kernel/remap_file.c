/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A read-only mapping of a file can be doubled, replaced, and put back as it was, without a descriptor of the file
 *
 * Fact: mremap(2) with MREMAP_DONTUNMAP and MREMAP_FIXED makes a second mapping of the same file, private or shared, and leaves
 * the first in place, which reads as before. A mapping of something else takes its place with mremap(MREMAP_FIXED); the
 * same call that doubled it puts the file's back. Neighbours become one mapping again. A private copy of a page
 * moves along with the page tables, and the first mapping reads the file's page then. (One mapping at a time: a range of several
 * can be moved since Linux 6.17 only.)
 *
 * Source: mm/mremap.c, move_vma() and dontunmap_complete().
 *
 * Relied on by: libwp/filerun.c.
 *
 * Without it: a client would need a descriptor of each file that it has mapped.
 */

#include "fact.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define N_PAGES 32
#define FIRST   8
#define N_MOVED 16

static char path[] = "/tmp/wpd-fact-XXXXXX";
static const char *step;

static void enter(const char *name)
{
        step = name;
        fact_step(name);
}

static void make_file(void)
{
        static char content[N_PAGES * PAGE_BYTES];
        int fd = (int)FACT_OK(error_from(mkstemp(path)));

        fact_fill(content, N_PAGES, 1);
        FACT_VALUE(error_from(write(fd, content, sizeof(content))), (long)sizeof(content));
        close(fd);
}

/* How many mappings of the file lie in [start, start + length). */
static unsigned count_mappings(const char *start, size_t length)
{
        FILE *maps = fopen("/proc/self/maps", "re");
        unsigned long from, to, inode;
        unsigned n = 0;
        char line[512];

        FACT_CHECK(maps, "%m");
        while (fgets(line, sizeof(line), maps))
                if (sscanf(line, "%lx-%lx %*s %*s %*s %lu", &from, &to, &inode) == 3 && inode &&
                    from < (uintptr_t)start + length && to > (uintptr_t)start)
                        n++;
        fclose(maps);
        return n;
}

static void move(char *from, char *to, size_t n_pages, int flags)
{
        size_t bytes = n_pages * PAGE_BYTES;

        FACT_CHECK(mremap(from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED | flags, to) == to,
                   "%m, after \"%s\"", step);
}

static char *map_path(int kind)
{
        int fd = (int)FACT_OK(error_from(open(path, O_RDONLY | O_CLOEXEC)));
        char *pages = mmap(NULL, N_PAGES * PAGE_BYTES, PROT_READ, kind, fd, 0);

        FACT_CHECK(pages != MAP_FAILED, "%m");
        close(fd);
        return pages;
}

static void check_kind(int kind)
{
        char *pages = map_path(kind), *shadow = fact_map(N_PAGES), *other = fact_map(N_MOVED);

        FACT_CHECK(fact_filled(pages, N_PAGES, 1), "the file does not read as it was written");
        enter("doubling");
        move(pages + FIRST * PAGE_BYTES, shadow + FIRST * PAGE_BYTES, N_MOVED, MREMAP_DONTUNMAP);
        FACT_CHECK(fact_filled(pages, N_PAGES, 1), "the first mapping reads otherwise");
        FACT_CHECK(!memcmp(pages + FIRST * PAGE_BYTES, shadow + FIRST * PAGE_BYTES, N_MOVED * PAGE_BYTES),
                   "the second mapping reads otherwise");
        enter("replacing");
        move(other, pages + FIRST * PAGE_BYTES, N_MOVED, 0);
        FACT_CHECK(fact_zero(pages + FIRST * PAGE_BYTES, N_MOVED), "it was not replaced");
        FACT_CHECK(count_mappings(pages, N_PAGES * PAGE_BYTES) == 2, "%u mappings of the file are left",
                   count_mappings(pages, N_PAGES * PAGE_BYTES));
        enter("putting back");
        move(shadow + FIRST * PAGE_BYTES, pages + FIRST * PAGE_BYTES, N_MOVED, MREMAP_DONTUNMAP);
        FACT_CHECK(fact_filled(pages, N_PAGES, 1), "it does not read as before");
        FACT_CHECK(count_mappings(pages, N_PAGES * PAGE_BYTES) == 1, "%u mappings in the place of one",
                   count_mappings(pages, N_PAGES * PAGE_BYTES));
        munmap(pages, N_PAGES * PAGE_BYTES);
        munmap(shadow, N_PAGES * PAGE_BYTES);
}

static void check_copied(void)
{
        char *pages = map_path(MAP_PRIVATE), *shadow = fact_map(N_PAGES),
             *copied = pages + FIRST * PAGE_BYTES;
        char before = *copied;

        enter("with a private copy");
        FACT_OK(error_from(mprotect(copied, PAGE_BYTES, PROT_READ | PROT_WRITE)));
        *copied = (char)(before + 1);
        FACT_OK(error_from(mprotect(copied, PAGE_BYTES, PROT_READ)));
        move(copied, shadow + FIRST * PAGE_BYTES, 1, MREMAP_DONTUNMAP);
        FACT_CHECK(shadow[FIRST * PAGE_BYTES] == (char)(before + 1) && *copied == before,
                   "the copy is not where the page tables went");
        munmap(pages, N_PAGES * PAGE_BYTES);
        munmap(shadow, N_PAGES * PAGE_BYTES);
}

int main(void)
{
        fact_begin();
        make_file();
        check_kind(MAP_PRIVATE);
        check_kind(MAP_SHARED);
        check_copied();
        unlink(path);
        return 0;
}
