/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Read-only mappings of files: merged with each other and with anonymous memory, and the file's again at any moment. */

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <linux/magic.h>
#include <unistd.h>

#include "system/program.h"
#include "system/service.h"

#define N_PAGES   1024
#define N_FILES   3
#define N_CLIENTS 3

/* How often a writer comes; more with the environment variable WPD_LEASE_ROUNDS. WPD_FILES_DIR says where the files are to be. */
#define LEASE_ROUNDS 10

/* What the clients, which are forked later, are to know. */
static char paths[N_FILES][160];

/* Of each file, by who writes it: versions of its content of which the writing has begun, and ended. */
static struct progress {
        atomic_uint begun;
        atomic_uint ended;
        atomic_bool over;
} * progress;

/* A page's content is a number all over, which says which version of which page it is. */
static uint64_t word(unsigned version, uint64_t page)
{
        return (uint64_t)version << 32 | (page + 1);
}

static void fill(void *page, uint64_t number)
{
        for (size_t i = 0; i < PAGE_BYTES / sizeof(number); i++)
                ((uint64_t *)page)[i] = number;
}

static void write_pages(int fd, unsigned version)
{
        uint64_t page[PAGE_BYTES / sizeof(uint64_t)];

        for (uint64_t i = 0; i < N_PAGES; i++) {
                fill(page, word(version, i));
                CHECK(pwrite(fd, page, PAGE_BYTES, (off_t)(i * PAGE_BYTES)) == (ssize_t)PAGE_BYTES, "%m");
        }
}

/* They belong to the user, to whom alone the kernel says what of them is in memory. */
static void make_files(uid_t uid)
{
        const char *wanted = getenv("WPD_FILES_DIR"), *directory = wanted ? wanted : harness_directory();
        struct statfs fs;

        CHECK(!statfs(directory, &fs), "%m");
        if (fs.f_type == TMPFS_MAGIC)
                harness_skip("%s is in a tmpfs, whose files are not merged", directory);
        progress = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        CHECK(progress != MAP_FAILED, "%m");
        for (unsigned i = 0; i < N_FILES; i++) {
                int fd;

                snprintf(paths[i], sizeof(paths[i]), "%s/file-%d-%u", directory, getpid(), i);
                fd = open(paths[i], O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
                CHECK(fd >= 0, "%s: %m", paths[i]);
                write_pages(fd, 0);
                CHECK(!fchown(fd, uid, uid) && !fsync(fd) && !close(fd), "%m");
        }
}

/* ------------------------------------------------------------------ the clients' side */

/* a: area, b: file, c: MAP_PRIVATE or MAP_SHARED. Maps all of it, read-only, and reads it. */
static long map_file(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];
        int fd = open(paths[b], O_RDONLY | O_CLOEXEC);
        size_t bytes = N_PAGES * PAGE_BYTES;

        CHECK(fd >= 0, "%s: %m", paths[b]);
        *area = (struct area){.n_pages = N_PAGES};
        area->memory = mmap(NULL, bytes, PROT_READ, (int)c, fd, 0);
        area->shadow = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(area->memory != MAP_FAILED && area->shadow != MAP_FAILED, "%m");
        close(fd);
        memcpy(area->shadow, area->memory, bytes);
        return 0;
}

/* The same content in anonymous memory. */
static long map_anonymous(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];
        size_t bytes = N_PAGES * PAGE_BYTES;

        *area = (struct area){.n_pages = N_PAGES};
        area->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        area->shadow = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(area->memory != MAP_FAILED && area->shadow != MAP_FAILED, "%m");
        for (uint64_t page = 0; page < N_PAGES; page++)
                fill(area->memory + page * PAGE_BYTES, word(0, page));
        memcpy(area->shadow, area->memory, bytes);
        return 0;
}

/* a: area, b: file. Of how many bytes of the area /proc/self/maps says that they are that file. */
static long count_file_bytes(struct program *program, long a, long b, long c)
{
        const struct area *area = &program->areas[a];
        uintptr_t start = (uintptr_t)area->memory, end = start + area->n_pages * PAGE_BYTES;
        FILE *maps = fopen("/proc/self/maps", "re");
        unsigned long from, to;
        char line[512];
        long bytes = 0;

        CHECK(maps, "%m");
        while (fgets(line, sizeof(line), maps))
                if (sscanf(line, "%lx-%lx ", &from, &to) == 2 && from < end && to > start &&
                    strstr(line, paths[b]))
                        bytes += (long)(MIN(to, end) - MAX(from, start));
        fclose(maps);
        return bytes;
}

