/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Merging and giving back on request: wp_merge(), wp_unmerge(). */

#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "system/program.h"
#include "system/service.h"

#define N_PAGES 2048
#define ZEROS   256 /* the last pages */

struct scene {
        struct service service;
        struct client clients[2];
};

static uint64_t content(long program, uint64_t page)
{
        return page < N_PAGES - ZEROS ? page + 1 : PAGE_OF_ZEROS;
}

static void begin(struct scene *scene, uid_t uid)
{
        service_start(&scene->service, NULL);
        /* One round comes when scanning is resumed, which protects, and the next, which reads, a minute later. */
        json_decref(service_call(&scene->service, "Pause", NULL));
        service_set(&scene->service, "sleep_max_millisecs", "60000");
        service_set(&scene->service, "sleep_millisecs", "60000");
        for (long i = 0; i < 2; i++) {
                client_start(&scene->clients[i], uid);
                client_name(&scene->clients[i], i);
                CHECK_OK(client_do(&scene->clients[i], program_connect, (long)scene->service.client_path, 0,
                                   0));
                CHECK_OK(client_do(&scene->clients[i], program_map, 0, N_PAGES, (long)content));
                CHECK_OK(client_do(&scene->clients[i], program_register, 0, WP_MERGE, 0));
        }
        json_decref(service_call(&scene->service, "Resume", NULL));
}

static void end(struct scene *scene)
{
        for (long i = 0; i < 2; i++) {
                client_do(&scene->clients[i], program_verify, 0, 0, 0);
                CHECK_OK(client_do(&scene->clients[i], program_unregister, 0, 0, 0));
                client_do(&scene->clients[i], program_verify, 0, 0, 0);
                CHECK_OK(client_do(&scene->clients[i], program_unmap, 0, 0, 0));
                CHECK_OK(client_do(&scene->clients[i], program_disconnect, 0, 0, 0));
                client_stop(&scene->clients[i]);
        }
        service_stop(&scene->service);
}

/* ------------------------------------------------------------------ the client's side: area 0, from page a on, b pages */

/* c: an offset in struct wp_merge_stat, of which the value is returned. */
static long merge(struct program *program, long a, long b, long c)
{
        struct wp_merge_stat stat;
        int r = wp_merge(program->areas[0].region, (size_t)a * PAGE_BYTES, (size_t)b * PAGE_BYTES, &stat);

        return r < 0 ? r : (long)*(uint64_t *)((char *)&stat + c);
}

static long unmerge(struct program *program, long a, long b, long c)
{
        return wp_unmerge(program->areas[0].region, (size_t)a * PAGE_BYTES, (size_t)b * PAGE_BYTES);
}

#define STAT(_member) ((long)offsetof(struct wp_merge_stat, _member))

static long merged(const struct client *client)
{
        return client_do(client, program_stat, 0, PROGRAM_STAT(pages_merged), 0);
}

/* ------------------------------------------------------------------ the tests */

/* The second who asks finds the pages of the first, and nothing else has to happen. */
static void at_once(uid_t uid)
{
        struct scene scene;

        begin(&scene, uid);
        CHECK(client_do(&scene.clients[0], merge, 0, N_PAGES, STAT(pages_merged)) == 0, "merged with nobody");
        CHECK(client_do(&scene.clients[0], merge, 0, N_PAGES, STAT(pages_examined)) == N_PAGES,
              "not all were examined");
        CHECK(client_do(&scene.clients[0], program_stat, 0, PROGRAM_STAT(pages_zero), 0) == ZEROS,
              "zeros were left");
        CHECK(client_do(&scene.clients[1], merge, 0, N_PAGES, STAT(pages_merged)) == N_PAGES - ZEROS,
              "not all were merged");
        CHECK(merged(&scene.clients[1]) == N_PAGES - ZEROS, "the answer came too early");
        CHECK_SOON(merged(&scene.clients[0]) == N_PAGES - ZEROS, "%ld pages", merged(&scene.clients[0]));
        CHECK(client_do(&scene.clients[1], merge, 0, N_PAGES, STAT(pages_merged)) == 0,
              "what is merged counts again");
        end(&scene);
}

