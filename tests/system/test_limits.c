/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Limits: who exceeds one is told so, and nobody else notices. */

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "system/pair.h"

#define N_PAGES 256

static uint64_t identical(long program, uint64_t page)
{
        return page + 1;
}

/* a: the words that the detail contains. */
static long check_detail(struct program *program, long a, long b, long c)
{
        CHECK(strstr(wp_strerror_detail(program->wp), (const char *)a), "the detail is: %s",
              wp_strerror_detail(program->wp));
        return 0;
}

static void start(struct client *client, const struct service *service, uid_t uid)
{
        client_start(client, uid);
        CHECK_OK(client_do(client, program_connect, (long)service->client_path, 0, 0));
}

static void stop(struct client *client)
{
        CHECK_OK(client_do(client, program_disconnect, 0, 0, 0));
        client_stop(client);
}

static void map_areas(const struct client *client, long n)
{
        for (long i = 0; i < n; i++)
                CHECK_OK(client_do(client, program_map, i, N_PAGES, (long)identical));
}

static void regions_per_client(uid_t uid)
{
        struct client client, other;
        struct service service;

        service_start(&service, NULL);
        service_set(&service, "max_regions_per_client", "3");
        start(&client, &service, uid);
        map_areas(&client, 5);
        for (long i = 0; i < 3; i++)
                CHECK_OK(client_do(&client, program_register, i, 0, 0));
        CHECK_ERROR(client_do(&client, program_register, 3, 0, 0), EDQUOT);
        client_do(&client, check_detail, (long)"max_regions_per_client", 0, 0);
        CHECK(service_doctor_says(&service, client.pid, "max_regions_per_client"), "doctor does not say why");
        /* It is the client's limit, not the user's. */
        start(&other, &service, uid);
        map_areas(&other, 1);
        CHECK_OK(client_do(&other, program_register, 0, 0, 0));
        /* A region that ends makes room for another one; and the limit can be changed. */
        CHECK_OK(client_do(&client, program_unregister, 1, 0, 0));
        CHECK_OK(client_do(&client, program_register, 3, 0, 0));
        CHECK_ERROR(client_do(&client, program_register, 4, 0, 0), EDQUOT);
        service_set(&service, "max_regions_per_client", "4");
        CHECK_OK(client_do(&client, program_register, 4, 0, 0));
        stop(&other);
        stop(&client);
        service_stop(&service);
}

/* ------------------------------------------------------------------ many at once */

#define N_THREADS 16

static struct program *racer;
static atomic_int n_registered;

static void *register_one(void *argument)
{
        void *memory = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        struct wp_region *region;
        int r;

        CHECK(memory != MAP_FAILED, "%m");
        r = wp_register(racer->wp, memory, PAGE_BYTES, 0, &region);
        CHECK(r == 0 || r == -EDQUOT, "%s", strerror(-r));
        if (r == 0)
                atomic_fetch_add(&n_registered, 1);
        return NULL;
}

static long register_at_once(struct program *program, long a, long b, long c)
{
        pthread_t threads[N_THREADS];

        racer = program;
        for (int i = 0; i < N_THREADS; i++)
                CHECK_OK(-pthread_create(&threads[i], NULL, register_one, NULL));
        for (int i = 0; i < N_THREADS; i++)
                CHECK_OK(-pthread_join(threads[i], NULL));
        return atomic_load(&n_registered);
}

/* Requests that are not answered yet count as well. */
static void regions_at_once(uid_t uid)
{
        struct service service;
        struct client client;
        long n;

        service_start(&service, NULL);
        service_set(&service, "max_regions_per_client", "5");
        start(&client, &service, uid);
        n = client_do(&client, register_at_once, 0, 0, 0);
        CHECK(n == 5, "%ld regions were registered", n);
        stop(&client);
        service_stop(&service);
}

/* ------------------------------------------------------------------ users */

