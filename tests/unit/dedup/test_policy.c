/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Policy: by table, and on a real mapping of every kind that this kernel can make. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "dedup/policy.h"
#include "kernel/hold.h"
#include "kernel/mapfile.h"
#include "kernel/uapi.h"
#include "util/bits.h"
#include "util/cleanup.h"

#ifndef SYS_mseal
#define SYS_mseal 462
#endif

#define POOL_DEV   makedev(0, 40)
#define POOL_INODE 1234
#define RW         (PROT_READ | PROT_WRITE)

struct row {
        enum reason reason;
        struct vma vma;
};

static const struct row rows[] = {
        {REASON_NONE, {.protection = RW}},
        {REASON_NONE, {.protection = RW, .name = "[heap]"}},
        {REASON_NONE, {.protection = RW, .name = "[anon:buffers]"}},
        {REASON_NONE, {.protection = RW, .name = "[anon:[vdso]]"}},
        {REASON_REMNANT, {.protection = RW, .inode = POOL_INODE, .dev_minor = 40}},
        {REASON_REMNANT,
         {.protection = PROT_READ, .inode = POOL_INODE, .dev_minor = 40, .flags = VMA_UFFD_WP}},
        {REASON_SHARED, {.protection = PROT_READ, .inode = POOL_INODE, .dev_minor = 40, .shared = true}},
        {REASON_FILE, {.protection = RW, .inode = POOL_INODE, .dev_minor = 41}},
        {REASON_FILE, {.protection = RW, .inode = POOL_INODE, .dev_major = 1, .dev_minor = 40}},
        {REASON_FILE, {.protection = RW, .inode = POOL_INODE + 1, .dev_minor = 40}},
        {REASON_FILE, {.protection = RW, .dev_minor = 40}},
        {REASON_FILE, {.protection = RW, .dev_major = 8}},
        {REASON_SHARED, {.protection = RW, .inode = 5, .shared = true}},
        {REASON_SHARED, {.protection = RW, .shared = true}},
        {REASON_HUGETLB, {.protection = RW, .inode = 5, .flags = VMA_HUGETLB}},
        {REASON_HUGETLB, {.protection = RW, .inode = 5, .shared = true, .flags = VMA_HUGETLB}},
        {REASON_DEVICE, {.protection = RW, .inode = 5, .shared = true, .flags = VMA_IO}},
        {REASON_DEVICE, {.protection = RW, .flags = VMA_PFNMAP}},
        {REASON_DEVICE, {.protection = RW, .flags = VMA_MIXED}},
        {REASON_DEVICE, {.protection = PROT_READ | PROT_EXEC, .name = "[vdso]"}},
        {REASON_DEVICE, {.protection = PROT_READ, .name = "[vvar]"}},
        {REASON_DEVICE, {.protection = PROT_READ, .name = "[vvar_vclock]"}},
        {REASON_DEVICE, {.protection = PROT_EXEC, .name = "[vsyscall]"}},
        {REASON_DEVICE, {.protection = PROT_EXEC, .name = "[uprobes]"}},
        {REASON_STACK, {.protection = RW, .flags = VMA_GROWSDOWN, .name = "[stack]"}},
        {REASON_STACK, {.protection = RW, .flags = VMA_SHARED_STACK}},
        {REASON_PROTECTION, {.protection = PROT_NONE}},
        {REASON_PROTECTION, {.protection = PROT_READ}},
        {REASON_PROTECTION, {.protection = PROT_WRITE}},
        {REASON_PROTECTION, {.protection = RW | PROT_EXEC}},
        {REASON_SEALED, {.protection = RW, .flags = VMA_SEALED}},
        {REASON_SEALED, {.protection = PROT_READ, .flags = VMA_SEALED}},
        {REASON_PKEY, {.protection = RW, .pkey = 1}},
        {REASON_LOCKED, {.protection = RW, .flags = VMA_LOCKED}},
        {REASON_KSM, {.protection = RW, .flags = VMA_MERGEABLE}},
        {REASON_UFFD, {.protection = RW, .flags = VMA_UFFD_MISSING}},
        {REASON_UFFD, {.protection = RW, .flags = VMA_UFFD_WP}},
        {REASON_UFFD, {.protection = RW, .flags = VMA_UFFD_MINOR}},
        {REASON_ADVICE, {.protection = RW, .flags = VMA_DONTFORK}},
        {REASON_ADVICE, {.protection = RW, .flags = VMA_DONTDUMP}},
        {REASON_ADVICE, {.protection = RW, .flags = VMA_WIPEONFORK}},
        {REASON_ADVICE, {.protection = RW, .flags = VMA_RANDOM}},
        {REASON_ADVICE, {.protection = RW, .flags = VMA_SEQUENTIAL}},
        {REASON_ADVICE, {.protection = RW, .flags = VMA_DROPPABLE}},
        {REASON_NONE, {.protection = RW, .flags = VMA_NORESERVE | VMA_NOHUGEPAGE}},
        {REASON_NONE, {.protection = RW, .flags = VMA_HUGEPAGE, .name = "[anon:x]"}},
};

