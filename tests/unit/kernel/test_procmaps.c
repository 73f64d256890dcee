/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The parser of /proc/PID/smaps and maps: by table, in random pieces, and on this process's own file. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kernel/procmaps.h"
#include "tests/model/random.h"
#include "util/bits.h"
#include "util/cleanup.h"

#define MAX_VMAS 4096

struct vmas {
        size_t n;
        size_t stop_after; /* 0: never */
        int stop_with;
        struct vma list[MAX_VMAS];
};

static int collect(void *context, const struct vma *vma)
{
        struct vmas *vmas = context;

        assert_true(vmas->n < MAX_VMAS);
        vmas->list[vmas->n++] = *vma;
        return vmas->n == vmas->stop_after ? vmas->stop_with : 0;
}

static int parse(struct vmas *vmas, const char *text, size_t length)
{
        struct procmaps_parser parser = PROCMAPS_PARSER_INIT(collect, vmas);
        int r;

        vmas->n = 0;
        r = procmaps_feed(&parser, text, length);
        return r ? r : procmaps_finish(&parser);
}

/* In pieces of at most `max` bytes; no piece may be read beyond its end. */
static int parse_pieces(struct vmas *vmas, const char *text, size_t length, struct random *random, size_t max)
{
        struct procmaps_parser parser = PROCMAPS_PARSER_INIT(collect, vmas);
        size_t done = 0;
        int r = 0;

        vmas->n = 0;
        while (!r && done < length) {
                size_t n = random_below(random, max + 1);
                char *piece;

                n = MIN(n, length - done);
                piece = malloc(n + 1);
                assert_non_null(piece);
                memcpy(piece + 1, text + done, n);
                r = procmaps_feed(&parser, piece + 1, n);
                free(piece);
                done += n;
        }
        return r ? r : procmaps_finish(&parser);
}

static void assert_same_vmas(const struct vmas *a, const struct vmas *b)
{
        assert_int_equal(a->n, b->n);
        for (size_t i = 0; i < a->n; i++) {
                const struct vma *x = &a->list[i], *y = &b->list[i];

                assert_int_equal(x->start, y->start);
                assert_int_equal(x->end, y->end);
                assert_int_equal(x->offset, y->offset);
                assert_int_equal(x->inode, y->inode);
                assert_int_equal(x->dev_major, y->dev_major);
                assert_int_equal(x->dev_minor, y->dev_minor);
                assert_int_equal(x->protection, y->protection);
                assert_int_equal(x->shared, y->shared);
                assert_int_equal(x->flags, y->flags);
                assert_int_equal(x->pkey, y->pkey);
                assert_string_equal(x->name, y->name);
        }
}

static const char sample[] =
        "55bffd4f1000-55bffd4f3000 r--p 00001000 fe:0a 247134                     /usr/bin/a program (deleted)\n"
        "Size:                  8 kB\n"
        "KernelPageSize:        4 kB\n"
        "THPeligible:           0\n"
        "ProtectionKey:         3\n"
        "VmFlags: rd mr mw me sl \n"
        "7f0000000000-7f0000200000 rw-p 00000000 00:00 0 \n"
        "Anonymous:          2048 kB\n"
        "VmFlags: rd wr mr mw me lo gd dc dd wf mg um uw ui ac zz htx l\n"
        "7f0000200000-7f0000201000 ---s ffffffffffffe000 103:fffff 18446744073709551615 /dev/shm/a\\012b\n"
        "VmFlags: pf io ht mm ss\n"
        "7ffd00000000-7ffd00021000 rwxp 00000000 00:00 0                          [stack]\n"
        "Size:                132 kB\n"
        "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n"
        "VmFlags: ex\n";