static void bytes_per_uid(uid_t uid)
{
        struct client clients[2], root;
        struct service service;

        service_start(&service, NULL);
        service_set(&service, "max_bytes_per_uid", "2M");
        for (int i = 0; i < 2; i++) {
                start(&clients[i], &service, uid);
                map_areas(&clients[i], 3);
        }
        CHECK_OK(client_do(&clients[0], program_register, 0, 0, 0));
        CHECK_OK(client_do(&clients[1], program_register, 0, 0, 0));
        for (int i = 0; i < 2; i++) {
                CHECK_ERROR(client_do(&clients[i], program_register, 1, 0, 0), EDQUOT);
                client_do(&clients[i], check_detail, (long)"max_bytes_per_uid", 0, 0);
                CHECK(service_doctor_says(&service, clients[i].pid, "max_bytes_per_uid"),
                      "doctor does not say why");
        }
        /* Root is exempt. */
        start(&root, &service, 0);
        map_areas(&root, 3);
        for (long i = 0; i < 3; i++)
                CHECK_OK(client_do(&root, program_register, i, 0, 0));
        /* What one gives back, the other may take; what is refused for another reason is not charged. */
        CHECK_ERROR(client_do(&clients[0], program_register, 0, 0, 0), EINVAL);
        CHECK_OK(client_do(&clients[0], program_unregister, 0, 0, 0));
        CHECK_OK(client_do(&clients[1], program_register, 1, 0, 0));
        CHECK_ERROR(client_do(&clients[0], program_register, 0, 0, 0), EDQUOT);
        /* So is what belonged to a client that is gone. */
        client_kill(&clients[1]);
        CHECK_SOON(service_figure(&service, "clients") == 2, "a client stays");
        CHECK_OK(client_do(&clients[0], program_register, 0, 0, 0));
        CHECK_OK(client_do(&clients[0], program_register, 1, 0, 0));
        CHECK_ERROR(client_do(&clients[0], program_register, 2, 0, 0), EDQUOT);
        service_set(&service, "max_bytes_per_uid", "3M");
        CHECK_OK(client_do(&clients[0], program_register, 2, 0, 0));
        stop(&clients[0]);
        stop(&root);
        service_stop(&service);
}

static void clients_per_uid(uid_t uid)
{
        struct client clients[2], third, root[3];
        struct service service;

        service_start(&service, "[limits]\nmax_clients_per_uid = 2\n");
        for (int i = 0; i < 2; i++)
                start(&clients[i], &service, uid);
        client_start(&third, uid);
        CHECK_ERROR(client_do(&third, program_connect, (long)service.client_path, 0, 0), EDQUOT);
        client_do(&third, check_detail, (long)"max_clients_per_uid", 0, 0);
        CHECK(service_doctor_says(&service, third.pid, "max_clients_per_uid"), "doctor does not say why");
        for (int i = 0; i < 3; i++)
                start(&root[i], &service, 0);
        stop(&clients[0]);
        CHECK_SOON(service_figure(&service, "clients") == 4, "a client stays");
        CHECK_OK(client_do(&third, program_connect, (long)service.client_path, 0, 0));
        stop(&third);
        stop(&clients[1]);
        for (int i = 0; i < 3; i++)
                stop(&root[i]);
        service_stop(&service);
}

static void clients_at_all(uid_t uid)
{
        struct client clients[3];
        struct service service;

        service_start(&service, "[limits]\nmax_clients = 2\n");
        start(&clients[0], &service, uid);
        start(&clients[1], &service, 0);
        for (int i = 0; i < 2; i++) {
                client_start(&clients[2], i ? uid : 0);
                CHECK_ERROR(client_do(&clients[2], program_connect, (long)service.client_path, 0, 0), EDQUOT);
                client_do(&clients[2], check_detail, (long)"max_clients", 0, 0);
                client_stop(&clients[2]);
        }
        stop(&clients[0]);
        stop(&clients[1]);
        service_stop(&service);
}

/* Runs of 16 pages, in turn identical and unique. */
static uint64_t short_runs(long program, uint64_t page)
{
        return page / 16 % 2 ? (uint64_t)(program + 1) << 32 | page : page + 1;
}