/* Of a client that came back: what is answered otherwise than of one that is new, and what is not although it looks alike. */
static const struct row resumed_rows[] = {
        {REASON_NONE, {.protection = RW, .flags = VMA_UFFD_WP}},
        {REASON_NONE, {.protection = RW, .flags = VMA_UFFD_WP, .name = "[heap]"}},
        {REASON_UFFD, {.protection = RW, .flags = VMA_UFFD_MISSING}},
        {REASON_UFFD, {.protection = RW, .flags = VMA_UFFD_MINOR}},
        {REASON_UFFD, {.protection = RW, .flags = VMA_UFFD_MISSING | VMA_UFFD_WP}},
        {REASON_UFFD, {.protection = RW, .flags = VMA_UFFD_MINOR | VMA_UFFD_WP}},
        /* Protection excuses nothing else. */
        {REASON_PROTECTION, {.protection = PROT_READ, .flags = VMA_UFFD_WP}},
        {REASON_PROTECTION, {.protection = RW | PROT_EXEC, .flags = VMA_UFFD_WP}},
        {REASON_SEALED, {.protection = RW, .flags = VMA_UFFD_WP | VMA_SEALED}},
        {REASON_PKEY, {.protection = RW, .flags = VMA_UFFD_WP, .pkey = 1}},
        {REASON_LOCKED, {.protection = RW, .flags = VMA_UFFD_WP | VMA_LOCKED}},
        {REASON_KSM, {.protection = RW, .flags = VMA_UFFD_WP | VMA_MERGEABLE}},
        {REASON_ADVICE, {.protection = RW, .flags = VMA_UFFD_WP | VMA_DONTFORK}},
        {REASON_SHARED, {.protection = RW, .flags = VMA_UFFD_WP, .shared = true}},
        {REASON_STACK, {.protection = RW, .flags = VMA_UFFD_WP | VMA_GROWSDOWN}},
        {REASON_FILE, {.protection = RW, .inode = 5, .flags = VMA_UFFD_WP}},
        /* Our pool's, and an earlier daemon's, which is on another tmpfs and has any inode. */
        {REASON_REMNANT, {.protection = RW, .inode = POOL_INODE, .dev_minor = 40}},
        {REASON_REMNANT,
         {.protection = RW, .inode = POOL_INODE, .dev_minor = 40, .flags = VMA_UFFD_WP | VMA_UFFD_MINOR}},
        {REASON_REMNANT,
         {.protection = RW, .inode = POOL_INODE, .dev_minor = 41, .flags = VMA_UFFD_WP | VMA_UFFD_MINOR}},
        {REASON_REMNANT, {.protection = RW, .inode = 3, .dev_minor = 40, .flags = VMA_UFFD_MINOR}},
        {REASON_REMNANT, {.protection = RW, .inode = 3, .flags = VMA_UFFD_MINOR}},
        {REASON_REMNANT, {.protection = PROT_READ, .inode = 3, .dev_minor = 41, .flags = VMA_UFFD_MINOR}},
        /* A file whose minor faults nobody serves, or that others can write, is the program's own. */
        {REASON_FILE, {.protection = RW, .inode = 3, .dev_minor = 41}},
        {REASON_FILE, {.protection = RW, .inode = 3, .dev_minor = 41, .flags = VMA_UFFD_MISSING}},
        {REASON_FILE, {.protection = RW, .dev_minor = 41, .flags = VMA_UFFD_MINOR}},
        {REASON_SHARED,
         {.protection = RW, .inode = 3, .dev_minor = 41, .shared = true, .flags = VMA_UFFD_MINOR}},
        {REASON_SHARED,
         {.protection = RW, .inode = POOL_INODE, .dev_minor = 40, .shared = true, .flags = VMA_UFFD_MINOR}},
};