/* Only the range, at its borders, too; what was written a moment ago is merged all the same. */
static void part(uid_t uid)
{
        struct scene scene;

        begin(&scene, uid);
        for (long i = 0; i < 2; i++) {
                CHECK_OK(client_do(&scene.clients[i], program_store, 0, 150 * (long)PAGE_BYTES, 0));
                CHECK(client_do(&scene.clients[i], merge, 100, 700, STAT(pages_merged)) == (i ? 700 : 0),
                      "client %ld", i);
        }
        CHECK(merged(&scene.clients[1]) == 700, "%ld pages", merged(&scene.clients[1]));
        CHECK_SOON(merged(&scene.clients[0]) == 700, "%ld pages", merged(&scene.clients[0]));
        CHECK_OK(client_do(&scene.clients[0], unmerge, 200, 100, 0));
        CHECK(merged(&scene.clients[0]) == 600, "%ld pages", merged(&scene.clients[0]));
        CHECK(client_do(&scene.clients[0], merge, 0, 1000, STAT(pages_merged)) == 100, "not merged again");
        end(&scene);
}

static long bad_calls_of(struct program *program, long a, long b, long c)
{
        struct wp_region *region = program->areas[0].region;

        CHECK_ERROR(wp_merge(region, 1, PAGE_BYTES, NULL), EINVAL);
        CHECK_ERROR(wp_merge(region, 0, 0, NULL), EINVAL);
        CHECK_ERROR(wp_merge(region, 0, (N_PAGES + 1) * PAGE_BYTES, NULL), EINVAL);
        CHECK_ERROR(wp_merge(NULL, 0, PAGE_BYTES, NULL), EINVAL);
        CHECK_ERROR(wp_unmerge(region, 0, PAGE_BYTES + 1), EINVAL);
        CHECK_OK(wp_merge(region, 0, PAGE_BYTES, NULL));
        CHECK_OK(wp_unmerge(region, 0, N_PAGES * PAGE_BYTES));
        CHECK_OK(wp_protect(region, 0, PAGE_BYTES, WP_WATCH));
        CHECK_ERROR(wp_unmerge(region, 0, 2 * PAGE_BYTES), EBUSY);
        CHECK_OK(wp_release(region, 0, PAGE_BYTES));
        return 0;
}

static void bad_calls(uid_t uid)
{
        struct scene scene;

        begin(&scene, uid);
        CHECK_OK(client_do(&scene.clients[0], bad_calls_of, 0, 0, 0));
        json_decref(service_call(&scene.service, "Pause", NULL));
        CHECK_ERROR(client_do(&scene.clients[0], merge, 0, 1, 0), EBUSY);
        json_decref(service_call(&scene.service, "Resume", NULL));
        CHECK_OK(client_do(&scene.clients[0], program_unregister, 0, 0, 0));
        CHECK_OK(client_do(&scene.clients[0], program_register, 0, 0, 0));
        CHECK_ERROR(client_do(&scene.clients[0], merge, 0, 1, 0), EINVAL);
        end(&scene);
}

/* Without a daemon nothing can be merged, but given back. */
static void without_daemon(uid_t uid)
{
        struct scene scene;

        begin(&scene, uid);
        for (long i = 0; i < 2; i++)
                CHECK_OK(MIN(client_do(&scene.clients[i], merge, 0, N_PAGES, 0), 0));
        service_end(&scene.service, SIGKILL);
        CHECK_ERROR(client_do(&scene.clients[0], merge, 0, N_PAGES, 0), ENOTCONN);
        CHECK_OK(client_do(&scene.clients[0], unmerge, 0, N_PAGES, 0));
        client_do(&scene.clients[0], program_verify, 0, 0, 0);
        service_restart(&scene.service);
        CHECK_SOON(service_figure(&scene.service, "regions") == 2, "not all are back");
        end(&scene);
}

/* Threads ask for overlapping ranges, give them back and write, all at once. */
struct crowd {
        struct program *program;
        _Atomic unsigned n_merged;
};