/* a: area. How many of its pages are in memory, whoever has them. */
static long count_cached(struct program *program, long a, long b, long c)
{
        static unsigned char resident[N_PAGES];
        long n = 0;

        CHECK(!mincore(program->areas[a].memory, N_PAGES * PAGE_BYTES, resident), "%m");
        for (size_t i = 0; i < N_PAGES; i++)
                n += resident[i] & 1;
        return n;
}

/* a: area, b: first page, c: pages. Makes them writable, and changes each. */
static long scribble(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];

        if (mprotect(area->memory + b * (long)PAGE_BYTES, (size_t)c * PAGE_BYTES, PROT_READ | PROT_WRITE) < 0)
                return -errno;
        for (long page = b; page < b + c; page++)
                area->memory[page * (long)PAGE_BYTES + 5] =
                        program_next_byte(area, (size_t)page * PAGE_BYTES + 5);
        return 0;
}

/* a: area, b: file. Reads it until it is over: what is read was in the file at that time, and stays so until it is written. */
static long watch_content(struct program *program, long a, long b, long c)
{
        const uint64_t *words = (const uint64_t *)program->areas[a].memory;
        long n = 0;

        while (!atomic_load(&progress[b].over))
                for (uint64_t page = 0; page < N_PAGES; page++) {
                        unsigned oldest = atomic_load(&progress[b].ended);

                        for (size_t i = 0; i < PAGE_BYTES / sizeof(*words); i++) {
                                uint64_t seen =
                                        ((const volatile uint64_t *)words)[page * (PAGE_BYTES / 8) + i];
                                unsigned version = (unsigned)(seen >> 32);

                                CHECK((uint32_t)seen == page + 1 && version >= oldest &&
                                              version <= atomic_load(&progress[b].begun),
                                      "page %llu has %#llx after version %u", (unsigned long long)page,
                                      (unsigned long long)seen, oldest);
                        }
                        n++;
                }
        return n;
}

/* ------------------------------------------------------------------ the test's side */

struct scene {
        struct service service;
        struct client clients[N_CLIENTS];
        long n_clients;
};

static struct client *add(struct scene *scene, uid_t uid, program_function map, long file, int kind)
{
        struct client *client = &scene->clients[scene->n_clients];

        client_start(client, uid);
        client_name(client, scene->n_clients++);
        CHECK_OK(client_do(client, map, 0, file, kind));
        CHECK_OK(client_do(client, program_connect, (long)scene->service.client_path, 0, 0));
        CHECK_OK(client_do(client, program_register, 0, WP_MERGE, 0));
        return client;
}

static void begin(struct scene *scene, uid_t uid)
{
        make_files(uid);
        *scene = (struct scene){.n_clients = 0};
        service_start(&scene->service, NULL);
}

static void verify(const struct scene *scene)
{
        for (long i = 0; i < scene->n_clients; i++)
                client_do(&scene->clients[i], program_verify, 0, 0, 0);
}

static void check_shared(const struct scene *scene, int64_t shared, int64_t sharing)
{
        service_settle(&scene->service, "pages_sharing", sharing);
        CHECK(service_figure(&scene->service, "pages_shared") == shared, "%lld pages are shared",
              (long long)service_figure(&scene->service, "pages_shared"));
        verify(scene);
}

/* What status says of files: how many, and how many of their pages equal ones stand for. */
static void check_files(const struct scene *scene, int64_t files, int64_t pages)
{
        int64_t seen = service_figure(&scene->service, "file_pages");

        CHECK(service_figure(&scene->service, "files") == files &&
                      service_figure(&scene->service, "files_leased") == files,
              "%lld files, %lld of them leased", (long long)service_figure(&scene->service, "files"),
              (long long)service_figure(&scene->service, "files_leased"));
        CHECK(seen == pages, "%lld pages of files are replaced", (long long)seen);
}

static long file_pages(const struct client *client, long file)
{
        return client_do(client, count_file_bytes, 0, file, 0) / (long)PAGE_BYTES;
}

static void end(struct scene *scene)
{
        for (long i = 0; i < scene->n_clients; i++) {
                const struct client *client = &scene->clients[i];

                CHECK_OK(client_do(client, program_unregister, 0, 0, 0));
                client_do(client, program_verify, 0, 0, 0);
                CHECK_OK(client_do(client, program_unmap, 0, 0, 0));
                CHECK_OK(client_do(client, program_disconnect, 0, 0, 0));
                client_stop(&scene->clients[i]);
        }
        service_stop(&scene->service);
}