/* The same mappings of a client that is new: an earlier daemon's pool is a file like others, and protection is somebody's. */
static const struct row new_rows[] = {
        {REASON_UFFD, {.protection = RW, .flags = VMA_UFFD_WP}},
        {REASON_UFFD, {.protection = RW, .flags = VMA_UFFD_MINOR | VMA_UFFD_WP}},
        {REASON_FILE,
         {.protection = RW, .inode = POOL_INODE, .dev_minor = 41, .flags = VMA_UFFD_WP | VMA_UFFD_MINOR}},
        {REASON_FILE, {.protection = RW, .inode = 3, .dev_minor = 40, .flags = VMA_UFFD_MINOR}},
        {REASON_REMNANT,
         {.protection = RW, .inode = POOL_INODE, .dev_minor = 40, .flags = VMA_UFFD_WP | VMA_UFFD_MINOR}},
};

static enum reason policy(const struct vma *vma, bool resumed)
{
        return policy_vma(vma, POOL_DEV, POOL_INODE, resumed);
}

static void check_rows(const char *name, const struct row *table, size_t n_rows, bool resumed)
{
        for (size_t i = 0; i < n_rows; i++)
                if (policy(&table[i].vma, resumed) != table[i].reason)
                        fail_msg("%s[%zu], %s: %s where %s was expected", name, i,
                                 resumed ? "resumed" : "new", reason_name(policy(&table[i].vma, resumed)),
                                 reason_name(table[i].reason));
}

static void test_table(void **state)
{
        check_rows("rows", rows, ARRAY_SIZE(rows), false);
        check_rows("new_rows", new_rows, ARRAY_SIZE(new_rows), false);
        check_rows("resumed_rows", resumed_rows, ARRAY_SIZE(resumed_rows), true);
}

/* That a client came back changes the answer of the two kinds of mapping that it is meant for, and of no other. */
static void test_resumed_changes_nothing_else(void **state)
{
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                const struct vma *vma = &rows[i].vma;
                bool track = rows[i].reason == REASON_UFFD && vma->flags == VMA_UFFD_WP;

                assert_int_equal(policy(vma, true), track ? REASON_NONE : rows[i].reason);
        }
}

/* Every single flag refuses memory that would take part otherwise, but for those that are kept. */
static void test_every_flag_refuses(void **state)
{
        for (uint32_t flag = 1; flag <= VMA_NOHUGEPAGE; flag <<= 1) {
                struct vma vma = {.protection = RW, .flags = flag};

                if (flag & POLICY_KEPT_FLAGS)
                        continue;
                assert_int_not_equal(policy(&vma, false), REASON_NONE);
                assert_int_equal(policy(&vma, true) == REASON_NONE, flag == VMA_UFFD_WP);
        }
}

#define RX (PROT_READ | PROT_EXEC)