static void test_sample(void **state)
{
        static struct vmas vmas;
        const struct vma *vma = vmas.list;

        assert_int_equal(parse(&vmas, sample, sizeof(sample) - 1), 0);
        assert_int_equal(vmas.n, 5);

        assert_int_equal(vma->start, 0x55bffd4f1000);
        assert_int_equal(vma->end, 0x55bffd4f3000);
        assert_int_equal(vma->offset, 0x1000);
        assert_int_equal(vma->dev_major, 0xfe);
        assert_int_equal(vma->dev_minor, 0x0a);
        assert_int_equal(vma->inode, 247134);
        assert_int_equal(vma->protection, PROT_READ);
        assert_false(vma->shared);
        assert_int_equal(vma->pkey, 3);
        assert_int_equal(vma->flags, VMA_SEALED);
        assert_string_equal(vma->name, "/usr/bin/a program (deleted)");

        vma++;
        assert_int_equal(vma->protection, PROT_READ | PROT_WRITE);
        assert_int_equal(vma->inode, 0);
        assert_int_equal(vma->pkey, 0);
        assert_int_equal(vma->flags, VMA_LOCKED | VMA_GROWSDOWN | VMA_DONTFORK | VMA_DONTDUMP |
                                             VMA_WIPEONFORK | VMA_MERGEABLE | VMA_UFFD_MISSING | VMA_UFFD_WP |
                                             VMA_UFFD_MINOR);
        assert_string_equal(vma->name, "");

        vma++;
        assert_true(vma->shared);
        assert_int_equal(vma->protection, PROT_NONE);
        assert_int_equal(vma->offset, 0xffffffffffffe000);
        assert_int_equal(vma->dev_major, 0x103);
        assert_int_equal(vma->dev_minor, 0xfffff);
        assert_int_equal(vma->inode, UINT64_MAX);
        assert_int_equal(vma->flags, VMA_PFNMAP | VMA_IO | VMA_HUGETLB | VMA_MIXED | VMA_SHARED_STACK);
        assert_string_equal(vma->name, "/dev/shm/a\\012b");

        vma++;
        assert_int_equal(vma->flags, 0); /* no VmFlags at all */
        assert_int_equal(vma->protection, PROT_READ | PROT_WRITE | PROT_EXEC);
        assert_string_equal(vma->name, "[stack]");

        vma++;
        assert_int_equal(vma->end, 0xffffffffff601000);
        assert_int_equal(vma->protection, PROT_EXEC);
        assert_string_equal(vma->name, "[vsyscall]");
}

static void test_pieces(void **state)
{
        static struct vmas whole, pieces;
        struct random random = RANDOM_INIT(4);

        assert_int_equal(parse(&whole, sample, sizeof(sample) - 1), 0);
        for (size_t max = 1; max < 300; max++) {
                assert_int_equal(parse_pieces(&pieces, sample, sizeof(sample) - 1, &random, max), 0);
                assert_same_vmas(&whole, &pieces);
        }
}

/* However long a path is, it neither breaks its own line nor the next one. */
static void test_long_paths(void **state)
{
        static struct vmas vmas, pieces;
        struct random random = RANDOM_INIT(5);
        static char text[8192];

        for (size_t length = 1; length < 4096; length += 1 + length / 50) {
                int n = snprintf(text, sizeof(text), "1000-2000 rw-p 00000000 00:01 7    /");

                memset(text + n, 'p', length);
                strcpy(text + n + length, "\nVmFlags: lo\n2000-3000 r--p 00000000 00:00 0\nVmFlags: gd\n");
                assert_int_equal(parse(&vmas, text, strlen(text)), 0);
                assert_int_equal(vmas.n, 2);
                assert_int_equal(vmas.list[0].inode, 7);
                assert_int_equal(vmas.list[0].flags, VMA_LOCKED);
                assert_int_equal(strlen(vmas.list[0].name), MIN(length + 1, sizeof(vmas.list[0].name) - 1));
                assert_int_equal(vmas.list[1].flags, VMA_GROWSDOWN);
                assert_int_equal(parse_pieces(&pieces, text, strlen(text), &random, 700), 0);
                assert_same_vmas(&vmas, &pieces);
        }
}

