/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Regions: what may be registered and what not, again and again, and by many threads at once. */

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/mempolicy.h>
#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/procmaps.h"
#include "kernel/uapi.h"
#include "system/pair.h"

#define N_PAGES   512
#define SOME      16 /* pages of unsuitable memory */
#define BYTES     (SOME * PAGE_BYTES)
#define ALL_READY (PROT_READ | PROT_WRITE)

static uint64_t identical(long program, uint64_t page)
{
        return page + 1;
}

/* ------------------------------------------------------------------ cycles */

/*
 * What is given back is merged again when it is registered again. But a merged page that was written stays a copy in
 * a mapping of the pool, and is left alone until the program maps fresh memory.
 */
static void register_again(uid_t uid)
{
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        for (long cycle = 1; cycle <= 3; cycle++) {
                CHECK_OK(client_do(&pair.clients[0], program_store, 0, cycle * 50 * (long)PAGE_BYTES, 0));
                for (long i = 0; i < 2; i++) {
                        const struct client *client = &pair.clients[i];
                        long refused;

                        CHECK_OK(client_do(client, program_unregister, 0, 0, 0));
                        client_do(client, program_verify, 0, 0, 0);
                        CHECK_OK(client_do(client, program_register, 0, WP_MERGE, 0));
                        refused = client_do(client, program_stat, 0, PROGRAM_STAT(pages_refused), 0);
                        CHECK(refused == (i ? 0 : cycle), "%ld pages refused", refused);
                }
                CHECK(service_doctor_says(&pair.service, pair.clients[0].pid, "merged earlier"),
                      "doctor does not say why");
                service_settle(&pair.service, "pages_sharing", N_PAGES - cycle);
                pair_verify(&pair);
        }
        for (long i = 0; i < 2; i++) {
                CHECK_OK(client_do(&pair.clients[i], program_unregister, 0, 0, 0));
                CHECK_OK(client_do(&pair.clients[i], program_unmap, 0, 0, 0));
                CHECK_OK(client_do(&pair.clients[i], program_map, 0, N_PAGES, (long)identical));
                CHECK_OK(client_do(&pair.clients[i], program_register, 0, WP_MERGE, 0));
        }
        service_settle(&pair.service, "pages_sharing", N_PAGES);
        pair_end(&pair);
}

static long stat_of(const struct client *client, long member)
{
        return client_do(client, program_stat, 0, member, 0);
}

/* What is written while it is excluded is alone with its content afterwards; the rest is merged again once it is included. */
static void exclude_merged(uid_t uid)
{
        const struct client *client;
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        client = &pair.clients[0];
        for (long cycle = 0; cycle < 3; cycle++) {
                long first = cycle * 100 + 3, expected = N_PAGES - cycle - 90;

                CHECK_OK(client_do(client, program_exclude, 0, first, 90));
                CHECK(stat_of(client, PROGRAM_STAT(pages_excluded)) == 90, "%ld pages excluded",
                      stat_of(client, PROGRAM_STAT(pages_excluded)));
                CHECK(stat_of(client, PROGRAM_STAT(pages_merged)) == expected,
                      "%ld pages merged instead of %ld", stat_of(client, PROGRAM_STAT(pages_merged)),
                      expected);
                CHECK(service_doctor_says(&pair.service, client->pid, "excluded"), "doctor does not say so");
                /* Over further passes, too. */
                service_settle(&pair.service, "pages_sharing", expected);
                pair_verify(&pair);
                CHECK_OK(client_do(client, program_store, 0, first * (long)PAGE_BYTES, 0));
                CHECK_OK(client_do(client, program_include, 0, first, 90));
                CHECK(stat_of(client, PROGRAM_STAT(pages_excluded)) == 0, "%ld pages excluded",
                      stat_of(client, PROGRAM_STAT(pages_excluded)));
                service_settle(&pair.service, "pages_sharing", N_PAGES - cycle - 1);
                pair_verify(&pair);
        }
        pair_end(&pair);
}