/* Different files with the same content: the pages of one of them are left. */
static void files_in(uid_t uid, int kind)
{
        struct scene scene;
        int other;

        begin(&scene, uid);
        for (long i = 0; i < 2; i++)
                add(&scene, uid, map_file, i, kind);
        check_shared(&scene, N_PAGES, N_PAGES);
        check_files(&scene, 2, N_PAGES);
        CHECK(file_pages(&scene.clients[0], 0) + file_pages(&scene.clients[1], 0) +
                              file_pages(&scene.clients[0], 1) + file_pages(&scene.clients[1], 1) ==
                      2 * N_PAGES,
              "not everything maps one of the files");
        other = file_pages(&scene.clients[0], 0) == N_PAGES;
        CHECK(file_pages(&scene.clients[other], other) == 0, "%ld pages still map their own file",
              file_pages(&scene.clients[other], other));
        CHECK_OK(client_do(&scene.clients[other], program_unregister, 0, 0, 0));
        CHECK(file_pages(&scene.clients[other], other) == N_PAGES, "only %ld pages map the file again",
              file_pages(&scene.clients[other], other));
        CHECK_SOON(client_do(&scene.clients[other], count_cached, 0, 0, 0) < N_PAGES / 8,
                   "%ld pages of the file are in memory",
                   client_do(&scene.clients[other], count_cached, 0, 0, 0));
        verify(&scene);
        CHECK_OK(client_do(&scene.clients[other], program_register, 0, WP_MERGE, 0));
        check_shared(&scene, N_PAGES, N_PAGES);
        /* The one whose pages are shared may go first. */
        CHECK_OK(client_do(&scene.clients[!other], program_unregister, 0, 0, 0));
        verify(&scene);
        CHECK_OK(client_do(&scene.clients[!other], program_register, 0, WP_MERGE, 0));
        end(&scene);
}

static void private_files(uid_t uid)
{
        files_in(uid, MAP_PRIVATE);
}

static void shared_files(uid_t uid)
{
        files_in(uid, MAP_SHARED);
}

/* A file and anonymous memory. */
static void across_kinds(uid_t uid)
{
        struct scene scene;

        begin(&scene, uid);
        add(&scene, uid, map_anonymous, 0, 0);
        add(&scene, uid, map_file, 0, MAP_PRIVATE);
        check_shared(&scene, N_PAGES, N_PAGES);
        check_files(&scene, 1, N_PAGES);
        add(&scene, uid, map_file, 1, MAP_SHARED);
        check_shared(&scene, N_PAGES, 2 * N_PAGES);
        check_files(&scene, 2, 2 * N_PAGES);
        end(&scene);
}

/* Who maps the same file shares its pages already; with the first twin from elsewhere all of them come to share with it. */
static void same_file(uid_t uid)
{
        struct scene scene;

        begin(&scene, uid);
        add(&scene, uid, map_file, 0, MAP_PRIVATE);
        add(&scene, uid, map_file, 0, MAP_SHARED);
        service_scan(&scene.service);
        check_shared(&scene, 0, 0);
        add(&scene, uid, map_anonymous, 0, 0);
        check_shared(&scene, N_PAGES, N_PAGES);
        for (long i = 0; i < 2; i++)
                CHECK(!file_pages(&scene.clients[i], 0), "%ld pages still map the file",
                      file_pages(&scene.clients[i], 0));
        end(&scene);
}

/* What the program makes writable and writes is its own, and stays so. */
static void written(uid_t uid)
{
        struct scene scene;

        begin(&scene, uid);
        for (long i = 0; i < 2; i++)
                add(&scene, uid, map_file, i, MAP_PRIVATE);
        check_shared(&scene, N_PAGES, N_PAGES);
        for (long i = 0; i < 2; i++)
                CHECK_OK(client_do(&scene.clients[i], scribble, 0, 100 * (i + 1), 50));
        verify(&scene);
        for (long i = 0; i < 2; i++) {
                CHECK_OK(client_do(&scene.clients[i], program_unregister, 0, 0, 0));
                client_do(&scene.clients[i], program_verify, 0, 0, 0);
                CHECK(file_pages(&scene.clients[i], i) == N_PAGES, "only %ld pages map the file again",
                      file_pages(&scene.clients[i], i));
                /* It still is writable where it was made so, and nowhere else. */
                CHECK_OK(client_do(&scene.clients[i], scribble, 0, 100 * (i + 1), 50));
                client_do(&scene.clients[i], program_verify, 0, 0, 0);
        }
        for (long i = 0; i < 2; i++) {
                CHECK_OK(client_do(&scene.clients[i], program_unmap, 0, 0, 0));
                CHECK_OK(client_do(&scene.clients[i], program_disconnect, 0, 0, 0));
                client_stop(&scene.clients[i]);
        }
        service_stop(&scene.service);
}