/* Names that look like something else are only names. */
static void test_odd_names(void **state)
{
        static const char *const odd[] = {
                "VmFlags: lo",       "[heap]",           "[anon:VmFlags: gd]", "2000-3000 rw-p 0 0:0 0",
                "/a b  c (deleted)", "\\012VmFlags: lo", "\xff\xfe\x01",       "/:",
        };
        static struct vmas vmas;
        char text[512];

        for (size_t i = 0; i < ARRAY_SIZE(odd); i++) {
                snprintf(text, sizeof(text), "1000-2000 rw-p 00000000 00:00 0      %s\nVmFlags: rd wr\n",
                         odd[i]);
                assert_int_equal(parse(&vmas, text, strlen(text)), 0);
                assert_int_equal(vmas.n, 1);
                assert_int_equal(vmas.list[0].flags, 0);
                assert_string_equal(vmas.list[0].name, odd[i]);
        }
}

static void test_malformed(void **state)
{
        static const char *const bad[] = {
                "\n",
                "VmFlags: rd\n",                                  /* before any mapping */
                "hello\n",                                        /* no digit, no key */
                "1000-2000 rw-p 00000000 00:00 0",                /* no end of line */
                "1000-2000 rw-p 00000000 00:00 0 \nVmFlags: lo",  /* the same */
                "1000-2000 rw-p 00000000 00:00 0 \n\n",           /* an empty line */
                "1000-2000 rw-p 00000000 00:00 0 \nVmFlags rd\n", /* no colon */
                "1000-2000 rw-p 00000000 00:00 0 \nvmflags: rd\n",
                "1000-2000 rw-p 00000000 00:00 0 \nProtectionKey: \n",
                "1000-2000 rw-p 00000000 00:00 0 \nProtectionKey: 4294967296\n",
                "-2000 rw-p 00000000 00:00 0 \n",
                "1000- rw-p 00000000 00:00 0 \n",
                "1000 2000 rw-p 00000000 00:00 0 \n",
                "2000-1000 rw-p 00000000 00:00 0 \n",
                "1000-1000 rw-p 00000000 00:00 0 \n",
                "1001-2000 rw-p 00000000 00:00 0 \n",
                "1000-2001 rw-p 00000000 00:00 0 \n",
                "10000000000001000-10000000000002000 rw-p 00000000 00:00 0 \n",
                "1000-2000  rw-p 00000000 00:00 0 \n",
                "1000-2000 rw- 00000000 00:00 0 \n",
                "1000-2000 wr-p 00000000 00:00 0 \n",
                "1000-2000 rw-x 00000000 00:00 0 \n",
                "1000-2000 rw-pp 00000000 00:00 0 \n",
                "1000-2000 rw-p  00:00 0 \n",
                "1000-2000 rw-p 10000000000000000 00:00 0 \n",
                "1000-2000 rw-p 00000000 00 0 \n",
                "1000-2000 rw-p 00000000 100000000:00 0 \n",
                "1000-2000 rw-p 00000000 00:00 \n",
                "1000-2000 rw-p 00000000 00:00 0a \n",
                "1000-2000 rw-p 00000000 00:00 18446744073709551616 \n",
                "1000-2000 rw-p 00000000 00:00\n",
                "1000-2000\n",
                "1\n",
        };
        static struct vmas vmas;

        for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
                if (parse(&vmas, bad[i], strlen(bad[i])) != -EBADMSG)
                        fail_msg("accepted: %s", bad[i]);
        assert_int_equal(parse(&vmas, "", 0), 0); /* a process that has no memory any more */
        assert_int_equal(vmas.n, 0);
}

/* Cut anywhere, the text is either refused or yields a prefix. */
static void test_truncated(void **state)
{
        static struct vmas whole, cut;

        assert_int_equal(parse(&whole, sample, sizeof(sample) - 1), 0);
        for (size_t length = 0; length < sizeof(sample) - 1; length++) {
                int r = parse(&cut, sample, length);

                assert_int_equal(r, length == 0 || sample[length - 1] == '\n' ? 0 : -EBADMSG);
                assert_true(cut.n <= whole.n);
                for (size_t i = 0; i < cut.n; i++)
                        assert_int_equal(cut.list[i].start, whole.list[i].start);
        }
}