/* What is excluded before it is merged stays out until it is included. */
static void exclude_early(uid_t uid)
{
        struct service service;
        struct client clients[2];

        service_start(&service, NULL);
        json_decref(service_call(&service, "Pause", NULL));
        for (long i = 0; i < 2; i++) {
                client_start(&clients[i], uid);
                CHECK_OK(client_do(&clients[i], program_map, 0, N_PAGES, (long)identical));
                CHECK_OK(client_do(&clients[i], program_connect, (long)service.client_path, 0, 0));
                CHECK_OK(client_do(&clients[i], program_register, 0, WP_MERGE, 0));
        }
        CHECK_OK(client_do(&clients[0], program_exclude, 0, 100, 200));
        json_decref(service_call(&service, "Resume", NULL));
        service_settle(&service, "pages_sharing", N_PAGES - 200);
        CHECK_OK(client_do(&clients[0], program_include, 0, 150, 50));
        service_settle(&service, "pages_sharing", N_PAGES - 150);
        CHECK_OK(client_do(&clients[0], program_include, 0, 0, N_PAGES));
        service_settle(&service, "pages_sharing", N_PAGES);
        for (long i = 0; i < 2; i++) {
                client_do(&clients[i], program_verify, 0, 0, 0);
                CHECK_OK(client_do(&clients[i], program_disconnect, 1, 0, 0));
                client_do(&clients[i], program_verify, 0, 0, 0);
                client_stop(&clients[i]);
        }
        service_stop(&service);
}

static long check_exclude_errors(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];
        size_t bytes = area->n_pages * PAGE_BYTES;
        static const struct {
                size_t offset;
                size_t length;
        } wrong[] = {{1, PAGE_BYTES},
                     {0, 1},
                     {0, 0},
                     {PAGE_BYTES, SIZE_MAX - PAGE_BYTES + 1},
                     {SIZE_MAX - PAGE_BYTES + 1, PAGE_BYTES}};

        for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
                CHECK_ERROR(wp_exclude(area->region, wrong[i].offset, wrong[i].length), EINVAL);
                CHECK_ERROR(wp_include(area->region, wrong[i].offset, wrong[i].length), EINVAL);
        }
        CHECK_ERROR(wp_exclude(area->region, bytes, PAGE_BYTES), EINVAL);
        CHECK_ERROR(wp_exclude(area->region, bytes - PAGE_BYTES, 2 * PAGE_BYTES), EINVAL);
        CHECK_ERROR(wp_exclude(NULL, 0, PAGE_BYTES), EINVAL);
        CHECK_ERROR(wp_unregister(NULL), EINVAL);
        CHECK_ERROR(wp_region_stat(area->region, NULL), EINVAL);
        return 0;
}

static long check_register_errors(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];
        struct wp_region *untouched = (struct wp_region *)area, *region = untouched;
        struct wp_client *client = program->wp;
        char *memory = area->memory;
        size_t bytes = area->n_pages * PAGE_BYTES;

        CHECK_ERROR(wp_register(client, memory + 1, PAGE_BYTES, WP_MERGE, &region), EINVAL);
        CHECK_ERROR(wp_register(client, memory, PAGE_BYTES + 1, WP_MERGE, &region), EINVAL);
        CHECK_ERROR(wp_register(client, memory, 0, WP_MERGE, &region), EINVAL);
        CHECK_ERROR(wp_register(client, memory, SIZE_MAX - PAGE_BYTES + 1, WP_MERGE, &region), EINVAL);
        CHECK_ERROR(wp_register(client, (void *)(UINT64_C(1) << 63), PAGE_BYTES, WP_MERGE, &region), EINVAL);
        CHECK_ERROR(wp_register(client, (void *)-PAGE_BYTES, 2 * PAGE_BYTES, WP_MERGE, &region), EINVAL);
        CHECK_ERROR(wp_register(client, memory, PAGE_BYTES, UINT64_C(1) << 40, &region), EINVAL);
        CHECK_ERROR(wp_register(NULL, memory, PAGE_BYTES, WP_MERGE, &region), EINVAL);
        CHECK_ERROR(wp_register(client, memory, PAGE_BYTES, WP_MERGE, NULL), EINVAL);
        /* The area is registered already. */
        CHECK_ERROR(wp_register(client, memory, bytes, WP_MERGE, &region), EINVAL);
        CHECK(strstr(wp_strerror_detail(client), "overlaps"), "the detail is: %s",
              wp_strerror_detail(client));
        CHECK_ERROR(wp_register(client, memory + bytes - PAGE_BYTES, PAGE_BYTES, WP_MERGE, &region), EINVAL);
        CHECK(region == untouched, "a failure changed *ret_region");
        return 0;
}