/* A shared mapping of a file that is open for reading cannot be made writable, merged or not. */
static void unwritable(uid_t uid)
{
        struct scene scene;

        begin(&scene, uid);
        for (long i = 0; i < 2; i++)
                add(&scene, uid, map_file, i, MAP_SHARED);
        check_shared(&scene, N_PAGES, N_PAGES);
        CHECK_ERROR(client_do(&scene.clients[0], scribble, 0, 7, 1), EACCES);
        end(&scene);
}

/* a: area, b: file, c: further protection. Maps all of it, private, and reads it. */
static long map_file_so(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];

        CHECK_OK(map_file(program, a, b, MAP_PRIVATE));
        CHECK(!mprotect(area->memory, N_PAGES * PAGE_BYTES, PROT_READ | (int)c), "%m");
        return 0;
}

/* a: area. How many pages were merged. */
static long merge_now(struct program *program, long a, long b, long c)
{
        struct wp_merge_stat stat;
        int r = wp_merge(program->areas[a].region, 0, N_PAGES * PAGE_BYTES, &stat);

        return r < 0 ? r : (long)stat.pages_merged;
}

/* What is writable is merged when its owner says so, and otherwise left alone. */
static void on_request(uid_t uid)
{
        struct scene scene;

        begin(&scene, uid);
        for (long i = 0; i < 2; i++)
                add(&scene, uid, map_file_so, i, PROT_WRITE);
        service_scan(&scene.service);
        check_shared(&scene, 0, 0);
        CHECK(client_do(&scene.clients[0], merge_now, 0, 0, 0) == 0, "merged with nobody");
        CHECK(client_do(&scene.clients[1], merge_now, 0, 0, 0) == N_PAGES, "not merged");
        CHECK(client_do(&scene.clients[0], merge_now, 0, 0, 0) == N_PAGES, "not merged");
        check_shared(&scene, N_PAGES, N_PAGES);
        for (long i = 0; i < 2; i++)
                CHECK_OK(client_do(&scene.clients[i], scribble, 0, 100 * (i + 1), 50));
        verify(&scene);
        add(&scene, uid, map_file, 2, MAP_PRIVATE);
        check_shared(&scene, N_PAGES, 2 * N_PAGES);
        end(&scene);
}

/* Executable mappings, where that is wanted: never by the pool, from which nothing can be executed. */
static long register_executable(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];

        return wp_register(program->wp, area->memory, N_PAGES * PAGE_BYTES, WP_MERGE | WP_EXEC,
                           &area->region);
}

static void executables(uid_t uid)
{
        struct scene scene;

        begin(&scene, uid);
        for (long i = 0; i < 2; i++) {
                client_start(&scene.clients[i], uid);
                client_name(&scene.clients[i], scene.n_clients++);
                CHECK_OK(client_do(&scene.clients[i], map_file_so, 0, i, PROT_EXEC));
                CHECK_OK(
                        client_do(&scene.clients[i], program_connect, (long)scene.service.client_path, 0, 0));
                CHECK_OK(client_do(&scene.clients[i], register_executable, 0, 0, 0));
        }
        check_shared(&scene, N_PAGES, N_PAGES);
        CHECK(file_pages(&scene.clients[0], 0) == N_PAGES || file_pages(&scene.clients[1], 1) == N_PAGES,
              "neither maps its own file");
        add(&scene, uid, map_anonymous, 0, 0);
        service_scan(&scene.service);
        verify(&scene);
        end(&scene);
}