static void test_is_file(void **state)
{
        static const struct {
                bool is;
                struct vma vma;
        } cases[] = {
                {true, {.protection = PROT_READ, .inode = 5, .dev_major = 8, .name = "/a/file"}},
                {true, {.protection = PROT_READ, .inode = 5, .shared = true}},
                {true, {.protection = RX, .inode = 5, .shared = true}},
                {true, {.protection = RW, .inode = 5}},
                {true, {.protection = RW | PROT_EXEC, .inode = 5}},
                {true, {.protection = PROT_NONE, .inode = 5}},
                {true, {.protection = PROT_READ, .inode = 5, .name = "/memfd:x (deleted)"}},
                {true, {.protection = PROT_READ, .inode = 5, .flags = VMA_LOCKED | VMA_UFFD_WP}},
                {true, {.protection = PROT_READ, .inode = UINT64_MAX}},
                /* Through which it can be written. */
                {false, {.protection = RW, .inode = 5, .shared = true}},
                {false, {.protection = PROT_WRITE, .inode = 5, .shared = true}},
                {false, {.protection = RW | PROT_EXEC, .inode = 5, .shared = true}},
                /* No file. */
                {false, {.protection = PROT_READ}},
                {false, {.protection = PROT_READ, .dev_major = 8}},
                {false, {.protection = PROT_READ, .shared = true}},
                {false, {.protection = PROT_READ, .name = "[heap]"}},
                /* Of no use whatever it is. */
                {false, {.protection = PROT_READ, .inode = 5, .flags = VMA_IO}},
                {false, {.protection = PROT_READ, .inode = 5, .flags = VMA_PFNMAP}},
                {false, {.protection = PROT_READ, .inode = 5, .flags = VMA_MIXED}},
                {false, {.protection = PROT_READ, .inode = 5, .flags = VMA_HUGETLB}},
                {false, {.protection = PROT_READ, .inode = 5, .name = "[vvar]"}},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                if (policy_is_file(&cases[i].vma) != cases[i].is)
                        fail_msg("cases[%zu]: %s", i, cases[i].is ? "is one" : "is none");
}

static void test_vma_file(void **state)
{
        static const struct {
                enum reason reason; /* executable ones are not wanted */
                enum reason wanted; /* they are */
                struct vma vma;
        } cases[] = {
                {REASON_NONE, REASON_NONE, {.protection = PROT_READ, .inode = 5, .name = "/a/file"}},
                {REASON_NONE, REASON_NONE, {.protection = PROT_READ, .inode = 5, .shared = true}},
                {REASON_NONE, REASON_NONE, {.protection = RW, .inode = 5}},
                {REASON_EXECUTABLE, REASON_NONE, {.protection = RX, .inode = 5}},
                {REASON_EXECUTABLE, REASON_NONE, {.protection = RX, .inode = 5, .shared = true}},
                {REASON_EXECUTABLE, REASON_PROTECTION, {.protection = RW | PROT_EXEC, .inode = 5}},
                {REASON_EXECUTABLE, REASON_PROTECTION, {.protection = PROT_EXEC, .inode = 5}},
                {REASON_EXECUTABLE, REASON_PROTECTION, {.protection = PROT_WRITE | PROT_EXEC, .inode = 5}},
                {REASON_PROTECTION, REASON_PROTECTION, {.protection = PROT_NONE, .inode = 5}},
                {REASON_PROTECTION, REASON_PROTECTION, {.protection = PROT_WRITE, .inode = 5}},
                /* A memfd by its name, whatever else there is to be said; no other file, wherever it is. */
                {REASON_STORAGE, REASON_STORAGE, {.protection = PROT_READ, .name = "/memfd:x (deleted)"}},
                {REASON_STORAGE, REASON_STORAGE, {.protection = RX, .name = "/memfd:"}},
                {REASON_STORAGE, REASON_STORAGE, {.protection = PROT_NONE, .name = "/memfd:a b"}},
                {REASON_STORAGE, REASON_STORAGE, {.flags = VMA_LOCKED, .name = "/memfd:x"}},
                {REASON_NONE, REASON_NONE, {.protection = PROT_READ, .name = "/memfd"}},
                {REASON_NONE, REASON_NONE, {.protection = PROT_READ, .name = "/memfd/x"}},
                {REASON_NONE, REASON_NONE, {.protection = PROT_READ, .name = "/tmp/memfd:x"}},
                {REASON_NONE, REASON_NONE, {.protection = PROT_READ, .name = "memfd:x"}},
                {REASON_NONE, REASON_NONE, {.protection = PROT_READ, .name = "/a/file (deleted)"}},
                /* What the program has asked for. */
                {REASON_SEALED, REASON_SEALED, {.protection = PROT_READ, .flags = VMA_SEALED}},
                {REASON_PKEY, REASON_PKEY, {.protection = PROT_READ, .pkey = 1}},
                {REASON_LOCKED, REASON_LOCKED, {.protection = PROT_READ, .flags = VMA_LOCKED}},
                {REASON_KSM, REASON_KSM, {.protection = RW, .flags = VMA_MERGEABLE}},
                {REASON_EXECUTABLE, REASON_LOCKED, {.protection = RX, .flags = VMA_LOCKED}},
                {REASON_PROTECTION, REASON_PROTECTION, {.flags = VMA_LOCKED}},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                for (int wanted = 0; wanted <= 1; wanted++) {
                        enum reason expected = wanted ? cases[i].wanted : cases[i].reason;
                        enum reason reason = policy_vma_file(&cases[i].vma, wanted);

                        if (reason != expected)
                                fail_msg("cases[%zu], %d: %s where %s was expected", i, wanted,
                                         reason_name(reason), reason_name(expected));
                }
}

/* Of every single flag; of which kind the mapping is policy_is_file() says, and the kept ones do not matter. */
static void test_vma_file_flags(void **state)
{
        static const struct {
                enum reason reason;
                uint32_t flags;
        } reasons[] = {
                {REASON_SEALED, VMA_SEALED},
                {REASON_LOCKED, VMA_LOCKED},
                {REASON_KSM, VMA_MERGEABLE},
                {REASON_UFFD, VMA_UFFD_MISSING | VMA_UFFD_MINOR | VMA_UFFD_WP},
                {REASON_ADVICE,
                 VMA_DONTFORK | VMA_DONTDUMP | VMA_WIPEONFORK | VMA_RANDOM | VMA_SEQUENTIAL | VMA_DROPPABLE},
        };

        for (uint32_t flag = 1; flag <= VMA_NOHUGEPAGE; flag <<= 1) {
                struct vma vma = {.protection = PROT_READ, .inode = 5, .flags = flag};
                enum reason expected = REASON_NONE;

                for (size_t i = 0; i < ARRAY_SIZE(reasons); i++)
                        if (reasons[i].flags & flag)
                                expected = reasons[i].reason;
                assert_int_equal(policy_vma_file(&vma, false), expected);
                assert_int_equal(policy_vma_file(&vma, true), expected);
        }
}

static void test_file_system(void **state)
{
        static const struct {
                enum reason reason;
                const char *type;
        } cases[] = {
                {REASON_NONE, "ext4"},
                {REASON_NONE, "ext3"},
                {REASON_NONE, "ext2"},
                {REASON_NONE, "xfs"},
                {REASON_NONE, "btrfs"},
                {REASON_NONE, "f2fs"},
                {REASON_NONE, "squashfs"},
                {REASON_NONE, "erofs"},
                {REASON_STORAGE, "tmpfs"},
                {REASON_FILE_SYSTEM, "overlay"},
                {REASON_FILE_SYSTEM, "fuse"},
                {REASON_FILE_SYSTEM, "fuseblk"},
                {REASON_FILE_SYSTEM, "fuse.s3"},
                {REASON_FILE_SYSTEM, "nfs"},
                {REASON_FILE_SYSTEM, "nfs4"},
                {REASON_FILE_SYSTEM, "cifs"},
                {REASON_FILE_SYSTEM, "9p"},
                {REASON_FILE_SYSTEM, "proc"},
                {REASON_FILE_SYSTEM, "ramfs"},
                {REASON_FILE_SYSTEM, ""},
                {REASON_FILE_SYSTEM, "ext"},
                {REASON_FILE_SYSTEM, "ext44"},
                {REASON_FILE_SYSTEM, "EXT4"},
                {REASON_FILE_SYSTEM, "xfs "},
                {REASON_FILE_SYSTEM, "tmpfs.x"},
                {REASON_FILE_SYSTEM, "devtmpfs"},
                {REASON_FILE_SYSTEM, "fuse.ext4"},
                {REASON_FILE_SYSTEM, "dax"},
                {REASON_DAX, MAPFILE_DAX},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                if (policy_file_system(cases[i].type) != cases[i].reason)
                        fail_msg("\"%s\": %s", cases[i].type, reason_name(policy_file_system(cases[i].type)));
}

static void test_kept_name(void **state)
{
        static const struct {
                const char *shown;
                const char *kept;
        } cases[] = {{"", ""},          {"[heap]", ""},    {"/a/file", ""},           {"[anon:]", ""},
                     {"[anon:cut", ""}, {"[anon:x]", "x"}, {"[anon:a b]c]", "a b]c"}, {"[anon_shmem:x]", ""}};
        char name[REGION_NAME_BYTES];
        struct vma vma;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                vma = (struct vma){.protection = RW};
                strcpy(vma.name, cases[i].shown);
                policy_kept_name(&vma, name);
                assert_string_equal(name, cases[i].kept);
        }
        /* The longest that there is. */
        memset(vma.name, 'n', sizeof(vma.name));
        memcpy(vma.name, "[anon:", 6);
        strcpy(vma.name + 6 + REGION_NAME_BYTES - 1, "]");
        policy_kept_name(&vma, name);
        assert_int_equal(strlen(name), REGION_NAME_BYTES - 1);
}

/* Without a pool, anonymous memory is not taken for one. */
static void test_no_pool(void **state)
{
        struct vma vma = {.protection = RW};

        assert_int_equal(policy_vma(&vma, 0, 0, false), REASON_NONE);
        assert_int_equal(policy_vma(&vma, 0, 0, true), REASON_NONE);
        vma.flags = VMA_UFFD_MINOR;
        assert_int_equal(policy_vma(&vma, 0, 0, true), REASON_UFFD);
}

static void test_words(void **state)
{
        for (unsigned a = 0; a < REASON_N; a++) {
                assert_true(strlen(reason_name(a)) > 0);
                assert_true(strlen(reason_text(a)) > 0);
                assert_int_equal(strlen(reason_remedy(a)) > 0, a != REASON_NONE);
                assert_int_equal(strspn(reason_name(a), "abcdefghijklmnopqrstuvwxyz_"),
                                 strlen(reason_name(a)));
                for (unsigned b = 0; b < a; b++)
                        assert_string_not_equal(reason_name(a), reason_name(b));
        }
        assert_string_equal(reason_name(REASON_N), "invalid");
        assert_string_equal(reason_text(REASON_N), "");
        assert_string_equal(reason_remedy(REASON_N), "");
}

static void test_budget(void **state)
{
        static const struct {
                uint64_t max, existing, budget;
        } budgets[] = {
                {65530, 0, 49148}, {65530, 100, 49048}, {65530, 20000, 25530},   {65530, 32765, 0},
                {65530, 32764, 2}, {65530, 65530, 0},   {65530, UINT64_MAX, 0},  {0, 0, 0},
                {4, 0, 3},         {1, 0, 1},           {1048576, 1000, 785432},
        };

        for (size_t i = 0; i < ARRAY_SIZE(budgets); i++)
                assert_int_equal(policy_vma_budget(budgets[i].max, budgets[i].existing), budgets[i].budget);
        /* More mappings never mean a greater budget, and the program may always double what it has. */
        for (uint64_t n = 0; n < 70000; n++) {
                uint64_t budget = policy_vma_budget(65530, n);

                assert_true(budget >= policy_vma_budget(65530, n + 1));
                assert_true(!budget || n + budget + n <= 65530);
        }
}

/*
 * A real mapping: `make` turns LENGTH bytes of fresh private anonymous memory into one of its kind, or maps
 * another, and returns it; NULL with errno when this kernel or host has no such thing.
 */
#define LENGTH (2 * PAGE_BYTES)

struct kind {
        const char *name;
        enum reason reason;
        void *(*make)(char *fresh);
};

static void *or_null(int r, void *memory)
{
        return r < 0 ? NULL : memory;
}

static void *map_or_null(int protection, int flags, int fd)
{
        void *memory = mmap(NULL, LENGTH, protection, flags, fd, 0);

        return memory == MAP_FAILED ? NULL : memory;
}

static void *make_plain(char *fresh)
{
        return fresh;
}

static void *make_shared(char *fresh)
{
        return map_or_null(RW, MAP_SHARED | MAP_ANONYMOUS, -1);
}

static void *make_file(char *fresh)
{
        _cleanup_fd_ int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

        return map_or_null(RW, MAP_PRIVATE, fd);
}

static void *make_memfd(char *fresh)
{
        _cleanup_fd_ int fd = memfd_create("[heap]", MFD_CLOEXEC);

        return map_or_null(RW, MAP_PRIVATE, fd);
}

static void *make_zero_device(char *fresh)
{
        _cleanup_fd_ int fd = open("/dev/zero", O_RDWR | O_CLOEXEC);

        return map_or_null(RW, MAP_PRIVATE, fd);
}

static void *make_readonly(char *fresh)
{
        return or_null(mprotect(fresh, LENGTH, PROT_READ), fresh);
}

static void *make_executable(char *fresh)
{
        return or_null(mprotect(fresh, LENGTH, RW | PROT_EXEC), fresh);
}

static void *make_huge(char *fresh)
{
        void *memory =
                mmap(NULL, 2 << 20, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0);

        return memory == MAP_FAILED ? NULL : memory;
}

/* By number: AddressSanitizer makes mlock() do nothing. */
static void *make_locked(char *fresh)
{
        return or_null((int)syscall(SYS_mlock, fresh, LENGTH), fresh);
}

static void *make_growsdown(char *fresh)
{
        return map_or_null(RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1);
}

static void *make_stack(char *fresh)
{
        return (void *)(getauxval(AT_RANDOM) & ~(PAGE_BYTES - 1));
}

static void *make_vdso(char *fresh)
{
        errno = ENOSYS;
        return (void *)getauxval(AT_SYSINFO_EHDR);
}

static void *make_sealed(char *fresh)
{
        return or_null((int)syscall(SYS_mseal, fresh, LENGTH, 0), fresh);
}

static void *make_pkey(char *fresh)
{
        int pkey = pkey_alloc(0, 0);

        return pkey < 0 ? NULL : or_null(pkey_mprotect(fresh, LENGTH, RW, pkey), fresh);
}

static void *make_mergeable(char *fresh)
{
        return or_null(madvise(fresh, LENGTH, MADV_MERGEABLE), fresh);
}

static void *make_dontfork(char *fresh)
{
        return or_null(madvise(fresh, LENGTH, MADV_DONTFORK), fresh);
}

static void *make_dontdump(char *fresh)
{
        return or_null(madvise(fresh, LENGTH, MADV_DONTDUMP), fresh);
}

static void *make_wipeonfork(char *fresh)
{
        return or_null(madvise(fresh, LENGTH, MADV_WIPEONFORK), fresh);
}

/* The context must outlive the look at the mapping; it lasts as long as the process. */
static void *make_uffd(char *fresh)
{
        struct uffdio_api api = {.api = UFFD_API};
        struct uffdio_register registration = {.range = {(uintptr_t)fresh, LENGTH},
                                               .mode = UFFDIO_REGISTER_MODE_MISSING};
        int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

        if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
                return NULL;
        return or_null(ioctl(fd, UFFDIO_REGISTER, &registration), fresh);
}

static void *make_secret(char *fresh)
{
        int fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC);

        if (fd < 0 || ftruncate(fd, LENGTH) < 0)
                return NULL;
        return mmap(fresh, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
}

static const struct kind kinds[] = {
        {"private anonymous", REASON_NONE, make_plain},
        {"shared anonymous", REASON_SHARED, make_shared},
        {"file", REASON_FILE, make_file},
        {"private memfd", REASON_FILE, make_memfd},
        {"private /dev/zero", REASON_FILE, make_zero_device},
        {"read-only", REASON_PROTECTION, make_readonly},
        {"executable", REASON_PROTECTION, make_executable},
        {"hugetlb", REASON_HUGETLB, make_huge},
        {"secret", REASON_SECRET, make_secret},
        {"locked", REASON_LOCKED, make_locked},
        {"growing down", REASON_STACK, make_growsdown},
        {"stack", REASON_STACK, make_stack},
        {"vdso", REASON_DEVICE, make_vdso},
        {"protection key", REASON_PKEY, make_pkey},
        {"mergeable", REASON_KSM, make_mergeable},
        {"MADV_DONTFORK", REASON_ADVICE, make_dontfork},
        {"MADV_DONTDUMP", REASON_ADVICE, make_dontdump},
        {"MADV_WIPEONFORK", REASON_ADVICE, make_wipeonfork},
        {"userfaultfd", REASON_UFFD, make_uffd},
        {"sealed", REASON_SEALED, make_sealed},
};

struct search {
        uint64_t address;
        struct vma vma;
};

static int visit(void *context, const struct vma *vma)
{
        struct search *search = context;

        if (search->address < vma->start || search->address >= vma->end)
                return 0;
        search->vma = *vma;
        return 1;
}

static struct vma look(const void *memory)
{
        struct search search = {.address = (uintptr_t)memory};
        _cleanup_fd_ int fd = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);

        assert_int_equal(procmaps_read(fd, visit, &search), 0);
        assert_int_not_equal(search.vma.end, 0);
        return search.vma;
}

/* Between pages without access, so that it is a mapping of its own. What is made stays until the process
 * ends. */
static char *map_fresh(void)
{
        char *memory = mmap(NULL, LENGTH + 2 * PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        assert_true(memory != MAP_FAILED);
        assert_int_equal(mprotect(memory + PAGE_BYTES, LENGTH, RW), 0);
        return memory + PAGE_BYTES;
}

static void test_kind(void **state)
{
        const struct kind *kind = *state;
        char *memory;
        struct vma vma;

        errno = 0;
        memory = kind->make(map_fresh());
        if (!memory) {
                print_message("%s: not here: %s\n", kind->name, strerror(errno));
                skip();
        }
        vma = look(memory);
        for (int resumed = 0; resumed <= 1; resumed++)
                if (policy(&vma, resumed) != kind->reason)
                        fail_msg("%s, %s: %s", kind->name, resumed ? "resumed" : "new",
                                 reason_name(policy(&vma, resumed)));
}

/* A private mapping of a file is known for a remnant by what fstat() says of the file. */
static void test_real_remnant(void **state)
{
        _cleanup_fd_ int fd = memfd_create("pool", MFD_CLOEXEC);
        struct stat status;
        struct vma vma;

        assert_int_equal(fstat(fd, &status), 0);
        assert_int_equal(ftruncate(fd, LENGTH), 0);
        vma = look(map_or_null(RW, MAP_PRIVATE, fd));
        for (int resumed = 0; resumed <= 1; resumed++) {
                assert_int_equal(policy_vma(&vma, status.st_dev, status.st_ino, resumed), REASON_REMNANT);
                assert_int_equal(policy_vma(&vma, status.st_dev, status.st_ino + 1, resumed), REASON_FILE);
        }
        vma = look(map_or_null(RW, MAP_SHARED, fd));
        assert_int_equal(policy_vma(&vma, status.st_dev, status.st_ino, false), REASON_SHARED);
}

/* Real mappings of this program and of a memfd, of which only smaps' name tells what it is. */
static void test_real_files(void **state)
{
        _cleanup_fd_ int exe = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        _cleanup_fd_ int memfd = memfd_create("x", MFD_CLOEXEC);
        struct vma vma = look(map_or_null(PROT_READ, MAP_SHARED, exe));

        assert_int_equal(ftruncate(memfd, LENGTH), 0);
        assert_true(policy_is_file(&vma));
        assert_int_equal(policy_vma_file(&vma, false), REASON_NONE);
        vma = look(map_or_null(RX, MAP_PRIVATE, exe));
        assert_true(policy_is_file(&vma));
        assert_int_equal(policy_vma_file(&vma, false), REASON_EXECUTABLE);
        assert_int_equal(policy_vma_file(&vma, true), REASON_NONE);
        vma = look(map_or_null(PROT_READ, MAP_PRIVATE, memfd));
        assert_true(policy_is_file(&vma));
        assert_int_equal(policy_vma_file(&vma, false), REASON_STORAGE);
        vma = look(map_or_null(RW, MAP_SHARED, memfd));
        assert_false(policy_is_file(&vma));
        vma = look(map_fresh());
        assert_false(policy_is_file(&vma));
}

/* A context of ours with these features, or -1 when this kernel or host has none. */
static int make_context(uint64_t features)
{
        struct uffdio_api api = {.api = UFFD_API, .features = features};
        int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

        if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) < 0) {
                close(fd);
                return -1;
        }
        return fd;
}