static void *crowd_main(void *argument)
{
        struct crowd *crowd = argument;
        struct wp_region *region = crowd->program->areas[0].region;
        unsigned state = (unsigned)gettid();

        for (unsigned i = 0; i < 60; i++) {
                struct wp_merge_stat stat = {.pages_merged = 0};
                size_t first, n;
                int r;

                state = state * 1103515245 + 12345;
                first = (state >> 8) % (N_PAGES - 1);
                n = 1 + (state >> 16) % (N_PAGES - first);
                r = i % 3 ? wp_merge(region, first * PAGE_BYTES, n * PAGE_BYTES, &stat)
                          : wp_unmerge(region, first * PAGE_BYTES, n * PAGE_BYTES);
                CHECK(r == 0 || r == -EBUSY, "%s", strerror(-r));
                atomic_fetch_add(&crowd->n_merged, (unsigned)stat.pages_merged);
        }
        return NULL;
}

static long ask_in_a_crowd(struct program *program, long a, long b, long c)
{
        struct crowd crowd = {.program = program};
        pthread_t threads[4];

        for (unsigned i = 0; i < ARRAY_SIZE(threads); i++)
                CHECK_OK(-pthread_create(&threads[i], NULL, crowd_main, &crowd));
        for (unsigned i = 0; i < ARRAY_SIZE(threads); i++)
                CHECK_OK(-pthread_join(threads[i], NULL));
        return atomic_load(&crowd.n_merged);
}

static void in_a_crowd(uid_t uid)
{
        struct scene scene;

        begin(&scene, uid);
        for (long i = 0; i < 2; i++)
                client_begin(&scene.clients[i], ask_in_a_crowd, 0, 0, 0);
        CHECK(client_finish(&scene.clients[0]) + client_finish(&scene.clients[1]) > 0, "nothing was merged");
        end(&scene);
}

/* ------------------------------------------------------------------ who shares */

static long address_of(struct program *program, long a, long b, long c)
{
        return (long)(program->areas[0].memory + (size_t)a * PAGE_BYTES);
}

/* How often this place is among the sharers of a page, or 0. */
static unsigned listed(const json_t *sharers, pid_t pid, long address)
{
        unsigned n = 0;

        for (size_t i = 0; i < json_array_size(sharers); i++)
                n += json_integer_value(json_object_get(json_array_get(sharers, i), "pid")) == pid &&
                     json_integer_value(json_object_get(json_array_get(sharers, i), "address")) == address;
        return n;
}

#define SHARED_PAGES 1000
#define SHARED_PAGE  77

/* Merges the first pages of both; *addresses: of one of them. */
static void begin_sharing(struct scene *scene, uid_t uid, long *addresses)
{
        begin(scene, uid);
        for (long i = 0; i < 2; i++) {
                CHECK_OK(MIN(client_do(&scene->clients[i], merge, 0, SHARED_PAGES, 0), 0));
                addresses[i] = client_do(&scene->clients[i], address_of, SHARED_PAGE, 0, 0);
        }
        CHECK_SOON(merged(&scene->clients[0]) == SHARED_PAGES, "%ld pages", merged(&scene->clients[0]));
}

static json_t *sharers_at(const struct scene *scene, const struct client *client, long address)
{
        return service_call(&scene->service, "Sharers",
                            json_pack("{s:i, s:I}", "pid", (int)client->pid, "address", (json_int_t)address));
}

/* Asked for a page of this client there are so many sharers, and this place is among them, or not. */
static void check_sharers(const struct scene *scene, const struct client *client, long address, size_t n,
                          pid_t pid, long other_address, bool expected)
{
        json_t *reply = sharers_at(scene, client, address);
        const json_t *rows = json_object_get(reply, "sharers");

        CHECK(json_is_true(json_object_get(reply, "complete")), "somebody was left out");
        CHECK(json_array_size(rows) == n, "%zu sharers instead of %zu", json_array_size(rows), n);
        CHECK(listed(rows, pid, other_address) == expected, "process %d", pid);
        json_decref(reply);
}