static void wrong_arguments(uid_t uid)
{
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        client_do(&pair.clients[0], check_register_errors, 0, 0, 0);
        client_do(&pair.clients[0], check_exclude_errors, 0, 0, 0);
        CHECK(service_doctor_says(&pair.service, pair.clients[0].pid, "overlaps"), "doctor does not say why");
        CHECK(service_figure(&pair.service, "pages_sharing") == N_PAGES, "something was given back");
        CHECK(service_figure(&pair.service, "regions") == 2, "%lld regions",
              (long long)service_figure(&pair.service, "regions"));
        pair_verify(&pair);
        pair_end(&pair);
}

/* ------------------------------------------------------------------ what memory keeps */

static int take_mapping(void *context, const struct vma *vma)
{
        struct vma *found = context;

        if (vma->start != found->start)
                return 0;
        *found = *vma;
        return 1;
}

/* The mapping that begins at this address. */
static struct vma find_mapping(const char *memory)
{
        struct vma found = {.start = (uintptr_t)memory};
        int fd = (int)CHECK_OK(error_from(open("/proc/self/smaps", O_RDONLY | O_CLOEXEC)));

        CHECK_OK(procmaps_read(fd, take_mapping, &found));
        close(fd);
        CHECK(found.end, "nothing begins there");
        return found;
}

/* a: area, b: pages. Memory with a name, with advice, and without reservation. */
static long map_peculiar(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];
        size_t bytes = (size_t)b * PAGE_BYTES;

        CHECK_OK(program_map(program, a, b, c));
        CHECK(mmap(area->memory, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == area->memory,
              "%m");
        CHECK(!madvise(area->memory, bytes, MADV_NOHUGEPAGE), "%m");
        memcpy(area->memory, area->shadow, bytes);
        return prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, area->memory, bytes, "torture me") ? 0 : 1;
}

/* It is one mapping again, and has what it had; c: it has a name. */
static long check_peculiar(struct program *program, long a, long b, long c)
{
        const struct area *area = &program->areas[a];
        struct vma vma = find_mapping(area->memory);

        CHECK(vma.end - vma.start >= area->n_pages * PAGE_BYTES, "the mapping has %llu bytes, flags %#x",
              (unsigned long long)(vma.end - vma.start), vma.flags);
        CHECK(vma.flags & VMA_NOHUGEPAGE && vma.flags & VMA_NORESERVE, "the flags are %#x", vma.flags);
        CHECK(!c || !strcmp(vma.name, "[anon:torture me]"), "the name is %s", vma.name);
        return 0;
}

/* Merged memory is part of core dumps: private file mappings are, core(5). */
static long check_dumped(struct program *program, long a, long b, long c)
{
        FILE *file = fopen("/proc/self/coredump_filter", "re");
        unsigned filter = 0;

        CHECK(file && fscanf(file, "%x", &filter) == 1, "%m");
        fclose(file);
        CHECK(filter & 0x4, "the filter is %#x", filter);
        return 0;
}

static void kept(uid_t uid)
{
        struct pair pair;
        long named = 0;

        service_start(&pair.service, NULL);
        for (long i = 0; i < 2; i++) {
                client_start(&pair.clients[i], uid);
                named = CHECK_OK(client_do(&pair.clients[i], map_peculiar, 0, N_PAGES, (long)identical));
                client_do(&pair.clients[i], check_peculiar, 0, 0, named);
                CHECK_OK(client_do(&pair.clients[i], program_connect, (long)pair.service.client_path, 0, 0));
                CHECK_OK(client_do(&pair.clients[i], program_register, 0, WP_MERGE, 0));
        }
        service_settle(&pair.service, "pages_sharing", N_PAGES);
        for (long i = 0; i < 2; i++) {
                client_do(&pair.clients[i], check_dumped, 0, 0, 0);
                CHECK_OK(client_do(&pair.clients[i], program_unregister, 0, 0, 0));
                client_do(&pair.clients[i], program_verify, 0, 0, 0);
                client_do(&pair.clients[i], check_peculiar, 0, 0, named);
                CHECK_OK(client_do(&pair.clients[i], program_unmap, 0, 0, 0));
                CHECK_OK(client_do(&pair.clients[i], program_disconnect, 0, 0, 0));
                client_stop(&pair.clients[i]);
        }
        service_stop(&pair.service);
}