/* Children have the file's own mappings, and their parents' copies. */
static void children(uid_t uid)
{
        struct scene scene;
        struct client child;

        begin(&scene, uid);
        add(&scene, uid, map_file, 0, MAP_PRIVATE);
        add(&scene, uid, map_file, 1, MAP_PRIVATE);
        add(&scene, uid, map_anonymous, 0, 0);
        check_shared(&scene, 2 * N_PAGES, N_PAGES);
        for (long i = 0; i < 2; i++) {
                CHECK_OK(client_do(&scene.clients[i], scribble, 0, 10, 20));
                client_fork(&scene.clients[i], &child);
                CHECK(file_pages(&child, i) == N_PAGES, "only %ld pages of the child map the file",
                      file_pages(&child, i));
                client_do(&child, program_verify, 0, 0, 0);
                CHECK_OK(client_do(&child, scribble, 0, 25, 20));
                client_do(&child, program_verify, 0, 0, 0);
                client_do(&scene.clients[i], program_verify, 0, 0, 0);
                client_stop_child(&scene.clients[i], &child);
        }
        verify(&scene);
        end(&scene);
}

static void write_version(const char *path, long file, unsigned version)
{
        int fd;

        atomic_store(&progress[file].begun, version);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        CHECK(fd >= 0, "%s: %m", path);
        write_pages(fd, version);
        CHECK(!close(fd), "%m");
        atomic_store(&progress[file].ended, version);
}

/* Somebody writes a file that is merged, again and again, while others read it. */
static void writer(uid_t uid)
{
        const char *wanted = getenv("WPD_LEASE_ROUNDS");
        unsigned rounds = wanted ? (unsigned)atoi(wanted) : LEASE_ROUNDS, n_merged = 0;
        struct scene scene;

        alarm(120 + 2 * rounds);
        begin(&scene, uid);
        add(&scene, uid, map_file, 0, MAP_PRIVATE);
        add(&scene, uid, map_file, 0, MAP_SHARED);
        add(&scene, uid, map_file, 1, MAP_PRIVATE);
        check_shared(&scene, N_PAGES, N_PAGES);
        for (long i = 0; i < N_CLIENTS; i++)
                client_begin(&scene.clients[i], watch_content, 0, i / 2, 0);
        for (unsigned version = 1; version <= rounds; version++) {
                struct harness_patience patience = HARNESS_PATIENCE_INIT;

                /* Merged with the other file, which has this version, too. */
                while (service_figure(&scene.service, "pages_sharing") < N_PAGES / 2 &&
                       harness_wait(&patience))
                        ;
                n_merged += service_figure(&scene.service, "pages_sharing") >= N_PAGES / 2;
                for (long file = 0; file < 2; file++)
                        write_version(paths[file], file, version);
        }
        atomic_store(&progress[0].over, true);
        atomic_store(&progress[1].over, true);
        for (long i = 0; i < N_CLIENTS; i++)
                CHECK(client_finish(&scene.clients[i]) > 0, "nothing was read");
        CHECK(n_merged == rounds, "it was merged in %u of %u rounds", n_merged, rounds);
        CHECK(service_figure(&scene.service, "lease_breaks") >= rounds, "%lld leases ended in %u rounds",
              (long long)service_figure(&scene.service, "lease_breaks"), rounds);
        for (long i = 0; i < N_CLIENTS; i++) {
                CHECK_OK(client_do(&scene.clients[i], program_unregister, 0, 0, 0));
                CHECK(file_pages(&scene.clients[i], i / 2) == N_PAGES, "only %ld pages map the file",
                      file_pages(&scene.clients[i], i / 2));
                CHECK_OK(client_do(&scene.clients[i], program_unmap, 0, 0, 0));
                CHECK_OK(client_do(&scene.clients[i], program_disconnect, 0, 0, 0));
                client_stop(&scene.clients[i]);
        }
        service_stop(&scene.service);
}

/* Without a daemon nobody keeps the file as it is: everything goes back to it; with a new one it is merged again. */
static void daemon_gone(uid_t uid)
{
        static const int signals[] = {SIGKILL, SIGTERM};
        struct scene scene;

        begin(&scene, uid);
        for (long i = 0; i < 2; i++)
                add(&scene, uid, map_file, i, i ? MAP_SHARED : MAP_PRIVATE);
        for (size_t k = 0; k < ARRAY_SIZE(signals); k++) {
                check_shared(&scene, N_PAGES, N_PAGES);
                service_end(&scene.service, signals[k]);
                for (long i = 0; i < 2; i++)
                        CHECK_SOON(file_pages(&scene.clients[i], i) == N_PAGES, "only %ld pages map the file",
                                   file_pages(&scene.clients[i], i));
                verify(&scene);
                service_restart(&scene.service);
                CHECK_SOON(service_figure(&scene.service, "regions") == 2, "%lld regions",
                           (long long)service_figure(&scene.service, "regions"));
        }
        check_shared(&scene, N_PAGES, N_PAGES);
        end(&scene);
}