/* With the pool full, nothing that is merged is lost, and content that has a canonical page is still merged. */
static void pool_max_bytes(uid_t uid)
{
        struct client clients[3];
        struct service service;
        int64_t shared;

        service_start(&service, "[merge]\npool_max_bytes = 256K\n");
        for (int i = 0; i < 2; i++) {
                start(&clients[i], &service, uid);
                client_name(&clients[i], i);
                CHECK_OK(client_do(&clients[i], program_map, 0, N_PAGES, (long)short_runs));
                CHECK_OK(client_do(&clients[i], program_register, 0, WP_MERGE, 0));
        }
        for (int i = 0; i < 10; i++)
                service_scan(&service);
        shared = service_figure(&service, "pages_shared");
        CHECK(shared > 0 && shared <= (256 << 10) / (int64_t)PAGE_BYTES, "%lld canonical pages",
              (long long)shared);
        start(&clients[2], &service, uid);
        client_name(&clients[2], 2);
        CHECK_OK(client_do(&clients[2], program_map, 0, N_PAGES, (long)short_runs));
        CHECK_OK(client_do(&clients[2], program_register, 0, WP_MERGE, 0));
        service_settle(&service, "pages_sharing", 2 * shared);
        for (int i = 0; i < 3; i++)
                client_do(&clients[i], program_verify, 0, 0, 0);
        CHECK(service_doctor_says(&service, 0, "pool_max_bytes"), "doctor does not say why");
        service_set(&service, "pool_max_bytes", "0");
        service_settle(&service, "pages_sharing", N_PAGES);
        for (int i = 0; i < 3; i++) {
                client_do(&clients[i], program_verify, 0, 0, 0);
                CHECK_OK(client_do(&clients[i], program_unregister, 0, 0, 0));
                client_do(&clients[i], program_verify, 0, 0, 0);
                CHECK_OK(client_do(&clients[i], program_unmap, 0, 0, 0));
                stop(&clients[i]);
        }
        service_stop(&service);
}

/* ------------------------------------------------------------------ the program's own limits */

static rlim_t address_space_used(void)
{
        unsigned long pages = 0;
        FILE *file = fopen("/proc/self/statm", "re");

        CHECK(file && fscanf(file, "%lu", &pages) == 1, "%m");
        fclose(file);
        return (rlim_t)pages * PAGE_BYTES;
}

/* No memory to make anything private: the region stays as it is, and is right; then there is memory again. */
static long unregister_without_memory(struct program *program, long a, long b, long c)
{
        struct rlimit before, none;

        CHECK_OK(error_from(getrlimit(RLIMIT_AS, &before)));
        none = before;
        none.rlim_cur = address_space_used();
        CHECK_OK(error_from(setrlimit(RLIMIT_AS, &none)));
        CHECK_ERROR(wp_unregister(program->areas[a].region), ENOMEM);
        CHECK_ERROR(wp_exclude(program->areas[a].region, 0, PAGE_BYTES), ENOMEM);
        CHECK_OK(error_from(setrlimit(RLIMIT_AS, &before)));
        program_check_area(&program->areas[a], "without memory");
        return 0;
}

static void memory(uid_t uid)
{
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        client_do(&pair.clients[0], unregister_without_memory, 0, 0, 0);
        CHECK(client_do(&pair.clients[0], program_stat, 0, PROGRAM_STAT(pages_merged), 0) == N_PAGES,
              "%ld pages are merged still",
              client_do(&pair.clients[0], program_stat, 0, PROGRAM_STAT(pages_merged), 0));
        pair_verify(&pair);
        pair_end(&pair);
}

/* ------------------------------------------------------------------ no descriptor for a child's context */

#define MANY_FDS    256
#define CONTEXT     "anon_inode:[userfaultfd]"
#define TARGET_SIZE 64

/* What a descriptor in the table of a thread is; false when there is none of that number. */
static bool read_descriptor(pid_t pid, pid_t tid, unsigned fd, char target[TARGET_SIZE])
{
        char path[64];
        ssize_t length;

        snprintf(path, sizeof(path), "/proc/%d/task/%d/fd/%u", pid, tid, fd);
        length = readlink(path, target, TARGET_SIZE - 1);
        target[MAX(length, 0)] = '\0';
        return length >= 0;
}