/* A page that is merged: both processes have it, at their own addresses. One that is not. */
static void sharers(uid_t uid)
{
        long addresses[2];
        struct scene scene;
        json_t *reply;

        begin_sharing(&scene, uid, addresses);
        for (long i = 0; i < 2; i++)
                check_sharers(&scene, &scene.clients[0], addresses[0] + 9, 2, scene.clients[i].pid,
                              addresses[i], true);
        reply = sharers_at(&scene, &scene.clients[0], addresses[0]);
        CHECK(!strcmp(json_string_value(json_object_get(reply, "state")), "merged"),
              "the page is not merged");
        json_decref(reply);
        reply = sharers_at(&scene, &scene.clients[0], client_do(&scene.clients[0], address_of, 1500, 0, 0));
        CHECK(json_array_size(json_object_get(reply, "sharers")) == 0,
              "a page that is not merged has sharers");
        json_decref(reply);
        end(&scene);
}

/* What wpd last saw is not what counts: who has written the page has no part in it, although no scan was made since. */
static void sharers_that_wrote(uid_t uid)
{
        long addresses[2];
        struct scene scene;
        json_t *reply;

        begin_sharing(&scene, uid, addresses);
        CHECK_OK(client_do(&scene.clients[1], program_store, 0, SHARED_PAGE * (long)PAGE_BYTES + 5, 0));
        check_sharers(&scene, &scene.clients[0], addresses[0], 1, scene.clients[1].pid, addresses[1], false);
        check_sharers(&scene, &scene.clients[0], addresses[0] + (long)PAGE_BYTES, 2, scene.clients[1].pid,
                      addresses[1] + (long)PAGE_BYTES, true);
        CHECK_OK(client_do(&scene.clients[0], program_discard, 0, SHARED_PAGE, 1));
        reply = sharers_at(&scene, &scene.clients[0], addresses[0]);
        CHECK(json_array_size(json_object_get(reply, "sharers")) == 0, "a page that is gone has sharers");
        json_decref(reply);
        end(&scene);
}

static bool is_client(const json_t *reply, pid_t pid)
{
        const json_t *rows = json_object_get(reply, "sharers");

        for (size_t i = 0; i < json_array_size(rows); i++)
                if (json_integer_value(json_object_get(json_array_get(rows, i), "pid")) == pid)
                        return json_is_true(json_object_get(json_array_get(rows, i), "client"));
        CHECK(false, "process %d is not listed", pid);
}

/* A forked child shares what its parent does until it writes, and so does a child of it. */
static void sharers_that_were_forked(uid_t uid)
{
        struct client child, grandchild;
        const struct client *parent;
        long addresses[2];
        struct scene scene;
        json_t *reply;

        begin_sharing(&scene, uid, addresses);
        parent = &scene.clients[0];
        client_fork(parent, &child);
        check_sharers(&scene, parent, addresses[0], 3, child.pid, addresses[0], true);
        client_fork(&child, &grandchild);
        check_sharers(&scene, &scene.clients[1], addresses[1], 4, grandchild.pid, addresses[0], true);
        reply = sharers_at(&scene, parent, addresses[0]);
        CHECK(is_client(reply, parent->pid) && is_client(reply, scene.clients[1].pid) &&
                      !is_client(reply, child.pid) && !is_client(reply, grandchild.pid),
              "clients and children are not told apart");
        json_decref(reply);
        CHECK_OK(client_do(&child, program_store, 0, SHARED_PAGE * (long)PAGE_BYTES, 0));
        check_sharers(&scene, parent, addresses[0], 3, child.pid, addresses[0], false);
        check_sharers(&scene, parent, addresses[0] + (long)PAGE_BYTES, 4, child.pid,
                      addresses[0] + (long)PAGE_BYTES, true);
        client_stop_child(&child, &grandchild);
        check_sharers(&scene, parent, addresses[0], 2, grandchild.pid, addresses[0], false);
        client_stop_child(parent, &child);
        check_sharers(&scene, parent, addresses[0] + (long)PAGE_BYTES, 2, child.pid,
                      addresses[0] + (long)PAGE_BYTES, false);
        end(&scene);
}