/* ------------------------------------------------------------------ what does not take part */

static const struct refusal {
        const char *name;
        int open_flags;
        int protection;
        int kind;
        uint64_t flags;
        bool held_open;
        const char *words;
} refusals[] = {
        {"shared, writable", O_RDWR, PROT_READ | PROT_WRITE, MAP_SHARED, WP_MERGE, false, "shared mapping"},
        {"writable and executable", O_RDONLY, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE,
         WP_MERGE | WP_EXEC, false, "executable"},
        {"executable", O_RDONLY, PROT_READ | PROT_EXEC, MAP_PRIVATE, WP_MERGE, false, "WP_EXEC"},
        {"no access", O_RDONLY, PROT_NONE, MAP_PRIVATE, WP_MERGE, false, "readable and writable"},
        {"shared, of a file that is open for writing", O_RDWR, PROT_READ, MAP_SHARED, WP_MERGE, false,
         "open for writing"},
        {"of a file that somebody writes", O_RDONLY, PROT_READ, MAP_PRIVATE, WP_MERGE, true,
         "open for writing"},
        {"with events", O_RDONLY, PROT_READ, MAP_PRIVATE, WP_MERGE | WP_NOTIFY, false, "cannot be noticed"},
        {"lazy", O_RDONLY, PROT_READ, MAP_PRIVATE, WP_MERGE | WP_LAZY, false, "cannot be noticed"},
};

/* a: index into refusals */
static long try_refused(struct program *program, long a, long b, long c)
{
        const struct refusal *refusal = &refusals[a];
        int fd = open(paths[0], refusal->open_flags | O_CLOEXEC);
        size_t bytes = N_PAGES * PAGE_BYTES;
        struct wp_region *region;
        void *memory;
        int r;

        CHECK(fd >= 0, "%s: %m", paths[0]);
        memory = mmap(NULL, bytes, refusal->protection, refusal->kind, fd, 0);
        CHECK(memory != MAP_FAILED, "%m");
        close(fd);
        r = wp_register(program->wp, memory, bytes, refusal->flags, &region);
        CHECK(r == -EOPNOTSUPP, "%s: %s", refusal->name, r < 0 ? strerror(-r) : "it was registered");
        CHECK(strstr(wp_strerror_detail(program->wp), refusal->words), "%s: the detail is: %s", refusal->name,
              wp_strerror_detail(program->wp));
        munmap(memory, bytes);
        return 0;
}

static long try_memfd(struct program *program, long a, long b, long c)
{
        int fd = memfd_create("test", MFD_CLOEXEC);
        struct wp_region *region;
        void *memory;

        CHECK(fd >= 0 && !ftruncate(fd, N_PAGES * PAGE_BYTES), "%m");
        memory = mmap(NULL, N_PAGES * PAGE_BYTES, PROT_READ, MAP_PRIVATE, fd, 0);
        close(fd);
        CHECK_ERROR(wp_register(program->wp, memory, N_PAGES * PAGE_BYTES, WP_MERGE, &region), EOPNOTSUPP);
        munmap(memory, N_PAGES * PAGE_BYTES);
        return 0;
}

static void refused(uid_t uid)
{
        struct service service;
        struct client client;

        make_files(uid);
        service_start(&service, NULL);
        client_start(&client, uid);
        CHECK_OK(client_do(&client, program_connect, (long)service.client_path, 0, 0));
        for (long i = 0; i < (long)ARRAY_SIZE(refusals); i++) {
                int fd = refusals[i].held_open ? open(paths[0], O_WRONLY | O_CLOEXEC) : -1;

                client_do(&client, try_refused, i, 0, 0);
                if (fd >= 0)
                        close(fd);
        }
        client_do(&client, try_memfd, 0, 0, 0);
        CHECK_OK(client_do(&client, program_disconnect, 0, 0, 0));
        client_stop(&client);
        service_stop(&service);
}

static const struct harness_test tests[] = {
        HARNESS_BOTH(private_files), HARNESS_BOTH(shared_files), HARNESS_BOTH(across_kinds),
        HARNESS_USER(same_file),     HARNESS_BOTH(written),      HARNESS_USER(unwritable),
        HARNESS_BOTH(on_request),    HARNESS_USER(executables),  HARNESS_BOTH(children),
        HARNESS_BOTH(writer),        HARNESS_USER(daemon_gone),  HARNESS_ROOT(refused),
};

HARNESS_MAIN(tests)
