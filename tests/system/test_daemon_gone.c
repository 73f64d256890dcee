/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Without a daemon, or once it is gone: programs go on, and their memory is right. */

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "system/pair.h"

#define N_PAGES  1024
#define NOTIFIED (WP_MERGE | WP_NOTIFY)

/* ------------------------------------------------------------------ no daemon */

static long check_unreachable(struct program *program, long a, long b, long c)
{
        struct wp_client *untouched = (struct wp_client *)program, *client = untouched;
        size_t n_fds = harness_count_fds(getpid());

        CHECK_ERROR(wp_connect((const char *)a, &client), ENOTCONN);
        CHECK(client == untouched, "a failure changed *ret_client");
        CHECK(strlen(wp_strerror_detail(NULL)) > 0, "there is no detail");
        /* A thread that was joined is to be seen for a moment still. */
        CHECK_SOON(harness_count_fds(getpid()) == n_fds && harness_count_threads(getpid()) == 1,
                   "something was left");
        CHECK(!wp_disconnect(NULL), "wp_disconnect(NULL) does not return NULL");
        return 0;
}

static void no_daemon(uid_t uid)
{
        static char nowhere[128], stale[128];
        struct service service;
        struct client client;

        service_start(&service, NULL);
        service_end(&service, SIGKILL);
        snprintf(nowhere, sizeof(nowhere), "%s/no.sock", harness_directory());
        snprintf(stale, sizeof(stale), "%s", service.client_path);
        client_start(&client, uid);
        client_do(&client, check_unreachable, (long)nowhere, 0, 0);
        client_do(&client, check_unreachable, (long)stale, 0, 0);
        client_stop(&client);
}

/* ------------------------------------------------------------------ the daemon ends */

static long check_calls(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];
        struct wp_region_stat stat;
        struct wp_region *region;
        char *memory = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        CHECK_ERROR(wp_register(program->wp, memory, PAGE_BYTES, WP_MERGE, &region), ENOTCONN);
        CHECK_ERROR(wp_region_stat(area->region, &stat), ENOTCONN);
        CHECK(strstr(wp_strerror_detail(program->wp), "intact"), "the detail is: %s",
              wp_strerror_detail(program->wp));
        /* What the library can do by itself it does. */
        CHECK_OK(wp_exclude(area->region, 0, PAGE_BYTES));
        CHECK_OK(wp_include(area->region, 0, PAGE_BYTES));
        program_check_area(area, "excluded without a daemon");
        munmap(memory, PAGE_BYTES);
        return 0;
}

/* Ends the connection and unmaps: then no thread and no descriptor is left. */
static long leave(struct program *program, long a, long b, long c)
{
        CHECK_OK(program_disconnect(program, true, 0, 0));
        program_check_area(&program->areas[a], "disconnected");
        program_use(program, a, 9, 0);
        program_unmap(program, a, 0, 0);
        CHECK_SOON(harness_count_threads(getpid()) == program->before.n_threads,
                   "the library's thread stays");
        CHECK_SOON(harness_count_fds(getpid()) == program->before.n_fds, "%zu descriptors instead of %zu",
                   harness_count_fds(getpid()), program->before.n_fds);
        return 0;
}

static void check_without_daemon(struct pair *pair)
{
        for (long i = 0; i < 2; i++) {
                const struct client *client = &pair->clients[i];

                client_do(client, program_verify, 0, 0, 0);
                CHECK_OK(client_do(client, program_await_event, WP_EVENT_DISCONNECTED, 0, 0));
                CHECK_OK(client_do(client, check_calls, 0, 0, 0));
                CHECK_OK(client_do(client, program_use, 0, i, 0));
                CHECK_OK(client_do(client, program_use_forks, 0, 4, 1));
                pair_verify(pair);
        }
}

static void leave_both(struct pair *pair)
{
        for (long i = 0; i < 2; i++)
                client_begin(&pair->clients[i], leave, 0, 0, 0);
        for (long i = 0; i < 2; i++) {
                CHECK_OK(client_finish(&pair->clients[i]));
                client_stop(&pair->clients[i]);
        }
}

static void kill_both(struct pair *pair)
{
        for (long i = 0; i < 2; i++)
                client_kill(&pair->clients[i]);
}

static void killed(uid_t uid)
{
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, NOTIFIED);
        service_end(&pair.service, SIGKILL);
        check_without_daemon(&pair);
        kill_both(&pair);
}

static void disconnected_later(uid_t uid)
{
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, NOTIFIED);
        service_end(&pair.service, SIGKILL);
        check_without_daemon(&pair);
        leave_both(&pair);
}