/* What a client that comes back has: memory under track, and under hold a mapping of a pool that nobody knows. */
static void test_real_resumed(void **state)
{
        _cleanup_fd_ int memory_fd = memfd_create("pool", MFD_CLOEXEC), uffd = make_context(HOLD_FEATURES);
        char *anonymous = map_fresh(), *pool;
        struct uffdio_register track = {.range = {(uintptr_t)anonymous, LENGTH},
                                        .mode = UFFDIO_REGISTER_MODE_WP};
        struct uffdio_register hold = {.mode = UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MINOR};
        struct vma vma;

        if (uffd < 0) {
                print_message("not here: %s\n", strerror(errno));
                skip();
        }
        assert_int_equal(ftruncate(memory_fd, LENGTH), 0);
        pool = map_or_null(RW, MAP_PRIVATE, memory_fd);
        assert_non_null(pool);
        hold.range = (struct uffdio_range){(uintptr_t)pool, LENGTH};
        assert_int_equal(ioctl(uffd, UFFDIO_REGISTER, &track), 0);
        assert_int_equal(ioctl(uffd, UFFDIO_REGISTER, &hold), 0);
        vma = look(anonymous);
        assert_int_equal(policy(&vma, true), REASON_NONE);
        assert_int_equal(policy(&vma, false), REASON_UFFD);
        vma = look(pool);
        assert_int_equal(policy(&vma, true), REASON_REMNANT);
        assert_int_equal(policy(&vma, false), REASON_FILE);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_table),
                cmocka_unit_test(test_resumed_changes_nothing_else),
                cmocka_unit_test(test_every_flag_refuses),
                cmocka_unit_test(test_is_file),
                cmocka_unit_test(test_vma_file),
                cmocka_unit_test(test_vma_file_flags),
                cmocka_unit_test(test_file_system),
                cmocka_unit_test(test_real_files),
                cmocka_unit_test(test_kept_name),
                cmocka_unit_test(test_no_pool),
                cmocka_unit_test(test_words),
                cmocka_unit_test(test_budget),
                cmocka_unit_test(test_real_remnant),
                cmocka_unit_test(test_real_resumed),
        };
        struct CMUnitTest real[ARRAY_SIZE(kinds)];
        int failed = cmocka_run_group_tests(tests, NULL, NULL);

        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
                real[i] = (struct CMUnitTest){
                        .name = kinds[i].name, .test_func = test_kind, .initial_state = (void *)&kinds[i]};
        return failed + cmocka_run_group_tests(real, NULL, NULL);
}