static void test_visitor_ends_it(void **state)
{
        static struct vmas vmas;
        static const int results[] = {1, 77, -ENOMEM};

        for (size_t i = 0; i < ARRAY_SIZE(results); i++) {
                for (size_t after = 1; after <= 5; after++) {
                        vmas.stop_after = after;
                        vmas.stop_with = results[i];
                        assert_int_equal(parse(&vmas, sample, sizeof(sample) - 1), results[i]);
                        assert_int_equal(vmas.n, after);
                }
        }
        vmas.stop_after = 0;
}

static int open_smaps(void)
{
        int fd = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);

        assert_true(fd >= 0);
        return fd;
}

static const struct vma *find(const struct vmas *vmas, const void *address)
{
        for (size_t i = 0; i < vmas->n; i++)
                if (vmas->list[i].start <= (uintptr_t)address && (uintptr_t)address < vmas->list[i].end)
                        return &vmas->list[i];
        return NULL;
}

static void *map(size_t pages, int protection, int flags, int fd, off_t offset)
{
        void *memory = mmap(NULL, pages * PAGE_BYTES, protection, flags, fd, offset);

        assert_true(memory != MAP_FAILED);
        return memory;
}

static void test_own_smaps(void **state)
{
        static struct vmas vmas, again;
        int fd = open_smaps(), file = memfd_create("procmaps test", MFD_CLOEXEC);
        const struct vma *vma;
        struct stat status;
        char *anonymous, *shared;

        assert_true(file >= 0);
        assert_int_equal(ftruncate(file, 8 << PAGE_SHIFT), 0);
        assert_int_equal(fstat(file, &status), 0);
        /* Something unmapped around it, so that the kernel joins it with nothing. */
        anonymous = (char *)map(7, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + PAGE_BYTES;
        assert_int_equal(mprotect(anonymous, 5 * PAGE_BYTES, PROT_READ | PROT_WRITE), 0);
        assert_int_equal(madvise(anonymous, 5 * PAGE_BYTES, MADV_DONTFORK), 0);
        shared = map(3, PROT_READ, MAP_SHARED, file, 2 << PAGE_SHIFT);

        vmas.n = 0;
        assert_int_equal(procmaps_read(fd, collect, &vmas), 0);
        vma = find(&vmas, anonymous);
        assert_non_null(vma);
        assert_int_equal(vma->start, (uintptr_t)anonymous);
        assert_int_equal(vma->end - vma->start, 5 * PAGE_BYTES);
        assert_int_equal(vma->protection, PROT_READ | PROT_WRITE);
        assert_int_equal(vma->flags & (VMA_DONTFORK | VMA_LOCKED), VMA_DONTFORK);
        assert_false(vma->shared);
        assert_int_equal(vma->inode, 0);

        vma = find(&vmas, shared);
        assert_non_null(vma);
        assert_int_equal(vma->start, (uintptr_t)shared);
        assert_int_equal(vma->end - vma->start, 3 * PAGE_BYTES);
        assert_int_equal(vma->offset, 2 * PAGE_BYTES);
        assert_int_equal(vma->protection, PROT_READ);
        assert_true(vma->shared);
        assert_int_equal(vma->inode, status.st_ino);
        assert_int_equal(makedev(vma->dev_major, vma->dev_minor), status.st_dev);
        assert_string_equal(vma->name, "/memfd:procmaps test (deleted)");

        vma = find(&vmas, &fd);
        assert_non_null(vma);
        assert_string_equal(vma->name, "[stack]");
        for (size_t i = 1; i < vmas.n; i++)
                assert_true(vmas.list[i - 1].end <= vmas.list[i].start);

        /* The same descriptor serves again, from the start. */
        again.n = 0;
        assert_int_equal(procmaps_read(fd, collect, &again), 0);
        assert_true(again.n + 4 >= vmas.n);
        assert_int_equal(again.list[0].start, vmas.list[0].start);
        close(file);
        close(fd);
}

/* A header is a mapping whether lines follow or not. */
static void test_headers_alone(void **state)
{
        static const char text[] =
                "55bffd4f1000-55bffd4f3000 r--p 00001000 fe:0a 247134                     /usr/bin/cat\n"
                "7f0000000000-7f0000200000 rw-p 00000000 00:00 0 \n"
                "7f0000200000-7f0000202000 rw-p 00407000 00:2a 12                         /pool (deleted)\n";
        static struct vmas vmas, pieces;
        struct random random = RANDOM_INIT(6);

        assert_int_equal(parse(&vmas, text, sizeof(text) - 1), 0);
        assert_int_equal(vmas.n, 3);
        assert_int_equal(vmas.list[2].start, 0x7f0000200000);
        assert_int_equal(vmas.list[2].end, 0x7f0000202000);
        assert_int_equal(vmas.list[2].offset, 0x407000);
        assert_int_equal(vmas.list[2].dev_minor, 0x2a);
        assert_int_equal(vmas.list[2].inode, 12);
        assert_string_equal(vmas.list[2].name, "/pool (deleted)");
        for (size_t max = 1; max < 200; max++) {
                assert_int_equal(parse_pieces(&pieces, text, sizeof(text) - 1, &random, max), 0);
                assert_same_vmas(&vmas, &pieces);
        }
}

static void drop_flags(struct vmas *vmas)
{
        for (size_t i = 0; i < vmas->n; i++)
                vmas->list[i].flags = 0;
}

/* /proc/self/maps has the same headers: the mappings must be the same ones. */
static void test_against_maps(void **state)
{
        static struct vmas vmas, headers;
        int fd = open_smaps();
        unsigned long start, end;
        char line[8192];
        size_t i = 0;
        FILE *maps;

        /* Everything is allocated before the first look, so that nothing moves between the two. */
        maps = fopen("/proc/self/maps", "re");
        assert_non_null(maps);
        assert_non_null(fgets(line, sizeof(line), maps));
        rewind(maps);
        vmas.n = 0;
        assert_int_equal(procmaps_read(fd, collect, &vmas), 0);
        for (; fgets(line, sizeof(line), maps); i++) {
                assert_int_equal(sscanf(line, "%lx-%lx", &start, &end), 2);
                assert_true(i < vmas.n);
                assert_int_equal(vmas.list[i].start, start);
                assert_int_equal(vmas.list[i].end, end);
        }
        assert_int_equal(i, vmas.n);
        headers.n = 0;
        assert_int_equal(procmaps_read(fileno(maps), collect, &headers), 0);
        drop_flags(&vmas);
        assert_same_vmas(&vmas, &headers);
        fclose(maps);
        close(fd);
}

static void test_read_results(void **state)
{
        static struct vmas vmas;
        int fd = open_smaps();

        vmas = (struct vmas){.stop_after = 2, .stop_with = 5};
        assert_int_equal(procmaps_read(fd, collect, &vmas), 0);
        assert_int_equal(vmas.n, 2);
        vmas = (struct vmas){.stop_after = 2, .stop_with = -ENOMEM};
        assert_int_equal(procmaps_read(fd, collect, &vmas), -ENOMEM);
        close(fd);
        assert_int_equal(procmaps_read(-1, collect, &vmas), -EBADF);
        fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
        assert_int_equal(procmaps_read(fd, collect, &vmas), -EBADMSG);
        close(fd);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_sample),          cmocka_unit_test(test_pieces),
                cmocka_unit_test(test_long_paths),      cmocka_unit_test(test_odd_names),
                cmocka_unit_test(test_malformed),       cmocka_unit_test(test_truncated),
                cmocka_unit_test(test_visitor_ends_it), cmocka_unit_test(test_own_smaps),
                cmocka_unit_test(test_against_maps),    cmocka_unit_test(test_read_results),
                cmocka_unit_test(test_headers_alone),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