static void terminated(uid_t uid)
{
        struct pair pair;
        int status;

        pair_begin(&pair, uid, NULL, N_PAGES, NOTIFIED);
        CHECK_OK(error_from(kill(pair.service.pid, SIGTERM)));
        status = harness_reap(pair.service.pid);
        CHECK(WIFEXITED(status) && !WEXITSTATUS(status), "the daemon ended with status %#x",
              (unsigned)status);
        CHECK(!rmdir(pair.service.directory), "the daemon left a file in its directory: %m");
        check_without_daemon(&pair);
        kill_both(&pair);
}

static long write_all(struct program *program, long a, long b, long c)
{
        for (size_t page = 0; page < program->areas[a].n_pages; page++)
                program_store(program, a, (long)(page * PAGE_BYTES + 4000), 0);
        return 0;
}

/* While both write without a pause. */
static void killed_under_writes(uid_t uid)
{
        struct pair pair;

        for (int round = 0; round < 3; round++) {
                struct harness_patience patience = HARNESS_PATIENCE_INIT;

                pair_begin(&pair, uid, NULL, 4 * N_PAGES, NOTIFIED);
                for (long i = 0; i < 2; i++)
                        client_begin(&pair.clients[i], write_all, 0, 0, 0);
                for (int i = 0; i < round; i++)
                        harness_wait(&patience);
                service_end(&pair.service, SIGKILL);
                for (long i = 0; i < 2; i++)
                        CHECK_OK(client_finish(&pair.clients[i]));
                pair_verify(&pair);
                kill_both(&pair);
        }
}

/* A writer waits for a daemon that is stopped; when that is killed he goes on. */
static void killed_while_stopped(uid_t uid)
{
        struct harness_patience patience = HARNESS_PATIENCE_INIT;
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, NOTIFIED);
        CHECK_OK(error_from(kill(pair.service.pid, SIGSTOP)));
        client_begin(&pair.clients[0], write_all, 0, 0, 0);
        client_begin(&pair.clients[1], program_use_forks, 0, 3, 1);
        for (int i = 0; i < 20; i++)
                harness_wait(&patience);
        service_end(&pair.service, SIGKILL);
        for (long i = 0; i < 2; i++)
                CHECK_OK(client_finish(&pair.clients[i]));
        pair_verify(&pair);
        check_without_daemon(&pair);
        kill_both(&pair);
}

static uint64_t same(long program, uint64_t page)
{
        return page / 4 + 1;
}

/* In the middle of merging. */
static void killed_while_merging(uid_t uid)
{
        struct pair pair;

        for (int round = 0; round < 4; round++) {
                struct harness_patience patience = HARNESS_PATIENCE_INIT;

                pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
                for (long i = 0; i < 2; i++) {
                        CHECK_OK(client_do(&pair.clients[i], program_map, 1, 16 * N_PAGES, (long)same));
                        CHECK_OK(client_do(&pair.clients[i], program_register, 1, WP_MERGE, 0));
                }
                for (int i = 0; i < 6 + 3 * round; i++)
                        harness_wait(&patience);
                service_end(&pair.service, SIGKILL);
                for (long i = 0; i < 2; i++) {
                        client_do(&pair.clients[i], program_verify, 1, 0, 0);
                        CHECK_OK(client_do(&pair.clients[i], program_use, 0, 2, 0));
                        CHECK_OK(client_do(&pair.clients[i], write_all, 1, 0, 0));
                        client_do(&pair.clients[i], program_verify, 1, 0, 0);
                }
                pair_verify(&pair);
                kill_both(&pair);
        }
}

/* A child that was forked before the daemon ended, and outlives its parent's use of it. */
static void child_from_before(uid_t uid)
{
        struct client child;
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        client_fork(&pair.clients[0], &child);
        CHECK_OK(client_do(&child, program_use, 0, 1, 0));
        service_end(&pair.service, SIGKILL);
        CHECK_OK(client_do(&child, program_use, 0, 5, 0));
        CHECK_OK(client_do(&child, program_use_forks, 0, 3, 1));
        CHECK_OK(client_do(&pair.clients[0], program_use, 0, 5, 0));
        client_do(&child, program_verify, 0, 0, 0);
        pair_verify(&pair);
        kill_both(&pair);
        client_do(&child, program_verify, 0, 0, 0);
        client_stop(&child);
}

static const struct harness_test tests[] = {
        HARNESS_BOTH(no_daemon),
        HARNESS_BOTH(killed),
        HARNESS_USER(disconnected_later),
        HARNESS_USER(terminated),
        HARNESS_USER(killed_under_writes),
        HARNESS_USER(killed_while_stopped),
        HARNESS_USER(killed_while_merging),
        HARNESS_USER(child_from_before),
};

HARNESS_MAIN(tests)