static unsigned count_contexts(pid_t pid, pid_t tid)
{
        char target[TARGET_SIZE];
        unsigned n = 0;

        for (unsigned fd = 0; fd < MANY_FDS; fd++)
                n += read_descriptor(pid, tid, fd, target) && !strcmp(target, CONTEXT);
        return n;
}

static unsigned lowest_free(pid_t pid, pid_t tid)
{
        char target[TARGET_SIZE];
        unsigned fd = 0;

        while (read_descriptor(pid, tid, fd, target))
                fd++;
        return fd;
}

/* The thread of the client that has another table than the program: what is standard input there is not in it. */
static pid_t find_watcher(pid_t pid)
{
        char path[64], input[TARGET_SIZE], target[TARGET_SIZE];
        pid_t found = 0;
        DIR *threads;

        snprintf(path, sizeof(path), "/proc/%d/task", pid);
        threads = opendir(path);
        CHECK(threads && read_descriptor(pid, pid, STDIN_FILENO, input), "%m");
        for (const struct dirent *entry; (entry = readdir(threads));) {
                pid_t tid = (pid_t)atoi(entry->d_name);

                if (tid > 0 && read_descriptor(pid, tid, STDIN_FILENO, target) && strcmp(target, input))
                        found = tid;
        }
        closedir(threads);
        CHECK(found, "no thread has descriptors of its own");
        return found;
}

static struct rlimit limit_of_forks, limit_otherwise;

static void lower_limit(void)
{
        CHECK_OK(error_from(getrlimit(RLIMIT_NOFILE, &limit_otherwise)));
        limit_of_forks.rlim_max = limit_otherwise.rlim_max;
        CHECK_OK(error_from(setrlimit(RLIMIT_NOFILE, &limit_of_forks)));
}

static void restore_limit(void)
{
        CHECK_OK(error_from(setrlimit(RLIMIT_NOFILE, &limit_otherwise)));
}

/* From now on there is no descriptor from `a` on while the process forks, in any of its tables. */
static long limit_forks(struct program *program, long a, long b, long c)
{
        limit_of_forks.rlim_cur = (rlim_t)a;
        return -pthread_atfork(lower_limit, restore_limit, restore_limit);
}

/* One that the watcher cannot keep is there for a moment still. */
static void check_contexts(const struct client *client, pid_t watcher, unsigned n)
{
        CHECK_SOON(count_contexts(client->pid, watcher) == n, "the watcher has %u contexts instead of %u",
                   count_contexts(client->pid, watcher), n);
}

/*
 * A fork goes on although the watcher's table has no room for the child's context: the watcher gives up its spare
 * descriptor for that, and the daemon alone serves the child.
 */
static void descriptors(uid_t uid)
{
        struct client child, *parent;
        unsigned n_contexts;
        struct pair pair;
        pid_t watcher;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE | WP_NOTIFY);
        parent = &pair.clients[0];
        watcher = find_watcher(parent->pid);
        n_contexts = count_contexts(parent->pid, watcher);
        /* With room the watcher has the child's context, also when the child is gone. */
        client_fork(parent, &child);
        check_contexts(parent, watcher, ++n_contexts);
        client_stop_child(parent, &child);
        CHECK_OK(client_do(parent, limit_forks, lowest_free(parent->pid, watcher), 0, 0));
        client_fork(parent, &child);
        check_contexts(parent, watcher, n_contexts);
        CHECK_OK(client_do(&child, program_use, 0, 10, 0));
        pair_verify(&pair);
        CHECK_OK(client_do(parent, program_use_forks, 0, 10, 0));
        client_do(&child, program_verify, 0, 0, 0);
        client_stop_child(parent, &child);
        check_contexts(parent, watcher, n_contexts);
        pair_verify(&pair);
        pair_end(&pair);
}

static const struct harness_test tests[] = {
        HARNESS_USER(memory),          HARNESS_USER(descriptors),    HARNESS_BOTH(regions_per_client),
        HARNESS_USER(regions_at_once), HARNESS_USER(bytes_per_uid),  HARNESS_USER(clients_per_uid),
        HARNESS_USER(clients_at_all),  HARNESS_USER(pool_max_bytes),
};

HARNESS_MAIN(tests)
