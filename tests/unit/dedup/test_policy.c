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
};

static void test_table(void **state)
{
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
                if (policy_vma(&rows[i].vma, POOL_DEV, POOL_INODE) != rows[i].reason)
                        fail_msg("rows[%zu]: %s where %s was expected", i,
                                 reason_name(policy_vma(&rows[i].vma, POOL_DEV, POOL_INODE)),
                                 reason_name(rows[i].reason));
}

/* Every single flag refuses memory that would take part otherwise. */
static void test_every_flag_refuses(void **state)
{
        for (uint32_t flag = 1; flag <= VMA_SHARED_STACK; flag <<= 1) {
                struct vma vma = {.protection = RW, .flags = flag};

                assert_int_not_equal(policy_vma(&vma, POOL_DEV, POOL_INODE), REASON_NONE);
        }
}

/* Without a pool, anonymous memory is not taken for one. */
static void test_no_pool(void **state)
{
        struct vma vma = {.protection = RW};

        assert_int_equal(policy_vma(&vma, 0, 0), REASON_NONE);
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

static const struct kind kinds[] = {
        {"private anonymous", REASON_NONE, make_plain},
        {"shared anonymous", REASON_SHARED, make_shared},
        {"file", REASON_FILE, make_file},
        {"private memfd", REASON_FILE, make_memfd},
        {"private /dev/zero", REASON_FILE, make_zero_device},
        {"read-only", REASON_PROTECTION, make_readonly},
        {"executable", REASON_PROTECTION, make_executable},
        {"hugetlb", REASON_HUGETLB, make_huge},
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
        if (policy_vma(&vma, POOL_DEV, POOL_INODE) != kind->reason)
                fail_msg("%s: %s", kind->name, reason_name(policy_vma(&vma, POOL_DEV, POOL_INODE)));
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
        assert_int_equal(policy_vma(&vma, status.st_dev, status.st_ino), REASON_REMNANT);
        assert_int_equal(policy_vma(&vma, status.st_dev, status.st_ino + 1), REASON_FILE);
        vma = look(map_or_null(RW, MAP_SHARED, fd));
        assert_int_equal(policy_vma(&vma, status.st_dev, status.st_ino), REASON_SHARED);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_table),   cmocka_unit_test(test_every_flag_refuses),
                cmocka_unit_test(test_no_pool), cmocka_unit_test(test_words),
                cmocka_unit_test(test_budget),  cmocka_unit_test(test_real_remnant),
        };
        struct CMUnitTest real[ARRAY_SIZE(kinds)];
        int failed = cmocka_run_group_tests(tests, NULL, NULL);

        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
                real[i] = (struct CMUnitTest){
                        .name = kinds[i].name, .test_func = test_kind, .initial_state = (void *)&kinds[i]};
        return failed + cmocka_run_group_tests(real, NULL, NULL);
}