static long sharers_seen_by(struct program *program, long a, long b, long c)
{
        char error[64];
        json_t *reply = service_ask((const char *)a, "Sharers",
                                    json_pack("{s:i, s:I}", "pid", (int)b, "address", (json_int_t)c), error);
        long n = reply ? (long)json_array_size(json_object_get(reply, "sharers"))
                 : !strcmp(error, "PermissionDenied") ? -EACCES
                                                      : -EIO;

        CHECK(!reply || json_is_true(json_object_get(reply, "complete")), "somebody was left out");
        json_decref(reply);
        return n;
}

static long hide_from_user(struct program *program, long a, long b, long c)
{
        return prctl(PR_SET_DUMPABLE, 0) < 0 ? -errno : 0;
}

/* Each user sees processes of his own; root all, and those, too, that the kernel keeps from their user. */
static void sharers_of_users(uid_t uid)
{
        struct client child, root;
        long addresses[2], path;
        struct scene scene;

        begin_sharing(&scene, uid, addresses);
        path = (long)scene.service.control_path;
        client_start(&root, 0);
        client_fork(&scene.clients[0], &child);
        CHECK(client_do(&root, sharers_seen_by, path, scene.clients[0].pid, addresses[0]) == 3, "root");
        CHECK(client_do(&child, sharers_seen_by, path, scene.clients[0].pid, addresses[0]) == 3, "the owner");
        CHECK_OK(client_do(&child, hide_from_user, 0, 0, 0));
        CHECK(client_do(&root, sharers_seen_by, path, scene.clients[0].pid, addresses[0]) == 3, "root");
        CHECK(client_do(&scene.clients[1], sharers_seen_by, path, scene.clients[0].pid, addresses[0]) == 2,
              "the owner");
        client_stop_child(&scene.clients[0], &child);
        client_stop(&root);
        client_start(&root, uid - 1);
        CHECK_ERROR(client_do(&root, sharers_seen_by, path, scene.clients[0].pid, addresses[0]), EACCES);
        client_stop(&root);
        end(&scene);
}

/* The helper is stopped: who waits holds nobody up, may leave, and is not missed; and when it is gone, that is said. */
static void sharers_without_helper(uid_t uid)
{
        struct client asker;
        long addresses[2];
        struct scene scene;
        pid_t helper;

        begin_sharing(&scene, uid, addresses);
        helper = service_helper(&scene.service);
        CHECK_OK(error_from(kill(helper, SIGSTOP)));
        for (unsigned i = 0; i < 2; i++) {
                client_start(&asker, uid);
                client_begin(&asker, sharers_seen_by, (long)scene.service.control_path, scene.clients[0].pid,
                             addresses[0]);
                service_scan(&scene.service);
                client_kill(&asker);
        }
        CHECK_OK(error_from(kill(helper, SIGCONT)));
        check_sharers(&scene, &scene.clients[0], addresses[0], 2, scene.clients[1].pid, addresses[1], true);
        CHECK_OK(error_from(kill(helper, SIGKILL)));
        CHECK_SOON(service_log_lines("the helper has ended") == 1, "it is not missed");
        CHECK(!service_ask(scene.service.control_path, "Sharers",
                           json_pack("{s:i, s:I}", "pid", (int)scene.clients[0].pid, "address",
                                     (json_int_t)addresses[0]),
                           (char[64]){""}),
              "an answer from nobody");
        service_scan(&scene.service);
        end(&scene);
}

static const struct harness_test tests[] = {
        HARNESS_BOTH(at_once),
        HARNESS_USER(part),
        HARNESS_USER(bad_calls),
        HARNESS_USER(without_daemon),
        HARNESS_USER(in_a_crowd),
        HARNESS_BOTH(sharers),
        HARNESS_USER(sharers_that_wrote),
        HARNESS_BOTH(sharers_that_were_forked),
        HARNESS_USER(sharers_of_users),
        HARNESS_USER(sharers_without_helper),
};

HARNESS_MAIN(tests)