/* ------------------------------------------------------------------ unsuitable memory */

static char *map(int protection, int flags, int fd)
{
        char *memory = mmap(NULL, BYTES, protection, flags, fd, 0);

        return memory == MAP_FAILED ? NULL : memory;
}

static char *map_private(void)
{
        return map(ALL_READY, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static char *advise(int advice)
{
        char *memory = map_private();

        return memory && !madvise(memory, BYTES, advice) ? memory : NULL;
}

/* AddressSanitizer makes nothing of mlock(3). */
static long lock(const void *memory, size_t bytes)
{
        return syscall(SYS_mlock, memory, bytes);
}

/* Far from where the kernel puts mappings without a wish of their own, so that a gap stays one. */
static char *map_far(void)
{
        void *memory = mmap((void *)(UINT64_C(1) << 45), BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

        CHECK(memory != MAP_FAILED, "mmap: %s", strerror(errno));
        return memory;
}

static char *make_unmapped(void)
{
        char *memory = map_far();

        munmap(memory, BYTES);
        return memory;
}

static char *make_hole(void)
{
        char *memory = map_far();

        munmap(memory + 3 * PAGE_BYTES, PAGE_BYTES);
        return memory;
}

static char *make_none(void)
{
        char *memory = map_private();

        return mprotect(memory, BYTES, PROT_NONE) ? NULL : memory;
}

static char *make_readonly(void)
{
        return map(PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static char *make_executable(void)
{
        return map(ALL_READY | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

/* The last page only. */
static char *make_partly_readonly(void)
{
        char *memory = map_private();

        return mprotect(memory + BYTES - PAGE_BYTES, PAGE_BYTES, PROT_READ) ? NULL : memory;
}

static char *make_shared(void)
{
        return map(ALL_READY, MAP_SHARED | MAP_ANONYMOUS, -1);
}

static char *make_file(int flags)
{
        char name[] = "/tmp/wpd-test-file-XXXXXX";
        int fd = mkstemp(name);
        char *memory;

        CHECK(fd >= 0 && !ftruncate(fd, BYTES), "%s: %m", name);
        unlink(name);
        memory = map(ALL_READY, flags, fd);
        close(fd);
        return memory;
}

static char *make_private_file(void)
{
        return make_file(MAP_PRIVATE);
}

static char *make_shared_file(void)
{
        return make_file(MAP_SHARED);
}

static char *make_memfd(void)
{
        int fd = memfd_create("test", MFD_CLOEXEC);
        char *memory;

        CHECK(fd >= 0 && !ftruncate(fd, BYTES), "%m");
        memory = map(ALL_READY, MAP_PRIVATE, fd);
        close(fd);
        return memory;
}

static char *make_growsdown(void)
{
        return map(ALL_READY, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1);
}

static char *make_locked(void)
{
        char *memory = map_private();

        return lock(memory, BYTES) ? NULL : memory;
}

static char *make_dontfork(void)
{
        return advise(MADV_DONTFORK);
}

static char *make_dontdump(void)
{
        return advise(MADV_DONTDUMP);
}

static char *make_wipeonfork(void)
{
        return advise(MADV_WIPEONFORK);
}

static char *make_mergeable(void)
{
        return advise(MADV_MERGEABLE);
}

static char *make_random(void)
{
        return advise(MADV_RANDOM);
}

static char *make_sequential(void)
{
        return advise(MADV_SEQUENTIAL);
}

/* The second half only. */
static char *make_mixed(void)
{
        char *memory = map_private();

        return madvise(memory + BYTES / 2, BYTES / 2, MADV_NOHUGEPAGE) ? NULL : memory;
}

static char *make_bound(void)
{
        unsigned long node = 1;
        char *memory = map_private();

        return syscall(SYS_mbind, memory, BYTES, MPOL_BIND, &node, 8 * sizeof(node), 0) ? NULL : memory;
}

static char *make_pkey(void)
{
        char *memory = map_private();
        int key = pkey_alloc(0, 0);

        return key > 0 && !pkey_mprotect(memory, BYTES, ALL_READY, key) ? memory : NULL;
}

#ifndef SYS_mseal
#define SYS_mseal 462
#endif

static char *make_sealed(void)
{
        char *memory = map_private();

        return syscall(SYS_mseal, memory, BYTES, 0) ? NULL : memory;
}

/* Memory that the program watches itself. */
static char *make_watched(uint64_t mode)
{
        struct uffdio_api api = {.api = UFFD_API,
                                 .features = mode == UFFDIO_REGISTER_MODE_WP ? UFFD_FEATURE_PAGEFAULT_FLAG_WP
                                                                             : 0};
        struct uffdio_register registration = {.mode = mode};
        char *memory = map_private();
        int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

        if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
                return NULL;
        /* Populated, so that reading it raises no fault that nobody would answer. */
        memset(memory, 1, BYTES);
        registration.range.start = (uintptr_t)memory;
        registration.range.len = BYTES;
        return ioctl(fd, UFFDIO_REGISTER, &registration) < 0 ? NULL : memory;
}

static char *make_watched_missing(void)
{
        return make_watched(UFFDIO_REGISTER_MODE_MISSING);
}

static char *make_watched_writes(void)
{
        return make_watched(UFFDIO_REGISTER_MODE_WP);
}

static char *make_hugetlb(void)
{
        size_t bytes = (size_t)2 << 20;
        char *memory = mmap(NULL, bytes, ALL_READY, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

        return memory == MAP_FAILED ? NULL : memory;
}

static char *make_secret(void)
{
        int fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC);
        char *memory;

        if (fd < 0)
                return NULL;
        CHECK(!ftruncate(fd, BYTES), "%m");
        memory = map(ALL_READY, MAP_SHARED, fd);
        close(fd);
        return memory;
}

/* `readable`: the memory's content is compared; it can be changed unless it is `readonly`. */
static const struct kind {
        const char *name;
        char *(*make)(void); /* NULL: this host has no such memory */
        bool readable;
        bool readonly;
        const char *words;
} kinds[] = {
        {"unmapped", make_unmapped, false, false, "nothing is mapped"},
        {"with a hole", make_hole, false, false, "nothing is mapped"},
        {"PROT_NONE", make_none, false, false, "readable and writable"},
        {"read-only", make_readonly, true, true, "readable and writable"},
        {"executable", make_executable, true, false, "readable and writable"},
        {"partly read-only", make_partly_readonly, true, true, "readable and writable"},
        {"shared", make_shared, true, false, "shared mapping"},
        {"private file", make_private_file, true, false, "file"},
        {"shared file", make_shared_file, true, false, "shared mapping"},
        {"private memfd", make_memfd, true, false, "memfd"},
        {"hugetlb", make_hugetlb, false, false, "hugetlb"},
        {"secret", make_secret, true, false, "secret"},
        {"growsdown", make_growsdown, true, false, "grows down"},
        {"locked", make_locked, true, false, "mlocked"},
        {"dontfork", make_dontfork, true, false, "MADV_DONTFORK"},
        {"dontdump", make_dontdump, true, false, "DONTDUMP"},
        {"wipeonfork", make_wipeonfork, true, false, "WIPEONFORK"},
        {"random", make_random, true, false, "RANDOM"},
        {"sequential", make_sequential, true, false, "SEQUENTIAL"},
        {"mixed", make_mixed, true, false, "differs"},
        {"bound to a node", make_bound, true, false, "policy"},
        {"mergeable", make_mergeable, true, false, "KSM"},
        {"pkey", make_pkey, true, false, "protection key"},
        {"sealed", make_sealed, true, false, "sealed"},
        {"watched for missing pages", make_watched_missing, true, false, "userfaultfd"},
        {"watched for writes", make_watched_writes, true, true, "userfaultfd"},
};

/* Returns 1 when this host has no such memory. a: the kind. */
static long check_unsuitable(struct program *program, long a, long b, long c)
{
        struct wp_region *region = NULL;
        const struct kind *kind = &kinds[a];
        size_t bytes = kind->make == make_hugetlb ? (size_t)2 << 20 : BYTES;
        char *memory = kind->make();
        int r;
        static char before[BYTES];

        if (!memory)
                return 1;
        if (kind->readable && !kind->readonly)
                for (size_t i = 0; i < SOME; i++)
                        program_fill_page(memory + i * PAGE_BYTES, i + 1);
        if (kind->readable)
                memcpy(before, memory, BYTES);
        r = wp_register(program->wp, memory, bytes, WP_MERGE, &region);
        CHECK(r == -EOPNOTSUPP, "%s: %s", kind->name, r < 0 ? strerror(-r) : "it was registered");
        CHECK(!region, "%s: a failure changed *ret_region", kind->name);
        CHECK(strstr(wp_strerror_detail(program->wp), kind->words), "%s: the detail is: %s", kind->name,
              wp_strerror_detail(program->wp));
        CHECK(!kind->readable || !memcmp(before, memory, BYTES), "%s: its content changed", kind->name);
        if (kind->readable && !kind->readonly)
                memset(memory, 7, BYTES);
        return 0;
}

static void unsuitable(uid_t uid)
{
        struct client client;
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        for (long i = 0; i < (long)ARRAY_SIZE(kinds); i++) {
                client_start(&client, uid);
                CHECK_OK(client_do(&client, program_connect, (long)pair.service.client_path, 0, 0));
                if (client_do(&client, check_unsuitable, i, 0, 0))
                        printf("     %s memory: not available here\n", kinds[i].name);
                else
                        CHECK(service_doctor_says(&pair.service, client.pid, kinds[i].words),
                              "%s: doctor does not say why", kinds[i].name);
                CHECK_OK(client_do(&client, program_disconnect, 1, 0, 0));
                client_stop(&client);
        }
        CHECK(service_figure(&pair.service, "regions") == 2, "something was registered");
        pair_verify(&pair);
        pair_end(&pair);
}

/* ------------------------------------------------------------------ memory that changes after it was registered */

/* a: area, b: advice or -1 for mlock(2), -2 for read-only. */
static long change(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];
        size_t bytes = area->n_pages / 2 * PAGE_BYTES;

        if (b == -1)
                return error_from(lock(area->memory, bytes));
        if (b == -2)
                return error_from(mprotect(area->memory, bytes, PROT_READ));
        return error_from(madvise(area->memory, bytes, (int)b));
}

static long change_back(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];
        size_t bytes = area->n_pages / 2 * PAGE_BYTES;

        if (b == -1)
                return error_from(syscall(SYS_munlock, area->memory, bytes));
        return error_from(mprotect(area->memory, bytes, PROT_READ | PROT_WRITE));
}

/* Registered memory may be locked or protected at any time: before it is merged and after. */
static void changes_later(uid_t uid)
{
        for (int merged = 0; merged < 2; merged++)
                for (long what = -2; what < 0; what++) {
                        struct pair pair;

                        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
                        if (!merged) {
                                json_decref(service_call(&pair.service, "Pause", NULL));
                                for (long i = 0; i < 2; i++) {
                                        CHECK_OK(client_do(&pair.clients[i], program_unregister, 0, 0, 0));
                                        CHECK_OK(client_do(&pair.clients[i], program_unmap, 0, 0, 0));
                                        CHECK_OK(client_do(&pair.clients[i], program_map, 0, N_PAGES,
                                                           (long)identical));
                                        CHECK_OK(client_do(&pair.clients[i], program_register, 0, WP_MERGE,
                                                           0));
                                }
                        }
                        CHECK_OK(client_do(&pair.clients[0], change, 0, what, 0));
                        pair_verify(&pair);
                        if (!merged)
                                json_decref(service_call(&pair.service, "Resume", NULL));
                        for (int i = 0; i < 3; i++)
                                service_scan(&pair.service);
                        pair_verify(&pair);
                        CHECK_OK(client_do(&pair.clients[0], change_back, 0, what, 0));
                        for (long page = 0; page < N_PAGES; page += 5)
                                CHECK_OK(client_do(&pair.clients[page % 2], program_store, 0,
                                                   page * (long)PAGE_BYTES, 0));
                        service_scan(&pair.service);
                        pair_verify(&pair);
                        pair_end(&pair);
                }
}

/* ------------------------------------------------------------------ many threads */

#define N_THREADS 8
#define N_CYCLES  12

struct caller {
        struct program *program;
        unsigned number;
        pthread_t thread;
};

/* Each thread with areas of its own, all over one connection. */
static void *call_a_lot(void *argument)
{
        struct caller *caller = argument;
        struct program *program = caller->program;
        long a = caller->number;

        for (unsigned i = 0; i < N_CYCLES; i++) {
                CHECK_OK(program_map(program, a, N_PAGES / 4, (long)identical));
                CHECK_OK(program_register(program, a, WP_MERGE | WP_NOTIFY, 0));
                CHECK_OK(program_exclude(program, a, (long)i, 20));
                CHECK(program_stat(program, a, PROGRAM_STAT(pages), 0) == N_PAGES / 4,
                      "another region's figures");
                CHECK(program_stat(program, a, PROGRAM_STAT(pages_excluded), 0) == 20,
                      "another region's figures");
                program_store(program, a, (long)((i * 3 + 1) * PAGE_BYTES), 0);
                CHECK_OK(program_include(program, a, (long)i, 20));
                program_check_area(&program->areas[a], "registered");
                CHECK_OK(program_unregister(program, a, 0, 0));
                program_check_area(&program->areas[a], "unregistered");
                CHECK_OK(program_unmap(program, a, 0, 0));
        }
        return NULL;
}

static long call_from_threads(struct program *program, long a, long b, long c)
{
        struct caller callers[N_THREADS];

        for (unsigned i = 0; i < N_THREADS; i++) {
                callers[i] = (struct caller){.program = program, .number = i};
                CHECK_OK(-pthread_create(&callers[i].thread, NULL, call_a_lot, &callers[i]));
        }
        for (unsigned i = 0; i < N_THREADS; i++)
                CHECK_OK(-pthread_join(callers[i].thread, NULL));
        return 0;
}

static void many_threads(uid_t uid)
{
        struct service service;
        struct client clients[2];

        service_start(&service, NULL);
        for (long i = 0; i < 2; i++) {
                client_start(&clients[i], uid);
                CHECK_OK(client_do(&clients[i], program_connect, (long)service.client_path, 0, 0));
        }
        for (long i = 0; i < 2; i++)
                client_begin(&clients[i], call_from_threads, 0, 0, 0);
        for (long i = 0; i < 2; i++)
                CHECK_OK(client_finish(&clients[i]));
        CHECK(service_figure(&service, "regions") == 0, "%lld regions stay",
              (long long)service_figure(&service, "regions"));
        for (long i = 0; i < 2; i++) {
                CHECK_OK(client_do(&clients[i], program_disconnect, 0, 0, 0));
                client_stop(&clients[i]);
        }
        service_stop(&service);
}

/* Memory that is registered in many pieces, and merged across them. */
static long register_pieces(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];
        struct wp_region *region;

        for (size_t page = 0; page < area->n_pages; page += (size_t)b)
                CHECK_OK(wp_register(program->wp, area->memory + page * PAGE_BYTES, (size_t)b * PAGE_BYTES,
                                     WP_MERGE, &region));
        return 0;
}

static void many_regions(uid_t uid)
{
        struct service service;
        struct client clients[2];

        service_start(&service, NULL);
        for (long i = 0; i < 2; i++) {
                client_start(&clients[i], uid);
                CHECK_OK(client_do(&clients[i], program_map, 0, N_PAGES, (long)identical));
                CHECK_OK(client_do(&clients[i], program_connect, (long)service.client_path, 0, 0));
                CHECK_OK(client_do(&clients[i], register_pieces, 0, 2, 0));
        }
        service_settle(&service, "pages_sharing", N_PAGES);
        for (long i = 0; i < 2; i++) {
                client_do(&clients[i], program_verify, 0, 0, 0);
                CHECK_OK(client_do(&clients[i], program_disconnect, 1, 0, 0));
                client_do(&clients[i], program_verify, 0, 0, 0);
                client_stop(&clients[i]);
        }
        service_stop(&service);
}

static const struct harness_test tests[] = {
        HARNESS_BOTH(register_again),  HARNESS_USER(kept),
        HARNESS_BOTH(exclude_merged),  HARNESS_USER(exclude_early),
        HARNESS_USER(wrong_arguments), HARNESS_BOTH(unsuitable),
        HARNESS_USER(changes_later),   HARNESS_USER(many_threads),
        HARNESS_USER(many_regions),
};

HARNESS_MAIN(tests)
